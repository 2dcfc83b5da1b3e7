/* Casts, fills and copies of the CUDA kernels, run on the host by the emulator: the same bytes as the reference, and none beside
 * them. */
#include "tests/kernels_operands.h"

#include "tests/cuda_host/device.h"

/* Runs a move on both devices; dst must be the same bytes, and those around it as they were. */
static void check_move(struct mt_op op, const void *src, size_t src_bytes, size_t dst_bytes, size_t offset)
{
	struct mt_device *devices[2] = {NULL, open_emulated()};
	unsigned char *dst[2];
	void *aligned_src = malloc(src_bytes + offset + 1);
	assert_int_equal(mt_device_create(&devices[0], &(struct mt_device_config){.kind = "reference"}), MT_OK);
	memcpy((char *)aligned_src + offset, src, src_bytes);
	for (int d = 0; d < 2; d++) {
		struct mt_stream *stream = NULL;
		dst[d] = malloc(dst_bytes + offset + 8);
		memset(dst[d], 0xa5, dst_bytes + offset + 8);
		op.move.src = (char *)aligned_src + offset;
		op.move.dst = dst[d] + offset;
		assert_int_equal(mt_stream_create(devices[d], MT_STREAM_COMPUTE, "test", &stream), MT_OK);
		if (mt_device_enqueue(devices[d], stream, &op) != MT_OK)
			fail_msg("%s on %s: %s", mt_op_name(op.kind), devices[d]->info.kind, mt_error_message());
		mt_stream_destroy(stream);
		mt_device_destroy(devices[d]);
	}
	for (size_t i = 0; i < dst_bytes + offset + 8; i++)
		if (dst[0][i] != dst[1][i])
			fail_msg("%s %s to %s, %lld x %lld: byte %zu is %#x, expected %#x", mt_op_name(op.kind),
				 mt_dtype_name(op.move.src_dtype), mt_dtype_name(op.move.dst_dtype), (long long)op.move.count,
				 (long long)op.move.rows, i - offset, dst[1][i], dst[0][i]);
	free(dst[0]);
	free(dst[1]);
	free(aligned_src);
}

/* All codes in turn but NaN, whose bits are the device's own in other types. */
static unsigned char fp8_code(int i, enum mt_dtype dtype)
{
	int most = dtype == MT_E4M3 ? 0x7e : 0x7c;

	return (unsigned char)((i & 0x80) | ((i & 0x7f) > most ? most : i & 0x7f));
}

static void casts_and_fills_are_exact(void **state)
{
	enum { COUNT = 5003 };
	double *values = malloc(COUNT * sizeof *values);
	unsigned char *src = malloc(COUNT * 8);
	static const double special[] = {0,   -0.0, 1e300,        -1e300, INFINITY, -INFINITY,
					 2.5, 3.5,  2147483646.5, 1e-45,  0x1.01p0, 0x1.03p0};
	for (int i = 0; i < COUNT; i++)
		values[i] = mt_random_normal(3, 0, (uint64_t)i) * 1000;
	memcpy(values + 100, special, sizeof special);
	struct mt_op op = {.dtype = MT_F32};
	for (int from = 0; from < MT_DTYPE_COUNT; from++)
		for (int to = 0; to < MT_DTYPE_COUNT; to++)
			for (int shift = 0; shift < 2; shift++) {
				size_t from_bytes = mt_dtype_bytes((enum mt_dtype)from),
				       to_bytes = mt_dtype_bytes((enum mt_dtype)to);
				size_t most = from_bytes > to_bytes ? from_bytes : to_bytes;
				half = mt_dtype_is_half((enum mt_dtype)from) ? (enum mt_dtype)from : half;
				for (int i = 0; i < COUNT; i++)
					if (from == MT_I32)
						((int32_t *)(void *)src)[i] = (int32_t)(i * INT64_C(429497) - 1000000007);
					else if (from_bytes == 1)
						src[i] = fp8_code(i, (enum mt_dtype)from);
					else
						put(src, i, values[i], from_bytes, false);
				op.kind = MT_OP_CAST;
				op.move = (struct mt_move){
					.count = COUNT, .src_dtype = (enum mt_dtype)from, .dst_dtype = (enum mt_dtype)to};
				check_move(op, src, COUNT * from_bytes, COUNT * to_bytes, (size_t)shift * most);
				op.kind = MT_OP_FILL;
				op.move.value = special[(from * 4 + to) % 12];
				op.move.count = COUNT - from;
				check_move(op, src, 1, COUNT * to_bytes, (size_t)shift * to_bytes);
			}
	free(values);
	free(src);
}

static void casts_keep_nan(void **state)
{
	struct mt_device *device = open_emulated();
	struct mt_stream *stream = NULL;
	float nans[9];
	uint16_t narrow[9];
	int32_t whole[9];
	assert_int_equal(mt_stream_create(device, MT_STREAM_COMPUTE, "test", &stream), MT_OK);
	for (int i = 0; i < 9; i++)
		nans[i] = i % 2 ? NAN : -NAN;
	struct mt_op op = {.kind = MT_OP_CAST, .dtype = MT_F32};
	op.move = (struct mt_move){.count = 9, .src_dtype = MT_F32, .dst_dtype = MT_BF16, .src = nans, .dst = narrow};
	assert_int_equal(mt_device_enqueue(device, stream, &op), MT_OK);
	op.move = (struct mt_move){.count = 9, .src_dtype = MT_F32, .dst_dtype = MT_I32, .src = nans, .dst = whole};
	assert_int_equal(mt_device_enqueue(device, stream, &op), MT_OK);
	for (int i = 0; i < 9; i++) {
		assert_true(isnan(mt_bf16_to_f32(narrow[i])));
		assert_int_equal(whole[i], 0);
	}
	mt_stream_destroy(stream);
	mt_device_destroy(device);
}

static void copies_move_bytes_between_strides(void **state)
{
	static const struct {
		int64_t rows, cols, src_stride, dst_stride;
	} shapes[] = {{1, 1, 1, 1}, {7, 5, 11, 6}, {33, 64, 64, 72}, {9, 24, 40, 24}, {1, 4099, 4099, 4099}, {300, 2, 2, 6}};
	unsigned char *src = malloc(8 * 5000);
	for (int i = 0; i < 8 * 5000; i++)
		src[i] = (unsigned char)mt_random_integer(6, 0, (uint64_t)i, 256);
	for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
		for (int dtype = 0; dtype < MT_DTYPE_COUNT; dtype++)
			for (size_t shift = 0; shift < 2; shift++) {
				struct mt_op op = {.kind = MT_OP_COPY, .dtype = (enum mt_dtype)dtype};
				size_t bytes = mt_dtype_bytes(op.dtype);
				op.move = (struct mt_move){.rows = shapes[s].rows, .cols = shapes[s].cols};
				op.move.src_stride = shapes[s].src_stride, op.move.dst_stride = shapes[s].dst_stride;
				check_move(op, src, (size_t)(op.move.rows * op.move.src_stride) * bytes,
					   (size_t)(op.move.rows * op.move.dst_stride) * bytes, shift * bytes);
			}
	free(src);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(casts_and_fills_are_exact),
		cmocka_unit_test(casts_keep_nan),
		cmocka_unit_test(copies_move_bytes_between_strides),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
