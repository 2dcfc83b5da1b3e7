/* survey_layout: one layout, from cards to a forecast. The formulas are the forecast's; here is what it does not know: stages of
 * which only some layers recompute. Their time is the cards' average, exactly; their activations too, and one layer's work. */
#include "tuner/survey_space.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

void mt_survey_case(struct mt_case *c, const struct mt_survey_query *query, const struct mt_survey_layout *layout)
{
	*c = query->model;
	c->tp = layout->tp;
	c->cp = layout->cp;
	c->cp_kind = layout->cp_kind;
	c->cp_inner = layout->cp_inner;
	c->ep = layout->ep;
	c->pp = layout->pp;
	c->vp = layout->vp;
	c->dp = layout->dp;
	c->mbs = layout->mbs;
	c->sp = layout->sp != 0;
	c->zero = layout->zero;
	c->zero_group = layout->zero_group;
	c->recompute = layout->recompute;
	c->selected = layout->selected;
	c->tp_overlap = layout->tp_overlap != 0;
	c->etp = layout->etp;
	c->zero_bubble = layout->schedule == MT_SURVEY_ZB_H1;
	c->vee = layout->schedule == MT_SURVEY_ZB_V;
	c->ends_given = !c->balanced_stages;
	c->first_less = layout->first_less;
	c->last_less = layout->last_less;
	c->pp_before_dp = layout->rank_order == MT_RANKS_PP_DP;
}

int mt_survey_stage_layers(const struct mt_survey_query *query, const struct mt_survey_layout *layout)
{
	struct mt_case_stage at[MT_FORECAST_STAGES];
	struct mt_case c;
	double ends;

	mt_survey_case(&c, query, layout);
	mt_case_stages(&c, at);
	ends = fmax(at[0].layers, at[2].layers);
	return (int)(layout->pp > 2 ? fmax(at[1].layers, ends) : ends);
}

/* The cards of one kind of recompute. */
static void make_cards(struct mt_forecast_cards *cards, const struct mt_forecast_parts *parts, struct mt_case *c,
		       const struct mt_survey_query *query, int recompute, int selected)
{
	struct mt_factors factors = query->factors;

	c->recompute = recompute;
	c->selected = selected;
	if (query->measured)
		factors.of[MT_FACTOR_LAYER] *= mt_fit_layer_factor(query->measured, query->target, query->stack, c);
	mt_forecast_finish(cards, parts, c, query->target, query->stack, &factors);
}

/* What a layer at work holds: what a second layer adds to a model of one. */
static double whole_bytes(const struct mt_case *c, const struct mt_stack *stack)
{
	struct mt_forecast one = {.microbatches = 1}, two = one;
	struct mt_case few = *c;

	few.recompute = MT_CASE_NONE;
	few.layers = few.pp = few.vp = 1;
	few.mtp = few.dense_layers = few.expert_every = 0;
	few.zero = 0;
	mt_forecast_memory(&one, &few, stack);
	few.layers = 2;
	mt_forecast_memory(&two, &few, stack);
	return two.memory[0].activations - one.memory[0].activations;
}

void mt_survey_cards_make(struct mt_survey_cards *cards, const struct mt_survey_query *query, const struct mt_survey_layout *layout,
			  const struct mt_forecast_parts *parts)
{
	int count = mt_survey_recompute_kinds(query->stack), most = mt_survey_most_selected(query->stack);
	struct mt_case c;

	mt_survey_case(&c, query, layout);
	make_cards(&cards->kinds[0], parts, &c, query, MT_CASE_NONE, 0);
	make_cards(&cards->kinds[count - 1], parts, &c, query, MT_CASE_FULL, 0);
	for (int selected = 1; selected <= most; selected++) {
		if ((selected & ~most) == 0)
			make_cards(&cards->kinds[mt_survey_recompute_index(query->stack, MT_CASE_SELECTIVE, selected)], parts, &c,
				   query, MT_CASE_SELECTIVE, selected);
	}
	cards->whole_bytes = whole_bytes(&c, query->stack);
}

static void mix_card(struct mt_pass_forecast *to, const struct mt_pass_forecast *a, const struct mt_pass_forecast *b, double share)
{
	double rest = 1 - share;

	to->forward_s = rest * a->forward_s + share * b->forward_s;
	to->backward_s = rest * a->backward_s + share * b->backward_s;
	to->wgrad_s = rest * a->wgrad_s + share * b->wgrad_s;
	to->tp_s = rest * a->tp_s + share * b->tp_s;
	to->ep_s = rest * a->ep_s + share * b->ep_s;
	to->cp_s = rest * a->cp_s + share * b->cp_s;
	to->host_s = rest * a->host_s + share * b->host_s;
}

void mt_survey_mix(struct mt_forecast_cards *mix, const struct mt_forecast_cards *none, const struct mt_forecast_cards *again,
		   double share)
{
	*mix = *again;
	if (share == 1)
		return;
	mix_card(&mix->layer, &none->layer, &again->layer, share);
	mix_card(&mix->dense, &none->dense, &again->dense, share);
	mix_card(&mix->module, &none->module, &again->module, share);
}

