/* keeper: what keeps a run going: where it begins, when it is saved, what a bad loss does, how it goes back.
 *
 * Every function is collective: all ranks call it at the same step with the same decisions, which follow from what the ranks
 * have told each other. */
#ifndef MT_ENGINE_KEEPER_H
#define MT_ENGINE_KEEPER_H

#include "engine/checkpoint.h"

enum { MT_KEEPER_LOSSES = 32, MT_KEEPER_VOTES = 2 };

struct mt_keeper {
	const struct mt_run *run;
	struct mt_engine *engine;
	struct mt_group *world;
	struct mt_saver *saver; /* owned; NULL without a save_dir */
	char *origin;           /* owned: the checkpoint the run began with; NULL: none */
	int64_t saved_step;     /* of the last save started, or where the run began; -1: none */
	int64_t rewinds;
	double losses[MT_KEEPER_LOSSES]; /* of the last good steps, a ring */
	int64_t loss_count;
};

/* Loads what train.resume or train.init_from say, and gets ready to save. */
enum mt_status mt_keeper_open(struct mt_keeper *keeper, const struct mt_run *run, struct mt_engine *engine, struct mt_group *world);
void mt_keeper_close(struct mt_keeper *keeper); /* fine after a failed open */

/* Before a step: the largest loss that is no spike, told to the engine. */
void mt_keeper_prepare(struct mt_keeper *keeper);
/* After a step, what this rank adds to the maximum over all ranks, which then goes into mt_keeper_step. */
void mt_keeper_vote(struct mt_keeper *keeper, double votes[MT_KEEPER_VOTES]);
/* Publishes a save that all ranks have written, starts one that is due, answers a skipped step as the run says. *rewound: the
 * run went back to a checkpoint. MT_FAILED when the run must stop. */
enum mt_status mt_keeper_step(struct mt_keeper *keeper, const double votes[MT_KEEPER_VOTES], const struct mt_step_stats *stats,
			      bool *rewound);
/* At the end: saves what is not saved, waits until it is whole. *saved: there is a checkpoint of the last step. */
enum mt_status mt_keeper_finish(struct mt_keeper *keeper, bool *saved);

#endif
