/* trial: operands of the trials that choose a product's algorithm, and whether two results have the same bits. */
#ifndef MT_KERNELS_CUDA_TRIAL_H
#define MT_KERNELS_CUDA_TRIAL_H

#include "kernels/cuda/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Random values in (-1, 1), the same for the same seed. f32, bf16, f16, f64. */
enum mt_status mt_cuda_trial_fill(struct mt_cuda_launch *launch, void *dst, int64_t count, enum mt_dtype dtype, uint32_t seed);
/* Sets *differs (device memory) when the two differ, else leaves it. `bytes` is even. */
enum mt_status mt_cuda_trial_compare(struct mt_cuda_launch *launch, const void *a, const void *b, size_t bytes, int *differs);

#ifdef __cplusplus
}
#endif
#endif
