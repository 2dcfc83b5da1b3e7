/* graph: lists of operations that come again are launched as graphs.
 *
 * To launch a kernel costs the host some microseconds, which a GPU waits for where the kernels are short. So the engine marks
 * lists, a layer's forward or backward pass, and their operations are not enqueued at once but noted. When the list ends, or when
 * anything but an operation comes on the stream (a copy, an event, a mark, a collective, a wait), what was noted is looked up among
 * the lists that came before: an operation is data, so two lists are equal when their bytes are.
 *
 *   never met      its operations are enqueued one by one, and the list is kept
 *   met once       it is captured while they are enqueued: what a device makes when a shape is first met (plans, scratch) is there
 *   met before     its graph is launched, with the arguments of the capture, which are those of now
 *
 * So nothing has to be foretold: the learning rate, another address or another length make another list, which runs as ever. What
 * cannot be captured is remembered and runs one by one. Graphs are dropped only while the stream is idle. */
#include "kernels/backends.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { LEAST_OPS = 2, MOST_LISTS = 4096, BUCKETS = 1024 };

struct graph {
	struct graph *next; /* of its bucket */
	uint64_t hash;
	void *native; /* the backend's; NULL: not captured */
	bool refused; /* it cannot be */
	bool used;    /* since lists were last dropped */
	int count;
	struct mt_op ops[];
};

struct mt_graphs {
	int depth; /* of lists begun and not ended */
	struct mt_op *ops;
	int count, room; /* noted */
	struct graph *buckets[BUCKETS];
	int kept;
	struct mt_graph_stats stats;
};

bool mt_device_has_graphs(const struct mt_device *device)
{
	return device->ops->async && device->ops->async->capture_begin;
}

enum mt_status mt_stream_use_graphs(struct mt_stream *stream)
{
	if (stream->graphs)
		return MT_OK;
	if (!mt_device_has_graphs(stream->device) || stream->kind != MT_STREAM_COMPUTE)
		return mt_fail(MT_UNAVAILABLE, "the %s device launches no graphs", stream->device->info.kind);
	stream->graphs = calloc(1, sizeof *stream->graphs);
	return stream->graphs ? MT_OK : mt_fail(MT_NOMEM, "stream '%s': no memory for graphs", stream->name);
}

struct mt_graph_stats mt_stream_graph_stats(const struct mt_stream *stream)
{
	return stream->graphs ? stream->graphs->stats : (struct mt_graph_stats){0};
}

/* Bytes that belong to no field have any value: they must not tell lists apart. Where the compiler cannot clear them, lists may
 * come out as new that are not. */
#if defined(__has_builtin)
#if __has_builtin(__builtin_clear_padding)
#define CLEAR_PADDING(pointer) __builtin_clear_padding(pointer)
#endif
#endif
#ifndef CLEAR_PADDING
#define CLEAR_PADDING(pointer) ((void)(pointer))
#endif

#define PART(part)                                                                                                                 \
	do {                                                                                                                       \
		to->part = from->part;                                                                                             \
		CLEAR_PADDING(&to->part);                                                                                          \
		return;                                                                                                            \
	} while (0)

/* Equal operations have equal bytes. */
static void copy_op(struct mt_op *to, const struct mt_op *from)
{
	memset(to, 0, sizeof *to);
	to->kind = from->kind;
	to->dtype = from->dtype;
	if (from->kind <= MT_OP_LINEAR_WGRAD)
		PART(linear);
	if (from->kind <= MT_OP_ATTENTION_BWD)
		PART(attention);
	if (from->kind <= MT_OP_NORM_BWD)
		PART(norm);
	if (from->kind <= MT_OP_ACTIVATION_BWD)
		PART(activation);
	if (from->kind == MT_OP_ROPE)
		PART(rope);
	if (from->kind <= MT_OP_EMBEDDING_BWD)
		PART(embedding);
	if (from->kind <= MT_OP_BIAS_GRAD)
		PART(add);
	if (from->kind <= MT_OP_LOSS)
		PART(loss);
	if (from->kind <= MT_OP_COPY)
		PART(move);
	if (from->kind == MT_OP_COMBINE)
		PART(combine);
	if (from->kind >= MT_OP_AMAX && from->kind <= MT_OP_QUANTIZE)
		PART(quantize);
	if (from->kind >= MT_OP_ROUTE && from->kind <= MT_OP_ROUTE_BWD)
		PART(route);
	if (from->kind >= MT_OP_DROP && from->kind <= MT_OP_SUM_ROWS)
		PART(rows);
	if (from->kind == MT_OP_EXPERT_ACT || from->kind == MT_OP_EXPERT_ACT_BWD)
		PART(expert_act);
	if (from->kind == MT_OP_SPREAD || from->kind == MT_OP_SPREAD_BWD)
		PART(spread);
	*to = *from; /* the optimizer's, which change with the step */
}

static bool can_be_listed(const struct mt_device *device, const struct mt_op *op)
{
	/* Each is told or timed by itself; the groups of a grouped product are read from host memory while it is enqueued. */
	return !device->trace && !device->observer.begin && !(op->kind >= MT_OP_GROUPED && op->kind <= MT_OP_GROUPED_WGRAD);
}

