/* plan and tune: the main job. plan searches with what is known; tune measures, searches, runs the best few and chooses. */
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/process.h"
#include "engine/data.h"
#include "reports/report.h"
#include "tuner/command_forecast.h"
#include "tuner/commands.h"
#include "tuner/launch.h"
#include "tuner/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Our own command line for a step on all ranks: the options that decide what it measures, passed on. */
struct arguments {
	const char *argv[64];
	char numbers[8][32];
	int count, used;
};

static void add(struct arguments *a, const char *word)
{
	a->argv[a->count++] = word;
	a->argv[a->count] = NULL;
}

static void add_number(struct arguments *a, const char *name, double value)
{
	snprintf(a->numbers[a->used], sizeof a->numbers[0], "%.17g", value);
	add(a, name);
	add(a, a->numbers[a->used++]);
}

static enum mt_status run_step(struct mt_session *s, const char *name, const struct arguments *a, int threads, double timeout_s)
{
	struct mt_process_result result = {0};
	double start_s = mt_clock_s();
	char reason[240];
	enum mt_status st;

	mt_info("%s ...", name);
	st = mt_launch(&result, &s->options, s->world, threads, a->argv, timeout_s);
	if (st == MT_OK && result.exit_code > 128 && !result.timed_out) {
		/* A rank died of a signal: its launcher or MPI, rarely, when many more ranks than cores start. Measuring again is
		 * safe. */
		mt_launch_reason(&result, reason);
		mt_warn("%s on %d ranks: %s; once more", name, s->world, reason);
		mt_process_result_free(&result);
		st = mt_launch(&result, &s->options, s->world, threads, a->argv, timeout_s);
	}
	if (st == MT_OK && (result.exit_code != 0 || result.timed_out)) {
		mt_launch_reason(&result, reason);
		st = result.exit_code == 77 ? MT_UNAVAILABLE : MT_FAILED;
		st = mt_fail(st, "%s on %d ranks failed: %s", name, s->world, reason);
	}
	if (st == MT_OK)
		mt_info("%s: %.*s", name, (int)strcspn(result.output, "\n"), result.output);
	mt_process_result_free(&result);
	mt_session_phase(s, name, start_s);
	return st;
}

static enum mt_status probe(struct mt_session *s, const char *path)
{
	struct arguments a = {0};

	add(&a, "probe");
	add(&a, "--out");
	add(&a, path);
	add(&a, "--device");
	add(&a, s->options.device);
	add_number(&a, "--budget-s", s->options.probe_budget_s);
	add_number(&a, "--threads", (double)s->options.threads);
	return run_step(s, "probe", &a, (int)s->options.threads, 60 + 20 * s->options.probe_budget_s);
}

/* What decides which kernels a search needs. */
static void add_lists(struct arguments *a, const struct mt_tune_options *o)
{
	const char *const lists[] = {"--tp",      o->tp,      "--pp",  o->pp,  "--cp", o->cp,
				     "--cp-kind", o->cp_kind, "--mbs", o->mbs, "--sp", o->sp};

	for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++)
		add(a, lists[i]);
}

static enum mt_status profile(struct mt_session *s, const char *model, const char *machine, const struct mt_cost_model *cost)
{
	char *store = mt_session_store_path(s);
	struct arguments a = {0};
	enum mt_status st;

	if (!store)
		return mt_fail(MT_NOMEM, "no memory for a path");
	add(&a, "profile");
	add(&a, model);
	add(&a, "--machine");
	add(&a, machine);
	add(&a, "--store");
	add(&a, store);
	add(&a, "--device");
	add(&a, s->options.device);
	add(&a, "--dtype");
	add(&a, mt_dtype_name((enum mt_dtype)s->base.dtype));
	add(&a, "--fp8");
	add(&a, mt_fp8_recipes[s->base.fp8]);
	add_number(&a, "--gbs", (double)s->base.gbs);
	add_number(&a, "--seq", (double)s->base.seq);
	add_number(&a, "--threads", cost->threads);
	add_number(&a, "--profile-budget-s", s->options.profile_budget_s / s->thread_choices);
	add_lists(&a, &s->options);
	st = run_step(s, "profile", &a, cost->threads, 120 + 20 * s->options.profile_budget_s);
	free(store);
	return st;
}

