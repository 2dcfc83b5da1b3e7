/* bench_kernels: what fraction of its limits each op of the cpu device reaches, on the shapes of GPT-2 124M.
 *   bench_kernels [f32|bf16] [rows] [threads]     (default: both, 256, 1)
 * Limits: the device's own f32 product of 1024-cubes, and triad a = b + 3c over arrays larger than the caches.
 * Prints a table: op, best ms of the repetitions, GFLOP/s or GB/s, fraction of the limit, times a training step; and the
 * step that makes. By hand: gcc -std=gnu11 -O2 -fopenmp -I. tests/bench_kernels.c build/libmegatune.a LIBS */
#include "base/arena.h"
#include "base/clock.h"
#include "base/status.h"
#include "kernels/device.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { HIDDEN = 768, FFN = 3072, HEADS = 12, LAYERS = 12, VOCAB = 50304, PARAMETERS = 124475904 };
#define POOL_BYTES ((size_t)900 << 20)
#define BUDGET_S   0.15

struct bench {
	struct mt_device *device;
	struct mt_stream *stream;
	struct mt_arena *arena;
	char *pool;
	size_t used;
	double peak_flops_per_s, triad_bytes_per_s, step_s, step_flops;
};

/* The next `count` elements of the pool, starting over for each op. */
static void *take(struct bench *b, int64_t count, enum mt_dtype dtype)
{
	void *p = b->pool + b->used;
	b->used += ((size_t)count * mt_dtype_bytes(dtype) + 4095) / 4096 * 4096 + 256;
	if (b->used > POOL_BYTES) {
		fprintf(stderr, "bench: pool exhausted\n");
		exit(1);
	}
	return p;
}

