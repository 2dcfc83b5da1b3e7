/* The machine file: what is written is what is read, what is wrong is refused with its line, and costs that follow from it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/file.h"
#include "probes/machine.h"
#include "probes/probe.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const golden[] = {"tests/data/machines/measured-4.yaml", "tests/data/machines/racks-64.yaml",
				     "tests/data/machines/laptop.yaml"};
enum { GOLDEN = sizeof golden / sizeof *golden };

static void load(struct mt_machine *m, const char *path)
{
	enum mt_status st = mt_machine_load(m, path);
	if (st != MT_OK)
		fail_msg("%s: %s (%s)", path, mt_error_message(), mt_status_name(st));
}

static void temporary(char path[64])
{
	strcpy(path, "/tmp/mt_machine_XXXXXX");
	int fd = mkstemp(path);
	assert_true(fd >= 0);
	close(fd);
}

/* Loads text as a machine file; the message is left in mt_error_message. */
static enum mt_status load_text(struct mt_machine *m, const char *text)
{
	char path[64];
	temporary(path);
	assert_int_equal(mt_file_write(path, text, strlen(text)), MT_OK);
	mt_error_clear();
	enum mt_status st = mt_machine_load(m, path);
	unlink(path);
	return st;
}

static void saved_machine_loads_as_itself(void **state)
{
	for (int i = 0; i < GOLDEN; i++) {
		struct mt_machine a, b;
		char one[64], two[64], *x, *y;
		size_t nx, ny;
		temporary(one);
		temporary(two);
		load(&a, golden[i]);
		assert_int_equal(mt_machine_save(&a, one), MT_OK);
		load(&b, one);
		assert_int_equal(mt_machine_save(&b, two), MT_OK);
		assert_int_equal(mt_file_read(one, 0, &x, &nx), MT_OK);
		assert_int_equal(mt_file_read(two, 0, &y, &ny), MT_OK);
		assert_int_equal(nx, ny);
		assert_string_equal(x, y);
		assert_int_equal(a.world, b.world);
		assert_memory_equal(a.hosts, b.hosts, (size_t)a.host_count * sizeof *a.hosts);
		assert_memory_equal(a.rank_host, b.rank_host, (size_t)a.world * sizeof *a.rank_host);
		assert_memory_equal(a.classes, b.classes, (size_t)a.class_count * sizeof *a.classes);
		assert_memory_equal(a.curves, b.curves, (size_t)a.curve_count * sizeof *a.curves);
		if (a.pair_class)
			assert_memory_equal(a.pair_class, b.pair_class, (size_t)a.world * (size_t)a.world * sizeof *a.pair_class);
		assert_int_equal(a.provenance, b.provenance);
		mt_machine_free(&a);
		mt_machine_free(&b);
		free(x);
		free(y);
		unlink(one);
		unlink(two);
	}
}

static void host_with_a_count_stands_for_many(void **state)
{
	struct mt_machine m;
	load(&m, "tests/data/machines/racks-64.yaml");
	assert_int_equal(m.world, 64);
	assert_int_equal(m.host_count, 8);
	assert_string_equal(m.hosts[7].name, "node7");
	for (int r = 0; r < 64; r++)
		assert_int_equal(m.rank_host[r], r / 8);
	mt_machine_free(&m);
}

