/* score: see score.h. Regret is judged where a choice was measured: among runs of one group with the same model, devices, batch,
 * sequence and precision; the group's is the worst of these, NaN where there was no choice. A layout that was run more than once
 * counts with the mean of its times: no predictor can tell which release or day was the fast one. */
#include "tuner/score.h"

#include "base/json.h"
#include "base/stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct errors {
	double *ape; /* owned */
	double bias, covered;
	int count;
};

static void add(struct errors *e, const struct mt_measured_run *run, double predicted_s, double half)
{
	double ratio = predicted_s / run->measured_s;

	e->ape[e->count++] = fabs(ratio - 1);
	e->bias += ratio - 1;
	e->covered += fabs(log(ratio)) <= half;
}

static int rank_compare(const void *a, const void *b)
{
	const double *const *x = a, *const *y = b;

	return **x < **y ? -1 : **x > **y;
}

static void ranks_of(double *rank, const double *x, int count)
{
	const double **order = malloc((size_t)count * sizeof *order);

	for (int i = 0; order && i < count; i++)
		order[i] = &x[i];
	if (order)
		qsort(order, (size_t)count, sizeof *order, rank_compare);
	for (int i = 0, j; order && i < count; i = j) {
		for (j = i; j < count && *order[j] == *order[i]; j++)
			;
		for (int k = i; k < j; k++)
			rank[order[k] - x] = (i + j - 1) / 2.0;
	}
	free(order);
}

double mt_score_spearman(const double *x, const double *y, int count)
{
	double *rank = calloc(2 * (size_t)count + 1, sizeof *rank), mean = (count - 1) / 2.0, xy = 0, xx = 0, yy = 0;

	if (!rank || count < 2) {
		free(rank);
		return NAN;
	}
	ranks_of(rank, x, count);
	ranks_of(rank + count, y, count);
	for (int i = 0; i < count; i++) {
		xy += (rank[i] - mean) * (rank[count + i] - mean);
		xx += (rank[i] - mean) * (rank[i] - mean);
		yy += (rank[count + i] - mean) * (rank[count + i] - mean);
	}
	free(rank);
	return xx > 0 && yy > 0 ? xy / sqrt(xx * yy) : NAN;
}

static bool in_group(const struct mt_runs_table *table, int i, const char *group)
{
	return !table->runs[i].skip[0] && strcmp(table->runs[i].group, group) == 0;
}

static bool compete(const struct mt_runs_table *table, int i, int j)
{
	return in_group(table, j, table->runs[i].group) && strcmp(table->runs[i].same, table->runs[j].same) == 0;
}

static bool same_layout(const struct mt_runs_table *table, int i, int j)
{
	return strcmp(table->runs[i].laid_out, table->runs[j].laid_out) == 0;
}

/* Mean measured time of the runs of run `of`'s layout among those that compete with it. */
static double layout_s(const struct mt_runs_table *table, int of)
{
	double sum = 0;
	int count = 0;

	for (int i = 0; i < table->count; i++) {
		if (compete(table, of, i) && same_layout(table, of, i)) {
			sum += table->runs[i].measured_s;
			count++;
		}
	}
	return sum / count;
}

/* Layouts that are said to be faster than run `than`, of those that compete with it. */
static int faster_layouts(const struct mt_runs_table *table, const double *predicted, int than)
{
	int count = 0;

	for (int i = 0; i < table->count; i++) {
		bool first = predicted[i] < predicted[than] && compete(table, than, i) && !same_layout(table, than, i);

		for (int j = 0; j < i && first; j++)
			first = predicted[j] >= predicted[than] || !compete(table, than, j) || !same_layout(table, i, j);
		count += first;
	}
	return count;
}

/* Of the layouts that compete with run `first`: the fastest of the `tries` that are said to be, over the fastest, less 1. NaN: no
 * other layout. */
static double regret_among(const struct mt_runs_table *table, const double *predicted, int first, int tries)
{
	double best_s = INFINITY, tried_s = INFINITY;
	int layouts = 1;

	for (int i = 0; i < table->count; i++) {
		if (!compete(table, first, i))
			continue;
		layouts += !same_layout(table, first, i);
		best_s = fmin(best_s, layout_s(table, i));
		if (faster_layouts(table, predicted, i) < tries)
			tried_s = fmin(tried_s, layout_s(table, i));
	}
	return layouts > 1 ? tried_s / best_s - 1 : NAN;
}

/* No run before it competes with run i. */
static bool leads(const struct mt_runs_table *table, int i)
{
	bool first = !table->runs[i].skip[0];

	for (int j = 0; j < i && first; j++)
		first = !compete(table, i, j);
	return first;
}

