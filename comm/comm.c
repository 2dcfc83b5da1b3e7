/* comm: the calls of comm.h. Each checks its arguments, does groups of one rank as local copies, and hands the rest to the
 * group's fabric as one struct mt_comm_call. */
#include "comm/fabric.h"

#include <string.h>

const char *mt_comm_op_name(enum mt_comm_op op)
{
	static const char *const names[MT_COMM_OP_COUNT] = {"all_reduce", "reduce_scatter", "all_gather",
							    "all_to_all", "broadcast",      "shift",
							    "send_recv",  "barrier",        "all_to_all_v"};
	return (unsigned)op < MT_COMM_OP_COUNT ? names[op] : "unknown";
}

int64_t mt_comm_call_bytes(const struct mt_comm_call *call, int size)
{
	int64_t bytes = call->count * (int64_t)mt_dtype_bytes(call->dtype), units = 0;
	switch (call->op) {
	case MT_COMM_ALL_TO_ALL_V:
		for (int i = 0; i < size * call->chunks.each; i++)
			units += call->chunks.send_counts[i];
		return bytes * units;
	case MT_COMM_REDUCE_SCATTER:
	case MT_COMM_ALL_GATHER:
	case MT_COMM_ALL_TO_ALL:
		return bytes * size;
	default:
		return bytes;
	}
}

void mt_fabric_set_patience(struct mt_fabric *fabric, double frac)
{
	while (fabric->parent)
		fabric = fabric->parent;
	fabric->patience_frac = frac;
}

struct mt_comm_key mt_comm_cost_key(const struct mt_group *group, const struct mt_comm_call *call)
{
	bool message = call->op == MT_COMM_SEND_RECV;

	return (struct mt_comm_key){
		.op = call->op == MT_COMM_ALL_TO_ALL_V ? MT_COMM_ALL_TO_ALL : call->op,
		.dtype = call->dtype,
		.bytes = mt_comm_call_bytes(call, group->size),
		.size = group->size,
		.stride = group->stride,
		.group = group->name,
		.from = message && call->receiving ? call->peer
			: message                  ? group->rank
						   : 0,
		.to = message && !call->receiving ? call->peer
		      : message                   ? group->rank
						  : 0,
	};
}

int64_t mt_comm_chunks_bytes(const struct mt_comm_call *call, int size, bool receiving)
{
	const int64_t *counts = receiving ? call->chunks.recv_counts : call->chunks.send_counts;
	const int64_t *first = receiving ? call->chunks.recv_first : call->chunks.send_first;
	int64_t end = 0;

	for (int i = 0; i < size * call->chunks.each; i++) {
		if (counts[i] > 0 && first[i] + counts[i] > end)
			end = first[i] + counts[i];
	}
	return end * call->count * (int64_t)mt_dtype_bytes(call->dtype);
}

void mt_comm_trace(const struct mt_group *group, const struct mt_stream *stream, const struct mt_comm_call *call, double start_s,
		   double end_s)
{
	const struct mt_device *device = stream->device;
	if (!device->trace)
		return;
	struct mt_trace_event event = {
		.name = mt_comm_op_name(call->op),
		.group = group->name,
		.group_size = group->size,
		.bytes = mt_comm_call_bytes(call, group->size),
		.stream = stream->name,
		.start_s = start_s,
		.end_s = end_s,
	};
	device->trace(device->trace_context, &event);
}

/* The largest count whose bytes over the whole group still fit 63 bits. */
static bool count_fits(const struct mt_group *group, const struct mt_comm_call *call)
{
	int64_t each = (int64_t)mt_dtype_bytes(call->dtype) * group->size;
	return call->count >= 0 && call->count <= INT64_MAX / each;
}

