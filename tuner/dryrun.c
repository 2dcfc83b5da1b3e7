/* dryrun: the engine itself on the dry device, one rank a pipeline stage, joined by messages that carry virtual time.
 * Ranks that differ only in tp, cp or dp do the same, so one of each stage stands for all. */
#include "tuner/cost.h"
#include "tuner/memory.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct dry_stage {
	const struct mt_run *run;
	struct mt_cost_model *cost;
	struct mt_dry_world *world;
	int stage;
	bool traced;
	bool stepping; /* what is before the step costs nothing: all stages begin it at one time */
	pthread_t thread;

	enum mt_status st;
	char message[512];
	double kernels_s, guessed_s; /* of all kernels; of those whose operation was never measured */
	double dp_total_s;           /* of the data-parallel collectives, hidden ones too */
	struct mt_step_stats stats;
	struct mt_arena_stats arenas[MT_ENGINE_ARENAS];
	size_t host_bytes, scratch_bytes, pinned_bytes;
	struct mt_trace *trace;
};

static double stage_op_s(void *context, const struct mt_op_key *key)
{
	struct dry_stage *d = context;
	int source;
	double seconds;

	if (!d->stepping)
		return 0;
	seconds = mt_profile_op_cost(d->cost->profile, key, &source, NULL);

	d->kernels_s += seconds;
	if (source != 0 && !mt_cost_scales(key->kind))
		d->guessed_s += seconds;
	return seconds;
}

static double stage_transfer_s(void *context, size_t bytes)
{
	const struct dry_stage *d = context;

	return d->stepping ? mt_cost_transfer_s(d->cost, bytes) : 0;
}

/* Costs of collectives, with a note of those that run beside the compute. */
static double stage_comm_s(void *context, const struct mt_comm_key *key)
{
	struct dry_stage *d = context;
	struct mt_comm_cost_source source = mt_cost_comms(d->cost);
	double seconds = d->stepping ? source.comm_s(source.context, key) : 0;

	if (key->group && !strncmp(key->group, "dp", 2))
		d->dp_total_s += seconds;
	return seconds;
}

/* One step. The first step of a dry run is like any other: times and allocations do not depend on what was before. */
static enum mt_status run_stage(struct dry_stage *d)
{
	struct mt_device_config device_config = {.kind = "dry",
						 .cost = {.op_s = stage_op_s,
							  .context = d,
							  .transfer_s = stage_transfer_s,
							  .gpu_arch = mt_machine_gpu_arch(d->cost->machine)}};
	struct mt_coordinates at = {.pp = d->stage};
	struct mt_fabric_config fabric_config = {.kind = "dry",
						 .rank = mt_layout_rank(&d->run->layout, at),
						 .size = (int)mt_layout_world(&d->run->layout),
						 .dry_world = d->world,
						 .cost = {.comm_s = stage_comm_s, .context = d}};
	struct mt_engine_config config = {.run = d->run};
	struct mt_device *device = NULL;
	struct mt_fabric *fabric = NULL;
	struct mt_engine *engine = NULL;
	enum mt_status st;

	MT_GOTO(out, mt_device_create(&device, &device_config));
	MT_GOTO(out, mt_fabric_create(&fabric, &fabric_config));
	config.device = device;
	config.fabric = fabric;
	MT_GOTO(out, mt_engine_create(&engine, &config));
	if (d->traced)
		MT_GOTO(out, mt_trace_start(&d->trace, device));
	d->stepping = true;
	MT_GOTO(out, mt_engine_step(engine, &d->stats));
	mt_trace_stop(d->trace);
	if (d->cost->overlap_steals && d->dp_total_s > d->stats.dp_s) {
		/* What the schedule hides is paid for in slower kernels. */
		d->stats.compute_s += d->dp_total_s - d->stats.dp_s;
		d->stats.seconds += d->dp_total_s - d->stats.dp_s;
	}
	mt_engine_memory(engine, d->arenas);
	d->host_bytes = mt_engine_host_bytes(engine);
	d->scratch_bytes = device->scratch_bytes;
	d->pinned_bytes = device->pinned_bytes;
out:
	mt_engine_destroy(engine);
	mt_fabric_destroy(fabric);
	mt_device_destroy(device);
	return st;
}

static void *stage_thread(void *argument)
{
	struct dry_stage *d = argument;

	mt_error_clear();
	d->st = run_stage(d);
	if (d->st != MT_OK) {
		snprintf(d->message, sizeof d->message, "%s", mt_error_message());
		mt_dry_world_poison(d->world, d->message);
	}
	return NULL;
}

/* The first stage that failed by itself, not because another did. */
static enum mt_status join(struct dry_stage *stages, int count)
{
	struct dry_stage *failed = NULL;

