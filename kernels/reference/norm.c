/* norm: s(R,C) = x + x_bias + residual, rounded to dtype and kept in `sum`; statistics are of that s.
 *   layer  mean = mean(s),  rstd = 1/sqrt(mean((s - mean)^2) + eps),  y = n * gain + bias,  n = (s - mean) * rstd
 *   rms    mean = 0,        rstd = 1/sqrt(mean(s^2) + eps),           y = n * gain
 * backward, with e = dy * gain and means over the row:
 *   layer  dx = rstd (e - mean(e) - n mean(e n)) + dresidual
 *   rms    dx = rstd (e - n mean(e n)) + dresidual
 *   dgain += sum over rows of dy n,  dbias += sum over rows of dy
 * mean, rstd (R) f32. Ba et al. 2016, arXiv:1607.06450, eq. 3; Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4. */
#include "kernels/reference/reference.h"

/* As it is after a store in dtype. */
static double rounded(enum mt_dtype dtype, double value)
{
	double memory;
	store(dtype, &memory, 0, value);
	return load(dtype, &memory, 0);
}

static double summed(const struct mt_op *op, int64_t r, int64_t c)
{
	const struct mt_norm *n = &op->norm;
	double s = load(op->dtype, n->x, mt_norm_x_at(n, r) + c);
	if (n->x_bias)
		s += load(op->dtype, n->x_bias, c);
	if (n->residual)
		s += load(op->dtype, n->residual, r * n->cols + c);
	return rounded(op->dtype, s);
}

/* s[r,c] after the first pass: `sum` may alias what it was made of, so then it is read from there. */
static double sum_at(const struct mt_op *op, int64_t r, int64_t c)
{
	return op->norm.sum ? load(op->dtype, op->norm.sum, mt_norm_x_at(&op->norm, r) + c) : summed(op, r, c);
}

static void norm_row(const struct mt_op *op, int64_t r)
{
	const struct mt_norm *n = &op->norm;
	enum mt_dtype t = op->dtype;
	bool layer = n->kind == MT_NORM_LAYER;
	double mean = 0, square = 0;
	if (n->sum)
		for (int64_t c = 0; c < n->cols; c++)
			store(t, n->sum, mt_norm_x_at(n, r) + c, summed(op, r, c));
	for (int64_t c = 0; layer && c < n->cols; c++)
		mean += sum_at(op, r, c) / (double)n->cols;
	for (int64_t c = 0; c < n->cols; c++) {
		double centered = sum_at(op, r, c) - mean;
		square += centered * centered / (double)n->cols;
	}
	double rstd = 1 / sqrt(square + n->eps);
	for (int64_t c = 0; c < n->cols; c++) {
		double y = (sum_at(op, r, c) - mean) * rstd * load(t, n->gain, c);
		store(t, n->y, mt_norm_y_at(n, r) + c, y + (n->bias ? load(t, n->bias, c) : 0));
	}
	if (layer)
		store(wide(op), n->mean, r, mean);
	store(wide(op), n->rstd, r, rstd);
}

enum mt_status mt_reference_norm(const struct mt_op *op)
{
	for (int64_t r = 0; r < op->norm.rows; r++)
		norm_row(op, r);
	return MT_OK;
}

/* n[r,c] from what the forward pass kept. */
static double normalized(const struct mt_op *op, int64_t r, int64_t c)
{
	const struct mt_norm *n = &op->norm;
	double mean = n->kind == MT_NORM_LAYER ? load(wide(op), n->mean, r) : 0;
	return (load(op->dtype, n->sum, mt_norm_x_at(n, r) + c) - mean) * load(wide(op), n->rstd, r);
}

static void norm_row_bwd(const struct mt_op *op, int64_t r)
{
	const struct mt_norm *n = &op->norm;
	enum mt_dtype t = op->dtype;
	double mean_e = 0, mean_en = 0;
	for (int64_t c = 0; c < n->cols; c++) {
		double e = load(t, n->dy, mt_norm_y_at(n, r) + c) * load(t, n->gain, c);
		mean_e += e / (double)n->cols;
		mean_en += e * normalized(op, r, c) / (double)n->cols;
	}
	if (n->kind == MT_NORM_RMS)
		mean_e = 0;
	double rstd = load(wide(op), n->rstd, r);
	for (int64_t c = 0; c < n->cols; c++) {
		double e = load(t, n->dy, mt_norm_y_at(n, r) + c) * load(t, n->gain, c);
		double dx = rstd * (e - mean_e - normalized(op, r, c) * mean_en);
		store(t, n->dx, mt_norm_dx_at(n, r) + c, dx + (n->dresidual ? load(t, n->dresidual, r * n->cols + c) : 0));
	}
}

enum mt_status mt_reference_norm_bwd(const struct mt_op *op)
{
	const struct mt_norm *n = &op->norm;
	for (int64_t c = 0; c < n->cols; c++) {
		double dgain = 0, dbias = 0;
		for (int64_t r = 0; r < n->rows; r++) {
			double dy = load(op->dtype, n->dy, mt_norm_y_at(n, r) + c);
			dgain += dy * normalized(op, r, c);
			dbias += dy;
		}
		accumulate(wide(op), n->dgain, c, dgain);
		if (n->dbias)
			accumulate(wide(op), n->dbias, c, dbias);
	}
	for (int64_t r = 0; r < n->rows; r++)
		norm_row_bwd(op, r);
	return MT_OK;
}
