/* stats_fit: y = intercept + slope x, both at least zero: a latency and a time per byte. */
#include "base/stats.h"

#include <math.h>

static double weight(const double *y, const double *w, size_t i)
{
	if (w)
		return w[i];
	return y[i] != 0 ? 1 / (y[i] * y[i]) : 0;
}

static double weighted_error(const double *x, const double *y, const double *w, size_t count, double intercept, double slope)
{
	double sum = 0;
	for (size_t i = 0; i < count; i++) {
		double residual = intercept + slope * x[i] - y[i];
		sum += weight(y, w, i) * residual * residual;
	}
	return sum;
}

static double residual_frac(const double *x, const double *y, size_t count, const struct mt_fit *fit)
{
	double sum = 0;
	size_t used = 0;
	for (size_t i = 0; i < count; i++) {
		if (y[i] == 0)
			continue;
		double relative = (fit->intercept + fit->slope * x[i] - y[i]) / y[i];
		sum += relative * relative;
		used++;
	}
	return used ? sqrt(sum / (double)used) : NAN;
}

/* The free minimum when it is inside the quadrant; else, the error being convex, the better of the two edges' minima.
 * Sums are centred, since x in bytes and y in seconds are ten orders of magnitude apart. */
struct mt_fit mt_stats_fit_line(const double *x, const double *y, const double *w, size_t count)
{
	struct mt_fit fit = {NAN, NAN, NAN};
	double total = 0, x_sum = 0, y_sum = 0, xx = 0, xy = 0, xx_origin = 0, xy_origin = 0;

	for (size_t i = 0; i < count; i++) {
		double wi = weight(y, w, i);
		total += wi;
		x_sum += wi * x[i];
		y_sum += wi * y[i];
		xx_origin += wi * x[i] * x[i];
		xy_origin += wi * x[i] * y[i];
	}
	if (!(total > 0))
		return fit;
	double x_mean = x_sum / total, y_mean = y_sum / total;
	for (size_t i = 0; i < count; i++) {
		double wi = weight(y, w, i), dx = x[i] - x_mean;
		xx += wi * dx * dx;
		xy += wi * dx * (y[i] - y_mean);
	}
	/* all x equal: no slope can be told, the mean is all there is */
	fit.slope = xx > 1e-24 * xx_origin ? xy / xx : 0;
	fit.intercept = y_mean - fit.slope * x_mean;
	if (fit.slope < 0 || fit.intercept < 0) {
		double flat = fmax(y_mean, 0), steep = xx_origin > 0 ? fmax(xy_origin / xx_origin, 0) : 0;
		if (weighted_error(x, y, w, count, flat, 0) <= weighted_error(x, y, w, count, 0, steep)) {
			fit.intercept = flat;
			fit.slope = 0;
		} else {
			fit.intercept = 0;
			fit.slope = steep;
		}
	}
	fit.residual_frac = residual_frac(x, y, count, &fit);
	return fit;
}
