#!/bin/bash
# rehearsal.sh: does the dry run foretell the step time of whole jobs? 30 layouts of 8 to 32 ranks, of every schedule, kind of
# context parallelism, expert parallelism and ZeRO stage, are rehearsed (docs/rehearsal.md): every rank is a process of this machine,
# its kernels sleep for their times, its messages are sent. Times are stretched so that a step takes STEP_S seconds, which keeps the
# processors out of it; the message sizes are not: a letter of 32 bytes says when each piece of work began.
# Then the bubbles of 8 stages and 32 micro-batches beside the formulas of the papers, with build/tests/mpi_engine_rehearsal.
#
# Prints a table (seconds of the job) and a last line "N passed, N failed, N skipped": the median error must be at most 5%, every
# rank's memory must be what the dry run says, bubbles within 5% of the formulas. Exit 0, 1 when one failed, 77 where it cannot run.
#
# With -c messages are real: 4 hosts of 2 ranks are simulated on this machine (cluster/cluster.sh; needs root, iproute2), NICs
# 1 Gbit/s, and probed for 80 s; 10 layouts of 8 ranks of a small model then send all their bytes over those links, beside kernels that
# sleep for as long as at 20 GFLOP/s a rank, and the clock is the real one. With -C they are 16 hosts of 4 ranks, which are not probed
# but described (tests/data/machines/cluster-64.yaml, kernels at 3 GFLOP/s a rank), and 12 layouts of 16 to 64 ranks.
#
#   tests/rehearsal.sh [-c | -C] [-s STEP_S] [-m MACHINE.yaml] [-o FILE] [FIRST [LAST]]    BUILD (build) says where the program is
# It measures times: run it on a quiet machine; FIRST and LAST run a part of the list, -o appends its lines to FILE and judges all
# that are in it. With -c MACHINE.yaml is the probe's, made where there is none.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

STEP_S=5 MACHINE='' OUT='' CLUSTERED=''
while getopts cCs:m:o: option; do
	case $option in
	c) CLUSTERED=probed ;;
	C) CLUSTERED=described ;;
	s) STEP_S=$OPTARG ;;
	m) MACHINE=$OPTARG ;;
	o) OUT=$OPTARG ;;
	*) exit 2 ;;
	esac
done
shift $((OPTIND - 1))
FIRST=${1:-1} LAST=${2:-99}
PROGRAM=$(readlink -f "${BUILD:-build}")/megatune

skip() { echo "rehearsal.sh: $1"; echo "0 passed, 0 failed, 1 skipped"; exit 77; }
for tool in mpirun perl; do command -v $tool >/dev/null || skip "no $tool"; done
[ -x "$PROGRAM" ] || skip "no $PROGRAM: run make"
TABLE=$(mktemp "$(readlink -f "${BUILD:-build}")/rehearsal.XXXXXX") # simulated hosts have a /tmp of their own
trap 'rm -f "$TABLE"*' EXIT

# RANKS MODEL OPTION=VALUE...; what is not said: seq 512, mbs 1, 1F1B
LAYOUTS='
8 llama2-7b tp=2 pp=2 dp=2 gbs=16 zero=1
8 llama2-7b pp=8 gbs=16
8 llama2-7b pp=4 dp=2 vp=2 gbs=16
8 llama2-7b tp=2 pp=4 schedule=zb-h1 gbs=16
8 llama2-7b tp=2 pp=4 vp=2 schedule=zb-v gbs=12
8 llama2-7b cp=4 dp=2 cp_kind=ring gbs=8 seq=2048
8 llama2-7b tp=2 cp=4 cp_kind=ulysses gbs=4 seq=2048
8 llama2-7b tp=4 dp=2 zero=2 gbs=8
8 llama2-7b dp=8 zero=3 gbs=16
8 mixtral-8x7b tp=1 dp=8 ep=8 gbs=8
12 llama2-7b tp=1 pp=6 dp=2 gbs=24 recompute=full
12 llama2-7b tp=2 pp=3 dp=2 gbs=12 sp=true zero=1
16 llama2-7b tp=4 pp=2 dp=2 sp=true gbs=16 zero=1
16 llama2-7b pp=4 dp=4 vp=4 gbs=32
16 llama2-7b tp=2 pp=8 schedule=zb-h1 gbs=24
16 llama2-7b tp=2 pp=4 dp=2 vp=2 schedule=zb-v gbs=16
16 llama2-7b pp=4 cp=4 cp_kind=allgather gbs=8 seq=2048
16 llama2-7b tp=2 cp=4 dp=2 cp_kind=hybrid cp_inner=2 gbs=4 seq=2048
16 llama2-7b tp=2 dp=8 zero=3 zero_group=4 gbs=16
16 mixtral-8x7b pp=2 dp=8 ep=4 gbs=16
16 mixtral-8x7b tp=2 pp=2 dp=4 ep=4 sp=true zero=1 gbs=16
16 llama2-7b pp=2 dp=8 zero=2 gbs=32
24 llama2-7b tp=2 pp=4 dp=3 gbs=24 zero=1
24 llama2-7b pp=8 dp=3 gbs=48
32 llama2-7b tp=4 pp=4 dp=2 sp=true gbs=16 zero=1
32 llama2-7b pp=8 dp=4 vp=2 gbs=64 zero=1
32 llama2-7b tp=2 pp=8 dp=2 schedule=zb-h1 gbs=32
32 llama2-7b tp=2 pp=4 cp=2 dp=2 sp=true gbs=16 seq=1024
32 mixtral-8x7b pp=4 dp=8 ep=8 zero=1 gbs=32
32 llama2-7b tp=8 pp=4 vp=2 sp=true gbs=16
'

