/* logits: what a model on one rank makes of given tokens, for comparisons with other programs. */
#include "engine/internal.h"

#include <stdlib.h>
#include <string.h>

/* Row r of f32 or 16-bit logits, as doubles. */
static void widen(enum mt_dtype dtype, const void *stored, int64_t first, int64_t count, double *values)
{
	for (int64_t i = 0; i < count; i++) {
		if (dtype == MT_F64)
			values[i] = ((const double *)stored)[first + i];
		else if (dtype == MT_F16)
			values[i] = (double)mt_f16_to_f32(((const uint16_t *)stored)[first + i]);
		else if (dtype == MT_BF16)
			values[i] = (double)mt_bf16_to_f32(((const uint16_t *)stored)[first + i]);
		else
			values[i] = (double)((const float *)stored)[first + i];
	}
}

static enum mt_status read_logits(struct mt_engine *e, const struct mt_flight *flight, double *logits)
{
	size_t bytes = (size_t)(e->rows * e->vocab_count) * mt_dtype_bytes(e->dtype);
	void *stored = malloc(bytes);
	enum mt_status st;

	if (!stored)
		return mt_fail(MT_NOMEM, "no memory for %zu bytes of logits", bytes);
	st = mt_device_download(e->device, e->compute, stored, flight->logits, bytes);
	for (int64_t row = 0; row < e->rows && st == MT_OK; row++)
		widen(e->dtype, stored, row * e->vocab_count, e->model->vocab, logits + row * e->model->vocab);
	free(stored);
	return st;
}

enum mt_status mt_engine_logits(struct mt_engine *engine, const int32_t *tokens, double *logits)
{
	struct mt_engine *e = engine;
	struct mt_flight *flight = &e->flights[0];
	enum mt_status st;

	if (mt_layout_world(e->layout) != 1 || e->loader)
		return mt_fail(MT_INPUT, "logits are made on one rank, without a data set");
	memcpy(e->host_tokens, tokens, (size_t)e->rows * sizeof *tokens);
	e->evaluating = true; /* logits stay what they are */
	MT_GOTO(out, mt_stage_forward(e, 0, 0, flight));
	st = read_logits(e, flight, logits);
out:
	e->evaluating = false;
	mt_flight_free(e, flight);
	return st;
}
