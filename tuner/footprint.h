/* footprint: the most bytes of activations that a stage takes: its actions done again with the tapes of its blocks (stand.h). */
#ifndef MT_TUNER_FOOTPRINT_H
#define MT_TUNER_FOOTPRINT_H

#include "tuner/pipeline.h"

struct mt_footprint {
	int64_t activation_bytes, logits_bytes; /* peaks; the second: of logits held apart */
	int64_t host_bytes;
};

/* A stage of a pipeline, to be gone through. */
struct mt_footprint_query {
	const struct mt_pipeline_stage *stage;
	const struct mt_card *card;
	const struct mt_schedule_shape *shape;
	int index;  /* of the stage */
	bool apart; /* logits are not among the activations */
};

/* To the byte, holes between tensors included. `actions`: of the query's shape. Costs some microseconds a layer and micro-batch, of
 * those that pass until memory looks as it did before, and the same actions follow. */
enum mt_status mt_footprint_find(struct mt_footprint *footprint, const struct mt_footprint_query *query,
				 const struct mt_action_list *actions);
/* The same without holes: no layout takes less. `actions`: those of mt_schedules_pair are enough. Costs some microseconds a
 * layer and nanoseconds an action. */
enum mt_status mt_footprint_floor(struct mt_footprint *footprint, const struct mt_footprint_query *query,
				  const struct mt_action_list *actions);

#endif
