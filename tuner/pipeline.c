/* pipeline: the engine's schedule on virtual clocks, with a number for each pass in place of its kernels.
 *
 * A stage runs its actions in order; a receive is on its way from when both it is posted and its message is sent, after the
 * one before it in its lane; a send begins when the one before it is over, and waits when as many as the schedule allows are on
 * their way. So stages are run in turn, each until it needs a message that is not sent yet: every action is done once.
 *
 * What a stage does beside its kernels, gathers, reductions and copies, is in stage_clock.c.
 *
 * Beyond a few times p micro-batches the steps repeat: each group of micro-batches more costs what the last one did (schedules.h).
 */
#include "tuner/pipeline.h"

#include "tuner/stage_clock.h"

#include <stdlib.h>
#include <string.h>

enum { FORWARD, BACKWARD, LANES = MT_SCHEDULE_LANES };

/* A stage's clock, and what is said of its messages by direction, chunk and micro-batch. */
struct line {
	struct mt_stage_clock clock;
	const struct mt_action_list *schedule;
	int64_t next;
	double last_pass_s;
	double *ring[LANES]; /* owned: ends of the sends on their way, schedule.sends of each lane */
	int64_t ring_first[LANES], ring_count[LANES];
	double sending_s[LANES], receiving_s[LANES]; /* end of the latest message */
	double *posted_s[2];                         /* owned: when the receive was posted */
	double *sent_s[2];                           /* owned: when the send began, -1: not yet */
};

static double later(double a, double b)
{
	return a > b ? a : b;
}

static void free_lines(struct line *lines, int count)
{
	for (int s = 0; lines && s < count; s++) {
		mt_stage_clock_close(&lines[s].clock);
		for (int lane = 0; lane < LANES; lane++)
			free(lines[s].ring[lane]);
		for (int d = 0; d < 2; d++) {
			free(lines[s].posted_s[d]);
			free(lines[s].sent_s[d]);
		}
	}
	free(lines);
}

static enum mt_status make_lines(struct line *lines, const struct mt_pipeline_stage *stages, const struct mt_schedule_shape *shape,
				 const struct mt_action_list *lists)
{
	size_t passes = (size_t)shape->microbatches * (size_t)shape->chunks;

	for (int s = 0; s < shape->stages; s++) {
		struct line *l = &lines[s];

		MT_TRY(mt_stage_clock_open(&l->clock, &stages[s]));
		l->schedule = &lists[s];
		for (int lane = 0; lane < LANES; lane++) {
			l->ring[lane] = calloc((size_t)l->schedule->sends, sizeof(double));
			if (!l->ring[lane])
				return mt_fail(MT_NOMEM, "no memory for %lld messages", (long long)l->schedule->sends);
		}
		for (int d = 0; d < 2; d++) {
			l->posted_s[d] = calloc(passes, sizeof(double));
			l->sent_s[d] = malloc(passes * sizeof(double));
			if (!l->posted_s[d] || !l->sent_s[d])
				return mt_fail(MT_NOMEM, "no memory for the clocks of %zu passes", passes);
			for (size_t k = 0; k < passes; k++)
				l->sent_s[d][k] = -1;
		}
	}
	return MT_OK;
}

/* A message between neighbours; the last stage's is the first. */
static double edge_between(const double *edge_s, const struct mt_schedule_shape *shape, int a, int b)
{
	int least = a < b ? a : b, most = a < b ? b : a;

	if (!edge_s)
		return 0;
	return edge_s[most - least == 1 ? least : shape->stages - 1];
}

/* The stage waits for the message that a pass needs, if it needs one; false when it is not sent yet. */
static bool arrive(struct line *all, const struct mt_schedule_shape *shape, int s, const struct mt_action *pass,
		   const double *edge_s)
{
	int direction = pass->kind == MT_FORWARD ? FORWARD : BACKWARD, stage, chunk, lane = mt_schedule_lane(shape->kind, pass);
	int from = mt_schedule_virtual(shape->kind, shape->stages, s, pass->chunk) + (direction == FORWARD ? -1 : 1);
	struct line *l = &all[s];
	double sent_s;

	if (from < 0 || from >= shape->stages * shape->chunks)
		return true;
	mt_schedule_place(shape->kind, shape->stages, from, &stage, &chunk);
	if (stage == s)
		return true;
	sent_s = all[stage].sent_s[direction][chunk * shape->microbatches + pass->microbatch];
	if (sent_s < 0)
		return false;
	l->receiving_s[lane] = later(later(l->posted_s[direction][pass->chunk * shape->microbatches + pass->microbatch], sent_s),
				     l->receiving_s[lane]) +
			       edge_between(edge_s, shape, stage, s);
	l->clock.now_s = later(l->clock.now_s, l->receiving_s[lane]);
	return true;
}

/* The stage that a pass's result goes to. */
static int stage_after(const struct mt_schedule_shape *shape, int s, const struct mt_action *action)
{
	int step = action->kind == MT_SEND_FORWARD ? 1 : -1, stage, chunk;

	mt_schedule_place(shape->kind, shape->stages, mt_schedule_virtual(shape->kind, shape->stages, s, action->chunk) + step,
			  &stage, &chunk);
	return stage;
}

