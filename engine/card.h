/* card: the dry run of one block of each kind for one local shape. A layout's step time and memory are a closed form over
 * cards (tuner/compose.c); layouts with equal (tp, sp, micro-batch, recompute, dtype, seq) share one. */
#ifndef MT_ENGINE_CARD_H
#define MT_ENGINE_CARD_H

#include "comm/comm.h"
#include "engine/run.h"
#include "kernels/device.h"

struct mt_block_cost {
	double forward_s, backward_s; /* of the compute stream, tensor-parallel collectives included */
	double tp_s;		      /* of those collectives in both directions */
};

struct mt_card {
	struct mt_block_cost embedding, layer, head;
	int64_t layer_kept_bytes;      /* kept by one layer between forward and backward pass, its input included */
	int64_t layer_work_bytes;      /* most that a layer's backward pass needs beyond that */
	int64_t head_kept_bytes, head_work_bytes;
	int64_t edge_bytes;	       /* one activation message between stages */
	int64_t token_bytes;	       /* tokens or targets of a micro-batch */
};

/* `run`: the model and the layout; its pp, dp, gbs and layer count do not matter. Runs in this thread. */
enum mt_status mt_card_measure(struct mt_card *card, const struct mt_run *run, struct mt_cost_source ops, struct mt_comm_cost_source comms);

/* The gradient elements of one rank of `stage`: what its optimizer and buckets work on (padding included), and the
 * number of buckets. Exact, from the engine's own parameter table. */
enum mt_status mt_card_elements(const struct mt_run *run, int stage, int64_t *elements, int *buckets);

#endif
