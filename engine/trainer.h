/* trainer: a whole run: dataset, engine, steps, the log. What it measures is what the tuner compares predictions with. */
#ifndef MT_ENGINE_TRAINER_H
#define MT_ENGINE_TRAINER_H

#include "base/stats.h"
#include "engine/engine.h"

#include <jansson.h>

struct mt_step_report {
	struct mt_step_stats stats; /* of rank 0; seconds: the slowest rank */
	double tokens_per_s, tflops_per_device, mfu_frac;
	size_t memory_bytes; /* of rank 0: the arenas' peak */
};

struct mt_stage_memory {
	size_t arena_bytes[MT_ENGINE_ARENAS]; /* peaks, the largest over the ranks of the stage */
	size_t peak_bytes;                    /* their sum, the largest over the ranks */
	size_t resident_bytes;                /* VmHWM, the largest over the ranks */
	size_t scratch_bytes, pinned_bytes;   /* of the device beside the arenas, the largest over the ranks */
};

struct mt_train_summary {
	int64_t steps, timed_steps; /* the first `warmup` steps are not timed */
	double *step_times_s;       /* owned: timed_steps of them, of the slowest rank */
	double *step_paces_flops;   /* owned: of each, see pace below; NULL: not measured */
	double median_step_s;       /* of these */
	struct mt_interval step_s;  /* 90% of the median */
	double tokens_per_s, tflops_per_device, mfu_frac, peak_tflops;
	double first_loss, last_loss, eval_loss;         /* eval_loss: the last one of the validation part; NaN: none */
	double compute_s, tp_s, dp_s, pp_s, optimizer_s; /* medians, rank 0 */
	int stages;
	struct mt_stage_memory *stage; /* owned */
	bool interrupted;              /* stopped by a signal or the deadline, after a whole step */
	const char *reason;            /* why the run ended: "done", "deadline", "SIGTERM", ... */
	int64_t first_step, last_step; /* steps done before this run began, and now: it may have been resumed */
	bool saved;                    /* there is a checkpoint of last_step */
	struct mt_graph_stats graphs;  /* of rank 0's compute stream; all 0 where none are used */
	json_t *ranks;                 /* owned: phases of every rank and the stragglers, see engine/stragglers.h */
};

struct mt_trainer_config {
	const struct mt_run *run;
	struct mt_device *device;
	struct mt_fabric *fabric;
	int warmup; /* steps not timed */
	/* Measures between steps how fast the machine is just then: the matrix product rate (FLOP/s) of the slowest rank, all ranks
	 * at once. A step's pace is the lower of those before and after it: who compares runs can tell the disturbed steps. */
	bool pace;
	/* Called on every rank after each step; may be NULL. */
	void (*report)(void *context, const struct mt_step_report *report);
	/* Called on every rank after each loss of the validation part, `step` steps done; may be NULL. */
	void (*evaluated)(void *context, int64_t step, double loss);
	void *context;
};

/* Collective over the fabric. Every rank gets the summary; free it with mt_train_summary_free. */
enum mt_status mt_train(struct mt_train_summary *summary, const struct mt_trainer_config *config);
void mt_train_summary_free(struct mt_train_summary *summary);

/* The summary as JSON, as it stands at the end of the log: of the timed steps the first MT_SUMMARY_STEPS one by one. */
#define MT_SUMMARY_STEPS 256
json_t *mt_train_summary_json(const struct mt_train_summary *summary);

#endif
