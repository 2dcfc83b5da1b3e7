/* scratch: how many bytes an operation needs beside its operands. */
#include "kernels/cuda/embedding.cuh"

/* Partial sums of `sums` vectors over the columns: as many parts as a sum over rows may be cut in. */
static size_t partials_bytes(int64_t rows, int64_t cols, int sums)
{
	const int64_t parts = rows < MT_CUDA_MOST_PARTS ? rows : MT_CUDA_MOST_PARTS;
	return (size_t)(parts * cols * sums) * sizeof(float);
}

size_t mt_cuda_scratch_bytes(const struct mt_op *op)
{
	switch (op->kind) {
	case MT_OP_NORM_BWD:
		return partials_bytes(op->norm.rows, op->norm.cols, op->norm.kind == MT_NORM_LAYER ? 2 : 1);
	case MT_OP_BIAS_GRAD:
		return partials_bytes(op->add.rows, op->add.cols, 1);
	case MT_OP_EMBEDDING_BWD:
		return embedding_scratch_of(NULL, &op->embedding).bytes;
	case MT_OP_SUMSQ:
		return 512 * sizeof(double);
	case MT_OP_ROUTE_SUMS:
	case MT_OP_ROUTE_LOSS: /* two numbers a row */
		return (size_t)op->route.rows * 2 * sizeof(float);
	case MT_OP_ATTENTION:
	case MT_OP_ATTENTION_BWD:
		return mt_cuda_attention_scratch_bytes(op);
	default:
		return 0;
	}
}
