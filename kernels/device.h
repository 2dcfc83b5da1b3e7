/* device: what computes. A table of functions a backend; the engine knows only this header.
 *
 * Life: mt_device_create - streams, events, arenas, operations - mt_device_destroy.
 * Work is enqueued on streams; a stream runs its work in order; streams run side by side unless an event orders them.
 * The host learns of device results only through mt_device_download, so no control flow depends on tensor values
 * but through it. A device belongs to one rank and one host thread (the fabric's progress thread touches streams only
 * through mt_stream_async_*). There are no globals: many devices live in one process.
 *
 * Backends: reference (plain loops, all dtypes, the definition of each answer), cpu (fast), dry (virtual clock, addresses only),
 * rehearsal (dry, at a pace of the real clock), idle (kernels that sleep, on the real clock), cuda (NVIDIA GPUs, a plugin). On host
 * devices a kernel runs at once on the calling thread (and its OpenMP team); only collectives are asynchronous. A device that runs
 * behind the host (ops->async is set) only enqueues: its memory is not the host's, its work is ordered by its own events, and times
 * are known when the work is over. */
#ifndef MT_KERNELS_DEVICE_H
#define MT_KERNELS_DEVICE_H

#include "base/arena.h"
#include "base/status.h"
#include "kernels/op.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct mt_device;
struct mt_stream;
struct mt_event;

/* One timed piece of work, on any device: a kernel (op set) or a collective (op NULL). Times are of the device's clock. */
struct mt_trace_event {
	const char *name;            /* static or owned by the traced object: "linear", "all_reduce" */
	const struct mt_op_key *key; /* kernels: valid during the call only; collectives: NULL */
	const char *group;           /* collectives: "tp", "dp", "pp"; kernels: NULL */
	int group_size;
	int64_t bytes;      /* collectives: bytes of the nccl-tests definition */
	const char *stream; /* the stream's name */
	double start_s, end_s;
};
/* Called for each piece of work when it is known to be over; from the device's thread or the fabric's progress thread. */
typedef void (*mt_trace_sink)(void *context, const struct mt_trace_event *event);

/* Told around each operation that is enqueued, on the enqueuing thread: so whoever reads a device's own records (CUPTI)
 * can mark what happens between the two as the operation's. A device that is observed launches each operation by itself:
 * nothing is captured in graphs, which have no record of what asked for what. */
struct mt_device_observer {
	void (*begin)(void *context, const struct mt_op *op, const struct mt_stream *stream);
	void (*end)(void *context);
	void *context;
};

/* Where the dry device gets times from. Returns seconds; `key` was never seen: the source decides (model, default). */
struct mt_cost_source {
	double (*op_s)(void *context, const struct mt_op_key *key);
	void *context;
	double (*transfer_s)(void *context, size_t bytes); /* between device and host memory; NULL: no time */
	int gpu_arch; /* of the GPU whose memory beside the arenas is counted: 90; 0: of a device that has none */
};

struct mt_device_config {
	const char *kind;           /* "cpu", "reference", "dry", "rehearsal", "idle", "cuda" */
	int local_rank;             /* cuda: rank on this host; GPUs are dealt out in turn, several ranks may share one */
	int threads;                /* host devices: OpenMP threads of this rank, 0: all this process may use */
	struct mt_cost_source cost; /* dry, rehearsal and idle */
};

struct mt_device_info {
	const char *kind;    /* as in the config */
	char name[64];       /* "Intel(R) Xeon(R) Processor", ... */
	char isa[32];        /* code path chosen at run time: "avx512", "avx2", "baseline"; "" elsewhere */
	char libraries[128]; /* "oneDNN 2.6.3" */
	int threads;
	size_t memory_bytes; /* what the device has in all: the most an arena may grow to */
	bool bf16_native;    /* bf16 products run faster than f32 */
	bool executes;       /* false: dry, nothing is computed */
	bool stores;         /* its memory is real, so that fabrics move what lies there; false: dry, addresses only */
	bool real_time;      /* false: dry, the clock is virtual */
};

/* A point in a stream's work. When the device runs behind the host its time is known once the work before it is over. */
struct mt_mark {
	struct mt_stream *stream;
	double time_s;
	void *native; /* the backend's, until the mark is read */
};

/* The functions of a backend that runs behind the host. Streams and events have a `native` for what it keeps of them. Calls
 * come from the device's thread where nothing else is said. */
