/* pipeline: the engine's schedule on virtual clocks, with a number for each pass in place of its kernels.
 *
 * A stage runs its actions in order; a receive is on its way from when both it is posted and its message is sent, after the
 * one before it; a send begins when the one before it is over. So stages are run in turn, each until it needs a message that
 * is not sent yet: every action is done once, in p*m steps.
 *
 * Beyond a few times p micro-batches the steps repeat: each micro-batch more costs what the last p took on average. */
#include "tuner/pipeline.h"

#include "engine/schedule.h"

#include <stdlib.h>
#include <string.h>

enum { FORWARD, BACKWARD };

/* A stage's clocks, and what is said of its messages by direction and micro-batch. */
struct clocks {
	struct mt_action_list schedule;
	int64_t next;
	double now_s, last_pass_s;
	double sending_s[2], receiving_s[2]; /* end of the latest message */
	double *posted_s[2];                 /* owned: when the receive was posted */
	double *sent_s[2];                   /* owned: when the send began, -1: not yet */
};

static double later(double a, double b)
{
	return a > b ? a : b;
}

static void free_clocks(struct clocks *clocks, int count)
{
	for (int s = 0; clocks && s < count; s++) {
		mt_schedule_free(&clocks[s].schedule);
		for (int d = 0; d < 2; d++) {
			free(clocks[s].posted_s[d]);
			free(clocks[s].sent_s[d]);
		}
	}
	free(clocks);
}

static enum mt_status make_clocks(struct clocks *clocks, const struct mt_pipeline_stage *stages, int count, int64_t microbatches)
{
	for (int s = 0; s < count; s++) {
		struct clocks *c = &clocks[s];

		struct mt_schedule_shape shape = {MT_SCHEDULE_1F1B, count, 1, microbatches, 0};

		MT_TRY(mt_schedule_create(&c->schedule, &shape, s));
		c->now_s = stages[s].start_s;
		for (int d = 0; d < 2; d++) {
			c->posted_s[d] = calloc((size_t)microbatches, sizeof(double));
			c->sent_s[d] = calloc((size_t)microbatches, sizeof(double));
			if (!c->posted_s[d] || !c->sent_s[d])
				return mt_fail(MT_NOMEM, "no memory for the clocks of %lld micro-batches", (long long)microbatches);
			for (int64_t k = 0; k < microbatches; k++)
				c->sent_s[d][k] = -1;
		}
	}
	return MT_OK;
}

/* The stage waits for the message of a pass; false when it is not sent yet. `from` NULL: the pass needs none. */
static bool arrive(struct clocks *c, const struct clocks *from, int direction, int64_t k, double edge_s)
{
	if (!from)
		return true;
	if (from->sent_s[direction][k] < 0)
		return false;
	c->receiving_s[direction] =
		later(later(c->posted_s[direction][k], from->sent_s[direction][k]), c->receiving_s[direction]) + edge_s;
	c->now_s = later(c->now_s, c->receiving_s[direction]);
	return true;
}

static void send(struct clocks *c, int direction, int64_t k, double edge_s)
{
	c->now_s = later(c->now_s, c->sending_s[direction]);
	c->sent_s[direction][k] = c->now_s;
	c->sending_s[direction] = c->now_s + edge_s;
}

/* Runs stage s until it blocks; returns whether it moved. */
static bool advance(struct clocks *all, const struct mt_pipeline_stage *stages, int count, int s, int64_t microbatches,
		    double edge_s)
{
	struct clocks *c = &all[s];
	int64_t began = c->next;

	for (; c->next < c->schedule.count; c->next++) {
		int64_t k = c->schedule.actions[c->next].microbatch;

		switch (c->schedule.actions[c->next].kind) {
		case MT_RECV_FORWARD:
			c->posted_s[FORWARD][k] = c->now_s;
			break;
		case MT_RECV_BACKWARD:
			c->posted_s[BACKWARD][k] = c->now_s;
			break;
		case MT_SEND_FORWARD:
			send(c, FORWARD, k, edge_s);
			break;
		case MT_SEND_BACKWARD:
			send(c, BACKWARD, k, edge_s);
			break;
		case MT_FORWARD:
			if (!arrive(c, s > 0 ? &all[s - 1] : NULL, FORWARD, k, edge_s))
				return c->next > began;
			c->now_s += stages[s].forward_s;
			break;
		case MT_BACKWARD:
			if (!arrive(c, s < count - 1 ? &all[s + 1] : NULL, BACKWARD, k, edge_s))
				return c->next > began;
			c->now_s += stages[s].backward_s + (k == microbatches - 1 ? stages[s].last_extra_s : 0);
			c->last_pass_s = c->now_s;
			break;
		case MT_WGRAD: /* not in 1F1B */
			break;
		}
	}
	return c->next > began;
}

static enum mt_status run(struct mt_pipeline_stage *stages, int count, int64_t microbatches, double edge_s)
{
	struct clocks *clocks = calloc((size_t)count, sizeof *clocks);
	enum mt_status st;
	bool moved = true;

	if (!clocks)
		return mt_fail(MT_NOMEM, "no memory for the clocks of %d stages", count);
	MT_GOTO(out, make_clocks(clocks, stages, count, microbatches));
	while (moved) {
		moved = false;
		for (int s = 0; s < count; s++)
			moved |= advance(clocks, stages, count, s, microbatches, edge_s);
	}
	for (int s = 0; s < count; s++) {
		const struct clocks *c = &clocks[s];

		if (c->next < c->schedule.count) {
			st = mt_fail(MT_FAILED, "the schedule of %d stages and %lld micro-batches is stuck at stage %d", count,
				     (long long)microbatches, s);
			goto out;
		}
		stages[s].passes_end_s = c->last_pass_s;
		stages[s].end_s = later(c->now_s, later(c->sending_s[FORWARD], c->sending_s[BACKWARD]));
	}
out:
	free_clocks(clocks, count);
	return st;
}

enum mt_status mt_pipeline_time(struct mt_pipeline_stage *stages, int count, int64_t microbatches, double edge_s)
{
	int64_t settled = 6 * (int64_t)count;
	struct mt_pipeline_stage *before;
	enum mt_status st;

	if (count == 1) {
		double pass_s = stages[0].forward_s + stages[0].backward_s;

		stages[0].passes_end_s = stages[0].end_s =
			stages[0].start_s + (double)microbatches * pass_s + stages[0].last_extra_s;
		return MT_OK;
	}
	if (microbatches <= settled)
		return run(stages, count, microbatches, edge_s);
	before = malloc((size_t)count * sizeof *before);
	if (!before)
		return mt_fail(MT_NOMEM, "no memory for the clocks of %d stages", count);
	memcpy(before, stages, (size_t)count * sizeof *before);
	MT_GOTO(out, run(before, count, settled - count, edge_s));
	MT_GOTO(out, run(stages, count, settled, edge_s));
	for (int s = 0; s < count; s++) {
		double more_s = (stages[s].passes_end_s - before[s].passes_end_s) / count * (double)(microbatches - settled);

		stages[s].passes_end_s += more_s;
		stages[s].end_s += more_s;
	}
out:
	free(before);
	return st;
}
