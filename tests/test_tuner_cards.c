/* Cards against the dry run on random layouts of up to 64 ranks: every schedule, kind of context parallelism, expert and tensor
 * parallelism, sharding, recompute, offload. A few by default; `build/tests/test_tuner_cards 1000 [SEED]` draws as many, prints the
 * quantiles and the worst. */
#include "tests/engine_problem.h"
#include "tests/tuner_problem.h"
#include "base/stats.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

enum { FEW = 60, MOST_WORLD = 64, SPACES = 20 };

/* Memory is equal to the byte; but gradients that are kept as parts are followed for so many micro-batches alone (engine/card.h).
 */
#define MEMORY_FRAC 0.001

static int wanted = FEW;

static void must(enum mt_status st)
{
	if (st != MT_OK)
		fail_msg("%s", mt_error_message());
}

/* --- what is drawn --- */

static uint64_t state = 20240731;

static int64_t below(int64_t n)
{
	state = state * 6364136223846793005u + 1442695040888963407u;
	return (int64_t)((state >> 33) % (uint64_t)n);
}

static int64_t pick(const int64_t *values, int count)
{
	return values[below(count)];
}
#define PICK(...) pick((const int64_t[]){__VA_ARGS__}, (int)(sizeof((const int64_t[]){__VA_ARGS__}) / sizeof(int64_t)))

/* Experts in every second layer from the second on. */
static void make_experts(struct mt_model *m)
{
	m->experts = 8;
	m->top_k = 2;
	m->expert_ffn = m->hidden;
	m->dense_first = 1;
	m->expert_every = 2;
}

static void draw_model(struct mt_run *run, int *family)
{
	static const struct tiny_model *const models[] = {&TINY_GPT, &TINY_LLAMA, &TINY_QWEN, &TINY_LLAMA};
	struct mt_model *m = &run->model;

	*family = (int)below(4);
	set_tiny_run(run, models[*family]);
	m->layers = PICK(4, 6, 8, 12, 16);
	m->heads = 8;
	m->kv_heads = PICK(4, 8);
	m->hidden = PICK(128, 256, 512);
	m->head_dim = m->hidden / m->heads;
	m->rotary_dim = 0;
	m->ffn = 4 * m->hidden;
	m->vocab = PICK(1000, 8000);
	m->seq = PICK(64, 128);
	if (*family == 3)
		make_experts(m);
}

/* Layers dealt to stages one by one, by bits of the state; some may get none. */
static void draw_list(struct mt_layout *l, const struct mt_model *m)
{
	int64_t counts[24] = {0}, parts = l->pp * l->vp;
	uint64_t bits = state;
	size_t used = 0;

	for (int64_t i = 0; i < m->layers; i++) {
		bits = bits * 6364136223846793005u + 1442695040888963407u;
		counts[(int64_t)(bits >> 33) % parts]++;
	}
	for (int64_t v = 0; v < parts; v++)
		used += (size_t)snprintf(l->stage_layers + used, sizeof l->stage_layers - used, "%s%lld", v ? "," : "",
					 (long long)counts[v]);
	l->first_layers = l->last_layers = 0;
}

