/* Predictions against one another: cards against the dry run, the dry run against itself and against sums done by hand.
 *
 * Step time by cards is within 1% of the dry run: passes, messages and reductions are laid out as the engine does; only how a
 * unit's sum over tp overlaps with its reduction over dp is taken as without a backlog. (0.4% was the most of 1,500.)
 * Memory by cards is that of the dry run to the byte. */
#include "probes/machine_flows.h"
#include "tests/engine_problem.h"
#include "tests/tuner_problem.h"
#include "tuner/keyed.h"
#include "tuner/pipeline.h"
#include "tuner/slice.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

static void must(enum mt_status st)
{
	if (st != MT_OK)
		fail_msg("%s", mt_error_message());
}

static void assert_close(double got, double want, double bound_frac, const char *what)
{
	if (!(fabs(got - want) <= bound_frac * fabs(want)))
		fail_msg("%s: %.12g, expected %.12g within %g", what, got, want, bound_frac);
}

/* A model, a batch and a machine; layouts are all of `world` ranks. */
struct problem {
	const struct tiny_model *model;
	int64_t layers, hidden, vocab, gbs, seq, bucket_bytes;
	enum mt_dtype dtype;
	int world;
	double latency_us, gbps;
	bool overlap_steals;
};

static const struct problem problems[] = {
	/* costs of messages and kernels that matter alike, then slow links, then slow links that take the kernels' cores */
	{&TINY_GPT, 6, 256, 4000, 16, 64, 1 << 20, MT_F32, 8, 10, 5, false},
	{&TINY_LLAMA, 7, 256, 1000, 16, 64, 1 << 20, MT_BF16, 4, 50, 0.2, false},
	{&TINY_GPT, 5, 128, 500, 12, 32, 0, MT_BF16, 6, 20, 1, true},
	{&TINY_LLAMA, 8, 128, 500, 24, 32, 1 << 18, MT_F32, 8, 100, 0.5, false},
};

enum { PROBLEMS = sizeof problems / sizeof problems[0] };

static void set_run(struct mt_run *run, const struct problem *p)
{
	set_tiny_run(run, p->model);
	run->model.layers = p->layers;
	run->model.hidden = p->hidden;
	run->model.head_dim = p->hidden / run->model.heads;
	run->model.ffn = 4 * p->hidden;
	run->model.vocab = p->vocab;
	run->model.seq = run->layout.seq = p->seq;
	run->layout.gbs = p->gbs;
	run->layout.dtype = p->dtype;
	run->layout.bucket_bytes = p->bucket_bytes;
}

/* Both predictions of every layout of a problem. */
static int for_all_layouts(const struct problem *p,
			   void (*check)(const char *text, const struct mt_candidate *card, const struct mt_candidate *dry))
{
	struct mt_card_cache *cache;
	struct mt_space space;
	struct made_up made;
	struct mt_run run;
	int count;

	set_run(&run, p);
	make_up(&made, p->world, p->latency_us, p->gbps, 5e10, 1e10, 1e-6);
	made.cost.overlap_steals = p->overlap_steals;
	must(mt_card_cache_create(&cache));
	must(mt_space_enumerate(&space, &run.model, &run.layout, p->world, NULL, 0, NULL));
	count = space.count;
	for (int i = 0; i < count; i++) {
		struct mt_candidate card = {.layout = space.candidates[i].layout}, dry = card;
		char text[96];

		mt_layout_text(&card.layout, text);
		must(mt_predict_card(&card, &run.model, &made.cost, cache));
		must(mt_predict_dry(&dry, &run.model, &made.cost, NULL));
		check(text, &card, &dry);
		free_candidate(&card);
		free_candidate(&dry);
	}
	mt_space_free(&space);
	mt_card_cache_destroy(cache);
	make_up_end(&made);
	mt_run_free(&run);
	return count;
}

static void check_step(const char *text, const struct mt_candidate *card, const struct mt_candidate *dry)
{
	assert_close(card->step_s, dry->step_s, 0.01, text);
	assert_true(card->lo_s < card->step_s && card->step_s < card->hi_s);
}

static void cards_tell_the_dry_runs_step_time(void **state)
{
	int count = 0;

	for (int i = 0; i < PROBLEMS; i++)
		count += for_all_layouts(&problems[i], check_step);
	if (count < 200)
		fail_msg("only %d layouts", count);
}

