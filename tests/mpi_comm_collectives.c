/* Collectives of the mpi fabric, on any number of ranks. Data are small integers, so that every sum is exact in every
 * type and order; where the order of a sum matters, bits are compared.
 * ranks: 1 2 3 4 8 */
#include "base/random.h"
#include "comm/comm.h"
#include "kernels/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef MT_HAVE_MPI

#include "comm/mpi.h"

struct bench {
	struct mt_fabric *fabric;
	struct mt_device *device;
	struct mt_stream *compute, *comm[3];
	struct mt_group *world;
	int rank, size;
};

/* Ends the job: a rank that goes on alone would hang the others. */
static void must(struct bench *b, enum mt_status st, const char *what)
{
	if (st == MT_OK)
		return;
	fprintf(stderr, "rank %d: %s: %s\n", b->rank, what, mt_error_message());
	mt_fabric_abort(b->fabric, 1);
}

static void *buffer(int64_t count, enum mt_dtype dtype)
{
	size_t bytes = (size_t)count * mt_dtype_bytes(dtype);
	char *p = malloc(bytes + 64);
	if (!p)
		abort();
	memset(p, 0x5a, bytes + 64);
	return p;
}

/* The 64 bytes beyond the end are as they were. */
static int untouched(const void *p, int64_t count, enum mt_dtype dtype)
{
	const unsigned char *end = (const unsigned char *)p + (size_t)count * mt_dtype_bytes(dtype);
	for (int i = 0; i < 64; i++)
		if (end[i] != 0x5a)
			return 0;
	return 1;
}

static int value(int rank, int64_t i, int salt)
{
	return (int)((rank * 7 + i * 3 + salt * 5) % 17) - 8;
}

static void put(void *p, int64_t i, enum mt_dtype dtype, double v)
{
	switch (dtype) {
	case MT_F32:
		((float *)p)[i] = (float)v;
		break;
	case MT_BF16:
		((uint16_t *)p)[i] = mt_bf16_from_f32((float)v);
		break;
	case MT_F64:
		((double *)p)[i] = v;
		break;
	default:
		((int32_t *)p)[i] = (int32_t)v;
	}
}

static double get(const void *p, int64_t i, enum mt_dtype dtype)
{
	switch (dtype) {
	case MT_F32:
		return ((const float *)p)[i];
	case MT_BF16:
		return mt_bf16_to_f32(((const uint16_t *)p)[i]);
	case MT_F64:
		return ((const double *)p)[i];
	default:
		return ((const int32_t *)p)[i];
	}
}

static void fill(void *p, int64_t count, enum mt_dtype dtype, int rank, int salt)
{
	for (int64_t i = 0; i < count; i++)
		put(p, i, dtype, value(rank, i, salt));
}

static double reduced(int size, int64_t i, int salt, enum mt_reduction reduction)
{
	int sum = 0, max = -100;
	for (int r = 0; r < size; r++) {
		int v = value(r, i, salt);
		sum += v;
		max = v > max ? v : max;
	}
	return reduction == MT_MAX ? max : sum;
}

/* What element i of a member's result must be. count: elements a rank, as the call says. */
static double expected(enum mt_comm_op op, int rank, int size, int64_t i, int64_t count, int salt, enum mt_reduction reduction,
		       int root)
{
	switch (op) {
	case MT_COMM_ALL_REDUCE:
		return reduced(size, i, salt, reduction);
	case MT_COMM_REDUCE_SCATTER:
		return reduced(size, rank * count + i, salt, MT_SUM);
	case MT_COMM_ALL_GATHER:
		return value((int)(i / count), i % count, salt);
	case MT_COMM_ALL_TO_ALL:
		return value((int)(i / count), rank * count + i % count, salt);
	default:
		return value(root, i, salt);
	}
}

struct job {
	enum mt_comm_op op;
	int64_t count;
	enum mt_dtype dtype;
	enum mt_reduction reduction;
	bool in_place;
	int root, salt;
	void *send, *recv, *mine; /* mine: the whole buffer when in place */
};

