/* experts: products of groups of rows, rows brought to their experts and back, and the weighted activation. */
#include "kernels/op_experts.h"
#include "kernels/reference/reference.h"

#include <stdlib.h>
#include <string.h>

enum mt_status mt_reference_grouped(const struct mt_op *op)
{
	for (int64_t group = 0; group < op->grouped.groups; group++) {
		struct mt_op one;

		mt_op_group(op, group, &one);
		if (one.linear.rows == 0)
			continue;
		if (op->kind == MT_OP_GROUPED)
			MT_TRY(mt_reference_linear(&one));
		else if (op->kind == MT_OP_GROUPED_DGRAD)
			MT_TRY(mt_reference_linear_dgrad(&one));
		else
			MT_TRY(mt_reference_linear_wgrad(&one));
	}
	return MT_OK;
}

/* Whether choice `i` of its sequence is among the first `capacity` of its expert. */
static bool fits(const struct mt_op *op, int64_t i)
{
	const struct mt_rows *r = &op->rows;
	const int32_t *index = r->index;
	int64_t block = r->seq * r->choices, first = i / block * block, last = first + block, before = 0;

	if (last > r->rows * r->choices)
		last = r->rows * r->choices;
	for (int64_t o = first; o < last; o++) {
		bool earlier = o < i;

		if (index[o] != index[i] || o == i)
			continue;
		if (r->by_weight) {
			double mine = load(op->dtype, r->weights, i), other = load(op->dtype, r->weights, o);

			earlier = other > mine || (other == mine && o < i);
		}
		before += earlier;
	}
	return before < r->capacity;
}

enum mt_status mt_reference_drop(const struct mt_op *op)
{
	const struct mt_rows *r = &op->rows;
	const int32_t *index = r->index;
	int64_t first = r->first_row * r->choices;

	for (int64_t i = 0; i < r->count * r->choices; i++)
		((int32_t *)r->kept)[i] = index[first + i] >= 0 && fits(op, first + i) ? index[first + i] : -1;
	return MT_OK;
}

enum mt_status mt_reference_dispatch(const struct mt_op *op)
{
	const struct mt_rows *r = &op->rows;
	const int32_t *index = r->index;
	int32_t *place = r->place, *source = r->source, *counts = r->counts;
	int32_t next = 0;

	for (int64_t i = 0; i < (r->padding ? r->experts * r->padding : r->rows * r->choices); i++)
		source[i] = -1;
	for (int64_t expert = 0; expert < r->experts; expert++) {
		int32_t first = r->padding ? (int32_t)(expert * r->padding) : next;

		next = first;
		for (int64_t i = 0; i < r->rows * r->choices; i++) {
			if (index[i] < 0)
				place[i] = -1;
			if (index[i] != expert)
				continue;
			source[next] = (int32_t)i;
			place[i] = next++;
		}
		counts[expert] = r->padding ? (int32_t)r->padding : next - first;
	}
	return MT_OK;
}

enum mt_status mt_reference_gather_rows(const struct mt_op *op)
{
	const struct mt_rows *r = &op->rows;
	const int32_t *index = r->index;
	size_t bytes = (size_t)r->cols * mt_dtype_bytes(op->dtype);

	for (int64_t i = 0; i < r->rows; i++) {
		char *out = (char *)r->out + (size_t)i * bytes;

		if (index[i] < 0)
			memset(out, 0, bytes);
		else
			memcpy(out, (const char *)r->in + (size_t)(index[i] / r->divide) * bytes, bytes);
	}
	return MT_OK;
}

enum mt_status mt_reference_sum_rows(const struct mt_op *op)
{
	const struct mt_rows *r = &op->rows;
	const int32_t *index = r->index;

	for (int64_t i = 0; i < r->rows; i++) {
		for (int64_t c = 0; c < r->cols; c++) {
			double sum = 0;

			for (int64_t k = 0; k < r->choices; k++) {
				for (int64_t s = 0; s < r->slices && index[i * r->choices + k] >= 0; s++)
					sum += load(op->dtype, r->in,
						    (index[i * r->choices + k] + s * r->slice_rows) * r->cols + c);
			}
			store(op->dtype, r->out, i * r->cols + c, sum);
		}
	}
	return MT_OK;
}

/* A row at a time, in doubles, through the plain activation. */
static enum mt_status act_rows(const struct mt_op *op, double *x, double *y)
{
	const struct mt_expert_act *a = &op->expert_act;
	int64_t F = a->act.cols, width = a->act.kind == MT_SWIGLU ? 2 * F : F;
	struct mt_op one = {.kind = MT_OP_ACTIVATION, .dtype = MT_F64};

	one.activation = (struct mt_activation){.kind = a->act.kind, .rows = 1, .cols = F, .x = x, .y = y, .dy = y, .dx = x};
	for (int64_t row = 0; row < a->act.rows; row++) {
		double weight = load(wide(op), a->weights, row), sum = 0;

		for (int64_t c = 0; c < width; c++)
			x[c] = load(op->dtype, a->act.x, row * width + c);
		MT_TRY(mt_reference_activation(&one));
		if (op->kind == MT_OP_EXPERT_ACT) {
			for (int64_t c = 0; c < F; c++)
				store(op->dtype, a->act.y, row * F + c, weight * y[c]);
			continue;
		}
		for (int64_t c = 0; c < F; c++) {
			double dy = load(op->dtype, a->act.dy, row * F + c);

			sum += dy * y[c];
			y[c] = weight * dy;
		}
		MT_TRY(mt_reference_activation_bwd(&one));
		for (int64_t c = 0; c < width; c++)
			store(op->dtype, a->act.dx, row * width + c, x[c]);
		store(wide(op), a->dweights, row, sum);
	}
	return MT_OK;
}

enum mt_status mt_reference_expert_act(const struct mt_op *op)
{
	double *scratch = calloc((size_t)op->expert_act.act.cols * 3, sizeof *scratch);
	enum mt_status st;

	if (!scratch)
		return mt_fail(MT_NOMEM, "reference device: no memory for a row of %lld", (long long)op->expert_act.act.cols);
	st = act_rows(op, scratch, scratch + 2 * op->expert_act.act.cols);
	free(scratch);
	return st;
}
