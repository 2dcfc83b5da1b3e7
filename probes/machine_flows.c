/* machine_flows: how long messages take that are under way at once.
 *
 * Bandwidth in a hierarchy of links is an ultrametric: ranks that are nearer to one another than a class are an island of it (a
 * host, whatever its memory does, or a rack), and what leaves or enters an island at that class or a slower one shares the island's
 * link, of which one pair alone has measured the bandwidth. Links are full duplex: what leaves does not slow what enters. A host
 * has as many links as NICs. */
#include "probes/machine_flows.h"

#include <math.h>
#include <stdlib.h>

/* Without a class a pair: the fastest is that of two ranks of one host, the slowest that between hosts. */
static int near_class(const struct mt_machine *m)
{
	int found = 0;

	for (int i = 1; i < m->class_count; i++)
		found = m->classes[i].bandwidth_gbps > m->classes[found].bandwidth_gbps ? i : found;
	return found;
}

static int far_class(const struct mt_machine *m)
{
	int found = 0;

	for (int i = 1; i < m->class_count; i++)
		found = m->classes[i].bandwidth_gbps < m->classes[found].bandwidth_gbps ? i : found;
	return found;
}

static int class_of(const struct mt_machine *m, int a, int b)
{
	if (m->pair_class)
		return m->pair_class[(int64_t)a * m->world + b];
	return m->rank_host[a] == m->rank_host[b] ? near_class(m) : far_class(m);
}

static bool within_hosts(const struct mt_machine *m, int level)
{
	for (int a = 0; a < m->world; a++) {
		for (int b = 0; b < a; b++) {
			if (m->rank_host[a] == m->rank_host[b] && m->pair_class[(int64_t)a * m->world + b] == level)
				return true;
		}
	}
	return false;
}

/* island[r]: the least rank that is nearer to r than the class. */
static void find_by_pairs(const struct mt_machine *m, int level, int *island)
{
	bool within = within_hosts(m, level);

	for (int r = 0; r < m->world; r++) {
		const int *class = m->pair_class + (int64_t)r * m->world;

		island[r] = r;
		for (int q = 0; q < r && island[r] == r; q++) {
			bool faster = m->classes[class[q]].bandwidth_gbps > m->classes[level].bandwidth_gbps;
			bool same_host = m->rank_host[q] == m->rank_host[r];

			if (within ? same_host && faster : same_host || faster)
				island[r] = q;
		}
	}
}

/* Without a class a pair hosts are the islands of the slowest class; classes between it and the fastest are no pair's. first: an
 * entry a host. */
static void find_by_hosts(const struct mt_machine *m, int level, int *first, int *island)
{
	bool across = level == far_class(m), within = level == near_class(m);

	for (int h = 0; h < m->host_count; h++)
		first[h] = -1;
	for (int r = 0; r < m->world; r++) {
		int *of_host = &first[m->rank_host[r]];

		*of_host = *of_host < 0 ? r : *of_host;
		island[r] = across ? *of_host : within ? r : 0;
	}
}

enum mt_status mt_machine_find_islands(struct mt_machine *m)
{
	int *first;

	free(m->islands);
	m->islands = NULL;
	if (m->class_count == 0 || m->host_count < 2)
		return MT_OK;
	m->islands = malloc((size_t)m->class_count * (size_t)m->world * sizeof *m->islands);
	first = malloc((size_t)m->host_count * sizeof *first);
	if (!m->islands || !first) {
		free(first);
		return mt_fail(MT_NOMEM, "no memory for the islands of %d ranks", m->world);
	}
	for (int level = 0; level < m->class_count; level++) {
		int *island = m->islands + (int64_t)level * m->world;

		if (m->pair_class)
			find_by_pairs(m, level, island);
		else
			find_by_hosts(m, level, first, island);
	}
	free(first);
	return MT_OK;
}

/* Where a rank's message goes in a pattern; -1: it sends none. */
static int destination(const struct mt_machine *m, const struct mt_flows *f, int rank)
{
	int span = f->size * f->stride, position = rank / f->stride % f->size, to = -1;

	if (rank - rank % span + span > m->world)
		return -1;
	switch (f->pattern) {
	case MT_FLOWS_EDGE:
		to = position == f->from ? f->to : -1;
		break;
	case MT_FLOWS_RING:
		to = (position + 1) % f->size;
		break;
	case MT_FLOWS_EVEN_PAIRS:
		to = position % 2 == 0 && position + 1 < f->size ? position + 1 : -1;
		break;
	case MT_FLOWS_ODD_PAIRS: /* the first also sends to the last, where that has no other partner */
		if (position % 2 == 1)
			to = position + 1 < f->size ? position + 1 : -1;
		else if (position == 0 && f->size % 2 == 0)
			to = f->size - 1;
		break;
	}
	return to < 0 ? -1 : rank + (to - position) * f->stride;
}

/* Whether a message goes over the links of a level: between its islands, and not by a faster way. */
static bool crosses(const struct mt_machine *m, int level, int a, int b)
{
	const int *island = m->islands + (int64_t)level * m->world;

	return island[a] != island[b] && m->classes[level].bandwidth_gbps >= m->classes[class_of(m, a, b)].bandwidth_gbps;
}

/* Slows the flows that cross the islands of one level. count: 3 a rank, zero. */
static void cross(const struct mt_machine *m, const struct mt_flows *f, int level, int *count, double *s_per_byte)
{
	const int *island = m->islands + (int64_t)level * m->world;
	int *leaving = count, *entering = count + m->world, *beyond = count + 2 * m->world;
	double gbps = m->classes[level].bandwidth_gbps;

	for (int r = 0; r < m->world; r++) {
		int to = destination(m, f, r);

		beyond[island[r]] |= m->rank_host[r] != m->rank_host[island[r]];
		if (to >= 0 && crosses(m, level, r, to)) {
			leaving[island[r]]++;
			entering[island[to]]++;
		}
	}
	for (int r = 0; r < m->world && gbps > 0; r++) {
		int to = destination(m, f, r), links = 1;
		double most;

		if (to < 0 || !crosses(m, level, r, to))
			continue;
		most = fmax(leaving[island[r]], entering[island[to]]);
		if (!beyond[island[r]] && m->hosts[m->rank_host[r]].nics > 1)
			links = m->hosts[m->rank_host[r]].nics;
		*s_per_byte = fmax(*s_per_byte, fmax(1, most / links) / (gbps * 1e9));
	}
}

struct mt_flow_cost mt_machine_flows(const struct mt_machine *m, const struct mt_flows *flows)
{
	struct mt_flow_cost cost = {0};
	int *count = NULL;

	if (!m->islands || flows->stride < 1 || flows->size < 2 || (int64_t)flows->size * flows->stride > m->world)
		return cost;
	count = malloc(3 * (size_t)m->world * sizeof *count);
	for (int level = 0; level < m->class_count && count; level++) {
		for (int i = 0; i < 3 * m->world; i++)
			count[i] = 0;
		cross(m, flows, level, count, &cost.s_per_byte);
	}
	for (int r = 0; r < m->world && count; r++) {
		int to = destination(m, flows, r);

		if (to >= 0)
			cost.latency_s = fmax(cost.latency_s, m->classes[class_of(m, r, to)].latency_us * 1e-6);
	}
	free(count);
	return cost;
}
