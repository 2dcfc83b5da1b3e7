/* norm: layer norm and RMS norm over rows, with the residual addition fused in front (kernels/op.h).
 * A row of f32 scratch holds s between the passes, so memory is read and written once. */
#include "kernels/cpu/isa/vector.h"

/* s[c] = x + x_bias + residual of one row, rounded as stored; stored to sum when there is one. */
INLINE void gather_row(const struct mt_norm *op, int64_t row, float *s, enum mt_dtype dtype)
{
	const int64_t cols = op->cols;
	const void *x = at(op->x, mt_norm_x_at(op, row), dtype), *bias = op->x_bias;
	const void *residual = op->residual ? at(op->residual, row * cols, dtype) : NULL;
	void *sum = op->sum ? at(op->sum, mt_norm_x_at(op, row), dtype) : NULL;
	if (bias && residual) {
#pragma omp simd
		for (int64_t c = 0; c < cols; c++)
			s[c] = as_stored(load(x, c, dtype) + load(bias, c, dtype) + load(residual, c, dtype), dtype);
	} else if (bias || residual) {
		const void *other = bias ? bias : residual;
#pragma omp simd
		for (int64_t c = 0; c < cols; c++)
			s[c] = as_stored(load(x, c, dtype) + load(other, c, dtype), dtype);
	} else {
#pragma omp simd
		for (int64_t c = 0; c < cols; c++)
			s[c] = load(x, c, dtype);
	}
	if (sum && sum != x) {
#pragma omp simd
		for (int64_t c = 0; c < cols; c++)
			store(sum, c, s[c], dtype);
	} else if (sum && (bias || residual)) {
#pragma omp simd
		for (int64_t c = 0; c < cols; c++)
			store(sum, c, s[c], dtype);
	}
}

INLINE void forward_rows(const struct mt_norm *op, int64_t first, int64_t last, float *s, enum mt_dtype dtype)
{
	const int64_t cols = op->cols;
	const void *gain = op->gain, *bias = op->bias;
	for (int64_t row = first; row < last; row++) {
		float mean = 0.0f, square = 0.0f;
		gather_row(op, row, s, dtype);
		if (op->kind == MT_NORM_LAYER) {
#pragma omp simd reduction(+ : mean)
			for (int64_t c = 0; c < cols; c++)
				mean += s[c];
			mean /= (float)cols;
			((float *)op->mean)[row] = mean;
		}
#pragma omp simd reduction(+ : square)
		for (int64_t c = 0; c < cols; c++)
			square += (s[c] - mean) * (s[c] - mean);
		float rstd = 1.0f / sqrtf(square / (float)cols + (float)op->eps);
		((float *)op->rstd)[row] = rstd;
		void *y = at(op->y, mt_norm_y_at(op, row), dtype);
		if (op->kind == MT_NORM_LAYER && bias) {
#pragma omp simd
			for (int64_t c = 0; c < cols; c++)
				store(y, c, (s[c] - mean) * rstd * load(gain, c, dtype) + load(bias, c, dtype), dtype);
		} else {
#pragma omp simd
			for (int64_t c = 0; c < cols; c++)
				store(y, c, (s[c] - mean) * rstd * load(gain, c, dtype), dtype);
		}
	}
}

void ISA(norm)(const struct mt_norm *op, enum mt_dtype dtype, int64_t first, int64_t last, float *row_scratch)
{
	DISPATCH(dtype, forward_rows, op, first, last, row_scratch);
}

/* With xhat = (s - mean) * rstd and g = dy * gain:
 *   dx = rstd * (g - mean(g) - xhat * mean(g * xhat)) + dresidual      (rms: no mean(g))
 *   dgain += dy * xhat,  dbias += dy */
INLINE void backward_row(const struct mt_norm *op, int64_t row, float *sums, float *scratch, enum mt_dtype dtype)
{
	const int64_t cols = op->cols;
	const bool layer = op->kind == MT_NORM_LAYER;
	const void *dy = at(op->dy, mt_norm_y_at(op, row), dtype), *s = at(op->sum, mt_norm_x_at(op, row), dtype), *gain = op->gain;
	const void *residual = op->dresidual ? at(op->dresidual, row * cols, dtype) : NULL;
	void *dx = at(op->dx, mt_norm_dx_at(op, row), dtype);
	float *xhat = scratch, *g = scratch + cols, *dgain = sums, *dbias = sums + cols;
	const float mean = layer ? ((const float *)op->mean)[row] : 0.0f, rstd = ((const float *)op->rstd)[row];
	float g_mean = 0.0f, gx_mean = 0.0f;
#pragma omp simd reduction(+ : g_mean, gx_mean)
	for (int64_t c = 0; c < cols; c++) {
		float d = load(dy, c, dtype), n = (load(s, c, dtype) - mean) * rstd;
		float weighted = d * load(gain, c, dtype);
		xhat[c] = n;
		g[c] = weighted;
		g_mean += weighted;
		gx_mean += weighted * n;
		dgain[c] += d * n;
		dbias[c] += d;
	}
	g_mean = layer ? g_mean / (float)cols : 0.0f;
	gx_mean /= (float)cols;
	if (residual) {
#pragma omp simd
		for (int64_t c = 0; c < cols; c++)
			store(dx, c, rstd * (g[c] - g_mean - xhat[c] * gx_mean) + load(residual, c, dtype), dtype);
	} else {
#pragma omp simd
		for (int64_t c = 0; c < cols; c++)
			store(dx, c, rstd * (g[c] - g_mean - xhat[c] * gx_mean), dtype);
	}
}

INLINE void backward_rows(const struct mt_norm *op, int64_t first, int64_t last, float *sums, float *scratch, enum mt_dtype dtype)
{
	memset(sums, 0, 2 * (size_t)op->cols * sizeof *sums);
	for (int64_t row = first; row < last; row++)
		backward_row(op, row, sums, scratch, dtype);
}

void ISA(norm_bwd)(const struct mt_norm *op, enum mt_dtype dtype, int64_t first, int64_t last, float *sums, float *row_scratch)
{
	DISPATCH(dtype, backward_rows, op, first, last, sums, row_scratch);
}
