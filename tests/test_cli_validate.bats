# shellcheck disable=SC2016 # single quotes hold Perl
# validate and calibrate: predictions against tables of measured runs.

load cli_support

setup() {
	start_here
	RUNS=$ROOT/tests/data/runs
}

@test "validate prints the documented document" {
	attempt megatune validate "$RUNS/sample.csv" --json
	finished
	check 'join(",", sort keys %$d) eq "bias_frac,coverage_frac,groups,mape_frac,median_ape_frac,p90_ape_frac,predicted,runs,skipped"' "$OUT"
	check '$d->{runs} == $d->{predicted} + @{$d->{skipped}}' "$OUT"
	check 'join(",", sort keys %{$d->{groups}[0]}) eq "bias_frac,group,mape_frac,regret_3_frac,regret_frac,runs,spearman"' "$OUT"
	check '!grep { !$_->{why} } @{$d->{skipped}}' "$OUT"
}

@test "a cell that is no number is told by its column, and other rows are predicted" {
	sed -E '2s/,[0-9.]+,dgxc/,nan,dgxc/; 3s/,64,8,llama/,sixty,8,llama/' "$RUNS/sample.csv" >"$GIVEN/cells.csv"
	attempt megatune validate "$GIVEN/cells.csv" --json
	finished
	check '$d->{skipped}[0]{why} eq "step_time_s \x27nan\x27 is not a number of 0 or more"' "$OUT"
	check '$d->{skipped}[1]{why} eq "gpus \x27sixty\x27 is not a number of 0 or more"' "$OUT"
	check '$d->{predicted} > 30' "$OUT"
}

# set_cells "COLUMN=VALUE...": the sample's first row with these cells
set_cells() {
	head -2 "$RUNS/sample.csv" | CELLS=$1 perl -lne '
		@cells = split /,/, $_, -1;
		@column{@cells} = 0 .. $#cells, next if $. == 1;
		$cells[$column{$1}] = $2 while $ENV{CELLS} =~ /(\w+)=(\S*)/g;
		print join ",", @cells;
	'
}

@test "a row that no run can have had is skipped by its column" {
	local -a cases=( # cells, what is said of them
		"precision=int3|precision 'int3' is none of mxfp8 fp8 fp4 bf16 fp16"
		"precision=fp4|precision 'fp4': h100-80g-sxm has no such products"
		"recompute=xyz|recompute 'xyz' is none of none selective full"
		"attention=zzz|attention 'zzz' is none of unfused flash fused no"
		"zero_stage=9|zero_stage '9' is more than 3"
		"sp=2|sp '2' is more than 1"
		"layers=32.5|layers '32.5' is not a whole number"
		"gbs=127|gbs 127 is no multiple of dp 4 * mbs 1"
		"kv_heads=64|kv_heads 64 does not divide heads 32"
		"kv_heads=0|kv_heads 0 does not divide heads 32"
		"arch=mixtral experts=8 topk=9|topk 9 is more than experts 8"
		"arch=mixtral experts=8 topk=2 ep=3|ep 3 does not divide experts 8"
	)

	for i in "${cases[@]}"; do
		set_cells "${i%%|*}"
	done | { head -1 "$RUNS/sample.csv" && cat; } >"$GIVEN/faults.csv"
	attempt megatune validate "$GIVEN/faults.csv" --json
	for i in "${!cases[@]}"; do
		[ "$(json "\$d->{skipped}[$i]{why}" "$OUT")" = "${cases[i]#*|}" ]
	done
	check "\$d->{predicted} == 0 && \$d->{runs} == ${#cases[@]}" "$OUT"
}

@test "words and numbers that runs have are predicted, a head size of its own too" {
	{
		head -1 "$RUNS/sample.csv"
		for cells in precision=fp16 precision=FP8-cs precision=mxfp8 precision= recompute=full recompute=selective recompute= \
			attention=no attention= zero_stage=0 zero_stage=3.0 zero_stage= layers=32.0 "arch=qwen3 hidden=2560 heads=24 kv_heads=8" \
			"heads=96 hidden=5120 kv_heads=8"; do
			set_cells "$cells"
		done
	} >"$GIVEN/words.csv"
	attempt megatune validate "$GIVEN/words.csv" --json
	finished
	check '$d->{predicted} == 15 && !@{$d->{skipped}}' "$OUT"
}

# choices MBS...: a table of one choice: layouts that took 20 s, of these micro-batches, and one, said to be slower, that took 10 s.
choices() {
	head -1 "$RUNS/sample.csv"
	for mbs; do
		sed -n "/^vtrain-m-39.1-g512-t8d32p2/s/,32,4,1536,/,32,$mbs,1536,/p" "$RUNS/sample.csv" | sed 's/,14.7573,/,20,/'
	done
	sed -n '/^vtrain-m-39.1-g512-t2d32p8/s/,23.0629,/,10,/p' "$RUNS/sample.csv"
}

