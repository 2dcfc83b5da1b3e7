/* collective: time over bytes of each collective, for every regular group of ranks, with all groups of a kind busy at once
 * as in a training step. Sizes are nccl-tests' S. Buffers rotate, so that small messages do not come from the cache each
 * time; the time of a sample is its slowest rank's; the result of the last timed call is checked element by element. */
#include "probes/parts.h"
#include "probes/pattern.h"

#include "base/clock.h"
#include "base/stats.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FACTOR 4 /* between sizes */

/* Operations that only move data take the same time for every type of the same bytes: f32 stands for all. */
static const struct sweep {
	enum mt_comm_op op;
	enum mt_dtype dtype;
} sweeps[] = {
	{MT_COMM_ALL_REDUCE, MT_F32}, {MT_COMM_ALL_REDUCE, MT_BF16}, {MT_COMM_REDUCE_SCATTER, MT_F32}, {MT_COMM_ALL_GATHER, MT_F32},
	{MT_COMM_ALL_TO_ALL, MT_F32}, {MT_COMM_BROADCAST, MT_F32},   {MT_COMM_SEND_RECV, MT_F32},      {MT_COMM_SHIFT, MT_F32},
};
enum { SWEEPS = sizeof sweeps / sizeof *sweeps };

struct bench {
	struct mt_probe *probe;
	struct mt_arena *arena;            /* owned */
	void *send[MT_DTYPE_COUNT], *recv; /* in the arena; region_bytes each */
	int64_t region_bytes;
	void *staging; /* owned: STAGING_BYTES of host memory */
	struct mt_group *group;
	int size, stride, position; /* group size, stride, this rank's place in it */
	/* the point being measured */
	enum mt_comm_op op;
	enum mt_dtype dtype;
	int64_t count; /* elements of the call: of the whole for all_reduce, broadcast, send_recv and shift, else of one part */
	int64_t slot_bytes; /* S rounded up to 256 */
	int64_t calls;      /* so far: the slot of call i is i mod slots */
	int last_partner;   /* send_recv: group rank of the last message's sender, -1 none */
};

#define STAGING_BYTES (MT_PATTERN * 4 * 1024)

static bool by_parts(enum mt_comm_op op)
{
	return op == MT_COMM_REDUCE_SCATTER || op == MT_COMM_ALL_GATHER || op == MT_COMM_ALL_TO_ALL;
}

static int member(const struct bench *b, int position)
{
	return mt_group_world_rank(b->group, position);
}

static int64_t slot_offset(const struct bench *b, int64_t call)
{
	return call % (b->region_bytes / b->slot_bytes) * b->slot_bytes;
}

/* The neighbour a rank exchanges with: first 0-1 2-3 ..., then 1-2 3-4 ... and the last with 0 when the size is even. */
static int neighbour(int position, int size, int phase)
{
	int other = phase == 0 ? position ^ 1 : position % 2 ? position + 1 : position - 1;
	if (other >= size)
		other = phase == 1 ? 0 : -1;
	if (other < 0 && phase == 1 && size % 2 == 0)
		other = size - 1;
	return other;
}

static enum mt_status ping_pong(struct bench *b, int other, int64_t offset)
{
	struct mt_stream *stream = b->probe->stream;
	const char *send = (const char *)b->send[b->dtype] + offset;
	char *recv = (char *)b->recv + offset;
	if (b->position < other)
		MT_TRY(mt_comm_send(b->group, stream, send, b->count, b->dtype, other));
	MT_TRY(mt_comm_recv(b->group, stream, recv, b->count, b->dtype, other));
	if (b->position > other)
		MT_TRY(mt_comm_send(b->group, stream, send, b->count, b->dtype, other));
	return MT_OK;
}

static enum mt_status call_once(struct bench *b, int64_t offset)
{
	const char *send = (const char *)b->send[b->dtype] + offset;
	char *recv = (char *)b->recv + offset;
	struct mt_stream *stream = b->probe->stream;
	switch (b->op) {
	case MT_COMM_ALL_REDUCE:
		return mt_comm_all_reduce(b->group, stream, send, recv, b->count, b->dtype, MT_SUM);
	case MT_COMM_REDUCE_SCATTER:
		return mt_comm_reduce_scatter(b->group, stream, send, recv, b->count, b->dtype);
	case MT_COMM_ALL_GATHER:
		return mt_comm_all_gather(b->group, stream, send, recv, b->count, b->dtype);
	case MT_COMM_ALL_TO_ALL:
		return mt_comm_all_to_all(b->group, stream, send, recv, b->count, b->dtype);
	case MT_COMM_BROADCAST:
		return mt_comm_broadcast(b->group, stream, b->position == 0 ? (char *)b->send[b->dtype] + offset : recv, b->count,
					 b->dtype, 0);
	case MT_COMM_SHIFT:
		return mt_comm_shift(b->group, stream, send, recv, b->count, b->dtype, 1);
	default:
		return mt_fail(MT_FAILED, "probe: no measurement of %s", mt_comm_op_name(b->op));
	}
}

