/* slice: see slice.h. */
#include "tuner/slice.h"

#include "base/clock.h"
#include "base/process.h"
#include "tuner/cost.h"
#include "tuner/memory.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SLICE_LAYERS = 2, MOST_STEPS = 50 };

static bool same_slice(const struct mt_layout *a, const struct mt_layout *b)
{
	return a->tp == b->tp && a->sp == b->sp && a->mbs == b->mbs && a->cp == b->cp && a->cp_kind == b->cp_kind &&
	       a->cp_inner == b->cp_inner;
}

enum mt_status mt_slices_of(const struct mt_space *space, const struct mt_model *model, struct mt_slice **slices, int *count)
{
	struct mt_slice *list = calloc((size_t)space->count + 1, sizeof *list);
	int n = 0;

	if (!list)
		return mt_fail(MT_NOMEM, "no memory for the slices of %d layouts", space->count);
	for (int i = 0; i < space->count; i++) {
		struct mt_layout layout = space->candidates[i].layout;
		int known = 0;

		layout.dp = layout.pp = layout.vp = layout.ep = 1;
		layout.schedule = MT_SCHEDULE_1F1B;
		layout.etp = layout.zero_group = layout.first_layers = layout.last_layers = 0;
		layout.stage_layers[0] = '\0';
		layout.recompute_layers = layout.recompute_stages = layout.offload_layers = 0;
		layout.gbs = layout.mbs;
		layout.zero = 0;
		layout.recompute = MT_RECOMPUTE_NONE;
		while (known < n && !same_slice(&list[known].run.layout, &layout))
			known++;
		if (known < n)
			continue;
		mt_run_default(&list[n].run);
		mt_run_free(&list[n].run); /* its strings: a slice has its device, and no files */
		list[n].run.model = *model;
		if (model->layers > SLICE_LAYERS)
			list[n].run.model.layers = SLICE_LAYERS;
		list[n].run.layout = layout;
		n++;
	}
	*slices = list;
	*count = n;
	return MT_OK;
}

void mt_slices_free(struct mt_slice *slices, int count)
{
	for (int i = 0; i < count; i++)
		mt_steady_destroy(slices[i].steady);
	free(slices);
}

/* A cost source that notes whether anything was asked for that the profile has not measured. */
struct witness {
	struct mt_profile *profile;
	bool missed;
};

static double witness_op_s(void *context, const struct mt_op_key *key)
{
	struct witness *w = context;
	int source;

	mt_profile_op_cost(w->profile, key, &source, NULL);
	if (source != 0 && !mt_cost_scales(key->kind))
		w->missed = true;
	return 0;
}

static double free_comm_s(void *context, const struct mt_comm_key *key)
{
	return 0;
}

enum mt_status mt_slice_known(const struct mt_slice *slice, const struct mt_machine *machine, struct mt_profile *profile,
			      bool *known)
{
	struct witness witness = {.profile = profile};
	struct mt_cost_source ops = {.op_s = witness_op_s, .context = &witness};
	struct mt_comm_cost_source comms = {.comm_s = free_comm_s};
	struct mt_card card;
	enum mt_status st = mt_card_measure(&card, &slice->run, ops, comms);

	mt_card_free(&card);
	*known = !witness.missed;
	return st;
}

static void note_process(const struct mt_engine *engine, const struct mt_device *device, int64_t *process_bytes)
{
	struct mt_arena_stats arenas[MT_ENGINE_ARENAS];
	int64_t beyond;

	mt_engine_memory(engine, arenas);
	beyond = mt_process_beyond(mt_process_resident_bytes(), arenas, device->pinned_bytes);
	if (beyond > *process_bytes)
		*process_bytes = beyond;
}

/* The 90% interval of the median step is narrower than 2% of it: more steps would tell little. */
static bool narrow(const double *seconds, int count)
{
	struct mt_interval interval = mt_stats_median_interval(seconds, (size_t)count, 0.9);

	return interval.hi - interval.lo < 0.02 * mt_stats_median(seconds, (size_t)count);
}

/* Steps until the step time is known closely or the budget is spent, one at least; all ranks stop together. */
static enum mt_status run_steps(struct mt_engine *engine, struct mt_group *world, struct mt_tracer *tracer,
				struct mt_steady *steady, double budget_s, double *median_s)
{
	struct mt_step_stats stats;
	double start_s = mt_clock_s(), seconds[MOST_STEPS];

	for (int step = 0; step < MOST_STEPS; step++) {
		double values[2]; /* spent, and 1 while some rank's interval is wide */

		MT_TRY(mt_engine_step(engine, &stats));
		if (tracer)
			MT_TRY(mt_tracer_collect(tracer));
		if (steady)
			MT_TRY(mt_steady_step(steady, stats.seconds));
		seconds[step] = stats.seconds;
		*median_s = mt_stats_median(seconds, (size_t)step + 1);
		values[0] = mt_clock_s() - start_s;
		values[1] = !narrow(seconds, step + 1);
		MT_TRY(mt_comm_host_all_reduce(world, values, 2, MT_MAX));
		if (values[0] > budget_s || values[1] == 0)
			break;
	}
	return MT_OK;
}

