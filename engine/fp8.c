/* fp8: the products of a layer (query, key and value; attention's output; up; down, of an MLP, experts and a shared expert) in 8
 * bits, forward and backward.
 *
 * Each operand is multiplied by a scale that brings its greatest value to the greatest of the type, rounded, and the product is
 * divided by both scales (Micikevicius et al. 2022, arXiv:2209.05433). Inputs and weights are e4m3; gradients are e5m2, or e4m3
 * too. Master weights, sums and everything between the products stay as they are. As in Transformer Engine scales are
 *   current  of the tensor itself: one reading more of it before it is rounded, and where it is split over tp the greatest value is
 *            agreed on first; a weight's is found once a step
 *   delayed  of the greatest values of the last steps (fp8_history; the greatest of them or the latest), found while rounding. They
 *            are agreed on by all ranks at the end of a step, so they depend on no layout. While there is no history, in the first
 *            step, scales are current ones; Transformer Engine begins with 1 instead, and enters each micro-batch by itself.
 * A tensor is rounded where it is used, and again in the backward pass from what is kept of the forward pass anyway. Operands whose
 * summed dimension is not contiguous are turned while they are rounded, as the tensor cores of sm_89 and sm_90 want them; rows of
 * experts one by one, each filled up with zeros (kernels/op.h). */
#include "engine/fp8_private.h"

enum { TAIL_BYTES = 16 };

/* A rounded operand: codes as the matrix lies, its transpose, and the inverse of the scale. */
struct operand {
	void *codes, *turned;
	const void *inverse;
};

static void *at_f32(void *base, int64_t index)
{
	return (void *)((uintptr_t)base + (uintptr_t)index * sizeof(float));
}

static void *scale_of(const struct mt_engine *e, int64_t tensor)
{
	return at_f32(e->fp8.scales, tensor);
}

static void *inverse_of(const struct mt_engine *e, int64_t tensor)
{
	return at_f32(e->fp8.scales, e->fp8.tensors + tensor);
}

/* Whether a product is of experts: whether its rows are in groups. */
static bool is_grouped(const struct mt_engine *e, int64_t product)
{
	return product < e->model->layers * FP8_PRODUCTS && product % FP8_PRODUCTS >= FP8_UP &&
	       mt_model_layer_has_experts(e->model, product / FP8_PRODUCTS);
}

/* The ranks that each have a part of the tensor; NULL: this one has all of it. */
static struct mt_group *split_over(const struct mt_engine *e, int64_t product, int64_t kind)
{
	int64_t dense = e->model->layers * FP8_PRODUCTS, which = product % FP8_PRODUCTS;
	bool by_rows = product < dense ? which == FP8_OUT || which == FP8_DOWN : (product - dense) % 2 == 1;
	struct mt_group *group = is_grouped(e, product) ? e->experts.etp : e->tp;

	/* row-parallel: the input is split; else the output */
	return mt_group_size(group) > 1 && (kind == FP8_W || (kind == FP8_X) == by_rows) ? group : NULL;
}

enum mt_dtype mt_fp8_type(const struct mt_engine *e, int64_t tensor)
{
	bool gradient = tensor < e->fp8.products * FP8_KINDS && tensor % FP8_KINDS == FP8_DY;

	return gradient ? mt_fp8_gradient(e->layout->fp8_format) : MT_E4M3;
}

static enum mt_status find_amax(struct mt_engine *e, enum mt_dtype dtype, const void *x, int64_t rows, int64_t cols, void *amax)
{
	struct mt_op op = {.kind = MT_OP_AMAX, .dtype = dtype};

	op.quantize = (struct mt_quantize){.rows = rows, .cols = cols, .x = x, .amax = amax};
	return mt_engine_enqueue(e, &op);
}

enum mt_status mt_fp8_clear(struct mt_engine *e, void *values, int64_t count)
{
	struct mt_op op = {.kind = MT_OP_FILL, .dtype = MT_F32};

	op.move = (struct mt_move){.count = count, .src_dtype = MT_F32, .dst_dtype = MT_F32, .dst = values};
	return mt_engine_enqueue(e, &op);
}

/* amax(count) over the ranks that have parts of the tensors. */
static enum mt_status agree(struct mt_engine *e, struct mt_group *group, void *amax, int64_t count)
{
	struct mt_mark start;

	if (!group)
		return MT_OK;
	MT_TRY(mt_lap_begin(e, &start));
	MT_TRY(mt_comm_all_reduce(group, e->compute, amax, amax, count, MT_F32, MT_MAX));
	return mt_lap_end(e, &start, &e->tp_s);
}

