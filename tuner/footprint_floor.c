/* footprint_floor: see footprint.h. The passes of a chunk are done once, tensors only counted: how far each rises above what was
 * there, and what it leaves. Along the actions these are only added. */
#include "tuner/footprint.h"

#include "tuner/stand.h"

#include <stdlib.h>

enum { ACTIVATIONS, LOGITS, HOST, SHELVES };
enum { FORWARD, BACKWARD, WGRAD_FIRST, WGRAD, PASSES };

struct swing {
	int64_t most_bytes, left_bytes; /* against before the pass */
};

struct chunk_swings {
	struct swing pass[PASSES][SHELVES];
};

struct tally {
	int64_t live_bytes[SHELVES], peak_bytes[SHELVES];
};

/* What a pass did, from its own peak on; the shelves then are as if they were empty. */
static void note(struct mt_stand *stand, struct swing swings[SHELVES])
{
	struct mt_shelf *const shelves[SHELVES] = {&stand->activations, &stand->logits, &stand->host};

	for (int i = 0; i < SHELVES; i++) {
		swings[i] = (struct swing){shelves[i]->peak_bytes, shelves[i]->live_bytes};
		shelves[i]->live_bytes = shelves[i]->peak_bytes = 0;
	}
}

/* A micro-batch goes through all passes of a chunk. What comes from other stages was there before. */
static enum mt_status swing_chunk(struct chunk_swings *swings, struct mt_stand *stand, const struct mt_pipeline_chunk *chunk,
				  const struct mt_footprint_query *query)
{
	struct mt_passenger p = {0};
	struct mt_shelf others = {0};

	if (!chunk->first)
		MT_TRY(mt_shelf_put(&others, query->card->edge_bytes, &p.x));
	MT_TRY(mt_stand_forward(stand, chunk, &p));
	note(stand, swings->pass[FORWARD]);
	p.x = p.gradient = NULL;
	if (!chunk->last)
		MT_TRY(mt_shelf_put(&others, query->card->edge_bytes, &p.gradient));
	MT_TRY(mt_stand_backward(stand, chunk, &p));
	note(stand, swings->pass[BACKWARD]);
	if (mt_schedule_puts_off(query->shape->kind, query->index)) {
		if (query->shape->kind == MT_SCHEDULE_ZB_H1)
			MT_TRY(mt_stand_wgrad_first(stand, chunk, &p));
		note(stand, swings->pass[WGRAD_FIRST]);
		MT_TRY(mt_stand_wgrad(stand, chunk, &p));
		note(stand, swings->pass[WGRAD]);
	}
	mt_stand_leave(stand, &p);
	return MT_OK;
}

static void swing(struct tally *t, const struct swing swings[SHELVES])
{
	for (int i = 0; i < SHELVES; i++) {
		if (t->live_bytes[i] + swings[i].most_bytes > t->peak_bytes[i])
			t->peak_bytes[i] = t->live_bytes[i] + swings[i].most_bytes;
		t->live_bytes[i] += swings[i].left_bytes;
	}
}

static void add_up(struct tally *t, const struct mt_footprint_query *query, const struct mt_action_list *list,
		   const struct chunk_swings *chunks)
{
	int64_t edge = (query->card->edge_bytes + MT_ARENA_ALIGN_BYTES - 1) / MT_ARENA_ALIGN_BYTES * MT_ARENA_ALIGN_BYTES;
	const struct swing comes[SHELVES] = {{edge, edge}}, goes[SHELVES] = {{0, -edge}};
	int64_t under_way[MT_SCHEDULE_LANES] = {0};

	for (int64_t i = 0; i < list->count; i++) {
		const struct mt_action *a = &list->actions[i];
		const struct chunk_swings *c = &chunks[a->chunk];
		int lane;

		switch (a->kind) {
		case MT_RECV_FORWARD:
		case MT_RECV_BACKWARD:
			swing(t, comes);
			break;
		case MT_SEND_FORWARD:
		case MT_SEND_BACKWARD:
			lane = mt_schedule_lane(query->shape->kind, a);
			if (under_way[lane] == list->sends)
				swing(t, goes);
			else
				under_way[lane]++;
			break;
		case MT_FORWARD:
			swing(t, c->pass[FORWARD]);
			break;
		case MT_BACKWARD:
			swing(t, c->pass[BACKWARD]);
			break;
		case MT_WGRAD_FIRST:
			swing(t, c->pass[WGRAD_FIRST]);
			break;
		case MT_WGRAD:
			swing(t, c->pass[WGRAD]);
			break;
		}
	}
}

enum mt_status mt_footprint_floor(struct mt_footprint *footprint, const struct mt_footprint_query *query,
				  const struct mt_action_list *actions)
{
	struct chunk_swings *chunks = calloc((size_t)query->shape->chunks, sizeof *chunks);
	struct mt_stand stand = {0};
	struct tally t = {0};
	enum mt_status st;

	*footprint = (struct mt_footprint){0};
	if (!chunks)
		MT_GOTO(out, mt_fail(MT_NOMEM, "no memory for %d chunks", query->shape->chunks));
	MT_GOTO(out, mt_stand_open(&stand, query->stage, query->shape->chunks, query->card, query->apart, true));
	for (int c = 0; c < query->shape->chunks; c++)
		MT_GOTO(out, swing_chunk(&chunks[c], &stand, &query->stage->chunks[c], query));
	add_up(&t, query, actions, chunks);
	*footprint = (struct mt_footprint){t.peak_bytes[ACTIVATIONS], t.peak_bytes[LOGITS], t.peak_bytes[HOST]};
out:
	mt_stand_close(&stand);
	free(chunks);
	return st;
}
