/* footprint: see footprint.h.
 *
 * The stage's actions are gone through as the engine does (engine/pipeline.c), tensors at addresses of arenas. In the middle of a
 * step the stage does the same for each group of micro-batches, but holes among tensors may move on from one to the next, for many
 * of them. So what is live, and where, is compared with how it was after every earlier group: when it is the same again, and the
 * actions that come repeat those since then for micro-batches so many later, nothing new can happen as long as they do, and they
 * are passed over. */
#include "tuner/footprint.h"

#include "tuner/stand.h"

#include <stdlib.h>

/* How the memory was after a group of micro-batches. */
struct look {
	uint64_t sum;
	int64_t action, microbatch; /* the next action; the last micro-batch of the group */
};

struct journey {
	struct mt_stand stand;
	const struct mt_footprint_query *query;
	const struct mt_action_list *list;
	struct mt_passenger *passengers; /* owned: by chunk, micro-batch */
	int64_t skipped;                 /* micro-batches that were passed over: later ones have the places of earlier ones */
	int64_t *begun, *over;           /* owned, by chunk: places that were taken; the first that is not over */
	void **sent[MT_SCHEDULE_LANES];  /* owned: rings of messages on their way */
	int64_t first[MT_SCHEDULE_LANES], count[MT_SCHEDULE_LANES];
	struct look *looks; /* owned */
	int64_t look_count;
};

static int64_t place_of(const struct journey *j, int64_t microbatch)
{
	return microbatch - j->skipped;
}

static struct mt_passenger *passenger_of(const struct journey *j, int chunk, int64_t microbatch)
{
	return &j->passengers[chunk * j->query->shape->microbatches + place_of(j, microbatch)];
}

/* ---- actions ---- */

/* The same micro-batch on the virtual stage `step` after an action's; NULL when that is another rank's or none. */
static struct mt_passenger *neighbour(const struct journey *j, const struct mt_action *a, int step)
{
	const struct mt_schedule_shape *shape = j->query->shape;
	int next = mt_schedule_virtual(shape->kind, shape->stages, j->query->index, a->chunk) + step, stage, chunk;

	if (next < 0 || next >= shape->stages * shape->chunks)
		return NULL;
	mt_schedule_place(shape->kind, shape->stages, next, &stage, &chunk);
	return stage == j->query->index ? passenger_of(j, chunk, a->microbatch) : NULL;
}

static void send(struct journey *j, const struct mt_action *a, void **buffer)
{
	int lane = mt_schedule_lane(j->query->shape->kind, a);
	int64_t *first = &j->first[lane], *count = &j->count[lane], room = j->list->sends;

	if (*count == room) {
		mt_shelf_drop(&j->stand.activations, &j->sent[lane][*first]);
		*first = (*first + 1) % room;
		--*count;
	}
	j->sent[lane][(*first + (*count)++) % room] = *buffer;
	*buffer = NULL;
}

/* At the tip of a V the next virtual stage is here. */
static void hand_on(void **from, struct mt_passenger *to, void **into)
{
	if (!to)
		return;
	*into = *from;
	*from = NULL;
}

static enum mt_status run(struct journey *j, const struct mt_action *a)
{
	const struct mt_pipeline_chunk *chunk = &j->query->stage->chunks[a->chunk];
	struct mt_passenger *p = passenger_of(j, a->chunk, a->microbatch), *next;
	struct mt_shelf *shelf = &j->stand.activations;

