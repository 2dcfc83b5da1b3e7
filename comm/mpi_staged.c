/* mpi_staged: collectives on memory that is not the host's, through host memory: for several ranks that share one GPU, where
 * NCCL refuses, and for machines without NCCL.
 *
 * A staged flight has an event behind the work that its buffers wait for. When that is over, whoever polls the flight brings the
 * operands to the host, the flight runs on the copies as any other, and the results go back before it is called over. Until
 * then its ticket holds up the host where it holds it up for host memory, so nothing else changes. */
#include "comm/mpi.h"

#ifdef MT_HAVE_MPI

#include <stdlib.h>

/* Bytes that this rank's side of the call reads and writes. */
static size_t read_bytes(const struct flight *f)
{
	const struct mt_comm_call *call = &f->call;
	size_t bytes = (size_t)call->count * f->width;
	switch (call->op) {
	case MT_COMM_REDUCE_SCATTER:
	case MT_COMM_ALL_TO_ALL:
		return bytes * (size_t)f->group->size;
	case MT_COMM_ALL_TO_ALL_V:
		return (size_t)mt_comm_chunks_bytes(call, f->group->size, false);
	case MT_COMM_BROADCAST:
		return call->peer == f->group->rank ? bytes : 0;
	case MT_COMM_SEND_RECV:
		return call->receiving ? 0 : bytes;
	default:
		return bytes;
	}
}

static size_t written_bytes(const struct flight *f)
{
	const struct mt_comm_call *call = &f->call;
	size_t bytes = (size_t)call->count * f->width;
	switch (call->op) {
	case MT_COMM_ALL_GATHER:
	case MT_COMM_ALL_TO_ALL:
		return bytes * (size_t)f->group->size;
	case MT_COMM_ALL_TO_ALL_V:
		return (size_t)mt_comm_chunks_bytes(call, f->group->size, true);
	case MT_COMM_BROADCAST:
		return call->peer == f->group->rank ? 0 : bytes;
	case MT_COMM_SEND_RECV:
		return call->receiving ? bytes : 0;
	default:
		return bytes;
	}
}

enum mt_status mpi_staged_make(struct flight *f)
{
	size_t bytes = (size_t)f->call.count * f->width * (size_t)f->group->size;
	if (f->call.op == MT_COMM_ALL_TO_ALL_V) {
		size_t sent = read_bytes(f), received = written_bytes(f);
		bytes = sent > received ? sent : received;
	}
	struct mpi_stage *stage = calloc(1, sizeof *stage);
	if (!stage)
		return mt_fail(MT_NOMEM, "%s on group %s: no memory", mt_comm_op_name(f->call.op), f->group->name);
	f->stage = stage;
	stage->send = f->call.send;
	stage->recv = f->call.recv;
	/* Room for either side whole; a broadcast has one buffer. */
	stage->host_send = malloc(bytes + 1);
	stage->host_recv = f->call.op == MT_COMM_BROADCAST ? NULL : malloc(bytes + 1);
	if (!stage->host_send || (f->call.op != MT_COMM_BROADCAST && !stage->host_recv))
		return mt_fail(MT_NOMEM, "%s on group %s: no memory for %zu bytes of staging", mt_comm_op_name(f->call.op),
			       f->group->name, 2 * bytes);
	f->call.send = stage->host_send;
	f->call.recv = stage->host_recv ? stage->host_recv : stage->host_send;
	MT_TRY(mt_event_create(f->stream->device, &stage->ready));
	return mt_event_record(stage->ready, f->stream);
}

enum mt_status mpi_staged_fetch(struct flight *f, bool *fetched)
{
	struct mt_device *device = f->stream->device;
	MT_TRY(mt_event_over(f->stage->ready, fetched));
	size_t bytes = read_bytes(f);
	return *fetched && bytes ? device->ops->async->fetch(device, f->stage->host_send, f->stage->send, bytes) : MT_OK;
}

enum mt_status mpi_staged_store(struct flight *f)
{
	struct mt_device *device = f->stream->device;
	size_t bytes = written_bytes(f);
	return bytes ? device->ops->async->store(device, f->stage->recv, f->call.recv, bytes) : MT_OK;
}

/* A request of MPI that is not over may still touch the buffers; the event goes before its device does. */
void mpi_staged_free(struct flight *f)
{
	if (!f->stage)
		return;
	mt_event_destroy(f->stage->ready);
	f->stage->ready = NULL;
	if (f->request_count)
		return;
	free(f->stage->host_send);
	free(f->stage->host_recv);
	free(f->stage);
	f->stage = NULL;
}

#endif
