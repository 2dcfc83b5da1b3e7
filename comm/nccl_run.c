/* nccl_run: one call as NCCL's functions, and the operations under way. */
#include "comm/nccl.h"

#include "comm/agree.h"

#include <stdio.h>
#include <stdlib.h>

static ncclDataType_t type_of(enum mt_dtype dtype)
{
	switch (dtype) {
	case MT_F32:
		return ncclFloat32;
	case MT_BF16:
		return ncclBfloat16;
	case MT_F16:
		return ncclFloat16;
	case MT_F64:
		return ncclFloat64;
	case MT_E4M3:
	case MT_E5M2:
		return ncclUint8; /* moved, never added */
	default:
		return ncclInt32;
	}
}

/* All pairs in one group of messages; every NCCL has these. */
static ncclResult_t all_to_all(const struct nccl_group *g, const struct mt_comm_call *c, cudaStream_t stream)
{
	size_t row = (size_t)c->count * mt_dtype_bytes(c->dtype);
	ncclResult_t code = ncclGroupStart(), end;
	for (int r = 0; r < g->group->size && code == ncclSuccess; r++) {
		const char *send = (const char *)c->send + (size_t)r * row;
		char *recv = (char *)c->recv + (size_t)r * row;
		code = ncclSend(send, (size_t)c->count, type_of(c->dtype), r, g->comm, stream);
		if (code == ncclSuccess || code == ncclInProgress)
			code = ncclRecv(recv, (size_t)c->count, type_of(c->dtype), r, g->comm, stream);
		if (code == ncclInProgress)
			code = ncclSuccess;
	}
	end = ncclGroupEnd();
	return code == ncclSuccess ? end : code;
}

static ncclResult_t shift(const struct nccl_group *g, const struct mt_comm_call *c, cudaStream_t stream)
{
	int size = g->group->size, to = (g->group->rank + c->peer) % size, from = (g->group->rank + size - c->peer) % size;
	ncclResult_t code = ncclGroupStart(), end;
	if (code == ncclSuccess)
		code = ncclSend(c->send, (size_t)c->count, type_of(c->dtype), to, g->comm, stream);
	if (code == ncclSuccess || code == ncclInProgress)
		code = ncclRecv(c->recv, (size_t)c->count, type_of(c->dtype), from, g->comm, stream);
	end = ncclGroupEnd();
	return code == ncclSuccess || code == ncclInProgress ? end : code;
}

static ncclResult_t all_to_all_v(const struct nccl_group *g, const struct mt_comm_call *c, cudaStream_t stream)
{
	const struct mt_comm_chunks *k = &c->chunks;
	size_t unit = (size_t)c->count * mt_dtype_bytes(c->dtype);
	ncclResult_t code = ncclGroupStart(), end;
	for (int i = 0; i < g->group->size * k->each && code == ncclSuccess; i++) {
		size_t sent = (size_t)(k->send_counts[i] * c->count), received = (size_t)(k->recv_counts[i] * c->count);
		const char *send = (const char *)c->send + (size_t)k->send_first[i] * unit;
		char *recv = (char *)c->recv + (size_t)k->recv_first[i] * unit;
		if (sent)
			code = ncclSend(send, sent, type_of(c->dtype), i / k->each, g->comm, stream);
		if (received && (code == ncclSuccess || code == ncclInProgress))
			code = ncclRecv(recv, received, type_of(c->dtype), i / k->each, g->comm, stream);
		if (code == ncclInProgress)
			code = ncclSuccess;
	}
	end = ncclGroupEnd();
	return code == ncclSuccess ? end : code;
}

static ncclResult_t enqueue(const struct nccl_group *g, const struct mt_comm_call *c, cudaStream_t stream)
{
	ncclDataType_t type = type_of(c->dtype);
	size_t count = (size_t)c->count;
	switch (c->op) {
	case MT_COMM_ALL_REDUCE:
		return ncclAllReduce(c->send, c->recv, count, type, c->reduction == MT_MAX ? ncclMax : ncclSum, g->comm, stream);
	case MT_COMM_REDUCE_SCATTER:
		return ncclReduceScatter(c->send, c->recv, count, type, ncclSum, g->comm, stream);
	case MT_COMM_ALL_GATHER:
		return ncclAllGather(c->send, c->recv, count, type, g->comm, stream);
	case MT_COMM_ALL_TO_ALL:
		return all_to_all(g, c, stream);
	case MT_COMM_SHIFT:
		return shift(g, c, stream);
	case MT_COMM_ALL_TO_ALL_V:
		return all_to_all_v(g, c, stream);
	case MT_COMM_BROADCAST:
		return ncclBroadcast(c->recv, c->recv, count, type, c->peer, g->comm, stream);
	case MT_COMM_SEND_RECV:
		return c->receiving ? ncclRecv(c->recv, count, type, c->peer, g->comm, stream)
				    : ncclSend(c->send, count, type, c->peer, g->comm, stream);
	default:
		return ncclInvalidArgument;
	}
}

bool nccl_collect(struct nccl_fabric *f, const struct nccl_group *g)
{
	bool any = false;
	pthread_mutex_lock(&f->lock);
	for (struct nccl_work **at = &f->under_way, *w; (w = *at);) {
		bool over = false;
		/* An event that cannot be asked is over: its stream tells the failure. */
		if (mt_event_over(w->event, &over) != MT_OK) {
			mt_error_clear();
			over = true;
		}
		if (!over) {
			any = any || !g || w->of == g;
			at = &w->next;
			continue;
		}
		*at = w->next;
		mt_watchdog_end(w->of->group->fabric->watchdog, &w->watch);
		w->next = f->idle;
		f->idle = w;
	}
	pthread_mutex_unlock(&f->lock);
	return any;
}

