/* setting_options: what plan and scale take for machines that are described. */
#ifndef MT_TUNER_SETTING_OPTIONS_H
#define MT_TUNER_SETTING_OPTIONS_H

#include "base/options.h"

#include <stdbool.h>
#include <stdint.h>

enum mt_objective { MT_OBJECTIVE_TIME, MT_OBJECTIVE_COST, MT_OBJECTIVE_DEADLINE, MT_OBJECTIVE_SEQ };

struct mt_setting_options {
	char *stack, *calibrate, *fix, *set, *nic;
	int precision; /* enum mt_width */
	int64_t nvlink_domain, jobs, best;
	double hbm, seconds, price, tokens, deadline_days;
	int objective; /* enum mt_objective */
	bool bounded;
};
extern const struct mt_option_table mt_setting_options_table;

/* True for names of described machines: `plan` then forecasts. */
bool mt_setting_names_machine(const char *machine);

#endif