@test "regret is of the layout said to be fastest, and of the best of three" {
	choices 2 4 >"$GIVEN/three.csv"
	attempt megatune validate "$GIVEN/three.csv" --json
	finished
	check '$d->{groups}[0]{regret_frac} == 1 && $d->{groups}[0]{regret_3_frac} == 0' "$OUT"
	choices 2 4 6 >"$GIVEN/four.csv"
	attempt megatune validate "$GIVEN/four.csv" --json
	finished
	check '$d->{groups}[0]{regret_frac} == 1 && $d->{groups}[0]{regret_3_frac} == 1' "$OUT"
}

@test "calibrate writes a file that makes the same runs nearer" {
	attempt megatune validate "$RUNS/sample.csv" --json
	finished
	cp "$OUT" "$GIVEN/before.json"
	attempt megatune calibrate "$RUNS/sample.csv" --bootstrap 2 --out fit.yaml
	finished
	grep -q '^calibration:' fit.yaml
	attempt megatune validate "$RUNS/sample.csv" --calibrate fit.yaml --json
	finished
	before=$(json '$d->{mape_frac}' "$GIVEN/before.json")
	check "\$d->{mape_frac} < $before" "$OUT"
	cp "$OUT" "$GIVEN/file.json"
	attempt megatune validate "$RUNS/sample.csv" --calibrate "$RUNS/sample.csv" --json
	finished
	check "abs(\$d->{mape_frac} - $(json '$d->{mape_frac}' "$GIVEN/file.json")) < 1e-4" "$OUT"
}

@test "cross-validation does not depend on the order of the rows" {
	attempt megatune validate "$RUNS/sample.csv" --folds 3 --json
	finished
	cp "$OUT" "$GIVEN/one.json"
	(head -1 "$RUNS/sample.csv" && tail -n +2 "$RUNS/sample.csv" | tac) >"$GIVEN/turned.csv"
	attempt megatune validate "$GIVEN/turned.csv" --folds 3 --json
	finished
	check "abs(\$d->{mape_frac} - $(json '$d->{mape_frac}' "$GIVEN/one.json")) < 1e-4" "$OUT"
}

# Three runs alike but for what their notes say of options.
@test "options of one software are stacks that count as one" {
	local run=8,8,32,4096,32,8,14336,8192,128256,1,1,1,8,2,16,2.5,pytorch/torchtitan,h100-80g-sxm,bf16
	{
		echo id,notes,gpus,gpus_per_node,layers,hidden,heads,kv_heads,ffn,seq,vocab,tp,pp,cp,dp,mbs,gbs,step_time_s,source_repo,hardware,precision
		echo "compiled,compile,$run"
		echo "eager,eager,$run"
		echo "rowwise,fp8-rowwise vanillaTP,${run%bf16}fp8"
	} >"$GIVEN/options.csv"
	attempt megatune validate "$GIVEN/options.csv" --rows "$GIVEN/rows.csv"
	finished
	[ "$(grep -c 'sxm + ' "$OUT")" = 1 ]
	grep -q 'h100-80g-sxm + torchtitan-fsdp2  *3 ' "$OUT"
	[ "$(tail -n +2 "$GIVEN/rows.csv" | cut -d, -f4 | tr '\n' ' ')" = "torchtitan-fsdp2 torchtitan-eager torchtitan-rowwise " ]
	[ "$(cut -d, -f6 "$GIVEN/rows.csv" | sort -u | wc -l)" = 4 ]
}

@test "nothing predicted is inconclusive, and both forms are printed" {
	head -1 "$RUNS/sample.csv" >"$GIVEN/none.csv"
	{ cat "$GIVEN/none.csv"; set_cells precision=int3; set_cells precision=int3; set_cells layers=; } >"$GIVEN/skipped.csv"
	for table in none skipped; do
		for more in "" --json "--folds 2"; do
			# shellcheck disable=SC2086 # words
			attempt megatune validate "$GIVEN/$table.csv" $more
			[ "$status" -eq 3 ]
			[ "$(grep -c error: "$ERR")" = 1 ]
			grep -q 'can be predicted' "$ERR"
			[ -s "$OUT" ]
		done
	done
	attempt megatune validate "$GIVEN/skipped.csv" --json
	check '$d->{runs} == 3 && $d->{predicted} == 0 && @{$d->{skipped}} == 3' "$OUT"
}

