/* Placement of ranks on devices whose links differ. */
#include "base/random.h"
#include "tuner/placement.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MOST = 16 };

static struct mt_machine_pair_class classes[2] = {{.name = "same host", .latency_us = 1, .bandwidth_gbps = 10},
						  {.name = "between hosts", .latency_us = 20, .bandwidth_gbps = 0.5}};
static int pairs[MOST * MOST];

/* Devices of `hosts` hosts, dealt as `host` says. */
static struct mt_machine machine_of(int world, const int *host)
{
	for (int a = 0; a < world; a++)
		for (int b = 0; b < world; b++)
			pairs[a * world + b] = a == b ? -1 : host[a] != host[b];
	return (struct mt_machine){.world = world, .class_count = 2, .classes = classes, .pair_class = pairs};
}

static struct mt_model model_of(void)
{
	struct mt_model m;

	if (mt_model_load(&m, "gpt2-124m") != MT_OK)
		fail_msg("%s", mt_error_message());
	return m;
}

static struct mt_layout layout_of(int tp, int pp, int dp)
{
	struct mt_layout l;

	mt_options_default(&mt_layout_options, &l);
	l.tp = tp;
	l.pp = pp;
	l.dp = dp;
	l.gbs = 4 * dp;
	l.seq = 256;
	return l;
}

static struct mt_placement find(const struct mt_machine *m, const struct mt_model *model, const struct mt_layout *l)
{
	struct mt_placement p;

	if (mt_placement_find(&p, m, model, l) != MT_OK)
		fail_msg("%s", mt_error_message());
	return p;
}

static void shuffle(int *values, int count, uint64_t seed)
{
	for (int i = count - 1; i > 0; i--) {
		int k = (int)mt_random_integer(seed, 7, (uint64_t)i, (uint64_t)i + 1), kept = values[i];

		values[i] = values[k];
		values[k] = kept;
	}
}

static void tensor_parallel_groups_come_together_on_shuffled_hosts(void **state)
{
	const int worlds[] = {4, 8, 12, 16};
	struct mt_model model = model_of();

	for (int i = 0; i < 4 * 8; i++) {
		int world = worlds[i % 4], host[MOST];
		struct mt_layout l = layout_of(2, i % 3 == 0 && world % 4 == 0 ? 2 : 1, 1);

		l.dp = world / (l.tp * l.pp);
		l.gbs = 256 * l.dp; /* many micro-batches: tensor parallelism sends most */
		for (int d = 0; d < world; d++)
			host[d] = d / (world / 2);
		shuffle(host, world, (uint64_t)i);
		struct mt_machine m = machine_of(world, host);
		struct mt_placement p = find(&m, &model, &l);
		for (int r = 0; r < world; r += 2)
			if (host[p.device[r]] != host[p.device[r + 1]] && world / 2 % 2 == 0)
				fail_msg("world %d, seed %d: ranks %d and %d are on different hosts", world, i, r, r + 1);
		mt_placement_free(&p);
	}
	mt_model_free(&model);
}

/* All orders of 6 and 8 devices. */
static double least_of_all(const struct mt_machine *m, const struct mt_model *model, const struct mt_layout *l, int *device, int at)
{
	double least = INFINITY;

	if (at == m->world)
		return mt_placement_cost(m, model, l, device);
	for (int i = at; i < m->world; i++) {
		int kept = device[at];

		device[at] = device[i];
		device[i] = kept;
		least = fmin(least, least_of_all(m, model, l, device, at + 1));
		device[i] = device[at];
		device[at] = kept;
	}
	return least;
}

