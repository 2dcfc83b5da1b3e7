/* op_experts: see op_experts.h. The number of rows is what the operation was given: how they are spread over the experts
 * is data, and no part of a key. */
#include "kernels/op_experts.h"

#include "kernels/fp8.h"

#include <stddef.h>

static void set(int64_t dims[MT_OP_DIMS], int64_t a, int64_t b, int64_t c, int64_t d, int64_t e)
{
	dims[0] = a;
	dims[1] = b;
	dims[2] = c;
	dims[3] = d;
	dims[4] = e;
	for (int i = 5; i < MT_OP_DIMS; i++)
		dims[i] = 0;
}

void mt_op_experts_key(const struct mt_op *op, int64_t dims[MT_OP_DIMS])
{
	const struct mt_rows *r = &op->rows;

	switch (op->kind) {
	case MT_OP_GROUPED:
	case MT_OP_GROUPED_DGRAD:
	case MT_OP_GROUPED_WGRAD:
		set(dims, op->grouped.linear.rows, op->grouped.linear.in, op->grouped.linear.out, op->grouped.groups,
		    op->grouped.linear.fp8);
		return;
	case MT_OP_DROP:
		set(dims, r->rows, r->choices, r->experts, 0, 0);
		return;
	case MT_OP_DISPATCH:
		set(dims, r->rows, r->choices, r->experts, r->padding, 0);
		return;
	case MT_OP_GATHER_ROWS:
		set(dims, r->rows, r->cols, 0, 0, 0);
		return;
	case MT_OP_SUM_ROWS:
		set(dims, r->rows, r->cols, r->choices * r->slices, 0, 0);
		return;
	case MT_OP_EXPERT_ACT:
	case MT_OP_EXPERT_ACT_BWD:
		set(dims, (int64_t)op->expert_act.act.kind, op->expert_act.act.rows, op->expert_act.act.cols, 0, 0);
		return;
	default:
		set(dims, op->route.rows, op->route.experts, op->route.choices, (int64_t)op->route.kind, op->route.sets);
	}
}

const char *mt_op_experts_text(const struct mt_op_key *key, int *skip, int *sizes)
{
	*skip = 0;
	*sizes = 3;
	switch ((enum mt_op_kind)key->kind) {
	case MT_OP_GROUPED:
	case MT_OP_GROUPED_DGRAD:
	case MT_OP_GROUPED_WGRAD:
	case MT_OP_DISPATCH:
		*sizes = 4;
		return "";
	case MT_OP_GATHER_ROWS:
		*sizes = 2;
		return "";
	case MT_OP_EXPERT_ACT:
	case MT_OP_EXPERT_ACT_BWD:
		*skip = 1;
		*sizes = 2;
		return key->dims[0] == MT_SWIGLU ? "swiglu " : "gelu ";
	case MT_OP_DROP:
	case MT_OP_SUM_ROWS:
		return "";
	default:
		return key->dims[3] == MT_ROUTE_SIGMOID ? "sigmoid " : "softmax ";
	}
}

static const char *check_grouped(const struct mt_grouped *g)
{
	if (g->linear.rows < 0 || g->linear.in < 1 || g->linear.out < 1 || g->groups < 1)
		return "in, out and groups must be at least 1 and rows not negative";
	if ((unsigned)g->linear.fp8 > MT_FP8_E4M3)
		return "fp8 must be off, hybrid or e4m3";
	if (!g->offsets)
		return NULL;
	if (g->offsets[0] != 0 || g->offsets[g->groups] != g->linear.rows)
		return "offsets must go from 0 to rows";
	for (int64_t i = 0; i < g->groups; i++) {
		if (g->offsets[i + 1] < g->offsets[i])
			return "offsets must not fall";
	}
	return NULL;
}

static const char *check_route(const struct mt_op *op)
{
	const struct mt_route *r = &op->route;

	if (mt_dtype_is_half(op->dtype))
		return "routing is done in f32 or f64";
	if ((unsigned)r->kind > MT_ROUTE_SIGMOID)
		return "the kind must be softmax or sigmoid";
	if (r->rows < 0 || r->experts < 1 || r->choices < 1 || r->choices > r->experts)
		return "rows must not be negative and choices 1 to experts";
	if (r->sets > 1 && (r->experts % r->sets || r->set_choices < 1 || r->set_choices > r->sets ||
			    r->choices > r->set_choices * (r->experts / r->sets)))
		return "sets must divide experts, and those chosen hold as many experts as there are choices";
	if (r->sets > 1 && (r->set_best < 1 || r->set_best > r->experts / r->sets))
		return "a set is scored by 1 to all of its experts";
	if (op->kind != MT_OP_ROUTE && (r->sequences < 0 || r->seq < 1 || r->first_row < 0))
		return "seq must be at least 1, sequences and first_row not negative";
	return NULL;
}

static const char *check_rows(const struct mt_op *op)
{
	const struct mt_rows *r = &op->rows;

	if (r->rows < 0)
		return "rows must not be negative";
	switch (op->kind) {
	case MT_OP_GATHER_ROWS:
		return r->cols < 1 || r->divide < 1 ? "cols and divide must be at least 1" : NULL;
	case MT_OP_SUM_ROWS:
		return r->cols < 1 || r->choices < 1 || r->slices < 1 ? "cols, choices and slices must be at least 1" : NULL;
	default:
		break;
	}
	if (mt_dtype_is_half(op->dtype))
		return "routing is done in f32 or f64";
	if (r->choices < 1 || r->experts < 1 || r->padding < 0)
		return "choices and experts must be at least 1 and padding not negative";
	if (r->rows > INT32_MAX / r->choices || r->padding > INT32_MAX / r->experts)
		return "places must fit 31 bits";
	if (op->kind == MT_OP_DROP &&
	    (r->capacity < 1 || r->seq < 1 || r->first_row < 0 || r->count < 0 || r->first_row + r->count > r->rows))
		return "capacity and seq must be at least 1 and the rows kept among all";
	return NULL;
}

