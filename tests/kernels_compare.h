/* kernels_compare: a problem of a device: an op with its operands, random values for them, and the two checks: equal to
 * the reference in f64, and the same bits for any number of threads and from run to run. On a device that runs behind the host
 * operands lie in an arena of it; what is read and written past them there is found by its pattern. */
#ifndef MT_TESTS_KERNELS_COMPARE_H
#define MT_TESTS_KERNELS_COMPARE_H

#include "base/random.h"
#include "base/status.h"
#include "kernels/device.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum role { IN, OUT, INOUT };
enum type { ACT, STAT, WORD, SUM }; /* the op's dtype, f32, i32, f64 */

/* A tensor of an op: where its pointer is in struct mt_op, rows of `cols` elements `stride` apart (0: cols), and its
 * values: normal * spread + shift, or for words integers in [low, low + range); `starts`: each row is a sequence in which a
 * document starts at element 0 and after it at one in `range`, and holds where each element's document starts.
 * `alias`: a second pointer to it, 0 for none. */
struct operand {
	const char *name;
	size_t offset;
	enum role role;
	enum type type;
	int64_t rows, cols, stride;
	double spread, shift;
	int64_t low, range;
	bool starts;
	size_t alias;
};

#define AT(member)    offsetof(struct mt_op, member)
#define MOST_OPERANDS 20
#ifndef SLACK_BYTES
#define SLACK_BYTES 64 /* past each operand */
#endif

struct problem {
	struct mt_op op;
	enum mt_op_kind kinds[2]; /* run one after the other on the same operands; equal: only once */
	struct operand operands[MOST_OPERANDS];
	int count;
	double f32_tolerance, bf16_tolerance;
	bool f32_only; /* there is no form for bf16 */
	int shift;     /* elements that each operand begins past an aligned address */
};

static const char *const levels[] = {"baseline", "avx2", "avx512"};

/* NULL when the processor lacks the level. */
static struct mt_device *open_cpu(const char *level, int threads)
{
	struct mt_device *device = NULL;
	setenv("MEGATUNE_ISA", level, 1);
	if (mt_device_create(&device, &(struct mt_device_config){.kind = "cpu", .threads = threads}) != MT_OK)
		fail_msg("cpu device: %s", mt_error_message());
	if (strcmp(device->info.isa, level) != 0) {
		mt_device_destroy(device);
		device = NULL;
	}
	unsetenv("MEGATUNE_ISA");
	return device;
}

static int64_t size_of(const struct operand *o)
{
	return o->rows * (o->stride ? o->stride : o->cols);
}

static double value_of(const struct operand *o, int stream, int64_t i)
{
	if (o->starts) {
		int64_t start = i;
		while (start % o->cols && mt_random_integer(11, (uint64_t)stream, (uint64_t)start, (uint64_t)o->range))
			start--;
		return (double)(start % o->cols);
	}
	if (o->type == WORD)
		return (double)(o->low + (int64_t)mt_random_integer(11, (uint64_t)stream, (uint64_t)i, (uint64_t)o->range));
	return mt_random_normal(11, (uint64_t)stream, (uint64_t)i) * o->spread + o->shift;
}

static size_t width_of(const struct operand *o, enum mt_dtype dtype)
{
	if (dtype == MT_F64)
		return o->type == WORD ? 4 : 8;
	return o->type == ACT ? mt_dtype_bytes(dtype) : o->type == SUM ? 8 : 4;
}

/* The type of two bytes that is at work. */
static enum mt_dtype half = MT_BF16;

/* Operands that are meant for the range of bf16, brought into that of f16; NaN stays. */
static double in_f16(double value)
{
	return value > 60000 ? 60000 : value < -60000 ? -60000 : value;
}

static void put(void *p, int64_t i, double value, size_t width, bool word)
{
	if (word)
		((int32_t *)p)[i] = (int32_t)value;
	else if (width == 8)
		((double *)p)[i] = value;
	else if (width == 4)
		((float *)p)[i] = (float)value;
	else
		((uint16_t *)p)[i] = half == MT_BF16 ? mt_bf16_from_f32((float)value) : mt_f16_from_f32((float)in_f16(value));
}

static double get(const void *p, int64_t i, size_t width, bool word)
{
	if (word)
		return ((const int32_t *)p)[i];
	if (width == 8)
		return ((const double *)p)[i];
	if (width == 4)
		return (double)((const float *)p)[i];
	uint16_t bits = ((const uint16_t *)p)[i];
	return (double)(half == MT_BF16 ? mt_bf16_to_f32(bits) : mt_f16_to_f32(bits));
}

/* Where an operand's elements begin in its buffer. */
static void *elements_of(const struct problem *problem, void *buffer, size_t width)
{
	return (char *)buffer + (size_t)problem->shift * width;
}

