/* What options of a software and kinds of layers cost in the forecast: properties of the parts of a layer. */
#include "tuner/forecast.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct mt_target target;
static struct mt_stack stack;

static int open_profiles(void **state)
{
	return mt_target_load(&target, "h100-80g-sxm") == MT_OK && mt_stack_load(&stack, "megatron-bridge") == MT_OK ? 0 : -1;
}

static int close_profiles(void **state)
{
	mt_target_free(&target);
	mt_stack_free(&stack);
	return 0;
}

static struct mt_case dense(void)
{
	return (struct mt_case){.layers = 80,
				.hidden = 8192,
				.heads = 64,
				.kv_heads = 8,
				.head_dim = 128,
				.ffn = 28672,
				.vocab = 128256,
				.seq = 8192,
				.gated = true,
				.tp = 4,
				.pp = 1,
				.vp = 1,
				.cp = 1,
				.ep = 1,
				.dp = 1,
				.mbs = 1,
				.gbs = 1,
				.sp = true,
				.zero = 1,
				.width = MT_WIDTH_8,
				.fused_attention = true};
}

static struct mt_case with_experts(void)
{
	struct mt_case c = dense();

	c.hidden = 2880;
	c.head_dim = 64;
	c.ffn = 2880;
	c.experts = 128;
	c.topk = 4;
	c.tp = 1;
	c.sp = false;
	c.ep = c.dp = 8;
	return c;
}

static struct mt_pass_forecast layer_of(const struct mt_case *c, const struct mt_stack *s)
{
	struct mt_forecast_cards cards;

	mt_forecast_cards(&cards, c, &target, s, &mt_factors_none);
	return cards.layer;
}

static double seconds(const struct mt_case *c, const struct mt_stack *s)
{
	struct mt_pass_forecast p = layer_of(c, s);

	return p.forward_s + p.backward_s;
}

/* The casts are all that sequence parallelism changes in the products; in 16 bits there are none. */
static void what_is_gathered_is_cast_once(void **state)
{
	struct mt_case sp = dense(), whole = dense();

	whole.sp = false;
	assert_true(layer_of(&sp, &stack).products_s < layer_of(&whole, &stack).products_s);
	sp.width = whole.width = MT_WIDTH_16;
	assert_float_equal(layer_of(&sp, &stack).products_s, layer_of(&whole, &stack).products_s, 1e-12);
}

static void narrow_operands_are_gathered_as_such(void **state)
{
	struct mt_case narrow = dense(), wide = dense();

	wide.width = MT_WIDTH_16;
	double ratio = layer_of(&narrow, &stack).tp_s / layer_of(&wide, &stack).tp_s;

	assert_true(ratio > 0.75 && ratio < 0.8); /* half of the gathers, which are half */
}

/* Twice the ranks over twice the sequence: as many tokens a rank, one step of each pass more for each rank more. */
static void each_further_rank_of_a_ring_costs_a_step(void **state)
{
	struct mt_case two = dense(), four = dense();
	double step_s;

	two.cp = 2;
	four.cp = 4;
	four.seq *= 2;
	step_s = (layer_of(&four, &stack).cp_s - layer_of(&two, &stack).cp_s) / 2;
	assert_true(step_s > 2 * stack.message_us * 1e-6);
	assert_true(step_s < 6 * stack.message_us * 1e-6);
}

static void clamped_gates_cost_experts_only(void **state)
{
	struct mt_case c = with_experts(), clamped = c, plain = dense();

	clamped.clamped = true;
	assert_true(seconds(&clamped, &stack) > 1.2 * seconds(&c, &stack));
	clamped = plain;
	clamped.clamped = true;
	assert_float_equal(seconds(&clamped, &stack), seconds(&plain, &stack), 1e-15);
}

static void fused_experts_save_in_8_bits_only(void **state)
{
	struct mt_stack fused = stack;
	struct mt_case c = with_experts();

	fused.fused_experts = true;
	assert_true(seconds(&c, &fused) < seconds(&c, &stack));
	c.width = MT_WIDTH_16;
	assert_float_equal(seconds(&c, &fused), seconds(&c, &stack), 1e-15);
}