struct mt_async_ops {
	enum mt_status (*stream_open)(struct mt_stream *stream);
	void (*stream_close)(struct mt_stream *stream); /* its work is over */
	enum mt_status (*stream_synchronize)(struct mt_stream *stream);
	enum mt_status (*event_open)(struct mt_event *event);
	void (*event_close)(struct mt_event *event);
	enum mt_status (*event_record)(struct mt_event *event, struct mt_stream *stream);
	enum mt_status (*event_wait)(struct mt_stream *stream, struct mt_event *event);
	enum mt_status (*event_over)(struct mt_event *event, bool *over); /* from any thread; event_close too */
	/* Copies at once, in order with no stream: for fabrics that go through host memory. From any thread. */
	enum mt_status (*fetch)(struct mt_device *device, void *dst, const void *src, size_t bytes);
	enum mt_status (*store)(struct mt_device *device, void *dst, const void *src, size_t bytes);
	enum mt_status (*mark)(struct mt_stream *stream, struct mt_mark *mark);      /* sets native */
	enum mt_status (*mark_read)(struct mt_device *device, struct mt_mark *mark); /* waits, sets time_s, frees native */
	/* Operations that are enqueued between begin and end are kept as a graph and not run. With `st` not MT_OK what was kept is
	 * dropped and st returned. After a failure the stream is as it was before begin. All NULL: unsupported. */
	enum mt_status (*capture_begin)(struct mt_stream *stream);
	enum mt_status (*capture_end)(struct mt_stream *stream, enum mt_status st, void **graph);
	enum mt_status (*graph_launch)(struct mt_stream *stream, void *graph);
	void (*graph_free)(struct mt_stream *stream, void *graph); /* its launches are over */
};

/* The functions of a backend, in this order in every backend; NULL means unsupported. */
struct mt_device_ops {
	const char *kind;
	enum mt_status (*open)(struct mt_device *device, const struct mt_device_config *config);
	void (*close)(struct mt_device *device);
	/* Runs or enqueues one operation on a stream. */
	enum mt_status (*enqueue)(struct mt_device *device, struct mt_stream *stream, const struct mt_op *op);
	/* Copies between host and device memory, ordered on the stream; download returns when the data is there. */
	enum mt_status (*upload)(struct mt_device *device, struct mt_stream *stream, void *dst, const void *src, size_t bytes);
	enum mt_status (*download)(struct mt_device *device, struct mt_stream *stream, void *dst, const void *src, size_t bytes);
	/* Copies within device memory, and between it and that of host_memory, in order on a stream of any kind. */
	enum mt_status (*copy)(struct mt_device *device, struct mt_stream *stream, void *dst, const void *src, size_t bytes);
	const struct mt_arena_backing *(*memory)(struct mt_device *device);
	/* Several operations of one kind in as few launches as it can; the same bits as one by one. */
	enum mt_status (*enqueue_many)(struct mt_device *device, struct mt_stream *stream, const struct mt_op *ops, int count);
	/* Host memory that `copy` reads and writes too, in order on the stream; NULL: any (dry: addresses only). */
	const struct mt_arena_backing *(*host_memory)(struct mt_device *device);
	const struct mt_async_ops *async; /* NULL: a call returns when its work is over, or the clock is virtual */
};

struct mt_device {
	const struct mt_device_ops *ops;
	struct mt_device_info info;
	mt_trace_sink trace; /* NULL: off */
	void *trace_context;
	struct mt_device_observer observer; /* begin NULL: none */
	struct mt_trace_pending *pending;   /* owned: traced work whose end is not yet known, in order */
	struct mt_trace_pending **pending_end;
	int pending_count;
	double virtual_start_s; /* dry: 0, then the latest time the host has waited for; nothing starts before it */
	double pace;            /* rehearsal and idle: seconds of the real clock that one of a kernel's takes; 0: no time */
	double pace_start_s;    /* rehearsal: the real clock when the virtual one is at 0 */
	double late_s;          /* rehearsal and idle: the most that the host was behind since the pace was set */
	/* Beside the arenas (kernels/scratch.h), peaks: device memory of its streams; host memory that copies go through. */
	size_t scratch_bytes, pinned_bytes;
	void *backend; /* owned by the backend */
};

enum mt_status mt_device_create(struct mt_device **device, const struct mt_device_config *config);
/* The same of a backend that is not in the table: a plugin's, a test's. `ops` is borrowed while the device lives. */
enum mt_status mt_device_create_from(struct mt_device **device, const struct mt_device_ops *ops,
				     const struct mt_device_config *config);
void mt_device_destroy(struct mt_device *device);
/* rehearsal: from now on a second of the virtual clock takes `pace` seconds, counted from where the host stands on both clocks; 0:
 * none. The host then sleeps until its compute streams' work is over, as if a device were busy, and uses no processor. idle: the
 * same of its kernels' seconds; there is no virtual clock. */
