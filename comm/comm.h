/* comm: process groups and collectives over one of several fabrics, ordered on device streams.
 *
 * A fabric is this rank's membership in the world; a group is an ordered subset of the world's ranks. Collectives are
 * enqueued on a stream: on a comm stream they run beside the device's compute and make progress meanwhile; on a
 * compute stream they are in order with the kernels around them. All members of a group must call the same collectives
 * on it in the same order; a debug build (make DEBUG=1) checks that op, count and type agree and names the rank that differs.
 *
 * Counts are elements per rank as documented at each call. In-place use is allowed where the pointers are equal as
 * MPI and NCCL define it: all_reduce send == recv; all_gather send == recv + rank*count; reduce_scatter recv == send + rank*count.
 * Results are the same bits from run to run for the same group, and the same on every member (all_reduce).
 *
 * Fabrics: self (one rank), mpi (Open MPI, host memory), tcp (ranks without MPI, through rank 0: for little data),
 * dry (costs only, any number of ranks, one thread a rank), rehearsal (dry's costs and real messages over mpi, one process a rank),
 * nccl (NVIDIA GPUs, a plugin; layered on mpi or tcp for what is done
 * on the host),
 * alone (one rank of a world that is not there, for timing its kernels: results of collectives are meaningless). */
#ifndef MT_COMM_COMM_H
#define MT_COMM_COMM_H

#include "base/status.h"
#include "kernels/device.h"

#include <stdbool.h>
#include <stdint.h>

enum mt_comm_op {
	MT_COMM_ALL_REDUCE,
	MT_COMM_REDUCE_SCATTER,
	MT_COMM_ALL_GATHER,
	MT_COMM_ALL_TO_ALL,
	MT_COMM_BROADCAST,
	MT_COMM_SHIFT,     /* every rank sends to the one some places on */
	MT_COMM_SEND_RECV, /* a message between two ranks */
	MT_COMM_BARRIER,
	MT_COMM_ALL_TO_ALL_V, /* an all-to-all of any counts; costs are asked for as those of an all-to-all */
	MT_COMM_OP_COUNT
};

enum mt_reduction { MT_SUM, MT_MAX };

const char *mt_comm_op_name(enum mt_comm_op op); /* "all_reduce", ... */

/* What decides a collective's cost in the dry run: op, type, bytes (nccl-tests' S: see mt_comm_bus_factor) and the
 * group's place in the world: `size` ranks, `stride` apart (ranks r, r+stride, ...; 0 when not regular), all groups of
 * that kind busy at once. */
struct mt_comm_key {
	enum mt_comm_op op;
	enum mt_dtype dtype;
	int64_t bytes;
	int size, stride;
	const char *group; /* "tp", "dp", "pp", ... */
	int from, to;      /* SEND_RECV: group ranks; equal: between whichever two are slowest */
};

struct mt_comm_cost_source {
	double (*comm_s)(void *context, const struct mt_comm_key *key);
	void *context;
};

struct mt_fabric;
struct mt_group;

struct mt_fabric_config {
	const char *kind; /* "self", "mpi", "tcp", "nccl", "dry", "rehearsal", "alone" */
	/* dry and alone: this rank, the world's size; dry: and the shared state of all ranks of this dry run (mt_dry_world_create)
	 */
	int rank, size;
	struct mt_dry_world *dry_world;
	struct mt_comm_cost_source cost;
	double deadline_s; /* mpi, tcp, nccl, rehearsal: of the watchdog; 0: 600 s, below 0: none */
	/* nccl: the fabric that it is layered on, which is its own from then on; NULL: one of the launched kind. When nccl cannot
	 * be opened it stays the caller's. rehearsal: borrowed, of kind mpi or a block of such. */
	struct mt_fabric *base;
	struct mt_device *device; /* rehearsal: borrowed; whose host waits in host-side calls */
};

enum mt_status mt_fabric_create(struct mt_fabric **fabric, const struct mt_fabric_config *config);
/* Every group of the fabric must have been destroyed. mpi: collective; finalizes MPI if this fabric initialized it. */
void mt_fabric_destroy(struct mt_fabric *fabric);
/* An operation that waits longer for other ranks than this fails with MT_FAILED; the message names it and the ranks that are
 * behind. 0: 600 s; below 0: it waits for ever. */
