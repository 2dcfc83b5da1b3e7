/* hf_names: what Hugging Face's transformers calls our parameters, and how it stores them.
 *
 * GPT-2 keeps matrices (in, out) and query, key and value as one; LLaMA keeps (out, in) as we do, with heads rotated by halves
 * as here, so nothing is permuted. */
#include "engine/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* `part`: 1 to 3 for query, key, value of a fused matrix; 0: not fused. */
struct name_row {
	const char *ours, *theirs;
	bool transposed;
	int part;
};

static const struct name_row gpt2_model[] = {{"embedding.word", "transformer.wte.weight", false, 0},
					     {"embedding.position", "transformer.wpe.weight", false, 0},
					     {"final.norm.gain", "transformer.ln_f.weight", false, 0},
					     {"final.norm.bias", "transformer.ln_f.bias", false, 0},
					     {"head.weight", "lm_head.weight", false, 0},
					     {NULL, NULL, false, 0}};

static const struct name_row gpt2_layer[] = {{"attention.norm.gain", "ln_1.weight", false, 0},
					     {"attention.norm.bias", "ln_1.bias", false, 0},
					     {"attention.q.weight", "attn.c_attn.weight", true, 1},
					     {"attention.k.weight", "attn.c_attn.weight", true, 2},
					     {"attention.v.weight", "attn.c_attn.weight", true, 3},
					     {"attention.q.bias", "attn.c_attn.bias", false, 1},
					     {"attention.k.bias", "attn.c_attn.bias", false, 2},
					     {"attention.v.bias", "attn.c_attn.bias", false, 3},
					     {"attention.out.weight", "attn.c_proj.weight", true, 0},
					     {"attention.out.bias", "attn.c_proj.bias", false, 0},
					     {"mlp.norm.gain", "ln_2.weight", false, 0},
					     {"mlp.norm.bias", "ln_2.bias", false, 0},
					     {"mlp.up.weight", "mlp.c_fc.weight", true, 0},
					     {"mlp.up.bias", "mlp.c_fc.bias", false, 0},
					     {"mlp.down.weight", "mlp.c_proj.weight", true, 0},
					     {"mlp.down.bias", "mlp.c_proj.bias", false, 0},
					     {NULL, NULL, false, 0}};

static const struct name_row llama_model[] = {{"embedding.word", "model.embed_tokens.weight", false, 0},
					      {"final.norm.gain", "model.norm.weight", false, 0},
					      {"head.weight", "lm_head.weight", false, 0},
					      {NULL, NULL, false, 0}};

static const struct name_row llama_layer[] = {{"attention.norm.gain", "input_layernorm.weight", false, 0},
					      {"attention.q.weight", "self_attn.q_proj.weight", false, 0},
					      {"attention.k.weight", "self_attn.k_proj.weight", false, 0},
					      {"attention.v.weight", "self_attn.v_proj.weight", false, 0},
					      {"attention.out.weight", "self_attn.o_proj.weight", false, 0},
					      {"mlp.norm.gain", "post_attention_layernorm.weight", false, 0},
					      {"mlp.gate.weight", "mlp.gate_proj.weight", false, 0},
					      {"mlp.up.weight", "mlp.up_proj.weight", false, 0},
					      {"mlp.down.weight", "mlp.down_proj.weight", false, 0},
					      {NULL, NULL, false, 0}};

static bool is_gpt2(const struct mt_model *m)
{
	return m->norm == MT_MODEL_LAYERNORM && m->position == MT_MODEL_LEARNED && m->mlp == MT_MODEL_GELU && m->bias &&
	       m->kv_heads == m->heads && m->heads * m->head_dim == m->hidden;
}

static bool is_llama(const struct mt_model *m)
{
	return m->norm == MT_MODEL_RMSNORM && m->position == MT_MODEL_ROPE && m->mlp == MT_MODEL_SWIGLU && !m->bias;
}

