# shellcheck disable=SC2016 # single quotes hold Perl
# megatune train, alone and on several ranks: its lines, its JSON, its log and trace; the losses do not depend on the layout.

load cli_support

setup() {
	start_here
}

COLUMNS_OF_A_STEP='^step +[0-9]+  loss [0-9.]+  norm +[0-9.]+  lr [0-9.e+-]+ +[0-9.]+ ms +[0-9]+ tok/s  [0-9.]+ TFLOP/s  MFU +[0-9.]+%  [0-9.]+ [KMG]iB$'

# losses_of FILE: of the lines of a run
losses_of() {
	sed -n 's/^step .* loss \([0-9.]*\) .*/\1/p' "$1"
}

# same_losses A B: as many, and equal to a relative 1e-4 (f32, another order of summing)
same_losses() {
	paste "$1" "$2" | awk 'NF != 2 { bad = 1 } { d = $1 - $2; if (d < 0) d = -d; if (d > 1e-4 * $1) bad = 1; print }
		END { exit bad || NR != 4 }'
}

@test "one rank prints a line of documented columns for each step" {
	run_file run.yaml
	attempt megatune train "$GIVEN/run.yaml"
	finished
	[ "$(grep -cE "$COLUMNS_OF_A_STEP" "$OUT")" -eq 4 ]
	[ "$(wc -l <"$OUT")" -eq 4 ]
	clean
}

@test "--json prints one document, and options replace the run file" {
	run_file run.yaml
	attempt megatune train "$GIVEN/run.yaml" --steps 3 --warmup 1 --json
	finished
	check '$d->{steps} == 3 && $d->{timed_steps} == 2' "$OUT"
	check 'is_number($d->{step_time_s}) && $d->{step_time_s} > 0 && $d->{step_time_lo_s} <= $d->{step_time_hi_s}' "$OUT"
	check '$d->{first_loss} > $d->{last_loss} && $d->{last_loss} > 0' "$OUT"
	check '@{$d->{memory_bytes}} == 1 && is_count($d->{memory_bytes}[0]) && is_count($d->{resident_bytes}[0])' "$OUT"
	check 'is_bool($d->{interrupted}) && !$d->{interrupted}' "$OUT"
}

@test "the small runs among the examples train" {
	attempt megatune train "$ROOT/examples/runs/gpt-tiny.yaml" --steps 2 --peak_tflops 1
	finished
	[ "$(losses_of "$OUT" | wc -l)" -eq 2 ]
	ranks 4
	attempt "${MPIRUN[@]}" megatune train "$ROOT/examples/runs/llama-tiny-tp2-pp2.yaml" --steps 2 --peak_tflops 1
	finished
	[ "$(losses_of "$OUT" | wc -l)" -eq 2 ]
}

@test "text is data: a directory of it trains" {
	mkdir "$GIVEN/corpus"
	seq 1 2000 >"$GIVEN/corpus/numbers.txt"
	run_file run.yaml
	attempt megatune train "$GIVEN/run.yaml" --path "$GIVEN/corpus" --json
	finished
	check '$d->{first_loss} > $d->{last_loss}' "$OUT"
}

@test "the log has a JSON line a step and a summary, the trace every rank and stream" {
	ranks 2
	run_file run.yaml "pp: 2, mbs: 2"
	attempt "${MPIRUN[@]}" megatune train "$GIVEN/run.yaml" --log log.jsonl --trace trace.json
	finished
	[ "$(wc -l <log.jsonl)" -eq 5 ]
	for line in 1 2 3 4; do
		sed -n "${line}p" log.jsonl >"$GIVEN/line"
		check '$d->{event} eq "step" && is_number($d->{loss}) && is_number($d->{grad_norm}) && is_number($d->{lr})' "$GIVEN/line"
		check '$d->{step_time_s} > 0 && $d->{tokens_per_s} > 0 && is_count($d->{memory_bytes})' "$GIVEN/line"
	done
	sed -n 5p log.jsonl >"$GIVEN/line"
	check '$d->{event} eq "summary" && $d->{steps} == 4 && @{$d->{memory_bytes}} == 2' "$GIVEN/line"
	check 'our %p; $p{$_->{pid}} = 1 for @{$d->{traceEvents}}; keys %p == 2' trace.json
	check 'our @s = grep { $_->{ph} eq "X" } @{$d->{traceEvents}}; @s > 20 && !grep { $_->{dur} < 0 || $_->{ts} < 0 } @s' trace.json
}

