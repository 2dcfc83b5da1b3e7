#!/bin/bash
# run.sh [NAME...]: runs the built tests and counts. Names select (a part of the name is enough); none: all.
#
#   build/tests/test_*   cmocka programs, one process each; the counts are read from cmocka's closing lines
#   build/tests/mpi_*    under mpirun, once for each number in the line "ranks: 1 2 4 8" of the source;
#                        their last line is "N passed, N failed, N skipped"
#   tests/*.bats         the command line and the scripts
#
# Programs and scripts run TEST_JOBS at once, ranks and clusters alone.
# A program that dies, says nothing or outlives its limit counts as one failure more. The output of a program that failed
# is shown. The last line is "N passed, N failed, N skipped"; the exit status is 1 when any failed or none ran.
#
# TEST_LIMIT_S (900) a program, TEST_TOTAL_S (0: none) for all: what has not run by then fails. TEST_JOBS (as many as
# processors). BUILD (build): where they are.
set -uo pipefail
cd "$(dirname "$(readlink -f "$0")")/.." || exit 1

BUILD=${BUILD:-build}
TEST_LIMIT_S=${TEST_LIMIT_S:-900}
TEST_TOTAL_S=${TEST_TOTAL_S:-0}
TEST_JOBS=${TEST_JOBS:-$(nproc)}
export BUILD

# Nothing of the caller's tuning may reach the tests.
for name in $(compgen -e); do
	case $name in
	OMP_* | GOMP_* | KMP_* | OMPI_MCA_* | OPENBLAS_* | DNNL_* | ONEDNN_* | MALLOC_* | MEGATUNE_* | CMOCKA_* | GLIBC_TUNABLES)
		unset "$name" ;;
	esac
done
export LC_ALL=C.UTF-8 TZ=UTC
# Programs of the tests lie in a folder below the plugins.
MEGATUNE_PLUGINS=$(readlink -f "$BUILD")
export MEGATUNE_PLUGINS
# Programs built with SANITIZE=1 read these; Open MPI's own leaks are named in the file.
export LSAN_OPTIONS=suppressions=$PWD/tests/sanitizers/lsan.supp:print_suppressions=0
export ASAN_OPTIONS=fast_unwind_on_malloc=0 UBSAN_OPTIONS=print_stacktrace=1

SCRATCH=$(mktemp -d /tmp/mt.XXXXXX) # short: Open MPI keeps sockets below it
trap 'rm -rf "$SCRATCH"' EXIT
trap 'exit 130' INT TERM
OUTPUT=$SCRATCH/output

passed=0 failed=0 skipped=0
failures=()

