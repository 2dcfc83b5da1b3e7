/* survey_space: the axes, and the nodes that keep the rules.
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

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_LESS = 3, MOST_ENDS = (MOST_LESS + 1) * (MOST_LESS + 1) };

void mt_survey_divisors(struct mt_survey_axis *axis, int64_t of, int64_t most)
{
	axis->count = 0;
	for (int64_t i = 1; i <= of && i <= most && axis->count < MT_SURVEY_AXIS; i++) {
		if (of % i == 0)
			axis->values[axis->count++] = (int)i;
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
				ends[count++] = (struct mt_survey_choice){.a = a, .b = b};
		}
	}
	if (count == 0)
		ends[count++] = (struct mt_survey_choice){0};
	return count;
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
	for (int i = 0; i < space->parts_count; i++)
		free(space->parts[i]);
	free(space->parts);
	free(space->order);
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
static void least_cards(struct mt_forecast_cards *least, const struct mt_forecast_cards *kinds, int count)
{
	*least = kinds[0];
	for (int kind = 1; kind < count; kind++) {
		if (passes_of(&kinds[kind].layer) < passes_of(&least->layer))
			least->layer = kinds[kind].layer;
		if (passes_of(&kinds[kind].dense) < passes_of(&least->dense))
			least->dense = kinds[kind].dense;
		if (passes_of(&kinds[kind].module) < passes_of(&least->module))
			least->module = kinds[kind].module;
	}
}

/* Of the kinds of recompute and of sharding the least memory. The more is sharded the less is kept, but for the gathered layers of
 * ZeRO-3; selecting all outputs keeps less than none. */
static double least_memory(struct mt_case *c, const struct mt_survey_query *query, struct mt_survey_layout at)
{
	struct mt_forecast f = {.microbatches = ceil(c->gbs / (c->dp * c->mbs) - 1e-9)};
	double least = DBL_MAX;

	for (at.zero = 3; at.zero >= 0; at.zero--) {
		if (mt_survey_first_broken(query, &at, MT_SURVEY_ZERO) >= 0)
			continue;
		c->zero = at.zero;
		for (c->recompute = MT_CASE_SELECTIVE; c->recompute <= MT_CASE_FULL; c->recompute++) {
			mt_forecast_memory(&f, c, query->stack);
			least = fmin(least, f.peak_bytes);
		}
		if (at.zero < 3)
			break;
	}
	return least;
}

/* Below the time, or the memory, of every layout of the node: passes of the fastest cards, or without cards the least memory with
 * one chunk a stage, which keeps fewest micro-batches, all ranks sharding. Where chunks decide which layers a stage has, the least
 * of all. */
static double bound(const struct mt_survey_node *node, const struct mt_survey_query *query, const struct mt_survey_cards *cards)
{
	int most = query->model.expert_every > 1 ? mt_survey_stage_layers(query, &node->layout) : 1;
	struct mt_survey_layout at = node->layout;
	struct mt_forecast_cards fastest;
	struct mt_forecast f;
	struct mt_case c;
	double least = DBL_MAX;

	if (cards)
		least_cards(&fastest, cards->kinds, mt_survey_recompute_kinds(query->stack));
	for (at.vp = 1; at.vp <= most; at.vp++) {
		if (most % at.vp != 0)
			continue;
		mt_survey_case(&c, query, &at);
		c.selected = mt_survey_most_selected(query->stack);
		if (cards)
			mt_forecast_compose(&f, &c, query->target, query->stack, &query->factors, &fastest);
		least = fmin(least, cards ? mt_survey_passes_s(&f) : least_memory(&c, query, at));
	}
	return least;
}

static int by_least_time(const void *a, const void *b)
{
	const struct mt_survey_place *x = a, *y = b;

	if (x->least_s != y->least_s)
		return x->least_s < y->least_s ? -1 : 1;
	return mt_survey_order(&x->node->layout, &y->node->layout);
}

static enum mt_status order_nodes(struct mt_survey_space *space)
{
	space->order = malloc((size_t)(space->count > 0 ? space->count : 1) * sizeof *space->order);
	if (!space->order)
		return mt_fail(MT_NOMEM, "no memory for the order of %d layouts", space->count);
	for (int i = 0; i < space->count; i++)
		space->order[i] = (struct mt_survey_place){space->nodes[i].least_s, &space->nodes[i]};
	qsort(space->order, (size_t)space->count, sizeof *space->order, by_least_time);
	return MT_OK;
}

/* --- enumeration --- */

