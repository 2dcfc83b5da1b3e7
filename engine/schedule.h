/* schedule: what a pipeline rank does in one step, as data. One executor runs it, the dry run times it, tests check it.
 *
 * Messages are asynchronous: RECV_* posts a receive, FORWARD or BACKWARD waits for it; SEND_* starts a send, whose
 * buffer is free when the next send in that direction begins. */
#ifndef MT_ENGINE_SCHEDULE_H
#define MT_ENGINE_SCHEDULE_H

#include "base/status.h"

#include <stdint.h>

enum mt_action_kind {
	MT_RECV_FORWARD, /* activations from the previous stage */
	MT_FORWARD,
	MT_SEND_FORWARD,  /* activations to the next stage */
	MT_RECV_BACKWARD, /* gradient from the next stage */
	MT_BACKWARD,
	MT_SEND_BACKWARD, /* gradient to the previous stage */
};

struct mt_action {
	enum mt_action_kind kind;
	int64_t microbatch;
};

struct mt_action_list {
	struct mt_action *actions; /* owned */
	int64_t count;
	int64_t in_flight; /* most micro-batches whose activations are held at once */
};

/* 1F1B (PipeDream-flush, Narayanan et al. 2021, arXiv:2104.04473) for one stage of `stages`; stages 1: gradient accumulation. */
enum mt_status mt_schedule_1f1b(struct mt_action_list *schedule, int stage, int stages, int64_t microbatches);
void mt_schedule_free(struct mt_action_list *schedule);

#endif
