/* goodput: how often to save, and what failures leave.
 *
 * Interruptions come at random, one in M seconds on average. To do tau seconds of work and save it (C seconds) takes, with
 * R seconds for each start after an interruption (Daly 2006, doi:10.1016/j.future.2004.11.016, eq. 13),
 *
 *     T(tau) = M exp(R/M) (exp((tau + C)/M) - 1)        goodput = tau / T(tau)
 *
 * which has one greatest value; near tau = sqrt(2 C M) where C is much less than M. */
#include "tuner/scale.h"

#include <math.h>

double mt_goodput_frac(const struct mt_goodput *g, double interval_s)
{
	return interval_s / (g->mtbf_s * exp(g->restart_s / g->mtbf_s) * expm1((interval_s + g->checkpoint_s) / g->mtbf_s));
}

void mt_goodput_best(struct mt_goodput *g)
{
	const double golden = 0.6180339887498949;
	double low = log(1e-3 * (g->checkpoint_s + 1e-3)), high = log(50 * g->mtbf_s + 1);

	for (int i = 0; i < 200; i++) { /* over the logarithm: the function has one hill */
		double a = high - golden * (high - low), b = low + golden * (high - low);

		if (mt_goodput_frac(g, exp(a)) < mt_goodput_frac(g, exp(b)))
			low = a;
		else
			high = b;
	}
	g->interval_s = exp((low + high) / 2);
	g->frac = mt_goodput_frac(g, g->interval_s);
}
