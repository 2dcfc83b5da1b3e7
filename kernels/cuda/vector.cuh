/* vector: elements as the kernels see them. Memory is moved in packs of N elements, 16 bytes at once where N is
 * vector_width<T>, one element where it is 1; arithmetic is in f32.
 *
 * A kernel is a template over T (float, __nv_bfloat16, __half) and N, and the launcher takes the wide form when every pointer and
 * row length allows it. Loads are plain ones and not those of read-only memory, since outputs may alias inputs. */
#ifndef MT_KERNELS_CUDA_VECTOR_CUH
#define MT_KERNELS_CUDA_VECTOR_CUH

#include "kernels/cuda/launch.cuh"
#include "kernels/scratch.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

template <typename T> constexpr bool is_f16 = false;
template <> constexpr bool is_f16<__half> = true;

/* The types there are kernels for, and function<T>(...) for the one that is `dtype`. */
static inline bool has_type(enum mt_dtype dtype)
{
	return dtype == MT_F32 || mt_dtype_is_half(dtype);
}

#define MT_BY_TYPE(dtype, function, ...)                                                                                           \
	((dtype) == MT_F32    ? function<float>(__VA_ARGS__)                                                                       \
	 : (dtype) == MT_BF16 ? function<__nv_bfloat16>(__VA_ARGS__)                                                               \
			      : function<__half>(__VA_ARGS__))

template <typename T> constexpr int vector_width = 16 / (int)sizeof(T);

/* One access of V. The emulator checks that the address suits it. */
template <typename V> __device__ __forceinline__ V read(const void *p)
{
#ifdef MT_CUDA_HOST
	return cuda_host_read(static_cast<const V *>(p));
#else
	return *static_cast<const V *>(p);
#endif
}

template <typename V> __device__ __forceinline__ void write(void *p, V value)
{
#ifdef MT_CUDA_HOST
	cuda_host_write(static_cast<V *>(p), value);
#else
	*static_cast<V *>(p) = value;
#endif
}

/* The same of global memory, and never in parts: nvcc may split a plain store of a vector into its words where it moved the address
 * computation out of a loop. */
template <typename V> __device__ __forceinline__ void write_whole(void *p, V value)
{
#ifdef MT_CUDA_HOST
	write(p, value);
#else
	__stwb(static_cast<V *>(p), value);
#endif
}

/* N elements as they are in memory. */
template <typename T, int N> struct pack {
	static_assert(N * sizeof(T) % 16 == 0, "a pack is one element or whole vectors");
	unsigned words[N * sizeof(T) / 4];
};
template <typename T> struct pack<T, 1> {
	T element;
};

template <typename T, int N> __device__ __forceinline__ pack<T, N> load(const T *p)
{
	pack<T, N> x;
	if constexpr (N == 1) {
		x.element = *p;
	} else {
#pragma unroll
		for (int w = 0; w < N * (int)sizeof(T) / 4; w += 4) {
			uint4 v = read<uint4>(p + w * 4 / (int)sizeof(T));
			x.words[w] = v.x, x.words[w + 1] = v.y, x.words[w + 2] = v.z, x.words[w + 3] = v.w;
		}
	}
	return x;
}

template <typename T, int N> __device__ __forceinline__ void store(T *p, const pack<T, N> &x)
{
	if constexpr (N == 1) {
		*p = x.element;
	} else {
#pragma unroll
		for (int w = 0; w < N * (int)sizeof(T) / 4; w += 4)
			write(p + w * 4 / (int)sizeof(T), make_uint4(x.words[w], x.words[w + 1], x.words[w + 2], x.words[w + 3]));
	}
}

__device__ __forceinline__ float to_f32(float x)
{
	return x;
}

__device__ __forceinline__ float to_f32(__nv_bfloat16 x)
{
	return __bfloat162float(x);
}

__device__ __forceinline__ float to_f32(__half x)
{
	return __half2float(x);
}

template <typename T> __device__ __forceinline__ T from_f32(float x)
{
	if constexpr (is_f16<T>)
		return __float2half_rn(x);
	else if constexpr (sizeof(T) == 2)
		return __float2bfloat16_rn(x);
	else
		return x;
}

/* The lower or the upper f16 of a word. */
__device__ __forceinline__ float half_of(unsigned word, int upper)
{
	__half2 pair;
	memcpy(&pair, &word, sizeof pair);
	return __half2float(upper ? pair.y : pair.x);
}

