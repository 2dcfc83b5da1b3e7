/* pipeline: when every stage of a pipeline ends its step, from the schedule that the engine runs and the seconds of its blocks. */
#ifndef MT_TUNER_PIPELINE_H
#define MT_TUNER_PIPELINE_H

#include "engine/card.h"
#include "tuner/schedules.h"

#include <stdint.h>

/* A model chunk of a stage: its layers in the order of the model, and what lies at its ends. Seconds are of one micro-batch. */
struct mt_pipeline_chunk {
	int64_t first_layer, layers;           /* local indices */
	bool first, last;                      /* embedding, head */
	const struct mt_block_cost **blocks;   /* `layers` of them; NULL: only the sums count */
	double forward_s, backward_s, wgrad_s; /* sums; backward_s without wgrad_s where the schedule splits them */
	double load_s;                         /* of forward_s: tokens to the device */
};

struct mt_pipeline_stage {
	double start_s;                               /* when its first action can begin */
	struct mt_pipeline_chunk *chunks;             /* as many as the shape says */
	const struct mt_block_cost *embedding, *head; /* where a chunk is first or last */
	const struct mt_tail *tail;                   /* what is gathered and reduced; NULL: nothing */
	int64_t offload_layers;
	const double *copy_s; /* of a layer's activations to or from host memory, by local layer; NULL: nothing is offloaded */
	/* out */
	double passes_end_s;             /* end of the last pass */
	double end_s;                    /* and of the last send, and of all reductions */
	double dp_wait_s, dp_total_s;    /* waits for gathers and reductions; all of them, hidden ones too */
	double tp_sum_s, more_compute_s; /* sums over tp before reductions; clearing, adding and rounding of gradients */
};

/* edge_s[s]: one message between stages s and s + 1 (the last: and 0), either way; NULL: they cost nothing. `shape` has as many
 * stages as the arrays. */
enum mt_status mt_pipeline_time(struct mt_pipeline_stage *stages, const struct mt_schedule_shape *shape, const double *edge_s,
				struct mt_schedules *schedules);

#endif
