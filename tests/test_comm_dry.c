/* The dry fabric: virtual time of collectives and messages, ranks as threads. Costs are powers of two, so sums are exact. */
#include "comm/comm.h"
#include "kernels/device.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MOST_RANKS 8

static void assert_seconds(double got, double want)
{
	if (got != want)
		fail_msg("%.17g s, expected %.17g s", got, want);
}

/* One second for 1024 bytes; the last key is kept. */
static double cost_s(void *context, const struct mt_comm_key *key)
{
	if (context)
		*(struct mt_comm_key *)context = *key;
	return (double)key->bytes / 1024.0;
}

struct rank {
	struct mt_dry_world *world;
	struct mt_fabric *fabric;
	struct mt_device *device;
	struct mt_stream *compute, *comm;
	struct mt_group *group;
	struct mt_comm_key key;
	int index, size, rounds;
	enum mt_status st;
	char message[256];
};

static void open_rank(struct rank *r, struct mt_dry_world *world, int index, int size, int stride)
{
	struct mt_fabric_config fabric = {.kind = "dry", .rank = index, .size = size, .dry_world = world};
	struct mt_device_config device = {.kind = "dry"};
	int ranks[MOST_RANKS], count = 0;
	memset(r, 0, sizeof *r);
	r->world = world;
	r->index = index;
	r->size = size;
	fabric.cost.comm_s = cost_s;
	fabric.cost.context = &r->key;
	assert_int_equal(mt_fabric_create(&r->fabric, &fabric), MT_OK);
	assert_int_equal(mt_device_create(&r->device, &device), MT_OK);
	assert_int_equal(mt_stream_create(r->device, MT_STREAM_COMPUTE, "compute", &r->compute), MT_OK);
	assert_int_equal(mt_stream_create(r->device, MT_STREAM_COMM, "comm", &r->comm), MT_OK);
	for (int i = index % stride; i < size; i += stride)
		ranks[count++] = i;
	assert_int_equal(mt_group_create(r->fabric, "pp", ranks, count, &r->group), MT_OK);
}

static void close_rank(struct rank *r)
{
	mt_group_destroy(r->group);
	mt_stream_destroy(r->comm);
	mt_stream_destroy(r->compute);
	mt_device_destroy(r->device);
	mt_fabric_destroy(r->fabric);
}

/* Buffers of a dry run are addresses only: touching one would end the test. */
static void *nowhere(void)
{
	return (void *)(uintptr_t)4096;
}

static void collectives_cost_what_the_source_says_and_wait_for_nobody(void **state)
{
	struct rank r;
	open_rank(&r, NULL, 3, 8, 2);
	assert_int_equal(mt_group_size(r.group), 4);
	assert_int_equal(mt_group_rank(r.group), 1);
	assert_int_equal(mt_comm_all_reduce(r.group, r.compute, nowhere(), nowhere(), 256, MT_F32, MT_SUM), MT_OK);
	assert_seconds(r.compute->clock_s, 1.0);
	assert_int_equal(r.key.op, MT_COMM_ALL_REDUCE);
	assert_int_equal(r.key.bytes, 1024);
	assert_int_equal(r.key.size, 4);
	assert_int_equal(r.key.stride, 2);
	assert_string_equal(r.key.group, "pp");
	/* S of nccl-tests is the whole: count * 4 ranks * 2 bytes. */
	assert_int_equal(mt_comm_all_gather(r.group, r.compute, nowhere(), nowhere(), 128, MT_BF16), MT_OK);
	assert_int_equal(r.key.bytes, 1024);
	assert_int_equal(r.key.dtype, MT_BF16);
	assert_int_equal(mt_comm_reduce_scatter(r.group, r.comm, nowhere(), nowhere(), 128, MT_F32), MT_OK);
	assert_int_equal(r.key.bytes, 2048);
	assert_int_equal(mt_comm_all_to_all(r.group, r.comm, nowhere(), (char *)nowhere() + 64, 64, MT_F32), MT_OK);
	assert_int_equal(mt_comm_broadcast(r.group, r.comm, nowhere(), 1024, MT_F64, 0), MT_OK);
	assert_int_equal(r.key.bytes, 8192);
	/* Streams run side by side. */
	assert_seconds(r.compute->clock_s, 1.0 + 1.0);
	assert_seconds(r.comm->clock_s, 2.0 + 1.0 + 8.0);
	close_rank(&r);
}

