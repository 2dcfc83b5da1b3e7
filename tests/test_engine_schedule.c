/* Pipeline schedules for all kinds, up to 8 stages, 4 chunks and 17 micro-batches: held against their definitions, and run by an
 * executor with the engine's rules for messages: a receive is under way when those posted before it in its direction are over, a
 * message passes when its send has begun and its receive is under way, a send waits for the oldest when too many are on
 * their way. */
#include "engine/schedule.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MOST_STAGES = 8, MOST_CHUNKS = 4, MOST_MICROBATCHES = 64, MOST_MESSAGES = MOST_CHUNKS * MOST_MICROBATCHES };

struct job {
	struct mt_schedule_shape shape;
	struct mt_action_list lists[MOST_STAGES];
};

static char *text(const struct job *job)
{
	static char buf[128];

	snprintf(buf, sizeof buf, "kind %d, %d stages, %d chunks, %lld micro-batches in groups of %lld", (int)job->shape.kind,
		 job->shape.stages, job->shape.chunks, (long long)job->shape.microbatches, (long long)job->shape.group);
	return buf;
}

static void with_job(const struct mt_schedule_shape *shape, void (*check)(const struct job *job))
{
	struct job job = {.shape = *shape};

	for (int s = 0; s < shape->stages; s++)
		assert_int_equal(mt_schedule_create(&job.lists[s], shape, s), MT_OK);
	check(&job);
	for (int s = 0; s < shape->stages; s++)
		mt_schedule_free(&job.lists[s]);
}

/* The rule of layouts: of the last group pp or more are left. */
static bool groups_fit(int64_t microbatches, int64_t group, int stages)
{
	if (group < 1 || group < stages || microbatches < group)
		return false;
	return microbatches % group == 0 || microbatches % group >= stages;
}

static void for_kind(enum mt_schedule kind, int chunks, int64_t group, void (*check)(const struct job *job))
{
	static const int64_t microbatches[] = {1, 2, 3, 4, 5, 7, 8, 9, 12, 16, 17};

	for (int p = chunks > 1 ? 2 : 1; p <= MOST_STAGES; p++) {
		for (size_t i = 0; i < sizeof microbatches / sizeof *microbatches; i++) {
			struct mt_schedule_shape shape = {kind, p, chunks, microbatches[i], group};

			if (kind == MT_SCHEDULE_1F1B && chunks > 1 && !groups_fit(microbatches[i], group > 0 ? group : p, p))
				continue;
			with_job(&shape, check);
		}
	}
}

static void for_all_jobs(void (*check)(const struct job *job))
{
	for_kind(MT_SCHEDULE_1F1B, 1, 0, check);
	for (int chunks = 2; chunks <= MOST_CHUNKS; chunks++)
		for_kind(MT_SCHEDULE_1F1B, chunks, 0, check);
	for (int64_t group = 2; group <= 16; group *= 2)
		for_kind(MT_SCHEDULE_1F1B, 2, group, check);
	for_kind(MT_SCHEDULE_1F1B, 3, 8, check);
	for_kind(MT_SCHEDULE_ZB_H1, 1, 0, check);
	for_kind(MT_SCHEDULE_ZB_V, 2, 0, check);
}

/* Index of an action, -1 when it is not there; fails when it is there twice. */
static int64_t place_of(const struct job *job, int stage, enum mt_action_kind kind, int chunk, int64_t microbatch)
{
	const struct mt_action_list *list = &job->lists[stage];
	int64_t found = -1;

	for (int64_t i = 0; i < list->count; i++) {
		const struct mt_action *a = &list->actions[i];

		if (a->kind != kind || a->chunk != chunk || a->microbatch != microbatch)
			continue;
		if (found >= 0)
			fail_msg("%s: stage %d has action %d of micro-batch %lld twice", text(job), stage, kind,
				 (long long)microbatch);
		found = i;
	}
	return found;
}

static int64_t must_have(const struct job *job, int stage, enum mt_action_kind kind, int chunk, int64_t microbatch)
{
	int64_t place = place_of(job, stage, kind, chunk, microbatch);

	if (place < 0)
		fail_msg("%s: stage %d has no action %d of micro-batch %lld, chunk %d", text(job), stage, kind,
			 (long long)microbatch, chunk);
	return place;
}

