/* A double of the functions of libnccl that comm/nccl*.c use, in host memory over TCP: linked with those files into a plugin for
 * tests. Streams are those of nccl_double.h. Like NCCL's: ranks meet where the unique id says, communicators are made in the
 * background, operations of a communicator run one after the other in the order they were enqueued, and an abort ends what waits.
 *
 * The id is the place of a board (comm/board.h) that the rank served which made it; all messages go through that.
 *
 * NCCL_DOUBLE_FAULT, read at each call: "hang R": on world rank R operations do nothing until the abort; "async R": and the
 * communicator reports an asynchronous error; "init": no communicator can be made; "register R": rank R's memory is refused.
 * NCCL_DOUBLE_REPORT, a file: each communicator that is destroyed adds a line of what was registered and used there. */
#include "comm/board.h"
#include "comm/reduce.h"
#include "tests/nccl_double.h"

#include <nccl.h>
#include <stdio.h>
#include <unistd.h>

#define MOST_ACTS 256
#define TOKEN     0xd0b1e

struct ncclComm {
	struct mt_board *board; /* owned; of whoever's turn it is */
	int size, rank, port;
	char name[32];     /* first part of its keys */
	_Atomic int state; /* ncclResult_t */
	_Atomic int aborted;
	_Atomic uint64_t turn; /* of the next operation to run */
	uint64_t enqueued, collectives;
	int splits;
	pthread_t maker;
	int makes;                                     /* the thread is to be joined */
	struct ncclComm *wreck;                        /* aborted before it */
	char label[16];                                /* the group's name */
	struct range *ranges;                          /* owned */
	int registered, deregistered, inside, outside; /* ranges; collectives whose buffers all lie in one, or not */
};

struct range {
	struct range *next;
	uintptr_t begin, end;
};

struct seed {
	int port, salt;
};

enum kind { ALL_REDUCE, REDUCE_SCATTER, ALL_GATHER, BROADCAST, SEND, RECEIVE };

struct act {
	enum kind kind;
	const void *send;
	void *recv;
	size_t count;
	enum mt_dtype dtype;
	enum mt_reduction reduction;
	int peer;
};

struct operation {
	ncclComm_t comm;
	struct act acts[MOST_ACTS];
	int count;
	uint64_t turn, number;
	int fault; /* 1: hang, 2: asynchronous error */
};

static _Thread_local struct operation *batch;
static _Thread_local struct threaded_stream *batch_stream;
static _Thread_local int depth;

static int fault_here(void)
{
	const char *fault = getenv("NCCL_DOUBLE_FAULT"), *mpi = getenv("OMPI_COMM_WORLD_RANK"), *own = getenv("RANK");
	int rank = mpi ? atoi(mpi) : own ? atoi(own) : 0, at;
	if (fault && sscanf(fault, "hang %d", &at) == 1)
		return at == rank ? 1 : 0;
	if (fault && sscanf(fault, "async %d", &at) == 1)
		return at == rank ? 2 : 0;
	if (fault && sscanf(fault, "register %d", &at) == 1)
		return at == rank ? 4 : 0;
	return fault && !strcmp(fault, "init") ? 3 : 0;
}

ncclResult_t ncclGetVersion(int *version)
{
	*version = NCCL_VERSION_CODE;
	return ncclSuccess;
}

/* Served until the process ends. */
ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
	static struct mt_board_server *server;
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static int next;
	struct seed seed;
	pthread_mutex_lock(&lock);
	if (!server && mt_board_serve(&server, 0, TOKEN, true) != MT_OK)
		abort();
	seed = (struct seed){.port = mt_board_port(server), .salt = next++};
	pthread_mutex_unlock(&lock);
	memset(id, 0, sizeof *id);
	memcpy(id->internal, &seed, sizeof seed);
	return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result)
{
	return result == ncclRemoteError ? "remote process exited or there was a network error" : "unhandled system error";
}

const char *ncclGetLastError(ncclComm_t comm)
{
	return "the double was told so";
}

/* ---- communicators ---- */

static bool is_aborted(void *context)
{
	return atomic_load(&((ncclComm_t)context)->aborted) != 0;
}

