/* sensitivity: which number of the machine the choice stands on. Each rate and share is made 10% less, each time 10% more; the
 * layout is forecast again as it is, and searched for again. A choice that changes with a number that nobody has measured wants
 * measuring. */
#include "tuner/scale.h"

#include "base/json.h"

#include <math.h>
#include <string.h>

#define CHANGE 0.1

/* Times cost more when they grow, all else when it falls. */
static bool is_time(const char *name)
{
	size_t length = strlen(name);

	return (length > 3 && strcmp(name + length - 3, "_us") == 0) || strcmp(name, "product_k0") == 0;
}

static enum mt_status one(json_t *list, const struct mt_survey_query *query, const struct mt_survey_layout *choice, double before_s,
			  const struct mt_option *option)
{
	struct mt_target changed = *query->target; /* its texts are borrowed */
	double *value = (double *)((char *)&changed + option->offset), worse = is_time(option->name) ? 1 + CHANGE : 1 - CHANGE;
	struct mt_survey_query other = *query;
	struct mt_survey survey;
	struct mt_forecast f;
	char text[MT_SURVEY_TEXT] = "";
	json_t *o;

	if (*value == 0)
		return MT_OK;
	*value *= worse;
	other.target = &changed;
	other.memory_bytes = changed.memory_gib * 1073741824;
	mt_survey_forecast(&f, &other, choice);
	MT_TRY(mt_survey_run(&survey, &other));
	if (survey.best.count > 0)
		mt_survey_text(&survey.best.points[0].layout, text);
	o = json_object();
	json_object_set_new(o, "parameter", json_string(option->name));
	json_object_set_new(o, "change_frac", mt_json_number(worse - 1));
	/* the same work in more time: MFU falls as the time grows */
	json_object_set_new(o, "mfu_change_frac", mt_json_number(before_s / f.step_s - 1));
	json_object_set_new(o, "fits", json_boolean(f.peak_bytes <= other.memory_bytes));
	json_object_set_new(o, "choice_stays",
			    json_boolean(survey.best.count > 0 && mt_survey_order(choice, &survey.best.points[0].layout) == 0));
	json_object_set_new(o, "choice", *text ? json_string(text) : json_null());
	json_object_set_new(o, "choice_mfu_change_frac",
			    survey.best.count > 0 ? mt_json_number(before_s / survey.best.points[0].step_s - 1) : json_null());
	json_array_append_new(list, o);
	mt_survey_free(&survey);
	return MT_OK;
}

enum mt_status mt_sensitivity(json_t **list, const struct mt_survey_query *query, const struct mt_survey_layout *choice)
{
	struct mt_survey_query quick = *query;
	struct mt_forecast f;
	enum mt_status st = MT_OK;

	quick.top = 1;
	*list = json_array();
	mt_survey_forecast(&f, query, choice);
	for (size_t i = 0; i < mt_target_options.count && st == MT_OK; i++) {
		if (mt_target_options.options[i].kind == MT_OPTION_FLOAT)
			st = one(*list, &quick, choice, f.step_s, &mt_target_options.options[i]);
	}
	if (st != MT_OK) {
		json_decref(*list);
		*list = NULL;
	}
	return st;
}
