/* The whole engine's gradient against central differences of its loss, in f64 on the plain device.
 *
 * The data set has one step's samples in fixed order and nothing is learned (lr 0), so that a step is the loss as a function of
 * the parameters. The difference is of fourth order,
 *   f'(x) = (8 (f(x+h) - f(x-h)) - (f(x+2h) - f(x-2h))) / 12h + O(h^4),
 * with h = 5e-4: truncation and rounding (1e-16 * loss / h) both stay below 1e-7 of it.
 *
 * Layouts of several ranks are held against one rank in mpi_engine_layouts. */
#include "base/file.h"
#include "base/random.h"
#include "tests/engine_problem.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

static char scratch[] = "/tmp/mt-gradients-XXXXXX";

enum { ELEMENTS = 12, FEW = 3 }; /* sampled of each parameter */

#define STEP     5e-4
#define RELATIVE 1e-7
#define ROUNDING 1e-10 /* of a difference: what is below 1e-3 is known less well */

/* Four sequences of tokens, as an indexed data set. */
static int make_data(void **state)
{
	int32_t tokens[4 * TINY_SEQ + 1];
	const int32_t *documents[1] = {tokens};
	int64_t length = 4 * TINY_SEQ + 1;
	char *prefix;
	enum mt_status st;

	if (!mkdtemp(scratch))
		return -1;
	for (int i = 0; i < length; i++)
		tokens[i] = (int32_t)mt_random_integer(7, 1, (uint64_t)i, TINY_VOCAB);
	prefix = mt_string("%s/data", scratch);
	st = mt_indexed_write(prefix, documents, &length, 1, TINY_VOCAB);
	free(prefix);
	return st == MT_OK ? 0 : -1;
}

static int remove_data(void **state)
{
	static const char *const names[] = {"data.bin", "data.idx"};

	for (int i = 0; i < 2; i++) {
		char *path = mt_string("%s/%s", scratch, names[i]);

		unlink(path);
		free(path);
	}
	return rmdir(scratch);
}

static void set_run(struct mt_run *run, const struct tiny_model *model, enum mt_dtype dtype)
{
	set_tiny_run(run, model);
	run->layout.dtype = dtype;
	run->layout.bucket_bytes = 8 << 10; /* several buckets */
	run->train.lr = run->train.min_lr = run->train.weight_decay = run->train.clip = 0;
	run->data.path = mt_string("%s/data", scratch);
	run->data.shuffle = false;
}

static void open_bench(struct engine_bench *b, const struct mt_run *run, const char *device)
{
	if (open_engine(b, run, device, NULL) != MT_OK)
		fail_msg("%s", mt_error_message());
}

/* What is minimised. */
static double loss_of(struct engine_bench *b)
{
	struct mt_step_stats stats;

	if (mt_engine_step(b->engine, &stats) != MT_OK)
		fail_msg("%s", mt_error_message());
	assert_int_equal(stats.skipped, 0);
	return stats.loss + b->mtp_weight * stats.mtp_loss;
}

/* Parameter `index` of the engine, on the host. free() it. */
static double *values_of(struct engine_bench *b, int index, bool gradient, struct mt_param_info *info)
{
	double *values;

	mt_engine_param_info(b->engine, index, info);
	values = malloc((size_t)(info->rows * info->cols) * sizeof *values);
	assert_non_null(values);
	assert_int_equal(gradient ? mt_engine_read_grad_f64(b->engine, index, values)
				  : mt_engine_read_param_f64(b->engine, index, values),
			 MT_OK);
	return values;
}

static double loss_at(struct engine_bench *b, int index, double *values, int64_t element, double value)
{
	double kept = values[element];

	values[element] = value;
	assert_int_equal(mt_engine_write_param(b->engine, index, values), MT_OK);
	values[element] = kept;
	return loss_of(b);
}

static double difference(struct engine_bench *b, int index, double *values, int64_t element)
{
	double x = values[element];
	double near = loss_at(b, index, values, element, x + STEP) - loss_at(b, index, values, element, x - STEP);
	double far = loss_at(b, index, values, element, x + 2 * STEP) - loss_at(b, index, values, element, x - 2 * STEP);

	assert_int_equal(mt_engine_write_param(b->engine, index, values), MT_OK);
	return (8 * near - far) / (12 * STEP);
}

