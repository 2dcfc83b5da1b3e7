/* kernels_products: the operands of matrix products and attention, for a check of a device against the reference. */
#ifndef MT_TESTS_KERNELS_PRODUCTS_H
#define MT_TESTS_KERNELS_PRODUCTS_H

#include "tests/kernels_operands.h"

/* A product with what can be done where it is stored: `bits` of MT_LINEAR_*. */
static inline void fused_linear(check *body, enum mt_op_kind kind, int64_t rows, int64_t in, int64_t out, int bits)
{
	struct problem p = start(kind, kind, 4e-6, bits & ~MT_LINEAR_BIAS ? 8e-3 : 6e-3);
	p.op.linear.rows = rows, p.op.linear.in = in, p.op.linear.out = out;
	if (kind != MT_OP_LINEAR_DGRAD)
		add(&p, "x", AT(linear.x), IN, ACT, rows, in);
	if (kind != MT_OP_LINEAR_WGRAD)
		normal(add(&p, "w", AT(linear.w), IN, ACT, out, in), 0.1, 0.0);
	if (kind != MT_OP_LINEAR)
		add(&p, "dy", AT(linear.dy), IN, ACT, rows, out);
	if (kind == MT_OP_LINEAR && (bits & MT_LINEAR_BIAS))
		add(&p, "bias", AT(linear.bias), IN, ACT, 1, out);
	if (bits & MT_LINEAR_GELU)
		add(&p, "pre", AT(linear.pre), kind == MT_OP_LINEAR ? OUT : IN, ACT, rows, kind == MT_OP_LINEAR ? out : in);
	if (kind == MT_OP_LINEAR)
		add(&p, "y", AT(linear.y), OUT, ACT, rows, out);
	else if (kind == MT_OP_LINEAR_DGRAD)
		add(&p, "dx", AT(linear.dx), OUT, ACT, rows, in);
	else
		add(&p, "dw", AT(linear.dw), INOUT, STAT, out, in);
	if (bits & MT_LINEAR_DBIAS)
		add(&p, "dbias", AT(linear.dbias), INOUT, STAT, 1, kind == MT_OP_LINEAR_DGRAD ? in : out);
	body(&p);
}

static inline void linear(check *body, enum mt_op_kind kind, int64_t rows, int64_t in, int64_t out, bool bias)
{
	fused_linear(body, kind, rows, in, out, bias ? MT_LINEAR_BIAS : 0);
}

/* Every form, in shapes of which some suit epilogues (rows of whole vectors) and some do not. */
static inline void fused_products(check *body, bool few)
{
	static const int64_t shapes[][3] = {{1, 1, 1}, {3, 7, 17}, {33, 64, 136}, {130, 72, 96}, {100, 400, 1600}, {256, 768, 768}};
	for (int i = 0; i < (few ? 4 : 6); i++) {
		const int64_t *s = shapes[i];
		fused_linear(body, MT_OP_LINEAR, s[0], s[1], s[2], MT_LINEAR_GELU | (i % 2 ? MT_LINEAR_BIAS : 0));
		fused_linear(body, MT_OP_LINEAR_DGRAD, s[0], s[1], s[2], MT_LINEAR_GELU);
		fused_linear(body, MT_OP_LINEAR_DGRAD, s[0], s[1], s[2], MT_LINEAR_GELU | MT_LINEAR_DBIAS);
		fused_linear(body, MT_OP_LINEAR_WGRAD, s[0], s[1], s[2], MT_LINEAR_DBIAS);
	}
}

