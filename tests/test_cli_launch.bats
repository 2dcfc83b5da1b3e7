# shellcheck disable=SC2016 # single quotes hold Perl
# megatune launch: ranks without MPI, on one host and on several, and what becomes of the others when one ends. With the doubles of CUDA
# and NCCL the program trains over the nccl fabric.

load cli_support

setup() {
	start_here
	unset RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT "${!MEGATUNE_T@}" "${!SLURM_@}"
	LIMIT_S=60
}

losses_of() {
	sed -n 's/^step .* loss \([0-9.]*\) .*/\1/p' "$1"
}

same_losses() {
	paste "$1" "$2" | awk 'NF != 2 { bad = 1 } { d = $1 - $2; if (d < 0) d = -d; if (d > 1e-4 * $1) bad = 1; print }
		END { exit bad || NR != 4 }'
}

one_rank() { # losses of one rank to $GIVEN/one
	run_file one.yaml
	attempt megatune train "$GIVEN/one.yaml"
	finished
	losses_of "$OUT" >"$GIVEN/one"
}

# with_doubles: the program's plugins are those of the tests
with_doubles() {
	[ -f "$BIN/tests/plugins/megatune-nccl.so" ] || skip "built without nccl.h"
	! nm "$BIN/megatune" 2>/dev/null | grep -q __asan_init || export LIMIT_S=200
	export MEGATUNE_PLUGINS=$BIN/tests/plugins
}

# messages N: as many lines of errors
messages() {
	[ "$(grep -c 'error:' "$ERR")" -eq "$1" ] || { echo "not $1 messages"; return 1; }
}

@test "each rank is told its place" {
	attempt megatune launch -n 3 -- sh -c 'echo "$RANK of $WORLD_SIZE, $LOCAL_RANK of $LOCAL_WORLD_SIZE at $MASTER_ADDR" >"rank$RANK"'
	finished
	for r in 0 1 2; do [ "$(cat rank$r)" = "$r of 3, $r of 3 at 127.0.0.1" ]; done
}

@test "two and four ranks without MPI give the losses of one" {
	one_rank
	local layout
	for layout in "tp: 2, sp: true" "pp: 2" "dp: 2, zero: 1, mbs: 1" "tp: 2, pp: 2"; do
		run_file two.yaml "$layout"
		n=2
		[ "$layout" != "tp: 2, pp: 2" ] || n=4
		attempt megatune launch -n $n megatune train "$GIVEN/two.yaml"
		finished
		losses_of "$OUT" >"$GIVEN/two"
		same_losses "$GIVEN/one" "$GIVEN/two"
	done
}

@test "device cuda over nccl, without MPI: the losses of one rank, by the doubles" {
	with_doubles
	one_rank
	local layout
	for layout in "tp: 2, sp: true" "pp: 2" "dp: 2, zero: 3, mbs: 1"; do
		run_file two.yaml "$layout" "device: cuda"
		attempt megatune launch -n 2 megatune train "$GIVEN/two.yaml" --fabric nccl
		finished
		losses_of "$OUT" >"$GIVEN/two"
		same_losses "$GIVEN/one" "$GIVEN/two"
	done
}

# registered GROUP: sums over its ranks of what NCCL's double has counted: registered, deregistered, collectives inside and outside
registered() {
	awk -F '[ :,]+' -v group="$1" '$1 == group { r += $4; d += $6; i += $8; o += $10 } END { print r, d, i, o }' "$GIVEN/report"
}

