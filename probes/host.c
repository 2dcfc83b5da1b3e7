/* host: what this host is, without measuring anything; and the gathering of all hosts of a fabric. */
#include "probes/parts.h"

#include "base/process.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef MT_HAVE_HWLOC
#include <hwloc.h>

static int64_t first_cache(hwloc_topology_t topology, hwloc_obj_type_t type)
{
	hwloc_obj_t cache = hwloc_get_obj_by_type(topology, type, 0);
	return cache ? (int64_t)cache->attr->cache.size : 0;
}

static int count_objects(hwloc_topology_t topology, hwloc_obj_type_t type)
{
	int count = hwloc_get_nbobjs_by_type(topology, type);
	return count > 0 ? count : 1;
}

/* hwloc sees what it is allowed to use here, follows synthetic descriptions, and knows every kind of processor. */
static bool shape_by_hwloc(struct mt_machine_host *host)
{
	hwloc_topology_t topology;
	if (hwloc_topology_init(&topology) != 0)
		return false;
	if (hwloc_topology_load(topology) != 0) {
		hwloc_topology_destroy(topology);
		return false;
	}
	host->sockets = count_objects(topology, HWLOC_OBJ_PACKAGE);
	host->numa_nodes = count_objects(topology, HWLOC_OBJ_NUMANODE);
	host->cores = count_objects(topology, HWLOC_OBJ_CORE);
	host->threads_per_core = count_objects(topology, HWLOC_OBJ_PU) / host->cores;
	host->l1d_bytes = first_cache(topology, HWLOC_OBJ_L1CACHE);
	host->l2_bytes = first_cache(topology, HWLOC_OBJ_L2CACHE);
	host->l3_bytes = first_cache(topology, HWLOC_OBJ_L3CACHE);
	hwloc_topology_destroy(topology);
	return true;
}
#else
static bool shape_by_hwloc(struct mt_machine_host *host)
{
	return false;
}
#endif

enum mt_status mt_probe_host(struct mt_machine_host *host)
{
	*host = (struct mt_machine_host){.ranks = 1};
	if (gethostname(host->name, sizeof host->name - 1) != 0)
		snprintf(host->name, sizeof host->name, "localhost");
	mt_probe_read_cpu("", host);
	if (!shape_by_hwloc(host))
		mt_probe_read_shape("", host);
	mt_probe_read_memory("", &host->memory_bytes, &host->available_bytes);
	host->gpus = mt_probe_count_gpus("");
	mt_probe_read_nics(host);
	if (host->memory_bytes <= 0)
		return mt_fail(MT_UNAVAILABLE, "probe: /proc/meminfo of %s says no memory; is /proc mounted?", host->name);
	return MT_OK;
}

/* Hosts in the order of their first ranks; the names as the fabric knows them. */
static enum mt_status place_ranks(struct mt_probe *probe, const struct mt_machine_host *all)
{
	struct mt_machine *m = probe->machine;
	m->rank_host = malloc((size_t)probe->size * sizeof *m->rank_host);
	m->hosts = calloc((size_t)probe->size, sizeof *m->hosts);
	if (!m->rank_host || !m->hosts)
		return mt_fail(MT_NOMEM, "probe: no memory for %d hosts", probe->size);
	for (int r = 0; r < probe->size; r++) {
		const char *name = mt_fabric_host(probe->fabric, r);
		int h = 0;
		while (h < m->host_count && strncmp(m->hosts[h].name, name, sizeof m->hosts[h].name - 1) != 0)
			h++;
		if (h == m->host_count) {
			m->hosts[h] = all[r];
			m->hosts[h].ranks = 0;
			snprintf(m->hosts[h].name, sizeof m->hosts[h].name, "%s", name);
			m->host_count++;
		}
		if (m->hosts[h].cpu[0] == 0 && all[r].cpu[0] != 0) { /* facts come from the host's local rank 0 */
			struct mt_machine_host facts = all[r];
			facts.ranks = m->hosts[h].ranks;
			snprintf(facts.name, sizeof facts.name, "%s", name);
			m->hosts[h] = facts;
		}
		m->hosts[h].ranks++;
		m->rank_host[r] = h;
	}
	return MT_OK;
}

/* What one rank may use: its share of what is available where that is least, less a twelfth and 128 MiB for page tables,
 * the fabric's buffers and the system's own needs. */
static int64_t rank_memory(const struct mt_machine *machine)
{
	int64_t least = INT64_MAX;
	for (int h = 0; h < machine->host_count; h++) {
		int64_t share = machine->hosts[h].available_bytes / machine->hosts[h].ranks;
		if (share < least)
			least = share;
	}
	int64_t usable = least - least / 12 - (128ll << 20);
	return usable > least / 2 ? usable : least / 2;
}

enum mt_status mt_probe_gather_hosts(struct mt_probe *probe)
{
	struct mt_machine *m = probe->machine;
	struct mt_machine_host own = {0};
	double resident = (double)mt_process_resident_bytes();
	struct mt_machine_host *all = calloc((size_t)probe->size, sizeof *all);
	enum mt_status st = all ? MT_OK : mt_fail(MT_NOMEM, "probe: no memory for %d hosts", probe->size);
	if (st == MT_OK && mt_fabric_local_rank(probe->fabric) == 0)
		st = mt_probe_host(&own);
	MT_GOTO(out, mt_probe_agree(probe, st));
	MT_GOTO(out, mt_comm_host_all_gather(probe->world, &own, all, sizeof own));
	MT_GOTO(out, place_ranks(probe, all));
	MT_GOTO(out, mt_comm_host_all_reduce(probe->world, &resident, 1, MT_MAX));
	m->process_bytes = (int64_t)resident;
	m->rank_memory_bytes = rank_memory(m);
out:
	free(all);
	return st;
}
