/* Records of a device's work, attributed to operations: on made-up records whose answers are known, and on random ones against
 * a plain count. And the tracer on a device of the host, with a tracer of made-up records in CUPTI's place. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/plugin.h"
#include "base/random.h"
#include "profiles/tracer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct mt_activity_log log_;
static struct mt_activity_span *spans;
static size_t span_count;
static struct mt_activity_totals totals;

static int set_up(void **state)
{
	log_ = (struct mt_activity_log){0};
	spans = NULL;
	return 0;
}

static int tear_down(void **state)
{
	mt_activity_free(&log_);
	free(spans);
	return 0;
}

static void work(uint32_t correlation, uint32_t stream, uint64_t start_ns, uint64_t end_ns)
{
	mt_activity_add_work(&log_, &(struct mt_activity_work){MT_ACTIVITY_KERNEL, correlation, stream, start_ns, end_ns});
}

static void attribute(void)
{
	free(spans);
	assert_int_equal(mt_activity_attribute(&log_, &spans, &span_count, &totals), MT_OK);
}

static void is_span(size_t i, uint64_t operation, int pieces, uint64_t start_ns, uint64_t end_ns, uint64_t busy_ns,
		    uint64_t idle_ns)
{
	const struct mt_activity_span *s = &spans[i];
	if (s->operation != operation || s->pieces != pieces || s->start_ns != start_ns || s->end_ns != end_ns ||
	    s->busy_ns != busy_ns || s->idle_ns != idle_ns)
		fail_msg(
			"span %zu: operation %llu, %d pieces, %llu to %llu, busy %llu, idle %llu; expected %llu, %d, %llu to %llu, "
			"%llu, %llu",
			i, (unsigned long long)s->operation, s->pieces, (unsigned long long)s->start_ns,
			(unsigned long long)s->end_ns, (unsigned long long)s->busy_ns, (unsigned long long)s->idle_ns,
			(unsigned long long)operation, pieces, (unsigned long long)start_ns, (unsigned long long)end_ns,
			(unsigned long long)busy_ns, (unsigned long long)idle_ns);
}

static void nothing_gives_nothing(void **state)
{
	attribute();
	assert_int_equal(span_count, 0);
	assert_int_equal(totals.pieces, 0);
}

static void one_operation_of_three_kernels_is_one_span(void **state)
{
	/* given back in no order, links after and before the work they belong to */
	mt_activity_add_link(&log_, 12, 1);
	work(13, 7, 160, 190);
	work(11, 7, 100, 120);
	mt_activity_add_link(&log_, 11, 1);
	work(12, 7, 130, 150);
	mt_activity_add_link(&log_, 13, 1);
	attribute();
	assert_int_equal(span_count, 1);
	is_span(0, 1, 3, 100, 190, 70, 0);
	assert_int_equal(totals.gap_ns, 20);
	assert_int_equal(totals.busy_ns, 70);
	assert_int_equal(totals.idle_ns, 0);
	assert_int_equal(totals.unattributed, 0);
}

static void gaps_between_operations_are_idle_time_of_their_stream(void **state)
{
	for (uint32_t i = 1; i <= 3; i++)
		mt_activity_add_link(&log_, i, i);
	work(1, 7, 100, 200);
	work(2, 7, 205, 300);
	work(3, 8, 1000, 1100); /* another stream: its first work waits for nothing */
	attribute();
	assert_int_equal(span_count, 3);
	is_span(0, 1, 1, 100, 200, 100, 0);
	is_span(1, 2, 1, 205, 300, 95, 5);
	is_span(2, 3, 1, 1000, 1100, 100, 0);
	assert_int_equal(totals.idle_ns, 5);
}

static void overlapping_pieces_are_counted_once(void **state)
{
	/* 100-200, 150-180 inside of it, 190-250 over its end, on two streams */
	for (uint32_t i = 1; i <= 3; i++)
		mt_activity_add_link(&log_, i, 5);
	work(1, 7, 100, 200);
	work(2, 8, 150, 180);
	work(3, 8, 190, 250);
	attribute();
	assert_int_equal(span_count, 1);
	is_span(0, 5, 3, 100, 250, 150, 0);
	assert_int_equal(totals.gap_ns, 0);
}

static void work_that_nobody_asked_for_is_told(void **state)
{
	mt_activity_add_link(&log_, 1, 1);
	work(1, 7, 100, 110);
	work(99, 7, 120, 150); /* no link */
	work(1, 7, 0, 0);      /* no times */
	work(1, 7, 200, 190);  /* ends before it starts */
	log_.dropped = 4;
	attribute();
	assert_int_equal(span_count, 1);
	is_span(0, 1, 1, 100, 110, 10, 0);
	assert_int_equal(totals.pieces, 4);
	assert_int_equal(totals.unattributed, 1);
	assert_int_equal(totals.unattributed_ns, 30);
	assert_int_equal(totals.without_time, 2);
	assert_int_equal(totals.dropped, 4);
	mt_activity_clear(&log_);
	attribute();
	assert_int_equal(span_count, 0);
	assert_int_equal(totals.dropped, 0);
}

