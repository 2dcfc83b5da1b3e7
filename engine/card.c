/* card: see card.h. */
#include "engine/card.h"

#include "engine/context.h"
#include "engine/internal.h"

#include <string.h>

struct bench {
	struct mt_run run; /* shallow copy: strings are borrowed */
	struct mt_device *device;
	struct mt_fabric *fabric;
	struct mt_dry_world *world;
	struct mt_engine *engine;
	struct mt_cost_source ops;
	int64_t first[MT_CARD_KINDS]; /* layer of each kind */
	int kinds[MT_CARD_KINDS], kind_count;
	bool splits;        /* gradients of weights are put off */
	int64_t most_bytes; /* of activations, since it was set */
	/* at the last lap */
	double last_s;
	int64_t last_bytes;
};

static double watch_op_s(void *context, const struct mt_op_key *key);

static void close_bench(struct bench *b)
{
	mt_engine_destroy(b->engine);
	mt_fabric_destroy(b->fabric);
	mt_dry_world_destroy(b->world);
	mt_device_destroy(b->device);
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
	struct mt_device_config device = {.kind = "dry", .cost = {.op_s = watch_op_s, .context = b, .gpu_arch = ops.gpu_arch}};
	struct mt_fabric_config fabric = {.kind = "dry", .cost = comms};
	struct mt_engine_config config = {.run = &b->run};
	struct mt_layout *l = &b->run.layout;
	int64_t layers = 1;

	b->run = *run;
	b->ops = ops;
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
	return b->splits ? mt_wgrads_create(&b->engine->flights[0].wgrads, b->run.model.layers) : MT_OK;
}

static int64_t live_bytes(const struct mt_engine *e)
{
	struct mt_arena_stats stats;

	mt_arena_stats(e->arenas[ARENA_ACTIVATIONS], &stats);
	return (int64_t)stats.live_bytes;
}

/* What an operation works on is allocated before it is enqueued and freed after: the most of all operations is the most. */
static double watch_op_s(void *context, const struct mt_op_key *key)
{
	struct bench *b = context;
	int64_t bytes = b->engine ? live_bytes(b->engine) : 0;

	if (bytes > b->most_bytes)
		b->most_bytes = bytes;
	return b->ops.op_s ? b->ops.op_s(b->ops.context, key) : 0;
}

/* What a block's pass took and left since the last lap. peak_bytes may be NULL. */
static void lap(struct bench *b, double *seconds, double *tp_s, int64_t *bytes, int64_t *peak_bytes)
{
	struct mt_engine *e = b->engine;
	double now_s = mt_stream_now_s(e->compute);
	int64_t live = live_bytes(e);

	if (seconds) {
		*seconds = now_s - b->last_s;
		*tp_s += e->tp_s + e->cp_s + e->ep_s;
		*bytes = live - b->last_bytes;
		if (peak_bytes)
			*peak_bytes = (b->most_bytes > live ? b->most_bytes : live) - b->last_bytes;
	}
	e->tp_s = e->cp_s = e->ep_s = 0;
	b->last_s = now_s;
	b->last_bytes = b->most_bytes = live;
}

static void lap_forward(struct bench *b, struct mt_block_cost *block)
{
	lap(b, &block->forward_s, &block->tp_s, &block->forward_bytes, &block->forward_peak_bytes);
}

static void lap_backward(struct bench *b, struct mt_block_cost *block)
{
	lap(b, &block->backward_s, &block->tp_s, &block->backward_bytes, &block->backward_peak_bytes);
}

static int64_t peak_bytes(const struct mt_engine *e)
{
	struct mt_arena_stats stats;

	mt_arena_stats(e->arenas[ARENA_ACTIVATIONS], &stats);
	return (int64_t)stats.peak_bytes;
}

/* The same passes in the order in which the last stage allocates, for the peak alone. */
static enum mt_status measure_last(const struct bench *b, struct mt_card *card)
{
	struct mt_engine *e = b->engine;
	int layer = (int)b->first[b->kinds[b->kind_count - 1]];
	struct mt_flight *flight = &e->flights[0];
	struct mt_layer_saved *saved = &flight->layers[layer];

