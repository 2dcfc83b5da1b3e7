/* megatune: the program. Finds the command, runs it, tells a failure once, ends with the documented code. */
#include "base/log.h"
#include "base/options.h"
#include "base/process.h"
#include "tuner/cli_help.h"
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

/* The whole program for man(1): each command tells its own section. */
static enum mt_status print_manual(void)
{
	static char ask[] = "--help=man";
	char name[32];

	printf(".\\\" written by megatune --help=man\n.TH MEGATUNE 1 \"\" \"megatune %s\" \"User Commands\"\n.SH NAME\n"
	       "megatune \\- find, prove and run the best parallel layout for training a transformer\n"
	       ".SH SYNOPSIS\n.B megatune\n.I COMMAND\n[\\fIoptions\\fR]\n.SH DESCRIPTION\n",
	       MT_VERSION);
	mt_help_man_text(
		"A training engine with tensor, sequence, context, expert, pipeline and data parallelism, and a tuner that probes "
		"the "
		"machine, profiles its kernels, searches the layouts, runs the best few and writes the choice as a run file "
		"with a report. Options may stand before or after other words, as --name value, --name=value, --flag or "
		"--no-flag. Numbers take the suffixes K, M, G, T and Ki, Mi, Gi, Ti.",
		stdout);
	for (int i = 0; i < COMMANDS; i++) {
		printf(".TP\n.B %s\n", commands[i].name);
		mt_help_man_text(commands[i].summary, stdout);
	}
	printf(".SH COMMANDS\n");
	for (int i = 0; i < COMMANDS; i++) {
		snprintf(name, sizeof name, "%s", commands[i].name);
		MT_TRY(commands[i].run(2, (char *[]){name, ask, NULL}));
	}
	printf(".SH COMMON OPTIONS\n");
	mt_help_man_options(&mt_common_options_table, stdout);
	printf(".SH EXIT STATUS\n");
	mt_help_man_text(
		"0 done; 1 a verdict against; 2 usage or bad input; 3 inconclusive; 4 the run failed; 77 not possible here; 130 "
		"interrupted, what was found so far is kept.",
		stdout);
	printf(".SH ENVIRONMENT\n.TP\n.B MEGATUNE_DATA\ndirectory above models, machines, stacks and maps\n.TP\n"
	       ".B MEGATUNE_PLUGINS\ndirectory of the plugins\n.TP\n.B MEGATUNE_ISA\n"
	       "avx512, avx2 or baseline: lowers the instruction set of the processor's kernels\n.TP\n.B NO_COLOR\nno colours\n");
	return MT_OK;
}

static enum mt_status help(enum mt_help kind)
{
	if (kind == MT_HELP_MAN)
		return print_manual();
	if (kind == MT_HELP_TEXT)
		print_usage(stdout);
	for (int i = 0; i < COMMANDS && kind == MT_HELP_WORDS; i++)
		printf("%s\n", commands[i].name);
	return MT_OK;
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
	if (!strcmp(argv[1], "help"))
		return help(MT_HELP_TEXT);
	if (mt_help_asked(argv[1]))
		return help(mt_help_asked(argv[1]));
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
	if (fflush(stdout) != 0 || ferror(stdout))
		st = st == MT_OK ? mt_fail(MT_IO, "writing to standard output failed: is the disk full?") : st;
	if (st != MT_OK && mt_error_message()[0])
		mt_error("%s", mt_error_message());
	return mt_status_exit_code(st);
}
