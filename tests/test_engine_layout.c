/* Layouts: ranks, groups, stages, and the rules. */
#include "base/random.h"
#include "engine/layout.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define PROBLEMS 300

static struct mt_model plain_model(void)
{
	return (struct mt_model){
		.layers = 8, .hidden = 64, .heads = 8, .kv_heads = 8, .head_dim = 8, .ffn = 256, .vocab = 512, .seq = 64};
}

static struct mt_layout plain_layout(void)
{
	struct mt_layout layout;

	mt_options_default(&mt_layout_options, &layout);
	layout.seq = 64;
	return layout;
}

/* A layout of a few dozen ranks; cp too, as the order of ranks holds for it. */
static struct mt_layout random_layout(uint64_t problem)
{
	struct mt_layout l = plain_layout();

	l.tp = 1 + (int64_t)mt_random_integer(1, 1, problem, 5);
	l.cp = 1 + (int64_t)mt_random_integer(1, 2, problem, 3);
	l.dp = 1 + (int64_t)mt_random_integer(1, 3, problem, 4);
	l.pp = 1 + (int64_t)mt_random_integer(1, 4, problem, 5);
	return l;
}

static void coordinates_and_rank_are_inverse(void **state)
{
	for (uint64_t i = 0; i < PROBLEMS; i++) {
		struct mt_layout l = random_layout(i);
		for (int rank = 0; rank < mt_layout_world(&l); rank++)
			assert_int_equal(mt_layout_rank(&l, mt_layout_coordinates(&l, rank)), rank);
	}
}

static void tensor_parallel_ranks_are_neighbours(void **state)
{
	struct mt_layout l = plain_layout();

	l.tp = 4, l.dp = 2, l.pp = 2;
	struct mt_coordinates at = mt_layout_coordinates(&l, 13);
	assert_int_equal(at.tp, 1);
	assert_int_equal(at.dp, 1);
	assert_int_equal(at.pp, 1);
}

/* Along each axis: the groups of all ranks cover every rank, and two groups are the same or disjoint. */
static void layout_ranks_partition_the_world(void **state)
{
	int ranks[8], again[8], stride;

	for (uint64_t i = 0; i < PROBLEMS; i++) {
		struct mt_layout l = random_layout(i);
		const int64_t sizes[] = {l.tp, l.cp, l.dp, l.pp};
		for (int axis = 0; axis < 4; axis++) {
			for (int rank = 0; rank < mt_layout_world(&l); rank++) {
				int size = mt_layout_group(&l, rank, "tcdp"[axis], ranks, &stride), found = 0;
				assert_int_equal(size, sizes[axis]);
				for (int k = 0; k < size; k++) {
					found += ranks[k] == rank;
					assert_int_equal(ranks[k], ranks[0] + k * stride);
					assert_int_equal(mt_layout_group(&l, ranks[k], "tcdp"[axis], again, NULL), size);
					assert_memory_equal(again, ranks, (size_t)size * sizeof ranks[0]);
				}
				assert_int_equal(found, 1);
			}
		}
	}
	struct mt_layout l = plain_layout();
	assert_int_equal(mt_layout_group(&l, 0, 'x', ranks, NULL), 0);
	assert_int_equal(mt_layout_group(&l, 0, '\0', ranks, NULL), 0);
}

static void groups_of_two_axes_meet_in_one_rank(void **state)
{
	int a[8], b[8];

	for (uint64_t i = 0; i < PROBLEMS; i++) {
		struct mt_layout l = random_layout(i);
		int rank = (int)mt_random_integer(1, 5, i, (uint64_t)mt_layout_world(&l));
		int n = mt_layout_group(&l, rank, 't', a, NULL), m = mt_layout_group(&l, rank, 'p', b, NULL), common = 0;
		for (int x = 0; x < n; x++)
			for (int y = 0; y < m; y++)
				common += a[x] == b[y];
		assert_int_equal(common, 1);
	}
}

static void stages_partition_the_layers_evenly(void **state)
{
	struct mt_model m = plain_model();
	struct mt_layout l = plain_layout();

	for (m.layers = 1; m.layers <= 40; m.layers++) {
		for (l.pp = 1; l.pp <= m.layers; l.pp++) {
			int64_t next = 0, first, count, least = m.layers / l.pp;
			for (int stage = 0; stage < l.pp; stage++) {
				mt_layout_stage_layers(&m, &l, stage, &first, &count);
				assert_int_equal(first, next);
				if (count != least && count != least + 1)
					fail_msg("layers %lld pp %lld stage %d: %lld layers", (long long)m.layers, (long long)l.pp,
						 stage, (long long)count);
				next += count;
			}
			assert_int_equal(next, m.layers);
		}
	}
}

