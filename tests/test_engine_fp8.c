/* Training in fp8: against an engine whose operands were rounded by hand, losses beside those of bf16, scales from the history as
 * the recipe says, and a run that goes on with the same bits. */
#include "base/random.h"
#include "kernels/fp8.h"
#include "tests/resume_check.h"

#include <math.h>

/* Widths that are multiples of 16; bf16. */
static void set_run(struct mt_run *run, const struct tiny_model *model, int recipe)
{
	set_tiny_run(run, model);
	run->model.hidden = 32;
	run->model.heads = run->model.kv_heads = 4;
	run->model.head_dim = 8;
	run->model.ffn = 64;
	run->model.init_std = 0.1;
	if (run->model.experts > 0)
		run->model.expert_ffn = run->model.shared_ffn = 32;
	run->layout.dtype = MT_BF16;
	run->layout.fp8 = recipe;
	run->layout.mbs = 2;
	run->train.lr = 3e-3;
	run->train.steps = 12;
}

/* TINY_SIGMOID_EXPERTS: a dense layer first, then experts with a shared one. */
static const struct tiny_model *const models[] = {&TINY_GPT, &TINY_LLAMA, &TINY_SIGMOID_EXPERTS};

enum { MODELS = sizeof models / sizeof models[0] };

static void losses_follow_those_of_bf16(void **state)
{
	enum { STEPS = 12 };
	double want[STEPS], got;

	for (int m = 0; m < MODELS; m++)
		for (int recipe = MT_FP8_NONE; recipe <= MT_FP8_CURRENT; recipe++)
			for (int format = MT_FP8_HYBRID; format <= MT_FP8_E4M3; format++) {
				struct engine_bench bench;
				struct mt_step_stats stats;
				struct mt_run run;

				set_run(&run, models[m], recipe);
				run.layout.fp8_format = format;
				need(open_engine(&bench, &run, "cpu", NULL));
				for (int step = 0; step < STEPS; step++) {
					need(mt_engine_step(bench.engine, &stats));
					got = stats.loss;
					if (recipe == MT_FP8_NONE)
						want[step] = got;
					else if (!(fabs(got - want[step]) < 3e-2 * want[step]) || got == want[step])
						fail_msg("%s, recipe %d, format %d, step %d: loss %.6f, in bf16 %.6f",
							 models[m]->name, recipe, format, step, got, want[step]);
				}
				close_engine(&bench);
				mt_run_free(&run);
			}
}

/* A delayed scale is what the greatest values of the last steps say, by the engine's own history. */
static void scales_follow_the_history(void **state)
{
	for (int amax = MT_FP8_AMAX_MAX; amax <= MT_FP8_AMAX_LATEST; amax++) {
		struct engine_bench bench;
		struct mt_step_stats stats;
		struct mt_run run;
		float *seen;

		set_run(&run, &TINY_LLAMA, MT_FP8_DELAYED);
		run.layout.fp8_history = 3;
		run.layout.fp8_amax = amax;
		run.layout.fp8_margin = 1;
		need(open_engine(&bench, &run, "cpu", NULL));
		const struct mt_fp8 *f = &bench.engine->fp8;
		seen = calloc((size_t)f->tensors * 8, sizeof *seen);
		for (int64_t step = 0; step < 6; step++) {
			need(mt_engine_step(bench.engine, &stats));
			memcpy(seen + step * f->tensors, f->history + step % 3 * f->tensors, (size_t)f->tensors * sizeof *seen);
			assert_int_equal(f->steps, step + 1);
			for (int64_t t = 0; t < f->tensors; t++) {
				float most = 0, first = step >= 2 && amax == MT_FP8_AMAX_MAX ? 2
							: amax == MT_FP8_AMAX_MAX            ? (float)step
											     : 0;
				for (int64_t s = step - (int64_t)first; s <= step; s++)
					most = fmaxf(most, seen[s * f->tensors + t]);
				float scale = ((const float *)f->scales)[t], inverse = ((const float *)f->scales)[f->tensors + t];
				float want = (t % 3 == 2 ? 57344.0f : 448.0f) / most / 2;
				if (!(most > 0) || scale != want || inverse != 1 / want)
					fail_msg("step %lld, tensor %lld: scale %g, expected %g (amax %g)", (long long)step,
						 (long long)t, (double)scale, (double)want, (double)most);
			}
		}
		free(seen);
		close_engine(&bench);
		mt_run_free(&run);
	}
}

/* Of a model with experts: of each product input, weight and gradient, and each expert's weights; nothing else. */
static void each_expert_has_a_scale(void **state)
{
	struct engine_bench bench;
	struct mt_step_stats stats;
	struct mt_run run;
	int64_t used = 0, shipped = 0;

	set_run(&run, &TINY_SIGMOID_EXPERTS, MT_FP8_DELAYED);
	need(open_engine(&bench, &run, "cpu", NULL));
	need(mt_engine_step(bench.engine, &stats));
	const struct mt_fp8 *f = &bench.engine->fp8;
	for (int64_t t = 0; t < f->tensors; t++) {
		used += f->history[t] > 0;
		shipped += ((const float *)f->scales)[t] != 1;
	}
	/* The first layer is dense: 4 products. Of the others queries and output; up and down with the weights of 16 experts each
	 * in place of one; the shared expert's two. */
	int64_t layers = run.model.layers - 1, want = 12 + layers * (2 * 3 + 2 * (2 + 16) + 2 * 3);
	assert_int_equal(run.model.experts, 16);
	assert_int_equal(used, want);
	assert_int_equal(shipped, want);
	close_engine(&bench);
	mt_run_free(&run);
}