static void draw_layout(struct mt_layout *l, const struct mt_model *m)
{
	l->tp = PICK(1, 1, 2, 4);
	l->cp = PICK(1, 1, 1, 2, 4);
	l->pp = PICK(1, 1, 2, 2, 4, 8);
	l->dp = PICK(1, 2, 2, 4, 8);
	l->cp_kind = (int)below(4);
	l->cp_inner = l->cp_kind == MT_CONTEXT_HYBRID ? 2 : 1;
	l->schedule = l->pp > 1 ? (int)below(3) : MT_SCHEDULE_1F1B;
	l->vp = l->schedule == MT_SCHEDULE_ZB_V ? 2 : l->schedule == MT_SCHEDULE_1F1B && l->pp > 1 ? PICK(1, 1, 2, 3) : 1;
	l->sp = l->tp > 1 && below(2);
	l->ep = m->experts > 0 ? PICK(1, 2, 4) : 1;
	l->etp = m->experts > 0 && l->sp ? PICK(0, 1) : 0;
	l->zero = PICK(0, 1, 2, 3);
	l->zero_group = l->zero > 0 ? PICK(0, 0, 2) : 0;
	l->recompute = (int)below(3);
	l->recompute_attention = below(2);
	l->recompute_activation = below(2);
	l->recompute_norm = below(2);
	l->recompute_layers = l->recompute ? PICK(0, 0, 1, 2) : 0;
	l->recompute_stages =
		l->recompute && l->pp > 1 ? (int64_t)(state >> 40) % 2 : 0; /* no draw: the others stay as they were */
	l->offload_layers = PICK(0, 0, 0, 1, 2);
	l->first_layers = l->pp > 1 ? PICK(0, 0, 1, 2) : 0;
	l->last_layers = l->pp > 1 ? PICK(0, 0, 1) : 0;
	if (l->pp > 1 && (state >> 45) % 4 == 0) /* no draw either */
		draw_list(l, m);
	l->mbs = PICK(1, 2, 4);
	l->gbs = l->mbs * l->dp * PICK(1, 2, 3, 4, 8, 16, 24);
	if ((state >> 50) % 8 == 0) /* no draw: many micro-batches, of which memory takes in whatever the first ones left */
		l->gbs *= 7;
	l->seq = m->seq;
	l->dtype = (int)PICK(MT_F32, MT_BF16);
	l->reduce_dtype = (int)PICK(MT_F32, MT_F32, MT_BF16);
	l->bucket_bytes = PICK(0, 1 << 18, 1 << 20, 1 << 22);
}

/* A chunk without layers before others of its stage, whose embedding's gradients are kept as parts: what was 13.9% off. */
static void draw_known(struct mt_run *run, int *family)
{
	struct mt_layout *l = &run->layout;

	*family = 2;
	set_tiny_run(run, &TINY_QWEN);
	l->tp = 1;
	l->pp = l->vp = l->zero = 2;
	l->dp = 8;
	l->mbs = 1;
	l->gbs = 16;
	l->seq = run->model.seq;
	l->bucket_bytes = 0;
	run->model.layers = 4;
	run->model.vocab = 1000;
	snprintf(l->stage_layers, sizeof l->stage_layers, "0,3,1,0");
}

/* --- what comes of it --- */

struct tested {
	char text[160];
	double time_frac, memory_frac;
};

static const char *text_of(const struct mt_layout *l, int family, char *buf, size_t bytes)
{
	char layout[96];

	mt_layout_text(l, layout);
	snprintf(buf, bytes, "model %d, %s, m %lld, bucket %lld, first %lld last %lld offload %lld reduce %d", family, layout,
		 (long long)mt_layout_microbatches(l), (long long)l->bucket_bytes, (long long)l->first_layers,
		 (long long)l->last_layers, (long long)l->offload_layers, l->reduce_dtype);
	return buf;
}

static int64_t most_resident(const struct mt_candidate *c)
{
	int64_t most = 0;

	for (int s = 0; s < c->stages; s++)
		most = c->stage[s].resident_bytes > most ? c->stage[s].resident_bytes : most;
	return most;
}

/* What is said of the room under limits around what a layout takes must be so. */
static void check_room(const struct mt_candidate *counted, const struct mt_run *run, struct made_up *made,
		       struct mt_card_cache *cache, const char *text)
{
	int64_t takes = most_resident(counted);

	for (int64_t tenths = 3; tenths <= 30; tenths += 3) {
		int64_t limit = tenths == 9 ? takes - 1 : tenths == 12 ? takes : takes / 10 * tenths;
		struct mt_candidate c = {.layout = run->layout};

		must(mt_predict_card_time(&c, &run->model, &made->cost, cache, limit, 0));
		if (c.room == MT_ROOM_LACKS ? takes <= limit : c.room == MT_ROOM_PLENTY && takes > limit)
			fail_msg("%s takes %lld bytes, of %lld it is said that they are %s", text, (long long)takes,
				 (long long)limit, c.room == MT_ROOM_LACKS ? "too few" : "plenty");
		if (c.room != MT_ROOM_LACKS && c.step_s != counted->step_s)
			fail_msg("%s: %.9g s with its memory, %.9g s without", text, counted->step_s, c.step_s);
	}
}

