/* machine_comm: what a collective costs on a machine.
 *
 * 1. The curve of the same op, type, size and stride. All curves of ops that only move data serve every type; a
 *    reduce_scatter of a type that was not swept is the swept one times what the types differ by in all_reduce.
 * 2. A curve of a group at least as large and at least as far apart, the least such: not faster.
 * 3. alpha and beta of the slowest pair class that the group can span: latency counts the steps of a tree (log2 n), or of a
 *    ring for all_to_all, bandwidth the bytes that must cross a rank's link (Thakur, Rabenseifner and Gropp 2005,
 *    "Optimization of collective communication operations in MPICH"), and ranks of one host that cross at once share its NICs.
 * 4. A message between two ranks that are named, and those of a shift that was not measured, by the classes of their pairs and what
 * else is on their links (machine_flows.c): the curve of messages has the slowest pair of its sweep, so what is over its latency is
 * taken in the proportion of what both do to a link.
 * 5. Where ranks are placed in another order than was measured: 1 and 2 in the proportion of rings' links (machine_placed.c). */
#include "probes/machine_flows.h"

#include <math.h>
#include <stddef.h>

static bool moves_only(enum mt_comm_op op)
{
	return op != MT_COMM_ALL_REDUCE && op != MT_COMM_REDUCE_SCATTER;
}

static const struct mt_comm_curve *find_exact(const struct mt_machine *m, enum mt_comm_op op, enum mt_dtype dtype, int size,
					      int stride)
{
	for (int i = 0; i < m->curve_count; i++) {
		const struct mt_comm_curve *c = &m->curves[i];
		if (c->op == op && c->size == size && c->stride == stride && c->points > 0 && (c->dtype == dtype || moves_only(op)))
			return c;
	}
	return NULL;
}

/* The least group not smaller and not nearer together; stride 0 (irregular) needs the widest there is. Among groups as near, the
 * slower curve, so that the choice does not depend on their order. */
static const struct mt_comm_curve *find_not_faster(const struct mt_machine *m, enum mt_comm_op op, enum mt_dtype dtype, int size,
						   int stride, double bytes)
{
	const struct mt_comm_curve *best = NULL;
	double best_span = INFINITY;
	for (int i = 0; i < m->curve_count; i++) {
		const struct mt_comm_curve *c = &m->curves[i];
		double span = (double)c->size * c->stride;
		if (c->op != op || c->points == 0 || !(c->dtype == dtype || moves_only(op)) || c->size < size)
			continue;
		if (stride > 0 ? c->stride < stride : span < m->world)
			continue;
		if (span < best_span || (span == best_span && mt_comm_curve_s(c, bytes) > mt_comm_curve_s(best, bytes))) {
			best = c;
			best_span = span;
		}
	}
	return best;
}

/* True when the value is at a measured point (bytes within 1%), so nothing was interpolated. */
static bool at_point(const struct mt_comm_curve *c, double bytes)
{
	for (int i = 0; i < c->points; i++)
		if (fabs(c->bytes[i] - bytes) <= 0.01 * bytes)
			return true;
	return false;
}

/* The slowest class from the first member of each group to its others. Bandwidth in a hierarchy is an ultrametric, so no
 * pair of a group is slower than the slowest from any one member. */
static int slowest_class(const struct mt_machine *m, int size, int stride)
{
	int slowest = -1, span = size * stride;
	for (int first = 0; first + span - stride < m->world && m->pair_class; first++) {
		if (first / stride % size != 0)
			continue;
		for (int i = 1; i < size; i++) {
			int class = m->pair_class[(int64_t)first * m->world + first + i * stride];
			if (class >= 0 && (slowest < 0 || m->classes[class].bandwidth_gbps < m->classes[slowest].bandwidth_gbps))
				slowest = class;
		}
	}
	return slowest;
}

/* Without a class a pair: one host's groups take the fastest class, others the slowest. */
static int class_by_hosts(const struct mt_machine *m, bool inside)
{
	int found = 0;
	for (int i = 1; i < m->class_count; i++) {
		double gbps = m->classes[i].bandwidth_gbps, so_far = m->classes[found].bandwidth_gbps;
		if (inside ? gbps > so_far : gbps < so_far)
			found = i;
	}
	return found;
}

