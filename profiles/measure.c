/* measure: one operation alone, as the engine would find it.
 *
 * Inside a training step the activations an operation reads were written by the one before and are in cache, while
 * weights, gradients and optimizer state were last used a layer or a step ago and come from memory. So the former are one
 * set of buffers, used again and again, and the latter exist in several sets that are walked round: together they are
 * larger than the last-level cache (and at most MOST_ROTATED_BYTES), so the oldest has left it when its turn comes again.
 *
 * Every buffer is written before the first timing (a first touch costs a page fault per 4 KiB or 2 MiB), and the first
 * runs are dropped: libraries build code on first use. The times are those that the device traces, so they are the
 * device's own, also where work is asynchronous.
 *
 * It stops when the 90% interval of the median is narrower than NARROW_FRAC of it, or when the budget is spent, but
 * never before LEAST_SAMPLES. The interval counts from five samples on: with fewer, no order statistics cover 90%. */
#include "base/clock.h"
#include "base/process.h"
#include "base/random.h"
#include "base/stats.h"
#include "kernels/fp8.h"
#include "profiles/operands.h"
#include "profiles/table.h"
#include "profiles/tracer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MOST_ROTATED_BYTES ((size_t)512 << 20)
#define MOST_SETS          4096
#define BLOCK_BYTES        ((size_t)1 << 20)
#define MEMORY_FRAC        0.8 /* of what the system says is available */
#define WARM_UP_RUNS       2
#define LEAST_SAMPLES      3
#define LEAST_FOR_INTERVAL 5
#define MOST_SAMPLES       2000
#define NARROW_FRAC        0.01

struct bench {
	struct mt_device *device;
	struct mt_stream *stream; /* owned */
	struct mt_tracer *tracer; /* owned */
	struct mt_arena *arena;   /* owned */
	struct operands operands;
	int sets;
	struct mt_op *ops; /* owned: one a set, complete */
	void *block;       /* owned: BLOCK_BYTES, what buffers are filled from */
	double *samples;   /* owned */
	int sample_count;
};

/* Trace sink while timing. */
static void keep_sample(void *context, const struct mt_trace_event *event)
{
	struct bench *bench = context;
	double seconds = event->end_s - event->start_s;
	if (event->key && bench->sample_count < MOST_SAMPLES && isfinite(seconds) && seconds >= 0)
		bench->samples[bench->sample_count++] = seconds;
}

static size_t last_level_cache_bytes(void)
{
	static const int NAMES[] = {_SC_LEVEL4_CACHE_SIZE, _SC_LEVEL3_CACHE_SIZE, _SC_LEVEL2_CACHE_SIZE};
	for (size_t i = 0; i < sizeof NAMES / sizeof NAMES[0]; i++) {
		long bytes = sysconf(NAMES[i]);
		if (bytes > 0)
			return (size_t)bytes;
	}
	return (size_t)64 << 20; /* unknown: larger than most */
}

/* MemAvailable; SIZE_MAX when the system does not say. */
static size_t available_bytes(void)
{
	char line[128];
	unsigned long long kib = 0;
	FILE *file = fopen("/proc/meminfo", "r");
	while (file && !kib && fgets(line, sizeof line, file))
		if (sscanf(line, "MemAvailable: %llu kB", &kib) != 1)
			kib = 0;
	if (file)
		fclose(file);
	return kib ? (size_t)kib << 10 : SIZE_MAX;
}

static size_t align(size_t bytes)
{
	return (bytes + MT_ARENA_ALIGN_BYTES) / MT_ARENA_ALIGN_BYTES * MT_ARENA_ALIGN_BYTES;
}

