/* shard: see shard.h. */
#include "engine/internal.h"

#include <stdlib.h>

/* A block of neighbours in a list of ranks, or, with a step, those with the same place in their blocks. */
static enum mt_status make_group(struct mt_engine *e, const char *name, const int *ranks, int first, int count, int step,
				 struct mt_group **group)
{
	int *members = malloc((size_t)count * sizeof *members);
	enum mt_status st;

	if (!members)
		return mt_fail(MT_NOMEM, "no memory for the %s group", name);
	for (int i = 0; i < count; i++)
		members[i] = ranks[first + i * step];
	st = mt_group_create(e->config.fabric, name, members, count, group);
	free(members);
	return st;
}

static int common_divisor(int a, int b)
{
	return b ? common_divisor(b, a % b) : a;
}

/* `size` ranks hold the same parameters, this one at `place` among them. Those of an expert may be fewer than zero_group. */
static void count_share(const struct mt_engine *e, struct mt_share *share, int size, int place)
{
	int group = (int)e->layout->zero_group;
	int parts = e->layout->zero == 0 ? 1 : group > 0 ? common_divisor(group, size) : size;

	*share = (struct mt_share){.parts = parts, .part = place % parts, .copies = size / parts, .copy = place / parts};
}

void mt_shares_count(struct mt_engine *e)
{
	count_share(e, &e->shares[MT_SHARE_DENSE], (int)mt_layout_replicas(e->layout), mt_layout_replica(e->layout, e->at));
	count_share(e, &e->shares[MT_SHARE_EXPERTS], (int)mt_layout_edp(e->layout), e->at.edp);
}

/* `ranks`: all that hold the same parameters. */
static enum mt_status make_share(struct mt_engine *e, struct mt_share *share, const int *ranks, const char *const names[3])
{
	int parts = share->parts, copies = share->copies;

	if (parts > 1)
		MT_TRY(make_group(e, names[0], ranks, share->copy * parts, parts, 1, &share->inner));
	if (parts > 1 && e->layout->zero == 3)
		MT_TRY(make_group(e, names[1], ranks, share->copy * parts, parts, 1, &share->gather));
	if (copies > 1)
		MT_TRY(make_group(e, names[parts > 1 ? 2 : 0], ranks, share->part, copies, parts, &share->outer));
	return MT_OK;
}

enum mt_status mt_shares_create(struct mt_engine *e)
{
	static const char *const dense[] = {"dp", "dp gather", "dp across"}, *const experts[] = {"edp", "edp gather", "edp across"};
	int *ranks = malloc((size_t)mt_layout_world(e->layout) * sizeof *ranks), rank = mt_fabric_rank(e->config.fabric);
	enum mt_status st;

	if (!ranks)
		return mt_fail(MT_NOMEM, "no memory for the data-parallel groups");
	mt_shares_count(e);
	mt_layout_group(e->layout, rank, 'r', ranks, NULL);
	st = make_share(e, &e->shares[MT_SHARE_DENSE], ranks, dense);
	if (st == MT_OK && e->model->experts > 0) {
		mt_layout_expert_group(e->layout, rank, 'd', ranks, NULL);
		st = make_share(e, &e->shares[MT_SHARE_EXPERTS], ranks, experts);
	}
	free(ranks);
	return st;
}

void mt_shares_destroy(struct mt_engine *e)
{
	for (int i = MT_SHARES - 1; i >= 0; i--) {
		mt_group_destroy(e->shares[i].outer);
		mt_group_destroy(e->shares[i].gather);
		mt_group_destroy(e->shares[i].inner);
	}
}

const struct mt_share *mt_share_of(const struct mt_engine *e, int bucket)
{
	return &e->shares[e->table.buckets[bucket].share];
}

enum mt_status mt_shards_create(struct mt_engine *e)
{
	int64_t place = 0;

