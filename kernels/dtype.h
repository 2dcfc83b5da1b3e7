/* dtype: element types of tensors. */
#ifndef MT_KERNELS_DTYPE_H
#define MT_KERNELS_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum mt_dtype { MT_F32, MT_BF16, MT_F64, MT_I32, MT_DTYPE_COUNT };

static inline size_t mt_dtype_bytes(enum mt_dtype dtype)
{
	static const size_t bytes[MT_DTYPE_COUNT] = {4, 2, 8, 4};
	return bytes[dtype];
}

const char *mt_dtype_name(enum mt_dtype dtype); /* "f32", "bf16", "f64", "i32" */

/* bf16 is the upper half of an f32; rounding is to nearest even, NaN stays NaN. */
static inline float mt_bf16_to_f32(uint16_t value)
{
	uint32_t bits = (uint32_t)value << 16;
	float result;
	memcpy(&result, &bits, sizeof result);
	return result;
}

static inline uint16_t mt_bf16_from_f32(float value)
{
	uint32_t bits;
	memcpy(&bits, &value, sizeof bits);
	if ((bits & 0x7fffffffu) > 0x7f800000u)
		return (uint16_t)((bits >> 16) | 0x40u);
	return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

#endif
