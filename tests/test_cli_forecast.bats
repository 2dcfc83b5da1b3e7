# shellcheck disable=SC2016,SC2030,SC2031 # single quotes hold Perl; tests are subshells
# plan and scale on machines that are described: documents, options, refusals.

load cli_support

setup() {
	start_here
	SMALL=(--machine a100-80g-sxm --stack megatron-core --gpus 16 --gbs 32)
}

@test "plan on a described machine prints counts that add up, and writes nothing" {
	attempt megatune plan llama3-8b "${SMALL[@]}" --json
	finished
	clean
	check '$d->{fidelity} eq "forecast" && $d->{machine} eq "a100-80g-sxm" && $d->{stack} eq "megatron-core"' "$OUT"
	check 'my $s = $d->{search}; $s->{complete} && $s->{counted} ==
		$s->{rejected} + $s->{pruned}{time_bound} + $s->{pruned}{memory_bound} + $s->{evaluated} + $s->{not_reached}' "$OUT"
	check 'sum(map { $_->{layouts} } @{$d->{why_not}}) == $d->{search}{rejected}' "$OUT"
	check 'my $l = $d->{choice}{layout}; $l->{tp} * $l->{cp} * $l->{pp} * $l->{dp} == 16' "$OUT"
	check 'my $c = $d->{choice}; abs(sum(values %{$c->{split}}) - $c->{step_s}) < 1e-6 * $c->{step_s}' "$OUT"
	check '$d->{choice}{lo_s} < $d->{choice}{step_s} && $d->{choice}{step_s} < $d->{choice}{hi_s}' "$OUT"
	check 'my $f = $d->{pareto}; !grep { $f->[$_]{step_s} <= $f->[$_-1]{step_s} || $f->[$_]{peak_bytes} >= $f->[$_-1]{peak_bytes} } 1..$#$f' "$OUT"
	check '$d->{peak_resident_bytes} < 500e6' "$OUT"
}

@test "threads and bounds change neither choice nor front" {
	attempt megatune plan llama3-8b "${SMALL[@]}" --json --jobs 1
	finished
	cp "$OUT" "$GIVEN/one.json"
	attempt megatune plan llama3-8b "${SMALL[@]}" --json --jobs 4 --no-bounded
	finished
	check "join(' ', map { \$_->{text} } @{\$d->{best}}, @{\$d->{pareto}}) eq
		'$(json 'join(" ", map { $_->{text} } @{$d->{best}}, @{$d->{pareto}})' "$GIVEN/one.json")'" "$OUT"
}

@test "plan writes the choice as a run file" {
	attempt megatune plan llama3-8b "${SMALL[@]}" --fix cp=1,ep=1,zero=1 --out planned
	finished
	[ -s planned/plan.json ]
	grep -q '^layout:' planned/run.yaml
	grep -q "tp: $(json '$d->{choice}{layout}{tp}' planned/plan.json)\$" planned/run.yaml
}

@test "fixed axes and what-ifs act" {
	attempt megatune plan llama3-8b "${SMALL[@]}" --fix tp=4,recompute=none --json
	finished
	check '!grep { $_->{layout}{tp} != 4 || $_->{layout}{recompute} ne "none" } @{$d->{best}}' "$OUT"
	cp "$OUT" "$GIVEN/plain.json"
	for what in "--hbm 40" "--nic 10G" "--nvlink-domain 2" "--set memory_gbps=1000" "--set host_forward_us=5000"; do
		# shellcheck disable=SC2086 # an option and its value
		attempt megatune plan llama3-8b "${SMALL[@]}" --fix tp=4,recompute=none --json $what
		finished
		check "\$d->{choice}{step_s} > $(json '$d->{choice}{step_s}' "$GIVEN/plain.json") ||
			\$d->{memory_bytes} < $(json '$d->{memory_bytes}' "$GIVEN/plain.json")" "$OUT"
	done
}

