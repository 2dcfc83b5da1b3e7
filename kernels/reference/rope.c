/* rope: in place, for each head at row b*T + t, with angle = (first_position + t, or positions[row]) * frequency(d), d < E/2, and
 * the two elements l, h of pair d, (d, d + E/2) or (2d, 2d + 1): x[l] = magnitude (x[l] cos - sign x[h] sin) x[h] = magnitude (x[h]
 * cos + sign x[l] sin) sign -1 is the transpose, and so the gradient. Su et al. 2021, arXiv:2104.09864, eq. 34. */
#include "kernels/reference/reference.h"

enum mt_status mt_reference_rope(const struct mt_op *op)
{
	const struct mt_rope *p = &op->rope;
	int64_t half = mt_rope_rotated(p) / 2;
	double magnitude = mt_rope_magnitude(p);
	for (int64_t row = 0; row < p->batch * p->seq; row++) {
		double position = p->positions ? ((const int32_t *)p->positions)[row] : (double)(row % p->seq + p->first_position);
		for (int64_t d = 0; d < half; d++) {
			double angle = position * mt_rope_frequency(p, d);
			double cosine = magnitude * cos(angle), sine = magnitude * p->sign * sin(angle);
			for (int64_t h = 0; h < p->heads; h++) {
				int64_t i = row * p->stride + h * p->head_dim + (p->interleaved ? 2 * d : d);
				int64_t j = i + (p->interleaved ? 1 : half);
				double low = load(op->dtype, p->x, i), high = load(op->dtype, p->x, j);
				store(op->dtype, p->x, i, low * cosine - high * sine);
				store(op->dtype, p->x, j, high * cosine + low * sine);
			}
		}
	}
	return MT_OK;
}
