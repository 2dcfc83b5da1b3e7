/* cost: where predictions get their seconds from: a profile of operations and the machine's curves of collectives. */
#ifndef MT_TUNER_COST_H
#define MT_TUNER_COST_H

#include "comm/comm.h"
#include "engine/card.h"
#include "probes/machine.h"
#include "profiles/profile.h"
#include "tuner/candidate.h"

struct mt_cost_model {
	const struct mt_machine *machine; /* borrowed */
	struct mt_profile *profile;       /* borrowed */
	int ranks_per_host, threads;      /* what the profile is of */
	bool overlap_steals; /* every core is busy with kernels: a collective that runs beside them takes its time from them */
	const struct mt_train_options *train; /* borrowed: the optimizer; NULL: AdamW */
	double model_error_frac;              /* spread that neither kernels nor jitter explain: standard deviation, relative */
};

/* The training options that a prediction goes by. */
static inline struct mt_train_options mt_cost_train(const struct mt_cost_model *model)
{
	return model->train ? *model->train : (struct mt_train_options){.optimizer = MT_ADAMW};
}

struct mt_cost_source mt_cost_ops(struct mt_cost_model *model);
struct mt_comm_cost_source mt_cost_comms(struct mt_cost_model *model);
/* Seconds of a copy between device and host memory. Both directions at the rate of the slower; where it was not measured copies
 * cost no time. */
double mt_cost_transfer_s(const struct mt_cost_model *model, size_t bytes);

/* True for operations on flat buffers, whose cost follows their size: one measured at another size is as good as measured. */
bool mt_cost_scales(int32_t kind);

/* Rates of the machine for operations that no profile has. */
struct mt_profile_rates mt_cost_fallback(const struct mt_machine *machine, int threads, int busy_ranks);

/* Fills in step_s, the split, memory by stage, and the interval of a candidate.
 * Cards: sums of blocks along the schedule (compose.c); the cards of equal local shapes are shared through `cache`
 * (mt_card_cache_create). Dry run: the engine itself, one thread a stage; `spans` (NULL: not wanted) gets stages traces, each to be
 * destroyed by the caller. */
struct mt_card_cache;
enum mt_status mt_card_cache_create(struct mt_card_cache **cache);
void mt_card_cache_destroy(struct mt_card_cache *cache);
enum mt_status mt_predict_card(struct mt_candidate *candidate, const struct mt_model *model, struct mt_cost_model *cost,
			       struct mt_card_cache *cache);
/* By cards in two steps, for searches. Seconds first, and room: whether memory suffices under the limits (0: none) where that is
 * clear without counting it; nothing more of a layout that lacks it. Memory later, where it decides or is shown: costs up to
 * some milliseconds, the first about 0.1. */
enum mt_status mt_predict_card_time(struct mt_candidate *candidate, const struct mt_model *model, struct mt_cost_model *cost,
				    struct mt_card_cache *cache, int64_t limit_bytes, int64_t device_limit_bytes);
enum mt_status mt_predict_card_memory(struct mt_candidate *candidate, const struct mt_model *model, struct mt_cost_model *cost,
				      struct mt_card_cache *cache);
/* Sets stage_layers to the cut whose stages take as long, embedding and head counted, by the same cards (balance.h); where only
 * some layers recompute, as if all did. No stage_layers: it is too long a list. */
enum mt_status mt_predict_balanced(struct mt_layout *layout, const struct mt_model *model, struct mt_cost_model *cost,
				   struct mt_card_cache *cache);
enum mt_status mt_predict_dry(struct mt_candidate *candidate, const struct mt_model *model, struct mt_cost_model *cost,
			      struct mt_trace **spans);

/* Sets lo_s and hi_s from step_s and what is known of the spread. */
void mt_predict_interval(struct mt_candidate *candidate, const struct mt_cost_model *cost);

#endif
