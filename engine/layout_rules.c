/* layout_rules: what a layout must keep for a model, one rule a row. Each rule stands alone: it is broken by values that
 * are wrong for it, and leaves sizes below one to sizes_at_least_one. */
#define _GNU_SOURCE
#include "engine/layout.h"

#include "engine/context.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_RANKS (1 << 20)

#define RULE(name) static bool name(const struct mt_model *m, const struct mt_layout *l)

static bool indivisible(int64_t number, int64_t by)
{
	return by > 0 && number % by != 0;
}

/* dp * mbs, and mbs * seq: bounded by the option table, but layouts also come from code. */
static int64_t product(int64_t a, int64_t b)
{
	int64_t result;
	return __builtin_mul_overflow(a, b, &result) ? INT64_MAX : result;
}

RULE(sizes_at_least_one)
{
	return l->tp < 1 || l->pp < 1 || l->vp < 1 || l->cp < 1 || l->ep < 1 || l->dp < 1 || l->mbs < 1 || l->gbs < 1 || l->seq < 1;
}

RULE(world_fits)
{
	return mt_layout_world(l) > MOST_RANKS;
}

RULE(vp_needs_pp)
{
	return l->vp > 1 && l->pp == 1;
}

/* Megatron-LM's rule: with fewer the stages would wait for each other. */
RULE(vp_groups_divide_microbatches)
{
	int64_t group = l->vp_group > 0 ? l->vp_group : l->pp;

	return l->dp > 0 && l->mbs > 0 && l->vp > 1 && l->schedule == MT_SCHEDULE_1F1B &&
	       indivisible(mt_layout_microbatches(l), group);
}

RULE(vp_group_at_least_pp)
{
	return l->vp_group < 0 || (l->vp_group > 0 && l->vp_group < l->pp);
}

RULE(vp_group_is_of_interleaved)
{
	return l->vp_group > 0 && (l->vp == 1 || l->schedule != MT_SCHEDULE_1F1B);
}

RULE(cp_kind_is_known)
{
	return l->cp_kind < MT_CONTEXT_RING || l->cp_kind > MT_CONTEXT_HYBRID;
}

/* Both halves of a zig-zag must be whole, and every rank's part. */
RULE(seq_divisible_by_cp)
{
	return l->cp > 1 && indivisible(l->seq, product(l->cp_kind == MT_CONTEXT_ULYSSES ? 1 : 2, l->cp));
}

RULE(cp_inner_divides_cp)
{
	return l->cp_kind == MT_CONTEXT_HYBRID && (l->cp_inner < 1 || indivisible(l->cp, l->cp_inner));
}

RULE(cp_inner_is_of_hybrid)
{
	return l->cp_kind != MT_CONTEXT_HYBRID && l->cp_inner > 1;
}

/* Each of the ranks that exchange heads gets as many. */
RULE(heads_divisible_by_exchange)
{
	int64_t ranks = product(l->tp, mt_context_inner(l));

	if (l->cp <= 1 || (l->cp_kind == MT_CONTEXT_HYBRID && cp_inner_divides_cp(m, l)))
		return false;
	return mt_context_inner(l) > 1 && (indivisible(m->heads, ranks) || indivisible(m->kv_heads, ranks));
}

RULE(documents_is_known)
{
	return l->documents < MT_DOCUMENTS_JOINED || l->documents > MT_DOCUMENTS_APART;
}

RULE(ep_needs_experts)
{
	return (l->ep > 1 || l->etp > 0) && m->experts == 0;
}

RULE(experts_divisible_by_ep)
{
	return m->experts > 0 && indivisible(m->experts, l->ep);
}

RULE(expert_ffn_divisible_by_etp)
{
	return m->experts > 0 && indivisible(m->expert_ffn, mt_layout_etp(l));
}

RULE(shared_ffn_divisible_by_tp)
{
	return m->experts > 0 && indivisible(m->shared_ffn, l->tp);
}

RULE(expert_ranks_fold)
{
	return m->experts > 0 && indivisible(product(product(l->tp, l->cp), l->dp), product(mt_layout_etp(l), l->ep));
}

/* Without sp the tensor-parallel ranks all hold the same rows. */
RULE(experts_of_whole_rows_are_split_as_tp)
{
	return m->experts > 0 && l->tp > 1 && !l->sp && mt_layout_etp(l) != l->tp;
}