/* Probe (unless a machine file was given) and profile; then both are read back, as a later plan would. */
static enum mt_status measure(struct mt_session *s, const char *model)
{
	char *machine = s->options.machine ? mt_string("%s", s->options.machine) : mt_session_path(s, "machine.yaml");
	bool measured;
	int rows;
	enum mt_status st = MT_OK;

	if (!machine)
		return mt_fail(MT_NOMEM, "no memory for a path");
	if (!s->options.machine) {
		s->world = s->options.gpus > 0 ? (int)s->options.gpus : 2;
		MT_GOTO(out, probe(s, machine));
	}
	MT_GOTO(out, mt_session_load_machine(s, &measured));
	for (int i = 0; i < s->thread_choices; i++)
		MT_GOTO(out, profile(s, model, machine, &s->costs[i]));
	mt_machine_free(&s->machine); /* profile notes the size of a rank's process in it */
	MT_GOTO(out, mt_session_load_machine(s, &measured));
	MT_GOTO(out, mt_session_load_profile(s, &rows));
	if (rows == 0)
		st = mt_fail(MT_FAILED, "the profile store has no rows for this machine after profiling: remove it and try again");
out:
	free(machine);
	return st;
}

static enum mt_status save_run(const struct mt_session *s)
{
	const struct mt_candidate *c = &s->space.candidates[s->choice];
	char *path = mt_session_path(s, "run.yaml"), text[96];
	char *header = NULL;
	double time_s = c->run && !c->failed ? c->measured_s : c->step_s;
	double peak =
		mt_machine_tflops(&s->machine, (enum mt_dtype)s->base.dtype, (int)s->base.threads, s->costs[0].ranks_per_host);
	struct mt_run run;
	enum mt_status st;

	mt_layout_text(&c->layout, text);
	header = mt_string("%s on %d ranks of %s: %s\npredicted %.4g s a step (%.4g to %.4g), MFU %.1f%%\n%s %.4g s a step",
			   s->model.name, s->world, s->machine.name, text, c->step_s, c->lo_s, c->hi_s,
			   peak > 0 ? s->model_flops / c->step_s / s->world / 1e12 / peak * 100 : 0.0,
			   c->run && !c->failed ? "measured" : "not run; expected", time_s);
	mt_run_default(&run);
	mt_model_free(&run.model);
	run.model = s->model;
	run.layout = c->layout;
	run.train.seed = s->options.seed;
	run.train.steps = 100;
	run.train.peak_tflops = peak;
	free(run.data.path);
	run.data.path = s->options.data ? strdup(s->options.data) : NULL;
	run.train.rank_order = c->rank_order ? strdup(c->rank_order) : NULL;
	st = path && header && !run.train.rank_order == !c->rank_order ? mt_run_save(&run, path, header)
								       : mt_fail(MT_NOMEM, "no memory for the run file");
	memset(&run.model, 0, sizeof run.model); /* borrowed */
	mt_run_free(&run);
	free(header);
	free(path);
	return st;
}

static enum mt_status write_results(struct mt_session *s, json_t *result)
{
	char *path = mt_session_path(s, "result.json");
	enum mt_status st = path ? mt_json_save(result, path) : mt_fail(MT_NOMEM, "no memory for a path");

	free(path);
	MT_TRY(st);
	if (s->choice >= 0)
		MT_TRY(save_run(s));
	return s->options.report ? mt_report_write(result, s->options.out) : MT_OK;
}

static enum mt_status finish(struct mt_session *s, const struct mt_cli *cli)
{
	json_t *result;
	enum mt_status st;

	MT_TRY(mt_choose(s));
	result = mt_result_json(s);
	st = write_results(s, result);
	if (st == MT_OK && cli->common.json)
		return mt_cli_print_json(result);
	if (st == MT_OK)
		st = mt_report_print(result, stdout, isatty(STDOUT_FILENO) && !getenv("NO_COLOR"));
	json_decref(result);
	return st;
}

/* All that can be wrong with the input of a tune is found before anything is written or measured. */
static enum mt_status check_input(struct mt_session *s)
{
	const struct mt_data_options data = {.path = s->options.data};
	struct mt_dataset *dataset = NULL;
	bool measured;

