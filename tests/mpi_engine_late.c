/* Layouts of several ranks train to the same bits on a device that runs behind the host as on the host itself.
 * ranks: 4
 *
 * The same operations and collectives in the same order give the same bits, unless one of them came before what it needed: so an
 * event that is missing between the compute stream and those of messages and reductions shows here, without a GPU. Collectives
 * are staged through host memory, so that path is tried too. Each layout twice: its operations one by one, and in graphs
 * of layers or, each second one, of passes. */
#include "engine/engine.h"
#include "engine/schedule.h"
#include "tests/late_device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS = 3, LATE_MS = 1 };

struct layout {
	const char *model;
	int tp, pp, dp, sp, zero, recompute, dtype, schedule, vp, offload, ep, etp; /* vp, ep, etp 0: as by default */
};

static const struct layout layouts[] = {
	{"gpt-tiny", 2, 1, 2, 0, 1, MT_RECOMPUTE_NONE, MT_F32, 0, 0, 0, 0, 0},
	{"llama-tiny", 2, 1, 2, 1, 0, MT_RECOMPUTE_NONE, MT_F32, 0, 0, 0, 0, 0},
	{"gpt-tiny", 1, 2, 2, 0, 1, MT_RECOMPUTE_NONE, MT_F32, 0, 0, 0, 0, 0},
	{"llama-tiny", 1, 2, 2, 0, 0, MT_RECOMPUTE_FULL, MT_BF16, 0, 0, 0, 0, 0},
	{"gpt-tiny", 2, 2, 1, 1, 0, MT_RECOMPUTE_FULL, MT_F32, 0, 0, 0, 0, 0},
	{"llama-tiny", 2, 2, 1, 1, 0, MT_RECOMPUTE_NONE, MT_BF16, 0, 0, 0, 0, 0},
	{"gpt-tiny", 1, 4, 1, 0, 0, MT_RECOMPUTE_NONE, MT_BF16, 0, 0, 0, 0, 0},
	{"llama-tiny", 1, 1, 4, 0, 1, MT_RECOMPUTE_NONE, MT_F32, 0, 0, 0, 0, 0},
	{"llama-tiny", 1, 4, 1, 0, 0, MT_RECOMPUTE_NONE, MT_F32, 0, 0, 0, 0, 0},
	{"gpt-tiny", 1, 1, 4, 0, 1, MT_RECOMPUTE_FULL, MT_BF16, 0, 0, 0, 0, 0},
	{"gpt-tiny", 1, 2, 2, 0, 1, MT_RECOMPUTE_NONE, MT_F32, MT_SCHEDULE_1F1B, 2, 0, 0, 0},
	{"gpt-tiny", 1, 1, 4, 0, 1, MT_RECOMPUTE_NONE, MT_F32, 0, 0, 3, 0, 0},
	{"llama-tiny", 2, 2, 1, 1, 0, MT_RECOMPUTE_SELECTIVE, MT_BF16, 0, 0, 100, 0, 0},
	{"gpt-tiny", 1, 2, 2, 0, 3, MT_RECOMPUTE_FULL, MT_F32, MT_SCHEDULE_1F1B, 2, 1, 0, 0},
	{"gpt-tiny", 2, 2, 1, 0, 0, MT_RECOMPUTE_NONE, MT_F32, MT_SCHEDULE_ZB_V, 2, 2, 0, 0},
	{"gpt-tiny", 1, 1, 4, 0, 2, MT_RECOMPUTE_NONE, MT_F32, 0, 0, 0, 0, 0},
	{"llama-tiny", 1, 1, 4, 0, 3, MT_RECOMPUTE_NONE, MT_F32, 0, 0, 0, 0, 0},
	{"gpt-tiny", 2, 1, 2, 1, 3, MT_RECOMPUTE_FULL, MT_BF16, 0, 0, 0, 0, 0},
	{"gpt-tiny", 1, 2, 2, 0, 3, MT_RECOMPUTE_NONE, MT_F32, MT_SCHEDULE_1F1B, 2, 0, 0, 0},
	{"llama-tiny", 2, 2, 1, 1, 0, MT_RECOMPUTE_NONE, MT_F32, MT_SCHEDULE_ZB_H1, 1, 0, 0, 0},
	{"gpt-tiny", 1, 2, 2, 0, 0, MT_RECOMPUTE_NONE, MT_F32, MT_SCHEDULE_ZB_V, 2, 0, 0, 0},
	{"mixtral-tiny", 1, 1, 4, 0, 1, MT_RECOMPUTE_NONE, MT_F32, 0, 0, 0, 4, 0},
	{"mixtral-tiny", 2, 1, 2, 1, 0, MT_RECOMPUTE_FULL, MT_F32, 0, 0, 0, 4, 1},
	{"mixtral-tiny", 2, 1, 2, 1, 1, MT_RECOMPUTE_SELECTIVE, MT_BF16, 0, 0, 0, 2, 2},
	{"mixtral-tiny", 1, 2, 2, 0, 0, MT_RECOMPUTE_NONE, MT_F32, MT_SCHEDULE_ZB_H1, 1, 0, 2, 0},
	{"mixtral-tiny", 1, 1, 4, 0, 3, MT_RECOMPUTE_NONE, MT_F32, 0, 0, 0, 2, 0},
	{"mixtral-tiny", 1, 2, 2, 0, 0, MT_RECOMPUTE_NONE, MT_F32, 0, 0, 2, 2, 0},
};

enum { LAYOUTS = sizeof layouts / sizeof layouts[0] };