	e->shards = calloc((size_t)e->table.bucket_count + 1, sizeof *e->shards);
	if (!e->shards)
		return mt_fail(MT_NOMEM, "no memory for %d buckets", e->table.bucket_count);
	e->param_elements = e->grad_elements = 0;
	for (int i = 0; i < e->table.bucket_count; i++) {
		const struct mt_bucket *b = &e->table.buckets[i];
		const struct mt_share *share = mt_share_of(e, i);
		bool cut = share->parts > 1 && !b->replicated;
		struct mt_shard *s = &e->shards[i];

		s->count = b->count / share->parts;
		s->offset = b->offset + share->part * s->count;
		s->place = place;
		s->scatters = cut && e->layout->zero >= 2;
		s->gathers = cut && e->layout->zero == 3;
		s->param_at = e->param_elements;
		s->grad_at = e->grad_elements;
		e->param_elements += s->gathers ? s->count : b->count;
		e->grad_elements += s->scatters ? s->count : b->count;
		place += s->count;
	}
	e->shard_elements = place;
	return MT_OK;
}

/* Gathers of parameters and reductions of gradients are of the same ranks, so at once they share its links, each slower: on virtual
 * clocks, where a collective takes as long as it does alone, one after the other comes to the same end. */
enum mt_status mt_shards_open(struct mt_engine *e)
{
	if (e->layout->zero == 3 && e->device->info.real_time)
		MT_TRY(mt_stream_create(e->device, MT_STREAM_COMM, "gather", &e->gather_stream));
	else if (e->layout->zero == 3)
		e->gather_stream = e->dp_stream;
	for (int i = 0; i < e->table.bucket_count; i++) {
		if (e->shards[i].gathers)
			MT_TRY(mt_event_create(e->device, &e->shards[i].gathered));
		if (e->shards[i].scatters)
			MT_TRY(mt_event_create(e->device, &e->shards[i].scattered));
	}
	return MT_OK;
}

void mt_shards_destroy(struct mt_engine *e)
{
	for (int i = 0; e->shards && i < e->table.bucket_count; i++) {
		mt_event_destroy(e->shards[i].gathered);
		mt_event_destroy(e->shards[i].scattered);
	}
	free(e->shards);
	e->shards = NULL;
}

bool mt_bucket_used_by(const struct mt_engine *e, int bucket, int unit)
{
	const struct mt_bucket *b = &e->table.buckets[bucket];

	/* A tied word embedding on a stage that has both ends is used at both. */
	return b->tied ? unit == b->first_unit || unit == b->unit : b->first_unit <= unit && unit <= b->unit;
}

static void *at_element(void *base, int64_t element, enum mt_dtype dtype)
{
	return (void *)((uintptr_t)base + (uintptr_t)element * mt_dtype_bytes(dtype));
}

void *mt_whole_param(const struct mt_engine *e, int bucket)
{
	const struct mt_shard *s = &e->shards[bucket];

	return s->gathers ? s->param : at_element(e->param_flat, s->param_at, e->dtype);
}

void *mt_whole_grad(const struct mt_engine *e, int bucket)
{
	const struct mt_shard *s = &e->shards[bucket];

	return s->scatters ? s->grad : at_element(e->grad_flat, s->grad_at, mt_grad_dtype(e->dtype));
}

void *mt_shard_param(const struct mt_engine *e, int bucket, int64_t offset)
{
	const struct mt_shard *s = &e->shards[bucket];
	int64_t kept = s->gathers ? s->offset : e->table.buckets[bucket].offset;

	return at_element(e->param_flat, s->param_at + offset - kept, e->dtype);
}

void *mt_shard_grad(const struct mt_engine *e, int bucket, int64_t offset)
{
	const struct mt_shard *s = &e->shards[bucket];
	int64_t kept = s->scatters ? s->offset : e->table.buckets[bucket].offset;

	return at_element(e->grad_flat, s->grad_at + offset - kept, mt_grad_dtype(e->dtype));
}
