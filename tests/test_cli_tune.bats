# shellcheck disable=SC2016 # single quotes hold Perl
# megatune tune, end to end on two ranks of a tiny model: what it leaves behind, what it keeps when trials fail or it is
# interrupted.

load cli_support

setup() {
	start_here
	ranks 2
}

# One probe and one profile serve all tests of this file.
setup_file() {
	export TUNED=$BATS_FILE_TMPDIR/tuned
}

SMALL=(--gpus 2 --gbs 4 --seq 32 --probe-budget-s 1 --profile-budget-s 1 --trial-steps 2 --trial-rounds 1)

# measured_before: a directory `results` with a machine file and a store, measured once for all tests
measured_before() {
	if [ ! -s "$TUNED/profile.db" ]; then
		attempt megatune tune gpt-tiny "${SMALL[@]}" --top 0 --no-report --out "$TUNED"
		finished
	fi
	mkdir results
	cp "$TUNED/machine.yaml" "$TUNED/profile.db" results/
	AGAIN=("${SMALL[@]}" --machine results/machine.yaml --out results)
}

# launcher SCRIPT: a launch command that runs SCRIPT before mpirun, with the words of the job as its arguments
launcher() {
	printf '#!/bin/bash\n%s\nexec %s "$@"\n' "$1" "mpirun ${MPIRUN[*]:3}" >"$GIVEN/launch"
	chmod +x "$GIVEN/launch"
}

@test "tune leaves a run file that trains, a result and a page" {
	attempt megatune tune gpt-tiny "${SMALL[@]}" --top 2 --out results
	finished
	[ "$(wc -L <"$OUT")" -le 80 ]
	[ -s results/report.html ] && [ -s results/machine.yaml ] && [ -s results/profile.db ]
	check '$d->{command} eq "tune" && $d->{status} eq "done" && $d->{gpus} == 2 && $d->{choice} == 1' results/result.json
	check 'our @ran = grep { exists $_->{measured_step_time_s} } @{$d->{candidates}}; @ran == 2 && $d->{prediction}{runs} == 2' \
		results/result.json
	check '!grep { $_->{measured_step_time_s} <= 0 || $_->{measured_steps} != 2 } @{$d->{candidates}}[0, 1]' results/result.json
	check '$d->{candidates}[0]{measured_step_time_s} <= $d->{candidates}[1]{measured_step_time_s}' results/result.json
	attempt "${MPIRUN[@]}" megatune train results/run.yaml --steps 2 --json
	finished
	check '$d->{steps} == 2' "$OUT"
	cp -r results "$TUNED"
}

# The launcher stands for the neighbours: it lengthens steps in the output of a layout's first trial, and not in its second.
@test "a layout whose steps were disturbed is run once more, and is judged by the others" {
	measured_before
	cat >"$GIVEN/launch" <<-'END'
		#!/bin/bash
		read -ra start <"${0%/*}/mpirun"
		case "$*" in *" train "*) ;; *) exec "${start[@]}" "$@" ;; esac
		layout=$(grep -o '[0-9]*[.]yaml' <<<"$*"); echo "$layout" >>"${0%/*}/runs"
		export TIMES=8,1,4; [ "$(grep -c "$layout" "${0%/*}/runs")" = 1 ] || TIMES=1.02,1.04,1.03
		"${start[@]}" "$@" | perl -0777 -pe 's/("step_times_s":\s*)\[.*?\]/$1\[$ENV{TIMES}\]/s; s/step_paces_flops/paces/'
	END
	echo "mpirun ${MPIRUN[*]:3}" >"$GIVEN/mpirun"
	chmod +x "$GIVEN/launch"
	attempt megatune tune gpt-tiny "${AGAIN[@]}" --launch "$GIVEN/launch" --trial-steps 3 --trial-rounds 3 --top 2 --json --no-report
	finished
	[ "$(sort "$GIVEN/runs" | uniq -c | awk '{ printf "%s ", $1 }')" = "2 2 " ]
	check 'our @ran = grep { exists $_->{measured_step_time_s} } @{$d->{candidates}}; @ran == 2' "$OUT"
	check '!grep { abs($_->{measured_step_time_s} - 1.025) > 1e-9 || abs($_->{measured_median_s} - 1.035) > 1e-9 } @ran' "$OUT"
	check '!grep { $_->{measured_steps} != 6 || $_->{undisturbed_steps} != 4 } @ran' "$OUT"
	check 'abs($d->{prediction}{disturbed_frac} - 1 / 3) < 1e-9' "$OUT"
}

@test "the memory that was predicted is the memory that was measured, for every layout" {
	measured_before
	attempt megatune tune gpt-tiny "${AGAIN[@]}" --gbs 2 --top 100 --trial-steps 1 --no-report --json
	finished
	check '@{$d->{candidates}} == 24 && !grep { !exists $_->{measured_memory_bytes} } @{$d->{candidates}}' "$OUT"
	check '!grep { "@{$_->{memory_bytes}}" ne "@{$_->{measured_memory_bytes}}" } @{$d->{candidates}}' "$OUT"
	check '!grep { @{$_->{measured_resident_bytes}} != $_->{pp} } @{$d->{candidates}}' "$OUT"
}

@test "a second tune takes the kernels from the store" {
	measured_before
	attempt megatune tune gpt-tiny "${SMALL[@]}" --top 0 --no-report --out results --verbose
	finished
	grep -qE '^profile: [0-9]+ slices, 0 run' "$ERR"
	attempt megatune tune gpt-tiny "${SMALL[@]}" --gbs 8 --top 0 --no-report --out results --verbose
	finished
	grep -qE '^profile: [0-9]+ slices, [1-9]' "$ERR"
	attempt "${MPIRUN[@]}" megatune profile gpt-tiny --gbs 4 --seq 32 --machine results/machine.yaml --store results/profile.db --json
	finished
	check '$d->{slices} > 0 && $d->{slices_run} == 0 && is_count($d->{kernels}) && $d->{store} eq "results/profile.db"' "$OUT"
}

@test "trials have fewer steps where the budget has no room for all" {
	attempt megatune tune gpt-tiny "${SMALL[@]}" --top 1 --trial-steps 6 --trial-budget-s 0 --no-report --out short
	finished
	grep -q '^  steps: 4$' short/trials/01.yaml # two timed, after two that warm up
	attempt megatune tune gpt-tiny "${SMALL[@]}" --top 1 --trial-steps 6 --no-report --out whole
	finished
	grep -q '^  steps: 8$' whole/trials/01.yaml
}

@test "a trial that fails is a result: the others decide" {
	measured_before
	launcher 'case "$*" in *" train "*/01.yaml*) echo "error: the first trial breaks" >&2; exit 7 ;; esac'
	attempt megatune tune gpt-tiny "${AGAIN[@]}" --top 2 --launch "$GIVEN/launch"
	[ "$status" -eq 0 ]
	check 'our @f = grep { exists $_->{failure} } @{$d->{candidates}}; @f == 1 && $f[0]{failure} =~ /the first trial breaks/' \
		results/result.json
	check 'our @f = grep { exists $_->{failure} } @{$d->{candidates}}; $f[0]{rank} == $d->{searched}' results/result.json
	check '$d->{choice} == 1 && exists $d->{candidates}[0]{measured_step_time_s}' results/result.json
	check 'index($d->{command_line}, "/launch -n 2 megatune train") > 0' results/result.json
	[ -s results/run.yaml ]
	grep -q "the first trial breaks" results/report.html
}

