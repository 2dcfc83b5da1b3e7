/* trial: random operands for trials of products, and whether two results have the same bits. */
#include "kernels/cuda/trial.h"

#include "kernels/cuda/launch.cuh"

#include "kernels/fp8.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

/* A value in (-1, 1) that depends on its index and the seed (the finalizer of MurmurHash3). */
static __device__ float value_at(uint64_t index, uint32_t seed)
{
	uint64_t h = index + ((uint64_t)seed << 40);
	h = (h ^ (h >> 33)) * 0xff51afd7ed558ccdull;
	h = (h ^ (h >> 33)) * 0xc4ceb9fe1a85ec53ull;
	h ^= h >> 33;
	return (float)(int32_t)(uint32_t)h * (1.0f / 2147483648.0f);
}

static __device__ void put(float *at, float value)
{
	*at = value;
}

static __device__ void put(double *at, float value)
{
	*at = value;
}

static __device__ void put(__nv_bfloat16 *at, float value)
{
	*at = __float2bfloat16(value);
}

static __device__ void put(__half *at, float value)
{
	*at = __float2half_rn(value);
}

static __global__ void fill_codes(uint8_t *dst, int64_t count, uint32_t seed, bool e4m3)
{
	for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += (int64_t)gridDim.x * blockDim.x) {
		const float value = value_at((uint64_t)i, seed);
		dst[i] = e4m3 ? mt_e4m3_from_f32(value) : mt_e5m2_from_f32(value);
	}
}

template <typename T> static __global__ void fill_kernel(T *dst, int64_t count, uint32_t seed)
{
	for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += (int64_t)gridDim.x * blockDim.x)
		put(dst + i, value_at((uint64_t)i, seed));
}

static __global__ void compare_kernel(const uint16_t *a, const uint16_t *b, int64_t count, int *differs)
{
	bool found = false;
	for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += (int64_t)gridDim.x * blockDim.x)
		found = found || a[i] != b[i];
	if (found)
		*differs = 1; /* whoever writes it writes the same */
}

static enum mt_status launched(void)
{
	cudaError_t error = cudaGetLastError();
	return error == cudaSuccess ? MT_OK : mt_fail(MT_FAILED, "trial of a product: %s", cudaGetErrorString(error));
}

static int grid_of(const struct mt_cuda_launch *launch, int64_t count)
{
	int64_t blocks = (count + 255) / 256, most = (int64_t)launch->sm_count * 8;
	return (int)(blocks < most ? blocks : most);
}

enum mt_status mt_cuda_trial_fill(struct mt_cuda_launch *launch, void *dst, int64_t count, enum mt_dtype dtype, uint32_t seed)
{
	int grid = grid_of(launch, count);
	if (count == 0)
		return MT_OK;
	if (dtype == MT_BF16)
		MT_LAUNCH((fill_kernel<__nv_bfloat16>), grid, 256, 0, launch->stream, (__nv_bfloat16 *)dst, count, seed);
	else if (mt_dtype_is_fp8(dtype))
		MT_LAUNCH(fill_codes, grid, 256, 0, launch->stream, (uint8_t *)dst, count, seed, dtype == MT_E4M3);
	else if (dtype == MT_F16)
		MT_LAUNCH((fill_kernel<__half>), grid, 256, 0, launch->stream, (__half *)dst, count, seed);
	else if (dtype == MT_F64)
		MT_LAUNCH((fill_kernel<double>), grid, 256, 0, launch->stream, (double *)dst, count, seed);
	else
		MT_LAUNCH((fill_kernel<float>), grid, 256, 0, launch->stream, (float *)dst, count, seed);
	return launched();
}

enum mt_status mt_cuda_trial_compare(struct mt_cuda_launch *launch, const void *a, const void *b, size_t bytes, int *differs)
{
	int64_t count = (int64_t)(bytes / 2);
	if (count == 0)
		return MT_OK;
	MT_LAUNCH(compare_kernel, grid_of(launch, count), 256, 0, launch->stream, (const uint16_t *)a, (const uint16_t *)b, count,
		  differs);
	return launched();
}