/* All have come when each has heard of the others. */
static void *make(void *context)
{
	ncclComm_t c = context;
	char key[MT_BOARD_KEY], *all = calloc((size_t)c->size, 1);
	if (!all || mt_board_connect(&c->board, "127.0.0.1", c->port, TOKEN, 20) != MT_OK)
		abort();
	mt_board_cancel_when(c->board, is_aborted, c);
	snprintf(key, sizeof key, "%s/made", c->name);
	if (mt_board_gather(c->board, key, c->rank, c->size, "", 1, all) == MT_OK)
		atomic_store(&c->state, ncclSuccess);
	mt_error_clear();
	free(all);
	return NULL;
}

static ncclResult_t begin(ncclComm_t *comm, int size, int rank, int port, const char *name, const ncclConfig_t *config)
{
	ncclComm_t c = calloc(1, sizeof *c);
	if (!c || fault_here() == 3) {
		free(c);
		return ncclSystemError;
	}
	c->size = size;
	c->rank = rank;
	c->port = port;
	snprintf(c->name, sizeof c->name, "%s", name);
	snprintf(c->label, sizeof c->label, "%s", config->commName);
	atomic_store(&c->state, ncclInProgress);
	c->makes = pthread_create(&c->maker, NULL, make, c) == 0;
	*comm = c;
	return ncclInProgress;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int nranks, ncclUniqueId id, int rank, ncclConfig_t *config)
{
	struct seed seed;
	char name[32];
	memcpy(&seed, id.internal, sizeof seed);
	snprintf(name, sizeof name, "%d", seed.salt);
	return config->blocking == 0 ? begin(comm, nranks, rank, seed.port, name, config) : ncclInvalidArgument;
}

ncclResult_t ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t *child, ncclConfig_t *config)
{
	char name[32];
	snprintf(name, sizeof name, "%.20s.%d", comm->name, comm->splits++);
	if (getenv("NCCL_DOUBLE_SPLITS"))
		setenv("NCCL_DOUBLE_SPLITS", "seen", 1);
	return color == 0 && config->blocking == 0 ? begin(child, comm->size, key, comm->port, name, config) : ncclInvalidArgument;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error)
{
	*error = (ncclResult_t)atomic_load(&comm->state);
	return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm)
{
	return ncclSuccess;
}

static void report(ncclComm_t comm)
{
	const char *path = getenv("NCCL_DOUBLE_REPORT");
	FILE *file = path ? fopen(path, "a") : NULL;
	if (!file)
		return;
	fprintf(file, "%s: rank %d: %d registered, %d deregistered, %d inside, %d outside\n", comm->label, comm->rank,
		comm->registered, comm->deregistered, comm->inside, comm->outside);
	fclose(file);
}

ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
	report(comm);
	if (comm->makes)
		pthread_join(comm->maker, NULL);
	mt_board_close(comm->board);
	free(comm);
	return ncclSuccess;
}

/* Its operations are on streams' threads still: the communicator is never freed. */
ncclResult_t ncclCommAbort(ncclComm_t comm)
{
	static _Atomic(ncclComm_t) wrecks;
	atomic_store(&comm->aborted, 1);
	comm->wreck = atomic_exchange(&wrecks, comm);
	return ncclSuccess;
}

ncclResult_t ncclCommRegister(const ncclComm_t comm, void *buffer, size_t size, void **handle)
{
	struct range *range = calloc(1, sizeof *range);
	if (!range)
		abort();
	if (!size || fault_here() == 4) {
		free(range);
		return ncclInvalidUsage;
	}
	*range = (struct range){.next = comm->ranges, .begin = (uintptr_t)buffer, .end = (uintptr_t)buffer + size};
	comm->ranges = range;
	comm->registered++;
	*handle = range;
	return ncclSuccess;
}

ncclResult_t ncclCommDeregister(const ncclComm_t comm, void *handle)
{
	struct range **at = &comm->ranges;
	while (*at && *at != handle)
		at = &(*at)->next;
	if (!*at)
		return ncclInvalidUsage;
	*at = (*at)->next;
	comm->deregistered++;
	free(handle);
	return ncclSuccess;
}