static inline size_t bytes_of(const struct problem *problem, int n, enum mt_dtype dtype)
{
	const struct operand *o = &problem->operands[n];
	return (size_t)(size_of(o) + problem->shift) * width_of(o, dtype);
}

/* Device memory for all operands; NULL where the host's own will do. */
static inline struct mt_arena *open_arena(const struct problem *problem, struct mt_device *device, enum mt_dtype dtype)
{
	struct mt_arena *arena = NULL;
	size_t bytes = 0;
	if (!device->ops->async)
		return NULL;
	for (int n = 0; n < problem->count; n++)
		bytes += bytes_of(problem, n, dtype) + SLACK_BYTES + MT_ARENA_ALIGN_BYTES;
	if (mt_arena_create(&arena, "test", mt_device_memory(device), bytes) != MT_OK)
		fail_msg("%s", mt_error_message());
	return arena;
}

/* A copy of a buffer on the device, the slack too. */
static inline void *upload(struct mt_arena *arena, struct mt_stream *stream, const void *host, size_t bytes)
{
	void *there = NULL;
	if (mt_arena_alloc(arena, bytes, &there) != MT_OK || mt_device_upload(stream->device, stream, there, host, bytes) != MT_OK)
		fail_msg("%s", mt_error_message());
	return there;
}

/* Brings the buffers back; what is before and behind the elements must be as it was. */
static inline void download(const struct problem *problem, struct mt_stream *stream, enum mt_dtype dtype, void *const *there,
			    void **data)
{
	for (int n = 0; n < problem->count; n++) {
		const size_t bytes = bytes_of(problem, n, dtype);
		const size_t before = (size_t)problem->shift * width_of(&problem->operands[n], dtype);
		const unsigned char *byte = data[n];
		if (mt_device_download(stream->device, stream, data[n], there[n], bytes + SLACK_BYTES) != MT_OK)
			fail_msg("%s", mt_error_message());
		for (size_t i = 0; i < bytes + SLACK_BYTES; i++)
			if ((i < before || i >= bytes) && byte[i] != 0xff)
				fail_msg("%s: written %s the operand", problem->operands[n].name, i < before ? "before" : "past");
	}
}

/* Runs the problem on a device; data[i] gets operand i's buffer, to be freed. Values are those rounded to `rounding`,
 * so that a reference in f64 gets what the device under test got. */
static void solve(const struct problem *problem, struct mt_device *device, enum mt_dtype dtype, enum mt_dtype rounding, void **data)
{
	struct mt_stream *stream = NULL;
	struct mt_arena *arena = open_arena(problem, device, dtype);
	void *there[MOST_OPERANDS];
	struct mt_op op = problem->op;
	op.dtype = dtype;
	half = mt_dtype_is_half(dtype) ? dtype : mt_dtype_is_half(rounding) ? rounding : half;
	assert_int_equal(mt_stream_create(device, MT_STREAM_COMPUTE, "test", &stream), MT_OK);
	for (int n = 0; n < problem->count; n++) {
		const struct operand *o = &problem->operands[n];
		const size_t width = width_of(o, dtype), rounded = width_of(o, rounding);
		const size_t bytes = bytes_of(problem, n, dtype) + SLACK_BYTES;
		data[n] = malloc(bytes);
		memset(data[n], 0xff, bytes);
		void *elements = elements_of(problem, data[n], width);
		for (int64_t i = 0; i < size_of(o); i++) {
			union {
				double f64;
				float f32;
				uint16_t half;
				int32_t i32;
			} exact;
			put(&exact, 0, o->role == OUT ? (double)NAN : value_of(o, n, i), rounded, o->type == WORD);
			put(elements, i, get(&exact, 0, rounded, o->type == WORD), width, o->type == WORD);
		}
		if (arena) {
			there[n] = upload(arena, stream, data[n], bytes);
			elements = elements_of(problem, there[n], width);
		}
		memcpy((char *)&op + o->offset, &elements, sizeof elements);
		if (o->alias)
			memcpy((char *)&op + o->alias, &elements, sizeof elements);
	}
	if (op.kind == MT_OP_LOSS && !op.loss.all_stats)
		op.loss.all_stats = op.loss.stats;
	for (int k = 0; k < (problem->kinds[0] == problem->kinds[1] ? 1 : 2); k++) {
		op.kind = problem->kinds[k];
		if (mt_device_enqueue(device, stream, &op) != MT_OK)
			fail_msg("%s on %s: %s", mt_op_name(op.kind), device->info.kind, mt_error_message());
	}
	if (arena)
		download(problem, stream, dtype, there, data);
	mt_stream_destroy(stream); /* first: its work uses the arena */
	mt_arena_destroy(arena);
}

static void describe(const struct problem *problem, enum mt_dtype dtype, char text[96])
{
	struct mt_op op = problem->op;
	struct mt_op_key key;
	op.kind = problem->kinds[1];
	op.dtype = dtype;
	mt_op_key(&op, &key);
	mt_op_key_text(&key, text);
}

