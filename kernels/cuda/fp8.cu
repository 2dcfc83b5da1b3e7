/* fp8: what goes before a product of 8-bit numbers.
 *   amax       *amax = the greatest of it and |x(count)|     a maximum of bits: blocks may come in any order
 *   fp8_scale  scale = most / amax / 2^margin, inverse = 1 / scale
 *   quantize   y(R,C) = x(R,C) * scale as e4m3 or e5m2, y_t(C,R + pad) its transpose and zeros: one reading of x for all, and
 *              for amax
 * The tensor cores of sm_89 and sm_90 take 8-bit operands only with the summed dimension contiguous, hence the transposes.
 * Tiles of 64 x 64 codes are turned in shared memory, so that both results are written in words. Bandwidth-bound: x once, and a
 * byte an element and result. */
#include "kernels/cuda/reduce.cuh"
#include "kernels/fp8.h"

#if !defined(MT_CUDA_HOST) && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
#include <cuda_fp8.h>
#define HAS_FP8_CONVERSION 1
#endif

#define TILE 64

/* Two codes, the first in the lower byte. */
__device__ __forceinline__ unsigned codes_of(float first, float second, bool e4m3)
{
#ifdef HAS_FP8_CONVERSION
	return __nv_cvt_float2_to_fp8x2(make_float2(first, second), __NV_SATFINITE, e4m3 ? __NV_E4M3 : __NV_E5M2);
#else
	return e4m3 ? mt_e4m3_from_f32(first) | (unsigned)mt_e4m3_from_f32(second) << 8
		    : mt_e5m2_from_f32(first) | (unsigned)mt_e5m2_from_f32(second) << 8;
#endif
}

/* Bits of |x|: of numbers without sign they are in the numbers' order, and a NaN's come last. */
__device__ __forceinline__ unsigned size_bits(float x)
{
	return __float_as_uint(x) & 0x7fffffffu;
}

/* The block's greatest joins *amax. Every thread calls it. */
__device__ __forceinline__ void join_amax(unsigned most, float *amax, unsigned *partial)
{
#pragma unroll
	for (int offset = 16; offset > 0; offset /= 2)
		most = max(most, __shfl_xor_sync(0xffffffffu, most, offset));
	if (threadIdx.x % 32 == 0)
		partial[threadIdx.x / 32] = most;
	__syncthreads();
	if (threadIdx.x != 0)
		return;
	for (unsigned warp = 1; warp < blockDim.x / 32; warp++)
		most = max(most, partial[warp]);
	atomicMax(reinterpret_cast<unsigned *>(amax), most);
}

template <typename T, int N> __global__ void __launch_bounds__(MT_CUDA_THREADS) find_amax(const T *x, int64_t count, float *amax)
{
	__shared__ unsigned partial[MT_CUDA_THREADS / 32];
	unsigned most = 0;
	for (int64_t i = first_item() * N; i < count; i += item_stride() * N) {
		float values[N];
		load_values<T, N>(x + i, count - i, values);
#pragma unroll
		for (int n = 0; n < N; n++)
			most = max(most, size_bits(values[n]));
	}
	join_amax(most, amax, partial);
}

template <typename T> static void amax(const struct mt_cuda_launch *launch, const struct mt_quantize *q)
{
	const int64_t count = q->rows * q->cols;
	const T *x = static_cast<const T *>(q->x);
	float *to = static_cast<float *>(q->amax);
	if (aligned(x))
		MT_LAUNCH((find_amax<T, vector_width<T>>), grid_for(launch, divide_up(count, vector_width<T>)), MT_CUDA_THREADS, 0,
			  launch->stream, x, count, to);
	else
		MT_LAUNCH((find_amax<T, 1>), grid_for(launch, count), MT_CUDA_THREADS, 0, launch->stream, x, count, to);
}

enum mt_status mt_cuda_amax(struct mt_cuda_launch *launch, const struct mt_op *op)
{
	if (!has_type(op->dtype))
		return mt_cuda_no_kernel(op);
	if (op->quantize.rows == 0)
		return MT_OK;
	MT_BY_TYPE(op->dtype, amax, launch, &op->quantize);
	return mt_cuda_launched(op);
}

__global__ void __launch_bounds__(MT_CUDA_THREADS)
	make_scales(const float *amax, float *scale, float *inverse, int64_t count, enum mt_dtype to, int margin)
{
	for (int64_t i = first_item(); i < count; i += item_stride()) {
		const float s = mt_fp8_scale(amax[i], to, margin);
		scale[i] = s;
		inverse[i] = 1 / s;
	}
}