	for (int s = 0; s < count; s++) {
		if (count > 1)
			pthread_join(stages[s].thread, NULL);
		if (stages[s].st != MT_OK && (!failed || stages[s].st == MT_NOMEM))
			failed = &stages[s];
	}
	return failed ? mt_fail(failed->st, "dry run of stage %d: %s", failed->stage, failed->message) : MT_OK;
}

static enum mt_status start(struct dry_stage *stages, int count)
{
	if (count == 1) {
		stage_thread(&stages[0]);
		return MT_OK;
	}
	for (int s = 0; s < count; s++) {
		if (pthread_create(&stages[s].thread, NULL, stage_thread, &stages[s]) != 0) {
			mt_dry_world_poison(stages[0].world, "a thread of the dry run could not be started");
			for (int k = 0; k < s; k++)
				pthread_join(stages[k].thread, NULL);
			return mt_fail(MT_FAILED, "cannot start %d threads for a dry run of %d stages", count, count);
		}
	}
	return MT_OK;
}

/* The split is that of the stage whose own work is most: it sets the pace. */
static void take_times(struct mt_candidate *c, const struct dry_stage *stages, int count)
{
	const struct dry_stage *pace = &stages[0];
	int64_t m = mt_layout_microbatches(&c->layout);
	double bubble;

	c->step_s = 0;
	for (int s = 0; s < count; s++) {
		if (stages[s].stats.seconds > c->step_s)
			c->step_s = stages[s].stats.seconds;
		if (stages[s].stats.compute_s > pace->stats.compute_s)
			pace = &stages[s];
	}
	c->guessed_frac = pace->kernels_s > 0 ? pace->guessed_s / pace->kernels_s : 0;
	c->tp_s = pace->stats.tp_s + pace->stats.ep_s;
	c->dp_s = pace->stats.dp_s;
	c->optimizer_s = pace->stats.optimizer_s;
	c->compute_s = pace->stats.compute_s;
	/* Waiting for other stages: the fill and drain that the schedule cannot avoid, the rest is messages. */
	c->pp_s = c->step_s - c->tp_s - c->dp_s - c->optimizer_s - c->compute_s;
	bubble = (c->compute_s + c->tp_s) * (double)(count - 1) / (double)m;
	c->bubble_s = bubble < c->pp_s ? bubble : c->pp_s;
	c->pp_s -= c->bubble_s;
}

static enum mt_status take_memory(struct mt_candidate *c, const struct dry_stage *stages, int count,
				  const struct mt_machine *machine)
{
	free(c->stage);
	c->stage = calloc((size_t)count, sizeof *c->stage);
	if (!c->stage)
		return mt_fail(MT_NOMEM, "no memory for %d stages", count);
	c->stages = count;
	for (int s = 0; s < count; s++) {
		c->stage[s].host_bytes = (int64_t)stages[s].host_bytes;
		c->stage[s].scratch_bytes = (int64_t)stages[s].scratch_bytes;
		c->stage[s].pinned_bytes = (int64_t)stages[s].pinned_bytes;
		for (int i = 0; i < MT_ENGINE_ARENAS; i++)
			c->stage[s].arena_bytes[i] = (int64_t)stages[s].arenas[i].peak_bytes;
		mt_stage_sum(&c->stage[s], machine);
	}
	return MT_OK;
}

enum mt_status mt_predict_dry(struct mt_candidate *candidate, const struct mt_model *model, struct mt_cost_model *cost,
			      struct mt_trace **spans)
{
	struct mt_run run = {.model = *model, .layout = candidate->layout, .train = mt_cost_train(cost)};
	int count = (int)candidate->layout.pp;
	struct dry_stage *stages = calloc((size_t)count, sizeof *stages);
	struct mt_dry_world *world = NULL;
	enum mt_status st;

	if (!stages)
		return mt_fail(MT_NOMEM, "no memory for a dry run of %d stages", count);
	MT_GOTO(out, mt_dry_world_create(&world, (int)mt_layout_world(&run.layout)));
	for (int s = 0; s < count; s++)
		stages[s] = (struct dry_stage){.run = &run, .cost = cost, .world = world, .stage = s, .traced = spans != NULL};
	MT_GOTO(out, start(stages, count));
	MT_GOTO(out, join(stages, count));
	take_times(candidate, stages, count);
	MT_GOTO(out, take_memory(candidate, stages, count, cost->machine));
	candidate->fidelity = MT_FIDELITY_DRY;
	mt_predict_interval(candidate, cost);
	for (int s = 0; s < count && spans; s++) {
		spans[s] = stages[s].trace;
		stages[s].trace = NULL;
	}
out:
	for (int s = 0; s < count; s++)
		mt_trace_destroy(stages[s].trace);
	mt_dry_world_destroy(world);
	free(stages);
	return st;
}
