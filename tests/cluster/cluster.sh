#!/bin/bash
# cluster.sh: a cluster of hosts simulated on one Linux machine. Needs root and iproute2.
#
# A host is a network namespace plus a UTS namespace, so it has its own name and address, and inside of it its own
# /etc/hosts and an empty /tmp (keep programs and data elsewhere). The hosts of a rack hang off one bridge, which lives in
# a namespace of its own; racks are joined to rack 0 by an uplink. NICs and uplinks are shaped by tc's token bucket.
# Nothing is added to the machine's own network, and no packet can leave.
#
#   cluster.sh up [-n HOSTS] [-r NIC_RATE] [-R RACKS] [-u UPLINK_RATE] [-s SLOTS] [-c CONGESTION_CONTROL] [-m MTU]
#   cluster.sh run [MPIRUN_ARGUMENT...]   mpirun, started on the first host (-n, -N, --map-by ...)
#   cluster.sh exec HOST COMMAND...       a command on a host
#   cluster.sh rate HOST|all RATE         changes the rate of a NIC; "none" lifts the limit
#   cluster.sh status                     hosts, their racks, addresses and shaping
#   cluster.sh down
#
# Rates as tc writes them: 1gbit, 250mbit. Defaults: 4 hosts, 1 rack, 1gbit NICs, no limit on uplinks, 2 slots a host.
# Environment: CLUSTER_PREFIX (mts: hosts are mts0, mts1, ...), CLUSTER_DIR (state), CLUSTER_NET (first three numbers of
# the addresses), BURST and QLAT (of the token bucket), SHARES (of the cpu cgroup that all hosts share).
set -euo pipefail

PREFIX=${CLUSTER_PREFIX:-mts}
STATE=${CLUSTER_DIR:-/run/$PREFIX-cluster}
NET=${CLUSTER_NET:-10.77.0}
SELF=$(readlink -f "$0")
ROOT=$(readlink -f "$(dirname "$SELF")/../..") # of the checkout
CGROUP=/sys/fs/cgroup/cpu/$PREFIX

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$SELF"; }
die() { echo "cluster.sh: $*" >&2; exit 1; }
inside() { local ns=$1; shift; ip netns exec "$ns" "$@"; }

# $STATE/hosts has a line for each host: name, namespace, rack, address.
need_up() { [ -e "$STATE/hosts" ] || die "no cluster is up ($STATE); start one with: cluster.sh up"; }

# shape NAMESPACE DEVICE RATE. The burst holds more than one 64 KiB segment of the sender's offload: with less, tbf cuts
# segments up and the processor becomes the limit near 0.25 GB/s. The price: short messages pass above the rate.
shape() {
	inside "$1" tc qdisc del dev "$2" root 2>/dev/null || true
	[ "$3" = none ] && return 0
	inside "$1" tc qdisc add dev "$2" root tbf rate "$3" burst "${BURST:-128kb}" latency "${QLAT:-20ms}"
}

# add_rack INDEX MTU UPLINK_RATE: a bridge in its own namespace, joined to the bridge of rack 0
add_rack() {
	local k=$1 mtu=$2 uplink=$3 ns=$PREFIX-sw$1 core=$PREFIX-sw0
	ip netns add "$ns"
	ip -n "$ns" link set lo up
	ip -n "$ns" link add br0 type bridge
	ip -n "$ns" link set br0 type bridge stp_state 0 forward_delay 0
	ip -n "$ns" link set br0 mtu "$mtu" up
	[ "$k" -eq 0 ] && return 0
	ip -n "$core" link add "up$k" mtu "$mtu" type veth peer name up0 mtu "$mtu" netns "$ns"
	ip -n "$core" link set "up$k" master br0 up
	ip -n "$ns" link set up0 master br0 up
	shape "$core" "up$k" "$uplink"
	shape "$ns" up0 "$uplink"
}

