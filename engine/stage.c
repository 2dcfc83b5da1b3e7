/* stage: the passes of one model chunk of a pipeline stage over one micro-batch. */
#include "engine/internal.h"

#include <string.h>

/* A micro-batch of the running step, from the loader (loader.h says which samples it has). */
static enum mt_status load(struct mt_engine *e, const struct mt_chunk *chunk, struct mt_flight *flight, int64_t microbatch)
{
	struct mt_batch batch = {.tokens = e->host_tokens, .targets = e->host_tokens + e->rows, .counted = e->rows};
	struct mt_loader *loader = e->evaluating ? e->eval_loader : e->loader;
	size_t bytes = (size_t)e->rows * sizeof *batch.tokens;

	if (loader)
		MT_TRY(mt_loader_get(loader, microbatch, &batch, &e->data_s));
	if (chunk->first) {
		MT_TRY(mt_engine_alloc(e, ARENA_ACTIVATIONS, e->rows, MT_I32, &flight->tokens));
		MT_TRY(mt_device_upload(e->device, e->compute, flight->tokens, batch.tokens, bytes));
	}
	if (chunk->last) {
		MT_TRY(mt_engine_alloc(e, ARENA_ACTIVATIONS, e->rows, MT_I32, &flight->targets));
		MT_TRY(mt_device_upload(e->device, e->compute, flight->targets, batch.targets, bytes));
		e->counted += (double)batch.counted;
		e->mtp_next = batch.next ? batch.next : e->mtp_none;
	}
	return mt_context_load(e, flight, &batch);
}

static int unit_of(const struct mt_engine *e, int64_t layer)
{
	return 1 + (int)(e->table.layer_count - 1 - layer);
}

/* The unit after a chunk's layer i (-1: the embedding) in the forward pass. */
static int unit_after(const struct mt_engine *e, const struct mt_chunk *chunk, int64_t i)
{
	if (i + 1 < chunk->layers)
		return unit_of(e, chunk->first_layer + i + 1);
	return chunk->last ? 0 : -1;
}

/* The unit after a chunk's layer i (chunk->layers: the head) in the backward pass. The embedding's needs no parameters. */
static int unit_before(const struct mt_engine *e, const struct mt_chunk *chunk, int64_t i)
{
	return i > 0 ? unit_of(e, chunk->first_layer + i - 1) : -1;
}

/* Whether a pass is one list of operations, not one a layer. */
static bool is_list(const struct mt_engine *e)
{
	return e->config.run->train.cuda_graphs == MT_GRAPHS_PASS;
}

static enum mt_status forward(struct mt_engine *e, int chunk_index, int64_t microbatch, struct mt_flight *flight)
{
	const struct mt_chunk *chunk = &e->table.chunks[chunk_index];
	void *x;

	flight->live = true;
	e->running = flight;
	if (chunk->first || chunk->last || e->layout->documents == MT_DOCUMENTS_APART)
		MT_TRY(load(e, chunk, flight, microbatch));
	if (chunk->first) {
		MT_TRY(mt_params_enter(e, e->table.units - 1, unit_after(e, chunk, -1)));
		MT_TRY(mt_embedding_forward(e, flight));
	}
	x = flight->input; /* from here on owned by the first layer */
	flight->input = NULL;
	for (int64_t i = 0; i < chunk->layers; i++) {
		flight->layers[i].x = x;
		MT_TRY(mt_params_enter(e, unit_of(e, chunk->first_layer + i), unit_after(e, chunk, i)));
		MT_TRY(mt_layer_forward(e, (int)(chunk->first_layer + i), &flight->layers[i], &x));
		if (i > 0 && mt_offloads(e, flight, i - 1))
			MT_TRY(mt_offload_settle(e, flight, i - 1));
		if (mt_offloads(e, flight, i))
			MT_TRY(mt_offload_start(e, flight, i));
	}
	if (mt_offloads(e, flight, chunk->layers - 1))
		MT_TRY(mt_offload_settle(e, flight, chunk->layers - 1));
	flight->output = x;
	if (!chunk->last)
		return MT_OK;
	MT_TRY(mt_params_enter(e, 0, -1));
	return mt_head_forward(e, flight, microbatch);
}

enum mt_status mt_stage_forward(struct mt_engine *e, int chunk_index, int64_t microbatch, struct mt_flight *flight)
{
	if (!is_list(e))
		return forward(e, chunk_index, microbatch, flight);
	mt_stream_list_begin(e->compute);
	return mt_stream_list_end(e->compute, forward(e, chunk_index, microbatch, flight));
}

