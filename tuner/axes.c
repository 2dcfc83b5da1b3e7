/* axes: see axes.h. Names, kinds and ranges of the values are those of the layout's own option table. */
#include "tuner/axes.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[MT_AXES] = {
	[MT_AXIS_TP] = "tp",
	[MT_AXIS_PP] = "pp",
	[MT_AXIS_CP] = "cp",
	[MT_AXIS_MBS] = "mbs",
	[MT_AXIS_SP] = "sp",
	[MT_AXIS_ZERO] = "zero",
	[MT_AXIS_ZERO_GROUP] = "zero_group",
	[MT_AXIS_RECOMPUTE] = "recompute",
	[MT_AXIS_RECOMPUTE_LAYERS] = "recompute_layers",
	[MT_AXIS_RECOMPUTE_STAGES] = "recompute_stages",
	[MT_AXIS_OFFLOAD_LAYERS] = "offload_layers",
	[MT_AXIS_CP_KIND] = "cp_kind",
	[MT_AXIS_EP] = "ep",
	[MT_AXIS_ETP] = "etp",
	[MT_AXIS_SCHEDULE] = "schedule",
	[MT_AXIS_VP] = "vp",
	[MT_AXIS_VP_GROUP] = "vp_group",
	[MT_AXIS_FIRST_LAYERS] = "first_layers",
	[MT_AXIS_LAST_LAYERS] = "last_layers",
	[MT_AXIS_BUCKET_BYTES] = "bucket_bytes",
};

const char *mt_axis_name(enum mt_axis axis)
{
	return names[axis];
}

int64_t mt_axis_get(const struct mt_layout *layout, enum mt_axis axis)
{
	const struct mt_option *o = mt_options_find(&mt_layout_options, names[axis]);
	const char *at = (const char *)layout + o->offset;

	if (o->kind == MT_OPTION_INT)
		return *(const int64_t *)(const void *)at;
	return o->kind == MT_OPTION_BOOL ? *(const bool *)(const void *)at : *(const int *)(const void *)at;
}

void mt_axis_set(struct mt_layout *layout, enum mt_axis axis, int64_t value)
{
	const struct mt_option *o = mt_options_find(&mt_layout_options, names[axis]);
	char *at = (char *)layout + o->offset;

	if (o->kind == MT_OPTION_INT)
		*(int64_t *)(void *)at = value;
	else if (o->kind == MT_OPTION_BOOL)
		*(bool *)(void *)at = value != 0;
	else
		*(int *)(void *)at = (int)value;
}

static void set_values(struct mt_axes *axes, enum mt_axis axis, int count)
{
	axes->count[axis] = count;
	for (int i = 0; i < count; i++)
		axes->values[axis][i] = i;
}

void mt_axes_plain(struct mt_axes *axes, const struct mt_layout *base)
{
	memset(axes, 0, sizeof *axes);
	for (enum mt_axis axis = MT_AXIS_CP; axis < MT_AXES; axis++) {
		axes->values[axis][0] = mt_axis_get(base, axis);
		axes->count[axis] = axis != MT_AXIS_MBS;
	}
	set_values(axes, MT_AXIS_SP, 2);
	set_values(axes, MT_AXIS_ZERO, 2);
	set_values(axes, MT_AXIS_RECOMPUTE, 3);
}

static enum mt_status read_list(struct mt_axes *axes, enum mt_axis axis, const char *text)
{
	char *copy = strdup(text), *left = copy, *word;
	struct mt_layout scratch;
	enum mt_status st = copy ? MT_OK : mt_fail(MT_NOMEM, "no memory for --%s", names[axis]);

	mt_options_default(&mt_layout_options, &scratch);
	while (st == MT_OK && (word = strsep(&left, ","))) {
		bool known = false;
		int64_t value;

		st = mt_options_set(&mt_layout_options, &scratch, names[axis], word, "command line");
		value = mt_axis_get(&scratch, axis);
		for (int i = 0; i < axes->count[axis]; i++)
			known |= axes->values[axis][i] == value;
		if (st == MT_OK && !known && axes->count[axis] == MT_AXIS_VALUES)
			st = mt_fail(MT_INPUT, "command line: --%s has more than %d values: search in parts", names[axis],
				     MT_AXIS_VALUES);
		if (st == MT_OK && !known)
			axes->values[axis][axes->count[axis]++] = value;
	}
	free(copy);
	return st;
}

/* What auto means, by search. */
static const char *const lists[MT_SEARCHES][MT_AXES] = {
	[MT_SEARCH_USUAL] =
		{
			[MT_AXIS_CP] = "1",
			[MT_AXIS_ZERO] = "0,1",
			[MT_AXIS_EP] = "all",
			[MT_AXIS_ETP] = "0",
			[MT_AXIS_SCHEDULE] = "1f1b",
			[MT_AXIS_VP] = "1",
		},
	[MT_SEARCH_WHOLE] =
		{
			[MT_AXIS_CP] = "all",
			[MT_AXIS_ZERO] = "0,1,2,3",
			[MT_AXIS_EP] = "all",
			[MT_AXIS_ETP] = "0,1",
			[MT_AXIS_SCHEDULE] = "1f1b,zb-h1,zb-v",
			[MT_AXIS_VP] = "1,2,4",
		},
};

static bool may_be_all(enum mt_axis axis)
{
	return axis == MT_AXIS_TP || axis == MT_AXIS_PP || axis == MT_AXIS_CP || axis == MT_AXIS_MBS || axis == MT_AXIS_EP;
}

enum mt_status mt_axes_read(struct mt_axes *axes, const struct mt_tune_options *options)
{
	memset(axes, 0, sizeof *axes);
	for (enum mt_axis axis = 0; axis < MT_AXES; axis++) {
		const struct mt_option *o = mt_options_find(&mt_tune_options_table, names[axis]);
		const char *text = *(const char *const *)(const void *)((const char *)options + o->offset);

		if (strcmp(text, "auto") == 0 && lists[options->search][axis])
			text = lists[options->search][axis];
		if (!may_be_all(axis) || strcmp(text, "all") != 0)
			MT_TRY(read_list(axes, axis, text));
	}
	return MT_OK;
}
