/* stage: one pipeline stage's forward and backward pass over one micro-batch. */
#include "engine/internal.h"

#include <string.h>

/* Global samples of micro-batch k on this data-parallel rank: consecutive, interleaved over dp, so that the step's set
 * of samples does not depend on the layout. */
static enum mt_status load(struct mt_engine *e, struct mt_flight *flight, int64_t microbatch)
{
	const struct mt_layout *l = e->layout;
	int64_t seq = l->seq;
	uint64_t first = (uint64_t)(e->step * l->gbs + microbatch * l->mbs * l->dp + e->at.dp * l->mbs);
	int32_t *tokens = e->host_tokens, *targets = e->host_tokens + e->rows;
	size_t bytes = (size_t)e->rows * sizeof *tokens;

	for (int64_t b = 0; b < l->mbs && e->config.dataset; b++)
		MT_TRY(mt_dataset_sample(e->config.dataset, first + (uint64_t)b, tokens + b * seq, targets + b * seq));
	if (e->first) {
		MT_TRY(mt_engine_alloc(e, ARENA_ACTIVATIONS, e->rows, MT_I32, &flight->tokens));
		MT_TRY(mt_device_upload(e->device, e->compute, flight->tokens, tokens, bytes));
	}
	if (e->last) {
		MT_TRY(mt_engine_alloc(e, ARENA_ACTIVATIONS, e->rows, MT_I32, &flight->targets));
		MT_TRY(mt_device_upload(e->device, e->compute, flight->targets, targets, bytes));
	}
	return MT_OK;
}

enum mt_status mt_stage_forward(struct mt_engine *e, int64_t microbatch)
{
	struct mt_flight *flight = &e->flights[microbatch];
	void *x;

	flight->live = true;
	if (e->first || e->last)
		MT_TRY(load(e, flight, microbatch));
	if (e->first)
		MT_TRY(mt_embedding_forward(e, flight));
	x = flight->input; /* from here on owned by the first layer */
	flight->input = NULL;
	for (int64_t layer = 0; layer < e->table.layer_count; layer++) {
		flight->layers[layer].x = x;
		MT_TRY(mt_layer_forward(e, (int)layer, &flight->layers[layer], &x));
	}
	flight->output = x;
	return e->last ? mt_head_forward(e, flight, microbatch) : MT_OK;
}

enum mt_status mt_stage_backward(struct mt_engine *e, int64_t microbatch)
{
	struct mt_flight *flight = &e->flights[microbatch];
	int unit = 0;

	if (e->last) {
		MT_TRY(mt_head_backward(e, flight));
		mt_engine_release(e, &flight->targets);
	}
	MT_TRY(mt_reduce_unit(e, unit++));
	for (int64_t layer = e->table.layer_count - 1; layer >= 0; layer--) {
		MT_TRY(mt_layer_backward(e, (int)layer, &flight->layers[layer], &flight->gradient));
		MT_TRY(mt_reduce_unit(e, unit++));
	}
	if (e->first) {
		MT_TRY(mt_embedding_backward(e, flight));
		mt_engine_release(e, &flight->tokens);
	}
	MT_TRY(mt_reduce_unit(e, unit));
	flight->live = false;
	return MT_OK;
}

/* After a failure: gives back whatever the micro-batch still holds. */
void mt_flight_free(struct mt_engine *e, struct mt_flight *flight)
{
	void **all[] = {&flight->tokens, &flight->targets,     &flight->input,   &flight->output,
			&flight->final,  &flight->final_stats, &flight->gradient};

	for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
		if (*all[i])
			mt_engine_release(e, all[i]);
	}
	mt_logits_free(e, flight);
	for (int64_t layer = 0; layer < e->table.layer_count; layer++)
		mt_layer_free(e, &flight->layers[layer]);
	flight->live = false;
}