@test "gradients and parameters are reduced and gathered in registered memory, by the doubles" {
	with_doubles
	one_rank
	run_file two.yaml "dp: 2, zero: 1, mbs: 1" "device: cuda"
	NCCL_DOUBLE_REPORT=$GIVEN/report attempt megatune launch -n 2 megatune train "$GIVEN/two.yaml" --fabric nccl
	finished
	# two arenas, told twice; none is left behind
	read -r told left inside outside < <(registered dp)
	[ "$told $left $outside" = "8 8 0" ]
	[ "$inside" -gt 0 ]
	# a refusal is a line, and nothing more
	rm "$GIVEN/report"
	NCCL_DOUBLE_FAULT="register 1" NCCL_DOUBLE_REPORT=$GIVEN/report attempt megatune launch -n 2 megatune train "$GIVEN/two.yaml" --fabric nccl -v
	[ "$status" -eq 0 ]
	[ "$(grep -c 'ncclCommRegister: .*copies of NCCL' "$ERR")" -eq 1 ]
	read -r told left inside outside < <(registered dp)
	[ "$told $left $inside" = "4 4 0" ]
	[ "$outside" -gt 0 ]
	losses_of "$OUT" >"$GIVEN/two"
	same_losses "$GIVEN/one" "$GIVEN/two"
}

@test "a layout that does not fit the GPU is told before it is made, with the nearest that would" {
	with_doubles
	printf 'model: gpt-tiny\nlayout: {gbs: 128, mbs: 128, seq: 64, threads: 1}\ntrain: {steps: 1, device: cuda, peak_tflops: 1}\n' >"$GIVEN/large.yaml"
	CUDA_DOUBLE_MIB=128 attempt megatune train "$GIVEN/large.yaml"
	[ "$status" -eq 2 ]
	messages 1
	grep -q 'tp1 pp1 dp1 mbs128.* needs .* at stage 0 (activations .*, scratch up to 34.0 MiB); a rank has 128 MiB.*; the nearest layout that fits: tp1 pp1 dp1 mbs' "$ERR"
	CUDA_DOUBLE_MIB=128 attempt megatune train "$GIVEN/large.yaml" --gbs 4 --mbs 4 --recompute full --json
	finished
	check '$d->{scratch_bytes}[0] == 34 << 20 && $d->{pinned_bytes}[0] == 32 << 20' "$OUT"
	CUDA_DOUBLE_MIB=40 attempt megatune train "$GIVEN/large.yaml"
	[ "$status" -eq 2 ]
	messages 1
	grep -q 'no layout of so many ranks fits' "$ERR"
}

@test "auto is nccl where each rank has a GPU, and says why where not" {
	with_doubles
	run_file two.yaml "dp: 2, mbs: 1" "device: cuda"
	# what a fault of NCCL ends goes over it
	NCCL_DOUBLE_FAULT=init attempt megatune launch -n 2 megatune train "$GIVEN/two.yaml"
	[ "$status" -eq 4 ] && grep -q 'ncclComm' "$ERR"
	CUDA_DOUBLE_GPUS=1 NCCL_DOUBLE_FAULT=init attempt megatune launch -n 2 megatune train "$GIVEN/two.yaml"
	finished
	[ "$(grep -c 'through host memory: .*a GPU for each rank' "$ERR")" -eq 1 ]
	[ "$(losses_of "$OUT" | wc -l)" -eq 4 ]
	CUDA_DOUBLE_GPUS=1 attempt megatune launch -n 2 megatune train "$GIVEN/two.yaml" --fabric nccl
	[ "$status" -eq 77 ] && messages 1
}

@test "a layer's pass is launched as a graph where its operations come again, to the same losses" {
	with_doubles
	run_file two.yaml "tp: 2, sp: true" "device: cuda"
	attempt megatune launch -n 2 megatune train "$GIVEN/two.yaml"
	finished
	losses_of "$OUT" >"$GIVEN/plain"
	attempt megatune launch -n 2 megatune train "$GIVEN/two.yaml" --cuda-graphs layer --log log
	finished
	losses_of "$OUT" >"$GIVEN/graphs"
	cmp "$GIVEN/plain" "$GIVEN/graphs"
	grep -qE '^graphs +[1-9][0-9]* launched for [1-9][0-9]* operations, [1-9][0-9]* captured, [1-9][0-9]* lists' "$OUT"
	grep -q '"graphs":{"launched":[1-9][^}]*"refused":0},.*"event":"summary"' log
	grep -q '"event":"step".*"graphs":{"launched":[1-9]' log
	# what cannot be captured runs as ever, and it is told why
	CUDA_DOUBLE_CAPTURE=refuse attempt megatune launch -n 2 megatune train "$GIVEN/two.yaml" --cuda-graphs auto
	finished
	losses_of "$OUT" >"$GIVEN/refused"
	cmp "$GIVEN/plain" "$GIVEN/refused"
	grep -q '^graphs  0 launched.* not captured: .*told to refuse' "$OUT"
	attempt megatune launch -n 2 megatune train "$GIVEN/two.yaml" --device cpu --cuda-graphs auto
	finished
	attempt megatune launch -n 2 megatune train "$GIVEN/two.yaml" --device cpu --cuda-graphs layer
	[ "$status" -eq 2 ] && messages 1 && grep -q 'the cpu device launches no graphs' "$ERR"
}

