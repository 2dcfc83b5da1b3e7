/* plan for a machine that is described, not measured: the forecast's search, its document, and the choice as a run file. */
#include "tuner/command_forecast.h"

#include "base/catalog.h"
#include "base/file.h"
#include "base/json.h"
#include "tuner/goal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

/* Options of a plan on what was measured that mean nothing here. */
static enum mt_status check_options(const struct mt_cli *cli, bool forecast)
{
	static const char *const both[] = {"gpus", "gbs", "seq", "machine", "out", "seed"};

	for (int i = 0; i < cli->option_count; i++) {
		const char *name = cli->names[i];
		bool ours = mt_options_find(&mt_setting_options_table, name) != NULL, shared = false;

		for (size_t k = 0; k < sizeof both / sizeof both[0]; k++)
			shared |= strcmp(name, both[k]) == 0;
		if (ours && !forecast)
			return mt_fail(MT_INPUT,
				       "command line: --%s needs a described machine: --machine NAME of profiles/machines", name);
		if (!ours && !shared && forecast)
			return mt_fail(MT_INPUT, "command line: --%s is of a measured machine, and --machine names a described one",
				       name);
	}
	return MT_OK;
}

enum mt_status mt_forecast_wanted(const struct mt_cli *cli, const struct mt_tune_options *tune,
				  const struct mt_setting_options *options, bool *wanted)
{
	*wanted = options->stack || mt_setting_names_machine(tune->machine);
	if (!*wanted && tune->machine && !strchr(tune->machine, '/') && !strstr(tune->machine, ".yaml") &&
	    !mt_file_exists(tune->machine))
		return mt_catalog_unknown("machines", tune->machine, "give the path of a file that megatune probe wrote");
	if (*wanted && !tune->machine)
		return mt_fail(MT_INPUT, "command line: --stack needs --machine NAME of profiles/machines");
	return check_options(cli, *wanted);
}

/* Every described machine has accelerators, and the engine has one kind of device for them. */
static enum mt_status fill_train(struct mt_train_options *train, const struct mt_setting *setting, int64_t seed, int rank_order)
{
	const char *order = rank_order != MT_RANKS_DP_PP ? mt_rank_order_names[rank_order] : NULL;

	free(train->device);
	train->device = strdup("cuda");
	train->rank_order = order ? strdup(order) : NULL;
	train->seed = seed;
	train->steps = 100;
	train->peak_tflops = setting->target.tflops_16;
	return train->device && !train->rank_order == !order ? MT_OK : mt_fail(MT_NOMEM, "no memory for the run file");
}

static enum mt_status save_run(const struct mt_goal *g, const struct mt_model *model, const struct mt_setting *setting,
			       int64_t seed, const char *out)
{
	const char *lacks = mt_setting_run_lacks(&g->query);
	const struct mt_survey_layout *l = &g->survey.best.points[0].layout;
	char *path = mt_string("%s/run.yaml", out), text[MT_SURVEY_TEXT], *header;
	struct mt_forecast f;
	struct mt_run run;
	enum mt_status st;

	mt_survey_forecast(&f, &g->query, l);
	mt_survey_text(l, text);
	header = mt_string("%s on %lld of %s with %s: %s\nforecast %.4g s a step, MFU %.1f%%; not run%s%s%s", model->name,
			   (long long)g->query.gpus, setting->target.name, setting->stack.name, text, f.step_s,
			   100 * mt_survey_mfu(&g->query, &f), lacks ? "\nforecast for products in " : "", lacks ? lacks : "",
			   lacks ? ", which a run file does not have: this one is of bf16" : "");
	mt_run_default(&run);
	mt_model_free(&run.model);
	run.model = *model;
	mt_setting_run_layout(&run.layout, &g->query, l);
	st = fill_train(&run.train, setting, seed, l->rank_order);
	if (st == MT_OK)
		st = path && header ? mt_run_save(&run, path, header) : mt_fail(MT_NOMEM, "no memory for the run file");
	memset(&run.model, 0, sizeof run.model); /* borrowed */
	mt_run_free(&run);
	free(header);
	free(path);
	return st;
}

static long peak_resident_bytes(void)
{
	struct rusage usage;

	return getrusage(RUSAGE_SELF, &usage) == 0 ? usage.ru_maxrss * 1024L : 0;
}

