/* cost: the time of any operation, from those that were measured.
 *
 * 1. Exact. The key was measured: its median.
 * 2. Scaled. Other shapes of the same kind and dtype were. Work is FLOPs for products and attention (they are bound by
 *    arithmetic) and bytes for everything else (bound by memory). Shapes are compared by
 *        distance(a, b) = sum over dims |ln((1+a_i)/(1+b_i))|,   a flag that differs (bias, norm kind) adds FLAG_DISTANCE
 *    so a 2x in one dimension counts alike in all, and a skinny product looks for skinny ones. Of the measured keys the
 *    nearest with no more work and the nearest with more work bracket the query, and time is interpolated between them,
 *    straight in ln(time) over ln(work): exact for any power law, always between the two times, and right at both ends.
 *    Outside of what was measured the nearest key's achieved rate is kept: time = its time * work / its work, but never
 *    less than the overhead of a call.
 *    A product with an epilogue of which no shape was measured takes as long as the operations that it stands for.
 * 3. Fallback. Nothing of that kind and dtype: max(FLOPs / rate, bytes / bandwidth) + overhead from the rates given;
 *    NaN when there are none, so that a missing profile cannot pass for a fast machine.
 *
 * Spread: exact, MAD / median of the samples. Scaled, the larger of its sources' plus what the sources leave open: half
 * their disagreement about the rate when interpolating, SPREAD_PER_DISTANCE for each e-fold of distance when extrapolating.
 * Fallback, FALLBACK_SPREAD. The constants are judgement: an estimate that is not measured must not look as if it were. */
#include "profiles/profile.h"
#include "profiles/table.h"

#include <math.h>

#define FLAG_DISTANCE       2.8 /* as a factor of 16 in one dimension */
#define SPREAD_PER_DISTANCE 0.1
#define FALLBACK_SPREAD     0.5

/* Bits of the dims that are flags or kinds, not sizes (see struct mt_op_key). */
static const unsigned FLAG_DIMS[MT_OP_KIND_COUNT] = {
	[MT_OP_LINEAR] = 1u << 3 | 1u << 4,
	[MT_OP_LINEAR_DGRAD] = 1u << 3 | 1u << 4,
	[MT_OP_LINEAR_WGRAD] = 1u << 3 | 1u << 4,
	[MT_OP_NORM] = 1u << 0 | 1u << 3,
	[MT_OP_NORM_BWD] = 1u << 0 | 1u << 3,
	[MT_OP_ACTIVATION] = 1u << 0,
	[MT_OP_ACTIVATION_BWD] = 1u << 0,
	[MT_OP_ADD] = 1u << 2 | 1u << 3,
	[MT_OP_BIAS_GRAD] = 1u << 2 | 1u << 3,
	[MT_OP_LOSS_STATS] = 1u << 3,
	[MT_OP_LOSS] = 1u << 3,
	[MT_OP_CAST] = 1u << 1 | 1u << 2,
	[MT_OP_FILL] = 1u << 1,
	[MT_OP_SGD] = 1u << 1,
	[MT_OP_COMBINE] = 1u << 1,
	[MT_OP_ADAMW] = 1u << 1 | 1u << 2,
	[MT_OP_QUANTIZE] = 1u << 2 | 1u << 3 | 1u << 4 | 1u << 5,
	[MT_OP_ROUTE] = 1u << 3,
	[MT_OP_ROUTE_SUMS] = 1u << 3,
	[MT_OP_ROUTE_LOSS] = 1u << 3,
	[MT_OP_ROUTE_BWD] = 1u << 3,
	[MT_OP_EXPERT_ACT] = 1u << 0,
	[MT_OP_EXPERT_ACT_BWD] = 1u << 0,
};

double mt_profile_work(const struct mt_op_key *key)
{
	double flops = mt_op_key_flops(key);
	double work = flops > 0 ? flops : mt_op_key_bytes(key);
	return work > 1 ? work : 1;
}

void mt_profile_log_dims(const struct mt_op_key *key, double log_dims[MT_OP_DIMS])
{
	for (int i = 0; i < MT_OP_DIMS; i++)
		log_dims[i] = log1p((double)(key->dims[i] > 0 ? key->dims[i] : 0));
}

static double distance(const struct mt_profile_entry *entry, unsigned flags, const double log_dims[MT_OP_DIMS])
{
	double sum = 0;
	for (int i = 0; i < MT_OP_DIMS; i++) {
		double difference = fabs(entry->log_dims[i] - log_dims[i]);
		if (flags >> i & 1u)
			difference = difference > 0 ? FLAG_DISTANCE : 0;
		sum += difference;
	}
	return sum;
}

/* The nearest measured keys with at most, and with more than, the query's work. */
struct bracket {
	const struct mt_profile_entry *below, *above;
	double below_distance, above_distance;
};

/* GELU and sums of columns take time that grows with other sizes than a product's. */
static bool same_epilogue(const struct mt_op_key *a, const struct mt_op_key *b)
{
	return a->kind > MT_OP_LINEAR_WGRAD || !((a->dims[3] ^ b->dims[3]) & (MT_LINEAR_GELU | MT_LINEAR_DBIAS));
}

