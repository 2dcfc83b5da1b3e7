/* survey_json: the answer of a search as a document and as text. */
#include "tuner/survey.h"

#include "base/json.h"
#include "base/units.h"

#include <math.h>
#include <string.h>

static const char *const recompute_names[] = {"none", "selective", "full"};
const char *const mt_survey_schedule_names[] = {[MT_SURVEY_1F1B] = "1f1b", [MT_SURVEY_ZB_H1] = "zb-h1", [MT_SURVEY_ZB_V] = "zb-v"};

double mt_survey_mfu(const struct mt_survey_query *query, const struct mt_forecast *f)
{
	const struct mt_target *t = query->target;
	double peak = mt_target_peak_tflops(t, query->model.width);

	return f->model_flops / (f->step_s * (double)query->gpus * peak * 1e12);
}

static void set_number(json_t *o, const char *key, double value)
{
	json_object_set_new(o, key, mt_json_number(value));
}

static json_t *split_json(const struct mt_forecast *f)
{
	const struct {
		const char *name;
		double seconds;
	} parts[] = {{"compute_s", f->compute_s}, {"tp_s", f->tp_s},         {"ep_s", f->ep_s}, {"cp_s", f->cp_s},
		     {"pp_s", f->pp_s},           {"bubble_s", f->bubble_s}, {"dp_s", f->dp_s}, {"optimizer_s", f->optimizer_s},
		     {"host_s", f->host_s},       {"other_s", f->other_s}};
	json_t *o = json_object();

	for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
		set_number(o, parts[i].name, parts[i].seconds);
	return o;
}

static json_t *memory_json(const struct mt_forecast *f, int pp)
{
	static const char *const names[] = {"first", "middle", "last"};
	json_t *stages = json_array();

	for (int i = 0; i < MT_FORECAST_STAGES; i++) {
		const struct mt_memory_forecast *m = &f->memory[i];

		if ((i == 1 && pp <= 2) || (i == 2 && pp == 1))
			continue;
		json_t *o = json_object();
		json_object_set_new(o, "stage", json_string(names[i]));
		set_number(o, "parameters_bytes", m->parameters);
		set_number(o, "gradients_bytes", m->gradients);
		set_number(o, "optimizer_bytes", m->optimizer);
		set_number(o, "activations_bytes", m->activations);
		set_number(o, "overhead_bytes", m->overhead);
		set_number(o, "total_bytes", m->total);
		json_array_append_new(stages, o);
	}
	return stages;
}

static json_t *layout_json(const struct mt_survey_layout *l)
{
	const struct {
		const char *name;
		int value;
	} numbers[] = {{"tp", l->tp},
		       {"cp", l->cp},
		       {"cp_inner", l->cp_inner},
		       {"ep", l->ep},
		       {"etp", l->etp},
		       {"pp", l->pp},
		       {"first_less", l->first_less},
		       {"last_less", l->last_less},
		       {"vp", l->vp},
		       {"dp", l->dp},
		       {"mbs", l->mbs},
		       {"zero", l->zero},
		       {"zero_group", l->zero_group},
		       {"recompute_layers", l->recompute_layers}};
	char selected[MT_SURVEY_SELECTED];
	json_t *o = json_object();

	mt_survey_selected_text(l->selected, selected);
	for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
		json_object_set_new(o, numbers[i].name, json_integer(numbers[i].value));
	json_object_set_new(o, "sp", json_boolean(l->sp));
	json_object_set_new(o, "tp_overlap", json_boolean(l->tp_overlap));
	json_object_set_new(o, "cp_kind", json_string(mt_survey_context_names[l->cp_kind]));
	json_object_set_new(o, "schedule", json_string(mt_survey_schedule_names[l->schedule]));
	json_object_set_new(o, "rank_order", json_string(mt_rank_order_names[l->rank_order]));
	json_object_set_new(o, "recompute", json_string(recompute_names[l->recompute]));
	json_object_set_new(o, "selected", json_string(selected));
	return o;
}

