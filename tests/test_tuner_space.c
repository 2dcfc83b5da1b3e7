/* The space of layouts: counts worked out by hand, every rejection under its rule, nothing twice; what drops and orders it; and
 * cuts of the layers that are in balance. */
#include "base/random.h"
#include "tests/engine_problem.h"
#include "tuner/balance.h"
#include "tuner/candidate.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

struct problem {
	struct mt_run run;
	struct mt_space space;
};

static void enumerate(struct problem *p, const struct tiny_model *model, int64_t layers, int64_t gbs, int64_t seq, int world)
{
	set_tiny_run(&p->run, model);
	p->run.model.layers = layers;
	p->run.layout.gbs = gbs;
	p->run.layout.seq = seq;
	if (mt_space_enumerate(&p->space, &p->run.model, &p->run.layout, world, NULL, 0, NULL) != MT_OK)
		fail_msg("%s", mt_error_message());
}

static void end(struct problem *p)
{
	mt_space_free(&p->space);
	mt_run_free(&p->run);
}

static int64_t rejected_under(const struct mt_space *space, const char *rule)
{
	for (int i = 0; i < mt_space_rule_count(); i++)
		if (strcmp(mt_space_rule_name(i), rule) == 0)
			return space->rejected[i];
	fail_msg("no rule is called %s", rule);
	return -1;
}

static int64_t rejected(const struct mt_space *space)
{
	int64_t sum = 0;

	for (int i = 0; i < mt_space_rule_count(); i++)
		sum += space->rejected[i];
	return sum;
}

static void assert_counts(const struct mt_space *space, int64_t considered, int kept)
{
	if (space->considered != considered || space->count != kept)
		fail_msg("%lld considered and %d kept, expected %lld and %d", (long long)space->considered, space->count,
			 (long long)considered, kept);
}

/* Micro-batches 1, 2, 4 times three kinds of recompute. */
static void one_rank_has_nine_layouts(void **state)
{
	struct problem p;

	enumerate(&p, &TINY_GPT, 2, 4, TINY_SEQ, 1);
	assert_counts(&p.space, 9, 9);
	end(&p);
}

/* dp 2: micro-batches 1, 2 times sharding times recompute = 12;  pp 2: 1, 2, 4 times recompute = 9;
 * tp 2: 1, 2, 4 times sequence parallelism times recompute = 18. */
static void two_ranks_have_thirty_nine(void **state)
{
	struct problem p;

	enumerate(&p, &TINY_GPT, 2, 4, TINY_SEQ, 2);
	assert_counts(&p.space, 39, 39);
	end(&p);
}

/* The same 39 for each number of threads. */
static void choices_of_threads_multiply_the_space(void **state)
{
	static const int64_t threads[2] = {1, 3};
	struct problem p;
	int with_three = 0;

	set_tiny_run(&p.run, &TINY_GPT);
	assert_int_equal(mt_space_enumerate(&p.space, &p.run.model, &p.run.layout, 2, threads, 2, NULL), MT_OK);
	assert_counts(&p.space, 78, 78);
	for (int i = 0; i < p.space.count; i++)
		with_three += p.space.candidates[i].layout.threads == 3;
	assert_int_equal(with_three, 39);
	end(&p);
}

