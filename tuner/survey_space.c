/* survey_space: the axes, and the nodes that keep the rules.
 *
 *   tp, cp, pp   divisors of the number of accelerators       ep    divisors of the number of experts
 *   etp          divisors of tp, without experts tp           mbs   divisors of gbs
 *   sp           off, on                                      ends  first_less, last_less of 0 .. 3 that make pp divide
 *   recompute    none, selective, full of 1 .. L layers       vp    divisors of L, the layers of the largest stage
 *   schedule     1f1b with each vp, zb-h1 with 1              zero  0 .. 3
 *   dp           what is left
 *
 * Every combination is counted, whether any rule allows it or not: where a rule is broken by the outer axes, all that lies inside
 * is counted as rejected by it. */
#include "tuner/survey_space.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_LESS = 3, MOST_ENDS = (MOST_LESS + 1) * (MOST_LESS + 1) };

static void divisors(struct mt_survey_axis *axis, int64_t of, int64_t most)
{
	axis->count = 0;
	for (int64_t i = 1; i <= of && i <= most && axis->count < MT_SURVEY_AXIS; i++) {
		if (of % i == 0)
			axis->values[axis->count++] = (int)i;
	}
}

void mt_survey_inner_axes(struct mt_survey_inner *inner, const struct mt_survey_query *query, const struct mt_survey_layout *layout)
{
	int layers = mt_survey_stage_layers(query, layout);

	inner->recompute_count = inner->chunk_count = 0;
	inner->recompute[inner->recompute_count++] = (struct mt_survey_choice){MT_CASE_NONE, 0};
	inner->recompute[inner->recompute_count++] = (struct mt_survey_choice){MT_CASE_SELECTIVE, layers};
	for (int i = 1; i <= layers && inner->recompute_count < MT_SURVEY_AXIS; i++)
		inner->recompute[inner->recompute_count++] = (struct mt_survey_choice){MT_CASE_FULL, i};
	inner->chunks[inner->chunk_count++] = (struct mt_survey_choice){MT_SURVEY_ZB_H1, 1};
	for (int vp = 1; vp <= (layout->pp > 1 ? layers : 1) && inner->chunk_count < MT_SURVEY_CHUNK_CHOICES; vp++) {
		if (layers % vp == 0)
			inner->chunks[inner->chunk_count++] = (struct mt_survey_choice){MT_SURVEY_1F1B, vp};
	}
}

/* The end stages' choices beside a pp: those that make it divide the layers. With two stages only one is smaller than the other.
 * Where none does, the rule is told of (0, 0). */
static int ends_of(struct mt_survey_choice *ends, const struct mt_survey_query *query, int pp)
{
	int count = 0, layers = (int)query->model.layers;
	bool even = pp == 1 || query->model.balanced_stages;

	for (int a = 0; a <= (even ? 0 : MOST_LESS); a++) {
		for (int b = 0; b <= (even ? 0 : MOST_LESS); b++) {
			if ((layers + a + b) % pp == 0 && (pp > 2 || a == 0 || b == 0))
				ends[count++] = (struct mt_survey_choice){a, b};
		}
	}
	if (count == 0)
		ends[count++] = (struct mt_survey_choice){0, 0};
	return count;
}

/* --- growing arrays --- */

static enum mt_status add_cards(struct mt_survey_space *space, struct mt_survey_cards **cards)
{
	if (space->card_count == space->card_capacity) {
		int capacity = space->card_capacity ? 2 * space->card_capacity : 256;
		struct mt_survey_cards **grown = realloc(space->cards, (size_t)capacity * sizeof(struct mt_survey_cards *));

		if (!grown)
			return mt_fail(MT_NOMEM, "no memory for %d cards", capacity);
		space->cards = grown;
		space->card_capacity = capacity;
	}
	*cards = malloc(sizeof **cards);
	if (!*cards)
		return mt_fail(MT_NOMEM, "no memory for cards");
	space->cards[space->card_count++] = *cards;
	return MT_OK;
}

