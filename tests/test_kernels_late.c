/* Devices that run behind the host: the interface, and the whole engine, on the late device of tests/late_device.h. */
#include "tests/engine_problem.h"
#include "tests/late_device.h"

#include "base/random.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <cmocka.h>

enum { NEVER_MS = 100000, COUNT = 64 };

struct fixture {
	struct mt_device *device;
	struct mt_stream *compute, *comm;
	struct mt_event *event;
	struct mt_arena *arena;
	float *a, *b; /* device memory */
};

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof *f);
	void *a, *b;
	assert_int_equal(late_device_create(&f->device, "reference", NEVER_MS), MT_OK);
	assert_int_equal(mt_stream_create(f->device, MT_STREAM_COMPUTE, "compute", &f->compute), MT_OK);
	assert_int_equal(mt_stream_create(f->device, MT_STREAM_COMM, "comm", &f->comm), MT_OK);
	assert_int_equal(mt_event_create(f->device, &f->event), MT_OK);
	assert_int_equal(mt_arena_create(&f->arena, "test", mt_device_memory(f->device), 1 << 20), MT_OK);
	assert_int_equal(mt_arena_alloc(f->arena, COUNT * sizeof(float), &a), MT_OK);
	assert_int_equal(mt_arena_alloc(f->arena, COUNT * sizeof(float), &b), MT_OK);
	f->a = a;
	f->b = b;
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;
	mt_stream_destroy(f->compute);
	mt_stream_destroy(f->comm);
	mt_event_destroy(f->event);
	mt_arena_destroy(f->arena);
	mt_device_destroy(f->device);
	free(f);
	return 0;
}

static void fill(struct fixture *f, float *dst, double value)
{
	struct mt_op op = {.kind = MT_OP_FILL, .dtype = MT_F32};
	op.move = (struct mt_move){.count = COUNT, .src_dtype = MT_F32, .dst_dtype = MT_F32, .value = value, .dst = dst};
	assert_int_equal(mt_device_enqueue(f->device, f->compute, &op), MT_OK);
}

static double first_of(struct fixture *f, struct mt_stream *stream, const float *src)
{
	float values[COUNT];
	assert_int_equal(mt_device_download(f->device, stream, values, src, sizeof values), MT_OK);
	return (double)values[0];
}

static void work_runs_when_it_is_waited_for_and_not_before(void **state)
{
	struct fixture *f = *state;
	bool over;
	fill(f, f->a, 1);
	assert_int_equal(mt_event_record(f->event, f->compute), MT_OK);
	assert_int_equal(mt_event_over(f->event, &over), MT_OK);
	assert_false(over);
	assert_true(first_of(f, f->compute, f->a) == 1);
	assert_int_equal(mt_event_over(f->event, &over), MT_OK);
	assert_true(over);
}

/* What makes the engine's run on this device a proof: without the event the reader comes first. */
static void an_event_orders_streams_and_nothing_else_does(void **state)
{
	struct fixture *f = *state;
	fill(f, f->a, 1);
	fill(f, f->b, 2);
	assert_true(first_of(f, f->compute, f->b) == 2);
	fill(f, f->a, 3);
	assert_int_equal(mt_device_copy(f->device, f->comm, f->b, f->a, COUNT * sizeof(float)), MT_OK);
	assert_true(first_of(f, f->comm, f->b) == 1);
	assert_int_equal(mt_event_record(f->event, f->compute), MT_OK);
	assert_int_equal(mt_stream_wait(f->comm, f->event), MT_OK);
	assert_int_equal(mt_device_copy(f->device, f->comm, f->b, f->a, COUNT * sizeof(float)), MT_OK);
	assert_true(first_of(f, f->comm, f->b) == 3);
}

static void the_source_of_an_upload_may_change_at_once(void **state)
{
	struct fixture *f = *state;
	float values[COUNT] = {7};
	assert_int_equal(mt_device_upload(f->device, f->compute, f->a, values, sizeof values), MT_OK);
	values[0] = 8;
	assert_true(first_of(f, f->compute, f->a) == 7);
}

static void the_memory_of_the_device_is_no_address_of_the_host(void **state)
{
	struct fixture *f = *state;
	assert_int_equal((uint64_t)(uintptr_t)f->a >> 48, LATE_TAG >> 48);
}

