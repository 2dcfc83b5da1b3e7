/* tcp_run: one call as requests to the board: gathers where every member's part goes to all, messages where it goes to one. */
#include "comm/tcp.h"

#include "base/clock.h"
#include "comm/agree.h"
#include "comm/reduce.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PIECE_BYTES ((size_t)16 << 20) /* of a rank in one request */
#define PAUSE_S     50e-6
#define GUARD_S     2.0

/* ---- keys ---- */

static void key_of_part(const struct tcp_work *w, const char *what, size_t piece, char key[MT_BOARD_KEY])
{
	snprintf(key, MT_BOARD_KEY, "%llx/%llx%s%zx", (unsigned long long)tcp_members(w->group)->name,
		 (unsigned long long)w->number, what, piece);
}

static void key_of_message(const struct tcp_work *w, const char *what, int from, int to, char key[MT_BOARD_KEY])
{
	snprintf(key, MT_BOARD_KEY, "%llx/%llx%s%x-%x", (unsigned long long)tcp_members(w->group)->name,
		 (unsigned long long)w->number, what, from, to);
}

/* ---- calls on host memory ---- */

static size_t row_bytes(const struct tcp_work *w)
{
	return (size_t)w->call.count * w->width;
}

/* Whole elements. */
static size_t piece_bytes(const struct tcp_work *w)
{
	return PIECE_BYTES / w->width * w->width;
}

/* A piece of every rank, in `parts`, for the elements from `at` on. */
static enum mt_status gather_piece(struct tcp_work *w, struct mt_board *board, const char *what, size_t at, size_t bytes,
				   char *parts)
{
	const char *mine = bytes ? (const char *)w->call.send + at : NULL;
	char key[MT_BOARD_KEY];
	key_of_part(w, what, at, key);
	return mt_board_gather(board, key, w->group->rank, w->group->size, mine, bytes, parts);
}

static void reduce_piece(const struct tcp_work *w, char *parts, size_t bytes, char *out)
{
	for (int r = 1; r < w->group->size; r++)
		mt_comm_combine(parts, parts, parts + (size_t)r * bytes, (int64_t)(bytes / w->width), w->call.dtype,
				w->call.reduction);
	memcpy(out, parts, bytes);
}

/* all_reduce and all_gather: everybody's pieces to everybody. */
static enum mt_status run_gathers(struct tcp_work *w, struct mt_board *board)
{
	size_t row = row_bytes(w), most = piece_bytes(w);
	char *parts = malloc((row < most ? row : most) * (size_t)w->group->size + 1), *out = w->call.recv;
	enum mt_status st = MT_OK;
	if (!parts)
		return mt_fail(MT_NOMEM, "%s on group %s: no memory", mt_comm_op_name(w->call.op), w->group->name);
	for (size_t at = 0; at < row; at += most) {
		size_t bytes = row - at < most ? row - at : most;
		MT_GOTO(out, gather_piece(w, board, "/", at, bytes, parts));
		if (w->call.op == MT_COMM_ALL_REDUCE)
			reduce_piece(w, parts, bytes, out + at);
		for (int r = 0; r < w->group->size && w->call.op == MT_COMM_ALL_GATHER; r++)
			memcpy(out + (size_t)r * row + at, parts + (size_t)r * bytes, bytes);
	}
out:
	free(parts);
	return st;
}

/* all_to_all and reduce_scatter: row r of everybody to rank r. */
static enum mt_status run_rows(struct tcp_work *w, struct mt_board *board)
{
	size_t row = row_bytes(w);
	int size = w->group->size, rank = w->group->rank;
	const char *send = w->call.send;
	char *rows = malloc(row * (size_t)size + 1), key[MT_BOARD_KEY];
	enum mt_status st = MT_OK;
	if (!rows)
		return mt_fail(MT_NOMEM, "%s on group %s: no memory", mt_comm_op_name(w->call.op), w->group->name);
	memcpy(rows + (size_t)rank * row, send + (size_t)rank * row, row);
	for (int step = 1; step < size; step++) {
		int to = (rank + step) % size;
		key_of_message(w, "/", rank, to, key);
		MT_GOTO(out, mt_board_send(board, key, send + (size_t)to * row, row));
	}
	for (int step = 1; step < size; step++) {
		int from = (rank + size - step) % size;
		key_of_message(w, "/", from, rank, key);
		MT_GOTO(out, mt_board_take(board, key, rows + (size_t)from * row, row));
	}
	if (w->call.op == MT_COMM_REDUCE_SCATTER)
		reduce_piece(w, rows, row, w->call.recv);
	else
		memcpy(w->call.recv, rows, row * (size_t)size);
out:
	free(rows);
	return st;
}

