/* The driver's readings through a stand-in for its library: every value arrives as what it is, and a watch sums them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/nvml.h"
#include "tuner/health.h"

#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void (*set)(const char *what, unsigned long long value);
static int (*opened)(void);

/* Loads the stand-in by its path: the loader then gives it to whoever asks for its name. */
static int load_double(void **state)
{
	char path[4096];
	ssize_t length = readlink("/proc/self/exe", path, sizeof path - 64);
	path[length < 0 ? 0 : length] = 0;
	char *slash = strrchr(path, '/');
	strcpy(slash ? slash : path, "/nvml/libnvidia-ml.so.1");
	void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!library) {
		fprintf(stderr, "%s\n", dlerror());
		return 1;
	}
	*(void **)&set = dlsym(library, "nvml_double_set");
	*(void **)&opened = dlsym(library, "nvml_double_opened");
	return !set || !opened;
}

static void facts_are_what_the_driver_says(void **state)
{
	struct mt_nvml *nvml;
	struct mt_nvml_facts f;
	char ends[MT_NVML_LINKS][24];
	assert_int_equal(mt_nvml_open(&nvml), MT_OK);
	assert_string_equal(mt_nvml_driver(nvml), "580.65.06");
	assert_int_equal(mt_nvml_count(nvml), 2);
	assert_int_equal(mt_nvml_facts(nvml, 1, &f), MT_OK);
	assert_string_equal(f.name, "NVIDIA Test 80GB");
	assert_string_equal(f.bus_id, "0000:cb:00.0");
	assert_int_equal(f.arch, 90);
	assert_int_equal(f.memory_bytes, 85520809984);
	assert_int_equal(f.pcie_generation, 5);
	assert_int_equal(f.pcie_width, 16);
	assert_int_equal(f.pcie_width_now, 8);
	assert_int_equal(f.nvlinks, 4);
	assert_int_equal(f.nvlink_version, 7);
	assert_int_equal(f.sm_clock_most_mhz, 1980);
	assert_int_equal(f.memory_clock_most_mhz, 2619);
	assert_true(f.power_limit_w == 700);
	assert_int_equal(f.ecc, 1);
	assert_int_equal(mt_nvml_link_ends(nvml, 0, ends, MT_NVML_LINKS), 4);
	assert_string_equal(ends[3], "0000:cb:00.0");
	assert_int_equal(mt_nvml_facts(nvml, 2, &f), MT_UNAVAILABLE);
	mt_error_clear();
	mt_nvml_close(nvml);
	assert_int_equal(opened(), 0);
}

static void a_state_keeps_its_units(void **state)
{
	struct mt_nvml *nvml;
	struct mt_nvml_state s;
	set("power_mw", 512345);
	set("energy_mj", 7000);
	set("throttle", 4 | 0x40);
	assert_int_equal(mt_nvml_open(&nvml), MT_OK);
	assert_int_equal(mt_nvml_state(nvml, 0, &s), MT_OK);
	assert_true(fabs(s.power_w - 512.345) < 1e-9);
	assert_true(fabs(s.energy_j - 7) < 1e-9);
	assert_int_equal(s.temperature_c, 54);
	assert_int_equal(s.sm_clock_mhz, 1755);
	assert_int_equal(s.memory_clock_mhz, 2619);
	assert_int_equal(s.throttle, 0x44);
	assert_int_equal(s.ecc_uncorrected, 0);
	assert_int_equal(s.utilization_percent, -1); /* the stand-in has no such function */
	mt_nvml_close(nvml);
}

static void reasons_are_named(void **state)
{
	char text[160];
	mt_nvml_throttle_text(0x44, text, sizeof text);
	assert_string_equal(text, "power cap, hardware thermal");
	mt_nvml_throttle_text(1, text, sizeof text);
	assert_string_equal(text, "none");
	mt_nvml_throttle_text(-1, text, sizeof text);
	assert_string_equal(text, "unknown");
	mt_nvml_throttle_text(0x1fe, text, 20); /* a short buffer is not overrun */
	assert_true(strlen(text) < 20);
}

static void a_driver_that_does_not_answer_is_unavailable(void **state)
{
	struct mt_nvml *nvml;
	struct mt_nvml_watch *watch;
	set("refuse_init", 1);
	assert_int_equal(mt_nvml_open(&nvml), MT_UNAVAILABLE);
	assert_non_null(strstr(mt_error_message(), "Driver Not Loaded"));
	mt_error_clear();
	assert_int_equal(mt_nvml_watch_start(&watch, NULL, 0.01), MT_UNAVAILABLE);
	assert_null(watch);
	mt_error_clear();
	set("refuse_init", 0);
}

