/* 1F1B for every number of stages up to 8 and of micro-batches up to 16: held against its definition, and run by an executor
 * whose receives block at the pass that needs them and whose sends never do. */
#include "engine/schedule.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MOST_STAGES = 8, MOST_MICROBATCHES = 16 };

struct job {
	int stages;
	int64_t microbatches;
	struct mt_action_list lists[MOST_STAGES];
};

static void for_all_jobs(void (*check)(const struct job *job))
{
	for (int p = 1; p <= MOST_STAGES; p++) {
		for (int64_t m = 1; m <= MOST_MICROBATCHES; m++) {
			struct job job = {.stages = p, .microbatches = m};

			for (int s = 0; s < p; s++)
				assert_int_equal(mt_schedule_1f1b(&job.lists[s], s, p, m), MT_OK);
			check(&job);
			for (int s = 0; s < p; s++)
				mt_schedule_free(&job.lists[s]);
		}
	}
}

/* Place of an action in a stage's list, -1: not there. Fails when it is there twice. */
static int64_t place_of(const struct mt_action_list *list, enum mt_action_kind kind, int64_t microbatch)
{
	int64_t found = -1;

	for (int64_t i = 0; i < list->count; i++) {
		if (list->actions[i].kind != kind || list->actions[i].microbatch != microbatch)
			continue;
		if (found >= 0)
			fail_msg("action %d of micro-batch %lld stands at %lld and at %lld", kind, (long long)microbatch,
				 (long long)found, (long long)i);
		found = i;
	}
	return found;
}

static int64_t must_have(const struct job *job, int stage, enum mt_action_kind kind, int64_t microbatch)
{
	int64_t place = place_of(&job->lists[stage], kind, microbatch);

	if (place < 0)
		fail_msg("stage %d of %d, %lld micro-batches: no action %d of micro-batch %lld", stage, job->stages,
			 (long long)job->microbatches, kind, (long long)microbatch);
	return place;
}

static void check_passes(const struct job *job)
{
	for (int s = 0; s < job->stages; s++) {
		for (int64_t k = 0; k < job->microbatches; k++) {
			int64_t forward = must_have(job, s, MT_FORWARD, k), backward = must_have(job, s, MT_BACKWARD, k);

			if (backward < forward)
				fail_msg("stage %d of %d, micro-batch %lld: backward pass at %lld, forward pass at %lld", s,
					 job->stages, (long long)k, (long long)backward, (long long)forward);
		}
		for (int64_t i = 0; i < job->lists[s].count; i++) {
			int64_t k = job->lists[s].actions[i].microbatch;

			if (k < 0 || k >= job->microbatches)
				fail_msg("stage %d of %d: micro-batch %lld of %lld", s, job->stages, (long long)k,
					 (long long)job->microbatches);
		}
	}
}

static void every_pass_runs_once_and_backward_follows_forward(void **state)
{
	for_all_jobs(check_passes);
}

/* Messages stand where the passes need them; the ends have none outwards. */
static void check_messages(const struct job *job)
{
	for (int s = 0; s < job->stages; s++) {
		const struct mt_action_list *list = &job->lists[s];
		bool first = s == 0, last = s == job->stages - 1;
		int64_t messages = 0;

		for (int64_t k = 0; k < job->microbatches; k++) {
			int64_t forward = must_have(job, s, MT_FORWARD, k), backward = must_have(job, s, MT_BACKWARD, k);

			if (!first) {
				assert_true(must_have(job, s, MT_RECV_FORWARD, k) < forward);
				assert_true(must_have(job, s, MT_SEND_BACKWARD, k) > backward);
			}
			if (!last) {
				assert_true(must_have(job, s, MT_RECV_BACKWARD, k) < backward);
				assert_true(must_have(job, s, MT_SEND_FORWARD, k) > forward);
			}
			messages += (first ? 0 : 2) + (last ? 0 : 2);
		}
		assert_int_equal(list->count, 2 * job->microbatches + messages);
	}
}

static void receives_are_posted_before_the_pass_that_needs_them(void **state)
{
	for_all_jobs(check_messages);
}

/* A receive is posted before the pass in front of the one that needs it, so that the message moves under that pass. Only the
 * very first pass has none in front. */
static void check_ahead(const struct job *job)
{
	for (int s = 0; s < job->stages; s++) {
		const struct mt_action_list *list = &job->lists[s];

		for (int64_t i = 2; i < list->count; i++) {
			const struct mt_action *a = &list->actions[i - 1], *b = &list->actions[i];
			bool own = (a->kind == MT_RECV_FORWARD && b->kind == MT_FORWARD) ||
				   (a->kind == MT_RECV_BACKWARD && b->kind == MT_BACKWARD);

			if (own && a->microbatch == b->microbatch)
				fail_msg("stage %d of %d: the receive at %lld is waited for at once", s, job->stages,
					 (long long)i - 1);
		}
	}
}

