/* mpi: inside the MPI fabric. Compiled only where MPI is found (MT_HAVE_MPI).
 *
 * A flight is one collective or message under way. Its algorithm is a number of rounds: a round posts non-blocking MPI
 * requests, and when all of them are over it is finished (reduced, say) and the next one is posted. So a flight moves on
 * whenever somebody polls it: the caller itself on a compute stream, the progress thread on a comm stream.
 *
 * Locks: `lock` is held around every MPI call and nothing else long; `queue_lock` guards the lanes of the progress
 * thread and the pool of flights. Neither is taken while the other is held.
 * Order: MPI wants the collectives of a communicator started in the same order on every member, while streams could
 * reorder them. So the collectives of a group start in the order in which they were called (struct mpi_group.started);
 * messages are told apart by a tag counted at the call and start whenever their stream lets them. */
#ifndef MT_COMM_MPI_H
#define MT_COMM_MPI_H

#ifdef MT_HAVE_MPI

#include "comm/agree.h"
#include "comm/fabric.h"
#include "comm/watchdog.h"

#include <mpi.h>
#include <stdatomic.h>
#include <time.h>

struct flight;
struct lane;

struct mpi_fabric {
	pthread_mutex_t lock;
	bool finalizes; /* this fabric initialized MPI */
	MPI_Op half_sum, maximum;
	struct mt_board_server *board; /* owned; on rank 0 */
	pthread_mutex_t queue_lock;
	pthread_cond_t wake;
	pthread_t thread;
	bool thread_runs, stop;
	int queued;            /* flights in lanes */
	struct lane *lanes;    /* owned, one a comm stream in use */
	struct flight *idle;   /* owned: flights for reuse, with their buffers */
	struct flight *wrecks; /* owned: failed ones whose requests may still touch their buffers; freed after MPI ended */
};

struct mpi_group {
	MPI_Comm comm, shadow; /* shadow: agreement checks of debug builds, else MPI_COMM_NULL */
	bool one_host;
	int direct_ranks;          /* groups up to this size may use all pairs at once (mpi_choose) */
	uint64_t called;           /* collectives called so far, by the device's thread */
	_Atomic uint64_t started;  /* collectives started so far */
	uint64_t *sent, *received; /* owned: messages so far to and from each member */
	_Atomic int flying;        /* flights alive */
	_Atomic bool broken;       /* a collective failed: the members are no longer in step */
};

/* Rounds count from 0. `prepare` runs once before; `post` with the MPI lock held; `finish` without. */
struct algorithm {
	int64_t (*rounds)(const struct flight *f);
	size_t (*staging_bytes)(const struct flight *f); /* NULL: none */
	void (*prepare)(struct flight *f);               /* NULL: nothing */
	enum mt_status (*post)(struct flight *f, int64_t round);
	enum mt_status (*finish)(struct flight *f, int64_t round); /* NULL: nothing */
};

/* mpi_staged.c: the buffers of a flight whose memory is a device's. */
struct mpi_stage {
	const void *send;
	void *recv;                  /* of the device */
	void *host_send, *host_recv; /* owned */
	struct mt_event *ready;      /* owned: behind the work that comes before */
};

struct flight {
	struct flight *next;
	struct mpi_stage *stage; /* owned; NULL: the buffers are the host's */
	struct mt_group *group;
	struct mt_stream *stream; /* NULL: host-side */
	struct mt_comm_call call;
	size_t width; /* bytes of an element */
	uint64_t ticket, order;
	int tag;
	bool ordered; /* a collective: starts in the group's order */
	bool started, turn_passed;
	double start_s;
	struct mt_watch watch;
	clockid_t caller;                          /* CPU clock of the device's thread */
	const struct algorithm *algorithm, *after; /* after: what follows the agreement check */
	int64_t round;
	struct mt_comm_signature signature;
	MPI_Request *requests; /* owned, kept between uses as is staging */
	MPI_Status *statuses;  /* owned */
	int request_count, request_capacity;
	char *staging; /* owned */
	size_t staging_bytes;
};

static inline struct mpi_fabric *mpi_of(const struct mt_group *group)
{
	return group->fabric->backend;
}

static inline struct mpi_group *members_of(const struct mt_group *group)
{
	return group->backend;
}

/* mpi_flight.c */
/* A flight for the call, given its place in the group's order; NULL (recorded) without memory. */
struct flight *mpi_flight_make(struct mt_group *group, struct mt_stream *stream, const struct mt_comm_call *call);
/* Starts it if it is its turn, else moves it on if its round is over. *moved when anything happened; *over at the end. */
enum mt_status mpi_flight_poll(struct flight *f, bool *moved, bool *over);
/* Polls it to its end on the calling thread, then retires it. */
enum mt_status mpi_flight_fly(struct flight *f);
/* The flight is over: traces it when it did well, and puts it back for reuse. */
void mpi_flight_retire(struct flight *f, enum mt_status st);
void mpi_flight_free_all(struct flight *list);
/* For algorithms: one more request to fill; and messages of any size to and from a group rank. NULL, or not MT_OK: no memory. */
MPI_Request *mpi_flight_request(struct flight *f);
enum mt_status mpi_flight_send(struct flight *f, const void *buffer, int64_t bytes, int to);
enum mt_status mpi_flight_recv(struct flight *f, void *buffer, int64_t bytes, int from);
/* Records an MPI error of a call as MT_FAILED. */
enum mt_status mpi_flight_fail(const struct flight *f, const char *where, int code);

/* mpi_staged.c. make: on the device's thread, before the flight is polled. fetch: when *fetched the operands are there. */
enum mt_status mpi_staged_make(struct flight *f);
enum mt_status mpi_staged_fetch(struct flight *f, bool *fetched);
enum mt_status mpi_staged_store(struct flight *f);
void mpi_staged_free(struct flight *f);

/* mpi_queue.c: the lanes and the progress thread. */
enum mt_status mpi_queue_open(struct mpi_fabric *mpi);
void mpi_queue_close(struct mpi_fabric *mpi);
enum mt_status mpi_queue_push(struct flight *f);
/* Gives up the processor for a moment, depending on how long nothing has moved. */
void mpi_pause(const struct flight *f, double idle_s);

/* Algorithms: mpi_choose.c picks one for a call; mpi_direct.c, mpi_ring.c, mpi_library.c have them. */
const struct algorithm *mpi_choose(const struct flight *f);
extern const struct algorithm mpi_direct_all_reduce, mpi_direct_reduce_scatter, mpi_direct_all_gather, mpi_direct_all_to_all,
	mpi_direct_all_to_all_v, mpi_direct_shift;
extern const struct algorithm mpi_ring_all_reduce, mpi_ring_reduce_scatter, mpi_ring_all_gather;
extern const struct algorithm mpi_library_all_reduce, mpi_library_reduce_scatter, mpi_library_all_gather, mpi_library_broadcast,
	mpi_library_barrier, mpi_library_agree, mpi_message, mpi_nothing;

/* mpi_library.c */
enum mt_status mpi_library_open(struct mpi_fabric *mpi);
void mpi_library_close(struct mpi_fabric *mpi);

#endif
#endif
