/* fp8, and moments in bf16, on the host devices: roundings of the cpu device are the reference device's bit for bit on every
 * instruction set; products equal the same products of the numbers that the codes stand for, and on every device within the
 * rounding of their sums. */
#include "tests/kernels_fp8.h"
#include "tests/kernels_moments.h"

static struct mt_device *open_reference(void)
{
	struct mt_device *reference = NULL;
	assert_int_equal(mt_device_create(&reference, &(struct mt_device_config){.kind = "reference"}), MT_OK);
	return reference;
}

static void roundings_are_the_references_bits(void **state)
{
	struct mt_device *reference = open_reference();
	for (size_t l = 0; l < sizeof levels / sizeof *levels; l++) {
		struct mt_device *cpu = open_cpu(levels[l], 2);
		if (!cpu)
			continue;
		fp8_check_sizes(cpu, reference, levels[l]);
		fp8_check(cpu, reference, levels[l], MT_BF16, 700, 130, 0, true); /* several threads and blocks */
		fp8_check_scales(cpu, reference, levels[l]);
		mt_device_destroy(cpu);
	}
	mt_device_destroy(reference);
}

/* Random codes without NaN. */
static uint8_t *codes_of(enum mt_dtype dtype, int64_t count, uint64_t stream)
{
	uint8_t *codes = malloc((size_t)count);
	for (int64_t i = 0; i < count; i++) {
		float x = (float)mt_random_normal(5, stream, (uint64_t)i) * (dtype == MT_E4M3 ? 30.0f : 900.0f);
		codes[i] = dtype == MT_E4M3 ? mt_e4m3_from_f32(x) : mt_e5m2_from_f32(x);
	}
	return codes;
}

static double value_of_code(enum mt_dtype dtype, uint8_t code)
{
	return (double)(dtype == MT_E4M3 ? mt_e4m3_to_f32(code) : mt_e5m2_to_f32(code));
}

/* c(m,n) = sum over k of a(m,k) b(n,k), times both inverses, beside what the device gives. */
static void check_product(struct mt_device *device, const char *name, enum mt_op_kind kind, int format, enum mt_dtype dtype,
			  int64_t rows, int64_t in, int64_t out)
{
	const enum mt_dtype dy_type = mt_fp8_gradient(format);
	const bool forward = kind == MT_OP_LINEAR, wgrad = kind == MT_OP_LINEAR_WGRAD;
	const int64_t m = wgrad ? out : rows, n = forward ? out : in, k = forward ? in : wgrad ? rows : out;
	const enum mt_dtype a_type = forward ? MT_E4M3 : dy_type, c_type = wgrad ? MT_F32 : dtype;
	uint8_t *a = codes_of(a_type, m * k, 1), *b = codes_of(MT_E4M3, n * k, 2);
	float a_inverse = 0.013f, b_inverse = 0.21f;
	void *c = malloc((size_t)(m * n) * 4), *bias = fp8_values(dtype, n, 1.0, false);
	struct mt_stream *stream = NULL;
	struct mt_op op = {.kind = kind, .dtype = dtype};

	for (int64_t i = 0; i < m * n; i++)
		((float *)c)[i] = 0.5f; /* only wgrad reads it */
	for (int64_t i = 0; i < n; i++)
		put(bias, i, 0.25 * (double)(i % 7), mt_dtype_bytes(dtype), false);
	op.linear = (struct mt_linear){.rows = rows, .in = in, .out = out, .fp8 = format};
	if (forward) {
		op.linear.x = a, op.linear.w = b, op.linear.y = c, op.linear.bias = bias;
		op.linear.x_inverse = &a_inverse, op.linear.w_inverse = &b_inverse;
	} else if (wgrad) {
		op.linear.dy = a, op.linear.x = b, op.linear.dw = c;
		op.linear.dy_inverse = &a_inverse, op.linear.x_inverse = &b_inverse;
	} else {
		op.linear.dy = a, op.linear.w = b, op.linear.dx = c;
		op.linear.dy_inverse = &a_inverse, op.linear.w_inverse = &b_inverse;
	}
	assert_int_equal(mt_stream_create(device, MT_STREAM_COMPUTE, "test", &stream), MT_OK);
	if (mt_device_enqueue(device, stream, &op) != MT_OK)
		fail_msg("%s: %s", name, mt_error_message());
	for (int64_t i = 0; i < m; i++)
		for (int64_t j = 0; j < n; j++) {
			double sum = 0, size = 0;
			for (int64_t l = 0; l < k; l++) {
				double term = value_of_code(a_type, a[i * k + l]) * value_of_code(MT_E4M3, b[j * k + l]);
				sum += term;
				size += fabs(term);
			}
			double factor = (double)a_inverse * (double)b_inverse;
			double want = sum * factor + (forward ? 0.25 * (double)(j % 7) : wgrad ? 0.5 : 0);
			double got = get(c, i * n + j, mt_dtype_bytes(c_type), false);
			double unit = c_type == MT_F32 ? 0x1p-23 : c_type == MT_F16 ? 0x1p-11 : 0x1p-8;
			if (!(fabs(got - want) <= unit * fabs(want) + 4e-7 * size * factor + 1e-6))
				fail_msg("%s, %s, %lldx%lldx%lld %s: [%lld,%lld] is %.9g, expected %.9g", name, mt_op_name(kind),
					 (long long)rows, (long long)in, (long long)out, mt_dtype_name(dtype), (long long)i,
					 (long long)j, got, want);
		}
	mt_stream_destroy(stream);
	free(a);
	free(b);
	free(c);
	free(bias);
}