/* What one stage gets alone is what it gets with all others. */
static void check_together(const struct job *job)
{
	struct mt_action_list all[MOST_STAGES];

	assert_int_equal(mt_schedule_create_all(all, &job->shape), MT_OK);
	for (int s = 0; s < job->shape.stages; s++) {
		const struct mt_action_list *one = &job->lists[s];

		if (all[s].count != one->count || all[s].in_flight != one->in_flight || all[s].sends != one->sends)
			fail_msg("%s: stage %d has %lld actions alone, %lld with the others", text(job), s, (long long)one->count,
				 (long long)all[s].count);
		for (int64_t i = 0; i < one->count; i++) {
			const struct mt_action *a = &all[s].actions[i], *b = &one->actions[i];

			if (a->kind != b->kind || a->chunk != b->chunk || a->microbatch != b->microbatch)
				fail_msg("%s: action %lld of stage %d is another with the others", text(job), (long long)i, s);
		}
		mt_schedule_free(&all[s]);
	}
}

static void all_stages_at_once_are_each_alone(void **state)
{
	for_all_jobs(check_together);
}

static void places_and_virtual_stages_are_inverse(void **state)
{
	static const enum mt_schedule kinds[] = {MT_SCHEDULE_1F1B, MT_SCHEDULE_ZB_H1, MT_SCHEDULE_ZB_V};

	for (int i = 0; i < 3; i++) {
		for (int p = 1; p <= MOST_STAGES; p++) {
			for (int v = 0; v < 2 * p; v++) {
				int stage, chunk;

				mt_schedule_place(kinds[i], p, v, &stage, &chunk);
				assert_in_range(stage, 0, p - 1);
				assert_int_equal(mt_schedule_virtual(kinds[i], p, stage, chunk), v);
			}
		}
	}
}

/* Every pass once, in order; messages around them, and no others. */
static void check_stage(const struct job *job, int s)
{
	const struct mt_schedule_shape *shape = &job->shape;
	bool put_off = mt_schedule_puts_off(shape->kind, s), first = put_off && shape->kind == MT_SCHEDULE_ZB_H1;
	int64_t messages = 0, passes = 2 + put_off + first;

	for (int c = 0; c < shape->chunks; c++) {
		int v = mt_schedule_virtual(shape->kind, shape->stages, s, c), before = -1, after = -1, other;

		if (v > 0)
			mt_schedule_place(shape->kind, shape->stages, v - 1, &before, &other);
		if (v < shape->stages * shape->chunks - 1)
			mt_schedule_place(shape->kind, shape->stages, v + 1, &after, &other);
		for (int64_t k = 0; k < shape->microbatches; k++) {
			int64_t forward = must_have(job, s, MT_FORWARD, c, k), backward = must_have(job, s, MT_BACKWARD, c, k);

			assert_true(forward < backward);
			if (put_off)
				assert_true(backward < must_have(job, s, MT_WGRAD, c, k));
			if (first) {
				assert_true(backward < must_have(job, s, MT_WGRAD_FIRST, c, k));
				assert_true(must_have(job, s, MT_WGRAD_FIRST, c, k) < must_have(job, s, MT_WGRAD, c, k));
			}
			if (before >= 0 && before != s) {
				assert_true(must_have(job, s, MT_RECV_FORWARD, c, k) < forward);
				assert_true(must_have(job, s, MT_SEND_BACKWARD, c, k) > backward);
				messages += 2;
			}
			if (after >= 0 && after != s) {
				assert_true(must_have(job, s, MT_RECV_BACKWARD, c, k) < backward);
				assert_true(must_have(job, s, MT_SEND_FORWARD, c, k) > forward);
				messages += 2;
			}
		}
	}
	assert_int_equal(job->lists[s].count, passes * shape->microbatches * shape->chunks + messages);
}

static void check_stages(const struct job *job)
{
	for (int s = 0; s < job->shape.stages; s++)
		check_stage(job, s);
}

