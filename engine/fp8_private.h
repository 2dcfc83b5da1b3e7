/* fp8_private: what fp8.c and fp8_scales.c share: how tensors are numbered, and small steps. */
#ifndef MT_ENGINE_FP8_PRIVATE_H
#define MT_ENGINE_FP8_PRIVATE_H

#include "engine/internal.h"

#include "kernels/fp8.h"

/* Products: of each layer of the model these four, then of each layer those of its shared expert, up and down. */
enum { FP8_QKV, FP8_OUT, FP8_UP, FP8_DOWN, FP8_PRODUCTS };
/* Tensors: of each product these three, then (layer, up and down, expert) the weights of experts. */
enum { FP8_X, FP8_W, FP8_DY, FP8_KINDS };

enum mt_dtype mt_fp8_type(const struct mt_engine *e, int64_t tensor);
/* values(count) f32 = 0 */
enum mt_status mt_fp8_clear(struct mt_engine *e, void *values, int64_t count);
void mt_fp8_drop_kept(struct mt_engine *e);

#endif
