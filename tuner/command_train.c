/* train: `megatune train run.yaml`, alone, under mpirun, srun, torchrun and `megatune launch`. */
#include "base/log.h"
#include "base/units.h"
#include "engine/trainer.h"
#include "tuner/cli.h"
#include "tuner/commands.h"
#include "tuner/fit_gpu.h"
#include "tuner/health.h"
#include "tuner/job.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct train_command {
	int64_t warmup;
	bool pace;
};

static const struct mt_option options[] = {
	{"warmup", MT_OPTION_INT, offsetof(struct train_command, warmup), "2", 0, 1e6, NULL,
	 "steps at the start that are run but not timed in the summary"},
	{"pace", MT_OPTION_BOOL, offsetof(struct train_command, pace), "false", 0, 0, NULL,
	 "measure the matrix product rate between steps (in the summary of --json), which tells when other work slowed the "
	 "machine"},
};
static const struct mt_option_table table = {"command", options, sizeof options / sizeof options[0]};

static void print_step(void *context, const struct mt_step_report *r)
{
	char memory[MT_UNITS_TEXT], scale[32] = "";

	if (!*(const bool *)context)
		return;
	if (r->stats.loss_scale > 0)
		snprintf(scale, sizeof scale, "  scale %g", r->stats.loss_scale);
	printf("step %5lld  loss %.6f  norm %8.4f  lr %.2e  %8.1f ms  %8.0f tok/s  %.4f TFLOP/s  MFU %5.1f%%  %s%s%s%s\n",
	       (long long)r->stats.step, r->stats.loss, r->stats.grad_norm, r->stats.lr, r->stats.seconds * 1e3, r->tokens_per_s,
	       r->tflops_per_device, r->mfu_frac * 100, mt_units_bytes(memory, (double)r->memory_bytes), scale,
	       r->stats.skipped ? "  skipped: " : "", mt_skipped_name(r->stats.skipped));
	fflush(stdout);
}

static void print_evaluation(void *context, int64_t step, double loss)
{
	if (!*(const bool *)context)
		return;
	printf("after %lld steps  validation loss %.6f\n", (long long)step, loss);
	fflush(stdout);
}

static enum mt_status check_fit(const struct mt_run *run, struct mt_fabric *fabric, const struct mt_device *device)
{
	struct mt_device_info first;
	int gpus = 0, ranks = mt_fabric_local_size(fabric);

	if (strcmp(device->info.kind, "cuda") != 0)
		return MT_OK;
	MT_TRY(mt_device_plugin_list("cuda", &first, 1, &gpus));
	return mt_gpu_fit_check(run, device, gpus > 0 ? (ranks + gpus - 1) / gpus : 1);
}

/* What can be found wrong without the other ranks; nothing is written before. The data set is opened again by the trainer. */
static enum mt_status prepare(struct mt_run *run, const struct mt_cli *cli, struct mt_fabric *fabric, struct mt_device **device)
{
	struct mt_dataset *dataset = NULL;
	struct mt_device_config config = {0};
	int ranks = mt_fabric_size(fabric);

	MT_TRY(mt_run_load(run, cli->words[0]));
	MT_TRY(mt_cli_apply(cli));
	MT_TRY(mt_run_check(run, cli->words[0]));
	if (mt_layout_world(&run->layout) != ranks)
		return mt_fail(
			MT_INPUT,
			"%s: the layout needs %lld ranks (tp*dp*pp), the job has %d: start it with `mpirun -n %lld` or `megatune "
			"launch -n %lld`, or change the layout",
			cli->words[0], (long long)mt_layout_world(&run->layout), ranks, (long long)mt_layout_world(&run->layout),
			(long long)mt_layout_world(&run->layout));
	MT_TRY(mt_dataset_open(&dataset, &run->data, run->model.vocab, run->layout.seq, (uint64_t)run->train.seed));
	mt_dataset_close(dataset);
	if (run->train.eval_every > 0) {
		MT_TRY(mt_dataset_open_part(&dataset, &run->data, MT_DATA_VALID, run->model.vocab, run->layout.seq,
					    (uint64_t)run->train.seed));
		mt_dataset_close(dataset);
	}
	MT_TRY(mt_job_order(NULL, run, fabric));
	config.kind = run->train.device;
	config.threads = (int)run->layout.threads;
	config.local_rank = mt_fabric_local_rank(fabric);
	MT_TRY(mt_device_create(device, &config));
	MT_TRY(mt_engine_check_graphs(run, *device));
	return mt_fabric_rank(fabric) == 0 ? check_fit(run, fabric, *device) : MT_OK;
}

