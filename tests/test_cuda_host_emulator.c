/* The CUDA emulator itself: warps and barriers give what a GPU gives, and what is undefined there is an error here. */
#include "tests/cuda_host/control.h"
#include "tests/cuda_host/faults.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void barriers_and_shuffles_sum_a_block_in_any_order(void **state)
{
	enum { BLOCKS = 5, THREADS = 256 };
	for (uint64_t seed = 0; seed < 4; seed++) {
		int *out = calloc(BLOCKS * THREADS, sizeof *out);
		cuda_host_seed(seed);
		faults_sums(out, BLOCKS, THREADS);
		assert_string_equal(cuda_host_error(), "");
		for (int i = 0; i < BLOCKS * THREADS; i++) {
			int first = i / THREADS * THREADS;
			assert_int_equal(out[i], THREADS * first + THREADS * (THREADS - 1) / 2);
		}
		free(out);
	}
	cuda_host_seed(0);
}

static void warp_operations_give_what_each_lane_is_due(void **state)
{
	int *out = calloc(96, sizeof *out);
	faults_warps(out);
	assert_string_equal(cuda_host_error(), "");
	for (int i = 0; i < 32; i++) {
		uint32_t same = 0;
		for (int lane = i % 3; lane < 32; lane += 3)
			same |= 1u << lane;
		assert_int_equal(out[3 * i], i % 8 == 7 ? i : i + 1);
		assert_int_equal(out[3 * i + 1], 16);
		assert_int_equal((uint32_t)out[3 * i + 2], same);
	}
	free(out);
}

static void a_seed_shows_a_race(void **state)
{
	int *out = calloc(64, sizeof *out), seen[64] = {0}, different = 0;
	for (uint64_t seed = 0; seed < 8; seed++) {
		cuda_host_seed(seed);
		faults_race(out, 64);
		if (seed == 0)
			assert_int_equal(out[0], 63);
		different += !seen[out[0]]++;
	}
	cuda_host_seed(0);
	assert_true(different > 3);
	free(out);
}

static void shared_memory_starts_as_nan_in_every_block(void **state)
{
	float *out = calloc(3, sizeof *out);
	faults_stale(out, 3);
	for (int i = 0; i < 3; i++)
		assert_true(isnan(out[i]));
	free(out);
}

static void what_a_gpu_leaves_undefined_is_an_error(void **state)
{
	static const struct {
		enum fault fault;
		const char *says;
	} cases[] = {
		{FAULT_BARRIER_SKIPPED, "63 of 64 threads wait at the barrier"},
		{FAULT_BARRIERS_DIFFER, "different barriers"},
		{FAULT_LANE_GONE, "names lane 8, which has returned"},
		{FAULT_MASK_WITHOUT_SELF, "not in its own mask"},
		{FAULT_LANE_NOT_IN_MASK, "reads lane 20"},
		{FAULT_LANES_DIFFER, "the others wait __syncwarp"},
		{FAULT_MISALIGNED, "misaligned address"},
		{FAULT_BLOCK_TOO_LARGE, "1 to 1024 threads"},
		{FAULT_SHARED_TOO_LARGE, "more shared memory"},
	};
	int *memory = calloc(16, sizeof *memory);
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		faults_bad(cases[i].fault, memory);
		const char *error = cuda_host_error();
		if (!strstr(error, cases[i].says))
			fail_msg("fault %d: \"%s\" does not say \"%s\"", (int)cases[i].fault, error, cases[i].says);
		faults_bad(FAULT_NONE, memory);
		assert_string_equal(cuda_host_error(), "");
	}
	free(memory);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(barriers_and_shuffles_sum_a_block_in_any_order),
		cmocka_unit_test(warp_operations_give_what_each_lane_is_due),
		cmocka_unit_test(a_seed_shows_a_race),
		cmocka_unit_test(shared_memory_starts_as_nan_in_every_block),
		cmocka_unit_test(what_a_gpu_leaves_undefined_is_an_error),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
