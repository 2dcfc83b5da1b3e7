/* What each axis of the search over the forecast does to time and memory: where two choices must be the same, and which must be
 * less. */
#include "engine/context.h"
#include "tuner/forecast.h"
#include "tuner/survey.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static struct mt_target target;
static struct mt_stack software;

/* A layer of LLaMA 8B's shape, without grouped queries where kv_heads is 32. */
static struct mt_survey_query query_of(const char *machine, const char *stack, int kv_heads, int gpus)
{
	struct mt_survey_query q;

	mt_survey_default(&q);
	assert_int_equal(mt_target_load(&target, machine), MT_OK);
	assert_int_equal(mt_stack_load(&software, stack), MT_OK);
	q.model = (struct mt_case){.layers = 16,
				   .hidden = 4096,
				   .heads = 32,
				   .kv_heads = kv_heads,
				   .head_dim = 128,
				   .ffn = 14336,
				   .vocab = 32000,
				   .seq = 32768,
				   .gbs = 32,
				   .gated = true,
				   .fused_attention = true};
	q.target = &target;
	q.stack = &software;
	q.gpus = gpus;
	q.memory_bytes = 80 * 1073741824.0;
	return q;
}

static void close_query(void)
{
	mt_target_free(&target);
	mt_stack_free(&software);
}

static const struct mt_survey_layout plain = {
	.tp = 1, .cp = 1, .ep = 1, .etp = 1, .pp = 1, .vp = 1, .dp = 1, .mbs = 1, .cp_inner = 1};

static struct mt_forecast forecast(const struct mt_survey_query *q, struct mt_survey_layout l)
{
	struct mt_forecast f;

	mt_survey_forecast(&f, q, &l);
	return f;
}

/* Heads exchanged by one rank is a ring, by all it is ulysses: of time and of memory. */
static void two_levels_meet_ring_and_ulysses_at_their_ends(void **state)
{
	struct mt_survey_query q = query_of("dgx-h100-eos", "megatron-core", 8, 32);
	struct mt_survey_layout l = plain, two;
	struct mt_forecast ring, heads, a, b;

	l.cp = 8;
	l.dp = 4;
	two = l;
	ring = forecast(&q, l);
	l.cp_kind = MT_CONTEXT_ULYSSES;
	heads = forecast(&q, l);
	two.cp_kind = MT_CONTEXT_HYBRID;
	a = forecast(&q, two);
	two.cp_inner = 8;
	b = forecast(&q, two);
	assert_true(a.step_s == ring.step_s && a.peak_bytes == ring.peak_bytes);
	assert_true(b.step_s == heads.step_s && b.peak_bytes == heads.peak_bytes);
	assert_true(ring.cp_s > 0 && heads.cp_s > 0 && ring.cp_s != heads.cp_s);
	two.cp_inner = 2;
	a = forecast(&q, two);
	assert_true(a.cp_s != ring.cp_s && a.cp_s != heads.cp_s);
	close_query();
}

/* Gathers wait where a ring hides beside attention, and hold every rank's keys; with as many key heads as queries what is gathered
 * grows with the ranks, what is exchanged does not. */
static void kinds_of_context_parallelism_cost_their_own_messages(void **state)
{
	struct mt_survey_query q = query_of("dgx-h100-eos", "megatron-core", 32, 64);
	struct mt_survey_layout l = plain;
	double gathered[2], exchanged[2];

	for (int i = 0; i < 2; i++) {
		struct mt_forecast ring, gather, heads;

		l.cp = i ? 8 : 4;
		l.dp = 64 / l.cp;
		l.cp_kind = MT_CONTEXT_RING;
		ring = forecast(&q, l);
		l.cp_kind = MT_CONTEXT_ALL_GATHER;
		gather = forecast(&q, l);
		l.cp_kind = MT_CONTEXT_ULYSSES;
		heads = forecast(&q, l);
		assert_true(gather.cp_s > ring.cp_s);
		assert_true(gather.memory[0].activations > ring.memory[0].activations);
		gathered[i] = gather.cp_s / (double)gather.microbatches;
		exchanged[i] = heads.cp_s / (double)heads.microbatches;
	}
	/* a rank's tokens halve: what it exchanges too, what it gathers hardly */
	assert_true(exchanged[1] < 0.75 * exchanged[0]);
	assert_true(gathered[1] > 0.9 * gathered[0]);
	close_query();
}

/* A group of all ranks is none; the smaller the groups, the more memory. Sharded in nodes parameters do not cross a slow network.
 */
