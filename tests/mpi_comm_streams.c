/* Collectives and messages of the mpi fabric on comm streams: beside compute, in order, without deadlock.
 * ranks: 1 2 3 4 8 */
#ifdef MT_HAVE_MPI

#include "tests/comm_bench.h"

/* Three streams of jobs at once on one group, the device's thread computing and using the group itself meanwhile. */
static int streams_progress_beside_compute(struct bench *b)
{
	enum { JOBS = 20 };
	struct job jobs[3][JOBS];
	volatile double sum = 0.0;
	int wrong = 0;
	for (int s = 0; s < 3; s++) {
		for (int i = 0; i < JOBS; i++) {
			jobs[s][i] = draw(41 + (uint64_t)s, i, b->size);
			prepare(&jobs[s][i], b->rank, b->size);
		}
	}
	for (int i = 0; i < JOBS; i++) {
		for (int s = 0; s < 3; s++)
			must(b, call(&jobs[s][i], b->world, b->comm[s]), "three streams");
		for (int k = 0; k < 20000; k++)
			sum += k * 1e-9;
		struct job inline_job = {.op = MT_COMM_ALL_REDUCE, .count = 100, .dtype = MT_F32, .salt = i};
		prepare(&inline_job, b->rank, b->size);
		must(b, call(&inline_job, b->world, b->compute), "inline");
		wrong += judge(&inline_job, b->rank, b->size, "inline beside three streams");
	}
	for (int s = 0; s < 3; s++) {
		must(b, mt_stream_synchronize(b->comm[s]), "three streams");
		for (int i = 0; i < JOBS; i++)
			wrong += judge(&jobs[s][i], b->rank, b->size, "three streams");
	}
	return wrong;
}

struct seen {
	pthread_mutex_t lock;
	int events, wrong;
	double end_s;
};

static void watch(void *context, const struct mt_trace_event *event)
{
	struct seen *seen = context;
	pthread_mutex_lock(&seen->lock);
	int64_t want = 4 * (1 + (seen->events * 7919) % 50000);
	if (event->bytes != want || event->start_s < seen->end_s || event->end_s < event->start_s ||
	    strcmp(event->group, "world") != 0)
		seen->wrong++;
	seen->end_s = event->end_s;
	seen->events++;
	pthread_mutex_unlock(&seen->lock);
}

/* Each collective adds to what the one before left, and the trace shows them one after the other. */
static int a_stream_runs_in_order(struct bench *b)
{
	enum { CALLS = 60, MOST = 50000 };
	struct seen seen = {.lock = PTHREAD_MUTEX_INITIALIZER};
	int32_t *x = calloc(MOST, sizeof *x);
	int wrong = 0;
	if (b->size == 1 || !x) {
		free(x);
		return -1;
	}
	x[0] = 1;
	mt_device_set_trace(b->device, watch, &seen);
	for (int i = 0; i < CALLS; i++)
		must(b, mt_comm_all_reduce(b->world, b->comm[0], x, x, 1 + (i * 7919) % MOST, MT_I32, MT_SUM), "in order");
	must(b, mt_stream_synchronize(b->comm[0]), "in order");
	mt_device_set_trace(b->device, NULL, NULL);
	uint32_t power = 1; /* size^CALLS, wrapping */
	for (int i = 0; i < CALLS; i++)
		power *= (uint32_t)b->size;
	if ((uint32_t)x[0] != power || seen.events != CALLS || seen.wrong) {
		fprintf(stderr, "in order: result %u, expected %u; %d events, expected %d; %d of them wrong\n", (uint32_t)x[0],
			power, seen.events, CALLS, seen.wrong);
		wrong = 1;
	}
	free(x);
	return wrong;
}

static int messages_arrive_in_the_order_sent(struct bench *b)
{
	enum { MESSAGES = 24, MOST = 1500000 };
	int right = (b->rank + 1) % b->size, left = (b->rank + b->size - 1) % b->size, wrong = 0;
	int32_t *out[MESSAGES], *in[MESSAGES];
	if (b->size == 1)
		return -1;
	for (int m = 0; m < MESSAGES; m++) {
		int64_t count = m == 5 ? MOST : 1 + (m * 331) % 3000;
		out[m] = buffer(count, MT_I32);
		in[m] = buffer(count, MT_I32);
		for (int64_t i = 0; i < count; i++)
			out[m][i] = (int32_t)(b->rank * 100000 + m * 1000 + i % 997);
		/* Everybody sends first: only streams of their own keep that from a deadlock. */
		must(b, mt_comm_send(b->world, b->comm[0], out[m], count, MT_I32, right), "send");
	}
	for (int m = 0; m < MESSAGES; m++) {
		int64_t count = m == 5 ? MOST : 1 + (m * 331) % 3000;
		struct mt_stream *stream = m % 3 == 0 ? b->compute : b->comm[1];
		must(b, mt_comm_recv(b->world, stream, in[m], count, MT_I32, left), "receive");
	}
	must(b, mt_stream_synchronize(b->comm[1]), "receive");
	must(b, mt_stream_synchronize(b->comm[0]), "send");
	for (int m = 0; m < MESSAGES; m++) {
		int64_t count = m == 5 ? MOST : 1 + (m * 331) % 3000;
		for (int64_t i = 0; i < count; i++)
			wrong += in[m][i] != (int32_t)(left * 100000 + m * 1000 + i % 997);
		free(out[m]);
		free(in[m]);
	}
	return wrong;
}

static const struct test tests[] = {
	{"streams_progress_beside_compute", streams_progress_beside_compute},
	{"a_stream_runs_in_order", a_stream_runs_in_order},
	{"messages_arrive_in_the_order_sent", messages_arrive_in_the_order_sent},
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
