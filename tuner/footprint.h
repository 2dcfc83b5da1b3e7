/* footprint: the most bytes of activations that a stage takes, holes included: its actions done again with an arena and the tapes
 * of its blocks (engine/tape.h). */
#ifndef MT_TUNER_FOOTPRINT_H
#define MT_TUNER_FOOTPRINT_H

#include "tuner/pipeline.h"

struct mt_footprint {
	int64_t activation_bytes, logits_bytes; /* peaks; the second: of logits held apart */
	int64_t host_bytes;
};

/* `apart`: logits are not among the activations. Costs some microseconds a layer and micro-batch, of those that are needed until
 * nothing new happens. */
enum mt_status mt_footprint_find(struct mt_footprint *footprint, const struct mt_pipeline_stage *stage, const struct mt_card *card,
				 const struct mt_schedule_shape *shape, int index, bool apart);

#endif
