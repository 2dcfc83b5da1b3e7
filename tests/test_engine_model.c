/* Models: the shipped descriptions against published counts, files of both kinds, and what is refused. */
#include "base/file.h"
#include "engine/weights.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char directory[] = "/tmp/mt-model-XXXXXX";

/* A file in the test's directory; the path is valid until the next call. */
static const char *write_text(const char *name, const char *text)
{
	static char path[256];

	snprintf(path, sizeof path, "%s/%s", directory, name);
	assert_int_equal(mt_file_write(path, text, strlen(text)), MT_OK);
	return path;
}

static void load(struct mt_model *model, const char *what)
{
	mt_error_clear();
	if (mt_model_load(model, what) != MT_OK)
		fail_msg("%s: %s", what, mt_error_message());
}

/* `what` is refused as input, and the message holds every one of up to three texts. */
static void refused(const char *what, const char *a, const char *b, const char *c)
{
	struct mt_model model;

	mt_error_clear();
	assert_int_equal(mt_model_load(&model, what), MT_INPUT);
	const char *texts[] = {a, b, c};
	for (int i = 0; i < 3; i++) {
		if (texts[i] && !strstr(mt_error_message(), texts[i]))
			fail_msg("no '%s' in: %s", texts[i], mt_error_message());
	}
}

static void shipped_models_have_their_published_parameter_counts(void **state)
{
	static const struct {
		const char *name;
		int64_t parameters;
	} known[] = {
		{"gpt2-124m", 124439808},
		{"gpt2-355m", 354823168},
		{"gpt2-774m", 774030080},
		{"gpt2-1558m", 1557611200},
		{"llama2-7b", 6738415616},
		{"mistral-7b", 7241732096},
		{"llama3-8b", 8030261248},
		{"llama3-70b", 70553706496},
		{"llama3.1-405b", 405853388800},
		{"mixtral-8x7b", 46702792704},
		{"mixtral-8x22b", 140620634112}, /* as the checkpoints on the Hugging Face hub have
						    them, a tied head once; gpt3 by the formula
						    below */
		{"llama2-13b", 13015864320},
		{"llama2-70b", 68976648192},
		{"llama3.1-8b", 8030261248},
		{"llama3.1-70b", 70553706496},
		{"llama3.2-1b", 1235814400},
		{"llama3.2-3b", 3212749824},
		{"mistral-7b-v0.1", 7241732096},
		{"qwen2-0.5b", 494032768},
		{"qwen2-1.5b", 1543714304},
		{"qwen2-7b", 7615616512},
		{"qwen2-72b", 72706203648},
		{"qwen3-0.6b", 596049920},
		{"qwen3-1.7b", 1720574976},
		{"qwen3-4b", 4022468096},
		{"qwen3-8b", 8190735360},
		{"qwen3-14b", 14768307200},
		{"qwen3-32b", 32762123264},
		{"gpt3-2.7b", 2651553280},
		{"gpt3-6.7b", 6658404352},
		{"deepseek-v2", 235741434880},
		{"deepseek-v2-lite", 15706484224},
		{"qwen3-30b-a3b", 30532122624},
		{"qwen3-235b-a22b", 235093634560},
		/* 671,026,419,200, and a module: a layer, a matrix of two hidden states, three norms */
		{"deepseek-v3", 671026419200 + 11610068224},
		{"gpt3-175b", 174604259328}, /* 96 * (12 h^2 + 13 h) + (V + s) h + 2 h */
	};

	for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
		struct mt_model model;
		load(&model, known[i].name);
		assert_string_equal(model.name, known[i].name);
		if (mt_model_parameters(&model) != known[i].parameters)
			fail_msg("%s: %lld parameters, published %lld", known[i].name, (long long)mt_model_parameters(&model),
				 (long long)known[i].parameters);
		mt_model_free(&model);
	}
}

/* Mixtral 8x7B: two of eight experts a token, 12.9 billion parameters with the embeddings. */
static void a_token_meets_its_own_experts_alone(void **state)
{
	struct mt_model m;

	load(&m, "mixtral-8x7b");
	assert_int_equal(mt_model_matmul_parameters(&m),
			 INT64_C(32) * (4096 * (2 * 4096 + 2 * 1024) + 2 * 3 * INT64_C(4096) * 14336 + 4096 * 8));
	assert_int_equal(mt_model_parameters(&m) - 32 * 6 * 3 * INT64_C(4096) * 14336, INT64_C(12879925248));
	mt_model_free(&m);
}

