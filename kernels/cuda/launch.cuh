/* launch: how every kernel of ours is launched, by nvcc and by the emulator of the tests, which brings its own of the first two. */
#ifndef MT_KERNELS_CUDA_LAUNCH_CUH
#define MT_KERNELS_CUDA_LAUNCH_CUH

#include "kernels/cuda/kernels.h"

#include <cuda_runtime.h>

/* MT_LAUNCH(kernel, grid, block, shared_bytes, stream, arguments...); a kernel with template arguments stands in parentheses.
 * MT_SHARED(type, name): in a kernel, the shared memory of the launch. */
#ifndef MT_CUDA_HOST
#define MT_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                                                  \
	(kernel)<<<(grid), (block), (shared_bytes), (cudaStream_t)(stream)>>>(__VA_ARGS__)
#define MT_SHARED(type, name)                                                                                                      \
	extern __shared__ __align__(128) unsigned char mt_shared_bytes[];                                                          \
	type *name = reinterpret_cast<type *>(mt_shared_bytes)
#endif

/* Whether the launches of an operation were accepted. */
static inline enum mt_status mt_cuda_launched(const struct mt_op *op)
{
	cudaError_t error = cudaGetLastError();
	return error == cudaSuccess
		       ? MT_OK
		       : mt_fail(MT_FAILED, "%s: the kernel was not launched: %s", mt_op_name(op->kind), cudaGetErrorString(error));
}

/* For a type that has no kernel. */
static inline enum mt_status mt_cuda_no_kernel(const struct mt_op *op)
{
	return mt_fail(MT_UNAVAILABLE, "%s: no CUDA kernel for %s", mt_op_name(op->kind), mt_dtype_name(op->dtype));
}

#endif
