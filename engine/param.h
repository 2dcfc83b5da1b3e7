/* param: the table of one rank's parameters and the flat buffers that hold them.
 *
 * Parameters lie in one flat buffer in the order in which the backward pass finishes their gradients (head, layers from
 * last to first, embedding), cut into buckets that are reduced as soon as they are complete. Matrices that one product
 * uses together (query, key, value; gate, up) are neighbours, so that the local shard of the fused matrix is contiguous
 * while each keeps its own global name and shape. What every tensor-parallel rank holds whole (norms, biases of row-parallel
 * layers, positions) lies in the last bucket of its own: under sequence parallelism its gradients are summed over tp.
 * Under ZeRO-2 and 3 a bucket of a layer's matrices holds whole layers of one model chunk, head and embedding have their own.
 * A word embedding that the last stage has too (tied to the head, or read by multi-token modules) has a bucket of its own, so that
 * first and last stage cut it alike. */
#ifndef MT_ENGINE_PARAM_H
#define MT_ENGINE_PARAM_H

#include "base/status.h"
#include "engine/layout.h"
#include "engine/model.h"
#include "engine/mtp.h"

#include <stdbool.h>
#include <stdint.h>

enum mt_init { MT_INIT_NORMAL, MT_INIT_RESIDUAL, MT_INIT_ONE, MT_INIT_ZERO };

/* The roles of a layer's parameters; index of struct mt_layer_params. */
enum mt_layer_role {
	MT_ATTN_NORM_GAIN,
	MT_ATTN_NORM_BIAS,
	MT_ATTN_Q,
	MT_ATTN_K,
	MT_ATTN_V,
	MT_ATTN_Q_BIAS,
	MT_ATTN_K_BIAS,
	MT_ATTN_V_BIAS,
	MT_ATTN_OUT,
	MT_ATTN_OUT_BIAS,
	MT_MLP_NORM_GAIN,
	MT_MLP_NORM_BIAS,
	MT_MLP_GATE, /* swiglu only */
	MT_MLP_UP,
	MT_MLP_UP_BIAS, /* gelu only */
	MT_MLP_DOWN,
	MT_MLP_DOWN_BIAS,
	MT_EXPERT_UP, /* first of this rank's experts: gate, up of each in turn (gelu: up) */
	MT_EXPERT_DOWN,
	MT_SHARED_UP, /* gate, then up (gelu: up) */
	MT_SHARED_DOWN,
	MT_SHARED_SCALE, /* (1, C) */
	MT_ROUTER,       /* (E, C); -1: the layer has an MLP */
	MT_ROUTER_BIAS,
	MT_ATTN_Q_NORM, /* (1,D): of each head, or of the latent queries */
	MT_ATTN_K_NORM, /* (1,D): of each head, or of the latent keys and values */
	MT_LATENT_DOWN, /* first of q, kv and the rotated part of the key */
	MT_LATENT_Q_UP,
	MT_LATENT_KV_UP,
	MT_LAYER_ROLES
};

#define MT_PARAM_NAME 48

struct mt_param {
	char name[MT_PARAM_NAME];
	int64_t rows, cols;               /* local; 1-D: rows 1 */
	int64_t global_rows, global_cols; /* vocabulary padded */
	int64_t real_rows;                /* global rows that are not padding */
	int shard_axis;                   /* -1 whole, 0 rows, 1 columns over tp, of experts over etp */
	int64_t first;                    /* first global row or column here */
	enum mt_init init;
	bool decay;      /* weight decay applies */
	bool replicated; /* whole on every tp rank */
	bool expert;     /* of an expert: reduced over the ranks that have the same */
	bool partial;    /* replicated, but each tp rank's gradient is of its heads alone, with and without sequence parallelism */
	bool follows;    /* a part of the matrix of the parameter before it: no gap between */
	bool copy;       /* the last stage's copy of the word embedding: not counted in the norm */
	int unit;        /* backward unit that completes it: 0 head, 1 + k for the k-th layer from the end, last: embedding */
	int64_t offset;  /* elements into the flat buffer */
	int bucket;      /* that it lies in */
};

/* The ranks that hold the same bucket, each with other samples: its gradients are summed over them. */
enum mt_share_kind { MT_SHARE_DENSE, MT_SHARE_EXPERTS, MT_SHARES };

struct mt_bucket {
	int64_t offset, count; /* elements; count is a multiple of the ranks that share it * MT_PARAM_ALIGN */
	int first_unit;        /* the first that uses it */
	int unit;              /* complete when the backward pass has finished this unit */
	bool replicated, tied;
	enum mt_share_kind share;
	bool partial;
};

#define MT_PARAM_ALIGN 64 /* elements: a shard starts at 128 bytes at least */

/* A model chunk of this stage: its local layers, and whether embedding or head are with it. */
struct mt_chunk {
	int64_t first_layer, layers; /* local indices */
	bool first, last;
};

struct mt_param_table {
	struct mt_param *params; /* owned */
	int count;
	struct mt_bucket *buckets; /* owned */
	int bucket_count;
	int64_t elements; /* of the flat buffer, padding included */
	int units;        /* backward units of this stage */
	/* where things are: index into params, -1: not on this stage or not in this model */
	int (*layers)[MT_LAYER_ROLES]; /* owned: one row a local layer, then one a multi-token module on the head's stage */
	int64_t layer_count;
	int64_t module_count;    /* multi-token modules here: the model's, or none */
	int64_t *model_layers;   /* owned: the model's number of each row; modules count on from its last layer */
	struct mt_chunk *chunks; /* owned: in order of the model; their layers follow each other in the local count */
	int chunk_count;
	struct mt_mtp_params *mtp; /* owned: of the model's multi-token modules, on the head's stage */
	int word, position, final_gain, final_bias,
		head; /* head: the matrix of the logits; equals word when tied and this stage has both ends */
};

/* experts_param.c: the parameters of a layer's experts, called by param.c with what adds one. */
struct mt_expert_builder {
	const struct mt_model *model;
	const struct mt_layout *layout;
	struct mt_coordinates at;
	int *roles; /* of the layer */
	/* Adds "layer.N.<what>", split over tp as `shard` (mt_param.shard_axis) says; returns its index. */
	int (*add)(void *context, const char *what, int64_t rows, int64_t cols, int shard, enum mt_init init);
	struct mt_param *(*param)(void *context, int index);
	void *context;
};
void mt_param_add_experts(const struct mt_expert_builder *builder);
/* Parameters of a layer's experts on each rank at most. */
int mt_param_expert_count(const struct mt_model *model, const struct mt_layout *layout);

/* attention_param.c: the parameters of a layer's attention, called by param.c with what adds one. */
struct mt_attention_builder {
	const struct mt_model *model;
	int *roles; /* of the layer */
	/* As of struct mt_expert_builder. */
	int (*add)(void *context, const char *what, int64_t rows, int64_t cols, int shard, enum mt_init init);
	struct mt_param *(*param)(void *context, int index);
	void *context;
};
void mt_param_add_attention(const struct mt_attention_builder *builder);

/* Builds the table of the rank at `at`. */
enum mt_status mt_param_table_create(struct mt_param_table *table, const struct mt_model *model, const struct mt_layout *layout,
				     struct mt_coordinates at);
void mt_param_table_free(struct mt_param_table *table);

/* The initial values of local elements [first, first+count) of a parameter, f32. Depends on name, seed and global index only. */
void mt_param_initial(const struct mt_param *param, const struct mt_model *model, uint64_t seed, int64_t first, int64_t count,
		      float *values);

#endif
