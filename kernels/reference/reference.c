/* reference: plain loops on one thread, for every operation and type. They define each answer; fast backends are tested
 * against them. */
#include "kernels/reference/reference.h"

#include "kernels/backends.h"

#include <stdio.h>

static enum mt_status (*const kernels[MT_OP_KIND_COUNT])(const struct mt_op *op) = {
	[MT_OP_LINEAR] = mt_reference_linear,
	[MT_OP_LINEAR_DGRAD] = mt_reference_linear_dgrad,
	[MT_OP_LINEAR_WGRAD] = mt_reference_linear_wgrad,
	[MT_OP_ATTENTION] = mt_reference_attention,
	[MT_OP_ATTENTION_BWD] = mt_reference_attention_bwd,
	[MT_OP_NORM] = mt_reference_norm,
	[MT_OP_NORM_BWD] = mt_reference_norm_bwd,
	[MT_OP_ACTIVATION] = mt_reference_activation,
	[MT_OP_ACTIVATION_BWD] = mt_reference_activation_bwd,
	[MT_OP_ROPE] = mt_reference_rope,
	[MT_OP_EMBEDDING] = mt_reference_embedding,
	[MT_OP_EMBEDDING_BWD] = mt_reference_embedding_bwd,
	[MT_OP_ADD] = mt_reference_add,
	[MT_OP_BIAS_GRAD] = mt_reference_bias_grad,
	[MT_OP_LOSS_STATS] = mt_reference_loss_stats,
	[MT_OP_LOSS] = mt_reference_loss,
	[MT_OP_CAST] = mt_reference_cast,
	[MT_OP_FILL] = mt_reference_fill,
	[MT_OP_COPY] = mt_reference_copy,
	[MT_OP_SUMSQ] = mt_reference_sumsq,
	[MT_OP_ADAMW] = mt_reference_adamw,
	[MT_OP_SGD] = mt_reference_sgd,
	[MT_OP_COMBINE] = mt_reference_combine,
	[MT_OP_AMAX] = mt_reference_amax,
	[MT_OP_FP8_SCALE] = mt_reference_fp8_scale,
	[MT_OP_QUANTIZE] = mt_reference_quantize,
	[MT_OP_GROUPED] = mt_reference_grouped,
	[MT_OP_GROUPED_DGRAD] = mt_reference_grouped,
	[MT_OP_GROUPED_WGRAD] = mt_reference_grouped,
	[MT_OP_ROUTE] = mt_reference_route,
	[MT_OP_ROUTE_SUMS] = mt_reference_route_sums,
	[MT_OP_ROUTE_LOSS] = mt_reference_route_loss,
	[MT_OP_ROUTE_BWD] = mt_reference_route_bwd,
	[MT_OP_DROP] = mt_reference_drop,
	[MT_OP_DISPATCH] = mt_reference_dispatch,
	[MT_OP_GATHER_ROWS] = mt_reference_gather_rows,
	[MT_OP_SUM_ROWS] = mt_reference_sum_rows,
	[MT_OP_EXPERT_ACT] = mt_reference_expert_act,
	[MT_OP_EXPERT_ACT_BWD] = mt_reference_expert_act,
	[MT_OP_SPREAD] = mt_reference_spread,
	[MT_OP_SPREAD_BWD] = mt_reference_spread_bwd,
};

static enum mt_status open_reference(struct mt_device *device, const struct mt_device_config *config)
{
	snprintf(device->info.name, sizeof device->info.name, "host, plain loops");
	return MT_OK;
}

static void close_reference(struct mt_device *device)
{
}

static enum mt_status enqueue(struct mt_device *device, struct mt_stream *stream, const struct mt_op *op)
{
	return kernels[op->kind](op);
}

static const struct mt_arena_backing *memory(struct mt_device *device)
{
	return &mt_arena_host;
}

const struct mt_device_ops mt_device_reference_ops = {
	.kind = "reference",
	.open = open_reference,
	.close = close_reference,
	.enqueue = enqueue,
	.upload = mt_host_copy,
	.download = mt_host_copy,
	.copy = mt_host_copy,
	.memory = memory,
};
