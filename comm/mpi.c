/* mpi: the fabric over MPI: joining the world, groups as communicators, and the host-side calls. */
#include "comm/mpi.h"

#ifdef MT_HAVE_MPI

#include "base/log.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define GROUP_TAG 0x7f0000 /* plus 0..0xfffe from the group's name and ranks: the largest tags in use */

#define DIRECT_RANKS 16 /* n-1 partners at once are fine up to here */

static enum mt_status call_failed(const struct mt_fabric *fabric, const char *where, int code)
{
	char text[MPI_MAX_ERROR_STRING] = "";
	int length = 0;
	MPI_Error_string(code, text, &length);
	return mt_fail(MT_FAILED, "fabric mpi, world rank %d: %s: %s", fabric->rank, where, text);
}

#define MPI_TRY(fabric, call)                                                                                                      \
	do {                                                                                                                       \
		int mpi_try_code_ = (call);                                                                                        \
		if (mpi_try_code_ != MPI_SUCCESS)                                                                                  \
			return call_failed(fabric, #call, mpi_try_code_);                                                          \
	} while (0)

/* Initializes MPI unless the program did. */
static enum mt_status join(struct mt_fabric *fabric, struct mpi_fabric *mpi)
{
	int already = 0, ended = 0, level = MPI_THREAD_SINGLE, found = 0;
	int *most_tag = NULL;
	MPI_Finalized(&ended);
	if (ended)
		return mt_fail(MT_FAILED, "fabric mpi: MPI was used and ended in this process; it cannot start twice");
	MPI_Initialized(&already);
	if (!already) {
		MPI_TRY(fabric, MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &level));
		mpi->finalizes = true;
	} else {
		MPI_TRY(fabric, MPI_Query_thread(&level));
	}
	if (level < MPI_THREAD_SERIALIZED)
		return mt_fail(MT_UNAVAILABLE, "fabric mpi: this MPI does not allow calls from several threads, one at a time "
					       "(MPI_THREAD_SERIALIZED); use one built with threads");
	MPI_TRY(fabric, MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
	MPI_TRY(fabric, MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, &most_tag, &found));
	if (!found || *most_tag < GROUP_TAG + 0xffff)
		return mt_fail(MT_UNAVAILABLE, "fabric mpi: this MPI has tags up to %d only, %d are needed", found ? *most_tag : 0,
			       GROUP_TAG + 0xffff);
	MPI_TRY(fabric, MPI_Comm_rank(MPI_COMM_WORLD, &fabric->rank));
	MPI_TRY(fabric, MPI_Comm_size(MPI_COMM_WORLD, &fabric->size));
	return MT_OK;
}

static enum mt_status learn_hosts(struct mt_fabric *fabric)
{
	char own[MPI_MAX_PROCESSOR_NAME] = "", name[MT_FABRIC_HOST] = "";
	int length = 0;
	MPI_TRY(fabric, MPI_Get_processor_name(own, &length));
	snprintf(name, sizeof name, "%.*s", (int)sizeof name - 1, own);
	fabric->hosts = calloc((size_t)fabric->size, sizeof *fabric->hosts);
	if (!fabric->hosts)
		return mt_fail(MT_NOMEM, "fabric mpi: no memory for %d host names", fabric->size);
	fabric->host_entries = fabric->size;
	MPI_TRY(fabric, MPI_Allgather(name, MT_FABRIC_HOST, MPI_CHAR, fabric->hosts, MT_FABRIC_HOST, MPI_CHAR, MPI_COMM_WORLD));
	for (int r = 0; r < fabric->size; r++) {
		if (strcmp(fabric->hosts[r], name) != 0)
			continue;
		fabric->local_rank += r < fabric->rank;
		fabric->local_size++;
	}
	return MT_OK;
}

/* "Open MPI 4.1.4" of "Open MPI v4.1.4, package: ..." */
static void learn_library(struct mt_fabric *fabric)
{
	char version[MPI_MAX_LIBRARY_VERSION_STRING] = "";
	int length = 0;
	MPI_Get_library_version(version, &length);
	version[strcspn(version, ",\n")] = '\0';
	char *v = strstr(version, " v");
	if (v && v[2] >= '0' && v[2] <= '9')
		memmove(v + 1, v + 2, strlen(v + 2) + 1);
	snprintf(fabric->library, sizeof fabric->library, "%.63s", version);
}

/* Group creation is the one call that blocks inside MPI: only the end of the job ends it. */
static void stuck(void *context, const char *message)
{
	mt_error("%s", message);
	MPI_Abort(MPI_COMM_WORLD, mt_status_exit_code(MT_FAILED));
	_exit(mt_status_exit_code(MT_FAILED));
}

