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
	int64_t most_bytes; /* of activations, since it was set */
};

static double watch_op_s(void *context, const struct mt_op_key *key);

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
	struct mt_device_config device = {.kind = "dry", .cost = {.op_s = watch_op_s, .context = b}};
	struct mt_fabric_config fabric = {.kind = "dry", .cost = comms};
	struct mt_engine_config config = {.run = &b->run};

	b->run = *run;
	b->ops = ops;
	b->run.model.layers = 1;
	/* The layer has experts where the model has any, and these are spread over the data-parallel ranks. */
	b->run.model.dense_first = 0;
	b->run.layout.pp = 1;
	b->run.layout.dp = run->model.experts > 0 ? run->layout.dp : 1;
	b->run.layout.zero = 0;
	b->run.layout.gbs = b->run.layout.mbs * b->run.layout.dp;
	fabric.size = (int)mt_layout_world(&b->run.layout);
	MT_TRY(mt_dry_world_create(&b->world, fabric.size));
	fabric.dry_world = b->world;
	MT_TRY(mt_device_create(&b->device, &device));
	MT_TRY(mt_fabric_create(&b->fabric, &fabric));
	config.device = b->device;
	config.fabric = b->fabric;
	return mt_engine_create(&b->engine, &config);
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

/* Takes the time and the tensor-parallel time that passed since the last call. */
static double lap(struct mt_engine *e, double *last_s, double *tp_s)
{
	double now_s = mt_stream_now_s(e->compute), passed_s = now_s - *last_s;

	*last_s = now_s;
	*tp_s += e->tp_s + e->cp_s;
	e->tp_s = e->cp_s = 0;
	return passed_s;
}

static enum mt_status measure_head(struct bench *b, struct mt_card *card, double *last_s)
{
	struct mt_engine *e = b->engine;
	struct mt_flight *flight = &e->flights[0];
	int64_t before = live_bytes(e);

	b->most_bytes = 0;
	MT_TRY(mt_head_forward(e, flight, 0));
	card->head.forward_s = lap(e, last_s, &card->head.tp_s);
	MT_TRY(mt_head_backward(e, flight));
	card->head.backward_s = lap(e, last_s, &card->head.tp_s);
	card->logits_bytes = e->rows * e->vocab_count * (int64_t)mt_dtype_bytes(e->dtype);
	card->head_work_bytes = b->most_bytes - before - card->logits_bytes;
	return MT_OK;
}

static int64_t peak_bytes(const struct mt_engine *e)
{
	struct mt_arena_stats stats;

	mt_arena_stats(e->arenas[ARENA_ACTIVATIONS], &stats);
	return (int64_t)stats.peak_bytes;
}

/* The same passes in the order in which the last stage allocates, for the peak alone. */
static enum mt_status measure_last(struct mt_engine *e, struct mt_card *card)
{
	struct mt_flight *flight = &e->flights[0];
	struct mt_layer_saved *saved = &flight->layers[0];

	MT_TRY(mt_engine_alloc(e, ARENA_ACTIVATIONS, e->shard_rows * e->model->hidden, e->dtype, &saved->x));
	MT_TRY(mt_engine_alloc(e, ARENA_ACTIVATIONS, e->rows, MT_I32, &flight->targets));
	MT_TRY(mt_layer_forward(e, 0, saved, &flight->output));
	MT_TRY(mt_head_forward(e, flight, 0));
	MT_TRY(mt_head_backward(e, flight));
	MT_TRY(mt_layer_backward(e, 0, saved, &flight->gradient));
	card->last_peak_bytes = peak_bytes(e);
	mt_engine_release(e, &flight->gradient);
	mt_engine_release(e, &flight->targets);
	return MT_OK;
}

static enum mt_status measure(struct bench *b, struct mt_card *card)
{
	struct mt_engine *e = b->engine;
	struct mt_flight *flight = &e->flights[0];
	struct mt_layer_saved *saved = &flight->layers[0];
	double last_s = mt_stream_now_s(e->compute);
	int64_t before;

	card->token_bytes = e->rows * 4;
	card->document_bytes = mt_context_document_bytes(e->layout, e->model->window);
	card->position_bytes = e->positions ? e->rows * 4 : 0;
	if (e->window_starts)
		card->position_bytes += mt_context_start_arrays(e->layout) * e->layout->mbs * mt_context_part_rows(e->layout) * 4;
	card->edge_bytes = e->shard_rows * e->model->hidden * (int64_t)mt_dtype_bytes(e->dtype);
	MT_TRY(mt_engine_alloc(e, ARENA_ACTIVATIONS, e->rows, MT_I32, &flight->tokens));
	MT_TRY(mt_engine_alloc(e, ARENA_ACTIVATIONS, e->rows, MT_I32, &flight->targets));
	before = live_bytes(e);
	MT_TRY(mt_embedding_forward(e, flight));
	card->embedding.forward_s = lap(e, &last_s, &card->embedding.tp_s);
	saved->x = flight->input;
	flight->input = NULL;
	MT_TRY(mt_layer_forward(e, 0, saved, &flight->output));
	card->layer.forward_s = lap(e, &last_s, &card->layer.tp_s);
	card->layer_kept_bytes = live_bytes(e) - before - card->edge_bytes; /* the output belongs to the next block */
	MT_TRY(measure_head(b, card, &last_s));
	before = live_bytes(e); /* with the gradient */
	b->most_bytes = 0;
	MT_TRY(mt_layer_backward(e, 0, saved, &flight->gradient));
	card->layer.backward_s = lap(e, &last_s, &card->layer.tp_s);
	card->layer_work_bytes = b->most_bytes - before;
	card->block_peak_bytes = peak_bytes(e);
	MT_TRY(mt_embedding_backward(e, flight));
	card->embedding.backward_s = lap(e, &last_s, &card->embedding.tp_s);
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
	MT_GOTO(out, measure_last(last.engine, card));
out:
	close_bench(&last);
	close_bench(&bench);
	return st;
}
