/* card: see card.h. */
#include "engine/card.h"

#include "engine/internal.h"

#include <string.h>

struct bench {
	struct mt_run run; /* shallow copy: strings are borrowed */
	struct mt_device *device;
	struct mt_fabric *fabric;
	struct mt_dry_world *world;
	struct mt_engine *engine;
};

static void close_bench(struct bench *b)
{
	mt_engine_destroy(b->engine);
	mt_fabric_destroy(b->fabric);
	mt_dry_world_destroy(b->world);
	mt_device_destroy(b->device);
}

/* An engine of one layer, one stage, one micro-batch, on the dry device. */
static enum mt_status open_bench(struct bench *b, const struct mt_run *run, struct mt_cost_source ops,
				 struct mt_comm_cost_source comms)
{
	struct mt_device_config device = {.kind = "dry", .cost = ops};
	struct mt_fabric_config fabric = {.kind = "dry", .size = (int)run->layout.tp, .cost = comms};
	struct mt_engine_config config = {.run = &b->run};

	b->run = *run;
	b->run.model.layers = 1;
	b->run.layout.pp = b->run.layout.dp = 1;
	b->run.layout.zero = 0;
	b->run.layout.gbs = b->run.layout.mbs;
	MT_TRY(mt_dry_world_create(&b->world, fabric.size));
	fabric.dry_world = b->world;
	MT_TRY(mt_device_create(&b->device, &device));
	MT_TRY(mt_fabric_create(&b->fabric, &fabric));
	config.device = b->device;
	config.fabric = b->fabric;
	return mt_engine_create(&b->engine, &config);
}

static struct mt_arena_stats activations(const struct mt_engine *e)
{
	struct mt_arena_stats stats;

	mt_arena_stats(e->arenas[ARENA_ACTIVATIONS], &stats);
	return stats;
}

/* A peak tells what the next block needs only when nothing below it is free: this fills the space up to it. */
static enum mt_status fill_up(struct mt_engine *e, void **filler, int64_t *peak_bytes)
{
	struct mt_arena_stats stats = activations(e);

	*peak_bytes = (int64_t)stats.peak_bytes;
	return mt_arena_alloc(e->arenas[ARENA_ACTIVATIONS], stats.peak_bytes - stats.live_bytes, filler);
}

/* Bytes by which the peak has grown since fill_up. */
static int64_t grown(struct mt_engine *e, void **filler, int64_t peak_bytes)
{
	int64_t bytes = (int64_t)activations(e).peak_bytes - peak_bytes;

	mt_engine_release(e, filler);
	return bytes;
}

/* Takes the time and the tensor-parallel time that passed since the last call. */
static double lap(struct mt_engine *e, double *last_s, double *tp_s)
{
	double now_s = mt_stream_now_s(e->compute), passed_s = now_s - *last_s;

	*last_s = now_s;
	*tp_s += e->tp_s;
	e->tp_s = 0;
	return passed_s;
}

static enum mt_status measure_head(struct mt_engine *e, struct mt_flight *flight, struct mt_card *card, double *last_s)
{
	void *filler;
	int64_t peak;

	MT_TRY(fill_up(e, &filler, &peak));
	MT_TRY(mt_head_forward(e, flight, 0));
	card->head.forward_s = lap(e, last_s, &card->head.tp_s);
	MT_TRY(mt_head_backward(e, flight));
	card->head.backward_s = lap(e, last_s, &card->head.tp_s);
	card->head_work_bytes = grown(e, &filler, peak);
	return MT_OK;
}

static enum mt_status measure(struct mt_engine *e, struct mt_card *card)
{
	struct mt_flight *flight = &e->flights[0];
	struct mt_layer_saved *saved = &flight->layers[0];
	double last_s = mt_stream_now_s(e->compute);
	int64_t before, peak;
	void *filler;

	card->token_bytes = e->rows * 4;
	card->edge_bytes = e->shard_rows * e->model->hidden * (int64_t)mt_dtype_bytes(e->dtype);
	MT_TRY(mt_engine_alloc(e, ARENA_ACTIVATIONS, e->rows, MT_I32, &flight->tokens));
	MT_TRY(mt_engine_alloc(e, ARENA_ACTIVATIONS, e->rows, MT_I32, &flight->targets));
	before = (int64_t)activations(e).live_bytes;
	MT_TRY(mt_embedding_forward(e, flight));
	card->embedding.forward_s = lap(e, &last_s, &card->embedding.tp_s);
	saved->x = flight->input;
	flight->input = NULL;
	MT_TRY(mt_layer_forward(e, 0, saved, &flight->output));
	card->layer.forward_s = lap(e, &last_s, &card->layer.tp_s);
	/* the output belongs to the next block */
	card->layer_kept_bytes = (int64_t)activations(e).live_bytes - before - card->edge_bytes;
	MT_TRY(measure_head(e, flight, card, &last_s));
	MT_TRY(fill_up(e, &filler, &peak));
	MT_TRY(mt_layer_backward(e, 0, saved, &flight->gradient));
	card->layer.backward_s = lap(e, &last_s, &card->layer.tp_s);
	card->layer_work_bytes = grown(e, &filler, peak);
	MT_TRY(mt_embedding_backward(e, flight));
	card->embedding.backward_s = lap(e, &last_s, &card->embedding.tp_s);
	mt_engine_release(e, &flight->tokens);
	mt_engine_release(e, &flight->targets);
	return MT_OK;
}

enum mt_status mt_card_measure(struct mt_card *card, const struct mt_run *run, struct mt_cost_source ops,
			       struct mt_comm_cost_source comms)
{
	struct bench bench = {0};
	enum mt_status st;

	memset(card, 0, sizeof *card);
	st = open_bench(&bench, run, ops, comms);
	if (st == MT_OK)
		st = measure(bench.engine, card);
	close_bench(&bench);
	return st;
}
