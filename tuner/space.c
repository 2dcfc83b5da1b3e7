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

enum mt_status mt_space_add(struct mt_space *space, const struct mt_candidate *candidate)
{
	if (space->count == space->capacity) {
		int capacity = space->capacity ? 2 * space->capacity : 256;
		struct mt_candidate *grown = realloc(space->candidates, (size_t)capacity * sizeof *grown);

		if (!grown)
			return mt_fail(MT_NOMEM, "no memory for %d candidates", capacity);
		space->candidates = grown;
		space->capacity = capacity;
	}
	space->candidates[space->count++] = *candidate;
	return MT_OK;
}

static enum mt_status consider(struct mt_space *space, const struct mt_model *model, const struct mt_layout *layout)
{
	int rule = mt_layout_first_broken(model, layout);

	space->considered++;
	if (rule < 0)
		return mt_space_add(space, &(struct mt_candidate){.layout = *layout});
	space->rejected[rule]++;
	return MT_OK;
}

/* An enumeration under way. */
struct walk {
	struct mt_space *space;
	const struct mt_model *model;
	const struct mt_axes *axes; /* of cp and ep with every value in its list */
	int world;
};

/* False where every value of the axis means the same. */
static bool matters(const struct walk *w, const struct mt_layout *l, enum mt_axis axis)
{
	switch (axis) {
	case MT_AXIS_SP:
		return l->tp > 1;
	case MT_AXIS_ZERO:
		return l->dp * l->cp > 1;
	case MT_AXIS_ZERO_GROUP:
		return l->zero > 0;
	case MT_AXIS_RECOMPUTE_LAYERS:
		return l->recompute != MT_RECOMPUTE_NONE;
	case MT_AXIS_RECOMPUTE_STAGES:
		return l->recompute != MT_RECOMPUTE_NONE && l->pp > 1;
	case MT_AXIS_CP_KIND:
		return l->cp > 1;
	case MT_AXIS_EP:
		return w->model->experts > 0;
	case MT_AXIS_ETP:
		return w->model->experts > 0 && l->tp > 1;
	case MT_AXIS_SCHEDULE:
	case MT_AXIS_FIRST_LAYERS:
	case MT_AXIS_LAST_LAYERS:
		return l->pp > 1;
	case MT_AXIS_VP:
		return l->pp > 1 && l->schedule == MT_SCHEDULE_1F1B;
	case MT_AXIS_VP_GROUP:
		return l->vp > 1 && l->schedule == MT_SCHEDULE_1F1B;
	case MT_AXIS_BUCKET_BYTES:
		return l->dp * l->cp > 1;
	default:
		return true;
	}
}

/* The value of an axis that does not matter. */
static int64_t neutral(const struct mt_layout *l, enum mt_axis axis)
{
	if (axis == MT_AXIS_VP)
		return l->schedule == MT_SCHEDULE_ZB_V ? 2 : 1;
	if (axis == MT_AXIS_BUCKET_BYTES)
		return l->bucket_bytes;
	return axis == MT_AXIS_EP ? 1 : 0; /* off, none, ring, 1f1b */
}

static enum mt_status choose(const struct walk *w, struct mt_layout layout, enum mt_axis axis);

/* Heads exchanged by some of the ranks: by all it is ulysses, by one a ring. */
static enum mt_status choose_inner(const struct walk *w, struct mt_layout layout, enum mt_axis next)
{
	if (layout.cp_inner > 1) /* the base's */
		return choose(w, layout, next);
	for (layout.cp_inner = 2; layout.cp_inner < layout.cp; layout.cp_inner++) {
		if (layout.cp % layout.cp_inner == 0)
			MT_TRY(choose(w, layout, next));
	}
	return MT_OK;
}

static enum mt_status choose(const struct walk *w, struct mt_layout layout, enum mt_axis axis)
{
	bool free;

	if (axis == MT_AXES)
		return consider(w->space, w->model, &layout);
	free = matters(w, &layout, axis);
	for (int i = 0; i < (free ? w->axes->count[axis] : 1); i++) {
		mt_axis_set(&layout, axis, free ? w->axes->values[axis][i] : neutral(&layout, axis));
		if (axis == MT_AXIS_CP_KIND && layout.cp_kind == MT_CONTEXT_HYBRID)
			MT_TRY(choose_inner(w, layout, axis + 1));
		else
			MT_TRY(choose(w, layout, axis + 1));
	}
	return MT_OK;
}

