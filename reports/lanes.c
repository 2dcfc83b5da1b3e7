/* lanes: see lanes.h. */
#include "reports/lanes.h"

#include "base/json.h"
#include "reports/text.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const mt_lanes_kind_names[BAR_KINDS] = {"matrix products", "attention",  "other kernels",
						    "optimizer",       "collective", "wait"};

/* What a span does, by its kind and the engine's names of operations. */
static enum bar_kind kind_of(const char *kind, const char *name)
{
	if (strcmp(kind, "collective") == 0)
		return BAR_COLLECTIVE;
	if (strcmp(kind, "wait") == 0)
		return BAR_WAIT;
	if (strncmp(name, "linear", 6) == 0)
		return BAR_PRODUCT;
	if (strncmp(name, "attention", 9) == 0)
		return BAR_ATTENTION;
	return strncmp(name, "adam", 4) == 0 || strcmp(name, "sumsq") == 0 ? BAR_OPTIMIZER : BAR_OTHER;
}

static bool read_bar(const json_t *json, struct bar *bar)
{
	bar->start_s = mt_record_number(json, "start_s");
	bar->end_s = mt_record_number(json, "end_s");
	bar->longest_s = bar->end_s - bar->start_s;
	bar->name = mt_json_get_string(json, "name", "");
	bar->kind = kind_of(mt_json_get_string(json, "kind", "kernel"), bar->name);
	bar->spans = 1;
	return bar->end_s > bar->start_s && fabs(bar->start_s) < 1e9 && bar->end_s < 1e9;
}

static int by_start(const void *a, const void *b)
{
	const struct bar *x = a, *y = b;
	return x->start_s < y->start_s ? -1 : x->start_s > y->start_s;
}

static enum mt_status read_lane(struct lane *lane, const json_t *rank, const json_t *stream)
{
	const json_t *spans = mt_record_array(stream, "spans"), *json;
	size_t i;

	memset(lane, 0, sizeof *lane);
	lane->rank = (int)mt_json_get_int(rank, "rank", 0);
	lane->stage = (int)mt_json_get_int(rank, "stage", -1);
	lane->stream = mt_json_get_string(stream, "name", "stream");
	lane->bars = calloc(json_array_size(spans) + 1, sizeof *lane->bars);
	if (!lane->bars)
		return mt_fail(MT_NOMEM, "no memory for a timeline");
	json_array_foreach((json_t *)spans, i, json)
	{
		struct bar *bar = &lane->bars[lane->count];
		if (!read_bar(json, bar))
			continue;
		lane->busy_s[bar->kind] += bar->end_s - bar->start_s;
		lane->count++;
	}
	lane->spans = lane->count;
	qsort(lane->bars, (size_t)lane->count, sizeof *lane->bars, by_start);
	return MT_OK;
}

/* Joins neighbours where both the bar so far and the next one are narrower than `narrow_s`, and no wider gap is between. */
static void join(struct lane *lane, double narrow_s)
{
	int kept = 0;

	for (int i = 1; i < lane->count; i++) {
		struct bar *last = &lane->bars[kept], *next = &lane->bars[i];
		bool narrow = last->end_s - last->start_s < narrow_s && next->end_s - next->start_s < narrow_s;
		bool alike = (last->kind == BAR_WAIT) == (next->kind == BAR_WAIT);
		if (narrow && alike && next->start_s - last->end_s < narrow_s) {
			last->end_s = fmax(last->end_s, next->end_s);
			last->spans += next->spans;
			if (next->longest_s > last->longest_s) {
				last->longest_s = next->longest_s;
				last->kind = next->kind;
				last->name = next->name;
			}
		} else {
			lane->bars[++kept] = *next;
		}
	}
	if (lane->count > 0)
		lane->count = kept + 1;
}

