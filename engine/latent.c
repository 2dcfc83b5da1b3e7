/* latent: queries, keys and values of multi-head latent attention, forward and backward, on this rank's heads (engine/latent.h).
 *
 *   down = h [Wdq; Wdkv; Wkr]^T       (S, q_rank + kv_rank + rope): cq, ckv, kr
 *   q = norm(cq) Wuq^T                (R, H (nope + rope)), each head's last `rope` rotated
 *   kv = norm(ckv) Wukv^T             (R, H (nope + value))
 *   k[h] = kv[h][:nope], rotated kr   v[h] = kv[h][nope:]
 * With q_rank 0 queries come from h itself: q = h Wq^T.
 *
 * Tensor parallelism splits heads, so the ways up; the ways down are small and every rank holds them whole. They work on the rows
 * this rank has between layers: under sequence parallelism each rank does its rows and only the narrow states are gathered; their
 * weights' gradients are then partial, as those of norms. */
#include "engine/latent.h"

#include "engine/internal.h"

static void *at_column(const struct mt_engine *e, const void *base, int64_t column)
{
	return (void *)((uintptr_t)base + (uintptr_t)column * mt_dtype_bytes(e->dtype));
}

static enum mt_status alloc(struct mt_engine *e, int64_t elements, void **pointer)
{
	return mt_engine_alloc(e, ARENA_ACTIVATIONS, elements, e->dtype, pointer);
}

static int64_t heads_of(const struct mt_engine *e)
{
	return e->q_cols / e->model->head_dim;
}

static int64_t down_cols(const struct mt_engine *e)
{
	return e->model->q_rank + e->model->kv_rank + e->model->rope_dim;
}

/* All rows of a shard's columns: a new buffer under sequence parallelism, else the shard itself. */
static enum mt_status gather(struct mt_engine *e, void *shard, int64_t cols, void **whole)
{
	*whole = shard;
	return e->sp ? mt_tp_gather(e, shard, whole, cols) : MT_OK;
}

static void drop(struct mt_engine *e, void *shard, void *whole)
{
	if (whole != shard)
		mt_engine_release(e, &whole);
}

/* Columns [first, first + cols) of `wide` (S, down) to narrow (S, cols), or back. */
static enum mt_status move_columns(struct mt_engine *e, void *wide, int64_t first, int64_t cols, void *narrow, bool back)
{
	struct mt_op op = {.kind = MT_OP_COPY, .dtype = e->dtype};
	void *slice = at_column(e, wide, first);

	op.move = (struct mt_move){.rows = e->shard_rows,
				   .cols = cols,
				   .src_stride = back ? cols : down_cols(e),
				   .dst_stride = back ? down_cols(e) : cols,
				   .src = back ? narrow : slice,
				   .dst = back ? slice : narrow};
	return mt_engine_enqueue(e, &op);
}

/* The ways down are products of the rows of the shard. */
static enum mt_status down_product(struct mt_engine *e, enum mt_op_kind kind, const int *at, const void *x, const void *dy,
				   void *out)
{
	struct mt_op op = {.kind = kind, .dtype = e->dtype};

	op.linear = (struct mt_linear){.rows = e->shard_rows, .in = e->model->hidden, .out = down_cols(e), .x = x, .dy = dy};
	if (kind == MT_OP_LINEAR_WGRAD) {
		op.linear.dw = mt_engine_grad(e, at[MT_LATENT_DOWN]);
		return e->collecting ? mt_wgrads_note(e, &op, MT_ROWS_WHOLE) : mt_engine_enqueue(e, &op);
	}
	op.linear.w = mt_engine_param(e, at[MT_LATENT_DOWN]);
	op.linear.y = kind == MT_OP_LINEAR ? out : NULL;
	op.linear.dx = kind == MT_OP_LINEAR_DGRAD ? out : NULL;
	return mt_engine_enqueue(e, &op);
}

