/* footprint: see footprint.h.
 *
 * The stage's actions are gone through as the engine does (engine/pipeline.c, engine/stage.c, engine/offload.c), but each pass of a
 * block only does what its tapes say with an arena of addresses. So holes between tensors are those of the engine. */
#include "tuner/footprint.h"

#include <stdlib.h>

#define RESERVE_BYTES ((size_t)1 << 44) /* addresses: nothing limits it */

/* A micro-batch on a chunk. */
struct passenger {
	void *x, *gradient; /* between blocks */
	void *tokens, *targets, *documents[MT_CARD_DOCUMENTS];
	void **tensors; /* of the chunk's blocks: embedding, layers, head */
	void **host;    /* of the layers that are offloaded */
	bool *there;    /* by layer: its tensors were asked for */
	bool begun;     /* the first gradient of weights that was put off is made */
};

struct stand {
	const struct mt_pipeline_stage *stage;
	const struct mt_card *card;
	const struct mt_schedule_shape *shape;
	int index;
	int64_t stride;                               /* the most tensors that a block has */
	struct mt_arena *activations, *logits, *host; /* owned; logits may be the activations' */
	struct passenger *passengers;                 /* owned: by chunk, micro-batch */
	void **pointers;                              /* owned: what those point to, as is `flags` */
	bool *flags;
	void **sent[MT_SCHEDULE_LANES]; /* owned: rings of messages on their way */
	int64_t first[MT_SCHEDULE_LANES], count[MT_SCHEDULE_LANES];
};

static struct passenger *passenger_of(const struct stand *s, int chunk, int64_t microbatch)
{
	return &s->passengers[chunk * s->shape->microbatches + microbatch];
}

static enum mt_status take(struct stand *s, int64_t bytes, void **pointer)
{
	return bytes > 0 ? mt_arena_alloc(s->activations, (size_t)bytes, pointer) : MT_OK;
}

static void drop(struct stand *s, void **pointer)
{
	mt_arena_free(s->activations, *pointer);
	*pointer = NULL;
}

static enum mt_status play(struct stand *s, const struct mt_tape *tape, void **tensors)
{
	for (int i = 0; i < tape->count; i++) {
		const struct mt_tape_event *e = &tape->events[i];
		struct mt_arena *arena = e->logits ? s->logits : s->activations;

		if (e->bytes > 0)
			MT_TRY(mt_arena_alloc(arena, (size_t)e->bytes, &tensors[e->tensor]));
		else
			mt_arena_free(arena, tensors[e->tensor]);
	}
	return MT_OK;
}

/* Of the block in the order embedding (-1), layers, head (layers). */
static void **tensors_of(const struct stand *s, const struct passenger *p, int64_t block)
{
	return p->tensors + (block + 1) * s->stride;
}

static bool offloads(const struct stand *s, const struct mt_pipeline_chunk *chunk, int64_t layer)
{
	return layer >= 0 && layer < chunk->layers && layer < s->stage->offload_layers;
}

/* ---- offload ---- */

static enum mt_status start_leaving(struct stand *s, const struct mt_pipeline_chunk *chunk, struct passenger *p, int64_t layer)
{
	const struct mt_tape *copies = &chunk->blocks[layer]->tapes.pass[MT_TAPE_FETCH];

	for (int i = 0; i < copies->count; i++)
		MT_TRY(mt_arena_alloc(s->host, (size_t)copies->events[i].bytes, &p->host[layer * s->stride + i]));
	return MT_OK;
}

static enum mt_status leave(struct stand *s, const struct mt_pipeline_chunk *chunk, struct passenger *p, int64_t layer)
{
	return play(s, &chunk->blocks[layer]->tapes.pass[MT_TAPE_LEAVE], tensors_of(s, p, layer));
}

static enum mt_status fetch(struct stand *s, const struct mt_pipeline_chunk *chunk, struct passenger *p, int64_t layer)
{
	if (p->there[layer])
		return MT_OK;
	p->there[layer] = true;
	return play(s, &chunk->blocks[layer]->tapes.pass[MT_TAPE_FETCH], tensors_of(s, p, layer));
}

