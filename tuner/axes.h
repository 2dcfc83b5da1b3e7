/* axes: what a search varies of a layout, and the values of each. */
#ifndef MT_TUNER_AXES_H
#define MT_TUNER_AXES_H

#include "engine/layout.h"
#include "tuner/options.h"

/* In the order in which the space goes through them; tp, pp, cp and mbs first, dp is what is left. */
enum mt_axis {
	MT_AXIS_TP,
	MT_AXIS_PP,
	MT_AXIS_CP,
	MT_AXIS_MBS,
	MT_AXIS_SP,
	MT_AXIS_ZERO,
	MT_AXIS_ZERO_GROUP,
	MT_AXIS_RECOMPUTE,
	MT_AXIS_RECOMPUTE_LAYERS,
	MT_AXIS_RECOMPUTE_STAGES,
	MT_AXIS_OFFLOAD_LAYERS,
	MT_AXIS_CP_KIND,
	MT_AXIS_EP,
	MT_AXIS_ETP,
	MT_AXIS_SCHEDULE,
	MT_AXIS_VP,
	MT_AXIS_VP_GROUP,
	MT_AXIS_FIRST_LAYERS,
	MT_AXIS_LAST_LAYERS,
	MT_AXIS_BUCKET_BYTES,
	MT_AXES
};

enum { MT_AXIS_VALUES = 32 };

struct mt_axes {
	int64_t values[MT_AXES][MT_AXIS_VALUES];
	int count[MT_AXES]; /* 0: every value that there is; of tp, pp, cp, mbs and ep alone */
};

/* The name that layouts, run files and options have for an axis. */
const char *mt_axis_name(enum mt_axis axis);
int64_t mt_axis_get(const struct mt_layout *layout, enum mt_axis axis);
void mt_axis_set(struct mt_layout *layout, enum mt_axis axis, int64_t value);

/* tp, pp and mbs free, sp and zero off and on, each kind of recompute; all else as `base` has it. */
void mt_axes_plain(struct mt_axes *axes, const struct mt_layout *base);
/* As the options say: lists of values as a run file has them, commas between; auto and all by the option's help. MT_INPUT for what
 * is no value. */
enum mt_status mt_axes_read(struct mt_axes *axes, const struct mt_tune_options *options);

#endif
