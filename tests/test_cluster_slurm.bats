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
