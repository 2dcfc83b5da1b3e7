/* host_memory: how much memory this host has and has left: /proc/meminfo, bounded by the memory limits of the control
 * groups this process is in (v2 and v1). hwloc's sum over NUMA nodes is not used: with deferred memory initialisation
 * the kernel reports nodes far too small at first. */
#include "probes/parts.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static int64_t least(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

/* Value of "Key:  n kB" in bytes, -1 when absent. */
static int64_t meminfo(const char *root, const char *key)
{
	char path[512], line[256];
	int64_t value = -1;
	snprintf(path, sizeof path, "%s/proc/meminfo", root);
	FILE *file = fopen(path, "re");
	if (!file)
		return -1;
	while (value < 0 && fgets(line, sizeof line, file)) {
		size_t n = strlen(key);
		int64_t kib;
		if (strncmp(line, key, n) == 0 && line[n] == ':' && sscanf(line + n + 1, "%" SCNd64, &kib) == 1)
			value = kib * 1024;
	}
	fclose(file);
	return value;
}

/* Page cache that the kernel gives back under pressure counts in a group's usage but is available. */
static int64_t reclaimable(const char *root, const char *group, const char *key)
{
	char path[1400], name[64];
	int64_t value = 0, found = 0;
	snprintf(path, sizeof path, "%s%s/memory.stat", root, group);
	FILE *file = fopen(path, "re");
	if (!file)
		return 0;
	while (fscanf(file, "%63s %" SCNd64, name, &value) == 2)
		if (strcmp(name, key) == 0)
			found = value;
	fclose(file);
	return found;
}

/* The limits of a group and of all above it, the innermost first; `group` is cut as we go. */
static void bound_by_group(const char *root, char *group, size_t mount, bool v2, int64_t *total, int64_t *available)
{
	for (;;) {
		char path[1400];
		snprintf(path, sizeof path, "%s/%s", group, v2 ? "memory.max" : "memory.limit_in_bytes");
		int64_t limit = mt_probe_read_int(root, path, INT64_MAX); /* "max" is no number */
		snprintf(path, sizeof path, "%s/%s", group, v2 ? "memory.current" : "memory.usage_in_bytes");
		int64_t used = mt_probe_read_int(root, path, 0);
		if (limit < *total) {
			used -= reclaimable(root, group, v2 ? "inactive_file" : "total_inactive_file");
			*total = limit;
			*available = least(*available, limit > used ? limit - used : 0);
		}
		char *cut = strrchr(group + mount, '/');
		if (!cut)
			return;
		*cut = 0;
	}
}

void mt_probe_read_memory(const char *root, int64_t *total, int64_t *available)
{
	char path[512], line[512], group[600];
	*total = meminfo(root, "MemTotal");
	*available = meminfo(root, "MemAvailable");
	if (*total < 0)
		*total = 0;
	if (*available < 0)
		*available = *total;
	snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
	FILE *file = fopen(path, "re");
	if (!file)
		return;
	while (fgets(line, sizeof line, file)) { /* "0::/path" or "4:memory:/path" */
		line[strcspn(line, "\n")] = 0;
		char *controllers = strchr(line, ':'), *inside = controllers ? strchr(controllers + 1, ':') : NULL;
		if (!inside)
			continue;
		*inside++ = 0;
		bool v2 = controllers[1] == 0;
		if (!v2 && strcmp(controllers + 1, "memory") != 0)
			continue;
		const char *mount = v2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory";
		snprintf(group, sizeof group, "%s%s", mount, strcmp(inside, "/") == 0 ? "" : inside);
		bound_by_group(root, group, strlen(mount), v2, total, available);
	}
	fclose(file);
}
