/* device: a device whose operations are our CUDA kernels in the emulator, so that a test can use it as any other. */
#ifndef MT_TESTS_CUDA_HOST_DEVICE_H
#define MT_TESTS_CUDA_HOST_DEVICE_H

#include "kernels/cuda/kernels.h"
#include "kernels/device.h"
#include "tests/cuda_host/control.h"

#include <stdlib.h>
#include <string.h>

static int emulated_multiprocessors = 2; /* few, so that loops over a grid are gone through more than once */

static enum mt_status (*const emulated_kernels[MT_OP_KIND_COUNT])(struct mt_cuda_launch *launch, const struct mt_op *op) = {
	[MT_OP_NORM] = mt_cuda_norm,
	[MT_OP_NORM_BWD] = mt_cuda_norm_bwd,
	[MT_OP_ACTIVATION] = mt_cuda_activation,
	[MT_OP_ACTIVATION_BWD] = mt_cuda_activation_bwd,
	[MT_OP_ROPE] = mt_cuda_rope,
	[MT_OP_EMBEDDING] = mt_cuda_embedding,
	[MT_OP_EMBEDDING_BWD] = mt_cuda_embedding_bwd,
	[MT_OP_ADD] = mt_cuda_add,
	[MT_OP_BIAS_GRAD] = mt_cuda_bias_grad,
	[MT_OP_LOSS_STATS] = mt_cuda_loss_stats,
	[MT_OP_LOSS] = mt_cuda_loss,
	[MT_OP_CAST] = mt_cuda_cast,
	[MT_OP_FILL] = mt_cuda_fill,
	[MT_OP_COPY] = mt_cuda_copy,
	[MT_OP_SUMSQ] = mt_cuda_sumsq,
	[MT_OP_ADAMW] = mt_cuda_adamw,
	[MT_OP_SGD] = mt_cuda_sgd,
	[MT_OP_COMBINE] = mt_cuda_combine,
	[MT_OP_AMAX] = mt_cuda_amax,
	[MT_OP_FP8_SCALE] = mt_cuda_fp8_scale,
	[MT_OP_QUANTIZE] = mt_cuda_quantize,
	[MT_OP_ROUTE] = mt_cuda_route,
	[MT_OP_ROUTE_SUMS] = mt_cuda_route_sums,
	[MT_OP_ROUTE_LOSS] = mt_cuda_route_loss,
	[MT_OP_ROUTE_BWD] = mt_cuda_route_bwd,
	[MT_OP_DROP] = mt_cuda_drop,
	[MT_OP_DISPATCH] = mt_cuda_dispatch,
	[MT_OP_GATHER_ROWS] = mt_cuda_gather_rows,
	[MT_OP_SUM_ROWS] = mt_cuda_sum_rows,
	[MT_OP_EXPERT_ACT] = mt_cuda_expert_act,
	[MT_OP_EXPERT_ACT_BWD] = mt_cuda_expert_act,
	[MT_OP_SPREAD] = mt_cuda_spread,
	[MT_OP_SPREAD_BWD] = mt_cuda_spread,
};

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
	size_t bytes = mt_cuda_scratch_bytes(ops);
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