/* Worst of the choices of a group. */
static double regret_of(const struct mt_runs_table *table, const double *predicted, const char *group, int tries)
{
	double worst = NAN;

	for (int i = 0; i < table->count; i++)
		if (in_group(table, i, group) && leads(table, i))
			worst = fmax(worst, regret_among(table, predicted, i, tries));
	return worst;
}

static json_t *group_json(const struct mt_runs_table *table, const double *predicted, const char *group)
{
	double *x = calloc((size_t)table->count + 1, sizeof *x), *y = calloc((size_t)table->count + 1, sizeof *y), ape = 0,
	       bias = 0;
	json_t *o = json_object();
	int count = 0;

	for (int i = 0; x && y && i < table->count; i++) {
		if (!in_group(table, i, group))
			continue;
		x[count] = predicted[i];
		y[count] = table->runs[i].measured_s;
		ape += fabs(x[count] / y[count] - 1);
		bias += x[count] / y[count] - 1;
		count++;
	}
	json_object_set_new(o, "group", json_string(group));
	json_object_set_new(o, "runs", json_integer(count));
	json_object_set_new(o, "mape_frac", mt_json_number(count ? ape / count : NAN));
	json_object_set_new(o, "bias_frac", mt_json_number(count ? bias / count : NAN));
	json_object_set_new(o, "spearman", mt_json_number(x && y ? mt_score_spearman(x, y, count) : NAN));
	json_object_set_new(o, "regret_frac", mt_json_number(regret_of(table, predicted, group, 1)));
	json_object_set_new(o, "regret_3_frac", mt_json_number(regret_of(table, predicted, group, 3)));
	free(x);
	free(y);
	return o;
}

static bool same_family(const struct mt_runs_table *table, int a, int b)
{
	return strcmp(mt_stack_family(&table->stacks[a]), mt_stack_family(&table->stacks[b])) == 0;
}

static void sum_up(struct errors *e, const struct mt_runs_table *table, const double *predicted, const double *half, int target,
		   int stack)
{
	for (int i = 0; e->ape && i < table->count; i++) {
		const struct mt_measured_run *run = &table->runs[i];

		if (!run->skip[0] && (stack < 0 || (same_family(table, run->stack, stack) &&
						    strcmp(table->targets[run->target].name, table->targets[target].name) == 0)))
			add(e, run, predicted[i], half[i]);
	}
}

json_t *mt_score_json(const struct mt_runs_table *table, const double *predicted, const double *half)
{
	struct errors e = {.ape = calloc((size_t)table->count + 1, sizeof *e.ape)};
	json_t *o = json_object(), *skipped = json_array(), *groups = json_array();
	size_t n;

	sum_up(&e, table, predicted, half, -1, -1);
	n = (size_t)e.count;
	for (int i = 0; i < table->count; i++) {
		bool first = !table->runs[i].skip[0];

		if (table->runs[i].skip[0]) {
			json_t *s = json_pack("{s:s,s:s}", "id", table->runs[i].id, "why", table->runs[i].skip);
			json_array_append_new(skipped, s ? s : json_null());
		}
		for (int j = 0; j < i && first; j++)
			first = !in_group(table, j, table->runs[i].group);
		if (first)
			json_array_append_new(groups, group_json(table, predicted, table->runs[i].group));
	}
	json_object_set_new(o, "runs", json_integer(table->count));
	json_object_set_new(o, "predicted", json_integer(e.count));
	json_object_set_new(o, "skipped", skipped);
	json_object_set_new(o, "mape_frac", mt_json_number(mt_stats_mean(e.ape, n)));
	json_object_set_new(o, "median_ape_frac", mt_json_number(mt_stats_median(e.ape, n)));
	json_object_set_new(o, "p90_ape_frac", mt_json_number(mt_stats_quantile(e.ape, n, 0.9)));
	json_object_set_new(o, "bias_frac", mt_json_number(n ? e.bias / e.count : NAN));
	json_object_set_new(o, "coverage_frac", mt_json_number(n ? e.covered / e.count : NAN));
	json_object_set_new(o, "groups", groups);
	free(e.ape);
	return o;
}

enum { COLUMNS = 80, NAME = 36, REASONS = 5 };

static bool within_character(char byte)
{
	return ((unsigned char)byte & 0xc0) == 0x80; /* UTF-8 */
}

/* The text in at most `most` bytes: what is longer keeps its begin and its end. Control characters of a cell are not printed. */
static const char *shortened(char *buf, size_t size, const char *text, size_t most)
{
	size_t length = strlen(text), begin = most - 3 - most / 3, end = most / 3;

	while (length > most && begin > 0 && within_character(text[begin]))
		begin--;
	while (length > most && end > 0 && within_character(text[length - end]))
		end--;
	if (length <= most)
		snprintf(buf, size, "%s", text);
	else
		snprintf(buf, size, "%.*s...%s", (int)begin, text, text + length - end);
	for (char *at = buf; *at; at++)
		if ((unsigned char)*at < ' ' || *at == 0x7f)
			*at = '?';
	return buf;
}

