/* Sums of gradients over micro-batches in the forecast: what software pays that has no product that adds as it writes. */
#include "tuner/forecast.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

/* A LLaMA of 3 layers in 2 x 2: tp, dp. */
static const struct mt_case small = {.layers = 3,
				     .hidden = 4096,
				     .heads = 32,
				     .kv_heads = 32,
				     .head_dim = 128,
				     .ffn = 14336,
				     .vocab = 131072,
				     .seq = 4096,
				     .gated = true,
				     .fused_attention = true,
				     .tp = 2,
				     .pp = 1,
				     .vp = 1,
				     .cp = 1,
				     .ep = 1,
				     .dp = 2,
				     .mbs = 1,
				     .gbs = 32};

static struct mt_target target;
static struct mt_stack summed, fused; /* nanotron as it is; the same whose products add as they write */

static int load(void **state)
{
	if (mt_target_load(&target, "h100-80g-sxm") != MT_OK || mt_stack_load(&summed, "nanotron") != MT_OK)
		return -1;
	summed.host_forward_us = summed.host_backward_us = summed.host_comm_us = 0; /* so that nothing hides beside the host */
	fused = summed;
	fused.accumulate_bytes = 0;
	return 0;
}

static int unload(void **state)
{
	mt_target_free(&target);
	mt_stack_free(&summed);
	return 0;
}

static double bytes_s(double weights)
{
	return mt_target_vector_s(&target, summed.accumulate_bytes * weights);
}

static void near(double found, double wanted)
{
	if (!(fabs(found - wanted) <= 1e-9 * wanted))
		fail_msg("%.12g, wanted %.12g", found, wanted);
}

/* Each weight that a rank has is read and written once a micro-batch, in the backward pass of where it is. */
static void each_card_pays_for_its_weights(void **state)
{
	struct mt_forecast_cards with, without;

	mt_forecast_cards(&with, &small, &target, &summed, &mt_factors_none);
	mt_forecast_cards(&without, &small, &target, &fused, &mt_factors_none);
	near(with.layer.backward_s - without.layer.backward_s, bytes_s((4.0 * 4096 * 4096 + 3.0 * 4096 * 14336) / 2));
	near(with.head.backward_s - without.head.backward_s, bytes_s(131072.0 * 4096 / 2));
	near(with.embedding.backward_s - without.embedding.backward_s, bytes_s(131072.0 * 4096 / 2));
	near(with.layer.forward_s, without.layer.forward_s);
	near(with.layer.wgrad_s, without.layer.wgrad_s);
}

/* So twice the micro-batches of half the size pay twice, whatever the model's products take. */
static void a_step_pays_by_the_micro_batch(void **state)
{
	double more_s[2];

	for (int i = 0; i < 2; i++) {
		struct mt_case c = small;
		struct mt_forecast with, without;

		c.mbs = 2 - i;
		mt_forecast_step(&with, &c, &target, &summed, &mt_factors_none);
		mt_forecast_step(&without, &c, &target, &fused, &mt_factors_none);
		more_s[i] = with.compute_s - without.compute_s;
	}
	near(more_s[1], 2 * more_s[0]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_card_pays_for_its_weights),
		cmocka_unit_test(a_step_pays_by_the_micro_batch),
	};

	return cmocka_run_group_tests(tests, load, unload);
}
