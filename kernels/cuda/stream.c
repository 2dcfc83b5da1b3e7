/* stream: streams, events, and marks, which are timed events.
 *
 * CUDA gives the time between two events, in milliseconds as a float: seconds apart it is good to 0.1 us, hours apart to nothing.
 * So a mark is held against an anchor, an event whose time on the host's clock is known and which is a few seconds old at most.
 * Anchors are recorded on a stream that is always idle, so to wait for one takes microseconds whatever the GPU does. */
#include "kernels/cuda/cuda.h"

#include "base/clock.h"

#include <stdlib.h>

#define ANCHOR_S 2.0

struct cuda_anchor {
	struct cuda_anchor *next;
	cudaEvent_t event;
	double time_s;
	int marks; /* that are held against it */
};

struct cuda_mark {
	struct cuda_mark *next;
	cudaEvent_t event;
	struct cuda_anchor *anchor;
};

static enum mt_status stream_open(struct mt_stream *stream)
{
	int least, most;
	cudaStream_t made;
	struct cuda_stream *kept = calloc(1, sizeof *kept);
	if (!kept)
		return mt_fail(MT_NOMEM, "stream '%s': out of memory", stream->name);
	cudaError_t error = cudaDeviceGetStreamPriorityRange(&least, &most);
	/* Messages first: their kernels are small, and somebody elsewhere waits for them. */
	if (error == cudaSuccess)
		error = cudaStreamCreateWithPriority(&made, cudaStreamNonBlocking, stream->kind == MT_STREAM_COMM ? most : least);
	if (error != cudaSuccess) {
		free(kept);
		return cuda_fail(error, "cudaStreamCreateWithPriority");
	}
	stream->native = made;
	stream->backend = kept;
	return MT_OK;
}

static void stream_close(struct mt_stream *stream)
{
	cuda_scratch_free(stream);
	cudaStreamDestroy(cuda_stream(stream));
	free(stream->backend);
}

static enum mt_status stream_synchronize(struct mt_stream *stream)
{
	CUDA_TRY(cudaStreamSynchronize(cuda_stream(stream)));
	return MT_OK;
}

static enum mt_status event_open(struct mt_event *event)
{
	cudaEvent_t made;
	CUDA_TRY(cudaEventCreateWithFlags(&made, cudaEventDisableTiming));
	event->native = made;
	return MT_OK;
}

static void event_close(struct mt_event *event)
{
	cudaEventDestroy(event->native);
}

static enum mt_status event_record(struct mt_event *event, struct mt_stream *stream)
{
	CUDA_TRY(cudaEventRecord(event->native, cuda_stream(stream)));
	return MT_OK;
}

static enum mt_status event_wait(struct mt_stream *stream, struct mt_event *event)
{
	CUDA_TRY(cudaStreamWaitEvent(cuda_stream(stream), event->native, 0));
	return MT_OK;
}

/* From any thread, which may have another device or none. */
static enum mt_status event_over(struct mt_event *event, bool *over)
{
	CUDA_TRY(cudaSetDevice(cuda_of(event->device)->index));
	cudaError_t error = cudaEventQuery(event->native);
	*over = error == cudaSuccess;
	if (error == cudaSuccess)
		return MT_OK;
	cudaGetLastError();
	return error == cudaErrorNotReady ? MT_OK : cuda_fail(error, "cudaEventQuery");
}

static enum mt_status new_anchor(struct cuda_device *cuda)
{
	struct cuda_anchor *a = cuda->idle_anchors;
	if (a) {
		cuda->idle_anchors = a->next;
	} else {
		a = calloc(1, sizeof *a);
		cudaError_t error = a ? cudaEventCreate(&a->event) : cudaErrorMemoryAllocation;
		if (error != cudaSuccess) {
			free(a);
			return cuda_fail(error, "cudaEventCreate");
		}
	}
	if (cuda->anchor && cuda->anchor->marks == 0) {
		cuda->anchor->next = cuda->idle_anchors;
		cuda->idle_anchors = cuda->anchor;
	}
	cuda->anchor = a; /* the one before goes with its last mark */
	double before_s = mt_clock_s();
	CUDA_TRY(cudaEventRecord(a->event, cuda->clock));
	CUDA_TRY(cudaEventSynchronize(a->event));
	a->time_s = (before_s + mt_clock_s()) / 2;
	return MT_OK;
}

static enum mt_status mark(struct mt_stream *stream, struct mt_mark *mark)
{
	struct cuda_device *cuda = cuda_of(stream->device);
	if (!cuda->anchor || mt_clock_s() - cuda->anchor->time_s > ANCHOR_S)
		MT_TRY(new_anchor(cuda));
	struct cuda_mark *m = cuda->idle_marks;
	if (m) {
		cuda->idle_marks = m->next;
	} else {
		m = calloc(1, sizeof *m);
		cudaError_t error = m ? cudaEventCreate(&m->event) : cudaErrorMemoryAllocation;
		if (error != cudaSuccess) {
			free(m);
			return cuda_fail(error, "cudaEventCreate");
		}
	}
	m->anchor = cuda->anchor;
	m->anchor->marks++;
	mark->native = m;
	CUDA_TRY(cudaEventRecord(m->event, cuda_stream(stream)));
	return MT_OK;
}

static enum mt_status mark_read(struct mt_device *device, struct mt_mark *mark)
{
	struct cuda_device *cuda = cuda_of(device);
	struct cuda_mark *m = mark->native;
	float ms = 0;
	CUDA_TRY(cudaEventSynchronize(m->event));
	CUDA_TRY(cudaEventElapsedTime(&ms, m->anchor->event, m->event));
	mark->time_s = m->anchor->time_s + (double)ms * 1e-3;
	mark->native = NULL;
	m->next = cuda->idle_marks;
	cuda->idle_marks = m;
	if (--m->anchor->marks == 0 && m->anchor != cuda->anchor) {
		m->anchor->next = cuda->idle_anchors;
		cuda->idle_anchors = m->anchor;
	}
	return MT_OK;
}

enum mt_status cuda_clock_open(struct cuda_device *cuda)
{
	CUDA_TRY(cudaStreamCreateWithFlags(&cuda->clock, cudaStreamNonBlocking));
	return MT_OK;
}

/* Marks that were never read, after a failure, are lost with the context. */
void cuda_clock_close(struct cuda_device *cuda)
{
	for (struct cuda_mark *next, *m = cuda->idle_marks; m; m = next) {
		next = m->next;
		cudaEventDestroy(m->event);
		free(m);
	}
	if (cuda->anchor) {
		cuda->anchor->next = cuda->idle_anchors;
		cuda->idle_anchors = cuda->anchor;
	}
	for (struct cuda_anchor *next, *a = cuda->idle_anchors; a; a = next) {
		next = a->next;
		cudaEventDestroy(a->event);
		free(a);
	}
	if (cuda->clock)
		cudaStreamDestroy(cuda->clock);
}

const struct mt_async_ops cuda_async = {
	.stream_open = stream_open,
	.stream_close = stream_close,
	.stream_synchronize = stream_synchronize,
	.event_open = event_open,
	.event_close = event_close,
	.event_record = event_record,
	.event_wait = event_wait,
	.event_over = event_over,
	.fetch = cuda_fetch,
	.store = cuda_store,
	.mark = mark,
	.mark_read = mark_read,
	.capture_begin = cuda_capture_begin,
	.capture_end = cuda_capture_end,
	.graph_launch = cuda_graph_launch,
	.graph_free = cuda_graph_free,
};
