/* kernels_operands: the operands of each operation but products and attention, with values that suit it, for a check of a device
 * against the reference. */
#ifndef MT_TESTS_KERNELS_OPERANDS_H
#define MT_TESTS_KERNELS_OPERANDS_H

#include "tests/kernels_compare.h"

typedef void check(const struct problem *problem);

static inline struct operand *add(struct problem *p, const char *name, size_t offset, enum role role, enum type type, int64_t rows,
				  int64_t cols)
{
	struct operand *o = &p->operands[p->count++];
	assert_true(p->count <= MOST_OPERANDS);
	*o = (struct operand){name, offset, role, type, rows, cols, 0, 1.0, 0.0, 0, 0, false, 0};
	return o;
}

static inline struct operand *normal(struct operand *o, double width, double shift)
{
	o->spread = width;
	o->shift = shift;
	return o;
}

static inline void words(struct operand *o, int64_t low, int64_t range)
{
	o->low = low;
	o->range = range;
}

static inline struct problem start(enum mt_op_kind first, enum mt_op_kind last, double f32_tolerance, double bf16_tolerance)
{
	struct problem p;
	memset(&p, 0, sizeof p);
	p.kinds[0] = first;
	p.kinds[1] = p.op.kind = last;
	p.f32_tolerance = f32_tolerance;
	p.bf16_tolerance = bf16_tolerance;
	return p;
}

static inline void norm(check *body, enum mt_norm_kind kind, int64_t rows, int64_t cols, bool x_bias, bool residual, bool dresidual)
{
	struct problem p = start(MT_OP_NORM, MT_OP_NORM_BWD, 2e-5, 2.5e-2);
	p.op.norm = (struct mt_norm){.kind = kind, .rows = rows, .cols = cols, .eps = 1e-5};
	normal(add(&p, "x", AT(norm.x), IN, ACT, rows, cols), 1.0, 0.5);
	if (x_bias)
		add(&p, "x_bias", AT(norm.x_bias), IN, ACT, 1, cols);
	if (residual)
		add(&p, "residual", AT(norm.residual), IN, ACT, rows, cols);
	add(&p, "sum", AT(norm.sum), OUT, ACT, rows, cols);
	add(&p, "y", AT(norm.y), OUT, ACT, rows, cols);
	normal(add(&p, "gain", AT(norm.gain), IN, ACT, 1, cols), 0.2, 1.0);
	add(&p, "rstd", AT(norm.rstd), OUT, STAT, 1, rows);
	add(&p, "dy", AT(norm.dy), IN, ACT, rows, cols);
	if (dresidual)
		add(&p, "dresidual", AT(norm.dresidual), IN, ACT, rows, cols);
	add(&p, "dx", AT(norm.dx), OUT, ACT, rows, cols);
	add(&p, "dgain", AT(norm.dgain), INOUT, STAT, 1, cols);
	if (kind == MT_NORM_LAYER) {
		add(&p, "bias", AT(norm.bias), IN, ACT, 1, cols);
		add(&p, "mean", AT(norm.mean), OUT, STAT, 1, rows);
		add(&p, "dbias", AT(norm.dbias), INOUT, STAT, 1, cols);
	}
	body(&p);
}

static inline void activation(check *body, enum mt_activation_kind kind, int64_t rows, int64_t cols, double spread)
{
	struct problem p = start(MT_OP_ACTIVATION, MT_OP_ACTIVATION_BWD, 2e-6, 6e-3);
	const int64_t width = kind == MT_GELU ? cols : 2 * cols;
	p.op.activation = (struct mt_activation){.kind = kind, .rows = rows, .cols = cols};
	normal(add(&p, "x", AT(activation.x), IN, ACT, rows, width), spread, 0.0);
	add(&p, "dy", AT(activation.dy), IN, ACT, rows, cols);
	add(&p, "y", AT(activation.y), OUT, ACT, rows, cols);
	add(&p, "dx", AT(activation.dx), OUT, ACT, rows, width);
	body(&p);
}

