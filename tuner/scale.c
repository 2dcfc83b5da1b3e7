/* scale: see scale.h. The layout that is kept is the best of the smallest size that fits: its data parallelism grows with the size,
 * all else stays. */
#include "tuner/scale.h"

#include "base/units.h"
#include "tuner/goal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define F(f) offsetof(struct mt_scale_options, f)
static const struct mt_option scale_options[] = {
	{"gpus", MT_OPTION_STRING, F(gpus), "8..1024", 0, 0, NULL, "sizes: 8..16384 (doubling) or 8,64,512"},
	{"machine", MT_OPTION_STRING, F(machine), NULL, 0, 0, NULL, "described machine: a name in profiles/machines or a file"},
	{"out", MT_OPTION_STRING, F(out), NULL, 0, 0, NULL, "directory for scale.json, the page and the figure; none: print only"},
	{"gbs", MT_OPTION_INT, F(gbs), "0", 0, 1e9, NULL,
	 "sequences in a step; weak: at the smallest size; 0: one an accelerator at the largest, weak: at each"},
	{"seq", MT_OPTION_INT, F(seq), "0", 0, 1e8, NULL, "tokens in a sequence; 0: the model's"},
	{"strong", MT_OPTION_BOOL, F(strong), "false", 0, 0, NULL, "the same batch at every size (the default)"},
	{"weak", MT_OPTION_BOOL, F(weak), "false", 0, 0, NULL, "the batch grows with the size"},
	{"sensitivity", MT_OPTION_BOOL, F(sensitivity), "false", 0, 0, NULL,
	 "also: what 10% less of each number of the machine costs, at the largest size"},
	{"failure_hours", MT_OPTION_FLOAT, F(failure_hours), "50000", 1, 1e12, NULL, "accelerator-hours for each interruption"},
	{"storage_gbps", MT_OPTION_FLOAT, F(storage_gbps), "0", 0, 1e9, NULL,
	 "GB/s that all ranks together write to storage; 0: 2 a node"},
	{"restart_s", MT_OPTION_FLOAT, F(restart_s), "600", 0, 1e7, NULL,
	 "seconds from an interruption until the job trains again"},
};
const struct mt_option_table mt_scale_options_table = {"scale", scale_options, sizeof scale_options / sizeof scale_options[0]};

static enum mt_status add_size(int64_t sizes[MT_SCALE_SIZES], int *count, int64_t size)
{
	if (*count == MT_SCALE_SIZES)
		return mt_fail(MT_INPUT, "--gpus: more than %d sizes", MT_SCALE_SIZES);
	if (*count > 0 && sizes[*count - 1] >= size)
		return mt_fail(MT_INPUT, "--gpus: sizes must grow: %lld does not after %lld", (long long)size,
			       (long long)sizes[*count - 1]);
	sizes[(*count)++] = size;
	return MT_OK;
}

static enum mt_status bad_size(const char *text)
{
	return mt_fail(MT_INPUT, "--gpus: '%s' is no list of sizes from 1 to 1,048,576: write 8..16384 or 8,64,512", text);
}

static bool read_size(const char *text, int64_t *size)
{
	return mt_units_read_int(text, size) && *size >= 1 && *size <= 1 << 20;
}

enum mt_status mt_scale_sizes(const char *text, int64_t sizes[MT_SCALE_SIZES], int *count)
{
	char *copy = strdup(text), *list = copy, *word, *dots = copy ? strstr(copy, "..") : NULL;
	int64_t low, high;
	enum mt_status st = copy ? MT_OK : mt_fail(MT_NOMEM, "no memory for sizes");

	*count = 0;
	if (dots) {
		*dots = '\0';
		if (!read_size(copy, &low) || !read_size(dots + 2, &high) || low > high)
			st = bad_size(text);
		for (; st == MT_OK && low < high; low *= 2)
			st = add_size(sizes, count, low);
		if (st == MT_OK)
			st = add_size(sizes, count, high);
	}
	while (st == MT_OK && !dots && (word = strsep(&list, ",")))
		st = read_size(word, &low) ? add_size(sizes, count, low) : bad_size(text);
	free(copy);
	return st;
}

void mt_scale_free(struct mt_scale *scale)
{
	free(scale->rows);
	json_decref(scale->sensitivity);
	memset(scale, 0, sizeof *scale);
}

/* The state is 16-bit weights, master weights and two moments: 14 bytes a parameter. */
static void fail_and_restart(struct mt_scale_row *row, const struct mt_survey_query *q, const struct mt_scale_options *o)
{
	double nodes = ceil((double)row->gpus / (double)q->target->node_gpus);
	double storage = o->storage_gbps > 0 ? o->storage_gbps : 2 * nodes;

	row->goodput.mtbf_s = o->failure_hours * 3600 / (double)row->gpus;
	row->goodput.checkpoint_s = 14 * mt_case_parameters(&q->model) / (storage * 1e9);
	row->goodput.restart_s = o->restart_s;
	mt_goodput_best(&row->goodput);
}

