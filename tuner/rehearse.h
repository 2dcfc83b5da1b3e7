/* rehearse: a whole job on the emulated device: every rank a process, every message sent, kernels and links as long as the
 * cost model says. What the dry run takes for granted (members of a group in step, one rank for all alike) is left to happen.
 * Or with real links: kernels alone are as long as the cost model says, messages have their sizes and take what they take. */
#ifndef MT_TUNER_REHEARSE_H
#define MT_TUNER_REHEARSE_H

#include "comm/comm.h"
#include "tuner/cost.h"

struct mt_rehearse_config {
	const struct mt_run *run;   /* its layout is of all ranks of the fabric */
	struct mt_fabric *fabric;   /* mpi, or a block of such */
	struct mt_cost_model *cost; /* as the dry run's; overlap_steals is not rehearsed */
	int steps;                  /* timed; one more before them is not */
	double pace;                /* seconds of the real clock for one of the job's; 0: as fast as messages go */
	bool real_links;            /* the pace is 1 */
	mt_trace_sink trace;        /* of the last step, times of the job's clock; NULL: none */
	void *trace_context;
};

/* Of one rank: medians over the steps. Times but wall_s and late_s are of the job's clock, which with real links is the real one.
 */
struct mt_rehearsed_rank {
	int stage;
	double step_s, compute_s, tp_s, dp_s, pp_s, ep_s, optimizer_s;
	double wall_s; /* of a step on the real clock */
	double late_s; /* the most that the host was behind the job's clock at a kernel, on the real clock */
	int64_t arena_bytes[MT_ENGINE_ARENAS], host_bytes, scratch_bytes;
};

struct mt_rehearsal {
	int ranks;
	struct mt_rehearsed_rank *rank; /* owned */
	double step_s;                  /* of the slowest rank, on the job's clock */
	double wall_s;                  /* of the slowest rank, on the real clock */
	double late_s;                  /* of the latest */
	double bubble_frac;             /* part of all ranks' steps in which they waited for other stages */
};

/* Collective over the fabric; every rank gets all. Free it with mt_rehearsal_free. */
enum mt_status mt_rehearse(struct mt_rehearsal *rehearsal, const struct mt_rehearse_config *config);
void mt_rehearsal_free(struct mt_rehearsal *rehearsal);
/* Whether every rank's peaks are those of its stage in the dry run, arena by arena; `why` names the first that is not. */
bool mt_rehearsal_memory_agrees(const struct mt_rehearsal *rehearsal, const struct mt_candidate *dry, char why[200]);

#endif
