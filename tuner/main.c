/* megatune: the program. Finds the command, runs it, tells a failure once, ends with the documented code. */
#include "base/log.h"
#include "base/options.h"
#include "base/process.h"
#include "tuner/commands.h"

#include <stdio.h>
#include <string.h>

static const struct {
	const char *name, *summary;
	enum mt_status (*run)(int argc, char **argv);
} commands[] = {
	{"doctor", "what this machine has, what is missing, what to install", mt_command_doctor},
	{"probe", "measure the machine: cores, memory, links, collectives", mt_command_probe},
	{"profile", "time the kernels that a model's layouts need", mt_command_profile},
	{"plan", "search the best layout of a model, without running anything", mt_command_plan},
	{"scale", "a model on growing numbers of described accelerators", mt_command_scale},
	{"export", "a run as Megatron-LM's arguments or a Slurm script", mt_command_export},
	{"tune", "search, run the best few, choose, report", mt_command_tune},
	{"train", "train a model as a run file says", mt_command_train},
	{"rehearse", "a run's whole job in real time, on an emulated device", mt_command_rehearse},
	{"launch", "start a command on several ranks, without MPI", mt_command_launch},
	{"data", "tokenize text, and look into data sets", mt_command_data},
	{"validate", "predict a table of measured runs, tell how far off", mt_command_validate},
	{"calibrate", "fit machine and stack to measured runs", mt_command_calibrate},
	{"ckpt", "list, verify and convert checkpoints", mt_command_ckpt},
	{"logits", "logits of given tokens, to compare with other programs", mt_command_logits},
	{"report", "make the report again from a result file", mt_command_report},
};

enum { COMMANDS = sizeof commands / sizeof commands[0] };

static void print_usage(FILE *file)
{
	fprintf(file, "usage: megatune COMMAND [options]\n\n");
	for (int i = 0; i < COMMANDS; i++)
		fprintf(file, "  %-10s %s\n", commands[i].name, commands[i].summary);
	fprintf(file, "\nmegatune COMMAND --help tells more; megatune --version the version.\n");
}

static enum mt_status unknown_command(const char *name)
{
	const char *names[COMMANDS], *nearest;

	for (int i = 0; i < COMMANDS; i++)
		names[i] = commands[i].name;
	nearest = mt_options_nearest(name, names, COMMANDS);
	if (nearest)
		return mt_fail(MT_INPUT, "unknown command '%s'; did you mean '%s'?", name, nearest);
	return mt_fail(MT_INPUT, "unknown command '%s'; megatune --help lists the commands", name);
}

static enum mt_status dispatch(int argc, char **argv)
{
	if (argc < 2) {
		print_usage(stderr);
		return mt_fail(MT_INPUT, "no command given");
	}
	if (!strcmp(argv[1], "--version")) {
		printf("megatune %s\n", MT_VERSION);
		return MT_OK;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
		print_usage(stdout);
		return MT_OK;
	}
	for (int i = 0; i < COMMANDS; i++) {
		if (!strcmp(argv[1], commands[i].name))
			return commands[i].run(argc - 1, argv + 1);
	}
	return unknown_command(argv[1]);
}

int main(int argc, char **argv)
{
	enum mt_status st;

	mt_process_catch_signals();
	st = dispatch(argc, argv);
	if (st != MT_OK && mt_error_message()[0])
		mt_error("%s", mt_error_message());
	return mt_status_exit_code(st);
}
