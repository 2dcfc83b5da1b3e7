/* kernels_fp8: a device's roundings to fp8 against the reference device's, bit for bit: sizes odd and whole, aligned and not,
 * with numbers beyond the types' ends, infinities and NaN among them. */
#ifndef MT_TESTS_KERNELS_FP8_H
#define MT_TESTS_KERNELS_FP8_H

#include "kernels/fp8.h"
#include "tests/kernels_compare.h"

/* One operation on host memory (or, where the device runs behind, on copies there: see solve). */
static inline void fp8_run(struct mt_device *device, enum mt_op_kind kind, enum mt_dtype dtype, struct mt_quantize q)
{
	struct mt_stream *stream = NULL;
	struct mt_op op = {.kind = kind, .dtype = dtype, .quantize = q};

	assert_int_equal(mt_stream_create(device, MT_STREAM_COMPUTE, "test", &stream), MT_OK);
	if (mt_device_enqueue(device, stream, &op) != MT_OK)
		fail_msg("%s on %s: %s", mt_op_name(kind), device->info.kind, mt_error_message());
	mt_stream_destroy(stream);
}

/* Normals times `spread`, at every 97th place something special. */
static inline void *fp8_values(enum mt_dtype dtype, int64_t count, double spread, bool with_nan)
{
	static const float special[] = {0.0f, -0.0f, 1e30f, -65000.0f, INFINITY, -INFINITY, 1e-9f, 448.0f, 464.0f, NAN};
	void *x = malloc((size_t)count * mt_dtype_bytes(dtype) + 1);
	int kinds = with_nan ? 10 : 9;

	for (int64_t i = 0; i < count; i++) {
		float value = (float)(mt_random_normal(21, 3, (uint64_t)i) * spread);
		if (i % 97 == 96)
			value = special[i / 97 % kinds];
		if (dtype == MT_F32)
			((float *)x)[i] = value;
		else
			((uint16_t *)x)[i] = dtype == MT_BF16 ? mt_bf16_from_f32(value) : mt_f16_from_f32(value);
	}
	return x;
}

static inline void fp8_check(struct mt_device *device, struct mt_device *reference, const char *name, enum mt_dtype dtype,
			     int64_t rows, int64_t cols, int64_t shift, bool with_nan)
{
	int64_t count = rows * cols;
	size_t width = mt_dtype_bytes(dtype);
	char *whole = fp8_values(dtype, count + shift, 3.0, with_nan);
	const void *x = whole + (size_t)shift * width;
	float scale = 37.5f;

	for (int to = MT_E4M3; to <= MT_E5M2; to++) {
		float most[2] = {0.25f, 0.25f};
		uint8_t *codes[2][2];
		for (int d = 0; d < 2; d++) {
			for (int t = 0; t < 2; t++) {
				codes[d][t] = malloc((size_t)(count + shift) + 1);
				memset(codes[d][t], 0xee, (size_t)(count + shift));
			}
			fp8_run(d ? reference : device, MT_OP_QUANTIZE, dtype,
				(struct mt_quantize){.rows = rows,
						     .cols = cols,
						     .to = (enum mt_dtype)to,
						     .x = x,
						     .scale = &scale,
						     .y = codes[d][0] + shift,
						     .y_t = codes[d][1] + shift,
						     .amax = &most[d]});
		}
		for (int t = 0; t < 2; t++)
			for (int64_t i = 0; i < count + shift; i++)
				if (codes[0][t][i] != codes[1][t][i])
					fail_msg("%s: %lldx%lld %s to %s%s, shift %lld: code %lld is %#x, expected %#x", name,
						 (long long)rows, (long long)cols, mt_dtype_name(dtype),
						 mt_dtype_name((enum mt_dtype)to), t ? " turned" : "", (long long)shift,
						 (long long)i, codes[0][t][i], codes[1][t][i]);
		if (memcmp(&most[0], &most[1], 4) != 0)
			fail_msg("%s: amax %g, expected %g", name, (double)most[0], (double)most[1]);
		/* Alone, and of one result only. */
		most[0] = 0.25f;
		fp8_run(device, MT_OP_AMAX, dtype, (struct mt_quantize){.rows = rows, .cols = cols, .x = x, .amax = &most[0]});
		assert_memory_equal(&most[0], &most[1], 4);
		memset(codes[0][1], 0xee, (size_t)(count + shift));
		fp8_run(device, MT_OP_QUANTIZE, dtype,
			(struct mt_quantize){.rows = rows,
					     .cols = cols,
					     .to = (enum mt_dtype)to,
					     .x = x,
					     .scale = &scale,
					     .y_t = codes[0][1] + shift});
		assert_memory_equal(codes[0][1], codes[1][1], (size_t)(count + shift));
		for (int d = 0; d < 4; d++)
			free(codes[d / 2][d % 2]);
	}
	free(whole);
}

static inline void fp8_check_sizes(struct mt_device *device, struct mt_device *reference, const char *name)
{
	static const int64_t sizes[][2] = {{1, 1}, {3, 7}, {64, 64}, {65, 129}, {16, 48}, {128, 80}, {1, 300}, {200, 3}};
	static const enum mt_dtype dtypes[] = {MT_F32, MT_BF16, MT_F16};

	for (int d = 0; d < 3; d++)
		for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
			for (int shift = 0; shift < 2; shift++)
				fp8_check(device, reference, name, dtypes[d], sizes[i][0], sizes[i][1], shift, i % 2);
}

static inline void fp8_check_scales(struct mt_device *device, struct mt_device *reference, const char *name)
{
	float amax[] = {0.0f, 1.0f, 3.0f, 448.0f, 1e-30f, 1e-45f, 3e38f, INFINITY, NAN, 0.1f};
	enum { COUNT = sizeof amax / sizeof *amax };

	for (int margin = -2; margin <= 3; margin++)
		for (int to = MT_E4M3; to <= MT_E5M2; to++) {
			float scales[2][2][COUNT];
			for (int d = 0; d < 2; d++)
				fp8_run(d ? reference : device, MT_OP_FP8_SCALE, MT_F32,
					(struct mt_quantize){.rows = 1,
							     .cols = COUNT,
							     .to = (enum mt_dtype)to,
							     .margin = margin,
							     .amax = amax,
							     .scale = scales[d][0],
							     .inverse = scales[d][1]});
			for (int i = 0; i < 2 * COUNT; i++)
				if (scales[0][i / COUNT][i % COUNT] != scales[1][i / COUNT][i % COUNT])
					fail_msg("%s: scale of %g", name, (double)amax[i % COUNT]);
			assert_true(scales[1][0][0] == 1 && scales[1][0][7] == 1 && scales[1][0][8] == 1);
			float exact = mt_fp8_most((enum mt_dtype)to) / 3.0f * ldexpf(1, -margin);
			assert_true(scales[1][0][2] == exact && scales[1][1][2] == 1 / exact);
		}
}

#endif