static void check_products(struct mt_device *device, const char *name)
{
	static const enum mt_dtype dtypes[] = {MT_BF16, MT_F16, MT_F32};
	for (int d = 0; d < 3; d++) {
		half = mt_dtype_is_half(dtypes[d]) ? dtypes[d] : half;
		for (int kind = MT_OP_LINEAR; kind <= MT_OP_LINEAR_WGRAD; kind++)
			for (int format = MT_FP8_HYBRID; format <= MT_FP8_E4M3; format++) {
				check_product(device, name, (enum mt_op_kind)kind, format, dtypes[d], 16, 32, 48);
				check_product(device, name, (enum mt_op_kind)kind, format, dtypes[d], 37, 5, 11);
			}
		check_product(device, name, MT_OP_LINEAR, MT_FP8_HYBRID, dtypes[d], 33, 1100, 130); /* several steps of k */
	}
}

static void products_are_those_of_the_codes_values(void **state)
{
	struct mt_device *reference = open_reference();
	check_products(reference, "reference");
	mt_device_destroy(reference);
	for (size_t l = 0; l < sizeof levels / sizeof *levels; l++) {
		struct mt_device *cpu = open_cpu(levels[l], 2);
		if (!cpu)
			continue;
		check_products(cpu, levels[l]);
		mt_device_destroy(cpu);
	}
}

static void moments_in_bf16_are_those_of_f32_rounded(void **state)
{
	struct mt_device *reference = open_reference();
	moments_check(reference, "reference");
	mt_device_destroy(reference);
	for (size_t l = 0; l < sizeof levels / sizeof *levels; l++) {
		struct mt_device *cpu = open_cpu(levels[l], 2);
		if (!cpu)
			continue;
		moments_check(cpu, levels[l]);
		mt_device_destroy(cpu);
	}
}

static void bad_types_and_formats_are_refused(void **state)
{
	struct mt_device *reference = open_reference();
	struct mt_op op = {.kind = MT_OP_QUANTIZE, .dtype = MT_F32, .quantize = {.rows = 1, .cols = 1, .to = MT_F32}};
	assert_int_equal(mt_op_check(&op), MT_INPUT);
	op.quantize.to = MT_E4M3;
	assert_int_equal(mt_op_check(&op), MT_OK);
	op.dtype = MT_E4M3;
	assert_int_equal(mt_op_check(&op), MT_INPUT);
	op = (struct mt_op){.kind = MT_OP_LINEAR, .dtype = MT_BF16, .linear = {.rows = 1, .in = 1, .out = 1, .fp8 = 7}};
	assert_int_equal(mt_op_check(&op), MT_INPUT);
	mt_device_destroy(reference);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(roundings_are_the_references_bits),
		cmocka_unit_test(products_are_those_of_the_codes_values),
		cmocka_unit_test(moments_in_bf16_are_those_of_f32_rounded),
		cmocka_unit_test(bad_types_and_formats_are_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