static int64_t sent_count(const struct job *j, int size)
{
	return j->op == MT_COMM_REDUCE_SCATTER || j->op == MT_COMM_ALL_TO_ALL ? j->count * size : j->count;
}

static int64_t received_count(const struct job *j, int size)
{
	return j->op == MT_COMM_ALL_GATHER || j->op == MT_COMM_ALL_TO_ALL ? j->count * size : j->count;
}

static void prepare(struct job *j, int rank, int size)
{
	int64_t sent = sent_count(j, size), received = received_count(j, size);
	size_t width = mt_dtype_bytes(j->dtype);
	if (j->op == MT_COMM_BROADCAST)
		j->in_place = true;
	if (j->op == MT_COMM_ALL_TO_ALL)
		j->in_place = false;
	j->mine = NULL;
	if (!j->in_place) {
		j->send = buffer(sent, j->dtype);
		j->recv = buffer(received, j->dtype);
	} else {
		j->mine = buffer(sent > received ? sent : received, j->dtype);
		j->send = j->recv = j->mine;
		if (j->op == MT_COMM_ALL_GATHER)
			j->send = (char *)j->mine + (size_t)(rank * j->count) * width;
		if (j->op == MT_COMM_REDUCE_SCATTER)
			j->recv = (char *)j->mine + (size_t)(rank * j->count) * width;
	}
	fill(j->send, sent, j->dtype, rank, j->salt);
}

static enum mt_status call(const struct job *j, struct mt_group *group, struct mt_stream *stream)
{
	switch (j->op) {
	case MT_COMM_ALL_REDUCE:
		return mt_comm_all_reduce(group, stream, j->send, j->recv, j->count, j->dtype, j->reduction);
	case MT_COMM_REDUCE_SCATTER:
		return mt_comm_reduce_scatter(group, stream, j->send, j->recv, j->count, j->dtype);
	case MT_COMM_ALL_GATHER:
		return mt_comm_all_gather(group, stream, j->send, j->recv, j->count, j->dtype);
	case MT_COMM_ALL_TO_ALL:
		return mt_comm_all_to_all(group, stream, j->send, j->recv, j->count, j->dtype);
	default:
		return mt_comm_broadcast(group, stream, j->recv, j->count, j->dtype, j->root);
	}
}

/* 0 when the result is right; frees the buffers. */
static int judge(struct job *j, int rank, int size, const char *where)
{
	int64_t received = received_count(j, size);
	int wrong = 0;
	for (int64_t i = 0; i < received && !wrong; i++) {
		double want = expected(j->op, rank, size, i, j->count, j->salt, j->reduction, j->root),
		       got = get(j->recv, i, j->dtype);
		if (got != want) {
			wrong = 1;
			fprintf(stderr, "%s: %s%s of %lld type %d, group rank %d of %d: element %lld is %g, expected %g\n", where,
				mt_comm_op_name(j->op), j->in_place ? " in place" : "", (long long)j->count, j->dtype, rank, size,
				(long long)i, got, want);
		}
	}
	if (!j->in_place && (!untouched(j->recv, received, j->dtype) || !untouched(j->send, sent_count(j, size), j->dtype))) {
		wrong = 1;
		fprintf(stderr, "%s: %s of %lld wrote beyond its buffer\n", where, mt_comm_op_name(j->op), (long long)j->count);
	}
	if (j->in_place) {
		free(j->mine);
	} else {
		free(j->send);
		free(j->recv);
	}
	return wrong;
}

/* The same random job on every member. Counts: none, few, odd, and some beyond a segment of any algorithm. */
static struct job draw(uint64_t seed, int index, int size)
{
	static const int64_t counts[] = {0, 1, 2, 3, 7, 64, 65, 1000, 4097, 20001, 70003, 263001};
	uint64_t at = (uint64_t)index * 8;
	struct job j = {
		.op = (enum mt_comm_op)mt_random_integer(seed, 1, at, MT_COMM_SEND_RECV),
		.count = counts[mt_random_integer(seed, 1, at + 1, sizeof counts / sizeof *counts)],
		.dtype = (enum mt_dtype)mt_random_integer(seed, 1, at + 2, MT_DTYPE_COUNT),
		.in_place = mt_random_integer(seed, 1, at + 4, 2),
		.root = (int)mt_random_integer(seed, 1, at + 5, (uint64_t)size),
		.salt = index,
	};
	if (j.op == MT_COMM_ALL_REDUCE)
		j.reduction = (enum mt_reduction)mt_random_integer(seed, 1, at + 3, 2);
	return j;
}