static void the_last_stage_has_no_layer_more_than_another(void **state)
{
	struct mt_model m = plain_model();
	struct mt_layout l = plain_layout();
	int64_t first, count;

	for (m.layers = 2; m.layers <= 40; m.layers++) {
		for (l.pp = 2; l.pp <= m.layers; l.pp++) {
			mt_layout_stage_layers(&m, &l, (int)l.pp - 1, &first, &count);
			assert_int_equal(count, m.layers / l.pp);
		}
	}
	m.layers = 10, l.pp = 4; /* 2 3 3 2 */
	mt_layout_stage_layers(&m, &l, 0, &first, &count);
	assert_int_equal(count, 2);
	mt_layout_stage_layers(&m, &l, 1, &first, &count);
	assert_int_equal(count, 3);
}

static void chunks_and_given_ends_partition_the_layers(void **state)
{
	struct mt_model m = plain_model();
	struct mt_layout l = plain_layout();

	m.layers = 24;
	for (l.pp = 1; l.pp <= 4; l.pp++) {
		for (l.vp = 1; l.vp <= 3; l.vp++) {
			for (int ends = 0; ends < 4; ends++) {
				int64_t next = 0, first, count, parts = l.pp * l.vp;

				l.first_layers = ends & 1 ? 2 : 0;
				l.last_layers = ends & 2 ? 1 : 0;
				if (parts < 3 && ends)
					continue;
				for (int v = 0; v < parts; v++) {
					mt_layout_stage_layers(&m, &l, v, &first, &count);
					assert_int_equal(first, next);
					assert_true(count >= 1);
					next += count;
				}
				assert_int_equal(next, m.layers);
				mt_layout_stage_layers(&m, &l, 0, &first, &count);
				assert_true(!l.first_layers || count == l.first_layers);
				mt_layout_stage_layers(&m, &l, (int)parts - 1, &first, &count);
				assert_true(!l.last_layers || count == l.last_layers);
			}
		}
	}
}

/* The layers that each of `parts` virtual stages has. */
static void cut(const struct mt_model *m, const struct mt_layout *l, int64_t parts, int64_t counts[])
{
	int64_t next = 0;

	for (int v = 0; v < parts; v++) {
		int64_t first;

		mt_layout_stage_layers(m, l, v, &first, &counts[v]);
		assert_int_equal(first, next);
		next += counts[v];
	}
	assert_int_equal(next, m->layers);
}

static void a_list_gives_each_stage_its_layers(void **state)
{
	static const int64_t wanted[] = {3, 4, 4, 4, 0, 1};
	struct mt_model m = plain_model();
	struct mt_layout l = plain_layout();
	int64_t counts[6];

	m.layers = 16, l.pp = 3, l.vp = 2, l.gbs = 3;
	for (int i = 0; i < 2; i++) {
		strcpy(l.stage_layers, i ? "3,4x3,0,1" : "3, 4,4x2,0x1, 1");
		assert_int_equal(mt_layout_first_broken(&m, &l), -1);
		cut(&m, &l, 6, counts);
		assert_memory_equal(counts, wanted, sizeof wanted);
	}
	m.layers = 2; /* fewer than stages: some have none */
	strcpy(l.stage_layers, "0x4,1x2");
	assert_int_equal(mt_layout_first_broken(&m, &l), -1);
	cut(&m, &l, 6, counts);
	assert_int_equal(counts[3], 0);
	assert_int_equal(counts[4], 1);
}

/* Given ends and even shares are short for a list. */
static void every_cut_has_a_list_that_is_the_same(void **state)
{
	struct mt_model m = plain_model();
	int64_t counts[10], again[10];

	m.layers = 24;
	for (int i = 0; i < 24; i++) {
		struct mt_layout l = plain_layout();

		l.pp = 3 + i % 3, l.vp = 1 + i / 3 % 2;
		l.first_layers = i / 6 % 2 ? 1 : 0, l.last_layers = i / 12 ? 3 : 0;
		cut(&m, &l, l.pp * l.vp, counts);
		assert_true(mt_layout_list(&l, counts, l.pp * l.vp));
		l.first_layers = l.last_layers = 0;
		cut(&m, &l, l.pp * l.vp, again);
		assert_memory_equal(counts, again, (size_t)(l.pp * l.vp) * sizeof *counts);
	}
}