/* Without a list micro-batches that do not divide the batch of a data-parallel rank are no layouts at all. */
static enum mt_status choose_mbs(const struct walk *w, struct mt_layout layout)
{
	for (int i = 0; i < w->axes->count[MT_AXIS_MBS]; i++) {
		layout.mbs = w->axes->values[MT_AXIS_MBS][i];
		MT_TRY(choose(w, layout, MT_AXIS_MBS + 1));
	}
	for (layout.mbs = 1; w->axes->count[MT_AXIS_MBS] == 0 && layout.mbs <= layout.gbs; layout.mbs++) {
		if (layout.gbs % (layout.dp * layout.mbs) == 0 || (layout.mbs == 1 && layout.gbs % layout.dp != 0))
			MT_TRY(choose(w, layout, MT_AXIS_MBS + 1));
	}
	return MT_OK;
}

static bool listed(const struct mt_axes *axes, enum mt_axis axis, int64_t value)
{
	bool in = axes->count[axis] == 0;

	for (int i = 0; i < axes->count[axis]; i++)
		in |= axes->values[axis][i] == value;
	return in;
}

static enum mt_status consider_grids(const struct walk *w, struct mt_layout layout)
{
	for (int i = 0; i < w->axes->count[MT_AXIS_CP]; i++) {
		int64_t cp = w->axes->values[MT_AXIS_CP][i], rest = w->world / cp;

		for (int64_t tp = 1; w->world % cp == 0 && tp <= rest; tp++) {
			for (int64_t pp = 1; rest % tp == 0 && pp <= rest / tp; pp++) {
				if (rest / tp % pp || !listed(w->axes, MT_AXIS_TP, tp) || !listed(w->axes, MT_AXIS_PP, pp))
					continue;
				layout.cp = cp;
				layout.tp = tp;
				layout.pp = pp;
				layout.dp = rest / tp / pp;
				MT_TRY(choose_mbs(w, layout));
			}
		}
	}
	return MT_OK;
}

/* The common divisors of both, the least of them where there are more than an axis holds. */
static void list_divisors(struct mt_axes *axes, enum mt_axis axis, int64_t a, int64_t b)
{
	for (int64_t value = 1; value <= a && axes->count[axis] < MT_AXIS_VALUES; value++) {
		if (a % value == 0 && b % value == 0)
			axes->values[axis][axes->count[axis]++] = value;
	}
}

enum mt_status mt_space_enumerate(struct mt_space *space, const struct mt_model *model, const struct mt_layout *base, int world,
				  const int64_t *threads, int thread_count, const struct mt_axes *axes)
{
	struct mt_axes all;
	struct walk w = {.space = space, .model = model, .axes = &all, .world = world};
	struct mt_layout layout = *base;

	memset(space, 0, sizeof *space);
	space->rejected = calloc((size_t)mt_space_rule_count(), sizeof *space->rejected);
	if (!space->rejected)
		return mt_fail(MT_NOMEM, "no memory for the search");
	if (axes)
		all = *axes;
	else
		mt_axes_plain(&all, base);
	if (all.count[MT_AXIS_CP] == 0)
		list_divisors(&all, MT_AXIS_CP, world, world);
	if (all.count[MT_AXIS_EP] == 0)
		list_divisors(&all, MT_AXIS_EP, model->experts > 0 ? model->experts : 1, world);
	for (int i = 0; i < (thread_count > 0 ? thread_count : 1); i++) {
		layout.threads = thread_count > 0 ? threads[i] : base->threads;
		MT_TRY(consider_grids(&w, layout));
	}
	return MT_OK;
}

static void free_candidate(struct mt_candidate *c)
{
	free(c->stage);
	free(c->rank_order);
	free(c->steps);
	free(c->measured_peak_bytes);
	free(c->measured_resident_bytes);
	free(c->measured_scratch_bytes);
}

void mt_space_free(struct mt_space *space)
{
	for (int i = 0; i < space->count; i++)
		free_candidate(&space->candidates[i]);
	free(space->candidates);
	free(space->rejected);
	memset(space, 0, sizeof *space);
}

bool mt_stage_fits(const struct mt_stage_prediction *stage, int64_t limit_bytes, int64_t device_limit_bytes)
{
	return (limit_bytes == 0 || stage->resident_bytes <= limit_bytes) &&
	       (device_limit_bytes == 0 || stage->device_bytes <= device_limit_bytes);
}

static bool fits(const struct mt_candidate *c, int64_t limit_bytes, int64_t device_limit_bytes)
{
	if (!c->stage)
		return c->room != MT_ROOM_LACKS;
	for (int s = 0; s < c->stages; s++) {
		if (!mt_stage_fits(&c->stage[s], limit_bytes, device_limit_bytes))
			return false;
	}
	return true;
}

void mt_space_drop_large(struct mt_space *space, int64_t limit_bytes, int64_t device_limit_bytes)
{
	int kept = 0;

	for (int i = 0; i < space->count; i++) {
		struct mt_candidate c = space->candidates[i];

		if (!fits(&c, limit_bytes, device_limit_bytes)) {
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
