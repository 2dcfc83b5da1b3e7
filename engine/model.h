/* model: the description of a decoder-only transformer. Read by every room; loaded from examples/models by name, from a
 * YAML file (section `model`), or from a Hugging Face config.json (engine/model_hf.c lists the architectures). */
#ifndef MT_ENGINE_MODEL_H
#define MT_ENGINE_MODEL_H

#include "base/options.h"
#include "base/status.h"
#include "kernels/op.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

enum mt_norm_choice { MT_MODEL_LAYERNORM, MT_MODEL_RMSNORM };
enum mt_position_choice { MT_MODEL_LEARNED, MT_MODEL_ROPE };
enum mt_mlp_choice { MT_MODEL_GELU, MT_MODEL_SWIGLU };

struct mt_model {
	char *name; /* owned */
	int64_t layers, hidden, heads;
	int64_t kv_heads; /* 0 in the file: = heads */
	int64_t head_dim; /* 0 in the file: hidden / heads */
	int64_t ffn;      /* 0 in the file: 4*hidden (gelu); must be given for swiglu */
	int64_t vocab;    /* real words */
	int64_t seq;      /* longest sequence: rows of the learned positions */
	int norm;         /* enum mt_norm_choice */
	int position;     /* enum mt_position_choice */
	int mlp;          /* enum mt_mlp_choice */
	bool bias;        /* biases of the linear layers */
	bool tied;        /* the head uses the word embedding */
	double norm_eps, rope_theta, init_std;
	/* mixture of experts, engine/experts.h */
	int64_t experts;              /* 0: none */
	int64_t top_k;                /* experts of a token */
	int64_t expert_ffn;           /* 0 in the file: ffn */
	int64_t shared_ffn;           /* width of the shared expert; 0: none */
	bool shared_gate;             /* its output times a sigmoid of the token */
	int64_t dense_first;          /* the first layers that have an MLP in place of experts */
	int64_t expert_every;         /* of the others every so many, from the first on, has experts */
	int router;                   /* enum mt_router_choice */
	bool router_normalize;        /* the weights of a token's experts sum to one, before the scale */
	double router_scale;          /* of the weights */
	int64_t router_sets, set_top; /* experts in sets of neighbours, of which so many are chosen from; 1: no sets */
	int64_t set_best;             /* a set is worth the sum of so many best scores; 0: top_k / set_top */
	bool router_bias;             /* added to the scores for the choice alone */
	double bias_rate;             /* by which it follows the load at each step, without gradients */
	double balance_loss, z_loss;  /* coefficients */
	double capacity;              /* 0: no token is dropped; else rows of an expert over an even share, a sequence */
	int drop;                     /* enum mt_drop_choice */
	bool capacity_pad;            /* each expert gets exactly its capacity */
	/* attention, engine/attention_model.c */
	bool qkv_bias;                       /* queries, keys and values have biases though nothing else has */
	bool qk_norm;                        /* RMS norm of each head of queries and keys, before RoPE */
	int64_t window;                      /* rows that a row sees, its own included; 0: all before it */
	int64_t window_first;                /* the first layers that see all in spite of it */
	int64_t window_every;                /* of the layers each so many-th sees all too; 0: none does */
	int64_t rotary_dim;                  /* the elements of a head that RoPE turns; 0: head_dim, latent: rope_dim */
	bool rope_interleaved;               /* pairs of neighbours in place of halves */
	int rope_scaling;                    /* enum mt_rope_stretch */
	int64_t rope_original;               /* positions before the stretch */
	double rope_factor;                  /* of the stretch */
	double rope_low, rope_high;          /* llama3: frequency factors; yarn: turns (beta_slow, beta_fast) */
	double rope_magnitude;               /* yarn: of cosine and sine; 0: from the next two or, without them, of the paper */
	double rope_mscale, rope_mscale_all; /* yarn, DeepSeek's: weights of the magnitude in RoPE and in all of the scores */
	/* multi-head latent attention, engine/latent.h; kv_rank 0: none */
	int64_t q_rank; /* 0: queries straight from the hidden state */
	int64_t kv_rank;
	int64_t nope_dim, rope_dim; /* of a head of queries and keys: head_dim is their sum */
	int64_t v_dim;              /* 0: head_dim */
	/* multi-token prediction, engine/mtp.h */
	int64_t mtp;       /* modules, each predicting one token further; 0: none */
	double mtp_weight; /* of the mean of their losses */
};

