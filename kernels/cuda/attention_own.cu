/* attention_own: which of our own attention kernels an operation goes to. None needs scratch: delta is the operation's. */
#include "kernels/cuda/attention.cuh"

static enum mt_status run(struct mt_cuda_launch *on, const struct mt_op *op,
			  enum mt_status (*mma_kernels)(struct mt_cuda_launch *, const struct mt_op *),
			  enum mt_status (*f16_kernels)(struct mt_cuda_launch *, const struct mt_op *),
			  enum mt_status (*simt_kernels)(struct mt_cuda_launch *, const struct mt_op *))
{
	const char *obstacle = attention_obstacle(&op->attention);
	if (op->attention.batch == 0)
		return MT_OK;
	if (obstacle)
		return mt_fail(MT_UNAVAILABLE, "%s: no CUDA kernel: %s", mt_op_name(op->kind), obstacle);
	if (op->dtype == MT_F32)
		return simt_kernels(on, op);
	if (op->dtype == MT_F16)
		return f16_kernels(on, op);
	return op->dtype == MT_BF16 ? mma_kernels(on, op) : mt_cuda_no_kernel(op);
}

enum mt_status mt_cuda_attention(struct mt_cuda_launch *launch, const struct mt_op *op)
{
	return run(launch, op, mt_cuda_attention_mma, mt_cuda_attention_f16, mt_cuda_attention_simt);
}

enum mt_status mt_cuda_attention_bwd(struct mt_cuda_launch *launch, const struct mt_op *op)
{
	return run(launch, op, mt_cuda_attention_mma_bwd, mt_cuda_attention_f16_bwd, mt_cuda_attention_simt_bwd);
}
