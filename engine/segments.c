/* segments: which runs of elements this rank's optimizer updates, which take weight decay, which count in the norm.
 *
 * Every element of the global gradient must count once over all ranks: sharded parameters on each tp rank, replicated
 * ones on the first only, the last stage's copy of a tied embedding never; without ZeRO all dp and cp ranks hold the same sums,
 * so the first counts. Gaps between parameters hold zeros in every buffer and may belong to any run. */
#include "engine/internal.h"

#include <stdlib.h>

static int by_offset(const void *a, const void *b)
{
	const struct mt_param *const *p = a, *const *q = b;

	return (p[0]->offset > q[0]->offset) - (p[0]->offset < q[0]->offset);
}

static bool counts(const struct mt_engine *e, const struct mt_param *p)
{
	if (p->copy || (p->replicated && e->at.tp != 0))
		return false;
	return e->layout->zero || e->replica == 0;
}

/* Appends the part of one parameter, with the gap before it, that lies in [first, end). */
static void append(struct mt_engine *e, int bucket, const struct mt_param *p, int64_t *cursor, int64_t param_end, int64_t end,
		   int64_t shard_offset, int64_t first)
{
	int64_t stop = param_end < end ? param_end : end;
	struct mt_segment *last = e->segment_count ? &e->segments[e->segment_count - 1] : NULL;
	bool counted = counts(e, p);

	if (stop <= *cursor)
		return;
	if (last && last->bucket == bucket && last->decay == p->decay && last->counted == counted) {
		last->count += stop - *cursor;
	} else {
		e->segments[e->segment_count++] = (struct mt_segment){.bucket = bucket,
								      .offset = *cursor,
								      .shard_offset = shard_offset + (*cursor - first),
								      .count = stop - *cursor,
								      .decay = p->decay,
								      .counted = counted};
	}
	*cursor = stop;
}

enum mt_status mt_segments_create(struct mt_engine *e)
{
	const struct mt_param_table *t = &e->table;
	const struct mt_param **sorted = calloc((size_t)t->count + 1, sizeof *sorted);
	int next = 0;

	e->segments = calloc((size_t)(t->count + t->bucket_count) + 1, sizeof *e->segments);
	e->updates = calloc((size_t)(t->count + t->bucket_count) + 1, sizeof *e->updates);
	if (!sorted || !e->segments || !e->updates) {
		free(sorted);
		return mt_fail(MT_NOMEM, "no memory for the optimizer's %d segments", t->count);
	}
	for (int i = 0; i < t->count; i++)
		sorted[i] = &t->params[i];
	qsort(sorted, (size_t)t->count, sizeof *sorted, by_offset);
	e->shard_elements = 0;
	for (int i = 0; i < t->bucket_count; i++) {
		const struct mt_bucket *b = &t->buckets[i];
		int64_t shard = e->layout->zero ? b->count / e->replicas : b->count;
		int64_t first = b->offset + (e->layout->zero ? e->replica * shard : 0), end = first + shard, cursor = first;

		for (; next < t->count && sorted[next]->offset < b->offset + b->count; next++) {
			const struct mt_param *p = sorted[next];
			bool last = next + 1 == t->count || sorted[next + 1]->offset >= b->offset + b->count;

			append(e, i, p, &cursor, last ? end : p->offset + p->rows * p->cols, end, e->shard_elements, first);
		}
		e->shard_elements += shard;
	}
	free(sorted);
	return MT_OK;
}
