/* Every dense layout of up to 8 ranks trains to the losses of one rank.
 * ranks: 8
 *
 * One job of 8 ranks runs all layouts of tp, pp, dp in {1,2,4,8} up to 8 ranks in turn, each on blocks of tp*pp*dp ranks: sequence
 * parallelism on and off, ZeRO-1 on and off, a small GPT and a small LLaMA, f32 and bf16; recompute none, selective and full, of
 * all layers or the first, in turn. The reference is one rank on the plain device in the same run. Tolerances: f32 1e-6 relative at
 * the first of 20 steps, 1e-4 at the last; bf16 2e-2. The same layout twice gives the same bits. What else a layout can be is in
 * mpi_engine_layouts.c, where any two choices meet but not all of them. */
#include "base/log.h"
#include "engine/engine.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS = 20, MOST_FAILURES = 20 };

struct counts {
	int passed, failed;
};

static void set_run(struct mt_run *run, const char *model, enum mt_dtype dtype)
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
		double bound = dtype == MT_BF16 ? 2e-2 : step == 0 ? 1e-6 : 1e-6 + (1e-4 - 1e-6) * step / (STEPS - 1);

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
} cases[] = {{"gpt-tiny", MT_F32}, {"llama-tiny", MT_F32}, {"gpt-tiny", MT_BF16}, {"llama-tiny", MT_BF16}};

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
		set_run(&run, cases[i].model, cases[i].dtype);
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

static void run_case(struct counts *counts, struct mt_fabric *fabric, int which, const double *expected)
{
	struct mt_run run;
	int index = 0;

	set_run(&run, cases[which].model, cases[which].dtype);
	if (mt_fabric_rank(fabric) == 0 && !(expected[STEPS - 1] < expected[0]))
		tell(counts, false, &run, "the loss of one rank does not fall");
	for (int tp = 1; tp <= 8; tp *= 2) {
		for (int pp = 1; tp * pp <= 8; pp *= 2) {
			for (int dp = 1; tp * pp * dp <= mt_fabric_size(fabric) && tp * pp * dp <= 8; dp *= 2) {
				run.layout.tp = tp;
				run.layout.pp = pp;
				run.layout.dp = dp;
				run_switches(counts, &run, fabric, expected, index++);
			}
		}
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
		printf("%d passed, %d failed, 0 skipped\n", counts.passed, counts.failed);
	mt_fabric_destroy(fabric);
	return counts.failed > 0;
}