/* A state's norm; *y and, unless there, *stats are new. */
static enum mt_status norm_state(struct mt_engine *e, int gain, int64_t cols, const void *state, void **y, void **stats)
{
	struct mt_op op = {.kind = MT_OP_NORM, .dtype = e->dtype};
	enum mt_dtype f = mt_grad_dtype(e->dtype);
	int64_t S = e->shard_rows;

	MT_TRY(alloc(e, S * cols, y));
	if (!*stats)
		MT_TRY(mt_engine_alloc(e, ARENA_ACTIVATIONS, 2 * S, f, stats));
	op.norm = (struct mt_norm){.kind = MT_NORM_RMS,
				   .rows = S,
				   .cols = cols,
				   .eps = e->model->norm_eps,
				   .x = state,
				   .y = *y,
				   .gain = mt_engine_param(e, gain),
				   .mean = *stats,
				   .rstd = (void *)((uintptr_t)*stats + (uintptr_t)S * mt_dtype_bytes(f))};
	return mt_engine_enqueue(e, &op);
}

static enum mt_status norm_states(struct mt_engine *e, const int *at, struct mt_latent_saved *l)
{
	if (e->model->q_rank > 0)
		MT_TRY(norm_state(e, at[MT_ATTN_Q_NORM], e->model->q_rank, l->q_state, &l->q_norm, &l->q_stats));
	return norm_state(e, at[MT_ATTN_K_NORM], e->model->kv_rank, l->kv_state, &l->kv_norm, &l->kv_stats);
}

/* h -> the states, and the part of the key that is rotated, (S, rope), new. */
static enum mt_status go_down(struct mt_engine *e, const int *at, struct mt_layer_saved *s, void **k_rope)
{
	const struct mt_model *m = e->model;
	struct mt_latent_saved *l = &s->latent;
	void *down;

	MT_TRY(alloc(e, e->shard_rows * down_cols(e), &down));
	MT_TRY(down_product(e, MT_OP_LINEAR, at, s->norm1, NULL, down));
	if (m->q_rank > 0) {
		MT_TRY(alloc(e, e->shard_rows * m->q_rank, &l->q_state));
		MT_TRY(move_columns(e, down, 0, m->q_rank, l->q_state, false));
	}
	MT_TRY(alloc(e, e->shard_rows * m->kv_rank, &l->kv_state));
	MT_TRY(move_columns(e, down, m->q_rank, m->kv_rank, l->kv_state, false));
	MT_TRY(alloc(e, e->shard_rows * m->rope_dim, k_rope));
	MT_TRY(move_columns(e, down, m->q_rank + m->kv_rank, m->rope_dim, *k_rope, false));
	mt_engine_release(e, &down);
	return norm_states(e, at, l);
}

static enum mt_status make_queries(struct mt_engine *e, const int *at, struct mt_layer_saved *s)
{
	const struct mt_model *m = e->model;
	bool low = m->q_rank > 0;
	int64_t in = low ? m->q_rank : m->hidden;
	void *from = low ? s->latent.q_norm : s->norm1, *whole;

	MT_TRY(alloc(e, e->rows * e->q_cols, &s->qkv));
	MT_TRY(gather(e, from, in, &whole));
	MT_TRY(mt_linear_forward(e, whole, at[low ? MT_LATENT_Q_UP : MT_ATTN_Q], -1, in, e->q_cols, s->qkv));
	drop(e, from, whole);
	return mt_rotate(e, at_column(e, s->qkv, m->nope_dim), heads_of(e), m->head_dim, e->q_cols, 1);
}

/* `shared`, the rotated part of the key for all rows, is read. */
static enum mt_status make_keys(struct mt_engine *e, const int *at, struct mt_latent_saved *l, void *shared)
{
	const struct mt_model *m = e->model;
	int64_t heads = heads_of(e), width = heads * (m->nope_dim + m->v_dim);
	struct mt_op op = {.kind = MT_OP_SPREAD, .dtype = e->dtype};
	void *kv, *whole;