static enum mt_status set_run(struct mt_run *run, const struct layout *layout)
{
	mt_run_default(run);
	MT_TRY(mt_model_load(&run->model, layout->model));
	run->layout.tp = layout->tp;
	run->layout.pp = layout->pp;
	run->layout.dp = layout->dp;
	run->layout.sp = layout->sp;
	run->layout.zero = layout->zero;
	run->layout.recompute = layout->recompute;
	run->layout.dtype = layout->dtype;
	run->layout.schedule = layout->schedule;
	run->layout.offload_layers = layout->offload;
	if (layout->vp)
		run->layout.vp = layout->vp;
	if (layout->ep)
		run->layout.ep = layout->ep;
	run->layout.etp = layout->etp;
	run->layout.gbs = 8;
	run->layout.mbs = 1;
	run->layout.seq = 16;
	run->layout.threads = 1;
	run->layout.bucket_bytes = 64 << 10; /* several buckets */
	run->train.steps = STEPS;
	run->train.lr = 3e-3;
	return MT_OK;
}

/* Loss and gradient norm of each step, the same on every rank. */
static enum mt_status train(const struct mt_run *run, struct mt_fabric *fabric, bool late, double numbers[2 * STEPS],
			    struct mt_graph_stats *graphs)
{
	struct mt_engine_config config = {.run = run, .fabric = fabric};
	struct mt_device *device = NULL;
	struct mt_dataset *dataset = NULL;
	struct mt_engine *engine = NULL;
	enum mt_status st;

	st = late ? late_device_create(&device, "cpu", LATE_MS)
		  : mt_device_create(&device, &(struct mt_device_config){.kind = "cpu", .threads = 1});
	if (st != MT_OK)
		goto out;
	MT_GOTO(out, mt_dataset_open(&dataset, &run->data, run->model.vocab, run->layout.seq, (uint64_t)run->train.seed));
	config.device = device;
	config.dataset = dataset;
	MT_GOTO(out, mt_engine_create(&engine, &config));
	for (int step = 0; step < STEPS; step++) {
		struct mt_step_stats stats;

		MT_GOTO(out, mt_engine_step(engine, &stats));
		numbers[2 * step] = stats.loss;
		numbers[2 * step + 1] = stats.grad_norm;
	}
	*graphs = mt_engine_graph_stats(engine);
out:
	mt_engine_destroy(engine);
	mt_dataset_close(dataset);
	mt_device_destroy(device);
	return st;
}

static bool is_same(const struct layout *layout, bool leader, const double *got, const double *expected)
{
	if (!memcmp((const char *)expected, (const char *)got, 2 * STEPS * sizeof *got))
		return true;
	for (int step = 0; leader && step < STEPS; step++)
		printf("FAILED %s tp %d pp %d dp %d: step %d: loss %.17g behind the host, %.17g on it; gradient norm %.17g, "
		       "%.17g\n",
		       layout->model, layout->tp, layout->pp, layout->dp, step, got[2 * step], expected[2 * step],
		       got[2 * step + 1], expected[2 * step + 1]);
	return false;
}

/* Most lists come again; of experts some, as where tensors lie depends on how many rows they have. */
static bool has_graphs(const struct layout *layout, bool leader, const struct mt_graph_stats *graphs)
{
	if (graphs->launched > (layout->ep ? 0 : graphs->missed) && graphs->refused == 0)
		return true;
	if (leader)
		printf("FAILED %s tp %d pp %d dp %d: %lld graphs launched, %lld lists missed, %lld refused\n", layout->model,
		       layout->tp, layout->pp, layout->dp, (long long)graphs->launched, (long long)graphs->missed,
		       (long long)graphs->refused);
	return false;
}

/* How many of the layout's two runs passed: operations one by one, and in graphs. */
static int passes(const struct layout *layout, struct mt_fabric *fabric)
{
	double expected[2 * STEPS] = {0}, plain[2 * STEPS] = {0}, graphed[2 * STEPS] = {0};
	bool leader = mt_fabric_rank(fabric) == 0;
	struct mt_graph_stats none, graphs = {0};
	struct mt_run run;
	enum mt_status st;

	MT_GOTO(out, set_run(&run, layout));
	MT_GOTO(out, train(&run, fabric, false, expected, &none));
	MT_GOTO(out, train(&run, fabric, true, plain, &none));
	run.train.cuda_graphs = (layout - layouts) % 2 ? MT_GRAPHS_PASS : MT_GRAPHS_LAYER;
	MT_GOTO(out, train(&run, fabric, true, graphed, &graphs));
out:
	if (st != MT_OK) { /* the others may wait for this rank */
		fprintf(stderr, "rank %d: %s\n", mt_fabric_rank(fabric), mt_error_message());
		mt_fabric_abort(fabric, 4);
	}
	mt_run_free(&run);
	return is_same(layout, leader, plain, expected) +
	       (is_same(layout, leader, graphed, expected) && has_graphs(layout, leader, &graphs));
}

int main(void)
{
	struct mt_fabric_config config = {.kind = mt_fabric_launched() ? "mpi" : "self"};
	struct mt_fabric *fabric;
	int passed = 0;

	if (mt_fabric_create(&fabric, &config) != MT_OK) {
		fprintf(stderr, "%s\n", mt_error_message());
		return 4;
	}
	if (mt_fabric_size(fabric) != 4) {
		fprintf(stderr, "this test needs 4 ranks, there are %d\n", mt_fabric_size(fabric));
		mt_fabric_abort(fabric, 2);
	}
	for (int i = 0; i < LAYOUTS; i++)
		passed += passes(&layouts[i], fabric);
	if (mt_fabric_rank(fabric) == 0)
		printf("%d passed, %d failed, 0 skipped\n", passed, 2 * LAYOUTS - passed);
	mt_fabric_destroy(fabric);
	return passed < 2 * LAYOUTS;
}