	if (place_of(j, a->microbatch) >= j->begun[a->chunk])
		j->begun[a->chunk] = place_of(j, a->microbatch) + 1;
	switch (a->kind) {
	case MT_RECV_FORWARD:
		return mt_shelf_put(shelf, j->query->card->edge_bytes, &p->x);
	case MT_RECV_BACKWARD:
		return mt_shelf_put(shelf, j->query->card->edge_bytes, &p->gradient);
	case MT_SEND_FORWARD:
		send(j, a, &p->x);
		return MT_OK;
	case MT_SEND_BACKWARD:
		send(j, a, &p->gradient);
		return MT_OK;
	case MT_FORWARD:
		next = neighbour(j, a, 1);
		MT_TRY(mt_stand_forward(&j->stand, chunk, p));
		hand_on(&p->x, next, next ? &next->x : NULL);
		return MT_OK;
	case MT_BACKWARD:
		next = neighbour(j, a, -1);
		MT_TRY(mt_stand_backward(&j->stand, chunk, p));
		hand_on(&p->gradient, next, next ? &next->gradient : NULL);
		return MT_OK;
	case MT_WGRAD_FIRST:
		return mt_stand_wgrad_first(&j->stand, chunk, p);
	case MT_WGRAD:
		return mt_stand_wgrad(&j->stand, chunk, p);
	}
	return mt_fail(MT_FAILED, "schedule: unknown action %d", (int)a->kind);
}

/* Whether an action is the last that a micro-batch has on its chunk, but for messages. */
static bool ends(const struct journey *j, const struct mt_action *a)
{
	return a->kind == (mt_schedule_puts_off(j->query->shape->kind, j->query->index) ? MT_WGRAD : MT_BACKWARD);
}

/* ---- what repeats ---- */

static void mix(uint64_t *sum, uint64_t value)
{
	*sum = (*sum ^ value) * 0x9e3779b97f4a7c15u;
	*sum ^= *sum >> 29;
}

static void mix_tensor(uint64_t *sum, uint64_t place, const void *tensor)
{
	if (!tensor)
		return;
	mix(sum, place);
	mix(sum, (uint64_t)(uintptr_t)tensor);
}

static void mix_passenger(uint64_t *sum, const struct mt_stand *stand, const struct mt_passenger *p)
{
	void *const ends[] = {p->x, p->gradient, p->tokens, p->targets, p->documents[0], p->documents[1], p->documents[2]};
	int64_t pointers = p->berth ? (2 * stand->layers + 2) * stand->stride : 0;

	mix(sum, p->begun);
	for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
		mix_tensor(sum, i, ends[i]);
	for (int64_t i = 0; i < pointers; i++) /* those in host memory lie behind the others */
		mix_tensor(sum, 16 + (uint64_t)i, p->berth->tensors[i]);
}

/* Of all tensors, by where they lie and whose they are; and of the peaks: as long as they stay, so do the ranges that an arena
 * which keeps sizes has made. */
static uint64_t look_at(const struct journey *j, int64_t microbatch)
{
	int64_t base = place_of(j, microbatch);
	uint64_t sum = 1;

	mix(&sum, (uint64_t)mt_shelf_peak_bytes(&j->stand.activations));
	mix(&sum, (uint64_t)mt_shelf_peak_bytes(&j->stand.host));
	mix(&sum, j->query->apart ? (uint64_t)mt_shelf_peak_bytes(&j->stand.logits) : 0);
	for (int c = 0; c < j->query->shape->chunks; c++) {
		for (int64_t k = j->over[c]; k < j->begun[c]; k++) {
			mix(&sum, (uint64_t)(k - base));
			mix_passenger(&sum, &j->stand, &j->passengers[c * j->query->shape->microbatches + k]);
		}
	}
	for (int lane = 0; lane < MT_SCHEDULE_LANES; lane++) {
		for (int64_t i = 0; i < j->count[lane]; i++)
			mix_tensor(&sum, (uint64_t)lane, j->sent[lane][(j->first[lane] + i) % j->list->sends]);
	}
	return sum;
}

/* How many actions from `at` on are those of `period` before, each for a micro-batch `shift` later. */
static int64_t repeated(const struct mt_action_list *list, int64_t at, int64_t period, int64_t shift)
{
	int64_t count = 0;

	for (; at + count < list->count; count++) {
		const struct mt_action *a = &list->actions[at + count], *before = a - period;

		if (a->kind != before->kind || a->chunk != before->chunk || a->microbatch != before->microbatch + shift)
			break;
	}
	return count;
}