static void smaller_groups_keep_more_and_send_less_far(void **state)
{
	struct mt_survey_query q = query_of("a100-80g-sxm", "torchtitan-fsdp2", 8, 32);
	struct mt_survey_layout l = plain;
	struct mt_forecast all, same, node;

	target.nic_gbps = 2;
	q.model.seq = 2048;
	q.model.gbs = 512; /* many micro-batches: parameters are gathered often, copies summed once */
	l.dp = 32;
	for (l.zero = 1; l.zero <= 3; l.zero += 2) {
		double before = 0;

		l.zero_group = 0;
		all = forecast(&q, l);
		l.zero_group = 32;
		same = forecast(&q, l);
		assert_true(same.step_s == all.step_s && same.peak_bytes == all.peak_bytes);
		for (l.zero_group = 32; l.zero_group >= 2; l.zero_group /= 2) {
			double bytes = forecast(&q, l).peak_bytes;

			assert_true(bytes > before);
			before = bytes;
		}
	}
	l.zero = 3;
	l.zero_group = 8;
	node = forecast(&q, l);
	assert_true(node.dp_s < all.dp_s);
	/* and where a node is all there is, copies are only one more sum */
	target.nic_gbps = 1000;
	target.domain_gpus = 32;
	assert_true(forecast(&q, l).dp_s > 0);
	close_query();
}

/* Members of the first group of replicas that are on the first node, rank by rank. */
static int on_first_node(int tp, int cp, int pp, int domain, int ranks, int step)
{
	int count = 0;

	for (int k = 0; k < ranks; k++) {
		int replica = k * step;

		count += replica % cp * tp + replica / cp * tp * cp * pp < domain;
	}
	return count;
}

static void replicas_behind_a_pipeline_lie_where_their_ranks_do(void **state)
{
	query_of("dgx-h100-eos", "megatron-core", 8, 64);
	int several = 0;

	for (target.domain_gpus = 1; target.domain_gpus <= 64; target.domain_gpus *= 2)
		for (int tp = 1; tp <= 8; tp *= 2)
			for (int cp = 1; cp <= 8; cp *= 2)
				for (int pp = 1; pp <= 8; pp *= 2)
					for (int step = 1; step <= 8; step *= 2) {
						struct mt_span s = mt_target_span_blocks(&target, 16, step, cp, tp, tp * cp * pp);

						assert_int_equal((int)s.local,
								 on_first_node(tp, cp, pp, (int)target.domain_gpus, 16, step));
						several += s.local > 1;
					}
	assert_true(several > 50);
	close_query();
}

/* Two dimensions trade places: a pipeline that fills a node sends within it, and its replicas over the network alone; what no
 * dimension does but these stays. */
static void stages_next_to_one_another_send_less_far_and_replicas_farther(void **state)
{
	struct mt_survey_query q = query_of("dgx-h100-eos", "megatron-core", 8, 64);
	struct mt_survey_layout l = plain;
	struct mt_forecast far, near;

	q.model.seq = 2048;
	q.model.gbs = 128;
	l.tp = l.etp = 2;
	l.pp = 4;
	l.dp = 8;
	l.zero = 1;
	far = forecast(&q, l);
	l.rank_order = MT_RANKS_PP_DP;
	near = forecast(&q, l);
	assert_true(near.pp_s < far.pp_s && near.dp_s > far.dp_s);
	assert_true(near.peak_bytes == far.peak_bytes && near.tp_s == far.tp_s && near.compute_s == far.compute_s);
	/* where all is one node nothing is far */
	target.domain_gpus = 64;
	near = forecast(&q, l);
	l.rank_order = MT_RANKS_DP_PP;
	far = forecast(&q, l);
	assert_true(near.step_s == far.step_s);
	/* with one replica there is nothing to trade places with */
	target.domain_gpus = 8;
	q.gpus = 32;
	l.dp = 1;
	l.pp = 16;
	l.zero = 0;
	assert_int_equal(mt_survey_why_not(&q, &l), -1);
	l.rank_order = MT_RANKS_PP_DP;
	assert_string_equal(mt_survey_rules[mt_survey_why_not(&q, &l)].name, "rank_order_needs_pp_and_dp");
	close_query();
}

/* Layers with experts of a stage, counted one by one, and of the whole model. */
static double experts_of(const struct mt_case *c, int first, int end)
{
	double count = 0;

	for (int i = first; i < end; i++)
		count += i >= (int)c->dense_layers && (i - (int)c->dense_layers) % (int)c->expert_every == 0;
	return count;
}

