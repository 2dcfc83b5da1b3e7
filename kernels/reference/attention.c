/* attention: causal, grouped-query, in a window and within documents, of all keys or of a part. With a[t,u] = q[t,:] . k[u,:] *
 * scale for first(t) <= u < end(t) (kernels/op.h), for each sequence and query head:
 *   forward   lse[t] = log(sum_u exp a[t,u]),  p[t,u] = exp(a[t,u] - lse[t]),  o[t,:] = sum_u p[t,u] v[u,:]
 *   backward  delta[t] = do[t,:] . o[t,:],  da[t,u] = p[t,u] (do[t,:] . v[u,:] - delta[t])
 *             dq[t,:] = scale sum_u da[t,u] k[u,:]
 *             dk[u,:] = scale sum_t da[t,u] q[t,:],  dv[u,:] = sum_t p[t,u] do[t,:], over all heads of the k/v group
 * q (B,T,H,D), k (B,T,G,D), v (B,T,G,E), o (B,T,H,E) with row strides; lse, delta (B,H,T) f32. Scores are recomputed from lse,
 * never kept. Dao et al. 2022, arXiv:2205.14135, section 3.1 and appendix B; Ainslie et al. 2023, arXiv:2305.13245 (groups). */
#include "kernels/reference/reference.h"

#include <stdlib.h>

/* Index of element (b,t,head,0) in a tensor of queries of that row stride. */
static int64_t at(const struct mt_attention *a, int64_t b, int64_t t, int64_t stride, int64_t head)
{
	return (b * mt_attention_q_rows(a) + t) * stride + head * a->head_dim;
}

/* The same of keys. */
static int64_t at_key(const struct mt_attention *a, int64_t b, int64_t u, int64_t kv_head)
{
	return (b * mt_attention_kv_rows(a) + u) * a->kv_stride + kv_head * a->head_dim;
}

/* The same of v, and of o. */
static int64_t v_at(const struct mt_attention *a, int64_t b, int64_t t, int64_t head)
{
	return (b * mt_attention_kv_rows(a) + t) * mt_attention_v_stride(a) + head * mt_attention_v_dim(a);
}

static int64_t o_at(const struct mt_attention *a, int64_t b, int64_t t, int64_t head)
{
	return (b * mt_attention_q_rows(a) + t) * a->o_stride + head * mt_attention_v_dim(a);
}

static int64_t stat(const struct mt_attention *a, int64_t b, int64_t h, int64_t t)
{
	return (b * a->heads + h) * mt_attention_q_rows(a) + t;
}

static int64_t kv_head(const struct mt_attention *a, int64_t h)
{
	return h / (a->heads / a->kv_heads);
}

/* The first key that row t sees. */
static int64_t first_seen(const struct mt_attention *a, int64_t b, int64_t t)
{
	int64_t beside = t + a->offset, first = a->window > 0 && beside >= a->window ? beside - a->window + 1 : 0;
	int64_t start = a->starts ? ((const int32_t *)a->starts)[b * mt_attention_q_rows(a) + t] : 0;
	return start > first ? start : first;
}

/* The key after the last that row t sees. */
static int64_t end_seen(const struct mt_attention *a, int64_t t)
{
	int64_t keys = mt_attention_keys(a);
	return t + a->offset < keys ? t + a->offset + 1 : keys;
}

static double dot(const struct mt_op *op, const void *x, int64_t x_at, const void *y, int64_t y_at, int64_t size)
{
	double sum = 0;
	for (int64_t d = 0; d < size; d++)
		sum += load(op->dtype, x, x_at + d) * load(op->dtype, y, y_at + d);
	return sum;
}

static double score(const struct mt_op *op, int64_t b, int64_t h, int64_t t, int64_t u)
{
	const struct mt_attention *a = &op->attention;
	return a->scale * dot(op, a->q, at(a, b, t, a->q_stride, h), a->k, at_key(a, b, u, kv_head(a, h)), a->head_dim);
}

/* p[t,u] and da[t,u] of the backward pass. */
static void probability(const struct mt_op *op, int64_t b, int64_t h, int64_t t, int64_t u, double *p, double *da)
{
	const struct mt_attention *a = &op->attention;
	int64_t row = stat(a, b, h, t);
	*p = exp(score(op, b, h, t, u) - load(wide(op), a->lse, row));
	double dp = dot(op, a->do_, o_at(a, b, t, h), a->v, v_at(a, b, u, kv_head(a, h)), mt_attention_v_dim(a));
	*da = *p * (dp - load(wide(op), a->delta, row));
}

static enum mt_status scratch(double **values, int64_t count)
{
	*values = malloc((size_t)count * sizeof **values);
	return *values ? MT_OK : mt_fail(MT_NOMEM, "attention: no memory for %lld scores", (long long)count);
}