static void compare(struct tested *t, const struct mt_run *run, int family)
{
	struct mt_candidate card = {.layout = run->layout}, dry = card;
	struct mt_card_cache *cache;
	struct made_up made;

	text_of(&run->layout, family, t->text, sizeof t->text);
	make_up(&made, (int)mt_layout_world(&run->layout), (double)PICK(5, 20, 100), (double)PICK(1, 5, 50), 5e10, 1e10, 1e-6);
	made.machine.copies.to_device_gbps = made.machine.copies.from_device_gbps = (double)PICK(0, 5, 20);
	made.cost.overlap_steals = below(3) == 0;
	must(mt_card_cache_create(&cache));
	must(mt_predict_card(&card, &run->model, &made.cost, cache));
	must(mt_predict_dry(&dry, &run->model, &made.cost, NULL));
	t->time_frac = fabs(card.step_s / dry.step_s - 1);
	t->memory_frac = 0;
	for (int s = 0; s < dry.stages; s++)
		t->memory_frac = fmax(t->memory_frac, fabs((double)card.stage[s].peak_bytes / (double)dry.stage[s].peak_bytes - 1));
	check_room(&card, run, &made, cache, t->text);
	free_candidate(&card);
	free_candidate(&dry);
	mt_card_cache_destroy(cache);
	make_up_end(&made);
}

static int worse(const void *a, const void *b)
{
	const struct tested *x = a, *y = b;

	return (x->time_frac < y->time_frac) - (x->time_frac > y->time_frac);
}

static void cards_tell_the_dry_run_of_random_layouts(void **unused)
{
	struct tested *tests = calloc((size_t)wanted, sizeof *tests);
	double *times = calloc((size_t)wanted, sizeof *times), *memories = calloc((size_t)wanted, sizeof *memories);
	int count = 0;
	size_t n;

	assert_true(tests && times && memories);
	while (count < wanted) {
		struct mt_run run;
		int family;

		if (count == 0) {
			draw_known(&run, &family);
		} else {
			draw_model(&run, &family);
			draw_layout(&run.layout, &run.model);
		}
		if (mt_layout_first_broken(&run.model, &run.layout) < 0 && mt_layout_world(&run.layout) <= MOST_WORLD)
			compare(&tests[count++], &run, family);
		mt_run_free(&run);
	}
	qsort(tests, (size_t)count, sizeof *tests, worse);
	for (int i = 0; i < count; i++) {
		times[i] = tests[i].time_frac;
		memories[i] = tests[i].memory_frac;
	}
	n = (size_t)count;
	print_message("%d layouts, cards against dry run: step time off by %.4f%% at the median, %.3f%% at p99, %.3f%% at most; "
		      "memory by %.4f%%, %.3f%%, %.3f%%\n",
		      count, 100 * mt_stats_median(times, n), 100 * mt_stats_quantile(times, n, 0.99), 100 * times[0],
		      100 * mt_stats_median(memories, n), 100 * mt_stats_quantile(memories, n, 0.99),
		      100 * mt_stats_quantile(memories, n, 1));
	for (int i = 0; i < count && (i < 5 && count > FEW); i++)
		print_message("  %.3f%%: %s\n", 100 * tests[i].time_frac, tests[i].text);
	for (int i = 0; i < count; i++) {
		if (!(tests[i].time_frac <= 0.01))
			print_message("step time off by %.2f%%: %s\n", 100 * tests[i].time_frac, tests[i].text);
		if (!(tests[i].memory_frac <= MEMORY_FRAC))
			print_message("memory off by %.2f%%: %s\n", 100 * tests[i].memory_frac, tests[i].text);
	}
	assert_true(times[0] <= 0.01 && mt_stats_quantile(memories, n, 1) <= MEMORY_FRAC);
	free(tests);
	free(times);
	free(memories);
}

