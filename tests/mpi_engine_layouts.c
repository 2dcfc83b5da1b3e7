/* Every layout trains to the losses of one rank.
 * ranks: 8
 *
 * One job of 8 ranks runs all layouts of tp, pp, dp in {1,2,4,8} up to 8 ranks in turn, each on blocks of tp*pp*dp
 * ranks: sequence parallelism on and off, ZeRO-1 on and off, a small GPT and a small LLaMA, f32, bf16 and f16, recompute none,
 * selective and full, of all layers or the first, in turn; then interleaved and zero-bubble schedules, uneven stages and context
 * parallelism. The reference is one rank on the plain device in the same run. Tolerances: f32 1e-6 relative at the first step, 1e-4
 * at the last; bf16 2e-2, in fp8 too, f16 1e-2. The same layout twice gives the same bits. */
#include "base/log.h"
#include "engine/engine.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS = 20, MOST_FAILURES = 20 };

struct counts {
	int passed, failed, skipped;
};

static void set_run(struct mt_run *run, const char *model, enum mt_dtype dtype, int fp8, enum mt_dtype moments)
{
	mt_run_default(run);
	if (mt_model_load(&run->model, model) != MT_OK) {
		fprintf(stderr, "%s\n", mt_error_message());
		exit(4);
	}
	run->layout.gbs = 8;
	run->layout.seq = 16;
	run->layout.mbs = 1;
	run->layout.dtype = dtype;
	run->layout.fp8 = fp8;
	run->layout.moment1_dtype = run->layout.moment2_dtype = run->layout.reduce_dtype = moments;
	run->layout.threads = 1;
	run->layout.bucket_bytes = 64 << 10; /* several buckets */
	run->train.steps = STEPS;
	run->train.warmup_steps = 2;
	run->train.lr = 3e-3;
}

/* Losses of STEPS steps of a layout on `fabric`; all ranks of the fabric call it. */
static enum mt_status train(const struct mt_run *run, struct mt_fabric *fabric, const char *kind, double *losses)
{
	struct mt_device_config device_config = {.kind = kind, .threads = 1};
	struct mt_engine_config config = {.run = run, .fabric = fabric};
	struct mt_device *device = NULL;
	struct mt_dataset *dataset = NULL;
	struct mt_engine *engine = NULL;
	enum mt_status st;

	MT_GOTO(out, mt_device_create(&device, &device_config));
	MT_GOTO(out, mt_dataset_open(&dataset, &run->data, run->model.vocab, run->layout.seq, (uint64_t)run->train.seed));
	config.device = device;
	config.dataset = dataset;
	MT_GOTO(out, mt_engine_create(&engine, &config));
	for (int step = 0; step < STEPS; step++) {
		struct mt_step_stats stats;

		MT_GOTO(out, mt_engine_step(engine, &stats));
		losses[step] = stats.loss;
	}
out:
	mt_engine_destroy(engine);
	mt_dataset_close(dataset);
	mt_device_destroy(device);
	return st;
}

static bool close_enough(const double *losses, const double *expected, enum mt_dtype dtype, char why[160])
{
	for (int step = 0; step < STEPS; step++) {
		double error = fabs(losses[step] - expected[step]) / fabs(expected[step]);
		double bound = dtype == MT_BF16  ? 2e-2
			       : dtype == MT_F16 ? 1e-2
			       : step == 0       ? 1e-6
						 : 1e-6 + (1e-4 - 1e-6) * step / (STEPS - 1);

		if (!(error <= bound)) {
			snprintf(why, 160, "step %d: loss %.9g, one rank %.9g, relative error %.3g above %.3g", step, losses[step],
				 expected[step], error, bound);
			return false;
		}
	}
	return true;
}

static void tell(struct counts *counts, bool ok, const struct mt_run *run, const char *why)
{
	char text[96];

	mt_layout_text(&run->layout, text);
	if (ok) {
		counts->passed++;
	} else {
		counts->failed++;
		printf("FAILED %s %s %s: %s\n", run->model.name, mt_dtype_name((enum mt_dtype)run->layout.dtype), text, why);
	}
	fflush(stdout);
}

