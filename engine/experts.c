/* experts: the passes of a layer's experts: rows go out, meet their experts, come back. See experts.h. */
#include "engine/internal.h"

#include <stdlib.h>
#include <string.h>

static enum mt_activation_kind act_kind(const struct mt_engine *e)
{
	return e->model->mlp == MT_MODEL_SWIGLU ? MT_SWIGLU : MT_GELU;
}

static int64_t up_cols(const struct mt_engine *e)
{
	return e->model->mlp == MT_MODEL_SWIGLU ? 2 * e->experts.ffn : e->experts.ffn;
}

/* Experts that got nothing still have a tensor. */
static enum mt_status alloc(struct mt_engine *e, int64_t elements, enum mt_dtype dtype, void **pointer)
{
	return mt_engine_alloc(e, ARENA_ACTIVATIONS, elements > 0 ? elements : 1, dtype, pointer);
}

static void release(struct mt_engine *e, void **pointer)
{
	if (*pointer)
		mt_engine_release(e, pointer);
}

/* out row i = in row index[i] / divide. */
static enum mt_status gather(struct mt_engine *e, const void *in, const void *index, int64_t divide, int64_t rows, int64_t cols,
			     enum mt_dtype dtype, void **out)
{
	struct mt_op op = {.kind = MT_OP_GATHER_ROWS, .dtype = dtype};

	MT_TRY(alloc(e, rows * cols, dtype, out));
	op.rows = (struct mt_rows){.rows = rows, .cols = cols, .divide = divide, .index = index, .in = in, .out = *out};
	return mt_engine_enqueue(e, &op);
}

/* What came back for each of `rows` * `choices` places, all slices, summed over choices: new. `in` is freed. */
static enum mt_status sum_back(struct mt_engine *e, const struct mt_experts_saved *s, void **in, int64_t rows, int64_t choices,
			       int64_t cols, enum mt_dtype dtype, void **out)
{
	struct mt_op op = {.kind = MT_OP_SUM_ROWS, .dtype = dtype};

	MT_TRY(alloc(e, rows * cols, dtype, out));
	op.rows = (struct mt_rows){.rows = rows,
				   .cols = cols,
				   .choices = choices,
				   .slices = e->experts.slices,
				   .slice_rows = s->places,
				   .index = s->place,
				   .in = *in,
				   .out = *out};
	MT_TRY(mt_engine_enqueue(e, &op));
	release(e, in);
	return MT_OK;
}

static enum mt_status add_to(struct mt_engine *e, void *sum, const void *other)
{
	struct mt_op op = {.kind = MT_OP_ADD, .dtype = e->dtype};

	op.add = (struct mt_add){.rows = e->shard_rows, .cols = e->model->hidden, .a = sum, .b = other, .out = sum};
	return mt_engine_enqueue(e, &op);
}

/* The products of all experts here: x(N,in), y(N,out). */
static struct mt_op grouped(const struct mt_engine *e, const struct mt_experts_saved *s, enum mt_op_kind kind, int weight,
			    int64_t in, int64_t out)
{
	struct mt_op op = {.kind = kind, .dtype = e->dtype};

	op.grouped.groups = e->experts.here;
	op.grouped.offsets = s->offsets;
	op.grouped.linear.rows = s->got;
	op.grouped.linear.in = in;
	op.grouped.linear.out = out;
	if (kind == MT_OP_GROUPED_WGRAD)
		op.grouped.linear.dw = mt_engine_grad(e, weight);
	else
		op.grouped.linear.w = mt_engine_param(e, weight);
	return op;
}

/* A forward product or a gradient of the input. */
static enum mt_status run(struct mt_engine *e, int weight, struct mt_op *op)
{
	int product = mt_fp8_product(e, weight);

	if (product < 0)
		return mt_engine_enqueue(e, op);
	return op->kind == MT_OP_GROUPED ? mt_fp8_forward(e, product, op) : mt_fp8_dgrad(e, product, op);
}

