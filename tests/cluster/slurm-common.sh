# shellcheck shell=bash
# slurm-common.sh: what slurm.sh and slurm-netns.sh share; sourced. STATE is the folder of everything.

# start_munge: a key and a munged of our own, beside any that the machine runs
start_munge() {
	mkdir -p "$STATE"/{ctld,log,run}
	chmod 700 "$STATE/run"
	if [ ! -f "$STATE/munge.key" ]; then
		dd if=/dev/urandom bs=1 count=1024 of="$STATE/munge.key" status=none
		chmod 400 "$STATE/munge.key"
	fi
	munged --force --key-file="$STATE/munge.key" --socket="$STATE/run/munge.sock" --pid-file="$STATE/run/munged.pid" \
		--log-file="$STATE/log/munged.log" --seed-file="$STATE/munge.seed"
}

# write_conf HOST ADDRESS MPI: slurm.conf but for its nodes and its partition. No cgroups, no accounting, nothing that
# needs a systemd; config_overrides believes the CPUs that the nodes claim.
write_conf() {
	cat >"$STATE/slurm.conf" <<-CONF
		ClusterName=test
		SlurmctldHost=$1($2)
		SlurmUser=root
		AuthType=auth/munge
		CredType=cred/munge
		AuthInfo=socket=$STATE/run/munge.sock
		StateSaveLocation=$STATE/ctld
		SlurmdSpoolDir=$STATE/d%n
		SlurmctldPidFile=$STATE/run/slurmctld.pid
		SlurmdPidFile=$STATE/run/slurmd-%n.pid
		SlurmctldLogFile=$STATE/log/slurmctld.log
		SlurmdLogFile=$STATE/log/slurmd-%n.log
		ProctrackType=proctrack/linuxproc
		TaskPlugin=task/none
		SelectType=select/cons_tres
		SelectTypeParameters=CR_Core
		SchedulerType=sched/backfill
		MpiDefault=$3
		ReturnToService=2
		SlurmdParameters=config_overrides
		JobAcctGatherType=jobacct_gather/none
		SlurmdTimeout=30
		InactiveLimit=0
		MailProg=/bin/true
	CONF
}

add_partition() {
	echo "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES" >>"$STATE/slurm.conf"
}

# wait_idle SINFO...: until the command that prints the states of nodes says only "idle", at most 10 s
wait_idle() {
	local i
	for ((i = 0; i < 100; i++)); do
		[ "$("$@" -h -o %T 2>/dev/null | sort -u)" = idle ] && return 0
		sleep 0.1
	done
	echo "slurm: the nodes are not idle after 10 s; logs are in $STATE/log" >&2
	return 1
}

# stop_slurm: every daemon whose pid file is ours; then the state goes
stop_slurm() {
	local file pids=() pid i
	for file in "$STATE"/run/slurmd-*.pid "$STATE"/run/slurmctld.pid "$STATE"/run/munged.pid; do
		[ -f "$file" ] || continue
		pid=$(cat "$file")
		kill "$pid" 2>/dev/null && pids+=("$pid")
	done
	for pid in "${pids[@]}"; do
		for ((i = 0; i < 50; i++)); do
			kill -0 "$pid" 2>/dev/null || break
			sleep 0.1
		done
	done
	rm -rf "$STATE"
	echo down
}
