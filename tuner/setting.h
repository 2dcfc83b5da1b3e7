/* setting: what a forecast is asked for: a machine, software, what if some of it were different, a calibration, and a model as the
 * forecast knows models. */
#ifndef MT_TUNER_SETTING_H
#define MT_TUNER_SETTING_H

#include "engine/model.h"
#include "engine/run.h"
#include "tuner/setting_options.h"
#include "tuner/survey.h"

struct mt_setting {
	struct mt_target target;
	struct mt_stack stack;
	struct mt_factors factors;
	double half; /* of the 90% interval, of the logarithm */
	bool calibrated;
	struct mt_fit_model measured; /* owned; the calibration: of it, layers that runs had */
};

/* `machine`: a name in profiles/machines or a file. MT_INPUT for what does not exist or makes no sense. */
enum mt_status mt_setting_load(struct mt_setting *setting, const struct mt_setting_options *options, const char *machine);
void mt_setting_free(struct mt_setting *setting);

/* A search of the model on that many accelerators; borrows the setting. */
enum mt_status mt_setting_query(struct mt_survey_query *query, const struct mt_setting *setting,
				const struct mt_setting_options *options, const struct mt_model *model, int64_t gpus, int64_t gbs,
				int64_t seq);
/* The layout as a run file has it: products of 8 bits with delayed scaling, with current where norms are done
 * again, as Megatron-LM does that with no delayed one. */
void mt_setting_run_layout(struct mt_layout *layout, const struct mt_survey_query *query, const struct mt_survey_layout *from);
/* The precision that no run file has, "mxfp8" or "fp4": its run file says bf16; NULL: it has this one. */
const char *mt_setting_run_lacks(const struct mt_survey_query *query);

#endif
