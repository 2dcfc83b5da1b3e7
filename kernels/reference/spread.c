/* spread: keys and values of latent attention, (R,H,nope+rotary) and (R,H,value), from kv(R,H,nope+value) and the part of the key
 * that all heads share, and back (kernels/op.h). */
#include "kernels/reference/reference.h"

enum mt_status mt_reference_spread(const struct mt_op *op)
{
	const struct mt_spread *s = &op->spread;
	enum mt_dtype t = op->dtype;

	for (int64_t i = 0; i < s->rows * s->heads; i++) {
		for (int64_t d = 0; d < s->nope; d++)
			store(t, s->k, i * (s->nope + s->rotary) + d, load(t, s->kv, i * (s->nope + s->value) + d));
		for (int64_t d = 0; d < s->rotary; d++)
			store(t, s->k, i * (s->nope + s->rotary) + s->nope + d, load(t, s->rope, i / s->heads * s->rotary + d));
		for (int64_t d = 0; d < s->value; d++)
			store(t, s->v, i * s->value + d, load(t, s->kv, i * (s->nope + s->value) + s->nope + d));
	}
	return MT_OK;
}

enum mt_status mt_reference_spread_bwd(const struct mt_op *op)
{
	const struct mt_spread *s = &op->spread;
	enum mt_dtype t = op->dtype;

	for (int64_t i = 0; i < s->rows * s->heads; i++) {
		for (int64_t d = 0; d < s->nope; d++)
			store(t, s->kv, i * (s->nope + s->value) + d, load(t, s->k, i * (s->nope + s->rotary) + d));
		for (int64_t d = 0; d < s->value; d++)
			store(t, s->kv, i * (s->nope + s->value) + s->nope + d, load(t, s->v, i * s->value + d));
	}
	for (int64_t row = 0; row < s->rows; row++) {
		for (int64_t d = 0; d < s->rotary; d++) {
			double sum = 0;
			for (int64_t h = 0; h < s->heads; h++)
				sum += load(t, s->k, (row * s->heads + h) * (s->nope + s->rotary) + s->nope + d);
			store(t, s->rope, row * s->rotary + d, sum);
		}
	}
	return MT_OK;
}
