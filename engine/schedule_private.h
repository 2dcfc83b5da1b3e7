/* schedule_private: the passes of a stage, before messages are put between them. */
#ifndef MT_ENGINE_SCHEDULE_PRIVATE_H
#define MT_ENGINE_SCHEDULE_PRIVATE_H

#include "engine/schedule.h"

enum { MT_SCHEDULE_V_CHUNKS = 2 };

/* Room for 4 passes a micro-batch and chunk. Each fills `passes` (FORWARD, BACKWARD, WGRAD_FIRST, WGRAD) and returns how many. */
int64_t mt_passes_1f1b(struct mt_action *passes, const struct mt_schedule_shape *shape, int stage);
int64_t mt_passes_zb_h1(struct mt_action *passes, const struct mt_schedule_shape *shape, int stage);
/* Of `stages` stages from `first` on, one after the other: 3 passes a micro-batch and chunk each. One simulation of all stages. */
enum mt_status mt_passes_zb_v(struct mt_action *passes, const struct mt_schedule_shape *shape, int first, int stages);

#endif
