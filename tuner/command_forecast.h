/* command_forecast: what `plan` does when its machine is described, not measured. */
#ifndef MT_TUNER_COMMAND_FORECAST_H
#define MT_TUNER_COMMAND_FORECAST_H

#include "tuner/cli.h"
#include "tuner/options.h"
#include "tuner/setting_options.h"

/* Whether the command line asks for it; MT_INPUT for options that do not go with it, or without it. */
enum mt_status mt_forecast_wanted(const struct mt_cli *cli, const struct mt_tune_options *tune,
				  const struct mt_setting_options *options, bool *wanted);
enum mt_status mt_forecast_plan(const struct mt_cli *cli, const struct mt_tune_options *tune,
				const struct mt_setting_options *options);

#endif
