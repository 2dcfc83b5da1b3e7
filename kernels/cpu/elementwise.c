/* elementwise: shares the rows, elements or columns of an op out to threads, and adds up sums of blocks in a fixed order. */
#include "kernels/cpu/cpu.h"

#include "kernels/fp8.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>

#define ELEMENTS_STEP 4096 /* elements are shared out in such steps: whole pages, no shared cache lines */
#define COLUMNS_STEP  64

/* An op as `count` items, shared out in multiples of `step`; `work` elements in all. `sums` are those of blocks. */
struct share {
	const struct mt_op *op;
	int64_t count, step;
	double work;
	size_t scratch_floats; /* a thread */
	void *sums;
};

static void fill(const struct mt_move *move, int64_t first, int64_t last)
{
	const size_t width = mt_dtype_bytes(move->dst_dtype);
	if (move->value == 0.0 && !signbit(move->value)) {
		memset((char *)move->dst + (size_t)first * width, 0, (size_t)(last - first) * width);
		return;
	}
	for (int64_t i = first; i < last; i++) {
		switch (move->dst_dtype) {
		case MT_BF16:
			((uint16_t *)move->dst)[i] = mt_bf16_from_f32((float)move->value);
			break;
		case MT_F64:
			((double *)move->dst)[i] = move->value;
			break;
		case MT_F16:
			((uint16_t *)move->dst)[i] = mt_f16_from_f32((float)move->value);
			break;
		case MT_E4M3:
			((uint8_t *)move->dst)[i] = mt_e4m3_from_f32((float)move->value);
			break;
		case MT_E5M2:
			((uint8_t *)move->dst)[i] = mt_e5m2_from_f32((float)move->value);
			break;
		case MT_I32:
			((int32_t *)move->dst)[i] = (int32_t)move->value;
			break;
		default:
			((float *)move->dst)[i] = (float)move->value;
			break;
		}
	}
}

static void copy_rows(const struct mt_move *move, enum mt_dtype dtype, int64_t first, int64_t last)
{
	const int64_t width = (int64_t)mt_dtype_bytes(dtype);
	for (int64_t row = first; row < last; row++)
		memcpy((char *)move->dst + row * move->dst_stride * width, (const char *)move->src + row * move->src_stride * width,
		       (size_t)(move->cols * width));
}

static void norm_bwd_blocks(const struct cpu_kernels *kernels, const struct share *s, int64_t first, int64_t last, float *scratch)
{
	const struct mt_norm *op = &s->op->norm;
	for (int64_t block = first; block < last; block++)
		kernels->norm_bwd(op, s->op->dtype, block * CPU_NORM_BLOCK_ROWS,
				  cpu_least(op->rows, (block + 1) * CPU_NORM_BLOCK_ROWS), (float *)s->sums + block * 2 * op->cols,
				  scratch);
}

static void sumsq_blocks(const struct cpu_kernels *kernels, const struct share *s, int64_t first, int64_t last)
{
	const struct mt_sumsq *op = &s->op->sumsq;
	for (int64_t block = first; block < last; block++) {
		const int64_t start = block * CPU_SUMSQ_BLOCK;
		((double *)s->sums)[block] =
			kernels->sumsq((const float *)op->x + start, cpu_least(CPU_SUMSQ_BLOCK, op->count - start));
	}
}

static void amax_blocks(const struct cpu_kernels *kernels, const struct share *s, int64_t first, int64_t last)
{
	const struct mt_quantize *op = &s->op->quantize;
	for (int64_t block = first; block < last; block++) {
		const int64_t start = block * CPU_SUMSQ_BLOCK;
		((uint32_t *)s->sums)[block] =
			kernels->amax(op->x, s->op->dtype, start, cpu_least(CPU_SUMSQ_BLOCK, op->rows * op->cols - start));
	}
}

static void attention_heads(const struct cpu_kernels *kernels, const struct mt_op *op, int64_t first, int64_t last, float *scratch)
{
	const struct mt_attention *a = &op->attention;
	for (int64_t i = first; i < last; i++) {
		if (op->kind == MT_OP_ATTENTION)
			kernels->attention(a, op->dtype, i / a->heads, i % a->heads, scratch);
		else
			kernels->attention_bwd(a, op->dtype, i / a->kv_heads, i % a->kv_heads, scratch);
	}
}