static bool is_inside(const struct ncclComm *comm, const void *buffer, size_t bytes)
{
	uintptr_t begin = (uintptr_t)buffer;
	for (const struct range *r = comm->ranges; r; r = r->next)
		if (begin >= r->begin && begin + bytes <= r->end)
			return true;
	return false;
}

/* ---- operations ---- */

static size_t row_of(const struct act *a)
{
	return a->count * mt_dtype_bytes(a->dtype);
}

static void key_of(const struct operation *o, int act, int from, int to, char key[MT_BOARD_KEY])
{
	if (o->acts[act].kind >= SEND)
		snprintf(key, MT_BOARD_KEY, "%s/m/%d-%d", o->comm->name, from, to);
	else
		snprintf(key, MT_BOARD_KEY, "%s/%llu/%d-%d", o->comm->name, (unsigned long long)o->number, from, to);
}

static bool send(const struct operation *o, int act, const char *data, size_t bytes, int to)
{
	char key[MT_BOARD_KEY];
	key_of(o, act, o->comm->rank, to, key);
	return mt_board_send(o->comm->board, key, data, bytes) == MT_OK;
}

static bool take(const struct operation *o, int act, char *data, size_t bytes, int from)
{
	char key[MT_BOARD_KEY];
	key_of(o, act, from, o->comm->rank, key);
	return mt_board_take(o->comm->board, key, data, bytes) == MT_OK;
}

/* What this rank has to say: all of it before it listens. */
static bool start(const struct operation *o, int act)
{
	const struct act *a = &o->acts[act];
	size_t row = row_of(a);
	bool fine = true;
	if (a->kind == SEND)
		return send(o, act, a->send, row, a->peer);
	for (int r = 0; r < o->comm->size && fine && a->kind != RECEIVE; r++)
		if (a->kind != BROADCAST || (a->peer == o->comm->rank && r != a->peer))
			fine = send(o, act, (const char *)a->send + (a->kind == REDUCE_SCATTER ? (size_t)r * row : 0), row, r);
	return fine;
}

static bool reduce(const struct operation *o, int act)
{
	const struct act *a = &o->acts[act];
	size_t row = row_of(a);
	char *sum = malloc(row + 1), *part = malloc(row + 1);
	bool fine = sum && part && take(o, act, sum, row, 0);
	for (int r = 1; r < o->comm->size && fine; r++) {
		fine = take(o, act, part, row, r);
		if (fine)
			mt_comm_combine(sum, sum, part, (int64_t)a->count, a->dtype, a->reduction);
	}
	if (fine)
		memcpy(a->recv, sum, row);
	free(sum);
	free(part);
	return fine;
}

static bool finish(const struct operation *o, int act)
{
	const struct act *a = &o->acts[act];
	size_t row = row_of(a);
	bool fine = true;
	switch (a->kind) {
	case ALL_REDUCE:
	case REDUCE_SCATTER:
		return reduce(o, act);
	case ALL_GATHER:
		for (int r = 0; r < o->comm->size && fine; r++)
			fine = take(o, act, (char *)a->recv + (size_t)r * row, row, r);
		return fine;
	case BROADCAST:
		return a->peer == o->comm->rank || take(o, act, a->recv, row, a->peer);
	case RECEIVE:
		return take(o, act, a->recv, row, a->peer);
	default:
		return true;
	}
}

static void execute(void *context)
{
	struct operation *o = context;
	ncclComm_t c = o->comm;
	bool fine = true;
	while (atomic_load(&c->turn) != o->turn && !atomic_load(&c->aborted))
		usleep(20);
	if (o->fault == 2)
		atomic_store(&c->state, ncclRemoteError);
	while (o->fault && !atomic_load(&c->aborted))
		usleep(20);
	for (int i = 0; i < o->count && fine && !atomic_load(&c->aborted); i++)
		fine = start(o, i);
	for (int i = 0; i < o->count && fine && !atomic_load(&c->aborted); i++)
		fine = finish(o, i);
	/* As NCCL does when a peer's connection is gone. */
	if (!fine && !atomic_load(&c->aborted))
		atomic_store(&c->state, ncclRemoteError);
	while (!fine && !atomic_load(&c->aborted))
		usleep(20);
	mt_error_clear();
	if (!atomic_load(&c->aborted))
		atomic_fetch_add(&c->turn, 1);
	free(o);
}

