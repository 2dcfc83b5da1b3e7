/* fp8: the four products of a layer (query, key and value; attention's output; up; down) in 8 bits, forward and backward.
 *
 * Each operand is multiplied by a scale that brings its greatest value to the greatest of the type, rounded, and the product is
 * divided by both scales (Micikevicius et al. 2022, arXiv:2209.05433). Inputs and weights are e4m3; gradients are e5m2, or e4m3
 * too. Master weights, sums and everything between the products stay as they are. As in Transformer Engine scales are
 *   current  of the tensor itself: one reading more of it before it is rounded, and where it is split over tp the greatest value is
 *            agreed on first; a weight's is found once a step
 *   delayed  of the greatest values of the last steps (fp8_history; the greatest of them or the latest), found while rounding. They
 *            are agreed on by all ranks at the end of a step, so they depend on no layout. While there is no history, in the first
 *            step, scales are current ones; Transformer Engine begins with 1 instead, and enters each micro-batch by itself.
 * A tensor is rounded where it is used, and again in the backward pass from what is kept of the forward pass anyway. Operands whose
 * summed dimension is not contiguous are turned while they are rounded, as the tensor cores of sm_89 and sm_90 want them. */
#include "engine/internal.h"

#include "kernels/fp8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PRODUCTS = 4, X = 0, W = 1, DY = 2, KINDS = 3 };
enum { QKV, OUT, UP, DOWN };
enum { TAIL_BYTES = 16 };

/* A rounded operand: codes as the matrix lies, its transpose, and the inverse of the scale. */
struct operand {
	void *codes, *turned;
	const void *inverse;
};

static void *at_f32(void *base, int64_t index)
{
	return (void *)((uintptr_t)base + (uintptr_t)index * sizeof(float));
}

static void *scale_of(const struct mt_engine *e, int64_t tensor)
{
	return at_f32(e->fp8.scales, tensor);
}

static void *inverse_of(const struct mt_engine *e, int64_t tensor)
{
	return at_f32(e->fp8.scales, e->fp8.tensors + tensor);
}

/* Whether each tp rank has a part of the tensor. */
static bool split_over_tp(const struct mt_engine *e, int64_t tensor)
{
	int64_t kind = tensor % KINDS, which = tensor / KINDS % PRODUCTS;
	bool by_rows = which == OUT || which == DOWN; /* row-parallel: the input is split; else the output */

	return e->layout->tp > 1 && (kind == W || (kind == X) == by_rows);
}

static enum mt_dtype type_of(const struct mt_engine *e, int64_t tensor)
{
	return tensor % KINDS == DY ? mt_fp8_gradient(e->layout->fp8_format) : MT_E4M3;
}

static enum mt_status find_amax(struct mt_engine *e, enum mt_dtype dtype, const void *x, int64_t rows, int64_t cols, void *amax)
{
	struct mt_op op = {.kind = MT_OP_AMAX, .dtype = dtype};

	op.quantize = (struct mt_quantize){.rows = rows, .cols = cols, .x = x, .amax = amax};
	return mt_engine_enqueue(e, &op);
}

static enum mt_status clear(struct mt_engine *e, void *values, int64_t count)
{
	struct mt_op op = {.kind = MT_OP_FILL, .dtype = MT_F32};

	op.move = (struct mt_move){.count = count, .src_dtype = MT_F32, .dst_dtype = MT_F32, .dst = values};
	return mt_engine_enqueue(e, &op);
}

/* Scale and inverse of a tensor by its own greatest value. */
static enum mt_status find_scale(struct mt_engine *e, int64_t tensor, const struct mt_quantize *q)
{
	struct mt_op op = {.kind = MT_OP_FP8_SCALE, .dtype = MT_F32};
	struct mt_mark start;

	MT_TRY(clear(e, q->amax, 1));
	MT_TRY(find_amax(e, e->dtype, q->x, q->rows, q->cols, q->amax));
	if (split_over_tp(e, tensor)) {
		MT_TRY(mt_lap_begin(e, &start));
		MT_TRY(mt_comm_all_reduce(e->tp, e->compute, q->amax, q->amax, 1, MT_F32, MT_MAX));
		MT_TRY(mt_lap_end(e, &start, &e->tp_s));
	}
	op.quantize = *q;
	op.quantize.rows = 1;
	op.quantize.cols = 1;
	return mt_engine_enqueue(e, &op);
}

static enum mt_status alloc_codes(struct mt_engine *e, int64_t bytes, void **codes)
{
	return mt_engine_alloc(e, ARENA_ACTIVATIONS, bytes, MT_E4M3, codes);
}

