/* muon: orthogonal updates of the layers' matrices (Jordan et al. 2024; at scale: Liu et al. 2025, arXiv:2502.16982).
 *
 *   m = momentum m + g;  u = nesterov ? g + momentum m : m
 *   X = u / |u|;  steps times:  A = X X^T,  X = a X + (b A + c A^2) X      (Newton-Schulz: the singular values go to about 1)
 *   master -= lr * (factor * scale * X + decay * master)
 *   scale: spectral sqrt(max(rows, cols)), which with factor 0.2 steps as large as AdamW; shape sqrt(max(1, rows / cols));
 *   unit-rms sqrt(rows / cols); rows and cols of the whole matrix
 * Everything but those matrices takes AdamW's step.
 *
 * X A' X for A' = X^T X is the same polynomial from the other side, so the Gram matrix is that of the shorter side; of a
 * matrix that is split over tp it is that of the side that is whole, summed over tp: the whole matrix is never gathered over tp,
 * and each tp rank works on its shard. Over the data-parallel ranks u is gathered, and each rank does the matrices that its own
 * part of the bucket has elements of: so the work is shared out as the optimizer state is. */
#include "engine/internal.h"

#include <math.h>
#include <string.h>

static const double NS_A = 3.4445, NS_B = -4.7750, NS_C = 2.0315;

bool mt_muon_takes(const struct mt_engine *e, const struct mt_param *p)
{
	return e->config.run->train.optimizer == MT_MUON && strncmp(p->name, "layer.", 6) == 0 && p->global_rows > 1 &&
	       p->global_cols > 1;
}

static bool is_split(const struct mt_engine *e, const struct mt_param *p)
{
	return (p->expert ? mt_layout_etp(e->layout) : e->layout->tp) > 1 && !p->replicated;
}

/* The ranks that hold the other slices of the matrix. */
static struct mt_group *slices(const struct mt_engine *e, const struct mt_param *p)
{
	return p->expert ? e->experts.etp : e->tp;
}

/* Whether the Gram matrix is X X^T, else X^T X. */
static bool from_left(const struct mt_engine *e, const struct mt_param *p)
{
	return is_split(e, p) ? p->shard_axis == 1 : p->rows <= p->cols;
}

enum mt_status mt_muon_create(struct mt_engine *e)
{
	enum mt_dtype f = mt_grad_dtype(e->dtype);
	struct mt_muon *muon = &e->muon;
	int64_t matrix = 0, side = 0;

	for (int i = 0; i < e->table.count; i++) {
		const struct mt_param *p = &e->table.params[i];
		int64_t own = from_left(e, p) ? p->rows : p->cols;

		if (!mt_muon_takes(e, p))
			continue;
		matrix = p->rows * p->cols > matrix ? p->rows * p->cols : matrix;
		side = own > side ? own : side;
	}
	if (matrix == 0)
		return MT_OK;
	MT_TRY(mt_engine_alloc(e, ARENA_WORKSPACE, matrix, f, &muon->x));
	MT_TRY(mt_engine_alloc(e, ARENA_WORKSPACE, matrix, f, &muon->product));
	MT_TRY(mt_engine_alloc(e, ARENA_WORKSPACE, side * side, f, &muon->gram));
	MT_TRY(mt_engine_alloc(e, ARENA_WORKSPACE, side * side, f, &muon->square));
	return mt_engine_alloc(e, ARENA_WORKSPACE, 1, MT_F64, &muon->norm2);
}

static enum mt_status fill(struct mt_engine *e, void *dst, int64_t count, enum mt_dtype dtype)
{
	struct mt_op op = {.kind = MT_OP_FILL, .dtype = dtype};

	op.move = (struct mt_move){.count = count, .dst_dtype = dtype, .src_dtype = dtype, .dst = dst};
	return mt_engine_enqueue(e, &op);
}

static enum mt_status combine(struct mt_engine *e, struct mt_combine arguments)
{
	struct mt_op op = {.kind = MT_OP_COMBINE, .dtype = mt_grad_dtype(e->dtype)};

	op.combine = arguments;
	return mt_engine_enqueue(e, &op);
}

