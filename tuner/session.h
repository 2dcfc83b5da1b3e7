/* session: what plan, tune, probe and profile have in common: the model, the options, the machine, the profile. */
#ifndef MT_TUNER_SESSION_H
#define MT_TUNER_SESSION_H

#include "tuner/candidate.h"
#include "tuner/cli.h"
#include "tuner/cost.h"
#include "tuner/options.h"

#define MT_PHASES         8
#define MT_THREAD_CHOICES 2
/* Candidates of the result document, the best: a search of 64 ranks keeps hundreds of thousands, which nobody reads. */
#define MT_LISTED 1000

struct mt_session {
	const char *command; /* "plan" or "tune" */
	struct mt_tune_options options;
	struct mt_layout base; /* gbs, seq, dtype, threads, bucket size of every candidate */
	struct mt_axes axes;   /* what the search varies */
	struct mt_model model;
	struct mt_machine machine;
	/* One a number of threads that layouts may have, most first; each with its own profile (owned). */
	struct mt_cost_model costs[MT_THREAD_CHOICES];
	int thread_choices;
	struct mt_space space;
	int world;
	double model_flops;
	double started_s;
	struct {
		const char *name;
		double seconds;
	} phases[MT_PHASES];
	int phase_count;
	bool partial; /* interrupted */
	int choice;   /* index into the sorted candidates, -1: none */
	char reason[200];
	struct mt_trace **timeline; /* owned: of the choice, one a stage; NULL: none */
	int timeline_count;
};

/* Defaults; then the model, dtype, seq and threads settled from the options and this host. */
void mt_session_default(struct mt_session *session);
enum mt_status mt_session_open(struct mt_session *session, const char *model);
void mt_session_free(struct mt_session *session);
void mt_session_phase(struct mt_session *session, const char *name, double started_s);

/* Paths below the result directory; free() them. */
char *mt_session_path(const struct mt_session *session, const char *name);
char *mt_session_store_path(const struct mt_session *session);

/* The machine: from the file given, else an earlier probe's in the result directory (plan), else what this host says
 * without measuring. `measured` tells whether rates and curves were measured. */
enum mt_status mt_session_load_machine(struct mt_session *session, bool *measured);
/* Rows of the store under the machine's fingerprint; *rows: how many, of the thread count that has fewest. No store: 0 rows. */
enum mt_status mt_session_load_profile(struct mt_session *session, int *rows);
/* The costs of layouts with that many threads a rank. */
struct mt_cost_model *mt_session_cost(struct mt_session *session, int64_t threads);

/* Search: enumerate, cards, dry runs; candidates sorted. MT_INPUT when no layout keeps every rule, with the rules. */
enum mt_status mt_search(struct mt_session *session);
/* Runs options.top candidates, each the most promising after the ones before (trial.h); sorts again, by measurement. */
enum mt_status mt_verify(struct mt_session *session);
/* Chooses, and traces the choice; choice stays -1 when all candidates were run and failed. */
enum mt_status mt_choose(struct mt_session *session);

/* The result document (docs/result.md); new reference. */
json_t *mt_result_json(const struct mt_session *session);

#endif
