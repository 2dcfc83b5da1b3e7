/* mpi_flight: the life of one collective or message: made, started in its turn, polled round by round, retired. */
#include "comm/mpi.h"

#ifdef MT_HAVE_MPI

#include "base/clock.h"

#include <stdlib.h>
#include <string.h>

/* Longer messages go as several: counts of MPI are int, and short pieces let flights share the wire. */
#define PIECE_BYTES (4 << 20)
/* Tags: two spaces, collectives and messages, each counted modulo 2^22 (the least MPI_TAG_UB met is 2^23 - 1). */
#define TAG_COUNT   0x3fffffu
#define TAG_MESSAGE 0x400000

static void number(struct flight *f)
{
	struct mpi_group *members = members_of(f->group);
	if (f->call.op == MT_COMM_SEND_RECV) {
		uint64_t *counter = f->call.receiving ? members->received : members->sent;
		f->order = counter[f->call.peer]++;
		f->tag = TAG_MESSAGE | (int)(f->order & TAG_COUNT);
		return;
	}
	f->ordered = true;
	f->order = members->called++;
	f->tag = (int)(f->order & TAG_COUNT);
}

struct flight *mpi_flight_make(struct mt_group *group, struct mt_stream *stream, const struct mt_comm_call *call)
{
	struct mpi_fabric *mpi = mpi_of(group);
	pthread_mutex_lock(&mpi->queue_lock);
	struct flight *f = mpi->idle;
	if (f)
		mpi->idle = f->next;
	pthread_mutex_unlock(&mpi->queue_lock);
	if (!f && !(f = calloc(1, sizeof *f))) {
		mt_fail(MT_NOMEM, "%s on group %s: no memory", mt_comm_op_name(call->op), group->name);
		return NULL;
	}
	/* What is kept between uses: the buffers. */
	struct flight kept = {.requests = f->requests,
			      .statuses = f->statuses,
			      .request_capacity = f->request_capacity,
			      .staging = f->staging,
			      .staging_bytes = f->staging_bytes};
	*f = kept;
	f->group = group;
	f->stream = stream;
	f->call = *call;
	f->width = mt_dtype_bytes(call->dtype);
	pthread_getcpuclockid(pthread_self(), &f->caller);
	number(f);
	f->signature = mt_comm_sign(call, f->order);
	atomic_fetch_add(&members_of(group)->flying, 1);
	return f;
}

enum mt_status mpi_flight_fail(const struct flight *f, const char *where, int code)
{
	const struct mt_group *group = f->group;
	char text[MPI_MAX_ERROR_STRING] = "";
	int length = 0;
	MPI_Error_string(code, text, &length);
	return mt_fail(MT_FAILED, "%s on group %s (size %d, rank %d; world rank %d on %s): %s: %s", mt_comm_op_name(f->call.op),
		       group->name, group->size, group->rank, group->fabric->rank,
		       mt_fabric_host(group->fabric, group->fabric->rank), where, text);
}

static enum mt_status no_memory(const struct flight *f, size_t bytes)
{
	return mt_fail(MT_NOMEM, "%s on group %s: no memory for %zu bytes of staging", mt_comm_op_name(f->call.op), f->group->name,
		       bytes);
}

MPI_Request *mpi_flight_request(struct flight *f)
{
	if (f->request_count == f->request_capacity) {
		size_t capacity = f->request_capacity ? 2 * (size_t)f->request_capacity : 16;
		MPI_Request *requests = realloc(f->requests, capacity * sizeof *requests);
		if (requests)
			f->requests = requests;
		MPI_Status *statuses = realloc(f->statuses, capacity * sizeof *statuses);
		if (statuses)
			f->statuses = statuses;
		if (!requests || !statuses) {
			no_memory(f, capacity * sizeof *requests);
			return NULL;
		}
		f->request_capacity = (int)capacity;
	}
	f->requests[f->request_count] = MPI_REQUEST_NULL;
	return &f->requests[f->request_count++];
}

enum mt_status mpi_flight_send(struct flight *f, const void *buffer, int64_t bytes, int to)
{
	const char *from = buffer;
	for (int64_t at = 0; at < bytes; at += PIECE_BYTES) {
		int piece = bytes - at < PIECE_BYTES ? (int)(bytes - at) : PIECE_BYTES;
		MPI_Request *request = mpi_flight_request(f);
		if (!request)
			return MT_NOMEM;
		int code = MPI_Isend(from + at, piece, MPI_BYTE, to, f->tag, members_of(f->group)->comm, request);
		if (code != MPI_SUCCESS)
			return mpi_flight_fail(f, "MPI_Isend", code);
	}
	return MT_OK;
}

enum mt_status mpi_flight_recv(struct flight *f, void *buffer, int64_t bytes, int from)
{
	char *to = buffer;
	for (int64_t at = 0; at < bytes; at += PIECE_BYTES) {
		int piece = bytes - at < PIECE_BYTES ? (int)(bytes - at) : PIECE_BYTES;
		MPI_Request *request = mpi_flight_request(f);
		if (!request)
			return MT_NOMEM;
		int code = MPI_Irecv(to + at, piece, MPI_BYTE, from, f->tag, members_of(f->group)->comm, request);
		if (code != MPI_SUCCESS)
			return mpi_flight_fail(f, "MPI_Irecv", code);
	}
	return MT_OK;
}

static enum mt_status reserve_staging(struct flight *f)
{
	size_t bytes = f->algorithm->staging_bytes ? f->algorithm->staging_bytes(f) : 0;
	if (bytes <= f->staging_bytes)
		return MT_OK;
	free(f->staging);
	f->staging_bytes = 0;
	f->staging = aligned_alloc(64, (bytes + 63) / 64 * 64);
	if (!f->staging)
		return no_memory(f, bytes);
	f->staging_bytes = bytes;
	return MT_OK;
}

