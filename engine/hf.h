/* hf: what the files about Hugging Face's transformers share: which of its architectures a model of ours is. */
#ifndef MT_ENGINE_HF_H
#define MT_ENGINE_HF_H

#include "engine/model.h"

/* Its model types that can be written. */
enum mt_hf_family { MT_HF_NONE, MT_HF_GPT2, MT_HF_LLAMA, MT_HF_MISTRAL, MT_HF_QWEN2, MT_HF_QWEN3, MT_HF_DEEPSEEK_V3 };

enum mt_hf_family mt_hf_family(const struct mt_model *model);
/* The value of rope_scaling in a config.json, for a model that has a stretch; NULL: out of memory. */
json_t *mt_hf_rope_scaling(const struct mt_model *model);

#endif
