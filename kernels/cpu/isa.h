/* isa: the vectorised kernels, as a table of functions for each instruction set.
 *
 * Every file in isa/ is compiled once an instruction set with MT_ISA set to its name; the same source becomes
 * mt_cpu_kernels_v2, _v3, _v4 (or _base where the processor is no x86-64). Kernels work on a range of rows, elements or
 * columns of an op, on the calling thread, and never allocate; the drivers in cpu.c's neighbours share ranges out to
 * threads. What a kernel does to an element never depends on the range it was called with, so results do not depend on
 * the number of threads. */
#ifndef MT_KERNELS_CPU_ISA_H
#define MT_KERNELS_CPU_ISA_H

#include "kernels/op.h"

#include <stddef.h>
#include <stdint.h>

/* Rows of the blocks whose sums are kept apart in NORM_BWD, and elements of those of SUMSQ. */
#define CPU_NORM_BLOCK_ROWS 64
#define CPU_SUMSQ_BLOCK     32768

struct cpu_kernels {
	const char *name; /* "avx512", "avx2", "baseline" */
	/* row_scratch: cols floats */
	void (*norm)(const struct mt_norm *op, enum mt_dtype dtype, int64_t first, int64_t last, float *row_scratch);
	/* sums: {dgain, dbias}(2,C) of these rows, written; row_scratch: 2*cols floats */
	void (*norm_bwd)(const struct mt_norm *op, enum mt_dtype dtype, int64_t first, int64_t last, float *sums,
			 float *row_scratch);
	void (*activation)(const struct mt_activation *op, enum mt_dtype dtype, int64_t first, int64_t last);
	void (*activation_bwd)(const struct mt_activation *op, enum mt_dtype dtype, int64_t first, int64_t last);
	/* table: {cos, sin}(positions, E/2), indexed from position 0 */
	void (*expert_act)(const struct mt_expert_act *op, enum mt_dtype dtype, int64_t first, int64_t last);
	void (*expert_act_bwd)(const struct mt_expert_act *op, enum mt_dtype dtype, int64_t first, int64_t last);
	void (*sum_rows)(const struct mt_rows *op, enum mt_dtype dtype, int64_t first, int64_t last);
	void (*rope)(const struct mt_rope *op, enum mt_dtype dtype, const float *table, int64_t first, int64_t last);
	void (*embedding)(const struct mt_embedding *op, enum mt_dtype dtype, int64_t first, int64_t last);
	/* all rows, columns [first, last) */
	void (*embedding_bwd)(const struct mt_embedding *op, enum mt_dtype dtype, int64_t first, int64_t last);
	void (*add)(const struct mt_add *op, enum mt_dtype dtype, int64_t first, int64_t last);
	/* all rows, columns [first, last) */
	void (*bias_grad)(const struct mt_add *op, enum mt_dtype dtype, int64_t first, int64_t last);
	void (*loss_stats)(const struct mt_loss *op, enum mt_dtype dtype, int64_t first, int64_t last);
	void (*loss)(const struct mt_loss *op, enum mt_dtype dtype, int64_t first, int64_t last);
	void (*cast)(void *dst, enum mt_dtype dst_dtype, const void *src, enum mt_dtype src_dtype, int64_t first, int64_t last);
	double (*sumsq)(const float *x, int64_t count);
	void (*adamw)(const struct mt_adamw *op, enum mt_dtype dtype, int64_t first, int64_t last);
	void (*sgd)(const struct mt_sgd *op, enum mt_dtype dtype, int64_t first, int64_t last);
	void (*combine)(const struct mt_combine *op, int64_t first, int64_t last);
	/* fp8.c: the bits of the greatest |x|; rows [first, last) to codes; codes to f32 */
	uint32_t (*amax)(const void *x, enum mt_dtype dtype, int64_t first, int64_t count);
	void (*quantize)(const struct mt_quantize *op, enum mt_dtype dtype, int64_t first, int64_t last);
	void (*widen_fp8)(float *dst, const uint8_t *src, enum mt_dtype dtype, int64_t count);
	/* One query head of one batch, or, backward, all query heads of one key/value head. */
	void (*attention)(const struct mt_attention *op, enum mt_dtype dtype, int64_t batch, int64_t head, float *scratch);
	void (*attention_bwd)(const struct mt_attention *op, enum mt_dtype dtype, int64_t batch, int64_t kv_head, float *scratch);
	/* floats of scratch for one call of the two above */
	size_t (*attention_scratch)(const struct mt_attention *op, int backward);
	void (*spread)(const struct mt_spread *op, enum mt_dtype dtype, int64_t first, int64_t last);
	void (*spread_bwd)(const struct mt_spread *op, enum mt_dtype dtype, int64_t first, int64_t last);
};

