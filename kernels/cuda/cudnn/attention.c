/* attention: as the graphs that cuDNN's fused engines recognise. Tensors are (B,H,T,D) by their strides; K^T and V^T are k and v
 * with two of them exchanged. Between the operations everything is f32, but what a product takes is bf16.
 *
 *   forward    s = q k^T scale, hidden where u > t or u + window <= t;  m = max s, e = exp(s - m), l = sum e
 *              lse = m + log l;  o = (e / l) v
 *   backward   delta = sum(do o);  p = exp(q k^T scale - lse), hidden likewise;  dv = p^T do
 *              ds = (do v^T - delta) p scale;  dk = ds^T q;  dq = ds k;  dk and dv summed over the heads of a group
 *
 * The order of operations is the one the engines expect: subtracting lse before hiding, and a product with one after delta (where
 * dropout's factor would stand). dq is the product itself, not a sum in memory that many blocks add to: that variant has no fixed
 * order. */
#include "kernels/cuda/cudnn/attention.h"

#define F32  CUDNN_DATA_FLOAT
#define BF16 CUDNN_DATA_BFLOAT16

/* A slice (B,T,heads,D) with a row stride as (B,heads,T,D). */
static struct extent rows_of(const struct mt_attention *a, int64_t heads, int64_t stride)
{
	return (struct extent){{a->batch, heads, a->seq, a->head_dim}, {a->seq * stride, a->head_dim, stride, 1}};
}

static struct extent transposed(struct extent e)
{
	const int64_t dim = e.dims[2], stride = e.strides[2];
	e.dims[2] = e.dims[3], e.strides[2] = e.strides[3];
	e.dims[3] = dim, e.strides[3] = stride;
	return e;
}

static struct extent scores_of(const struct mt_attention *a)
{
	return extent_of(a->batch, a->heads, a->seq, a->seq);
}

static struct extent sums_of(const struct mt_attention *a)
{
	return extent_of(a->batch, a->heads, a->seq, 1);
}

/* `mode` of x and b, between operations, of the shape of scores. */
static descriptor scores(struct graph *g, const struct mt_attention *a, cudnnPointwiseMode_t mode, descriptor x, descriptor b)
{
	descriptor y = graph_virtual(g, F32, scores_of(a));
	graph_pointwise(g, mode, F32, x, b, y);
	return y;
}

/* q k^T scale. */
static descriptor scaled_scores(struct graph *g, const struct mt_attention *a, descriptor q, descriptor k_t, descriptor scale)
{
	descriptor products = graph_virtual(g, F32, scores_of(a));
	graph_matmul(g, q, k_t, products);
	return scores(g, a, CUDNN_POINTWISE_MUL, products, scale);
}

static descriptor hide_where(struct graph *g, const struct mt_attention *a, descriptor x, descriptor hidden,
			     cudnnPointwiseMode_t mode, descriptor left, descriptor right)
{
	descriptor seen = graph_virtual(g, CUDNN_DATA_BOOLEAN, scores_of(a)), y = graph_virtual(g, F32, scores_of(a));
	graph_pointwise(g, mode, CUDNN_DATA_BOOLEAN, left, right, seen);
	graph_select(g, x, hidden, seen, y);
	return y;
}

/* x where it is seen: row >= column, and column + window > row. */
static descriptor masked(struct graph *g, const struct mt_attention *a, descriptor x)
{
	descriptor hidden = graph_value(g, UID_HIDDEN, F32);
	descriptor row = graph_virtual(g, CUDNN_DATA_INT32, scores_of(a)),
		   column = graph_virtual(g, CUDNN_DATA_INT32, scores_of(a));
	graph_index(g, 2, x, row);
	graph_index(g, 3, x, column);
	descriptor y = hide_where(g, a, x, hidden, CUDNN_POINTWISE_CMP_GE, row, column);
	if (a->window <= 0 || a->window >= a->seq)
		return y;
	descriptor row2 = graph_virtual(g, CUDNN_DATA_INT32, scores_of(a)),
		   column2 = graph_virtual(g, CUDNN_DATA_INT32, scores_of(a));
	descriptor reach = graph_virtual(g, CUDNN_DATA_INT32, scores_of(a));
	graph_index(g, 2, y, row2);
	graph_index(g, 3, y, column2);
	graph_pointwise(g, CUDNN_POINTWISE_ADD, CUDNN_DATA_INT32, column2, graph_value(g, UID_WINDOW, CUDNN_DATA_INT32), reach);
	return hide_where(g, a, y, hidden, CUDNN_POINTWISE_CMP_GT, reach, row2);
}

