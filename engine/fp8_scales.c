/* fp8_scales: what the engine keeps for its products in fp8 (fp8.c): which there are, the greatest values of the last steps and the
 * scales that follow from them, and all of that in a checkpoint.
 *
 * Tensors are numbered by the layer of the model and the expert of the layer, so that neither layout nor rank is in it: three of
 * each product (input, weight, gradient), then the weights of experts, each with a scale of its own as in Transformer Engine's
 * grouped product. Their inputs and gradients have one a product: the rows of all experts. */
#include "engine/fp8_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void mt_fp8_begin(struct mt_engine *e)
{
	if (e->fp8.found)
		memset(e->fp8.found, 0, (size_t)e->fp8.products * sizeof *e->fp8.found);
}

static float *history_row(const struct mt_engine *e, int64_t step)
{
	return e->fp8.history + step % e->layout->fp8_history * e->fp8.tensors;
}

static float amax_of(const struct mt_engine *e, int64_t tensor)
{
	const struct mt_fp8 *f = &e->fp8;
	int64_t rows = f->steps < e->layout->fp8_history ? f->steps : e->layout->fp8_history;
	float most = 0;

	if (e->layout->fp8_amax == MT_FP8_AMAX_LATEST)
		return history_row(e, f->steps - 1)[tensor];
	for (int64_t i = 0; i < rows; i++)
		most = fmaxf(most, f->history[i * f->tensors + tensor]);
	return most;
}

static enum mt_status send_scales(struct mt_engine *e)
{
	struct mt_fp8 *f = &e->fp8;
	float *scale = f->host + f->tensors;

	for (int64_t t = 0; t < f->tensors; t++)
		scale[f->tensors + t] = 1 / scale[t];
	return mt_device_upload(e->device, e->compute, f->scales, scale, 2 * (size_t)f->tensors * sizeof *scale);
}

/* A tensor without a greatest value, or with one that is no number, keeps its scale. */
enum mt_status mt_fp8_finish(struct mt_engine *e)
{
	struct mt_fp8 *f = &e->fp8;
	float *row;

	if (!f->product_of || !f->delayed)
		return MT_OK;
	if (mt_group_size(e->world) > 1)
		MT_TRY(mt_comm_all_reduce(e->world, e->compute, f->amax, f->amax, f->tensors, MT_F32, MT_MAX));
	MT_TRY(mt_device_download(e->device, e->compute, f->host, f->amax, (size_t)f->tensors * sizeof *f->host));
	MT_TRY(mt_fp8_clear(e, f->amax, f->tensors));
	row = history_row(e, f->steps++);
	for (int64_t t = 0; t < f->tensors; t++)
		row[t] = isfinite(f->host[t]) ? f->host[t] : 0;
	for (int64_t t = 0; t < f->tensors; t++) {
		float amax = amax_of(e, t);

		if (amax > 0)
			f->host[f->tensors + t] = mt_fp8_scale(amax, mt_fp8_type(e, t), (int)e->layout->fp8_margin);
	}
	return send_scales(e);
}

/* ---- set-up ---- */

/* Products of a layer by the roles of their weights; those that lie beside each other are one. Experts stand in for the MLP. */
static void map_layer(struct mt_engine *e, const int *at, int64_t layer)
{
	const int gated = e->model->mlp == MT_MODEL_SWIGLU ? MT_MLP_GATE : MT_MLP_UP;
	const int roles[FP8_PRODUCTS] = {MT_ATTN_Q, MT_ATTN_OUT, gated, MT_MLP_DOWN};
	const int experts[] = {MT_EXPERT_UP, MT_EXPERT_DOWN}, shared[] = {MT_SHARED_UP, MT_SHARED_DOWN};
	int *product_of = e->fp8.product_of;

	for (int which = 0; which < FP8_PRODUCTS; which++) {
		if (at[roles[which]] >= 0)
			product_of[at[roles[which]]] = (int)layer * FP8_PRODUCTS + which;
	}
	for (int which = 0; which < 2; which++) {
		if (at[experts[which]] >= 0)
			product_of[at[experts[which]]] = (int)layer * FP8_PRODUCTS + FP8_UP + which;
		if (at[shared[which]] >= 0)
			product_of[at[shared[which]]] = (int)(e->model->layers * FP8_PRODUCTS + 2 * layer) + which;
	}
}

