/* fit: seconds = alpha + beta * bytes over the points of a curve, relative errors weighted alike. */
#include "probes/parts.h"

#include "base/stats.h"

void mt_probe_fit(struct mt_comm_curve *curve)
{
	struct mt_fit fit = mt_stats_fit_line(curve->bytes, curve->seconds, NULL, (size_t)curve->points);
	if (curve->points == 1) /* a line needs two points: take latency as nothing, so that the point is met */
		fit = (struct mt_fit){0, curve->seconds[0] / curve->bytes[0], 0};
	curve->alpha_s = fit.intercept;
	curve->beta_s_per_byte = fit.slope;
	curve->residual_frac = fit.residual_frac;
}
