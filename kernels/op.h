/* op: the operations of a device, each a struct of shapes and pointers.
 *
 * An operation is data: the engine fills a struct mt_op and hands it to mt_device_enqueue. So one place can time it,
 * cost it, count its FLOPs and bytes, or trace it, for every backend. All matrices are row-major. `dtype` of the op is
 * the type of activations and parameters in it: MT_F32, MT_BF16, and MT_F64 on the reference device. Fields marked
 * f32 below are float, but double when dtype is MT_F64 (then everything is double, so that gradients can be held
 * against finite differences). Statistics, master weights, gradients of parameters and sums are f32.
 * Letters: B batch, T sequence, C hidden, H query heads, G key/value heads, D head size, V vocabulary, R = B*T rows.
 *
 * Aliasing: an output may be the same pointer as an input only where a comment says so. */
#ifndef MT_KERNELS_OP_H
#define MT_KERNELS_OP_H

#include "base/status.h"
#include "kernels/dtype.h"

#include <stdbool.h>
#include <stdint.h>

enum mt_op_kind {
	MT_OP_LINEAR,       /* forward product */
	MT_OP_LINEAR_DGRAD, /* gradient of its input */
	MT_OP_LINEAR_WGRAD, /* gradient of its weight, accumulated */
	MT_OP_ATTENTION,
	MT_OP_ATTENTION_BWD,
	MT_OP_NORM,
	MT_OP_NORM_BWD,
	MT_OP_ACTIVATION,
	MT_OP_ACTIVATION_BWD,
	MT_OP_ROPE,
	MT_OP_EMBEDDING,
	MT_OP_EMBEDDING_BWD,
	MT_OP_ADD,
	MT_OP_BIAS_GRAD,
	MT_OP_LOSS_STATS,
	MT_OP_LOSS,
	MT_OP_CAST,
	MT_OP_FILL,
	MT_OP_COPY,
	MT_OP_SUMSQ,
	MT_OP_ADAMW,
	MT_OP_SGD,
	MT_OP_COMBINE,
	MT_OP_AMAX,
	MT_OP_FP8_SCALE,
	MT_OP_QUANTIZE,
	MT_OP_GROUPED,       /* experts: LINEAR of groups of rows, each with a weight of its own */
	MT_OP_GROUPED_DGRAD, /* op_experts.c says how the kinds from here to EXPERT_ACT_BWD are keyed */
	MT_OP_GROUPED_WGRAD,
	MT_OP_ROUTE,
	MT_OP_ROUTE_SUMS,
	MT_OP_ROUTE_LOSS,
	MT_OP_ROUTE_BWD,
	MT_OP_DROP,
	MT_OP_DISPATCH,
	MT_OP_GATHER_ROWS,
	MT_OP_SUM_ROWS,
	MT_OP_EXPERT_ACT,
	MT_OP_EXPERT_ACT_BWD,
	MT_OP_SPREAD, /* keys and values of latent attention */
	MT_OP_SPREAD_BWD,
	MT_OP_KIND_COUNT
};

/* LINEAR        y(R,N) = x(R,K) w(N,K)^T + bias(N)        bias may be NULL
 * LINEAR_DGRAD  dx(R,K) = dy(R,N) w(N,K)
 * LINEAR_WGRAD  dw(N,K) f32 += dy(R,N)^T x(R,K)
 * w is stored (out, in) as in Megatron and PyTorch. 2*R*N*K FLOPs each.
 * What can be done where the product is stored (op_parts.c has the operations that each stands for):
 *   LINEAR        with pre: pre(R,N) = x w^T + bias, kept for backward, and y = gelu(pre), tanh form, of pre before or after it is
 *                 rounded
 *   LINEAR_DGRAD  with pre(R,K), the input of the GELU that gave x: dx = (dy w) * gelu'(pre), and with dbias(K) f32 too dbias +=
 *                 column sums of dx, before or after it is rounded. dx may not be pre.
 *   LINEAR_WGRAD  with dbias(N) f32: dbias += column sums of dy. Not with fp8, whose dy is rounded.
 * With fp8 set, x, w and dy are codes of 8 bits (x and w e4m3, dy as mt_fp8_gradient says) and each has its inverse scale, one f32:
 * the sum over codes, in f32, is multiplied by both operands' inverses before bias is added, or before dw is added to. Every
 * operand then has the summed dimension contiguous: DGRAD takes w turned, (in, out), WGRAD takes x and dy turned, (in, R) and (out,
 * R). y, dx and bias are of the op's dtype, dw f32, as ever. */
