/* The reference device in f64: every gradient against central finite differences of its forward operation, over random
 * shapes, and what op.h promises about aliasing, splitting and padding. */
#include "tests/kernels_problem.h"

#define TRIES 4

/* A forward operation, and the objective weights . out of it. */
struct forward {
	enum mt_op_kind kind;
	struct mt_op op;
	const double *out, *weights;
	int64_t count;
};

static double objective(const struct forward *f)
{
	run(f->kind, f->op);
	return dot(f->out, f->weights, f->count);
}

/* `gradient` of the objective with respect to x, which the operation reads. Central differences: error O(h^2). */
static void assert_gradient(const char *what, const struct forward *f, double *x, const double *gradient, int64_t count)
{
	for (int64_t i = 0; i < count; i++) {
		double kept = x[i], h = 1e-5;
		x[i] = kept + h;
		double above = objective(f);
		x[i] = kept - h;
		double below = objective(f);
		x[i] = kept;
		double numeric = (above - below) / (2 * h);
		if (!(fabs(gradient[i] - numeric) <= 2e-7 * (1 + fabs(numeric))))
			fail_msg("%s[%lld]: gradient %.12g, finite difference %.12g", what, (long long)i, gradient[i], numeric);
	}
}

static void linear_gradients_equal_finite_differences(void **state)
{
	for (int try = 0; try < TRIES; try++) {
		int64_t rows = pick(1, 6), in = pick(1, 7), out = pick(1, 8);
		double *x = normals(rows * in), *w = normals(out * in), *bias = normals(out), *dy = normals(rows * out);
		double *y = zeros(rows * out), *dx = zeros(rows * in), *dw = normals(out * in), *dbias = zeros(out);
		double *dw_before = copied(dw, out * in);
		struct mt_op op = {.linear = {.rows = rows, .in = in, .out = out, .x = x, .w = w, .bias = bias, .dy = dy, .y = y}};
		op.linear.dx = dx;
		op.linear.dw = dw;
		struct mt_op sums = {.add = {.rows = rows, .cols = out, .a = dy, .out = dbias}};
		struct forward f = {MT_OP_LINEAR, op, y, dy, rows * out};
		run(MT_OP_LINEAR_DGRAD, op);
		run(MT_OP_LINEAR_WGRAD, op);
		run(MT_OP_BIAS_GRAD, sums);
		for (int64_t i = 0; i < out * in; i++)
			dw[i] -= dw_before[i];
		assert_gradient("dx", &f, x, dx, rows * in);
		assert_gradient("dw", &f, w, dw, out * in);
		assert_gradient("dbias", &f, bias, dbias, out);
	}
}

/* y = gelu(x w^T + bias): the way back through GELU is dgrad of a product with the identity, dpre = (dy I) gelu'(pre). */
static void products_with_gelu_have_the_gradients_of_finite_differences(void **state)
{
	for (int try = 0; try < TRIES; try++) {
		int64_t rows = pick(1, 6), in = pick(1, 7), out = pick(1, 8);
		double *x = normals(rows * in), *w = normals(out * in), *bias = normals(out), *dy = normals(rows * out);
		double *y = zeros(rows * out), *pre = zeros(rows * out), *identity = zeros(out * out), *dpre = zeros(rows * out);
		double *dw = zeros(out * in), *dx = zeros(rows * in), *sums = zeros(out), *same_sums = zeros(out);
		struct mt_op op = {
			.linear = {.rows = rows, .in = in, .out = out, .x = x, .w = w, .bias = bias, .y = y, .pre = pre}};
		struct mt_op back = {
			.linear = {.rows = rows, .in = out, .out = out, .w = identity, .dy = dy, .dx = dpre, .pre = pre}};
		struct mt_op weight = {.linear = {.rows = rows, .in = in, .out = out, .x = x, .dy = dpre, .dw = dw}};
		struct mt_op input = {.linear = {.rows = rows, .in = in, .out = out, .w = w, .dy = dpre, .dx = dx}};
		struct forward f = {MT_OP_LINEAR, op, y, dy, rows * out};
		for (int64_t i = 0; i < out; i++)
			identity[i * out + i] = 1;
		back.linear.dbias = sums;
		weight.linear.dbias = same_sums;
		run(MT_OP_LINEAR, op);
		run(MT_OP_LINEAR_DGRAD, back);
		run(MT_OP_LINEAR_DGRAD, input);
		run(MT_OP_LINEAR_WGRAD, weight);
		assert_gradient("dx", &f, x, dx, rows * in);
		assert_gradient("dw", &f, w, dw, out * in);
		assert_gradient("dbias with dx", &f, bias, sums, out);
		assert_gradient("dbias with dw", &f, bias, same_sums, out);
	}
}

