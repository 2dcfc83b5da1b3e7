/* model_hf: a model from a Hugging Face config.json.
 *
 * The file is the transformers library's: keys as in its GPT2Config, LlamaConfig and MistralConfig, and a key that is
 * absent has that class' default. What would change shapes or mathematics and is not built here is refused. */
#include "base/json.h"
#include "base/log.h"
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

/* What llama and mistral share. */
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
	MT_TRY(read_float(r, "rope_theta", 10000, &m->rope_theta));
	MT_TRY(read_bool(r, "tie_word_embeddings", false, &m->tied));
	MT_TRY(check_activation(r, "hidden_act", activations));
	const json_t *scaling = json_object_get(r->config, "rope_scaling");
	if (scaling && !json_is_null(scaling))
		mt_warn("%s: rope_scaling is not applied; shapes and costs are the same, the rotation of long sequences is not",
			r->path);
	return MT_OK;
}

static enum mt_status read_llama(const struct reader *r)
{
	MT_TRY(refuse(r, "attention_bias"));
	MT_TRY(refuse(r, "mlp_bias"));
	return read_llama_like(r, 0);
}

static enum mt_status read_mistral(const struct reader *r)
{
	int64_t window = 0;

	MT_TRY(read_llama_like(r, 8));
	/* the class' default is a window of 4096; null turns it off */
	MT_TRY(read_int(r, "sliding_window", json_object_get(r->config, "sliding_window") ? 0 : 4096, &window));
	if (window > 0 && window < r->model->seq)
		return mt_fail(
			MT_INPUT,
			"%s: sliding_window %lld is not supported: set it to null, or max_position_embeddings to at most %lld",
			r->path, (long long)window, (long long)window);
	return MT_OK;
}

static enum mt_status read_mixtral(const struct reader *r)
{
	struct mt_model *m = r->model;
	int64_t window = 0;

	MT_TRY(read_llama_like(r, 8));
	MT_TRY(read_int(r, "num_local_experts", 8, &m->experts));
	MT_TRY(read_int(r, "num_experts_per_tok", 2, &m->top_k));
	MT_TRY(read_float(r, "router_aux_loss_coef", 0.001, &m->balance_loss));
	MT_TRY(read_float(r, "rms_norm_eps", 1e-5, &m->norm_eps));
	MT_TRY(read_float(r, "rope_theta", 1e6, &m->rope_theta));
	MT_TRY(read_int(r, "sliding_window", 0, &window));
	m->expert_ffn = m->ffn;
	if (window > 0 && window < m->seq)
		return mt_fail(MT_INPUT, "%s: sliding_window %lld is not supported for mixtral: set it to null", r->path,
			       (long long)window);
	return MT_OK;
}

static const struct {
	const char *type;
	enum mt_status (*read)(const struct reader *r);
} types[] = {{"gpt2", read_gpt2}, {"llama", read_llama}, {"mistral", read_mistral}, {"mixtral", read_mixtral}};

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
	return mt_fail(MT_INPUT, "%s: model_type '%s' is not supported; known: gpt2, llama, mistral, mixtral", path, type);
}