	s->world = s->options.gpus > 0 ? (int)s->options.gpus : 2;
	if (s->options.launch && !s->options.launch[strspn(s->options.launch, " \t")])
		return mt_fail(MT_INPUT, "command line: launch is empty: give a command such as 'mpirun --hostfile hosts'");
	if (s->options.machine) {
		MT_TRY(mt_session_load_machine(s, &measured));
		mt_machine_free(&s->machine);
	}
	if (data.path) {
		MT_TRY(mt_dataset_open(&dataset, &data, s->model.vocab, s->base.seq, (uint64_t)s->options.seed));
		mt_dataset_close(dataset);
	}
	MT_TRY(mt_space_enumerate(&s->space, &s->model, &s->base, s->world, NULL, 0, &s->axes));
	bool none = s->space.count == 0;
	mt_space_free(&s->space);
	return none ? mt_search(s) : MT_OK; /* the search tells the rules that reject them all */
}

static enum mt_status prepare(struct mt_session *s, const struct mt_cli *cli, bool tunes)
{
	bool measured;
	int rows;

	MT_TRY(mt_session_open(s, cli->words[0]));
	if (tunes) {
		MT_TRY(check_input(s));
		MT_TRY(mt_file_make_directory(s->options.out));
		return measure(s, cli->words[0]);
	}
	MT_TRY(mt_session_load_machine(s, &measured));
	MT_TRY(mt_session_load_profile(s, &rows));
	if (!measured)
		mt_warn("no machine was measured here: rates are guesses; `megatune probe --out machine.yaml` measures them");
	return MT_OK;
}

/* What the results amount to, once they are written. */
static enum mt_status conclude(const struct mt_session *s)
{
	const char *failure = NULL;
	int runs = 0, worked = 0;

	for (int i = 0; i < s->space.count; i++) {
		const struct mt_candidate *c = &s->space.candidates[i];

		runs += c->run;
		worked += c->run && !c->failed;
		if (c->failed && !failure)
			failure = c->failure;
	}
	mt_error_clear(); /* a run that was interrupted has left its own message */
	if (s->partial)
		return mt_fail(MT_INTERRUPTED, "interrupted: what was found so far is in %s", s->options.out);
	if (runs > 0 && worked == 0)
		return mt_fail(MT_FAILED, "none of the %d layouts that were run worked (%s); the results are in %s", runs, failure,
			       s->options.out);
	return MT_OK;
}

static enum mt_status work(struct mt_session *s, const struct mt_cli *cli, bool tunes)
{
	MT_TRY(prepare(s, cli, tunes));
	MT_TRY(mt_search(s));
	if (tunes)
		MT_TRY(mt_verify(s));
	MT_TRY(mt_file_make_directory(s->options.out));
	MT_TRY(finish(s, cli));
	return conclude(s);
}

static enum mt_status plan_or_tune(int argc, char **argv, bool tunes)
{
	struct mt_setting_options setting;
	struct mt_session session;
	bool forecast = false;
	struct mt_cli cli = {
		.usage = tunes ? "megatune tune MODEL [options]" : "megatune plan MODEL [options]",
		.summary = tunes ? "Probes this machine, profiles the model's kernels on it, searches the layouts, runs the best "
				   "few, and writes the choice as run.yaml with a report. MODEL is a name in examples/models, "
				   "a YAML file or a Hugging Face config.json."
				 : "Searches the best layout of MODEL with what is known of the machine; nothing is run. With "
				   "--machine NAME of profiles/machines, on a machine that is described there.",
		.tables = {&mt_tune_options_table, tunes ? NULL : &mt_setting_options_table},
		.values = {&session.options, &setting},
		.least_words = 1,
		.most_words = 1};
	enum mt_status st;

	mt_session_default(&session);
	mt_options_default(&mt_setting_options_table, &setting);
	session.command = tunes ? "tune" : "plan";
	MT_GOTO(out, mt_cli_parse(&cli, argc, argv));
	if (cli.helped)
		goto out;
	MT_GOTO(out, mt_cli_apply(&cli));
	if (!tunes)
		MT_GOTO(out, mt_forecast_wanted(&cli, &session.options, &setting, &forecast));
	st = forecast ? mt_forecast_plan(&cli, &session.options, &setting) : work(&session, &cli, tunes);
out:
	mt_options_free(&mt_setting_options_table, &setting);
	mt_cli_free(&cli);
	mt_session_free(&session);
	return st;
}

enum mt_status mt_command_plan(int argc, char **argv)
{
	return plan_or_tune(argc, argv, false);
}

enum mt_status mt_command_tune(int argc, char **argv)
{
	return plan_or_tune(argc, argv, true);
}
