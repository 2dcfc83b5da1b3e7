/* fit_cross: cross-validation and what it says of intervals; calibration files. */
#include "base/file.h"
#include "base/random.h"
#include "base/stats.h"
#include "base/yaml.h"
#include "tuner/fit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PAIR_LEAST = 10 };

static bool same_pair(const struct mt_measured_run *a, const struct mt_measured_run *b, const struct mt_runs_table *table)
{
	return a->stack == b->stack && strcmp(table->targets[a->target].name, table->targets[b->target].name) == 0;
}

static uint64_t hash(const char *text)
{
	uint64_t h = 1469598103934665603u;

	for (; *text; text++)
		h = (h ^ (unsigned char)*text) * 1099511628211u;
	return h;
}

/* Folds of groups: dealt in the order of a hash of their names, so that neither the order of rows nor luck of one draw decides. */
static int fold_of(const struct mt_runs_table *table, int row, int folds, bool by_run)
{
	const struct mt_measured_run *run = &table->runs[row];
	int pair = 0, group = 0;

	for (int i = 0; i < table->count; i++) {
		const struct mt_measured_run *other = &table->runs[i];

		if (other->skip[0] || !same_pair(run, other, table))
			continue;
		pair++;
		group += strcmp(run->group, other->group) == 0;
	}
	if (by_run || 2 * group > pair || !run->group[0])
		return (int)(hash(run->id[0] ? run->id : run->same) % (uint64_t)folds);
	/* rank of the group among those of its pair */
	int rank = 0;
	for (int i = 0; i < table->count; i++) {
		const struct mt_measured_run *other = &table->runs[i];
		bool first = true;

		if (other->skip[0] || !same_pair(run, other, table) || strcmp(other->group, run->group) == 0)
			continue;
		for (int j = 0; j < i && first; j++)
			first = table->runs[j].skip[0] || !same_pair(run, &table->runs[j], table) ||
				strcmp(table->runs[j].group, other->group) != 0;
		rank += first && hash(other->group) < hash(run->group);
	}
	return rank % folds;
}

static double quantile_of(const double *x, int count)
{
	/* the split-conformal rank: (n + 1) * 0.9 of n */
	double q = count > 0 ? ceil(0.9 * (count + 1)) / count : 1;

	return mt_stats_quantile(x, (size_t)count, q < 1 ? q : 1);
}

/* Each interval from the errors of the other folds' runs of the same pair, or of all. */
static enum mt_status halves(double *half, const struct mt_runs_table *table, const double *predicted, const int *fold)
{
	double *errors = calloc((size_t)table->count + 1, sizeof *errors);

	if (!errors)
		return mt_fail(MT_NOMEM, "no memory for intervals");
	for (int i = 0; i < table->count; i++) {
		int count = 0;

		if (!(predicted[i] > 0))
			continue;
		for (int pass = 0; pass < 2 && count < PAIR_LEAST; pass++) {
			count = 0;
			for (int j = 0; j < table->count; j++)
				if (predicted[j] > 0 && fold[j] != fold[i] &&
				    (pass || same_pair(&table->runs[i], &table->runs[j], table)))
					errors[count++] = fabs(log(table->runs[j].measured_s / predicted[j]));
		}
		half[i] = count ? quantile_of(errors, count) : table->stacks[table->runs[i].stack].spread_frac;
	}
	free(errors);
	return MT_OK;
}

enum mt_status mt_fit_cross(double *predicted_s, double *half_frac, const struct mt_runs_table *table, int folds, bool by_run)
{
	int *fold = calloc((size_t)table->count + 1, sizeof *fold);
	unsigned char *use = calloc((size_t)table->count + 1, 1);
	enum mt_status st = fold && use ? MT_OK : mt_fail(MT_NOMEM, "no memory for cross-validation");

	for (int i = 0; st == MT_OK && i < table->count; i++) {
		predicted_s[i] = 0;
		fold[i] = table->runs[i].skip[0] ? -1 : fold_of(table, i, folds, by_run);
	}
	for (int k = 0; k < folds && st == MT_OK; k++) {
		struct mt_fit_model model;

		for (int i = 0; i < table->count; i++)
			use[i] = fold[i] >= 0 && fold[i] != k;
		st = mt_fit_runs(&model, table, use);
		for (int i = 0; st == MT_OK && i < table->count; i++) {
			const struct mt_measured_run *run = &table->runs[i];
			struct mt_factors factors;
			struct mt_forecast out;

			if (fold[i] != k)
				continue;
			mt_fit_factors(&model, table, run, &factors);
			mt_forecast_step(&out, &run->layout, &table->targets[run->target], &table->stacks[run->stack], &factors);
			predicted_s[i] = out.step_s;
		}
		if (st == MT_OK)
			mt_fit_free(&model);
	}
	if (st == MT_OK)
		st = halves(half_frac, table, predicted_s, fold);
	free(fold);
	free(use);
	return st;
}

