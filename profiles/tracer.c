/* tracer: the choice of a way to time operations, and the numbers under which operations are known to the records. */
#include "profiles/tracer.h"

#include "base/plugin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct asked {
	struct mt_op_key key;
	char stream[16];
};

struct mt_tracer {
	struct mt_device *device;
	const struct mt_tracer_ops *ops; /* NULL: the device's own trace */
	mt_trace_sink sink, sink_before;
	void *context, *context_before;
	char method[320];
	/* Operation number first + i is asked[i]. Those already collected are dropped. */
	struct asked *asked; /* owned */
	uint64_t first;
	size_t count, capacity;
	bool marked; /* begin pushed a number that end must pop */
	struct mt_activity_log log;
	struct mt_activity_totals totals;
};

static void begin(void *context, const struct mt_op *op, const struct mt_stream *stream)
{
	struct mt_tracer *t = context;
	t->marked = false;
	if (t->count == t->capacity) {
		size_t capacity = t->capacity ? 2 * t->capacity : 1024;
		struct asked *grown = realloc(t->asked, capacity * sizeof *grown);
		if (!grown)
			return; /* its work shows up as unattributed */
		t->asked = grown;
		t->capacity = capacity;
	}
	struct asked *asked = &t->asked[t->count];
	mt_op_key(op, &asked->key);
	snprintf(asked->stream, sizeof asked->stream, "%s", stream->name);
	t->ops->push(t->first + t->count++);
	t->marked = true;
}

static void end(void *context)
{
	struct mt_tracer *t = context;
	if (t->marked)
		t->ops->pop();
	t->marked = false;
}

bool mt_tracer_intercepts(const struct mt_device *device)
{
	return strcmp(device->info.kind, "cuda") == 0;
}

/* CUPTI for cuda where it may be used; else why not is kept in the method's name. */
static void choose(struct mt_tracer *t, const struct mt_tracer_ops *ops)
{
	const void *table = ops;
	if (!ops && !mt_tracer_intercepts(t->device)) {
		snprintf(t->method, sizeof t->method, "%s", t->device->info.real_time ? "host clock" : "virtual clock");
		return;
	}
	enum mt_status st = ops ? MT_OK : mt_plugin_open("cupti", MT_TRACER_ABI, &table);
	if (st == MT_OK)
		st = ((const struct mt_tracer_ops *)table)->open();
	if (st == MT_OK) {
		t->ops = table;
		snprintf(t->method, sizeof t->method, "%s", t->ops->name);
		return;
	}
	snprintf(t->method, sizeof t->method, "device events (CUPTI refused: %s)", mt_error_message());
	mt_error_clear();
}

enum mt_status mt_tracer_start(struct mt_tracer **tracer, struct mt_device *device, const struct mt_tracer_ops *ops,
			       mt_trace_sink sink, void *context)
{
	struct mt_tracer *t = calloc(1, sizeof *t);
	*tracer = NULL;
	if (!t)
		return mt_fail(MT_NOMEM, "out of memory for a tracer");
	t->device = device;
	t->first = 1;
	t->sink = sink;
	t->context = context;
	t->sink_before = device->trace;
	t->context_before = device->trace_context;
	choose(t, ops);
	if (t->ops) {
		struct mt_device_observer observer = {.begin = begin, .end = end, .context = t};
		mt_device_set_trace(device, NULL, NULL);
		mt_device_set_observer(device, &observer);
	} else {
		mt_device_set_trace(device, sink, context);
	}
	*tracer = t;
	return MT_OK;
}

static void deliver(struct mt_tracer *t, const struct mt_activity_span *span)
{
	uint64_t i = span->operation - t->first;
	if (span->operation < t->first || i >= t->count)
		return;
	struct mt_trace_event event = {
		.name = mt_op_name((enum mt_op_kind)t->asked[i].key.kind),
		.key = &t->asked[i].key,
		.stream = t->asked[i].stream,
	};
	/* The length is what must be exact: in a double a clock of 1e18 ns has no nanoseconds left. So the seconds start again
	 * every 1000. */
	event.start_s = (double)(span->start_ns % 1000000000000ull) * 1e-9;
	event.end_s = event.start_s + (double)(span->end_ns - span->start_ns) * 1e-9;
	t->sink(t->context, &event);
}

enum mt_status mt_tracer_collect(struct mt_tracer *t)
{
	struct mt_activity_span *spans = NULL;
	struct mt_activity_totals totals;
	size_t count = 0;
	if (!t->ops)
		return MT_OK;
	MT_TRY(t->ops->flush(&t->log));
	MT_TRY(mt_activity_attribute(&t->log, &spans, &count, &totals));
	for (size_t i = 0; i < count; i++)
		deliver(t, &spans[i]);
	free(spans);
	mt_activity_add_totals(&t->totals, &totals);
	mt_activity_clear(&t->log);
	t->first += t->count;
	t->count = 0;
	return MT_OK;
}

void mt_tracer_stop(struct mt_tracer *t)
{
	if (!t)
		return;
	mt_device_set_observer(t->device, NULL);
	if (t->ops)
		t->ops->close();
	mt_device_set_trace(t->device, t->sink_before, t->context_before);
	mt_activity_free(&t->log);
	free(t->asked);
	free(t);
}

const char *mt_tracer_method(const struct mt_tracer *t)
{
	return t->method;
}

bool mt_tracer_totals(const struct mt_tracer *t, struct mt_activity_totals *totals)
{
	*totals = t->totals;
	return t->ops != NULL;
}
