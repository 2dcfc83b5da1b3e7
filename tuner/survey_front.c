/* survey_front: the best few by time, and the front of time against memory. Equal values are told apart by the layout itself, so
 * that what is kept does not depend on the order in which layouts come: any number of threads finds the same. */
#include "tuner/survey_space.h"

#include <stdlib.h>
#include <string.h>

int mt_survey_order(const struct mt_survey_layout *a, const struct mt_survey_layout *b)
{
	const int x[] = {a->pp,       a->tp,         a->cp,         a->ep,        a->vp,
			 a->mbs,      a->sp,         a->zero,       a->recompute, a->recompute_layers,
			 a->schedule, a->etp,        a->first_less, a->last_less, a->cp_kind,
			 a->cp_inner, a->tp_overlap, a->zero_group, a->selected,  a->rank_order};
	const int y[] = {b->pp,       b->tp,         b->cp,         b->ep,        b->vp,
			 b->mbs,      b->sp,         b->zero,       b->recompute, b->recompute_layers,
			 b->schedule, b->etp,        b->first_less, b->last_less, b->cp_kind,
			 b->cp_inner, b->tp_overlap, b->zero_group, b->selected,  b->rank_order};

	for (size_t i = 0; i < sizeof x / sizeof x[0]; i++) {
		if (x[i] != y[i])
			return x[i] < y[i] ? -1 : 1;
	}
	return 0;
}

static int compare(const struct mt_survey_point *a, const struct mt_survey_point *b)
{
	if (a->step_s != b->step_s)
		return a->step_s < b->step_s ? -1 : 1;
	if (a->peak_bytes != b->peak_bytes)
		return a->peak_bytes < b->peak_bytes ? -1 : 1;
	return mt_survey_order(&a->layout, &b->layout);
}

static enum mt_status insert(struct mt_survey_front *front, int at, const struct mt_survey_point *point)
{
	if (front->count == front->capacity) {
		int capacity = front->capacity ? 2 * front->capacity : 64;
		struct mt_survey_point *grown = realloc(front->points, (size_t)capacity * sizeof *grown);

		if (!grown)
			return mt_fail(MT_NOMEM, "no memory for %d layouts", capacity);
		front->points = grown;
		front->capacity = capacity;
	}
	memmove(&front->points[at + 1], &front->points[at], (size_t)(front->count - at) * sizeof *point);
	front->points[at] = *point;
	front->count++;
	return MT_OK;
}

/* How many points are before this one. */
static int place(const struct mt_survey_front *front, const struct mt_survey_point *point)
{
	int low = 0, high = front->count;

	while (low < high) {
		int middle = (low + high) / 2;

		if (compare(&front->points[middle], point) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

enum mt_status mt_survey_best_add(struct mt_survey_front *best, const struct mt_survey_point *point, int top)
{
	int at;

	if (best->count == top && compare(point, &best->points[top - 1]) >= 0)
		return MT_OK;
	at = place(best, point);
	if (at < best->count && compare(point, &best->points[at]) == 0)
		return MT_OK;
	MT_TRY(insert(best, at, point));
	if (best->count > top)
		best->count = top;
	return MT_OK;
}

/* Points lie by growing time and falling memory. */
enum mt_status mt_survey_front_add(struct mt_survey_front *front, const struct mt_survey_point *point)
{
	int at = place(front, point), end = at;

	if (at > 0 && front->points[at - 1].peak_bytes <= point->peak_bytes)
		return MT_OK;
	while (end < front->count && front->points[end].peak_bytes >= point->peak_bytes)
		end++;
	if (end > at)
		memmove(&front->points[at], &front->points[end], (size_t)(front->count - end) * sizeof *point);
	front->count -= end - at;
	return insert(front, at, point);
}

bool mt_survey_front_beats(const struct mt_survey_front *front, double step_s, double peak_bytes)
{
	int low = 0, high = front->count;

	while (low < high) {
		int middle = (low + high) / 2;

		if (front->points[middle].step_s < step_s)
			low = middle + 1;
		else
			high = middle;
	}
	return low > 0 && front->points[low - 1].peak_bytes <= peak_bytes;
}

bool mt_survey_hopeless(const struct mt_survey *s, const struct mt_survey_query *q, double least_s, double least_bytes)
{
	return q->bounded && s->best.count == q->top && least_s > s->best.points[q->top - 1].step_s &&
	       mt_survey_front_beats(&s->front, least_s, least_bytes);
}
