/* hf_experts: what Hugging Face's transformers calls the parameters of experts, as hf_names.c has the others.
 *
 * Known is Mixtral: all layers have experts, a softmax over those chosen, nothing shared. */
#include "engine/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_mixtral(const struct mt_model *m)
{
	return m->mlp == MT_MODEL_SWIGLU && m->router == MT_MODEL_SOFTMAX && m->router_normalize && m->router_scale == 1 &&
	       m->router_sets == 1 && m->shared_ffn == 0 && mt_model_expert_layers(m) == m->layers;
}

enum mt_status mt_hf_check_experts(const struct mt_model *model)
{
	if (model->experts == 0 || is_mixtral(model))
		return MT_OK;
	return mt_fail(
		MT_INPUT,
		"%s has no Hugging Face form: of models with experts known is mixtral (experts in every layer, softmax over the "
		"chosen ones, no shared expert)",
		model->name);
}

bool mt_hf_expert_name(const struct mt_model *model, const char *ours, char theirs[60])
{
	static const char *const matrices[][2] = {{".gate.weight", "w1"}, {".down.weight", "w2"}, {".up.weight", "w3"}};
	static const char prefix[] = "experts.";
	char *rest;
	long expert;

	if (model->experts == 0)
		return false;
	if (strcmp(ours, "router.weight") == 0) {
		snprintf(theirs, 60, "block_sparse_moe.gate.weight");
		return true;
	}
	if (strncmp(ours, prefix, sizeof prefix - 1) != 0)
		return false;
	expert = strtol(ours + sizeof prefix - 1, &rest, 10);
	for (int i = 0; i < 3; i++) {
		if (strcmp(rest, matrices[i][0]) != 0)
			continue;
		snprintf(theirs, 60, "block_sparse_moe.experts.%ld.%s.weight", expert, matrices[i][1]);
		return true;
	}
	return false;
}

void mt_hf_set_experts(const struct mt_model *model, json_t *config)
{
	if (model->experts == 0)
		return;
	json_object_set_new(config, "model_type", json_string("mixtral"));
	json_object_set_new(config, "architectures", json_pack("[s]", "MixtralForCausalLM"));
	json_object_set_new(config, "intermediate_size", json_integer(model->expert_ffn));
	json_object_set_new(config, "num_local_experts", json_integer(model->experts));
	json_object_set_new(config, "num_experts_per_tok", json_integer(model->top_k));
	json_object_set_new(config, "router_aux_loss_coef", json_real(model->balance_loss));
	json_object_set_new(config, "sliding_window", json_null());
	json_object_del(config, "attention_bias");
	json_object_del(config, "mlp_bias");
}
