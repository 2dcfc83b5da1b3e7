/* setting: see setting.h. */
#define _GNU_SOURCE
#include "tuner/setting.h"

#include "base/file.h"
#include "base/units.h"
#include "tuner/fit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const precisions[] = {
	[MT_WIDTH_16] = "bf16", [MT_WIDTH_8] = "fp8", [MT_WIDTH_4] = "fp4", [MT_WIDTH_MX8] = "mxfp8", NULL};
static const char *const objectives[] = {"time", "cost", "gpus-for-deadline", "max-seq", NULL};

#define F(f) offsetof(struct mt_setting_options, f)
#define AXES                                                                                                                       \
	"tp cp cp_kind cp_inner ep etp pp first_less last_less vp mbs sp tp_overlap zero zero_group recompute recompute_layers "   \
	"selected schedule rank_order"
static const struct mt_option options[] = {
	{"stack", MT_OPTION_STRING, F(stack), NULL, 0, 0, NULL,
	 "software that will run on a described machine: a name in profiles/stacks; none: megatune"},
	{"objective", MT_OPTION_CHOICE, F(objective), "time", 0, 0, objectives,
	 "time: of a step on --gpus; cost: of training --tokens, on --gpus or fewer, by --deadline-days where given; "
	 "gpus-for-deadline: fewest, at most --gpus; max-seq: longest sequence that fits"},
	{"precision", MT_OPTION_CHOICE, F(precision), "bf16", 0, 0, precisions, "element type of the layers' products"},
	{"seconds", MT_OPTION_FLOAT, F(seconds), "0", 0, 1e6, NULL,
	 "stop the search then, with what was found; 0: when it is done"},
	{"jobs", MT_OPTION_INT, F(jobs), "0", 0, 1024, NULL, "threads of the search; 0: one a core"},
	{"best", MT_OPTION_INT, F(best), "20", 1, 1e5, NULL, "layouts kept"},
	{"bounded", MT_OPTION_BOOL, F(bounded), "true", 0, 0, NULL, "skip what its bounds tell; no: evaluate every layout"},
	{"fix", MT_OPTION_STRING, F(fix), NULL, 0, 0, NULL, "axes with one value: tp=8,recompute=none (" AXES ")"},
	{"calibrate", MT_OPTION_STRING, F(calibrate), NULL, 0, 0, NULL, "calibration file of machine and stack"},
	{"nic", MT_OPTION_STRING, F(nic), NULL, 0, 0, NULL,
	 "what if: network of an accelerator, bits a second in one direction (400G)"},
	{"nvlink_domain", MT_OPTION_INT, F(nvlink_domain), "0", 0, 1024, NULL, "what if: accelerators joined by fast links"},
	{"hbm", MT_OPTION_FLOAT, F(hbm), "0", 0, 1e5, NULL, "what if: memory of an accelerator, GiB"},
	{"set", MT_OPTION_STRING, F(set), NULL, 0, 0, NULL, "what if: any values of machine or stack, nic_us=4,host_forward_us=30"},
	{"price", MT_OPTION_FLOAT, F(price), "2", 0, 1e6, NULL, "of an accelerator for an hour, in the currency you think in"},
	{"tokens", MT_OPTION_FLOAT, F(tokens), "1e12", 1, 1e18, NULL, "tokens to train on"},
	{"deadline_days", MT_OPTION_FLOAT, F(deadline_days), "0", 0, 1e6, NULL, "days until they are trained; 0: none"},
};
const struct mt_option_table mt_setting_options_table = {"forecast", options, sizeof options / sizeof options[0]};

bool mt_setting_names_machine(const char *machine)
{
	char *path = machine && !mt_file_exists(machine) ? mt_target_path("machines", machine) : NULL;
	bool there = path && access(path, R_OK) == 0;

	free(path);
	return there;
}

/* The next "name=value" of a list with commas; false at its end. */
static bool next_pair(char **list, char **name, char **value)
{
	char *pair = strsep(list, ",");

	if (!pair)
		return false;
	*name = pair + strspn(pair, " ");
	*value = strchr(*name, '=');
	if (*value)
		*(*value)++ = '\0';
	return true;
}

static enum mt_status set_values(struct mt_setting *s, const char *text)
{
	char *copy = strdup(text), *list = copy, *name, *value;
	enum mt_status st = copy ? MT_OK : mt_fail(MT_NOMEM, "no memory for --set");

