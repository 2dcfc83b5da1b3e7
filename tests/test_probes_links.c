/* GPUs, network cards and their links, read from a copy of /sys, with and without what the driver adds; and all of it through a
 * machine file. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/file.h"
#include "probes/links.h"
#include "probes/probe.h"

#include <dlfcn.h>
#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char root[64];

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *where)
{
	return remove(path);
}

/* root/path with its directories: a file of text, or a link where the text begins with "-> ". */
static void put(const char *path, const char *text)
{
	char full[2048];
	snprintf(full, sizeof full, "%s%s", root, path);
	char *slash = strrchr(full, '/');
	*slash = 0;
	assert_int_equal(mt_file_make_directory(full), MT_OK);
	*slash = '/';
	if (strncmp(text, "-> ", 3) == 0)
		assert_int_equal(symlink(text + 3, full), 0);
	else
		assert_int_equal(mt_file_write(full, text, strlen(text)), MT_OK);
}

/* Unpacks a host of tests/data/sys below root. */
static void unpack(const char *name)
{
	char path[256], line[1024];
	strcpy(root, "/tmp/mt_sys_XXXXXX");
	assert_non_null(mkdtemp(root));
	snprintf(path, sizeof path, "tests/data/sys/%s.txt", name);
	FILE *file = fopen(path, "r");
	if (!file)
		fail_msg("%s: run it from the repository", path);
	while (fgets(line, sizeof line, file)) {
		char *tab = strchr(line, '\t');
		if (line[0] == '#' || !tab)
			continue;
		*tab = 0;
		if (strncmp(tab + 1, "-> ", 3) == 0)
			tab[strcspn(tab + 1, "\n") + 1] = 0;
		put(line, tab + 1);
	}
	fclose(file);
}

static int drop(void **state)
{
	nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	return 0;
}

static void a_host_without_gpus_has_none(void **state)
{
	struct mt_links links;
	strcpy(root, "/tmp/mt_sys_XXXXXX");
	assert_non_null(mkdtemp(root));
	mt_links_read(root, &links);
	mt_links_ask_driver(&links, NULL);
	mt_links_join(&links);
	assert_int_equal(links.gpu_count, 0);
	assert_int_equal(links.nic_count, 0);
}

static void links_are_read_with_generation_width_and_node(void **state)
{
	struct mt_links links;
	unpack("two-sockets");
	mt_links_read(root, &links);
	assert_int_equal(links.gpu_count, 4);
	assert_string_equal(links.gpus[0].bus_id, "0000:1b:00.0");
	assert_string_equal(links.gpus[2].bus_id, "0000:cb:00.0");
	assert_string_equal(links.gpus[0].name, "NVIDIA GPU 2330");
	assert_int_equal(links.gpus[0].numa_node, 0);
	assert_int_equal(links.gpus[3].numa_node, 1);
	assert_int_equal(links.gpus[0].pcie_generation, 5);
	assert_int_equal(links.gpus[0].pcie_generation_now, 1); /* idle */
	assert_int_equal(links.gpus[2].pcie_width, 16);
	assert_int_equal(links.gpus[2].pcie_width_now, 8);
	assert_int_equal(links.nic_count, 4); /* a card without an interface is none */
	assert_string_equal(links.nics[0].name, "eth0");
	assert_true(links.nics[0].port_gbps == 1.25);
	assert_int_equal(links.nics[0].pcie_width, 4);
	assert_string_equal(links.nics[1].name, "mlx5_0");
	assert_true(links.nics[1].port_gbps == 50);
	assert_true(links.nics[1].up && !links.nics[2].up);
	assert_string_equal(links.nics[3].name, "mlx5_2"); /* by its InfiniBand name, as the fabric knows it */
}

