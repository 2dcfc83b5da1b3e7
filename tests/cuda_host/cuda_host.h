/* cuda_host: enough of CUDA to compile our kernels with g++ and run them on the processor, for tests. It is included before the
 * first line of each .cu file, which is then plain C++.
 *
 * A block's threads are fibers of one thread of the process, blocks run one after another, and the order of everything is the
 * test's to choose (control.h). A thread runs until it ends, or waits at __syncthreads or at a warp's operation (__shfl_*_sync,
 * __ballot_sync, __syncwarp...), which takes place when every lane of its mask has come to the same one. So there is no lockstep
 * to rely on between them, as there is none on a GPU since Volta. What is undefined on a GPU is an error of the launch here:
 * threads that wait at different barriers or not at all, masks that name a lane that is gone or itself not there, values read
 * from a lane that gave none, misaligned vectors, blocks or shared memory too large. Shared memory asked for by the launch holds
 * NaN before each block; with the address sanitizer its ends, and those of memory that the test allocates, are watched.
 *
 * What is missing is added when a kernel needs it; types.h has the vectors and 16-bit types. PTX belongs in small wrappers with
 * a second body here. */
#ifndef MT_TESTS_CUDA_HOST_H
#define MT_TESTS_CUDA_HOST_H

#define MT_CUDA_HOST 1

#include <float.h>
#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define __global__
#define __device__
#define __host__
#define __constant__    const
#define __shared__      static
#define __forceinline__ inline
#define __noinline__    __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __grid_constant__

#include "tests/cuda_host/types.h"

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
static const int warpSize = 32;

/* The runtime. */
typedef struct CUstream_st *cudaStream_t;
typedef int cudaError_t;
enum { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9, cudaErrorLaunchFailure = 719 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8, cudaFuncAttributePreferredSharedMemoryCarveout = 9 };

extern "C" {
cudaError_t cudaGetLastError(void);
cudaError_t cudaPeekAtLastError(void);
const char *cudaGetErrorString(cudaError_t error);
cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream);

/* Allows a kernel more than 48 KiB of shared memory; the largest here is that of sm_90. */
cudaError_t cuda_host_allow_shared(const void *kernel, size_t bytes);
/* Runs body(closure) for every thread of the grid. */
void cuda_host_run(const char *name, const void *kernel, dim3 grid, dim3 block, size_t shared_bytes,
		   void (*body)(const void *closure), const void *closure);
void *cuda_host_shared(void);
void cuda_host_barrier(const char *file, int line);
/* Ends the launch from within a thread; does not return. */
[[noreturn]] void cuda_host_fault(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* One operation of a warp, `kind` its name: waits for the lanes of the mask; returns the values they gave, by lane. */
const uint64_t *cuda_host_exchange(const char *kind, unsigned mask, uint64_t value);
unsigned cuda_host_lane(void);
}

template <typename Kernel> cudaError_t cudaFuncSetAttribute(Kernel *kernel, cudaFuncAttribute attribute, int value)
{
	return attribute == cudaFuncAttributeMaxDynamicSharedMemorySize
		       ? cuda_host_allow_shared(reinterpret_cast<const void *>(kernel), (size_t)value)
		       : (cudaError_t)cudaSuccess;
}

template <typename Body>
void cuda_host_launch(const char *name, const void *kernel, dim3 grid, dim3 block, size_t shared_bytes, const Body &body)
{
	cuda_host_run(
		name, kernel, grid, block, shared_bytes, [](const void *closure) { (*(const Body *)closure)(); }, &body);
}

#define MT_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                                                  \
	((void)(stream), cuda_host_launch(#kernel, reinterpret_cast<const void *>(kernel), (grid), (block),                        \
					  (size_t)(shared_bytes), [=]() { (kernel)(__VA_ARGS__); }))
#define MT_SHARED(type, name) type *name = static_cast<type *>(cuda_host_shared())

/* Barriers and warps. */
#define __syncthreads() cuda_host_barrier(__FILE__, __LINE__)

static inline void __syncwarp(unsigned mask = 0xffffffffu)
{
	cuda_host_exchange("__syncwarp", mask, 0);
}

static inline void __threadfence(void)
{
}

static inline unsigned __ballot_sync(unsigned mask, int predicate)
{
	const uint64_t *values = cuda_host_exchange("__ballot_sync", mask, predicate != 0);
	unsigned ballot = 0;
	for (unsigned lane = 0; lane < 32; lane++)
		ballot |= mask >> lane & 1 ? (unsigned)values[lane] << lane : 0;
	return ballot;
}

static inline int __any_sync(unsigned mask, int predicate)
{
	return __ballot_sync(mask, predicate) != 0;
}

