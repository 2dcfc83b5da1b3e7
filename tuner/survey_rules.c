/* survey_rules: what a layout must keep to be launched; one rule a row. Where software differs, the stack says what it can
 * (profiles/stacks). Rules read only the axes that are chosen at their level or above. */
#include "tuner/survey.h"

#include <math.h>

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

RULE(heads_divisible_by_tp)
{
	return !divides(l->tp, q->model.heads);
}

/* Beyond the number of key and value heads each is held by several ranks, where the software can. */
RULE(kv_heads_divisible_by_tp)
{
	return !divides(l->tp, q->model.kv_heads) &&
	       !(q->stack->kv_replicated && q->model.kv_heads > 0 && divides((int64_t)q->model.kv_heads, l->tp));
}

RULE(ffn_divisible_by_tp)
{
	return !divides(l->tp, q->model.ffn) || (q->model.shared_ffn > 0 && !divides(l->tp, q->model.shared_ffn));
}

RULE(stack_has_tp)
{
	return l->tp > q->stack->most_tp;
}

RULE(fixed_cp)
{
	return other(q->fixed.cp, l->cp);
}

RULE(tp_cp_divide_gpus)
{
	return q->gpus % ((int64_t)l->tp * l->cp) != 0;
}

RULE(seq_divisible_by_2cp)
{
	return l->cp > 1 && !divides(2 * (int64_t)l->cp, q->model.seq);
}

RULE(stack_has_cp)
{
	return l->cp > q->stack->most_cp;
}

