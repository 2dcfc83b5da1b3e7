/* card: the dry run of one block of each kind for one local shape, and of what a stage does once a step. A layout's step time
 * and memory are a closed form over cards (tuner/compose.c); layouts with equal (tp, cp, sp, micro-batch, recompute, dtype, seq)
 * share one. */
#ifndef MT_ENGINE_CARD_H
#define MT_ENGINE_CARD_H

#include "comm/comm.h"
#include "engine/run.h"
#include "kernels/device.h"

struct mt_block_cost {
	double forward_s, backward_s; /* of the compute stream, tensor- and context-parallel collectives included */
	double tp_s;                  /* of those collectives in both directions */
};

struct mt_card {
	struct mt_block_cost embedding, layer, head;
	int64_t layer_kept_bytes; /* kept by one layer between forward and backward pass, its input included */
	int64_t layer_work_bytes; /* most that a layer's backward pass needs beyond what is kept and the gradient that came */
	int64_t head_work_bytes;  /* most that the head needs in both passes beyond its input, logits apart */
	int64_t logits_bytes;
	/* Of the activation arena when one layer with the head runs through both passes, holes included: as the only stage, and as
	 * the last of several, whose input is received. */
	int64_t block_peak_bytes, last_peak_bytes;
	int64_t edge_bytes;                     /* one activation message between stages */
	int64_t token_bytes;                    /* tokens or targets of a micro-batch */
	int64_t document_bytes, position_bytes; /* documents apart: of a micro-batch on every stage; positions in the workspace */
};

/* `run`: the model and the layout; its pp, dp, gbs and layer count do not matter. Runs in this thread. */
enum mt_status mt_card_measure(struct mt_card *card, const struct mt_run *run, struct mt_cost_source ops,
			       struct mt_comm_cost_source comms);

/* True when the logits are held in the workspace, not among the activations. */
bool mt_logits_apart(const struct mt_layout *layout);

/* What a stage does once a step. Units of the backward pass: engine/param.h. */
struct mt_tail {
	double clear_s;    /* gradients to zero */
	int units;         /* layers + 2 */
	double *sum_s;     /* owned, by unit: sum over tp that the compute waits for, before the bucket's reduction */
	double *reduce_s;  /* owned, by unit: reduction over dp of the buckets that the unit completes */
	double ends_s;     /* sum of a tied embedding over first and last stage */
	double update_s;   /* norm and optimizer, gather_s included */
	double gather_s;   /* of update_s: waiting for parameters of other shards */
	double dp_total_s; /* of all collectives over dp, hidden ones too */
	int64_t parameter_bytes, gradient_bytes, optimizer_bytes; /* peaks of their arenas */
};

/* Exact, from the engine itself. Does not depend on micro-batches and recompute. */
enum mt_status mt_tail_measure(struct mt_tail *tail, const struct mt_run *run, int stage, struct mt_cost_source ops,
			       struct mt_comm_cost_source comms);
void mt_tail_free(struct mt_tail *tail);

#endif
