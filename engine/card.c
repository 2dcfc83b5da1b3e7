/* card: see card.h. */
#include "engine/card.h"

#include "engine/context.h"
#include "engine/internal.h"

#include <stdlib.h>
#include <string.h>

struct bench {
	struct mt_run run; /* shallow copy: strings are borrowed */
	struct mt_device *device;
	struct mt_fabric *fabric;
	struct mt_dry_world *world;
	struct mt_engine *engine;
	int64_t first[MT_CARD_KINDS]; /* layer of each kind */
	int kinds[MT_CARD_KINDS], kind_count;
	bool splits; /* gradients of weights are put off */
	struct mt_recorder recorder;
	struct mt_taped *taped; /* owned: of each kind of layer, then embedding and head */
	/* at the last lap */
	double last_s;
	int64_t last_bytes;
};

enum { EMBEDDING = MT_CARD_KINDS, HEAD, BLOCKS };

static void close_bench(struct bench *b)
{
	mt_engine_destroy(b->engine);
	mt_fabric_destroy(b->fabric);
	mt_dry_world_destroy(b->world);
	mt_device_destroy(b->device);
	free(b->taped);
}

static bool in_8_bits(const struct mt_run *run, int64_t layer)
{
	const struct mt_layout *l = &run->layout;

	return l->fp8 != MT_FP8_NONE && layer >= l->fp8_skip_first && layer < run->model.layers - l->fp8_skip_last;
}

int mt_card_kind(const struct mt_run *run, int64_t layer)
{
	return mt_model_layer_has_experts(&run->model, layer) + 2 * (mt_model_window(&run->model, layer) > 0) +
	       4 * in_8_bits(run, layer);
}

/* The first layer of each kind, in order; -1: there is none. Returns how many. */
static int find_kinds(const struct mt_run *run, int64_t first[MT_CARD_KINDS], int kinds[MT_CARD_KINDS])
{
	int count = 0;

	for (int kind = 0; kind < MT_CARD_KINDS; kind++)
		first[kind] = -1;
	for (int64_t i = 0; i < run->model.layers; i++) {
		int kind = mt_card_kind(run, i);

		if (first[kind] < 0) {
			first[kind] = i;
			kinds[count++] = kind;
		}
	}
	return count;
}

/* An engine of one stage and one micro-batch on the dry device; of the model's layers as many as have every kind. */
static enum mt_status open_bench(struct bench *b, const struct mt_run *run, struct mt_cost_source ops,
				 struct mt_comm_cost_source comms)
{
	struct mt_device_config device = {.kind = "dry", .cost = ops};
	struct mt_fabric_config fabric = {.kind = "dry", .cost = comms};
	struct mt_engine_config config = {.run = &b->run};
	struct mt_layout *l = &b->run.layout;
	int64_t layers = 1;

	b->run = *run;
	b->kind_count = find_kinds(run, b->first, b->kinds);
	for (int kind = 0; kind < MT_CARD_KINDS; kind++)
		layers = b->first[kind] >= layers ? b->first[kind] + 1 : layers;
	if (run->layout.fp8_skip_last == 0)
		b->run.model.layers = layers;
	b->splits = mt_schedule_splits((enum mt_schedule)l->schedule);
	l->pp = l->vp = 1;
	l->schedule = MT_SCHEDULE_1F1B;
	l->vp_group = l->first_layers = l->last_layers = l->zero = l->zero_group = 0;
	l->recompute_layers = l->recompute_stages = l->offload_layers = 0;
	l->stage_layers[0] = '\0';
	l->reduce_dtype = MT_F32;
	/* Experts are spread over the data-parallel ranks. */
	l->dp = run->model.experts > 0 ? run->layout.dp : 1;
	l->gbs = l->mbs * l->dp;
	fabric.size = (int)mt_layout_world(l);
	MT_TRY(mt_dry_world_create(&b->world, fabric.size));
	fabric.dry_world = b->world;
	MT_TRY(mt_device_create(&b->device, &device));
	MT_TRY(mt_fabric_create(&b->fabric, &fabric));
	config.device = b->device;
	config.fabric = b->fabric;
	MT_TRY(mt_engine_create(&b->engine, &config));
	/* Told apart from other activations, wherever a layout has them. */
	b->engine->logits_arena = ARENA_WORKSPACE;
	b->taped = calloc(BLOCKS, sizeof *b->taped);
	if (!b->taped)
		return mt_fail(MT_NOMEM, "no memory for the tapes of a card");
	return b->splits ? mt_wgrads_create(&b->engine->flights[0].wgrads, b->run.model.layers) : MT_OK;
}

static int64_t live_bytes(const struct mt_engine *e)
{
	struct mt_arena_stats stats;

	mt_arena_stats(e->arenas[ARENA_ACTIVATIONS], &stats);
	return (int64_t)stats.live_bytes;
}

