/* shard_gather: parameters of which each rank keeps a part (ZeRO-3), whole while they are needed.
 *
 * Before a unit runs, its buckets are waited for and those of the next unit are asked for, so that they come while it computes;
 * what neither needs is dropped first. The last unit's stays at the end of a pass: on the stage with the head the backward pass
 * begins with it, and the next forward pass often with what a backward pass ended with. */
#include "engine/internal.h"

static void drop(struct mt_engine *e, struct mt_shard *s)
{
	mt_arena_free(e->arenas[ARENA_PARAMETERS], s->param);
	s->param = NULL;
}

static enum mt_status await(struct mt_engine *e, struct mt_shard *s)
{
	struct mt_mark start;

	if (!s->awaited)
		return MT_OK;
	s->awaited = false;
	MT_TRY(mt_lap_begin(e, &start));
	MT_TRY(mt_stream_wait(e->compute, s->gathered));
	return mt_lap_end(e, &start, &e->dp_s);
}

/* The memory may have been in use by kernels until now. */
static enum mt_status gather(struct mt_engine *e, int bucket)
{
	struct mt_shard *s = &e->shards[bucket];

	MT_TRY(mt_engine_alloc(e, ARENA_PARAMETERS, e->table.buckets[bucket].count, e->dtype, &s->param));
	MT_TRY(mt_event_record(e->event, e->compute));
	MT_TRY(mt_stream_wait(e->gather_stream, e->event));
	MT_TRY(mt_comm_all_gather(mt_share_of(e, bucket)->gather, e->gather_stream, mt_shard_param(e, bucket, s->offset), s->param,
				  s->count, e->dtype));
	s->awaited = true;
	return mt_event_record(s->gathered, e->gather_stream);
}

static bool used(const struct mt_engine *e, int bucket, int unit)
{
	return unit >= 0 && mt_bucket_used_by(e, bucket, unit);
}

static enum mt_status gather_unit(struct mt_engine *e, int unit)
{
	for (int i = 0; i < e->table.bucket_count; i++) {
		if (e->shards[i].gathers && !e->shards[i].param && used(e, i, unit))
			MT_TRY(gather(e, i));
	}
	return MT_OK;
}

enum mt_status mt_params_enter(struct mt_engine *e, int unit, int next)
{
	if (!e->gather_stream)
		return MT_OK;
	for (int i = 0; i < e->table.bucket_count; i++) {
		if (e->shards[i].param && !used(e, i, unit) && !used(e, i, next)) {
			MT_TRY(await(e, &e->shards[i]));
			drop(e, &e->shards[i]);
		}
	}
	MT_TRY(gather_unit(e, unit));
	for (int i = 0; i < e->table.bucket_count; i++) {
		if (e->shards[i].param && used(e, i, unit))
			MT_TRY(await(e, &e->shards[i]));
	}
	return gather_unit(e, next);
}

enum mt_status mt_params_leave(struct mt_engine *e)
{
	for (int i = 0; i < e->table.bucket_count && e->gather_stream; i++) {
		if (!e->shards[i].param)
			continue;
		MT_TRY(await(e, &e->shards[i]));
		drop(e, &e->shards[i]);
	}
	return MT_OK;
}

enum mt_status mt_shard_gather_param(struct mt_engine *e, int bucket, void **whole)
{
	const struct mt_shard *s = &e->shards[bucket];

	*whole = mt_whole_param(e, bucket);
	if (!s->gathers)
		return MT_OK;
	MT_TRY(mt_engine_alloc(e, ARENA_PARAMETERS, e->table.buckets[bucket].count, e->dtype, whole));
	return mt_comm_all_gather(mt_share_of(e, bucket)->inner, e->compute, mt_shard_param(e, bucket, s->offset), *whole, s->count,
				  e->dtype);
}

void mt_shard_drop_param(struct mt_engine *e, int bucket, void **whole)
{
	if (e->shards[bucket].gathers)
		mt_arena_free(e->arenas[ARENA_PARAMETERS], *whole);
	*whole = NULL;
}
