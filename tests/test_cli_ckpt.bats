# shellcheck disable=SC2016 # single quotes hold Perl
# Runs that are killed, stopped and started again; megatune ckpt.

load cli_support

setup() {
	start_here
}

# "step loss norm" of each step; an overflow has a norm too
losses_of() {
	sed -n 's/^step *\([0-9]*\) *loss \([0-9.]*\) *norm *-*\([0-9nai][0-9.naif]*\) .*/\1 \2 \3/p' "$1"
}

# kill_and_go_on STEPS ROUNDS: the run file's job of two ranks, one of them killed in each round while every step is saved, is in
# the end the job that nobody killed.
kill_and_go_on() {
	local steps=$1 rounds=$2 round rank pid killed=0
	attempt "${MPIRUN[@]}" megatune train "$GIVEN/run.yaml" --steps "$steps"
	finished
	cp "$OUT" "$GIVEN/whole.out"
	losses_of "$OUT" >"$GIVEN/whole"
	: >"$GIVEN/pieces"
	for round in $(seq "$rounds"); do
		"${MPIRUN[@]}" megatune train "$GIVEN/run.yaml" --steps "$steps" --save_dir "$PWD/save" --save_every 1 --save_keep 2 \
			>"$OUT" 2>"$ERR" &
		pid=$!
		for _ in $(seq 300); do
			[ "$(wc -l <"$OUT")" -ge 2 ] || ! kill -0 $pid 2>/dev/null && break
			sleep 0.02
		done
		sleep "0.$((RANDOM % 50 + 10))"
		rank=$(pgrep -P $pid megatune | sed -n "$((round % 2 + 1))p")
		[ -z "$rank" ] || kill -9 "$rank" 2>/dev/null || true
		wait $pid || killed=$((killed + 1))
		losses_of "$OUT" >>"$GIVEN/pieces"
		attempt megatune ckpt verify "$PWD/save"
		[ "$status" -eq 0 ]
	done
	[ "$killed" -ge $((rounds / 3)) ] || { echo "only $killed of $rounds runs were killed before their end"; return 1; }
	attempt "${MPIRUN[@]}" megatune train "$GIVEN/run.yaml" --steps "$steps" --save_dir "$PWD/save" --save_every 10
	finished
	losses_of "$OUT" >>"$GIVEN/pieces"
	# Steps done twice must agree; together they are the uninterrupted run. A line cut by the kill has no norm and is left out.
	sort -n -u "$GIVEN/pieces" >"$GIVEN/sorted"
	[ "$(awk '{ print $1 }' "$GIVEN/sorted" | uniq -d | wc -l)" -eq 0 ]
	join "$GIVEN/sorted" "$GIVEN/whole" 2>/dev/null | awk '$2 != $4 || $3 != $5 { print; bad = 1 } END { exit bad }'
	[ "$(awk '{ print $1 }' "$GIVEN/sorted" | tail -n 1)" -eq $((steps - 1)) ]
	[ -z "$(find save -name '*.tmp')" ]
}

@test "a rank killed with -9 at any moment of a save loses nothing: the job goes on bit for bit" {
	ranks 2
	run_file run.yaml "dp: 2, zero: 1, dtype: bf16" "decay: constant"
	kill_and_go_on 400 6
}

@test "killed with -9: experts over ranks in fp8 by a history, ZeRO-3 and Muon go on bit for bit" {
	ranks 2
	run_file run.yaml "dp: 2, ep: 2, zero: 3, dtype: bf16, fp8: delayed, fp8_history: 5" "decay: constant, optimizer: muon"
	sed -i 's/gpt-tiny/mixtral-tiny/' "$GIVEN/run.yaml"
	kill_and_go_on 150 3
}

