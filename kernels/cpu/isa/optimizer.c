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

void ISA(adamw)(const struct mt_adamw *op, enum mt_dtype dtype, int64_t first, int64_t last)
{
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