RULE(capacity_needs_whole_sequences)
{
	return m->experts > 0 && m->capacity > 0 && l->cp > 1;
}

RULE(capacity_pad_needs_whole_rows)
{
	return m->experts > 0 && m->capacity_pad && l->sp && l->tp > 1;
}

RULE(layers_at_least_pp)
{
	return m->layers < product(l->pp, l->vp);
}

/* What first_layers and last_layers leave must give every other virtual stage a layer, and nothing may be left without one. */
RULE(end_layers_fit)
{
	int64_t parts = product(l->pp, l->vp), others = parts - (l->first_layers > 0) - (l->last_layers > 0);
	int64_t left = m->layers - l->first_layers - l->last_layers;

	if (l->first_layers < 0 || l->last_layers < 0)
		return true;
	return (l->first_layers > 0 || l->last_layers > 0) && (parts == 1 || left < others || (others == 0 && left > 0));
}

RULE(hidden_divisible_by_heads)
{
	return m->head_dim == 0 && indivisible(m->hidden, m->heads);
}

RULE(heads_divisible_by_tp)
{
	return indivisible(m->heads, l->tp);
}

RULE(kv_heads_divisible_by_tp)
{
	return indivisible(m->kv_heads, l->tp);
}

RULE(mtp_tokens_within_seq)
{
	return m->mtp > 0 && l->seq <= m->mtp;
}

RULE(ffn_divisible_by_tp)
{
	return mt_model_expert_layers(m) < m->layers && indivisible(m->ffn, l->tp);
}

RULE(gbs_divisible_by_dp_mbs)
{
	int64_t unit = product(l->dp, l->mbs);
	return l->gbs >= unit && indivisible(l->gbs, unit);
}

RULE(microbatches_at_least_one)
{
	return l->gbs >= 1 && l->gbs < product(l->dp, l->mbs);
}

RULE(microbatch_tokens_fit)
{
	return product(l->mbs, l->seq) > INT32_MAX;
}

RULE(seq_within_positions)
{
	return m->position == MT_MODEL_LEARNED && l->seq > m->seq;
}

RULE(sp_needs_tp)
{
	return l->sp && l->tp == 1;
}

RULE(sp_rows_divisible_by_tp)
{
	return l->sp && l->cp > 0 && indivisible(product(l->mbs, l->seq / l->cp), l->tp);
}

RULE(zero_is_known)
{
	return l->zero < 0 || l->zero > 3;
}

/* Their weight gradients are put off past the pass in which a micro-batch's gradients are reduced. */
RULE(zero_2_needs_whole_backward_passes)
{
	return l->zero >= 2 && mt_schedule_splits((enum mt_schedule)l->schedule);
}

RULE(zero_needs_dp)
{
	return l->zero > 0 && l->dp == 1 && l->cp == 1;
}

RULE(zero_group_divides_dp)
{
	return l->zero_group < 0 || (l->zero_group > 0 && indivisible(product(l->dp, l->cp), l->zero_group));
}

RULE(zero_group_needs_zero)
{
	return l->zero_group == 1 || (l->zero_group > 0 && l->zero == 0);
}

RULE(recompute_is_known)
{
	return l->recompute < MT_RECOMPUTE_NONE || l->recompute > MT_RECOMPUTE_FULL;
}

RULE(recompute_layers_need_recompute)
{
	return l->recompute_layers < 0 || (l->recompute_layers > 0 && l->recompute == MT_RECOMPUTE_NONE);
}

RULE(selective_names_something)
{
	return l->recompute == MT_RECOMPUTE_SELECTIVE && !l->recompute_attention && !l->recompute_activation && !l->recompute_norm;
}

RULE(offload_layers_not_negative)
{
	return l->offload_layers < 0;
}

RULE(schedule_is_known)
{
	return l->schedule < MT_SCHEDULE_1F1B || l->schedule > MT_SCHEDULE_ZB_V;
}

RULE(zero_bubble_needs_pp)
{
	return mt_schedule_splits((enum mt_schedule)l->schedule) && l->pp == 1;
}

RULE(zb_h1_has_one_chunk)
{
	return l->schedule == MT_SCHEDULE_ZB_H1 && l->vp > 1;
}

RULE(zb_v_has_two_chunks)
{
	return l->schedule == MT_SCHEDULE_ZB_V && l->vp != 2;
}

RULE(dtype_is_real)
{
	return l->dtype < MT_F32 || l->dtype > MT_F16;
}

