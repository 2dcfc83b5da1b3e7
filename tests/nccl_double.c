/* A double of the functions of libnccl that comm/nccl*.c use, over MPI in host memory: linked with those files into a plugin for
 * tests/mpi_comm_nccl.c. Streams are those of nccl_double.h. Like NCCL's: communicators are made in the background, operations of a
 * communicator run one after the other in the order they were enqueued, and an abort ends what waits.
 *
 * NCCL_DOUBLE_FAULT, read at each call: "hang R": on world rank R operations do nothing until the abort; "async R": and the
 * communicator reports an asynchronous error; "init": no communicator can be made. Needs MPI_THREAD_MULTIPLE. */
#include "comm/reduce.h"
#include "tests/nccl_double.h"

#include <mpi.h>
#include <nccl.h>
#include <stdio.h>
#include <unistd.h>

#define TAG_MESSAGE 1
#define TAG_FIRST   16
#define TAG_COUNT   0x3fff
#define MOST_ACTS   256

struct ncclComm {
	MPI_Comm mpi;
	int size, rank;
	_Atomic int state; /* ncclResult_t */
	_Atomic int aborted;
	_Atomic uint64_t turn; /* of the next operation to run */
	uint64_t enqueued, collectives;
	pthread_t maker;
	int makes; /* the thread is to be joined */
	/* for the maker */
	ncclUniqueId id;
	ncclComm_t parent;
	ncclComm_t wreck;         /* aborted before it */
	struct operation *parked; /* aborted ones: MPI may still use their buffers */
};

struct seed {
	uint64_t salt;
	int root; /* world rank */
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
	char *out, *in; /* owned copies */
};

struct operation {
	struct operation *next;
	ncclComm_t comm;
	struct act acts[MOST_ACTS];
	int count, requests;
	uint64_t turn;
	int tag;
	int fault; /* 1: hang, 2: asynchronous error */
	MPI_Request request[4 * MOST_ACTS];
};

static _Thread_local struct operation *batch;
static _Thread_local struct threaded_stream *batch_stream;
static _Thread_local int depth;

static int fault_here(void)
{
	const char *fault = getenv("NCCL_DOUBLE_FAULT");
	int rank, at;
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	if (fault && sscanf(fault, "hang %d", &at) == 1)
		return at == rank ? 1 : 0;
	if (fault && sscanf(fault, "async %d", &at) == 1)
		return at == rank ? 2 : 0;
	return fault && !strcmp(fault, "init") ? 3 : 0;
}

