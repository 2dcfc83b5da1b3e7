/* trace: see trace.h. */
#include "engine/trace.h"

#include "base/json.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct mt_trace {
	struct mt_device *device;
	pthread_mutex_t lock;
	struct mt_span *spans; /* owned */
	int count, capacity;
	bool lost; /* a span could not be kept */
	double start_s;
};

static void collect(void *context, const struct mt_trace_event *event)
{
	struct mt_trace *t = context;
	struct mt_span *span;

	pthread_mutex_lock(&t->lock);
	if (t->count == t->capacity) {
		int capacity = t->capacity ? 2 * t->capacity : 4096;
		struct mt_span *grown = realloc(t->spans, (size_t)capacity * sizeof *grown);

		if (!grown) {
			t->lost = true;
			goto out;
		}
		t->spans = grown;
		t->capacity = capacity;
	}
	if (t->count == 0 || event->start_s < t->start_s)
		t->start_s = event->start_s;
	span = &t->spans[t->count++];
	memset(span, 0, sizeof *span);
	snprintf(span->name, sizeof span->name, "%s%s%s", event->name, event->group ? " " : "", event->group ? event->group : "");
	snprintf(span->stream, sizeof span->stream, "%s", event->stream);
	span->collective = event->key == NULL;
	span->start_s = event->start_s;
	span->end_s = event->end_s;
out:
	pthread_mutex_unlock(&t->lock);
}

enum mt_status mt_trace_start(struct mt_trace **trace, struct mt_device *device)
{
	struct mt_trace *t = calloc(1, sizeof *t);

	if (!t)
		return mt_fail(MT_NOMEM, "no memory for a trace");
	pthread_mutex_init(&t->lock, NULL);
	t->device = device;
	mt_device_set_trace(device, collect, t);
	*trace = t;
	return MT_OK;
}

void mt_trace_stop(struct mt_trace *trace)
{
	if (!trace || !trace->device)
		return;
	mt_device_set_trace(trace->device, NULL, NULL);
	trace->device = NULL;
	for (int i = 0; i < trace->count; i++) {
		trace->spans[i].start_s -= trace->start_s;
		trace->spans[i].end_s -= trace->start_s;
	}
}

void mt_trace_destroy(struct mt_trace *trace)
{
	if (!trace)
		return;
	mt_trace_stop(trace);
	pthread_mutex_destroy(&trace->lock);
	free(trace->spans);
	free(trace);
}

const struct mt_span *mt_trace_spans(const struct mt_trace *trace, int *count)
{
	*count = trace->count;
	return trace->spans;
}

static void append_events(json_t *events, const struct mt_span *spans, int count, int rank)
{
	for (int i = 0; i < count; i++) {
		json_t *event = json_object();

		json_object_set_new(event, "name", json_string(spans[i].name));
		json_object_set_new(event, "cat", json_string(spans[i].collective ? "collective" : "kernel"));
		json_object_set_new(event, "ph", json_string("X"));
		json_object_set_new(event, "pid", json_integer(rank));
		json_object_set_new(event, "tid", json_string(spans[i].stream));
		json_object_set_new(event, "ts", json_real(spans[i].start_s * 1e6));
		json_object_set_new(event, "dur", json_real((spans[i].end_s - spans[i].start_s) * 1e6));
		json_array_append_new(events, event);
	}
}

enum mt_status mt_trace_write(struct mt_trace *trace, struct mt_group *world, const char *path)
{
	int size = mt_group_size(world);
	double count = trace->count;
	size_t bytes;
	struct mt_span *mine = NULL, *all = NULL;
	json_t *root = NULL, *events;
	enum mt_status st;

	if (trace->lost)
		return mt_fail(MT_NOMEM, "no memory for all spans of the trace");
	/* Every rank sends as many spans as the longest trace has; the rest stay empty. */
	MT_TRY(mt_comm_host_all_reduce(world, &count, 1, MT_MAX));
	bytes = ((size_t)count + 1) * sizeof *mine;
	mine = calloc(1, bytes);
	all = malloc(bytes * (size_t)size);
	if (!mine || !all) {
		st = mt_fail(MT_NOMEM, "no memory to gather the trace of %d ranks", size);
		goto out;
	}
	memcpy(mine, trace->spans, (size_t)trace->count * sizeof *mine);
	MT_GOTO(out, mt_comm_host_all_gather(world, mine, all, bytes));
	if (mt_group_rank(world) != 0)
		goto out;
	root = json_object();
	events = json_array();
	json_object_set_new(root, "traceEvents", events);
	for (int rank = 0; rank < size; rank++) {
		const struct mt_span *spans = all + (size_t)rank * ((size_t)count + 1);
		int n = 0;

		while (n < (int)count && spans[n].name[0])
			n++;
		append_events(events, spans, n, rank);
	}
	st = mt_json_save(root, path);
	json_decref(root);
out:
	free(all);
	free(mine);
	return st;
}