static void tiny_models_split_eight_ways(void **state)
{
	static const char *const names[] = {"gpt-tiny", "llama-tiny"};

	for (int i = 0; i < 2; i++) {
		struct mt_model m;
		load(&m, names[i]);
		assert_int_equal(m.layers % 8, 0);
		assert_int_equal(m.heads % 8, 0);
		assert_int_equal(m.kv_heads % 8, 0);
		assert_int_equal(m.ffn % 8, 0);
		assert_true(m.vocab >= 257);
		mt_model_free(&m);
	}
}

/* 6*T*(N_matmul + h*V) + 6*T*s*L*q, by hand for GPT-2 124M: N_matmul = 12 * 12 * 768^2 = 84,934,656. */
static void step_flops_follow_the_formula(void **state)
{
	struct mt_model m;
	double tokens = 4096, seq = 1024;

	load(&m, "gpt2-124m");
	assert_int_equal(mt_model_matmul_parameters(&m), 84934656);
	double products = 6 * tokens * (84934656.0 + 768.0 * 50257.0), attention = 6 * tokens * seq * 12 * 768;
	assert_float_equal(mt_model_step_flops(&m, tokens, 1024, false) / (products + attention), 1, 1e-12);
	assert_float_equal(mt_model_step_flops(&m, tokens, 1024, true) / (products + 2 * attention), 1, 1e-12);
	mt_model_free(&m);
}

static void yaml_with_and_without_a_section_says_the_same(void **state)
{
	struct mt_model a, b;

	load(&a, write_text("a.yaml", "model:\n  layers: 2\n  hidden: 64\n  heads: 4\n  vocab: 300\n  seq: 32\n"));
	load(&b, write_text("b.yaml", "{layers: 2, hidden: 64, heads: 4, vocab: 300, seq: 32}\n"));
	assert_string_equal(a.name, "a");
	assert_string_equal(b.name, "b");
	assert_int_equal(a.kv_heads, 4);
	assert_int_equal(a.head_dim, 16);
	assert_int_equal(a.ffn, 256);
	assert_int_equal(mt_model_parameters(&a), mt_model_parameters(&b));
	mt_model_free(&a);
	mt_model_free(&b);
}

static void a_json_mapping_is_a_model_too(void **state)
{
	struct mt_model m;

	load(&m, write_text("plain.json", "{\"layers\": 2, \"hidden\": 64, \"heads\": 4, \"vocab\": 300, \"seq\": 32}"));
	assert_int_equal(m.hidden, 64);
	mt_model_free(&m);
}

static void a_wrong_model_is_refused_with_line_and_cause(void **state)
{
	refused("gpt2-124", "gpt2-124m", "did you mean", "llama3-8b");
	refused("no/such/file.yaml", "no/such/file.yaml", NULL, NULL);
	refused("", "name", NULL, NULL);
	refused(write_text("x.yaml", "model:\n  layers: 2\n  hiden: 64\n"), "x.yaml:3", "hidden", NULL);
	refused(write_text("x.yaml", "model:\n  layers: 2\nlayout: 3\n"), "x.yaml:3", "layout", NULL);
	refused(write_text("x.yaml", "model: 3\n"), "mapping", NULL, NULL);
	refused(write_text("x.yaml", "{layers: 2, hidden: 64, heads: 4, vocab: 300}\n"), "seq", NULL, NULL);
	refused(write_text("x.yaml", "{layers: 2, hidden: 63, heads: 4, vocab: 300, seq: 8}\n"), "63", "heads 4", "head_dim");
	refused(write_text("x.yaml", "{layers: 2, hidden: 64, heads: 4, kv_heads: 3, vocab: 300, seq: 8}\n"), "kv_heads 3", NULL,
		NULL);
	refused(write_text("x.yaml", "{layers: 2, hidden: 60, heads: 4, vocab: 300, seq: 8, position: rope}\n"), "even", "15",
		NULL);
	refused(write_text("x.yaml", "{layers: 2, hidden: 64, heads: 4, vocab: 300, seq: 8, mlp: swiglu}\n"), "ffn", NULL, NULL);
	refused(write_text("x.yaml", "{layers: 2, hidden: 64, heads: 4, vocab: 300, seq: 8, mlp: swiglu, ffn: 99}\n"), "bias", NULL,
		NULL);
	refused(write_text("x.yaml", "{layers: -2, hidden: 64, heads: 4, vocab: 300, seq: 8}\n"), "layers", NULL, NULL);
	refused(write_text("x.yaml", "{name: \"a\\nb\", layers: 2, hidden: 64, heads: 4, vocab: 300, seq: 8}\n"), "x.yaml:1",
		"character 2 of the model's name", "one line");
	refused(directory, "config.json", NULL, NULL);
}

