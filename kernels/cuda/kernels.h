/* kernels: our CUDA kernels, one function an operation, for C and C++ (no CUDA header needed).
 *
 * Each takes an operation whose shape mt_op_check has passed and whose pointers are device memory, enqueues it on the launch's
 * stream and returns: semantics exactly as kernels/op.h says, aliasing included. An empty shape is MT_OK and does nothing.
 * MT_UNAVAILABLE for a type that has no kernel (there are f32, bf16 and f16; casts, fills and copies take every type), MT_FAILED
 * when the launch is refused. Nothing allocates or waits, so all may be captured into a graph.
 *
 * Sums over rows are made in two passes with partial sums in scratch and never by float atomics; how work is cut depends on the
 * shape, the pointers' alignment and the number of multiprocessors alone, so the same operation gives the same bits on one GPU.
 *
 * Scratch: mt_gpu_kernel_scratch_bytes (kernels/scratch.h) says what an operation needs, 0 for most. It is free to be reused by the
 * next operation on the same stream. */
#ifndef MT_KERNELS_CUDA_KERNELS_H
#define MT_KERNELS_CUDA_KERNELS_H

#ifdef __cplusplus
extern "C" {
#endif

#include "base/status.h"
#include "kernels/op.h"
#include "kernels/scratch.h"

struct mt_cuda_launch {
	void *stream;         /* cudaStream_t */
	void *scratch;        /* 256-byte aligned, borrowed */
	size_t scratch_bytes; /* at least mt_gpu_kernel_scratch_bytes of the operation */
	int sm_count;
	int arch;             /* 80, 90, 100, 120 */
	int max_shared_bytes; /* a block may opt in to */
};

/* norm.cu */
enum mt_status mt_cuda_norm(struct mt_cuda_launch *launch, const struct mt_op *op);
enum mt_status mt_cuda_norm_bwd(struct mt_cuda_launch *launch, const struct mt_op *op);
/* activation.cu */
enum mt_status mt_cuda_activation(struct mt_cuda_launch *launch, const struct mt_op *op);
enum mt_status mt_cuda_activation_bwd(struct mt_cuda_launch *launch, const struct mt_op *op);
/* rope.cu */
enum mt_status mt_cuda_rope(struct mt_cuda_launch *launch, const struct mt_op *op);
/* spread.cu */
enum mt_status mt_cuda_spread(struct mt_cuda_launch *launch, const struct mt_op *op); /* both directions */
/* embedding.cu */
enum mt_status mt_cuda_embedding(struct mt_cuda_launch *launch, const struct mt_op *op);
enum mt_status mt_cuda_embedding_bwd(struct mt_cuda_launch *launch, const struct mt_op *op);
/* loss.cu */
enum mt_status mt_cuda_loss_stats(struct mt_cuda_launch *launch, const struct mt_op *op);
enum mt_status mt_cuda_loss(struct mt_cuda_launch *launch, const struct mt_op *op);
/* move.cu */
enum mt_status mt_cuda_add(struct mt_cuda_launch *launch, const struct mt_op *op);
enum mt_status mt_cuda_bias_grad(struct mt_cuda_launch *launch, const struct mt_op *op);
enum mt_status mt_cuda_cast(struct mt_cuda_launch *launch, const struct mt_op *op);
enum mt_status mt_cuda_fill(struct mt_cuda_launch *launch, const struct mt_op *op);
enum mt_status mt_cuda_copy(struct mt_cuda_launch *launch, const struct mt_op *op);
/* optimizer.cu */
enum mt_status mt_cuda_sumsq(struct mt_cuda_launch *launch, const struct mt_op *op);
enum mt_status mt_cuda_adamw(struct mt_cuda_launch *launch, const struct mt_op *op);
/* `count` AdamW operations in as few launches as their types and hyperparameters allow (decay and lr may differ in one launch).
 * The same bits as one after the other. */
enum mt_status mt_cuda_adamw_many(struct mt_cuda_launch *launch, const struct mt_op *ops, int count);
/* update.cu */
enum mt_status mt_cuda_sgd(struct mt_cuda_launch *launch, const struct mt_op *op);
enum mt_status mt_cuda_combine(struct mt_cuda_launch *launch, const struct mt_op *op);
/* fp8.cu */
enum mt_status mt_cuda_amax(struct mt_cuda_launch *launch, const struct mt_op *op);
enum mt_status mt_cuda_fp8_scale(struct mt_cuda_launch *launch, const struct mt_op *op);
enum mt_status mt_cuda_quantize(struct mt_cuda_launch *launch, const struct mt_op *op);
/* experts.cu */
enum mt_status mt_cuda_drop(struct mt_cuda_launch *launch, const struct mt_op *op);
enum mt_status mt_cuda_dispatch(struct mt_cuda_launch *launch, const struct mt_op *op);
enum mt_status mt_cuda_gather_rows(struct mt_cuda_launch *launch, const struct mt_op *op);
enum mt_status mt_cuda_sum_rows(struct mt_cuda_launch *launch, const struct mt_op *op);
enum mt_status mt_cuda_expert_act(struct mt_cuda_launch *launch, const struct mt_op *op); /* and its backward */
/* router.cu */
enum mt_status mt_cuda_route(struct mt_cuda_launch *launch, const struct mt_op *op);
enum mt_status mt_cuda_route_sums(struct mt_cuda_launch *launch, const struct mt_op *op);
enum mt_status mt_cuda_route_loss(struct mt_cuda_launch *launch, const struct mt_op *op);
enum mt_status mt_cuda_route_bwd(struct mt_cuda_launch *launch, const struct mt_op *op);
/* attention_forward.cu, attention_backward.cu */
enum mt_status mt_cuda_attention(struct mt_cuda_launch *launch, const struct mt_op *op);
enum mt_status mt_cuda_attention_bwd(struct mt_cuda_launch *launch, const struct mt_op *op);

#ifdef __cplusplus
}
#endif
#endif