static void experts_in_every_nth_layer_lie_where_stages_have_them(void **state)
{
	struct mt_survey_query q = query_of("dgx-h100-eos", "megatron-core", 8, 64);
	struct mt_case c = q.model;
	int uneven = 0;

	c.experts = 8;
	c.topk = 2;
	c.ends_given = true;
	c.tp = c.cp = c.ep = c.dp = c.mbs = 1;
	for (c.layers = 12; c.layers <= 24; c.layers += 12)
		for (c.expert_every = 2; c.expert_every <= 4; c.expert_every++)
			for (c.dense_layers = 0; c.dense_layers <= 3; c.dense_layers++)
				for (c.pp = 2; c.pp <= 6; c.pp++)
					for (c.vp = 1; c.vp <= 3; c.vp++) {
						int chunk = (int)(c.layers / (c.pp * c.vp)), parts = (int)(c.pp * c.vp);
						double most = 0, sum = 0, each;
						struct mt_case_stage stages[MT_FORECAST_STAGES];

						if (chunk * parts != (int)c.layers)
							continue;
						mt_case_stages(&c, stages);
						for (int s = 0; s < (int)c.pp; s++) {
							each = 0;
							for (int v = s; v < parts; v += (int)c.pp)
								each += experts_of(&c, v * chunk, (v + 1) * chunk);
							sum += each;
							if (s > 0 && s < (int)c.pp - 1)
								most = fmax(most, each);
							if (s == 0)
								assert_true(stages[0].layers - stages[0].dense == each);
							if (s == (int)c.pp - 1)
								assert_true(stages[2].layers - stages[2].dense == each);
						}
						if (c.pp > 2)
							assert_true(stages[1].layers - stages[1].dense == most);
						assert_true(c.layers - mt_case_dense(&c) == sum);
						uneven += c.pp > 2 && most * c.pp > sum;
					}
	assert_true(uneven > 10);
	close_query();
}

/* Each output that is not kept saves its bytes and costs time; two together save what both do. */
static void selected_outputs_save_their_bytes(void **state)
{
	struct mt_survey_query q = query_of("dgx-h100-eos", "megatune", 8, 8);
	struct mt_survey_layout l = plain;
	double tokens = 32768, layers = 16, saved[MT_CASE_SELECTIONS], more_s[MT_CASE_SELECTIONS];
	struct mt_forecast none;

	l.dp = 8;
	l.zero = 1;
	none = forecast(&q, l);
	l.recompute = MT_CASE_SELECTIVE;
	l.recompute_layers = 16;
	for (l.selected = 1; l.selected < MT_CASE_SELECTIONS; l.selected++) {
		struct mt_forecast f = forecast(&q, l);

		saved[l.selected] = (none.memory[0].activations - f.memory[0].activations) / (tokens * layers);
		more_s[l.selected] = f.step_s - none.step_s;
		assert_true(more_s[l.selected] > 0);
	}
	assert_float_equal(saved[MT_CASE_ATTENTION], 2 * 4096, 1e-3);
	assert_float_equal(saved[MT_CASE_ACTIVATION], 2 * 14336, 1e-3);
	assert_float_equal(saved[MT_CASE_NORMS], 4 * 4096, 1e-3);
	assert_float_equal(saved[7], saved[1] + saved[2] + saved[4], 1e-3);
	assert_true(more_s[7] > more_s[6] && more_s[6] > more_s[4]);
	/* half of the layers: half of the bytes */
	l.selected = 7;
	l.recompute_layers = 8;
	assert_float_equal((none.memory[0].activations - forecast(&q, l).memory[0].activations) / (tokens * layers), saved[7] / 2,
			   1e-3);
	close_query();
}

static void the_switch_hides_tensor_parallelism_for_its_buffers(void **state)
{
	struct mt_survey_query q = query_of("dgx-h100-eos", "megatron-core", 8, 8);
	struct mt_survey_layout l = plain;
	struct mt_forecast off, on;

	l.tp = l.etp = 8;
	l.sp = 1;
	off = forecast(&q, l);
	l.tp_overlap = 1;
	on = forecast(&q, l);
	/* embedding and head are not hidden */
	assert_true(on.tp_s < off.tp_s && on.tp_s > (1 - software.tp_switch_frac) * off.tp_s);
	assert_float_equal(on.memory[0].activations - off.memory[0].activations, software.tp_switch_buffers * 2 * 32768.0 * 4096,
			   1);
	assert_int_equal(mt_survey_why_not(&q, &l), -1);
	l.sp = 0;
	assert_string_equal(mt_survey_rules[mt_survey_why_not(&q, &l)].name, "tp_overlap_needs_sp");
	close_query();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(two_levels_meet_ring_and_ulysses_at_their_ends),
		cmocka_unit_test(kinds_of_context_parallelism_cost_their_own_messages),
		cmocka_unit_test(smaller_groups_keep_more_and_send_less_far),
		cmocka_unit_test(replicas_behind_a_pipeline_lie_where_their_ranks_do),
		cmocka_unit_test(stages_next_to_one_another_send_less_far_and_replicas_farther),
		cmocka_unit_test(experts_in_every_nth_layer_lie_where_stages_have_them),
		cmocka_unit_test(selected_outputs_save_their_bytes),
		cmocka_unit_test(the_switch_hides_tensor_parallelism_for_its_buffers),
	};
	return cmocka_run_group_tests_name("tuner_survey_axes", tests, NULL, NULL);
}