RULE(moments_are_f32_or_bf16)
{
	bool narrow = l->moment1_dtype != MT_F32 || l->moment2_dtype != MT_F32;

	return (unsigned)l->moment1_dtype > MT_BF16 || (unsigned)l->moment2_dtype > MT_BF16 || (narrow && l->dtype == MT_F64);
}

/* ZeRO-2 and 3 reduce in every micro-batch, into f32. */
RULE(reduce_dtype_fits)
{
	return (unsigned)l->reduce_dtype > MT_BF16 || (l->reduce_dtype == MT_BF16 && (l->dtype == MT_F64 || l->zero > 1));
}

RULE(fp8_needs_half)
{
	return l->fp8 != MT_FP8_NONE && !mt_dtype_is_half((enum mt_dtype)l->dtype);
}

RULE(fp8_format_is_known)
{
	return l->fp8 < MT_FP8_NONE || l->fp8 > MT_FP8_CURRENT ||
	       (l->fp8 != MT_FP8_NONE && l->fp8_format != MT_FP8_HYBRID && l->fp8_format != MT_FP8_E4M3);
}

/* Of each product's two sides on a rank: tensor cores take 16 codes at a time. */
RULE(fp8_widths_are_multiples_of_16)
{
	int64_t dim = m->head_dim > 0 || m->heads < 1 ? m->head_dim : m->hidden / m->heads, unit = product(16, l->tp);
	bool dense = mt_model_expert_layers(m) < m->layers;

	return l->fp8 != MT_FP8_NONE &&
	       (m->hidden % 16 || indivisible(product(m->heads, dim), unit) ||
		indivisible(product(m->heads + 2 * m->kv_heads, dim), unit) || (dense && indivisible(m->ffn, unit)));
}

RULE(fp8_experts_are_multiples_of_16)
{
	return l->fp8 != MT_FP8_NONE && m->experts > 0 &&
	       (indivisible(m->expert_ffn, product(16, mt_layout_etp(l))) || indivisible(m->shared_ffn, product(16, l->tp)));
}

RULE(fp8_rows_are_a_multiple_of_16)
{
	return l->fp8 != MT_FP8_NONE && indivisible(product(l->mbs, l->seq), product(16, l->cp));
}

RULE(fp8_history_at_least_one)
{
	return l->fp8 == MT_FP8_DELAYED && l->fp8_history < 1;
}

RULE(threads_not_negative)
{
	return l->threads < 0;
}

RULE(bucket_bytes_not_negative)
{
	return l->bucket_bytes < 0;
}

#define ROW(rule, values, text)                                                                                                    \
	{                                                                                                                          \
#rule, text, rule, values                                                                                          \
	}

