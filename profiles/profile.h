/* profile: measured operations of one machine, and a cost for any operation.
 *
 * Two ways to fill it:
 *   mt_profile_collect   a trace sink: attach it to a device that runs the engine itself (a slice of the model), so that every
 *                        kernel is timed in its own order, with caches as they will be;
 *   mt_profile_measure   one operation alone, repeated until its interval is narrow or the budget is spent.
 * Costs: the exact key where measured; else interpolated or scaled, in FLOPs (products, attention) or bytes (all others),
 * from the nearest measured keys of the same kind and dtype (the model is at the top of cost.c); else rates given as the
 * fallback. */
#ifndef MT_PROFILES_PROFILE_H
#define MT_PROFILES_PROFILE_H

#include "kernels/device.h"
#include "profiles/store.h"

struct mt_profile;

struct mt_profile_rates { /* for operations of a kind never measured */
	double flops_per_s[MT_DTYPE_COUNT];
	double bytes_per_s;
	double overhead_s; /* a call */
};

/* `fallback` is copied; NULL: no rates, an operation of a kind never measured then costs NaN. */
enum mt_status mt_profile_create(struct mt_profile **profile, int threads, int busy_ranks, const struct mt_profile_rates *fallback);
void mt_profile_destroy(struct mt_profile *profile);

/* Trace sink (context: the profile): keeps every kernel's time by key. Collectives are ignored. Not thread-safe. */
void mt_profile_collect(void *profile, const struct mt_trace_event *event);
/* Drops samples collected so far (after warm-up), keeps rows read from a store. */
void mt_profile_reset(struct mt_profile *profile);
/* Time of one operation alone on `device`, operands from an arena of it, rotated so that weights come from memory. budget_s
 * is for the timed runs; making the operands comes before it. The device's trace sink is put back as it was.
 * MT_UNAVAILABLE when the device computes nothing, lacks the operation, or the operands do not fit. */
enum mt_status mt_profile_measure(struct mt_profile *profile, struct mt_device *device, const struct mt_op_key *key,
				  double budget_s);

/* Rows for the store, medians of the samples (caller frees); what came from a store is not given back.
 * And rows from it: those of this profile's threads and busy ranks are used, others are left out. Samples win over rows. */
enum mt_status mt_profile_rows(const struct mt_profile *profile, struct mt_store_row **rows, int *count);
enum mt_status mt_profile_add_rows(struct mt_profile *profile, const struct mt_store_row *rows, int count);

/* Seconds of an operation; the struct mt_cost_source function (context: the profile). Thread-safe after the last change. */
double mt_profile_op_s(void *profile, const struct mt_op_key *key);
/* The same with where it came from (0 exact, 1 scaled, 2 fallback) and the relative spread. */
double mt_profile_op_cost(const struct mt_profile *profile, const struct mt_op_key *key, int *source, double *spread_frac);

#endif