enum { ROWS = 21, IN = 32, OUT = 64, EXPERTS = 8 };

/* What a number is in fp8 with this scale, and back. */
static double rounded(uint16_t bf16, float scale, enum mt_dtype to)
{
	float value = mt_bf16_to_f32(bf16) * scale, inverse = 1 / scale;

	return (double)(to == MT_E4M3 ? mt_e4m3_to_f32(mt_e4m3_from_f32(value)) : mt_e5m2_to_f32(mt_e5m2_from_f32(value))) *
	       (double)inverse;
}

static void round_all(const uint16_t *from, int64_t count, enum mt_dtype to, double *values)
{
	float most = 0;

	for (int64_t i = 0; i < count; i++)
		most = fmaxf(most, fabsf(mt_bf16_to_f32(from[i])));
	for (int64_t i = 0; i < count; i++)
		values[i] = rounded(from[i], mt_fp8_most(to) / most, to);
}

static void same_within(const char *what, double got, double want, double unit)
{
	if (!(fabs(got - want) <= unit * fabs(want) + 1e-5))
		fail_msg("%s: %.9g, expected %.9g", what, got, want);
}

/* The three products of an engine's experts, against sums in f64 of numbers rounded here: rows by one scale, each expert's weights
 * by their own. */
static void products_of_experts_equal_their_emulation(void **state)
{
	static const int64_t offsets[EXPERTS + 1] = {0, 3, 3, 10, 11, 12, 20, 21, 21};
	static uint16_t x[ROWS * IN], dy[ROWS * OUT], y[ROWS * OUT], dx[ROWS * IN];
	static double x8[ROWS * IN], dy8[ROWS * OUT], w8[EXPERTS * OUT * IN];
	static float dw[EXPERTS * OUT * IN];
	struct engine_bench bench;
	struct mt_op op;
	struct mt_run run;

	set_run(&run, &TINY_MIXTRAL, MT_FP8_CURRENT);
	need(open_engine(&bench, &run, "cpu", NULL));
	struct mt_engine *e = bench.engine;
	int weight = e->table.layers[1][MT_EXPERT_UP], product = mt_fp8_product(e, weight);
	uint16_t *w = mt_engine_param(e, weight);
	for (int i = 0; i < ROWS * OUT; i++) {
		x[i % (ROWS * IN)] = mt_bf16_from_f32((float)mt_random_normal(3, 1, (uint64_t)i));
		dy[i] = mt_bf16_from_f32(1e-3f * (float)mt_random_normal(3, 2, (uint64_t)i));
	}
	for (int i = 0; i < EXPERTS * OUT * IN; i++) /* of very different sizes */
		w[i] = mt_bf16_from_f32(ldexpf((float)mt_random_normal(3, 3, (uint64_t)i), -i / (OUT * IN)));
	round_all(x, ROWS * IN, MT_E4M3, x8);
	round_all(dy, ROWS * OUT, MT_E5M2, dy8);
	for (int g = 0; g < EXPERTS; g++)
		round_all(w + g * OUT * IN, OUT * IN, MT_E4M3, w8 + g * OUT * IN);
	assert_true(product >= 0);
	mt_fp8_begin(e);
	for (int kind = MT_OP_GROUPED; kind <= MT_OP_GROUPED_WGRAD; kind++) {
		op = (struct mt_op){.kind = (enum mt_op_kind)kind, .dtype = MT_BF16};
		op.grouped = (struct mt_grouped){
			.linear = {.rows = ROWS, .in = IN, .out = OUT, .x = x, .w = w, .dy = dy, .y = y, .dx = dx, .dw = dw},
			.groups = EXPERTS,
			.offsets = offsets};
		need(kind == MT_OP_GROUPED         ? mt_fp8_forward(e, product, &op)
		     : kind == MT_OP_GROUPED_DGRAD ? mt_fp8_dgrad(e, product, &op)
						   : mt_fp8_wgrad(e, product, &op));
	}
	for (int g = 0; g < EXPERTS; g++) {
		const double *weights = w8 + g * OUT * IN;

		for (int64_t r = offsets[g]; r < offsets[g + 1]; r++) {
			for (int o = 0; o < OUT; o++) {
				double sum = 0;

				for (int i = 0; i < IN; i++)
					sum += x8[r * IN + i] * weights[o * IN + i];
				same_within("y", (double)mt_bf16_to_f32(y[r * OUT + o]), sum, 0x1p-8);
			}
			for (int i = 0; i < IN; i++) {
				double sum = 0;

				for (int o = 0; o < OUT; o++)
					sum += dy8[r * OUT + o] * weights[o * IN + i];
				same_within("dx", (double)mt_bf16_to_f32(dx[r * IN + i]), sum, 0x1p-8);
			}
		}
		for (int at = 0; at < OUT * IN; at++) {
			double sum = 0;

			for (int64_t r = offsets[g]; r < offsets[g + 1]; r++)
				sum += dy8[r * OUT + at / IN] * x8[r * IN + at % IN];
			same_within("dw", (double)dw[g * OUT * IN + at], sum, 1e-5);
		}
	}
	close_engine(&bench);
	mt_run_free(&run);
}

