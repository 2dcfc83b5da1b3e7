/* context_ring: keys and values travel round the n parts while each part attends to those that are there (Liu et al. 2023,
 * arXiv:2310.01889), balanced by the zig-zag of context.h.
 *
 * In turn i part p has the keys of part s = p - i. Of its own it sees what is before each row, as if its two halves followed one
 * another (they do); of an earlier part s < p all its queries see the first half, and nobody the second; of a later part
 * its second half of queries sees all, and the first nothing. So each turn but the first makes half the pairs of a whole square:
 * n turns take as long on every part. Partial results are merged by their log-sum-exp inside the operation (kernels/op.h).
 *
 * A turn's keys are sent on and the next ones received while it computes: two buffers. In the backward pass gradients of keys
 * travel with them, a turn behind: each part adds its own to those that arrive, and after n turns they are home. */
#include "engine/context_private.h"

/* What is on its way: keys of this turn and of the next; gradients that this part adds to, and those that arrive meanwhile. */
struct ring {
	struct mt_engine *e;
	const struct mt_attention *own;
	int n, part, turn;
	int64_t rows, w; /* of all sequences; columns of a row: keys, then values */
	void *keys, *next_keys;
	void *gradients, *next_gradients, *mine;
};

static int source_of(const struct ring *r)
{
	return (r->part + r->n - r->turn) % r->n;
}

/* Everything on the way waits for the kernels before it. */
static enum mt_status pass_on(struct ring *r, const void *send, void *receive)
{
	struct mt_engine *e = r->e;

	MT_TRY(mt_event_record(e->event, e->compute));
	MT_TRY(mt_stream_wait(e->cp_stream, e->event));
	return mt_comm_shift(e->parts, e->cp_stream, send, receive, r->rows * r->w, e->dtype, 1);
}

/* The kernels wait for what is on its way. */
static enum mt_status await(struct ring *r)
{
	struct mt_engine *e = r->e;
	struct mt_mark start;

	MT_TRY(mt_lap_begin(e, &start));
	MT_TRY(mt_event_record(e->event, e->cp_stream));
	MT_TRY(mt_stream_wait(e->compute, e->event));
	return mt_lap_end(e, &start, &e->cp_s);
}

static void swap(void **a, void **b)
{
	void *kept = *a;

	*a = *b;
	*b = kept;
}

static enum mt_status open_ring(struct ring *r, struct mt_engine *e, const struct mt_attention *own)
{
	*r = (struct ring){.e = e,
			   .own = own,
			   .n = mt_context_outer(e->layout),
			   .part = mt_group_rank(e->parts),
			   .rows = e->layout->mbs * own->seq,
			   .w = mt_context_kv_cols(own)};
	MT_TRY(mt_context_alloc(e, r->rows * r->w, &r->keys));
	MT_TRY(mt_context_alloc(e, r->rows * r->w, &r->next_keys));
	return mt_context_take_keys(e, own, r->rows, r->keys);
}

/* Attention of this turn: of which queries over which keys; their gradients go to `gradients` (NULL: forward). */
static struct mt_attention turn_of(const struct ring *r, void *gradients)
{
	const struct mt_attention *own = r->own;
	int64_t half = own->seq / 2;
	int source = source_of(r);
	struct mt_attention a = *own;

	mt_context_set_keys(r->e, &a, r->keys, gradients);
	a.starts = mt_context_at_start(own->starts, source * r->rows);
	a.merge = r->turn > 0;
	a.q_rows = a.kv_rows = own->seq;
	if (source < r->part) {
		a.kv_seq = half;
		a.offset = half;
	} else if (source > r->part) {
		a.seq = half;
		a.kv_seq = a.offset = own->seq;
		a.q = mt_context_at(r->e, own->q, half * own->q_stride);
		a.o = mt_context_at(r->e, own->o, half * own->o_stride);
		a.lse = mt_context_at_stat(r->e, own->lse, half);
		a.starts = mt_context_at_start(a.starts, half);
	}
	return a;
}

