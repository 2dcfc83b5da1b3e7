/* Devices, streams and events: what kernels/device.h promises of order, clocks, failures and tracing. */
#include "base/clock.h"
#include "kernels/device.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* A device with a compute and a comm stream. */
struct fixture {
	struct mt_device *device;
	struct mt_stream *compute, *comm;
	struct mt_event *event;
};

static struct fixture with_device(const struct mt_device_config *config)
{
	struct fixture f;
	assert_int_equal(mt_device_create(&f.device, config), MT_OK);
	assert_int_equal(mt_stream_create(f.device, MT_STREAM_COMPUTE, "compute", &f.compute), MT_OK);
	assert_int_equal(mt_stream_create(f.device, MT_STREAM_COMM, "tensor parallel group", &f.comm), MT_OK);
	assert_int_equal(mt_event_create(f.device, &f.event), MT_OK);
	return f;
}

static struct fixture host(void)
{
	return with_device(&(struct mt_device_config){.kind = "reference"});
}

static void close_fixture(struct fixture *f)
{
	mt_event_destroy(f->event);
	mt_stream_destroy(f->comm);
	mt_stream_destroy(f->compute);
	mt_device_destroy(f->device);
	mt_error_clear();
}

static void assert_seconds(double found, double expected)
{
	if (!(found >= expected - 1e-12 && found <= expected + 1e-12))
		fail_msg("found %.15g s, expected %.15g s", found, expected);
}

/* A cost of a second for each element of a fill. */
static double fill_s(void *context, const struct mt_op_key *key)
{
	if (context)
		++*(int *)context;
	return key->kind == MT_OP_FILL ? (double)key->dims[0] : 0;
}

static struct fixture dry(int *calls)
{
	return with_device(&(struct mt_device_config){.kind = "dry", .cost = {fill_s, calls}});
}

static struct mt_op fill(int64_t count, void *dst)
{
	return (struct mt_op){.kind = MT_OP_FILL, .move = {.count = count, .dst_dtype = MT_F32, .value = 1, .dst = dst}};
}

static void enqueue_fill(struct fixture *f, int64_t count, void *dst)
{
	struct mt_op op = fill(count, dst);
	assert_int_equal(mt_device_enqueue(f->device, f->compute, &op), MT_OK);
}

static void every_kind_that_is_listed_can_be_made(void **state)
{
	int count = 0;
	for (const char *const *kind = mt_device_kinds(); *kind; kind++, count++) {
		struct mt_device *device;
		struct mt_device_config config = {.kind = *kind, .threads = 1};
		enum mt_status st = mt_device_create(&device, &config);
		if (st == MT_UNAVAILABLE && !strcmp(*kind, "cuda")) { /* no plugin, no driver or no GPU, as it says */
			const char *why = mt_error_message();

			if (!strstr(why, "CUDA") && !strstr(why, "driver") && !strstr(why, "GPU"))
				fail_msg("cuda: %s", why);
			mt_error_clear();
			continue;
		}
		if (st != MT_OK)
			fail_msg("%s: %s", *kind, mt_error_message());
		assert_true(device->info.memory_bytes > 0);
		assert_string_equal(device->info.kind, *kind);
		assert_non_null(mt_device_memory(device));
		assert_int_equal(device->info.executes,
				 strcmp(*kind, "dry") != 0 && strcmp(*kind, "rehearsal") != 0 && strcmp(*kind, "idle") != 0);
		mt_device_destroy(device);
	}
	assert_int_equal(count, 6);
	mt_device_destroy(NULL);
}

static void an_unknown_kind_is_refused_with_those_there_are(void **state)
{
	struct mt_device *device;
	struct mt_device_config config = {.kind = "abacus"};
	assert_int_equal(mt_device_create(&device, &config), MT_INPUT);
	assert_null(device);
	assert_non_null(strstr(mt_error_message(), "abacus"));
	assert_non_null(strstr(mt_error_message(), "reference"));
	mt_error_clear();
}

