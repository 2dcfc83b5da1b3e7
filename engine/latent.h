/* latent: multi-head latent attention (DeepSeek-AI 2024, arXiv:2405.04434, section 2.1.2): queries, keys and values are made from
 * low-rank states; one part of a key, which RoPE turns, is shared by all heads. engine/latent.c says how it is computed. */
#ifndef MT_ENGINE_LATENT_H
#define MT_ENGINE_LATENT_H

#include "base/status.h"
#include "kernels/op.h"

struct mt_engine;
struct mt_layer_saved;

/* What the backward pass reads of one layer, besides the queries, which lie in its qkv. */
struct mt_latent_saved {
	void *q_state, *kv_state; /* (S,q_rank), (S,kv_rank) */
	void *q_norm, *kv_norm;   /* the same normalised */
	void *q_stats, *kv_stats; /* (2,S) f32: mean (not used), rstd */
	void *k, *v;              /* (R,H*D), (R,H*E) local heads */
};

/* Queries, keys and values of saved->norm1 (S,C), into saved; all new but statistics that are there. */
enum mt_status mt_latent_forward(struct mt_engine *e, const int *at, struct mt_layer_saved *saved);
/* The rest of what attention's operations take: pointers and strides of queries, keys and values. */
void mt_latent_operands(const struct mt_engine *e, const struct mt_layer_saved *saved, struct mt_attention *args);
/* Gradients dq, dk, dv, which are freed, to *dh (S,C), new, of saved->norm1. */
enum mt_status mt_latent_backward(struct mt_engine *e, const int *at, struct mt_layer_saved *saved, void *dq, void *dk, void *dv,
				  void **dh);
/* Frees all, or only what recomputing norms makes again. */
void mt_latent_free(struct mt_engine *e, struct mt_latent_saved *saved, bool norms_only);

#endif