/* Returns how many of the sampled elements have a gradient at all. */
static int check_parameter(struct engine_bench *b, int index, int elements)
{
	struct mt_param_info info;
	double *gradient, *values;
	int64_t count;
	int bent = 0;

	loss_of(b); /* the gradient where nothing is moved */
	gradient = values_of(b, index, true, &info);
	values = values_of(b, index, false, &info);
	count = info.rows * info.cols;
	for (int k = 0; k < elements; k++) {
		int64_t element = (int64_t)mt_random_integer(11, (uint64_t)index, (uint64_t)k, (uint64_t)count);
		double want = difference(b, index, values, element), got = gradient[element];

		if (!(fabs(got - want) <= RELATIVE * fabs(want) + ROUNDING))
			fail_msg("%s[%lld]: gradient %.12g, difference %.12g, relative error %.3g", info.name, (long long)element,
				 got, want, fabs(got - want) / fabs(want));
		bent += fabs(want) > 1e-4;
	}
	free(values);
	free(gradient);
	return bent;
}

static void check_model(const struct tiny_model *model, int elements)
{
	struct engine_bench b;
	struct mt_run run;
	int bent = 0, count;

	set_run(&run, model, MT_F64);
	open_bench(&b, &run, "reference");
	count = mt_engine_param_count(b.engine);
	for (int i = 0; i < count; i++)
		bent += check_parameter(&b, i, elements);
	/* Words that do not occur, padding, and the bias of the keys (which softmax cancels) have none. */
	if (bent < count * elements / 2)
		fail_msg("only %d of %d elements had a gradient worth the name", bent, count * elements);
	close_engine(&b);
	mt_run_free(&run);
}

static void gradients_of_newer_attention_are_the_derivatives_of_the_loss(void **state)
{
	check_model(&TINY_QWEN, FEW);
	check_model(&TINY_BIASED, FEW);
}

static void gradients_of_latent_attention_and_modules_are_the_derivatives_of_the_loss(void **state)
{
	check_model(&TINY_DEEPSEEK, FEW);
	check_model(&TINY_DEEPSEEK_LITE, FEW);
}

static void gradient_of_gpt_is_the_derivative_of_its_loss(void **state)
{
	check_model(&TINY_GPT, ELEMENTS);
}

static void gradient_of_llama_is_the_derivative_of_its_loss(void **state)
{
	check_model(&TINY_LLAMA, ELEMENTS);
}

/* One step of the run as it stands: the loss returned, and the gradients of all parameters one after the other. free() them. */
static double *gradients_of(const struct mt_run *run, const char *device, double *loss, int64_t *count)
{
	struct engine_bench b;
	struct mt_param_info info;
	double *all = NULL;

	open_bench(&b, run, device);
	*loss = loss_of(&b);
	*count = 0;
	for (int i = 0; i < mt_engine_param_count(b.engine); i++) {
		double *values = values_of(&b, i, true, &info);
		int64_t n = info.rows * info.cols;
		double *grown = realloc(all, (size_t)(*count + n) * sizeof *all);

		assert_non_null(grown);
		all = grown;
		memcpy(all + *count, values, (size_t)n * sizeof *all);
		*count += n;
		free(values);
	}
	close_engine(&b);
	return all;
}

static void check_recompute(const struct tiny_model *model, enum mt_recompute kind, enum mt_dtype dtype, const char *device)
{
	struct mt_run run;
	double loss[2], *gradients[2];
	int64_t count[2];

	set_run(&run, model, dtype);
	run.layout.recompute_attention = true;
	for (int i = 0; i < 2; i++) {
		run.layout.recompute = i ? kind : MT_RECOMPUTE_NONE;
		gradients[i] = gradients_of(&run, device, &loss[i], &count[i]);
	}
	if (loss[0] != loss[1])
		fail_msg("%s %s: loss %.17g, with recompute %.17g", model->name, mt_dtype_name(dtype), loss[0], loss[1]);
	for (int64_t i = 0; i < count[0]; i++) {
		if (memcmp((const char *)&gradients[0][i], (const char *)&gradients[1][i], sizeof(double)) != 0)
			fail_msg("%s %s: gradient %lld is %.17g, with recompute %.17g", model->name, mt_dtype_name(dtype),
				 (long long)i, gradients[0][i], gradients[1][i]);
	}
	free(gradients[0]);
	free(gradients[1]);
	mt_run_free(&run);
}

