/* layer: one transformer layer, forward and backward, on this rank's shard.
 *
 *   h1 = norm(x);  q,k,v = h1 Wqkv^T + b;  o = attention(q,k,v);  x2 = x + o Wo^T + bo
 *     (heads normalised before attention: engine/qk_norm.c; from low-rank states: engine/latent.c)
 *   h2 = norm(x2); u = h2 Wup^T + b;  g = activation(u);  y = x2 + g Wdown^T + bd
 *
 * Shapes here: x, x2, y, h1, h2 (S,C); qkv (R,(H+2G)D) and g (R,F) with local heads and width; S = R without sequence parallelism.
 * With full recompute only x is kept and the rest is computed again when the backward pass comes; with selective recompute only
 * some outputs are not kept, each computed again from what is. The same bits either way. */
#include "engine/internal.h"

#include <stddef.h>

static enum mt_norm_kind norm_kind(const struct mt_engine *e)
{
	return e->model->norm == MT_MODEL_RMSNORM ? MT_NORM_RMS : MT_NORM_LAYER;
}

static void *second_half(const struct mt_engine *e, void *stats)
{
	return (void *)((uintptr_t)stats + (uintptr_t)e->shard_rows * mt_dtype_bytes(mt_grad_dtype(e->dtype)));
}

static void *at_column(const struct mt_engine *e, const void *base, int64_t column)
{
	return (void *)((uintptr_t)base + (uintptr_t)column * mt_dtype_bytes(e->dtype));
}

static enum mt_status alloc(struct mt_engine *e, int64_t elements, void **pointer)
{
	return mt_engine_alloc(e, ARENA_ACTIVATIONS, elements, e->dtype, pointer);
}

static enum mt_status alloc_stats(struct mt_engine *e, int64_t elements, void **pointer)
{
	return mt_engine_alloc(e, ARENA_ACTIVATIONS, elements, mt_grad_dtype(e->dtype), pointer);
}

/* Norm with the residual before it (residual NULL: none): writes y, new, and stats, new unless there from an earlier pass. */
static enum mt_status norm_forward(struct mt_engine *e, const int *at, int gain, int bias, struct mt_norm args, void **y,
				   void **stats)
{
	struct mt_op op = {.kind = MT_OP_NORM, .dtype = e->dtype};

	MT_TRY(alloc(e, e->shard_rows * e->model->hidden, y));
	if (!*stats)
		MT_TRY(alloc_stats(e, 2 * e->shard_rows, stats));
	args.kind = norm_kind(e);
	args.rows = e->shard_rows;
	args.cols = e->model->hidden;
	args.eps = e->model->norm_eps;
	args.y = *y;
	args.gain = mt_engine_param(e, at[gain]);
	args.bias = mt_engine_param(e, at[bias]);
	args.mean = *stats;
	args.rstd = second_half(e, *stats);
	op.norm = args;
	return mt_engine_enqueue(e, &op);
}

/* *gradient(S,C) becomes the gradient through the norm of s, added to itself; dy is freed. In place, unless a weight gradient
 * that was put off still reads it. */
static enum mt_status norm_backward(struct mt_engine *e, const int *at, int gain, int bias, void *sum, void *stats, void **dy,
				    void **gradient)
{
	struct mt_op op = {.kind = MT_OP_NORM_BWD, .dtype = e->dtype};
	void *dresidual = *gradient, *dx = dresidual;

	if (mt_wgrads_hold(e, dresidual))
		MT_TRY(alloc(e, e->shard_rows * e->model->hidden, &dx));

	op.norm = (struct mt_norm){.kind = norm_kind(e),
				   .rows = e->shard_rows,
				   .cols = e->model->hidden,
				   .eps = e->model->norm_eps,
				   .sum = sum,
				   .gain = mt_engine_param(e, at[gain]),
				   .mean = stats,
				   .rstd = second_half(e, stats),
				   .dy = *dy,
				   .dresidual = dresidual,
				   .dx = dx,
				   .dgain = mt_engine_grad(e, at[gain]),
				   .dbias = mt_engine_grad(e, at[bias])};
	MT_TRY(mt_engine_enqueue(e, &op));
	mt_engine_release(e, dy);
	*gradient = dx;
	return MT_OK;
}