const char *mt_op_experts_check(const struct mt_op *op)
{
	const struct mt_activation *a = &op->expert_act.act;

	switch (op->kind) {
	case MT_OP_GROUPED:
	case MT_OP_GROUPED_DGRAD:
	case MT_OP_GROUPED_WGRAD:
		return check_grouped(&op->grouped);
	case MT_OP_DROP:
	case MT_OP_DISPATCH:
	case MT_OP_GATHER_ROWS:
	case MT_OP_SUM_ROWS:
		return check_rows(op);
	case MT_OP_EXPERT_ACT:
	case MT_OP_EXPERT_ACT_BWD:
		if ((unsigned)a->kind > MT_SWIGLU)
			return "the kind must be gelu or swiglu";
		return a->rows < 0 || a->cols < 1 ? "cols must be at least 1 and rows not negative" : NULL;
	default:
		return check_route(op);
	}
}

double mt_op_experts_bytes(const struct mt_op_key *key, double a, double s)
{
	double d0 = (double)key->dims[0], d1 = (double)key->dims[1], d2 = (double)key->dims[2], d3 = (double)key->dims[3];
	double b = key->dims[4] ? 1 : a; /* of an operand: codes of a byte */

	switch ((enum mt_op_kind)key->kind) {
	case MT_OP_GROUPED:
		return b * (d0 * d1 + d1 * d2 * d3) + a * d0 * d2;
	case MT_OP_GROUPED_DGRAD:
		return b * (d0 * d2 + d1 * d2 * d3) + a * d0 * d1;
	case MT_OP_GROUPED_WGRAD:
		return b * d0 * (d1 + d2) + 2 * s * d1 * d2 * d3;
	case MT_OP_ROUTE:
		return s * d0 * (d1 + d2) + 4 * d0 * d2;
	case MT_OP_ROUTE_SUMS:
	case MT_OP_ROUTE_LOSS:
		return s * d0 * d1 + 4 * d0 * d2;
	case MT_OP_ROUTE_BWD:
		return s * d0 * (2 * d1 + d2) + 4 * d0 * d2;
	case MT_OP_DROP:
		return (s + 8) * d0 * d1;
	case MT_OP_DISPATCH:
		return 12 * d0 * d1;
	case MT_OP_GATHER_ROWS:
		return (2 * a * d1 + 4) * d0;
	case MT_OP_SUM_ROWS:
		return (a * d1 * (d2 + 1) + 4 * d2) * d0;
	case MT_OP_EXPERT_ACT:
		return (a * d2 * (d0 == MT_SWIGLU ? 3 : 2) + s) * d1;
	default: /* EXPERT_ACT_BWD */
		return (a * d2 * (d0 == MT_SWIGLU ? 5 : 3) + 2 * s) * d1;
	}
}

static void *element(const void *base, int64_t index, enum mt_dtype dtype)
{
	return base ? (char *)(uintptr_t)base + index * (int64_t)mt_dtype_bytes(dtype) : NULL;
}

/* The first row of a group. */
static int64_t first_row(const struct mt_grouped *g, int64_t group)
{
	int64_t each = g->linear.rows / g->groups, rest = g->linear.rows % g->groups;

	return g->offsets ? g->offsets[group] : group * each + (group < rest ? group : rest);
}

/* Rows before a group where each is filled up. */
static int64_t rows_before(const struct mt_grouped *g, int64_t group)
{
	int64_t rows = 0;

	for (int64_t i = 0; i < group; i++)
		rows += mt_op_group_rows(first_row(g, i + 1) - first_row(g, i));
	return rows;
}

void mt_op_group(const struct mt_op *op, int64_t group, struct mt_op *one)
{
	static const enum mt_op_kind kinds[] = {MT_OP_LINEAR, MT_OP_LINEAR_DGRAD, MT_OP_LINEAR_WGRAD};
	const struct mt_grouped *g = &op->grouped;
	const struct mt_linear *l = &g->linear;
	enum mt_dtype sums = op->dtype == MT_F64 ? MT_F64 : MT_F32, operand = l->fp8 ? MT_E4M3 : op->dtype;
	bool turned = l->fp8 && op->kind == MT_OP_GROUPED_WGRAD;
	int64_t first = first_row(g, group), rows = first_row(g, group + 1) - first, weight = group * l->in * l->out;
	int64_t code = turned ? rows_before(g, group) : first;

	*one = (struct mt_op){.kind = kinds[op->kind - MT_OP_GROUPED], .dtype = op->dtype};
	one->linear = (struct mt_linear){.rows = turned ? mt_op_group_rows(rows) : rows,
					 .in = l->in,
					 .out = l->out,
					 .fp8 = l->fp8,
					 .x_inverse = l->x_inverse,
					 .w_inverse = element(l->w_inverse, group, MT_F32),
					 .dy_inverse = l->dy_inverse,
					 .x = element(l->x, code * l->in, operand),
					 .w = element(l->w, weight, operand),
					 .dy = element(l->dy, code * l->out, operand),
					 .y = element(l->y, first * l->out, op->dtype),
					 .dx = element(l->dx, first * l->in, op->dtype),
					 .dw = element(l->dw, weight, sums)};
}
