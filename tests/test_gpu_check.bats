#!/usr/bin/env bats
# gpu-check and gpu-bench run whole on devices of the host, find what is wrong, and say what is missing where there is no GPU.

load cli_support

setup() {
	start_here
	[ -x "$BIN/tests/gpu_kernels" ] || skip "the programs of gpu-check are not built"
	export BUILD=$BIN SIZE=few LIMIT_S=300 MEGATUNE_PLUGINS=$BIN
}

# total WHICH: of the last line
total() {
	sed -n "\$s/.*\\<\\([0-9]*\\) $1.*/\\1/p" "$OUT"
}

@test "all of gpu-check passes on a device that runs behind the host" {
	DEVICE=late attempt "$ROOT/tests/gpu_check.sh"
	[ "$status" -eq 0 ]
	[ "$(total failed)" -eq 0 ]
	grep -qE '^ok +kernels +69 passed' "$OUT"
	grep -qE '^ok +engine, 1 rank +[1-9]' "$OUT"
	grep -qE '^ok +train +1 passed' "$OUT"
	grep -qE '^ok +times +2 passed' "$OUT"
	command -v mpirun >/dev/null || skip "the rest passed; no mpirun for several ranks"
	grep -qE '^(ok +engine, 2 ranks +[1-9]|skip engine, 2 ranks.*)' "$OUT"
}

@test "a device that leaves an operation out does not pass" {
	DEVICE=wrong attempt "$BIN/tests/gpu_kernels" wrong few
	[ "$status" -eq 1 ]
	grep -q 'bias_gradients in f32' "$ERR" "$OUT"
	grep -q '\[  FAILED  \] .*6 test' "$ERR" "$OUT"
	attempt "$BIN/tests/gpu_engine" wrong few
	[ "$status" -eq 1 ]
	grep -q '^FAILED gpt-tiny' "$OUT"
}

@test "without a GPU gpu-check says what is missing, skips all and exits with 77" {
	! nvidia-smi -L 2>/dev/null | grep -q GPU || skip "there is a GPU"
	attempt "$ROOT/tests/gpu_check.sh"
	[ "$status" -eq 77 ]
	[ "$(total passed)" -eq 0 ] && [ "$(total failed)" -eq 0 ] && [ "$(total skipped)" -gt 4 ]
	grep -qiE 'no CUDA|driver|GPU|shared object' "$OUT"
	attempt "$ROOT/tests/gpu_bench.sh"
	[ "$status" -eq 77 ]
}

@test "gpu-bench holds each kernel against its floor and times the training step" {
	DEVICE=cpu attempt "$ROOT/tests/gpu_bench.sh"
	[ "$status" -eq 0 ]
	[ "$(grep -cE '^[a-z_]+ (f32|bf16) .* us +floor +[0-9.]+ us \((FLOPs|bytes)\)' "$OUT")" -gt 50 ]
	[ "$(grep -cE '^megatune [a-z-]+, 8 of 8 layers.* tokens/s, .* MFU [0-9.]+ of ' "$OUT")" -eq 2 ]
	[ "$(grep -c '^pytorch' "$OUT")" -ge 2 ]
}
