/* export_megatron_rules: what Megatron-LM (core 0.20) asserts of the arguments that we write. It stops at the first one broken, on
 * the cluster; here all are told before. Rules that our arguments cannot break (they are about options never written) are left out.
 */
#include "engine/layout_rules.h"
#include "tuner/export.h"
#include "tuner/placement.h"

#define RULE(name) static bool name(const struct mt_run *r)

static bool indivisible(int64_t number, int64_t by)
{
	return by > 0 && number % by != 0;
}

RULE(heads)
{
	return indivisible(r->model.heads, r->layout.tp);
}

RULE(kv_heads)
{
	return indivisible(r->model.kv_heads, r->layout.tp) && indivisible(r->layout.tp, r->model.kv_heads);
}

RULE(ffn)
{
	return indivisible(r->model.ffn, r->layout.tp);
}

RULE(sequence_parallel)
{
	return r->layout.sp && r->layout.tp == 1;
}

RULE(sequence_rows)
{
	return r->layout.sp && indivisible(r->layout.seq / r->layout.cp, r->layout.tp);
}

RULE(context)
{
	return r->layout.cp > 1 && indivisible(r->layout.seq, 2 * r->layout.cp);
}

RULE(context_heads)
{
	const struct mt_layout *l = &r->layout;
	int64_t by = l->cp_kind == MT_CONTEXT_ULYSSES ? l->cp : l->cp_kind == MT_CONTEXT_HYBRID ? l->cp_inner : 1;

	return by > 1 && (indivisible(r->model.heads, l->tp * by) || indivisible(r->model.kv_heads, l->tp * by));
}

RULE(virtual_stages)
{
	return r->layout.vp > 1 && r->layout.pp == 1;
}

RULE(virtual_layers)
{
	return mt_megatron_split(r) != MT_MEGATRON_ANY && r->model.layers < r->layout.pp * r->layout.vp;
}

RULE(named_layers)
{
	return mt_layout_rules[MT_RULE_stage_layers_fit].broken(&r->model, &r->layout);
}

/* pp <= N <= m, and m % N is 0 or at least pp; N: micro-batches that a chunk takes in a row */
RULE(virtual_group)
{
	const struct mt_layout *l = &r->layout;
	int64_t m = mt_layout_microbatches(l), n = l->vp_group > 0 ? l->vp_group : l->pp;

	return l->vp > 1 && (n < l->pp || n > m || (m % n != 0 && m % n < l->pp));
}

RULE(batch)
{
	const struct mt_layout *l = &r->layout;

	return l->gbs < l->mbs * l->dp || indivisible(l->gbs, l->mbs * l->dp);
}

RULE(expert_grid)
{
	const struct mt_layout *l = &r->layout;

	return r->model.experts > 0 && indivisible(l->tp * l->cp * l->dp, mt_layout_etp(l) * l->ep);
}

RULE(expert_numbers)
{
	return r->model.experts > 0 && indivisible(r->model.experts, r->layout.ep);
}

RULE(expert_sequence)
{
	return r->layout.ep > 1 && r->layout.tp > 1 && !r->layout.sp;
}

RULE(sharded_pipeline)
{
	return r->layout.zero >= 2 && r->layout.vp > 1;
}

/* "pp last, or one stage, or as many replicas of the experts as of the rest" */
RULE(replicas_in_order)
{
	const struct mt_layout *l = &r->layout;

	return l->pp > 1 && mt_layout_etp(l) * l->ep != l->tp * l->cp && r->train.rank_order &&
	       mt_placement_named(r->train.rank_order, l) == MT_RANKS_PP_DP;
}

RULE(positions)
{
	return r->model.position == MT_MODEL_LEARNED && r->layout.seq > r->model.seq;
}

RULE(learning_rate)
{
	return r->train.min_lr > r->train.lr;
}

RULE(double_precision)
{
	return r->layout.dtype == MT_F64;
}

RULE(narrow_norms)
{
	const struct mt_layout *l = &r->layout;

	return l->fp8 == MT_FP8_DELAYED && l->recompute == MT_RECOMPUTE_SELECTIVE && l->recompute_norm;
}

RULE(narrow_layers)
{
	const struct mt_layout *l = &r->layout;
	int64_t most = r->model.layers / l->pp;

	return l->fp8 == MT_FP8_CURRENT && (l->fp8_skip_first > most || l->fp8_skip_last > most);
}

const struct mt_megatron_rule mt_megatron_rules[] = {
	{7, "attention heads must be a multiple of tp", heads},
	{8, "query groups (kv heads) must be a multiple of tp, or tp of them", kv_heads},
	{0, "the width of the MLP must be a multiple of tp", ffn},
	{11, "sequence parallelism needs tp above 1", sequence_parallel},
	{0, "with sequence parallelism the tokens of a context-parallel rank must be a multiple of tp", sequence_rows},
	{16, "the sequence must be a multiple of 2 cp", context},
	{17, "heads and kv heads must be a multiple of tp times the ranks that exchange heads", context_heads},
	{25, "virtual stages need pp above 1", virtual_stages},
	{19, "every virtual stage must have a layer, but in a layout that names them", virtual_layers},
	{0, "stage_layers must name all pp * vp virtual stages and all layers", named_layers},
	{26, "the group of micro-batches of a virtual stage must be at least pp, at most all, and leave none or pp over",
	 virtual_group},
	{30, "the global batch must be a multiple of micro-batch times dp", batch},
	{2, "the ranks of a stage, tp * cp * dp, must be a multiple of etp * ep", expert_grid},
	{33, "experts must be a multiple of ep", expert_numbers},
	{34, "expert and tensor parallelism together need sequence parallelism", expert_sequence},
	{42, "Megatron-FSDP has no virtual stages", sharded_pipeline},
	{3, "the order tp-cp-ep-pp-dp needs etp * ep = tp * cp, without experts cp 1", replicas_in_order},
	{51, "the sequence must be at most the model's positions", positions},
	{51, "min_lr must be at most lr", learning_rate},
	{49, "there is no f64", double_precision},
	{0, "with fp8 delayed norms are not recomputed: fp8 current, or recompute_norm false", narrow_norms},
	{0, "fp8_skip_first and fp8_skip_last must each be at most layers / pp", narrow_layers},
};

const int mt_megatron_rule_count = sizeof mt_megatron_rules / sizeof mt_megatron_rules[0];