static void wrong_files_are_refused_with_their_line(void **state)
{
	static const struct {
		const char *text, *message;
	} bad[] = {
		{"schema: 1\nname: a\nnmae: b\nhosts:\n  - {name: x, ranks: 1}\n", ":3"},
		{"schema: 1\nname: a\nhosts:\n  - {name: x, rankz: 1, ranks: 1}\n", ":4"},
		{"schema: 1\nname: a\nhosts:\n  - {name: x}\n", "ranks"},
		{"schema: 1\nname: a\nhosts:\n  - {name: x, ranks: 0}\n", ":4"},
		{"schema: 1\nname: a\nhosts:\n  - {name: x, ranks: -3}\n", ":4"},
		{"schema: 1\nname: a\nhosts:\n  - {name: x, ranks: 9999999}\n", "9999999"},
		{"schema: 1\nname: a\nhosts:\n  - {name: x, count: 9223372036854775807, ranks: 2}\n", ":4"},
		{"schema: 2\nname: a\nhosts:\n  - {name: x, ranks: 1}\n", "schema"},
		{"name: a\nhosts:\n  - {name: x, ranks: 1}\n", "schema"},
		{"schema: 1\nname: a\n", "hosts"},
		{"schema: 1\nname: a\nworld: 3\nhosts:\n  - {name: x, ranks: 2}\n", "world"},
		{"schema: 1\nname: a\nmemory_gbps: .nan\nhosts:\n  - {name: x, ranks: 1}\n", ":3"},
		{"schema: 1\nname: a\nmemory_gbps: -1\nhosts:\n  - {name: x, ranks: 1}\n", ":3"},
		{"schema: 1\nname: a\nprovenance: guessed\nhosts:\n  - {name: x, ranks: 1}\n", "guessed"},
		{"schema: 1\nname: a\nhosts:\n  - {name: x, ranks: 2}\nrank_host: [0, 1]\n", "rank 1"},
		{"schema: 1\nname: a\nhosts:\n  - {name: x, ranks: 2}\nrank_host: [0]\n", "rank_host"},
		{"schema: 1\nname: a\nhosts:\n  - {name: x, ranks: 2}\nclasses:\n  - {name: s, latency_us: 1, bandwidth_gbps: 1}\n"
		 "pair_class: [\".1\", \"1.\"]\n",
		 "pair_class"},
		{"schema: 1\nname: a\nhosts:\n  - {name: x, ranks: 2}\nclasses:\n  - {name: s, latency_us: 1, bandwidth_gbps: 1}\n"
		 "pair_class: [\"..\", \"0.\"]\n",
		 "pair_class"},
		{"schema: 1\nname: a\nhosts:\n  - {name: x, ranks: 2}\ncurves:\n  - {op: all_reduce, dtype: f32, size: 2, stride: "
		 "1, alpha_s: 0, "
		 "beta_s_per_byte: 0, points: [[8, 1], [4, 2]]}\n",
		 "grow"},
		{"schema: 1\nname: a\nhosts:\n  - {name: x, ranks: 2}\ncurves:\n  - {op: all_reduce, dtype: f33, size: 2, stride: "
		 "1, alpha_s: 0, "
		 "beta_s_per_byte: 0, points: [[8, 1]]}\n",
		 "f33"},
	};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		struct mt_machine m;
		enum mt_status st = load_text(&m, bad[i].text);
		if (st != MT_INPUT || !strstr(mt_error_message(), bad[i].message))
			fail_msg("case %zu: %s, message \"%s\" without \"%s\"", i, mt_status_name(st), mt_error_message(),
				 bad[i].message);
		assert_null(m.hosts); /* nothing half-read is left */
	}
	mt_error_clear();
}

static double cost(const struct mt_machine *m, enum mt_comm_op op, enum mt_dtype dtype, int64_t bytes, int size, int stride,
		   enum mt_provenance *provenance)
{
	struct mt_comm_key key = {.op = op, .dtype = dtype, .bytes = bytes, .size = size, .stride = stride, .group = "dp"};
	return mt_machine_comm_s(m, &key, provenance);
}

static void cost_grows_with_bytes(void **state)
{
	static const int sizes[] = {2, 4, 8, 64}, strides[] = {0, 1, 2, 8};
	for (int i = 0; i < GOLDEN - 1; i++) {
		struct mt_machine m;
		load(&m, golden[i]);
		for (int op = 0; op < MT_COMM_BARRIER; op++)
			for (int s = 0; s < 4; s++)
				for (int t = 0; t < 4; t++) {
					double last = 0;
					for (int64_t bytes = 1; bytes < 4ll << 30; bytes *= 2) {
						double now =
							cost(&m, (enum mt_comm_op)op, MT_BF16, bytes, sizes[s], strides[t], NULL);
						if (!(now >= last * (1 - 1e-9)) || !(now > 0) || !isfinite(now))
							fail_msg("%s: %s of %lld bytes over %d, stride %d: %g s after %g s",
								 golden[i], mt_comm_op_name((enum mt_comm_op)op), (long long)bytes,
								 sizes[s], strides[t], now, last);
						last = now;
					}
				}
		mt_machine_free(&m);
	}
}

