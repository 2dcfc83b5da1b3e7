/* shared_expert: the expert that every row goes to: an MLP split over tp as the dense one, beside the exchange of the others.
 *
 * With a gate its output is weighted by sigmoid(h g), a router of one expert. The weight goes into the activation, as those of
 * the others do; its gradient is then a part on each tensor-parallel rank, as everything is that stands between the products. */
#include "engine/internal.h"

static enum mt_status alloc(struct mt_engine *e, int64_t elements, enum mt_dtype dtype, void **pointer)
{
	return mt_engine_alloc(e, ARENA_ACTIVATIONS, elements, dtype, pointer);
}

static int64_t up_cols(const struct mt_engine *e)
{
	return e->model->mlp == MT_MODEL_SWIGLU ? 2 * e->experts.shared_cols : e->experts.shared_cols;
}

static struct mt_activation activation_of(const struct mt_engine *e, const struct mt_experts_saved *s)
{
	return (struct mt_activation){.kind = e->model->mlp == MT_MODEL_SWIGLU ? MT_SWIGLU : MT_GELU,
				      .rows = e->rows,
				      .cols = e->experts.shared_cols,
				      .x = s->shared_up,
				      .y = s->shared_act};
}

static struct mt_op gate_op(const struct mt_engine *e, const struct mt_experts_saved *s, enum mt_op_kind kind)
{
	struct mt_op op = {.kind = kind, .dtype = mt_grad_dtype(e->dtype)};

	op.route = (struct mt_route){.kind = MT_ROUTE_SIGMOID,
				     .rows = e->rows,
				     .experts = 1,
				     .choices = 1,
				     .sets = 1,
				     .set_choices = 1,
				     .scale = 1,
				     .seq = e->rows,
				     .logits = s->gate_logits,
				     .index = s->gate_index,
				     .weights = s->gate};
	return op;
}

/* x in f32, new unless it is; and back. */
static enum mt_status cast(struct mt_engine *e, const void *x, int64_t count, enum mt_dtype from, enum mt_dtype to, void **out)
{
	struct mt_op op = {.kind = MT_OP_CAST, .dtype = to};

	*out = (void *)(uintptr_t)x;
	if (from == to)
		return MT_OK;
	MT_TRY(alloc(e, count, to, out));
	op.move = (struct mt_move){.count = count, .src_dtype = from, .dst_dtype = to, .src = x, .dst = *out};
	return mt_engine_enqueue(e, &op);
}

static enum mt_status open_gate(struct mt_engine *e, const int *at, struct mt_experts_saved *s, const void *whole)
{
	enum mt_dtype f = mt_grad_dtype(e->dtype);
	void *logits;
	struct mt_op op;

	MT_TRY(alloc(e, e->rows, e->dtype, &logits));
	MT_TRY(mt_linear_forward(e, whole, at[MT_SHARED_SCALE], -1, e->model->hidden, 1, logits));
	MT_TRY(cast(e, logits, e->rows, e->dtype, f, &s->gate_logits));
	if (s->gate_logits != logits)
		mt_engine_release(e, &logits);
	MT_TRY(alloc(e, e->rows, f, &s->gate));
	MT_TRY(alloc(e, e->rows, MT_I32, &s->gate_index));
	op = gate_op(e, s, MT_OP_ROUTE);
	return mt_engine_enqueue(e, &op);
}

enum mt_status mt_shared_activate(struct mt_engine *e, struct mt_experts_saved *saved)
{
	struct mt_op op = {.kind = MT_OP_ACTIVATION, .dtype = e->dtype};

	MT_TRY(alloc(e, e->rows * e->experts.shared_cols, e->dtype, &saved->shared_act));
	if (saved->gate) {
		op.kind = MT_OP_EXPERT_ACT;
		op.expert_act = (struct mt_expert_act){.act = activation_of(e, saved), .weights = saved->gate};
	} else {
		op.activation = activation_of(e, saved);
	}
	return mt_engine_enqueue(e, &op);
}

enum mt_status mt_shared_begin(struct mt_engine *e, const int *at, struct mt_experts_saved *saved, const void *whole)
{
	MT_TRY(alloc(e, e->rows * up_cols(e), e->dtype, &saved->shared_up));
	MT_TRY(mt_linear_forward(e, whole, at[MT_SHARED_UP], -1, e->model->hidden, up_cols(e), saved->shared_up));
	if (at[MT_SHARED_SCALE] >= 0)
		MT_TRY(open_gate(e, at, saved, whole));
	return mt_shared_activate(e, saved);
}

enum mt_status mt_shared_end(struct mt_engine *e, const int *at, struct mt_experts_saved *saved, void **partial)
{
	MT_TRY(alloc(e, e->rows * e->model->hidden, e->dtype, partial));
	return mt_linear_forward(e, saved->shared_act, at[MT_SHARED_DOWN], -1, e->experts.shared_cols, e->model->hidden, *partial);
}