static void check_split(const char *text, const struct mt_candidate *card, const struct mt_candidate *dry)
{
	const double c[] = {card->compute_s, card->tp_s, card->dp_s, card->pp_s, card->bubble_s, card->optimizer_s};
	const double d[] = {dry->compute_s, dry->tp_s, dry->dp_s, dry->pp_s, dry->bubble_s, dry->optimizer_s};
	double card_sum = 0, dry_sum = 0;

	for (int i = 0; i < 6; i++) {
		if (!(c[i] >= 0 && d[i] >= -1e-12))
			fail_msg("%s: part %d is %g by cards, %g by dry run", text, i, c[i], d[i]);
		card_sum += c[i];
		dry_sum += d[i];
	}
	assert_close(card_sum, card->step_s, 1e-6, text);
	assert_close(dry_sum, dry->step_s, 1e-9, text);
}

static void parts_sum_to_the_step(void **state)
{
	for (int i = 0; i < PROBLEMS; i++)
		for_all_layouts(&problems[i], check_split);
}

static void check_memory(const char *text, const struct mt_candidate *card, const struct mt_candidate *dry)
{
	assert_int_equal(card->stages, dry->stages);
	for (int s = 0; s < card->stages; s++) {
		const struct mt_stage_prediction *a = &card->stage[s], *b = &dry->stage[s];

		for (int i = 0; i < MT_ENGINE_ARENAS; i++)
			if (a->arena_bytes[i] != b->arena_bytes[i])
				fail_msg("%s, stage %d: arena %d has %lld by cards, %lld by dry run", text, s, i,
					 (long long)a->arena_bytes[i], (long long)b->arena_bytes[i]);
		assert_int_equal(a->peak_bytes, b->peak_bytes);
	}
}

static void cards_tell_the_dry_runs_memory(void **state)
{
	for (int i = 0; i < PROBLEMS; i++)
		for_all_layouts(&problems[i], check_memory);
}

/* Threads of stages run in any order; virtual time does not. */
static void dry_run_gives_the_same_numbers_twice(void **state)
{
	static const int64_t grids[][3] = {{1, 4, 2}, {2, 2, 2}, {1, 6, 1}, {1, 1, 8}, {2, 3, 1}};
	struct made_up made;
	struct mt_run run;

	set_run(&run, &problems[0]);
	make_up(&made, 8, 10, 0.5, 5e10, 1e10, 1e-6);
	for (size_t g = 0; g < sizeof grids / sizeof grids[0]; g++) {
		struct mt_candidate first = {.layout = run.layout};

		first.layout.tp = grids[g][0];
		first.layout.pp = grids[g][1];
		first.layout.dp = grids[g][2];
		first.layout.mbs = 1;
		must(mt_predict_dry(&first, &run.model, &made.cost, NULL));
		for (int again = 0; again < 3; again++) {
			struct mt_candidate second = {.layout = first.layout};

			must(mt_predict_dry(&second, &run.model, &made.cost, NULL));
			if (second.step_s != first.step_s || second.pp_s != first.pp_s || second.dp_s != first.dp_s)
				fail_msg("grid %zu: %.17g s, then %.17g s", g, first.step_s, second.step_s);
			assert_memory_equal(first.stage, second.stage, (size_t)first.stages * sizeof *first.stage);
			free_candidate(&second);
		}
		free_candidate(&first);
	}
	make_up_end(&made);
	mt_run_free(&run);
}

/* Without a pipeline and with collectives that cost nothing a step is its kernels, one after the other. */
static void a_step_is_the_sum_of_its_kernels(void **state)
{
	static const int64_t grids[][2] = {{1, 1}, {2, 1}, {1, 2}, {2, 2}};
	struct mt_card_cache *cache;
	struct made_up made;
	struct mt_run run;

	set_run(&run, &problems[0]);
	make_up(&made, 4, 0, 1e30, 5e10, 1e10, 1e-6);
	must(mt_card_cache_create(&cache));
	for (size_t g = 0; g < sizeof grids / sizeof grids[0]; g++) {
		struct mt_candidate dry = {.layout = run.layout}, card;
		struct mt_trace *trace = NULL;
		const struct mt_span *spans;
		double kernels_s = 0;
		int count;

		dry.layout.tp = grids[g][0];
		dry.layout.sp = grids[g][0] > 1;
		dry.layout.dp = grids[g][1];
		dry.layout.zero = grids[g][1] > 1;
		card = dry;
		must(mt_predict_dry(&dry, &run.model, &made.cost, &trace));
		must(mt_predict_card(&card, &run.model, &made.cost, cache));
		spans = mt_trace_spans(trace, &count);
		assert_true(count > 100);
		for (int i = 0; i < count; i++)
			kernels_s += spans[i].collective ? 0 : spans[i].end_s - spans[i].start_s;
		assert_close(dry.step_s, kernels_s, 1e-9, "dry run");
		assert_close(card.step_s, kernels_s, 1e-6, "cards");
		assert_close(dry.compute_s + dry.optimizer_s, kernels_s, 1e-9, "compute and optimizer");
		mt_trace_destroy(trace);
		free_candidate(&dry);
		free_candidate(&card);
	}
	mt_card_cache_destroy(cache);
	make_up_end(&made);
	mt_run_free(&run);
}