static enum mt_status run_calls(void *context, int repeats, double *seconds)
{
	struct bench *b = context;
	int phases = b->op == MT_COMM_SEND_RECV && b->size > 2 ? 2 : 1;
	*seconds = 0;
	for (int phase = 0; phase < phases; phase++) {
		int other = b->op == MT_COMM_SEND_RECV ? neighbour(b->position, b->size, phase) : -1;
		if (phase > 0) /* so that nobody's time has another's first phase in it */
			MT_TRY(mt_comm_barrier(b->group));
		double start_s = mt_clock_s();
		for (int r = 0; r < repeats; r++) {
			if (b->op != MT_COMM_SEND_RECV)
				MT_TRY(call_once(b, slot_offset(b, b->calls + r)));
			else if (other >= 0)
				MT_TRY(ping_pong(b, other, slot_offset(b, b->calls + r)));
		}
		MT_TRY(mt_stream_synchronize(b->probe->stream));
		double each = (mt_clock_s() - start_s) / repeats;
		*seconds = fmax(*seconds, b->op == MT_COMM_SEND_RECV ? each / 2 : each);
		b->last_partner = other >= 0 || phase == 0 ? other : b->last_partner;
	}
	b->calls += repeats;
	return MT_OK;
}

/* `length` elements at `offset` of recv must be table[(first + i) mod 61]. `where` is the index of the first within the result. */
static enum mt_status check_block(struct bench *b, int64_t offset, int64_t first, int64_t length, const float *table, int64_t where)
{
	struct mt_probe *probe = b->probe;
	int64_t width = (int64_t)mt_dtype_bytes(b->dtype), chunk = STAGING_BYTES / width;
	for (int64_t at = 0; at < length; at += chunk) {
		int64_t n = length - at < chunk ? length - at : chunk;
		MT_TRY(mt_device_download(probe->device, probe->stream, b->staging, (char *)b->recv + offset + at * width,
					  (size_t)(n * width)));
		int c = (int)((first + at) % MT_PATTERN);
		for (int64_t i = 0; i < n; i++, c = c + 1 == MT_PATTERN ? 0 : c + 1) {
			float value = b->dtype == MT_F32 ? ((float *)b->staging)[i] : mt_bf16_to_f32(((uint16_t *)b->staging)[i]);
			if (value != table[c])
				return mt_fail(MT_FAILED,
					       "probe: %s of %" PRId64
					       " %s in groups of %d, stride %d, is wrong on rank %d (%s): element %" PRId64
					       " is %g, exact is %g; the ranks of the group are %d, %d, ... Check the network's "
					       "hardware and the MPI library",
					       mt_comm_op_name(b->op), b->count, mt_dtype_name(b->dtype), b->size, b->stride,
					       probe->rank, mt_fabric_host(probe->fabric, probe->rank), where + at + i,
					       (double)value, (double)table[c], member(b, 0), member(b, 1));
		}
	}
	return MT_OK;
}

/* table = the pattern of one group rank, or the sum over all when position is -1. */
static void fill_table(const struct bench *b, int position, float table[MT_PATTERN])
{
	for (int c = 0; c < MT_PATTERN; c++) {
		int sum = 0;
		for (int p = position < 0 ? 0 : position; p < (position < 0 ? b->size : position + 1); p++)
			sum += mt_pattern_value(c, member(b, p), b->probe->size);
		table[c] = (float)sum;
	}
}

/* The result of the last timed call. */
static enum mt_status check_result(struct bench *b)
{
	int64_t offset = slot_offset(b, b->calls - 1), width = (int64_t)mt_dtype_bytes(b->dtype), first = offset / width;
	float table[MT_PATTERN];
	switch (b->op) {
	case MT_COMM_ALL_REDUCE:
		fill_table(b, -1, table);
		return check_block(b, offset, first, b->count, table, 0);
	case MT_COMM_REDUCE_SCATTER:
		fill_table(b, -1, table);
		return check_block(b, offset, first + b->position * b->count, b->count, table, 0);
	case MT_COMM_ALL_GATHER:
	case MT_COMM_ALL_TO_ALL:
		for (int r = 0; r < b->size; r++) {
			int64_t sent = first + (b->op == MT_COMM_ALL_TO_ALL ? b->position * b->count : 0);
			fill_table(b, r, table);
			MT_TRY(check_block(b, offset + r * b->count * width, sent, b->count, table, r * b->count));
		}
		return MT_OK;
	case MT_COMM_BROADCAST:
	case MT_COMM_SHIFT:
	case MT_COMM_SEND_RECV: {
		int before = (b->position + b->size - 1) % b->size;
		int from = b->op == MT_COMM_BROADCAST ? 0 : b->op == MT_COMM_SHIFT ? before : b->last_partner;
		if (from < 0 || from == b->position)
			return MT_OK;
		fill_table(b, from, table);
		return check_block(b, offset, first, b->count, table, 0);
	}
	default:
		return MT_OK;
	}
}

