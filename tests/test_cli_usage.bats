# shellcheck disable=SC2016 # single quotes hold Perl
# The command line: help, versions, and input that is refused: one message, exit code 2, nothing written.

load cli_support

setup() {
	start_here
}

COMMANDS="doctor probe profile plan tune train ckpt validate calibrate report"

@test "without a command the usage is shown and it is an error" {
	attempt megatune
	grep -q '^usage: megatune COMMAND' "$ERR"
	refused "no command given"
}

@test "an unknown command is refused with the nearest one" {
	attempt megatune trian
	refused "did you mean 'train'?"
	attempt megatune qqqqqqqq
	refused "--help lists the commands"
}

@test "--version and --help end well" {
	attempt megatune --version
	finished
	grep -qE '^megatune [0-9]+\.[0-9]+\.[0-9]+$' "$OUT"
	attempt megatune --help
	finished
	for command in $COMMANDS; do
		grep -q "^  $command " "$OUT"
	done
	clean
}

@test "every command has help of at most 80 columns" {
	for command in $COMMANDS; do
		attempt megatune "$command" --help
		finished
		grep -q "^usage: megatune $command" "$OUT"
		[ "$(wc -L <"$OUT")" -le 80 ]
		[ ! -s "$ERR" ]
	done
	clean
}

@test "the manual page has every command and option, and man takes it" {
	attempt megatune --help=man
	finished
	for command in $COMMANDS; do
		grep -q "^\.SS megatune $command" "$OUT"
	done
	megatune tune --help | sed -n 's/^  \([a-z][a-z_]*\) .*/\1/p' >options
	[ "$(wc -l <options)" -gt 30 ]
	while read -r name; do
		grep -qxF ".B \-\-$name" "$OUT"
	done <options
	if command -v groff >/dev/null; then
		groff -man -Tascii -ww -b <"$OUT" >/dev/null 2>warnings
		[ ! -s warnings ]
	fi
}

@test "bash completes commands, options, their values and models" {
	# shellcheck source=/dev/null
	. "$ROOT/tuner/completion.bash"
	completes() { # EXPECTED WORD...: the last word is being typed
		local expected=$1
		shift
		COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
		_megatune megatune
		printf '%s\n' "${COMPREPLY[@]}" | grep -qxF -e "$expected" || { echo "no $expected in ${COMPREPLY[*]}"; return 1; }
	}
	completes tune megatune tu
	completes inspect megatune data ins
	completes --dtype megatune tune --dt
	completes bf16 megatune tune gpt2-124m --dtype b
	completes gpt2-124m megatune plan gpt2
	completes h100-80g-sxm megatune plan gpt2-124m --machine h100
	completes megatron-core megatune scale gpt2-124m --stack mega
	COMP_WORDS=(megatune tune "") COMP_CWORD=2
	_megatune megatune
	[ "${#COMPREPLY[@]}" -eq "$(find "$ROOT/examples/models" -name '*.yaml' | wc -l)" ]
}

@test "an unknown option is refused with the nearest one, by every command" {
	for command in $COMMANDS; do
		attempt megatune "$command" --qiuet
		refused "did you mean --quiet?"
	done
	attempt megatune train --stpes 3 run.yaml
	refused "did you mean --steps?"
	attempt megatune plan gpt-tiny -x
	refused "unknown option -x"
}

@test "a missing value, a missing word and a word too many are refused" {
	attempt megatune train run.yaml --steps
	refused "--steps needs a value"
	attempt megatune train
	refused "megatune train RUN.yaml"
	attempt megatune doctor now
	refused "'now' is one word too many"
}

@test "a value out of range or of the wrong kind is refused" {
	attempt megatune plan gpt-tiny --gbs 0
	refused "out of range"
	attempt megatune plan gpt-tiny --gpus many
	refused "not a whole number"
	attempt megatune plan gpt-tiny --dtype fp32
	refused "did you mean 'f32'?"
	attempt megatune tune gpt-tiny --launch ' '
	refused "launch is empty"
}

@test "a run file that is missing, broken or has unknown keys is refused with its line" {
	attempt megatune train "$GIVEN/absent.yaml"
	refused "absent.yaml"
	printf 'model: [1\n' >"$GIVEN/broken.yaml"
	attempt megatune train "$GIVEN/broken.yaml"
	refused "broken.yaml:2"
	printf 'model: gpt-tiny\nlayot: {}\n' >"$GIVEN/section.yaml"
	attempt megatune train "$GIVEN/section.yaml"
	refused "section.yaml:2: unknown key 'layot'; did you mean 'layout'?"
	printf 'model: gpt-tiny\ntrain:\n  stepps: 3\n' >"$GIVEN/key.yaml"
	attempt megatune train "$GIVEN/key.yaml"
	refused "key.yaml:3"
	printf 'model: gpt-tiny\nlayout: {mbs: 0}\n' >"$GIVEN/range.yaml"
	attempt megatune train "$GIVEN/range.yaml"
	refused "range.yaml:2: mbs = 0 is out of range"
}

@test "an unknown model is refused with the nearest name, by every command that takes one" {
	printf 'model: gpt-tinny\n' >"$GIVEN/run.yaml"
	attempt megatune train "$GIVEN/run.yaml"
	refused "did you mean 'gpt-tiny'?"
	for command in plan tune profile; do
		attempt megatune "$command" gpt-tinny
		refused "did you mean 'gpt-tiny'?"
	done
	attempt megatune plan "$GIVEN/config.json"
	refused "config.json"
}