RULE(fixed_ep)
{
	return other(q->fixed.ep, l->ep);
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

RULE(sp_needs_tp)
{
	return l->sp && l->tp == 1;
}

RULE(sp_rows_divisible_by_tp)
{
	return l->sp && !divides(l->tp, q->model.seq * l->mbs / l->cp);
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

RULE(layers_at_least_pp)
{
	return q->model.layers < l->pp;
}

/* Evenly, or with embedding and head as a layer each. */
RULE(layers_divisible_by_pp)
{
	return !divides(l->pp, q->model.layers) && (l->pp < 2 || !divides(l->pp, q->model.layers + 2));
}

RULE(gbs_divisible_by_dp_mbs)
{
	return !divides((int64_t)l->dp * l->mbs, q->model.gbs);
}

RULE(ep_divides_dp_cp)
{
	return ((int64_t)l->dp * l->cp) % l->ep != 0;
}

RULE(fixed_vp)
{
	return other(q->fixed.vp, l->vp) || other(q->fixed.schedule, l->schedule);
}

RULE(stack_interleaves)
{
	return l->vp > 1 && l->schedule == MT_SURVEY_1F1B && !q->stack->interleaves;
}

/* An end that counts as a layer may not be a chunk by itself: no run file can say so. */
RULE(layers_at_least_chunks)
{
	return q->model.layers < (double)l->pp * l->vp;
}

/* Megatron's rule: micro-batches go round the stages in groups of pp. */
RULE(microbatches_divisible_by_pp)
{
	return l->vp > 1 && !divides(l->pp, q->model.gbs / ((double)l->dp * l->mbs));
}

RULE(fixed_zero)
{
	return other(q->fixed.zero, l->zero);
}

RULE(zero_needs_dp)
{
	return l->zero > 0 && (int64_t)l->dp * l->cp == 1;
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

RULE(fixed_recompute)
{
	return other(q->fixed.recompute, l->recompute) || other(q->fixed.recompute_layers, l->recompute_layers);
}

RULE(recompute_layers_divisible_by_vp)
{
	return l->recompute == MT_CASE_FULL && l->recompute_layers % l->vp != 0;
}

/* By level; the first row of each level is that of --fix. */
#define RULES(ROW)                                                                                                                 \
	ROW(fixed_tp, TP, "tp has another value by --fix")                                                                         \
	ROW(heads_divisible_by_tp, TP, "attention heads must be a multiple of tp")                                                 \
	ROW(kv_heads_divisible_by_tp, TP,                                                                                          \
	    "key and value heads must be a multiple of tp (or tp of them, where the stack repeats them)")                          \
	ROW(ffn_divisible_by_tp, TP, "the inner width of the MLP must be a multiple of tp")                                        \
	ROW(stack_has_tp, TP, "the software has no tensor parallelism so wide")                                                    \
	ROW(fixed_cp, CP, "cp has another value by --fix")                                                                         \
	ROW(tp_cp_divide_gpus, CP, "tp * cp must divide the number of accelerators")                                               \
	ROW(seq_divisible_by_2cp, CP, "the sequence must be a multiple of 2 cp")                                                   \
	ROW(stack_has_cp, CP, "the software has no context parallelism so wide")                                                   \
	ROW(fixed_ep, EP, "ep has another value by --fix")                                                                         \
	ROW(stack_has_ep, EP, "the software has no expert parallelism so wide")                                                    \
	ROW(fixed_mbs, SP, "mbs has another value by --fix")                                                                       \
	ROW(fixed_sp, SP, "sp has another value by --fix")                                                                         \
	ROW(sp_needs_tp, SP, "sequence parallelism needs tp above 1")                                                              \
	ROW(sp_rows_divisible_by_tp, SP, "with sequence parallelism the tokens of a rank must be a multiple of tp")                \
	ROW(experts_and_tp_need_sp, SP, "expert and tensor parallelism together need sequence parallelism")                        \
	ROW(fixed_pp, PP, "pp has another value by --fix")                                                                         \
	ROW(sizes_divide_gpus, PP, "tp * cp * pp must divide the number of accelerators")                                          \
	ROW(stack_has_pp, PP, "the software has no pipeline parallelism so deep")                                                  \
	ROW(layers_at_least_pp, PP, "every stage must have a layer")                                                               \
	ROW(layers_divisible_by_pp, PP, "layers, or layers and both ends, must be a multiple of pp")                               \
	ROW(gbs_divisible_by_dp_mbs, PP, "gbs must be a multiple of dp * mbs")                                                     \
	ROW(ep_divides_dp_cp, PP, "dp * cp must be a multiple of ep")                                                              \
	ROW(fixed_vp, CHUNKS, "vp or schedule has another value by --fix")                                                         \
	ROW(stack_interleaves, CHUNKS, "the software has one model chunk a stage")                                                 \
	ROW(layers_at_least_chunks, CHUNKS, "every model chunk must have a layer")                                                 \
	ROW(microbatches_divisible_by_pp, CHUNKS, "with several model chunks a stage the micro-batches must be a multiple of pp")  \
	ROW(fixed_zero, ZERO, "zero has another value by --fix")                                                                   \
	ROW(zero_needs_dp, ZERO, "zero shards over dp * cp: it needs more than one of them")                                       \
	ROW(stack_has_zero, ZERO, "the software does not shard at this level")                                                     \
	ROW(zero_2_needs_pp_1, ZERO, "ZeRO-2 reduces after every micro-batch of a pipeline: it needs pp 1")                        \
	ROW(fixed_recompute, RECOMPUTE, "recompute has another value by --fix")                                                    \
	ROW(recompute_layers_divisible_by_vp, ALL, "the layers of a stage that recompute must be a multiple of vp")

#define AS_INDEX(rule, level, text) INDEX_##rule,
#define AS_ROW(rule, level, text)   {#rule, text, MT_SURVEY_##level, rule},

enum { RULES(AS_INDEX) COUNT };

static const int first_of_level[] = {
	INDEX_fixed_tp,
	INDEX_fixed_cp,
	INDEX_fixed_ep,
	INDEX_fixed_mbs,
	INDEX_fixed_pp,
	INDEX_fixed_vp,
	INDEX_fixed_zero,
	INDEX_fixed_recompute,
	INDEX_recompute_layers_divisible_by_vp,
	COUNT,
};

const struct mt_survey_rule mt_survey_rules[] = {RULES(AS_ROW)};

const int mt_survey_rule_count = COUNT;

int mt_survey_first_broken(const struct mt_survey_query *query, const struct mt_survey_layout *layout, enum mt_survey_level level)
{
	for (int i = first_of_level[level]; i < first_of_level[level + 1]; i++) {
		if (mt_survey_rules[i].broken(query, layout))
			return i;
	}
	return -1;
}
