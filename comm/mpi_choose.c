/* mpi_choose: which algorithm does a call. Decided by what all members know alike: op, bytes, size, and whether the
 * group lives on one host. */
#include "comm/mpi.h"

#ifdef MT_HAVE_MPI

/* Below it latency counts, beyond it the bytes that cross from host to host, of which a ring has the fewest. Measured on
 * 8 ranks of 4 hosts in 2 racks joined at 250 Mbit/s: all_reduce of 16 KiB direct 0.9 ms, library 0.35 ms; of 64 KiB
 * direct 9 ms, library 4 ms, where the ring's share of the uplink takes 3.7 ms. */
#define SHORT_BYTES (16 << 10)

enum way { DIRECT, RING, LIBRARY };

static enum way way_of(const struct flight *f)
{
	const struct mpi_group *members = members_of(f->group);
	bool few = f->group->size <= members->direct_ranks;
	if (few && members->one_host)
		return DIRECT;
	if (mt_comm_call_bytes(&f->call, f->group->size) > SHORT_BYTES)
		return RING;
	return few && f->call.op != MT_COMM_ALL_REDUCE ? DIRECT : LIBRARY;
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
	case MT_COMM_SHIFT:
		return &mpi_direct_shift;
	case MT_COMM_ALL_TO_ALL_V:
		return &mpi_direct_all_to_all_v;
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
