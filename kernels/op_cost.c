/* op_cost: floating-point operations and least traffic of an operation, from its key.
 *
 * Bytes count each operand once, written or read; what is accumulated into is read and written. `a` is the size of an
 * element of the op's dtype, `s` that of what op.h calls f32. */
#include "kernels/op_experts.h"

/* The keys before row t + shift, no more than `keys`, summed over t < rows. */
static double pairs_before(double rows, double keys, double shift)
{
	double sum = 0;
	for (int end = 1; end >= 0; end--) { /* the integral of min(max(x, 0), keys) from shift to rows + shift */
		double x = end ? rows + shift : shift, most = x < keys ? x : keys;
		double area = x <= 0 ? 0 : most * most / 2 + keys * (x - most);
		sum += end ? area : -area;
	}
	return sum;
}

static double attention_keys(const struct mt_op_key *key)
{
	return (double)(key->dims[6] ? key->dims[6] : key->dims[1]);
}

/* Pairs of a query and a key of one sequence and head: causal, within the window if there is one. */
static double attention_pairs(const struct mt_op_key *key)
{
	double rows = (double)key->dims[1], window = (double)key->dims[5], offset = (double)key->dims[7];
	double before = window > 0 ? pairs_before(rows, attention_keys(key), offset - window) : 0;
	return pairs_before(rows, attention_keys(key), offset) - before;
}

/* Size of a head's values. */
static double value_size(const struct mt_op_key *key)
{
	return (double)(key->dims[8] ? key->dims[8] : key->dims[4]);
}

double mt_op_key_flops(const struct mt_op_key *key)
{
	const int64_t *d = key->dims;
	switch ((enum mt_op_kind)key->kind) {
	case MT_OP_LINEAR:
	case MT_OP_LINEAR_DGRAD:
	case MT_OP_LINEAR_WGRAD:
	case MT_OP_GROUPED:
	case MT_OP_GROUPED_DGRAD:
	case MT_OP_GROUPED_WGRAD:
		return 2.0 * (double)d[0] * (double)d[1] * (double)d[2];
	case MT_OP_ATTENTION:
		return 2.0 * (double)d[0] * (double)d[2] * attention_pairs(key) * ((double)d[4] + value_size(key));
	case MT_OP_ATTENTION_BWD:
		return 2.0 * (double)d[0] * (double)d[2] * attention_pairs(key) * (3 * (double)d[4] + 2 * value_size(key));
	default:
		return 0;
	}
}

static double plain_linear_bytes(const struct mt_op_key *key, double a, double s)
{
	double rows = (double)key->dims[0], in = (double)key->dims[1], out = (double)key->dims[2];
	bool biased = key->dims[3] & MT_LINEAR_BIAS;
	if (key->dims[4]) /* codes of a byte */
		return key->kind == MT_OP_LINEAR_WGRAD ? rows * (in + out) + 2 * s * in * out
		       : key->kind == MT_OP_LINEAR     ? rows * in + in * out + a * out * (rows + (biased ? 1 : 0))
						       : rows * out + in * out + a * rows * in;
	if (key->kind == MT_OP_LINEAR_WGRAD)
		return a * rows * (in + out) + 2 * s * in * out;
	return a * (rows * (in + out) + in * out + (biased ? out : 0));
}

/* The input of GELU is written or read once, a bias' gradient read and written. */
static double linear_bytes(const struct mt_op_key *key, double a, double s)
{
	double rows = (double)key->dims[0], in = (double)key->dims[1], out = (double)key->dims[2];
	double bytes = plain_linear_bytes(key, a, s);
	if (key->dims[3] & MT_LINEAR_GELU)
		bytes += a * rows * (key->kind == MT_OP_LINEAR ? out : in);
	if (key->dims[3] & MT_LINEAR_DBIAS)
		bytes += 2 * s * (key->kind == MT_OP_LINEAR_DGRAD ? in : out);
	return bytes;
}

/* q, o and k, v once; backward reads q, k, v, o, do and writes dq, dk, dv, and delta is written and read. */
static double attention_bytes(const struct mt_op_key *key, double a, double s)
{
	double batch = (double)key->dims[0], rows = batch * (double)key->dims[1], heads = (double)key->dims[2];
	double sizes = (double)key->dims[4] + value_size(key), q = rows * heads * sizes;
	double kv = batch * attention_keys(key) * (double)key->dims[3] * sizes;
	if (key->kind == MT_OP_ATTENTION)
		return a * (q + kv) + s * rows * heads;
	return a * 2 * (q + kv) + s * 3 * rows * heads;
}

