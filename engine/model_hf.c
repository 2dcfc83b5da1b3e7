/* model_hf: a model from a Hugging Face config.json.
 *
 * The file is the transformers library's: keys as in its GPT2Config, LlamaConfig and so on, and a key that is absent has that
 * class' default. What would change shapes or mathematics and is not built here is refused. */
#include "base/json.h"
#include "engine/model_private.h"

#include <stdlib.h>
#include <string.h>

struct reader {
	const json_t *config;
	const char *path;
	struct mt_model *model;
};

/* A whole number; absent or null gives `otherwise`, or is refused when that is negative. */
static enum mt_status read_int(const struct reader *r, const char *key, int64_t otherwise, int64_t *value)
{
	const json_t *node = json_object_get(r->config, key);

	if (json_is_integer(node))
		*value = json_integer_value(node);
	else if (node && !json_is_null(node))
		return mt_fail(MT_INPUT, "%s: %s must be a whole number", r->path, key);
	else if (otherwise < 0)
		return mt_fail(MT_INPUT, "%s: %s is missing", r->path, key);
	else
		*value = otherwise;
	return MT_OK;
}

static enum mt_status read_float(const struct reader *r, const char *key, double otherwise, double *value)
{
	const json_t *node = json_object_get(r->config, key);

	if (node && !json_is_null(node) && !json_is_number(node))
		return mt_fail(MT_INPUT, "%s: %s must be a number", r->path, key);
	*value = json_is_number(node) ? json_number_value(node) : otherwise;
	return MT_OK;
}

static enum mt_status read_bool(const struct reader *r, const char *key, bool otherwise, bool *value)
{
	const json_t *node = json_object_get(r->config, key);

	if (node && !json_is_null(node) && !json_is_boolean(node))
		return mt_fail(MT_INPUT, "%s: %s must be true or false", r->path, key);
	*value = json_is_boolean(node) ? json_is_true(node) : otherwise;
	return MT_OK;
}

/* A switch that must be off here. */
static enum mt_status refuse(const struct reader *r, const char *key)
{
	bool on = false;

	MT_TRY(read_bool(r, key, false, &on));
	return on ? mt_fail(MT_INPUT, "%s: %s is not supported: set it to false", r->path, key) : MT_OK;
}

/* The activation must be one of `known`: its cost is the same for all of these, its values nearly so. */
static enum mt_status check_activation(const struct reader *r, const char *key, const char *const *known)
{
	const char *name = mt_json_get_string(r->config, key, known[0]);

	for (int i = 0; known[i]; i++) {
		if (strcmp(name, known[i]) == 0)
			return MT_OK;
	}
	return mt_fail(MT_INPUT, "%s: %s '%s' is not supported for this model_type: known is '%s'", r->path, key, name, known[0]);
}

static enum mt_status read_gpt2(const struct reader *r)
{
	static const char *const activations[] = {"gelu_new", "gelu", "gelu_pytorch_tanh", "gelu_fast", NULL};
	struct mt_model *m = r->model;
	bool scale = true;

	m->norm = MT_MODEL_LAYERNORM;
	m->position = MT_MODEL_LEARNED;
	m->mlp = MT_MODEL_GELU;
	m->bias = true;
	MT_TRY(read_int(r, "n_layer", -1, &m->layers));
	MT_TRY(read_int(r, "n_embd", -1, &m->hidden));
	MT_TRY(read_int(r, "n_head", -1, &m->heads));
	MT_TRY(read_int(r, "n_inner", 0, &m->ffn));
	MT_TRY(read_int(r, "vocab_size", -1, &m->vocab));
	MT_TRY(read_int(r, "n_positions", -1, &m->seq));
	MT_TRY(read_float(r, "layer_norm_epsilon", 1e-5, &m->norm_eps));
	MT_TRY(read_bool(r, "tie_word_embeddings", true, &m->tied));
	MT_TRY(read_bool(r, "scale_attn_weights", true, &scale));
	if (!scale)
		return mt_fail(MT_INPUT, "%s: scale_attn_weights false is not supported: set it to true", r->path);
	MT_TRY(refuse(r, "scale_attn_by_inverse_layer_idx"));
	MT_TRY(refuse(r, "add_cross_attention"));
	return check_activation(r, "activation_function", activations);
}

/* What llama and its descendants share, but for windows. */
static enum mt_status read_llama_like(const struct reader *r, int64_t kv_heads)
{
	static const char *const activations[] = {"silu", "swish", NULL};
	struct mt_model *m = r->model;