/* Spoils spots of every slot of recv, so that a call that does nothing is found out. */
static enum mt_status spoil(struct bench *b)
{
	static const float wrong[64] = {[0 ... 63] = -7};
	int64_t step = b->slot_bytes > 1 << 20 ? b->slot_bytes / 16 : 1 << 16;
	for (int64_t at = 0; at + (int64_t)sizeof wrong <= b->region_bytes; at += step)
		MT_TRY(mt_device_upload(b->probe->device, b->probe->stream, (char *)b->recv + at, wrong, sizeof wrong));
	return MT_OK;
}

/* Measures one size; adds it to the curve. */
static enum mt_status measure_point(struct bench *b, int64_t bytes, double share_s, struct mt_comm_curve *curve)
{
	struct mt_probe_series series;
	struct mt_probe_work work = {.run = run_calls, .context = b};
	int64_t width = (int64_t)mt_dtype_bytes(b->dtype);
	b->count = bytes / width / (by_parts(b->op) ? b->size : 1);
	b->count = b->count > 0 ? b->count : 1;
	int64_t actual = b->count * width * (by_parts(b->op) ? b->size : 1);
	b->slot_bytes = (actual + 255) / 256 * 256;
	b->calls = 0;
	MT_TRY(mt_probe_agree(b->probe, spoil(b)));
	MT_TRY(mt_probe_sample(b->probe, &work, share_s, &series));
	MT_TRY(mt_probe_agree(b->probe, check_result(b)));
	curve->bytes[curve->points] = (double)actual;
	curve->seconds[curve->points] = mt_stats_median(series.slowest, (size_t)series.count);
	curve->spread_s[curve->points++] = mt_stats_mad(series.slowest, (size_t)series.count);
	return MT_OK;
}

/* One curve, from small to large; it ends early, but not before two points, when the next size would take several shares. */
static enum mt_status measure_curve(struct bench *b, const struct sweep *sweep, double end_s, int curves_left)
{
	const struct mt_probe_options *o = b->probe->options;
	struct mt_machine *m = b->probe->machine;
	struct mt_comm_curve *curve = &m->curves[m->curve_count];
	*curve = (struct mt_comm_curve){.op = sweep->op, .dtype = sweep->dtype, .size = b->size, .stride = b->stride};
	b->op = sweep->op;
	b->dtype = sweep->dtype;
	int sizes = 0;
	for (int64_t bytes = o->least_bytes; bytes <= o->most_bytes; bytes *= FACTOR)
		sizes++;
	double share_end_s = b->probe->elapsed_s + fmax(0, end_s - b->probe->elapsed_s) / curves_left;
	for (int i = 0; i < sizes && i < 24; i++) {
		int64_t bytes = o->least_bytes;
		for (int j = 0; j < i; j++)
			bytes *= FACTOR;
		double left_s = fmax(0, share_end_s - b->probe->elapsed_s);
		if (curve->points >= 2 && 2 * FACTOR * curve->seconds[curve->points - 1] > left_s) /* a warm-up and a sample */
			break;
		MT_TRY(measure_point(b, bytes, left_s / (sizes - i), curve));
	}
	mt_probe_fit(curve);
	m->curve_count++;
	return MT_OK;
}

static enum mt_status measure_group(struct bench *b, double end_s, int groups_left)
{
	enum mt_status st;
	struct mt_probe *probe = b->probe;
	int *ranks = malloc((size_t)b->size * sizeof *ranks), span = b->size * b->stride;
	char name[16];
	if (!ranks)
		return mt_fail(MT_NOMEM, "probe: no memory for a group of %d", b->size);
	b->position = probe->rank % span / b->stride;
	for (int i = 0; i < b->size; i++)
		ranks[i] = probe->rank / span * span + probe->rank % b->stride + i * b->stride;
	snprintf(name, sizeof name, "p%dx%d", b->size % 100000, b->stride % 100000);
	st = mt_group_create(probe->fabric, name, ranks, b->size, &b->group);
	MT_GOTO(out, mt_probe_agree(probe, st));
	for (int i = 0; i < SWEEPS; i++)
		MT_GOTO(out, measure_curve(b, &sweeps[i], end_s, (groups_left - 1) * SWEEPS + SWEEPS - i));
out:
	mt_group_destroy(b->group);
	b->group = NULL;
	free(ranks);
	return st;
}