static void a_list_that_does_not_fit_breaks_its_rule_alone(void **state)
{
	static const char *const lists[] = {"8",  "4,3",  "4,5", "4,4,0", "4,-4", "4,4,", ",4,4", "4x2x1",     "4x0,8",
					    "x2", "4 ,4", "4;4", "4x",    "4,4 ", " ",    "4xx2", "0x4194304", "99999999,4"};
	struct mt_model m = plain_model();

	for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
		struct mt_layout l = plain_layout();

		l.pp = 2;
		strcpy(l.stage_layers, lists[i]);
		int broken = mt_layout_first_broken(&m, &l);
		if (broken < 0 || strcmp(mt_layout_rules[broken].name, "stage_layers_fit") != 0)
			fail_msg("'%s' is taken", lists[i]);
		assert_int_equal(mt_layout_check(&m, &l, "here"), MT_INPUT);
		assert_non_null(strstr(mt_error_message(), lists[i]));
		mt_error_clear();
	}
}

static void padded_vocabulary_splits_into_128s(void **state)
{
	struct mt_model m = plain_model();
	struct mt_layout l = plain_layout();

	m.vocab = 50257;
	assert_int_equal(mt_layout_padded_vocab(&m, &l), 50304);
	for (l.tp = 1; l.tp <= 16; l.tp++) {
		int64_t padded = mt_layout_padded_vocab(&m, &l);
		assert_int_equal(padded % (128 * l.tp), 0);
		assert_in_range(padded - m.vocab, 0, 128 * l.tp - 1);
	}
}

static void the_text_says_only_what_differs(void **state)
{
	struct mt_layout l = plain_layout();
	char text[96];

	mt_layout_text(&l, text);
	assert_string_equal(text, "tp1 pp1 dp1 mbs1");
	l.tp = 2, l.mbs = 4, l.sp = true, l.zero = 1, l.recompute = MT_RECOMPUTE_FULL, l.threads = 1;
	mt_layout_text(&l, text);
	assert_string_equal(text, "tp2 pp1 dp1 mbs4 sp zero1 full t1");
	mt_options_default(&mt_layout_options, &l);
	l.dp = 2;
	mt_layout_text(&l, text);
	assert_string_equal(text, "tp1 pp1 dp2 mbs1");
	l.bucket_bytes = 8 << 20, l.pp = 2, l.first_layers = 3;
	mt_layout_text(&l, text);
	assert_string_equal(text, "tp1 pp2 dp2 head3 mbs1 bucket8Mi");
	l.tp = l.pp = l.dp = l.vp = l.cp = l.ep = l.mbs = l.threads = INT64_MAX, l.dtype = MT_BF16;
	mt_layout_text(&l, text);
	assert_in_range(strlen(text), 1, 95);
}

/* --- rules --- */

/* A layout or model that breaks one rule, and no other. */
struct breaker {
	const char *rule;
	void (*edit)(struct mt_model *m, struct mt_layout *l);
};

#define EDIT(name, ...)                                                                                                            \
	static void name(struct mt_model *m, struct mt_layout *l)                                                                  \
	{                                                                                                                          \
		(void)m, (void)l;                                                                                                  \
		__VA_ARGS__;                                                                                                       \
	}