/* The kept layout at this size. */
static void keep_layout(struct mt_scale_row *row, const struct mt_survey_query *q, const struct mt_survey_layout *kept)
{
	int64_t rest = (int64_t)kept->tp * kept->cp * kept->pp;
	int rule;

	row->fixed = *kept;
	if (row->gpus % rest) {
		row->fixed_why = "tp * cp * pp does not divide the accelerators";
		return;
	}
	row->fixed.dp = (int)(row->gpus / rest);
	rule = mt_survey_why_not(q, &row->fixed);
	if (rule >= 0) {
		row->fixed_why = mt_survey_rule_text(rule);
		return;
	}
	mt_survey_forecast(&row->fixed_f, q, &row->fixed);
	row->fixed_fits = row->fixed_f.peak_bytes <= q->memory_bytes;
	row->fixed_why = row->fixed_fits ? NULL : "it does not fit the memory";
}

static int64_t batch(const struct mt_scale_options *o, int64_t size, const int64_t *sizes, int count)
{
	if (o->weak)
		return o->gbs > 0 ? o->gbs * size / sizes[0] : size;
	return o->gbs > 0 ? o->gbs : sizes[count - 1];
}

/* Why a search found no layout. */
static const char *no_layout(const struct mt_survey *survey)
{
	int rule;

	if (survey->not_reached > 0)
		return "time ended before a layout was found";
	if (isfinite(survey->least_bytes))
		return "no layout fits the memory";
	return mt_survey_nearest(survey, &rule, 1) > 0 ? mt_survey_rule_text(rule) : "there is no layout";
}

static enum mt_status one_size(struct mt_scale *scale, struct mt_scale_row *row, const struct mt_survey_query *q,
			       const struct mt_setting_options *options, const struct mt_scale_options *o)
{
	const struct mt_scale_row *base = NULL;
	struct mt_survey survey;
	double tokens = q->model.gbs * q->model.seq;

	MT_TRY(mt_survey_run(&survey, q));
	row->fits = survey.best.count > 0;
	row->not_reached = survey.not_reached;
	row->why = row->fits ? NULL : no_layout(&survey);
	if (row->fits) {
		row->best = survey.best.points[0].layout;
		mt_survey_forecast(&row->best_f, q, &row->best);
		fail_and_restart(row, q, o);
		row->days = mt_goal_days(q, options->tokens, row->best_f.step_s) / row->goodput.frac;
		row->cost = row->days * 24 * (double)row->gpus * options->price;
	}
	mt_survey_free(&survey);
	for (const struct mt_scale_row *r = scale->rows; r <= row && !base; r++)
		base = r->fits ? r : NULL;
	if (!base) {
		row->fixed_why = "no layout was found at this size or below";
		return MT_OK;
	}
	keep_layout(row, q, &base->best);
	if (row->fits) {
		double first = (double)base->gbs * q->model.seq / base->best_f.step_s / (double)base->gpus;

		row->efficiency_frac = tokens / row->best_f.step_s / (double)row->gpus / first;
	}
	return MT_OK;
}

enum mt_status mt_scale_run(struct mt_scale *scale, const struct mt_setting *setting, const struct mt_setting_options *options,
			    const struct mt_scale_options *o, const struct mt_model *model)
{
	int64_t sizes[MT_SCALE_SIZES];
	struct mt_survey_query q;
	struct mt_scale_row *last;
	int count;
	enum mt_status st = MT_OK;

	memset(scale, 0, sizeof *scale);
	if (o->strong && o->weak)
		return mt_fail(MT_INPUT, "command line: --strong and --weak exclude each other");
	MT_TRY(mt_scale_sizes(o->gpus, sizes, &count));
	scale->rows = calloc((size_t)count, sizeof *scale->rows);
	if (!scale->rows)
		return mt_fail(MT_NOMEM, "no memory for %d sizes", count);
	for (int i = 0; i < count && st == MT_OK; i++) {
		struct mt_scale_row *row = &scale->rows[scale->count++];

		row->gpus = sizes[i];
		row->gbs = batch(o, sizes[i], sizes, count);
		st = mt_setting_query(&q, setting, options, model, row->gpus, row->gbs, o->seq);
		if (st == MT_OK)
			st = one_size(scale, row, &q, options, o);
	}
	last = &scale->rows[count - 1];
	if (st == MT_OK && o->sensitivity && last->fits)
		st = mt_sensitivity(&scale->sensitivity, &q, &last->best);
	if (st != MT_OK)
		mt_scale_free(scale);
	return st;
}
