/* links: see links.h. A device's path below /sys/devices names every bridge between it and the processor, so the part that two
 * paths share says how far they are from each other. */
#include "probes/links.h"

#include "probes/parts.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CLASS_VGA        0x0300
#define CLASS_3D         0x0302
#define CLASS_ETHERNET   0x0200
#define CLASS_INFINIBAND 0x0207
#define VENDOR_NVIDIA    0x10de

static bool read_text(const char *root, const char *bus_id, const char *file, char *text, size_t size)
{
	char path[400];
	snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/%s", bus_id, file);
	return mt_probe_read_line(root, path, text, size);
}

static int read_number(const char *root, const char *bus_id, const char *file, int otherwise)
{
	char path[400];
	snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/%s", bus_id, file);
	return (int)mt_probe_read_int(root, path, otherwise);
}

/* "32.0 GT/s PCIe" is generation 5; 0 when it is none. */
static int read_generation(const char *root, const char *bus_id, const char *file)
{
	static const double rates[] = {2.5, 5, 8, 16, 32, 64};
	char text[64];
	if (!read_text(root, bus_id, file, text, sizeof text))
		return 0;
	double rate = atof(text);
	for (int i = 0; i < (int)(sizeof rates / sizeof *rates); i++)
		if (rate == rates[i])
			return i + 1;
	return 0;
}

static int read_width(const char *root, const char *bus_id, const char *file)
{
	int width = read_number(root, bus_id, file, 0);
	return width > 0 && width <= 32 ? width : 0; /* 255: unknown */
}

static void read_path(const char *root, const char *bus_id, char path[256])
{
	char link[400], target[512];
	snprintf(link, sizeof link, "%s/sys/bus/pci/devices/%s", root, bus_id);
	ssize_t length = readlink(link, target, sizeof target - 1);
	target[length > 0 ? length : 0] = 0;
	char *below = strstr(target, "devices/");
	snprintf(path, 256, "%.255s", below ? below + strlen("devices/") : bus_id);
}

/* The first entry of a folder of the device, "net" or "infiniband". */
static bool read_entry(const char *root, const char *bus_id, const char *folder, char name[32])
{
	char path[400];
	snprintf(path, sizeof path, "%s/sys/bus/pci/devices/%s/%s", root, bus_id, folder);
	DIR *directory = opendir(path);
	bool found = false;
	for (struct dirent *entry; directory && (entry = readdir(directory));) {
		if (entry->d_name[0] == '.' || (found && strcmp(entry->d_name, name) > 0))
			continue;
		snprintf(name, 32, "%.31s", entry->d_name);
		found = true;
	}
	if (directory)
		closedir(directory);
	return found;
}

static void add_gpu(const char *root, const char *bus_id, struct mt_links *links)
{
	if (links->gpu_count == MT_LINKS_GPUS)
		return;
	struct mt_machine_gpu *gpu = &links->gpus[links->gpu_count];
	snprintf(gpu->bus_id, sizeof gpu->bus_id, "%s", bus_id);
	snprintf(gpu->name, sizeof gpu->name, "NVIDIA GPU %04x", (unsigned)read_number(root, bus_id, "device", 0) & 0xffff);
	gpu->numa_node = read_number(root, bus_id, "numa_node", -1);
	gpu->pcie_generation = read_generation(root, bus_id, "max_link_speed");
	gpu->pcie_width = read_width(root, bus_id, "max_link_width");
	gpu->pcie_generation_now = read_generation(root, bus_id, "current_link_speed");
	gpu->pcie_width_now = read_width(root, bus_id, "current_link_width");
	read_path(root, bus_id, links->gpu_paths[links->gpu_count++]);
}

/* "400 Gb/sec (4X NDR)" of InfiniBand and RoCE ports, else the interface's Mbit/s. */
static double read_rate(const char *root, const char *bus_id, const char *interface, const char *port)
{
	char file[96];
	int number = 0;
	if (port[0]) {
		snprintf(file, sizeof file, "infiniband/%s/ports/1/rate", port);
		number = read_number(root, bus_id, file, 0);
		if (number > 0)
			return number / 8.0;
	}
	snprintf(file, sizeof file, "net/%s/speed", interface);
	number = interface[0] ? read_number(root, bus_id, file, 0) : 0;
	return number > 0 ? number / 8000.0 : 0;
}