void nccl_free_works(struct nccl_fabric *f)
{
	pthread_mutex_lock(&f->lock);
	struct nccl_work *list = f->idle;
	f->idle = NULL;
	pthread_mutex_unlock(&f->lock);
	while (list) {
		struct nccl_work *next = list->next;
		mt_event_destroy(list->event);
		free(list);
		list = next;
	}
}

/* One for this device; events belong to theirs. */
static enum mt_status take_work(struct nccl_fabric *f, struct mt_stream *stream, struct nccl_work **work)
{
	struct nccl_work **at = &f->idle, *w;
	pthread_mutex_lock(&f->lock);
	while (*at && (*at)->event->device != stream->device)
		at = &(*at)->next;
	w = *at;
	if (w)
		*at = w->next;
	pthread_mutex_unlock(&f->lock);
	if (!w && !(w = calloc(1, sizeof *w)))
		return mt_fail(MT_NOMEM, "fabric nccl: no memory for an operation");
	*work = w;
	return w->event ? MT_OK : mt_event_create(stream->device, &w->event);
}

static void put_back(struct nccl_fabric *f, struct nccl_work *w)
{
	pthread_mutex_lock(&f->lock);
	w->next = f->idle;
	f->idle = w;
	pthread_mutex_unlock(&f->lock);
}

static uint64_t number(struct nccl_group *g, const struct mt_comm_call *c)
{
	if (c->op != MT_COMM_SEND_RECV)
		return g->called++;
	return (c->receiving ? g->received : g->sent)[c->peer]++;
}

/* In debug builds the members compare what they call first, on the host: so all must call the collectives of all their groups in
 * the same order. */
static enum mt_status agree(struct nccl_group *g, const struct mt_comm_call *c)
{
#ifdef MT_DEBUG
	struct mt_comm_signature mine = mt_comm_sign(c, g->called), *all = calloc((size_t)g->group->size, sizeof *all);
	enum mt_status st;
	if (!all)
		return mt_fail(MT_NOMEM, "group %s: no memory for signatures", g->group->name);
	st = mt_comm_host_all_gather(g->host, &mine, all, sizeof mine);
	if (st == MT_OK)
		st = mt_comm_agree(g->group, all);
	if (st != MT_OK)
		nccl_comm_abort(g, mt_error_message());
	free(all);
	return st;
#else
	return MT_OK;
#endif
}

/* Enqueued: under way until its event is over. The group may have failed meanwhile. */
static enum mt_status keep(struct nccl_fabric *f, struct nccl_group *g, struct nccl_work *w)
{
	enum mt_status st = mt_event_record(w->event, w->stream);
	pthread_mutex_lock(&f->lock);
	if (st == MT_OK && g->failed)
		st = mt_fail(MT_FAILED, "%s", g->message);
	if (st == MT_OK) {
		struct nccl_work **last = &f->under_way;
		while (*last)
			last = &(*last)->next;
		w->next = NULL;
		*last = w;
	}
	pthread_mutex_unlock(&f->lock);
	return st;
}

static enum mt_status launch(struct nccl_group *g, struct nccl_work *w, const struct mt_comm_call *call)
{
	struct nccl_fabric *f = nccl_of(g->group);
	struct mt_mark start = {0};
	struct mt_trace_event event = {.name = mt_comm_op_name(call->op),
				       .group = g->group->name,
				       .group_size = g->group->size,
				       .bytes = mt_comm_call_bytes(call, g->group->size),
				       .stream = w->stream->name};
	MT_TRY(mt_trace_begin(w->stream, &start));
	pthread_mutex_lock(&f->lock);
	ncclResult_t code = g->failed ? ncclSuccess : enqueue(g, call, mt_stream_native(w->stream));
	pthread_mutex_unlock(&f->lock);
	MT_TRY(nccl_comm_settle(g, code, mt_comm_op_name(call->op), &w->watch));
	return mt_trace_end(w->stream, &start, &event);
}

enum mt_status nccl_run(struct mt_group *group, struct mt_stream *stream, const struct mt_comm_call *call)
{
	struct nccl_fabric *f = nccl_of(group);
	struct nccl_group *members = nccl_members(group), *g = members;
	struct nccl_work *w = NULL;
	enum mt_status st;
	if (!mt_stream_native(stream))
		return mt_fail(MT_INPUT, "%s on group %s: fabric nccl works with device cuda, not with %s",
			       mt_comm_op_name(call->op), group->name, stream->device->info.kind);
	if (call->count == 0)
		return MT_OK;
	MT_TRY(nccl_comm_make(g));
	if (call->op == MT_COMM_SEND_RECV)
		MT_TRY(nccl_edge(members, call->receiving ? call->peer : group->rank, call->receiving ? group->rank : call->peer,
				 &g));
	else
		MT_TRY(agree(members, call));
	MT_TRY(take_work(f, stream, &w));
	w->of = g;
	w->stream = stream;
	mt_watchdog_begin(group->fabric->watchdog, &w->watch, group, call, number(members, call));
	MT_GOTO(fail, launch(g, w, call));
	MT_GOTO(fail, keep(f, g, w));
	return MT_OK;
fail:
	mt_watchdog_end(group->fabric->watchdog, &w->watch);
	put_back(f, w);
	nccl_comm_abort(g, mt_error_message());
	return st;
}