static enum mt_status begin(struct flight *f, const struct algorithm *algorithm)
{
	f->algorithm = algorithm;
	f->round = 0;
	MT_TRY(reserve_staging(f));
	if (algorithm->prepare)
		algorithm->prepare(f);
	return MT_OK;
}

static enum mt_status start(struct flight *f)
{
	f->started = true;
	f->start_s = mt_clock_s();
	mt_watchdog_begin(f->group->fabric->watchdog, &f->watch, f->group, &f->call, f->order);
	if (atomic_load(&members_of(f->group)->broken))
		return mt_fail(MT_FAILED, "%s on group %s (rank %d): an earlier operation on this group failed",
			       mt_comm_op_name(f->call.op), f->group->name, f->group->rank);
#ifdef MT_DEBUG
	if (f->ordered) {
		f->after = mpi_choose(f);
		return begin(f, &mpi_library_agree);
	}
#endif
	return begin(f, mpi_choose(f));
}

/* The round's requests are over: finishes it and posts the next one. */
static enum mt_status step(struct flight *f, bool *over)
{
	struct mpi_fabric *mpi = mpi_of(f->group);
	enum mt_status st;
	if (f->round > 0 && f->algorithm->finish)
		MT_TRY(f->algorithm->finish(f, f->round - 1));
	if (f->after && f->round == f->algorithm->rounds(f)) {
		const struct algorithm *after = f->after;
		f->after = NULL;
		MT_TRY(begin(f, after));
	}
	*over = f->round == f->algorithm->rounds(f);
	if (*over)
		return MT_OK;
	pthread_mutex_lock(&mpi->lock);
	st = f->algorithm->post(f, f->round);
	pthread_mutex_unlock(&mpi->lock);
	f->round++;
	return st;
}

static enum mt_status test(struct flight *f, int *done)
{
	struct mpi_fabric *mpi = mpi_of(f->group);
	pthread_mutex_lock(&mpi->lock);
	int code = MPI_Testall(f->request_count, f->requests, done, f->statuses);
	pthread_mutex_unlock(&mpi->lock);
	if (code == MPI_SUCCESS)
		return MT_OK;
	for (int i = 0; code == MPI_ERR_IN_STATUS && i < f->request_count; i++)
		if (f->statuses[i].MPI_ERROR != MPI_SUCCESS && f->statuses[i].MPI_ERROR != MPI_ERR_PENDING)
			code = f->statuses[i].MPI_ERROR;
	return mpi_flight_fail(f, "waiting for it", code);
}

/* Lets the next collective of the group start: this one has called MPI, or never will. */
static void pass_turn(struct flight *f)
{
	if (f->ordered && !f->turn_passed)
		atomic_store(&members_of(f->group)->started, f->order + 1);
	f->turn_passed = true;
}

static bool may_start(const struct flight *f)
{
	return !f->ordered || atomic_load(&members_of(f->group)->started) == f->order;
}

enum mt_status mpi_flight_poll(struct flight *f, bool *moved, bool *over)
{
	enum mt_status st = MT_OK;
	int done = 1;
	*over = false;
	if (!f->started) {
		bool ready = true;
		if (!may_start(f))
			return MT_OK;
		if (f->stage)
			MT_GOTO(fail, mpi_staged_fetch(f, &ready));
		if (!ready)
			return MT_OK;
		MT_GOTO(fail, start(f));
	} else if (f->request_count) {
		MT_GOTO(fail, test(f, &done));
		if (!done && !atomic_load_explicit(&f->watch.expired, memory_order_relaxed))
			return MT_OK;
		if (!done)
			MT_GOTO(fail, mt_watchdog_fail(f->group->fabric->watchdog, &f->watch));
		f->request_count = 0;
	}
	*moved = true;
	MT_GOTO(fail, step(f, over));
	if (*over && f->stage)
		MT_GOTO(fail, mpi_staged_store(f));
	if (!f->after)
		pass_turn(f);
	return MT_OK;
fail:
	*over = *moved = true;
	atomic_store(&members_of(f->group)->broken, true);
	pass_turn(f);
	return st;
}

enum mt_status mpi_flight_fly(struct flight *f)
{
	enum mt_status st;
	bool over = false;
	double moved_s = mt_clock_s();
	for (;;) {
		bool moved = false;
		st = mpi_flight_poll(f, &moved, &over);
		if (over)
			break;
		double now = mt_clock_s();
		if (moved)
			moved_s = now;
		else
			mpi_pause(f, now - moved_s);
	}
	mpi_flight_retire(f, st);
	return st;
}

void mpi_flight_retire(struct flight *f, enum mt_status st)
{
	struct mpi_fabric *mpi = mpi_of(f->group);
	struct mpi_group *members = members_of(f->group);
	mt_watchdog_end(f->group->fabric->watchdog, &f->watch);
	if (st == MT_OK && f->stream)
		mt_comm_trace(f->group, f->stream, &f->call, f->start_s, mt_clock_s());
	mpi_staged_free(f);
	pthread_mutex_lock(&mpi->queue_lock);
	struct flight **list = f->request_count ? &mpi->wrecks : &mpi->idle;
	f->next = *list;
	*list = f;
	pthread_mutex_unlock(&mpi->queue_lock);
	atomic_fetch_sub(&members->flying, 1);
}

void mpi_flight_free_all(struct flight *list)
{
	while (list) {
		struct flight *next = list->next;
		free(list->requests);
		free(list->statuses);
		free(list->staging);
		list->request_count = 0; /* MPI has ended */
		mpi_staged_free(list);
		free(list);
		list = next;
	}
}

#endif
