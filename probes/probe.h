/* probe: measures the machine that the ranks of a fabric run on. */
#ifndef MT_PROBES_PROBE_H
#define MT_PROBES_PROBE_H

#include "base/options.h"
#include "probes/machine.h"

#include <stdio.h>

struct mt_probe_options {
	double budget_s;    /* wall time for all measurements; each is sampled until its interval is narrow or its share is spent;
			     * 0: no measurements, only what the system says and the fingerprint */
	int64_t most_bytes; /* largest message of the collective sweep */
	int64_t least_bytes;
	char *device;     /* whose product rates are measured; NULL: "cpu" */
	int64_t threads;  /* threads a rank for the product rates; 0: cores / local ranks */
	bool pairs;       /* measure every pair class */
	bool collectives; /* sweep the collectives for every regular group (size, stride) that a layout can use, all groups at once
			   */
};
extern const struct mt_option_table mt_probe_options_table;

/* Collective over the fabric; every rank gets the whole machine. MT_FAILED when a collective gave a wrong result: the
 * message names it and the rank. A fabric of one rank has no pairs and no collectives. */
enum mt_status mt_probe_run(struct mt_machine *machine, const struct mt_probe_options *options, struct mt_fabric *fabric);

/* This host only, no measurements: for doctor and plan. */
enum mt_status mt_probe_host(struct mt_machine_host *host);

/* Human table on `file`, 80 columns: hosts, rates, pair classes, collectives with busbw at the largest size and alpha, beta,
 * residual. */
void mt_probe_print(const struct mt_machine *machine, FILE *file);

#endif
