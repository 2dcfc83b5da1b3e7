/* attention: the graphs of attention, and how their tensors are named in a run. */
#ifndef MT_KERNELS_CUDA_CUDNN_ATTENTION_H
#define MT_KERNELS_CUDA_CUDNN_ATTENTION_H

#include "kernels/cuda/cudnn/graph.h"
#include "kernels/op.h"

enum attention_uid {
	UID_Q = 1,
	UID_K,
	UID_V,
	UID_O,
	UID_LSE,
	UID_DO,
	UID_DQ,
	UID_DK,
	UID_DV,
	UID_DELTA,
	UID_SCALE,  /* f32, by value, as those below */
	UID_HIDDEN, /* what is put in place of a score that is not seen */
	UID_ONE,
	UID_WINDOW /* i32 */
};

/* The operations of a bf16 ATTENTION, or of its ATTENTION_BWD. A window only when op->window is under op->seq. */
void attention_graph(struct graph *graph, const struct mt_attention *op);
void attention_bwd_graph(struct graph *graph, const struct mt_attention *op);

#endif
