/* ends: what stands before the first layer and after the last: embedding; final norm, head and loss.
 *
 * Both matrices of words are split over tp by rows (vocabulary-parallel). The loss needs one gather of three numbers a
 * row and rank (maximum, sum of exponentials, target logit) instead of the logits (Shoeybi et al. 2019, section 3).
 * Multi-token modules (engine/mtp.c) go through the same head, each with a final norm of its own. */
#include "engine/card.h"
#include "engine/internal.h"

enum mt_status mt_embedding_forward(struct mt_engine *e, struct mt_flight *flight)
{
	struct mt_op op = {.kind = MT_OP_EMBEDDING, .dtype = e->dtype};
	/* Summed over tp: one rank adds the positions. */
	int position = e->at.tp == 0 ? e->table.position : -1;

	MT_TRY(mt_engine_alloc(e, ARENA_ACTIVATIONS, e->rows * e->model->hidden, e->dtype, &flight->input));
	op.embedding = (struct mt_embedding){.rows = e->rows,
					     .cols = e->model->hidden,
					     .seq = e->seq,
					     .positions = mt_context_positions(e),
					     .position_count = e->layout->seq,
					     .first = e->vocab_first,
					     .count = e->vocab_count,
					     .tokens = flight->tokens,
					     .table = mt_engine_param(e, e->table.word),
					     .position = mt_engine_param(e, position),
					     .y = flight->input};
	MT_TRY(mt_engine_enqueue(e, &op));
	return mt_tp_reduce(e, &flight->input, e->model->hidden);
}

/* Frees the gradient. Positions: each tp rank has the whole sum, but under SP gradients of replicated parameters are
 * summed over tp, so there only one rank contributes. */
enum mt_status mt_embedding_backward(struct mt_engine *e, struct mt_flight *flight)
{
	struct mt_op op = {.kind = MT_OP_EMBEDDING_BWD, .dtype = e->dtype};
	int position = !e->sp || e->at.tp == 0 ? e->table.position : -1;
	void *whole = flight->gradient;

	if (e->sp)
		MT_TRY(mt_tp_gather(e, flight->gradient, &whole, e->model->hidden));
	op.embedding = (struct mt_embedding){.rows = e->rows,
					     .cols = e->model->hidden,
					     .seq = e->seq,
					     .positions = mt_context_positions(e),
					     .position_count = e->layout->seq,
					     .first = e->vocab_first,
					     .count = e->vocab_count,
					     .tokens = flight->tokens,
					     .dy = whole,
					     .dtable = mt_engine_grad(e, e->table.word),
					     .dposition = mt_engine_grad(e, position)};
	MT_TRY(mt_engine_enqueue(e, &op));
	if (whole != flight->gradient)
		mt_engine_release(e, &whole);
	mt_engine_release(e, &flight->gradient);
	return MT_OK;
}

static int final_gain(const struct mt_engine *e, const struct mt_flight *flight)
{
	return flight->depth > 0 ? e->table.mtp[flight->depth - 1].norm : e->table.final_gain;
}

/* What the gradient of each row's loss is multiplied by: the mean of those that count; modules share the weight of theirs. */
static double loss_share(const struct mt_engine *e, int depth)
{
	const struct mt_model *m = e->model;

	if (depth == 0)
		return e->loss_scale.value / (double)(e->gbs * e->layout->seq);
	return e->loss_scale.value * m->mtp_weight / (double)(m->mtp * e->gbs * (e->layout->seq - depth));
}

static enum mt_status final_norm(struct mt_engine *e, struct mt_flight *flight)
{
	struct mt_op op = {.kind = MT_OP_NORM, .dtype = e->dtype};
	enum mt_dtype stats = mt_grad_dtype(e->dtype);
	int64_t S = e->shard_rows, C = e->model->hidden;

	MT_TRY(mt_engine_alloc(e, ARENA_ACTIVATIONS, S * C, e->dtype, &flight->final));
	MT_TRY(mt_engine_alloc(e, ARENA_ACTIVATIONS, 2 * S, stats, &flight->final_stats));
	op.norm = (struct mt_norm){.kind = e->model->norm == MT_MODEL_RMSNORM ? MT_NORM_RMS : MT_NORM_LAYER,
				   .rows = S,
				   .cols = C,
				   .eps = e->model->norm_eps,
				   .x = flight->output,
				   .y = flight->final,
				   .gain = mt_engine_param(e, final_gain(e, flight)),
				   .bias = mt_engine_param(e, e->table.final_bias),
				   .mean = flight->final_stats,
				   .rstd = (void *)((uintptr_t)flight->final_stats + (uintptr_t)S * mt_dtype_bytes(stats))};
	return mt_engine_enqueue(e, &op);
}

/* logits -> losses of the micro-batch's rows, logits overwritten by their gradient. */
static enum mt_status loss(struct mt_engine *e, struct mt_flight *flight, int64_t microbatch)
{
	enum mt_dtype f = mt_grad_dtype(e->dtype);
	int tp = (int)e->layout->tp;
	struct mt_op op = {.kind = MT_OP_LOSS_STATS, .dtype = e->dtype};
	void *stats, *all;
	struct mt_mark start;