/* Memory where only `share` of the layers recompute: between that of all and that of none. */
static void mix_memory(struct mt_forecast *out, const struct mt_survey_query *query, struct mt_case *c, double whole_bytes,
		       double share)
{
	struct mt_forecast none = {.microbatches = out->microbatches};
	int recompute = c->recompute;

	c->recompute = MT_CASE_NONE;
	mt_forecast_memory(&none, c, query->stack);
	c->recompute = recompute;
	out->peak_bytes = 0;
	for (int i = 0; i < MT_FORECAST_STAGES; i++) {
		struct mt_memory_forecast *m = &out->memory[i], *n = &none.memory[i];
		double work = recompute == MT_CASE_FULL ? (1 - share) * whole_bytes : 0;

		m->activations = share * m->activations + (1 - share) * n->activations + work;
		m->overhead = share * m->overhead + (1 - share) * n->overhead + query->stack->fragmentation_frac * work;
		m->total = m->parameters + m->gradients + m->optimizer + m->activations + m->overhead;
		if (m->total > out->peak_bytes && (i != 1 || c->pp > 2))
			out->peak_bytes = m->total;
	}
}

void mt_survey_compose(struct mt_forecast *out, const struct mt_survey_query *query, struct mt_case *c, double whole_bytes,
		       const struct mt_forecast_cards *mix, double share)
{
	mt_forecast_compose(out, c, query->target, query->stack, &query->factors, mix);
	if (share < 1)
		mix_memory(out, query, c, whole_bytes, share);
}

double mt_survey_passes_s(const struct mt_forecast *f)
{
	return f->compute_s + f->tp_s + f->ep_s + f->cp_s + f->host_s;
}

void mt_survey_forecast(struct mt_forecast *out, const struct mt_survey_query *query, const struct mt_survey_layout *layout)
{
	struct mt_forecast_cards none, again, mix;
	struct mt_forecast_parts parts;
	struct mt_case c;
	double share = 1;

	if (layout->recompute != MT_CASE_NONE)
		share = (double)layout->recompute_layers / mt_survey_stage_layers(query, layout);
	mt_survey_case(&c, query, layout);
	mt_forecast_parts(&parts, &c, query->target, query->stack, &query->factors);
	make_cards(&none, &parts, &c, query, MT_CASE_NONE, 0);
	make_cards(&again, &parts, &c, query, layout->recompute, layout->selected);
	mt_survey_mix(&mix, &none, &again, share);
	mt_survey_compose(out, query, &c, whole_bytes(&c, query->stack), &mix, share);
}

const char *const mt_survey_context_names[] = {
	[MT_CONTEXT_RING] = "ring",
	[MT_CONTEXT_ALL_GATHER] = "allgather",
	[MT_CONTEXT_ULYSSES] = "ulysses",
	[MT_CONTEXT_HYBRID] = "hybrid",
};

void mt_survey_selected_text(int selected, char buf[MT_SURVEY_SELECTED])
{
	snprintf(buf, MT_SURVEY_SELECTED, "%s%s%s", selected & MT_CASE_ATTENTION ? "+attention" : "",
		 selected & MT_CASE_ACTIVATION ? "+activation" : "", selected & MT_CASE_NORMS ? "+norms" : "");
	if (buf[0])
		memmove(buf, buf + 1, strlen(buf));
}

/* " cp8", " cp8 ulysses", " cp8 hybrid2" */
static void context_text(const struct mt_survey_layout *l, char *buf, size_t size)
{
	int used = l->cp > 1 ? snprintf(buf, size, " cp%d", l->cp) : 0;

	if (l->cp > 1 && l->cp_kind != MT_CONTEXT_RING)
		used += snprintf(buf + used, size - (size_t)used, " %s", mt_survey_context_names[l->cp_kind]);
	if (l->cp > 1 && l->cp_kind == MT_CONTEXT_HYBRID)
		snprintf(buf + used, size - (size_t)used, "%d", l->cp_inner);
}

/* " selective", " selective attention+norms 4", " full6" */
static void recompute_text(const struct mt_survey_layout *l, char *buf, size_t size)
{
	char selected[MT_SURVEY_SELECTED];

	mt_survey_selected_text(l->selected, selected);
	if (l->recompute == MT_CASE_FULL)
		snprintf(buf, size, " full%d", l->recompute_layers);
	else if (l->recompute == MT_CASE_SELECTIVE)
		snprintf(buf, size, " selective%d %s", l->recompute_layers, selected);
}

void mt_survey_text(const struct mt_survey_layout *l, char buf[MT_SURVEY_TEXT])
{
	static const char *const schedules[] = {[MT_SURVEY_1F1B] = "", [MT_SURVEY_ZB_H1] = " zb-h1", [MT_SURVEY_ZB_V] = " zb-v"};
	char vp[20] = "", cp[40] = "", ep[20] = "", etp[20] = "", zero[20] = "", group[20] = "", again[64] = "", less[28] = "";

	if (l->vp > 1)
		snprintf(vp, sizeof vp, " vp%d", l->vp);
	context_text(l, cp, sizeof cp);
	recompute_text(l, again, sizeof again);
	if (l->ep > 1)
		snprintf(ep, sizeof ep, " ep%d", l->ep);
	if (l->etp != l->tp)
		snprintf(etp, sizeof etp, " etp%d", l->etp);
	if (l->first_less > 0 || l->last_less > 0)
		snprintf(less, sizeof less, " less%d+%d", l->first_less, l->last_less);
	if (l->zero > 0)
		snprintf(zero, sizeof zero, " zero%d", l->zero);
	if (l->zero_group > 0)
		snprintf(group, sizeof group, " of%d", l->zero_group);
	snprintf(buf, MT_SURVEY_TEXT, "tp%d pp%d%s%s%s%s%s%s dp%d mbs%d%s%s%s%s%s%s", l->tp, l->pp, vp, less,
		 schedules[l->schedule], cp, ep, etp, l->dp, l->mbs, l->sp ? " sp" : "", l->tp_overlap ? " overlap" : "", zero,
		 group, again, l->rank_order == MT_RANKS_PP_DP ? " pp-dp" : "");
}