/* dgate(R), freed: adds to dh(R,C), which is summed over tp later, and to the gate's gradient. That of a parameter that every rank
 * has whole is summed over tp under sp alone: elsewhere the sum is made here, and one rank adds it to dh. */
static enum mt_status close_gate(struct mt_engine *e, const int *at, struct mt_experts_saved *s, const void *whole, void **dgate,
				 void *dh)
{
	enum mt_dtype f = mt_grad_dtype(e->dtype);
	bool summed = e->layout->tp > 1 && !e->sp;
	struct mt_op op = gate_op(e, s, MT_OP_ROUTE_BWD);
	void *dlogits, *narrow, *dx;

	if (summed)
		MT_TRY(mt_comm_all_reduce(e->tp, e->compute, *dgate, *dgate, e->rows, f, MT_SUM));
	MT_TRY(alloc(e, e->rows, f, &dlogits));
	op.route.dweights = *dgate;
	op.route.dlogits = dlogits;
	MT_TRY(mt_engine_enqueue(e, &op));
	mt_engine_release(e, dgate);
	MT_TRY(cast(e, dlogits, e->rows, f, e->dtype, &narrow));
	if (narrow != dlogits)
		mt_engine_release(e, &dlogits);
	op = (struct mt_op){.kind = MT_OP_LINEAR_WGRAD, .dtype = e->dtype};
	op.linear = (struct mt_linear){.rows = e->rows,
				       .in = e->model->hidden,
				       .out = 1,
				       .x = whole,
				       .dy = narrow,
				       .dw = mt_engine_grad(e, at[MT_SHARED_SCALE])};
	MT_TRY(mt_engine_enqueue(e, &op)); /* never put off: it is small and h is kept for others */
	if (!summed || e->at.tp == 0) {
		MT_TRY(alloc(e, e->rows * e->model->hidden, e->dtype, &dx));
		MT_TRY(mt_linear_dgrad(e, narrow, at[MT_SHARED_SCALE], e->model->hidden, 1, dx));
		op = (struct mt_op){.kind = MT_OP_ADD, .dtype = e->dtype};
		op.add = (struct mt_add){.rows = e->rows, .cols = e->model->hidden, .a = dh, .b = dx, .out = dh};
		MT_TRY(mt_engine_enqueue(e, &op));
		mt_engine_release(e, &dx);
	}
	mt_engine_release(e, &narrow);
	mt_engine_release(e, &s->gate);
	mt_engine_release(e, &s->gate_logits);
	mt_engine_release(e, &s->gate_index);
	return MT_OK;
}

/* The gradient of the activation in place of what it was of; *dgate(R) where there is a gate, else NULL. */
static enum mt_status activation_backward(struct mt_engine *e, struct mt_experts_saved *s, const void *da, void **dgate)
{
	struct mt_op op = {.kind = MT_OP_ACTIVATION_BWD, .dtype = e->dtype};
	struct mt_activation act = activation_of(e, s);

	act.dy = da;
	act.dx = s->shared_up;
	*dgate = NULL;
	if (s->gate) {
		MT_TRY(alloc(e, e->rows, mt_grad_dtype(e->dtype), dgate));
		op.kind = MT_OP_EXPERT_ACT_BWD;
		op.expert_act = (struct mt_expert_act){.act = act, .weights = s->gate, .dweights = *dgate};
	} else {
		op.activation = act;
	}
	return mt_engine_enqueue(e, &op);
}

enum mt_status mt_shared_backward(struct mt_engine *e, const int *at, struct mt_experts_saved *saved, const void *whole, void *dy,
				  void **dh)
{
	struct mt_experts_saved *s = saved;
	int64_t C = e->model->hidden, F = e->experts.shared_cols;
	void *da, *dgate;

	if (!s->shared_act)
		MT_TRY(mt_shared_activate(e, s));
	MT_TRY(alloc(e, e->rows * F, e->dtype, &da));
	MT_TRY(mt_linear_dgrad(e, dy, at[MT_SHARED_DOWN], F, C, da));
	MT_TRY(mt_linear_wgrad(e, dy, s->shared_act, at[MT_SHARED_DOWN], -1, F, C));
	mt_engine_release(e, &s->shared_act);
	MT_TRY(activation_backward(e, s, da, &dgate));
	mt_engine_release(e, &da);
	MT_TRY(alloc(e, e->rows * C, e->dtype, dh));
	MT_TRY(mt_linear_dgrad(e, s->shared_up, at[MT_SHARED_UP], C, up_cols(e), *dh));
	MT_TRY(mt_linear_wgrad(e, s->shared_up, whole, at[MT_SHARED_UP], -1, C, up_cols(e)));
	mt_engine_release(e, &s->shared_up);
	return dgate ? close_gate(e, at, s, whole, &dgate, *dh) : MT_OK;
}