static void add_timing(struct mt_slice_timing *timing, const struct mt_tracer *tracer, double plain_s, double traced_s)
{
	struct mt_activity_totals totals;

	snprintf(timing->method, sizeof timing->method, "%s", mt_tracer_method(tracer));
	timing->device_records = mt_tracer_totals(tracer, &totals);
	mt_activity_add_totals(&timing->totals, &totals);
	if (plain_s > 0) {
		timing->plain_s += plain_s;
		timing->traced_s += traced_s;
	}
}

/* Where tracing costs, the same steps are run without it first, for a third of the budget. *traced_s: the median step. */
static enum mt_status time_steps(struct mt_engine *engine, struct mt_group *world, struct mt_device *device,
				 struct mt_steady *steady, double budget_s, struct mt_slice_timing *timing, double *traced_s)
{
	struct mt_step_stats stats;
	struct mt_tracer *tracer = NULL;
	double plain_s = 0;
	enum mt_status st;

	MT_TRY(mt_engine_step(engine, &stats)); /* first touch, primitives created */
	if (mt_tracer_intercepts(device)) {
		MT_TRY(run_steps(engine, world, NULL, NULL, budget_s / 3, &plain_s));
		budget_s -= budget_s / 3;
	}
	MT_TRY(mt_tracer_start(&tracer, device, NULL, mt_steady_collect, steady));
	st = run_steps(engine, world, tracer, steady, budget_s, traced_s);
	add_timing(timing, tracer, plain_s, *traced_s);
	mt_tracer_stop(tracer);
	return st;
}

enum mt_status mt_slice_run(struct mt_slice *slice, struct mt_fabric *fabric, struct mt_device *device, struct mt_profile *profile,
			    double budget_s, int64_t *process_bytes, struct mt_slice_timing *timing)
{
	struct mt_fabric_config alone = {.kind = "alone", .size = (int)(slice->run.layout.tp * slice->run.layout.cp)};
	struct mt_engine_config config = {.run = &slice->run, .device = device};
	struct mt_data_options synthetic = {0};
	struct mt_dataset *dataset = NULL;
	struct mt_engine *engine = NULL;
	struct mt_group *world = NULL;
	double step_s = 0;
	enum mt_status st;

	MT_GOTO(out, mt_group_create_all(fabric, "slice", &world));
	alone.rank = mt_fabric_rank(fabric) % alone.size;
	MT_GOTO(out, mt_fabric_create(&config.fabric, &alone));
	MT_GOTO(out, mt_dataset_open(&dataset, &synthetic, slice->run.model.vocab, slice->run.layout.seq, 1));
	config.dataset = dataset;
	if (!slice->steady)
		MT_GOTO(out, mt_steady_create(&slice->steady, profile));
	MT_GOTO(out, mt_engine_create(&engine, &config));
	MT_GOTO(out, time_steps(engine, world, device, slice->steady, budget_s, timing, &step_s));
	if (step_s > 0 && slice->rounds < MT_SLICE_ROUNDS)
		slice->step_s[slice->rounds++] = step_s;
	note_process(engine, device, process_bytes);
out:
	mt_engine_destroy(engine);
	mt_dataset_close(dataset);
	mt_fabric_destroy(config.fabric);
	mt_group_destroy(world);
	return st;
}

/* Each change counts up and down: drift has no direction. Both rounds of a pair vary, hence the root of 2. */
enum mt_status mt_slices_drift(const struct mt_slice *slices, int count, double *drift_frac)
{
	double *changes = calloc(2 * (size_t)count * MT_SLICE_ROUNDS + 1, sizeof *changes);
	size_t n = 0;

	if (!changes)
		return mt_fail(MT_NOMEM, "no memory for what %d slices differ by", count);
	for (int i = 0; i < count; i++) {
		for (int round = 1; round < slices[i].rounds; round++) {
			changes[n++] = log(slices[i].step_s[round] / slices[i].step_s[round - 1]);
			changes[n] = -changes[n - 1];
			n++;
		}
	}
	*drift_frac = n > 0 ? mt_stats_mad(changes, n) / sqrt(2) : 0;
	free(changes);
	return MT_OK;
}

enum mt_status mt_slice_settle(const struct mt_slice *slice, struct mt_slice_timing *timing)
{
	int steps, undisturbed;

	if (!slice->steady)
		return MT_OK;
	MT_TRY(mt_steady_settle(slice->steady, &steps, &undisturbed));
	timing->steps += steps;
	timing->undisturbed += undisturbed;
	return MT_OK;
}
