/* What the tests of the mpi fabric share: a device and streams on every rank, random collectives whose result is known,
 * and the loop over the tests. Data are small integers, so that every sum is exact in every type and order. */
#ifndef MT_TESTS_COMM_BENCH_H
#define MT_TESTS_COMM_BENCH_H

#include "base/random.h"
#include "comm/comm.h"
#include "kernels/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A test of another fabric or device names it before it includes this. */
#ifndef BENCH_FABRIC
#define BENCH_FABRIC "mpi"
#endif
#ifndef BENCH_DEVICE_OPS
#define BENCH_DEVICE_OPS NULL
#endif

struct bench {
	struct mt_fabric *fabric;
	struct mt_device *device;
	struct mt_stream *compute, *comm[3];
	struct mt_group *world;
	int rank, size;
};

/* Ends the job: a rank that goes on alone would hang the others. */
static inline void must(struct bench *b, enum mt_status st, const char *what)
{
	if (st == MT_OK)
		return;
	fprintf(stderr, "rank %d: %s: %s\n", b->rank, what, mt_error_message());
	mt_fabric_abort(b->fabric, 1);
}

static inline void *buffer(int64_t count, enum mt_dtype dtype)
{
	size_t bytes = (size_t)count * mt_dtype_bytes(dtype);
	char *p = malloc(bytes + 64);
	if (!p)
		abort();
	memset(p, 0x5a, bytes + 64);
	return p;
}

/* The 64 bytes beyond the end are as they were. */
static inline int untouched(const void *p, int64_t count, enum mt_dtype dtype)
{
	const unsigned char *end = (const unsigned char *)p + (size_t)count * mt_dtype_bytes(dtype);
	for (int i = 0; i < 64; i++)
		if (end[i] != 0x5a)
			return 0;
	return 1;
}

static inline int value(int rank, int64_t i, int salt)
{
	return (int)((rank * 7 + i * 3 + salt * 5) % 17) - 8;
}

static inline void put(void *p, int64_t i, enum mt_dtype dtype, double v)
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
	case MT_F16:
		((uint16_t *)p)[i] = mt_f16_from_f32((float)v);
		break;
	default:
		((int32_t *)p)[i] = (int32_t)v;
	}
}

static inline double get(const void *p, int64_t i, enum mt_dtype dtype)
{
	switch (dtype) {
	case MT_F32:
		return ((const float *)p)[i];
	case MT_BF16:
		return mt_bf16_to_f32(((const uint16_t *)p)[i]);
	case MT_F64:
		return ((const double *)p)[i];
	case MT_F16:
		return mt_f16_to_f32(((const uint16_t *)p)[i]);
	default:
		return ((const int32_t *)p)[i];
	}
}

static inline void fill(void *p, int64_t count, enum mt_dtype dtype, int rank, int salt)
{
	for (int64_t i = 0; i < count; i++)
		put(p, i, dtype, value(rank, i, salt));
}

static inline double reduced(int size, int64_t i, int salt, enum mt_reduction reduction)
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
static inline double expected(enum mt_comm_op op, int rank, int size, int64_t i, int64_t count, int salt,
			      enum mt_reduction reduction, int root)
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
	case MT_COMM_SHIFT:
		return value((rank + size - root) % size, i, salt);
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

static inline int64_t sent_count(const struct job *j, int size)
{
	return j->op == MT_COMM_REDUCE_SCATTER || j->op == MT_COMM_ALL_TO_ALL ? j->count * size : j->count;
}

static inline int64_t received_count(const struct job *j, int size)
{
	return j->op == MT_COMM_ALL_GATHER || j->op == MT_COMM_ALL_TO_ALL ? j->count * size : j->count;
}

static inline void prepare(struct job *j, int rank, int size)
{
	int64_t sent = sent_count(j, size), received = received_count(j, size);
	size_t width = mt_dtype_bytes(j->dtype);
	if (j->op == MT_COMM_BROADCAST)
		j->in_place = true;
	if (j->op == MT_COMM_ALL_TO_ALL || j->op == MT_COMM_SHIFT)
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

static inline enum mt_status call(const struct job *j, struct mt_group *group, struct mt_stream *stream)
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
	case MT_COMM_SHIFT:
		return mt_comm_shift(group, stream, j->send, j->recv, j->count, j->dtype, j->root);
	default:
		return mt_comm_broadcast(group, stream, j->recv, j->count, j->dtype, j->root);
	}
}

/* 0 when the result is right; frees the buffers. */
static inline int judge(struct job *j, int rank, int size, const char *where)
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
static inline struct job draw(uint64_t seed, int index, int size)
{
	static const int64_t counts[] = {0, 1, 2, 3, 7, 64, 65, 1000, 4097, 20001, 70003, 263001};
	uint64_t at = (uint64_t)index * 8;
	struct job j = {
		.op = (enum mt_comm_op)mt_random_integer(seed, 1, at, MT_COMM_SEND_RECV),
		.count = counts[mt_random_integer(seed, 1, at + 1, sizeof counts / sizeof *counts)],
		.dtype = (enum mt_dtype)mt_random_integer(seed, 1, at + 2, MT_I32 + 1), /* those that have sums */
		.in_place = mt_random_integer(seed, 1, at + 4, 2),
		.root = (int)mt_random_integer(seed, 1, at + 5, (uint64_t)size),
		.salt = index,
	};
	if (j.op == MT_COMM_ALL_REDUCE)
		j.reduction = (enum mt_reduction)mt_random_integer(seed, 1, at + 3, 2);
	return j;
}

static inline int random_jobs(struct bench *b, struct mt_group *group, struct mt_stream *stream, uint64_t seed, int jobs,
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

static inline void open_bench(struct bench *b)
{
	struct mt_fabric_config fabric = {.kind = BENCH_FABRIC};
	struct mt_device_config device = {.kind = "reference", .threads = 1};
	const struct mt_device_ops *ops = BENCH_DEVICE_OPS;
	int ranks[64];
	if (mt_fabric_create(&b->fabric, &fabric) != MT_OK) {
		fprintf(stderr, "%s\n", mt_error_message());
		exit(1);
	}
	b->rank = mt_fabric_rank(b->fabric);
	b->size = mt_fabric_size(b->fabric);
	for (int r = 0; r < b->size; r++)
		ranks[r] = r;
	must(b, ops ? mt_device_create_from(&b->device, ops, &device) : mt_device_create(&b->device, &device), "device");
	must(b, mt_stream_create(b->device, MT_STREAM_COMPUTE, "compute", &b->compute), "stream");
	for (int s = 0; s < 3; s++)
		must(b, mt_stream_create(b->device, MT_STREAM_COMM, "comm", &b->comm[s]), "stream");
	must(b, mt_group_create(b->fabric, "world", ranks, b->size, &b->world), "group");
}

static inline void close_bench(struct bench *b)
{
	for (int s = 0; s < 3; s++)
		mt_stream_destroy(b->comm[s]);
	mt_stream_destroy(b->compute);
	mt_group_destroy(b->world);
	mt_device_destroy(b->device);
	mt_fabric_destroy(b->fabric);
}

struct test {
	const char *name;
	int (*run)(struct bench *b); /* mismatches; -1: skipped */
};

/* Runs them all; a test passed when it did on every rank. The exit status of the program. */
static inline int run_tests(const struct test *tests, size_t count)
{
	struct bench b = {0};
	int passed = 0, failed = 0, skipped = 0;
	open_bench(&b);
	for (size_t t = 0; t < count; t++) {
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

#endif
