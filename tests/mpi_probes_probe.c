/* The probe over real ranks, with a small budget: what it measures is complete, positive and the same on every rank.
 * With an argument, that many seconds are spent and the tables printed.
 * ranks: 1 2 4 */
#include "base/file.h"
#include "base/log.h"
#include "comm/comm.h"
#include "probes/machine.h"
#include "probes/probe.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct run {
	struct mt_fabric *fabric;
	struct mt_group *world;
	struct mt_machine machine;
	struct mt_probe_options options;
	int rank, size, passed, failed;
};

#define CHECK(ok, ...)                                                                                                             \
	do {                                                                                                                       \
		if (!(ok)) {                                                                                                       \
			fprintf(stderr, "rank %d: ", r->rank);                                                                     \
			fprintf(stderr, __VA_ARGS__);                                                                              \
			fputc('\n', stderr);                                                                                       \
			return 1;                                                                                                  \
		}                                                                                                                  \
	} while (0)

static int hosts_hold_every_rank(struct run *r)
{
	const struct mt_machine *m = &r->machine;
	int ranks = 0;
	CHECK(m->world == r->size, "world %d, ranks %d", m->world, r->size);
	for (int h = 0; h < m->host_count; h++)
		ranks += m->hosts[h].ranks;
	CHECK(ranks == r->size, "%d ranks on hosts, %d in the world", ranks, r->size);
	for (int i = 0; i < r->size; i++)
		CHECK(strcmp(m->hosts[m->rank_host[i]].name, mt_fabric_host(r->fabric, i)) == 0, "rank %d is on %s, not %s", i,
		      mt_fabric_host(r->fabric, i), m->hosts[m->rank_host[i]].name);
	CHECK(m->rank_memory_bytes > 0 && m->process_bytes > 0, "memory a rank %lld, process %lld", (long long)m->rank_memory_bytes,
	      (long long)m->process_bytes);
	CHECK(strlen(m->fingerprint) == 16, "fingerprint \"%s\"", m->fingerprint);
	return 0;
}

static int rates_are_positive_and_finite(struct run *r)
{
	const struct mt_machine *m = &r->machine;
	CHECK(m->rate_count >= 2, "%d rates", m->rate_count);
	for (int i = 0; i < m->rate_count; i++)
		CHECK(m->rates[i].tflops > 0 && isfinite(m->rates[i].tflops) && m->rates[i].spread_tflops >= 0, "rate %d is %g", i,
		      m->rates[i].tflops);
	CHECK(m->memory_gbps > 0 && isfinite(m->memory_gbps), "triad %g GB/s", m->memory_gbps);
	CHECK(m->memory_one_gbps > 0 && isfinite(m->memory_one_gbps), "triad of one %g GB/s", m->memory_one_gbps);
	CHECK(m->step_jitter_frac >= 0 && isfinite(m->step_jitter_frac), "jitter %g", m->step_jitter_frac);
	return 0;
}

static int every_pair_has_a_class(struct run *r)
{
	const struct mt_machine *m = &r->machine;
	int pairs = 0;
	if (r->size == 1) {
		CHECK(m->class_count == 0 && !m->pair_class, "%d classes of one rank", m->class_count);
		return 0;
	}
	for (int a = 0; a < r->size; a++)
		for (int b = 0; b < r->size; b++) {
			int class = m->pair_class[a * r->size + b];
			CHECK((a == b) == (class < 0) && class < m->class_count && class == m->pair_class[b * r->size + a],
			      "ranks %d and %d are of class %d of %d", a, b, class, m->class_count);
		}
	for (int c = 0; c < m->class_count; c++) {
		const struct mt_machine_pair_class *k = &m->classes[c];
		pairs += k->pairs;
		CHECK(k->latency_us > 0 && k->bandwidth_gbps > 0 && k->lo_gbps <= k->bandwidth_gbps &&
			      k->bandwidth_gbps <= k->hi_gbps,
		      "class %s: %g us, %g GB/s within %g to %g", k->name, k->latency_us, k->bandwidth_gbps, k->lo_gbps,
		      k->hi_gbps);
	}
	CHECK(pairs == r->size * (r->size - 1) / 2, "%d pairs in classes", pairs);
	return 0;
}

static int every_curve_is_positive_and_finite(struct run *r)
{
	const struct mt_machine *m = &r->machine;
	int groups = 0;
	for (int size = 2; size <= r->size; size++)
		for (int stride = 1; size * stride <= r->size; stride++)
			groups += r->size % (size * stride) == 0;
	CHECK(m->curve_count == 8 * groups, "%d curves of %d groups", m->curve_count, groups);
	for (int i = 0; i < m->curve_count; i++) {
		const struct mt_comm_curve *c = &m->curves[i];
		CHECK(c->points >= 1 && c->points <= 24, "curve %d has %d points", i, c->points);
		CHECK(c->alpha_s >= 0 && c->beta_s_per_byte >= 0 && isfinite(c->residual_frac), "curve %d: alpha %g, beta %g", i,
		      c->alpha_s, c->beta_s_per_byte);
		for (int p = 0; p < c->points; p++)
			CHECK(c->seconds[p] > 0 && isfinite(c->seconds[p]) && c->spread_s[p] >= 0 &&
				      (p == 0 || c->bytes[p] > c->bytes[p - 1]),
			      "curve %d, point %d: %g bytes, %g s, spread %g", i, p, c->bytes[p], c->seconds[p], c->spread_s[p]);
	}
	return 0;
}