enum mt_status mt_rotate(struct mt_engine *e, void *x, int64_t heads, int64_t head_dim, int64_t stride, int sign)
{
	struct mt_op op = {.kind = MT_OP_ROPE, .dtype = e->dtype};

	if (e->model->position != MT_MODEL_ROPE)
		return MT_OK;
	op.rope = (struct mt_rope){.batch = e->layout->mbs,
				   .seq = e->seq,
				   .positions = mt_context_positions(e),
				   .position_count = e->layout->seq,
				   .heads = heads,
				   .head_dim = head_dim,
				   .stride = stride,
				   .theta = e->model->rope_theta,
				   .sign = sign,
				   .x = x,
				   .rotated = mt_model_rotary_dim(e->model),
				   .interleaved = e->model->rope_interleaved,
				   .scaling = mt_model_rope_scaling(e->model)};
	return mt_engine_enqueue(e, &op);
}

/* Query and key heads lie side by side: one call for both. */
static enum mt_status rope(struct mt_engine *e, void *qkv, int sign)
{
	int64_t D = e->model->head_dim;

	return mt_rotate(e, qkv, (e->q_cols + e->kv_cols) / D, D, e->q_cols + 2 * e->kv_cols, sign);
}

static struct mt_attention attention_args(struct mt_engine *e, const struct mt_layer_saved *s)
{
	int64_t stride = e->q_cols + 2 * e->kv_cols;
	struct mt_attention args = {.batch = e->layout->mbs,
				    .seq = e->seq,
				    .heads = e->q_cols / e->model->head_dim,
				    .kv_heads = e->kv_cols / e->model->head_dim,
				    .head_dim = e->model->head_dim,
				    .q_stride = stride,
				    .kv_stride = stride,
				    .o_stride = e->o_cols,
				    .scale = mt_model_attention_scale(e->model),
				    .q = s->qkv,
				    .k = at_column(e, s->qkv, e->q_cols),
				    .v = at_column(e, s->qkv, e->q_cols + e->kv_cols),
				    .o = s->attention,
				    .lse = s->lse,
				    .window = s->window};

	if (mt_model_is_latent(e->model))
		mt_latent_operands(e, s, &args);
	return args;
}

/* o and its lse, both new. */
static enum mt_status attend(struct mt_engine *e, struct mt_layer_saved *s)
{
	struct mt_attention args;

	MT_TRY(alloc(e, e->rows * e->o_cols, &s->attention));
	MT_TRY(alloc_stats(e, e->rows * (e->q_cols / e->model->head_dim), &s->lse));
	args = attention_args(e, s);
	return mt_context_attend(e, &args, s);
}

/* The input of a column-parallel product: all rows. Under SP a new buffer, else the shard itself. */
static enum mt_status gather_rows(struct mt_engine *e, void *shard, void **whole)
{
	*whole = shard;
	return e->sp ? mt_tp_gather(e, shard, whole, e->model->hidden) : MT_OK;
}

static void drop_rows(struct mt_engine *e, void *shard, void *whole)
{
	if (whole != shard)
		mt_engine_release(e, &whole);
}

/* Weights' gradient of a column-parallel product, of x (S,in); and of a row-parallel one, of dy (S,out), whose rows are gathered in
 * `whole` and freed. */
static enum mt_status column_wgrad(struct mt_engine *e, const void *dy, void *x, int weight, int bias, int64_t in, int64_t out)
{
	void *whole;

	if (mt_wgrad_of_shards(e, weight))
		return mt_linear_wgrad_shard(e, dy, x, MT_ROWS_OF_X, weight, bias, in, out);
	MT_TRY(gather_rows(e, x, &whole));
	MT_TRY(mt_linear_wgrad(e, dy, whole, weight, bias, in, out));
	drop_rows(e, x, whole);
	return MT_OK;
}