static void watch(void *context, const struct mt_trace_event *event)
{
	struct mt_trace_event *last = context;
	*last = *event;
}

static void traces_tell_start_and_end_of_virtual_time(void **state)
{
	struct rank r;
	struct mt_trace_event last = {0};
	open_rank(&r, NULL, 0, 4, 1);
	mt_device_set_trace(r.device, watch, &last);
	mt_stream_advance(r.compute, 0.0, 0.5);
	assert_int_equal(mt_comm_all_reduce(r.group, r.compute, nowhere(), nowhere(), 512, MT_F32, MT_SUM), MT_OK);
	assert_string_equal(last.name, "all_reduce");
	assert_string_equal(last.group, "pp");
	assert_string_equal(last.stream, "compute");
	assert_int_equal(last.group_size, 4);
	assert_int_equal(last.bytes, 2048);
	assert_seconds(last.start_s, 0.5);
	assert_seconds(last.end_s, 2.5);
	/* What the host has waited for lies before all that it enqueues then. */
	assert_int_equal(mt_stream_synchronize(r.compute), MT_OK);
	assert_int_equal(mt_comm_broadcast(r.group, r.comm, nowhere(), 256, MT_F32, 0), MT_OK);
	assert_seconds(last.start_s, 2.5);
	assert_seconds(last.end_s, 3.5);
	close_rank(&r);
}

static void host_helpers_keep_the_own_value(void **state)
{
	struct rank r;
	double x = 3.5;
	int own = 7, all[4] = {0};
	open_rank(&r, NULL, 2, 4, 1);
	assert_int_equal(mt_comm_barrier(r.group), MT_OK);
	assert_int_equal(mt_comm_host_all_reduce(r.group, &x, 1, MT_SUM), MT_OK);
	assert_seconds(x, 3.5);
	assert_int_equal(mt_comm_host_all_gather(r.group, &own, all, sizeof own), MT_OK);
	for (int i = 0; i < 4; i++)
		assert_int_equal(all[i], 7);
	close_rank(&r);
}

/* ---- ranks as threads. Threads of cmocka must not assert: they leave their status. ---- */

static void run_ranks(struct rank *ranks, int size, void *(*body)(void *))
{
	pthread_t threads[MOST_RANKS];
	for (int i = 0; i < size; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, body, &ranks[i]), 0);
	for (int i = 0; i < size; i++)
		pthread_join(threads[i], NULL);
}

/* A pipeline: each rank receives (but the first), works index+1 seconds, sends (but the last) 2 seconds' worth. */
static void *pipeline(void *context)
{
	struct rank *r = context;
	for (int m = 0; m < r->rounds && r->st == MT_OK; m++) {
		if ((m * 7 + r->index) % 3 == 0)
			sched_yield();
		if (r->index > 0)
			r->st = mt_comm_recv(r->group, r->compute, nowhere(), 512, MT_F32, r->index - 1);
		mt_stream_advance(r->compute, 0.0, 1.0 + r->index);
		if (r->index < r->size - 1 && r->st == MT_OK)
			r->st = mt_comm_send(r->group, r->compute, nowhere(), 512, MT_F32, r->index + 1);
	}
	return NULL;
}