static json_t *document(const struct mt_goal *g, const struct mt_model *model, const struct mt_setting *setting,
			const struct mt_setting_options *o)
{
	json_t *doc = mt_survey_json(&g->survey, &g->query, setting->half), *all = json_object();

	json_object_set_new(all, "command", json_string("plan"));
	json_object_set_new(all, "fidelity", json_string("forecast"));
	json_object_set_new(all, "model", json_string(model->name));
	json_object_set_new(all, "options", mt_options_json(&mt_setting_options_table, o));
	json_object_set_new(all, "calibrated", json_boolean(setting->calibrated));
	json_object_update(all, doc);
	json_object_set_new(all, "sizes", mt_goal_sizes_json(g));
	json_object_set_new(all, "peak_resident_bytes", json_integer(peak_resident_bytes()));
	json_decref(doc);
	return all;
}

static void print_sizes(const struct mt_goal *g, const struct mt_setting_options *o)
{
	printf("  %7s %8s %9s %7s %12s  layout\n", "gpus", "seq", "step, s", "days", "cost");
	for (int i = 0; i < g->count; i++) {
		const struct mt_goal_size *s = &g->sizes[i];
		char text[MT_SURVEY_TEXT] = "does not fit";

		if (s->fits)
			mt_survey_text(&s->best.layout, text);
		printf("%c %7lld %8lld %9.4g %7.1f %12.0f  ", i == g->choice ? '*' : ' ', (long long)s->gpus, (long long)s->seq,
		       s->best.step_s, s->days, s->cost);
		mt_survey_print_words(text, 51, stdout);
	}
	printf("\n");
}

/* Both files or none: the document is written whole before the run file, and takes its name after it. */
static enum mt_status save(const json_t *doc, const struct mt_goal *g, const struct mt_model *model,
			   const struct mt_setting *setting, int64_t seed, const char *out)
{
	char *path = mt_string("%s/plan.json", out);
	struct mt_file file = {0};
	enum mt_status st;

	if (!path)
		return mt_fail(MT_NOMEM, "no memory for a path");
	MT_GOTO(out, mt_file_make_directory(out));
	MT_GOTO(out, mt_json_create(&file, doc, path));
	MT_GOTO(out, save_run(g, model, setting, seed, out));
	st = mt_file_commit(&file);
out:
	mt_file_abort(&file);
	free(path);
	return st;
}

static enum mt_status answer(const struct mt_goal *g, const struct mt_model *model, const struct mt_setting *setting,
			     const struct mt_setting_options *o, const struct mt_cli *cli, int64_t seed, const char *out)
{
	json_t *doc = document(g, model, setting, o);
	enum mt_status st = out ? save(doc, g, model, setting, seed, out) : MT_OK;

	if (st == MT_OK && cli->common.json)
		return mt_cli_print_json(doc);
	json_decref(doc);
	if (st == MT_OK && o->objective != MT_OBJECTIVE_TIME)
		print_sizes(g, o);
	if (st == MT_OK)
		mt_survey_print(&g->survey, &g->query, setting->half, stdout);
	if (st == MT_OK && out && mt_setting_run_lacks(&g->query))
		printf("note: %s/run.yaml is of bf16: a run file does not have %s\n", out, mt_setting_run_lacks(&g->query));
	return st;
}

static enum mt_status no_choice(const struct mt_goal *g, const struct mt_setting_options *o)
{
	const struct mt_goal_size *last = &g->sizes[g->count - 1];

	if (last->fits && o->deadline_days > 0)
		return mt_fail(MT_INPUT, "%.3g tokens in %.4g days: on %lld accelerators they take %.4g days; raise --gpus",
			       o->tokens, o->deadline_days, (long long)last->gpus, last->days);
	return mt_survey_nothing(&g->survey, &g->query);
}

enum mt_status mt_forecast_plan(const struct mt_cli *cli, const struct mt_tune_options *tune, const struct mt_setting_options *o)
{
	struct mt_setting setting = {0};
	struct mt_model model = {0};
	struct mt_goal goal = {0};
	const char *out = NULL;
	enum mt_status st;

	for (int i = 0; i < cli->option_count; i++)
		out = strcmp(cli->names[i], "out") == 0 ? tune->out : out;
	if (tune->gpus <= 0)
		return mt_fail(MT_INPUT, "command line: a described machine needs --gpus");
	MT_GOTO(out, mt_model_load(&model, cli->words[0]));
	MT_GOTO(out, mt_setting_load(&setting, o, tune->machine));
	MT_GOTO(out, mt_goal_search(&goal, &setting, o, &model, tune->gpus, tune->gbs, tune->seq));
	st = goal.choice < 0 ? no_choice(&goal, o) : answer(&goal, &model, &setting, o, cli, tune->seed, out);
out:
	mt_goal_free(&goal);
	mt_setting_free(&setting);
	mt_model_free(&model);
	return st;
}