	m->norm = MT_MODEL_RMSNORM;
	m->position = MT_MODEL_ROPE;
	m->mlp = MT_MODEL_SWIGLU;
	m->bias = false;
	MT_TRY(read_int(r, "num_hidden_layers", -1, &m->layers));
	MT_TRY(read_int(r, "hidden_size", -1, &m->hidden));
	MT_TRY(read_int(r, "num_attention_heads", -1, &m->heads));
	if (!json_object_get(r->config, "num_key_value_heads"))
		m->kv_heads = kv_heads;
	else
		MT_TRY(read_int(r, "num_key_value_heads", 0, &m->kv_heads));
	MT_TRY(read_int(r, "head_dim", 0, &m->head_dim));
	MT_TRY(read_int(r, "intermediate_size", -1, &m->ffn));
	MT_TRY(read_int(r, "vocab_size", -1, &m->vocab));
	MT_TRY(read_int(r, "max_position_embeddings", -1, &m->seq));
	MT_TRY(read_float(r, "rms_norm_eps", 1e-6, &m->norm_eps));
	MT_TRY(read_bool(r, "tie_word_embeddings", false, &m->tied));
	MT_TRY(check_activation(r, "hidden_act", activations));
	return mt_model_read_hf_rope(m, r->config, r->path);
}

static enum mt_status read_llama(const struct reader *r)
{
	MT_TRY(refuse(r, "attention_bias"));
	MT_TRY(refuse(r, "mlp_bias"));
	return read_llama_like(r, 0);
}

static enum mt_status read_mistral(const struct reader *r)
{
	MT_TRY(read_llama_like(r, 8));
	/* the class' default is a window of 4096; null turns it off */
	return read_int(r, "sliding_window", json_object_get(r->config, "sliding_window") ? 0 : 4096, &r->model->window);
}

/* A list of a kind for each layer is told by window_first and window_every where these can. */
static enum mt_status read_layer_types(const struct reader *r, const json_t *types)
{
	struct mt_model *m = r->model;
	size_t count = json_array_size(types);
	char all[16384] = {0};

	if ((int64_t)count != m->layers || count > sizeof all)
		return mt_fail(MT_INPUT, "%s: layer_types must have a kind for each of %lld layers", r->path, (long long)m->layers);
	for (size_t i = 0; i < count; i++) {
		const char *type = json_string_value(json_array_get(types, i));

		if (!type || (strcmp(type, "full_attention") != 0 && strcmp(type, "sliding_attention") != 0))
			return mt_fail(MT_INPUT, "%s: layer_types has '%s'; known: full_attention, sliding_attention", r->path,
				       type ? type : "?");
		all[i] = type[0] == 'f';
	}
	for (m->window_every = 0; m->window_every <= m->layers; m->window_every++) {
		for (m->window_first = 0; m->window_first <= m->layers; m->window_first++) {
			int64_t layer = 0;

			while (layer < m->layers && (mt_model_window(m, layer) == 0) == all[layer])
				layer++;
			if (layer == m->layers)
				return MT_OK;
		}
	}
	return mt_fail(MT_INPUT, "%s: layer_types is neither a first part nor each so many-th of full_attention", r->path);
}

/* qwen2 and qwen3: a window only where use_sliding_window says so, from layer max_window_layers on. */
static enum mt_status read_qwen(const struct reader *r)
{
	struct mt_model *m = r->model;
	const json_t *types = json_object_get(r->config, "layer_types");
	bool on = false;

	MT_TRY(read_llama_like(r, 32));
	MT_TRY(read_bool(r, "use_sliding_window", false, &on));
	if (!on)
		return MT_OK;
	MT_TRY(read_int(r, "sliding_window", 4096, &m->window));
	MT_TRY(read_int(r, "max_window_layers", 28, &m->window_first));
	if (m->window > 0 && json_is_array(types))
		MT_TRY(read_layer_types(r, types));
	if (m->window == 0 || m->window_first >= m->layers)
		m->window = m->window_first = m->window_every = 0;
	return MT_OK;
}

static enum mt_status read_mixtral(const struct reader *r)
{
	struct mt_model *m = r->model;

