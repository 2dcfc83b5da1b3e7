/* move: what does little or no arithmetic.
 *   add        out(R,C) = a(R,C) + b(R,C) + bias(C)      out may be a or b
 *   bias_grad  dbias(C) += sum over rows of a(R,C)
 *   cast       dst(count) = src(count) in another type    fill  dst(count) = value
 *   copy       dst[r*dst_stride + c] = src[r*src_stride + c] for r < R, c < C
 * Bandwidth-bound. */
#include "kernels/reference/reference.h"

enum mt_status mt_reference_add(const struct mt_op *op)
{
	const struct mt_add *a = &op->add;
	for (int64_t i = 0; i < a->rows * a->cols; i++) {
		double sum = load(op->dtype, a->a, i);
		if (a->b)
			sum += load(op->dtype, a->b, i);
		if (a->bias)
			sum += load(op->dtype, a->bias, i % a->cols);
		store(op->dtype, a->out, i, sum);
	}
	return MT_OK;
}

enum mt_status mt_reference_bias_grad(const struct mt_op *op)
{
	const struct mt_add *a = &op->add;
	for (int64_t c = 0; c < a->cols; c++) {
		double sum = 0;
		for (int64_t r = 0; r < a->rows; r++)
			sum += load(op->dtype, a->a, r * a->cols + c);
		accumulate(wide(op), a->out, c, sum);
	}
	return MT_OK;
}

enum mt_status mt_reference_cast(const struct mt_op *op)
{
	const struct mt_move *m = &op->move;
	for (int64_t i = 0; i < m->count; i++)
		store(m->dst_dtype, m->dst, i, load(m->src_dtype, m->src, i));
	return MT_OK;
}

enum mt_status mt_reference_fill(const struct mt_op *op)
{
	const struct mt_move *m = &op->move;
	for (int64_t i = 0; i < m->count; i++)
		store(m->dst_dtype, m->dst, i, m->value);
	return MT_OK;
}

/* Bytes, not values: a NaN keeps its bits. */
enum mt_status mt_reference_copy(const struct mt_op *op)
{
	const struct mt_move *m = &op->move;
	size_t bytes = mt_dtype_bytes(op->dtype);
	for (int64_t r = 0; r < m->rows; r++)
		memcpy((char *)m->dst + (size_t)(r * m->dst_stride) * bytes,
		       (const char *)m->src + (size_t)(r * m->src_stride) * bytes, (size_t)m->cols * bytes);
	return MT_OK;
}