void attention_graph(struct graph *g, const struct mt_attention *a)
{
	descriptor q = graph_tensor(g, UID_Q, BF16, rows_of(a, a->heads, a->q_stride));
	descriptor k_t = graph_tensor(g, UID_K, BF16, transposed(rows_of(a, a->kv_heads, a->kv_stride)));
	descriptor v = graph_tensor(g, UID_V, BF16, rows_of(a, a->kv_heads, a->kv_stride));
	descriptor o = graph_tensor(g, UID_O, BF16, rows_of(a, a->heads, a->o_stride));
	descriptor lse = graph_tensor(g, UID_LSE, F32, sums_of(a));
	descriptor most = graph_virtual(g, F32, sums_of(a)), total = graph_virtual(g, F32, sums_of(a));
	descriptor log_total = graph_virtual(g, F32, sums_of(a)), weights = graph_virtual(g, BF16, scores_of(a));

	descriptor s = masked(g, a, scaled_scores(g, a, q, k_t, graph_value(g, UID_SCALE, F32)));
	graph_reduce(g, CUDNN_REDUCE_TENSOR_MAX, s, most);
	descriptor e = scores(g, a, CUDNN_POINTWISE_EXP, scores(g, a, CUDNN_POINTWISE_SUB, s, most), NULL);
	graph_reduce(g, CUDNN_REDUCE_TENSOR_ADD, e, total);
	graph_pointwise(g, CUDNN_POINTWISE_LOG, F32, total, NULL, log_total);
	graph_pointwise(g, CUDNN_POINTWISE_ADD, F32, most, log_total, lse);
	graph_pointwise(g, CUDNN_POINTWISE_DIV, F32, e, total, weights);
	graph_matmul(g, weights, v, o);
}

/* delta = sum over D of do o. */
static descriptor row_sums(struct graph *g, const struct mt_attention *a, descriptor d_o, descriptor o)
{
	descriptor product = graph_virtual(g, F32, extent_of(a->batch, a->heads, a->seq, a->head_dim));
	descriptor sum = graph_virtual(g, F32, sums_of(a)), delta = graph_tensor(g, UID_DELTA, F32, sums_of(a));
	graph_pointwise(g, CUDNN_POINTWISE_MUL, F32, d_o, o, product);
	graph_reduce(g, CUDNN_REDUCE_TENSOR_ADD, product, sum);
	graph_pointwise(g, CUDNN_POINTWISE_MUL, F32, sum, graph_value(g, UID_ONE, F32), delta);
	return delta;
}

/* y(B,G,T,D) = x^T rows, x (B,H,T,T), summed over the heads of each group. */
static void key_gradient(struct graph *g, const struct mt_attention *a, descriptor x, descriptor rows, descriptor y)
{
	descriptor turned = graph_virtual(g, BF16, transposed(scores_of(a)));
	graph_reshape(g, x, turned);
	if (a->heads == a->kv_heads) {
		graph_matmul(g, turned, rows, y);
		return;
	}
	descriptor heads = graph_virtual(g, BF16, extent_of(a->batch, a->heads, a->seq, a->head_dim));
	graph_matmul(g, turned, rows, heads);
	graph_reduce(g, CUDNN_REDUCE_TENSOR_ADD, heads, y);
}

void attention_bwd_graph(struct graph *g, const struct mt_attention *a)
{
	const struct extent keys = rows_of(a, a->kv_heads, a->kv_stride), queries = rows_of(a, a->heads, a->q_stride);
	descriptor q = graph_tensor(g, UID_Q, BF16, queries), k_t = graph_tensor(g, UID_K, BF16, transposed(keys));
	descriptor v_t = graph_tensor(g, UID_V, BF16, transposed(keys));
	descriptor o = graph_tensor(g, UID_O, BF16, rows_of(a, a->heads, a->o_stride));
	descriptor d_o = graph_tensor(g, UID_DO, BF16, rows_of(a, a->heads, a->o_stride));
	descriptor lse = graph_tensor(g, UID_LSE, F32, sums_of(a));
	descriptor delta = row_sums(g, a, d_o, o), scale = graph_value(g, UID_SCALE, F32);

	descriptor shifted = scores(g, a, CUDNN_POINTWISE_SUB, scaled_scores(g, a, q, k_t, scale), lse);
	descriptor p = scores(g, a, CUDNN_POINTWISE_EXP, masked(g, a, shifted), NULL);
	key_gradient(g, a, p, d_o, graph_tensor(g, UID_DV, BF16, keys));

	descriptor dp = graph_virtual(g, F32, scores_of(a));
	graph_matmul(g, d_o, v_t, dp);
	descriptor ds = scores(g, a, CUDNN_POINTWISE_MUL, scores(g, a, CUDNN_POINTWISE_SUB, dp, delta), p);
	ds = scores(g, a, CUDNN_POINTWISE_MUL, ds, scale);
	key_gradient(g, a, ds, q, graph_tensor(g, UID_DK, BF16, keys));

	descriptor k = graph_virtual(g, BF16, keys);
	graph_reshape(g, k_t, k);
	graph_matmul(g, ds, k, graph_tensor(g, UID_DQ, BF16, queries));
}