enum mt_status mt_cuda_fp8_scale(struct mt_cuda_launch *launch, const struct mt_op *op)
{
	const struct mt_quantize *q = &op->quantize;
	if (!has_type(op->dtype))
		return mt_cuda_no_kernel(op);
	if (q->rows == 0)
		return MT_OK;
	MT_LAUNCH(make_scales, grid_for(launch, q->cols), MT_CUDA_THREADS, 0, launch->stream, static_cast<const float *>(q->amax),
		  static_cast<float *>(q->scale), static_cast<float *>(q->inverse), q->cols, q->to, q->margin);
	return mt_cuda_launched(op);
}

/* A block has one tile: 256 threads, four to a row of it, each with N elements at a time. */
template <typename T, int N>
__global__ void __launch_bounds__(256) quantize_tile(const T *x, const float *scale, uint8_t *y, uint8_t *y_t, float *amax,
						     int64_t rows, int64_t pad, int64_t cols, bool e4m3)
{
	__shared__ uint8_t tile[TILE][TILE + 4];
	__shared__ unsigned partial[8];
	const int64_t c0 = (int64_t)blockIdx.x * TILE, r0 = (int64_t)blockIdx.y * TILE;
	const int row = (int)threadIdx.x / 4, quarter = (int)threadIdx.x % 4 * 16;
	const int64_t left = cols - c0 - quarter;
	const float s = *scale;
	unsigned most = 0;
	if (r0 + row < rows) {
		const T *from = x + (r0 + row) * cols + c0 + quarter;
		uint8_t *to = y ? y + (r0 + row) * cols + c0 + quarter : NULL;
		for (int i = 0; i < 16 && i < left; i += N) {
			float values[N];
			load_values<T, N>(from + i, left - i, values);
#pragma unroll
			for (int n = 0; n < N; n++) {
				most = max(most, size_bits(values[n]));
				values[n] *= s;
			}
			if constexpr (N == 1) {
				const uint8_t code = (uint8_t)codes_of(values[0], 0.0f, e4m3);
				tile[row][quarter + i] = code;
				if (to)
					to[i] = code;
			} else {
#pragma unroll
				for (int n = 0; n < N; n += 4) {
					const unsigned word = codes_of(values[n], values[n + 1], e4m3) |
							      codes_of(values[n + 2], values[n + 3], e4m3) << 16;
					write(&tile[row][quarter + i + n], word);
					if (to)
						write(to + i + n, word);
				}
			}
		}
	} else {
		for (int i = 0; i < 16; i++)
			tile[row][quarter + i] = 0;
	}
	__syncthreads();
	if (y_t && c0 + row < cols) {
		uint8_t *to = y_t + (c0 + row) * (rows + pad) + r0 + quarter;
		const int64_t more = rows + pad - r0 - quarter;
		for (int i = 0; i < 16 && i < more; i += 4) {
			uint8_t codes[4];
#pragma unroll
			for (int n = 0; n < 4; n++)
				codes[n] = tile[quarter + i + n][row];
			if (N > 1 && more - i >= 4) {
				write(to + i, (unsigned)(codes[0] | codes[1] << 8 | codes[2] << 16 | (unsigned)codes[3] << 24));
			} else {
				for (int n = 0; n < 4 && i + n < more; n++)
					to[i + n] = codes[n];
			}
		}
	}
	if (amax)
		join_amax(most, amax, partial);
}

template <typename T, int N> static void launch_tiles(const struct mt_cuda_launch *launch, const struct mt_quantize *q)
{
	const dim3 grid((unsigned)divide_up(q->cols, TILE), (unsigned)divide_up(q->rows + q->pad, TILE));
	MT_LAUNCH((quantize_tile<T, N>), grid, 256, 0, launch->stream, static_cast<const T *>(q->x),
		  static_cast<const float *>(q->scale), static_cast<uint8_t *>(q->y), static_cast<uint8_t *>(q->y_t),
		  static_cast<float *>(q->amax), q->rows, q->pad, q->cols, q->to == MT_E4M3);
}

/* In words where each row of every matrix begins at one. */
template <typename T> static void quantize(const struct mt_cuda_launch *launch, const struct mt_quantize *q)
{
	if (aligned(q->x, q->y, q->y_t) && q->cols % 16 == 0 && (q->rows + q->pad) % 16 == 0)
		launch_tiles<T, vector_width<T>>(launch, q);
	else
		launch_tiles<T, 1>(launch, q);
}

enum mt_status mt_cuda_quantize(struct mt_cuda_launch *launch, const struct mt_op *op)
{
	if (!has_type(op->dtype))
		return mt_cuda_no_kernel(op);
	if (op->quantize.rows == 0)
		return MT_OK;
	if (divide_up(op->quantize.rows + op->quantize.pad, TILE) > 65535)
		return mt_fail(MT_UNAVAILABLE, "quantize: %lld rows are more than a grid has", (long long)op->quantize.rows);
	MT_BY_TYPE(op->dtype, quantize, launch, &op->quantize);
	return mt_cuda_launched(op);
}
