/* dry: a fabric that moves nothing and only costs time on virtual clocks.
 *
 * Collectives are symmetric: their members are taken to be in step, so a collective advances the caller's stream by its
 * cost and waits for nobody; one rank of each pipeline stage is enough. Only messages couple ranks: a send leaves the
 * virtual time at which it began in a mailbox of the shared world, and the receive, on another thread, waits (in real
 * time) for that letter and begins no earlier than it. Letters of a mailbox are read in the order posted by one sender
 * and read by one receiver, so the times do not depend on how threads are scheduled. */
#include "comm/fabric.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct letter {
	struct letter *next;
	double start_s;
	int64_t bytes;
};

/* Messages of one group from one world rank to another. */
struct mailbox {
	struct mailbox *next;
	char group[16];
	int from, to;
	struct letter *first, *last;
};

#define BUCKETS 256

struct mt_dry_world {
	int size;
	pthread_mutex_t lock;
	pthread_cond_t posted;
	bool poisoned;
	char why[256];
	struct mailbox *boxes[BUCKETS]; /* owned, by hash of (group, from, to) */
};

struct dry {
	struct mt_dry_world *world; /* NULL: a world without messages */
	struct mt_comm_cost_source cost;
};

enum mt_status mt_dry_world_create(struct mt_dry_world **world, int size)
{
	struct mt_dry_world *w = calloc(1, sizeof *w);
	*world = w;
	if (!w)
		return mt_fail(MT_NOMEM, "dry world: no memory");
	w->size = size;
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->posted, NULL);
	return MT_OK;
}

static void free_box(struct mailbox *box)
{
	while (box->first) {
		struct letter *next = box->first->next;
		free(box->first);
		box->first = next;
	}
	free(box);
}

void mt_dry_world_destroy(struct mt_dry_world *world)
{
	if (!world)
		return;
	for (int i = 0; i < BUCKETS; i++) {
		while (world->boxes[i]) {
			struct mailbox *next = world->boxes[i]->next;
			free_box(world->boxes[i]);
			world->boxes[i] = next;
		}
	}
	pthread_cond_destroy(&world->posted);
	pthread_mutex_destroy(&world->lock);
	free(world);
}

void mt_dry_world_poison(struct mt_dry_world *world, const char *why)
{
	pthread_mutex_lock(&world->lock);
	if (!world->poisoned)
		snprintf(world->why, sizeof world->why, "%s", why ? why : "");
	world->poisoned = true;
	pthread_cond_broadcast(&world->posted);
	pthread_mutex_unlock(&world->lock);
}

/* The mailbox, made on first use by either side; NULL without memory. Call with the lock held. */
static struct mailbox *mailbox_of(struct mt_dry_world *world, const char *group, int from, int to)
{
	unsigned hash = (unsigned)from * 31u + (unsigned)to;
	for (const char *c = group; *c; c++)
		hash = hash * 31u + (unsigned char)*c;
	struct mailbox **bucket = &world->boxes[hash % BUCKETS];
	for (struct mailbox *box = *bucket; box; box = box->next)
		if (box->from == from && box->to == to && strcmp(box->group, group) == 0)
			return box;
	struct mailbox *box = calloc(1, sizeof *box);
	if (!box)
		return NULL;
	strcpy(box->group, group);
	box->from = from;
	box->to = to;
	box->next = *bucket;
	*bucket = box;
	return box;
}

static enum mt_status post(struct mt_dry_world *world, const struct mt_group *group, int to, double start_s, int64_t bytes)
{
	struct letter *letter = calloc(1, sizeof *letter);
	struct mailbox *box;
	enum mt_status st = MT_OK;
	pthread_mutex_lock(&world->lock);
	box = mailbox_of(world, group->name, group->fabric->rank, to);
	if (!box || !letter) {
		st = mt_fail(MT_NOMEM, "send on dry group %s: no memory for a message", group->name);
		free(letter);
	} else {
		letter->start_s = start_s;
		letter->bytes = bytes;
		if (box->last)
			box->last->next = letter;
		else
			box->first = letter;
		box->last = letter;
		pthread_cond_broadcast(&world->posted);
	}
	pthread_mutex_unlock(&world->lock);
	return st;
}

/* Takes the next letter, waiting for it. A letter already there is read even after poisoning. */
static enum mt_status take(struct mt_dry_world *world, const struct mt_group *group, int from, struct letter *letter)
{
	enum mt_status st = MT_OK;
	int to = group->fabric->rank;
	pthread_mutex_lock(&world->lock);
	struct mailbox *box = mailbox_of(world, group->name, from, to);
	if (!box)
		st = mt_fail(MT_NOMEM, "receive on dry group %s: no memory for a mailbox", group->name);
	while (box && !box->first && !world->poisoned)
		pthread_cond_wait(&world->posted, &world->lock);
	if (box && !box->first)
		st = mt_fail(MT_FAILED, "receive on dry group %s: rank %d waits for rank %d, but the run was given up: %s",
			     group->name, to, from, world->why);
	if (st == MT_OK) {
		struct letter *first = box->first;
		*letter = *first;
		box->first = first->next;
		if (!box->first)
			box->last = NULL;
		free(first);
	}
	pthread_mutex_unlock(&world->lock);
	return st;
}