/* The same costs on all ranks: otherwise they would choose different layouts. */
static int all_ranks_hold_the_same_machine(struct run *r)
{
	const struct mt_machine *m = &r->machine;
	double sum = m->memory_gbps + m->step_jitter_frac + (double)m->rank_memory_bytes, most[2];
	for (int i = 0; i < m->rate_count; i++)
		sum += m->rates[i].tflops;
	for (int i = 0; i < m->class_count; i++)
		sum += m->classes[i].bandwidth_gbps + m->classes[i].latency_us;
	for (int i = 0; i < m->curve_count; i++)
		for (int p = 0; p < m->curves[i].points; p++)
			sum += m->curves[i].seconds[p] * 1e3;
	most[0] = sum;
	most[1] = -sum;
	if (mt_comm_host_all_reduce(r->world, most, 2, MT_MAX) != MT_OK)
		return 1;
	CHECK(most[0] == -most[1], "sums of the machine range from %.17g to %.17g", -most[1], most[0]);
	return 0;
}

static int saved_probe_loads_again(struct run *r)
{
	struct mt_machine again;
	char path[64] = "/tmp/mt_probe_XXXXXX";
	int fd = mkstemp(path);
	CHECK(fd >= 0, "no temporary file");
	close(fd);
	enum mt_status st = mt_machine_save(&r->machine, path);
	if (st == MT_OK)
		st = mt_machine_load(&again, path);
	unlink(path);
	CHECK(st == MT_OK, "%s", mt_error_message());
	bool same = again.world == r->machine.world && again.curve_count == r->machine.curve_count &&
		    strcmp(again.fingerprint, r->machine.fingerprint) == 0;
	mt_machine_free(&again);
	CHECK(same, "the file differs from the machine");
	return 0;
}

static int no_budget_takes_no_measurement(struct run *r)
{
	struct mt_machine m;
	struct mt_probe_options options = r->options;
	options.budget_s = 0;
	enum mt_status st = mt_probe_run(&m, &options, r->fabric);
	CHECK(st == MT_OK, "%s", mt_error_message());
	bool bare = m.rate_count == 0 && m.curve_count == 0 && m.class_count == 0 && m.host_count > 0;
	bool same = strcmp(m.fingerprint, r->machine.fingerprint) == 0;
	mt_machine_free(&m);
	CHECK(bare && same, "measured %s, fingerprint %s", bare ? "nothing" : "something", same ? "the same" : "another");
	return 0;
}

static const struct {
	const char *name;
	int (*run)(struct run *r);
} tests[] = {
	{"hosts_hold_every_rank", hosts_hold_every_rank},
	{"rates_are_positive_and_finite", rates_are_positive_and_finite},
	{"every_pair_has_a_class", every_pair_has_a_class},
	{"every_curve_is_positive_and_finite", every_curve_is_positive_and_finite},
	{"all_ranks_hold_the_same_machine", all_ranks_hold_the_same_machine},
	{"saved_probe_loads_again", saved_probe_loads_again},
	{"no_budget_takes_no_measurement", no_budget_takes_no_measurement},
};

static enum mt_status open_run(struct run *r, double budget_s)
{
	struct mt_fabric_config config = {.kind = mt_fabric_launched() ? "mpi" : "self", .size = 1};
	int ranks[1024];
	MT_TRY(mt_fabric_create(&r->fabric, &config));
	r->rank = mt_fabric_rank(r->fabric);
	r->size = mt_fabric_size(r->fabric);
	mt_log_set_rank(r->rank, r->size, mt_fabric_host(r->fabric, r->rank));
	if (r->size > 1024)
		return mt_fail(MT_INPUT, "at most 1024 ranks");
	for (int i = 0; i < r->size; i++)
		ranks[i] = i;
	MT_TRY(mt_group_create(r->fabric, "test", ranks, r->size, &r->world));
	if (getenv("MT_TEST_VERBOSE"))
		mt_log_set_level(MT_LOG_INFO);
	mt_options_default(&mt_probe_options_table, &r->options);
	r->options.budget_s = budget_s;
	r->options.most_bytes = 1 << 20;
	return mt_probe_run(&r->machine, &r->options, r->fabric);
}

int main(int argc, char **argv)
{
	struct run run = {0}, *r = &run;
	if (open_run(r, argc > 1 ? atof(argv[1]) : 2) != MT_OK) {
		fprintf(stderr, "rank %d: %s\n", r->rank, mt_error_message());
		if (r->fabric)
			mt_fabric_abort(r->fabric, 1);
		return 1;
	}
	for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
		double failed = tests[i].run(r);
		if (mt_comm_host_all_reduce(r->world, &failed, 1, MT_MAX) != MT_OK)
			mt_fabric_abort(r->fabric, 1);
		*(failed > 0 ? &r->failed : &r->passed) += 1;
		if (r->rank == 0)
			printf("%s %s\n", failed > 0 ? "FAILED" : "ok    ", tests[i].name);
	}
	if (argc > 1 && r->rank == 0)
		mt_probe_print(&r->machine, stdout);
	if (r->rank == 0)
		printf("%d passed, %d failed, 0 skipped\n", r->passed, r->failed);
	mt_options_free(&mt_probe_options_table, &r->options);
	mt_machine_free(&r->machine);
	mt_group_destroy(r->world);
	mt_fabric_destroy(r->fabric);
	return r->failed > 0;
}
