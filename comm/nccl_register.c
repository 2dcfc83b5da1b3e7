/* nccl_register: memory that NCCL may read and write from other GPUs and NICs without copies of its own (ncclCommRegister).
 *
 * A range of memory is registered by the communicator of every group, when it is made or when the range is told, whichever is
 * later; the communicators of messages have none. NCCL does the costly part by itself, at the first collective that uses the
 * range. It asks that all members pass registered memory to a collective or none does, so they agree on each range: where NCCL
 * refuses one of them (memory of a kind or a transport that cannot), all do without and NCCL copies as before.
 * NCCL_LOCAL_REGISTER=0 in the environment leaves all of it out: then it says yes and does nothing. */
#include "comm/nccl.h"

#include "base/log.h"

#include <stdlib.h>

static void let_go(struct nccl_group *g, struct nccl_hold **at)
{
	struct nccl_hold *hold = *at;
	*at = hold->next;
	pthread_mutex_lock(&nccl_of(g->group)->lock);
	if (g->comm && !g->failed && hold->handle)
		ncclCommDeregister(g->comm, hold->handle);
	pthread_mutex_unlock(&nccl_of(g->group)->lock);
	free(hold);
}

/* NCCL's answer to this rank. A group that has failed says so at its next operation. */
static enum mt_status ask(struct nccl_group *g, struct nccl_hold *hold)
{
	const struct nccl_range *range = hold->range;
	ncclResult_t code = ncclSuccess;
	pthread_mutex_lock(&nccl_of(g->group)->lock);
	if (g->comm && !g->failed && range->bytes)
		code = ncclCommRegister(g->comm, range->memory, range->bytes, &hold->handle);
	pthread_mutex_unlock(&nccl_of(g->group)->lock);
	return nccl_comm_settle(g, code, "ncclCommRegister", NULL);
}

static enum mt_status hold(struct nccl_group *g, const struct nccl_range *range)
{
	struct nccl_fabric *f = nccl_of(g->group);
	struct nccl_hold *made = calloc(1, sizeof *made);
	double refused;
	if (!made)
		return mt_fail(MT_NOMEM, "group %s: no memory for a registration", g->group->name);
	made->range = range;
	made->next = g->holds;
	g->holds = made;
	refused = ask(g, made) != MT_OK;
	if (refused > 0) {
		made->handle = NULL;
		if (!f->refused)
			mt_info("%s; collectives go through copies of NCCL's", mt_error_message());
		f->refused = true;
		mt_error_clear();
	}
	MT_TRY(mt_comm_host_all_reduce(g->host, &refused, 1, MT_MAX));
	if (refused > 0)
		let_go(g, &g->holds);
	return MT_OK;
}

enum mt_status nccl_hold_all(struct nccl_group *g)
{
	if (g != nccl_members(g->group))
		return MT_OK;
	for (const struct nccl_range *range = nccl_of(g->group)->ranges; range; range = range->next)
		MT_TRY(hold(g, range));
	return MT_OK;
}

void nccl_let_go_all(struct nccl_group *g)
{
	while (g->holds)
		let_go(g, &g->holds);
}

/* Groups are in the order in which they were made on every rank, so that members meet. */
enum mt_status nccl_register(struct mt_fabric *fabric, void *memory, size_t bytes, void **handle)
{
	struct nccl_fabric *f = fabric->backend;
	struct nccl_range *range = calloc(1, sizeof *range), **last = &f->ranges;
	if (!range)
		return mt_fail(MT_NOMEM, "fabric nccl: no memory for a registration");
	range->memory = memory;
	range->bytes = bytes;
	while (*last)
		last = &(*last)->next;
	*last = range;
	*handle = range;
	for (struct nccl_group *g = f->groups; g; g = g->next)
		if (g == nccl_members(g->group) && g->comm && !g->failed)
			MT_TRY(hold(g, range));
	return MT_OK;
}

void nccl_unregister(struct mt_fabric *fabric, void *handle)
{
	struct nccl_fabric *f = fabric->backend;
	struct nccl_range **at = &f->ranges;
	for (struct nccl_group *g = f->groups; g; g = g->next) {
		struct nccl_hold **held = &g->holds;
		while (*held && (*held)->range != handle)
			held = &(*held)->next;
		if (*held)
			let_go(g, held);
	}
	while (*at != handle)
		at = &(*at)->next;
	*at = (*at)->next;
	free(handle);
}
