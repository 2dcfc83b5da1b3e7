/* dtype: element types of tensors, and the conversions of the narrow ones. All are without branches, so that loops over them
 * become vector code. */
#ifndef MT_KERNELS_DTYPE_H
#define MT_KERNELS_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* The CUDA kernels use the same. */
#ifdef __CUDACC__
#define MT_CONVERSION static __host__ __device__ inline
#else
#define MT_CONVERSION static inline
#endif

enum mt_dtype { MT_F32, MT_BF16, MT_F64, MT_F16, MT_I32, MT_E4M3, MT_E5M2, MT_DTYPE_COUNT };

static inline size_t mt_dtype_bytes(enum mt_dtype dtype)
{
	static const size_t bytes[MT_DTYPE_COUNT] = {4, 2, 8, 2, 4, 1, 1};
	return bytes[dtype];
}

const char *mt_dtype_name(enum mt_dtype dtype); /* "f32", "bf16", "f64", "f16", "i32", "e4m3", "e5m2" */

/* bf16 or f16: what parameters and activations are stored in when the master weights are f32. */
static inline bool mt_dtype_is_half(enum mt_dtype dtype)
{
	return dtype == MT_BF16 || dtype == MT_F16;
}

MT_CONVERSION uint32_t mt_f32_bits(float value)
{
	uint32_t bits;
	memcpy(&bits, &value, sizeof bits);
	return bits;
}

MT_CONVERSION float mt_f32_of_bits(uint32_t bits)
{
	float value;
	memcpy(&value, &bits, sizeof value);
	return value;
}

/* bf16 is the upper half of an f32; rounding is to nearest even, NaN stays NaN. */
MT_CONVERSION float mt_bf16_to_f32(uint16_t value)
{
	return mt_f32_of_bits((uint32_t)value << 16);
}

MT_CONVERSION uint16_t mt_bf16_from_f32(float value)
{
	uint32_t bits;
	memcpy(&bits, &value, sizeof bits);
	if ((bits & 0x7fffffffu) > 0x7f800000u)
		return (uint16_t)((bits >> 16) | 0x40u);
	return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/* f16 is IEEE 754's: 5 bits of exponent, 10 of fraction, to 65504. The exponent is moved by a multiplication, which is exact for
 * numbers below the least normal one too. */
MT_CONVERSION float mt_f16_to_f32(uint16_t value)
{
	uint32_t rest = (uint32_t)(value & 0x7fffu) << 13, sign = (uint32_t)(value & 0x8000u) << 16;
	uint32_t bits = mt_f32_bits(mt_f32_of_bits(rest) * 0x1p112f);
	uint32_t special = rest >= 0x0f800000u ? 0x7f800000u : 0; /* infinity, NaN */
	return mt_f32_of_bits(bits | special | sign);
}

/* To nearest even; what is 65520 or more becomes infinity, NaN stays NaN. Below the least normal number an addition rounds: the
 * last place of 0.5 as f32 is that of the least f16. */
MT_CONVERSION uint16_t mt_f16_from_f32(float value)
{
	uint32_t bits = mt_f32_bits(value), x = bits & 0x7fffffffu, sign = bits >> 16 & 0x8000u;
	uint32_t normal = ((x + 0xfffu + (x >> 13 & 1u)) >> 13) - (112u << 10);
	uint32_t small = mt_f32_bits(mt_f32_of_bits(x) + 0.5f) - 0x3f000000u;
	uint32_t code = x < 0x38800000u ? small : normal;
	code = x >= 0x47800000u ? 0x7c00u : code;
	code = x > 0x7f800000u ? 0x7e00u : code;
	return (uint16_t)(code | sign);
}

#endif
