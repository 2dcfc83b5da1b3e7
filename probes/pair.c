/* pair: latency and bandwidth between pairs of ranks by ping-pong, half a round trip.
 *
 * Pairs inside hosts come first, in steps (each host its own list, all hosts side by side). Then pairs between hosts, one
 * at a time as long as the budget allows: two pairs at once that cross one uplink would each see half of it. Past that, host
 * against host as in a round-robin tournament (circle method: H-1 rounds, each host once a round). In a world of at most 16
 * ranks every pair of ranks is measured if there is time; else the first ranks of two hosts stand for the others. When the
 * steps are too many for the budget, evenly spaced ones are taken; classes.c says what the others are taken for.
 *
 * The bandwidth is the slope between the two largest sizes. Buffers on the way (a token bucket's burst, a socket's) swallow
 * the first part of every message: of one of 512 KiB behind a burst of 128 KiB, bytes over time is a third too much. */
#include "probes/parts.h"

#include "base/clock.h"
#include "base/stats.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define EVERY_PAIR_WORLD 16
#define STEP_S           3e-3 /* less than this a step is not worth starting */
#define ALONE_STEP_S     0.2  /* of a pair between hosts alone: enough for slow links */
#define FIRST_BYTES      (64 << 10)
#define FACTOR           4         /* between sizes */
#define FLOOR_BYTES      (1 << 20) /* so far the sizes go beyond the share of the time too, while one takes below FLOOR_S */
#define FLOOR_S          0.25

struct pairs {
	struct mt_probe *probe;
	int *by_host;                        /* owned: ranks, host by host */
	int *first;                          /* owned: host_count + 1 offsets into by_host */
	int host, local;                     /* this rank's place */
	int near_steps, far_rounds, far_sub; /* sub-steps a round: every pair of ranks of two hosts, or one */
	bool alone;                          /* a round is one pair of hosts, not a round of the tournament */
	void *memory;                        /* on the device */
	int partner;
	int64_t bytes;
};

static int local_ranks(const struct pairs *p, int host)
{
	return p->first[host + 1] - p->first[host];
}

/* Opponent of a in round r of n players, n even. */
static int opponent(int a, int r, int n)
{
	if (a == n - 1)
		return r;
	int b = ((2 * r - a) % (n - 1) + (n - 1)) % (n - 1);
	return b == a ? n - 1 : b;
}

/* The `index`-th pair i < j of n, in order; false past the last. */
static bool nth_pair(int index, int n, int *i, int *j)
{
	for (*i = 0; *i < n - 1; ++*i) {
		if (index < n - 1 - *i) {
			*j = *i + 1 + index;
			return true;
		}
		index -= n - 1 - *i;
	}
	return false;
}

/* The host that this rank's host plays with in a round, -1 for none. */
static int host_against(const struct pairs *p, int round)
{
	int hosts = p->probe->machine->host_count, i, j;
	if (!p->alone) {
		int other = opponent(p->host, round, hosts + hosts % 2);
		return other < hosts ? other : -1;
	}
	if (!nth_pair(round, hosts, &i, &j) || (p->host != i && p->host != j))
		return -1;
	return p->host == i ? j : i;
}

/* World rank this rank plays with in a step, -1 for none. */
static int partner_at(const struct pairs *p, int step)
{
	const int *mine = p->by_host + p->first[p->host];
	int i, j;
	if (step < p->near_steps) {
		if (!nth_pair(step, local_ranks(p, p->host), &i, &j) || (p->local != i && p->local != j))
			return -1;
		return mine[p->local == i ? j : i];
	}
	int round = (step - p->near_steps) / p->far_sub, sub = (step - p->near_steps) % p->far_sub;
	int other = host_against(p, round);
	if (other < 0)
		return -1;
	int low = p->host < other ? p->host : other, high = p->host < other ? other : p->host;
	i = sub / local_ranks(p, high);
	j = sub % local_ranks(p, high);
	if (i >= local_ranks(p, low) || p->local != (p->host == low ? i : j))
		return -1;
	return p->by_host[p->first[other] + (p->host == low ? j : i)];
}

