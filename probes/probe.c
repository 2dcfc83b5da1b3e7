/* probe: runs the pieces in turn, each with its share of the time that is left. */
#include "probes/parts.h"

#include "base/clock.h"
#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef MT_HAVE_HWLOC
#include <hwloc.h>
#endif

static const struct mt_option option_rows[] = {
	{"budget_s", MT_OPTION_FLOAT, offsetof(struct mt_probe_options, budget_s), "20", 0, 86400, NULL,
	 "Seconds for all measurements; 0 takes only what the system says."},
	{"most_bytes", MT_OPTION_INT, offsetof(struct mt_probe_options, most_bytes), "16Mi", 1024, 1e12, NULL,
	 "Largest message of the sweep of collectives, bytes."},
	{"least_bytes", MT_OPTION_INT, offsetof(struct mt_probe_options, least_bytes), "1Ki", 4, 1e12, NULL,
	 "Smallest message of the sweep of collectives, bytes."},
	{"device", MT_OPTION_STRING, offsetof(struct mt_probe_options, device), "cpu", 0, 0, NULL,
	 "Device whose matrix products are measured."},
	{"threads", MT_OPTION_INT, offsetof(struct mt_probe_options, threads), "0", 0, 4096, NULL,
	 "Threads a rank for the matrix products; 0: cores over ranks of the host."},
	{"pairs", MT_OPTION_BOOL, offsetof(struct mt_probe_options, pairs), "true", 0, 0, NULL,
	 "Measure latency and bandwidth between pairs of ranks."},
	{"collectives", MT_OPTION_BOOL, offsetof(struct mt_probe_options, collectives), "true", 0, 0, NULL,
	 "Measure the collectives of every regular group of ranks, all groups of a kind at once."},
};
const struct mt_option_table mt_probe_options_table = {"probe", option_rows, sizeof option_rows / sizeof *option_rows};

/* Shares of the budget. What one piece leaves over, those after it get. */
struct part {
	enum mt_status (*run)(struct mt_probe *probe, double share_s);
	const char *name;
	double weight;
};

static void name_libraries(struct mt_probe *probe)
{
	struct mt_machine *m = probe->machine;
	const char *fabric = mt_fabric_library(probe->fabric);
	char hwloc[32] = "";
#ifdef MT_HAVE_HWLOC
	unsigned version = hwloc_get_api_version();
	snprintf(hwloc, sizeof hwloc, "hwloc API %u.%u", version >> 16, version >> 8 & 0xff);
#endif
	const char *parts[] = {fabric ? fabric : "", probe->device->info.libraries, hwloc};
	for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
		size_t at = strlen(m->libraries);
		if (parts[i][0])
			snprintf(m->libraries + at, sizeof m->libraries - at, "%s%s", at ? "; " : "", parts[i]);
	}
}

/* Cores over ranks of the fullest host, so that every rank uses the same number. */
static int plan_threads(const struct mt_probe *probe)
{
	const struct mt_machine *m = probe->machine;
	int threads = m->hosts[0].cores;
	if (probe->options->threads > 0)
		return (int)probe->options->threads;
	for (int h = 0; h < m->host_count; h++)
		if (m->hosts[h].cores / m->hosts[h].ranks < threads)
			threads = m->hosts[h].cores / m->hosts[h].ranks;
	return threads > 0 ? threads : 1;
}

static enum mt_status open_device(struct mt_probe *probe)
{
	const char *kind = probe->options->device ? probe->options->device : "cpu";
	struct mt_device_config config = {
		.kind = kind, .threads = probe->threads, .local_rank = mt_fabric_local_rank(probe->fabric)};
	MT_TRY(mt_device_create(&probe->device, &config));
	MT_TRY(mt_stream_create(probe->device, MT_STREAM_COMPUTE, "probe", &probe->stream));
	snprintf(probe->machine->device, sizeof probe->machine->device, "%s", probe->device->info.kind);
	name_libraries(probe);
	return MT_OK;
}

static enum mt_status run_parts(struct mt_probe *probe)
{
	bool several = probe->size > 1;
	const struct part parts[] = {
		{mt_probe_memory, "memory", 0.08},
		{mt_probe_copies, "copies", 0.06},
		{mt_probe_product, "matrix products", 0.20},
		{mt_probe_jitter, "jitter", 0.03},
		{mt_probe_pairs, "pairs of ranks", several && probe->options->pairs ? 0.20 : 0},
		{mt_probe_collectives, "collectives", several && probe->options->collectives ? 0.49 : 0},
	};
	enum { COUNT = sizeof parts / sizeof *parts };
	for (int i = 0; i < COUNT; i++) {
		double rest = 0;
		for (int j = i; j < COUNT; j++)
			rest += parts[j].weight;
		if (parts[i].weight == 0)
			continue;
		double begin_s = probe->elapsed_s;
		MT_TRY(parts[i].run(probe, mt_probe_left_s(probe) * parts[i].weight / rest));
		if (probe->rank == 0)
			mt_info("probe: %s took %.2f s", parts[i].name, probe->elapsed_s - begin_s);
	}
	return MT_OK;
}

static void close_probe(struct mt_probe *probe)
{
	mt_stream_destroy(probe->stream);
	mt_device_destroy(probe->device);
	mt_group_destroy(probe->world);
}

static enum mt_status check_options(const struct mt_probe_options *o)
{
	if (!(o->budget_s >= 0) || o->least_bytes < 4 || o->most_bytes < o->least_bytes)
		return mt_fail(MT_INPUT,
			       "probe: budget_s %g, least_bytes %lld, most_bytes %lld; need budget_s >= 0 and 4 <= least_bytes <= "
			       "most_bytes",
			       o->budget_s, (long long)o->least_bytes, (long long)o->most_bytes);
	return MT_OK;
}

enum mt_status mt_probe_run(struct mt_machine *machine, const struct mt_probe_options *options, struct mt_fabric *fabric)
{
	*machine = (struct mt_machine){.provenance = MT_MEASURED};
	struct mt_probe probe = {.options = options, .fabric = fabric, .machine = machine};
	enum mt_status st = MT_OK;
	MT_TRY(check_options(options));
	probe.rank = mt_fabric_rank(fabric);
	probe.size = machine->world = mt_fabric_size(fabric);
	MT_GOTO(out, mt_group_create_all(probe.fabric, "probe world", &probe.world));
	probe.start_s = mt_clock_s();
	MT_GOTO(out, mt_probe_gather_hosts(&probe));
	MT_GOTO(out, mt_probe_gather_links(&probe));
	probe.threads = plan_threads(&probe);
	MT_GOTO(out, mt_probe_agree(&probe, open_device(&probe)));
	snprintf(machine->name, sizeof machine->name, "%s", machine->hosts[0].name);
	mt_clock_utc(machine->created);
	mt_probe_fingerprint(machine);
	if (options->budget_s > 0)
		MT_GOTO(out, run_parts(&probe));
out:
	close_probe(&probe);
	if (st != MT_OK)
		mt_machine_free(machine);
	return st;
}
