/* trial: see trial.h. */
#include "tuner/trial.h"

#include <math.h>
#include <stdlib.h>

/* A pace below this part of the undisturbed one is a disturbed machine's. A lone product of 1024-cubes varies by some 5%; a
 * neighbour on the same core takes 30 to 50%. */
#define LEAST_PACE_FRAC 0.85

/* The slowest rank's rate, which turbo may lift for a moment: not quite the highest. */
#define PACE_QUANTILE 0.9

/* Measured over predicted time of a family whose trials all failed: it comes after the others. */
#define FAILED_RATIO 1e3

enum mt_status mt_trial_add(struct mt_candidate *c, const json_t *times, const json_t *paces)
{
	size_t before = (size_t)c->measured_steps, count = before + json_array_size(times);
	struct mt_timed_step *steps = realloc(c->steps, (count + 1) * sizeof *steps);

	if (!steps)
		return mt_fail(MT_NOMEM, "no memory for %zu step times", count);
	c->steps = steps;
	for (size_t i = before; i < count; i++) {
		steps[i].seconds = json_number_value(json_array_get(times, i - before));
		steps[i].pace_flops = json_number_value(json_array_get(paces, i - before));
	}
	c->measured_steps = (int64_t)count;
	return MT_OK;
}

double mt_trial_pace(const struct mt_candidate *candidates, int count)
{
	double *paces = NULL, pace;
	size_t n = 0;

	for (int i = 0; i < count; i++)
		n += (size_t)candidates[i].measured_steps;
	paces = calloc(n + 1, sizeof *paces);
	n = 0;
	for (int i = 0; paces && i < count; i++) {
		for (int64_t k = 0; k < candidates[i].measured_steps; k++)
			paces[n++] = candidates[i].steps[k].pace_flops;
	}
	pace = n ? mt_stats_quantile(paces, n, PACE_QUANTILE) : 0;
	free(paces);
	return pace;
}

/* Seconds of the steps at a pace near that one; how many. */
static size_t steady_times(const struct mt_candidate *c, double pace_flops, double *times)
{
	size_t count = 0;

	for (int64_t i = 0; i < c->measured_steps; i++) {
		if (c->steps[i].pace_flops >= LEAST_PACE_FRAC * pace_flops)
			times[count++] = c->steps[i].seconds;
	}
	return count;
}

void mt_trial_judge(struct mt_candidate *c, double pace_flops)
{
	double *times = calloc((size_t)c->measured_steps + 1, sizeof *times), limit_s;
	size_t count, steady, kept = 0;

	if (!times)
		return;
	steady_times(c, 0, times);
	c->median_s = mt_stats_median(times, (size_t)c->measured_steps);
	steady = count = steady_times(c, pace_flops, times);
	if (steady == 0)
		count = steady_times(c, 0, times);
	limit_s = mt_stats_quantile(times, count, 0) * (1 + MT_DISTURBED_FRAC);
	for (size_t i = 0; i < count; i++) {
		if (times[i] <= limit_s)
			times[kept++] = times[i];
	}
	c->undisturbed_steps = steady ? (int64_t)kept : 0;
	c->measured_s = mt_stats_median(times, kept);
	c->measured = mt_stats_bootstrap(times, kept, 0.9, 2000, 1);
	free(times);
}

bool mt_trial_unsettled(const struct mt_candidate *c)
{
	return c->run && !c->failed && 2 * c->undisturbed_steps < c->measured_steps;
}

static bool same_family(const struct mt_layout *a, const struct mt_layout *b)
{
	return a->tp == b->tp && a->cp == b->cp && a->ep == b->ep && a->pp == b->pp;
}

/* Measured over predicted time of trials: the least, since other work only lengthens one. */
struct ratios {
	double family, all; /* infinity: no trial */
	bool failed;        /* one of the family */
};

static struct ratios ratios_of(const struct mt_candidate *candidates, int count, const struct mt_candidate *c)
{
	struct ratios r = {INFINITY, INFINITY, false};

	for (int i = 0; i < count; i++) {
		const struct mt_candidate *other = &candidates[i];
		bool same = other->run && same_family(&other->layout, &c->layout);

		r.failed |= same && other->failed;
		if (!other->run || other->failed || !(other->step_s > 0))
			continue;
		r.all = fmin(r.all, other->measured_s / other->step_s);
		if (same)
			r.family = fmin(r.family, other->measured_s / other->step_s);
	}
	return r;
}

/* For layouts like this one; without a trial of its family never above 1. */
static double expected_ratio(const struct mt_candidate *candidates, int count, const struct mt_candidate *c)
{
	struct ratios r = ratios_of(candidates, count, c);

	return isfinite(r.family) ? r.family : r.failed ? FAILED_RATIO : fmin(r.all, 1);
}

double mt_trial_expected_s(const struct mt_candidate *candidates, int count, const struct mt_candidate *c)
{
	struct ratios r = ratios_of(candidates, count, c);

	return isfinite(r.family) ? c->step_s * r.family : NAN;
}

int mt_trial_next(const struct mt_candidate *candidates, int count)
{
	double least_s = INFINITY;
	int next = -1;

	for (int i = 0; i < count; i++) {
		double expected_s;

		if (candidates[i].run)
			continue;
		expected_s = candidates[i].step_s * expected_ratio(candidates, count, &candidates[i]);
		if (next < 0 || expected_s < least_s) {
			least_s = expected_s;
			next = i;
		}
	}
	return next;
}