@test "the text tells the most frequent reasons of skipped rows, in 80 columns" {
	{
		head -2 "$RUNS/sample.csv"
		for cells in precision=int3 layers= layers= tp=1.5 pp=1.5 cp=1.5 dp=1.5 arch=$'\e[1m'; do set_cells "$cells"; done
		set_cells recompute="$(printf 'é%.0s' {1..60})"
		set_cells recompute=$'\e[1m'
	} >"$GIVEN/reasons.csv"
	attempt megatune validate "$GIVEN/reasons.csv"
	finished
	grep -A1 '^  9 of 11 rows skipped:$' "$OUT" | tail -1 | grep -qx ' *2  the model is incomplete: needs layers, hidden, heads, ffn, vocab, seq'
	[ "$(sed '1,/rows skipped/d' "$OUT" | wc -l)" = 6 ]
	tail -1 "$OUT" | grep -qx ' *3  for 3 other reasons; --json tells each'
	narrow "$OUT"
	{ head -1 "$RUNS/sample.csv"; set_cells recompute=$'\e[1m'; set_cells recompute="$(printf 'é%.0s' {1..60})"; } >"$GIVEN/odd.csv"
	attempt megatune validate "$GIVEN/odd.csv"
	grep -qF "recompute '?[1m' is none of none selective full" "$OUT"
	narrow "$OUT"
	perl -MEncode -0777 -ne 'decode("UTF-8", $_, Encode::FB_CROAK)' "$OUT"
}

# narrow FILE: no line is longer than 80 columns
narrow() {
	! grep -nE '^.{81,}' "$1"
}

@test "text is 80 columns wide" {
	for table in sample published korthikanti; do
		attempt megatune validate "$RUNS/$table.csv"
		finished
		narrow "$OUT"
	done
	grep -q '^  all  *8 ' "$OUT"
	attempt megatune calibrate "$RUNS/sample.csv" --bootstrap 0
	finished
	narrow "$OUT"
}

@test "folds are two or more, and by run only where there are folds" {
	attempt megatune validate "$RUNS/sample.csv" --folds 1
	refused "--folds 1"
	attempt megatune validate "$RUNS/sample.csv" --by-run
	refused "--by-run"
	attempt megatune validate "$RUNS/sample.csv" --folds 2 --by-run --json
	finished
	attempt megatune calibrate "$RUNS/sample.csv" --folds 1
	refused "folds"
}

@test "bad tables, maps and calibrations are refused" {
	attempt megatune validate no.csv
	refused "no.csv"
	printf 'id,gpus\na,8,9\n' >"$GIVEN/wide.csv"
	attempt megatune validate "$GIVEN/wide.csv"
	refused "wide.csv:2"
	printf 'id,gpus\na,8\n' >"$GIVEN/few.csv"
	attempt megatune validate "$GIVEN/few.csv"
	refused "no column"
	printf 'map:\n  - {hardwar: x, machine: b200}\n' >"$GIVEN/map.yaml"
	attempt megatune validate "$RUNS/sample.csv" --machine-map "$GIVEN/map.yaml"
	refused "hardwar"
	attempt megatune validate "$RUNS/sample.csv" --machine nothing
	refused "nothing"
	attempt megatune validate "$RUNS/sample.csv" --calibrate "$GIVEN/map.yaml"
	refused "calibration"
}

@test "interleaved stages choose the options of a release" {
	{
		echo 'id,source_repo,hardware,container_or_version,arch,gpus,layers,hidden,heads,ffn,experts,topk,seq,vocab,tp,pp,vp,ep,dp,mbs,gbs,step_time_s'
		for vp in 1 2 12; do
			echo "vp$vp,x/Megatron-Bridge,h100,26.02,qwen3-moe,16,48,2048,32,768,128,8,4096,151936,1,2,$vp,8,8,1,1024,50"
		done
		echo "later,x/Megatron-Bridge,h100,26.02.01,qwen3-moe,16,48,2048,32,768,128,8,4096,151936,1,2,12,8,8,1,1024,50"
		echo "dense,x/Megatron-Bridge,h100,26.02,llama,16,48,2048,32,8192,,,4096,151936,1,2,12,1,8,1,1024,50"
	} >"$GIVEN/vp.csv"
	attempt megatune validate "$GIVEN/vp.csv" --rows "$GIVEN/rows.csv"
	finished
	[ "$(tail -n +2 "$GIVEN/rows.csv" | cut -d, -f1,4 | tr -d '"' | tr '\n' ' ')" = "vp1,megatron-bridge vp2,megatron-bridge-ep-overlap \
vp12,megatron-bridge-ep-overlap later,megatron-bridge dense,megatron-bridge " ]
}