static void run_range(const struct cpu_device *cpu, const struct share *s, int64_t first, int64_t last, void *scratch)
{
	const struct cpu_kernels *k = cpu->kernels;
	const struct mt_op *op = s->op;
	switch (op->kind) {
	case MT_OP_ATTENTION:
	case MT_OP_ATTENTION_BWD:
		attention_heads(k, op, first, last, scratch);
		break;
	case MT_OP_NORM:
		k->norm(&op->norm, op->dtype, first, last, scratch);
		break;
	case MT_OP_NORM_BWD:
		norm_bwd_blocks(k, s, first, last, scratch);
		break;
	case MT_OP_ACTIVATION:
		k->activation(&op->activation, op->dtype, first, last);
		break;
	case MT_OP_ACTIVATION_BWD:
		k->activation_bwd(&op->activation, op->dtype, first, last);
		break;
	case MT_OP_ROPE:
		k->rope(&op->rope, op->dtype, cpu->rope.values, first, last);
		break;
	case MT_OP_EMBEDDING:
		k->embedding(&op->embedding, op->dtype, first, last);
		break;
	case MT_OP_EMBEDDING_BWD:
		k->embedding_bwd(&op->embedding, op->dtype, first, last);
		break;
	case MT_OP_ADD:
		k->add(&op->add, op->dtype, first, last);
		break;
	case MT_OP_BIAS_GRAD:
		k->bias_grad(&op->add, op->dtype, first, last);
		break;
	case MT_OP_LOSS_STATS:
		k->loss_stats(&op->loss, op->dtype, first, last);
		break;
	case MT_OP_LOSS:
		k->loss(&op->loss, op->dtype, first, last);
		break;
	case MT_OP_CAST:
		k->cast(op->move.dst, op->move.dst_dtype, op->move.src, op->move.src_dtype, first, last);
		break;
	case MT_OP_FILL:
		fill(&op->move, first, last);
		break;
	case MT_OP_COPY:
		copy_rows(&op->move, op->dtype, first, last);
		break;
	case MT_OP_SPREAD:
		k->spread(&op->spread, op->dtype, first, last);
		break;
	case MT_OP_SPREAD_BWD:
		k->spread_bwd(&op->spread, op->dtype, first, last);
		break;
	case MT_OP_SUMSQ:
		sumsq_blocks(k, s, first, last);
		break;
	case MT_OP_SGD:
		k->sgd(&op->sgd, op->dtype, first, last);
		break;
	case MT_OP_COMBINE:
		k->combine(&op->combine, first, last);
		break;
	case MT_OP_AMAX:
		amax_blocks(k, s, first, last);
		break;
	case MT_OP_QUANTIZE:
		k->quantize(&op->quantize, op->dtype, first, last);
		break;
	default:
		k->adamw(&op->adamw, op->dtype, first, last);
		break;
	}
}

