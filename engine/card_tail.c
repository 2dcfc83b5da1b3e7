/* card_tail: what a stage does once a step, by the engine's own code on the dry device, see card.h. */
#include "engine/card.h"

#include "engine/context.h"
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

/* Seconds of a stream since *last_s. */
static double lap(struct mt_stream *stream, double *last_s)
{
	double now_s = mt_stream_now_s(stream), passed_s = now_s - *last_s;

	*last_s = now_s;
	return passed_s;
}

/* The seconds of an operation on n elements. */
static enum mt_status time_op(struct mt_engine *e, enum mt_op_kind kind, enum mt_dtype to, enum mt_dtype from, int64_t n,
			      double *seconds)
{
	struct mt_op op = {.kind = kind, .dtype = to};
	double last_s = mt_stream_now_s(e->compute);

	if (kind == MT_OP_ADD)
		op.add = (struct mt_add){.rows = 1, .cols = n, .a = e->grad_flat, .b = e->grad_flat, .out = e->grad_flat};
	else
		op.move =
			(struct mt_move){.count = n, .src_dtype = from, .dst_dtype = to, .src = e->grad_flat, .dst = e->grad_flat};
	MT_TRY(mt_engine_enqueue(e, &op));
	*seconds = lap(e->compute, &last_s);
	return MT_OK;
}

/* The collectives of a bucket, each on its stream; addresses do not matter. */
static enum mt_status time_collectives(struct mt_engine *e, int index, struct mt_bucket_cost *cost)
{
	const struct mt_bucket *bucket = &e->table.buckets[index];
	const struct mt_share *share = mt_share_of(e, index);
	const struct mt_shard *shard = &e->shards[index];
	enum mt_dtype f = mt_grad_dtype(e->dtype), reduced = cost->narrow ? MT_BF16 : f;
	double dp_s = mt_stream_now_s(e->dp_stream), compute_s = mt_stream_now_s(e->compute);
	void *any = e->grad_flat;

	if (cost->gathers) {
		MT_TRY(mt_comm_all_gather(share->gather, e->gather_stream, any, any, shard->count, e->dtype));
		cost->gather_s = lap(e->gather_stream, &dp_s);
	}
	if (bucket->replicated && (e->sp || (bucket->partial && e->layout->tp > 1))) {
		MT_TRY(mt_comm_all_reduce(e->tp, e->compute, any, any, bucket->count, f, MT_SUM));
		cost->sum_s = lap(e->compute, &compute_s);
	}
	if (share->inner)
		MT_TRY(mt_comm_reduce_scatter(share->inner, e->dp_stream, any, any, shard->count, cost->scatters ? f : reduced));
	cost->scatter_s = lap(e->dp_stream, &dp_s);
	if (share->outer)
		MT_TRY(mt_comm_all_reduce(share->outer, e->dp_stream, any, any, shard->count, cost->scatters ? f : reduced,
					  MT_SUM));
	cost->across_s = lap(e->dp_stream, &dp_s);
	cost->reduce_s = cost->scatter_s + cost->across_s;
	if (e->ends && bucket->tied) {
		MT_TRY(mt_comm_all_reduce(e->ends, e->compute, any, any, shard->count, f, MT_SUM));
		cost->ends_s = lap(e->compute, &compute_s);
	}
	return MT_OK;
}

static enum mt_status time_bucket(struct mt_engine *e, int index, struct mt_bucket_cost *cost)
{
	const struct mt_bucket *bucket = &e->table.buckets[index];
	const struct mt_share *share = mt_share_of(e, index);
	const struct mt_shard *shard = &e->shards[index];
	enum mt_dtype f = mt_grad_dtype(e->dtype);

	*cost = (struct mt_bucket_cost){.first_unit = bucket->first_unit,
					.unit = bucket->unit,
					.tied = bucket->tied,
					.gathers = shard->gathers,
					.scatters = shard->scatters,
					.dense = bucket->share == MT_SHARE_DENSE,
					.shared = share->inner || share->outer,
					.narrow = e->layout->reduce_dtype == MT_BF16};
	MT_TRY(time_collectives(e, index, cost));
	if (cost->scatters) {
		MT_TRY(time_op(e, MT_OP_FILL, f, f, bucket->count, &cost->clear_s));
		MT_TRY(time_op(e, MT_OP_ADD, f, f, shard->count, &cost->add_s));
	}
	if (cost->narrow && cost->shared) {
		MT_TRY(time_op(e, MT_OP_CAST, MT_BF16, MT_F32, bucket->count, &cost->round_s));
		MT_TRY(time_op(e, MT_OP_CAST, MT_F32, MT_BF16, shard->count, &cost->widen_s));
	}
	return MT_OK;
}

