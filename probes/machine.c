/* machine: its fields, its end, and the rates of products. */
#include "probes/machine_fields.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define FIELD(type, field, kind, required, least)                                                                                  \
	{                                                                                                                          \
#field, kind, offsetof(struct type, field), sizeof(((struct type *)0)->field), required, least                     \
	}
#define TEXT(type, field, required)       FIELD(type, field, MT_FIELD_TEXT, required, 0)
#define INT(type, field, required, least) FIELD(type, field, MT_FIELD_INT, required, least)
#define INT64(type, field)                FIELD(type, field, MT_FIELD_INT64, false, 0)
#define DOUBLE(type, field, required)     FIELD(type, field, MT_FIELD_DOUBLE, required, 0)
#define SECTION(name, fields)                                                                                                      \
	{                                                                                                                          \
		name, fields, sizeof(fields) / sizeof *(fields)                                                                    \
	}

static const struct mt_field machine_fields[] = {
	TEXT(mt_machine, name, true),
	TEXT(mt_machine, fingerprint, false),
	TEXT(mt_machine, created, false),
	TEXT(mt_machine, libraries, false),
	TEXT(mt_machine, device, false),
	FIELD(mt_machine, provenance, MT_FIELD_PROVENANCE, false, 0),
	INT(mt_machine, world, false, 1),
	DOUBLE(mt_machine, memory_gbps, false),
	DOUBLE(mt_machine, memory_one_gbps, false),
	INT64(mt_machine, memory_triad_bytes),
	INT64(mt_machine, rank_memory_bytes),
	INT64(mt_machine, process_bytes),
	DOUBLE(mt_machine, step_jitter_frac, false),
	DOUBLE(mt_machine, step_drift_frac, false),
};
static const struct mt_field host_fields[] = {
	TEXT(mt_machine_host, name, true),       INT(mt_machine_host, ranks, true, 1),
	INT(mt_machine_host, sockets, false, 0), INT(mt_machine_host, numa_nodes, false, 0),
	INT(mt_machine_host, cores, false, 0),   INT(mt_machine_host, threads_per_core, false, 0),
	INT64(mt_machine_host, l1d_bytes),       INT64(mt_machine_host, l2_bytes),
	INT64(mt_machine_host, l3_bytes),        INT64(mt_machine_host, memory_bytes),
	INT64(mt_machine_host, available_bytes), TEXT(mt_machine_host, cpu, false),
	TEXT(mt_machine_host, isa, false),       TEXT(mt_machine_host, kernel, false),
	INT(mt_machine_host, gpus, false, 0),    INT(mt_machine_host, nics, false, 0),
	TEXT(mt_machine_host, nic_text, false),
};
static const struct mt_field rate_fields[] = {
	FIELD(mt_machine_rate, dtype, MT_FIELD_DTYPE, true, 0),
	INT(mt_machine_rate, threads, true, 1),
	INT(mt_machine_rate, busy_ranks, true, 1),
	DOUBLE(mt_machine_rate, tflops, true),
	DOUBLE(mt_machine_rate, spread_tflops, false),
};
static const struct mt_field class_fields[] = {
	TEXT(mt_machine_pair_class, name, true),         INT(mt_machine_pair_class, pairs, false, 0),
	DOUBLE(mt_machine_pair_class, latency_us, true), DOUBLE(mt_machine_pair_class, bandwidth_gbps, true),
	DOUBLE(mt_machine_pair_class, lo_gbps, false),   DOUBLE(mt_machine_pair_class, hi_gbps, false),
};
static const struct mt_field curve_fields[] = {
	FIELD(mt_comm_curve, op, MT_FIELD_OP, true, 0),
	FIELD(mt_comm_curve, dtype, MT_FIELD_DTYPE, true, 0),
	INT(mt_comm_curve, size, true, 2),
	INT(mt_comm_curve, stride, true, 1),
	DOUBLE(mt_comm_curve, alpha_s, true),
	DOUBLE(mt_comm_curve, beta_s_per_byte, true),
	DOUBLE(mt_comm_curve, residual_frac, false),
};
#define PCIE(type)                                                                                                                 \
	INT(type, pcie_generation, false, 0), INT(type, pcie_width, false, 0), INT(type, pcie_generation_now, false, 0),           \
		INT(type, pcie_width_now, false, 0)
