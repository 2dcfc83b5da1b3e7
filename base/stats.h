/* stats: what a handful of timings say. Robust by default: medians, never means of noisy samples. */
#ifndef MT_BASE_STATS_H
#define MT_BASE_STATS_H

#include <stddef.h>
#include <stdint.h>

/* All take unsorted samples and leave them as they are. count == 0 gives NaN. */
double mt_stats_median(const double *x, size_t count);
double mt_stats_quantile(const double *x, size_t count, double q); /* linear interpolation (type 7) */
double mt_stats_mad(const double *x, size_t count);                /* median |x - median|, times 1.4826 */
double mt_stats_mean(const double *x, size_t count);

struct mt_interval {
	double lo, hi;
};

/* Percentile bootstrap of the median at `confidence` (0.9, say), `resamples` draws from Philox with `seed`. */
struct mt_interval mt_stats_bootstrap(const double *x, size_t count, double confidence, int resamples, uint64_t seed);
/* Distribution-free interval of the median from order statistics (no resampling): for loops that decide when to stop. Infinite
 * when so few samples cannot give that confidence (0.9 needs 5, 0.95 needs 6). */
struct mt_interval mt_stats_median_interval(const double *x, size_t count, double confidence);

/* Timings of one and the same work, which other work on the machine can only lengthen: those longer than 1 + this times the
 * shortest count as disturbed. */
#define MT_DISTURBED_FRAC 0.05

struct mt_fit {
	double intercept, slope;
	double residual_frac; /* root mean square of (fit - y) / y */
};

/* y = intercept + slope * x by weighted least squares (w NULL: 1/y^2, so that relative errors count); intercept and
 * slope are kept >= 0. */
struct mt_fit mt_stats_fit_line(const double *x, const double *y, const double *w, size_t count);

#endif