	MT_TRY(alloc(e, e->rows * heads * m->head_dim, &l->k));
	MT_TRY(alloc(e, e->rows * heads * m->v_dim, &l->v));
	MT_TRY(gather(e, l->kv_norm, m->kv_rank, &whole));
	MT_TRY(alloc(e, e->rows * width, &kv));
	MT_TRY(mt_linear_forward(e, whole, at[MT_LATENT_KV_UP], -1, m->kv_rank, width, kv));
	drop(e, l->kv_norm, whole);
	op.spread = (struct mt_spread){.rows = e->rows,
				       .heads = heads,
				       .nope = m->nope_dim,
				       .rotary = m->rope_dim,
				       .value = m->v_dim,
				       .kv = kv,
				       .rope = shared,
				       .k = l->k,
				       .v = l->v};
	MT_TRY(mt_engine_enqueue(e, &op));
	mt_engine_release(e, &kv);
	return MT_OK;
}

enum mt_status mt_latent_forward(struct mt_engine *e, const int *at, struct mt_layer_saved *saved)
{
	const struct mt_model *m = e->model;
	void *k_rope, *shared;

	MT_TRY(go_down(e, at, saved, &k_rope));
	MT_TRY(make_queries(e, at, saved));
	MT_TRY(gather(e, k_rope, m->rope_dim, &shared));
	MT_TRY(mt_rotate(e, shared, 1, m->rope_dim, m->rope_dim, 1));
	MT_TRY(make_keys(e, at, &saved->latent, shared));
	drop(e, k_rope, shared);
	mt_engine_release(e, &k_rope);
	return MT_OK;
}

void mt_latent_operands(const struct mt_engine *e, const struct mt_layer_saved *saved, struct mt_attention *args)
{
	const struct mt_model *m = e->model;

	args->kv_heads = heads_of(e);
	args->q = saved->qkv;
	args->k = saved->latent.k;
	args->v = saved->latent.v;
	args->q_stride = args->kv_stride = e->q_cols;
	args->v_dim = m->v_dim;
	args->v_stride = e->o_cols;
}

/* Gradient of what a way up made, `dy` (R, out), which is freed, to that of the state, `*dx` (S, in), new. */
static enum mt_status back_up(struct mt_engine *e, int weight, void *state, int64_t in, int64_t out, void **dy, void **dx)
{
	void *whole;

	MT_TRY(alloc(e, e->rows * in, dx));
	MT_TRY(mt_linear_dgrad(e, *dy, weight, in, out, *dx));
	MT_TRY(mt_tp_reduce(e, dx, in));
	MT_TRY(gather(e, state, in, &whole));
	MT_TRY(mt_linear_wgrad(e, *dy, whole, weight, -1, in, out));
	drop(e, state, whole);
	mt_engine_release(e, dy);
	return MT_OK;
}

/* *gradient (S,cols) of the normalised state becomes that of the state, in columns from `first` of `down`; it is freed. */
static enum mt_status back_norm(struct mt_engine *e, int gain, int64_t cols, void *state, void *stats, void **gradient, void *down,
				int64_t first)
{
	struct mt_op op = {.kind = MT_OP_NORM_BWD, .dtype = e->dtype};
	int64_t S = e->shard_rows;

	op.norm = (struct mt_norm){.kind = MT_NORM_RMS,
				   .rows = S,
				   .cols = cols,
				   .eps = e->model->norm_eps,
				   .sum = state,
				   .gain = mt_engine_param(e, gain),
				   .mean = stats,
				   .rstd = (void *)((uintptr_t)stats + (uintptr_t)S * mt_dtype_bytes(mt_grad_dtype(e->dtype))),
				   .dy = *gradient,
				   .dx = *gradient,
				   .dgain = mt_engine_grad(e, gain)};
	MT_TRY(mt_engine_enqueue(e, &op));
	MT_TRY(move_columns(e, down, first, cols, *gradient, true));
	mt_engine_release(e, gradient);
	return MT_OK;
}

/* dk, dv, which are freed, to the gradients of kv (R, H (nope + value)) and of the shared part (R, rope), new. */
static enum mt_status back_keys(struct mt_engine *e, void *dk, void *dv, void **dkv, void **shared)
{
	const struct mt_model *m = e->model;
	struct mt_op op = {.kind = MT_OP_SPREAD_BWD, .dtype = e->dtype};