static enum mt_status multiply(struct mt_engine *e, enum mt_op_kind kind, struct mt_linear arguments)
{
	struct mt_op op = {.kind = kind, .dtype = mt_grad_dtype(e->dtype)};

	op.linear = arguments;
	return mt_engine_enqueue(e, &op);
}

/* x = u / |u|, the norm that of the whole matrix. */
static enum mt_status normalize(struct mt_engine *e, const struct mt_param *p, const void *u)
{
	struct mt_op op = {.kind = MT_OP_SUMSQ, .dtype = mt_grad_dtype(e->dtype)};
	int64_t count = p->rows * p->cols;
	void *norm2 = e->muon.norm2;

	MT_TRY(fill(e, norm2, 1, MT_F64));
	op.sumsq = (struct mt_sumsq){.count = count, .x = u, .out = norm2};
	MT_TRY(mt_engine_enqueue(e, &op));
	if (is_split(e, p))
		MT_TRY(mt_comm_all_reduce(slices(e, p), e->compute, norm2, norm2, 1, MT_F64, MT_SUM));
	return combine(e, (struct mt_combine){.count = count, .alpha = 1, .eps = 1e-7, .a = u, .norm2 = norm2, .out = e->muon.x});
}

/* gram = b A + c A^2, with A of x. */
static enum mt_status make_polynomial(struct mt_engine *e, const struct mt_param *p)
{
	enum mt_dtype f = mt_grad_dtype(e->dtype);
	struct mt_muon *m = &e->muon;
	bool left = from_left(e, p);
	int64_t side = left ? p->rows : p->cols;

	if (left) {
		MT_TRY(multiply(e, MT_OP_LINEAR,
				(struct mt_linear){.rows = side, .in = p->cols, .out = side, .x = m->x, .w = m->x, .y = m->gram}));
	} else {
		MT_TRY(fill(e, m->gram, side * side, f));
		MT_TRY(multiply(
			e, MT_OP_LINEAR_WGRAD,
			(struct mt_linear){.rows = p->rows, .in = side, .out = side, .dy = m->x, .x = m->x, .dw = m->gram}));
	}
	if (is_split(e, p))
		MT_TRY(mt_comm_all_reduce(slices(e, p), e->compute, m->gram, m->gram, side * side, f, MT_SUM));
	MT_TRY(multiply(
		e, MT_OP_LINEAR,
		(struct mt_linear){
			.rows = side, .in = side, .out = side, .x = m->gram, .w = m->gram, .y = m->square})); /* symmetric */
	return combine(e, (struct mt_combine){
				  .count = side * side, .alpha = NS_B, .beta = NS_C, .a = m->gram, .b = m->square, .out = m->gram});
}

/* x becomes the nearest orthogonal matrix, nearly, of u (this rank's shard of it). */
static enum mt_status orthogonalize(struct mt_engine *e, const struct mt_param *p, const void *u)
{
	struct mt_muon *m = &e->muon;
	bool left = from_left(e, p);

	MT_TRY(normalize(e, p, u));
	for (int64_t i = 0; i < e->config.run->train.muon_steps; i++) {
		struct mt_linear by = {.rows = p->rows, .in = p->cols, .dx = m->product};

		MT_TRY(make_polynomial(e, p));
		by.out = left ? p->rows : p->cols;
		by.dy = left ? m->gram : m->x;
		by.w = left ? m->x : m->gram;
		MT_TRY(multiply(e, MT_OP_LINEAR_DGRAD, by));
		MT_TRY(combine(
			e, (struct mt_combine){
				   .count = p->rows * p->cols, .alpha = NS_A, .beta = 1, .a = m->x, .b = m->product, .out = m->x}));
	}
	return MT_OK;
}

static double scale_of(const struct mt_train_options *train, const struct mt_param *p)
{
	double rows = (double)p->global_rows, cols = (double)p->global_cols;

	switch ((enum mt_muon_scale)train->muon_scale) {
	case MT_MUON_SPECTRAL:
		return train->muon_factor * sqrt(rows > cols ? rows : cols);
	case MT_MUON_SHAPE:
		return train->muon_factor * sqrt(rows > cols ? rows / cols : 1);
	case MT_MUON_UNIT_RMS:
		return train->muon_factor * sqrt(rows / cols);
	}
	return train->muon_factor;
}