static void attend(const struct mt_op *op, double *p, int64_t b, int64_t h, int64_t t)
{
	const struct mt_attention *a = &op->attention;
	const int64_t first = first_seen(a, b, t), end = end_seen(a, t);
	double most = -INFINITY, sum = 0;
	for (int64_t u = first; u < end; u++) {
		p[u] = score(op, b, h, t, u);
		most = fmax(most, p[u]);
	}
	for (int64_t u = first; u < end; u++) {
		p[u] = exp(p[u] - most);
		sum += p[u];
	}
	/* log of the sum, and what o and the o before are of the whole */
	double lse = first < end ? most + log(sum) : -INFINITY, before = a->merge ? load(wide(op), a->lse, stat(a, b, h, t)) : 0;
	double all = a->merge ? fmax(lse, before) + log1p(exp(-fabs(lse - before))) : lse;
	if (a->merge && (isinf(lse) || isinf(before)))
		all = fmax(lse, before);
	double share = first < end ? exp(lse - all) / sum : 0, kept = a->merge && !isinf(before) ? exp(before - all) : 0;
	for (int64_t d = 0; d < mt_attention_v_dim(a); d++) {
		int64_t to = o_at(a, b, t, h) + d;
		double o = 0;
		for (int64_t u = first; u < end; u++)
			o += p[u] * load(op->dtype, a->v, v_at(a, b, u, kv_head(a, h)) + d);
		store(op->dtype, a->o, to, o * share + (kept > 0 ? kept * load(op->dtype, a->o, to) : 0));
	}
	store(wide(op), a->lse, stat(a, b, h, t), all);
}

enum mt_status mt_reference_attention(const struct mt_op *op)
{
	const struct mt_attention *a = &op->attention;
	double *p;
	MT_TRY(scratch(&p, mt_attention_keys(a)));
	for (int64_t b = 0; b < a->batch; b++)
		for (int64_t h = 0; h < a->heads; h++)
			for (int64_t t = 0; t < a->seq; t++)
				attend(op, p, b, h, t);
	free(p);
	return MT_OK;
}

/* Writes a gradient's row, or adds to it. */
static void leave(const struct mt_op *op, void *to, int64_t first, const double *values, int64_t count, bool add)
{
	for (int64_t d = 0; d < count; d++)
		store(op->dtype, to, first + d, values[d] + (add ? load(op->dtype, to, first + d) : 0));
}

static void query_gradient(const struct mt_op *op, double *dq, int64_t b, int64_t h, int64_t t)
{
	const struct mt_attention *a = &op->attention;
	for (int64_t d = 0; d < a->head_dim; d++)
		dq[d] = 0;
	for (int64_t u = first_seen(a, b, t), end = end_seen(a, t); u < end; u++) {
		double p, da;
		probability(op, b, h, t, u, &p, &da);
		for (int64_t d = 0; d < a->head_dim; d++)
			dq[d] += a->scale * da * load(op->dtype, a->k, at_key(a, b, u, kv_head(a, h)) + d);
	}
	leave(op, a->dq, at(a, b, t, a->q_stride, h), dq, a->head_dim, a->add_dq);
}

static void key_value_gradient(const struct mt_op *op, double *dk, double *dv, int64_t b, int64_t g, int64_t u)
{
	const struct mt_attention *a = &op->attention;
	int64_t group = a->heads / a->kv_heads, v_dim = mt_attention_v_dim(a);
	for (int64_t d = 0; d < a->head_dim; d++)
		dk[d] = 0;
	for (int64_t d = 0; d < v_dim; d++)
		dv[d] = 0;
	for (int64_t h = g * group; h < (g + 1) * group; h++)
		for (int64_t t = u > a->offset ? u - a->offset : 0; t < a->seq && first_seen(a, b, t) <= u; t++) {
			double p, da;
			probability(op, b, h, t, u, &p, &da);
			for (int64_t d = 0; d < a->head_dim; d++)
				dk[d] += a->scale * da * load(op->dtype, a->q, at(a, b, t, a->q_stride, h) + d);
			for (int64_t d = 0; d < v_dim; d++)
				dv[d] += p * load(op->dtype, a->do_, o_at(a, b, t, h) + d);
		}
	leave(op, a->dk, at_key(a, b, u, g), dk, a->head_dim, a->add_dkv);
	leave(op, a->dv, v_at(a, b, u, g), dv, v_dim, a->add_dkv);
}

enum mt_status mt_reference_attention_bwd(const struct mt_op *op)
{
	const struct mt_attention *a = &op->attention;
	double *sums;
	MT_TRY(scratch(&sums, a->head_dim + mt_attention_v_dim(a)));
	for (int64_t b = 0; b < a->batch; b++) {
		for (int64_t h = 0; h < a->heads; h++)
			for (int64_t t = 0; t < a->seq; t++) {
				int64_t row = o_at(a, b, t, h);
				store(wide(op), a->delta, stat(a, b, h, t), dot(op, a->do_, row, a->o, row, mt_attention_v_dim(a)));
			}
		for (int64_t h = 0; h < a->heads; h++)
			for (int64_t t = 0; t < a->seq; t++)
				query_gradient(op, sums, b, h, t);
		for (int64_t g = 0; g < a->kv_heads; g++)
			for (int64_t u = 0; u < mt_attention_keys(a); u++)
				key_value_gradient(op, sums, sums + a->head_dim, b, g, u);
	}
	free(sums);
	return MT_OK;
}
