/* validate, calibrate: predictions against published or own runs, and what they teach. */
#include "base/file.h"
#include "base/stats.h"
#include "tuner/cli.h"
#include "tuner/commands.h"
#include "tuner/fit.h"
#include "tuner/score.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct validate_options {
	char *calibrate, *machine_map, *machine, *stack, *rows, *out;
	int64_t folds, bootstrap, seed;
	bool by_run;
};

#define V(f) offsetof(struct validate_options, f)
static const struct mt_option validate_options[] = {
	{"calibrate", MT_OPTION_STRING, V(calibrate), NULL, 0, 0, NULL,
	 "calibration file, or a table of other runs (.csv) to calibrate on first"},
	{"machine_map", MT_OPTION_STRING, V(machine_map), NULL, 0, 0, NULL,
	 "rules from a row's hardware and software to machine and stack"},
	{"machine", MT_OPTION_STRING, V(machine), NULL, 0, 0, NULL, "machine of all rows, in place of the map's"},
	{"stack", MT_OPTION_STRING, V(stack), NULL, 0, 0, NULL, "stack of all rows, in place of the map's"},
	{"folds", MT_OPTION_INT, V(folds), "0", 0, 100, NULL,
	 "2 or more: predict each row from a calibration on the other folds of this table; 0: no cross-validation"},
	{"by_run", MT_OPTION_BOOL, V(by_run), "false", 0, 0, NULL, "folds of runs instead of groups, with --folds"},
	{"rows", MT_OPTION_STRING, V(rows), NULL, 0, 0, NULL,
	 "file for one line a run: measured, predicted, interval, where time goes"},
};
static const struct mt_option_table validate_table = {"validate", validate_options, 7};

static const struct mt_option calibrate_options[] = {
	{"machine", MT_OPTION_STRING, V(machine), NULL, 0, 0, NULL, "machine that the runs are of; none: as the map says"},
	{"stack", MT_OPTION_STRING, V(stack), NULL, 0, 0, NULL, "software that the runs are of; none: as the map says"},
	{"machine_map", MT_OPTION_STRING, V(machine_map), NULL, 0, 0, NULL,
	 "rules from a row's hardware and software to machine and stack"},
	{"out", MT_OPTION_STRING, V(out), "calibration.yaml", 0, 0, NULL, "file to write"},
	{"folds", MT_OPTION_INT, V(folds), "5", 2, 100, NULL, "folds of the cross-validation"},
	{"by_run", MT_OPTION_BOOL, V(by_run), "false", 0, 0, NULL, "folds of runs instead of groups"},
	{"bootstrap", MT_OPTION_INT, V(bootstrap), "10", 0, 1000, NULL, "resamplings for the spread of the factors; 0: none"},
	{"seed", MT_OPTION_INT, V(seed), "1", 0, 1e15, NULL, "seed of the bootstrap"},
};
static const struct mt_option_table calibrate_table = {"calibrate", calibrate_options, 8};

static enum mt_status load_calibration(struct mt_fit_model *model, const struct validate_options *o)
{
	size_t length = strlen(o->calibrate);
	struct mt_fit_check check = {0};
	struct mt_runs_table other;
	enum mt_status st;

	if (length < 4 || strcmp(o->calibrate + length - 4, ".csv") != 0)
		return mt_fit_load(model, o->calibrate);
	MT_TRY(mt_runs_table_load(&other, o->calibrate, o->machine_map, o->machine, o->stack));
	st = mt_fit_runs(model, &other, NULL);
	if (st == MT_OK)
		st = mt_fit_cross(&check, &other, 5, false);
	if (st == MT_OK)
		st = mt_fit_intervals(model, &other, &check);
	mt_fit_check_free(&check);
	mt_runs_table_free(&other);
	return st;
}

static void write_row(FILE *file, const struct mt_runs_table *table, int i, const struct mt_forecast *f, double predicted_s,
		      double half)
{
	const struct mt_measured_run *r = &table->runs[i];

	fprintf(file, "\"%s\",\"%s\",%s,%s,%.6g,%.6g,%.6g,%.6g,%.5f,%.4g,%.4g,%.4g,%.4g,%.4g,%.4g,%.4g,%.4g,%.4g,%.4g,%.4g\n",
		r->id, r->group, table->targets[r->target].name, table->stacks[r->stack].name, r->measured_s, predicted_s,
		predicted_s * exp(-half), predicted_s * exp(half), predicted_s / r->measured_s - 1, f->compute_s, f->tp_s, f->ep_s,
		f->cp_s, f->pp_s, f->bubble_s, f->dp_s, f->optimizer_s, f->host_s, f->other_s, f->peak_bytes / 1073741824);
}

/* Predictions of all rows, by the calibration or by cross-validation; the table of rows where one is wanted. */
static enum mt_status predict(const struct mt_runs_table *table, const struct mt_fit_model *model, const struct validate_options *o,
			      double *predicted, double *half)
{
	struct mt_file file = {0};

	if (o->folds >= 2) {
		struct mt_fit_check check = {0};

		MT_TRY(mt_fit_cross(&check, table, (int)o->folds, o->by_run));
		memcpy(predicted, check.predicted_s, (size_t)table->count * sizeof *predicted);
		memcpy(half, check.half_frac, (size_t)table->count * sizeof *half);
		mt_fit_check_free(&check);
	}
	if (o->rows) {
		MT_TRY(mt_file_create(&file, o->rows));
		fprintf(file.stream,
			"id,group,machine,stack,measured_s,predicted_s,lo_s,hi_s,error_frac,compute_s,tp_s,ep_s,cp_s,pp_s,"
			"bubble_s,dp_s,optimizer_s,host_s,other_s,peak_gib\n");
	}
	for (int i = 0; i < table->count; i++) {
		const struct mt_measured_run *run = &table->runs[i];
		struct mt_factors factors;
		struct mt_forecast out;

		if (run->skip[0])
			continue;
		mt_fit_factors(model, table, run, &factors);
		mt_forecast_step(&out, &run->layout, &table->targets[run->target], &table->stacks[run->stack], &factors);
		if (o->folds < 2) {
			predicted[i] = out.step_s;
			half[i] = mt_fit_half(model, table, run);
		}
		if (o->rows)
			write_row(file.stream, table, i, &out, predicted[i], half[i]);
	}
	return o->rows ? mt_file_commit(&file) : MT_OK;
}

