/* table: the kernels of one instruction set. */
#include "kernels/cpu/isa/vector.h"

#if defined(__AVX512F__)
#define ISA_NAME "avx512"
#elif defined(__AVX2__)
#define ISA_NAME "avx2"
#else
#define ISA_NAME "baseline"
#endif

const struct cpu_kernels ISA(kernels) = {
	.name = ISA_NAME,
	.norm = ISA(norm),
	.norm_bwd = ISA(norm_bwd),
	.activation = ISA(activation),
	.activation_bwd = ISA(activation_bwd),
	.expert_act = ISA(expert_act),
	.expert_act_bwd = ISA(expert_act_bwd),
	.sum_rows = ISA(sum_rows),
	.rope = ISA(rope),
	.embedding = ISA(embedding),
	.embedding_bwd = ISA(embedding_bwd),
	.add = ISA(add),
	.bias_grad = ISA(bias_grad),
	.loss_stats = ISA(loss_stats),
	.loss = ISA(loss),
	.cast = ISA(cast),
	.sumsq = ISA(sumsq),
	.adamw = ISA(adamw),
	.sgd = ISA(sgd),
	.combine = ISA(combine),
	.amax = ISA(amax),
	.quantize = ISA(quantize),
	.widen_fp8 = ISA(widen_fp8),
	.attention = ISA(attention),
	.attention_bwd = ISA(attention_bwd),
	.attention_scratch = ISA(attention_scratch),
	.spread = ISA(spread),
	.spread_bwd = ISA(spread_bwd),
};