static void one_rank_costs_nothing(void **state)
{
	struct mt_machine m;
	load(&m, golden[0]);
	for (int op = 0; op < MT_COMM_OP_COUNT; op++)
		assert_true(cost(&m, (enum mt_comm_op)op, MT_F32, 1 << 20, 1, 1, NULL) == 0);
	mt_machine_free(&m);
}

static void measured_point_is_given_back_as_measured(void **state)
{
	struct mt_machine m;
	enum mt_provenance from;
	load(&m, golden[0]);
	for (int i = 0; i < m.curve_count; i++) {
		const struct mt_comm_curve *c = &m.curves[i];
		for (int p = 0; p < c->points; p++) {
			double s = cost(&m, c->op, c->dtype, (int64_t)c->bytes[p], c->size, c->stride, &from);
			if (fabs(s - c->seconds[p]) > 1e-9 * s || from != MT_MEASURED)
				fail_msg("%s of %g bytes: %g s, measured %g s, %s", mt_comm_op_name(c->op), c->bytes[p], s,
					 c->seconds[p], mt_provenance_name(from));
		}
		cost(&m, c->op, c->dtype, (int64_t)(c->bytes[0] * 2.5), c->size, c->stride, &from);
		assert_int_equal(from, MT_INTERPOLATED);
	}
	mt_machine_free(&m);
	load(&m, golden[1]);
	cost(&m, MT_COMM_ALL_REDUCE, MT_F32, 1 << 20, 8, 1, &from);
	assert_int_equal(from, MT_SPECIFICATION);
	mt_machine_free(&m);
}

static void unmeasured_group_is_not_faster_than_a_smaller_one(void **state)
{
	struct mt_machine m;
	load(&m, golden[0]);
	for (int op = 0; op < MT_COMM_BARRIER; op++) {
		double three = cost(&m, (enum mt_comm_op)op, MT_F32, 1 << 16, 3, 1, NULL),
		       two = cost(&m, (enum mt_comm_op)op, MT_F32, 1 << 16, 2, 1, NULL);
		if (three < two)
			fail_msg("%s: 3 ranks %g s, 2 ranks %g s", mt_comm_op_name((enum mt_comm_op)op), three, two);
	}
	mt_machine_free(&m);
}

static void reduction_of_another_type_is_slower_as_in_all_reduce(void **state)
{
	struct mt_machine m;
	load(&m, golden[0]);
	double f32 = cost(&m, MT_COMM_REDUCE_SCATTER, MT_F32, 1 << 14, 4, 1, NULL),
	       bf16 = cost(&m, MT_COMM_REDUCE_SCATTER, MT_BF16, 1 << 14, 4, 1, NULL);
	if (fabs(bf16 / f32 - 1.3) > 1e-3)
		fail_msg("bf16 %g s over f32 %g s is not 1.3", bf16, f32);
	assert_true(cost(&m, MT_COMM_ALL_GATHER, MT_BF16, 1 << 14, 4, 1, NULL) ==
		    cost(&m, MT_COMM_ALL_GATHER, MT_F32, 1 << 14, 4, 1, NULL));
	mt_machine_free(&m);
}

/* Without curves: groups inside a host take the fast class, groups across hosts the slow one and share the host's NIC. */
static void groups_across_hosts_pay_for_the_slow_links(void **state)
{
	struct mt_machine m;
	load(&m, golden[1]);
	double inside = cost(&m, MT_COMM_ALL_REDUCE, MT_F32, 64 << 20, 8, 1, NULL),
	       across = cost(&m, MT_COMM_ALL_REDUCE, MT_F32, 64 << 20, 8, 8, NULL);
	double bytes = 64 << 20, want = 2 * 3 * 9e-6 + 2 * 7.0 / 8 * bytes / 2e9 * 8;
	if (fabs(across / want - 1) > 1e-9 || inside >= across)
		fail_msg("inside %g s, across %g s, expected %g s", inside, across, want);
	mt_machine_free(&m);
	load(&m, golden[0]); /* the pair classes decide: ranks 0 and 2 are on one host, 0 and 1 are not */
	m.curve_count = 0;
	double near = cost(&m, MT_COMM_SEND_RECV, MT_F32, 1 << 20, 2, 2, NULL),
	       far = cost(&m, MT_COMM_SEND_RECV, MT_F32, 1 << 20, 2, 1, NULL);
	if (fabs(near - (1.2e-6 + (1 << 20) / 10.5e9)) > 1e-9 || far < 5 * near)
		fail_msg("near %g s, far %g s", near, far);
	m.curve_count = 21;
	mt_machine_free(&m);
}