/* Rows that can be predicted. */
static int usable_runs(const struct mt_runs_table *table)
{
	int usable = 0;

	for (int i = 0; i < table->count; i++)
		usable += !table->runs[i].skip[0];
	return usable;
}

static enum mt_status validate(const struct mt_cli *cli, const struct validate_options *o)
{
	struct mt_runs_table table = {0};
	struct mt_fit_model model = {0};
	double *predicted = NULL, *half = NULL;
	enum mt_status st;

	if (o->folds == 1)
		return mt_fail(MT_INPUT, "--folds 1 leaves no other fold to calibrate on: 2 to 100, or 0 for no cross-validation");
	if (o->by_run && o->folds == 0)
		return mt_fail(MT_INPUT, "--by-run says how to make folds: give --folds 2 to 100 with it");
	MT_TRY(mt_runs_table_load(&table, cli->words[0], o->machine_map, o->machine, o->stack));
	predicted = calloc((size_t)table.count + 1, sizeof *predicted);
	half = calloc((size_t)table.count + 1, sizeof *half);
	st = predicted && half ? MT_OK : mt_fail(MT_NOMEM, "no memory for %d predictions", table.count);
	if (st == MT_OK && o->calibrate)
		st = load_calibration(&model, o);
	if (st == MT_OK)
		st = predict(&table, &model, o, predicted, half);
	if (st == MT_OK && cli->common.json)
		st = mt_cli_print_json(mt_score_json(&table, predicted, half));
	else if (st == MT_OK)
		mt_score_print(&table, predicted, half, stdout);
	if (st == MT_OK && usable_runs(&table) == 0)
		st = mt_fail(MT_INCONCLUSIVE, "%s: none of its %d rows can be predicted", cli->words[0], table.count);
	free(predicted);
	free(half);
	mt_fit_free(&model);
	mt_runs_table_free(&table);
	return st;
}

static enum mt_status calibrate(const struct mt_cli *cli, const struct validate_options *o)
{
	struct mt_runs_table table = {0};
	struct mt_fit_model model = {0};
	struct mt_fit_check check = {0};
	enum mt_status st;
	int usable;

	MT_TRY(mt_runs_table_load(&table, cli->words[0], o->machine_map, o->machine, o->stack));
	usable = usable_runs(&table);
	st = MT_OK;
	if (usable < 3)
		st = mt_fail(MT_INPUT, "%s: %d of %d runs can be predicted, 3 are needed; megatune validate tells why",
			     cli->words[0], usable, table.count);
	if (st == MT_OK)
		st = mt_fit_runs(&model, &table, NULL);
	if (st == MT_OK)
		st = mt_fit_cross(&check, &table, (int)o->folds, o->by_run);
	if (st == MT_OK)
		st = mt_fit_intervals(&model, &table, &check);
	if (st == MT_OK)
		st = mt_fit_bootstrap(&model, &table, (int)o->bootstrap, (uint64_t)o->seed);
	if (st == MT_OK)
		st = mt_fit_save(&model, o->out);
	if (st == MT_OK && cli->common.json) {
		json_t *score = mt_score_json(&table, check.predicted_s, check.half_frac);

		json_object_set_new(score, "file", json_string(o->out));
		st = mt_cli_print_json(score);
	} else if (st == MT_OK) {
		printf("%s: %d keys from %d runs; errors in cross-validation:\n", o->out, model.count, usable);
		mt_score_print(&table, check.predicted_s, check.half_frac, stdout);
	}
	mt_fit_check_free(&check);
	mt_fit_free(&model);
	mt_runs_table_free(&table);
	return st;
}

static enum mt_status run(int argc, char **argv, bool fits)
{
	struct validate_options o = {0};
	struct mt_cli cli = {.usage = fits ? "megatune calibrate RUNS.csv [options]" : "megatune validate RUNS.csv [options]",
			     .summary = fits ? "Fits what the machine and stack files leave open to measured runs: a dozen "
					       "factors, each held to its physical "
					       "value. Writes a file for --calibrate, with errors from cross-validation."
					     : "Predicts every run of a table of measured runs and tells how far off it is, by "
					       "group, with the coverage "
					       "of the 90% intervals and the regret of picking by prediction.",
			     .tables = {fits ? &calibrate_table : &validate_table},
			     .values = {&o},
			     .least_words = 1,
			     .most_words = 1};
	enum mt_status st;

	mt_options_default(cli.tables[0], &o);
	MT_GOTO(out, mt_cli_parse(&cli, argc, argv));
	if (cli.helped)
		goto out;
	MT_GOTO(out, mt_cli_apply(&cli));
	st = fits ? calibrate(&cli, &o) : validate(&cli, &o);
out:
	mt_cli_free(&cli);
	mt_options_free(cli.tables[0], &o);
	return st;
}

enum mt_status mt_command_validate(int argc, char **argv)
{
	return run(argc, argv, false);
}

enum mt_status mt_command_calibrate(int argc, char **argv)
{
	return run(argc, argv, true);
}
