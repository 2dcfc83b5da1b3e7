/* Every layout of a model with experts gives the losses and the gradients of one rank.
 * ranks: 8
 *
 * One job of 8 ranks runs a table of layouts in turn, each on blocks of its ranks: expert parallelism folded onto tensor, context
 * and data parallelism, slices of experts, pipelines and zero bubble, ZeRO, recompute, shared experts, biases, capacities. Each
 * trains 10 steps: losses within 1e-4 of one rank's (bf16 2e-2), and after the first step every gradient tensor within 1e-5 of its
 * norm. Router logits of these models are far enough apart that rounding decides no choice in f32.
 *
 * Where no count depends on the data, the dry run's peaks are the live allocator's, byte for byte: where each expert is on every
 * rank, and where experts are padded to their capacity. */
#include "engine/engine.h"
#include "tests/engine_problem.h"
#include "tests/tuner_problem.h"

#include <math.h>

enum { STEPS = 10 };

struct counts {
	int passed, failed, skipped;
};

/* The models: m Mixtral's shape, q many small experts, d DeepSeek's router and shared expert, s one gated shared expert, c capacity
 * by position, l by weight, p padded. */
struct row {
	char model;
	int tp, cp, dp, pp, ep, etp, vp;
	bool sp;
	int zero, recompute, schedule, mbs;
	enum mt_dtype dtype;
	int zero_group, offload;
};