	while (st == MT_OK && next_pair(&list, &name, &value)) {
		bool machine = mt_options_find(&mt_target_options, name) != NULL;

		if (!value)
			st = mt_fail(MT_INPUT, "--set: '%s' has no value: write name=value,name=value", name);
		else if (machine)
			st = mt_options_set(&mt_target_options, &s->target, name, value, "--set");
		else
			st = mt_options_set(&mt_stack_options, &s->stack, name, value, "--set");
	}
	free(copy);
	return st;
}

static enum mt_status what_if(struct mt_setting *s, const struct mt_setting_options *o)
{
	double bits;

	if (o->nic) {
		if (!mt_units_read(o->nic, &bits) || !(bits >= 1e6))
			return mt_fail(MT_INPUT, "--nic: '%s' is no rate: bits a second of an accelerator, such as 400G", o->nic);
		s->target.nic_gbps = bits / 8e9;
	}
	if (o->nvlink_domain > 0)
		s->target.domain_gpus = o->nvlink_domain;
	if (o->hbm > 0)
		s->target.memory_gib = o->hbm;
	return o->set ? set_values(s, o->set) : MT_OK;
}

/* The factors that a calibration has for this pair, as for a run of it. */
static enum mt_status calibrate(struct mt_setting *s, const char *path)
{
	struct mt_measured_run run = {.target = 0, .stack = 0};
	struct mt_runs_table table = {
		.runs = &run, .count = 1, .targets = &s->target, .stacks = &s->stack, .target_count = 1, .stack_count = 1};

	MT_TRY(mt_fit_load(&s->measured, path));
	mt_fit_factors(&s->measured, &table, &run, &s->factors);
	s->half = mt_fit_half(&s->measured, &table, &run);
	s->calibrated = true;
	return MT_OK;
}

enum mt_status mt_setting_load(struct mt_setting *setting, const struct mt_setting_options *o, const char *machine)
{
	enum mt_status st;

	memset(setting, 0, sizeof *setting);
	setting->factors = mt_factors_none;
	MT_GOTO(out, mt_target_load(&setting->target, machine));
	MT_GOTO(out, mt_stack_load(&setting->stack, o->stack ? o->stack : "megatune"));
	setting->half = setting->stack.spread_frac;
	if (o->calibrate)
		MT_GOTO(out, calibrate(setting, o->calibrate));
	MT_GOTO(out, what_if(setting, o));
out:
	if (st != MT_OK)
		mt_setting_free(setting);
	return st;
}

void mt_setting_free(struct mt_setting *setting)
{
	mt_fit_free(&setting->measured);
	mt_target_free(&setting->target);
	mt_stack_free(&setting->stack);
}

/* "attention+norms" to its bits; false: no such output. */
static bool read_selected(const char *text, int64_t *bits)
{
	char name[MT_SURVEY_SELECTED];

	for (int selected = 1; selected < MT_CASE_SELECTIONS; selected++) {
		mt_survey_selected_text(selected, name);
		if (strcmp(name, text) == 0) {
			*bits = selected;
			return true;
		}
	}
	return false;
}

/* The place of a value among names; -1: not there. */
static int64_t name_index(const char *const *names, int count, const char *value)
{
	for (int k = 0; k < count; k++) {
		if (strcmp(names[k], value) == 0)
			return k;
	}
	return -1;
}

/* A value of an axis: a number of its range, or where the axis has names one of these. */
static bool read_axis(const struct mt_survey_layout *fixed, const int *axis, const char *value, int64_t *number)
{
	static const char *const kinds[] = {"none", "selective", "full"}, *const switches[] = {"false", "true"};

	*number = -1;
	if (axis == &fixed->recompute)
		*number = name_index(kinds, 3, value);
	else if (axis == &fixed->schedule)
		*number = name_index(mt_survey_schedule_names, MT_SURVEY_SCHEDULES, value);
	else if (axis == &fixed->rank_order)
		*number = name_index(mt_rank_order_names, MT_RANK_ORDERS, value);
	else if (axis == &fixed->cp_kind)
		*number = name_index(mt_survey_context_names, MT_CONTEXT_HYBRID + 1, value);
	else if (axis == &fixed->sp || axis == &fixed->tp_overlap)
		*number = name_index(switches, 2, value);
	else if (axis == &fixed->selected)
		read_selected(value, number);
	return *number >= 0 || mt_units_read_int(value, number);
}

