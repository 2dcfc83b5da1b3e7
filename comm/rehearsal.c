/* rehearsal: real messages between the processes of a whole job, and the dry run's costs.
 *
 * Each rank is a process with a virtual clock. A message is a letter that says when its work began at the sender; a collective is
 * a letter from every member to every other. Work ends when the last of those who take part had begun plus what it costs, so
 * that the clocks of all ranks are those of a job whose devices and links are as the cost sources say, with nothing taken
 * for granted: no rank stands for another, members need not be in step, and a schedule that would deadlock does.
 * The letter leaves when the host has come to it, which on a device with a pace is when the work begins; how late it arrives
 * matters to the real clock only, and only when it is later than the work would have ended.
 *
 * Letters of a group have MPI's order: receives are posted when the call is made, on every member in the same order. On a comm
 * stream a receive or a collective is settled when somebody waits for it. Its letter must say when it begins, which is not
 * known while the stream still has work of another group ahead; then that is waited for first. */
#include "comm/rehearsal.h"

#ifdef MT_HAVE_MPI

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEADLINE_S 600.0

/* ---- work: a receive, or a collective with a letter from each other member ---- */

struct work {
	struct mt_deferred base; /* first */
	struct mt_group *group;
	struct mt_comm_call call;
	struct letter own;
	int count;             /* letters expected */
	MPI_Request *requests; /* within this allocation, as are the letters */
	struct letter letters[];
};

static struct work *make_work(struct mt_group *group, const struct mt_comm_call *call, int count)
{
	size_t letters = sizeof(struct work) + (size_t)count * sizeof(struct letter);
	struct work *w = calloc(1, letters + (size_t)count * sizeof(MPI_Request));

	if (!w) {
		mt_fail(MT_NOMEM, "rehearsal: %s on group %s: no memory", mt_comm_op_name(call->op), group->name);
		return NULL;
	}
	w->group = group;
	w->call = *call;
	w->requests = (MPI_Request *)((char *)w + letters);
	for (int i = 0; i < count; i++)
		w->requests[i] = MPI_REQUEST_NULL;
	return w;
}

static void drop(struct mt_deferred *deferred)
{
	struct work *w = (struct work *)deferred;

	rehearsal_cancel(w->group, w->requests, w->count);
	free(w);
}

/* Both sides must mean the same piece of work. */
static enum mt_status check(const struct work *w, const struct letter *letter, int member)
{
	const struct letter *own = &w->own;

	if (letter->op == own->op && letter->serial == own->serial &&
	    (letter->bytes == own->bytes || own->op == MT_COMM_ALL_TO_ALL_V))
		return MT_OK;
	return mt_fail(MT_FAILED, "rehearsal, group %s: rank %d is at %s %u of %lld bytes, rank %d at %s %u of %lld",
		       w->group->name, w->group->fabric->rank, mt_comm_op_name((enum mt_comm_op)own->op), own->serial,
		       (long long)own->bytes, w->group->ranks[member], mt_comm_op_name((enum mt_comm_op)letter->op), letter->serial,
		       (long long)letter->bytes);
}

static enum mt_status finish(struct work *w, double start_s, double *end_s)
{
	double cost_s = w->own.cost_s;
	int only = w->call.op == MT_COMM_SEND_RECV ? w->call.peer : -1;

	MT_TRY(rehearsal_await(w->group, mt_comm_op_name(w->call.op), w->requests, w->count, only));
	for (int i = 0; i < w->count; i++) {
		const struct letter *letter = &w->letters[i];

		MT_TRY(check(w, letter, only >= 0 ? only : i < w->group->rank ? i : i + 1));
		if (letter->start_s > start_s)
			start_s = letter->start_s;
		if (letter->cost_s > cost_s)
			cost_s = letter->cost_s;
	}
	*end_s = start_s + cost_s;
	return MT_OK;
}

