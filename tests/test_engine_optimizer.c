/* Learning rates against their formulas; every optimizer's steps against plain loops in f64; the batch that grows. */
#include "engine/internal.h"
#include "tests/engine_problem.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static double rate(const struct mt_train_options *train, int64_t step)
{
	return mt_learning_rate(train, train->lr, train->min_lr, (double)step, (double)step + 1);
}

#define assert_near(value, expected)                                                                                               \
	do {                                                                                                                       \
		double value_ = (value), expected_ = (expected);                                                                   \
		if (!(fabs(value_ - expected_) <= 1e-12 * (1 + fabs(expected_))))                                                  \
			fail_msg("%s is %.17g, expected %.17g", #value, value_, expected_);                                        \
	} while (0)

static void every_schedule_follows_its_formula(void **state)
{
	struct mt_run run;

	mt_run_default(&run);
	struct mt_train_options *t = &run.train;
	t->steps = 110, t->warmup_steps = 10, t->lr = 2, t->min_lr = 0.5, t->wsd_steps = 40;
	for (t->decay = MT_DECAY_COSINE; t->decay <= MT_DECAY_INVERSE_SQUARE_ROOT; t->decay++) {
		assert_near(rate(t, 0), 0.2);
		assert_near(rate(t, 9), 2);
		assert_near(rate(t, 10), t->decay == MT_DECAY_INVERSE_SQUARE_ROOT ? 2 * sqrt(10.0 / 11) : 2);
	}
	t->decay = MT_DECAY_COSINE;
	assert_near(rate(t, 35), 0.5 + 1.5 * 0.5 * (1 + cos(M_PI / 4)));
	assert_near(rate(t, 1000), 0.5);
	t->decay = MT_DECAY_LINEAR;
	assert_near(rate(t, 85), 2 - 1.5 * 0.75);
	t->decay = MT_DECAY_CONSTANT;
	assert_near(rate(t, 109), 2);
	t->decay = MT_DECAY_INVERSE_SQUARE_ROOT;
	assert_near(rate(t, 39), 1);
	assert_near(rate(t, 100000), 0.5);
	t->decay = MT_DECAY_WSD;
	for (t->wsd_decay = MT_WSD_EXPONENTIAL; t->wsd_decay <= MT_WSD_MINUS_SQRT; t->wsd_decay++) {
		static const double halves[] = {0.41421356237309515, 0.5, 0.5, 0.29289321881345243};
		assert_near(rate(t, 70), 2);
		assert_near(rate(t, 90), 0.5 + 1.5 * halves[t->wsd_decay]);
		assert_near(rate(t, 110), 0.5);
	}
	mt_run_free(&run);
}

static void weight_decay_moves_to_its_end(void **state)
{
	struct mt_run run;

	mt_run_default(&run);
	struct mt_train_options *t = &run.train;
	t->steps = 100, t->weight_decay = 0.1;
	assert_near(mt_weight_decay(t, 50), 0.1);
	t->weight_decay_end = 0.3;
	assert_near(mt_weight_decay(t, 0), 0.1);
	assert_near(mt_weight_decay(t, 25), 0.15);
	assert_near(mt_weight_decay(t, 200), 0.3);
	t->weight_decay_rise = MT_RISE_COSINE;
	assert_near(mt_weight_decay(t, 0), 0.1);
	assert_near(mt_weight_decay(t, 25), 0.1 + 0.2 * 0.5 * (1 - cos(M_PI / 4)));
	assert_near(mt_weight_decay(t, 100), 0.3);
	mt_run_free(&run);
}

/* ---- steps ---- */

struct tensor {
	int64_t count;
	double *weight, *m, *v, *grad;
};

static double *doubles(int64_t count)
{
	double *values = calloc((size_t)count, sizeof *values);

	assert_non_null(values);
	return values;
}

/* c(r,n) = a(r,k) b(k,n); a transposed first where wanted. */
static void multiply(const double *a, const double *b, double *c, int64_t r, int64_t k, int64_t n, bool transposed_b)
{
	for (int64_t i = 0; i < r; i++)
		for (int64_t j = 0; j < n; j++) {
			double sum = 0;
			for (int64_t l = 0; l < k; l++)
				sum += a[i * k + l] * (transposed_b ? b[j * k + l] : b[l * n + j]);
			c[i * n + j] = sum;
		}
}

/* The polynomial from the left, whatever the shape. */
static void orthogonalize(double *x, int64_t r, int64_t c, int64_t steps)
{
	double norm = 0, *a = doubles(r * r), *aa = doubles(r * r), *y = doubles(r * c);

	for (int64_t i = 0; i < r * c; i++)
		norm += x[i] * x[i];
	for (int64_t i = 0; i < r * c; i++)
		x[i] /= sqrt(norm) + 1e-7;
	for (int64_t step = 0; step < steps; step++) {
		multiply(x, x, a, r, c, r, true);
		multiply(a, a, aa, r, r, r, false);
		for (int64_t i = 0; i < r * r; i++)
			a[i] = -4.7750 * a[i] + 2.0315 * aa[i];
		multiply(a, x, y, r, r, c, false);
		for (int64_t i = 0; i < r * c; i++)
			x[i] = 3.4445 * x[i] + y[i];
	}
	free(a);
	free(aa);
	free(y);
}

static bool is_matrix(const struct mt_param_info *p)
{
	return p->rows > 1 && p->cols > 1;
}

/* Linear, as all of the runs here have it. */
static double decay_at(const struct mt_train_options *train, int64_t step)
{
	return train->weight_decay + (train->weight_decay_end - train->weight_decay) * (double)step / (double)train->steps;
}

static void muon(struct tensor *t, const struct mt_param_info *p, const struct mt_train_options *train, double lr, double decay)
{
	double *x = doubles(t->count), scale = train->muon_factor;

	for (int64_t i = 0; i < t->count; i++) {
		t->m[i] = train->momentum * t->m[i] + t->grad[i];
		x[i] = train->nesterov ? t->grad[i] + train->momentum * t->m[i] : t->m[i];
	}
	orthogonalize(x, p->rows, p->cols, train->muon_steps);
	if (train->muon_scale == MT_MUON_SPECTRAL)
		scale *= sqrt((double)(p->rows > p->cols ? p->rows : p->cols));
	else if (train->muon_scale == MT_MUON_SHAPE)
		scale *= sqrt(p->rows > p->cols ? (double)p->rows / (double)p->cols : 1);
	else
		scale *= sqrt((double)p->rows / (double)p->cols);
	for (int64_t i = 0; i < t->count; i++)
		t->weight[i] -= lr * (scale * x[i] + decay * t->weight[i]);
	free(x);
}

static void step_elements(struct tensor *t, const struct mt_train_options *train, double lr, double decay, int64_t step)
{
	for (int64_t i = 0; i < t->count; i++) {
		double g = t->grad[i], direction;

		if (train->optimizer == MT_SGD) {
			g += decay * t->weight[i];
			t->m[i] = train->momentum * t->m[i] + g;
			direction = train->momentum == 0 ? g : train->nesterov ? g + train->momentum * t->m[i] : t->m[i];
		} else {
			t->m[i] = train->beta1 * t->m[i] + (1 - train->beta1) * g;
			t->v[i] = train->beta2 * t->v[i] + (1 - train->beta2) * g * g;
			direction = t->m[i] / (1 - pow(train->beta1, (double)step)) /
					    (sqrt(t->v[i] / (1 - pow(train->beta2, (double)step))) + train->eps) +
				    decay * t->weight[i];
		}
		t->weight[i] -= lr * direction;
	}
}

/* By what is documented: matrices decay but for those listed; word embedding and head have a rate of their own. */
static void step_plain(struct tensor *t, const struct mt_param_info *p, const struct mt_run *run, int64_t step, double clip)
{
	const struct mt_train_options *train = &run->train;
	bool ends = !strcmp(p->name, "embedding.word") || !strcmp(p->name, "head.weight");
	double decay = is_matrix(p) && !(train->no_decay && strstr(p->name, "embedding")) ? decay_at(train, step) : 0;
	double lr = ends && train->embedding_lr > 0
			    ? mt_learning_rate(train, train->embedding_lr, train->min_lr, (double)step, (double)step + 1)
			    : rate(train, step);

	for (int64_t i = 0; i < t->count; i++)
		t->grad[i] *= clip;
	if (train->optimizer == MT_MUON && is_matrix(p) && !strncmp(p->name, "layer.", 6))
		muon(t, p, train, lr, decay);
	else
		step_elements(t, train, lr, decay, step + 1);
}

/* The gradient comes from a second engine, whose own optimizer does not matter: its weights are set before each step. */
static void check_steps(const struct mt_run *run)
{
	struct engine_bench a, b;
	struct mt_run twin = *run;
	struct mt_step_stats stats;
	struct tensor tensors[64] = {{0}};
	struct mt_param_info p;

	twin.train.optimizer = MT_ADAMW;
	if (open_engine(&a, run, "reference", NULL) != MT_OK || open_engine(&b, &twin, "reference", NULL) != MT_OK)
		fail_msg("%s", mt_error_message());
	int count = mt_engine_param_count(a.engine);
	assert_true(count <= 64);
	for (int i = 0; i < count; i++) {
		mt_engine_param_info(a.engine, i, &p);
		int64_t n = p.rows * p.cols;
		tensors[i] = (struct tensor){n, doubles(n), doubles(n), doubles(n), doubles(n)};
		assert_int_equal(mt_engine_read_param_f64(a.engine, i, tensors[i].weight), MT_OK);
	}
	for (int step = 0; step < 3; step++) {
		for (int i = 0; i < count; i++)
			assert_int_equal(mt_engine_write_param(b.engine, i, tensors[i].weight), MT_OK);
		assert_int_equal(mt_engine_step(b.engine, &stats), MT_OK);
		double clip = stats.grad_norm > run->train.clip ? run->train.clip / (stats.grad_norm + 1e-6) : 1;
		assert_int_equal(mt_engine_step(a.engine, &stats), MT_OK);
		for (int i = 0; i < count; i++) {
			double *now = doubles(tensors[i].count);
			mt_engine_param_info(a.engine, i, &p);
			assert_int_equal(mt_engine_read_grad_f64(b.engine, i, tensors[i].grad), MT_OK);
			step_plain(&tensors[i], &p, run, step, clip);
			assert_int_equal(mt_engine_read_param_f64(a.engine, i, now), MT_OK);
			for (int64_t k = 0; k < tensors[i].count; k++)
				if (!(fabs(now[k] - tensors[i].weight[k]) <= 1e-9 * (1 + fabs(now[k]))))
					fail_msg("step %d, %s[%lld]: %.17g, plain loop %.17g", step, p.name, (long long)k, now[k],
						 tensors[i].weight[k]);
			free(now);
		}
	}
	for (int i = 0; i < count; i++) {
		free(tensors[i].weight);
		free(tensors[i].m);
		free(tensors[i].v);
		free(tensors[i].grad);
	}
	close_engine(&a);
	close_engine(&b);
}

static void check_optimizer(const struct tiny_model *model, void (*edit)(struct mt_train_options *train))
{
	struct mt_run run;

	set_tiny_run(&run, model);
	run.layout.dtype = MT_F64;
	run.layout.bucket_bytes = 4 << 10; /* several buckets */
	run.train.lr = 0.02;
	run.train.warmup_steps = 1;
	run.train.steps = 10;
	run.train.weight_decay = 0.3;
	run.train.weight_decay_end = 0.9;
	edit(&run.train);
	check_steps(&run);
	run.train.no_decay = NULL; /* a literal */
	mt_run_free(&run);
}

/* A gradient norm above the limit: the step changes nothing; below it: it does. */
static void a_norm_above_its_limit_is_a_spike(void **state)
{
	for (int above = 0; above < 2; above++) {
		struct engine_bench b;
		struct mt_step_stats stats;
		struct mt_run run;
		double before[64 * 64], after[64 * 64];
		struct mt_param_info p;

		set_tiny_run(&run, &TINY_GPT);
		run.layout.dtype = MT_F64;
		run.train.spike_norm = above ? 1e-6 : 1e6;
		if (open_engine(&b, &run, "reference", NULL) != MT_OK)
			fail_msg("%s", mt_error_message());
		mt_engine_param_info(b.engine, 0, &p);
		assert_true(p.rows * p.cols <= 64 * 64);
		assert_int_equal(mt_engine_read_param_f64(b.engine, 0, before), MT_OK);
		assert_int_equal(mt_engine_step(b.engine, &stats), MT_OK);
		assert_int_equal(mt_engine_read_param_f64(b.engine, 0, after), MT_OK);
		assert_int_equal(stats.skipped, above ? MT_SKIPPED_SPIKE : MT_SKIPPED_NOT);
		assert_int_equal(memcmp(before, after, (size_t)(p.rows * p.cols) * sizeof(double)) == 0, above);
		close_engine(&b);
		mt_run_free(&run);
	}
}

static void use_adamw(struct mt_train_options *t)
{
	t->clip = 0.1;
}

static void use_groups(struct mt_train_options *t)
{
	t->no_decay = (char *)"nothing,embedding";
	t->embedding_lr = 0.2;
}

static void use_sgd(struct mt_train_options *t)
{
	t->optimizer = MT_SGD, t->momentum = 0, t->nesterov = false;
}

static void use_momentum(struct mt_train_options *t)
{
	t->optimizer = MT_SGD, t->momentum = 0.9, t->nesterov = false, t->clip = 0.5;
}

static void use_nesterov(struct mt_train_options *t)
{
	t->optimizer = MT_SGD, t->momentum = 0.8, t->nesterov = true;
}

static void use_muon(struct mt_train_options *t)
{
	t->optimizer = MT_MUON, t->clip = 0.1;
}

static void use_muon_by_shape(struct mt_train_options *t)
{
	t->optimizer = MT_MUON, t->nesterov = false, t->muon_scale = MT_MUON_SHAPE, t->muon_factor = 1, t->muon_steps = 3;
}

static void use_muon_by_rms(struct mt_train_options *t)
{
	t->optimizer = MT_MUON, t->muon_scale = MT_MUON_UNIT_RMS, t->muon_factor = 0.5, t->momentum = 0.5;
}

static void adamw_equals_plain_loops(void **state)
{
	check_optimizer(&TINY_GPT, use_adamw);
	check_optimizer(&TINY_GPT, use_groups);
	check_optimizer(&TINY_LLAMA, use_groups);
}

static void sgd_equals_plain_loops(void **state)
{
	check_optimizer(&TINY_GPT, use_sgd);
	check_optimizer(&TINY_GPT, use_momentum);
	check_optimizer(&TINY_LLAMA, use_nesterov);
}

static void muon_equals_plain_loops(void **state)
{
	check_optimizer(&TINY_GPT, use_muon);
	check_optimizer(&TINY_LLAMA, use_muon);
	check_optimizer(&TINY_LLAMA, use_muon_by_shape);
	check_optimizer(&TINY_GPT, use_muon_by_rms);
}

/* State is kept only where the rule has it. */
static void optimizer_state_is_what_its_rule_needs(void **state)
{
	size_t bytes[3];

	for (int optimizer = MT_ADAMW; optimizer <= MT_MUON; optimizer++) {
		struct mt_arena_stats arenas[MT_ENGINE_ARENAS];
		struct engine_bench bench;
		struct mt_run run;

		set_tiny_run(&run, &TINY_LLAMA);
		run.train.optimizer = optimizer;
		run.train.momentum = 0;
		assert_int_equal(open_engine(&bench, &run, "cpu", NULL), MT_OK);
		mt_engine_memory(bench.engine, arenas);
		bytes[optimizer] = arenas[ARENA_OPTIMIZER].peak_bytes;
		close_engine(&bench);
		mt_run_free(&run);
	}
	assert_int_equal(bytes[MT_SGD], 0);
	assert_true(bytes[MT_MUON] < bytes[MT_ADAMW] && bytes[MT_MUON] > bytes[MT_ADAMW] / 2);
}

/* ---- the batch that grows ---- */

static void the_batch_grows_by_the_samples_seen(void **state)
{
	static const int64_t expected[] = {2, 2, 2, 4, 4, 6, 8, 8, 8};
	struct engine_bench bench;
	struct mt_step_stats stats;
	int64_t samples = 0;
	struct mt_run run;

	set_tiny_run(&run, &TINY_GPT);
	run.layout.gbs = 8;
	run.layout.mbs = 1;
	run.train.rampup_start = run.train.rampup_increment = 2;
	run.train.rampup_samples = 18;
	run.train.warmup_steps = 2;
	run.train.decay = MT_DECAY_CONSTANT;
	assert_int_equal(mt_run_check(&run, "test"), MT_OK);
	assert_int_equal(open_engine(&bench, &run, "cpu", NULL), MT_OK);
	for (int step = 0; step < 9; step++) {
		double loss;
		assert_int_equal(mt_engine_step(bench.engine, &stats), MT_OK);
		assert_int_equal(stats.samples, expected[step]);
		samples += stats.samples;
		/* the warm-up lasts 2 full batches */
		assert_near(stats.lr, run.train.lr * (samples < 16 ? (double)samples / 16 : 1));
		assert_true(stats.loss > 1 && stats.loss < 10);
		if (step == 2) { /* with full batches, whatever the step has */
			assert_int_equal(mt_engine_evaluate(bench.engine, bench.dataset, 1, &loss), MT_OK);
			assert_true(loss > 1 && loss < 10);
		}
	}
	close_engine(&bench);
	mt_run_free(&run);
}

static void refused(const struct mt_run *run, const char *word)
{
	mt_error_clear();
	assert_int_equal(mt_run_check(run, "here"), MT_INPUT);
	if (!strstr(mt_error_message(), word))
		fail_msg("no '%s' in: %s", word, mt_error_message());
}

static void impossible_options_are_refused(void **state)
{
	struct mt_run run;

	set_tiny_run(&run, &TINY_GPT);
	run.train.rampup_increment = 2;
	refused(&run, "rampup_start");
	run.train.rampup_start = 2;
	refused(&run, "rampup_samples");
	run.train.rampup_samples = 100, run.train.rampup_increment = 3;
	refused(&run, "no rises");
	run.train.rampup_start = 1, run.train.rampup_increment = 1, run.layout.mbs = 2;
	refused(&run, "while the batch grows");
	run.train.rampup_start = run.train.rampup_increment = run.train.rampup_samples = 0;
	run.train.momentum = 1;
	refused(&run, "momentum");
	run.train.momentum = 0.9, run.train.decay = MT_DECAY_WSD;
	refused(&run, "wsd_steps");
	run.train.wsd_steps = 1000;
	refused(&run, "after the warm-up");
	run.train.decay = MT_DECAY_COSINE, run.train.embedding_lr = 1e-9;
	refused(&run, "embedding_min_lr");
	run.train.embedding_lr = 0;
	assert_int_equal(mt_run_check(&run, "here"), MT_OK);
	mt_run_free(&run);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_norm_above_its_limit_is_a_spike),
		cmocka_unit_test(weight_decay_moves_to_its_end),
		cmocka_unit_test(every_schedule_follows_its_formula),
		cmocka_unit_test(adamw_equals_plain_loops),
		cmocka_unit_test(sgd_equals_plain_loops),
		cmocka_unit_test(muon_equals_plain_loops),
		cmocka_unit_test(optimizer_state_is_what_its_rule_needs),
		cmocka_unit_test(the_batch_grows_by_the_samples_seen),
		cmocka_unit_test(impossible_options_are_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