/* What f16 cannot hold is infinite. */
static bool is_close(double a, double b, double error, enum mt_dtype dtype)
{
	if (dtype == MT_F16 && fabs(b) > 65000 && isinf(a))
		return signbit(a) == signbit(b);
	return fabs(a - b) <= error;
}

/* |got - want| <= tolerance * (|want| + rms of want); padding between rows stays as it was. */
static void compare(const struct problem *problem, const struct operand *o, void *got_buffer, void *want_buffer,
		    enum mt_dtype dtype, const char *level)
{
	const int64_t stride = o->stride ? o->stride : o->cols;
	const size_t width = width_of(o, dtype), want_width = width_of(o, MT_F64);
	const void *got = elements_of(problem, got_buffer, width), *want = elements_of(problem, want_buffer, want_width);
	/* f16 has three bits more than bf16; a fourth is left to what is rounded before. */
	const double tolerance = dtype == MT_F32    ? problem->f32_tolerance
				 : dtype == MT_BF16 ? problem->bf16_tolerance
						    : problem->bf16_tolerance / 4;
	double square = 0.0;
	half = mt_dtype_is_half(dtype) ? dtype : half;
	for (int64_t row = 0; row < o->rows; row++)
		for (int64_t c = 0; c < o->cols; c++)
			square += pow(get(want, row * stride + c, want_width, o->type == WORD), 2.0) / (double)(o->rows * o->cols);
	for (int64_t row = 0; row < o->rows; row++)
		for (int64_t c = 0; c < stride; c++) {
			const double a = get(got, row * stride + c, width, o->type == WORD),
				     b = get(want, row * stride + c, want_width, o->type == WORD);
			if (c >= o->cols ? !isnan(a)
					 : !is_close(a, b, tolerance * (fabs(b) + sqrt(square)) + 1e-30,
						     o->type == ACT ? dtype : MT_F32)) {
				char text[96];
				describe(problem, dtype, text);
				fail_msg("%s, %s: %s[%lld,%lld] = %.9g, expected %.9g (rms %.3g)", text, level, o->name,
					 (long long)row, (long long)c, a, c < o->cols ? b : (double)NAN, sqrt(square));
			}
		}
}

static void release(void **data, int count)
{
	for (int n = 0; n < count; n++)
		free(data[n]);
}

static inline void check_equals_reference(const struct problem *problem)
{
	static const enum mt_dtype dtypes[] = {MT_F32, MT_BF16, MT_F16};
	struct mt_device *reference = NULL;
	assert_int_equal(mt_device_create(&reference, &(struct mt_device_config){.kind = "reference"}), MT_OK);
	for (int d = 0; d < (problem->f32_only ? 1 : 3); d++) {
		void *want[MOST_OPERANDS], *got[MOST_OPERANDS];
		solve(problem, reference, MT_F64, dtypes[d], want);
		for (size_t l = 0; l < sizeof levels / sizeof *levels; l++) {
			struct mt_device *cpu = open_cpu(levels[l], 2);
			if (!cpu)
				continue;
			solve(problem, cpu, dtypes[d], dtypes[d], got);
			for (int n = 0; n < problem->count; n++)
				if (problem->operands[n].role != IN)
					compare(problem, &problem->operands[n], got[n], want[n], dtypes[d], levels[l]);
			release(got, problem->count);
			mt_device_destroy(cpu);
		}
		release(want, problem->count);
	}
	mt_device_destroy(reference);
}

static inline void check_same_bits(const struct problem *problem)
{
	static const enum mt_dtype dtypes[] = {MT_F32, MT_BF16, MT_F16};
	static const int threads[] = {1, 2, 3, 1};
	for (int d = 0; d < (problem->f32_only ? 1 : 3); d++)
		for (size_t l = 0; l < sizeof levels / sizeof *levels; l++) {
			void *first[MOST_OPERANDS], *got[MOST_OPERANDS];
			for (int t = 0; t < 4; t++) {
				struct mt_device *cpu = open_cpu(levels[l], threads[t]);
				if (!cpu)
					break;
				solve(problem, cpu, dtypes[d], dtypes[d], t ? got : first);
				for (int n = 0; t && n < problem->count; n++) {
					const struct operand *o = &problem->operands[n];
					char text[96];
					if (memcmp(first[n], got[n], (size_t)size_of(o) * width_of(o, dtypes[d])) == 0)
						continue;
					describe(problem, dtypes[d], text);
					fail_msg("%s, %s: %s differs between 1 and %d threads", text, levels[l], o->name,
						 threads[t]);
				}
				if (t)
					release(got, problem->count);
				mt_device_destroy(cpu);
				if (t == 3)
					release(first, problem->count);
			}
		}
}

#endif