static enum mt_status row_wgrad(struct mt_engine *e, void *dy, void *whole, const void *x, int weight, int bias, int64_t in,
				int64_t out)
{
	bool shards = mt_wgrad_of_shards(e, weight);

	if (!shards)
		MT_TRY(mt_linear_wgrad(e, whole, x, weight, bias, in, out));
	drop_rows(e, dy, whole);
	return shards ? mt_linear_wgrad_shard(e, dy, x, MT_ROWS_OF_DY, weight, bias, in, out) : MT_OK;
}

/* Queries, keys and values of norm1, rotated. */
static enum mt_status project(struct mt_engine *e, const int *at, struct mt_layer_saved *s)
{
	int64_t C = e->model->hidden, width = e->q_cols + 2 * e->kv_cols;
	void *whole;

	MT_TRY(gather_rows(e, s->norm1, &whole));
	MT_TRY(alloc(e, e->rows * width, &s->qkv));
	MT_TRY(mt_linear_forward(e, whole, at[MT_ATTN_Q], at[MT_ATTN_Q_BIAS], C, width, s->qkv));
	drop_rows(e, s->norm1, whole);
	if (e->model->qk_norm)
		MT_TRY(mt_qk_norm_forward(e, at, s));
	return rope(e, s->qkv, 1);
}

/* Queries, keys and values; where heads are exchanged, those of the part's rows. */
static enum mt_status prepare(struct mt_engine *e, const int *at, struct mt_layer_saved *s)
{
	bool latent = mt_model_is_latent(e->model);
	struct mt_attention args;

	MT_TRY(latent ? mt_latent_forward(e, at, s) : project(e, at, s));
	args = attention_args(e, s);
	MT_TRY(mt_context_exchange(e, &args, s));
	if (s->exchanged && !latent)
		mt_engine_release(e, &s->qkv);
	return MT_OK;
}

/* x -> x2 - x, before bias: the attention half. Result (S,C) in *out, new. */
static enum mt_status attention_forward(struct mt_engine *e, const int *at, struct mt_layer_saved *s, void **out)
{
	int64_t C = e->model->hidden;

	MT_TRY(norm_forward(e, at, MT_ATTN_NORM_GAIN, MT_ATTN_NORM_BIAS, (struct mt_norm){.x = s->x}, &s->norm1, &s->stats1));
	MT_TRY(prepare(e, at, s));
	MT_TRY(attend(e, s));
	MT_TRY(alloc(e, e->rows * C, out));
	MT_TRY(mt_linear_forward(e, s->attention, at[MT_ATTN_OUT], -1, e->o_cols, C, *out));
	return mt_tp_reduce(e, out, C);
}

static enum mt_recompute recompute_of(const struct mt_engine *e, int layer)
{
	int64_t of_chunk = INT64_MAX; /* of a multi-token module: behind every chunk's */
	int chunk = 0;

	if (layer < e->table.layer_count) {
		while (layer >= e->table.chunks[chunk].first_layer + e->table.chunks[chunk].layers)
			chunk++;
		of_chunk = layer - e->table.chunks[chunk].first_layer;
	}
	return mt_layout_recomputes(e->layout, e->at.pp, of_chunk) ? (enum mt_recompute)e->layout->recompute : MT_RECOMPUTE_NONE;
}

/* Whether GELU is of the product before it. Not where its output is computed again from what was stored, which is rounded: that
 * would have other bits. */
static bool gelu_in_product(const struct mt_engine *e, int layer)
{
	bool again = recompute_of(e, layer) == MT_RECOMPUTE_SELECTIVE && e->layout->recompute_activation;

	return e->model->mlp != MT_MODEL_SWIGLU && !again;
}

/* The gradient of a bias that all rows have: with the weight's, which reads the same; but under sequence parallelism a rank's own
 * rows only are counted, before they are gathered. Gives the bias that is left for mt_linear_wgrad, -1: none. */