static int random_jobs(struct bench *b, struct mt_group *group, struct mt_stream *stream, uint64_t seed, int jobs,
		       const char *where)
{
	int rank = mt_group_rank(group), size = mt_group_size(group), wrong = 0;
	for (int i = 0; i < jobs; i++) {
		struct job j = draw(seed, i, size);
		prepare(&j, rank, size);
		must(b, call(&j, group, stream), where);
		must(b, mt_stream_synchronize(stream), where);
		wrong += judge(&j, rank, size, where);
	}
	return wrong;
}

static int collectives_equal_their_definition(struct bench *b)
{
	return random_jobs(b, b->world, b->compute, 11, 150, "compute stream") +
	       random_jobs(b, b->world, b->comm[0], 12, 100, "comm stream");
}

/* On one host with few ranks only direct algorithms are chosen; here the group is told that it is elsewhere. */
static int other_algorithms_agree(struct bench *b)
{
	int wrong = 0;
	if (b->size == 1)
		return -1;
	struct mpi_group *members = b->world->backend;
	struct mpi_group as_found = *members;
	members->one_host = false;
	wrong += random_jobs(b, b->world, b->compute, 21, 100, "several hosts");
	members->direct_ranks = 1;
	wrong += random_jobs(b, b->world, b->comm[1], 22, 150, "large group");
	members->one_host = as_found.one_host;
	members->direct_ranks = as_found.direct_ranks;
	return wrong;
}

static int long_buffers_are_whole(struct bench *b)
{
	int wrong = 0;
	for (int op = 0; op < MT_COMM_SEND_RECV; op++) {
		struct job j = {.op = (enum mt_comm_op)op, .count = 1200007, .dtype = MT_F32, .in_place = op & 1, .salt = op};
		if (op != MT_COMM_ALL_REDUCE && op != MT_COMM_BROADCAST)
			j.count /= b->size;
		prepare(&j, b->rank, b->size);
		must(b, call(&j, b->world, b->comm[2]), "long");
		must(b, mt_stream_synchronize(b->comm[2]), "long");
		wrong += judge(&j, b->rank, b->size, "long");
	}
	return wrong;
}

/* Ranks r, r + stride, ...: all groups of that kind at once, on a comm stream and in reverse order of members. */
static int strided_groups_work_side_by_side(struct bench *b)
{
	int wrong = 0;
	for (int stride = 1; stride <= b->size / 2; stride *= 2) {
		struct mt_group *group = NULL;
		int ranks[64], count = 0;
		for (int r = b->rank % stride; r < b->size; r += stride)
			ranks[count++] = r;
		for (int i = 0; i < count / 2; i++) {
			int swap = ranks[i];
			ranks[i] = ranks[count - 1 - i];
			ranks[count - 1 - i] = swap;
		}
		must(b, mt_group_create(b->fabric, "strided", ranks, count, &group), "strided group");
		wrong += mt_group_world_rank(group, mt_group_rank(group)) != b->rank;
		wrong += random_jobs(b, group, b->comm[0], 31, 40, "strided group");
		mt_group_destroy(group);
	}
	return wrong;
}

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

