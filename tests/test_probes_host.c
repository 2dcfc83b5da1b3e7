/* What a host is, read from copies of /proc and /sys; and the doctor's report of this one. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/file.h"
#include "probes/doctor.h"
#include "probes/parts.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *where)
{
	return remove(path);
}

static void make_root(char root[64])
{
	strcpy(root, "/tmp/mt_root_XXXXXX");
	assert_non_null(mkdtemp(root));
}

static void drop_root(const char *root)
{
	nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* root/path with its directories, holding text. */
static void put(const char *root, const char *path, const char *text)
{
	char full[512];
	snprintf(full, sizeof full, "%s%s", root, path);
	char *slash = strrchr(full, '/');
	*slash = 0;
	assert_int_equal(mt_file_make_directory(full), MT_OK);
	*slash = '/';
	assert_int_equal(mt_file_write(full, text, strlen(text)), MT_OK);
}

#define MEMINFO "MemTotal:       1000000 kB\nMemFree:         100000 kB\nMemAvailable:    800000 kB\n"

static void memory_reads_as(const char *root, int64_t total, int64_t available)
{
	int64_t t, a;
	mt_probe_read_memory(root, &t, &a);
	if (t != total || a != available)
		fail_msg("total %lld, available %lld; expected %lld and %lld", (long long)t, (long long)a, (long long)total,
			 (long long)available);
}

static void memory_is_meminfo_without_a_limit(void **state)
{
	char root[64];
	make_root(root);
	put(root, "/proc/meminfo", MEMINFO);
	memory_reads_as(root, 1024000000, 819200000);
	put(root, "/proc/self/cgroup", "0::/user/job\n");
	put(root, "/sys/fs/cgroup/user/job/memory.max", "max\n");
	memory_reads_as(root, 1024000000, 819200000);
	drop_root(root);
}

static void limit_of_any_group_above_counts(void **state)
{
	char root[64];
	make_root(root);
	put(root, "/proc/meminfo", MEMINFO);
	put(root, "/proc/self/cgroup", "0::/user/job\n");
	put(root, "/sys/fs/cgroup/user/job/memory.max", "max\n");
	put(root, "/sys/fs/cgroup/user/memory.max", "500000000\n");
	put(root, "/sys/fs/cgroup/user/memory.current", "200000000\n");
	put(root, "/sys/fs/cgroup/user/memory.stat", "anon 1\ninactive_file 50000000\n");
	memory_reads_as(root, 500000000, 350000000);
	drop_root(root);
}