void mt_device_set_pace(struct mt_device *device, double pace);
/* Sleeps until the virtual time has come; returns at once where there is no pace, and when that is past. */
void mt_device_sleep_until(struct mt_device *device, double virtual_s);
/* What a plugin with a device is, for mt_plugin_open: of this version when the numbers agree. */
struct mt_device_plugin {
	const struct mt_device_ops *ops;
	/* The devices of this machine, at most `room` of *count. MT_UNAVAILABLE with the reason when there can be none. */
	enum mt_status (*list)(struct mt_device_info *list, int room, int *count);
};
#define MT_DEVICE_ABI                                                                                                              \
	((int)(sizeof(struct mt_device_ops) + 31 * sizeof(struct mt_async_ops) + 1009 * sizeof(struct mt_device) +                 \
	       10007 * sizeof(struct mt_stream) + 100003 * sizeof(struct mt_op) + 1000003 * MT_OP_KIND_COUNT +                     \
	       10000019 * sizeof(struct mt_linear)))
/* The devices that the plugin of this name finds, without opening one: "cuda". MT_UNAVAILABLE: no plugin, no driver, no device. */
enum mt_status mt_device_plugin_list(const char *kind, struct mt_device_info *list, int room, int *count);
/* NULL-terminated names of the kinds of device, whether or not this machine has one. */
const char *const *mt_device_kinds(void);
/* The sink that was set before gets all that is still pending first, which waits for it. */
void mt_device_set_trace(struct mt_device *device, mt_trace_sink sink, void *context);
void mt_device_set_observer(struct mt_device *device, const struct mt_device_observer *observer); /* copied; NULL: none */

/* Checks the op's shape (MT_INPUT), runs or enqueues it, traces it. MT_UNAVAILABLE when the backend lacks it for this dtype. */
enum mt_status mt_device_enqueue(struct mt_device *device, struct mt_stream *stream, const struct mt_op *op);
/* Several operations of one kind, in order, none reading what another writes. */
enum mt_status mt_device_enqueue_many(struct mt_device *device, struct mt_stream *stream, const struct mt_op *ops, int count);
/* `src` may be reused when it returns. */
enum mt_status mt_device_upload(struct mt_device *device, struct mt_stream *stream, void *dst, const void *src, size_t bytes);
/* The one operation by which the host reads device memory. On the dry device dst is zero-filled. */
enum mt_status mt_device_download(struct mt_device *device, struct mt_stream *stream, void *dst, const void *src, size_t bytes);
/* Within device memory, and between it and memory of mt_device_host_memory, in order on the stream, which may be of any kind.
 * Nobody waits for it but who waits for the stream. */
enum mt_status mt_device_copy(struct mt_device *device, struct mt_stream *stream, void *dst, const void *src, size_t bytes);
const struct mt_arena_backing *mt_device_memory(struct mt_device *device);
/* Of host memory for what is copied beside the compute: pinned where that matters. Paid for as it is used. */
const struct mt_arena_backing *mt_device_host_memory(struct mt_device *device);

/* Streams. A compute stream takes operations and collectives; a comm stream takes collectives only, which then run
 * beside the compute. `name` is copied. */
enum mt_stream_kind { MT_STREAM_COMPUTE, MT_STREAM_COMM };

/* Dry: a receive whose message another rank has yet to send. It is settled when somebody waits for it, so that posting a
 * receive never blocks. The fabric embeds this in a struct of its own and frees it in `settle`. */
struct mt_deferred {
	struct mt_deferred *next;
	uint64_t ticket;
	/* Finds the end of the work, which starts no earlier than not_before_s; frees `deferred` in any case. */
	enum mt_status (*settle)(struct mt_deferred *deferred, struct mt_stream *stream, double not_before_s, double *end_s);
	void (*drop)(struct mt_deferred *deferred); /* frees it unsettled */
};

struct mt_stream {
	struct mt_device *device;
	enum mt_stream_kind kind;
	char name[16];
	void *native;                 /* async devices: cuda: the cudaStream_t */
	void *backend;                /* async devices: what else the backend keeps of it */
	double clock_s;               /* dry: when everything enqueued so far is over */
	struct mt_deferred *deferred; /* dry: in order, owned */
	double settled_s;             /* dry: end of the last deferred work that was settled */
	/* host devices: tickets of asynchronous work, issued by the device's thread, completed by the fabric's */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	uint64_t issued, completed;
	enum mt_status failure; /* first failure of asynchronous work, reported by the next wait */
	char failure_message[512];
	struct mt_graphs *graphs; /* owned; NULL: operations are launched one by one */
};

