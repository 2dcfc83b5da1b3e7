/* operands_experts: the operations of experts, as operands.c has the others. Rows are spread evenly over the experts. */
#include "profiles/operands.h"

#include "kernels/fp8.h"

#define FIELD(member) offsetof(struct mt_op, member)

static void add(struct operands *to, size_t field, int64_t count, enum mt_dtype dtype, enum operand_fill fill, bool cold)
{
	to->list[to->count++] = (struct operand){field, count, dtype, fill, 0, cold};
}

static void add_index(struct operands *to, size_t field, int64_t count, int64_t bound)
{
	to->list[to->count++] = (struct operand){field, count, MT_I32, OPERAND_INDEX, bound, false};
}

static enum mt_dtype wide(const struct operands *of)
{
	return of->op.dtype == MT_F64 ? MT_F64 : MT_F32;
}

/* Of a matrix in fp8 the scales too. */
static void add_operand(struct operands *to, size_t field, size_t inverse, int64_t scales, int64_t count, enum mt_dtype dtype,
			bool cold)
{
	add(to, field, count, dtype, OPERAND_NORMAL, cold);
	if (mt_dtype_is_fp8(dtype))
		add(to, inverse, scales, MT_F32, OPERAND_ONE, false);
}

void mt_operands_grouped(const int64_t *d, struct operands *to)
{
	enum mt_dtype t = to->op.dtype, forward = d[4] ? MT_E4M3 : t, backward = d[4] ? mt_fp8_gradient((int)d[4]) : t;
	int64_t rows = d[4] && to->op.kind == MT_OP_GROUPED_WGRAD ? d[0] + d[3] * (MT_FP8_ROWS - 1) : d[0]; /* at most */

	to->op.grouped = (struct mt_grouped){.linear = {.rows = d[0], .in = d[1], .out = d[2], .fp8 = (int)d[4]}, .groups = d[3]};
	if (to->op.kind != MT_OP_GROUPED)
		add_operand(to, FIELD(grouped.linear.dy), FIELD(grouped.linear.dy_inverse), 1, rows * d[2], backward, false);
	if (to->op.kind != MT_OP_GROUPED_DGRAD)
		add_operand(to, FIELD(grouped.linear.x), FIELD(grouped.linear.x_inverse), 1, rows * d[1], forward, false);
	if (to->op.kind != MT_OP_GROUPED_WGRAD)
		add_operand(to, FIELD(grouped.linear.w), FIELD(grouped.linear.w_inverse), d[3], d[1] * d[2] * d[3], forward, true);
	if (to->op.kind == MT_OP_GROUPED)
		add(to, FIELD(grouped.linear.y), d[0] * d[2], t, OPERAND_NORMAL, false);
	else if (to->op.kind == MT_OP_GROUPED_DGRAD)
		add(to, FIELD(grouped.linear.dx), d[0] * d[1], t, OPERAND_NORMAL, false);
	else
		add(to, FIELD(grouped.linear.dw), d[1] * d[2] * d[3], wide(to), OPERAND_NORMAL, true);
}

void mt_operands_route(const int64_t *d, struct operands *to)
{
	int64_t rows = d[0], experts = d[1], choices = d[2];

	to->op.route = (struct mt_route){.kind = (enum mt_route_kind)d[3],
					 .normalize = true,
					 .rows = rows,
					 .experts = experts,
					 .choices = choices,
					 .sets = d[4],
					 .set_choices = d[4],
					 .set_best = 1,
					 .scale = 1,
					 .sequences = 1,
					 .seq = rows > 0 ? rows : 1,
					 .aux_scale = 1,
					 .z_scale = 1};
	add(to, FIELD(route.logits), rows * experts, wide(to), OPERAND_NORMAL, false);
	if (to->op.kind != MT_OP_ROUTE_LOSS)
		add_index(to, FIELD(route.index), rows * choices, experts);
	if (to->op.kind != MT_OP_ROUTE)
		add(to, FIELD(route.sums), experts * 2, wide(to), OPERAND_ONE, false);
	if (to->op.kind == MT_OP_ROUTE)
		add(to, FIELD(route.weights), rows * choices, wide(to), OPERAND_ONE, false);
	if (to->op.kind == MT_OP_ROUTE_LOSS)
		add(to, FIELD(route.out), 2, MT_F64, OPERAND_NORMAL, false);
	if (to->op.kind == MT_OP_ROUTE_BWD) {
		add(to, FIELD(route.dweights), rows * choices, wide(to), OPERAND_NORMAL, false);
		add(to, FIELD(route.dlogits), rows * experts, wide(to), OPERAND_NORMAL, false);
	}
}

