/* operands: one function a family of operations, in the order of enum mt_op_kind. Each sets the shapes from the key's
 * dims (their order is in kernels/op.h) and lists the buffers with their sizes. */
#include "profiles/operands.h"

#include "kernels/fp8.h"

#include <math.h>
#include <string.h>

#define FIELD(member) offsetof(struct mt_op, member)

static void add(struct operands *to, size_t field, int64_t count, enum mt_dtype dtype, enum operand_fill fill, bool cold)
{
	to->list[to->count++] = (struct operand){field, count, dtype, fill, 0, cold};
}

static void add_index(struct operands *to, size_t field, int64_t count, int64_t bound)
{
	to->list[to->count++] = (struct operand){field, count, MT_I32, OPERAND_INDEX, bound, false};
}

/* The type of what op.h calls f32: double beside MT_F64. */
static enum mt_dtype wide(const struct operands *of)
{
	return of->op.dtype == MT_F64 ? MT_F64 : MT_F32;
}

/* A matrix of a product, and in fp8 its scale. */
static void add_operand(struct operands *to, size_t field, size_t inverse, int64_t count, enum mt_dtype dtype, bool cold)
{
	add(to, field, count, dtype, OPERAND_NORMAL, cold);
	if (mt_dtype_is_fp8(dtype))
		add(to, inverse, 1, MT_F32, OPERAND_ONE, false);
}

static void linear(const int64_t *d, struct operands *to)
{
	enum mt_dtype t = to->op.dtype;
	enum mt_dtype forward = d[4] ? MT_E4M3 : t, backward = d[4] ? mt_fp8_gradient((int)d[4]) : t;
	to->op.linear = (struct mt_linear){.rows = d[0], .in = d[1], .out = d[2], .fp8 = (int)d[4]};
	if (to->op.kind != MT_OP_LINEAR)
		add_operand(to, FIELD(linear.dy), FIELD(linear.dy_inverse), d[0] * d[2], backward, false);
	if (to->op.kind != MT_OP_LINEAR_DGRAD)
		add_operand(to, FIELD(linear.x), FIELD(linear.x_inverse), d[0] * d[1], forward, false);
	if (to->op.kind != MT_OP_LINEAR_WGRAD)
		add_operand(to, FIELD(linear.w), FIELD(linear.w_inverse), d[1] * d[2], forward, true);
	if (to->op.kind == MT_OP_LINEAR) {
		add(to, FIELD(linear.y), d[0] * d[2], t, OPERAND_NORMAL, false);
		if (d[3] & MT_LINEAR_BIAS)
			add(to, FIELD(linear.bias), d[2], t, OPERAND_NORMAL, true);
	} else if (to->op.kind == MT_OP_LINEAR_DGRAD) {
		add(to, FIELD(linear.dx), d[0] * d[1], t, OPERAND_NORMAL, false);
	} else {
		add(to, FIELD(linear.dw), d[1] * d[2], wide(to), OPERAND_NORMAL, true);
	}
	bool forward_product = to->op.kind == MT_OP_LINEAR;
	if (d[3] & MT_LINEAR_GELU)
		add(to, FIELD(linear.pre), d[0] * d[forward_product ? 2 : 1], t, OPERAND_NORMAL, false);
	if (d[3] & MT_LINEAR_DBIAS)
		add(to, FIELD(linear.dbias), d[to->op.kind == MT_OP_LINEAR_DGRAD ? 1 : 2], wide(to), OPERAND_NORMAL, true);
}

/* q, k, v are slices of one buffer of rows H*D + G*(D + E), and so are dq, dk, dv: the pointers of k, v, dk, dv are set by
 * slice_attention (measure.c) once q and dq are known. */
