/* checkpoint_state: which of a parameter's state is on this rank, and which rank writes it. */
#include "engine/checkpoint_private.h"

static void *at_element(void *base, int64_t element, enum mt_dtype dtype)
{
	return base ? (void *)((uintptr_t)base + (uintptr_t)element * mt_dtype_bytes(dtype)) : NULL;
}

void mt_state_find(const struct mt_engine *e, int index, struct mt_state_run *run)
{
	const struct mt_param *p = &e->table.params[index];
	const struct mt_shard *shard = &e->shards[p->bucket];
	int64_t end = p->offset + p->rows * p->cols, shard_end = shard->offset + shard->count;
	int64_t from = p->offset > shard->offset ? p->offset : shard->offset, to = end < shard_end ? end : shard_end;

	*run = (struct mt_state_run){.place2 = -1};
	if (from >= to)
		return;
	*run = (struct mt_state_run){from - p->offset, to - from, shard->place + from - shard->offset, -1};
	for (int i = 0; i < e->segment_count; i++) { /* a parameter's part of a shard is in one */
		const struct mt_segment *s = &e->segments[i];

		if (s->bucket == p->bucket && s->offset <= from && from < s->offset + s->count && s->moment2_offset >= 0)
			run->place2 = s->moment2_offset + from - s->offset;
	}
}

enum mt_dtype mt_state_dtype(const struct mt_engine *e, enum mt_state state)
{
	if (state == MT_STATE_MOMENT1)
		return mt_moment_dtype(e, e->layout->moment1_dtype);
	return state == MT_STATE_MOMENT2 ? mt_moment_dtype(e, e->layout->moment2_dtype) : mt_grad_dtype(e->dtype);
}

void *mt_state_at(const struct mt_engine *e, int index, const struct mt_state_run *run, enum mt_state state)
{
	enum mt_dtype f = mt_grad_dtype(e->dtype);

	if (state == MT_STATE_MOMENT1)
		return at_element(e->moment1, run->place, mt_state_dtype(e, state));
	if (state == MT_STATE_MOMENT2)
		return run->place2 < 0 ? NULL : at_element(e->moment2, run->place2, mt_state_dtype(e, state));
	if (e->master)
		return at_element(e->master, run->place, f);
	return mt_shard_param(e, e->table.params[index].bucket, e->table.params[index].offset + run->first);
}

void mt_state_piece(const struct mt_engine *e, int index, int64_t first, int64_t count, struct mt_piece *piece)
{
	const struct mt_param *p = &e->table.params[index];
	int64_t real;

	*piece = (struct mt_piece){.row = p->shard_axis == 0 ? p->first : 0,
				   .rows = p->rows,
				   .col = p->shard_axis == 1 ? p->first : 0,
				   .cols = p->cols,
				   .first = first,
				   .count = count};
	/* Padding words are zeros in every state and depend on the layout: they are neither written nor read. */
	real = (p->real_rows - piece->row) * p->cols;
	if (piece->first + piece->count > real)
		piece->count = real > piece->first ? real - piece->first : 0;
}

/* Ranks that hold copies of the same part share the writing: each writes the parameters whose middle lies in its stretch of the
 * buffer. */
bool mt_state_writes(const struct mt_engine *e, int index)
{
	const struct mt_param *p = &e->table.params[index];
	const struct mt_share *share = mt_share_of(e, p->bucket);
	int64_t middle = p->offset + p->rows * p->cols / 2;

	if (p->expert)
		return e->layout->zero || middle * mt_layout_edp(e->layout) / e->table.elements == e->at.edp;
	if (p->copy || (p->replicated && e->at.tp != 0))
		return false;
	return middle * share->copies / e->table.elements == share->copy;
}
