/* machine: what a set of ranks runs on, as `megatune probe` found it or a file says; written and read as machine.yaml. */
#ifndef MT_PROBES_MACHINE_H
#define MT_PROBES_MACHINE_H

#include "base/status.h"
#include "comm/comm.h"

#include <stdbool.h>
#include <stdint.h>

enum mt_provenance { MT_MEASURED, MT_INTERPOLATED, MT_PUBLISHED, MT_SPECIFICATION };

struct mt_machine_host {
	char name[64];
	int ranks; /* ranks placed on it */
	int sockets, numa_nodes, cores, threads_per_core;
	int64_t l1d_bytes, l2_bytes, l3_bytes;
	int64_t memory_bytes, available_bytes; /* from the system (/proc/meminfo, cgroup limit), not from hwloc's sum */
	char cpu[64];
	char isa[32];
	char kernel[64];
	int gpus, nics;
	char nic_text[128]; /* "eth0 10 Gbit/s up; ib0 ..." */
};

/* Rates of one rank when `busy_ranks` ranks a host run at once with `threads` threads each. */
struct mt_machine_rate {
	enum mt_dtype dtype;
	int threads, busy_ranks;
	double tflops, spread_tflops; /* product of cubes, 1024 wide on processors, 8192 on GPUs: median, MAD */
};

/* Ranks a pair of which has alike latency and bandwidth. */
struct mt_machine_pair_class {
	char name[24]; /* "same host", "between hosts", "between hosts, slower", ... */
	int pairs;
	double latency_us, bandwidth_gbps; /* one way, 1 byte; one direction, a byte more of a long message */
	double lo_gbps, hi_gbps;           /* extremes of the class */
};

/* A GPU of a host, as the driver and /sys say. 0: not known. */
struct mt_machine_gpu {
	int host, index; /* host: index into hosts; index: among the GPUs of the host, by bus id */
	char name[64], bus_id[24];
	int arch;      /* 90: compute capability 9.0 */
	int numa_node; /* -1: not known */
	int64_t memory_bytes;
	double power_limit_w;
	int pcie_generation, pcie_width, pcie_generation_now,
		pcie_width_now; /* the most it can do; now: less when idle, or badly seated */
	int nvlinks;
	double nvlink_gbps; /* one direction, all links */
	char peers[96];     /* how it reaches each GPU of the host, in order: "X NV18 PIX SYS" */
	char nic[32];       /* the nearest network card, "" when there is none */
	char nic_path[8];   /* and how it is reached */
};

struct mt_machine_nic {
	int host;
	char name[32], bus_id[24]; /* "mlx5_0", else "eth0" */
	int numa_node, up;
	int pcie_generation, pcie_width, pcie_generation_now, pcie_width_now;
	double port_gbps; /* GB/s of the port */
};

/* Copies and memory of the device that the rates are of, the slowest rank's, all ranks of a host at once; GB/s, 0: not measured. */
struct mt_machine_copies {
	double to_device_gbps, from_device_gbps;
	double both_ways_gbps; /* one each way at once: the sum of both */
	double local_gbps;     /* within device memory: bytes read plus bytes written */
	double memory_gbps;    /* sum of two arrays into a third: all bytes moved */
	int64_t bytes;         /* of one array */
};

struct mt_machine {
	char name[64];
	char fingerprint[32]; /* hash of hardware, libraries and build that decides whether a profile may be reused */
	char created[24];     /* UTC */
	char libraries[256];  /* "Open MPI 4.1.4; oneDNN 2.6.3; hwloc 2.9.0" */
	char device[64];      /* device kind the rates are of: "cpu" */
	enum mt_provenance
		provenance; /* of every number here: MT_MEASURED by probe; a written file may say published or specification */
	int world;          /* ranks probed */
	int host_count, rate_count, class_count, curve_count;
	struct mt_machine_host *hosts;         /* owned */
	int *rank_host;                        /* owned: world entries, index into hosts */
	struct mt_machine_rate *rates;         /* owned */
	struct mt_machine_pair_class *classes; /* owned */
	int *pair_class; /* owned: world*world entries, index into classes, -1 on the diagonal; NULL when unknown */
	/* owned: class_count*world entries: the least of the ranks that are nearer to a rank than a class, the rank among them;
	 * NULL: one host, or no classes. Found from the rest when a machine is loaded or probed. */
	int *islands;
	struct mt_comm_curve *curves;      /* owned */
	const struct mt_machine *launched; /* borrowed: of a placed machine (mt_machine_place) the one whose curves it has; NULL */
	int gpu_count, nic_count;
	struct mt_machine_gpu *gpus; /* owned */
	struct mt_machine_nic *nics; /* owned */
	struct mt_machine_copies copies;
	double memory_gbps;         /* triad of one host, all its ranks */
	double memory_one_gbps;     /* triad of one rank alone */
	int64_t memory_triad_bytes; /* the three arrays of one rank; cache-resident when all ranks' fit the L3 */
	int64_t rank_memory_bytes;  /* what one rank may use: the host's available over its ranks, less a reserve */
	int64_t process_bytes;      /* resident size of a rank before the engine: program, libraries, fabric */
	double step_jitter_frac;    /* spread of a fixed piece of work over repetitions: MAD / median */
	double step_drift_frac;     /* of the same training steps, minutes apart: standard deviation, relative; 0: not profiled */
};

const char *mt_provenance_name(enum mt_provenance provenance); /* "measured", "interpolated", "published", "specification" */

/* Frees what it owns and zeroes the struct; a zeroed machine is fine. */
void mt_machine_free(struct mt_machine *machine);
/* Reads a machine file into *machine (overwritten; zeroed on failure). Unknown keys and values out of range are MT_INPUT with
 * file and line. A written file may leave out what it does not know: a host entry with `count: n` stands for n like hosts
 * name0..name(n-1); ranks are placed host by host unless rank_host says otherwise. */
enum mt_status mt_machine_load(struct mt_machine *machine, const char *path);
enum mt_status mt_machine_save(const struct mt_machine *machine, const char *path);

/* The machine as ranks see it of which rank r runs where `machine` has rank device[r]. It borrows what does not depend on that;
 * mt_machine_unplace ends it, before the machine; a zeroed one is fine. */
enum mt_status mt_machine_place(struct mt_machine *placed, const struct mt_machine *machine, const int *device);
void mt_machine_unplace(struct mt_machine *placed);

/* The best rate known for dtype, threads and busy ranks; TFLOP/s, 0 when unknown. */
double mt_machine_tflops(const struct mt_machine *machine, enum mt_dtype dtype, int threads, int busy_ranks);
/* Seconds of a collective from the curves: the exact (op, dtype, size, stride) where measured, else the nearest one that
 * is not faster, else alpha-beta from the slowest pair class the group can span. A message between two members that are named, and
 * a shift, by the classes of those pairs in all groups of the kind. On a placed machine curves in the proportion of what rings in
 * both orders do to the links. `provenance` may be NULL. */
double mt_machine_comm_s(const struct mt_machine *machine, const struct mt_comm_key *key, enum mt_provenance *provenance);

#endif