static void pipeline_times_follow_the_recurrence_whatever_the_threads_do(void **state)
{
	enum { RANKS = 4, ROUNDS = 50, REPEATS = 10 };
	double end[RANKS] = {0}, sent_at[RANKS][ROUNDS];
	/* The definition: a receive starts at max(own clock, start of the send) and lasts 2 s, as the send does. */
	for (int i = 0; i < RANKS; i++) {
		for (int m = 0; m < ROUNDS; m++) {
			if (i > 0)
				end[i] = (end[i] > sent_at[i - 1][m] ? end[i] : sent_at[i - 1][m]) + 2.0;
			end[i] += 1.0 + i;
			sent_at[i][m] = end[i];
			if (i < RANKS - 1)
				end[i] += 2.0;
		}
	}
	for (int repeat = 0; repeat < REPEATS; repeat++) {
		struct mt_dry_world *world;
		struct rank ranks[RANKS];
		assert_int_equal(mt_dry_world_create(&world, RANKS), MT_OK);
		for (int i = 0; i < RANKS; i++) {
			open_rank(&ranks[i], world, i, RANKS, 1);
			ranks[i].rounds = ROUNDS;
		}
		run_ranks(ranks, RANKS, pipeline);
		for (int i = 0; i < RANKS; i++) {
			assert_int_equal(ranks[i].st, MT_OK);
			assert_seconds(ranks[i].compute->clock_s, end[i]);
			close_rank(&ranks[i]);
		}
		mt_dry_world_destroy(world);
	}
}

/* Groups of the same two ranks do not see each other's messages. */
static void messages_keep_to_their_group_and_order(void **state)
{
	struct mt_dry_world *world;
	struct rank a, b;
	struct mt_group *other_a, *other_b;
	int ranks[2] = {0, 1};
	assert_int_equal(mt_dry_world_create(&world, 2), MT_OK);
	open_rank(&a, world, 0, 2, 1);
	open_rank(&b, world, 1, 2, 1);
	assert_int_equal(mt_group_create(a.fabric, "tied", ranks, 2, &other_a), MT_OK);
	assert_int_equal(mt_group_create(b.fabric, "tied", ranks, 2, &other_b), MT_OK);
	assert_int_equal(mt_comm_send(a.group, a.compute, nowhere(), 256, MT_F32, 1), MT_OK);  /* at 0, 1 s */
	assert_int_equal(mt_comm_send(other_a, a.compute, nowhere(), 1024, MT_F32, 1), MT_OK); /* at 1, 4 s */
	assert_int_equal(mt_comm_send(a.group, a.compute, nowhere(), 512, MT_F32, 1), MT_OK);  /* at 5, 2 s */
	assert_int_equal(mt_comm_recv(other_b, b.comm, nowhere(), 1024, MT_F32, 0), MT_OK);
	assert_seconds(mt_stream_now_s(b.comm), 1.0 + 4.0);
	assert_int_equal(mt_comm_recv(b.group, b.compute, nowhere(), 256, MT_F32, 0), MT_OK);
	assert_seconds(b.compute->clock_s, 1.0);
	assert_int_equal(mt_comm_recv(b.group, b.compute, nowhere(), 512, MT_F32, 0), MT_OK);
	assert_seconds(b.compute->clock_s, 5.0 + 2.0);
	mt_group_destroy(other_a);
	mt_group_destroy(other_b);
	close_rank(&a);
	close_rank(&b);
	mt_dry_world_destroy(world);
}

/* Posted ahead of the send, in one thread: the receive waits only when somebody waits for it, and ends when it would have
 * ended had the send come first, whatever else its stream waited for since. */
static void a_receive_may_be_posted_before_its_send(void **state)
{
	struct mt_dry_world *world;
	struct rank a, b;
	struct mt_event *first, *second;

	assert_int_equal(mt_dry_world_create(&world, 2), MT_OK);
	open_rank(&a, world, 0, 2, 1);
	open_rank(&b, world, 1, 2, 1);
	assert_int_equal(mt_event_create(b.device, &first), MT_OK);
	assert_int_equal(mt_event_create(b.device, &second), MT_OK);
	assert_int_equal(mt_comm_recv(b.group, b.comm, nowhere(), 256, MT_F32, 0), MT_OK);
	assert_int_equal(mt_event_record(first, b.comm), MT_OK);
	assert_int_equal(mt_comm_recv(b.group, b.comm, nowhere(), 512, MT_F32, 0), MT_OK);
	assert_int_equal(mt_event_record(second, b.comm), MT_OK);
	assert_int_equal(mt_comm_send(a.group, a.compute, nowhere(), 256, MT_F32, 1), MT_OK); /* at 0, 1 s */
	assert_int_equal(mt_comm_send(a.group, a.compute, nowhere(), 512, MT_F32, 1), MT_OK); /* at 1, 2 s */
	assert_int_equal(mt_stream_wait(b.compute, first), MT_OK);
	assert_seconds(b.compute->clock_s, 1.0);
	assert_int_equal(mt_stream_wait(b.compute, second), MT_OK);
	assert_seconds(b.compute->clock_s, 3.0);
	mt_event_destroy(first);
	mt_event_destroy(second);
	close_rank(&a);
	close_rank(&b);
	mt_dry_world_destroy(world);
}

