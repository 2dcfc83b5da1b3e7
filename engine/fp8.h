/* fp8: products of the layers in 8 bits, see fp8.c. */
#ifndef MT_ENGINE_FP8_H
#define MT_ENGINE_FP8_H

#include "base/status.h"
#include "kernels/op.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct mt_engine;

struct mt_fp8 {
	bool delayed;
	int *product_of; /* owned, by parameter: the product (fp8_private.h); -1: none in fp8 */
	int64_t products;
	int64_t tensors;     /* three a product: x, w, dy; then the weights of experts */
	void *amax, *scales; /* device, f32: (tensors) of this step; scale, then its inverse (2, tensors) */
	float *history;      /* owned: (fp8_history, tensors), a ring of steps */
	float *host;         /* owned: (3, tensors) amax, scale, inverse */
	int64_t steps;       /* that have gone into the history */
	bool *found;         /* owned, by product: the scale of its weight, for this step */
	/* dy of the last input gradient, turned for the weight gradient that follows */
	const void *kept_dy, *kept_inverse;
	void *kept;
};

enum mt_status mt_fp8_open(struct mt_engine *e);
void mt_fp8_close(struct mt_engine *e); /* before the arenas go */
/* The product that a weight is of, -1 when it is not done in fp8. */
int mt_fp8_product(const struct mt_engine *e, int weight);
/* The three products, plain or grouped; `op` has what it would have without fp8. */
enum mt_status mt_fp8_forward(struct mt_engine *e, int product, struct mt_op *op);
enum mt_status mt_fp8_dgrad(struct mt_engine *e, int product, struct mt_op *op);
enum mt_status mt_fp8_wgrad(struct mt_engine *e, int product, struct mt_op *op);
/* Before passes with weights that may be new; after the passes of a step: scales for the next one. */
void mt_fp8_begin(struct mt_engine *e);
enum mt_status mt_fp8_finish(struct mt_engine *e);
/* The state a checkpoint keeps, the same on every rank (NULL: none), and back. */
json_t *mt_fp8_json(const struct mt_engine *e);
enum mt_status mt_fp8_load(struct mt_engine *e, const json_t *state);

#endif