static void none_of_all_orders_is_better(void **state)
{
	const struct {
		int tp, pp, dp, ep;
	} shapes[] = {{2, 3, 1, 1}, {3, 1, 2, 1}, {1, 3, 2, 1}, {2, 1, 3, 1}, {1, 1, 6, 1},
		      {1, 6, 1, 1}, {1, 1, 6, 2}, {1, 1, 6, 3}, {1, 2, 3, 3}, {2, 1, 3, 3}};
	struct mt_model dense = model_of(), experts = model_of();

	experts.experts = 6;
	experts.top_k = 2;
	experts.expert_ffn = 512;
	for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
		int host[6] = {0, 1, 0, 1, 1, 0}, device[6] = {0, 1, 2, 3, 4, 5};
		struct mt_layout l = layout_of(shapes[i].tp, shapes[i].pp, shapes[i].dp);
		const struct mt_model *model = shapes[i].ep > 1 ? &experts : &dense;

		l.ep = shapes[i].ep;
		shuffle(host, 6, i);
		struct mt_machine m = machine_of(6, host);
		struct mt_placement p = find(&m, model, &l);
		double least = least_of_all(&m, model, &l, device, 0);
		if (!(p.placed_s <= least * (1 + 1e-9)))
			fail_msg("shape %zu: %.6g s, best of all orders %.6g s", i, p.placed_s, least);
		mt_placement_free(&p);
	}
	mt_model_free(&experts);
	mt_model_free(&dense);
}

/* Rows of an exchange go to all ranks of a group, so that it is cheapest within a host. */
static void expert_groups_come_together_on_shuffled_hosts(void **state)
{
	struct mt_model model;

	if (mt_model_load(&model, "mixtral-8x7b") != MT_OK)
		fail_msg("%s", mt_error_message());
	for (int i = 0; i < 8; i++) {
		int host[MOST];
		struct mt_layout l = layout_of(1 + i % 2, 1, MOST / (1 + i % 2));

		l.sp = l.tp > 1;
		l.etp = 1;
		l.ep = 4;
		l.gbs = 256 * l.dp; /* many micro-batches: rows weigh more than gradients */
		for (int d = 0; d < MOST; d++)
			host[d] = d / 4;
		shuffle(host, MOST, 50 + (uint64_t)i);
		struct mt_machine m = machine_of(MOST, host);
		struct mt_placement p = find(&m, &model, &l);
		for (int r = 0; r < MOST; r++)
			if (host[p.device[r]] != host[p.device[r - r % 4]])
				fail_msg("seed %d: ranks %d and %d of one ep group are on different hosts", i, r - r % 4, r);
		mt_placement_free(&p);
	}
	mt_model_free(&model);
}

static void no_random_order_is_better_and_the_launchers_never(void **state)
{
	struct mt_model model = model_of();

	for (int i = 0; i < 10; i++) {
		int host[MOST], device[MOST];
		struct mt_layout l = layout_of(2, 2, 4);

		for (int d = 0; d < MOST; d++) {
			host[d] = d / 4;
			device[d] = d;
		}
		shuffle(host, MOST, 100 + (uint64_t)i);
		struct mt_machine m = machine_of(MOST, host);
		struct mt_placement p = find(&m, &model, &l);
		assert_true(p.placed_s <= p.launcher_s);
		assert_true(p.placed_s == mt_placement_cost(&m, &model, &l, p.device));
		for (int k = 0; k < 20; k++) {
			shuffle(device, MOST, 1000 * (uint64_t)i + (uint64_t)k);
			assert_true(p.placed_s <= mt_placement_cost(&m, &model, &l, device));
		}
		mt_placement_free(&p);
	}
	mt_model_free(&model);
}

static void the_same_input_gives_the_same_order_and_text_reads_back(void **state)
{
	const int host[8] = {0, 1, 0, 1, 0, 1, 0, 1};
	struct mt_model model = model_of();
	struct mt_machine m = machine_of(8, host);
	struct mt_layout l = layout_of(2, 2, 2);
	struct mt_placement a = find(&m, &model, &l), b = find(&m, &model, &l);
	static const char *const bad[] = {"", "0", "0,1,2,3,4,5,6,6", "0,1,2,3,4,5,6,8", "0,1,2,3,4,5,6,7,7", "0,1,2,x,4,5,6,7"};
	char *text = mt_placement_text(&a);
	int device[8];

	assert_memory_equal(a.device, b.device, sizeof device);
	assert_int_equal(mt_placement_read(text, &l, device), MT_OK);
	assert_memory_equal(a.device, device, sizeof device);
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		assert_int_equal(mt_placement_read(bad[i], &l, device), MT_INPUT);
		mt_error_clear();
	}
	free(text);
	mt_placement_free(&a);
	mt_placement_free(&b);
	mt_model_free(&model);
}

