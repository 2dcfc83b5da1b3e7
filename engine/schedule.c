/* schedule: see schedule.h. */
#include "engine/schedule.h"

#include <stdlib.h>
#include <string.h>

/* The passes of one stage in order: warm-up forwards, then one forward and one backward in turn, then the backwards left. */
static int64_t list_passes(struct mt_action *passes, int stage, int stages, int64_t microbatches)
{
	int64_t warmup = stages - 1 - stage < microbatches ? stages - 1 - stage : microbatches;
	int64_t count = 0;

	for (int64_t k = 0; k < warmup; k++)
		passes[count++] = (struct mt_action){MT_FORWARD, k};
	for (int64_t k = warmup; k < microbatches; k++) {
		passes[count++] = (struct mt_action){MT_FORWARD, k};
		passes[count++] = (struct mt_action){MT_BACKWARD, k - warmup};
	}
	for (int64_t k = microbatches - warmup; k < microbatches; k++)
		passes[count++] = (struct mt_action){MT_BACKWARD, k};
	return count;
}

static void push(struct mt_action_list *s, enum mt_action_kind kind, int64_t microbatch)
{
	s->actions[s->count++] = (struct mt_action){kind, microbatch};
}

/* The receive that a pass needs, if any. */
static void push_receive(struct mt_action_list *s, struct mt_action pass, int stage, int stages)
{
	if (pass.kind == MT_FORWARD && stage > 0)
		push(s, MT_RECV_FORWARD, pass.microbatch);
	if (pass.kind == MT_BACKWARD && stage < stages - 1)
		push(s, MT_RECV_BACKWARD, pass.microbatch);
}

enum mt_status mt_schedule_1f1b(struct mt_action_list *schedule, int stage, int stages, int64_t microbatches)
{
	int64_t live = 0, count;
	struct mt_action *passes = calloc((size_t)microbatches * 2 + 1, sizeof *passes);

	memset(schedule, 0, sizeof *schedule);
	schedule->actions = calloc((size_t)microbatches * 6 + 1, sizeof *schedule->actions);
	if (!passes || !schedule->actions) {
		free(passes);
		mt_schedule_free(schedule);
		return mt_fail(MT_NOMEM, "no memory for a schedule of %lld micro-batches", (long long)microbatches);
	}
	count = list_passes(passes, stage, stages, microbatches);
	push_receive(schedule, passes[0], stage, stages);
	for (int64_t i = 0; i < count; i++) {
		bool forward = passes[i].kind == MT_FORWARD;

		/* The next pass's receive is posted before this pass, so that the message moves under the compute. */
		if (i + 1 < count)
			push_receive(schedule, passes[i + 1], stage, stages);
		push(schedule, passes[i].kind, passes[i].microbatch);
		if (forward && stage < stages - 1)
			push(schedule, MT_SEND_FORWARD, passes[i].microbatch);
		if (!forward && stage > 0)
			push(schedule, MT_SEND_BACKWARD, passes[i].microbatch);
		live += forward ? 1 : -1;
		if (live > schedule->in_flight)
			schedule->in_flight = live;
	}
	free(passes);
	return MT_OK;
}

void mt_schedule_free(struct mt_action_list *schedule)
{
	free(schedule->actions);
	memset(schedule, 0, sizeof *schedule);
}
