/* The nccl fabric over a double of NCCL: results equal their definition as the mpi fabric's do; failures of NCCL are told.
 * ranks: 1 2 3 4 */
#ifdef MT_HAVE_MPI

#include "base/file.h"
#include "base/process.h"

#define BENCH_FABRIC "nccl"
#include "tests/nccl_double.h"
#define BENCH_DEVICE_OPS (&threaded_ops)
#include "tests/comm_chunks.h"

#include <mpi.h>
#include <unistd.h>

#ifdef MT_DEBUG
#define AGREES 1
#else
#define AGREES 0
#endif

static struct mt_group *group_of_all(struct bench *b, const char *name)
{
	struct mt_group *group = NULL;
	int ranks[64];
	for (int r = 0; r < b->size; r++)
		ranks[r] = r;
	must(b, mt_group_create(b->fabric, name, ranks, b->size, &group), name);
	return group;
}

static int names(const char *what)
{
	if (strstr(mt_error_message(), what))
		return 0;
	fprintf(stderr, "the message does not say '%s': %s\n", what, mt_error_message());
	return 1;
}

static int collectives_equal_their_definition(struct bench *b)
{
	return random_jobs(b, b->world, b->compute, 11, 60, "compute stream") +
	       random_jobs(b, b->world, b->comm[0], 12, 60, "comm stream");
}

/* Every other rank, in reverse order, beside the world's group. */
static int chunks_of_any_counts_arrive(struct bench *b)
{
	return random_exchanges(b, b->world, b->compute, 71, 20, "compute stream") +
	       random_exchanges(b, b->world, b->comm[1], 72, 20, "comm stream");
}

static int groups_work_side_by_side(struct bench *b)
{
	struct mt_group *group = NULL;
	int ranks[64], count = 0, wrong;
	for (int r = b->size - 1; r >= 0; r--)
		if (r % 2 == b->rank % 2)
			ranks[count++] = r;
	must(b, mt_group_create(b->fabric, "halves", ranks, count, &group), "group");
	wrong = random_jobs(b, group, b->comm[0], 31, 30, "halves");
	mt_group_destroy(group);
	return wrong;
}

/* The double notes that it was asked to split. */
static int groups_of_the_same_ranks_are_split(struct bench *b)
{
	struct mt_group *group;
	int wrong;
	if (b->size == 1)
		return -1;
	setenv("NCCL_DOUBLE_SPLITS", "none", 1);
	group = group_of_all(b, "dp");
	wrong = random_jobs(b, group, b->comm[0], 33, 20, "split");
	wrong += strcmp(getenv("NCCL_DOUBLE_SPLITS"), "seen") != 0;
	mt_group_destroy(group);
	return wrong + random_jobs(b, b->world, b->comm[0], 34, 5, "after the split's end");
}

/* Round the ring in both directions, each rank's receives posted before any of its sends: they must not hold those up, though NCCL
 * runs the operations of a communicator in the order enqueued. */
static int receives_posted_early_hold_nobody_up(struct bench *b)
{
	enum { MESSAGES = 12, COUNT = 3000 };
	static int32_t out[2][MESSAGES][COUNT], in[2][MESSAGES][COUNT];
	int wrong = 0;
	if (b->size == 1)
		return -1;
	for (int way = 0; way < 2; way++) {
		int to = (b->rank + (way ? b->size - 1 : 1)) % b->size, from = (b->rank + (way ? 1 : b->size - 1)) % b->size;
		if (way && b->size == 2)
			break;
		for (int m = 0; m < MESSAGES; m++)
			must(b, mt_comm_recv(b->world, b->comm[1], in[way][m], COUNT, MT_I32, from), "receive");
		for (int m = 0; m < MESSAGES; m++) {
			for (int i = 0; i < COUNT; i++)
				out[way][m][i] = b->rank * 100000 + way * 50000 + m * 1000 + i % 997;
			must(b, mt_comm_send(b->world, b->comm[0], out[way][m], COUNT, MT_I32, to), "send");
		}
		must(b, mt_stream_synchronize(b->comm[0]), "send");
		must(b, mt_stream_synchronize(b->comm[1]), "receive");
		for (int m = 0; m < MESSAGES; m++)
			for (int i = 0; i < COUNT; i++)
				wrong += in[way][m][i] != from * 100000 + way * 50000 + m * 1000 + i % 997;
	}
	return wrong;
}