struct mt_linear {
	int64_t rows, in, out; /* R, K, N */
	const void *x, *w, *bias, *dy;
	void *y, *dx, *dw;
	int fp8;                                        /* enum mt_fp8_format; MT_FP8_OFF: operands are of the op's dtype */
	const void *x_inverse, *w_inverse, *dy_inverse; /* f32, of one element; fp8 only */
	void *pre;                                      /* LINEAR writes it, LINEAR_DGRAD reads it; NULL: no GELU */
	void *dbias;                                    /* f32; NULL: none */
};

/* Causal self-attention, grouped-query: query head h uses key/value head h / (heads / kv_heads). Row t of a sequence sees rows
 * first(t)..t of it, first(t) = max(0, t - window + 1, starts[b,t]): `window` is the number of rows seen at most, its own
 * included (0: no limit), `starts` the first row of the document that row t belongs to (NULL: the sequence is one document);
 * it never falls from one row to the next.
 * Element (b,t,h,d) of q is at q[(b*T + t) * q_stride + h*D + d], likewise k (kv_stride, kv_heads). Heads of values have E
 * elements: so v (v_stride), o and do (o_stride). dq, dk and dv have the strides of q, k and v. lse(B,H,T) f32 = log of the sum of
 * exp of the scaled scores, kept for backward. o = softmax(q k^T * scale + mask) v, never storing T x T (Dao et al. 2022,
 * arXiv:2205.14135). delta(B,H,T) f32 is workspace of the backward pass (row sums of do*o). dq, dk, dv are written, not
 * accumulated. FLOPs: forward 2*B*H*(D + E) times the pairs seen, T*T / 2 (causal) or W*T - W*W/2 for a window W < T; backward
 * 2*B*H*(3*D + 2*E) times them.
 * Documents do not count: what they save is known only from their data.
 *
 * A part of attention: other keys than the queries' own (context parallelism). There are `kv_seq` rows of keys and values a
 * sequence (0: as many as queries), and query t stands beside key t + offset (offset >= 0): it sees keys first(t) to
 * min(t + offset, kv_seq - 1), where first(t) = max(0, t + offset - window + 1, starts[b,t]), and none when that is empty: then
 * o = 0 and lse = -inf. A sequence takes q_rows rows of q, o, do, dq and starts, and lse and delta are (B,H,q_rows); it takes
 * kv_rows rows of k, v, dk and dv (0: seq and kv_seq): so halves of a sequence are given by pointers to where they begin. With
 * `merge` o and lse are at first those of other keys, and at last those of both; the backward pass of a part takes o and lse of all
 * keys. With add_dq, add_dkv the gradients are added to what dq, dk and dv hold. */
struct mt_attention {
	int64_t batch, seq, heads, kv_heads, head_dim;
	int64_t q_stride, kv_stride, o_stride; /* in elements */
	double scale;
	const void *q, *k, *v, *do_;
	void *o, *dq, *dk, *dv;
	void *lse, *delta; /* f32 */
	int64_t window;
	const void *starts; /* i32 (B,T) */
	int64_t kv_seq, offset, q_rows, kv_rows;
	bool merge, add_dq, add_dkv;
	int64_t v_dim, v_stride; /* E and the values' stride; 0: D and kv_stride */
};
static inline int64_t mt_attention_v_dim(const struct mt_attention *a)
{
	return a->v_dim ? a->v_dim : a->head_dim;
}
static inline int64_t mt_attention_v_stride(const struct mt_attention *a)
{
	return a->v_stride ? a->v_stride : a->kv_stride;
}

static inline int64_t mt_attention_keys(const struct mt_attention *a)
{
	return a->kv_seq ? a->kv_seq : a->seq;
}

static inline int64_t mt_attention_q_rows(const struct mt_attention *a)
{
	return a->q_rows ? a->q_rows : a->seq;
}

static inline int64_t mt_attention_kv_rows(const struct mt_attention *a)
{
	return a->kv_rows ? a->kv_rows : mt_attention_keys(a);
}