static int unit_of(const struct mt_engine *e, int64_t layer)
{
	return 1 + (int)(e->table.layer_count - 1 - layer);
}

/* What is gathered and scattered in the passes of a chunk, for the peaks of the arenas; as engine/stage.c does. */
static enum mt_status walk_forward(struct mt_engine *e, const struct mt_chunk *chunk)
{
	int64_t end = chunk->first_layer + chunk->layers;
	int behind = chunk->last ? 0 : -1;

	if (chunk->first)
		MT_TRY(mt_params_enter(e, e->table.units - 1, chunk->layers > 0 ? unit_of(e, chunk->first_layer) : behind));
	for (int64_t i = chunk->first_layer; i < end; i++)
		MT_TRY(mt_params_enter(e, unit_of(e, i), i + 1 < end ? unit_of(e, i + 1) : behind));
	return chunk->last ? mt_params_enter(e, 0, -1) : MT_OK;
}

static enum mt_status finished(struct mt_engine *e, int unit, bool splits)
{
	return splits ? MT_OK : mt_grads_leave(e, unit);
}

static enum mt_status walk_backward(struct mt_engine *e, const struct mt_chunk *chunk, bool splits)
{
	int64_t end = chunk->first_layer + chunk->layers;

	if (chunk->last) {
		MT_TRY(mt_params_enter(e, 0, chunk->layers > 0 ? unit_of(e, end - 1) : -1));
		MT_TRY(mt_grads_enter(e, 0));
		MT_TRY(finished(e, 0, splits));
	}
	for (int64_t i = end - 1; i >= chunk->first_layer; i--) {
		MT_TRY(mt_params_enter(e, unit_of(e, i), i > chunk->first_layer ? unit_of(e, i - 1) : -1));
		MT_TRY(mt_grads_enter(e, unit_of(e, i)));
		MT_TRY(finished(e, unit_of(e, i), splits));
	}
	if (chunk->first)
		MT_TRY(mt_grads_enter(e, e->table.units - 1));
	return chunk == e->table.chunks ? finished(e, e->table.units - 1, splits) : MT_OK;
}

static enum mt_status walk_wgrad(struct mt_engine *e, const struct mt_chunk *chunk)
{
	if (chunk->last)
		MT_TRY(mt_grads_leave(e, 0));
	for (int64_t i = chunk->first_layer + chunk->layers - 1; i >= chunk->first_layer; i--)
		MT_TRY(mt_grads_leave(e, unit_of(e, i)));
	return chunk == e->table.chunks ? mt_grads_leave(e, e->table.units - 1) : MT_OK;
}

/* The passes of this stage in a step, in the schedule's order: where gradients and parameters lie depends on it. */
static enum mt_status walk_all(struct mt_engine *e, const struct mt_layout *layout)
{
	struct mt_schedule_shape shape = mt_layout_schedule(layout), few = mt_schedule_settled(&shape, MT_TAIL_MICROBATCHES);
	bool splits = mt_schedule_puts_off(shape.kind, e->at.pp);
	struct mt_action_list list;
	enum mt_status st = MT_OK;

	MT_TRY(mt_schedule_create(&list, &few, e->at.pp));
	for (int64_t i = 0; i < list.count && st == MT_OK; i++) {
		const struct mt_chunk *chunk = &e->table.chunks[list.actions[i].chunk];

		if (list.actions[i].kind == MT_FORWARD)
			st = walk_forward(e, chunk);
		else if (list.actions[i].kind == MT_BACKWARD)
			st = walk_backward(e, chunk, splits);
		else if (list.actions[i].kind == MT_WGRAD)
			st = walk_wgrad(e, chunk);
	}
	mt_schedule_free(&list);
	MT_TRY(st);
	MT_TRY(mt_params_leave(e));
	return mt_grads_finish(e);
}

static int64_t aligned(int64_t bytes)
{
	return (bytes + MT_ARENA_ALIGN_BYTES - 1) / MT_ARENA_ALIGN_BYTES * MT_ARENA_ALIGN_BYTES;
}