/* A collective on a comm stream reads what the compute stream has yet to bring, and the other way round. */
static int events_order_streams_and_collectives(struct bench *b)
{
	struct mt_event *ready = NULL, *summed = NULL;
	int32_t x = 1, y = 0, z = 0, power = 1;
	must(b, mt_event_create(b->device, &ready), "event");
	must(b, mt_event_create(b->device, &summed), "event");
	for (int i = 0; i < 8; i++, power *= b->size) {
		must(b, mt_comm_all_reduce(b->world, b->compute, &x, &y, 1, MT_I32, MT_SUM), "compute");
		must(b, mt_event_record(ready, b->compute), "record");
		must(b, mt_stream_wait(b->comm[0], ready), "wait");
		must(b, mt_comm_broadcast(b->world, b->comm[0], &y, 1, MT_I32, 0), "comm");
		must(b, mt_event_record(summed, b->comm[0]), "record");
		must(b, mt_stream_wait(b->compute, summed), "wait");
		must(b, mt_comm_all_reduce(b->world, b->compute, &y, &z, 1, MT_I32, MT_MAX), "compute");
		must(b, mt_stream_synchronize(b->compute), "end");
		x = z;
		if (power > 10000)
			break;
	}
	mt_event_destroy(ready);
	mt_event_destroy(summed);
	int32_t want = 1;
	for (int i = 0; i < 8 && want <= 10000 * b->size; i++)
		want *= b->size;
	return b->size > 1 && x != want;
}

/* Three streams of collectives at once on one communicator. */
static int streams_run_side_by_side(struct bench *b)
{
	enum { JOBS = 8 };
	struct job jobs[3][JOBS];
	int wrong = 0;
	for (int i = 0; i < JOBS; i++) {
		for (int s = 0; s < 3; s++) {
			jobs[s][i] = draw(41 + (uint64_t)s, i, b->size);
			prepare(&jobs[s][i], b->rank, b->size);
			must(b, call(&jobs[s][i], b->world, b->comm[s]), "three streams");
		}
	}
	for (int s = 0; s < 3; s++) {
		must(b, mt_stream_synchronize(b->comm[s]), "three streams");
		for (int i = 0; i < JOBS; i++)
			wrong += judge(&jobs[s][i], b->rank, b->size, "three streams");
	}
	return wrong;
}

static int host_helpers_go_to_the_base(struct bench *b)
{
	double values[2] = {b->rank, 1.0};
	int wrong = 0;
	must(b, mt_comm_barrier(b->world), "barrier");
	must(b, mt_comm_host_all_reduce(b->world, values, 2, MT_SUM), "host all_reduce");
	wrong += values[0] != b->size * (b->size - 1) / 2 || values[1] != b->size;
	wrong += !strstr(mt_fabric_library(b->fabric), "NCCL") || strlen(mt_fabric_host(b->fabric, b->size - 1)) == 0;
	return wrong;
}

/* What the double has counted of a group, over its ranks; -1: nothing. */
static int counted(const char *report, const char *group, int sums[4])
{
	FILE *file = fopen(report, "r");
	char line[256], name[16];
	int n[4], lines = 0;
	memset(sums, 0, 4 * sizeof *sums);
	while (file && fgets(line, sizeof line, file)) {
		if (sscanf(line, "%15[^:]: rank %*d: %d registered, %d deregistered, %d inside, %d outside", name, &n[0], &n[1],
			   &n[2], &n[3]) != 5 ||
		    strcmp(name, group) != 0)
			continue;
		lines++;
		for (int i = 0; i < 4; i++)
			sums[i] += n[i];
	}
	if (file)
		fclose(file);
	return lines;
}

/* Memory is registered by a group that is there and by one that comes later; where one rank is refused it is by none of the group,
 * and the group works as before. */
