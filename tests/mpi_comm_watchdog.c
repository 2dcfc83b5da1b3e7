/* The watchdog over the mpi fabric: what hangs is ended and named, with the ranks that are behind.
 * ranks: 1 2 3 4 */
#ifdef MT_HAVE_MPI

#include "base/clock.h"
#include "tests/comm_bench.h"

#define DEADLINE_S 0.4

static int names(const char *what)
{
	if (strstr(mt_error_message(), what))
		return 0;
	fprintf(stderr, "the message does not say '%s': %s\n", what, mt_error_message());
	return 1;
}

static struct mt_group *group_of_all(struct bench *b, const char *name)
{
	struct mt_group *group = NULL;
	int ranks[64];
	for (int r = 0; r < b->size; r++)
		ranks[r] = r;
	must(b, mt_group_create(b->fabric, name, ranks, b->size, &group), name);
	return group;
}

/* The last rank does not come until the others have given up; it is told so by messages of another group. */
static int hang(struct bench *b, bool comm_stream)
{
	struct mt_group *group = group_of_all(b, comm_stream ? "dp" : "tp");
	struct mt_stream *stream = comm_stream ? b->comm[0] : b->compute;
	int last = b->size - 1, wrong = 0;
	float x[256] = {0};
	char suspect[64];
	double word = 0;
	snprintf(suspect, sizeof suspect, "suspect: rank %d (world rank %d on ", last, last);
	must(b, mt_comm_all_reduce(group, stream, x, x, 256, MT_F32, MT_SUM), "before the hang");
	must(b, mt_stream_synchronize(stream), "before the hang");
	/* The last one's beat is quick too, but what it waits for takes longer than the others' deadline. */
	mt_fabric_set_deadline(b->fabric, b->rank == last ? 10 * DEADLINE_S : DEADLINE_S);
	if (b->rank != last) {
		enum mt_status st = mt_comm_all_reduce(group, stream, x, x, 256, MT_F32, MT_SUM);
		if (st == MT_OK)
			st = mt_stream_synchronize(stream);
		wrong += st != MT_FAILED;
		wrong += names(comm_stream ? "all_reduce of 1.00 KiB (number 1) on group dp" : "on group tp");
		wrong += names(suspect) + names("has begun 1 collectives of this group, not 2");
		mt_error_clear();
		/* The group is out of step for good. */
		st = mt_comm_all_reduce(group, stream, x, x, 4, MT_F32, MT_SUM);
		wrong += (st == MT_OK ? mt_stream_synchronize(stream) : st) != MT_FAILED;
		mt_error_clear();
	}
	if (b->rank == last)
		for (int r = 0; r < last; r++)
			must(b, mt_comm_recv(b->world, b->compute, &word, 1, MT_F64, r), "word");
	else
		must(b, mt_comm_send(b->world, b->compute, &word, 1, MT_F64, last), "word");
	mt_fabric_set_deadline(b->fabric, 0);
	mt_group_destroy(group);
	return wrong;
}

static int a_hang_on_a_compute_stream_is_named(struct bench *b)
{
	return b->size > 1 ? hang(b, false) : -1;
}

static int a_hang_on_a_comm_stream_is_named(struct bench *b)
{
	return b->size > 1 ? hang(b, true) : -1;
}

static int a_message_that_nobody_sends_is_named(struct bench *b)
{
	struct mt_group *group = NULL;
	int wrong = 0;
	float x[4];
	double word = 0;
	if (b->size == 1)
		return -1;
	group = group_of_all(b, "pp");
	mt_fabric_set_deadline(b->fabric, b->rank == 0 ? DEADLINE_S : 10 * DEADLINE_S);
	if (b->rank == 0) {
		wrong += mt_comm_recv(group, b->compute, x, 4, MT_F32, 1) != MT_FAILED;
		wrong += names("receive of 16 B (from rank 1, number 0) on group pp");
		wrong += names("suspect: rank 1 (world rank 1 on ") + names("receive of 8 B");
		mt_error_clear();
		must(b, mt_comm_send(b->world, b->compute, &word, 1, MT_F64, 1), "word");
	} else if (b->rank == 1) {
		must(b, mt_comm_recv(b->world, b->compute, &word, 1, MT_F64, 0), "word");
	}
	mt_fabric_set_deadline(b->fabric, 0);
	mt_group_destroy(group);
	return wrong;
}

/* A deadline below the time that work takes in all, but not below that of one operation. */
static int work_that_goes_on_is_left_alone(struct bench *b)
{
	int wrong = 0;
	mt_fabric_set_deadline(b->fabric, 20);
	wrong += random_jobs(b, b->world, b->comm[1], 77, 40, "watched");
	mt_fabric_set_deadline(b->fabric, -1);
	wrong += random_jobs(b, b->world, b->compute, 78, 10, "not watched");
	mt_fabric_set_deadline(b->fabric, 0);
	return wrong;
}

static const struct test tests[] = {
	{"a_hang_on_a_compute_stream_is_named", a_hang_on_a_compute_stream_is_named},
	{"a_hang_on_a_comm_stream_is_named", a_hang_on_a_comm_stream_is_named},
	{"a_message_that_nobody_sends_is_named", a_message_that_nobody_sends_is_named},
	{"work_that_goes_on_is_left_alone", work_that_goes_on_is_left_alone},
};

int main(void)
{
	return run_tests(tests, sizeof tests / sizeof *tests);
}

#else

#include <stdio.h>

int main(void)
{
	printf("built without MPI\n0 passed, 0 failed, 1 skipped\n");
	return 0;
}

#endif
