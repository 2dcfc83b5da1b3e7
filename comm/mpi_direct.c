/* mpi_direct: every member talks to every other at once. n(n-1) messages a round and the fewest rounds: best among the
 * ranks of one host, and for short messages.
 *
 * Reduction: rank r owns chunk r. Every rank sends each owner its part; the owner adds the parts in rank order, so the
 * sum does not depend on who came first, and every member gets the owner's bits. Long buffers go in segments whose parts
 * stay in cache; the gather of a segment travels with the parts of the next one. */
#include "comm/mpi.h"

#ifdef MT_HAVE_MPI

#include "comm/reduce.h"

#include <string.h>

#define PART_BYTES (512 << 10) /* of one rank in one segment */
#define BLOCK      4096        /* elements added at a time over all ranks: the sum so far stays in L1 */

static int64_t least(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

static int64_t part_count(const struct flight *f)
{
	return PART_BYTES / (int64_t)f->width;
}

/* The n-1 received parts, in rank order without the own one. */
static char *slot(const struct flight *f, int rank)
{
	int index = rank < f->group->rank ? rank : rank - 1;
	return f->staging + (size_t)index * PART_BYTES;
}

/* out = x[0] op x[1] op ... in rank order, where x[own rank] is `own`. out may be own. Partial sums overwrite the slots. */
static void reduce_parts(struct flight *f, const char *own, char *out, int64_t count)
{
	int size = f->group->size, rank = f->group->rank;
	for (int64_t at = 0; at < count; at += BLOCK) {
		int64_t n = least(BLOCK, count - at);
		size_t shift = (size_t)at * f->width;
		const char *sum = rank == 0 ? own + shift : slot(f, 0) + shift;
		for (int r = 1; r < size; r++) {
			/* Where rank's own part is the second operand, the sum so far already lies in a slot. */
			const char *next = r == rank ? own + shift : slot(f, r) + shift;
			char *to = r == size - 1 ? out + shift : r == rank ? (char *)(uintptr_t)sum : slot(f, r) + shift;
			mt_comm_combine(to, sum, next, n, f->call.dtype, f->call.reduction);
			sum = to;
		}
	}
}

static size_t part_staging(const struct flight *f)
{
	return (size_t)(f->group->size - 1) * PART_BYTES;
}

/* The peer at distance i > 0: everyone starts with another one. */
static int peer_at(const struct flight *f, int i)
{
	return (f->group->rank + i) % f->group->size;
}

/* ---- all_reduce: segment k of the buffer is n chunks, chunk r owned by rank r ---- */

struct chunk {
	int64_t first, count;
};

static int64_t segment_elements(const struct flight *f)
{
	return part_count(f) * f->group->size;
}

static int64_t segments(const struct flight *f)
{
	return (f->call.count + segment_elements(f) - 1) / segment_elements(f);
}

static struct chunk chunk_of(const struct flight *f, int64_t segment, int rank)
{
	int64_t first = segment * segment_elements(f);
	int64_t length = least(segment_elements(f), f->call.count - first);
	int64_t each = (length + f->group->size - 1) / f->group->size;
	struct chunk chunk = {.first = first + least(length, each * rank), .count = 0};
	chunk.count = least(first + length, chunk.first + each) - chunk.first;
	return chunk;
}

static int64_t all_reduce_rounds(const struct flight *f)
{
	return f->call.count ? segments(f) + 1 : 0;
}

static enum mt_status gather_segment(struct flight *f, int64_t segment)
{
	char *recv = f->call.recv;
	struct chunk own = chunk_of(f, segment, f->group->rank);
	for (int i = 1; i < f->group->size; i++) {
		int from = peer_at(f, f->group->size - i);
		struct chunk theirs = chunk_of(f, segment, from);
		MT_TRY(mpi_flight_recv(f, recv + (size_t)theirs.first * f->width, theirs.count * (int64_t)f->width, from));
	}
	for (int i = 1; i < f->group->size; i++)
		MT_TRY(mpi_flight_send(f, recv + (size_t)own.first * f->width, own.count * (int64_t)f->width, peer_at(f, i)));
	return MT_OK;
}

static enum mt_status scatter_segment(struct flight *f, int64_t segment)
{
	const char *send = f->call.send;
	struct chunk own = chunk_of(f, segment, f->group->rank);
	for (int i = 1; i < f->group->size; i++) {
		int from = peer_at(f, f->group->size - i);
		MT_TRY(mpi_flight_recv(f, slot(f, from), own.count * (int64_t)f->width, from));
	}
	for (int i = 1; i < f->group->size; i++) {
		struct chunk theirs = chunk_of(f, segment, peer_at(f, i));
		MT_TRY(mpi_flight_send(f, send + (size_t)theirs.first * f->width, theirs.count * (int64_t)f->width, peer_at(f, i)));
	}
	return MT_OK;
}

static enum mt_status all_reduce_post(struct flight *f, int64_t round)
{
	if (round > 0)
		MT_TRY(gather_segment(f, round - 1));
	if (round < segments(f))
		MT_TRY(scatter_segment(f, round));
	return MT_OK;
}

static enum mt_status all_reduce_finish(struct flight *f, int64_t round)
{
	if (round == segments(f))
		return MT_OK;
	struct chunk own = chunk_of(f, round, f->group->rank);
	size_t at = (size_t)own.first * f->width;
	reduce_parts(f, (const char *)f->call.send + at, (char *)f->call.recv + at, own.count);
	return MT_OK;
}

const struct algorithm mpi_direct_all_reduce = {
	.rounds = all_reduce_rounds,
	.staging_bytes = part_staging,
	.post = all_reduce_post,
	.finish = all_reduce_finish,
};

/* ---- reduce_scatter: send (n, count); round k reduces elements [k*part, ...) of the own row ---- */

static int64_t reduce_scatter_rounds(const struct flight *f)
{
	return (f->call.count + part_count(f) - 1) / part_count(f);
}

static enum mt_status reduce_scatter_post(struct flight *f, int64_t round)
{
	const char *send = f->call.send;
	int64_t first = round * part_count(f), count = least(part_count(f), f->call.count - first);
	for (int i = 1; i < f->group->size; i++) {
		int from = peer_at(f, f->group->size - i);
		MT_TRY(mpi_flight_recv(f, slot(f, from), count * (int64_t)f->width, from));
	}
	for (int i = 1; i < f->group->size; i++) {
		int64_t at = peer_at(f, i) * f->call.count + first;
		MT_TRY(mpi_flight_send(f, send + (size_t)at * f->width, count * (int64_t)f->width, peer_at(f, i)));
	}
	return MT_OK;
}

static enum mt_status reduce_scatter_finish(struct flight *f, int64_t round)
{
	int64_t first = round * part_count(f), count = least(part_count(f), f->call.count - first);
	const char *own = (const char *)f->call.send + (size_t)(f->group->rank * f->call.count + first) * f->width;
	reduce_parts(f, own, (char *)f->call.recv + (size_t)first * f->width, count);
	return MT_OK;
}

const struct algorithm mpi_direct_reduce_scatter = {
	.rounds = reduce_scatter_rounds,
	.staging_bytes = part_staging,
	.post = reduce_scatter_post,
	.finish = reduce_scatter_finish,
};

/* ---- all_gather and all_to_all: one round ---- */

static int64_t one_round(const struct flight *f)
{
	return f->call.count ? 1 : 0;
}

/* Bytes of one rank's row. */
static int64_t row(const struct flight *f)
{
	return f->call.count * (int64_t)f->width;
}

static void keep_own_row(struct flight *f)
{
	char *to = (char *)f->call.recv + f->group->rank * row(f);
	if (to != (const char *)f->call.send)
		memmove(to, f->call.send, (size_t)row(f));
}

static enum mt_status all_gather_post(struct flight *f, int64_t round)
{
	char *recv = f->call.recv;
	const char *own = recv + f->group->rank * row(f);
	for (int i = 1; i < f->group->size; i++) {
		int from = peer_at(f, f->group->size - i);
		MT_TRY(mpi_flight_recv(f, recv + from * row(f), row(f), from));
	}
	for (int i = 1; i < f->group->size; i++)
		MT_TRY(mpi_flight_send(f, own, row(f), peer_at(f, i)));
	return MT_OK;
}

const struct algorithm mpi_direct_all_gather = {
	.rounds = one_round,
	.prepare = keep_own_row,
	.post = all_gather_post,
};

static void exchange_own_row(struct flight *f)
{
	int64_t at = f->group->rank * row(f);
	memmove((char *)f->call.recv + at, (const char *)f->call.send + at, (size_t)row(f));
}

static enum mt_status all_to_all_post(struct flight *f, int64_t round)
{
	char *recv = f->call.recv;
	const char *send = f->call.send;
	for (int i = 1; i < f->group->size; i++) {
		int from = peer_at(f, f->group->size - i);
		MT_TRY(mpi_flight_recv(f, recv + from * row(f), row(f), from));
	}
	for (int i = 1; i < f->group->size; i++)
		MT_TRY(mpi_flight_send(f, send + peer_at(f, i) * row(f), row(f), peer_at(f, i)));
	return MT_OK;
}

const struct algorithm mpi_direct_all_to_all = {
	.rounds = one_round,
	.prepare = exchange_own_row,
	.post = all_to_all_post,
};

/* ---- shift: one message to the rank `distance` on, one from as many before ---- */

static enum mt_status shift_post(struct flight *f, int64_t round)
{
	int distance = f->call.peer;

	if (distance == 0) {
		memmove(f->call.recv, f->call.send, (size_t)row(f));
		return MT_OK;
	}
	MT_TRY(mpi_flight_recv(f, f->call.recv, row(f), peer_at(f, f->group->size - distance)));
	return mpi_flight_send(f, f->call.send, row(f), peer_at(f, distance));
}

const struct algorithm mpi_direct_shift = {
	.rounds = one_round,
	.post = shift_post,
};

/* ---- all_to_all_v: a message a chunk, in the order of the chunks on both sides ---- */

static void exchange_own_chunks(struct flight *f)
{
	const struct mt_comm_chunks *c = &f->call.chunks;
	size_t unit = (size_t)row(f);
	for (int i = f->group->rank * c->each; i < (f->group->rank + 1) * c->each; i++)
		memcpy((char *)f->call.recv + (size_t)c->recv_first[i] * unit,
		       (const char *)f->call.send + (size_t)c->send_first[i] * unit, (size_t)c->send_counts[i] * unit);
}

static enum mt_status all_to_all_v_post(struct flight *f, int64_t round)
{
	const struct mt_comm_chunks *c = &f->call.chunks;
	char *recv = f->call.recv;
	const char *send = f->call.send;
	for (int i = 1; i < f->group->size; i++) {
		int from = peer_at(f, f->group->size - i);
		for (int k = from * c->each; k < (from + 1) * c->each; k++)
			if (c->recv_counts[k] > 0)
				MT_TRY(mpi_flight_recv(f, recv + c->recv_first[k] * row(f), c->recv_counts[k] * row(f), from));
	}
	for (int i = 1; i < f->group->size; i++) {
		int to = peer_at(f, i);
		for (int k = to * c->each; k < (to + 1) * c->each; k++)
			if (c->send_counts[k] > 0)
				MT_TRY(mpi_flight_send(f, send + c->send_first[k] * row(f), c->send_counts[k] * row(f), to));
	}
	return MT_OK;
}

const struct algorithm mpi_direct_all_to_all_v = {
	.rounds = one_round,
	.prepare = exchange_own_chunks,
	.post = all_to_all_v_post,
};

#endif
