/* products: LINEAR, LINEAR_DGRAD and LINEAR_WGRAD as one product each, cut into blocks that threads share.
 *
 * f32 goes through dnnl_sgemm: on the GPT-2 124M shapes (one Sapphire Rapids core) it reached 170-205 GFLOP/s for all three
 * ops, against 84-185 for the matmul primitive on plain weights (84 where the row stride is a multiple of 4 KiB) and
 * 128-185 when weights are packed first, the packing included. bf16 goes through the matmul primitive (products_bf16.c) on
 * processors that multiply bf16, elsewhere, as f16 and fp8 everywhere, through f32 block by block. */
#include "kernels/cpu/cpu.h"

#include "kernels/fp8.h"

#include <omp.h>

#define SMALL_FLOPS   5e7  /* a product that is one block: 0.3 ms in f32 */
#define DEPTH_WIDENED 1024 /* k at a time where bf16 and f16 are widened to f32 scratch */

static int64_t even_block(int64_t count, int64_t block, int64_t step)
{
	const int64_t even = cpu_blocks(count, cpu_blocks(count, block));
	return cpu_least(count, cpu_blocks(even, step) * step);
}

static double product_flops(const struct cpu_product *p)
{
	return 2.0 * (double)p->m * (double)p->n * (double)p->k;
}

/* `block` of `count` made smaller until there are `parts` times as many, but not below 128. */
static int64_t split(int64_t count, int64_t block, int64_t parts)
{
	const int64_t most = count / 128, wanted = cpu_blocks(count, block) * parts;
	return parts <= 1 || most <= 1 ? block : even_block(count, cpu_blocks(count, cpu_least(wanted, most)), 64);
}

/* At least `wanted` blocks of at most (most_rows, most_cols), where the product is large enough for more than one. */
static struct cpu_grid cut(const struct cpu_product *p, int64_t most_rows, int64_t most_cols, int64_t wanted, bool rows_first)
{
	const bool small = product_flops(p) < SMALL_FLOPS;
	struct cpu_grid grid = {cpu_least(p->m, most_rows), cpu_least(p->n, most_cols), p->k};
	for (int pass = 0; pass < 2 && !small; pass++) {
		const int64_t parts = cpu_blocks(wanted, cpu_blocks(p->m, grid.rows) * cpu_blocks(p->n, grid.cols));
		if (rows_first == (pass == 0))
			grid.rows = split(p->m, grid.rows, parts);
		else
			grid.cols = split(p->n, grid.cols, parts);
	}
	return grid;
}

/* The number of blocks is a matter of the shape alone, because dnnl_sgemm changes the order of its sums with the shape of
 * the block (it has a kernel of its own for narrow ones). One thread loses 0-5% by 4 blocks in place of 1. */
static struct cpu_grid cut_f32(const struct cpu_product *p)
{
	const double flops = product_flops(p);
	return cut(p, INT32_MAX, INT32_MAX, flops < 1e9 ? 4 : flops < 2e10 ? 8 : 16, p->m >= p->n);
}

/* Blocks of which every operand is dense, or made so by a copy (products_bf16.c): oneDNN takes slow paths for sub-matrices.
 * GFLOP/s of one thread on products of GPT-2 124M with 256 rows, whole / blocks of strided operands / blocks of dense ones:
 *   forward  256x768x2304    1330 / 1050 / 1420    columns of C, so rows of w, in steps of 384
 *   dgrad    256x2304x768     860 /  810 /  810    columns of C and w; a dense copy of w would cost more than it gains
 *   wgrad    3072x768x256    1000 /  700 /  950    rows of C, so columns of dy
 * and with 2048 rows in wgrad, steps of 512 in k so that a block of C is not sent to memory between them: 540 / 690 / 770. */
static struct cpu_grid cut_bf16(const struct cpu_product *p)
{
	struct cpu_grid grid = {p->m, p->n, p->k};
	if (product_flops(p) < SMALL_FLOPS)
		return grid;
	if (p->accumulate) {
		grid.rows = cpu_least(p->m, p->k > 512 ? 512 : 256);
		grid.depth = even_block(p->k, 512, 32);
	} else {
		grid.rows = even_block(p->m, 1024, 64);
		grid.cols = even_block(p->n, 384, 64);
	}
	return grid;
}

static dnnl_status_t sgemm(const struct cpu_product *p, int64_t rows, int64_t cols, int64_t depth, const float *a, int64_t lda,
			   const float *b, int64_t ldb, bool accumulate, float *c, int64_t ldc)
{
	return dnnl_sgemm(p->ta ? 'T' : 'N', p->tb ? 'T' : 'N', rows, cols, depth, p->factor, a, lda, b, ldb,
			  accumulate ? 1.0f : 0.0f, c, ldc);
}

