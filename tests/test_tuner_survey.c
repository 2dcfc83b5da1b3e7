/* The search over the forecast: what it finds against brute force, what it counts, and that threads and bounds change neither. */
#include "tuner/setting.h"
#include "tuner/survey.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct space {
	const char *machine, *stack;
	int gpus, layers, hidden, heads, kv_heads, experts, gbs, seq;
	double memory_gib;
	int expert_every; /* 0: each layer has experts, where any has */
};

static const struct space spaces[] = {
	{"a100-80g-sxm", "megatron-core", 16, 4, 1024, 8, 8, 0, 16, 8192, 6, 0},
	{"a100-80g-sxm", "megatron-core", 8, 6, 2048, 16, 4, 0, 16, 2048, 20, 0},
	{"a100-80g-sxm", "megatron-lm-2021", 8, 8, 2048, 16, 16, 0, 8, 1024, 12, 0},
	{"a100-80g-sxm", "megatron-deepspeed", 16, 6, 1024, 8, 8, 0, 16, 1024, 10, 0},
	{"a100-40g-sxm", "torchtitan-fsdp2", 8, 4, 4096, 32, 8, 0, 8, 4096, 40, 0},
	{"h100-80g-sxm", "torchtitan-fsdp2", 16, 3, 4096, 32, 8, 0, 16, 8192, 30, 0},
	{"h100-80g-sxm", "megatron-core", 16, 4, 4096, 32, 8, 0, 12, 4096, 16, 0},
	{"h100-80g-sxm", "megatron-core", 24, 6, 4096, 32, 8, 0, 24, 4096, 12, 0},
	{"h100-80g-sxm", "megatune", 12, 6, 1536, 12, 12, 0, 12, 1024, 8, 0},
	{"h100-80g-sxm", "nanotron", 8, 8, 2048, 16, 8, 0, 8, 2048, 14, 0},
	{"h100-80g-sxm", "nemo", 8, 4, 2048, 16, 8, 8, 8, 2048, 40, 0},
	{"h100-80g-sxm", "megatron-bridge", 16, 6, 2048, 16, 4, 4, 16, 2048, 20, 2},
	{"b200", "megatron-bridge", 8, 6, 4096, 32, 8, 0, 8, 8192, 20, 0},
	{"gb200-nvl72-cluster", "megatron-bridge", 16, 4, 4096, 32, 8, 0, 8, 4096, 18, 0},
	{"v100-32g-sxm3", "megatron-lm-2021", 16, 4, 1024, 16, 16, 0, 8, 512, 6, 0},
	{"aws-p4d", "pytorch-fsdp", 32, 4, 2048, 16, 16, 0, 64, 1024, 10, 0},
	{"aws-p5", "llm-foundry-fsdp", 64, 6, 2048, 16, 16, 0, 64, 2048, 12, 0},
	{"dgx-h100-eos", "megatron-core", 32, 2, 8192, 64, 8, 0, 16, 2048, 40, 0},
	{"mi300x-192g", "megatron-core", 8, 5, 4096, 32, 8, 0, 6, 4096, 30, 0},
	{"l40s", "megatron-core", 4, 4, 1024, 8, 2, 0, 4, 1024, 6, 0},
};
enum { SPACES = sizeof spaces / sizeof spaces[0], MEASURED = 16 };

static struct mt_target target;
static struct mt_stack software;

static struct mt_survey_query query_of(const struct space *s)
{
	struct mt_survey_query q;