/* What rank 0 tells the others of its board. */
struct board_place {
	char addresses[4][64];
	int32_t port;
	uint64_t token;
};

/* Without a board there is still a watchdog: it then names no suspects. */
static enum mt_status open_watchdog(struct mt_fabric *fabric, struct mpi_fabric *mpi, double deadline_s)
{
	struct mt_watchdog_config config = {.fabric = fabric, .deadline_s = deadline_s, .stuck = stuck};
	struct board_place place = {0};
	if (fabric->size == 1)
		return MT_OK;
	if (fabric->rank == 0 && mt_watchdog_serve(&mpi->board, &config) != MT_OK) {
		mt_warn("%s", mt_error_message());
		mt_error_clear();
	}
	memcpy(place.addresses, config.addresses, sizeof place.addresses);
	place.port = config.port;
	place.token = config.token;
	MPI_TRY(fabric, MPI_Bcast(&place, sizeof place, MPI_BYTE, 0, MPI_COMM_WORLD));
	memcpy(config.addresses, place.addresses, sizeof place.addresses);
	config.port = place.port;
	config.token = place.token;
	return mt_watchdog_create(&fabric->watchdog, &config);
}

static void close_watchdog(struct mt_fabric *fabric, struct mpi_fabric *mpi)
{
	mt_watchdog_destroy(fabric->watchdog);
	fabric->watchdog = NULL;
	mt_board_stop(mpi->board, 0);
	mpi->board = NULL;
}

static void mpi_close(struct mt_fabric *fabric)
{
	struct mpi_fabric *mpi = fabric->backend;
	mpi_queue_close(mpi);
	close_watchdog(fabric, mpi);
	mpi_library_close(mpi);
	if (mpi->finalizes)
		MPI_Finalize();
	mpi_flight_free_all(mpi->idle);
	mpi_flight_free_all(mpi->wrecks);
	pthread_mutex_destroy(&mpi->lock);
	free(mpi);
}

static enum mt_status mpi_open(struct mt_fabric *fabric, const struct mt_fabric_config *config)
{
	struct mpi_fabric *mpi = calloc(1, sizeof *mpi);
	enum mt_status st;
	if (!mpi)
		return mt_fail(MT_NOMEM, "fabric mpi: no memory");
	pthread_mutex_init(&mpi->lock, NULL);
	mpi->half_sum = mpi->maximum = MPI_OP_NULL;
	MT_GOTO(fail, join(fabric, mpi));
	MT_GOTO(fail, learn_hosts(fabric));
	learn_library(fabric);
	MT_GOTO(fail, mpi_library_open(mpi));
	MT_GOTO(fail_queue, mpi_queue_open(mpi));
	MT_GOTO(fail_queue, open_watchdog(fabric, mpi, config->deadline_s));
	fabric->backend = mpi;
	return MT_OK;
fail_queue:
	mpi_queue_close(mpi);
	close_watchdog(fabric, mpi);
	mpi_library_close(mpi);
fail:
	if (mpi->finalizes)
		MPI_Finalize();
	pthread_mutex_destroy(&mpi->lock);
	free(mpi);
	return st;
}

/* The lock is waited for a moment only: whoever holds it may hang in MPI. */
static void mpi_abort(struct mt_fabric *fabric, int exit_code)
{
	struct mpi_fabric *mpi = fabric->backend;
	struct timespec until;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 1;
	pthread_mutex_timedlock(&mpi->lock, &until);
	MPI_Abort(MPI_COMM_WORLD, exit_code);
	_exit(exit_code);
}

/* The same on all members, and different for most groups: groups made at the same time must not meet. */
static int group_tag(const struct mt_group *group)
{
	uint32_t hash = 2166136261u; /* FNV-1a */
	for (const char *c = group->name; *c; c++)
		hash = (hash ^ (uint32_t)(unsigned char)*c) * 16777619u;
	for (int i = 0; i < group->size; i++)
		hash = (hash ^ (uint32_t)group->ranks[i]) * 16777619u;
	return GROUP_TAG + (int)(hash % 0xffff);
}

/* MPI makes communicators in a blocking call, with the lock held: comm streams stand still until all members have come. */
static enum mt_status make_comm(const struct mt_group *group, int tag, MPI_Comm *comm)
{
	MPI_Group world = MPI_GROUP_NULL, members = MPI_GROUP_NULL;
	int code = MPI_Comm_group(MPI_COMM_WORLD, &world);
	if (code == MPI_SUCCESS)
		code = MPI_Group_incl(world, group->size, group->ranks, &members);
	if (code == MPI_SUCCESS)
		code = MPI_Comm_create_group(MPI_COMM_WORLD, members, tag, comm);
	if (code == MPI_SUCCESS)
		code = MPI_Comm_set_errhandler(*comm, MPI_ERRORS_RETURN);
	if (members != MPI_GROUP_NULL)
		MPI_Group_free(&members);
	if (world != MPI_GROUP_NULL)
		MPI_Group_free(&world);
	return code == MPI_SUCCESS ? MT_OK : call_failed(group->fabric, group->name, code);
}

