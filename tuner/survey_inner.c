/* survey_inner: what a node can still choose, recompute, chunks and shards, and of these what keeps the rules. Rules are asked once
 * for all layouts that they say the same of; what breaks one is counted with all that lies inside. */
#include "tuner/survey_space.h"

#include <stdlib.h>
#include <string.h>

/* Bits of the outputs that this software can select, packed. */
static int packed(const struct mt_stack *stack, int selected, int *bits)
{
	int most = mt_survey_most_selected(stack), index = 0;

	*bits = 0;
	for (int bit = 1; bit < MT_CASE_SELECTIONS; bit *= 2) {
		if (most & bit)
			index |= (selected & bit ? 1 : 0) << (*bits)++;
	}
	return index;
}

int mt_survey_most_selected(const struct mt_stack *stack)
{
	return MT_CASE_ATTENTION | (stack->selects_activation ? MT_CASE_ACTIVATION : 0) |
	       (stack->selects_norms ? MT_CASE_NORMS : 0);
}

int mt_survey_recompute_kinds(const struct mt_stack *stack)
{
	int bits;

	packed(stack, 0, &bits);
	return (1 << bits) + 1;
}

int mt_survey_recompute_index(const struct mt_stack *stack, int recompute, int selected)
{
	int bits, index = packed(stack, selected, &bits);

	return recompute == MT_CASE_NONE ? 0 : recompute == MT_CASE_FULL ? 1 << bits : index;
}

void mt_survey_groups(struct mt_survey_axis *groups, const struct mt_survey_query *query)
{
	mt_survey_divisors(groups, query->gpus, query->gpus);
	groups->values[0] = 0;
}

/* zb-h1, zb-v, and 1f1b with each number of chunks that divides the layers. */
static int chunks_of(struct mt_survey_choice chunks[MT_SURVEY_CHUNK_CHOICES], int layers, bool pipeline)
{
	int count = 0;

	chunks[count++] = (struct mt_survey_choice){.a = MT_SURVEY_ZB_H1, .b = 1};
	if (pipeline && layers % 2 == 0)
		chunks[count++] = (struct mt_survey_choice){.a = MT_SURVEY_ZB_V, .b = 2};
	for (int vp = 1; vp <= (pipeline ? layers : 1) && count < MT_SURVEY_CHUNK_CHOICES; vp++) {
		if (layers % vp == 0)
			chunks[count++] = (struct mt_survey_choice){.a = MT_SURVEY_1F1B, .b = vp};
	}
	for (int i = 0; i < count; i++)
		chunks[i].c = i;
	return count;
}

/* None; of 1 .. L layers each selection and full. */
static int recompute_of(int layers)
{
	return 1 + layers * MT_CASE_SELECTIONS;
}

int64_t mt_survey_inner_layouts(const struct mt_survey_query *query, const struct mt_survey_layout *layout, int groups)
{
	struct mt_survey_choice chunks[MT_SURVEY_CHUNK_CHOICES];
	int layers = mt_survey_stage_layers(query, layout);

	return 4 * MT_RANK_ORDERS * (int64_t)groups * recompute_of(layers) * chunks_of(chunks, layers, layout->pp > 1);
}

static void free_inner(struct mt_survey_inner *inner)
{
	if (inner) {
		free(inner->recompute);
		free(inner->recompute_broken);
		free(inner->chunk_kept);
		free(inner->chunk_broken);
	}
	free(inner);
}

enum mt_status mt_survey_allowed_create(struct mt_survey_allowed **allowed, const struct mt_survey_query *query)
{
	struct mt_survey_allowed *a = calloc(1, sizeof *a);

	*allowed = a;
	if (!a)
		return mt_fail(MT_NOMEM, "no memory for the search");
	a->query = query;
	a->inner_count = 2 * ((int)query->model.layers + 2);
	a->inners = calloc((size_t)a->inner_count, sizeof(struct mt_survey_inner *));
	mt_survey_groups(&a->groups, query);
	a->group_rules = calloc((size_t)a->groups.count, sizeof(int *));
	return a->inners && a->group_rules ? MT_OK : mt_fail(MT_NOMEM, "no memory for the search");
}

void mt_survey_allowed_destroy(struct mt_survey_allowed *allowed)
{
	for (int i = 0; allowed && allowed->inners && i < allowed->inner_count; i++)
		free_inner(allowed->inners[i]);
	for (int i = 0; allowed && allowed->group_rules && i < allowed->groups.count; i++)
		free(allowed->group_rules[i]);
	if (allowed) {
		free(allowed->inners);
		free(allowed->group_rules);
	}
	free(allowed);
}