/* Processor time of this thread where one thread does all, so that other load on the machine counts less. */
static double now_s(const struct bench *b)
{
	struct timespec t;
	if (b->device->info.threads > 1)
		return mt_clock_s();
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double best_s(struct bench *b, const struct mt_op *op)
{
	double best = 1e9;
	const double start = mt_clock_s();
	for (int i = 0; i < 3 || (mt_clock_s() - start < BUDGET_S && i < 500); i++) {
		const double before = now_s(b);
		if (mt_device_enqueue(b->device, b->stream, op) != MT_OK) {
			fprintf(stderr, "bench: %s\n", mt_error_message());
			exit(1);
		}
		const double took = now_s(b) - before;
		best = took < best ? took : best;
	}
	return best;
}

/* Times one op and prints its line; `times` is how often a step of the model runs it. */
static void measure(struct bench *b, struct mt_op op, enum mt_op_kind kind, enum mt_dtype dtype, double times)
{
	struct mt_op_key key;
	char text[96];
	op.kind = kind;
	op.dtype = dtype;
	mt_op_key(&op, &key);
	mt_op_key_text(&key, text);
	const double s = best_s(b, &op), flops = mt_op_key_flops(&key), bytes = mt_op_key_bytes(&key);
	const double rate = flops > 0 ? flops / s : bytes / s, limit = flops > 0 ? b->peak_flops_per_s : b->triad_bytes_per_s;
	printf("%-46s %9.3f ms %9.1f %-7s %6.2f   x %5.2f\n", text, s * 1e3, rate * 1e-9, flops > 0 ? "GFLOP/s" : "GB/s",
	       rate / limit, times);
	fflush(stdout);
	b->step_s += s * times;
	b->step_flops += flops * times;
	b->used = 0;
}

static void bench_products(struct bench *b, enum mt_dtype d, int64_t rows)
{
	static const struct {
		int64_t in, out, times;
	} shapes[] = {{HIDDEN, 3 * HIDDEN, LAYERS},
		      {HIDDEN, HIDDEN, LAYERS},
		      {HIDDEN, FFN, LAYERS},
		      {FFN, HIDDEN, LAYERS},
		      {HIDDEN, VOCAB, 1}};
	for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
		for (int kind = MT_OP_LINEAR; kind <= MT_OP_LINEAR_WGRAD; kind++) {
			const int64_t in = shapes[i].in, out = shapes[i].out;
			struct mt_op op = {.linear = {.rows = rows, .in = in, .out = out}};
			op.linear.x = op.linear.dx = take(b, rows * in, d);
			op.linear.y = take(b, rows * out, d);
			op.linear.dy = op.linear.y;
			if (kind == MT_OP_LINEAR_WGRAD)
				op.linear.dw = take(b, in * out, MT_F32);
			else
				op.linear.w = take(b, in * out, d);
			op.linear.bias = kind == MT_OP_LINEAR && out != VOCAB ? take(b, out, d) : NULL;
			measure(b, op, (enum mt_op_kind)kind, d, (double)shapes[i].times);
		}
}

static void bench_attention(struct bench *b, enum mt_dtype d, int64_t rows)
{
	const int64_t seq = rows <= 256 ? 64 : 1024;
	struct mt_op op = {.attention = {rows / seq, seq, HEADS, HEADS, 64, 3 * HIDDEN, 3 * HIDDEN, HIDDEN, .scale = 0.125}};
	for (int kind = MT_OP_ATTENTION; kind <= MT_OP_ATTENTION_BWD; kind++) {
		char *qkv = take(b, rows * 3 * HIDDEN, d), *dqkv = take(b, rows * 3 * HIDDEN, d);
		const size_t step = HIDDEN * mt_dtype_bytes(d);
		op.attention.q = qkv, op.attention.k = qkv + step, op.attention.v = qkv + 2 * step;
		op.attention.dq = dqkv, op.attention.dk = dqkv + step, op.attention.dv = dqkv + 2 * step;
		op.attention.o = take(b, rows * HIDDEN, d);
		op.attention.do_ = take(b, rows * HIDDEN, d);
		op.attention.lse = take(b, rows * HEADS, MT_F32);
		op.attention.delta = take(b, rows * HEADS, MT_F32);
		measure(b, op, (enum mt_op_kind)kind, d, LAYERS);
	}
}

static void bench_rows(struct bench *b, enum mt_dtype d, int64_t rows)
{
	struct mt_op op;
	for (int kind = MT_OP_NORM; kind <= MT_OP_NORM_BWD; kind++) {
		memset(&op, 0, sizeof op);
		op.norm = (struct mt_norm){.kind = MT_NORM_LAYER, .rows = rows, .cols = HIDDEN, .eps = 1e-5};
		op.norm.x = take(b, rows * HIDDEN, d), op.norm.residual = take(b, rows * HIDDEN, d);
		op.norm.sum = take(b, rows * HIDDEN, d), op.norm.y = op.norm.dx = take(b, rows * HIDDEN, d);
		op.norm.dy = op.norm.x, op.norm.dresidual = op.norm.residual;
		op.norm.gain = take(b, HIDDEN, d), op.norm.bias = take(b, HIDDEN, d);
		op.norm.mean = take(b, rows, MT_F32), op.norm.rstd = take(b, rows, MT_F32);
		op.norm.dgain = take(b, HIDDEN, MT_F32), op.norm.dbias = take(b, HIDDEN, MT_F32);
		measure(b, op, (enum mt_op_kind)kind, d, 2 * LAYERS + 1);
	}
	for (int kind = MT_OP_ACTIVATION; kind <= MT_OP_ACTIVATION_BWD; kind++) {
		memset(&op, 0, sizeof op);
		op.activation = (struct mt_activation){.kind = MT_GELU, .rows = rows, .cols = FFN};
		op.activation.x = take(b, rows * FFN, d), op.activation.dy = take(b, rows * FFN, d);
		op.activation.y = op.activation.dx = take(b, rows * FFN, d);
		measure(b, op, (enum mt_op_kind)kind, d, LAYERS);
	}
	static const int64_t widths[] = {HIDDEN, 3 * HIDDEN, FFN};
	for (int i = 0; i < 3; i++) {
		op.add = (struct mt_add){
			.rows = rows, .cols = widths[i], .a = take(b, rows * widths[i], d), .out = take(b, widths[i], MT_F32)};
		measure(b, op, MT_OP_BIAS_GRAD, d, widths[i] == HIDDEN ? 2 * LAYERS : LAYERS);
	}
	op.add = (struct mt_add){.rows = rows,
				 .cols = HIDDEN,
				 .a = take(b, rows * HIDDEN, d),
				 .b = take(b, rows * HIDDEN, d),
				 .out = take(b, rows * HIDDEN, d)};
	measure(b, op, MT_OP_ADD, d, 1);
	op.rope = (struct mt_rope){rows / 64, 64, HEADS, 64, 3 * HIDDEN, 0, 1e4, 1, .x = take(b, rows * 3 * HIDDEN, d)};
	measure(b, op, MT_OP_ROPE, d, 0);
}

static void bench_ends(struct bench *b, enum mt_dtype d, int64_t rows)
{
	struct mt_op op;
	memset(&op, 0, sizeof op);
	int32_t *words = take(b, rows, MT_I32);
	for (int64_t i = 0; i < rows; i++)
		words[i] = (int32_t)(i * 7919 % 50257);
	for (int kind = MT_OP_EMBEDDING; kind <= MT_OP_EMBEDDING_BWD; kind++) {
		op.embedding = (struct mt_embedding){.rows = rows, .cols = HIDDEN, .seq = 64, .count = VOCAB, .tokens = words};
		b->used = 1 << 20;
		op.embedding.table = take(b, (int64_t)VOCAB * HIDDEN, d), op.embedding.position = take(b, 64 * HIDDEN, d);
		op.embedding.y = take(b, rows * HIDDEN, d), op.embedding.dy = op.embedding.y;
		op.embedding.dtable = take(b, (int64_t)VOCAB * HIDDEN, MT_F32),
		op.embedding.dposition = take(b, 64 * HIDDEN, MT_F32);
		measure(b, op, (enum mt_op_kind)kind, d, 1);
	}
	for (int kind = MT_OP_LOSS_STATS; kind <= MT_OP_LOSS; kind++) {
		memset(&op, 0, sizeof op);
		op.loss = (struct mt_loss){
			.rows = rows, .cols = VOCAB, .vocab = 50257, .parts = 1, .grad_scale = 1e-3, .targets = words};
		b->used = 1 << 20;
		op.loss.logits = take(b, rows * VOCAB, d), op.loss.stats = take(b, rows * 3, MT_F32);
		op.loss.all_stats = op.loss.stats, op.loss.loss = take(b, rows, MT_F32);
		measure(b, op, (enum mt_op_kind)kind, d, 1);
	}
}

static void bench_optimizer(struct bench *b, enum mt_dtype d)
{
	const int64_t count = 16 << 20;
	const double times = (double)PARAMETERS / (double)count;
	struct mt_op op;
	memset(&op, 0, sizeof op);
	op.adamw = (struct mt_adamw){
		.count = count, .step = 3, .lr = 1e-4, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .grad_scale = 1.0};
	op.adamw.grad = take(b, count, MT_F32), op.adamw.master = take(b, count, MT_F32), op.adamw.m = take(b, count, MT_F32);
	op.adamw.v = take(b, count, MT_F32), op.adamw.param = d == MT_F32 ? op.adamw.master : take(b, count, d);
	measure(b, op, MT_OP_ADAMW, d, times);
	op.sumsq = (struct mt_sumsq){count, take(b, count, MT_F32), take(b, 1, MT_F64)};
	measure(b, op, MT_OP_SUMSQ, d, times);
	op.move = (struct mt_move){.count = count, .dst_dtype = MT_F32, .dst = take(b, count, MT_F32)};
	measure(b, op, MT_OP_FILL, d, times);
	op.move = (struct mt_move){.count = count, .src_dtype = MT_F32, .dst_dtype = MT_BF16};
	op.move.src = take(b, count, MT_F32), op.move.dst = take(b, count, MT_BF16);
	measure(b, op, MT_OP_CAST, d, 0);
}

static double triad(struct bench *b, int threads)
{
	const int64_t count = 16 << 20;
	float *x = take(b, count, MT_F32), *y = take(b, count, MT_F32), *z = take(b, count, MT_F32);
	double best = 1e9;
	for (int i = 0; i < 6; i++) {
		const double before = now_s(b);
#pragma omp parallel for simd num_threads(threads)
		for (int64_t j = 0; j < count; j++)
			x[j] = y[j] + 3.0f * z[j];
		const double took = now_s(b) - before;
		best = took < best ? took : best;
	}
	b->used = 0;
	return 12.0 * (double)count / best;
}

static double cube(struct bench *b, enum mt_dtype d)
{
	struct mt_op op = {.kind = MT_OP_LINEAR, .dtype = d, .linear = {.rows = 1024, .in = 1024, .out = 1024}};
	op.linear.x = take(b, 1 << 20, d), op.linear.w = take(b, 1 << 20, d), op.linear.y = take(b, 1 << 20, d);
	b->used = 0;
	return 2.0 * 1024 * 1024 * 1024 / best_s(b, &op);
}

int main(int argc, char **argv)
{
	const int64_t rows = argc > 2 ? atoll(argv[2]) : 256;
	const int threads = argc > 3 ? atoi(argv[3]) : 1;
	struct bench b = {0};
	if (mt_device_create(&b.device, &(struct mt_device_config){.kind = "cpu", .threads = threads}) != MT_OK ||
	    mt_stream_create(b.device, MT_STREAM_COMPUTE, "bench", &b.stream) != MT_OK ||
	    mt_arena_create(&b.arena, "bench", mt_device_memory(b.device), POOL_BYTES + (1 << 20)) != MT_OK ||
	    mt_arena_alloc(b.arena, POOL_BYTES, (void **)&b.pool) != MT_OK) {
		fprintf(stderr, "bench: %s\n", mt_error_message());
		return 1;
	}
	memset(b.pool, 0, POOL_BYTES);
	b.triad_bytes_per_s = triad(&b, threads);
	b.peak_flops_per_s = cube(&b, MT_F32);
	printf("%s, %s, %s, %d threads: 1024-cube f32 %.1f, bf16 %.1f GFLOP/s; triad %.1f GB/s\n", b.device->info.name,
	       b.device->info.isa, b.device->info.libraries, threads, b.peak_flops_per_s * 1e-9, cube(&b, MT_BF16) * 1e-9,
	       b.triad_bytes_per_s * 1e-9);
	for (int i = 0; i < 2; i++) {
		const enum mt_dtype dtype = i ? MT_BF16 : MT_F32;
		if (argc > 1 && strcmp(argv[1], "both") != 0 && strcmp(argv[1], mt_dtype_name(dtype)) != 0)
			continue;
		b.step_s = b.step_flops = 0.0;
		bench_products(&b, dtype, rows);
		const double products_s = b.step_s;
		bench_attention(&b, dtype, rows);
		const double attention_s = b.step_s - products_s;
		bench_rows(&b, dtype, rows);
		bench_ends(&b, dtype, rows);
		const double rest_s = b.step_s - products_s - attention_s;
		bench_optimizer(&b, dtype);
		printf("%s step of %lld tokens: %.0f ms = products %.0f, attention %.0f, rows %.0f, optimizer %.0f; %.1f GFLOP/s, "
		       "%.2f of the "
		       "f32 cube\n\n",
		       mt_dtype_name(dtype), (long long)rows, b.step_s * 1e3, products_s * 1e3, attention_s * 1e3, rest_s * 1e3,
		       (b.step_s - products_s - attention_s - rest_s) * 1e3, b.step_flops / b.step_s * 1e-9,
		       b.step_flops / b.step_s / b.peak_flops_per_s);
	}
	mt_arena_destroy(b.arena);
	mt_stream_destroy(b.stream);
	mt_device_destroy(b.device);
	return 0;
}