	MT_TRY(mt_engine_alloc(e, ARENA_ACTIVATIONS, 3 * e->rows, f, &stats));
	op.loss = (struct mt_loss){.rows = e->rows,
				   .cols = e->vocab_count,
				   .first = e->vocab_first,
				   .vocab = e->model->vocab,
				   .parts = tp,
				   .logits = flight->logits,
				   .targets = flight->targets,
				   .stats = stats,
				   .grad_scale = e->evaluating ? 0 : loss_share(e, flight->depth)};
	MT_TRY(mt_engine_enqueue(e, &op));
	all = stats;
	if (tp > 1) {
		MT_TRY(mt_lap_begin(e, &start));
		MT_TRY(mt_engine_alloc(e, ARENA_ACTIVATIONS, 3 * e->rows * tp, f, &all));
		MT_TRY(mt_comm_all_gather(e->tp, e->compute, stats, all, 3 * e->rows, f));
		MT_TRY(mt_lap_end(e, &start, &e->tp_s));
	}
	op.kind = MT_OP_LOSS;
	op.loss.all_stats = all;
	microbatch += flight->depth * e->microbatches;
	op.loss.loss = (void *)((uintptr_t)e->losses + (uintptr_t)(microbatch * e->rows) * mt_dtype_bytes(f));
	MT_TRY(mt_engine_enqueue(e, &op));
	if (all != stats)
		mt_engine_release(e, &all);
	mt_engine_release(e, &stats);
	return MT_OK;
}

/* In a pipeline messages on their way lie among the activations when the next micro-batch's logits, the largest tensor of all,
 * look for the place of the last: so they get one to themselves. Elsewhere backward passes use it too. */
bool mt_logits_apart(const struct mt_layout *layout)
{
	return layout->pp > 1 && mt_layout_microbatches(layout) > 1 && layout->recompute != MT_RECOMPUTE_FULL;
}

void mt_logits_free(struct mt_engine *e, struct mt_flight *flight)
{
	mt_arena_free(e->arenas[e->logits_arena], flight->logits);
	flight->logits = NULL;
}

enum mt_status mt_head_forward(struct mt_engine *e, struct mt_flight *flight, int64_t microbatch)
{
	void *whole;

	MT_TRY(final_norm(e, flight));
	whole = flight->final;
	if (e->sp)
		MT_TRY(mt_tp_gather(e, flight->final, &whole, e->model->hidden));
	MT_TRY(mt_engine_alloc(e, e->logits_arena, e->rows * e->vocab_count, e->dtype, &flight->logits));
	MT_TRY(mt_linear_forward(e, whole, e->table.head, -1, e->model->hidden, e->vocab_count, flight->logits));
	if (whole != flight->final)
		mt_engine_release(e, &whole);
	MT_TRY(loss(e, flight, microbatch));
	return flight->mtp_count > 0 && !e->evaluating ? mt_mtp_forward(e, flight, microbatch) : MT_OK;
}

/* dh += more, which is freed. */
static enum mt_status add_more(struct mt_engine *e, struct mt_flight *flight, void *dh)
{
	struct mt_op op = {.kind = MT_OP_ADD, .dtype = e->dtype};

	op.add = (struct mt_add){.rows = e->shard_rows, .cols = e->model->hidden, .a = dh, .b = flight->more, .out = dh};
	MT_TRY(mt_engine_enqueue(e, &op));
	mt_engine_release(e, &flight->more);
	return MT_OK;
}

/* Leaves the gradient of the last layer's output in flight->gradient. */
enum mt_status mt_head_backward(struct mt_engine *e, struct mt_flight *flight)
{
	int64_t S = e->shard_rows, C = e->model->hidden;
	struct mt_op op = {.kind = MT_OP_NORM_BWD, .dtype = e->dtype};
	void *whole = flight->final, *dh;

	if (flight->mtp_count > 0)
		MT_TRY(mt_mtp_backward(e, flight, &flight->more));
	MT_TRY(mt_engine_alloc(e, ARENA_ACTIVATIONS, e->rows * C, e->dtype, &dh));
	MT_TRY(mt_linear_dgrad(e, flight->logits, e->table.head, C, e->vocab_count, dh));
	MT_TRY(mt_tp_reduce(e, &dh, C));
	if (flight->more)
		MT_TRY(add_more(e, flight, dh));
	if (e->sp)
		MT_TRY(mt_tp_gather(e, flight->final, &whole, C));
	MT_TRY(mt_linear_wgrad(e, flight->logits, whole, e->table.head, -1, C, e->vocab_count));
	if (whole != flight->final)
		mt_engine_release(e, &whole);
	mt_logits_free(e, flight);
	MT_TRY(mt_engine_alloc(e, ARENA_ACTIVATIONS, S * C, e->dtype, &flight->gradient));
	op.norm = (struct mt_norm){
		.kind = e->model->norm == MT_MODEL_RMSNORM ? MT_NORM_RMS : MT_NORM_LAYER,
		.rows = S,
		.cols = C,
		.eps = e->model->norm_eps,
		.sum = flight->output,
		.gain = mt_engine_param(e, final_gain(e, flight)),
		.mean = flight->final_stats,
		.rstd = (void *)((uintptr_t)flight->final_stats + (uintptr_t)S * mt_dtype_bytes(mt_grad_dtype(e->dtype))),
		.dy = dh,
		.dx = flight->gradient,
		.dgain = mt_engine_grad(e, final_gain(e, flight)),
		.dbias = mt_engine_grad(e, e->table.final_bias)};
	MT_TRY(mt_engine_enqueue(e, &op));
	mt_engine_release(e, &dh);
	mt_engine_release(e, &flight->final);
	mt_engine_release(e, &flight->final_stats);
	mt_engine_release(e, &flight->output);
	return MT_OK;
}