/* Host and device take turns in layers of experts that are exchanged, and only there. */
static void overlapped_experts_expose_the_host(void **state)
{
	struct mt_stack open = stack, idle = stack;
	struct mt_case c = with_experts(), plain = dense(), alone = c;

	open.ep_exposes_host = true;
	idle.host_forward_us = idle.host_backward_us = idle.host_comm_us = idle.host_expert_us = idle.host_cast_us = 0;
	double host_s = 1e-6 * (open.host_forward_us + open.host_backward_us + 2 * open.host_expert_us + 4 * open.host_comm_us +
				2 * open.host_cast_us * (2 + 2 * c.experts / c.ep));

	assert_float_equal(seconds(&c, &open), seconds(&c, &idle) + host_s, 1e-9);
	assert_true(seconds(&c, &open) > seconds(&c, &stack));
	alone.ep = 1;
	assert_float_equal(seconds(&alone, &open), seconds(&alone, &stack), 1e-15);
	assert_float_equal(seconds(&plain, &open), seconds(&plain, &stack), 1e-15);
}

/* Two gathers of 8 bits and two scatters of 16 a pass, each read and written; no overlap hides them. */
static void copies_of_gathered_rows_are_never_hidden(void **state)
{
	struct mt_stack copies = stack, none = stack;
	struct mt_case c = dense(), narrow = c, whole = c;
	double copied_s;

	copies.tp_copies = true;
	copied_s = layer_of(&c, &copies).tp_s - layer_of(&c, &none).tp_s;
	assert_float_equal(copied_s, 2 * 2 * mt_target_vector_s(&target, 2 * c.mbs * c.seq * c.hidden * (1 + 2)), 1e-9);
	copies.tp_overlap_frac = none.tp_overlap_frac = 1;
	assert_float_equal(layer_of(&c, &copies).tp_s - layer_of(&c, &none).tp_s, copied_s, 1e-9);
	narrow.tp = 1;
	narrow.sp = whole.sp = false;
	assert_float_equal(seconds(&narrow, &copies), seconds(&narrow, &none), 1e-15);
	assert_float_equal(seconds(&whole, &copies), seconds(&whole, &none), 1e-15);
}

/* Then each rank casts all rows: what sequence parallelism saves elsewhere is not saved. */
static void what_is_gathered_wide_is_cast_whole(void **state)
{
	struct mt_stack wide = stack;
	struct mt_case sp = dense(), whole = dense(), same = dense();

	wide.tp_gathers_wide = true;
	whole.sp = false;
	assert_float_equal(layer_of(&sp, &wide).products_s, layer_of(&whole, &wide).products_s, 1e-12);
	assert_true(layer_of(&sp, &wide).tp_s > layer_of(&sp, &stack).tp_s);
	same.width = MT_WIDTH_16;
	assert_float_equal(seconds(&same, &wide), seconds(&same, &stack), 1e-15);
}

static void broadcasts_grow_with_the_ranks_that_share_the_state(void **state)
{
	struct mt_stack sends = stack;
	struct mt_case c = dense();
	struct mt_forecast without, with;

	sends.broadcast_us = 1000;
	c.dp = c.gbs = 64;
	for (c.zero = 0; c.zero < 2; c.zero++) {
		mt_forecast_step(&without, &c, &target, &stack, &mt_factors_none);
		mt_forecast_step(&with, &c, &target, &sends, &mt_factors_none);
		assert_float_equal(with.step_s, without.step_s + c.zero * 0.064, 1e-9);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_gathered_is_cast_once),
		cmocka_unit_test(narrow_operands_are_gathered_as_such),
		cmocka_unit_test(each_further_rank_of_a_ring_costs_a_step),
		cmocka_unit_test(clamped_gates_cost_experts_only),
		cmocka_unit_test(fused_experts_save_in_8_bits_only),
		cmocka_unit_test(overlapped_experts_expose_the_host),
		cmocka_unit_test(copies_of_gathered_rows_are_never_hidden),
		cmocka_unit_test(what_is_gathered_wide_is_cast_whole),
		cmocka_unit_test(broadcasts_grow_with_the_ranks_that_share_the_state),
	};
	return cmocka_run_group_tests_name("tuner_layer", tests, open_profiles, close_profiles);
}
