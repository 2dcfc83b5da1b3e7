/* optimizer: global-norm clipping and the step of AdamW, SGD or Muon (muon.c) on this rank's shards, then the parameters of the
 * other ranks' shards.
 *
 * Master weights are f32: the parameters themselves when those are f32, a shard beside them when they are bf16 or f16. */
#include "engine/internal.h"

#include <math.h>

static void *offset_of(void *base, int64_t elements, enum mt_dtype dtype)
{
	return base ? (void *)((uintptr_t)base + (uintptr_t)elements * mt_dtype_bytes(dtype)) : NULL;
}

/* Of the model's own head, depth 0, or of a multi-token module's. */
static enum mt_status sum_losses(struct mt_engine *e, int64_t depth, double *sum)
{
	enum mt_dtype f = mt_grad_dtype(e->dtype);
	int64_t count = e->microbatches * e->rows;

	MT_TRY(mt_device_download(e->device, e->compute, e->host_losses, offset_of(e->losses, depth * count, f),
				  (size_t)count * mt_dtype_bytes(f)));
	*sum = 0;
	for (int64_t i = 0; i < count; i++)
		*sum += e->dtype == MT_F64 ? ((const double *)e->host_losses)[i] : (double)((const float *)e->host_losses)[i];
	return MT_OK;
}

enum mt_status mt_losses_sum(struct mt_engine *e, double *sum)
{
	return sum_losses(e, 0, sum);
}

/* This rank's part of the mean over modules of the mean over the rows that count for each. */
static enum mt_status module_losses(struct mt_engine *e, double *mean)
{
	const struct mt_layout *l = e->layout;
	double sum;

	*mean = 0;
	for (int64_t k = 1; k <= e->model->mtp; k++) {
		MT_TRY(sum_losses(e, k, &sum));
		*mean += sum / (double)(e->model->mtp * e->gbs * (l->seq - k));
	}
	return MT_OK;
}

/* numbers[0] = square sum of the gradients, [1] = sum of the losses, [2] = targets that count, [3] = mean loss of multi-token
 * modules, over all ranks; the host learns them. */
static enum mt_status global_numbers(struct mt_engine *e, double numbers[4])
{
	enum mt_dtype f = mt_grad_dtype(e->dtype);
	bool reports_loss = e->last && e->at.tp == 0;

	numbers[0] = numbers[1] = numbers[2] = numbers[3] = 0;
	MT_TRY(mt_device_upload(e->device, e->compute, e->numbers, numbers, 4 * sizeof *numbers));
	for (int i = 0; i < e->segment_count; i++) {
		struct mt_op op = {.kind = MT_OP_SUMSQ, .dtype = f};

		if (!e->segments[i].counted)
			continue;
		op.sumsq = (struct mt_sumsq){.count = e->segments[i].count,
					     .x = mt_shard_grad(e, e->segments[i].bucket, e->segments[i].offset),
					     .out = e->numbers};
		MT_TRY(mt_engine_enqueue(e, &op));
	}
	if (reports_loss) {
		MT_TRY(mt_losses_sum(e, &numbers[1]));
		numbers[2] = e->counted;
		MT_TRY(module_losses(e, &numbers[3]));
		MT_TRY(mt_device_upload(e->device, e->compute, offset_of(e->numbers, 1, MT_F64), &numbers[1], 3 * sizeof *numbers));
	}
	if (mt_group_size(e->world) > 1)
		MT_TRY(mt_comm_all_reduce(e->world, e->compute, e->numbers, e->numbers, 4, MT_F64, MT_SUM));
	return mt_device_download(e->device, e->compute, numbers, e->numbers, 4 * sizeof *numbers);
}

/* What a step is made with. */
struct rates {
	double lr, ends_lr, decay, grad_scale;
};

