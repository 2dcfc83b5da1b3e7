/* steady: kernel times of the undisturbed steps of a run.
 *
 * A machine shared with others (virtual cores, a neighbour's memory traffic) slows down for seconds at a time, all kernels of
 * it together. A median over a run that falls into such a time is the neighbour's. Steps of one run do the same work, so
 * their lengths tell which were disturbed: those longer than (1 + MT_DISTURBED_FRAC) times the shortest (base/stats.h) are
 * left out, whole, and the kernels of the others keep their medians. */
#ifndef MT_PROFILES_STEADY_H
#define MT_PROFILES_STEADY_H

#include "profiles/profile.h"

struct mt_steady;

/* Of a run whose kernels will go into `profile`, which must outlive it. MT_NOMEM. */
enum mt_status mt_steady_create(struct mt_steady **steady, struct mt_profile *profile);
void mt_steady_destroy(struct mt_steady *steady);

/* Trace sink (context: the struct mt_steady): notes a kernel of the step under way. Collectives are ignored. */
void mt_steady_collect(void *steady, const struct mt_trace_event *event);
/* Ends the step under way, which took so long. Fails when a kernel of it found no memory. */
enum mt_status mt_steady_step(struct mt_steady *steady, double seconds);

/* Adds the kernels of the undisturbed steps to the profile. *steps: of how many; *undisturbed: how many these are. */
enum mt_status mt_steady_settle(const struct mt_steady *steady, int *steps, int *undisturbed);

#endif