/* Whether it is attention of sequences as they are, which needs none of the fields of a part. */
static inline bool mt_attention_is_whole(const struct mt_attention *a)
{
	return mt_attention_keys(a) == a->seq && !a->offset && mt_attention_q_rows(a) == a->seq &&
	       mt_attention_kv_rows(a) == a->seq && !a->merge && !a->add_dq && !a->add_dkv;
}

enum mt_norm_kind { MT_NORM_LAYER, MT_NORM_RMS };

/* Norm over the columns, with the residual addition before it:
 *   s = x + x_bias + residual   (x_bias(C) and residual(R,C) may be NULL), written to sum(R,C) unless NULL; sum may alias residual
 * or x layer: y = (s - mean) * rstd * gain + bias;   rms: y = s * rstd * gain, rstd = 1/sqrt(mean(s^2) + eps) mean(R), rstd(R) f32
 * are kept for backward (mean unused for rms). gain(C), bias(C) in dtype; bias NULL for rms. Statistics are of s as stored in
 * dtype. NORM_BWD: dx(R,C) = gradient through the norm + dresidual(R,C) (NULL: 0; may alias dx); dgain(C) f32 +=, dbias(C) f32 +=
 * (NULL for rms); s is read from `sum`.
 * With `heads` above 0 a row is a head of a longer line: row i is head i % heads of line i / heads, at x_stride * line +
 * C * head in x and sum, y_stride * line + C * head in y and dy, dx_stride (0: x_stride) * line + C * head in dx; then there is
 * no residual, no x_bias and no dresidual. mean, rstd(R) as ever; dx may alias dy where the strides are equal.
 * Ba 2016, arXiv:1607.06450; Zhang & Sennrich 2019, arXiv:1910.07467. */
struct mt_norm {
	enum mt_norm_kind kind;
	int64_t rows, cols;
	double eps;
	const void *x, *x_bias, *residual;
	void *sum, *y;
	const void *gain, *bias;
	void *mean, *rstd; /* f32 */
	const void *dy, *dresidual;
	void *dx, *dgain, *dbias;
	int64_t heads, x_stride, y_stride, dx_stride;
};
/* Where row `row` of x and sum begins, of y and dy, and of dx. */
static inline int64_t mt_norm_x_at(const struct mt_norm *n, int64_t row)
{
	return n->heads ? row / n->heads * n->x_stride + row % n->heads * n->cols : row * n->cols;
}
static inline int64_t mt_norm_dx_at(const struct mt_norm *n, int64_t row)
{
	int64_t stride = n->dx_stride ? n->dx_stride : n->x_stride;

	return n->heads ? row / n->heads * stride + row % n->heads * n->cols : row * n->cols;
}
static inline int64_t mt_norm_y_at(const struct mt_norm *n, int64_t row)
{
	return n->heads ? row / n->heads * n->y_stride + row % n->heads * n->cols : row * n->cols;
}

enum mt_activation_kind { MT_GELU, MT_SWIGLU };

/* gelu:   y(R,F) = gelu_tanh(x(R,F)).                     BWD: dx(R,F) from dy(R,F) and x
 * swiglu: x is (R,2F): gate in columns [0,F), up in [F,2F); y(R,F) = silu(gate) * up.  BWD: dx(R,2F).
 * dx may alias x, and of gelu dy. cols = F. */
struct mt_activation {
	enum mt_activation_kind kind;
	int64_t rows, cols;
	const void *x, *dy;
	void *y, *dx;
};

/* How the wavelengths of rotary positions are stretched for sequences longer than those first trained on, `original`:
 *   linear  every frequency f becomes f / factor (Chen et al. 2023, arXiv:2306.15595)
 *   llama3  f with a wavelength above original / low becomes f / factor, below original / high stays, between is blended
 *           in proportion (Grattafiori et al. 2024, arXiv:2407.21783, as in Meta's code and transformers)
 *   yarn    f / factor for pairs that turn less than `low` times over `original`, f for those that turn more than `high`
 *           times, a ramp over the pairs between (Peng et al. 2023, arXiv:2309.00071)
 * and cosine and sine are multiplied by `magnitude` (0: 1). */
enum mt_rope_stretch { MT_ROPE_PLAIN, MT_ROPE_LINEAR, MT_ROPE_LLAMA3, MT_ROPE_YARN };
struct mt_rope_scaling {
	enum mt_rope_stretch stretch;
	double factor, original, low, high, magnitude;
};

