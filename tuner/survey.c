/* survey: best first. Groups of nodes, and the nodes of groups that were opened, come in the order of a bound below their times, so
 * the best is found early and most of what follows is told by its bound alone. What may be skipped is what no answer can hold:
 *
 *   memory   the least of the node is more than an accelerator has
 *   time     the bound is above the last of the best, and the front has a layout with less time and no more memory
 *
 * Threads take blocks of nodes and bring together what they found after each; what is kept does not depend on who found it, only
 * how much was pruned does. */
#include "tuner/survey_space.h"

#include "base/clock.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 64 };

struct shared {
	const struct mt_survey_query *query;
	struct mt_survey_space *space; /* its queue: under the lock */
	struct mt_survey *survey;
	double start_s;
	atomic_int stopped; /* the time is over, or a worker failed */
	pthread_mutex_t lock;
};

struct worker {
	struct shared *shared;
	struct mt_survey mine; /* what this one counted and found, and of the others as of the last block */
	struct mt_survey_allowed *allowed;
	struct mt_survey_tally tally;
	struct mt_survey_cards cards; /* of the node at hand */
	struct mt_survey_node taken[BLOCK];
	struct mt_survey_node *found; /* owned: nodes of a group */
	struct mt_vee *waits;         /* owned: of ZB-V, what was replayed */
	enum mt_status status;
	char message[200];
};

void mt_survey_default(struct mt_survey_query *query)
{
	memset(query, 0, sizeof *query);
	query->factors = mt_factors_none;
	memset(&query->fixed, 0xff, sizeof query->fixed); /* -1 each */
	query->top = 20;
	query->jobs = 1;
	query->bounded = true;
}

void mt_survey_free(struct mt_survey *survey)
{
	free(survey->best.points);
	free(survey->front.points);
	free(survey->rejected);
	memset(survey, 0, sizeof *survey);
}

static enum mt_status keep(struct mt_survey *s, const struct mt_survey_query *q, const struct mt_survey_layout *layout,
			   const struct mt_forecast *f)
{
	struct mt_survey_point point = {*layout, f->step_s, f->peak_bytes};

	s->evaluated++;
	if (f->peak_bytes > q->memory_bytes) {
		s->least_bytes = fmin(s->least_bytes, f->peak_bytes);
		s->too_large++;
		return MT_OK;
	}
	MT_TRY(mt_survey_best_add(&s->best, &point, q->top));
	return mt_survey_front_add(&s->front, &point);
}

/* Of a node with one recompute: all shards of the chunks at `at`. The first one evaluated gives the time of the passes, below that
 * of the others; *passes_s. */
static enum mt_status visit_shards(struct worker *w, const struct mt_survey_node *node, struct mt_case *c,
				   const struct mt_forecast_cards *mix, double share, struct mt_survey_layout at, double *passes_s)
{
	const struct mt_survey_query *q = w->shared->query;
	const struct mt_survey_choice *shards = w->allowed->shards[at.schedule];
	int count = w->allowed->shard_count[at.schedule];
	struct mt_forecast f;

	for (int i = 0; i < count; i++) {
		if (mt_survey_hopeless(&w->mine, q, *passes_s, node->least_bytes)) {
			w->mine.pruned_time += count - i;
			return MT_OK;
		}
		c->zero = at.zero = shards[i].a;
		c->zero_group = at.zero_group = shards[i].b;
		at.rank_order = shards[i].c;
		c->pp_before_dp = at.rank_order == MT_RANKS_PP_DP;
		mt_survey_compose(&f, q, c, w->cards.whole_bytes, mix, share);
		MT_TRY(keep(&w->mine, q, &at, &f));
		*passes_s = mt_survey_passes_s(&f);
	}
	return MT_OK;
}

/* All layouts of a node with one recompute. */
static enum mt_status visit_recompute(struct worker *w, const struct mt_survey_node *node, struct mt_survey_layout at)
{
	const struct mt_survey_query *q = w->shared->query;
	struct mt_survey_choice chunks[MT_SURVEY_CHUNK_CHOICES];
	int count, kind = mt_survey_recompute_index(q->stack, at.recompute, at.selected);
	int64_t left = mt_survey_allow_chunks(chunks, &count, w->allowed, w->mine.rejected, at);
	double share = at.recompute == MT_CASE_NONE ? 1 : (double)at.recompute_layers / mt_survey_stage_layers(q, &at);
	double passes_s = node->least_s;
	bool vee = false;
	struct mt_forecast_cards mix;
	struct mt_case c;

