/* The tcp fabric: results equal their definition, on host memory and on a device behind the host; a rank that fails, dies or does
 * not come ends the others. Each test is a job of processes that are this program again. */
#include "base/clock.h"
#include "base/process.h"
#include "comm/place.h"

#define BENCH_FABRIC     "tcp"
#define BENCH_DEVICE_OPS bench_device_ops()
static const struct mt_device_ops *bench_device_ops(void);
#include "tests/comm_chunks.h"
#include "tests/late_device.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* "late": the device is the stand-in of late_device.h, whose config says which host device runs its work. */
static enum mt_status late_open_reference(struct mt_device *device, const struct mt_device_config *config)
{
	return late_open(device, &(struct mt_device_config){.kind = "reference", .local_rank = 1});
}

static const struct mt_device_ops *bench_device_ops(void)
{
	static struct mt_device_ops ops;
	if (!getenv("TEST_LATE"))
		return NULL;
	ops = late_ops;
	ops.open = late_open_reference;
	return &ops;
}

/* ---- in a rank ---- */

static int collectives(struct bench *b)
{
	return random_jobs(b, b->world, b->compute, 51, 40, "compute stream") +
	       random_jobs(b, b->world, b->comm[0], 52, 40, "comm stream") +
	       random_exchanges(b, b->world, b->compute, 73, 20, "compute stream") +
	       random_exchanges(b, b->world, b->comm[1], 74, 20, "comm stream");
}

static int groups(struct bench *b)
{
	struct mt_group *group = NULL;
	int ranks[64], count = 0, wrong = 0;
	for (int r = b->size - 1; r >= 0; r--)
		if (r % 2 == b->rank % 2)
			ranks[count++] = r;
	/* The same again: its messages must not meet those of the first. */
	for (int i = 0; i < 2; i++) {
		must(b, mt_group_create(b->fabric, "halves", ranks, count, &group), "group");
		wrong += random_jobs(b, group, b->comm[i], 53, 10, "halves");
		mt_group_destroy(group);
	}
	return wrong;
}

/* A receive is posted before the other side has sent, on a comm stream, and holds nobody up. */
static int messages(struct bench *b)
{
	enum { MESSAGES = 8, COUNT = 3000 };
	static int32_t out[MESSAGES][COUNT], in[MESSAGES][COUNT];
	int right = (b->rank + 1) % b->size, left = (b->rank + b->size - 1) % b->size, wrong = 0;
	for (int m = 0; m < MESSAGES; m++)
		must(b, mt_comm_recv(b->world, b->comm[1], in[m], COUNT, MT_I32, left), "receive");
	for (int m = 0; m < MESSAGES; m++) {
		for (int i = 0; i < COUNT; i++)
			out[m][i] = b->rank * 100000 + m * 1000 + i % 997;
		must(b, mt_comm_send(b->world, b->comm[0], out[m], COUNT, MT_I32, right), "send");
	}
	must(b, mt_stream_synchronize(b->comm[0]), "send");
	must(b, mt_stream_synchronize(b->comm[1]), "receive");
	for (int m = 0; m < MESSAGES; m++)
		for (int i = 0; i < COUNT; i++)
			wrong += in[m][i] != left * 100000 + m * 1000 + i % 997;
	return wrong;
}

static int host_side(struct bench *b)
{
	double values[2] = {b->rank, 1.0};
	int all[64], wrong = 0;
	must(b, mt_comm_barrier(b->world), "barrier");
	must(b, mt_comm_host_all_reduce(b->world, values, 2, MT_SUM), "host all_reduce");
	must(b, mt_comm_host_all_gather(b->world, &b->rank, all, sizeof b->rank), "host all_gather");
	for (int r = 0; r < b->size; r++)
		wrong += all[r] != r;
	wrong += values[0] != b->size * (b->size - 1) / 2 || values[1] != b->size;
	wrong += mt_fabric_local_rank(b->fabric) != b->rank || mt_fabric_local_size(b->fabric) != b->size;
	return wrong + (strlen(mt_fabric_host(b->fabric, b->size - 1)) == 0);
}