EDIT(no_tp, l->tp = 0)
EDIT(huge_world, l->tp = l->dp = l->gbs = 1 << 20, m->heads = m->kv_heads = m->ffn = 1 << 20)
EDIT(vp_2, l->vp = 2)
EDIT(vp_odd, l->vp = l->pp = 2, l->gbs = 3)
EDIT(group_1, l->vp = 2, l->pp = 2, l->vp_group = 1)
EDIT(group_plain, l->vp_group = 2, l->pp = 2)
EDIT(ends_too_many, l->pp = 4, l->first_layers = 4, l->last_layers = 3)
EDIT(list_short, l->pp = 4, strcpy(l->stage_layers, "2,2,4"))
EDIT(list_and_ends, l->pp = 2, l->last_layers = 4, strcpy(l->stage_layers, "4x2"))
EDIT(h1_alone, l->schedule = MT_SCHEDULE_ZB_H1)
EDIT(h1_chunks, l->schedule = MT_SCHEDULE_ZB_H1, l->pp = l->vp = 2)
EDIT(v_one, l->schedule = MT_SCHEDULE_ZB_V, l->pp = 2)
EDIT(kind_5, l->cp_kind = 5)
EDIT(cp_odd, l->cp = 2, l->seq = 62, l->cp_kind = MT_CONTEXT_RING)
EDIT(inner_3, l->cp = 4, l->cp_kind = MT_CONTEXT_HYBRID, l->cp_inner = 3)
EDIT(inner_ring, l->cp = 4, l->cp_inner = 2)
EDIT(exchange_4, l->cp = 4, l->cp_kind = MT_CONTEXT_ULYSSES, m->kv_heads = 2)
EDIT(documents_5, l->documents = 5)
EDIT(ep_2, l->ep = 2)
EDIT(experts_3, m->experts = 3, l->ep = l->dp = 2)
EDIT(etp_odd, m->experts = 4, m->expert_ffn = 255, l->etp = l->dp = 2)
EDIT(shared_odd, m->experts = 4, m->expert_ffn = 256, m->shared_ffn = 3, l->tp = 2)
EDIT(fold_odd, m->experts = 4, m->expert_ffn = 256, l->ep = 4, l->dp = 2)
EDIT(whole_rows, m->experts = 4, m->expert_ffn = 256, l->etp = 1, l->tp = 2)
EDIT(capacity_cp, m->experts = 4, m->expert_ffn = 256, m->capacity = 1, l->cp = 2)
EDIT(padded_parts, m->experts = 4, m->expert_ffn = 256, m->capacity_pad = true, l->tp = 2, l->sp = true)
EDIT(pp_9, l->pp = 9)
EDIT(hidden_63, m->hidden = 63, m->head_dim = 0)
EDIT(heads_9, l->tp = 2, m->heads = 9)
EDIT(kv_3, l->tp = 2, m->kv_heads = 3)
EDIT(mtp_long, m->mtp = 1, l->seq = 1)
EDIT(ffn_255, l->tp = 2, m->ffn = 255)
EDIT(gbs_9, l->gbs = 9, l->mbs = 2)
EDIT(gbs_less, l->gbs = 1, l->mbs = 2)
EDIT(long_rows, l->mbs = l->gbs = 1 << 20, l->seq = m->seq = 1 << 12)
EDIT(seq_65, l->seq = 65)
EDIT(sp_alone, l->sp = true)
EDIT(sp_rows, l->sp = true, l->tp = 2, l->seq = 63)
EDIT(zero_4, l->zero = 4, l->dp = 2)
EDIT(zero_2_split, l->zero = 2, l->dp = 2, l->pp = 2, l->schedule = MT_SCHEDULE_ZB_H1)
EDIT(zero_alone, l->zero = 1)
EDIT(zero_group_3, l->zero = 1, l->zero_group = 3, l->dp = l->gbs = 4)
EDIT(zero_group_alone, l->zero_group = 2, l->dp = 4)
EDIT(recompute_5, l->recompute = 5)
EDIT(recompute_few, l->recompute_layers = 2)
EDIT(recompute_nowhere, l->recompute = MT_RECOMPUTE_FULL, l->pp = 2, l->recompute_stages = 2)
EDIT(selective_nothing, l->recompute = MT_RECOMPUTE_SELECTIVE, l->recompute_activation = l->recompute_norm = false)
EDIT(offload_less, l->offload_layers = -1)
EDIT(schedule_5, l->schedule = 5)
EDIT(dtype_i32, l->dtype = MT_I32)
EDIT(moments_i32, l->moment1_dtype = MT_I32)
EDIT(reduce_f16, l->reduce_dtype = MT_F16)
EDIT(fp8_in_f32, l->fp8 = MT_FP8_DELAYED)
EDIT(fp8_unknown, l->fp8 = MT_FP8_DELAYED, l->dtype = MT_BF16, l->fp8_format = 5)
EDIT(fp8_ffn_250, l->fp8 = MT_FP8_CURRENT, l->dtype = MT_F16, m->ffn = 250)
EDIT(fp8_experts_24, l->fp8 = MT_FP8_CURRENT, l->dtype = MT_BF16, m->experts = 4, m->expert_ffn = 24)
EDIT(fp8_rows_63, l->fp8 = MT_FP8_CURRENT, l->dtype = MT_BF16, l->seq = 63)
EDIT(fp8_no_history, l->fp8 = MT_FP8_DELAYED, l->dtype = MT_BF16, l->fp8_history = 0)
EDIT(threads_less, l->threads = -1)
EDIT(bucket_less, l->bucket_bytes = -1)