/* Element i of a pack; i is a constant once the loop around is unrolled. */
template <typename T, int N> __device__ __forceinline__ float get(const pack<T, N> &x, int i)
{
	if constexpr (N == 1)
		return to_f32(x.element);
	else if constexpr (is_f16<T>)
		return half_of(x.words[i / 2], i % 2);
	else if constexpr (sizeof(T) == 2)
		return __uint_as_float(i % 2 ? x.words[i / 2] & 0xffff0000u : x.words[i / 2] << 16);
	else
		return __uint_as_float(x.words[i]);
}

template <typename T, int N> __device__ __forceinline__ void unpack(const pack<T, N> &x, float (&values)[N])
{
#pragma unroll
	for (int i = 0; i < N; i++)
		values[i] = get(x, i);
}

/* Two f32 rounded to a type of two bytes, in one instruction. */
template <typename T> __device__ __forceinline__ unsigned rounded_pair(float low, float high)
{
	unsigned bits;
	if constexpr (is_f16<T>) {
		__half2 pair = __floats2half2_rn(low, high);
		memcpy(&bits, &pair, sizeof bits);
	} else {
		__nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
		memcpy(&bits, &pair, sizeof bits);
	}
	return bits;
}

template <typename T, int N> __device__ __forceinline__ pack<T, N> packed(const float (&values)[N])
{
	pack<T, N> x;
	if constexpr (N == 1) {
		x.element = from_f32<T>(values[0]);
	} else if constexpr (sizeof(T) == 2) {
#pragma unroll
		for (int i = 0; i < N; i += 2)
			x.words[i / 2] = rounded_pair<T>(values[i], values[i + 1]);
	} else {
#pragma unroll
		for (int i = 0; i < N; i++)
			x.words[i] = __float_as_uint(values[i]);
	}
	return x;
}

/* The first `count` of N elements at the end of an array that has no more; the others are 0. */
template <typename T, int N> __device__ __forceinline__ void load_values(const T *p, int64_t count, float (&values)[N])
{
	if (count >= N) {
		unpack(load<T, N>(p), values);
	} else {
#pragma unroll
		for (int i = 0; i < N; i++)
			values[i] = i < count ? to_f32(p[i]) : 0.0f;
	}
}

template <typename T, int N> __device__ __forceinline__ void store_values(T *p, int64_t count, const float (&values)[N])
{
	if (count >= N) {
		store(p, packed<T, N>(values));
	} else {
#pragma unroll
		for (int i = 0; i < N; i++)
			if (i < count)
				p[i] = from_f32<T>(values[i]);
	}
}

/* exp in one special-function instruction: relative error 2^-22 + |x| 2^-23, and 0 below the least normal number. */
__device__ __forceinline__ float fast_exp(float x)
{
#ifdef MT_CUDA_HOST
	return exp2f(x * 1.4426950408889634f);
#else
	float y;
	asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * 1.4426950408889634f));
	return y;
#endif
}

/* 1 / (1 + exp(-x)), for every x: exp overflows to infinity, and that gives 0. */
__device__ __forceinline__ float sigmoid(float x)
{
	return __fdividef(1.0f, 1.0f + fast_exp(-x));
}

/* item / per_row; 64-bit division is slow, and seldom needed. */
__device__ __forceinline__ int64_t row_of(int64_t item, int64_t per_row)
{
	return (item | per_row) >> 32 ? item / per_row : (int64_t)((unsigned)item / (unsigned)per_row);
}

/* Launchers: a kernel of 256 threads over `items` in a grid-stride loop: a block for each 256, at most 16 a multiprocessor. */
#define MT_CUDA_THREADS 256

static inline unsigned grid_for(const struct mt_cuda_launch *launch, int64_t items)
{
	int64_t blocks = (items + MT_CUDA_THREADS - 1) / MT_CUDA_THREADS, most = 16 * (int64_t)launch->sm_count;
	return (unsigned)(blocks < most ? blocks : most);
}

__device__ __forceinline__ int64_t first_item(void)
{
	return (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
}

__device__ __forceinline__ int64_t item_stride(void)
{
	return (int64_t)gridDim.x * blockDim.x;
}

static inline bool aligned(const void *p)
{
	return (uintptr_t)p % 16 == 0;
}

template <typename... Rest> static inline bool aligned(const void *p, Rest... rest)
{
	return aligned(p) && aligned(rest...);
}

static inline int64_t divide_up(int64_t a, int64_t b)
{
	return (a + b - 1) / b;
}

#endif