static void print_line(FILE *file, const char *name, struct errors *e)
{
	char buf[COLUMNS];

	if (e->count > 0)
		fprintf(file, "  %-*s %5d %5.1f%% %5.1f%% %5.1f%% %+6.1f%% %5.0f%%\n", NAME, shortened(buf, sizeof buf, name, NAME),
			e->count, 100 * mt_stats_mean(e->ape, (size_t)e->count), 100 * mt_stats_median(e->ape, (size_t)e->count),
			100 * mt_stats_quantile(e->ape, (size_t)e->count, 0.9), 100 * e->bias / e->count,
			100 * e->covered / e->count);
	e->count = 0;
	e->bias = e->covered = 0;
}

static void print_regret(const struct mt_runs_table *table, const double *predicted, FILE *file)
{
	double *one = calloc((size_t)table->count + 1, sizeof *one), *three = calloc((size_t)table->count + 1, sizeof *three);
	size_t n = 0;

	for (int i = 0; one && three && i < table->count; i++) {
		one[n] = leads(table, i) ? regret_among(table, predicted, i, 1) : NAN;
		if (isnan(one[n]))
			continue;
		three[n++] = regret_among(table, predicted, i, 3);
	}
	if (n > 0)
		fprintf(file,
			"  %zu choices; over the fastest layout is the pick by %.1f%% in the median,\n"
			"  %.1f%% at worst; the best of the first three by %.1f%% and %.1f%%\n",
			n, 100 * mt_stats_median(one, n), 100 * mt_stats_quantile(one, n, 1), 100 * mt_stats_median(three, n),
			100 * mt_stats_quantile(three, n, 1));
	free(one);
	free(three);
}

struct reason {
	const char *text;
	int rows;
};

static int reason_compare(const void *a, const void *b)
{
	const struct reason *x = a, *y = b;

	return x->rows != y->rows ? y->rows - x->rows : strcmp(x->text, y->text);
}

/* Why rows were skipped, the most frequent reasons first. */
static void print_skipped(const struct mt_runs_table *table, FILE *file)
{
	struct reason *reasons = calloc((size_t)table->count + 1, sizeof *reasons);
	int skipped = 0, count = 0, other = 0, k;
	char buf[COLUMNS];

	for (int i = 0; i < table->count; i++) {
		const char *why = table->runs[i].skip;

		skipped += why[0] != 0;
		for (k = 0; reasons && k < count && strcmp(reasons[k].text, why) != 0; k++)
			;
		if (!reasons || !why[0])
			continue;
		reasons[k].text = why;
		reasons[k].rows++;
		count += k == count;
	}
	fprintf(file, "  %d of %d rows skipped%s\n", skipped, table->count, skipped ? ":" : "");
	if (count > 1)
		qsort(reasons, (size_t)count, sizeof *reasons, reason_compare);
	for (k = 0; k < count && k < REASONS; k++)
		fprintf(file, "  %6d  %s\n", reasons[k].rows, shortened(buf, sizeof buf, reasons[k].text, COLUMNS - 10));
	for (; k < count; k++)
		other += reasons[k].rows;
	if (other > 0)
		fprintf(file, "  %6d  for %d other reasons; --json tells each\n", other, count - REASONS);
	free(reasons);
}

void mt_score_print(const struct mt_runs_table *table, const double *predicted, const double *half, FILE *file)
{
	struct errors e = {.ape = calloc((size_t)table->count + 1, sizeof *e.ape)};
	char name[96];

	fprintf(file, "  %-*s %5s %6s %6s %6s %7s %6s\n", NAME, "machine + stack", "runs", "MAPE", "median", "90%", "bias",
		"covers");
	for (int s = 0; s < table->stack_count; s++) {
		for (int t = 0; t < table->target_count; t++) {
			bool first = true;

			for (int before = 0; before < s && first; before++)
				first = !same_family(table, before, s);
			for (int before = 0; before < t && first; before++)
				first = strcmp(table->targets[before].name, table->targets[t].name) != 0;
			if (!first)
				continue;
			sum_up(&e, table, predicted, half, t, s);
			snprintf(name, sizeof name, "%.44s + %.44s", table->targets[t].name, mt_stack_family(&table->stacks[s]));
			print_line(file, name, &e);
		}
	}
	sum_up(&e, table, predicted, half, -1, -1);
	print_line(file, "all", &e);
	print_regret(table, predicted, file);
	print_skipped(table, file);
	free(e.ape);
}
