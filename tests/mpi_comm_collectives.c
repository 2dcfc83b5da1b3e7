/* Collectives of the mpi fabric equal their definition; where the order of a sum matters, bits are compared.
 * ranks: 1 2 3 4 8 */
#ifdef MT_HAVE_MPI

#include "comm/mpi.h"
#include "tests/comm_chunks.h"

static int collectives_equal_their_definition(struct bench *b)
{
	return random_jobs(b, b->world, b->compute, 11, 150, "compute stream") +
	       random_jobs(b, b->world, b->comm[0], 12, 100, "comm stream");
}

static int chunks_of_any_counts_arrive(struct bench *b)
{
	return random_exchanges(b, b->world, b->compute, 71, 30, "compute stream") +
	       random_exchanges(b, b->world, b->comm[1], 72, 30, "comm stream");
}

/* On one host with few ranks only direct algorithms are chosen; here the group is told that it is elsewhere. */
static int other_algorithms_agree(struct bench *b)
{
	int wrong = 0;
	if (b->size == 1)
		return -1;
	struct mpi_group *members = b->world->backend;
	struct mpi_group as_found = *members;
	members->one_host = false;
	wrong += random_jobs(b, b->world, b->compute, 21, 100, "several hosts");
	members->direct_ranks = 1;
	wrong += random_jobs(b, b->world, b->comm[1], 22, 150, "large group");
	members->one_host = as_found.one_host;
	members->direct_ranks = as_found.direct_ranks;
	return wrong;
}

static int long_buffers_are_whole(struct bench *b)
{
	int wrong = 0;
	for (int op = 0; op < MT_COMM_SEND_RECV; op++) {
		struct job j = {.op = (enum mt_comm_op)op, .count = 1200007, .dtype = MT_F32, .in_place = op & 1, .salt = op};
		if (op != MT_COMM_ALL_REDUCE && op != MT_COMM_BROADCAST)
			j.count /= b->size;
		prepare(&j, b->rank, b->size);
		must(b, call(&j, b->world, b->comm[2]), "long");
		must(b, mt_stream_synchronize(b->comm[2]), "long");
		wrong += judge(&j, b->rank, b->size, "long");
	}
	return wrong;
}

/* Ranks r, r + stride, ...: all groups of that kind at once, on a comm stream and in reverse order of members. */
static int strided_groups_work_side_by_side(struct bench *b)
{
	int wrong = 0;
	for (int stride = 1; stride <= b->size / 2; stride *= 2) {
		struct mt_group *group = NULL;
		int ranks[64], count = 0;
		for (int r = b->rank % stride; r < b->size; r += stride)
			ranks[count++] = r;
		for (int i = 0; i < count / 2; i++) {
			int swap = ranks[i];
			ranks[i] = ranks[count - 1 - i];
			ranks[count - 1 - i] = swap;
		}
		must(b, mt_group_create(b->fabric, "strided", ranks, count, &group), "strided group");
		wrong += mt_group_world_rank(group, mt_group_rank(group)) != b->rank;
		wrong += random_jobs(b, group, b->comm[0], 31, 40, "strided group");
		mt_group_destroy(group);
	}
	return wrong;
}

/* Two halves of the world, each a fabric to those in it, work at once. */
static int blocks_are_worlds_of_their_own(struct bench *b)
{
	struct mt_fabric *block = NULL;
	struct mt_group *group = NULL;
	int ranks[64], half = b->size / 2, wrong = 0;
	if (b->size % 2)
		return -1;
	must(b, mt_fabric_block(&block, b->fabric, half), "block");
	for (int r = 0; r < half; r++)
		ranks[r] = r;
	must(b, mt_group_create(block, "half", ranks, half, &group), "group of a block");
	wrong += mt_fabric_size(block) != half || mt_group_rank(group) != b->rank % half || mt_group_world_rank(group, 0) != 0;
	wrong += random_jobs(b, group, b->comm[2], 51, 40, "block");
	mt_group_destroy(group);
	ranks[0] = half;
	wrong += mt_group_create(block, "outside", ranks, 1, &group) != MT_INPUT;
	mt_error_clear();
	mt_fabric_destroy(block);
	return wrong;
}

static int float_sums_have_the_same_bits(struct bench *b)
{
	enum { COUNT = 150001 };
	int wrong = 0;
	for (int dtype = MT_F32; dtype <= MT_F64; dtype++) {
		size_t width = mt_dtype_bytes((enum mt_dtype)dtype), bytes = COUNT * width;
		char *x = buffer(COUNT, (enum mt_dtype)dtype), *y = buffer(COUNT, (enum mt_dtype)dtype);
		char *first = buffer(COUNT, (enum mt_dtype)dtype);
		for (int64_t i = 0; i < COUNT; i++)
			put(x, i, (enum mt_dtype)dtype, mt_random_normal(5, (uint64_t)b->rank, (uint64_t)i));
		for (int repeat = 0; repeat < 6; repeat++) {
			struct mt_stream *stream = repeat % 2 ? b->comm[0] : b->compute;
			must(b, mt_comm_all_reduce(b->world, stream, x, y, COUNT, (enum mt_dtype)dtype, MT_SUM), "bits");
			must(b, mt_stream_synchronize(stream), "bits");
			if (repeat == 0)
				memcpy(first, y, bytes);
			if (memcmp(first, y, bytes) != 0)
				wrong++;
		}
		/* Rank 0's bits against everyone's. */
		must(b, mt_comm_broadcast(b->world, b->compute, y, COUNT, (enum mt_dtype)dtype, 0), "bits");
		if (memcmp(first, y, bytes) != 0)
			wrong++;
		free(x);
		free(y);
		free(first);
	}
	if (wrong)
		fprintf(stderr, "rank %d: %d sums differ in bits\n", b->rank, wrong);
	return wrong;
}