/* Layouts smaller than the job run as several copies side by side: every block of ranks trains the same. */
static void run_layout(struct counts *counts, const struct mt_run *run, struct mt_fabric *fabric, const double *expected,
		       bool twice)
{
	struct mt_fabric *sub = NULL;
	double losses[STEPS] = {0}, again[STEPS] = {0};
	char why[160] = "";
	enum mt_status st;
	bool ok;

	if (run->layout.fp8 && mt_layout_first_broken(&run->model, &run->layout) >= 0) /* its widths are not for every tp */
		return;
	st = mt_fabric_block(&sub, fabric, (int)mt_layout_world(&run->layout));
	ok = st == MT_OK;

	if (ok)
		st = train(run, sub, "cpu", losses);
	if (st == MT_OK && twice)
		st = train(run, sub, "cpu", again);
	mt_fabric_destroy(sub);
	ok = st == MT_OK && close_enough(losses, expected, (enum mt_dtype)run->layout.dtype, why);
	if (ok && twice && memcmp((const char *)losses, (const char *)again, sizeof losses) != 0) {
		ok = false;
		snprintf(why, sizeof why, "the second run of the same layout differs in its bits");
	}
	if (st != MT_OK)
		snprintf(why, sizeof why, "%s", mt_error_message());
	mt_error_clear();
	if (mt_fabric_rank(fabric) == 0)
		tell(counts, ok, run, why);
}

/* All switches of one (tp, pp, dp). */
static void run_switches(struct counts *counts, struct mt_run *run, struct mt_fabric *fabric, const double *expected, int index)
{
	struct mt_layout *l = &run->layout;

	for (int sp = 0; sp <= (l->tp > 1); sp++) {
		for (int zero = 0; zero <= (l->dp > 1); zero++) {
			l->sp = sp;
			l->zero = zero;
			l->recompute = (index + sp + zero) % 3; /* none, selective, full */
			l->recompute_attention = index % 2;
			l->recompute_layers = l->recompute && index % 4 == 1;
			l->mbs = l->dp <= 4 && index % 2 ? 2 : 1;
			run_layout(counts, run, fabric, expected, (index + sp + zero) % 4 == 0);
		}
	}
}

static const struct {
	const char *model;
	enum mt_dtype dtype;
	int every;             /* of its layouts of tp, pp and dp one in so many */
	int fp8;               /* enum mt_fp8_recipe */
	enum mt_dtype moments; /* of the optimizer; gradients are reduced in it too */
} cases[] = {{"gpt-tiny", MT_F32, 1, MT_FP8_NONE, MT_F32},        {"llama-tiny", MT_F32, 1, MT_FP8_NONE, MT_F32},
	     {"gpt-tiny", MT_BF16, 1, MT_FP8_NONE, MT_F32},       {"gpt-tiny", MT_F16, 3, MT_FP8_NONE, MT_F32},
	     {"llama-tiny", MT_F16, 4, MT_FP8_NONE, MT_F32},      {"gpt-tiny", MT_BF16, 5, MT_FP8_CURRENT, MT_F32},
	     {"llama-tiny", MT_BF16, 5, MT_FP8_DELAYED, MT_BF16}, {"llama-tiny", MT_BF16, 1, MT_FP8_NONE, MT_F32}};

enum { CASES = sizeof cases / sizeof cases[0] };

/* Losses of one rank on the plain device, each case by another rank of the job, told to all. */
static enum mt_status train_alone(struct mt_fabric *fabric, double expected[CASES][STEPS])
{
	struct mt_fabric *alone = NULL;
	struct mt_group *world = NULL;
	int size = mt_fabric_size(fabric), rank = mt_fabric_rank(fabric), ranks[64];
	enum mt_status st;

	for (int i = 0; i < size; i++)
		ranks[i] = i;
	MT_GOTO(out, mt_group_create(fabric, "test", ranks, size, &world));
	MT_GOTO(out, mt_fabric_block(&alone, fabric, 1));
	for (int i = 0; i < CASES; i++) {
		struct mt_run run;

		if (i % size != rank)
			continue;
		set_run(&run, cases[i].model, cases[i].dtype, cases[i].fp8, cases[i].moments);
		st = train(&run, alone, "reference", expected[i]);
		mt_run_free(&run);
		if (st != MT_OK)
			goto out;
	}
	MT_GOTO(out, mt_comm_host_all_reduce(world, &expected[0][0], CASES * STEPS, MT_SUM));
out:
	mt_fabric_destroy(alone);
	mt_group_destroy(world);
	return st;
}

