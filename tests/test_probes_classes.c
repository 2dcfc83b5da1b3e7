/* Pairs of ranks are put into the classes that a network has, whatever the noise. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/random.h"
#include "probes/parts.h"
#include "probes/pattern.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* world ranks, per_host a host; bandwidth of a pair by the hosts' racks, with noise of +- noise_frac. */
struct network {
	struct mt_machine machine;
	struct mt_probe_pairs pairs;
};

static void make_network(struct network *n, int world, int per_host, int hosts_per_rack, double near, double rack, double far,
			 double noise, uint64_t seed)
{
	size_t all = (size_t)world * (size_t)world;
	memset(n, 0, sizeof *n);
	n->machine.world = n->pairs.world = world;
	n->machine.host_count = world / per_host;
	n->machine.hosts = calloc((size_t)n->machine.host_count, sizeof *n->machine.hosts);
	n->machine.rank_host = calloc((size_t)world, sizeof *n->machine.rank_host);
	n->pairs.latency_us = calloc(all, sizeof(double));
	n->pairs.bandwidth_gbps = calloc(all, sizeof(double));
	for (int a = 0; a < world; a++) {
		n->machine.rank_host[a] = a / per_host;
		n->machine.hosts[a / per_host].ranks = per_host;
	}
	for (int a = 0; a < world; a++)
		for (int b = a + 1; b < world; b++) {
			int ha = a / per_host, hb = b / per_host;
			double gbps = ha == hb ? near : ha / hosts_per_rack == hb / hosts_per_rack ? rack : far;
			gbps *= 1 + noise * (2 * mt_random_uniform(seed, 1, (uint64_t)(a * world + b)) - 1);
			n->pairs.bandwidth_gbps[a * world + b] = n->pairs.bandwidth_gbps[b * world + a] = gbps;
			n->pairs.latency_us[a * world + b] = n->pairs.latency_us[b * world + a] = 1 + 100 / gbps;
		}
}

static void free_network(struct network *n)
{
	mt_machine_free(&n->machine);
	free(n->pairs.latency_us);
	free(n->pairs.bandwidth_gbps);
}

static int class_of(const struct network *n, int a, int b)
{
	return n->machine.pair_class[a * n->machine.world + b];
}

static void two_racks_give_three_classes(void **state)
{
	for (uint64_t seed = 0; seed < 20; seed++) {
		struct network n;
		make_network(&n, 16, 2, 4, 10, 1, 0.3, 0.1, seed);
		assert_int_equal(mt_probe_classify(&n.machine, &n.pairs), MT_OK);
		assert_int_equal(n.machine.class_count, 3);
		assert_string_equal(n.machine.classes[0].name, "same host");
		assert_string_equal(n.machine.classes[1].name, "between hosts");
		assert_string_equal(n.machine.classes[2].name, "between hosts, slower");
		for (int a = 0; a < 16; a++)
			for (int b = 0; b < 16; b++) {
				int want = a == b ? -1 : a / 2 == b / 2 ? 0 : a / 8 == b / 8 ? 1 : 2;
				if (class_of(&n, a, b) != want)
					fail_msg("seed %d: ranks %d and %d are of class %d, not %d", (int)seed, a, b,
						 class_of(&n, a, b), want);
			}
		assert_int_equal(n.machine.classes[0].pairs, 8);
		assert_int_equal(n.machine.classes[1].pairs, 2 * 28 - 8);
		assert_int_equal(n.machine.classes[2].pairs, 64);
		for (int c = 0; c < 3; c++) {
			const struct mt_machine_pair_class *k = &n.machine.classes[c];
			if (!(k->lo_gbps <= k->bandwidth_gbps && k->bandwidth_gbps <= k->hi_gbps && k->latency_us > 0))
				fail_msg("class %d: %g not within %g and %g", c, k->bandwidth_gbps, k->lo_gbps, k->hi_gbps);
		}
		free_network(&n);
	}
}