static enum mt_status bias_of_shard(struct mt_engine *e, const void *dy, int *bias)
{
	if (!e->sp)
		return MT_OK;
	MT_TRY(mt_bias_grad(e, dy, *bias, e->shard_rows, e->model->hidden));
	*bias = -1;
	return MT_OK;
}

/* g = activation(u), new. */
static enum mt_status activate(struct mt_engine *e, struct mt_layer_saved *s)
{
	struct mt_op op = {.kind = MT_OP_ACTIVATION, .dtype = e->dtype};

	MT_TRY(alloc(e, e->rows * e->ffn_cols, &s->activation));
	op.activation = (struct mt_activation){.kind = e->model->mlp == MT_MODEL_SWIGLU ? MT_SWIGLU : MT_GELU,
					       .rows = e->rows,
					       .cols = e->ffn_cols,
					       .x = s->up,
					       .y = s->activation};
	return mt_engine_enqueue(e, &op);
}

/* The activation half up to g; x2 = a + bias + x is formed in the norm. `a` is freed. */
static enum mt_status mlp_forward(struct mt_engine *e, int layer, struct mt_layer_saved *s, void **a)
{
	const int *at = e->table.layers[layer];
	int64_t C = e->model->hidden, F = e->ffn_cols, width = e->model->mlp == MT_MODEL_SWIGLU ? 2 * F : F;
	int up = at[e->model->mlp == MT_MODEL_SWIGLU ? MT_MLP_GATE : MT_MLP_UP];
	bool gelu = gelu_in_product(e, layer);
	void *whole;

	MT_TRY(alloc(e, e->shard_rows * C, &s->x2));
	MT_TRY(norm_forward(
		e, at, MT_MLP_NORM_GAIN, MT_MLP_NORM_BIAS,
		(struct mt_norm){.x = *a, .x_bias = mt_engine_param(e, at[MT_ATTN_OUT_BIAS]), .residual = s->x, .sum = s->x2},
		&s->norm2, &s->stats2));
	mt_engine_release(e, a);
	if (at[MT_ROUTER] >= 0)
		return MT_OK;
	MT_TRY(gather_rows(e, s->norm2, &whole));
	MT_TRY(alloc(e, e->rows * width, &s->up));
	if (gelu) {
		MT_TRY(alloc(e, e->rows * F, &s->activation));
		MT_TRY(mt_linear_gelu(e, whole, up, at[MT_MLP_UP_BIAS], C, F, s->up, s->activation));
	} else {
		MT_TRY(mt_linear_forward(e, whole, up, at[MT_MLP_UP_BIAS], C, width, s->up));
	}
	drop_rows(e, s->norm2, whole);
	return gelu ? MT_OK : activate(e, s);
}

/* y = x2 + g Wdown^T + bias, or what the experts give in place of it, new (S,C). */
static enum mt_status mlp_output(struct mt_engine *e, int layer, struct mt_layer_saved *s, void **output)
{
	const int *at = e->table.layers[layer];
	int64_t C = e->model->hidden;
	struct mt_op op = {.kind = MT_OP_ADD, .dtype = e->dtype};

	if (at[MT_ROUTER] >= 0) {
		MT_TRY(mt_experts_end(e, layer, s, output));
	} else {
		MT_TRY(alloc(e, e->rows * C, output));
		MT_TRY(mt_linear_forward(e, s->activation, at[MT_MLP_DOWN], -1, e->ffn_cols, C, *output));
		MT_TRY(mt_tp_reduce(e, output, C));
	}
	op.add = (struct mt_add){.rows = e->shard_rows,
				 .cols = C,
				 .a = *output,
				 .b = s->x2,
				 .bias = mt_engine_param(e, at[MT_MLP_DOWN_BIAS]),
				 .out = *output};
	return mt_engine_enqueue(e, &op);
}

/* Frees what can be computed again: all but x. */
static void free_recomputed(struct mt_engine *e, struct mt_layer_saved *s)
{
	void **all[] = {&s->norm1, &s->norm2, &s->stats1,     &s->stats2,    &s->qkv, &s->attention, &s->lse,
			&s->x2,    &s->up,    &s->activation, &s->exchanged, &s->qk,  &s->qk_stats};

	mt_experts_free(e, &s->experts, false);
	for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
		if (*all[i])
			mt_engine_release(e, all[i]);
	}
	mt_latent_free(e, &s->latent, false);
}

