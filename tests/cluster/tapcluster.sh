#!/bin/bash
# tapcluster.sh: the hosts of cluster.sh on a switch in user space (netsw.c) that also adds delay and shapes short messages
# exactly; for kernels without netem. Needs root, iproute2, /dev/net/tun and a C compiler.
#
#   tapcluster.sh up HOSTS RATE_MBIT DELAY_US [RACKS UPLINK_MBIT UPLINK_DELAY_US QUEUE_KB]
#   tapcluster.sh down
#
# Rate 0: no limit. Delays are one way. Then cluster.sh run, exec, status as always (rate has no effect here).
# The environment is that of cluster.sh.
set -euo pipefail

PREFIX=${CLUSTER_PREFIX:-mts}
STATE=${CLUSTER_DIR:-/run/$PREFIX-cluster}
NET=${CLUSTER_NET:-10.77.0}
HERE=$(dirname "$(readlink -f "$0")")
SLOTS=2

up() {
	local hosts=$1 rate=$2 delay=$3 racks=${4:-1} uplink=${5:-0} uplink_delay=${6:-0} queue=${7:-1024} i ns spaces=()
	"$HERE/cluster.sh" prepare
	trap '[ $? -eq 0 ] || down >/dev/null' EXIT
	"${CC:-cc}" -O2 -o "$STATE/netsw" "$HERE/netsw.c"
	for ((i = 0; i < hosts; i++)); do
		ns=$PREFIX-h$i
		ip netns add "$ns"
		ip -n "$ns" link set lo up
		spaces+=("/run/netns/$ns")
	done
	"$STATE/netsw" "$rate" "$delay" "$racks" "$uplink" "$uplink_delay" "$queue" "${spaces[@]}" >"$STATE/netsw.out" 2>&1 </dev/null &
	echo $! >"$STATE/netsw.pid"
	disown
	for ((i = 0; i < 100; i++)); do
		grep -q ready "$STATE/netsw.out" && break
		sleep 0.02
	done
	grep -q ready "$STATE/netsw.out" || { cat "$STATE/netsw.out" >&2; exit 1; }
	for ((i = 0; i < hosts; i++)); do
		ns=$PREFIX-h$i
		ip -n "$ns" addr add "$NET.$((i + 1))/24" dev eth0
		ip -n "$ns" link set eth0 up txqueuelen 1000
		"$HERE/cluster.sh" register "$PREFIX$i" "$ns" "rack$((i * racks / hosts))" "$NET.$((i + 1))" $SLOTS
	done
	cat "$STATE/hosts"
}

down() {
	if [ -e "$STATE/netsw.pid" ]; then
		kill "$(cat "$STATE/netsw.pid")" 2>/dev/null || true
		sleep 0.1 # its last words: frames, bytes, drops
		cat "$STATE/netsw.out"
	fi
	"$HERE/cluster.sh" down
}

case ${1:-} in
up) [ $# -ge 4 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 2; }; shift; up "$@" ;;
down) down ;;
*) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