static void every_pass_runs_once_with_its_messages(void **state)
{
	for_all_jobs(check_stages);
}

/* A receive is posted before the pass in front of the one that needs it. Only the very first pass has none in front. */
static void check_ahead(const struct job *job)
{
	for (int s = 0; s < job->shape.stages; s++) {
		const struct mt_action_list *list = &job->lists[s];

		for (int64_t i = 2; i < list->count; i++) {
			const struct mt_action *a = &list->actions[i - 1], *b = &list->actions[i];
			bool own = (a->kind == MT_RECV_FORWARD && b->kind == MT_FORWARD) ||
				   (a->kind == MT_RECV_BACKWARD && b->kind == MT_BACKWARD);

			if (own && a->microbatch == b->microbatch && a->chunk == b->chunk)
				fail_msg("%s: stage %d waits at once for the receive at %lld", text(job), s, (long long)i - 1);
		}
	}
}

static void messages_move_under_the_pass_before(void **state)
{
	for_all_jobs(check_ahead);
}

/* Gradients are reduced when the last micro-batch's pass has finished a chunk: no other may come after it, and chunks must finish
 * from the last to the first. */
static void check_completion(const struct job *job)
{
	int64_t last = job->shape.microbatches - 1;

	for (int s = 0; s < job->shape.stages; s++) {
		enum mt_action_kind kind = mt_schedule_puts_off(job->shape.kind, s) ? MT_WGRAD : MT_BACKWARD;

		for (int c = 0; c < job->shape.chunks; c++) {
			int64_t place = must_have(job, s, kind, c, last);

			for (int64_t k = 0; k < last; k++)
				assert_true(must_have(job, s, kind, c, k) < place);
			if (c > 0)
				assert_true(place < must_have(job, s, kind, c - 1, last));
		}
	}
}

static void the_last_microbatch_completes_chunks_from_the_end(void **state)
{
	for_all_jobs(check_completion);
}

static void check_1f1b_in_flight(const struct job *job)
{
	for (int s = 0; s < job->shape.stages; s++) {
		int64_t want = job->shape.stages - s;

		want = want < job->shape.microbatches ? want : job->shape.microbatches;
		assert_int_equal(job->lists[s].in_flight, want);
	}
}

static void in_flight_of_1f1b_is_the_distance_from_the_end(void **state)
{
	for_kind(MT_SCHEDULE_1F1B, 1, 0, check_1f1b_in_flight);
}

static void check_zero_bubble_in_flight(const struct job *job)
{
	for (int s = 0; s < job->shape.stages; s++)
		assert_in_range(job->lists[s].in_flight, 1, job->shape.stages * job->shape.chunks);
}

static void zero_bubble_holds_no_more_than_the_first_stage_of_1f1b(void **state)
{
	for_kind(MT_SCHEDULE_ZB_H1, 1, 0, check_zero_bubble_in_flight);
	for_kind(MT_SCHEDULE_ZB_V, 2, 0, check_zero_bubble_in_flight);
}

/* The executor. By lane, which is a direction and, in a V, a side. A message is named by the virtual stage that takes it. */
struct runner {
	int64_t next;
	int64_t posted[MT_SCHEDULE_LANES], arrived[MT_SCHEDULE_LANES]; /* receives: in order */
	int receive_virtual[MT_SCHEDULE_LANES][MOST_MESSAGES];
	int64_t receive_microbatch[MT_SCHEDULE_LANES][MOST_MESSAGES];
	int64_t began[MT_SCHEDULE_LANES], over[MT_SCHEDULE_LANES]; /* sends: in order */
	int send_virtual[MT_SCHEDULE_LANES][MOST_MESSAGES];
	int64_t send_microbatch[MT_SCHEDULE_LANES][MOST_MESSAGES];
};

