/* balance: see balance.h. Dynamic programming over cuts of the first layers into the first parts, twice: for the least longest
 * part, then for the least sum of squares with no part longer than that. */
#include "tuner/balance.h"

#include <math.h>
#include <stdlib.h>

struct table {
	const struct mt_balance_work *work;
	int64_t columns; /* layers + 1 */
	double *until_s; /* owned: (columns) of the layers before */
	double *best;    /* owned: (parts, columns) of the first parts with the first layers */
	int64_t *begin;  /* owned: (parts, columns) the first layer of the last of these parts */
};

/* Seconds of part v with the layers begin .. end-1. */
static double part_s(const struct table *t, int64_t v, int64_t begin, int64_t end)
{
	const struct mt_balance_work *w = t->work;

	return t->until_s[end] - t->until_s[begin] + (v == 0 ? w->first_s : 0) + (v == w->parts - 1 ? w->last_s : 0);
}

/* The best cut of the first `end` layers into the parts 0 .. v. A limit: no part is longer, and squares are summed. */
static void find(struct table *t, int64_t v, int64_t end, double limit_s)
{
	bool inner = v > 0 && v < t->work->parts - 1;
	double *best = &t->best[v * t->columns + end];

	*best = INFINITY;
	for (int64_t begin = v == 0 ? 0 : end - inner; begin >= 0; begin--) {
		double before = v > 0 ? t->best[(v - 1) * t->columns + begin] : 0, s = part_s(t, v, begin, end);
		double value = isfinite(limit_s) ? before + s * s : fmax(before, s);

		if (s <= limit_s && value < *best) {
			*best = value;
			t->begin[v * t->columns + end] = begin;
		}
	}
}

static double run(struct table *t, double limit_s)
{
	for (int64_t v = 0; v < t->work->parts; v++) {
		for (int64_t end = 0; end < t->columns; end++)
			find(t, v, end, limit_s);
	}
	return t->best[t->work->parts * t->columns - 1];
}

static void read_counts(const struct table *t, int64_t *counts)
{
	int64_t end = t->work->layers;

	for (int64_t v = t->work->parts - 1; v >= 0; v--) {
		int64_t begin = t->begin[v * t->columns + end];

		counts[v] = end - begin;
		end = begin;
	}
}

enum mt_status mt_balance(const struct mt_balance_work *work, int64_t *counts)
{
	struct table t = {.work = work, .columns = work->layers + 1};
	size_t cells = (size_t)(work->parts * t.columns);
	enum mt_status st = MT_OK;
	double longest_s;

	t.until_s = calloc((size_t)t.columns, sizeof *t.until_s);
	t.best = calloc(cells, sizeof *t.best);
	t.begin = calloc(cells, sizeof *t.begin);
	if (!t.until_s || !t.best || !t.begin)
		MT_GOTO(out, mt_fail(MT_NOMEM, "no memory to cut %lld layers", (long long)work->layers));
	for (int64_t i = 0; i < work->layers; i++)
		t.until_s[i + 1] = t.until_s[i] + work->layer_s[i];
	longest_s = run(&t, INFINITY);
	if (!isfinite(longest_s))
		MT_GOTO(out, mt_fail(MT_UNAVAILABLE, "%lld layers are too few for %lld parts", (long long)work->layers,
				     (long long)work->parts));
	run(&t, longest_s * (1 + 1e-12)); /* sums of other order */
	read_counts(&t, counts);
out:
	free(t.until_s);
	free(t.best);
	free(t.begin);
	return st;
}