static void map_products(struct mt_engine *e)
{
	const struct mt_layout *l = e->layout;

	for (int i = 0; i < e->table.count; i++)
		e->fp8.product_of[i] = -1;
	for (int c = 0; c < e->table.chunk_count; c++) {
		const struct mt_chunk *chunk = &e->table.chunks[c];
		int v = mt_schedule_virtual((enum mt_schedule)l->schedule, (int)l->pp, e->at.pp, c);
		int64_t first, count;

		mt_layout_stage_layers(e->model, l, v, &first, &count);
		for (int64_t i = 0; i < chunk->layers; i++) {
			if (first + i >= l->fp8_skip_first && first + i < e->model->layers - l->fp8_skip_last)
				map_layer(e, e->table.layers[chunk->first_layer + i], first + i);
		}
	}
}

enum mt_status mt_fp8_open(struct mt_engine *e)
{
	struct mt_fp8 *f = &e->fp8;
	const struct mt_layout *l = e->layout;

	if (l->fp8 == MT_FP8_NONE)
		return MT_OK;
	f->delayed = l->fp8 == MT_FP8_DELAYED;
	f->products = e->model->layers * (FP8_PRODUCTS + (e->model->shared_ffn > 0 ? 2 : 0));
	f->tensors = f->products * FP8_KINDS + e->model->layers * 2 * e->model->experts;
	f->product_of = malloc(((size_t)e->table.count + 1) * sizeof *f->product_of);
	f->history = calloc((size_t)(l->fp8_history * f->tensors), sizeof *f->history);
	f->host = calloc((size_t)f->tensors * 3, sizeof *f->host);
	f->found = calloc((size_t)f->products, sizeof *f->found);
	if (!f->product_of || !f->history || !f->host || !f->found)
		return mt_fail(MT_NOMEM, "no memory for the scales of %lld tensors in fp8", (long long)f->tensors);
	map_products(e);
	MT_TRY(mt_engine_alloc(e, ARENA_OPTIMIZER, f->tensors, MT_F32, &f->amax));
	MT_TRY(mt_engine_alloc(e, ARENA_OPTIMIZER, 2 * f->tensors, MT_F32, &f->scales));
	for (int64_t t = 0; t < f->tensors; t++)
		f->host[f->tensors + t] = 1;
	MT_TRY(mt_fp8_clear(e, f->amax, f->tensors));
	return send_scales(e);
}

void mt_fp8_close(struct mt_engine *e)
{
	struct mt_fp8 *f = &e->fp8;

	mt_fp8_drop_kept(e);
	free(f->product_of);
	free(f->history);
	free(f->host);
	free(f->found);
}

/* ---- in a checkpoint ---- */

static json_t *numbers_json(const float *values, int64_t count)
{
	json_t *array = json_array();

	for (int64_t i = 0; i < count; i++)
		json_array_append_new(array, json_real((double)values[i]));
	return array;
}

json_t *mt_fp8_json(const struct mt_engine *e)
{
	const struct mt_fp8 *f = &e->fp8;
	int64_t rows = f->steps < e->layout->fp8_history ? f->steps : e->layout->fp8_history;
	json_t *state, *history;

	if (!f->product_of || !f->delayed)
		return NULL;
	state = json_object();
	history = json_array();
	for (int64_t i = f->steps - rows; i < f->steps; i++)
		json_array_append_new(history, numbers_json(history_row(e, i), f->tensors));
	json_object_set_new(state, "scale", numbers_json(f->host + f->tensors, f->tensors));
	json_object_set_new(state, "amax_history", history);
	return state;
}

static bool read_numbers(const json_t *array, float *values, int64_t count)
{
	if ((int64_t)json_array_size(array) != count)
		return false;
	for (int64_t i = 0; i < count; i++)
		values[i] = (float)json_number_value(json_array_get(array, (size_t)i));
	return true;
}

/* Without a state (a run in another type) the history begins anew; of a longer one the latest steps are taken. */
enum mt_status mt_fp8_load(struct mt_engine *e, const json_t *state)
{
	struct mt_fp8 *f = &e->fp8;
	const json_t *history = json_object_get(state, "amax_history");
	size_t rows = json_array_size(history), most = (size_t)e->layout->fp8_history;

	if (!f->product_of || !f->delayed)
		return MT_OK;
	f->steps = 0;
	for (size_t i = rows > most ? rows - most : 0; i < rows; i++, f->steps++) {
		if (!read_numbers(json_array_get(history, i), history_row(e, f->steps), f->tensors))
			return mt_fail(MT_INPUT, "the checkpoint's fp8 history is not one of %lld tensors", (long long)f->tensors);
	}
	if (f->steps > 0 && !read_numbers(json_object_get(state, "scale"), f->host + f->tensors, f->tensors))
		return mt_fail(MT_INPUT, "the checkpoint's fp8 scales are not those of %lld tensors", (long long)f->tensors);
	MT_TRY(mt_fp8_clear(e, f->amax, f->tensors));
	MT_TRY(send_scales(e));
	return mt_stream_synchronize(e->compute);
}