static void add_nic(const char *root, const char *bus_id, struct mt_links *links)
{
	char interface[32] = "", port[32] = "", file[96], state[64] = "";
	bool net = read_entry(root, bus_id, "net", interface), infiniband = read_entry(root, bus_id, "infiniband", port);
	if (links->nic_count == MT_LINKS_NICS || (!net && !infiniband))
		return;
	struct mt_machine_nic *nic = &links->nics[links->nic_count];
	snprintf(nic->name, sizeof nic->name, "%s", infiniband ? port : interface);
	snprintf(nic->bus_id, sizeof nic->bus_id, "%s", bus_id);
	nic->numa_node = read_number(root, bus_id, "numa_node", -1);
	nic->pcie_generation = read_generation(root, bus_id, "max_link_speed");
	nic->pcie_width = read_width(root, bus_id, "max_link_width");
	nic->pcie_generation_now = read_generation(root, bus_id, "current_link_speed");
	nic->pcie_width_now = read_width(root, bus_id, "current_link_width");
	nic->port_gbps = read_rate(root, bus_id, interface, port);
	snprintf(file, sizeof file, infiniband ? "infiniband/%s/ports/1/state" : "net/%s/operstate", infiniband ? port : interface);
	read_text(root, bus_id, file, state, sizeof state);
	nic->up = strstr(state, "ACTIVE") != NULL || strcmp(state, "up") == 0;
	read_path(root, bus_id, links->nic_paths[links->nic_count++]);
}

static int compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The bus ids below /sys/bus/pci/devices in order (free each and the list): a folder has none of its own. */
static int list_devices(const char *root, char ***list)
{
	char path[400];
	int count = 0, capacity = 0;
	*list = NULL;
	snprintf(path, sizeof path, "%s/sys/bus/pci/devices", root);
	DIR *directory = opendir(path);
	for (struct dirent *entry; directory && (entry = readdir(directory));) {
		if (entry->d_name[0] == '.' || strlen(entry->d_name) > 20)
			continue;
		if (count == capacity) {
			char **grown = realloc(*list, (size_t)(capacity + 64) * sizeof *grown);
			if (!grown)
				break;
			*list = grown;
			capacity += 64;
		}
		(*list)[count] = strdup(entry->d_name);
		if (!(*list)[count])
			break;
		count++;
	}
	if (directory)
		closedir(directory);
	if (count > 0)
		qsort(*list, (size_t)count, sizeof **list, compare_names);
	return count;
}

void mt_links_read(const char *root, struct mt_links *links)
{
	char **devices;
	int count = list_devices(root, &devices);

	memset(links, 0, sizeof *links);
	for (int i = 0; i < count; i++) {
		int class = read_number(root, devices[i], "class", 0) >> 8;
		int vendor = read_number(root, devices[i], "vendor", 0);
		if ((class == CLASS_VGA || class == CLASS_3D) && vendor == VENDOR_NVIDIA)
			add_gpu(root, devices[i], links);
		else if (class == CLASS_ETHERNET || class == CLASS_INFINIBAND)
			add_nic(root, devices[i], links);
		free(devices[i]);
	}
	free(devices);
	for (int i = 0; i < links->gpu_count; i++)
		links->gpus[i].index = i;
}

double mt_links_pcie_gbps(int generation, int width)
{
	static const double per_lane[] = {0, 0.25, 0.5, 8 * 128.0 / 130 / 8, 16 * 128.0 / 130 / 8, 32 * 128.0 / 130 / 8, 64.0 / 8};
	return generation < 0 || generation > 6 ? 0 : per_lane[generation] * width;
}