static struct mt_op sgd_of(struct mt_engine *e, const struct mt_segment *s, const struct rates *rates)
{
	const struct mt_train_options *train = &e->config.run->train;
	enum mt_dtype f = mt_grad_dtype(e->dtype);
	void *param = mt_shard_param(e, s->bucket, s->offset);
	struct mt_op op = {.kind = MT_OP_SGD, .dtype = e->dtype};

	op.sgd = (struct mt_sgd){.count = s->count,
				 .lr = s->ends ? rates->ends_lr : rates->lr,
				 .momentum = train->momentum,
				 .nesterov = train->nesterov,
				 .decay = s->decay ? rates->decay : 0,
				 .grad_scale = rates->grad_scale,
				 .grad = mt_shard_grad(e, s->bucket, s->offset),
				 .master = e->master ? offset_of(e->master, s->shard_offset, f) : param,
				 .m = offset_of(e->moment1, s->shard_offset, f),
				 .param = param};
	return op;
}

static struct mt_op adamw_of(struct mt_engine *e, const struct mt_segment *s, const struct rates *rates)
{
	const struct mt_train_options *train = &e->config.run->train;
	enum mt_dtype f = mt_grad_dtype(e->dtype);
	void *param = mt_shard_param(e, s->bucket, s->offset);
	struct mt_op op = {.kind = MT_OP_ADAMW, .dtype = e->dtype};

	op.adamw = (struct mt_adamw){.count = s->count,
				     .step = e->step - e->skipped + 1,
				     .lr = s->ends ? rates->ends_lr : rates->lr,
				     .beta1 = train->beta1,
				     .beta2 = train->beta2,
				     .eps = train->eps,
				     .decay = s->decay ? rates->decay : 0,
				     .grad_scale = rates->grad_scale,
				     .grad = mt_shard_grad(e, s->bucket, s->offset),
				     .master = e->master ? offset_of(e->master, s->shard_offset, f) : param,
				     .m = offset_of(e->moment1, s->shard_offset, mt_moment_dtype(e, e->layout->moment1_dtype)),
				     .v = offset_of(e->moment2, s->moment2_offset, mt_moment_dtype(e, e->layout->moment2_dtype)),
				     .m_dtype = (enum mt_dtype)e->layout->moment1_dtype,
				     .v_dtype = (enum mt_dtype)e->layout->moment2_dtype,
				     .param = param};
	return op;
}

/* Every rank gets the parameters that the others updated, while later buckets are still being updated. */
static enum mt_status gather_bucket(struct mt_engine *e, int bucket)
{
	const struct mt_share *share = mt_share_of(e, bucket);
	const struct mt_shard *shard = &e->shards[bucket];

	if (!share->inner || shard->gathers) /* those come when they are needed */
		return MT_OK;
	MT_TRY(mt_event_record(e->event, e->compute));
	MT_TRY(mt_stream_wait(e->dp_stream, e->event));
	return mt_comm_all_gather(share->inner, e->dp_stream, mt_shard_param(e, bucket, shard->offset), mt_whole_param(e, bucket),
				  shard->count, e->dtype);
}

/* The segments of a bucket that are updated element by element, in as few launches as the device can. */
static enum mt_status update_elements(struct mt_engine *e, int bucket, int *next, const struct rates *rates)
{
	int count = 0;

	for (; *next < e->segment_count && e->segments[*next].bucket == bucket; ++*next) {
		const struct mt_segment *s = &e->segments[*next];

		if (s->rule == MT_ADAMW)
			e->updates[count++] = adamw_of(e, s, rates);
		if (s->rule == MT_SGD)
			e->updates[count++] = sgd_of(e, s, rates);
	}
	return mt_device_enqueue_many(e->device, e->compute, e->updates, count);
}

static enum mt_status update_all(struct mt_engine *e, const struct rates *rates)
{
	int next = 0;
	struct mt_mark start;

