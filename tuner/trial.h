/* trial: the timed steps of a layout's runs, and which of them were disturbed by other work on the machine.
 *
 * Two things tell: the machine's pace around a step (the product rate between steps, engine/trainer.h), which must be near
 * the best of all trials; and the step's length among those of its layout, since a disturbance between two paces is seen
 * in nothing else. What a layout was predicted to take plays no part. */
#ifndef MT_TUNER_TRIAL_H
#define MT_TUNER_TRIAL_H

#include "tuner/candidate.h"

#include <jansson.h>

/* Adds the steps of one run: their seconds, and their paces (FLOP/s; NULL: not measured). */
enum mt_status mt_trial_add(struct mt_candidate *candidate, const json_t *times, const json_t *paces);
/* The pace of the undisturbed machine, from the steps of all these; 0: no step has one. */
double mt_trial_pace(const struct mt_candidate *candidates, int count);
/* Sets measured_s and what goes with it. With no undisturbed step at all, all count. */
void mt_trial_judge(struct mt_candidate *candidate, double pace_flops);
/* Which candidate to run next, of those that were not: the least predicted time after what the trials so far say of the
 * prediction; -1: all were run. The prediction of a family (equal tp, cp, ep, pp) is corrected by the family's own trials;
 * of a family without one it is believed, so that where predictions are far off other families have their turn before more of the
 * same. */
int mt_trial_next(const struct mt_candidate *candidates, int count);
/* What a layout that was not run would take if the prediction were as far off as for the trials of its family; NaN: no such trial.
 */
double mt_trial_expected_s(const struct mt_candidate *candidates, int count, const struct mt_candidate *candidate);
/* It was run, and fewer than half of its steps agree: what it takes when nothing else runs is not known well. */
bool mt_trial_unsettled(const struct mt_candidate *candidate);

#endif
