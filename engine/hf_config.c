/* hf_config: the config.json of a model, for Hugging Face's transformers: its fourth version's keys, which the fifth reads too. */
#include "engine/hf.h"
#include "engine/weights.h"

#include <string.h>

static void set_int(json_t *config, const char *key, int64_t value)
{
	json_object_set_new(config, key, json_integer(value));
}

static void set_text(json_t *config, const char *key, const char *value)
{
	json_object_set_new(config, key, json_string(value));
}

static void set_bool(json_t *config, const char *key, bool value)
{
	json_object_set_new(config, key, json_boolean(value));
}

static void name(json_t *config, const char *type, const char *architecture)
{
	set_text(config, "model_type", type);
	json_object_set_new(config, "architectures", json_pack("[s]", architecture));
}

static void set_gpt2(json_t *config, const struct mt_model *m)
{
	name(config, "gpt2", "GPT2LMHeadModel");
	set_int(config, "n_layer", m->layers);
	set_int(config, "n_embd", m->hidden);
	set_int(config, "n_head", m->heads);
	set_int(config, "n_inner", m->ffn);
	set_int(config, "n_positions", m->seq);
	set_int(config, "n_ctx", m->seq);
	json_object_set_new(config, "layer_norm_epsilon", json_real(m->norm_eps));
	set_text(config, "activation_function", "gelu_new");
}

/* What llama and its descendants share. */
static void set_llama(json_t *config, const struct mt_model *m)
{
	set_int(config, "num_hidden_layers", m->layers);
	set_int(config, "hidden_size", m->hidden);
	set_int(config, "num_attention_heads", m->heads);
	set_int(config, "num_key_value_heads", m->kv_heads);
	set_int(config, "intermediate_size", m->ffn);
	set_int(config, "max_position_embeddings", m->seq);
	json_object_set_new(config, "rms_norm_eps", json_real(m->norm_eps));
	json_object_set_new(config, "rope_theta", json_real(m->rope_theta));
	if (m->rope_scaling != MT_ROPE_PLAIN)
		json_object_set_new(config, "rope_scaling", mt_hf_rope_scaling(m));
	set_text(config, "hidden_act", "silu");
	set_bool(config, "attention_bias", false);
}

/* A window of the layers that have one. */
static void set_qwen_window(json_t *config, const struct mt_model *m)
{
	json_t *types = json_array();

	set_bool(config, "use_sliding_window", m->window > 0);
	if (m->window > 0)
		set_int(config, "sliding_window", m->window);
	set_int(config, "max_window_layers", m->window > 0 ? m->window_first : m->layers);
	for (int64_t layer = 0; layer < m->layers; layer++)
		json_array_append_new(types, json_string(mt_model_window(m, layer) > 0 ? "sliding_attention" : "full_attention"));
	json_object_set_new(config, "layer_types", types);
}

static void set_deepseek(json_t *config, const struct mt_model *m)
{
	name(config, "deepseek_v3", "DeepseekV3ForCausalLM");
	if (m->q_rank > 0)
		set_int(config, "q_lora_rank", m->q_rank);
	else
		json_object_set_new(config, "q_lora_rank", json_null());
	set_int(config, "kv_lora_rank", m->kv_rank);
	set_int(config, "qk_nope_head_dim", m->nope_dim);
	set_int(config, "qk_rope_head_dim", m->rope_dim);
	set_int(config, "v_head_dim", m->v_dim);
	set_bool(config, "rope_interleave", true);
	set_int(config, "num_nextn_predict_layers", m->mtp);
	set_int(config, "first_k_dense_replace", m->layers);
}

static void set_family(json_t *config, const struct mt_model *m)
{
	enum mt_hf_family family = mt_hf_family(m);

	if (family == MT_HF_GPT2) {
		set_gpt2(config, m);
		return;
	}
	set_llama(config, m);
	if (family == MT_HF_DEEPSEEK_V3) {
		set_deepseek(config, m);
		return;
	}
	set_int(config, "head_dim", m->head_dim);
	if (family == MT_HF_LLAMA) {
		name(config, "llama", "LlamaForCausalLM");
		set_bool(config, "mlp_bias", false);
	} else if (family == MT_HF_MISTRAL) {
		name(config, "mistral", "MistralForCausalLM");
		set_int(config, "sliding_window", m->window);
	} else {
		name(config, family == MT_HF_QWEN2 ? "qwen2" : "qwen3",
		     family == MT_HF_QWEN2 ? "Qwen2ForCausalLM" : "Qwen3ForCausalLM");
		set_qwen_window(config, m);
	}
}

json_t *mt_hf_config(const struct mt_model *model, enum mt_stored type)
{
	static const char *const names[MT_STORED_COUNT] = {"float32", "bfloat16", "float16", "float64", "float32"};
	json_t *config = json_object();

	set_family(config, model);
	mt_hf_set_experts(model, config);
	set_int(config, "vocab_size", model->vocab);
	set_bool(config, "tie_word_embeddings", model->tied);
	json_object_set_new(config, "initializer_range", json_real(model->init_std));
	set_text(config, "torch_dtype", names[type]);
	return config;
}
