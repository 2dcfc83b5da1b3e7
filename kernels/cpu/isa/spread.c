/* spread: keys and values of latent attention from its products, and back (kernels/op.h). Copies but for one sum over heads. */
#include "kernels/cpu/isa/vector.h"

void ISA(spread)(const struct mt_spread *op, enum mt_dtype dtype, int64_t first, int64_t last)
{
	const size_t size = mt_dtype_bytes(dtype);
	const int64_t n = op->nope, r = op->rotary, e = op->value;
	for (int64_t i = first * op->heads; i < last * op->heads; i++) {
		void *key = at(op->k, i * (n + r), dtype);
		const void *from = at(op->kv, i * (n + e), dtype);
		memcpy(key, from, (size_t)n * size);
		memcpy(at(key, n, dtype), at(op->rope, i / op->heads * r, dtype), (size_t)r * size);
		memcpy(at(op->v, i * e, dtype), at(from, n, dtype), (size_t)e * size);
	}
}

/* rope[row,:] = sum over heads of the keys' last `rotary`, 16 at a time in registers. */
INLINE void sum_heads(const struct mt_spread *op, int64_t row, enum mt_dtype dtype)
{
	enum { WIDTH = 16 };
	const int64_t size = op->nope + op->rotary;
	for (int64_t d0 = 0; d0 < op->rotary; d0 += WIDTH) {
		const int64_t count = op->rotary - d0 < WIDTH ? op->rotary - d0 : WIDTH;
		float sum[WIDTH] = {0};
		for (int64_t h = 0; h < op->heads; h++) {
			const void *from = at(op->k, (row * op->heads + h) * size + op->nope + d0, dtype);
#pragma omp simd
			for (int64_t d = 0; d < count; d++)
				sum[d] += load(from, d, dtype);
		}
		void *to = at(op->rope, row * op->rotary + d0, dtype);
#pragma omp simd
		for (int64_t d = 0; d < count; d++)
			store(to, d, sum[d], dtype);
	}
}

INLINE void sum_rows(const struct mt_spread *op, int64_t first, int64_t last, enum mt_dtype dtype)
{
	for (int64_t row = first; row < last; row++)
		sum_heads(op, row, dtype);
}

void ISA(spread_bwd)(const struct mt_spread *op, enum mt_dtype dtype, int64_t first, int64_t last)
{
	const size_t size = mt_dtype_bytes(dtype);
	const int64_t n = op->nope, r = op->rotary, e = op->value;
	for (int64_t i = first * op->heads; i < last * op->heads; i++) {
		void *to = at(op->kv, i * (n + e), dtype);
		memcpy(to, at(op->k, i * (n + r), dtype), (size_t)n * size);
		memcpy(at(to, n, dtype), at(op->v, i * e, dtype), (size_t)e * size);
	}
	DISPATCH(dtype, sum_rows, op, first, last);
}
