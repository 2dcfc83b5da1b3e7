/* activity: what a GPU did, attributed to the operations that asked for it.
 *
 * A tracer of the device (CUPTI) gives two kinds of record, in any order and from any thread: a piece of work (a kernel, a
 * copy, a fill) with its times on the device and a correlation number, and a link from a correlation number to the
 * operation that was being enqueued. This joins the two. It knows no CUDA: records are plain data, so they can be made up. */
#ifndef MT_PROFILES_ACTIVITY_H
#define MT_PROFILES_ACTIVITY_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

enum mt_activity_kind { MT_ACTIVITY_KERNEL, MT_ACTIVITY_COPY, MT_ACTIVITY_FILL };

struct mt_activity_work {
	enum mt_activity_kind kind;
	uint32_t correlation, stream; /* stream: the tracer's number */
	uint64_t start_ns, end_ns;    /* of the device's clock; 0: the tracer got none */
};

struct mt_activity_link {
	uint32_t correlation;
	uint64_t operation; /* the number that was pushed when the operation was enqueued; from 1 */
};

/* Zero-initialised is an empty log. One writer at a time. */
struct mt_activity_log {
	struct mt_activity_work *works; /* owned */
	struct mt_activity_link *links; /* owned */
	size_t work_count, work_capacity, link_count, link_capacity;
	uint64_t dropped; /* records the tracer lost, or that found no memory */
};

/* Without memory the record is counted as dropped: a tracer's callback has nobody to fail to. */
void mt_activity_add_work(struct mt_activity_log *log, const struct mt_activity_work *work);
void mt_activity_add_link(struct mt_activity_log *log, uint32_t correlation, uint64_t operation);
void mt_activity_clear(struct mt_activity_log *log); /* keeps the memory */
void mt_activity_free(struct mt_activity_log *log);

/* One operation on the device. */
struct mt_activity_span {
	uint64_t operation;
	int pieces;
	uint32_t stream;           /* of its first piece */
	uint64_t start_ns, end_ns; /* first start, last end */
	uint64_t busy_ns;          /* at least one piece of it was running; the rest of the span is gaps between its pieces */
	uint64_t idle_ns;          /* its stream stood still before it: since the end of what ran there last; 0 for the first */
};

struct mt_activity_totals {
	size_t pieces, unattributed; /* pieces in all; those no operation asked for */
	size_t without_time;         /* left out: no times, or an end before the start */
	uint64_t busy_ns;            /* of all spans */
	uint64_t gap_ns;             /* inside spans */
	uint64_t idle_ns;            /* between pieces of a stream that belong to different operations */
	uint64_t unattributed_ns;
	uint64_t dropped;
};

void mt_activity_add_totals(struct mt_activity_totals *sum, const struct mt_activity_totals *part);

/* Spans in the order of the operations' numbers (free() *spans). An operation without work on the device has no span.
 * Sorts the log's records. MT_NOMEM. */
enum mt_status mt_activity_attribute(struct mt_activity_log *log, struct mt_activity_span **spans, size_t *count,
				     struct mt_activity_totals *totals);

#endif
