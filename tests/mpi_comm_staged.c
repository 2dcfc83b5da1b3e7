/* Collectives of the mpi fabric on memory that the host cannot read, of a device that runs behind the host.
 * ranks: 1 2 4 */
#ifdef MT_HAVE_MPI

#include "tests/late_device.h"
#define BENCH_DEVICE_OPS (&late_ops)
#include "tests/comm_bench.h"

static void *reserve(struct bench *b, int64_t count, enum mt_dtype dtype)
{
	void *base = NULL;
	must(b, mt_device_memory(b->device)->reserve(NULL, (size_t)count * mt_dtype_bytes(dtype) + 64, &base), "memory");
	return base;
}

static void release(struct bench *b, void *base, int64_t count, enum mt_dtype dtype)
{
	mt_device_memory(b->device)->release(NULL, base, (size_t)count * mt_dtype_bytes(dtype) + 64);
}

/* The job's buffers go to the device, the call is made there, and the result comes back to be judged. */
static int run_there(struct bench *b, struct job *j, struct mt_stream *stream, const char *where)
{
	int64_t sent = sent_count(j, b->size), received = received_count(j, b->size), most = sent > received ? sent : received;
	size_t width = mt_dtype_bytes(j->dtype);
	struct job there = *j;
	char *send = reserve(b, most, j->dtype), *recv = j->in_place ? send : reserve(b, most, j->dtype);
	there.send = j->in_place ? send + ((char *)j->send - (char *)j->mine) : send;
	there.recv = j->in_place ? send + ((char *)j->recv - (char *)j->mine) : recv;
	must(b, mt_device_upload(b->device, b->compute, there.send, j->send, (size_t)sent * width), where);
	must(b, mt_stream_synchronize(b->compute), where);
	must(b, call(&there, b->world, stream), where);
	must(b, mt_device_download(b->device, stream, j->recv, there.recv, (size_t)received * width), where);
	if (!j->in_place)
		release(b, recv, most, j->dtype);
	release(b, send, most, j->dtype);
	return judge(j, b->rank, b->size, where);
}

static int collectives_equal_their_definition(struct bench *b)
{
	int wrong = 0;
	for (int i = 0; i < 60; i++) {
		struct job j = draw(61, i, b->size);
		prepare(&j, b->rank, b->size);
		wrong += run_there(b, &j, i % 2 ? b->comm[0] : b->compute, i % 2 ? "comm stream" : "compute stream");
	}
	return wrong;
}

/* Each collective adds to what the one before left; the last is read through an event, by another stream. */
static int a_stream_runs_in_order(struct bench *b)
{
	enum { CALLS = 12, COUNT = 5000 };
	int32_t *host = calloc(COUNT, sizeof *host), *x = reserve(b, COUNT, MT_I32), *y = reserve(b, COUNT, MT_I32);
	struct mt_event *event = NULL;
	uint32_t power = 1;
	host[COUNT - 1] = 1;
	must(b, mt_event_create(b->device, &event), "event");
	must(b, mt_device_upload(b->device, b->compute, x, host, COUNT * sizeof *host), "upload");
	must(b, mt_event_record(event, b->compute), "record");
	must(b, mt_stream_wait(b->comm[1], event), "wait");
	for (int i = 0; i < CALLS; i++, power *= (uint32_t)b->size)
		must(b, mt_comm_all_reduce(b->world, b->comm[1], x, x, COUNT, MT_I32, MT_SUM), "in order");
	must(b, mt_event_record(event, b->comm[1]), "record");
	must(b, mt_stream_wait(b->compute, event), "wait");
	must(b, mt_device_copy(b->device, b->compute, y, x, COUNT * sizeof *host), "copy");
	must(b, mt_device_download(b->device, b->compute, host, y, COUNT * sizeof *host), "download");
	int wrong = (uint32_t)host[COUNT - 1] != power || host[0] != 0;
	if (wrong)
		fprintf(stderr, "in order: %u, expected %u\n", (uint32_t)host[COUNT - 1], power);
	mt_event_destroy(event);
	release(b, x, COUNT, MT_I32);
	release(b, y, COUNT, MT_I32);
	free(host);
	return wrong;
}

/* Everybody sends first, long and short: only what travels beside the device's thread keeps that from a deadlock. */
static int sends_do_not_wait_for_receives(struct bench *b)
{
	enum { MESSAGES = 6, MOST = 1500000 };
	int right = (b->rank + 1) % b->size, left = (b->rank + b->size - 1) % b->size, wrong = 0;
	int32_t *host = calloc(MOST, sizeof *host), *out, *in;
	if (b->size == 1) {
		free(host);
		return -1;
	}
	out = reserve(b, MOST, MT_I32);
	in = reserve(b, MOST, MT_I32);
	for (int i = 0; i < MOST; i++)
		host[i] = b->rank * 100000 + i % 997;
	must(b, mt_device_upload(b->device, b->compute, out, host, MOST * sizeof *host), "upload");
	must(b, mt_stream_synchronize(b->compute), "upload");
	for (int m = 0; m < MESSAGES; m++)
		must(b, mt_comm_send(b->world, b->comm[0], out, m % 2 ? 10 : MOST, MT_I32, right), "send");
	for (int m = 0; m < MESSAGES; m++) {
		int64_t count = m % 2 ? 10 : MOST;
		must(b, mt_comm_recv(b->world, m == 2 ? b->compute : b->comm[1], in, count, MT_I32, left), "receive");
		must(b, mt_device_download(b->device, m == 2 ? b->compute : b->comm[1], host, in, (size_t)count * sizeof *host),
		     "read");
		for (int64_t i = 0; i < count; i++)
			wrong += host[i] != left * 100000 + (int32_t)(i % 997);
	}
	must(b, mt_stream_synchronize(b->comm[0]), "send");
	release(b, out, MOST, MT_I32);
	release(b, in, MOST, MT_I32);
	free(host);
	return wrong;
}

static const struct test tests[] = {
	{"collectives_equal_their_definition", collectives_equal_their_definition},
	{"a_stream_runs_in_order", a_stream_runs_in_order},
	{"sends_do_not_wait_for_receives", sends_do_not_wait_for_receives},
};

int main(void)
{
	return run_tests(tests, sizeof tests / sizeof *tests);
}

#else

#include <stdio.h>

int main(void)
{
	printf("built without MPI\n0 passed, 0 failed, 1 skipped\n");
	return 0;
}

#endif
