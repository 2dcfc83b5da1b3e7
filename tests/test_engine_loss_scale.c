/* The loss scale of f16: when it grows and falls, that a step which overflowed changes nothing, that f16 trains as f32 does, and
 * that a run goes on with the scale it had. */
#include "engine/keeper.h"
#include "tests/resume_check.h"

#include <math.h>

static struct mt_train_options options_of(double initial, int64_t window, int64_t hysteresis)
{
	struct mt_run run;

	mt_run_default(&run);
	struct mt_train_options train = run.train;
	mt_run_free(&run);
	train.loss_scale_initial = initial;
	train.loss_scale_window = window;
	train.loss_scale_hysteresis = hysteresis;
	return train;
}

static void scale_grows_after_a_window_of_good_steps_in_a_row(void **state)
{
	struct mt_train_options train = options_of(16, 3, 1);
	struct mt_loss_scale s;

	mt_loss_scale_open(&s, &train, MT_F16);
	assert_true(s.active && s.dynamic && s.value == 16);
	for (int i = 0; i < 2; i++)
		assert_false(mt_loss_scale_step(&s, true));
	assert_true(s.value == 16);
	assert_true(mt_loss_scale_step(&s, false));
	assert_true(s.value == 8 && s.of_gradients == 16);
	for (int i = 0; i < 3; i++)
		mt_loss_scale_step(&s, true);
	assert_true(s.value == 16 && s.of_gradients == 8);
}

static void hysteresis_forgives_and_the_least_is_kept(void **state)
{
	struct mt_train_options train = options_of(8, 2, 2);
	struct mt_loss_scale s;

	mt_loss_scale_open(&s, &train, MT_F16);
	assert_true(mt_loss_scale_step(&s, false) && s.value == 8); /* forgiven */
	assert_true(mt_loss_scale_step(&s, false) && s.value == 4);
	assert_true(mt_loss_scale_step(&s, false) && s.value == 2);
	mt_loss_scale_step(&s, true);
	mt_loss_scale_step(&s, true); /* grows, and forgives again */
	assert_true(s.value == 4);
	assert_true(mt_loss_scale_step(&s, false) && s.value == 4);
	assert_true(mt_loss_scale_step(&s, false) && mt_loss_scale_step(&s, false) && s.value == 1);
	/* At the least it is not the scale's fault any more. */
	assert_false(mt_loss_scale_step(&s, false));
	assert_true(s.value == 1);
}

static void other_types_and_fixed_scales_do_not_move(void **state)
{
	struct mt_train_options train = options_of(8, 1, 1);
	struct mt_loss_scale s;

	mt_loss_scale_open(&s, &train, MT_BF16);
	assert_false(s.active);
	assert_false(mt_loss_scale_step(&s, false));
	assert_true(s.value == 1 && s.of_gradients == 1);
	train.loss_scale = 128;
	mt_loss_scale_open(&s, &train, MT_F16);
	mt_loss_scale_step(&s, true);
	assert_false(mt_loss_scale_step(&s, false));
	assert_true(s.active && s.value == 128);
}

static void state_comes_back_from_its_json(void **state)
{
	struct mt_train_options train = options_of(1 << 20, 5, 3);
	struct mt_loss_scale s, t;

	mt_loss_scale_open(&s, &train, MT_F16);
	mt_loss_scale_open(&t, &train, MT_F16);
	mt_loss_scale_step(&s, false);
	mt_loss_scale_step(&s, false);
	mt_loss_scale_step(&s, false);
	mt_loss_scale_step(&s, true);
	json_t *json = mt_loss_scale_json(&s);
	mt_loss_scale_load(&t, json);
	assert_true(t.value == s.value && t.good_steps == 1 && t.hysteresis == s.hysteresis);
	mt_loss_scale_open(&t, &train, MT_BF16);
	mt_loss_scale_load(&t, json);
	assert_true(t.value == 1);
	json_decref(json);
}

static void set_run(struct mt_run *run, const struct tiny_model *model, enum mt_dtype dtype)
{
	set_tiny_run(run, model);
	run->layout.dtype = dtype;
	run->train.lr = 3e-3;
	run->train.steps = 12;
}

