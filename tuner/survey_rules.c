/* survey_rules: what a layout must keep to be launched; one rule a row. What is true of every software is a rule of the engine's
 * layouts (engine/layout_rules.h), asked of the layout as a run file has it; here is what --fix says, and where software differs,
 * what the stack can (profiles/stacks). Rules read only the axes that are chosen at their level or above. */
#include "tuner/survey.h"

#include "engine/layout_rules.h"

#include <math.h>
#include <string.h>

#define RULE(name) static bool name(const struct mt_survey_query *q, const struct mt_survey_layout *l)

static bool divides(int64_t by, double number)
{
	return by > 0 && fmod(number, (double)by) == 0;
}

static bool other(int fixed, int value)
{
	return fixed >= 0 && fixed != value;
}

RULE(fixed_tp)
{
	return other(q->fixed.tp, l->tp);
}

/* Beyond the number of key and value heads each is held by several ranks, where the software can. */
RULE(kv_heads_divisible_by_tp)
{
	return !divides(l->tp, q->model.kv_heads) &&
	       !(q->stack->kv_replicated && q->model.kv_heads > 0 && divides((int64_t)q->model.kv_heads, l->tp));
}

RULE(stack_has_tp)
{
	return l->tp > q->stack->most_tp;
}

RULE(fixed_cp)
{
	return other(q->fixed.cp, l->cp) || other(q->fixed.cp_kind, l->cp_kind) || other(q->fixed.cp_inner, l->cp_inner);
}

RULE(tp_cp_divide_gpus)
{
	return q->gpus % ((int64_t)l->tp * l->cp) != 0;
}

RULE(stack_has_cp)
{
	return l->cp > q->stack->most_cp;
}

RULE(stack_has_cp_kind)
{
	return (l->cp_kind == MT_CONTEXT_ALL_GATHER && !q->stack->cp_gathers) ||
	       (l->cp_kind == MT_CONTEXT_ULYSSES && !q->stack->cp_heads) ||
	       (l->cp_kind == MT_CONTEXT_HYBRID && !q->stack->cp_two_levels);
}

RULE(fixed_ep)
{
	return other(q->fixed.ep, l->ep);
}

RULE(fixed_etp)
{
	return other(q->fixed.etp, l->etp);
}

RULE(stack_has_etp)
{
	return l->etp != l->tp && !q->stack->expert_tp;
}

RULE(stack_has_ep)
{
	return l->ep > q->stack->most_ep;
}

RULE(fixed_mbs)
{
	return other(q->fixed.mbs, l->mbs);
}

RULE(fixed_sp)
{
	return other(q->fixed.sp, l->sp);
}

RULE(fixed_tp_overlap)
{
	return other(q->fixed.tp_overlap, l->tp_overlap);
}

RULE(stack_has_tp_switch)
{
	return l->tp_overlap && q->stack->tp_switch_frac <= 0;
}

/* Megatron-LM's rule: gathers and scatters are what it hides. */
RULE(tp_overlap_needs_sp)
{
	return l->tp_overlap && !l->sp;
}

RULE(experts_and_tp_need_sp)
{
	return l->ep > 1 && l->tp > 1 && !l->sp;
}

RULE(fixed_pp)
{
	return other(q->fixed.pp, l->pp);
}

RULE(sizes_divide_gpus)
{
	return q->gpus % ((int64_t)l->tp * l->cp * l->pp) != 0;
}

RULE(stack_has_pp)
{
	return l->pp > q->stack->most_pp;
}

/* Where software balances the stages itself: evenly, or with embedding and head as a layer each. */
RULE(layers_divisible_by_pp)
{
	if (q->model.balanced_stages)
		return !divides(l->pp, q->model.layers) && (l->pp < 2 || !divides(l->pp, q->model.layers + 2));
	return !divides(l->pp, q->model.layers + l->first_less + l->last_less);
}

RULE(fixed_ends)
{
	return other(q->fixed.first_less, l->first_less) || other(q->fixed.last_less, l->last_less);
}

RULE(stack_has_ends)
{
	return l->first_less > q->stack->most_less || l->last_less > q->stack->most_less;
}

/* The engine's rule, with the chunks that only now are chosen. */
RULE(layers_at_least_chunks)
{
	return q->model.layers < (double)l->pp * l->vp;
}

RULE(fixed_vp)
{
	return other(q->fixed.vp, l->vp) || other(q->fixed.schedule, l->schedule);
}

RULE(stack_interleaves)
{
	return l->vp > 1 && l->schedule == MT_SURVEY_1F1B && !q->stack->interleaves;
}

RULE(stack_has_zero_bubble)
{
	return l->schedule != MT_SURVEY_1F1B && !q->stack->zero_bubble;
}