static void attention(const int64_t *d, struct operands *to)
{
	enum mt_dtype t = to->op.dtype;
	int64_t keys = d[6] ? d[6] : d[1], most = keys > d[1] ? keys : d[1]; /* of a sequence */
	int64_t rows = d[0] * most, heads = d[2], v = d[8] ? d[8] : d[4], packed = (heads + d[3]) * d[4] + d[3] * v;
	int64_t sums = rows * heads;
	to->op.attention = (struct mt_attention){.batch = d[0],
						 .seq = d[1],
						 .heads = heads,
						 .kv_heads = d[3],
						 .head_dim = d[4],
						 .window = d[5],
						 .kv_seq = keys,
						 .offset = d[7],
						 .q_rows = most,
						 .kv_rows = most,
						 .q_stride = packed,
						 .kv_stride = packed,
						 .o_stride = heads * v,
						 .v_dim = v,
						 .scale = 1 / sqrt((double)d[4])};
	add(to, FIELD(attention.q), rows * packed, t, OPERAND_NORMAL, false);
	add(to, FIELD(attention.o), rows * heads * v, t, OPERAND_NORMAL, false);
	add(to, FIELD(attention.lse), sums, wide(to), OPERAND_ONE, false);
	if (to->op.kind == MT_OP_ATTENTION_BWD) {
		add(to, FIELD(attention.do_), rows * heads * v, t, OPERAND_NORMAL, false);
		add(to, FIELD(attention.dq), rows * packed, t, OPERAND_NORMAL, false);
		add(to, FIELD(attention.delta), sums, wide(to), OPERAND_NORMAL, false);
	}
}

static void norm(const int64_t *d, struct operands *to)
{
	enum mt_dtype t = to->op.dtype;
	int64_t rows = d[1], cols = d[2], whole = rows * cols;
	bool layer = d[0] == MT_NORM_LAYER;
	to->op.norm = (struct mt_norm){.kind = (enum mt_norm_kind)d[0], .rows = rows, .cols = cols, .eps = 1e-5};
	add(to, FIELD(norm.sum), whole, t, OPERAND_NORMAL, false);
	add(to, FIELD(norm.gain), cols, t, OPERAND_NORMAL, true);
	add(to, FIELD(norm.mean), rows, wide(to), OPERAND_NORMAL, false);
	add(to, FIELD(norm.rstd), rows, wide(to), OPERAND_ONE, false);
	if (to->op.kind == MT_OP_NORM) {
		add(to, FIELD(norm.x), whole, t, OPERAND_NORMAL, false);
		add(to, FIELD(norm.y), whole, t, OPERAND_NORMAL, false);
		if (d[3])
			add(to, FIELD(norm.residual), whole, t, OPERAND_NORMAL, false);
		if (layer)
			add(to, FIELD(norm.bias), cols, t, OPERAND_NORMAL, true);
		return;
	}
	add(to, FIELD(norm.dy), whole, t, OPERAND_NORMAL, false);
	add(to, FIELD(norm.dx), whole, t, OPERAND_NORMAL, false);
	add(to, FIELD(norm.dgain), cols, wide(to), OPERAND_NORMAL, true);
	if (d[3])
		add(to, FIELD(norm.dresidual), whole, t, OPERAND_NORMAL, false);
	if (layer)
		add(to, FIELD(norm.dbias), cols, wide(to), OPERAND_NORMAL, true);
}

static void activation(const int64_t *d, struct operands *to)
{
	enum mt_dtype t = to->op.dtype;
	int64_t out = d[1] * d[2], in = d[0] == MT_SWIGLU ? 2 * out : out;
	to->op.activation = (struct mt_activation){.kind = (enum mt_activation_kind)d[0], .rows = d[1], .cols = d[2]};
	add(to, FIELD(activation.x), in, t, OPERAND_NORMAL, false);
	if (to->op.kind == MT_OP_ACTIVATION) {
		add(to, FIELD(activation.y), out, t, OPERAND_NORMAL, false);
	} else {
		add(to, FIELD(activation.dy), out, t, OPERAND_NORMAL, false);
		add(to, FIELD(activation.dx), in, t, OPERAND_NORMAL, false);
	}
}