@test "two ranks give the losses of one: tensor, sequence, pipeline, data parallel, sharded" {
	ranks 2
	run_file one.yaml
	attempt megatune train "$GIVEN/one.yaml"
	finished
	losses_of "$OUT" >"$GIVEN/one"
	local layout
	for layout in "tp: 2" "tp: 2, sp: true" "pp: 2" "dp: 2" "dp: 2, zero: 1, mbs: 2"; do
		run_file two.yaml "$layout"
		attempt "${MPIRUN[@]}" megatune train "$GIVEN/two.yaml"
		finished
		[ "$(grep -cE "$COLUMNS_OF_A_STEP" "$OUT")" -eq 4 ]
		losses_of "$OUT" >"$GIVEN/two"
		same_losses "$GIVEN/one" "$GIVEN/two"
	done
}

@test "three stages with one micro-batch give the losses of one rank" {
	ranks 3
	run_file one.yaml "mbs: 4"
	attempt megatune train "$GIVEN/one.yaml"
	finished
	losses_of "$OUT" >"$GIVEN/one"
	run_file three.yaml "pp: 3, mbs: 4"
	attempt "${MPIRUN[@]}" megatune train "$GIVEN/three.yaml"
	finished
	losses_of "$OUT" >"$GIVEN/three"
	same_losses "$GIVEN/one" "$GIVEN/three"
}

@test "the validation loss is told when it is due, and does not depend on the layout" {
	ranks 2
	local options=(--eval-every 2 --eval-steps 3 --split "8,1,1") layout
	run_file one.yaml
	attempt megatune train "$GIVEN/one.yaml" "${options[@]}"
	finished
	sed -n 's/^after \(.*\) steps  validation loss/\1/p' "$OUT" >"$GIVEN/one"
	[ "$(cut -d' ' -f1 "$GIVEN/one" | xargs)" = "2 4" ]
	losses_of "$OUT" >"$GIVEN/steps"
	for layout in "pp: 2" "tp: 2, sp: true, mbs: 2" "dp: 2, zero: 1" "pp: 2, vp: 2" "pp: 2, vp: 2, schedule: zb-v"; do
		run_file two.yaml "$layout"
		attempt "${MPIRUN[@]}" megatune train "$GIVEN/two.yaml" "${options[@]}" --log log.jsonl
		finished
		sed -n 's/^after \(.*\) steps  validation loss/\1/p' "$OUT" >"$GIVEN/two"
		paste "$GIVEN/one" "$GIVEN/two" | awk '$1 != $3 || ($2 - $4) ^ 2 > (1e-4 * $2) ^ 2 { bad = 1 } END { exit bad || NR != 2 }'
		losses_of "$OUT" >"$GIVEN/two"
		same_losses "$GIVEN/steps" "$GIVEN/two"
		grep '"event":"eval"' log.jsonl | tail -n 1 >"$GIVEN/line"
		check '$d->{steps} == 4 && is_number($d->{loss}) && $d->{seconds} > 0' "$GIVEN/line"
	done
	attempt megatune train "$GIVEN/one.yaml" --eval-every 2
	[ "$status" -eq 2 ] && grep -q "split" "$ERR"
}

@test "several ranks print one JSON document" {
	ranks 2
	run_file run.yaml "tp: 2"
	attempt "${MPIRUN[@]}" megatune train "$GIVEN/run.yaml" --json
	finished
	check '$d->{steps} == 4 && @{$d->{memory_bytes}} == 1' "$OUT"
}

@test "an interrupted run ends after a whole step with exit code 130" {
	run_file run.yaml
	megatune train "$GIVEN/run.yaml" --steps 1000000 --log log.jsonl >"$OUT" 2>"$ERR" &
	local pid=$!
	for _ in $(seq 600); do
		[ "$(wc -l <"$OUT")" -ge 2 ] && break
		sleep 0.1
	done
	kill -TERM $pid
	status=0
	wait $pid || status=$?
	[ "$status" -eq 130 ]
	tail -n 1 log.jsonl >"$GIVEN/line"
	check '$d->{event} eq "summary" && $d->{interrupted} && $d->{steps} >= 2' "$GIVEN/line"
}

@test "ranks in another order train the same" {
	ranks 4
	cat >"$GIVEN/run.yaml" <<-Y
		model: llama-tiny
		layout: {tp: 2, pp: 2, mbs: 2, gbs: 8, threads: 1}
		train: {steps: 3, peak_tflops: 1}
	Y
	attempt "${MPIRUN[@]}" megatune train "$GIVEN/run.yaml" --log plain.jsonl
	finished
	attempt "${MPIRUN[@]}" megatune train "$GIVEN/run.yaml" --rank-order 2,0,3,1 --log placed.jsonl
	finished
	for log in plain placed; do
		grep -o '"loss": *[0-9.e+-]*' "$log.jsonl" >"$GIVEN/$log"
	done
	[ "$(wc -l <"$GIVEN/plain")" -eq 3 ]
	cmp "$GIVEN/plain" "$GIVEN/placed"
	attempt "${MPIRUN[@]}" megatune train "$GIVEN/run.yaml" --rank-order 2,0,3,3
	[ "$status" -eq 2 ]
	grep -q 'name each of 0 to 3 once' "$ERR"
}
