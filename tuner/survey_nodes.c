/* survey_nodes: from a group to its nodes, and the bounds of both.
 *
 * A group's bound needs none of its nodes. With m micro-batches a rank and pp stages the slowest stage takes at least the mean of
 * all, so the passes take at least m / pp times those of the whole model, and m / pp = gbs tp cp / (mbs gpus) whatever pp is. */
#include "tuner/survey_space.h"

#include <float.h>
#include <math.h>

/* The mean is above the slowest by rounding alone. */
static const double BELOW = 1 - 1e-12;

/* The end stages' choices beside a pp: those that make it divide the layers. With two stages only one is smaller than the other.
 * Where none does, the rule is told of (0, 0). */
static int ends_of(struct mt_survey_choice *ends, const struct mt_survey_query *query, int pp)
{
	int count = 0, layers = (int)query->model.layers;
	bool even = pp == 1 || query->model.balanced_stages;

	for (int a = 0; a <= (even ? 0 : MT_SURVEY_MOST_LESS); a++) {
		for (int b = 0; b <= (even ? 0 : MT_SURVEY_MOST_LESS); b++) {
			if ((layers + a + b) % pp == 0 && (pp > 2 || a == 0 || b == 0))
				ends[count++] = (struct mt_survey_choice){.a = a, .b = b};
		}
	}
	if (count == 0)
		ends[count++] = (struct mt_survey_choice){0};
	return count;
}

void mt_survey_stages_find(struct mt_survey_stages *stages, const struct mt_survey_query *query, int groups)
{
	mt_survey_divisors(&stages->pp, query->gpus, query->gpus);
	for (int i = 0; i < stages->pp.count; i++) {
		struct mt_survey_layout at = {
			.tp = 1, .cp = 1, .ep = 1, .etp = 1, .dp = 1, .mbs = 1, .vp = 1, .pp = stages->pp.values[i]};

		stages->end_count[i] = ends_of(stages->ends[i], query, at.pp);
		stages->count += stages->end_count[i];
		for (int k = 0; k < stages->end_count[i]; k++) {
			at.first_less = stages->ends[i][k].a;
			at.last_less = stages->ends[i][k].b;
			stages->inner[i][k] = mt_survey_inner_layouts(query, &at, groups);
			stages->inner_all += stages->inner[i][k];
		}
	}
}

/* A group's layout with the pp and end stages of a node. */
static void choose(struct mt_survey_layout *layout, const struct mt_survey_query *query, const struct mt_survey_stages *stages,
		   int i, int k)
{
	layout->pp = stages->pp.values[i];
	layout->dp = (int)(query->gpus / ((int64_t)layout->tp * layout->cp * layout->pp));
	layout->first_less = stages->ends[i][k].a;
	layout->last_less = stages->ends[i][k].b;
}

bool mt_survey_group_holds(const struct mt_survey_query *query, const struct mt_survey_stages *stages,
			   const struct mt_survey_layout *group)
{
	struct mt_survey_layout at = *group;

	for (int i = 0; i < stages->pp.count; i++) {
		for (int k = 0; k < stages->end_count[i]; k++) {
			choose(&at, query, stages, i, k);
			if (mt_survey_first_broken(query, &at, MT_SURVEY_PP) < 0)
				return true;
		}
	}
	return false;
}

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

/* Of one choice of chunks: passes of the fastest cards, or without cards the least memory. */
static double bound_of(const struct mt_survey_query *query, const struct mt_survey_layout *at,
		       const struct mt_forecast_cards *fastest)
{
	struct mt_forecast f;
	struct mt_case c;

	mt_survey_case(&c, query, at);
	c.selected = mt_survey_most_selected(query->stack);
	if (!fastest)
		return least_memory(&c, query, *at);
	mt_forecast_passes(&f, &c, query->target, query->stack, &query->factors, fastest);
	return mt_survey_passes_s(&f);
}

/* Below the time, or the memory, of every layout of the node: with one chunk a stage, which keeps fewest micro-batches, all ranks
 * sharding. Where chunks decide which layers a stage has, the least of all. */
static double bound(const struct mt_survey_node *node, const struct mt_survey_query *query, const struct mt_survey_cards *cards)
{
	bool spread = query->model.expert_every > 1, ends = node->layout.first_less > 0 || node->layout.last_less > 0;
	int most = spread ? mt_survey_stage_layers(query, &node->layout) : 1;
	struct mt_survey_layout at = node->layout;
	struct mt_forecast_cards fastest;
	double least = DBL_MAX;

	if (cards)
		least_cards(&fastest, cards->kinds, mt_survey_recompute_kinds(query->stack));
	for (at.vp = 1; at.vp <= most; at.vp++) {
		if (most % at.vp == 0)
			least = fmin(least, bound_of(query, &at, cards ? &fastest : NULL));
	}
	/* A V's first stage has both ends: less than another's only where they have less layers, or chunks decide which those are.
	 */
	at.schedule = MT_SURVEY_ZB_V;
	at.vp = 2;
	if ((ends || spread) && at.pp > 1 && query->stack->zero_bubble)
		least = fmin(least, bound_of(query, &at, cards ? &fastest : NULL));
	return least;
}

double mt_survey_group_bound(const struct mt_survey_query *query, const struct mt_survey_layout *group,
			     const struct mt_survey_cards *cards)
{
	struct mt_survey_layout whole = *group;
	struct mt_forecast_cards fastest;
	struct mt_forecast f;
	struct mt_case c;

	whole.pp = whole.vp = 1;
	whole.dp = (int)(query->gpus / ((int64_t)whole.tp * whole.cp));
	least_cards(&fastest, cards->kinds, mt_survey_recompute_kinds(query->stack));
	if (passes_of(&fastest.layer) < passes_of(&fastest.dense)) /* which the first stage may have no room for */
		fastest.dense = fastest.layer;
	mt_survey_case(&c, query, &whole);
	mt_forecast_compose(&f, &c, query->target, query->stack, &query->factors, &fastest);
	return BELOW * mt_survey_passes_s(&f) / f.microbatches * c.gbs / (c.dp * c.mbs);
}

enum mt_status mt_survey_expand(struct mt_survey_node *nodes, int *count, const struct mt_survey_query *query,
				const struct mt_survey_stages *stages, struct mt_survey *survey, struct mt_survey_tally *tally,
				struct mt_survey_cards *cards, const struct mt_survey_node *group)
{
	struct mt_survey_node node = *group;
	bool made = false;

	*count = 0;
	node.group = false;
	for (int i = 0; i < stages->pp.count; i++) {
		for (int k = 0; k < stages->end_count[i]; k++) {
			choose(&node.layout, query, stages, i, k);
			int rule = mt_survey_first_broken(query, &node.layout, MT_SURVEY_PP);
			if (rule >= 0) {
				survey->rejected[rule] += stages->inner[i][k];
				continue;
			}
			node.least_s = group->least_s;
			node.least_bytes = bound(&node, query, NULL);
			bool too_large = query->bounded && node.least_bytes > query->memory_bytes;
			if (!too_large && !mt_survey_hopeless(survey, query, node.least_s, node.least_bytes)) {
				if (!made)
					mt_survey_cards_make(cards, query, &group->layout, group->parts);
				made = true;
				node.least_s = fmax(node.least_s, bound(&node, query, cards));
			}
			if (too_large || mt_survey_hopeless(survey, query, node.least_s, node.least_bytes))
				MT_TRY(mt_survey_tally_add(tally, &node, too_large));
			else
				nodes[(*count)++] = node;
		}
	}
	return MT_OK;
}
