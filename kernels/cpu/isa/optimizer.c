/* optimizer: AdamW and the sum of squares of the gradient norm: one pass over memory each. */
#include "kernels/cpu/isa/vector.h"

INLINE void update(const struct mt_adamw *op, int64_t first, int64_t last, enum mt_dtype dtype)
{
	const float beta1 = (float)op->beta1, beta2 = (float)op->beta2;
	const float rest1 = (float)(1.0 - op->beta1), rest2 = (float)(1.0 - op->beta2);
	const float unbias1 = (float)(1.0 / (1.0 - pow(op->beta1, (double)op->step)));
	const float unbias2 = (float)(1.0 / (1.0 - pow(op->beta2, (double)op->step)));
	const float lr = (float)op->lr, eps = (float)op->eps, decay = (float)op->decay, grad_scale = (float)op->grad_scale;
	const float *grad = op->grad;
	float *master = op->master, *m = op->m, *v = op->v;
	void *param = op->param;
	const bool separate = param && param != op->master;
#define UPDATE_ONE(i)                                                                                                              \
	float g = grad[i] * grad_scale;                                                                                            \
	float mi = beta1 * m[i] + rest1 * g, vi = beta2 * v[i] + rest2 * g * g;                                                    \
	float p = master[i];                                                                                                       \
	p -= lr * (mi * unbias1 / (sqrtf(vi * unbias2) + eps) + decay * p);                                                        \
	m[i] = mi;                                                                                                                 \
	v[i] = vi;                                                                                                                 \
	master[i] = p
	if (separate) {
#pragma omp simd
		for (int64_t i = first; i < last; i++) {
			UPDATE_ONE(i);
			store(param, i, p, dtype);
		}
	} else {
#pragma omp simd
		for (int64_t i = first; i < last; i++) {
			UPDATE_ONE(i);
		}
	}
#undef UPDATE_ONE
}

#define MOMENTS 4096 /* widened at a time */

INLINE void convert(void *dst, enum mt_dtype dst_dtype, const void *src, enum mt_dtype src_dtype, int64_t count)
{
#pragma omp simd
	for (int64_t i = 0; i < count; i++)
		store(dst, i, load(src, i, src_dtype), dst_dtype);
}

/* Moments in bf16: the same update on copies of them in f32, some at a time, so that there is one loop for every mix of types. */
static void update_narrow(const struct mt_adamw *op, enum mt_dtype dtype, int64_t first, int64_t last)
{
	float m[MOMENTS], v[MOMENTS];
	for (int64_t i = first; i < last; i += MOMENTS) {
		const int64_t count = last - i < MOMENTS ? last - i : MOMENTS;
		struct mt_adamw part = *op;
		part.grad = (const float *)op->grad + i;
		part.master = (float *)op->master + i;
		part.param = op->param ? at(op->param, i, dtype) : NULL;
		part.m = op->m_dtype == MT_BF16 ? m : (float *)op->m + i;
		part.v = op->v_dtype == MT_BF16 ? v : (float *)op->v + i;
		if (op->m_dtype == MT_BF16)
			convert(m, MT_F32, at(op->m, i, MT_BF16), MT_BF16, count);
		if (op->v_dtype == MT_BF16)
			convert(v, MT_F32, at(op->v, i, MT_BF16), MT_BF16, count);
		DISPATCH(dtype, update, &part, 0, count);
		if (op->m_dtype == MT_BF16)
			convert(at(op->m, i, MT_BF16), MT_BF16, m, MT_F32, count);
		if (op->v_dtype == MT_BF16)
			convert(at(op->v, i, MT_BF16), MT_BF16, v, MT_F32, count);
	}
}

void ISA(adamw)(const struct mt_adamw *op, enum mt_dtype dtype, int64_t first, int64_t last)
{
	if (op->m_dtype == MT_BF16 || op->v_dtype == MT_BF16)
		update_narrow(op, dtype, first, last);
	else
		DISPATCH(dtype, update, op, first, last);
}

double ISA(sumsq)(const float *x, int64_t count)
{
	double sum = 0.0;
#pragma omp simd reduction(+ : sum)
	for (int64_t i = 0; i < count; i++)
		sum += (double)x[i] * (double)x[i];
	return sum;
}