static enum mt_status settle(struct mt_deferred *deferred, struct mt_stream *stream, double not_before_s, double *end_s)
{
	struct work *w = (struct work *)deferred;
	double start_s = w->own.start_s > not_before_s ? w->own.start_s : not_before_s;
	enum mt_status st = finish(w, start_s, end_s);

	if (st == MT_OK)
		mt_comm_trace(w->group, stream, &w->call, *end_s - w->own.cost_s, *end_s);
	drop(&w->base);
	return st;
}

/* On a compute stream the host waits; on a comm stream it goes on. */
static enum mt_status enqueue(struct work *w, struct mt_stream *stream)
{
	double end_s;

	if (stream->kind == MT_STREAM_COMM) {
		w->base.settle = settle;
		w->base.drop = drop;
		mt_stream_defer(stream, &w->base);
		return MT_OK;
	}
	MT_TRY(settle(&w->base, stream, 0, &end_s));
	mt_stream_advance(stream, end_s, 0);
	return MT_OK;
}

/* When work enqueued now can start, but for deferred work ahead: after what the stream and the host have waited for. */
static double begin_s(struct mt_stream *stream)
{
	return mt_stream_advance(stream, 0.0, 0.0);
}

static enum mt_status send(struct mt_group *group, struct mt_stream *stream, const struct mt_comm_call *call, struct letter *letter)
{
	struct members *m = group->backend;

	MT_TRY(mt_stream_settle(stream, stream->issued));
	letter->start_s = begin_s(stream);
	letter->serial = m->sent[call->peer]++;
	MT_TRY(rehearsal_post(group, TAG_MESSAGE, letter, sizeof *letter, call->peer));
	mt_comm_trace(group, stream, call, letter->start_s, mt_stream_advance(stream, letter->start_s, letter->cost_s));
	return MT_OK;
}

static enum mt_status receive(struct mt_group *group, struct mt_stream *stream, const struct mt_comm_call *call,
			      const struct letter *letter)
{
	struct members *m = group->backend;
	struct work *w = make_work(group, call, 1);

	if (!w)
		return MT_NOMEM;
	w->own = *letter;
	w->own.serial = m->received[call->peer]++;
	w->count = 1;
	enum mt_status st = rehearsal_expect(group, TAG_MESSAGE, w->letters, sizeof *w->letters, call->peer, w->requests);
	if (st == MT_OK)
		return enqueue(w, stream);
	free(w);
	return st;
}

static bool same_members(const struct mt_group *a, const struct mt_group *b)
{
	return a->size == b->size && memcmp(a->ranks, b->ranks, (size_t)a->size * sizeof *a->ranks) == 0;
}

/* Whether all that is deferred on the stream are collectives of this group's members: they then agree on when each ends. */
static bool in_step(const struct mt_stream *stream, const struct mt_group *group)
{
	for (const struct mt_deferred *d = stream->deferred; d; d = d->next) {
		const struct work *w = (const struct work *)d;

		if (w->call.op == MT_COMM_SEND_RECV || !same_members(w->group, group))
			return false;
	}
	return true;
}

static enum mt_status collect(struct mt_group *group, struct mt_stream *stream, const struct mt_comm_call *call,
			      const struct letter *letter)
{
	struct members *m = group->backend;
	struct work *w;
	enum mt_status st;

	if (!in_step(stream, group))
		MT_TRY(mt_stream_settle(stream, stream->issued));
	w = make_work(group, call, group->size - 1);
	if (!w)
		return MT_NOMEM;
	w->own = *letter;
	w->own.start_s = begin_s(stream);
	w->own.serial = m->calls++;
	for (int i = 0; i < group->size; i++) {
		if (i == group->rank)
			continue;
		MT_GOTO(fail, rehearsal_expect(group, TAG_COLLECTIVE, &w->letters[w->count], sizeof *w->letters, i,
					       &w->requests[w->count]));
		w->count++;
	}
	for (int i = 1; i < group->size; i++) /* everyone starts with another one */
		MT_GOTO(fail, rehearsal_post(group, TAG_COLLECTIVE, &w->own, sizeof w->own, (group->rank + i) % group->size));
	return enqueue(w, stream);
fail:
	drop(&w->base);
	return st;
}

