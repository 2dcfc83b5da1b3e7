/* nccl_comm: the life of a group's communicator: made by all members, settled, closed or aborted. */
#include "comm/nccl.h"

#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAUSE_S    20e-6
#define FINALIZE_S 10.0 /* for the last messages of a communicator that is closed */

static enum mt_status call_failed(const struct nccl_group *g, ncclResult_t code, const char *what)
{
	const struct mt_group *group = g->group;
	return mt_fail(MT_FAILED, "group %s (rank %d of %d; world rank %d on %s): %s: %s: %s", group->name, group->rank,
		       group->size, group->fabric->rank, mt_fabric_host(group->fabric, group->fabric->rank), what,
		       ncclGetErrorString(code), g->comm ? ncclGetLastError(g->comm) : "no communicator");
}

static enum mt_status failed_before(const struct nccl_group *g)
{
	return mt_fail(MT_FAILED, "group %s (rank %d): an earlier operation failed: %s", g->group->name, g->group->rank,
		       g->message);
}

/* What the communicator says of its last call; the lock is held for the question only. */
static ncclResult_t ask(struct nccl_group *g, bool *failed)
{
	struct nccl_fabric *f = nccl_of(g->group);
	ncclResult_t state = ncclSuccess;
	pthread_mutex_lock(&f->lock);
	*failed = g->failed;
	ncclResult_t code = g->comm && !g->failed ? ncclCommGetAsyncError(g->comm, &state) : ncclSuccess;
	pthread_mutex_unlock(&f->lock);
	return code == ncclSuccess ? state : code;
}

enum mt_status nccl_comm_settle(struct nccl_group *g, ncclResult_t result, const char *what, const struct mt_watch *watch)
{
	bool failed = g->failed;
	while (result == ncclInProgress && !failed) {
		if (watch && atomic_load(&watch->expired))
			return mt_watchdog_fail(g->group->fabric->watchdog, watch);
		mt_clock_sleep(PAUSE_S);
		result = ask(g, &failed);
	}
	if (failed)
		return failed_before(g);
	return result == ncclSuccess ? MT_OK : call_failed(g, result, what);
}

/* What each member brings to the making of a communicator: rank 0's id counts, and each one's group to split from, 0: none. */
struct offer {
	ncclUniqueId id;
	uint64_t parent;
	int32_t status;
	int32_t padding;
};

static uint64_t name_of(const struct nccl_group *g)
{
	return g->group->id + g->serial * 0x9e3779b97f4a7c15u;
}

/* The first group of the same ranks in the same order that has a communicator. */
static struct nccl_group *find_parent(const struct nccl_group *g)
{
	for (struct nccl_group *p = nccl_of(g->group)->groups; p; p = p->next)
		if (p != g && p->comm && !p->failed && p->group->size == g->group->size &&
		    memcmp(p->group->ranks, g->group->ranks, (size_t)g->group->size * sizeof *g->group->ranks) == 0)
			return p;
	return NULL;
}

static enum mt_status exchange(struct nccl_group *g, struct nccl_group **parent, ncclUniqueId *id)
{
	int size = g->group->size;
	struct offer mine = {0}, *all = calloc((size_t)size, sizeof *all);
	enum mt_status st = MT_OK;
	if (!all)
		return mt_fail(MT_NOMEM, "group %s: no memory for %d offers", g->group->name, size);
	*parent = find_parent(g);
	mine.parent = *parent ? name_of(*parent) : 0;
	if (g->group->rank == 0)
		mine.status = (int32_t)ncclGetUniqueId(&mine.id);
	MT_GOTO(out, mt_comm_host_all_gather(g->host, &mine, all, sizeof mine));
	if (all[0].status != ncclSuccess)
		MT_GOTO(out, call_failed(g, (ncclResult_t)all[0].status, "ncclGetUniqueId on rank 0"));
	*id = all[0].id;
	for (int r = 0; r < size; r++)
		if (all[r].parent != mine.parent || !mine.parent)
			*parent = NULL;
out:
	free(all);
	return st;
}

