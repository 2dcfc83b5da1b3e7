/* Sharding and optimizers train as one rank does, whatever the layout.
 * ranks: 8
 *
 * Each row is a layout of up to 8 ranks, run on blocks of the job's ranks: the losses of 10 steps and every gradient of the first
 * are those of one rank. Tolerances: f32 1e-4 in the losses and 1e-5 in the relative norm of a gradient; bf16 2e-2 in both.
 * To the norm of a gradient a hundredth of all gradients' is added: that of the keys' bias is nothing but rounding, as such a bias
 * moves all scores of a query alike. Muon's gradients are those after its momentum. */
#include "base/log.h"
#include "engine/engine.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS = 10 };

struct counts {
	int passed, failed;
};

/* Whole gradients of one rank by name. */
struct gradients {
	int count;
	double norm; /* of all together */
	struct mt_param_info *info;
	float **values;
};

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

static enum mt_status open_engine(const struct mt_run *run, struct mt_fabric *fabric, struct mt_engine_config *config,
				  struct mt_engine **engine)
{
	struct mt_device_config device = {.kind = "cpu", .threads = 1};

	*config = (struct mt_engine_config){.run = run, .fabric = fabric};
	MT_TRY(mt_device_create(&config->device, &device));
	MT_TRY(mt_dataset_open(&config->dataset, &run->data, run->model.vocab, run->layout.seq, (uint64_t)run->train.seed));
	return mt_engine_create(engine, config);
}

static void close_engine(struct mt_engine_config *config, struct mt_engine *engine)
{
	mt_engine_destroy(engine);
	mt_dataset_close(config->dataset);
	mt_device_destroy(config->device);
}

static enum mt_status learn(struct mt_engine *engine, struct gradients *g)
{
	g->count = mt_engine_param_count(engine);
	g->info = calloc((size_t)g->count, sizeof *g->info);
	g->values = calloc((size_t)g->count, sizeof *g->values);
	if (!g->info || !g->values)
		return mt_fail(MT_NOMEM, "no memory for gradients");
	for (int i = 0; i < g->count; i++) {
		mt_engine_param_info(engine, i, &g->info[i]);
		g->info[i].name = strdup(g->info[i].name);
		g->values[i] = calloc((size_t)(g->info[i].rows * g->info[i].cols), sizeof(float));
		MT_TRY(mt_engine_read_grad(engine, i, g->values[i]));
		for (int64_t k = 0; k < g->info[i].rows * g->info[i].cols; k++)
			g->norm += pow((double)g->values[i][k], 2);
	}
	g->norm = sqrt(g->norm);
	return MT_OK;
}

static void forget(struct gradients *g)
{
	for (int i = 0; i < g->count; i++) {
		free((char *)(uintptr_t)g->info[i].name);
		free(g->values[i]);
	}
	free(g->info);
	free(g->values);
}

/* The element of the whole tensor; 0 for padding that one rank does not have. */
static double whole_value(const struct gradients *g, int which, const struct mt_param_info *p, int64_t local)
{
	int64_t row = local / p->cols + (p->shard_axis == 0 ? p->first : 0);
	int64_t col = local % p->cols + (p->shard_axis == 1 ? p->first : 0);

	return row < g->info[which].rows ? (double)g->values[which][row * g->info[which].cols + col] : 0;
}

static enum mt_status compare(struct mt_engine *engine, const struct gradients *g, double bound, char why[200])
{
	for (int i = 0; i < mt_engine_param_count(engine); i++) {
		struct mt_param_info p;
		double difference = 0, norm = 0;
		int which = 0;
		float *values;

		mt_engine_param_info(engine, i, &p);
		while (which < g->count && strcmp(g->info[which].name, p.name) != 0)
			which++;
		if (which == g->count)
			return mt_fail(MT_FAILED, "one rank has no %s", p.name);
		values = calloc((size_t)(p.rows * p.cols), sizeof *values);
		if (!values || mt_engine_read_grad(engine, i, values) != MT_OK) {
			free(values);
			return mt_fail(MT_FAILED, "the gradient of %s cannot be read", p.name);
		}
		for (int64_t k = 0; k < p.rows * p.cols; k++)
			difference += pow((double)values[k] - whole_value(g, which, &p, k), 2);
		for (int64_t k = 0; k < g->info[which].rows * g->info[which].cols; k++)
			norm += pow((double)g->values[which][k], 2);
		free(values);
		norm = sqrt(norm) + 0.01 * g->norm;
		if (!(sqrt(difference) <= bound * norm) && !why[0])
			snprintf(why, 200, "gradient of %s: relative error %.3g above %.3g", p.name, sqrt(difference) / norm,
				 bound);
	}
	return MT_OK;
}