static enum mt_status wgrad(struct mt_engine *e, const struct mt_experts_saved *s, const void *dy, const void *x, int weight,
			    int64_t in, int64_t out)
{
	struct mt_op op = grouped(e, s, MT_OP_GROUPED_WGRAD, weight, in, out);

	op.grouped.linear.x = x;
	op.grouped.linear.dy = dy;
	if (mt_fp8_product(e, weight) >= 0 && e->layout->fp8_wgrad)
		return mt_fp8_wgrad(e, mt_fp8_product(e, weight), &op);
	return e->collecting ? mt_wgrads_note(e, &op, MT_ROWS_WHOLE) : mt_engine_enqueue(e, &op);
}

/* The input of the shared expert's product: all rows; under sp new. */
static enum mt_status gather_whole(struct mt_engine *e, const void *shard, void **whole)
{
	*whole = (void *)(uintptr_t)shard;
	return e->sp ? mt_tp_gather(e, shard, whole, e->model->hidden) : MT_OK;
}

/* The tensor-parallel ranks hold the same rows and a slice of each expert: their results are summed as the dense layer's. */
static bool same_rows(const struct mt_engine *e)
{
	return e->layout->tp > 1 && !e->sp;
}

/* *routed(S,C) and the shared expert's part (R,C) or NULL, which is freed, become their sum over tp. */
static enum mt_status join(struct mt_engine *e, void **routed, void **shared)
{
	int64_t C = e->model->hidden;

	if (*shared && e->sp)
		MT_TRY(mt_tp_reduce(e, shared, C));
	if (*shared)
		MT_TRY(add_to(e, *routed, *shared));
	release(e, shared);
	return same_rows(e) ? mt_tp_reduce(e, routed, C) : MT_OK;
}

/* rows(P,cols), freed, to the ranks of their experts: *got(N,cols). On one rank they are there. The exchange is under way. */
static enum mt_status send(struct mt_engine *e, const struct mt_experts_saved *s, void *rows, int64_t cols, enum mt_dtype dtype,
			   void **got)
{
	*got = rows;
	if (!mt_exchange_needed(e))
		return MT_OK;
	MT_TRY(alloc(e, s->got * cols, dtype, got));
	return mt_exchange_start(e, s, rows, *got, cols, dtype);
}

static enum mt_status send_back(struct mt_engine *e, const struct mt_experts_saved *s, void *got, int64_t cols, enum mt_dtype dtype,
				void **rows)
{
	*rows = got;
	if (!mt_exchange_needed(e))
		return MT_OK;
	MT_TRY(alloc(e, e->experts.slices * s->places * cols, dtype, rows));
	return mt_exchange_start_back(e, s, got, *rows, cols, dtype);
}

/* The exchange is over: what was sent is freed. */
static enum mt_status arrived(struct mt_engine *e, void *sent, void *other)
{
	if (!mt_exchange_needed(e))
		return MT_OK;
	MT_TRY(mt_exchange_wait(e));
	release(e, &sent);
	release(e, &other);
	return MT_OK;
}

enum mt_status mt_experts_activate(struct mt_engine *e, struct mt_experts_saved *saved)
{
	struct mt_op op = {.kind = MT_OP_EXPERT_ACT, .dtype = e->dtype};

	MT_TRY(alloc(e, saved->got * e->experts.ffn, e->dtype, &saved->activation));
	op.expert_act.act = (struct mt_activation){
		.kind = act_kind(e), .rows = saved->got, .cols = e->experts.ffn, .x = saved->up, .y = saved->activation};
	op.expert_act.weights = saved->weights;
	return mt_engine_enqueue(e, &op);
}

enum mt_status mt_experts_begin(struct mt_engine *e, int layer, struct mt_layer_saved *saved, const void *h)
{
	const int *at = e->table.layers[layer];
	struct mt_experts_saved *s = &saved->experts;
	int64_t C = e->model->hidden, K = e->model->top_k;
	enum mt_dtype f = mt_grad_dtype(e->dtype);
	void *weights, *counts, *rows, *row_weights;
	struct mt_op op;

