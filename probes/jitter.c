/* jitter: how much a fixed piece of work differs from one repetition to the next, all ranks busy.
 * The work is integer arithmetic in registers: neither caches nor the network take part, so what is left is the system:
 * interrupts, other processes, hosts that steal time from virtual machines, clocks that change. */
#include "probes/parts.h"

#include "base/clock.h"
#include "base/stats.h"

#include <math.h>

#define ROUNDS 200000 /* about 0.3 ms: the length of a small kernel */

static enum mt_status spin(void *context, int repeats, double *seconds)
{
	volatile uint64_t *sink = context;
	uint64_t x = *sink | 1;
	double start_s = mt_clock_s();
	for (int64_t i = 0; i < (int64_t)ROUNDS * repeats; i++)
		x = x * 6364136223846793005ull + 1442695040888963407ull;
	*seconds = (mt_clock_s() - start_s) / repeats;
	*sink = x;
	return MT_OK;
}

enum mt_status mt_probe_jitter(struct mt_probe *probe, double share_s)
{
	volatile uint64_t sink = 1;
	struct mt_probe_work work = {.run = spin, .context = (void *)&sink, .spread = true};
	struct mt_probe_series series;
	MT_TRY(mt_probe_sample(probe, &work, share_s, &series));
	double median = mt_stats_median(series.own, (size_t)series.count);
	double frac = median > 0 ? mt_stats_mad(series.own, (size_t)series.count) / median : 0;
	MT_TRY(mt_comm_host_all_reduce(probe->world, &frac, 1, MT_MAX));
	probe->machine->step_jitter_frac = frac;
	return MT_OK;
}
