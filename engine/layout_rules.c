/* layout_rules: what a layout must keep for a model, one rule a row. Each rule stands alone: it is broken by values that
 * are wrong for it, and leaves sizes below one to sizes_at_least_one. */
#define _GNU_SOURCE
#include "engine/layout_rules.h"

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

/* Megatron-LM's rule: in a group of fewer than pp the stages would wait for each other. */
RULE(vp_groups_fit_microbatches)
{
	int64_t group = l->vp_group > 0 ? l->vp_group : l->pp, passes;

	if (l->dp < 1 || l->mbs < 1 || l->vp <= 1 || l->schedule != MT_SCHEDULE_1F1B || group < 1)
		return false;
	passes = mt_layout_microbatches(l);
	return passes < group || (passes % group != 0 && passes % group < l->pp);
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
	return !l->stage_layers[0] && m->layers < product(l->pp, l->vp);
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

RULE(stage_layers_fit)
{
	struct mt_layout_run runs[MT_LAYOUT_RUNS];
	int count = l->stage_layers[0] ? mt_layout_cut(m, l, runs) : 0;
	int64_t stages = 0, layers = 0;

	for (int i = 0; i < count; i++) { /* numbers of seven digits: no sum overflows */
		stages += runs[i].stages;
		layers += runs[i].stages * runs[i].layers;
	}
	return l->stage_layers[0] && (count == 0 || stages != product(l->pp, l->vp) || layers != m->layers);
}

RULE(stage_layers_name_the_ends)
{
	return l->stage_layers[0] && (l->first_layers != 0 || l->last_layers != 0);
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

RULE(recompute_stages_are_of_a_pipeline)
{
	return l->recompute_stages != 0 &&
	       (l->recompute == MT_RECOMPUTE_NONE || l->recompute_stages < 0 || l->recompute_stages >= l->pp);
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

#define AS_ROW(rule, values, text) {#rule, text, rule, values},

const struct mt_layout_rule mt_layout_rules[] = {MT_LAYOUT_RULES(AS_ROW)};

const int mt_layout_rule_count = MT_RULES;

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
	if (option->kind == MT_OPTION_TEXT) {
		fprintf(out, "%s '%s'", name, (const char *)field);
		return;
	}
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