ncclResult_t ncclGetVersion(int *version)
{
	*version = NCCL_VERSION_CODE;
	return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
	static _Atomic uint64_t next;
	struct seed seed = {.salt = atomic_fetch_add(&next, 1)};
	MPI_Comm_rank(MPI_COMM_WORLD, &seed.root);
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

/* The root hears of each member's world rank and tells all. */
static void *make(void *context)
{
	ncclComm_t c = context;
	MPI_Group world, members;
	struct seed seed;
	int mine[2] = {c->rank, 0}, *ranks = calloc((size_t)c->size, sizeof *ranks);
	if (!ranks)
		abort();
	if (c->parent) {
		MPI_Comm_dup(c->parent->mpi, &c->mpi);
		atomic_store(&c->state, ncclSuccess);
		free(ranks);
		return NULL;
	}
	memcpy(&seed, c->id.internal, sizeof seed);
	int tag = 1000 + (int)((seed.salt * 64 + (uint64_t)seed.root) % 20000);
	MPI_Comm_rank(MPI_COMM_WORLD, &mine[1]);
	ranks[c->rank] = mine[1];
	if (mine[1] == seed.root) {
		for (int i = 1, theirs[2]; i < c->size; i++) {
			MPI_Recv(theirs, 2, MPI_INT, MPI_ANY_SOURCE, tag, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
			ranks[theirs[0]] = theirs[1];
		}
		for (int i = 0; i < c->size; i++)
			if (ranks[i] != seed.root)
				MPI_Send(ranks, c->size, MPI_INT, ranks[i], tag + 30000, MPI_COMM_WORLD);
	} else {
		MPI_Send(mine, 2, MPI_INT, seed.root, tag, MPI_COMM_WORLD);
		MPI_Recv(ranks, c->size, MPI_INT, seed.root, tag + 30000, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
	}
	MPI_Comm_group(MPI_COMM_WORLD, &world);
	MPI_Group_incl(world, c->size, ranks, &members);
	MPI_Comm_create_group(MPI_COMM_WORLD, members, 0x7e0000 + tag, &c->mpi);
	MPI_Group_free(&members);
	MPI_Group_free(&world);
	free(ranks);
	atomic_store(&c->state, ncclSuccess);
	return NULL;
}

static ncclResult_t begin(ncclComm_t *comm, int size, int rank, const ncclUniqueId *id, ncclComm_t parent)
{
	ncclComm_t c = calloc(1, sizeof *c);
	if (!c || fault_here() == 3) {
		free(c);
		return ncclSystemError;
	}
	c->size = size;
	c->rank = rank;
	c->parent = parent;
	if (id)
		c->id = *id;
	atomic_store(&c->state, ncclInProgress);
	c->makes = pthread_create(&c->maker, NULL, make, c) == 0;
	*comm = c;
	return ncclInProgress;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int nranks, ncclUniqueId id, int rank, ncclConfig_t *config)
{
	return config->blocking == 0 ? begin(comm, nranks, rank, &id, NULL) : ncclInvalidArgument;
}

ncclResult_t ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t *child, ncclConfig_t *config)
{
	ncclResult_t code = color == 0 && config->blocking == 0 ? begin(child, comm->size, key, NULL, comm) : ncclInvalidArgument;
	if (getenv("NCCL_DOUBLE_SPLITS"))
		setenv("NCCL_DOUBLE_SPLITS", "seen", 1);
	return code;
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

ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
	if (comm->makes)
		pthread_join(comm->maker, NULL);
	MPI_Comm_free(&comm->mpi);
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
	*handle = buffer;
	return size ? ncclSuccess : ncclInvalidArgument;
}

ncclResult_t ncclCommDeregister(const ncclComm_t comm, void *handle)
{
	return handle ? ncclSuccess : ncclInvalidArgument;
}

/* ---- operations ---- */

static size_t row_of(const struct act *a)
{
	return a->count * mt_dtype_bytes(a->dtype);
}

static void post(struct operation *o, char *buffer, size_t bytes, int peer, int tag, int sends)
{
	MPI_Request *r = &o->request[o->requests++];
	if (sends)
		MPI_Isend(buffer, (int)bytes, MPI_BYTE, peer, tag, o->comm->mpi, r);
	else
		MPI_Irecv(buffer, (int)bytes, MPI_BYTE, peer, tag, o->comm->mpi, r);
}

static char *copy_of(const void *from, size_t bytes)
{
	char *to = malloc(bytes + 1);
	if (!to)
		abort();
	if (from)
		memcpy(to, from, bytes);
	return to;
}

static void start(struct operation *o, struct act *a)
{
	int size = o->comm->size, rank = o->comm->rank;
	size_t row = row_of(a), sent = a->kind == REDUCE_SCATTER ? row * (size_t)size : row;
	if (a->kind == SEND) {
		a->out = copy_of(a->send, row);
		post(o, a->out, row, a->peer, TAG_MESSAGE, 1);
	} else if (a->kind == RECEIVE) {
		a->in = copy_of(NULL, row);
		post(o, a->in, row, a->peer, TAG_MESSAGE, 0);
	} else if (a->kind == BROADCAST) {
		a->in = copy_of(a->send, row);
		for (int r = 0; r < size && rank == a->peer; r++)
			if (r != rank)
				post(o, a->in, row, r, o->tag, 1);
		if (rank != a->peer)
			post(o, a->in, row, a->peer, o->tag, 0);
	} else {
		a->out = copy_of(a->send, sent);
		a->in = copy_of(NULL, row * (size_t)size);
		for (int r = 0; r < size; r++) {
			post(o, a->in + (size_t)r * row, row, r, o->tag, 0);
			post(o, a->out + (a->kind == REDUCE_SCATTER ? (size_t)r * row : 0), row, r, o->tag, 1);
		}
	}
}

static void finish(struct operation *o, struct act *a)
{
	size_t row = row_of(a);
	if (a->kind == ALL_REDUCE || a->kind == REDUCE_SCATTER)
		for (int r = 1; r < o->comm->size; r++)
			mt_comm_combine(a->in, a->in, a->in + (size_t)r * row, (int64_t)a->count, a->dtype, a->reduction);
	if (a->kind != SEND)
		memcpy(a->recv, a->in, a->kind == ALL_GATHER ? row * (size_t)o->comm->size : row);
}

static void give_up(struct operation *o)
{
	for (int i = 0; i < o->requests; i++)
		if (o->request[i] != MPI_REQUEST_NULL)
			MPI_Cancel(&o->request[i]);
	o->next = o->comm->parked;
	o->comm->parked = o;
}

static void execute(void *context)
{
	struct operation *o = context;
	ncclComm_t c = o->comm;
	int done = 0;
	while (atomic_load(&c->turn) != o->turn && !atomic_load(&c->aborted))
		usleep(20);
	if (o->fault == 2)
		atomic_store(&c->state, ncclRemoteError);
	for (int i = 0; i < o->count && !o->fault && !atomic_load(&c->aborted); i++)
		start(o, &o->acts[i]);
	while (!done && !atomic_load(&c->aborted)) {
		if (!o->fault)
			MPI_Testall(o->requests, o->request, &done, MPI_STATUSES_IGNORE);
		if (!done)
			usleep(20);
	}
	if (!done) {
		give_up(o);
		return;
	}
	for (int i = 0; i < o->count; i++) {
		finish(o, &o->acts[i]);
		free(o->acts[i].out);
		free(o->acts[i].in);
	}
	free(o);
	atomic_fetch_add(&c->turn, 1);
}

static void launch(struct operation *o, struct threaded_stream *stream)
{
	o->turn = o->comm->enqueued++;
	if (o->acts[0].kind < SEND)
		o->tag = TAG_FIRST + (int)(o->comm->collectives++ & TAG_COUNT);
	o->fault = fault_here();
	threaded_push(stream, execute, o);
}

static ncclResult_t enqueue(ncclComm_t comm, cudaStream_t stream, struct act act, ncclDataType_t type)
{
	struct operation *o = batch;
	act.dtype = type == ncclFloat32 ? MT_F32 : type == ncclFloat64 ? MT_F64 : type == ncclBfloat16 ? MT_BF16 : MT_I32;
	if (!o && !(o = calloc(1, sizeof *o)))
		abort();
	if (o->count == MOST_ACTS || (o->count && o->comm != comm))
		return ncclInvalidUsage;
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
