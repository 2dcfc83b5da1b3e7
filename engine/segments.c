/* segments: which runs of elements this rank's optimizer updates, which take weight decay, which count in the norm.
 *
 * Every element of the global gradient must count once over all ranks: sharded parameters on each tp rank, replicated
 * ones on the first only, the last stage's copy of a tied embedding never; ranks that hold copies of a part hold the same sums,
 * so the first of them counts. Gaps between parameters hold zeros in every buffer and may belong to any run. */
#include "engine/internal.h"

#include <stdlib.h>
#include <string.h>

static int by_offset(const void *a, const void *b)
{
	const struct mt_param *const *p = a, *const *q = b;

	return (p[0]->offset > q[0]->offset) - (p[0]->offset < q[0]->offset);
}

static bool counts(const struct mt_engine *e, const struct mt_param *p)
{
	if (p->copy || (p->replicated && e->at.tp != 0))
		return false;
	return mt_share_of(e, p->bucket)->copy == 0;
}

/* Whether one of the names' parts, commas between, is in the name. */
static bool listed(const char *list, const char *name)
{
	for (const char *part = list; part && *part;) {
		size_t length = strcspn(part, ",");

		for (const char *at = name; length > 0 && *at; at++) {
			if (strncmp(at, part, length) == 0)
				return true;
		}
		part += length + (part[length] == ',');
	}
	return false;
}

/* How the optimizer treats a parameter. */
static struct mt_segment treatment(const struct mt_engine *e, const struct mt_param *p, int bucket)
{
	const struct mt_train_options *train = &e->config.run->train;
	int index = (int)(p - e->table.params);

	return (struct mt_segment){.bucket = bucket,
				   .rule = train->optimizer == MT_SGD ? MT_SGD
					   : mt_muon_takes(e, p)      ? MT_MUON
								      : MT_ADAMW,
				   .ends = index == e->table.word || index == e->table.head,
				   .decay = p->decay && !listed(train->no_decay, p->name),
				   .counted = counts(e, p)};
}

static bool alike(const struct mt_segment *a, const struct mt_segment *b)
{
	return a->bucket == b->bucket && a->rule == b->rule && a->ends == b->ends && a->decay == b->decay &&
	       a->counted == b->counted;
}

struct list {
	struct mt_segment *segments;
	int count;
};

/* The part of one parameter, with the gap before it, that lies in a shard from *cursor on. */
static void append(const struct mt_engine *e, struct list *list, const struct mt_param *p, int64_t *cursor, int64_t param_end,
		   const struct mt_shard *shard)
{
	int64_t end = shard->offset + shard->count, stop = param_end < end ? param_end : end;
	struct mt_segment *last = list->count ? &list->segments[list->count - 1] : NULL;
	struct mt_segment s = treatment(e, p, p->bucket);

	if (stop <= *cursor)
		return;
	if (last && alike(last, &s)) {
		last->count += stop - *cursor;
	} else {
		s.offset = *cursor;
		s.shard_offset = shard->place + (*cursor - shard->offset);
		s.count = stop - *cursor;
		list->segments[list->count++] = s;
	}
	*cursor = stop;
}

/* Cuts a shard of the bucket whose first parameter is sorted[0]. */
static void cut(const struct mt_engine *e, const struct mt_param **sorted, int count, const struct mt_shard *shard,
		struct list *list)
{
	int64_t cursor = shard->offset;

	for (int i = 0; i < count; i++) {
		bool last = i + 1 == count;

		append(e, list, sorted[i], &cursor, last ? INT64_MAX : sorted[i]->offset + sorted[i]->rows * sorted[i]->cols,
		       shard);
	}
}

static int64_t round_up(int64_t value)
{
	return (value + MT_PARAM_ALIGN - 1) / MT_PARAM_ALIGN * MT_PARAM_ALIGN;
}

/* Second moments only where the rule has them, from element `first` on; returns the end. They lie to each other as the first ones
 * do, as vector code wants it. */
static int64_t place_moments2(struct mt_segment *segments, int count, int64_t first)
{
	int64_t end = first;

	for (int i = 0; i < count; i++) {
		struct mt_segment *s = &segments[i];

		/* the next place that is as well aligned */
		s->moment2_offset =
			s->rule == MT_ADAMW ? end + (s->shard_offset - end % MT_PARAM_ALIGN + MT_PARAM_ALIGN) % MT_PARAM_ALIGN : -1;
		if (s->rule == MT_ADAMW)
			end = s->moment2_offset + s->count;
	}
	return end;
}

/* The most second moments that any rank's part of a bucket has: so that all ranks of a stage need as much memory. */
static int64_t most_moments2(const struct mt_engine *e, const struct mt_param **sorted, int count, int bucket, struct list scratch)
{
	const struct mt_share *share = mt_share_of(e, bucket);
	struct mt_shard shard = e->shards[bucket];
	int64_t most = 0;

	for (int part = 0; part < share->parts; part++) {
		int64_t end;

		shard.offset = e->table.buckets[bucket].offset + part * shard.count;
		scratch.count = 0;
		cut(e, sorted, count, &shard, &scratch);
		end = place_moments2(scratch.segments, scratch.count, 0);
		most = end > most ? end : most;
	}
	return most;
}

static void cut_bucket(struct mt_engine *e, const struct mt_param **sorted, int count, int bucket, struct list *list)
{
	struct list free_place = {list->segments + list->count, 0};
	int64_t most = 0, end;
	int first;

	if (e->config.run->train.optimizer == MT_MUON)
		most = most_moments2(e, sorted, count, bucket, free_place);
	first = list->count;
	cut(e, sorted, count, &e->shards[bucket], list);
	end = place_moments2(&list->segments[first], list->count - first, e->moment2_elements);
	most = end - e->moment2_elements > most ? end - e->moment2_elements : most;
	e->moment2_elements = round_up(e->moment2_elements + most);
}

enum mt_status mt_segments_create(struct mt_engine *e)
{
	const struct mt_param_table *t = &e->table;
	const struct mt_param **sorted = calloc((size_t)t->count + 1, sizeof *sorted);
	size_t room = 2 * (size_t)(t->count + t->bucket_count) + 1; /* a bucket is cut a second time for trial */
	struct list list = {calloc(room, sizeof *e->segments), 0};
	int first = 0;

	e->segments = list.segments;
	e->updates = calloc((size_t)(t->count + t->bucket_count) + 1, sizeof *e->updates);
	if (!sorted || !e->segments || !e->updates) {
		free(sorted);
		return mt_fail(MT_NOMEM, "no memory for the optimizer's %d segments", t->count);
	}
	for (int i = 0; i < t->count; i++)
		sorted[i] = &t->params[i];
	qsort(sorted, (size_t)t->count, sizeof *sorted, by_offset);
	for (int i = 0; i < t->bucket_count; i++) {
		int count = 0;

		while (first + count < t->count && sorted[first + count]->bucket == i)
			count++;
		cut_bucket(e, &sorted[first], count, i, &list);
		first += count;
	}
	e->segment_count = list.count;
	free(sorted);
	return MT_OK;
}
