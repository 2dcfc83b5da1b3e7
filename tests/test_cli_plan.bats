# shellcheck disable=SC2016,SC2034 # single quotes hold Perl; JSON_BEFORE is read by json
# megatune probe and plan: a machine file that plan accepts, and the contract of plan's JSON.

load cli_support

setup() {
	start_here
	MACHINES=$ROOT/tests/data/machines
}

# planned GPUS GBS: $OUT is a plan as documented, and accounts for every layout of GPUS devices and GBS sequences
planned() {
	check 'is_text($d->{model}{name}) && is_text($d->{machine}{name}) && is_count($d->{gpus}) && is_count($d->{searched})' "$OUT"
	check 'is_number($d->{seconds}) && ref $d->{rejected} eq "HASH" && !grep { !is_count($_) } values %{$d->{rejected}}' "$OUT"
	check '@{$d->{candidates}} == $d->{searched} && $d->{searched} > 0' "$OUT"
	check '!grep { our $c = $_; grep { !is_count($c->{$_}) } qw(rank tp pp vp cp ep dp mbs gbs zero) } @{$d->{candidates}}' "$OUT"
	check '!grep { our $c = $_; grep { !is_number($c->{$_}) || !($c->{$_} > 0) }
		qw(step_time_s step_time_lo_s step_time_hi_s tflops_per_gpu) } @{$d->{candidates}}' "$OUT"
	check '!grep { !($_->{step_time_lo_s} <= $_->{step_time_s} && $_->{step_time_s} <= $_->{step_time_hi_s}) } @{$d->{candidates}}' "$OUT"
	check '!grep { defined $_->{mfu_frac} && !is_number($_->{mfu_frac}) || !exists $_->{mfu_frac} } @{$d->{candidates}}' "$OUT"
	check '!grep { !is_bool($_->{sp}) || !is_text($_->{recompute}) || !is_text($_->{schedule}) } @{$d->{candidates}}' "$OUT"
	check '!grep { @{$_->{memory_bytes}} != $_->{pp} || grep { !is_count($_) } @{$_->{memory_bytes}} } @{$d->{candidates}}' "$OUT"
	check "!grep { \$_->{tp} * \$_->{pp} * \$_->{dp} * \$_->{cp} != $1 || \$_->{gbs} != $2 } @{\$d->{candidates}}" "$OUT"
	check 'join(",", map { $_->{rank} } @{$d->{candidates}}) eq join(",", 1 .. $d->{searched})' "$OUT"
	check "\$d->{gpus} == $1 && sum(values %{\$d->{rejected}}) + \$d->{searched} == considered($1, $2, \$d->{candidates})" "$OUT"
}

# The layouts there are: every tp * pp * dp = GPUS, micro-batches that divide a data-parallel rank's batch (one where none
# does), none, selective and full recompute, sequence parallelism with tp > 1, sharding with dp > 1; once for each number of threads.
JSON_BEFORE='sub considered { my ($gpus, $gbs, $candidates) = @_; my ($n, %threads) = (0); $threads{$_->{threads}} = 1 for @$candidates;
	for my $tp (grep { $gpus % $_ == 0 } 1 .. $gpus) { for my $pp (grep { $gpus / $tp % $_ == 0 } 1 .. $gpus / $tp) {
		my $dp = $gpus / $tp / $pp;
		my $batches = $gbs % $dp ? 1 : grep { $gbs % ($dp * $_) == 0 } 1 .. $gbs;
		$n += $batches * ($tp > 1 ? 2 : 1) * ($dp > 1 ? 2 : 1) * 3; } }
	return $n * keys %threads; } '

@test "probe of one rank writes a machine file that plan accepts" {
	attempt megatune probe --budget_s 1 --out machine.yaml
	finished
	[ "$(wc -L <"$OUT")" -le 80 ]
	attempt megatune plan gpt-tiny --machine machine.yaml --gpus 1 --gbs 4 --json
	finished
	planned 1 4
	check '$d->{machine}{peak_tflops} > 0 && is_number($d->{candidates}[0]{mfu_frac})' "$OUT"
}

