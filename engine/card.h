/* card: the dry run of one block of each kind for one local shape, and of what a stage does once a step. A layout's step time
 * and memory are a closed form over cards (tuner/compose.c); layouts with equal (tp, cp, sp, micro-batch, recompute, dtype, seq)
 * share one. */
#ifndef MT_ENGINE_CARD_H
#define MT_ENGINE_CARD_H

#include "comm/comm.h"
#include "engine/run.h"
#include "engine/tape.h"
#include "kernels/device.h"

/* Of one block and one micro-batch. */
struct mt_block_cost {
	double forward_s, backward_s; /* of the compute stream, collectives over tp, cp and ep included */
	double wgrad_s;               /* gradients of weights, where the schedule has a pass of their own (not in backward_s) */
	double first_wgrad_s;         /* of wgrad_s: the product that the backward pass met first */
	double tp_s;                  /* of those collectives in all passes */
	int64_t forward_bytes;        /* of activations, what the forward pass leaves more than it found */
	struct mt_block_tapes tapes;  /* owned by the card */
};

/* Layers that cost the same: with experts or without, with a window or without, in 8 bits or not. */
enum { MT_CARD_KINDS = 8 };

/* Positions, starts in windows, starts. */
enum { MT_CARD_DOCUMENTS = 3 };

struct mt_card {
	struct mt_block_cost embedding, head;
	struct mt_block_cost layer[MT_CARD_KINDS]; /* of the kinds that the model has */
	bool keeps_sizes;                          /* the activation arena: mt_arena_keep_sizes */
	int64_t edge_bytes;                        /* one activation message between stages */
	int64_t token_bytes;                       /* tokens or targets of a micro-batch */
	int64_t scratch_bytes, pinned_bytes;       /* of the device beside the arenas, of all the operations above */
	int64_t position_bytes;                    /* in the workspace */
	/* Documents apart: arrays of a micro-batch on every stage, in the order in which they are made; 0: there is none. */
	int64_t document_bytes[MT_CARD_DOCUMENTS];
};

/* The kind of a layer of the model (0 .. layers-1). */
int mt_card_kind(const struct mt_run *run, int64_t layer);

/* Free it with mt_card_free, after a failure too. `run`: the model and the layout; of the pipeline only whether its schedule splits
 * the backward pass matters, of recompute the kind alone: all layers have it. Sharding, dp (but with experts) and gbs do not
 * matter. Runs in this thread. */
enum mt_status mt_card_measure(struct mt_card *card, const struct mt_run *run, struct mt_cost_source ops,
			       struct mt_comm_cost_source comms);
void mt_card_free(struct mt_card *card);

/* True when the logits are held in the workspace, not among the activations. */
bool mt_logits_apart(const struct mt_layout *layout);

/* One bucket of a stage (engine/param.h), and what it costs to gather and to reduce it (engine/shard.h). */
struct mt_bucket_cost {
	int first_unit, unit;
	bool tied, gathers, scatters, dense, shared, narrow; /* dense: not of experts; shared: reduced; narrow: in bf16 */
	double gather_s;                                     /* its parameters */
	double clear_s, scatter_s, add_s, across_s;          /* its gradients in every pass; across: once, at the end */
	double sum_s;                                        /* over tp, which the compute waits for */
	double reduce_s;                                     /* once */
	double ends_s;                                       /* of a tied embedding over first and last stage */
	double round_s, widen_s;                             /* to bf16 and back */
};

/* What a stage does once a step, and what it does with its buckets in every pass. */
struct mt_tail {
	double clear_s; /* before the first pass: gradients to zero */
	int units;      /* layers + 2 */
	int bucket_count;
	struct mt_bucket_cost *buckets; /* owned */
	int *order;                     /* owned: bucket indices by unit */
	int *used, *used_from; /* owned: the buckets that a unit uses: used[used_from[unit]] .. used[used_from[unit + 1] - 1] */
	double ends_s;         /* sum of a tied embedding over first and last stage */
	double update_s;       /* norm and optimizer, gather_s included */
	double gather_s;       /* of update_s: waiting for parameters of other shards */
	double dp_total_s;     /* of update_s: collectives over dp, hidden ones too */
	int64_t parameter_bytes, gradient_bytes, optimizer_bytes; /* peaks of their arenas */
	int64_t workspace_bytes;                                  /* of its arena, without losses and positions */
	int64_t scratch_bytes;                                    /* of the device beside the arenas */
};

/* Where gradients are kept as parts, the holes among them move on for as many micro-batches. */
enum { MT_TAIL_MICROBATCHES = 16 };

/* From the engine itself. Does not depend on recompute, nor on micro-batches but whether there is more than one, and where
 * gradients are kept as parts (zero 2 and 3) on what mt_schedule_settled leaves of them. */
enum mt_status mt_tail_measure(struct mt_tail *tail, const struct mt_run *run, int stage, struct mt_cost_source ops,
			       struct mt_comm_cost_source comms);
void mt_tail_free(struct mt_tail *tail);

#endif
