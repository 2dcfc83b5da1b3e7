/* layout_cut: how the layers of a model are cut over the virtual stages of a pipeline.
 *
 * However a layout says it, by a list, by its ends or not at all, the cut is a list of runs; the ends are short for such a list.
 * With 24 layers on 8 virtual stages first_layers 2 is 2,3x3,4,3x3. A virtual stage may have no layer: embedding or head alone. */
#include "engine/layout.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

/* At most seven digits, as no model has ten million layers. */
static bool read_number(const char **at, int64_t *value)
{
	const char *begin = *at;

	for (*value = 0; isdigit((unsigned char)**at) && *at - begin < 7; (*at)++)
		*value = 10 * *value + (**at - '0');
	return *at > begin;
}

/* "3,4x6,2", blanks after commas; returns the number of runs, 0: it is no list. */
static int read_runs(const char *text, struct mt_layout_run runs[MT_LAYOUT_RUNS])
{
	for (int count = 0; count < MT_LAYOUT_RUNS; text++) {
		struct mt_layout_run *run = &runs[count++];

		while (*text == ' ')
			text++;
		run->stages = 1;
		if (!read_number(&text, &run->layers))
			return 0;
		if (*text == 'x') {
			text++;
			if (!read_number(&text, &run->stages) || run->stages == 0)
				return 0;
		}
		if (*text != ',')
			return *text == '\0' ? count : 0;
	}
	return 0;
}

static int add(struct mt_layout_run *runs, int count, int64_t stages, int64_t layers)
{
	runs[count] = (struct mt_layout_run){stages, layers};
	return count + (stages > 0);
}

int mt_layout_cut(const struct mt_model *model, const struct mt_layout *layout, struct mt_layout_run runs[MT_LAYOUT_RUNS])
{
	int64_t head = layout->first_layers, tail = layout->last_layers, left = model->layers - head - tail;
	int64_t stages = layout->pp * layout->vp - (head > 0) - (tail > 0);
	int64_t each = stages > 0 ? left / stages : 0, more = stages > 0 ? left % stages : 0;
	/* stages with one layer more: a run in the middle; one to the left where it cannot be centred, as the head costs most */
	int64_t before = (stages - more) / 2;
	int count;

	if (layout->stage_layers[0])
		return read_runs(layout->stage_layers, runs);
	count = add(runs, 0, head > 0, head);
	count = add(runs, count, before, each);
	count = add(runs, count, more, each + 1);
	count = add(runs, count, stages - more - before, each);
	return add(runs, count, tail > 0, tail);
}

bool mt_layout_list(struct mt_layout *layout, const int64_t *counts, int64_t stages)
{
	char text[MT_OPTION_TEXT_BYTES] = "";
	size_t used = 0;
	int64_t next;

	for (int64_t i = 0; i < stages && used < sizeof text; i = next) {
		for (next = i + 1; next < stages && counts[next] == counts[i];)
			next++;
		used += (size_t)snprintf(text + used, sizeof text - used, "%s%lld", i ? "," : "", (long long)counts[i]);
		if (next > i + 1 && used < sizeof text)
			used += (size_t)snprintf(text + used, sizeof text - used, "x%lld", (long long)(next - i));
	}
	if (used < sizeof text)
		memcpy(layout->stage_layers, text, sizeof text);
	return used < sizeof text;
}

void mt_layout_stage_layers(const struct mt_model *model, const struct mt_layout *layout, int virtual_stage, int64_t *first,
			    int64_t *count)
{
	struct mt_layout_run runs[MT_LAYOUT_RUNS];
	int64_t left = virtual_stage;
	int run_count = mt_layout_cut(model, layout, runs);

	*first = *count = 0;
	for (int i = 0; i < run_count; i++) {
		int64_t before = left < runs[i].stages ? left : runs[i].stages;

		*first += before * runs[i].layers;
		*count = runs[i].layers;
		left -= before;
		if (before < runs[i].stages)
			return;
	}
}