/* Pairs of hosts alone while there is time for them, and every pair of ranks of a small world. */
static void plan_far(struct pairs *p, int most, double share_s)
{
	const struct mt_machine *m = p->probe->machine;
	double hosts = m->host_count, alone = hosts * (hosts - 1) / 2, sub = m->world <= EVERY_PAIR_WORLD ? most * most : 1;
	p->alone = (p->near_steps + alone) * ALONE_STEP_S <= share_s;
	if (p->alone && (p->near_steps + alone * sub) * ALONE_STEP_S > share_s)
		sub = 1;
	p->far_rounds = m->host_count < 2 ? 0 : p->alone ? (int)alone : m->host_count + m->host_count % 2 - 1;
	p->far_sub = (int)sub;
}

static enum mt_status plan(struct pairs *p, double share_s)
{
	const struct mt_machine *m = p->probe->machine;
	p->by_host = malloc((size_t)m->world * sizeof *p->by_host);
	p->first = calloc((size_t)m->host_count + 1, sizeof *p->first);
	if (!p->by_host || !p->first)
		return mt_fail(MT_NOMEM, "probe: no memory for %d ranks", m->world);
	int at = 0, most = 1;
	for (int h = 0; h < m->host_count; h++) {
		for (int r = 0; r < m->world; r++) {
			if (m->rank_host[r] != h)
				continue;
			if (r == p->probe->rank)
				p->host = h, p->local = at - p->first[h];
			p->by_host[at++] = r;
		}
		p->first[h + 1] = at;
		most = local_ranks(p, h) > most ? local_ranks(p, h) : most;
	}
	p->near_steps = most * (most - 1) / 2;
	plan_far(p, most, share_s);
	return MT_OK;
}

/* Half a round trip. The lower rank serves. The message is two bytes at least: the smallest element type of a fabric. */
static enum mt_status ping_pong(void *context, int repeats, double *seconds)
{
	struct pairs *p = context;
	struct mt_probe *probe = p->probe;
	enum mt_dtype dtype = p->bytes < 4 ? MT_BF16 : MT_F32;
	int64_t count = p->bytes < 4 ? 1 : p->bytes / 4;
	*seconds = 0;
	if (p->partner < 0)
		return MT_OK;
	double start_s = mt_clock_s();
	for (int r = 0; r < repeats; r++) {
		if (probe->rank < p->partner)
			MT_TRY(mt_comm_send(probe->world, probe->stream, p->memory, count, dtype, p->partner));
		MT_TRY(mt_comm_recv(probe->world, probe->stream, p->memory, count, dtype, p->partner));
		if (probe->rank > p->partner)
			MT_TRY(mt_comm_send(probe->world, probe->stream, p->memory, count, dtype, p->partner));
	}
	MT_TRY(mt_stream_synchronize(probe->stream));
	*seconds = (mt_clock_s() - start_s) / repeats / 2;
	return MT_OK;
}

/* GB/s between two sizes, and by the larger one alone where latency still counts. */
static double slope_gbps(double bytes, double seconds, double last_bytes, double last_s)
{
	if (last_bytes > 0 && seconds > 2 * last_s)
		return (bytes - last_bytes) / (seconds - last_s) * 1e-9;
	return bytes / seconds * 1e-9;
}

/* One step: latency, then growing messages as long as the next one fits the step's share of the time. */
static enum mt_status measure_step(struct pairs *p, double share_s, double *latency_us, double *gbps)
{
	struct mt_probe_series series;
	struct mt_probe_work work = {.run = ping_pong, .context = p, .passive = p->partner < 0};
	double end_s = p->probe->elapsed_s + share_s, slowest = 0, own_s = 0;
	p->bytes = 1;
	MT_TRY(mt_probe_sample(p->probe, &work, 0.25 * share_s, &series));
	if (p->partner >= 0)
		*latency_us = 1e6 * mt_stats_median(series.own, (size_t)series.count);
	int64_t most = p->probe->options->most_bytes / 4 * 4;
	for (int64_t bytes = most < FIRST_BYTES ? most : FIRST_BYTES, last = 0; bytes <= most; last = bytes, bytes *= FACTOR) {
		double predicted_s = FACTOR * slowest, left_s = fmax(0, end_s - p->probe->elapsed_s);
		bool floor = bytes <= FLOOR_BYTES && predicted_s < FLOOR_S;
		if (last && !floor && 2 * 3 * predicted_s > left_s) /* warm-up and two samples, there and back */
			break;
		p->bytes = bytes;
		MT_TRY(mt_probe_sample(p->probe, &work, left_s / 2, &series));
		slowest = mt_stats_median(series.slowest, (size_t)series.count);
		if (p->partner < 0)
			continue;
		double seconds = mt_stats_median(series.own, (size_t)series.count);
		*gbps = slope_gbps((double)bytes, seconds, (double)last, own_s);
		own_s = seconds;
	}
	return MT_OK;
}