/* Messages that can pass do. A channel is a pair of ranks and a direction: the next sent on it must be the next received. */
static bool deliver(const struct job *job, struct runner *runners)
{
	bool moved = false;

	for (int s = 0; s < job->shape.stages; s++) {
		for (int d = 0; d < MT_SCHEDULE_LANES; d++) {
			struct runner *to = &runners[s];
			int from_stage, chunk, wanted;
			struct runner *from;

			if (to->arrived[d] == to->posted[d])
				continue;
			wanted = to->receive_virtual[d][to->arrived[d]];
			mt_schedule_place(job->shape.kind, job->shape.stages, wanted + (d >= 2 ? 1 : -1), &from_stage, &chunk);
			from = &runners[from_stage];
			if (from->over[d] == from->began[d])
				continue;
			mt_schedule_place(job->shape.kind, job->shape.stages, from->send_virtual[d][from->over[d]], &from_stage,
					  &chunk);
			if (from_stage != s)
				continue;
			if (from->send_virtual[d][from->over[d]] != wanted ||
			    from->send_microbatch[d][from->over[d]] != to->receive_microbatch[d][to->arrived[d]])
				fail_msg("%s: stage %d takes a message for another", text(job), s);
			from->over[d]++;
			to->arrived[d]++;
			moved = true;
		}
	}
	return moved;
}

static bool has_arrived(const struct runner *r, int d, int virtual_stage, int64_t microbatch)
{
	for (int64_t i = 0; i < r->posted[d]; i++) {
		if (r->receive_virtual[d][i] == virtual_stage && r->receive_microbatch[d][i] == microbatch)
			return i < r->arrived[d];
	}
	return true; /* needs none */
}

/* One action, when it can run. */
static bool step(const struct job *job, int s, struct runner *r)
{
	const struct mt_action *a = &job->lists[s].actions[r->next];
	int v = mt_schedule_virtual(job->shape.kind, job->shape.stages, s, a->chunk);
	int d = mt_schedule_lane(job->shape.kind, a);

	switch (a->kind) {
	case MT_RECV_FORWARD:
	case MT_RECV_BACKWARD:
		r->receive_virtual[d][r->posted[d]] = v;
		r->receive_microbatch[d][r->posted[d]++] = a->microbatch;
		break;
	case MT_SEND_FORWARD:
	case MT_SEND_BACKWARD:
		if (r->began[d] - r->over[d] >= job->lists[s].sends)
			return false;
		r->send_virtual[d][r->began[d]] = v + (d >= 2 ? -1 : 1);
		r->send_microbatch[d][r->began[d]++] = a->microbatch;
		break;
	case MT_FORWARD:
	case MT_BACKWARD:
		if (!has_arrived(r, d, v, a->microbatch))
			return false;
		break;
	case MT_WGRAD_FIRST:
	case MT_WGRAD:
		break;
	}
	r->next++;
	return true;
}

static void check_progress(const struct job *job)
{
	static struct runner runners[MOST_STAGES];
	bool moved = true;

	memset(runners, 0, sizeof runners);
	while (moved) {
		moved = deliver(job, runners);
		for (int s = 0; s < job->shape.stages; s++) {
			while (runners[s].next < job->lists[s].count && step(job, s, &runners[s]))
				moved = true;
		}
	}
	for (int s = 0; s < job->shape.stages; s++) {
		if (runners[s].next != job->lists[s].count)
			fail_msg("%s: stage %d is stuck at action %lld of %lld", text(job), s, (long long)runners[s].next,
				 (long long)job->lists[s].count);
		for (int d = 0; d < MT_SCHEDULE_LANES; d++) {
			assert_int_equal(runners[s].arrived[d], runners[s].posted[d]);
			assert_int_equal(runners[s].over[d], runners[s].began[d]);
		}
	}
}

static void messages_match_and_nobody_is_stuck(void **state)
{
	for_all_jobs(check_progress);
}

/* What a pass of a chunk takes in ticks, forward, input gradients and weight gradients alike, and the first product of the latter:
 * that of a quarter of a layer and four layers, as GPT's has it. */
enum { PASS = 12, FIRST = 1 };

static int64_t pass_ticks(const struct job *job, int stage, enum mt_action_kind kind)
{
	enum mt_schedule schedule = job->shape.kind;

	if (kind == MT_BACKWARD)
		return mt_schedule_puts_off(schedule, stage) ? PASS : 2 * PASS;
	if (kind == MT_WGRAD)
		return schedule == MT_SCHEDULE_ZB_H1 ? PASS - FIRST : PASS;
	return kind == MT_FORWARD ? PASS : kind == MT_WGRAD_FIRST ? FIRST : 0;
}