static inline int __all_sync(unsigned mask, int predicate)
{
	return __ballot_sync(mask, predicate) == mask;
}

template <typename T> unsigned __match_any_sync(unsigned mask, T value)
{
	uint64_t bits = 0;
	memcpy(&bits, &value, sizeof value);
	const uint64_t *values = cuda_host_exchange("__match_any_sync", mask, bits);
	unsigned same = 0;
	for (unsigned lane = 0; lane < 32; lane++)
		same |= (unsigned)(mask >> lane & 1 && values[lane] == bits) << lane;
	return same;
}

/* Takes the value of lane `from`, which must take part. */
template <typename T> T cuda_host_take(const char *kind, unsigned mask, T value, unsigned from)
{
	static_assert(sizeof(T) <= 8, "shuffles move 4 or 8 bytes");
	uint64_t bits = 0;
	memcpy(&bits, &value, sizeof value);
	const uint64_t *values = cuda_host_exchange(kind, mask, bits);
	if (!(mask >> from & 1))
		cuda_host_fault("%s reads lane %u, which is not in the mask %#x", kind, from, mask);
	memcpy(&value, &values[from], sizeof value);
	return value;
}

template <typename T> T __shfl_sync(unsigned mask, T value, int from, int width = 32)
{
	unsigned first = cuda_host_lane() & ~(unsigned)(width - 1);
	return cuda_host_take("__shfl_sync", mask, value, first | ((unsigned)from & (unsigned)(width - 1)));
}

template <typename T> T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32)
{
	unsigned lane = cuda_host_lane(), first = lane & ~(unsigned)(width - 1);
	return cuda_host_take("__shfl_up_sync", mask, value, lane < first + delta ? lane : lane - delta);
}

template <typename T> T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32)
{
	unsigned lane = cuda_host_lane(), end = (lane & ~(unsigned)(width - 1)) + (unsigned)width;
	return cuda_host_take("__shfl_down_sync", mask, value, lane + delta >= end ? lane : lane + delta);
}

template <typename T> T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32)
{
	unsigned lane = cuda_host_lane(), end = (lane & ~(unsigned)(width - 1)) + (unsigned)width;
	unsigned from = lane ^ (unsigned)bits;
	return cuda_host_take("__shfl_xor_sync", mask, value, from >= end ? lane : from);
}

/* Memory: cache hints do nothing; an address must suit the size of what is there, as on a GPU. */
template <typename T> void cuda_host_aligned(const T *p)
{
	if ((uintptr_t)p % sizeof(T))
		cuda_host_fault("misaligned address %p of %zu bytes", (const void *)p, sizeof(T));
}

template <typename T> T cuda_host_read(const T *p)
{
	cuda_host_aligned(p);
	return *p;
}

template <typename T> void cuda_host_write(T *p, T value)
{
	cuda_host_aligned(p);
	*p = value;
}

#define __ldg  cuda_host_read
#define __ldcs cuda_host_read
#define __ldcg cuda_host_read
#define __ldlu cuda_host_read
#define __stcs cuda_host_write
#define __stcg cuda_host_write
#define __stwt cuda_host_write

template <typename T> T atomicAdd(T *p, T value)
{
	T old = *p;
	*p = old + value;
	return old;
}

template <typename T> T atomicMax(T *p, T value)
{
	T old = *p;
	*p = old < value ? value : old;
	return old;
}

template <typename T> T atomicCAS(T *p, T expected, T value)
{
	T old = *p;
	*p = old == expected ? value : old;
	return old;
}

/* Integers and fast arithmetic: here it is exact to rounding, there to a few units in the last place. */
static inline int __popc(unsigned x)
{
	return __builtin_popcount(x);
}

static inline int __ffs(int x)
{
	return __builtin_ffs(x);
}

static inline int __clz(int x)
{
	return x ? __builtin_clz((unsigned)x) : 32;
}

#define __expf expf /* macros: the C library has functions of these names */
#define __logf logf

static inline float __fdividef(float x, float y)
{
	return x / y;
}

static inline float __frcp_rn(float x)
{
	return 1 / x;
}

static inline float __fmaf_rn(float x, float y, float z)
{
	return fmaf(x, y, z);
}

static inline void sincospif(float x, float *sine, float *cosine)
{
	*sine = (float)sin(3.14159265358979323846 * (double)x);
	*cosine = (float)cos(3.14159265358979323846 * (double)x);
}

static inline float rsqrtf(float x)
{
	return 1 / sqrtf(x);
}

template <typename T> T min(T a, T b)
{
	return b < a ? b : a;
}

template <typename T> T max(T a, T b)
{
	return a < b ? b : a;
}

#include "tests/cuda_host/ptx.h"

#endif
