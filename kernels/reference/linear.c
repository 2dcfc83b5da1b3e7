/* linear: y(R,N) = x(R,K) w(N,K)^T + bias(N),  dx(R,K) = dy(R,N) w(N,K),  dw(N,K) += dy(R,N)^T x(R,K)
 * All row-major, w as (out, in); dw f32. 2*R*N*K FLOPs each. With GELU: pre = sums, y = gelu(pre); dx = sums gelu'(pre); and bias'
 * gradients dbias(K) += sum over r of dx(r,:), dbias(N) += sum over r of dy(r,:), each of what is not yet rounded. */
#include "kernels/reference/reference.h"

void mt_reference_store_y(const struct mt_op *op, int64_t i, double sum)
{
	const struct mt_linear *l = &op->linear;
	if (l->pre)
		store(op->dtype, l->pre, i, sum);
	store(op->dtype, l->y, i, l->pre ? mt_reference_gelu(sum) : sum);
}

void mt_reference_store_dx(const struct mt_op *op, int64_t row, int64_t col, double sum)
{
	const struct mt_linear *l = &op->linear;
	int64_t i = row * l->in + col;
	if (l->pre)
		sum *= mt_reference_gelu_slope(load(op->dtype, l->pre, i));
	store(op->dtype, l->dx, i, sum);
	if (l->dbias)
		accumulate(wide(op), l->dbias, col, sum);
}

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
			mt_reference_store_y(op, r * l->out + n, sum);
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
			mt_reference_store_dx(op, r, k, sum);
		}
	return MT_OK;
}

enum mt_status mt_reference_linear_wgrad(const struct mt_op *op)
{
	const struct mt_linear *l = &op->linear;
	enum mt_dtype t = op->dtype;
	if (l->fp8)
		return mt_reference_linear_fp8(op);
	for (int64_t r = 0; l->dbias && r < l->rows; r++)
		for (int64_t n = 0; n < l->out; n++)
			accumulate(wide(op), l->dbias, n, load(t, l->dy, r * l->out + n));
	for (int64_t n = 0; n < l->out; n++)
		for (int64_t k = 0; k < l->in; k++) {
			double sum = 0;
			for (int64_t r = 0; r < l->rows; r++)
				sum += load(t, l->dy, r * l->out + n) * load(t, l->x, r * l->in + k);
			accumulate(wide(op), l->dw, n * l->in + k, sum);
		}
	return MT_OK;
}