/* Of recompute what keeps its rules: they read how many layers the stage has, not which layout it is of. */
static void ask_recompute(struct mt_survey_inner *inner, const struct mt_survey_query *query, struct mt_survey_layout at)
{
	for (int i = 0; i < inner->recompute_all; i++) {
		int kind = i % MT_CASE_SELECTIONS, rule; /* 1 .. 7: a selection, 0: full */

		at.recompute = i == 0 ? MT_CASE_NONE : kind == 0 ? MT_CASE_FULL : MT_CASE_SELECTIVE;
		at.recompute_layers = i == 0 ? 0 : 1 + (i - 1) / MT_CASE_SELECTIONS;
		at.selected = kind;
		rule = mt_survey_first_broken(query, &at, MT_SURVEY_RECOMPUTE);
		if (rule >= 0)
			inner->recompute_broken[rule]++;
		else
			inner->recompute[inner->recompute_count++] =
				(struct mt_survey_choice){at.recompute, at.recompute_layers, at.selected};
	}
}

/* What of recompute goes with each choice of chunks: those rules read vp and the number of layers. */
static void ask_chunks(struct mt_survey_inner *inner, const struct mt_survey_query *query, struct mt_survey_layout at)
{
	for (int i = 0; i < inner->chunk_count; i++) {
		at.schedule = inner->chunks[i].a;
		at.vp = inner->chunks[i].b;
		for (int k = 0; k < inner->recompute_count; k++) {
			at.recompute = inner->recompute[k].a;
			at.recompute_layers = inner->recompute[k].b;
			at.selected = inner->recompute[k].c;
			int rule = mt_survey_first_broken(query, &at, MT_SURVEY_ALL);
			if (rule >= 0)
				inner->chunk_broken[i * mt_survey_rule_count + rule]++;
			else
				inner->chunk_kept[i]++;
		}
	}
}

/* The axes of a pp with its end stages; kept. */
static enum mt_status open_inner(struct mt_survey_allowed *a, const struct mt_survey_layout *at)
{
	int layers = mt_survey_stage_layers(a->query, at);
	struct mt_survey_inner **slot = &a->inners[2 * layers + (at->pp > 1)], *inner;

	a->inner = *slot;
	if (*slot)
		return MT_OK;
	inner = *slot = calloc(1, sizeof *inner);
	if (!inner)
		return mt_fail(MT_NOMEM, "no memory for the search");
	inner->recompute_all = recompute_of(layers);
	inner->recompute = calloc((size_t)inner->recompute_all, sizeof *inner->recompute);
	inner->recompute_broken = calloc((size_t)mt_survey_rule_count, sizeof *inner->recompute_broken);
	inner->chunk_count = chunks_of(inner->chunks, layers, at->pp > 1);
	inner->chunk_kept = calloc((size_t)inner->chunk_count, sizeof *inner->chunk_kept);
	inner->chunk_broken = calloc((size_t)inner->chunk_count * (size_t)mt_survey_rule_count, sizeof *inner->chunk_broken);
	if (!inner->recompute || !inner->recompute_broken || !inner->chunk_kept || !inner->chunk_broken)
		return mt_fail(MT_NOMEM, "no memory for the search");
	ask_recompute(inner, a->query, *at);
	ask_chunks(inner, a->query, *at);
	a->inner = inner;
	return MT_OK;
}

/* The rule that each group breaks, -1: none, without zero and then with. Rules of groups read how many ranks could shard, a divisor
 * of the number of accelerators, and whether any do. Kept; NULL: no memory. */
static const int *rules_of_groups(struct mt_survey_allowed *a, struct mt_survey_layout at)
{
	int count = a->groups.count, ranks = at.dp * at.cp, slot = 0, *rules;

	while (slot < count - 1 && a->groups.values[slot] != ranks)
		slot++;
	slot = ranks > 1 ? slot : 0;
	if (a->group_rules[slot])
		return a->group_rules[slot];
	rules = a->group_rules[slot] = calloc(2 * (size_t)count, sizeof *rules);
	for (at.zero = 0; rules && at.zero <= 1; at.zero++) {
		for (int i = 0; i < count; i++) {
			at.zero_group = a->groups.values[i];
			rules[at.zero * count + i] = mt_survey_first_broken(a->query, &at, MT_SURVEY_GROUP);
		}
	}
	return rules;
}

/* Orders of ranks that are allowed, of a stage of zero with its group and a schedule. */
static void allow_orders(struct mt_survey_allowed *a, int64_t *rejected, const struct mt_survey_layout *at, int64_t inside)
{
	for (int order = 0; order < MT_RANK_ORDERS; order++) {
		if (a->order_rule[order] >= 0)
			rejected[a->order_rule[order]] += inside;
		else
			a->shards[at->schedule][a->shard_count[at->schedule]++] =
				(struct mt_survey_choice){at->zero, at->zero_group, order};
	}
}