#define PLAIN .vp = 1, .mbs = 1
static const struct row rows[] = {
	{'m', 1, 1, 2, 1, 2, 0, PLAIN},
	{'m', 1, 1, 8, 1, 8, 0, PLAIN},
	{'m', 1, 1, 4, 1, 2, 0, PLAIN, .zero = 1},
	{'m', 1, 1, 2, 1, 1, 0, PLAIN},
	{'m', 1, 1, 2, 1, 1, 2, PLAIN},
	{'m', 1, 1, 4, 1, 2, 2, PLAIN, .zero = 1},
	{'m', 2, 1, 1, 1, 1, 0, PLAIN},
	{'m', 2, 1, 2, 1, 2, 2, PLAIN},
	{'m', 2, 1, 1, 1, 1, 0, PLAIN, .sp = true},
	{'m', 2, 1, 1, 1, 2, 1, PLAIN, .sp = true},
	{'m', 2, 1, 2, 1, 4, 1, PLAIN, .sp = true, .zero = 1},
	{'m', 4, 1, 2, 1, 2, 2, PLAIN, .sp = true},
	{'m', 2, 1, 2, 2, 2, 1, PLAIN, .sp = true, .zero = 1, .recompute = MT_RECOMPUTE_FULL},
	{'m', 1, 1, 2, 4, 2, 0, PLAIN},
	{'m', 1, 1, 4, 2, 4, 0, .vp = 2, .mbs = 1},
	{'m', 1, 2, 1, 1, 2, 0, PLAIN},
	{'m', 1, 2, 2, 1, 4, 0, PLAIN, .zero = 1},
	{'m', 2, 2, 2, 1, 4, 1, PLAIN, .sp = true},
	{'m', 2, 2, 1, 2, 2, 2, PLAIN, .sp = true, .recompute = MT_RECOMPUTE_SELECTIVE},
	{'m', 1, 1, 2, 2, 2, 0, PLAIN, .schedule = MT_SCHEDULE_ZB_H1},
	{'m', 2, 1, 1, 2, 2, 1, .vp = 2, .mbs = 1, .sp = true, .schedule = MT_SCHEDULE_ZB_V},
	{'m', 1, 1, 4, 1, 4, 0, PLAIN, .dtype = MT_BF16},
	{'m', 2, 1, 2, 2, 2, 1, PLAIN, .sp = true, .zero = 1, .dtype = MT_BF16},
	{'m', 2, 1, 2, 1, 4, 1, PLAIN, .sp = true, .dtype = MT_F16},
	{'m', 1, 1, 4, 1, 2, 0, PLAIN, .zero = 2},
	{'m', 1, 1, 8, 1, 2, 0, PLAIN, .zero = 3},
	{'m', 2, 1, 4, 1, 4, 1, PLAIN, .sp = true, .zero = 3},
	{'m', 2, 1, 2, 2, 2, 1, PLAIN, .sp = true, .zero = 3, .recompute = MT_RECOMPUTE_FULL},
	{'m', 1, 1, 8, 1, 2, 0, PLAIN, .zero = 1, .zero_group = 4},
	{'m', 1, 1, 8, 1, 4, 0, PLAIN, .zero = 3, .zero_group = 4},
	{'m', 1, 1, 2, 1, 2, 0, PLAIN, .offload = 2},
	{'q', 1, 1, 2, 1, 2, 0, .vp = 1, .mbs = 2},
	{'q', 1, 1, 8, 1, 8, 0, PLAIN, .zero = 1},
	{'q', 2, 1, 4, 1, 8, 1, PLAIN, .sp = true},
	{'q', 4, 1, 1, 2, 4, 1, PLAIN, .sp = true, .recompute = MT_RECOMPUTE_SELECTIVE},
	{'q', 2, 2, 2, 1, 8, 1, PLAIN, .sp = true, .zero = 1},
	{'d', 1, 1, 4, 1, 4, 0, PLAIN},
	{'d', 1, 1, 2, 2, 2, 0, .vp = 1, .mbs = 2, .zero = 1},
	{'d', 2, 1, 1, 1, 1, 0, PLAIN},
	{'d', 2, 1, 2, 1, 2, 2, PLAIN},
	{'d', 2, 1, 2, 1, 4, 1, PLAIN, .sp = true, .zero = 1},
	{'d', 2, 2, 2, 1, 8, 1, PLAIN, .sp = true},
	{'d', 2, 1, 4, 1, 4, 1, PLAIN, .sp = true, .zero = 3},
	{'d', 1, 1, 2, 2, 1, 0, PLAIN, .zero = 2, .offload = 1},
	{'d', 1, 1, 4, 2, 4, 0, PLAIN, .recompute = MT_RECOMPUTE_FULL},
	{'d', 1, 1, 2, 4, 2, 0, PLAIN, .schedule = MT_SCHEDULE_ZB_H1},
	{'s', 1, 1, 2, 1, 2, 0, PLAIN},
	{'s', 2, 1, 1, 1, 1, 0, PLAIN},
	{'s', 2, 1, 2, 1, 4, 1, PLAIN, .sp = true},
	{'s', 4, 1, 2, 1, 2, 4, PLAIN, .sp = true, .zero = 1},
	{'s', 1, 2, 2, 2, 2, 0, PLAIN},
	{'c', 1, 1, 4, 1, 4, 0, PLAIN},
	{'c', 2, 1, 2, 1, 2, 1, .vp = 1, .mbs = 2, .sp = true},
	{'c', 2, 1, 1, 2, 1, 0, PLAIN},
	{'l', 1, 1, 2, 1, 2, 0, .vp = 1, .mbs = 2},
	{'l', 2, 1, 2, 1, 4, 1, PLAIN, .sp = true},
	{'p', 1, 1, 4, 1, 4, 0, .vp = 1, .mbs = 2},
	{'p', 2, 1, 2, 2, 2, 0, PLAIN, .zero = 1},
};