@test "a trial that takes too long is a result, too" {
	measured_before
	launcher 'case "$*" in *" train "*) sleep 600 ;; esac'
	attempt megatune tune gpt-tiny "${AGAIN[@]}" --top 1 --trial-timeout-s 1 --no-report --launch "$GIVEN/launch"
	[ "$status" -eq 4 ]
	check 'our @f = grep { exists $_->{failure} } @{$d->{candidates}}; @f == 1 && $f[0]{failure} =~ /longer than its limit/' results/result.json
}

@test "when no trial works tune says so and keeps the results" {
	measured_before
	launcher 'case "$*" in *" train "*) echo "error: nothing works today" >&2; exit 7 ;; esac'
	attempt megatune tune gpt-tiny "${AGAIN[@]}" --top 2 --launch "$GIVEN/launch"
	[ "$status" -eq 4 ]
	[ "$(grep -c 'error:.*none of the 2 layouts that were run worked.*nothing works today' "$ERR")" -eq 1 ]
	[ "$(grep -c 'error:' "$ERR")" -eq 1 ]
	check '$d->{status} eq "done" && 2 == grep { exists $_->{failure} } @{$d->{candidates}}' results/result.json
	[ -s results/report.html ] && [ -s results/run.yaml ]
	attempt megatune tune gpt-tiny "${AGAIN[@]}" --gbs 2 --top 100 --launch "$GIVEN/launch"
	[ "$status" -eq 4 ]
	check '$d->{choice} == 0 && $d->{choice_reason} =~ /failed/' results/result.json
	attempt megatune report results/result.json
	finished
}

@test "an interrupt during the trials keeps the best so far" {
	measured_before
	launcher "case \"\$*\" in *' train '*/02.yaml*) touch '$GIVEN/second'; sleep 600 ;; esac"
	megatune tune gpt-tiny "${AGAIN[@]}" --top 3 --launch "$GIVEN/launch" >"$OUT" 2>"$ERR" &
	local pid=$!
	for _ in $(seq 600); do
		[ -e "$GIVEN/second" ] && break
		sleep 0.1
	done
	[ -e "$GIVEN/second" ]
	# A shell in the background ignores SIGINT for its children; the program catches both alike.
	kill -TERM $pid
	status=0
	wait $pid || status=$?
	cat "$OUT" "$ERR"
	[ "$status" -eq 130 ]
	[ "$(grep -c 'error:' "$ERR")" -eq 1 ]
	grep -q 'interrupted: what was found so far is in results' "$ERR"
	check '$d->{status} eq "partial" && 1 == grep { exists $_->{measured_step_time_s} } @{$d->{candidates}}' results/result.json
	check '$d->{choice} == 1 && exists $d->{candidates}[0]{measured_step_time_s}' results/result.json
	[ -s results/report.html ]
	attempt "${MPIRUN[@]}" megatune train results/run.yaml --steps 1
	finished
}

@test "one rank is tuned without a launcher" {
	mkdir "$GIVEN/empty"
	attempt env PATH="$GIVEN/empty" "$BIN/megatune" tune gpt-tiny --gpus 1 --gbs 2 --seq 16 --probe-budget-s 0.5 \
		--profile-budget-s 0.5 --top 1 --trial-steps 1 --no-report --json
	finished
	check '$d->{gpus} == 1 && exists $d->{candidates}[0]{measured_step_time_s}' "$OUT"
	check '$d->{command_line} eq "megatune train run.yaml"' "$OUT"
	[ -z "$(find "$HOME" -mindepth 1)" ]
}
