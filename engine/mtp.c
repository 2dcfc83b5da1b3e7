/* mtp: the modules of multi-token prediction (engine/mtp.h), k = 1 .. D.
 *
 *   h_k' = [norm(embedding(t[i+k])), norm(h_(k-1))] Wjoin^T     (S,2C) (2C,C)
 *   h_k  = norm(layer(h_k'))                                    h_0: the model's own final norm
 *   logits of t[i+k+1] from h_k by the model's head; loss_k = mean over the T - k rows that have such a token
 * and weight / D times the sum of loss_k is minimised beside the model's own loss. Row i of a sequence whose token i + k lies after
 * its end embeds nothing and does not count; no row that counts sees it.
 *
 * A module works on the head's stage: it has its parameters in the head's backward unit, and where the embedding is on another
 * stage this one has a copy, whose gradient is summed over both as that of a tied one. The join is whole on every tensor-parallel
 * rank and takes the rows this rank has between layers, as norms do. Each module has a flight of its own for what the head needs;
 * Wjoin's two halves are filled by the norms themselves, into rows of 2C. */
#include "engine/mtp.h"

#include "engine/internal.h"

#include <stdlib.h>
#include <string.h>

struct mt_mtp_saved {
	struct mt_flight head;            /* tokens, targets, output, final, logits of this module */
	void *embedded, *joined;          /* (S,C), (S,2C) */
	void *embed_stats, *hidden_stats; /* (2,S) f32 */
	struct mt_layer_saved layer;
};

enum mt_status mt_mtp_create(struct mt_engine *e, struct mt_flight *flight)
{
	int64_t modules = e->model->mtp;

	flight->mtp = calloc((size_t)modules + 1, sizeof *flight->mtp);
	if (!flight->mtp)
		return mt_fail(MT_NOMEM, "no memory for %lld multi-token modules", (long long)modules);
	flight->mtp_count = (int)modules;
	for (int k = 0; k < flight->mtp_count; k++)
		flight->mtp[k].head.depth = k + 1;
	return MT_OK;
}

void mt_mtp_destroy(struct mt_flight *flight)
{
	for (int k = 0; k < flight->mtp_count; k++)
		free(flight->mtp[k].layer.experts.host);
	free(flight->mtp);
}

void mt_mtp_free(struct mt_engine *e, struct mt_flight *flight)
{
	for (int k = 0; k < flight->mtp_count; k++) {
		struct mt_mtp_saved *s = &flight->mtp[k];
		void **all[] = {&s->embedded, &s->joined, &s->embed_stats, &s->hidden_stats};

		for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
			if (*all[i])
				mt_engine_release(e, all[i]);
		}
		mt_layer_free(e, &s->layer);
		mt_flight_free(e, &s->head);
	}
}

static enum mt_status upload(struct mt_engine *e, struct mt_flight *head)
{
	const int32_t *tokens = e->mtp_next + 2 * (head->depth - 1) * e->rows;
	size_t bytes = (size_t)e->rows * sizeof *tokens;

	MT_TRY(mt_engine_alloc(e, ARENA_ACTIVATIONS, e->rows, MT_I32, &head->tokens));
	MT_TRY(mt_device_upload(e->device, e->compute, head->tokens, tokens, bytes));
	MT_TRY(mt_engine_alloc(e, ARENA_ACTIVATIONS, e->rows, MT_I32, &head->targets));
	return mt_device_upload(e->device, e->compute, head->targets, tokens + e->rows, bytes);
}

static void *half(const struct mt_engine *e, void *joined, int which)
{
	return (void *)((uintptr_t)joined + (uintptr_t)(which * e->model->hidden) * mt_dtype_bytes(e->dtype));
}

/* Both directions: x (S,C) and half `which` of rows of 2C. */
static struct mt_norm norm_of(const struct mt_engine *e, int gain, void *stats)
{
	int64_t S = e->shard_rows, C = e->model->hidden;

	return (struct mt_norm){.kind = MT_NORM_RMS,
				.rows = S,
				.cols = C,
				.eps = e->model->norm_eps,
				.gain = mt_engine_param(e, gain),
				.mean = stats,
				.rstd = (void *)((uintptr_t)stats + (uintptr_t)S * mt_dtype_bytes(mt_grad_dtype(e->dtype))),
				.heads = 1,
				.x_stride = C,
				.y_stride = 2 * C};
}

static enum mt_status norm_into(struct mt_engine *e, int gain, const void *x, void *joined, int which, void **stats)
{
	struct mt_op op = {.kind = MT_OP_NORM, .dtype = e->dtype};

	MT_TRY(mt_engine_alloc(e, ARENA_ACTIVATIONS, 2 * e->shard_rows, mt_grad_dtype(e->dtype), stats));
	op.norm = norm_of(e, gain, *stats);
	op.norm.x = x;
	op.norm.y = half(e, joined, which);
	return mt_engine_enqueue(e, &op);
}

/* *dx (S,C), new, from half `which` of dy; frees the statistics. */
static enum mt_status norm_back(struct mt_engine *e, int gain, void *x, void *dy, int which, void **stats, void **dx)
{
	struct mt_op op = {.kind = MT_OP_NORM_BWD, .dtype = e->dtype};

