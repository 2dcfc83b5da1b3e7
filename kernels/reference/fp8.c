/* fp8: amax      *amax = the greatest of it and |x(count)|; a NaN is greater than all
 *      fp8_scale scale = most / amax / 2^margin, inverse = 1 / scale
 *      quantize  y(R,C) = x(R,C) * scale rounded to e4m3 or e5m2, y_t(C,R + pad) its transpose and zeros
 * in f32, each step rounded as it is written: every device gives the same bits. */
#include "kernels/reference/reference.h"

#include <string.h>

static float greater(float a, float b)
{
	uint32_t x = mt_f32_bits(a), y = mt_f32_bits(b);
	return x > y ? a : b; /* of numbers that are not negative the bits are in their order */
}

static float absolute(const struct mt_op *op, const void *x, int64_t i)
{
	return mt_f32_of_bits(mt_f32_bits((float)load(op->dtype, x, i)) & 0x7fffffffu);
}

enum mt_status mt_reference_amax(const struct mt_op *op)
{
	const struct mt_quantize *q = &op->quantize;
	float most = *(const float *)q->amax;
	for (int64_t i = 0; i < q->rows * q->cols; i++)
		most = greater(absolute(op, q->x, i), most);
	*(float *)q->amax = most;
	return MT_OK;
}

enum mt_status mt_reference_fp8_scale(const struct mt_op *op)
{
	const struct mt_quantize *q = &op->quantize;
	for (int64_t i = 0; q->rows && i < q->cols; i++) {
		float scale = mt_fp8_scale(((const float *)q->amax)[i], q->to, q->margin);
		((float *)q->scale)[i] = scale;
		((float *)q->inverse)[i] = 1 / scale;
	}
	return MT_OK;
}

enum mt_status mt_reference_quantize(const struct mt_op *op)
{
	const struct mt_quantize *q = &op->quantize;
	float scale = *(const float *)q->scale;
	for (int64_t r = 0; r < q->rows; r++)
		for (int64_t c = 0; c < q->cols; c++) {
			float x = (float)load(op->dtype, q->x, r * q->cols + c) * scale;
			uint8_t code = q->to == MT_E4M3 ? mt_e4m3_from_f32(x) : mt_e5m2_from_f32(x);
			if (q->y)
				((uint8_t *)q->y)[r * q->cols + c] = code;
			if (q->y_t)
				((uint8_t *)q->y_t)[c * (q->rows + q->pad) + r] = code;
		}
	for (int64_t c = 0; q->y_t && c < q->cols; c++)
		memset((uint8_t *)q->y_t + c * (q->rows + q->pad) + q->rows, 0, (size_t)q->pad);
	return q->amax ? mt_reference_amax(op) : MT_OK;
}