@test "a model file that is broken is refused with its line" {
	printf 'layers: 2\nhiden: 64\n' >"$GIVEN/model.yaml"
	attempt megatune plan "$GIVEN/model.yaml"
	refused "did you mean 'hidden'?"
	printf '{"model_type": "gpt2", ' >"$GIVEN/config.json"
	attempt megatune plan "$GIVEN/config.json"
	refused "not valid JSON"
}

@test "a number of ranks that no layout can use is refused with the rules" {
	for command in plan tune; do
		attempt megatune "$command" gpt-tiny --gpus 11 --out results
		refused "attention heads must be a multiple of tp"
	done
}

@test "a layout that does not fit the number of ranks is refused" {
	run_file two.yaml "tp: 2"
	attempt megatune train "$GIVEN/two.yaml" --log "$PWD/log"
	refused "the layout needs 2 ranks (tp*dp*pp), the job has 1"
	run_file heads.yaml "tp: 3"
	attempt megatune train "$GIVEN/heads.yaml"
	refused "attention heads must be a multiple of tp"
}

@test "options are held against the run file they replace" {
	run_file run.yaml
	attempt megatune train "$GIVEN/run.yaml" --lr 1e-6
	refused "min_lr 6e-05 is above lr 1e-06"
	attempt megatune train "$GIVEN/run.yaml" --zero 1
	refused "zero shards over data- and context-parallel ranks"
}

@test "data that is not there is refused before anything runs" {
	run_file run.yaml
	attempt megatune train "$GIVEN/run.yaml" --path "$GIVEN/corpus" --log "$PWD/log" --trace "$PWD/trace"
	refused "$GIVEN/corpus"
	attempt megatune tune gpt-tiny --data "$GIVEN/corpus" --out results
	refused "$GIVEN/corpus"
}

@test "a machine file that is missing or broken is refused before anything runs" {
	printf 'schema: 1\nhosts: 3\n' >"$GIVEN/machine.yaml"
	for command in plan tune profile; do
		attempt megatune "$command" gpt-tiny --machine "$GIVEN/absent.yaml" --out results
		refused "absent.yaml"
		attempt megatune "$command" gpt-tiny --machine "$GIVEN/machine.yaml" --out results
		refused "machine.yaml"
	done
	attempt megatune profile gpt-tiny --out results
	refused "megatune probe"
}

@test "a result that is missing or no result is refused" {
	attempt megatune report "$GIVEN/result.json" --out results
	refused "result.json"
	echo '[1, 2]' >"$GIVEN/result.json"
	attempt megatune report "$GIVEN/result.json" --out results
	refused "no JSON object"
}

@test "several ranks tell one message, and the exit code comes through" {
	ranks 2
	run_file tp4.yaml "tp: 4"
	run_file run.yaml "dp: 2"
	attempt "${MPIRUN[@]}" megatune train "$GIVEN/absent.yaml"
	refused "absent.yaml"
	attempt "${MPIRUN[@]}" megatune train "$GIVEN/tp4.yaml"
	refused "the layout needs 4 ranks (tp*dp*pp), the job has 2"
	attempt "${MPIRUN[@]}" megatune train "$GIVEN/run.yaml" --path "$GIVEN/corpus" --log "$PWD/log"
	refused "$GIVEN/corpus"
	attempt "${MPIRUN[@]}" megatune train --stpes 3
	refused "did you mean --steps?"
	attempt "${MPIRUN[@]}" megatune profile gpt-tiny --machine "$GIVEN/absent.yaml"
	refused "absent.yaml"
	attempt "${MPIRUN[@]}" megatune probe --bugdet-s 1
	refused "did you mean --budget_s?"
}

@test "doctor tells what is there within 80 columns, and as JSON" {
	attempt megatune doctor
	finished
	[ "$(wc -L <"$OUT")" -le 80 ]
	grep -q '^ok .*processor' "$OUT"
	attempt megatune doctor --json
	finished
	check '@{$d->{rows}} > 10 && is_text($d->{host})' "$OUT"
	check '!grep { $_->{state} ne "ok" && !is_text($_->{do}) } @{$d->{rows}}' "$OUT"
	check '$d->{ok} + $d->{absent} + $d->{warn} == @{$d->{rows}}' "$OUT"
	clean
}

@test "output that cannot be written is a failure" {
	[ -c /dev/full ] || skip "no /dev/full"
	local command
	for command in --version "plan gpt-tiny --no-report" "plan llama3-8b --machine h100-80g-sxm --gpus 8 --gbs 64"; do
		status=0
		# shellcheck disable=SC2086 # words
		megatune $command >/dev/full 2>"$ERR" || status=$?
		[ "$status" -eq 4 ]
		grep -q 'writing to standard output failed' "$ERR"
	done
}

@test "a report is made of results alone" {
	echo '{"command": "scale"}' >"$GIVEN/scale.json"
	attempt megatune report "$GIVEN/scale.json"
	[ "$status" -eq 2 ]
	grep -q "no 'rows'" "$ERR"
	[ ! -e "$GIVEN/scale.html" ]
	echo '{"choice": {}}' >"$GIVEN/plan.json"
	attempt megatune report "$GIVEN/plan.json"
	[ "$status" -eq 2 ]
	grep -q 'plan.json of a described machine has no report' "$ERR"
}