RULE(fixed_zero)
{
	return other(q->fixed.zero, l->zero);
}

RULE(stack_has_zero)
{
	return l->zero > q->stack->most_zero || (l->zero < q->stack->least_zero && (int64_t)l->dp * l->cp > 1);
}

/* Sharded gradients are reduced after every micro-batch; the forecast knows ZeRO-2 reducing once. */
RULE(zero_2_needs_pp_1)
{
	return l->zero == 2 && l->pp > 1;
}

RULE(fixed_zero_group)
{
	return other(q->fixed.zero_group, l->zero_group);
}

RULE(stack_has_zero_groups)
{
	return l->zero_group > 0 && !q->stack->zero_groups;
}

RULE(zero_group_is_a_part)
{
	return l->zero_group > 0 && l->zero_group == (int64_t)l->dp * l->cp;
}

RULE(fixed_recompute)
{
	return other(q->fixed.recompute, l->recompute) || other(q->fixed.recompute_layers, l->recompute_layers) ||
	       other(q->fixed.selected, l->selected);
}

RULE(stack_selects)
{
	return (l->selected & ~mt_survey_most_selected(q->stack)) != 0;
}

RULE(stack_selects_layers)
{
	return l->recompute == MT_CASE_SELECTIVE && !q->stack->selects_layers && l->recompute_layers < mt_survey_stage_layers(q, l);
}

RULE(fixed_rank_order)
{
	return other(q->fixed.rank_order, l->rank_order);
}

RULE(stack_has_rank_order)
{
	return l->rank_order == MT_RANKS_PP_DP && !q->stack->pp_before_dp;
}

RULE(rank_order_needs_pp_and_dp)
{
	return l->rank_order == MT_RANKS_PP_DP && (l->pp == 1 || l->dp == 1);
}

/* Megatron-Core's rule (parallel_state.py), of models without experts too, which have etp = tp and ep = 1 there. */
RULE(rank_order_needs_experts_on_tp_cp)
{
	return l->rank_order == MT_RANKS_PP_DP && (int64_t)l->etp * l->ep != (int64_t)l->tp * l->cp;
}

RULE(recompute_layers_divisible_by_vp)
{
	return l->recompute_layers % l->vp != 0;
}

