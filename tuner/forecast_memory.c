/* forecast_memory: bytes of a rank on the first, a middle and the last stage.
 *
 * State: 2 bytes of 16-bit weights, 4 of gradients, 12 of master weights and moments, sharded as ZeRO says.
 * Activations a layer (Korthikanti et al. 2022, arXiv:2205.05198, eq. 1 to 6, for any widths): per token
 *     8 h + 2 h (dropout masks)                      whole, or over tp with sequence parallelism
 *     2 (q + k + v) + 2 o + 2 ffn (2 or 3 matrices)  over tp; o as wide as the heads of values
 *     latent states, before and after their norms    as the first row
 *     5 heads seq                                    over tp, where scores are kept: attention not fused, not done again
 * selective recompute keeps less by 4 h (norms), 2 ffn (activation), the scores, and where the software frees it 2 o (attention);
 * full recompute keeps 2 h and one layer's work. The first stage of 1F1B has pp micro-batches in flight, interleaved
 * pp (1 + (pp-1)/(pp vp)), and with zero bubble (ZB-H1, ZB-V) every stage has pp, whose weight gradients are due. */
#include "tuner/forecast.h"

#include <string.h>

static double layer_bytes(const struct mt_case *c, const struct mt_stack *s, bool whole, bool dense)
{
	double q = c->heads * c->head_dim, k = c->kv_heads * c->head_dim, o = c->heads * mt_case_v_dim(c),
	       v = c->kv_rank > 0 ? o : k;
	double tokens = c->mbs * c->seq / c->cp, spread = c->sp ? c->tp : 1, width = mt_case_inner_width(c, dense), unsharded,
	       sharded;
	int selected = !whole && c->recompute == MT_CASE_SELECTIVE ? c->selected : 0;

	unsharded = (8 + (c->dropout ? 2 : 0)) * c->hidden;
	if (c->kv_rank > 0)
		unsharded += 4 * (c->q_rank + c->kv_rank) + 2 * c->rope_dim;
	if (c->experts > 0 && !dense)
		unsharded += 4 * c->topk * c->hidden;
	sharded = 2 * (q + k + v) + 2 * o + 2 * width * (c->gated ? 3 : 2);
	if (!whole && c->recompute == MT_CASE_FULL)
		return tokens * 2 * c->hidden / spread;
	if (!c->fused_attention && !(selected & MT_CASE_ATTENTION))
		sharded += 5 * c->heads * c->seq;
	if ((selected & MT_CASE_ATTENTION) && s->frees_attention)
		sharded -= 2 * o;
	if (selected & MT_CASE_ACTIVATION)
		sharded -= 2 * width;
	if (selected & MT_CASE_NORMS)
		unsharded -= 4 * c->hidden;
	return tokens * (unsharded / spread + sharded / c->tp);
}

/* A module keeps its two norms and their join beside its layer. */
static double stage_bytes(const struct mt_case *c, const struct mt_stack *s, const struct mt_case_stage *stage)
{
	double bytes = (stage->layers - stage->dense + stage->modules) * layer_bytes(c, s, false, false);

	if (stage->dense > 0)
		bytes += stage->dense * layer_bytes(c, s, false, true);
	if (stage->modules > 0)
		bytes += stage->modules * c->mbs * c->seq / c->cp * 10 * c->hidden / (c->sp ? c->tp : 1);
	return bytes;
}

/* Of the layer at work, beside its own. Context parallelism (docs/context.md): a ring's parts of keys and values, 2 and in the
 * backward pass 3 of gradients; gathered ones and their gradients; queries, keys and values exchanged, twice for a moment. The
 * switch that hides tensor parallelism: its buffers. */
static double work_bytes(const struct mt_case *c, const struct mt_stack *s)
{
	double tokens = c->mbs * c->seq / c->cp, inner = mt_case_cp_inner(c), outer = c->cp / inner;
	double part = 2 * tokens * c->kv_heads * (c->head_dim + mt_case_v_dim(c)) / c->tp, bytes = 0;

	if (c->tp_overlap)
		bytes += s->tp_switch_buffers * 2 * tokens * c->hidden;
	if (inner > 1)
		bytes += 2 * (part + 2 * tokens * c->heads * c->head_dim / c->tp);
	if (outer > 1)
		bytes += (c->cp_kind == MT_CONTEXT_ALL_GATHER ? 2 * outer : 5) * part;
	return bytes;
}

static double flights_of(const struct mt_case *c, int index, double microbatches)
{
	double flights = index == 0 || c->zero_bubble || c->vee ? c->pp : index == 1 ? (c->pp + 1) / 2 : 1;

	if (c->vp > 1 && c->pp > 1 && !c->vee)
		flights += (c->pp - 1) / c->vp;
	return flights < microbatches ? flights : microbatches;
}

static void fill_stage(struct mt_memory_forecast *m, const struct mt_case *c, const struct mt_stack *s,
		       const struct mt_case_stage *stage, double flights)
{
	double shards = mt_case_shards(c, c->dp * c->cp), expert_shards = mt_case_shards(c, mt_case_expert_replicas(c));
	double tokens = c->mbs * c->seq / c->cp, own, own_expert, most = stage->layers + stage->modules;

	own = mt_case_stage_weights(c, stage, &own_expert);
	own -= own_expert;
	m->parameters = 2 * (own + own_expert);
	m->gradients = 4 * (own + own_expert);
	m->optimizer = 12 * (own + own_expert);
	if (c->zero >= 1)
		m->optimizer = 12 * (own / shards + own_expert / expert_shards);
	if (c->zero >= 2)
		m->gradients = 4 * (own / shards + own_expert / expert_shards);
	if (c->zero == 3)
		m->parameters =
			2 * (own / shards + own_expert / expert_shards) + 2 * 2 * (own + own_expert) / (most > 1 ? most : 1);
	m->activations = flights * stage_bytes(c, s, stage) + work_bytes(c, s);
	if (c->recompute == MT_CASE_FULL)
		m->activations += layer_bytes(c, s, true, false);
	if (stage->last) /* logits in 16 bits, their gradient and the loss in 32 */
		m->activations += (1 + stage->modules) * tokens * c->vocab / c->tp * 8;
	m->overhead = s->context_gib * 1073741824 + s->fragmentation_frac * (m->activations + m->gradients);
	m->total = m->parameters + m->gradients + m->optimizer + m->activations + m->overhead;
}

void mt_forecast_memory(struct mt_forecast *out, const struct mt_case *c, const struct mt_stack *s)
{
	struct mt_case_stage stages[MT_FORECAST_STAGES];

	mt_case_stages(c, stages);
	out->peak_bytes = 0;
	for (int i = 0; i < MT_FORECAST_STAGES; i++) {
		fill_stage(&out->memory[i], c, s, &stages[i], flights_of(c, i, out->microbatches));
		if (out->memory[i].total > out->peak_bytes && (i != 1 || c->pp > 2))
			out->peak_bytes = out->memory[i].total;
	}
}