static void rope(const int64_t *d, struct operands *to)
{
	to->op.rope = (struct mt_rope){
		.batch = d[0], .seq = d[1], .heads = d[2], .head_dim = d[3], .stride = d[2] * d[3], .theta = 10000, .sign = 1};
	add(to, FIELD(rope.x), d[0] * d[1] * d[2] * d[3], to->op.dtype, OPERAND_NORMAL, false);
}

static void spread(const int64_t *d, struct operands *to)
{
	enum mt_dtype t = to->op.dtype;
	int64_t heads = d[0] * d[1];
	to->op.spread = (struct mt_spread){.rows = d[0], .heads = d[1], .nope = d[2], .rotary = d[3], .value = d[4]};
	add(to, FIELD(spread.kv), heads * (d[2] + d[4]), t, OPERAND_NORMAL, false);
	add(to, FIELD(spread.rope), d[0] * d[3], t, OPERAND_NORMAL, false);
	add(to, FIELD(spread.k), heads * (d[2] + d[3]), t, OPERAND_NORMAL, false);
	add(to, FIELD(spread.v), heads * d[4], t, OPERAND_NORMAL, false);
}

static void embedding(const int64_t *d, struct operands *to)
{
	int64_t rows = d[0], cols = d[1], seq = d[2], words = d[3];
	to->op.embedding = (struct mt_embedding){.rows = rows, .cols = cols, .seq = seq, .count = words};
	add_index(to, FIELD(embedding.tokens), rows, words);
	if (to->op.kind == MT_OP_EMBEDDING) {
		add(to, FIELD(embedding.table), words * cols, to->op.dtype, OPERAND_NORMAL, true);
		add(to, FIELD(embedding.y), rows * cols, to->op.dtype, OPERAND_NORMAL, false);
	} else {
		add(to, FIELD(embedding.dy), rows * cols, to->op.dtype, OPERAND_NORMAL, false);
		add(to, FIELD(embedding.dtable), words * cols, wide(to), OPERAND_NORMAL, true);
	}
}

static void addition(const int64_t *d, struct operands *to)
{
	enum mt_dtype t = to->op.dtype;
	to->op.add = (struct mt_add){.rows = d[0], .cols = d[1]};
	add(to, FIELD(add.a), d[0] * d[1], t, OPERAND_NORMAL, false);
	if (to->op.kind == MT_OP_BIAS_GRAD) {
		add(to, FIELD(add.out), d[1], wide(to), OPERAND_NORMAL, true);
		return;
	}
	if (d[2])
		add(to, FIELD(add.b), d[0] * d[1], t, OPERAND_NORMAL, false);
	if (d[3])
		add(to, FIELD(add.bias), d[1], t, OPERAND_NORMAL, true);
	add(to, FIELD(add.out), d[0] * d[1], t, OPERAND_NORMAL, false);
}

static void loss(const int64_t *d, struct operands *to)
{
	int64_t rows = d[0], cols = d[1], parts = d[2] > 0 ? d[2] : 1;
	to->op.loss =
		(struct mt_loss){.rows = rows, .cols = cols, .vocab = cols * parts, .parts = parts, .grad_scale = d[3] ? 1 : 0};
	add(to, FIELD(loss.logits), rows * cols, to->op.dtype, OPERAND_NORMAL, false);
	add_index(to, FIELD(loss.targets), rows, cols * parts);
	if (to->op.kind == MT_OP_LOSS_STATS) {
		add(to, FIELD(loss.stats), rows * 3, wide(to), OPERAND_ONE, false);
	} else {
		add(to, FIELD(loss.all_stats), parts * rows * 3, wide(to), OPERAND_ONE, false);
		add(to, FIELD(loss.loss), rows, wide(to), OPERAND_NORMAL, false);
	}
}