/* Bytes of the chunks to or from one rank. */
static size_t chunk_bytes(const struct tcp_work *w, const int64_t *counts, int rank)
{
	int each = w->call.chunks.each;
	int64_t units = 0;
	for (int k = rank * each; k < (rank + 1) * each; k++)
		units += counts[k];
	return (size_t)units * row_bytes(w);
}

/* The chunks of one rank, one behind the other in `packed`: out of the buffer that is sent, or into the one received. */
static void pack_chunks(const struct tcp_work *w, int rank, bool receiving, char *packed)
{
	const struct mt_comm_chunks *c = &w->call.chunks;
	for (int k = rank * c->each; k < (rank + 1) * c->each; k++) {
		size_t bytes = (size_t)(receiving ? c->recv_counts : c->send_counts)[k] * row_bytes(w);
		if (receiving)
			memcpy((char *)w->call.recv + (size_t)c->recv_first[k] * row_bytes(w), packed, bytes);
		else
			memcpy(packed, (const char *)w->call.send + (size_t)c->send_first[k] * row_bytes(w), bytes);
		packed += bytes;
	}
}

/* all_to_all_v: all chunks to one rank are one message; none where there is nothing. */
static enum mt_status run_chunks(struct tcp_work *w, struct mt_board *board)
{
	const struct mt_comm_chunks *c = &w->call.chunks;
	int size = w->group->size, rank = w->group->rank;
	size_t most = 0;
	char key[MT_BOARD_KEY], *packed;
	enum mt_status st = MT_OK;
	for (int r = 0; r < size; r++) {
		size_t out = chunk_bytes(w, c->send_counts, r), in = chunk_bytes(w, c->recv_counts, r);
		most = out > most ? out : most;
		most = in > most ? in : most;
	}
	packed = malloc(most + 1);
	if (!packed)
		return mt_fail(MT_NOMEM, "%s on group %s: no memory", mt_comm_op_name(w->call.op), w->group->name);
	pack_chunks(w, rank, false, packed);
	pack_chunks(w, rank, true, packed);
	for (int step = 1; step < size; step++) {
		int to = (rank + step) % size;
		if (chunk_bytes(w, c->send_counts, to) == 0)
			continue;
		pack_chunks(w, to, false, packed);
		key_of_message(w, "/", rank, to, key);
		MT_GOTO(out, mt_board_send(board, key, packed, chunk_bytes(w, c->send_counts, to)));
	}
	for (int step = 1; step < size; step++) {
		int from = (rank + size - step) % size;
		if (chunk_bytes(w, c->recv_counts, from) == 0)
			continue;
		key_of_message(w, "/", from, rank, key);
		MT_GOTO(out, mt_board_take(board, key, packed, chunk_bytes(w, c->recv_counts, from)));
		pack_chunks(w, from, true, packed);
	}
out:
	free(packed);
	return st;
}

static enum mt_status run_broadcast(struct tcp_work *w, struct mt_board *board)
{
	char key[MT_BOARD_KEY];
	if (w->group->rank != w->call.peer) {
		key_of_message(w, "/", w->call.peer, w->group->rank, key);
		return mt_board_take(board, key, w->call.recv, row_bytes(w));
	}
	for (int r = 0; r < w->group->size; r++) {
		if (r == w->group->rank)
			continue;
		key_of_message(w, "/", w->group->rank, r, key);
		MT_TRY(mt_board_send(board, key, w->call.recv, row_bytes(w)));
	}
	return MT_OK;
}

static enum mt_status run_shift(struct tcp_work *w, struct mt_board *board)
{
	int size = w->group->size, rank = w->group->rank, to = (rank + w->call.peer) % size,
	    from = (rank + size - w->call.peer) % size;
	char key[MT_BOARD_KEY];
	key_of_message(w, "/", rank, to, key);
	MT_TRY(mt_board_send(board, key, w->call.send, row_bytes(w)));
	key_of_message(w, "/", from, rank, key);
	return mt_board_take(board, key, w->call.recv, row_bytes(w));
}

static enum mt_status run_message(struct tcp_work *w, struct mt_board *board)
{
	char key[MT_BOARD_KEY];
	if (w->call.receiving) {
		key_of_message(w, "/m", w->call.peer, w->group->rank, key);
		return mt_board_take(board, key, w->call.recv, row_bytes(w));
	}
	key_of_message(w, "/m", w->group->rank, w->call.peer, key);
	return mt_board_send(board, key, w->call.send, row_bytes(w));
}

