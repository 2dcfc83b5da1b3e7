/* The validation loss: it is the loss of a step without the step, and nobody notices it. */
#include "engine_problem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

static void open_bench(struct engine_bench *b, const struct mt_run *run)
{
	mt_error_clear();
	if (open_engine(b, run, "cpu", NULL) != MT_OK)
		fail_msg("%s", mt_error_message());
}

static double evaluate(struct engine_bench *b, struct mt_dataset *dataset, int64_t batches)
{
	double loss;

	mt_error_clear();
	if (mt_engine_evaluate(b->engine, dataset, batches, &loss) != MT_OK)
		fail_msg("%s", mt_error_message());
	return loss;
}

static double step(struct engine_bench *b)
{
	struct mt_step_stats stats;

	mt_error_clear();
	if (mt_engine_step(b->engine, &stats) != MT_OK)
		fail_msg("%s", mt_error_message());
	return stats.loss;
}

/* Of the samples that the first step takes, with the weights that it begins with: the same bits. */
static void evaluation_is_the_loss_of_a_step(void **state)
{
	for (int recompute = 0; recompute < 2; recompute++) {
		struct mt_run run;
		struct engine_bench b;

		set_tiny_run(&run, recompute ? &TINY_LLAMA : &TINY_GPT);
		run.layout.recompute = recompute ? MT_RECOMPUTE_FULL : MT_RECOMPUTE_NONE;
		open_bench(&b, &run);
		double loss = evaluate(&b, b.dataset, 1);
		assert_true(loss == step(&b));
		close_engine(&b);
		mt_run_free(&run);
	}
}

/* Losses, parameters and memory of a run are those of one without evaluations between. */
static void evaluation_changes_nothing(void **state)
{
	struct mt_run run;
	struct engine_bench a, b;
	double first = 0;

	set_tiny_run(&run, &TINY_GPT);
	open_bench(&a, &run);
	open_bench(&b, &run);
	for (int i = 0; i < 4; i++) {
		assert_true(step(&a) == step(&b));
		double loss = evaluate(&b, b.dataset, 3);
		if (i == 0)
			first = loss;
		else
			assert_true(loss != first); /* the weights moved */
		assert_true(loss == evaluate(&b, b.dataset, 3));
	}
	assert_int_equal(mt_engine_peak_bytes(a.engine), mt_engine_peak_bytes(b.engine));
	for (int i = 0; i < mt_engine_param_count(a.engine); i++) {
		struct mt_param_info info;

		mt_engine_param_info(a.engine, i, &info);
		size_t count = (size_t)(info.rows * info.cols);
		float *x = malloc(count * sizeof *x), *y = malloc(count * sizeof *y);
		assert_int_equal(mt_engine_read_param(a.engine, i, x), MT_OK);
		assert_int_equal(mt_engine_read_param(b.engine, i, y), MT_OK);
		assert_memory_equal(x, y, count * sizeof *x);
		free(x);
		free(y);
	}
	close_engine(&a);
	close_engine(&b);
	mt_run_free(&run);
}

/* More batches are a mean over more samples: of two halves, the mean of their means. */
static void evaluation_is_a_mean_over_its_batches(void **state)
{
	struct mt_run run;
	struct engine_bench one, two;

	set_tiny_run(&run, &TINY_GPT);
	open_bench(&two, &run);
	double both = evaluate(&two, two.dataset, 2), first = evaluate(&two, two.dataset, 1);
	run.layout.gbs = 8;
	open_bench(&one, &run);
	double whole = evaluate(&one, one.dataset, 1);
	assert_true(whole > both * (1 - 1e-6) && whole < both * (1 + 1e-6));
	assert_true(first != both);
	close_engine(&one);
	close_engine(&two);
	mt_run_free(&run);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(evaluation_is_the_loss_of_a_step),
		cmocka_unit_test(evaluation_changes_nothing),
		cmocka_unit_test(evaluation_is_a_mean_over_its_batches),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
