/* mpi_library: what the MPI library's own non-blocking collectives do best: broadcast, barrier, short collectives of
 * large groups, and the agreement check of debug builds. And messages. */
#include "comm/mpi.h"

#ifdef MT_HAVE_MPI

#include "comm/reduce.h"

#include <stdlib.h>
#include <string.h>

/* One call's count is an int; also well below where libraries multiply ints. */
#define CALL_COUNT (1 << 28)

/* MPI has no types of 16 bits but integers: each of the two stands for one of ours. */
static enum mt_dtype dtype_of(MPI_Datatype type)
{
	if (type == MPI_UINT16_T || type == MPI_INT16_T)
		return type == MPI_UINT16_T ? MT_BF16 : MT_F16;
	return type == MPI_FLOAT ? MT_F32 : type == MPI_DOUBLE ? MT_F64 : MT_I32;
}

static MPI_Datatype type_of(enum mt_dtype dtype)
{
	switch (dtype) {
	case MT_F32:
		return MPI_FLOAT;
	case MT_F64:
		return MPI_DOUBLE;
	case MT_BF16:
		return MPI_UINT16_T;
	case MT_F16:
		return MPI_INT16_T;
	case MT_E4M3:
	case MT_E5M2:
		return MPI_BYTE; /* moved, never added */
	default:
		return MPI_INT32_T;
	}
}

static void add_half(void *in, void *inout, int *count, MPI_Datatype *type)
{
	mt_comm_combine(inout, in, inout, *count, dtype_of(*type), MT_SUM);
}

/* Unlike MPI_MAX: a NaN stays one whatever the order. */
static void maximum(void *in, void *inout, int *count, MPI_Datatype *type)
{
	mt_comm_combine(inout, in, inout, *count, dtype_of(*type), MT_MAX);
}

enum mt_status mpi_library_open(struct mpi_fabric *mpi)
{
	mpi->half_sum = mpi->maximum = MPI_OP_NULL;
	if (MPI_Op_create(add_half, 1, &mpi->half_sum) != MPI_SUCCESS || MPI_Op_create(maximum, 1, &mpi->maximum) != MPI_SUCCESS)
		return mt_fail(MT_FAILED, "fabric mpi: MPI_Op_create failed");
	return MT_OK;
}

void mpi_library_close(struct mpi_fabric *mpi)
{
	if (mpi->half_sum != MPI_OP_NULL)
		MPI_Op_free(&mpi->half_sum);
	if (mpi->maximum != MPI_OP_NULL)
		MPI_Op_free(&mpi->maximum);
}

static MPI_Op op_of(const struct flight *f)
{
	struct mpi_fabric *mpi = mpi_of(f->group);
	if (f->call.reduction == MT_MAX)
		return mpi->maximum;
	return mt_dtype_is_half(f->call.dtype) ? mpi->half_sum : MPI_SUM;
}

static MPI_Comm comm_of(const struct flight *f)
{
	return members_of(f->group)->comm;
}

static int64_t one_round(const struct flight *f)
{
	return f->call.count ? 1 : 0;
}

static int64_t always_one_round(const struct flight *f)
{
	return 1;
}

static int64_t no_round(const struct flight *f)
{
	return 0;
}

static int64_t pieces(const struct flight *f)
{
	return (f->call.count + CALL_COUNT - 1) / CALL_COUNT;
}

static int piece_count(const struct flight *f, int64_t round)
{
	int64_t rest = f->call.count - round * CALL_COUNT;
	return (int)(rest < CALL_COUNT ? rest : CALL_COUNT);
}

static enum mt_status all_reduce_post(struct flight *f, int64_t round)
{
	size_t at = (size_t)round * CALL_COUNT * f->width;
	char *recv = (char *)f->call.recv + at;
	const void *send = f->call.send == f->call.recv ? MPI_IN_PLACE : (const char *)f->call.send + at;
	MPI_Request *request = mpi_flight_request(f);
	if (!request)
		return MT_NOMEM;
	int code = MPI_Iallreduce(send, recv, piece_count(f, round), type_of(f->call.dtype), op_of(f), comm_of(f), request);
	return code == MPI_SUCCESS ? MT_OK : mpi_flight_fail(f, "MPI_Iallreduce", code);
}

const struct algorithm mpi_library_all_reduce = {.rounds = pieces, .post = all_reduce_post};

/* In place, MPI would spoil the rest of the buffer: the own row is put aside. Short counts only (mpi_choose). */
static size_t scatter_staging(const struct flight *f)
{
	return (size_t)f->call.count * f->width;
}