enum mt_status mt_hf_check(const struct mt_model *model)
{
	if (is_gpt2(model) || is_llama(model))
		return mt_hf_check_experts(model);
	return mt_fail(MT_INPUT,
		       "%s has no Hugging Face form: known are gpt2 (layernorm, learned positions, gelu, biases, no grouped "
		       "queries) and llama (rmsnorm, rope, swiglu, no biases)",
		       model->name);
}

static const struct name_row *find_row(const struct name_row *row, const char *name)
{
	for (; row->ours; row++) {
		if (strcmp(row->ours, name) == 0)
			return row;
	}
	return NULL;
}

enum mt_status mt_hf_find(const struct mt_model *model, const char *name, struct mt_hf_place *place)
{
	bool gpt2 = is_gpt2(model);
	const struct name_row *row;
	char of_expert[60];
	char *rest = NULL;
	long layer = strncmp(name, "layer.", 6) == 0 ? strtol(name + 6, &rest, 10) : -1;

	MT_TRY(mt_hf_check(model));
	memset(place, 0, sizeof *place);
	if (layer >= 0 && *rest == '.' && mt_hf_expert_name(model, rest + 1, of_expert)) {
		snprintf(place->name, sizeof place->name, "model.layers.%ld.%s", layer, of_expert);
		return MT_OK;
	}
	if (layer >= 0 && *rest == '.')
		row = find_row(gpt2 ? gpt2_layer : llama_layer, rest + 1);
	else
		row = find_row(gpt2 ? gpt2_model : llama_model, name);
	if (!row)
		return mt_fail(MT_INPUT, "parameter %s of %s has no Hugging Face name", name, model->name);
	if (layer >= 0)
		snprintf(place->name, sizeof place->name, "%s.%ld.%s", gpt2 ? "transformer.h" : "model.layers", layer, row->theirs);
	else
		snprintf(place->name, sizeof place->name, "%s", row->theirs);
	place->transposed = row->transposed;
	place->first = row->part ? (row->part - 1) * model->hidden : 0;
	place->outputs = row->part ? 3 * model->hidden : 0;
	return MT_OK;
}

static json_t *gpt2_config(const struct mt_model *m)
{
	return json_pack("{s:s, s:[s], s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:s}", "model_type", "gpt2", "architectures",
			 "GPT2LMHeadModel", "n_layer", (json_int_t)m->layers, "n_embd", (json_int_t)m->hidden, "n_head",
			 (json_int_t)m->heads, "n_inner", (json_int_t)m->ffn, "n_positions", (json_int_t)m->seq, "n_ctx",
			 (json_int_t)m->seq, "layer_norm_epsilon", m->norm_eps, "activation_function", "gelu_new");
}

static json_t *llama_config(const struct mt_model *m)
{
	return json_pack("{s:s, s:[s], s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:s, s:b, s:b}", "model_type", "llama",
			 "architectures", "LlamaForCausalLM", "num_hidden_layers", (json_int_t)m->layers, "hidden_size",
			 (json_int_t)m->hidden, "num_attention_heads", (json_int_t)m->heads, "num_key_value_heads",
			 (json_int_t)m->kv_heads, "head_dim", (json_int_t)m->head_dim, "intermediate_size", (json_int_t)m->ffn,
			 "max_position_embeddings", (json_int_t)m->seq, "rms_norm_eps", m->norm_eps, "rope_theta", m->rope_theta,
			 "hidden_act", "silu", "attention_bias", 0, "mlp_bias", 0);
}

json_t *mt_hf_config(const struct mt_model *model, enum mt_stored type)
{
	static const char *const names[MT_STORED_COUNT] = {"float32", "bfloat16", "float16", "float64", "float32"};
	json_t *config = is_gpt2(model) ? gpt2_config(model) : llama_config(model);

	mt_hf_set_experts(model, config);
	json_object_set_new(config, "vocab_size", json_integer(model->vocab));
	json_object_set_new(config, "tie_word_embeddings", json_boolean(model->tied));
	json_object_set_new(config, "initializer_range", json_real(model->init_std));
	json_object_set_new(config, "torch_dtype", json_string(names[type]));
	return config;
}