	if (left == 0)
		return MT_OK;
	if (mt_survey_hopeless(&w->mine, q, node->least_s, node->least_bytes)) {
		w->mine.pruned_time += left;
		return MT_OK;
	}
	mt_survey_mix(&mix, &w->cards.kinds[0], &w->cards.kinds[kind], share);
	mt_survey_case(&c, q, &at);
	c.waits = w->waits;
	for (int i = 0; i < count; i++) {
		at.schedule = chunks[i].a;
		c.zero_bubble = at.schedule == MT_SURVEY_ZB_H1;
		c.vee = at.schedule == MT_SURVEY_ZB_V;
		c.vp = at.vp = chunks[i].b;
		if (q->model.expert_every > 1 || c.vee || vee) /* other chunks have other layers, other stages the ends */
			passes_s = node->least_s;
		vee = c.vee;
		MT_TRY(visit_shards(w, node, &c, &mix, share, at, &passes_s));
	}
	return MT_OK;
}

static enum mt_status visit(struct worker *w, const struct mt_survey_node *node)
{
	const struct mt_survey_query *q = w->shared->query;
	struct mt_survey_layout at = node->layout;

	if (mt_survey_hopeless(&w->mine, q, node->least_s, node->least_bytes))
		return mt_survey_tally_add(&w->tally, node, false);
	MT_TRY(mt_survey_allow(w->allowed, w->mine.rejected, &at));
	mt_survey_cards_make(&w->cards, q, &at, node->parts);
	for (int i = 0; i < w->allowed->inner->recompute_count; i++) {
		at.recompute = w->allowed->inner->recompute[i].a;
		at.recompute_layers = w->allowed->inner->recompute[i].b;
		at.selected = w->allowed->inner->recompute[i].c;
		MT_TRY(visit_recompute(w, node, at));
	}
	return MT_OK;
}

/* A group's nodes that are left: into the queue. */
static enum mt_status open_group(struct worker *w, const struct mt_survey_node *group)
{
	struct shared *s = w->shared;
	enum mt_status st = MT_OK;
	int count;

	MT_TRY(mt_survey_expand(w->found, &count, s->query, &s->space->stages, &w->mine, &w->tally, &w->cards, group));
	pthread_mutex_lock(&s->lock);
	for (int i = 0; i < count && st == MT_OK; i++)
		st = mt_survey_queue_push(&s->space->queue, &w->found[i]);
	pthread_mutex_unlock(&s->lock);
	return st;
}

/* Both ways: the best of all to this worker, its own to all. */
static enum mt_status exchange(struct mt_survey *to, const struct mt_survey *from, int top)
{
	for (int i = 0; i < from->best.count; i++)
		MT_TRY(mt_survey_best_add(&to->best, &from->best.points[i], top));
	for (int i = 0; i < from->front.count; i++)
		MT_TRY(mt_survey_front_add(&to->front, &from->front.points[i]));
	return MT_OK;
}

static enum mt_status take_blocks(struct worker *w)
{
	struct shared *s = w->shared;
	const struct mt_survey_query *q = s->query;
	enum mt_status st = MT_OK;

	for (;;) {
		int count = 0;

		if (atomic_load(&s->stopped))
			return MT_OK;
		if (q->seconds > 0 && mt_clock_s() - s->start_s > q->seconds) {
			atomic_store(&s->stopped, 1);
			return MT_OK;
		}
		pthread_mutex_lock(&s->lock);
		while (count < BLOCK && mt_survey_queue_pop(&s->space->queue, &w->taken[count]))
			count++;
		pthread_mutex_unlock(&s->lock);
		if (count == 0) /* who opens groups now takes their nodes */
			return MT_OK;
		for (int i = 0; i < count && st == MT_OK; i++)
			st = w->taken[i].group ? open_group(w, &w->taken[i]) : visit(w, &w->taken[i]);
		MT_TRY(st);
		if (q->jobs == 1)
			continue;
		pthread_mutex_lock(&s->lock);
		st = exchange(s->survey, &w->mine, q->top);
		if (st == MT_OK)
			st = exchange(&w->mine, s->survey, q->top);
		pthread_mutex_unlock(&s->lock);
		MT_TRY(st);
	}
}

