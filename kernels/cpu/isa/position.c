/* position: token and position embeddings, and rotary positions. */
#include "kernels/cpu/isa/vector.h"

INLINE void rotate_rows(const struct mt_rope *op, const float *table, int64_t first, int64_t last, enum mt_dtype dtype)
{
	const int64_t half = mt_rope_rotated(op) / 2;
	const float sign = op->sign < 0 ? -1.0f : 1.0f;
	for (int64_t row = first; row < last; row++) {
		const int64_t position = op->positions ? ((const int32_t *)op->positions)[row] : op->first_position + row % op->seq;
		const float *cosine = table + position * 2 * half, *sine = cosine + half;
		for (int64_t head = 0; head < op->heads; head++) {
			void *lo = at(op->x, row * op->stride + head * op->head_dim, dtype), *hi = at(lo, half, dtype);
			if (op->interleaved) {
#pragma omp simd
				for (int64_t d = 0; d < half; d++) {
					float a = load(lo, 2 * d, dtype), b = load(lo, 2 * d + 1, dtype), s = sign * sine[d];
					store(lo, 2 * d, a * cosine[d] - b * s, dtype);
					store(lo, 2 * d + 1, b * cosine[d] + a * s, dtype);
				}
				continue;
			}
#pragma omp simd
			for (int64_t d = 0; d < half; d++) {
				float a = load(lo, d, dtype), b = load(hi, d, dtype), s = sign * sine[d];
				store(lo, d, a * cosine[d] - b * s, dtype);
				store(hi, d, b * cosine[d] + a * s, dtype);
			}
		}
	}
}

void ISA(rope)(const struct mt_rope *op, enum mt_dtype dtype, const float *table, int64_t first, int64_t last)
{
	DISPATCH(dtype, rotate_rows, op, table, first, last);
}

INLINE int64_t position_of(const struct mt_embedding *op, int64_t row)
{
	return op->positions ? ((const int32_t *)op->positions)[row] : (op->first_row + row) % op->seq;
}

INLINE void embed_rows(const struct mt_embedding *op, int64_t first, int64_t last, enum mt_dtype dtype)
{
	const int64_t cols = op->cols;
	for (int64_t row = first; row < last; row++) {
		const int64_t word = ((const int32_t *)op->tokens)[row] - op->first;
		const void *entry = word >= 0 && word < op->count ? at(op->table, word * cols, dtype) : NULL;
		const void *position = op->position ? at(op->position, position_of(op, row) * cols, dtype) : NULL;
		void *y = at(op->y, row * cols, dtype);
		if (entry && position) {
#pragma omp simd
			for (int64_t c = 0; c < cols; c++)
				store(y, c, load(entry, c, dtype) + load(position, c, dtype), dtype);
		} else if (entry || position) {
			memcpy(y, entry ? entry : position, (size_t)cols * mt_dtype_bytes(dtype));
		} else {
			memset(y, 0, (size_t)cols * mt_dtype_bytes(dtype));
		}
	}
}

void ISA(embedding)(const struct mt_embedding *op, enum mt_dtype dtype, int64_t first, int64_t last)
{
	DISPATCH(dtype, embed_rows, op, first, last);
}

/* A thread owns columns and walks all rows in order, so two rows of one word never race and the order is fixed. */
INLINE void embed_back(const struct mt_embedding *op, int64_t first, int64_t last, enum mt_dtype dtype)
{
	for (int64_t row = 0; row < op->rows; row++) {
		const int64_t word = ((const int32_t *)op->tokens)[row] - op->first;
		const void *dy = at(op->dy, row * op->cols, dtype);
		if (op->dtable && word >= 0 && word < op->count) {
			float *dtable = (float *)op->dtable + word * op->cols;
#pragma omp simd
			for (int64_t c = first; c < last; c++)
				dtable[c] += load(dy, c, dtype);
		}
		if (op->dposition) {
			float *dposition = (float *)op->dposition + position_of(op, row) * op->cols;
#pragma omp simd
			for (int64_t c = first; c < last; c++)
				dposition[c] += load(dy, c, dtype);
		}
	}
}

void ISA(embedding_bwd)(const struct mt_embedding *op, enum mt_dtype dtype, int64_t first, int64_t last)
{
	DISPATCH(dtype, embed_back, op, first, last);
}