# Of the small model, seq 256; of the one with 8 experts in each layer.
CLUSTER_LAYOUTS="
8 $TABLE.dense tp=2 pp=2 dp=2 gbs=16 zero=1
8 $TABLE.dense pp=8 gbs=16
8 $TABLE.dense pp=4 dp=2 vp=2 gbs=16
8 $TABLE.dense tp=2 pp=4 schedule=zb-h1 gbs=16
8 $TABLE.dense tp=2 pp=4 vp=2 schedule=zb-v gbs=12
8 $TABLE.dense dp=8 zero=3 gbs=16
8 $TABLE.dense tp=2 dp=4 zero=2 gbs=16
8 $TABLE.dense tp=2 cp=2 dp=2 cp_kind=ring gbs=16
8 $TABLE.dense pp=2 cp=2 dp=2 cp_kind=ulysses gbs=16
8 $TABLE.experts pp=2 dp=4 ep=4 gbs=16
"

DESCRIBED_LAYOUTS="
16 $TABLE.dense tp=4 pp=4 gbs=8
16 $TABLE.dense tp=2 cp=4 dp=2 cp_kind=ring gbs=8
32 $TABLE.dense tp=4 pp=8 gbs=16
32 $TABLE.dense pp=4 dp=8 vp=2 gbs=32
32 $TABLE.dense tp=2 pp=8 dp=2 schedule=zb-h1 gbs=16
32 $TABLE.dense tp=4 pp=4 dp=2 vp=2 schedule=zb-v gbs=16
32 $TABLE.dense tp=4 dp=8 zero=2 gbs=16
32 $TABLE.dense tp=4 dp=8 zero=3 gbs=16
32 $TABLE.dense tp=2 pp=4 cp=2 dp=2 cp_kind=ulysses gbs=16
32 $TABLE.dense tp=2 pp=2 cp=4 dp=2 cp_kind=ring gbs=8
32 $TABLE.experts pp=4 dp=8 ep=4 gbs=32
64 $TABLE.dense tp=4 pp=8 dp=2 zero=1 gbs=32
"

MPIRUN=(mpirun --oversubscribe --bind-to none --mca pml ob1 --mca btl "self,vader" --mca mpi_yield_when_idle 1)
[ "$(id -u)" -eq 0 ] && MPIRUN+=(--allow-run-as-root)
REHEARSE=(--step_wall_s "$STEP_S")
SEQ=512

# raise: the cluster, its models, and its machine file: probe's, or what is known of it
raise() {
	local hosts=4 slots=2
	export CLUSTER_PREFIX=mtr SHARES=65536 # ranks sleep most of the time, and wake late where others come first
	local cluster=$PWD/tests/cluster/cluster.sh
	if [ "$(id -u)" -ne 0 ] || ! command -v tc >/dev/null; then skip "simulated hosts need root and iproute2"; fi
	"$cluster" down >/dev/null 2>&1 || true
	trap '"$PWD"/tests/cluster/cluster.sh down >/dev/null 2>&1; rm -f "$TABLE"*' EXIT
	[ "$CLUSTERED" = probed ] || { hosts=16 slots=4; }
	"$cluster" up -n $hosts -r 1gbit -s $slots -c default >/dev/null || skip "this kernel or container refuses namespaces or tc"
	MPIRUN=("$cluster" run) SEQ=256
	REHEARSE=(--links real --timed_steps 2 --dtype f32)
	sed 's/^  name: .*/  name: rehearsal-8l/; s/^  layers: .*/  layers: 8/; s/^  seq: .*/  seq: 256/' tests/data/cluster-model.yaml >"$TABLE.dense"
	{ sed 's/8l$/8e/' "$TABLE.dense"; printf '  experts: 8\n  top_k: 2\n  expert_ffn: 512\n'; } >"$TABLE.experts"
	if [ "$CLUSTERED" = described ]; then
		LAYOUTS=$DESCRIBED_LAYOUTS MACHINE=${MACHINE:-tests/data/machines/cluster-64.yaml}
		return
	fi
	LAYOUTS=$CLUSTER_LAYOUTS MACHINE=${MACHINE:-$TABLE.machine}
	[ -s "$MACHINE" ] || "${MPIRUN[@]}" -n 8 "$PROGRAM" probe --out "$MACHINE" --budget-s 80 --threads 1 >"$TABLE.log" 2>&1 ||
		{ tail -5 "$TABLE.log"; exit 1; }
	sed '/^rates:/,/^[a-z]*:$/s/ tflops: .*/ tflops: 0.02/' "$MACHINE" >"$TABLE.slow"
	MACHINE=$TABLE.slow
}

