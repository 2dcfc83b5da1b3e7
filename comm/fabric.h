/* fabric: inside comm. What every fabric shares, and the table of functions that a fabric is. */
#ifndef MT_COMM_FABRIC_H
#define MT_COMM_FABRIC_H

#include "comm/comm.h"

#define MT_FABRIC_HOST 256

/* One data operation as the caller asked for it. `peer`: root of a broadcast, destination of a send, source of a receive,
 * distance of a shift. */
struct mt_comm_call {
	enum mt_comm_op op;
	bool receiving; /* SEND_RECV: this side receives */
	const void *send;
	void *recv;
	int64_t count;
	enum mt_dtype dtype;
	enum mt_reduction reduction;
	int peer;
	struct mt_comm_chunks chunks; /* ALL_TO_ALL_V */
};

/* The functions of a fabric, in this order in every fabric; NULL means nothing to do there. Groups of one rank never
 * reach `run`, `barrier` and the host helpers: comm.c does them locally. */
struct mt_fabric_ops {
	const char *kind;
	enum mt_status (*open)(struct mt_fabric *fabric, const struct mt_fabric_config *config);
	void (*close)(struct mt_fabric *fabric);
	void (*abort)(struct mt_fabric *fabric, int exit_code);
	enum mt_status (*group_open)(struct mt_group *group);
	void (*group_close)(struct mt_group *group);
	enum mt_status (*run)(struct mt_group *group, struct mt_stream *stream, const struct mt_comm_call *call);
	enum mt_status (*barrier)(struct mt_group *group);
	enum mt_status (*host_all_reduce)(struct mt_group *group, double *values, int count, enum mt_reduction reduction);
	enum mt_status (*host_all_gather)(struct mt_group *group, const void *send, void *recv, size_t bytes_per_rank);
	/* NULL: nothing to register. */
	enum mt_status (*register_memory)(struct mt_fabric *fabric, void *memory, size_t bytes, void **handle);
	void (*unregister_memory)(struct mt_fabric *fabric, void *handle);
	bool executes; /* moves data; false: costs only. Must agree with what the stream's device stores. */
	/* What is missing on this machine, found without joining anybody. NULL: nothing can be. */
	enum mt_status (*usable)(void);
};

struct mt_fabric {
	const struct mt_fabric_ops *ops;
	int rank, size, local_rank, local_size;
	char (*hosts)[MT_FABRIC_HOST]; /* owned: one a rank, or one for all */
	int host_entries;
	char library[64];
	int groups;                   /* alive */
	struct mt_watchdog *watchdog; /* owned by the backend; NULL: none */
	double patience_frac;         /* mt_fabric_set_patience; of the topmost parent */
	struct mt_fabric *parent;     /* a block of a larger fabric: the groups are made there; else NULL */
	int first;                    /* world rank, in the parent, of the block's rank 0 */
	int *order, *place;           /* owned; of an order: the parent's rank of each, and back; else NULL */
	void *backend;                /* owned by the fabric's open and close */
};

struct mt_group {
	struct mt_fabric *fabric;
	char name[16];
	int rank, size, stride;
	int first;        /* what to take from ranks[] when the group was made through a block */
	const int *place; /* of the order through which it was made; else NULL */
	int *ranks;       /* owned: world ranks */
	uint64_t id;      /* the same on all members: of name and ranks; never 0 */
	void *backend;    /* owned by group_open and group_close */
};

extern const struct mt_fabric_ops mt_fabric_self, mt_fabric_alone, mt_fabric_mpi, mt_fabric_tcp, mt_fabric_dry, mt_fabric_rehearsal;

/* Of an ALL_TO_ALL_V: bytes from the start of the buffer to the end of the last chunk. */
int64_t mt_comm_chunks_bytes(const struct mt_comm_call *call, int size, bool receiving);
/* nccl-tests' S of a call. */
int64_t mt_comm_call_bytes(const struct mt_comm_call *call, int size);
/* What a call costs by the sources of virtual clocks. */
struct mt_comm_key mt_comm_cost_key(const struct mt_group *group, const struct mt_comm_call *call);
/* Gives the device's trace sink one piece of work, if tracing is on. */
void mt_comm_trace(const struct mt_group *group, const struct mt_stream *stream, const struct mt_comm_call *call, double start_s,
		   double end_s);
/* Of fabrics that are plugins: the table is of this version when the numbers agree. */
#define MT_FABRIC_ABI                                                                                                              \
	((int)(2 + sizeof(struct mt_fabric_ops) + 31 * sizeof(struct mt_fabric) + 1009 * sizeof(struct mt_group) +                 \
	       10007 * sizeof(struct mt_comm_call) + 100003 * sizeof(struct mt_stream)))
/* Name of this host in hosts[0]; for fabrics of one process. */
enum mt_status mt_fabric_one_host(struct mt_fabric *fabric);

#endif