static int registered(struct bench *b, bool refused)
{
	struct mt_group *before = group_of_all(b, "before"), *after;
	struct mt_fabric *block = NULL;
	char path[64], fault[32];
	float x[256], y[80];
	void *handles[2] = {NULL};
	int sums[4], wrong = 0, n = b->size;
	snprintf(path, sizeof path, "/tmp/mt.nccl.%d.%d", (int)getppid(), refused);
	if (b->rank == 0)
		unlink(path);
	must(b, mt_comm_barrier(b->world), "a new report");
	setenv("NCCL_DOUBLE_REPORT", path, 1);
	snprintf(fault, sizeof fault, "register %d", n - 1);
	if (refused)
		setenv("NCCL_DOUBLE_FAULT", fault, 1);
	for (int i = 0; i < 256; i++)
		x[i] = y[i % 80] = 1;
	must(b, mt_comm_all_reduce(before, b->compute, x, x, 256, MT_F32, MT_SUM), "unregistered");
	must(b, mt_fabric_block(&block, b->fabric, n), "block");
	must(b, mt_fabric_register(b->fabric, x, sizeof x, &handles[0]), "register");
	must(b, mt_fabric_register(block, y, 64 * sizeof *y, &handles[1]), "register");
	after = group_of_all(b, "after");
	must(b, mt_comm_all_reduce(before, b->compute, x, x, 256, MT_F32, MT_SUM), "inside");
	must(b, mt_comm_all_reduce(before, b->compute, y, y, 65, MT_F32, MT_MAX), "outside");
	must(b, mt_comm_all_reduce(after, b->compute, x + 8, y, 64, MT_F32, MT_MAX), "inside");
	must(b, mt_stream_synchronize(b->compute), "synchronize");
	wrong += x[255] != (float)(n * n) || y[63] != (float)(n * n);
	mt_fabric_unregister(block, handles[1]);
	mt_fabric_destroy(block);
	mt_group_destroy(after);
	mt_fabric_unregister(b->fabric, handles[0]);
	mt_group_destroy(before);
	unsetenv("NCCL_DOUBLE_FAULT");
	unsetenv("NCCL_DOUBLE_REPORT");
	must(b, mt_comm_barrier(b->world), "reported");
	if (n > 1 && !wrong) {
		/* Those that were not refused are let go at once. */
		wrong += counted(path, "before", sums) != n || sums[0] != 2 * n - 2 * refused || sums[1] != sums[0];
		wrong += sums[2] != (refused ? 0 : n) || sums[3] != (refused ? 3 * n : 2 * n);
		wrong += counted(path, "after", sums) != n || sums[0] != 2 * n - 2 * refused || sums[1] != sums[0];
		wrong += sums[2] != (refused ? 0 : n) || sums[3] != (refused ? n : 0);
	}
	must(b, mt_comm_barrier(b->world), "read");
	if (b->rank == 0)
		unlink(path);
	return wrong;
}

static int memory_is_registered_by_every_group(struct bench *b)
{
	return registered(b, false);
}

static int where_one_rank_is_refused_none_has_it(struct bench *b)
{
	return b->size == 1 ? -1 : registered(b, true);
}

enum trouble { ABSENT, HANG, ASYNC };

/* A group on which an operation never ends: every rank that waits is told, and the group refuses work from then on. */
static int endure(struct bench *b, enum trouble trouble, const char *fault, const char *want, const char *also)
{
	struct mt_group *group = group_of_all(b, "trouble");
	int last = b->size - 1, wrong = 0;
	float x[256] = {0};
	must(b, mt_comm_all_reduce(group, b->comm[0], x, x, 256, MT_F32, MT_SUM), "before");
	must(b, mt_stream_synchronize(b->comm[0]), "before");
	must(b, mt_comm_barrier(b->world), "before");
	mt_fabric_set_deadline(b->fabric, trouble == ABSENT && b->rank == last ? 8 : 0.8);
	if (fault)
		setenv("NCCL_DOUBLE_FAULT", fault, 1);
	if (trouble != ABSENT || b->rank != last) {
		enum mt_status st = mt_comm_all_reduce(group, b->comm[0], x, x, 256, MT_F32, MT_SUM);
		wrong += (st == MT_OK ? mt_stream_synchronize(b->comm[0]) : st) != MT_FAILED;
		wrong += names(trouble == ASYNC && b->rank != last ? "all_reduce of 1.00 KiB (number 1) on group trouble" : want);
		wrong += also ? names(also) : 0;
		mt_error_clear();
		st = mt_comm_all_reduce(group, b->comm[0], x, x, 4, MT_F32, MT_SUM);
		wrong += st != MT_FAILED || names("an earlier operation failed");
		mt_error_clear();
	}
	mt_fabric_set_deadline(b->fabric, 20);
	must(b, mt_comm_barrier(b->world), "after");
	unsetenv("NCCL_DOUBLE_FAULT");
	mt_fabric_set_deadline(b->fabric, 0);
	mt_group_destroy(group);
	return wrong + random_jobs(b, b->world, b->comm[0], 35, 5, "another group goes on");
}