static void a_mark_is_between_the_work_before_and_behind_it(void **state)
{
	struct fixture *f = *state;
	struct mt_mark first, second;
	double first_s, second_s, before_s = mt_clock_s();
	assert_int_equal(mt_stream_mark(f->compute, &first), MT_OK);
	fill(f, f->a, 1);
	assert_int_equal(mt_stream_mark(f->compute, &second), MT_OK);
	assert_int_equal(mt_mark_read(&second, &second_s), MT_OK);
	assert_int_equal(mt_mark_read(&first, &first_s), MT_OK);
	assert_true(before_s <= first_s && first_s <= second_s && second_s <= mt_clock_s());
}

struct told {
	int count, fills;
	double last_s;
};

static void hear(void *context, const struct mt_trace_event *event)
{
	struct told *told = context;
	assert_true(event->start_s <= event->end_s && told->last_s <= event->start_s);
	assert_string_equal(event->stream, "compute");
	told->count++;
	told->fills += event->key && event->key->kind == MT_OP_FILL && event->key->dims[0] == COUNT;
	told->last_s = event->end_s;
}

static void traced_work_is_told_in_order_when_it_is_over(void **state)
{
	struct fixture *f = *state;
	struct told told = {0};
	mt_device_set_trace(f->device, hear, &told);
	fill(f, f->a, 1);
	fill(f, f->b, 1);
	assert_int_equal(told.count, 0);
	assert_int_equal(mt_stream_synchronize(f->compute), MT_OK);
	assert_int_equal(told.count, 2);
	fill(f, f->a, 1);
	mt_device_set_trace(f->device, NULL, NULL); /* tells what is pending first */
	assert_int_equal(told.count, 3);
	assert_int_equal(told.fills, 3);
}

static void a_failure_behind_the_host_is_reported_by_the_next_wait(void **state)
{
	struct fixture *f = *state;
	struct mt_op op = {.kind = MT_OP_FILL, .dtype = MT_F32};
	op.move = (struct mt_move){.count = COUNT, .src_dtype = MT_F32, .dst_dtype = MT_F32, .dst = f->a};
	struct late_work work = {.kind = LATE_OP, .op = op};
	work.op.kind = MT_OP_KIND_COUNT;
	assert_int_equal(late_push(f->compute, &work), MT_OK);
	assert_int_equal(mt_stream_synchronize(f->compute), MT_INPUT);
	assert_true(mt_error_message()[0] != '\0');
	mt_error_clear();
	assert_int_equal(mt_stream_synchronize(f->compute), MT_OK);
}

/* ---- lists and graphs ---- */

/* a = value, b = a + a, as a list. */
static enum mt_status run_list(struct fixture *f, double value)
{
	struct mt_op sum = {.kind = MT_OP_ADD, .dtype = MT_F32};
	sum.add = (struct mt_add){.rows = 1, .cols = COUNT, .a = f->a, .b = f->a, .out = f->b};
	mt_stream_list_begin(f->compute);
	fill(f, f->a, value);
	return mt_stream_list_end(f->compute, mt_device_enqueue(f->device, f->compute, &sum));
}

static void expect_stats(struct fixture *f, int64_t missed, int64_t captured, int64_t launched, int64_t refused)
{
	struct mt_graph_stats stats = mt_stream_graph_stats(f->compute);
	assert_int_equal(stats.missed, missed);
	assert_int_equal(stats.captured, captured);
	assert_int_equal(stats.launched, launched);
	assert_int_equal(stats.operations, 2 * launched);
	assert_int_equal(stats.refused, refused);
}

static void a_list_that_comes_again_is_launched_as_a_graph(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(run_list(f, 1), MT_OK); /* without graphs: as ever */
	assert_true(first_of(f, f->compute, f->b) == 2);
	expect_stats(f, 0, 0, 0, 0);
	assert_int_equal(mt_stream_use_graphs(f->compute), MT_OK);
	for (int turn = 0; turn < 4; turn++) {
		fill(f, f->a, 100 + turn); /* outside of the list */
		assert_int_equal(run_list(f, 3), MT_OK);
		assert_true(first_of(f, f->compute, f->b) == 6);
	}
	expect_stats(f, 1, 1, 3, 0);
}