/* Items, step, work and scratch of an op; no sums yet. */
static struct share describe(const struct cpu_device *cpu, const struct mt_op *op)
{
	const struct mt_attention *a = &op->attention;
	struct share s = {.op = op, .step = 1};
	double item = 1.0;
	switch (op->kind) {
	case MT_OP_ATTENTION:
	case MT_OP_ATTENTION_BWD:
		s.count = a->batch * (op->kind == MT_OP_ATTENTION ? a->heads : a->kv_heads);
		item = (double)a->seq * (double)mt_attention_keys(a) * (double)a->head_dim;
		s.scratch_floats = cpu->kernels->attention_scratch(a, op->kind == MT_OP_ATTENTION_BWD);
		break;
	case MT_OP_NORM:
		s.count = op->norm.rows, item = (double)op->norm.cols, s.scratch_floats = (size_t)op->norm.cols;
		break;
	case MT_OP_NORM_BWD:
		s.count = cpu_blocks(op->norm.rows, CPU_NORM_BLOCK_ROWS);
		item = CPU_NORM_BLOCK_ROWS * (double)op->norm.cols, s.scratch_floats = 2 * (size_t)op->norm.cols;
		break;
	case MT_OP_ACTIVATION:
	case MT_OP_ACTIVATION_BWD:
		s.count = op->activation.rows, item = 4.0 * (double)op->activation.cols;
		break;
	case MT_OP_ROPE:
		s.count = op->rope.batch * op->rope.seq, item = (double)(op->rope.heads * mt_rope_rotated(&op->rope));
		break;
	case MT_OP_EMBEDDING:
		s.count = op->embedding.rows, item = (double)op->embedding.cols;
		break;
	case MT_OP_EMBEDDING_BWD:
		s.count = op->embedding.cols, item = (double)op->embedding.rows, s.step = COLUMNS_STEP;
		break;
	case MT_OP_ADD:
		s.count = op->add.rows, item = (double)op->add.cols;
		break;
	case MT_OP_BIAS_GRAD:
		s.count = op->add.cols, item = (double)op->add.rows, s.step = COLUMNS_STEP;
		break;
	case MT_OP_LOSS_STATS:
	case MT_OP_LOSS:
		s.count = op->loss.rows, item = 2.0 * (double)op->loss.cols;
		break;
	case MT_OP_CAST:
	case MT_OP_FILL:
		s.count = op->move.count, s.step = ELEMENTS_STEP;
		break;
	case MT_OP_COPY:
		s.count = op->move.rows, item = (double)op->move.cols;
		break;
	case MT_OP_SPREAD:
	case MT_OP_SPREAD_BWD:
		s.count = op->spread.rows;
		item = (double)(op->spread.heads * (op->spread.nope + op->spread.rotary + op->spread.value));
		break;
	case MT_OP_SUMSQ:
		s.count = cpu_blocks(op->sumsq.count, CPU_SUMSQ_BLOCK), item = CPU_SUMSQ_BLOCK;
		break;
	case MT_OP_SGD:
		s.count = op->sgd.count, item = 3.0, s.step = ELEMENTS_STEP;
		break;
	case MT_OP_COMBINE:
		s.count = op->combine.count, s.step = ELEMENTS_STEP;
		break;
	case MT_OP_AMAX:
		s.count = cpu_blocks(op->quantize.rows * op->quantize.cols, CPU_SUMSQ_BLOCK), item = CPU_SUMSQ_BLOCK;
		break;
	case MT_OP_QUANTIZE:
		s.count = op->quantize.rows, item = 2.0 * (double)op->quantize.cols, s.step = 64;
		break;
	default:
		s.count = op->adamw.count, item = 4.0, s.step = ELEMENTS_STEP;
		break;
	}
	s.work = item * (double)s.count;
	return s;
}

static void run_shared(const struct cpu_device *cpu, const struct share *s)
{
	const int64_t steps = cpu_blocks(s->count, s->step);
	const int team = (int)cpu_least(cpu_team(cpu, s->work), steps);
	if (team <= 1) {
		run_range(cpu, s, 0, s->count, cpu->scratch);
		return;
	}
#pragma omp parallel num_threads(team)
	{
		const int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
		const int64_t first = steps * thread / threads * s->step, last = steps * (thread + 1) / threads * s->step;
		if (first < last)
			run_range(cpu, s, first, cpu_least(last, s->count), cpu_scratch(cpu, (int)thread));
	}
}

