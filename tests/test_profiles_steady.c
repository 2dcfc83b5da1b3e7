/* What a disturbed step took is not what its kernels cost. */
#include "profiles/steady.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

struct fixture {
	struct mt_profile *profile;
	struct mt_steady *steady;
};

static int make(void **state)
{
	struct fixture *f = calloc(1, sizeof *f);

	if (!f || mt_profile_create(&f->profile, 1, 1, NULL) != MT_OK || mt_steady_create(&f->steady, f->profile) != MT_OK)
		return -1;
	*state = f;
	return 0;
}

static int destroy(void **state)
{
	struct fixture *f = *state;

	mt_steady_destroy(f->steady);
	mt_profile_destroy(f->profile);
	free(f);
	return 0;
}

static const struct mt_op_key keys[] = {{.kind = MT_OP_LINEAR, .dtype = MT_F32, .dims = {8, 8, 8, 0}},
					{.kind = MT_OP_LINEAR, .dtype = MT_F32, .dims = {8, 8, 16, 0}}};

/* A step of one call of the first key and two of the second, all `slow` times as long as they need. */
static void step(struct fixture *f, double slow)
{
	const struct mt_op_key *calls[] = {&keys[0], &keys[1], NULL, &keys[1]};
	double now_s = 0;

	for (int i = 0; i < 4; i++) {
		double seconds = calls[i] == &keys[0] ? 0.5 : 0.25;
		struct mt_trace_event event = {.name = "x", .key = calls[i], .start_s = now_s, .end_s = now_s + slow * seconds};

		mt_steady_collect(f->steady, &event);
		now_s = event.end_s;
	}
	assert_int_equal(mt_steady_step(f->steady, now_s), MT_OK);
}

static double cost(const struct fixture *f, int key)
{
	int source;

	return mt_profile_op_cost(f->profile, &keys[key], &source, NULL);
}

static void disturbed_steps_leave_no_trace(void **state)
{
	static const double slow[] = {1.9, 1.5, 1.0, 1.8, 1.02, 1.06, 2.5, 1.04, 3};
	struct fixture *f = *state;
	int steps, undisturbed;

	for (size_t i = 0; i < sizeof slow / sizeof slow[0]; i++)
		step(f, slow[i]);
	assert_true(!(cost(f, 0) > 0)); /* nothing is in the profile before */
	assert_int_equal(mt_steady_settle(f->steady, &steps, &undisturbed), MT_OK);
	assert_int_equal(steps, 9);
	assert_int_equal(undisturbed, 3);
	assert_true(fabs(cost(f, 0) - 0.5 * 1.02) < 1e-6);
	assert_true(fabs(cost(f, 1) - 0.25 * 1.02) < 1e-6);
}

static void settled_again_after_a_reset_a_later_round_counts(void **state)
{
	struct fixture *f = *state;
	int steps, undisturbed;

	step(f, 2);
	step(f, 2.02);
	assert_int_equal(mt_steady_settle(f->steady, &steps, &undisturbed), MT_OK);
	assert_int_equal(undisturbed, 2);
	assert_true(fabs(cost(f, 0) - 0.5 * 2.01) < 1e-6);
	step(f, 1);
	mt_profile_reset(f->profile);
	assert_int_equal(mt_steady_settle(f->steady, &steps, &undisturbed), MT_OK);
	assert_int_equal(steps, 3);
	assert_int_equal(undisturbed, 1);
	assert_true(fabs(cost(f, 0) - 0.5) < 1e-6);
}

static void a_key_of_no_kind_fails_the_step(void **state)
{
	struct fixture *f = *state;
	struct mt_op_key key = {.kind = MT_OP_KIND_COUNT};
	struct mt_trace_event event = {.name = "x", .key = &key, .start_s = 0, .end_s = 1};

	mt_steady_collect(f->steady, &event);
	assert_int_equal(mt_steady_step(f->steady, 1), MT_INPUT);
}

static void without_steps_nothing_is_added(void **state)
{
	struct fixture *f = *state;
	int steps, undisturbed;

	assert_int_equal(mt_steady_settle(f->steady, &steps, &undisturbed), MT_OK);
	assert_int_equal(steps + undisturbed, 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, make, destroy)
	const struct CMUnitTest tests[] = {
		TEST(disturbed_steps_leave_no_trace),
		TEST(settled_again_after_a_reset_a_later_round_counts),
		TEST(a_key_of_no_kind_fails_the_step),
		TEST(without_steps_nothing_is_added),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