static void a_list_with_another_argument_is_another_list(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(mt_stream_use_graphs(f->compute), MT_OK);
	for (int turn = 0; turn < 6; turn++) {
		assert_int_equal(run_list(f, turn % 2), MT_OK);
		assert_true(first_of(f, f->compute, f->b) == 2 * (turn % 2));
	}
	expect_stats(f, 2, 2, 4, 0);
	for (int turn = 10; turn < 14; turn++) {
		assert_int_equal(run_list(f, turn), MT_OK);
		assert_true(first_of(f, f->compute, f->b) == 2 * turn);
	}
	expect_stats(f, 6, 2, 4, 0);
}

/* Whatever else comes on the stream comes behind the operations before it. */
static void what_is_no_operation_ends_a_list(void **state)
{
	struct fixture *f = *state;
	float values[COUNT] = {9};
	struct mt_mark mark;
	double time_s;
	bool over;
	assert_int_equal(mt_stream_use_graphs(f->compute), MT_OK);
	for (int turn = 0; turn < 3; turn++) {
		mt_stream_list_begin(f->compute);
		fill(f, f->a, 1);
		assert_true(first_of(f, f->compute, f->a) == 1);
		fill(f, f->a, 2);
		assert_int_equal(mt_device_upload(f->device, f->compute, f->a, values, sizeof values), MT_OK);
		fill(f, f->b, 3);
		assert_int_equal(mt_device_copy(f->device, f->compute, f->b, f->a, sizeof values), MT_OK);
		assert_true(first_of(f, f->compute, f->b) == 9);
		fill(f, f->a, 4);
		fill(f, f->b, 5);
		assert_int_equal(mt_event_record(f->event, f->compute), MT_OK);
		assert_int_equal(mt_stream_wait(f->comm, f->event), MT_OK);
		assert_int_equal(mt_device_copy(f->device, f->comm, f->a, f->b, sizeof values), MT_OK);
		assert_int_equal(mt_event_record(f->event, f->comm), MT_OK);
		fill(f, f->a, 6); /* before the wait, so before the copy */
		assert_int_equal(mt_stream_wait(f->compute, f->event), MT_OK);
		assert_true(first_of(f, f->compute, f->a) == 5);
		fill(f, f->a, 7);
		assert_int_equal(mt_stream_mark(f->compute, &mark), MT_OK);
		assert_int_equal(mt_mark_read(&mark, &time_s), MT_OK);
		assert_int_equal(mt_event_record(f->event, f->compute), MT_OK);
		assert_int_equal(mt_stream_synchronize(f->compute), MT_OK);
		assert_int_equal(mt_event_over(f->event, &over), MT_OK);
		assert_true(over);
		assert_int_equal(mt_stream_list_end(f->compute, MT_OK), MT_OK);
	}
}

static void what_cannot_be_captured_is_enqueued_one_by_one(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(mt_stream_use_graphs(f->compute), MT_OK);
	late_of(f->device)->refuse = 1;
	for (int turn = 0; turn < 4; turn++) {
		assert_int_equal(run_list(f, 3), MT_OK);
		assert_true(first_of(f, f->compute, f->b) == 6);
		assert_string_equal(mt_error_message(), "");
	}
	expect_stats(f, 1, 0, 0, 1);
	assert_string_equal(mt_stream_graph_stats(f->compute).reason, "late device: told to refuse");
	for (int turn = 0; turn < 3; turn++) /* of one list nothing is said about others */
		assert_int_equal(run_list(f, 4), MT_OK);
	assert_true(first_of(f, f->compute, f->b) == 8);
	expect_stats(f, 2, 1, 2, 1);
}

static bool adds_fail;

static enum mt_status failing_enqueue(struct mt_device *device, struct mt_stream *stream, const struct mt_op *op)
{
	if (adds_fail && op->kind == MT_OP_ADD)
		return mt_fail(MT_FAILED, "no sums today");
	return late_enqueue(device, stream, op);
}

