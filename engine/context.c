/* context: attention over all rows of the sequences, of which this rank holds a part, see context.h.
 *
 * A rank's queries, keys and values pass two steps, either of which may be missing: where heads are exchanged, the columns of some
 * heads come together for all rows of a part, and the result goes back; then each part's queries meet the keys of all parts.
 * What is kept for the backward pass is as large as without context parallelism: qkv as exchanged, o as this rank's rows. */
#include "engine/context_private.h"

#include <stdlib.h>

enum mt_status mt_context_copy(struct mt_engine *e, const void *from, int64_t from_stride, void *to, int64_t to_stride,
			       int64_t rows, int64_t cols)
{
	struct mt_op op = {.kind = MT_OP_COPY, .dtype = e->dtype};

	op.move = (struct mt_move){
		.rows = rows, .cols = cols, .src_stride = from_stride, .dst_stride = to_stride, .src = from, .dst = to};
	return mt_engine_enqueue(e, &op);
}

enum mt_status mt_context_take_keys(struct mt_engine *e, const struct mt_attention *a, int64_t rows, void *keys)
{
	int64_t w = mt_context_kv_cols(a), k = mt_context_key_cols(a);

	MT_TRY(mt_context_copy(e, a->k, a->kv_stride, keys, w, rows, k));
	return mt_context_copy(e, a->v, mt_context_v_stride(a), mt_context_at(e, keys, k), w, rows, w - k);
}

enum mt_status mt_context_give_gradients(struct mt_engine *e, const struct mt_attention *a, int64_t rows, const void *gradients)
{
	int64_t w = mt_context_kv_cols(a), k = mt_context_key_cols(a);

	MT_TRY(mt_context_copy(e, gradients, w, a->dk, a->kv_stride, rows, k));
	return mt_context_copy(e, mt_context_at(e, gradients, k), w, a->dv, mt_context_v_stride(a), rows, w - k);
}

enum mt_status mt_context_enqueue(struct mt_engine *e, enum mt_op_kind kind, const struct mt_attention *args)
{
	struct mt_op op = {.kind = kind, .dtype = e->dtype, .attention = *args};

	return mt_engine_enqueue(e, &op);
}

/* Where this rank's rows are, for rotary and learned positions that do not lie one after the other. */
static enum mt_status make_positions(struct mt_engine *e)
{
	enum mt_status st = MT_OK;

	e->rows_taken = calloc((size_t)e->seq, sizeof *e->rows_taken);
	if (!e->rows_taken)
		return mt_fail(MT_NOMEM, "no memory for %lld positions", (long long)e->seq);
	for (int64_t t = 0; t < e->seq; t++)
		e->rows_taken[t] = (int32_t)mt_context_rank_row(e->layout, e->at.cp, t);
	MT_TRY(mt_engine_alloc(e, ARENA_WORKSPACE, e->rows, MT_I32, &e->positions));
	for (int64_t b = 0; b < e->layout->mbs && st == MT_OK; b++)
		st = mt_device_upload(e->device, e->compute,
				      (void *)((uintptr_t)e->positions + (uintptr_t)(b * e->seq) * sizeof *e->rows_taken),
				      e->rows_taken, (size_t)e->seq * sizeof *e->rows_taken);
	return st;
}

/* Of mt_context_starts. */
static int64_t start_count(const struct mt_engine *e)
{
	return mt_context_start_arrays(e->layout) * e->layout->mbs * mt_context_part_rows(e->layout);
}

/* Of the windows of a ring. */
static bool windows_apart(const struct mt_engine *e)
{
	return e->model->window > 0 && mt_context_windows_apart(e->layout);
}

/* mt_context_starts' arrays on the device. */
static enum mt_status make_starts(struct mt_engine *e, int arena, const int32_t *starts, int64_t window, void **arrays)
{
	int32_t *host = e->host_rows + e->rows;

	mt_context_starts(e->layout, e->at.cp / mt_context_inner(e->layout), starts, window, host);
	MT_TRY(mt_engine_alloc(e, arena, start_count(e), MT_I32, arrays));
	return mt_device_upload(e->device, e->compute, *arrays, host, (size_t)start_count(e) * sizeof *host);
}