	MT_TRY(mt_engine_alloc(e, ARENA_ACTIVATIONS, e->shard_rows * e->model->hidden, e->dtype, dx));
	op.norm = norm_of(e, gain, *stats);
	op.norm.sum = x;
	op.norm.dy = half(e, dy, which);
	op.norm.dx = *dx;
	op.norm.dgain = mt_engine_grad(e, gain);
	MT_TRY(mt_engine_enqueue(e, &op));
	mt_engine_release(e, stats);
	return MT_OK;
}

static enum mt_status join(struct mt_engine *e, enum mt_op_kind kind, int weight, const void *x, const void *dy, void *out)
{
	struct mt_op op = {.kind = kind, .dtype = e->dtype};

	op.linear =
		(struct mt_linear){.rows = e->shard_rows, .in = 2 * e->model->hidden, .out = e->model->hidden, .x = x, .dy = dy};
	op.linear.w = kind == MT_OP_LINEAR_WGRAD ? NULL : mt_engine_param(e, weight);
	op.linear.y = kind == MT_OP_LINEAR ? out : NULL;
	op.linear.dx = kind == MT_OP_LINEAR_DGRAD ? out : NULL;
	op.linear.dw = kind == MT_OP_LINEAR_WGRAD ? mt_engine_grad(e, weight) : NULL;
	return mt_engine_enqueue(e, &op);
}

/* Module k of a micro-batch; `hidden` (S,C) is the final output before it. */
static enum mt_status forward(struct mt_engine *e, int k, struct mt_mtp_saved *s, void *hidden, int64_t microbatch)
{
	const struct mt_mtp_params *p = &e->table.mtp[k];
	int64_t S = e->shard_rows, C = e->model->hidden;

	MT_TRY(upload(e, &s->head));
	MT_TRY(mt_embedding_forward(e, &s->head));
	s->embedded = s->head.input;
	s->head.input = NULL;
	MT_TRY(mt_engine_alloc(e, ARENA_ACTIVATIONS, S * 2 * C, e->dtype, &s->joined));
	MT_TRY(norm_into(e, p->embed_norm, s->embedded, s->joined, 0, &s->embed_stats));
	MT_TRY(norm_into(e, p->hidden_norm, hidden, s->joined, 1, &s->hidden_stats));
	MT_TRY(mt_engine_alloc(e, ARENA_ACTIVATIONS, S * C, e->dtype, &s->layer.x));
	MT_TRY(join(e, MT_OP_LINEAR, p->join, s->joined, NULL, s->layer.x));
	MT_TRY(mt_layer_forward(e, (int)e->table.layer_count + k, &s->layer, &s->head.output));
	return mt_head_forward(e, &s->head, microbatch);
}

enum mt_status mt_mtp_forward(struct mt_engine *e, struct mt_flight *flight, int64_t microbatch)
{
	void *hidden = flight->final;

	for (int k = 0; k < flight->mtp_count; k++) {
		MT_TRY(forward(e, k, &flight->mtp[k], hidden, microbatch));
		hidden = flight->mtp[k].head.final;
	}
	return MT_OK;
}

/* *after: the gradient that module k + 1 adds to this one's output, NULL for the last; becomes that of `hidden`. */
static enum mt_status backward(struct mt_engine *e, int k, struct mt_mtp_saved *s, void *hidden, void **after)
{
	const struct mt_mtp_params *p = &e->table.mtp[k];
	int64_t S = e->shard_rows, C = e->model->hidden;
	void *gradient, *djoined;

	s->head.more = *after;
	MT_TRY(mt_head_backward(e, &s->head));
	mt_engine_release(e, &s->head.targets);
	gradient = s->head.gradient;
	s->head.gradient = NULL;
	MT_TRY(mt_layer_backward(e, (int)e->table.layer_count + k, &s->layer, &gradient));
	MT_TRY(mt_engine_alloc(e, ARENA_ACTIVATIONS, S * 2 * C, e->dtype, &djoined));
	MT_TRY(join(e, MT_OP_LINEAR_DGRAD, p->join, NULL, gradient, djoined));
	MT_TRY(join(e, MT_OP_LINEAR_WGRAD, p->join, s->joined, gradient, NULL));
	mt_engine_release(e, &gradient);
	mt_engine_release(e, &s->joined);
	MT_TRY(norm_back(e, p->hidden_norm, hidden, djoined, 1, &s->hidden_stats, after));
	MT_TRY(norm_back(e, p->embed_norm, s->embedded, djoined, 0, &s->embed_stats, &s->head.gradient));
	mt_engine_release(e, &djoined);
	mt_engine_release(e, &s->embedded);
	MT_TRY(mt_embedding_backward(e, &s->head));
	mt_engine_release(e, &s->head.tokens);
	return MT_OK;
}

enum mt_status mt_mtp_backward(struct mt_engine *e, struct mt_flight *flight, void **gradient)
{
	*gradient = NULL;
	for (int k = flight->mtp_count - 1; k >= 0; k--)
		MT_TRY(backward(e, k, &flight->mtp[k], k > 0 ? flight->mtp[k - 1].head.final : flight->final, gradient));
	return MT_OK;
}
