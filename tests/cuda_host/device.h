/* device: a device whose operations are our CUDA kernels in the emulator, so that a test can use it as any other. */
#ifndef MT_TESTS_CUDA_HOST_DEVICE_H
#define MT_TESTS_CUDA_HOST_DEVICE_H

#include "kernels/cuda/kernels.h"
#include "kernels/cuda/table.h"
#include "kernels/device.h"
#include "tests/cuda_host/control.h"

#include <stdlib.h>
#include <string.h>

static int emulated_multiprocessors = 2; /* few, so that loops over a grid are gone through more than once */

#define EMULATED(kind, function) [kind] = function,
static enum mt_status (*const emulated_kernels[MT_OP_KIND_COUNT])(struct mt_cuda_launch *launch,
								  const struct mt_op *op) = {MT_CUDA_KERNELS(EMULATED)};

static inline enum mt_status emulated_open(struct mt_device *device, const struct mt_device_config *config)
{
	return MT_OK;
}

static inline void emulated_close(struct mt_device *device)
{
}

/* Scratch is as large as asked for and holds NaN. */
static inline enum mt_status emulated_enqueue_many(struct mt_device *device, struct mt_stream *stream, const struct mt_op *ops,
						   int count)
{
	size_t bytes = mt_gpu_kernel_scratch_bytes(ops);
	struct mt_cuda_launch launch = {.scratch_bytes = bytes, .sm_count = emulated_multiprocessors, .arch = 90};
	launch.max_shared_bytes = 227 << 10;
	if (posix_memalign(&launch.scratch, 256, bytes ? bytes : 1) != 0)
		return mt_fail(MT_NOMEM, "no memory for scratch");
	memset(launch.scratch, 0xff, bytes);
	enum mt_status st = count > 1 ? mt_cuda_adamw_many(&launch, ops, count) : emulated_kernels[ops->kind](&launch, ops);
	free(launch.scratch);
	return st;
}

static inline enum mt_status emulated_enqueue(struct mt_device *device, struct mt_stream *stream, const struct mt_op *op)
{
	return emulated_enqueue_many(device, stream, op, 1);
}

static inline struct mt_device *open_emulated(void)
{
	static const struct mt_device_ops ops = {.kind = "emulated CUDA",
						 .open = emulated_open,
						 .close = emulated_close,
						 .enqueue = emulated_enqueue,
						 .enqueue_many = emulated_enqueue_many};
	struct mt_device *device = NULL;
	return mt_device_create_from(&device, &ops, &(struct mt_device_config){.kind = ops.kind}) == MT_OK ? device : NULL;
}

#endif
