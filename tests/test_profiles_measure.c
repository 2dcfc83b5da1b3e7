/* Measuring one operation alone: every kind can be built from its key, runs, and gives at least three samples. */
#include "kernels/device.h"
#include "profiles/operands.h"
#include "profiles/profile.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define BUDGET_S 0.002

/* One key of each kind, and both forms where a flag or a kind of its own decides what it reads. */
static const struct mt_op_key KEYS[] = {
	{MT_OP_LINEAR, MT_F32, {24, 16, 40, 0}},
	{MT_OP_LINEAR, MT_F32, {24, 16, 40, 1}},
	{MT_OP_LINEAR, MT_BF16, {24, 16, 40, 1}},
	{MT_OP_LINEAR_DGRAD, MT_F32, {24, 16, 40}},
	{MT_OP_LINEAR_WGRAD, MT_BF16, {24, 16, 40}},
	{MT_OP_ATTENTION, MT_F32, {2, 12, 4, 2, 8}},
	{MT_OP_ATTENTION_BWD, MT_BF16, {2, 12, 4, 2, 8}},
	{MT_OP_NORM, MT_F32, {MT_NORM_LAYER, 10, 32, 1}},
	{MT_OP_NORM, MT_BF16, {MT_NORM_RMS, 10, 32, 0}},
	{MT_OP_NORM_BWD, MT_F32, {MT_NORM_LAYER, 10, 32, 1}},
	{MT_OP_NORM_BWD, MT_F32, {MT_NORM_RMS, 10, 32, 0}},
	{MT_OP_ACTIVATION, MT_F32, {MT_GELU, 10, 32}},
	{MT_OP_ACTIVATION, MT_BF16, {MT_SWIGLU, 10, 32}},
	{MT_OP_ACTIVATION_BWD, MT_F32, {MT_SWIGLU, 10, 32}},
	{MT_OP_ROPE, MT_F32, {2, 6, 4, 8}},
	{MT_OP_EMBEDDING, MT_F32, {12, 32, 6, 100}},
	{MT_OP_EMBEDDING_BWD, MT_F32, {12, 32, 6, 100}},
	{MT_OP_ADD, MT_F32, {10, 32, 1, 1}},
	{MT_OP_ADD, MT_BF16, {10, 32, 0, 1}},
	{MT_OP_BIAS_GRAD, MT_F32, {10, 32}},
	{MT_OP_LOSS_STATS, MT_F32, {10, 64, 0, 0}},
	{MT_OP_LOSS, MT_F32, {10, 64, 2, 1}},
	{MT_OP_LOSS, MT_BF16, {10, 64, 1, 0}},
	{MT_OP_CAST, MT_BF16, {1000, MT_F32, MT_BF16}},
	{MT_OP_FILL, MT_F32, {1000, MT_F32}},
	{MT_OP_COPY, MT_BF16, {10, 32}},
	{MT_OP_SUMSQ, MT_F32, {1000}},
	{MT_OP_ADAMW, MT_BF16, {1000}},
	{MT_OP_SGD, MT_BF16, {1000, 1}},
	{MT_OP_SGD, MT_F32, {1000, 0}},
	{MT_OP_COMBINE, MT_F32, {1000, 1}},
	{MT_OP_COMBINE, MT_F32, {1000, 0}},
	{MT_OP_ADAMW, MT_F16, {1000, MT_BF16, MT_BF16}},
	{MT_OP_LINEAR, MT_BF16, {32, 16, 48, 1, 1}},
	{MT_OP_LINEAR_DGRAD, MT_F16, {32, 16, 48, 0, 2}},
	{MT_OP_LINEAR_WGRAD, MT_BF16, {32, 16, 48, 0, 1}},
	{MT_OP_LINEAR, MT_BF16, {32, 16, 48, MT_LINEAR_BIAS | MT_LINEAR_GELU}},
	{MT_OP_LINEAR_DGRAD, MT_F32, {32, 16, 48, MT_LINEAR_GELU | MT_LINEAR_DBIAS}},
	{MT_OP_LINEAR_DGRAD, MT_BF16, {32, 16, 48, MT_LINEAR_GELU, 1}},
	{MT_OP_LINEAR_WGRAD, MT_F16, {32, 16, 48, MT_LINEAR_DBIAS}},
	{MT_OP_AMAX, MT_BF16, {10, 32}},
	{MT_OP_FP8_SCALE, MT_F32, {12}},
	{MT_OP_QUANTIZE, MT_BF16, {10, 32, MT_E4M3, 1, 1, 1}},
	{MT_OP_QUANTIZE, MT_F32, {10, 32, MT_E5M2, 0, 1, 0}},
	{MT_OP_GROUPED, MT_F32, {25, 16, 40, 4}},
	{MT_OP_GROUPED, MT_BF16, {3, 16, 40, 4}},
	{MT_OP_GROUPED_DGRAD, MT_F32, {24, 16, 40, 4}},
	{MT_OP_GROUPED_WGRAD, MT_BF16, {24, 16, 40, 4}},
	{MT_OP_ROUTE, MT_F32, {24, 8, 2, MT_ROUTE_SOFTMAX, 1}},
	{MT_OP_ROUTE, MT_F32, {24, 8, 2, MT_ROUTE_SIGMOID, 4}},
	{MT_OP_ROUTE_SUMS, MT_F32, {24, 8, 2, MT_ROUTE_SOFTMAX, 1}},
	{MT_OP_ROUTE_LOSS, MT_F32, {24, 8, 2, MT_ROUTE_SOFTMAX, 1}},
	{MT_OP_ROUTE_BWD, MT_F32, {24, 8, 2, MT_ROUTE_SIGMOID, 1}},
	{MT_OP_DROP, MT_F32, {24, 2, 8}},
	{MT_OP_DISPATCH, MT_F32, {24, 2, 8, 0}},
	{MT_OP_DISPATCH, MT_F32, {24, 2, 8, 6}},
	{MT_OP_GATHER_ROWS, MT_BF16, {24, 32}},
	{MT_OP_SUM_ROWS, MT_F32, {24, 32, 2}},
	{MT_OP_EXPERT_ACT, MT_BF16, {MT_SWIGLU, 10, 32}},
	{MT_OP_EXPERT_ACT_BWD, MT_F32, {MT_GELU, 10, 32}},
	{MT_OP_SPREAD, MT_BF16, {10, 4, 16, 8, 16}},
	{MT_OP_SPREAD_BWD, MT_F32, {10, 4, 16, 8, 24}},
	{MT_OP_ATTENTION_BWD, MT_F32, {2, 6, 4, 4, 24, 0, 0, 0, 16}},
};
#define KEY_COUNT ((int)(sizeof KEYS / sizeof KEYS[0]))