/* Rotary positions in place on `heads` heads of D at x[row*stride + h*D]; row = b*T + t has position t + first_position,
 * or positions[row] when that is not NULL (below `position_count`).
 * The first E = `rotated` elements of a head (0: all D) are rotated, pairs (d, d + E/2) (the half-split form of LLaMA in
 * Hugging Face) or, `interleaved`, pairs (2d, 2d + 1) (the paper's, DeepSeek's), by position * theta^(-2d/E), stretched;
 * sign -1 rotates back (the backward pass; magnitude still multiplies). Su 2021, arXiv:2104.09864. */
struct mt_rope {
	int64_t batch, seq, heads, head_dim, stride, first_position;
	double theta;
	int sign;
	void *x;
	const void *positions; /* i32 (B,T) */
	int64_t position_count;
	int64_t rotated;
	bool interleaved;
	struct mt_rope_scaling scaling;
};
static inline int64_t mt_rope_rotated(const struct mt_rope *r)
{
	return r->rotated ? r->rotated : r->head_dim;
}
/* Radians a position of pair d < E/2. */
double mt_rope_frequency(const struct mt_rope *rope, int64_t pair);
static inline double mt_rope_magnitude(const struct mt_rope *r)
{
	return r->scaling.magnitude > 0 ? r->scaling.magnitude : 1;
}

/* Keys and values of latent attention from what its products make (DeepSeek-AI 2024, arXiv:2405.04434, section 2.1): a row of
 * kv has for each head `nope` elements of the key and `value` of the value, rope(R,`rotary`) is the part of the key with positions
 * that all heads share.
 * SPREAD      k(R,H,nope+rotary) = kv[:nope], rope      v(R,H,value) = kv[nope:]
 * SPREAD_BWD  kv(R,H,nope+value) = k[:nope], v (gradients of them) and rope(R,rotary) = sum over heads of k[nope:], in their
 *             order, in f32. rows of all are contiguous. */
struct mt_spread {
	int64_t rows, heads, nope, rotary, value;
	void *kv, *rope, *k, *v;
};

/* EMBEDDING      y(R,C) = table[token - first] for first <= token < first + count, else 0 (vocabulary-parallel);
 *                adds position[t] for row b*T + t when position (T,C) is not NULL, or position[positions[row]] when
 *                positions is not NULL either (all below position_count)
 * EMBEDDING_BWD  dtable[token - first] f32 += dy(R,C) for tokens in range, in row order (deterministic);
 *                dposition[t] f32 += dy when not NULL, or dposition[positions[row]] in row order; either may be NULL.
 * `first_row`: the R rows given are rows first_row.. of the micro-batch (sequence parallelism), tokens too. */
struct mt_embedding {
	int64_t rows, cols, seq, first, count, first_row;
	const void *tokens; /* i32 (R) */
	const void *table, *position;
	void *y;
	const void *dy;
	void *dtable, *dposition;
	const void *positions; /* i32 (R) */
	int64_t position_count;
};

/* ADD: out(R,C) = a(R,C) + b(R,C) + bias(C); b and bias may be NULL; out may alias a or b.
 * BIAS_GRAD: dbias(C) f32 += column sums of a(R,C), written to out. */
struct mt_add {
	int64_t rows, cols;
	const void *a, *b, *bias;
	void *out;
};

/* Vocabulary-parallel cross entropy in two operations with one gather between them.
 * LOSS_STATS  for each row of logits(R,Vl): stats[row] = {max, sum exp(logit - max), target logit or 0} f32 (R,3), over the
 *             real columns only: local column c is word first + c and real when that is < vocab.
 * LOSS        all_stats(parts,R,3) f32 from every part in rank order -> loss(R) f32 = log(sum) - target logit,
 *             and logits are overwritten by dlogits = (softmax - onehot(target)) * grad_scale; padding columns get 0.
 *             When grad_scale is 0 only the loss is computed.
 * target -1 (and any negative) marks a row that does not count: loss 0, gradient 0. */
struct mt_loss {
	int64_t rows, cols, first, vocab, parts;
	void *logits;
	const void *targets; /* i32 (R), global words */
	void *stats;         /* f32 */
	const void *all_stats;
	void *loss; /* f32 */
	double grad_scale;
};

/* CAST dst(count) in dst_dtype = src in src_dtype.  FILL dst = value (dst_dtype).
 * COPY of `rows` rows of `cols` elements between row strides (dtype of the op), for packing slices. */
