/* parts: what the pieces of the probe share. Private to this room.
 *
 * All measurements go through mt_probe_sample: every rank does its part, the times are joined by one small all-reduce a
 * sample, and from the joined numbers (the slowest rank's time, rank 0's clock) every rank takes the same decision to go
 * on or stop. So no rank ever waits for a collective that another one will not enter. */
#ifndef MT_PROBES_PARTS_H
#define MT_PROBES_PARTS_H

#include "kernels/device.h"
#include "probes/machine.h"
#include "probes/probe.h"

#include <stdbool.h>
#include <stddef.h>

struct mt_probe {
	const struct mt_probe_options *options;
	struct mt_fabric *fabric;
	struct mt_group *world;   /* owned */
	struct mt_device *device; /* owned */
	struct mt_stream *stream; /* owned: compute stream; collectives on it are in order */
	struct mt_machine *machine;
	int rank, size, threads;
	double start_s;   /* this rank's clock at the start */
	double elapsed_s; /* rank 0's, as of the last agreement: the same number on every rank */
};

/* Runs the work `repeats` times back to back on this rank and gives the seconds of one; a rank with no part in it gives 0. */
struct mt_probe_work {
	enum mt_status (*run)(void *context, int repeats, double *seconds);
	void *context;
	bool passive; /* this rank has no part: it sleeps meanwhile, as a polling rank would take the others' cores */
	bool spread;  /* the spread is what is asked: sample for the whole share */
};

#define MT_PROBE_SAMPLES 256
struct mt_probe_series {
	int count, repeats;
	double own[MT_PROBE_SAMPLES];     /* seconds, this rank */
	double slowest[MT_PROBE_SAMPLES]; /* seconds, the slowest rank of each sample: what a step waits for */
	double warm_s;                    /* the warm-up call, slowest rank */
	bool narrow;                      /* stopped as the 95% interval of the median was within 2% */
};

/* One warm-up call, then samples until the half-width of the 95% interval of the median is below 2% or share_s is spent
 * (at least 3 samples; 1 when a single call takes longer than the share). Collective over the world. */
enum mt_status mt_probe_sample(struct mt_probe *probe, const struct mt_probe_work *work, double share_s,
			       struct mt_probe_series *series);
/* Joins a status over all ranks: every rank returns a failure when one has it. Updates elapsed_s. */
enum mt_status mt_probe_agree(struct mt_probe *probe, enum mt_status status);
/* What is left of the budget, by the agreed clock; not below 0. */
double mt_probe_left_s(const struct mt_probe *probe);

/* The pieces, in the order in which they run; each fills its part of probe->machine within share_s. */
enum mt_status mt_probe_gather_hosts(struct mt_probe *probe);
enum mt_status mt_probe_gather_links(struct mt_probe *probe);
enum mt_status mt_probe_copies(struct mt_probe *probe, double share_s);
enum mt_status mt_probe_memory(struct mt_probe *probe, double share_s);
enum mt_status mt_probe_product(struct mt_probe *probe, double share_s);
enum mt_status mt_probe_jitter(struct mt_probe *probe, double share_s);
enum mt_status mt_probe_pairs(struct mt_probe *probe, double share_s);
enum mt_status mt_probe_collectives(struct mt_probe *probe, double share_s);

/* Facts of this host, read below `root` ("" for the real system, else a copy of /proc and /sys for tests). */
void mt_probe_read_memory(const char *root, int64_t *total, int64_t *available);
void mt_probe_read_cpu(const char *root, struct mt_machine_host *host);
void mt_probe_read_shape(const char *root, struct mt_machine_host *host);
int mt_probe_count_gpus(const char *root);
void mt_probe_read_nics(struct mt_machine_host *host);
/* First line of a small file below root, without its newline; false when it cannot be read. */
bool mt_probe_read_line(const char *root, const char *path, char *text, size_t size);
int64_t mt_probe_read_int(const char *root, const char *path, int64_t otherwise);

/* Hash of what decides whether measured kernel times may be used again. */
void mt_probe_fingerprint(struct mt_machine *machine);

/* A rate for every unordered pair; 0: not measured. world*world entries, symmetric, diagonal 0. */
struct mt_probe_pairs {
	int world;
	double *latency_us, *bandwidth_gbps;
};
/* Names and fills machine->classes and pair_class from the pairs and machine->rank_host. Pure. */
enum mt_status mt_probe_classify(struct mt_machine *machine, const struct mt_probe_pairs *pairs);

/* Fills alpha, beta and the residual of a curve from its points. */
void mt_probe_fit(struct mt_comm_curve *curve);

#endif