static dnnl_status_t block_f32(const struct cpu_product *p, int64_t row, int64_t rows, int64_t col, int64_t cols)
{
	float *c = (float *)p->c + row * p->ldc + col;
	if (p->bias)
		for (int64_t r = 0; r < rows; r++)
			memcpy(c + r * p->ldc, (const float *)p->bias + col, (size_t)cols * sizeof *c);
	return sgemm(p, rows, cols, p->k, (const void *)cpu_at(p->a, p->ta, row, 0, p->lda, MT_F32), p->lda,
		     (const void *)cpu_at(p->b, p->tb, 0, col, p->ldb, MT_F32), p->ldb, p->accumulate || p->bias, c, p->ldc);
}

/* dst(rows, cols) f32, dense, from rows of elements of one or two bytes ld apart. */
static void widen(const struct cpu_kernels *kernels, enum mt_dtype dtype, const char *src, int64_t ld, int64_t rows, int64_t cols,
		  float *dst)
{
	for (int64_t r = 0; r < rows; r++) {
		if (mt_dtype_is_fp8(dtype))
			kernels->widen_fp8(dst + r * cols, (const uint8_t *)src + r * ld, dtype, cols);
		else
			kernels->cast(dst + r * cols, MT_F32, src + 2 * r * ld, dtype, 0, cols);
	}
}

static dnnl_status_t block_widened(const struct cpu_device *cpu, const struct cpu_product *p, const struct cpu_grid *grid,
				   int64_t row, int64_t rows, int64_t col, int64_t cols, float *scratch)
{
	const bool direct = p->out_dtype == MT_F32;
	float *a = scratch, *b = a + grid->rows * grid->depth;
	float *c = direct ? (float *)p->c + row * p->ldc + col : b + grid->cols * grid->depth;
	const int64_t ldc = direct ? p->ldc : cols;
	if (p->bias)
		for (int64_t r = 0; r < rows; r++)
			cpu->kernels->cast(c + r * ldc, MT_F32, (const uint16_t *)p->bias + col, p->in_dtype, 0, cols);
	for (int64_t k = 0; k < p->k; k += grid->depth) {
		const int64_t depth = cpu_least(grid->depth, p->k - k);
		const int64_t lda = p->ta ? rows : depth, ldb = p->tb ? depth : cols;
		widen(cpu->kernels, p->a_dtype, cpu_at(p->a, p->ta, row, k, p->lda, p->a_dtype), p->lda, p->ta ? depth : rows, lda,
		      a);
		widen(cpu->kernels, p->b_dtype, cpu_at(p->b, p->tb, k, col, p->ldb, p->b_dtype), p->ldb, p->tb ? cols : depth, ldb,
		      b);
		dnnl_status_t status = sgemm(p, rows, cols, depth, a, lda, b, ldb, k || p->accumulate || p->bias, c, ldc);
		if (status != dnnl_success)
			return status;
	}
	for (int64_t r = 0; !direct && r < rows; r++)
		cpu->kernels->cast(cpu_at(p->c, false, row + r, col, p->ldc, p->out_dtype), p->out_dtype, c + r * ldc, MT_F32, 0,
				   cols);
	return dnnl_success;
}

static enum mt_status run_blocks(struct cpu_device *cpu, const struct cpu_product *p, const struct cpu_grid *grid)
{
	const int64_t row_blocks = cpu_blocks(p->m, grid->rows), blocks = row_blocks * cpu_blocks(p->n, grid->cols);
	dnnl_status_t failure = dnnl_success;
#pragma omp parallel num_threads((int)cpu_least(cpu->threads, blocks))
	{
		omp_set_num_threads(1); /* of this thread, until the region ends: oneDNN stays on it */
#pragma omp for schedule(dynamic, 1)
		for (int64_t i = 0; i < blocks; i++) {
			const int64_t row = i % row_blocks * grid->rows, col = i / row_blocks * grid->cols;
			const int64_t rows = cpu_least(grid->rows, p->m - row), cols = cpu_least(grid->cols, p->n - col);
			dnnl_status_t status = p->a_dtype == MT_F32 ? block_f32(p, row, rows, col, cols)
								    : block_widened(cpu, p, grid, row, rows, col, cols,
										    cpu_scratch(cpu, omp_get_thread_num()));
			if (status != dnnl_success) {
#pragma omp atomic write
				failure = status;
			}
		}
	}
	if (failure != dnnl_success)
		return mt_fail(failure == dnnl_out_of_memory ? MT_NOMEM : MT_FAILED,
			       "cpu device: product %lldx%lldx%lld failed: oneDNN status %d", (long long)p->m, (long long)p->n,
			       (long long)p->k, (int)failure);
	return MT_OK;
}