/* Two racks of two hosts of two ranks. */
static const char racks[] = "schema: 1\nname: racks\nhosts:\n  - {name: x, count: 4, ranks: 2, nics: 1}\nclasses:\n"
			    "  - {name: same host, latency_us: 1, bandwidth_gbps: 0.2}\n  - {name: between hosts, latency_us: 10, "
			    "bandwidth_gbps: 0.4}\n"
			    "  - {name: slower, latency_us: 20, bandwidth_gbps: 0.1}\n"
			    "pair_class: [.0112222, 0.112222, 11.02222, 110.2222, 2222.011, 22220.11, 222211.0, 2222110.]\n";

static const struct message {
	enum mt_comm_op op;
	int size, stride, from, to;
	double us, bytes_per_us; /* bytes/us: MB/s */
} messages[] = {
	{MT_COMM_SEND_RECV, 8, 1, 2, 3, 1, 200},  /* on one host */
	{MT_COMM_SEND_RECV, 8, 1, 1, 2, 10, 400}, /* between hosts, alone on the link */
	{MT_COMM_SEND_RECV, 8, 1, 3, 4, 20, 100}, /* between racks */
	{MT_COMM_SEND_RECV, 8, 1, 4, 3, 20, 100}, /* back */
	{MT_COMM_SEND_RECV, 4, 2, 0, 1, 10, 200}, /* both ranks of a host at once */
	{MT_COMM_SEND_RECV, 4, 2, 1, 2, 20, 50},  /* of one of the rack's */
	{MT_COMM_SEND_RECV, 2, 4, 0, 1, 20, 25},  /* of both */
	{MT_COMM_SEND_RECV, 4, 1, 1, 2, 10, 400}, /* two groups, each within its rack */
	{MT_COMM_SHIFT, 8, 1, 0, 0, 20, 100},     /* one leaves a rack, another enters it */
	{MT_COMM_SHIFT, 4, 2, 0, 0, 20, 50},      {MT_COMM_SHIFT, 2, 1, 0, 0, 1, 200},
};

static double message_cost(const struct mt_machine *m, const struct message *of, double bytes)
{
	struct mt_comm_key key = {.op = of->op, .dtype = MT_F32, .bytes = (int64_t)bytes, .size = of->size, .stride = of->stride};

	key.from = of->from;
	key.to = of->to;
	return mt_machine_comm_s(m, &key, NULL);
}

/* By classes alone; then in proportion to a curve, whose sweep has two messages leave a host, and a rack, at once. */
static void messages_cost_what_their_links_do(void **state)
{
	static const double bytes = 1e6;
	char text[1500];
	struct mt_machine m;

	assert_int_equal(load_text(&m, racks), MT_OK);
	for (size_t i = 0; i < sizeof messages / sizeof *messages; i++) {
		const struct message *k = &messages[i];
		double want = k->us * 1e-6 + bytes / (k->bytes_per_us * 1e6), got = message_cost(&m, k, bytes);

		if (fabs(got / want - 1) > 1e-9)
			fail_msg("message %zu: %g s, expected %g s", i, got, want);
	}
	mt_machine_free(&m);
	snprintf(text, sizeof text,
		 "%scurves:\n  - {op: send_recv, dtype: f32, size: 8, stride: 1, alpha_s: 40e-6, beta_s_per_byte: 30e-9, points: "
		 "[[1, 40e-6], [1e6, 30e-3]]}\n",
		 racks);
	assert_int_equal(load_text(&m, text), MT_OK);
	for (int i = 0; i < 4; i++) {
		const struct message *k = &messages[i];
		double want = 40e-6 * k->us / 20 + (30e-3 - 40e-6) * 50 / k->bytes_per_us, got = message_cost(&m, k, bytes);

		if (fabs(got / want - 1) > 1e-9)
			fail_msg("message %d by the curve: %g s, expected %g s", i, got, want);
	}
	mt_machine_free(&m);
}