static int float_sums_have_the_same_bits(struct bench *b)
{
	enum { COUNT = 150001 };
	int wrong = 0;
	for (int dtype = MT_F32; dtype <= MT_F64; dtype++) {
		size_t width = mt_dtype_bytes((enum mt_dtype)dtype), bytes = COUNT * width;
		char *x = buffer(COUNT, (enum mt_dtype)dtype), *y = buffer(COUNT, (enum mt_dtype)dtype);
		char *first = buffer(COUNT, (enum mt_dtype)dtype);
		for (int64_t i = 0; i < COUNT; i++)
			put(x, i, (enum mt_dtype)dtype, mt_random_normal(5, (uint64_t)b->rank, (uint64_t)i));
		for (int repeat = 0; repeat < 6; repeat++) {
			struct mt_stream *stream = repeat % 2 ? b->comm[0] : b->compute;
			must(b, mt_comm_all_reduce(b->world, stream, x, y, COUNT, (enum mt_dtype)dtype, MT_SUM), "bits");
			must(b, mt_stream_synchronize(stream), "bits");
			if (repeat == 0)
				memcpy(first, y, bytes);
			if (memcmp(first, y, bytes) != 0)
				wrong++;
		}
		/* Rank 0's bits against everyone's. */
		must(b, mt_comm_broadcast(b->world, b->compute, y, COUNT, (enum mt_dtype)dtype, 0), "bits");
		if (memcmp(first, y, bytes) != 0)
			wrong++;
		free(x);
		free(y);
		free(first);
	}
	if (wrong)
		fprintf(stderr, "rank %d: %d sums differ in bits\n", b->rank, wrong);
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

static int host_helpers_reach_everyone(struct bench *b)
{
	double values[3] = {b->rank, 1.0, -b->rank};
	char own[5] = "ab", all[64 * 5];
	int wrong = 0;
	own[2] = (char)('A' + b->rank);
	must(b, mt_comm_barrier(b->world), "barrier");
	must(b, mt_comm_host_all_reduce(b->world, values, 3, MT_SUM), "host all_reduce");
	wrong += values[0] != b->size * (b->size - 1) / 2 || values[1] != b->size;
	values[2] = -b->rank;
	must(b, mt_comm_host_all_reduce(b->world, values + 2, 1, MT_MAX), "host all_reduce");
	wrong += values[2] != 0.0;
	must(b, mt_comm_host_all_gather(b->world, own, all, sizeof own), "host all_gather");
	for (int r = 0; r < b->size; r++)
		wrong += all[r * 5 + 2] != 'A' + r;
	wrong += mt_fabric_local_size(b->fabric) < 1 || mt_fabric_local_rank(b->fabric) >= mt_fabric_local_size(b->fabric);
	wrong += strlen(mt_fabric_host(b->fabric, b->size - 1)) == 0 || strlen(mt_fabric_library(b->fabric)) == 0;
	wrong += !mt_fabric_launched();
	return wrong;
}

static int bad_calls_are_refused(struct bench *b)
{
	struct mt_group *group = NULL;
	int ranks[2] = {b->rank, b->rank}, other[1] = {b->size};
	float x[4] = {0};
	int wrong = 0;
	wrong += mt_group_create(b->fabric, "outside", other, 1, &group) != MT_INPUT;
	mt_error_clear();
	wrong += b->size > 1 && mt_group_create(b->fabric, "twice", ranks, 2, &group) != MT_INPUT;
	mt_error_clear();
	wrong += mt_comm_broadcast(b->world, b->compute, x, 4, MT_F32, b->size) != MT_INPUT;
	mt_error_clear();
	wrong += mt_comm_send(b->world, b->compute, x, 4, MT_F32, b->rank) != MT_INPUT;
	mt_error_clear();
	wrong += mt_comm_all_reduce(b->world, b->compute, x, x, -1, MT_F32, MT_SUM) != MT_INPUT;
	mt_error_clear();
	return wrong;
}

/* The last rank says another count: every member is told which rank, and the group refuses work from then on. */
static int a_differing_call_is_named(struct bench *b)
{
#ifdef MT_DEBUG
	struct mt_group *group = NULL;
	int ranks[64], wrong = 0;
	float x[8] = {0};
	char name[32];
	if (b->size < 3)
		return -1;
	for (int r = 0; r < b->size; r++)
		ranks[r] = r;
	must(b, mt_group_create(b->fabric, "odd", ranks, b->size, &group), "group");
	int64_t count = b->rank == b->size - 1 ? 5 : 4;
	must(b, mt_comm_all_reduce(group, b->comm[0], x, x, 4, MT_F32, MT_SUM), "agreeing call");
	must(b, mt_stream_synchronize(b->comm[0]), "agreeing call");
	/* On a comm stream the failure is known when the stream is waited for, if not at once. */
	if (mt_comm_all_reduce(group, b->comm[0], x, x, count, MT_F32, MT_SUM) == MT_OK)
		wrong += mt_stream_synchronize(b->comm[0]) != MT_FAILED;
	snprintf(name, sizeof name, "rank %d (world", b->size - 1);
	if (!strstr(mt_error_message(), name) || !strstr(mt_error_message(), "of 5 f32")) {
		fprintf(stderr, "the message does not name %s: %s\n", name, mt_error_message());
		wrong++;
	}
	mt_error_clear();
	wrong += mt_comm_all_reduce(group, b->comm[1], x, x, 4, MT_F32, MT_SUM) == MT_OK &&
		 mt_stream_synchronize(b->comm[1]) == MT_OK;
	wrong += !strstr(mt_error_message(), "earlier operation");
	mt_error_clear();
	mt_stream_synchronize(b->comm[1]);
	mt_error_clear();
	mt_group_destroy(group);
	return wrong;
#else
	return -1;
#endif
}

static void open_bench(struct bench *b)
{
	struct mt_fabric_config fabric = {.kind = "mpi"};
	struct mt_device_config device = {.kind = "reference", .threads = 1};
	int ranks[64];
	if (mt_fabric_create(&b->fabric, &fabric) != MT_OK) {
		fprintf(stderr, "%s\n", mt_error_message());
		exit(1);
	}
	b->rank = mt_fabric_rank(b->fabric);
	b->size = mt_fabric_size(b->fabric);
	for (int r = 0; r < b->size; r++)
		ranks[r] = r;
	must(b, mt_device_create(&b->device, &device), "device");
	must(b, mt_stream_create(b->device, MT_STREAM_COMPUTE, "compute", &b->compute), "stream");
	for (int s = 0; s < 3; s++)
		must(b, mt_stream_create(b->device, MT_STREAM_COMM, "comm", &b->comm[s]), "stream");
	must(b, mt_group_create(b->fabric, "world", ranks, b->size, &b->world), "group");
}

static void close_bench(struct bench *b)
{
	for (int s = 0; s < 3; s++)
		mt_stream_destroy(b->comm[s]);
	mt_stream_destroy(b->compute);
	mt_group_destroy(b->world);
	mt_device_destroy(b->device);
	mt_fabric_destroy(b->fabric);
}

static const struct {
	const char *name;
	int (*run)(struct bench *b); /* mismatches; -1: skipped */
} tests[] = {
	{"collectives_equal_their_definition", collectives_equal_their_definition},
	{"other_algorithms_agree", other_algorithms_agree},
	{"long_buffers_are_whole", long_buffers_are_whole},
	{"strided_groups_work_side_by_side", strided_groups_work_side_by_side},
	{"streams_progress_beside_compute", streams_progress_beside_compute},
	{"a_stream_runs_in_order", a_stream_runs_in_order},
	{"float_sums_have_the_same_bits", float_sums_have_the_same_bits},
	{"messages_arrive_in_the_order_sent", messages_arrive_in_the_order_sent},
	{"host_helpers_reach_everyone", host_helpers_reach_everyone},
	{"bad_calls_are_refused", bad_calls_are_refused},
	{"a_differing_call_is_named", a_differing_call_is_named},
};

int main(void)
{
	struct bench b = {0};
	int passed = 0, failed = 0, skipped = 0;
	open_bench(&b);
	for (size_t t = 0; t < sizeof tests / sizeof *tests; t++) {
		double wrong = tests[t].run(&b);
		must(&b, mt_comm_host_all_reduce(b.world, &wrong, 1, MT_MAX), "verdict");
		passed += wrong == 0.0;
		failed += wrong > 0.0;
		skipped += wrong < 0.0;
		if (b.rank == 0)
			printf("%s %s\n", wrong == 0.0 ? "ok  " : wrong < 0.0 ? "skip" : "FAIL", tests[t].name);
	}
	if (b.rank == 0)
		printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
	close_bench(&b);
	return failed ? 1 : 0;
}

#else

int main(void)
{
	printf("built without MPI\n0 passed, 0 failed, 1 skipped\n");
	return 0;
}

#endif