static enum mt_status add_node(struct mt_survey_space *space, const struct mt_survey_node *node)
{
	if (space->count == space->capacity) {
		int capacity = space->capacity ? 2 * space->capacity : 4096;
		struct mt_survey_node *grown = realloc(space->nodes, (size_t)capacity * sizeof *grown);

		if (!grown)
			return mt_fail(MT_NOMEM, "no memory for %d layouts", capacity);
		space->nodes = grown;
		space->capacity = capacity;
	}
	space->nodes[space->count++] = *node;
	return MT_OK;
}

void mt_survey_space_free(struct mt_survey_space *space)
{
	for (int i = 0; i < space->card_count; i++)
		free(space->cards[i]);
	free(space->cards);
	free(space->nodes);
	memset(space, 0, sizeof *space);
}

/* --- bounds --- */

static double passes_of(const struct mt_pass_forecast *card)
{
	return card->forward_s + card->backward_s;
}

/* Of each card the kind of recompute with least time. Layers that do again what others keep take longer, unless measured layers
 * say otherwise. */
static void least_cards(struct mt_forecast_cards *least, const struct mt_forecast_cards kinds[3])
{
	*least = kinds[MT_CASE_NONE];
	for (int kind = MT_CASE_SELECTIVE; kind <= MT_CASE_FULL; kind++) {
		if (passes_of(&kinds[kind].layer) < passes_of(&least->layer))
			least->layer = kinds[kind].layer;
		if (passes_of(&kinds[kind].dense) < passes_of(&least->dense))
			least->dense = kinds[kind].dense;
		if (passes_of(&kinds[kind].module) < passes_of(&least->module))
			least->module = kinds[kind].module;
	}
}

/* Below the time and the memory of every layout of the node: passes of the fastest cards, and the least of the kinds of recompute
 * and of sharding with one chunk a stage, which keeps fewest micro-batches. */
static void bound(struct mt_survey_node *node, const struct mt_survey_query *query)
{
	struct mt_survey_layout at = node->layout;
	struct mt_forecast_cards least;
	struct mt_forecast f;
	struct mt_case c;

	at.vp = 1;
	mt_survey_case(&c, query, &at);
	least_cards(&least, node->cards->kinds);
	mt_forecast_compose(&f, &c, query->target, query->stack, &query->factors, &least);
	node->least_s = mt_survey_passes_s(&f);
	node->least_bytes = DBL_MAX;
	for (at.zero = 0; at.zero <= 3; at.zero++) {
		if (mt_survey_first_broken(query, &at, MT_SURVEY_ZERO) >= 0)
			continue;
		c.zero = at.zero;
		for (c.recompute = MT_CASE_NONE; c.recompute <= MT_CASE_FULL; c.recompute++) {
			mt_forecast_memory(&f, &c, query->stack);
			node->least_bytes = fmin(node->least_bytes, f.peak_bytes);
		}
	}
}

static int by_least_time(const void *a, const void *b)
{
	const struct mt_survey_node *x = a, *y = b;

	if (x->least_s != y->least_s)
		return x->least_s < y->least_s ? -1 : 1;
	return mt_survey_order(&x->layout, &y->layout);
}

/* --- enumeration --- */

struct walk {
	struct mt_survey_space *space;
	struct mt_survey *survey;
	const struct mt_survey_query *query;
	struct mt_survey_axis tp, cp, ep, mbs, pp;
	struct mt_survey_choice ends[MT_SURVEY_AXIS][MOST_ENDS]; /* of each pp */
	int end_count[MT_SURVEY_AXIS];
	int64_t inner[MT_SURVEY_AXIS][MOST_ENDS], inner_all; /* layouts inside of each pp and its ends, and of all */
};

/* Whether the layout keeps the rules of a level; else `inside` layouts are rejected. */
static bool keeps(struct walk *w, const struct mt_survey_layout *layout, enum mt_survey_level level, int64_t inside)
{
	int rule = mt_survey_first_broken(w->query, layout, level);

	if (rule >= 0)
		w->survey->rejected[rule] += inside;
	return rule < 0;
}

static enum mt_status walk_pp(struct walk *w, struct mt_survey_layout layout)
{
	struct mt_survey_cards *cards = NULL;