/* `window` 0: none; a document starts at one row in `document`, 0: none. Values have heads of `v_dim`. */
static inline void any_attention(check *body, int64_t batch, int64_t seq, int64_t heads, int64_t kv_heads, int64_t dim,
				 int64_t v_dim, int64_t pad, int64_t window, int64_t document)
{
	struct problem p = start(MT_OP_ATTENTION, MT_OP_ATTENTION_BWD, 1e-5, 3e-2);
	const int64_t rows = batch * seq, q = heads * dim, kv = kv_heads * dim, v = kv_heads * v_dim, o = heads * v_dim;
	p.op.attention = (struct mt_attention){.batch = batch, .seq = seq, .heads = heads, .kv_heads = kv_heads, .head_dim = dim};
	p.op.attention.q_stride = q + pad, p.op.attention.kv_stride = kv + 2 * pad, p.op.attention.o_stride = o + 3 * pad;
	if (v_dim != dim)
		p.op.attention.v_dim = v_dim, p.op.attention.v_stride = v + 2 * pad;
	p.op.attention.scale = 1.0 / sqrt((double)dim);
	add(&p, "q", AT(attention.q), IN, ACT, rows, q)->stride = q + pad;
	add(&p, "k", AT(attention.k), IN, ACT, rows, kv)->stride = kv + 2 * pad;
	add(&p, "v", AT(attention.v), IN, ACT, rows, v)->stride = v + 2 * pad;
	add(&p, "do", AT(attention.do_), IN, ACT, rows, o)->stride = o + 3 * pad;
	add(&p, "o", AT(attention.o), OUT, ACT, rows, o)->stride = o + 3 * pad;
	add(&p, "dq", AT(attention.dq), OUT, ACT, rows, q)->stride = q + pad;
	add(&p, "dk", AT(attention.dk), OUT, ACT, rows, kv)->stride = kv + 2 * pad;
	add(&p, "dv", AT(attention.dv), OUT, ACT, rows, v)->stride = v + 2 * pad;
	add(&p, "lse", AT(attention.lse), OUT, STAT, batch * heads, seq);
	add(&p, "delta", AT(attention.delta), OUT, STAT, batch * heads, seq);
	p.op.attention.window = window;
	if (document) {
		struct operand *starts = add(&p, "starts", AT(attention.starts), IN, WORD, batch, seq);
		starts->starts = true;
		starts->range = document;
	}
	body(&p);
}

static inline void masked_attention(check *body, int64_t batch, int64_t seq, int64_t heads, int64_t kv_heads, int64_t dim,
				    int64_t pad, int64_t window, int64_t document)
{
	any_attention(body, batch, seq, heads, kv_heads, dim, dim, pad, window, document);
}

/* Queries beside other keys: T rows of a sequence of Q in memory, U keys of K; query t beside key t + offset. `join`: the result
 * is merged and added. A document begins at one key in `document`, 0: none. */
struct part {
	int64_t batch, seq, q_rows, keys, kv_rows, offset, heads, kv_heads, dim, window, document;
	bool join;
};

static inline void part_attention(check *body, const struct part *s)
{
	struct problem p = start(MT_OP_ATTENTION, MT_OP_ATTENTION_BWD, 1e-5, 3e-2);
	const int64_t q_rows = s->batch * s->q_rows, kv_rows = s->batch * s->kv_rows, q = s->heads * s->dim,
		      kv = s->kv_heads * s->dim;
	struct mt_attention *a = &p.op.attention;
	*a = (struct mt_attention){
		.batch = s->batch, .seq = s->seq, .heads = s->heads, .kv_heads = s->kv_heads, .head_dim = s->dim};
	a->q_stride = a->o_stride = q, a->kv_stride = kv, a->scale = 1.0 / sqrt((double)s->dim), a->window = s->window;
	a->kv_seq = s->keys, a->offset = s->offset, a->q_rows = s->q_rows, a->kv_rows = s->kv_rows;
	a->merge = a->add_dq = a->add_dkv = s->join;
	add(&p, "q", AT(attention.q), IN, ACT, q_rows, q);
	add(&p, "k", AT(attention.k), IN, ACT, kv_rows, kv);
	add(&p, "v", AT(attention.v), IN, ACT, kv_rows, kv);
	add(&p, "do", AT(attention.do_), IN, ACT, q_rows, q);
	add(&p, "o", AT(attention.o), INOUT, ACT, q_rows, q);
	add(&p, "dq", AT(attention.dq), INOUT, ACT, q_rows, q);
	add(&p, "dk", AT(attention.dk), INOUT, ACT, kv_rows, kv);
	add(&p, "dv", AT(attention.dv), INOUT, ACT, kv_rows, kv);
	add(&p, "lse", AT(attention.lse), INOUT, STAT, s->batch * s->heads, s->q_rows);
	add(&p, "delta", AT(attention.delta), INOUT, STAT, s->batch * s->heads, s->q_rows);
	if (s->document) {
		struct operand *starts = add(&p, "starts", AT(attention.starts), IN, WORD, s->batch, s->q_rows);
		starts->starts = true;
		starts->range = s->document;
	}
	body(&p);
}

static inline void attention(check *body, int64_t batch, int64_t seq, int64_t heads, int64_t kv_heads, int64_t dim, int64_t pad)
{
	masked_attention(body, batch, seq, heads, kv_heads, dim, pad, 0, 0);
}

#endif
