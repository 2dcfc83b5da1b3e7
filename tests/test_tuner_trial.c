/* Which steps of a trial count, when other work slows the machine now and then. */
#include "tuner/trial.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static void add(struct mt_candidate *c, int count, const double *times, const double *paces)
{
	json_t *t = json_array(), *p = paces ? json_array() : NULL;

	for (int i = 0; i < count; i++) {
		json_array_append_new(t, json_real(times[i]));
		if (paces)
			json_array_append_new(p, json_real(paces[i]));
	}
	assert_int_equal(mt_trial_add(c, t, p), MT_OK);
	c->run = true;
	json_decref(t);
	json_decref(p);
}

static void assert_near(double a, double b)
{
	if (!(fabs(a - b) <= 1e-12))
		fail_msg("%.17g, expected %.17g", a, b);
}

static void a_slow_machine_is_told_from_a_slow_layout(void **state)
{
	/* The first ran all of its steps while the machine was slow, the second none: alike in their lengths. */
	struct mt_candidate *c = calloc(2, sizeof *c);
	double pace;

	(void)state;
	assert_non_null(c);
	add(&c[0], 3, (double[]){4, 4.01, 4.02}, (double[]){60, 58, 62});
	add(&c[1], 3, (double[]){4, 4.01, 4.02}, (double[]){99, 100, 95});
	pace = mt_trial_pace(c, 2);
	for (int i = 0; i < 2; i++)
		mt_trial_judge(&c[i], pace);
	assert_true(mt_trial_unsettled(&c[0]));
	assert_int_equal(c[0].undisturbed_steps, 0);
	assert_near(c[0].measured_s, 4.01); /* the best that is known */
	assert_false(mt_trial_unsettled(&c[1]));
	assert_int_equal(c[1].undisturbed_steps, 3);
	/* Its next run meets a quiet machine. */
	add(&c[0], 3, (double[]){2, 2.5, 2.04}, (double[]){97, 98, 99});
	mt_trial_judge(&c[0], mt_trial_pace(c, 2));
	assert_int_equal(c[0].undisturbed_steps, 2);
	assert_near(c[0].measured_s, 2.02);
	assert_near(c[0].median_s, 3.25);
	free(c[0].steps);
	free(c[1].steps);
	free(c);
}

static void without_paces_the_lengths_decide(void **state)
{
	struct mt_candidate c = {0};

	(void)state;
	add(&c, 6, (double[]){2.0, 1.049, 4, 1.0, 1.02, 1.051}, NULL);
	mt_trial_judge(&c, mt_trial_pace(&c, 1));
	assert_int_equal(c.undisturbed_steps, 3);
	assert_near(c.measured_s, 1.02);
	assert_false(mt_trial_unsettled(&c));
	add(&c, 1, (double[]){9}, NULL);
	mt_trial_judge(&c, mt_trial_pace(&c, 1));
	assert_true(mt_trial_unsettled(&c));
	c.failed = true;
	assert_false(mt_trial_unsettled(&c));
	free(c.steps);
}

static void no_steps_have_no_pace(void **state)
{
	struct mt_candidate c = {0};

	(void)state;
	assert_near(mt_trial_pace(&c, 1), 0);
	assert_false(mt_trial_unsettled(&c));
}

static void where_predictions_are_far_off_other_families_are_tried(void **state)
{
	/* Three variants of one family and one of another, predicted 6% slower. */
	struct mt_candidate c[4] = {
		{.layout = {.tp = 2, .pp = 2}, .step_s = 1.00},
		{.layout = {.tp = 2, .pp = 2, .mbs = 2}, .step_s = 1.01},
		{.layout = {.tp = 2, .pp = 2, .mbs = 4}, .step_s = 1.02},
		{.layout = {.tp = 1, .pp = 2}, .step_s = 1.06},
	};

	(void)state;
	assert_int_equal(mt_trial_next(c, 4), 0);
	c[0].run = true;
	c[0].measured_s = 1.03; /* near: the next of the family is still the more promising */
	assert_int_equal(mt_trial_next(c, 4), 1);
	assert_near(mt_trial_expected_s(c, 4, &c[1]), 1.01 * 1.03);
	assert_true(isnan(mt_trial_expected_s(c, 4, &c[3])));
	c[0].measured_s = 2; /* far: 1.06 is less than twice 1.01 */
	assert_int_equal(mt_trial_next(c, 4), 3);
	c[3].run = true;
	c[3].measured_s = 2.5; /* further still: back to the first family */
	assert_int_equal(mt_trial_next(c, 4), 1);
	c[0].measured_s = 0.5; /* all predictions seem twice too long: no reason to leave the family */
	c[3].run = false;
	assert_int_equal(mt_trial_next(c, 4), 1);
	c[0].failed = true;
	assert_int_equal(mt_trial_next(c, 4), 3);
	c[3].run = c[3].failed = true;
	assert_int_equal(mt_trial_next(c, 4), 1);
	c[1].run = c[2].run = true;
	assert_int_equal(mt_trial_next(c, 4), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_slow_machine_is_told_from_a_slow_layout),
		cmocka_unit_test(without_paces_the_lengths_decide),
		cmocka_unit_test(no_steps_have_no_pace),
		cmocka_unit_test(where_predictions_are_far_off_other_families_are_tried),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
