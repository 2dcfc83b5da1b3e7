/* forecast: cards to a step.
 *
 *   stage      F = layers * forward + ends, B likewise; the slowest stage sets the pace
 *   pipeline   m * pace + sum over the other stages of (F + B) / vp, plus messages: what the schedule's replay gives when stages
 * differ at the ends only (tests/test_tuner_forecast.c replays it) data       ZeRO-0 all-reduce, ZeRO-1/2 scatter and gather, once,
 * beside the last backward and first forward pass; ZeRO-3 gathers each layer twice and scatters once a micro-batch, beside that
 * layer ranks      the slowest of n: time * (1 + jitter ln n) What runs beside communication is slowed by a part of it: both want
 * memory and multiprocessors. */
#include "tuner/forecast.h"

#include <math.h>
#include <string.h>

#define INTERFERENCE 0.08 /* of hidden communication that compute pays back */

double mt_case_layer_parameters(const struct mt_case *c, double *expert)
{
	double q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim, mlp = (c->gated ? 3 : 2) * c->hidden * c->ffn;

	double shared = (c->gated ? 3 : 2) * c->hidden * c->shared_ffn;

	*expert = c->experts > 0 ? c->experts * mlp : 0;
	return c->hidden * (q + 2 * kv) + q * c->hidden + shared + (c->experts > 0 ? c->hidden * c->experts : mlp) + *expert;
}

double mt_case_model_flops(const struct mt_case *c)
{
	double expert, all = mt_case_layer_parameters(c, &expert), active = all - expert;

	if (c->experts > 0)
		active += expert * c->topk / c->experts;
	return 6 * c->gbs * c->seq * (c->layers * active + c->hidden * c->vocab + c->layers * c->seq * c->heads * c->head_dim);
}

/* Stages of about equal FLOPs, head included. */
static void balance(const struct mt_case *c, double layers[MT_FORECAST_STAGES])
{
	double expert, all = mt_case_layer_parameters(c, &expert), active = all - expert, head;

	if (c->experts > 0)
		active += expert * c->topk / c->experts;
	head = c->hidden * c->vocab / (active + c->seq * c->heads * c->head_dim);
	layers[2] = floor((c->layers + head) / c->pp - head + 0.5);
	layers[2] = layers[2] > 0 ? layers[2] : 0;
	layers[0] = layers[1] = ceil((c->layers - layers[2]) / (c->pp - 1));
}

void mt_case_layers(const struct mt_case *c, double layers[MT_FORECAST_STAGES])
{
	double each = c->layers / c->pp;
	bool ends_count = each != floor(each) && fmod(c->layers + 2, c->pp) == 0;

	for (int i = 0; i < MT_FORECAST_STAGES; i++)
		layers[i] = ends_count                      ? (c->layers + 2) / c->pp - (i != 1)
			    : each == floor(each) || i == 1 ? ceil(each)
							    : floor(each);
	if (c->pp == 1)
		layers[0] = layers[1] = layers[2] = c->layers;
	else if (c->balanced_stages)
		balance(c, layers);
}

struct exchange {
	double scatter_s, gather_s; /* of all parameters of a rank, once */
};

double mt_forecast_collective(const struct mt_target *t, const struct mt_factors *f, enum mt_collective op, struct mt_span span,
			      double bytes)
{
	double link_s, nic_s;

	mt_target_collective(t, op, span, bytes, &link_s, &nic_s);
	return f->of[MT_FACTOR_LINK] * link_s + f->of[MT_FACTOR_NIC] * nic_s;
}

/* Among data-parallel ranks. Groups that lie apart in the node (tp > 1) and have several ranks on it: a ring enters at one rank and
 * leaves at another, which share no card; an old library does not pass data on to the accelerator beside the card, so that one
 * of the two goes over the host's bridges (megatron-deepspeed.yaml). */
static double data_collective(const struct mt_case *c, const struct mt_target *t, const struct mt_stack *s,
			      const struct mt_factors *f, enum mt_collective op, struct mt_span span, double bytes)
{
	struct mt_target shared = *t;

	if (c->tp > 1 && span.local > 1 && span.ranks > span.local)
		shared.nic_frac *= s->strided_nic_frac;
	return mt_forecast_collective(&shared, f, op, span, bytes);
}

