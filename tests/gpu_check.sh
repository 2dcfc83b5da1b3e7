#!/bin/bash
# gpu_check.sh: whether the engine and its kernels are right on this machine's GPU. Called by `make gpu-check`, and as `gpu-check` in a
# bundle, which needs nothing but libc, CUDA's libraries and the driver.
#
#   kernels     every operation in f32 and bf16 against the reference device, twice to the same bits
#   engine      layouts of 1, 2 and 4 ranks on one GPU to the losses of one rank; 50 steps to the cpu device's losses
#   train       the program itself: a run with that device
#   sanitizer   compute-sanitizer, where it is installed, on kernels and on a short run: memory, races, uninitialised reads
#   times       CUPTI's kernel times against CUDA's events
# Prints a line a part, what failed whole, and "N passed, N failed, N skipped". Exit: 0 all passed, 1 some failed, 77 nothing could be
# checked: no GPU, and it says what is missing. LIMIT_S (330) for all. SIZE=few: small shapes and fewer layouts.
set -uo pipefail
LIMIT_S=${LIMIT_S:-330}
# shellcheck source=tests/gpu_support.bash
. "$(dirname "$(readlink -f "$0")")/gpu_support.bash"

passed=0 failed=0 skipped=0

# record NAME STATUS PASSED FAILED SKIPPED: counts; a program that ended badly without a count of failures is one more
record() {
	local name=$1 status=$2 ok=$3 bad=$4 skip=$5 mark=ok
	if [ "$status" -eq 77 ] && [ "$bad" -eq 0 ]; then
		[ "$skip" -gt 0 ] || skip=1
	elif [ "$bad" -eq 0 ] && { [ "$status" -ne 0 ] || [ $((ok + skip)) -eq 0 ]; }; then
		bad=1
	fi
	passed=$((passed + ok)) failed=$((failed + bad)) skipped=$((skipped + skip))
	if [ "$bad" -gt 0 ]; then mark=FAIL; elif [ "$ok" -eq 0 ]; then mark=skip; fi
	printf '%-4s %-28s %3d passed %3d failed %3d skipped  (%d s)\n' "$mark" "$name" "$ok" "$bad" "$skip" $((SECONDS - started))
	if [ "$bad" -gt 0 ]; then
		tail -n 60 "$scratch/out" | sed 's/^/    | /'
	elif [ "$ok" -eq 0 ]; then
		grep -vE '^$|[0-9] passed' "$scratch/out" | head -n 2 | sed 's/^/     /'
	fi
}

skip() { # NAME REASON
	echo "$2" >"$scratch/out"
	started=$SECONDS
	record "$1" 77 0 0 1
}

# Counts of a program that ends with "N passed, N failed, N skipped".
counted() { # NAME MOST_S CMD...
	local name=$1 most=$2 status counts
	shift 2
	started=$SECONDS
	limited "$most" "$@"
	status=$?
	counts=$(sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed, \([0-9]*\) skipped$/\1 \2 \3/p' "$scratch/out" | tail -n 1)
	# shellcheck disable=SC2086 # three numbers
	record "$name" $status ${counts:-0 0 0}
}

sum_of() { # MARKER of cmocka's closing lines
	awk -v marker="$1" 'index($0, marker) { split(substr($0, index($0, marker) + length(marker)), n, " "); sum += n[1] }
		END { print sum + 0 }' "$scratch/out"
}

check_kernels() {
	local status
	started=$SECONDS
	limited 150 "${RUN[@]}" "$(program gpu_kernels)" "$DEVICE" "$SIZE"
	status=$?
	if [ $status -eq 77 ]; then
		record kernels 77 0 0 1
		return
	fi
	record kernels $status "$(sum_of '[  PASSED  ]')" "$(sum_of '[  FAILED  ]')" "$(sum_of '[  SKIPPED ]')"
}

# The program with a run file; $1: name, the rest comes before the program.
write_run() {
	local device=$DEVICE
	[ "$device" != late ] || device=cpu # the program has no such device
	printf 'model: gpt-tiny\nlayout: {gbs: 4, seq: 32, dtype: bf16, threads: 1}\ntrain: {steps: 3, device: %s, peak_tflops: 1}\n' \
		"$device" >"$scratch/run.yaml"
}

check_train() {
	local status ok
	write_run
	started=$SECONDS
	limited 60 "${RUN[@]}" "${MEGATUNE[@]}" train "$scratch/run.yaml"
	status=$?
	ok=$(grep -cE '^step +[0-9]+  loss [0-9]+\.[0-9]+ ' "$scratch/out")
	if [ $status -eq 0 ] && [ "$ok" -eq 3 ]; then record train 0 1 0 0; else record train $status 0 1 0; fi
}

check_sanitizer() {
	local sanitizer tool inner
	[ "$DEVICE" = cuda ] || { skip sanitizer "compute-sanitizer is for GPUs, the device is $DEVICE"; return; }
	sanitizer=$(command -v compute-sanitizer || ls "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer" 2>/dev/null)
	[ -n "$sanitizer" ] || { skip sanitizer "compute-sanitizer is not installed"; return; }
	write_run
	inner=("$sanitizer" --target-processes all --error-exitcode 9 --print-limit 5)
	for tool in memcheck racecheck initcheck; do
		started=$SECONDS
		if limited 60 "${inner[@]}" --tool $tool "${RUN[@]}" "${MEGATUNE[@]}" train "$scratch/run.yaml" --steps 1 &&
			grep -qE 'ERROR SUMMARY: 0 errors|RACECHECK SUMMARY: 0 hazards' "$scratch/out"; then
			record "sanitizer $tool" 0 1 0 0
		else
			record "sanitizer $tool" 1 0 1 0
		fi
	done
}

describe_machine
echo
check_kernels
counted "engine, 1 rank" 120 "${RUN[@]}" "$(program gpu_engine)" "$DEVICE" "$SIZE"
for n in 2 4; do
	ranks $n
	counted "engine, $n ranks" 90 env OMP_NUM_THREADS=1 "${RUN_RANKS[@]}" "$(program gpu_engine)" "$DEVICE" "$SIZE"
done
if [ $((passed + failed)) -gt 0 ]; then
	check_train
	check_sanitizer
	counted times 60 "${RUN[@]}" "$(program gpu_times)" "$DEVICE"
else
	for part in train sanitizer times; do skip "$part" "no device, as above"; done
fi

echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] || exit 1
[ "$passed" -gt 0 ] || exit 77