void mt_operands_rows(const int64_t *d, struct operands *to)
{
	struct mt_rows *r = &to->op.rows;
	int64_t rows = d[0], places;

	switch (to->op.kind) {
	case MT_OP_GATHER_ROWS:
		*r = (struct mt_rows){.rows = rows, .cols = d[1], .divide = 1};
		add_index(to, FIELD(rows.index), rows, rows);
		add(to, FIELD(rows.in), rows * d[1], to->op.dtype, OPERAND_NORMAL, false);
		add(to, FIELD(rows.out), rows * d[1], to->op.dtype, OPERAND_NORMAL, false);
		return;
	case MT_OP_SUM_ROWS:
		*r = (struct mt_rows){.rows = rows, .cols = d[1], .choices = d[2], .slices = 1};
		add_index(to, FIELD(rows.index), rows * d[2], rows * d[2]);
		add(to, FIELD(rows.in), rows * d[2] * d[1], to->op.dtype, OPERAND_NORMAL, false);
		add(to, FIELD(rows.out), rows * d[1], to->op.dtype, OPERAND_NORMAL, false);
		return;
	default:
		break;
	}
	*r = (struct mt_rows){.rows = rows, .choices = d[1], .experts = d[2], .padding = d[3]};
	add_index(to, FIELD(rows.index), rows * d[1], d[2]);
	if (to->op.kind == MT_OP_DROP) {
		r->capacity = rows * d[1] / d[2] + 1;
		r->seq = rows > 0 ? rows : 1;
		r->count = rows;
		add(to, FIELD(rows.weights), rows * d[1], wide(to), OPERAND_ONE, false);
		add(to, FIELD(rows.kept), rows * d[1], MT_I32, OPERAND_NORMAL, false);
		return;
	}
	/* Random choices may be more than an expert has places padded for: room for the last expert to get all. */
	places = r->padding > 0 ? d[2] * r->padding : 0;
	add(to, FIELD(rows.counts), d[2], MT_I32, OPERAND_NORMAL, false);
	add(to, FIELD(rows.place), rows * d[1], MT_I32, OPERAND_NORMAL, false);
	add(to, FIELD(rows.source), places + rows * d[1], MT_I32, OPERAND_NORMAL, false);
}

void mt_operands_expert_act(const int64_t *d, struct operands *to)
{
	enum mt_dtype t = to->op.dtype;
	int64_t out = d[1] * d[2], in = d[0] == MT_SWIGLU ? 2 * out : out;

	to->op.expert_act.act = (struct mt_activation){.kind = (enum mt_activation_kind)d[0], .rows = d[1], .cols = d[2]};
	add(to, FIELD(expert_act.act.x), in, t, OPERAND_NORMAL, false);
	add(to, FIELD(expert_act.weights), d[1], wide(to), OPERAND_ONE, false);
	if (to->op.kind == MT_OP_EXPERT_ACT) {
		add(to, FIELD(expert_act.act.y), out, t, OPERAND_NORMAL, false);
		return;
	}
	add(to, FIELD(expert_act.act.dy), out, t, OPERAND_NORMAL, false);
	add(to, FIELD(expert_act.act.dx), in, t, OPERAND_NORMAL, false);
	add(to, FIELD(expert_act.dweights), d[1], wide(to), OPERAND_NORMAL, false);
}
