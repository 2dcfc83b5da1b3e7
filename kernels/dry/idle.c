/* idle: a device whose kernels compute nothing and take their time on the real clock: the host sleeps. Its memory is the host's,
 * real but never written by a kernel, so that any fabric moves it: a job whose messages are as large and as slow as its links make
 * them, on few cores.
 *
 * A host that woke late sleeps the less in the next kernel, so that waking late does not add up; what it waits for between two
 * kernels, a collective say, is not made up for. */
#include "kernels/backends.h"

#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Less is slept together with the next kernel: waking costs some 10 us of a processor that many ranks may share. */
#define LEAST_SLEEP_S 0.2e-3

struct idle {
	struct mt_cost_source cost;
	double over_s; /* slept too long so far; below 0: still to be slept */
};

static enum mt_status open_idle(struct mt_device *device, const struct mt_device_config *config)
{
	struct idle *idle = malloc(sizeof *idle);

	if (!idle)
		return mt_fail(MT_NOMEM, "idle device: out of memory");
	*idle = (struct idle){.cost = config->cost};
	device->backend = idle;
	device->info.executes = false;
	snprintf(device->info.name, sizeof device->info.name, "sleep");
	return MT_OK;
}

static void close_idle(struct mt_device *device)
{
	free(device->backend);
}

static void pass(struct mt_device *device, double seconds)
{
	struct idle *idle = device->backend;
	double wanted_s = device->pace * seconds, start_s;

	if (wanted_s <= 0)
		return;
	start_s = mt_clock_s();
	if (wanted_s - idle->over_s > LEAST_SLEEP_S)
		mt_clock_sleep(wanted_s - idle->over_s);
	idle->over_s += mt_clock_s() - start_s - wanted_s;
	if (idle->over_s > device->late_s)
		device->late_s = idle->over_s;
}

static enum mt_status enqueue(struct mt_device *device, struct mt_stream *stream, const struct mt_op *op)
{
	const struct idle *idle = device->backend;
	struct mt_op_key key;

	if (!idle->cost.op_s)
		return MT_OK;
	mt_op_key(op, &key);
	pass(device, idle->cost.op_s(idle->cost.context, &key));
	return MT_OK;
}

static enum mt_status upload(struct mt_device *device, struct mt_stream *stream, void *dst, const void *src, size_t bytes)
{
	return MT_OK;
}

static enum mt_status copy(struct mt_device *device, struct mt_stream *stream, void *dst, const void *src, size_t bytes)
{
	const struct idle *idle = device->backend;

	pass(device, idle->cost.transfer_s ? idle->cost.transfer_s(idle->cost.context, bytes) : 0);
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
	return &mt_arena_host;
}

const struct mt_device_ops mt_device_idle_ops = {
	.kind = "idle",
	.open = open_idle,
	.close = close_idle,
	.enqueue = enqueue,
	.upload = upload,
	.download = download,
	.copy = copy,
	.memory = memory,
};