/* Of the summary and of the GPUs' state. */
static json_t *summary_json(const struct mt_train_summary *summary, const struct mt_nvml_watched *gpus, int count)
{
	json_t *document = mt_train_summary_json(summary);

	if (document && count > 0)
		json_object_set_new(document, "gpus", mt_health_json(gpus, count));
	return document;
}

static void print_graphs(const struct mt_graph_stats *s)
{
	if (s->missed == 0)
		return;
	printf("graphs  %lld launched for %lld operations, %lld captured, %lld lists met for the first time",
	       (long long)s->launched, (long long)s->operations, (long long)s->captured, (long long)s->missed);
	if (s->refused > 0)
		printf(", %lld not captured: %s", (long long)s->refused, s->reason);
	printf("\n");
}

/* Text lines on the first rank only; with --json the summary alone. */
static enum mt_status train(const struct mt_cli *cli, const struct mt_run *run, const struct train_command *command,
			    struct mt_fabric *fabric, struct mt_device *device)
{
	bool leader = mt_fabric_rank(fabric) == 0, prints = leader && !cli->common.json;
	struct mt_train_summary summary = {0};
	struct mt_trainer_config config = {.run = run,
					   .warmup = (int)command->warmup,
					   .pace = command->pace,
					   .report = print_step,
					   .evaluated = print_evaluation,
					   .context = &prints,
					   .device = device,
					   .fabric = fabric};
	struct mt_nvml_watch *watch = leader ? mt_health_start(device) : NULL;
	struct mt_nvml_watched *gpus = NULL;
	int gpu_count = 0;
	enum mt_status st = mt_train(&summary, &config), stopped = mt_nvml_watch_stop(watch, &gpus, &gpu_count);

	MT_GOTO(out, st);
	MT_GOTO(out, stopped);
	if (leader && cli->common.json)
		MT_GOTO(out, mt_cli_print_json(summary_json(&summary, gpus, gpu_count)));
	if (prints)
		mt_health_print(gpus, gpu_count, stdout);
	if (prints)
		print_graphs(&summary.graphs);
	if (prints && summary.interrupted)
		printf("stopped by %s after step %lld%s\n", summary.reason, (long long)summary.last_step - 1,
		       summary.saved ? "; it is saved, and goes on where it was when started again" : "");
	/* With a checkpoint of its last step nothing is lost: a scheduler's signal is a good end. */
	if (summary.interrupted && (!summary.saved || strcmp(summary.reason, "SIGINT") == 0))
		st = MT_INTERRUPTED;
out:
	if (st != MT_OK && st != MT_INTERRUPTED)
		mt_job_give_up(fabric, st);
	mt_train_summary_free(&summary);
	free(gpus);
	return st;
}

enum mt_status mt_command_train(int argc, char **argv)
{
	struct mt_run run = {0};
	struct train_command command = {0};
	struct mt_cli cli = {
		.usage = "megatune train RUN.yaml [options]",
		.summary = "Trains a model as the run file says; options replace what is in the file. Start it alone, or on "
			   "several ranks with `mpirun -n N`, `megatune launch -n N`, srun or torchrun before it.",
		.tables = {&table, &mt_layout_options, &mt_train_options_table, &mt_data_options_table},
		.values = {&command, &run.layout, &run.train, &run.data},
		.least_words = 1,
		.most_words = 1};
	struct mt_fabric *fabric = NULL, *ordered = NULL;
	struct mt_device *device = NULL;
	enum mt_status st, parsed;

	mt_options_default(&table, &command);
	st = mt_cli_parse(&cli, argc, argv);
	if (cli.helped)
		goto out;
	parsed = st;
	MT_GOTO(out, mt_job_open(&fabric));
	MT_GOTO(out, mt_job_agree(fabric, parsed == MT_OK ? prepare(&run, &cli, fabric, &device) : parsed));
	MT_GOTO(out, mt_job_choose(&fabric, (enum mt_fabric_choice)run.train.fabric, run.train.device));
	mt_fabric_set_deadline(fabric, run.train.watchdog_s);
	MT_GOTO(out, mt_job_order(&ordered, &run, fabric));
	st = train(&cli, &run, &command, ordered ? ordered : fabric, device);
out:
	mt_device_destroy(device);
	mt_fabric_destroy(ordered);
	mt_fabric_destroy(fabric);
	mt_cli_free(&cli);
	mt_run_free(&run);
	return st;
}