static void sorted_devices_come_host_by_host(void **state)
{
	for (int i = 0; i < 10; i++) {
		int host[MOST], device[MOST];

		for (int d = 0; d < MOST; d++)
			host[d] = d / 4;
		shuffle(host, MOST, 300 + (uint64_t)i);
		struct mt_machine m = machine_of(MOST, host);
		assert_int_equal(mt_placement_sorted(&m, device), MT_OK);
		uint32_t seen = 0;
		for (int r = 0; r < MOST; r++) {
			seen |= 1u << device[r];
			assert_int_equal(host[device[r]], host[device[r - r % 4]]);
		}
		assert_int_equal(seen, (1u << MOST) - 1);
	}
}

/* The rank on each device, by the dimensions' strides. */
static void names_of_orders_are_read_and_found(void **state)
{
	struct mt_layout l = layout_of(2, 3, 4);
	char list[400] = "";
	int device[48], world;

	l.cp = 2;
	world = (int)mt_layout_world(&l);
	for (int order = 0; order < MT_RANK_ORDERS; order++) {
		assert_int_equal(mt_placement_read(mt_rank_order_names[order], &l, device), MT_OK);
		list[0] = '\0';
		for (int r = 0; r < world; r++) {
			struct mt_coordinates at = mt_layout_coordinates(&l, r);
			int dp = order == MT_RANKS_PP_DP ? 2 * 2 * 3 : 2 * 2, pp = order == MT_RANKS_PP_DP ? 2 * 2 : 2 * 2 * 4;

			assert_int_equal(device[r], at.tp + 2 * at.cp + dp * at.dp + pp * at.pp);
			snprintf(list + strlen(list), sizeof list - strlen(list), "%s%d", r ? "," : "", device[r]);
		}
		assert_int_equal(mt_placement_named(mt_rank_order_names[order], &l), order);
		assert_int_equal(mt_placement_named(list, &l), order);
	}
	memcpy(list, "1,0", 3); /* it began 0,1 */
	assert_int_equal(mt_placement_named(list, &l), -1);
	assert_int_equal(mt_placement_named("tp-pp-dp", &l), -1);
	assert_int_equal(mt_placement_read("tp-pp-dp", &l, device), MT_INPUT);
	mt_error_clear();
}

static void alike_links_and_other_worlds_want_no_placement(void **state)
{
	const int host[4] = {0, 0, 0, 0}, two[4] = {0, 0, 1, 1};
	struct mt_model model = model_of();
	struct mt_machine m = machine_of(4, host);
	struct mt_layout l = layout_of(2, 1, 4);
	struct mt_placement p;

	assert_false(mt_placement_matters(&m));
	m = machine_of(4, two);
	assert_true(mt_placement_matters(&m));
	assert_int_equal(mt_placement_find(&p, &m, &model, &l), MT_UNAVAILABLE);
	mt_error_clear();
	mt_model_free(&model);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tensor_parallel_groups_come_together_on_shuffled_hosts),
		cmocka_unit_test(none_of_all_orders_is_better),
		cmocka_unit_test(expert_groups_come_together_on_shuffled_hosts),
		cmocka_unit_test(no_random_order_is_better_and_the_launchers_never),
		cmocka_unit_test(the_same_input_gives_the_same_order_and_text_reads_back),
		cmocka_unit_test(sorted_devices_come_host_by_host),
		cmocka_unit_test(names_of_orders_are_read_and_found),
		cmocka_unit_test(alike_links_and_other_worlds_want_no_placement),
	};
	return cmocka_run_group_tests_name("tuner_placement", tests, NULL, NULL);
}
