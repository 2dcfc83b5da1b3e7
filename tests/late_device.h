/* A device that runs behind the host, on the host: what a GPU is to the engine, so that a missing event, a buffer reused too
 * early or a look at device memory is found without a GPU.
 *
 * Operations are queued by stream and run by one thread, by a host device of its own, as late as they may: a stream moves
 * when somebody waits for it (the host, or an event that a stream waited for needs), else only when its next piece of work
 * is older than the device's delay. So work that nothing orders before its reader comes after it. Pointers that the device hands
 * out are not addresses: any access by the host faults. A graph is a list of the operations as they were when it was captured. */
#ifndef TESTS_LATE_DEVICE_H
#define TESTS_LATE_DEVICE_H

#include "base/clock.h"
#include "kernels/device.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LATE_TAG ((uint64_t)0x4d01 << 48) /* bits 63..48: no address of a process has them */

enum late_kind { LATE_OP, LATE_COPY, LATE_RECORD, LATE_WAIT, LATE_MARK };

struct late_event {
	uint64_t recorded, done; /* how often */
	struct late_stream *stream;
};

struct late_mark {
	bool done;
	double time_s;
};

struct late_work {
	struct late_work *next;
	enum late_kind kind;
	double queued_s;
	struct mt_op op;
	void *dst;
	const void *src;
	void *staging; /* owned: source of an upload */
	size_t bytes;
	struct late_event *event;
	uint64_t generation;
	struct late_mark *mark;
};

struct late_graph {
	int count, room;
	struct mt_op *ops; /* owned */
};

struct late_stream {
	struct late_stream *next;
	struct late_graph *capturing; /* owned */
	struct late_work *first, **end;
	int waiters; /* threads that wait for the stream */
	enum mt_status failure;
	char message[512];
};

struct late_device {
	pthread_mutex_t lock;
	pthread_cond_t changed; /* work came or is over */
	pthread_t thread;
	bool stop;
	double delay_s;
	const char *inner_kind;
	int refuse; /* so many captures fail */
	struct late_stream *streams;
	struct mt_arena_backing memory;
	enum mt_status started; /* of the thread's own device */
	bool ready;
	char message[512];
};

static inline struct late_device *late_of(const struct mt_device *device)
{
	return device->backend;
}

static inline void *late_address(const void *pointer)
{
	uint64_t value = (uint64_t)(uintptr_t)pointer;
	return (void *)(uintptr_t)(value >> 48 == LATE_TAG >> 48 ? value & ~((uint64_t)0xffff << 48) : value);
}

/* Every word of the operation that is a pointer of ours becomes an address. No count and no double looks like one. */
static inline void late_translate(struct mt_op *op)
{
	uint64_t words[sizeof *op / 8];
	memcpy(words, op, sizeof words);
	for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
		words[i] = (uint64_t)(uintptr_t)late_address((void *)(uintptr_t)words[i]);
	memcpy(op, words, sizeof words);
}

/* ---- the thread ---- */

/* The stream to move next on behalf of one that is waited for: itself, or whom its next work waits for. NULL: cannot be told. */
static inline struct late_stream *late_needed(struct late_stream *stream)
{
	for (int depth = 0; stream && stream->first && depth < 64; depth++) {
		struct late_work *w = stream->first;
		if (w->kind != LATE_WAIT || w->event->done >= w->generation)
			return stream;
		stream = w->event->stream;
	}
	return NULL;
}

/* The stream whose next work is to run now; else NULL and how long until one is due, 0: nothing is. */
static inline struct late_stream *late_choose(struct late_device *late, double *due_s)
{
	double now_s = mt_clock_s();
	*due_s = 0;
	for (struct late_stream *s = late->streams; s; s = s->next) {
		struct late_stream *needed = s->waiters ? late_needed(s) : NULL;
		if (needed)
			return needed;
	}
	for (struct late_stream *s = late->streams; s; s = s->next) {
		struct late_stream *needed = late_needed(s);
		if (!needed)
			continue;
		double left_s = s->first->queued_s + late->delay_s - now_s;
		if (left_s <= 0)
			return needed;
		if (*due_s == 0 || left_s < *due_s)
			*due_s = left_s;
	}
	return NULL;
}

static inline enum mt_status late_run(struct mt_device *inner, struct mt_stream *on, struct late_work *w)
{
	if (w->kind == LATE_COPY && w->bytes)
		memmove(late_address(w->dst), w->staging ? w->staging : late_address(w->src), w->bytes);
	if (w->kind != LATE_OP)
		return MT_OK;
	late_translate(&w->op);
	return mt_device_enqueue(inner, on, &w->op);
}