/* A split's communicator is known once the parent's part is over. */
static enum mt_status start(struct nccl_group *g, struct nccl_group *parent, ncclUniqueId id, const struct mt_watch *watch)
{
	struct nccl_fabric *f = nccl_of(g->group);
	ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
	ncclComm_t comm = NULL;
	ncclResult_t code;
	config.blocking = 0;
	config.commName = g->group->name;
	pthread_mutex_lock(&f->lock);
	if (parent)
		code = ncclCommSplit(parent->comm, 0, g->group->rank, &comm, &config);
	else
		code = ncclCommInitRankConfig(&comm, g->group->size, id, g->group->rank, &config);
	if (!parent)
		g->comm = comm;
	pthread_mutex_unlock(&f->lock);
	if (!parent)
		return nccl_comm_settle(g, code, "ncclCommInitRankConfig", watch);
	MT_TRY(nccl_comm_settle(parent, code, "ncclCommSplit", watch));
	pthread_mutex_lock(&f->lock);
	g->comm = comm;
	pthread_mutex_unlock(&f->lock);
	return nccl_comm_settle(g, ncclInProgress, "ncclCommSplit", watch);
}

enum mt_status nccl_comm_make(struct nccl_group *g)
{
	struct mt_comm_call call = {.op = MT_COMM_BARRIER};
	struct nccl_group *parent = NULL;
	struct mt_watch watch = {0};
	ncclUniqueId id;
	if (g->failed)
		return failed_before(g);
	if (g->comm)
		return MT_OK;
	MT_TRY(exchange(g, &parent, &id));
	/* Watched as a barrier of the base's group, so that the fabric's hook leaves it to us. */
	mt_watchdog_begin(g->group->fabric->watchdog, &watch, g->host, &call, 0);
	enum mt_status st = start(g, parent, id, &watch);
	mt_watchdog_end(g->group->fabric->watchdog, &watch);
	if (st == MT_OK)
		st = nccl_hold_all(g);
	if (st != MT_OK)
		nccl_comm_abort(g, mt_error_message());
	return st;
}

void nccl_comm_close(struct nccl_group *g)
{
	double end_s = mt_clock_s() + FINALIZE_S;
	bool failed;
	nccl_let_go_all(g);
	if (!g->comm || g->failed)
		return;
	ncclResult_t code = ncclCommFinalize(g->comm);
	while (code == ncclInProgress && mt_clock_s() < end_s) {
		mt_clock_sleep(PAUSE_S);
		code = ask(g, &failed);
	}
	if (code == ncclSuccess)
		ncclCommDestroy(g->comm);
	else
		ncclCommAbort(g->comm);
	g->comm = NULL;
}

static void abort_one(struct nccl_group *g, const char *message)
{
	struct nccl_fabric *f = nccl_of(g->group);
	ncclComm_t comm = NULL;
	pthread_mutex_lock(&f->lock);
	if (!g->failed) {
		g->failed = true;
		snprintf(g->message, sizeof g->message, "%s", message);
		comm = g->comm;
		g->comm = NULL;
	}
	/* First the failure, then the end that whoever waits will see. */
	for (struct nccl_work **at = &f->under_way, *w; (w = *at);) {
		if (w->of != g) {
			at = &w->next;
			continue;
		}
		*at = w->next;
		mt_stream_async_end(w->stream, 0, MT_FAILED, g->message);
		mt_watchdog_end(g->group->fabric->watchdog, &w->watch);
		w->next = f->idle;
		f->idle = w;
	}
	if (comm)
		ncclCommAbort(comm);
	pthread_mutex_unlock(&f->lock);
}

/* The next communicator of the group that has not failed. */
static struct nccl_group *find_sound(struct nccl_fabric *f, const struct mt_group *group)
{
	struct nccl_group *g;
	pthread_mutex_lock(&f->lock);
	for (g = f->groups; g && (g->group != group || g->failed);)
		g = g->next;
	pthread_mutex_unlock(&f->lock);
	return g;
}

void nccl_comm_abort(struct nccl_group *g, const char *message)
{
	struct mt_group *group = g->group;
	char copy[MT_WATCHDOG_MESSAGE];
	snprintf(copy, sizeof copy, "%s", message);
	abort_one(g, copy);
	while ((g = find_sound(nccl_of(group), group)))
		abort_one(g, copy);
}
