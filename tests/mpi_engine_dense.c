/* Every dense layout of up to 8 ranks trains to the losses of one rank.
 * ranks: 8
 *
 * One job of 8 ranks runs all layouts of tp, pp, dp in {1,2,4,8} up to 8 ranks (layout_job.h): sequence parallelism on and off,
 * ZeRO-1 on and off, a small GPT and a small LLaMA, f32 and bf16; recompute none, selective and full, of all layers or the first,
 * in turn. The reference is one rank on the plain device in the same run. Tolerances: f32 1e-6 relative at the first of 20 steps,
 * 1e-4 at the last; bf16 2e-2. The same layout twice gives the same bits. What else a layout can be is in mpi_engine_layouts.c,
 * where any two choices meet but not all of them. */
#include "tests/layout_job.h"

enum { STEPS = 20, MOST_RANKS = 8, MOST_ROWS = 400 };

static const struct {
	const char *model;
	enum mt_dtype dtype;
} cases[] = {{"gpt-tiny", MT_F32}, {"llama-tiny", MT_F32}, {"gpt-tiny", MT_BF16}, {"llama-tiny", MT_BF16}};

enum { CASES = sizeof cases / sizeof cases[0] };

/* A layout: the powers of two, the switches, and a number that what is taken in turn follows. */
struct dense {
	int which, tp, pp, dp, sp, zero, turn;
};

static void set_run(struct mt_run *run, int which)
{
	mt_run_default(run);
	if (mt_model_load(&run->model, cases[which].model) != MT_OK) {
		fprintf(stderr, "%s\n", mt_error_message());
		exit(4);
	}
	run->layout.gbs = 8;
	run->layout.seq = 16;
	run->layout.mbs = 1;
	run->layout.dtype = (int)cases[which].dtype;
	run->layout.threads = 1;
	run->layout.bucket_bytes = 64 << 10; /* several buckets */
	run->train.steps = STEPS;
	run->train.warmup_steps = 2;
	run->train.lr = 3e-3;
}

/* All switches of one (tp, pp, dp). */
static int add_switches(struct dense *rows, int count, struct dense d)
{
	for (d.sp = 0; d.sp <= (d.tp > 1); d.sp++) {
		for (d.zero = 0; d.zero <= (d.dp > 1); d.zero++)
			rows[count++] = d;
	}
	return count;
}

/* Fills rows; returns how many. */
static int list_layouts(struct dense rows[MOST_ROWS])
{
	int count = 0;

	for (int which = 0; which < CASES; which++) {
		int turn = 0;

		for (int tp = 1; tp <= MOST_RANKS; tp *= 2) {
			for (int pp = 1; tp * pp <= MOST_RANKS; pp *= 2) {
				for (int dp = 1; tp * pp * dp <= MOST_RANKS; dp *= 2)
					count = add_switches(rows, count, (struct dense){which, tp, pp, dp, 0, 0, turn++});
			}
		}
	}
	return count;
}

static struct dense rows[MOST_ROWS];

static void make_row(const struct job *job, int index, struct job_row *row)
{
	const struct dense *d = &rows[index];
	struct mt_layout *l = &row->run.layout;
	bool narrow = cases[d->which].dtype != MT_F32;

	set_run(&row->run, d->which);
	set_run(&row->plain, d->which);
	l->tp = d->tp;
	l->pp = d->pp;
	l->dp = d->dp;
	l->sp = d->sp;
	l->zero = d->zero;
	l->recompute = (d->turn + d->sp + d->zero) % 3; /* none, selective, full */
	l->recompute_attention = d->turn % 2;
	l->recompute_layers = l->recompute && d->turn % 4 == 1;
	l->mbs = d->dp <= 4 && d->turn % 2 ? 2 : 1;
	row->device = "reference";
	snprintf(row->reference, sizeof row->reference, "case-%d", d->which);
	row->first_bound = narrow ? 2e-2 : 1e-6;
	row->last_bound = narrow ? 2e-2 : 1e-4;
	row->falls = true;
	row->twice = (d->turn + d->sp + d->zero) % 4 == 0;
}

int main(int argc, char **argv)
{
	struct job job = {.name = "dense", .count = list_layouts(rows), .make = make_row};

	return job_main(&job, argc, argv);
}