	MT_TRY(mt_router_forward(e, layer, s, h, &weights, &counts));
	MT_TRY(mt_exchange_plan(e, s, counts));
	release(e, &counts);
	MT_TRY(gather(e, h, s->source, K, s->places, C, e->dtype, &rows));
	MT_TRY(gather(e, weights, s->source, 1, s->places, 1, f, &row_weights));
	release(e, &weights);
	MT_TRY(send(e, s, rows, C, e->dtype, &s->rows));
	MT_TRY(send(e, s, row_weights, 1, f, &s->weights));
	if (at[MT_SHARED_UP] >= 0) {
		void *whole;

		MT_TRY(gather_whole(e, h, &whole));
		MT_TRY(mt_shared_begin(e, at, s, whole));
		if (whole != h)
			release(e, &whole);
	}
	MT_TRY(arrived(e, rows, row_weights));
	MT_TRY(alloc(e, s->got * up_cols(e), e->dtype, &s->up));
	op = grouped(e, s, MT_OP_GROUPED, at[MT_EXPERT_UP], C, up_cols(e));
	op.grouped.linear.x = s->rows;
	op.grouped.linear.y = s->up;
	MT_TRY(run(e, at[MT_EXPERT_UP], &op));
	return mt_experts_activate(e, s);
}

enum mt_status mt_experts_end(struct mt_engine *e, int layer, struct mt_layer_saved *saved, void **output)
{
	const int *at = e->table.layers[layer];
	struct mt_experts_saved *s = &saved->experts;
	int64_t C = e->model->hidden;
	struct mt_op op = grouped(e, s, MT_OP_GROUPED, at[MT_EXPERT_DOWN], e->experts.ffn, C);
	void *y, *back, *shared = NULL;

	MT_TRY(alloc(e, s->got * C, e->dtype, &y));
	op.grouped.linear.x = s->activation;
	op.grouped.linear.y = y;
	MT_TRY(run(e, at[MT_EXPERT_DOWN], &op));
	MT_TRY(send_back(e, s, y, C, e->dtype, &back));
	if (at[MT_SHARED_UP] >= 0)
		MT_TRY(mt_shared_end(e, at, s, &shared));
	MT_TRY(arrived(e, y, NULL));
	MT_TRY(sum_back(e, s, &back, e->shard_rows, e->model->top_k, C, e->dtype, output));
	return join(e, output, &shared);
}

/* got(N,C): the gradient of the experts' outputs, freed. *dx(N,C) and *dweights(N), new. The first product's weight gradient is
 * left for the time when they travel back. */
static enum mt_status backward_here(struct mt_engine *e, const int *at, struct mt_experts_saved *s, void **got, void **dx,
				    void **dweights)
{
	int64_t C = e->model->hidden, F = e->experts.ffn;
	struct mt_op op = grouped(e, s, MT_OP_GROUPED_DGRAD, at[MT_EXPERT_DOWN], F, C);
	struct mt_op act = {.kind = MT_OP_EXPERT_ACT_BWD, .dtype = e->dtype};
	void *da;

	MT_TRY(alloc(e, s->got * F, e->dtype, &da));
	op.grouped.linear.dy = *got;
	op.grouped.linear.dx = da;
	MT_TRY(run(e, at[MT_EXPERT_DOWN], &op));
	MT_TRY(wgrad(e, s, *got, s->activation, at[MT_EXPERT_DOWN], F, C));
	release(e, got);
	release(e, &s->activation);
	MT_TRY(alloc(e, s->got, mt_grad_dtype(e->dtype), dweights));
	act.expert_act.act =
		(struct mt_activation){.kind = act_kind(e), .rows = s->got, .cols = F, .x = s->up, .dy = da, .dx = s->up};
	act.expert_act.weights = s->weights;
	act.expert_act.dweights = *dweights;
	MT_TRY(mt_engine_enqueue(e, &act));
	release(e, &da);
	release(e, &s->weights);
	MT_TRY(alloc(e, s->got * C, e->dtype, dx));
	op = grouped(e, s, MT_OP_GROUPED_DGRAD, at[MT_EXPERT_UP], C, up_cols(e));
	op.grouped.linear.dy = s->up;
	op.grouped.linear.dx = *dx;
	return run(e, at[MT_EXPERT_UP], &op);
}