static const char gpt2_config[] =
	"{\"model_type\": \"gpt2\", \"architectures\": [\"GPT2LMHeadModel\"], \"activation_function\": \"gelu_new\", \"n_layer\": "
	"12,"
	" \"n_embd\": 768, \"n_head\": 12, \"n_ctx\": 1024, \"n_positions\": 1024, \"vocab_size\": 50257, \"n_inner\": null,"
	" \"initializer_range\": 0.02, \"layer_norm_epsilon\": 1e-05, \"attn_pdrop\": 0.1}";
static const char llama_config[] =
	"{\"model_type\": \"llama\", \"hidden_act\": \"silu\", \"hidden_size\": 4096, \"intermediate_size\": 14336,"
	" \"max_position_embeddings\": 8192, \"num_attention_heads\": 32, \"num_hidden_layers\": 32, \"num_key_value_heads\": 8,"
	" \"rms_norm_eps\": 1e-05, \"rope_scaling\": null, \"rope_theta\": 500000.0, \"tie_word_embeddings\": false,"
	" \"vocab_size\": 128256, \"attention_bias\": false}";
static const char mistral_config[] =
	"{\"model_type\": \"mistral\", \"hidden_act\": \"silu\", \"hidden_size\": 4096, \"intermediate_size\": 14336,"
	" \"max_position_embeddings\": 32768, \"num_attention_heads\": 32, \"num_hidden_layers\": 32, \"num_key_value_heads\": 8,"
	" \"rms_norm_eps\": 1e-05, \"rope_theta\": 1000000.0, \"sliding_window\": %s, \"vocab_size\": 32000}";

static const char deepseek_config[] =
	"{\"model_type\": \"deepseek_v3\", \"hidden_act\": \"silu\", \"hidden_size\": 7168, \"intermediate_size\": 18432,"
	" \"kv_lora_rank\": 512, \"max_position_embeddings\": 163840, \"moe_intermediate_size\": 2048, \"n_group\": 8,"
	" \"n_routed_experts\": 256, \"n_shared_experts\": 1, \"num_attention_heads\": 128, \"num_hidden_layers\": 61,"
	" \"num_key_value_heads\": 128, \"q_lora_rank\": 1536, \"rope_scaling\": {\"beta_fast\": 32, \"beta_slow\": 1,"
	" \"factor\": 40, \"mscale\": 1.0, \"mscale_all_dim\": 1.0, \"original_max_position_embeddings\": 4096,"
	" \"type\": \"yarn\"}, \"rope_theta\": 10000, \"num_nextn_predict_layers\": 1, \"aux_loss_alpha\": 0.0001,"
	" \"vocab_size\": 129280}";
static const char deepseek_v2_config[] =
	"{\"model_type\": \"deepseek_v2\", \"hidden_act\": \"silu\", \"hidden_size\": 5120, \"intermediate_size\": 12288,"
	" \"kv_lora_rank\": 512, \"max_position_embeddings\": 163840, \"moe_intermediate_size\": 1536, \"n_group\": 8,"
	" \"topk_group\": 3, \"topk_method\": \"group_limited_greedy\", \"norm_topk_prob\": false, \"num_experts_per_tok\": 6,"
	" \"n_routed_experts\": 160, \"n_shared_experts\": 2, \"num_attention_heads\": 128, \"num_hidden_layers\": 60,"
	" \"num_key_value_heads\": 128, \"q_lora_rank\": 1536, \"first_k_dense_replace\": 1, \"routed_scaling_factor\": 16.0,"
	" \"rope_scaling\": {\"beta_fast\": 32, \"beta_slow\": 1, \"factor\": 40, \"mscale\": 0.707, \"mscale_all_dim\": 0.707,"
	" \"original_max_position_embeddings\": 4096, \"type\": \"yarn\"}, \"rope_theta\": 10000, \"aux_loss_alpha\": 0.001,"
	" \"vocab_size\": 102400}";
