/* survey_space: the axes, and the nodes that keep the rules.
 *
 *   tp, cp, pp   divisors of the number of accelerators       ep    divisors of the number of experts
 *   mbs          divisors of gbs                              sp    off, on
 *   recompute    none, selective, full of 1 .. L layers       vp    divisors of L, the layers of the largest stage
 *   zero         0 .. 3                                       dp    what is left
 *
 * Every combination is counted, whether any rule allows it or not: where a rule is broken by the outer axes, all that lies inside
 * is counted as rejected by it. */
#include "tuner/survey_space.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void divisors(struct mt_survey_axis *axis, int64_t of, int64_t most)
{
	axis->count = 0;
	for (int64_t i = 1; i <= of && i <= most && axis->count < MT_SURVEY_AXIS; i++) {
		if (of % i == 0)
			axis->values[axis->count++] = (int)i;
	}
}

void mt_survey_inner_axes(struct mt_survey_inner *inner, const struct mt_survey_query *query, int pp)
{
	int layers = mt_survey_stage_layers(query, pp);

	inner->recompute_count = inner->chunk_count = 0;
	inner->recompute[inner->recompute_count++] = (struct mt_survey_choice){MT_CASE_NONE, 0};
	inner->recompute[inner->recompute_count++] = (struct mt_survey_choice){MT_CASE_SELECTIVE, layers};
	for (int i = 1; i <= layers && inner->recompute_count < MT_SURVEY_AXIS; i++)
		inner->recompute[inner->recompute_count++] = (struct mt_survey_choice){MT_CASE_FULL, i};
	for (int vp = 1; vp <= (pp > 1 ? layers : 1) && inner->chunk_count < MT_SURVEY_CHUNK_CHOICES; vp++) {
		if (layers % vp == 0)
			inner->chunks[inner->chunk_count++] = (struct mt_survey_choice){MT_SURVEY_1F1B, vp};
	}
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

/* Below the time and the memory of every layout of the node: passes without recompute, and the least of the kinds of recompute and
 * of sharding with one chunk a stage, which keeps fewest micro-batches. */
static void bound(struct mt_survey_node *node, const struct mt_survey_query *query)
{
	struct mt_survey_layout at = node->layout;
	const struct mt_pass_forecast *layers = node->cards->layer;
	struct mt_forecast f;
	struct mt_case c;

	at.vp = 1;
	mt_survey_case(&c, query, &at);
	/* Layers that do again what others keep take longer, unless measured layers say otherwise. */
	node->least_s = DBL_MAX;
	for (int kind = MT_CASE_NONE; kind <= MT_CASE_FULL; kind++) {
		if (kind != MT_CASE_NONE && layers[kind].forward_s + layers[kind].backward_s >=
						    layers[MT_CASE_NONE].forward_s + layers[MT_CASE_NONE].backward_s)
			continue;
		mt_forecast_compose(&f, &c, query->target, query->stack, &query->factors, &layers[kind], &node->cards->embedding,
				    &node->cards->head);
		node->least_s = fmin(node->least_s, mt_survey_passes_s(&f));
	}
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
	int64_t inner[MT_SURVEY_AXIS], inner_all; /* layouts inside of each pp, and of all */
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
		struct mt_survey_node node;

		layout.pp = w->pp.values[i];
		layout.dp = (int)(w->query->gpus / ((int64_t)layout.tp * layout.cp * layout.pp));
		if (!keeps(w, &layout, MT_SURVEY_PP, w->inner[i]))
			continue;
		if (!cards) {
			MT_TRY(add_cards(w->space, &cards));
			mt_survey_cards_make(cards, w->query, &layout);
		}
		node = (struct mt_survey_node){.layout = layout, .cards = cards};
		bound(&node, w->query);
		MT_TRY(add_node(w->space, &node));
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

static enum mt_status walk_tp(struct walk *w)
{
	int64_t in_sp = w->inner_all, in_ep = 2 * w->mbs.count * in_sp, in_cp = w->ep.count * in_ep, in_tp = w->cp.count * in_cp;
	struct mt_survey_layout layout = {.vp = 1, .dp = 1};

	w->survey->counted = w->tp.count * in_tp;
	for (int t = 0; t < w->tp.count; t++) {
		layout.tp = w->tp.values[t];
		if (!keeps(w, &layout, MT_SURVEY_TP, in_tp))
			continue;
		for (int c = 0; c < w->cp.count; c++) {
			layout.cp = w->cp.values[c];
			if (!keeps(w, &layout, MT_SURVEY_CP, in_cp))
				continue;
			for (int e = 0; e < w->ep.count; e++) {
				layout.ep = w->ep.values[e];
				if (keeps(w, &layout, MT_SURVEY_EP, in_ep))
					MT_TRY(walk_mbs(w, layout));
			}
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
		mt_survey_inner_axes(inner, query, w->pp.values[i]);
		w->inner[i] = 4 * (int64_t)inner->recompute_count * inner->chunk_count;
		w->inner_all += w->inner[i];
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