/* Attention over q, k, v packed in rows with a gap at the end, its gradients packed alike. */
struct packed {
	int64_t row, values; /* of a row, of everything */
	double *qkv, *dqkv, *o, *do_;
	struct mt_op op;
};

static struct packed packed_attention(int64_t batch, int64_t seq, int64_t heads, int64_t kv_heads, int64_t size)
{
	int64_t rows = batch * seq, gap = 3;
	struct packed p = {.row = (heads + 2 * kv_heads) * size + gap};
	p.values = rows * p.row;
	p.qkv = normals(p.values);
	p.dqkv = normals(p.values);
	p.o = zeros(rows * (heads * size + 1));
	p.do_ = normals(rows * (heads * size + 1));
	p.op.attention = (struct mt_attention){.batch = batch,
					       .seq = seq,
					       .heads = heads,
					       .kv_heads = kv_heads,
					       .head_dim = size,
					       .q_stride = p.row,
					       .kv_stride = p.row,
					       .o_stride = heads * size + 1,
					       .scale = 0.7,
					       .q = p.qkv,
					       .k = p.qkv + heads * size,
					       .v = p.qkv + (heads + kv_heads) * size,
					       .do_ = p.do_,
					       .o = p.o,
					       .dq = p.dqkv,
					       .dk = p.dqkv + heads * size,
					       .dv = p.dqkv + (heads + kv_heads) * size,
					       .lse = zeros(rows * heads),
					       .delta = zeros(rows * heads)};
	return p;
}

static void attention_gradients_equal_finite_differences(void **state)
{
	static const int64_t heads[][2] = {{1, 1}, {4, 4}, {4, 2}, {6, 2}, {3, 1}};
	static const int32_t starts[12] = {0, 0, 2, 2, 2, 5, 0, 1, 1, 1, 4, 4};
	for (size_t i = 0; i < 3 * (sizeof heads / sizeof heads[0]); i++) {
		bool documents = i % 3 == 2;
		int64_t batch = pick(1, 2), seq = documents ? 6 : pick(1, 6), size = pick(1, 4), filled;
		struct packed p = packed_attention(batch, seq, heads[i / 3][0], heads[i / 3][1], size);
		p.op.attention.window = i % 3 ? pick(1, 4) : 0;
		p.op.attention.starts = documents ? starts : NULL;
		double *before = copied(p.dqkv, p.values), *gradient = zeros(p.values);
		filled = p.row - 3;
		run(MT_OP_ATTENTION, p.op);
		run(MT_OP_ATTENTION_BWD, p.op);
		/* dq, dk, dv are written and the gap between rows is not. */
		for (int64_t j = 0; j < p.values; j++) {
			bool gap = j % p.row >= filled;
			if (gap && p.dqkv[j] != before[j])
				fail_msg("gap element %lld was written: %g, was %g", (long long)j, p.dqkv[j], before[j]);
			gradient[j] = gap ? 0 : p.dqkv[j];
		}
		struct forward f = {MT_OP_ATTENTION, p.op, p.o, p.do_, batch * seq * p.op.attention.o_stride};
		assert_gradient("dqkv", &f, p.qkv, gradient, p.values);
	}
}

