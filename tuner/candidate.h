/* candidate: a layout with what is predicted and measured of it; and the space of layouts. */
#ifndef MT_TUNER_CANDIDATE_H
#define MT_TUNER_CANDIDATE_H

#include "base/stats.h"
#include "engine/engine.h"
#include "engine/run.h"
#include "engine/trace.h"
#include "tuner/axes.h"

enum mt_fidelity { MT_FIDELITY_CARD, MT_FIDELITY_DRY };

/* What is known of a candidate's memory before it is counted. */
enum mt_room {
	MT_ROOM_UNSURE,
	MT_ROOM_PLENTY, /* it fits, however much of its memory were holes */
	MT_ROOM_LACKS   /* it does not fit even without holes */
};

struct mt_stage_prediction {
	int64_t arena_bytes[MT_ENGINE_ARENAS];
	int64_t host_bytes;                  /* of offloaded activations, in host memory */
	int64_t scratch_bytes, pinned_bytes; /* beside the arenas (kernels/scratch.h): of a GPU; of the host */
	/* Sums, see memory.h. */
	int64_t peak_bytes;     /* of the engine's allocator */
	int64_t device_bytes;   /* of a GPU, arenas and scratch; 0: the arenas are in the process */
	int64_t resident_bytes; /* of the process */
};

struct mt_timed_step {
	double seconds;    /* of the slowest rank */
	double pace_flops; /* of the machine around it, FLOP/s; 0: not measured */
};

struct mt_candidate {
	struct mt_layout layout;
	enum mt_fidelity fidelity;
	double step_s, lo_s, hi_s;                                 /* predicted, 90% interval */
	double compute_s, tp_s, dp_s, pp_s, bubble_s, optimizer_s; /* sum to step_s; tp: with cp and ep */
	double guessed_frac; /* part of the step's kernel time whose operations were never measured */
	/* owned: placement of its ranks, as a run file's rank_order; NULL: the launcher's, the same or better by prediction */
	char *rank_order;
	double launcher_s; /* step_s in the launcher's order; 0: no other was looked at */
	int stages;
	struct mt_stage_prediction *stage; /* owned; NULL: not counted yet */
	enum mt_room room;                 /* until it is */

	bool run;    /* it was run */
	bool failed; /* and failed */
	char failure[240];
	struct mt_timed_step *steps; /* owned: of all its runs (trial.h) */
	int64_t measured_steps, undisturbed_steps;
	double measured_s;           /* median of the undisturbed steps */
	double median_s;             /* of all of them */
	struct mt_interval measured; /* 90% of the undisturbed median */
	double measured_loss;
	int64_t *measured_peak_bytes, *measured_resident_bytes, *measured_scratch_bytes; /* owned, by stage */
};

/* All candidates of a search, and why others are not. */
struct mt_space {
	struct mt_candidate *candidates; /* owned */
	int count, capacity;
	int64_t *rejected; /* owned: one a layout rule, then one for memory */
	int64_t considered;
};

/* Enumerates the values of the axes (NULL: mt_axes_plain) with tp*cp*pp*dp = world; each of `threads` (count 0: the base's); `base`
 * gives gbs, seq, dtype, bucket size. Layouts that break a rule are counted under it. */
enum mt_status mt_space_enumerate(struct mt_space *space, const struct mt_model *model, const struct mt_layout *base, int world,
				  const int64_t *threads, int thread_count, const struct mt_axes *axes);
/* One more, which the space owns from then on. */
enum mt_status mt_space_add(struct mt_space *space, const struct mt_candidate *candidate);
void mt_space_free(struct mt_space *space);
/* Whether a stage's process is within the limit, and what it has of a GPU within the device's. 0: no limit. */
bool mt_stage_fits(const struct mt_stage_prediction *stage, int64_t limit_bytes, int64_t device_limit_bytes);
/* Removes candidates that lack room, or of which any stage does not fit, and counts them. */
void mt_space_drop_large(struct mt_space *space, int64_t limit_bytes, int64_t device_limit_bytes);
/* Orders: measured ones first by measured time, then the others by prediction; failed ones last. */
void mt_space_sort(struct mt_space *space);
/* Name and sentence of a rejection counter: the layout rules, then "exceeds_memory". */
int mt_space_rule_count(void);
const char *mt_space_rule_name(int rule);
const char *mt_space_rule_text(int rule);

#endif