/* Ticks of a step when messages take none. */
static int64_t ticks(const struct job *job)
{
	static int64_t over[2][MOST_STAGES * MOST_CHUNKS][MOST_MICROBATCHES];
	int64_t now[MOST_STAGES] = {0}, next[MOST_STAGES] = {0}, most = 0;
	bool moved = true;
	int parts = job->shape.stages * job->shape.chunks;

	memset(over, -1, sizeof over);
	while (moved) {
		moved = false;
		for (int s = 0; s < job->shape.stages; s++) {
			for (; next[s] < job->lists[s].count; next[s]++) {
				const struct mt_action *a = &job->lists[s].actions[next[s]];
				int v = mt_schedule_virtual(job->shape.kind, job->shape.stages, s, a->chunk), d, source;
				int64_t ready = 0;

				if (a->kind != MT_FORWARD && a->kind != MT_BACKWARD) {
					now[s] += pass_ticks(job, s, a->kind);
					moved = true;
					continue;
				}
				d = a->kind == MT_BACKWARD;
				source = v + (d ? 1 : -1);
				if (source >= 0 && source < parts)
					ready = over[d][source][a->microbatch];
				if (ready < 0)
					break;
				now[s] = (ready > now[s] ? ready : now[s]) + pass_ticks(job, s, a->kind);
				over[d][v][a->microbatch] = now[s];
				moved = true;
			}
		}
	}
	for (int s = 0; s < job->shape.stages; s++)
		most = now[s] > most ? now[s] : most;
	return most;
}

/* Idle ticks of the busiest possible step, for p = 8 and m = 32. */
static int64_t bubble_ticks;

static void take_bubble(const struct job *job)
{
	bubble_ticks = ticks(job) - 3 * PASS * job->shape.microbatches * job->shape.chunks;
}

static void bubbles_are_those_of_the_papers(void **state)
{
	enum { P = 8, M = 32 };
	const struct {
		struct mt_schedule_shape shape;
		int64_t most;
	} cases[] = {
		/* (p-1)(F+B+W) whatever the chunks, whose passes are a v-th as long */
		{{MT_SCHEDULE_1F1B, P, 1, M, 0}, 3 * PASS * (P - 1)},
		{{MT_SCHEDULE_1F1B, P, 2, M, 0}, 3 * PASS * (P - 1)},
		{{MT_SCHEDULE_1F1B, P, 4, M, 0}, 3 * PASS * (P - 1)},
		/* (p-1)(F+B-W), and the product that goes before a forward pass, once */
		{{MT_SCHEDULE_ZB_H1, P, 1, M, 0}, PASS * (P - 1) + FIRST},
		/* the way of the first micro-batch to the last rank, in passes of half a stage */
		{{MT_SCHEDULE_ZB_V, P, 2, M, 0}, PASS * (P - 1)},
	};

	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		with_job(&cases[i].shape, take_bubble);
		if (bubble_ticks != cases[i].most)
			fail_msg("kind %d, %d chunks: %lld idle ticks, the paper has %lld", (int)cases[i].shape.kind,
				 cases[i].shape.chunks, (long long)bubble_ticks, (long long)cases[i].most);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(places_and_virtual_stages_are_inverse),
		cmocka_unit_test(all_stages_at_once_are_each_alone),
		cmocka_unit_test(every_pass_runs_once_with_its_messages),
		cmocka_unit_test(messages_move_under_the_pass_before),
		cmocka_unit_test(the_last_microbatch_completes_chunks_from_the_end),
		cmocka_unit_test(in_flight_of_1f1b_is_the_distance_from_the_end),
		cmocka_unit_test(zero_bubble_holds_no_more_than_the_first_stage_of_1f1b),
		cmocka_unit_test(messages_match_and_nobody_is_stuck),
		cmocka_unit_test(bubbles_are_those_of_the_papers),
	};
	return cmocka_run_group_tests_name("engine schedule", tests, NULL, NULL);
}