struct mt_move {
	int64_t count, rows, cols, src_stride, dst_stride;
	enum mt_dtype src_dtype, dst_dtype;
	double value;
	const void *src;
	void *dst;
};

/* SUMSQ: *out (f64, one element) += sum of x(count)^2; x f32. Sums in double, in a fixed order. */
struct mt_sumsq {
	int64_t count;
	const void *x;
	void *out;
};

/* AdamW on `count` consecutive parameters (Loshchilov & Hutter 2019, arXiv:1711.05101, decoupled decay):
 *   g = grad * grad_scale;  m = beta1 m + (1-beta1) g;  v = beta2 v + (1-beta2) g^2
 *   master -= lr * ( m/(1-beta1^step) / (sqrt(v/(1-beta2^step)) + eps) + decay * master )
 *   param (op dtype) = master     (param may be the same pointer as master when dtype is f32)
 * master, grad f32; m and v f32, or bf16 where m_dtype and v_dtype say so: they are used as computed and rounded where they are
 * stored. step counts from 1. */
struct mt_adamw {
	int64_t count, step;
	double lr, beta1, beta2, eps, decay, grad_scale;
	const void *grad;
	void *master, *m, *v, *param;
	enum mt_dtype m_dtype, v_dtype; /* MT_F32 (f64 beside MT_F64) or MT_BF16 */
};

/* SGD with momentum on `count` consecutive parameters (Sutskever et al. 2013), decay added to the gradient as PyTorch does:
 *   g = grad * grad_scale + decay * master;  m = momentum m + g;  master -= lr * (nesterov ? g + momentum m : m)
 *   param (op dtype) = master     (param may be the same pointer as master when dtype is f32)
 * m NULL: no momentum, master -= lr * g. master, m, grad f32. */
struct mt_sgd {
	int64_t count;
	double lr, momentum, decay, grad_scale;
	bool nesterov;
	const void *grad;
	void *master, *m, *param;
};

/* COMBINE: out(count) f32 = alpha a + beta b. b NULL: alpha a. norm2 (f64, one element) not NULL: alpha is divided by
 * sqrt(*norm2) + eps, so that a tensor is normalized without the host knowing its norm. out may be a or b. */
struct mt_combine {
	int64_t count;
	double alpha, beta, eps;
	const void *a, *b, *norm2;
	void *out;
};

/* Before products in fp8 (kernels/fp8.h). All in f32, each step rounded as written, so that every device has the same bits.
 * AMAX       *amax f32 = the greatest of it and |x(rows,cols)|; a NaN is greater than all
 * FP8_SCALE  scale(cols) f32 = most of `to` / amax / 2^margin, inverse(cols) f32 = 1 / scale; mt_fp8_scale has the edges (rows 1)
 * QUANTIZE   y(rows,cols) = x(rows,cols) * *scale rounded to `to`, y_t(cols,rows + pad) its transpose and `pad` columns of
 *            zeros; either may be NULL. amax not NULL: as AMAX beside it, of x without the scale */
struct mt_quantize {
	int64_t rows, cols, pad;
	enum mt_dtype to; /* MT_E4M3 or MT_E5M2 */
	int margin;
	const void *x; /* of the op's dtype */
	void *y, *y_t; /* codes */
	void *amax, *scale, *inverse;
};

/* Experts. E experts, K choices a row, N places: rows in the order of their experts. Everything that concerns routing is f32,
 * never bf16, or f64.
 *
 * GROUPED* as LINEAR, LINEAR_DGRAD, LINEAR_WGRAD without bias for `groups` weights (groups,N,K) that lie one behind the other:
 * group g has rows offsets[g] .. offsets[g+1] - 1 of x, y, dy and dx. offsets (groups + 1) is host memory, from 0 to
 * linear.rows, and is read while the operation is enqueued. NULL: the rows are spread evenly, one more to the first ones.
 * In fp8 the rows of a group have one inverse scale for all groups, each weight its own: w_inverse(groups). Operands are turned
 * group by group: w in GROUPED_DGRAD (groups,K,N); x and dy in GROUPED_WGRAD one block (K or N, rows) a group, behind each other,
 * whose rows are filled up with zeros to mt_op_group_rows, as the tensor cores sum over 16 codes at a time. */
