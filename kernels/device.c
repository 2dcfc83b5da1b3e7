/* device: makes a device from the table of backends, and what is the same for all of them: shape checks, the order of
 * a stream on the host, tracing. */
#include "kernels/device.h"

#include "base/plugin.h"
#include "kernels/backends.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BACKEND_COUNT 6
/* Both in the same order: the names cannot be read from the tables at compile time. NULL: in a plugin of that name. */
static const struct mt_device_ops *const backends[BACKEND_COUNT] = {
	&mt_device_cpu_ops, &mt_device_reference_ops, &mt_device_dry_ops, &mt_device_rehearsal_ops, &mt_device_idle_ops, NULL};
static const char *const kinds[BACKEND_COUNT + 1] = {"cpu", "reference", "dry", "rehearsal", "idle", "cuda", NULL};

const char *const *mt_device_kinds(void)
{
	return kinds;
}

static enum mt_status find_backend(const char *kind, const struct mt_device_ops **ops)
{
	const void *table;
	for (int i = 0; kind && i < BACKEND_COUNT; i++) {
		if (strcmp(kind, kinds[i]) != 0)
			continue;
		*ops = backends[i];
		if (!*ops) {
			MT_TRY(mt_plugin_open(kind, MT_DEVICE_ABI, &table));
			*ops = ((const struct mt_device_plugin *)table)->ops;
		}
		return MT_OK;
	}
	return mt_fail(MT_INPUT, "no device of kind '%s' in this build: use %s, %s, %s, %s, %s or %s", kind ? kind : "", kinds[0],
		       kinds[1], kinds[2], kinds[3], kinds[4], kinds[5]);
}

enum mt_status mt_device_create(struct mt_device **device, const struct mt_device_config *config)
{
	const struct mt_device_ops *ops = NULL;
	*device = NULL;
	MT_TRY(find_backend(config->kind, &ops));
	return mt_device_create_from(device, ops, config);
}

enum mt_status mt_device_create_from(struct mt_device **device, const struct mt_device_ops *ops,
				     const struct mt_device_config *config)
{
	*device = NULL;
	if (config->threads < 0)
		return mt_fail(MT_INPUT, "device threads must be 0 (all) or more, not %d", config->threads);
	struct mt_device *made = calloc(1, sizeof *made);
	if (!made)
		return mt_fail(MT_NOMEM, "device '%s': out of memory", ops->kind);
	made->ops = ops;
	made->info.kind = ops->kind;
	made->info.threads = 1;
	made->info.executes = made->info.stores = made->info.real_time = true;
	/* Pages of the host are paid for when touched. */
	made->info.memory_bytes = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
	enum mt_status st = ops->open(made, config);
	if (st != MT_OK) {
		free(made);
		return st;
	}
	*device = made;
	return MT_OK;
}

enum mt_status mt_device_plugin_list(const char *kind, struct mt_device_info *list, int room, int *count)
{
	const void *table;
	*count = 0;
	MT_TRY(mt_plugin_open(kind, MT_DEVICE_ABI, &table));
	return ((const struct mt_device_plugin *)table)->list(list, room, count);
}

void mt_device_destroy(struct mt_device *device)
{
	if (!device)
		return;
	device->ops->close(device);
	free(device);
}

void mt_device_set_observer(struct mt_device *device, const struct mt_device_observer *observer)
{
	device->observer = observer ? *observer : (struct mt_device_observer){0};
}

static enum mt_status unsupported(const struct mt_device *device, const char *what)
{
	return mt_fail(MT_UNAVAILABLE, "the %s device has no %s", device->info.kind, what);
}

static enum mt_status enqueue_traced(struct mt_device *device, struct mt_stream *stream, const struct mt_op *op)
{
	struct mt_op_key key;
	struct mt_mark start;
	mt_op_key(op, &key);
	MT_TRY(mt_trace_begin(stream, &start));
	MT_TRY(device->ops->enqueue(device, stream, op));
	return mt_trace_end(stream, &start, &(struct mt_trace_event){.name = mt_op_name(op->kind), .key = &key});
}

enum mt_status mt_device_enqueue(struct mt_device *device, struct mt_stream *stream, const struct mt_op *op)
{
	MT_TRY(mt_op_check(op));
	if (stream->kind != MT_STREAM_COMPUTE)
		return mt_fail(MT_INPUT, "%s on stream '%s': a communication stream takes collectives only", mt_op_name(op->kind),
			       stream->name);
	if (!device->ops->enqueue)
		return unsupported(device, "operations");
	if (device->info.real_time)
		MT_TRY(mt_stream_wait_ticket(stream, stream->issued));
	bool noted;
	MT_TRY(mt_graphs_note(stream, op, &noted));
	if (noted)
		return MT_OK;
	if (device->observer.begin)
		device->observer.begin(device->observer.context, op, stream);
	enum mt_status st = device->trace ? enqueue_traced(device, stream, op) : device->ops->enqueue(device, stream, op);
	if (device->observer.begin)
		device->observer.end(device->observer.context);
	return st;
}

/* One by one where the backend cannot do better, and where each is traced or observed. */
enum mt_status mt_device_enqueue_many(struct mt_device *device, struct mt_stream *stream, const struct mt_op *ops, int count)
{
	if (!device->ops->enqueue_many || device->trace || device->observer.begin || count < 2) {
		for (int i = 0; i < count; i++)
			MT_TRY(mt_device_enqueue(device, stream, &ops[i]));
		return MT_OK;
	}
	for (int i = 0; i < count; i++)
		MT_TRY(mt_op_check(&ops[i]));
	MT_TRY(mt_stream_wait_ticket(stream, stream->issued));
	MT_TRY(mt_stream_flush(stream));
	return device->ops->enqueue_many(device, stream, ops, count);
}

enum mt_status mt_device_upload(struct mt_device *device, struct mt_stream *stream, void *dst, const void *src, size_t bytes)
{
	if (!device->ops->upload)
		return unsupported(device, "upload");
	if (device->info.real_time)
		MT_TRY(mt_stream_wait_ticket(stream, stream->issued));
	MT_TRY(mt_stream_flush(stream));
	return device->ops->upload(device, stream, dst, src, bytes);
}

enum mt_status mt_device_copy(struct mt_device *device, struct mt_stream *stream, void *dst, const void *src, size_t bytes)
{
	if (!device->ops->copy)
		return unsupported(device, "copy");
	if (device->info.real_time)
		MT_TRY(mt_stream_wait_ticket(stream, stream->issued));
	MT_TRY(mt_stream_flush(stream));
	return device->ops->copy(device, stream, dst, src, bytes);
}

/* The host waits for the stream here, on a virtual clock too. */
enum mt_status mt_device_download(struct mt_device *device, struct mt_stream *stream, void *dst, const void *src, size_t bytes)
{
	if (!device->ops->download)
		return unsupported(device, "download");
	MT_TRY(mt_stream_synchronize(stream));
	return device->ops->download(device, stream, dst, src, bytes);
}

const struct mt_arena_backing *mt_device_memory(struct mt_device *device)
{
	return device->ops->memory(device);
}

const struct mt_arena_backing *mt_device_host_memory(struct mt_device *device)
{
	if (device->ops->host_memory)
		return device->ops->host_memory(device);
	return device->info.stores ? &mt_arena_host : &mt_arena_dry;
}

enum mt_status mt_host_copy(struct mt_device *device, struct mt_stream *stream, void *dst, const void *src, size_t bytes)
{
	if (bytes && dst != src)
		memcpy(dst, src, bytes);
	return MT_OK;
}