@test "a choice of fabric that cannot be is refused, once" {
	run_file two.yaml "dp: 2, mbs: 1"
	for fabric in self nccl; do
		attempt megatune launch -n 2 megatune train "$GIVEN/two.yaml" --fabric $fabric
		[ "$status" -eq 2 ] && messages 1 && grep -q "fabric" "$ERR"
	done
	attempt megatune launch -n 2 megatune train "$GIVEN/two.yaml" --fabric tcp
	finished
}

@test "bad input of the ranks is told once, with its exit code" {
	run_file two.yaml "tp: 2"
	attempt megatune launch -n 3 megatune train "$GIVEN/two.yaml"
	[ "$status" -eq 2 ] && messages 1 && grep -q 'needs 2 ranks' "$ERR"
}

@test "bad input of its own is refused" {
	attempt megatune launch -n 2
	refused "what is to be started"
	attempt megatune launch --hosts a:2,b -n 4 true
	refused "give all hosts a number"
	attempt megatune launch --hosts a,b -n 3 true
	refused "evenly"
	attempt megatune launch --hosts a:2,b:x true
	refused "no number of ranks"
	attempt megatune launch -n 2 no-such-program
	[ "$status" -eq 77 ] && messages 1
}

@test "a rank that is killed ends the others, with one message" {
	run_file two.yaml "dp: 2, mbs: 1"
	megatune launch -n 2 sh -c 'echo $$ >"pid$RANK"; exec megatune train "$0" --steps 1000000' "$GIVEN/two.yaml" >"$OUT" 2>"$ERR" &
	local pid=$!
	for _ in $(seq 600); do [ "$(wc -l <"$OUT")" -ge 2 ] && break; sleep 0.1; done
	kill -KILL "$(cat pid1)"
	status=0
	wait $pid || status=$?
	cat "$ERR"
	[ "$status" -eq 4 ]
	messages 1
	grep -q 'rank 1 was ended by signal 9' "$ERR"
	[ ! -e "/proc/$(cat pid0)" ]
}

@test "a rank whose NCCL fails ends the others, with the message of the operation" {
	with_doubles
	run_file two.yaml "dp: 2, mbs: 1" "device: cuda"
	NCCL_DOUBLE_FAULT="async 1" attempt megatune launch -n 2 megatune train "$GIVEN/two.yaml"
	[ "$status" -eq 4 ]
	messages 1
	grep -q 'asynchronous error: remote process exited' "$ERR"
}

@test "a collective that hangs ends the run at the watchdog's deadline, with its suspects" {
	with_doubles
	run_file two.yaml "dp: 2, mbs: 1" "device: cuda"
	NCCL_DOUBLE_FAULT="hang 1" attempt megatune launch -n 2 megatune train "$GIVEN/two.yaml" --watchdog-s 1
	[ "$status" -eq 4 ]
	grep -q "has waited longer than the watchdog's 1 s" "$ERR"
}

@test "a signal to the launcher reaches the ranks, which end after a whole step" {
	run_file two.yaml "dp: 2, mbs: 1"
	megatune launch -n 2 megatune train "$GIVEN/two.yaml" --steps 1000000 >"$OUT" 2>"$ERR" &
	local pid=$!
	for _ in $(seq 600); do [ "$(wc -l <"$OUT")" -ge 2 ] && break; sleep 0.1; done
	kill -TERM $pid
	status=0
	wait $pid || status=$?
	[ "$status" -eq 130 ]
	tail -n 1 "$OUT" | grep -q 'stopped by SIGTERM'
}