	mt_survey_default(&q);
	if (mt_target_load(&target, s->machine) != MT_OK || mt_stack_load(&software, s->stack) != MT_OK)
		fail_msg("%s", mt_error_message());
	q.model = (struct mt_case){.layers = s->layers,
				   .hidden = s->hidden,
				   .heads = s->heads,
				   .kv_heads = s->kv_heads,
				   .head_dim = (double)s->hidden / s->heads,
				   .ffn = 4 * s->hidden,
				   .vocab = 32000,
				   .seq = s->seq,
				   .gbs = s->gbs,
				   .experts = s->experts,
				   .topk = s->experts ? 2 : 0,
				   .expert_every = s->expert_every,
				   .dense_layers = s->expert_every ? 1 : 0,
				   .dense_ffn = s->expert_every ? 6 * s->hidden : 0,
				   .gated = s->kv_heads < s->heads,
				   .balanced_stages = software.balanced_stages,
				   .fused_attention = software.fused_attention};
	q.target = &target;
	q.stack = &software;
	q.gpus = s->gpus;
	q.memory_bytes = s->memory_gib * 1073741824;
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

/* Layers of full recompute were measured at a quarter of what the forecast says, with tp 2 those of none at the double: a bound
 * that trusts layers without recompute to be the fastest is wrong. */
static void measure_layers(struct mt_survey_query *q, struct mt_fit_model *model, struct mt_fit_key *keys, int most)
{
	*model = (struct mt_fit_model){.keys = keys};
	for (int at = 0; at < most; at++) {
		struct mt_measured_run run = {.layout = q->model};
		struct mt_runs_table table = {.runs = &run, .count = 1, .targets = &target, .stacks = &software};
		struct mt_case *c = &run.layout;

		c->cp = c->ep = 1;
		c->tp = 1 + at % 2;
		c->mbs = 1 + at / 4;
		c->recompute = at / 2 % 2 ? MT_CASE_FULL : MT_CASE_NONE;
		if (c->recompute == MT_CASE_NONE && c->tp == 1)
			continue;
		memset(&keys[model->count], 0, sizeof *keys);
		keys[model->count].level = MT_FIT_LAYER;
		mt_fit_key_name(keys[model->count].name, &table, &run, MT_FIT_LAYER);
		keys[model->count++].log_factor[MT_FACTOR_LAYER] = c->recompute == MT_CASE_FULL ? log(0.25) : log(2);
	}
	q->measured = model;
}

/* What brute force keeps of all layouts: how many are legal, the best, all points that fit. */
struct force {
	int64_t legal;
	struct mt_survey_point best, *fit;
	int fit_count, capacity;
};

static void take(struct force *f, const struct mt_survey_query *q, const struct mt_survey_layout *l)
{
	struct mt_survey_point p = {.layout = *l};
	struct mt_forecast out;

	if (mt_survey_why_not(q, l) >= 0)
		return;
	f->legal++;
	mt_survey_forecast(&out, q, l);
	p.step_s = out.step_s;
	p.peak_bytes = out.peak_bytes;
	if (p.peak_bytes > q->memory_bytes)
		return;
	if (f->fit_count == 0 || p.step_s < f->best.step_s)
		f->best = p;
	if (f->fit_count == f->capacity) {
		f->capacity = f->capacity ? 2 * f->capacity : 1024;
		f->fit = realloc(f->fit, (size_t)f->capacity * sizeof *f->fit);
		assert_non_null(f->fit);
	}
	f->fit[f->fit_count++] = p;
}

/* Every recompute of a layout that has all else: none, and of 1 .. L layers what the software can do again. */
static void force_recompute(struct force *f, const struct mt_survey_query *q, struct mt_survey_layout l, int layers)
{
	const struct mt_stack *s = q->stack;

	l.recompute = MT_CASE_NONE;
	l.recompute_layers = l.selected = 0;
	take(f, q, &l);
	for (l.recompute_layers = 1; l.recompute_layers <= layers; l.recompute_layers++) {
		l.recompute = MT_CASE_FULL;
		l.selected = 0;
		take(f, q, &l);
		l.recompute = MT_CASE_SELECTIVE;
		for (int which = 1; which < 8 && (s->selects_layers || l.recompute_layers == layers); which++) {
			bool norms = which & 4, activation = which & 2, attention = which & 1;

			if ((norms && !s->selects_norms) || (activation && !s->selects_activation))
				continue;
			l.selected = (attention ? MT_CASE_ATTENTION : 0) | (activation ? MT_CASE_ACTIVATION : 0) |
				     (norms ? MT_CASE_NORMS : 0);
			take(f, q, &l);
		}
	}
}

/* Both orders of ranks, where they differ. */
static void force_orders(struct force *f, const struct mt_survey_query *q, struct mt_survey_layout l, int layers)
{
	force_recompute(f, q, l, layers);
	l.rank_order = MT_RANKS_PP_DP;
	if (l.pp > 1 && l.dp > 1)
		force_recompute(f, q, l, layers);
}

/* vp, zero, order of ranks and recompute of a layout that has all else. Shards are those of all ranks or, where the software can,
 * of a part. */
static void force_inner(struct force *f, const struct mt_survey_query *q, struct mt_survey_layout l)
{
	int layers = mt_survey_stage_layers(q, &l), ranks = l.dp * l.cp;

	for (l.schedule = 0; l.schedule < MT_SURVEY_SCHEDULES; l.schedule++) {
		for (l.vp = 1; l.vp <= (l.pp > 1 ? layers : 1); l.vp++) {
			if (layers < 1 || layers % l.vp)
				continue;
			for (l.zero = 0; l.zero <= 3; l.zero++) {
				for (l.zero_group = 0; l.zero_group < ranks; l.zero_group++) {
					if (l.zero_group == 0 || (l.zero_group > 1 && ranks % l.zero_group == 0 && l.zero > 0))
						force_orders(f, q, l, layers);
				}
			}
		}
	}
}

/* The end stages. Two stages of which both are smaller are two equal ones. */
static void force_ends(struct force *f, const struct mt_survey_query *q, struct mt_survey_layout l)
{
	int most = l.pp > 1 && !q->model.balanced_stages ? 3 : 0;

	for (l.first_less = 0; l.first_less <= most; l.first_less++)
		for (l.last_less = 0; l.last_less <= (l.pp == 2 && l.first_less > 0 ? 0 : most); l.last_less++)
			if (q->model.balanced_stages || ((int)q->model.layers + l.first_less + l.last_less) % l.pp == 0)
				force_inner(f, q, l);
}

/* mbs, sp and the switch beside it. */
static void force_mbs(struct force *f, const struct mt_survey_query *q, struct mt_survey_layout l)
{
	for (l.mbs = 1; l.mbs <= (int)q->model.gbs; l.mbs++) {
		if ((int)q->model.gbs % l.mbs)
			continue;
		for (int k = 0; k < 3; k++) {
			l.sp = k > 0;
			l.tp_overlap = k > 1;
			force_ends(f, q, l);
		}
	}
}

/* The kinds of context parallelism: one for a single rank; two levels with every number within. */
static void force_cp(struct force *f, const struct mt_survey_query *q, struct mt_survey_layout l)
{
	for (l.cp_kind = MT_CONTEXT_RING; l.cp_kind <= (l.cp > 1 ? MT_CONTEXT_HYBRID : MT_CONTEXT_RING); l.cp_kind++) {
		bool two = l.cp_kind == MT_CONTEXT_HYBRID;

		for (l.cp_inner = two ? 2 : 1; l.cp_inner < (two ? l.cp : 2); l.cp_inner++) {
			if (l.cp % l.cp_inner == 0)
				force_mbs(f, q, l);
		}
	}
}

static struct force force(const struct mt_survey_query *q)
{
	struct force f = {0};
	struct mt_survey_layout l = {0};
	int n = (int)q->gpus, experts = q->model.experts > 0 ? (int)q->model.experts : 1;