/* The gradients of a unit are whole after its backward pass, or, when those of weights are put off, after their pass. */
static enum mt_status finished(struct mt_engine *e, int unit)
{
	return e->collecting ? MT_OK : mt_reduce_unit(e, unit);
}

static enum mt_status backward(struct mt_engine *e, const struct mt_chunk *chunk, struct mt_flight *flight)
{
	if (chunk->last) {
		struct mt_wgrads *collecting = e->collecting;

		/* At once: to put the head's off would keep the logits. */
		e->collecting = NULL;
		MT_TRY(mt_params_enter(e, 0, unit_before(e, chunk, chunk->layers)));
		MT_TRY(mt_grads_enter(e, 0));
		MT_TRY(mt_head_backward(e, flight));
		e->collecting = collecting;
		mt_engine_release(e, &flight->targets);
		MT_TRY(finished(e, 0));
	}
	for (int64_t i = chunk->layers - 1; i >= 0; i--) {
		if (mt_offloads(e, flight, i))
			MT_TRY(mt_offload_await(e, flight, i));
		if (i > 0 && mt_offloads(e, flight, i - 1))
			MT_TRY(mt_offload_fetch(e, flight, i - 1));
		e->collecting_layer = (int)i;
		MT_TRY(mt_params_enter(e, unit_of(e, chunk->first_layer + i), unit_before(e, chunk, i)));
		MT_TRY(mt_grads_enter(e, unit_of(e, chunk->first_layer + i)));
		MT_TRY(mt_layer_backward(e, (int)(chunk->first_layer + i), &flight->layers[i], &flight->gradient));
		MT_TRY(finished(e, unit_of(e, chunk->first_layer + i)));
	}
	if (chunk->first) {
		MT_TRY(mt_grads_enter(e, e->table.units - 1));
		MT_TRY(mt_embedding_backward(e, flight));
		mt_engine_release(e, &flight->tokens);
	}
	return chunk == e->table.chunks ? finished(e, e->table.units - 1) : MT_OK;
}

enum mt_status mt_stage_backward(struct mt_engine *e, int chunk_index, struct mt_flight *flight)
{
	enum mt_status st;

	e->running = flight;
	e->collecting = mt_schedule_puts_off((enum mt_schedule)e->layout->schedule, e->at.pp) ? &flight->wgrads : NULL;
	if (is_list(e))
		mt_stream_list_begin(e->compute);
	st = backward(e, &e->table.chunks[chunk_index], flight);
	if (is_list(e))
		st = mt_stream_list_end(e->compute, st);
	e->collecting = NULL;
	mt_engine_release(e, &flight->positions);
	mt_engine_release(e, &flight->starts);
	mt_engine_release(e, &flight->window_starts);
	flight->live = false;
	return st;
}

static enum mt_status wgrad(struct mt_engine *e, int chunk_index, struct mt_flight *flight)
{
	const struct mt_chunk *chunk = &e->table.chunks[chunk_index];

	if (chunk->last)
		MT_TRY(mt_reduce_unit(e, 0));
	for (int64_t i = chunk->layers - 1; i >= 0; i--) {
		MT_TRY(mt_wgrads_run(e, &flight->wgrads, (int)i));
		MT_TRY(mt_reduce_unit(e, unit_of(e, chunk->first_layer + i)));
	}
	return chunk == e->table.chunks ? mt_reduce_unit(e, e->table.units - 1) : MT_OK;
}

enum mt_status mt_stage_wgrad(struct mt_engine *e, int chunk_index, struct mt_flight *flight)
{
	if (!is_list(e))
		return wgrad(e, chunk_index, flight);
	mt_stream_list_begin(e->compute);
	return mt_stream_list_end(e->compute, wgrad(e, chunk_index, flight));
}

/* After a failure: gives back whatever the micro-batch still holds. */
void mt_flight_free(struct mt_engine *e, struct mt_flight *flight)
{
	void **all[] = {&flight->tokens, &flight->targets,       &flight->input,    &flight->output,
			&flight->final,  &flight->final_stats,   &flight->gradient, &flight->positions,
			&flight->starts, &flight->window_starts, &flight->more};

	for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
		if (*all[i])
			mt_engine_release(e, all[i]);
	}
	mt_mtp_free(e, flight);
	mt_logits_free(e, flight);
	mt_wgrads_drop(e, &flight->wgrads);
	for (int64_t layer = 0; layer < flight->layer_count; layer++)
		mt_layer_free(e, &flight->layers[layer]);
	flight->live = false;
}