if [ -n "$CLUSTERED" ]; then
	raise
else
	MACHINE=${MACHINE:-tests/data/machines/racks-64.yaml}
fi

# line FILE: what is told of a rehearsal: ranks, layout, seconds by dry run, rehearsed and by the job's clock, error, pace, late, memory
line() {
	# shellcheck disable=SC2016 # Perl's
	perl -MJSON::PP -0777 -e 'my $d = decode_json(<>); printf "%5d  %-13s %-42s %9.4f %9.4f %9.4f %+7.2f%% %8.3f %7.1f  %5.1f%%  %s\n",
		@{$d}{qw(ranks model layout dry_step_s rehearsed_step_s clock_step_s)}, 100 * $d->{error_frac}, $d->{pace}, 1e3 * $d->{late_s},
		100 * $d->{bubble_frac}, $d->{memory_equal} ? "equal" : "DIFFERS: $d->{memory_differs}"' "$1"
}

printf '%5s  %-13s %-42s %9s %9s %9s %8s %8s %7s  %6s  %s\n' ranks model layout 'dry s' 'rehearsed' 'by clock' error stretch 'late ms' waiting memory
number=0
while read -r ranks model options; do
	[ -n "$ranks" ] || continue
	number=$((number + 1))
	if [ $number -lt "$FIRST" ] || [ $number -gt "$LAST" ]; then continue; fi
	run=$TABLE.yaml
	if [ -f "$model" ]; then cat "$model"; else echo "model: $model"; fi >"$run"
	printf 'layout:\n  seq: %d\n  mbs: 1\n  threads: 1\n' "$SEQ" >>"$run"
	arguments=()
	for option in $options; do arguments+=("--$option"); done
	if ! OMP_NUM_THREADS=1 "${MPIRUN[@]}" -n "$ranks" "$PROGRAM" rehearse "$run" --machine "$MACHINE" "${REHEARSE[@]}" \
		"${arguments[@]}" --json >"$TABLE.json" 2>"$TABLE.log" </dev/null && [ ! -s "$TABLE.json" ]; then
		echo "failed: $ranks $model $options: $(grep -m 1 . "$TABLE.log")" | tee -a "$TABLE" ${OUT:+"$OUT"}
	else
		line "$TABLE.json" | tee -a "$TABLE" ${OUT:+"$OUT"}
	fi
	rm -f "$TABLE".json "$TABLE".log "$run"
done <<<"$LAYOUTS"

bubbles=0
if [ -x "${BUILD:-build}/tests/mpi_engine_rehearsal" ] && [ "$FIRST" -eq 1 ] && [ -z "$CLUSTERED" ]; then
	"${MPIRUN[@]}" -n 8 "${BUILD:-build}/tests/mpi_engine_rehearsal" "$STEP_S" >"$TABLE.bubbles" 2>&1 || bubbles=1
	grep -E '^FAILED|bubble' "$TABLE.bubbles" || bubbles=1
	rm -f "$TABLE.bubbles"
fi

awk -v bubbles="$bubbles" '
/^failed:/ { failed++; next }
{ e = $0; sub(/%.*/, "", e); sub(/.* /, "", e); e += 0; error[++n] = e < 0 ? -e : e; equal += $NF == "equal" }
END {
	for (i = 1; i <= n; i++) for (k = i + 1; k <= n; k++) if (error[k] < error[i]) { t = error[i]; error[i] = error[k]; error[k] = t }
	median = n % 2 ? error[(n + 1) / 2] : (error[n / 2] + error[n / 2 + 1]) / 2
	printf "%d layouts: error %.2f%% at the median, %.2f%% at most; memory equal in %d\n", n, median, error[n], equal
	bad = (n == 0 || median > 5) + (equal < n) + (failed > 0) + bubbles
	printf "%d passed, %d failed, 0 skipped\n", 4 - bad, bad
	exit bad > 0
}' "${OUT:-$TABLE}"