	MT_TRY(read_llama_like(r, 8));
	MT_TRY(read_int(r, "num_local_experts", 8, &m->experts));
	MT_TRY(read_int(r, "num_experts_per_tok", 2, &m->top_k));
	MT_TRY(read_float(r, "router_aux_loss_coef", 0.001, &m->balance_loss));
	MT_TRY(read_float(r, "rms_norm_eps", 1e-5, &m->norm_eps));
	if (!json_object_get(r->config, "rope_theta") && !json_object_get(r->config, "rope_parameters"))
		m->rope_theta = 1e6;
	m->expert_ffn = m->ffn;
	return read_int(r, "sliding_window", 0, &m->window);
}

static enum mt_status read_qwen2(const struct reader *r)
{
	MT_TRY(read_qwen(r));
	r->model->qkv_bias = true;
	return MT_OK;
}

static enum mt_status read_qwen3(const struct reader *r)
{
	MT_TRY(refuse(r, "attention_bias"));
	MT_TRY(read_qwen(r));
	if (!json_object_get(r->config, "head_dim"))
		r->model->head_dim = 128;
	r->model->qk_norm = true;
	return MT_OK;
}

/* Layers that have no experts: those of a list, or all but each so many-th. */
static enum mt_status read_qwen_layers(const struct reader *r)
{
	const json_t *dense = json_object_get(r->config, "mlp_only_layers");
	struct mt_model *m = r->model;
	int64_t step;

	MT_TRY(read_int(r, "decoder_sparse_step", 1, &step));
	if (step < 1)
		return mt_fail(MT_INPUT, "%s: decoder_sparse_step %lld must be at least 1", r->path, (long long)step);
	m->expert_every = step;
	m->dense_first = step - 1;
	for (size_t i = 0; i < json_array_size(dense); i++) {
		if (step != 1 || json_integer_value(json_array_get(dense, i)) != (json_int_t)i)
			return mt_fail(MT_INPUT, "%s: mlp_only_layers must be the first layers, with decoder_sparse_step 1",
				       r->path);
		m->dense_first = (int64_t)i + 1;
	}
	return MT_OK;
}

static enum mt_status read_qwen3_moe(const struct reader *r)
{
	struct mt_model *m = r->model;

	MT_TRY(refuse(r, "attention_bias"));
	MT_TRY(read_qwen(r));
	if (!json_object_get(r->config, "num_key_value_heads"))
		m->kv_heads = 4;
	m->qk_norm = true;
	MT_TRY(read_int(r, "num_local_experts", 128, &m->experts)); /* as the fifth version of transformers names them */
	MT_TRY(read_int(r, "num_experts", m->experts, &m->experts));
	MT_TRY(read_int(r, "num_experts_per_tok", 8, &m->top_k));
	MT_TRY(read_int(r, "moe_intermediate_size", 768, &m->expert_ffn));
	MT_TRY(read_bool(r, "norm_topk_prob", false, &m->router_normalize));
	MT_TRY(read_float(r, "router_aux_loss_coef", 0.001, &m->balance_loss));
	return read_qwen_layers(r);
}

/* deepseek_v2 says by a word whether there are sets. */
static enum mt_status read_choice(const struct reader *r)
{
	const char *method = mt_json_get_string(r->config, "topk_method", "greedy");
	struct mt_model *m = r->model;

	if (strcmp(method, "greedy") == 0)
		m->router_sets = m->set_top = 1;
	else if (strcmp(method, "group_limited_greedy") != 0)
		return mt_fail(MT_INPUT, "%s: topk_method '%s' is not supported: known are greedy and group_limited_greedy",
			       r->path, method);
	return MT_OK;
}

/* Experts of deepseek_v3: sigmoid, a bias, sets scored by their best two. Of deepseek_v2: softmax over all; its sets are scored by
 * their best alone. */
static enum mt_status read_deepseek_experts(const struct reader *r, bool v3)
{
	struct mt_model *m = r->model;
	int64_t shared, every;

