/* Scaling: sizes, and what failures leave of a job. */
#include "tuner/scale.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void sizes_are_read(void **state)
{
	static const char *const bad[] = {"", "0", "8..4", "8,8", "8,4", "x", "8..", "..8", "8;9", "1e9", "-3", "8..2000000"};
	int64_t sizes[MT_SCALE_SIZES];
	int count;

	assert_int_equal(mt_scale_sizes("8..100", sizes, &count), MT_OK);
	assert_int_equal(count, 5);
	assert_int_equal(sizes[3], 64);
	assert_int_equal(sizes[4], 100);
	assert_int_equal(mt_scale_sizes("24,72", sizes, &count), MT_OK);
	assert_int_equal(count, 2);
	assert_int_equal(sizes[1], 72);
	assert_int_equal(mt_scale_sizes("512", sizes, &count), MT_OK);
	assert_int_equal(count, 1);
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		if (mt_scale_sizes(bad[i], sizes, &count) != MT_INPUT)
			fail_msg("'%s' was taken", bad[i]);
		mt_error_clear();
	}
}

static void no_other_interval_saves_more_work(void **state)
{
	const double mtbf[] = {600, 3600, 86400, 3e6}, checkpoint[] = {0.5, 30, 600}, restart[] = {0, 300, 1800};

	for (int i = 0; i < 4 * 3 * 3; i++) {
		struct mt_goodput g = {.mtbf_s = mtbf[i / 9], .checkpoint_s = checkpoint[i / 3 % 3], .restart_s = restart[i % 3]};

		mt_goodput_best(&g);
		assert_true(g.frac > 0 && g.frac < 1);
		for (int k = 0; k < 240; k++) /* 0.01 s to 8e7 s */
			assert_true(mt_goodput_frac(&g, 0.01 * pow(1.1, k)) <= g.frac * (1 + 1e-9));
	}
}

/* Young 1974: sqrt(2 C M) where checkpoints are much shorter than the time between interruptions. */
static void interval_is_near_youngs(void **state)
{
	struct mt_goodput g = {.mtbf_s = 1e6, .checkpoint_s = 10, .restart_s = 600};

	mt_goodput_best(&g);
	assert_true(fabs(g.interval_s / sqrt(2 * 10 * 1e6) - 1) < 0.01);
}

/* The formula against a job that is played: work in segments, interruptions from a counter-based generator. */
static void goodput_is_what_a_played_job_gets(void **state)
{
	struct mt_goodput g = {.mtbf_s = 3000, .checkpoint_s = 60, .restart_s = 200};
	uint64_t random = 88172645463325252u;
	double clock_s = 0, done_s = 0, next_s = 0;

	mt_goodput_best(&g);
	for (int segment = 0; segment < 200000; segment++) {
		double end_s = clock_s + g.interval_s + g.checkpoint_s;

		while (end_s > next_s) { /* interrupted: start again, maybe more than once */
			if (next_s > clock_s)
				clock_s = next_s;
			random ^= random << 13, random ^= random >> 7, random ^= random << 17;
			next_s = clock_s - g.mtbf_s * log(((double)(random >> 11) + 1) / 9007199254740993.0);
			if (next_s > clock_s + g.restart_s) {
				clock_s += g.restart_s;
				end_s = clock_s + g.interval_s + g.checkpoint_s;
			} else {
				end_s = next_s + 1; /* it fails before it trains */
			}
		}
		clock_s = end_s;
		done_s += g.interval_s;
	}
	assert_true(fabs(done_s / clock_s / g.frac - 1) < 0.01);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes_are_read),
		cmocka_unit_test(no_other_interval_saves_more_work),
		cmocka_unit_test(interval_is_near_youngs),
		cmocka_unit_test(goodput_is_what_a_played_job_gets),
	};
	return cmocka_run_group_tests_name("tuner_scale", tests, NULL, NULL);
}
