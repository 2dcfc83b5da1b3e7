/* stats: order statistics, intervals of the median, and a straight line. */
#define _DEFAULT_SOURCE
#include "base/stats.h"

#include "base/random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

/* A sorted copy, in `few` when it fits. NULL when out of memory or count is 0. */
#define FEW 256

static double *sorted_copy(const double *x, size_t count, double few[FEW])
{
	if (count == 0)
		return NULL;
	double *sorted = count <= FEW ? few : malloc(count * sizeof *sorted);
	if (sorted) {
		memcpy(sorted, x, count * sizeof *sorted);
		qsort(sorted, count, sizeof *sorted, compare);
	}
	return sorted;
}

static void drop_copy(double *sorted, const double few[FEW])
{
	if (sorted != few)
		free(sorted);
}

/* Type 7 of Hyndman & Fan 1996: linear between the order statistics at (n - 1) q. */
static double quantile_of_sorted(const double *sorted, size_t count, double q)
{
	double at = (double)(count - 1) * fmin(fmax(q, 0), 1);
	size_t low = (size_t)at;
	if (low + 1 >= count)
		return sorted[count - 1];
	double part = at - (double)low;
	return part == 0 ? sorted[low] : sorted[low] + part * (sorted[low + 1] - sorted[low]);
}

double mt_stats_quantile(const double *x, size_t count, double q)
{
	double few[FEW];
	double *sorted = sorted_copy(x, count, few);
	if (!sorted)
		return NAN;
	double result = quantile_of_sorted(sorted, count, q);
	drop_copy(sorted, few);
	return result;
}

double mt_stats_median(const double *x, size_t count)
{
	return mt_stats_quantile(x, count, 0.5);
}

double mt_stats_mad(const double *x, size_t count)
{
	double few[FEW];
	double *deviations = sorted_copy(x, count, few);
	if (!deviations)
		return NAN;
	double median = quantile_of_sorted(deviations, count, 0.5);
	for (size_t i = 0; i < count; i++)
		deviations[i] = fabs(deviations[i] - median);
	qsort(deviations, count, sizeof *deviations, compare);
	double result = 1.4826 * quantile_of_sorted(deviations, count, 0.5);
	drop_copy(deviations, few);
	return result;
}

double mt_stats_mean(const double *x, size_t count)
{
	double sum = 0;
	for (size_t i = 0; i < count; i++)
		sum += x[i];
	return count ? sum / (double)count : NAN;
}

/* The median of one resample, given how often each sorted sample was drawn: the middle one or two draws. */
static double median_of_draws(const double *sorted, const uint32_t *drawn, size_t count)
{
	size_t seen = 0, low = (count - 1) / 2, high = count / 2, i = 0;
	while ((seen += drawn[i]) <= low)
		i++;
	size_t j = i;
	while (seen <= high)
		seen += drawn[++j];
	return 0.5 * (sorted[i] + sorted[j]);
}

struct mt_interval mt_stats_bootstrap(const double *x, size_t count, double confidence, int resamples, uint64_t seed)
{
	double few[FEW];
	struct mt_interval interval = {NAN, NAN};
	double *sorted = sorted_copy(x, count, few);
	double *medians = resamples > 0 ? malloc((size_t)resamples * sizeof *medians) : NULL;
	uint32_t *drawn = malloc((count ? count : 1) * sizeof *drawn);

	if (sorted && medians && drawn) {
		for (size_t r = 0; r < (size_t)resamples; r++) {
			memset(drawn, 0, count * sizeof *drawn);
			for (size_t i = 0; i < count; i++)
				drawn[mt_random_integer(seed, 0x626f6f74, r * count + i, count)]++;
			medians[r] = median_of_draws(sorted, drawn, count);
		}
		qsort(medians, (size_t)resamples, sizeof *medians, compare);
		interval.lo = quantile_of_sorted(medians, (size_t)resamples, (1 - confidence) / 2);
		interval.hi = quantile_of_sorted(medians, (size_t)resamples, (1 + confidence) / 2);
	}
	free(drawn);
	free(medians);
	drop_copy(sorted, few);
	return interval;
}

/* [x_(l), x_(n+1-l)] covers the median unless fewer than l samples fall on one side of it: coverage is
 * 1 - 2 P(Binomial(n, 1/2) < l), whatever the distribution. The largest l that still gives `confidence`. */
struct mt_interval mt_stats_median_interval(const double *x, size_t count, double confidence)
{
	double few[FEW];
	struct mt_interval interval = {-INFINITY, INFINITY};
	int sign;

	if (count == 0)
		return (struct mt_interval){NAN, NAN};
	double below = 0, log_half = (double)count * log(0.5), log_all = lgamma_r((double)count + 1, &sign);
	size_t l = 0;
	while (2 * (l + 1) <= count + 1) {
		below += exp(log_all - lgamma_r((double)l + 1, &sign) - lgamma_r((double)(count - l) + 1, &sign) + log_half);
		if (1 - 2 * below < confidence - 1e-12)
			break;
		l++;
	}
	if (l == 0)
		return interval; /* even the extremes are not wide enough */
	double *sorted = sorted_copy(x, count, few);
	if (!sorted)
		return (struct mt_interval){NAN, NAN};
	interval = (struct mt_interval){sorted[l - 1], sorted[count - l]};
	drop_copy(sorted, few);
	return interval;
}
