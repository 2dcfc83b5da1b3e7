/* ckpt: `megatune ckpt list|verify|convert`: checkpoints without a run. */
#include "base/file.h"
#include "base/json.h"
#include "base/units.h"
#include "engine/weights.h"
#include "tuner/cli.h"
#include "tuner/commands.h"

#include <stdlib.h>
#include <string.h>

struct ckpt_command {
	int format; /* enum mt_export */
	int dtype;  /* enum mt_stored */
	int64_t shard_bytes;
};

static const char *const formats[] = {"hf", "safetensors", NULL};
static const char *const dtypes[] = {"f32", "bf16", "f16", NULL}; /* as enum mt_stored */

static const struct mt_option options[] = {
	{"format", MT_OPTION_CHOICE, offsetof(struct ckpt_command, format), "hf", 0, 0, formats,
	 "convert: hf: a Hugging Face directory; safetensors: one file with this program's names"},
	{"dtype", MT_OPTION_CHOICE, offsetof(struct ckpt_command, dtype), "f32", 0, 0, dtypes,
	 "convert: type of the weights written"},
	{"shard_bytes", MT_OPTION_INT, offsetof(struct ckpt_command, shard_bytes), "5G", 0, 1e15, NULL,
	 "convert: largest file of a Hugging Face directory; 0: one file"},
};
static const struct mt_option_table table = {"command", options, sizeof options / sizeof options[0]};

static json_t *describe(const struct mt_checkpoint *c)
{
	const json_t *layout = json_object_get(c->manifest, "layout"), *file;
	int64_t bytes = 0;
	size_t i;

	json_array_foreach(json_object_get(c->manifest, "files"), i, file) bytes += mt_json_get_int(file, "bytes", 0);
	return json_pack("{s:s, s:I, s:I, s:s, s:I, s:I, s:I, s:I, s:i, s:I}", "path", c->directory, "step", (json_int_t)c->step,
			 "samples", (json_int_t)c->samples, "model",
			 mt_json_get_string(json_object_get(c->manifest, "model"), "name", "?"), "tp",
			 (json_int_t)mt_json_get_int(layout, "tp", 1), "pp", (json_int_t)mt_json_get_int(layout, "pp", 1), "dp",
			 (json_int_t)mt_json_get_int(layout, "dp", 1), "zero", (json_int_t)mt_json_get_int(layout, "zero", 0),
			 "files", c->file_count, "bytes", (json_int_t)bytes);
}

static void print_line(const json_t *line)
{
	char bytes[MT_UNITS_TEXT];

	printf("%s  step %lld  samples %lld  %s  tp%lld pp%lld dp%lld zero%lld  %lld files, %s\n",
	       mt_json_get_string(line, "path", ""), (long long)mt_json_get_int(line, "step", 0),
	       (long long)mt_json_get_int(line, "samples", 0), mt_json_get_string(line, "model", ""),
	       (long long)mt_json_get_int(line, "tp", 0), (long long)mt_json_get_int(line, "pp", 0),
	       (long long)mt_json_get_int(line, "dp", 0), (long long)mt_json_get_int(line, "zero", 0),
	       (long long)mt_json_get_int(line, "files", 0), mt_units_bytes(bytes, (double)mt_json_get_int(line, "bytes", 0)));
}

static enum mt_status list(const struct mt_cli *cli, const char *directory)
{
	json_t *lines = json_array(), *line;
	int64_t *steps = NULL;
	enum mt_status st;
	int count = 0;
	size_t i;

	if (!mt_file_exists(directory))
		MT_GOTO(out, mt_fail(MT_INPUT, "%s: no such directory", directory));
	MT_GOTO(out, mt_checkpoint_list(directory, &steps, &count));
	for (int k = 0; k < count; k++) {
		char *path = mt_checkpoint_path(directory, steps[k]);
		struct mt_checkpoint c = {0};

		st = path ? mt_checkpoint_open(&c, path) : mt_fail(MT_NOMEM, "out of memory");
		if (st == MT_OK)
			json_array_append_new(lines, describe(&c));
		mt_checkpoint_close(&c);
		free(path);
		if (st != MT_OK)
			goto out;
	}
	if (cli->common.json)
		MT_GOTO(out, mt_cli_print_json(json_incref(lines)));
	else
		json_array_foreach(lines, i, line) print_line(line);
	st = MT_OK;
out:
	free(steps);
	json_decref(lines);
	return st;
}