static enum mt_status await(struct stand *s, const struct mt_pipeline_chunk *chunk, struct passenger *p, int64_t layer)
{
	const struct mt_tape *copies = &chunk->blocks[layer]->tapes.pass[MT_TAPE_FETCH];

	MT_TRY(fetch(s, chunk, p, layer));
	for (int i = 0; i < copies->count; i++)
		mt_arena_free(s->host, p->host[layer * s->stride + i]);
	return MT_OK;
}

/* ---- passes ---- */

static enum mt_status load(struct stand *s, const struct mt_pipeline_chunk *chunk, struct passenger *p)
{
	if (chunk->first)
		MT_TRY(take(s, s->card->token_bytes, &p->tokens));
	if (chunk->last)
		MT_TRY(take(s, s->card->token_bytes, &p->targets));
	for (int i = 0; i < MT_CARD_DOCUMENTS; i++)
		MT_TRY(take(s, s->card->document_bytes[i], &p->documents[i]));
	return MT_OK;
}

static enum mt_status pass(struct stand *s, const struct mt_pipeline_chunk *chunk, struct passenger *p, int64_t block,
			   const struct mt_block_tapes *tapes)
{
	void **tensors = tensors_of(s, p, block);

	tensors[MT_TAPE_INPUT] = p->x;
	MT_TRY(play(s, &tapes->pass[MT_TAPE_FORWARD], tensors));
	p->x = tensors[tapes->output];
	return MT_OK;
}

static enum mt_status pass_back(struct stand *s, const struct mt_pipeline_chunk *chunk, struct passenger *p, int64_t block,
				const struct mt_block_tapes *tapes)
{
	void **tensors = tensors_of(s, p, block);

	tensors[MT_TAPE_GRADIENT] = p->gradient;
	MT_TRY(play(s, &tapes->pass[MT_TAPE_BACKWARD], tensors));
	p->gradient = tensors[tapes->gradient];
	return MT_OK;
}

static enum mt_status forward(struct stand *s, const struct mt_pipeline_chunk *chunk, struct passenger *p)
{
	MT_TRY(load(s, chunk, p));
	if (chunk->first)
		MT_TRY(pass(s, chunk, p, -1, &s->stage->embedding->tapes));
	for (int64_t i = 0; i < chunk->layers; i++) {
		MT_TRY(pass(s, chunk, p, i, &chunk->blocks[i]->tapes));
		if (offloads(s, chunk, i - 1))
			MT_TRY(leave(s, chunk, p, i - 1));
		if (offloads(s, chunk, i))
			MT_TRY(start_leaving(s, chunk, p, i));
	}
	if (offloads(s, chunk, chunk->layers - 1))
		MT_TRY(leave(s, chunk, p, chunk->layers - 1));
	return chunk->last ? pass(s, chunk, p, chunk->layers, &s->stage->head->tapes) : MT_OK;
}

static enum mt_status backward(struct stand *s, const struct mt_pipeline_chunk *chunk, struct passenger *p)
{
	static const int order[MT_CARD_DOCUMENTS] = {0, 2, 1}; /* in which documents are freed */

	if (chunk->last) {
		MT_TRY(pass_back(s, chunk, p, chunk->layers, &s->stage->head->tapes));
		drop(s, &p->targets);
	}
	for (int64_t i = chunk->layers - 1; i >= 0; i--) {
		if (offloads(s, chunk, i))
			MT_TRY(await(s, chunk, p, i));
		if (offloads(s, chunk, i - 1))
			MT_TRY(fetch(s, chunk, p, i - 1));
		MT_TRY(pass_back(s, chunk, p, i, &chunk->blocks[i]->tapes));
	}
	if (chunk->first) {
		MT_TRY(pass_back(s, chunk, p, -1, &s->stage->embedding->tapes));
		drop(s, &p->tokens);
	}
	for (int i = 0; i < MT_CARD_DOCUMENTS; i++)
		drop(s, &p->documents[order[i]]);
	return MT_OK;
}