static void attention_does_not_see_later_positions(void **state)
{
	int64_t seq = 7, size = 3;
	struct packed p = packed_attention(1, seq, 2, 1, size);
	run(MT_OP_ATTENTION, p.op);
	double *before = copied(p.o, seq * p.op.attention.o_stride);
	for (int64_t i = 4 * p.row; i < p.values; i++)
		p.qkv[i] += 10;
	run(MT_OP_ATTENTION, p.op);
	assert_memory_equal(before, p.o, (size_t)(4 * p.op.attention.o_stride) * sizeof *before);
	/* The first position sees itself only, so its output is its value. */
	assert_near("o[0]", p.o, (const double *)p.op.attention.v, size, 1e-15);
}

static void copy_rows_of(struct packed *to, const struct packed *from, int64_t first, int64_t count)
{
	memcpy(to->qkv, from->qkv + first * from->row, (size_t)(count * from->row) * sizeof *to->qkv);
	memcpy(to->do_, from->do_ + first * from->op.attention.o_stride,
	       (size_t)(count * from->op.attention.o_stride) * sizeof *to->do_);
}

/* Packed in one sequence, a document gets what it gets alone. */
static void documents_do_not_see_each_other(void **state)
{
	static const int32_t starts[9] = {0, 0, 0, 0, 4, 5, 5, 5, 5};
	static const int64_t ends[3] = {4, 5, 9};
	struct packed whole = packed_attention(1, 9, 2, 1, 3);
	whole.op.attention.starts = starts;
	run(MT_OP_ATTENTION, whole.op);
	run(MT_OP_ATTENTION_BWD, whole.op);
	for (int64_t i = 0, first = 0; i < 3; first = ends[i++]) {
		int64_t seq = ends[i] - first, row = whole.row, filled = row - 3;
		struct packed alone = packed_attention(1, seq, 2, 1, 3);
		copy_rows_of(&alone, &whole, first, seq);
		run(MT_OP_ATTENTION, alone.op);
		run(MT_OP_ATTENTION_BWD, alone.op);
		for (int64_t t = 0; t < seq; t++) {
			assert_near("o", whole.o + (first + t) * 7, alone.o + t * 7, 6, 1e-14);
			assert_near("dqkv", whole.dqkv + (first + t) * row, alone.dqkv + t * row, filled, 1e-14);
		}
	}
}

