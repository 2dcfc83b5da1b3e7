/* vector: what all kernels here are built from: loads and stores of either type, and exp, in forms that gcc and clang
 * turn into vector code inside `#pragma omp simd` loops without -ffast-math.
 *
 * A kernel is written once as an always-inlined function of a constant dtype and instantiated by DISPATCH. */
#ifndef MT_KERNELS_CPU_ISA_VECTOR_H
#define MT_KERNELS_CPU_ISA_VECTOR_H

#include "kernels/cpu/isa.h"

#include <math.h>

#define INLINE static inline __attribute__((always_inline))

/* Calls body(..., MT_F32), body(..., MT_BF16) or body(..., MT_F16): three loops, each with its type known to the compiler. */
#define DISPATCH(dtype, body, ...)                                                                                                 \
	do {                                                                                                                       \
		if ((dtype) == MT_BF16)                                                                                            \
			body(__VA_ARGS__, MT_BF16);                                                                                \
		else if ((dtype) == MT_F16)                                                                                        \
			body(__VA_ARGS__, MT_F16);                                                                                 \
		else                                                                                                               \
			body(__VA_ARGS__, MT_F32);                                                                                 \
	} while (0)

INLINE float load(const void *p, int64_t i, enum mt_dtype dtype)
{
	if (dtype == MT_F32)
		return ((const float *)p)[i];
	return dtype == MT_BF16 ? mt_bf16_to_f32(((const uint16_t *)p)[i]) : mt_f16_to_f32(((const uint16_t *)p)[i]);
}

/* mt_bf16_from_f32 without a branch. */
INLINE uint16_t round_bf16(float value)
{
	uint32_t bits, rounded, nan;
	memcpy(&bits, &value, sizeof bits);
	rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
	nan = bits | 0x400000u;
	return (uint16_t)(((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded) >> 16);
}

INLINE void store(void *p, int64_t i, float value, enum mt_dtype dtype)
{
	if (dtype == MT_BF16)
		((uint16_t *)p)[i] = round_bf16(value);
	else if (dtype == MT_F16)
		((uint16_t *)p)[i] = mt_f16_from_f32(value);
	else
		((float *)p)[i] = value;
}

/* The value that store() would leave behind. */
INLINE float as_stored(float value, enum mt_dtype dtype)
{
	if (dtype == MT_F32)
		return value;
	return dtype == MT_BF16 ? mt_bf16_to_f32(round_bf16(value)) : mt_f16_to_f32(mt_f16_from_f32(value));
}

/* Pointer to element i. */
INLINE void *at(const void *p, int64_t i, enum mt_dtype dtype)
{
	return (char *)(uintptr_t)p + i * (dtype == MT_F32 ? 4 : 2);
}

/* Loops with much arithmetic a byte, over arrays that come from memory, go in chunks of CHUNK elements and ask for the
 * next chunk before they work on this one: a core's window of instructions sees only one or two cache lines ahead. */
#define CHUNK 512
INLINE void prefetch(const void *p, int64_t i, int64_t end, enum mt_dtype dtype)
{
	const int64_t last = i + CHUNK < end ? i + CHUNK : end;
	for (int64_t j = i; j < last; j += 64 / (dtype == MT_F32 ? 4 : 2))
		__builtin_prefetch(at(p, j, dtype), 0, 3);
}

/* condition ? a : b without a branch, whatever the compiler thinks of traps. */
INLINE float select_float(bool condition, float a, float b)
{
	uint32_t mask = -(uint32_t)condition, a_bits, b_bits;
	memcpy(&a_bits, &a, sizeof a_bits);
	memcpy(&b_bits, &b, sizeof b_bits);
	a_bits = (a_bits & mask) | (b_bits & ~mask);
	memcpy(&a, &a_bits, sizeof a);
	return a;
}

/* exp(x) for x <= 0, relative error 1e-7, from Cephes' expf: x = n ln2 + r, a polynomial in r, scaled by 2^n through the
 * exponent bits. Below -87, where the result would be denormal, it is exp(-87) = 1.6e-38; NaN stays NaN.
 * The clamp is done on the bits, because gcc 12 makes a branch of it otherwise and then vectorises no loop that calls this
 * (floating-point comparisons may trap; only AVX-512 has masks for that). */
INLINE float exp_nonpositive(float x)
{
	x = select_float(x < -87.0f, -87.0f, x);
	float n = rintf(x * 1.44269504088896341f);
	float r = x - n * 0.693359375f;
	r = r + n * 2.12194440e-4f;
	float p = 1.9875691500e-4f;
	p = p * r + 1.3981999507e-3f;
	p = p * r + 8.3334519073e-3f;
	p = p * r + 4.1665795894e-2f;
	p = p * r + 1.6666665459e-1f;
	p = p * r + 5.0000001201e-1f;
	p = p * r * r + r + 1.0f;
	uint32_t bits = ((uint32_t)(int32_t)n + 127) << 23; /* unsigned: NaN becomes any number, and p is NaN */
	float scale;
	memcpy(&scale, &bits, sizeof scale);
	return p * scale;
}

#endif
