/* nccl: the fabric over NCCL; see nccl.h. This file: its life, its groups, and what goes to the base. */
#include "comm/nccl.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/plugin.h"

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TICK_S     0.05
#define HOPELESS_S 20.0 /* the host waits no longer than this for ranks that wait for a communicator of ours which failed */

/* Ranks that wait for a failed group on their devices do not come to what this one's host waits for. */
static void give_up_on_host(struct nccl_fabric *f)
{
	char message[MT_WATCHDOG_MESSAGE] = "";
	struct mt_watchdog *watchdog = NULL;
	pthread_mutex_lock(&f->lock);
	for (struct nccl_group *g = f->groups; g && !watchdog; g = g->next) {
		if (!g->failed)
			continue;
		watchdog = g->group->fabric->watchdog;
		memcpy(message, g->message, sizeof message);
	}
	pthread_mutex_unlock(&f->lock);
	mt_watchdog_expire(watchdog, f->base, HOPELESS_S, message);
}

/* From the watchdog's thread: errors that NCCL met by itself. */
static void look_after(void *context)
{
	struct nccl_fabric *f = context;
	nccl_collect(f, NULL);
	give_up_on_host(f);
	for (;;) {
		struct nccl_group *bad = NULL;
		char message[MT_WATCHDOG_MESSAGE];
		pthread_mutex_lock(&f->lock);
		for (struct nccl_group *g = f->groups; g; g = g->next) {
			ncclResult_t error = ncclSuccess;
			if (!g->comm || g->failed)
				continue;
			ncclResult_t code = ncclCommGetAsyncError(g->comm, &error);
			if (code == ncclSuccess)
				code = error;
			if (code == ncclSuccess || code == ncclInProgress)
				continue;
			bad = g;
			snprintf(message, sizeof message,
				 "group %s (rank %d of %d; world rank %d on %s): NCCL: asynchronous error: %s: %s", g->group->name,
				 g->group->rank, g->group->size, g->group->fabric->rank,
				 mt_fabric_host(g->group->fabric, g->group->fabric->rank), ncclGetErrorString(code),
				 ncclGetLastError(g->comm));
			break;
		}
		pthread_mutex_unlock(&f->lock);
		if (!bad)
			return;
		/* A group is closed by a thread that waits for the watchdog's hooks first: it is still there. */
		nccl_comm_abort(bad, message);
	}
}

static void give_up(void *context, const struct mt_group *group, const char *message)
{
	struct nccl_fabric *f = context;
	struct nccl_group *found;
	pthread_mutex_lock(&f->lock);
	for (found = f->groups; found && found->group != group;)
		found = found->next;
	pthread_mutex_unlock(&f->lock);
	if (found)
		nccl_comm_abort(found, message);
}

static void set_hooks(struct mt_fabric *fabric, bool on)
{
	struct mt_watchdog_hooks hooks = {.tick_s = TICK_S, .tick = look_after, .expired = give_up, .context = fabric->backend};
	mt_watchdog_hook(fabric->watchdog, on ? &hooks : NULL);
}

static enum mt_status copy_world(struct mt_fabric *fabric, const struct mt_fabric *base)
{
	int version = 0;
	fabric->hosts = calloc((size_t)base->host_entries, sizeof *fabric->hosts);
	if (!fabric->hosts)
		return mt_fail(MT_NOMEM, "fabric nccl: no memory for %d host names", base->host_entries);
	memcpy(fabric->hosts, base->hosts, (size_t)base->host_entries * sizeof *fabric->hosts);
	fabric->host_entries = base->host_entries;
	fabric->rank = base->rank;
	fabric->size = base->size;
	fabric->local_rank = base->local_rank;
	fabric->local_size = base->local_size;
	fabric->watchdog = base->watchdog; /* borrowed */
	ncclGetVersion(&version);
	snprintf(fabric->library, sizeof fabric->library, "NCCL %d.%d.%d, %.40s", version / 10000, version / 100 % 100,
		 version % 100, base->library);
	return MT_OK;
}

static enum mt_status usable(void)
{
	int driver = 0;
	if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0)
		return mt_fail(MT_UNAVAILABLE, "fabric nccl: this machine has no NVIDIA driver");
	return MT_OK;
}

static enum mt_status nccl_open(struct mt_fabric *fabric, const struct mt_fabric_config *config)
{
	struct mt_fabric_config base = {.kind = mt_fabric_launched_kind(), .deadline_s = config->deadline_s};
	struct nccl_fabric *f = calloc(1, sizeof *f);
	enum mt_status st = usable();
	if (st != MT_OK) {
		free(f);
		return st;
	}
	if (!f)
		return mt_fail(MT_NOMEM, "fabric nccl: no memory");
	pthread_mutex_init(&f->lock, NULL);
	f->base = config->base;
	if (!f->base)
		MT_GOTO(fail, mt_fabric_create(&f->base, &base));
	MT_GOTO(fail, copy_world(fabric, f->base));
	if (config->base && config->deadline_s != 0)
		mt_fabric_set_deadline(fabric, config->deadline_s);
	fabric->backend = f;
	set_hooks(fabric, true);
	return MT_OK;
fail:
	if (f->base != config->base)
		mt_fabric_destroy(f->base);
	pthread_mutex_destroy(&f->lock);
	free(f);
	return st;
}

static void nccl_close(struct mt_fabric *fabric)
{
	struct nccl_fabric *f = fabric->backend;
	set_hooks(fabric, false);
	fabric->watchdog = NULL;
	mt_fabric_destroy(f->base);
	while (f->ranges)
		nccl_unregister(fabric, f->ranges);
	pthread_mutex_destroy(&f->lock);
	free(f);
}

