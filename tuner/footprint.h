/* footprint: the most bytes of activations that a stage holds, from the schedule's actions and what each block keeps. */
#ifndef MT_TUNER_FOOTPRINT_H
#define MT_TUNER_FOOTPRINT_H

#include "tuner/pipeline.h"

struct mt_footprint {
	int64_t activation_bytes, logits_bytes; /* peaks; the second: of logits held apart */
	int64_t host_bytes;
};

/* `apart`: logits are not among the activations. Sums of live bytes: how they lie in the arena is not told. */
enum mt_status mt_footprint_find(struct mt_footprint *footprint, const struct mt_pipeline_stage *stage, const struct mt_card *card,
				 const struct mt_schedule_shape *shape, int index, bool apart);

#endif
