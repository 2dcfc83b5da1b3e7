/* export: a run file in the words of other software. */
#define _GNU_SOURCE
#include "base/file.h"
#include "base/json.h"
#include "tuner/cli.h"
#include "tuner/commands.h"
#include "tuner/export.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct export_options {
	char *out;
	int to; /* 0 megatron, 1 slurm */
	struct mt_slurm_options slurm;
};

static const char *const targets[] = {"megatron", "slurm", NULL};
static const char *const programs[] = {"megatune", "megatron", NULL};

#define F(f) offsetof(struct export_options, f)
static const struct mt_option export_options[] = {
	{"to", MT_OPTION_CHOICE, F(to), "megatron", 0, 0, targets, "megatron: arguments of Megatron-LM; slurm: a batch script"},
	{"out", MT_OPTION_STRING, F(out), NULL, 0, 0, NULL, "file to write; none: standard output"},
	{"program", MT_OPTION_CHOICE, F(slurm.program), "megatune", 0, 0, programs, "slurm: what the job runs"},
	{"gpus_per_node", MT_OPTION_INT, F(slurm.gpus_per_node), "8", 1, 1024, NULL, "slurm: ranks of a node"},
	{"time", MT_OPTION_STRING, F(slurm.time), NULL, 0, 0, NULL, "slurm: limit of the job, as sbatch takes it"},
	{"partition", MT_OPTION_STRING, F(slurm.partition), NULL, 0, 0, NULL, "slurm: partition"},
	{"account", MT_OPTION_STRING, F(slurm.account), NULL, 0, 0, NULL, "slurm: account"},
};
static const struct mt_option_table export_table = {"export", export_options, sizeof export_options / sizeof export_options[0]};

static enum mt_status to_megatron(const struct mt_run *run, const struct mt_export_beyond *beyond, FILE *file, bool json)
{
	struct mt_export e;

	MT_TRY(mt_export_megatron(&e, run, beyond));
	if (json) {
		json_t *environment = json_object();

		if (e.one_connection)
			json_object_set_new(environment, "CUDA_DEVICE_MAX_CONNECTIONS", json_string("1"));
		json_t *doc = json_pack("{s:O,s:O,s:o}", "arguments", e.arguments, "notes", e.notes, "environment", environment);
		if (doc)
			json_dumpf(doc, file, JSON_INDENT(2));
		fputc('\n', file);
		json_decref(doc);
	} else {
		char text[96];

		mt_layout_text(&run->layout, text);
		fputs("# shellcheck shell=bash disable=SC2034\n# ", file);
		mt_export_comment(file, run->model.name, 80);
		fprintf(file, " on %lld ranks: %s\n# source this, then: torchrun ... pretrain_gpt.py \"${ARGS[@]}\"\n",
			(long long)mt_layout_world(&run->layout), text);
		mt_export_write(&e, file);
	}
	mt_export_free(&e);
	return MT_OK;
}

/* From the plan.json beside a plan's run file; what measured its machine has none. */
static enum mt_status read_beyond(struct mt_export_beyond *beyond, const char *folder)
{
	char *path = mt_string("%s/plan.json", folder);
	json_t *plan = NULL;
	enum mt_status st = MT_OK;

	if (!path)
		return mt_fail(MT_NOMEM, "no memory for a path");
	if (!mt_file_exists(path))
		goto out;
	MT_GOTO(out, mt_json_load(&plan, path));
	const json_t *layout = json_object_get(json_object_get(plan, "choice"), "layout");
	const char *precision = mt_json_get_string(json_object_get(plan, "options"), "precision", "bf16");
	beyond->tp_overlap = json_is_true(json_object_get(layout, "tp_overlap"));
	if (strcmp(precision, "mxfp8") == 0 || strcmp(precision, "fp4") == 0)
		snprintf(beyond->precision, sizeof beyond->precision, "%s", precision);
out:
	json_decref(plan);
	free(path);
	return st;
}

static enum mt_status put(const struct mt_run *run, const struct mt_export_beyond *beyond, const char *path,
			  const struct export_options *o, bool json, FILE *file)
{
	char full[PATH_MAX];

	if (o->to == 0)
		return to_megatron(run, beyond, file, json);
	if (o->slurm.program == 0)
		MT_TRY(mt_run_check(run, path));
	return mt_export_slurm(file, run, beyond, realpath(path, full) ? full : path, &o->slurm);
}

/* Options that the wanted words have no use for. */
static enum mt_status check_options(const struct mt_cli *cli, const struct export_options *o)
{
	if (o->to == 1 && cli->common.json)
		return mt_fail(MT_INPUT, "command line: --to slurm writes a batch script, no JSON: leave --json out");
	for (int i = 0; i < cli->option_count && o->to == 0; i++) {
		const struct mt_option *option = mt_options_find(&export_table, cli->names[i]);

		if (option && option->offset >= F(slurm))
			return mt_fail(MT_INPUT, "command line: --%s is of a batch script: give --to slurm too, or leave it out",
				       cli->names[i]);
	}
	return MT_OK;
}

static enum mt_status work(const struct mt_cli *cli, const struct export_options *o)
{
	struct stat what;
	bool folder = stat(cli->words[0], &what) == 0 && S_ISDIR(what.st_mode);
	char *path = folder ? mt_string("%s/run.yaml", cli->words[0]) : mt_string("%s", cli->words[0]), *text = NULL;
	struct mt_export_beyond beyond = {0};
	struct mt_run run;
	size_t bytes = 0;
	FILE *file = NULL;
	enum mt_status st;

	if (!path)
		return mt_fail(MT_NOMEM, "no memory for a path");
	if (folder)
		MT_GOTO(out, read_beyond(&beyond, cli->words[0]));
	MT_GOTO(out, mt_run_read(&run, path));
	file = open_memstream(&text, &bytes); /* nothing is written unless all is well */
	st = file ? put(&run, &beyond, path, o, cli->common.json, file) : mt_fail(MT_NOMEM, "out of memory");
	if (file)
		fclose(file);
	mt_run_free(&run);
	if (st == MT_OK && o->out)
		st = mt_file_write(o->out, text, bytes);
	else if (st == MT_OK && (fwrite(text, 1, bytes, stdout) != bytes || fflush(stdout) != 0))
		st = mt_fail(MT_IO, "writing to standard output failed");
out:
	free(text);
	free(path);
	return st;
}

enum mt_status mt_command_export(int argc, char **argv)
{
	struct export_options options;
	struct mt_cli cli = {
		.usage = "megatune export RUN [options]",
		.summary = "A run file, or the folder of a plan or tune with one, in the words of other software: arguments of "
			   "Megatron-LM with notes of what does not map, or a batch script for Slurm.",
		.tables = {&export_table},
		.values = {&options},
		.least_words = 1,
		.most_words = 1};
	enum mt_status st;

	mt_options_default(&export_table, &options);
	MT_GOTO(out, mt_cli_parse(&cli, argc, argv));
	if (cli.helped)
		goto out;
	MT_GOTO(out, mt_cli_apply(&cli));
	MT_GOTO(out, check_options(&cli, &options));
	st = work(&cli, &options);
out:
	mt_cli_free(&cli);
	mt_options_free(&export_table, &options);
	return st;
}
