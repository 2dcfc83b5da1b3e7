/* watchdog: tells a hang from a long wait, and names who is behind.
 *
 * A fabric puts each operation under watch while it waits for other ranks. A thread of each rank writes the rank's progress
 * (how many operations it has begun on each group, what it is in now, and a beat that shows it alive) to the job's
 * board. When an operation has waited longer than the deadline, the thread reads the others' progress and makes one message:
 * the operation, its group, rank and size, and the suspects. The fabric then ends the operation: mpi's next poll fails with
 * the message, nccl's communicators are aborted.
 *
 * Without a board (it could not be reached) the message says what waits, and nothing of the others. */
#ifndef MT_COMM_WATCHDOG_H
#define MT_COMM_WATCHDOG_H

#include "comm/board.h"
#include "comm/fabric.h"

#include <pthread.h>
#include <stdatomic.h>

#define MT_WATCHDOG_S       600.0 /* the deadline when none is asked for */
#define MT_WATCHDOG_MESSAGE 1500

struct mt_watchdog;

/* One operation under watch; lives in the fabric's own struct of the operation. */
struct mt_watch {
	struct mt_watch *next, *before;
	const struct mt_group *group;
	enum mt_comm_op op;
	bool receiving;
	int peer;
	int64_t bytes;
	uint64_t number; /* of the group's collectives; of the messages with that peer */
	double start_s;
	bool fatal;    /* the caller is stuck in a call that nothing ends: the fabric's `stuck` is called */
	bool under;    /* in the list */
	bool reported; /* of the thread */
	_Atomic bool expired;
};

struct mt_watchdog_config {
	struct mt_fabric *fabric; /* rank, size, hosts */
	double deadline_s;        /* 0: the default; below 0: no watch is kept */
	/* The board, connected to by the thread when it starts; hosts: addresses to try, NULL-terminated at most 4. */
	char addresses[4][64];
	int port;
	uint64_t token;
	/* From the thread, with the message, after a fatal watch has expired. */
	void (*stuck)(void *context, const char *message);
	void *context;
};

/* A fabric layered on the one that has the watchdog: `tick` is called every tick_s, `expired` with the message after a watch was
 * marked (of any fabric: `group` may be gone, it only tells which). Both from the watchdog's thread. NULL takes them away, and
 * waits for a call under way. */
struct mt_watchdog_hooks {
	double tick_s;
	void (*tick)(void *context);
	void (*expired)(void *context, const struct mt_group *group, const char *message);
	void *context;
};
void mt_watchdog_hook(struct mt_watchdog *watchdog, const struct mt_watchdog_hooks *hooks);

enum mt_status mt_watchdog_create(struct mt_watchdog **watchdog, const struct mt_watchdog_config *config);
void mt_watchdog_destroy(struct mt_watchdog *watchdog);
void mt_watchdog_set_deadline(struct mt_watchdog *watchdog, double deadline_s);

/* Groups are known by name and ranks, so that all members mean the same one. Many of the same: they share the count. */
void mt_watchdog_begin(struct mt_watchdog *watchdog, struct mt_watch *watch, const struct mt_group *group,
		       const struct mt_comm_call *call, uint64_t number);
void mt_watchdog_end(struct mt_watchdog *watchdog, struct mt_watch *watch);
/* After `expired` was set: the message, as MT_FAILED. */
enum mt_status mt_watchdog_fail(struct mt_watchdog *watchdog, const struct mt_watch *watch);

/* Ends what waits on groups of that fabric for longer than after_s already, with a message that is known: for the fabric layered on
 * it, when it has failed and what the host waits for will not come. */
void mt_watchdog_expire(struct mt_watchdog *watchdog, const struct mt_fabric *fabric, double after_s, const char *message);

/* "all_reduce of 4.0 MiB (number 12) on group dp (rank 1 of 4)" */
void mt_watch_text(const struct mt_watch *watch, char *buf, size_t bytes);

/* A board served by rank 0 for ranks that have MPI or the like to tell each other where: fills address and token; the others
 * copy what rank 0 found. */
enum mt_status mt_watchdog_serve(struct mt_board_server **server, struct mt_watchdog_config *config);

#endif
