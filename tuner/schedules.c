/* schedules: see schedules.h.
 *
 * In the middle of a step stages do the same for each group of micro-batches. 1F1B and H1 of fewer micro-batches are short of
 * groups, and else the same. The order of a V is found by trying, and of fewer micro-batches it may be quite another: there the
 * short ones are cut out of the order of all micro-batches, where every stage repeats itself after as many of them. */
#include "tuner/schedules.h"

#include <stdlib.h>

static void free_lists(struct mt_action_list **lists, int stages)
{
	for (int s = 0; *lists && s < stages; s++)
		mt_schedule_free(&(*lists)[s]);
	free(*lists);
	*lists = NULL;
}

static void drop(struct mt_schedules_entry *e)
{
	free_lists(&e->lists, e->shape.stages);
	free_lists(&e->cuts[0], e->shape.stages);
	free_lists(&e->cuts[1], e->shape.stages);
	*e = (struct mt_schedules_entry){0};
}

void mt_schedules_free(struct mt_schedules *schedules)
{
	for (int i = 0; i < MT_SCHEDULES_KEPT; i++)
		drop(&schedules->kept[i]);
}

static enum mt_status make_lists(struct mt_action_list **lists, int stages)
{
	*lists = calloc((size_t)stages, sizeof **lists);
	return *lists ? MT_OK : mt_fail(MT_NOMEM, "no memory for the schedules of %d stages", stages);
}

static bool equal(const struct mt_schedule_shape *a, const struct mt_schedule_shape *b)
{
	return a->kind == b->kind && a->stages == b->stages && a->chunks == b->chunks && a->microbatches == b->microbatches &&
	       a->group == b->group;
}

static enum mt_status find(struct mt_schedules *schedules, const struct mt_schedule_shape *shape, struct mt_schedules_entry **found)
{
	struct mt_schedules_entry *oldest = &schedules->kept[0];
	enum mt_status st;

	for (int i = 0; i < MT_SCHEDULES_KEPT; i++) {
		struct mt_schedules_entry *e = &schedules->kept[i];

		if (e->lists && equal(&e->shape, shape)) {
			e->asked = ++schedules->asked;
			*found = e;
			return MT_OK;
		}
		oldest = e->asked < oldest->asked ? e : oldest;
	}
	drop(oldest);
	MT_TRY(make_lists(&oldest->lists, shape->stages));
	oldest->shape = *shape;
	oldest->asked = ++schedules->asked;
	*found = oldest;
	st = mt_schedule_create_all(oldest->lists, shape);
	if (st != MT_OK)
		drop(oldest);
	return st;
}

enum mt_status mt_schedules_find(struct mt_schedules *schedules, const struct mt_schedule_shape *shape,
				 const struct mt_action_list **lists)
{
	struct mt_schedules_entry *found;

	MT_TRY(find(schedules, shape, &found));
	*lists = found->lists;
	return MT_OK;
}

/* ---- cuts ---- */

/* Whether action i is that of `period` before for a micro-batch `shift` later. */
static bool repeats(const struct mt_action_list *list, int64_t i, int64_t period, int64_t shift)
{
	const struct mt_action *a = &list->actions[i], *before = a - period;

	return a->kind == before->kind && a->chunk == before->chunk && a->microbatch == before->microbatch + shift;
}

/* Where in the middle a stage begins to repeat itself after `shift` micro-batches, and how often it does. */
static int64_t find_repeats(const struct mt_action_list *list, int64_t period, int64_t shift, int64_t *from)
{
	int64_t to = list->count / 2;

	for (*from = to; *from > period && repeats(list, *from - 1, period, shift);)
		--*from;
	while (to < list->count && repeats(list, to, period, shift))
		to++;
	return to > *from ? (to - *from) / period : 0;
}

/* The list without `times` periods from an action on; later micro-batches move up. */
static enum mt_status cut(struct mt_action_list *out, const struct mt_action_list *list, int64_t from, int64_t period,
			  int64_t shift, int64_t times)
{
	int64_t left = times * period;

	*out = (struct mt_action_list){.count = list->count - left, .in_flight = list->in_flight, .sends = list->sends};
	out->actions = malloc((size_t)out->count * sizeof *out->actions);
	if (!out->actions)
		return mt_fail(MT_NOMEM, "no memory for a schedule of %lld actions", (long long)out->count);
	for (int64_t i = 0; i < out->count; i++) {
		out->actions[i] = list->actions[i < from ? i : i + left];
		out->actions[i].microbatch -= i < from ? 0 : times * shift;
	}
	return MT_OK;
}

static enum mt_status cut_all(struct mt_schedules_entry *e, int64_t shift, int64_t times)
{
	for (int k = 0; k < 2; k++) {
		free_lists(&e->cuts[k], e->shape.stages); /* of a try that failed */
		MT_TRY(make_lists(&e->cuts[k], e->shape.stages));
		for (int s = 0; s < e->shape.stages; s++) {
			int64_t period = e->lists[s].count / e->shape.microbatches * shift, from;

			find_repeats(&e->lists[s], period, shift, &from);
			MT_TRY(cut(&e->cuts[k][s], &e->lists[s], from, period, shift, times + k));
		}
		e->cut.lists[k] = e->cuts[k];
		e->cut.microbatches[k] = e->shape.microbatches - (times + k) * shift;
	}
	e->cut.times = times;
	return MT_OK;
}

/* Cuts what is more than `least` micro-batches out of a V, as far as it repeats itself. */
static enum mt_status cut_v(struct mt_schedules_entry *e, int64_t least)
{
	int64_t m = e->shape.microbatches;

	e->cut = (struct mt_schedule_pair){{e->lists, NULL}, {m, 0}, 0};
	for (int64_t shift = 1; shift <= 2 * e->shape.stages && m - 2 * shift >= least; shift++) {
		int64_t times = (m - least) / shift, from;

		for (int s = 0; s < e->shape.stages && times > 1; s++) {
			int64_t found = find_repeats(&e->lists[s], e->lists[s].count / m * shift, shift, &from);

			times = found < times ? found : times;
		}
		if (times > 1)
			return cut_all(e, shift, times - 1);
	}
	return MT_OK;
}

enum mt_status mt_schedules_pair(struct mt_schedules *schedules, const struct mt_schedule_shape *shape,
				 struct mt_schedule_pair *pair)
{
	int64_t group = shape->group > 0 ? shape->group : shape->stages, settled = 6 * group + 2, m = shape->microbatches;
	struct mt_schedule_shape few = *shape;
	struct mt_schedules_entry *found;

	*pair = (struct mt_schedule_pair){.microbatches = {m}};
	if (m <= settled + group)
		return mt_schedules_find(schedules, shape, &pair->lists[0]);
	if (shape->kind == MT_SCHEDULE_ZB_V) {
		MT_TRY(find(schedules, shape, &found));
		if (!found->cut.lists[0])
			MT_TRY(cut_v(found, settled));
		*pair = found->cut;
		return MT_OK;
	}
	pair->times = (m - settled) / group;
	for (int k = 0; k < 2; k++) {
		few.microbatches = settled + (m - settled) % group - k * group;
		pair->microbatches[k] = few.microbatches;
		MT_TRY(mt_schedules_find(schedules, &few, &pair->lists[k]));
	}
	return MT_OK;
}