static enum mt_status check(const struct mt_group *group, const struct mt_stream *stream, const struct mt_comm_call *call)
{
	const char *name = mt_comm_op_name(call->op);
	bool rooted = call->op == MT_COMM_BROADCAST || call->op == MT_COMM_SEND_RECV || call->op == MT_COMM_SHIFT;
	if ((unsigned)call->dtype >= MT_DTYPE_COUNT)
		return mt_fail(MT_INPUT, "%s on group %s: type %d is not known", name, group->name, call->dtype);
	if (mt_dtype_bytes(call->dtype) == 1 && (call->op == MT_COMM_ALL_REDUCE || call->op == MT_COMM_REDUCE_SCATTER))
		return mt_fail(MT_INPUT, "%s on group %s: %s is moved only, sums would not hold", name, group->name,
			       mt_dtype_name(call->dtype));
	if (!count_fits(group, call))
		return mt_fail(MT_INPUT, "%s on group %s: count %lld is out of range", name, group->name, (long long)call->count);
	if ((unsigned)call->reduction > MT_MAX)
		return mt_fail(MT_INPUT, "%s on group %s: reduction %d is not known", name, group->name, call->reduction);
	if (rooted && (call->peer < 0 || call->peer >= group->size))
		return mt_fail(MT_INPUT, "%s on group %s: rank %d is not in 0..%d", name, group->name, call->peer, group->size - 1);
	if (call->op == MT_COMM_SEND_RECV && call->peer == group->rank)
		return mt_fail(MT_INPUT, "%s on group %s: rank %d cannot send to itself", name, group->name, call->peer);
	if (group->fabric->ops != &mt_fabric_self && group->fabric->ops->executes != stream->device->info.stores)
		return mt_fail(MT_INPUT, "%s on group %s: fabric %s cannot work with device %s; dry goes with dry", name,
			       group->name, group->fabric->ops->kind, stream->device->info.kind);
	return MT_OK;
}

/* Chunks to this rank itself. */
static enum mt_status copy_chunks(struct mt_stream *stream, const struct mt_comm_call *call)
{
	size_t unit = (size_t)call->count * mt_dtype_bytes(call->dtype);

	for (int i = 0; i < call->chunks.each && stream->device->info.stores; i++) {
		if (call->chunks.send_counts[i] > 0)
			MT_TRY(mt_device_copy(stream->device, stream,
					      (char *)call->recv + (size_t)call->chunks.recv_first[i] * unit,
					      (const char *)call->send + (size_t)call->chunks.send_first[i] * unit,
					      (size_t)call->chunks.send_counts[i] * unit));
	}
	return MT_OK;
}

/* A group of one: the result is the input. */
static enum mt_status run_alone(struct mt_stream *stream, const struct mt_comm_call *call)
{
	if (call->op == MT_COMM_ALL_TO_ALL_V)
		return copy_chunks(stream, call);
	if (call->op == MT_COMM_BROADCAST || call->send == call->recv || call->count == 0 || !stream->device->info.stores)
		return MT_OK;
	return mt_device_copy(stream->device, stream, call->recv, call->send, (size_t)call->count * mt_dtype_bytes(call->dtype));
}

static enum mt_status run(struct mt_group *group, struct mt_stream *stream, const struct mt_comm_call *call)
{
	MT_TRY(check(group, stream, call));
	MT_TRY(mt_stream_flush(stream));
	if (group->size == 1)
		return run_alone(stream, call);
	return group->fabric->ops->run(group, stream, call);
}

enum mt_status mt_comm_all_reduce(struct mt_group *group, struct mt_stream *stream, const void *send, void *recv, int64_t count,
				  enum mt_dtype dtype, enum mt_reduction reduction)
{
	struct mt_comm_call call = {.op = MT_COMM_ALL_REDUCE, .send = send, .recv = recv, .count = count, .dtype = dtype};
	call.reduction = reduction;
	return run(group, stream, &call);
}

enum mt_status mt_comm_reduce_scatter(struct mt_group *group, struct mt_stream *stream, const void *send, void *recv, int64_t count,
				      enum mt_dtype dtype)
{
	struct mt_comm_call call = {.op = MT_COMM_REDUCE_SCATTER, .send = send, .recv = recv, .count = count, .dtype = dtype};
	return run(group, stream, &call);
}

enum mt_status mt_comm_all_gather(struct mt_group *group, struct mt_stream *stream, const void *send, void *recv, int64_t count,
				  enum mt_dtype dtype)
{
	struct mt_comm_call call = {.op = MT_COMM_ALL_GATHER, .send = send, .recv = recv, .count = count, .dtype = dtype};
	return run(group, stream, &call);
}

enum mt_status mt_comm_all_to_all(struct mt_group *group, struct mt_stream *stream, const void *send, void *recv, int64_t count,
				  enum mt_dtype dtype)
{
	struct mt_comm_call call = {.op = MT_COMM_ALL_TO_ALL, .send = send, .recv = recv, .count = count, .dtype = dtype};
	if (send == recv && count > 0 && group->size > 1)
		return mt_fail(MT_INPUT, "all_to_all on group %s: send and receive buffer are the same; it is not done in place",
			       group->name);
	return run(group, stream, &call);
}

