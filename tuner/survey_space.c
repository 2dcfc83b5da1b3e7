/* survey_space: the axes, and the groups of nodes that keep the rules.
 *
 *   tp, cp, pp   divisors of the number of accelerators       ep    divisors of the number of experts
 *   cp's kind    ring; beyond 1 allgather, ulysses, hybrid    mbs   divisors of gbs
 *                with each proper divisor of cp within        sp, tp_overlap   off, on
 *   etp          divisors of tp, without experts tp           ends  first_less, last_less of 0 .. 3 that make pp divide
 *   recompute    none; full and each set of outputs that      vp    divisors of L, the layers of the largest stage
 *                selective can name, of 1 .. L layers         zero  0 .. 3
 *   schedule     1f1b with each vp, zb-h1 with 1              zero_group  all, divisors of the number of accelerators
 *   dp           what is left                                 rank_order  tp-cp-ep-dp-pp, tp-cp-ep-pp-dp
 *
 * Every combination is counted, whether any rule allows it or not: where a rule is broken by the outer axes, all that lies inside
 * is counted as rejected by it. */
#include "tuner/survey_space.h"

#include "base/clock.h"

#include <stdlib.h>
#include <string.h>

void mt_survey_divisors(struct mt_survey_axis *axis, int64_t of, int64_t most)
{
	axis->count = 0;
	for (int64_t i = 1; i <= of && i <= most && axis->count < MT_SURVEY_AXIS; i++) {
		if (of % i == 0)
			axis->values[axis->count++] = (int)i;
	}
}

/* --- growing arrays --- */

/* The parts of a layout's cards. */
static enum mt_status add_parts(struct mt_survey_space *space, const struct mt_survey_query *query,
				const struct mt_survey_layout *layout, const struct mt_forecast_parts **added)
{
	struct mt_forecast_parts *parts;
	struct mt_case c;

	if (space->parts_count == space->parts_capacity) {
		int capacity = space->parts_capacity ? 2 * space->parts_capacity : 256;
		struct mt_forecast_parts **grown = realloc(space->parts, (size_t)capacity * sizeof(struct mt_forecast_parts *));

		if (!grown)
			return mt_fail(MT_NOMEM, "no memory for the parts of %d cards", capacity);
		space->parts = grown;
		space->parts_capacity = capacity;
	}
	parts = malloc(sizeof *parts);
	if (!parts)
		return mt_fail(MT_NOMEM, "no memory for the parts of cards");
	mt_survey_case(&c, query, layout);
	mt_forecast_parts(parts, &c, query->target, query->stack, &query->factors);
	space->parts[space->parts_count++] = parts;
	*added = parts;
	return MT_OK;
}

void mt_survey_space_free(struct mt_survey_space *space)
{
	for (int i = 0; i < space->parts_count; i++)
		free(space->parts[i]);
	free(space->parts);
	free(space->queue.nodes);
	memset(space, 0, sizeof *space);
}

/* --- enumeration --- */

struct walk {
	struct mt_survey_space *space;
	struct mt_survey *survey;
	const struct mt_survey_query *query;
	double stop_s;
	struct mt_survey_axis tp, ep, mbs, groups;
	struct mt_survey_choice *cp; /* owned: of each its kind and inner ranks */
	int cp_count;
	const struct mt_forecast_parts **parts; /* owned: of a tp and cp by ep, etp, mbs and sp; NULL: not made */
	struct mt_survey_cards cards;           /* of the group at hand */
};

/* Whether the layout keeps the rules of a level; else `inside` layouts are rejected. */
static bool keeps(struct walk *w, const struct mt_survey_layout *layout, enum mt_survey_level level, int64_t inside)
{
	int rule = mt_survey_first_broken(w->query, layout, level);

	if (rule >= 0)
		w->survey->rejected[rule] += inside;
	return rule < 0;
}

/* `parts` of the layout: those there, or made when needed. A group without nodes is told node by node. */
static enum mt_status add_group(struct walk *w, const struct mt_survey_layout *layout, const struct mt_forecast_parts **parts)
{
	struct mt_survey_node group = {.layout = *layout, .group = true};

	if (!mt_survey_group_holds(w->query, &w->space->stages, layout)) {
		int none;

		return mt_survey_expand(NULL, &none, w->query, &w->space->stages, w->survey, NULL, &w->cards, &group);
	}
	if (!*parts)
		MT_TRY(add_parts(w->space, w->query, layout, parts));
	group.parts = *parts;
	mt_survey_cards_make(&w->cards, w->query, layout, *parts);
	group.least_s = mt_survey_group_bound(w->query, layout, &w->cards);
	return mt_survey_queue_push(&w->space->queue, &group);
}

/* `parts`: two a micro-batch size. */
static enum mt_status walk_mbs(struct walk *w, struct mt_survey_layout layout, const struct mt_forecast_parts **parts)
{
	if (w->stop_s > 0 && mt_clock_s() > w->stop_s)
		w->space->partial = true;
	for (int i = 0; i < w->mbs.count && !w->space->partial; i++) {
		for (int k = 0; k < 4; k++) {
			layout.mbs = w->mbs.values[i];
			layout.sp = k / 2;
			layout.tp_overlap = k % 2;
			if (keeps(w, &layout, MT_SURVEY_SP, w->space->stages.inner_all))
				MT_TRY(add_group(w, &layout, &parts[2 * i + layout.sp]));
		}
	}
	return MT_OK;
}

