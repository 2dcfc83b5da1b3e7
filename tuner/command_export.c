/* export: a run file in the words of other software. */
#define _GNU_SOURCE
#include "base/file.h"
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

static enum mt_status to_megatron(const struct mt_run *run, FILE *file, bool json)
{
	struct mt_export e;

	MT_TRY(mt_export_megatron(&e, run));
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
		fprintf(file,
			"# shellcheck shell=bash disable=SC2034\n# %.80s on %lld ranks: %s\n# source this, then: torchrun ... "
			"pretrain_gpt.py \"${ARGS[@]}\"\n",
			run->model.name, (long long)mt_layout_world(&run->layout), text);
		mt_export_write(&e, file);
	}
	mt_export_free(&e);
	return MT_OK;
}

static enum mt_status put(const struct mt_run *run, const char *path, const struct export_options *o, bool json, FILE *file)
{
	char full[PATH_MAX];

	if (o->to == 0)
		return to_megatron(run, file, json);
	if (o->slurm.program == 0)
		MT_TRY(mt_run_check(run, path));
	return mt_export_slurm(file, run, realpath(path, full) ? full : path, &o->slurm);
}

static enum mt_status work(const struct mt_cli *cli, const struct export_options *o)
{
	struct stat what;
	bool folder = stat(cli->words[0], &what) == 0 && S_ISDIR(what.st_mode);
	char *path = folder ? mt_string("%s/run.yaml", cli->words[0]) : mt_string("%s", cli->words[0]), *text = NULL;
	struct mt_run run;
	size_t bytes = 0;
	FILE *file = NULL;
	enum mt_status st;

	if (!path)
		return mt_fail(MT_NOMEM, "no memory for a path");
	MT_GOTO(out, mt_run_read(&run, path));
	file = open_memstream(&text, &bytes); /* nothing is written unless all is well */
	st = file ? put(&run, path, o, cli->common.json, file) : mt_fail(MT_NOMEM, "out of memory");
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
	st = work(&cli, &options);
out:
	mt_cli_free(&cli);
	mt_options_free(&export_table, &options);
	return st;
}