/* Of one rank: `expected` NULL. */
static enum mt_status train(const struct mt_run *run, struct mt_fabric *fabric, double *losses, struct gradients *mine,
			    const struct gradients *expected, char why[200])
{
	struct mt_engine_config config;
	struct mt_engine *engine = NULL;
	enum mt_status st;

	MT_GOTO(out, open_engine(run, fabric, &config, &engine));
	for (int step = 0; step < STEPS; step++) {
		struct mt_step_stats stats;

		MT_GOTO(out, mt_engine_step(engine, &stats));
		losses[step] = stats.loss;
		if (step == 0 && mine)
			MT_GOTO(out, learn(engine, mine));
		if (step == 0 && expected)
			MT_GOTO(out, compare(engine, expected, run->layout.dtype == MT_BF16 ? 2e-2 : 1e-5, why));
	}
out:
	close_engine(&config, engine);
	return st;
}

static bool all_agree(struct mt_group *world, bool ok)
{
	double bad = !ok;

	return mt_comm_host_all_reduce(world, &bad, 1, MT_MAX) == MT_OK && bad == 0;
}

static void run_row(struct counts *counts, const struct mt_run *run, struct mt_fabric *fabric, struct mt_group *world,
		    const double *expected, const struct gradients *gradients, const char *optimizer)
{
	double losses[STEPS] = {0}, bound = run->layout.dtype == MT_BF16 ? 2e-2 : 1e-4;
	struct mt_fabric *block = NULL;
	char why[200] = "", text[96];
	enum mt_status st = mt_fabric_block(&block, fabric, (int)mt_layout_world(&run->layout));

	if (st == MT_OK)
		st = train(run, block, losses, NULL, gradients, why);
	mt_fabric_destroy(block);
	if (st != MT_OK)
		snprintf(why, sizeof why, "%.190s", mt_error_message());
	mt_error_clear();
	for (int step = 0; step < STEPS && !why[0]; step++) {
		double error = fabs(losses[step] - expected[step]) / fabs(expected[step]);

		if (!(error <= bound))
			snprintf(why, sizeof why, "step %d: loss %.9g, one rank %.9g, relative error %.3g", step, losses[step],
				 expected[step], error);
	}
	mt_layout_text(&run->layout, text);
	if (why[0])
		printf("FAILED %s %s, %s, rank %d: %s\n", run->model.name, optimizer, text, mt_fabric_rank(fabric), why);
	fflush(stdout);
	if (all_agree(world, !why[0]))
		counts->passed++;
	else
		counts->failed++;
}

static enum mt_status run_problem(struct counts *counts, const struct problem *p, struct mt_fabric *fabric, struct mt_group *world)
{
	static const char *const names[] = {"adamw", "sgd", "muon"};
	struct gradients gradients = {0};
	struct mt_fabric *alone = NULL;
	double expected[STEPS];
	char why[200] = "";
	struct mt_run run;
	enum mt_status st;

	set_run(&run, p);
	MT_GOTO(out, mt_fabric_block(&alone, fabric, 1));
	MT_GOTO(out, train(&run, alone, expected, &gradients, NULL, why));
	if (!(expected[STEPS - 1] < expected[0])) {
		st = mt_fail(MT_FAILED, "the loss of one rank does not fall with %s", names[p->optimizer]);
		goto out;
	}
	for (size_t i = (size_t)(p - problems) % (size_t)p->every; i < sizeof rows / sizeof *rows; i += (size_t)p->every) {
		set_layout(&run.layout, &rows[i]);
		if (mt_layout_world(&run.layout) <= mt_fabric_size(fabric))
			run_row(counts, &run, fabric, world, expected, &gradients, names[p->optimizer]);
	}
out:
	mt_fabric_destroy(alone);
	forget(&gradients);
	mt_run_free(&run);
	return st;
}

int main(void)
{
	struct mt_fabric_config config = {.kind = mt_fabric_launched() ? "mpi" : "self"};
	struct mt_group *world = NULL;
	struct counts counts = {0};
	struct mt_fabric *fabric;
	int ranks[64];

	if (mt_fabric_create(&fabric, &config) != MT_OK) {
		fprintf(stderr, "%s\n", mt_error_message());
		return 4;
	}
	for (int i = 0; i < 64; i++)
		ranks[i] = i;
	if (mt_group_create(fabric, "test", ranks, mt_fabric_size(fabric), &world) != MT_OK)
		mt_fabric_abort(fabric, 4);
	for (size_t i = 0; i < sizeof problems / sizeof *problems; i++) {
		if (run_problem(&counts, &problems[i], fabric, world) != MT_OK) {
			fprintf(stderr, "one rank failed: %s\n", mt_error_message());
			mt_fabric_abort(fabric, 4);
		}
	}
	if (mt_fabric_rank(fabric) == 0)
		printf("%d passed, %d failed, 0 skipped\n", counts.passed, counts.failed);
	mt_group_destroy(world);
	mt_fabric_destroy(fabric);
	return counts.failed > 0;
}
