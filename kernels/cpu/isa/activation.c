/* activation: GELU (tanh form) and SwiGLU, forward and backward.
 * tanh is written through the sigmoid, 0.5 (1 + tanh u) = sigmoid(2u), so one exp serves both. */
#include "kernels/cpu/isa/vector.h"

#define SQRT_2_OVER_PI 0.79788456080286535588f
#define GELU_CUBIC     0.044715f

INLINE float sigmoid(float x)
{
	const float e = exp_nonpositive(-fabsf(x));
	return select_float(x >= 0.0f, 1.0f, e) / (1.0f + e);
}

INLINE void forward_rows(const struct mt_activation *op, int64_t first, int64_t last, enum mt_dtype dtype)
{
	const int64_t cols = op->cols;
	if (op->kind == MT_GELU) {
		const void *x = op->x;
		void *y = op->y;
#pragma omp simd
		for (int64_t i = first * cols; i < last * cols; i++) {
			float v = load(x, i, dtype);
			float u = SQRT_2_OVER_PI * (v + GELU_CUBIC * v * v * v);
			store(y, i, v * sigmoid(2.0f * u), dtype);
		}
		return;
	}
	for (int64_t row = first; row < last; row++) {
		const void *gate = at(op->x, row * 2 * cols, dtype), *up = at(gate, cols, dtype);
		void *y = at(op->y, row * cols, dtype);
#pragma omp simd
		for (int64_t c = 0; c < cols; c++) {
			float g = load(gate, c, dtype);
			store(y, c, g * sigmoid(g) * load(up, c, dtype), dtype);
		}
	}
}

void ISA(activation)(const struct mt_activation *op, enum mt_dtype dtype, int64_t first, int64_t last)
{
	DISPATCH(dtype, forward_rows, op, first, last);
}

INLINE void backward_rows(const struct mt_activation *op, int64_t first, int64_t last, enum mt_dtype dtype)
{
	const int64_t cols = op->cols;
	if (op->kind == MT_GELU) {
		const void *x = op->x, *dy = op->dy;
		void *dx = op->dx;
#pragma omp simd
		for (int64_t i = first * cols; i < last * cols; i++) {
			float v = load(x, i, dtype);
			float u = SQRT_2_OVER_PI * (v + GELU_CUBIC * v * v * v);
			float slope = SQRT_2_OVER_PI * (1.0f + 3.0f * GELU_CUBIC * v * v);
			float s = sigmoid(2.0f * u);
			store(dx, i, load(dy, i, dtype) * (s + 2.0f * v * s * (1.0f - s) * slope), dtype);
		}
		return;
	}
	for (int64_t row = first; row < last; row++) {
		const void *gate = at(op->x, row * 2 * cols, dtype), *up = at(gate, cols, dtype);
		const void *dy = at(op->dy, row * cols, dtype);
		void *dgate = at(op->dx, row * 2 * cols, dtype), *dup = at(dgate, cols, dtype);
#pragma omp simd
		for (int64_t c = 0; c < cols; c++) {
			float g = load(gate, c, dtype), d = load(dy, c, dtype), u = load(up, c, dtype);
			float s = sigmoid(g);
			store(dgate, c, d * u * s * (1.0f + g * (1.0f - s)), dtype);
			store(dup, c, d * g * s, dtype);
		}
	}
}

void ISA(activation_bwd)(const struct mt_activation *op, enum mt_dtype dtype, int64_t first, int64_t last)
{
	DISPATCH(dtype, backward_rows, op, first, last);
}
