/* schedules: the latest schedules that were asked for, of all stages, so that layouts of equal shape share them; and short ones
 * that tell how long those of many micro-batches take. */
#ifndef MT_TUNER_SCHEDULES_H
#define MT_TUNER_SCHEDULES_H

#include "engine/schedule.h"

enum { MT_SCHEDULES_KEPT = 16 };

/* A schedule and a shorter one, by some micro-batches of the many that are all alike. One of the full shape goes on like this
 * `times` more often. */
struct mt_schedule_pair {
	const struct mt_action_list *lists[2]; /* of all stages; the second is the shorter; NULL: the first is all */
	int64_t microbatches[2];
	int64_t times;
};

struct mt_schedules {
	struct mt_schedules_entry {
		struct mt_schedule_shape shape;
		struct mt_action_list *lists;   /* owned: one a stage; NULL: none */
		struct mt_action_list *cuts[2]; /* owned, as these; NULL: not cut */
		struct mt_schedule_pair cut;    /* of those */
		int64_t asked;
	} kept[MT_SCHEDULES_KEPT];
	int64_t asked;
};

/* *lists: of all stages, good until as many other shapes were asked for. */
enum mt_status mt_schedules_find(struct mt_schedules *schedules, const struct mt_schedule_shape *shape,
				 const struct mt_action_list **lists);
/* Good as long as that. */
enum mt_status mt_schedules_pair(struct mt_schedules *schedules, const struct mt_schedule_shape *shape,
				 struct mt_schedule_pair *pair);
void mt_schedules_free(struct mt_schedules *schedules);

#endif