static void recompute_gives_the_same_bits(void **state)
{
	static const struct tiny_model *const models[] = {&TINY_GPT, &TINY_LLAMA, &TINY_QWEN, &TINY_DEEPSEEK, &TINY_DEEPSEEK_LITE};

	for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
		for (enum mt_recompute kind = MT_RECOMPUTE_SELECTIVE; kind <= MT_RECOMPUTE_FULL; kind++) {
			check_recompute(models[i], kind, MT_F64, "reference");
			check_recompute(models[i], kind, MT_F32, "cpu");
			check_recompute(models[i], kind, MT_BF16, "cpu");
		}
	}
}

/* Micro-batches of 1, 2 and 4: the same sum in another order. `bound` is relative to the largest gradient. */
static void check_accumulation(const struct tiny_model *model, enum mt_dtype dtype, const char *device, double bound)
{
	struct mt_run run;
	double loss[3], *gradients[3], largest = 0;
	int64_t count[3];

	set_run(&run, model, dtype);
	for (int i = 0; i < 3; i++) {
		run.layout.mbs = 1 << i;
		gradients[i] = gradients_of(&run, device, &loss[i], &count[i]);
	}
	for (int64_t k = 0; k < count[0]; k++)
		largest = fmax(largest, fabs(gradients[0][k]));
	for (int i = 1; i < 3; i++) {
		if (!(fabs(loss[i] - loss[0]) <= bound * loss[0]))
			fail_msg("%s %s: loss %.17g with mbs 1, %.17g with mbs %d", model->name, mt_dtype_name(dtype), loss[0],
				 loss[i], 1 << i);
		for (int64_t k = 0; k < count[0]; k++) {
			if (!(fabs(gradients[i][k] - gradients[0][k]) <= bound * largest))
				fail_msg("%s %s: gradient %lld is %.17g with mbs 1, %.17g with mbs %d (largest %g)", model->name,
					 mt_dtype_name(dtype), (long long)k, gradients[0][k], gradients[i][k], 1 << i, largest);
		}
	}
	for (int i = 0; i < 3; i++)
		free(gradients[i]);
	mt_run_free(&run);
}

static void accumulation_over_microbatches_is_one_sum(void **state)
{
	static const struct tiny_model *const models[] = {&TINY_GPT, &TINY_LLAMA};

	for (int i = 0; i < 2; i++) {
		check_accumulation(models[i], MT_F64, "reference", 1e-14);
		check_accumulation(models[i], MT_F32, "cpu", 1e-5);
		check_accumulation(models[i], MT_BF16, "cpu", 3e-2);
	}
}

static void check_untouched(enum mt_dtype dtype, const char *device)
{
	struct engine_bench b;
	struct mt_run run;
	struct mt_param_info info;
	double *before, *after;

	set_run(&run, &TINY_GPT, dtype);
	open_bench(&b, &run, device);
	for (int i = 0; i < mt_engine_param_count(b.engine); i++) {
		before = values_of(&b, i, false, &info);
		before[0] = 0.75;
		assert_int_equal(mt_engine_write_param(b.engine, i, before), MT_OK);
		loss_of(&b);
		after = values_of(&b, i, false, &info);
		for (int64_t k = 0; k < info.rows * info.cols; k++) {
			if (before[k] != after[k])
				fail_msg("%s %s[%lld]: %.17g written, %.17g after a step of rate 0", mt_dtype_name(dtype),
					 info.name, (long long)k, before[k], after[k]);
		}
		free(before);
		free(after);
	}
	close_engine(&b);
	mt_run_free(&run);
}

/* What is written stays: in bf16 the master copy too, or the next update would bring the old value back. */
static void written_parameters_outlive_a_step_of_rate_zero(void **state)
{
	check_untouched(MT_F64, "reference");
	check_untouched(MT_F32, "cpu");
	check_untouched(MT_BF16, "cpu");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(gradient_of_gpt_is_the_derivative_of_its_loss),
		cmocka_unit_test(gradient_of_llama_is_the_derivative_of_its_loss),
		cmocka_unit_test(gradients_of_newer_attention_are_the_derivatives_of_the_loss),
		cmocka_unit_test(gradients_of_latent_attention_and_modules_are_the_derivatives_of_the_loss),
		cmocka_unit_test(recompute_gives_the_same_bits),
		cmocka_unit_test(accumulation_over_microbatches_is_one_sum),
		cmocka_unit_test(written_parameters_outlive_a_step_of_rate_zero),
	};
	return cmocka_run_group_tests_name("engine gradients", tests, make_data, remove_data);
}
