/* attention: how the device does attention. Our own kernels do all of it; where the plugin `cudnn` is there and has a plan for a
 * shape, both are measured once and the faster is kept.
 *
 * The two sum in different orders, so the choice decides the bits of a run, and timings are noisy: cuDNN is taken when it is
 * faster by MT_CUDA_ATTENTION_MARGIN, well away from a tie. MEGATUNE_ATTENTION=own: it is never asked, and bits are those of our
 * kernels always; MEGATUNE_ATTENTION=fastest: no margin. */
#ifndef MT_KERNELS_CUDA_ATTENTION_H
#define MT_KERNELS_CUDA_ATTENTION_H

#include "kernels/cuda/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MT_CUDA_ATTENTION_MARGIN 1.25

struct mt_cuda_attention;

/* For the current CUDA device. That cuDNN is not there is no error; MEGATUNE_ATTENTION with another value is MT_INPUT. */
enum mt_status mt_cuda_attention_create(struct mt_cuda_attention **attention);
void mt_cuda_attention_destroy(struct mt_cuda_attention *attention);
/* Decides how `op` is done, and how much scratch the launch must have for it. The first time for a shape this runs the operation
 * some times, which only writes what it writes anyway, and waits for the stream; not while a graph is captured: then it is ours. */
enum mt_status mt_cuda_attention_choose(struct mt_cuda_attention *attention, struct mt_cuda_launch *launch, const struct mt_op *op,
					size_t *scratch_bytes);
/* Enqueues it, as chosen. */
enum mt_status mt_cuda_attention_run(struct mt_cuda_attention *attention, struct mt_cuda_launch *launch, const struct mt_op *op);
/* The kernels. Tensor cores, 16-bit types; the operation is one that attention_obstacle (attention.cuh) has nothing against. */
enum mt_status mt_cuda_attention_mma(struct mt_cuda_launch *on, const struct mt_op *op);
enum mt_status mt_cuda_attention_mma_bwd(struct mt_cuda_launch *on, const struct mt_op *op);
enum mt_status mt_cuda_attention_f16(struct mt_cuda_launch *on, const struct mt_op *op);
enum mt_status mt_cuda_attention_f16_bwd(struct mt_cuda_launch *on, const struct mt_op *op);
/* f32. */
enum mt_status mt_cuda_attention_simt(struct mt_cuda_launch *on, const struct mt_op *op);
enum mt_status mt_cuda_attention_simt_bwd(struct mt_cuda_launch *on, const struct mt_op *op);

#ifdef __cplusplus
}
#endif
#endif