static void impossible_shapes_are_input_errors_on_every_device(void **state)
{
	static float some;
	static const struct mt_op wrong[] = {
		{.kind = MT_OP_KIND_COUNT},
		{.kind = MT_OP_LINEAR, .dtype = MT_I32, .linear = {4, 4, 4}},
		{.kind = MT_OP_LINEAR, .linear = {4, 0, 4}},
		{.kind = MT_OP_LINEAR, .linear = {4, 4, 4, .dbias = &some}},
		{.kind = MT_OP_LINEAR_DGRAD, .linear = {4, 4, 4, .dbias = &some}},
		{.kind = MT_OP_LINEAR_WGRAD, .linear = {4, 4, 4, .pre = &some}},
		{.kind = MT_OP_LINEAR_WGRAD, .linear = {4, 4, 4, .dbias = &some, .fp8 = 1}},
		{.kind = MT_OP_LINEAR_WGRAD, .linear = {-1, 2, 4}},
		{.kind = MT_OP_ATTENTION, .attention = {1, 4, 3, 2, 8, 24, 16, 24}},
		{.kind = MT_OP_ATTENTION, .attention = {1, 4, 4, 2, 8, 31, 16, 32}},
		{.kind = MT_OP_ATTENTION, .attention = {1, 4, 4, 2, 8, 32, 16, 32, .window = -1}},
		{.kind = MT_OP_NORM, .norm = {.kind = (enum mt_norm_kind)2, .rows = 1, .cols = 1}},
		{.kind = MT_OP_ROPE, .rope = {1, 4, 1, 7, 7, 0, 1e4, .sign = 1}},
		{.kind = MT_OP_ROPE, .rope = {1, 4, 1, 8, 8, 0, 1e4, .sign = 0}},
		{.kind = MT_OP_EMBEDDING, .embedding = {.rows = 1, .cols = 1, .seq = 0}},
		{.kind = MT_OP_LOSS, .loss = {.rows = 1, .cols = 1, .vocab = 1, .parts = 0}},
		{.kind = MT_OP_COPY, .move = {.rows = 1, .cols = 4, .src_stride = 3, .dst_stride = 4}},
		{.kind = MT_OP_CAST, .move = {.count = 1, .src_dtype = MT_DTYPE_COUNT}},
		{.kind = MT_OP_ADAMW, .adamw = {.count = 1, .step = 0}},
		{.kind = MT_OP_SGD, .sgd = {.count = -1}},
		{.kind = MT_OP_COMBINE, .combine = {.count = -1}},
	};
	struct fixture devices[] = {host(), dry(NULL)};
	for (int d = 0; d < 2; d++) {
		for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
			enum mt_status st = mt_device_enqueue(devices[d].device, devices[d].compute, &wrong[i]);
			if (st != MT_INPUT || !mt_error_message()[0])
				fail_msg("wrong op %d gave '%s', message '%s'", (int)i, mt_status_name(st), mt_error_message());
			mt_error_clear();
		}
		close_fixture(&devices[d]);
	}
}

static void a_comm_stream_takes_no_operations(void **state)
{
	struct fixture f = dry(NULL);
	struct mt_op op = fill(1, NULL);
	assert_int_equal(mt_device_enqueue(f.device, f.comm, &op), MT_INPUT);
	assert_seconds(mt_stream_now_s(f.comm), 0);
	close_fixture(&f);
}

/* The dry device. */

static void the_dry_clock_adds_costs_and_events_order_streams(void **state)
{
	int calls = 0;
	struct fixture f = dry(&calls);
	enqueue_fill(&f, 3, NULL);
	enqueue_fill(&f, 4, NULL);
	assert_int_equal(calls, 2);
	assert_seconds(mt_stream_now_s(f.compute), 7);
	assert_seconds(mt_stream_now_s(f.comm), 0);
	/* The streams run side by side ... */
	assert_seconds(mt_stream_advance(f.comm, 0, 2), 2);
	assert_seconds(mt_stream_advance(f.comm, 5, 1), 6);
	/* ... until an event joins them; one that was never recorded, or is over, is no wait. */
	assert_int_equal(mt_stream_wait(f.comm, f.event), MT_OK);
	assert_seconds(mt_stream_now_s(f.comm), 6);
	assert_int_equal(mt_event_record(f.event, f.compute), MT_OK);
	enqueue_fill(&f, 10, NULL); /* after the event */
	assert_int_equal(mt_stream_wait(f.comm, f.event), MT_OK);
	assert_seconds(mt_stream_now_s(f.comm), 7);
	assert_seconds(mt_stream_advance(f.comm, 0, 0.5), 7.5);
	assert_int_equal(mt_stream_wait(f.compute, f.event), MT_OK);
	assert_seconds(mt_stream_now_s(f.compute), 17);
	close_fixture(&f);
}

