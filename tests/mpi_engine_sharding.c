/* Sharding and optimizers train as one rank does, whatever the layout.
 * ranks: 8
 *
 * Each row is a layout of up to 8 ranks (layout_job.h): the losses of 10 steps and every gradient of the first are those of one
 * rank. Tolerances: f32 1e-4 in the losses and 1e-5 in the relative norm of a gradient; bf16 2e-2 in both. Muon's gradients are
 * those after its momentum. */
#include "tests/layout_job.h"

enum { STEPS = 10, MOST_CASES = 200 };

struct row {
	int zero, group, tp, pp, vp, dp, mbs;
	bool sp, one_bucket;
	int recompute, schedule, offload, cp;
};

enum { NONE = MT_RECOMPUTE_NONE, SOME = MT_RECOMPUTE_SELECTIVE, FULL = MT_RECOMPUTE_FULL };

/* clang-format off */
static const struct row rows[] = {
	/* zero, group, tp, pp, vp, dp, mbs, sp, one bucket, recompute, schedule, layers offloaded, cp */
	{0, 0, 1, 1, 1, 4, 1, false, false, NONE, MT_SCHEDULE_1F1B, 0, 1},
	{1, 0, 1, 1, 1, 2, 2, false, true, NONE, MT_SCHEDULE_1F1B, 0, 1},
	{1, 0, 2, 1, 1, 4, 1, true, false, FULL, MT_SCHEDULE_1F1B, 0, 1},
	{1, 2, 1, 1, 1, 4, 1, false, false, NONE, MT_SCHEDULE_1F1B, 0, 1},
	{1, 4, 1, 1, 1, 8, 1, false, true, NONE, MT_SCHEDULE_1F1B, 0, 1},
	{1, 2, 2, 1, 1, 4, 2, true, false, NONE, MT_SCHEDULE_1F1B, 0, 1},
	{1, 2, 1, 2, 1, 4, 1, false, false, SOME, MT_SCHEDULE_1F1B, 0, 1},
	{2, 0, 1, 1, 1, 2, 1, false, false, NONE, MT_SCHEDULE_1F1B, 0, 1},
	{2, 0, 1, 1, 1, 4, 2, false, true, FULL, MT_SCHEDULE_1F1B, 0, 1},
	{2, 2, 1, 1, 1, 8, 1, false, false, NONE, MT_SCHEDULE_1F1B, 0, 1},
	{2, 0, 2, 2, 1, 2, 1, true, false, SOME, MT_SCHEDULE_1F1B, 0, 1},
	{2, 0, 1, 2, 2, 4, 1, false, false, NONE, MT_SCHEDULE_1F1B, 0, 1},
	{3, 0, 1, 1, 1, 2, 2, false, false, NONE, MT_SCHEDULE_1F1B, 0, 1},
	{3, 0, 1, 1, 1, 8, 1, false, false, NONE, MT_SCHEDULE_1F1B, 0, 1},
	{3, 0, 1, 1, 1, 4, 1, false, true, FULL, MT_SCHEDULE_1F1B, 0, 1},
	{3, 4, 1, 1, 1, 8, 1, false, false, SOME, MT_SCHEDULE_1F1B, 0, 1},
	{3, 2, 2, 1, 1, 4, 1, true, false, FULL, MT_SCHEDULE_1F1B, 0, 1},
	{3, 0, 4, 1, 1, 2, 1, true, false, NONE, MT_SCHEDULE_1F1B, 0, 1},
	{3, 0, 1, 2, 1, 4, 1, false, false, NONE, MT_SCHEDULE_1F1B, 0, 1},
	{3, 0, 1, 4, 1, 2, 1, false, true, FULL, MT_SCHEDULE_1F1B, 0, 1},
	{3, 2, 1, 2, 2, 4, 1, false, false, NONE, MT_SCHEDULE_1F1B, 0, 1},
	{3, 0, 2, 2, 2, 2, 1, true, true, NONE, MT_SCHEDULE_1F1B, 0, 1},
	{0, 0, 1, 1, 1, 2, 1, false, false, NONE, MT_SCHEDULE_1F1B, 3, 1},
	{3, 0, 2, 1, 1, 2, 1, true, false, SOME, MT_SCHEDULE_1F1B, 100, 1},
	{1, 0, 1, 2, 2, 2, 2, false, false, FULL, MT_SCHEDULE_1F1B, 1, 1},
	{0, 0, 2, 2, 1, 1, 1, false, false, NONE, MT_SCHEDULE_ZB_H1, 2, 1},
	{1, 2, 1, 1, 1, 2, 1, false, false, NONE, MT_SCHEDULE_1F1B, 0, 2},
	{2, 0, 1, 1, 1, 2, 2, false, false, NONE, MT_SCHEDULE_1F1B, 0, 2},
	{3, 0, 2, 1, 1, 2, 1, true, false, FULL, MT_SCHEDULE_1F1B, 0, 2},
	{3, 2, 1, 2, 1, 1, 1, false, false, NONE, MT_SCHEDULE_1F1B, 0, 4},
	{3, 4, 1, 1, 1, 4, 1, false, false, NONE, MT_SCHEDULE_1F1B, 2, 2},
	{0, 0, 4, 2, 1, 1, 1, true, false, NONE, MT_SCHEDULE_ZB_H1, 0, 1},
	{0, 0, 2, 2, 2, 2, 1, false, false, NONE, MT_SCHEDULE_ZB_V, 0, 1},
};
/* clang-format on */