static void *at_element(void *base, int64_t element, enum mt_dtype dtype)
{
	return (void *)((uintptr_t)base + (uintptr_t)element * mt_dtype_bytes(dtype));
}

/* The momentum of a segment; its gradient becomes u. */
static enum mt_status push(struct mt_engine *e, const struct mt_segment *s, double grad_scale)
{
	const struct mt_train_options *train = &e->config.run->train;
	void *g = mt_shard_grad(e, s->bucket, s->offset);
	void *m = at_element(e->moment1, s->shard_offset, mt_grad_dtype(e->dtype));

	MT_TRY(combine(
		e, (struct mt_combine){.count = s->count, .alpha = train->momentum, .beta = grad_scale, .a = m, .b = g, .out = m}));
	if (train->nesterov)
		return combine(e,
			       (struct mt_combine){
				       .count = s->count, .alpha = grad_scale, .beta = train->momentum, .a = g, .b = m, .out = g});
	return combine(e, (struct mt_combine){.count = s->count, .alpha = 1, .a = m, .out = g});
}

/* The elements of a segment, which lie in one or more matrices, each from its x. */
static enum mt_status step(struct mt_engine *e, const struct mt_segment *s, const struct mt_param *p, double lr, double decay)
{
	const struct mt_train_options *train = &e->config.run->train;
	enum mt_dtype f = mt_grad_dtype(e->dtype);
	int64_t end = p->offset + p->rows * p->cols, segment_end = s->offset + s->count;
	int64_t from = p->offset > s->offset ? p->offset : s->offset, to = end < segment_end ? end : segment_end;
	void *param = mt_shard_param(e, s->bucket, from);
	void *master = e->master ? at_element(e->master, s->shard_offset + from - s->offset, f) : param;
	struct mt_op cast = {.kind = MT_OP_CAST, .dtype = e->dtype};

	MT_TRY(combine(e, (struct mt_combine){.count = to - from,
					      .alpha = 1 - lr * (s->decay ? decay : 0),
					      .beta = -lr * scale_of(train, p),
					      .a = master,
					      .b = at_element(e->muon.x, from - p->offset, f),
					      .out = master}));
	if (!e->master)
		return MT_OK;
	cast.move = (struct mt_move){.count = to - from, .src_dtype = f, .dst_dtype = e->dtype, .src = master, .dst = param};
	return mt_engine_enqueue(e, &cast);
}

static bool meets(const struct mt_segment *s, const struct mt_param *p)
{
	return p->offset < s->offset + s->count && s->offset < p->offset + p->rows * p->cols;
}

enum mt_status mt_muon_update(struct mt_engine *e, int bucket, double lr, double decay, double grad_scale)
{
	bool any = false, here = false;
	void *whole;

	for (int i = 0; i < e->table.count; i++)
		any |= e->table.params[i].bucket == bucket && mt_muon_takes(e, &e->table.params[i]);
	for (int i = 0; i < e->segment_count; i++) {
		if (e->segments[i].bucket == bucket && e->segments[i].rule == MT_MUON)
			MT_TRY(push(e, &e->segments[i], grad_scale));
	}
	if (!any)
		return MT_OK;
	MT_TRY(mt_shard_gather_grad(e, bucket, &whole));
	for (int k = 0; k < e->table.count; k++) {
		const struct mt_param *p = &e->table.params[k];

		here = false;
		for (int i = 0; i < e->segment_count && p->bucket == bucket && mt_muon_takes(e, p); i++) {
			const struct mt_segment *s = &e->segments[i];

			if (s->bucket != bucket || s->rule != MT_MUON || !meets(s, p))
				continue;
			if (!here)
				MT_TRY(orthogonalize(
					e, p,
					at_element(whole, p->offset - e->table.buckets[bucket].offset, mt_grad_dtype(e->dtype))));
			here = true;
			MT_TRY(step(e, s, p, lr, decay));
		}
	}
	mt_shard_drop_grad(e, bucket, &whole);
	return MT_OK;
}