static struct mt_device *open_device(const char *kind)
{
	struct mt_device_config config = {.kind = kind, .threads = 1};
	struct mt_device *device = NULL;
	mt_error_clear();
	if (mt_device_create(&device, &config) != MT_OK)
		fail_msg("no device %s: %s", kind, mt_error_message());
	return device;
}

/* The op built for a key has that key, and every pointer of it lies in the op. */
static void operands_of_a_key_make_an_op_of_that_key(void **state)
{
	static char somewhere[8];
	(void)state;
	for (int i = 0; i < KEY_COUNT; i++) {
		struct operands operands;
		struct mt_op_key key;
		char want[96], got[96];
		assert_int_equal(mt_operands_of(&KEYS[i], &operands), MT_OK);
		assert_in_range(operands.count, 1, OPERANDS_MOST);
		for (int j = 0; j < operands.count; j++) {
			void *pointer = somewhere;
			assert_true(operands.list[j].count > 0);
			assert_in_range(operands.list[j].field, sizeof(enum mt_op_kind), sizeof operands.op - sizeof pointer);
			memcpy((char *)&operands.op + operands.list[j].field, &pointer, sizeof pointer);
		}
		mt_op_key(&operands.op, &key);
		mt_op_key_text(&KEYS[i], want);
		mt_op_key_text(&key, got);
		if (!mt_op_key_equal(&key, &KEYS[i]))
			fail_msg("built \"%s\" for \"%s\"", got, want);
	}
}

static void every_kind_is_among_the_keys(void **state)
{
	(void)state;
	for (int kind = 0; kind < MT_OP_KIND_COUNT; kind++) {
		int found = 0;
		for (int i = 0; i < KEY_COUNT; i++)
			found += KEYS[i].kind == kind;
		if (!found)
			fail_msg("no key of kind %s", mt_op_name((enum mt_op_kind)kind));
	}
}

