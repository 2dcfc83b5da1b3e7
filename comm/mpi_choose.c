/* mpi_choose: which algorithm does a call. Decided by what all members know alike: op, bytes, size, and whether the
 * group lives on one host. */
#include "comm/mpi.h"

#ifdef MT_HAVE_MPI

#define SHORT_BYTES (64 << 10) /* of one rank's part: latency counts, not bandwidth */

enum way { DIRECT, RING, LIBRARY };

static enum way way_of(const struct flight *f)
{
	int64_t part = mt_comm_call_bytes(&f->call, f->group->size) / f->group->size;
	bool few = f->group->size <= members_of(f->group)->direct_ranks;
	if (part <= SHORT_BYTES)
		return few ? DIRECT : LIBRARY;
	return few && members_of(f->group)->one_host ? DIRECT : RING;
}

const struct algorithm *mpi_choose(const struct flight *f)
{
	enum way way = way_of(f);
	switch (f->call.op) {
	case MT_COMM_ALL_REDUCE:
		return way == DIRECT ? &mpi_direct_all_reduce : way == RING ? &mpi_ring_all_reduce : &mpi_library_all_reduce;
	case MT_COMM_REDUCE_SCATTER:
		return way == DIRECT ? &mpi_direct_reduce_scatter
		       : way == RING ? &mpi_ring_reduce_scatter
				     : &mpi_library_reduce_scatter;
	case MT_COMM_ALL_GATHER:
		return way == DIRECT ? &mpi_direct_all_gather : way == RING ? &mpi_ring_all_gather : &mpi_library_all_gather;
	case MT_COMM_ALL_TO_ALL:
		return &mpi_direct_all_to_all;
	case MT_COMM_BROADCAST:
		return &mpi_library_broadcast;
	case MT_COMM_SEND_RECV:
		return &mpi_message;
	case MT_COMM_BARRIER:
		return &mpi_library_barrier;
	default:
		return &mpi_nothing;
	}
}

#endif
