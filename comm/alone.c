/* alone: one rank of a larger world that is not there. Collectives put what this rank has in every other rank's place, so
 * values are meaningless but finite, and shapes, buffers and kernels are those of the layout: for timing a rank's kernels
 * without waiting for a network. (A gather that left the other parts as they were would bring NaN out of fresh memory, and a
 * step whose gradients are not finite skips its optimizer.) */
#include "comm/fabric.h"

#include <stdio.h>

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

/* This rank's part of `recv`, from `mine`, then that part in place of all others. */
static enum mt_status spread(const struct mt_group *group, struct mt_stream *stream, char *recv, const void *mine, size_t bytes)
{
	char *own = recv + (size_t)group->rank * bytes;

	MT_TRY(mt_device_copy(stream->device, stream, own, mine, bytes));
	for (int r = 0; r < group->size; r++) {
		if (r != group->rank)
			MT_TRY(mt_device_copy(stream->device, stream, recv + (size_t)r * bytes, own, bytes));
	}
	return MT_OK;
}

/* Every rank sends this one what it sends itself, as far as that is what is expected. */
static enum mt_status spread_chunks(const struct mt_group *group, struct mt_stream *stream, const struct mt_comm_call *call)
{
	const struct mt_comm_chunks *c = &call->chunks;
	size_t unit = (size_t)call->count * mt_dtype_bytes(call->dtype);

	for (int i = 0; i < group->size * c->each; i++) {
		int own = group->rank * c->each + i % c->each;
		int64_t count = c->recv_counts[i] < c->send_counts[own] ? c->recv_counts[i] : c->send_counts[own];

		if (count > 0)
			MT_TRY(mt_device_copy(stream->device, stream, (char *)call->recv + (size_t)c->recv_first[i] * unit,
					      (const char *)call->send + (size_t)c->send_first[own] * unit, (size_t)count * unit));
	}
	return MT_OK;
}

static enum mt_status alone_run(struct mt_group *group, struct mt_stream *stream, const struct mt_comm_call *call)
{
	size_t bytes = (size_t)call->count * mt_dtype_bytes(call->dtype), mine = bytes * (size_t)group->rank;

	switch (call->op) {
	case MT_COMM_ALL_REDUCE:
	case MT_COMM_SHIFT:
		return mt_device_copy(stream->device, stream, call->recv, call->send, bytes);
	case MT_COMM_REDUCE_SCATTER:
		return mt_device_copy(stream->device, stream, call->recv, (const char *)call->send + mine, bytes);
	case MT_COMM_ALL_GATHER:
		return spread(group, stream, call->recv, call->send, bytes);
	case MT_COMM_ALL_TO_ALL:
		return spread(group, stream, call->recv, (const char *)call->send + mine, bytes);
	case MT_COMM_ALL_TO_ALL_V:
		return spread_chunks(group, stream, call);
	default: /* a message or a broadcast leaves the buffer as it is */
		return MT_OK;
	}
}

const struct mt_fabric_ops mt_fabric_alone = {
	.kind = "alone",
	.open = alone_open,
	.run = alone_run,
	.executes = true,
};