/* Random intervals on a line of 2000 ns, so that a bit for each nanosecond gives the answer. */
static void random_records_agree_with_a_count_of_nanoseconds(void **state)
{
	enum { OPERATIONS = 6, PIECES = 60, LINE = 2000 };
	for (uint64_t round = 0; round < 50; round++) {
		static bool busy[OPERATIONS + 1][LINE];
		int pieces[OPERATIONS + 1] = {0};
		size_t expected = 0;
		memset(busy, 0, sizeof busy);
		mt_activity_clear(&log_);
		for (uint32_t i = 0; i < PIECES; i++) {
			uint64_t operation = mt_random_integer(3, round, 4 * i, OPERATIONS + 1);
			uint64_t start_ns = 1 + mt_random_integer(3, round, 4 * i + 1, LINE - 200);
			uint64_t end_ns = start_ns + mt_random_integer(3, round, 4 * i + 2, 150);
			work(i + 1, 1 + (uint32_t)mt_random_integer(3, round, 4 * i + 3, 3), start_ns, end_ns);
			if (operation > 0)
				mt_activity_add_link(&log_, i + 1, operation);
			pieces[operation]++;
			for (uint64_t t = start_ns; t < end_ns; t++)
				busy[operation][t] = true;
		}
		attribute();
		for (uint64_t o = 1; o <= OPERATIONS; o++) {
			uint64_t sum = 0;
			if (pieces[o] == 0)
				continue;
			for (int t = 0; t < LINE; t++)
				sum += busy[o][t];
			assert_true(expected < span_count);
			assert_int_equal(spans[expected].operation, o);
			assert_int_equal(spans[expected].pieces, pieces[o]);
			assert_int_equal(spans[expected].busy_ns, sum);
			expected++;
		}
		assert_int_equal(span_count, expected);
		assert_int_equal(totals.unattributed, pieces[0]);
	}
}

/* A tracer whose device takes 1000 ns * the operation's number, in two pieces with a gap of 100 ns between them. */
static struct {
	uint64_t pushed[64];
	int count, depth, opened, closed;
	enum mt_status refusal;
} fake;

static enum mt_status fake_open(void)
{
	fake.opened++;
	return fake.refusal == MT_OK ? MT_OK : mt_fail(fake.refusal, "insufficient privileges");
}

static void fake_push(uint64_t operation)
{
	fake.depth++;
	fake.pushed[fake.count++] = operation;
}

static void fake_pop(void)
{
	fake.depth--;
}

static enum mt_status fake_flush(struct mt_activity_log *log)
{
	for (int i = 0; i < fake.count; i++) {
		uint64_t n = fake.pushed[i], start_ns = 1753000000000000000ull + n * 1000000;
		struct mt_activity_work first = {MT_ACTIVITY_KERNEL, (uint32_t)(2 * n), 7, start_ns, start_ns + 400 * n},
					second = {MT_ACTIVITY_KERNEL, (uint32_t)(2 * n + 1), 7, start_ns + 400 * n + 100,
						  start_ns + 1000 * n};
		mt_activity_add_work(log, &second);
		mt_activity_add_work(log, &first);
		mt_activity_add_link(log, (uint32_t)(2 * n), n);
		mt_activity_add_link(log, (uint32_t)(2 * n + 1), n);
	}
	fake.count = 0;
	return MT_OK;
}

static void fake_close(void)
{
	fake.closed++;
}

static const struct mt_tracer_ops fake_ops = {"made up", fake_open, fake_push, fake_pop, fake_flush, fake_close};

static struct {
	int count;
	struct mt_op_key keys[64];
	double seconds[64];
} seen;

static void see(void *context, const struct mt_trace_event *event)
{
	seen.keys[seen.count] = *event->key;
	seen.seconds[seen.count++] = event->end_s - event->start_s;
}

static void fill(struct mt_device *device, struct mt_stream *stream, int64_t count)
{
	static float memory[64];
	struct mt_op op = {.kind = MT_OP_FILL, .dtype = MT_F32, .move = {.count = count, .dst_dtype = MT_F32, .dst = memory}};
	assert_int_equal(mt_device_enqueue(device, stream, &op), MT_OK);
}

static void open_device(struct mt_device **device, struct mt_stream **stream)
{
	memset(&fake, 0, sizeof fake);
	memset(&seen, 0, sizeof seen);
	assert_int_equal(mt_device_create(device, &(struct mt_device_config){.kind = "reference"}), MT_OK);
	assert_int_equal(mt_stream_create(*device, MT_STREAM_COMPUTE, "compute", stream), MT_OK);
}

static void close_device(struct mt_device *device, struct mt_stream *stream)
{
	mt_stream_destroy(stream);
	mt_device_destroy(device);
}