	for (int i = 0; i < w->pp.count; i++) {
		layout.pp = w->pp.values[i];
		layout.dp = (int)(w->query->gpus / ((int64_t)layout.tp * layout.cp * layout.pp));
		for (int k = 0; k < w->end_count[i]; k++) {
			struct mt_survey_node node;

			layout.first_less = w->ends[i][k].a;
			layout.last_less = w->ends[i][k].b;
			if (!keeps(w, &layout, MT_SURVEY_PP, w->inner[i][k]))
				continue;
			if (!cards) {
				MT_TRY(add_cards(w->space, &cards));
				mt_survey_cards_make(cards, w->query, &layout);
			}
			node = (struct mt_survey_node){.layout = layout, .cards = cards};
			bound(&node, w->query);
			MT_TRY(add_node(w->space, &node));
		}
	}
	return MT_OK;
}

static enum mt_status walk_mbs(struct walk *w, struct mt_survey_layout layout)
{
	for (int i = 0; i < w->mbs.count; i++) {
		for (int sp = 0; sp <= 1; sp++) {
			layout.mbs = w->mbs.values[i];
			layout.sp = sp;
			if (keeps(w, &layout, MT_SURVEY_SP, w->inner_all))
				MT_TRY(walk_pp(w, layout));
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
				MT_TRY(walk_mbs(w, layout));
		}
	}
	return MT_OK;
}

static enum mt_status walk_tp(struct walk *w)
{
	struct mt_survey_layout layout = {.vp = 1, .dp = 1};

	w->survey->counted = 0;
	for (int t = 0; t < w->tp.count; t++) {
		struct mt_survey_axis etp = {.values = {w->tp.values[t]}, .count = 1};
		int64_t in_etp = 2 * w->mbs.count * w->inner_all, in_cp;

		layout.tp = w->tp.values[t];
		if (w->query->model.experts > 0)
			divisors(&etp, layout.tp, layout.tp);
		in_cp = w->ep.count * etp.count * in_etp;
		w->survey->counted += w->cp.count * in_cp;
		if (!keeps(w, &layout, MT_SURVEY_TP, w->cp.count * in_cp))
			continue;
		for (int c = 0; c < w->cp.count; c++) {
			layout.cp = w->cp.values[c];
			if (keeps(w, &layout, MT_SURVEY_CP, in_cp))
				MT_TRY(walk_ep(w, layout, &etp, in_etp));
		}
	}
	return MT_OK;
}

enum mt_status mt_survey_enumerate(struct mt_survey_space *space, struct mt_survey *survey, const struct mt_survey_query *query)
{
	struct walk *w = calloc(1, sizeof *w);
	struct mt_survey_inner *inner = malloc(sizeof *inner);
	enum mt_status st = MT_OK;

	memset(space, 0, sizeof *space);
	if (!w || !inner) {
		st = mt_fail(MT_NOMEM, "no memory for the search");
		goto out;
	}
	w->space = space;
	w->survey = survey;
	w->query = query;
	divisors(&w->tp, query->gpus, query->gpus);
	divisors(&w->cp, query->gpus, query->gpus);
	divisors(&w->pp, query->gpus, query->gpus);
	divisors(&w->ep, query->model.experts > 0 ? (int64_t)query->model.experts : 1, INT32_MAX);
	divisors(&w->mbs, (int64_t)query->model.gbs, INT32_MAX);
	for (int i = 0; i < w->pp.count; i++) {
		struct mt_survey_layout at = {
			.tp = 1, .cp = 1, .ep = 1, .etp = 1, .dp = 1, .mbs = 1, .vp = 1, .pp = w->pp.values[i]};

		w->end_count[i] = ends_of(w->ends[i], query, at.pp);
		for (int k = 0; k < w->end_count[i]; k++) {
			at.first_less = w->ends[i][k].a;
			at.last_less = w->ends[i][k].b;
			mt_survey_inner_axes(inner, query, &at);
			w->inner[i][k] = 4 * (int64_t)inner->recompute_count * inner->chunk_count;
			w->inner_all += w->inner[i][k];
		}
	}
	MT_GOTO(out, walk_tp(w));
	qsort(space->nodes, (size_t)space->count, sizeof *space->nodes, by_least_time);
out:
	free(inner);
	free(w);
	if (st != MT_OK)
		mt_survey_space_free(space);
	return st;
}