/* Each kind of context parallelism with other axes beside it: the cards' closed form against the engine's dry run. */
static void cards_price_context_parallelism_as_the_dry_run(void **state)
{
	static const struct {
		int kind, cp, inner, tp, pp, documents;
	} kinds[] = {{MT_CONTEXT_RING, 2, 1, 1, 1, 0},       {MT_CONTEXT_RING, 4, 1, 1, 2, 1},
		     {MT_CONTEXT_ALL_GATHER, 2, 1, 2, 1, 1}, {MT_CONTEXT_ULYSSES, 2, 1, 1, 2, 0},
		     {MT_CONTEXT_ULYSSES, 2, 1, 1, 1, 1},    {MT_CONTEXT_HYBRID, 4, 2, 1, 1, 0}};
	struct mt_card_cache *cache;
	struct made_up made;
	struct mt_run run;

	set_run(&run, &problems[0]);
	make_up(&made, 8, 10, 0.5, 5e10, 1e10, 1e-6);
	must(mt_card_cache_create(&cache));
	for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
		struct mt_candidate dry = {.layout = run.layout}, card;

		dry.layout.cp_kind = kinds[k].kind, dry.layout.cp = kinds[k].cp, dry.layout.cp_inner = kinds[k].inner;
		dry.layout.tp = kinds[k].tp, dry.layout.pp = kinds[k].pp, dry.layout.documents = kinds[k].documents;
		dry.layout.sp = dry.layout.tp > 1;
		dry.layout.dp = 1;
		dry.layout.zero = 1;
		dry.layout.mbs = 1 + k % 2;
		assert_int_equal(mt_layout_first_broken(&run.model, &dry.layout), -1);
		card = dry;
		must(mt_predict_dry(&dry, &run.model, &made.cost, NULL));
		must(mt_predict_card(&card, &run.model, &made.cost, cache));
		assert_close(card.step_s, dry.step_s, 0.02, "step");
		assert_close(card.tp_s, dry.tp_s, 0.05, "collectives");
		for (int s = 0; s < dry.stages; s++)
			assert_close((double)card.stage[s].peak_bytes, (double)dry.stage[s].peak_bytes, 0.08, "peak");
		free_candidate(&dry);
		free_candidate(&card);
	}
	mt_card_cache_destroy(cache);
	make_up_end(&made);
	mt_run_free(&run);
}

/* Equal stages and free messages: (m + p - 1) passes, the bubble is (p-1)/m (Narayanan et al. 2021, section 2.2.1). */
static void equal_stages_have_the_bubble_of_1f1b(void **state)
{
	for (int p = 1; p <= 8; p++) {
		for (int64_t m = 1; m <= 100; m += 3) {
			struct mt_pipeline_chunk chunk = {.forward_s = 1, .backward_s = 2};
			struct mt_schedule_shape shape = {MT_SCHEDULE_1F1B, p, 1, m, 0};
			struct mt_pipeline_stage stages[8] = {{0}};
			struct mt_schedules schedules = {0};

			for (int s = 0; s < p; s++)
				stages[s] = (struct mt_pipeline_stage){.start_s = 7, .chunks = &chunk};
			must(mt_pipeline_time(stages, &shape, NULL, &schedules));
			assert_close(stages[0].end_s, 7 + 3.0 * (double)(m + p - 1), 1e-12, "first stage");
			assert_close(stages[p - 1].passes_end_s, 7 + (double)(p - 1) + 3.0 * (double)m, 1e-12, "last stage");
			mt_schedules_free(&schedules);
		}
	}
}