static void a_failure_in_a_list_is_returned_by_its_end(void **state)
{
	struct fixture *f = *state;
	struct mt_device_ops ops = late_ops;
	const struct mt_device_ops *before = f->device->ops;
	ops.enqueue = failing_enqueue;
	f->device->ops = &ops;
	assert_int_equal(mt_stream_use_graphs(f->compute), MT_OK);
	adds_fail = true;
	for (int turn = 0; turn < 3; turn++) { /* when it is new, captured, refused */
		assert_int_equal(run_list(f, 3), MT_FAILED);
		assert_string_equal(mt_error_message(), "no sums today");
		mt_error_clear();
	}
	expect_stats(f, 1, 0, 0, 1);
	adds_fail = false;
	assert_int_equal(run_list(f, 3), MT_OK);
	assert_true(first_of(f, f->compute, f->b) == 6);
	/* What made the list has failed: what it noted is not enqueued. */
	mt_stream_list_begin(f->compute);
	mt_stream_list_begin(f->compute);
	fill(f, f->a, 50);
	assert_int_equal(mt_stream_list_end(f->compute, MT_INPUT), MT_INPUT);
	assert_int_equal(mt_stream_list_end(f->compute, MT_INPUT), MT_INPUT);
	assert_true(first_of(f, f->compute, f->a) == 3);
	f->device->ops = before;
}

static void lists_that_do_not_come_again_are_dropped(void **state)
{
	enum { MANY = 5000 };
	struct fixture *f = *state;
	assert_int_equal(mt_stream_use_graphs(f->compute), MT_OK);
	for (int turn = 0; turn < 3; turn++)
		assert_int_equal(run_list(f, -1), MT_OK);
	for (int i = 0; i < MANY; i++)
		assert_int_equal(run_list(f, i), MT_OK);
	assert_int_equal(run_list(f, MANY - 1), MT_OK); /* there was no room to keep it */
	expect_stats(f, 1 + MANY + 1, 1, 2, 0);
	for (int turn = 0; turn < 2; turn++) /* all of them were met before the first wait, only two between it and the next */
		assert_true(first_of(f, f->compute, f->b) == (turn ? -2 : 2 * (MANY - 1)) && run_list(f, -1) == MT_OK);
	for (int turn = 0; turn < 3; turn++)
		assert_int_equal(run_list(f, MANY - 1), MT_OK);
	assert_true(first_of(f, f->compute, f->b) == 2 * (MANY - 1));
	expect_stats(f, 1 + MANY + 2, 2, 6, 0);
}

static void traced_work_is_not_in_graphs(void **state)
{
	struct fixture *f = *state;
	struct told told = {0};
	assert_int_equal(mt_stream_use_graphs(f->compute), MT_OK);
	for (int turn = 0; turn < 3; turn++)
		assert_int_equal(run_list(f, 3), MT_OK);
	mt_stream_list_begin(f->compute);
	fill(f, f->a, 5);
	mt_device_set_trace(f->device, hear, &told);
	fill(f, f->b, 6);
	assert_int_equal(mt_stream_list_end(f->compute, MT_OK), MT_OK);
	assert_int_equal(run_list(f, 3), MT_OK);
	mt_device_set_trace(f->device, NULL, NULL);
	assert_int_equal(told.fills, 2);
	assert_int_equal(told.count, 3);
	expect_stats(f, 1, 1, 2, 0);
}

/* ---- the engine ---- */

enum { STEPS = 3 };

struct outcome {
	double losses[STEPS], norms[STEPS];
	double gradient_sum;
};
static struct mt_graph_stats engine_stats; /* of the last training */

static void train(const struct mt_run *run, struct mt_device *device, struct outcome *o)
{
	struct mt_fabric *fabric;
	struct mt_dataset *dataset;
	struct mt_engine *engine;
	struct mt_step_stats stats;

	assert_int_equal(mt_fabric_create(&fabric, &(struct mt_fabric_config){.kind = "self"}), MT_OK);
	assert_int_equal(mt_dataset_open(&dataset, &run->data, run->model.vocab, run->layout.seq, (uint64_t)run->train.seed),
			 MT_OK);
	struct mt_engine_config config = {.run = run, .device = device, .fabric = fabric, .dataset = dataset};
	if (mt_engine_create(&engine, &config) != MT_OK)
		fail_msg("%s", mt_error_message());
	for (int i = 0; i < STEPS; i++) {
		if (mt_engine_step(engine, &stats) != MT_OK)
			fail_msg("%s", mt_error_message());
		o->losses[i] = stats.loss;
		o->norms[i] = stats.grad_norm;
		double parts_s = stats.compute_s + stats.tp_s + stats.dp_s + stats.pp_s + stats.optimizer_s;
		assert_true(stats.seconds > 0 && stats.optimizer_s > 0);
		assert_true(parts_s - stats.seconds < 1e-9 && stats.seconds - parts_s < 1e-9);
	}
	for (int i = 0; i < mt_engine_param_count(engine); i++) {
		struct mt_param_info info;
		mt_engine_param_info(engine, i, &info);
		double *values = malloc((size_t)(info.rows * info.cols) * sizeof *values);
		assert_int_equal(mt_engine_read_grad_f64(engine, i, values), MT_OK);
		for (int64_t k = 0; k < info.rows * info.cols; k++)
			o->gradient_sum += values[k] * (double)(k % 7 + 1);
		free(values);
	}
	engine_stats = mt_engine_graph_stats(engine);
	mt_engine_destroy(engine);
	mt_dataset_close(dataset);
	mt_fabric_destroy(fabric);
}

