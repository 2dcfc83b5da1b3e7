/* memory: STREAM's triad a[i] = b[i] + s * c[i] (McCalpin 1995), 24 bytes an element: two reads and one write, the write's
 * own read not counted, as STREAM does. Once with all ranks of each host, once with one rank a host alone.
 *
 * The three arrays of all ranks of a host are meant to be four times its last-level cache, but at most 256 MiB a rank, and
 * less when the budget is short, as every page must first be made by the kernel (about 1 GB/s); the machine keeps their size, and
 * what it prints says when they fitted the cache and the rate is not the memory's. */
#include "probes/parts.h"

#include "base/clock.h"
#include "base/stats.h"

#include <math.h>
#include <stdlib.h>

#define MOST_BYTES        (256ll << 20)
#define LEAST_BYTES       (24ll << 20)
#define FAULT_BYTES_PER_S 1e9

struct triad {
	double *a, *b, *c;
	int64_t count;
	int threads;
	bool idle;
};

static void triad_once(struct triad *t)
{
	double *restrict a = t->a;
	const double *restrict b = t->b, *restrict c = t->c;
#pragma omp parallel for simd num_threads(t->threads) schedule(static)
	for (int64_t i = 0; i < t->count; i++)
		a[i] = b[i] + 3.0 * c[i];
}

static enum mt_status run_triad(void *context, int repeats, double *seconds)
{
	struct triad *t = context;
	*seconds = 0;
	if (t->idle)
		return MT_OK;
	double start_s = mt_clock_s();
	for (int r = 0; r < repeats; r++)
		triad_once(t);
	*seconds = (mt_clock_s() - start_s) / repeats;
	return MT_OK;
}

/* Bytes of this rank's three arrays: the same on all ranks. */
static int64_t plan_bytes(const struct mt_machine *machine, double share_s)
{
	int64_t bytes = LEAST_BYTES;
	for (int h = 0; h < machine->host_count; h++) {
		const struct mt_machine_host *host = &machine->hosts[h];
		int64_t wanted = 4 * host->l3_bytes * (host->sockets > 0 ? host->sockets : 1) / (host->ranks > 0 ? host->ranks : 1);
		if (wanted > bytes)
			bytes = wanted;
	}
	int64_t paid = (int64_t)fmax(LEAST_BYTES, fmin(MOST_BYTES, share_s / 4 * FAULT_BYTES_PER_S));
	if (bytes > paid)
		bytes = paid;
	if (bytes > machine->rank_memory_bytes / 4)
		bytes = machine->rank_memory_bytes / 4;
	return (bytes > 1 << 20 ? bytes : 1 << 20) / 24 * 24;
}

/* The rate of the slowest host in GB/s, each host's rate the sum over its ranks. */
static enum mt_status join_rates(struct mt_probe *probe, const struct mt_probe_series *series, int64_t bytes, double *gbps)
{
	const struct mt_machine *m = probe->machine;
	double own = mt_stats_median(series->own, (size_t)series->count);
	own = own > 0 ? (double)bytes / own * 1e-9 : 0;
	double *all = calloc((size_t)probe->size + (size_t)m->host_count, sizeof *all);
	if (!all)
		return mt_fail(MT_NOMEM, "probe: no memory for %d rates", probe->size);
	double *host = all + probe->size;
	enum mt_status st = mt_comm_host_all_gather(probe->world, &own, all, sizeof own);
	for (int r = 0; r < probe->size; r++)
		host[m->rank_host[r]] += all[r];
	*gbps = INFINITY;
	for (int h = 0; h < m->host_count; h++)
		*gbps = fmin(*gbps, host[h]);
	free(all);
	return st;
}

enum mt_status mt_probe_memory(struct mt_probe *probe, double share_s)
{
	struct mt_probe_series series;
	int64_t bytes = plan_bytes(probe->machine, share_s);
	struct triad t = {.count = bytes / 24, .threads = probe->threads};
	double *memory = aligned_alloc(64, (size_t)((bytes + 63) / 64 * 64));
	enum mt_status st =
		memory ? MT_OK : mt_fail(MT_NOMEM, "probe: no memory for the triad's arrays (%lld bytes)", (long long)bytes);
	MT_GOTO(out, mt_probe_agree(probe, st));
	t.a = memory, t.b = memory + t.count, t.c = memory + 2 * t.count;
#pragma omp parallel for num_threads(t.threads) schedule(static)
	for (int64_t i = 0; i < t.count; i++) /* first touch by the thread that uses it */
		t.a[i] = 0, t.b[i] = 1, t.c[i] = 2;

	struct mt_probe_work work = {.run = run_triad, .context = &t};
	MT_GOTO(out, mt_probe_sample(probe, &work, share_s / 2, &series));
	MT_GOTO(out, join_rates(probe, &series, bytes, &probe->machine->memory_gbps));
	work.passive = t.idle = mt_fabric_local_rank(probe->fabric) != 0;
	MT_GOTO(out, mt_probe_sample(probe, &work, share_s / 2, &series));
	MT_GOTO(out, join_rates(probe, &series, bytes, &probe->machine->memory_one_gbps));
	probe->machine->memory_triad_bytes = bytes;
out:
	free(memory);
	return st;
}