static void each_gpu_gets_the_nearest_card_that_is_up(void **state)
{
	static const struct {
		const char *nic, *path, *peers;
	} expected[] = {
		{"mlx5_0", "PIX", "X NODE SYS SYS"},
		{"mlx5_0", "NODE", "NODE X SYS SYS"}, /* mlx5_1 is on its switch, but down */
		{"mlx5_2", "PXB", "SYS SYS X PHB"},
		{"mlx5_2", "PHB", "SYS SYS PHB X"},
	};
	struct mt_links links;
	unpack("two-sockets");
	mt_links_read(root, &links);
	links.nics[0].up = 0; /* the card for management is as near to GPU 1 as mlx5_0 and less used */
	mt_links_join(&links);
	for (int i = 0; i < 4; i++) {
		assert_string_equal(links.gpus[i].nic, expected[i].nic);
		assert_string_equal(links.gpus[i].nic_path, expected[i].path);
		assert_string_equal(links.gpus[i].peers, expected[i].peers);
	}
	links.nics[2].up = 1;
	mt_links_join(&links);
	assert_string_equal(links.gpus[1].nic, "mlx5_1");
	assert_string_equal(links.gpus[1].nic_path, "PIX");
}

static void paths_do_not_depend_on_the_direction(void **state)
{
	struct mt_links links;
	unpack("two-sockets");
	mt_links_read(root, &links);
	for (int a = 0; a < links.gpu_count; a++)
		for (int n = 0; n < links.nic_count; n++) {
			enum mt_link_path there = mt_links_path(links.gpu_paths[a], links.gpus[a].numa_node, links.nic_paths[n],
								links.nics[n].numa_node),
					  back = mt_links_path(links.nic_paths[n], links.nics[n].numa_node, links.gpu_paths[a],
							       links.gpus[a].numa_node);
			assert_int_equal(there, back);
		}
	assert_int_equal(mt_links_path(links.gpu_paths[0], 0, links.gpu_paths[0], 0), MT_PATH_PIX);
}

static void rates_are_those_of_the_standards(void **state)
{
	assert_true(fabs(mt_links_pcie_gbps(3, 16) - 15.754) < 0.001);
	assert_true(fabs(mt_links_pcie_gbps(4, 16) - 31.508) < 0.001);
	assert_true(fabs(mt_links_pcie_gbps(5, 16) - 63.015) < 0.001);
	assert_true(mt_links_pcie_gbps(1, 1) == 0.25);
	assert_true(mt_links_pcie_gbps(0, 16) == 0 && mt_links_pcie_gbps(9, 16) == 0);
	assert_true(18 * mt_links_nvlink_gbps(6) == 450);
	assert_true(18 * mt_links_nvlink_gbps(7) == 900);
	assert_true(mt_links_nvlink_gbps(-1) == 0);
}

static void open_double(struct mt_nvml **nvml)
{
	char path[4096];
	ssize_t length = readlink("/proc/self/exe", path, sizeof path - 64);
	path[length < 0 ? 0 : length] = 0;
	char *slash = strrchr(path, '/');
	strcpy(slash ? slash : path, "/nvml/libnvidia-ml.so.1");
	if (!dlopen(path, RTLD_NOW | RTLD_LOCAL))
		fail_msg("%s", dlerror());
	assert_int_equal(mt_nvml_open(nvml), MT_OK);
}

static void the_driver_adds_names_memory_and_nvlinks(void **state)
{
	struct mt_links links;
	struct mt_nvml *nvml;
	unpack("two-sockets");
	open_double(&nvml);
	mt_links_read(root, &links);
	mt_links_ask_driver(&links, nvml);
	mt_links_join(&links);
	assert_int_equal(links.gpu_count, 4);
	assert_string_equal(links.gpus[0].name, "NVIDIA Test 80GB");
	assert_string_equal(links.gpus[1].name, "NVIDIA GPU 2330");
	assert_int_equal(links.gpus[0].arch, 90);
	assert_int_equal(links.gpus[0].pcie_generation_now, 5); /* the driver's word counts */
	assert_int_equal(links.gpus[2].nvlinks, 4);
	assert_true(links.gpus[2].nvlink_gbps == 200);
	assert_true(links.gpus[2].power_limit_w == 700);
	assert_string_equal(links.gpus[0].peers, "X NODE NV4 SYS");
	assert_string_equal(links.gpus[2].peers, "NV4 SYS X PHB");
	mt_nvml_close(nvml);
}

