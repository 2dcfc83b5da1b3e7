/* vee: what the stages of a V-shaped zero-bubble pipeline (engine/schedule.h, ZB-V) wait, by the replay of its order.
 *
 * The order is made for passes of equal length; with others no closed form holds. The end of a replay is homogeneous, convex and
 * piecewise linear in the seconds of its passes: so it is replayed at the corners of a grid of their shares, each when it is first
 * asked for, and between them taken as linear, which is never below the replay. */
#ifndef MT_TUNER_VEE_H
#define MT_TUNER_VEE_H

#include <stdint.h>

struct mt_vee;                      /* corners that were replayed; of one thread */
struct mt_vee *mt_vee_create(void); /* NULL: no memory */
void mt_vee_destroy(struct mt_vee *vee);

/* Of both chunks of a stage and one micro-batch, not all 0. */
struct mt_vee_passes {
	double forward_s, inputs_s, weights_s; /* gradients of inputs, of weights */
	double more; /* the passes of the first stage, which has embedding and head, over those of the others, less 1; 0 or more */
};

/* Seconds that the first stage waits in a step of so many micro-batches, messages free: the end of the last pass of any stage less
 * those of all its own. `vee` NULL: nothing is kept. Longer than any step where there is no memory. */
double mt_vee_wait_s(struct mt_vee *vee, int stages, int64_t microbatches, const struct mt_vee_passes *passes);

#endif