enum mt_status mt_comm_shift(struct mt_group *group, struct mt_stream *stream, const void *send, void *recv, int64_t count,
			     enum mt_dtype dtype, int distance)
{
	struct mt_comm_call call = {.op = MT_COMM_SHIFT, .send = send, .recv = recv, .count = count, .dtype = dtype};
	call.peer = distance;
	if (send == recv && count > 0 && group->size > 1)
		return mt_fail(MT_INPUT, "shift on group %s: send and receive buffer are the same; it is not done in place",
			       group->name);
	return run(group, stream, &call);
}

/* What this rank sends itself must be what it expects, and no count be negative. */
static enum mt_status check_chunks(const struct mt_group *group, const struct mt_comm_chunks *c)
{
	for (int i = 0; i < group->size * c->each; i++) {
		if (c->send_counts[i] < 0 || c->recv_counts[i] < 0 || c->send_first[i] < 0 || c->recv_first[i] < 0)
			return mt_fail(MT_INPUT, "all_to_all_v on group %s: chunk %d of rank %d has a negative count or place",
				       group->name, i % c->each, i / c->each);
		if (i / c->each == group->rank && c->send_counts[i] != c->recv_counts[i])
			return mt_fail(MT_INPUT, "all_to_all_v on group %s: rank %d sends itself %lld and expects %lld",
				       group->name, group->rank, (long long)c->send_counts[i], (long long)c->recv_counts[i]);
	}
	return MT_OK;
}

enum mt_status mt_comm_all_to_all_v(struct mt_group *group, struct mt_stream *stream, const void *send, void *recv,
				    const struct mt_comm_chunks *chunks, int64_t count, enum mt_dtype dtype)
{
	struct mt_comm_call call = {.op = MT_COMM_ALL_TO_ALL_V, .send = send, .recv = recv, .count = count, .dtype = dtype};
	if (send == recv && count > 0)
		return mt_fail(MT_INPUT, "all_to_all_v on group %s: send and receive buffer are the same; it is not done in place",
			       group->name);
	if (chunks->each < 1)
		return mt_fail(MT_INPUT, "all_to_all_v on group %s: no chunk for each rank", group->name);
	MT_TRY(check_chunks(group, chunks));
	call.chunks = *chunks;
	return run(group, stream, &call);
}

enum mt_status mt_comm_broadcast(struct mt_group *group, struct mt_stream *stream, void *buffer, int64_t count, enum mt_dtype dtype,
				 int root)
{
	struct mt_comm_call call = {.op = MT_COMM_BROADCAST, .send = buffer, .recv = buffer, .count = count, .dtype = dtype};
	call.peer = root;
	return run(group, stream, &call);
}

enum mt_status mt_comm_send(struct mt_group *group, struct mt_stream *stream, const void *buffer, int64_t count,
			    enum mt_dtype dtype, int to)
{
	struct mt_comm_call call = {.op = MT_COMM_SEND_RECV, .send = buffer, .count = count, .dtype = dtype, .peer = to};
	return run(group, stream, &call);
}

enum mt_status mt_comm_recv(struct mt_group *group, struct mt_stream *stream, void *buffer, int64_t count, enum mt_dtype dtype,
			    int from)
{
	struct mt_comm_call call = {.op = MT_COMM_SEND_RECV, .recv = buffer, .count = count, .dtype = dtype, .peer = from};
	call.receiving = true;
	return run(group, stream, &call);
}

enum mt_status mt_comm_barrier(struct mt_group *group)
{
	return group->size > 1 && group->fabric->ops->barrier ? group->fabric->ops->barrier(group) : MT_OK;
}

enum mt_status mt_comm_host_all_reduce(struct mt_group *group, double *values, int count, enum mt_reduction reduction)
{
	if (group->size == 1 || !group->fabric->ops->host_all_reduce)
		return MT_OK;
	return group->fabric->ops->host_all_reduce(group, values, count, reduction);
}

enum mt_status mt_comm_host_all_gather(struct mt_group *group, const void *send, void *recv, size_t bytes_per_rank)
{
	char *to = recv;
	if (group->size > 1 && group->fabric->ops->host_all_gather)
		return group->fabric->ops->host_all_gather(group, send, recv, bytes_per_rank);
	for (int r = 0; r < group->size; r++)
		memmove(to + (size_t)r * bytes_per_rank, send, bytes_per_rank);
	return MT_OK;
}