static void measure_all(const char *kind)
{
	struct mt_device *device = open_device(kind);
	struct mt_profile *profile = NULL;
	struct mt_store_row *rows;
	int count, unavailable = 0;
	assert_int_equal(mt_profile_create(&profile, 1, 1, NULL), MT_OK);
	for (int i = 0; i < KEY_COUNT; i++) {
		char text[96];
		int source = -1;
		mt_error_clear();
		mt_op_key_text(&KEYS[i], text);
		enum mt_status st = mt_profile_measure(profile, device, &KEYS[i], BUDGET_S);
		if (st == MT_UNAVAILABLE) {
			print_message("%s: not on this device: %s\n", text, mt_error_message());
			unavailable++;
			continue;
		}
		if (st != MT_OK)
			fail_msg("%s: %s", text, mt_error_message());
		double seconds = mt_profile_op_cost(profile, &KEYS[i], &source, NULL);
		if (source != 0 || !(seconds >= 0 && seconds < 60))
			fail_msg("%s: source %d, %g s", text, source, seconds);
	}
	assert_int_equal(mt_profile_rows(profile, &rows, &count), MT_OK);
	assert_int_equal(count + unavailable, KEY_COUNT);
	for (int i = 0; i < count; i++)
		assert_true(rows[i].samples >= 3);
	free(rows);
	mt_profile_destroy(profile);
	mt_device_destroy(device);
}

static void every_operation_is_measured_on_the_reference_device(void **state)
{
	(void)state;
	measure_all("reference");
}

static void every_operation_is_measured_on_the_cpu_device(void **state)
{
	(void)state;
	measure_all("cpu");
}

static void ignore(void *context, const struct mt_trace_event *event)
{
	(void)context;
	(void)event;
}

static void the_trace_sink_of_the_device_is_put_back(void **state)
{
	struct mt_device *device = open_device("reference");
	struct mt_profile *profile = NULL;
	int context;
	(void)state;
	assert_int_equal(mt_profile_create(&profile, 1, 1, NULL), MT_OK);
	mt_device_set_trace(device, ignore, &context);
	assert_int_equal(mt_profile_measure(profile, device, &KEYS[0], BUDGET_S), MT_OK);
	assert_true(device->trace == ignore);
	assert_ptr_equal(device->trace_context, &context);
	mt_profile_destroy(profile);
	mt_device_destroy(device);
}

static double no_time(void *context, const struct mt_op_key *key)
{
	(void)context;
	(void)key;
	return 0;
}

static void a_device_that_computes_nothing_cannot_be_measured(void **state)
{
	struct mt_device_config config = {.kind = "dry", .cost = {no_time, NULL}};
	struct mt_device *device = NULL;
	struct mt_profile *profile = NULL;
	(void)state;
	assert_int_equal(mt_device_create(&device, &config), MT_OK);
	assert_int_equal(mt_profile_create(&profile, 1, 1, NULL), MT_OK);
	mt_error_clear();
	assert_int_equal(mt_profile_measure(profile, device, &KEYS[0], BUDGET_S), MT_UNAVAILABLE);
	assert_non_null(strstr(mt_error_message(), "computes nothing"));
	mt_profile_destroy(profile);
	mt_device_destroy(device);
}

static void what_does_not_fit_is_unavailable_and_not_tried(void **state)
{
	static const struct mt_op_key HUGE_KEY = {MT_OP_ADAMW, MT_F32, {INT64_C(1) << 42}};
	struct mt_device *device = open_device("reference");
	struct mt_profile *profile = NULL;
	(void)state;
	assert_int_equal(mt_profile_create(&profile, 1, 1, NULL), MT_OK);
	mt_error_clear();
	assert_int_equal(mt_profile_measure(profile, device, &HUGE_KEY, BUDGET_S), MT_UNAVAILABLE);
	assert_non_null(strstr(mt_error_message(), "available are"));
	mt_profile_destroy(profile);
	mt_device_destroy(device);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(operands_of_a_key_make_an_op_of_that_key),
		cmocka_unit_test(every_kind_is_among_the_keys),
		cmocka_unit_test(every_operation_is_measured_on_the_reference_device),
		cmocka_unit_test(every_operation_is_measured_on_the_cpu_device),
		cmocka_unit_test(the_trace_sink_of_the_device_is_put_back),
		cmocka_unit_test(a_device_that_computes_nothing_cannot_be_measured),
		cmocka_unit_test(what_does_not_fit_is_unavailable_and_not_tried),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
