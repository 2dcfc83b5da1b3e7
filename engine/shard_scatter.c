/* shard_scatter: gradients of which each rank keeps a part (ZeRO-2 and 3).
 *
 * A backward pass makes a bucket's whole gradient in memory that it gets when it comes to the first of the bucket's units and that
 * is reduce-scattered when it has finished the last. The first micro-batch's sum goes to the part, a later one's is added to it;
 * one reduction at most is under way while the next bucket's gradients are made, so two whole buckets at most are there (and the
 * tied word embedding, from the head to the embedding). With copies of the parts across, these are summed once, at the end of the
 * step. */
#include "engine/internal.h"

/* Takes the result of a reduction and frees the whole bucket. */
static enum mt_status take(struct mt_engine *e, int bucket)
{
	struct mt_shard *s = &e->shards[bucket];
	enum mt_dtype f = mt_grad_dtype(e->dtype);
	void *part = mt_shard_grad(e, bucket, s->offset);
	struct mt_op op = {.kind = MT_OP_ADD, .dtype = f};
	struct mt_mark start;

	MT_TRY(mt_lap_begin(e, &start));
	MT_TRY(mt_stream_wait(e->compute, s->scattered));
	MT_TRY(mt_lap_end(e, &start, &e->dp_s));
	if (s->summed) {
		int64_t first = s->offset - e->table.buckets[bucket].offset;
		void *own = (void *)((uintptr_t)s->grad + (uintptr_t)first * mt_dtype_bytes(f));

		op.add = (struct mt_add){.rows = 1, .cols = s->count, .a = part, .b = own, .out = part};
		MT_TRY(mt_engine_enqueue(e, &op));
	}
	s->summed = true;
	s->pending = false;
	mt_arena_free(e->arenas[ARENA_GRADIENTS], s->grad);
	s->grad = NULL;
	return MT_OK;
}

/* All results that are under way but that of one bucket. */
static enum mt_status take_but(struct mt_engine *e, int bucket)
{
	for (int i = 0; i < e->table.bucket_count; i++) {
		if (e->shards[i].pending && i != bucket)
			MT_TRY(take(e, i));
	}
	return MT_OK;
}

static enum mt_status clear(struct mt_engine *e, void *gradients, int64_t count)
{
	enum mt_dtype f = mt_grad_dtype(e->dtype);
	struct mt_op op = {.kind = MT_OP_FILL, .dtype = f};

	op.move = (struct mt_move){.count = count, .dst_dtype = f, .src_dtype = f, .dst = gradients};
	return mt_engine_enqueue(e, &op);
}

enum mt_status mt_grads_begin(struct mt_engine *e)
{
	if (e->layout->zero < 2)
		return clear(e, e->grad_flat, e->grad_elements);
	e->scattered_last = -1;
	for (int i = 0; i < e->table.bucket_count; i++) {
		e->shards[i].summed = false;
		if (!e->shards[i].scatters)
			MT_TRY(clear(e, mt_whole_grad(e, i), e->table.buckets[i].count));
	}
	return MT_OK;
}

enum mt_status mt_grads_enter(struct mt_engine *e, int unit)
{
	for (int i = 0; i < e->table.bucket_count; i++) {
		struct mt_shard *s = &e->shards[i];
		int64_t count = e->table.buckets[i].count;

		if (!s->scatters || (s->grad && !s->pending) || !mt_bucket_used_by(e, i, unit))
			continue;
		if (s->pending)
			MT_TRY(take(e, i));
		MT_TRY(take_but(e, e->scattered_last));
		MT_TRY(mt_engine_alloc(e, ARENA_GRADIENTS, count, mt_grad_dtype(e->dtype), &s->grad));
		MT_TRY(clear(e, s->grad, count));
	}
	return MT_OK;
}

static enum mt_status scatter(struct mt_engine *e, int bucket)
{
	struct mt_shard *s = &e->shards[bucket];
	enum mt_dtype f = mt_grad_dtype(e->dtype);
	int64_t first = s->offset - e->table.buckets[bucket].offset;
	void *own = (void *)((uintptr_t)s->grad + (uintptr_t)first * mt_dtype_bytes(f));

	MT_TRY(mt_event_record(e->event, e->compute));
	MT_TRY(mt_stream_wait(e->dp_stream, e->event));
	MT_TRY(mt_comm_reduce_scatter(mt_share_of(e, bucket)->inner, e->dp_stream, s->grad,
				      s->summed ? own : mt_shard_grad(e, bucket, s->offset), s->count, f));
	s->pending = true;
	e->scattered_last = bucket;
	return mt_event_record(s->scattered, e->dp_stream);
}

enum mt_status mt_grads_leave(struct mt_engine *e, int unit)
{
	for (int i = 0; i < e->table.bucket_count; i++) {
		if (e->shards[i].scatters && e->table.buckets[i].unit == unit)
			MT_TRY(scatter(e, i));
	}
	return MT_OK;
}

enum mt_status mt_grads_finish(struct mt_engine *e)
{
	enum mt_dtype f = mt_grad_dtype(e->dtype);

	MT_TRY(take_but(e, -1));
	for (int i = 0; i < e->table.bucket_count; i++) {
		const struct mt_share *share = mt_share_of(e, i);
		const struct mt_shard *s = &e->shards[i];
		void *part = mt_shard_grad(e, i, s->offset);

		if (!s->scatters || !share->outer)
			continue;
		MT_TRY(mt_event_record(e->event, e->compute));
		MT_TRY(mt_stream_wait(e->dp_stream, e->event));
		MT_TRY(mt_comm_all_reduce(share->outer, e->dp_stream, part, part, s->count, f, MT_SUM));
	}
	return MT_OK;
}

enum mt_status mt_shard_gather_grad(struct mt_engine *e, int bucket, void **whole)
{
	const struct mt_share *share = mt_share_of(e, bucket);
	const struct mt_shard *s = &e->shards[bucket];
	enum mt_dtype f = mt_grad_dtype(e->dtype);

	*whole = mt_whole_grad(e, bucket);
	if (s->scatters)
		MT_TRY(mt_engine_alloc(e, ARENA_GRADIENTS, e->table.buckets[bucket].count, f, whole));
	if (!share->inner)
		return MT_OK;
	return mt_comm_all_gather(share->inner, e->compute, mt_shard_grad(e, bucket, s->offset), *whole, s->count, f);
}

void mt_shard_drop_grad(struct mt_engine *e, int bucket, void **whole)
{
	if (e->shards[bucket].scatters)
		mt_arena_free(e->arenas[ARENA_GRADIENTS], *whole);
	*whole = NULL;
}