static void alike_links_are_one_class(void **state)
{
	for (uint64_t seed = 0; seed < 20; seed++) {
		struct network n;
		make_network(&n, 12, 1, 6, 10, 1, 0.95, 0.1, seed);
		assert_int_equal(mt_probe_classify(&n.machine, &n.pairs), MT_OK);
		assert_int_equal(n.machine.class_count, 1);
		assert_string_equal(n.machine.classes[0].name, "between hosts");
		assert_int_equal(n.machine.classes[0].pairs, 66);
		free_network(&n);
	}
}

/* Only the first ranks of hosts were measured: the others are taken for what their hosts are. */
static void unmeasured_pairs_follow_their_hosts(void **state)
{
	struct network n;
	make_network(&n, 32, 4, 2, 10, 2, 0.5, 0.1, 3);
	for (int a = 0; a < 32; a++)
		for (int b = 0; b < 32; b++)
			if (a / 4 != b / 4 && (a % 4 || b % 4))
				n.pairs.bandwidth_gbps[a * 32 + b] = n.pairs.latency_us[a * 32 + b] = 0;
	assert_int_equal(mt_probe_classify(&n.machine, &n.pairs), MT_OK);
	assert_int_equal(n.machine.class_count, 3);
	for (int a = 0; a < 32; a++)
		for (int b = 0; b < 32; b++) {
			int want = a == b ? -1 : a / 4 == b / 4 ? 0 : a / 8 == b / 8 ? 1 : 2;
			if (class_of(&n, a, b) != want)
				fail_msg("ranks %d and %d are of class %d, not %d", a, b, class_of(&n, a, b), want);
		}
	free_network(&n);
}

static void nothing_measured_between_hosts_is_still_one_class(void **state)
{
	struct network n;
	make_network(&n, 4, 2, 1, 10, 1, 1, 0, 0);
	memset(n.pairs.bandwidth_gbps, 0, 16 * sizeof(double));
	memset(n.pairs.latency_us, 0, 16 * sizeof(double));
	assert_int_equal(mt_probe_classify(&n.machine, &n.pairs), MT_OK);
	assert_int_equal(n.machine.class_count, 2);
	assert_int_equal(class_of(&n, 0, 3), 1);
	free_network(&n);
}

/* Every link has its own speed: the classes stay few. */
static void many_speeds_give_at_most_eight_classes(void **state)
{
	struct network n;
	double gbps = 1;
	make_network(&n, 10, 1, 1, 10, 1, 1, 0, 0);
	for (int a = 0; a < 10; a++)
		for (int b = a + 1; b < 10; b++, gbps *= 1.5)
			n.pairs.bandwidth_gbps[a * 10 + b] = n.pairs.bandwidth_gbps[b * 10 + a] = gbps;
	assert_int_equal(mt_probe_classify(&n.machine, &n.pairs), MT_OK);
	assert_in_range(n.machine.class_count, 1, 8);
	int pairs = 0;
	for (int c = 0; c < n.machine.class_count; c++)
		pairs += n.machine.classes[c].pairs;
	assert_int_equal(pairs, 45);
	free_network(&n);
}

static void fit_finds_alpha_and_beta(void **state)
{
	struct mt_comm_curve c = {.points = 8};
	for (int i = 0; i < 8; i++) {
		c.bytes[i] = 1024 * pow(4, i);
		c.seconds[i] = (12e-6 + c.bytes[i] * 0.25e-9) * (1 + 0.02 * (2 * mt_random_uniform(1, 2, (uint64_t)i) - 1));
	}
	mt_probe_fit(&c);
	if (fabs(c.alpha_s / 12e-6 - 1) > 0.05 || fabs(c.beta_s_per_byte / 0.25e-9 - 1) > 0.05 || c.residual_frac > 0.03)
		fail_msg("alpha %g s, beta %g s/byte, residual %g", c.alpha_s, c.beta_s_per_byte, c.residual_frac);
	c = (struct mt_comm_curve){.points = 1, .bytes = {1000}, .seconds = {1e-6}};
	mt_probe_fit(&c);
	assert_true(fabs(c.alpha_s + 1000 * c.beta_s_per_byte - 1e-6) < 1e-15);
}