# add_host INDEX RACK MTU NIC_RATE CONGESTION_CONTROL SLOTS
add_host() {
	local i=$1 k=$2 mtu=$3 rate=$4 congestion=$5 slots=$6
	local host=$PREFIX$i ns=$PREFIX-h$i switch=$PREFIX-sw$k address=$NET.$(($1 + 1))
	ip netns add "$ns"
	ip -n "$ns" link set lo up
	ip -n "$ns" link add eth0 mtu "$mtu" type veth peer name "p$i" mtu "$mtu" netns "$switch"
	ip -n "$switch" link set "p$i" master br0 up
	ip -n "$ns" addr add "$address/24" dev eth0
	ip -n "$ns" link set eth0 up
	[ "$congestion" = default ] || inside "$ns" sh -c "echo $congestion >/proc/sys/net/ipv4/tcp_congestion_control"
	shape "$ns" eth0 "$rate"
	shape "$switch" "p$i" "$rate"
	register "$host" "$ns" "rack$k" "$address" "$slots"
}

# register HOST NAMESPACE RACK ADDRESS SLOTS: its UTS namespace (kept alive by a bind mount), its /tmp, and its lines in
# the tables. Also called by tapcluster.sh.
register() {
	mkdir -p "$STATE/tmp/$1"
	touch "$STATE/uts/$1"
	unshare --uts="$STATE/uts/$1" hostname "$1"
	echo "$1 $2 $3 $4" >>"$STATE/hosts"
	echo "$1 slots=$5" >>"$STATE/hostfile"
	echo "$4 $1" >>"$STATE/etchosts"
}

# prepare: the empty tables. A namespace file must be bound below a private mount.
prepare() {
	[ -e "$STATE/hosts" ] && die "a cluster is up already ($STATE); end it with: cluster.sh down"
	[ "$(id -u)" -eq 0 ] || die "namespaces need root"
	mkdir -p "$STATE/uts"
	: >"$STATE/hosts"
	: >"$STATE/hostfile"
	echo "127.0.0.1 localhost" >"$STATE/etchosts"
	mountpoint -q "$STATE/uts" || mount --bind "$STATE/uts" "$STATE/uts"
	mount --make-private "$STATE/uts"
}

up() {
	local hosts=4 rate=1gbit racks=1 uplink=none congestion=bbr mtu=1500 slots=2 option i
	while getopts n:r:R:u:c:m:s: option; do
		case $option in
		n) hosts=$OPTARG ;;
		r) rate=$OPTARG ;;
		R) racks=$OPTARG ;;
		u) uplink=$OPTARG ;;
		c) congestion=$OPTARG ;;
		m) mtu=$OPTARG ;;
		s) slots=$OPTARG ;;
		*) usage >&2; exit 2 ;;
		esac
	done
	prepare
	trap '[ $? -eq 0 ] || "$SELF" down >/dev/null' EXIT # half a cluster is none
	for ((i = 0; i < racks; i++)); do
		add_rack $i "$mtu" "$uplink"
	done
	for ((i = 0; i < hosts; i++)); do
		add_host $i $((i * racks / hosts)) "$mtu" "$rate" "$congestion" "$slots"
	done
	echo "up: $hosts hosts, $racks racks, NIC $rate, uplink $uplink, $slots slots a host, $congestion, MTU $mtu"
	cat "$STATE/hosts"
}

