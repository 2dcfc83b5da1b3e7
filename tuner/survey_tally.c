/* survey_tally: how many layouts of nodes that are not visited break which rule. Rules of the inner axes read of a node only its
 * cp, pp, dp, micro-batch and end stages, and whether the experts' ranks are as many as tp * cp: they are asked once of all nodes
 * alike in these. A hash table, open addressing. */
#include "tuner/survey_space.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool folds(const struct mt_survey_layout *l)
{
	return (int64_t)l->etp * l->ep == (int64_t)l->tp * l->cp;
}

static bool alike(const struct mt_survey_alike *a, const struct mt_survey_layout *l, bool l_folds)
{
	const struct mt_survey_layout *k = &a->layout;

	return k->cp == l->cp && k->pp == l->pp && k->dp == l->dp && k->mbs == l->mbs && k->first_less == l->first_less &&
	       k->last_less == l->last_less && a->folds == l_folds;
}

/* The slot of those alike, or the empty one that is theirs. */
static struct mt_survey_alike *slot_of(const struct mt_survey_tally *tally, const struct mt_survey_layout *l, bool l_folds)
{
	const int numbers[] = {l->cp, l->pp, l->dp, l->mbs, l->first_less, l->last_less, l_folds};
	uint64_t hash = 1469598103934665603u; /* FNV-1a, by numbers */
	size_t at;

	for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
		hash = (hash ^ (uint64_t)numbers[i]) * 1099511628211u;
	at = (size_t)(hash ^ hash >> 32) & (size_t)(tally->room - 1);
	while (tally->slots[at].too_slow + tally->slots[at].too_large > 0 && !alike(&tally->slots[at], l, l_folds))
		at = (at + 1) & (size_t)(tally->room - 1);
	return &tally->slots[at];
}

static enum mt_status grow(struct mt_survey_tally *tally)
{
	struct mt_survey_tally grown = {.count = tally->count, .room = tally->room ? 2 * tally->room : 1024};

	grown.slots = calloc((size_t)grown.room, sizeof *grown.slots);
	if (!grown.slots)
		return mt_fail(MT_NOMEM, "no memory to count %d kinds of layouts", grown.room);
	for (int i = 0; i < tally->room; i++) {
		const struct mt_survey_alike *a = &tally->slots[i];

		if (a->too_slow + a->too_large > 0)
			*slot_of(&grown, &a->layout, a->folds) = *a;
	}
	free(tally->slots);
	*tally = grown;
	return MT_OK;
}

enum mt_status mt_survey_tally_add(struct mt_survey_tally *tally, const struct mt_survey_node *node, bool too_large)
{
	bool node_folds = folds(&node->layout);
	struct mt_survey_alike *a;

	if (2 * tally->count >= tally->room)
		MT_TRY(grow(tally));
	a = slot_of(tally, &node->layout, node_folds);
	if (a->too_slow + a->too_large == 0) {
		*a = (struct mt_survey_alike){.layout = node->layout, .folds = node_folds, .least_bytes = INFINITY};
		tally->count++;
	}
	if (too_large) {
		a->too_large++;
		a->least_bytes = fmin(a->least_bytes, node->least_bytes);
	} else {
		a->too_slow++;
	}
	return MT_OK;
}

static enum mt_status count_alike(const struct mt_survey_alike *a, struct mt_survey *survey, struct mt_survey_allowed *allowed,
				  int64_t *rejected)
{
	int64_t layouts, nodes = a->too_slow + a->too_large;

	memset(rejected, 0, (size_t)mt_survey_rule_count * sizeof *rejected);
	MT_TRY(mt_survey_allow(allowed, rejected, &a->layout));
	layouts = mt_survey_allow_all(allowed, rejected);
	survey->pruned_time += a->too_slow * layouts;
	survey->pruned_memory += a->too_large * layouts;
	if (layouts > 0)
		survey->least_bytes = fmin(survey->least_bytes, a->least_bytes);
	for (int i = 0; i < mt_survey_rule_count; i++)
		survey->rejected[i] += nodes * rejected[i];
	return MT_OK;
}

enum mt_status mt_survey_tally_close(struct mt_survey_tally *tally, struct mt_survey *survey, struct mt_survey_allowed *allowed)
{
	int64_t *rejected = calloc((size_t)mt_survey_rule_count, sizeof *rejected);
	enum mt_status st = rejected ? MT_OK : mt_fail(MT_NOMEM, "no memory for the search");

	for (int i = 0; st == MT_OK && i < tally->room; i++) {
		if (tally->slots[i].too_slow + tally->slots[i].too_large > 0)
			st = count_alike(&tally->slots[i], survey, allowed, rejected);
	}
	free(rejected);
	free(tally->slots);
	*tally = (struct mt_survey_tally){0};
	return st;
}
