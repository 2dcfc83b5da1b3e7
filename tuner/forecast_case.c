/* forecast_case: what a case is made of: weights, FLOPs, stages. */
#include "tuner/forecast.h"

#include <math.h>
#include <string.h>

/* Ways down to latent states are whole on every tensor-parallel rank, and so is the join of a module (engine/latent.h, mtp.h). */
static struct mt_case_weights attention_weights(const struct mt_case *c)
{
	double q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim, v = c->heads * mt_case_v_dim(c);

	if (c->kv_rank <= 0)
		return (struct mt_case_weights){.split = c->hidden * (q + 2 * kv) + q * c->hidden};
	return (struct mt_case_weights){
		.split = c->kv_rank * (c->heads * (c->head_dim - c->rope_dim) + v) + v * c->hidden +
			 (c->q_rank > 0 ? c->q_rank : c->hidden) * q,
		.whole = c->hidden * (c->kv_rank + c->rope_dim + c->q_rank),
	};
}

struct mt_case_weights mt_case_layer_weights(const struct mt_case *c, bool dense)
{
	struct mt_case_weights w = attention_weights(c);
	double matrices = c->gated ? 3 : 2;

	if (c->experts > 0 && !dense) {
		w.split += matrices * c->hidden * c->shared_ffn + c->hidden * c->experts;
		w.expert = c->experts * matrices * c->hidden * c->ffn;
	} else {
		w.split += matrices * c->hidden * (c->experts > 0 ? c->dense_ffn : c->ffn);
	}
	return w;
}

double mt_case_inner_width(const struct mt_case *c, bool dense)
{
	if (c->experts > 0)
		return dense ? c->dense_ffn : c->topk * c->ffn + c->shared_ffn;
	return c->ffn;
}

double mt_case_expert_replicas(const struct mt_case *c)
{
	return c->tp * c->cp * c->dp / (mt_case_etp(c) * c->ep);
}

double mt_case_shards(const struct mt_case *c, double replicas)
{
	double a = c->zero_group, b = replicas;

	if (c->zero == 0)
		return 1;
	if (a <= 0)
		return replicas;
	while (b > 0) { /* their greatest common divisor */
		double rest = fmod(a, b);

		a = b;
		b = rest;
	}
	return a;
}

double mt_case_cp_inner(const struct mt_case *c)
{
	return c->cp_kind == MT_CONTEXT_ULYSSES ? c->cp : c->cp_kind == MT_CONTEXT_HYBRID ? c->cp_inner : 1;
}

/* Of the layers before `layer`. */
static double dense_before(const struct mt_case *c, double layer)
{
	double after = layer - c->dense_layers;

	if (c->experts <= 0 || after <= 0)
		return c->experts > 0 ? layer : 0;
	return c->dense_layers + (c->expert_every > 1 ? after - ceil(after / c->expert_every) : 0);
}

double mt_case_dense(const struct mt_case *c)
{
	return dense_before(c, c->layers);
}

double mt_case_stage_weights(const struct mt_case *c, const struct mt_case_stage *stage, double *expert)
{
	struct mt_case_weights layer = mt_case_layer_weights(c, false), dense = mt_case_layer_weights(c, true);
	double usual = stage->layers - stage->dense + stage->modules;

	*expert = usual * layer.expert / (c->ep * mt_case_etp(c));
	return (usual * layer.split + stage->dense * dense.split + stage->words * c->vocab * c->hidden) / c->tp +
	       usual * layer.whole + stage->dense * dense.whole + stage->modules * 2 * c->hidden * c->hidden + *expert;
}

double mt_case_parameters(const struct mt_case *c)
{
	struct mt_case_stage all = {.layers = c->layers, .dense = mt_case_dense(c), .modules = c->mtp, .words = 2};
	struct mt_case one = *c;
	double expert;

	one.tp = one.ep = one.etp = 1;
	return mt_case_stage_weights(&one, &all, &expert);
}

/* Weights that a token meets in a layer. */
static double met(const struct mt_case *c, bool dense)
{
	struct mt_case_weights w = mt_case_layer_weights(c, dense);

	return w.split + w.whole + (c->experts > 0 ? w.expert * c->topk / c->experts : 0);
}

/* FLOPs of attention a token, layer and pass, as weights: keys that a query sees on average, for scores and for values. */
static double attention_flops(const struct mt_case *c, double window)
{
	double pairs = window > 0 && window < c->seq ? window - window * window / (2 * c->seq) : c->seq / 2;

	return pairs * c->heads * (c->head_dim + mt_case_v_dim(c));
}