/* Scales and inverses of `count` greatest values. */
static enum mt_status make_scales(struct mt_engine *e, const struct mt_quantize *q, int64_t count)
{
	struct mt_op op = {.kind = MT_OP_FP8_SCALE, .dtype = MT_F32};

	op.quantize = *q;
	op.quantize.rows = 1;
	op.quantize.cols = count;
	op.quantize.pad = 0;
	return mt_engine_enqueue(e, &op);
}

/* Scale and inverse of a tensor by its own greatest value. */
static enum mt_status find_scale(struct mt_engine *e, int64_t tensor, const struct mt_quantize *q)
{
	MT_TRY(mt_fp8_clear(e, q->amax, 1));
	MT_TRY(find_amax(e, e->dtype, q->x, q->rows, q->cols, q->amax));
	MT_TRY(agree(e, split_over(e, tensor / FP8_KINDS, tensor % FP8_KINDS), q->amax, 1));
	return make_scales(e, q, 1);
}

static enum mt_status alloc_codes(struct mt_engine *e, int64_t bytes, void **codes)
{
	return mt_engine_alloc(e, ARENA_ACTIVATIONS, bytes, MT_E4M3, codes);
}

/* A tensor's own scale. A weight's has its place for the whole step; others' lie behind the codes. */
static enum mt_status own_scale(struct mt_engine *e, int64_t tensor, void *tail, struct mt_quantize *q)
{
	struct mt_fp8 *f = &e->fp8;
	bool weight = tensor % FP8_KINDS == FP8_W;

	q->amax = weight ? at_f32(f->amax, tensor) : tail;
	q->scale = weight ? scale_of(e, tensor) : at_f32(tail, 1);
	q->inverse = weight ? inverse_of(e, tensor) : at_f32(tail, 2);
	if (!weight || !f->found[tensor / FP8_KINDS])
		MT_TRY(find_scale(e, tensor, q));
	if (weight)
		f->found[tensor / FP8_KINDS] = true;
	else if (f->delayed && !e->evaluating) /* the first step: into the history */
		MT_TRY(find_amax(e, MT_F32, q->amax, 1, 1, at_f32(f->amax, tensor)));
	q->amax = NULL;
	return MT_OK;
}

/* A matrix to round, x(rows, cols): to new codes as it lies, turned, or both. */
struct rounding {
	int64_t tensor;
	const void *x;
	int64_t rows, cols;
	const struct mt_grouped *groups; /* of the rows; NULL: they are one */
	bool straight, turned;
	bool noted; /* its greatest value goes into the history */
};

/* Rows of what is turned at most: so that memory hangs on the rows of all, not on who has them. */
static int64_t turned_rows(const struct rounding *r)
{
	return r->rows + (r->groups ? r->groups->groups * (MT_FP8_ROWS - 1) : 0);
}

/* The rows of each group by themselves, as they are turned and filled up. */
static enum mt_status round_groups(struct mt_engine *e, const struct rounding *r, struct mt_op *op)
{
	const struct mt_quantize all = op->quantize;
	const int64_t *offsets = r->groups->offsets;
	int64_t filled = 0;

	for (int64_t i = 0; i < r->groups->groups; i++) {
		int64_t rows = offsets[i + 1] - offsets[i];
		uintptr_t first = (uintptr_t)(offsets[i] * r->cols);

		if (rows == 0)
			continue;
		op->quantize.rows = rows;
		op->quantize.pad = mt_op_group_rows(rows) - rows;
		op->quantize.x = (const void *)((uintptr_t)all.x + first * mt_dtype_bytes(e->dtype));
		op->quantize.y = all.y ? (void *)((uintptr_t)all.y + first) : NULL;
		op->quantize.y_t = (void *)((uintptr_t)all.y_t + (uintptr_t)(filled * r->cols));
		MT_TRY(mt_engine_enqueue(e, op));
		filled += mt_op_group_rows(rows);
	}
	return MT_OK;
}

static int64_t padded_bytes(int64_t bytes)
{
	return (bytes + TAIL_BYTES - 1) / TAIL_BYTES * TAIL_BYTES;
}

static enum mt_status quantize(struct mt_engine *e, const struct rounding *r, struct operand *operand)
{
	struct mt_fp8 *f = &e->fp8;
	struct mt_op op = {.kind = MT_OP_QUANTIZE, .dtype = e->dtype};
	int64_t bytes = padded_bytes(r->rows * r->cols), turned_bytes = padded_bytes(turned_rows(r) * r->cols);
	struct mt_quantize *q = &op.quantize;

