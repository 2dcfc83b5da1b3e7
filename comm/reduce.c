/* reduce: see reduce.h. Plain loops; they run at the speed of memory when vectorised. */
#include "comm/reduce.h"

/* The greater, and NaN if either is: (a > b or a is NaN) ? a : b. */
#define GREATER(a, b) ((a) > (b) || (a) != (a) ? (a) : (b))

#define COMBINE(name, type)                                                                                                        \
	static void add_##name(type *out, const type *a, const type *b, int64_t count)                                             \
	{                                                                                                                          \
		_Pragma("omp simd") for (int64_t i = 0; i < count; i++) out[i] = (type)(a[i] + b[i]);                              \
	}                                                                                                                          \
	static void max_##name(type *out, const type *a, const type *b, int64_t count)                                             \
	{                                                                                                                          \
		_Pragma("omp simd") for (int64_t i = 0; i < count; i++) out[i] = GREATER(a[i], b[i]);                              \
	}

COMBINE(f32, float)
COMBINE(f64, double)

static void add_i32(uint32_t *out, const uint32_t *a, const uint32_t *b, int64_t count)
{
#pragma omp simd
	for (int64_t i = 0; i < count; i++)
		out[i] = a[i] + b[i]; /* wraps */
}

static void max_i32(int32_t *out, const int32_t *a, const int32_t *b, int64_t count)
{
#pragma omp simd
	for (int64_t i = 0; i < count; i++)
		out[i] = a[i] > b[i] ? a[i] : b[i];
}

static void add_bf16(uint16_t *out, const uint16_t *a, const uint16_t *b, int64_t count)
{
#pragma omp simd
	for (int64_t i = 0; i < count; i++)
		out[i] = mt_bf16_from_f32(mt_bf16_to_f32(a[i]) + mt_bf16_to_f32(b[i]));
}

static void max_bf16(uint16_t *out, const uint16_t *a, const uint16_t *b, int64_t count)
{
#pragma omp simd
	for (int64_t i = 0; i < count; i++) {
		float x = mt_bf16_to_f32(a[i]), y = mt_bf16_to_f32(b[i]);
		out[i] = x > y || x != x ? a[i] : b[i];
	}
}

static void add_f16(uint16_t *out, const uint16_t *a, const uint16_t *b, int64_t count)
{
#pragma omp simd
	for (int64_t i = 0; i < count; i++)
		out[i] = mt_f16_from_f32(mt_f16_to_f32(a[i]) + mt_f16_to_f32(b[i]));
}

static void max_f16(uint16_t *out, const uint16_t *a, const uint16_t *b, int64_t count)
{
#pragma omp simd
	for (int64_t i = 0; i < count; i++) {
		float x = mt_f16_to_f32(a[i]), y = mt_f16_to_f32(b[i]);
		out[i] = x > y || x != x ? a[i] : b[i];
	}
}

void mt_comm_combine(void *out, const void *a, const void *b, int64_t count, enum mt_dtype dtype, enum mt_reduction reduction)
{
	bool max = reduction == MT_MAX;
	switch (dtype) {
	case MT_F32:
		(max ? max_f32 : add_f32)(out, a, b, count);
		break;
	case MT_BF16:
		(max ? max_bf16 : add_bf16)(out, a, b, count);
		break;
	case MT_F16:
		(max ? max_f16 : add_f16)(out, a, b, count);
		break;
	case MT_F64:
		(max ? max_f64 : add_f64)(out, a, b, count);
		break;
	default:
		if (max)
			max_i32(out, a, b, count);
		else
			add_i32(out, a, b, count);
	}
}