/* Frees the outputs that selective recompute names. */
static void free_selected(struct mt_engine *e, struct mt_layer_saved *s)
{
	const struct mt_layout *l = e->layout;

	if (l->recompute_norm) {
		mt_engine_release(e, &s->norm1);
		mt_engine_release(e, &s->norm2);
		mt_latent_free(e, &s->latent, true);
	}
	if (l->recompute_attention) {
		mt_engine_release(e, &s->attention);
		mt_engine_release(e, &s->lse);
	}
	if (l->recompute_activation && s->activation)
		mt_engine_release(e, &s->activation);
	if (l->recompute_activation)
		mt_experts_free(e, &s->experts, true);
}

void mt_layer_free(struct mt_engine *e, struct mt_layer_saved *saved)
{
	free_recomputed(e, saved);
	if (saved->x)
		mt_engine_release(e, &saved->x);
}

/* All that is kept; the output comes from it. */
static enum mt_status compute(struct mt_engine *e, int layer, struct mt_layer_saved *saved)
{
	const int *at = e->table.layers[layer];
	void *a = NULL;

	saved->window = mt_model_window(e->model, e->table.model_layers[layer]);
	MT_TRY(attention_forward(e, at, saved, &a));
	MT_TRY(mlp_forward(e, layer, saved, &a));
	return at[MT_ROUTER] >= 0 ? mt_experts_begin(e, layer, saved, saved->norm2) : MT_OK;
}

static enum mt_status forward(struct mt_engine *e, int layer, struct mt_layer_saved *saved, void **output)
{
	MT_TRY(compute(e, layer, saved));
	MT_TRY(mlp_output(e, layer, saved, output));
	if (recompute_of(e, layer) == MT_RECOMPUTE_FULL)
		free_recomputed(e, saved);
	if (recompute_of(e, layer) == MT_RECOMPUTE_SELECTIVE)
		free_selected(e, saved);
	return MT_OK;
}

enum mt_status mt_layer_forward(struct mt_engine *e, int layer, struct mt_layer_saved *saved, void **output)
{
	mt_stream_list_begin(e->compute);
	return mt_stream_list_end(e->compute, forward(e, layer, saved, output));
}

/* Gradient dy(R,C) of the products of g -> of u, in s->up. `up_bias` becomes -1 where its gradient is done: that is where GELU's
 * epilogue has it, whose sums are of the output's type, so only where gradients of parameters are of that type too. */
static enum mt_status activation_backward(struct mt_engine *e, const int *at, struct mt_layer_saved *s, const void *dy,
					  int *up_bias)
{
	int64_t C = e->model->hidden, F = e->ffn_cols;
	struct mt_op op = {.kind = MT_OP_ACTIVATION_BWD, .dtype = e->dtype};
	void *dg;

	MT_TRY(alloc(e, e->rows * F, &dg));
	if (e->model->mlp != MT_MODEL_SWIGLU) {
		bool sums = e->dtype == mt_grad_dtype(e->dtype);

		MT_TRY(mt_linear_dgelu(e, dy, at[MT_MLP_DOWN], F, C, s->up, sums ? *up_bias : -1, dg));
		mt_engine_release(e, &s->up);
		s->up = dg;
		*up_bias = sums ? -1 : *up_bias;
		return MT_OK;
	}
	MT_TRY(mt_linear_dgrad(e, dy, at[MT_MLP_DOWN], F, C, dg));
	op.activation = (struct mt_activation){.kind = MT_SWIGLU, .rows = e->rows, .cols = F, .x = s->up, .dy = dg, .dx = s->up};
	MT_TRY(mt_engine_enqueue(e, &op));
	mt_engine_release(e, &dg);
	return MT_OK;
}