static enum mt_status rehearsal_run(struct mt_group *group, struct mt_stream *stream, const struct mt_comm_call *call)
{
	struct mt_comm_key key = mt_comm_cost_key(group, call);
	struct letter letter = {.cost_s = rehearsal_of(group)->cost.comm_s(rehearsal_of(group)->cost.context, &key),
				.bytes = key.bytes,
				.op = (int32_t)call->op};

	if (call->op != MT_COMM_SEND_RECV)
		return collect(group, stream, call, &letter);
	return call->receiving ? receive(group, stream, call, &letter) : send(group, stream, call, &letter);
}

/* ---- host-side calls: every member's bytes to every other, and the host goes on when the last has come ---- */

/* all: size rows of `bytes`, the own one filled in. The hosts' clocks are at the latest of them then. */
static enum mt_status exchange(struct mt_group *group, const char *what, char *all, size_t bytes)
{
	struct mt_device *device = rehearsal_of(group)->device;
	size_t row = sizeof(double) + bytes;
	int others = group->size - 1, posted = 0;
	char *in = malloc((size_t)group->size * row), *out = in ? in + (size_t)others * row : NULL;
	MPI_Request *requests = calloc((size_t)group->size, sizeof *requests);
	enum mt_status st = MT_OK;

	if (!in || !requests) {
		st = mt_fail(MT_NOMEM, "rehearsal: %s on group %s: no memory", what, group->name);
		goto out;
	}
	memcpy(out, &device->virtual_start_s, sizeof(double));
	memcpy(out + sizeof(double), all + (size_t)group->rank * bytes, bytes);
	for (int i = 0; i < group->size; i++) {
		if (i == group->rank)
			continue;
		MT_GOTO(out, rehearsal_expect(group, TAG_HOST, in + (size_t)posted * row, row, i, &requests[posted]));
		posted++;
	}
	for (int i = 1; i < group->size; i++)
		MT_GOTO(out, rehearsal_post(group, TAG_HOST, out, row, (group->rank + i) % group->size));
	MT_GOTO(out, rehearsal_await(group, what, requests, others, -1));
	for (int i = 0; i < others; i++) {
		double there_s;

		memcpy(&there_s, in + (size_t)i * row, sizeof there_s);
		memcpy(all + (size_t)(i < group->rank ? i : i + 1) * bytes, in + (size_t)i * row + sizeof(double), bytes);
		if (there_s > device->virtual_start_s)
			device->virtual_start_s = there_s;
	}
	posted = 0;
	mt_device_sleep_until(device, device->virtual_start_s);
out:
	if (requests && posted)
		rehearsal_cancel(group, requests, posted);
	free(requests);
	free(in);
	return st;
}

static enum mt_status barrier(struct mt_group *group)
{
	char nothing[1] = "";

	return exchange(group, "barrier", nothing, 0);
}

static enum mt_status host_all_gather(struct mt_group *group, const void *send, void *recv, size_t bytes_per_rank)
{
	memmove((char *)recv + (size_t)group->rank * bytes_per_rank, send, bytes_per_rank);
	return exchange(group, "host all_gather", recv, bytes_per_rank);
}

static enum mt_status host_all_reduce(struct mt_group *group, double *values, int count, enum mt_reduction reduction)
{
	double *all = calloc((size_t)group->size * (size_t)count + 1, sizeof *all);
	enum mt_status st = MT_OK;

	if (!all)
		return mt_fail(MT_NOMEM, "rehearsal: host all_reduce on group %s: no memory", group->name);
	MT_GOTO(out, host_all_gather(group, values, all, (size_t)count * sizeof *all));
	for (int i = 0; i < count; i++) {
		double sum = all[i];

		for (int r = 1; r < group->size; r++) {
			double next = all[r * count + i];

			sum = reduction == MT_SUM ? sum + next : next > sum ? next : sum;
		}
		values[i] = sum;
	}
out:
	free(all);
	return st;
}

