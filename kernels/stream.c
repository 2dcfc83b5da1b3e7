/* stream: work in order, and events between streams.
 *
 * On a host device kernels are over when their call returns, so only asynchronous work (collectives) is ever waited
 * for. Each piece gets a ticket, 1, 2, ...; a stream runs its work in order, so a ticket that ended ends all before it,
 * and an event is a stream and the last ticket issued when it was recorded. Tickets are issued by the device's thread
 * and ended by the fabric's.
 *
 * A device that runs behind the host has streams and events of its own, behind the entries of ops->async; tickets stay for
 * what a fabric's thread does on its streams.
 *
 * On a virtual clock a stream is one number, when all its work is over, and an event is that number. The host is ahead
 * of the device until it waits: device->virtual_start_s is when the host last saw work over, and nothing enqueued after
 * that may start before it. A rehearsal's clock has a pace: the host then sleeps until what it has waited for is over. */
#include "kernels/device.h"

#include "base/clock.h"
#include "kernels/backends.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

/* Waits are often for what takes microseconds, and to sleep and wake costs about that much twice. Between looks the processor is
 * given away: with more ranks than processors whoever is waited for may need it. */
#define SPIN_NS     20000
#define SPIN_PAUSES 16

enum mt_status mt_stream_create(struct mt_device *device, enum mt_stream_kind kind, const char *name, struct mt_stream **stream)
{
	*stream = NULL;
	struct mt_stream *made = calloc(1, sizeof *made);
	if (!made)
		return mt_fail(MT_NOMEM, "stream '%s': out of memory", name);
	made->device = device;
	made->kind = kind;
	snprintf(made->name, sizeof made->name, "%s", name);
	made->clock_s = device->virtual_start_s;
	if (pthread_mutex_init(&made->lock, NULL) || pthread_cond_init(&made->changed, NULL)) {
		free(made);
		return mt_fail(MT_NOMEM, "stream '%s': the system gives no more locks", name);
	}
	enum mt_status st = device->ops->async ? device->ops->async->stream_open(made) : MT_OK;
	if (st != MT_OK) {
		pthread_cond_destroy(&made->changed);
		pthread_mutex_destroy(&made->lock);
		free(made);
		return st;
	}
	*stream = made;
	return MT_OK;
}

/* Pairs with the release in mt_stream_async_end: what the work wrote, and its failure, are visible after it. */
static bool reached(const struct mt_stream *stream, uint64_t ticket)
{
	return __atomic_load_n(&stream->completed, __ATOMIC_ACQUIRE) >= ticket;
}

