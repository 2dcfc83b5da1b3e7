/* fp8: the greatest absolute value, and rounding to fp8 with a scale. Integer arithmetic on the bits (kernels/fp8.h), so that
 * loops become vector code on processors that know no type of 8 bits; the bits are those of every other device. */
#include "kernels/cpu/isa/vector.h"
#include "kernels/fp8.h"

#define TILE 64

INLINE uint32_t greatest(const void *x, int64_t count, enum mt_dtype dtype)
{
	uint32_t most = 0;
#pragma omp simd reduction(max : most)
	for (int64_t i = 0; i < count; i++) {
		uint32_t bits = mt_f32_bits(load(x, i, dtype)) & 0x7fffffffu;
		most = bits > most ? bits : most;
	}
	return most;
}

#define GREATEST(x, count, dtype) most = greatest(x, count, dtype)

/* The bits of the greatest |x| of `count` elements from `first`; those of a NaN are greater than all others'. */
uint32_t ISA(amax)(const void *x, enum mt_dtype dtype, int64_t first, int64_t count)
{
	uint32_t most = 0;
	DISPATCH(dtype, GREATEST, at(x, first, dtype), count);
	return most;
}

/* Rows of at most TILE elements to codes, `stride` apart in x. */
INLINE void round_row(const void *x, int64_t count, float scale, bool e4m3, uint8_t *codes, enum mt_dtype dtype)
{
	if (e4m3) {
#pragma omp simd
		for (int64_t i = 0; i < count; i++)
			codes[i] = mt_e4m3_from_f32(load(x, i, dtype) * scale);
	} else {
#pragma omp simd
		for (int64_t i = 0; i < count; i++)
			codes[i] = mt_e5m2_from_f32(load(x, i, dtype) * scale);
	}
}

INLINE void round_tiles(const struct mt_quantize *op, int64_t first, int64_t last, enum mt_dtype dtype)
{
	const float scale = *(const float *)op->scale;
	uint8_t *y = op->y, *y_t = op->y_t;
	uint8_t tile[TILE][TILE];
	for (int64_t c = 0; c < op->cols; c += TILE) {
		const int64_t cols = op->cols - c < TILE ? op->cols - c : TILE;
		for (int64_t r = first; r < last; r++) {
			round_row(at(op->x, r * op->cols + c, dtype), cols, scale, op->to == MT_E4M3, tile[r - first], dtype);
			if (y)
				memcpy(y + r * op->cols + c, tile[r - first], (size_t)cols);
		}
		for (int64_t k = 0; y_t && k < cols; k++) {
			uint8_t *row = y_t + (c + k) * (op->rows + op->pad);
			for (int64_t r = first; r < last; r++)
				row[r] = tile[r - first][k];
			if (last == op->rows)
				memset(row + last, 0, (size_t)op->pad);
		}
	}
}

/* Rows [first, last). */
void ISA(quantize)(const struct mt_quantize *op, enum mt_dtype dtype, int64_t first, int64_t last)
{
	for (int64_t r = first; r < last; r += TILE)
		DISPATCH(dtype, round_tiles, op, r, r + TILE < last ? r + TILE : last);
}

/* f32 from fp8. */
void ISA(widen_fp8)(float *dst, const uint8_t *src, enum mt_dtype dtype, int64_t count)
{
	if (dtype == MT_E4M3) {
#pragma omp simd
		for (int64_t i = 0; i < count; i++)
			dst[i] = mt_e4m3_to_f32(src[i]);
	} else {
#pragma omp simd
		for (int64_t i = 0; i < count; i++)
			dst[i] = mt_e5m2_to_f32(src[i]);
	}
}