/* Attention over the keys before `cut` and over the others, merged, is that over all; so are the gradients. */
static void parts_of_keys_make_the_whole(void **state)
{
	static const int32_t starts[12] = {0, 0, 0, 3, 3, 3, 3, 3, 8, 8, 8, 8};
	for (int64_t cut = 1; cut < 12; cut++) {
		struct packed whole = packed_attention(1, 12, 4, 2, 3), parts = whole;
		double *sums = zeros(whole.values), *o = zeros(12 * 13);
		int32_t shifted[12];
		whole.op.attention.starts = cut % 2 ? starts : NULL;
		run(MT_OP_ATTENTION, whole.op);
		run(MT_OP_ATTENTION_BWD, whole.op);
		for (int64_t i = 0; i < whole.values; i++)
			sums[i] = NAN; /* the first part writes, or adds to what was written */
		parts.op.attention.o = o;
		parts.op.attention.lse = zeros(12 * 4);
		parts.op.attention.dq = sums;
		for (int part = 0; part < 2; part++) {
			/* Queries from `cut` on beside the keys from there on: the diagonal; before it all queries see the first.
			 */
			struct mt_op op = parts.op;
			struct mt_attention *a = &op.attention;
			int64_t first = part ? cut : 0;
			for (int64_t t = 0; t < 12; t++)
				shifted[t] = starts[t] > first ? starts[t] - (int32_t)first : 0;
			a->starts = cut % 2 ? shifted + first : NULL;
			a->seq = 12 - first, a->kv_seq = part ? 12 - cut : cut;
			a->q = parts.qkv + first * parts.row, a->k = parts.qkv + 12 + first * parts.row;
			a->v = parts.qkv + 18 + first * parts.row;
			a->q_rows = 12, a->o = o + first * 13, a->lse = (double *)parts.op.attention.lse + first;
			a->merge = part == 1;
			run(MT_OP_ATTENTION, op);
		}
		for (int part = 0; part < 2; part++) {
			struct mt_op op = parts.op;
			struct mt_attention *a = &op.attention;
			int64_t first = part ? cut : 0;
			for (int64_t t = 0; t < 12; t++)
				shifted[t] = starts[t] > first ? starts[t] - (int32_t)first : 0;
			a->starts = cut % 2 ? shifted + first : NULL;
			a->seq = 12 - first, a->kv_seq = part ? 12 - cut : cut;
			a->q = parts.qkv + first * parts.row, a->k = parts.qkv + 12 + first * parts.row;
			a->v = parts.qkv + 18 + first * parts.row, a->do_ = parts.do_ + first * 13;
			a->q_rows = 12, a->o = o + first * 13, a->lse = (double *)parts.op.attention.lse + first;
			a->delta = (double *)parts.op.attention.delta + first;
			a->dq = sums + first * parts.row, a->dk = sums + 12 + first * parts.row,
			a->dv = sums + 18 + first * parts.row;
			a->add_dq = part == 1;
			run(MT_OP_ATTENTION_BWD, op);
		}
		for (int64_t t = 0; t < 12; t++) {
			assert_near("o", whole.o + t * 13, o + t * 13, 12, 1e-14);
			assert_near("dqkv", whole.dqkv + t * whole.row, sums + t * whole.row, 24, 1e-13);
		}
		assert_near("lse", whole.op.attention.lse, parts.op.attention.lse, 48, 1e-14);
	}
}

static void a_row_that_sees_nothing_is_zero(void **state)
{
	static const int32_t starts[3] = {0, 2, 3};
	struct packed p = packed_attention(1, 3, 1, 1, 2);
	double *lse = (double *)p.op.attention.lse;
	p.op.attention.starts = starts, p.op.attention.kv_seq = 2, p.op.attention.offset = 2;
	run(MT_OP_ATTENTION, p.op);
	run(MT_OP_ATTENTION_BWD, p.op);
	for (int t = 1; t < 3; t++) {
		assert_true(isinf(lse[t]) && lse[t] < 0);
		assert_true(p.o[t * 3] == 0 && p.o[t * 3 + 1] == 0 && p.dqkv[t * p.row] == 0 && p.dqkv[t * p.row + 1] == 0);
	}
	assert_true(isfinite(lse[0]));
}

static void a_window_of_one_sees_itself_only(void **state)
{
	struct packed p = packed_attention(2, 5, 1, 1, 4);
	p.op.attention.window = 1;
	run(MT_OP_ATTENTION, p.op);
	for (int64_t row = 0; row < 10; row++)
		assert_near("o", p.o + row * 5, p.qkv + row * p.row + 8, 4, 1e-15);
}