/* A tensor's own scale. A weight's has its place for the whole step; others' lie behind the codes. */
static enum mt_status own_scale(struct mt_engine *e, int64_t tensor, void *tail, struct mt_quantize *q)
{
	struct mt_fp8 *f = &e->fp8;
	bool weight = tensor % KINDS == W;

	q->amax = weight ? at_f32(f->amax, tensor) : tail;
	q->scale = weight ? scale_of(e, tensor) : at_f32(tail, 1);
	q->inverse = weight ? inverse_of(e, tensor) : at_f32(tail, 2);
	if (!weight || !f->found[tensor / KINDS])
		MT_TRY(find_scale(e, tensor, q));
	if (weight)
		f->found[tensor / KINDS] = true;
	else if (f->delayed && !e->evaluating) /* the first step: into the history */
		MT_TRY(find_amax(e, MT_F32, q->amax, 1, 1, at_f32(f->amax, tensor)));
	q->amax = NULL;
	return MT_OK;
}

/* Rounds x(rows, cols); new codes, turned ones, or both. `noted`: its greatest value goes into the history. */
static enum mt_status quantize(struct mt_engine *e, int64_t tensor, const void *x, int64_t rows, int64_t cols, bool noted,
			       bool straight, bool turned, struct operand *operand)
{
	struct mt_fp8 *f = &e->fp8;
	struct mt_op op = {.kind = MT_OP_QUANTIZE, .dtype = e->dtype};
	int64_t bytes = (rows * cols + TAIL_BYTES - 1) / TAIL_BYTES * TAIL_BYTES;
	struct mt_quantize *q = &op.quantize;

	*operand = (struct operand){0};
	if (straight)
		MT_TRY(alloc_codes(e, bytes + TAIL_BYTES, &operand->codes));
	if (turned)
		MT_TRY(alloc_codes(e, bytes + TAIL_BYTES, &operand->turned));
	*q = (struct mt_quantize){.rows = rows,
				  .cols = cols,
				  .to = type_of(e, tensor),
				  .margin = (int)e->layout->fp8_margin,
				  .x = x,
				  .y = operand->codes,
				  .y_t = operand->turned};
	if (f->delayed && f->steps > 0) {
		q->scale = scale_of(e, tensor);
		q->inverse = inverse_of(e, tensor);
		q->amax = noted && !e->evaluating ? at_f32(f->amax, tensor) : NULL;
	} else {
		void *last = turned ? operand->turned : operand->codes;

		MT_TRY(own_scale(e, tensor, (void *)((uintptr_t)last + (uintptr_t)bytes), q));
	}
	operand->inverse = q->inverse;
	return mt_engine_enqueue(e, &op);
}

int mt_fp8_product(const struct mt_engine *e, int weight)
{
	return e->fp8.product_of && weight >= 0 ? e->fp8.product_of[weight] : -1;
}

static int64_t tensor_of(int product, int kind)
{
	return (int64_t)product * KINDS + kind;
}

enum mt_status mt_fp8_forward(struct mt_engine *e, int product, struct mt_op *op)
{
	struct mt_linear *l = &op->linear;
	struct operand x, w;

	MT_TRY(quantize(e, tensor_of(product, X), l->x, l->rows, l->in, true, true, false, &x));
	MT_TRY(quantize(e, tensor_of(product, W), l->w, l->out, l->in, true, true, false, &w));
	l->fp8 = e->layout->fp8_format;
	l->x = x.codes;
	l->w = w.codes;
	l->x_inverse = x.inverse;
	l->w_inverse = w.inverse;
	MT_TRY(mt_engine_enqueue(e, op));
	mt_engine_release(e, &w.codes);
	mt_engine_release(e, &x.codes);
	return MT_OK;
}

static void drop_kept(struct mt_engine *e)
{
	if (e->fp8.kept)
		mt_engine_release(e, &e->fp8.kept);
	e->fp8.kept_dy = NULL;
}

enum mt_status mt_fp8_dgrad(struct mt_engine *e, int product, struct mt_op *op)
{
	struct mt_linear *l = &op->linear;
	struct operand dy, w;