static enum mt_status begin_wgrad(struct stand *s, const struct mt_pipeline_chunk *chunk, struct passenger *p)
{
	int64_t last = chunk->layers - 1;

	if (last < 0)
		return MT_OK;
	p->begun = true;
	return play(s, &chunk->blocks[last]->tapes.pass[MT_TAPE_WGRAD_FIRST], tensors_of(s, p, last));
}

static enum mt_status wgrad(struct stand *s, const struct mt_pipeline_chunk *chunk, struct passenger *p)
{
	if (!p->begun)
		MT_TRY(begin_wgrad(s, chunk, p));
	for (int64_t i = chunk->layers - 1; i >= 0; i--) {
		if (i < chunk->layers - 1)
			MT_TRY(play(s, &chunk->blocks[i]->tapes.pass[MT_TAPE_WGRAD_FIRST], tensors_of(s, p, i)));
		MT_TRY(play(s, &chunk->blocks[i]->tapes.pass[MT_TAPE_WGRAD], tensors_of(s, p, i)));
	}
	return MT_OK;
}

/* ---- actions ---- */

/* The same micro-batch on the virtual stage `step` after an action's; NULL when that is another rank's or none. */
static struct passenger *neighbour(const struct stand *s, const struct mt_action *a, int step)
{
	const struct mt_schedule_shape *shape = s->shape;
	int next = mt_schedule_virtual(shape->kind, shape->stages, s->index, a->chunk) + step, stage, chunk;

	if (next < 0 || next >= shape->stages * shape->chunks)
		return NULL;
	mt_schedule_place(shape->kind, shape->stages, next, &stage, &chunk);
	return stage == s->index ? passenger_of(s, chunk, a->microbatch) : NULL;
}

static void send(struct stand *s, const struct mt_action *a, int64_t room, void **buffer)
{
	int lane = mt_schedule_lane(s->shape->kind, a);
	int64_t *first = &s->first[lane], *count = &s->count[lane];

	if (*count == room) {
		drop(s, &s->sent[lane][*first]);
		*first = (*first + 1) % room;
		--*count;
	}
	s->sent[lane][(*first + (*count)++) % room] = *buffer;
	*buffer = NULL;
}

/* At the tip of a V the next virtual stage is here. */
static void hand_on(void **from, struct passenger *to, void **into)
{
	if (!to)
		return;
	*into = *from;
	*from = NULL;
}

static enum mt_status run(struct stand *s, const struct mt_action *a, int64_t room)
{
	const struct mt_pipeline_chunk *chunk = &s->stage->chunks[a->chunk];
	struct passenger *p = passenger_of(s, a->chunk, a->microbatch), *next;

	switch (a->kind) {
	case MT_RECV_FORWARD:
		return take(s, s->card->edge_bytes, &p->x);
	case MT_RECV_BACKWARD:
		return take(s, s->card->edge_bytes, &p->gradient);
	case MT_SEND_FORWARD:
		send(s, a, room, &p->x);
		return MT_OK;
	case MT_SEND_BACKWARD:
		send(s, a, room, &p->gradient);
		return MT_OK;
	case MT_FORWARD:
		next = neighbour(s, a, 1);
		MT_TRY(forward(s, chunk, p));
		hand_on(&p->x, next, next ? &next->x : NULL);
		return MT_OK;
	case MT_BACKWARD:
		next = neighbour(s, a, -1);
		MT_TRY(backward(s, chunk, p));
		hand_on(&p->gradient, next, next ? &next->gradient : NULL);
		return MT_OK;
	case MT_WGRAD_FIRST:
		return begin_wgrad(s, chunk, p);
	case MT_WGRAD:
		return wgrad(s, chunk, p);
	}
	return mt_fail(MT_FAILED, "schedule: unknown action %d", (int)a->kind);
}

/* ---- life ---- */

static int64_t most(int64_t a, int64_t b)
{
	return a > b ? a : b;
}

/* Places for all tensors of all micro-batches. */
static enum mt_status make_passengers(struct stand *s)
{
	const struct mt_pipeline_stage *stage = s->stage;
	int64_t layers = 0, flights = s->shape->chunks * s->shape->microbatches;