static void set_model(struct mt_model *m, char kind)
{
	m->layers = 4;
	m->experts = 8;
	m->top_k = 2;
	m->expert_ffn = 24;
	m->balance_loss = 0.02;
	m->init_std = 0.2;
	switch (kind) {
	case 'q':
		m->experts = 16;
		m->top_k = 4;
		m->expert_ffn = 16;
		m->z_loss = 0.01;
		break;
	case 'd':
		m->experts = 16;
		m->top_k = 4;
		m->expert_ffn = 16;
		m->shared_ffn = 16;
		m->dense_first = 1;
		m->router = MT_MODEL_SIGMOID;
		m->router_scale = 2.5;
		m->router_sets = 4;
		m->set_top = 2;
		m->router_bias = true;
		break;
	case 's':
		m->shared_ffn = 32;
		m->shared_gate = true;
		m->expert_every = 2;
		break;
	case 'c':
	case 'l':
	case 'p':
		m->capacity = kind == 'p' ? 1 : 0.75;
		m->drop = kind == 'l' ? MT_MODEL_DROP_LIGHTEST : MT_MODEL_DROP_LAST;
		m->capacity_pad = kind == 'p';
		break;
	default:
		break;
	}
}

static void set_run(struct mt_run *run, const struct row *row)
{
	static const struct tiny_model shape = {
		"tiny experts", MT_MODEL_RMSNORM, MT_MODEL_ROPE, MT_MODEL_SWIGLU, false, false, 4, 48, NULL};

	set_tiny_run(run, &shape);
	set_model(&run->model, row->model);
	if (mt_model_complete(&run->model, "tiny experts") != MT_OK) {
		fprintf(stderr, "%s\n", mt_error_message());
		abort();
	}
	run->layout = (struct mt_layout){.tp = row->tp,
					 .cp = row->cp,
					 .dp = row->dp,
					 .pp = row->pp,
					 .ep = row->ep,
					 .etp = row->etp,
					 .vp = row->vp,
					 .cp_inner = 1,
					 .sp = row->sp,
					 .zero = row->zero,
					 .zero_group = row->zero_group,
					 .offload_layers = row->offload,
					 .recompute = row->recompute,
					 .recompute_activation = true,
					 .recompute_norm = true,
					 .schedule = row->schedule,
					 .mbs = row->mbs,
					 .gbs = 8,
					 .seq = TINY_SEQ,
					 .dtype = (int)row->dtype,
					 .threads = 1,
					 .bucket_bytes = 8 << 10};
	run->train.lr = run->train.min_lr = 3e-3;
	run->train.warmup_steps = 0;
	run->train.steps = STEPS;
}

/* One rank's losses, and its gradients of the first step by name. */
struct expected {
	double losses[STEPS];
	int count;
	struct tensor {
		char name[64];
		int64_t rows, cols;
		double *values; /* owned */
	} * tensors;
};

static enum mt_status train_alone(const struct row *row, struct mt_fabric *alone, struct expected *x)
{
	struct row one = {.model = row->model, .tp = 1, .cp = 1, .dp = 1, .pp = 1, .ep = 1, .vp = 1, .mbs = 2, .dtype = row->dtype};
	struct engine_bench bench = {0};
	struct mt_run run;
	enum mt_status st;

	memset(x, 0, sizeof *x);
	set_run(&run, &one);
	MT_GOTO(out, open_engine(&bench, &run, row->dtype == MT_F32 ? "reference" : "cpu", alone));
	x->count = mt_engine_param_count(bench.engine);
	x->tensors = calloc((size_t)x->count, sizeof *x->tensors);
	for (int step = 0; step < STEPS; step++) {
		struct mt_step_stats stats;

		MT_GOTO(out, mt_engine_step(bench.engine, &stats));
		x->losses[step] = stats.loss;
		for (int i = 0; i < x->count && step == 0; i++) {
			struct mt_param_info info;
			struct tensor *t = &x->tensors[i];

			mt_engine_param_info(bench.engine, i, &info);
			snprintf(t->name, sizeof t->name, "%s", info.name);
			t->rows = info.rows;
			t->cols = info.cols;
			t->values = malloc((size_t)(info.rows * info.cols) * sizeof(double));
			MT_GOTO(out, mt_engine_read_grad_f64(bench.engine, i, t->values));
		}
	}
out:
	close_engine(&bench);
	mt_run_free(&run);
	return st;
}

