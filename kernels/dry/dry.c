/* dry: a device that computes nothing. An operation advances its stream's clock by what the cost source says, memory is
 * addresses that must never be touched, so that a rank of any layout runs anywhere, in microseconds. */
#include "kernels/backends.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static enum mt_status open_dry(struct mt_device *device, const struct mt_device_config *config)
{
	struct mt_cost_source *cost = malloc(sizeof *cost);
	if (!cost)
		return mt_fail(MT_NOMEM, "dry device: out of memory");
	*cost = config->cost;
	device->backend = cost;
	device->virtual_start_s = 0;
	device->info.executes = device->info.real_time = false;
	device->info.memory_bytes = (size_t)1 << 44; /* nothing limits it */
	snprintf(device->info.name, sizeof device->info.name, "virtual clock");
	return MT_OK;
}

static void close_dry(struct mt_device *device)
{
	free(device->backend);
}

static enum mt_status enqueue(struct mt_device *device, struct mt_stream *stream, const struct mt_op *op)
{
	const struct mt_cost_source *cost = device->backend;
	double seconds = 0;
	if (cost->op_s) {
		struct mt_op_key key;
		mt_op_key(op, &key);
		seconds = cost->op_s(cost->context, &key);
	}
	mt_stream_advance(stream, 0, seconds);
	return MT_OK;
}

static enum mt_status upload(struct mt_device *device, struct mt_stream *stream, void *dst, const void *src, size_t bytes)
{
	return MT_OK;
}

/* Either way between an address of the device and one of the host, which look alike: what the engine copies. */
static enum mt_status transfer(struct mt_device *device, struct mt_stream *stream, void *dst, const void *src, size_t bytes)
{
	const struct mt_cost_source *cost = device->backend;
	mt_stream_advance(stream, 0, cost->transfer_s ? cost->transfer_s(cost->context, bytes) : 0);
	return MT_OK;
}

static enum mt_status download(struct mt_device *device, struct mt_stream *stream, void *dst, const void *src, size_t bytes)
{
	if (bytes)
		memset(dst, 0, bytes);
	return MT_OK;
}

static const struct mt_arena_backing *memory(struct mt_device *device)
{
	return &mt_arena_dry;
}

const struct mt_device_ops mt_device_dry_ops = {
	.kind = "dry",
	.open = open_dry,
	.close = close_dry,
	.enqueue = enqueue,
	.upload = upload,
	.download = download,
	.copy = transfer,
	.memory = memory,
};
