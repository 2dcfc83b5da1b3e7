/* attention: between attention.c, which chooses, and the kernels. */
#ifndef MT_KERNELS_CUDA_ATTENTION_H
#define MT_KERNELS_CUDA_ATTENTION_H

#include "kernels/cuda/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Tensor cores, 16-bit types; the operation is one that attention_obstacle (attention.cuh) has nothing against. */
enum mt_status mt_cuda_attention_mma(struct mt_cuda_launch *on, const struct mt_op *op);
enum mt_status mt_cuda_attention_mma_bwd(struct mt_cuda_launch *on, const struct mt_op *op);
/* f32. */
enum mt_status mt_cuda_attention_simt(struct mt_cuda_launch *on, const struct mt_op *op);
enum mt_status mt_cuda_attention_simt_bwd(struct mt_cuda_launch *on, const struct mt_op *op);

#ifdef __cplusplus
}
#endif
#endif