/* ---- life ---- */

static enum mt_status group_open(struct mt_group *group)
{
	struct members *m = calloc(1, sizeof *m);
	enum mt_status st;

	if (!m || !(m->sent = calloc(2 * (size_t)group->size, sizeof *m->sent))) {
		free(m);
		return mt_fail(MT_NOMEM, "group %s: no memory", group->name);
	}
	m->received = m->sent + group->size;
	st = mt_group_create(rehearsal_of(group)->base, group->name, group->ranks, group->size, &m->base);
	if (st != MT_OK) {
		free(m->sent);
		free(m);
		return st;
	}
	group->backend = m;
	return MT_OK;
}

/* The communicator goes when MPI is done with it; letters on their way stay in the outbox. */
static void group_close(struct mt_group *group)
{
	struct members *m = group->backend;

	mt_group_destroy(m->base);
	free(m->sent);
	free(m);
}

static enum mt_status copy_hosts(struct mt_fabric *fabric, const struct mt_fabric *base)
{
	fabric->hosts = calloc((size_t)base->size, sizeof *fabric->hosts);
	if (!fabric->hosts)
		return mt_fail(MT_NOMEM, "fabric rehearsal: no memory for %d host names", base->size);
	fabric->host_entries = base->size;
	for (int r = 0; r < base->size; r++)
		snprintf(fabric->hosts[r], MT_FABRIC_HOST, "%s", mt_fabric_host(base, r));
	return MT_OK;
}

static enum mt_status rehearsal_open(struct mt_fabric *fabric, const struct mt_fabric_config *config)
{
	struct rehearsal *r;

	if (!config->base || !config->device || !config->cost.comm_s)
		return mt_fail(MT_INPUT, "fabric rehearsal: no fabric below it, no device or no cost source is given");
	if (strcmp(mt_fabric_kind(config->base), "mpi") != 0)
		return mt_fail(MT_INPUT,
			       "fabric rehearsal: its messages go over mpi, the ranks were joined by %s: start them with mpirun",
			       mt_fabric_kind(config->base));
	MT_TRY(copy_hosts(fabric, config->base));
	r = calloc(1, sizeof *r);
	if (!r)
		return mt_fail(MT_NOMEM, "fabric rehearsal: no memory");
	*r = (struct rehearsal){.base = config->base, .device = config->device, .cost = config->cost};
	r->deadline_s = config->deadline_s > 0 ? config->deadline_s : config->deadline_s < 0 ? 1e30 : DEADLINE_S;
	fabric->backend = r;
	fabric->rank = config->base->rank;
	fabric->size = config->base->size;
	fabric->local_rank = config->base->local_rank;
	fabric->local_size = config->base->local_size;
	snprintf(fabric->library, sizeof fabric->library, "%s", config->base->library);
	return MT_OK;
}

/* Letters are small and leave at once; what a failed job left behind stays MPI's. */
static void rehearsal_close(struct mt_fabric *fabric)
{
	struct rehearsal *r = fabric->backend;
	const struct mt_fabric *top = r->base;

	while (top->parent)
		top = top->parent;
	struct mpi_fabric *mpi = top->backend;

	pthread_mutex_lock(&mpi->lock);
	rehearsal_clear_outbox(r);
	pthread_mutex_unlock(&mpi->lock);
	free(r);
}

static void rehearsal_abort(struct mt_fabric *fabric, int exit_code)
{
	mt_fabric_abort(((struct rehearsal *)fabric->backend)->base, exit_code);
}

const struct mt_fabric_ops mt_fabric_rehearsal = {
	.kind = "rehearsal",
	.open = rehearsal_open,
	.close = rehearsal_close,
	.abort = rehearsal_abort,
	.group_open = group_open,
	.group_close = group_close,
	.run = rehearsal_run,
	.barrier = barrier,
	.host_all_reduce = host_all_reduce,
	.host_all_gather = host_all_gather,
	.executes = false,
};

#endif
