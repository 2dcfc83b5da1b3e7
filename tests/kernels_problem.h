/* kernels_problem: what tests of operations share: the reference device, memory and random inputs of the running test. */
#ifndef MT_TESTS_KERNELS_PROBLEM_H
#define MT_TESTS_KERNELS_PROBLEM_H

#include "base/random.h"
#include "kernels/device.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SEED 20240607

static struct mt_device *device;
static struct mt_stream *stream;
static void *live[512]; /* memory of the running test, each piece its own so that a sanitizer sees its ends */
static size_t live_count;
static uint64_t drawn;

static inline int set_up(void **state)
{
	struct mt_device_config config = {.kind = "reference"};
	live_count = 0;
	drawn = 0;
	return mt_device_create(&device, &config) || mt_stream_create(device, MT_STREAM_COMPUTE, "compute", &stream);
}

static inline int tear_down(void **state)
{
	for (size_t i = 0; i < live_count; i++)
		free(live[i]);
	mt_stream_destroy(stream);
	mt_device_destroy(device);
	return 0;
}

static inline void *fresh(int64_t bytes)
{
	assert_true(live_count < sizeof live / sizeof live[0]);
	void *memory = calloc(1, bytes > 0 ? (size_t)bytes : 1);
	assert_non_null(memory);
	live[live_count++] = memory;
	return memory;
}

static inline double *zeros(int64_t count)
{
	return fresh(count * (int64_t)sizeof(double));
}

static inline double *normals(int64_t count)
{
	double *x = zeros(count);
	for (int64_t i = 0; i < count; i++)
		x[i] = mt_random_normal(SEED, 1, drawn++);
	return x;
}

static inline double *copied(const double *x, int64_t count)
{
	double *copy = zeros(count);
	memcpy(copy, x, (size_t)count * sizeof *x);
	return copy;
}

static inline int64_t pick(int64_t least, int64_t most)
{
	return least + (int64_t)mt_random_integer(SEED, 2, drawn++, (uint64_t)(most - least + 1));
}

static inline void run_as(enum mt_dtype dtype, enum mt_op_kind kind, struct mt_op op)
{
	op.kind = kind;
	op.dtype = dtype;
	if (mt_device_enqueue(device, stream, &op) != MT_OK)
		fail_msg("%s: %s", mt_op_name(kind), mt_error_message());
}

static inline void run(enum mt_op_kind kind, struct mt_op op)
{
	run_as(MT_F64, kind, op);
}

static inline double dot(const double *a, const double *b, int64_t count)
{
	double sum = 0;
	for (int64_t i = 0; i < count; i++)
		sum += a[i] * b[i];
	return sum;
}

static inline void assert_near(const char *what, const double *found, const double *expected, int64_t count, double tolerance)
{
	for (int64_t i = 0; i < count; i++)
		if (!(fabs(found[i] - expected[i]) <= tolerance * (1 + fabs(expected[i]))))
			fail_msg("%s[%lld]: found %.12g, expected %.12g", what, (long long)i, found[i], expected[i]);
}

#endif
