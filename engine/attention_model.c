/* attention_model: what a model's attention is made of: its checks, counts, windows and rotations. */
#include "engine/model_private.h"

#include <math.h>

/* Heads of latent attention are given by their two parts. */
enum mt_status mt_model_complete_latent(struct mt_model *model, const char *where)
{
	int64_t sum = model->nope_dim + model->rope_dim;

	if (!mt_model_is_latent(model)) {
		if (model->q_rank > 0 || sum > 0)
			return mt_fail(MT_INPUT, "%s: q_rank, nope_dim and rope_dim are of latent attention: give kv_rank too",
				       where);
		return MT_OK;
	}
	if (model->nope_dim == 0 || model->rope_dim == 0)
		return mt_fail(MT_INPUT, "%s: latent attention needs nope_dim and rope_dim, not %lld and %lld", where,
			       (long long)model->nope_dim, (long long)model->rope_dim);
	if (model->head_dim != 0 && model->head_dim != sum)
		return mt_fail(MT_INPUT, "%s: head_dim %lld is not nope_dim + rope_dim, %lld: leave it out", where,
			       (long long)model->head_dim, (long long)sum);
	model->head_dim = sum;
	if (model->kv_heads != model->heads)
		return mt_fail(MT_INPUT, "%s: latent attention has as many key and value heads as heads: leave kv_heads out",
			       where);
	if (model->position != MT_MODEL_ROPE || model->norm != MT_MODEL_RMSNORM || model->bias || model->qkv_bias || model->qk_norm)
		return mt_fail(MT_INPUT,
			       "%s: latent attention needs position rope, norm rmsnorm, and bias, qkv_bias and qk_norm false",
			       where);
	return MT_OK;
}

static enum mt_status complete_rope(struct mt_model *model, const char *where)
{
	int64_t whole = mt_model_is_latent(model) ? model->rope_dim : model->head_dim;

	if (model->position == MT_MODEL_ROPE && (model->rotary_dim % 2 != 0 || model->rotary_dim > whole))
		return mt_fail(MT_INPUT, "%s: rotary_dim %lld must be even and at most %lld", where, (long long)model->rotary_dim,
			       (long long)whole);
	if (model->rope_scaling == MT_ROPE_PLAIN)
		return MT_OK;
	if (model->position != MT_MODEL_ROPE)
		return mt_fail(MT_INPUT, "%s: rope_scaling needs position rope", where);
	if (model->rope_scaling != MT_ROPE_LINEAR && model->rope_original == 0)
		return mt_fail(MT_INPUT, "%s: rope_scaling llama3 and yarn need rope_original", where);
	if (model->rope_high == 0)
		model->rope_high = model->rope_scaling == MT_ROPE_LLAMA3 ? 4 : 32;
	if (model->rope_scaling != MT_ROPE_LINEAR && !(model->rope_low > 0 && model->rope_low < model->rope_high))
		return mt_fail(MT_INPUT, "%s: rope_low %g must be above 0 and below rope_high %g", where, model->rope_low,
			       model->rope_high);
	return MT_OK;
}

enum mt_status mt_model_complete_attention(struct mt_model *model, const char *where)
{
	if (!mt_model_is_latent(model) && model->v_dim != 0)
		return mt_fail(MT_INPUT, "%s: v_dim %lld is of latent attention: give kv_rank too", where, (long long)model->v_dim);
	if (mt_model_is_latent(model) && model->v_dim == 0)
		model->v_dim = model->head_dim;
	if ((model->window_first > 0 || model->window_every > 0) && model->window == 0)
		return mt_fail(MT_INPUT, "%s: window_first and window_every choose layers of a window: give window", where);
	if (model->mtp > 0 && (model->position != MT_MODEL_ROPE || model->norm != MT_MODEL_RMSNORM))
		return mt_fail(MT_INPUT, "%s: mtp needs position rope and norm rmsnorm", where);
	return complete_rope(model, where);
}

int64_t mt_model_window(const struct mt_model *model, int64_t layer)
{
	bool all = layer < model->window_first || (model->window_every > 0 && (layer + 1) % model->window_every == 0);

	return all ? 0 : model->window;
}

/* 0.1 weight ln(factor) + 1: Peng et al. 2023, arXiv:2309.00071, eq. 22, with DeepSeek's weight. */
static double yarn_magnitude(const struct mt_model *model, double weight)
{
	return model->rope_factor > 1 ? 0.1 * weight * log(model->rope_factor) + 1 : 1;
}

struct mt_rope_scaling mt_model_rope_scaling(const struct mt_model *model)
{
	struct mt_rope_scaling s = {.stretch = (enum mt_rope_stretch)model->rope_scaling,
				    .factor = model->rope_factor,
				    .original = (double)model->rope_original,
				    .low = model->rope_low,
				    .high = model->rope_high};

	if (s.stretch == MT_ROPE_YARN && model->rope_magnitude > 0)
		s.magnitude = model->rope_magnitude;
	else if (s.stretch == MT_ROPE_YARN && model->rope_mscale > 0 && model->rope_mscale_all > 0)
		s.magnitude = yarn_magnitude(model, model->rope_mscale) / yarn_magnitude(model, model->rope_mscale_all);
	else if (s.stretch == MT_ROPE_YARN)
		s.magnitude = yarn_magnitude(model, 1);
	return s;
}

double mt_model_attention_scale(const struct mt_model *model)
{
	double scale = 1.0 / sqrt((double)model->head_dim);

	if (model->rope_scaling == MT_ROPE_YARN && model->rope_mscale_all > 0)
		scale *= yarn_magnitude(model, model->rope_mscale_all) * yarn_magnitude(model, model->rope_mscale_all);
	return scale;
}

/* q: hidden x (heads*head_dim); k, v: hidden x (kv_heads*head_dim); out: as q. Latent: hidden to the ranks and the rotated part,
 * the ranks to the heads, values to hidden. */
int64_t mt_model_attention_weights(const struct mt_model *model)
{
	int64_t q = model->heads * model->head_dim, kv = model->kv_heads * model->head_dim,
		v = model->heads * mt_model_v_dim(model);

	if (!mt_model_is_latent(model))
		return model->hidden * (2 * q + 2 * kv);
	return model->hidden * (model->kv_rank + model->rope_dim + v) + model->kv_rank * (model->heads * model->nope_dim + v) +
	       (model->q_rank > 0 ? model->q_rank * (model->hidden + q) : model->hidden * q);
}

int64_t mt_model_attention_vectors(const struct mt_model *model)
{
	int64_t q = model->heads * model->head_dim, kv = model->kv_heads * model->head_dim;

	if (mt_model_is_latent(model))
		return model->q_rank + model->kv_rank;
	return (model->bias || model->qkv_bias ? q + 2 * kv : 0) + (model->bias ? model->hidden : 0) +
	       (model->qk_norm ? 2 * model->head_dim : 0);
}