/* *gradient (S,C) of y -> of x2. Frees up, activation, norm2. */
static enum mt_status mlp_backward(struct mt_engine *e, const int *at, struct mt_layer_saved *s, void **gradient)
{
	int64_t C = e->model->hidden, F = e->ffn_cols, width = e->model->mlp == MT_MODEL_SWIGLU ? 2 * F : F;
	int up = at[e->model->mlp == MT_MODEL_SWIGLU ? MT_MLP_GATE : MT_MLP_UP];
	int up_bias = at[MT_MLP_UP_BIAS], down_bias = at[MT_MLP_DOWN_BIAS];
	void *dy = *gradient, *whole, *dh;

	if (!s->activation)
		MT_TRY(activate(e, s));
	MT_TRY(bias_of_shard(e, dy, &down_bias));
	MT_TRY(gather_rows(e, dy, &whole));
	MT_TRY(activation_backward(e, at, s, whole, &up_bias));
	MT_TRY(row_wgrad(e, dy, whole, s->activation, at[MT_MLP_DOWN], down_bias, F, C));
	mt_engine_release(e, &s->activation);
	MT_TRY(alloc(e, e->rows * C, &dh));
	MT_TRY(mt_linear_dgrad(e, s->up, up, C, width, dh));
	MT_TRY(mt_tp_reduce(e, &dh, C));
	if (!s->norm2) {
		struct mt_norm again = {.x = s->x2};

		MT_TRY(norm_forward(e, at, MT_MLP_NORM_GAIN, MT_MLP_NORM_BIAS, again, &s->norm2, &s->stats2));
	}
	MT_TRY(column_wgrad(e, s->up, s->norm2, up, up_bias, C, width));
	mt_engine_release(e, &s->up);
	mt_engine_release(e, &s->norm2);
	return norm_backward(e, at, MT_MLP_NORM_GAIN, MT_MLP_NORM_BIAS, s->x2, s->stats2, &dh, gradient);
}

/* The same through the experts. */
static enum mt_status experts_backward(struct mt_engine *e, int layer, struct mt_layer_saved *s, void **gradient)
{
	const int *at = e->table.layers[layer];
	void *dh;

	if (!s->norm2) {
		struct mt_norm again = {.x = s->x2};

		MT_TRY(norm_forward(e, at, MT_MLP_NORM_GAIN, MT_MLP_NORM_BIAS, again, &s->norm2, &s->stats2));
	}
	MT_TRY(mt_experts_backward(e, layer, s, s->norm2, *gradient, &dh));
	mt_engine_release(e, &s->norm2);
	return norm_backward(e, at, MT_MLP_NORM_GAIN, MT_MLP_NORM_BIAS, s->x2, s->stats2, &dh, gradient);
}

/* norm1, if it is to be computed again. */
static enum mt_status norm_again(struct mt_engine *e, const int *at, struct mt_layer_saved *s)
{
	return s->norm1 ? MT_OK
			: norm_forward(e, at, MT_ATTN_NORM_GAIN, MT_ATTN_NORM_BIAS, (struct mt_norm){.x = s->x}, &s->norm1,
				       &s->stats1);
}

/* What attention's backward pass was the last to read. */
static void free_heads(struct mt_engine *e, struct mt_layer_saved *s)
{
	void **all[] = {&s->qkv, &s->exchanged, &s->attention, &s->lse};

	for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
		if (*all[i])
			mt_engine_release(e, all[i]);
	}
}

/* Gradient *d_o of what attention gave, which is freed, to that of norm1, *dh (S,C), new. */
static enum mt_status heads_backward(struct mt_engine *e, const int *at, struct mt_layer_saved *s, void **d_o, void **dh)
{
	int64_t C = e->model->hidden, width = e->q_cols + 2 * e->kv_cols;
	struct mt_attention args = attention_args(e, s);
	void *dqkv;

