/* hf_experts: what Hugging Face's transformers calls the parameters of experts, as hf_names.c has the others, and what its
 * config.json says of them.
 *
 * Known are mixtral (all layers have experts, a softmax over those chosen), qwen3_moe (some layers dense), deepseek_v3 (sigmoid,
 * bias, sets, a shared expert, the first layers dense) and deepseek_v2 (a softmax over all, sets). None has a gate of the shared
 * expert or capacities. */
#include "engine/hf.h"
#include "engine/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct kind {
	const char *type, *architecture, *module; /* of a layer */
	const char *gate, *down, *up;
};

static const struct kind mixtral = {"mixtral", "MixtralForCausalLM", "block_sparse_moe", "w1", "w2", "w3"};
static const struct kind qwen3 = {"qwen3_moe", "Qwen3MoeForCausalLM", "mlp", "gate_proj", "down_proj", "up_proj"};
static const struct kind deepseek_v2 = {"deepseek_v2", "DeepseekV2ForCausalLM", "mlp", "gate_proj", "down_proj", "up_proj"};
static const struct kind deepseek_v3 = {"deepseek_v3", "DeepseekV3ForCausalLM", "mlp", "gate_proj", "down_proj", "up_proj"};

static bool is_mixtral(const struct mt_model *m)
{
	return m->router == MT_MODEL_SOFTMAX && m->router_normalize && m->router_scale == 1 && m->router_sets == 1 &&
	       m->shared_ffn == 0 && mt_model_expert_layers(m) == m->layers;
}

static bool is_qwen3(const struct mt_model *m)
{
	return m->router == MT_MODEL_SOFTMAX && m->router_scale == 1 && m->router_sets == 1 && m->shared_ffn == 0;
}

/* Shared experts are one of a multiple of an expert's width. */
static bool has_deepseek_layers(const struct mt_model *m)
{
	return m->shared_ffn > 0 && m->shared_ffn % m->expert_ffn == 0 && (m->expert_every <= 1);
}

/* Whether sets are scored by so many, or all are open anyway. */
static bool has_sets_by(const struct mt_model *m, int64_t best)
{
	return m->set_top == m->router_sets || mt_model_set_best(m) == best;
}

static bool is_deepseek_v3(const struct mt_model *m)
{
	return m->router == MT_MODEL_SIGMOID && m->router_bias && has_deepseek_layers(m) && has_sets_by(m, 2);
}

static bool is_deepseek_v2(const struct mt_model *m)
{
	return m->router == MT_MODEL_SOFTMAX && !m->router_normalize && has_deepseek_layers(m) && has_sets_by(m, 1);
}

/* NULL: transformers has none. */
static const struct kind *kind_of(const struct mt_model *m)
{
	switch (mt_hf_family(m)) {
	case MT_HF_LLAMA:
		return !m->shared_gate && is_mixtral(m) ? &mixtral : NULL;
	case MT_HF_QWEN3:
		return !m->shared_gate && is_qwen3(m) ? &qwen3 : NULL;
	case MT_HF_DEEPSEEK_V3:
		return m->shared_gate ? NULL : is_deepseek_v3(m) ? &deepseek_v3 : is_deepseek_v2(m) ? &deepseek_v2 : NULL;
	default:
		return NULL;
	}
}

enum mt_status mt_hf_check_experts(const struct mt_model *model)
{
	if (model->experts == 0 || kind_of(model))
		return MT_OK;
	return mt_fail(
		MT_INPUT,
		"%s has no Hugging Face form: of models with experts known are mixtral (experts in every layer, softmax over the "
		"chosen ones, no shared expert), qwen3_moe (qk_norm, softmax, no shared expert), deepseek_v3 (latent attention, "
		"sigmoid, router_bias, shared expert, two scores a set) and deepseek_v2 (latent attention, softmax over all, "
		"shared expert, one score a set)",
		model->name);
}

/* The one of our names' last parts of an MLP in transformers' words; NULL: it is none. */
static const char *matrix_of(const struct kind *kind, const char *rest)
{
	return strcmp(rest, "gate.weight") == 0   ? kind->gate
	       : strcmp(rest, "down.weight") == 0 ? kind->down
	       : strcmp(rest, "up.weight") == 0   ? kind->up
						  : NULL;
}