/* A failure's record belongs to its thread: the text is carried over. */
static void *work(void *argument)
{
	struct worker *w = argument;

	w->mine.least_bytes = INFINITY;
	w->waits = mt_vee_create();
	w->mine.rejected = calloc((size_t)mt_survey_rule_count, sizeof *w->mine.rejected);
	w->found = calloc((size_t)w->shared->space->stages.count, sizeof *w->found);
	w->status = w->mine.rejected && w->found && w->waits ? mt_survey_allowed_create(&w->allowed, w->shared->query)
							     : mt_fail(MT_NOMEM, "no memory for the search");
	if (w->status == MT_OK)
		w->status = take_blocks(w);
	if (w->status == MT_OK)
		w->status = mt_survey_tally_close(&w->tally, &w->mine, w->allowed);
	if (w->status != MT_OK) {
		snprintf(w->message, sizeof w->message, "%s", mt_error_message());
		atomic_store(&w->shared->stopped, 1);
	}
	mt_survey_allowed_destroy(w->allowed);
	free(w->tally.slots);
	free(w->found);
	mt_vee_destroy(w->waits);
	return NULL;
}

static enum mt_status gather(struct mt_survey *survey, struct worker *w, int top)
{
	enum mt_status st = w->status;

	if (st != MT_OK) {
		mt_error_clear();
		mt_fail(st, "%s", w->message);
	}
	survey->evaluated += w->mine.evaluated;
	survey->too_large += w->mine.too_large;
	survey->pruned_time += w->mine.pruned_time;
	survey->pruned_memory += w->mine.pruned_memory;
	survey->least_bytes = fmin(survey->least_bytes, w->mine.least_bytes);
	for (int i = 0; w->mine.rejected && i < mt_survey_rule_count; i++)
		survey->rejected[i] += w->mine.rejected[i];
	if (st == MT_OK)
		st = exchange(survey, &w->mine, top);
	mt_survey_free(&w->mine);
	return st;
}

static enum mt_status run_workers(struct shared *shared)
{
	int jobs = shared->query->jobs, started = 0;
	struct worker *workers = calloc((size_t)jobs, sizeof *workers);
	pthread_t *threads = calloc((size_t)jobs, sizeof *threads);
	enum mt_status st = workers && threads ? MT_OK : mt_fail(MT_NOMEM, "no memory for %d threads", jobs);

	for (int i = 0; st == MT_OK && i < jobs; i++) {
		workers[i].shared = shared;
		if (i > 0 && pthread_create(&threads[i], NULL, work, &workers[i]) != 0)
			break; /* fewer do as well */
		started = i + 1;
	}
	if (st == MT_OK)
		work(&workers[0]);
	for (int i = 1; i < started; i++)
		pthread_join(threads[i], NULL);
	for (int i = 0; i < started; i++) {
		enum mt_status one = gather(shared->survey, &workers[i], shared->query->top);

		st = st == MT_OK ? one : st;
	}
	free(threads);
	free(workers);
	return st;
}

/* What the time did not suffice for: all that is still queued, and the groups that were never made, of which nothing is known. */
static void count_rest(struct mt_survey *survey, const struct shared *s)
{
	const struct mt_survey_queue *queue = &s->space->queue;
	int64_t told = survey->evaluated + survey->pruned_time + survey->pruned_memory;

	for (int i = 0; i < mt_survey_rule_count; i++)
		told += survey->rejected[i];
	survey->not_reached = survey->counted - told;
	survey->least_left_s = s->space->partial ? 0 : queue->count > 0 ? queue->nodes[0].least_s : INFINITY;
}

enum mt_status mt_survey_run(struct mt_survey *survey, const struct mt_survey_query *query)
{
	struct mt_survey_space space = {0};
	struct shared shared = {.query = query, .space = &space, .survey = survey, .start_s = mt_clock_s()};
	enum mt_status st;

	memset(survey, 0, sizeof *survey);
	survey->least_bytes = INFINITY;
	survey->jobs = query->jobs;
	survey->rejected = calloc((size_t)mt_survey_rule_count, sizeof *survey->rejected);
	if (!survey->rejected)
		return mt_fail(MT_NOMEM, "no memory for the search");
	pthread_mutex_init(&shared.lock, NULL);
	MT_GOTO(out, mt_survey_enumerate(&space, survey, query, query->seconds > 0 ? shared.start_s + query->seconds / 2 : 0));
	MT_GOTO(out, run_workers(&shared));
	count_rest(survey, &shared);
	survey->seconds = mt_clock_s() - shared.start_s;
out:
	pthread_mutex_destroy(&shared.lock);
	mt_survey_space_free(&space);
	if (st != MT_OK)
		mt_survey_free(survey);
	return st;
}
