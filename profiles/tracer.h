/* tracer: who times what a device runs, and the table of functions of one that reads the device's own records.
 *
 * Three ways, the best one possible is taken and named:
 *   host clock      devices of the host: a kernel is over when its call returns
 *   CUPTI           cuda: kernel times from the activity records, attributed to operations (activity.h)
 *   device events   cuda where CUPTI is refused or absent: the device's own events around each operation; these hold the
 *                   gaps before a kernel too
 * Life: mt_tracer_start - steps, mt_tracer_collect after each - mt_tracer_stop. */
#ifndef MT_PROFILES_TRACER_H
#define MT_PROFILES_TRACER_H

#include "kernels/device.h"
#include "profiles/activity.h"

/* The table of the plugin `cupti`. One tracer at a time in a process, as CUPTI has one. */
#define MT_TRACER_ABI 1
struct mt_tracer_ops {
	const char *name; /* "CUPTI" */
	/* MT_UNAVAILABLE with the reason when there is no driver, or this user may not profile. */
	enum mt_status (*open)(void);
	/* What is launched by this thread between the two belongs to `operation`. */
	void (*push)(uint64_t operation);
	void (*pop)(void);
	/* Appends all records of work that is over to the log; the caller has waited for the device. */
	enum mt_status (*flush)(struct mt_activity_log *log);
	void (*close)(void);
};

struct mt_tracer;

/* Times what `device` runs and hands each operation to the sink (a profile's mt_profile_collect), as a trace event on the
 * device's clock whose length is the operation's span. `ops` NULL: chosen by the device's kind. The device's trace sink is
 * replaced until the stop. */
enum mt_status mt_tracer_start(struct mt_tracer **tracer, struct mt_device *device, const struct mt_tracer_ops *ops,
			       mt_trace_sink sink, void *context);
/* After the device was waited for: hands over what is complete. Does nothing where the device traces by itself. */
enum mt_status mt_tracer_collect(struct mt_tracer *tracer);
/* Collects nothing more; puts the device's trace sink back. NULL is fine. */
void mt_tracer_stop(struct mt_tracer *tracer);

/* True where tracing costs enough to be worth measuring: the device's launches are intercepted. On a host's clock it costs
 * two readings of it. */
bool mt_tracer_intercepts(const struct mt_device *device);

/* "host clock", "CUPTI", "device events (CUPTI refused: ...)"; valid until the stop. */
const char *mt_tracer_method(const struct mt_tracer *tracer);
/* True when the records are the device's own. Sums since the start; zero otherwise. */
bool mt_tracer_totals(const struct mt_tracer *tracer, struct mt_activity_totals *totals);

#endif