selected() { # NAME of a test; the arguments of the script are in PATTERNS
	[ ${#PATTERNS[@]} -eq 0 ] && return 0
	local pattern
	for pattern in "${PATTERNS[@]}"; do
		[[ $1 == *"$pattern"* ]] && return 0
	done
	return 1
}

# limited CMD...: runs it with its output in $OUTPUT; status 124 or 137 when its time was over
limited() {
	local limit=$TEST_LIMIT_S left status
	if [ "$TEST_TOTAL_S" -gt 0 ]; then
		left=$((TEST_TOTAL_S - SECONDS))
		[ "$left" -le 0 ] && { echo "not run: the limit of $TEST_TOTAL_S s for all tests is over" >"$OUTPUT"; return 124; }
		[ "$left" -lt "$limit" ] && limit=$left
	fi
	rm -rf "$OUTPUT.tmp" && mkdir "$OUTPUT.tmp"
	TMPDIR=$OUTPUT.tmp timeout -k 10 "$limit" "$@" >"$OUTPUT" 2>&1 </dev/null
	status=$?
	[ $status -eq 124 ] || [ $status -eq 137 ] && echo "killed: it ran longer than $limit s" >>"$OUTPUT"
	return $status
}

# sum_of TEXT: the sum of the first numbers after cmocka's marker of that name
sum_of() {
	awk -v marker="$1" 'index($0, marker) { split(substr($0, index($0, marker) + length(marker)), n, " "); sum += n[1] }
		END { print sum + 0 }' "$OUTPUT"
}

# record NAME STATUS PASSED FAILED SKIPPED SECONDS
record() {
	local name=$1 status=$2 ok=$3 bad=$4 skip=$5 seconds=$6 mark=ok
	# A failure that no count tells: it died, was killed, or tested nothing.
	if [ "$bad" -eq 0 ] && { [ "$status" -ne 0 ] || [ $((ok + skip)) -eq 0 ]; }; then
		bad=1
	fi
	passed=$((passed + ok)) failed=$((failed + bad)) skipped=$((skipped + skip))
	if [ "$bad" -gt 0 ]; then
		mark=FAIL
		failures+=("$name")
		sed 's/^/    | /' "$OUTPUT" | tail -n 200
	fi
	printf '%-4s %-44s %4d passed %3d failed %3d skipped  %s s' "$mark" "$name" "$ok" "$bad" "$skip" "$seconds"
	[ "$bad" -gt 0 ] && [ "$status" -ne 0 ] && printf '  (status %d)' "$status"
	printf '\n'
}

seconds_since() { # a value of $EPOCHREALTIME
	awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }'
}

started=() # "KIND NAME" of what was started
recorded=0 # of them, the first

# start KIND NAME CMD...: beside the others, TEST_JOBS of them at once
start() {
	local kind=$1 name=$2
	shift 2
	[ "$(jobs -rp | wc -l)" -lt "$TEST_JOBS" ] || wait -n
	started+=("$kind $name")
	run_started "$SCRATCH/${#started[@]}" "$@" &
	record_started
}

run_started() { # FILE of its output, CMD...
	local OUTPUT=$1 start=$EPOCHREALTIME
	shift
	limited "$@"
	echo "$? $(seconds_since "$start")" >"$OUTPUT.over"
}

record_unit() { # NAME STATUS SECONDS
	record "$1" "$2" "$(sum_of '[  PASSED  ]')" "$(sum_of '[  FAILED  ]')" "$(sum_of '[  SKIPPED ]')" "$3"
}

record_script() { # NAME STATUS SECONDS
	local skip
	skip=$(grep -c '^ok .*# skip' "$OUTPUT")
	record "$1" "$2" $(($(grep -c '^ok ' "$OUTPUT") - skip)) "$(grep -c '^not ok ' "$OUTPUT")" "$skip" "$3"
	grep '^ok .*# skip' "$OUTPUT" | sed 's/^ok [0-9]* /     skipped: /'
}

# In the order in which they were started.
record_started() {
	local OUTPUT kind name status seconds
	while [ "$recorded" -lt ${#started[@]} ] && [ -s "$SCRATCH/$((recorded + 1)).over" ]; do
		OUTPUT=$SCRATCH/$((recorded + 1))
		read -r status seconds <"$OUTPUT.over"
		read -r kind name <<<"${started[recorded]}"
		"record_$kind" "$name" "$status" "$seconds"
		recorded=$((recorded + 1))
	done
}

all_over() {
	wait
	record_started
}

mpi_command() { # RANKS: fills MPIRUN
	MPIRUN=(mpirun -n "$1")
	[ "$OPEN_MPI" = yes ] || return 0
	MPIRUN+=(--oversubscribe --bind-to none --mca pml ob1 --mca btl "self,vader" --mca mpi_yield_when_idle 1)
	[ "$(id -u)" -eq 0 ] && MPIRUN+=(--allow-run-as-root)
	return 0
}

run_mpi() {
	local name=$1 start status counts ranks list
	list=$(sed -n 's/.*ranks:\([0-9 ]*\).*/\1/p' "tests/$name.c" | head -n 1)
	if [ -z "${list// /}" ]; then
		echo "tests/$name.c has no line \"ranks: 1 2 4\"" >"$OUTPUT"
		record "$name" 2 0 1 0 0.0
		return
	fi
	for ranks in $list; do
		start=$EPOCHREALTIME
		mpi_command "$ranks"
		OMP_NUM_THREADS=1 limited "${MPIRUN[@]}" "$BUILD/tests/$name"
		status=$?
		counts=$(sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed, \([0-9]*\) skipped$/\1 \2 \3/p' "$OUTPUT" | tail -n 1)
		# shellcheck disable=SC2086 # three numbers
		record "$name -n $ranks" $status ${counts:-0 0 0} "$(seconds_since "$start")"
	done
}

# skip NAME REASON: a test that cannot run here
skip() {
	skipped=$((skipped + 1))
	printf 'skip %-44s %s\n' "$1" "$2"
}

PATTERNS=("$@")
OPEN_MPI=no
mpirun --version 2>/dev/null | grep -q 'Open MPI' && OPEN_MPI=yes
shopt -s nullglob

# The sources say which tests there are: a program left over in the build folder is not run.
for source in tests/test_*.c; do
	name=$(basename "$source" .c)
	selected "$name" || continue
	case $name in
	test_cuda_host_*) [ -x "$BUILD/tests/$name" ] || command -v "${CXX:-g++}" >/dev/null || { skip "$name" "g++ is not installed"; continue; } ;;
	esac
	start unit "$name" "$BUILD/tests/$name"
done
all_over
for source in tests/mpi_*.c; do
	name=$(basename "$source" .c)
	selected "$name" || continue
	if [ -x "$BUILD/tests/$name" ] && command -v mpirun >/dev/null; then
		run_mpi "$name"
	else
		skip "$name" "built without MPI, or no mpirun"
	fi
done
# The simulated clusters are measured: each has the machine to itself.
for source in tests/*.bats; do
	name=$(basename "$source")
	selected "$name" || continue
	command -v bats >/dev/null || { skip "$name" "bats is not installed"; continue; }
	[[ $name == test_cluster* ]] && all_over
	start script "$name" bats --tap "$source"
	[[ $name == test_cluster* ]] && all_over
done
all_over

[ ${#failures[@]} -gt 0 ] && printf 'failed: %s\n' "${failures[@]}"
[ $((passed + failed)) -eq 0 ] && echo "no test ran"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
