/* activation:
 *   gelu    y(R,F) = x/2 (1 + tanh(u)),  u = sqrt(2/pi) (x + 0.044715 x^3)
 *           dx = dy (1/2 (1 + tanh(u)) + x/2 (1 - tanh(u)^2) sqrt(2/pi) (1 + 3*0.044715 x^2))
 *   swiglu  y(R,F) = silu(g) * up,  x(R,2F) = [g, up],  silu(g) = g s,  s = 1/(1 + exp(-g))
 *           dg = dy up s (1 + g (1 - s)),  dup = dy silu(g)
 * Hendrycks & Gimpel 2016, arXiv:1606.08415 (tanh form); Shazeer 2020, arXiv:2002.05202. */
#include "kernels/reference/reference.h"

#define GELU_SCALE 0.79788456080286535588 /* sqrt(2/pi) */
#define GELU_CUBE  0.044715

double mt_reference_gelu(double x)
{
	return 0.5 * x * (1 + tanh(GELU_SCALE * (x + GELU_CUBE * x * x * x)));
}

double mt_reference_gelu_slope(double x)
{
	double t = tanh(GELU_SCALE * (x + GELU_CUBE * x * x * x));
	return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * GELU_SCALE * (1 + 3 * GELU_CUBE * x * x);
}

static double sigmoid(double x)
{
	return 1 / (1 + exp(-x));
}

enum mt_status mt_reference_activation(const struct mt_op *op)
{
	const struct mt_activation *a = &op->activation;
	enum mt_dtype t = op->dtype;
	for (int64_t r = 0; r < a->rows; r++)
		for (int64_t c = 0; c < a->cols; c++) {
			int64_t i = r * a->cols + c, gate = 2 * r * a->cols + c;
			if (a->kind == MT_GELU) {
				store(t, a->y, i, mt_reference_gelu(load(t, a->x, i)));
			} else {
				double g = load(t, a->x, gate);
				store(t, a->y, i, g * sigmoid(g) * load(t, a->x, gate + a->cols));
			}
		}
	return MT_OK;
}

/* Each place of x is read before it is written, so dx may be x. */
enum mt_status mt_reference_activation_bwd(const struct mt_op *op)
{
	const struct mt_activation *a = &op->activation;
	enum mt_dtype t = op->dtype;
	for (int64_t r = 0; r < a->rows; r++)
		for (int64_t c = 0; c < a->cols; c++) {
			int64_t i = r * a->cols + c, gate = 2 * r * a->cols + c, up = gate + a->cols;
			double dy = load(t, a->dy, i);
			if (a->kind == MT_GELU) {
				store(t, a->dx, i, dy * mt_reference_gelu_slope(load(t, a->x, i)));
			} else {
				double g = load(t, a->x, gate), u = load(t, a->x, up), s = sigmoid(g);
				store(t, a->dx, gate, dy * u * s * (1 + g * (1 - s)));
				store(t, a->dx, up, dy * g * s);
			}
		}
	return MT_OK;
}