static void nccl_abort(struct mt_fabric *fabric, int exit_code)
{
	struct nccl_fabric *f = fabric->backend;
	mt_fabric_abort(f->base, exit_code);
}

/* At the end of the list; groups of the same ranks and name are told apart by how many there were before. */
static void enlist(struct nccl_fabric *f, struct nccl_group *g)
{
	struct nccl_group **last = &f->groups;
	pthread_mutex_lock(&f->lock);
	for (; *last; last = &(*last)->next)
		if ((*last)->group->id == g->group->id)
			g->serial = (*last)->serial + 1;
	*last = g;
	pthread_mutex_unlock(&f->lock);
}

static void delist(struct nccl_fabric *f, struct nccl_group *g)
{
	struct nccl_group **at = &f->groups;
	pthread_mutex_lock(&f->lock);
	while (*at != g)
		at = &(*at)->next;
	*at = g->next;
	pthread_mutex_unlock(&f->lock);
}

static enum mt_status group_open(struct mt_group *group)
{
	struct nccl_fabric *f = nccl_of(group);
	struct nccl_group *g = calloc(1, sizeof *g);
	enum mt_status st;
	if (!g || !(g->sent = calloc(2 * (size_t)group->size, sizeof *g->sent))) {
		free(g);
		return mt_fail(MT_NOMEM, "group %s: no memory", group->name);
	}
	g->received = g->sent + group->size;
	g->group = group;
	st = mt_group_create(f->base, group->name, group->ranks, group->size, &g->host);
	if (st != MT_OK) {
		free(g->sent);
		free(g);
		return st;
	}
	/* Told apart in what ranks tell of their progress: host-side calls and those on the device. */
	g->host->id = ~group->id;
	enlist(f, g);
	group->backend = g;
	return MT_OK;
}

/* Every rank uses an edge for sending or for receiving, never for both. Up goes to the next rank, odd and even ones apart, down to
 * the one before; round the end where an odd number of ranks would meet themselves. -1: two ranks that are no neighbours. */
static int edge_of(int size, int from, int to)
{
	if (to == from + 1)
		return from % 2;
	if (to == from - 1)
		return 2 + from % 2;
	if (from == size - 1 && to == 0)
		return 4;
	return from == 0 && to == size - 1 ? 5 : -1;
}

static enum mt_status make_edges(struct nccl_group *g)
{
	int size = g->group->size;
	g->edged = true;
	for (int i = 0; i < NCCL_EDGES; i++) {
		bool used = false;
		for (int r = 0; r < size && !used; r++)
			used = edge_of(size, r, (r + 1) % size) == i || edge_of(size, (r + 1) % size, r) == i;
		if (!used)
			continue;
		struct nccl_group *edge = calloc(1, sizeof *edge);
		if (!edge)
			return mt_fail(MT_NOMEM, "group %s: no memory", g->group->name);
		edge->group = g->group;
		edge->host = g->host;
		enlist(nccl_of(g->group), edge);
		g->edges[i] = edge;
		MT_TRY(nccl_comm_make(edge));
	}
	return MT_OK;
}

enum mt_status nccl_edge(struct nccl_group *g, int from, int to, struct nccl_group **edge)
{
	int i = edge_of(g->group->size, from, to);
	if (!g->edged && !g->failed)
		MT_TRY(make_edges(g));
	*edge = i >= 0 && g->edges[i] ? g->edges[i] : g;
	return nccl_comm_make(*edge);
}

static void group_close(struct mt_group *group)
{
	struct nccl_fabric *f = nccl_of(group);
	struct nccl_group *g = nccl_members(group);
	for (int i = -1; i < NCCL_EDGES; i++)
		while ((i < 0 || g->edges[i]) && nccl_collect(f, i < 0 ? g : g->edges[i]))
			mt_clock_sleep(20e-6);
	/* No hook runs from here to its removal from the list. */
	set_hooks(group->fabric, false);
	for (int i = NCCL_EDGES - 1; i >= 0; i--) {
		if (!g->edges[i])
			continue;
		nccl_comm_close(g->edges[i]);
		delist(f, g->edges[i]);
	}
	nccl_comm_close(g);
	delist(f, g);
	set_hooks(group->fabric, true);
	nccl_free_works(f);
	mt_group_destroy(g->host);
	for (int i = 0; i < NCCL_EDGES; i++)
		free(g->edges[i]);
	free(g->sent);
	free(g);
}

static enum mt_status barrier(struct mt_group *group)
{
	return mt_comm_barrier(nccl_members(group)->host);
}

static enum mt_status host_all_reduce(struct mt_group *group, double *values, int count, enum mt_reduction reduction)
{
	return mt_comm_host_all_reduce(nccl_members(group)->host, values, count, reduction);
}

static enum mt_status host_all_gather(struct mt_group *group, const void *send, void *recv, size_t bytes_per_rank)
{
	return mt_comm_host_all_gather(nccl_members(group)->host, send, recv, bytes_per_rank);
}

static const struct mt_fabric_ops nccl_ops = {
	.kind = "nccl",
	.open = nccl_open,
	.close = nccl_close,
	.abort = nccl_abort,
	.group_open = group_open,
	.group_close = group_close,
	.run = nccl_run,
	.barrier = barrier,
	.host_all_reduce = host_all_reduce,
	.host_all_gather = host_all_gather,
	.register_memory = nccl_register,
	.unregister_memory = nccl_unregister,
	.executes = true,
	.usable = usable,
};

MT_PLUGIN_EXPORT const void *megatune_plugin(int abi);
const void *megatune_plugin(int abi)
{
	return abi == MT_FABRIC_ABI ? &nccl_ops : NULL;
}