enum mt_status mt_stream_create(struct mt_device *device, enum mt_stream_kind kind, const char *name, struct mt_stream **stream);
/* Waits for the stream's work first. */
void mt_stream_destroy(struct mt_stream *stream);
/* The host waits until everything enqueued on the stream is over. */
enum mt_status mt_stream_synchronize(struct mt_stream *stream);
/* The device's clock as this stream sees it, after everything enqueued: real time on host devices (does not wait), virtual on
 * dry. A device that runs behind the host is waited for: use marks where that costs. */
double mt_stream_now_s(struct mt_stream *stream);
/* The backend's own stream (a cudaStream_t), for fabrics; NULL on host devices. */
void *mt_stream_native(struct mt_stream *stream);

/* Lists: on a stream that uses graphs, operations between begin and end may be enqueued later, at the latest by the end or by
 * whatever else is done on the stream, and those that come again as they were as one graph. The same results as without. Lists
 * nest: the outermost counts. `st`: of what the list was made of, which is returned; with a failure the rest is not enqueued. */
bool mt_device_has_graphs(const struct mt_device *device);
enum mt_status mt_stream_use_graphs(struct mt_stream *stream); /* MT_UNAVAILABLE: the device has none */
void mt_stream_list_begin(struct mt_stream *stream);
enum mt_status mt_stream_list_end(struct mt_stream *stream, enum mt_status st);
/* For fabrics, before they enqueue on the native stream. */
enum mt_status mt_stream_flush(struct mt_stream *stream);
struct mt_graph_stats {
	int64_t launched, operations; /* graphs, and the operations in them */
	int64_t captured;             /* lists that became graphs */
	int64_t missed;               /* lists not met before, enqueued one by one */
	int64_t refused;              /* lists that the device could not capture, enqueued one by one each time */
	char reason[256];             /* of the first of these */
};
struct mt_graph_stats mt_stream_graph_stats(const struct mt_stream *stream);

/* Marks the time when all that is enqueued is over. Cheap on every device; each mark is read once. */
enum mt_status mt_stream_mark(struct mt_stream *stream, struct mt_mark *mark);
/* The mark's time, which is waited for, on the clock of mt_clock_s (dry: the virtual one). */
enum mt_status mt_mark_read(struct mt_mark *mark, double *time_s);

/* Traces one piece of work of a stream, whoever enqueues it: begin before, end after, with all but the times in `event`
 * (group and key are copied). Nothing happens while there is no sink. The sink is called when the end is known. */
enum mt_status mt_trace_begin(struct mt_stream *stream, struct mt_mark *start);
enum mt_status mt_trace_end(struct mt_stream *stream, struct mt_mark *start, const struct mt_trace_event *event);

/* For fabrics on host devices: announces asynchronous work on a stream (ticket 1, 2, ...), and its end. Work of a stream
 * is in order, so the end of a ticket is the end of all before it. A failure is reported by one wait, the next. */
uint64_t mt_stream_async_begin(struct mt_stream *stream);
void mt_stream_async_end(struct mt_stream *stream, uint64_t ticket, enum mt_status status, const char *message);
/* For fabrics on the dry device: the stream is busy for `seconds` from max(its clock, not_before_s); returns the end. */
double mt_stream_advance(struct mt_stream *stream, double not_before_s, double seconds);

/* For the dry fabric: adds deferred work at the end of a comm stream; and settles all that is deferred up to a ticket. */
void mt_stream_defer(struct mt_stream *stream, struct mt_deferred *deferred);
enum mt_status mt_stream_settle(struct mt_stream *stream, uint64_t ticket);

/* Events: a point in a stream's work. */
struct mt_event {
	struct mt_device *device;
	void *native;             /* async devices: cuda: the cudaEvent_t */
	struct mt_stream *stream; /* where it was recorded last; NULL: never, then waiting on it is no wait */
	uint64_t ticket;
	double time_s;
	bool deferred; /* dry: time_s is known only when the stream has settled the ticket */
};

enum mt_status mt_event_create(struct mt_device *device, struct mt_event **event);
void mt_event_destroy(struct mt_event *event);
enum mt_status mt_event_record(struct mt_event *event, struct mt_stream *stream);
/* Later work on `stream` starts after the event. On host devices this blocks the caller until asynchronous work before the event is
 * over; on any device it does so for work that a fabric's thread does (tickets). */
enum mt_status mt_stream_wait(struct mt_stream *stream, struct mt_event *event);
/* Whether all before the event is over, without waiting; from any thread. Not on a virtual clock. */
enum mt_status mt_event_over(struct mt_event *event, bool *over);

#endif
