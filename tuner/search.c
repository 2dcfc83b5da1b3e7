/* search: all layouts by cards, the best of them by dry run. */
#include "tuner/session.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/process.h"
#include "base/progress.h"
#include "tuner/memory.h"
#include "tuner/placed.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Why nothing is left: the rules that rejected layouts, most frequent first, as far as the message holds. */
static enum mt_status nothing_left(const struct mt_session *s)
{
	char text[900] = "";
	size_t used = 0;
	int64_t last = INT64_MAX;

	for (;;) {
		int64_t most = 0;
		int rule = -1;

		for (int i = 0; i < mt_space_rule_count(); i++) {
			if (s->space.rejected[i] > most && s->space.rejected[i] < last) {
				most = s->space.rejected[i];
				rule = i;
			}
		}
		if (rule < 0 || used + 160 > sizeof text)
			break;
		used += (size_t)snprintf(text + used, sizeof text - used, "%s %s (%lld layouts)", used ? ";" : "",
					 mt_space_rule_text(rule), (long long)most);
		last = most;
	}
	return mt_fail(MT_INPUT, "%s on %d ranks with %lld sequences a step: no layout keeps every rule:%s; change --gpus or --gbs",
		       s->model.name, s->world, (long long)s->base.gbs, text);
}

/* What is less than a tenth above what a rank has is kept until its dry run. */
static int64_t with_slack(int64_t bytes)
{
	return bytes + bytes / 10;
}

static enum mt_status cost_all(struct mt_session *s, struct mt_card_cache *const *caches)
{
	for (int i = 0; i < s->space.count; i++) {
		struct mt_cost_model *cost = mt_session_cost(s, s->space.candidates[i].layout.threads);

		MT_TRY(mt_predict_card_time(&s->space.candidates[i], &s->model, cost, caches[cost - s->costs],
					    with_slack(s->machine.rank_memory_bytes),
					    with_slack(mt_machine_device_bytes(&s->machine))));
	}
	return MT_OK;
}

static void drop_large(struct mt_session *s)
{
	mt_space_drop_large(&s->space, with_slack(s->machine.rank_memory_bytes), with_slack(mt_machine_device_bytes(&s->machine)));
}

/* The memory of layouts of which it is not clear whether they fit, and of the best of those that do, which are shown. */
static enum mt_status count_memory(struct mt_session *s, struct mt_card_cache *const *caches)
{
	int64_t shown = MT_LISTED + s->options.dry_runs + s->options.top;
	bool counted = true;

	while (counted) {
		counted = false;
		for (int i = 0; i < s->space.count; i++) {
			struct mt_candidate *c = &s->space.candidates[i];
			struct mt_cost_model *cost = mt_session_cost(s, c->layout.threads);

			if (c->stage || (i >= shown && c->room == MT_ROOM_PLENTY))
				continue;
			MT_TRY(mt_predict_card_memory(c, &s->model, cost, caches[cost - s->costs]));
			counted = true;
		}
		drop_large(s);
	}
	return MT_OK;
}

/* A candidate's layout cut so that all stages take as long; kept where that is faster. */
static enum mt_status balance(struct mt_session *s, const struct mt_candidate *even, struct mt_card_cache *const *caches)
{
	struct mt_cost_model *cost = mt_session_cost(s, even->layout.threads);
	struct mt_card_cache *cache = caches[cost - s->costs];
	struct mt_candidate cut = {.layout = even->layout};
	double even_s = even->step_s;
	enum mt_status st;

	MT_TRY(mt_predict_balanced(&cut.layout, &s->model, cost, cache));
	if (!cut.layout.stage_layers[0] || mt_layout_first_broken(&s->model, &cut.layout) >= 0)
		return MT_OK;
	st = mt_predict_card(&cut, &s->model, cost, cache);
	if (st == MT_OK && even->launcher_s > 0)
		st = mt_placed_alike(s, &cut, even);
	if (st == MT_OK && cut.step_s < even_s) {
		s->space.considered++;
		st = mt_space_add(&s->space, &cut);
		if (st == MT_OK)
			return MT_OK;
	}
	free(cut.rank_order);
	free(cut.stage);
	return st;
}

/* Of as many of the best as are dry run. Given ends are left alone: what is asked for is listed. */
static enum mt_status balance_best(struct mt_session *s, struct mt_card_cache *const *caches)
{
	int count = s->options.dry_runs < s->space.count ? (int)s->options.dry_runs : s->space.count;

	for (int i = 0; i < count; i++) {
		const struct mt_layout *l = &s->space.candidates[i].layout;

		if (l->pp > 1 && l->first_layers == 0 && l->last_layers == 0)
			MT_TRY(balance(s, &s->space.candidates[i], caches));
	}
	mt_space_sort(&s->space);
	return MT_OK;
}