static void a_message_of_another_size_is_refused(void **state)
{
	struct mt_dry_world *world;
	struct rank a, b;
	assert_int_equal(mt_dry_world_create(&world, 2), MT_OK);
	open_rank(&a, world, 0, 2, 1);
	open_rank(&b, world, 1, 2, 1);
	assert_int_equal(mt_comm_send(a.group, a.compute, nowhere(), 256, MT_F32, 1), MT_OK);
	assert_int_equal(mt_comm_recv(b.group, b.compute, nowhere(), 255, MT_F32, 0), MT_FAILED);
	assert_non_null(strstr(mt_error_message(), "1020 bytes, rank 0 sent 1024"));
	mt_error_clear();
	close_rank(&a);
	close_rank(&b);
	mt_dry_world_destroy(world);
}

static void *wait_or_poison(void *context)
{
	struct rank *r = context;
	if (r->index == 0) {
		mt_dry_world_poison(r->world, "stage 0 ran out of memory");
		return NULL;
	}
	r->st = mt_comm_recv(r->group, r->compute, nowhere(), 1, MT_F32, 0);
	snprintf(r->message, sizeof r->message, "%s", mt_error_message());
	mt_error_clear();
	return NULL;
}

static void poison_wakes_those_who_wait(void **state)
{
	enum { RANKS = 5 };
	struct mt_dry_world *world;
	struct rank ranks[RANKS];
	assert_int_equal(mt_dry_world_create(&world, RANKS), MT_OK);
	for (int i = 0; i < RANKS; i++)
		open_rank(&ranks[i], world, i, RANKS, 1);
	run_ranks(ranks, RANKS, wait_or_poison);
	for (int i = 0; i < RANKS; i++) {
		assert_int_equal(ranks[i].st, i == 0 ? MT_OK : MT_FAILED);
		if (i > 0)
			assert_non_null(strstr(ranks[i].message, "stage 0 ran out of memory"));
		close_rank(&ranks[i]);
	}
	mt_dry_world_destroy(world);
}

static void real_devices_and_virtual_fabrics_do_not_mix(void **state)
{
	struct mt_device_config config = {.kind = "reference", .threads = 1};
	struct mt_device *device;
	struct mt_stream *stream;
	struct rank r;
	float x = 1;
	open_rank(&r, NULL, 0, 2, 1);
	assert_int_equal(mt_device_create(&device, &config), MT_OK);
	assert_int_equal(mt_stream_create(device, MT_STREAM_COMPUTE, "real", &stream), MT_OK);
	assert_int_equal(mt_comm_all_reduce(r.group, stream, &x, &x, 1, MT_F32, MT_SUM), MT_INPUT);
	mt_error_clear();
	mt_stream_destroy(stream);
	mt_device_destroy(device);
	close_rank(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(collectives_cost_what_the_source_says_and_wait_for_nobody),
		cmocka_unit_test(traces_tell_start_and_end_of_virtual_time),
		cmocka_unit_test(host_helpers_keep_the_own_value),
		cmocka_unit_test(pipeline_times_follow_the_recurrence_whatever_the_threads_do),
		cmocka_unit_test(messages_keep_to_their_group_and_order),
		cmocka_unit_test(a_receive_may_be_posted_before_its_send),
		cmocka_unit_test(a_message_of_another_size_is_refused),
		cmocka_unit_test(poison_wakes_those_who_wait),
		cmocka_unit_test(real_devices_and_virtual_fabrics_do_not_mix),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
