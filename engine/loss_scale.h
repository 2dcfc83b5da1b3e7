/* loss_scale: the factor of the loss in f16, and how it follows the gradients. */
#ifndef MT_ENGINE_LOSS_SCALE_H
#define MT_ENGINE_LOSS_SCALE_H

#include "engine/run.h"

#include <jansson.h>

struct mt_loss_scale {
	const struct mt_train_options *train; /* borrowed */
	bool active, dynamic;
	double value;        /* of the next step's loss; 1 in every type but f16 */
	double of_gradients; /* what the gradients of the last step were multiplied by */
	int64_t good_steps;  /* since the last growth or overflow */
	int64_t hysteresis;  /* overflows that are left before the scale falls, itself included */
};

void mt_loss_scale_open(struct mt_loss_scale *scale, const struct mt_train_options *train, enum mt_dtype dtype);
/* After a step with a finite loss: whether its gradients overflowed because of the scale, which has fallen then. False for finite
 * gradients, and for others where the scale is fixed or cannot fall: then they are as bad as in any type. */
bool mt_loss_scale_step(struct mt_loss_scale *scale, bool finite);
/* The state a checkpoint keeps, and back; a state of a run in another type changes nothing. */
json_t *mt_loss_scale_json(const struct mt_loss_scale *scale);
void mt_loss_scale_load(struct mt_loss_scale *scale, const json_t *state);

#endif