	*operand = (struct operand){0};
	if (r->straight)
		MT_TRY(alloc_codes(e, bytes + TAIL_BYTES, &operand->codes));
	if (r->turned)
		MT_TRY(alloc_codes(e, turned_bytes + TAIL_BYTES, &operand->turned));
	*q = (struct mt_quantize){.rows = r->rows,
				  .cols = r->cols,
				  .to = mt_fp8_type(e, r->tensor),
				  .margin = (int)e->layout->fp8_margin,
				  .x = r->x,
				  .y = operand->codes,
				  .y_t = operand->turned};
	if (f->delayed && f->steps > 0) {
		q->scale = scale_of(e, r->tensor);
		q->inverse = inverse_of(e, r->tensor);
		q->amax = r->noted && !e->evaluating ? at_f32(f->amax, r->tensor) : NULL;
	} else {
		void *tail = r->turned ? (void *)((uintptr_t)operand->turned + (uintptr_t)turned_bytes)
				       : (void *)((uintptr_t)operand->codes + (uintptr_t)bytes);

		MT_TRY(own_scale(e, r->tensor, tail, q));
	}
	operand->inverse = q->inverse;
	return r->turned && r->groups ? round_groups(e, r, &op) : mt_engine_enqueue(e, &op);
}

/* The scales of the weights of experts, for this step, by their own greatest values. */
static enum mt_status find_weight_scales(struct mt_engine *e, int product, int64_t first, const struct mt_op *op)
{
	const struct mt_linear *l = &op->linear;
	int64_t count = op->grouped.groups, bytes = l->in * l->out * (int64_t)mt_dtype_bytes(e->dtype);
	struct mt_quantize q = {.to = MT_E4M3,
				.margin = (int)e->layout->fp8_margin,
				.amax = at_f32(e->fp8.amax, first),
				.scale = scale_of(e, first),
				.inverse = inverse_of(e, first)};

	if (e->fp8.found[product])
		return MT_OK;
	MT_TRY(mt_fp8_clear(e, q.amax, count));
	for (int64_t i = 0; i < count; i++)
		MT_TRY(find_amax(e, e->dtype, (const void *)((uintptr_t)l->w + (uintptr_t)(i * bytes)), l->out, l->in,
				 at_f32(q.amax, i)));
	MT_TRY(agree(e, split_over(e, product, FP8_W), q.amax, count));
	e->fp8.found[product] = true;
	return make_scales(e, &q, count);
}

/* The weights w(out, in) of the experts here, each by its own scale: as they lie, for the forward product, or turned. */
static enum mt_status quantize_experts(struct mt_engine *e, int product, const struct mt_op *product_op, bool turned,
				       struct operand *operand)
{
	const struct mt_linear *l = &product_op->linear;
	struct mt_op op = {.kind = MT_OP_QUANTIZE, .dtype = e->dtype};
	int64_t count = product_op->grouped.groups, size = l->in * l->out, layer = product / FP8_PRODUCTS;
	int64_t first =
		e->fp8.products * FP8_KINDS + (2 * layer + product % FP8_PRODUCTS - FP8_UP) * e->model->experts + e->at.ep * count;
	bool by_history = e->fp8.delayed && e->fp8.steps > 0;
	void **codes = turned ? &operand->turned : &operand->codes;

	*operand = (struct operand){.inverse = inverse_of(e, first)};
	if (!by_history)
		MT_TRY(find_weight_scales(e, product, first, product_op));
	MT_TRY(alloc_codes(e, count * size, codes));
	for (int64_t i = 0; i < count; i++) {
		void *to = (void *)((uintptr_t)*codes + (uintptr_t)(i * size));

		op.quantize = (struct mt_quantize){
			.rows = l->out,
			.cols = l->in,
			.to = MT_E4M3,
			.x = (const void *)((uintptr_t)l->w + (uintptr_t)(i * size) * mt_dtype_bytes(e->dtype)),
			.y = turned ? NULL : to,
			.y_t = turned ? to : NULL,
			.amax = by_history && !turned && !e->evaluating ? at_f32(e->fp8.amax, first + i) : NULL,
			.scale = scale_of(e, first + i)};
		MT_TRY(mt_engine_enqueue(e, &op));
	}
	return MT_OK;
}

int mt_fp8_product(const struct mt_engine *e, int weight)
{
	return e->fp8.product_of && weight >= 0 ? e->fp8.product_of[weight] : -1;
}

static int64_t tensor_of(int product, int kind)
{
	return (int64_t)product * FP8_KINDS + kind;
}

