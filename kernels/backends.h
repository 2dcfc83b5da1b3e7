/* backends: private to kernels/. One table of functions a backend, and what backends of host memory share.
 * A new backend is one folder, one line here and one row in device.c. */
#ifndef MT_KERNELS_BACKENDS_H
#define MT_KERNELS_BACKENDS_H

#include "kernels/device.h"

extern const struct mt_device_ops mt_device_cpu_ops, mt_device_reference_ops, mt_device_dry_ops, mt_device_rehearsal_ops,
	mt_device_idle_ops;

/* upload, download and copy of devices whose memory is the host's: memcpy. device.c has waited for the stream's asynchronous
 * work before it calls any function of a real-time backend, so work of a stream stays in order. */
enum mt_status mt_host_copy(struct mt_device *device, struct mt_stream *stream, void *dst, const void *src, size_t bytes);

/* Blocks until the asynchronous work of `stream` up to `ticket` is over and reports its first failure, once. */
enum mt_status mt_stream_wait_ticket(struct mt_stream *stream, uint64_t ticket);

/* graph.c: notes an operation of a list for a graph; what is not for one is enqueued by the caller, behind what was noted. */
enum mt_status mt_graphs_note(struct mt_stream *stream, const struct mt_op *op, bool *noted);
void mt_graphs_idle(struct mt_stream *stream);   /* the stream's work is over */
void mt_graphs_forget(struct mt_stream *stream); /* what is noted is not enqueued */
void mt_graphs_close(struct mt_stream *stream);

/* trace.c: gives the sink what is over of a stream, all of whose work is; forgets what is pending on a stream. */
enum mt_status mt_trace_flush(struct mt_stream *stream);
void mt_trace_drop(struct mt_stream *stream);

#endif