	s->stride = most(stage->embedding->tapes.tensors, stage->head->tapes.tensors);
	for (int c = 0; c < s->shape->chunks; c++) {
		layers = most(layers, stage->chunks[c].layers);
		for (int64_t i = 0; i < stage->chunks[c].layers; i++)
			s->stride = most(s->stride, stage->chunks[c].blocks[i]->tapes.tensors);
	}
	int64_t each = (layers + 2) * s->stride,
		away = (stage->offload_layers < layers ? stage->offload_layers : layers) * s->stride;

	s->passengers = calloc((size_t)flights, sizeof *s->passengers);
	s->pointers = calloc((size_t)(flights * (each + away)), sizeof *s->pointers);
	s->flags = calloc((size_t)(flights * layers) + 1, sizeof *s->flags);
	if (!s->passengers || !s->pointers || !s->flags)
		return mt_fail(MT_NOMEM, "no memory for the tensors of %lld micro-batches", (long long)flights);
	for (int64_t i = 0; i < flights; i++)
		s->passengers[i] = (struct passenger){.tensors = s->pointers + i * (each + away),
						      .host = s->pointers + i * (each + away) + each,
						      .there = s->flags + i * layers};
	return MT_OK;
}

static enum mt_status open_stand(struct stand *s, bool apart)
{
	MT_TRY(mt_arena_create(&s->activations, "activations", &mt_arena_dry, RESERVE_BYTES));
	if (s->card->keeps_sizes)
		mt_arena_keep_sizes(s->activations);
	MT_TRY(mt_arena_create(&s->host, "host", &mt_arena_dry, RESERVE_BYTES));
	if (apart)
		MT_TRY(mt_arena_create(&s->logits, "logits", &mt_arena_dry, RESERVE_BYTES));
	else
		s->logits = s->activations;
	return make_passengers(s);
}

static void close_stand(struct stand *s)
{
	for (int lane = 0; lane < MT_SCHEDULE_LANES; lane++)
		free(s->sent[lane]);
	free(s->flags);
	free(s->pointers);
	free(s->passengers);
	if (s->logits != s->activations)
		mt_arena_destroy(s->logits);
	mt_arena_destroy(s->host);
	mt_arena_destroy(s->activations);
}

static enum mt_status run_all(struct stand *s)
{
	struct mt_action_list list;
	enum mt_status st = MT_OK;

	MT_TRY(mt_schedule_create(&list, s->shape, s->index));
	for (int lane = 0; lane < MT_SCHEDULE_LANES && st == MT_OK; lane++) {
		s->sent[lane] = calloc((size_t)list.sends + 1, sizeof *s->sent[lane]);
		st = s->sent[lane] ? MT_OK : mt_fail(MT_NOMEM, "no memory for %lld messages", (long long)list.sends);
	}
	for (int64_t i = 0; i < list.count && st == MT_OK; i++)
		st = run(s, &list.actions[i], list.sends);
	mt_schedule_free(&list);
	return st;
}

static int64_t peak_of(const struct mt_arena *arena)
{
	struct mt_arena_stats stats;

	mt_arena_stats(arena, &stats);
	return (int64_t)stats.peak_bytes;
}

enum mt_status mt_footprint_find(struct mt_footprint *footprint, const struct mt_pipeline_stage *stage, const struct mt_card *card,
				 const struct mt_schedule_shape *shape, int index, bool apart)
{
	struct mt_schedule_shape few = mt_schedule_settled(shape, 1);
	struct stand s = {.stage = stage, .card = card, .shape = &few, .index = index};
	enum mt_status st;

	*footprint = (struct mt_footprint){0};
	MT_GOTO(out, open_stand(&s, apart));
	MT_GOTO(out, run_all(&s));
	footprint->activation_bytes = peak_of(s.activations);
	footprint->logits_bytes = apart ? peak_of(s.logits) : 0;
	footprint->host_bytes = peak_of(s.host);
out:
	close_stand(&s);
	return st;
}
