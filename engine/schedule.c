/* schedule: places of the virtual stages, and the messages between the passes of a stage; see schedule.h. */
#include "engine/schedule_private.h"

#include <stdlib.h>
#include <string.h>

struct mt_schedule_shape mt_schedule_settled(const struct mt_schedule_shape *shape, int64_t least)
{
	int64_t group = shape->group > 0 ? shape->group : shape->stages, enough = 3 * group * shape->chunks;
	struct mt_schedule_shape few = *shape;

	if (enough < least)
		enough = (least + group - 1) / group * group;
	if (few.microbatches > enough)
		few.microbatches = enough + shape->microbatches % group;
	return few;
}

int mt_schedule_virtual(enum mt_schedule kind, int stages, int stage, int chunk)
{
	return kind == MT_SCHEDULE_ZB_V && chunk == 1 ? 2 * stages - 1 - stage : chunk * stages + stage;
}

void mt_schedule_place(enum mt_schedule kind, int stages, int virtual_stage, int *stage, int *chunk)
{
	*chunk = virtual_stage / stages;
	*stage = virtual_stage % stages;
	if (kind == MT_SCHEDULE_ZB_V && *chunk == 1)
		*stage = stages - 1 - *stage;
}

int mt_schedule_lane(enum mt_schedule kind, const struct mt_action *action)
{
	bool backward = action->kind == MT_RECV_BACKWARD || action->kind == MT_BACKWARD || action->kind == MT_SEND_BACKWARD;

	return (backward ? 2 : 0) + (kind == MT_SCHEDULE_ZB_V && action->chunk == 1 ? 1 : 0);
}

static void push(struct mt_action_list *s, enum mt_action_kind kind, struct mt_action pass)
{
	s->actions[s->count++] = (struct mt_action){kind, pass.chunk, pass.microbatch};
}

/* Whether the virtual stage `step` after that of a pass is on another rank. */
static bool crosses(const struct mt_schedule_shape *shape, int stage, struct mt_action pass, int step)
{
	int next = mt_schedule_virtual(shape->kind, shape->stages, stage, pass.chunk) + step, to, chunk;

	if (next < 0 || next >= shape->stages * shape->chunks)
		return false;
	mt_schedule_place(shape->kind, shape->stages, next, &to, &chunk);
	return to != stage;
}

/* The receive that a pass needs, if any. */
static void push_receive(struct mt_action_list *s, const struct mt_schedule_shape *shape, int stage, struct mt_action pass)
{
	if (pass.kind == MT_FORWARD && crosses(shape, stage, pass, -1))
		push(s, MT_RECV_FORWARD, pass);
	if (pass.kind == MT_BACKWARD && crosses(shape, stage, pass, 1))
		push(s, MT_RECV_BACKWARD, pass);
}

static void add_messages(struct mt_action_list *schedule, const struct mt_schedule_shape *shape, int stage,
			 const struct mt_action *passes, int64_t count)
{
	enum mt_action_kind end = mt_schedule_puts_off(shape->kind, stage) ? MT_WGRAD : MT_BACKWARD;
	int64_t live = 0, next = 0;

	push_receive(schedule, shape, stage, passes[0]);
	for (int64_t i = 0; i < count; i++) {
		struct mt_action pass = passes[i];

		/* The next pass's receive is posted before this pass, so that the message moves under the compute; a first product
		 * alone is too short for that. */
		for (; next < count && (next <= i || passes[next].kind == MT_WGRAD_FIRST); next++)
			;
		if (next < count && pass.kind != MT_WGRAD_FIRST)
			push_receive(schedule, shape, stage, passes[next]);
		push(schedule, pass.kind, pass);
		if (pass.kind == MT_FORWARD && crosses(shape, stage, pass, 1))
			push(schedule, MT_SEND_FORWARD, pass);
		if (pass.kind == MT_BACKWARD && crosses(shape, stage, pass, -1))
			push(schedule, MT_SEND_BACKWARD, pass);
		live += (pass.kind == MT_FORWARD) - (pass.kind == end);
		if (live > schedule->in_flight)
			schedule->in_flight = live;
	}
}

/* A group of more micro-batches than stages: the outputs of a chunk arrive before the next chunk asks for them. The order of a V
 * comes from messages that never wait for their receives. */
static int64_t sends_ahead(const struct mt_schedule_shape *shape)
{
	if (shape->kind == MT_SCHEDULE_ZB_V)
		return 2;
	return shape->chunks > 1 && shape->group > shape->stages ? shape->group - shape->stages + 1 : 1;
}

static enum mt_status make_list(struct mt_action_list *list, const struct mt_schedule_shape *shape, int stage,
				const struct mt_action *passes, int64_t count)
{
	list->sends = sends_ahead(shape);
	list->actions = calloc((size_t)count * 3 + 1, sizeof *list->actions); /* a receive and a send with each pass */
	if (!list->actions)
		return mt_fail(MT_NOMEM, "no memory for a schedule of %lld micro-batches", (long long)shape->microbatches);
	add_messages(list, shape, stage, passes, count);
	return MT_OK;
}

static enum mt_status make_lists(struct mt_action_list *lists, const struct mt_schedule_shape *shape, int first, int stages,
				 struct mt_action *passes)
{
	bool v = shape->kind == MT_SCHEDULE_ZB_V;
	int64_t count = 3 * shape->microbatches * shape->chunks;

	if (v)
		MT_TRY(mt_passes_zb_v(passes, shape, first, stages));
	for (int i = 0; i < stages; i++) {
		if (shape->kind == MT_SCHEDULE_ZB_H1)
			count = mt_passes_zb_h1(passes, shape, first + i);
		else if (!v)
			count = mt_passes_1f1b(passes, shape, first + i);
		MT_TRY(make_list(&lists[i], shape, first + i, v ? passes + i * count : passes, count));
	}
	return MT_OK;
}

/* Of `stages` stages from `first` on. */
static enum mt_status create(struct mt_action_list *lists, const struct mt_schedule_shape *shape, int first, int stages)
{
	size_t parts = (size_t)shape->microbatches * (size_t)shape->chunks;
	size_t room = shape->kind == MT_SCHEDULE_ZB_V ? (size_t)stages * parts * 3 : parts * 4;
	struct mt_action *passes = calloc(room + 1, sizeof *passes);
	enum mt_status st;

	memset(lists, 0, (size_t)stages * sizeof *lists);
	if (!passes)
		return mt_fail(MT_NOMEM, "no memory for a schedule of %lld micro-batches", (long long)shape->microbatches);
	st = make_lists(lists, shape, first, stages, passes);
	for (int i = 0; st != MT_OK && i < stages; i++)
		mt_schedule_free(&lists[i]);
	free(passes);
	return st;
}

enum mt_status mt_schedule_create(struct mt_action_list *schedule, const struct mt_schedule_shape *shape, int stage)
{
	return create(schedule, shape, stage, 1);
}

enum mt_status mt_schedule_create_all(struct mt_action_list *schedules, const struct mt_schedule_shape *shape)
{
	return create(schedules, shape, 0, shape->stages);
}

void mt_schedule_free(struct mt_action_list *schedule)
{
	free(schedule->actions);
	memset(schedule, 0, sizeof *schedule);
}