@test "a deadline is met by the fewest, a cost by the cheapest, a sequence by the longest" {
	attempt megatune plan llama3-8b --machine h100-80g-sxm --stack megatron-core --gpus 512 --gbs 512 --tokens 1e12 \
		--objective gpus-for-deadline --deadline-days 60 --json
	finished
	check 'my @s = @{$d->{sizes}}; $s[-1]{days} <= 60 && !grep { $_->{fits} && $_->{days} <= 60 } @s[0..$#s-1]' "$OUT"
	check '$d->{gpus} == $d->{sizes}[-1]{gpus}' "$OUT"
	attempt megatune plan llama3-8b --machine h100-80g-sxm --stack megatron-core --gpus 64 --gbs 512 --objective cost --json
	finished
	check 'my @c = sort { $a->{cost} <=> $b->{cost} } grep { $_->{fits} } @{$d->{sizes}}; $c[0]{gpus} == $d->{gpus}' "$OUT"
	attempt megatune plan llama3-8b --machine h100-80g-sxm --stack megatron-core --gpus 8 --gbs 8 --objective max-seq --json
	finished
	check 'my @f = grep { $_->{fits} } @{$d->{sizes}}; my ($m) = sort { $b <=> $a } map { $_->{seq} } @f; $d->{seq} == $m' "$OUT"
	check 'my $q = $d->{seq}; grep { !$_->{fits} && $_->{seq} > $q } @{$d->{sizes}}' "$OUT"
}

@test "a plan's two files are both new or both old" {
	small=(megatune plan gpt2-124m --machine h100-80g-sxm --stack megatron-core --gpus 8 --gbs 8 --out planned)
	mkdir -p planned/run.yaml # a folder in the way
	echo old >planned/plan.json
	attempt "${small[@]}"
	[ "$status" -ne 0 ]
	grep -q 'run.yaml' "$ERR"
	[ "$(cat planned/plan.json)" = old ]
	[ "$(find planned -mindepth 1 -maxdepth 1 | wc -l)" -eq 2 ]
	rmdir planned/run.yaml
	rm planned/plan.json
	mkdir planned/plan.json
	attempt "${small[@]}"
	[ "$status" -ne 0 ]
	[ ! -e planned/run.yaml ]
}

@test "DeepSeek-V3 is cut as its authors cut it, in about their time" {
	attempt megatune plan deepseek-v3 --machine h800-80g-sxm --stack megatron-core --gpus 2048 --gbs 15360 --seq 4096 \
		--precision fp8 --out planned --json
	finished
	# 16 stages, experts apart, ZeRO-1; 180,000 GPU hours for 10^12 tokens: DeepSeek-AI 2024, arXiv:2412.19437, table 1
	check 'my $l = $d->{choice}{layout}; $l->{pp} == 16 && $l->{ep} > 1 && $l->{etp} == 1 && $l->{zero} == 1' "$OUT"
	check 'my $s = 180e3 * 3600 / 2048 * 15360 * 4096 / 1e12; my $r = $d->{choice}{step_s} / $s; $r > 0.85 && $r < 1.2' "$OUT"
	# the last stage has the module and the head beside its layers: fewer of them
	check '$d->{choice}{layout}{last_less} > $d->{choice}{layout}{first_less}' "$OUT"
	attempt megatune export planned --json
	finished
	check '(grep { /^Et\*.*mL$/ } @{$d->{arguments}}) == 1' "$OUT"
}

@test "zero bubble is searched where the software has it, and waits less" {
	attempt megatune plan llama3-8b --machine a100-80g-sxm --stack megatune --gpus 16 --gbs 32 --fix pp=4,vp=1,cp=1,recompute=none,zero=1 --json
	finished
	check '$d->{choice}{layout}{schedule} eq "zb-h1"' "$OUT"
	cp "$OUT" "$GIVEN/h1.json"
	attempt megatune plan llama3-8b --machine a100-80g-sxm --stack megatune --gpus 16 --gbs 32 \
		--fix pp=4,vp=1,cp=1,recompute=none,zero=1,schedule=1f1b --json
	finished
	check "\$d->{choice}{split}{bubble_s} > $(json '$d->{choice}{split}{bubble_s}' "$GIVEN/h1.json")" "$OUT"
	attempt megatune plan llama3-8b "${SMALL[@]}" --json
	finished
	check '!grep { $_->{layout}{schedule} ne "1f1b" } @{$d->{best}}, @{$d->{pareto}}' "$OUT"
	check 'grep { $_->{rule} eq "stack_has_zero_bubble" } @{$d->{why_not}}' "$OUT"
	attempt megatune plan llama3-8b "${SMALL[@]}" --fix schedule=zb-h1
	refused "no layout keeps every rule"
}

