/* The operations of experts on the cpu device against the reference device in f64, and the same bits for any number of threads. */
#include "tests/kernels_experts.h"

static void products_of_groups_equal_reference(void **state)
{
	products_of_groups(check_equals_reference);
}

static void routing_equals_reference(void **state)
{
	routings(check_equals_reference);
}

static void rows_of_experts_equal_reference(void **state)
{
	rows_of_experts(check_equals_reference);
}

static void weighted_activations_equal_reference(void **state)
{
	expert_activations(check_equals_reference);
}

static void bits_do_not_depend_on_threads(void **state)
{
	products_of_groups(check_same_bits);
	routings(check_same_bits);
	rows_of_experts(check_same_bits);
	expert_activations(check_same_bits);
	routing(check_same_bits, (struct routing){900, 64, 4, 4, 2, 2, MT_ROUTE_SIGMOID, true, true}); /* more than one thread */
}

/* Given offsets and an even spread are one thing; groups that got nothing are left alone. */
static void offsets_say_which_rows_a_group_has(void **state)
{
	static const int64_t offsets[] = {0, 3, 3, 10};
	struct mt_device *device = NULL;
	struct mt_stream *stream = NULL;
	float x[10], w[3], y[10], dw[3] = {1, 1, 1};
	struct mt_op op = {.kind = MT_OP_GROUPED, .dtype = MT_F32};

	for (int i = 0; i < 10; i++)
		x[i] = (float)(i + 1);
	for (int i = 0; i < 3; i++)
		w[i] = (float)(10 * (i + 1));
	assert_int_equal(mt_device_create(&device, &(struct mt_device_config){.kind = "cpu", .threads = 1}), MT_OK);
	assert_int_equal(mt_stream_create(device, MT_STREAM_COMPUTE, "test", &stream), MT_OK);
	op.grouped = (struct mt_grouped){
		.linear = {.rows = 10, .in = 1, .out = 1, .x = x, .w = w, .y = y}, .groups = 3, .offsets = offsets};
	assert_int_equal(mt_device_enqueue(device, stream, &op), MT_OK);
	for (int i = 0; i < 10; i++)
		assert_true(y[i] == x[i] * (i < 3 ? 10 : 30));
	op.kind = MT_OP_GROUPED_WGRAD;
	op.grouped.linear.dy = x;
	op.grouped.linear.dw = dw;
	assert_int_equal(mt_device_enqueue(device, stream, &op), MT_OK);
	assert_true(dw[0] == 1 + 1 + 4 + 9);
	assert_true(dw[1] == 1);
	assert_true(dw[2] == 1 + 16 + 25 + 36 + 49 + 64 + 81 + 100);
	op.grouped.linear.rows = 9;
	assert_int_equal(mt_device_enqueue(device, stream, &op), MT_INPUT);
	mt_error_clear();
	mt_stream_destroy(stream);
	mt_device_destroy(device);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(products_of_groups_equal_reference), cmocka_unit_test(routing_equals_reference),
		cmocka_unit_test(rows_of_experts_equal_reference),    cmocka_unit_test(weighted_activations_equal_reference),
		cmocka_unit_test(bits_do_not_depend_on_threads),      cmocka_unit_test(offsets_say_which_rows_a_group_has),
	};
	return cmocka_run_group_tests_name("kernels experts", tests, NULL, NULL);
}