static void send(struct line *l, const struct mt_schedule_shape *shape, const struct mt_action *action, double edge_s)
{
	int direction = action->kind == MT_SEND_FORWARD ? FORWARD : BACKWARD, lane = mt_schedule_lane(shape->kind, action);
	int64_t most = l->schedule->sends;

	if (l->ring_count[lane] == most) {
		l->clock.now_s = later(l->clock.now_s, l->ring[lane][l->ring_first[lane]]);
		l->ring_first[lane] = (l->ring_first[lane] + 1) % most;
		l->ring_count[lane]--;
	}
	l->sending_s[lane] = later(l->clock.now_s, l->sending_s[lane]);
	l->sent_s[direction][action->chunk * shape->microbatches + action->microbatch] = l->sending_s[lane];
	l->sending_s[lane] += edge_s;
	l->ring[lane][(l->ring_first[lane] + l->ring_count[lane]++) % most] = l->sending_s[lane];
}

/* Runs stage s until it blocks; returns whether it moved. */
static bool advance(struct line *all, const struct mt_schedule_shape *shape, int s, const double *edge_s)
{
	struct line *l = &all[s];
	int64_t began = l->next;

	for (; l->next < l->schedule->count; l->next++) {
		const struct mt_action *a = &l->schedule->actions[l->next];
		bool last = a->microbatch == shape->microbatches - 1;

		switch (a->kind) {
		case MT_RECV_FORWARD:
		case MT_RECV_BACKWARD:
			l->posted_s[a->kind == MT_RECV_BACKWARD][a->chunk * shape->microbatches + a->microbatch] = l->clock.now_s;
			break;
		case MT_SEND_FORWARD:
		case MT_SEND_BACKWARD:
			send(l, shape, a, edge_between(edge_s, shape, s, stage_after(shape, s, a)));
			break;
		case MT_FORWARD:
			if (!arrive(all, shape, s, a, edge_s))
				return l->next > began;
			mt_stage_clock_forward(&l->clock, a->chunk);
			break;
		case MT_BACKWARD:
			if (!arrive(all, shape, s, a, edge_s))
				return l->next > began;
			mt_stage_clock_backward(&l->clock, a->chunk, last, mt_schedule_puts_off(shape->kind, s));
			break;
		case MT_WGRAD_FIRST:
			mt_stage_clock_wgrad_first(&l->clock, a->chunk);
			break;
		case MT_WGRAD:
			mt_stage_clock_wgrad(&l->clock, a->chunk, last);
			break;
		}
		if (a->kind == MT_BACKWARD || a->kind == MT_WGRAD)
			l->last_pass_s = l->clock.now_s;
	}
	return l->next > began;
}

static void finish(struct line *l, struct mt_pipeline_stage *stage)
{
	struct mt_stage_clock *c = &l->clock;

	stage->passes_end_s = l->last_pass_s;
	for (int lane = 0; lane < LANES; lane++)
		c->now_s = later(c->now_s, l->sending_s[lane]);
	mt_stage_clock_finish(c);
	stage->end_s = c->now_s;
	stage->dp_wait_s = c->dp_wait_s;
	stage->dp_total_s = c->dp_total_s;
	stage->tp_sum_s = c->tp_sum_s;
	stage->more_compute_s = c->more_compute_s;
}

static enum mt_status run(struct mt_pipeline_stage *stages, const struct mt_schedule_shape *shape,
			  const struct mt_schedule_pair *pair, int which, const double *edge_s)
{
	struct line *lines = calloc((size_t)shape->stages, sizeof *lines);
	struct mt_schedule_shape at = *shape;
	enum mt_status st;
	bool moved = true;

	at.microbatches = pair->microbatches[which];
	if (!lines)
		return mt_fail(MT_NOMEM, "no memory for the clocks of %d stages", at.stages);
	MT_GOTO(out, make_lines(lines, stages, &at, pair->lists[which]));
	while (moved) {
		moved = false;
		for (int s = 0; s < at.stages; s++)
			moved |= advance(lines, &at, s, edge_s);
	}
	for (int s = 0; s < at.stages; s++) {
		if (lines[s].next < lines[s].schedule->count) {
			st = mt_fail(MT_FAILED, "the schedule of %d stages and %lld micro-batches is stuck at stage %d", at.stages,
				     (long long)at.microbatches, s);
			goto out;
		}
		finish(&lines[s], &stages[s]);
	}
out:
	free_lines(lines, at.stages);
	return st;
}

static void extend(double *value, double before, double times)
{
	*value += (*value - before) * times;
}

enum mt_status mt_pipeline_time(struct mt_pipeline_stage *stages, const struct mt_schedule_shape *shape, const double *edge_s,
				struct mt_schedules *schedules)
{
	struct mt_pipeline_stage *before;
	struct mt_schedule_pair pair;
	enum mt_status st;

	MT_TRY(mt_schedules_pair(schedules, shape, &pair));
	if (!pair.lists[1])
		return run(stages, shape, &pair, 0, edge_s);
	before = malloc((size_t)shape->stages * sizeof *before);
	if (!before)
		return mt_fail(MT_NOMEM, "no memory for the clocks of %d stages", shape->stages);
	memcpy(before, stages, (size_t)shape->stages * sizeof *before);
	MT_GOTO(out, run(before, shape, &pair, 1, edge_s));
	MT_GOTO(out, run(stages, shape, &pair, 0, edge_s));
	for (int s = 0; s < shape->stages; s++) {
		double times = (double)pair.times;

		extend(&stages[s].passes_end_s, before[s].passes_end_s, times);
		extend(&stages[s].end_s, before[s].end_s, times);
		extend(&stages[s].dp_wait_s, before[s].dp_wait_s, times);
		extend(&stages[s].dp_total_s, before[s].dp_total_s, times);
		extend(&stages[s].more_compute_s, before[s].more_compute_s, times);
	}
out:
	free(before);
	return st;
}