enum mt_status mt_graphs_note(struct mt_stream *stream, const struct mt_op *op, bool *noted)
{
	struct mt_graphs *g = stream->graphs;
	*noted = g && g->depth > 0 && can_be_listed(stream->device, op);
	if (!*noted)
		return mt_stream_flush(stream);
	if (g->count == g->room) {
		int room = g->room ? 2 * g->room : 64;
		struct mt_op *grown = realloc(g->ops, (size_t)room * sizeof *grown);
		if (!grown)
			return mt_fail(MT_NOMEM, "stream '%s': no memory for a list of %d operations", stream->name, room);
		g->ops = grown;
		g->room = room;
	}
	copy_op(&g->ops[g->count++], op);
	return MT_OK;
}

static enum mt_status run(struct mt_stream *stream, const struct mt_op *ops, int count)
{
	struct mt_device *device = stream->device;
	for (int i = 0; i < count; i++)
		MT_TRY(device->ops->enqueue(device, stream, &ops[i]));
	return MT_OK;
}

static struct graph *find(const struct mt_graphs *g, uint64_t hash)
{
	struct graph *list = g->buckets[hash % BUCKETS];
	const size_t bytes = (size_t)g->count * sizeof *g->ops;
	while (list && !(list->hash == hash && list->count == g->count && memcmp(list->ops, g->ops, bytes) == 0))
		list = list->next;
	return list;
}

/* Without room or memory the list is not kept: then it runs one by one the next time too. */
static void keep(struct mt_graphs *g, uint64_t hash)
{
	const size_t bytes = (size_t)g->count * sizeof *g->ops;
	struct graph *list = g->kept < MOST_LISTS ? malloc(sizeof *list + bytes) : NULL;
	if (!list)
		return;
	*list = (struct graph){.next = g->buckets[hash % BUCKETS], .hash = hash, .used = true, .count = g->count};
	memcpy(list->ops, g->ops, bytes);
	g->buckets[hash % BUCKETS] = list;
	g->kept++;
}

/* Nothing runs here. A failure is no failure of the list: it is enqueued one by one then, and says itself what is wrong. */
static void capture(struct mt_stream *stream, struct graph *list)
{
	const struct mt_async_ops *async = stream->device->ops->async;
	struct mt_graph_stats *stats = &stream->graphs->stats;
	enum mt_status st = async->capture_begin(stream);
	if (st == MT_OK)
		st = async->capture_end(stream, run(stream, list->ops, list->count), &list->native);
	list->refused = st != MT_OK;
	stats->captured += !list->refused;
	stats->refused += list->refused;
	if (list->refused && !stats->reason[0])
		snprintf(stats->reason, sizeof stats->reason, "%s", mt_error_message());
	if (list->refused)
		mt_error_clear();
}

enum mt_status mt_stream_flush(struct mt_stream *stream)
{
	struct mt_graphs *g = stream->graphs;
	struct graph *list = NULL;
	if (!g || g->count == 0)
		return MT_OK;
	if (g->count >= LEAST_OPS) {
		uint64_t hash = XXH3_64bits(g->ops, (size_t)g->count * sizeof *g->ops);
		list = find(g, hash);
		if (!list)
			keep(g, hash);
		else if (!list->native && !list->refused)
			capture(stream, list);
		g->stats.missed += !list;
	}
	int count = g->count;
	g->count = 0; /* whatever happens, they are enqueued once */
	if (list)
		list->used = true;
	if (!list || !list->native)
		return run(stream, g->ops, count);
	g->stats.launched++;
	g->stats.operations += count;
	return stream->device->ops->async->graph_launch(stream, list->native);
}

void mt_stream_list_begin(struct mt_stream *stream)
{
	if (stream->graphs)
		stream->graphs->depth++;
}

enum mt_status mt_stream_list_end(struct mt_stream *stream, enum mt_status st)
{
	struct mt_graphs *g = stream->graphs;
	if (!g)
		return st;
	if (st != MT_OK)
		g->count = 0;
	return --g->depth == 0 && st == MT_OK ? mt_stream_flush(stream) : st;
}

/* Of idle streams: lists that were not met since the last time, or all. */
static void drop(struct mt_stream *stream, bool all)
{
	struct mt_graphs *g = stream->graphs;
	for (int b = 0; b < BUCKETS; b++) {
		struct graph **at = &g->buckets[b];
		while (*at) {
			struct graph *list = *at;
			bool stays = list->used && !all;
			list->used = false;
			if (stays) {
				at = &list->next;
				continue;
			}
			*at = list->next;
			if (list->native)
				stream->device->ops->async->graph_free(stream, list->native);
			free(list);
			g->kept--;
		}
	}
}

void mt_graphs_idle(struct mt_stream *stream)
{
	if (stream->graphs && stream->graphs->kept == MOST_LISTS)
		drop(stream, false);
}

void mt_graphs_forget(struct mt_stream *stream)
{
	if (stream->graphs)
		stream->graphs->count = 0;
}

void mt_graphs_close(struct mt_stream *stream)
{
	if (!stream->graphs)
		return;
	drop(stream, true);
	free(stream->graphs->ops);
	free(stream->graphs);
	stream->graphs = NULL;
}