enum mt_status mt_context_create(struct mt_engine *e)
{
	if (e->layout->documents == MT_DOCUMENTS_APART || windows_apart(e)) {
		e->host_rows = calloc((size_t)(e->rows + start_count(e) + e->layout->mbs * e->layout->seq), sizeof *e->host_rows);
		if (!e->host_rows)
			return mt_fail(MT_NOMEM, "no memory for the documents of a micro-batch");
	}
	if (e->layout->cp == 1)
		return MT_OK;
	MT_TRY(make_positions(e));
	if (windows_apart(e) && e->layout->documents == MT_DOCUMENTS_JOINED)
		MT_TRY(make_starts(e, ARENA_WORKSPACE, NULL, e->model->window, &e->window_starts));
	return mt_stream_create(e->device, MT_STREAM_COMM, "cp", &e->cp_stream);
}

void mt_context_destroy(struct mt_engine *e)
{
	mt_stream_destroy(e->cp_stream);
	mt_group_destroy(e->parts);
	mt_group_destroy(e->heads);
	free(e->rows_taken);
	free(e->host_rows);
}

/* Documents apart: where each row is in its document, and from where on it sees. Without data every sequence is one document. */
enum mt_status mt_context_load(struct mt_engine *e, struct mt_flight *flight, const struct mt_batch *batch)
{
	const struct mt_layout *l = e->layout;
	int32_t *positions = e->host_rows;
	const int32_t *starts = batch->starts ? batch->starts : positions + e->rows + start_count(e);

	if (l->documents != MT_DOCUMENTS_APART)
		return MT_OK;
	for (int64_t i = 0; i < e->rows; i++) {
		int64_t row = mt_context_rank_row(l, e->at.cp, i % e->seq);

		positions[i] = (int32_t)row - starts[i / e->seq * l->seq + row];
	}
	MT_TRY(mt_engine_alloc(e, ARENA_ACTIVATIONS, e->rows, MT_I32, &flight->positions));
	MT_TRY(mt_device_upload(e->device, e->compute, flight->positions, positions, (size_t)e->rows * sizeof *positions));
	if (windows_apart(e))
		MT_TRY(make_starts(e, ARENA_ACTIVATIONS, starts, e->model->window, &flight->window_starts));
	return make_starts(e, ARENA_ACTIVATIONS, starts, 0, &flight->starts);
}

const void *mt_context_positions(const struct mt_engine *e)
{
	return e->running && e->running->positions ? e->running->positions : e->positions;
}

/* Columns of a row: of queries, of keys, of values and results. */
struct widths {
	int64_t q, k, v, o;
};

static struct widths widths_of(const struct mt_attention *a)
{
	return (struct widths){.q = a->heads * a->head_dim,
			       .k = a->kv_heads * a->head_dim,
			       .v = a->kv_heads * mt_context_v_dim(a),
			       .o = a->heads * mt_context_v_dim(a)};
}

enum mt_status mt_context_exchange(struct mt_engine *e, const struct mt_attention *plain, struct mt_layer_saved *s)
{
	struct widths w = widths_of(plain);
	const struct mt_context_columns columns[] = {{(void *)(uintptr_t)plain->q, plain->q_stride, w.q},
						     {(void *)(uintptr_t)plain->k, plain->kv_stride, w.k},
						     {(void *)(uintptr_t)plain->v, mt_context_v_stride(plain), w.v}};

	return mt_context_inner(e->layout) == 1 ? MT_OK : mt_context_to_part(e, columns, 3, &s->exchanged);
}

/* Attention of the part's queries over its own keys, from that of this rank's rows: as many heads fewer as rows more. */
static struct mt_attention part_of(const struct mt_engine *e, const struct mt_attention *plain, const struct mt_layer_saved *s)
{
	int inner = mt_context_inner(e->layout);
	struct mt_attention own = *plain;
	struct widths w;

