/* loss: vocabulary-parallel cross entropy (kernels/op.h). A row of logits stays in the second-level cache over its passes. */
#include "kernels/cpu/isa/vector.h"

/* Columns of this part that are words. */
INLINE int64_t real_cols(const struct mt_loss *op)
{
	int64_t real = op->vocab - op->first;
	return real < 0 ? 0 : real < op->cols ? real : op->cols;
}

INLINE void stats_rows(const struct mt_loss *op, int64_t first, int64_t last, enum mt_dtype dtype)
{
	const int64_t real = real_cols(op);
	for (int64_t row = first; row < last; row++) {
		const void *logits = at(op->logits, row * op->cols, dtype);
		float *stats = (float *)op->stats + 3 * row;
		float most = -INFINITY, sum = 0.0f;
#pragma omp simd reduction(max : most)
		for (int64_t c = 0; c < real; c++)
			most = load(logits, c, dtype) > most ? load(logits, c, dtype) : most;
#pragma omp simd reduction(+ : sum)
		for (int64_t c = 0; c < real; c++)
			sum += exp_nonpositive(load(logits, c, dtype) - most);
		const int64_t target = ((const int32_t *)op->targets)[row], local = target - op->first;
		stats[0] = most;
		stats[1] = sum;
		stats[2] = target >= 0 && local >= 0 && local < real ? load(logits, local, dtype) : 0.0f;
	}
}

void ISA(loss_stats)(const struct mt_loss *op, enum mt_dtype dtype, int64_t first, int64_t last)
{
	DISPATCH(dtype, stats_rows, op, first, last);
}

INLINE void loss_rows(const struct mt_loss *op, int64_t first, int64_t last, enum mt_dtype dtype)
{
	const int64_t real = real_cols(op);
	const float *all = op->all_stats;
	for (int64_t row = first; row < last; row++) {
		void *logits = at(op->logits, row * op->cols, dtype);
		const int64_t target = ((const int32_t *)op->targets)[row], local = target - op->first;
		float most = -INFINITY, sum = 0.0f, chosen = 0.0f;
		for (int64_t part = 0; part < op->parts; part++) {
			const float part_most = all[3 * (part * op->rows + row)];
			most = part_most > most ? part_most : most;
		}
		for (int64_t part = 0; part < op->parts; part++) {
			const float *stats = all + 3 * (part * op->rows + row);
			sum += stats[1] > 0.0f ? stats[1] * expf(stats[0] - most) : stats[1];
			chosen += stats[2];
		}
		((float *)op->loss)[row] = target < 0 ? 0.0f : logf(sum) + most - chosen;
		if (op->grad_scale == 0.0)
			continue;
		if (target < 0) {
			memset(logits, 0, (size_t)op->cols * mt_dtype_bytes(dtype));
			continue;
		}
		const float own = local >= 0 && local < real ? load(logits, local, dtype) : 0.0f;
		const float grad_scale = (float)op->grad_scale, scale = grad_scale / sum;
		for (int64_t start = 0; start < real; start += CHUNK) {
			const int64_t end = start + CHUNK < real ? start + CHUNK : real;
			prefetch(logits, end, op->cols * (op->rows - row), dtype);
#pragma omp simd
			for (int64_t c = start; c < end; c++)
				store(logits, c, exp_nonpositive(load(logits, c, dtype) - most) * scale, dtype);
		}
		if (local >= 0 && local < real)
			store(logits, local, exp_nonpositive(own - most) * scale - grad_scale, dtype);
		memset(at(logits, real, dtype), 0, (size_t)(op->cols - real) * mt_dtype_bytes(dtype));
	}
}

void ISA(loss)(const struct mt_loss *op, enum mt_dtype dtype, int64_t first, int64_t last)
{
	DISPATCH(dtype, loss_rows, op, first, last);
}
