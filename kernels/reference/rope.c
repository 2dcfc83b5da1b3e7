/* rope: in place, for each head of D at row b*T + t, with angle = (first_position + t, or positions[row]) * theta^(-2d/D), d < D/2:
 *   x[d]       = x[d] cos - sign x[d + D/2] sin
 *   x[d + D/2] = x[d + D/2] cos + sign x[d] sin
 * sign -1 is the inverse and so, a rotation being orthogonal, the gradient. Su et al. 2021, arXiv:2104.09864, eq. 34. */
#include "kernels/reference/reference.h"

enum mt_status mt_reference_rope(const struct mt_op *op)
{
	const struct mt_rope *p = &op->rope;
	int64_t half = p->head_dim / 2;
	for (int64_t row = 0; row < p->batch * p->seq; row++) {
		double position = p->positions ? ((const int32_t *)p->positions)[row] : (double)(row % p->seq + p->first_position);
		for (int64_t d = 0; d < half; d++) {
			double angle = position * pow(p->theta, -2.0 * (double)d / (double)p->head_dim);
			double cosine = cos(angle), sine = p->sign * sin(angle);
			for (int64_t h = 0; h < p->heads; h++) {
				int64_t i = row * p->stride + h * p->head_dim + d;
				double low = load(op->dtype, p->x, i), high = load(op->dtype, p->x, i + half);
				store(op->dtype, p->x, i, low * cosine - high * sine);
				store(op->dtype, p->x, i + half, high * cosine + low * sine);
			}
		}
	}
	return MT_OK;
}
