/* attention_param: the parameters of a layer's attention.
 *
 * Products that read the same are neighbours, one matrix in memory: queries, keys and values; of latent attention the ways down to
 * the ranks and to the rotated part of the key, which every tensor-parallel rank holds whole. Gains of heads are whole on every
 * rank too, but each rank normalises its own heads, so their gradients are summed over tp always. */
#include "engine/param.h"

enum { WHOLE = -1, BY_ROWS = 0, BY_COLS = 1 };

/* Adds one that lies right behind the one before. */
static int follow(const struct mt_attention_builder *b, const char *what, int64_t rows, int64_t cols, int shard, enum mt_init init)
{
	int index = b->add(b->context, what, rows, cols, shard, init);

	b->param(b->context, index)->follows = true;
	return index;
}

static void add_latent(const struct mt_attention_builder *b)
{
	const struct mt_model *m = b->model;
	int64_t C = m->hidden, q = m->heads * m->head_dim;
	int *at = b->roles;

	if (m->q_rank > 0)
		at[MT_LATENT_Q_UP] = b->add(b->context, "attention.q_up.weight", q, m->q_rank, BY_ROWS, MT_INIT_NORMAL);
	else
		at[MT_ATTN_Q] = b->add(b->context, "attention.q.weight", q, C, BY_ROWS, MT_INIT_NORMAL);
	at[MT_LATENT_KV_UP] = b->add(b->context, "attention.kv_up.weight", m->heads * (m->nope_dim + m->v_dim), m->kv_rank, BY_ROWS,
				     MT_INIT_NORMAL);
	if (m->q_rank > 0) {
		at[MT_LATENT_DOWN] = b->add(b->context, "attention.q_down.weight", m->q_rank, C, WHOLE, MT_INIT_NORMAL);
		follow(b, "attention.kv_down.weight", m->kv_rank, C, WHOLE, MT_INIT_NORMAL);
	} else {
		at[MT_LATENT_DOWN] = b->add(b->context, "attention.kv_down.weight", m->kv_rank, C, WHOLE, MT_INIT_NORMAL);
	}
	follow(b, "attention.k_rope.weight", m->rope_dim, C, WHOLE, MT_INIT_NORMAL);
	if (m->q_rank > 0)
		at[MT_ATTN_Q_NORM] = b->add(b->context, "attention.q_norm.gain", 1, m->q_rank, WHOLE, MT_INIT_ONE);
	at[MT_ATTN_K_NORM] = b->add(b->context, "attention.kv_norm.gain", 1, m->kv_rank, WHOLE, MT_INIT_ONE);
}

static void add_heads(const struct mt_attention_builder *b)
{
	const struct mt_model *m = b->model;
	int64_t C = m->hidden, q = m->heads * m->head_dim, kv = m->kv_heads * m->head_dim;
	int *at = b->roles;

	at[MT_ATTN_Q] = b->add(b->context, "attention.q.weight", q, C, BY_ROWS, MT_INIT_NORMAL);
	at[MT_ATTN_K] = follow(b, "attention.k.weight", kv, C, BY_ROWS, MT_INIT_NORMAL);
	at[MT_ATTN_V] = follow(b, "attention.v.weight", kv, C, BY_ROWS, MT_INIT_NORMAL);
	if (m->bias || m->qkv_bias) {
		at[MT_ATTN_Q_BIAS] = b->add(b->context, "attention.q.bias", q, 1, BY_ROWS, MT_INIT_ZERO);
		at[MT_ATTN_K_BIAS] = follow(b, "attention.k.bias", kv, 1, BY_ROWS, MT_INIT_ZERO);
		at[MT_ATTN_V_BIAS] = follow(b, "attention.v.bias", kv, 1, BY_ROWS, MT_INIT_ZERO);
	}
	if (m->qk_norm) {
		at[MT_ATTN_Q_NORM] = b->add(b->context, "attention.q_norm.gain", 1, m->head_dim, WHOLE, MT_INIT_ONE);
		at[MT_ATTN_K_NORM] = b->add(b->context, "attention.k_norm.gain", 1, m->head_dim, WHOLE, MT_INIT_ONE);
		b->param(b->context, at[MT_ATTN_Q_NORM])->partial = true;
		b->param(b->context, at[MT_ATTN_K_NORM])->partial = true;
	}
}

void mt_param_add_attention(const struct mt_attention_builder *b)
{
	const struct mt_model *m = b->model;

	b->roles[MT_ATTN_OUT] =
		b->add(b->context, "attention.out.weight", m->hidden, m->heads * mt_model_v_dim(m), BY_COLS, MT_INIT_RESIDUAL);
	if (mt_model_is_latent(m))
		add_latent(b);
	else
		add_heads(b);
}
