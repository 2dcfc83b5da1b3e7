/* fp8: the two types of 8 bits (Micikevicius et al. 2022, arXiv:2209.05433; OCP 8-bit floating point specification).
 *   e4m3  4 bits of exponent, 3 of fraction: to 448 in steps of 1/8 of a power of two, least 2^-9; no infinity, one NaN a sign
 *   e5m2  5 and 2: to 57344, least 2^-16; infinity and NaN as IEEE 754 has them
 * Conversion to them is to nearest even and saturates: what is beyond the largest number, infinity too, becomes that; NaN stays
 * NaN (0x7f, as NVIDIA's instructions give it). Without branches, so that loops become vector code. */
#ifndef MT_KERNELS_FP8_H
#define MT_KERNELS_FP8_H

#include "kernels/dtype.h"

#define MT_E4M3_MOST 448.0f
#define MT_E5M2_MOST 57344.0f

static inline bool mt_dtype_is_fp8(enum mt_dtype dtype)
{
	return dtype == MT_E4M3 || dtype == MT_E5M2;
}

MT_CONVERSION float mt_fp8_most(enum mt_dtype dtype)
{
	return dtype == MT_E4M3 ? MT_E4M3_MOST : MT_E5M2_MOST;
}

/* The types of a product's operands: hybrid has the gradients in e5m2, as they need the range more than the digits. */
enum mt_fp8_format { MT_FP8_OFF, MT_FP8_HYBRID, MT_FP8_E4M3 };

static inline enum mt_dtype mt_fp8_gradient(int format)
{
	return format == MT_FP8_HYBRID ? MT_E5M2 : MT_E4M3;
}

/* What brings amax to the greatest number of the type, with 2^margin to spare. 1 where there is no amax to go by: 0, infinite, NaN.
 */
MT_CONVERSION float mt_fp8_scale(float amax, enum mt_dtype to, int margin)
{
	float scale = mt_fp8_most(to) / amax * mt_f32_of_bits((uint32_t)(127 - margin) << 23);
	scale = scale > 0x1.fffffep127f ? 0x1.fffffep127f : scale;
	return amax > 0 && amax <= 0x1.fffffep127f ? scale : 1;
}

MT_CONVERSION float mt_e5m2_to_f32(uint8_t value)
{
	return mt_f16_to_f32((uint16_t)(value << 8)); /* its upper half */
}

MT_CONVERSION float mt_e4m3_to_f32(uint8_t value)
{
	uint32_t rest = (uint32_t)(value & 0x7fu) << 20, sign = (uint32_t)(value & 0x80u) << 24;
	uint32_t bits = mt_f32_bits(mt_f32_of_bits(rest) * 0x1p120f);
	return mt_f32_of_bits((rest == 0x07f00000u ? 0x7fc00000u : bits) | sign);
}

/* Below the least normal number an addition rounds, as in mt_f16_from_f32: the last place of `magic` is that of the type. */
MT_CONVERSION uint8_t mt_fp8_round(float value, int fraction_bits, uint32_t bias, float magic, uint32_t most)
{
	uint32_t bits = mt_f32_bits(value), x = bits & 0x7fffffffu, sign = bits >> 24 & 0x80u;
	int drop = 23 - fraction_bits;
	uint32_t normal = ((x + (1u << (drop - 1)) - 1 + (x >> drop & 1u)) >> drop) - ((127 - bias) << fraction_bits);
	uint32_t small = mt_f32_bits(mt_f32_of_bits(x) + magic) - mt_f32_bits(magic);
	uint32_t code = x < (128 - bias) << 23 ? small : normal;
	code = x >= 0x7f000000u || code > most ? most : code;
	code = x > 0x7f800000u ? 0x7fu : code;
	return (uint8_t)(code | sign);
}

MT_CONVERSION uint8_t mt_e4m3_from_f32(float value)
{
	return mt_fp8_round(value, 3, 7, 0x1p14f, 0x7e);
}

MT_CONVERSION uint8_t mt_e5m2_from_f32(float value)
{
	return mt_fp8_round(value, 2, 15, 0x1p7f, 0x7b);
}

#endif
