/* Families of models: what a row of a table has no column for is what the model's own file says; and published runs of models,
 * machines and layouts apart from those that the forecast was made with. */
#include "engine/model.h"
#include "tuner/families.h"
#include "tuner/runs_table.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void a_family_knows_what_the_models_file_says(void **state)
{
	static const struct {
		const char *model, *arch;
	} cases[] = {
		{"deepseek-v2-lite", "deepseek-v2"},
		{"deepseek-v2", "deepseek"},
		{"deepseek-v3", "deepseek-v3"},
		{"qwen3-8b", "qwen3"},
		{"qwen3-235b-a22b", "qwen3-moe"},
		{"qwen3-30b-a3b", "qwen3-moe"},
		{"llama3-8b", "llama"},
		{"mixtral-8x7b", "mixtral"},
		{"gpt3-175b", "gpt"},
		{"gpt2-124m", "gpt(alibi-off)"},
		{"llama3.1-405b", "llama"},
	};

	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct mt_model m;
		struct mt_case c = {0};
		char path[128];

		snprintf(path, sizeof path, "examples/models/%s.yaml", cases[i].model);
		if (mt_model_load(&m, path) != MT_OK)
			fail_msg("%s: %s", path, mt_error_message());
		c.hidden = (double)m.hidden;
		c.heads = (double)m.heads;
		c.kv_heads = (double)m.kv_heads;
		c.experts = (double)m.experts;
		c.ffn = (double)(m.experts > 0 ? m.expert_ffn : m.ffn);
		mt_case_family(&c, cases[i].arch, true);
		assert_true(c.head_dim == (double)m.head_dim);
		assert_true(c.gated == (m.mlp == MT_MODEL_SWIGLU));
		assert_true(c.q_rank == (double)m.q_rank && c.kv_rank == (double)m.kv_rank);
		assert_true(c.kv_rank == 0 || (c.rope_dim == (double)m.rope_dim && c.v_dim == (double)m.v_dim));
		assert_true(m.experts == 0 || c.shared_ffn == (double)m.shared_ffn);
		assert_true(m.experts == 0 || c.dense_layers == (double)m.dense_first);
		assert_true(c.dense_layers == 0 || c.dense_ffn == (double)m.ffn);
		mt_model_free(&m);
	}
}

/* tests/data/runs/published.csv: each row with its source; GB300's rates were set with its rows in sight, nothing else here was. */
static void published_runs_within_12_percent(void **state)
{
	struct mt_runs_table table;
	double sum = 0;

	if (mt_runs_table_load(&table, "tests/data/runs/published.csv", NULL, NULL, NULL) != MT_OK)
		fail_msg("%s", mt_error_message());
	assert_true(table.count > 40);
	for (int i = 0; i < table.count; i++) {
		const struct mt_measured_run *run = &table.runs[i];
		struct mt_forecast f;

		if (run->skip[0])
			fail_msg("%s: %s", run->id, run->skip);
		mt_forecast_step(&f, &run->layout, &table.targets[run->target], &table.stacks[run->stack], &mt_factors_none);
		sum += fabs(f.step_s / run->measured_s - 1);
	}
	if (!(sum / table.count < 0.12))
		fail_msg("mean error %.3f", sum / table.count);
	mt_runs_table_free(&table);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_family_knows_what_the_models_file_says),
		cmocka_unit_test(published_runs_within_12_percent),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