/* 100 MB/s behind a token bucket of 128 KiB, which messages up to that size pass in 20 us. */
static void fit_goes_on_as_a_bent_curve_ends(void **state)
{
	struct mt_comm_curve c = {.points = 6};
	for (int i = 0; i < 6; i++) {
		c.bytes[i] = 1024 * pow(4, i);
		c.seconds[i] = 20e-6 + fmax(0, c.bytes[i] - 131072) * 10e-9;
	}
	mt_probe_fit(&c);
	double got = mt_comm_curve_s(&c, 16 << 20), want = 20e-6 + (16777216 - 131072) * 10e-9;
	if (fabs(got / want - 1) > 0.02 || c.alpha_s < 20e-6 || c.residual_frac < 0.1)
		fail_msg("16 MiB take %g s, expected %g; alpha %g s, residual %g", got, want, c.alpha_s, c.residual_frac);
}

/* Sums of the check pattern are whole numbers that bf16 holds, in any world. */
static void pattern_sums_are_exact_in_bf16(void **state)
{
	static const int worlds[] = {1, 2, 7, 64, 65, 100, 1024, 5000};
	for (size_t i = 0; i < sizeof worlds / sizeof *worlds; i++)
		for (int e = 0; e < MT_PATTERN; e++) {
			int sum = 0;
			for (int r = 0; r < worlds[i]; r++)
				sum += mt_pattern_value(e, r, worlds[i]);
			if (sum > 256 || mt_bf16_to_f32(mt_bf16_from_f32((float)sum)) != (float)sum)
				fail_msg("world %d, element %d: the sum is %d", worlds[i], e, sum);
		}
}

static struct mt_machine fingerprinted(int hosts, const char *cpu, const char *kernel, const char *libraries)
{
	struct mt_machine_host *list = calloc((size_t)hosts, sizeof *list);
	struct mt_machine m = {.host_count = hosts, .hosts = list, .device = "cpu"};
	assert_non_null(list);
	strcpy(m.libraries, libraries);
	for (int h = 0; h < hosts; h++) {
		struct mt_machine_host *host = &list[h];
		*host = (struct mt_machine_host){.ranks = 1, .cores = 2, .threads_per_core = 1, .memory_bytes = 25276116992};
		strcpy(host->cpu, cpu);
		strcpy(host->isa, "avx512");
		strcpy(host->kernel, kernel);
	}
	mt_probe_fingerprint(&m);
	free(list);
	m.hosts = NULL;
	return m;
}

static void fingerprint_follows_hardware_and_libraries_only(void **state)
{
	struct mt_machine a = fingerprinted(1, "X", "6.1", "dnn 2.6"), more_hosts = fingerprinted(5, "X", "6.1", "dnn 2.6");
	struct mt_machine kernel = fingerprinted(1, "X", "6.2", "dnn 2.6"), cpu = fingerprinted(1, "Y", "6.1", "dnn 2.6");
	struct mt_machine library = fingerprinted(1, "X", "6.1", "dnn 2.7");
	assert_int_equal(strlen(a.fingerprint), 16);
	assert_string_equal(a.fingerprint, more_hosts.fingerprint);
	assert_string_equal(a.fingerprint, kernel.fingerprint);
	assert_string_not_equal(a.fingerprint, cpu.fingerprint);
	assert_string_not_equal(a.fingerprint, library.fingerprint);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(two_racks_give_three_classes),
		cmocka_unit_test(alike_links_are_one_class),
		cmocka_unit_test(unmeasured_pairs_follow_their_hosts),
		cmocka_unit_test(nothing_measured_between_hosts_is_still_one_class),
		cmocka_unit_test(many_speeds_give_at_most_eight_classes),
		cmocka_unit_test(fit_finds_alpha_and_beta),
		cmocka_unit_test(fit_goes_on_as_a_bent_curve_ends),
		cmocka_unit_test(pattern_sums_are_exact_in_bf16),
		cmocka_unit_test(fingerprint_follows_hardware_and_libraries_only),
	};
	return cmocka_run_group_tests_name("probes: classes", tests, NULL, NULL);
}
