/* model_private: what the loaders of a model share. */
#ifndef MT_ENGINE_MODEL_PRIVATE_H
#define MT_ENGINE_MODEL_PRIVATE_H

#include "engine/model.h"

/* Fills a model of defaults from a Hugging Face config.json, read from `path`; does not complete it. */
enum mt_status mt_model_read_hf(struct mt_model *model, const json_t *config, const char *path);

/* experts_model.c: the same as mt_model_complete for what is of experts. */
enum mt_status mt_model_complete_experts(struct mt_model *model, const char *where);
/* hf_rope.c: theta, stretch and share of the head that is rotated, of the same file. */
enum mt_status mt_model_read_hf_rope(struct mt_model *model, const json_t *config, const char *path);

/* attention_model.c: the same as mt_model_complete for attention; of latent attention before head_dim is known. */
enum mt_status mt_model_complete_latent(struct mt_model *model, const char *where);
enum mt_status mt_model_complete_attention(struct mt_model *model, const char *where);

#endif
