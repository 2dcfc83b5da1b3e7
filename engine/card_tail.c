/* card_tail: what a stage does once a step, by the engine's own code on the dry device, see card.h. */
#include "engine/card.h"

#include "engine/internal.h"

#include <stdlib.h>
#include <string.h>

/* A cost source that notes what runs beside the compute. */
struct noted {
	struct mt_comm_cost_source source;
	double dp_total_s;
};

static double noted_comm_s(void *context, const struct mt_comm_key *key)
{
	struct noted *noted = context;
	double seconds = noted->source.comm_s(noted->source.context, key);

	if (key->group && strncmp(key->group, "dp", 2) == 0)
		noted->dp_total_s += seconds;
	return seconds;
}

/* One unit's buckets, with both streams at one time before and after. */
static enum mt_status reduce(struct mt_engine *e, struct mt_tail *tail, int unit)
{
	double start_s, summed_s;

	MT_TRY(mt_grads_enter(e, unit));
	start_s = mt_stream_now_s(e->compute);
	MT_TRY(mt_reduce_unit(e, unit));
	summed_s = mt_stream_now_s(e->compute);
	MT_TRY(mt_event_record(e->event, e->dp_stream));
	MT_TRY(mt_stream_wait(e->compute, e->event));
	tail->sum_s[unit] = summed_s - start_s;
	tail->reduce_s[unit] = mt_stream_now_s(e->compute) - summed_s;
	return MT_OK;
}

static enum mt_status measure(struct mt_engine *e, struct mt_tail *tail)
{
	struct mt_arena_stats arenas[MT_ENGINE_ARENAS];
	struct mt_step_stats stats = {0};
	double start_s = mt_stream_now_s(e->compute);

	MT_TRY(mt_grads_begin(e));
	tail->clear_s = mt_stream_now_s(e->compute) - start_s;
	e->last_microbatch = true;
	e->next_bucket = 0;
	for (int unit = 0; unit < tail->units; unit++)
		MT_TRY(reduce(e, tail, unit));
	start_s = mt_stream_now_s(e->compute);
	MT_TRY(mt_reduce_finish(e));
	tail->ends_s = mt_stream_now_s(e->compute) - start_s;
	start_s = mt_stream_now_s(e->compute);
	e->gather_s = 0;
	MT_TRY(mt_optimizer_step(e, &stats));
	tail->update_s = mt_stream_now_s(e->compute) - start_s;
	tail->gather_s = e->gather_s;
	mt_engine_memory(e, arenas);
	tail->parameter_bytes = (int64_t)arenas[ARENA_PARAMETERS].peak_bytes;
	tail->gradient_bytes = (int64_t)arenas[ARENA_GRADIENTS].peak_bytes;
	tail->optimizer_bytes = (int64_t)arenas[ARENA_OPTIMIZER].peak_bytes;
	return MT_OK;
}

static enum mt_status make_units(struct mt_tail *tail, const struct mt_engine *e)
{
	tail->units = e->table.units;
	tail->sum_s = calloc((size_t)tail->units, sizeof *tail->sum_s);
	tail->reduce_s = calloc((size_t)tail->units, sizeof *tail->reduce_s);
	return tail->sum_s && tail->reduce_s ? MT_OK : mt_fail(MT_NOMEM, "no memory for a card of %d layers", tail->units - 2);
}

enum mt_status mt_tail_measure(struct mt_tail *tail, const struct mt_run *run, int stage, struct mt_cost_source ops,
			       struct mt_comm_cost_source comms)
{
	struct noted noted = {.source = comms};
	struct mt_run one = *run; /* shallow: strings are borrowed */
	struct mt_coordinates at = {.pp = stage};
	struct mt_device_config device_config = {.kind = "dry", .cost = ops};
	struct mt_fabric_config fabric_config = {.kind = "dry",
						 .rank = mt_layout_rank(&run->layout, at),
						 .size = (int)mt_layout_world(&run->layout),
						 .cost = {.comm_s = noted_comm_s, .context = &noted}};
	struct mt_engine_config config = {.run = &one};
	struct mt_device *device = NULL;
	struct mt_fabric *fabric = NULL;
	struct mt_engine *engine = NULL;
	enum mt_status st;

	memset(tail, 0, sizeof *tail);
	one.layout.gbs = one.layout.mbs * one.layout.dp; /* the engine keeps books on micro-batches: one is enough */
	MT_GOTO(out, mt_device_create(&device, &device_config));
	MT_GOTO(out, mt_fabric_create(&fabric, &fabric_config));
	config.device = device;
	config.fabric = fabric;
	MT_GOTO(out, mt_engine_create(&engine, &config));
	MT_GOTO(out, make_units(tail, engine));
	MT_GOTO(out, measure(engine, tail));
	tail->dp_total_s = noted.dp_total_s;
out:
	mt_engine_destroy(engine);
	mt_fabric_destroy(fabric);
	mt_device_destroy(device);
	if (st != MT_OK)
		mt_tail_free(tail);
	return st;
}

void mt_tail_free(struct mt_tail *tail)
{
	free(tail->sum_s);
	free(tail->reduce_s);
	memset(tail, 0, sizeof *tail);
}
