/* dry: a device that computes nothing. An operation advances its stream's clock by what the cost source says, memory is
 * addresses that must never be touched, so that a rank of any layout runs anywhere, in microseconds.
 *
 * rehearsal: the same with a pace. The host sleeps until the operation is over on the real clock too, as a device that is
 * busy, so that a whole job of many ranks runs in real time on few cores. Ends are points of time counted from one start, so that
 * waking late does not add up: the host is late by as much as the processor kept it from what it does between two operations. */
#include "kernels/backends.h"

#include "base/clock.h"
#include "kernels/scratch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Waking costs some 10 us of a processor that many ranks may share: the host may be ahead of the device by as much. */
#define LEAST_SLEEP_S 1e-3

static enum mt_status open_dry(struct mt_device *device, const struct mt_device_config *config)
{
	struct mt_cost_source *cost = malloc(sizeof *cost);
	if (!cost)
		return mt_fail(MT_NOMEM, "dry device: out of memory");
	*cost = config->cost;
	device->backend = cost;
	device->virtual_start_s = 0;
	device->info.executes = device->info.stores = device->info.real_time = false;
	device->info.memory_bytes = (size_t)1 << 44; /* nothing limits it */
	device->pinned_bytes = cost->gpu_arch ? MT_GPU_PINNED_BYTES : 0;
	snprintf(device->info.name, sizeof device->info.name, "virtual clock");
	return MT_OK;
}

static void close_dry(struct mt_device *device)
{
	free(device->backend);
}

/* What the scratch of a stream grows to: there is one that takes operations, the engine's. */
static void count_scratch(struct mt_device *device, const struct mt_op *op, int arch)
{
	size_t bytes = mt_gpu_scratch_bytes(op, arch);
	bytes = (bytes + MT_ARENA_COMMIT_BYTES - 1) / MT_ARENA_COMMIT_BYTES * MT_ARENA_COMMIT_BYTES;
	if (bytes > device->scratch_bytes)
		device->scratch_bytes = bytes;
}

static enum mt_status enqueue(struct mt_device *device, struct mt_stream *stream, const struct mt_op *op)
{
	const struct mt_cost_source *cost = device->backend;
	double seconds = 0;
	if (cost->gpu_arch)
		count_scratch(device, op, cost->gpu_arch);
	if (cost->op_s) {
		struct mt_op_key key;
		mt_op_key(op, &key);
		seconds = cost->op_s(cost->context, &key);
	}
	mt_stream_advance(stream, 0, seconds);
	return MT_OK;
}

static enum mt_status enqueue_paced(struct mt_device *device, struct mt_stream *stream, const struct mt_op *op)
{
	MT_TRY(enqueue(device, stream, op));
	mt_device_sleep_until(device, stream->clock_s);
	return MT_OK;
}

void mt_device_set_pace(struct mt_device *device, double pace)
{
	device->pace = pace;
	device->pace_start_s = mt_clock_s() - pace * device->virtual_start_s;
	device->late_s = 0;
}

void mt_device_sleep_until(struct mt_device *device, double virtual_s)
{
	double left_s;

	if (device->pace <= 0)
		return;
	left_s = device->pace_start_s + device->pace * virtual_s - mt_clock_s();
	if (-left_s > device->late_s)
		device->late_s = -left_s;
	if (left_s > LEAST_SLEEP_S)
		mt_clock_sleep(left_s);
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

const struct mt_device_ops mt_device_rehearsal_ops = {
	.kind = "rehearsal",
	.open = open_dry,
	.close = close_dry,
	.enqueue = enqueue_paced,
	.upload = upload,
	.download = download,
	.copy = transfer,
	.memory = memory,
};