static void drop_expected(struct expected *x)
{
	for (int i = 0; i < x->count; i++)
		free(x->tensors[i].values);
	free(x->tensors);
}

/* This rank's part of one gradient against the same part of the whole. */
static bool same_gradient(const struct expected *x, const struct mt_param_info *info, const double *values, double bound,
			  char why[200])
{
	const struct tensor *t = NULL;
	double error = 0, size = 0;

	for (int i = 0; i < x->count; i++) {
		if (strcmp(x->tensors[i].name, info->name) == 0)
			t = &x->tensors[i];
	}
	if (!t) {
		snprintf(why, 200, "%s is not a parameter of one rank", info->name);
		return false;
	}
	for (int64_t i = 0; i < info->rows; i++) {
		for (int64_t k = 0; k < info->cols; k++) {
			int64_t row = i + (info->shard_axis == 0 ? info->first : 0),
				col = k + (info->shard_axis == 1 ? info->first : 0);
			double want = row < t->rows ? t->values[row * t->cols + col] : 0, d = values[i * info->cols + k] - want;

			error += d * d;
		}
	}
	for (int64_t i = 0; i < t->rows * t->cols; i++)
		size += t->values[i] * t->values[i];
	if (sqrt(error) <= bound * sqrt(size) + 1e-12)
		return true;
	snprintf(why, 200, "gradient of %s: error %.3g of its norm %.3g, above %.3g", info->name, sqrt(error / size), sqrt(size),
		 bound);
	return false;
}

static enum mt_status check_gradients(struct engine_bench *bench, const struct expected *x, double bound, char why[200])
{
	for (int i = 0; i < mt_engine_param_count(bench->engine); i++) {
		struct mt_param_info info;
		double *values;
		enum mt_status st;

		mt_engine_param_info(bench->engine, i, &info);
		values = malloc((size_t)(info.rows * info.cols) * sizeof *values);
		st = mt_engine_read_grad_f64(bench->engine, i, values); /* collective: all of them are read, whatever is found */
		if (st == MT_OK && !why[0])
			same_gradient(x, &info, values, bound, why);
		free(values);
		MT_TRY(st);
	}
	return MT_OK;
}

static enum mt_status train(const struct mt_run *run, struct mt_fabric *block, const struct expected *x, char why[200])
{
	bool narrow = run->layout.dtype != MT_F32;
	struct engine_bench bench = {0};
	enum mt_status st;

	MT_GOTO(out, open_engine(&bench, run, "cpu", block));
	for (int step = 0; step < STEPS; step++) {
		struct mt_step_stats stats;

		MT_GOTO(out, mt_engine_step(bench.engine, &stats));
		if (!why[0] && !(fabs(stats.loss - x->losses[step]) <= (narrow ? 2e-2 : 1e-4) * x->losses[step]))
			snprintf(why, 200, "step %d: loss %.9g, one rank %.9g", step, stats.loss, x->losses[step]);
		if (step == 0 && !narrow)
			MT_GOTO(out, check_gradients(&bench, x, 1e-5, why));
	}
out:
	close_engine(&bench);
	return st;
}

/* Whether no count of rows depends on the data: all experts are here, or each gets its capacity. */
static bool counts_are_known(const struct mt_run *run)
{
	return run->model.capacity_pad || (run->layout.ep == 1 && !(run->model.capacity > 0));
}

static enum mt_status compare_memory(const struct mt_run *run, struct mt_fabric *block, struct made_up *made, char why[200])
{
	struct mt_candidate candidate = {.layout = run->layout};
	struct mt_arena_stats live[MT_ENGINE_ARENAS];
	struct engine_bench bench = {0};
	struct mt_step_stats stats;
	enum mt_status st;

