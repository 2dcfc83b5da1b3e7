/* classes: sorts pairs of ranks into classes of alike bandwidth. Pairs on one host are one class, by the hosts' names. The
 * others are put in order of bandwidth and cut where one is more than 25% above the next; the noise of a measurement stays
 * well below that, the steps of a network (rack, spine, a slow uplink) above. */
#include "probes/machine_flows.h"
#include "probes/parts.h"

#include "base/stats.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define CUT_RATIO    1.25
#define MOST_CLASSES 8

struct ranked {
	double gbps;
	int a, b;
};

static int faster_first(const void *x, const void *y)
{
	const struct ranked *a = x, *b = y;
	if (a->gbps != b->gbps)
		return a->gbps > b->gbps ? -1 : 1;
	return a->a != b->a ? a->a - b->a : a->b - b->b; /* the same order on every rank */
}

static bool one_host(const struct mt_machine *m, int a, int b)
{
	return m->rank_host[a] == m->rank_host[b];
}

static void set_class(struct mt_machine *m, int a, int b, int class)
{
	m->pair_class[a * m->world + b] = m->pair_class[b * m->world + a] = class;
}

/* Number of clusters of the sorted bandwidths when cut at `ratio`. */
static int count_clusters(const struct ranked *sorted, int count, double ratio)
{
	int clusters = count > 0;
	for (int i = 1; i < count; i++)
		clusters += sorted[i - 1].gbps > ratio * sorted[i].gbps;
	return clusters;
}

/* Classes `first`.. for the measured pairs between hosts; returns how many. */
static int cut_clusters(struct mt_machine *m, const struct ranked *sorted, int count, int first)
{
	double ratio = CUT_RATIO;
	int class = first;
	while (count_clusters(sorted, count, ratio) > MOST_CLASSES - first)
		ratio *= 1.1;
	for (int i = 0; i < count; i++) {
		class += i > 0 && sorted[i - 1].gbps > ratio * sorted[i].gbps;
		set_class(m, sorted[i].a, sorted[i].b, class);
	}
	return count > 0 ? class - first + 1 : 0;
}

/* Pairs that were not measured: those on one host are alike; others take the slowest class measured between the same two
 * hosts, or the slowest of all when there is none. */
static enum mt_status fill_unmeasured(struct mt_machine *m, int first, int slowest)
{
	int hosts = m->host_count;
	int *between = malloc((size_t)hosts * (size_t)hosts * sizeof *between);
	if (!between)
		return mt_fail(MT_NOMEM, "probe: no memory for %d hosts", hosts);
	for (int i = 0; i < hosts * hosts; i++)
		between[i] = -1;
	for (int pass = 0; pass < 2; pass++) {
		for (int a = 0; a < m->world; a++) {
			for (int b = 0; b < m->world; b++) {
				int *known = &between[m->rank_host[a] * hosts + m->rank_host[b]],
				    class = m->pair_class[a * m->world + b];
				if (a == b || one_host(m, a, b))
					continue;
				if (pass == 0 && class > *known)
					*known = class;
				if (pass == 1 && class < 0)
					m->pair_class[a * m->world + b] = *known >= 0 ? *known : slowest >= first ? slowest : first;
			}
		}
	}
	free(between);
	return MT_OK;
}

static void name_class(struct mt_machine_pair_class *class, int index, int first)
{
	if (index < first)
		snprintf(class->name, sizeof class->name, "same host");
	else if (index == first)
		snprintf(class->name, sizeof class->name, "between hosts");
	else if (index == first + 1)
		snprintf(class->name, sizeof class->name, "between hosts, slower");
	else
		snprintf(class->name, sizeof class->name, "between hosts, slower %u", (unsigned)(index - first) % 10);
}

/* Medians and extremes over the measured pairs of a class. x: room for every pair. */
static void describe_class(struct mt_machine *m, const struct mt_probe_pairs *pairs, int index, double *x)
{
	struct mt_machine_pair_class *class = &m->classes[index];
	size_t count = 0;
	double *latency = x + (size_t)m->world * (size_t)m->world / 2;
	for (int a = 0; a < m->world; a++) {
		for (int b = a + 1; b < m->world; b++) {
			if (m->pair_class[a * m->world + b] != index)
				continue;
			class->pairs++;
			double gbps = pairs->bandwidth_gbps[a * m->world + b];
			if (gbps <= 0)
				continue;
			class->lo_gbps = count == 0 || gbps < class->lo_gbps ? gbps : class->lo_gbps;
			class->hi_gbps = gbps > class->hi_gbps ? gbps : class->hi_gbps;
			latency[count] = pairs->latency_us[a * m->world + b];
			x[count++] = gbps;
		}
	}
	class->bandwidth_gbps = count ? mt_stats_median(x, count) : 0;
	class->latency_us = count ? mt_stats_median(latency, count) : 0;
}

enum mt_status mt_probe_classify(struct mt_machine *m, const struct mt_probe_pairs *pairs)
{
	enum mt_status st = MT_OK;
	size_t all = (size_t)m->world * (size_t)m->world;
	int far = 0, near = 0, far_measured = 0;
	struct ranked *sorted = malloc(all * sizeof *sorted);
	double *x = malloc(all * sizeof *x);
	m->pair_class = malloc(all * sizeof *m->pair_class);
	m->classes = calloc(MOST_CLASSES, sizeof *m->classes);
	if (!sorted || !x || !m->pair_class || !m->classes) {
		st = mt_fail(MT_NOMEM, "probe: no memory for %zu pairs", all);
		goto out;
	}
	for (size_t i = 0; i < all; i++)
		m->pair_class[i] = -1;
	for (int a = 0; a < m->world; a++) {
		for (int b = a + 1; b < m->world; b++) {
			double gbps = pairs->bandwidth_gbps[a * m->world + b];
			if (one_host(m, a, b)) {
				set_class(m, a, b, 0);
				near++;
			} else {
				far++;
				if (gbps > 0)
					sorted[far_measured++] = (struct ranked){gbps, a, b};
			}
		}
	}
	int first = near > 0; /* class 0 is "same host" when there is such a pair */
	qsort(sorted, (size_t)far_measured, sizeof *sorted, faster_first);
	int clusters = cut_clusters(m, sorted, far_measured, first);
	MT_GOTO(out, fill_unmeasured(m, first, first + clusters - 1));
	m->class_count = first + (far > 0 && clusters == 0 ? 1 : clusters);
	for (int c = 0; c < m->class_count; c++) {
		name_class(&m->classes[c], c, first);
		describe_class(m, pairs, c, x);
	}
	st = mt_machine_find_islands(m);
out:
	free(sorted);
	free(x);
	return st;
}