@test "what makes no sense is refused" {
	attempt megatune plan llama3-8b --machine a100-80g-sxm
	refused "needs --gpus"
	attempt megatune plan llama3-8b --stack megatron-core --gpus 8
	refused "--machine"
	attempt megatune plan gpt-tiny --objective cost
	refused "described machine"
	attempt megatune plan llama3-8b "${SMALL[@]}" --dry-runs 3
	refused "dry-runs"
	attempt megatune plan llama3-8b "${SMALL[@]}" --fix tq=3
	refused "tq"
	attempt megatune plan llama3-8b "${SMALL[@]}" --fix tp=3
	refused "no layout has the values asked for"
	attempt megatune plan llama3-8b "${SMALL[@]}" --set nonsense=3
	refused "nonsense"
	attempt megatune plan llama3-8b "${SMALL[@]}" --nic fast
	refused "fast"
	attempt megatune plan llama3-8b "${SMALL[@]}" --precision fp8
	refused "fp8"
	attempt megatune plan llama3.1-405b "${SMALL[@]}"
	refused "no layout fits"
	attempt megatune plan llama3-8b --machine a100-80g-sxm --stack megatron-cor --gpus 8
	refused "did you mean 'megatron-core'"
	attempt megatune plan llama3-8b --machine gb30 --gpus 16
	refused "no machine 'gb30'"
	refused "did you mean 'gb300'"
	attempt megatune scale llama3-8b
	refused "--machine"
	attempt megatune scale llama3-8b --machine b200 --gpus 8..4
	refused "8..4"
	attempt megatune scale llama3-8b --machine b200 --weak --strong
	refused "exclude"
}

@test "scale shows every size, keeps a layout, and says what it extrapolates" {
	attempt megatune scale llama3-8b --machine h100-80g-sxm --stack megatron-core --gpus 8..64 --gbs 256 --out scaled --json
	finished
	check 'join(",", map { $_->{gpus} } @{$d->{rows}}) eq "8,16,32,64"' "$OUT"
	check '!grep { $_->{best} && $_->{fixed} && $_->{best}{step_s} > $_->{fixed}{step_s} } @{$d->{rows}}' "$OUT"
	check '$d->{rows}[0]{efficiency_frac} == 1 && $d->{rows}[0]{fixed}{text} eq $d->{rows}[0]{best}{text}' "$OUT"
	check '!grep { $_->{goodput_frac} >= 1 || $_->{goodput_frac} < 0.9 } @{$d->{rows}}' "$OUT"
	check '$d->{rows}[3]{checkpoint_interval_s} < $d->{rows}[0]{checkpoint_interval_s}' "$OUT"
	check '!grep { !@{$_->{extrapolates}} } @{$d->{rows}}' "$OUT"
	[ -s scaled/scale.json ]
	grep -q 'at scale' scaled/scale.html
	if command -v gnuplot >/dev/null; then
		grep -q '<svg' scaled/scale.html
		[ -s scaled/figures/scale_mfu.svg ] && [ -s scaled/figures/scale_split.svg ]
	else
		grep -q 'gnuplot is not installed' scaled/scale.html
	fi
	mv scaled/scale.html before.html
	attempt megatune report scaled/scale.json
	finished
	grep -q 'megatune scale: llama3-8b on h100-80g-sxm with megatron-core' "$OUT"
	cmp before.html scaled/scale.html
}

@test "sensitivity names the numbers that the choice stands on" {
	attempt megatune scale llama3-8b --machine h100-80g-sxm --stack megatron-core --gpus 16,64 --weak --gbs 64 --sensitivity --json
	finished
	check '$d->{rows}[1]{gbs} == 256' "$OUT"
	check 'my %s = map { $_->{parameter} => $_ } @{$d->{sensitivity}};
		$s{tflops_16}{mfu_change_frac} < -0.02 && $s{nic_gbps}{mfu_change_frac} <= 0 && $s{nic_us}{change_frac} > 0' "$OUT"
	check '!grep { $_->{choice_mfu_change_frac} < $_->{mfu_change_frac} - 1e-9 } grep { $_->{fits} } @{$d->{sensitivity}}' "$OUT"
}

# undecided TEXT: the last attempt ended inconclusive: one message with TEXT, no output
undecided() {
	[ "$status" -eq 3 ] && [ ! -s "$OUT" ] && [ "$(grep -c 'error:' "$ERR")" -eq 1 ] && grep -qF -- "$1" "$ERR"
}

