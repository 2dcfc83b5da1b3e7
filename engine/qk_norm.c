/* qk_norm: RMS norm of each head of queries and keys, one gain a head size, before they are rotated (Henry et al. 2020,
 * arXiv:2010.04245; as in Qwen 3).
 *
 *   qkv (R,(H+2G)D): each head h of D of the first H+G becomes h * rstd(h) * gain; as they were they go to qk (R,(H+G)D)
 *
 * so that what follows finds one buffer with or without it. Statistics: mean (not used) and rstd of the rows' query heads, R*H,
 * then of their key heads, R*G. */
#include "engine/internal.h"

struct part {
	int64_t heads, first; /* heads a row, and the column of the first */
	int gain;
};

static struct part part_of(const struct mt_engine *e, const int *at, int which)
{
	int64_t D = e->model->head_dim;

	return which == 0 ? (struct part){e->q_cols / D, 0, at[MT_ATTN_Q_NORM]}
			  : (struct part){e->kv_cols / D, e->q_cols, at[MT_ATTN_K_NORM]};
}

static void *column(const struct mt_engine *e, void *base, int64_t first)
{
	return (void *)((uintptr_t)base + (uintptr_t)first * mt_dtype_bytes(e->dtype));
}

/* What both directions need of a part. */
static struct mt_norm norm_of(const struct mt_engine *e, const struct mt_layer_saved *s, const struct part *p)
{
	int64_t D = e->model->head_dim, done = e->rows * p->first / D, rows = e->rows * p->heads;
	size_t size = mt_dtype_bytes(mt_grad_dtype(e->dtype));
	uintptr_t stats = (uintptr_t)s->qk_stats + (uintptr_t)(2 * done) * size;

	return (struct mt_norm){.kind = MT_NORM_RMS,
				.rows = rows,
				.cols = D,
				.eps = e->model->norm_eps,
				.gain = mt_engine_param(e, p->gain),
				.mean = (void *)stats,
				.rstd = (void *)(stats + (uintptr_t)rows * size),
				.heads = p->heads,
				.x_stride = e->q_cols + e->kv_cols,
				.y_stride = e->q_cols + 2 * e->kv_cols,
				.dx_stride = e->q_cols + 2 * e->kv_cols};
}

enum mt_status mt_qk_norm_forward(struct mt_engine *e, const int *at, struct mt_layer_saved *saved)
{
	int64_t D = e->model->head_dim, cols = e->q_cols + e->kv_cols;
	struct mt_op keep = {.kind = MT_OP_COPY, .dtype = e->dtype};

	MT_TRY(mt_engine_alloc(e, ARENA_ACTIVATIONS, e->rows * cols, e->dtype, &saved->qk));
	MT_TRY(mt_engine_alloc(e, ARENA_ACTIVATIONS, 2 * e->rows * (cols / D), mt_grad_dtype(e->dtype), &saved->qk_stats));
	keep.move = (struct mt_move){.rows = e->rows,
				     .cols = cols,
				     .src_stride = cols + e->kv_cols,
				     .dst_stride = cols,
				     .src = saved->qkv,
				     .dst = saved->qk};
	MT_TRY(mt_engine_enqueue(e, &keep));
	for (int which = 0; which < 2; which++) {
		struct part p = part_of(e, at, which);
		struct mt_op op = {.kind = MT_OP_NORM, .dtype = e->dtype, .norm = norm_of(e, saved, &p)};

		op.norm.x = column(e, saved->qk, p.first);
		op.norm.y = column(e, saved->qkv, p.first);
		MT_TRY(mt_engine_enqueue(e, &op));
	}
	return MT_OK;
}

enum mt_status mt_qk_norm_backward(struct mt_engine *e, const int *at, struct mt_layer_saved *saved, void *dqkv)
{
	for (int which = 0; which < 2; which++) {
		struct part p = part_of(e, at, which);
		struct mt_op op = {.kind = MT_OP_NORM_BWD, .dtype = e->dtype, .norm = norm_of(e, saved, &p)};

		op.norm.sum = column(e, saved->qk, p.first);
		op.norm.dy = op.norm.dx = column(e, dqkv, p.first);
		op.norm.dgain = mt_engine_grad(e, p.gain);
		MT_TRY(mt_engine_enqueue(e, &op));
	}
	return MT_OK;
}
