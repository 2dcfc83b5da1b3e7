#!/bin/bash
# slurm.sh: a private Slurm on loopback: slurmctld, several slurmd and munged, all of one machine. Needs root and the
# packages slurmctld slurmd slurm-client munge. For jobs on one node each; for MPI over nodes take slurm-netns.sh, since
# several slurmd of one host get in each other's way with PMIx.
#
#   slurm.sh up [NODES]      2 nodes when not said; MPIDEF=pmix sets srun's default
#   slurm.sh env             prints the export of SLURM_CONF that clients need
#   slurm.sh down
#
# State is in $SLURM_DIR (/run/mts-slurm-local).
set -euo pipefail

STATE=${SLURM_DIR:-/run/mts-slurm-local}
# shellcheck source=tests/cluster/slurm-common.sh
. "$(dirname "$(readlink -f "$0")")/slurm-common.sh"

up() {
	local nodes=$1 host i
	host=$(hostname -s)
	start_munge
	write_conf "$host" 127.0.0.1 "${MPIDEF:-none}"
	echo "SlurmctldPort=36817" >>"$STATE/slurm.conf"
	for ((i = 0; i < nodes; i++)); do
		mkdir -p "$STATE/dn$i"
		echo "NodeName=n$i NodeHostname=$host NodeAddr=127.0.0.1 Port=$((36820 + i)) CPUs=4 RealMemory=4000 State=UNKNOWN"
	done >>"$STATE/slurm.conf"
	add_partition
	export SLURM_CONF=$STATE/slurm.conf
	slurmctld -c
	for ((i = 0; i < nodes; i++)); do
		slurmd -N "n$i"
	done
	wait_idle sinfo
	sinfo
}

case ${1:-} in
up) up "${2:-2}" ;;
env) echo "export SLURM_CONF=$STATE/slurm.conf" ;;
down) stop_slurm ;;
*) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
