/* ptx: the instructions of sm_80 and later that C++ has no words for: tensor cores, matrix loads, asynchronous copies.
 *
 * Each is one instruction of the PTX ISA (8.x, sections of the names below). With lane = 4 g + t (g 0..7, t 0..3), a warp
 * holds the fragments of the product D(16,8) = A(16,16) B(16,8) + D as
 *   A  a[0] (g, 2t..2t+1)   a[1] (g+8, 2t..)   a[2] (g, 2t+8..)   a[3] (g+8, 2t+8..)      two elements a register, low half first
 *   B  b[0] (2t..2t+1, g)   b[1] (2t+8.., g)
 *   D  d[0] (g, 2t)  d[1] (g, 2t+1)  d[2] (g+8, 2t)  d[3] (g+8, 2t+1)                     f32
 * so two neighbouring tiles of D, rounded to 16 bits, are one A fragment. ldmatrix loads four 8x8 matrices of 16-bit elements
 * whose 16-byte rows the lanes point at, matrix m by lanes 8m..8m+7; register m of a lane gets row g, columns 2t..2t+1 of
 * matrix m, transposed: rows 2t..2t+1 of column g. The tests' emulator brings its own bodies. */
#ifndef MT_KERNELS_CUDA_PTX_CUH
#define MT_KERNELS_CUDA_PTX_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#ifndef MT_CUDA_HOST

static __device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], __nv_bfloat16)
{
	asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
	    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
	    : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

static __device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], __half)
{
	asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
	    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
	    : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* An address in shared memory, half as wide as a pointer; bytes may be added. */
typedef uint32_t shared_address;

static __device__ __forceinline__ shared_address address_of(const void *shared)
{
	return (uint32_t)__cvta_generic_to_shared(shared);
}

static __device__ __forceinline__ void ldmatrix(uint32_t (&r)[4], shared_address row)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
		     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
		     : "r"(row)
		     : "memory");
}

static __device__ __forceinline__ void ldmatrix_trans(uint32_t (&r)[4], shared_address row)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
		     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
		     : "r"(row)
		     : "memory");
}

/* 16 bytes from global to shared memory; zeros when not `real`, and then `global` is not read. */
static __device__ __forceinline__ void copy_async(void *shared, const void *global, bool real)
{
	asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address_of(shared)), "l"(global), "r"(real ? 16 : 0)
		     : "memory");
}

/* Ends a group of copies. */
static __device__ __forceinline__ void copy_commit(void)
{
	asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Waits until at most LEFT of this thread's groups, the latest, are under way. */
template <int LEFT> static __device__ __forceinline__ void copy_wait(void)
{
	asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

/* 2^x, 0 for -infinity. */
static __device__ __forceinline__ float exp2_fast(float x)
{
	float y;
	asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
	return y;
}

#endif
#endif