/* With the lock held: the first work of the stream is over. */
static inline void late_finish(struct late_stream *s, struct late_work *w, enum mt_status st)
{
	s->first = w->next;
	if (!s->first)
		s->end = &s->first;
	if (w->kind == LATE_RECORD)
		w->event->done = w->generation;
	if (w->kind == LATE_MARK) {
		w->mark->time_s = mt_clock_s();
		w->mark->done = true;
	}
	if (st != MT_OK && s->failure == MT_OK) {
		s->failure = st;
		snprintf(s->message, sizeof s->message, "%s", mt_error_message());
	}
	mt_error_clear();
	free(w->staging);
	free(w);
}

static inline void late_sleep(struct late_device *late, double due_s)
{
	struct timespec until;
	if (due_s == 0) {
		pthread_cond_wait(&late->changed, &late->lock);
		return;
	}
	clock_gettime(CLOCK_REALTIME, &until);
	int64_t ns = until.tv_nsec + (int64_t)(due_s * 1e9) + 1000;
	until.tv_sec += ns / 1000000000;
	until.tv_nsec = ns % 1000000000;
	pthread_cond_timedwait(&late->changed, &late->lock, &until);
}

static inline void *late_thread(void *context)
{
	struct late_device *late = context;
	struct mt_device *inner = NULL;
	struct mt_stream *on = NULL;
	enum mt_status st = mt_device_create(&inner, &(struct mt_device_config){.kind = late->inner_kind, .threads = 1});
	if (st == MT_OK)
		st = mt_stream_create(inner, MT_STREAM_COMPUTE, "late", &on);
	pthread_mutex_lock(&late->lock);
	late->started = st;
	snprintf(late->message, sizeof late->message, "%s", mt_error_message());
	late->ready = true;
	pthread_cond_broadcast(&late->changed);
	while (!late->stop && st == MT_OK) {
		double due_s;
		struct late_stream *s = late_choose(late, &due_s);
		if (!s) {
			late_sleep(late, due_s);
			continue;
		}
		struct late_work *w = s->first;
		pthread_mutex_unlock(&late->lock);
		enum mt_status ran = late_run(inner, on, w);
		pthread_mutex_lock(&late->lock);
		late_finish(s, w, ran);
		pthread_cond_broadcast(&late->changed);
	}
	pthread_mutex_unlock(&late->lock);
	mt_stream_destroy(on);
	mt_device_destroy(inner);
	return NULL;
}

/* ---- the device's functions ---- */

static inline enum mt_status late_capture(struct late_graph *graph, const struct late_work *work)
{
	if (work->kind != LATE_OP)
		return mt_fail(MT_FAILED, "late device: work of kind %d while operations are captured", work->kind);
	if (graph->count == graph->room) {
		int room = 2 * graph->room + 8;
		struct mt_op *grown = realloc(graph->ops, (size_t)room * sizeof *grown);
		if (!grown)
			return mt_fail(MT_NOMEM, "late device: no memory");
		graph->ops = grown;
		graph->room = room;
	}
	graph->ops[graph->count++] = work->op;
	return MT_OK;
}

static inline enum mt_status late_push(struct mt_stream *stream, const struct late_work *work)
{
	struct late_device *late = late_of(stream->device);
	struct late_stream *s = stream->backend;
	if (s->capturing)
		return late_capture(s->capturing, work);
	struct late_work *w = malloc(sizeof *w);
	if (!w)
		return mt_fail(MT_NOMEM, "late device: no memory");
	*w = *work;
	w->next = NULL;
	w->queued_s = mt_clock_s();
	pthread_mutex_lock(&late->lock);
	*s->end = w;
	s->end = &w->next;
	pthread_cond_broadcast(&late->changed);
	pthread_mutex_unlock(&late->lock);
	return MT_OK;
}

static inline enum mt_status late_enqueue(struct mt_device *device, struct mt_stream *stream, const struct mt_op *op)
{
	return late_push(stream, &(struct late_work){.kind = LATE_OP, .op = *op});
}

static inline enum mt_status late_copy(struct mt_device *device, struct mt_stream *stream, void *dst, const void *src, size_t bytes)
{
	return late_push(stream, &(struct late_work){.kind = LATE_COPY, .dst = dst, .src = src, .bytes = bytes});
}

static inline enum mt_status late_upload(struct mt_device *device, struct mt_stream *stream, void *dst, const void *src,
					 size_t bytes)
{
	void *staging = malloc(bytes + 1);
	if (!staging)
		return mt_fail(MT_NOMEM, "late device: no memory");
	memcpy(staging, src, bytes);
	// cppcheck-suppress memleak
	return late_push(stream, &(struct late_work){.kind = LATE_COPY, .dst = dst, .staging = staging, .bytes = bytes});
}