static struct exchange exchange_of(const struct mt_case *c, const struct mt_target *t, const struct mt_stack *s,
				   const struct mt_factors *f, double dense, double expert)
{
	struct mt_span wide = mt_target_span(t, c->dp * c->cp, c->tp),
		       narrow = mt_target_span(t, c->dp * c->cp / c->ep, c->tp * c->ep);
	struct exchange e = {0};

	if (c->zero == 0) {
		e.scatter_s = data_collective(c, t, s, f, MT_ALL_REDUCE, wide, s->grad_bytes * dense) +
			      data_collective(c, t, s, f, MT_ALL_REDUCE, narrow, s->grad_bytes * expert);
		return e;
	}
	e.scatter_s = data_collective(c, t, s, f, MT_REDUCE_SCATTER, wide, s->grad_bytes * dense) +
		      data_collective(c, t, s, f, MT_REDUCE_SCATTER, narrow, s->grad_bytes * expert);
	double bytes = c->zero == 3 && c->width != MT_WIDTH_16 && s->gathers_narrow ? 1 : 2;
	e.gather_s = data_collective(c, t, s, f, MT_ALL_GATHER, wide, bytes * dense) +
		     data_collective(c, t, s, f, MT_ALL_GATHER, narrow, bytes * expert);
	return e;
}

/* What of `comm_s` is left when it runs beside `work_s`, and what it costs there. */
static double open_s(const struct mt_factors *f, double comm_s, double work_s, double interference)
{
	double hidden = comm_s < work_s ? comm_s : work_s;

	return f->of[MT_FACTOR_EXPOSED] * (comm_s - hidden + interference * hidden);
}

/* The same of layers that are gathered and scattered one beside the other: a late one holds up the next, both want memory and
 * multiprocessors, so that the corner is round. */
static double open_sharded_s(const struct mt_factors *f, double comm_s, double work_s, double hide_frac)
{
	double beside_s = hide_frac * comm_s;

	return f->of[MT_FACTOR_EXPOSED] * (comm_s - beside_s + sqrt(work_s * work_s + beside_s * beside_s) - work_s);
}

/* Parameters of a rank on the stage that has most of them. */
static void parameters_of(const struct mt_case *c, double layers, double words, double *dense, double *expert)
{
	double all = mt_case_layer_parameters(c, expert);

	*dense = (layers * (all - *expert) + words * c->vocab * c->hidden) / c->tp;
	*expert = layers * *expert / (c->ep * c->tp);
}

static double messages_s(struct mt_forecast *out, const struct mt_case *c, const struct mt_target *t, const struct mt_stack *s,
			 const struct mt_factors *f)
{
	double bytes = 2 * c->mbs * c->seq / c->cp * c->hidden / (c->sp || s->scatter_gather ? c->tp : 1), one_s;
	bool crosses;

	if (c->pp <= 1)
		return 0;
	one_s = f->of[MT_FACTOR_PIPE] * mt_target_message_s(t, bytes, c->tp * c->cp * c->dp, &crosses);
	return 2 * one_s * (out->microbatches * c->vp * (1 - s->p2p_overlap_frac) + c->pp - 1) +
	       2 * f->of[MT_FACTOR_PIPE] * s->message_us * 1e-6 * out->microbatches * c->vp;
}

