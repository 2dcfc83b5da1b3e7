/* schedule_zero_bubble: ZB-H1 in closed form, ZB-V found by running all stages on one clock with passes of one unit each.
 *
 * H1: stage s runs 1F1B's order, and the weight gradients of a micro-batch s backward passes later than its own. So it holds
 * (stages - 1 - s) + 1 + s micro-batches, and the late ones fill the waits at the end: (stages - 1)(F + B - W) are left of the
 * bubble, a third of 1F1B's. What the weight gradients of a micro-batch need is no smaller than what its forward pass kept (the
 * inputs of its products, and gradients as wide as what is freed), and in passing from the one to the other some of both is there.
 * Two things keep that within 1F1B's first stage. The first stage, to which nothing of this is of use, as nobody waits for the
 * gradient of its inputs, has 1F1B's passes. And on the others one product's weight gradient of the next micro-batch (of a layer,
 * down: the widest input) follows the weight gradients of each, before the forward pass: its place is where the backward pass
 * has its widest gradient. That delays the step by this one product, once, and by nothing where messages take longer than it.
 *
 * V: at each tick a stage that has nothing under way takes the first of these that is ready: a backward pass (others wait for
 * its gradient), the oldest weight gradients if more than a threshold are due, a forward pass as long as it may hold one
 * more, weight gradients. A stage may hold 2 * stages micro-batch chunks whose weight gradients are due; a forward pass of
 * the first chunk leaves room for one of the second, else they would wait for each other. Of two backward passes that of the
 * earlier micro-batch, then of the later chunk, goes first; of two forward passes that of the later chunk. The threshold is
 * the one whose step is shortest; stages - 1 idle ticks are the least, the way of the first micro-batch to the last rank. */
#include "engine/schedule_private.h"

#include <stdlib.h>
#include <string.h>

enum { CHUNKS = MT_SCHEDULE_V_CHUNKS };

/* One stage at work: how many passes of each chunk are done, and those of which weight gradients are due, in order. */
struct worker {
	int64_t forwards[CHUNKS], backwards[CHUNKS];
	int64_t live;          /* forwards done whose weight gradients are due */
	struct mt_action *due; /* owned */
	int64_t due_first, due_count, done;
};

struct simulation {
	const struct mt_schedule_shape *shape;
	int64_t threshold;      /* weight gradients due before a forward pass may go first */
	bool held;              /* it has kept a forward pass back */
	struct worker *workers; /* owned */
	/* owned: passes that each virtual stage had over before this tick */
	int64_t *forwards, *backwards;
};

/* In a V stage s holds the virtual stages s and 2 * stages - 1 - s. */
static int virtual_of(const struct simulation *s, int stage, int chunk)
{
	return chunk == 0 ? stage : CHUNKS * s->shape->stages - 1 - stage;
}

static bool forward_ready(const struct simulation *s, int stage, int chunk)
{
	const struct worker *w = &s->workers[stage];
	int v = virtual_of(s, stage, chunk);
	int64_t limit = (int64_t)s->shape->stages * CHUNKS - (CHUNKS - 1 - chunk);

	return w->forwards[chunk] < s->shape->microbatches && w->live < limit &&
	       (v == 0 || s->forwards[v - 1] > w->forwards[chunk]);
}

static bool backward_ready(const struct simulation *s, int stage, int chunk)
{
	const struct worker *w = &s->workers[stage];
	int v = virtual_of(s, stage, chunk);
	bool last = v == s->shape->stages * CHUNKS - 1;

	return w->backwards[chunk] < w->forwards[chunk] && (last || s->backwards[v + 1] > w->backwards[chunk]);
}

/* The pass that a stage takes at this tick; false: it waits. */
static bool choose(struct simulation *s, int stage, struct mt_action *pass)
{
	const struct worker *w = &s->workers[stage];
	bool held = w->due_count - w->due_first > s->threshold;
	int best = -1;

	for (int chunk = CHUNKS - 1; chunk >= 0; chunk--) {
		if (backward_ready(s, stage, chunk) && (best < 0 || w->backwards[chunk] < w->backwards[best]))
			best = chunk;
	}
	if (best >= 0) {
		*pass = (struct mt_action){MT_BACKWARD, best, w->backwards[best]};
		return true;
	}
	s->held |= held;
	for (int chunk = CHUNKS - 1; chunk >= 0 && !held; chunk--) {
		if (forward_ready(s, stage, chunk)) {
			*pass = (struct mt_action){MT_FORWARD, chunk, w->forwards[chunk]};
			return true;
		}
	}
	if (w->due_first == w->due_count)
		return false;
	*pass = w->due[w->due_first];
	return true;
}

static void take(struct worker *w, struct mt_action pass)
{
	if (pass.kind == MT_FORWARD) {
		w->forwards[pass.chunk]++;
		w->live++;
	} else if (pass.kind == MT_BACKWARD) {
		w->backwards[pass.chunk]++;
		w->due[w->due_count++] = (struct mt_action){MT_WGRAD, pass.chunk, pass.microbatch};
	} else {
		w->due_first++;
		w->live--;
	}
	w->done++;
}