/* Stages of zero, their groups and orders of ranks of a schedule that `chunks` choices have. */
static void allow_shards(struct mt_survey_allowed *a, int64_t *rejected, struct mt_survey_layout at, int64_t chunks,
			 const int *group_rules)
{
	int64_t inside = chunks * a->inner->recompute_all;

	a->shard_count[at.schedule] = 0;
	for (at.zero = 0; chunks > 0 && at.zero < 4; at.zero++) {
		int rule = mt_survey_first_broken(a->query, &at, MT_SURVEY_ZERO);

		if (rule >= 0) {
			rejected[rule] += inside * a->groups.count * MT_RANK_ORDERS;
			continue;
		}
		for (int i = 0; i < a->groups.count; i++) {
			at.zero_group = a->groups.values[i];
			rule = group_rules[(at.zero > 0) * a->groups.count + i];
			if (rule >= 0)
				rejected[rule] += inside * MT_RANK_ORDERS;
			else
				allow_orders(a, rejected, &at, inside);
		}
	}
}

static enum mt_status allow_all_shards(struct mt_survey_allowed *a, int64_t *rejected, struct mt_survey_layout at)
{
	const int *group_rules = rules_of_groups(a, at);

	if (!group_rules)
		return mt_fail(MT_NOMEM, "no memory for the search");
	for (at.rank_order = 0; at.rank_order < MT_RANK_ORDERS; at.rank_order++)
		a->order_rule[at.rank_order] = mt_survey_first_broken(a->query, &at, MT_SURVEY_RANKS);
	for (at.schedule = 0; at.schedule < MT_SURVEY_SCHEDULES; at.schedule++) {
		int64_t chunks = 0;

		for (int i = 0; i < a->chunk_count; i++)
			chunks += a->chunks[i].a == at.schedule;
		allow_shards(a, rejected, at, chunks, group_rules);
	}
	return MT_OK;
}

enum mt_status mt_survey_allow(struct mt_survey_allowed *a, int64_t *rejected, const struct mt_survey_layout *node)
{
	struct mt_survey_layout at = *node;
	int64_t inside, layouts = 0;

	MT_TRY(open_inner(a, &at));
	inside = 4 * MT_RANK_ORDERS * (int64_t)a->groups.count * a->inner->recompute_all;
	a->chunk_count = 0;
	for (int i = 0; i < a->inner->chunk_count; i++) {
		at.schedule = a->inner->chunks[i].a;
		at.vp = a->inner->chunks[i].b;
		int rule = mt_survey_first_broken(a->query, &at, MT_SURVEY_CHUNKS);
		if (rule < 0)
			a->chunks[a->chunk_count++] = a->inner->chunks[i];
		else
			rejected[rule] += inside;
	}
	at.vp = 1;
	MT_TRY(allow_all_shards(a, rejected, at));
	for (int i = 0; i < a->chunk_count; i++)
		layouts += a->shard_count[a->chunks[i].a];
	for (int i = 0; i < mt_survey_rule_count; i++)
		rejected[i] += a->inner->recompute_broken[i] * layouts;
	return MT_OK;
}

int64_t mt_survey_allow_all(const struct mt_survey_allowed *a, int64_t *rejected)
{
	int64_t left = 0;

	for (int i = 0; i < a->chunk_count; i++) {
		int64_t shards = a->shard_count[a->chunks[i].a];
		const int *broken = &a->inner->chunk_broken[a->chunks[i].c * mt_survey_rule_count];

		left += shards * a->inner->chunk_kept[a->chunks[i].c];
		for (int rule = 0; rule < mt_survey_rule_count; rule++)
			rejected[rule] += shards * broken[rule];
	}
	return left;
}

int64_t mt_survey_allow_chunks(struct mt_survey_choice *chunks, int *count, const struct mt_survey_allowed *a, int64_t *rejected,
			       struct mt_survey_layout at)
{
	int64_t left = 0;

	*count = 0;
	for (int i = 0; i < a->chunk_count; i++) {
		int shards = a->shard_count[a->chunks[i].a], rule;

		at.schedule = a->chunks[i].a;
		at.vp = a->chunks[i].b;
		rule = mt_survey_first_broken(a->query, &at, MT_SURVEY_ALL);
		if (rule >= 0) {
			rejected[rule] += shards;
		} else if (shards > 0) {
			chunks[(*count)++] = a->chunks[i];
			left += shards;
		}
	}
	return left;
}