static void data_s(struct mt_forecast *out, const struct mt_case *c, const struct mt_target *t, const struct mt_stack *s,
		   const struct mt_factors *f, double forward_s, double backward_s, double layers)
{
	double dense, expert, calls;
	struct exchange e;

	parameters_of(c, layers, c->pp > 1 ? 1 : 2, &dense, &expert);
	if (c->dp * c->cp > 1) {
		if (c->zero == 3) { /* layer by layer: the starts of `layers` collectives add up */
			double hide = s->sharded_overlap_frac, m = out->microbatches;

			calls = layers + 1;
			e = exchange_of(c, t, s, f, dense / calls, expert / calls);
			out->dp_s = m * (open_sharded_s(f, calls * e.gather_s, forward_s, hide) +
					 open_sharded_s(f, calls * (e.gather_s + e.scatter_s), backward_s, hide));
		} else {
			e = exchange_of(c, t, s, f, dense, expert);
			out->dp_s = open_s(f, e.scatter_s, s->dp_overlap_frac * backward_s, INTERFERENCE) +
				    open_s(f, e.gather_s, s->dp_overlap_frac * forward_s, INTERFERENCE);
		}
	}
	double shards = c->zero > 0 ? c->dp * c->cp : 1;

	out->optimizer_s =
		f->of[MT_FACTOR_STEP] * f->of[MT_FACTOR_MEMORY] *
		mt_target_vector_s(t, s->optimizer_bytes * (dense / shards + expert / (shards > 1 ? shards / c->ep : 1)));
}

void mt_forecast_compose(struct mt_forecast *out, const struct mt_case *c, const struct mt_target *t, const struct mt_stack *s,
			 const struct mt_factors *f, const struct mt_pass_forecast *layer, const struct mt_pass_forecast *embedding,
			 const struct mt_pass_forecast *head)
{
	double layers[MT_FORECAST_STAGES], forward[MT_FORECAST_STAGES], backward[MT_FORECAST_STAGES], pace = 0, others, jitter, m,
												      comm;
	double host = f->of[MT_FACTOR_HOST] * s->microbatch_us * 1e-6;
	int slowest = 0;

	memset(out, 0, sizeof *out);
	m = out->microbatches = ceil(c->gbs / (c->dp * c->mbs) - 1e-9);
	mt_case_layers(c, layers);
	for (int i = 0; i < MT_FORECAST_STAGES; i++) {
		bool first = i == 0 || c->pp == 1, last = i == 2 || c->pp == 1;

		forward[i] = layers[i] * layer->forward_s + first * embedding->forward_s + last * head->forward_s;
		backward[i] = layers[i] * layer->backward_s + first * embedding->backward_s + last * (head->backward_s + host);
		if (forward[i] + backward[i] > pace && (i != 1 || c->pp > 2)) {
			pace = forward[i] + backward[i];
			slowest = i;
		}
	}
	others = forward[0] + backward[0] + forward[2] + backward[2] + (c->pp - 2) * (forward[1] + backward[1]) - pace;
	others = c->pp > 1 ? others / c->vp : 0;
	jitter = f->of[MT_FACTOR_JITTER] * s->jitter_frac * log(c->tp * c->pp * c->cp * c->dp);
	out->bubble_s = others * (1 + jitter);
	out->tp_s = m * layers[slowest] * layer->tp_s;
	out->ep_s = m * layers[slowest] * layer->ep_s;
	out->cp_s = m * layers[slowest] * layer->cp_s;
	out->host_s = m * (layers[slowest] * layer->host_s + (slowest == 2 || c->pp == 1 ? host : 0));
	comm = out->tp_s + out->ep_s + out->cp_s + out->host_s;
	out->compute_s = m * pace - comm;
	out->pp_s = messages_s(out, c, t, s, f);
	data_s(out, c, t, s, f, forward[slowest], backward[slowest], layers[slowest]);
	out->other_s = f->of[MT_FACTOR_STEP] * s->step_us * 1e-6 + jitter * m * pace;
	out->step_s = m * pace + out->bubble_s + out->pp_s + out->dp_s + out->optimizer_s + out->other_s;
	out->model_flops = mt_case_model_flops(c);
	mt_forecast_memory(out, c, s);
}

void mt_forecast_step(struct mt_forecast *out, const struct mt_case *c, const struct mt_target *t, const struct mt_stack *s,
		      const struct mt_factors *f)
{
	struct mt_pass_forecast layer, embedding, head;

	mt_forecast_layer(&layer, c, t, s, f);
	mt_forecast_ends(&embedding, &head, c, t, s, f);
	mt_forecast_compose(out, c, t, s, f, &layer, &embedding, &head);
}
