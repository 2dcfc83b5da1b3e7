/* rate: see rate.h. Repetitions are timed one by one, so that a disturbed one does not count. */
#include "kernels/rate.h"

#include "base/clock.h"
#include "base/stats.h"

#include <math.h>

enum { MOST_SAMPLES = 512 };

static enum mt_status fill(struct mt_device *device, struct mt_stream *stream, void *dst, int64_t count, enum mt_dtype dtype)
{
	struct mt_op op = {.kind = MT_OP_FILL, .dtype = dtype};

	op.move = (struct mt_move){.count = count, .src_dtype = dtype, .dst_dtype = dtype, .value = 0.01, .dst = dst};
	return mt_device_enqueue(device, stream, &op);
}

static enum mt_status sample(struct mt_device *device, struct mt_stream *stream, const struct mt_op *op, double budget_s,
			     double *times, size_t *count)
{
	double start_s, stop_s, end_s = mt_clock_s() + budget_s;
	struct mt_mark start, stop;

	MT_TRY(mt_device_enqueue(device, stream, op));
	MT_TRY(mt_device_enqueue(device, stream, op));
	MT_TRY(mt_stream_synchronize(stream));
	do {
		MT_TRY(mt_stream_mark(stream, &start));
		MT_TRY(mt_device_enqueue(device, stream, op));
		MT_TRY(mt_stream_mark(stream, &stop));
		MT_TRY(mt_mark_read(&start, &start_s));
		MT_TRY(mt_mark_read(&stop, &stop_s));
		times[(*count)++] = stop_s - start_s;
	} while (*count < MOST_SAMPLES && (*count < 3 || mt_clock_s() < end_s));
	return MT_OK;
}

enum mt_status mt_device_product_rate(struct mt_device *device, enum mt_dtype dtype, int64_t size, double budget_s,
				      double *flops_per_s, double *spread)
{
	struct mt_stream *stream = NULL;
	struct mt_arena *arena = NULL;
	struct mt_op op = {.kind = MT_OP_LINEAR, .dtype = dtype};
	double times[MOST_SAMPLES], flops = 2.0 * (double)size * (double)size * (double)size, median;
	size_t bytes = (size_t)(size * size) * mt_dtype_bytes(dtype), count = 0;
	void *matrix[3];
	enum mt_status st;

	MT_GOTO(out, mt_stream_create(device, MT_STREAM_COMPUTE, "rate", &stream));
	MT_GOTO(out, mt_arena_create(&arena, "product rate", mt_device_memory(device), 4 * bytes + (1 << 20)));
	for (int i = 0; i < 3; i++) {
		MT_GOTO(out, mt_arena_alloc(arena, bytes, &matrix[i]));
		MT_GOTO(out, fill(device, stream, matrix[i], size * size, dtype));
	}
	op.linear = (struct mt_linear){.rows = size, .in = size, .out = size, .x = matrix[0], .w = matrix[1], .y = matrix[2]};
	MT_GOTO(out, sample(device, stream, &op, budget_s, times, &count));
	median = mt_stats_median(times, count);
	*flops_per_s = flops / median;
	if (spread)
		*spread = flops / median * (mt_stats_mad(times, count) / median);
out:
	mt_stream_destroy(stream); /* first: its work uses the arena */
	mt_arena_destroy(arena);
	return st;
}
