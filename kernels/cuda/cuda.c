/* cuda: the device of NVIDIA GPUs: opening one, and the table of its operations. Built as a plugin, megatune-cuda.so. */
#include "kernels/cuda/cuda.h"

#include "base/plugin.h"
#include "kernels/cuda/table.h"
#include "kernels/op_experts.h"

#include <stdlib.h>

typedef enum mt_status kernel(struct mt_cuda_launch *launch, const struct mt_op *op);

/* Products go to cuBLASLt, attention to attention.c, all else to kernels of our own. */
#define ROW(kind, function) [kind] = function,
static kernel *const kernels[MT_OP_KIND_COUNT] = {MT_CUDA_KERNELS(ROW)};

enum mt_status cuda_fail(cudaError_t error, const char *what)
{
	cudaGetLastError(); /* else a later launch reports it again */
	return mt_fail(error == cudaErrorMemoryAllocation ? MT_NOMEM : MT_FAILED, "CUDA: %s: %s", what, cudaGetErrorString(error));
}

static void close_cuda(struct mt_device *device)
{
	struct cuda_device *cuda = cuda_of(device);
	if (!cuda)
		return;
	cudaSetDevice(cuda->index);
	mt_cuda_attention_destroy(cuda->attention);
	cuda_products_close(cuda);
	cuda_clock_close(cuda);
	cuda_staging_close(cuda);
	cuda_memory_close(cuda);
	free(cuda);
	device->backend = NULL;
}

static enum mt_status open_parts(struct cuda_device *cuda)
{
	CUDA_TRY(cudaSetDevice(cuda->index)); /* makes the context */
	MT_TRY(cuda_memory_open(cuda));
	cuda_host_memory_open(cuda);
	MT_TRY(cuda_staging_open(cuda));
	MT_TRY(cuda_clock_open(cuda));
	MT_TRY(cuda_products_open(cuda));
	return mt_cuda_attention_create(&cuda->attention);
}

static enum mt_status open_cuda(struct mt_device *device, const struct mt_device_config *config)
{
	struct cudaDeviceProp properties;
	int count;
	MT_TRY(cuda_count(&count));
	int index = config->local_rank % count;
	MT_TRY(cuda_describe(index, &device->info, &properties));
	struct cuda_device *cuda = calloc(1, sizeof *cuda);
	if (!cuda)
		return mt_fail(MT_NOMEM, "CUDA: no host memory for the device");
	device->backend = cuda;
	cuda->index = index;
	cuda->launch = (struct mt_cuda_launch){.sm_count = properties.multiProcessorCount,
					       .arch = properties.major * 10, /* 80 for sm_86 and sm_89 too, 100 for sm_103 */
					       .max_shared_bytes = (int)properties.sharedMemPerBlockOptin};
	enum mt_status st = open_parts(cuda);
	device->pinned_bytes = MT_GPU_PINNED_BYTES;
	if (st != MT_OK)
		close_cuda(device);
	return st;
}

/* Products of groups: how many rows each has is data, so each is planned anew. */
static enum mt_status run_groups(struct mt_device *device, struct mt_stream *stream, const struct mt_op *op)
{
	for (int64_t group = 0; group < op->grouped.groups; group++) {
		struct mt_op one;
		mt_op_group(op, group, &one);
		if (one.linear.rows > 0)
			MT_TRY(cuda_product_once(device, stream, &one));
	}
	return MT_OK;
}

/* The launch of operations that need `bytes` of scratch. */
static enum mt_status prepare(struct mt_stream *stream, size_t bytes, struct mt_cuda_launch *launch)
{
	*launch = cuda_of(stream->device)->launch;
	launch->stream = stream->native;
	launch->scratch_bytes = bytes;
	return cuda_scratch(stream, bytes, &launch->scratch);
}

static enum mt_status attend(struct mt_stream *stream, const struct mt_op *op)
{
	struct mt_cuda_attention *attention = cuda_of(stream->device)->attention;
	struct mt_cuda_launch launch;
	size_t bytes;
	MT_TRY(prepare(stream, 0, &launch));
	MT_TRY(mt_cuda_attention_choose(attention, &launch, op, &bytes));
	MT_TRY(prepare(stream, bytes, &launch));
	return mt_cuda_attention_run(attention, &launch, op);
}

enum mt_status cuda_kernel(struct mt_stream *stream, const struct mt_op *op)
{
	struct mt_cuda_launch launch;
	if (!kernels[op->kind])
		return mt_fail(MT_UNAVAILABLE, "the cuda device has no %s", mt_op_name(op->kind));
	MT_TRY(prepare(stream, mt_gpu_kernel_scratch_bytes(op), &launch));
	return kernels[op->kind](&launch, op);
}

/* Scratch is what the dry device counts before the operation says what it needs of it: attention alone takes what it has chosen. */
static enum mt_status enqueue(struct mt_device *device, struct mt_stream *stream, const struct mt_op *op)
{
	void *scratch;
	if (op->kind == MT_OP_ATTENTION || op->kind == MT_OP_ATTENTION_BWD)
		return attend(stream, op);
	MT_TRY(cuda_scratch(stream, mt_gpu_scratch_bytes(op, cuda_of(device)->launch.arch), &scratch));
	if (op->kind <= MT_OP_LINEAR_WGRAD)
		return cuda_product(device, stream, op);
	if (op->kind >= MT_OP_GROUPED && op->kind <= MT_OP_GROUPED_WGRAD)
		return run_groups(device, stream, op);
	return cuda_kernel(stream, op);
}

/* Updates of a bucket's parameters go together; the rest one by one. */
static enum mt_status enqueue_many(struct mt_device *device, struct mt_stream *stream, const struct mt_op *ops, int count)
{
	struct mt_cuda_launch launch;
	if (ops[0].kind == MT_OP_ADAMW) {
		MT_TRY(prepare(stream, 0, &launch));
		return mt_cuda_adamw_many(&launch, ops, count);
	}
	for (int i = 0; i < count; i++)
		MT_TRY(enqueue(device, stream, &ops[i]));
	return MT_OK;
}

static const struct mt_arena_backing *memory(struct mt_device *device)
{
	return &cuda_of(device)->memory;
}

static const struct mt_arena_backing *host_memory(struct mt_device *device)
{
	return &cuda_of(device)->host_memory;
}

static const struct mt_device_ops cuda_ops = {
	.kind = "cuda",
	.open = open_cuda,
	.close = close_cuda,
	.enqueue = enqueue,
	.upload = cuda_upload,
	.download = cuda_download,
	.copy = cuda_copy,
	.memory = memory,
	.enqueue_many = enqueue_many,
	.host_memory = host_memory,
	.async = &cuda_async,
};

static const struct mt_device_plugin plugin = {.ops = &cuda_ops, .list = cuda_list};

mt_plugin_entry megatune_plugin;

MT_PLUGIN_EXPORT const void *megatune_plugin(int abi)
{
	return abi == MT_DEVICE_ABI ? &plugin : NULL;
}
