/* train: `megatune train run.yaml`, alone, under mpirun and under srun. */
#include "base/log.h"
#include "base/units.h"
#include "engine/trainer.h"
#include "tuner/cli.h"
#include "tuner/commands.h"

#include <stdio.h>

struct train_command {
	int64_t warmup;
};

static const struct mt_option options[] = {
	{"warmup", MT_OPTION_INT, offsetof(struct train_command, warmup), "2", 0, 1e6, NULL,
	 "steps at the start that are run but not timed in the summary"},
};
static const struct mt_option_table table = {"command", options, 1};

static void print_step(void *context, const struct mt_step_report *r)
{
	char memory[MT_UNITS_TEXT];

	if (!*(const bool *)context)
		return;
	printf("step %5lld  loss %.6f  norm %8.4f  lr %.2e  %8.1f ms  %8.0f tok/s  %.4f TFLOP/s  MFU %5.1f%%  %s%s\n",
	       (long long)r->stats.step, r->stats.loss, r->stats.grad_norm, r->stats.lr, r->stats.seconds * 1e3, r->tokens_per_s,
	       r->tflops_per_device, r->mfu_frac * 100, mt_units_bytes(memory, (double)r->memory_bytes),
	       r->stats.skipped ? "  skipped: not finite" : "");
	fflush(stdout);
}

/* Text lines on the first rank only; with --json the summary alone. */
static enum mt_status train(const struct mt_cli *cli, const struct mt_run *run, int warmup)
{
	struct mt_fabric_config fabric_config = {.kind = mt_fabric_launched() ? "mpi" : "self"};
	struct mt_device_config device_config = {.kind = run->train.device, .threads = (int)run->layout.threads};
	struct mt_fabric *fabric = NULL;
	struct mt_device *device = NULL;
	struct mt_train_summary summary = {0};
	bool prints = false;
	struct mt_trainer_config config = {.run = run, .warmup = warmup, .report = print_step, .context = &prints};
	enum mt_status st;

	MT_GOTO(out, mt_fabric_create(&fabric, &fabric_config));
	mt_log_set_rank(mt_fabric_rank(fabric), mt_fabric_size(fabric), mt_fabric_host(fabric, mt_fabric_rank(fabric)));
	prints = mt_fabric_rank(fabric) == 0 && !cli->common.json;
	MT_GOTO(out, mt_device_create(&device, &device_config));
	config.device = device;
	config.fabric = fabric;
	MT_GOTO(out, mt_train(&summary, &config));
	if (mt_fabric_rank(fabric) == 0 && cli->common.json)
		MT_GOTO(out, mt_cli_print_json(mt_train_summary_json(&summary)));
	if (summary.interrupted)
		st = MT_INTERRUPTED;
out:
	mt_train_summary_free(&summary);
	mt_device_destroy(device);
	if (st != MT_OK && st != MT_INTERRUPTED && fabric && mt_fabric_size(fabric) > 1) {
		/* The others may be waiting for this rank. */
		mt_error("%s", mt_error_message());
		mt_fabric_abort(fabric, mt_status_exit_code(st));
	}
	mt_fabric_destroy(fabric);
	return st;
}

enum mt_status mt_command_train(int argc, char **argv)
{
	struct mt_run run;
	struct train_command command = {0};
	struct mt_cli cli = {
		.usage = "megatune train RUN.yaml [options]",
		.summary = "Trains a model as the run file says; options replace what is in the file. Start it alone, or on\n"
			   "several ranks with `mpirun -n N megatune train RUN.yaml` or srun.",
		.tables = {&table, &mt_layout_options, &mt_train_options_table, &mt_data_options_table},
		.values = {&command, &run.layout, &run.train, &run.data},
		.least_words = 1,
		.most_words = 1};
	enum mt_status st;

	mt_run_default(&run);
	mt_options_default(&table, &command);
	MT_GOTO(out, mt_cli_parse(&cli, argc, argv));
	if (cli.helped)
		goto out;
	MT_GOTO(out, mt_run_load(&run, cli.words[0]));
	MT_GOTO(out, mt_cli_apply(&cli));
	MT_GOTO(out, mt_layout_check(&run.model, &run.layout, cli.words[0]));
	st = train(&cli, &run, (int)command.warmup);
out:
	mt_cli_free(&cli);
	mt_run_free(&run);
	return st;
}