static inline void embedding(check *body, int64_t rows, int64_t cols, int64_t seq, bool position, int64_t first_row)
{
	struct problem p = start(MT_OP_EMBEDDING, MT_OP_EMBEDDING_BWD, 2e-6, 6e-3);
	p.op.embedding =
		(struct mt_embedding){.rows = rows, .cols = cols, .seq = seq, .first = 5, .count = 11, .first_row = first_row};
	words(add(&p, "tokens", AT(embedding.tokens), IN, WORD, 1, rows), 0, 20);
	add(&p, "table", AT(embedding.table), IN, ACT, 11, cols);
	add(&p, "y", AT(embedding.y), OUT, ACT, rows, cols);
	add(&p, "dy", AT(embedding.dy), IN, ACT, rows, cols);
	add(&p, "dtable", AT(embedding.dtable), INOUT, STAT, 11, cols);
	if (position) {
		add(&p, "position", AT(embedding.position), IN, ACT, seq, cols);
		add(&p, "dposition", AT(embedding.dposition), INOUT, STAT, seq, cols);
	}
	body(&p);
}

static inline void rope(check *body, int64_t batch, int64_t seq, int64_t heads, int64_t dim, int64_t first_position, int sign)
{
	struct problem p = start(MT_OP_ROPE, MT_OP_ROPE, 2e-6, 6e-3);
	p.op.rope = (struct mt_rope){.batch = batch,
				     .seq = seq,
				     .heads = heads,
				     .head_dim = dim,
				     .stride = heads * dim,
				     .first_position = first_position,
				     .theta = 10000.0,
				     .sign = sign};
	add(&p, "x", AT(rope.x), INOUT, ACT, batch * seq, heads * dim);
	body(&p);
}

/* Positions given row by row, some more than once. */
static inline void placed_rope(check *body, int64_t batch, int64_t seq, int64_t heads, int64_t dim, int64_t positions, int sign)
{
	struct problem p = start(MT_OP_ROPE, MT_OP_ROPE, 2e-6, 6e-3);
	p.op.rope = (struct mt_rope){.batch = batch,
				     .seq = seq,
				     .heads = heads,
				     .head_dim = dim,
				     .stride = heads * dim,
				     .theta = 10000.0,
				     .sign = sign,
				     .position_count = positions};
	add(&p, "x", AT(rope.x), INOUT, ACT, batch * seq, heads * dim);
	words(add(&p, "positions", AT(rope.positions), IN, WORD, batch, seq), 0, positions);
	body(&p);
}

static inline void placed_embedding(check *body, int64_t rows, int64_t cols, int64_t positions)
{
	struct problem p = start(MT_OP_EMBEDDING, MT_OP_EMBEDDING_BWD, 4e-6, 6e-3);
	p.op.embedding = (struct mt_embedding){
		.rows = rows, .cols = cols, .seq = rows, .first = 3, .count = 20, .position_count = positions};
	words(add(&p, "tokens", AT(embedding.tokens), IN, WORD, 1, rows), 0, 25);
	words(add(&p, "positions", AT(embedding.positions), IN, WORD, 1, rows), 0, positions);
	add(&p, "table", AT(embedding.table), IN, ACT, 20, cols);
	add(&p, "dy", AT(embedding.dy), IN, ACT, rows, cols);
	add(&p, "y", AT(embedding.y), OUT, ACT, rows, cols);
	add(&p, "dtable", AT(embedding.dtable), INOUT, STAT, 20, cols);
	add(&p, "position", AT(embedding.position), IN, ACT, positions, cols);
	add(&p, "dposition", AT(embedding.dposition), INOUT, STAT, positions, cols);
	body(&p);
}

/* Rows are `heads` heads of lines; those of x and of y have `gap` and 2 * `gap` elements after them. */
static inline void head_norm(check *body, int64_t lines, int64_t heads, int64_t dim, int64_t gap)
{
	struct problem p = start(MT_OP_NORM, MT_OP_NORM_BWD, 2e-5, 2.5e-2);
	const int64_t cols = heads * dim;
	p.op.norm = (struct mt_norm){.kind = MT_NORM_RMS,
				     .rows = lines * heads,
				     .cols = dim,
				     .eps = 1e-6,
				     .heads = heads,
				     .x_stride = cols + gap,
				     .y_stride = cols + 2 * gap,
				     .dx_stride = gap ? cols + 3 * gap : 0};
	normal(add(&p, "x", AT(norm.x), IN, ACT, lines, cols), 1.0, 0.5)->stride = cols + gap;
	add(&p, "sum", AT(norm.sum), OUT, ACT, lines, cols)->stride = cols + gap;
	add(&p, "y", AT(norm.y), OUT, ACT, lines, cols)->stride = cols + 2 * gap;
	normal(add(&p, "gain", AT(norm.gain), IN, ACT, 1, dim), 0.2, 1.0);
	add(&p, "rstd", AT(norm.rstd), OUT, STAT, 1, lines * heads);
	add(&p, "dy", AT(norm.dy), IN, ACT, lines, cols)->stride = cols + 2 * gap;
	add(&p, "dx", AT(norm.dx), OUT, ACT, lines, cols)->stride = cols + 3 * gap;
	add(&p, "dgain", AT(norm.dgain), INOUT, STAT, 1, dim);
	body(&p);
}