static void limit_of_version_1_counts(void **state)
{
	char root[64];
	make_root(root);
	put(root, "/proc/meminfo", MEMINFO);
	put(root, "/proc/self/cgroup", "7:blkio:/\n4:memory:/box\n0::/\n");
	put(root, "/sys/fs/cgroup/memory/box/memory.limit_in_bytes", "300000000\n");
	put(root, "/sys/fs/cgroup/memory/box/memory.usage_in_bytes", "100000000\n");
	put(root, "/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
	memory_reads_as(root, 300000000, 200000000);
	drop_root(root);
}

static void processor_and_instruction_sets_are_named(void **state)
{
	static const struct {
		const char *flags, *isa;
	} cases[] = {
		{"fpu sse2 avx2 avx512f avx512_bf16 amx_bf16 amx_tile", "avx512 bf16 amx"},
		{"fpu sse2 avx2 avx512f", "avx512"},
		{"fpu sse2 avx avx2 fma", "avx2"},
		{"fpu sse sse2", "sse2"},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct mt_machine_host host = {0};
		char root[64], text[512];
		make_root(root);
		snprintf(text, sizeof text, "processor\t: 0\nmodel name\t: Some CPU @ 2.0GHz\nflags\t\t: %s\n\nprocessor\t: 1\n",
			 cases[i].flags);
		put(root, "/proc/cpuinfo", text);
		mt_probe_read_cpu(root, &host);
		assert_string_equal(host.cpu, "Some CPU @ 2.0GHz");
		assert_string_equal(host.isa, cases[i].isa);
		drop_root(root);
	}
}

static void shape_without_hwloc_counts_cores_once(void **state)
{
	struct mt_machine_host host = {0};
	char root[64], path[128], text[16];
	make_root(root);
	for (int cpu = 0; cpu < 16; cpu++) { /* 2 sockets of 4 cores of 2 threads */
		snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/core_id", cpu);
		snprintf(text, sizeof text, "%d\n", cpu % 4);
		put(root, path, text);
		snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/physical_package_id", cpu);
		snprintf(text, sizeof text, "%d\n", cpu / 4 % 2);
		put(root, path, text);
	}
	put(root, "/sys/devices/system/node/node0/cpulist", "0-3,8-11\n");
	put(root, "/sys/devices/system/node/node1/cpulist", "4-7,12-15\n");
	put(root, "/sys/devices/system/cpu/cpu0/cache/index0/type", "Data\n");
	put(root, "/sys/devices/system/cpu/cpu0/cache/index0/level", "1\n");
	put(root, "/sys/devices/system/cpu/cpu0/cache/index0/size", "48K\n");
	put(root, "/sys/devices/system/cpu/cpu0/cache/index1/type", "Unified\n");
	put(root, "/sys/devices/system/cpu/cpu0/cache/index1/level", "3\n");
	put(root, "/sys/devices/system/cpu/cpu0/cache/index1/size", "32M\n");
	mt_probe_read_shape(root, &host);
	assert_int_equal(host.sockets, 2);
	assert_int_equal(host.cores, 8);
	assert_int_equal(host.threads_per_core, 2);
	assert_int_equal(host.numa_nodes, 2);
	assert_int_equal(host.l1d_bytes, 48 << 10);
	assert_int_equal(host.l3_bytes, 32 << 20);
	drop_root(root);
}

static void gpus_are_found_with_and_without_a_driver(void **state)
{
	char root[64];
	make_root(root);
	assert_int_equal(mt_probe_count_gpus(root), 0);
	put(root, "/sys/bus/pci/devices/0000:01:00.0/class", "0x030200\n");
	put(root, "/sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de\n");
	put(root, "/sys/bus/pci/devices/0000:02:00.0/class", "0x030000\n");
	put(root, "/sys/bus/pci/devices/0000:02:00.0/vendor", "0x1234\n");
	put(root, "/sys/bus/pci/devices/0000:03:00.0/class", "0x020000\n");
	put(root, "/sys/bus/pci/devices/0000:03:00.0/vendor", "0x10de\n");
	assert_int_equal(mt_probe_count_gpus(root), 1);
	put(root, "/proc/driver/nvidia/gpus/0000:01:00.0/information", "Model\n");
	put(root, "/proc/driver/nvidia/gpus/0000:04:00.0/information", "Model\n");
	assert_int_equal(mt_probe_count_gpus(root), 2);
	drop_root(root);
}

static void this_host_is_described(void **state)
{
	struct mt_machine_host host;
	assert_int_equal(mt_probe_host(&host), MT_OK);
	assert_true(host.cores >= 1 && host.sockets >= 1 && host.threads_per_core >= 1);
	assert_true(host.memory_bytes > 0 && host.available_bytes > 0 && host.available_bytes <= host.memory_bytes);
	assert_true(host.name[0] && host.cpu[0] && host.isa[0]);
}

static void doctor_rows_say_what_to_do(void **state)
{
	json_t *report = NULL;
	char *text;
	size_t size, count;
	FILE *file = open_memstream(&text, &size);
	assert_int_equal(mt_doctor_report(file, &report), MT_OK);
	fclose(file);
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
		if (strlen(line) > 80)
			fail_msg("%zu columns: %s", strlen(line), line);
	free(text);
	json_t *rows = json_object_get(report, "rows");
	count = json_array_size(rows);
	assert_true(count >= 15);
	json_int_t sum = json_integer_value(json_object_get(report, "ok")) + json_integer_value(json_object_get(report, "absent")) +
			 json_integer_value(json_object_get(report, "warn"));
	assert_int_equal(sum, count);
	for (size_t i = 0; i < count; i++) {
		json_t *row = json_array_get(rows, i);
		const char *state_text = json_string_value(json_object_get(row, "state"));
		bool ok = strcmp(state_text, "ok") == 0;
		assert_true(json_string_length(json_object_get(row, "value")) > 0);
		assert_int_equal(json_is_null(json_object_get(row, "do")), ok);
		assert_int_equal(json_is_null(json_object_get(row, "leaves_out")), ok);
	}
	json_decref(report);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(memory_is_meminfo_without_a_limit),
		cmocka_unit_test(limit_of_any_group_above_counts),
		cmocka_unit_test(limit_of_version_1_counts),
		cmocka_unit_test(processor_and_instruction_sets_are_named),
		cmocka_unit_test(shape_without_hwloc_counts_cores_once),
		cmocka_unit_test(gpus_are_found_with_and_without_a_driver),
		cmocka_unit_test(this_host_is_described),
		cmocka_unit_test(doctor_rows_say_what_to_do),
	};
	return cmocka_run_group_tests_name("probes: host", tests, NULL, NULL);
}