@test "a search that time ends before a layout is found decides nothing, and says so" {
	attempt megatune plan llama3-8b "${SMALL[@]}" --seconds 1e-9
	undecided "were not reached; raise --seconds"
	attempt megatune scale llama3-8b --machine h100-80g-sxm --gpus 8..32 --seconds 1e-9
	undecided "were not reached; raise --seconds"
	# a space of 10^13 layouts, which no processor goes through in this time; what it finds till then is told as that
	attempt megatune scale deepseek-v3 --machine h800-80g-sxm --stack megatron-core --gpus 2048 --gbs 15360 --seconds 0.5
	if [ "$status" -eq 0 ]; then
		grep -q 'layouts not reached in time: others may be faster; raise --seconds' "$OUT"
	else
		undecided "were not reached; raise --seconds"
	fi
	attempt megatune scale llama3-8b --machine h100-80g-sxm --stack megatron-core --gpus 8,16 --gbs 32 --json
	finished
	check '!grep { $_->{not_reached} != 0 || defined $_->{why_not} } @{$d->{rows}}' "$OUT"
}

@test "the rule that shuts out what --fix asks for is named first" {
	local case
	for case in 'zero=3|break: the software does not shard at this level of zero' \
		'schedule=zb-h1|break: the software has no zero-bubble schedule' \
		'rank_order=1,pp=1|break: without stages or without replicas both orders of ranks are one' \
		'tp=7|no layout has the values asked for: tp has another value by --fix' \
		'zero=5|no value of zero; there are: 0, 1, 2 or 3' \
		'sp=yes|no value of sp; there are: true (1) or false (0)' \
		'tp=0|no value of tp' 'zero=-1|no value of zero' 'recompute=some|none, selective or full'; do
		attempt megatune plan llama3-8b "${SMALL[@]}" --fix "${case%|*}"
		refused "${case#*|}"
	done
	attempt megatune plan llama3-8b "${SMALL[@]}" --fix sp=true,tp_overlap=false --json
	finished
	check '!grep { !$_->{layout}{sp} || $_->{layout}{tp_overlap} } @{$d->{best}}' "$OUT"
}

@test "a size that no rule admits is not one that the memory refuses" {
	attempt megatune scale llama3-8b --machine h100-80g-sxm --gpus 61,64 --gbs 120 --json
	finished
	check '!$d->{rows}[0]{best} && $d->{rows}[0]{why_not} =~ /^gbs must be/ && $d->{rows}[1]{best}' "$OUT"
	attempt megatune scale llama3.1-405b --machine h100-80g-sxm --gpus 8,512 --gbs 512 --json
	finished
	check '$d->{rows}[0]{why_not} eq "no layout fits the memory"' "$OUT"
	attempt megatune scale llama3-8b --machine h100-80g-sxm --gpus 61 --gbs 120
	refused "gbs must be"
	attempt megatune scale llama3.1-405b --machine h100-80g-sxm --gpus 8 --gbs 8
	refused "no layout fits the memory"
}

@test "texts fit 80 columns and lose no word of a layout" {
	local machine=(--machine h100-80g-sxm --stack megatron-core)
	attempt megatune plan llama3-8b "${machine[@]}" --gpus 64 --gbs 64 --fix recompute=selective --json
	finished
	json 'my @t = ($d->{choice}{text}, map { $_->{text} } @{$d->{best}}[0..9]); join("\n", split(" ", join(" ", @t)))' "$OUT" >"$GIVEN/words"
	attempt megatune plan llama3-8b "${machine[@]}" --gpus 64 --gbs 64 --fix recompute=selective
	finished
	awk 'length > 80 { exit 1 }' "$OUT"
	# without what stands before a layout its words are those of the document
	awk '/Choice/ { sub(/ *Choice/, ""); print; chosen = 1; next } / on 64 of / { chosen = 0 } chosen
		/best by time/ { lists = 1; next } /^$/ { lists = 0 } lists { print substr($0, 35) }' "$OUT" |
		tr -s ' ' '\n' | grep . >"$GIVEN/printed"
	diff "$GIVEN/words" "$GIVEN/printed"
	attempt megatune scale llama3-8b "${machine[@]}" --gpus 61,64,1024
	finished
	awk 'length > 80 { exit 1 }' "$OUT"
}