/* etp of a model without experts is tp: one value. */
static enum mt_status walk_ep(struct walk *w, struct mt_survey_layout layout, const struct mt_survey_axis *etp, int64_t in_etp)
{
	for (int e = 0; e < w->ep.count; e++) {
		layout.ep = w->ep.values[e];
		for (int x = 0; x < etp->count; x++) {
			layout.etp = etp->values[x];
			if (keeps(w, &layout, MT_SURVEY_EP, in_etp))
				MT_TRY(walk_mbs(w, layout, &w->parts[2 * w->mbs.count * (e * etp->count + x)]));
		}
	}
	return MT_OK;
}

/* A ring; beyond one rank also gathers, exchanges of heads, and these among each proper divisor of the ranks. */
static enum mt_status cp_of(struct walk *w)
{
	struct mt_survey_axis all, inner;

	mt_survey_divisors(&all, w->query->gpus, w->query->gpus);
	w->cp = calloc((size_t)all.count * ((size_t)all.count + 3) + 1, sizeof *w->cp);
	if (!w->cp)
		return mt_fail(MT_NOMEM, "no memory for the search");
	for (int i = 0; i < all.count; i++) {
		int cp = all.values[i];

		w->cp[w->cp_count++] = (struct mt_survey_choice){cp, MT_CONTEXT_RING, 1};
		if (cp == 1)
			continue;
		w->cp[w->cp_count++] = (struct mt_survey_choice){cp, MT_CONTEXT_ALL_GATHER, 1};
		w->cp[w->cp_count++] = (struct mt_survey_choice){cp, MT_CONTEXT_ULYSSES, 1};
		mt_survey_divisors(&inner, cp, cp - 1);
		for (int k = 1; k < inner.count; k++)
			w->cp[w->cp_count++] = (struct mt_survey_choice){cp, MT_CONTEXT_HYBRID, inner.values[k]};
	}
	return MT_OK;
}

/* Room for the parts of a tp and cp, none made. */
static enum mt_status clear_parts(struct walk *w, int etp_count)
{
	size_t count = 2 * (size_t)w->mbs.count * (size_t)w->ep.count * (size_t)etp_count;

	free(w->parts);
	w->parts = calloc(count + 1, sizeof(const struct mt_forecast_parts *));
	return w->parts ? MT_OK : mt_fail(MT_NOMEM, "no memory for the search");
}

static enum mt_status walk_tp(struct walk *w)
{
	struct mt_survey_layout layout = {.vp = 1, .dp = 1};

	w->survey->counted = 0;
	for (int t = 0; t < w->tp.count; t++) {
		struct mt_survey_axis etp = {.values = {w->tp.values[t]}, .count = 1};
		int64_t in_etp = 4 * w->mbs.count * w->space->stages.inner_all, in_cp;

		layout.tp = w->tp.values[t];
		if (w->query->model.experts > 0)
			mt_survey_divisors(&etp, layout.tp, layout.tp);
		in_cp = w->ep.count * etp.count * in_etp;
		w->survey->counted += w->cp_count * in_cp;
		if (!keeps(w, &layout, MT_SURVEY_TP, w->cp_count * in_cp))
			continue;
		for (int c = 0; c < w->cp_count; c++) {
			if (c == 0 || layout.cp != w->cp[c].a)
				MT_TRY(clear_parts(w, etp.count));
			layout.cp = w->cp[c].a;
			layout.cp_kind = w->cp[c].b;
			layout.cp_inner = w->cp[c].c;
			if (keeps(w, &layout, MT_SURVEY_CP, in_cp))
				MT_TRY(walk_ep(w, layout, &etp, in_etp));
		}
	}
	return MT_OK;
}

enum mt_status mt_survey_enumerate(struct mt_survey_space *space, struct mt_survey *survey, const struct mt_survey_query *query,
				   double stop_s)
{
	struct walk *w = calloc(1, sizeof *w);
	enum mt_status st = MT_OK;

	memset(space, 0, sizeof *space);
	if (!w) {
		st = mt_fail(MT_NOMEM, "no memory for the search");
		goto out;
	}
	w->space = space;
	w->survey = survey;
	w->query = query;
	w->stop_s = stop_s;
	mt_survey_divisors(&w->tp, query->gpus, query->gpus);
	MT_GOTO(out, cp_of(w));
	mt_survey_groups(&w->groups, query);
	mt_survey_divisors(&w->ep, query->model.experts > 0 ? (int64_t)query->model.experts : 1, INT32_MAX);
	mt_survey_divisors(&w->mbs, (int64_t)query->model.gbs, INT32_MAX);
	mt_survey_stages_find(&space->stages, query, w->groups.count);
	st = walk_tp(w);
out:
	if (w) {
		free(w->cp);
		free(w->parts);
	}
	free(w);
	if (st != MT_OK)
		mt_survey_space_free(space);
	return st;
}