static void messages_move_under_the_pass_before(void **state)
{
	for_all_jobs(check_ahead);
}

static void check_in_flight(const struct job *job)
{
	for (int s = 0; s < job->stages; s++) {
		int64_t live = 0, most = 0, want = job->stages - s < job->microbatches ? job->stages - s : job->microbatches;

		for (int64_t i = 0; i < job->lists[s].count; i++) {
			enum mt_action_kind kind = job->lists[s].actions[i].kind;

			live += (kind == MT_FORWARD) - (kind == MT_BACKWARD);
			most = live > most ? live : most;
		}
		if (live != 0 || most != want || job->lists[s].in_flight != want)
			fail_msg("stage %d of %d, %lld micro-batches: %lld in flight, said %lld, expected %lld", s, job->stages,
				 (long long)job->microbatches, (long long)most, (long long)job->lists[s].in_flight,
				 (long long)want);
	}
}

static void in_flight_is_the_distance_from_the_end(void **state)
{
	for_all_jobs(check_in_flight);
}

/* The executor: messages of one direction between two stages are a queue; a posted receive takes the next one of it. */
struct queue {
	int64_t sent[MOST_MICROBATCHES];
	int64_t count;
};

struct runner {
	int64_t next;                        /* action */
	int64_t posted[2];                   /* receives of each direction */
	int64_t order[2][MOST_MICROBATCHES]; /* micro-batches of the receives posted */
};

static bool pass_can_run(const struct runner *r, const struct queue *from, int direction, int64_t microbatch)
{
	int64_t place = -1;

	for (int64_t i = 0; i < r->posted[direction]; i++) {
		if (r->order[direction][i] == microbatch)
			place = i;
	}
	if (place < 0)
		fail_msg("micro-batch %lld runs in direction %d without a receive", (long long)microbatch, direction);
	if (place >= from->count)
		return false;
	/* the i-th message sent is the i-th received */
	if (from->sent[place] != microbatch)
		fail_msg("direction %d: message %lld is of micro-batch %lld, the receive is for %lld", direction, (long long)place,
			 (long long)from->sent[place], (long long)microbatch);
	return true;
}

/* Runs a stage until it blocks; returns whether it moved. */
static bool advance(const struct job *job, int s, struct runner *r, struct queue (*queues)[MOST_STAGES])
{
	int64_t began = r->next;

	for (; r->next < job->lists[s].count; r->next++) {
		const struct mt_action *a = &job->lists[s].actions[r->next];
		int backward = a->kind >= MT_RECV_BACKWARD;
		bool outer = backward ? s == job->stages - 1 : s == 0;

		if (a->kind == MT_RECV_FORWARD || a->kind == MT_RECV_BACKWARD)
			r->order[backward][r->posted[backward]++] = a->microbatch;
		else if (a->kind == MT_SEND_FORWARD || a->kind == MT_SEND_BACKWARD)
			queues[backward][s].sent[queues[backward][s].count++] = a->microbatch;
		else if (!outer && !pass_can_run(r, &queues[backward][backward ? s + 1 : s - 1], backward, a->microbatch))
			break;
	}
	return r->next > began;
}

static void check_progress(const struct job *job)
{
	struct runner runners[MOST_STAGES];
	struct queue queues[2][MOST_STAGES]; /* by direction and sender */
	bool moved = true;

	memset(runners, 0, sizeof runners);
	memset(queues, 0, sizeof queues);
	while (moved) {
		moved = false;
		for (int s = 0; s < job->stages; s++)
			moved |= advance(job, s, &runners[s], queues);
	}
	for (int s = 0; s < job->stages; s++) {
		if (runners[s].next != job->lists[s].count)
			fail_msg("%d stages, %lld micro-batches: stage %d is stuck at action %lld of %lld", job->stages,
				 (long long)job->microbatches, s, (long long)runners[s].next, (long long)job->lists[s].count);
		assert_int_equal(queues[0][s].count, s < job->stages - 1 ? job->microbatches : 0);
		assert_int_equal(queues[1][s].count, s > 0 ? job->microbatches : 0);
	}
}

static void messages_match_and_nobody_is_stuck(void **state)
{
	for_all_jobs(check_progress);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_pass_runs_once_and_backward_follows_forward),
		cmocka_unit_test(receives_are_posted_before_the_pass_that_needs_them),
		cmocka_unit_test(messages_move_under_the_pass_before),
		cmocka_unit_test(in_flight_is_the_distance_from_the_end),
		cmocka_unit_test(messages_match_and_nobody_is_stuck),
	};
	return cmocka_run_group_tests_name("engine schedule", tests, NULL, NULL);
}