static inline void pause_briefly(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

static bool spin(const struct mt_stream *stream, uint64_t ticket)
{
	uint64_t end_ns = mt_clock_ns() + SPIN_NS;
	do {
		for (int i = 0; i < SPIN_PAUSES; i++) {
			if (reached(stream, ticket))
				return true;
			pause_briefly();
		}
		sched_yield();
	} while (mt_clock_ns() < end_ns);
	return false;
}

static void await_ticket(struct mt_stream *stream, uint64_t ticket)
{
	if (reached(stream, ticket) || spin(stream, ticket))
		return;
	pthread_mutex_lock(&stream->lock);
	while (!reached(stream, ticket))
		pthread_cond_wait(&stream->changed, &stream->lock);
	pthread_mutex_unlock(&stream->lock);
}

/* Moves the failure from the stream to the record of the waiting thread. */
static enum mt_status take_failure(struct mt_stream *stream)
{
	pthread_mutex_lock(&stream->lock);
	enum mt_status st = stream->failure;
	if (st != MT_OK)
		mt_fail(st, "%s", stream->failure_message);
	__atomic_store_n(&stream->failure, MT_OK, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&stream->lock);
	return st;
}

enum mt_status mt_stream_wait_ticket(struct mt_stream *stream, uint64_t ticket)
{
	await_ticket(stream, ticket);
	if (__atomic_load_n(&stream->failure, __ATOMIC_RELAXED) == MT_OK)
		return MT_OK;
	return take_failure(stream);
}

void mt_stream_destroy(struct mt_stream *stream)
{
	if (!stream)
		return;
	while (stream->deferred) {
		struct mt_deferred *next = stream->deferred->next;

		stream->deferred->drop(stream->deferred);
		stream->deferred = next;
	}
	if (stream->device->info.real_time)
		await_ticket(stream, stream->issued);
	mt_graphs_forget(stream);
	if (stream->device->ops->async) {
		mt_stream_synchronize(stream); /* a failure stays recorded; there is nobody to return it to */
		mt_trace_drop(stream);
		mt_graphs_close(stream);
		stream->device->ops->async->stream_close(stream);
	}
	/* The thread that ended the last ticket may still be inside its unlock. */
	pthread_mutex_lock(&stream->lock);
	pthread_mutex_unlock(&stream->lock);
	pthread_cond_destroy(&stream->changed);
	pthread_mutex_destroy(&stream->lock);
	free(stream);
}

enum mt_status mt_stream_synchronize(struct mt_stream *stream)
{
	struct mt_device *device = stream->device;
	MT_TRY(mt_stream_flush(stream));
	if (device->info.real_time)
		MT_TRY(mt_stream_wait_ticket(stream, stream->issued));
	if (device->ops->async) {
		MT_TRY(device->ops->async->stream_synchronize(stream));
		/* What a fabric found meanwhile: the work ended because it was aborted. */
		MT_TRY(mt_stream_wait_ticket(stream, stream->issued));
		mt_graphs_idle(stream);
		return mt_trace_flush(stream);
	}
	if (device->info.real_time)
		return MT_OK;
	MT_TRY(mt_stream_settle(stream, stream->issued));
	if (device->virtual_start_s < stream->clock_s)
		device->virtual_start_s = stream->clock_s;
	mt_device_sleep_until(device, device->virtual_start_s);
	return MT_OK;
}

double mt_stream_now_s(struct mt_stream *stream)
{
	if (stream->device->ops->async)
		mt_stream_synchronize(stream);
	if (stream->device->info.real_time)
		return mt_clock_s();
	/* A failure stays recorded and is returned by whoever waits for the work. */
	if (stream->deferred)
		mt_stream_settle(stream, stream->issued);
	return stream->clock_s;
}

void *mt_stream_native(struct mt_stream *stream)
{
	return stream->native;
}

enum mt_status mt_stream_mark(struct mt_stream *stream, struct mt_mark *mark)
{
	*mark = (struct mt_mark){.stream = stream};
	MT_TRY(mt_stream_flush(stream));
	if (stream->device->ops->async)
		return stream->device->ops->async->mark(stream, mark);
	mark->time_s = mt_stream_now_s(stream);
	return MT_OK;
}

enum mt_status mt_mark_read(struct mt_mark *mark, double *time_s)
{
	if (mark->native)
		MT_TRY(mark->stream->device->ops->async->mark_read(mark->stream->device, mark));
	*time_s = mark->time_s;
	return MT_OK;
}

uint64_t mt_stream_async_begin(struct mt_stream *stream)
{
	return ++stream->issued;
}

void mt_stream_async_end(struct mt_stream *stream, uint64_t ticket, enum mt_status status, const char *message)
{
	pthread_mutex_lock(&stream->lock);
	if (status != MT_OK && stream->failure == MT_OK) {
		snprintf(stream->failure_message, sizeof stream->failure_message, "%s", message ? message : mt_status_name(status));
		__atomic_store_n(&stream->failure, status, __ATOMIC_RELAXED);
	}
	if (ticket > stream->completed)
		__atomic_store_n(&stream->completed, ticket, __ATOMIC_RELEASE);
	pthread_cond_broadcast(&stream->changed);
	pthread_mutex_unlock(&stream->lock);
}

double mt_stream_advance(struct mt_stream *stream, double not_before_s, double seconds)
{
	double start_s = stream->clock_s;
	if (start_s < stream->device->virtual_start_s)
		start_s = stream->device->virtual_start_s;
	if (start_s < not_before_s)
		start_s = not_before_s;
	stream->clock_s = start_s + seconds;
	return stream->clock_s;
}

void mt_stream_defer(struct mt_stream *stream, struct mt_deferred *deferred)
{
	struct mt_deferred **last = &stream->deferred;

	while (*last)
		last = &(*last)->next;
	deferred->next = NULL;
	deferred->ticket = ++stream->issued;
	*last = deferred;
}

/* The work starts after its predecessor and after what the stream had waited for when it was posted (kept by the fabric),
 * not after what the stream waited for since. */
enum mt_status mt_stream_settle(struct mt_stream *stream, uint64_t ticket)
{
	while (stream->deferred && stream->deferred->ticket <= ticket) {
		struct mt_deferred *first = stream->deferred;
		double end_s = stream->settled_s;

		stream->deferred = first->next;
		MT_TRY(first->settle(first, stream, stream->settled_s, &end_s));
		stream->settled_s = end_s;
		if (stream->clock_s < end_s)
			stream->clock_s = end_s;
	}
	return MT_OK;
}

enum mt_status mt_event_create(struct mt_device *device, struct mt_event **event)
{
	struct mt_event *made = calloc(1, sizeof *made);

	*event = NULL;
	if (!made)
		return mt_fail(MT_NOMEM, "event of device '%s': out of memory", device->info.kind);
	made->device = device;
	enum mt_status st = device->ops->async ? device->ops->async->event_open(made) : MT_OK;
	if (st != MT_OK) {
		free(made);
		return st;
	}
	*event = made;
	return MT_OK;
}

void mt_event_destroy(struct mt_event *event)
{
	if (event && event->device->ops->async)
		event->device->ops->async->event_close(event);
	free(event);
}

enum mt_status mt_event_record(struct mt_event *event, struct mt_stream *stream)
{
	MT_TRY(mt_stream_flush(stream));
	event->stream = stream;
	event->ticket = stream->issued;
	event->deferred = stream->deferred != NULL;
	event->time_s = stream->device->info.real_time ? mt_clock_s() : stream->clock_s;
	return stream->device->ops->async ? stream->device->ops->async->event_record(event, stream) : MT_OK;
}

enum mt_status mt_stream_wait(struct mt_stream *stream, struct mt_event *event)
{
	if (!event->stream)
		return MT_OK;
	MT_TRY(mt_stream_flush(stream));
	if (stream->device->info.real_time)
		MT_TRY(mt_stream_wait_ticket(event->stream, event->ticket));
	if (stream->device->ops->async)
		return stream->device->ops->async->event_wait(stream, event);
	if (stream->device->info.real_time)
		return MT_OK;
	if (event->deferred) {
		MT_TRY(mt_stream_settle(event->stream, event->ticket));
		if (event->time_s < event->stream->settled_s)
			event->time_s = event->stream->settled_s;
		event->deferred = false;
	}
	if (stream->clock_s < event->time_s)
		stream->clock_s = event->time_s;
	return MT_OK;
}

enum mt_status mt_event_over(struct mt_event *event, bool *over)
{
	*over = !event->stream || reached(event->stream, event->ticket);
	if (!*over || !event->stream || !event->device->ops->async)
		return MT_OK;
	return event->device->ops->async->event_over(event, over);
}
