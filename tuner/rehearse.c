/* rehearse: see rehearse.h. */
#include "tuner/rehearse.h"

#include "base/clock.h"
#include "base/stats.h"
#include "tuner/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of real links: a message is found later by at most this part of what it took, or 2 ms, and dozens of ranks wait on two cores. */
#define PATIENCE_FRAC 0.03

/* One rank's side. */
struct player {
	const struct mt_rehearse_config *config;
	struct mt_device *device;
	struct mt_fabric *emulated; /* owned; NULL: the links are real */
	struct mt_fabric *fabric;
	struct mt_engine *engine;
	struct mt_group *world;
	struct mt_step_stats *stats; /* owned: steps of them */
	double *walls_s;             /* owned */
	double late_s;
};

static double op_s(void *context, const struct mt_op_key *key)
{
	const struct mt_cost_model *cost = context;

	return mt_profile_op_cost(cost->profile, key, NULL, NULL);
}

static double transfer_s(void *context, size_t bytes)
{
	return mt_cost_transfer_s(context, bytes);
}

static enum mt_status open_player(struct player *p)
{
	const struct mt_rehearse_config *c = p->config;
	struct mt_device_config device = {.kind = c->real_links ? "idle" : "rehearsal",
					  .cost = {.op_s = op_s,
						   .context = c->cost,
						   .transfer_s = transfer_s,
						   .gpu_arch = mt_machine_gpu_arch(c->cost->machine)}};
	struct mt_fabric_config fabric = {.kind = "rehearsal", .base = c->fabric, .cost = mt_cost_comms(c->cost)};
	struct mt_engine_config engine = {.run = c->run};

	p->stats = calloc((size_t)c->steps, sizeof *p->stats);
	p->walls_s = calloc((size_t)c->steps, sizeof *p->walls_s);
	if (!p->stats || !p->walls_s)
		return mt_fail(MT_NOMEM, "no memory for the times of %d steps", c->steps);
	MT_TRY(mt_device_create(&p->device, &device));
	fabric.device = engine.device = p->device;
	if (c->real_links)
		mt_fabric_set_patience(c->fabric, PATIENCE_FRAC);
	else
		MT_TRY(mt_fabric_create(&p->emulated, &fabric));
	engine.fabric = p->fabric = c->real_links ? c->fabric : p->emulated;
	MT_TRY(mt_engine_create(&p->engine, &engine));
	return mt_group_create_all(p->fabric, "rehearsal", &p->world);
}

static void close_player(struct player *p)
{
	mt_engine_destroy(p->engine);
	mt_group_destroy(p->world);
	mt_fabric_destroy(p->emulated);
	mt_device_destroy(p->device);
	free(p->stats);
	free(p->walls_s);
}

/* All clocks start a step together, after the barrier. */
static enum mt_status run_step(struct player *p, double pace, struct mt_step_stats *stats, double *wall_s)
{
	double start_s, virtual_s;

	MT_TRY(mt_comm_barrier(p->world));
	start_s = mt_clock_s();
	virtual_s = p->device->virtual_start_s;
	mt_device_set_pace(p->device, pace);
	MT_TRY(mt_engine_step(p->engine, stats));
	if (!p->device->info.real_time)
		mt_device_sleep_until(p->device, virtual_s + stats->seconds);
	*wall_s = mt_clock_s() - start_s;
	if (p->device->late_s > p->late_s)
		p->late_s = p->device->late_s;
	mt_device_set_pace(p->device, 0);
	return MT_OK;
}

/* The first step makes MPI's connections. */
static enum mt_status run_steps(struct player *p)
{
	const struct mt_rehearse_config *c = p->config;
	struct mt_step_stats first;
	double wall_s;

	MT_TRY(run_step(p, 0, &first, &wall_s));
	p->late_s = 0;
	for (int i = 0; i < c->steps; i++) {
		if (i == c->steps - 1 && c->trace)
			mt_device_set_trace(p->device, c->trace, c->trace_context);
		MT_TRY(run_step(p, c->pace, &p->stats[i], &p->walls_s[i]));
	}
	mt_device_set_trace(p->device, NULL, NULL);
	return MT_OK;
}

static double median_of(const struct player *p, size_t offset)
{
	double values[64];
	int count = p->config->steps < 64 ? p->config->steps : 64;

	for (int i = 0; i < count; i++)
		memcpy(&values[i], (const char *)&p->stats[i] + offset, sizeof values[i]);
	return mt_stats_median(values, (size_t)count);
}