static enum mt_status fix_axis(struct mt_survey_layout *fixed, const char *name, const char *value)
{
	static const char sizes[] = "1, 2, 3 ...", counts[] = "0, 1, 2 ...", switches[] = "true (1) or false (0)";
	const struct {
		const char *name;
		int *to, least, most;
		const char *values;
	} axes[] = {{"tp", &fixed->tp, 1, INT32_MAX, sizes},
		    {"cp", &fixed->cp, 1, INT32_MAX, sizes},
		    {"cp_kind", &fixed->cp_kind, 0, MT_CONTEXT_HYBRID, "ring, allgather, ulysses or hybrid"},
		    {"cp_inner", &fixed->cp_inner, 1, INT32_MAX, sizes},
		    {"ep", &fixed->ep, 1, INT32_MAX, sizes},
		    {"etp", &fixed->etp, 1, INT32_MAX, sizes},
		    {"pp", &fixed->pp, 1, INT32_MAX, sizes},
		    {"first_less", &fixed->first_less, 0, INT32_MAX, counts},
		    {"last_less", &fixed->last_less, 0, INT32_MAX, counts},
		    {"vp", &fixed->vp, 1, INT32_MAX, sizes},
		    {"mbs", &fixed->mbs, 1, INT32_MAX, sizes},
		    {"sp", &fixed->sp, 0, 1, switches},
		    {"tp_overlap", &fixed->tp_overlap, 0, 1, switches},
		    {"zero", &fixed->zero, 0, 3, "0, 1, 2 or 3"},
		    {"zero_group", &fixed->zero_group, 0, INT32_MAX, counts},
		    {"recompute_layers", &fixed->recompute_layers, 0, INT32_MAX, counts},
		    {"recompute", &fixed->recompute, 0, MT_CASE_FULL, "none, selective or full"},
		    {"selected", &fixed->selected, 0, MT_CASE_SELECTIONS - 1, "attention, activation or norms, joined by +"},
		    {"schedule", &fixed->schedule, 0, MT_SURVEY_SCHEDULES - 1, "1f1b, zb-h1 or zb-v"},
		    {"rank_order", &fixed->rank_order, 0, MT_RANK_ORDERS - 1, "tp-cp-ep-dp-pp or tp-cp-ep-pp-dp"}};
	int64_t number;

	for (size_t i = 0; i < sizeof axes / sizeof axes[0]; i++) {
		if (strcmp(axes[i].name, name) != 0)
			continue;
		if (!value || !read_axis(fixed, axes[i].to, value, &number) || number < axes[i].least || number > axes[i].most)
			return mt_fail(MT_INPUT, "--fix: '%s' is no value of %s; there are: %s", value ? value : "", name,
				       axes[i].values);
		*axes[i].to = (int)number;
		return MT_OK;
	}
	return mt_fail(MT_INPUT, "--fix: no axis '%s'; there are " AXES, name);
}

static enum mt_status fix_axes(struct mt_survey_layout *fixed, const char *text)
{
	char *copy = strdup(text), *list = copy, *name, *value;
	enum mt_status st = copy ? MT_OK : mt_fail(MT_NOMEM, "no memory for --fix");

	while (st == MT_OK && next_pair(&list, &name, &value))
		st = fix_axis(fixed, name, value);
	free(copy);
	return st;
}

static void model_case(struct mt_case *c, const struct mt_model *model, const struct mt_stack *stack)
{
	memset(c, 0, sizeof *c);
	c->layers = (double)model->layers;
	c->hidden = (double)model->hidden;
	c->heads = (double)model->heads;
	c->kv_heads = (double)model->kv_heads;
	c->head_dim = (double)model->head_dim;
	c->ffn = (double)model->ffn;
	c->vocab = (double)model->vocab;
	for (int64_t i = 0; i < model->layers; i++) {
		int64_t window = mt_model_window(model, i);

		c->windowed_frac += window > 0 ? 1 / c->layers : 0;
		c->window = window > 0 ? (double)window : c->window;
	}
	c->experts = (double)model->experts;
	c->topk = (double)model->top_k;
	if (model->experts > 0) {
		c->ffn = (double)model->expert_ffn;
		c->shared_ffn = (double)model->shared_ffn;
		c->dense_layers = (double)model->dense_first;
		c->expert_every = (double)model->expert_every;
		c->dense_ffn = (double)model->ffn;
	}
	c->q_rank = (double)model->q_rank;
	c->kv_rank = (double)model->kv_rank;
	c->rope_dim = (double)model->rope_dim;
	c->v_dim = (double)model->v_dim;
	c->mtp = (double)model->mtp;
	c->gated = model->mlp == MT_MODEL_SWIGLU;
	c->balanced_stages = stack->balanced_stages;
	c->fused_attention = stack->fused_attention;
	c->dropout = model->mlp == MT_MODEL_GELU && !stack->fused_attention;
}

