/* router: which experts a row goes to, and the losses and the gradient of that.
 *
 * Logits are computed in f32 whatever the type of the parameters: a rounding of bf16 would decide between experts. */
#include "engine/internal.h"

#include <math.h>

static enum mt_status alloc(struct mt_engine *e, int64_t elements, enum mt_dtype dtype, void **pointer)
{
	return mt_engine_alloc(e, ARENA_ACTIVATIONS, elements, dtype, pointer);
}

/* x(count) in the type of statistics: new, or x itself. */
static enum mt_status widen(struct mt_engine *e, const void *x, int64_t count, void **wide)
{
	enum mt_dtype f = mt_grad_dtype(e->dtype);
	struct mt_op op = {.kind = MT_OP_CAST, .dtype = f};

	*wide = (void *)(uintptr_t)x;
	if (e->dtype == f)
		return MT_OK;
	MT_TRY(alloc(e, count, f, wide));
	op.move = (struct mt_move){.count = count, .src_dtype = e->dtype, .dst_dtype = f, .src = x, .dst = *wide};
	return mt_engine_enqueue(e, &op);
}

static void drop(struct mt_engine *e, const void *x, void *wide)
{
	if (wide != x)
		mt_engine_release(e, &wide);
}

int64_t mt_router_capacity(const struct mt_engine *e)
{
	const struct mt_model *m = e->model;
	double even = (double)(e->layout->seq * m->top_k) / (double)m->experts;
	int64_t rows = (int64_t)ceil(even * m->capacity);

	if (!(m->capacity > 0))
		return 0;
	return rows < 1 ? 1 : rows < e->layout->seq ? rows : e->layout->seq;
}

/* What all routing operations of this layer share. */
static struct mt_op route_op(const struct mt_engine *e, const struct mt_experts_saved *s, enum mt_op_kind kind)
{
	const struct mt_model *m = e->model;
	struct mt_op op = {.kind = kind, .dtype = mt_grad_dtype(e->dtype)};

	op.route = (struct mt_route){.kind = m->router == MT_MODEL_SIGMOID ? MT_ROUTE_SIGMOID : MT_ROUTE_SOFTMAX,
				     .normalize = m->router_normalize,
				     .rows = e->shard_rows,
				     .experts = m->experts,
				     .choices = m->top_k,
				     .sets = m->router_sets,
				     .set_choices = m->set_top,
				     .set_best = mt_model_set_best(m),
				     .scale = m->router_scale,
				     .logits = s->logits,
				     .index = s->index,
				     .sequences = e->layout->mbs,
				     .seq = e->rows / e->layout->mbs,
				     .first_row = e->sp ? e->at.tp * e->shard_rows : 0,
				     .sums = s->sums};
	return op;
}

/* Losses are means over sequences and over tokens of the step. */
static double balance_scale(const struct mt_engine *e)
{
	double tokens = (double)e->layout->seq;

	return e->model->balance_loss * (double)e->model->experts / ((double)e->model->top_k * tokens * tokens * (double)e->gbs);
}

static double z_scale(const struct mt_engine *e)
{
	return e->model->z_loss / (double)(e->gbs * e->layout->seq);
}

static enum mt_status find_logits(struct mt_engine *e, const int *at, struct mt_experts_saved *s, const void *h)
{
	int64_t S = e->shard_rows, C = e->model->hidden, E = e->model->experts;
	struct mt_op op = {.kind = MT_OP_LINEAR, .dtype = mt_grad_dtype(e->dtype)};
	const void *weight = mt_engine_param(e, at[MT_ROUTER]);
	void *x, *w;

	MT_TRY(alloc(e, S * E, op.dtype, &s->logits));
	MT_TRY(widen(e, h, S * C, &x));
	MT_TRY(widen(e, weight, E * C, &w));
	op.linear = (struct mt_linear){.rows = S, .in = C, .out = E, .x = x, .w = w, .y = s->logits};
	MT_TRY(mt_engine_enqueue(e, &op));
	drop(e, weight, w);
	drop(e, h, x);
	return MT_OK;
}

/* One of the ranks that know the same tells what they know. */
static enum mt_status add_losses(struct mt_engine *e, const struct mt_experts_saved *s)
{
	struct mt_op op = route_op(e, s, MT_OP_ROUTE_LOSS);
	bool first = e->at.tp == 0;

	op.route.out = e->experts.loss;
	op.route.aux_scale = balance_scale(e);
	op.route.z_scale = e->sp || first ? z_scale(e) : 0;
	if (!first || op.route.aux_scale == 0 || e->at.cp != 0)
		op.route.sums = NULL;
	return op.route.sums || op.route.z_scale != 0 ? mt_engine_enqueue(e, &op) : MT_OK;
}

