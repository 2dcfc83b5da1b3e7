/* fit: seconds = alpha + beta * bytes over the points of a curve, relative errors weighted alike.
 *
 * A curve that is no line (short messages pass a token bucket above its rate, caches end, the algorithm changes) is asked
 * through its points as far as they go; the line is needed for the way on. So there it rises as between the last two points,
 * and the residual still tells how little of a line the whole is. */
#include "probes/parts.h"

#include "base/stats.h"

#include <math.h>

#define LINE_RESIDUAL 0.1

void mt_probe_fit(struct mt_comm_curve *curve)
{
	int last = curve->points - 1;
	struct mt_fit fit = mt_stats_fit_line(curve->bytes, curve->seconds, NULL, (size_t)curve->points);
	if (curve->points == 1) /* a line needs two points: take latency as nothing, so that the point is met */
		fit = (struct mt_fit){0, curve->seconds[0] / curve->bytes[0], 0};
	if (curve->points > 2 && fit.residual_frac > LINE_RESIDUAL && curve->seconds[last] > curve->seconds[last - 1]) {
		fit.slope = (curve->seconds[last] - curve->seconds[last - 1]) / (curve->bytes[last] - curve->bytes[last - 1]);
		fit.intercept = fmax(curve->seconds[0], curve->seconds[last] - fit.slope * curve->bytes[last]);
	}
	curve->alpha_s = fit.intercept;
	curve->beta_s_per_byte = fit.slope;
	curve->residual_frac = fit.residual_frac;
}
