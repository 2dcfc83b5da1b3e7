/* sample: the loop that decides how often a piece of work is repeated, the same way on every rank. */
#include "probes/parts.h"

#include "base/clock.h"
#include "base/stats.h"

#include <math.h>

#define SAMPLE_S     200e-6 /* a sample is at least this long, so that clocks and the barrier's skew weigh little */
#define MOST_REPEATS 256

enum { SECONDS, ELAPSED, FAILED, AGREED };

/* One all-reduce: the slowest time, rank 0's clock, and whether any rank failed. It is a barrier too. */
static enum mt_status agree(struct mt_probe *probe, enum mt_status own, double *seconds)
{
	double a[AGREED] = {*seconds, probe->rank == 0 ? mt_clock_s() - probe->start_s : 0.0, own == MT_OK ? 0.0 : 1.0};
	enum mt_status st = mt_comm_host_all_reduce(probe->world, a, AGREED, MT_MAX);
	if (own != MT_OK)
		return own;
	if (st != MT_OK)
		return st;
	*seconds = a[SECONDS];
	probe->elapsed_s = a[ELAPSED];
	if (a[FAILED] > 0)
		return mt_fail(MT_FAILED, "probe: another rank failed; its message says why");
	return MT_OK;
}

enum mt_status mt_probe_agree(struct mt_probe *probe, enum mt_status status)
{
	double seconds = 0;
	return agree(probe, status, &seconds);
}

double mt_probe_left_s(const struct mt_probe *probe)
{
	return fmax(0, probe->options->budget_s - probe->elapsed_s);
}

/* Depends on agreed numbers only. */
static bool enough(const struct mt_probe_work *work, struct mt_probe_series *series, double spent_s, double share_s)
{
	int least = series->warm_s > share_s ? 1 : 3;
	if (series->count == MT_PROBE_SAMPLES || (series->count >= least && spent_s >= share_s))
		return true;
	if (work->spread || series->count < 6) /* fewer samples have no 95% interval: 1 - 2/2^5 < 0.95 */
		return false;
	struct mt_interval i = mt_stats_median_interval(series->slowest, (size_t)series->count, 0.95);
	series->narrow = i.hi - i.lo < 2 * 0.02 * mt_stats_median(series->slowest, (size_t)series->count);
	return series->narrow;
}

enum mt_status mt_probe_sample(struct mt_probe *probe, const struct mt_probe_work *work, double share_s,
			       struct mt_probe_series *series)
{
	double begin_s = probe->elapsed_s, seconds = 0;
	*series = (struct mt_probe_series){.repeats = 1};
	MT_TRY(agree(probe, work->run(work->context, 1, &seconds), &seconds));
	series->warm_s = seconds;
	series->repeats = (int)fmin(MOST_REPEATS, fmax(1, ceil(SAMPLE_S / fmax(seconds, 1e-7))));
	do {
		double own = 0;
		if (work->passive)
			mt_clock_sleep(0.8 * seconds * series->repeats);
		enum mt_status st = work->run(work->context, series->repeats, &own);
		seconds = own;
		MT_TRY(agree(probe, st, &seconds));
		series->own[series->count] = own;
		series->slowest[series->count++] = seconds;
	} while (!enough(work, series, probe->elapsed_s - begin_s, share_s));
	return MT_OK;
}