/* By level; the first row of each level is that of --fix. ENGINE: a rule of the engine's layouts. */
#define RULES(ROW, ENGINE)                                                                                                         \
	ROW(fixed_tp, TP, "tp has another value by --fix")                                                                         \
	ENGINE(heads_divisible_by_tp, TP)                                                                                          \
	ROW(kv_heads_divisible_by_tp, TP,                                                                                          \
	    "key and value heads must be a multiple of tp (or tp of them, where the stack repeats them)")                          \
	ENGINE(ffn_divisible_by_tp, TP)                                                                                            \
	ENGINE(shared_ffn_divisible_by_tp, TP)                                                                                     \
	ROW(stack_has_tp, TP, "the software has no tensor parallelism so wide")                                                    \
	ROW(fixed_cp, CP, "cp, its kind or its inner ranks have another value by --fix")                                           \
	ROW(tp_cp_divide_gpus, CP, "tp * cp must divide the number of accelerators")                                               \
	ENGINE(seq_divisible_by_cp, CP)                                                                                            \
	ENGINE(cp_inner_divides_cp, CP)                                                                                            \
	ENGINE(heads_divisible_by_exchange, CP)                                                                                    \
	ROW(stack_has_cp, CP, "the software has no context parallelism so wide")                                                   \
	ROW(stack_has_cp_kind, CP, "the software has no such kind of context parallelism")                                         \
	ROW(fixed_ep, EP, "ep has another value by --fix")                                                                         \
	ROW(fixed_etp, EP, "etp has another value by --fix")                                                                       \
	ENGINE(experts_divisible_by_ep, EP)                                                                                        \
	ENGINE(expert_ffn_divisible_by_etp, EP)                                                                                    \
	ROW(stack_has_ep, EP, "the software has no expert parallelism so wide")                                                    \
	ROW(stack_has_etp, EP, "the software splits experts over the ranks of tp")                                                 \
	ROW(fixed_mbs, SP, "mbs has another value by --fix")                                                                       \
	ROW(fixed_sp, SP, "sp has another value by --fix")                                                                         \
	ROW(fixed_tp_overlap, SP, "tp_overlap has another value by --fix")                                                         \
	ENGINE(sp_needs_tp, SP)                                                                                                    \
	ENGINE(sp_rows_divisible_by_tp, SP)                                                                                        \
	ENGINE(experts_of_whole_rows_are_split_as_tp, SP)                                                                          \
	ROW(stack_has_tp_switch, SP, "the software has no switch that hides tensor parallelism")                                   \
	ROW(tp_overlap_needs_sp, SP, "what hides tensor parallelism needs sequence parallelism")                                   \
	ROW(experts_and_tp_need_sp, SP, "expert and tensor parallelism together need sequence parallelism")                        \
	ROW(fixed_pp, PP, "pp has another value by --fix")                                                                         \
	ROW(fixed_ends, PP, "first_less or last_less has another value by --fix")                                                  \
	ROW(sizes_divide_gpus, PP, "tp * cp * pp must divide the number of accelerators")                                          \
	ROW(stack_has_pp, PP, "the software has no pipeline parallelism so deep")                                                  \
	ENGINE(layers_at_least_pp, PP)                                                                                             \
	ROW(layers_divisible_by_pp, PP, "layers, and what the end stages have less, must be a multiple of pp")                     \
	ROW(stack_has_ends, PP, "the software has no end stages with so many layers less")                                         \
	ENGINE(gbs_divisible_by_dp_mbs, PP)                                                                                        \
	ENGINE(microbatches_at_least_one, PP)                                                                                      \
	ENGINE(expert_ranks_fold, PP)                                                                                              \
	ROW(fixed_vp, CHUNKS, "vp or schedule has another value by --fix")                                                         \
	ROW(stack_interleaves, CHUNKS, "the software has one model chunk a stage")                                                 \
	ROW(stack_has_zero_bubble, CHUNKS, "the software has no zero-bubble schedule")                                             \
	ENGINE(vp_needs_pp, CHUNKS)                                                                                                \
	ENGINE(zero_bubble_needs_pp, CHUNKS)                                                                                       \
	ENGINE(zb_h1_has_one_chunk, CHUNKS)                                                                                        \
	ENGINE(zb_v_has_two_chunks, CHUNKS)                                                                                        \
	ROW(layers_at_least_chunks, CHUNKS, "every model chunk must have a layer: layers must be at least pp * vp")                \
	ENGINE(end_layers_fit, CHUNKS)                                                                                             \
	ENGINE(vp_groups_fit_microbatches, CHUNKS)                                                                                 \
	ROW(fixed_zero, ZERO, "zero has another value by --fix")                                                                   \
	ENGINE(zero_needs_dp, ZERO)                                                                                                \
	ENGINE(zero_2_needs_whole_backward_passes, ZERO)                                                                           \
	ROW(stack_has_zero, ZERO, "the software does not shard at this level of zero")                                             \
	ROW(zero_2_needs_pp_1, ZERO, "ZeRO-2 reduces after every micro-batch of a pipeline: it needs pp 1")                        \
	ROW(fixed_zero_group, GROUP, "zero_group has another value by --fix")                                                      \
	ENGINE(zero_group_divides_dp, GROUP)                                                                                       \
	ENGINE(zero_group_needs_zero, GROUP)                                                                                       \
	ROW(stack_has_zero_groups, GROUP, "the software shards over all ranks with the same parameters")                           \
	ROW(zero_group_is_a_part, GROUP, "all ranks that could shard together: zero_group 0")                                      \
	ROW(fixed_recompute, RECOMPUTE, "recompute has another value by --fix")                                                    \
	ROW(stack_selects, RECOMPUTE, "the software keeps outputs that this selective recompute would do again")                   \
	ROW(stack_selects_layers, RECOMPUTE, "the software's selective recompute is of all layers")                                \
	ROW(fixed_rank_order, RANKS, "rank_order has another value by --fix")                                                      \
	ROW(stack_has_rank_order, RANKS, "the software has one order of ranks")                                                    \
	ROW(rank_order_needs_pp_and_dp, RANKS, "without stages or without replicas both orders of ranks are one")                  \
	ROW(rank_order_needs_experts_on_tp_cp, RANKS,                                                                              \
	    "pp before dp needs the experts on as many ranks as the rest: etp * ep = tp * cp")                                     \
	ROW(recompute_layers_divisible_by_vp, ALL, "the layers of a stage that recompute must be a multiple of vp")

#define AS_INDEX(rule, level, text)  INDEX_##rule,
#define AS_ENGINE_INDEX(rule, level) INDEX_##rule,
#define AS_ROW(rule, level, text)    {#rule, text, MT_SURVEY_##level, -1, rule},
#define AS_ENGINE(rule, level)       {#rule, NULL, MT_SURVEY_##level, MT_RULE_##rule, NULL},

enum { RULES(AS_INDEX, AS_ENGINE_INDEX) COUNT };

static const int first_of_level[] = {
	INDEX_fixed_tp,
	INDEX_fixed_cp,
	INDEX_fixed_ep,
	INDEX_fixed_mbs,
	INDEX_fixed_pp,
	INDEX_fixed_vp,
	INDEX_fixed_zero,
	INDEX_fixed_zero_group,
	INDEX_fixed_recompute,
	INDEX_fixed_rank_order,
	INDEX_recompute_layers_divisible_by_vp,
	COUNT,
};