	drop_kept(e);
	MT_TRY(quantize(e, tensor_of(product, DY), l->dy, l->rows, l->out, true, true, e->layout->fp8_wgrad, &dy));
	MT_TRY(quantize(e, tensor_of(product, W), l->w, l->out, l->in, false, false, true, &w));
	e->fp8.kept = dy.turned;
	e->fp8.kept_dy = l->dy;
	e->fp8.kept_inverse = dy.inverse;
	l->fp8 = e->layout->fp8_format;
	l->dy = dy.codes;
	l->w = w.turned;
	l->dy_inverse = dy.inverse;
	l->w_inverse = w.inverse;
	MT_TRY(mt_engine_enqueue(e, op));
	mt_engine_release(e, &w.turned);
	mt_engine_release(e, &dy.codes);
	return MT_OK;
}

/* Put off, the note owns both operands: what they were rounded from may go. */
enum mt_status mt_fp8_wgrad(struct mt_engine *e, int product, struct mt_op *op)
{
	struct mt_fp8 *f = &e->fp8;
	struct mt_linear *l = &op->linear;
	struct operand x, dy;

	if (f->kept && f->kept_dy == l->dy) {
		dy = (struct operand){.turned = f->kept, .inverse = f->kept_inverse};
		f->kept = NULL;
	} else {
		MT_TRY(quantize(e, tensor_of(product, DY), l->dy, l->rows, l->out, true, false, true, &dy));
	}
	MT_TRY(quantize(e, tensor_of(product, X), l->x, l->rows, l->in, false, false, true, &x));
	l->fp8 = e->layout->fp8_format;
	l->x = x.turned;
	l->dy = dy.turned;
	l->x_inverse = x.inverse;
	l->dy_inverse = dy.inverse;
	if (e->collecting)
		return mt_wgrads_note(e, op);
	MT_TRY(mt_engine_enqueue(e, op));
	mt_engine_release(e, &x.turned);
	mt_engine_release(e, &dy.turned);
	return MT_OK;
}

/* ---- scales from step to step ---- */

void mt_fp8_begin(struct mt_engine *e)
{
	if (e->fp8.found)
		memset(e->fp8.found, 0, (size_t)(e->fp8.tensors / KINDS) * sizeof *e->fp8.found);
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
	MT_TRY(clear(e, f->amax, f->tensors));
	row = history_row(e, f->steps++);
	for (int64_t t = 0; t < f->tensors; t++)
		row[t] = isfinite(f->host[t]) ? f->host[t] : 0;
	for (int64_t t = 0; t < f->tensors; t++) {
		float amax = amax_of(e, t);

		if (amax > 0)
			f->host[f->tensors + t] = mt_fp8_scale(amax, type_of(e, t), (int)e->layout->fp8_margin);
	}
	return send_scales(e);
}

/* ---- set-up ---- */

/* Products of a layer by the roles of their weights; those that lie beside each other are one. */
static void map_layer(struct mt_engine *e, const int *at, int64_t layer)
{
	const int roles[PRODUCTS] = {MT_ATTN_Q, MT_ATTN_OUT, e->model->mlp == MT_MODEL_SWIGLU ? MT_MLP_GATE : MT_MLP_UP,
				     MT_MLP_DOWN};

	for (int which = 0; which < PRODUCTS; which++) {
		if (at[roles[which]] >= 0)
			e->fp8.product_of[at[roles[which]]] = (int)layer * PRODUCTS + which;
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
	f->tensors = e->model->layers * PRODUCTS * KINDS;
	f->product_of = malloc(((size_t)e->table.count + 1) * sizeof *f->product_of);
	f->history = calloc((size_t)(l->fp8_history * f->tensors), sizeof *f->history);
	f->host = calloc((size_t)f->tensors * 3, sizeof *f->host);
	f->found = calloc((size_t)(f->tensors / KINDS), sizeof *f->found);
	if (!f->product_of || !f->history || !f->host || !f->found)
		return mt_fail(MT_NOMEM, "no memory for the scales of %lld tensors in fp8", (long long)f->tensors);
	map_products(e);
	MT_TRY(mt_engine_alloc(e, ARENA_OPTIMIZER, f->tensors, MT_F32, &f->amax));
	MT_TRY(mt_engine_alloc(e, ARENA_OPTIMIZER, 2 * f->tensors, MT_F32, &f->scales));
	for (int64_t t = 0; t < f->tensors; t++)
		f->host[f->tensors + t] = 1;
	MT_TRY(clear(e, f->amax, f->tensors));
	return send_scales(e);
}

void mt_fp8_close(struct mt_engine *e)
{
	struct mt_fp8 *f = &e->fp8;

	drop_kept(e);
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
	MT_TRY(clear(e, f->amax, f->tensors));
	MT_TRY(send_scales(e));
	return mt_stream_synchronize(e->compute);
}