static struct bracket find_bracket(const struct mt_profile *profile, const struct mt_op_key *key, double work)
{
	struct bracket found = {NULL, NULL, INFINITY, INFINITY};
	double log_dims[MT_OP_DIMS];
	mt_profile_log_dims(key, log_dims);
	for (int i = profile->chain[key->kind][key->dtype]; i >= 0; i = profile->entries[i].next) {
		const struct mt_profile_entry *entry = &profile->entries[i];
		if (entry->cost_s <= 0 || !same_epilogue(&entry->key, key))
			continue;
		double d = distance(entry, FLAG_DIMS[key->kind], log_dims);
		if (entry->work <= work && d < found.below_distance) {
			found.below = entry;
			found.below_distance = d;
		} else if (entry->work > work && d < found.above_distance) {
			found.above = entry;
			found.above_distance = d;
		}
	}
	return found;
}

/* MAD / median. Walks outwards from the middle of the sorted samples until half of them are passed. */
static double spread_of(const struct mt_profile_entry *entry)
{
	int n = entry->count;
	if (entry->cost_s <= 0)
		return 0;
	if (n == 0)
		return entry->row.mad_s / entry->row.median_s;
	double deviation = 0, before = 0;
	int lo = (n - 1) / 2, hi = lo + 1;
	for (int passed = 0; passed <= n / 2; passed++) {
		double left = lo >= 0 ? entry->cost_s - entry->samples[lo] : INFINITY;
		double right = hi < n ? entry->samples[hi] - entry->cost_s : INFINITY;
		before = deviation;
		deviation = left <= right ? left : right;
		if (left <= right)
			lo--;
		else
			hi++;
	}
	return 1.4826 * (n % 2 ? deviation : 0.5 * (before + deviation)) / entry->cost_s;
}

static double interpolate(const struct bracket *found, double work, double *spread_frac)
{
	const struct mt_profile_entry *a = found->below, *b = found->above;
	double at = (log(work) - a->log_work) / (b->log_work - a->log_work);
	double log_a = log(a->cost_s), log_b = log(b->cost_s);
	if (spread_frac) {
		double disagreement = fabs((log_b - b->log_work) - (log_a - a->log_work));
		*spread_frac = fmax(spread_of(a), spread_of(b)) + 0.5 * disagreement;
	}
	return exp(log_a + at * (log_b - log_a));
}

static double extrapolate(const struct mt_profile *profile, const struct mt_profile_entry *from, double gap, double work,
			  double *spread_frac)
{
	double seconds = from->cost_s * work / from->work;
	if (spread_frac)
		*spread_frac = spread_of(from) + SPREAD_PER_DISTANCE * gap;
	return fmax(seconds, profile->rates.overhead_s);
}

static double fall_back(const struct mt_profile *profile, const struct mt_op_key *key)
{
	const struct mt_profile_rates *rates = &profile->rates;
	bool product = key->kind <= MT_OP_LINEAR_WGRAD || (key->kind >= MT_OP_GROUPED && key->kind <= MT_OP_GROUPED_WGRAD);
	int dtype = product && key->dims[4] && rates->flops_per_s[MT_E4M3] > 0 ? MT_E4M3 : key->dtype;
	double rate = rates->flops_per_s[dtype] > 0 ? rates->flops_per_s[dtype] : rates->flops_per_s[MT_F32];
	double flops = mt_op_key_flops(key);
	if (rates->bytes_per_s <= 0 || (flops > 0 && rate <= 0))
		return NAN;
	return fmax(flops > 0 ? flops / rate : 0, mt_op_key_bytes(key) / rates->bytes_per_s) + rates->overhead_s;
}

/* The sum of the parts; the source that is furthest from a measurement, and the spread as of parts that err together. */
static double cost_of_parts(const struct mt_profile *profile, const struct mt_op_key *parts, int count, int *source,
			    double *spread_frac)
{
	double sum_s = 0, error_s = 0;
	int furthest = 1; /* nobody measured the whole */
	for (int i = 0; i < count; i++) {
		int from;
		double spread, seconds = mt_profile_op_cost(profile, &parts[i], &from, &spread);
		sum_s += seconds;
		error_s += seconds * spread;
		furthest = from > furthest ? from : furthest;
	}
	if (source)
		*source = furthest;
	if (spread_frac)
		*spread_frac = sum_s > 0 ? error_s / sum_s : 0;
	return sum_s;
}

double mt_profile_op_cost(const struct mt_profile *profile, const struct mt_op_key *key, int *source, double *spread_frac)
{
	const struct mt_profile_entry *entry = table_find(profile, key);
	if (entry && entry->cost_s >= 0) {
		if (source)
			*source = 0;
		if (spread_frac)
			*spread_frac = spread_of(entry);
		return entry->cost_s;
	}
	double work = mt_profile_work(key);
	struct bracket found = find_bracket(profile, key, work);
	struct mt_op_key parts[MT_OP_MOST_PARTS];
	int part_count = found.below || found.above ? 1 : mt_op_key_parts(key, parts);
	if (part_count > 1)
		return cost_of_parts(profile, parts, part_count, source, spread_frac);
	if (source)
		*source = found.below || found.above ? 1 : 2;
	if (found.below && found.above)
		return interpolate(&found, work, spread_frac);
	if (found.below)
		return extrapolate(profile, found.below, found.below_distance, work, spread_frac);
	if (found.above)
		return extrapolate(profile, found.above, found.above_distance, work, spread_frac);
	if (spread_frac)
		*spread_frac = FALLBACK_SPREAD;
	return fall_back(profile, key);
}

double mt_profile_op_s(void *profile, const struct mt_op_key *key)
{
	return mt_profile_op_cost(profile, key, NULL, NULL);
}
