#!/bin/bash
# slurm-netns.sh: Slurm over the simulated hosts of cluster.sh or tapcluster.sh: one slurmd a host, slurmctld on the first.
# Raise the cluster first; clients run on a host: cluster.sh exec mts0 env SLURM_CONF=... srun -N 4 -n 8 --mpi=pmix ./program
#
#   slurm-netns.sh up        TOPO=1 adds topology/tree made from the racks
#   slurm-netns.sh env       prints the export of SLURM_CONF that clients need
#   slurm-netns.sh down      before the cluster's
#
# State is in $SLURM_DIR (/run/mts-slurm). Needs root and the packages slurmctld slurmd slurm-client munge.
set -euo pipefail

PREFIX=${CLUSTER_PREFIX:-mts}
CLUSTER=$(dirname "$(readlink -f "$0")")/cluster.sh
HOSTS=${CLUSTER_DIR:-/run/$PREFIX-cluster}/hosts
STATE=${SLURM_DIR:-/run/$PREFIX-slurm}
# shellcheck source=tests/cluster/slurm-common.sh
. "$(dirname "$(readlink -f "$0")")/slurm-common.sh"

write_topology() {
	echo "TopologyPlugin=topology/tree" >>"$STATE/slurm.conf"
	awk '{ nodes[$3] = nodes[$3] (nodes[$3] ? "," : "") $1 }
		END {
			for (rack in nodes) {
				print "SwitchName=" rack " Nodes=" nodes[rack]
				racks = racks (racks ? "," : "") rack
			}
			print "SwitchName=core Switches=" racks
		}' "$HOSTS" >"$STATE/topology.conf"
}

up() {
	local first address host
	[ -e "$HOSTS" ] || { echo "slurm-netns.sh: no cluster is up; start one with cluster.sh up" >&2; exit 1; }
	read -r first _ _ address <"$HOSTS"
	start_munge
	write_conf "$first" "$address" pmix
	while read -r host _ _ address; do
		mkdir -p "$STATE/d$host"
		echo "NodeName=$host NodeAddr=$address CPUs=2 RealMemory=4000 State=UNKNOWN"
	done <"$HOSTS" >>"$STATE/slurm.conf"
	[ -z "${TOPO:-}" ] || write_topology
	add_partition
	export SLURM_CONF=$STATE/slurm.conf
	"$CLUSTER" exec "$first" slurmctld -c
	while read -r host _; do
		"$CLUSTER" exec "$host" slurmd -N "$host" </dev/null
	done <"$HOSTS"
	wait_idle "$CLUSTER" exec "$first" sinfo
	"$CLUSTER" exec "$first" sinfo
}

case ${1:-} in
up) up ;;
env) echo "export SLURM_CONF=$STATE/slurm.conf" ;;
down) stop_slurm ;;
*) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