void mt_fabric_set_deadline(struct mt_fabric *fabric, double deadline_s);
/* mpi: a rank that waits looks again after this part of the time it has waited (100 us to 2 ms), for more ranks than processors
 * whose kernels need none. 0: at once, then every 20 to 100 us. */
void mt_fabric_set_patience(struct mt_fabric *fabric, double frac);
/* Tells the fabric of memory that collectives will use often, so that it may be read and written without copies (nccl:
 * ncclCommRegister, by every group that moves data, now or when it first does). All ranks call it between the same two operations,
 * each with its own memory; where one rank's group is refused, none of its members has it. *handle is NULL where there is nothing
 * to do. No operation on the memory is under way when it is unregistered, which is before it goes. */
enum mt_status mt_fabric_register(struct mt_fabric *fabric, void *memory, size_t bytes, void **handle);
void mt_fabric_unregister(struct mt_fabric *fabric, void *handle); /* NULL is fine */
const char *const *mt_fabric_kinds(void);
/* The block of `size` consecutive ranks that holds this rank, as a fabric of its own; size must divide the fabric's. No
 * communication. Destroy it before the fabric. */
enum mt_status mt_fabric_block(struct mt_fabric **block, struct mt_fabric *fabric, int size);
/* The same ranks numbered anew: rank i is the fabric's rank order[i]. MT_INPUT unless each is named once. No communication.
 * Destroy it, after its groups, before the fabric. */
enum mt_status mt_fabric_order(struct mt_fabric **ordered, struct mt_fabric *fabric, const int *order);
/* True when this process was started by an MPI launcher (mpirun, srun with PMIx), so "mpi" is the right fabric. */
bool mt_fabric_launched(void);
/* The fabric for host-side work: "mpi" when so launched, "tcp" when `megatune launch`, torchrun or srun without MPI started several
 * ranks (comm/place.h), else "self". */
const char *mt_fabric_launched_kind(void);
/* Whether a fabric of that kind could be made here, without joining anybody. MT_UNAVAILABLE: what is missing. */
enum mt_status mt_fabric_usable(const char *kind);
const char *mt_fabric_kind(const struct mt_fabric *fabric);
int mt_fabric_rank(const struct mt_fabric *fabric);
int mt_fabric_size(const struct mt_fabric *fabric);
/* Rank among, and number of, the ranks on this rank's host. */
int mt_fabric_local_rank(const struct mt_fabric *fabric);
int mt_fabric_local_size(const struct mt_fabric *fabric);
/* Name of the host of any rank (exchanged when the fabric is made). */
const char *mt_fabric_host(const struct mt_fabric *fabric, int rank);
/* Library and transport, "Open MPI 4.1.4". */
const char *mt_fabric_library(const struct mt_fabric *fabric);
/* Ends the whole job at once after a failure on this rank (MPI_Abort; exit elsewhere). Does not return. */
void mt_fabric_abort(struct mt_fabric *fabric, int exit_code) __attribute__((noreturn));

/* The state that the ranks of one dry run share: mailboxes of messages between stages. Thread-safe. */
struct mt_dry_world;
enum mt_status mt_dry_world_create(struct mt_dry_world **world, int size);
void mt_dry_world_destroy(struct mt_dry_world *world);
/* A rank that failed or ended early: wakes those who wait for it, who then get MT_FAILED. */
void mt_dry_world_poison(struct mt_dry_world *world, const char *why);

/* A group of `count` distinct world ranks, this rank among them; collective over its members only, in the same order of
 * groups on every member. `name` is copied (at most 15 characters). ranks[i] becomes group rank i. */
enum mt_status mt_group_create(struct mt_fabric *fabric, const char *name, const int *ranks, int count, struct mt_group **group);
/* The group of all ranks of a fabric, in order. */
enum mt_status mt_group_create_all(struct mt_fabric *fabric, const char *name, struct mt_group **group);
void mt_group_destroy(struct mt_group *group);
int mt_group_rank(const struct mt_group *group);
int mt_group_size(const struct mt_group *group);
int mt_group_world_rank(const struct mt_group *group, int group_rank);