#if defined(__x86_64__)
extern const struct cpu_kernels mt_cpu_kernels_v2, mt_cpu_kernels_v3, mt_cpu_kernels_v4;
#else
extern const struct cpu_kernels mt_cpu_kernels_base;
#endif

/* Within isa/: ISA(norm) is mt_cpu_norm_v4 and so on. */
#ifdef MT_ISA
#define ISA_JOIN_(a, b) mt_cpu_##a##_##b
#define ISA_JOIN(a, b)  ISA_JOIN_(a, b)
#define ISA(name)       ISA_JOIN(name, MT_ISA)

void ISA(norm)(const struct mt_norm *op, enum mt_dtype dtype, int64_t first, int64_t last, float *row_scratch);
void ISA(norm_bwd)(const struct mt_norm *op, enum mt_dtype dtype, int64_t first, int64_t last, float *sums, float *row_scratch);
void ISA(activation)(const struct mt_activation *op, enum mt_dtype dtype, int64_t first, int64_t last);
void ISA(activation_bwd)(const struct mt_activation *op, enum mt_dtype dtype, int64_t first, int64_t last);
void ISA(expert_act)(const struct mt_expert_act *op, enum mt_dtype dtype, int64_t first, int64_t last);
void ISA(expert_act_bwd)(const struct mt_expert_act *op, enum mt_dtype dtype, int64_t first, int64_t last);
void ISA(sum_rows)(const struct mt_rows *op, enum mt_dtype dtype, int64_t first, int64_t last);
void ISA(rope)(const struct mt_rope *op, enum mt_dtype dtype, const float *table, int64_t first, int64_t last);
void ISA(embedding)(const struct mt_embedding *op, enum mt_dtype dtype, int64_t first, int64_t last);
void ISA(embedding_bwd)(const struct mt_embedding *op, enum mt_dtype dtype, int64_t first, int64_t last);
void ISA(add)(const struct mt_add *op, enum mt_dtype dtype, int64_t first, int64_t last);
void ISA(bias_grad)(const struct mt_add *op, enum mt_dtype dtype, int64_t first, int64_t last);
void ISA(loss_stats)(const struct mt_loss *op, enum mt_dtype dtype, int64_t first, int64_t last);
void ISA(loss)(const struct mt_loss *op, enum mt_dtype dtype, int64_t first, int64_t last);
void ISA(cast)(void *dst, enum mt_dtype dst_dtype, const void *src, enum mt_dtype src_dtype, int64_t first, int64_t last);
double ISA(sumsq)(const float *x, int64_t count);
void ISA(adamw)(const struct mt_adamw *op, enum mt_dtype dtype, int64_t first, int64_t last);
void ISA(sgd)(const struct mt_sgd *op, enum mt_dtype dtype, int64_t first, int64_t last);
void ISA(combine)(const struct mt_combine *op, int64_t first, int64_t last);
uint32_t ISA(amax)(const void *x, enum mt_dtype dtype, int64_t first, int64_t count);
void ISA(quantize)(const struct mt_quantize *op, enum mt_dtype dtype, int64_t first, int64_t last);
void ISA(widen_fp8)(float *dst, const uint8_t *src, enum mt_dtype dtype, int64_t count);
void ISA(attention)(const struct mt_attention *op, enum mt_dtype dtype, int64_t batch, int64_t head, float *scratch);
void ISA(attention_bwd)(const struct mt_attention *op, enum mt_dtype dtype, int64_t batch, int64_t kv_head, float *scratch);
size_t ISA(attention_scratch)(const struct mt_attention *op, int backward);
void ISA(spread)(const struct mt_spread *op, enum mt_dtype dtype, int64_t first, int64_t last);
void ISA(spread_bwd)(const struct mt_spread *op, enum mt_dtype dtype, int64_t first, int64_t last);
#endif

#endif