static const struct mt_grouped *groups_of(const struct mt_op *op)
{
	return op->kind >= MT_OP_GROUPED ? &op->grouped : NULL; /* whose `linear` is op->linear */
}

/* x(rows, in) of a product. */
static struct rounding input_of(int product, const struct mt_op *op)
{
	const struct mt_linear *l = &op->linear;

	return (struct rounding){
		.tensor = tensor_of(product, FP8_X), .x = l->x, .rows = l->rows, .cols = l->in, .groups = groups_of(op)};
}

/* dy(rows, out). */
static struct rounding gradient_of(int product, const struct mt_op *op)
{
	const struct mt_linear *l = &op->linear;

	return (struct rounding){
		.tensor = tensor_of(product, FP8_DY), .x = l->dy, .rows = l->rows, .cols = l->out, .groups = groups_of(op)};
}

/* w(out, in), as it lies for the forward product, turned for the gradient of the input. */
static enum mt_status quantize_weight(struct mt_engine *e, int product, const struct mt_op *op, bool turned, struct operand *w)
{
	struct rounding r = {.tensor = tensor_of(product, FP8_W),
			     .x = op->linear.w,
			     .rows = op->linear.out,
			     .cols = op->linear.in,
			     .straight = !turned,
			     .turned = turned,
			     .noted = !turned};

	return groups_of(op) ? quantize_experts(e, product, op, turned, w) : quantize(e, &r, w);
}

enum mt_status mt_fp8_forward(struct mt_engine *e, int product, struct mt_op *op)
{
	struct mt_linear *l = &op->linear;
	struct rounding from = input_of(product, op);
	struct operand x, w;

	from.straight = from.noted = true;
	MT_TRY(quantize(e, &from, &x));
	MT_TRY(quantize_weight(e, product, op, false, &w));
	l->fp8 = e->layout->fp8_format;
	l->x = x.codes;
	l->w = w.codes;
	l->x_inverse = x.inverse;
	l->w_inverse = w.inverse;
	MT_TRY(mt_engine_enqueue(e, op));
	mt_engine_release(e, &w.codes);
	mt_engine_release(e, &x.codes);
	return MT_OK;
}

void mt_fp8_drop_kept(struct mt_engine *e)
{
	if (e->fp8.kept)
		mt_engine_release(e, &e->fp8.kept);
	e->fp8.kept_dy = NULL;
}

enum mt_status mt_fp8_dgrad(struct mt_engine *e, int product, struct mt_op *op)
{
	struct mt_linear *l = &op->linear;
	struct rounding from = gradient_of(product, op);
	struct operand dy, w;

	mt_fp8_drop_kept(e);
	from.straight = from.noted = true;
	from.turned = e->layout->fp8_wgrad;
	MT_TRY(quantize(e, &from, &dy));
	MT_TRY(quantize_weight(e, product, op, true, &w));
	e->fp8.kept = dy.turned;
	e->fp8.kept_dy = l->dy;
	e->fp8.kept_inverse = dy.inverse;
	l->fp8 = e->layout->fp8_format;
	l->dy = dy.codes;
	l->w = w.turned;
	l->dy_inverse = dy.inverse;
	l->w_inverse = w.inverse;
	MT_TRY(mt_engine_enqueue(e, op));
	mt_engine_release(e, &w.turned);
	mt_engine_release(e, &dy.codes);
	return MT_OK;
}

/* Put off, the note owns both operands: what they were rounded from may go. */
enum mt_status mt_fp8_wgrad(struct mt_engine *e, int product, struct mt_op *op)
{
	struct mt_fp8 *f = &e->fp8;
	struct mt_linear *l = &op->linear;
	struct rounding from = input_of(product, op), gradient = gradient_of(product, op);
	struct operand x, dy;

	from.turned = gradient.turned = gradient.noted = true;
	if (f->kept && f->kept_dy == l->dy) {
		dy = (struct operand){.turned = f->kept, .inverse = f->kept_inverse};
		f->kept = NULL;
	} else {
		MT_TRY(quantize(e, &gradient, &dy));
	}
	MT_TRY(quantize(e, &from, &x));
	l->fp8 = e->layout->fp8_format;
	l->x = x.turned;
	l->dy = dy.turned;
	l->x_inverse = x.inverse;
	l->dy_inverse = dy.inverse;
	if (e->collecting)
		return mt_wgrads_note(e, op, MT_ROWS_WHOLE);
	MT_TRY(mt_engine_enqueue(e, op));
	mt_engine_release(e, &x.turned);
	mt_engine_release(e, &dy.turned);
	return MT_OK;
}