static bool inside_hosts(const struct mt_machine *m, int size, int stride)
{
	if (stride <= 0 || (int64_t)size * stride > m->world)
		return m->host_count <= 1;
	for (int first = 0; first + (size - 1) * stride < m->world; first++)
		if (first / stride % size == 0 && m->rank_host[first] != m->rank_host[first + (size - 1) * stride])
			return false;
	return true;
}

/* Ranks of a host that cross to another at once, over its NICs: groups lie across hosts side by side `stride` at a time; in
 * all_to_all every rank crosses. */
static double sharing(const struct mt_machine *m, const struct mt_comm_key *key)
{
	double worst = 1;
	for (int h = 0; h < m->host_count; h++) {
		const struct mt_machine_host *host = &m->hosts[h];
		int crossing =
			key->op == MT_COMM_ALL_TO_ALL || key->stride <= 0 || key->stride > host->ranks ? host->ranks : key->stride;
		worst = fmax(worst, (double)crossing / (host->nics > 0 ? host->nics : 1));
	}
	return worst;
}

static double alpha_beta_s(const struct mt_machine *m, const struct mt_comm_key *key)
{
	int class = -1, n = key->size;
	bool inside = inside_hosts(m, n, key->stride);
	if (m->class_count == 0)
		return 0;
	if (key->stride > 0 && (int64_t)n * key->stride <= m->world)
		class = slowest_class(m, n, key->stride);
	if (class < 0)
		class = class_by_hosts(m, inside);
	double alpha_s = m->classes[class].latency_us * 1e-6, gbps = m->classes[class].bandwidth_gbps;
	double wire_s = gbps > 0 ? (double)key->bytes / (gbps * 1e9) * (inside ? 1 : sharing(m, key)) : 0;
	double steps = ceil(log2(n)), part = (double)(n - 1) / n;
	switch (key->op) {
	case MT_COMM_ALL_REDUCE:
		return 2 * steps * alpha_s + 2 * part * wire_s;
	case MT_COMM_REDUCE_SCATTER:
	case MT_COMM_ALL_GATHER:
		return steps * alpha_s + part * wire_s;
	case MT_COMM_ALL_TO_ALL:
		return (n - 1) * alpha_s + part * wire_s;
	case MT_COMM_BROADCAST:
		return steps * alpha_s + fmin(steps, 2 * part) * wire_s;
	case MT_COMM_BARRIER:
		return steps * alpha_s;
	default:
		return alpha_s + wire_s;
	}
}

/* The sweep of messages: neighbours to and fro in two halves, the slower of which is the curve. */
static struct mt_flow_cost sweep_of(const struct mt_machine *m, const struct mt_comm_curve *c)
{
	struct mt_flows even = {.pattern = MT_FLOWS_EVEN_PAIRS, .size = c->size, .stride = c->stride}, odd = even;
	struct mt_flow_cost first = mt_machine_flows(m, &even), second;

	odd.pattern = MT_FLOWS_ODD_PAIRS;
	second = c->size > 2 ? mt_machine_flows(m, &odd) : first;
	return second.s_per_byte > first.s_per_byte ? second : first;
}

/* Of the messages of a key, all its groups at once; 0 where links are not known. */
static double message_s(const struct mt_machine *m, const struct mt_comm_key *key)
{
	struct mt_flows flows = {.pattern = key->op == MT_COMM_SHIFT ? MT_FLOWS_RING : MT_FLOWS_EDGE,
				 .size = key->size,
				 .stride = key->stride,
				 .from = key->from,
				 .to = key->to};
	struct mt_flow_cost own = mt_machine_flows(m, &flows), sweep;
	double bytes = (double)(key->bytes > 0 ? key->bytes : 1), least_s;
	const struct mt_comm_curve *c = find_exact(m, MT_COMM_SEND_RECV, key->dtype, key->size, key->stride);

	if (own.s_per_byte <= 0)
		return 0;
	if (!c)
		c = find_not_faster(m, MT_COMM_SEND_RECV, key->dtype, key->size, key->stride, bytes);
	if (!c)
		return own.latency_s + bytes * own.s_per_byte;
	sweep = sweep_of(m->launched ? m->launched : m, c);
	if (sweep.s_per_byte <= 0 || sweep.latency_s <= 0)
		return 0;
	least_s = c->seconds[0];
	return least_s * own.latency_s / sweep.latency_s +
	       (mt_comm_curve_s(c, bytes) - least_s) * own.s_per_byte / sweep.s_per_byte;
}