static enum mt_status reduce_scatter_post(struct flight *f, int64_t round)
{
	MPI_Request *request = mpi_flight_request(f);
	if (!request)
		return MT_NOMEM;
	int code = MPI_Ireduce_scatter_block(f->call.send, f->staging, (int)f->call.count, type_of(f->call.dtype), op_of(f),
					     comm_of(f), request);
	return code == MPI_SUCCESS ? MT_OK : mpi_flight_fail(f, "MPI_Ireduce_scatter_block", code);
}

static enum mt_status reduce_scatter_finish(struct flight *f, int64_t round)
{
	memcpy(f->call.recv, f->staging, (size_t)f->call.count * f->width);
	return MT_OK;
}

const struct algorithm mpi_library_reduce_scatter = {
	.rounds = one_round,
	.staging_bytes = scatter_staging,
	.post = reduce_scatter_post,
	.finish = reduce_scatter_finish,
};

static enum mt_status all_gather_post(struct flight *f, int64_t round)
{
	int bytes = (int)(f->call.count * (int64_t)f->width);
	char *own = (char *)f->call.recv + (size_t)f->group->rank * (size_t)bytes;
	const void *send = f->call.send == own ? MPI_IN_PLACE : f->call.send;
	MPI_Request *request = mpi_flight_request(f);
	if (!request)
		return MT_NOMEM;
	int code = MPI_Iallgather(send, bytes, MPI_BYTE, f->call.recv, bytes, MPI_BYTE, comm_of(f), request);
	return code == MPI_SUCCESS ? MT_OK : mpi_flight_fail(f, "MPI_Iallgather", code);
}

const struct algorithm mpi_library_all_gather = {.rounds = one_round, .post = all_gather_post};

static enum mt_status broadcast_post(struct flight *f, int64_t round)
{
	char *buffer = (char *)f->call.recv + (size_t)round * CALL_COUNT * f->width;
	MPI_Request *request = mpi_flight_request(f);
	if (!request)
		return MT_NOMEM;
	int code = MPI_Ibcast(buffer, piece_count(f, round), type_of(f->call.dtype), f->call.peer, comm_of(f), request);
	return code == MPI_SUCCESS ? MT_OK : mpi_flight_fail(f, "MPI_Ibcast", code);
}

const struct algorithm mpi_library_broadcast = {.rounds = pieces, .post = broadcast_post};

static enum mt_status barrier_post(struct flight *f, int64_t round)
{
	MPI_Request *request = mpi_flight_request(f);
	if (!request)
		return MT_NOMEM;
	int code = MPI_Ibarrier(comm_of(f), request);
	return code == MPI_SUCCESS ? MT_OK : mpi_flight_fail(f, "MPI_Ibarrier", code);
}

const struct algorithm mpi_library_barrier = {.rounds = always_one_round, .post = barrier_post};

/* ---- agreement: everyone's signature, compared by everyone, so all fail alike ---- */

static size_t agree_staging(const struct flight *f)
{
	return (size_t)f->group->size * sizeof f->signature;
}

static enum mt_status agree_post(struct flight *f, int64_t round)
{
	int bytes = (int)sizeof f->signature;
	MPI_Request *request = mpi_flight_request(f);
	if (!request)
		return MT_NOMEM;
	int code =
		MPI_Iallgather(&f->signature, bytes, MPI_BYTE, f->staging, bytes, MPI_BYTE, members_of(f->group)->shadow, request);
	return code == MPI_SUCCESS ? MT_OK : mpi_flight_fail(f, "agreement check: MPI_Iallgather", code);
}

static enum mt_status agree_finish(struct flight *f, int64_t round)
{
	return mt_comm_agree(f->group, (const struct mt_comm_signature *)(const void *)f->staging);
}

const struct algorithm mpi_library_agree = {
	.rounds = always_one_round,
	.staging_bytes = agree_staging,
	.post = agree_post,
	.finish = agree_finish,
};

/* ---- messages ---- */

static enum mt_status message_post(struct flight *f, int64_t round)
{
	int64_t bytes = f->call.count * (int64_t)f->width;
	if (f->call.receiving)
		return mpi_flight_recv(f, f->call.recv, bytes, f->call.peer);
	return mpi_flight_send(f, f->call.send, bytes, f->call.peer);
}

const struct algorithm mpi_message = {.rounds = one_round, .post = message_post};
const struct algorithm mpi_nothing = {.rounds = no_round};

#endif