/* The same operations in the same order: the same bits. */
static void expect_same(const struct tiny_model *model, enum mt_dtype dtype, int recompute, int delay_ms)
{
	struct mt_run run;
	struct mt_device *host, *late;
	struct outcome expected = {0}, got = {0};

	set_tiny_run(&run, model);
	run.layout.dtype = dtype;
	run.layout.recompute = recompute;
	run.layout.bucket_bytes = 8 << 10;
	run.train.lr = 1e-3;
	assert_int_equal(mt_device_create(&host, &(struct mt_device_config){.kind = "cpu", .threads = 1}), MT_OK);
	assert_int_equal(late_device_create(&late, "cpu", delay_ms), MT_OK);
	train(&run, host, &expected);
	train(&run, late, &got);
	assert_memory_equal(&expected, &got, sizeof got);
	assert_int_equal(engine_stats.missed, 0);
	run.train.cuda_graphs = MT_GRAPHS_LAYER;
	late_of(late)->refuse = 1;
	got = (struct outcome){0};
	train(&run, late, &got);
	assert_memory_equal(&expected, &got, sizeof got);
	assert_int_equal(engine_stats.refused, 1);
	/* Of 3 steps of several micro-batches all lists but those of the first are met again. */
	assert_true(engine_stats.captured > 0 && engine_stats.launched > 2 * engine_stats.missed);
	struct mt_graph_stats of_layers = engine_stats;
	run.train.cuda_graphs = MT_GRAPHS_PASS;
	got = (struct outcome){0};
	train(&run, late, &got);
	assert_memory_equal(&expected, &got, sizeof got);
	assert_int_equal(engine_stats.refused, 0);
	assert_true(engine_stats.launched > 0 && engine_stats.launched < of_layers.launched);
	assert_true(engine_stats.operations / engine_stats.launched > of_layers.operations / of_layers.launched);
	mt_device_destroy(late);
	mt_device_destroy(host);
	mt_run_free(&run);
}

static void the_engine_trains_to_the_same_bits_behind_the_host(void **state)
{
	expect_same(&TINY_GPT, MT_F32, MT_RECOMPUTE_NONE, NEVER_MS);
	expect_same(&TINY_LLAMA, MT_BF16, MT_RECOMPUTE_NONE, NEVER_MS);
	expect_same(&TINY_LLAMA, MT_F32, MT_RECOMPUTE_FULL, NEVER_MS);
	expect_same(&TINY_GPT, MT_BF16, MT_RECOMPUTE_FULL, 0);
}

int main(void)
{
#define ON_DEVICE(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		ON_DEVICE(work_runs_when_it_is_waited_for_and_not_before),
		ON_DEVICE(an_event_orders_streams_and_nothing_else_does),
		ON_DEVICE(the_source_of_an_upload_may_change_at_once),
		ON_DEVICE(the_memory_of_the_device_is_no_address_of_the_host),
		ON_DEVICE(a_mark_is_between_the_work_before_and_behind_it),
		ON_DEVICE(traced_work_is_told_in_order_when_it_is_over),
		ON_DEVICE(a_failure_behind_the_host_is_reported_by_the_next_wait),
		ON_DEVICE(a_list_that_comes_again_is_launched_as_a_graph),
		ON_DEVICE(a_list_with_another_argument_is_another_list),
		ON_DEVICE(what_is_no_operation_ends_a_list),
		ON_DEVICE(what_cannot_be_captured_is_enqueued_one_by_one),
		ON_DEVICE(a_failure_in_a_list_is_returned_by_its_end),
		ON_DEVICE(lists_that_do_not_come_again_are_dropped),
		ON_DEVICE(traced_work_is_not_in_graphs),
		cmocka_unit_test(the_engine_trains_to_the_same_bits_behind_the_host),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
