/* A made-up machine and profile: every cost is known, nothing is measured. */
#ifndef TESTS_TUNER_PROBLEM_H
#define TESTS_TUNER_PROBLEM_H

#include "tuner/cost.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct made_up {
	struct mt_machine machine;
	struct mt_machine_pair_class class;
	struct mt_cost_model cost;
};

/* One host of `world` ranks whose messages cost latency_us and bytes / gbps; products run at flops_per_s, all else at
 * bytes_per_s, and each operation costs overhead_s more. */
static inline void make_up(struct made_up *m, int world, double latency_us, double gbps, double flops_per_s, double bytes_per_s,
			   double overhead_s)
{
	struct mt_profile_rates rates = {.bytes_per_s = bytes_per_s, .overhead_s = overhead_s};

	memset(m, 0, sizeof *m);
	for (int i = 0; i < MT_DTYPE_COUNT; i++)
		rates.flops_per_s[i] = flops_per_s;
	m->class = (struct mt_machine_pair_class){.name = "same host", .latency_us = latency_us, .bandwidth_gbps = gbps};
	m->machine.world = world;
	m->machine.class_count = 1;
	m->machine.classes = &m->class;
	m->machine.rank_host = calloc((size_t)world, sizeof *m->machine.rank_host);
	m->machine.process_bytes = 10 << 20;
	m->machine.step_jitter_frac = 0.01;
	m->cost = (struct mt_cost_model){.machine = &m->machine, .ranks_per_host = world, .model_error_frac = 0.05};
	if (!m->machine.rank_host || mt_profile_create(&m->cost.profile, 1, world, &rates) != MT_OK) {
		fprintf(stderr, "%s\n", mt_error_message());
		abort();
	}
}

static inline void make_up_end(struct made_up *m)
{
	mt_profile_destroy(m->cost.profile);
	free(m->machine.rank_host);
}

static inline void free_candidate(struct mt_candidate *c)
{
	free(c->stage);
	c->stage = NULL;
}

#endif
