/* options: see options.h. */
#include "tuner/options.h"

#include "engine/layout.h"

#include <stddef.h>

static const char *const dtypes[] = {"auto", "f32", "bf16", "f16", NULL};
static const char *const searches[] = {"usual", "whole", NULL};
static const char *const cuts[] = {[MT_CUTS_AUTO] = "auto", [MT_CUTS_EVEN] = "even", [MT_CUTS_BALANCED] = "balanced", NULL};
static const char *const launchers[] = {"auto", "mpirun", "srun", "megatune", NULL};

#define FIELD(field) offsetof(struct mt_tune_options, field)

static const struct mt_option options[] = {
	{"gpus", MT_OPTION_INT, FIELD(gpus), "0", 0, 1048576, NULL,
	 "devices, one rank each (CPU ranks count); 0: as many as the machine file has, else 2"},
	{"gbs", MT_OPTION_INT, FIELD(gbs), "8", 1, 1e9, NULL, "sequences in a step"},
	{"seq", MT_OPTION_INT, FIELD(seq), "0", 0, 1e8, NULL, "tokens in a sequence; 0: the model's, at most 256 on CPU ranks"},
	{"dtype", MT_OPTION_CHOICE, FIELD(dtype), "auto", 0, 0, dtypes,
	 "type of parameters and activations; auto: bf16 where the processor has it"},
	{"fp8", MT_OPTION_CHOICE, FIELD(fp8), "none", 0, 0, mt_fp8_recipes,
	 "products of the layers in 8 bits, scaled by the last steps or by each tensor itself; needs dtype bf16 or f16"},
	{"threads", MT_OPTION_INT, FIELD(threads), "0", 0, 4096, NULL, "threads a rank; 0: the host's cores over its ranks"},
	{"device", MT_OPTION_STRING, FIELD(device), "cpu", 0, 0, NULL, "device of a rank"},
	{"out", MT_OPTION_STRING, FIELD(out), "tuned", 0, 0, NULL, "directory of the results"},
	{"machine", MT_OPTION_STRING, FIELD(machine), NULL, 0, 0, NULL, "machine file to use instead of probing"},
	{"store", MT_OPTION_STRING, FIELD(store), NULL, 0, 0, NULL, "profile store; none: OUT/profile.db"},
	{"data", MT_OPTION_STRING, FIELD(data), NULL, 0, 0, NULL,
	 "training data: text files or directories (colon-separated), or a Megatron PREFIX; none: synthetic"},
	{"top", MT_OPTION_INT, FIELD(top), "4", 0, 1e6, NULL, "layouts that are run to check the prediction"},
	{"trial_steps", MT_OPTION_INT, FIELD(trial_steps), "5", 1, 1e6, NULL,
	 "timed steps of each run; fewer, but 2, where they would not end within trial_budget_s"},
	{"trial_rounds", MT_OPTION_INT, FIELD(trial_rounds), "2", 1, 100, NULL,
	 "times that a layout is run at most: once more after all others while more than half of its steps were disturbed"},
	{"trial_budget_s", MT_OPTION_FLOAT, FIELD(trial_budget_s), "150", 0, 1e9, NULL,
	 "seconds for all runs: steps are fewer, and what would not end within them is not run once more"},
	{"trial_timeout_s", MT_OPTION_FLOAT, FIELD(trial_timeout_s), "300", 1, 1e6, NULL,
	 "seconds after which a run counts as failed"},
	{"probe_budget_s", MT_OPTION_FLOAT, FIELD(probe_budget_s), "15", 0.5, 1e6, NULL, "seconds for probing the machine"},
	{"profile_budget_s", MT_OPTION_FLOAT, FIELD(profile_budget_s), "60", 0, 1e6, NULL, "seconds for timing kernels"},
	{"dry_runs", MT_OPTION_INT, FIELD(dry_runs), "256", 1, 1e9, NULL, "best layouts by cost cards that are dry run"},
	{"launcher", MT_OPTION_CHOICE, FIELD(launcher), "auto", 0, 0, launchers,
	 "what starts several ranks; auto: srun in a job of Slurm's, else mpirun, without one megatune launch"},
	{"launch", MT_OPTION_STRING, FIELD(launch), NULL, 0, 0, NULL,
	 "command that starts ranks ('-n N PROGRAM ...' is appended), split at blanks; replaces launcher"},
	{"report", MT_OPTION_BOOL, FIELD(report), "true", 0, 0, NULL, "write the page and the figures"},
	{"seed", MT_OPTION_INT, FIELD(seed), "1234", 0, 9e18, NULL, "seed of weights and data order"},
	{"search", MT_OPTION_CHOICE, FIELD(search), "usual", 0, 0, searches,
	 "what auto means below; whole: every value, usual: those that most runs need"},
	{"tp", MT_OPTION_STRING, FIELD(tp), "all", 0, 0, NULL,
	 "what is searched: tensor-parallel ranks, a list such as 1,2; all: every divisor"},
	{"pp", MT_OPTION_STRING, FIELD(pp), "all", 0, 0, NULL, "what is searched: pipeline stages; all: every divisor"},
	{"cp", MT_OPTION_STRING, FIELD(cp), "auto", 0, 0, NULL,
	 "what is searched: context-parallel ranks; auto: 1, of the whole search all: every divisor"},
	{"mbs", MT_OPTION_STRING, FIELD(mbs), "all", 0, 0, NULL,
	 "what is searched: sequences in a micro-batch; all: every divisor"},
	{"sp", MT_OPTION_STRING, FIELD(sp), "false,true", 0, 0, NULL, "what is searched: sequence parallelism, with tp above 1"},
	{"zero", MT_OPTION_STRING, FIELD(zero), "auto", 0, 0, NULL,
	 "what is searched: sharding, with dp or cp above 1; auto: 0,1, of the whole search 0,1,2,3"},
	{"zero_group", MT_OPTION_STRING, FIELD(zero_group), "0", 0, 0, NULL, "what is searched: ranks that shard between them"},
	{"recompute", MT_OPTION_STRING, FIELD(recompute), "none,selective,full", 0, 0, NULL,
	 "what is searched: kinds of recompute"},
	{"recompute_layers", MT_OPTION_STRING, FIELD(recompute_layers), "0", 0, 0, NULL,
	 "what is searched: layers of each model chunk that recompute; 0: all"},
	{"recompute_stages", MT_OPTION_STRING, FIELD(recompute_stages), "0", 0, 0, NULL,
	 "what is searched: pipeline stages, from the first, that recompute; 0: all"},
	{"offload_layers", MT_OPTION_STRING, FIELD(offload_layers), "0", 0, 0, NULL,
	 "what is searched: layers of each model chunk whose activations wait in host memory"},
	{"cp_kind", MT_OPTION_STRING, FIELD(cp_kind), "ring,allgather,ulysses,hybrid", 0, 0, NULL,
	 "what is searched: kinds of context parallelism, with cp above 1; hybrid with every cp_inner"},
	{"ep", MT_OPTION_STRING, FIELD(ep), "auto", 0, 0, NULL,
	 "what is searched: expert-parallel ranks, where the model has experts; auto and all: every divisor of both"},
	{"etp", MT_OPTION_STRING, FIELD(etp), "auto", 0, 0, NULL,
	 "what is searched: tensor-parallel ranks of an expert; 0: tp; auto: 0, of the whole search 0,1"},
	{"schedule", MT_OPTION_STRING, FIELD(schedule), "auto", 0, 0, NULL,
	 "what is searched: schedules, with pp above 1; auto: 1f1b, of the whole search 1f1b,zb-h1,zb-v"},
	{"vp", MT_OPTION_STRING, FIELD(vp), "auto", 0, 0, NULL,
	 "what is searched: model chunks a stage, with 1f1b and pp above 1; zb-h1 has 1, zb-v 2; auto: 1, of the whole search "
	 "1,2,4"},
	{"vp_group", MT_OPTION_STRING, FIELD(vp_group), "0", 0, 0, NULL,
	 "what is searched: micro-batches that a chunk takes before the next, with vp above 1; 0: pp"},
	{"first_layers", MT_OPTION_STRING, FIELD(first_layers), "0", 0, 0, NULL,
	 "what is searched: layers of the first virtual stage; 0: an even share"},
	{"last_layers", MT_OPTION_STRING, FIELD(last_layers), "0", 0, 0, NULL, "what is searched: the same of the last"},
	{"bucket_bytes", MT_OPTION_STRING, FIELD(bucket_bytes), "40Mi", 0, 0, NULL,
	 "what is searched: bytes of gradients that are reduced at once, with dp or cp above 1; 0: all in one, after the backward "
	 "pass"},
	{"stage_layers", MT_OPTION_CHOICE, FIELD(stage_layers), "auto", 0, 0, cuts,
	 "balanced: the best layouts also with the layers cut so that all stages take as long, embedding and head counted; even: "
	 "without; auto: even, of the whole search balanced"},
};

const struct mt_option_table mt_tune_options_table = {"tune", options, sizeof options / sizeof options[0]};
