/* hf_names: what Hugging Face's transformers calls our parameters, and how it stores them.
 *
 * GPT-2 keeps matrices (in, out) and query, key and value as one; LLaMA and its descendants keep (out, in) as we do, with heads
 * rotated as here, so nothing is permuted. DeepSeek keeps the way down to keys and values and the rotated part as one. */
#include "engine/hf.h"
#include "engine/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* `part`: 1 to 3 for query, key, value of a fused matrix, 4 and 5 for keys' and values' state and the rotated part; 0: not fused.
 */
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
					      {"attention.q.bias", "self_attn.q_proj.bias", false, 0},
					      {"attention.k.bias", "self_attn.k_proj.bias", false, 0},
					      {"attention.v.bias", "self_attn.v_proj.bias", false, 0},
					      {"attention.k_norm.gain", "self_attn.k_norm.weight", false, 0},
					      {"attention.out.weight", "self_attn.o_proj.weight", false, 0},
					      {"mlp.norm.gain", "post_attention_layernorm.weight", false, 0},
					      {"mlp.gate.weight", "mlp.gate_proj.weight", false, 0},
					      {"mlp.up.weight", "mlp.up_proj.weight", false, 0},
					      {"mlp.down.weight", "mlp.down_proj.weight", false, 0},
					      {NULL, NULL, false, 0}};

/* Latent attention, and modules of multi-token prediction. */
static const struct name_row deepseek_layer[] = {{"attention.q_down.weight", "self_attn.q_a_proj.weight", false, 0},
						 {"attention.q_norm.gain", "self_attn.q_a_layernorm.weight", false, 0},
						 {"attention.q_up.weight", "self_attn.q_b_proj.weight", false, 0},
						 {"attention.kv_down.weight", "self_attn.kv_a_proj_with_mqa.weight", false, 4},
						 {"attention.k_rope.weight", "self_attn.kv_a_proj_with_mqa.weight", false, 5},
						 {"attention.kv_norm.gain", "self_attn.kv_a_layernorm.weight", false, 0},
						 {"attention.kv_up.weight", "self_attn.kv_b_proj.weight", false, 0},
						 {"mtp.embed_norm.gain", "enorm.weight", false, 0},
						 {"mtp.hidden_norm.gain", "hnorm.weight", false, 0},
						 {"mtp.join.weight", "eh_proj.weight", false, 0},
						 {"mtp.norm.gain", "shared_head.norm.weight", false, 0},
						 {NULL, NULL, false, 0}};

static const struct name_row qwen3_layer[] = {{"attention.q_norm.gain", "self_attn.q_norm.weight", false, 0},
					      {NULL, NULL, false, 0}};

static bool is_gpt2(const struct mt_model *m)
{
	return m->norm == MT_MODEL_LAYERNORM && m->position == MT_MODEL_LEARNED && m->mlp == MT_MODEL_GELU && m->bias &&
	       m->kv_heads == m->heads && m->heads * m->head_dim == m->hidden;
}

/* RMS norm, RoPE, SwiGLU, no biases but those of queries, keys and values. */
static enum mt_hf_family llama_family(const struct mt_model *m)
{
	if (mt_model_is_latent(m))
		return m->rope_interleaved && m->window == 0 && mt_model_rotary_dim(m) == m->rope_dim ? MT_HF_DEEPSEEK_V3
												      : MT_HF_NONE;
	if (m->rope_interleaved || mt_model_rotary_dim(m) != m->head_dim || m->mtp > 0 || (m->qk_norm && m->qkv_bias))
		return MT_HF_NONE;
	if (m->qk_norm || m->qkv_bias)
		return m->qk_norm ? MT_HF_QWEN3 : MT_HF_QWEN2;
	if (m->window > 0)
		return m->window_first == 0 && m->window_every == 0 ? MT_HF_MISTRAL : MT_HF_NONE;
	return MT_HF_LLAMA;
}

enum mt_hf_family mt_hf_family(const struct mt_model *m)
{
	if (is_gpt2(m))
		return m->window == 0 && !m->qk_norm ? MT_HF_GPT2 : MT_HF_NONE;
	if (m->norm == MT_MODEL_RMSNORM && m->position == MT_MODEL_ROPE && m->mlp == MT_MODEL_SWIGLU && !m->bias)
		return llama_family(m);
	return MT_HF_NONE;
}

enum mt_status mt_hf_check(const struct mt_model *model)
{
	if (mt_hf_family(model) != MT_HF_NONE)
		return mt_hf_check_experts(model);
	return mt_fail(
		MT_INPUT,
		"%s has no Hugging Face form: known are gpt2 (layernorm, learned positions, gelu, biases, no grouped "
		"queries), and with rmsnorm, rope of whole heads, swiglu and no biases llama, mistral (window), qwen2 (qkv_bias), "
		"qwen3 (qk_norm) and deepseek_v3 (latent attention, interleaved)",
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

/* The row of one of our names; *layer -1: it is of no layer. */
static const struct name_row *find_name(enum mt_hf_family family, const char *name, long *layer)
{
	const struct name_row *row = NULL;
	char *rest = NULL;

	*layer = strncmp(name, "layer.", 6) == 0 ? strtol(name + 6, &rest, 10) : -1;
	if (*layer < 0 || *rest != '.')
		return find_row(family == MT_HF_GPT2 ? gpt2_model : llama_model, name);
	if (family == MT_HF_DEEPSEEK_V3)
		row = find_row(deepseek_layer, rest + 1);
	if (family == MT_HF_QWEN3)
		row = find_row(qwen3_layer, rest + 1);
	return row ? row : find_row(family == MT_HF_GPT2 ? gpt2_layer : llama_layer, rest + 1);
}

enum mt_status mt_hf_find(const struct mt_model *model, const char *name, struct mt_hf_place *place)
{
	enum mt_hf_family family = mt_hf_family(model);
	const struct name_row *row;
	char of_expert[60];
	long layer;

	MT_TRY(mt_hf_check(model));
	memset(place, 0, sizeof *place);
	row = find_name(family, name, &layer);
	if (layer >= 0 && strchr(name + 6, '.') && mt_hf_expert_name(model, strchr(name + 6, '.') + 1, of_expert)) {
		snprintf(place->name, sizeof place->name, "model.layers.%ld.%s", layer, of_expert);
		return MT_OK;
	}
	if (!row)
		return mt_fail(MT_INPUT, "parameter %s of %s has no Hugging Face name", name, model->name);
	if (layer >= 0)
		snprintf(place->name, sizeof place->name, "%s.%ld.%s", family == MT_HF_GPT2 ? "transformer.h" : "model.layers",
			 layer, row->theirs);
	else
		snprintf(place->name, sizeof place->name, "%s", row->theirs);
	place->transposed = row->transposed;
	if (row->part >= 4) {
		place->first = row->part == 5 ? model->kv_rank : 0;
		place->outputs = model->kv_rank + model->rope_dim;
	} else if (row->part > 0) {
		place->first = (row->part - 1) * model->hidden;
		place->outputs = 3 * model->hidden;
	}
	return MT_OK;
}