	MT_TRY(alloc(e, e->rows * heads_of(e) * (m->nope_dim + m->v_dim), dkv));
	MT_TRY(alloc(e, e->rows * m->rope_dim, shared));
	op.spread = (struct mt_spread){.rows = e->rows,
				       .heads = heads_of(e),
				       .nope = m->nope_dim,
				       .rotary = m->rope_dim,
				       .value = m->v_dim,
				       .kv = *dkv,
				       .rope = *shared,
				       .k = dk,
				       .v = dv};
	MT_TRY(mt_engine_enqueue(e, &op));
	mt_engine_release(e, &dk);
	mt_engine_release(e, &dv);
	return mt_rotate(e, *shared, 1, m->rope_dim, m->rope_dim, -1);
}

enum mt_status mt_latent_backward(struct mt_engine *e, const int *at, struct mt_layer_saved *saved, void *dq, void *dk, void *dv,
				  void **dh)
{
	const struct mt_model *m = e->model;
	struct mt_latent_saved *l = &saved->latent;
	bool low = m->q_rank > 0;
	void *dkv, *shared, *d_kv_state, *d_q_state = NULL, *down;

	MT_TRY(mt_rotate(e, at_column(e, dq, m->nope_dim), heads_of(e), m->head_dim, e->q_cols, -1));
	MT_TRY(back_keys(e, dk, dv, &dkv, &shared));
	if (!l->kv_norm)
		MT_TRY(norm_states(e, at, l));
	MT_TRY(back_up(e, at[MT_LATENT_KV_UP], l->kv_norm, m->kv_rank, heads_of(e) * (m->nope_dim + m->v_dim), &dkv, &d_kv_state));
	MT_TRY(back_up(e, at[low ? MT_LATENT_Q_UP : MT_ATTN_Q], low ? l->q_norm : saved->norm1, low ? m->q_rank : m->hidden,
		       e->q_cols, &dq, &d_q_state));
	MT_TRY(mt_tp_reduce(e, &shared, m->rope_dim));
	MT_TRY(alloc(e, e->shard_rows * down_cols(e), &down));
	if (low)
		MT_TRY(back_norm(e, at[MT_ATTN_Q_NORM], m->q_rank, l->q_state, l->q_stats, &d_q_state, down, 0));
	MT_TRY(back_norm(e, at[MT_ATTN_K_NORM], m->kv_rank, l->kv_state, l->kv_stats, &d_kv_state, down, m->q_rank));
	MT_TRY(move_columns(e, down, m->q_rank + m->kv_rank, m->rope_dim, shared, true));
	mt_engine_release(e, &shared);
	MT_TRY(alloc(e, e->shard_rows * m->hidden, dh));
	MT_TRY(down_product(e, MT_OP_LINEAR_DGRAD, at, NULL, down, *dh));
	MT_TRY(down_product(e, MT_OP_LINEAR_WGRAD, at, saved->norm1, down, NULL));
	mt_engine_release(e, &down);
	if (!low) {
		struct mt_op op = {.kind = MT_OP_ADD, .dtype = e->dtype};

		op.add = (struct mt_add){.rows = e->shard_rows, .cols = m->hidden, .a = *dh, .b = d_q_state, .out = *dh};
		MT_TRY(mt_engine_enqueue(e, &op));
		mt_engine_release(e, &d_q_state);
	}
	return MT_OK;
}

void mt_latent_free(struct mt_engine *e, struct mt_latent_saved *saved, bool norms_only)
{
	void **norms[] = {&saved->q_norm, &saved->kv_norm};
	void **others[] = {&saved->q_state, &saved->kv_state, &saved->q_stats, &saved->kv_stats, &saved->k, &saved->v};

	for (size_t i = 0; i < sizeof norms / sizeof norms[0]; i++) {
		if (*norms[i])
			mt_engine_release(e, norms[i]);
	}
	for (size_t i = 0; !norms_only && i < sizeof others / sizeof others[0]; i++) {
		if (*others[i])
			mt_engine_release(e, others[i]);
	}
}