/* Schedules other than plain 1F1B, each with other axes beside it. */
static const struct {
	enum mt_schedule schedule;
	int tp, pp, vp, dp, group, first_layers, last_layers;
	bool sp, zero, full;
} schedules[] = {
	{MT_SCHEDULE_1F1B, 1, 2, 2, 1, 0, 0, 0, false, false, false},
	{MT_SCHEDULE_1F1B, 1, 2, 4, 2, 0, 0, 0, false, true, false},
	{MT_SCHEDULE_1F1B, 2, 2, 2, 2, 0, 0, 0, true, false, true},
	{MT_SCHEDULE_1F1B, 1, 4, 2, 1, 8, 0, 0, false, false, false},
	{MT_SCHEDULE_1F1B, 1, 2, 2, 1, 4, 1, 0, false, false, false},
	{MT_SCHEDULE_1F1B, 2, 4, 1, 1, 0, 1, 1, false, false, false},
	{MT_SCHEDULE_ZB_H1, 1, 2, 1, 1, 0, 0, 0, false, false, false},
	{MT_SCHEDULE_ZB_H1, 1, 4, 1, 2, 0, 0, 0, false, true, false},
	{MT_SCHEDULE_ZB_H1, 2, 4, 1, 1, 0, 0, 0, true, false, true},
	{MT_SCHEDULE_ZB_H1, 4, 2, 1, 1, 0, 5, 0, false, false, false},
	{MT_SCHEDULE_ZB_V, 1, 2, 2, 2, 0, 0, 0, false, false, false},
	{MT_SCHEDULE_ZB_V, 1, 4, 2, 1, 0, 0, 0, false, false, true},
	{MT_SCHEDULE_ZB_V, 2, 4, 2, 1, 0, 0, 0, true, false, false},
	{MT_SCHEDULE_ZB_V, 2, 2, 2, 2, 0, 0, 3, true, true, false},
};

static void run_schedules(struct counts *counts, struct mt_run *run, struct mt_fabric *fabric, const double *expected, size_t every)
{
	const struct mt_layout plain = run->layout;

	for (size_t i = every - 1; i < sizeof schedules / sizeof *schedules; i += every) {
		struct mt_layout *l = &run->layout;

		if (schedules[i].tp * schedules[i].pp * schedules[i].dp > mt_fabric_size(fabric))
			continue;
		l->schedule = schedules[i].schedule;
		l->tp = schedules[i].tp;
		l->pp = schedules[i].pp;
		l->vp = schedules[i].vp;
		l->dp = schedules[i].dp;
		l->vp_group = schedules[i].group;
		l->first_layers = schedules[i].first_layers;
		l->last_layers = schedules[i].last_layers;
		l->sp = schedules[i].sp;
		l->zero = schedules[i].zero;
		l->recompute = schedules[i].full ? MT_RECOMPUTE_FULL : MT_RECOMPUTE_NONE;
		l->mbs = 1;
		run_layout(counts, run, fabric, expected, i % 4 == 0);
		*l = plain;
	}
}