/* By the curves; 0 when none applies. */
static double curve_s(const struct mt_machine *m, const struct mt_comm_key *key, bool *exact)
{
	double bytes = (double)(key->bytes > 0 ? key->bytes : 1);
	const struct mt_comm_curve *c = key->stride > 0 ? find_exact(m, key->op, key->dtype, key->size, key->stride) : NULL;
	*exact = c && at_point(c, bytes);
	if (c)
		return mt_comm_curve_s(c, bytes);
	if (key->op == MT_COMM_REDUCE_SCATTER && key->dtype != MT_F32 && key->stride > 0) {
		const struct mt_comm_curve *swept = find_exact(m, key->op, MT_F32, key->size, key->stride);
		const struct mt_comm_curve *f32 = find_exact(m, MT_COMM_ALL_REDUCE, MT_F32, key->size, key->stride);
		const struct mt_comm_curve *own = find_exact(m, MT_COMM_ALL_REDUCE, key->dtype, key->size, key->stride);
		if (swept && f32 && own)
			return mt_comm_curve_s(swept, bytes) * fmax(1, mt_comm_curve_s(own, bytes) / mt_comm_curve_s(f32, bytes));
	}
	c = find_not_faster(m, key->op, key->dtype, key->size, key->stride, bytes);
	if (!c) /* another type of the same reduction is nearer than a model of links */
		c = find_not_faster(m, key->op, MT_F32, key->size, key->stride, bytes);
	return c ? mt_comm_curve_s(c, bytes) : 0;
}

/* Of seconds by a curve of the launcher's order, on a machine that is placed: what a ring waits for grows with the latency of its
 * slowest link, what it sends with the time that all rings take on theirs. */
static double placed_s(const struct mt_machine *m, const struct mt_comm_key *key, double seconds)
{
	struct mt_flows ring = {.pattern = MT_FLOWS_RING, .size = key->size, .stride = key->stride};
	struct mt_flow_cost own = mt_machine_flows(m, &ring), launched = mt_machine_flows(m->launched, &ring);
	struct mt_comm_key least = *key;
	double least_s;
	bool exact;

	if (own.s_per_byte <= 0 || launched.s_per_byte <= 0 || launched.latency_s <= 0)
		return seconds;
	least.bytes = 1;
	least_s = fmin(seconds, curve_s(m, &least, &exact));
	return least_s * own.latency_s / launched.latency_s + (seconds - least_s) * own.s_per_byte / launched.s_per_byte;
}

double mt_machine_comm_s(const struct mt_machine *machine, const struct mt_comm_key *key, enum mt_provenance *provenance)
{
	bool exact = false;
	double seconds = 0;
	struct mt_comm_key asked = *key;
	if (key->size > 1) {
		if (key->op == MT_COMM_BARRIER && machine->curve_count > 0) { /* as an all_reduce of one element */
			asked.op = MT_COMM_ALL_REDUCE;
			asked.dtype = MT_F32;
			asked.bytes = 4;
		}
		bool named = asked.op == MT_COMM_SEND_RECV && asked.from != asked.to;
		if (!named)
			seconds = curve_s(machine, &asked, &exact);
		if (seconds > 0 && machine->launched)
			seconds = placed_s(machine, &asked, seconds);
		if (named || (seconds <= 0 && asked.op == MT_COMM_SHIFT))
			seconds = message_s(machine, &asked);
		if (asked.op == MT_COMM_SHIFT)
			asked.op = MT_COMM_SEND_RECV;
		if (seconds <= 0)
			seconds = curve_s(machine, &asked, &exact);
		if (seconds <= 0)
			seconds = alpha_beta_s(machine, key);
	}
	if (provenance)
		*provenance = exact || machine->provenance != MT_MEASURED ? machine->provenance : MT_INTERPOLATED;
	return seconds;
}