enum mt_status mt_context_ring(struct mt_engine *e, const struct mt_attention *own)
{
	struct ring r;

	MT_TRY(open_ring(&r, e, own));
	for (; r.turn < r.n; r.turn++) {
		struct mt_attention a = turn_of(&r, NULL);

		if (r.turn + 1 < r.n)
			MT_TRY(pass_on(&r, r.keys, r.next_keys));
		MT_TRY(mt_context_enqueue(e, MT_OP_ATTENTION, &a));
		if (r.turn + 1 < r.n)
			MT_TRY(await(&r));
		swap(&r.keys, &r.next_keys);
	}
	mt_engine_release(e, &r.keys);
	mt_engine_release(e, &r.next_keys);
	return MT_OK;
}

/* gradients += mine, of the keys that this turn's queries saw: the first half of each sequence, or all. */
static enum mt_status add_mine(const struct ring *r)
{
	bool first_half = source_of(r) < r->part;
	int64_t sequence = r->own->seq * r->w, mbs = r->e->layout->mbs;

	for (int64_t b = 0; b < (first_half ? mbs : 1); b++) {
		void *sum = mt_context_at(r->e, r->gradients, b * sequence);
		struct mt_op op = {.kind = MT_OP_ADD, .dtype = r->e->dtype};

		op.add = (struct mt_add){.rows = first_half ? r->own->seq / 2 : r->rows,
					 .cols = r->w,
					 .a = sum,
					 .b = mt_context_at(r->e, r->mine, b * sequence),
					 .out = sum};
		MT_TRY(mt_engine_enqueue(r->e, &op));
	}
	return MT_OK;
}

/* Gradients of this turn's keys, into `to`; those of queries are added up where they are. */
static enum mt_status run_backward(struct ring *r, void *to)
{
	const struct mt_attention *own = r->own;
	struct mt_attention a = turn_of(r, to);
	int64_t half = source_of(r) > r->part ? own->seq / 2 : 0;

	a.merge = false;
	a.do_ = mt_context_at(r->e, own->do_, half * own->o_stride);
	a.dq = mt_context_at(r->e, own->dq, half * own->q_stride);
	a.delta = mt_context_at_stat(r->e, own->delta, half);
	a.add_dq = r->turn > 0;
	return mt_context_enqueue(r->e, MT_OP_ATTENTION_BWD, &a);
}

static enum mt_status turn_backward(struct ring *r)
{
	bool last = r->turn + 1 == r->n;

	if (!last)
		MT_TRY(pass_on(r, r->keys, r->next_keys));
	MT_TRY(run_backward(r, r->turn ? r->mine : r->gradients));
	MT_TRY(await(r)); /* the next keys, and the gradients that the part before has added to */
	if (r->turn) {
		swap(&r->gradients, &r->next_gradients);
		MT_TRY(add_mine(r));
	}
	MT_TRY(pass_on(r, r->gradients, r->next_gradients));
	swap(&r->keys, &r->next_keys);
	return MT_OK;
}

enum mt_status mt_context_ring_backward(struct mt_engine *e, const struct mt_attention *own)
{
	struct ring r;

	MT_TRY(open_ring(&r, e, own));
	MT_TRY(mt_context_alloc(e, r.rows * r.w, &r.gradients));
	MT_TRY(mt_context_alloc(e, r.rows * r.w, &r.next_gradients));
	MT_TRY(mt_context_alloc(e, r.rows * r.w, &r.mine));
	for (; r.turn < r.n; r.turn++)
		MT_TRY(turn_backward(&r));
	mt_engine_release(e, &r.keys);
	mt_engine_release(e, &r.next_keys);
	mt_engine_release(e, &r.mine);
	MT_TRY(await(&r));
	MT_TRY(mt_context_give_gradients(e, own, r.rows, r.next_gradients));
	mt_engine_release(e, &r.gradients);
	mt_engine_release(e, &r.next_gradients);
	return MT_OK;
}