static void a_watch_sums_what_happens_meanwhile(void **state)
{
	struct mt_nvml_watch *watch;
	struct mt_nvml_watched *list;
	int count;
	set("power_mw", 300000);
	set("clock_mhz", 1900);
	set("throttle", 1);
	set("energy_mj", 5000000);
	set("uncorrected", 2);
	assert_int_equal(mt_nvml_watch_start(&watch, "0000:cb:00.0", 0.002), MT_OK);
	mt_clock_sleep(0.05);
	set("power_mw", 600000);
	set("clock_mhz", 1200);
	set("throttle", 4);
	set("energy_mj", 5042000);
	set("uncorrected", 3);
	assert_int_equal(mt_nvml_watch_stop(watch, &list, &count), MT_OK);
	assert_int_equal(count, 1);
	assert_string_equal(list[0].bus_id, "0000:cb:00.0");
	assert_true(list[0].samples >= 1);
	assert_true(list[0].most_power_w == 600); /* the last reading is taken after the stop */
	assert_true(list[0].mean_power_w >= 300 && list[0].mean_power_w <= 600);
	assert_int_equal(list[0].most_temperature_c, 55);
	assert_int_equal(list[0].least_sm_clock_mhz, 1200);
	assert_true(list[0].throttle & 4);
	assert_true(list[0].throttled_frac > 0);
	if (list[0].samples > 1) { /* the thread had its turn before the change */
		assert_true(fabs(list[0].energy_j - 42) < 1e-9);
		assert_int_equal(list[0].ecc_uncorrected, 1);
	}
	assert_int_equal(list[0].ecc_corrected, 0);
	free(list);
	assert_int_equal(opened(), 0);
	assert_int_equal(mt_nvml_watch_start(&watch, "0000:01:00.0", 0.01), MT_INPUT);
	mt_error_clear();
}

static void energy_without_a_counter_is_power_times_time(void **state)
{
	struct mt_nvml_watch *watch;
	struct mt_nvml_watched *list;
	int count;
	set("power_mw", 250000);
	set("no_energy", 1);
	assert_int_equal(mt_nvml_watch_start(&watch, NULL, 0.002), MT_OK);
	mt_clock_sleep(0.01);
	assert_int_equal(mt_nvml_watch_stop(watch, &list, &count), MT_OK);
	assert_int_equal(count, 2);
	for (int i = 0; i < 2; i++)
		assert_true(fabs(list[i].energy_j - 250 * list[i].seconds) < 1e-6);
	free(list);
	set("no_energy", 0);
}

static void what_is_told_of_a_gpu_is_what_was_read(void **state)
{
	struct mt_nvml_watched gpus[2] = {
		{"NVIDIA Test 80GB", "0000:1b:00.0", 10, 2, 512.4, 690.2, 1024.8, 71, 1350, 1755, 1980, 0x44, 0.3, 0, 1},
		{"NVIDIA Test 80GB", "0000:cb:00.0", 10, 2, -1, -1, -1, -1, -1, -1, -1, -1, 0, -1, -1}};
	struct mt_nvml_watched silent = {.bus_id = "0000:01:00.0"};
	char *text;
	size_t size;
	FILE *file = open_memstream(&text, &size);
	mt_health_print(gpus, 2, file);
	mt_health_print(&silent, 1, file);
	fclose(file);
	assert_string_equal(text,
			    "GPU 0000:1b:00.0  512 W (most 690)  1.0 kJ  1755 MHz (1350 to 1980)  71 C  held back: power cap, "
			    "hardware thermal (30% of the time)  new memory errors: 0 corrected, 1 not\n"
			    "GPU 0000:cb:00.0   held back: unknown\n"
			    "GPU 0000:01:00.0  gave no readings\n");
	free(text);
	json_t *json = mt_health_json(gpus, 2), *first = json_array_get(json, 0), *second = json_array_get(json, 1);
	assert_true(json_number_value(json_object_get(first, "energy_j")) == 1024.8);
	assert_string_equal(json_string_value(json_object_get(first, "held_back_by")), "power cap, hardware thermal");
	assert_true(json_is_null(json_object_get(second, "power_w")));
	assert_true(json_is_null(json_object_get(second, "ecc_corrected")));
	json_decref(json);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(facts_are_what_the_driver_says),
		cmocka_unit_test(a_state_keeps_its_units),
		cmocka_unit_test(reasons_are_named),
		cmocka_unit_test(a_driver_that_does_not_answer_is_unavailable),
		cmocka_unit_test(a_watch_sums_what_happens_meanwhile),
		cmocka_unit_test(energy_without_a_counter_is_power_times_time),
		cmocka_unit_test(what_is_told_of_a_gpu_is_what_was_read),
	};
	return cmocka_run_group_tests_name("base: nvml", tests, load_double, NULL);
}