static enum mt_status dry_open(struct mt_fabric *fabric, const struct mt_fabric_config *config)
{
	if (config->size < 1 || config->rank < 0 || config->rank >= config->size)
		return mt_fail(MT_INPUT, "fabric dry: rank %d of a world of %d", config->rank, config->size);
	if (!config->cost.comm_s)
		return mt_fail(MT_INPUT, "fabric dry: no cost source is given");
	if (config->dry_world && config->dry_world->size != config->size)
		return mt_fail(MT_INPUT, "fabric dry: the shared world has %d ranks, this rank says %d", config->dry_world->size,
			       config->size);
	struct dry *dry = malloc(sizeof *dry);
	if (!dry)
		return mt_fail(MT_NOMEM, "fabric dry: no memory");
	dry->world = config->dry_world;
	dry->cost = config->cost;
	enum mt_status st = mt_fabric_one_host(fabric);
	if (st != MT_OK) {
		free(dry);
		return st;
	}
	fabric->backend = dry;
	fabric->rank = fabric->local_rank = config->rank;
	fabric->size = fabric->local_size = config->size;
	snprintf(fabric->library, sizeof fabric->library, "dry run");
	return MT_OK;
}

static void dry_close(struct mt_fabric *fabric)
{
	free(fabric->backend);
}

/* When work enqueued now can start: after the stream's work, and not before what the host has waited for. */
static double begin_s(struct mt_stream *stream)
{
	return mt_stream_advance(stream, 0.0, 0.0);
}

/* A receive that was posted: it ends when its message has been sent and moved. */
struct receive {
	struct mt_deferred base; /* first */
	struct mt_group *group;
	struct mt_comm_call call;
	double posted_s, seconds;
};

static void drop_receive(struct mt_deferred *deferred)
{
	free(deferred);
}

static enum mt_status finish_receive(struct mt_group *group, struct mt_stream *stream, const struct mt_comm_call *call,
				     double start_s, double seconds, double *end_s)
{
	struct dry *dry = group->fabric->backend;
	int peer = group->ranks[call->peer];
	int64_t bytes = mt_comm_call_bytes(call, group->size);
	struct letter letter;

	MT_TRY(take(dry->world, group, peer, &letter));
	if (letter.bytes != bytes)
		return mt_fail(MT_FAILED, "receive on dry group %s: rank %d expects %lld bytes, rank %d sent %lld", group->name,
			       group->fabric->rank, (long long)bytes, peer, (long long)letter.bytes);
	if (letter.start_s > start_s)
		start_s = letter.start_s;
	*end_s = start_s + seconds;
	mt_comm_trace(group, stream, call, start_s, *end_s);
	return MT_OK;
}

static enum mt_status settle_receive(struct mt_deferred *deferred, struct mt_stream *stream, double not_before_s, double *end_s)
{
	struct receive *receive = (struct receive *)deferred;
	double start_s = receive->posted_s > not_before_s ? receive->posted_s : not_before_s;
	enum mt_status st = finish_receive(receive->group, stream, &receive->call, start_s, receive->seconds, end_s);

	free(receive);
	return st;
}

/* On a comm stream posting a receive does not wait for the sender: schedules post them ahead. */
static enum mt_status receive(struct mt_group *group, struct mt_stream *stream, const struct mt_comm_call *call, double seconds)
{
	struct receive *receive;
	double end_s;

	if (stream->kind != MT_STREAM_COMM) {
		MT_TRY(finish_receive(group, stream, call, begin_s(stream), seconds, &end_s));
		mt_stream_advance(stream, end_s, 0);
		return MT_OK;
	}
	receive = malloc(sizeof *receive);
	if (!receive)
		return mt_fail(MT_NOMEM, "receive on dry group %s: no memory", group->name);
	*receive = (struct receive){.base = {.settle = settle_receive, .drop = drop_receive},
				    .group = group,
				    .call = *call,
				    .posted_s = begin_s(stream),
				    .seconds = seconds};
	mt_stream_defer(stream, &receive->base);
	return MT_OK;
}

static enum mt_status send_or_receive(struct mt_group *group, struct mt_stream *stream, const struct mt_comm_call *call,
				      double seconds)
{
	struct dry *dry = group->fabric->backend;
	double start;

	if (!dry->world)
		return mt_fail(MT_INPUT, "message on dry group %s: this fabric was made without a dry world to pass messages in",
			       group->name);
	if (call->receiving)
		return receive(group, stream, call, seconds);
	MT_TRY(mt_stream_settle(stream, stream->issued));
	start = begin_s(stream);
	MT_TRY(post(dry->world, group, group->ranks[call->peer], start, mt_comm_call_bytes(call, group->size)));
	mt_comm_trace(group, stream, call, start, mt_stream_advance(stream, start, seconds));
	return MT_OK;
}

static enum mt_status dry_run(struct mt_group *group, struct mt_stream *stream, const struct mt_comm_call *call)
{
	struct dry *dry = group->fabric->backend;
	struct mt_comm_key key = mt_comm_cost_key(group, call);
	double seconds = dry->cost.comm_s(dry->cost.context, &key);
	if (call->op == MT_COMM_SEND_RECV)
		return send_or_receive(group, stream, call, seconds);
	MT_TRY(mt_stream_settle(stream, stream->issued));
	double start = begin_s(stream);
	mt_comm_trace(group, stream, call, start, mt_stream_advance(stream, start, seconds));
	return MT_OK;
}

/* Identity and repetition (the host helpers of comm.c without a fabric's): members of a dry group hold the same values. */
const struct mt_fabric_ops mt_fabric_dry = {
	.kind = "dry",
	.open = dry_open,
	.close = dry_close,
	.run = dry_run,
	.executes = false,
};
