/* loss: cross entropy over words split in parts; part p holds columns [first_p, first_p + Vl) of the vocabulary.
 *   stats[r] = {m_p, z_p, l_p}:  m_p = max of the part's logits, z_p = sum exp(logit - m_p), l_p = target's logit or 0
 *   m = max m_p,  z = sum z_p exp(m_p - m),  loss[r] = m + log z - sum l_p
 *   dlogits[r,c] = (exp(logit - m) / z - [word c is the target]) * grad_scale
 * logits (R,Vl), stats (R,3), all_stats (parts,R,3), loss (R). Columns past the vocabulary are padding: in no sum, and
 * their gradient is 0. Shoeybi et al. 2019, arXiv:1909.08053, section 3. */
#include "kernels/reference/reference.h"

/* Columns of this part that are words. */
static int64_t real_columns(const struct mt_loss *l)
{
	int64_t words = l->vocab - l->first;
	return words < 0 ? 0 : words < l->cols ? words : l->cols;
}

enum mt_status mt_reference_loss_stats(const struct mt_op *op)
{
	const struct mt_loss *l = &op->loss;
	int64_t real = real_columns(l);
	for (int64_t r = 0; r < l->rows; r++) {
		double most = -INFINITY, sum = 0, chosen = 0;
		int64_t target = ((const int32_t *)l->targets)[r] - l->first;
		for (int64_t c = 0; c < real; c++)
			most = fmax(most, load(op->dtype, l->logits, r * l->cols + c));
		for (int64_t c = 0; c < real; c++)
			sum += exp(load(op->dtype, l->logits, r * l->cols + c) - most);
		if (target >= 0 && target < real)
			chosen = load(op->dtype, l->logits, r * l->cols + target);
		store(wide(op), l->stats, 3 * r, most);
		store(wide(op), l->stats, 3 * r + 1, sum);
		store(wide(op), l->stats, 3 * r + 2, chosen);
	}
	return MT_OK;
}

/* m, z and the target's logit of one row over all parts. A part of padding only has m_p = -inf and z_p = 0: it adds 0. */
static void combine(const struct mt_op *op, int64_t r, double *most, double *sum, double *chosen)
{
	const struct mt_loss *l = &op->loss;
	*most = -INFINITY;
	*sum = *chosen = 0;
	for (int64_t p = 0; p < l->parts; p++)
		*most = fmax(*most, load(wide(op), l->all_stats, 3 * (p * l->rows + r)));
	for (int64_t p = 0; p < l->parts; p++) {
		int64_t i = 3 * (p * l->rows + r);
		*sum += load(wide(op), l->all_stats, i + 1) * exp(load(wide(op), l->all_stats, i) - *most);
		*chosen += load(wide(op), l->all_stats, i + 2);
	}
}

enum mt_status mt_reference_loss(const struct mt_op *op)
{
	const struct mt_loss *l = &op->loss;
	int64_t real = real_columns(l);
	for (int64_t r = 0; r < l->rows; r++) {
		double most, sum, chosen;
		int32_t target = ((const int32_t *)l->targets)[r];
		combine(op, r, &most, &sum, &chosen);
		store(wide(op), l->loss, r, target < 0 ? 0 : most + log(sum) - chosen);
		for (int64_t c = 0; l->grad_scale != 0 && c < l->cols; c++) {
			int64_t i = r * l->cols + c;
			double gradient = 0;
			if (target >= 0 && c < real)
				gradient = exp(load(op->dtype, l->logits, i) - most) / sum - (l->first + c == target);
			store(op->dtype, l->logits, i, gradient * l->grad_scale);
		}
	}
	return MT_OK;
}