/* Many micro-batches are told from few: uneven stages and messages that are longer than a pass. */
static void long_pipelines_go_on_as_they_began(void **state)
{
	static const double edges[] = {0.1, 1.5, 4};
	struct made_up made;
	struct mt_run run;

	set_run(&run, &problems[1]);
	for (int e = 0; e < 3; e++) {
		struct mt_candidate card = {.layout = run.layout}, dry;
		struct mt_card_cache *cache;

		card.layout.pp = 3;
		card.layout.mbs = 1;
		card.layout.gbs = 150;
		dry = card;
		/* a message of 64 rows of 256 bf16 against passes of some milliseconds */
		make_up(&made, 3, edges[e] * 3000, 5, 5e10, 1e10, 1e-6);
		must(mt_card_cache_create(&cache));
		must(mt_predict_card(&card, &run.model, &made.cost, cache));
		must(mt_predict_dry(&dry, &run.model, &made.cost, NULL));
		assert_close(card.step_s, dry.step_s, 0.01, "150 micro-batches");
		for (int k = 0; k < 3; k++)
			assert_int_equal(card.stage[k].peak_bytes, dry.stage[k].peak_bytes);
		free_candidate(&card);
		free_candidate(&dry);
		mt_card_cache_destroy(cache);
		make_up_end(&made);
	}
	mt_run_free(&run);
}

/* Four ranks on two hosts with a link between them that takes longer than a pass: which messages cross it depends on the order of
 * stages alone. */
static void messages_of_both_follow_the_links(void **state)
{
	static struct mt_machine_pair_class classes[] = {{.name = "same host", .latency_us = 1, .bandwidth_gbps = 10},
							 {.name = "between hosts", .latency_us = 3000, .bandwidth_gbps = 0.1}};
	static struct mt_machine_host hosts[] = {{.ranks = 2, .nics = 1}, {.ranks = 2, .nics = 1}};
	static const int schedules[] = {MT_SCHEDULE_1F1B, MT_SCHEDULE_1F1B, MT_SCHEDULE_ZB_H1, MT_SCHEDULE_ZB_V};
	static const int64_t chunks[] = {1, 2, 1, 2};
	struct mt_card_cache *cache;
	struct made_up made;
	struct mt_run run;
	double last_s = 0;

	set_run(&run, &problems[0]);
	run.model.layers = 8;
	make_up(&made, 4, 1, 10, 5e10, 1e10, 1e-6);
	made.machine.classes = classes;
	made.machine.class_count = 2;
	made.machine.hosts = hosts;
	made.machine.host_count = 2;
	for (int i = 0; i < 8; i++) {
		struct mt_candidate card = {.layout = run.layout}, dry;

		for (int r = 0; r < 4; r++) /* hosts by halves, then in turn */
			made.machine.rank_host[r] = i % 2 ? r % 2 : r / 2;
		must(mt_machine_find_islands(&made.machine));
		card.layout.pp = 4;
		card.layout.schedule = schedules[i / 2];
		card.layout.vp = chunks[i / 2];
		dry = card;
		must(mt_card_cache_create(&cache));
		must(mt_predict_card(&card, &run.model, &made.cost, cache));
		must(mt_predict_dry(&dry, &run.model, &made.cost, NULL));
		assert_close(card.step_s, dry.step_s, 0.01, "cards beside the dry run");
		if (i % 2 && !(dry.step_s > 1.02 * last_s))
			fail_msg("schedule %d: %g s when every message crosses, %g s when some do", i / 2, dry.step_s, last_s);
		last_s = dry.step_s;
		free_candidate(&card);
		free_candidate(&dry);
		mt_card_cache_destroy(cache);
	}
	free(made.machine.islands);
	make_up_end(&made);
	mt_run_free(&run);
}

static void same_actions(const struct mt_action_list *a, const struct mt_action_list *b)
{
	assert_int_equal(a->count, b->count);
	assert_int_equal(a->sends, b->sends);
	for (int64_t i = 0; i < a->count; i++) {
		assert_int_equal(a->actions[i].kind, b->actions[i].kind);
		assert_int_equal(a->actions[i].chunk, b->actions[i].chunk);
		assert_int_equal(a->actions[i].microbatch, b->actions[i].microbatch);
	}
}