/* Sums of blocks, added up in the order of the blocks. */
static enum mt_status run_with_sums(struct cpu_device *cpu, struct share *s)
{
	const struct mt_norm *norm = &s->op->norm;
	const bool is_norm = s->op->kind == MT_OP_NORM_BWD;
	const size_t bytes = (size_t)s->count * (is_norm ? 2 * (size_t)norm->cols * sizeof(float) : sizeof(double));
	if (bytes > cpu->sums_bytes) {
		free(cpu->sums);
		cpu->sums = malloc(bytes);
		cpu->sums_bytes = cpu->sums ? bytes : 0;
		if (!cpu->sums)
			return mt_fail(MT_NOMEM, "cpu device: no memory for %zu bytes of partial sums", bytes);
	}
	s->sums = cpu->sums;
	run_shared(cpu, s);
	if (is_norm) {
		for (int64_t block = 0; block < s->count; block++) {
			const float *sums = (const float *)s->sums + block * 2 * norm->cols;
			for (int64_t c = 0; c < norm->cols; c++) {
				((float *)norm->dgain)[c] += sums[c];
				if (norm->dbias)
					((float *)norm->dbias)[c] += sums[norm->cols + c];
			}
		}
	} else if (s->op->kind == MT_OP_AMAX) {
		uint32_t most = mt_f32_bits(*(const float *)s->op->quantize.amax);
		for (int64_t block = 0; block < s->count; block++)
			most = ((const uint32_t *)s->sums)[block] > most ? ((const uint32_t *)s->sums)[block] : most;
		*(float *)s->op->quantize.amax = mt_f32_of_bits(most);
	} else {
		double sum = 0.0;
		for (int64_t block = 0; block < s->count; block++)
			sum += ((const double *)s->sums)[block];
		*(double *)s->op->sumsq.out += sum;
	}
	return MT_OK;
}

static bool same_scaling(const struct mt_rope_scaling *a, const struct mt_rope_scaling *b)
{
	return a->stretch == b->stretch && a->factor == b->factor && a->original == b->original && a->low == b->low &&
	       a->high == b->high && a->magnitude == b->magnitude;
}

/* Angles are computed in double: a position times a frequency can be many turns. Kept for the positions seen so far. */
static enum mt_status prepare_rope(struct cpu_device *cpu, const struct mt_rope *op)
{
	struct cpu_rope_table *table = &cpu->rope;
	const int64_t rotated = mt_rope_rotated(op), half = rotated / 2;
	const int64_t positions = op->positions ? op->position_count : op->first_position + op->seq;
	const double magnitude = mt_rope_magnitude(op);
	if (table->values && table->theta == op->theta && table->rotated == rotated && table->positions >= positions &&
	    same_scaling(&table->scaling, &op->scaling))
		return MT_OK;
	float *values = malloc((size_t)(positions * 2 * half) * sizeof *values + 1);
	if (!values)
		return mt_fail(MT_NOMEM, "cpu device: no memory for rotary angles of %lld positions", (long long)positions);
	for (int64_t d = 0; d < half; d++) {
		const double frequency = mt_rope_frequency(op, d);
		for (int64_t position = 0; position < positions; position++) {
			values[position * 2 * half + d] = (float)(magnitude * cos((double)position * frequency));
			values[position * 2 * half + half + d] = (float)(magnitude * sin((double)position * frequency));
		}
	}
	free(table->values);
	*table = (struct cpu_rope_table){op->theta, rotated, positions, op->scaling, values};
	return MT_OK;
}

static void make_scales(const struct mt_quantize *op)
{
	for (int64_t i = 0; op->rows && i < op->cols; i++) {
		((float *)op->scale)[i] = mt_fp8_scale(((const float *)op->amax)[i], op->to, op->margin);
		((float *)op->inverse)[i] = 1 / ((const float *)op->scale)[i];
	}
}

enum mt_status mt_cpu_elementwise(struct cpu_device *cpu, const struct mt_op *op)
{
	if (op->kind == MT_OP_FP8_SCALE) {
		make_scales(&op->quantize);
		return MT_OK;
	}
	struct share s = describe(cpu, op);
	if (op->kind == MT_OP_ROPE)
		MT_TRY(prepare_rope(cpu, &op->rope));
	MT_TRY(mt_cpu_reserve(cpu, s.scratch_floats * sizeof(float)));
	if (op->kind == MT_OP_NORM_BWD || op->kind == MT_OP_SUMSQ || op->kind == MT_OP_AMAX)
		return run_with_sums(cpu, &s);
	run_shared(cpu, &s);
	if (op->kind == MT_OP_QUANTIZE && op->quantize.amax) {
		struct mt_op amax = *op;
		amax.kind = MT_OP_AMAX;
		return mt_cpu_elementwise(cpu, &amax);
	}
	return MT_OK;
}
