/* forecast: cards to a step.
 *
 *   stage      F = layers * forward + ends and modules, B likewise; the slowest stage sets the pace
 *   pipeline   m * pace + sum over the other stages of (F + B) / vp, plus messages: what the schedule's replay gives for equal
 *              stages (tests/test_tuner_forecast.c replays it). Zero bubble (ZB-H1), B without and W of weight gradients:
 *              max(F, F + B - W) in place of F + B, of the replay too; in a V (ZB-V) the waits of the replay (vee.h)
 *   data       ZeRO-0 all-reduce, ZeRO-1/2 scatter and gather, once, beside the last backward and first forward pass; ZeRO-3
 *              gathers each layer twice and scatters once a micro-batch, beside that layer. Where fewer ranks shard than hold
 *              the same parameters, copies are summed across them: with ZeRO-3 at the end of the step, beside nothing
 *   ranks      the slowest of n: time * (1 + jitter ln n)
 *   order      tp-cp-ep-dp-pp: the replicas of a stage lie together, stages far apart; tp-cp-ep-pp-dp the other way round
 *
 * What runs beside communication is slowed by a part of it: both want memory and multiprocessors. */
#include "tuner/forecast.h"

#include <math.h>
#include <string.h>

#define INTERFERENCE 0.08 /* of hidden communication that compute pays back */

