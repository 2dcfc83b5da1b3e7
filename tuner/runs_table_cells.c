#define _GNU_SOURCE
#include "tuner/runs_table_cells.h"

#include "base/units.h"
#include "tuner/forecast.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* docs/prediction.md lists them. A cell means the first that it contains, in letters of either size: "FP8-cs" is fp8. */
static const struct word {
	const char *column, *text;
	int meaning;
} words[] = {
	{"precision", "mxfp8", MT_WIDTH_MX8},
	{"precision", "fp8", MT_WIDTH_8},
	{"precision", "fp4", MT_WIDTH_4},
	{"precision", "bf16", MT_WIDTH_16},
	{"precision", "fp16", MT_WIDTH_16},
	{"recompute", "none", MT_CASE_NONE},
	{"recompute", "selective", MT_CASE_SELECTIVE},
	{"recompute", "full", MT_CASE_FULL},
	{"attention", "unfused", 0},
	{"attention", "flash", 1},
	{"attention", "fused", 1},
	{"attention", "no", 0},
};

/* Columns of numbers, and the most that they can be; 0: any. */
static const struct column {
	const char *name;
	int most;
	bool whole;
} numbers[] = {
	{"gpus", 0, true},         {"gpus_per_node", 0, true},
	{"layers", 0, true},       {"hidden", 0, true},
	{"heads", 0, true},        {"kv_heads", 0, true},
	{"ffn", 0, true},          {"experts", 0, true},
	{"topk", 0, true},         {"seq", 0, true},
	{"vocab", 0, true},        {"tp", 0, true},
	{"sp", 1, true},           {"pp", 0, true},
	{"vp", 0, true},           {"cp", 0, true},
	{"ep", 0, true},           {"etp", 0, true},
	{"dp", 0, true},           {"mbs", 0, true},
	{"gbs", 0, true},          {"zero_stage", 3, true},
	{"step_time_s", 0, false},
};

enum { WORDS = sizeof words / sizeof words[0], NUMBERS = sizeof numbers / sizeof numbers[0] };

static const char *cell(const struct mt_csv *csv, int row, const char *column)
{
	return mt_csv_cell(csv, row, mt_csv_column(csv, column));
}

double mt_runs_number(const struct mt_csv *csv, int row, const char *column, double otherwise)
{
	const char *text = cell(csv, row, column);
	double value;

	return *text && mt_units_read(text, &value) && isfinite(value) && value >= 0 ? value : otherwise;
}

int mt_runs_word(const struct mt_csv *csv, int row, const char *column, int otherwise)
{
	const char *text = cell(csv, row, column);

	for (int i = 0; i < WORDS; i++)
		if (strcmp(words[i].column, column) == 0 && strcasestr(text, words[i].text))
			return words[i].meaning;
	return otherwise;
}

static bool number_fault(const struct column *column, const char *text, double value, char *why, size_t size)
{
	if (value < 0)
		snprintf(why, size, "%s '%.40s' is not a number of 0 or more", column->name, text);
	else if (column->whole && fmod(value, 1) != 0)
		snprintf(why, size, "%s '%.40s' is not a whole number", column->name, text);
	else if (column->most > 0 && value > column->most)
		snprintf(why, size, "%s '%.40s' is more than %d", column->name, text, column->most);
	else
		return false;
	return true;
}

static void name_words(const char *column, const char *text, char *why, size_t size)
{
	int used = snprintf(why, size, "%s '%.40s' is none of", column, text);

	for (int i = 0; i < WORDS && used > 0 && (size_t)used < size; i++)
		if (strcmp(words[i].column, column) == 0)
			used += snprintf(why + used, size - (size_t)used, " %s", words[i].text);
}

bool mt_runs_cell_fault(const struct mt_csv *csv, int row, char *why, size_t size)
{
	for (int i = 0; i < NUMBERS; i++) {
		const char *text = cell(csv, row, numbers[i].name);

		if (*text && number_fault(&numbers[i], text, mt_runs_number(csv, row, numbers[i].name, -1), why, size))
			return true;
	}
	for (int i = 0; i < WORDS; i++) {
		const char *text = cell(csv, row, words[i].column);

		if (*text && mt_runs_word(csv, row, words[i].column, -1) < 0) {
			name_words(words[i].column, text, why, size);
			return true;
		}
	}
	return false;
}
