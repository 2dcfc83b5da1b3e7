/* schedule_1f1b: warm-up forwards, then one forward and one backward in turn, then the backwards that are left.
 *
 * With one chunk stage s warms up with the stages behind it, stages - 1 - s. Interleaved, the passes run through groups of
 * micro-batches: a group through chunk 0, then through chunk 1, ...; backwards from the last chunk down. A stage then warms up
 * with two forwards for each stage behind it, and a group for each chunk before the last. The last group may be smaller. */
#include "engine/schedule_private.h"

/* The i-th forward or backward pass of a stage: groups of micro-batches, in each all chunks. */
static struct mt_action nth(const struct mt_schedule_shape *shape, enum mt_action_kind kind, int64_t i)
{
	int64_t size = shape->group > 0 ? shape->group : shape->stages, first, left, index;
	int chunk;

	if (shape->chunks == 1)
		return (struct mt_action){kind, 0, i};
	first = i / (size * shape->chunks) * size;
	index = i - first * shape->chunks;
	left = shape->microbatches - first;
	size = size < left ? size : left;
	chunk = (int)(index / size);
	return (struct mt_action){kind, kind == MT_FORWARD ? chunk : shape->chunks - 1 - chunk, first + index % size};
}

int64_t mt_passes_1f1b(struct mt_action *passes, const struct mt_schedule_shape *shape, int stage)
{
	int64_t total = shape->microbatches * shape->chunks, behind = shape->stages - 1 - stage, count = 0;
	int64_t group = shape->group > 0 ? shape->group : shape->stages;
	int64_t warmup = shape->chunks == 1 ? behind : 2 * behind + (shape->chunks - 1) * group;

	if (warmup > total)
		warmup = total;
	for (int64_t i = 0; i < warmup; i++)
		passes[count++] = nth(shape, MT_FORWARD, i);
	for (int64_t i = warmup; i < total; i++) {
		passes[count++] = nth(shape, MT_FORWARD, i);
		passes[count++] = nth(shape, MT_BACKWARD, i - warmup);
	}
	for (int64_t i = total - warmup; i < total; i++)
		passes[count++] = nth(shape, MT_BACKWARD, i);
	return count;
}
