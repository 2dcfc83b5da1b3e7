/* reduce: sums and maxima over warps, blocks and columns, each in an order fixed by the shape. */
#ifndef MT_KERNELS_CUDA_REDUCE_CUH
#define MT_KERNELS_CUDA_REDUCE_CUH

#include "kernels/cuda/vector.cuh"

template <typename T> __device__ __forceinline__ T warp_sum(T value)
{
#pragma unroll
	for (int offset = 16; offset > 0; offset /= 2)
		value += __shfl_xor_sync(0xffffffffu, value, offset);
	return value;
}

__device__ __forceinline__ float warp_max(float value)
{
#pragma unroll
	for (int offset = 16; offset > 0; offset /= 2)
		value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, offset));
	return value;
}

/* Over the blockDim.x threads of one threadIdx.y, a multiple of 32 and at most 1024; all of them get it. Every thread of the block
 * calls it. `partial` is shared, one value a warp of the block. */
template <typename T> __device__ __forceinline__ T group_sum(T value, T *partial)
{
	value = warp_sum(value);
	if (blockDim.x > 32) {
		const unsigned warps = blockDim.x / 32, lane = threadIdx.x % 32;
		T *mine = partial + threadIdx.y * warps;
		__syncthreads(); /* who still reads the last sum is done */
		if (lane == 0)
			mine[threadIdx.x / 32] = value;
		__syncthreads();
		value = warp_sum(lane < warps ? mine[lane] : T(0));
	}
	return value;
}

__device__ __forceinline__ float group_max(float value, float *partial)
{
	value = warp_max(value);
	if (blockDim.x > 32) {
		const unsigned warps = blockDim.x / 32, lane = threadIdx.x % 32;
		float *mine = partial + threadIdx.y * warps;
		__syncthreads();
		if (lane == 0)
			mine[threadIdx.x / 32] = value;
		__syncthreads();
		value = warp_max(lane < warps ? mine[lane] : -INFINITY);
	}
	return value;
}

/* The second pass of a sum over rows: out[c] += sum over p of partials[p, c], with (parts, cols) partial sums. A block sums 32
 * columns, each of its 32 warps every 32nd part. blockIdx.y picks one of two sums that lie behind each other. */
static __global__ void __launch_bounds__(1024)
	add_column_sums(const float *partials, int parts, int64_t cols, float *out0, float *out1)
{
	__shared__ float sums[32][33];
	const int64_t c = (int64_t)blockIdx.x * 32 + threadIdx.x;
	const float *part = partials + (int64_t)blockIdx.y * parts * cols;
	float *out = blockIdx.y ? out1 : out0;
	float sum = 0.0f;
	if (c < cols)
#pragma unroll 4
		for (int p = (int)threadIdx.y; p < parts; p += 32)
			sum += part[p * cols + c];
	sums[threadIdx.y][threadIdx.x] = sum;
	__syncthreads();
	sum = warp_sum(sums[threadIdx.x][threadIdx.y]); /* transposed: warp y has the parts of column y */
	const int64_t mine = (int64_t)blockIdx.x * 32 + threadIdx.y;
	if (threadIdx.x == 0 && mine < cols)
		out[mine] += sum;
}

/* out1 NULL: one sum. */
static inline void launch_column_sums(const struct mt_cuda_launch *launch, const float *partials, int parts, int64_t cols,
				      void *out0, void *out1)
{
	MT_LAUNCH(add_column_sums, dim3((unsigned)divide_up(cols, 32), out1 ? 2 : 1), dim3(32, 32), 0, launch->stream, partials,
		  parts, cols, static_cast<float *>(out0), static_cast<float *>(out1));
}

#endif