static const struct problem {
	const char *model;
	enum mt_dtype dtype;
	enum mt_optimizer optimizer;
	int every; /* of the rows */
} problems[] = {
	{"gpt-tiny", MT_F32, MT_ADAMW, 1},  {"llama-tiny", MT_F32, MT_ADAMW, 2}, {"gpt-tiny", MT_BF16, MT_ADAMW, 3},
	{"llama-tiny", MT_F32, MT_MUON, 2}, {"gpt-tiny", MT_BF16, MT_MUON, 5},   {"gpt-tiny", MT_F32, MT_SGD, 4},
};

static void set_run(struct mt_run *run, const struct problem *p)
{
	mt_run_default(run);
	if (mt_model_load(&run->model, p->model) != MT_OK) {
		fprintf(stderr, "%s\n", mt_error_message());
		exit(4);
	}
	run->layout.gbs = 8;
	run->layout.seq = 16;
	run->layout.dtype = p->dtype;
	run->layout.threads = 1;
	run->layout.bucket_bytes = 64 << 10; /* several buckets */
	run->train.optimizer = p->optimizer;
	run->train.momentum = 0.9;
	run->train.steps = STEPS;
	run->train.warmup_steps = 2;
	run->train.lr = p->optimizer == MT_SGD ? 0.05 : 3e-3;
	run->train.min_lr = 1e-4;
}

static void set_layout(struct mt_layout *l, const struct row *r)
{
	l->zero = r->zero;
	l->zero_group = r->group;
	l->tp = r->tp;
	l->pp = r->pp;
	l->vp = r->vp;
	l->dp = r->dp;
	l->mbs = r->mbs;
	l->sp = r->sp;
	l->recompute = r->recompute;
	l->recompute_attention = true;
	l->schedule = r->schedule;
	l->offload_layers = r->offload;
	l->cp = r->cp;
	l->bucket_bytes = r->one_bucket ? 0 : 64 << 10;
}

/* A problem with one of the layouts. */
struct pair {
	const struct problem *problem;
	const struct row *layout;
};

static struct pair pairs[MOST_CASES];

static int list_pairs(void)
{
	int count = 0;

	for (size_t p = 0; p < sizeof problems / sizeof *problems; p++) {
		for (size_t i = p % (size_t)problems[p].every; i < sizeof rows / sizeof *rows; i += (size_t)problems[p].every)
			pairs[count++] = (struct pair){&problems[p], &rows[i]};
	}
	return count;
}

static void make_row(const struct job *job, int index, struct job_row *row)
{
	const struct problem *p = pairs[index].problem;
	bool narrow = p->dtype == MT_BF16;

	set_run(&row->run, p);
	set_run(&row->plain, p);
	set_layout(&row->run.layout, pairs[index].layout);
	row->device = "cpu";
	snprintf(row->reference, sizeof row->reference, "problem-%d", (int)(p - problems));
	row->first_bound = row->last_bound = narrow ? 2e-2 : 1e-4;
	row->gradient_bound = narrow ? 2e-2 : 1e-5;
	row->gradient_least = 1e-2;
	row->falls = true;
}

int main(int argc, char **argv)
{
	struct job job = {.name = "sharding", .count = list_pairs(), .make = make_row};

	return job_main(&job, argc, argv);
}
