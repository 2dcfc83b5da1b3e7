/* tcp: inside the fabric of ranks that no MPI brings together; see place.h for who starts them.
 *
 * All goes through the board that rank 0 serves (board.h). That is what the ranks of an NCCL job need: to find each other, to agree
 * on small things, to hear when one ends. Collectives on data work on any device too, so that several ranks train without MPI, but
 * every byte passes rank 0: for models larger than a test's, use mpi or nccl.
 *
 * A board belongs to one thread: the device's thread has one, each comm stream in use has a lane, a thread with a board of its own,
 * and the guard waits on another for word that a rank has ended: then this one ends too, as whoever waited for that rank would
 * wait for ever.
 *
 * Sums are taken in the order of ranks on every member, so results are the same bits everywhere. */
#ifndef MT_COMM_TCP_H
#define MT_COMM_TCP_H

#include "comm/fabric.h"
#include "comm/place.h"
#include "comm/watchdog.h"

#include <stdatomic.h>
#include <sys/types.h>

struct tcp_lane;

/* How many groups of one name and ranks there were: their messages must not meet. */
struct tcp_serial {
	struct tcp_serial *next;
	uint64_t id, count;
};

struct tcp_fabric {
	struct mt_place place;
	double patience_s;              /* for the others to come */
	struct mt_board_server *server; /* owned; on rank 0 */
	pthread_mutex_t lock;           /* around requests on `board`, and for the lists */
	struct mt_board *board;         /* owned; NULL after a request was given up: the next one connects again */
	struct mt_board *guard;         /* owned */
	pthread_t guarding;
	bool guards;
	_Atomic bool ending;
	pid_t parent;    /* of this process at the start */
	double orphan_s; /* when it was found to have another; of the guard */
	struct mt_fabric *fabric;
	struct tcp_lane *lanes;     /* owned */
	struct tcp_serial *serials; /* owned */
};

struct tcp_group {
	uint64_t name; /* of id and serial: first part of its keys */
	uint64_t called;
	uint64_t *sent, *received; /* owned: messages to and from each member */
	_Atomic int flying;
	_Atomic bool broken; /* a call failed: the members are no longer in step */
};

/* One call under way. */
struct tcp_work {
	struct tcp_work *next;
	struct mt_group *group;
	struct mt_stream *stream; /* NULL: host-side */
	struct mt_comm_call call;
	size_t width;
	uint64_t number, ticket;
	double start_s;
	struct mt_watch watch;
	/* of a device whose memory is not the host's */
	const void *device_send;
	void *device_recv;
	char *staging;          /* owned: both sides */
	struct mt_event *ready; /* owned: behind the work that comes before */
};

static inline struct tcp_fabric *tcp_of(const struct mt_group *group)
{
	return group->fabric->backend;
}

static inline struct tcp_group *tcp_members(const struct mt_group *group)
{
	return group->backend;
}

/* tcp.c: connects when *board is NULL. */
enum mt_status tcp_connect(struct tcp_fabric *f, struct mt_board **board, double patience_s);

/* tcp_run.c */
enum mt_status tcp_run(struct mt_group *group, struct mt_stream *stream, const struct mt_comm_call *call);
enum mt_status tcp_barrier(struct mt_group *group);
enum mt_status tcp_host_all_reduce(struct mt_group *group, double *values, int count, enum mt_reduction reduction);
enum mt_status tcp_host_all_gather(struct mt_group *group, const void *send, void *recv, size_t bytes_per_rank);
/* Runs it on that board to its end, and frees it; the failure's message is recorded. */
enum mt_status tcp_work_run(struct tcp_work *w, struct mt_board **board);
void tcp_work_free(struct tcp_work *w);

/* tcp_lane.c */
enum mt_status tcp_lane_push(struct tcp_work *w);
void tcp_lanes_close(struct tcp_fabric *f);

#endif