# agent: runs the command of a "remote" host here, as ssh does
agent() {
	cat >"$GIVEN/agent" <<'SH'
#!/bin/sh
echo "$1" >>"$AGENT_LOG"
shift
exec sh -c "$*"
SH
	chmod +x "$GIVEN/agent"
	export AGENT_LOG=$BATS_TEST_TMPDIR/agent.log
}

@test "hosts: ranks of another host are started there, and train" {
	agent
	one_rank
	run_file three.yaml "tp: 2, pp: 2"
	attempt megatune launch --hosts 127.0.0.1:1,elsewhere:3 --port $((20000 + RANDOM % 12000)) --agent "$GIVEN/agent" megatune train "$GIVEN/three.yaml"
	finished
	[ "$(cat "$AGENT_LOG")" = elsewhere ]
	losses_of "$OUT" >"$GIVEN/two"
	same_losses "$GIVEN/one" "$GIVEN/two"
}

@test "hosts: what is on another host ends with the launcher, however that ends" {
	agent
	run_file two.yaml "dp: 2, mbs: 1"
	megatune launch --hosts 127.0.0.1:1,elsewhere:1 --port $((20000 + RANDOM % 12000)) --agent "$GIVEN/agent" \
		sh -c 'echo $$ >"pid$RANK"; exec megatune train "$0" --steps 1000000' "$GIVEN/two.yaml" >"$OUT" 2>"$ERR" &
	local pid=$!
	for _ in $(seq 600); do [ "$(wc -l <"$OUT")" -ge 2 ] && break; sleep 0.1; done
	kill -KILL $pid
	wait $pid || true
	for _ in $(seq 200); do
		kill -0 "$(cat pid0)" 2>/dev/null || kill -0 "$(cat pid1)" 2>/dev/null || break
		sleep 0.1
	done
	[ ! -e "/proc/$(cat pid0)" ]
	[ ! -e "/proc/$(cat pid1)" ]
}

@test "ranks that torchrun or srun would start find each other" {
	run_file two.yaml "dp: 2, mbs: 1"
	local port=$((20000 + RANDOM % 12000)) pid
	export SLURM_STEP_NUM_TASKS=2 SLURM_JOB_ID=1 SLURM_STEP_ID=0 SLURM_STEP_NODELIST=127.0.0.1 MEGATUNE_PORT=$port
	SLURM_PROCID=1 SLURM_LOCALID=1 megatune train "$GIVEN/two.yaml" >"$GIVEN/second" 2>&1 &
	pid=$!
	SLURM_PROCID=0 SLURM_LOCALID=0 attempt megatune train "$GIVEN/two.yaml"
	wait $pid
	finished
	[ "$(losses_of "$OUT" | wc -l)" -eq 4 ]
	unset "${!SLURM_@}" MEGATUNE_PORT
	export WORLD_SIZE=2 MASTER_ADDR=localhost MASTER_PORT=$port TORCHELASTIC_USE_AGENT_STORE=True
	RANK=1 LOCAL_RANK=1 megatune train "$GIVEN/two.yaml" >"$GIVEN/second" 2>&1 &
	pid=$!
	RANK=0 LOCAL_RANK=0 attempt megatune train "$GIVEN/two.yaml"
	wait $pid
	finished
	[ "$(losses_of "$OUT" | wc -l)" -eq 4 ]
}

@test "without mpirun a tune starts its ranks by itself" {
	mkdir "$GIVEN/bin"
	ln -s "$BIN/megatune" "$GIVEN/bin/megatune"
	attempt env PATH="$GIVEN/bin" "$BIN/megatune" tune gpt-tiny --gpus 2 --top 1 --trial-steps 2 --seq 32 --gbs 4 --threads 1 \
		--probe-budget-s 1 --profile-budget-s 2 --no-report --json
	finished
	check '$d->{command_line} =~ /^megatune launch -n 2 /' "$OUT"
}