/* Without a class a pair: a host's ranks share its NICs. */
static void ranks_of_a_host_share_its_nics(void **state)
{
	struct message within = {MT_COMM_SEND_RECV, 2, 1, 0, 1, 0, 0}, across = {MT_COMM_SEND_RECV, 8, 8, 2, 3, 0, 0};
	struct mt_machine m;
	double bytes = 1 << 20;

	load(&m, golden[1]);
	for (int nics = 1; nics <= 16; nics *= 4) {
		double share = fmax(1, 8.0 / nics), want = 9e-6 + bytes * share / 2e9, got;

		for (int h = 0; h < m.host_count; h++)
			m.hosts[h].nics = nics;
		got = message_cost(&m, &across, bytes);
		if (fabs(got / want - 1) > 1e-9)
			fail_msg("%d NICs: %g s, expected %g s", nics, got, want);
		assert_true(message_cost(&m, &within, bytes) < got / 5);
	}
	mt_machine_free(&m);
}

static void rate_is_exact_or_nearest(void **state)
{
	struct mt_machine m;
	load(&m, golden[0]);
	assert_true(mt_machine_tflops(&m, MT_F32, 1, 2) == 0.112);
	assert_true(mt_machine_tflops(&m, MT_F32, 1, 1) == 0.121);
	assert_true(fabs(mt_machine_tflops(&m, MT_F32, 4, 2) - 0.448) < 1e-12);
	assert_true(mt_machine_tflops(&m, MT_F64, 1, 1) == 0);
	mt_machine_free(&m);
}