struct mt_grouped {
	struct mt_linear linear; /* first: what lists weight gradients sees its x and dy */
	int64_t groups;
	const int64_t *offsets;
};
#define MT_FP8_ROWS 16
static inline int64_t mt_op_group_rows(int64_t rows)
{
	return (rows + MT_FP8_ROWS - 1) / MT_FP8_ROWS * MT_FP8_ROWS;
}

enum mt_route_kind { MT_ROUTE_SOFTMAX, MT_ROUTE_SIGMOID };

/* ROUTE       of logits(R,E): scores s = softmax or sigmoid; the K experts with the largest s + bias (bias(E), NULL: 0; equal
 *             ones: the first) by falling s + bias to index(R,K) i32; weights(R,K) = scale * s, divided by the sum of the K
 *             when `normalize`. With `sets` above 1 the experts are that many sets of neighbours, and only those of the
 *             set_choices sets with the largest sum of their best `set_best` are chosen from.
 * ROUTE_SUMS  sums(B,E,2) = for the rows of each of the B sequences and each expert {rows that chose it, sum of q},
 *             q = s / sum of s over all experts. The R rows are rows first_row.. of B sequences of `seq` rows.
 * ROUTE_LOSS  out(2) f64 += {aux_scale * sum over B,E of sums[0] * sums[1] (sums NULL: 0), z_scale * sum over rows of
 *             (log of the sum of exp of logits)^2}
 * ROUTE_BWD   dlogits(R,E) = gradient of the weights, given dweights(R,K), and of both terms of ROUTE_LOSS, rows that chose
 *             taken as constant.
 * Fedus et al. 2021, arXiv:2101.03961; Zoph et al. 2022, arXiv:2202.08906; DeepSeek-AI 2024, arXiv:2412.19437. */
struct mt_route {
	enum mt_route_kind kind;
	bool normalize;
	int64_t rows, experts, choices, sets, set_choices, set_best;
	double scale;
	const void *logits, *bias;
	void *weights, *index;
	int64_t sequences, seq, first_row;
	void *sums, *out;
	double aux_scale, z_scale;
	const void *dweights;
	void *dlogits;
};

/* Rows of experts.
 * DROP         each expert takes `capacity` rows of each sequence of `seq` rows at most: kept(count,K) = index(R,K) of rows
 *              first_row .. first_row + count - 1, or -1 where the expert was full. Rows are taken in order, or, `by_weight`,
 *              by falling weights(R,K) (equal ones: the first row).
 * DISPATCH     places rows by expert, in the order of rows within one: counts(E) i32; choice k of row r stands at
 *              place(R,K) i32 (-1: index is -1), and source(N) i32 = r*K + k of each place. N = R*K; with padding > 0 each
 *              expert has exactly that many places, N = E * padding, and source is -1 where nothing stands.
 * GATHER_ROWS  out(rows,cols) row i = in row index[i] / divide, 0 where index[i] is below 0; of any real type
 * SUM_ROWS     out(rows,cols) row i = sum over k < choices and s < slices of in row index[i*choices + k] + s * slice_rows,
 *              without those whose index is below 0; in this order, in f32 */
struct mt_rows {
	int64_t rows, cols, choices, experts, divide, slices, slice_rows;
	int64_t capacity, seq, first_row, count, padding;
	bool by_weight;
	const void *index, *weights; /* i32, f32 */
	void *kept, *counts, *place, *source;
	const void *in;
	void *out;
};

/* EXPERT_ACT      y(R,F) = activation(x) * weights(R) f32, the activation as of struct mt_activation
 * EXPERT_ACT_BWD  dx = gradient from dy(R,F), may alias x; dweights(R) f32 = sum over the row of dy * activation(x) */
struct mt_expert_act {
	struct mt_activation act;
	const void *weights;
	void *dweights;
};

