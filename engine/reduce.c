/* reduce: sums gradients over the data- and context-parallel ranks, bucket by bucket, while the backward pass goes on.
 *
 * A bucket is complete when the last micro-batch's backward pass has finished its unit. ZeRO-0: all-reduce; ZeRO-1:
 * reduce-scatter, after which this rank's shard of the bucket is final (Rajbhandari et al. 2020, arXiv:1910.02054).
 * Before that, gradients of replicated parameters are partial under sequence parallelism and are summed over tp; the tied
 * word embedding is summed over first and last stage afterwards. */
#include "engine/internal.h"

static void *bucket_at(const struct mt_engine *e, const struct mt_bucket *bucket, int64_t element)
{
	return (void *)((uintptr_t)e->grad_flat + (uintptr_t)(bucket->offset + element) * mt_dtype_bytes(mt_grad_dtype(e->dtype)));
}

static enum mt_status reduce_bucket(struct mt_engine *e, const struct mt_bucket *bucket)
{
	enum mt_dtype dtype = mt_grad_dtype(e->dtype);
	void *whole = bucket_at(e, bucket, 0);
	int64_t shard = bucket->count / e->replicas;
	struct mt_mark start;

	if (bucket->replicated && e->sp) {
		MT_TRY(mt_lap_begin(e, &start));
		MT_TRY(mt_comm_all_reduce(e->tp, e->compute, whole, whole, bucket->count, dtype, MT_SUM));
		MT_TRY(mt_lap_end(e, &start, &e->tp_s));
	}
	if (e->replicas == 1)
		return MT_OK;
	MT_TRY(mt_event_record(e->event, e->compute));
	MT_TRY(mt_stream_wait(e->dp_stream, e->event));
	if (e->layout->zero == 0)
		return mt_comm_all_reduce(e->dp, e->dp_stream, whole, whole, bucket->count, dtype, MT_SUM);
	return mt_comm_reduce_scatter(e->dp, e->dp_stream, whole, bucket_at(e, bucket, e->replica * shard), shard, dtype);
}

enum mt_status mt_reduce_unit(struct mt_engine *e, int unit)
{
	if (!e->last_microbatch)
		return MT_OK;
	while (e->next_bucket < e->table.bucket_count) {
		const struct mt_bucket *bucket = &e->table.buckets[e->bucket_order[e->next_bucket]];

		if (bucket->unit > unit)
			break;
		MT_TRY(reduce_bucket(e, bucket));
		e->next_bucket++;
	}
	return MT_OK;
}

enum mt_status mt_reduce_finish(struct mt_engine *e)
{
	enum mt_dtype dtype = mt_grad_dtype(e->dtype);
	struct mt_mark start;

	MT_TRY(mt_lap_begin(e, &start));
	MT_TRY(mt_event_record(e->event, e->dp_stream));
	MT_TRY(mt_stream_wait(e->compute, e->event));
	MT_TRY(mt_lap_end(e, &start, &e->dp_s));
	for (int i = 0; i < e->table.bucket_count && e->ends; i++) {
		const struct mt_bucket *bucket = &e->table.buckets[i];
		int64_t shard = e->layout->zero ? bucket->count / e->replicas : bucket->count;
		void *mine = bucket_at(e, bucket, e->layout->zero ? e->replica * shard : 0);

		if (!bucket->tied)
			continue;
		MT_TRY(mt_lap_begin(e, &start));
		MT_TRY(mt_comm_all_reduce(e->ends, e->compute, mine, mine, shard, dtype, MT_SUM));
		MT_TRY(mt_lap_end(e, &start, &e->pp_s));
	}
	return MT_OK;
}