static void note_memory(ncclComm_t comm, const struct act *a)
{
	size_t whole = row_of(a) * (size_t)comm->size;
	size_t send = a->kind == REDUCE_SCATTER ? whole : row_of(a), recv = a->kind == ALL_GATHER ? whole : row_of(a);
	if (is_inside(comm, a->send, send) && is_inside(comm, a->recv, recv))
		comm->inside++;
	else
		comm->outside++;
}

static void launch(struct operation *o, struct threaded_stream *stream)
{
	if (o->acts[0].kind < BROADCAST)
		note_memory(o->comm, &o->acts[0]);
	o->turn = o->comm->enqueued++;
	if (o->acts[0].kind < SEND)
		o->number = o->comm->collectives++;
	o->fault = fault_here();
	if (o->fault > 2) /* none of operations */
		o->fault = 0;
	threaded_push(stream, execute, o);
}

static ncclResult_t enqueue(ncclComm_t comm, cudaStream_t stream, struct act act, ncclDataType_t type)
{
	struct operation *o = batch;
	act.dtype = type == ncclFloat32    ? MT_F32
		    : type == ncclFloat64  ? MT_F64
		    : type == ncclBfloat16 ? MT_BF16
		    : type == ncclFloat16  ? MT_F16
		    : type == ncclUint8    ? MT_E4M3
					   : MT_I32;
	if (!o && !(o = calloc(1, sizeof *o)))
		abort();
	if (o->count == MOST_ACTS || (o->count && o->comm != comm))
		return ncclInvalidUsage; // cppcheck-suppress memleak
	o->comm = comm;
	o->acts[o->count++] = act;
	if (depth) {
		batch = o;
		batch_stream = (struct threaded_stream *)stream;
	} else {
		launch(o, (struct threaded_stream *)stream);
	}
	return ncclSuccess;
}

/* nccl.h declares these without a prototype. */
ncclResult_t ncclGroupStart(void);
ncclResult_t ncclGroupEnd(void);

ncclResult_t ncclGroupStart(void)
{
	depth++;
	return ncclSuccess;
}

ncclResult_t ncclGroupEnd(void)
{
	if (--depth == 0 && batch) {
		launch(batch, batch_stream);
		batch = NULL;
	}
	return ncclSuccess;
}

ncclResult_t ncclAllReduce(const void *send, void *recv, size_t count, ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,
			   cudaStream_t stream)
{
	struct act act = {.kind = ALL_REDUCE, .send = send, .recv = recv, .count = count};
	act.reduction = op == ncclMax ? MT_MAX : MT_SUM;
	return enqueue(comm, stream, act, type);
}

ncclResult_t ncclReduceScatter(const void *send, void *recv, size_t count, ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,
			       cudaStream_t stream)
{
	struct act act = {.kind = REDUCE_SCATTER, .send = send, .recv = recv, .count = count};
	return op == ncclSum ? enqueue(comm, stream, act, type) : ncclInvalidArgument;
}

ncclResult_t ncclAllGather(const void *send, void *recv, size_t count, ncclDataType_t type, ncclComm_t comm, cudaStream_t stream)
{
	return enqueue(comm, stream, (struct act){.kind = ALL_GATHER, .send = send, .recv = recv, .count = count}, type);
}

ncclResult_t ncclBroadcast(const void *send, void *recv, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
			   cudaStream_t stream)
{
	return enqueue(comm, stream, (struct act){.kind = BROADCAST, .send = send, .recv = recv, .count = count, .peer = root},
		       type);
}

ncclResult_t ncclSend(const void *send, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream)
{
	return enqueue(comm, stream, (struct act){.kind = SEND, .send = send, .count = count, .peer = peer}, type);
}

ncclResult_t ncclRecv(void *recv, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream)
{
	return enqueue(comm, stream, (struct act){.kind = RECEIVE, .recv = recv, .count = count, .peer = peer}, type);
}

cudaError_t cudaDriverGetVersion(int *version)
{
	*version = 13000;
	return cudaSuccess;
}
