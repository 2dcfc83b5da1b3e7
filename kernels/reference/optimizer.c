/* optimizer: sumsq  *out += sum of x[i]^2, in order, in double: the norm for clipping
 *            adamw  g = grad * grad_scale,  m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2
 *                   master -= lr (m / (1 - beta1^step) / (sqrt(v / (1 - beta2^step)) + eps) + decay master)
 *                   param = master in dtype; param may be master when they are of one type
 *            sgd, combine: the formulas of op.h
 * grad, master f32, m, v f32 or bf16. adamw moves 7 f32 and a param each: bandwidth-bound.
 * Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2. */
#include "kernels/reference/reference.h"

enum mt_status mt_reference_sumsq(const struct mt_op *op)
{
	double sum = 0;
	for (int64_t i = 0; i < op->sumsq.count; i++) {
		double x = load(wide(op), op->sumsq.x, i);
		sum += x * x;
	}
	accumulate(MT_F64, op->sumsq.out, 0, sum);
	return MT_OK;
}

enum mt_status mt_reference_adamw(const struct mt_op *op)
{
	const struct mt_adamw *a = &op->adamw;
	enum mt_dtype w = wide(op), m_type = a->m_dtype == MT_BF16 ? MT_BF16 : w, v_type = a->v_dtype == MT_BF16 ? MT_BF16 : w;
	double unbias_m = 1 / (1 - pow(a->beta1, (double)a->step)), unbias_v = 1 / (1 - pow(a->beta2, (double)a->step));
	for (int64_t i = 0; i < a->count; i++) {
		double g = load(w, a->grad, i) * a->grad_scale, master = load(w, a->master, i);
		double m = a->beta1 * load(m_type, a->m, i) + (1 - a->beta1) * g;
		double v = a->beta2 * load(v_type, a->v, i) + (1 - a->beta2) * g * g;
		master -= a->lr * (m * unbias_m / (sqrt(v * unbias_v) + a->eps) + a->decay * master);
		store(m_type, a->m, i, m);
		store(v_type, a->v, i, v);
		store(w, a->master, i, master);
		store(op->dtype, a->param, i, load(w, a->master, i));
	}
	return MT_OK;
}

enum mt_status mt_reference_sgd(const struct mt_op *op)
{
	const struct mt_sgd *a = &op->sgd;
	enum mt_dtype w = wide(op);
	for (int64_t i = 0; i < a->count; i++) {
		double master = load(w, a->master, i), g = load(w, a->grad, i) * a->grad_scale + a->decay * master, step = g;
		if (a->m) {
			double m = a->momentum * load(w, a->m, i) + g;
			store(w, a->m, i, m);
			step = a->nesterov ? g + a->momentum * m : m;
		}
		store(w, a->master, i, master - a->lr * step);
		store(op->dtype, a->param, i, load(w, a->master, i));
	}
	return MT_OK;
}

enum mt_status mt_reference_combine(const struct mt_op *op)
{
	const struct mt_combine *c = &op->combine;
	enum mt_dtype w = wide(op);
	double alpha = c->norm2 ? c->alpha / (sqrt(load(MT_F64, c->norm2, 0)) + c->eps) : c->alpha;
	for (int64_t i = 0; i < c->count; i++)
		store(w, c->out, i, alpha * load(w, c->a, i) + (c->b ? c->beta * load(w, c->b, i) : 0));
	return MT_OK;
}