	for (l.tp = 1; l.tp <= n; l.tp++)
		for (l.cp = 1; l.cp <= n / l.tp; l.cp++)
			for (l.pp = 1; l.pp <= n / l.tp / l.cp && l.pp <= q->model.layers; l.pp++)
				for (l.ep = 1; l.ep <= experts; l.ep++)
					for (l.etp = experts > 1 ? 1 : l.tp; l.etp <= l.tp; l.etp++) {
						l.dp = n / (l.tp * l.cp * l.pp);
						if (n % (l.tp * l.cp * l.pp) == 0 && experts % l.ep == 0 && l.tp % l.etp == 0)
							force_cp(&f, q, l);
					}
	return f;
}

static void same_points(const char *what, const struct mt_survey_front *a, const struct mt_survey_front *b)
{
	assert_int_equal(a->count, b->count);
	for (int i = 0; i < a->count; i++) {
		const struct mt_survey_point *p = &a->points[i], *q = &b->points[i];

		if (mt_survey_order(&p->layout, &q->layout) != 0 || p->step_s != q->step_s || p->peak_bytes != q->peak_bytes)
			fail_msg("%s, point %d: %.9g s against %.9g s", what, i, p->step_s, q->step_s);
	}
}

static void optimum_and_front_equal_brute_force_on_20_spaces(void **state)
{
	int64_t fronts = 0, full = 0, inner_stages = 0;

	assert_int_equal(SPACES, 20);
	for (int i = 0; i < SPACES; i++) {
		struct mt_survey_query q = query_of(&spaces[i]);
		struct mt_fit_key keys[MEASURED];
		struct mt_fit_model model;

		if (i % 2)
			measure_layers(&q, &model, keys, MEASURED);
		struct mt_survey s = survey(&q);
		struct force f = force(&q);

		assert_true(f.fit_count > 0);
		full += s.best.points[0].layout.recompute == MT_CASE_FULL && i % 2;
		assert_true(s.best.count > 0);
		assert_true(s.best.points[0].step_s == f.best.step_s);
		/* no layout that fits beats a point of the front, and every point is one of them */
		for (int k = 0; k < s.front.count; k++) {
			bool found = false;

			for (int j = 0; j < f.fit_count; j++) {
				const struct mt_survey_point *p = &f.fit[j], *on = &s.front.points[k];

				found |= p->step_s == on->step_s && p->peak_bytes == on->peak_bytes;
				assert_false(p->step_s <= on->step_s && p->peak_bytes <= on->peak_bytes &&
					     (p->step_s < on->step_s || p->peak_bytes < on->peak_bytes));
			}
			assert_true(found);
			inner_stages += s.front.points[k].layout.rank_order == MT_RANKS_PP_DP;
		}
		/* and every layout that fits is beaten or met by one */
		for (int j = 0; j < f.fit_count; j++) {
			bool covered = false;

			for (int k = 0; k < s.front.count; k++)
				covered |= s.front.points[k].step_s <= f.fit[j].step_s &&
					   s.front.points[k].peak_bytes <= f.fit[j].peak_bytes;
			assert_true(covered);
		}
		assert_int_equal(s.evaluated + s.pruned_time + s.pruned_memory, f.legal);
		fronts += s.front.count;
		free(f.fit);
		mt_survey_free(&s);
		close_query();
	}
	assert_true(full > 0); /* a measured layer decided */
	assert_true(inner_stages > 0 && inner_stages < fronts);
	assert_true(fronts > SPACES); /* somewhere time is bought with memory */
}

static void counts_add_up(void **state)
{
	int64_t pruned_time = 0, pruned_memory = 0, rejected = 0;

	for (int i = 0; i < SPACES; i++) {
		struct mt_survey_query q = query_of(&spaces[i]);
		struct mt_survey s = survey(&q);

		for (int k = 0; k < mt_survey_rule_count; k++)
			rejected += s.rejected[k];
		assert_int_equal(s.not_reached, 0);
		assert_true(isinf(s.least_left_s));
		pruned_time += s.pruned_time;
		pruned_memory += s.pruned_memory;
		mt_survey_free(&s);
		close_query();
	}
	assert_true(pruned_time > 0 && pruned_memory > 0 && rejected > 0);
}

static void bounds_and_threads_change_nothing(void **state)
{
	int64_t saved = 0;

	for (int i = 0; i < SPACES; i++) {
		struct mt_survey_query q = query_of(&spaces[i]);
		struct mt_survey one = survey(&q), all, three;

		q.jobs = 3;
		three = survey(&q);
		q.jobs = 1;
		q.bounded = false;
		all = survey(&q);
		same_points("best of three threads", &three.best, &one.best);
		same_points("front of three threads", &three.front, &one.front);
		same_points("best without bounds", &all.best, &one.best);
		same_points("front without bounds", &all.front, &one.front);
		assert_int_equal(all.pruned_time + all.pruned_memory, 0);
		saved += all.evaluated - one.evaluated;
		mt_survey_free(&one);
		mt_survey_free(&all);
		mt_survey_free(&three);
		close_query();
	}
	assert_true(saved > 0);
}

/* Cards made once for many layouts, and their means, against the forecast of the whole step. */
static void cards_give_the_forecast_itself(void **state)
{
	int compared = 0;

	for (int i = 0; i < SPACES; i++) {
		struct mt_survey_query q = query_of(&spaces[i]);

		q.top = 400;
		struct mt_survey s = survey(&q);
		for (int k = 0; k < s.best.count; k++) {
			const struct mt_survey_layout *l = &s.best.points[k].layout;
			struct mt_case c = q.model;
			struct mt_forecast f;

			mt_survey_forecast(&f, &q, l);
			assert_true(f.step_s == s.best.points[k].step_s && f.peak_bytes == s.best.points[k].peak_bytes);
			if (l->recompute != MT_CASE_NONE && l->recompute_layers < mt_survey_stage_layers(&q, l))
				continue;
			c.tp = l->tp, c.cp = l->cp, c.ep = l->ep, c.pp = l->pp, c.vp = l->vp, c.dp = l->dp, c.mbs = l->mbs;
			c.sp = l->sp, c.zero = l->zero, c.recompute = l->recompute, c.etp = l->etp;
			c.zero_bubble = l->schedule == MT_SURVEY_ZB_H1, c.vee = l->schedule == MT_SURVEY_ZB_V,
			c.ends_given = !c.balanced_stages;
			c.first_less = l->first_less, c.last_less = l->last_less;
			c.cp_kind = l->cp_kind, c.cp_inner = l->cp_inner, c.tp_overlap = l->tp_overlap;
			c.zero_group = l->zero_group, c.selected = l->selected;
			c.pp_before_dp = l->rank_order == MT_RANKS_PP_DP;
			mt_forecast_step(&f, &c, q.target, q.stack, &q.factors);
			assert_true(f.step_s == s.best.points[k].step_s && f.peak_bytes == s.best.points[k].peak_bytes);
			compared++;
		}
		mt_survey_free(&s);
		close_query();
	}
	assert_true(compared > 1000);
}

static void more_layers_recompute_longer_and_keep_less(void **state)
{
	struct mt_survey_query q = query_of(&spaces[1]);
	struct mt_survey_layout l = {.tp = 2, .cp = 1, .ep = 1, .etp = 2, .pp = 1, .vp = 1, .dp = 4, .mbs = 1, .sp = 1, .zero = 1};
	struct mt_forecast before, f;

	mt_survey_forecast(&before, &q, &l);
	l.recompute = MT_CASE_FULL;
	for (l.recompute_layers = 1; l.recompute_layers <= 6; l.recompute_layers++) {
		mt_survey_forecast(&f, &q, &l);
		assert_true(f.step_s > before.step_s);
		if (l.recompute_layers > 1)
			assert_true(f.peak_bytes < before.peak_bytes);
		before = f;
	}
	close_query();
}

static void a_search_out_of_time_says_what_is_left(void **state)
{
	struct mt_survey_query q = query_of(&spaces[7]);
	struct mt_survey whole = survey(&q), cut;
	int64_t told;

	q.seconds = 1e-9;
	cut = survey(&q);
	told = cut.evaluated + cut.pruned_time + cut.pruned_memory;
	for (int i = 0; i < mt_survey_rule_count; i++)
		told += cut.rejected[i];
	assert_true(cut.not_reached > 0);
	assert_int_equal(told + cut.not_reached, whole.counted);
	assert_true(cut.least_left_s <= whole.best.points[0].step_s);
	mt_survey_free(&whole);
	mt_survey_free(&cut);
	close_query();
}

/* Of software with a V: the best layouts of that schedule have two chunks and more than one stage, and wait as the replay says. */
static void a_v_is_searched(void **state)
{
	struct mt_survey_query q = query_of(&spaces[8]);

	q.fixed.schedule = MT_SURVEY_ZB_V;
	struct mt_survey s = survey(&q);
	assert_true(s.best.count > 0);
	for (int i = 0; i < s.best.count; i++) {
		const struct mt_survey_layout *l = &s.best.points[i].layout;
		struct mt_forecast f;

		assert_true(l->schedule == MT_SURVEY_ZB_V && l->vp == 2 && l->pp > 1);
		mt_survey_forecast(&f, &q, l);
		assert_true(f.bubble_s > 0 && f.step_s == s.best.points[i].step_s);
	}
	mt_survey_free(&s);
	close_query();
}

static void fixed_axes_have_one_value(void **state)
{
	struct mt_survey_query q = query_of(&spaces[7]);

	q.fixed.tp = 4;
	q.fixed.recompute = MT_CASE_SELECTIVE;
	q.fixed.selected = MT_CASE_ATTENTION | MT_CASE_NORMS;
	q.fixed.zero = 1;
	struct mt_survey s = survey(&q);
	assert_true(s.best.count > 0);
	for (int i = 0; i < s.best.count; i++) {
		assert_int_equal(s.best.points[i].layout.tp, 4);
		assert_int_equal(s.best.points[i].layout.zero, 1);
		assert_int_equal(s.best.points[i].layout.recompute, MT_CASE_SELECTIVE);
		assert_int_equal(s.best.points[i].layout.selected, MT_CASE_ATTENTION | MT_CASE_NORMS);
	}
	mt_survey_free(&s);
	close_query();
}

/* A shared expert has weights of its own on every rank, and every token meets it: 6 FLOPs a weight and token. */
static void a_shared_expert_is_weights_and_work_of_every_token(void **state)
{
	struct mt_survey_query q = query_of(&spaces[10]);
	struct mt_case c = q.model;
	struct mt_forecast none, shared;
	double width = 512, matrices = c.gated ? 3 : 2, before = mt_case_layer_weights(&c, false).split, more;

	c.tp = 2;
	c.pp = c.vp = c.cp = c.ep = c.mbs = 1;
	c.dp = 4;
	mt_forecast_step(&none, &c, q.target, q.stack, &mt_factors_none);
	c.shared_ffn = width;
	mt_forecast_step(&shared, &c, q.target, q.stack, &mt_factors_none);
	more = mt_case_layer_weights(&c, false).split - before;
	assert_float_equal(more, matrices * c.hidden * width, 0.5);
	assert_float_equal((shared.model_flops - none.model_flops) / (6 * c.gbs * c.seq * c.layers * more), 1, 1e-9);
	assert_float_equal((shared.memory[0].parameters - none.memory[0].parameters) / (2 * c.layers * more / c.tp), 1, 1e-9);
	assert_true(shared.memory[0].activations > none.memory[0].activations);
	/* no faster than the peak allows, and not free */
	assert_true(shared.step_s - none.step_s > (shared.model_flops - none.model_flops) / (8 * q.target->tflops_16 * 1e12));
	close_query();
}

static void rules_stand_by_level(void **state)
{
	struct mt_survey_query q = query_of(&spaces[0]);

	for (int i = 1; i < mt_survey_rule_count; i++)
		assert_true(mt_survey_rules[i].level >= mt_survey_rules[i - 1].level);
	/* each is found at its level and at no other: a layout that breaks them all */
	struct mt_survey_layout l = {7,
				     7,
				     7,
				     7,
				     7,
				     7,
				     7,
				     1,
				     3,
				     MT_CASE_FULL,
				     6,
				     MT_SURVEY_ZB_H1,
				     5,
				     4,
				     4,
				     MT_CONTEXT_HYBRID,
				     3,
				     1,
				     5,
				     7,
				     MT_RANKS_PP_DP};
	for (int level = MT_SURVEY_TP; level <= MT_SURVEY_ALL; level++) {
		int rule = mt_survey_first_broken(&q, &l, (enum mt_survey_level)level);

		assert_true(rule < 0 || (int)mt_survey_rules[rule].level == level);
	}
	close_query();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(optimum_and_front_equal_brute_force_on_20_spaces),
		cmocka_unit_test(counts_add_up),
		cmocka_unit_test(bounds_and_threads_change_nothing),
		cmocka_unit_test(cards_give_the_forecast_itself),
		cmocka_unit_test(more_layers_recompute_longer_and_keep_less),
		cmocka_unit_test(a_search_out_of_time_says_what_is_left),
		cmocka_unit_test(a_v_is_searched),
		cmocka_unit_test(fixed_axes_have_one_value),
		cmocka_unit_test(a_shared_expert_is_weights_and_work_of_every_token),
		cmocka_unit_test(rules_stand_by_level),
	};
	return cmocka_run_group_tests_name("tuner_survey", tests, NULL, NULL);
}