/* What a block's pass took and left since the last lap. */
static void lap(struct bench *b, double *seconds, double *tp_s, int64_t *bytes)
{
	struct mt_engine *e = b->engine;
	double now_s = mt_stream_now_s(e->compute);
	int64_t live = live_bytes(e);

	if (seconds) {
		*seconds = now_s - b->last_s;
		*tp_s += e->tp_s + e->cp_s + e->ep_s;
	}
	if (bytes)
		*bytes = live - b->last_bytes;
	e->tp_s = e->cp_s = e->ep_s = 0;
	b->last_s = now_s;
	b->last_bytes = live;
}

/* A block's first pass begins; it is given `input`. */
static struct mt_taped *begin(struct bench *b, int index, struct mt_block_tapes *tapes, const void *input)
{
	struct mt_taped *taped = &b->taped[index];

	*taped = (struct mt_taped){.tapes = tapes, .at = {input}};
	tapes->tensors = MT_TAPE_FIRST;
	mt_recorder_set(&b->recorder, taped, MT_TAPE_FORWARD);
	return taped;
}

static void lap_forward(struct bench *b, struct mt_block_cost *block)
{
	lap(b, &block->forward_s, &block->tp_s, &block->forward_bytes);
}

/* Its backward pass begins, given the gradient of its output. */
static struct mt_taped *go_back(struct bench *b, int index, const void *gradient)
{
	struct mt_taped *taped = &b->taped[index];

	taped->at[MT_TAPE_GRADIENT] = gradient;
	mt_recorder_set(&b->recorder, taped, MT_TAPE_BACKWARD);
	return taped;
}

static void lap_backward(struct bench *b, struct mt_block_cost *block)
{
	lap(b, &block->backward_s, &block->tp_s, NULL);
}

/* A layer of each kind, forward. */
static enum mt_status measure_forward(struct bench *b, struct mt_card *card, void *x)
{
	struct mt_flight *flight = &b->engine->flights[0];

	for (int i = 0; i < b->kind_count; i++) {
		int kind = b->kinds[i], layer = (int)b->first[kind];
		struct mt_block_cost *block = &card->layer[kind];
		struct mt_taped *taped = begin(b, kind, &block->tapes, x);

		flight->layers[layer].x = x;
		MT_TRY(mt_layer_forward(b->engine, layer, &flight->layers[layer], &x));
		MT_TRY(mt_taped_hand_on(taped, x, &block->tapes.output));
		lap_forward(b, block);
	}
	flight->output = x;
	return MT_OK;
}

static enum mt_status measure_backward(struct bench *b, struct mt_card *card)
{
	struct mt_engine *e = b->engine;
	struct mt_flight *flight = &e->flights[0];
	enum mt_status st = MT_OK;

	for (int i = b->kind_count - 1; i >= 0 && st == MT_OK; i--) {
		struct mt_block_cost *block = &card->layer[b->kinds[i]];
		struct mt_taped *taped = go_back(b, b->kinds[i], flight->gradient);
		int layer = (int)b->first[b->kinds[i]];

		e->collecting = b->splits ? &flight->wgrads : NULL;
		e->collecting_layer = layer;
		st = mt_layer_backward(e, layer, &flight->layers[layer], &flight->gradient);
		e->collecting = NULL;
		if (st == MT_OK)
			st = mt_taped_hand_on(taped, flight->gradient, &block->tapes.gradient);
		lap_backward(b, block);
		if (st != MT_OK || !b->splits)
			continue;
		mt_recorder_set(&b->recorder, taped, MT_TAPE_WGRAD_FIRST);
		MT_TRY(mt_wgrads_run_first(e, &flight->wgrads));
		lap(b, &block->first_wgrad_s, &block->tp_s, NULL);
		mt_recorder_set(&b->recorder, taped, MT_TAPE_WGRAD);
		st = mt_wgrads_run(e, &flight->wgrads, layer);
		lap(b, &block->wgrad_s, &block->tp_s, NULL);
		block->wgrad_s += block->first_wgrad_s;
	}
	return st;
}

/* Layers once more, forward: what is copied to the host then, and how it is freed. */
static enum mt_status measure_leave(struct bench *b, struct mt_card *card)
{
	struct mt_engine *e = b->engine;

