/* optimizer: global-norm clipping and AdamW on this rank's shards, then the parameters of the other ranks' shards.
 *
 * Master weights are f32: the parameters themselves when those are f32, a shard beside them when they are bf16. */
#include "engine/internal.h"

#include <math.h>

double mt_learning_rate(const struct mt_train_options *train, int64_t step)
{
	int64_t steps = train->decay_steps > 0 ? train->decay_steps : train->steps;
	double progress;

	if (step < train->warmup_steps)
		return train->lr * (double)(step + 1) / (double)train->warmup_steps;
	if (train->decay == MT_DECAY_CONSTANT || steps <= train->warmup_steps)
		return train->lr;
	progress = (double)(step - train->warmup_steps) / (double)(steps - train->warmup_steps);
	if (progress > 1)
		progress = 1;
	if (train->decay == MT_DECAY_LINEAR)
		return train->lr + (train->min_lr - train->lr) * progress;
	return train->min_lr + 0.5 * (train->lr - train->min_lr) * (1 + cos(M_PI * progress));
}

static void *offset_of(void *base, int64_t elements, enum mt_dtype dtype)
{
	return base ? (void *)((uintptr_t)base + (uintptr_t)elements * mt_dtype_bytes(dtype)) : NULL;
}

enum mt_status mt_losses_sum(struct mt_engine *e, double *sum)
{
	int64_t count = e->microbatches * e->rows;

	MT_TRY(mt_device_download(e->device, e->compute, e->host_losses, e->losses,
				  (size_t)count * mt_dtype_bytes(mt_grad_dtype(e->dtype))));
	*sum = 0;
	for (int64_t i = 0; i < count; i++)
		*sum += e->dtype == MT_F64 ? ((const double *)e->host_losses)[i] : (double)((const float *)e->host_losses)[i];
	return MT_OK;
}

/* numbers[0] = square sum of the gradients, [1] = sum of the losses, [2] = targets that count, over all ranks; the host learns
 * them. */
static enum mt_status global_numbers(struct mt_engine *e, double numbers[3])
{
	enum mt_dtype f = mt_grad_dtype(e->dtype);
	bool reports_loss = e->last && e->at.tp == 0;

	numbers[0] = numbers[1] = numbers[2] = 0;
	MT_TRY(mt_device_upload(e->device, e->compute, e->numbers, numbers, 3 * sizeof *numbers));
	for (int i = 0; i < e->segment_count; i++) {
		struct mt_op op = {.kind = MT_OP_SUMSQ, .dtype = f};

		if (!e->segments[i].counted)
			continue;
		op.sumsq = (struct mt_sumsq){
			.count = e->segments[i].count, .x = offset_of(e->grad_flat, e->segments[i].offset, f), .out = e->numbers};
		MT_TRY(mt_engine_enqueue(e, &op));
	}
	if (reports_loss) {
		MT_TRY(mt_losses_sum(e, &numbers[1]));
		numbers[2] = e->counted;
		MT_TRY(mt_device_upload(e->device, e->compute, offset_of(e->numbers, 1, MT_F64), &numbers[1], 2 * sizeof *numbers));
	}
	if (mt_group_size(e->world) > 1)
		MT_TRY(mt_comm_all_reduce(e->world, e->compute, e->numbers, e->numbers, 3, MT_F64, MT_SUM));
	return mt_device_download(e->device, e->compute, numbers, e->numbers, 3 * sizeof *numbers);
}

static struct mt_op update_of(struct mt_engine *e, const struct mt_segment *s, double lr, double grad_scale)
{
	const struct mt_train_options *train = &e->config.run->train;
	enum mt_dtype f = mt_grad_dtype(e->dtype);
	void *param = offset_of(e->param_flat, s->offset, e->dtype);
	struct mt_op op = {.kind = MT_OP_ADAMW, .dtype = e->dtype};

	op.adamw = (struct mt_adamw){.count = s->count,
				     .step = e->step + 1,
				     .lr = lr,
				     .beta1 = train->beta1,
				     .beta2 = train->beta2,
				     .eps = train->eps,
				     .decay = s->decay ? train->weight_decay : 0,
				     .grad_scale = grad_scale,
				     .grad = offset_of(e->grad_flat, s->offset, f),
				     .master = e->master ? offset_of(e->master, s->shard_offset, f) : param,
				     .m = offset_of(e->moment1, s->shard_offset, f),
				     .v = offset_of(e->moment2, s->shard_offset, f),
				     .param = param};
	return op;
}

/* ZeRO-1: every rank gets the parameters that the others updated, while later buckets are still being updated. */
static enum mt_status gather_bucket(struct mt_engine *e, const struct mt_bucket *bucket)
{
	int64_t shard = bucket->count / e->replicas;

	MT_TRY(mt_event_record(e->event, e->compute));
	MT_TRY(mt_stream_wait(e->dp_stream, e->event));
	return mt_comm_all_gather(e->dp, e->dp_stream, offset_of(e->param_flat, bucket->offset + e->replica * shard, e->dtype),
				  offset_of(e->param_flat, bucket->offset, e->dtype), shard, e->dtype);
}

static enum mt_status update_all(struct mt_engine *e, double lr, double grad_scale)
{
	bool gathers = e->layout->zero && e->replicas > 1;
	int next = 0;
	struct mt_mark start;

	for (int i = 0; i < e->table.bucket_count; i++) {
		int first = next;

		for (; next < e->segment_count && e->segments[next].bucket == i; next++)
			e->updates[next] = update_of(e, &e->segments[next], lr, grad_scale);
		MT_TRY(mt_device_enqueue_many(e->device, e->compute, &e->updates[first], next - first));
		if (gathers)
			MT_TRY(gather_bucket(e, &e->table.buckets[i]));
	}
	MT_TRY(mt_lap_begin(e, &start));
	MT_TRY(mt_event_record(e->event, e->dp_stream));
	MT_TRY(mt_stream_wait(e->compute, e->event));
	return mt_lap_end(e, &start, &e->gather_s);
}

enum mt_status mt_optimizer_step(struct mt_engine *e, struct mt_step_stats *stats)
{
	const struct mt_train_options *train = &e->config.run->train;
	double numbers[3], scale = 1, all = (double)(e->layout->gbs * e->layout->seq);
	struct mt_mark start;

	MT_TRY(mt_lap_begin(e, &start));
	MT_TRY(global_numbers(e, numbers));
	/* Gradients are of the sum of the losses over all rows; the mean is over those that count (on the dry device none do). */
	e->token_scale = numbers[2] > 0 ? all / numbers[2] : 1;
	stats->grad_norm = sqrt(numbers[0]) * e->token_scale;
	stats->loss = numbers[1] / all * e->token_scale;
	stats->lr = mt_learning_rate(train, e->step);
	if (!isfinite(stats->grad_norm) || !isfinite(stats->loss))
		stats->skipped = MT_SKIPPED_NOT_FINITE;
	else if (e->loss_limit > 0 && stats->loss > e->loss_limit)
		stats->skipped = MT_SKIPPED_SPIKE;
	if (train->clip > 0 && stats->grad_norm > train->clip)
		scale = train->clip / (stats->grad_norm + 1e-6);
	if (!stats->skipped)
		MT_TRY(update_all(e, stats->lr, scale * e->token_scale));
	return mt_lap_end(e, &start, &e->optimizer_s);
}
