/* gpu_times: the times that the profiler takes (CUPTI's activity records on a GPU) against the device's own events.
 *   gpu_times [DEVICE]                (cuda)
 *
 * Operations that take long enough for either clock run between two marks, which are events, and under the tracer. The tracer's
 * span is inside of the events', so it can be no longer; and of work that keeps the device busy it is no less than 0.7 of it. */
#include "base/stats.h"
#include "profiles/tracer.h"
#include "tests/gpu_device.h"

enum { RUNS = 9 };

struct times {
	double traced_s[RUNS], event_s[RUNS];
	int traced;
};

static void keep(void *context, const struct mt_trace_event *event)
{
	struct times *t = context;
	if (event->key && t->traced < RUNS)
		t->traced_s[t->traced++] = event->end_s - event->start_s;
}

/* Every run is waited for, so that the two records of it can be told from the next one's. */
static enum mt_status run(struct mt_device *device, struct mt_stream *stream, const struct mt_op *op, struct times *t, char *method)
{
	struct mt_tracer *tracer = NULL;
	struct mt_mark start, stop;
	double start_s, stop_s;
	enum mt_status st;

	MT_GOTO(out, mt_device_enqueue(device, stream, op)); /* cold */
	MT_GOTO(out, mt_device_enqueue(device, stream, op));
	MT_GOTO(out, mt_stream_synchronize(stream));
	MT_GOTO(out, mt_tracer_start(&tracer, device, NULL, keep, t));
	snprintf(method, 256, "%s", mt_tracer_method(tracer));
	for (int i = 0; i < RUNS; i++) {
		MT_GOTO(out, mt_stream_mark(stream, &start));
		MT_GOTO(out, mt_device_enqueue(device, stream, op));
		MT_GOTO(out, mt_stream_mark(stream, &stop));
		MT_GOTO(out, mt_mark_read(&start, &start_s));
		MT_GOTO(out, mt_mark_read(&stop, &stop_s));
		t->event_s[i] = stop_s - start_s;
		MT_GOTO(out, mt_stream_synchronize(stream));
		MT_GOTO(out, mt_tracer_collect(tracer));
	}
out:
	mt_tracer_stop(tracer);
	return st;
}

/* Two operations: one bound by arithmetic, one by memory. */
static enum mt_status make_op(struct mt_arena *arena, int which, int64_t size, struct mt_op *op)
{
	void *memory[3];
	for (int i = 0; i < 3; i++)
		MT_TRY(mt_arena_alloc(arena, (size_t)(size * size) * 4, &memory[i]));
	*op = (struct mt_op){.kind = which ? MT_OP_ADD : MT_OP_LINEAR, .dtype = MT_F32};
	if (which)
		op->add = (struct mt_add){.rows = size, .cols = size, .a = memory[0], .b = memory[1], .out = memory[2]};
	else
		op->linear =
			(struct mt_linear){.rows = size, .in = size, .out = size, .x = memory[0], .w = memory[1], .y = memory[2]};
	return MT_OK;
}

static enum mt_status zero(struct mt_device *device, struct mt_stream *stream, const struct mt_op *op, int64_t size)
{
	const void *inputs[2] = {op->kind == MT_OP_ADD ? op->add.a : op->linear.x,
				 op->kind == MT_OP_ADD ? op->add.b : op->linear.w};
	for (int i = 0; i < 2; i++) {
		struct mt_op fill = {.kind = MT_OP_FILL, .dtype = MT_F32};
		fill.move = (struct mt_move){.count = size * size,
					     .src_dtype = MT_F32,
					     .dst_dtype = MT_F32,
					     .value = 0.03125,
					     .dst = (void *)(uintptr_t)inputs[i]};
		MT_TRY(mt_device_enqueue(device, stream, &fill));
	}
	return MT_OK;
}

static enum mt_status compare(struct mt_device *device, struct mt_stream *stream, int which, int *passed, int *failed, char *method)
{
	const int64_t size = device->ops->async && strcmp(device->info.kind, "late") != 0 ? 4096 : 512;
	struct mt_arena *arena = NULL;
	struct times times = {0};
	struct mt_op op;
	enum mt_status st;

	MT_GOTO(out, mt_arena_create(&arena, "times", mt_device_memory(device), (size_t)(size * size) * 12 + (1 << 20)));
	MT_GOTO(out, make_op(arena, which, size, &op));
	MT_GOTO(out, zero(device, stream, &op, size));
	MT_GOTO(out, run(device, stream, &op, &times, method));
	const double traced = mt_stats_median(times.traced_s, RUNS), events = mt_stats_median(times.event_s, RUNS);
	const bool ok = times.traced == RUNS && traced > 0 && traced <= events * 1.02 + 2e-6 && traced >= 0.7 * events;
	printf("%-6s %s %lld-square: %s %.1f us, events %.1f us, %d of %d runs\n", ok ? "ok" : "FAILED", mt_op_name(op.kind),
	       (long long)size, method, traced * 1e6, events * 1e6, times.traced, RUNS);
	ok ? ++*passed : ++*failed;
out:
	mt_stream_synchronize(stream);
	mt_arena_destroy(arena);
	return st;
}

int main(int argc, char **argv)
{
	const char *kind = argc > 1 ? argv[1] : "cuda";
	struct mt_device *device = NULL;
	struct mt_stream *stream = NULL;
	int passed = 0, failed = 0;
	char method[256] = "";
	enum mt_status st = gpu_device_open(&device, kind, 0);

	if (st != MT_OK)
		return gpu_device_missing(st);
	st = mt_stream_create(device, MT_STREAM_COMPUTE, "times", &stream);
	for (int which = 0; st == MT_OK && which < 2; which++)
		st = compare(device, stream, which, &passed, &failed, method);
	if (st != MT_OK)
		printf("FAILED %s\n", mt_error_message());
	mt_stream_destroy(stream);
	mt_device_destroy(device);
	/* Two readings of the same events prove nothing. */
	if (st == MT_OK && strncmp(method, "device events", 13) == 0) {
		printf("%s\n0 passed, 0 failed, 2 skipped\n", method);
		return NOT_POSSIBLE;
	}
	printf("%d passed, %d failed, 0 skipped\n", passed, failed + (st != MT_OK));
	return st != MT_OK || failed > 0;
}