void mt_fit_intervals(struct mt_fit_model *model, const struct mt_runs_table *table, const double *predicted_s)
{
	double *errors = calloc((size_t)table->count + 1, sizeof *errors), *all = calloc((size_t)table->count + 1, sizeof *all);
	int total = 0;

	for (int k = 0; errors && all && k < model->count; k++) {
		struct mt_fit_key *key = &model->keys[k];
		int count = 0;
		char name[96];

		if (key->level != MT_FIT_PAIR)
			continue;
		for (int i = 0; i < table->count; i++) {
			if (!(predicted_s[i] > 0))
				continue;
			snprintf(name, sizeof name, "%.44s + %.44s", table->targets[table->runs[i].target].name,
				 table->stacks[table->runs[i].stack].name);
			if (strcmp(name, key->name) != 0)
				continue;
			key->mape_frac += fabs(predicted_s[i] / table->runs[i].measured_s - 1);
			errors[count] = all[total++] = fabs(log(table->runs[i].measured_s / predicted_s[i]));
			count++;
		}
		key->runs = count;
		key->mape_frac /= count > 0 ? count : 1;
		if (count >= PAIR_LEAST)
			key->half_frac = quantile_of(errors, count);
	}
	if (total > 0)
		model->half_frac = quantile_of(all, total);
	free(errors);
	free(all);
}

/* --- files --- */

static const char *const level_names[MT_FIT_LEVELS] = {"accelerator", "cluster", "stack", "pair"};

enum mt_status mt_fit_save(const struct mt_fit_model *model, const char *path)
{
	struct mt_file file;

	MT_TRY(mt_file_create(&file, path));
	fprintf(file.stream,
		"# calibration: factors on the physical values, each with its spread (a factor of e^spread) from a bootstrap; "
		"errors and\n"
		"# half of the 90%% interval of each pair from cross-validation. Read by --calibrate.\ncalibration:\n  half_frac: "
		"%.6g\n  keys:\n",
		model->half_frac);
	for (int k = 0; k < model->count; k++) {
		const struct mt_fit_key *key = &model->keys[k];

		fprintf(file.stream, "    - level: %s\n      name: \"%s\"\n      runs: %d\n", level_names[key->level], key->name,
			key->runs);
		if (key->level == MT_FIT_PAIR)
			fprintf(file.stream, "      mape_frac: %.6g\n      half_frac: %.6g\n", key->mape_frac, key->half_frac);
		for (int f = 0; f < MT_FACTORS; f++)
			fprintf(file.stream, "      %s: %.8g # spread %.3f\n", mt_factor_name((enum mt_factor)f),
				exp(key->log_factor[f]), key->log_sd[f]);
	}
	return mt_file_commit(&file);
}

static enum mt_status read_key(struct mt_fit_key *key, const struct mt_yaml *node)
{
	const char *text;
	double value;
	int64_t runs;

	for (size_t i = 0; i < node->count; i++) {
		const char *name = node->keys[i];
		int f = 0;

		if (!strcmp(name, "level")) {
			MT_TRY(mt_yaml_string(node->items[i], "level", &text));
			for (key->level = 0; key->level < MT_FIT_LEVELS && strcmp(level_names[key->level], text) != 0; key->level++)
				;
			if (key->level == MT_FIT_LEVELS)
				return mt_fail(MT_INPUT, "%s:%d: level '%s' is none of accelerator, cluster, stack, pair",
					       node->file, node->line, text);
		} else if (!strcmp(name, "name")) {
			MT_TRY(mt_yaml_string(node->items[i], "name", &text));
			snprintf(key->name, sizeof key->name, "%s", text);
		} else if (!strcmp(name, "runs")) {
			MT_TRY(mt_yaml_int(node->items[i], "runs", &runs));
			key->runs = (int)runs;
		} else {
			MT_TRY(mt_yaml_float(node->items[i], name, &value));
			for (; f < MT_FACTORS && strcmp(mt_factor_name((enum mt_factor)f), name) != 0; f++)
				;
			if (!strcmp(name, "mape_frac"))
				key->mape_frac = value;
			else if (!strcmp(name, "half_frac"))
				key->half_frac = value;
			else if (f < MT_FACTORS && value > 0 && isfinite(value))
				key->log_factor[f] = log(value);
			else
				return mt_fail(MT_INPUT, "%s:%d: '%s: %g' is no factor above 0", node->file, node->items[i]->line,
					       name, value);
		}
	}
	return MT_OK;
}

enum mt_status mt_fit_load(struct mt_fit_model *model, const char *path)
{
	struct mt_yaml *root = NULL;
	const struct mt_yaml *top, *keys;
	enum mt_status st;

	memset(model, 0, sizeof *model);
	MT_GOTO(out, mt_yaml_load(&root, path));
	top = mt_yaml_get(root, "calibration");
	keys = mt_yaml_get(top, "keys");
	if (!keys || keys->kind != MT_YAML_LIST) {
		st = mt_fail(MT_INPUT, "%s: no 'calibration:' with a list of 'keys:'; megatune calibrate writes one", path);
		goto out;
	}
	MT_GOTO(out, mt_yaml_float(mt_yaml_get(top, "half_frac"), "half_frac", &model->half_frac));
	model->keys = calloc(keys->count + 1, sizeof *model->keys);
	if (!model->keys)
		st = mt_fail(MT_NOMEM, "no memory for a calibration");
	for (size_t i = 0; i < keys->count && st == MT_OK; i++)
		st = read_key(&model->keys[model->count++], keys->items[i]);
out:
	mt_yaml_free(root);
	if (st != MT_OK)
		mt_fit_free(model);
	return st;
}
