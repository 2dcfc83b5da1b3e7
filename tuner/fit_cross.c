/* fit_cross: cross-validation and what it says of intervals; calibration files. */
#include "base/file.h"
#include "base/random.h"
#include "base/stats.h"
#include "base/yaml.h"
#include "tuner/fit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Runs, and groups where the run is of none of them, that speak for a pair: n bound the next with a chance of n / (n + 1). */
enum { PAIR_LEAST = 10, GROUPS_LEAST = 9 };

static bool same_pair(const struct mt_measured_run *a, const struct mt_measured_run *b, const struct mt_runs_table *table)
{
	return strcmp(mt_stack_family(&table->stacks[a->stack]), mt_stack_family(&table->stacks[b->stack])) == 0 &&
	       strcmp(table->targets[a->target].name, table->targets[b->target].name) == 0;
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

struct weighted {
	double error, weight;
};

static int weighted_compare(const void *a, const void *b)
{
	const struct weighted *x = a, *y = b;

	return x->error < y->error ? -1 : x->error > y->error;
}

/* The 0.9 quantile where runs weigh differently: a table of a thousand runs must not speak for software of ten. */
static double weighted_quantile(struct weighted *x, int count)
{
	double total = 0, below = 0;

	qsort(x, (size_t)count, sizeof *x, weighted_compare);
	for (int i = 0; i < count; i++)
		total += x[i].weight;
	for (int i = 0; i < count; i++) {
		below += x[i].weight;
		if (below >= 0.9 * total)
			return x[i].error;
	}
	return count > 0 ? x[count - 1].error : 0;
}

static double miss(const struct mt_runs_table *table, const double *predicted_s, int i)
{
	return fabs(log(table->runs[i].measured_s / predicted_s[i]));
}

/* Of a group that is none of `groups`: runs of one group err alike, so that few of them say little. */
static double half_of_new(double half, int groups, double all)
{
	if (groups > 0)
		half *= 1 + 1.0 / groups;
	return groups < GROUPS_LEAST && half < all ? all : half;
}

static bool same_group(const struct mt_measured_run *a, const struct mt_measured_run *b)
{
	return a->group[0] && strcmp(a->group, b->group) == 0;
}

static int group_size(const struct mt_runs_table *table, const struct mt_fit_check *check, int i)
{
	int count = 0;

	for (int j = 0; j < table->count; j++)
		count += check->predicted_s[j] > 0 && (j == i || same_group(&table->runs[i], &table->runs[j]));
	return count;
}

/* Of runs of other folds, as if no layer had been measured, each group weighing as much: what to expect where the pair says too
 * little. */
static double half_of_all(const struct mt_fit_check *check, const struct mt_runs_table *table, const int *fold, int k,
			  struct weighted *room, const int *size)
{
	int count = 0;

	for (int j = 0; j < table->count; j++)
		if (check->predicted_s[j] > 0 && (!fold || fold[j] != k))
			room[count++] = (struct weighted){miss(table, check->new_s, j), 1.0 / size[j]};
	return weighted_quantile(room, count);
}

/* From the errors of the other folds' runs of the same pair: of runs with a layer that was measured, or of all as if none had
 * been; no less than `all`, that of all pairs, where few groups speak for a new one. 0: too few runs. */
static double half_of_pair(const struct mt_fit_check *check, const struct mt_runs_table *table, const int *fold, int i, double all,
			   double *errors, int *from)
{
	const double *predicted_s = check->seen[i] ? check->predicted_s : check->new_s;
	int count = 0, groups = 0;
	bool own = false;

	for (int j = 0; j < table->count; j++) {
		const struct mt_measured_run *run = &table->runs[j];
		int before = 0;

		if (!(check->predicted_s[j] > 0) || fold[j] == fold[i] || (check->seen[i] && !check->seen[j]) ||
		    !same_pair(&table->runs[i], run, table))
			continue;
		while (before < count && !same_group(run, &table->runs[from[before]]))
			before++;
		groups += before == count;
		own |= same_group(run, &table->runs[i]);
		from[count] = j;
		errors[count++] = miss(table, predicted_s, j);
	}
	if (count < PAIR_LEAST)
		return 0;
	return own ? quantile_of(errors, count) : half_of_new(quantile_of(errors, count), groups, all);
}

static enum mt_status halves(struct mt_fit_check *check, const struct mt_runs_table *table, const int *fold, int folds)
{
	size_t n = (size_t)table->count + 1;
	double *errors = calloc(n, sizeof *errors), *all = calloc((size_t)folds + 1, sizeof *all);
	int *from = calloc(n, sizeof *from), *size = calloc(n, sizeof *size);
	struct weighted *room = calloc(n, sizeof *room);
	enum mt_status st = errors && all && from && size && room ? MT_OK : mt_fail(MT_NOMEM, "no memory for intervals");

	for (int i = 0; st == MT_OK && i < table->count; i++)
		size[i] = group_size(table, check, i);
	for (int k = 0; st == MT_OK && k < folds; k++)
		all[k] = half_of_all(check, table, fold, k, room, size);
	for (int i = 0; st == MT_OK && i < table->count; i++) {
		if (!(check->predicted_s[i] > 0))
			continue;
		check->half_frac[i] = half_of_pair(check, table, fold, i, all[fold[i]], errors, from);
		if (check->half_frac[i] <= 0)
			check->half_frac[i] = all[fold[i]] > 0 ? all[fold[i]] : table->stacks[table->runs[i].stack].spread_frac;
	}
	free(errors);
	free(all);
	free(from);
	free(size);
	free(room);
	return st;
}

/* Predicts the runs of fold k by a fit to the others. */
static enum mt_status predict_fold(struct mt_fit_check *check, const struct mt_runs_table *table, const int *fold, int k,
				   unsigned char *use)
{
	struct mt_fit_model model;

	for (int i = 0; i < table->count; i++)
		use[i] = fold[i] >= 0 && fold[i] != k;
	MT_TRY(mt_fit_runs(&model, table, use));
	for (int i = 0; i < table->count; i++) {
		const struct mt_measured_run *run = &table->runs[i];
		char name[MT_FIT_NAME];
		struct mt_factors factors;
		struct mt_forecast out;

		if (fold[i] != k)
			continue;
		mt_fit_factors(&model, table, run, &factors);
		mt_forecast_step(&out, &run->layout, &table->targets[run->target], &table->stacks[run->stack], &factors);
		check->predicted_s[i] = out.step_s;
		factors.of[MT_FACTOR_LAYER] = 1;
		mt_forecast_step(&out, &run->layout, &table->targets[run->target], &table->stacks[run->stack], &factors);
		check->new_s[i] = out.step_s;
		mt_fit_key_name(name, table, run, MT_FIT_LAYER);
		check->seen[i] = mt_fit_find(&model, MT_FIT_LAYER, name) >= 0;
	}
	mt_fit_free(&model);
	return MT_OK;
}

void mt_fit_check_free(struct mt_fit_check *check)
{
	free(check->predicted_s);
	free(check->new_s);
	free(check->half_frac);
	free(check->seen);
	memset(check, 0, sizeof *check);
}

enum mt_status mt_fit_cross(struct mt_fit_check *check, const struct mt_runs_table *table, int folds, bool by_run)
{
	size_t n = (size_t)table->count + 1;
	int *fold = calloc(n, sizeof *fold);
	unsigned char *use = calloc(n, 1);
	enum mt_status st = MT_OK;

	check->predicted_s = calloc(n, sizeof *check->predicted_s);
	check->new_s = calloc(n, sizeof *check->new_s);
	check->half_frac = calloc(n, sizeof *check->half_frac);
	check->seen = calloc(n, 1);
	if (!fold || !use || !check->predicted_s || !check->new_s || !check->half_frac || !check->seen)
		st = mt_fail(MT_NOMEM, "no memory for cross-validation");
	for (int i = 0; st == MT_OK && i < table->count; i++)
		fold[i] = table->runs[i].skip[0] ? -1 : fold_of(table, i, folds, by_run);
	for (int k = 0; k < folds && st == MT_OK; k++)
		st = predict_fold(check, table, fold, k, use);
	if (st == MT_OK)
		st = halves(check, table, fold, folds);
	free(fold);
	free(use);
	if (st != MT_OK)
		mt_fit_check_free(check);
	return st;
}

enum mt_status mt_fit_intervals(struct mt_fit_model *model, const struct mt_runs_table *table, const struct mt_fit_check *check)
{
	size_t n = (size_t)table->count + 1;
	double *seen = calloc(n, sizeof *seen), *fresh = calloc(n, sizeof *fresh);
	struct weighted *room = calloc(n, sizeof *room);
	int *size = calloc(n, sizeof *size);
	enum mt_status st = seen && fresh && room && size ? MT_OK : mt_fail(MT_NOMEM, "no memory for intervals");

	for (int i = 0; st == MT_OK && i < table->count; i++)
		size[i] = group_size(table, check, i);
	if (st == MT_OK)
		model->half_new_frac = half_of_all(check, table, NULL, 0, room, size);
	for (int k = 0; st == MT_OK && k < model->count; k++) {
		struct mt_fit_key *key = &model->keys[k];
		int count = 0, seen_count = 0, groups = 0;
		char name[MT_FIT_NAME];

		if (key->level != MT_FIT_PAIR)
			continue;
		for (int i = 0; i < table->count; i++) {
			if (!(check->predicted_s[i] > 0))
				continue;
			mt_fit_key_name(name, table, &table->runs[i], MT_FIT_PAIR);
			if (strcmp(name, key->name) != 0)
				continue;
			bool first = true;
			for (int j = 0; j < i && first; j++)
				first = !(check->predicted_s[j] > 0) || !same_pair(&table->runs[i], &table->runs[j], table) ||
					!same_group(&table->runs[i], &table->runs[j]);
			groups += first;
			key->mape_frac += fabs(check->predicted_s[i] / table->runs[i].measured_s - 1);
			fresh[count++] = miss(table, check->new_s, i);
			if (check->seen[i])
				seen[seen_count++] = miss(table, check->predicted_s, i);
		}
		key->runs = count;
		key->mape_frac /= count > 0 ? count : 1;
		if (count >= PAIR_LEAST)
			key->half_frac = key->half_new_frac = half_of_new(quantile_of(fresh, count), groups, model->half_new_frac);
		if (seen_count >= PAIR_LEAST)
			key->half_frac = quantile_of(seen, seen_count);
	}
	free(seen);
	free(fresh);
	free(room);
	free(size);
	return st;
}

/* --- files --- */

static const char *const level_names[MT_FIT_LAYER + 1] = {"accelerator", "cluster", "stack", "pair", "layer"};

enum mt_status mt_fit_save(const struct mt_fit_model *model, const char *path)
{
	struct mt_file file;

	MT_TRY(mt_file_create(&file, path));
	fprintf(file.stream,
		"# calibration: factors on the physical values, each with its spread (a factor of e^spread) from a bootstrap; "
		"errors and\n"
		"# half of the 90%% interval of each pair from cross-validation: half_new of layers that no run had. Read by "
		"--calibrate.\ncalibration:\n  "
		"half_new_frac: %.6g\n  keys:\n",
		model->half_new_frac);
	for (int k = 0; k < model->count; k++) {
		const struct mt_fit_key *key = &model->keys[k];

		fprintf(file.stream, "    - level: %s\n      name: \"%s\"\n      runs: %d\n", level_names[key->level], key->name,
			key->runs);
		if (key->level == MT_FIT_PAIR)
			fprintf(file.stream, "      mape_frac: %.6g\n      half_frac: %.6g\n      half_new_frac: %.6g\n",
				key->mape_frac, key->half_frac, key->half_new_frac);
		int first = key->level == MT_FIT_LAYER ? MT_FACTOR_LAYER : 0,
		    end = key->level == MT_FIT_LAYER ? MT_FACTORS : MT_FACTOR_LAYER;
		for (int f = first; f < end; f++)
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
			for (key->level = 0; key->level <= MT_FIT_LAYER && strcmp(level_names[key->level], text) != 0; key->level++)
				;
			if (key->level > MT_FIT_LAYER)
				return mt_fail(MT_INPUT, "%s:%d: level '%s' is none of accelerator, cluster, stack, pair, layer",
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
			else if (!strcmp(name, "half_new_frac"))
				key->half_new_frac = value;
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
	MT_GOTO(out, mt_yaml_float(mt_yaml_get(top, "half_new_frac"), "half_new_frac", &model->half_new_frac));
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