static const char qwen_config[] =
	"{\"model_type\": \"qwen3_moe\", \"hidden_act\": \"silu\", \"hidden_size\": 2048, \"intermediate_size\": 6144, "
	"\"head_dim\": 128,"
	" \"max_position_embeddings\": 40960, \"moe_intermediate_size\": 768, \"norm_topk_prob\": true, \"num_attention_heads\": "
	"32,"
	" \"num_experts\": 128, \"num_experts_per_tok\": 8, \"num_hidden_layers\": 48, \"num_key_value_heads\": 4,"
	" \"rms_norm_eps\": 1e-06, \"rope_theta\": 1000000.0, \"mlp_only_layers\": [], \"vocab_size\": 151936}";

/* A config.json gives the shipped model of that architecture, but for the name. */
static void same_as_shipped(const char *path, const char *name)
{
	struct mt_model hf, ours;

	load(&hf, path);
	load(&ours, name);
	free(hf.name);
	hf.name = strdup(ours.name);
	json_t *a = mt_options_json(&mt_model_options, &hf), *b = mt_options_json(&mt_model_options, &ours);
	json_object_del(a, "rope_theta"); /* a model with learned positions has none */
	json_object_del(b, "rope_theta");
	char *x = json_dumps(a, 0), *y = json_dumps(b, 0);
	assert_string_equal(x, y);
	assert_true(ours.position == MT_MODEL_LEARNED || hf.rope_theta == ours.rope_theta);
	free(x);
	free(y);
	json_decref(a);
	json_decref(b);
	mt_model_free(&hf);
	mt_model_free(&ours);
}

static void a_config_json_equals_the_shipped_model(void **state)
{
	char text[1024], folder[256];

	same_as_shipped(write_text("config.json", gpt2_config), "gpt2-124m");
	same_as_shipped(write_text("config.json", llama_config), "llama3-8b");
	same_as_shipped(write_text("config.json", deepseek_config), "deepseek-v3");
	same_as_shipped(write_text("config.json", deepseek_v2_config), "deepseek-v2");
	same_as_shipped(write_text("config.json", qwen_config), "qwen3-30b-a3b");
	snprintf(text, sizeof text, mistral_config, "null");
	same_as_shipped(write_text("config.json", text), "mistral-7b");
	snprintf(folder, sizeof folder, "%s/Some-7B", directory);
	assert_int_equal(mt_file_make_directory(folder), MT_OK);
	write_text("Some-7B/config.json", text);
	struct mt_model m;
	load(&m, folder);
	assert_string_equal(m.name, "Some-7B");
	mt_model_free(&m);
}

/* The config.json written of a shipped model describes that model. */
static void a_written_config_json_equals_the_shipped_model(void **state)
{
	static const char *const names[] = {"deepseek-v2", "deepseek-v2-lite", "deepseek-v3", "qwen3-30b-a3b"};

	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		struct mt_model model;

		load(&model, names[i]);
		json_t *config = mt_hf_config(&model, MT_STORED_BF16);
		char *text = json_dumps(config, 0);

		same_as_shipped(write_text("config.json", text), names[i]);
		free(text);
		json_decref(config);
		mt_model_free(&model);
	}
}

/* The config with one piece of text replaced. */
static const char *edited(const char *config, const char *from, const char *to)
{
	char text[2048];
	const char *at = strstr(config, from);

	assert_non_null(at);
	snprintf(text, sizeof text, "%.*s%s%s", (int)(at - config), config, to, at + strlen(from));
	return write_text("edited.json", text);
}