/* In debug builds the members compare what they call first. */
static enum mt_status agree(struct tcp_work *w, struct mt_board *board)
{
#ifdef MT_DEBUG
	struct mt_comm_signature mine = mt_comm_sign(&w->call, w->number), *all;
	char key[MT_BOARD_KEY];
	enum mt_status st;
	if (w->call.op == MT_COMM_SEND_RECV || !(all = calloc((size_t)w->group->size, sizeof *all)))
		return MT_OK;
	key_of_part(w, "/a", 0, key);
	st = mt_board_gather(board, key, w->group->rank, w->group->size, &mine, sizeof mine, all);
	if (st == MT_OK)
		st = mt_comm_agree(w->group, all);
	free(all);
	return st;
#else
	return MT_OK;
#endif
}

static enum mt_status run_on_host(struct tcp_work *w, struct mt_board *board)
{
	MT_TRY(agree(w, board));
	if (w->call.op == MT_COMM_BARRIER)
		return gather_piece(w, board, "/", 0, 0, NULL);
	if (w->call.count == 0)
		return MT_OK;
	switch (w->call.op) {
	case MT_COMM_ALL_REDUCE:
	case MT_COMM_ALL_GATHER:
		return run_gathers(w, board);
	case MT_COMM_REDUCE_SCATTER:
	case MT_COMM_ALL_TO_ALL:
		return run_rows(w, board);
	case MT_COMM_ALL_TO_ALL_V:
		return run_chunks(w, board);
	case MT_COMM_BROADCAST:
		return run_broadcast(w, board);
	case MT_COMM_SHIFT:
		return run_shift(w, board);
	default:
		return run_message(w, board);
	}
}

/* ---- a call of a device whose memory is its own ---- */

static size_t sent_bytes(const struct tcp_work *w)
{
	const struct mt_comm_call *c = &w->call;
	bool whole = c->op == MT_COMM_REDUCE_SCATTER || c->op == MT_COMM_ALL_TO_ALL;
	if ((c->op == MT_COMM_BROADCAST && c->peer != w->group->rank) || (c->op == MT_COMM_SEND_RECV && c->receiving))
		return 0;
	if (c->op == MT_COMM_ALL_TO_ALL_V)
		return (size_t)mt_comm_chunks_bytes(c, w->group->size, false);
	return row_bytes(w) * (size_t)(whole ? w->group->size : 1);
}

static size_t received_bytes(const struct tcp_work *w)
{
	const struct mt_comm_call *c = &w->call;
	bool whole = c->op == MT_COMM_ALL_GATHER || c->op == MT_COMM_ALL_TO_ALL;
	if ((c->op == MT_COMM_BROADCAST && c->peer == w->group->rank) || (c->op == MT_COMM_SEND_RECV && !c->receiving))
		return 0;
	if (c->op == MT_COMM_ALL_TO_ALL_V)
		return (size_t)mt_comm_chunks_bytes(c, w->group->size, true);
	return row_bytes(w) * (size_t)(whole ? w->group->size : 1);
}

/* On the device's thread: buffers on the host, and an event behind what the operands wait for. */
static enum mt_status stage(struct tcp_work *w)
{
	size_t sent = sent_bytes(w), received = received_bytes(w), bytes = row_bytes(w) * (size_t)w->group->size;
	if (w->call.op == MT_COMM_ALL_TO_ALL_V)
		bytes = sent > received ? sent : received;
	w->device_send = w->call.send;
	w->device_recv = w->call.recv;
	if (!(w->staging = malloc(2 * bytes + 1)))
		return mt_fail(MT_NOMEM, "%s on group %s: no memory for %zu bytes of staging", mt_comm_op_name(w->call.op),
			       w->group->name, 2 * bytes);
	w->call.send = w->staging;
	w->call.recv = w->call.op == MT_COMM_BROADCAST ? w->staging : w->staging + bytes;
	MT_TRY(mt_event_create(w->stream->device, &w->ready));
	return mt_event_record(w->ready, w->stream);
}

static enum mt_status fetch(struct tcp_work *w)
{
	struct mt_device *device = w->stream->device;
	bool over = false;
	for (;;) {
		MT_TRY(mt_event_over(w->ready, &over));
		if (over)
			break;
		mt_clock_sleep(PAUSE_S);
	}
	size_t bytes = sent_bytes(w);
	return bytes ? device->ops->async->fetch(device, w->staging, w->device_send, bytes) : MT_OK;
}

static enum mt_status store(struct tcp_work *w)
{
	struct mt_device *device = w->stream->device;
	size_t bytes = received_bytes(w);
	return bytes ? device->ops->async->store(device, w->device_recv, w->call.recv, bytes) : MT_OK;
}

/* ---- the life of a call ---- */

static bool is_given_up(void *context)
{
	return atomic_load(&((struct mt_watch *)context)->expired);
}