/* Three ranks and nothing divisible by three: pp 3 has no layers (9), tp 3 no heads (18), dp 3 no whole batch (6). */
static void rejections_are_counted_under_their_rule(void **state)
{
	struct problem p;

	enumerate(&p, &TINY_GPT, 2, 4, TINY_SEQ, 3);
	assert_counts(&p.space, 33, 0);
	assert_int_equal(rejected_under(&p.space, "layers_at_least_pp"), 9);
	assert_int_equal(rejected_under(&p.space, "heads_divisible_by_tp"), 18);
	assert_int_equal(rejected_under(&p.space, "gbs_divisible_by_dp_mbs"), 6);
	assert_int_equal(rejected_under(&p.space, "exceeds_memory"), 0);
	end(&p);
	/* rows of 5 tokens over tp 2: only an odd micro-batch breaks it, with each kind of recompute */
	enumerate(&p, &TINY_LLAMA, 2, 4, 5, 2);
	assert_counts(&p.space, 39, 36);
	assert_int_equal(rejected_under(&p.space, "sp_rows_divisible_by_tp"), 3);
	end(&p);
	/* dp 8 of 4 sequences: sharding times recompute */
	enumerate(&p, &TINY_GPT, 8, 4, TINY_SEQ, 8);
	assert_int_equal(rejected_under(&p.space, "microbatches_at_least_one"), 6);
	end(&p);
}

/* In all that a search chooses. */
static bool same_layout(const struct mt_layout *a, const struct mt_layout *b)
{
	return a->tp == b->tp && a->pp == b->pp && a->dp == b->dp && a->mbs == b->mbs && a->sp == b->sp && a->zero == b->zero &&
	       a->recompute == b->recompute && a->threads == b->threads;
}

static void every_layout_considered_is_kept_or_rejected_and_none_twice(void **state)
{
	static const int worlds[] = {1, 2, 3, 4, 6, 8, 12, 16};
	static const int64_t batches[] = {1, 4, 6, 16};

	for (size_t w = 0; w < sizeof worlds / sizeof worlds[0]; w++) {
		for (size_t g = 0; g < sizeof batches / sizeof batches[0]; g++) {
			struct problem p;

			enumerate(&p, g % 2 ? &TINY_LLAMA : &TINY_GPT, 6, batches[g], TINY_SEQ, worlds[w]);
			if (p.space.considered != p.space.count + rejected(&p.space))
				fail_msg("%d ranks, gbs %lld: %lld considered, %d kept, %lld rejected", worlds[w],
					 (long long)batches[g], (long long)p.space.considered, p.space.count,
					 (long long)rejected(&p.space));
			for (int i = 0; i < p.space.count; i++) {
				const struct mt_layout *a = &p.space.candidates[i].layout;

				assert_int_equal(mt_layout_world(a), worlds[w]);
				assert_int_equal(mt_layout_first_broken(&p.run.model, a), -1);
				assert_int_equal(a->gbs, batches[g]);
				for (int k = 0; k < i; k++) {
					if (same_layout(a, &p.space.candidates[k].layout)) {
						char text[96];

						mt_layout_text(a, text);
						fail_msg("%d ranks, gbs %lld: %s is listed at %d and at %d", worlds[w],
							 (long long)batches[g], text, k, i);
					}
				}
			}
			end(&p);
		}
	}
}

/* Two stages each; the second is the larger one. */
static void set_memory(struct mt_candidate *c, int64_t first_bytes, int64_t second_bytes)
{
	c->stages = 2;
	c->stage = calloc(2, sizeof *c->stage);
	assert_non_null(c->stage);
	c->stage[0].resident_bytes = first_bytes;
	c->stage[1].resident_bytes = second_bytes;
}

static void must_set(struct mt_tune_options *options, const char *name, const char *text)
{
	assert_int_equal(mt_options_set(&mt_tune_options_table, options, name, text, "test"), MT_OK);
}

static int by_layout(const void *a, const void *b)
{
	const struct mt_candidate *p = a, *q = b;

	for (enum mt_axis axis = 0; axis < MT_AXES; axis++) {
		int64_t x = mt_axis_get(&p->layout, axis), y = mt_axis_get(&q->layout, axis);

		if (x != y)
			return x < y ? -1 : 1;
	}
	return p->layout.dp < q->layout.dp ? -1 : p->layout.dp > q->layout.dp;
}