static void move(const int64_t *d, struct operands *to)
{
	struct mt_move *m = &to->op.move;
	if (to->op.kind == MT_OP_COPY) {
		*m = (struct mt_move){.rows = d[0], .cols = d[1], .src_stride = 2 * d[1], .dst_stride = d[1]};
		m->src_dtype = m->dst_dtype = to->op.dtype;
		add(to, FIELD(move.src), 2 * d[0] * d[1], to->op.dtype, OPERAND_NORMAL, false);
		add(to, FIELD(move.dst), d[0] * d[1], to->op.dtype, OPERAND_NORMAL, false);
	} else if (to->op.kind == MT_OP_CAST) {
		*m = (struct mt_move){.count = d[0], .src_dtype = (enum mt_dtype)d[1], .dst_dtype = (enum mt_dtype)d[2]};
		add(to, FIELD(move.src), d[0], m->src_dtype, OPERAND_NORMAL, true);
		add(to, FIELD(move.dst), d[0], m->dst_dtype, OPERAND_NORMAL, true);
	} else {
		*m = (struct mt_move){.count = d[0], .dst_dtype = (enum mt_dtype)d[1]};
		add(to, FIELD(move.dst), d[0], m->dst_dtype, OPERAND_NORMAL, true);
	}
}

static void sumsq(const int64_t *d, struct operands *to)
{
	to->op.sumsq = (struct mt_sumsq){.count = d[0]};
	add(to, FIELD(sumsq.x), d[0], wide(to), OPERAND_NORMAL, true);
	add(to, FIELD(sumsq.out), 1, MT_F64, OPERAND_NORMAL, false);
}

static void adamw(const int64_t *d, struct operands *to)
{
	to->op.adamw = (struct mt_adamw){.count = d[0],
					 .step = 10,
					 .lr = 1e-4,
					 .beta1 = 0.9,
					 .beta2 = 0.95,
					 .eps = 1e-8,
					 .decay = 0.1,
					 .grad_scale = 1,
					 .m_dtype = (enum mt_dtype)d[1],
					 .v_dtype = (enum mt_dtype)d[2]};
	add(to, FIELD(adamw.grad), d[0], wide(to), OPERAND_NORMAL, true);
	add(to, FIELD(adamw.master), d[0], wide(to), OPERAND_NORMAL, true);
	add(to, FIELD(adamw.m), d[0], d[1] == MT_BF16 ? MT_BF16 : wide(to), OPERAND_NORMAL, true);
	add(to, FIELD(adamw.v), d[0], d[2] == MT_BF16 ? MT_BF16 : wide(to), OPERAND_ONE, true);
	add(to, FIELD(adamw.param), d[0], to->op.dtype, OPERAND_NORMAL, true);
}

static void sgd(const int64_t *d, struct operands *to)
{
	to->op.sgd = (struct mt_sgd){.count = d[0], .lr = 1e-4, .momentum = 0.9, .decay = 0.1, .grad_scale = 1};
	add(to, FIELD(sgd.grad), d[0], wide(to), OPERAND_NORMAL, true);
	add(to, FIELD(sgd.master), d[0], wide(to), OPERAND_NORMAL, true);
	if (d[1])
		add(to, FIELD(sgd.m), d[0], wide(to), OPERAND_NORMAL, true);
	add(to, FIELD(sgd.param), d[0], to->op.dtype, OPERAND_NORMAL, true);
}

static void combine(const int64_t *d, struct operands *to)
{
	to->op.combine = (struct mt_combine){.count = d[0], .alpha = 0.5, .beta = 0.5};
	add(to, FIELD(combine.a), d[0], wide(to), OPERAND_NORMAL, true);
	if (d[1])
		add(to, FIELD(combine.b), d[0], wide(to), OPERAND_NORMAL, true);
	add(to, FIELD(combine.out), d[0], wide(to), OPERAND_NORMAL, true);
}