static void gpus_that_sys_hides_are_the_drivers(void **state)
{
	struct mt_links links;
	struct mt_nvml *nvml;
	strcpy(root, "/tmp/mt_sys_XXXXXX");
	assert_non_null(mkdtemp(root));
	open_double(&nvml);
	mt_links_read(root, &links);
	mt_links_ask_driver(&links, nvml);
	mt_links_join(&links);
	assert_int_equal(links.gpu_count, 2);
	assert_string_equal(links.gpus[1].bus_id, "0000:cb:00.0");
	assert_string_equal(links.gpus[1].peers, "NV4 X");
	assert_string_equal(links.gpus[1].nic, "");
	mt_nvml_close(nvml);
}

static void fill_machine(struct mt_machine *m, const struct mt_links *links)
{
	static struct mt_machine_host host = {.name = "node \"1\"", .ranks = 1};
	static int rank_host[1];
	static struct mt_machine_gpu gpus[MT_LINKS_GPUS];
	static struct mt_machine_nic nics[MT_LINKS_NICS];
	memcpy(gpus, links->gpus, sizeof gpus);
	memcpy(nics, links->nics, sizeof nics);
	*m = (struct mt_machine){.name = "test", .world = 1, .host_count = 1, .hosts = &host, .rank_host = rank_host};
	m->gpus = gpus, m->gpu_count = links->gpu_count;
	m->nics = nics, m->nic_count = links->nic_count;
	m->copies = (struct mt_machine_copies){50.5, 51.25, 90, 2400, 2900, 64 << 20};
}

static void a_machine_file_keeps_them(void **state)
{
	struct mt_links links;
	struct mt_machine m, back;
	char path[128];
	unpack("two-sockets");
	mt_links_read(root, &links);
	mt_links_join(&links);
	fill_machine(&m, &links);
	snprintf(path, sizeof path, "%s/machine.yaml", root);
	assert_int_equal(mt_machine_save(&m, path), MT_OK);
	if (mt_machine_load(&back, path) != MT_OK)
		fail_msg("%s", mt_error_message());
	assert_int_equal(back.gpu_count, 4);
	assert_int_equal(back.nic_count, 4);
	assert_memory_equal(back.gpus, m.gpus, 4 * sizeof *m.gpus);
	assert_memory_equal(back.nics, m.nics, 4 * sizeof *m.nics);
	assert_memory_equal(&back.copies, &m.copies, sizeof m.copies);
	mt_machine_free(&back);
	m.gpus[2].host = 1; /* there is one host */
	assert_int_equal(mt_machine_save(&m, path), MT_OK);
	assert_int_equal(mt_machine_load(&back, path), MT_INPUT);
	assert_non_null(strstr(mt_error_message(), "gpus: host is 1; hosts are 0 to 0"));
	mt_error_clear();
}

static void tables_keep_to_80_columns(void **state)
{
	struct mt_links links;
	struct mt_machine m;
	char *text;
	size_t size;
	unpack("two-sockets");
	mt_links_read(root, &links);
	mt_links_join(&links);
	fill_machine(&m, &links);
	FILE *file = open_memstream(&text, &size);
	mt_probe_print(&m, file);
	fclose(file);
	assert_non_null(strstr(text, "5x8 (5x16)"));
	assert_non_null(strstr(text, "NIC mlx5_2 PXB"));
	assert_non_null(strstr(text, "X NODE SYS SYS"));
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
		if (strlen(line) > 80)
			fail_msg("%zu columns: %s", strlen(line), line);
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(a_host_without_gpus_has_none, drop),
		cmocka_unit_test_teardown(links_are_read_with_generation_width_and_node, drop),
		cmocka_unit_test_teardown(each_gpu_gets_the_nearest_card_that_is_up, drop),
		cmocka_unit_test_teardown(paths_do_not_depend_on_the_direction, drop),
		cmocka_unit_test(rates_are_those_of_the_standards),
		cmocka_unit_test_teardown(the_driver_adds_names_memory_and_nvlinks, drop),
		cmocka_unit_test_teardown(gpus_that_sys_hides_are_the_drivers, drop),
		cmocka_unit_test_teardown(a_machine_file_keeps_them, drop),
		cmocka_unit_test_teardown(tables_keep_to_80_columns, drop),
	};
	return cmocka_run_group_tests_name("probes: links", tests, NULL, NULL);
}
