/* mpi_ring: every member talks to its neighbours in rank order only, n-1 rounds a pass. Each link carries (n-1)/n of the
 * buffer a pass, which is the least possible, and neighbours across hosts meet once a host: best for long buffers over a
 * network. The order of additions is fixed by the ring, so results are the same bits from run to run.
 * Patarasuk & Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations". */
#include "comm/mpi.h"

#ifdef MT_HAVE_MPI

#include "comm/reduce.h"

#include <string.h>

#define PART_BYTES (1 << 20) /* of one rank in one segment */

static int64_t least(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

static int64_t part_count(const struct flight *f)
{
	return PART_BYTES / (int64_t)f->width;
}

static int right(const struct flight *f)
{
	return (f->group->rank + 1) % f->group->size;
}

static int left(const struct flight *f)
{
	return (f->group->rank + f->group->size - 1) % f->group->size;
}

/* (rank - back) modulo n, for 0 <= back <= 2n. */
static int behind(const struct flight *f, int64_t back)
{
	int n = f->group->size;
	return (int)((f->group->rank + 2 * (int64_t)n - back) % n);
}

/* ---- all_reduce: each segment n-1 rounds that add, then n-1 that pass the sums on ---- */

struct chunk {
	int64_t first, count;
};

static int64_t segment_elements(const struct flight *f)
{
	return part_count(f) * f->group->size;
}

static int64_t all_reduce_rounds(const struct flight *f)
{
	return (f->call.count + segment_elements(f) - 1) / segment_elements(f) * 2 * (f->group->size - 1);
}

static struct chunk chunk_of(const struct flight *f, int64_t round, int rank)
{
	int64_t first = round / (2 * (f->group->size - 1)) * segment_elements(f);
	int64_t length = least(segment_elements(f), f->call.count - first);
	int64_t each = (length + f->group->size - 1) / f->group->size;
	struct chunk chunk = {.first = first + least(length, each * rank), .count = 0};
	chunk.count = least(first + length, chunk.first + each) - chunk.first;
	return chunk;
}

/* Round t of a segment: t < n-1 adds chunk (rank - t - 1), later rounds pass on chunk (rank + 1 - t'), t' = t - (n-1). */
static enum mt_status all_reduce_post(struct flight *f, int64_t round)
{
	int64_t t = round % (2 * (f->group->size - 1)), passes = f->group->size - 1;
	bool adding = t < passes;
	struct chunk out = chunk_of(f, round, adding ? behind(f, t) : behind(f, t - passes + f->group->size - 1));
	struct chunk in = chunk_of(f, round, adding ? behind(f, t + 1) : behind(f, t - passes));
	const char *from = t == 0 ? f->call.send : f->call.recv;
	char *to = adding ? f->staging : (char *)f->call.recv + (size_t)in.first * f->width;
	MT_TRY(mpi_flight_recv(f, to, in.count * (int64_t)f->width, left(f)));
	return mpi_flight_send(f, from + (size_t)out.first * f->width, out.count * (int64_t)f->width, right(f));
}

static enum mt_status all_reduce_finish(struct flight *f, int64_t round)
{
	int64_t t = round % (2 * (f->group->size - 1));
	if (t >= f->group->size - 1)
		return MT_OK;
	struct chunk in = chunk_of(f, round, behind(f, t + 1));
	size_t at = (size_t)in.first * f->width;
	mt_comm_combine((char *)f->call.recv + at, f->staging, (const char *)f->call.send + at, in.count, f->call.dtype,
			f->call.reduction);
	return MT_OK;
}

static size_t one_part(const struct flight *f)
{
	return PART_BYTES;
}

const struct algorithm mpi_ring_all_reduce = {
	.rounds = all_reduce_rounds,
	.staging_bytes = one_part,
	.post = all_reduce_post,
	.finish = all_reduce_finish,
};

/* ---- reduce_scatter: a segment is a part of every row; the partial sum travels in two halves of the staging ---- */

static int64_t reduce_scatter_rounds(const struct flight *f)
{
	return (f->call.count + part_count(f) - 1) / part_count(f) * (f->group->size - 1);
}

static struct chunk row_part(const struct flight *f, int64_t round, int rank)
{
	int64_t first = round / (f->group->size - 1) * part_count(f);
	struct chunk chunk = {.first = rank * f->call.count + first, .count = least(part_count(f), f->call.count - first)};
	return chunk;
}

static char *half(const struct flight *f, int64_t round)
{
	return f->staging + (round & 1) * PART_BYTES;
}

/* Round t sends the sum of row (rank - t - 1) so far and receives that of row (rank - t - 2), which ends at the own row. */
static enum mt_status reduce_scatter_post(struct flight *f, int64_t round)
{
	int64_t t = round % (f->group->size - 1);
	struct chunk out = row_part(f, round, behind(f, t + 1));
	const char *from = t == 0 ? (const char *)f->call.send + (size_t)out.first * f->width : half(f, round - 1);
	MT_TRY(mpi_flight_recv(f, half(f, round), out.count * (int64_t)f->width, left(f)));
	return mpi_flight_send(f, from, out.count * (int64_t)f->width, right(f));
}

static enum mt_status reduce_scatter_finish(struct flight *f, int64_t round)
{
	int64_t t = round % (f->group->size - 1), first = round / (f->group->size - 1) * part_count(f);
	struct chunk in = row_part(f, round, behind(f, t + 2));
	bool last = t == f->group->size - 2;
	char *to = last ? (char *)f->call.recv + (size_t)first * f->width : half(f, round);
	mt_comm_combine(to, half(f, round), (const char *)f->call.send + (size_t)in.first * f->width, in.count, f->call.dtype,
			f->call.reduction);
	return MT_OK;
}

static size_t two_parts(const struct flight *f)
{
	return 2 * PART_BYTES;
}

const struct algorithm mpi_ring_reduce_scatter = {
	.rounds = reduce_scatter_rounds,
	.staging_bytes = two_parts,
	.post = reduce_scatter_post,
	.finish = reduce_scatter_finish,
};

/* ---- all_gather: round t passes on row (rank - t) ---- */

static int64_t all_gather_rounds(const struct flight *f)
{
	return f->call.count ? f->group->size - 1 : 0;
}

static void keep_own_row(struct flight *f)
{
	size_t row = (size_t)f->call.count * f->width;
	char *to = (char *)f->call.recv + (size_t)f->group->rank * row;
	if (to != (const char *)f->call.send)
		memmove(to, f->call.send, row);
}

static enum mt_status all_gather_post(struct flight *f, int64_t round)
{
	int64_t row = f->call.count * (int64_t)f->width;
	char *recv = f->call.recv;
	MT_TRY(mpi_flight_recv(f, recv + behind(f, round + 1) * row, row, left(f)));
	return mpi_flight_send(f, recv + behind(f, round) * row, row, right(f));
}

const struct algorithm mpi_ring_all_gather = {
	.rounds = all_gather_rounds,
	.prepare = keep_own_row,
	.post = all_gather_post,
};

#endif