/* How many sets of the cold operands there will be, and the bytes of everything. */
static enum mt_status plan_sets(struct bench *bench, const char *name, size_t *total_bytes)
{
	size_t cold = 0, warm = 0, target = 2 * last_level_cache_bytes();
	for (int i = 0; i < bench->operands.count; i++) {
		const struct operand *operand = &bench->operands.list[i];
		*(operand->cold ? &cold : &warm) += align(mt_operand_bytes(operand));
	}
	if (target > MOST_ROTATED_BYTES)
		target = MOST_ROTATED_BYTES;
	size_t sets = cold ? target / cold : 1;
	bench->sets = sets < 1 ? 1 : sets > MOST_SETS ? MOST_SETS : (int)sets;
	*total_bytes = warm + (size_t)bench->sets * cold;
	size_t available = available_bytes();
	if ((double)*total_bytes > MEMORY_FRAC * (double)available)
		return mt_fail(MT_UNAVAILABLE, "%s cannot be measured here: it needs %.1f GiB, available are %.1f GiB", name,
			       (double)*total_bytes / 0x1p30, (double)available / 0x1p30);
	return MT_OK;
}

static void fill_block(void *block, const struct operand *operand)
{
	size_t count = BLOCK_BYTES / mt_dtype_bytes(operand->dtype);
	for (size_t i = 0; i < count; i++) {
		double value = operand->fill == OPERAND_ONE ? 1 : 0.5 * mt_random_normal(1, operand->field, i % 4096);
		if (operand->fill == OPERAND_INDEX)
			((int32_t *)block)[i] = (int32_t)mt_random_integer(1, operand->field, i, (uint64_t)operand->bound);
		else if (operand->dtype == MT_BF16)
			((uint16_t *)block)[i] = mt_bf16_from_f32((float)value);
		else if (operand->dtype == MT_E4M3)
			((uint8_t *)block)[i] = mt_e4m3_from_f32((float)value);
		else if (operand->dtype == MT_E5M2)
			((uint8_t *)block)[i] = mt_e5m2_from_f32((float)value);
		else if (operand->dtype == MT_F16)
			((uint16_t *)block)[i] = mt_f16_from_f32((float)value);
		else if (operand->dtype == MT_F64)
			((double *)block)[i] = value;
		else if (operand->dtype == MT_I32)
			((int32_t *)block)[i] = (int32_t)i;
		else
			((float *)block)[i] = (float)value;
	}
}

static enum mt_status make_buffer(struct bench *bench, const struct operand *operand, void **buffer)
{
	size_t bytes = mt_operand_bytes(operand);
	MT_TRY(mt_arena_alloc(bench->arena, bytes, buffer));
	for (size_t at = 0; at < bytes; at += BLOCK_BYTES) {
		size_t part = bytes - at < BLOCK_BYTES ? bytes - at : BLOCK_BYTES;
		MT_TRY(mt_device_upload(bench->device, bench->stream, (char *)*buffer + at, bench->block, part));
	}
	return MT_OK;
}

/* Sets the pointer of one operand in one op. */
static void set_pointer(struct mt_op *op, size_t field, void *pointer)
{
	memcpy((char *)op + field, &pointer, sizeof pointer);
}

/* k and v follow q in each packed row, as do dk and dv after dq. */
static void slice_attention(struct mt_op *op)
{
	struct mt_attention *a = &op->attention;
	size_t k = (size_t)(a->heads * a->head_dim) * mt_dtype_bytes(op->dtype);
	size_t v = k + (size_t)(a->kv_heads * a->head_dim) * mt_dtype_bytes(op->dtype);
	a->k = (const char *)a->q + k;
	a->v = (const char *)a->q + v;
	if (a->dq) {
		a->dk = (char *)a->dq + k;
		a->dv = (char *)a->dq + v;
	}
}

static enum mt_status make_operands(struct bench *bench)
{
	for (int set = 0; set < bench->sets; set++)
		bench->ops[set] = bench->operands.op;
	for (int i = 0; i < bench->operands.count; i++) {
		const struct operand *operand = &bench->operands.list[i];
		void *buffer = NULL;
		fill_block(bench->block, operand);
		for (int set = 0; set < bench->sets; set++) {
			if (set == 0 || operand->cold)
				MT_TRY(make_buffer(bench, operand, &buffer));
			set_pointer(&bench->ops[set], operand->field, buffer);
		}
	}
	if (bench->operands.op.kind == MT_OP_ATTENTION || bench->operands.op.kind == MT_OP_ATTENTION_BWD)
		slice_attention(&bench->ops[0]);
	return mt_stream_synchronize(bench->stream);
}