struct walk {
	struct mt_survey_space *space;
	struct mt_survey *survey;
	const struct mt_survey_query *query;
	struct mt_survey_axis tp, ep, mbs, pp, groups;
	struct mt_survey_allowed *allowed; /* owned */
	struct mt_survey_choice *cp;       /* owned: of each its kind and inner ranks */
	int cp_count;
	struct mt_survey_choice ends[MT_SURVEY_AXIS][MOST_ENDS]; /* of each pp */
	int end_count[MT_SURVEY_AXIS];
	const struct mt_forecast_parts **parts;              /* owned: of a tp and cp by ep, etp, mbs and sp; NULL: not made */
	struct mt_survey_cards cards;                        /* of the nodes at hand */
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

/* A node that fits no accelerator is not kept: what it holds is counted here. */
static enum mt_status count_too_large(struct walk *w, const struct mt_survey_node *node)
{
	struct mt_survey *s = w->survey;
	int64_t layouts;

	MT_TRY(mt_survey_allow(w->allowed, s->rejected, &node->layout));
	layouts = mt_survey_allow_all(w->allowed, s->rejected);
	s->pruned_memory += layouts;
	if (layouts > 0)
		s->least_bytes = fmin(s->least_bytes, node->least_bytes);
	return MT_OK;
}

/* `parts` of the layout: those there, or made when needed. */
static enum mt_status walk_pp(struct walk *w, struct mt_survey_layout layout, const struct mt_forecast_parts **parts)
{
	bool made = false;

	for (int i = 0; i < w->pp.count; i++) {
		layout.pp = w->pp.values[i];
		layout.dp = (int)(w->query->gpus / ((int64_t)layout.tp * layout.cp * layout.pp));
		for (int k = 0; k < w->end_count[i]; k++) {
			layout.first_less = w->ends[i][k].a;
			layout.last_less = w->ends[i][k].b;
			if (!keeps(w, &layout, MT_SURVEY_PP, w->inner[i][k]))
				continue;
			struct mt_survey_node node = {.layout = layout};

			node.least_bytes = bound(&node, w->query, NULL);
			if (w->query->bounded && node.least_bytes > w->query->memory_bytes) {
				MT_TRY(count_too_large(w, &node));
				continue;
			}
			if (!*parts)
				MT_TRY(add_parts(w->space, w->query, &layout, parts));
			if (!made)
				mt_survey_cards_make(&w->cards, w->query, &layout, *parts);
			made = true;
			node.parts = *parts;
			node.least_s = bound(&node, w->query, &w->cards);
			MT_TRY(add_node(w->space, &node));
		}
	}
	return MT_OK;
}

/* `parts`: two a micro-batch size. */
static enum mt_status walk_mbs(struct walk *w, struct mt_survey_layout layout, const struct mt_forecast_parts **parts)
{
	for (int i = 0; i < w->mbs.count; i++) {
		for (int k = 0; k < 4; k++) {
			layout.mbs = w->mbs.values[i];
			layout.sp = k / 2;
			layout.tp_overlap = k % 2;
			if (keeps(w, &layout, MT_SURVEY_SP, w->inner_all))
				MT_TRY(walk_pp(w, layout, &parts[2 * i + layout.sp]));
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
		int64_t in_etp = 4 * w->mbs.count * w->inner_all, in_cp;

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

enum mt_status mt_survey_enumerate(struct mt_survey_space *space, struct mt_survey *survey, const struct mt_survey_query *query)
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
	mt_survey_divisors(&w->tp, query->gpus, query->gpus);
	MT_GOTO(out, mt_survey_allowed_create(&w->allowed, query));
	MT_GOTO(out, cp_of(w));
	mt_survey_groups(&w->groups, query);
	mt_survey_divisors(&w->pp, query->gpus, query->gpus);
	mt_survey_divisors(&w->ep, query->model.experts > 0 ? (int64_t)query->model.experts : 1, INT32_MAX);
	mt_survey_divisors(&w->mbs, (int64_t)query->model.gbs, INT32_MAX);
	for (int i = 0; i < w->pp.count; i++) {
		struct mt_survey_layout at = {
			.tp = 1, .cp = 1, .ep = 1, .etp = 1, .dp = 1, .mbs = 1, .vp = 1, .pp = w->pp.values[i]};

		w->end_count[i] = ends_of(w->ends[i], query, at.pp);
		for (int k = 0; k < w->end_count[i]; k++) {
			at.first_less = w->ends[i][k].a;
			at.last_less = w->ends[i][k].b;
			w->inner[i][k] = mt_survey_inner_layouts(query, &at, w->groups.count);
			w->inner_all += w->inner[i][k];
		}
	}
	MT_GOTO(out, walk_tp(w));
	st = order_nodes(space);
out:
	if (w) {
		free(w->cp);
		free(w->parts);
		mt_survey_allowed_destroy(w->allowed);
	}
	free(w);
	if (st != MT_OK)
		mt_survey_space_free(space);
	return st;
}
