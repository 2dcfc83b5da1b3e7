/* Groups of nodes of the search over the forecast: their bound, their order, and a search that is cut short among them. */
#include "tuner/survey_space.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

struct model {
	const char *machine, *stack;
	int layers, experts, expert_every, dense_layers, mtp;
};

static const struct model models[] = {
	{"h100-80g-sxm", "megatron-core", 6, 0, 0, 0, 0},   {"h100-80g-sxm", "megatron-core", 8, 8, 0, 1, 1},
	{"h100-80g-sxm", "megatron-bridge", 9, 4, 2, 2, 0}, {"a100-80g-sxm", "megatron-lm-2021", 8, 0, 0, 0, 0},
	{"a100-80g-sxm", "nanotron", 8, 0, 0, 0, 0},        {"h100-80g-sxm", "megatune", 8, 4, 0, 0, 0},
};
enum { MODELS = sizeof models / sizeof models[0] };

static struct mt_target target;
static struct mt_stack software;

static struct mt_survey_query query_of(const struct model *m)
{
	struct mt_survey_query q;

	mt_survey_default(&q);
	if (mt_target_load(&target, m->machine) != MT_OK || mt_stack_load(&software, m->stack) != MT_OK)
		fail_msg("%s", mt_error_message());
	q.model = (struct mt_case){.layers = m->layers,
				   .hidden = 4096,
				   .heads = 32,
				   .kv_heads = 8,
				   .head_dim = 128,
				   .ffn = 12288,
				   .vocab = 32000,
				   .seq = 4096,
				   .gbs = 24,
				   .experts = m->experts,
				   .topk = m->experts ? 2 : 0,
				   .expert_every = m->expert_every,
				   .dense_layers = m->dense_layers,
				   .dense_ffn = m->dense_layers ? 16384 : 0,
				   .mtp = m->mtp,
				   .gated = true,
				   .balanced_stages = software.balanced_stages,
				   .fused_attention = software.fused_attention};
	q.target = &target;
	q.stack = &software;
	q.gpus = 16;
	q.memory_bytes = 80 * 1073741824.0;
	return q;
}

static void close_query(void)
{
	mt_target_free(&target);
	mt_stack_free(&software);
}

static struct mt_survey survey(const struct mt_survey_query *q)
{
	struct mt_survey s;

	if (mt_survey_run(&s, q) != MT_OK)
		fail_msg("%s", mt_error_message());
	return s;
}

/* Wherever the time is over, while groups are made or while they are opened. */
static void what_a_cut_search_did_not_reach_is_no_faster_than_told(void **state)
{
	struct mt_survey_query q = query_of(&models[0]);
	struct mt_survey whole = survey(&q);

	for (q.seconds = 1e-4; q.seconds < 0.2; q.seconds *= 2) {
		struct mt_survey cut = survey(&q);
		int64_t told = cut.evaluated + cut.pruned_time + cut.pruned_memory;

		for (int i = 0; i < mt_survey_rule_count; i++)
			told += cut.rejected[i];
		assert_int_equal(told + cut.not_reached, whole.counted);
		for (int i = 0; i < whole.best.count; i++) {
			const struct mt_survey_point *p = &whole.best.points[i];
			bool found = false;

			for (int k = 0; k < cut.best.count; k++)
				found |= mt_survey_order(&cut.best.points[k].layout, &p->layout) == 0;
			if (!found)
				assert_true(cut.least_left_s <= p->step_s);
		}
		mt_survey_free(&cut);
	}
	mt_survey_free(&whole);
	close_query();
}

/* Stages that are uneven, have other experts or modules: the passes of each of many layouts against the bound of
 * its group, which knows neither pp nor the end stages. */
static void groups_are_bounded_below_their_layouts(void **state)
{
	struct mt_survey_cards *cards = calloc(1, sizeof *cards);
	double closest = 0;
	int stages = 0;

	assert_non_null(cards);
	for (int i = 0; i < MODELS; i++) {
		struct mt_survey_query q = query_of(&models[i]);

		q.top = 2000;
		struct mt_survey s = survey(&q);
		for (int k = 0; k < s.best.count; k++) {
			struct mt_survey_layout l = s.best.points[k].layout;
			struct mt_forecast_parts parts;
			struct mt_forecast f;
			struct mt_case c;

			mt_survey_forecast(&f, &q, &l);
			stages += l.pp > 1;
			mt_survey_case(&c, &q, &l);
			mt_forecast_parts(&parts, &c, q.target, q.stack, &q.factors);
			l.pp = l.dp = l.vp = 1;
			l.first_less = l.last_less = 0;
			mt_survey_cards_make(cards, &q, &l, &parts);
			double least_s = mt_survey_group_bound(&q, &l, cards), passes_s = mt_survey_passes_s(&f);
			if (least_s > passes_s)
				fail_msg("model %d, layout %d: bound %.17g s above passes of %.17g s", i, k, least_s, passes_s);
			closest = fmax(closest, least_s / passes_s);
		}
		mt_survey_free(&s);
		close_query();
	}
	assert_true(stages > 500);
	assert_true(closest > 0.99); /* and of some it is the time of the passes */
	free(cards);
}

static void a_queue_gives_the_lowest_bound_first(void **state)
{
	struct mt_survey_queue queue = {0};
	struct mt_survey_node node = {0};
	uint32_t seed = 1;
	int popped = 0;

	assert_false(mt_survey_queue_pop(&queue, &node));
	for (int i = 0; i < 20000; i++) {
		seed = seed * 1664525 + 1013904223;
		node = (struct mt_survey_node){.least_s = seed >> 20, .group = seed >> 19 & 1};
		assert_int_equal(mt_survey_queue_push(&queue, &node), MT_OK);
		if (i % 3 != 0)
			continue;
		assert_true(mt_survey_queue_pop(&queue, &node));
		popped++;
		for (int k = 0; k < queue.count; k += 1 + queue.count / 50)
			assert_true(queue.nodes[k].least_s >= node.least_s);
	}
	double last_s = 0;
	for (; mt_survey_queue_pop(&queue, &node); popped++) {
		assert_true(node.least_s >= last_s);
		last_s = node.least_s;
	}
	assert_int_equal(popped, 20000);
	free(queue.nodes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_a_cut_search_did_not_reach_is_no_faster_than_told),
		cmocka_unit_test(groups_are_bounded_below_their_layouts),
		cmocka_unit_test(a_queue_gives_the_lowest_bound_first),
	};

	return cmocka_run_group_tests_name("tuner_survey_nodes", tests, NULL, NULL);
}
