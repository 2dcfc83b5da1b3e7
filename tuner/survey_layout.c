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
}

int mt_survey_stage_layers(const struct mt_survey_query *query, int pp)
{
	struct mt_case c = query->model;
	double layers[MT_FORECAST_STAGES];

	c.pp = pp;
	mt_case_layers(&c, layers);
	return (int)(pp > 2 ? fmax(layers[1], fmax(layers[0], layers[2])) : fmax(layers[0], layers[2]));
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
		mt_forecast_layer(&cards->layer[kind], &c, query->target, query->stack, &factors);
	}
	mt_forecast_ends(&cards->embedding, &cards->head, &c, query->target, query->stack, &query->factors);
	/* What a layer at work holds: the activations of a model of one layer without words. */
	one = c;
	one.recompute = MT_CASE_NONE;
	one.layers = one.pp = one.vp = 1;
	one.vocab = 0;
	one.zero = 0;
	mt_forecast_memory(&f, &one, query->stack);
	cards->whole_bytes = f.memory[0].activations;
}

struct mt_pass_forecast mt_survey_layer(const struct mt_survey_cards *cards, int recompute, double share)
{
	const struct mt_pass_forecast *a = &cards->layer[MT_CASE_NONE], *b = &cards->layer[recompute];
	struct mt_pass_forecast mix = *b;
	double rest = 1 - share;

	if (share == 1)
		return *b;
	mix.forward_s = rest * a->forward_s + share * b->forward_s;
	mix.backward_s = rest * a->backward_s + share * b->backward_s;
	mix.tp_s = rest * a->tp_s + share * b->tp_s;
	mix.ep_s = rest * a->ep_s + share * b->ep_s;
	mix.cp_s = rest * a->cp_s + share * b->cp_s;
	mix.host_s = rest * a->host_s + share * b->host_s;
	return mix;
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

void mt_survey_compose(struct mt_forecast *out, const struct mt_survey_query *query, const struct mt_survey_layout *layout,
		       struct mt_case *c, const struct mt_survey_cards *cards, const struct mt_pass_forecast *layer, double share)
{
	mt_forecast_compose(out, c, query->target, query->stack, &query->factors, layer, &cards->embedding, &cards->head);
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
	struct mt_pass_forecast layer;
	struct mt_case c;
	double share = 1;

	if (layout->recompute != MT_CASE_NONE)
		share = (double)layout->recompute_layers / mt_survey_stage_layers(query, layout->pp);
	mt_survey_cards_make(&cards, query, layout);
	mt_survey_case(&c, query, layout);
	layer = mt_survey_layer(&cards, layout->recompute, share);
	mt_survey_compose(out, query, layout, &c, &cards, &layer, share);
}

void mt_survey_text(const struct mt_survey_layout *l, char buf[96])
{
	static const char *const recompute[] = {"", " selective", " full"};
	char vp[20] = "", cp[20] = "", ep[20] = "", zero[20] = "", layers[20] = "";

	if (l->vp > 1)
		snprintf(vp, sizeof vp, " vp%d", l->vp);
	if (l->cp > 1)
		snprintf(cp, sizeof cp, " cp%d", l->cp);
	if (l->ep > 1)
		snprintf(ep, sizeof ep, " ep%d", l->ep);
	if (l->zero > 0)
		snprintf(zero, sizeof zero, " zero%d", l->zero);
	if (l->recompute == MT_CASE_FULL)
		snprintf(layers, sizeof layers, "%d", l->recompute_layers);
	snprintf(buf, 96, "tp%d pp%d%s%s%s dp%d mbs%d%s%s%s%s", l->tp, l->pp, vp, cp, ep, l->dp, l->mbs, l->sp ? " sp" : "", zero,
		 recompute[l->recompute], layers);
}