static void tables_fit_80_columns(void **state)
{
	for (int i = 0; i < GOLDEN; i++) {
		struct mt_machine m;
		char *text, *line;
		size_t size;
		load(&m, golden[i]);
		FILE *file = open_memstream(&text, &size);
		mt_probe_print(&m, file);
		fclose(file);
		for (line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
			if (strlen(line) > 80)
				fail_msg("%zu columns: %s", strlen(line), line);
		free(text);
		mt_machine_free(&m);
	}
}

static double seconds(const struct mt_machine *m, enum mt_comm_op op, int size, int stride, int from, int64_t bytes)
{
	struct mt_comm_key key = {
		.op = op, .dtype = MT_F32, .bytes = bytes, .size = size, .stride = stride, .from = from, .to = (from + 1) % size};

	return mt_machine_comm_s(m, &key, NULL);
}

/* Every operation over every kind of group, a message along each edge of it. */
static int compare_machines(const struct mt_machine *a, const struct mt_machine *b)
{
	int compared = 0;

	for (int op = 0; op < MT_COMM_ALL_TO_ALL_V; op++)
		for (int size = 2; size <= a->world; size *= 2)
			for (int stride = 1; stride * size <= a->world; stride *= 2)
				for (int from = 0; from < (op == MT_COMM_SEND_RECV ? size : 1); from++)
					for (int64_t bytes = 64; bytes <= 1 << 24; bytes *= 512) {
						double x = seconds(a, (enum mt_comm_op)op, size, stride, from, bytes);
						double y = seconds(b, (enum mt_comm_op)op, size, stride, from, bytes);

						if (fabs(x - y) > 1e-12 * x)
							fail_msg("%s of %d, %d apart: %.9g and %.9g s",
								 mt_comm_op_name((enum mt_comm_op)op), size, stride, x, y);
						compared++;
					}
	return compared;
}

/* Ranks put back in order on a machine of shuffled ones cost what they cost where they never were shuffled; as launched what they
 * did.
 */
static void a_placed_machine_is_the_machine_in_that_order(void **state)
{
	static const char *const files[] = {"tests/data/machines/racks-8-shuffled.yaml", "tests/data/machines/measured-4.yaml"};
	static const int by_host[] = {0, 4, 2, 6, 1, 5, 3, 7}, as_launched[] = {0, 1, 2, 3, 4, 5, 6, 7};
	struct mt_machine m, placed, back;
	int again[8];

	load(&m, files[0]);
	assert_int_equal(mt_machine_place(&placed, &m, by_host), MT_OK);
	for (int r = 0; r < 8; r++) {
		again[by_host[r]] = r;
		assert_int_equal(placed.rank_host[r], r / 2);
	}
	assert_true(seconds(&placed, MT_COMM_ALL_REDUCE, 2, 1, 0, 1 << 20) <
		    0.1 * seconds(&m, MT_COMM_ALL_REDUCE, 2, 1, 0, 1 << 20));
	assert_int_equal(mt_machine_place(&back, &placed, again), MT_OK);
	assert_true(compare_machines(&m, &back) > 100);
	mt_machine_unplace(&back);
	mt_machine_unplace(&placed);
	mt_machine_free(&m);
	for (int i = 0; i < 2; i++) { /* the second has curves */
		load(&m, files[i]);
		assert_int_equal(mt_machine_place(&placed, &m, as_launched), MT_OK);
		assert_true(compare_machines(&m, &placed) > 50);
		mt_machine_unplace(&placed);
		mt_machine_free(&m);
	}
}

/* Two hosts of two ranks, dealt in turn: pairs that came together cost what pairs of one host were measured to cost where such
 * were, in the proportion of their links where not; pairs that came apart the other way round. */
static void curves_of_another_order_count_by_what_rings_do_to_links(void **state)
{
	static const int by_host[] = {0, 2, 1, 3};
	struct mt_machine m, placed;
	double near_s, far_s, latency, rate;

	load(&m, "tests/data/machines/measured-4.yaml");
	assert_int_equal(mt_machine_place(&placed, &m, by_host), MT_OK);
	latency = m.classes[0].latency_us / m.classes[1].latency_us;
	rate = m.classes[0].bandwidth_gbps / m.classes[1].bandwidth_gbps;
	assert_true(latency < 1 && rate > 1);
	for (int64_t bytes = 1 << 10; bytes <= 1 << 24; bytes *= 16) {
		near_s = seconds(&placed, MT_COMM_ALL_REDUCE, 2, 1, 0, bytes) / seconds(&m, MT_COMM_ALL_REDUCE, 2, 1, 0, bytes);
		far_s = seconds(&placed, MT_COMM_ALL_REDUCE, 2, 2, 0, bytes) / seconds(&m, MT_COMM_ALL_REDUCE, 2, 2, 0, bytes);
		assert_true(near_s < 1 && near_s >= fmin(latency, 1 / (2 * rate)) - 1e-9);
		assert_true(far_s > 1);
	}
	mt_machine_unplace(&placed);
	mt_machine_free(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(saved_machine_loads_as_itself),
		cmocka_unit_test(host_with_a_count_stands_for_many),
		cmocka_unit_test(wrong_files_are_refused_with_their_line),
		cmocka_unit_test(cost_grows_with_bytes),
		cmocka_unit_test(one_rank_costs_nothing),
		cmocka_unit_test(measured_point_is_given_back_as_measured),
		cmocka_unit_test(unmeasured_group_is_not_faster_than_a_smaller_one),
		cmocka_unit_test(reduction_of_another_type_is_slower_as_in_all_reduce),
		cmocka_unit_test(groups_across_hosts_pay_for_the_slow_links),
		cmocka_unit_test(messages_cost_what_their_links_do),
		cmocka_unit_test(ranks_of_a_host_share_its_nics),
		cmocka_unit_test(rate_is_exact_or_nearest),
		cmocka_unit_test(tables_fit_80_columns),
		cmocka_unit_test(a_placed_machine_is_the_machine_in_that_order),
		cmocka_unit_test(curves_of_another_order_count_by_what_rings_do_to_links),
	};
	return cmocka_run_group_tests_name("probes: machine", tests, NULL, NULL);
}
