/* rehearsal: inside the rehearsal fabric. Compiled only where MPI is found. */
#ifndef MT_COMM_REHEARSAL_H
#define MT_COMM_REHEARSAL_H

#include "comm/mpi.h"

#ifdef MT_HAVE_MPI

/* What one rank tells another of one piece of work. */
struct letter {
	double start_s, cost_s;
	int64_t bytes;
	int32_t op;
	uint32_t serial; /* of this tag, group and pair of ranks */
};

enum { TAG_MESSAGE = 1, TAG_COLLECTIVE, TAG_HOST };

struct posted;

struct rehearsal {
	struct mt_fabric *base;
	struct mt_device *device;
	struct mt_comm_cost_source cost;
	double deadline_s;
	struct posted *outbox; /* owned: letters on their way */
};

struct members {
	struct mt_group *base;
	uint32_t calls, *sent, *received; /* sent, received: owned, by member */
};

static inline struct rehearsal *rehearsal_of(const struct mt_group *group)
{
	return group->fabric->backend;
}

/* rehearsal_post.c. Sends a copy of `content` to a member; the host does not wait. */
enum mt_status rehearsal_post(struct mt_group *group, int tag, const void *content, size_t bytes, int to);
/* Posts the receive of what a member sends; `content` is written until the request is over. */
enum mt_status rehearsal_expect(struct mt_group *group, int tag, void *content, size_t bytes, int from, MPI_Request *request);
/* Waits for requests from each other member in order, or from the member `only` when it is not negative. MT_FAILED after the
 * fabric's deadline, with the ranks that are missing. */
enum mt_status rehearsal_await(const struct mt_group *group, const char *what, MPI_Request *requests, int count, int only);
/* Gives up requests that nobody will wait for. */
void rehearsal_cancel(const struct mt_group *group, MPI_Request *requests, int count);
/* Frees the letters that have left. Call with the lock of MPI held. */
void rehearsal_clear_outbox(struct rehearsal *rehearsal);

#endif
#endif