@test "probe of two ranks measures pairs and collectives, and plan uses them" {
	ranks 2
	attempt "${MPIRUN[@]}" megatune probe --budget-s 1 --most-bytes 64Ki --out machine.yaml --json
	finished
	check '$d->{ranks} == 2 && $d->{hosts} == 1 && $d->{file} eq "machine.yaml" && is_text($d->{fingerprint})' "$OUT"
	check '@{$d->{pair_classes}} == 1 && $d->{pair_classes}[0]{bandwidth_gbps} > 0' "$OUT"
	attempt megatune plan gpt-tiny --machine machine.yaml --gbs 4 --json
	finished
	planned 2 4
	check '@{$d->{machine}{curves}} > 3 && @{$d->{machine}{pair_classes}} == 1' "$OUT"
}

@test "a balanced cut counts embedding and head, and is listed where it is faster" {
	attempt megatune plan gpt2-124m --gpus 4 --tp 1 --pp 2,4 --mbs 1 --zero 0 --recompute none --stage-layers balanced --json
	finished
	check 'our @cut = grep { $_->{stage_layers} } @{$d->{candidates}}; @cut == 2 && !grep { $_->{pp} == 4 &&
		!($_->{stage_layers} =~ /^(\d+).*?(\d+)$/ && $1 > $2) } @cut' "$OUT"
	check 'our %s; $s{$_->{pp}}{$_->{stage_layers} ? 1 : 0} = $_->{step_time_s} for @{$d->{candidates}};
		!grep { !($_->{1} < $_->{0}) } values %s' "$OUT"
	attempt megatune plan gpt2-124m --gpus 4 --tp 1 --pp 2,4 --mbs 1 --zero 0 --recompute none --json
	finished
	check '!grep { $_->{stage_layers} } @{$d->{candidates}}' "$OUT"
}

@test "plan without a machine file warns that its rates are guesses, and writes its results" {
	attempt megatune plan gpt-tiny --gpus 4 --out results --json
	finished
	grep -q '^warning: no machine was measured here' "$ERR"
	planned 4 8
	check '!grep { ($_->{rank} <= 100) != (@{$_->{memory_parts} || []} == $_->{pp}) } @{$d->{candidates}}' "$OUT"
	[ -s results/report.html ] && [ -s results/run.yaml ]
	check '$d->{command} eq "plan" && $d->{status} eq "done"' results/result.json
	attempt megatune plan gpt-tiny --gpus 4 --out results
	finished
	[ "$(wc -L <"$OUT")" -le 80 ]
}

@test "uneven stages are planned: three ranks, eight layers" {
	attempt megatune plan gpt-tiny --gpus 3 --no-report --json
	finished
	planned 3 8
	check 'grep { $_->{pp} == 3 } @{$d->{candidates}}' "$OUT"
	[ ! -e tuned/report.html ]
}

@test "a model is a name, a YAML file or a config.json of Hugging Face" {
	printf 'model: {name: small, layers: 2, hidden: 32, heads: 4, vocab: 300, seq: 32}\n' >"$GIVEN/small.yaml"
	attempt megatune plan "$GIVEN/small.yaml" --no-report --json
	finished
	check '$d->{model}{name} eq "small" && $d->{model}{layers} == 2 && $d->{model}{ffn} == 128' "$OUT"
	mkdir "$GIVEN/hf"
	cat >"$GIVEN/hf/config.json" <<-'END'
		{"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
		 "intermediate_size": 128, "vocab_size": 1000, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "hidden_act": "silu"}
	END
	attempt megatune plan "$GIVEN/hf/config.json" --no-report --json
	finished
	check '$d->{model}{layers} == 4 && $d->{model}{kv_heads} == 2 && $d->{model}{norm} eq "rmsnorm"' "$OUT"
	attempt megatune plan "$GIVEN/hf" --no-report --json
	finished
	check '$d->{model}{hidden} == 64' "$OUT"
}