/* Waits on behalf of `s` until *done, or until the stream is empty when done is NULL. */
static inline void late_await(struct late_device *late, struct late_stream *s, const bool *done)
{
	pthread_mutex_lock(&late->lock);
	s->waiters++;
	pthread_cond_broadcast(&late->changed);
	while (done ? !*done : s->first != NULL)
		pthread_cond_wait(&late->changed, &late->lock);
	s->waiters--;
	pthread_mutex_unlock(&late->lock);
}

static inline enum mt_status late_synchronize(struct mt_stream *stream)
{
	struct late_stream *s = stream->backend;
	late_await(late_of(stream->device), s, NULL);
	enum mt_status st = s->failure;
	s->failure = MT_OK;
	return st == MT_OK ? MT_OK : mt_fail(st, "%s", s->message);
}

static inline enum mt_status late_download(struct mt_device *device, struct mt_stream *stream, void *dst, const void *src,
					   size_t bytes)
{
	MT_TRY(late_synchronize(stream));
	memcpy(dst, late_address(src), bytes);
	return MT_OK;
}

static inline enum mt_status late_stream_open(struct mt_stream *stream)
{
	struct late_device *late = late_of(stream->device);
	struct late_stream *s = calloc(1, sizeof *s);
	if (!s)
		return mt_fail(MT_NOMEM, "late device: no memory");
	s->end = &s->first;
	stream->native = stream->backend = s;
	pthread_mutex_lock(&late->lock);
	s->next = late->streams;
	late->streams = s;
	pthread_mutex_unlock(&late->lock);
	return MT_OK;
}

static inline void late_stream_close(struct mt_stream *stream)
{
	struct late_device *late = late_of(stream->device);
	struct late_stream **at = &late->streams;
	pthread_mutex_lock(&late->lock);
	while (*at != stream->backend)
		at = &(*at)->next;
	*at = (*at)->next;
	pthread_mutex_unlock(&late->lock);
	free(stream->backend);
}

static inline enum mt_status late_event_open(struct mt_event *event)
{
	event->native = calloc(1, sizeof(struct late_event));
	return event->native ? MT_OK : mt_fail(MT_NOMEM, "late device: no memory");
}

/* Work that is still queued may name the event: a real device keeps it until then, here the streams must be idle. */
static inline void late_event_close(struct mt_event *event)
{
	struct late_event *e = event->native;
	struct late_device *late = late_of(event->device);
	pthread_mutex_lock(&late->lock);
	for (bool used = true; used;) {
		used = false;
		for (struct late_stream *s = late->streams; s; s = s->next)
			for (struct late_work *w = s->first; w; w = w->next)
				used = used || ((w->kind == LATE_RECORD || w->kind == LATE_WAIT) && w->event == e);
		if (used)
			pthread_cond_wait(&late->changed, &late->lock);
	}
	pthread_mutex_unlock(&late->lock);
	free(e);
}

static inline enum mt_status late_event_record(struct mt_event *event, struct mt_stream *stream)
{
	struct late_event *e = event->native;
	pthread_mutex_lock(&late_of(stream->device)->lock);
	uint64_t generation = ++e->recorded;
	e->stream = stream->backend;
	pthread_mutex_unlock(&late_of(stream->device)->lock);
	return late_push(stream, &(struct late_work){.kind = LATE_RECORD, .event = e, .generation = generation});
}

static inline enum mt_status late_event_wait(struct mt_stream *stream, struct mt_event *event)
{
	struct late_event *e = event->native;
	return late_push(stream, &(struct late_work){.kind = LATE_WAIT, .event = e, .generation = e->recorded});
}

static inline enum mt_status late_event_over(struct mt_event *event, bool *over)
{
	struct late_event *e = event->native;
	struct late_device *late = late_of(event->device);
	pthread_mutex_lock(&late->lock);
	*over = e->done >= e->recorded;
	pthread_mutex_unlock(&late->lock);
	return MT_OK;
}

static inline enum mt_status late_fetch(struct mt_device *device, void *dst, const void *src, size_t bytes)
{
	memcpy(dst, late_address(src), bytes);
	return MT_OK;
}

static inline enum mt_status late_store(struct mt_device *device, void *dst, const void *src, size_t bytes)
{
	memcpy(late_address(dst), src, bytes);
	return MT_OK;
}

static inline enum mt_status late_mark_set(struct mt_stream *stream, struct mt_mark *mark)
{
	struct late_mark *m = calloc(1, sizeof *m);
	if (!m)
		return mt_fail(MT_NOMEM, "late device: no memory");
	mark->native = m;
	return late_push(stream, &(struct late_work){.kind = LATE_MARK, .mark = m});
}

static inline enum mt_status late_mark_read(struct mt_device *device, struct mt_mark *mark)
{
	struct late_mark *m = mark->native;
	late_await(late_of(device), mark->stream->backend, &m->done);
	mark->time_s = m->time_s;
	mark->native = NULL;
	free(m);
	return MT_OK;
}

