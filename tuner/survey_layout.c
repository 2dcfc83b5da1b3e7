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
	c->ep = layout->ep;
	c->pp = layout->pp;
	c->vp = layout->vp;
	c->dp = layout->dp;
	c->mbs = layout->mbs;
	c->sp = layout->sp != 0;
	c->zero = layout->zero;
	c->recompute = layout->recompute;
	c->etp = layout->etp;
	c->zero_bubble = layout->schedule == MT_SURVEY_ZB_H1;
	c->ends_given = !c->balanced_stages;
	c->first_less = layout->first_less;
	c->last_less = layout->last_less;
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

void mt_survey_cards_make(struct mt_survey_cards *cards, const struct mt_survey_query *query, const struct mt_survey_layout *layout)
{
	struct mt_case c, one;
	struct mt_forecast f = {.microbatches = 1};

	mt_survey_case(&c, query, layout);
	for (int kind = MT_CASE_NONE; kind <= MT_CASE_FULL; kind++) {
		c.recompute = kind;
		struct mt_factors factors = query->factors;

		if (query->measured)
			factors.of[MT_FACTOR_LAYER] *= mt_fit_layer_factor(query->measured, query->target, query->stack, &c);
		mt_forecast_cards(&cards->kinds[kind], &c, query->target, query->stack, &factors);
	}
	/* What a layer at work holds: the activations of a model of one layer without words. */
	one = c;
	one.recompute = MT_CASE_NONE;
	one.layers = one.pp = one.vp = 1;
	one.vocab = one.mtp = one.dense_layers = 0;
	one.zero = 0;
	mt_forecast_memory(&f, &one, query->stack);
	cards->whole_bytes = f.memory[0].activations;
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

void mt_survey_mix(struct mt_forecast_cards *mix, const struct mt_survey_cards *cards, int recompute, double share)
{
	const struct mt_forecast_cards *a = &cards->kinds[MT_CASE_NONE], *b = &cards->kinds[recompute];

	*mix = *b;
	if (share == 1)
		return;
	mix_card(&mix->layer, &a->layer, &b->layer, share);
	mix_card(&mix->dense, &a->dense, &b->dense, share);
	mix_card(&mix->module, &a->module, &b->module, share);
}

/* Memory where only `share` of the layers recompute: between that of all and that of none. */
static void mix_memory(struct mt_forecast *out, const struct mt_survey_query *query, struct mt_case *c,
		       const struct mt_survey_cards *cards, double share)
{
	struct mt_forecast none = {.microbatches = out->microbatches};
	int recompute = c->recompute;

	c->recompute = MT_CASE_NONE;
	mt_forecast_memory(&none, c, query->stack);
	c->recompute = recompute;
	out->peak_bytes = 0;
	for (int i = 0; i < MT_FORECAST_STAGES; i++) {
		struct mt_memory_forecast *m = &out->memory[i], *n = &none.memory[i];
		double work = recompute == MT_CASE_FULL ? (1 - share) * cards->whole_bytes : 0;

		m->activations = share * m->activations + (1 - share) * n->activations + work;
		m->overhead = share * m->overhead + (1 - share) * n->overhead + query->stack->fragmentation_frac * work;
		m->total = m->parameters + m->gradients + m->optimizer + m->activations + m->overhead;
		if (m->total > out->peak_bytes && (i != 1 || c->pp > 2))
			out->peak_bytes = m->total;
	}
}

void mt_survey_compose(struct mt_forecast *out, const struct mt_survey_query *query, struct mt_case *c,
		       const struct mt_survey_cards *cards, const struct mt_forecast_cards *mix, double share)
{
	mt_forecast_compose(out, c, query->target, query->stack, &query->factors, mix);
	if (share < 1)
		mix_memory(out, query, c, cards, share);
}

double mt_survey_passes_s(const struct mt_forecast *f)
{
	return f->compute_s + f->tp_s + f->ep_s + f->cp_s + f->host_s;
}

void mt_survey_forecast(struct mt_forecast *out, const struct mt_survey_query *query, const struct mt_survey_layout *layout)
{
	struct mt_survey_cards cards;
	struct mt_forecast_cards mix;
	struct mt_case c;
	double share = 1;

	if (layout->recompute != MT_CASE_NONE)
		share = (double)layout->recompute_layers / mt_survey_stage_layers(query, layout);
	mt_survey_cards_make(&cards, query, layout);
	mt_survey_case(&c, query, layout);
	mt_survey_mix(&mix, &cards, layout->recompute, share);
	mt_survey_compose(out, query, &c, &cards, &mix, share);
}

void mt_survey_text(const struct mt_survey_layout *l, char buf[96])
{
	static const char *const recompute[] = {"", " selective", " full"};
	char vp[20] = "", cp[20] = "", ep[20] = "", etp[20] = "", zero[20] = "", layers[20] = "", less[28] = "";

	if (l->vp > 1)
		snprintf(vp, sizeof vp, " vp%d", l->vp);
	if (l->cp > 1)
		snprintf(cp, sizeof cp, " cp%d", l->cp);
	if (l->ep > 1)
		snprintf(ep, sizeof ep, " ep%d", l->ep);
	if (l->etp != l->tp)
		snprintf(etp, sizeof etp, " etp%d", l->etp);
	if (l->first_less > 0 || l->last_less > 0)
		snprintf(less, sizeof less, " less%d+%d", l->first_less, l->last_less);
	if (l->zero > 0)
		snprintf(zero, sizeof zero, " zero%d", l->zero);
	if (l->recompute == MT_CASE_FULL)
		snprintf(layers, sizeof layers, "%d", l->recompute_layers);
	snprintf(buf, 96, "tp%d pp%d%s%s%s%s%s%s dp%d mbs%d%s%s%s%s", l->tp, l->pp, vp, less,
		 l->schedule == MT_SURVEY_ZB_H1 ? " zb-h1" : "", cp, ep, etp, l->dp, l->mbs, l->sp ? " sp" : "", zero,
		 recompute[l->recompute], layers);
}