static enum mt_status run_watched(struct tcp_work *w, struct mt_board **board)
{
	struct mt_watchdog *watchdog = w->group->fabric->watchdog;
	struct tcp_group *g = tcp_members(w->group);
	enum mt_status st;
	if (atomic_load(&g->broken))
		return mt_fail(MT_FAILED, "%s on group %s (rank %d): an earlier operation failed", mt_comm_op_name(w->call.op),
			       w->group->name, w->group->rank);
	mt_watchdog_begin(watchdog, &w->watch, w->group, &w->call, w->number);
	MT_GOTO(out, tcp_connect(tcp_of(w->group), board, 0));
	mt_board_cancel_when(*board, is_given_up, &w->watch);
	st = run_on_host(w, *board);
	mt_board_cancel_when(*board, NULL, NULL);
out:
	mt_watchdog_end(watchdog, &w->watch);
	if (st == MT_OK)
		return MT_OK;
	atomic_store(&g->broken, true);
	mt_board_close(*board);
	*board = NULL;
	if (!is_given_up(&w->watch)) {
		/* When rank 0 is gone the guard ends us: not one message a rank. */
		if (tcp_connect(tcp_of(w->group), board, 0) != MT_OK)
			mt_clock_sleep(GUARD_S);
		return st;
	}
	mt_error_clear();
	return mt_watchdog_fail(watchdog, &w->watch);
}

enum mt_status tcp_work_run(struct tcp_work *w, struct mt_board **board)
{
	w->start_s = mt_clock_s();
	if (w->staging)
		MT_TRY(fetch(w));
	MT_TRY(run_watched(w, board));
	if (w->staging)
		MT_TRY(store(w));
	if (w->stream)
		mt_comm_trace(w->group, w->stream, &w->call, w->start_s, mt_clock_s());
	return MT_OK;
}

void tcp_work_free(struct tcp_work *w)
{
	mt_event_destroy(w->ready);
	atomic_fetch_sub(&tcp_members(w->group)->flying, 1);
	free(w->staging);
	free(w);
}

static uint64_t number(struct tcp_group *g, const struct mt_comm_call *c)
{
	if (c->op != MT_COMM_SEND_RECV)
		return g->called++;
	return (c->receiving ? g->received : g->sent)[c->peer]++;
}

static enum mt_status make(struct tcp_work **work, struct mt_group *group, struct mt_stream *stream,
			   const struct mt_comm_call *call)
{
	struct tcp_work *w = calloc(1, sizeof *w);
	if (!w)
		return mt_fail(MT_NOMEM, "%s on group %s: no memory", mt_comm_op_name(call->op), group->name);
	w->group = group;
	w->stream = stream;
	w->call = *call;
	w->width = mt_dtype_bytes(call->dtype);
	w->number = number(tcp_members(group), call);
	atomic_fetch_add(&tcp_members(group)->flying, 1);
	*work = w;
	return MT_OK;
}

/* On the calling thread. */
static enum mt_status run_here(struct tcp_work *w)
{
	struct tcp_fabric *f = tcp_of(w->group);
	pthread_mutex_lock(&f->lock);
	enum mt_status st = tcp_work_run(w, &f->board);
	pthread_mutex_unlock(&f->lock);
	tcp_work_free(w);
	return st;
}

enum mt_status tcp_run(struct mt_group *group, struct mt_stream *stream, const struct mt_comm_call *call)
{
	struct tcp_work *w;
	MT_TRY(make(&w, group, stream, call));
	enum mt_status st = stream->device->ops->async ? stage(w) : MT_OK;
	if (st != MT_OK) {
		tcp_work_free(w);
		return st;
	}
	return stream->kind == MT_STREAM_COMM ? tcp_lane_push(w) : run_here(w);
}

static enum mt_status run_host_side(struct mt_group *group, const struct mt_comm_call *call, size_t width)
{
	struct tcp_work *w;
	MT_TRY(make(&w, group, NULL, call));
	w->width = width;
	return run_here(w);
}

enum mt_status tcp_barrier(struct mt_group *group)
{
	return run_host_side(group, &(struct mt_comm_call){.op = MT_COMM_BARRIER}, 1);
}

enum mt_status tcp_host_all_reduce(struct mt_group *group, double *values, int count, enum mt_reduction reduction)
{
	struct mt_comm_call call = {.op = MT_COMM_ALL_REDUCE, .send = values, .recv = values, .count = count, .dtype = MT_F64};
	call.reduction = reduction;
	return run_host_side(group, &call, sizeof *values);
}

enum mt_status tcp_host_all_gather(struct mt_group *group, const void *send, void *recv, size_t bytes_per_rank)
{
	struct mt_comm_call call = {.op = MT_COMM_ALL_GATHER, .send = send, .recv = recv, .count = (int64_t)bytes_per_rank};
	return run_host_side(group, &call, 1);
}