static const struct mt_field gpu_fields[] = {
	INT(mt_machine_gpu, host, true, 0),
	INT(mt_machine_gpu, index, true, 0),
	TEXT(mt_machine_gpu, name, true),
	TEXT(mt_machine_gpu, bus_id, false),
	INT(mt_machine_gpu, arch, false, 0),
	INT(mt_machine_gpu, numa_node, false, -1),
	INT64(mt_machine_gpu, memory_bytes),
	DOUBLE(mt_machine_gpu, power_limit_w, false),
	PCIE(mt_machine_gpu),
	INT(mt_machine_gpu, nvlinks, false, 0),
	DOUBLE(mt_machine_gpu, nvlink_gbps, false),
	TEXT(mt_machine_gpu, peers, false),
	TEXT(mt_machine_gpu, nic, false),
	TEXT(mt_machine_gpu, nic_path, false),
};
static const struct mt_field nic_fields[] = {
	INT(mt_machine_nic, host, true, 0),        TEXT(mt_machine_nic, name, true),  TEXT(mt_machine_nic, bus_id, false),
	INT(mt_machine_nic, numa_node, false, -1), INT(mt_machine_nic, up, false, 0), PCIE(mt_machine_nic),
	DOUBLE(mt_machine_nic, port_gbps, false),
};
static const struct mt_field copies_fields[] = {
	DOUBLE(mt_machine_copies, to_device_gbps, false), DOUBLE(mt_machine_copies, from_device_gbps, false),
	DOUBLE(mt_machine_copies, both_ways_gbps, false), DOUBLE(mt_machine_copies, local_gbps, false),
	DOUBLE(mt_machine_copies, memory_gbps, false),    INT64(mt_machine_copies, bytes),
};
const struct mt_section mt_section_machine = SECTION("machine", machine_fields);
const struct mt_section mt_section_host = SECTION("hosts", host_fields);
const struct mt_section mt_section_rate = SECTION("rates", rate_fields);
const struct mt_section mt_section_class = SECTION("classes", class_fields);
const struct mt_section mt_section_curve = SECTION("curves", curve_fields);
const struct mt_section mt_section_gpu = SECTION("gpus", gpu_fields);
const struct mt_section mt_section_nic = SECTION("nics", nic_fields);
const struct mt_section mt_section_copies = SECTION("copies", copies_fields);

const char *mt_provenance_name(enum mt_provenance provenance)
{
	static const char *const names[] = {"measured", "interpolated", "published", "specification"};
	return provenance <= MT_SPECIFICATION ? names[provenance] : "unknown";
}

void mt_machine_free(struct mt_machine *machine)
{
	free(machine->hosts);
	free(machine->rank_host);
	free(machine->rates);
	free(machine->classes);
	free(machine->pair_class);
	free(machine->islands);
	free(machine->curves);
	free(machine->gpus);
	free(machine->nics);
	memset(machine, 0, sizeof *machine);
}

/* How far a known rate is from what is asked: threads weigh more than busy ranks. */
static double rate_distance(const struct mt_machine_rate *rate, int threads, int busy_ranks)
{
	double t = log((double)rate->threads / (threads > 0 ? threads : 1)),
	       b = log((double)rate->busy_ranks / (busy_ranks > 0 ? busy_ranks : 1));
	return 4 * fabs(t) + fabs(b);
}

/* The exact rate, else the nearest one, in proportion to the threads. */
double mt_machine_tflops(const struct mt_machine *machine, enum mt_dtype dtype, int threads, int busy_ranks)
{
	const struct mt_machine_rate *best = NULL;
	for (int i = 0; i < machine->rate_count; i++) {
		const struct mt_machine_rate *rate = &machine->rates[i];
		if (rate->dtype == dtype &&
		    (!best || rate_distance(rate, threads, busy_ranks) < rate_distance(best, threads, busy_ranks)))
			best = rate;
	}
	return best ? best->tflops * (threads > 0 ? threads : best->threads) / best->threads : 0;
}
