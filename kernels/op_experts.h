/* op_experts: within kernels: keys, checks and costs of the operations of experts, for op.c and its neighbours. */
#ifndef MT_KERNELS_OP_EXPERTS_H
#define MT_KERNELS_OP_EXPERTS_H

#include "kernels/op.h"

void mt_op_experts_key(const struct mt_op *op, int64_t dims[MT_OP_DIMS]);
/* A word before the sizes, and which dims are sizes. */
const char *mt_op_experts_text(const struct mt_op_key *key, int *skip, int *sizes);
/* The reason why the shape is refused, NULL when it is fine. */
const char *mt_op_experts_check(const struct mt_op *op);
/* Bytes that move at least; a: of the type, s: of what op.h calls f32. */
double mt_op_experts_bytes(const struct mt_op_key *key, double a, double s);

/* The product of one group of GROUPED, GROUPED_DGRAD or GROUPED_WGRAD: a LINEAR, LINEAR_DGRAD or LINEAR_WGRAD. */
void mt_op_group(const struct mt_op *op, int64_t group, struct mt_op *one);

#endif