/* Every axis with several values: each is kept or rejected under its rule, nothing is listed twice, and every value occurs. */
static void every_value_of_every_axis_is_listed_and_none_twice(void **state)
{
	struct mt_tune_options options;
	struct mt_axes axes;
	struct problem p;

	mt_options_default(&mt_tune_options_table, &options);
	must_set(&options, "cp", "1,2,4");
	must_set(&options, "zero", "0,1,2,3");
	must_set(&options, "schedule", "1f1b,zb-h1,zb-v");
	must_set(&options, "vp", "1,2");
	must_set(&options, "zero_group", "0,2");
	must_set(&options, "recompute_layers", "0,1");
	must_set(&options, "recompute_stages", "0,1");
	must_set(&options, "offload_layers", "0,1");
	must_set(&options, "first_layers", "0,1");
	must_set(&options, "last_layers", "0,1");
	must_set(&options, "vp_group", "0,4");
	must_set(&options, "bucket_bytes", "0,8Mi");
	must_set(&options, "mbs", "1,2,2");
	assert_int_equal(mt_axes_read(&axes, &options), MT_OK);
	set_tiny_run(&p.run, &TINY_GPT);
	p.run.model.layers = 6;
	p.run.layout.gbs = 4;
	p.run.layout.seq = TINY_SEQ;
	assert_int_equal(mt_space_enumerate(&p.space, &p.run.model, &p.run.layout, 4, NULL, 0, &axes), MT_OK);
	assert_int_equal(p.space.considered, p.space.count + rejected(&p.space));
	qsort(p.space.candidates, (size_t)p.space.count, sizeof *p.space.candidates, by_layout);
	for (int i = 0; i < p.space.count; i++) {
		const struct mt_layout *l = &p.space.candidates[i].layout;

		assert_int_equal(mt_layout_world(l), 4);
		assert_int_equal(mt_layout_first_broken(&p.run.model, l), -1);
		if (i > 0 && by_layout(&p.space.candidates[i - 1], &p.space.candidates[i]) == 0)
			fail_msg("a layout is listed twice, at %d of %d", i, p.space.count);
	}
	for (enum mt_axis axis = 0; axis < MT_AXES; axis++) {
		for (int v = 0; v < axes.count[axis]; v++) {
			bool found = false;

			for (int i = 0; i < p.space.count && !found; i++)
				found = mt_axis_get(&p.space.candidates[i].layout, axis) == axes.values[axis][v];
			if (!found)
				fail_msg("%s %lld is in no layout", mt_axis_name(axis), (long long)axes.values[axis][v]);
		}
	}
	mt_options_free(&mt_tune_options_table, &options);
	end(&p);
}

static void the_whole_search_has_every_value_but_what_is_fixed(void **state)
{
	struct mt_tune_options options;
	struct mt_axes axes;
	int64_t most[MT_AXES] = {0};
	struct problem p;

	(void)state;
	mt_options_default(&mt_tune_options_table, &options);
	must_set(&options, "search", "whole");
	must_set(&options, "zero", "0,1");
	assert_int_equal(mt_axes_read(&axes, &options), MT_OK);
	set_tiny_run(&p.run, &TINY_GPT);
	p.run.model.layers = 16;
	p.run.model.experts = 6;
	p.run.model.top_k = 1;
	p.run.layout.gbs = 16;
	p.run.layout.seq = TINY_SEQ;
	assert_int_equal(mt_space_enumerate(&p.space, &p.run.model, &p.run.layout, 4, NULL, 0, &axes), MT_OK);
	for (int i = 0; i < p.space.count; i++) {
		for (enum mt_axis axis = 0; axis < MT_AXES; axis++) {
			int64_t value = mt_axis_get(&p.space.candidates[i].layout, axis);

			most[axis] = value > most[axis] ? value : most[axis];
		}
	}
	assert_int_equal(most[MT_AXIS_CP], 4);
	assert_int_equal(most[MT_AXIS_EP], 2); /* of 6 experts and 4 ranks */
	assert_int_equal(most[MT_AXIS_ETP], 1);
	assert_int_equal(most[MT_AXIS_SCHEDULE], MT_SCHEDULE_ZB_V);
	assert_int_equal(most[MT_AXIS_VP], 4);
	assert_int_equal(most[MT_AXIS_ZERO], 1);
	mt_options_free(&mt_tune_options_table, &options);
	end(&p);
}

