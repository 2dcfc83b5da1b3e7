/* trace: times work for the device's sink.
 *
 * On a host device work is over when the call returns, and the sink is told at once. On a device that runs behind the host
 * work lies between two marks; it waits in a list until its stream is known to be idle, which is when the host has waited
 * for it anyway, so that tracing adds no wait of its own. */
#include "kernels/backends.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_PENDING 65536 /* then the stream is waited for: a step has some thousand */

struct mt_trace_pending {
	struct mt_trace_pending *next;
	struct mt_stream *stream;
	struct mt_mark start, end;
	struct mt_trace_event event;
	struct mt_op_key key;
	char group[16];
};

enum mt_status mt_trace_begin(struct mt_stream *stream, struct mt_mark *start)
{
	*start = (struct mt_mark){0};
	return stream->device->trace ? mt_stream_mark(stream, start) : MT_OK;
}

static enum mt_status tell(struct mt_device *device, struct mt_mark *start, struct mt_mark *end, struct mt_trace_event *event)
{
	MT_TRY(mt_mark_read(start, &event->start_s));
	MT_TRY(mt_mark_read(end, &event->end_s));
	if (device->trace)
		device->trace(device->trace_context, event);
	return MT_OK;
}

static enum mt_status append(struct mt_stream *stream, const struct mt_mark *start, const struct mt_mark *end,
			     const struct mt_trace_event *event)
{
	struct mt_device *device = stream->device;
	struct mt_trace_pending *made = malloc(sizeof *made);
	if (!made)
		return mt_fail(MT_NOMEM, "no memory to trace %s", event->name);
	*made = (struct mt_trace_pending){.stream = stream, .start = *start, .end = *end, .event = *event};
	if (event->key)
		made->key = *event->key;
	snprintf(made->group, sizeof made->group, "%s", event->group ? event->group : "");
	made->event.key = event->key ? &made->key : NULL;
	made->event.group = event->group ? made->group : NULL;
	made->event.stream = stream->name;
	*(device->pending ? device->pending_end : &device->pending) = made;
	device->pending_end = &made->next;
	return ++device->pending_count < MOST_PENDING ? MT_OK : mt_stream_synchronize(stream);
}

enum mt_status mt_trace_end(struct mt_stream *stream, struct mt_mark *start, const struct mt_trace_event *event)
{
	if (!start->stream)
		return MT_OK;
	struct mt_mark end;
	MT_TRY(mt_stream_mark(stream, &end));
	if (stream->device->ops->async)
		return append(stream, start, &end, event);
	struct mt_trace_event told = *event;
	told.stream = stream->name;
	return tell(stream->device, start, &end, &told);
}

/* Takes the pending work of `stream` out of the list; tells it when `telling`. */
static enum mt_status take(struct mt_stream *stream, bool telling)
{
	struct mt_device *device = stream->device;
	enum mt_status st = MT_OK;
	struct mt_trace_pending **at = &device->pending;
	while (*at) {
		struct mt_trace_pending *p = *at;
		if (p->stream != stream) {
			at = &p->next;
			continue;
		}
		*at = p->next;
		device->pending_count--;
		if (telling && st == MT_OK)
			st = tell(device, &p->start, &p->end, &p->event);
		free(p);
	}
	device->pending_end = at;
	return st;
}

enum mt_status mt_trace_flush(struct mt_stream *stream)
{
	return take(stream, true);
}

void mt_trace_drop(struct mt_stream *stream)
{
	take(stream, false);
}

void mt_device_set_trace(struct mt_device *device, mt_trace_sink sink, void *context)
{
	/* Waiting for a stream empties the list of its work. A stream that fails is reported by its next user. */
	while (device->pending) {
		struct mt_stream *stream = device->pending->stream;
		if (mt_stream_synchronize(stream) != MT_OK)
			mt_trace_drop(stream);
	}
	device->trace = sink;
	device->trace_context = context;
}
