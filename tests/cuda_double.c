/* A stand-in for the plugin of the CUDA device: streams that are threads (nccl_double.h), operations run on them by a cpu device.
 * With the double of NCCL beside it the program itself trains with `device: cuda` over several ranks on a machine without a GPU.
 * CUDA_DOUBLE_GPUS (8): how many there are; CUDA_DOUBLE_MIB: what each has in memory. Scratch is counted as the device does. A
 * graph is a list of the operations as they were when it was captured; CUDA_DOUBLE_CAPTURE=refuse: none is made. */
#include "base/plugin.h"
#include "kernels/scratch.h"
#include "tests/nccl_double.h"

#include <stdio.h>

struct cuda_double {
	struct mt_device *inner; /* owned */
	struct mt_stream *on;    /* owned */
	pthread_mutex_t lock;    /* one operation at a time */
};

struct queued {
	struct mt_stream *stream;
	struct mt_op op;
	void *dst;
	const void *src;
	void *staging; /* owned */
	size_t bytes;
	struct mt_mark *mark;
};

struct double_mark {
	_Atomic int done;
	double time_s;
};

static void run_op(void *context)
{
	struct queued *q = context;
	struct cuda_double *d = q->stream->device->backend;
	pthread_mutex_lock(&d->lock);
	if (mt_device_enqueue(d->inner, d->on, &q->op) != MT_OK)
		mt_stream_async_end(q->stream, 0, MT_FAILED, mt_error_message());
	mt_error_clear();
	pthread_mutex_unlock(&d->lock);
	free(q);
}

static void run_copy(void *context)
{
	struct queued *q = context;
	if (q->bytes)
		memmove(q->dst, q->staging ? q->staging : q->src, q->bytes);
	free(q->staging);
	free(q);
}

static void run_mark(void *context)
{
	struct double_mark *m = context;
	m->time_s = mt_clock_s();
	atomic_store(&m->done, 1);
}

static enum mt_status push(const struct queued *work, void (*run)(void *))
{
	struct queued *q = malloc(sizeof *q);
	if (!q)
		return mt_fail(MT_NOMEM, "CUDA's double: no memory");
	*q = *work;
	threaded_push(q->stream->native, run, q);
	return MT_OK;
}

struct graph {
	int count, room;
	struct mt_op *ops; /* owned */
};

static void graph_free(struct mt_stream *stream, void *graph)
{
	free(((struct graph *)graph)->ops);
	free(graph);
}

/* What a stream captures stands in its `backend`. */
static enum mt_status capture_begin(struct mt_stream *stream)
{
	stream->backend = calloc(1, sizeof(struct graph));
	return stream->backend ? MT_OK : mt_fail(MT_NOMEM, "CUDA's double: no memory");
}

static enum mt_status capture_end(struct mt_stream *stream, enum mt_status st, void **graph)
{
	const char *capture = getenv("CUDA_DOUBLE_CAPTURE");
	*graph = stream->backend;
	stream->backend = NULL;
	if (st == MT_OK && capture && strcmp(capture, "refuse") == 0)
		st = mt_fail(MT_FAILED, "CUDA's double was told to refuse");
	if (st != MT_OK) {
		graph_free(stream, *graph);
		*graph = NULL;
	}
	return st;
}

static enum mt_status add_to_graph(struct graph *graph, const struct mt_op *op)
{
	if (graph->count == graph->room) {
		int room = 2 * graph->room + 8;
		struct mt_op *grown = realloc(graph->ops, (size_t)room * sizeof *grown);
		if (!grown)
			return mt_fail(MT_NOMEM, "CUDA's double: no memory");
		graph->ops = grown;
		graph->room = room;
	}
	graph->ops[graph->count++] = *op;
	return MT_OK;
}

static enum mt_status graph_launch(struct mt_stream *stream, void *graph)
{
	const struct graph *g = graph;
	for (int i = 0; i < g->count; i++)
		MT_TRY(push(&(struct queued){.stream = stream, .op = g->ops[i]}, run_op));
	return MT_OK;
}

static enum mt_status enqueue(struct mt_device *device, struct mt_stream *stream, const struct mt_op *op)
{
	size_t bytes = mt_gpu_scratch_bytes(op, 90);
	bytes = (bytes + MT_ARENA_COMMIT_BYTES - 1) / MT_ARENA_COMMIT_BYTES * MT_ARENA_COMMIT_BYTES;
	device->scratch_bytes = bytes > device->scratch_bytes ? bytes : device->scratch_bytes;
	if (stream->backend)
		return add_to_graph(stream->backend, op);
	return push(&(struct queued){.stream = stream, .op = *op}, run_op);
}

