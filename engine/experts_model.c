/* experts_model: what a model's options say about experts: which layers have them, what fits together, what is counted. */
#include "engine/model_private.h"

static int64_t every(const struct mt_model *model)
{
	return model->expert_every > 0 ? model->expert_every : 1;
}

bool mt_model_layer_has_experts(const struct mt_model *model, int64_t layer)
{
	return model->experts > 0 && layer >= model->dense_first && (layer - model->dense_first) % every(model) == 0;
}

int64_t mt_model_expert_layers(const struct mt_model *model)
{
	int64_t left = model->layers - model->dense_first;

	return model->experts > 0 && left > 0 ? (left + every(model) - 1) / every(model) : 0;
}

int64_t mt_model_expert_modules(const struct mt_model *model)
{
	int64_t count = 0;

	for (int64_t layer = model->layers; layer < model->layers + model->mtp; layer++)
		count += mt_model_layer_has_experts(model, layer);
	return count;
}

int64_t mt_model_expert_weights(const struct mt_model *model, bool met)
{
	int64_t matrices = mt_model_mlp_matrices(model), experts = met ? model->top_k : model->experts;

	if (model->experts == 0)
		return 0;
	return model->hidden *
	       (matrices * (experts * model->expert_ffn + model->shared_ffn) + model->experts + (model->shared_gate ? 1 : 0));
}

int64_t mt_model_set_best(const struct mt_model *model)
{
	int64_t each = model->top_k / model->set_top, size = model->experts / model->router_sets;

	if (model->set_best > 0)
		return model->set_best;
	return each < 1 ? 1 : each < size ? each : size;
}

static enum mt_status check_router(const struct mt_model *m, const char *where)
{
	if (m->top_k > m->experts)
		return mt_fail(MT_INPUT, "%s: top_k %lld is more than the %lld experts", where, (long long)m->top_k,
			       (long long)m->experts);
	if (m->top_k == 1 && m->router == MT_MODEL_SOFTMAX && m->router_normalize)
		return mt_fail(
			MT_INPUT,
			"%s: the weight of one expert divided by itself is 1 and teaches the router nothing: with top_k 1 set "
			"router_normalize to false",
			where);
	if (m->router_sets > 1 && m->experts % m->router_sets != 0)
		return mt_fail(MT_INPUT, "%s: experts %lld is not a multiple of router_sets %lld", where, (long long)m->experts,
			       (long long)m->router_sets);
	if (m->router_sets > 1 && (m->set_top > m->router_sets || m->set_top * (m->experts / m->router_sets) < m->top_k))
		return mt_fail(MT_INPUT, "%s: set_top %lld of %lld sets of %lld experts cannot give a token %lld experts", where,
			       (long long)m->set_top, (long long)m->router_sets, (long long)(m->experts / m->router_sets),
			       (long long)m->top_k);
	if (m->set_best > 0 && m->router_sets == 1)
		return mt_fail(MT_INPUT, "%s: set_best scores sets of experts: give router_sets", where);
	if (m->set_best > m->experts / m->router_sets)
		return mt_fail(MT_INPUT, "%s: set_best %lld is more than the %lld experts of a set", where, (long long)m->set_best,
			       (long long)(m->experts / m->router_sets));
	if (m->router_bias && m->router == MT_MODEL_SOFTMAX)
		return mt_fail(MT_INPUT,
			       "%s: router_bias is of the sigmoid router, whose scores do not sum to one: set router to sigmoid",
			       where);
	return MT_OK;
}

enum mt_status mt_model_complete_experts(struct mt_model *model, const char *where)
{
	if (model->experts == 0)
		return model->shared_ffn == 0 ? MT_OK
					      : mt_fail(MT_INPUT, "%s: shared_ffn is of a model with experts: give experts", where);
	if (model->bias)
		return mt_fail(MT_INPUT, "%s: experts have no biases: set bias to false", where);
	if (model->expert_ffn == 0)
		model->expert_ffn = model->ffn;
	if (mt_model_expert_layers(model) == model->layers) /* no layer has an MLP: its width says nothing */
		model->ffn = model->expert_ffn;
	if (model->shared_gate && model->shared_ffn == 0)
		return mt_fail(MT_INPUT, "%s: shared_gate weights a shared expert: give shared_ffn", where);
	if (model->capacity_pad && !(model->capacity > 0))
		return mt_fail(MT_INPUT, "%s: capacity_pad needs a capacity", where);
	return check_router(model, where);
}