struct exchange {
	double scatter_s, gather_s; /* of all parameters of a rank, once, among those that share out a copy */
	double across_s;            /* the sum over copies */
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

/* Of the ranks that hold the same parameters, `block` of them `stride` apart before the next dp, every `step`th. */
static struct mt_span replica_span(const struct mt_case *c, const struct mt_target *t, double ranks, double step, double block,
				   double stride)
{
	if (c->pp_before_dp)
		return mt_target_span_blocks(t, ranks, step, block, stride, c->tp * c->cp * c->pp);
	return mt_target_span(t, ranks, stride * step);
}

static struct exchange exchange_of(const struct mt_case *c, const struct mt_target *t, const struct mt_stack *s,
				   const struct mt_factors *f, double dense, double expert)
{
	const struct {
		double replicas, block, stride, elements;
	} kinds[] = {{c->dp * c->cp, c->cp, c->tp, dense}, {mt_case_expert_replicas(c), 1, mt_case_etp(c) * c->ep, expert}};
	double bytes = c->zero == 3 && c->width != MT_WIDTH_16 && s->gathers_narrow ? 1 : 2;
	struct exchange e = {0};

	for (int i = 0; i < 2; i++) {
		double n = kinds[i].replicas, shards = mt_case_shards(c, n), elements = kinds[i].elements;
		double block = kinds[i].block, stride = kinds[i].stride;
		struct mt_span within = replica_span(c, t, shards, 1, block, stride);

		if (elements <= 0)
			continue;
		if (shards > 1) {
			e.scatter_s += data_collective(c, t, s, f, MT_REDUCE_SCATTER, within, s->grad_bytes * elements);
			e.gather_s += data_collective(c, t, s, f, MT_ALL_GATHER, within, bytes * elements);
		}
		if (shards < n)
			e.across_s +=
				data_collective(c, t, s, f, MT_ALL_REDUCE, replica_span(c, t, n / shards, shards, block, stride),
						s->grad_bytes * elements / shards);
	}
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

	return f->of[MT_FACTOR_EXPOSED] *
	       (comm_s - beside_s + cbrt(work_s * work_s * work_s + beside_s * beside_s * beside_s) - work_s);
}

/* How far the next stage is. Where pipelines do not fill nodes evenly some stages have the next one on another node: the slow
 * messages set the pace. */
static double stage_distance(const struct mt_case *c, const struct mt_target *t)
{
	double stage = c->tp * c->cp, domain = (double)t->domain_gpus;

	if (!c->pp_before_dp)
		return stage * c->dp;
	return fmod(domain, stage * c->pp) == 0 ? stage : fmax(stage, domain);
}

static double messages_s(struct mt_forecast *out, const struct mt_case *c, const struct mt_target *t, const struct mt_stack *s,
			 const struct mt_factors *f)
{
	double bytes = 2 * c->mbs * c->seq / c->cp * c->hidden / (c->sp || s->scatter_gather ? c->tp : 1), one_s;
	bool crosses;

	if (c->pp <= 1)
		return 0;
	one_s = f->of[MT_FACTOR_PIPE] * mt_target_message_s(t, bytes, stage_distance(c, t), &crosses);
	return 2 * one_s * (out->microbatches * c->vp * (1 - s->p2p_overlap_frac) + c->pp - 1) +
	       2 * f->of[MT_FACTOR_PIPE] * s->message_us * 1e-6 * out->microbatches * c->vp;
}

static void data_s(struct mt_forecast *out, const struct mt_case *c, const struct mt_target *t, const struct mt_stack *s,
		   const struct mt_factors *f, double forward_s, double backward_s, struct mt_case_stage stage)
{
	double dense, expert, calls;
	struct exchange e;

	stage.words = stage.words > 1 ? stage.words : 1; /* a stage of layers alone: as its ends */
	dense = mt_case_stage_weights(c, &stage, &expert);
	dense -= expert;
	if (c->dp * c->cp > 1) {
		if (c->zero == 3) { /* layer by layer: the starts of `layers` collectives add up */
			double hide = s->sharded_overlap_frac, m = out->microbatches;

			calls = stage.layers + stage.modules + 1;
			e = exchange_of(c, t, s, f, dense / calls, expert / calls);
			out->dp_s = m * (open_sharded_s(f, calls * e.gather_s, forward_s, hide) +
					 open_sharded_s(f, calls * (e.gather_s + e.scatter_s), backward_s, hide)) +
				    open_s(f, calls * e.across_s, 0, 0);
		} else {
			e = exchange_of(c, t, s, f, dense, expert);
			out->dp_s = open_s(f, e.scatter_s + e.across_s, s->dp_overlap_frac * backward_s, INTERFERENCE) +
				    open_s(f, e.gather_s, s->dp_overlap_frac * forward_s, INTERFERENCE);
		}
	}
	out->optimizer_s = f->of[MT_FACTOR_STEP] * f->of[MT_FACTOR_MEMORY] *
			   mt_target_vector_s(t, s->optimizer_bytes * (dense / mt_case_shards(c, c->dp * c->cp) +
								       expert / mt_case_shards(c, mt_case_expert_replicas(c))));
}

static void add(struct mt_pass_forecast *sum, const struct mt_pass_forecast *card, double times)
{
	sum->forward_s += times * card->forward_s;
	sum->backward_s += times * card->backward_s;
	sum->wgrad_s += times * card->wgrad_s;
	sum->tp_s += times * card->tp_s;
	sum->ep_s += times * card->ep_s;
	sum->cp_s += times * card->cp_s;
	sum->host_s += times * card->host_s;
}

/* A stage's passes of one micro-batch; `host_s`: what the host takes for one. */
static void sum_stage(struct mt_pass_forecast *sum, const struct mt_case_stage *stage, const struct mt_forecast_cards *cards,
		      double host_s)
{
	const struct mt_pass_forecast host = {.backward_s = host_s, .host_s = host_s};

	memset(sum, 0, sizeof *sum);
	add(sum, &cards->layer, stage->layers - stage->dense);
	if (stage->dense != 0)
		add(sum, &cards->dense, stage->dense);
	if (stage->modules > 0)
		add(sum, &cards->module, stage->modules);
	if (stage->first)
		add(sum, &cards->embedding, 1);
	if (stage->last) {
		add(sum, &cards->head, 1);
		add(sum, &host, 1);
	}
}

/* What the first micro-batch's way through a stage adds to the step of a slower one. */
static double way_s(const struct mt_case *c, const struct mt_pass_forecast *p)
{
	double whole_s = p->forward_s + p->backward_s, left_s = whole_s - 2 * p->wgrad_s;

	if (!c->zero_bubble)
		return whole_s;
	return left_s > p->forward_s ? left_s : p->forward_s;
}

/* Of all stages but the slowest; layers without experts that the first has no room for make others of them faster. */
static double others_s(const struct mt_case *c, const struct mt_case_stage stages[MT_FORECAST_STAGES],
		       const struct mt_pass_forecast sums[MT_FORECAST_STAGES], int slowest, const struct mt_forecast_cards *cards)
{
	struct mt_case_stage spilled = {
		.layers = 0, .dense = mt_case_dense(c) - stages[0].dense - stages[2].dense - (c->pp - 2) * stages[1].dense};
	struct mt_pass_forecast less;
	double sum_s;

	if (c->pp <= 1 || c->vee)
		return 0;
	sum_s = way_s(c, &sums[0]) + way_s(c, &sums[2]) + (c->pp - 2) * way_s(c, &sums[1]) - way_s(c, &sums[slowest]);
	if (spilled.dense > 0 && c->pp > 2) {
		sum_stage(&less, &spilled, cards, 0);
		sum_s += way_s(c, &less);
	}
	return sum_s / c->vp;
}

static double jitter_of(const struct mt_case *c, const struct mt_stack *s, const struct mt_factors *f)
{
	return f->of[MT_FACTOR_JITTER] * s->jitter_frac * log(c->tp * c->pp * c->cp * c->dp);
}

void mt_forecast_passes(struct mt_forecast *out, const struct mt_case *c, const struct mt_target *t, const struct mt_stack *s,
			const struct mt_factors *f, const struct mt_forecast_cards *cards)
{
	struct mt_case_stage stages[MT_FORECAST_STAGES];
	struct mt_pass_forecast sums[MT_FORECAST_STAGES];
	double pace = 0, jitter, m, host_s = f->of[MT_FACTOR_HOST] * s->microbatch_us * 1e-6;
	int slowest = 0;

	memset(out, 0, sizeof *out);
	m = out->microbatches = ceil(c->gbs / (c->dp * c->mbs) - 1e-9);
	mt_case_stages(c, stages);
	for (int i = 0; i < MT_FORECAST_STAGES; i++) {
		sum_stage(&sums[i], &stages[i], cards, host_s);
		if (sums[i].forward_s + sums[i].backward_s > pace && (i != 1 || c->pp > 2)) {
			pace = sums[i].forward_s + sums[i].backward_s;
			slowest = i;
		}
	}
	jitter = jitter_of(c, s, f);
	out->bubble_s = others_s(c, stages, sums, slowest, cards) * (1 + jitter);
	out->tp_s = m * sums[slowest].tp_s;
	out->ep_s = m * sums[slowest].ep_s;
	out->cp_s = m * sums[slowest].cp_s;
	out->host_s = m * sums[slowest].host_s;
	out->compute_s = m * pace - (out->tp_s + out->ep_s + out->cp_s + out->host_s);
	out->pp_s = messages_s(out, c, t, s, f);
	data_s(out, c, t, s, f, sums[slowest].forward_s, sums[slowest].backward_s, stages[slowest]);
	out->other_s = f->of[MT_FACTOR_STEP] * (s->step_us + (c->zero > 0 ? c->dp * c->cp : 0) * s->broadcast_us) * 1e-6 +
		       jitter * m * pace;
	out->step_s = m * pace + out->bubble_s + out->pp_s + out->dp_s + out->optimizer_s + out->other_s;
	out->model_flops = mt_case_model_flops(c);
	mt_forecast_memory(out, c, s);
}

/* What the first stage of a V waits, beyond what it has more to do than the others. */
static void add_waits(struct mt_forecast *out, const struct mt_case *c, const struct mt_stack *s, const struct mt_factors *f,
		      const struct mt_forecast_cards *cards)
{
	double host_s = f->of[MT_FACTOR_HOST] * s->microbatch_us * 1e-6, first_s, other_s, wait_s;
	struct mt_case_stage stages[MT_FORECAST_STAGES];
	struct mt_pass_forecast first, other;

	mt_case_stages(c, stages);
	sum_stage(&first, &stages[0], cards, host_s);
	sum_stage(&other, &stages[2], cards, host_s);
	first_s = first.forward_s + first.backward_s;
	other_s = other.forward_s + other.backward_s;
	const struct mt_vee_passes passes = {.forward_s = other.forward_s,
					     .inputs_s = other.backward_s - other.wgrad_s,
					     .weights_s = other.wgrad_s,
					     .more = first_s > other_s ? first_s / other_s - 1 : 0};
	wait_s = mt_vee_wait_s(c->waits, (int)c->pp, (int64_t)out->microbatches, &passes) * (1 + jitter_of(c, s, f));
	out->bubble_s += wait_s;
	out->step_s += wait_s;
}

void mt_forecast_compose(struct mt_forecast *out, const struct mt_case *c, const struct mt_target *t, const struct mt_stack *s,
			 const struct mt_factors *f, const struct mt_forecast_cards *cards)
{
	mt_forecast_passes(out, c, t, s, f, cards);
	if (c->vee && c->pp > 1)
		add_waits(out, c, s, f, cards);
}

void mt_forecast_step(struct mt_forecast *out, const struct mt_case *c, const struct mt_target *t, const struct mt_stack *s,
		      const struct mt_factors *f)
{
	struct mt_forecast_cards cards;

	mt_forecast_cards(&cards, c, t, s, f);
	mt_forecast_compose(out, c, t, s, f, &cards);
}
