/* model: the option table of a model, what is derived from it and what is counted in it. */

#include "engine/model_private.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

static const char *const norms[] = {"layernorm", "rmsnorm", NULL};
static const char *const positions[] = {"learned", "rope", NULL};
static const char *const mlps[] = {"gelu", "swiglu", NULL};
static const char *const routers[] = {"softmax", "sigmoid", NULL};
static const char *const drops[] = {"last", "lightest", NULL};
static const char *const stretches[] = {"none", "linear", "llama3", "yarn", NULL};

/* The bounds keep every count below in 63 bits: layers * hidden * (4 * heads * head_dim + 3 * ffn) < 2^61. */
#define INT(field, value, least, most, help)                                                                                       \
	{                                                                                                                          \
#field, MT_OPTION_INT, offsetof(struct mt_model, field), value, least, most, NULL, help                            \
	}
#define FLOAT(field, value, least, most, help)                                                                                     \
	{                                                                                                                          \
#field, MT_OPTION_FLOAT, offsetof(struct mt_model, field), value, least, most, NULL, help                          \
	}
#define CHOICE(field, value, choices, help)                                                                                        \
	{                                                                                                                          \
#field, MT_OPTION_CHOICE, offsetof(struct mt_model, field), value, 0, 0, choices, help                             \
	}
#define BOOL(field, value, help)                                                                                                   \
	{                                                                                                                          \
#field, MT_OPTION_BOOL, offsetof(struct mt_model, field), value, 0, 0, NULL, help                                  \
	}

static const struct mt_option options[] = {
	{"name", MT_OPTION_STRING, offsetof(struct mt_model, name), NULL, 0, 0, NULL, "what reports call the model"},
	INT(layers, NULL, 0, 16384, "transformer layers; must be given"),
	INT(hidden, NULL, 0, 1 << 20, "width of the residual stream; must be given"),
	INT(heads, NULL, 0, 4096, "attention heads; must be given"),
	INT(kv_heads, "0", 0, 4096, "key and value heads (grouped-query attention); 0: as many as heads"),
	INT(head_dim, "0", 0, 4096, "size of a head; 0: hidden / heads"),
	INT(ffn, "0", 0, 1 << 22, "inner width of the MLP; 0: 4 * hidden with gelu, must be given with swiglu"),
	INT(vocab, NULL, 0, 1 << 24, "words of the vocabulary, unpadded; must be given"),
	INT(seq, NULL, 0, 1 << 24, "longest sequence in tokens: rows of the learned positions; must be given"),
	CHOICE(norm, "layernorm", norms, "normalisation before attention and MLP"),
	CHOICE(position, "learned", positions, "how positions enter: an embedding or rotated queries and keys"),
	CHOICE(mlp, "gelu", mlps, "activation of the MLP; swiglu has a gate matrix beside the up matrix"),
	BOOL(bias, "true", "the linear layers have biases (gelu only)"),
	BOOL(tied, "true", "the head uses the word embedding"),
	FLOAT(norm_eps, "1e-5", 0, 1, "added to the variance before its root"),
	FLOAT(rope_theta, "10000", 1, 1e12, "base of the rotation wavelengths"),
	FLOAT(init_std, "0.02", 0, 10, "standard deviation of the initial weights"),
	INT(experts, "0", 0, 4096, "experts of a layer; 0: an MLP"),
	INT(top_k, "2", 1, 64, "experts that a token goes to"),
	INT(expert_ffn, "0", 0, 1 << 22, "inner width of an expert; 0: ffn"),
	INT(shared_ffn, "0", 0, 1 << 22, "inner width of the shared expert, which every token goes to; 0: none"),
	BOOL(shared_gate, "false", "the shared expert's output is weighted by a sigmoid of the token"),
	INT(dense_first, "0", 0, 16384, "the first layers, which have an MLP in place of experts"),
	INT(expert_every, "1", 1, 16384, "of the layers after them each so many-th has experts, the first of them on"),
	CHOICE(router, "softmax", routers, "how the router scores experts"),
	BOOL(router_normalize, "true",
	     "the scores of a token's experts are divided by their sum (softmax: as if taken over these alone)"),
	FLOAT(router_scale, "1", 0, 1000, "times which the weights of a token's experts are taken"),
	INT(router_sets, "1", 1, 4096, "experts form so many sets of neighbours, of which a token's come from the best set_top"),
	INT(set_top, "1", 1, 4096, "sets that a token's experts come from"),
	INT(set_best, "0", 0, 4096, "scores of a set whose sum is its worth, the best ones; 0: top_k / set_top, at least one"),
	BOOL(router_bias, "false", "a bias of each expert enters the choice, not the weights"),
	FLOAT(bias_rate, "0.001", 0, 1,
	      "by which that bias goes up or down each step as the expert had fewer or more tokens than the mean"),
	FLOAT(balance_loss, "0", 0, 10, "coefficient of the loss that keeps experts busy alike, over each sequence"),
	FLOAT(z_loss, "0", 0, 10, "coefficient of the loss that keeps the router's logits small"),
	FLOAT(capacity, "0", 0, 4096, "rows of a sequence that an expert takes at most, over an even share; 0: all"),
	CHOICE(drop, "last", drops,
	       "which rows an expert without room leaves: the last of the sequence or those of the least weight"),
	BOOL(capacity_pad, "false", "every expert gets exactly as many rows as its capacity, so that no count depends on the data"),
	BOOL(qkv_bias, "false", "queries, keys and values have biases where bias is false"),
	BOOL(qk_norm, "false", "each head of queries and keys is RMS-normalised before it is rotated"),
	INT(window, "0", 0, 1 << 24, "sliding window: rows that a row sees, its own included; 0: all before it"),
	INT(window_first, "0", 0, 16384, "the first layers, which see all in spite of a window"),
	INT(window_every, "0", 0, 16384, "of the layers each so many-th sees all in spite of a window; 0: none"),
	INT(rotary_dim, "0", 0, 4096, "elements of a head that are rotated, the first; 0: all"),
	BOOL(rope_interleaved, "false", "rotated pairs are neighbours, not elements of the two halves"),
	CHOICE(rope_scaling, "none", stretches, "how rotations are stretched for sequences beyond rope_original"),
	INT(rope_original, "0", 0, 1 << 24, "positions that the unstretched rotations were trained on"),
	FLOAT(rope_factor, "1", 1, 1e6, "by which rotations are stretched"),
	FLOAT(rope_low, "1", 0, 1e6, "llama3: low frequency factor; yarn: beta slow"),
	FLOAT(rope_high, "0", 0, 1e6, "llama3: high frequency factor; yarn: beta fast; 0: 4 and 32"),
	FLOAT(rope_magnitude, "0", 0, 1e3,
	      "yarn: attention factor of cosine and sine; 0: 0.1 ln rope_factor + 1, or from rope_mscale"),
	FLOAT(rope_mscale, "0", 0, 1e3, "yarn: weight of the magnitude of rotated elements (DeepSeek); 0: none"),
	FLOAT(rope_mscale_all, "0", 0, 1e3, "yarn: weight of the magnitude of all of the scores (DeepSeek); 0: none"),
	INT(q_rank, "0", 0, 1 << 20, "latent attention: rank of the queries; 0: full"),
	INT(kv_rank, "0", 0, 1 << 20, "latent attention: rank of keys and values; 0: attention is not latent"),
	INT(nope_dim, "0", 0, 4096, "latent attention: elements of a query's head without position"),
	INT(rope_dim, "0", 0, 4096, "latent attention: elements of a query's head with position; head_dim is the sum"),
	INT(v_dim, "0", 0, 4096, "latent attention: elements of a value's head; 0: head_dim"),
	INT(mtp, "0", 0, 16, "multi-token prediction: modules, each predicting one token further"),
	FLOAT(mtp_weight, "0.1", 0, 100, "weight of the mean of their losses in what is minimised"),
};

