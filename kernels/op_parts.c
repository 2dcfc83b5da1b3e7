/* op_parts: what a product with an epilogue stands for. A device without one runs these in its place, where nobody has measured the
 * whole its cost is theirs, and the answer of the whole is theirs but for roundings between them. */
#include "kernels/op.h"

/* GELU of what the product gave, which stays in pre. */
static struct mt_op gelu_of(const struct mt_op *op)
{
	struct mt_op gelu = {.kind = MT_OP_ACTIVATION, .dtype = op->dtype};
	const struct mt_linear *l = &op->linear;
	gelu.activation = (struct mt_activation){.kind = MT_GELU, .rows = l->rows, .cols = l->out, .x = l->pre, .y = l->y};
	return gelu;
}

/* The gradient through GELU, in place. */
static struct mt_op gelu_gradient_of(const struct mt_op *op)
{
	struct mt_op gelu = {.kind = MT_OP_ACTIVATION_BWD, .dtype = op->dtype};
	const struct mt_linear *l = &op->linear;
	gelu.activation =
		(struct mt_activation){.kind = MT_GELU, .rows = l->rows, .cols = l->in, .x = l->pre, .dy = l->dx, .dx = l->dx};
	return gelu;
}

static struct mt_op sums_of(const struct mt_op *op)
{
	struct mt_op sums = {.kind = MT_OP_BIAS_GRAD, .dtype = op->dtype};
	const struct mt_linear *l = &op->linear;
	bool of_dx = op->kind == MT_OP_LINEAR_DGRAD;
	sums.add = (struct mt_add){.rows = l->rows, .cols = of_dx ? l->in : l->out, .a = of_dx ? l->dx : l->dy, .out = l->dbias};
	return sums;
}

int mt_op_parts(const struct mt_op *op, struct mt_op parts[MT_OP_MOST_PARTS])
{
	int count = 1;
	parts[0] = *op;
	if (!mt_op_is_fused(op))
		return count;
	parts[0].linear.pre = parts[0].linear.dbias = NULL;
	if (op->kind == MT_OP_LINEAR) {
		parts[0].linear.y = op->linear.pre;
		parts[count++] = gelu_of(op);
		return count;
	}
	if (op->linear.pre)
		parts[count++] = gelu_gradient_of(op);
	if (op->linear.dbias)
		parts[count++] = sums_of(op);
	return count;
}

int mt_op_key_parts(const struct mt_op_key *key, struct mt_op_key parts[MT_OP_MOST_PARTS])
{
	static char some; /* no more than an address that is not NULL */
	const int64_t *d = key->dims;
	struct mt_op op = {.kind = (enum mt_op_kind)key->kind, .dtype = (enum mt_dtype)key->dtype}, ops[MT_OP_MOST_PARTS];
	parts[0] = *key;
	if (key->kind > MT_OP_LINEAR_WGRAD || !(d[3] & (MT_LINEAR_GELU | MT_LINEAR_DBIAS)))
		return 1;
	op.linear = (struct mt_linear){.rows = d[0], .in = d[1], .out = d[2], .fp8 = (int)d[4]};
	op.linear.bias = d[3] & MT_LINEAR_BIAS ? &some : NULL;
	op.linear.pre = d[3] & MT_LINEAR_GELU ? &some : NULL;
	op.linear.dbias = d[3] & MT_LINEAR_DBIAS ? &some : NULL;
	int count = mt_op_parts(&op, ops);
	for (int i = 0; i < count; i++)
		mt_op_key(&ops[i], &parts[i]);
	return count;
}