/* The first `rotated` elements of each head, of lines with `gap` elements after the heads, which stay as they are. */
static inline void rope_stretched(check *body, int64_t heads, int64_t dim, int64_t rotated, int64_t gap, bool interleaved,
				  struct mt_rope_scaling scaling)
{
	for (int sign = -1; sign <= 1; sign += 2) {
		struct problem p = start(MT_OP_ROPE, MT_OP_ROPE, 2e-6, 6e-3);
		p.op.rope = (struct mt_rope){.batch = 2,
					     .seq = 19,
					     .heads = heads,
					     .head_dim = dim,
					     .stride = heads * dim + gap,
					     .first_position = 5,
					     .theta = 10000.0,
					     .sign = sign,
					     .rotated = rotated,
					     .interleaved = interleaved,
					     .scaling = scaling};
		add(&p, "x", AT(rope.x), INOUT, ACT, 2 * 19, heads * dim + gap);
		body(&p);
	}
}

/* All stretches, partial and interleaved rotations; sizes that make whole vectors and such that do not. */
static inline void ropes_stretched(check *body)
{
	static const struct mt_rope_scaling scalings[] = {{MT_ROPE_PLAIN, 0, 0, 0, 0, 0},
							  {MT_ROPE_LINEAR, 4, 0, 0, 0, 0},
							  {MT_ROPE_LLAMA3, 8, 64, 1, 4, 0},
							  {MT_ROPE_YARN, 40, 32, 1, 32, 1.25}};
	for (size_t i = 0; i < sizeof scalings / sizeof *scalings; i++) {
		rope_stretched(body, 3, 32, 0, 8, false, scalings[i]);
		rope_stretched(body, 2, 48, 32, 16, i % 2, scalings[i]);
		rope_stretched(body, 2, 10, 6, 1, i % 2 == 0, scalings[i]);
		rope_stretched(body, 1, 64, 64, 0, true, scalings[i]);
	}
}

static inline void spread(check *body, int64_t rows, int64_t heads, int64_t nope, int64_t rotary, int64_t value)
{
	for (int backward = 0; backward < 2; backward++) {
		const enum mt_op_kind kind = backward ? MT_OP_SPREAD_BWD : MT_OP_SPREAD;
		struct problem p = start(kind, kind, 2e-6, 6e-3);
		p.op.spread = (struct mt_spread){.rows = rows, .heads = heads, .nope = nope, .rotary = rotary, .value = value};
		add(&p, "kv", AT(spread.kv), backward ? OUT : IN, ACT, rows, heads * (nope + value));
		add(&p, "rope", AT(spread.rope), backward ? OUT : IN, ACT, rows, rotary);
		add(&p, "k", AT(spread.k), backward ? IN : OUT, ACT, rows, heads * (nope + rotary));
		add(&p, "v", AT(spread.v), backward ? IN : OUT, ACT, rows, heads * value);
		body(&p);
	}
}

static inline void addition(check *body, enum mt_op_kind kind, int64_t rows, int64_t cols, bool b, bool bias)
{
	struct problem p = start(kind, kind, 2e-6, 6e-3);
	p.op.add = (struct mt_add){.rows = rows, .cols = cols};
	add(&p, "a", AT(add.a), IN, ACT, rows, cols);
	if (b)
		add(&p, "b", AT(add.b), IN, ACT, rows, cols);
	if (bias)
		add(&p, "bias", AT(add.bias), IN, ACT, 1, cols);
	if (kind == MT_OP_ADD)
		add(&p, "out", AT(add.out), OUT, ACT, rows, cols);
	else
		add(&p, "dbias", AT(add.out), INOUT, STAT, 1, cols);
	body(&p);
}