/* Fills a send region with this rank's pattern and touches the recv region, through the device. */
static enum mt_status fill_region(struct bench *b, enum mt_dtype dtype)
{
	struct mt_probe *probe = b->probe;
	int64_t elements = STAGING_BYTES / (int64_t)mt_dtype_bytes(dtype);
	int64_t bytes = elements / MT_PATTERN * MT_PATTERN * (int64_t)mt_dtype_bytes(dtype);
	for (int64_t e = 0; e < elements; e++) {
		float value = (float)mt_pattern_value(e, probe->rank, probe->size);
		if (dtype == MT_F32)
			((float *)b->staging)[e] = value;
		else
			((uint16_t *)b->staging)[e] = mt_bf16_from_f32(value);
	}
	for (int64_t at = 0; at < b->region_bytes; at += bytes) {
		size_t n = (size_t)(b->region_bytes - at < bytes ? b->region_bytes - at : bytes);
		MT_TRY(mt_device_upload(probe->device, probe->stream, (char *)b->send[dtype] + at, b->staging, n));
		MT_TRY(mt_device_upload(probe->device, probe->stream, (char *)b->recv + at, b->staging, n));
	}
	return MT_OK;
}

static enum mt_status open_bench(struct bench *b)
{
	struct mt_probe *probe = b->probe;
	/* two of the largest at least; all_gather of a part that was rounded up may need a little more */
	b->region_bytes = 2 * (probe->options->most_bytes + 256 + 8 * (int64_t)probe->size);
	b->region_bytes = (b->region_bytes + 255) / 256 * 256;
	if (b->region_bytes > probe->machine->rank_memory_bytes / 6)
		return mt_fail(MT_INPUT,
			       "probe: most_bytes %" PRId64 " needs six times as much memory a rank, which has %" PRId64
			       "; lower most_bytes",
			       probe->options->most_bytes, probe->machine->rank_memory_bytes);
	b->staging = malloc(STAGING_BYTES);
	if (!b->staging)
		return mt_fail(MT_NOMEM, "probe: no memory for staging");
	MT_TRY(mt_arena_create(&b->arena, "probe collectives", mt_device_memory(probe->device),
			       (size_t)(3 * b->region_bytes + (1 << 20))));
	MT_TRY(mt_arena_alloc(b->arena, (size_t)b->region_bytes, &b->send[MT_F32]));
	MT_TRY(mt_arena_alloc(b->arena, (size_t)b->region_bytes, &b->send[MT_BF16]));
	MT_TRY(mt_arena_alloc(b->arena, (size_t)b->region_bytes, &b->recv));
	MT_TRY(fill_region(b, MT_F32));
	return fill_region(b, MT_BF16);
}

static void close_bench(struct bench *b)
{
	if (b->arena) {
		mt_arena_free(b->arena, b->send[MT_F32]);
		mt_arena_free(b->arena, b->send[MT_BF16]);
		mt_arena_free(b->arena, b->recv);
	}
	mt_arena_destroy(b->arena);
	free(b->staging);
}

enum mt_status mt_probe_collectives(struct mt_probe *probe, double share_s)
{
	struct bench b = {.probe = probe};
	double end_s = probe->elapsed_s + share_s;
	int groups = 0, done = 0;
	enum mt_status st = MT_OK;
	for (int size = 2; size <= probe->size; size++)
		for (int stride = 1; size * stride <= probe->size; stride++)
			groups += probe->size % (size * stride) == 0;
	probe->machine->curves = calloc((size_t)groups * SWEEPS + 1, sizeof *probe->machine->curves);
	st = probe->machine->curves ? open_bench(&b) : mt_fail(MT_NOMEM, "probe: no memory for %d curves", groups * SWEEPS);
	MT_GOTO(out, mt_probe_agree(probe, st));
	for (b.size = 2; b.size <= probe->size; b.size++) {
		for (b.stride = 1; b.size * b.stride <= probe->size; b.stride++) {
			if (probe->size % (b.size * b.stride) == 0)
				MT_GOTO(out, measure_group(&b, end_s, groups - done++));
		}
	}
out:
	close_bench(&b);
	return st;
}
