/* pipeline: when the passes of every stage end, from the schedule that the engine runs and the seconds of a pass. */
#ifndef MT_TUNER_PIPELINE_H
#define MT_TUNER_PIPELINE_H

#include "base/status.h"

#include <stdint.h>

struct mt_pipeline_stage {
	double start_s;               /* when its first action can begin */
	double forward_s, backward_s; /* of one micro-batch */
	double last_extra_s;          /* more of the last backward pass */
	double passes_end_s;          /* out: end of the last pass */
	double end_s;                 /* out: and of the last send */
};

/* edge_s: one message between stages. */
enum mt_status mt_pipeline_time(struct mt_pipeline_stage *stages, int count, int64_t microbatches, double edge_s);

#endif