/* recv[i] = reduction over ranks of send[i], i < count. dtypes: f32, bf16 and f16 (summed pairwise in f32, rounded), f64, i32. */
enum mt_status mt_comm_all_reduce(struct mt_group *group, struct mt_stream *stream, const void *send, void *recv, int64_t count,
				  enum mt_dtype dtype, enum mt_reduction reduction);
/* recv[i] = sum over ranks of send[rank*count + i], i < count. */
enum mt_status mt_comm_reduce_scatter(struct mt_group *group, struct mt_stream *stream, const void *send, void *recv, int64_t count,
				      enum mt_dtype dtype);
/* recv[r*count + i] = rank r's send[i], i < count. */
enum mt_status mt_comm_all_gather(struct mt_group *group, struct mt_stream *stream, const void *send, void *recv, int64_t count,
				  enum mt_dtype dtype);
/* recv[r*count + i] = rank r's send[rank*count + i], i < count; not in place. */
enum mt_status mt_comm_all_to_all(struct mt_group *group, struct mt_stream *stream, const void *send, void *recv, int64_t count,
				  enum mt_dtype dtype);
/* recv = send of the rank `distance` places before this one, round the end, for all members at once; not in place. */
enum mt_status mt_comm_shift(struct mt_group *group, struct mt_stream *stream, const void *send, void *recv, int64_t count,
			     enum mt_dtype dtype, int distance);
/* The same of any counts: `each` chunks go to every rank. Chunk (r, i), at r*each + i of these arrays, is send_counts units of
 * `count` elements from unit send_first on, and likewise where it arrives: the i-th chunk that a rank sends here is its i-th
 * here. Both sides must know the counts; empty chunks are not sent. Not in place; the arrays must live until it is over. */
struct mt_comm_chunks {
	int each;
	const int64_t *send_counts, *send_first, *recv_counts, *recv_first;
};
enum mt_status mt_comm_all_to_all_v(struct mt_group *group, struct mt_stream *stream, const void *send, void *recv,
				    const struct mt_comm_chunks *chunks, int64_t count, enum mt_dtype dtype);
enum mt_status mt_comm_broadcast(struct mt_group *group, struct mt_stream *stream, void *buffer, int64_t count, enum mt_dtype dtype,
				 int root);
/* Messages between group ranks; a send completes when its buffer may be reused. Messages from one rank to another on
 * one group are received in the order sent. */
enum mt_status mt_comm_send(struct mt_group *group, struct mt_stream *stream, const void *buffer, int64_t count,
			    enum mt_dtype dtype, int to);
enum mt_status mt_comm_recv(struct mt_group *group, struct mt_stream *stream, void *buffer, int64_t count, enum mt_dtype dtype,
			    int from);
/* Host-side: returns when every member has called it. */
enum mt_status mt_comm_barrier(struct mt_group *group);
/* Host-side helpers on small host arrays (statistics, agreement): blocking, any fabric. Dry: identity / own value repeated. */
enum mt_status mt_comm_host_all_reduce(struct mt_group *group, double *values, int count, enum mt_reduction reduction);
enum mt_status mt_comm_host_all_gather(struct mt_group *group, const void *send, void *recv, size_t bytes_per_rank);

/* nccl-tests' definitions. S bytes: all_reduce, broadcast, send_recv: the buffer; reduce_scatter, all_gather, all_to_all:
 * the whole (size * count). algbw = S/t, busbw = algbw * factor: 2(n-1)/n all_reduce, (n-1)/n the three, 1 broadcast and send_recv.
 */
double mt_comm_bus_factor(enum mt_comm_op op, int size);

/* A cost curve: seconds over bytes of one (op, dtype, size, stride), measured; between the points straight in
 * log-log, below the first flat, beyond the last straight on, as steep as between the last two or beta. */
struct mt_comm_curve {
	enum mt_comm_op op;
	enum mt_dtype dtype;
	int size, stride;
	int points;
	double bytes[24], seconds[24], spread_s[24]; /* spread: MAD of the samples */
	double alpha_s, beta_s_per_byte;             /* fitted: seconds = alpha + beta * bytes */
	double residual_frac;                        /* root mean square relative error of that fit */
};
double mt_comm_curve_s(const struct mt_comm_curve *curve, double bytes);

#endif