/* Context parallelism, each with other axes beside it. */
static const struct {
	int kind, cp, inner, tp, pp, dp;
	bool sp, zero;
	int recompute, mbs;
} contexts[] = {
	{MT_CONTEXT_RING, 2, 1, 1, 1, 1, false, false, MT_RECOMPUTE_NONE, 1},
	{MT_CONTEXT_RING, 4, 1, 2, 1, 1, true, false, MT_RECOMPUTE_NONE, 2},
	{MT_CONTEXT_RING, 2, 1, 1, 2, 2, false, true, MT_RECOMPUTE_FULL, 1},
	{MT_CONTEXT_ALL_GATHER, 4, 1, 1, 2, 1, false, true, MT_RECOMPUTE_NONE, 1},
	{MT_CONTEXT_ALL_GATHER, 2, 1, 2, 1, 2, true, false, MT_RECOMPUTE_SELECTIVE, 2},
	{MT_CONTEXT_ULYSSES, 2, 1, 2, 2, 1, false, false, MT_RECOMPUTE_NONE, 1},
	{MT_CONTEXT_ULYSSES, 4, 1, 1, 1, 2, false, true, MT_RECOMPUTE_SELECTIVE, 2},
	{MT_CONTEXT_HYBRID, 4, 2, 2, 1, 1, true, false, MT_RECOMPUTE_FULL, 1},
	{MT_CONTEXT_HYBRID, 8, 4, 1, 1, 1, false, true, MT_RECOMPUTE_NONE, 1},
};

static void run_contexts(struct counts *counts, struct mt_run *run, struct mt_fabric *fabric, const double *expected)
{
	const struct mt_layout plain = run->layout;
	struct mt_layout *l = &run->layout;

	for (size_t i = 0; i < sizeof contexts / sizeof *contexts; i++) {
		l->cp_kind = contexts[i].kind, l->cp = contexts[i].cp, l->cp_inner = contexts[i].inner;
		l->tp = contexts[i].tp, l->pp = contexts[i].pp, l->dp = contexts[i].dp;
		l->sp = contexts[i].sp, l->zero = contexts[i].zero;
		l->recompute = contexts[i].recompute, l->mbs = contexts[i].mbs;
		if (mt_layout_world(l) <= mt_fabric_size(fabric) && mt_layout_first_broken(&run->model, l) < 0)
			run_layout(counts, run, fabric, expected, i % 3 == 0);
		else
			counts->skipped++;
		*l = plain;
	}
}

static void run_case(struct counts *counts, struct mt_fabric *fabric, int which, const double *expected)
{
	struct mt_run run;
	int index = 0;

	set_run(&run, cases[which].model, cases[which].dtype, cases[which].fp8, cases[which].moments);
	if (mt_fabric_rank(fabric) == 0 && !(expected[STEPS - 1] < expected[0]))
		tell(counts, false, &run, "the loss of one rank does not fall");
	for (int tp = 1; tp <= 8; tp *= 2) {
		for (int pp = 1; tp * pp <= 8; pp *= 2) {
			for (int dp = 1; tp * pp * dp <= mt_fabric_size(fabric) && tp * pp * dp <= 8; dp *= 2) {
				run.layout.tp = tp;
				run.layout.pp = pp;
				run.layout.dp = dp;
				if (index % cases[which].every == 0)
					run_switches(counts, &run, fabric, expected, index);
				index++;
			}
		}
	}
	run.layout.tp = run.layout.pp = run.layout.dp = run.layout.mbs = 1;
	run.layout.sp = false;
	run.layout.zero = 0;
	if (which == 0 || which == CASES - 1) { /* each model and type once */
		run_schedules(counts, &run, fabric, expected, 1);
		run_contexts(counts, &run, fabric, expected);
	} else if (cases[which].fp8) {
		run_schedules(counts, &run, fabric, expected, 3);
	}
	mt_run_free(&run);
}

int main(void)
{
	struct mt_fabric_config config = {.kind = mt_fabric_launched() ? "mpi" : "self"};
	double expected[CASES][STEPS] = {{0}};
	struct counts counts = {0};
	struct mt_fabric *fabric;

	if (mt_fabric_create(&fabric, &config) != MT_OK) {
		fprintf(stderr, "%s\n", mt_error_message());
		return 4;
	}
	if (train_alone(fabric, expected) != MT_OK) {
		fprintf(stderr, "one rank failed: %s\n", mt_error_message());
		mt_fabric_abort(fabric, 4);
	}
	for (int i = 0; i < CASES; i++)
		run_case(&counts, fabric, i, expected[i]);
	if (mt_fabric_rank(fabric) == 0)
		printf("%d passed, %d failed, %d skipped\n", counts.passed, counts.failed, counts.skipped);
	mt_fabric_destroy(fabric);
	return counts.failed > 0;
}