static void publish(struct simulation *s)
{
	for (int i = 0; i < s->shape->stages; i++) {
		for (int chunk = 0; chunk < CHUNKS; chunk++) {
			s->forwards[virtual_of(s, i, chunk)] = s->workers[i].forwards[chunk];
			s->backwards[virtual_of(s, i, chunk)] = s->workers[i].backwards[chunk];
		}
	}
}

static void restart(struct simulation *s, int64_t threshold)
{
	s->threshold = threshold;
	s->held = false;
	for (int i = 0; i < s->shape->stages; i++) {
		struct mt_action *due = s->workers[i].due;

		s->workers[i] = (struct worker){.due = due};
	}
}

/* Stages whose passes are kept, one after the other; NULL: none. */
struct kept {
	struct mt_action *passes;
	int first, stages;
};

/* Runs until every stage is through, in at most `most` ticks; returns them, -1 when stages wait for each other or take more. */
static int64_t simulate(struct simulation *s, int64_t threshold, int64_t most, const struct kept *kept)
{
	int64_t total = 3 * s->shape->microbatches * CHUNKS, ticks = 0;
	int finished = 0;
	bool moved = true;

	restart(s, threshold);
	for (; finished < s->shape->stages && moved && ticks < most; ticks++) {
		moved = false;
		publish(s);
		for (int i = 0; i < s->shape->stages; i++) {
			struct worker *w = &s->workers[i];
			struct mt_action pass;

			if (w->done == total || !choose(s, i, &pass))
				continue;
			if (kept && i >= kept->first && i < kept->first + kept->stages)
				kept->passes[(i - kept->first) * total + w->done] = pass;
			take(w, pass);
			moved = true;
			finished += w->done == total;
		}
	}
	return finished == s->shape->stages ? ticks : -1;
}

/* The passes under the best threshold. Above one that held nothing back all do the same. */
static enum mt_status search(struct simulation *s, const struct kept *kept)
{
	int64_t bound = 3 * s->shape->microbatches * CHUNKS + s->shape->stages - 1, least = INT64_MAX, best = 0;
	bool held = true;

	for (int64_t threshold = 0; threshold <= 2 * s->shape->stages && least > bound && held; threshold++) {
		int64_t ticks = simulate(s, threshold, least, NULL);

		held = s->held;
		if (ticks >= 0 && ticks < least) {
			least = ticks;
			best = threshold;
		}
	}
	if (simulate(s, best, INT64_MAX, kept) < 0)
		return mt_fail(MT_FAILED, "schedule: %d stages wait for each other at %lld micro-batches", s->shape->stages,
			       (long long)s->shape->microbatches);
	return MT_OK;
}

static enum mt_status reserve(struct simulation *s)
{
	size_t stages = (size_t)s->shape->stages, parts = stages * CHUNKS;

	s->workers = calloc(stages, sizeof *s->workers);
	s->forwards = calloc(parts, sizeof *s->forwards);
	s->backwards = calloc(parts, sizeof *s->backwards);
	if (!s->workers || !s->forwards || !s->backwards)
		return mt_fail(MT_NOMEM, "no memory for a schedule of %d stages", s->shape->stages);
	for (size_t i = 0; i < stages; i++) {
		s->workers[i].due = calloc((size_t)s->shape->microbatches * CHUNKS, sizeof(struct mt_action));
		if (!s->workers[i].due)
			return mt_fail(MT_NOMEM, "no memory for a schedule of %d stages", s->shape->stages);
	}
	return MT_OK;
}

enum mt_status mt_passes_zb_v(struct mt_action *passes, const struct mt_schedule_shape *shape, int first, int stages)
{
	struct simulation s = {.shape = shape};
	enum mt_status st;

	if (shape->chunks != CHUNKS)
		return mt_fail(MT_INPUT, "schedule: zb-v has %d chunks a stage, not %d", CHUNKS, shape->chunks);
	st = reserve(&s);
	if (st == MT_OK)
		st = search(&s, &(struct kept){passes, first, stages});
	for (int i = 0; s.workers && i < shape->stages; i++)
		free(s.workers[i].due);
	free(s.workers);
	free(s.forwards);
	free(s.backwards);
	return st;
}

int64_t mt_passes_zb_h1(struct mt_action *passes, const struct mt_schedule_shape *shape, int stage)
{
	int64_t m = shape->microbatches, behind = shape->stages - 1 - stage, warmup = behind < m ? behind : m, count = 0, done = 0,
		begun = 0;

	if (!mt_schedule_puts_off(shape->kind, stage))
		return mt_passes_1f1b(passes, shape, stage);
	for (int64_t k = 0; k < warmup; k++)
		passes[count++] = (struct mt_action){MT_FORWARD, 0, k};
	for (int64_t k = 0; k < m; k++) {
		if (k + warmup < m)
			passes[count++] = (struct mt_action){MT_FORWARD, 0, k + warmup};
		passes[count++] = (struct mt_action){MT_BACKWARD, 0, k};
		if (k >= stage)
			passes[count++] = (struct mt_action){MT_WGRAD, 0, done++};
		if (k >= stage - 1)
			passes[count++] = (struct mt_action){MT_WGRAD_FIRST, 0, begun++};
	}
	for (; done < m; done++) {
		if (begun == done)
			passes[count++] = (struct mt_action){MT_WGRAD_FIRST, 0, begun++};
		passes[count++] = (struct mt_action){MT_WGRAD, 0, done};
	}
	return count;
}
