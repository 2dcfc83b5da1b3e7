/* stand: see stand.h. */
#include "tuner/stand.h"

#include <stdlib.h>
#include <string.h>

#define RESERVE_BYTES ((size_t)1 << 44) /* addresses: nothing limits it */

/* ---- shelves ---- */

static int64_t aligned(int64_t bytes)
{
	return (bytes + MT_ARENA_ALIGN_BYTES - 1) / MT_ARENA_ALIGN_BYTES * MT_ARENA_ALIGN_BYTES;
}

enum mt_status mt_shelf_put(struct mt_shelf *shelf, int64_t bytes, void **tensor)
{
	if (bytes == 0)
		return MT_OK;
	if (shelf->arena)
		return mt_arena_alloc(shelf->arena, (size_t)bytes, tensor);
	*tensor = (void *)(intptr_t)aligned(bytes);
	shelf->live_bytes += aligned(bytes);
	if (shelf->live_bytes > shelf->peak_bytes)
		shelf->peak_bytes = shelf->live_bytes;
	return MT_OK;
}

void mt_shelf_drop(struct mt_shelf *shelf, void **tensor)
{
	if (shelf->arena)
		mt_arena_free(shelf->arena, *tensor);
	else
		shelf->live_bytes -= (intptr_t)*tensor;
	*tensor = NULL;
}

int64_t mt_shelf_peak_bytes(const struct mt_shelf *shelf)
{
	struct mt_arena_stats stats;

	if (!shelf->arena)
		return shelf->peak_bytes;
	mt_arena_stats(shelf->arena, &stats);
	return (int64_t)stats.peak_bytes;
}

static void move(void **to, void **from)
{
	*to = *from;
	*from = NULL;
}

static enum mt_status play(struct mt_stand *s, const struct mt_tape *tape, void **tensors)
{
	for (int i = 0; i < tape->count; i++) {
		const struct mt_tape_event *e = &tape->events[i];
		struct mt_shelf *shelf = e->logits && s->apart ? &s->logits : &s->activations;

		if (e->bytes > 0)
			MT_TRY(mt_shelf_put(shelf, e->bytes, &tensors[e->tensor]));
		else
			mt_shelf_drop(shelf, &tensors[e->tensor]);
	}
	return MT_OK;
}

/* ---- berths ---- */

/* Of the block in the order embedding (-1), layers, head (layers). */
static void **tensors_of(const struct mt_stand *s, const struct mt_passenger *p, int64_t block)
{
	return p->berth->tensors + (block + 1) * s->stride;
}

static bool offloads(const struct mt_stand *s, const struct mt_pipeline_chunk *chunk, int64_t layer)
{
	return layer >= 0 && layer < chunk->layers && layer < s->stage->offload_layers;
}

static enum mt_status board(struct mt_stand *s, struct mt_passenger *p)
{
	size_t blocks = (size_t)s->layers + 2, pointers = (blocks + (size_t)s->layers) * (size_t)s->stride;

	p->berth = s->spare;
	if (p->berth) {
		s->spare = p->berth->spare;
		memset(p->berth->there, 0, (size_t)s->layers);
		return MT_OK;
	}
	p->berth = calloc(1, sizeof *p->berth + pointers * sizeof(void *) + (size_t)s->layers);
	if (!p->berth)
		return mt_fail(MT_NOMEM, "no memory for the tensors of %lld layers", (long long)s->layers);
	p->berth->next = s->berths;
	s->berths = p->berth;
	p->berth->tensors = (void **)(p->berth + 1);
	p->berth->host = p->berth->tensors + blocks * (size_t)s->stride;
	p->berth->there = (bool *)(p->berth->tensors + pointers);
	return MT_OK;
}

void mt_stand_leave(struct mt_stand *s, struct mt_passenger *p)
{
	p->berth->spare = s->spare;
	s->spare = p->berth;
	p->berth = NULL;
	p->left = true;
}

/* ---- offload ---- */

static enum mt_status start_leaving(struct mt_stand *s, const struct mt_pipeline_chunk *chunk, struct mt_passenger *p,
				    int64_t layer)
{
	const struct mt_tape *copies = &chunk->blocks[layer]->tapes.pass[MT_TAPE_FETCH];

	for (int i = 0; i < copies->count; i++)
		MT_TRY(mt_shelf_put(&s->host, copies->events[i].bytes, &p->berth->host[layer * s->stride + i]));
	return MT_OK;
}

static enum mt_status leave(struct mt_stand *s, const struct mt_pipeline_chunk *chunk, struct mt_passenger *p, int64_t layer)
{
	return play(s, &chunk->blocks[layer]->tapes.pass[MT_TAPE_LEAVE], tensors_of(s, p, layer));
}

static enum mt_status fetch(struct mt_stand *s, const struct mt_pipeline_chunk *chunk, struct mt_passenger *p, int64_t layer)
{
	if (p->berth->there[layer])
		return MT_OK;
	p->berth->there[layer] = true;
	return play(s, &chunk->blocks[layer]->tapes.pass[MT_TAPE_FETCH], tensors_of(s, p, layer));
}

static enum mt_status await(struct mt_stand *s, const struct mt_pipeline_chunk *chunk, struct mt_passenger *p, int64_t layer)
{
	const struct mt_tape *copies = &chunk->blocks[layer]->tapes.pass[MT_TAPE_FETCH];

	MT_TRY(fetch(s, chunk, p, layer));
	for (int i = 0; i < copies->count; i++)
		mt_shelf_drop(&s->host, &p->berth->host[layer * s->stride + i]);
	return MT_OK;
}