static enum mt_status run_once(struct bench *bench, int turn)
{
	MT_TRY(mt_device_enqueue(bench->device, bench->stream, &bench->ops[turn % bench->sets]));
	MT_TRY(mt_stream_synchronize(bench->stream));
	return bench->tracer ? mt_tracer_collect(bench->tracer) : MT_OK;
}

static bool is_narrow(const struct bench *bench)
{
	size_t n = (size_t)bench->sample_count;
	struct mt_interval interval = mt_stats_median_interval(bench->samples, n, 0.9);
	return interval.hi - interval.lo < NARROW_FRAC * mt_stats_median(bench->samples, n);
}

static enum mt_status time_runs(struct bench *bench, double budget_s)
{
	int turn = 0, check_at = LEAST_FOR_INTERVAL;
	for (; turn < WARM_UP_RUNS; turn++)
		MT_TRY(run_once(bench, turn));
	MT_TRY(mt_tracer_start(&bench->tracer, bench->device, NULL, keep_sample, bench));
	for (double end_s = mt_clock_s() + budget_s; turn < MOST_SAMPLES; turn++) {
		MT_TRY(run_once(bench, turn));
		if (mt_process_interrupted())
			return mt_fail(MT_INTERRUPTED, "interrupted while measuring operations");
		if (bench->sample_count >= LEAST_SAMPLES && mt_clock_s() >= end_s)
			break;
		if (bench->sample_count >= check_at && is_narrow(bench))
			break;
		if (bench->sample_count >= check_at)
			check_at += 1 + check_at / 4; /* so that checking stays cheap beside running */
	}
	return MT_OK;
}

static enum mt_status open_bench(struct bench *bench, struct mt_device *device, const struct mt_op_key *key)
{
	char name[96];
	size_t total_bytes;
	mt_op_key_text(key, name);
	if (!device->info.executes)
		return mt_fail(MT_UNAVAILABLE, "%s cannot be measured on a device that computes nothing (%s)", name,
			       device->info.kind);
	bench->device = device;
	MT_TRY(mt_operands_of(key, &bench->operands));
	MT_TRY(plan_sets(bench, name, &total_bytes));
	bench->ops = calloc((size_t)bench->sets, sizeof *bench->ops);
	bench->block = malloc(BLOCK_BYTES);
	bench->samples = malloc(MOST_SAMPLES * sizeof *bench->samples);
	if (!bench->ops || !bench->block || !bench->samples)
		return mt_fail(MT_NOMEM, "out of memory for measuring %s", name);
	MT_TRY(mt_stream_create(device, MT_STREAM_COMPUTE, "measure", &bench->stream));
	MT_TRY(mt_arena_create(&bench->arena, "measure", mt_device_memory(device), total_bytes));
	return make_operands(bench);
}

static void close_bench(struct bench *bench)
{
	mt_tracer_stop(bench->tracer);
	if (bench->stream)
		mt_stream_destroy(bench->stream); /* first: its work uses the arena */
	mt_arena_destroy(bench->arena);
	free(bench->samples);
	free(bench->block);
	free(bench->ops);
}

enum mt_status mt_profile_measure(struct mt_profile *profile, struct mt_device *device, const struct mt_op_key *key,
				  double budget_s)
{
	enum mt_status st;
	struct bench bench = {0};
	int entry;
	mt_trace_sink sink = device->trace;
	void *sink_context = device->trace_context;
	mt_device_set_trace(device, NULL, NULL);
	MT_GOTO(out, open_bench(&bench, device, key));
	MT_GOTO(out, time_runs(&bench, budget_s));
	MT_GOTO(out, mt_profile_entry_of(profile, key, &entry));
	for (int i = 0; i < bench.sample_count; i++)
		MT_GOTO(out, mt_profile_add_sample(profile, entry, bench.samples[i]));
out:
	close_bench(&bench);
	mt_device_set_trace(device, sink, sink_context);
	return st;
}
