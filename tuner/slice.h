/* slice: the short runs that profile a model's layouts: two layers with embedding and head, on all ranks at once, through
 * the engine itself, so that every kernel is timed in its own order with as many ranks busy as will be. Each rank plays one
 * tensor-parallel rank alone: collectives have curves of their own, and a slow network must not slow this down. Layouts with equal
 * (tp, sp, micro-batch, cp and its kind) need the same kernels and share a slice; of experts a slice has all, so that the products
 * of fewer are interpolated. */
#ifndef MT_TUNER_SLICE_H
#define MT_TUNER_SLICE_H

#include "probes/machine.h"
#include "profiles/steady.h"
#include "profiles/tracer.h"
#include "tuner/candidate.h"

/* A slice is run so many times, others between, so that a disturbance of seconds meets none of them in all its steps. */
#define MT_SLICE_ROUNDS 2

struct mt_slice {
	struct mt_run run;              /* shallow: the model's strings are borrowed */
	struct mt_steady *steady;       /* owned: kernels of all its steps; NULL: not run */
	double step_s[MT_SLICE_ROUNDS]; /* median of the timed steps of each time that it was run */
	int rounds;                     /* times that it was run */
};

/* The distinct slices of a space. */
enum mt_status mt_slices_of(const struct mt_space *space, const struct mt_model *model, struct mt_slice **slices, int *count);
void mt_slices_free(struct mt_slice *slices, int count);
/* True when every operation of the slice is in the profile. */
enum mt_status mt_slice_known(const struct mt_slice *slice, const struct mt_machine *machine, struct mt_profile *profile,
			      bool *known);

/* How the kernels of slices were timed, and what the timing cost. Sums over the slices that were run; zero it before. */
struct mt_slice_timing {
	char method[320];         /* as mt_tracer_method says */
	double plain_s, traced_s; /* median steps without and with tracing; 0 where tracing is no more than reading a clock */
	bool device_records;      /* the sums below are known */
	struct mt_activity_totals totals;
	int steps, undisturbed; /* of this rank: timed, and those whose kernels count (profiles/steady.h) */
};

/* Collective: runs the slice on the fabric for about budget_s (at least one timed step), after what was run of it before.
 * *process_bytes grows to what the process holds beyond the engine's arenas. Its kernels are in the profile, which the slice
 * borrows, once it is settled. */
enum mt_status mt_slice_run(struct mt_slice *slice, struct mt_fabric *fabric, struct mt_device *device, struct mt_profile *profile,
			    double budget_s, int64_t *process_bytes, struct mt_slice_timing *timing);
/* How much the same steps differ from one round to the next: the standard deviation of one round, relative, from the median change
 * of all slices, as a disturbance of few is left out elsewhere too; 0 when none was run in two rounds. */
enum mt_status mt_slices_drift(const struct mt_slice *slices, int count, double *drift_frac);
/* Adds the kernels of its undisturbed steps to the profile; nothing when it was not run. */
enum mt_status mt_slice_settle(const struct mt_slice *slice, struct mt_slice_timing *timing);

#endif
