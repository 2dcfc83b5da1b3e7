/* placed: see placed.h. A layout may be the best only where its heavy groups have the fast links: so candidates are compared as
 * they would run. Placements are found by what groups send (placement.c); what they gain is then predicted by cards and dry runs,
 * on the machine as the placed ranks see it (mt_machine_place). */
#include "tuner/placed.h"

#include "base/json.h"
#include "tuner/placement.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Of a step: for less no rank leaves where the launcher put it. */
#define LEAST_GAIN_FRAC 0.002

static bool matters(const struct mt_session *s)
{
	return mt_placement_matters(&s->machine) && s->world == s->machine.world;
}

enum mt_status mt_placed_open(struct mt_placed *placed, struct mt_session *s, const struct mt_candidate *c)
{
	int *device;
	enum mt_status st;

	memset(placed, 0, sizeof *placed);
	placed->cost = mt_session_cost(s, c->layout.threads);
	if (!c->rank_order)
		return MT_OK;
	device = malloc((size_t)s->machine.world * sizeof *device);
	st = device ? mt_placement_read(c->rank_order, &c->layout, device) : mt_fail(MT_NOMEM, "no memory for a placement");
	if (st == MT_OK)
		st = mt_machine_place(&placed->machine, &s->machine, device);
	free(device);
	placed->own = *placed->cost;
	placed->own.machine = &placed->machine;
	placed->cost = &placed->own;
	return st;
}

void mt_placed_close(struct mt_placed *placed)
{
	mt_machine_unplace(&placed->machine);
}

/* Whether so many seconds of a step are worth leaving the launcher's order. */
static bool gains(const struct mt_candidate *c, double step_s)
{
	return step_s < (1 - LEAST_GAIN_FRAC) * c->launcher_s;
}

/* What a prediction says of time. */
static void take_times(struct mt_candidate *to, const struct mt_candidate *from)
{
	to->step_s = from->step_s;
	to->lo_s = from->lo_s;
	to->hi_s = from->hi_s;
	to->compute_s = from->compute_s;
	to->tp_s = from->tp_s;
	to->dp_s = from->dp_s;
	to->pp_s = from->pp_s;
	to->bubble_s = from->bubble_s;
	to->optimizer_s = from->optimizer_s;
	to->guessed_frac = from->guessed_frac;
}

static bool same_sizes(const struct mt_layout *a, const struct mt_layout *b)
{
	return a->tp == b->tp && a->cp == b->cp && a->pp == b->pp && a->dp == b->dp && a->threads == b->threads;
}

/* By cards where `placed` says, which the candidate keeps where that is faster. */
static enum mt_status place(struct mt_candidate *c, const struct mt_session *s, struct mt_placed *placed,
			    struct mt_card_cache *cache, const char *rank_order)
{
	struct mt_candidate moved = {.layout = c->layout};

	MT_TRY(mt_predict_card_time(&moved, &s->model, placed->cost, cache, 0, 0));
	if (!gains(c, moved.step_s) || moved.step_s >= c->step_s)
		return MT_OK;
	free(c->rank_order);
	c->rank_order = strdup(rank_order);
	take_times(c, &moved);
	return c->rank_order ? MT_OK : mt_fail(MT_NOMEM, "no memory for a placement");
}

/* Candidates of the same sizes, the best first, and the orders of ranks that are tried with them. */
struct sizes {
	struct mt_session *session;
	int *members; /* owned: indices */
	int count;
	char *orders[MT_RANK_ORDERS + 1]; /* owned */
	int order_count;
};

static void close_sizes(struct sizes *z)
{
	for (int i = 0; i < z->order_count; i++)
		free(z->orders[i]);
	free(z->members);
}

/* Unless it is the launcher's. */
static enum mt_status add_order(struct sizes *z, int *device)
{
	struct mt_placement p = {.world = z->session->machine.world, .device = device};
	bool same = true;

	for (int r = 0; r < p.world && same; r++)
		same = device[r] == r;
	if (same)
		return MT_OK;
	z->orders[z->order_count] = mt_placement_text(&p);
	return z->orders[z->order_count++] ? MT_OK : mt_fail(MT_NOMEM, "no memory for a placement");
}

/* The one found by what groups send, which does not see how many of them share a link; and both that have a name, neighbouring
 * ranks on neighbouring devices. */
static enum mt_status find_orders(struct sizes *z, const struct mt_layout *layout)
{
	const struct mt_machine *m = &z->session->machine;
	size_t bytes = (size_t)m->world * sizeof(int);
	int *sorted = malloc(bytes), *device = malloc(bytes);
	struct mt_placement p = {0};
	enum mt_status st = sorted && device ? MT_OK : mt_fail(MT_NOMEM, "no memory for placements");

	if (st == MT_OK)
		st = mt_placement_find(&p, m, &z->session->model, layout);
	if (st == MT_OK)
		st = add_order(z, p.device);
	if (st == MT_OK)
		st = mt_placement_sorted(m, sorted);
	for (int order = 0; order < MT_RANK_ORDERS && st == MT_OK; order++) {
		MT_GOTO(out, mt_placement_read(mt_rank_order_names[order], layout, device));
		for (int r = 0; r < m->world; r++)
			device[r] = sorted[device[r]];
		st = add_order(z, device);
	}
out:
	mt_placement_free(&p);
	free(sorted);
	free(device);
	return st;
}