static const struct breaker breakers[] = {
	{"sizes_at_least_one", no_tp},
	{"world_fits", huge_world},
	{"vp_needs_pp", vp_2},
	{"vp_groups_fit_microbatches", vp_odd},
	{"vp_group_at_least_pp", group_1},
	{"vp_group_is_of_interleaved", group_plain},
	{"cp_kind_is_known", kind_5},
	{"seq_divisible_by_cp", cp_odd},
	{"cp_inner_divides_cp", inner_3},
	{"cp_inner_is_of_hybrid", inner_ring},
	{"heads_divisible_by_exchange", exchange_4},
	{"documents_is_known", documents_5},
	{"ep_needs_experts", ep_2},
	{"experts_divisible_by_ep", experts_3},
	{"expert_ffn_divisible_by_etp", etp_odd},
	{"shared_ffn_divisible_by_tp", shared_odd},
	{"expert_ranks_fold", fold_odd},
	{"experts_of_whole_rows_are_split_as_tp", whole_rows},
	{"capacity_needs_whole_sequences", capacity_cp},
	{"capacity_pad_needs_whole_rows", padded_parts},
	{"layers_at_least_pp", pp_9},
	{"end_layers_fit", ends_too_many},
	{"stage_layers_fit", list_short},
	{"stage_layers_name_the_ends", list_and_ends},
	{"hidden_divisible_by_heads", hidden_63},
	{"heads_divisible_by_tp", heads_9},
	{"kv_heads_divisible_by_tp", kv_3},
	{"mtp_tokens_within_seq", mtp_long},
	{"ffn_divisible_by_tp", ffn_255},
	{"gbs_divisible_by_dp_mbs", gbs_9},
	{"microbatches_at_least_one", gbs_less},
	{"microbatch_tokens_fit", long_rows},
	{"seq_within_positions", seq_65},
	{"sp_needs_tp", sp_alone},
	{"sp_rows_divisible_by_tp", sp_rows},
	{"zero_is_known", zero_4},
	{"zero_2_needs_whole_backward_passes", zero_2_split},
	{"zero_needs_dp", zero_alone},
	{"zero_group_divides_dp", zero_group_3},
	{"zero_group_needs_zero", zero_group_alone},
	{"recompute_is_known", recompute_5},
	{"recompute_layers_need_recompute", recompute_few},
	{"recompute_stages_are_of_a_pipeline", recompute_nowhere},
	{"selective_names_something", selective_nothing},
	{"offload_layers_not_negative", offload_less},
	{"schedule_is_known", schedule_5},
	{"zero_bubble_needs_pp", h1_alone},
	{"zb_h1_has_one_chunk", h1_chunks},
	{"zb_v_has_two_chunks", v_one},
	{"dtype_is_real", dtype_i32},
	{"moments_are_f32_or_bf16", moments_i32},
	{"reduce_dtype_fits", reduce_f16},
	{"fp8_needs_half", fp8_in_f32},
	{"fp8_format_is_known", fp8_unknown},
	{"fp8_widths_are_multiples_of_16", fp8_ffn_250},
	{"fp8_experts_are_multiples_of_16", fp8_experts_24},
	{"fp8_rows_are_a_multiple_of_16", fp8_rows_63},
	{"fp8_history_at_least_one", fp8_no_history},
	{"threads_not_negative", threads_less},
	{"bucket_bytes_not_negative", bucket_less},
};

/* Megatron-LM's: the last group of an interleaved schedule may be smaller, but not than pp. */
static void a_last_group_has_pp_microbatches_or_more(void **state)
{
	struct mt_model m = plain_model();
	struct mt_layout l = plain_layout();

	l.dp = l.mbs = 1;
	l.pp = l.vp = 2;
	l.vp_group = 4;
	for (l.gbs = 1; l.gbs <= 12; l.gbs++) {
		bool fits = l.gbs >= 4 && l.gbs % 4 != 1;

		if ((mt_layout_first_broken(&m, &l) < 0) != fits)
			fail_msg("%lld micro-batches in groups of 4: must be %s", (long long)l.gbs, fits ? "legal" : "refused");
	}
}

