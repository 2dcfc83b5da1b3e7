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
		fp8_check(cpu, reference, levels[l], MT_BF16, 700, 130, 4, 0, true); /* several threads and blocks */
		fp8_check_scales(cpu, reference, levels[l]);
		mt_device_destroy(cpu);
	}
	mt_device_destroy(reference);
}

static void assert_product(struct mt_device *device, const char *name, enum mt_op_kind kind, int format, enum mt_dtype dtype,
			   int64_t rows, int64_t in, int64_t out)
{
	assert_true(fp8_check_product(device, name, kind, format, dtype, rows, in, out));
}

static void check_products(struct mt_device *device, const char *name)
{
	static const enum mt_dtype dtypes[] = {MT_BF16, MT_F16, MT_F32};
	for (int d = 0; d < 3; d++) {
		half = mt_dtype_is_half(dtypes[d]) ? dtypes[d] : half;
		for (int kind = MT_OP_LINEAR; kind <= MT_OP_LINEAR_WGRAD; kind++)
			for (int format = MT_FP8_HYBRID; format <= MT_FP8_E4M3; format++) {
				assert_product(device, name, (enum mt_op_kind)kind, format, dtypes[d], 16, 32, 48);
				assert_product(device, name, (enum mt_op_kind)kind, format, dtypes[d], 37, 5, 11);
			}
		assert_product(device, name, MT_OP_LINEAR, MT_FP8_HYBRID, dtypes[d], 33, 1100, 130); /* several steps of k */
		for (int kind = MT_OP_GROUPED; kind <= MT_OP_GROUPED_WGRAD; kind++)
			for (int format = MT_FP8_HYBRID; format <= MT_FP8_E4M3; format++)
				assert_true(fp8_check_grouped(device, name, (enum mt_op_kind)kind, format, dtypes[d]));
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
