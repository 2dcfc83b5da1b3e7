/* scratch: see scratch.h. */
#include "kernels/scratch.h"

#include "base/arena.h"

static size_t padded(size_t bytes)
{
	return (bytes + MT_ARENA_ALIGN_BYTES - 1) / MT_ARENA_ALIGN_BYTES * MT_ARENA_ALIGN_BYTES;
}

struct mt_table_scratch mt_table_scratch_of(int64_t rows, int64_t cols)
{
	struct mt_table_scratch s = {.runs = (rows + MT_TABLE_RUN - 1) / MT_TABLE_RUN,
				     .tiles = (rows + MT_TABLE_TILE - 1) / MT_TABLE_TILE};

	s.rows_bytes = padded((size_t)rows * 2 * sizeof(uint32_t)); /* a word and a row */
	s.offsets_bytes = padded((size_t)(MT_TABLE_DIGITS * s.tiles) * sizeof(int32_t));
	s.bytes = 2 * s.rows_bytes + s.offsets_bytes + (size_t)(s.runs * cols) * sizeof(float);
	return s;
}

/* Partial sums of `sums` vectors over the columns: as many parts as a sum over rows may be cut in. */
static size_t partials_bytes(int64_t rows, int64_t cols, int sums)
{
	int64_t parts = rows < MT_GPU_MOST_PARTS ? rows : MT_GPU_MOST_PARTS;

	return (size_t)(parts * cols * sums) * sizeof(float);
}

size_t mt_gpu_kernel_scratch_bytes(const struct mt_op *op)
{
	switch (op->kind) {
	case MT_OP_NORM_BWD:
		return partials_bytes(op->norm.rows, op->norm.cols, op->norm.kind == MT_NORM_LAYER ? 2 : 1);
	case MT_OP_BIAS_GRAD:
		return partials_bytes(op->add.rows, op->add.cols, 1);
	case MT_OP_EMBEDDING_BWD:
		return mt_table_scratch_of(op->embedding.rows, op->embedding.cols).bytes;
	case MT_OP_SUMSQ:
		return 512 * sizeof(double);
	case MT_OP_ROUTE_SUMS:
	case MT_OP_ROUTE_LOSS: /* two numbers a row */
		return (size_t)op->route.rows * 2 * sizeof(float);
	default:
		return 0;
	}
}

/* NVIDIA's advice: 32 MiB where warp groups multiply (sm_90), 4 MiB before. */
size_t mt_gpu_workspace_bytes(int arch)
{
	return (size_t)(arch >= 90 ? 32 : 4) << 20;
}

/* The workspace, with the vector of a bias' gradient behind it; or the product by itself, then the kernels. */
static size_t product_bytes(const struct mt_op *op, int arch)
{
	const struct mt_linear *l = &op->linear;
	size_t most = padded(mt_gpu_workspace_bytes(arch));
	struct mt_op parts[MT_OP_MOST_PARTS];
	int count = mt_op_parts(op, parts);

	if (op->kind != MT_OP_LINEAR && l->dbias)
		most += (size_t)(op->kind == MT_OP_LINEAR_DGRAD ? l->in : l->out) *
			mt_dtype_bytes(op->dtype == MT_F64 ? MT_F64 : MT_F32);
	for (int i = 1; i < count; i++) {
		size_t bytes = mt_gpu_kernel_scratch_bytes(&parts[i]);

		most = bytes > most ? bytes : most;
	}
	return most;
}

size_t mt_gpu_scratch_bytes(const struct mt_op *op, int arch)
{
	switch (op->kind) {
	case MT_OP_LINEAR:
	case MT_OP_LINEAR_DGRAD:
	case MT_OP_LINEAR_WGRAD:
		return product_bytes(op, arch);
	case MT_OP_GROUPED:
	case MT_OP_GROUPED_DGRAD:
	case MT_OP_GROUPED_WGRAD:
		return padded(mt_gpu_workspace_bytes(arch));
	case MT_OP_ATTENTION:
	case MT_OP_ATTENTION_BWD: /* our own need none */
		return mt_dtype_is_half(op->dtype) && !op->attention.starts && mt_attention_is_whole(&op->attention)
			       ? MT_GPU_CUDNN_BYTES
			       : 0;
	default:
		return mt_gpu_kernel_scratch_bytes(op);
	}
}