static enum mt_status run(struct cpu_device *cpu, const struct cpu_product *p)
{
	struct cpu_grid grid;
	if (p->m == 0 || p->n == 0 || p->k == 0) /* an empty shard; widths are never 0, so k is the rows of WGRAD */
		return MT_OK;
	if (p->a_dtype == MT_F32) {
		grid = cut_f32(p);
		return run_blocks(cpu, p, &grid);
	}
	if (p->a_dtype == MT_BF16 && cpu->bf16_native) {
		grid = cut_bf16(p);
		return mt_cpu_product_bf16(cpu, p, &grid);
	}
	grid = cut(p, 256, 768, 4, p->m >= p->n);
	grid.depth = cpu_least(p->k, DEPTH_WIDENED);
	MT_TRY(mt_cpu_reserve(cpu, (size_t)((grid.rows + grid.cols) * grid.depth + grid.rows * grid.cols) * sizeof(float)));
	return run_blocks(cpu, p, &grid);
}

/* Both operands have rows that are summed along, so all three are products with a transpose. */
static enum mt_status run_fp8(struct cpu_device *cpu, const struct mt_op *op)
{
	const struct mt_linear *l = &op->linear;
	struct cpu_product p = {.in_dtype = op->dtype, .out_dtype = op->dtype, .tb = true, .b_dtype = MT_E4M3};
	const float *a_inverse = op->kind == MT_OP_LINEAR ? l->x_inverse : l->dy_inverse;
	const float *b_inverse = op->kind == MT_OP_LINEAR_WGRAD ? l->x_inverse : l->w_inverse;
	p.a_dtype = op->kind == MT_OP_LINEAR ? MT_E4M3 : mt_fp8_gradient(l->fp8);
	p.factor = *a_inverse * *b_inverse;
	switch (op->kind) {
	case MT_OP_LINEAR: /* y(R,N) = x(R,K) w(N,K)^T + bias */
		p.m = l->rows, p.n = l->out, p.k = l->in;
		p.a = l->x, p.b = l->w, p.c = l->y, p.bias = l->bias;
		break;
	case MT_OP_LINEAR_DGRAD: /* dx(R,K) = dy(R,N) w(K,N)^T */
		p.m = l->rows, p.n = l->in, p.k = l->out;
		p.a = l->dy, p.b = l->w, p.c = l->dx;
		break;
	default: /* dw(N,K) += dy(N,R) x(K,R)^T */
		p.m = l->out, p.n = l->in, p.k = l->rows;
		p.a = l->dy, p.b = l->x, p.c = l->dw;
		p.out_dtype = MT_F32, p.accumulate = true;
		break;
	}
	p.lda = p.ldb = p.k;
	p.ldc = p.n;
	return run(cpu, &p);
}

enum mt_status mt_cpu_linear(struct cpu_device *cpu, const struct mt_op *op)
{
	const struct mt_linear *l = &op->linear;
	struct cpu_product p = {
		.in_dtype = op->dtype, .out_dtype = op->dtype, .a_dtype = op->dtype, .b_dtype = op->dtype, .factor = 1};
	if (l->fp8)
		return run_fp8(cpu, op);
	switch (op->kind) {
	case MT_OP_LINEAR: /* y(R,N) = x(R,K) w(N,K)^T + bias */
		p.m = l->rows, p.n = l->out, p.k = l->in;
		p.a = l->x, p.lda = l->in;
		p.b = l->w, p.ldb = l->in, p.tb = true;
		p.c = l->y, p.bias = l->bias;
		break;
	case MT_OP_LINEAR_DGRAD: /* dx(R,K) = dy(R,N) w(N,K) */
		p.m = l->rows, p.n = l->in, p.k = l->out;
		p.a = l->dy, p.lda = l->out;
		p.b = l->w, p.ldb = l->in;
		p.c = l->dx;
		break;
	default: /* dw(N,K) += dy(R,N)^T x(R,K) */
		p.m = l->out, p.n = l->in, p.k = l->rows;
		p.a = l->dy, p.lda = l->out, p.ta = true;
		p.b = l->x, p.ldb = l->in;
		p.c = l->dw, p.out_dtype = MT_F32, p.accumulate = true;
		break;
	}
	p.ldc = p.n;
	return run(cpu, &p);
}
