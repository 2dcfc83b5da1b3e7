/* trace: the spans of one step, of every rank, as a Chrome trace (chrome://tracing, Perfetto) and for timelines. */
#ifndef MT_ENGINE_TRACE_H
#define MT_ENGINE_TRACE_H

#include "comm/comm.h"
#include "kernels/device.h"

#include <jansson.h>

struct mt_span {
	char name[24]; /* "linear", "all_reduce dp" */
	char stream[16];
	bool collective;
	double start_s, end_s; /* of the device's clock, from the start of the trace */
};

struct mt_trace;

/* Collects every span of the device until stopped. Spans may come from the fabric's thread. Takes over the device's trace sink. */
enum mt_status mt_trace_start(struct mt_trace **trace, struct mt_device *device);
void mt_trace_stop(struct mt_trace *trace);
void mt_trace_destroy(struct mt_trace *trace);
const struct mt_span *mt_trace_spans(const struct mt_trace *trace, int *count);

/* Collective over the group: rank 0 writes the spans of all ranks. */
enum mt_status mt_trace_write(struct mt_trace *trace, struct mt_group *world, const char *path);

#endif