static inline void loss_stats(check *body, int64_t rows, int64_t cols, int64_t first, int64_t vocab)
{
	struct problem p = start(MT_OP_LOSS_STATS, MT_OP_LOSS_STATS, 2e-6, 2e-6);
	p.op.loss = (struct mt_loss){.rows = rows, .cols = cols, .first = first, .vocab = vocab};
	normal(add(&p, "logits", AT(loss.logits), IN, ACT, rows, cols), 4.0, 0.0);
	words(add(&p, "targets", AT(loss.targets), IN, WORD, 1, rows), -2, vocab + 2);
	add(&p, "stats", AT(loss.stats), OUT, STAT, rows, 3);
	body(&p);
}

/* The statistics of both parts are given: maximum 6, sum 6, target logit 6, near enough. */
static inline void loss(check *body, int64_t rows, int64_t cols, int64_t first, int64_t vocab, double grad_scale)
{
	struct problem p = start(MT_OP_LOSS, MT_OP_LOSS, 4e-6, 8e-3);
	p.op.loss =
		(struct mt_loss){.rows = rows, .cols = cols, .first = first, .vocab = vocab, .parts = 2, .grad_scale = grad_scale};
	normal(add(&p, "logits", AT(loss.logits), INOUT, ACT, rows, cols), 1.0, 0.0);
	words(add(&p, "targets", AT(loss.targets), IN, WORD, 1, rows), -2, vocab + 2);
	normal(add(&p, "all_stats", AT(loss.all_stats), IN, STAT, 2 * rows, 3), 0.1, 6.0);
	add(&p, "loss", AT(loss.loss), OUT, STAT, 1, rows);
	body(&p);
}

static inline void adamw(check *body, int64_t count, int64_t step)
{
	struct problem p = start(MT_OP_ADAMW, MT_OP_ADAMW, 4e-6, 6e-3);
	p.op.adamw = (struct mt_adamw){.count = count,
				       .step = step,
				       .lr = 1e-2,
				       .beta1 = 0.9,
				       .beta2 = 0.95,
				       .eps = 1e-8,
				       .decay = 0.1,
				       .grad_scale = 0.5};
	add(&p, "grad", AT(adamw.grad), IN, STAT, 1, count);
	add(&p, "master", AT(adamw.master), INOUT, STAT, 1, count);
	add(&p, "m", AT(adamw.m), INOUT, STAT, 1, count);
	normal(add(&p, "v", AT(adamw.v), INOUT, STAT, 1, count), 0.1, 1.0);
	add(&p, "param", AT(adamw.param), OUT, ACT, 1, count);
	body(&p);
}

static inline void sgd(check *body, int64_t count, bool momentum, bool nesterov)
{
	struct problem p = start(MT_OP_SGD, MT_OP_SGD, 4e-6, 6e-3);
	p.op.sgd =
		(struct mt_sgd){.count = count, .lr = 1e-2, .momentum = 0.9, .decay = 0.1, .grad_scale = 0.5, .nesterov = nesterov};
	add(&p, "grad", AT(sgd.grad), IN, STAT, 1, count);
	add(&p, "master", AT(sgd.master), INOUT, STAT, 1, count);
	if (momentum)
		add(&p, "m", AT(sgd.m), INOUT, STAT, 1, count);
	add(&p, "param", AT(sgd.param), OUT, ACT, 1, count);
	body(&p);
}

/* norm: a is divided by a norm that is given. */
static inline void combine(check *body, int64_t count, bool b, bool norm)
{
	struct problem p = start(MT_OP_COMBINE, MT_OP_COMBINE, 4e-6, 4e-6);
	p.op.combine = (struct mt_combine){.count = count, .alpha = -4.775, .beta = 2.0315, .eps = 1e-7};
	add(&p, "a", AT(combine.a), IN, STAT, 1, count);
	if (b)
		add(&p, "b", AT(combine.b), IN, STAT, 1, count);
	if (norm)
		normal(add(&p, "norm2", AT(combine.norm2), IN, SUM, 1, 1), 0.1, 9.0);
	add(&p, "out", AT(combine.out), OUT, STAT, 1, count);
	body(&p);
}

static inline void sumsq(check *body, int64_t count)
{
	struct problem p = start(MT_OP_SUMSQ, MT_OP_SUMSQ, 1e-12, 1e-12);
	p.op.sumsq.count = count;
	add(&p, "x", AT(sumsq.x), IN, STAT, 1, count);
	add(&p, "out", AT(sumsq.out), INOUT, SUM, 1, 1);
	body(&p);
}

#endif
