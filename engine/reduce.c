/* reduce: sums gradients over the data- and context-parallel ranks, bucket by bucket, while the backward pass goes on.
 *
 * A bucket is complete when the last micro-batch's backward pass has finished its unit. It is reduce-scattered inside the group
 * that shares it out and all-reduced across those groups, after which this rank's part of the bucket is final (shard.h).
 * Before that, gradients of replicated parameters are partial under sequence parallelism (some always) and are summed over tp; the
 * tied word embedding is summed over first and last stage afterwards. Buckets that are reduced in every micro-batch:
 * shard_scatter.c. */
#include "engine/internal.h"

static enum mt_status reduce_bucket(struct mt_engine *e, int index)
{
	const struct mt_bucket *bucket = &e->table.buckets[index];
	const struct mt_share *share = mt_share_of(e, index);
	const struct mt_shard *shard = &e->shards[index];
	enum mt_dtype dtype = mt_grad_dtype(e->dtype);
	void *whole = mt_whole_grad(e, index), *part = mt_shard_grad(e, index, shard->offset);
	struct mt_mark start;

	if (bucket->replicated && (e->sp || (bucket->partial && e->layout->tp > 1))) {
		MT_TRY(mt_lap_begin(e, &start));
		MT_TRY(mt_comm_all_reduce(e->tp, e->compute, whole, whole, bucket->count, dtype, MT_SUM));
		MT_TRY(mt_lap_end(e, &start, &e->tp_s));
	}
	if (!share->inner && !share->outer)
		return MT_OK;
	if (e->layout->reduce_dtype == MT_BF16)
		return mt_narrow_reduce(e, index);
	MT_TRY(mt_event_record(e->event, e->compute));
	MT_TRY(mt_stream_wait(e->dp_stream, e->event));
	if (share->inner)
		MT_TRY(mt_comm_reduce_scatter(share->inner, e->dp_stream, whole, part, shard->count, dtype));
	if (share->outer)
		MT_TRY(mt_comm_all_reduce(share->outer, e->dp_stream, part, part, shard->count, dtype, MT_SUM));
	return MT_OK;
}

enum mt_status mt_reduce_unit(struct mt_engine *e, int unit)
{
	MT_TRY(mt_grads_leave(e, unit));
	if (!e->last_microbatch)
		return MT_OK;
	while (e->next_bucket < e->table.bucket_count) {
		int bucket = e->bucket_order[e->next_bucket];

		if (e->table.buckets[bucket].unit > unit)
			break;
		if (!e->shards[bucket].scatters)
			MT_TRY(reduce_bucket(e, bucket));
		e->next_bucket++;
	}
	return MT_OK;
}

enum mt_status mt_reduce_finish(struct mt_engine *e)
{
	enum mt_dtype dtype = mt_grad_dtype(e->dtype);
	struct mt_mark start;

	MT_TRY(mt_grads_finish(e));
	MT_TRY(mt_lap_begin(e, &start));
	MT_TRY(mt_event_record(e->event, e->dp_stream));
	MT_TRY(mt_stream_wait(e->compute, e->event));
	MT_TRY(mt_lap_end(e, &start, &e->dp_s));
	MT_TRY(mt_narrow_finish(e));
	for (int i = 0; i < e->table.bucket_count && e->ends; i++) {
		const struct mt_shard *shard = &e->shards[i];
		void *mine = mt_shard_grad(e, i, shard->offset);

		if (!e->table.buckets[i].tied)
			continue;
		MT_TRY(mt_lap_begin(e, &start));
		MT_TRY(mt_comm_all_reduce(e->ends, e->compute, mine, mine, shard->count, dtype, MT_SUM));
		MT_TRY(mt_lap_end(e, &start, &e->pp_s));
	}
	return MT_OK;
}