@test "every model among the examples is planned" {
	local model
	for model in "$ROOT"/examples/models/*.yaml; do
		attempt megatune plan "$model" --machine "$MACHINES/racks-64.yaml" --gpus 16 --gbs 16 --dry-runs 1 --no-report --json
		# the largest need more memory than sixteen ranks of that machine have
		if [ "$status" -eq 2 ]; then
			grep -q "fit the memory of a rank" "$ERR"
		else
			finished
			grep -q '^  "searched": [1-9]' "$OUT" # whole documents are read by Perl elsewhere, which takes a second each
		fi
	done
}

@test "a large model on many devices is planned from a machine file" {
	attempt megatune plan llama3-8b --gpus 16 --machine "$MACHINES/racks-64.yaml" --no-report --json
	finished
	planned 16 8
	check '$d->{rejected}{kv_heads_divisible_by_tp} > 0 && is_text($d->{rejected_text}{kv_heads_divisible_by_tp})' "$OUT"
	check '!grep { our $c = $_; grep { $_ > $d->{memory_limit_bytes} } @{$c->{resident_bytes}} } @{$d->{candidates}}' "$OUT"
}

@test "a layout that is the best only where its ranks are placed is found" {
	plan_on() { # MACHINE OUTPUT
		attempt megatune plan "$ROOT/tests/data/cluster-model.yaml" --machine "$1" --gpus 8 --gbs 64 --seq 512 --threads 4 --out "$2" --no-report --json
		finished
	}
	plan_on "$MACHINES/racks-8-shuffled.yaml" shuffled
	# as launched another layout is the fastest
	check 'my $c = $d->{candidates}[0]; grep { ($_->{launcher_step_time_s} // $_->{step_time_s}) < 0.5 * $c->{launcher_step_time_s} } @{$d->{candidates}}' "$OUT"
	check '!grep { ($_->{launcher_step_time_s} // $_->{step_time_s}) < $d->{placement}{step_s} } @{$d->{candidates}}' "$OUT"
	check 'my $p = $d->{placement}; $p->{step_s} == $d->{candidates}[0]{step_time_s} && $p->{step_s} < 0.5 * $p->{launcher_step_s} && $p->{placed_s} < $p->{launcher_s}' "$OUT"
	grep -qF "rank_order: \"$(json '$d->{placement}{rank_order}' "$OUT")\"" shuffled/run.yaml
	shuffled=$(json 'my $c = $d->{candidates}[0]; join " ", @{$c}{qw(tp pp dp mbs step_time_s)}' "$OUT")
	# the same machine with its ranks host by host: the same choice, as fast
	sed -e 's/^rank_host: .*/rank_host: [0, 0, 1, 1, 2, 2, 3, 3]/' \
		-e 's/^pair_class: .*/pair_class: [".0112222", "0.112222", "11.02222", "110.2222", "2222.011", "22220.11", "222211.0", "2222110."]/' \
		"$MACHINES/racks-8-shuffled.yaml" >"$GIVEN/in-order.yaml"
	plan_on "$GIVEN/in-order.yaml" in-order
	[ "$(json 'my $c = $d->{candidates}[0]; join " ", @{$c}{qw(tp pp dp mbs step_time_s)}' "$OUT")" = "$shuffled" ]
	attempt megatune plan "$ROOT/tests/data/cluster-model.yaml" --machine "$MACHINES/racks-8-shuffled.yaml" --gpus 8 --gbs 64 --seq 512 --threads 4 --no-report
	finished
	grep -q 'placed [0-7,]*; predicted [0-9.]*% less' "$OUT"
}

@test "a placed run is rehearsed where its ranks are" {
	ranks 8
	attempt megatune plan "$ROOT/tests/data/cluster-model.yaml" --machine "$MACHINES/racks-8-shuffled.yaml" --gpus 8 --gbs 64 --seq 512 \
		--threads 4 --out placed --no-report --json
	finished
	local placed launched
	placed=$(json '$d->{placement}{step_s}' "$OUT") launched=$(json '$d->{placement}{launcher_step_s}' "$OUT")
	rehearsal() { # RUN.yaml SECONDS: of a step, by the plan
		attempt "${MPIRUN[@]}" megatune rehearse "$1" --machine "$MACHINES/racks-8-shuffled.yaml" --step_wall_s 0 --json
		finished
		check 'my $s = '"$2"'; $d->{memory_equal} && abs($d->{error_frac}) < 0.02 && abs($d->{dry_step_s} / $s - 1) < 0.01' "$OUT"
	}
	rehearsal placed/run.yaml "$placed"
	grep -v rank_order placed/run.yaml >launched.yaml
	rehearsal launched.yaml "$launched"
}

@test "the run file of a plan trains" {
	attempt megatune plan gpt-tiny --gpus 1 --gbs 4 --seq 32
	finished
	attempt megatune train tuned/run.yaml --steps 2
	finished
	[ "$(grep -c '^step' "$OUT")" -eq 2 ]
}

@test "report makes the page again from a result" {
	attempt megatune plan gpt-tiny --out results
	finished
	rm -r results/report.html results/figures
	attempt megatune report results/result.json
	finished
	[ -s results/report.html ]
	[ "$(wc -L <"$OUT")" -le 80 ]
	attempt megatune report results/result.json --out again --json
	finished
	check '$d->{schema} == 1' "$OUT"
	[ -s again/report.html ]
}
