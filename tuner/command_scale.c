/* scale: what a model does on 8 to 100,000 accelerators. */
#include "base/file.h"
#include "base/json.h"
#include "reports/report.h"
#include "tuner/cli.h"
#include "tuner/commands.h"
#include "tuner/scale.h"

#include <stdio.h>
#include <stdlib.h>

static enum mt_status save(json_t *doc, const char *out)
{
	char *path = mt_string("%s/scale.json", out);
	enum mt_status st = path ? mt_file_make_directory(out) : mt_fail(MT_NOMEM, "no memory for a path");

	if (st == MT_OK)
		st = mt_json_save(doc, path);
	if (st == MT_OK)
		st = mt_report_write(doc, out);
	free(path);
	return st;
}

static enum mt_status answer(const struct mt_scale *scale, const struct mt_setting *setting,
			     const struct mt_setting_options *options, const struct mt_scale_options *o,
			     const struct mt_model *model, const struct mt_cli *cli)
{
	json_t *doc = mt_scale_json(scale, setting, options, o, model);
	enum mt_status st = o->out ? save(doc, o->out) : MT_OK;

	if (st == MT_OK && cli->common.json)
		return mt_cli_print_json(doc);
	if (st == MT_OK)
		mt_scale_print(scale, setting, options, o, model, stdout);
	json_decref(doc);
	return st;
}

/* No size has a layout: inconclusive when a larger --seconds may find one, else the reason at the largest. */
static enum mt_status no_size(const struct mt_scale *scale, const struct mt_model *model, const struct mt_setting *setting)
{
	const struct mt_scale_row *last = &scale->rows[scale->count - 1];
	int64_t cut = 0;

	for (int i = 0; i < scale->count; i++)
		cut += scale->rows[i].not_reached;
	if (cut > 0)
		return mt_fail(MT_INCONCLUSIVE,
			       "%s on %s: time ended before a layout was found: %lld layouts were not reached; raise --seconds",
			       model->name, setting->target.name, (long long)cut);
	return mt_fail(MT_INPUT, "%s has no layout on any of these sizes of %s; on %lld with %lld sequences a step: %s; ask `plan`",
		       model->name, setting->target.name, (long long)last->gpus, (long long)last->gbs, last->why);
}

static enum mt_status work(const struct mt_cli *cli, const struct mt_setting_options *options, const struct mt_scale_options *o)
{
	struct mt_setting setting = {0};
	struct mt_model model = {0};
	struct mt_scale scale = {0};
	bool fits = false;
	enum mt_status st;

	if (!o->machine)
		return mt_fail(MT_INPUT, "command line: scale needs --machine NAME of profiles/machines");
	if (options->objective != MT_OBJECTIVE_TIME)
		return mt_fail(MT_INPUT, "command line: --objective is of plan; scale shows time, cost and days of every size");
	MT_GOTO(out, mt_model_load(&model, cli->words[0]));
	MT_GOTO(out, mt_setting_load(&setting, options, o->machine));
	MT_GOTO(out, mt_scale_run(&scale, &setting, options, o, &model));
	for (int i = 0; i < scale.count; i++)
		fits |= scale.rows[i].fits;
	st = fits ? answer(&scale, &setting, options, o, &model, cli) : no_size(&scale, &model, &setting);
out:
	mt_scale_free(&scale);
	mt_setting_free(&setting);
	mt_model_free(&model);
	return st;
}

enum mt_status mt_command_scale(int argc, char **argv)
{
	struct mt_setting_options options;
	struct mt_scale_options o;
	struct mt_cli cli = {
		.usage = "megatune scale MODEL --machine M [options]",
		.summary = "The best layout of MODEL on growing numbers of accelerators of a described machine: step time, "
			   "MFU, tokens/s, time and cost of training, efficiency, where the time goes, how often to save, and "
			   "what failures leave.",
		.tables = {&mt_scale_options_table, &mt_setting_options_table},
		.values = {&o, &options},
		.least_words = 1,
		.most_words = 1};
	enum mt_status st;

	mt_options_default(&mt_setting_options_table, &options);
	mt_options_default(&mt_scale_options_table, &o);
	MT_GOTO(out, mt_cli_parse(&cli, argc, argv));
	if (cli.helped)
		goto out;
	MT_GOTO(out, mt_cli_apply(&cli));
	st = work(&cli, &options, &o);
out:
	mt_cli_free(&cli);
	mt_options_free(&mt_setting_options_table, &options);
	mt_options_free(&mt_scale_options_table, &o);
	return st;
}