static void quantize(const int64_t *d, struct operands *to)
{
	struct mt_quantize *q = &to->op.quantize;
	bool scales = to->op.kind == MT_OP_FP8_SCALE;
	*q = (struct mt_quantize){.rows = scales ? 1 : d[0], .cols = scales ? d[0] : d[1], .to = MT_E4M3};
	if (to->op.kind == MT_OP_QUANTIZE)
		q->to = (enum mt_dtype)d[2];
	if (!scales)
		add(to, FIELD(quantize.x), d[0] * d[1], to->op.dtype, OPERAND_NORMAL, false);
	if (to->op.kind == MT_OP_QUANTIZE && d[3])
		add(to, FIELD(quantize.y), d[0] * d[1], q->to, OPERAND_NORMAL, false);
	if (to->op.kind == MT_OP_QUANTIZE && d[4])
		add(to, FIELD(quantize.y_t), d[0] * d[1], q->to, OPERAND_NORMAL, false);
	if (to->op.kind != MT_OP_QUANTIZE || d[5])
		add(to, FIELD(quantize.amax), q->cols, MT_F32, OPERAND_ONE, false);
	if (to->op.kind != MT_OP_AMAX)
		add(to, FIELD(quantize.scale), q->cols, MT_F32, OPERAND_ONE, false);
	if (scales)
		add(to, FIELD(quantize.inverse), q->cols, MT_F32, OPERAND_ONE, false);
}

enum mt_status mt_operands_of(const struct mt_op_key *key, struct operands *operands)
{
	static void (*const FAMILIES[MT_OP_KIND_COUNT])(const int64_t *, struct operands *) = {
		[MT_OP_LINEAR] = linear,
		[MT_OP_LINEAR_DGRAD] = linear,
		[MT_OP_LINEAR_WGRAD] = linear,
		[MT_OP_ATTENTION] = attention,
		[MT_OP_ATTENTION_BWD] = attention,
		[MT_OP_NORM] = norm,
		[MT_OP_NORM_BWD] = norm,
		[MT_OP_ACTIVATION] = activation,
		[MT_OP_ACTIVATION_BWD] = activation,
		[MT_OP_ROPE] = rope,
		[MT_OP_EMBEDDING] = embedding,
		[MT_OP_EMBEDDING_BWD] = embedding,
		[MT_OP_ADD] = addition,
		[MT_OP_BIAS_GRAD] = addition,
		[MT_OP_LOSS_STATS] = loss,
		[MT_OP_LOSS] = loss,
		[MT_OP_CAST] = move,
		[MT_OP_FILL] = move,
		[MT_OP_COPY] = move,
		[MT_OP_SUMSQ] = sumsq,
		[MT_OP_ADAMW] = adamw,
		[MT_OP_SGD] = sgd,
		[MT_OP_COMBINE] = combine,
		[MT_OP_AMAX] = quantize,
		[MT_OP_FP8_SCALE] = quantize,
		[MT_OP_QUANTIZE] = quantize,
		[MT_OP_GROUPED] = mt_operands_grouped,
		[MT_OP_GROUPED_DGRAD] = mt_operands_grouped,
		[MT_OP_GROUPED_WGRAD] = mt_operands_grouped,
		[MT_OP_ROUTE] = mt_operands_route,
		[MT_OP_ROUTE_SUMS] = mt_operands_route,
		[MT_OP_ROUTE_LOSS] = mt_operands_route,
		[MT_OP_ROUTE_BWD] = mt_operands_route,
		[MT_OP_DROP] = mt_operands_rows,
		[MT_OP_DISPATCH] = mt_operands_rows,
		[MT_OP_GATHER_ROWS] = mt_operands_rows,
		[MT_OP_SUM_ROWS] = mt_operands_rows,
		[MT_OP_EXPERT_ACT] = mt_operands_expert_act,
		[MT_OP_EXPERT_ACT_BWD] = mt_operands_expert_act,
		[MT_OP_SPREAD] = spread,
		[MT_OP_SPREAD_BWD] = spread,
	};
	if (key->kind < 0 || key->kind >= MT_OP_KIND_COUNT || key->dtype < 0 || key->dtype >= MT_DTYPE_COUNT)
		return mt_fail(MT_INPUT, "no operation has kind %d and dtype %d", key->kind, key->dtype);
	memset(operands, 0, sizeof *operands);
	operands->op.kind = (enum mt_op_kind)key->kind;
	operands->op.dtype = (enum mt_dtype)key->dtype;
	FAMILIES[key->kind](key->dims, operands);
	return MT_OK;
}
