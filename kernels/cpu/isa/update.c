/* update: SGD with momentum, and sums of two tensors: one pass over memory each. */
#include "kernels/cpu/isa/vector.h"

/* `momentum`, `nesterov` and the type are constants of each loop. */
INLINE void sgd_range(const struct mt_sgd *op, int64_t first, int64_t last, bool with_m, bool nesterov, enum mt_dtype dtype)
{
	const float lr = (float)op->lr, mu = (float)op->momentum, decay = (float)op->decay, scale = (float)op->grad_scale;
	const float *grad = op->grad;
	float *master = op->master, *m = op->m;
	void *param = op->param;
	const bool separate = param && param != op->master;
#define STEP_ONE(i)                                                                                                                \
	float p = master[i], g = grad[i] * scale + decay * p, step = g;                                                            \
	if (with_m) {                                                                                                              \
		float mi = mu * m[i] + g;                                                                                          \
		m[i] = mi;                                                                                                         \
		step = nesterov ? g + mu * mi : mi;                                                                                \
	}                                                                                                                          \
	p -= lr * step;                                                                                                            \
	master[i] = p
	if (separate) {
#pragma omp simd
		for (int64_t i = first; i < last; i++) {
			STEP_ONE(i);
			store(param, i, p, dtype);
		}
	} else {
#pragma omp simd
		for (int64_t i = first; i < last; i++) {
			STEP_ONE(i);
		}
	}
#undef STEP_ONE
}

void ISA(sgd)(const struct mt_sgd *op, enum mt_dtype dtype, int64_t first, int64_t last)
{
	if (!op->m)
		DISPATCH(dtype, sgd_range, op, first, last, false, false);
	else if (op->nesterov)
		DISPATCH(dtype, sgd_range, op, first, last, true, true);
	else
		DISPATCH(dtype, sgd_range, op, first, last, true, false);
}

void ISA(combine)(const struct mt_combine *op, int64_t first, int64_t last)
{
	const float *a = op->a, *b = op->b;
	const float beta = (float)op->beta;
	const float alpha = (float)(op->norm2 ? op->alpha / (sqrt(*(const double *)op->norm2) + op->eps) : op->alpha);
	float *out = op->out;
	if (b) {
#pragma omp simd
		for (int64_t i = first; i < last; i++)
			out[i] = alpha * a[i] + beta * b[i];
	} else {
#pragma omp simd
		for (int64_t i = first; i < last; i++)
			out[i] = alpha * a[i];
	}
}