json_t *mt_survey_point_json(const struct mt_survey_query *query, const struct mt_survey_layout *layout, double half)
{
	struct mt_forecast f;
	json_t *o = json_object();
	char text[MT_SURVEY_TEXT];

	mt_survey_forecast(&f, query, layout);
	mt_survey_text(layout, text);
	json_object_set_new(o, "text", json_string(text));
	json_object_set_new(o, "layout", layout_json(layout));
	set_number(o, "step_s", f.step_s);
	set_number(o, "lo_s", f.step_s * exp(-half));
	set_number(o, "hi_s", f.step_s * exp(half));
	set_number(o, "mfu_frac", mt_survey_mfu(query, &f));
	set_number(o, "tokens_per_s", query->model.gbs * query->model.seq / f.step_s);
	set_number(o, "peak_bytes", f.peak_bytes);
	json_object_set_new(o, "split", split_json(&f));
	json_object_set_new(o, "memory", memory_json(&f, layout->pp));
	return o;
}

static json_t *search_json(const struct mt_survey *s)
{
	int64_t rejected = 0;
	json_t *o = json_object();

	for (int i = 0; i < mt_survey_rule_count; i++)
		rejected += s->rejected[i];
	json_object_set_new(o, "counted", json_integer(s->counted));
	json_object_set_new(o, "rejected", json_integer(rejected));
	json_object_set_new(
		o, "pruned",
		json_pack("{s:I,s:I}", "time_bound", (json_int_t)s->pruned_time, "memory_bound", (json_int_t)s->pruned_memory));
	json_object_set_new(o, "evaluated", json_integer(s->evaluated));
	json_object_set_new(o, "too_large", json_integer(s->too_large));
	json_object_set_new(o, "not_reached", json_integer(s->not_reached));
	json_object_set_new(o, "complete", json_boolean(s->not_reached == 0));
	set_number(o, "least_left_s", s->least_left_s);
	set_number(o, "seconds", s->seconds);
	json_object_set_new(o, "threads", json_integer(s->jobs));
	set_number(o, "layouts_per_s", s->seconds > 0 ? (double)s->counted / s->seconds : NAN);
	return o;
}

static json_t *why_not_json(const struct mt_survey *s)
{
	json_t *rules = json_array();

	for (int i = 0; i < mt_survey_rule_count; i++) {
		if (s->rejected[i] > 0)
			json_array_append_new(rules, json_pack("{s:s,s:s,s:I}", "rule", mt_survey_rules[i].name, "text",
							       mt_survey_rule_text(i), "layouts", (json_int_t)s->rejected[i]));
	}
	return rules;
}

json_t *mt_survey_json(const struct mt_survey *s, const struct mt_survey_query *query, double half)
{
	json_t *o = json_object(), *best = json_array(), *front = json_array();

	json_object_set_new(o, "machine", json_string(query->target->name ? query->target->name : ""));
	json_object_set_new(o, "stack", json_string(query->stack->name ? query->stack->name : ""));
	json_object_set_new(o, "gpus", json_integer(query->gpus));
	set_number(o, "gbs", query->model.gbs);
	set_number(o, "seq", query->model.seq);
	set_number(o, "memory_bytes", query->memory_bytes);
	json_object_set_new(o, "search", search_json(s));
	json_object_set_new(o, "why_not", why_not_json(s));
	for (int i = 0; i < s->best.count; i++)
		json_array_append_new(best, mt_survey_point_json(query, &s->best.points[i].layout, half));
	json_object_set_new(o, "choice", s->best.count ? json_deep_copy(json_array_get(best, 0)) : json_null());
	json_object_set_new(o, "best", best);
	for (int i = 0; i < s->front.count; i++)
		json_array_append_new(front, mt_survey_point_json(query, &s->front.points[i].layout, half));
	json_object_set_new(o, "pareto", front);
	return o;
}

void mt_survey_print_words(const char *text, int column, FILE *file)
{
	enum { WIDTH = 80 };
	int at = column;

	while (*text) {
		int length = (int)strcspn(text, " ");

		if (at > column && at + 1 + length > WIDTH) {
			fprintf(file, "\n%*s", column, "");
			at = column;
		}
		at += fprintf(file, "%s%.*s", at > column ? " " : "", length, text);
		text += length;
		text += strspn(text, " ");
	}
	fputc('\n', file);
}