static void fit(struct lanes *lanes)
{
	double narrow_s = lanes->length_s / 4000;

	for (int pass = 0; pass < 40; pass++, narrow_s *= 2) {
		int bars = 0;
		for (int i = 0; i < lanes->count; i++) {
			join(&lanes->lanes[i], narrow_s);
			bars += lanes->lanes[i].count;
		}
		if (bars <= LANES_MOST_BARS)
			return;
	}
}

/* Times count from the first span of all lanes. */
static void start_at_zero(struct lanes *lanes)
{
	double start_s = INFINITY, end_s = -INFINITY;

	for (int i = 0; i < lanes->count; i++)
		for (int k = 0; k < lanes->lanes[i].count; k++) {
			start_s = fmin(start_s, lanes->lanes[i].bars[k].start_s);
			end_s = fmax(end_s, lanes->lanes[i].bars[k].end_s);
		}
	for (int i = 0; i < lanes->count; i++)
		for (int k = 0; k < lanes->lanes[i].count; k++) {
			lanes->lanes[i].bars[k].start_s -= start_s;
			lanes->lanes[i].bars[k].end_s -= start_s;
		}
	lanes->length_s = lanes->count ? end_s - start_s : 0;
}

static bool usable(const json_t *stream)
{
	const json_t *json;
	struct bar bar;
	size_t i;

	json_array_foreach((json_t *)mt_record_array(stream, "spans"), i, json) if (read_bar(json, &bar)) return true;
	return false;
}

int mt_lanes_count(const struct record *record)
{
	const json_t *ranks = mt_record_array(json_object_get(record->json, "timeline"), "ranks"), *rank, *stream;
	int count = 0;
	size_t i, k;

	json_array_foreach((json_t *)ranks, i, rank)
	{
		json_array_foreach((json_t *)mt_record_array(rank, "streams"), k, stream) count += usable(stream);
	}
	return count;
}

enum mt_status mt_lanes_read(struct lanes *lanes, const struct record *record)
{
	const json_t *ranks = mt_record_array(json_object_get(record->json, "timeline"), "ranks"), *rank, *stream;
	size_t i, k;
	enum mt_status st = MT_OK;

	memset(lanes, 0, sizeof *lanes);
	lanes->lanes = calloc(LANES_MOST, sizeof *lanes->lanes);
	if (!lanes->lanes)
		return mt_fail(MT_NOMEM, "no memory for a timeline");
	json_array_foreach((json_t *)ranks, i, rank)
	{
		json_array_foreach((json_t *)mt_record_array(rank, "streams"), k, stream)
		{
			if (!usable(stream))
				continue;
			if (lanes->count == LANES_MOST) {
				lanes->left_out++;
				continue;
			}
			st = read_lane(&lanes->lanes[lanes->count], rank, stream);
			if (st != MT_OK) {
				mt_lanes_free(lanes);
				return st;
			}
			lanes->count++;
		}
	}
	start_at_zero(lanes);
	fit(lanes);
	return MT_OK;
}

void mt_lanes_free(struct lanes *lanes)
{
	for (int i = 0; lanes->lanes && i < lanes->count; i++)
		free(lanes->lanes[i].bars);
	free(lanes->lanes);
	memset(lanes, 0, sizeof *lanes);
}

void mt_lanes_label(const struct lanes *lanes, const struct lane *lane, char buf[128])
{
	char stream[80];
	bool stages = false;

	for (int i = 0; i < lanes->count; i++)
		stages = stages || lanes->lanes[i].stage > 0;
	mt_text_copy(stream, sizeof stream, lane->stream, 20);
	if (stages)
		snprintf(buf, 128, "stage %d, rank %d: %s", lane->stage, lane->rank, stream);
	else
		snprintf(buf, 128, "rank %d: %s", lane->rank, stream);
}

double mt_lanes_busy_s(const struct lane *lane)
{
	double busy_s = 0;
	for (int kind = 0; kind < BAR_KINDS; kind++)
		busy_s += kind == BAR_WAIT ? 0 : lane->busy_s[kind];
	return busy_s;
}