enum mt_status mt_setting_query(struct mt_survey_query *query, const struct mt_setting *setting, const struct mt_setting_options *o,
				const struct mt_model *model, int64_t gpus, int64_t gbs, int64_t seq)
{
	mt_survey_default(query);
	model_case(&query->model, model, &setting->stack);
	query->model.gbs = (double)gbs;
	query->model.seq = (double)(seq > 0 ? seq : model->seq);
	query->model.width = (enum mt_width)o->precision;
	if (mt_target_peak_tflops(&setting->target, query->model.width) <= 0)
		return mt_fail(MT_INPUT, "%s has no %s products: take another --precision", setting->target.name,
			       precisions[o->precision]);
	if (model->position == MT_MODEL_LEARNED && query->model.seq > (double)model->seq)
		return mt_fail(MT_INPUT, "%s has %lld learned positions: --seq %lld is too long", model->name,
			       (long long)model->seq, (long long)seq);
	query->target = &setting->target;
	query->stack = &setting->stack;
	query->factors = setting->factors;
	query->measured = setting->calibrated ? &setting->measured : NULL;
	query->gpus = gpus;
	query->memory_bytes = setting->target.memory_gib * 1073741824;
	query->top = (int)o->best;
	query->jobs = o->jobs > 0 ? (int)o->jobs : (int)sysconf(_SC_NPROCESSORS_ONLN);
	query->seconds = o->seconds;
	query->bounded = o->bounded;
	return o->fix ? fix_axes(&query->fixed, o->fix) : MT_OK;
}

void mt_setting_run_layout(struct mt_layout *layout, const struct mt_survey_query *query, const struct mt_survey_layout *from)
{
	bool some = from->recompute != MT_CASE_NONE && from->recompute_layers < mt_survey_stage_layers(query, from);
	int selected = from->recompute == MT_CASE_SELECTIVE ? from->selected : MT_CASE_SELECTIONS - 1;
	int64_t chunk = ((int64_t)query->model.layers + from->first_less + from->last_less) / ((int64_t)from->pp * from->vp);

	mt_options_default(&mt_layout_options, layout);
	layout->tp = from->tp;
	layout->cp = from->cp;
	layout->cp_kind = from->cp_kind;
	layout->cp_inner = from->cp_inner;
	layout->ep = from->ep;
	layout->etp = from->etp != from->tp ? from->etp : 0;
	layout->schedule = from->schedule;
	if (from->first_less > 0 || from->last_less > 0) {
		layout->first_layers = chunk - from->first_less;
		layout->last_layers = chunk - from->last_less;
	}
	layout->pp = from->pp;
	layout->vp = from->vp;
	layout->dp = from->dp;
	layout->mbs = from->mbs;
	layout->gbs = (int64_t)query->model.gbs;
	layout->seq = (int64_t)query->model.seq;
	layout->sp = from->sp != 0;
	layout->zero = from->zero;
	layout->zero_group = from->zero_group;
	layout->recompute = from->recompute;
	layout->recompute_layers = some ? from->recompute_layers / from->vp : 0;
	layout->recompute_attention = (selected & MT_CASE_ATTENTION) != 0;
	layout->recompute_activation = (selected & MT_CASE_ACTIVATION) != 0;
	layout->recompute_norm = (selected & MT_CASE_NORMS) != 0;
	layout->dtype = MT_BF16;
	if (query->model.width == MT_WIDTH_8)
		layout->fp8 = from->recompute == MT_CASE_SELECTIVE && layout->recompute_norm ? MT_FP8_CURRENT : MT_FP8_DELAYED;
}

const char *mt_setting_run_lacks(const struct mt_survey_query *query)
{
	return query->model.width == MT_WIDTH_4 || query->model.width == MT_WIDTH_MX8 ? precisions[query->model.width] : NULL;
}