/* ---- passes ---- */

static enum mt_status load(struct mt_stand *s, const struct mt_pipeline_chunk *chunk, struct mt_passenger *p)
{
	if (chunk->first)
		MT_TRY(mt_shelf_put(&s->activations, s->card->token_bytes, &p->tokens));
	if (chunk->last)
		MT_TRY(mt_shelf_put(&s->activations, s->card->token_bytes, &p->targets));
	for (int i = 0; i < MT_CARD_DOCUMENTS; i++)
		MT_TRY(mt_shelf_put(&s->activations, s->card->document_bytes[i], &p->documents[i]));
	return MT_OK;
}

static enum mt_status pass(struct mt_stand *s, const struct mt_pipeline_chunk *chunk, struct mt_passenger *p, int64_t block,
			   const struct mt_block_tapes *tapes)
{
	void **tensors = tensors_of(s, p, block);

	move(&tensors[MT_TAPE_INPUT], &p->x);
	MT_TRY(play(s, &tapes->pass[MT_TAPE_FORWARD], tensors));
	if (block < chunk->layers) /* the head hands nothing on */
		move(&p->x, &tensors[tapes->output]);
	return MT_OK;
}

static enum mt_status pass_back(struct mt_stand *s, const struct mt_pipeline_chunk *chunk, struct mt_passenger *p, int64_t block,
				const struct mt_block_tapes *tapes)
{
	void **tensors = tensors_of(s, p, block);

	move(&tensors[MT_TAPE_GRADIENT], &p->gradient);
	MT_TRY(play(s, &tapes->pass[MT_TAPE_BACKWARD], tensors));
	if (block >= 0) /* nor does the embedding */
		move(&p->gradient, &tensors[tapes->gradient]);
	return MT_OK;
}

enum mt_status mt_stand_forward(struct mt_stand *s, const struct mt_pipeline_chunk *chunk, struct mt_passenger *p)
{
	MT_TRY(board(s, p));
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

enum mt_status mt_stand_backward(struct mt_stand *s, const struct mt_pipeline_chunk *chunk, struct mt_passenger *p)
{
	static const int order[MT_CARD_DOCUMENTS] = {0, 2, 1}; /* in which documents are freed */

	if (chunk->last) {
		MT_TRY(pass_back(s, chunk, p, chunk->layers, &s->stage->head->tapes));
		mt_shelf_drop(&s->activations, &p->targets);
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
		mt_shelf_drop(&s->activations, &p->tokens);
	}
	for (int i = 0; i < MT_CARD_DOCUMENTS; i++)
		mt_shelf_drop(&s->activations, &p->documents[order[i]]);
	return MT_OK;
}

enum mt_status mt_stand_wgrad_first(struct mt_stand *s, const struct mt_pipeline_chunk *chunk, struct mt_passenger *p)
{
	int64_t last = chunk->layers - 1;

	if (last < 0)
		return MT_OK;
	p->begun = true;
	return play(s, &chunk->blocks[last]->tapes.pass[MT_TAPE_WGRAD_FIRST], tensors_of(s, p, last));
}

enum mt_status mt_stand_wgrad(struct mt_stand *s, const struct mt_pipeline_chunk *chunk, struct mt_passenger *p)
{
	if (!p->begun)
		MT_TRY(mt_stand_wgrad_first(s, chunk, p));
	for (int64_t i = chunk->layers - 1; i >= 0; i--) {
		if (i < chunk->layers - 1)
			MT_TRY(play(s, &chunk->blocks[i]->tapes.pass[MT_TAPE_WGRAD_FIRST], tensors_of(s, p, i)));
		MT_TRY(play(s, &chunk->blocks[i]->tapes.pass[MT_TAPE_WGRAD], tensors_of(s, p, i)));
	}
	return MT_OK;
}

/* ---- life ---- */

static int64_t most(int64_t a, int64_t b)
{
	return a > b ? a : b;
}

static enum mt_status open_shelf(struct mt_shelf *shelf, const char *name)
{
	return mt_arena_create(&shelf->arena, name, &mt_arena_dry, RESERVE_BYTES);
}

enum mt_status mt_stand_open(struct mt_stand *s, const struct mt_pipeline_stage *stage, int chunks, const struct mt_card *card,
			     bool apart, bool counts)
{
	*s = (struct mt_stand){.stage = stage, .card = card, .apart = apart};
	s->stride = most(stage->embedding->tapes.tensors, stage->head->tapes.tensors);
	for (int c = 0; c < chunks; c++) {
		s->layers = most(s->layers, stage->chunks[c].layers);
		for (int64_t i = 0; i < stage->chunks[c].layers; i++)
			s->stride = most(s->stride, stage->chunks[c].blocks[i]->tapes.tensors);
	}
	if (counts)
		return MT_OK;
	MT_TRY(open_shelf(&s->activations, "activations"));
	if (card->keeps_sizes)
		mt_arena_keep_sizes(s->activations.arena);
	MT_TRY(open_shelf(&s->host, "host"));
	return apart ? open_shelf(&s->logits, "logits") : MT_OK;
}

void mt_stand_close(struct mt_stand *s)
{
	for (struct mt_berth *next; s->berths; s->berths = next) {
		next = s->berths->next;
		free(s->berths);
	}
	mt_arena_destroy(s->activations.arena);
	mt_arena_destroy(s->logits.arena);
	mt_arena_destroy(s->host.arena);
}