/* Every layout by cards, sorted, without those that are clearly too large. */
static enum mt_status cost_by_cards(struct mt_session *s)
{
	struct mt_card_cache *caches[MT_THREAD_CHOICES] = {NULL};
	bool balanced = s->options.stage_layers == MT_CUTS_BALANCED ||
			(s->options.stage_layers == MT_CUTS_AUTO && s->options.search == MT_SEARCH_WHOLE);
	enum mt_status st = MT_OK;

	for (int k = 0; k < s->thread_choices; k++)
		MT_GOTO(out, mt_card_cache_create(&caches[k]));
	MT_GOTO(out, cost_all(s, caches));
	drop_large(s);
	mt_space_sort(&s->space);
	MT_GOTO(out, mt_placed_search(s));
	MT_GOTO(out, count_memory(s, caches));
	if (!balanced)
		goto out;
	MT_GOTO(out, balance_best(s, caches));
	drop_large(s);
out:
	for (int k = 0; k < s->thread_choices; k++)
		mt_card_cache_destroy(caches[k]);
	return st;
}

static enum mt_status dry_run_best(struct mt_session *s)
{
	struct mt_progress progress;
	int count = s->options.dry_runs < s->space.count ? (int)s->options.dry_runs : s->space.count;

	mt_progress_start(&progress, "dry run", count);
	for (int i = 0; i < count && !mt_process_interrupted(); i++) {
		struct mt_candidate *c = &s->space.candidates[i];
		enum mt_status st = mt_placed_dry_run(s, c);

		if (st != MT_OK) {
			mt_progress_finish(&progress);
			return st;
		}
		mt_progress_advance(&progress, 1, NULL);
	}
	mt_progress_finish(&progress);
	return MT_OK;
}

enum mt_status mt_search(struct mt_session *session)
{
	double start_s = mt_clock_s();
	int64_t host_bytes = session->machine.rank_memory_bytes, device_bytes = mt_machine_device_bytes(&session->machine);
	int64_t threads[MT_THREAD_CHOICES];

	for (int i = 0; i < session->thread_choices; i++)
		threads[i] = session->costs[i].threads;
	MT_TRY(mt_space_enumerate(&session->space, &session->model, &session->base, session->world, threads,
				  session->thread_choices, &session->axes));
	if (session->space.count == 0)
		return nothing_left(session);
	MT_TRY(cost_by_cards(session));
	MT_TRY(dry_run_best(session));
	mt_space_drop_large(&session->space, host_bytes, device_bytes);
	if (session->space.count == 0)
		return nothing_left(session);
	mt_space_sort(&session->space);
	mt_session_phase(session, "search", start_s);
	return MT_OK;
}

/* On a copy of the candidate: the figures that were compared stay. */
static enum mt_status trace_choice(struct mt_session *s, const struct mt_candidate *choice)
{
	struct mt_candidate copy = {.layout = choice->layout};
	struct mt_placed placed;
	enum mt_status st;

	s->timeline_count = (int)choice->layout.pp;
	s->timeline = calloc((size_t)s->timeline_count, sizeof(struct mt_trace *));
	if (!s->timeline)
		return mt_fail(MT_NOMEM, "no memory for the timeline");
	MT_TRY(mt_placed_open(&placed, s, choice));
	st = mt_predict_dry(&copy, &s->model, placed.cost, s->timeline);
	mt_placed_close(&placed);
	free(copy.stage);
	return st;
}

enum mt_status mt_choose(struct mt_session *session)
{
	const struct mt_candidate *best = &session->space.candidates[0], *next = best + 1;
	int count = session->space.count, measured = 0, failed = 0;
	size_t bytes = sizeof session->reason;

	for (int i = 0; i < count; i++) {
		failed += session->space.candidates[i].failed;
		measured += session->space.candidates[i].run && !session->space.candidates[i].failed;
	}
	if (failed == count) {
		snprintf(session->reason, bytes, "all %d layouts were run and failed", failed);
		return MT_OK;
	}
	session->choice = 0;
	if (measured > 1)
		snprintf(session->reason, bytes, "fastest of %d measured layouts, %.2f times the next", measured,
			 next->measured_s / best->measured_s);
	else if (measured == 1)
		snprintf(session->reason, bytes, "the one layout that was measured");
	else if (failed > 0)
		snprintf(session->reason, bytes, "fastest of %d by prediction; %d were run and failed", count - failed, failed);
	else
		snprintf(session->reason, bytes, "fastest of %d by prediction; none was run", count);
	return trace_choice(session, best);
}