static void records_reach_the_sink_with_their_operation(void **state)
{
	struct mt_device *device;
	struct mt_stream *stream;
	struct mt_tracer *tracer;
	open_device(&device, &stream);
	assert_int_equal(mt_tracer_start(&tracer, device, &fake_ops, see, NULL), MT_OK);
	assert_string_equal(mt_tracer_method(tracer), "made up");
	for (int step = 0; step < 3; step++) {
		for (int64_t n = 1; n <= 4; n++)
			fill(device, stream, 10 * n + step);
		assert_int_equal(fake.depth, 0);
		assert_int_equal(mt_tracer_collect(tracer), MT_OK);
		assert_int_equal(seen.count, 4 * (step + 1));
	}
	for (int i = 0; i < 12; i++) {
		assert_int_equal(seen.keys[i].dims[0], 10 * (i % 4 + 1) + i / 4);
		if (!(fabs(seen.seconds[i] - 1e-6 * (i + 1)) < 1e-12))
			fail_msg("operation %d: %.15g s, expected %.15g", i, seen.seconds[i], 1e-6 * (i + 1));
	}
	assert_true(mt_tracer_totals(tracer, &totals));
	assert_int_equal(totals.pieces, 24);
	assert_int_equal(totals.gap_ns, 1200);
	mt_tracer_stop(tracer);
	assert_int_equal(fake.closed, 1);
	fill(device, stream, 5); /* after the stop nothing is pushed */
	assert_int_equal(fake.count, 0);
	close_device(device, stream);
}

static void host_devices_are_timed_by_their_own_clock(void **state)
{
	struct mt_device *device;
	struct mt_stream *stream;
	struct mt_tracer *tracer;
	open_device(&device, &stream);
	assert_int_equal(mt_tracer_start(&tracer, device, NULL, see, NULL), MT_OK);
	assert_string_equal(mt_tracer_method(tracer), "host clock");
	fill(device, stream, 3);
	assert_int_equal(seen.count, 1);
	assert_int_equal(mt_tracer_collect(tracer), MT_OK);
	assert_false(mt_tracer_totals(tracer, &totals));
	mt_tracer_stop(tracer);
	fill(device, stream, 3);
	assert_int_equal(seen.count, 1);
	close_device(device, stream);
}

static void a_refused_tracer_leaves_the_devices_events_and_says_why(void **state)
{
	struct mt_device *device;
	struct mt_stream *stream;
	struct mt_tracer *tracer;
	open_device(&device, &stream);
	fake.refusal = MT_UNAVAILABLE;
	assert_int_equal(mt_tracer_start(&tracer, device, &fake_ops, see, NULL), MT_OK);
	assert_string_equal(mt_tracer_method(tracer), "device events (CUPTI refused: insufficient privileges)");
	assert_string_equal(mt_error_message(), "");
	fill(device, stream, 3);
	assert_int_equal(seen.count, 1);
	assert_int_equal(mt_tracer_collect(tracer), MT_OK);
	mt_tracer_stop(tracer);
	assert_int_equal(fake.closed, 0);
	close_device(device, stream);
}

/* With a driver it opens, and may be opened again after it was closed; without one it says so and can be asked again. */
static void the_plugin_opens_or_says_why_not(void **state)
{
	const void *table = NULL;
	const struct mt_tracer_ops *ops;
	enum mt_status st = mt_plugin_open("cupti", MT_TRACER_ABI, &table);
	if (st == MT_UNAVAILABLE) {
		printf("skipped: %s\n", mt_error_message());
		mt_error_clear();
		skip();
	}
	assert_int_equal(st, MT_OK);
	ops = table;
	assert_string_equal(ops->name, "CUPTI");
	for (int i = 0; i < 2; i++) {
		st = ops->open();
		assert_true(st == MT_OK || st == MT_UNAVAILABLE);
		if (st == MT_OK) {
			assert_int_equal(ops->flush(&log_), MT_OK);
			ops->close();
		} else {
			printf("refused: %s\n", mt_error_message());
			assert_non_null(strstr(mt_error_message(), "cupti"));
			mt_error_clear();
		}
	}
	table = NULL;
	assert_int_equal(mt_plugin_open("cupti", MT_TRACER_ABI + 1000, &table), MT_UNAVAILABLE);
	mt_error_clear();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(nothing_gives_nothing, set_up, tear_down),
		cmocka_unit_test_setup_teardown(one_operation_of_three_kernels_is_one_span, set_up, tear_down),
		cmocka_unit_test_setup_teardown(gaps_between_operations_are_idle_time_of_their_stream, set_up, tear_down),
		cmocka_unit_test_setup_teardown(overlapping_pieces_are_counted_once, set_up, tear_down),
		cmocka_unit_test_setup_teardown(work_that_nobody_asked_for_is_told, set_up, tear_down),
		cmocka_unit_test_setup_teardown(random_records_agree_with_a_count_of_nanoseconds, set_up, tear_down),
		cmocka_unit_test(records_reach_the_sink_with_their_operation),
		cmocka_unit_test(host_devices_are_timed_by_their_own_clock),
		cmocka_unit_test(a_refused_tracer_leaves_the_devices_events_and_says_why),
		cmocka_unit_test_setup_teardown(the_plugin_opens_or_says_why_not, set_up, tear_down),
	};
	return cmocka_run_group_tests_name("profiles: activity", tests, NULL, NULL);
}