/* Asked for in any order, more of them than are kept. */
static void schedules_that_are_kept_are_their_shapes(void **state)
{
	enum { SHAPES = 3 * MT_SCHEDULES_KEPT };
	struct mt_schedules schedules = {0};

	for (int i = 0; i < 8 * SHAPES; i++) {
		int n = i * i % SHAPES, stages = 2 + n % 3;
		struct mt_schedule_shape shape = {n % 2 ? MT_SCHEDULE_ZB_V : MT_SCHEDULE_1F1B, stages, 1 + n % 2, 1 + n / 2, 0};
		const struct mt_action_list *lists;

		must(mt_schedules_find(&schedules, &shape, &lists));
		for (int s = 0; s < stages; s++) {
			struct mt_action_list own;

			must(mt_schedule_create(&own, &shape, s));
			same_actions(&lists[s], &own);
			mt_schedule_free(&own);
		}
	}
	mt_schedules_free(&schedules);
}

/* More things than a table begins with room for, some with equal numbers and other texts. */
static void what_is_kept_under_a_key_is_found_by_it_alone(void **state)
{
	enum { THINGS = 500 };
	struct thing {
		struct mt_key key;
		int number;
	};
	struct mt_keyed keyed = {0};

	for (int i = 0; i < 2 * THINGS; i++) {
		struct mt_key key = {.numbers = {i / 2 % THINGS, 7}};
		struct thing *found;

		key.text[0] = i % 2 ? 'a' : 'b';
		found = mt_keyed_find(&keyed, &key);
		assert_null(found);
		found = calloc(1, sizeof *found);
		assert_non_null(found);
		*found = (struct thing){key, i};
		must(mt_keyed_add(&keyed, found));
	}
	for (int i = 0; i < 2 * THINGS; i++) {
		struct mt_key key = {.numbers = {i / 2 % THINGS, 7}};

		key.text[0] = i % 2 ? 'a' : 'b';
		assert_int_equal(((struct thing *)mt_keyed_find(&keyed, &key))->number, i);
	}
	mt_keyed_free(&keyed, free);
}

/* Two slices slowed by 10 and by 20% of themselves, one that was run once. */
static void drift_is_what_rounds_differ_by_and_widens_the_interval(void **state)
{
	struct mt_slice slices[3] = {
		{.step_s = {2, 2.2}, .rounds = 2}, {.step_s = {1.2, 1}, .rounds = 2}, {.step_s = {9}, .rounds = 1}};
	struct mt_machine machine = {.step_jitter_frac = 0.03};
	struct mt_cost_model cost = {.machine = &machine, .model_error_frac = 0.04};
	struct mt_candidate c = {.step_s = 10};
	double drift;

	assert_int_equal(mt_slices_drift(slices, 3, &drift), MT_OK);
	assert_float_equal(drift, 1.4826 * log(1.1 * 1.2) / 2 / sqrt(2), 1e-12);
	assert_true(mt_slices_drift(slices + 2, 1, &drift) == MT_OK && drift == 0);
	assert_true(mt_slices_drift(slices, 0, &drift) == MT_OK && drift == 0);
	mt_predict_interval(&c, &cost);
	assert_float_equal(c.hi_s, 10 * (1 + 1.645 * 0.05), 1e-9);
	machine.step_drift_frac = 0.12;
	mt_predict_interval(&c, &cost);
	assert_float_equal(c.hi_s, 10 * (1 + 1.645 * 0.13), 1e-9);
	assert_float_equal(c.lo_s, 10 / (1 + 1.645 * 0.13), 1e-9);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cards_tell_the_dry_runs_step_time),
		cmocka_unit_test(parts_sum_to_the_step),
		cmocka_unit_test(cards_tell_the_dry_runs_memory),
		cmocka_unit_test(dry_run_gives_the_same_numbers_twice),
		cmocka_unit_test(a_step_is_the_sum_of_its_kernels),
		cmocka_unit_test(cards_price_context_parallelism_as_the_dry_run),
		cmocka_unit_test(equal_stages_have_the_bubble_of_1f1b),
		cmocka_unit_test(long_pipelines_go_on_as_they_began),
		cmocka_unit_test(messages_of_both_follow_the_links),
		cmocka_unit_test(schedules_that_are_kept_are_their_shapes),
		cmocka_unit_test(what_is_kept_under_a_key_is_found_by_it_alone),
		cmocka_unit_test(drift_is_what_rounds_differ_by_and_widens_the_interval),
	};
	return cmocka_run_group_tests_name("tuner predict", tests, NULL, NULL);
}