static void take_memory(struct mt_tail *tail, const struct mt_engine *e)
{
	struct mt_arena_stats arenas[MT_ENGINE_ARENAS];
	int64_t losses = (1 + e->model->mtp) * e->microbatches * e->rows * (int64_t)mt_dtype_bytes(mt_grad_dtype(e->dtype));
	int64_t starts = mt_context_start_arrays(e->layout) * e->layout->mbs * mt_context_part_rows(e->layout) * 4;

	mt_engine_memory(e, arenas);
	tail->parameter_bytes = (int64_t)arenas[ARENA_PARAMETERS].peak_bytes;
	tail->gradient_bytes = (int64_t)arenas[ARENA_GRADIENTS].peak_bytes;
	tail->optimizer_bytes = (int64_t)arenas[ARENA_OPTIMIZER].peak_bytes;
	tail->workspace_bytes = (int64_t)arenas[ARENA_WORKSPACE].peak_bytes - (e->last ? aligned(losses) : 0) -
				(e->positions ? aligned(e->rows * 4) : 0) - (e->window_starts ? aligned(starts) : 0);
}

static enum mt_status measure(struct mt_engine *e, struct mt_tail *tail, struct noted *noted, const struct mt_layout *layout)
{
	struct mt_step_stats stats = {0};
	double last_s = mt_stream_now_s(e->compute);

	MT_TRY(mt_grads_begin(e));
	mt_fp8_begin(e);
	MT_TRY(mt_experts_begin_step(e));
	tail->clear_s = lap(e->compute, &last_s);
	for (int i = 0; i < tail->bucket_count; i++) {
		tail->order[i] = e->bucket_order[i];
		MT_TRY(time_bucket(e, i, &tail->buckets[i]));
		tail->ends_s += tail->buckets[i].ends_s;
	}
	if (e->layout->zero >= 2)
		MT_TRY(walk_all(e, layout));
	MT_TRY(mt_event_record(e->event, e->dp_stream));
	MT_TRY(mt_stream_wait(e->compute, e->event));
	last_s = mt_stream_now_s(e->compute);
	e->gather_s = noted->dp_total_s = 0;
	MT_TRY(mt_fp8_finish(e));
	MT_TRY(mt_optimizer_step(e, &stats));
	if (!stats.skipped)
		MT_TRY(mt_experts_follow_load(e));
	tail->update_s = lap(e->compute, &last_s);
	tail->gather_s = e->gather_s;
	tail->dp_total_s = noted->dp_total_s;
	take_memory(tail, e);
	return MT_OK;
}

static enum mt_status list_used(struct mt_tail *tail, const struct mt_engine *e)
{
	int count = 0;

	for (int unit = 0; unit < tail->units; unit++) {
		for (int i = 0; i < tail->bucket_count; i++)
			count += mt_bucket_used_by(e, i, unit);
	}
	tail->used = calloc((size_t)count + 1, sizeof *tail->used);
	tail->used_from = calloc((size_t)tail->units + 1, sizeof *tail->used_from);
	if (!tail->used || !tail->used_from)
		return mt_fail(MT_NOMEM, "no memory for a card of %d units", tail->units);
	count = 0;
	for (int unit = 0; unit < tail->units; unit++) {
		for (int i = 0; i < tail->bucket_count; i++) {
			if (mt_bucket_used_by(e, i, unit))
				tail->used[count++] = i;
		}
		tail->used_from[unit + 1] = count;
	}
	return MT_OK;
}

static enum mt_status make_buckets(struct mt_tail *tail, const struct mt_engine *e)
{
	tail->units = e->table.units;
	tail->bucket_count = e->table.bucket_count;
	tail->buckets = calloc((size_t)tail->bucket_count + 1, sizeof *tail->buckets);
	tail->order = calloc((size_t)tail->bucket_count + 1, sizeof *tail->order);
	if (!tail->buckets || !tail->order)
		return mt_fail(MT_NOMEM, "no memory for a card of %d buckets", tail->bucket_count);
	return list_used(tail, e);
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
	/* The engine keeps books on micro-batches: as few as the schedule can have. */
	one.layout.gbs = one.layout.mbs * one.layout.dp;
	if (one.layout.vp > 1 && one.layout.schedule == MT_SCHEDULE_1F1B)
		one.layout.gbs *= one.layout.vp_group > 0 ? one.layout.vp_group : one.layout.pp;
	MT_GOTO(out, mt_device_create(&device, &device_config));
	MT_GOTO(out, mt_fabric_create(&fabric, &fabric_config));
	config.device = device;
	config.fabric = fabric;
	MT_GOTO(out, mt_engine_create(&engine, &config));
	MT_GOTO(out, make_buckets(tail, engine));
	MT_GOTO(out, measure(engine, tail, &noted, &run->layout));
	tail->scratch_bytes = (int64_t)device->scratch_bytes;
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
	free(tail->buckets);
	free(tail->order);
	free(tail->used);
	free(tail->used_from);
	memset(tail, 0, sizeof *tail);
}