@test "killed with -9: a loss scale that moves, ZeRO-2 and Muon go on bit for bit" {
	ranks 2
	run_file run.yaml "dp: 2, zero: 2, dtype: f16" "decay: constant, optimizer: muon, loss_scale_window: 4"
	kill_and_go_on 200 3
	[ "$(sed -n 's/.* scale \([0-9.e+]*\).*/\1/p' "$GIVEN/whole.out" | sort -u | wc -l)" -gt 2 ]
}

@test "SIGTERM and SIGUSR1 save and end well with the reason; the next start goes on; the log is one" {
	run_file run.yaml "" "decay: constant"
	local signal
	for signal in TERM USR1; do
		megatune train "$GIVEN/run.yaml" --steps 1000000 --save_dir "save$signal" --log "$signal.jsonl" >"$OUT" 2>"$ERR" &
		local pid=$!
		for _ in $(seq 600); do
			[ "$(wc -l <"$OUT")" -ge 2 ] && break
			sleep 0.05
		done
		kill -$signal $pid
		status=0
		wait $pid || status=$?
		[ "$status" -eq 0 ]
		tail -n 1 "$OUT" | grep -q "^stopped by SIG$signal after step [0-9]*; it is saved"
		local last
		last=$(losses_of "$OUT" | tail -n 1 | awk '{ print $1 }')
		attempt megatune train "$GIVEN/run.yaml" --steps $((last + 3)) --save_dir "save$signal" --log "$signal.jsonl"
		finished
		[ "$(losses_of "$OUT" | head -n 1 | awk '{ print $1 }')" -eq $((last + 1)) ]
		grep -q '"event":"resume"' "$signal.jsonl"
		[ "$(grep -c '"event":"step"' "$signal.jsonl")" -eq $((last + 3)) ]
	done
}

@test "ckpt lists, verifies, names a damaged tensor, converts, and weights come back" {
	run_file run.yaml
	attempt megatune train "$GIVEN/run.yaml" --save_dir save --save_every 2 --save_keep 1
	finished
	attempt megatune ckpt list save --json
	finished
	check '@$d == 1 && $d->[0]{step} == 4 && $d->[0]{samples} == 16' "$OUT"
	attempt megatune ckpt convert save hf --dtype bf16 --shard_bytes 100K
	finished
	[ -s hf/model.safetensors.index.json ]
	check '$d->{model_type} eq "gpt2" && $d->{torch_dtype} eq "bfloat16"' hf/config.json
	attempt megatune train "$GIVEN/run.yaml" --init_from hf --steps 1
	finished
	attempt megatune ckpt convert save one.safetensors --format safetensors
	finished
	attempt megatune ckpt convert save hf
	[ "$status" -eq 2 ]
	local file=save/step-000000004/rank-00000.safetensors
	printf 'X' | dd of=$file bs=1 seek=$(($(stat -c %s $file) - 5)) conv=notrunc 2>/dev/null
	attempt megatune ckpt verify save
	[ "$status" -eq 1 ]
	grep -q 'tensor .* is corrupted' "$OUT"
	attempt megatune train "$GIVEN/run.yaml" --save_dir save --steps 6
	[ "$status" -eq 2 ]
	grep -q 'tensor .*moment2 is corrupted' "$ERR"
}

@test "a run that would begin before the newest checkpoint is refused, and one of another model" {
	run_file run.yaml
	attempt megatune train "$GIVEN/run.yaml" --save_dir save
	finished
	attempt megatune train "$GIVEN/run.yaml" --save_dir save --resume none
	[ "$status" -eq 2 ]
	grep -q 'later than step 0' "$ERR"
	sed 's/gpt-tiny/llama-tiny/' "$GIVEN/run.yaml" >"$GIVEN/other.yaml"
	attempt megatune train "$GIVEN/other.yaml" --save_dir save
	[ "$status" -eq 2 ]
	grep -q 'is of another model' "$ERR"
	attempt megatune train "$GIVEN/run.yaml" --on_nan rewind
	[ "$status" -eq 2 ]
	grep -q 'give save_dir' "$ERR"
}