static void on_the_dry_clock_nothing_starts_before_what_the_host_waited_for(void **state)
{
	struct fixture f = dry(NULL);
	char memory[4] = "abc";
	enqueue_fill(&f, 5, NULL);
	assert_int_equal(mt_device_download(f.device, f.compute, memory, NULL, 3), MT_OK);
	assert_memory_equal(memory, "\0\0\0", 4); /* zero-filled */
	assert_seconds(mt_stream_now_s(f.comm), 0);
	assert_seconds(mt_stream_advance(f.comm, 0, 1), 6);
	struct mt_stream *later;
	assert_int_equal(mt_stream_create(f.device, MT_STREAM_COMPUTE, "later", &later), MT_OK);
	assert_seconds(mt_stream_now_s(later), 5);
	mt_stream_destroy(later);
	close_fixture(&f);
}

static void a_dry_device_without_costs_takes_no_time_and_touches_nothing(void **state)
{
	struct fixture f = with_device(&(struct mt_device_config){.kind = "dry"});
	void *nowhere = (void *)(uintptr_t)0x1000;
	enqueue_fill(&f, 1000, nowhere);
	assert_int_equal(mt_device_upload(f.device, f.compute, nowhere, nowhere, 64), MT_OK);
	assert_seconds(mt_stream_now_s(f.compute), 0);
	assert_ptr_equal(mt_device_memory(f.device), &mt_arena_dry);
	close_fixture(&f);
}

static void kernels_of_an_idle_device_take_their_time_and_touch_nothing(void **state)
{
	struct fixture f = with_device(&(struct mt_device_config){.kind = "idle", .cost = {fill_s, NULL}});
	void *nowhere = (void *)(uintptr_t)0x1000;
	double start_s;

	enqueue_fill(&f, 1000, nowhere); /* without a pace: no time, or this test would take it */
	mt_device_set_pace(f.device, 1e-3);
	start_s = mt_clock_s();
	for (int i = 0; i < 10; i++)
		enqueue_fill(&f, 2, nowhere);
	/* What is left to be slept is less than a millisecond. */
	if (!(mt_clock_s() - start_s >= 19e-3))
		fail_msg("10 kernels of 2 ms took %.6f s", mt_clock_s() - start_s);
	assert_true(f.device->info.real_time && f.device->info.stores);
	assert_ptr_equal(mt_device_memory(f.device), &mt_arena_host);
	close_fixture(&f);
}

/* Tracing. */

struct trace {
	int count;
	struct mt_trace_event last;
	struct mt_op_key key;
};

static void keep(void *context, const struct mt_trace_event *event)
{
	struct trace *trace = context;
	trace->count++;
	trace->last = *event;
	trace->key = *event->key;
}

static void a_trace_has_the_virtual_span_of_each_operation(void **state)
{
	struct fixture f = dry(NULL);
	struct trace trace = {0};
	enqueue_fill(&f, 2, NULL);
	mt_device_set_trace(f.device, keep, &trace);
	enqueue_fill(&f, 3, NULL);
	assert_int_equal(trace.count, 1);
	assert_seconds(trace.last.start_s, 2);
	assert_seconds(trace.last.end_s, 5);
	assert_string_equal(trace.last.name, "fill");
	assert_string_equal(trace.last.stream, "compute");
	assert_int_equal(trace.key.dims[0], 3);
	assert_null(trace.last.group);
	mt_device_set_trace(f.device, NULL, NULL);
	enqueue_fill(&f, 3, NULL);
	assert_int_equal(trace.count, 1);
	close_fixture(&f);
}