	MT_TRY(read_int(r, "num_experts_per_tok", 8, &m->top_k));
	MT_TRY(read_int(r, "moe_intermediate_size", v3 ? 2048 : 1407, &m->expert_ffn));
	MT_TRY(read_int(r, "n_shared_experts", v3 ? 1 : 2, &shared));
	MT_TRY(read_int(r, "moe_layer_freq", 1, &every));
	MT_TRY(read_int(r, "n_group", v3 ? 8 : 1, &m->router_sets));
	MT_TRY(read_int(r, "topk_group", v3 ? 4 : m->router_sets, &m->set_top));
	MT_TRY(read_bool(r, "norm_topk_prob", v3, &m->router_normalize));
	MT_TRY(read_float(r, "routed_scaling_factor", v3 ? 2.5 : 1, &m->router_scale));
	MT_TRY(read_float(r, "aux_loss_alpha", 0, &m->balance_loss));
	if (every != 1)
		return mt_fail(MT_INPUT, "%s: moe_layer_freq %lld is not supported: known is 1", r->path, (long long)every);
	m->shared_ffn = shared * m->expert_ffn;
	m->router = v3 ? MT_MODEL_SIGMOID : MT_MODEL_SOFTMAX;
	m->router_bias = v3;
	if (!v3)
		MT_TRY(read_choice(r));
	if (m->router_sets < 1 || m->set_top < 1)
		return mt_fail(MT_INPUT, "%s: n_group %lld and topk_group %lld must be at least 1", r->path,
			       (long long)m->router_sets, (long long)m->set_top);
	m->set_best = m->router_sets == 1 ? 0 : v3 ? 2 : 1;
	return MT_OK;
}

static enum mt_status read_deepseek(const struct reader *r)
{
	bool v3 = strcmp(mt_json_get_string(r->config, "model_type", ""), "deepseek_v3") == 0;
	struct mt_model *m = r->model;

	MT_TRY(refuse(r, "attention_bias"));
	MT_TRY(read_llama_like(r, 0));
	m->kv_heads = m->head_dim = 0;
	MT_TRY(read_int(r, "q_lora_rank", 0, &m->q_rank));
	MT_TRY(read_int(r, "kv_lora_rank", 512, &m->kv_rank));
	MT_TRY(read_int(r, "qk_nope_head_dim", 128, &m->nope_dim));
	MT_TRY(read_int(r, "qk_rope_head_dim", 64, &m->rope_dim));
	MT_TRY(read_int(r, "v_head_dim", 128, &m->v_dim));
	MT_TRY(read_bool(r, "rope_interleave", true, &m->rope_interleaved));
	MT_TRY(read_int(r, "num_nextn_predict_layers", 0, &m->mtp));
	MT_TRY(read_int(r, "first_k_dense_replace", v3 ? 3 : 0, &m->dense_first));
	MT_TRY(read_int(r, "n_routed_experts", v3 ? 256 : 64, &m->experts));
	if (m->experts > 0 && m->dense_first < m->layers)
		return read_deepseek_experts(r, v3);
	m->experts = m->dense_first = 0;
	return MT_OK;
}

static const struct {
	const char *type;
	enum mt_status (*read)(const struct reader *r);
} types[] = {{"gpt2", read_gpt2},           {"llama", read_llama},          {"mistral", read_mistral},
	     {"mixtral", read_mixtral},     {"qwen2", read_qwen2},          {"qwen3", read_qwen3},
	     {"qwen3_moe", read_qwen3_moe}, {"deepseek_v2", read_deepseek}, {"deepseek_v3", read_deepseek}};

/* The name a person knows: the one in the file, else the folder's, else the type. */
static char *choose_name(const struct reader *r, const char *type)
{
	const char *name = mt_json_get_string(r->config, "_name_or_path", "");
	size_t length = strlen(name);

	if (length == 0) {
		const char *slash = strrchr(r->path, '/');
		name = r->path;
		length = slash ? (size_t)(slash - r->path) : 0;
	}
	while (length > 0 && name[length - 1] == '/')
		length--;
	size_t start = length;
	while (start > 0 && name[start - 1] != '/')
		start--;
	if (length == start || name[start] == '.')
		return strdup(type);
	return strndup(name + start, length - start);
}

enum mt_status mt_model_read_hf(struct mt_model *model, const json_t *config, const char *path)
{
	struct reader r = {.config = config, .path = path, .model = model};
	const char *type = mt_json_get_string(config, "model_type", "");

	for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
		if (strcmp(type, types[i].type) != 0)
			continue;
		MT_TRY(types[i].read(&r));
		MT_TRY(read_float(&r, "initializer_range", 0.02, &model->init_std));
		free(model->name);
		model->name = choose_name(&r, type);
		return model->name ? MT_OK : mt_fail(MT_NOMEM, "out of memory");
	}
	return mt_fail(MT_INPUT,
		       "%s: model_type '%s' is not supported; known: gpt2, llama, mistral, mixtral, qwen2, qwen3, qwen3_moe, "
		       "deepseek_v2, deepseek_v3",
		       path, type);
}