bool mt_hf_expert_name(const struct mt_model *model, const char *ours, char theirs[60])
{
	static const char experts[] = "experts.", shared[] = "shared.";
	const struct kind *kind = model->experts > 0 ? kind_of(model) : NULL;
	const char *matrix;
	char *rest;
	long expert;

	if (!kind)
		return false;
	if (strcmp(ours, "router.weight") == 0 || strcmp(ours, "router.bias") == 0) {
		snprintf(theirs, 60, "%s.gate.%s", kind->module, ours[7] == 'w' ? "weight" : "e_score_correction_bias");
		return true;
	}
	if (strncmp(ours, shared, sizeof shared - 1) == 0) {
		matrix = matrix_of(kind, ours + sizeof shared - 1);
		if (matrix)
			snprintf(theirs, 60, "%s.shared_experts.%s.weight", kind->module, matrix);
		return matrix != NULL;
	}
	if (strncmp(ours, experts, sizeof experts - 1) != 0)
		return false;
	expert = strtol(ours + sizeof experts - 1, &rest, 10);
	matrix = *rest == '.' ? matrix_of(kind, rest + 1) : NULL;
	if (matrix)
		snprintf(theirs, 60, "%s.experts.%ld.%s.weight", kind->module, expert, matrix);
	return matrix != NULL;
}

static void set_int(json_t *config, const char *key, int64_t value)
{
	json_object_set_new(config, key, json_integer(value));
}

static void set_mixtral(const struct mt_model *m, json_t *config)
{
	set_int(config, "intermediate_size", m->expert_ffn);
	set_int(config, "num_local_experts", m->experts);
	json_object_set_new(config, "router_aux_loss_coef", json_real(m->balance_loss));
	json_object_set_new(config, "sliding_window", json_null());
	json_object_del(config, "attention_bias");
	json_object_del(config, "mlp_bias");
}

static void set_qwen3(const struct mt_model *m, json_t *config)
{
	json_t *dense = json_array();

	for (int64_t layer = 0; layer < m->layers; layer++) {
		if (!mt_model_layer_has_experts(m, layer))
			json_array_append_new(dense, json_integer(layer));
	}
	json_object_set_new(config, "mlp_only_layers", dense);
	set_int(config, "decoder_sparse_step", 1);
	set_int(config, "num_experts", m->experts);
	set_int(config, "moe_intermediate_size", m->expert_ffn);
	json_object_set_new(config, "norm_topk_prob", json_boolean(m->router_normalize));
	json_object_set_new(config, "router_aux_loss_coef", json_real(m->balance_loss));
}

static void set_deepseek(const struct mt_model *m, json_t *config)
{
	bool sigmoid = m->router == MT_MODEL_SIGMOID;

	set_int(config, "first_k_dense_replace", m->dense_first < m->layers ? m->dense_first : m->layers);
	set_int(config, "moe_layer_freq", 1);
	set_int(config, "n_routed_experts", m->experts);
	set_int(config, "n_shared_experts", m->shared_ffn / m->expert_ffn);
	set_int(config, "moe_intermediate_size", m->expert_ffn);
	set_int(config, "n_group", m->router_sets);
	set_int(config, "topk_group", m->set_top);
	json_object_set_new(config, "norm_topk_prob", json_boolean(m->router_normalize));
	json_object_set_new(config, "routed_scaling_factor", json_real(m->router_scale));
	json_object_set_new(config, "scoring_func", json_string(sigmoid ? "sigmoid" : "softmax"));
	json_object_set_new(config, "topk_method",
			    json_string(sigmoid              ? "noaux_tc"
					: m->router_sets > 1 ? "group_limited_greedy"
							     : "greedy"));
	json_object_set_new(config, "aux_loss_alpha", json_real(m->balance_loss));
}

void mt_hf_set_experts(const struct mt_model *model, json_t *config)
{
	const struct kind *kind = model->experts > 0 ? kind_of(model) : NULL;

	if (!kind)
		return;
	json_object_set_new(config, "model_type", json_string(kind->type));
	json_object_set_new(config, "architectures", json_pack("[s]", kind->architecture));
	set_int(config, "num_experts_per_tok", model->top_k);
	if (kind == &mixtral)
		set_mixtral(model, config);
	else if (kind == &qwen3)
		set_qwen3(model, config);
	else
		set_deepseek(model, config);
}