	MT_GOTO(out, mt_predict_dry(&candidate, &run->model, &made->cost, NULL));
	MT_GOTO(out, open_engine(&bench, run, "cpu", block));
	for (int i = 0; i < 2; i++)
		MT_GOTO(out, mt_engine_step(bench.engine, &stats));
	mt_engine_memory(bench.engine, live);
	for (int i = 0; i < MT_ENGINE_ARENAS; i++) {
		const struct mt_stage_prediction *stage =
			&candidate.stage[mt_layout_coordinates(&run->layout, mt_fabric_rank(block)).pp];

		if (stage->arena_bytes[i] != (int64_t)live[i].peak_bytes)
			snprintf(why, 200, "rank %d: %s peak %lld dry, %zu live", mt_fabric_rank(block), live[i].name,
				 (long long)stage->arena_bytes[i], live[i].peak_bytes);
	}
out:
	close_engine(&bench);
	free_candidate(&candidate);
	return st;
}

/* One row on this rank's block; `why` says what is wrong on this rank. */
static void run_row(const struct row *row, struct mt_fabric *fabric, const struct expected *expected, struct made_up *made,
		    char why[200])
{
	struct mt_fabric *block = NULL;
	struct mt_run run;
	enum mt_status st;

	set_run(&run, row);
	st = mt_fabric_block(&block, fabric, (int)mt_layout_world(&run.layout));
	if (st == MT_OK)
		st = train(&run, block, expected, why);
	if (st == MT_OK && !why[0] && counts_are_known(&run))
		st = compare_memory(&run, block, made, why);
	if (st != MT_OK)
		snprintf(why, 200, "%.190s", mt_error_message());
	mt_error_clear();
	mt_fabric_destroy(block);
	mt_run_free(&run);
}

static void run_rows(struct counts *counts, struct mt_fabric *fabric, struct mt_fabric *alone, struct mt_group *world, char only)
{
	struct expected expected = {0};
	const struct row *last = NULL;
	struct made_up made;

	make_up(&made, mt_fabric_size(fabric), 1, 10, 1e10, 1e10, 1e-6);
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		char why[200] = "", text[96];
		struct mt_run run;
		double bad;

		if (only && rows[i].model != only)
			continue;
		if (!last || last->model != rows[i].model || last->dtype != rows[i].dtype) {
			drop_expected(&expected);
			if (train_alone(&rows[i], alone, &expected) != MT_OK)
				snprintf(why, sizeof why, "one rank: %.180s", mt_error_message());
			last = &rows[i];
		}
		if (!why[0])
			run_row(&rows[i], fabric, &expected, &made, why);
		set_run(&run, &rows[i]);
		mt_layout_text(&run.layout, text);
		if (why[0])
			printf("FAILED %c %s: %s\n", rows[i].model, text, why);
		fflush(stdout);
		bad = why[0] != '\0';
		if (mt_comm_host_all_reduce(world, &bad, 1, MT_MAX) == MT_OK && bad == 0)
			counts->passed++;
		else
			counts->failed++;
		mt_run_free(&run);
	}
	drop_expected(&expected);
	make_up_end(&made);
}

int main(int argc, char **argv)
{
	struct mt_fabric_config config = {.kind = mt_fabric_launched() ? "mpi" : "self"};
	struct mt_fabric *fabric = NULL, *alone = NULL;
	struct mt_group *world = NULL;
	struct counts counts = {0};
	int ranks[64];

	for (int i = 0; i < 64; i++)
		ranks[i] = i;
	if (mt_fabric_create(&fabric, &config) != MT_OK || mt_fabric_block(&alone, fabric, 1) != MT_OK ||
	    mt_group_create(fabric, "test", ranks, mt_fabric_size(fabric), &world) != MT_OK) {
		fprintf(stderr, "%s\n", mt_error_message());
		return 4;
	}
	run_rows(&counts, fabric, alone, world, argc > 1 ? argv[1][0] : 0);
	if (mt_fabric_rank(fabric) == 0)
		printf("%d passed, %d failed, %d skipped\n", counts.passed, counts.failed, counts.skipped);
	mt_group_destroy(world);
	mt_fabric_destroy(alone);
	mt_fabric_destroy(fabric);
	return counts.failed > 0;
}