/* All layouts of a space by both; the one that cards choose must be as fast by dry run as any. Returns how many. */
static int compare_optimum(const struct mt_run *run, int world, const struct mt_axes *axes)
{
	struct mt_card_cache *cache;
	struct mt_space space;
	struct made_up made;
	double best_s = INFINITY, card_s = INFINITY, chosen_s = INFINITY;
	char best[96] = "none", chosen[96] = "none";
	int count;

	make_up(&made, world, (double)PICK(5, 20, 100), (double)PICK(1, 5, 50), 5e10, 1e10, 1e-6);
	made.cost.overlap_steals = below(2);
	must(mt_card_cache_create(&cache));
	must(mt_space_enumerate(&space, &run->model, &run->layout, world, NULL, 0, axes));
	count = space.count;
	for (int i = 0; i < count; i++) {
		struct mt_candidate card = {.layout = space.candidates[i].layout}, dry = card;

		must(mt_predict_card(&card, &run->model, &made.cost, cache));
		must(mt_predict_dry(&dry, &run->model, &made.cost, NULL));
		if (dry.step_s < best_s) {
			best_s = dry.step_s;
			mt_layout_text(&dry.layout, best);
		}
		if (card.step_s < card_s) {
			card_s = card.step_s;
			chosen_s = dry.step_s;
			mt_layout_text(&card.layout, chosen);
		}
		free_candidate(&card);
		free_candidate(&dry);
	}
	if (!(chosen_s <= best_s * (1 + 1e-4)))
		fail_msg("%d layouts of %d ranks: cards choose %s, %.6g s by dry run, the best is %s, %.6g s", count, world, chosen,
			 chosen_s, best, best_s);
	mt_space_free(&space);
	mt_card_cache_destroy(cache);
	make_up_end(&made);
	return count;
}

static void the_optimum_by_cards_is_the_dry_runs(void **unused)
{
	int count = 0;

	for (int i = 0; i < SPACES; i++) {
		struct mt_tune_options options;
		struct mt_axes axes;
		struct mt_run run;
		int family;

		draw_model(&run, &family);
		run.model.layers = 6;
		run.layout.gbs = PICK(4, 6, 8);
		run.layout.seq = run.model.seq;
		mt_options_default(&mt_tune_options_table, &options);
		must(mt_options_set(&mt_tune_options_table, &options, "cp", below(2) ? "1,2" : "1", "test"));
		must(mt_options_set(&mt_tune_options_table, &options, "zero", "0,1,2,3", "test"));
		must(mt_options_set(&mt_tune_options_table, &options, "schedule", "1f1b,zb-h1,zb-v", "test"));
		must(mt_options_set(&mt_tune_options_table, &options, "vp", "1,2", "test"));
		must(mt_options_set(&mt_tune_options_table, &options, "ep", "1,2", "test"));
		must(mt_options_set(&mt_tune_options_table, &options, "mbs", "1,2", "test"));
		must(mt_options_set(&mt_tune_options_table, &options, "first_layers", below(2) ? "0,1" : "0", "test"));
		must(mt_axes_read(&axes, &options));
		count += compare_optimum(&run, (int)PICK(2, 4), &axes);
		mt_options_free(&mt_tune_options_table, &options);
		mt_run_free(&run);
	}
	print_message("%d spaces of %d layouts: the best by cards is the best by dry run\n", SPACES, count);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cards_tell_the_dry_run_of_random_layouts),
		cmocka_unit_test(the_optimum_by_cards_is_the_dry_runs),
	};

	if (argc > 1 && atoi(argv[1]) > 0)
		wanted = atoi(argv[1]);
	if (argc > 2)
		state += (uint64_t)atoi(argv[2]);
	return cmocka_run_group_tests_name("tuner cards", tests, NULL, NULL);
}
