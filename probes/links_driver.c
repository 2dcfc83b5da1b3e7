/* links_driver: what the NVIDIA driver adds to the links of a host. A container may hide /sys's PCI devices: then the driver's
 * GPUs are all there are. NVLinks end at another GPU or at a switch; GPUs that have links to switches reach each other through
 * them with as many links as the one that has fewer. */
#include "probes/links.h"

#include <stdio.h>
#include <string.h>

static int find_gpu(const struct mt_links *links, const char *bus_id)
{
	for (int g = 0; g < links->gpu_count; g++)
		if (strcmp(links->gpus[g].bus_id, bus_id) == 0)
			return g;
	return -1;
}

static int known(int value, int otherwise)
{
	return value >= 0 ? value : otherwise;
}

static void add_facts(struct mt_machine_gpu *gpu, const struct mt_nvml_facts *facts)
{
	snprintf(gpu->name, sizeof gpu->name, "%s", facts->name);
	gpu->arch = known(facts->arch, 0);
	gpu->memory_bytes = facts->memory_bytes >= 0 ? facts->memory_bytes : 0;
	gpu->pcie_generation = known(facts->pcie_generation, gpu->pcie_generation);
	gpu->pcie_width = known(facts->pcie_width, gpu->pcie_width);
	gpu->pcie_generation_now = known(facts->pcie_generation_now, gpu->pcie_generation_now);
	gpu->pcie_width_now = known(facts->pcie_width_now, gpu->pcie_width_now);
	gpu->nvlinks = facts->nvlinks;
	gpu->nvlink_gbps = facts->nvlinks * mt_links_nvlink_gbps(facts->nvlink_version);
	gpu->power_limit_w = facts->power_limit_w > 0 ? facts->power_limit_w : 0;
}

static void add_nvlinks(struct mt_links *links, const struct mt_nvml *nvml, int index, int gpu, int *to_switch)
{
	char ends[MT_NVML_LINKS][24];
	int count = mt_nvml_link_ends(nvml, index, ends, MT_NVML_LINKS);
	for (int i = 0; i < count; i++) {
		int peer = find_gpu(links, ends[i]);
		if (peer >= 0)
			links->nvlinks[gpu][peer]++;
		else
			to_switch[gpu]++;
	}
}

void mt_links_ask_driver(struct mt_links *links, const struct mt_nvml *nvml)
{
	int to_switch[MT_LINKS_GPUS] = {0}, count = nvml ? mt_nvml_count(nvml) : 0, place[MT_LINKS_GPUS];
	if (count > MT_LINKS_GPUS)
		count = MT_LINKS_GPUS;
	for (int i = 0; i < count; i++) {
		struct mt_nvml_facts facts;
		place[i] = -1;
		if (mt_nvml_facts(nvml, i, &facts) != MT_OK) {
			mt_error_clear();
			continue;
		}
		int g = find_gpu(links, facts.bus_id);
		if (g < 0 && links->gpu_count < MT_LINKS_GPUS) {
			g = links->gpu_count++;
			links->gpus[g] = (struct mt_machine_gpu){.index = g, .numa_node = -1};
			snprintf(links->gpus[g].bus_id, sizeof links->gpus[g].bus_id, "%s", facts.bus_id);
			snprintf(links->gpu_paths[g], sizeof links->gpu_paths[g], "%s", facts.bus_id);
		}
		place[i] = g;
		if (g >= 0)
			add_facts(&links->gpus[g], &facts);
	}
	for (int i = 0; i < count; i++)
		if (place[i] >= 0)
			add_nvlinks(links, nvml, i, place[i], to_switch);
	for (int a = 0; a < links->gpu_count; a++)
		for (int b = 0; b < links->gpu_count; b++)
			if (a != b && to_switch[a] > 0 && to_switch[b] > 0)
				links->nvlinks[a][b] += to_switch[a] < to_switch[b] ? to_switch[a] : to_switch[b];
}
