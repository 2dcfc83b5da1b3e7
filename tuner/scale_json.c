/* scale_json: the document of `scale` (docs/prediction.md) and its text. */
#include "tuner/scale.h"

#include "base/json.h"
#include "base/units.h"

#include <math.h>
#include <string.h>

static void set_number(json_t *o, const char *key, double value)
{
	json_object_set_new(o, key, mt_json_number(value));
}

static void note(json_t *list, const char *text)
{
	json_array_append_new(list, json_string(text));
}

/* What of this row no measurement stands behind. */
static json_t *beyond(const struct mt_scale_row *row, const struct mt_setting *s)
{
	json_t *list = json_array();

	if (!s->calibrated)
		note(list, "no calibration of this machine and software");
	if (row->gpus > s->stack.seen_gpus)
		note(list, "more accelerators than any run that the forecast was held against");
	if (row->gpus > s->target.leaf_nodes * s->target.node_gpus)
		note(list, "more than one leaf switch: what the spine gives is judgement");
	return list;
}

static json_t *row_json(const struct mt_scale_row *row, const struct mt_setting *s, struct mt_survey_query *q)
{
	json_t *o = json_object(), *fixed = json_null();
	char text[MT_SURVEY_TEXT];

	q->gpus = row->gpus;
	q->model.gbs = (double)row->gbs;
	json_object_set_new(o, "gpus", json_integer(row->gpus));
	json_object_set_new(o, "gbs", json_integer(row->gbs));
	json_object_set_new(o, "not_reached", json_integer(row->not_reached));
	json_object_set_new(o, "why_not", row->why ? json_string(row->why) : json_null());
	json_object_set_new(o, "best", row->fits ? mt_survey_point_json(q, &row->best, s->half) : json_null());
	if (row->fixed_fits)
		fixed = mt_survey_point_json(q, &row->fixed, s->half);
	json_object_set_new(o, "fixed", fixed);
	json_object_set_new(o, "fixed_why_not", row->fixed_why ? json_string(row->fixed_why) : json_null());
	if (row->fits) {
		mt_survey_text(&row->best, text);
		json_object_set_new(o, "text", json_string(text));
		set_number(o, "efficiency_frac", row->efficiency_frac);
		set_number(o, "interruption_every_s", row->goodput.mtbf_s);
		set_number(o, "checkpoint_s", row->goodput.checkpoint_s);
		set_number(o, "checkpoint_interval_s", row->goodput.interval_s);
		set_number(o, "goodput_frac", row->goodput.frac);
		set_number(o, "days", row->days);
		set_number(o, "cost", row->cost);
	}
	json_object_set_new(o, "extrapolates", beyond(row, s));
	return o;
}

json_t *mt_scale_json(const struct mt_scale *scale, const struct mt_setting *setting, const struct mt_setting_options *options,
		      const struct mt_scale_options *o, const struct mt_model *model)
{
	json_t *doc = json_object(), *rows = json_array();
	struct mt_survey_query q;

	json_object_set_new(doc, "schema", json_integer(1));
	json_object_set_new(doc, "command", json_string("scale"));
	json_object_set_new(doc, "megatune", json_string(MT_VERSION));
	json_object_set_new(doc, "model", json_string(model->name));
	json_object_set_new(doc, "machine", json_string(setting->target.name ? setting->target.name : ""));
	json_object_set_new(doc, "stack", json_string(setting->stack.name ? setting->stack.name : ""));
	json_object_set_new(doc, "scaling", json_string(o->weak ? "weak" : "strong"));
	json_object_set_new(doc, "calibrated", json_boolean(setting->calibrated));
	json_object_set_new(doc, "seen_gpus", json_integer(setting->stack.seen_gpus));
	json_object_set_new(doc, "options", mt_options_json(&mt_scale_options_table, o));
	json_object_set_new(doc, "forecast", mt_options_json(&mt_setting_options_table, options));
	if (mt_setting_query(&q, setting, options, model, 1, 1, o->seq) == MT_OK) { /* as in mt_scale_run, where it did not fail */
		set_number(doc, "seq", q.model.seq);
		for (int i = 0; i < scale->count; i++)
			json_array_append_new(rows, row_json(&scale->rows[i], setting, &q));
	}
	json_object_set_new(doc, "rows", rows);
	json_object_set_new(doc, "sensitivity", scale->sensitivity ? json_deep_copy(scale->sensitivity) : json_null());
	return doc;
}