static void check_norm(enum mt_norm_kind kind, bool x_bias, bool residual, bool dresidual)
{
	int64_t rows = pick(1, 5), cols = pick(2, 9), whole = rows * cols;
	bool layer = kind == MT_NORM_LAYER;
	double *x = normals(whole), *xb = normals(cols), *res = normals(whole), *gain = normals(cols), *bias = normals(cols);
	double *dy = normals(whole), *y = zeros(whole), *sum = zeros(whole), *dx = normals(whole), *extra = copied(dx, whole);
	double *dgain = zeros(cols), *dbias = zeros(cols), *column = zeros(cols);
	struct mt_op op = {
		.norm = {.kind = kind, .rows = rows, .cols = cols, .eps = 1e-5, .x = x, .sum = sum, .y = y, .gain = gain}};
	op.norm.x_bias = x_bias ? xb : NULL;
	op.norm.residual = residual ? res : NULL;
	op.norm.bias = layer ? bias : NULL;
	op.norm.mean = layer ? zeros(rows) : NULL;
	op.norm.rstd = zeros(rows);
	op.norm.dy = dy;
	op.norm.dx = dx;
	op.norm.dresidual = dresidual ? dx : NULL; /* aliased */
	op.norm.dgain = dgain;
	op.norm.dbias = layer ? dbias : NULL;
	struct forward f = {MT_OP_NORM, op, y, dy, whole};
	run(MT_OP_NORM, op);
	run(MT_OP_NORM_BWD, op);
	for (int64_t i = 0; dresidual && i < whole; i++)
		dx[i] -= extra[i];
	for (int64_t i = 0; i < whole; i++)
		column[i % cols] += dx[i];
	assert_gradient("dx", &f, x, dx, whole);
	assert_gradient("dgain", &f, gain, dgain, cols);
	if (layer)
		assert_gradient("dbias", &f, bias, dbias, cols);
	if (residual)
		assert_gradient("dresidual", &f, res, dx, whole);
	if (x_bias)
		assert_gradient("dx_bias", &f, xb, column, cols);
}

static void norm_gradients_equal_finite_differences(void **state)
{
	for (int options = 0; options < 16; options++)
		check_norm(options & 1 ? MT_NORM_RMS : MT_NORM_LAYER, options & 2, options & 4, options & 8);
}

static void norm_sum_may_be_x_or_residual_or_absent(void **state)
{
	int64_t rows = 3, cols = 5, whole = 15;
	double *x = normals(whole), *res = normals(whole), *xb = normals(cols), *gain = normals(cols), *bias = normals(cols);
	double *y = zeros(whole), *sum = zeros(whole), *again = zeros(whole);
	struct mt_op op = {.norm = {.rows = rows, .cols = cols, .eps = 1e-5, .x = x, .x_bias = xb, .residual = res, .gain = gain}};
	op.norm.bias = bias;
	op.norm.sum = sum;
	op.norm.y = y;
	op.norm.mean = zeros(rows);
	op.norm.rstd = zeros(rows);
	run(MT_OP_NORM, op);
	op.norm.y = again;
	op.norm.sum = NULL;
	run(MT_OP_NORM, op);
	assert_near("y without sum", again, y, whole, 0);
	for (int alias = 0; alias < 2; alias++) {
		double *target = copied(alias ? x : res, whole);
		struct mt_op aliased = op;
		aliased.norm.sum = target;
		if (alias)
			aliased.norm.x = target;
		else
			aliased.norm.residual = target;
		run(MT_OP_NORM, aliased);
		assert_near("sum", target, sum, whole, 0);
		assert_near("y", again, y, whole, 0);
	}
}

static void activation_gradients_equal_finite_differences(void **state)
{
	for (int try = 0; try < 2 * TRIES; try++) {
		enum mt_activation_kind kind = try % 2 ? MT_SWIGLU : MT_GELU;
		int64_t rows = pick(1, 4), cols = pick(1, 6), out = rows * cols, in = kind == MT_SWIGLU ? 2 * out : out;
		double *x = normals(in), *dy = normals(out), *y = zeros(out), *dx = zeros(in), *in_place = copied(x, in);
		struct mt_op op = {.activation = {kind, rows, cols, x, dy, y, dx}}, alias = op;
		struct forward f = {MT_OP_ACTIVATION, op, y, dy, out};
		run(MT_OP_ACTIVATION_BWD, op);
		assert_gradient("dx", &f, x, dx, in);
		alias.activation.x = alias.activation.dx = in_place;
		run(MT_OP_ACTIVATION_BWD, alias);
		assert_near("dx in place of x", in_place, dx, in, 0);
	}
}