	MT_TRY(alloc(e, e->rows * width, &dqkv));
	args.do_ = *d_o;
	args.dq = dqkv;
	args.dk = at_column(e, dqkv, e->q_cols);
	args.dv = at_column(e, dqkv, e->q_cols + e->kv_cols);
	MT_TRY(mt_context_attend_backward(e, &args, s));
	mt_engine_release(e, d_o);
	free_heads(e, s);
	MT_TRY(rope(e, dqkv, -1));
	if (e->model->qk_norm)
		MT_TRY(mt_qk_norm_backward(e, at, s, dqkv));
	MT_TRY(alloc(e, e->rows * C, dh));
	MT_TRY(mt_linear_dgrad(e, dqkv, at[MT_ATTN_Q], C, width, *dh));
	MT_TRY(mt_tp_reduce(e, dh, C));
	MT_TRY(norm_again(e, at, s));
	MT_TRY(column_wgrad(e, dqkv, s->norm1, at[MT_ATTN_Q], at[MT_ATTN_Q_BIAS], C, width));
	mt_engine_release(e, &dqkv);
	return MT_OK;
}

/* The same of latent attention. */
static enum mt_status latent_backward(struct mt_engine *e, const int *at, struct mt_layer_saved *s, void **d_o, void **dh)
{
	struct mt_attention args = attention_args(e, s);

	MT_TRY(alloc(e, e->rows * e->q_cols, &args.dq));
	MT_TRY(alloc(e, e->rows * e->q_cols, &args.dk));
	MT_TRY(alloc(e, e->rows * e->o_cols, &args.dv));
	args.do_ = *d_o;
	MT_TRY(mt_context_attend_backward(e, &args, s));
	mt_engine_release(e, d_o);
	MT_TRY(norm_again(e, at, s));
	return mt_latent_backward(e, at, s, args.dq, args.dk, args.dv, dh);
}

/* *gradient of x2 -> of x. Frees the rest. */
static enum mt_status attention_backward(struct mt_engine *e, const int *at, struct mt_layer_saved *s, void **gradient)
{
	int64_t C = e->model->hidden;
	int bias = at[MT_ATTN_OUT_BIAS];
	void *dy = *gradient, *whole, *d_o, *dh;

	if (!s->attention)
		MT_TRY(attend(e, s));
	MT_TRY(bias_of_shard(e, dy, &bias));
	MT_TRY(gather_rows(e, dy, &whole));
	MT_TRY(alloc(e, e->rows * e->o_cols, &d_o));
	MT_TRY(mt_linear_dgrad(e, whole, at[MT_ATTN_OUT], e->o_cols, C, d_o));
	MT_TRY(row_wgrad(e, dy, whole, s->attention, at[MT_ATTN_OUT], bias, e->o_cols, C));
	if (mt_model_is_latent(e->model))
		MT_TRY(latent_backward(e, at, s, &d_o, &dh));
	else
		MT_TRY(heads_backward(e, at, s, &d_o, &dh));
	return norm_backward(e, at, MT_ATTN_NORM_GAIN, MT_ATTN_NORM_BIAS, s->x, s->stats1, &dh, gradient);
}

/* *gradient (S,C) is of the layer's output and becomes that of its input; everything saved is freed. */
static enum mt_status backward(struct mt_engine *e, int layer, struct mt_layer_saved *saved, void **gradient)
{
	const int *at = e->table.layers[layer];

	if (recompute_of(e, layer) == MT_RECOMPUTE_FULL) {
		e->experts.again = true;
		MT_TRY(compute(e, layer, saved));
		e->experts.again = false;
	}
	if (at[MT_ROUTER] >= 0)
		MT_TRY(experts_backward(e, layer, saved, gradient));
	else
		MT_TRY(mlp_backward(e, at, saved, gradient));
	mt_engine_release(e, &saved->x2);
	mt_engine_release(e, &saved->stats2);
	MT_TRY(attention_backward(e, at, saved, gradient));
	mt_layer_free(e, saved);
	return MT_OK;
}

enum mt_status mt_layer_backward(struct mt_engine *e, int layer, struct mt_layer_saved *saved, void **gradient)
{
	mt_stream_list_begin(e->compute);
	return mt_stream_list_end(e->compute, backward(e, layer, saved, gradient));
}