static enum mt_status backward_late(struct mt_engine *e, const int *at, struct mt_experts_saved *s)
{
	MT_TRY(wgrad(e, s, s->up, s->rows, at[MT_EXPERT_UP], e->model->hidden, up_cols(e)));
	release(e, &s->up);
	release(e, &s->rows);
	return MT_OK;
}

/* dweights(S,K): each tensor-parallel rank has its slice's part where all hold the same rows. */
static enum mt_status complete_weights(struct mt_engine *e, void *dweights)
{
	struct mt_mark start;

	if (!same_rows(e))
		return MT_OK;
	MT_TRY(mt_lap_begin(e, &start));
	MT_TRY(mt_comm_all_reduce(e->tp, e->compute, dweights, dweights, e->shard_rows * e->model->top_k, mt_grad_dtype(e->dtype),
				  MT_SUM));
	return mt_lap_end(e, &start, &e->tp_s);
}

/* The shared expert's part of dh, while rows are on their way. */
static enum mt_status backward_shared(struct mt_engine *e, const int *at, struct mt_experts_saved *s, const void *h, void *dy,
				      void **dh)
{
	void *whole_h, *whole_dy;

	*dh = NULL;
	if (at[MT_SHARED_UP] < 0)
		return MT_OK;
	MT_TRY(gather_whole(e, dy, &whole_dy));
	MT_TRY(gather_whole(e, h, &whole_h));
	MT_TRY(mt_shared_backward(e, at, s, whole_h, whole_dy, dh));
	if (whole_h != h)
		release(e, &whole_h);
	if (whole_dy != dy)
		release(e, &whole_dy);
	return MT_OK;
}

enum mt_status mt_experts_backward(struct mt_engine *e, int layer, struct mt_layer_saved *saved, const void *h, void *dy, void **dh)
{
	const int *at = e->table.layers[layer];
	struct mt_experts_saved *s = &saved->experts;
	int64_t C = e->model->hidden, K = e->model->top_k;
	enum mt_dtype f = mt_grad_dtype(e->dtype);
	void *rows, *got, *shared, *dx, *dweights, *back, *back_weights;

	if (!s->activation)
		MT_TRY(mt_experts_activate(e, s));
	MT_TRY(gather(e, dy, s->source, K, s->places, C, e->dtype, &rows));
	MT_TRY(send(e, s, rows, C, e->dtype, &got));
	MT_TRY(backward_shared(e, at, s, h, dy, &shared));
	MT_TRY(arrived(e, rows, NULL));
	MT_TRY(backward_here(e, at, s, &got, &dx, &dweights));
	MT_TRY(send_back(e, s, dx, C, e->dtype, &back));
	MT_TRY(send_back(e, s, dweights, 1, f, &back_weights));
	MT_TRY(backward_late(e, at, s));
	MT_TRY(arrived(e, dx, dweights));
	MT_TRY(sum_back(e, s, &back, e->shard_rows, K, C, e->dtype, dh));
	MT_TRY(sum_back(e, s, &back_weights, e->shard_rows * K, 1, 1, f, &dweights));
	MT_TRY(join(e, dh, &shared));
	MT_TRY(complete_weights(e, dweights));
	MT_TRY(mt_router_backward(e, layer, s, h, dweights, *dh));
	release(e, &dweights);
	mt_experts_free(e, s, false);
	return MT_OK;
}

void mt_experts_free(struct mt_engine *e, struct mt_experts_saved *saved, bool act)
{
	struct mt_experts_saved *s = saved;
	void **all[] = {&s->activation, &s->shared_act, &s->logits, &s->index,     &s->place, &s->source,     &s->rows,
			&s->weights,    &s->up,         &s->sums,   &s->shared_up, &s->gate,  &s->gate_index, &s->gate_logits};

	for (size_t i = 0; i < (act ? 2 : sizeof all / sizeof all[0]); i++)
		release(e, all[i]);
}
