/* nccl: inside the NCCL fabric, a plugin (base/plugin.h): the only files of ours that include nccl.h.
 *
 * The fabric is layered on another one, its base, which knows ranks and hosts, does the host-side calls, exchanges NCCL's ids,
 * and has the watchdog: mpi or tcp; without them one rank.
 *
 * A group's communicator is made at its first data operation, by all members. NCCL runs the operations of a communicator one after
 * the other in the order enqueued, so a receive that is posted early would hold up the sends behind it: the messages of a group go
 * over communicators of their own, made at the first message, so that no rank sends and receives on the same one (edge_of).
 * Communicators are non-blocking, so no call hangs in NCCL: what is in progress is polled, and given up at the watchdog's deadline.
 * A group of the same ranks as another is split from it. On the device each operation is followed by an event; the watchdog's
 * thread collects those that are over, asks for asynchronous errors, and aborts a communicator that fails or hangs: its operations
 * then end, and whoever waits for their streams gets the message.
 *
 * Results are the same bits from run to run for the same group on the same machines: NCCL adds in the order of its rings and
 * trees, which its tuner chooses by topology and size; fix NCCL_ALGO and NCCL_PROTO to hold them over versions. The maximum of
 * NaN and a number is not defined by NCCL; sums carry it.
 *
 * Locks: `lock` guards groups, communicators and the list of operations, and is held around NCCL's calls. */
#ifndef MT_COMM_NCCL_H
#define MT_COMM_NCCL_H

#include "comm/fabric.h"
#include "comm/watchdog.h"

#include <nccl.h>
#include <pthread.h>

#define NCCL_EDGES 6

/* Memory that collectives use, known to NCCL by every group's communicator; and what one of these has of it. */
struct nccl_range {
	struct nccl_range *next;
	void *memory;
	size_t bytes;
};

struct nccl_hold {
	struct nccl_hold *next;
	const struct nccl_range *range;
	void *handle; /* NCCL's; NULL: it has nothing to do for it */
};

/* A group's communicator; and those of its messages, which are in the fabric's list too and have the same group and host. */
struct nccl_group {
	struct nccl_group *next;
	struct nccl_group *edges[NCCL_EDGES]; /* owned; of a group with messages, NULL: not needed in one of its size */
	bool edged;
	struct mt_group *group;
	struct mt_group *host; /* the same ranks in the base; owned by the group's, not by its edges' */
	ncclComm_t comm;       /* owned; NULL until the first operation, and after the abort */
	uint64_t serial;       /* of the groups with these ranks: the same on all members */
	uint64_t called;
	uint64_t *sent, *received; /* owned: messages to and from each member */
	struct nccl_hold *holds;   /* owned */
	bool failed;
	char message[MT_WATCHDOG_MESSAGE];
};

/* An operation on the device. */
struct nccl_work {
	struct nccl_work *next;
	struct nccl_group *of;
	struct mt_stream *stream;
	struct mt_event *event; /* owned */
	struct mt_watch watch;
};

struct nccl_fabric {
	struct mt_fabric *base; /* owned */
	pthread_mutex_t lock;
	struct nccl_group *groups;
	struct nccl_work *under_way, *idle; /* owned; the first in the order enqueued */
	struct nccl_range *ranges;          /* owned */
	bool refused;                       /* a range, which was told */
};

static inline struct nccl_fabric *nccl_of(const struct mt_group *group)
{
	return group->fabric->backend;
}

static inline struct nccl_group *nccl_members(const struct mt_group *group)
{
	return group->backend;
}

/* nccl_comm.c */
/* The group's communicator is there, or was before; collective at the first call. */
enum mt_status nccl_comm_make(struct nccl_group *g);
/* Waits while the communicator's last call is in progress; watch (NULL: none) ends it. */
enum mt_status nccl_comm_settle(struct nccl_group *g, ncclResult_t result, const char *what, const struct mt_watch *watch);
void nccl_comm_close(struct nccl_group *g);
/* The communicator of messages between two members; makes all of the group's at the first message, collective. */
enum mt_status nccl_edge(struct nccl_group *g, int from, int to, struct nccl_group **edge);
/* Aborts it and the group's others, ends their operations and hands the message to those who wait for them. Call without the lock;
 * any thread. */
void nccl_comm_abort(struct nccl_group *g, const char *message);

/* nccl_register.c */
enum mt_status nccl_register(struct mt_fabric *fabric, void *memory, size_t bytes, void **handle);
void nccl_unregister(struct mt_fabric *fabric, void *handle);
/* All ranges of the fabric, by a communicator just made: collective. And none any more. */
enum mt_status nccl_hold_all(struct nccl_group *g);
void nccl_let_go_all(struct nccl_group *g);

/* nccl_run.c */
enum mt_status nccl_run(struct mt_group *group, struct mt_stream *stream, const struct mt_comm_call *call);
/* Moves what is over to the idle ones; true while something of g (NULL: any group) is under way. */
bool nccl_collect(struct nccl_fabric *f, const struct nccl_group *g);
/* The idle ones: with each group, as a device may go before the fabric and takes its events along. */
void nccl_free_works(struct nccl_fabric *f);

#endif
