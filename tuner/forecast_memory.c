/* forecast_memory: bytes of a rank on the first, a middle and the last stage.
 *
 * State: 2 bytes of 16-bit weights, 4 of gradients, 12 of master weights and moments, sharded as ZeRO says.
 * Activations a layer (Korthikanti et al. 2022, arXiv:2205.05198, eq. 1 to 6, for any widths): per token
 *     8 h + 2 h (dropout masks)                      whole, or over tp with sequence parallelism
 *     2 (q + 2 kv) + 2 q + 2 ffn (2 or 3 matrices)   over tp
 *     5 heads seq                                    over tp, where scores are kept: attention not fused, not done again
 * full recompute keeps 2 h and one layer's work. The first stage of 1F1B has pp micro-batches in flight, interleaved
 * pp (1 + (pp-1)/(pp vp)). */
#include "tuner/forecast.h"

#include <string.h>

static double layer_bytes(const struct mt_case *c, bool whole)
{
	double q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim, routed = c->experts > 0 ? c->topk : 1;
	double tokens = c->mbs * c->seq / c->cp, spread = c->sp ? c->tp : 1;
	double unsharded = (8 + (c->dropout ? 2 : 0)) * c->hidden + (c->experts > 0 ? 4 * c->topk * c->hidden : 0);
	double sharded = 2 * (q + 2 * kv) + 2 * q + 2 * (routed * c->ffn + c->shared_ffn) * (c->gated ? 3 : 2);

	if (!whole && c->recompute == MT_CASE_FULL)
		return tokens * 2 * c->hidden / spread;
	if (!c->fused_attention && (whole || c->recompute == MT_CASE_NONE))
		sharded += 5 * c->heads * c->seq;
	return tokens * (unsharded / spread + sharded / c->tp);
}

static void stage(struct mt_memory_forecast *m, const struct mt_case *c, const struct mt_stack *s, int index, double layers,
		  double microbatches)
{
	double expert, dense = mt_case_layer_parameters(c, &expert), shards = c->dp * c->cp, tokens = c->mbs * c->seq / c->cp;
	double words = (index == 0 || c->pp == 1) + (index == 2 || c->pp == 1), flights, own, own_expert;
	bool last = index == 2 || c->pp == 1;

	own = (layers * (dense - expert) + words * c->vocab * c->hidden) / c->tp;
	own_expert = layers * expert / (c->ep * c->tp);
	m->parameters = 2 * (own + own_expert);
	m->gradients = 4 * (own + own_expert);
	m->optimizer = 12 * (own + own_expert);
	if (c->zero >= 1)
		m->optimizer = 12 * (own / shards + own_expert / (shards / c->ep));
	if (c->zero >= 2)
		m->gradients /= shards;
	if (c->zero == 3)
		m->parameters = m->parameters / shards + 2 * 2 * (own + own_expert) / (layers > 1 ? layers : 1);
	flights = index == 0 ? c->pp : index == 1 ? (c->pp + 1) / 2 : 1;
	if (c->vp > 1 && c->pp > 1)
		flights += (c->pp - 1) / c->vp;
	flights = flights < microbatches ? flights : microbatches;
	m->activations = flights * layers * layer_bytes(c, false);
	if (c->recompute == MT_CASE_FULL)
		m->activations += layer_bytes(c, true);
	if (last) /* logits in 16 bits, their gradient and the loss in 32 */
		m->activations += tokens * c->vocab / c->tp * 8;
	m->overhead = s->context_gib * 1073741824 + s->fragmentation_frac * (m->activations + m->gradients);
	m->total = m->parameters + m->gradients + m->optimizer + m->activations + m->overhead;
}

void mt_forecast_memory(struct mt_forecast *out, const struct mt_case *c, const struct mt_stack *s)
{
	double layers[MT_FORECAST_STAGES];

	mt_case_layers(c, layers);
	out->peak_bytes = 0;
	for (int i = 0; i < MT_FORECAST_STAGES; i++) {
		stage(&out->memory[i], c, s, i, layers[i], out->microbatches);
		if (out->memory[i].total > out->peak_bytes && (i != 1 || c->pp > 2))
			out->peak_bytes = out->memory[i].total;
	}
}