enum mt_router_choice { MT_MODEL_SOFTMAX, MT_MODEL_SIGMOID };
enum mt_drop_choice { MT_MODEL_DROP_LAST, MT_MODEL_DROP_LIGHTEST };

/* Up and down, with swiglu a gate: of an MLP, and of each expert. */
int64_t mt_model_mlp_matrices(const struct mt_model *model);
/* experts_model.c. Whether a layer has experts in place of the MLP, and how many do. */
bool mt_model_layer_has_experts(const struct mt_model *model, int64_t layer);
int64_t mt_model_expert_layers(const struct mt_model *model);
int64_t mt_model_expert_modules(const struct mt_model *model); /* of the multi-token modules, which count on from the last layer */
/* Weights of one layer's experts, router and shared expert: all, or those that a token meets. */
int64_t mt_model_expert_weights(const struct mt_model *model, bool met);
int64_t mt_model_set_best(const struct mt_model *model); /* scores whose sum is a set's worth */

extern const struct mt_option_table mt_model_options;

/* `what` is a name in examples/models, a path of a YAML file, or of a config.json. Fields left 0 are filled in and the
 * whole is checked (divisibility, ranges). MT_INPUT names the file, line, key, and for an unknown name the nearest. */
enum mt_status mt_model_load(struct mt_model *model, const char *what);
/* Fills in derived fields and checks; for models read as part of a run file. `where` starts messages. */
enum mt_status mt_model_complete(struct mt_model *model, const char *where);
void mt_model_free(struct mt_model *model);
/* Deep copy. */
enum mt_status mt_model_copy(struct mt_model *to, const struct mt_model *from);

/* Parameters, all and those of matrix products (no embeddings, norms, biases; the head counted apart). Unpadded vocabulary. */
int64_t mt_model_parameters(const struct mt_model *model);
int64_t mt_model_matmul_parameters(const struct mt_model *model); /* of all layers, those that a token meets */

/* attention_model.c. Rows that a layer's rows see; 0: all. */
int64_t mt_model_window(const struct mt_model *model, int64_t layer);
/* What multiplies the scores, and how RoPE is stretched. */
double mt_model_attention_scale(const struct mt_model *model);
struct mt_rope_scaling mt_model_rope_scaling(const struct mt_model *model);
/* Size of a value's head, and elements of a head that are rotated. */
static inline int64_t mt_model_v_dim(const struct mt_model *model)
{
	return model->kv_rank > 0 && model->v_dim > 0 ? model->v_dim : model->head_dim;
}
static inline int64_t mt_model_rotary_dim(const struct mt_model *model)
{
	return model->rotary_dim > 0 ? model->rotary_dim : model->kv_rank > 0 ? model->rope_dim : model->head_dim;
}
static inline bool mt_model_is_latent(const struct mt_model *model)
{
	return model->kv_rank > 0;
}
/* One layer's attention: weights of its matrix products, and its biases and gains (norms before it apart). */
int64_t mt_model_attention_weights(const struct mt_model *model);
int64_t mt_model_attention_vectors(const struct mt_model *model);

/* Model FLOPs of one step over `tokens` tokens in sequences of `seq`: forward once, backward twice, matrix products and
 * attention of real tokens, no recompute: 6*T*(N_matmul + (1 + mtp)*hidden*vocab) + 6*T*sum over layers of pairs*heads*(head_dim +
 * v_dim), pairs the keys that a query sees on average: seq/2, less in a window (full_attention doubles them). For a plain model
 * the last term is 6*T*seq*L*q with q = heads*head_dim. As Megatron-LM counts (num_floating_point_operations), but for windows. */
double mt_model_step_flops(const struct mt_model *model, double tokens, int64_t seq, bool full_attention);

#endif