/* The load of the step so far, for the bias. */
static enum mt_status add_load(struct mt_engine *e, int layer, const struct mt_experts_saved *s)
{
	enum mt_dtype f = mt_grad_dtype(e->dtype);
	int64_t count = e->layout->mbs * e->model->experts * 2;
	void *sum = (void *)((uintptr_t)e->experts.sums + (uintptr_t)(layer * count) * mt_dtype_bytes(f));
	struct mt_op op = {.kind = MT_OP_ADD, .dtype = f};

	op.add = (struct mt_add){.rows = 1, .cols = count, .a = sum, .b = s->sums, .out = sum};
	return mt_engine_enqueue(e, &op);
}

/* sums over the ranks that hold other parts of the same sequences: of their rows under sp, of their tokens under cp. */
static enum mt_status sum_over_parts(struct mt_engine *e, void *sums, int64_t count)
{
	struct mt_group *groups[] = {e->sp ? e->tp : NULL, e->heads, e->parts};
	double *const laps[] = {&e->tp_s, &e->cp_s, &e->cp_s};
	struct mt_mark start;

	for (int i = 0; i < 3; i++) {
		if (!groups[i] || mt_group_size(groups[i]) == 1)
			continue;
		MT_TRY(mt_lap_begin(e, &start));
		MT_TRY(mt_comm_all_reduce(groups[i], e->compute, sums, sums, count, mt_grad_dtype(e->dtype), MT_SUM));
		MT_TRY(mt_lap_end(e, &start, laps[i]));
	}
	return MT_OK;
}

/* What each expert gets of each sequence. */
static enum mt_status watch_balance(struct mt_engine *e, int layer, struct mt_experts_saved *s)
{
	enum mt_dtype f = mt_grad_dtype(e->dtype);
	int64_t count = e->layout->mbs * e->model->experts * 2;

	if (e->model->balance_loss > 0 || e->experts.sums) {
		struct mt_op op;

		MT_TRY(alloc(e, count, f, &s->sums));
		op = route_op(e, s, MT_OP_ROUTE_SUMS);
		MT_TRY(mt_engine_enqueue(e, &op));
		MT_TRY(sum_over_parts(e, s->sums, count));
	}
	if (e->evaluating || e->experts.again)
		return MT_OK;
	if (e->experts.sums)
		MT_TRY(add_load(e, layer, s));
	return e->experts.loss ? add_losses(e, s) : MT_OK;
}

/* Of index(S,K) and weights(S,K) what is left where experts are full: *kept(S,K), new, or index itself. Each rank decides for
 * whole sequences. */
static enum mt_status drop_choices(struct mt_engine *e, void *index, void *weights, void **kept)
{
	enum mt_dtype f = mt_grad_dtype(e->dtype);
	int64_t K = e->model->top_k;
	struct mt_op op = {.kind = MT_OP_DROP, .dtype = f};
	void *all_index = index, *all_weights = weights;

	*kept = index;
	if (mt_router_capacity(e) == 0)
		return MT_OK;
	MT_TRY(alloc(e, e->shard_rows * K, MT_I32, kept));
	if (e->sp) {
		struct mt_mark start;

		MT_TRY(mt_lap_begin(e, &start));
		MT_TRY(alloc(e, e->rows * K, MT_I32, &all_index));
		MT_TRY(alloc(e, e->rows * K, f, &all_weights));
		MT_TRY(mt_comm_all_gather(e->tp, e->compute, index, all_index, e->shard_rows * K, MT_I32));
		MT_TRY(mt_comm_all_gather(e->tp, e->compute, weights, all_weights, e->shard_rows * K, f));
		MT_TRY(mt_lap_end(e, &start, &e->tp_s));
	}
	op.rows = (struct mt_rows){.rows = e->rows,
				   .choices = K,
				   .experts = e->model->experts,
				   .capacity = mt_router_capacity(e),
				   .seq = e->layout->seq,
				   .first_row = e->sp ? e->at.tp * e->shard_rows : 0,
				   .count = e->shard_rows,
				   .by_weight = e->model->drop == MT_MODEL_DROP_LIGHTEST,
				   .index = all_index,
				   .weights = all_weights,
				   .kept = *kept};
	MT_TRY(mt_engine_enqueue(e, &op));
	if (e->sp) {
		mt_engine_release(e, &all_weights);
		mt_engine_release(e, &all_index);
	}
	return MT_OK;
}

/* Where each choice stands among the rows sorted by expert. */
static enum mt_status place_choices(struct mt_engine *e, struct mt_experts_saved *s, const void *kept, void **counts)
{
	int64_t S = e->shard_rows, K = e->model->top_k, E = e->model->experts;
	int64_t padding = e->model->capacity_pad ? mt_router_capacity(e) * e->layout->mbs : 0;
	struct mt_op op = {.kind = MT_OP_DISPATCH, .dtype = mt_grad_dtype(e->dtype)};

