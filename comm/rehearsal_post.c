/* rehearsal_post: letters between the ranks of a rehearsal, see rehearsal.c. */
#include "comm/rehearsal.h"

#ifdef MT_HAVE_MPI

#include "base/clock.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SPINS       20 /* polls before naps; every nap is twice the one before */
#define NAP_LEAST_S 50e-6
#define NAP_MOST_S  1e-3 /* of a job that has a pace; without, a tenth */

/* A letter on its way, or what host-side calls send. */
struct posted {
	struct posted *next;
	MPI_Request request;
	char content[];
};

static MPI_Comm comm_of(const struct mt_group *group)
{
	return members_of(((struct members *)group->backend)->base)->comm;
}

static pthread_mutex_t *lock_of(const struct mt_group *group)
{
	return &mpi_of(((struct members *)group->backend)->base)->lock;
}

static enum mt_status call_failed(const struct mt_group *group, const char *where, int code)
{
	char text[MPI_MAX_ERROR_STRING] = "";
	int length = 0;

	MPI_Error_string(code, text, &length);
	return mt_fail(MT_FAILED, "rehearsal, rank %d on group %s: %s: %s", group->fabric->rank, group->name, where, text);
}

void rehearsal_clear_outbox(struct rehearsal *r)
{
	struct posted **at = &r->outbox;

	while (*at) {
		struct posted *p = *at;
		int gone = 0;

		MPI_Test(&p->request, &gone, MPI_STATUS_IGNORE);
		if (!gone) {
			at = &p->next;
			continue;
		}
		*at = p->next;
		free(p);
	}
}

enum mt_status rehearsal_post(struct mt_group *group, int tag, const void *content, size_t bytes, int to)
{
	struct rehearsal *r = rehearsal_of(group);
	struct posted *p = malloc(sizeof *p + bytes);
	int code;

	if (!p)
		return mt_fail(MT_NOMEM, "rehearsal, group %s: no memory for a message", group->name);
	memcpy(p->content, content, bytes);
	pthread_mutex_lock(lock_of(group));
	rehearsal_clear_outbox(r);
	/* NOLINTBEGIN(clang-analyzer-optin.mpi.MPI-Checker): rehearsal_clear_outbox tests the request */
	code = MPI_Isend(p->content, (int)bytes, MPI_BYTE, to, tag, comm_of(group), &p->request);
	if (code == MPI_SUCCESS) {
		p->next = r->outbox;
		r->outbox = p;
	}
	pthread_mutex_unlock(lock_of(group));
	if (code == MPI_SUCCESS)
		return MT_OK;
	free(p);
	return call_failed(group, "MPI_Isend", code);
	/* NOLINTEND(clang-analyzer-optin.mpi.MPI-Checker) */
}

enum mt_status rehearsal_expect(struct mt_group *group, int tag, void *content, size_t bytes, int from, MPI_Request *request)
{
	pthread_mutex_lock(lock_of(group));
	int code = MPI_Irecv(content, (int)bytes, MPI_BYTE, from, tag, comm_of(group), request);
	pthread_mutex_unlock(lock_of(group));
	return code == MPI_SUCCESS ? MT_OK : call_failed(group, "MPI_Irecv", code);
}

/* The requests are those of `members` but for this rank's own, or of one member when count is 1. */
static enum mt_status overdue(const struct mt_group *group, const char *what, const MPI_Request *requests, int count, int only)
{
	char missing[120] = "";
	int length = 0;

	for (int i = 0; i < count && length < 100; i++) {
		if (requests[i] != MPI_REQUEST_NULL)
			length += snprintf(missing + length, sizeof missing - (size_t)length, " %d",
					   group->ranks[only >= 0         ? only
							: i < group->rank ? i
									  : i + 1]);
	}
	return mt_fail(MT_FAILED, "rehearsal: %s on group %s: rank %d has waited %.0f s for rank%s", what, group->name,
		       group->fabric->rank, rehearsal_of(group)->deadline_s, missing);
}

/* Sleeps most of the time: other ranks want the processor. */
enum mt_status rehearsal_await(const struct mt_group *group, const char *what, MPI_Request *requests, int count, int only)
{
	double most_s = rehearsal_of(group)->device->pace > 0 ? NAP_MOST_S : NAP_MOST_S / 10;
	double began_s = mt_clock_s(), nap_s = NAP_LEAST_S;

	for (int polls = 0;; polls++) {
		int done = 0;

		pthread_mutex_lock(lock_of(group));
		int code = MPI_Testall(count, requests, &done, MPI_STATUSES_IGNORE);
		pthread_mutex_unlock(lock_of(group));
		if (code != MPI_SUCCESS)
			return call_failed(group, what, code);
		if (done)
			return MT_OK;
		if (mt_clock_s() - began_s > rehearsal_of(group)->deadline_s)
			return overdue(group, what, requests, count, only);
		if (polls < SPINS) {
			sched_yield();
			continue;
		}
		mt_clock_sleep(nap_s);
		nap_s = nap_s < most_s / 2 ? 2 * nap_s : most_s;
	}
}

void rehearsal_cancel(const struct mt_group *group, MPI_Request *requests, int count)
{
	pthread_mutex_lock(lock_of(group));
	for (int i = 0; i < count; i++) {
		if (requests[i] == MPI_REQUEST_NULL)
			continue;
		MPI_Cancel(&requests[i]);
		MPI_Request_free(&requests[i]);
	}
	pthread_mutex_unlock(lock_of(group));
}

#endif