const struct mt_survey_rule mt_survey_rules[] = {RULES(AS_ROW, AS_ENGINE)};

const int mt_survey_rule_count = COUNT;

const char *mt_survey_rule_text(int rule)
{
	const struct mt_survey_rule *r = &mt_survey_rules[rule];

	return r->broken ? r->text : mt_layout_rules[r->engine].text;
}

/* Model and layout as the engine's rules read them. */
struct asked {
	struct mt_model model;
	struct mt_layout layout;
};

static void ask(struct asked *a, const struct mt_survey_query *q, const struct mt_survey_layout *l)
{
	const struct mt_case *c = &q->model;
	int chunk = l->vp > 0 && l->pp > 0 ? ((int)c->layers + l->first_less + l->last_less) / (l->pp * l->vp) : 0;
	bool ends = l->first_less > 0 || l->last_less > 0;

	memset(a, 0, sizeof *a);
	a->model = (struct mt_model){.layers = (int64_t)c->layers,
				     .hidden = (int64_t)c->hidden,
				     .heads = (int64_t)c->heads,
				     .kv_heads = (int64_t)c->kv_heads,
				     .head_dim = (int64_t)c->head_dim,
				     .ffn = (int64_t)(c->experts > 0 ? c->dense_ffn : c->ffn),
				     .position = MT_MODEL_ROPE,
				     .experts = (int64_t)c->experts,
				     .expert_ffn = (int64_t)c->ffn,
				     .shared_ffn = (int64_t)c->shared_ffn,
				     .dense_first = (int64_t)c->dense_layers,
				     .expert_every = c->expert_every > 1 ? (int64_t)c->expert_every : 1,
				     .mtp = (int64_t)c->mtp};
	a->layout = (struct mt_layout){.tp = l->tp,
				       .pp = l->pp,
				       .vp = l->vp,
				       .cp = l->cp,
				       .ep = l->ep,
				       .dp = l->dp,
				       .etp = c->experts > 0 ? l->etp : 0,
				       .cp_kind = l->cp_kind,
				       .cp_inner = l->cp_inner,
				       .first_layers = ends ? chunk - l->first_less : 0,
				       .last_layers = ends ? chunk - l->last_less : 0,
				       .mbs = l->mbs,
				       .gbs = (int64_t)c->gbs,
				       .seq = (int64_t)c->seq,
				       .sp = l->sp != 0,
				       .zero = l->zero,
				       .zero_group = l->zero_group,
				       .schedule = l->schedule};
}

int mt_survey_first_broken(const struct mt_survey_query *query, const struct mt_survey_layout *layout, enum mt_survey_level level)
{
	struct asked a;

	if (level < MT_SURVEY_RECOMPUTE) /* from there on none is the engine's */
		ask(&a, query, layout);
	for (int i = first_of_level[level]; i < first_of_level[level + 1]; i++) {
		const struct mt_survey_rule *r = &mt_survey_rules[i];

		if (r->broken ? r->broken(query, layout) : mt_layout_rules[r->engine].broken(&a.model, &a.layout))
			return i;
	}
	return -1;
}

int mt_survey_why_not(const struct mt_survey_query *query, const struct mt_survey_layout *layout)
{
	int rule = -1;

	for (int level = MT_SURVEY_TP; level <= MT_SURVEY_ALL && rule < 0; level++)
		rule = mt_survey_first_broken(query, layout, (enum mt_survey_level)level);
	return rule;
}

/* The search asks of recompute after the orders of ranks. */
static int turn(const struct mt_survey_rule *rule)
{
	return rule->level == MT_SURVEY_RECOMPUTE ? MT_SURVEY_RANKS
	       : rule->level == MT_SURVEY_RANKS   ? MT_SURVEY_RECOMPUTE
						  : rule->level;
}

int mt_survey_nearest(const struct mt_survey *survey, int *rules, int most)
{
	int last = -1, count = 0;

	for (int i = 0; i < COUNT; i++) {
		if (survey->rejected[i] > 0 && turn(&mt_survey_rules[i]) > last)
			last = turn(&mt_survey_rules[i]);
	}
	for (int fixed = 0; fixed <= 1 && count == 0; fixed++) {
		for (int i = COUNT - 1; i >= 0 && count < most; i--) {
			const struct mt_survey_rule *r = &mt_survey_rules[i];

			if (survey->rejected[i] > 0 && turn(r) == last && (strncmp(r->name, "fixed_", 6) == 0) == fixed)
				rules[count++] = i;
		}
	}
	return count;
}
