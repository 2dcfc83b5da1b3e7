/* checkpoint_state: which of a parameter's state is on this rank, and which rank writes it. */
#include "engine/checkpoint_private.h"

static void *at_element(void *base, int64_t element, enum mt_dtype dtype)
{
	return base ? (void *)((uintptr_t)base + (uintptr_t)element * mt_dtype_bytes(dtype)) : NULL;
}

void mt_state_find(const struct mt_engine *e, int index, struct mt_state_run *run)
{
	const struct mt_param *p = &e->table.params[index];
	int64_t place = 0, end = p->offset + p->rows * p->cols;

	*run = (struct mt_state_run){0};
	for (int i = 0; i < e->table.bucket_count; i++) {
		const struct mt_bucket *b = &e->table.buckets[i];
		int64_t shard = e->layout->zero ? b->count / e->replicas : b->count;
		int64_t first = b->offset + (e->layout->zero ? e->replica * shard : 0);
		int64_t from = p->offset > first ? p->offset : first, to = end < first + shard ? end : first + shard;

		if (p->offset >= b->offset && p->offset < b->offset + b->count && from < to)
			*run = (struct mt_state_run){from - p->offset, to - from, place + from - first};
		place += shard;
	}
}

void *mt_state_at(const struct mt_engine *e, int index, const struct mt_state_run *run, enum mt_state state)
{
	enum mt_dtype f = mt_grad_dtype(e->dtype);

	if (state == MT_STATE_MOMENT1)
		return at_element(e->moment1, run->place, f);
	if (state == MT_STATE_MOMENT2)
		return at_element(e->moment2, run->place, f);
	if (e->master)
		return at_element(e->master, run->place, f);
	return at_element(e->param_flat, e->table.params[index].offset + run->first, e->dtype);
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

/* Without ZeRO every replica holds all: each writes the parameters whose middle lies in its part of the buffer. */
bool mt_state_writes(const struct mt_engine *e, int index)
{
	const struct mt_param *p = &e->table.params[index];
	int64_t middle = p->offset + p->rows * p->cols / 2;

	if (p->copy || (p->replicated && e->at.tp != 0))
		return false;
	return e->layout->zero || middle * e->replicas / e->table.elements == e->replica;
}