/* rope works in place: R x. So the gradient of w . R x is R^T w, which is sign -1 on w. */
static void rope_backwards_is_its_gradient_and_its_inverse(void **state)
{
	for (int try = 0; try < TRIES; try++) {
		int64_t batch = pick(1, 2), seq = pick(1, 5), heads = pick(1, 3), size = 2 * pick(1, 3), stride = heads * size + 2;
		int64_t count = batch * seq * stride;
		double *x = normals(count), *w = normals(count), *rx = copied(x, count), *rw = copied(w, count);
		struct mt_op op = {.rope = {batch, seq, heads, size, stride, pick(0, 9), 10000, 1, .x = rx}};
		run(MT_OP_ROPE, op);
		struct mt_op back = op;
		back.rope.sign = -1;
		back.rope.x = rw;
		run(MT_OP_ROPE, back);
		double forward = dot(w, rx, count), backward = dot(rw, x, count);
		assert_near("w . R x", &forward, &backward, 1, 1e-12);
		back.rope.x = rx;
		run(MT_OP_ROPE, back);
		assert_near("R^T R x", rx, x, count, 1e-13);
	}
}

static void rope_products_depend_on_the_distance_only(void **state)
{
	int64_t size = 6, seq = 5;
	double *q = normals(size), *k = normals(size), *both = zeros(2 * seq * size), expected = 0;
	for (int64_t first = 0; first < 40; first += 13) {
		for (int64_t t = 0; t < seq; t++) {
			memcpy(both + t * size, q, (size_t)size * sizeof *q);
			memcpy(both + (seq + t) * size, k, (size_t)size * sizeof *k);
		}
		run(MT_OP_ROPE, (struct mt_op){.rope = {2, seq, 1, size, size, first, 10000, 1, .x = both}});
		for (int64_t t = 2; t < seq; t++) {
			double product = dot(both + t * size, both + (seq + t - 2) * size, size);
			if (first == 0 && t == 2)
				expected = product;
			assert_near("q[t] . k[t-2]", &product, &expected, 1, 1e-12);
		}
	}
}

static void embedding_gradients_equal_finite_differences(void **state)
{
	for (int try = 0; try < TRIES; try++) {
		int64_t rows = pick(1, 7), cols = pick(1, 4), seq = pick(2, 5), vocab = 9, first = pick(0, 5), count = pick(1, 4);
		int64_t first_row = pick(0, 3);
		int32_t *tokens = fresh(rows * 4);
		for (int64_t r = 0; r < rows; r++)
			tokens[r] = (int32_t)pick(0, vocab - 1);
		double *table = normals(count * cols), *position = normals(seq * cols), *dy = normals(rows * cols);
		double *y = zeros(rows * cols), *dtable = zeros(count * cols), *dposition = zeros(seq * cols);
		struct mt_op op = {.embedding = {rows, cols, seq, first, count, first_row, tokens, table, position, y, dy}};
		op.embedding.dtable = dtable;
		op.embedding.dposition = dposition;
		struct forward f = {MT_OP_EMBEDDING, op, y, dy, rows * cols};
		run(MT_OP_EMBEDDING_BWD, op);
		assert_gradient("dtable", &f, table, dtable, count * cols);
		assert_gradient("dposition", &f, position, dposition, seq * cols);
		double *sum_only = copied(dtable, count * cols);
		op.embedding.dposition = NULL;
		run(MT_OP_EMBEDDING_BWD, op);
		for (int64_t i = 0; i < count * cols; i++)
			sum_only[i] *= 2;
		assert_near("dtable, accumulated", dtable, sum_only, count * cols, 1e-15);
		op.embedding.dtable = NULL;
		run(MT_OP_EMBEDDING_BWD, op);
	}
}

static void embedding_split_by_words_sums_to_the_whole(void **state)
{
	int64_t rows = 12, cols = 3, vocab = 10;
	int32_t tokens[12];
	for (int64_t r = 0; r < rows; r++)
		tokens[r] = (int32_t)pick(0, vocab - 1);
	double *table = normals(vocab * cols), *whole = zeros(rows * cols), *part = zeros(rows * cols), *sum = zeros(rows * cols);
	run(MT_OP_EMBEDDING, (struct mt_op){.embedding = {rows, cols, 6, 0, vocab, 0, tokens, table, NULL, whole}});
	for (int64_t first = 0, width = 4; first < vocab; first += width) {
		int64_t count = first + width < vocab ? width : vocab - first;
		run(MT_OP_EMBEDDING,
		    (struct mt_op){.embedding = {rows, cols, 6, first, count, 0, tokens, table + first * cols, NULL, part}});
		for (int64_t i = 0; i < rows * cols; i++)
			sum[i] += part[i];
	}
	assert_near("sum of the parts", sum, whole, rows * cols, 0);
}

