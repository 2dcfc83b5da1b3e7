/* Waits of a V: against the replay itself, on random shapes; and the search finds layouts that have one. */
#include "base/random.h"
#include "tuner/pipeline.h"
#include "tuner/survey.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* The end of the last pass of a step; the first stage takes `more` of its own passes longer: embedding and head. */
static double replay_s(int count, int64_t microbatches, double forward_s, double inputs_s, double weights_s, double more)
{
	struct mt_pipeline_chunk chunks[2], first[2];
	struct mt_pipeline_stage stages[32] = {{0}};
	struct mt_schedule_shape shape = {MT_SCHEDULE_ZB_V, count, 2, microbatches, 0};
	struct mt_schedules schedules = {0};
	double end_s = 0;

	for (int i = 0; i < 2; i++) {
		chunks[i] = (struct mt_pipeline_chunk){
			.forward_s = forward_s / 2, .backward_s = inputs_s / 2, .wgrad_s = weights_s / 2};
		first[i] = chunks[i];
		first[i].forward_s *= 1 + more;
		first[i].backward_s *= 1 + more;
		first[i].wgrad_s *= 1 + more;
	}
	for (int s = 0; s < count; s++)
		stages[s].chunks = s == 0 ? first : chunks;
	assert_int_equal(mt_pipeline_time(stages, &shape, NULL, &schedules), MT_OK);
	mt_schedules_free(&schedules);
	for (int s = 0; s < count; s++)
		end_s = fmax(end_s, stages[s].passes_end_s);
	return end_s;
}

/* Never below the replay, within 2% of it; the first stage has up to a third more to do. */
static void waits_are_those_of_the_replay(void **state)
{
	uint64_t draw = 0;
	struct mt_vee *vee = mt_vee_create();
	double most = 0;

	assert_non_null(vee);
	for (int i = 0; i < 150; i++) {
		int stages = 2 + (int)(mt_random_uniform(3, 0, draw++) * 7);
		int64_t m = 1 + (int64_t)(mt_random_uniform(3, 0, draw++) * 8 * stages);
		double forward = 0.5 + mt_random_uniform(3, 0, draw++), inputs = 0.5 + 1.5 * mt_random_uniform(3, 0, draw++);
		double weights = 0.5 + 0.5 * mt_random_uniform(3, 0, draw++), more = mt_random_uniform(3, 0, draw++) / 3;
		double all = forward + inputs + weights;
		const struct mt_vee_passes passes = {forward, inputs, weights, more};
		double own = (double)m * all * (1 + more), wait = mt_vee_wait_s(vee, stages, m, &passes);
		double end = replay_s(stages, m, forward, inputs, weights, more);

		assert_true(wait >= 0);
		assert_true(wait == mt_vee_wait_s(NULL, stages, m, &passes));
		if (own + wait < end * (1 - 1e-9))
			fail_msg("%d stages, %lld: %.6f below %.6f", stages, (long long)m, own + wait, end);
		most = fmax(most, (own + wait) / end - 1);
	}
	mt_vee_destroy(vee);
	if (most > 0.02)
		fail_msg("%.4f above the replay", most);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(waits_are_those_of_the_replay),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