static void lists_that_make_no_sense_are_told(void **state)
{
	static const char *const bad[][2] = {{"zero", "0,4"}, {"schedule", "zbv"}, {"mbs", "all,1"}, {"cp", ""},
					     {"sp", "maybe"}, {"zero", "all"},     {"mbs", "auto"}};
	struct mt_tune_options options;
	struct mt_axes axes;

	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		mt_options_default(&mt_tune_options_table, &options);
		must_set(&options, bad[i][0], bad[i][1]);
		mt_error_clear();
		if (mt_axes_read(&axes, &options) != MT_INPUT || !strstr(mt_error_message(), bad[i][0]))
			fail_msg("--%s %s: %s", bad[i][0], bad[i][1], mt_error_message());
		mt_options_free(&mt_tune_options_table, &options);
	}
}

static void a_stage_above_the_limit_drops_the_layout(void **state)
{
	struct problem p;
	int count;

	enumerate(&p, &TINY_GPT, 2, 4, TINY_SEQ, 2);
	count = p.space.count;
	for (int i = 0; i < count; i++)
		set_memory(&p.space.candidates[i], 100, i % 2 ? 1000 : 1001);
	mt_space_drop_large(&p.space, 0, 0);
	assert_int_equal(p.space.count, count); /* no limit known */
	mt_space_drop_large(&p.space, 1000, 0);
	assert_int_equal(p.space.count, count / 2);
	assert_int_equal(rejected_under(&p.space, "exceeds_memory"), count - count / 2);
	assert_int_equal(p.space.considered, p.space.count + rejected(&p.space));
	for (int i = 0; i < p.space.count; i++)
		assert_int_equal(p.space.candidates[i].stage[1].resident_bytes, 1000);
	/* And above that of the GPU. */
	count = p.space.count;
	p.space.candidates[0].stage[0].device_bytes = 501;
	mt_space_drop_large(&p.space, 1000, 500);
	assert_int_equal(p.space.count, count - 1);
	end(&p);
}

static void measured_come_first_then_dry_runs_then_cards_then_failures(void **state)
{
	struct problem p;
	struct mt_candidate *c;

	enumerate(&p, &TINY_GPT, 2, 2, TINY_SEQ, 1); /* six */
	c = p.space.candidates;
	c[0].step_s = 1; /* cards say the most hopeful things */
	c[1].step_s = 5;
	c[1].fidelity = MT_FIDELITY_DRY;
	c[2].step_s = 4;
	c[2].fidelity = MT_FIDELITY_DRY;
	c[3].step_s = 1;
	c[3].run = true;
	c[3].measured_s = 9;
	c[4].step_s = 2;
	c[4].run = true;
	c[4].measured_s = 8;
	c[5].step_s = 0.1;
	c[5].run = c[5].failed = true;
	mt_space_sort(&p.space);
	assert_true(c[0].measured_s == 8 && c[1].measured_s == 9);
	assert_true(c[2].step_s == 4 && c[3].step_s == 5);
	assert_true(c[4].fidelity == MT_FIDELITY_CARD && !c[4].run && c[5].failed);
	end(&p);
}

/* The longest part of a cut, and the sum of squares. */
static void measure_cut(const struct mt_balance_work *w, const int64_t *counts, double *longest_s, double *squares)
{
	int64_t next = 0;

	*longest_s = *squares = 0;
	for (int64_t v = 0; v < w->parts; v++) {
		double s = (v == 0 ? w->first_s : 0) + (v == w->parts - 1 ? w->last_s : 0);

		for (int64_t i = 0; i < counts[v]; i++)
			s += w->layer_s[next++];
		*longest_s = fmax(*longest_s, s);
		*squares += s * s;
	}
	assert_int_equal(next, w->layers);
}