	for (int i = 0; i < e->table.bucket_count; i++) {
		MT_TRY(update_elements(e, i, &next, rates));
		if (e->config.run->train.optimizer == MT_MUON)
			MT_TRY(mt_muon_update(e, i, rates->lr, rates->decay, rates->grad_scale));
		MT_TRY(gather_bucket(e, i));
	}
	MT_TRY(mt_lap_begin(e, &start));
	MT_TRY(mt_event_record(e->event, e->dp_stream));
	MT_TRY(mt_stream_wait(e->compute, e->event));
	return mt_lap_end(e, &start, &e->gather_s);
}

/* While the batch grows the schedule goes by samples, in full batches; else by steps. */
static struct rates rates_now(const struct mt_engine *e)
{
	const struct mt_train_options *train = &e->config.run->train;
	double full = (double)e->layout->gbs, begun = (double)e->step, done = begun + 1;
	double peak = train->embedding_lr > 0 ? train->embedding_lr : train->lr;
	double least = train->embedding_min_lr > 0 ? train->embedding_min_lr : train->min_lr;

	if (train->rampup_start > 0) {
		begun = (double)e->samples / full;
		done = (double)(e->samples + e->gbs) / full;
	}
	return (struct rates){.lr = mt_learning_rate(train, train->lr, train->min_lr, begun, done),
			      .ends_lr = mt_learning_rate(train, peak, least, begun, done),
			      .decay = mt_weight_decay(train, begun),
			      .grad_scale = 1};
}

const char *mt_skipped_name(int skipped)
{
	static const char *const names[] = {
		[MT_SKIPPED_NOT_FINITE] = "not finite", [MT_SKIPPED_SPIKE] = "a spike", [MT_SKIPPED_OVERFLOW] = "overflow"};

	return skipped ? names[skipped] : "";
}

/* Whether the step is left out, and why; the loss scale follows. */
static int judge(struct mt_engine *e, const struct mt_step_stats *stats)
{
	double most = e->config.run->train.spike_norm;
	bool finite = isfinite(stats->grad_norm);

	if (!isfinite(stats->loss))
		return MT_SKIPPED_NOT_FINITE;
	if (mt_loss_scale_step(&e->loss_scale, finite))
		return MT_SKIPPED_OVERFLOW;
	if (!finite)
		return MT_SKIPPED_NOT_FINITE;
	if (most > 0 && stats->grad_norm > most)
		return MT_SKIPPED_SPIKE;
	return e->loss_limit > 0 && stats->loss > e->loss_limit ? MT_SKIPPED_SPIKE : MT_SKIPPED_NOT;
}

enum mt_status mt_optimizer_step(struct mt_engine *e, struct mt_step_stats *stats)
{
	const struct mt_train_options *train = &e->config.run->train;
	struct rates rates = rates_now(e);
	double numbers[4], terms[2], loss_scale = e->loss_scale.value, all = (double)(e->gbs * e->layout->seq);
	struct mt_mark start;

	MT_TRY(mt_lap_begin(e, &start));
	MT_TRY(global_numbers(e, numbers));
	MT_TRY(mt_experts_tell_losses(e, terms));
	stats->balance_loss = terms[0];
	stats->z_loss = terms[1];
	/* Gradients are of the sum of the losses over all rows; the mean is over those that count (on the dry device none do). */
	e->token_scale = numbers[2] > 0 ? all / numbers[2] : 1;
	stats->grad_norm = sqrt(numbers[0]) * e->token_scale / loss_scale;
	stats->loss = numbers[1] / all * e->token_scale;
	stats->mtp_loss = numbers[3] * e->token_scale;
	stats->lr = rates.lr;
	stats->loss_scale = e->loss_scale.active ? loss_scale : 0;
	stats->skipped = judge(e, stats);
	if (train->clip > 0 && stats->grad_norm > train->clip)
		rates.grad_scale = train->clip / (stats->grad_norm + 1e-6);
	rates.grad_scale *= e->token_scale / loss_scale;
	if (stats->skipped)
		e->skipped++;
	else
		MT_TRY(update_all(e, &rates));
	return mt_lap_end(e, &start, &e->optimizer_s);
}
