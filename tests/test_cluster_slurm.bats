# shellcheck disable=SC2016 # single quotes hold Perl
# megatune under a real Slurm (cluster/slurm.sh: daemons on loopback): srun starts the ranks, tune finds srun by itself.

load cli_support

setup_file() {
	export SLURM_DIR=/run/mtb-slurm-local SLURM=$BATS_TEST_DIRNAME/cluster/slurm.sh
	[ "$(id -u)" -eq 0 ] || { export WHY="a Slurm of our own needs root"; return 0; }
	for tool in srun slurmctld slurmd munged; do
		PATH=$PATH:/usr/sbin command -v $tool >/dev/null || { export WHY="no $tool"; return 0; }
	done
	"$SLURM" down >/dev/null 2>&1 || true # of a run that was killed
	PATH=$PATH:/usr/sbin "$SLURM" up 1 >&2 || { "$SLURM" down >&2; export WHY="the daemons of Slurm do not start here"; return 0; }
	eval "$("$SLURM" env)"
	srun --mpi=list 2>&1 | grep -q pmix || { "$SLURM" down >&2; export WHY="this Slurm has no PMIx"; }
}

teardown_file() {
	[ -n "${WHY:-}" ] || "$SLURM" down
}

setup() {
	[ -z "${WHY:-}" ] || skip "$WHY"
	start_here
	eval "$("$SLURM" env)"
}

@test "srun starts the ranks of a run file" {
	attempt srun -N 1 -n 4 --mpi=pmix megatune train "$ROOT/examples/runs/llama-tiny-tp2-pp2.yaml" --steps 2 --peak_tflops 1 --json
	finished
	check '$d->{steps} == 2 && $d->{first_loss} > 0 && @{$d->{memory_bytes}} == 2' "$OUT"
}

@test "in an allocation of Slurm tune starts its ranks by srun" {
	attempt salloc -Q -N 1 -n 2 megatune tune gpt-tiny --gpus 2 --gbs 2 --seq 16 --probe-budget-s 1 --profile-budget-s 1 --trial-steps 1 \
		--top 1 --no-report --json
	finished
	check '(grep { exists $_->{measured_step_time_s} } @{$d->{candidates}}) == 1' "$OUT"
}

# export_job TRAIN_OPTION...: run.yaml of two ranks and its script job.sh
export_job() {
	printf 'model: gpt-tiny\nlayout: {dp: 2, mbs: 1, gbs: 4, seq: 16, threads: 1}\ntrain: {peak_tflops: 1, %s}\n' "$1" >run.yaml
	attempt megatune export run.yaml --to slurm --time 00:10:00 --partition main --out job.sh
	finished
	bash -n job.sh
	if command -v shellcheck >/dev/null; then shellcheck job.sh; fi
}

@test "an exported script trains, by PMIx and without MPI" {
	export_job "steps: 3"
	for kind in pmix none; do
		attempt env SLURM_MPI_TYPE=$kind sbatch --wait --output="$kind.log" job.sh
		cat "$kind.log"
		finished
		[ "$(grep -c '^step ' "$kind.log")" -eq 3 ]
		! grep -q 'error' "$kind.log"
	done
	# the same losses, whatever the ranks talk through
	[ "$(sed -n 's/^step *\([0-9]* *loss [0-9.]*\).*/\1/p' pmix.log)" = "$(sed -n 's/^step *\([0-9]* *loss [0-9.]*\).*/\1/p' none.log)" ]
}

@test "a failure is the job's, with megatune's exit code" {
	export_job "steps: 3"
	sed -i 's/gbs: 4/gbs: 3/' run.yaml # since the export
	attempt sbatch --wait --output=bad.log job.sh
	cat bad.log
	[ "$status" -eq 2 ]
	grep -q 'run.yaml' bad.log
}

# await TEXT FILE: at most 30 s
await() {
	local i
	for ((i = 0; i < 300; i++)); do
		grep -qs "$1" "$2" && return 0
		sleep 0.1
	done
	echo "no '$1' in $2:"
	cat "$2"
	return 1
}

@test "a job whose time runs out saves, is queued again and goes on" {
	local job
	export_job "steps: 100000, save_dir: ckpt, resume: auto"
	job=$(sbatch --parsable --output=long.log job.sh)
	await '^step     5 ' long.log
	scancel --batch --signal=USR1 "$job" # as Slurm does before the limit
	await 'it is saved' long.log
	for ((i = 0; i < 100; i++)); do
		scontrol show job "$job" >state
		grep -q 'Restarts=1' state && break
		sleep 0.1
	done
	cat state long.log | tail -n 60
	grep -q 'Restarts=1' state
	attempt megatune ckpt list ckpt --json
	finished
	scontrol update JobId="$job" StartTime=now || true # Slurm lets a queued job rest for two minutes
	sed -i 's/steps: 100000/steps: 3/' run.yaml # its steps are done: it finds that and ends
	for ((i = 0; i < 200; i++)); do
		scontrol show job "$job" >state
		grep -Eq 'JobState=(COMPLETED|FAILED)' state && break
		sleep 0.1
	done
	cat state
	if grep -q 'JobState=PENDING' state; then
		scancel "$job"
		skip "this Slurm keeps a job waiting after it was queued again"
	fi
	grep -q 'JobState=COMPLETED' state
	grep -q 'ExitCode=0:0' state
}
