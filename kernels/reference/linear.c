/* linear: y(R,N) = x(R,K) w(N,K)^T + bias(N),  dx(R,K) = dy(R,N) w(N,K),  dw(N,K) += dy(R,N)^T x(R,K)
 * All row-major, w as (out, in); dw f32. 2*R*N*K FLOPs each. With GELU: pre = sums, y = gelu(pre); dx = sums gelu'(pre); and bias'
 * gradients dbias(K) += sum over r of dx(r,:), dbias(N) += sum over r of dy(r,:), each of what is not yet rounded.
 * In FP8: sums over codes, times the inverses of both scales. The gradients' operands then lie with r, or n, last. */
#include "kernels/reference/reference.h"

#include <stdlib.h>

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

/* c(rows,cols) = factor * a(rows,depth) b(depth,cols); a_turned, b_turned: what is stored is the transpose. */
struct product {
	enum mt_dtype a_type, b_type;
	const void *a, *b;
	bool a_turned, b_turned;
	int64_t rows, cols, depth;
	double factor;
};

static void read_matrix(double *m, enum mt_dtype dtype, const void *base, int64_t rows, int64_t cols, bool turned)
{
	for (int64_t r = 0; r < rows; r++)
		for (int64_t c = 0; c < cols; c++)
			m[r * cols + c] = load(dtype, base, turned ? c * rows + r : r * cols + c);
}

static void add_scaled(double *restrict sums, double a, const double *restrict b, int64_t count)
{
#pragma omp simd
	for (int64_t i = 0; i < count; i++)
		sums[i] += a * b[i];
}

/* Each sum in the order of k. *c: owned by the caller. */
static enum mt_status multiply(const struct product *p, double **c)
{
	int64_t M = p->rows, N = p->cols, K = p->depth;
	double *sums = calloc((size_t)(M * N + M * K + K * N) + 1, sizeof *sums), *a, *b;
	if (!sums)
		return mt_fail(MT_NOMEM, "reference device: no memory for a product of %lld x %lld x %lld", (long long)M,
			       (long long)N, (long long)K);
	a = sums + M * N;
	b = a + M * K;
	read_matrix(a, p->a_type, p->a, M, K, p->a_turned);
	read_matrix(b, p->b_type, p->b, K, N, p->b_turned);
	for (int64_t m = 0; m < M; m++)
		for (int64_t k = 0; k < K; k++)
			add_scaled(sums + m * N, a[m * K + k], b + k * N, N);
	for (int64_t i = 0; i < M * N; i++)
		sums[i] *= p->factor;
	*c = sums;
	return MT_OK;
}

static double factor_of(const struct mt_linear *l, const float *a_inverse, const float *b_inverse)
{
	return l->fp8 ? (double)*a_inverse * (double)*b_inverse : 1;
}

enum mt_status mt_reference_linear(const struct mt_op *op)
{
	const struct mt_linear *l = &op->linear;
	enum mt_dtype t = l->fp8 ? MT_E4M3 : op->dtype;
	struct product p = {.a_type = t, .b_type = t, .a = l->x, .b = l->w, .b_turned = true};
	double *y;
	p.rows = l->rows, p.cols = l->out, p.depth = l->in;
	p.factor = factor_of(l, l->x_inverse, l->w_inverse);
	MT_TRY(multiply(&p, &y));
	for (int64_t i = 0; i < p.rows * p.cols; i++)
		mt_reference_store_y(op, i, y[i] + (l->bias ? load(op->dtype, l->bias, i % p.cols) : 0));
	free(y);
	return MT_OK;
}

enum mt_status mt_reference_linear_dgrad(const struct mt_op *op)
{
	const struct mt_linear *l = &op->linear;
	struct product p = {.a_type = op->dtype, .b_type = op->dtype, .a = l->dy, .b = l->w};
	double *dx;
	if (l->fp8)
		p.a_type = mt_fp8_gradient(l->fp8), p.b_type = MT_E4M3, p.b_turned = true;
	p.rows = l->rows, p.cols = l->in, p.depth = l->out;
	p.factor = factor_of(l, l->dy_inverse, l->w_inverse);
	MT_TRY(multiply(&p, &dx));
	for (int64_t i = 0; i < p.rows * p.cols; i++)
		mt_reference_store_dx(op, i / p.cols, i % p.cols, dx[i]);
	free(dx);
	return MT_OK;
}

enum mt_status mt_reference_linear_wgrad(const struct mt_op *op)
{
	const struct mt_linear *l = &op->linear;
	struct product p = {.a_type = op->dtype, .b_type = op->dtype, .a = l->dy, .a_turned = true, .b = l->x};
	double *dw;
	if (l->fp8)
		p.a_type = mt_fp8_gradient(l->fp8), p.a_turned = false, p.b_type = MT_E4M3, p.b_turned = true;
	p.rows = l->out, p.cols = l->in, p.depth = l->rows;
	p.factor = factor_of(l, l->dy_inverse, l->x_inverse);
	MT_TRY(multiply(&p, &dw));
	for (int64_t i = 0; i < p.rows * p.cols; i++)
		accumulate(wide(op), l->dw, i, dw[i]);
	free(dw);
	for (int64_t r = 0; l->dbias && r < l->rows; r++)
		for (int64_t n = 0; n < l->out; n++)
			accumulate(wide(op), l->dbias, n, load(op->dtype, l->dy, r * l->out + n));
	return MT_OK;
}