const struct mt_layout_rule mt_layout_rules[] = {
	ROW(sizes_at_least_one, "tp pp vp cp ep dp mbs gbs seq", "every size must be at least 1"),
	ROW(world_fits, "tp cp dp pp", "tp * cp * dp * pp must be at most 1,048,576 ranks"),
	ROW(vp_needs_pp, "vp pp", "several model chunks a stage need a pipeline: vp above 1 needs pp above 1"),
	ROW(vp_groups_divide_microbatches, "gbs dp mbs vp_group pp",
	    "interleaved, the micro-batches gbs / (dp * mbs) must be a multiple of vp_group (0: pp)"),
	ROW(vp_group_at_least_pp, "vp_group pp", "vp_group must be 0 or at least pp"),
	ROW(vp_group_is_of_interleaved, "vp_group vp schedule", "vp_group is of the interleaved schedule: 1f1b with vp above 1"),
	ROW(cp_kind_is_known, "cp_kind", "cp_kind must be ring, allgather, ulysses or hybrid"),
	ROW(seq_divisible_by_cp, "seq cp cp_kind",
	    "with context parallelism seq must be a multiple of 2 * cp (each rank has two halves), for ulysses of cp"),
	ROW(cp_inner_divides_cp, "cp cp_inner", "hybrid context parallelism: cp must be a multiple of cp_inner"),
	ROW(cp_inner_is_of_hybrid, "cp_inner cp_kind", "cp_inner is of cp_kind hybrid: elsewhere it is 1"),
	ROW(heads_divisible_by_exchange, "heads kv_heads tp cp cp_inner",
	    "ranks that exchange heads need as many each: heads and kv_heads must be multiples of tp * cp (ulysses) or tp * "
	    "cp_inner "
	    "(hybrid)"),
	ROW(documents_is_known, "documents", "documents must be joined or apart"),
	ROW(ep_needs_experts, "ep etp experts", "ep above 1 and etp are of a model with experts"),
	ROW(experts_divisible_by_ep, "experts ep", "experts must be a multiple of ep"),
	ROW(expert_ffn_divisible_by_etp, "expert_ffn etp tp", "the experts' width must be a multiple of etp (0: tp)"),
	ROW(shared_ffn_divisible_by_tp, "shared_ffn tp", "the shared expert's width must be a multiple of tp"),
	ROW(expert_ranks_fold, "tp cp dp etp ep",
	    "tp * cp * dp must be a multiple of etp * ep (etp 0: tp): experts use the same ranks"),
	ROW(experts_of_whole_rows_are_split_as_tp, "tp etp sp",
	    "without sp all tensor-parallel ranks have the same tokens: experts need sp, or etp as tp"),
	ROW(capacity_needs_whole_sequences, "cp", "a capacity counts the rows of whole sequences: cp must be 1"),
	ROW(capacity_pad_needs_whole_rows, "tp sp", "capacity_pad needs whole sequences on each rank: tp must be 1, or sp off"),
	ROW(layers_at_least_pp, "layers pp vp", "every model chunk must have a layer: layers must be at least pp * vp"),
	ROW(end_layers_fit, "layers pp vp first_layers last_layers",
	    "first_layers and last_layers must leave at least a layer for each other model chunk"),
	ROW(hidden_divisible_by_heads, "hidden heads", "hidden must be a multiple of heads unless head_dim is given"),
	ROW(heads_divisible_by_tp, "heads tp", "attention heads must be a multiple of tp"),
	ROW(kv_heads_divisible_by_tp, "kv_heads tp", "key and value heads must be a multiple of tp"),
	ROW(mtp_tokens_within_seq, "mtp seq", "a sequence must have more tokens than the model has multi-token modules"),
	ROW(ffn_divisible_by_tp, "ffn tp", "the inner width of the MLP must be a multiple of tp"),
	ROW(gbs_divisible_by_dp_mbs, "gbs dp mbs", "gbs must be a multiple of dp * mbs"),
	ROW(microbatches_at_least_one, "gbs dp mbs", "gbs must be at least dp * mbs: every data-parallel rank needs a micro-batch"),
	ROW(microbatch_tokens_fit, "mbs seq", "mbs * seq must be below 2^31 tokens"),
	ROW(seq_within_positions, "seq model.seq", "seq must be at most the model's learned positions"),
	ROW(sp_needs_tp, "sp tp", "sequence parallelism needs tp above 1"),
	ROW(sp_rows_divisible_by_tp, "mbs seq cp tp", "with sequence parallelism mbs * seq / cp must be a multiple of tp"),
	ROW(zero_is_known, "zero", "zero must be 0, 1, 2 or 3"),
	ROW(zero_2_needs_whole_backward_passes, "zero schedule",
	    "zero 2 and 3 reduce gradients in every backward pass: not with a zero-bubble schedule, which puts them off"),
	ROW(zero_needs_dp, "zero dp cp", "zero shards over data- and context-parallel ranks: it needs dp or cp above 1"),
	ROW(zero_group_divides_dp, "zero_group dp cp", "dp * cp must be a multiple of zero_group"),
	ROW(zero_group_needs_zero, "zero_group zero", "zero_group is of ranks that shard: it needs zero and at least 2 of them"),
	ROW(recompute_is_known, "recompute", "recompute must be none, selective or full"),
	ROW(recompute_layers_need_recompute, "recompute_layers recompute", "recompute_layers needs recompute selective or full"),
	ROW(selective_names_something, "recompute_attention recompute_activation recompute_norm",
	    "selective recompute needs one of recompute_attention, recompute_activation and recompute_norm"),
	ROW(offload_layers_not_negative, "offload_layers", "offload_layers must be at least 0"),
	ROW(schedule_is_known, "schedule", "schedule must be 1f1b, zb-h1 or zb-v"),
	ROW(zero_bubble_needs_pp, "schedule pp", "a zero-bubble schedule needs a pipeline: pp above 1"),
	ROW(zb_h1_has_one_chunk, "schedule vp", "schedule zb-h1 has one model chunk a stage: vp must be 1"),
	ROW(zb_v_has_two_chunks, "schedule vp", "schedule zb-v has two model chunks a stage: vp must be 2"),
	ROW(dtype_is_real, "dtype", "dtype must be f32, bf16, f16 or f64"),
	ROW(moments_are_f32_or_bf16, "moment1_dtype moment2_dtype dtype", "moments must be f32 or bf16, and f32 beside dtype f64"),
	ROW(reduce_dtype_fits, "reduce_dtype dtype zero",
	    "reduce_dtype must be f32 or bf16, and f32 beside dtype f64 and with zero 2 and 3"),
	ROW(fp8_needs_half, "fp8 dtype", "fp8 needs dtype bf16 or f16 for what is not a product of a layer"),
	ROW(fp8_format_is_known, "fp8 fp8_format", "fp8 must be none, delayed or current, and fp8_format hybrid or e4m3"),
	ROW(fp8_widths_are_multiples_of_16, "fp8 hidden heads kv_heads ffn tp",
	    "in fp8 hidden, and the widths of a rank's heads (queries, and all) and MLP must be multiples of 16"),
	ROW(fp8_experts_are_multiples_of_16, "fp8 expert_ffn shared_ffn etp tp",
	    "in fp8 a rank's widths of an expert and of the shared expert must be multiples of 16"),
	ROW(fp8_rows_are_a_multiple_of_16, "fp8 mbs seq cp", "in fp8 mbs * seq must be a multiple of 16 * cp"),
	ROW(fp8_history_at_least_one, "fp8 fp8_history", "fp8_history must be at least 1"),
	ROW(threads_not_negative, "threads", "threads must be at least 0"),
	ROW(bucket_bytes_not_negative, "bucket_bytes", "bucket_bytes must be at least 0"),
};