/* Layers that are left out, and weight gradients that are, have no greatest values. */
static void what_is_left_out_stays_in_its_type(void **state)
{
	struct engine_bench bench;
	struct mt_step_stats stats;
	struct mt_run run;

	set_run(&run, &TINY_GPT, MT_FP8_DELAYED);
	run.layout.fp8_skip_first = 1;
	need(open_engine(&bench, &run, "cpu", NULL));
	need(mt_engine_step(bench.engine, &stats));
	for (int64_t t = 0; t < 24; t++) {
		if (t < 12 ? bench.engine->fp8.history[t] != 0 : !(bench.engine->fp8.history[t] > 0))
			fail_msg("tensor %lld: greatest value %g", (long long)t, (double)bench.engine->fp8.history[t]);
	}
	close_engine(&bench);
	run.layout.fp8_skip_last = 1;
	need(open_engine(&bench, &run, "cpu", NULL));
	need(mt_engine_step(bench.engine, &stats));
	double loss = stats.loss, norm = stats.grad_norm;
	close_engine(&bench);
	run.layout.fp8 = MT_FP8_NONE;
	need(open_engine(&bench, &run, "cpu", NULL));
	need(mt_engine_step(bench.engine, &stats));
	assert_true(stats.loss == loss && stats.grad_norm == norm);
	close_engine(&bench);
	mt_run_free(&run);
}

static void evaluation_changes_no_scale_and_no_bit(void **state)
{
	for (int recipe = MT_FP8_DELAYED; recipe <= MT_FP8_CURRENT; recipe++) {
		struct engine_bench bench, other;
		struct mt_step_stats stats, same;
		struct mt_run run;
		double loss;

		set_run(&run, &TINY_GPT, recipe);
		need(open_engine(&bench, &run, "cpu", NULL));
		need(open_engine(&other, &run, "cpu", NULL));
		for (int step = 0; step < 4; step++) {
			need(mt_engine_evaluate(bench.engine, bench.dataset, 2, &loss));
			assert_true(isfinite(loss));
			need(mt_engine_step(bench.engine, &stats));
			need(mt_engine_step(other.engine, &same));
			assert_true(stats.loss == same.loss && stats.grad_norm == same.grad_norm);
		}
		close_engine(&bench);
		close_engine(&other);
		mt_run_free(&run);
	}
}

static void resumed_run_has_the_same_bits(void **state)
{
	static const struct tiny_model *const two[] = {&TINY_GPT, &TINY_SIGMOID_EXPERTS};

	for (int m = 0; m < 2; m++) {
		struct mt_step_stats want[7];
		struct mt_run run;

		set_run(&run, two[m], MT_FP8_DELAYED);
		run.layout.fp8_history = 3;
		check_resume(&run, 4, 7, want);
		mt_run_free(&run);
	}
}

/* The cpu and the plain device round alike: what differs is the order of sums. */
static void devices_agree(void **state)
{
	for (int m = 0; m < MODELS; m++) {
		struct engine_bench fast, plain;
		struct mt_step_stats a, b;
		struct mt_run run;

		set_run(&run, models[m], MT_FP8_CURRENT);
		need(open_engine(&fast, &run, "cpu", NULL));
		need(open_engine(&plain, &run, "reference", NULL));
		for (int step = 0; step < 5; step++) {
			need(mt_engine_step(fast.engine, &a));
			need(mt_engine_step(plain.engine, &b));
			if (!(fabs(a.loss - b.loss) < 1e-2 * b.loss) || !(fabs(a.grad_norm - b.grad_norm) < 5e-2 * b.grad_norm))
				fail_msg("%s step %d: loss %.6f norm %.6f, plain %.6f and %.6f", models[m]->name, step, a.loss,
					 a.grad_norm, b.loss, b.grad_norm);
		}
		close_engine(&fast);
		close_engine(&plain);
		mt_run_free(&run);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(losses_follow_those_of_bf16),
		cmocka_unit_test(scales_follow_the_history),
		cmocka_unit_test(each_expert_has_a_scale),
		cmocka_unit_test(products_of_experts_equal_their_emulation),
		cmocka_unit_test(what_is_left_out_stays_in_its_type),
		cmocka_unit_test(evaluation_changes_no_scale_and_no_bit),
		cmocka_unit_test(resumed_run_has_the_same_bits),
		cmocka_unit_test(devices_agree),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
