/* A device whose streams are threads, for the double of NCCL (nccl_double.c): memory is the host's, work is enqueued and run in
 * order by the stream's thread, and a stream's native handle is what the double is given as its cudaStream_t. */
#ifndef TESTS_NCCL_DOUBLE_H
#define TESTS_NCCL_DOUBLE_H

#include "base/clock.h"
#include "kernels/device.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct threaded_work {
	struct threaded_work *next;
	void (*run)(void *context);
	void *context;
};

struct threaded_stream {
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct threaded_work *first, **end;
	bool stop;
};

static inline void *threaded_loop(void *context)
{
	struct threaded_stream *s = context;
	pthread_mutex_lock(&s->lock);
	for (;;) {
		struct threaded_work *w = s->first;
		if (!w && s->stop)
			break;
		if (!w) {
			pthread_cond_wait(&s->changed, &s->lock);
			continue;
		}
		pthread_mutex_unlock(&s->lock);
		w->run(w->context);
		pthread_mutex_lock(&s->lock);
		s->first = w->next;
		if (!s->first)
			s->end = &s->first;
		free(w);
		pthread_cond_broadcast(&s->changed);
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

static inline void threaded_push(struct threaded_stream *s, void (*run)(void *context), void *context)
{
	struct threaded_work *w = calloc(1, sizeof *w);
	if (!w)
		abort();
	w->run = run;
	w->context = context;
	pthread_mutex_lock(&s->lock);
	*s->end = w;
	s->end = &w->next;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
}

static inline enum mt_status threaded_stream_open(struct mt_stream *stream)
{
	struct threaded_stream *s = calloc(1, sizeof *s);
	if (!s)
		return mt_fail(MT_NOMEM, "threaded device: no memory");
	s->end = &s->first;
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->changed, NULL);
	if (pthread_create(&s->thread, NULL, threaded_loop, s))
		abort();
	stream->native = s;
	return MT_OK;
}

static inline void threaded_stream_close(struct mt_stream *stream)
{
	struct threaded_stream *s = stream->native;
	pthread_mutex_lock(&s->lock);
	s->stop = true;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	pthread_join(s->thread, NULL);
	pthread_cond_destroy(&s->changed);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

static inline enum mt_status threaded_synchronize(struct mt_stream *stream)
{
	struct threaded_stream *s = stream->native;
	pthread_mutex_lock(&s->lock);
	while (s->first)
		pthread_cond_wait(&s->changed, &s->lock);
	pthread_mutex_unlock(&s->lock);
	return MT_OK;
}

/* A point in a stream's work; an event is the one it was recorded at last. Held by the event, by what reaches it, and by waits. */
struct threaded_point {
	_Atomic int reached, holders;
};

struct threaded_event {
	pthread_mutex_t lock;
	struct threaded_point *last; /* NULL: never recorded */
};

static inline void threaded_drop(struct threaded_point *point)
{
	if (point && atomic_fetch_sub(&point->holders, 1) == 1)
		free(point);
}

static inline enum mt_status threaded_event_open(struct mt_event *event)
{
	struct threaded_event *e = calloc(1, sizeof *e);
	if (!e)
		return mt_fail(MT_NOMEM, "threaded device: no memory");
	pthread_mutex_init(&e->lock, NULL);
	event->native = e;
	return MT_OK;
}

static inline void threaded_event_close(struct mt_event *event)
{
	struct threaded_event *e = event->native;
	threaded_drop(e->last);
	pthread_mutex_destroy(&e->lock);
	free(e);
}

static inline void threaded_reach(void *context)
{
	struct threaded_point *point = context;
	atomic_store(&point->reached, 1);
	threaded_drop(point);
}

static inline void threaded_hold(void *context)
{
	struct threaded_point *point = context;
	while (!atomic_load(&point->reached))
		mt_clock_sleep(2e-5);
	threaded_drop(point);
}

static inline enum mt_status threaded_event_record(struct mt_event *event, struct mt_stream *stream)
{
	struct threaded_event *e = event->native;
	struct threaded_point *point = calloc(1, sizeof *point);
	if (!point)
		return mt_fail(MT_NOMEM, "threaded device: no memory");
	atomic_store(&point->holders, 2);
	pthread_mutex_lock(&e->lock);
	threaded_drop(e->last);
	e->last = point;
	pthread_mutex_unlock(&e->lock);
	threaded_push(stream->native, threaded_reach, point);
	return MT_OK;
}

/* The point it has now, with one more holder. */
static inline struct threaded_point *threaded_take(struct mt_event *event)
{
	struct threaded_event *e = event->native;
	pthread_mutex_lock(&e->lock);
	struct threaded_point *point = e->last;
	if (point)
		atomic_fetch_add(&point->holders, 1);
	pthread_mutex_unlock(&e->lock);
	return point;
}

static inline enum mt_status threaded_event_wait(struct mt_stream *stream, struct mt_event *event)
{
	struct threaded_point *point = threaded_take(event);
	if (point)
		threaded_push(stream->native, threaded_hold, point);
	return MT_OK;
}

static inline enum mt_status threaded_event_over(struct mt_event *event, bool *over)
{
	struct threaded_point *point = threaded_take(event);
	*over = !point || atomic_load(&point->reached);
	threaded_drop(point);
	return MT_OK;
}

static inline enum mt_status threaded_open(struct mt_device *device, const struct mt_device_config *config)
{
	return MT_OK;
}

static inline void threaded_close(struct mt_device *device)
{
}

static inline enum mt_status threaded_copy(struct mt_device *device, struct mt_stream *stream, void *dst, const void *src,
					   size_t bytes)
{
	MT_TRY(threaded_synchronize(stream));
	memmove(dst, src, bytes);
	return MT_OK;
}

static const struct mt_async_ops threaded_async = {
	.stream_open = threaded_stream_open,
	.stream_close = threaded_stream_close,
	.stream_synchronize = threaded_synchronize,
	.event_open = threaded_event_open,
	.event_close = threaded_event_close,
	.event_record = threaded_event_record,
	.event_wait = threaded_event_wait,
	.event_over = threaded_event_over,
};

static const struct mt_device_ops threaded_ops = {
	.kind = "threaded",
	.open = threaded_open,
	.close = threaded_close,
	.upload = threaded_copy,
	.download = threaded_copy,
	.copy = threaded_copy,
	.async = &threaded_async,
};

#endif
