/* reduce_narrow: gradients reduced in bf16: half the bytes on the wire. They are added up over micro-batches in f32 as ever; a
 * bucket is rounded into a buffer of its own, reduced there, and its sum, rounded at each addition, is widened back.
 *
 * There are SLOTS buffers of the largest bucket's size, used in turn: the compute stream takes the result of the bucket that a
 * buffer had before when it is needed again, or when all buckets are under way. What is summed over tp and over the ends of the
 * pipeline stays in f32. */
#include "engine/internal.h"

static void *at_half(void *base, int64_t element)
{
	return (void *)((uintptr_t)base + (uintptr_t)element * mt_dtype_bytes(MT_BF16));
}

static enum mt_status cast(struct mt_engine *e, void *dst, enum mt_dtype to, const void *src, enum mt_dtype from, int64_t count)
{
	struct mt_op op = {.kind = MT_OP_CAST, .dtype = to};

	op.move = (struct mt_move){.count = count, .src_dtype = from, .dst_dtype = to, .src = src, .dst = dst};
	return mt_engine_enqueue(e, &op);
}

enum mt_status mt_narrow_open(struct mt_engine *e)
{
	int64_t most = 0;

	if (e->layout->reduce_dtype != MT_BF16)
		return MT_OK;
	for (int i = 0; i < e->table.bucket_count; i++) {
		const struct mt_share *share = mt_share_of(e, i);

		if ((share->inner || share->outer) && e->table.buckets[i].count > most)
			most = e->table.buckets[i].count;
	}
	for (int i = 0; i < MT_NARROW_SLOTS && most > 0; i++) {
		MT_TRY(mt_engine_alloc(e, ARENA_GRADIENTS, most, MT_BF16, &e->narrow[i].buffer));
		MT_TRY(mt_event_create(e->device, &e->narrow[i].reduced));
		e->narrow[i].bucket = -1;
	}
	return MT_OK;
}

void mt_narrow_close(struct mt_engine *e)
{
	for (int i = 0; i < MT_NARROW_SLOTS; i++)
		mt_event_destroy(e->narrow[i].reduced);
}

/* The sum of the bucket that a buffer has, back to where the gradients are. */
static enum mt_status take(struct mt_engine *e, struct mt_narrow *slot)
{
	const struct mt_shard *shard;
	struct mt_mark start;
	int64_t first;

	if (!slot->buffer || slot->bucket < 0)
		return MT_OK;
	shard = &e->shards[slot->bucket];
	first = shard->offset - e->table.buckets[slot->bucket].offset;
	MT_TRY(mt_lap_begin(e, &start));
	MT_TRY(mt_stream_wait(e->compute, slot->reduced));
	MT_TRY(mt_lap_end(e, &start, &e->dp_s));
	MT_TRY(cast(e, mt_shard_grad(e, slot->bucket, shard->offset), MT_F32, at_half(slot->buffer, first), MT_BF16, shard->count));
	slot->bucket = -1;
	return MT_OK;
}

enum mt_status mt_narrow_reduce(struct mt_engine *e, int index)
{
	const struct mt_bucket *bucket = &e->table.buckets[index];
	const struct mt_share *share = mt_share_of(e, index);
	const struct mt_shard *shard = &e->shards[index];
	struct mt_narrow *slot = &e->narrow[e->narrow_next++ % MT_NARROW_SLOTS];
	void *part = at_half(slot->buffer, shard->offset - bucket->offset);

	MT_TRY(take(e, slot));
	MT_TRY(cast(e, slot->buffer, MT_BF16, mt_whole_grad(e, index), MT_F32, bucket->count));
	MT_TRY(mt_event_record(e->event, e->compute));
	MT_TRY(mt_stream_wait(e->dp_stream, e->event));
	if (share->inner)
		MT_TRY(mt_comm_reduce_scatter(share->inner, e->dp_stream, slot->buffer, part, shard->count, MT_BF16));
	if (share->outer)
		MT_TRY(mt_comm_all_reduce(share->outer, e->dp_stream, part, part, shard->count, MT_BF16, MT_SUM));
	slot->bucket = index;
	return mt_event_record(slot->reduced, e->dp_stream);
}

/* In the order in which they were sent off. */
enum mt_status mt_narrow_finish(struct mt_engine *e)
{
	for (int i = 0; i < MT_NARROW_SLOTS; i++)
		MT_TRY(take(e, &e->narrow[(e->narrow_next + i) % MT_NARROW_SLOTS]));
	e->narrow_next = 0;
	return MT_OK;
}
