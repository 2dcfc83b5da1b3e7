/* weights: initial weights and weights for other programs.
 *
 * A source is a directory: one of our checkpoints, or a Hugging Face model (config.json, model.safetensors or its shards and
 * their index). Either way a parameter is asked for by its global name here, box by box. Moments are not weights: a run that
 * begins with given weights begins at step 0. */
#ifndef MT_ENGINE_WEIGHTS_H
#define MT_ENGINE_WEIGHTS_H

#include "engine/checkpoint.h"

/* Where a parameter lies in a Hugging Face model of the same shape. `transposed`: stored (in, out), as GPT-2's Conv1D is;
 * `first`: its first output among those of a fused matrix, which has `outputs`. */
struct mt_hf_place {
	char name[96];
	bool transposed;
	int64_t first, outputs;
};

/* MT_INPUT when transformers has no architecture of this model's kind. */
enum mt_status mt_hf_find(const struct mt_model *model, const char *name, struct mt_hf_place *place);
enum mt_status mt_hf_check(const struct mt_model *model);
/* hf_experts.c: the same for what is of experts. False: no name of an expert's parameter. set: into a config.json of a llama. */
enum mt_status mt_hf_check_experts(const struct mt_model *model);
bool mt_hf_expert_name(const struct mt_model *model, const char *ours, char theirs[60]);
void mt_hf_set_experts(const struct mt_model *model, json_t *config);
/* config.json for such a model; NULL: out of memory. */
json_t *mt_hf_config(const struct mt_model *model, enum mt_stored type);

/* The model that the weights of a directory are of. */
enum mt_status mt_weights_model(struct mt_model *model, const char *directory);

struct mt_weights {
	const struct mt_model *model; /* borrowed */
	struct mt_checkpoint checkpoint;
	bool hf;
	char *directory;              /* owned */
	char **names;                 /* owned: of the files */
	struct mt_safetensors *files; /* owned: path NULL while not opened */
	json_t *index;                /* owned: tensor -> file; NULL: one file */
	int file_count;
};

enum mt_status mt_weights_open(struct mt_weights *weights, const char *directory, const struct mt_model *model);
void mt_weights_close(struct mt_weights *weights); /* fine after a failed open */
/* The elements of `wanted`, which begins with its box (first 0), as f32 or f64. */
enum mt_status mt_weights_read(struct mt_weights *weights, const char *name, const struct mt_piece *wanted, enum mt_dtype dtype,
			       void *values);

/* Sets this rank's weights, at full precision where it keeps master weights. */
enum mt_status mt_weights_load(struct mt_engine *engine, const char *directory);

enum mt_export { MT_EXPORT_HF, MT_EXPORT_SAFETENSORS };

/* Writes a source's weights: MT_EXPORT_HF: a directory with config.json and files of at most shard_bytes each;
 * MT_EXPORT_SAFETENSORS: one file with our names. */
enum mt_status mt_weights_export(struct mt_weights *weights, enum mt_export format, enum mt_stored type, int64_t shard_bytes,
				 const char *to);

#endif