/* After a group of micro-batches: passes over what repeats. `next`: the next action. */
static void pass_over(struct journey *j, int64_t microbatch, int64_t *next)
{
	uint64_t sum = look_at(j, microbatch);

	for (int64_t i = j->look_count - 1; i >= 0; i--) {
		int64_t period = *next - j->looks[i].action, shift = microbatch - j->looks[i].microbatch, times;

		if (j->looks[i].sum != sum)
			continue;
		times = repeated(j->list, *next, period, shift) / period;
		*next += times * period;
		j->skipped += times * shift;
		break;
	}
	j->looks[j->look_count++] = (struct look){sum, *next, microbatch};
}

static enum mt_status run_all(struct journey *j)
{
	const struct mt_schedule_shape *shape = j->query->shape;
	int64_t group = shape->kind != MT_SCHEDULE_1F1B || shape->chunks == 1 ? 1 : shape->group > 0 ? shape->group : shape->stages;

	for (int64_t i = 0; i < j->list->count;) {
		const struct mt_action *a = &j->list->actions[i++];

		MT_TRY(run(j, a));
		if (!ends(j, a))
			continue;
		mt_stand_leave(&j->stand, passenger_of(j, a->chunk, a->microbatch));
		while (j->over[a->chunk] < j->begun[a->chunk] &&
		       j->passengers[a->chunk * shape->microbatches + j->over[a->chunk]].left)
			j->over[a->chunk]++;
		if (a->chunk == 0 && (a->microbatch + 1) % group == 0)
			pass_over(j, a->microbatch, &i);
	}
	return MT_OK;
}

/* ---- life ---- */

static enum mt_status set_out(struct journey *j)
{
	const struct mt_schedule_shape *shape = j->query->shape;
	size_t chunks = (size_t)shape->chunks, microbatches = (size_t)shape->microbatches;
	bool all;

	j->passengers = calloc(chunks * microbatches, sizeof *j->passengers);
	j->begun = calloc(chunks, sizeof *j->begun);
	j->over = calloc(chunks, sizeof *j->over);
	j->looks = calloc(microbatches, sizeof *j->looks);
	all = j->passengers && j->begun && j->over && j->looks;
	for (int lane = 0; lane < MT_SCHEDULE_LANES; lane++) {
		j->sent[lane] = calloc((size_t)j->list->sends + 1, sizeof *j->sent[lane]);
		all = all && j->sent[lane];
	}
	if (!all)
		return mt_fail(MT_NOMEM, "no memory for the tensors of %zu micro-batches", microbatches);
	return mt_stand_open(&j->stand, j->query->stage, shape->chunks, j->query->card, j->query->apart, false);
}

static void settle_down(struct journey *j)
{
	mt_stand_close(&j->stand);
	for (int lane = 0; lane < MT_SCHEDULE_LANES; lane++)
		free(j->sent[lane]);
	free(j->looks);
	free(j->over);
	free(j->begun);
	free(j->passengers);
}

enum mt_status mt_footprint_find(struct mt_footprint *footprint, const struct mt_footprint_query *query,
				 const struct mt_action_list *actions)
{
	struct journey j = {.query = query, .list = actions};
	enum mt_status st;

	*footprint = (struct mt_footprint){0};
	MT_GOTO(out, set_out(&j));
	MT_GOTO(out, run_all(&j));
	footprint->activation_bytes = mt_shelf_peak_bytes(&j.stand.activations);
	footprint->logits_bytes = query->apart ? mt_shelf_peak_bytes(&j.stand.logits) : 0;
	footprint->host_bytes = mt_shelf_peak_bytes(&j.stand.host);
out:
	settle_down(&j);
	return st;
}