const struct mt_option_table mt_model_options = {"model", options, sizeof options / sizeof options[0]};

/* Values that did not come through the YAML reader (a config.json, code) keep the table's bounds too. */
static enum mt_status check_ranges(const struct mt_model *model, const char *where)
{
	static const char *const given[] = {"layers", "hidden", "heads", "vocab", "seq"};

	for (size_t i = 0; i < mt_model_options.count; i++) {
		const struct mt_option *o = &options[i];
		const void *field = (const char *)model + o->offset;
		double value = o->kind == MT_OPTION_INT     ? (double)*(const int64_t *)field
			       : o->kind == MT_OPTION_FLOAT ? *(const double *)field
							    : 0;
		if ((o->kind == MT_OPTION_INT || o->kind == MT_OPTION_FLOAT) && !(value >= o->least && value <= o->most))
			return mt_fail(MT_INPUT, "%s: %s is %g, must be %g to %g", where, o->name, value, o->least, o->most);
	}
	for (size_t i = 0; i < sizeof given / sizeof given[0]; i++) {
		const struct mt_option *o = mt_options_find(&mt_model_options, given[i]);
		if (*(const int64_t *)((const char *)model + o->offset) == 0)
			return mt_fail(MT_INPUT, "%s: the model has no %s: give %s (%s)", where, o->name, o->name, o->help);
	}
	return MT_OK;
}

/* Names stand in comments and headings, which end with their line. */
static enum mt_status check_name(const struct mt_model *model, const char *where)
{
	for (const char *c = model->name; c && *c; c++) {
		if (iscntrl((unsigned char)*c))
			return mt_fail(
				MT_INPUT,
				"%s: character %lld of the model's name is a control character (code %d): give a name of one "
				"line, without tabs",
				where, (long long)(c - model->name) + 1, *c);
	}
	return MT_OK;
}

