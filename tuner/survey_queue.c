/* survey_queue: nodes and groups by their bounds, a heap: the children of i are 2 i + 1 and 2 i + 2, none before its parent. */
#include "tuner/survey_space.h"

#include <stdlib.h>

/* Of equal bounds nodes come before groups, for what they are known to be. */
static bool before(const struct mt_survey_node *a, const struct mt_survey_node *b)
{
	if (a->least_s != b->least_s)
		return a->least_s < b->least_s;
	if (a->group != b->group)
		return b->group;
	return mt_survey_order(&a->layout, &b->layout) < 0;
}

enum mt_status mt_survey_queue_push(struct mt_survey_queue *queue, const struct mt_survey_node *node)
{
	int at = queue->count;

	if (queue->count == queue->capacity) {
		int capacity = queue->capacity ? 2 * queue->capacity : 4096;
		struct mt_survey_node *grown = realloc(queue->nodes, (size_t)capacity * sizeof *grown);

		if (!grown)
			return mt_fail(MT_NOMEM, "no memory for %d groups of layouts", capacity);
		queue->nodes = grown;
		queue->capacity = capacity;
	}
	for (; at > 0 && before(node, &queue->nodes[(at - 1) / 2]); at = (at - 1) / 2)
		queue->nodes[at] = queue->nodes[(at - 1) / 2];
	queue->nodes[at] = *node;
	queue->count++;
	return MT_OK;
}

bool mt_survey_queue_pop(struct mt_survey_queue *queue, struct mt_survey_node *node)
{
	const struct mt_survey_node *last;
	int at = 0;

	if (queue->count == 0)
		return false;
	*node = queue->nodes[0];
	last = &queue->nodes[--queue->count];
	for (int child = 1; child < queue->count; child = 2 * at + 1) {
		if (child + 1 < queue->count && before(&queue->nodes[child + 1], &queue->nodes[child]))
			child++;
		if (!before(&queue->nodes[child], last))
			break;
		queue->nodes[at] = queue->nodes[child];
		at = child;
	}
	queue->nodes[at] = *last;
	return true;
}
