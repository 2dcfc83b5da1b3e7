/* schedule: what a pipeline rank does in one step, as data. One executor runs it, the dry run times it, tests check it.
 *
 * The model is cut into stages * chunks parts in order, the virtual stages; a rank holds `chunks` of them. Messages are
 * asynchronous: RECV_* posts a receive, FORWARD or BACKWARD waits for it; SEND_* starts a send. A rank has at most
 * `sends` of a lane on their way: one more waits for the oldest. Between neighbouring virtual stages of one rank nothing is
 * sent. */
#ifndef MT_ENGINE_SCHEDULE_H
#define MT_ENGINE_SCHEDULE_H

#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>

enum mt_schedule {
	/* PipeDream-flush (Narayanan et al. 2021, arXiv:2104.04473); with chunks > 1 its interleaved form, virtual stage
	 * chunk * stages + stage; with one stage gradient accumulation */
	MT_SCHEDULE_1F1B,
	/* Zero bubble (Qi et al. 2023, arXiv:2401.10241): the gradient of weights is a pass of its own that fills the waits. H1:
	 * one chunk, no more activations than 1F1B's first stage */
	MT_SCHEDULE_ZB_H1,
	/* The same with two chunks in the shape of a V: stage s holds virtual stages s and 2 * stages - 1 - s, so the first rank
	 * has embedding and head (Qi et al. 2024, arXiv:2405.15362) */
	MT_SCHEDULE_ZB_V,
};

enum mt_action_kind {
	MT_RECV_FORWARD, /* activations from the previous virtual stage */
	MT_FORWARD,
	MT_SEND_FORWARD,  /* activations to the next virtual stage */
	MT_RECV_BACKWARD, /* gradient from the next virtual stage */
	MT_BACKWARD,      /* whole; of stages that put gradients of weights off that of inputs only */
	MT_SEND_BACKWARD, /* gradient to the previous virtual stage */
	MT_WGRAD_FIRST,   /* gradients of weights that were put off: those of the product that the backward pass met first */
	MT_WGRAD,         /* and those of all that are left */
};

struct mt_action {
	enum mt_action_kind kind;
	int chunk;
	int64_t microbatch;
};

struct mt_schedule_shape {
	enum mt_schedule kind;
	int stages, chunks;
	int64_t microbatches;
	int64_t group; /* interleaved: micro-batches that one chunk takes before the next; 0: stages */
};

struct mt_action_list {
	struct mt_action *actions; /* owned */
	int64_t count;
	int64_t in_flight; /* most micro-batches, times chunks, whose activations are held at once */
	int64_t sends;     /* messages of one lane that may be on their way before the next send waits for the oldest */
};

/* The actions of one stage, or of all of them, into as many lists. Cost: of the V some simulations of all stages, for one stage as
 * for all; else that of the lists. */
enum mt_status mt_schedule_create(struct mt_action_list *schedule, const struct mt_schedule_shape *shape, int stage);
enum mt_status mt_schedule_create_all(struct mt_action_list *schedules, const struct mt_schedule_shape *shape);
void mt_schedule_free(struct mt_action_list *schedule);

/* The same shape with no more micro-batches than show what stages hold: they go in a circle soon. Not fewer than `least` of them.
 */
struct mt_schedule_shape mt_schedule_settled(const struct mt_schedule_shape *shape, int64_t least);

/* Where a virtual stage lives, and back. */
int mt_schedule_virtual(enum mt_schedule kind, int stages, int stage, int chunk);
void mt_schedule_place(enum mt_schedule kind, int stages, int virtual_stage, int *stage, int *chunk);
/* Messages of one lane are in order; those of different lanes do not wait for each other. Lanes 0 and 1 carry activations, 2 and 3
 * gradients; 1 and 3 those of the second chunk of a V, which go the other way. */
enum { MT_SCHEDULE_LANES = 4 };
int mt_schedule_lane(enum mt_schedule kind, const struct mt_action *action);
static inline bool mt_schedule_splits(enum mt_schedule kind)
{
	return kind == MT_SCHEDULE_ZB_H1 || kind == MT_SCHEDULE_ZB_V;
}
/* Whether a stage has passes for gradients of weights. H1's first does not: nobody waits for the gradient of its inputs. */
static inline bool mt_schedule_puts_off(enum mt_schedule kind, int stage)
{
	return kind == MT_SCHEDULE_ZB_V || (kind == MT_SCHEDULE_ZB_H1 && stage > 0);
}

#endif
