/* experts: the weighted activation, and sums of rows that come back from their experts. */
#include "kernels/cpu/isa/vector.h"

#define SQRT_2_OVER_PI 0.79788456080286535588f
#define GELU_CUBIC     0.044715f
#define SUM_COLS       256 /* columns summed at a time: the sums stay in registers and the first-level cache */

INLINE float sigmoid(float x)
{
	const float e = exp_nonpositive(-fabsf(x));
	return select_float(x >= 0.0f, 1.0f, e) / (1.0f + e);
}

INLINE void weighted_rows(const struct mt_expert_act *op, int64_t first, int64_t last, enum mt_dtype dtype)
{
	const struct mt_activation *a = &op->act;
	const int64_t cols = a->cols;
	for (int64_t row = first; row < last; row++) {
		const float weight = ((const float *)op->weights)[row];
		const void *x = at(a->x, row * (a->kind == MT_SWIGLU ? 2 : 1) * cols, dtype), *up = at(x, cols, dtype);
		void *y = at(a->y, row * cols, dtype);
		if (a->kind == MT_GELU) {
#pragma omp simd
			for (int64_t c = 0; c < cols; c++) {
				float v = load(x, c, dtype);
				float u = SQRT_2_OVER_PI * (v + GELU_CUBIC * v * v * v);
				store(y, c, weight * v * sigmoid(2.0f * u), dtype);
			}
			continue;
		}
#pragma omp simd
		for (int64_t c = 0; c < cols; c++) {
			float g = load(x, c, dtype);
			store(y, c, weight * g * sigmoid(g) * load(up, c, dtype), dtype);
		}
	}
}

void ISA(expert_act)(const struct mt_expert_act *op, enum mt_dtype dtype, int64_t first, int64_t last)
{
	DISPATCH(dtype, weighted_rows, op, first, last);
}

INLINE void weighted_backward_rows(const struct mt_expert_act *op, int64_t first, int64_t last, enum mt_dtype dtype)
{
	const struct mt_activation *a = &op->act;
	const int64_t cols = a->cols;
	for (int64_t row = first; row < last; row++) {
		const float weight = ((const float *)op->weights)[row];
		const int64_t start = row * (a->kind == MT_SWIGLU ? 2 : 1) * cols;
		const void *x = at(a->x, start, dtype), *up = at(x, cols, dtype), *dy = at(a->dy, row * cols, dtype);
		void *dx = at(a->dx, start, dtype), *dup = at(dx, cols, dtype);
		float sum = 0.0f;
		if (a->kind == MT_GELU) {
#pragma omp simd reduction(+ : sum)
			for (int64_t c = 0; c < cols; c++) {
				float v = load(x, c, dtype), d = load(dy, c, dtype);
				float u = SQRT_2_OVER_PI * (v + GELU_CUBIC * v * v * v);
				float slope = SQRT_2_OVER_PI * (1.0f + 3.0f * GELU_CUBIC * v * v);
				float s = sigmoid(2.0f * u);
				sum += d * v * s;
				store(dx, c, weight * d * (s + 2.0f * v * s * (1.0f - s) * slope), dtype);
			}
		} else {
#pragma omp simd reduction(+ : sum)
			for (int64_t c = 0; c < cols; c++) {
				float g = load(x, c, dtype), u = load(up, c, dtype), d = load(dy, c, dtype);
				float s = sigmoid(g);
				sum += d * g * s * u;
				store(dx, c, weight * d * u * s * (1.0f + g * (1.0f - s)), dtype);
				store(dup, c, weight * d * g * s, dtype);
			}
		}
		((float *)op->dweights)[row] = sum;
	}
}

void ISA(expert_act_bwd)(const struct mt_expert_act *op, enum mt_dtype dtype, int64_t first, int64_t last)
{
	DISPATCH(dtype, weighted_backward_rows, op, first, last);
}

INLINE void sum_range(const struct mt_rows *op, int64_t first, int64_t last, enum mt_dtype dtype)
{
	const int32_t *index = op->index;
	float sums[SUM_COLS];
	for (int64_t row = first; row < last; row++) {
		for (int64_t col = 0; col < op->cols; col += SUM_COLS) {
			const int64_t cols = op->cols - col < SUM_COLS ? op->cols - col : SUM_COLS;
			memset(sums, 0, (size_t)cols * sizeof *sums);
			for (int64_t k = 0; k < op->choices; k++) {
				const int64_t from = index[row * op->choices + k];
				for (int64_t s = 0; s < op->slices && from >= 0; s++) {
					const void *in = at(op->in, (from + s * op->slice_rows) * op->cols + col, dtype);
#pragma omp simd
					for (int64_t c = 0; c < cols; c++)
						sums[c] += load(in, c, dtype);
				}
			}
			void *out = at(op->out, row * op->cols + col, dtype);
#pragma omp simd
			for (int64_t c = 0; c < cols; c++)
				store(out, c, sums[c], dtype);
		}
	}
}

void ISA(sum_rows)(const struct mt_rows *op, enum mt_dtype dtype, int64_t first, int64_t last)
{
	DISPATCH(dtype, sum_range, op, first, last);
}
