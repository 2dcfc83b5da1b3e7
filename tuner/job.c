/* job: see job.h. Ranks join before they look at their input, even if it is plainly wrong: a rank that ended by itself
 * would leave the others waiting, and would take the one that has the word with it. */
#include "tuner/job.h"

#include "base/log.h"
#include "kernels/device.h"
#include "tuner/placement.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum mt_status mt_job_open(struct mt_fabric **fabric)
{
	struct mt_fabric_config config = {.kind = mt_fabric_launched_kind()};

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
	int size = mt_fabric_size(fabric);
	struct mt_group *world = NULL;
	int32_t *statuses;

	if (size == 1)
		return st;
	statuses = malloc((size_t)size * sizeof *statuses);
	if (!statuses)
		st = mt_fail(MT_NOMEM, "no memory for %d ranks", size);
	else if (mt_group_create_all(fabric, "job", &world) == MT_OK)
		st = first_failure(world, st, statuses);
	else if (st == MT_OK)
		st = MT_FAILED;
	mt_group_destroy(world);
	free(statuses);
	return st;
}

/* *value: true on all ranks? */
static enum mt_status agree_on(struct mt_fabric *fabric, bool *value)
{
	struct mt_group *world = NULL;
	double no = !*value;
	enum mt_status st;

	MT_GOTO(out, mt_group_create_all(fabric, "job", &world));
	st = mt_comm_host_all_reduce(world, &no, 1, MT_MAX);
	*value = no == 0;
out:
	mt_group_destroy(world);
	return st;
}

/* Whether the ranks' data can go over nccl; the reason is recorded when not. */
static enum mt_status can_nccl(const struct mt_fabric *fabric, const char *device)
{
	struct mt_device_info info;
	int gpus = 0, ranks = mt_fabric_local_size(fabric);

	if (strcmp(device, "cuda") != 0)
		return mt_fail(MT_INPUT, "fabric nccl is for device cuda, not for %s", device);
	MT_TRY(mt_fabric_usable("nccl"));
	MT_TRY(mt_device_plugin_list("cuda", &info, 1, &gpus));
	if (gpus < ranks)
		return mt_fail(MT_UNAVAILABLE, "fabric nccl needs a GPU for each rank: host %s has %d for %d ranks",
			       mt_fabric_host(fabric, mt_fabric_rank(fabric)), gpus, ranks);
	return MT_OK;
}

/* With auto a rank that cannot is no failure, but then none does. */
static enum mt_status all_can(struct mt_fabric *fabric, const char *device, bool must, bool *can)
{
	enum mt_status st = can_nccl(fabric, device);
	char *reason;

	if (must) {
		*can = true;
		return mt_job_agree(fabric, st);
	}
	reason = strdup(st == MT_OK ? "another rank cannot use nccl" : mt_error_message());
	mt_error_clear();
	*can = st == MT_OK;
	st = agree_on(fabric, can);
	if (st == MT_OK && !*can && mt_fabric_rank(fabric) == 0)
		mt_warn("collectives go through host memory: %s", reason ? reason : "no memory");
	free(reason);
	return st;
}

static enum mt_status put_nccl_on(struct mt_fabric **fabric)
{
	struct mt_fabric *base = *fabric, *made = NULL;
	enum mt_status st = mt_fabric_create(&made, &(struct mt_fabric_config){.kind = "nccl", .base = base});

	st = mt_job_agree(base, st);
	if (made)
		*fabric = made;
	return st;
}

enum mt_status mt_job_choose(struct mt_fabric **fabric, enum mt_fabric_choice choice, const char *device)
{
	static const char *const kinds[] = {
		[MT_FABRIC_SELF] = "self", [MT_FABRIC_MPI] = "mpi", [MT_FABRIC_TCP] = "tcp", [MT_FABRIC_NCCL] = "nccl"};
	const char *joined = mt_fabric_kind(*fabric);
	bool can = false;

	if (choice == MT_FABRIC_AUTO && (mt_fabric_size(*fabric) == 1 || strcmp(device, "cuda") != 0))
		return MT_OK;
	if (choice != MT_FABRIC_AUTO && choice != MT_FABRIC_NCCL)
		return mt_job_agree(*fabric,
				    strcmp(kinds[choice], joined) == 0
					    ? MT_OK
					    : mt_fail(MT_INPUT,
						      "fabric: %s was asked for, but the ranks were joined by %s: mpirun "
						      "gives mpi, `megatune launch` and torchrun tcp, one process alone self",
						      kinds[choice], joined));
	MT_TRY(all_can(*fabric, device, choice == MT_FABRIC_NCCL, &can));
	return can ? put_nccl_on(fabric) : MT_OK;
}

enum mt_status mt_job_order(struct mt_fabric **ordered, const struct mt_run *run, struct mt_fabric *fabric)
{
	int world = mt_fabric_size(fabric), *device;
	enum mt_status st;

	if (!run->train.rank_order)
		return MT_OK;
	device = malloc((size_t)world * sizeof *device);
	if (!device)
		return mt_fail(MT_NOMEM, "no memory for the order of %d ranks", world);
	st = mt_placement_read(run->train.rank_order, &run->layout, device);
	if (st == MT_OK && ordered)
		st = mt_fabric_order(ordered, fabric, device);
	free(device);
	return st;
}

void mt_job_give_up(struct mt_fabric *fabric, enum mt_status st)
{
	if (!fabric || mt_fabric_size(fabric) == 1)
		return;
	mt_error("%s", mt_error_message());
	mt_fabric_abort(fabric, mt_status_exit_code(st));
}
