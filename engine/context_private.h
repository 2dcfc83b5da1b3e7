/* context_private: what the files of attention across ranks share. */
#ifndef MT_ENGINE_CONTEXT_PRIVATE_H
#define MT_ENGINE_CONTEXT_PRIVATE_H

#include "engine/context.h"
#include "engine/internal.h"

static inline void *mt_context_at(const struct mt_engine *e, const void *base, int64_t element)
{
	return (void *)((uintptr_t)base + (uintptr_t)element * mt_dtype_bytes(e->dtype));
}

static inline void *mt_context_at_stat(const struct mt_engine *e, const void *base, int64_t element)
{
	return (void *)((uintptr_t)base + (uintptr_t)element * mt_dtype_bytes(mt_grad_dtype(e->dtype)));
}

static inline const void *mt_context_at_start(const void *base, int64_t element)
{
	return base ? (const void *)((uintptr_t)base + (uintptr_t)element * sizeof(int32_t)) : NULL;
}

/* Columns of a head of values, and from row to row of them. */
static inline int64_t mt_context_v_dim(const struct mt_attention *a)
{
	return mt_attention_v_dim(a);
}

static inline int64_t mt_context_v_stride(const struct mt_attention *a)
{
	return mt_attention_v_stride(a);
}

/* Keys and values of a row, side by side in one buffer: of all columns, and of those of keys. */
static inline int64_t mt_context_key_cols(const struct mt_attention *a)
{
	return a->kv_heads * a->head_dim;
}

static inline int64_t mt_context_kv_cols(const struct mt_attention *a)
{
	return mt_context_key_cols(a) + a->kv_heads * mt_context_v_dim(a);
}

/* Attention over the keys and values of such a buffer, whose gradients go to another (NULL: forward). */
static inline void mt_context_set_keys(const struct mt_engine *e, struct mt_attention *a, const void *keys, void *gradients)
{
	a->kv_stride = a->v_stride = mt_context_kv_cols(a);
	a->k = keys;
	a->v = mt_context_at(e, keys, mt_context_key_cols(a));
	a->dk = gradients;
	a->dv = gradients ? mt_context_at(e, gradients, mt_context_key_cols(a)) : NULL;
}

/* A new tensor of the activations. */
static inline enum mt_status mt_context_alloc(struct mt_engine *e, int64_t elements, void **pointer)
{
	return mt_engine_alloc(e, ARENA_ACTIVATIONS, elements, e->dtype, pointer);
}

/* Keys and values of `rows` rows, or their gradients, to such a buffer and from it. */
enum mt_status mt_context_take_keys(struct mt_engine *e, const struct mt_attention *a, int64_t rows, void *keys);
enum mt_status mt_context_give_gradients(struct mt_engine *e, const struct mt_attention *a, int64_t rows, const void *gradients);
/* Columns of `rows` rows, from one stride to another. */
enum mt_status mt_context_copy(struct mt_engine *e, const void *from, int64_t from_stride, void *to, int64_t to_stride,
			       int64_t rows, int64_t cols);
enum mt_status mt_context_enqueue(struct mt_engine *e, enum mt_op_kind kind, const struct mt_attention *args);

/* context_heads.c: columns of this rank's rows: `cols` of them, a multiple of inner, `stride` apart from row to row. */
struct mt_context_columns {
	void *base;
	int64_t stride, cols;
};
/* whole, new: (B, part's rows, a share of the columns of each, side by side); `inner` 1 is not asked for. */
enum mt_status mt_context_to_part(struct mt_engine *e, const struct mt_context_columns *columns, int count, void **whole);
/* Back: the columns are written. */
enum mt_status mt_context_from_part(struct mt_engine *e, const void *whole, const struct mt_context_columns *columns, int count);

/* Attention of a part's queries, given as `own`: that over its own keys. Its starts are mt_context_starts' arrays. Backward: do,
 * dq, dk, dv and delta are given too. */
enum mt_status mt_context_gather(struct mt_engine *e, const struct mt_attention *own);
enum mt_status mt_context_gather_backward(struct mt_engine *e, const struct mt_attention *own);
enum mt_status mt_context_ring(struct mt_engine *e, const struct mt_attention *own);
enum mt_status mt_context_ring_backward(struct mt_engine *e, const struct mt_attention *own);

#endif
