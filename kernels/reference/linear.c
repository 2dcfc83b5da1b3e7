/* linear: y(R,N) = x(R,K) w(N,K)^T + bias(N),  dx(R,K) = dy(R,N) w(N,K),  dw(N,K) += dy(R,N)^T x(R,K)
 * All row-major, w as (out, in); dw f32. 2*R*N*K FLOPs each. */
#include "kernels/reference/reference.h"

enum mt_status mt_reference_linear(const struct mt_op *op)
{
	const struct mt_linear *l = &op->linear;
	enum mt_dtype t = op->dtype;
	if (l->fp8)
		return mt_reference_linear_fp8(op);
	for (int64_t r = 0; r < l->rows; r++)
		for (int64_t n = 0; n < l->out; n++) {
			double sum = l->bias ? load(t, l->bias, n) : 0;
			for (int64_t k = 0; k < l->in; k++)
				sum += load(t, l->x, r * l->in + k) * load(t, l->w, n * l->in + k);
			store(t, l->y, r * l->out + n, sum);
		}
	return MT_OK;
}

enum mt_status mt_reference_linear_dgrad(const struct mt_op *op)
{
	const struct mt_linear *l = &op->linear;
	enum mt_dtype t = op->dtype;
	if (l->fp8)
		return mt_reference_linear_fp8(op);
	for (int64_t r = 0; r < l->rows; r++)
		for (int64_t k = 0; k < l->in; k++) {
			double sum = 0;
			for (int64_t n = 0; n < l->out; n++)
				sum += load(t, l->dy, r * l->out + n) * load(t, l->w, n * l->in + k);
			store(t, l->dx, r * l->in + k, sum);
		}
	return MT_OK;
}

enum mt_status mt_reference_linear_wgrad(const struct mt_op *op)
{
	const struct mt_linear *l = &op->linear;
	enum mt_dtype t = op->dtype;
	if (l->fp8)
		return mt_reference_linear_fp8(op);
	for (int64_t n = 0; n < l->out; n++)
		for (int64_t k = 0; k < l->in; k++) {
			double sum = 0;
			for (int64_t r = 0; r < l->rows; r++)
				sum += load(t, l->dy, r * l->out + n) * load(t, l->x, r * l->in + k);
			accumulate(wide(op), l->dw, n * l->in + k, sum);
		}
	return MT_OK;
}