/* The checkpoint itself, or the newest of a save_dir. */
static enum mt_status choose(const char *word, char **directory)
{
	char *manifest = mt_string("%s/manifest.json", word);
	int64_t *steps = NULL;
	enum mt_status st = MT_OK;
	int count = 0;

	*directory = NULL;
	if (manifest && !mt_file_exists(manifest))
		st = mt_checkpoint_list(word, &steps, &count);
	if (st == MT_OK)
		*directory = count > 0 ? mt_checkpoint_path(word, steps[count - 1]) : strdup(word);
	if (st == MT_OK && (!*directory || !manifest))
		st = mt_fail(MT_NOMEM, "out of memory");
	free(steps);
	free(manifest);
	return st;
}

static void note_damage(void *context, const char *what)
{
	json_array_append_new(context, json_string(what));
}

static enum mt_status verify(const struct mt_cli *cli, const char *word)
{
	json_t *damage = json_array(), *line, *result;
	struct mt_checkpoint c = {0};
	char *directory = NULL, text[MT_UNITS_TEXT];
	int64_t bytes = 0;
	enum mt_status st;
	size_t i;

	MT_GOTO(out, choose(word, &directory));
	MT_GOTO(out, mt_checkpoint_open(&c, directory));
	st = mt_checkpoint_verify(&c, &bytes, note_damage, damage);
	if (st != MT_OK && st != MT_VERDICT)
		goto out;
	if (cli->common.json) {
		result = describe(&c);
		json_object_set_new(result, "verified_bytes", json_integer(bytes));
		json_object_set(result, "damage", damage);
		MT_GOTO(out, mt_cli_print_json(result));
	} else {
		json_array_foreach(damage, i, line) printf("damaged  %s\n", json_string_value(line));
		printf("%s: step %lld, %s read and as written, %zu tensors damaged\n", directory, (long long)c.step,
		       mt_units_bytes(text, (double)bytes), json_array_size(damage));
	}
	st = json_array_size(damage) > 0 ? MT_VERDICT : MT_OK;
out:
	mt_checkpoint_close(&c);
	free(directory);
	json_decref(damage);
	return st;
}

static enum mt_status convert(const struct ckpt_command *command, const char *from, const char *to)
{
	struct mt_weights weights = {0};
	struct mt_model model = {0};
	char *directory = NULL;
	enum mt_status st;

	if (mt_file_exists(to))
		return mt_fail(MT_INPUT, "%s exists: give a name that is free", to);
	MT_GOTO(out, choose(from, &directory));
	MT_GOTO(out, mt_weights_model(&model, directory));
	MT_GOTO(out, mt_weights_open(&weights, directory, &model));
	MT_GOTO(out, mt_weights_export(&weights, (enum mt_export)command->format, (enum mt_stored)command->dtype,
				       command->shard_bytes, to));
out:
	mt_weights_close(&weights);
	mt_model_free(&model);
	free(directory);
	return st;
}

enum mt_status mt_command_ckpt(int argc, char **argv)
{
	static const char *const actions[] = {"list", "verify", "convert"};
	struct ckpt_command command = {0};
	struct mt_cli cli = {.usage = "megatune ckpt list|verify DIR, megatune ckpt convert FROM TO",
			     .summary =
				     "Checkpoints: lists those of a save_dir, verifies one (or the newest) against its checksums, "
				     "converts weights for other programs. FROM is a checkpoint, a save_dir (its newest) or a "
				     "Hugging Face directory.",
			     .tables = {&table},
			     .values = {&command},
			     .least_words = 2,
			     .most_words = 3};
	const char *nearest;
	enum mt_status st;

	mt_options_default(&table, &command);
	st = mt_cli_parse(&cli, argc, argv);
	if (st == MT_OK && !cli.helped)
		st = mt_cli_apply(&cli);
	if (st != MT_OK || cli.helped)
		goto out;
	if (!strcmp(cli.words[0], "list") && cli.word_count == 2) {
		st = list(&cli, cli.words[1]);
	} else if (!strcmp(cli.words[0], "verify") && cli.word_count == 2) {
		st = verify(&cli, cli.words[1]);
	} else if (!strcmp(cli.words[0], "convert") && cli.word_count == 3) {
		st = convert(&command, cli.words[1], cli.words[2]);
	} else {
		nearest = mt_options_nearest(cli.words[0], actions, 3);
		st = mt_fail(MT_INPUT, "command line: %s%s%s (%s)", nearest ? "did you mean '" : "list, verify or convert",
			     nearest ? nearest : "", nearest ? "'? it takes other words" : "", cli.usage);
	}
out:
	mt_cli_free(&cli);
	return st;
}
