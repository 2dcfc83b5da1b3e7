/* The forecast's view of a model against the engine's: weights and FLOPs of every public model, latent attention, multi-token
 * modules, layers without experts. */
#include "base/catalog.h"
#include "tuner/setting.h"

#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct mt_setting setting;
static struct mt_setting_options options;

static void need(enum mt_status st)
{
	if (st != MT_OK)
		fail_msg("%s", mt_error_message());
}

static int open_setting(void **state)
{
	mt_options_default(&mt_setting_options_table, &options);
	need(mt_setting_load(&setting, &options, "h100-80g-sxm"));
	return 0;
}

static int close_setting(void **state)
{
	mt_setting_free(&setting);
	mt_options_free(&mt_setting_options_table, &options);
	return 0;
}

static struct mt_case case_of(const struct mt_model *model, int64_t seq)
{
	struct mt_survey_query q;

	need(mt_setting_query(&q, &setting, &options, model, 64, 64, seq));
	return q.model;
}

/* Of the engine's count what is no matrix is left out: norms, biases, positions, biases of routers. */
static double matrices_of(const struct mt_model *m)
{
	int64_t routed = mt_model_expert_layers(m) + mt_model_expert_modules(m);

	return (double)(mt_model_matmul_parameters(m) +
			routed * (mt_model_expert_weights(m, false) - mt_model_expert_weights(m, true)) + 2 * m->vocab * m->hidden);
}

static void compare(const struct mt_model *m)
{
	int64_t seq = m->seq < 4096 ? m->seq : 4096;
	struct mt_case c = case_of(m, seq);
	double flops = mt_model_step_flops(m, c.gbs * c.seq, seq, false), weights = matrices_of(m);
	double all = (double)(mt_model_parameters(m) + (m->tied ? m->vocab * m->hidden : 0));

	if (mt_case_parameters(&c) != weights)
		fail_msg("%s: %.0f weights, the engine has %.0f", m->name, mt_case_parameters(&c), weights);
	assert_float_equal(mt_case_model_flops(&c) / flops, 1, 1e-12);
	assert_true(weights <= all && weights > 0.9 * all);
}

static void weights_and_flops_of_every_public_model_are_the_engines(void **state)
{
	char *folder = mt_catalog_directory("models");
	DIR *dir = folder ? opendir(folder) : NULL;
	int compared = 0, latent = 0;

	assert_non_null(dir);
	for (struct dirent *entry; (entry = readdir(dir));) {
		struct mt_model m = {0};
		char *dot = strstr(entry->d_name, ".yaml");

		if (!dot)
			continue;
		*dot = '\0';
		need(mt_model_load(&m, entry->d_name));
		compare(&m);
		compared++;
		latent += mt_model_is_latent(&m) && m.dense_first > 0;
		mt_model_free(&m);
	}
	closedir(dir);
	free(folder);
	assert_true(compared >= 35 && latent >= 3);
}

/* DeepSeek-AI 2024, arXiv:2412.19437: 671 billion, of which a token meets 37; the module has 14 more with its experts. */
static void deepseek_v3_has_its_published_weights(void **state)
{
	struct mt_model m = {0};
	struct mt_case c;

	need(mt_model_load(&m, "deepseek-v3"));
	c = case_of(&m, 4096);
	c.mtp = 0;
	assert_true(fabs(mt_case_parameters(&c) - 671.0e9) < 0.1e9);
	mt_model_free(&m);
}

/* Whatever the split over ranks, each weight is held: once by those that share it, by all of tp where it is whole. */
static void stages_hold_every_weight(void **state)
{
	struct mt_model m = {0};
	struct mt_case c;
	double sum = 0, whole, one;

	need(mt_model_load(&m, "deepseek-v3"));
	c = case_of(&m, 4096);
	c.tp = 4;
	c.pp = 16;
	c.ep = 32;
	c.etp = 2;
	c.dp = 16;
	c.cp = c.vp = 1;
	c.ends_given = true;
	c.first_less = 1;
	c.last_less = 2;
	struct mt_case_stage at[MT_FORECAST_STAGES];

	mt_case_stages(&c, at);
	assert_float_equal(at[0].layers + 14 * at[1].layers + at[2].layers, 61, 1e-9);
	assert_true(at[0].dense == 3 && at[2].modules == 1 && at[1].dense == 0 && at[0].modules == 0);
	for (int i = 0; i < MT_FORECAST_STAGES; i++) {
		double expert, all = mt_case_stage_weights(&c, &at[i], &expert);

		sum += (i == 1 ? 14 : 1) * ((all - expert) * c.tp + expert * c.ep * c.etp);
	}
	/* tp - 1 copies of what is whole; the module's own words */
	whole = 62 * mt_case_layer_weights(&c, false).whole + 2 * c.hidden * c.hidden;
	one = mt_case_parameters(&c) + (c.tp - 1) * whole + c.vocab * c.hidden;
	assert_float_equal(sum / one, 1, 1e-12);
	mt_model_free(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(weights_and_flops_of_every_public_model_are_the_engines),
		cmocka_unit_test(deepseek_v3_has_its_published_weights),
		cmocka_unit_test(stages_hold_every_weight),
	};
	return cmocka_run_group_tests_name("tuner_case", tests, open_setting, close_setting);
}