/* The last rank does not come until the others have given up. */
static int hang(struct bench *b)
{
	struct mt_group *group = NULL;
	int ranks[64], wrong = 0, last = b->size - 1;
	float x[64] = {0};
	char suspect[64];
	for (int r = 0; r < b->size; r++)
		ranks[r] = r;
	must(b, mt_group_create(b->fabric, "dp", ranks, b->size, &group), "group");
	must(b, mt_comm_all_reduce(group, b->comm[0], x, x, 64, MT_F32, MT_SUM), "before");
	must(b, mt_stream_synchronize(b->comm[0]), "before");
	must(b, mt_comm_barrier(b->world), "before");
	mt_fabric_set_deadline(b->fabric, b->rank == last ? 20 : 0.4);
	if (b->rank != last) {
		must(b, mt_comm_all_reduce(group, b->comm[0], x, x, 64, MT_F32, MT_SUM), "enqueue");
		wrong += mt_stream_synchronize(b->comm[0]) != MT_FAILED;
		snprintf(suspect, sizeof suspect, "suspect: rank %d (world rank %d on ", last, last);
		wrong += !strstr(mt_error_message(), "number 1) on group dp") || !strstr(mt_error_message(), suspect);
		mt_error_clear();
		wrong += mt_comm_all_reduce(group, b->compute, x, x, 64, MT_F32, MT_SUM) != MT_FAILED;
		mt_error_clear();
	}
	mt_fabric_set_deadline(b->fabric, 20);
	must(b, mt_comm_barrier(b->world), "after");
	mt_fabric_set_deadline(b->fabric, 0);
	mt_group_destroy(group);
	return wrong + random_jobs(b, b->world, b->comm[0], 54, 5, "the others go on");
}

#ifdef MT_DEBUG
static int disagree(struct bench *b)
{
	float x[8] = {0};
	int wrong = mt_comm_all_reduce(b->world, b->compute, x, x, b->rank == 1 ? 4 : 8, MT_F32, MT_SUM) != MT_FAILED;
	wrong += !strstr(mt_error_message(), "do not call the same collective: rank 1");
	mt_error_clear();
	return wrong;
}
#endif

/* Rank 1 tells of a failure and aborts, or is killed; the others wait for it and never get further. */
static int fail_as_asked(struct bench *b, const char *how)
{
	float x[4] = {0};
	must(b, mt_comm_barrier(b->world), "before");
	if (b->rank == 1 && strcmp(how, "abort") == 0) {
		fprintf(stderr, "rank 1 has failed\n");
		mt_fabric_abort(b->fabric, 4);
	}
	if (b->rank == 1)
		raise(SIGKILL);
	must(b, mt_comm_all_reduce(b->world, b->compute, x, x, 4, MT_F32, MT_SUM), "never");
	return 1;
}

static int run_as_rank(const char *name)
{
	static const struct test tests[] = {
		{"collectives", collectives}, {"groups", groups}, {"messages", messages}, {"host_side", host_side}, {"hang", hang},
#ifdef MT_DEBUG
		{"disagree", disagree},
#endif
	};
	struct bench b = {0};
	int wrong = 1;
	open_bench(&b);
	if (strcmp(name, "abort") == 0 || strcmp(name, "kill") == 0)
		return fail_as_asked(&b, name);
	for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
		if (strcmp(name, tests[i].name) == 0)
			wrong = tests[i].run(&b);
	close_bench(&b);
	return wrong ? 1 : 0;
}

/* ---- the job ---- */

/* Starts `came` of `size` ranks; what they printed to stderr goes to `said`, their exit codes to `codes`. */
static void run_job(const char *name, int size, int came, char said[4096], int *codes)
{
	char *self = mt_process_self(), number[16];
	int pipe_ends[2], port;
	pid_t ranks[8];
	size_t used = 0;
	ssize_t n;
	assert_int_equal(mt_place_free_port(&port), MT_OK);
	assert_int_equal(pipe(pipe_ends), 0);
	for (int r = 0; r < came; r++) {
		ranks[r] = fork();
		if (ranks[r] == 0) {
			const char *const names[] = {"RANK", "WORLD_SIZE", "MASTER_PORT"};
			const int values[] = {r, size, port};
			for (int i = 0; i < 3; i++) {
				snprintf(number, sizeof number, "%d", values[i]);
				setenv(names[i], number, 1);
			}
			setenv("MASTER_ADDR", "127.0.0.1", 1);
			setenv("MEGATUNE_JOIN_S", "60", 0);
			dup2(pipe_ends[1], STDERR_FILENO);
			execl(self, self, name, (char *)NULL);
			_exit(127);
		}
	}
	close(pipe_ends[1]);
	while (used < 4095 && (n = read(pipe_ends[0], said + used, 4095 - used)) > 0)
		used += (size_t)n;
	said[used] = '\0';
	close(pipe_ends[0]);
	for (int r = 0; r < came; r++) {
		int status;
		waitpid(ranks[r], &status, 0);
		codes[r] = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
	}
	free(self);
}