static void print_row(const struct mt_scale_row *r, double best_mfu, double fixed_mfu, bool beyond_all, FILE *file)
{
	char step[MT_UNITS_TEXT], layout[MT_SURVEY_TEXT], text[MT_SURVEY_TEXT + MT_UNITS_TEXT + 2], every[MT_UNITS_TEXT],
		kept[16] = "-";

	if (!r->fits) {
		fprintf(file, " %7lld %7lld  none: ", (long long)r->gpus, (long long)r->gbs);
		mt_survey_print_words(r->why, 24, file);
		return;
	}
	if (r->fixed_fits)
		snprintf(kept, sizeof kept, "%.1f%%", 100 * fixed_mfu);
	mt_survey_text(&r->best, layout);
	snprintf(text, sizeof text, "%s; %s", layout, mt_units_seconds(every, r->goodput.interval_s));
	fprintf(file, "%c%7lld %7lld %11s %5.1f%% %6s %5.1f%% %6.1f%% %8.1f %9.3g\n%18s", beyond_all ? '~' : ' ',
		(long long)r->gpus, (long long)r->gbs, mt_units_seconds(step, r->best_f.step_s), 100 * best_mfu, kept,
		100 * r->efficiency_frac, 100 * r->goodput.frac, r->days, r->cost, "");
	mt_survey_print_words(text, 18, file);
}

static void print_sensitivity(const json_t *list, FILE *file)
{
	size_t index;
	const json_t *o;

	fprintf(file, "\n  10%% worse               its MFU  of best  choice\n");
	json_array_foreach((json_t *)list, index, o)
	{
		double mine = mt_json_get_number(o, "mfu_change_frac", NAN),
		       best = mt_json_get_number(o, "choice_mfu_change_frac", NAN);

		if (fabs(mine) < 5e-4 && json_is_true(json_object_get(o, "choice_stays")))
			continue;
		fprintf(file, "  %-22s %+7.2f%% %+7.2f%%  ", mt_json_get_string(o, "parameter", ""), 100 * mine, 100 * best);
		mt_survey_print_words(
			json_is_true(json_object_get(o, "choice_stays")) ? "stays" : mt_json_get_string(o, "choice", "none fits"),
			44, file);
	}
}

void mt_scale_print(const struct mt_scale *scale, const struct mt_setting *setting, const struct mt_setting_options *options,
		    const struct mt_scale_options *o, const struct mt_model *model, FILE *file)
{
	struct mt_survey_query q;
	int64_t cut = 0;
	bool any = false;

	if (mt_setting_query(&q, setting, options, model, 1, 1, o->seq) != MT_OK)
		return;
	fprintf(file, "  %s on %s with %s, %s scaling\n  to train %.3g tokens\n\n", model->name, setting->target.name,
		setting->stack.name, o->weak ? "weak" : "strong", options->tokens);
	fprintf(file, " %7s %7s %11s %6s %6s %6s %7s %8s %9s\n%18sbest layout; time between checkpoints\n", "gpus", "gbs", "step",
		"MFU", "kept", "effic.", "goodput", "days", "cost", "");
	for (int i = 0; i < scale->count; i++) {
		const struct mt_scale_row *r = &scale->rows[i];
		bool beyond_all = r->gpus > setting->stack.seen_gpus;

		any |= beyond_all && r->fits;
		cut += r->not_reached;
		q.gpus = r->gpus;
		print_row(r, mt_survey_mfu(&q, &r->best_f), mt_survey_mfu(&q, &r->fixed_f), beyond_all, file);
	}
	if (any)
		fprintf(file, "\n  ~ extrapolates: this software's forecast was held against runs of up to %lld\n",
			(long long)setting->stack.seen_gpus);
	if (cut > 0)
		fprintf(file, "\n  %lld layouts not reached in time: others may be faster; raise --seconds\n", (long long)cut);
	if (scale->sensitivity)
		print_sensitivity(scale->sensitivity, file);
}