/* In debug builds the members agree on each call first, and that is what an absent rank holds up. */
static int an_absent_rank_is_named(struct bench *b)
{
	char suspect[80];
	snprintf(suspect, sizeof suspect, "suspect: rank %d (world rank %d on ", b->size - 1, b->size - 1);
	return b->size == 1 ? -1 : endure(b, ABSENT, NULL, suspect, AGREES ? NULL : "has begun 1 collectives of this group, not 2");
}

static int a_hang_of_the_network_is_told(struct bench *b)
{
	return b->size == 1 ? -1
			    : endure(b, HANG, "hang 0", "all_reduce of 1.00 KiB (number 1) on group trouble",
				     "all members have begun it");
}

static int an_asynchronous_error_is_told(struct bench *b)
{
	char fault[32];
	snprintf(fault, sizeof fault, "async %d", b->size - 1);
	return b->size == 1 ? -1 : endure(b, ASYNC, fault, "asynchronous error: remote process exited", NULL);
}

static int members_that_disagree_are_named(struct bench *b)
{
	struct mt_group *group;
	float x[8] = {0};
	int wrong = 0;
	if (b->size < 3 || !AGREES)
		return -1;
	group = group_of_all(b, "odd");
	wrong += mt_comm_all_reduce(group, b->compute, x, x, b->rank == 1 ? 4 : 8, MT_F32, MT_SUM) != MT_FAILED;
	wrong += names("do not call the same collective: rank 1");
	mt_error_clear();
	mt_group_destroy(group);
	return wrong;
}

static int a_failed_start_is_told(struct bench *b)
{
	struct mt_group *group;
	float x[4] = {0};
	int wrong = 0;
	if (b->size == 1)
		return -1;
	group = group_of_all(b, "no start");
	must(b, mt_comm_barrier(b->world), "before");
	setenv("NCCL_DOUBLE_FAULT", "init", 1);
	wrong += mt_comm_all_reduce(group, b->compute, x, x, 4, MT_F32, MT_SUM) != MT_FAILED;
	wrong += names("ncclComm") + names("unhandled system error");
	mt_error_clear();
	unsetenv("NCCL_DOUBLE_FAULT");
	mt_group_destroy(group);
	return wrong;
}

static const struct test tests[] = {
	{"collectives_equal_their_definition", collectives_equal_their_definition},
	{"chunks_of_any_counts_arrive", chunks_of_any_counts_arrive},
	{"groups_work_side_by_side", groups_work_side_by_side},
	{"groups_of_the_same_ranks_are_split", groups_of_the_same_ranks_are_split},
	{"receives_posted_early_hold_nobody_up", receives_posted_early_hold_nobody_up},
	{"events_order_streams_and_collectives", events_order_streams_and_collectives},
	{"streams_run_side_by_side", streams_run_side_by_side},
	{"host_helpers_go_to_the_base", host_helpers_go_to_the_base},
	{"memory_is_registered_by_every_group", memory_is_registered_by_every_group},
	{"where_one_rank_is_refused_none_has_it", where_one_rank_is_refused_none_has_it},
	{"an_absent_rank_is_named", an_absent_rank_is_named},
	{"a_hang_of_the_network_is_told", a_hang_of_the_network_is_told},
	{"an_asynchronous_error_is_told", an_asynchronous_error_is_told},
	{"members_that_disagree_are_named", members_that_disagree_are_named},
	{"a_failed_start_is_told", a_failed_start_is_told},
};

int main(void)
{
	char *self = mt_process_self(), *plugins, *file;
	int level, rank, st = 0;
	MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &level);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	*strrchr(self, '/') = '\0';
	plugins = mt_string("%s/plugins", self);
	file = mt_string("%s/megatune-nccl.so", plugins);
	if (!mt_file_exists(file)) {
		if (rank == 0)
			printf("built without nccl.h\n0 passed, 0 failed, 1 skipped\n");
	} else {
		setenv("MEGATUNE_PLUGINS", plugins, 1);
		st = run_tests(tests, sizeof tests / sizeof *tests);
	}
	free(file);
	free(plugins);
	free(self);
	MPI_Finalize();
	return st;
}

#else

#include <stdio.h>

int main(void)
{
	printf("built without MPI\n0 passed, 0 failed, 1 skipped\n");
	return 0;
}

#endif
