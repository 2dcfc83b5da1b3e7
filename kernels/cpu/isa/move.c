/* move: additions, column sums and casts: bandwidth-bound loops. */
#include "kernels/cpu/isa/vector.h"

#define SUM_COLS 256 /* columns summed at a time: their sums stay in the first-level cache */
#define SUM_ROWS 64  /* rows added up before they go to the total, so rounding errors grow with their count / 64 */

INLINE void add_rows(const struct mt_add *op, int64_t first, int64_t last, enum mt_dtype dtype)
{
	const int64_t cols = op->cols;
	for (int64_t row = first; row < last; row++) {
		const void *a = at(op->a, row * cols, dtype), *b = op->b ? at(op->b, row * cols, dtype) : NULL, *bias = op->bias;
		void *out = at(op->out, row * cols, dtype);
		if (b && bias) {
#pragma omp simd
			for (int64_t c = 0; c < cols; c++)
				store(out, c, load(a, c, dtype) + load(b, c, dtype) + load(bias, c, dtype), dtype);
		} else if (b || bias) {
			const void *other = b ? b : bias;
#pragma omp simd
			for (int64_t c = 0; c < cols; c++)
				store(out, c, load(a, c, dtype) + load(other, c, dtype), dtype);
		} else if (out != a) {
			memcpy(out, a, (size_t)cols * mt_dtype_bytes(dtype));
		}
	}
}

void ISA(add)(const struct mt_add *op, enum mt_dtype dtype, int64_t first, int64_t last)
{
	DISPATCH(dtype, add_rows, op, first, last);
}

INLINE void sum_columns(const struct mt_add *op, int64_t first, int64_t last, enum mt_dtype dtype)
{
	float *out = op->out;
	for (int64_t start = first; start < last; start += SUM_COLS) {
		const int64_t count = last - start < SUM_COLS ? last - start : SUM_COLS;
		for (int64_t block = 0; block < op->rows; block += SUM_ROWS) {
			const int64_t end = block + SUM_ROWS < op->rows ? block + SUM_ROWS : op->rows;
			float sum[SUM_COLS] = {0};
			for (int64_t row = block; row < end; row++) {
				const void *a = at(op->a, row * op->cols + start, dtype);
#pragma omp simd
				for (int64_t c = 0; c < count; c++)
					sum[c] += load(a, c, dtype);
			}
#pragma omp simd
			for (int64_t c = 0; c < count; c++)
				out[start + c] += sum[c];
		}
	}
}

void ISA(bias_grad)(const struct mt_add *op, enum mt_dtype dtype, int64_t first, int64_t last)
{
	DISPATCH(dtype, sum_columns, op, first, last);
}

INLINE void cast_range(void *dst, enum mt_dtype dst_dtype, const void *src, enum mt_dtype src_dtype, int64_t first, int64_t last)
{
#pragma omp simd
	for (int64_t i = first; i < last; i++)
		store(dst, i, load(src, i, src_dtype), dst_dtype);
}

/* Between f32, bf16 and f16. */
void ISA(cast)(void *dst, enum mt_dtype dst_dtype, const void *src, enum mt_dtype src_dtype, int64_t first, int64_t last)
{
	if (dst_dtype == src_dtype) {
		const int64_t width = (int64_t)mt_dtype_bytes(dst_dtype);
		memcpy((char *)dst + first * width, (const char *)src + first * width, (size_t)((last - first) * width));
	} else if (src_dtype == MT_F32 && dst_dtype == MT_BF16) {
		cast_range(dst, MT_BF16, src, MT_F32, first, last);
	} else if (src_dtype == MT_F32) {
		cast_range(dst, MT_F16, src, MT_F32, first, last);
	} else if (src_dtype == MT_BF16 && dst_dtype == MT_F32) {
		cast_range(dst, MT_F32, src, MT_BF16, first, last);
	} else if (src_dtype == MT_BF16) {
		cast_range(dst, MT_F16, src, MT_BF16, first, last);
	} else if (dst_dtype == MT_F32) {
		cast_range(dst, MT_F32, src, MT_F16, first, last);
	} else {
		cast_range(dst, MT_BF16, src, MT_F16, first, last);
	}
}
