/* host_cpu: the processor's name, its instruction sets, and the shape of sockets, NUMA nodes, cores and caches from
 * /proc and /sys. With hwloc the shape comes from host.c instead. */
#include "probes/parts.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

/* Copies the text after "key :" of the first line that starts with key. */
static bool cpuinfo(const char *root, const char *key, char *text, size_t size)
{
	char path[512], *line = NULL;
	size_t room = 0;
	bool found = false;
	snprintf(path, sizeof path, "%s/proc/cpuinfo", root);
	FILE *file = fopen(path, "re");
	if (!file)
		return false;
	while (!found && getline(&line, &room, file) > 0) {
		char *colon = strchr(line, ':');
		if (strncmp(line, key, strlen(key)) != 0 || !colon)
			continue;
		colon += strspn(colon, ": \t");
		colon[strcspn(colon, "\n")] = 0;
		snprintf(text, size, "%s", colon);
		found = true;
	}
	free(line);
	fclose(file);
	return found;
}

/* True when `flags` has `flag` as a whole word. */
static bool has_flag(const char *flags, const char *flag)
{
	size_t n = strlen(flag);
	for (const char *at = strstr(flags, flag); at; at = strstr(at + 1, flag))
		if ((at == flags || at[-1] == ' ') && (at[n] == ' ' || at[n] == 0))
			return true;
	return false;
}

/* "avx512 bf16 amx": the widest vectors, then what speeds up bf16 products. */
static void name_isa(const char *flags, char *isa, size_t size)
{
	bool bf16 = has_flag(flags, "avx512_bf16") || has_flag(flags, "avx_bf16") || has_flag(flags, "bf16");
	const char *vector = has_flag(flags, "avx512f")                          ? "avx512"
			     : has_flag(flags, "avx2")                           ? "avx2"
			     : has_flag(flags, "sse2")                           ? "sse2"
			     : has_flag(flags, "sve")                            ? "sve"
			     : has_flag(flags, "asimd") || has_flag(flags, "fp") ? "neon"
										 : "baseline";
	snprintf(isa, size, "%s%s%s", vector, bf16 ? " bf16" : "", has_flag(flags, "amx_bf16") ? " amx" : "");
}

void mt_probe_read_cpu(const char *root, struct mt_machine_host *host)
{
	char flags[8192] = "";
	struct utsname system;
	bool named = uname(&system) == 0;
	if (!cpuinfo(root, "model name", host->cpu, sizeof host->cpu) && !cpuinfo(root, "Hardware", host->cpu, sizeof host->cpu))
		snprintf(host->cpu, sizeof host->cpu, "%.40s processor", named ? system.machine : "unknown");
	if (!cpuinfo(root, "flags", flags, sizeof flags))
		cpuinfo(root, "Features", flags, sizeof flags);
	name_isa(flags, host->isa, sizeof host->isa);
	snprintf(host->kernel, sizeof host->kernel, "%.63s", named ? system.release : "unknown");
}

/* "480M", "32K" */
static int64_t cache_bytes(const char *text)
{
	char *end;
	int64_t value = strtoll(text, &end, 10);
	return *end == 'K' ? value << 10 : *end == 'M' ? value << 20 : *end == 'G' ? value << 30 : value;
}

static void read_caches(const char *root, struct mt_machine_host *host)
{
	for (int i = 0; i < 8; i++) {
		char path[128], type[32], size[32];
		snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/type", i);
		if (!mt_probe_read_line(root, path, type, sizeof type))
			return;
		snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/level", i);
		int64_t level = mt_probe_read_int(root, path, 0);
		snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", i);
		if (strcmp(type, "Instruction") == 0 || !mt_probe_read_line(root, path, size, sizeof size))
			continue;
		int64_t *field = level == 1 ? &host->l1d_bytes : level == 2 ? &host->l2_bytes : level == 3 ? &host->l3_bytes : NULL;
		if (field)
			*field = cache_bytes(size);
	}
}

static int compare_ids(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
	return (x > y) - (x < y);
}

static int count_distinct(int64_t *ids, int count)
{
	int distinct = 0;
	qsort(ids, (size_t)count, sizeof *ids, compare_ids);
	for (int i = 0; i < count; i++)
		distinct += i == 0 || ids[i] != ids[i - 1];
	return distinct;
}

void mt_probe_read_shape(const char *root, struct mt_machine_host *host)
{
	enum { MOST_CPUS = 8192, MOST_NODES = 1024 };
	int64_t *cores = malloc(2 * MOST_CPUS * sizeof *cores), *packages = cores ? cores + MOST_CPUS : NULL;
	int cpus = 0;
	char path[128];
	for (int i = 0; cores && i < MOST_CPUS; i++) {
		snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/core_id", i);
		int64_t core = mt_probe_read_int(root, path, -1);
		snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/physical_package_id", i);
		int64_t package = mt_probe_read_int(root, path, -1);
		if (core < 0) /* offline, or past the last */
			continue;
		packages[cpus] = package;
		cores[cpus++] = package * 65536 + core;
	}
	host->cores = cores ? count_distinct(cores, cpus) : 0;
	host->sockets = cores ? count_distinct(packages, cpus) : 0;
	free(cores);
	for (int i = 0; i < MOST_NODES; i++) {
		char text[64];
		snprintf(path, sizeof path, "/sys/devices/system/node/node%d/cpulist", i);
		host->numa_nodes += mt_probe_read_line(root, path, text, sizeof text);
	}
	host->cores = host->cores > 0 ? host->cores : 1;
	host->sockets = host->sockets > 0 ? host->sockets : 1;
	host->numa_nodes = host->numa_nodes > 0 ? host->numa_nodes : 1;
	host->threads_per_core = cpus > host->cores ? cpus / host->cores : 1;
	read_caches(root, host);
}