/* Sequence parallelism: each rank has some rows, and knows where they begin. */
static void embedding_split_by_rows_equals_the_whole(void **state)
{
	int64_t rows = 10, cols = 3, seq = 5, vocab = 6;
	int32_t tokens[10];
	for (int64_t r = 0; r < rows; r++)
		tokens[r] = (int32_t)pick(0, vocab - 1);
	double *table = normals(vocab * cols), *position = normals(seq * cols), *dy = normals(rows * cols);
	double *y[2], *dtable[2], *dposition[2];
	for (int split = 0; split < 2; split++) {
		y[split] = zeros(rows * cols);
		dtable[split] = zeros(vocab * cols);
		dposition[split] = zeros(seq * cols);
		for (int64_t row = 0, count = split ? 4 : rows; row < rows; row += count) {
			int64_t part = row + count < rows ? count : rows - row;
			struct mt_op op = {.embedding = {part, cols, seq, 0, vocab, row, tokens + row, table, position}};
			op.embedding.y = y[split] + row * cols;
			op.embedding.dy = dy + row * cols;
			op.embedding.dtable = dtable[split];
			op.embedding.dposition = dposition[split];
			run(MT_OP_EMBEDDING, op);
			run(MT_OP_EMBEDDING_BWD, op);
		}
	}
	for (int64_t i = 0; i < rows * cols; i++) {
		double expected = table[tokens[i / cols] * cols + i % cols] + position[i / cols % seq * cols + i % cols];
		assert_near("y", &y[0][i], &expected, 1, 0);
	}
	assert_near("y in parts", y[1], y[0], rows * cols, 0);
	assert_near("dtable in parts", dtable[1], dtable[0], vocab * cols, 0);
	assert_near("dposition in parts", dposition[1], dposition[0], seq * cols, 0);
}

/* Cross entropy of logits(R,V) split in `parts` of `width` columns; gradients return to `gradient`(R,V). */
static void split_loss(const double *logits, const int32_t *targets, int64_t rows, int64_t vocab, int64_t parts, double scale,
		       double *loss, double *gradient)
{
	int64_t width = (vocab + parts - 1) / parts + 1; /* the last part is padded, always */
	double *all = zeros(parts * rows * 3), *local[3];
	struct mt_op ops[3];
	for (int64_t p = 0; p < parts; p++) {
		local[p] = normals(rows * width);
		for (int64_t i = 0; i < rows * width; i++)
			if (p * width + i % width < vocab)
				local[p][i] = logits[i / width * vocab + p * width + i % width];
			else
				local[p][i] = 1e3; /* must not count */
		ops[p] = (struct mt_op){
			.loss = {rows, width, p * width, vocab, parts, local[p], targets, all + p * rows * 3, all, loss, scale}};
		run(MT_OP_LOSS_STATS, ops[p]);
	}
	for (int64_t p = 0; p < parts; p++) {
		run(MT_OP_LOSS, ops[p]);
		for (int64_t i = 0; i < rows * width; i++) {
			int64_t word = p * width + i % width;
			if (word < vocab)
				gradient[i / width * vocab + word] = local[p][i];
			else if (local[p][i] != (scale != 0 ? 0 : 1e3))
				fail_msg("gradient of padding column %lld: %g", (long long)word, local[p][i]);
		}
	}
}