double mt_links_nvlink_gbps(int version)
{
	/* 1: NVLink 1.0; 2, 3: 2.x; 4, 5: 3.x; 6: 4.0; 7: 5.0 */
	return version <= 0 ? 0 : version == 1 ? 20 : version <= 6 ? 25 : 50;
}

static int component(const char *path, int which, const char **start)
{
	for (*start = path; which > 0 && **start; which--) {
		*start += strcspn(*start, "/");
		*start += **start == '/';
	}
	return (int)strcspn(*start, "/");
}

static int depth(const char *path)
{
	const char *start;
	int count = 0;
	while (component(path, count, &start) > 0)
		count++;
	return count;
}

enum mt_link_path mt_links_path(const char *path_a, int numa_a, const char *path_b, int numa_b)
{
	const char *a, *b;
	int shared = 0;
	for (;; shared++) {
		int length = component(path_a, shared, &a);
		if (length == 0 || component(path_b, shared, &b) != length || strncmp(a, b, (size_t)length) != 0)
			break;
	}
	if (shared == 0) /* the nodes of a host with one are often not numbered */
		return numa_a == numa_b ? MT_PATH_NODE : MT_PATH_SYS;
	if (shared == 1)
		return MT_PATH_PHB;
	/* below the last shared bridge: a port of its switch and the device; more are further switches */
	return depth(path_a) - shared <= 2 && depth(path_b) - shared <= 2 ? MT_PATH_PIX : MT_PATH_PXB;
}

const char *mt_links_path_name(enum mt_link_path path)
{
	static const char *const names[] = {"PIX", "PXB", "PHB", "NODE", "SYS"};
	return path <= MT_PATH_SYS ? names[path] : "?";
}

static void choose_nic(struct mt_links *links, int g, int *used)
{
	struct mt_machine_gpu *gpu = &links->gpus[g];
	int best = -1;
	enum mt_link_path best_path = MT_PATH_SYS;
	for (int n = 0; n < links->nic_count; n++) {
		const struct mt_machine_nic *nic = &links->nics[n];
		enum mt_link_path path = mt_links_path(links->gpu_paths[g], gpu->numa_node, links->nic_paths[n], nic->numa_node);
		bool better = best < 0 || (nic->up && !links->nics[best].up);
		if (!better && nic->up == links->nics[best].up)
			better = path < best_path || (path == best_path && used[n] < used[best]);
		if (better)
			best = n, best_path = path;
	}
	if (best < 0)
		return;
	used[best]++;
	snprintf(gpu->nic, sizeof gpu->nic, "%s", links->nics[best].name);
	snprintf(gpu->nic_path, sizeof gpu->nic_path, "%s", mt_links_path_name(best_path));
}

static void name_peers(struct mt_links *links, int g)
{
	struct mt_machine_gpu *gpu = &links->gpus[g];
	gpu->peers[0] = 0;
	for (int p = 0; p < links->gpu_count; p++) {
		char word[16] = "X";
		size_t at = strlen(gpu->peers);
		if (p != g && links->nvlinks[g][p] > 0)
			snprintf(word, sizeof word, "NV%d", links->nvlinks[g][p] % 1000);
		else if (p != g)
			snprintf(word, sizeof word, "%s",
				 mt_links_path_name(mt_links_path(links->gpu_paths[g], gpu->numa_node, links->gpu_paths[p],
								  links->gpus[p].numa_node)));
		snprintf(gpu->peers + at, sizeof gpu->peers - at, "%s%s", at ? " " : "", word);
	}
}

void mt_links_join(struct mt_links *links)
{
	int used[MT_LINKS_NICS] = {0};
	for (int g = 0; g < links->gpu_count; g++) {
		name_peers(links, g);
		choose_nic(links, g, used);
	}
}

void mt_links_of_host(struct mt_links *links)
{
	struct mt_nvml *nvml = NULL;
	mt_links_read("", links);
	if (links->gpu_count > 0 && mt_nvml_open(&nvml) != MT_OK)
		mt_error_clear(); /* no driver: /sys alone */
	mt_links_ask_driver(links, nvml);
	mt_nvml_close(nvml);
	mt_links_join(links);
}