static inline void late_graph_free(struct mt_stream *stream, void *graph)
{
	struct late_graph *g = graph;
	free(g->ops);
	free(g);
}

static inline enum mt_status late_capture_begin(struct mt_stream *stream)
{
	struct late_stream *s = stream->backend;
	s->capturing = calloc(1, sizeof *s->capturing);
	return s->capturing ? MT_OK : mt_fail(MT_NOMEM, "late device: no memory");
}

static inline enum mt_status late_capture_end(struct mt_stream *stream, enum mt_status st, void **graph)
{
	struct late_stream *s = stream->backend;
	struct late_device *late = late_of(stream->device);
	*graph = s->capturing;
	s->capturing = NULL;
	if (st == MT_OK && late->refuse > 0 && late->refuse--)
		st = mt_fail(MT_FAILED, "late device: told to refuse");
	if (st != MT_OK) {
		late_graph_free(stream, *graph);
		*graph = NULL;
	}
	return st;
}

static inline enum mt_status late_graph_launch(struct mt_stream *stream, void *graph)
{
	const struct late_graph *g = graph;
	for (int i = 0; i < g->count; i++)
		MT_TRY(late_push(stream, &(struct late_work){.kind = LATE_OP, .op = g->ops[i]}));
	return MT_OK;
}

static inline enum mt_status late_reserve(void *context, size_t bytes, void **base)
{
	MT_TRY(mt_arena_host.reserve(NULL, bytes, base));
	*base = (void *)(uintptr_t)((uint64_t)(uintptr_t)*base | LATE_TAG);
	return MT_OK;
}

static inline void late_release(void *context, void *base, size_t bytes)
{
	mt_arena_host.release(NULL, late_address(base), bytes);
}

static inline const struct mt_arena_backing *late_memory(struct mt_device *device)
{
	return &late_of(device)->memory;
}

static inline void late_close(struct mt_device *device)
{
	struct late_device *late = late_of(device);
	pthread_mutex_lock(&late->lock);
	late->stop = true;
	pthread_cond_broadcast(&late->changed);
	pthread_mutex_unlock(&late->lock);
	pthread_join(late->thread, NULL);
	pthread_cond_destroy(&late->changed);
	pthread_mutex_destroy(&late->lock);
	free(late);
}

/* config->kind: of the host device that runs the operations; config->local_rank: delay in milliseconds. */
static inline enum mt_status late_open(struct mt_device *device, const struct mt_device_config *config)
{
	struct late_device *late = calloc(1, sizeof *late);
	if (!late)
		return mt_fail(MT_NOMEM, "late device: no memory");
	pthread_mutex_init(&late->lock, NULL);
	pthread_cond_init(&late->changed, NULL);
	late->inner_kind = config->kind;
	late->delay_s = config->local_rank * 1e-3;
	late->memory = (struct mt_arena_backing){.name = "late", .reserve = late_reserve, .release = late_release};
	device->backend = late;
	if (pthread_create(&late->thread, NULL, late_thread, late)) {
		free(late);
		return mt_fail(MT_FAILED, "late device: no thread");
	}
	pthread_mutex_lock(&late->lock);
	while (!late->ready)
		pthread_cond_wait(&late->changed, &late->lock);
	enum mt_status st = late->started;
	pthread_mutex_unlock(&late->lock);
	if (st == MT_OK)
		return MT_OK;
	mt_fail(st, "%s", late->message);
	late_close(device);
	return st;
}

static const struct mt_async_ops late_async = {
	.stream_open = late_stream_open,
	.stream_close = late_stream_close,
	.stream_synchronize = late_synchronize,
	.event_open = late_event_open,
	.event_close = late_event_close,
	.event_record = late_event_record,
	.event_wait = late_event_wait,
	.event_over = late_event_over,
	.fetch = late_fetch,
	.store = late_store,
	.mark = late_mark_set,
	.mark_read = late_mark_read,
	.capture_begin = late_capture_begin,
	.capture_end = late_capture_end,
	.graph_launch = late_graph_launch,
	.graph_free = late_graph_free,
};

static const struct mt_device_ops late_ops = {
	.kind = "late",
	.open = late_open,
	.close = late_close,
	.enqueue = late_enqueue,
	.upload = late_upload,
	.download = late_download,
	.copy = late_copy,
	.memory = late_memory,
	.async = &late_async,
};

/* A device that runs what `inner` ("cpu", "reference") would, each piece `delay_ms` late at least unless it is waited for. */
static inline enum mt_status late_device_create(struct mt_device **device, const char *inner, int delay_ms)
{
	return mt_device_create_from(device, &late_ops, &(struct mt_device_config){.kind = inner, .local_rank = delay_ms});
}

#endif