enum mt_status mt_model_complete(struct mt_model *model, const char *where)
{
	MT_TRY(check_name(model, where));
	MT_TRY(check_ranges(model, where));
	if (!model->name && !(model->name = strdup("custom")))
		return mt_fail(MT_NOMEM, "out of memory");
	if (model->kv_heads == 0)
		model->kv_heads = model->heads;
	MT_TRY(mt_model_complete_latent(model, where));
	if (model->heads % model->kv_heads != 0)
		return mt_fail(MT_INPUT, "%s: heads %lld is not a multiple of kv_heads %lld", where, (long long)model->heads,
			       (long long)model->kv_heads);
	if (model->head_dim == 0) {
		if (model->hidden % model->heads != 0)
			return mt_fail(MT_INPUT, "%s: hidden %lld is not a multiple of heads %lld: change one or give head_dim",
				       where, (long long)model->hidden, (long long)model->heads);
		model->head_dim = model->hidden / model->heads;
	}
	if (model->position == MT_MODEL_ROPE && model->head_dim % 2 != 0)
		return mt_fail(MT_INPUT, "%s: position rope rotates pairs, so head_dim %lld must be even", where,
			       (long long)model->head_dim);
	if (model->mlp == MT_MODEL_SWIGLU && model->ffn == 0)
		return mt_fail(MT_INPUT, "%s: mlp swiglu has no usual width: give ffn", where);
	if (model->mlp == MT_MODEL_SWIGLU && model->bias)
		return mt_fail(MT_INPUT, "%s: mlp swiglu is trained without biases: set bias to false", where);
	if (model->ffn == 0)
		model->ffn = 4 * model->hidden;
	MT_TRY(mt_model_complete_attention(model, where));
	return mt_model_complete_experts(model, where);
}

void mt_model_free(struct mt_model *model)
{
	if (model)
		mt_options_free(&mt_model_options, model);
}

enum mt_status mt_model_copy(struct mt_model *to, const struct mt_model *from)
{
	char *name = from->name ? strdup(from->name) : NULL;

	if (from->name && !name)
		return mt_fail(MT_NOMEM, "out of memory");
	*to = *from;
	to->name = name;
	return MT_OK;
}

int64_t mt_model_mlp_matrices(const struct mt_model *model)
{
	return model->mlp == MT_MODEL_SWIGLU ? 3 : 2;
}

/* Attention: engine/attention_model.c. A multi-token module is a layer and a matrix of two
 * hidden states. */
int64_t mt_model_matmul_parameters(const struct mt_model *model)
{
	int64_t attention = mt_model_attention_weights(model), layers = model->layers + model->mtp;
	int64_t mlp = model->hidden * model->ffn * mt_model_mlp_matrices(model);
	int64_t routed = mt_model_expert_layers(model) + mt_model_expert_modules(model);

	return layers * attention + (layers - routed) * mlp + routed * mt_model_expert_weights(model, true) +
	       model->mtp * 2 * model->hidden * model->hidden;
}

int64_t mt_model_parameters(const struct mt_model *model)
{
	int64_t norm = model->hidden * (model->norm == MT_MODEL_LAYERNORM ? 2 : 1);
	int64_t vectors = mt_model_attention_vectors(model) + (model->bias ? model->ffn + model->hidden : 0);
	int64_t words = model->vocab * model->hidden * (model->tied ? 1 : 2);
	int64_t positions_rows = model->position == MT_MODEL_LEARNED ? model->seq : 0;
	int64_t routed = mt_model_expert_layers(model) + mt_model_expert_modules(model);
	int64_t unmet = routed * (mt_model_expert_weights(model, false) - mt_model_expert_weights(model, true) +
				  (model->router_bias ? model->experts : 0));

	/* a module has norms of the embedding, of the hidden state and of its output */
	return mt_model_matmul_parameters(model) + unmet + (model->layers + model->mtp) * (2 * norm + vectors) +
	       model->mtp * 3 * model->hidden + norm + words + positions_rows * model->hidden;
}

double mt_model_step_flops(const struct mt_model *model, double tokens, int64_t seq, bool full_attention)
{
	double products =
		(double)mt_model_matmul_parameters(model) + (double)(1 + model->mtp) * (double)model->hidden * (double)model->vocab;
	double rows = (double)seq, pairs = 0;

	/* Keys that a query sees on average, over layers: scores and their product with the values are 2 FLOPs each a pair. */
	for (int64_t layer = 0; layer < model->layers + model->mtp; layer++) {
		double window = (double)mt_model_window(model, layer);

		pairs += window > 0 && window < rows ? window - window * window / (2 * rows) : rows / 2;
	}
	pairs *= (double)model->heads * (double)(model->head_dim + mt_model_v_dim(model)) * (full_attention ? 2 : 1);
	return 6 * tokens * (products + pairs);
}
