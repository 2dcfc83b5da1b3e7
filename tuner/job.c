/* job: see job.h. Ranks join before they look at their input, even if it is plainly wrong: a rank that ended by itself
 * would leave the others waiting, and would take the one that has the word with it. */
#include "tuner/job.h"

#include "base/log.h"

#include <stdint.h>
#include <stdlib.h>

enum mt_status mt_job_open(struct mt_fabric **fabric)
{
	struct mt_fabric_config config = {.kind = mt_fabric_launched() ? "mpi" : "self"};

	MT_TRY(mt_fabric_create(fabric, &config));
	mt_log_set_rank(mt_fabric_rank(*fabric), mt_fabric_size(*fabric), mt_fabric_host(*fabric, mt_fabric_rank(*fabric)));
	return MT_OK;
}

static enum mt_status first_failure(struct mt_group *world, enum mt_status st, int32_t *statuses)
{
	int32_t mine = (int32_t)st;
	int rank = mt_group_rank(world), first = 0;

	MT_TRY(mt_comm_host_all_gather(world, &mine, statuses, sizeof mine));
	while (first < mt_group_size(world) && statuses[first] == MT_OK)
		first++;
	if (first == mt_group_size(world))
		return MT_OK;
	if (rank == first)
		mt_error("%s", mt_error_message());
	/* The launcher ends all ranks when one has ended with a failure: not before the message is out. */
	MT_TRY(mt_comm_barrier(world));
	mt_error_clear();
	return (enum mt_status)statuses[first];
}

enum mt_status mt_job_agree(struct mt_fabric *fabric, enum mt_status st)
{
	int size = mt_fabric_size(fabric), *ranks;
	struct mt_group *world = NULL;
	int32_t *statuses;

	if (size == 1)
		return st;
	ranks = malloc((size_t)size * sizeof *ranks);
	statuses = malloc((size_t)size * sizeof *statuses);
	if (!ranks || !statuses) {
		st = mt_fail(MT_NOMEM, "no memory for %d ranks", size);
		goto out;
	}
	for (int i = 0; i < size; i++)
		ranks[i] = i;
	if (mt_group_create(fabric, "job", ranks, size, &world) == MT_OK)
		st = first_failure(world, st, statuses);
	else if (st == MT_OK)
		st = MT_FAILED;
out:
	mt_group_destroy(world);
	free(statuses);
	free(ranks);
	return st;
}

void mt_job_give_up(struct mt_fabric *fabric, enum mt_status st)
{
	if (!fabric || mt_fabric_size(fabric) == 1)
		return;
	mt_error("%s", mt_error_message());
	mt_fabric_abort(fabric, mt_status_exit_code(st));
}