static void a_trace_on_the_host_is_between_clock_readings_around_the_call(void **state)
{
	struct fixture f = host();
	struct trace trace = {0};
	float memory[64];
	mt_device_set_trace(f.device, keep, &trace);
	double before_s = mt_clock_s();
	enqueue_fill(&f, 64, memory);
	double after_s = mt_clock_s();
	assert_int_equal(trace.count, 1);
	assert_true(before_s <= trace.last.start_s && trace.last.start_s <= trace.last.end_s && trace.last.end_s <= after_s);
	struct mt_op wrong = fill(-1, memory);
	assert_int_equal(mt_device_enqueue(f.device, f.compute, &wrong), MT_INPUT);
	assert_int_equal(trace.count, 1);
	close_fixture(&f);
}

/* Asynchronous work on the host: a second thread plays the fabric. */

struct fabric {
	struct mt_stream *stream;
	uint64_t first, last; /* tickets to end, in order */
	uint64_t fails;       /* the ticket that does, 0: none */
	double delay_s;
	int *done; /* what the work writes: the tickets ended so far */
};

static void *play_fabric(void *context)
{
	struct fabric *fabric = context;
	for (uint64_t ticket = fabric->first; ticket <= fabric->last; ticket++) {
		mt_clock_sleep(fabric->delay_s);
		fabric->done[0] = (int)ticket;
		mt_stream_async_end(fabric->stream, ticket, ticket == fabric->fails ? MT_IO : MT_OK, "link down on host7");
	}
	return NULL;
}

static pthread_t start(struct fabric *fabric)
{
	pthread_t thread;
	assert_int_equal(pthread_create(&thread, NULL, play_fabric, fabric), 0);
	return thread;
}

static void a_wait_returns_after_the_work_before_the_event(void **state)
{
	static const double delays_s[] = {0, 5e-6, 2e-3}; /* over at once, while it spins, while it sleeps */
	for (size_t i = 0; i < sizeof delays_s / sizeof delays_s[0]; i++) {
		struct fixture f = host();
		int done = 0;
		struct fabric fabric = {.stream = f.comm, .delay_s = delays_s[i], .done = &done};
		fabric.first = mt_stream_async_begin(f.comm);
		fabric.last = mt_stream_async_begin(f.comm);
		assert_true(fabric.first == 1 && fabric.last == 2);
		mt_event_record(f.event, f.comm);
		pthread_t thread = start(&fabric);
		assert_int_equal(mt_stream_wait(f.compute, f.event), MT_OK);
		assert_int_equal(done, 2);
		pthread_join(thread, NULL);
		close_fixture(&f);
	}
}

static void an_event_does_not_wait_for_work_after_it(void **state)
{
	struct fixture f = host();
	uint64_t first = mt_stream_async_begin(f.comm);
	mt_event_record(f.event, f.comm);
	uint64_t second = mt_stream_async_begin(f.comm);
	mt_stream_async_end(f.comm, first, MT_OK, NULL);
	assert_int_equal(mt_stream_wait(f.compute, f.event), MT_OK); /* would hang */
	mt_stream_async_end(f.comm, second, MT_OK, NULL);
	assert_int_equal(mt_stream_synchronize(f.comm), MT_OK);
	close_fixture(&f);
}

static void operations_and_copies_follow_asynchronous_work_of_their_stream(void **state)
{
	struct fixture f = host();
	int done = 0, seen = -1;
	struct fabric fabric = {.stream = f.compute, .delay_s = 1e-3, .done = &done};
	fabric.first = fabric.last = mt_stream_async_begin(f.compute);
	pthread_t thread = start(&fabric);
	assert_int_equal(mt_device_download(f.device, f.compute, &seen, &done, sizeof done), MT_OK);
	assert_int_equal(seen, 1);
	pthread_join(thread, NULL);
	int from = 0;
	fabric.done = &from;
	fabric.first = fabric.last = mt_stream_async_begin(f.compute);
	thread = start(&fabric);
	int32_t copy = -1;
	struct mt_op op = {.kind = MT_OP_COPY, .dtype = MT_I32, .move = {.rows = 1, .cols = 1, .src_stride = 1, .dst_stride = 1}};
	op.move.src = &from;
	op.move.dst = &copy;
	assert_int_equal(mt_device_enqueue(f.device, f.compute, &op), MT_OK);
	assert_int_equal(copy, 2);
	pthread_join(thread, NULL);
	close_fixture(&f);
}