static void sum_up(const struct player *p, struct mt_rehearsed_rank *mine)
{
	struct mt_arena_stats arenas[MT_ENGINE_ARENAS];

	mine->stage = mt_layout_coordinates(&p->config->run->layout, mt_fabric_rank(p->fabric)).pp;
	mine->step_s = median_of(p, offsetof(struct mt_step_stats, seconds));
	mine->compute_s = median_of(p, offsetof(struct mt_step_stats, compute_s));
	mine->tp_s = median_of(p, offsetof(struct mt_step_stats, tp_s));
	mine->dp_s = median_of(p, offsetof(struct mt_step_stats, dp_s));
	mine->pp_s = median_of(p, offsetof(struct mt_step_stats, pp_s));
	mine->ep_s = median_of(p, offsetof(struct mt_step_stats, ep_s));
	mine->optimizer_s = median_of(p, offsetof(struct mt_step_stats, optimizer_s));
	mine->wall_s = mt_stats_median(p->walls_s, (size_t)p->config->steps);
	mine->late_s = p->late_s;
	mt_engine_memory(p->engine, arenas);
	for (int i = 0; i < MT_ENGINE_ARENAS; i++)
		mine->arena_bytes[i] = (int64_t)arenas[i].peak_bytes;
	mine->host_bytes = (int64_t)mt_engine_host_bytes(p->engine);
	mine->scratch_bytes = (int64_t)p->device->scratch_bytes;
}

static enum mt_status gather(struct player *p, struct mt_rehearsal *r)
{
	struct mt_rehearsed_rank mine;
	double waited_s = 0, all_s = 0;

	memset(&mine, 0, sizeof mine);
	sum_up(p, &mine);
	r->ranks = mt_fabric_size(p->fabric);
	r->rank = calloc((size_t)r->ranks, sizeof *r->rank);
	if (!r->rank)
		return mt_fail(MT_NOMEM, "no memory for the times of %d ranks", r->ranks);
	MT_TRY(mt_comm_host_all_gather(p->world, &mine, r->rank, sizeof mine));
	for (int i = 0; i < r->ranks; i++) {
		const struct mt_rehearsed_rank *k = &r->rank[i];

		r->step_s = k->step_s > r->step_s ? k->step_s : r->step_s;
		r->wall_s = k->wall_s > r->wall_s ? k->wall_s : r->wall_s;
		r->late_s = k->late_s > r->late_s ? k->late_s : r->late_s;
		waited_s += k->pp_s;
		all_s += k->step_s;
	}
	r->bubble_frac = all_s > 0 ? waited_s / all_s : 0;
	return MT_OK;
}

enum mt_status mt_rehearse(struct mt_rehearsal *rehearsal, const struct mt_rehearse_config *config)
{
	struct player p = {.config = config};
	enum mt_status st;

	memset(rehearsal, 0, sizeof *rehearsal);
	MT_GOTO(out, open_player(&p));
	MT_GOTO(out, run_steps(&p));
	MT_GOTO(out, gather(&p, rehearsal));
out:
	close_player(&p);
	return st;
}

void mt_rehearsal_free(struct mt_rehearsal *rehearsal)
{
	free(rehearsal->rank);
	memset(rehearsal, 0, sizeof *rehearsal);
}

bool mt_rehearsal_memory_agrees(const struct mt_rehearsal *rehearsal, const struct mt_candidate *dry, char why[200])
{
	static const char *const names[MT_ENGINE_ARENAS] = {"parameters", "gradients", "optimizer", "activations", "workspace"};

	why[0] = '\0';
	for (int r = 0; r < rehearsal->ranks; r++) {
		const struct mt_rehearsed_rank *k = &rehearsal->rank[r];
		const struct mt_stage_prediction *stage = &dry->stage[k->stage];

		for (int i = 0; i < MT_ENGINE_ARENAS; i++) {
			if (k->arena_bytes[i] == stage->arena_bytes[i])
				continue;
			snprintf(why, 200, "rank %d of stage %d: %s peak %lld bytes, %lld by the dry run", r, k->stage, names[i],
				 (long long)k->arena_bytes[i], (long long)stage->arena_bytes[i]);
			return false;
		}
		if (k->host_bytes != stage->host_bytes) {
			snprintf(why, 200, "rank %d of stage %d: host peak %lld bytes, %lld by the dry run", r, k->stage,
				 (long long)k->host_bytes, (long long)stage->host_bytes);
			return false;
		}
		if (k->scratch_bytes != stage->scratch_bytes) {
			snprintf(why, 200, "rank %d of stage %d: scratch %lld bytes, %lld by the dry run", r, k->stage,
				 (long long)k->scratch_bytes, (long long)stage->scratch_bytes);
			return false;
		}
	}
	return true;
}