static enum mt_status copy(struct mt_device *device, struct mt_stream *stream, void *dst, const void *src, size_t bytes)
{
	return push(&(struct queued){.stream = stream, .dst = dst, .src = src, .bytes = bytes}, run_copy);
}

static enum mt_status upload(struct mt_device *device, struct mt_stream *stream, void *dst, const void *src, size_t bytes)
{
	void *staging = malloc(bytes + 1);
	if (!staging)
		return mt_fail(MT_NOMEM, "CUDA's double: no memory");
	memcpy(staging, src, bytes);
	// cppcheck-suppress memleak
	// NOLINTNEXTLINE(clang-analyzer-unix.Malloc): run_copy frees it
	return push(&(struct queued){.stream = stream, .dst = dst, .staging = staging, .bytes = bytes}, run_copy);
}

static enum mt_status mark(struct mt_stream *stream, struct mt_mark *at)
{
	struct double_mark *m = calloc(1, sizeof *m);
	if (!m)
		return mt_fail(MT_NOMEM, "CUDA's double: no memory");
	at->native = m;
	threaded_push(stream->native, run_mark, m);
	return MT_OK;
}

static enum mt_status mark_read(struct mt_device *device, struct mt_mark *at)
{
	struct double_mark *m = at->native;
	while (!atomic_load(&m->done))
		mt_clock_sleep(2e-5);
	at->time_s = m->time_s;
	at->native = NULL;
	free(m);
	return MT_OK;
}

static enum mt_status at_once(struct mt_device *device, void *dst, const void *src, size_t bytes)
{
	memcpy(dst, src, bytes);
	return MT_OK;
}

static void close_double(struct mt_device *device)
{
	struct cuda_double *d = device->backend;
	mt_stream_destroy(d->on);
	mt_device_destroy(d->inner);
	pthread_mutex_destroy(&d->lock);
	free(d);
}

static enum mt_status open_double(struct mt_device *device, const struct mt_device_config *config)
{
	struct cuda_double *d = calloc(1, sizeof *d);
	enum mt_status st;
	if (!d)
		return mt_fail(MT_NOMEM, "CUDA's double: no memory");
	pthread_mutex_init(&d->lock, NULL);
	device->backend = d;
	MT_GOTO(fail, mt_device_create(&d->inner, &(struct mt_device_config){.kind = "cpu", .threads = 1}));
	MT_GOTO(fail, mt_stream_create(d->inner, MT_STREAM_COMPUTE, "double", &d->on));
	snprintf(device->info.name, sizeof device->info.name, "a double of a GPU");
	snprintf(device->info.isa, sizeof device->info.isa, "sm_90");
	if (getenv("CUDA_DOUBLE_MIB"))
		device->info.memory_bytes = (size_t)atoi(getenv("CUDA_DOUBLE_MIB")) << 20;
	device->pinned_bytes = MT_GPU_PINNED_BYTES;
	return MT_OK;
fail:
	close_double(device);
	return st;
}

static const struct mt_arena_backing *memory(struct mt_device *device)
{
	return mt_device_memory(((struct cuda_double *)device->backend)->inner);
}

static const struct mt_async_ops async_ops = {
	.stream_open = threaded_stream_open,
	.stream_close = threaded_stream_close,
	.stream_synchronize = threaded_synchronize,
	.event_open = threaded_event_open,
	.event_close = threaded_event_close,
	.event_record = threaded_event_record,
	.event_wait = threaded_event_wait,
	.event_over = threaded_event_over,
	.fetch = at_once,
	.store = at_once,
	.mark = mark,
	.mark_read = mark_read,
	.capture_begin = capture_begin,
	.capture_end = capture_end,
	.graph_launch = graph_launch,
	.graph_free = graph_free,
};

static const struct mt_device_ops ops = {
	.kind = "cuda",
	.open = open_double,
	.close = close_double,
	.enqueue = enqueue,
	.upload = upload,
	.download = threaded_copy,
	.copy = copy,
	.memory = memory,
	.async = &async_ops,
};

static enum mt_status list(struct mt_device_info *into, int room, int *count)
{
	const char *gpus = getenv("CUDA_DOUBLE_GPUS");
	*count = gpus ? atoi(gpus) : 8;
	for (int i = 0; i < *count && i < room; i++)
		into[i] = (struct mt_device_info){.kind = "cuda", .name = "a double of a GPU"};
	return MT_OK;
}

static const struct mt_device_plugin plugin = {.ops = &ops, .list = list};

MT_PLUGIN_EXPORT const void *megatune_plugin(int abi);
const void *megatune_plugin(int abi)
{
	return abi == MT_DEVICE_ABI ? &plugin : NULL;
}