static void a_failure_reaches_the_next_wait_once_with_its_message(void **state)
{
	struct fixture f = host();
	int done = 0;
	struct fabric fabric = {.stream = f.comm, .delay_s = 1e-4, .done = &done};
	fabric.first = mt_stream_async_begin(f.comm);
	fabric.fails = fabric.first;
	fabric.last = mt_stream_async_begin(f.comm);
	mt_event_record(f.event, f.comm);
	pthread_t thread = start(&fabric);
	assert_int_equal(mt_stream_wait(f.compute, f.event), MT_IO);
	assert_string_equal(mt_error_message(), "link down on host7");
	mt_error_clear();
	assert_int_equal(mt_stream_synchronize(f.comm), MT_OK);
	pthread_join(thread, NULL);
	close_fixture(&f);
}

static void destroying_a_stream_waits_for_its_work_and_reports_nothing(void **state)
{
	for (int i = 0; i < 50; i++) {
		struct mt_device *device;
		struct mt_stream *stream;
		struct mt_device_config config = {.kind = "reference"};
		int done = 0;
		assert_int_equal(mt_device_create(&device, &config), MT_OK);
		assert_int_equal(mt_stream_create(device, MT_STREAM_COMM, "dp", &stream), MT_OK);
		struct fabric fabric = {.stream = stream, .fails = 1, .delay_s = i % 2 ? 1e-6 : 5e-5, .done = &done};
		fabric.first = fabric.last = mt_stream_async_begin(stream);
		pthread_t thread = start(&fabric);
		mt_stream_destroy(stream);
		assert_int_equal(done, 1);
		assert_string_equal(mt_error_message(), "");
		pthread_join(thread, NULL);
		mt_device_destroy(device);
	}
	mt_stream_destroy(NULL);
}

static void many_tickets_from_another_thread_all_arrive(void **state)
{
	struct fixture f = host();
	int done = 0;
	struct fabric fabric = {.stream = f.comm, .first = 1, .last = 2000, .done = &done};
	for (int i = 0; i < 2000; i++)
		mt_stream_async_begin(f.comm);
	pthread_t thread = start(&fabric);
	assert_int_equal(mt_stream_synchronize(f.comm), MT_OK);
	assert_int_equal(done, 2000);
	pthread_join(thread, NULL);
	close_fixture(&f);
}

static void names_of_streams_are_copied_and_cut(void **state)
{
	struct fixture f = host();
	assert_string_equal(f.comm->name, "tensor parallel");
	close_fixture(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_kind_that_is_listed_can_be_made),
		cmocka_unit_test(an_unknown_kind_is_refused_with_those_there_are),
		cmocka_unit_test(impossible_shapes_are_input_errors_on_every_device),
		cmocka_unit_test(a_comm_stream_takes_no_operations),
		cmocka_unit_test(the_dry_clock_adds_costs_and_events_order_streams),
		cmocka_unit_test(on_the_dry_clock_nothing_starts_before_what_the_host_waited_for),
		cmocka_unit_test(a_dry_device_without_costs_takes_no_time_and_touches_nothing),
		cmocka_unit_test(kernels_of_an_idle_device_take_their_time_and_touch_nothing),
		cmocka_unit_test(a_trace_has_the_virtual_span_of_each_operation),
		cmocka_unit_test(a_trace_on_the_host_is_between_clock_readings_around_the_call),
		cmocka_unit_test(a_wait_returns_after_the_work_before_the_event),
		cmocka_unit_test(an_event_does_not_wait_for_work_after_it),
		cmocka_unit_test(operations_and_copies_follow_asynchronous_work_of_their_stream),
		cmocka_unit_test(a_failure_reaches_the_next_wait_once_with_its_message),
		cmocka_unit_test(destroying_a_stream_waits_for_its_work_and_reports_nothing),
		cmocka_unit_test(many_tickets_from_another_thread_all_arrive),
		cmocka_unit_test(names_of_streams_are_copied_and_cut),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