struct mt_op {
	enum mt_op_kind kind;
	enum mt_dtype dtype;
	union {
		struct mt_linear linear;         /* LINEAR, LINEAR_DGRAD, LINEAR_WGRAD */
		struct mt_attention attention;   /* ATTENTION, ATTENTION_BWD */
		struct mt_norm norm;             /* NORM, NORM_BWD */
		struct mt_activation activation; /* ACTIVATION, ACTIVATION_BWD */
		struct mt_rope rope;
		struct mt_embedding embedding; /* EMBEDDING, EMBEDDING_BWD */
		struct mt_add add;             /* ADD, BIAS_GRAD */
		struct mt_loss loss;           /* LOSS_STATS, LOSS */
		struct mt_move move;           /* CAST, FILL, COPY */
		struct mt_sumsq sumsq;
		struct mt_adamw adamw;
		struct mt_sgd sgd;
		struct mt_combine combine;
		struct mt_quantize quantize; /* AMAX, FP8_SCALE, QUANTIZE */
		struct mt_grouped grouped;   /* GROUPED, GROUPED_DGRAD, GROUPED_WGRAD */
		struct mt_route route;       /* ROUTE, ROUTE_SUMS, ROUTE_LOSS, ROUTE_BWD */
		struct mt_rows rows;         /* DROP, DISPATCH, GATHER_ROWS, SUM_ROWS */
		struct mt_expert_act expert_act;
		struct mt_spread spread; /* SPREAD, SPREAD_BWD */
	};
};

/* What decides an operation's cost: kind, type and shape, no pointers. Two ops with equal keys cost the same.
 * dims by kind, unused ones 0:
 *   LINEAR*  rows, in, out, MT_LINEAR_* bits, fp8
 *   ATTENTION*  batch, seq, heads, kv_heads, head_dim, window (0 when it hides nothing), of a part kv_seq and offset (kv_seq when
 *               all is seen), else 0 and 0, v_dim (0 when head_dim)
 *   NORM*    kind, rows, cols, residual?   ACTIVATION* kind, rows, cols     ROPE batch, seq, heads, rotated
 *   EMBEDDING* rows, cols, seq, count      ADD, BIAS_GRAD rows, cols, b?, bias?   LOSS* rows, cols, parts, grad?
 *   CAST count, src, dst   FILL count, dst  COPY rows, cols   SUMSQ count    ADAMW count, m_dtype, v_dtype
 *   SGD count, momentum?                   COMBINE count, b?
 *   AMAX rows, cols   FP8_SCALE cols   QUANTIZE rows, cols, to, y?, y_t?, amax?
 *   GROUPED* rows, in, out, groups, fp8    ROUTE* rows, experts, choices, kind, sets, 0
 *   DROP rows, choices, experts            DISPATCH rows, choices, experts, padding
 *   GATHER_ROWS rows, cols                 SUM_ROWS rows, cols, choices * slices   EXPERT_ACT* kind, rows, cols
 *   SPREAD*  rows, heads, nope, rotary, value */
#define MT_OP_DIMS 9
enum { MT_LINEAR_BIAS = 1, MT_LINEAR_GELU = 2, MT_LINEAR_DBIAS = 4 }; /* with bias, pre, dbias */
struct mt_op_key {
	int32_t kind;  /* enum mt_op_kind */
	int32_t dtype; /* enum mt_dtype */
	int64_t dims[MT_OP_DIMS];
};

void mt_op_key(const struct mt_op *op, struct mt_op_key *key);
bool mt_op_key_equal(const struct mt_op_key *a, const struct mt_op_key *b);
uint64_t mt_op_key_hash(const struct mt_op_key *key);
/* "linear bf16 256x768x2304+b": fits buf, for tables and the store. */
void mt_op_key_text(const struct mt_op_key *key, char buf[96]);
const char *mt_op_name(enum mt_op_kind kind); /* "linear", "linear_dgrad", ... */

/* The plain operations that a product with GELU or a bias' gradient stands for, in order: the product first. Their number; 1 where
 * it is plain itself. Of a key their keys. */
#define MT_OP_MOST_PARTS 3
int mt_op_parts(const struct mt_op *op, struct mt_op parts[MT_OP_MOST_PARTS]);
int mt_op_key_parts(const struct mt_op_key *key, struct mt_op_key parts[MT_OP_MOST_PARTS]);
static inline bool mt_op_is_fused(const struct mt_op *op)
{
	return op->kind <= MT_OP_LINEAR_WGRAD && (op->linear.pre || op->linear.dbias);
}

/* MT_INPUT with what is wrong when kind, dtype or shape is one no backend can run; pointers are not looked at. */
enum mt_status mt_op_check(const struct mt_op *op);

/* Floating-point operations of the matrix products and attention of a key (others count 0), and the bytes that must at
 * least move (each operand once). */
double mt_op_key_flops(const struct mt_op_key *key);
double mt_op_key_bytes(const struct mt_op_key *key);

#endif
