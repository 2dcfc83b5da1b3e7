/* context_gather: the keys and values of all n parts, gathered and laid in the order of the sequence; gradients go back by a
 * reduce-scatter. The backward pass gathers again: kept, they would be n times this rank's.
 *
 * The two halves of a part lie apart in the sequence, so each is attention of its own: half i of part p begins at chunk p or
 * 2n-1-p of h rows, and its query t stands beside key chunk*h + t (kernels/op.h, a part of attention). */
#include "engine/context_private.h"

/* Between parts (n, B, 2, h, w) and sequences (B, 2n, h, w). */
static enum mt_status order(struct mt_engine *e, const struct mt_attention *own, const void *from, void *to, bool back)
{
	int n = mt_context_outer(e->layout);
	int64_t half = own->seq / 2 * mt_context_kv_cols(own), mbs = e->layout->mbs;

	for (int chunk = 0; chunk < 2 * n; chunk++) {
		int part = chunk < n ? chunk : 2 * n - 1 - chunk;
		int64_t in_parts = (part * mbs * 2 + chunk / n) * half, in_sequences = chunk * half;

		if (back)
			MT_TRY(mt_context_copy(e, mt_context_at(e, from, in_sequences), 2 * n * half,
					       mt_context_at(e, to, in_parts), 2 * half, mbs, half));
		else
			MT_TRY(mt_context_copy(e, mt_context_at(e, from, in_parts), 2 * half, mt_context_at(e, to, in_sequences),
					       2 * n * half, mbs, half));
	}
	return MT_OK;
}

static enum mt_status gather(struct mt_engine *e, const struct mt_attention *own, void **keys)
{
	int n = mt_context_outer(e->layout);
	int64_t w = mt_context_kv_cols(own), rows = e->layout->mbs * own->seq;
	struct mt_mark start;
	void *mine, *all;

	MT_TRY(mt_context_alloc(e, rows * w, &mine));
	MT_TRY(mt_context_take_keys(e, own, rows, mine));
	MT_TRY(mt_context_alloc(e, n * rows * w, &all));
	MT_TRY(mt_lap_begin(e, &start));
	MT_TRY(mt_comm_all_gather(e->parts, e->compute, mine, all, rows * w, e->dtype));
	MT_TRY(mt_lap_end(e, &start, &e->cp_s));
	mt_engine_release(e, &mine);
	MT_TRY(mt_context_alloc(e, n * rows * w, keys));
	MT_TRY(order(e, own, all, *keys, false));
	mt_engine_release(e, &all);
	return MT_OK;
}

/* Attention of one half of the part's queries over all keys; gradients NULL: forward. */
static struct mt_attention half_of(const struct mt_engine *e, const struct mt_attention *own, int half, const void *keys,
				   void *gradients)
{
	int n = mt_context_outer(e->layout), part = mt_group_rank(e->parts);
	int64_t rows = own->seq / 2, first = half * rows;
	struct mt_attention a = *own;

	a.seq = rows;
	a.q_rows = own->seq;
	a.kv_seq = n * own->seq;
	a.offset = (half ? 2 * n - 1 - part : part) * rows;
	a.q = mt_context_at(e, own->q, first * own->q_stride);
	a.o = mt_context_at(e, own->o, first * own->o_stride);
	a.lse = mt_context_at_stat(e, own->lse, first);
	a.starts = mt_context_at_start(own->starts, first);
	mt_context_set_keys(e, &a, keys, gradients);
	return a;
}

enum mt_status mt_context_gather(struct mt_engine *e, const struct mt_attention *own)
{
	void *keys;

	MT_TRY(gather(e, own, &keys));
	for (int half = 0; half < 2; half++) {
		struct mt_attention a = half_of(e, own, half, keys, NULL);

		MT_TRY(mt_context_enqueue(e, MT_OP_ATTENTION, &a));
	}
	mt_engine_release(e, &keys);
	return MT_OK;
}

/* The gradients of all keys, (B, 2n h, w): to each part its own, summed over parts. */
static enum mt_status scatter(struct mt_engine *e, const struct mt_attention *own, void **gradients)
{
	int n = mt_context_outer(e->layout);
	int64_t w = mt_context_kv_cols(own), rows = e->layout->mbs * own->seq;
	struct mt_mark start;
	void *parts, *mine;

	MT_TRY(mt_context_alloc(e, n * rows * w, &parts));
	MT_TRY(order(e, own, *gradients, parts, true));
	mt_engine_release(e, gradients);
	MT_TRY(mt_context_alloc(e, rows * w, &mine));
	MT_TRY(mt_lap_begin(e, &start));
	MT_TRY(mt_comm_reduce_scatter(e->parts, e->compute, parts, mine, rows * w, e->dtype));
	MT_TRY(mt_lap_end(e, &start, &e->cp_s));
	mt_engine_release(e, &parts);
	MT_TRY(mt_context_give_gradients(e, own, rows, mine));
	mt_engine_release(e, &mine);
	return MT_OK;
}

enum mt_status mt_context_gather_backward(struct mt_engine *e, const struct mt_attention *own)
{
	int64_t w = mt_context_kv_cols(own), rows = own->seq / 2;
	void *keys, *gradients;

	MT_TRY(gather(e, own, &keys));
	MT_TRY(mt_context_alloc(e, mt_context_outer(e->layout) * e->layout->mbs * own->seq * w, &gradients));
	for (int half = 0; half < 2; half++) {
		struct mt_attention a = half_of(e, own, half, keys, gradients);

		a.do_ = mt_context_at(e, own->do_, half * rows * own->o_stride);
		a.dq = mt_context_at(e, own->dq, half * rows * own->q_stride);
		a.delta = mt_context_at_stat(e, own->delta, half * rows);
		a.add_dkv = half == 1;
		MT_TRY(mt_context_enqueue(e, MT_OP_ATTENTION_BWD, &a));
	}
	mt_engine_release(e, &keys);
	return scatter(e, own, &gradients);
}