static void print_points(const struct mt_survey_front *points, int most, const struct mt_survey_query *query, FILE *file)
{
	for (int i = 0; i < points->count && i < most; i++) {
		struct mt_forecast f;
		char text[MT_SURVEY_TEXT], step[MT_UNITS_TEXT], bytes[MT_UNITS_TEXT];

		mt_survey_forecast(&f, query, &points->points[i].layout);
		mt_survey_text(&points->points[i].layout, text);
		fprintf(file, "  %2d %9s  %4.1f%%  %9s  ", i + 1, mt_units_seconds(step, f.step_s), 100 * mt_survey_mfu(query, &f),
			mt_units_bytes(bytes, f.peak_bytes));
		mt_survey_print_words(text, 34, file);
	}
}

void mt_survey_print(const struct mt_survey *s, const struct mt_survey_query *query, double half, FILE *file)
{
	char a[MT_UNITS_TEXT], b[MT_UNITS_TEXT], c[MT_UNITS_TEXT], text[MT_SURVEY_TEXT];
	const struct mt_survey_layout *choice = &s->best.points[0].layout;
	struct mt_forecast f;
	int64_t rejected = 0;

	for (int i = 0; i < mt_survey_rule_count; i++)
		rejected += s->rejected[i];
	mt_survey_forecast(&f, query, choice);
	mt_survey_text(choice, text);
	fprintf(file, "  Choice   ");
	mt_survey_print_words(text, 11, file);
	fprintf(file, "           on %lld of %s, %s\n", (long long)query->gpus, query->target->name, query->stack->name);
	fprintf(file, "  Step     %s predicted, 90%%: %s to %s; MFU %.1f%%, %s tokens/s\n", mt_units_seconds(a, f.step_s),
		mt_units_seconds(b, f.step_s * exp(-half)), mt_units_seconds(c, f.step_s * exp(half)),
		100 * mt_survey_mfu(query, &f), mt_units_count(text, query->model.gbs * query->model.seq / f.step_s));
	fprintf(file, "  Memory   %s of %s\n", mt_units_bytes(a, f.peak_bytes), mt_units_bytes(b, query->memory_bytes));
	fprintf(file,
		"  Search   %lld layouts: %lld break a rule,\n           %lld pruned by memory, %lld by time, %lld evaluated\n",
		(long long)s->counted, (long long)rejected, (long long)s->pruned_memory, (long long)s->pruned_time,
		(long long)s->evaluated);
	if (s->not_reached > 0)
		fprintf(file, "           %lld not reached in time%s%s\n", (long long)s->not_reached,
			s->least_left_s > 0 ? "; none of them is faster than " : "",
			s->least_left_s > 0 ? mt_units_seconds(a, s->least_left_s) : "");
	fprintf(file, "\n  %2s %9s  %5s  %9s  best by time\n", "", "step", "MFU", "memory");
	print_points(&s->best, 10, query, file);
	fprintf(file, "\n  %2s %9s  %5s  %9s  least time for its memory\n", "", "step", "MFU", "memory");
	print_points(&s->front, 12, query, file);
}

enum mt_status mt_survey_nothing(const struct mt_survey *s, const struct mt_survey_query *query)
{
	int rules[3], count = mt_survey_nearest(s, rules, 3);
	char text[700] = "", a[MT_UNITS_TEXT], b[MT_UNITS_TEXT];
	bool asked = count > 0 && strncmp(mt_survey_rules[rules[0]].name, "fixed_", 6) == 0;
	size_t used = 0;

	if (s->not_reached > 0)
		return mt_fail(MT_INCONCLUSIVE,
			       "time ended before a layout was found: %lld of %lld layouts were not reached; raise --seconds",
			       (long long)s->not_reached, (long long)s->counted);
	if (isfinite(s->least_bytes))
		return mt_fail(
			MT_INPUT,
			"no layout fits %s: the smallest needs at least %s on each of %lld accelerators; change --gpus or --gbs",
			mt_units_bytes(a, query->memory_bytes), mt_units_bytes(b, s->least_bytes), (long long)query->gpus);
	for (int i = 0; i < count && used < sizeof text; i++)
		used += (size_t)snprintf(text + used, sizeof text - used, "%s %s (%lld layouts)", used ? ";" : "",
					 mt_survey_rule_text(rules[i]), (long long)s->rejected[rules[i]]);
	return mt_fail(MT_INPUT, "%lld accelerators with %.0f sequences a step: no layout %s:%s; change --gpus, --gbs or --fix",
		       (long long)query->gpus, query->model.gbs,
		       asked ? "has the values asked for" : "keeps every rule; those that keep most break", text);
}