static int host_helpers_reach_everyone(struct bench *b)
{
	double values[3] = {b->rank, 1.0, -b->rank};
	char own[5] = "ab", all[64 * 5];
	int wrong = 0;
	own[2] = (char)('A' + b->rank);
	must(b, mt_comm_barrier(b->world), "barrier");
	must(b, mt_comm_host_all_reduce(b->world, values, 3, MT_SUM), "host all_reduce");
	wrong += values[0] != b->size * (b->size - 1) / 2 || values[1] != b->size;
	values[2] = -b->rank;
	must(b, mt_comm_host_all_reduce(b->world, values + 2, 1, MT_MAX), "host all_reduce");
	wrong += values[2] != 0.0;
	must(b, mt_comm_host_all_gather(b->world, own, all, sizeof own), "host all_gather");
	for (int r = 0; r < b->size; r++)
		wrong += all[r * 5 + 2] != 'A' + r;
	wrong += mt_fabric_local_size(b->fabric) < 1 || mt_fabric_local_rank(b->fabric) >= mt_fabric_local_size(b->fabric);
	wrong += strlen(mt_fabric_host(b->fabric, b->size - 1)) == 0 || strlen(mt_fabric_library(b->fabric)) == 0;
	wrong += !mt_fabric_launched();
	return wrong;
}

static int bad_calls_are_refused(struct bench *b)
{
	struct mt_group *group = NULL;
	int ranks[2] = {b->rank, b->rank}, other[1] = {b->size};
	float x[4] = {0};
	int wrong = 0;
	wrong += mt_group_create(b->fabric, "outside", other, 1, &group) != MT_INPUT;
	mt_error_clear();
	wrong += b->size > 1 && mt_group_create(b->fabric, "twice", ranks, 2, &group) != MT_INPUT;
	mt_error_clear();
	wrong += mt_comm_broadcast(b->world, b->compute, x, 4, MT_F32, b->size) != MT_INPUT;
	mt_error_clear();
	wrong += mt_comm_send(b->world, b->compute, x, 4, MT_F32, b->rank) != MT_INPUT;
	mt_error_clear();
	wrong += mt_comm_all_reduce(b->world, b->compute, x, x, -1, MT_F32, MT_SUM) != MT_INPUT;
	mt_error_clear();
	return wrong;
}

/* The last rank says another count: every member is told which rank, and the group refuses work from then on. */
static int a_differing_call_is_named(struct bench *b)
{
#ifdef MT_DEBUG
	struct mt_group *group = NULL;
	int ranks[64], wrong = 0;
	float x[8] = {0};
	char name[32];
	if (b->size < 3)
		return -1;
	for (int r = 0; r < b->size; r++)
		ranks[r] = r;
	must(b, mt_group_create(b->fabric, "odd", ranks, b->size, &group), "group");
	int64_t count = b->rank == b->size - 1 ? 5 : 4;
	must(b, mt_comm_all_reduce(group, b->comm[0], x, x, 4, MT_F32, MT_SUM), "agreeing call");
	must(b, mt_stream_synchronize(b->comm[0]), "agreeing call");
	/* On a comm stream the failure is known when the stream is waited for, if not at once. */
	if (mt_comm_all_reduce(group, b->comm[0], x, x, count, MT_F32, MT_SUM) == MT_OK)
		wrong += mt_stream_synchronize(b->comm[0]) != MT_FAILED;
	snprintf(name, sizeof name, "rank %d (world", b->size - 1);
	if (!strstr(mt_error_message(), name) || !strstr(mt_error_message(), "of 5 f32")) {
		fprintf(stderr, "the message does not name %s: %s\n", name, mt_error_message());
		wrong++;
	}
	mt_error_clear();
	wrong += mt_comm_all_reduce(group, b->comm[1], x, x, 4, MT_F32, MT_SUM) == MT_OK &&
		 mt_stream_synchronize(b->comm[1]) == MT_OK;
	wrong += !strstr(mt_error_message(), "earlier operation");
	mt_error_clear();
	mt_stream_synchronize(b->comm[1]);
	mt_error_clear();
	mt_group_destroy(group);
	return wrong;
#else
	return -1;
#endif
}

static const struct test tests[] = {
	{"collectives_equal_their_definition", collectives_equal_their_definition},
	{"chunks_of_any_counts_arrive", chunks_of_any_counts_arrive},
	{"other_algorithms_agree", other_algorithms_agree},
	{"long_buffers_are_whole", long_buffers_are_whole},
	{"strided_groups_work_side_by_side", strided_groups_work_side_by_side},
	{"blocks_are_worlds_of_their_own", blocks_are_worlds_of_their_own},
	{"float_sums_have_the_same_bits", float_sums_have_the_same_bits},
	{"host_helpers_reach_everyone", host_helpers_reach_everyone},
	{"bad_calls_are_refused", bad_calls_are_refused},
	{"a_differing_call_is_named", a_differing_call_is_named},
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
