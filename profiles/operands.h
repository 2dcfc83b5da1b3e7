/* operands: from the key of an operation back to an operation, and the list of buffers it needs. Inside of this room only. */
#ifndef MT_PROFILES_OPERANDS_H
#define MT_PROFILES_OPERANDS_H

#include "base/status.h"
#include "kernels/op.h"

#include <stddef.h>

enum operand_fill {
	OPERAND_NORMAL, /* activations and weights: normal, standard deviation 0.5 */
	OPERAND_ONE,    /* what must be positive: rstd, second moments, sums of exp */
	OPERAND_INDEX,  /* i32 in [0, bound) */
};

struct operand {
	size_t field; /* offset in struct mt_op of the pointer to set */
	int64_t count;
	enum mt_dtype dtype;
	enum operand_fill fill;
	int64_t bound;
	bool cold; /* lives in memory when the engine uses it: weights, gradients, optimizer state; others come from the op before
		    */
};

#define OPERANDS_MOST 12

struct operands {
	struct mt_op op; /* shapes set, pointers NULL */
	int count;
	struct operand list[OPERANDS_MOST];
};

/* Strides that the key does not hold are as the engine packs: q, k, v of attention in one buffer; copies out of rows
 * twice as long. MT_INPUT for a key that no operation has. */
enum mt_status mt_operands_of(const struct mt_op_key *key, struct operands *operands);

/* operands_experts.c: families of mt_operands_of. */
void mt_operands_grouped(const int64_t *dims, struct operands *to);
void mt_operands_route(const int64_t *dims, struct operands *to);
void mt_operands_rows(const int64_t *dims, struct operands *to);
void mt_operands_expert_act(const int64_t *dims, struct operands *to);

static inline size_t mt_operand_bytes(const struct operand *operand)
{
	return (size_t)operand->count * mt_dtype_bytes(operand->dtype);
}

#endif