static void all_pass(const char *name, int size)
{
	char said[4096];
	int codes[8];
	run_job(name, size, size, said, codes);
	for (int r = 0; r < size; r++)
		if (codes[r])
			fail_msg("%s: rank %d of %d: exit code %d: %s", name, r, size, codes[r], said);
}

static void collectives_equal_their_definition(void **state)
{
	all_pass("collectives", 2);
	all_pass("collectives", 4);
}

static void collectives_of_a_device_behind_the_host_too(void **state)
{
	setenv("TEST_LATE", "1", 1);
	all_pass("collectives", 3);
	unsetenv("TEST_LATE");
}

static void groups_of_the_same_name_do_not_meet(void **state)
{
	all_pass("groups", 4);
}

static void receives_wait_beside_the_host(void **state)
{
	all_pass("messages", 2);
	all_pass("messages", 3);
}

static void the_host_side_calls_work(void **state)
{
	all_pass("host_side", 3);
}

static void a_hang_is_named_with_its_suspect(void **state)
{
	all_pass("hang", 3);
}

static void ranks_that_disagree_are_named(void **state)
{
#ifdef MT_DEBUG
	all_pass("disagree", 3);
#else
	skip();
#endif
}

static int lines(const char *text)
{
	int n = 0;
	for (; *text; text++)
		n += *text == '\n';
	return n;
}

static void a_rank_that_fails_ends_the_others_with_its_message_alone(void **state)
{
	char said[4096];
	int codes[8];
	run_job("abort", 3, 3, said, codes);
	for (int r = 0; r < 3; r++)
		assert_int_equal(codes[r], 4);
	assert_string_equal(said, "rank 1 has failed\n");
}

static void a_rank_that_dies_is_told_once(void **state)
{
	char said[4096];
	int codes[8];
	run_job("kill", 3, 3, said, codes);
	assert_int_equal(codes[1], 128 + SIGKILL);
	assert_int_equal(codes[0], 4);
	assert_int_equal(codes[2], 4);
	if (lines(said) != 1 || !strstr(said, "rank 1 on ") || !strstr(said, "without a word"))
		fail_msg("not one message: %s", said);
	/* The launcher tells, if there is one. */
	setenv("MEGATUNE_TOKEN", "t", 1);
	run_job("kill", 3, 3, said, codes);
	unsetenv("MEGATUNE_TOKEN");
	assert_string_equal(said, "");
	assert_int_equal(codes[0], 4);
}

static void a_rank_that_does_not_come_is_named(void **state)
{
	char said[4096];
	int codes[8];
	setenv("MEGATUNE_JOIN_S", "1", 1);
	run_job("host_side", 3, 2, said, codes);
	unsetenv("MEGATUNE_JOIN_S");
	assert_int_equal(codes[0], 1);
	assert_int_equal(codes[1], 1);
	if (!strstr(said, "1 of the job's 3 ranks have not come") || !strstr(said, "rank 2 among them"))
		fail_msg("the message: %s", said);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(collectives_equal_their_definition),
		cmocka_unit_test(collectives_of_a_device_behind_the_host_too),
		cmocka_unit_test(groups_of_the_same_name_do_not_meet),
		cmocka_unit_test(receives_wait_beside_the_host),
		cmocka_unit_test(the_host_side_calls_work),
		cmocka_unit_test(a_hang_is_named_with_its_suspect),
		cmocka_unit_test(ranks_that_disagree_are_named),
		cmocka_unit_test(a_rank_that_fails_ends_the_others_with_its_message_alone),
		cmocka_unit_test(a_rank_that_dies_is_told_once),
		cmocka_unit_test(a_rank_that_does_not_come_is_named),
	};
	if (argc == 2)
		return run_as_rank(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