# The host's own /etc/hosts and /tmp are bound in a mount namespace of the command.
exec_on() {
	local host=$1 ns
	shift
	need_up
	ns=$(awk -v host="$host" '$1 == host { print $2 }' "$STATE/hosts")
	[ -n "$ns" ] || die "no host $host; there are: $(awk '{ printf "%s ", $1 }' "$STATE/hosts")"
	# A checkout below /tmp stays visible in the host's own /tmp.
	# shellcheck disable=SC2016 # expanded by that shell
	exec nsenter --net="/run/netns/$ns" --uts="$STATE/uts/$host" unshare -m \
		sh -c 'here=$(pwd); mount --bind "$0" /etc/hosts &&
			case $2 in /tmp/*) mkdir -p "$1/${2#/tmp/}" && mount --bind "$2" "$1/${2#/tmp/}" ;; esac &&
			mount --rbind "$1" /tmp && shift 2 && { cd "$here" 2>/dev/null || cd /; } && exec "$@"' \
		"$STATE/etchosts" "$STATE/tmp/$host" "$ROOT" "$@"
}

# What mpirun calls in place of ssh: rsh [-options] HOST "command line"
rsh() {
	local host=$1
	shift
	while [[ ${1:-} == -* ]]; do
		shift
	done
	exec "$SELF" exec "$host" sh -c "$*"
}

# All hosts share one cpu cgroup: else the setsid() of each host's daemon puts its ranks into a scheduling group of their
# own, and the sched_yield() of a rank that polls never lets the ranks of another host run (1 KB all-reduce: 50 ms, not 0.2).
launch() {
	local first
	need_up
	if mkdir -p "$CGROUP" 2>/dev/null && [ -w "$CGROUP/cgroup.procs" ]; then
		echo "${SHARES:-1024}" >"$CGROUP/cpu.shares"
		echo $$ >"$CGROUP/cgroup.procs"
	fi
	first=$(awk 'NR == 1 { print $1 }' "$STATE/hosts")
	exec "$SELF" exec "$first" env OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 \
		mpirun --mca plm rsh --mca plm_rsh_agent "$SELF rsh" --mca plm_rsh_no_tree_spawn 1 \
		--mca pml ob1 --mca btl self,vader,tcp --mca btl_tcp_if_include "$NET.0/24" --mca oob_tcp_if_include "$NET.0/24" \
		--mca mpi_yield_when_idle 1 --bind-to none --hostfile "$STATE/hostfile" "$@"
}

rate() {
	local which=$1 new=$2 found=no host ns rack
	need_up
	while read -r host ns rack _; do
		[ "$which" = all ] || [ "$which" = "$host" ] || continue
		found=yes
		shape "$ns" eth0 "$new"
		shape "$PREFIX-sw${rack#rack}" "p${ns##*-h}" "$new"
	done <"$STATE/hosts"
	[ $found = yes ] || die "no host $which; there are: $(awk '{ printf "%s ", $1 }' "$STATE/hosts")"
}

status() {
	local host ns rack address
	need_up
	while read -r host ns rack address; do
		echo "$host $ns $rack $address: $(inside "$ns" tc qdisc show dev eth0 | head -n 1)"
	done <"$STATE/hosts"
}

down() {
	local host ns
	if [ -e "$STATE/hosts" ]; then
		while read -r host ns _; do
			umount "$STATE/uts/$host" 2>/dev/null || true
		done <"$STATE/hosts"
	fi
	for ns in $(ip netns list | awk '{ print $1 }' | grep -E "^$PREFIX-(sw|h)[0-9]+$" || true); do
		ip netns del "$ns"
	done
	umount "$STATE/uts" 2>/dev/null || true
	rm -rf "$STATE"
	rmdir "$CGROUP" 2>/dev/null || true
	echo down
}

command=${1:-help}
[ $# -gt 0 ] && shift
case $command in
up) up "$@" ;;
prepare) prepare ;;
register) [ $# -eq 5 ] || die "register HOST NAMESPACE RACK ADDRESS SLOTS"; register "$@" ;;
run) launch "$@" ;;
exec) [ $# -ge 2 ] || die "exec HOST COMMAND..."; exec_on "$@" ;;
rsh) [ $# -ge 2 ] || die "rsh HOST COMMAND"; rsh "$@" ;;
rate) [ $# -eq 2 ] || die "rate HOST|all RATE"; rate "$@" ;;
status) status ;;
down) down ;;
*) usage; exit 2 ;;
esac