static void a_config_json_that_is_not_built_here_is_refused(void **state)
{
	char text[1024];

	refused(edited(gpt2_config, "\"gpt2\"", "\"mamba\""), "mamba", "gpt2, llama, mistral", "qwen3");
	refused(edited(gpt2_config, "gelu_new", "relu"), "activation_function", "relu", NULL);
	refused(edited(gpt2_config, "\"n_layer\": 12", "\"n_layer\": \"12\""), "n_layer", "whole number", NULL);
	refused(edited(gpt2_config, "\"n_layer\": 12,", ""), "n_layer", "missing", NULL);
	refused(edited(gpt2_config, "\"n_layer\": 12", "\"n_layer\": 99999999999"), "layers", NULL, NULL);
	refused(edited(gpt2_config, "\"n_layer\": 12", "\"n_layer\": -1"), "layers", NULL, NULL);
	refused(edited(llama_config, "\"attention_bias\": false", "\"attention_bias\": true"), "attention_bias", NULL, NULL);
	refused(edited(llama_config, "\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": \"x\""), "rms_norm_eps", NULL, NULL);
	snprintf(text, sizeof text, mistral_config, "\"4096\"");
	refused(write_text("m.json", text), "sliding_window", "whole number", NULL);
	refused(edited(llama_config, "\"rope_scaling\": null", "\"rope_scaling\": {\"rope_type\": \"longrope\"}"), "rope_type",
		"longrope", "llama3");
	refused(edited(deepseek_config, "\"n_group\": 8", "\"n_group\": 8, \"topk_group\": 8, \"moe_layer_freq\": 2"),
		"moe_layer_freq", NULL, NULL);
	refused(edited(deepseek_config, "\"n_group\": 8", "\"n_group\": 8, \"topk_group\": 0"), "n_group 8", "topk_group 0", NULL);
	refused(edited(deepseek_v2_config, "group_limited_greedy", "noaux_tc"), "topk_method", "noaux_tc", "group_limited_greedy");
	refused(edited(qwen_config, "[]", "[3]"), "mlp_only_layers", "first layers", NULL);
	refused(edited(qwen_config, "[]", "[], \"decoder_sparse_step\": 0"), "decoder_sparse_step", NULL, NULL);
	refused(write_text("m.json", "{\"model_type\": 3}"), "model_type", NULL, NULL);
	refused(write_text("m.json", "{"), "m.json", NULL, NULL);
}

static void a_copy_is_equal_and_independent(void **state)
{
	struct mt_model a, b;

	load(&a, "llama-tiny-gqa");
	assert_int_equal(mt_model_copy(&b, &a), MT_OK);
	assert_ptr_not_equal(a.name, b.name);
	assert_string_equal(a.name, b.name);
	mt_model_free(&a);
	assert_int_equal(b.kv_heads, 2);
	mt_model_free(&b);
}

static int set_up(void **state)
{
	/* a build outside the tree finds the models from the directory of the sources */
	if (access("examples/models", R_OK) == 0)
		setenv("MEGATUNE_DATA", "examples", 0);
	return mkdtemp(directory) ? 0 : -1;
}

static int clean_up(void **state)
{
	static const char *const names[] = {"a.yaml",      "b.yaml", "x.yaml", "plain.json", "config.json", "Some-7B/config.json",
					    "edited.json", "m.json"};
	char path[256];

	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		snprintf(path, sizeof path, "%s/%s", directory, names[i]);
		unlink(path);
	}
	snprintf(path, sizeof path, "%s/Some-7B", directory);
	rmdir(path);
	return rmdir(directory);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(shipped_models_have_their_published_parameter_counts),
		cmocka_unit_test(a_token_meets_its_own_experts_alone),
		cmocka_unit_test(tiny_models_split_eight_ways),
		cmocka_unit_test(step_flops_follow_the_formula),
		cmocka_unit_test(yaml_with_and_without_a_section_says_the_same),
		cmocka_unit_test(a_json_mapping_is_a_model_too),
		cmocka_unit_test(a_wrong_model_is_refused_with_line_and_cause),
		cmocka_unit_test(a_config_json_equals_the_shipped_model),
		cmocka_unit_test(a_written_config_json_equals_the_shipped_model),
		cmocka_unit_test(a_config_json_that_is_not_built_here_is_refused),
		cmocka_unit_test(a_copy_is_equal_and_independent),
	};
	return cmocka_run_group_tests(tests, set_up, clean_up);
}