double mt_case_model_flops(const struct mt_case *c)
{
	double layers = c->layers + c->mtp, windowed = c->windowed_frac * c->layers, dense = mt_case_dense(c);
	double weights = (layers - dense) * met(c, false) + dense * met(c, true) + c->mtp * 2 * c->hidden * c->hidden +
			 (1 + c->mtp) * c->hidden * c->vocab;

	return 6 * c->gbs * c->seq *
	       (weights + (layers - windowed) * attention_flops(c, 0) + windowed * attention_flops(c, c->window));
}

/* Stages of about equal FLOPs, head included. */
static void balance(const struct mt_case *c, double layers[MT_FORECAST_STAGES])
{
	double layer = met(c, false) + attention_flops(c, 0);
	double head = ((1 + c->mtp) * c->hidden * c->vocab + c->mtp * layer) / layer;

	layers[2] = floor((c->layers + head) / c->pp - head + 0.5);
	layers[2] = layers[2] > 0 ? layers[2] : 0;
	layers[0] = layers[1] = ceil((c->layers - layers[2]) / (c->pp - 1));
}

static void divide(const struct mt_case *c, double layers[MT_FORECAST_STAGES])
{
	double each = c->layers / c->pp;
	bool ends_count = each != floor(each) && fmod(c->layers + 2, c->pp) == 0;

	for (int i = 0; i < MT_FORECAST_STAGES; i++)
		layers[i] = ends_count                      ? (c->layers + 2) / c->pp - (i != 1)
			    : each == floor(each) || i == 1 ? ceil(each)
							    : floor(each);
	if (c->pp == 1) {
		layers[0] = layers[1] = layers[2] = c->layers;
	} else if (c->ends_given) {
		layers[1] = (c->layers + c->first_less + c->last_less) / c->pp;
		layers[0] = layers[1] - c->first_less;
		layers[2] = layers[1] - c->last_less;
		if (c->vee) {
			layers[0] -= c->last_less;
			layers[2] = layers[1];
		}
	} else if (c->balanced_stages) {
		balance(c, layers);
	}
}

/* Layers without experts on a stage where every so many layers have some: those of each of its chunks. Stages that the software
 * cuts by itself have the mean. */
static double dense_of_stage(const struct mt_case *c, double stage, double layers)
{
	double chunk = (c->layers + c->first_less + c->last_less) / (c->pp * c->vp), sum = 0;

	if (!c->ends_given)
		return layers * mt_case_dense(c) / c->layers;
	for (int chunk_index = 0; chunk_index < (int)c->vp; chunk_index++) {
		double v = c->vee && chunk_index == 1 ? 2 * c->pp - 1 - stage : stage + chunk_index * c->pp;
		double begin = v > 0 ? v * chunk - c->first_less : 0, end = (v + 1) * chunk - c->first_less;

		sum += dense_before(c, fmin(end, c->layers)) - dense_before(c, begin);
	}
	return sum;
}

/* Of the stages between the ends that with fewest. */
static double least_dense(const struct mt_case *c, double layers)
{
	double least = layers;

	for (int stage = 1; stage < (int)c->pp - 1; stage++)
		least = fmin(least, dense_of_stage(c, stage, layers));
	return least;
}

static void spread_dense(const struct mt_case *c, struct mt_case_stage stages[MT_FORECAST_STAGES])
{
	stages[0].dense = dense_of_stage(c, 0, stages[0].layers);
	stages[1].dense = least_dense(c, stages[1].layers);
	stages[2].dense = dense_of_stage(c, c->pp - 1, stages[2].layers);
}

void mt_case_stages(const struct mt_case *c, struct mt_case_stage stages[MT_FORECAST_STAGES])
{
	double layers[MT_FORECAST_STAGES];

	divide(c, layers);
	for (int i = 0; i < MT_FORECAST_STAGES; i++) {
		struct mt_case_stage *s = &stages[i];

		s->layers = layers[i];
		s->first = i == 0 || c->pp == 1;
		s->last = c->vee ? i == 0 : i == 2 || c->pp == 1;
		s->dense = s->first ? fmin(c->dense_layers, c->vee ? layers[1] / 2 - c->first_less : layers[i]) : 0;
		s->modules = s->last ? c->mtp : 0;
		/* a module embeds tokens too */
		s->words = s->first + s->last + (c->mtp > 0 && s->last && !s->first);
	}
	if (c->expert_every > 1 && c->pp > 1)
		spread_dense(c, stages);
	else if (c->expert_every > 1)
		stages[0].dense = stages[1].dense = stages[2].dense = mt_case_dense(c);
}