const int mt_layout_rule_count = sizeof mt_layout_rules / sizeof mt_layout_rules[0];

int mt_layout_first_broken(const struct mt_model *model, const struct mt_layout *layout)
{
	for (int i = 0; i < mt_layout_rule_count; i++) {
		if (mt_layout_rules[i].broken(model, layout))
			return i;
	}
	return -1;
}

/* "tp 8": a value by its option's name, of the layout unless it says model or only the model has it. */
static void print_value(FILE *out, const struct mt_model *model, const struct mt_layout *layout, const char *name)
{
	bool of_model = strncmp(name, "model.", 6) == 0;
	const struct mt_option *option = of_model ? NULL : mt_options_find(&mt_layout_options, name);
	const char *values = (const char *)layout;

	if (!option) {
		option = mt_options_find(&mt_model_options, of_model ? name + 6 : name);
		values = (const char *)model;
	}
	const void *field = values + option->offset;
	long long number = option->kind == MT_OPTION_INT    ? (long long)*(const int64_t *)field
			   : option->kind == MT_OPTION_BOOL ? *(const bool *)field
							    : *(const int *)field;
	fprintf(out, "%s %lld", name, number);
}

static void print_rule(FILE *out, const struct mt_layout_rule *rule, const struct mt_model *model, const struct mt_layout *layout)
{
	char names[64], *save = NULL;
	const char *separator = " (";

	fprintf(out, "%s", rule->text);
	snprintf(names, sizeof names, "%s", rule->values);
	for (char *name = strtok_r(names, " ", &save); name; name = strtok_r(NULL, " ", &save)) {
		fputs(separator, out);
		print_value(out, model, layout, name);
		separator = ", ";
	}
	fputc(')', out);
}

enum mt_status mt_layout_check(const struct mt_model *model, const struct mt_layout *layout, const char *where)
{
	char *text = NULL;
	size_t bytes = 0;
	int broken = 0;

	if (mt_layout_first_broken(model, layout) < 0)
		return MT_OK;
	FILE *out = open_memstream(&text, &bytes);
	if (!out)
		return mt_fail(MT_NOMEM, "out of memory");
	for (int i = 0; i < mt_layout_rule_count; i++) {
		if (!mt_layout_rules[i].broken(model, layout))
			continue;
		if (broken++)
			fputs("; ", out);
		print_rule(out, &mt_layout_rules[i], model, layout);
	}
	fclose(out);
	enum mt_status st = mt_fail(MT_INPUT, "%s: %s", where, text ? text : "the layout breaks its rules");
	free(text);
	return st;
}
