# shellcheck shell=bash disable=SC2034 # variables of those who read it
# What gpu_check.sh and gpu_bench.sh share: where the programs are, and how they are started.
#
#   from the source tree    programs of $BUILD and $BUILD/tests, ranks by the machine's mpirun, without one by megatune launch
#   from a bundle           programs of its bin/, everything by its `run`, ranks too
# DEVICE (cuda): the kind of device. "cpu" and "late" (a stand-in that runs behind the host) show that the scripts themselves work.

here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
DEVICE=${DEVICE:-cuda}
SIZE=${SIZE:-all}
if [ -x "$here/run" ]; then
	RUN=("$here/run") PROGRAMS=$here/bin PEER=$here/share/megatune/peer_pytorch.py
	MEGATUNE=(megatune)
	ranks() { RUN_RANKS=("$here/run" -n "$1"); }
else
	cd "$here/.." || exit 1
	BUILD=${BUILD:-build}
	RUN=() PROGRAMS=$BUILD/tests PEER=tests/peer_pytorch.py
	MEGATUNE=("$BUILD/megatune")
	export MEGATUNE_PLUGINS=${MEGATUNE_PLUGINS:-$(readlink -f "$BUILD")} MEGATUNE_DATA=${MEGATUNE_DATA:-$PWD/examples}
	# Without an Open MPI that the programs were built with, ranks find each other by themselves.
	ranks() {
		if ! mpirun --version 2>/dev/null | grep -q 'Open MPI' || ! ldd "$PROGRAMS/gpu_engine" 2>/dev/null | grep 'libmpi\.' >/dev/null; then
			RUN_RANKS=("$BUILD/megatune" launch -n "$1" --)
			return
		fi
		RUN_RANKS=(mpirun -n "$1" --oversubscribe --bind-to none --mca pml ob1 --mca btl "self,vader" --mca mpi_yield_when_idle 1)
		[ "$(id -u)" -ne 0 ] || RUN_RANKS+=(--allow-run-as-root)
	}
fi
program() { # NAME: the path of a program of the check, for RUN
	if [ ${#RUN[@]} -gt 0 ]; then echo "$1"; else echo "$PROGRAMS/$1"; fi
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM

left_s() { echo $((LIMIT_S - SECONDS)); }

# limited SECONDS CMD...: output to $scratch/out; 124 or 137 when the time was over, its own or that of all
limited() {
	local most=$1 left status
	shift
	left=$(left_s)
	if [ "$left" -le 5 ]; then
		echo "not run: the limit of $LIMIT_S s for all is over" >"$scratch/out"
		return 124
	fi
	[ "$left" -ge "$most" ] || most=$left
	timeout -k 5 "$most" "$@" >"$scratch/out" 2>&1 </dev/null
	status=$?
	if [ $status -eq 124 ] || [ $status -eq 137 ]; then echo "ended: it took longer than $most s" >>"$scratch/out"; fi
	return $status
}

# Versions of what it runs on.
describe_machine() {
	"${RUN[@]}" "${MEGATUNE[@]}" --version 2>&1
	if [ "$DEVICE" = cuda ] && command -v nvidia-smi >/dev/null; then
		nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv,noheader 2>&1 | sed 's/^/GPU      /'
	fi
	"${RUN[@]}" "${MEGATUNE[@]}" doctor 2>&1 | grep -E '^[a-z]+ +(GPU|GPU links|CUDA) ' | cut -c1-160 || true
}