/* No cut of the layers over the parts from v on, those before given, is better. */
static void try_all(const struct mt_balance_work *w, int64_t *counts, int64_t v, int64_t left, double longest_s, double squares)
{
	double longer_s, more;

	if (v < w->parts - 1) {
		for (counts[v] = v > 0; counts[v] <= left; counts[v]++)
			try_all(w, counts, v + 1, left - counts[v], longest_s, squares);
		return;
	}
	counts[v] = left;
	measure_cut(w, counts, &longer_s, &more);
	if (longer_s < longest_s * (1 - 1e-9) || (longer_s < longest_s * (1 + 1e-9) && more < squares * (1 - 1e-9)))
		fail_msg("%lld layers, %lld parts: longest %.9g and squares %.9g, there is %.9g and %.9g", (long long)w->layers,
			 (long long)w->parts, longest_s, squares, longer_s, more);
}

static void no_cut_is_better_than_the_balanced_one(void **state)
{
	for (uint64_t problem = 0; problem < 200; problem++) {
		double layer_s[9], longest_s, squares;
		int64_t counts[4], others[4];
		struct mt_balance_work w = {.layer_s = layer_s,
					    .layers = 3 + (int64_t)mt_random_integer(5, 1, problem, 7),
					    .parts = 1 + (int64_t)mt_random_integer(5, 2, problem, 4),
					    .first_s = mt_random_uniform(5, 3, problem),
					    .last_s = 4 * mt_random_uniform(5, 4, problem)};

		for (uint64_t i = 0; i < 9; i++) /* equal ones, and others */
			layer_s[i] = problem % 2 ? 1 : 0.5 + mt_random_uniform(5, 5 + i, problem);
		assert_int_equal(mt_balance(&w, counts), MT_OK);
		measure_cut(&w, counts, &longest_s, &squares);
		try_all(&w, others, 0, w.layers, longest_s, squares);
	}
}

/* GPT-2's head takes as long as some five of its twelve layers. */
static void a_head_takes_the_place_of_layers(void **state)
{
	double layer_s[12];
	int64_t counts[6];
	struct mt_balance_work w = {.layer_s = layer_s, .layers = 12, .parts = 2, .last_s = 5.4};

	for (int i = 0; i < 12; i++)
		layer_s[i] = 1;
	assert_int_equal(mt_balance(&w, counts), MT_OK);
	assert_true(counts[0] == 9 && counts[1] == 3);
	w.parts = 4; /* 4, 4, 4 and the head alone */
	assert_int_equal(mt_balance(&w, counts), MT_OK);
	assert_true(counts[0] == 4 && counts[2] == 4 && counts[3] == 0);
	w.layers = 3, w.parts = 6;
	assert_int_equal(mt_balance(&w, counts), MT_UNAVAILABLE);
	mt_error_clear();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_rank_has_nine_layouts),
		cmocka_unit_test(two_ranks_have_thirty_nine),
		cmocka_unit_test(choices_of_threads_multiply_the_space),
		cmocka_unit_test(rejections_are_counted_under_their_rule),
		cmocka_unit_test(every_layout_considered_is_kept_or_rejected_and_none_twice),
		cmocka_unit_test(every_value_of_every_axis_is_listed_and_none_twice),
		cmocka_unit_test(the_whole_search_has_every_value_but_what_is_fixed),
		cmocka_unit_test(lists_that_make_no_sense_are_told),
		cmocka_unit_test(a_stage_above_the_limit_drops_the_layout),
		cmocka_unit_test(measured_come_first_then_dry_runs_then_cards_then_failures),
		cmocka_unit_test(no_cut_is_better_than_the_balanced_one),
		cmocka_unit_test(a_head_takes_the_place_of_layers),
	};
	return cmocka_run_group_tests_name("tuner space", tests, NULL, NULL);
}
