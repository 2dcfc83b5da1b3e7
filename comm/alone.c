/* alone: one rank of a larger world that is not there. Collectives move what this rank has and leave the rest as it is, so
 * values are meaningless but shapes, buffers and kernels are those of the layout: for timing a rank's kernels without
 * waiting for a network. */
#include "comm/fabric.h"

#include <stdio.h>
#include <string.h>

static enum mt_status alone_open(struct mt_fabric *fabric, const struct mt_fabric_config *config)
{
	if (config->size < 1 || config->rank < 0 || config->rank >= config->size)
		return mt_fail(MT_INPUT, "fabric alone: rank %d of a world of %d", config->rank, config->size);
	fabric->rank = config->rank;
	fabric->size = config->size;
	fabric->local_rank = 0;
	fabric->local_size = 1;
	snprintf(fabric->library, sizeof fabric->library, "one rank alone");
	return mt_fabric_one_host(fabric);
}

/* This rank's part to where it belongs; the other parts of the result are whatever the buffer held. */
static enum mt_status alone_run(struct mt_group *group, struct mt_stream *stream, const struct mt_comm_call *call)
{
	size_t bytes = (size_t)call->count * mt_dtype_bytes(call->dtype), mine = bytes * (size_t)group->rank;

	MT_TRY(mt_stream_synchronize(stream));
	switch (call->op) {
	case MT_COMM_ALL_REDUCE:
		memmove(call->recv, call->send, bytes);
		break;
	case MT_COMM_REDUCE_SCATTER:
		memmove(call->recv, (const char *)call->send + mine, bytes);
		break;
	case MT_COMM_ALL_GATHER:
		memmove((char *)call->recv + mine, call->send, bytes);
		break;
	case MT_COMM_ALL_TO_ALL:
		memcpy((char *)call->recv + mine, (const char *)call->send + mine, bytes);
		break;
	default: /* a message or a broadcast leaves the buffer as it is */
		break;
	}
	return MT_OK;
}

const struct mt_fabric_ops mt_fabric_alone = {
	.kind = "alone",
	.open = alone_open,
	.run = alone_run,
	.executes = true,
};