/* Forward x, y, and residual, sum where there is one; backward sum, dy, dx and dresidual. */
static double norm_bytes(const struct mt_op_key *key, double a, double s)
{
	double rows = (double)key->dims[1], cols = (double)key->dims[2], vectors = key->dims[0] == MT_NORM_LAYER ? 2 : 1;
	bool extra = key->dims[3] != 0;
	if (key->kind == MT_OP_NORM)
		return a * rows * cols * (extra ? 4 : 2) + a * cols * vectors + s * rows * vectors;
	return a * rows * cols * (extra ? 4 : 3) + a * cols + s * rows * vectors + 2 * s * cols * vectors;
}

static double activation_bytes(const struct mt_op_key *key, double a)
{
	double y = (double)key->dims[1] * (double)key->dims[2], x = key->dims[0] == MT_SWIGLU ? 2 * y : y;
	return a * (key->kind == MT_OP_ACTIVATION ? x + y : 2 * x + y);
}

double mt_op_key_bytes(const struct mt_op_key *key)
{
	const int64_t *d = key->dims;
	double a = (double)mt_dtype_bytes((enum mt_dtype)key->dtype), s = key->dtype == MT_F64 ? 8 : 4;
	double d0 = (double)d[0], d1 = (double)d[1], d01 = d0 * d1;
	switch ((enum mt_op_kind)key->kind) {
	case MT_OP_LINEAR:
	case MT_OP_LINEAR_DGRAD:
	case MT_OP_LINEAR_WGRAD:
		return linear_bytes(key, a, s);
	case MT_OP_ATTENTION:
	case MT_OP_ATTENTION_BWD:
		return attention_bytes(key, a, s);
	case MT_OP_NORM:
	case MT_OP_NORM_BWD:
		return norm_bytes(key, a, s);
	case MT_OP_ACTIVATION:
	case MT_OP_ACTIVATION_BWD:
		return activation_bytes(key, a);
	case MT_OP_ROPE:
		return 2 * a * d01 * (double)d[2] * (double)d[3];
	case MT_OP_EMBEDDING:
		return 2 * a * d01 + 4 * d0;
	case MT_OP_EMBEDDING_BWD:
		return (a + 2 * s) * d01 + 4 * d0;
	case MT_OP_ADD:
		return a * d01 * (d[2] ? 3 : 2) + (d[3] ? a * d1 : 0);
	case MT_OP_BIAS_GRAD:
		return a * d01 + 2 * s * d1;
	case MT_OP_LOSS_STATS:
		return a * d01 + (3 * s + 4) * d0;
	case MT_OP_LOSS:
		return (d[3] ? 2 * a * d01 : 0) + (3 * s * (double)d[2] + s + 4) * d0;
	case MT_OP_CAST:
		return d0 * (double)(mt_dtype_bytes((enum mt_dtype)d[1]) + mt_dtype_bytes((enum mt_dtype)d[2]));
	case MT_OP_FILL:
		return d0 * (double)mt_dtype_bytes((enum mt_dtype)d[1]);
	case MT_OP_COPY:
		return 2 * a * d01;
	case MT_OP_SUMSQ:
		return s * d0 + 16;
	case MT_OP_ADAMW:
		return (3 * s + a + 2 * (d[1] == MT_BF16 ? 2 : s) + 2 * (d[2] == MT_BF16 ? 2 : s)) * d0;
	case MT_OP_SGD:
		return ((d[1] ? 5 : 3) * s + a) * d0;
	case MT_OP_COMBINE:
		return (d[1] ? 3 : 2) * s * d0;
	case MT_OP_AMAX:
		return a * d01 + 8;
	case MT_OP_FP8_SCALE:
		return 12 * d0;
	case MT_OP_QUANTIZE:
		return d01 * (a + (d[3] ? 1 : 0) + (d[4] ? 1 : 0)) + (d[5] ? 12 : 4);
	case MT_OP_GROUPED ... MT_OP_EXPERT_ACT_BWD:
		return mt_op_experts_bytes(key, a, s);
	case MT_OP_SPREAD:
	case MT_OP_SPREAD_BWD:
		return a * d0 * (double)(d[1] * (2 * d[2] + 2 * d[4] + d[3]) + d[3]);
	case MT_OP_KIND_COUNT:
		break;
	}
	return 0;
}
