#!/bin/bash
# bench.sh: the speed figures of the README, on this machine. Called by `make bench`.
#
#   1. each kernel of the cpu device at GPT-2 124M's shapes, against measured limits
#   2. the training step of GPT-2 124M, B=4, T=64, one rank, 2 threads: f32 and bf16 in turn, against oneDNN's own 1024-cube product
#   3. with PEER="command" (a program that trains the same model and batch and prints "... NNN ms" a step, llm.c's train_gpt2 say):
#      that program in turn with ours, medians of the steps after the second
#   4. the same model at B=4, T=1024 in bf16 on as many ranks of one thread each, against the rate of products of all ranks at once; with
#      PYTHON="python3" that has PyTorch: the same step there (tests/peer_pytorch.py), on as many threads, in turn with ours
# KERNELS=0 leaves out 1, SHORT=0 2 and 3, LONG=0 4. ROUNDS (3) paired rounds, STEPS (8) steps each (4: half of both).
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
BUILD=${BUILD:-build} ROUNDS=${ROUNDS:-3} STEPS=${STEPS:-8} THREADS=${THREADS:-2}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

cat >"$scratch/run.yaml" <<YAML
model: gpt2-124m
layout: {gbs: 4, mbs: 4, seq: 64, dtype: f32, threads: $THREADS}
train: {steps: $STEPS}
YAML

median() { sort -g | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }

# ours DTYPE: median step in ms, TFLOP/s, and that over the rate of 1024-cube products measured when the run began
ours() {
	OMP_NUM_THREADS=$THREADS "$BUILD/megatune" train "$scratch/run.yaml" --dtype "$1" --json |
		awk -F'[:,]' '/"step_time_s"/ { ms = $2 * 1000 } /"tflops_per_device"/ { t = $2 } /"mfu_frac"/ { f = $2 }
			END { print ms, t + 0, f + 0 }'
}
peer() { # the median of the steps after the second of a peer, which may be ended by its own timeout
	{ $PEER 2>&1 || true; } | sed -nE 's/.*[^0-9.]([0-9.]+) ?ms.*/\1/p' | tail -n +3 | median
}

[ "${KERNELS:-1}" = 0 ] || "$BUILD/tests/bench_kernels"
short() {
	local i f32 bf16 rate fraction other
	for ((i = 0; i < ROUNDS; i++)); do
		ours f32 >>"$scratch/f32"
		ours bf16 >>"$scratch/bf16"
		if [ -n "${PEER:-}" ]; then peer >>"$scratch/peer"; fi
	done
	f32=$(cut -d' ' -f1 "$scratch/f32" | median) bf16=$(cut -d' ' -f1 "$scratch/bf16" | median)
	rate=$(cut -d' ' -f2 "$scratch/f32" | median) fraction=$(cut -d' ' -f3 "$scratch/f32" | median)
	echo
	echo "GPT-2 124M, B=4, T=64, $THREADS threads, medians of $ROUNDS rounds in turn"
	printf 'f32   %8.1f ms a step, %.3f TFLOP/s of model FLOPs, %.2f of the 1024-cube product rate\n' "$f32" "$rate" "$fraction"
	printf 'bf16  %8.1f ms a step, %.2f times f32\n' "$bf16" "$(awk "BEGIN { print $f32 / $bf16 }")"
	if [ -s "$scratch/peer" ]; then
		other=$(median <"$scratch/peer")
		printf 'peer  %8.1f ms a step; ours in f32 is %.2f times as fast\n' "$other" "$(awk "BEGIN { print $other / $f32 }")"
	fi
}

# long_ours: median step in ms, tokens/s, and model FLOP/s over the rate of products of all ranks at once
long_ours() {
	OMP_NUM_THREADS=1 "${LAUNCH[@]}" "$BUILD/megatune" train "$scratch/long.yaml" --warmup 1 --json |
		awk -F'[:,]' '/"step_time_s"/ { ms = $2 * 1000 } /"tokens_per_s"/ { t = $2 } /"mfu_frac"/ { f = $2 } END { print ms, t + 0, f + 0 }'
}
# long_peer: the best of PyTorch's ways (eager, compiled), likewise but for the rate
long_peer() {
	{ OMP_NUM_THREADS=$THREADS "$PYTHON" tests/peer_pytorch.py cpu gpt2-124m 12 4 1024 1 $((STEPS / 2)) 2>/dev/null || true; } | tee -a "$scratch/lines" |
		sed -nE 's/.* ([0-9.]+) ms a step.*/\1/p' | sort -g | head -n 1
}

long() {
	local i ms other
	LAUNCH=("$BUILD/megatune" launch -n "$THREADS")
	if command -v mpirun >/dev/null; then LAUNCH=(mpirun --allow-run-as-root --oversubscribe --bind-to none -n "$THREADS"); fi
	cat >"$scratch/long.yaml" <<-YAML
		model: gpt2-124m
		layout: {${LAYOUT:-tp: $THREADS, sp: true}, gbs: 4, mbs: ${MBS:-1}, seq: 1024, dtype: bf16, threads: 1}
		train: {steps: $((STEPS / 2 + 1))}
	YAML
	for ((i = 0; i < (ROUNDS + 1) / 2; i++)); do
		long_ours >>"$scratch/long"
		if [ -n "${PYTHON:-}" ]; then long_peer >>"$scratch/pytorch"; fi
	done
	ms=$(cut -d' ' -f1 "$scratch/long" | median)
	echo
	echo "GPT-2 124M, B=4, T=1024, bf16, $THREADS ranks of one thread (${LAYOUT:-tp: $THREADS, sp: true}), medians of $i rounds"
	printf 'ours     %8.0f ms a step, %.0f tokens/s, %.2f of the product rate of all ranks at once\n' "$ms" \
		"$(cut -d' ' -f2 "$scratch/long" | median)" "$(cut -d' ' -f3 "$scratch/long" | median)"
	if [ -s "$scratch/pytorch" ]; then
		other=$(median <"$scratch/pytorch")
		cut -c1-150 "$scratch/lines"
		printf 'pytorch  %8.0f ms a step; ours is %.2f times as fast\n' "$other" "$(awk "BEGIN { print $other / $ms }")"
	fi
}

[ "${SHORT:-1}" = 0 ] || short
[ "${LONG:-1}" = 0 ] || long