	own.starts = e->running ? e->running->starts : NULL;
	if (own.window > 0 && mt_context_windows_apart(e->layout)) {
		own.window = 0;
		own.starts = e->window_starts ? e->window_starts : e->running->window_starts;
	}
	if (inner == 1)
		return own;
	own.seq = mt_context_part_rows(e->layout);
	own.heads /= inner;
	own.kv_heads /= inner;
	w = widths_of(&own);
	own.q_stride = own.kv_stride = own.v_stride = w.q + w.k + w.v;
	own.o_stride = w.o;
	own.q = s->exchanged;
	own.k = mt_context_at(e, s->exchanged, w.q);
	own.v = mt_context_at(e, s->exchanged, w.q + w.k);
	return own;
}

static enum mt_status attend_parts(struct mt_engine *e, const struct mt_attention *own)
{
	if (mt_context_outer(e->layout) == 1)
		return mt_context_enqueue(e, MT_OP_ATTENTION, own);
	return e->layout->cp_kind == MT_CONTEXT_ALL_GATHER ? mt_context_gather(e, own) : mt_context_ring(e, own);
}

static enum mt_status attend_parts_backward(struct mt_engine *e, const struct mt_attention *own)
{
	if (mt_context_outer(e->layout) == 1)
		return mt_context_enqueue(e, MT_OP_ATTENTION_BWD, own);
	return e->layout->cp_kind == MT_CONTEXT_ALL_GATHER ? mt_context_gather_backward(e, own) : mt_context_ring_backward(e, own);
}

enum mt_status mt_context_attend(struct mt_engine *e, const struct mt_attention *plain, struct mt_layer_saved *s)
{
	struct mt_attention own = part_of(e, plain, s);
	const struct mt_context_columns columns = {plain->o, plain->o_stride, widths_of(plain).o};
	void *o;

	if (mt_context_inner(e->layout) == 1)
		return attend_parts(e, &own);
	MT_TRY(mt_context_alloc(e, e->rows * columns.cols, &o));
	own.o = o;
	MT_TRY(attend_parts(e, &own));
	MT_TRY(mt_context_from_part(e, o, &columns, 1));
	mt_engine_release(e, &o);
	return MT_OK;
}

/* Where heads are exchanged o comes a second time, beside do: kept, it would be another tensor of this rank's rows. */
static enum mt_status backward_exchanged(struct mt_engine *e, const struct mt_attention *plain, struct mt_attention *own)
{
	struct widths w = widths_of(plain), share = widths_of(own);
	const struct mt_context_columns in[] = {{plain->o, plain->o_stride, w.o},
						{(void *)(uintptr_t)plain->do_, plain->o_stride, w.o}};
	const struct mt_context_columns out[] = {{plain->dq, plain->q_stride, w.q},
						 {plain->dk, plain->kv_stride, w.k},
						 {plain->dv, mt_context_v_stride(plain), w.v}};
	void *both, *gradients;

	MT_TRY(mt_context_to_part(e, in, 2, &both));
	MT_TRY(mt_context_alloc(e, e->rows * (w.q + w.k + w.v), &gradients));
	own->o = both;
	own->do_ = mt_context_at(e, both, share.o);
	own->o_stride = 2 * share.o;
	own->dq = gradients;
	own->dk = mt_context_at(e, gradients, share.q);
	own->dv = mt_context_at(e, gradients, share.q + share.k);
	MT_TRY(attend_parts_backward(e, own));
	mt_engine_release(e, &both);
	MT_TRY(mt_context_from_part(e, gradients, out, 3));
	mt_engine_release(e, &gradients);
	return MT_OK;
}

enum mt_status mt_context_attend_backward(struct mt_engine *e, const struct mt_attention *plain, struct mt_layer_saved *s)
{
	struct mt_attention own = part_of(e, plain, s);
	int64_t sums = e->layout->mbs * own.heads * own.seq;

	MT_TRY(mt_engine_alloc(e, ARENA_ACTIVATIONS, sums, mt_grad_dtype(e->dtype), &own.delta));
	if (mt_context_inner(e->layout) > 1)
		MT_TRY(backward_exchanged(e, plain, &own));
	else
		MT_TRY(attend_parts_backward(e, &own));
	mt_engine_release(e, &own.delta);
	return MT_OK;
}
