/* space: enumeration of layouts; see candidate.h. */
#include "tuner/candidate.h"

#include <stdlib.h>
#include <string.h>

int mt_space_rule_count(void)
{
	return mt_layout_rule_count + 1;
}

const char *mt_space_rule_name(int rule)
{
	return rule < mt_layout_rule_count ? mt_layout_rules[rule].name : "exceeds_memory";
}

const char *mt_space_rule_text(int rule)
{
	return rule < mt_layout_rule_count ? mt_layout_rules[rule].text
					   : "the predicted resident size of a stage must fit the memory of a rank";
}

static enum mt_status keep(struct mt_space *space, const struct mt_layout *layout)
{
	if (space->count == space->capacity) {
		int capacity = space->capacity ? 2 * space->capacity : 256;
		struct mt_candidate *grown = realloc(space->candidates, (size_t)capacity * sizeof *grown);

		if (!grown)
			return mt_fail(MT_NOMEM, "no memory for %d candidates", capacity);
		space->candidates = grown;
		space->capacity = capacity;
	}
	memset(&space->candidates[space->count], 0, sizeof *space->candidates);
	space->candidates[space->count++].layout = *layout;
	return MT_OK;
}

static enum mt_status consider(struct mt_space *space, const struct mt_model *model, const struct mt_layout *layout)
{
	int rule = mt_layout_first_broken(model, layout);

	space->considered++;
	if (rule < 0)
		return keep(space, layout);
	space->rejected[rule]++;
	return MT_OK;
}

/* The switches of one (tp, pp, dp, micro-batch). Combinations that mean the same as another are not listed twice:
 * sequence parallelism is a choice only with tp > 1, sharding only with dp or cp > 1. */
static enum mt_status consider_switches(struct mt_space *space, const struct mt_model *model, struct mt_layout layout)
{
	for (int sp = 0; sp <= (layout.tp > 1); sp++) {
		for (int zero = 0; zero <= (layout.dp * layout.cp > 1); zero++) {
			for (int recompute = MT_RECOMPUTE_NONE; recompute <= MT_RECOMPUTE_FULL; recompute++) {
				layout.sp = sp;
				layout.zero = zero;
				layout.recompute = recompute;
				MT_TRY(consider(space, model, &layout));
			}
		}
	}
	return MT_OK;
}

static enum mt_status consider_grids(struct mt_space *space, const struct mt_model *model, const struct mt_layout *base, int world)
{
	struct mt_layout layout = *base;

	int rest = world / (int)layout.cp; /* context parallelism is the base layout's */

	for (int tp = 1; world % layout.cp == 0 && tp <= rest; tp++) {
		for (int pp = 1; rest % tp == 0 && pp <= rest / tp; pp++) {
			if (rest / tp % pp)
				continue;
			layout.tp = tp;
			layout.pp = pp;
			layout.dp = rest / tp / pp;
			/* Micro-batches that do not divide the batch of a data-parallel rank are no layouts at all. */
			for (int64_t mbs = 1; mbs <= base->gbs; mbs++) {
				layout.mbs = mbs;
				if (base->gbs % (layout.dp * mbs) && (mbs > 1 || base->gbs % layout.dp == 0))
					continue;
				MT_TRY(consider_switches(space, model, layout));
			}
		}
	}
	return MT_OK;
}

enum mt_status mt_space_enumerate(struct mt_space *space, const struct mt_model *model, const struct mt_layout *base, int world,
				  const int64_t *threads, int thread_count)
{
	struct mt_layout layout = *base;

	memset(space, 0, sizeof *space);
	space->rejected = calloc((size_t)mt_space_rule_count(), sizeof *space->rejected);
	if (!space->rejected)
		return mt_fail(MT_NOMEM, "no memory for the search");
	for (int i = 0; i < (thread_count > 0 ? thread_count : 1); i++) {
		layout.threads = thread_count > 0 ? threads[i] : base->threads;
		MT_TRY(consider_grids(space, model, &layout, world));
	}
	return MT_OK;
}

static void free_candidate(struct mt_candidate *c)
{
	free(c->stage);
	free(c->steps);
	free(c->measured_peak_bytes);
	free(c->measured_resident_bytes);
}

void mt_space_free(struct mt_space *space)
{
	for (int i = 0; i < space->count; i++)
		free_candidate(&space->candidates[i]);
	free(space->candidates);
	free(space->rejected);
	memset(space, 0, sizeof *space);
}

static bool fits(const struct mt_candidate *c, int64_t limit_bytes)
{
	for (int s = 0; s < c->stages; s++) {
		if (c->stage[s].resident_bytes > limit_bytes)
			return false;
	}
	return true;
}

void mt_space_drop_large(struct mt_space *space, int64_t limit_bytes)
{
	int kept = 0;

	for (int i = 0; i < space->count; i++) {
		struct mt_candidate c = space->candidates[i];

		if (limit_bytes > 0 && !fits(&c, limit_bytes)) {
			space->rejected[mt_layout_rule_count]++;
			free_candidate(&c);
		} else {
			space->candidates[kept++] = c;
		}
	}
	space->count = kept;
}

/* 0 measured, 1 predicted by dry run, 2 by cards, 3 failed. */
static int class_of(const struct mt_candidate *c)
{
	if (c->failed)
		return 3;
	if (c->run)
		return 0;
	return c->fidelity == MT_FIDELITY_DRY ? 1 : 2;
}

static int order(const void *a, const void *b)
{
	const struct mt_candidate *p = a, *q = b;
	double x = p->run && !p->failed ? p->measured_s : p->step_s, y = q->run && !q->failed ? q->measured_s : q->step_s;

	if (class_of(p) != class_of(q))
		return class_of(p) - class_of(q);
	return (x > y) - (x < y);
}

void mt_space_sort(struct mt_space *space)
{
	qsort(space->candidates, (size_t)space->count, sizeof *space->candidates, order);
}
