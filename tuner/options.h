/* options: what plan, tune, probe and profile take. */
#ifndef MT_TUNER_OPTIONS_H
#define MT_TUNER_OPTIONS_H

#include "base/options.h"

#include <stdbool.h>
#include <stdint.h>

enum mt_search_extent { MT_SEARCH_USUAL, MT_SEARCH_WHOLE, MT_SEARCHES };
enum mt_cuts { MT_CUTS_AUTO, MT_CUTS_EVEN, MT_CUTS_BALANCED };
enum mt_launch_choice { MT_LAUNCH_AUTO, MT_LAUNCH_MPIRUN, MT_LAUNCH_SRUN, MT_LAUNCH_OWN };

struct mt_tune_options {
	int64_t gpus; /* devices, one rank each; 0: what the machine file has, else 2 */
	int64_t gbs, seq;
	int dtype;       /* 0 auto, 1 f32, 2 bf16, 3 f16 */
	int fp8;         /* enum mt_fp8_recipe */
	int64_t threads; /* threads a rank; 0: cores / ranks of a host */
	char *device;
	char *out;     /* directory of the results */
	char *machine; /* machine.yaml to use instead of probing */
	char *store;   /* profile store */
	char *data;    /* as in data.path of a run file */
	int64_t top;   /* layouts run live */
	int64_t trial_steps, trial_rounds;
	double trial_timeout_s, trial_budget_s;
	double probe_budget_s, profile_budget_s;
	int64_t dry_runs; /* layouts dry run */
	int launcher;     /* enum mt_cuts { MT_CUTS_AUTO, MT_CUTS_EVEN, MT_CUTS_BALANCED };
enum mt_launch_choice */
	char *launch;     /* command that starts ranks, -n N PROGRAM is appended; overrides launcher */
	bool report;
	int64_t seed;
	int search; /* enum mt_search_extent */
	/* what it varies: lists of values (tuner/axes.h) */
	char *tp, *pp, *cp, *mbs, *sp, *zero, *zero_group, *recompute, *recompute_layers, *recompute_stages, *offload_layers,
		*cp_kind, *ep, *etp, *schedule, *vp, *vp_group, *first_layers, *last_layers, *bucket_bytes;
	int stage_layers; /* enum mt_cuts */
};

extern const struct mt_option_table mt_tune_options_table;

#endif