static enum mt_status group_open(struct mt_group *group)
{
	struct mpi_fabric *mpi = mpi_of(group);
	struct mpi_group *members = calloc(1, sizeof *members);
	enum mt_status st;
	if (!members || !(members->sent = calloc(2 * (size_t)group->size, sizeof *members->sent))) {
		free(members);
		return mt_fail(MT_NOMEM, "group %s: no memory", group->name);
	}
	members->received = members->sent + group->size;
	members->comm = members->shadow = MPI_COMM_NULL;
	members->one_host = true;
	members->direct_ranks = DIRECT_RANKS;
	for (int i = 1; i < group->size; i++)
		if (strcmp(mt_fabric_host(group->fabric, group->ranks[i]), mt_fabric_host(group->fabric, group->ranks[0])) != 0)
			members->one_host = false;
	/* The watch's call: a barrier, as all members must come. */
	struct mt_comm_call coming = {.op = MT_COMM_BARRIER};
	struct mt_watch watch = {.fatal = true};
	mt_watchdog_begin(group->fabric->watchdog, &watch, group, &coming, 0);
	pthread_mutex_lock(&mpi->lock);
	st = make_comm(group, group_tag(group), &members->comm);
#ifdef MT_DEBUG
	if (st == MT_OK)
		st = make_comm(group, group_tag(group), &members->shadow);
#endif
	pthread_mutex_unlock(&mpi->lock);
	mt_watchdog_end(group->fabric->watchdog, &watch);
	group->backend = members;
	if (st != MT_OK) {
		free(members->sent);
		free(members);
	}
	return st;
}

static void group_close(struct mt_group *group)
{
	struct mpi_fabric *mpi = mpi_of(group);
	struct mpi_group *members = members_of(group);
	while (atomic_load(&members->flying))
		sched_yield();
	pthread_mutex_lock(&mpi->lock);
	MPI_Comm_free(&members->comm);
	if (members->shadow != MPI_COMM_NULL)
		MPI_Comm_free(&members->shadow);
	pthread_mutex_unlock(&mpi->lock);
	free(members->sent);
	free(members);
}

static enum mt_status mpi_run(struct mt_group *group, struct mt_stream *stream, const struct mt_comm_call *call)
{
	struct flight *f = mpi_flight_make(group, stream, call);
	if (!f)
		return MT_NOMEM;
	enum mt_status st = stream->device->ops->async ? mpi_staged_make(f) : MT_OK;
	if (st != MT_OK) {
		mpi_flight_retire(f, st);
		return st;
	}
	return stream->kind == MT_STREAM_COMM ? mpi_queue_push(f) : mpi_flight_fly(f);
}

static enum mt_status run_on_host(struct mt_group *group, const struct mt_comm_call *call, size_t width)
{
	struct flight *f = mpi_flight_make(group, NULL, call);
	if (!f)
		return MT_NOMEM;
	f->width = width;
	return mpi_flight_fly(f);
}

static enum mt_status barrier(struct mt_group *group)
{
	struct mt_comm_call call = {.op = MT_COMM_BARRIER};
	return run_on_host(group, &call, 1);
}

static enum mt_status host_all_reduce(struct mt_group *group, double *values, int count, enum mt_reduction reduction)
{
	struct mt_comm_call call = {.op = MT_COMM_ALL_REDUCE, .send = values, .recv = values, .count = count, .dtype = MT_F64};
	call.reduction = reduction;
	return run_on_host(group, &call, sizeof *values);
}

static enum mt_status host_all_gather(struct mt_group *group, const void *send, void *recv, size_t bytes_per_rank)
{
	struct mt_comm_call call = {.op = MT_COMM_ALL_GATHER, .send = send, .recv = recv, .count = (int64_t)bytes_per_rank};
	return run_on_host(group, &call, 1);
}

const struct mt_fabric_ops mt_fabric_mpi = {
	.kind = "mpi",
	.open = mpi_open,
	.close = mpi_close,
	.abort = mpi_abort,
	.group_open = group_open,
	.group_close = group_close,
	.run = mpi_run,
	.barrier = barrier,
	.host_all_reduce = host_all_reduce,
	.host_all_gather = host_all_gather,
	.executes = true,
};

#endif