static enum mt_status try_order(const struct sizes *z, const char *rank_order, const struct mt_layout *layout)
{
	struct mt_candidate as_placed = {.layout = *layout, .rank_order = (char *)rank_order};
	struct mt_card_cache *cache = NULL;
	struct mt_placed placed;
	enum mt_status st;

	MT_TRY(mt_placed_open(&placed, z->session, &as_placed));
	st = mt_card_cache_create(&cache);
	for (int i = 0; i < z->count && st == MT_OK; i++)
		st = place(&z->session->space.candidates[z->members[i]], z->session, &placed, cache, rank_order);
	mt_card_cache_destroy(cache);
	mt_placed_close(&placed);
	return st;
}

/* Of the first candidate's sizes as many as are dry run; the others are left as launched. */
static enum mt_status place_sizes(struct mt_session *s, int first, bool *seen)
{
	struct sizes z = {.session = s, .members = malloc(((size_t)s->options.dry_runs + 1) * sizeof *z.members)};
	const struct mt_layout *layout = &s->space.candidates[first].layout;
	enum mt_status st = z.members ? MT_OK : mt_fail(MT_NOMEM, "no memory for placements");

	for (int i = first; i < s->space.count && st == MT_OK; i++) {
		struct mt_candidate *c = &s->space.candidates[i];

		if (seen[i] || !same_sizes(&c->layout, layout))
			continue;
		seen[i] = true;
		if (z.count >= s->options.dry_runs)
			continue;
		c->launcher_s = c->step_s;
		z.members[z.count++] = i;
	}
	if (st == MT_OK)
		st = find_orders(&z, layout);
	for (int i = 0; i < z.order_count && st == MT_OK; i++)
		st = try_order(&z, z.orders[i], layout);
	close_sizes(&z);
	return st;
}

enum mt_status mt_placed_search(struct mt_session *s)
{
	enum mt_status st = MT_OK;
	bool *seen;

	if (!matters(s))
		return MT_OK;
	seen = calloc((size_t)s->space.count + 1, sizeof *seen);
	if (!seen)
		return mt_fail(MT_NOMEM, "no memory for placements");
	for (int i = 0; i < s->space.count && st == MT_OK; i++) {
		if (!seen[i])
			st = place_sizes(s, i, seen);
	}
	free(seen);
	if (st == MT_OK)
		mt_space_sort(&s->space);
	return st;
}

enum mt_status mt_placed_alike(struct mt_session *s, struct mt_candidate *c, const struct mt_candidate *like)
{
	struct mt_card_cache *cache = NULL;
	struct mt_placed placed;
	enum mt_status st;

	c->launcher_s = c->step_s;
	if (!like->rank_order)
		return MT_OK;
	MT_TRY(mt_placed_open(&placed, s, like));
	st = mt_card_cache_create(&cache);
	if (st == MT_OK)
		st = place(c, s, &placed, cache, like->rank_order);
	mt_card_cache_destroy(cache);
	mt_placed_close(&placed);
	return st;
}

enum mt_status mt_placed_dry_run(struct mt_session *s, struct mt_candidate *c)
{
	struct mt_candidate moved = {.layout = c->layout};
	struct mt_placed placed;
	enum mt_status st;

	MT_TRY(mt_predict_dry(c, &s->model, mt_session_cost(s, c->layout.threads), NULL));
	if (c->launcher_s > 0)
		c->launcher_s = c->step_s;
	if (!c->rank_order)
		return MT_OK;
	MT_TRY(mt_placed_open(&placed, s, c));
	st = mt_predict_dry(&moved, &s->model, placed.cost, NULL);
	if (st == MT_OK && gains(c, moved.step_s)) {
		take_times(c, &moved);
	} else {
		free(c->rank_order);
		c->rank_order = NULL;
	}
	free(moved.stage);
	mt_placed_close(&placed);
	return st;
}

/* Of ranks as launched, or as the text says; NaN: it cannot be told. */
static double communication_s(const struct mt_session *s, const struct mt_candidate *c, const char *rank_order)
{
	int *device = malloc((size_t)s->machine.world * sizeof *device);
	double seconds = NAN;

	if (device && mt_placement_read(rank_order, &c->layout, device) == MT_OK)
		seconds = mt_placement_cost(&s->machine, &s->model, &c->layout, device);
	mt_error_clear();
	free(device);
	return seconds;
}

json_t *mt_placed_json(const struct mt_session *s, const struct mt_candidate *c)
{
	double launcher_s = communication_s(s, c, mt_rank_order_names[MT_RANKS_DP_PP]);
	double placed_s = c->rank_order ? communication_s(s, c, c->rank_order) : launcher_s;
	json_t *o = json_object();

	json_object_set_new(o, "launcher_s", mt_json_number(launcher_s));
	json_object_set_new(o, "placed_s", mt_json_number(placed_s));
	json_object_set_new(o, "gain_frac", mt_json_number(launcher_s > 0 ? 1 - placed_s / launcher_s : 0));
	json_object_set_new(o, "rank_order", c->rank_order ? json_string(c->rank_order) : json_null());
	json_object_set_new(o, "launcher_step_s", mt_json_number(c->launcher_s));
	json_object_set_new(o, "step_s", mt_json_number(c->step_s));
	return o;
}
