/* base/stats: against brute force, and intervals that cover as often as they say. */
#define _GNU_SOURCE
#include "base/random.h"
#include "base/stats.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define assert_near(a, b, tolerance)                                                                                               \
	do {                                                                                                                       \
		double a_ = (a), b_ = (b);                                                                                         \
		if (!(fabs(a_ - b_) <= (tolerance)))                                                                               \
			fail_msg("%s = %.17g, expected %.17g", #a, a_, b_);                                                        \
	} while (0)

/* Samples with ties, of any sign. */
static void fill(double *x, size_t count, uint64_t seed)
{
	for (size_t i = 0; i < count; i++)
		x[i] = (double)mt_random_integer(seed, 1, i, 50) / 4 - 3;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

/* The median by definition: the middle of the values, found by counting for each how many are below. */
static double median_by_counting(const double *x, size_t count)
{
	double middle[2] = {0};
	for (int side = 0; side < 2; side++) {
		size_t wanted = side ? count / 2 : (count - 1) / 2;
		for (size_t i = 0; i < count; i++) {
			size_t below = 0, equal = 0;
			for (size_t j = 0; j < count; j++) {
				below += x[j] < x[i];
				equal += x[j] == x[i];
			}
			if (below <= wanted && wanted < below + equal)
				middle[side] = x[i];
		}
	}
	return (middle[0] + middle[1]) / 2;
}

static void medians_equal_brute_force(void **state)
{
	double x[300], kept[300], deviations[300];

	(void)state;
	for (size_t count = 1; count < 300; count += 1 + count / 10) {
		fill(x, count, count);
		memcpy(kept, x, sizeof x);
		double median = median_by_counting(x, count);
		assert_near(mt_stats_median(x, count), median, 1e-15);
		for (size_t i = 0; i < count; i++)
			deviations[i] = fabs(x[i] - median);
		assert_near(mt_stats_mad(x, count), 1.4826 * median_by_counting(deviations, count), 1e-14);
		assert_memory_equal(x, kept, count * sizeof *x);
	}
}

static void quantiles_are_type_7(void **state)
{
	/* R: quantile(c(3, 1, 4, 1, 5, 9, 2, 6), c(0, .1, .25, .5, .75, .9, 1)) */
	static const double x[] = {3, 1, 4, 1, 5, 9, 2, 6}, q[] = {0, .1, .25, .5, .75, .9, 1};
	static const double expected[] = {1, 1, 1.75, 3.5, 5.25, 6.9, 9};

	(void)state;
	for (int i = 0; i < 7; i++)
		assert_near(mt_stats_quantile(x, 8, q[i]), expected[i], 1e-12);
}

static void large_samples_work_too(void **state)
{
	enum { COUNT = 5001 };
	double *x = malloc(COUNT * sizeof *x);

	(void)state;
	assert_non_null(x);
	for (uint64_t i = 0; i < COUNT; i++)
		x[i] = (double)mt_random_permute(1, 1, i, COUNT);
	assert_near(mt_stats_median(x, COUNT), 2500, 0);
	assert_near(mt_stats_mean(x, COUNT), 2500, 1e-9);
	free(x);
}

static void no_samples_give_nan(void **state)
{
	(void)state;
	assert_true(isnan(mt_stats_median(NULL, 0)));
	assert_true(isnan(mt_stats_mad(NULL, 0)));
	assert_true(isnan(mt_stats_mean(NULL, 0)));
	assert_true(isnan(mt_stats_quantile(NULL, 0, 0.5)));
	assert_true(isnan(mt_stats_bootstrap(NULL, 0, 0.9, 100, 1).lo));
	assert_true(isnan(mt_stats_median_interval(NULL, 0, 0.9).hi));
	assert_true(isnan(mt_stats_fit_line(NULL, NULL, NULL, 0).slope));
}

/* Standard table of order-statistic ranks for the median. */
static void median_intervals_are_the_tabled_order_statistics(void **state)
{
	static const struct {
		size_t count, rank;
		double confidence;
	} table[] = {{5, 1, 0.9},    {6, 1, 0.95},   {10, 2, 0.95},   {20, 6, 0.95}, {25, 8, 0.95},
		     {30, 10, 0.95}, {50, 18, 0.95}, {100, 40, 0.95}, {20, 4, 0.99}};
	double x[100];

	(void)state;
	for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
		for (uint64_t j = 0; j < table[i].count; j++)
			x[j] = 1 + (double)mt_random_permute(3, i, j, table[i].count);
		struct mt_interval interval = mt_stats_median_interval(x, table[i].count, table[i].confidence);
		assert_near(interval.lo, (double)table[i].rank, 0);
		assert_near(interval.hi, (double)(table[i].count + 1 - table[i].rank), 0);
	}
	assert_true(isinf(mt_stats_median_interval(x, 4, 0.9).hi));
	assert_true(isinf(mt_stats_median_interval(x, 1, 0.9).lo));
}

/* Of 400 samples of 25 normals, the interval holds the true median in at least 90%, four standard errors allowed. */
static void intervals_cover_as_often_as_they_say(void **state)
{
	enum { TRIALS = 400, COUNT = 25 };
	int covered = 0, covered_bootstrap = 0;
	double least = 0.9 - 4 * sqrt(0.9 * 0.1 / TRIALS);

	(void)state;
	for (uint64_t trial = 0; trial < TRIALS; trial++) {
		double x[COUNT];
		for (uint64_t i = 0; i < COUNT; i++)
			x[i] = 10 + mt_random_normal(42, trial, i);
		struct mt_interval a = mt_stats_median_interval(x, COUNT, 0.9), b = mt_stats_bootstrap(x, COUNT, 0.9, 300, trial);
		covered += a.lo <= 10 && 10 <= a.hi;
		covered_bootstrap += b.lo <= 10 && 10 <= b.hi;
		assert_true(b.lo <= b.hi);
	}
	assert_true(covered >= least * TRIALS);
	assert_true(covered_bootstrap >= least * TRIALS);
}

/* The same draws, their medians taken by sorting. */
static void bootstrap_equals_brute_force(void **state)
{
	enum { RESAMPLES = 200 };

	(void)state;
	for (size_t count = 1; count < 20; count++) {
		double x[20], sorted[20], draws[20], medians[RESAMPLES];
		fill(x, count, 100 + count);
		memcpy(sorted, x, sizeof x);
		qsort(sorted, count, sizeof *sorted, compare);
		for (size_t r = 0; r < RESAMPLES; r++) {
			for (size_t i = 0; i < count; i++)
				draws[i] = sorted[mt_random_integer(7, 0x626f6f74, r * count + i, count)];
			medians[r] = mt_stats_median(draws, count);
		}
		struct mt_interval interval = mt_stats_bootstrap(x, count, 0.8, RESAMPLES, 7);
		assert_near(interval.lo, mt_stats_quantile(medians, RESAMPLES, 0.1), 1e-12);
		assert_near(interval.hi, mt_stats_quantile(medians, RESAMPLES, 0.9), 1e-12);
	}
}

static void fit_recovers_latency_and_bandwidth(void **state)
{
	double x[20], y[20];
	const double alpha = 5e-6, beta = 1 / 12e9;

	(void)state;
	for (int i = 0; i < 20; i++) {
		x[i] = pow(2, 10 + i);
		y[i] = alpha + beta * x[i];
	}
	struct mt_fit fit = mt_stats_fit_line(x, y, NULL, 20);
	assert_near(fit.intercept / alpha, 1, 1e-9);
	assert_near(fit.slope / beta, 1, 1e-9);
	assert_near(fit.residual_frac, 0, 1e-9);
	for (int i = 0; i < 20; i++)
		y[i] *= 1 + 0.03 * mt_random_normal(1, 1, (uint64_t)i);
	fit = mt_stats_fit_line(x, y, NULL, 20);
	assert_near(fit.intercept / alpha, 1, 0.1);
	assert_near(fit.slope / beta, 1, 0.1);
	assert_near(fit.residual_frac, 0.03, 0.02);
}

static double error_of(const double *x, const double *y, const double *w, size_t count, double a, double b)
{
	double sum = 0;
	for (size_t i = 0; i < count; i++)
		sum += w[i] * (a + b * x[i] - y[i]) * (a + b * x[i] - y[i]);
	return sum;
}

/* No pair of non-negative coefficients on a fine grid around is better, whatever the data. */
static void fit_is_the_best_in_the_quadrant(void **state)
{
	(void)state;
	for (uint64_t seed = 0; seed < 300; seed++) {
		double x[8], y[8], w[8];
		for (uint64_t i = 0; i < 8; i++) {
			x[i] = mt_random_uniform(seed, 1, i) * 10;
			y[i] = mt_random_normal(seed, 2, i) + (seed % 3) * 2 - (double)(seed % 5) * x[i] / 4;
			w[i] = 0.1 + mt_random_uniform(seed, 3, i);
		}
		struct mt_fit fit = mt_stats_fit_line(x, y, w, 8);
		double best = error_of(x, y, w, 8, fit.intercept, fit.slope);
		assert_true(fit.intercept >= 0 && fit.slope >= 0);
		for (int i = -10; i <= 10; i++)
			for (int j = -10; j <= 10; j++)
				assert_true(error_of(x, y, w, 8, fmax(0, fit.intercept + 0.05 * i),
						     fmax(0, fit.slope + 0.02 * j)) >= best - 1e-9);
	}
}

static void fit_of_equal_x_is_their_mean(void **state)
{
	(void)state;
	struct mt_fit fit = mt_stats_fit_line((double[]){4, 4}, (double[]){1, 3}, (double[]){1, 1}, 2);
	assert_near(fit.intercept, 2, 1e-12);
	assert_near(fit.slope, 0, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(medians_equal_brute_force),
		cmocka_unit_test(quantiles_are_type_7),
		cmocka_unit_test(large_samples_work_too),
		cmocka_unit_test(no_samples_give_nan),
		cmocka_unit_test(median_intervals_are_the_tabled_order_statistics),
		cmocka_unit_test(intervals_cover_as_often_as_they_say),
		cmocka_unit_test(bootstrap_equals_brute_force),
		cmocka_unit_test(fit_recovers_latency_and_bandwidth),
		cmocka_unit_test(fit_is_the_best_in_the_quadrant),
		cmocka_unit_test(fit_of_equal_x_is_their_mean),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
