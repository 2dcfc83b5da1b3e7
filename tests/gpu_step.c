/* gpu_step: the training step of a model on one device: as many of its layers as fit.
 *   gpu_step DEVICE MODEL SEQUENCES TOKENS [STEPS [layer|pass]]        (layer, pass: what is launched as a graph)
 *
 * Prints one line: layers, shape, median ms a step, tokens/s, model TFLOP/s, MFU against the device's measured product rate,
 * memory. How many layers fit is counted by a dry run of the engine, whose memory is the live engine's; what the dry run does not
 * count (scratch, the library's own) is left free. The device's word is the last: as long as it says no, a layer goes. */
#include "engine/trainer.h"
#include "tests/gpu_device.h"

#define USABLE_FRAC 0.92

enum { WARM_UP = 3, MOST_RETRIES = 4 };

static double no_time(void *context, const struct mt_op_key *key)
{
	return 1e-6;
}

static double no_comm_time(void *context, const struct mt_comm_key *key)
{
	return 1e-6;
}

/* What a run needs with so many layers. */
static enum mt_status count_bytes(struct mt_run *run, int64_t count, double *bytes)
{
	struct mt_device_config device_config = {.kind = "dry", .cost = {.op_s = no_time}};
	struct mt_engine_config config = {.run = run};
	struct mt_dry_world *world = NULL;
	struct mt_engine *engine = NULL;
	struct mt_step_stats stats;
	const int64_t layers = run->model.layers;
	enum mt_status st;

	run->model.layers = count;
	MT_GOTO(out, mt_dry_world_create(&world, 1));
	struct mt_fabric_config fabric_config = {.kind = "dry", .size = 1, .dry_world = world, .cost = {.comm_s = no_comm_time}};
	MT_GOTO(out, mt_device_create(&config.device, &device_config));
	MT_GOTO(out, mt_fabric_create(&config.fabric, &fabric_config));
	MT_GOTO(out, mt_engine_create(&engine, &config));
	MT_GOTO(out, mt_engine_step(engine, &stats));
	*bytes = (double)mt_engine_peak_bytes(engine);
out:
	mt_engine_destroy(engine);
	mt_fabric_destroy(config.fabric);
	mt_device_destroy(config.device);
	mt_dry_world_destroy(world);
	run->model.layers = layers;
	return st;
}

/* Memory is a line in the layers. */
static enum mt_status fit_layers(struct mt_run *run, const struct mt_device *device)
{
	const double usable = USABLE_FRAC * (double)device->info.memory_bytes;
	double one, two;
	MT_TRY(count_bytes(run, 1, &one));
	MT_TRY(count_bytes(run, 2, &two));
	if (one > usable)
		return mt_fail(MT_UNAVAILABLE, "%s: one layer needs %.1f GiB, %.1f of %.1f GiB are to be used", run->model.name,
			       one / 0x1p30, usable / 0x1p30, (double)device->info.memory_bytes / 0x1p30);
	const int64_t fit = 1 + (int64_t)((usable - one) / (two - one));
	if (fit < run->model.layers)
		run->model.layers = fit;
	return MT_OK;
}

static void print(const struct mt_run *run, const struct mt_train_summary *s, int64_t all_layers)
{
	const int choice = run->train.cuda_graphs;
	const char *graphs = choice == MT_GRAPHS_PASS ? " in graphs of a pass" : choice ? " in graphs of a layer" : "";
	const double peak_bytes = s->stages > 0 ? (double)s->stage[0].peak_bytes : 0;
	printf("megatune %s%s, %lld of %lld layers, %lld x %lld tokens, %s: %.2f ms a step, %.0f tokens/s, %.2f TFLOP/s, "
	       "MFU %.3f of %.1f TFLOP/s, %.1f GiB, loss %.4f to %.4f\n",
	       run->model.name, graphs, (long long)run->model.layers, (long long)all_layers, (long long)run->layout.mbs,
	       (long long)run->layout.seq, mt_dtype_name((enum mt_dtype)run->layout.dtype), s->median_step_s * 1e3, s->tokens_per_s,
	       s->tflops_per_device, s->mfu_frac, s->peak_tflops, peak_bytes / 0x1p30, s->first_loss, s->last_loss);
}

static enum mt_status run_steps(struct mt_run *run, struct mt_device *device)
{
	struct mt_train_summary summary = {0};
	struct mt_fabric *fabric = NULL;
	const int64_t all_layers = run->model.layers;
	enum mt_status st;

	MT_GOTO(out, mt_fabric_create(&fabric, &(struct mt_fabric_config){.kind = "self"}));
	MT_GOTO(out, fit_layers(run, device));
	struct mt_trainer_config config = {.run = run, .device = device, .fabric = fabric, .warmup = WARM_UP};
	for (int retry = 0; retry <= MOST_RETRIES; retry++) {
		st = mt_train(&summary, &config);
		if (st != MT_NOMEM || run->model.layers == 1)
			break;
		mt_train_summary_free(&summary);
		memset(&summary, 0, sizeof summary);
		run->model.layers--;
	}
	if (st == MT_OK && !(summary.last_loss > 0 && summary.last_loss < 1e3))
		st = mt_fail(MT_FAILED, "%s: the last loss is %g", run->model.name, summary.last_loss);
	if (st == MT_OK && run->train.cuda_graphs && summary.graphs.launched == 0)
		st = mt_fail(MT_FAILED, "%s: no graph was launched: %s", run->model.name, summary.graphs.reason);
	if (st == MT_OK)
		print(run, &summary, all_layers);
out:
	mt_train_summary_free(&summary);
	mt_fabric_destroy(fabric);
	return st;
}

static enum mt_status open_run(struct mt_run *run, int argc, char **argv)
{
	mt_run_default(run);
	if (argc < 5)
		return mt_fail(MT_INPUT, "gpu_step DEVICE MODEL SEQUENCES TOKENS [STEPS [layer|pass]]");
	MT_TRY(mt_model_load(&run->model, argv[2]));
	run->layout.mbs = run->layout.gbs = atoll(argv[3]);
	run->layout.seq = atoll(argv[4]);
	run->layout.dtype = MT_BF16;
	run->train.steps = argc > 5 ? atoll(argv[5]) : 13;
	if (argc > 6)
		run->train.cuda_graphs = strcmp(argv[6], "pass") == 0 ? MT_GRAPHS_PASS : MT_GRAPHS_LAYER;
	run->train.warmup_steps = 2;
	run->train.lr = 1e-4;
	if (strcmp(argv[1], "late") == 0) /* its processor would take minutes for a GPU's cube */
		run->train.peak_tflops = 1;
	return mt_run_check(run, "gpu_step");
}

int main(int argc, char **argv)
{
	struct mt_device *device = NULL;
	struct mt_run run;
	enum mt_status st;

	MT_GOTO(out, open_run(&run, argc, argv));
	MT_GOTO(out, gpu_device_open(&device, argv[1], 0));
	if (run.train.cuda_graphs && !mt_device_has_graphs(device)) {
		st = mt_fail(MT_UNAVAILABLE, "graphs   %s: the %s device launches none", run.model.name, argv[1]);
		goto out;
	}
	st = run_steps(&run, device);
out:
	if (st != MT_OK)
		printf("%s\n", mt_error_message());
	mt_device_destroy(device);
	mt_run_free(&run);
	return st == MT_OK ? 0 : st == MT_UNAVAILABLE ? NOT_POSSIBLE : st == MT_INPUT ? 2 : 4;
}