	for (int i = 0; i < b->kind_count; i++) {
		int kind = b->kinds[i], layer = (int)b->first[kind];
		struct mt_layer_saved *saved = &e->flights[0].layers[layer];
		struct mt_block_tapes *tapes = &card->layer[kind].tapes;
		struct mt_taped *taped = &b->taped[kind];
		int tensors = tapes->tensors;
		void *output;

		mt_recorder_set(&b->recorder, NULL, MT_TAPE_FORWARD);
		MT_TRY(mt_engine_alloc(e, ARENA_ACTIVATIONS, e->shard_rows * e->model->hidden, e->dtype, &saved->x));
		begin(b, kind, tapes, saved->x);
		b->recorder.mute = true;
		MT_TRY(mt_layer_forward(e, layer, saved, &output));
		b->recorder.mute = false;
		tapes->tensors = tensors > tapes->tensors ? tensors : tapes->tensors;
		for (int k = 0; k < MT_LAYER_TENSORS; k++) {
			const void *tensor = ((void **)saved)[k];

			if (tensor)
				MT_TRY(mt_taped_copy(taped, tensor, mt_arena_bytes(e->arenas[ARENA_ACTIVATIONS], tensor)));
		}
		mt_recorder_set(&b->recorder, taped, MT_TAPE_LEAVE);
		mt_layer_free(e, saved);
		mt_recorder_set(&b->recorder, NULL, MT_TAPE_FORWARD);
		mt_engine_release(e, &output);
	}
	return MT_OK;
}

/* Sizes that are no block's. */
static void measure_ends(const struct mt_engine *e, struct mt_card *card)
{
	bool windows = e->model->window > 0 && mt_context_windows_apart(e->layout);
	int64_t documents = mt_context_document_bytes(e->layout, e->model->window);

	card->token_bytes = e->rows * 4;
	if (documents > 0) {
		card->document_bytes[0] = e->rows * 4;
		card->document_bytes[2] = (documents - e->rows * 4) / (windows ? 2 : 1);
		card->document_bytes[1] = windows ? card->document_bytes[2] : 0;
	}
	card->position_bytes = e->positions ? e->rows * 4 : 0;
	if (e->window_starts)
		card->position_bytes += mt_context_start_arrays(e->layout) * e->layout->mbs * mt_context_part_rows(e->layout) * 4;
	card->edge_bytes = e->shard_rows * e->model->hidden * (int64_t)mt_dtype_bytes(e->dtype);
}

static enum mt_status measure_blocks(struct bench *b, struct mt_card *card)
{
	struct mt_engine *e = b->engine;
	struct mt_flight *flight = &e->flights[0];
	struct mt_taped *embedding = begin(b, EMBEDDING, &card->embedding.tapes, NULL), *head;
	void *x;

	lap(b, NULL, NULL, NULL);
	MT_TRY(mt_embedding_forward(e, flight));
	lap_forward(b, &card->embedding);
	x = flight->input;
	flight->input = NULL;
	MT_TRY(mt_taped_hand_on(embedding, x, &card->embedding.tapes.output));
	MT_TRY(measure_forward(b, card, x));
	head = begin(b, HEAD, &card->head.tapes, flight->output);
	MT_TRY(mt_head_forward(e, flight, 0));
	lap_forward(b, &card->head);
	go_back(b, HEAD, NULL);
	MT_TRY(mt_head_backward(e, flight));
	lap_backward(b, &card->head);
	MT_TRY(mt_taped_hand_on(head, flight->gradient, &card->head.tapes.gradient));
	MT_TRY(measure_backward(b, card));
	go_back(b, EMBEDDING, flight->gradient);
	MT_TRY(mt_embedding_backward(e, flight));
	lap_backward(b, &card->embedding);
	return measure_leave(b, card);
}

enum mt_status mt_card_measure(struct mt_card *card, const struct mt_run *run, struct mt_cost_source ops,
			       struct mt_comm_cost_source comms)
{
	struct bench bench = {0};
	struct mt_engine *e;
	enum mt_status st;

	memset(card, 0, sizeof *card);
	MT_GOTO(out, open_bench(&bench, run, ops, comms));
	e = bench.engine;
	measure_ends(e, card);
	card->keeps_sizes = bench.splits && run->model.experts == 0; /* as engine.c */
	mt_recorder_listen(&bench.recorder, e->arenas[ARENA_ACTIVATIONS], e->arenas[ARENA_WORKSPACE]);
	st = measure_blocks(&bench, card);
	mt_recorder_stop(e->arenas[ARENA_ACTIVATIONS], e->arenas[ARENA_WORKSPACE]);
	if (st == MT_OK)
		st = bench.recorder.st;
	card->scratch_bytes = (int64_t)bench.device->scratch_bytes;
	card->pinned_bytes = (int64_t)bench.device->pinned_bytes;
out:
	close_bench(&bench);
	return st;
}

void mt_card_free(struct mt_card *card)
{
	mt_tapes_free(&card->embedding.tapes);
	mt_tapes_free(&card->head.tapes);
	for (int kind = 0; kind < MT_CARD_KINDS; kind++)
		mt_tapes_free(&card->layer[kind].tapes);
}
