/* kernels/cuda/trial.cu on the processor: operands of trials, and the comparison of results. */
#include "kernels/cuda/trial.h"

#include "tests/cuda_host/control.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { COUNT = 5000 };

static struct mt_cuda_launch launch = {.sm_count = 2, .arch = 80, .max_shared_bytes = 99 << 10};

static void operands_are_random_in_range_and_the_same_for_a_seed(void **state)
{
	float *a = malloc(COUNT * sizeof *a), *b = malloc(COUNT * sizeof *b);
	uint16_t *narrow = malloc(COUNT * sizeof *narrow);
	double sum = 0, squares = 0;
	int others = 0;
	assert_int_equal(mt_cuda_trial_fill(&launch, a, COUNT, MT_F32, 1), MT_OK);
	cuda_host_seed(5);
	assert_int_equal(mt_cuda_trial_fill(&launch, b, COUNT, MT_F32, 1), MT_OK);
	assert_memory_equal(a, b, COUNT * sizeof *a);
	assert_int_equal(mt_cuda_trial_fill(&launch, b, COUNT, MT_F32, 2), MT_OK);
	assert_int_equal(mt_cuda_trial_fill(&launch, narrow, COUNT, MT_BF16, 1), MT_OK);
	for (int i = 0; i < COUNT; i++) {
		assert_true(fabsf(a[i]) <= 1);
		others += a[i] != b[i];
		assert_int_equal(narrow[i], mt_bf16_from_f32(a[i]));
		sum += (double)a[i];
		squares += (double)a[i] * (double)a[i];
	}
	assert_true(others > COUNT / 2); /* of another seed */
	assert_true(fabs(sum / COUNT) < 0.05 && fabs(squares / COUNT - 1.0 / 3) < 0.05);
	assert_string_equal(cuda_host_error(), "");
	cuda_host_seed(0);
	free(narrow);
	free(b);
	free(a);
}

static void one_bit_is_a_difference_wherever_it_is(void **state)
{
	static const int at[] = {0, 255, 256, 4095, COUNT - 1};
	uint16_t *a = calloc(COUNT, sizeof *a), *b = calloc(COUNT, sizeof *b);
	int differs = 0;
	assert_int_equal(mt_cuda_trial_compare(&launch, a, b, COUNT * sizeof *a, &differs), MT_OK);
	assert_int_equal(differs, 0);
	for (size_t i = 0; i < sizeof at / sizeof at[0]; i++) {
		differs = 0;
		b[at[i]] = 0x8000; /* minus zero is not zero's bits */
		assert_int_equal(mt_cuda_trial_compare(&launch, a, b, COUNT * sizeof *a, &differs), MT_OK);
		assert_int_equal(differs, 1);
		b[at[i]] = 0;
	}
	free(b);
	free(a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(operands_are_random_in_range_and_the_same_for_a_seed),
		cmocka_unit_test(one_bit_is_a_difference_wherever_it_is),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