static enum mt_status run_steps(struct pairs *p, double share_s, double *latency_us, double *gbps)
{
	int steps = p->near_steps + p->far_rounds * p->far_sub, affordable = (int)fmin(INT_MAX / 2, share_s / STEP_S);
	if (steps > affordable) { /* one pair for two hosts; the first and the last step at least: inside and between hosts */
		p->far_sub = 1;
		steps = p->near_steps + p->far_rounds;
	}
	int most = steps < affordable ? steps : affordable;
	most = most < 2 ? (steps < 2 ? steps : 2) : most;
	double end_s = p->probe->elapsed_s + share_s;
	for (int i = 0; i < most; i++) {
		double latency = 0, rate = 0;
		p->partner = partner_at(p, most > 1 ? (int)((int64_t)i * (steps - 1) / (most - 1)) : 0);
		MT_TRY(measure_step(p, fmax(0, end_s - p->probe->elapsed_s) / (most - i), &latency, &rate));
		if (p->partner >= 0)
			latency_us[p->partner] = latency, gbps[p->partner] = rate;
	}
	return MT_OK;
}

/* The lower rank's numbers count for both. */
static void mirror(double *matrix, int world)
{
	for (int a = 0; a < world; a++)
		for (int b = 0; b <= a; b++)
			matrix[a * world + b] = a == b ? 0 : matrix[b * world + a];
}

enum mt_status mt_probe_pairs(struct mt_probe *probe, double share_s)
{
	struct pairs p = {.probe = probe, .partner = -1};
	struct mt_arena *arena = NULL;
	size_t n = (size_t)probe->size, bytes = (size_t)(probe->options->most_bytes > 4096 ? probe->options->most_bytes : 4096);
	double *own = calloc(2 * n, sizeof *own), *all = calloc(2 * n * n, sizeof *all), zero[64] = {0};
	enum mt_status st = own && all ? MT_OK : mt_fail(MT_NOMEM, "probe: no memory for %zu pairs", n * n);
	if (st == MT_OK)
		st = plan(&p, share_s);
	if (st == MT_OK)
		st = mt_arena_create(&arena, "probe pairs", mt_device_memory(probe->device), bytes + (1 << 20));
	if (st == MT_OK)
		st = mt_arena_alloc(arena, bytes, &p.memory);
	for (size_t at = 0; st == MT_OK && at < bytes; at += sizeof zero) /* touch the pages before they are timed */
		st = mt_device_upload(probe->device, probe->stream, (char *)p.memory + at, zero,
				      bytes - at < sizeof zero ? bytes - at : sizeof zero);
	MT_GOTO(out, mt_probe_agree(probe, st));
	MT_GOTO(out, run_steps(&p, share_s, own, own + n));
	MT_GOTO(out, mt_comm_host_all_gather(probe->world, own, all, n * sizeof *own));
	MT_GOTO(out, mt_comm_host_all_gather(probe->world, own + n, all + n * n, n * sizeof *own));
	mirror(all, probe->size);
	mirror(all + n * n, probe->size);
	struct mt_probe_pairs pairs = {probe->size, all, all + n * n};
	st = mt_probe_classify(probe->machine, &pairs);
out:
	mt_arena_free(arena, p.memory);
	mt_arena_destroy(arena);
	free(p.by_host);
	free(p.first);
	free(own);
	free(all);
	return st;
}