	MT_TRY(mt_engine_alloc(e, ARENA_ACTIVATIONS, e->shard_rows * e->model->hidden, e->dtype, &saved->x));
	MT_TRY(mt_engine_alloc(e, ARENA_ACTIVATIONS, e->rows, MT_I32, &flight->targets));
	MT_TRY(mt_layer_forward(e, layer, saved, &flight->output));
	MT_TRY(mt_head_forward(e, flight, 0));
	MT_TRY(mt_head_backward(e, flight));
	MT_TRY(mt_layer_backward(e, layer, saved, &flight->gradient));
	card->last_peak_bytes = peak_bytes(e);
	mt_engine_release(e, &flight->gradient);
	mt_engine_release(e, &flight->targets);
	return MT_OK;
}

/* A layer of each kind, forward. */
static enum mt_status measure_forward(struct bench *b, struct mt_card *card, void *x)
{
	struct mt_flight *flight = &b->engine->flights[0];

	for (int i = 0; i < b->kind_count; i++) {
		int layer = (int)b->first[b->kinds[i]];

		flight->layers[layer].x = x;
		MT_TRY(mt_layer_forward(b->engine, layer, &flight->layers[layer], &x));
		lap_forward(b, &card->layer[b->kinds[i]]);
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
		int layer = (int)b->first[b->kinds[i]];

		e->collecting = b->splits ? &flight->wgrads : NULL;
		e->collecting_layer = layer;
		st = mt_layer_backward(e, layer, &flight->layers[layer], &flight->gradient);
		e->collecting = NULL;
		lap_backward(b, block);
		if (st != MT_OK || !b->splits)
			continue;
		MT_TRY(mt_wgrads_run_first(e, &flight->wgrads));
		lap(b, &block->first_wgrad_s, &block->tp_s, &block->first_wgrad_bytes, NULL);
		st = mt_wgrads_run(e, &flight->wgrads, layer);
		lap(b, &block->wgrad_s, &block->tp_s, &block->wgrad_bytes, NULL);
		block->wgrad_s += block->first_wgrad_s;
		block->wgrad_bytes += block->first_wgrad_bytes;
	}
	return st;
}

static enum mt_status measure(struct bench *b, struct mt_card *card)
{
	struct mt_engine *e = b->engine;
	struct mt_flight *flight = &e->flights[0];
	void *x;

	card->token_bytes = e->rows * 4;
	card->document_bytes = mt_context_document_bytes(e->layout, e->model->window);
	card->position_bytes = e->positions ? e->rows * 4 : 0;
	if (e->window_starts)
		card->position_bytes += mt_context_start_arrays(e->layout) * e->layout->mbs * mt_context_part_rows(e->layout) * 4;
	card->edge_bytes = e->shard_rows * e->model->hidden * (int64_t)mt_dtype_bytes(e->dtype);
	card->logits_bytes = e->rows * e->vocab_count * (int64_t)mt_dtype_bytes(e->dtype);
	MT_TRY(mt_engine_alloc(e, ARENA_ACTIVATIONS, e->rows, MT_I32, &flight->tokens));
	MT_TRY(mt_engine_alloc(e, ARENA_ACTIVATIONS, e->rows, MT_I32, &flight->targets));
	lap(b, NULL, NULL, NULL, NULL);
	MT_TRY(mt_embedding_forward(e, flight));
	lap_forward(b, &card->embedding);
	x = flight->input;
	flight->input = NULL;
	MT_TRY(measure_forward(b, card, x));
	MT_TRY(mt_head_forward(e, flight, 0));
	lap_forward(b, &card->head);
	MT_TRY(mt_head_backward(e, flight));
	lap_backward(b, &card->head);
	MT_TRY(measure_backward(b, card));
	card->block_peak_bytes = peak_bytes(e);
	MT_TRY(mt_embedding_backward(e, flight));
	lap_backward(b, &card->embedding);
	mt_engine_release(e, &flight->tokens);
	mt_engine_release(e, &flight->targets);
	return MT_OK;
}

enum mt_status mt_card_measure(struct mt_card *card, const struct mt_run *run, struct mt_cost_source ops,
			       struct mt_comm_cost_source comms)
{
	struct bench bench = {0}, last = {0};
	enum mt_status st;

	memset(card, 0, sizeof *card);
	MT_GOTO(out, open_bench(&bench, run, ops, comms));
	MT_GOTO(out, measure(&bench, card));
	MT_GOTO(out, open_bench(&last, run, ops, comms));
	MT_GOTO(out, measure_last(&last, card));
	card->scratch_bytes = (int64_t)bench.device->scratch_bytes; /* the last layer's operations are among them */
	card->pinned_bytes = (int64_t)bench.device->pinned_bytes;
out:
	close_bench(&last);
	close_bench(&bench);
	return st;
}