static void every_rule_is_broken_by_its_own_mistake_alone(void **state)
{
	assert_int_equal(sizeof breakers / sizeof breakers[0], mt_layout_rule_count);
	for (int i = 0; i < mt_layout_rule_count; i++) {
		struct mt_model m = plain_model();
		struct mt_layout l = plain_layout();
		assert_string_equal(mt_layout_rules[i].name, breakers[i].rule);
		assert_int_equal(mt_layout_first_broken(&m, &l), -1);
		breakers[i].edit(&m, &l);
		for (int k = 0; k < mt_layout_rule_count; k++) {
			if (mt_layout_rules[k].broken(&m, &l) != (k == i))
				fail_msg("%s: rule %s is %s", breakers[i].rule, mt_layout_rules[k].name,
					 k == i ? "kept" : "broken");
		}
		mt_error_clear();
		assert_int_equal(mt_layout_check(&m, &l, "here"), MT_INPUT);
		assert_non_null(strstr(mt_error_message(), mt_layout_rules[i].text));
	}
}

static void the_check_lists_every_broken_rule_with_values(void **state)
{
	struct mt_model m = plain_model();
	struct mt_layout l = plain_layout();

	l.tp = 3, l.seq = 100, l.zero = 1;
	mt_error_clear();
	assert_int_equal(mt_layout_check(&m, &l, "run.yaml"), MT_INPUT);
	const char *message = mt_error_message();
	static const char *const parts[] = {"run.yaml: ",      "(heads 8, tp 3)",         "(kv_heads 8, tp 3)",
					    "(ffn 256, tp 3)", "(seq 100, model.seq 64)", "(zero 1, dp 1, cp 1)"};
	for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
		if (!strstr(message, parts[i]))
			fail_msg("no '%s' in: %s", parts[i], message);
	}
}

/* The list of values is read when a rule is broken: every name in it is an option. */
static void every_rule_names_options_that_exist(void **state)
{
	for (int i = 0; i < mt_layout_rule_count; i++) {
		char names[64], *save = NULL;
		snprintf(names, sizeof names, "%s", mt_layout_rules[i].values);
		assert_string_equal(names, mt_layout_rules[i].values);
		for (char *name = strtok_r(names, " ", &save); name; name = strtok_r(NULL, " ", &save)) {
			bool of_model = strncmp(name, "model.", 6) == 0;
			assert_true((!of_model && mt_options_find(&mt_layout_options, name)) ||
				    mt_options_find(&mt_model_options, of_model ? name + 6 : name));
		}
	}
}

/* No rule divides by zero or overflows, whatever the values. */
static void rules_take_any_values(void **state)
{
	static const int64_t values[] = {INT64_MIN, -1, 0, 1, 2, 3, 8, 64, INT32_MAX, INT64_MAX};

	for (uint64_t i = 0; i < 20000; i++) {
		int64_t pick[16];
		for (uint64_t k = 0; k < 16; k++)
			pick[k] = values[mt_random_integer(2, k, i, 10)];
		struct mt_model m = {.layers = pick[0],
				     .hidden = pick[1],
				     .heads = pick[2],
				     .kv_heads = pick[3],
				     .head_dim = pick[4],
				     .ffn = pick[5],
				     .seq = pick[6]};
		struct mt_layout l = {.tp = pick[7],
				      .pp = pick[8],
				      .vp = 1,
				      .cp = pick[9],
				      .ep = 1,
				      .dp = pick[10],
				      .mbs = pick[11],
				      .gbs = pick[12],
				      .seq = pick[13],
				      .sp = pick[14] > 0,
				      .zero = pick[15]};
		for (int k = 0; k < mt_layout_rule_count; k++)
			(void)mt_layout_rules[k].broken(&m, &l);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(coordinates_and_rank_are_inverse),
		cmocka_unit_test(tensor_parallel_ranks_are_neighbours),
		cmocka_unit_test(layout_ranks_partition_the_world),
		cmocka_unit_test(groups_of_two_axes_meet_in_one_rank),
		cmocka_unit_test(stages_partition_the_layers_evenly),
		cmocka_unit_test(the_last_stage_has_no_layer_more_than_another),
		cmocka_unit_test(chunks_and_given_ends_partition_the_layers),
		cmocka_unit_test(a_list_gives_each_stage_its_layers),
		cmocka_unit_test(every_cut_has_a_list_that_is_the_same),
		cmocka_unit_test(a_list_that_does_not_fit_breaks_its_rule_alone),
		cmocka_unit_test(padded_vocabulary_splits_into_128s),
		cmocka_unit_test(the_text_says_only_what_differs),
		cmocka_unit_test(a_last_group_has_pp_microbatches_or_more),
		cmocka_unit_test(every_rule_is_broken_by_its_own_mistake_alone),
		cmocka_unit_test(the_check_lists_every_broken_rule_with_values),
		cmocka_unit_test(every_rule_names_options_that_exist),
		cmocka_unit_test(rules_take_any_values),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