static double summed_loss(const double *logits, const int32_t *targets, int64_t rows, int64_t vocab)
{
	double total = 0;
	for (int64_t r = 0; r < rows; r++) {
		double sum = 0;
		for (int64_t c = 0; c < vocab; c++)
			sum += exp(logits[r * vocab + c]);
		if (targets[r] >= 0)
			total += log(sum) - logits[r * vocab + targets[r]];
	}
	return total;
}

static void loss_in_parts_equals_the_whole_and_its_gradient_finite_differences(void **state)
{
	int64_t rows = 5, vocab = 7;
	int32_t targets[] = {0, 6, -1, 3, -7};
	double *logits = normals(rows * vocab), *loss = zeros(rows), *gradient = zeros(rows * vocab), scale = 0.4;
	for (int64_t parts = 1; parts <= 3; parts++) {
		split_loss(logits, targets, rows, vocab, parts, scale, loss, gradient);
		double total = 0, expected = summed_loss(logits, targets, rows, vocab);
		for (int64_t r = 0; r < rows; r++)
			total += loss[r];
		assert_near("summed loss", &total, &expected, 1, 1e-13);
		assert_true(loss[2] == 0 && loss[4] == 0);
		for (int64_t i = 0; i < rows * vocab; i++) {
			double kept = logits[i], h = 1e-5;
			logits[i] = kept + h;
			double above = summed_loss(logits, targets, rows, vocab);
			logits[i] = kept - h;
			double below = summed_loss(logits, targets, rows, vocab);
			logits[i] = kept;
			double numeric = scale * (above - below) / (2 * h);
			if (targets[i / vocab] < 0)
				numeric = 0;
			assert_near("dlogits", &gradient[i], &numeric, 1, targets[i / vocab] < 0 ? 0 : 1e-8);
		}
	}
}

static void loss_without_gradient_leaves_the_logits(void **state)
{
	int64_t rows = 3, vocab = 5;
	int32_t targets[] = {4, 1, -1};
	double *logits = normals(rows * vocab), *loss = zeros(rows), *after = zeros(rows * vocab);
	split_loss(logits, targets, rows, vocab, 3, 0, loss, after);
	assert_near("logits", after, logits, rows * vocab, 0);
}

static void loss_is_finite_for_large_logits_and_a_part_of_padding(void **state)
{
	double logits[] = {1000, -1000, 999}, gradient[3], loss, expected = log1p(exp(-1.0));
	int32_t target = 0;
	for (int64_t parts = 1; parts <= 3; parts++) { /* 3 parts of 2 columns: the last has no word */
		split_loss(logits, &target, 1, 3, parts, 1, &loss, gradient);
		assert_near("loss", &loss, &expected, 1, 1e-12);
	}
}

int main(void)
{
#define PROPERTY(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		PROPERTY(linear_gradients_equal_finite_differences),
		PROPERTY(products_with_gelu_have_the_gradients_of_finite_differences),
		PROPERTY(attention_gradients_equal_finite_differences),
		PROPERTY(attention_does_not_see_later_positions),
		PROPERTY(documents_do_not_see_each_other),
		PROPERTY(a_window_of_one_sees_itself_only),
		PROPERTY(parts_of_keys_make_the_whole),
		PROPERTY(a_row_that_sees_nothing_is_zero),
		PROPERTY(norm_gradients_equal_finite_differences),
		PROPERTY(norm_sum_may_be_x_or_residual_or_absent),
		PROPERTY(activation_gradients_equal_finite_differences),
		PROPERTY(rope_backwards_is_its_gradient_and_its_inverse),
		PROPERTY(rope_products_depend_on_the_distance_only),
		PROPERTY(embedding_gradients_equal_finite_differences),
		PROPERTY(embedding_split_by_words_sums_to_the_whole),
		PROPERTY(embedding_split_by_rows_equals_the_whole),
		PROPERTY(loss_in_parts_equals_the_whole_and_its_gradient_finite_differences),
		PROPERTY(loss_without_gradient_leaves_the_logits),
		PROPERTY(loss_is_finite_for_large_logits_and_a_part_of_padding),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
