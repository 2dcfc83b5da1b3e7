/* goal: objectives beyond the step time on so many accelerators: each is a few searches. */
#ifndef MT_TUNER_GOAL_H
#define MT_TUNER_GOAL_H

#include "tuner/setting.h"

struct mt_goal_size {
	int64_t gpus, seq;
	bool fits;
	struct mt_survey_point best; /* where it fits */
	double days, cost;           /* to train the tokens */
};

struct mt_goal {
	struct mt_goal_size *sizes; /* owned: all that were searched, in that order */
	int count, choice;          /* index; -1: none does */
	struct mt_survey survey;    /* the search of the choice, of the last size where there is none */
	struct mt_survey_query query;
};

/* MT_OK when the searches were made; choice tells whether one meets the goal. */
enum mt_status mt_goal_search(struct mt_goal *goal, const struct mt_setting *setting, const struct mt_setting_options *options,
			      const struct mt_model *model, int64_t gpus, int64_t gbs, int64_t seq);
void mt_goal_free(struct mt_goal *goal);
double mt_goal_days(const struct mt_survey_query *query, double tokens, double step_s);
json_t *mt_goal_sizes_json(const struct mt_goal *goal);

#endif