static void f16_trains_to_the_losses_and_gradients_of_f32(void **state)
{
	static const struct tiny_model *const models[] = {&TINY_GPT, &TINY_LLAMA};
	enum { STEPS = 12 };

	for (int m = 0; m < 2; m++) {
		struct engine_bench wide, narrow;
		struct mt_run wide_run, narrow_run;

		set_run(&wide_run, models[m], MT_F32);
		set_run(&narrow_run, models[m], MT_F16);
		narrow_run.train.loss_scale_initial = 1024; /* these weights are large */
		need(open_engine(&wide, &wide_run, "cpu", NULL));
		need(open_engine(&narrow, &narrow_run, "cpu", NULL));
		for (int step = 0; step < STEPS; step++) {
			struct mt_step_stats a, b;

			need(mt_engine_step(wide.engine, &a));
			need(mt_engine_step(narrow.engine, &b));
			if (!(fabs(a.loss - b.loss) < 1e-2 * a.loss) ||
			    (step == 0 && !(fabs(a.grad_norm - b.grad_norm) < 1e-2 * a.grad_norm)))
				fail_msg("%s step %d: f32 loss %.6f norm %.5f, f16 loss %.6f norm %.5f", models[m]->name, step,
					 a.loss, a.grad_norm, b.loss, b.grad_norm);
			assert_true(a.loss_scale == 0 && b.loss_scale == 1024 && !b.skipped);
			for (int i = 0; step == 0 && i < mt_engine_param_count(wide.engine); i++) {
				struct mt_param_info info;
				double square = 0, error = 0;

				mt_engine_param_info(wide.engine, i, &info);
				float x[4096], y[4096];
				assert_true(info.rows * info.cols <= 4096);
				need(mt_engine_read_grad(wide.engine, i, x));
				need(mt_engine_read_grad(narrow.engine, i, y));
				for (int64_t k = 0; k < info.rows * info.cols; k++) {
					square += (double)x[k] * x[k];
					error += (double)(x[k] - y[k]) * (x[k] - y[k]);
				}
				/* The bias of the keys has none: softmax takes no notice of it. */
				if (!(error <= 1e-2 * 1e-2 * square + 1e-3 * 1e-3 * a.grad_norm * a.grad_norm))
					fail_msg("%s: gradient of %s is off by %.3g of its norm", models[m]->name, info.name,
						 sqrt(error / square));
			}
		}
		close_engine(&wide);
		close_engine(&narrow);
		mt_run_free(&wide_run);
		mt_run_free(&narrow_run);
	}
}

/* All parameters of an engine. */
static float *read_all(struct mt_engine *e, int64_t *count)
{
	struct mt_param_info info;
	int64_t total = 0, at = 0;

	for (int i = 0; i < mt_engine_param_count(e); i++) {
		mt_engine_param_info(e, i, &info);
		total += info.rows * info.cols;
	}
	float *values = malloc((size_t)(total + 1) * sizeof *values);
	for (int i = 0; i < mt_engine_param_count(e); i++) {
		mt_engine_param_info(e, i, &info);
		need(mt_engine_read_param(e, i, values + at));
		at += info.rows * info.cols;
	}
	*count = total;
	return values;
}

static void a_step_that_overflows_changes_nothing_and_does_not_count(void **state)
{
	struct engine_bench bench, good;
	struct mt_run run, good_run;
	struct mt_step_stats stats, first;
	int64_t count, overflows = 0;

	set_run(&run, &TINY_LLAMA, MT_F16);
	set_run(&good_run, &TINY_LLAMA, MT_F16);
	run.train.loss_scale_initial = 1e12;
	run.train.loss_scale_backoff = 1e-4;
	run.train.warmup_steps = good_run.train.warmup_steps = 0;
	run.train.decay = good_run.train.decay = MT_DECAY_CONSTANT;
	need(open_engine(&bench, &run, "cpu", NULL));
	float *before = read_all(bench.engine, &count);
	for (;;) {
		need(mt_engine_step(bench.engine, &stats));
		if (stats.skipped != MT_SKIPPED_OVERFLOW)
			break;
		float *after = read_all(bench.engine, &count);
		assert_memory_equal(before, after, (size_t)count * sizeof *after);
		free(after);
		assert_true(++overflows < 10);
	}
	assert_true(overflows >= 2 && !stats.skipped && stats.loss_scale < 1e12);
	/* The first step that counts is AdamW's first: each parameter moves by about lr, whatever the samples. */
	need(open_engine(&good, &good_run, "cpu", NULL));
	need(mt_engine_step(good.engine, &first));
	float *moved = read_all(bench.engine, &count), *expected = read_all(good.engine, &count);
	double here = 0, there = 0;
	for (int64_t i = 0; i < count; i++) {
		here += fabs((double)moved[i] - before[i]);
		there += fabs((double)expected[i] - before[i]);
	}
	if (!(fabs(here - there) < 0.1 * there))
		fail_msg("parameters moved by %.6g after overflows, by %.6g without", here / (double)count, there / (double)count);
	free(before);
	free(moved);
	free(expected);
	close_engine(&bench);
	close_engine(&good);
	mt_run_free(&run);
	mt_run_free(&good_run);
}

/* A run that was saved between overflows goes on with the same bits. */
static void resumed_run_has_the_same_scales_and_losses(void **state)
{
	struct mt_step_stats want[8];
	struct mt_run run;

	set_run(&run, &TINY_GPT, MT_F16);
	run.train.loss_scale_initial = 1e12;
	run.train.loss_scale_backoff = 1e-4;
	run.train.loss_scale_window = 2;
	run.layout.moment1_dtype = run.layout.moment2_dtype = MT_BF16;
	check_resume(&run, 5, 8, want);
	assert_true(want[0].skipped == MT_SKIPPED_OVERFLOW);
	mt_run_free(&run);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(scale_grows_after_a_window_of_good_steps_in_a_row),
		cmocka_unit_test(hysteresis_forgives_and_the_least_is_kept),
		cmocka_unit_test(other_types_and_fixed_scales_do_not_move),
		cmocka_unit_test(state_comes_back_from_its_json),
		cmocka_unit_test(f16_trains_to_the_losses_and_gradients_of_f32),
		cmocka_unit_test(a_step_that_overflows_changes_nothing_and_does_not_count),
		cmocka_unit_test(resumed_run_has_the_same_scales_and_losses),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