	MT_TRY(alloc(e, S * K, MT_I32, &s->place));
	MT_TRY(alloc(e, padding ? E * padding : S * K, MT_I32, &s->source));
	MT_TRY(alloc(e, E, MT_I32, counts));
	op.rows = (struct mt_rows){.rows = S,
				   .choices = K,
				   .experts = E,
				   .padding = padding,
				   .index = kept,
				   .counts = *counts,
				   .place = s->place,
				   .source = s->source};
	return mt_engine_enqueue(e, &op);
}

enum mt_status mt_router_forward(struct mt_engine *e, int layer, struct mt_experts_saved *saved, const void *h, void **weights,
				 void **counts)
{
	const int *at = e->table.layers[layer];
	struct mt_experts_saved *s = saved;
	int64_t S = e->shard_rows, E = e->model->experts, K = e->model->top_k;
	enum mt_dtype f = mt_grad_dtype(e->dtype);
	const void *bias = mt_engine_param(e, at[MT_ROUTER_BIAS]);
	void *wide_bias = NULL, *kept;
	struct mt_op op;

	MT_TRY(find_logits(e, at, s, h));
	MT_TRY(alloc(e, S * K, MT_I32, &s->index));
	MT_TRY(alloc(e, S * K, f, weights));
	if (bias)
		MT_TRY(widen(e, bias, E, &wide_bias));
	op = route_op(e, s, MT_OP_ROUTE);
	op.route.bias = wide_bias;
	op.route.weights = *weights;
	MT_TRY(mt_engine_enqueue(e, &op));
	if (bias)
		drop(e, bias, wide_bias);
	MT_TRY(watch_balance(e, layer, s));
	MT_TRY(drop_choices(e, s->index, *weights, &kept));
	MT_TRY(place_choices(e, s, kept, counts));
	if (kept != s->index)
		mt_engine_release(e, &kept);
	return MT_OK;
}

/* dx(S,C) f32 += into dh of the engine's type; dx is freed. */
static enum mt_status add_gradient(struct mt_engine *e, void *dx, void *dh)
{
	enum mt_dtype f = mt_grad_dtype(e->dtype);
	int64_t count = e->shard_rows * e->model->hidden;
	struct mt_op op = {.kind = MT_OP_CAST, .dtype = e->dtype};
	void *narrow = dx;

	if (e->dtype != f) {
		MT_TRY(alloc(e, count, e->dtype, &narrow));
		op.move = (struct mt_move){.count = count, .src_dtype = f, .dst_dtype = e->dtype, .src = dx, .dst = narrow};
		MT_TRY(mt_engine_enqueue(e, &op));
		mt_engine_release(e, &dx);
	}
	op = (struct mt_op){.kind = MT_OP_ADD, .dtype = e->dtype};
	op.add = (struct mt_add){.rows = e->shard_rows, .cols = e->model->hidden, .a = dh, .b = narrow, .out = dh};
	MT_TRY(mt_engine_enqueue(e, &op));
	mt_engine_release(e, &narrow);
	return MT_OK;
}

enum mt_status mt_router_backward(struct mt_engine *e, int layer, struct mt_experts_saved *saved, const void *h, void *dweights,
				  void *dh)
{
	const int *at = e->table.layers[layer];
	int64_t S = e->shard_rows, C = e->model->hidden, E = e->model->experts;
	enum mt_dtype f = mt_grad_dtype(e->dtype);
	const void *weight = mt_engine_param(e, at[MT_ROUTER]);
	struct mt_op op = route_op(e, saved, MT_OP_ROUTE_BWD);
	void *dlogits, *dx, *x, *w;

	MT_TRY(alloc(e, S * E, f, &dlogits));
	op.route.dweights = dweights;
	op.route.dlogits = dlogits;
	op.route.aux_scale = balance_scale(e) * e->loss_scale.value;
	op.route.z_scale = z_scale(e) * e->loss_scale.value;
	MT_TRY(mt_engine_enqueue(e, &op));
	MT_TRY(widen(e, h, S * C, &x));
	op = (struct mt_op){.kind = MT_OP_LINEAR_WGRAD, .dtype = f};
	op.linear = (struct mt_linear){.rows = S, .in = C, .out = E, .x = x, .dy = dlogits, .dw = mt_engine_grad(e, at[MT_ROUTER])};
	MT_TRY(mt_engine_enqueue(e, &op)); /* never put off: it is small and h is kept for others */
	drop(e, h, x);
	MT_TRY(widen(e, weight, E * C, &w));
	MT_TRY(alloc(e, S * C, f, &dx));
	op = (struct mt_op){.kind = MT_OP_LINEAR_DGRAD, .dtype = f};
	op.linear = (struct mt_linear){.rows = S, .in = C, .out = E, .dy = dlogits, .w = w, .dx = dx};
	MT_TRY(mt_engine_enqueue(e, &op));
	drop(e, weight, w);
	mt_engine_release(e, &dlogits);
	return add_gradient(e, dx, dh);
}
