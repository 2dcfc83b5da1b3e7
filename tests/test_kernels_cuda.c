/* The CUDA plugin on a machine without a GPU: it is loaded whole, says why there is no device, and links no driver. With a GPU
 * its memory, copies, events and marks are tried too. */
#include "base/clock.h"
#include "base/file.h"
#include "base/plugin.h"
#include "base/process.h"
#include "kernels/device.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static char *plugin_path; /* NULL: this build has none */

static void need_plugin(void)
{
	if (!plugin_path) {
		print_message("skipped: built without nvcc, so there is no megatune-cuda.so\n");
		skip();
	}
}

static void skip_without(enum mt_status st)
{
	if (st != MT_UNAVAILABLE)
		return;
	print_message("skipped: %s\n", mt_error_message());
	mt_error_clear();
	skip();
}

static void the_plugin_loads_with_every_symbol_resolved(void **state)
{
	const void *table;
	need_plugin();
	enum mt_status st = mt_plugin_open("cuda", MT_DEVICE_ABI, &table);
	if (st != MT_OK && strstr(mt_error_message(), "libcublas")) /* CUDA's libraries are not on this machine */
		skip_without(st);
	if (st != MT_OK)
		fail_msg("%s", mt_error_message());
	const struct mt_device_plugin *plugin = table;
	assert_string_equal(plugin->ops->kind, "cuda");
	assert_non_null(plugin->ops->async);
}

static void a_plugin_of_other_structures_is_refused(void **state)
{
	const void *table;
	need_plugin();
	assert_int_equal(mt_plugin_open("cuda", MT_DEVICE_ABI + 1, &table), MT_UNAVAILABLE);
	mt_error_clear();
}

static void the_driver_is_not_linked(void **state)
{
	struct mt_process_result result;
	char *readelf, *self;

	need_plugin();
	readelf = mt_process_find("readelf");
	self = mt_process_self();
	if (!readelf) {
		free(self);
		print_message("skipped: no readelf\n");
		skip();
		return; /* skip() does not return; linters do not know */
	}
	const char *argv[] = {readelf, "-d", plugin_path, self, NULL};
	assert_int_equal(mt_process_run(&result, argv, NULL, 60), MT_OK);
	assert_int_equal(result.exit_code, 0);
	assert_non_null(strstr(result.output, "NEEDED"));
	assert_null(strstr(result.output, "libcuda.so"));
	mt_process_result_free(&result);
	free(readelf);
	free(self);
}

/* Whatever is missing, it is not possible here, and the message says what is missing and not only that something is. */
static void without_a_gpu_the_device_is_unavailable_and_says_why(void **state)
{
	static const char *const reasons[] = {
		"no CUDA", "no driver", "no NVIDIA GPU", "does not start", "cannot open shared object", "the driver knows CUDA"};
	struct mt_device_info info;
	struct mt_device *device;
	int count = -1;
	bool said = false;
	enum mt_status st = mt_device_plugin_list("cuda", &info, 1, &count);
	if (st == MT_OK) {
		assert_true(count > 0 && info.name[0] && info.memory_bytes > 0);
		print_message("skipped: there is a GPU, %s\n", info.name);
		skip();
	}
	assert_int_equal(st, MT_UNAVAILABLE);
	for (size_t i = 0; i < sizeof reasons / sizeof reasons[0]; i++)
		said = said || strstr(mt_error_message(), reasons[i]);
	if (!said)
		fail_msg("no reason in: %s", mt_error_message());
	char *listed = strdup(mt_error_message());
	mt_error_clear();
	assert_int_equal(mt_device_create(&device, &(struct mt_device_config){.kind = "cuda"}), MT_UNAVAILABLE);
	assert_null(device);
	assert_string_equal(mt_error_message(), listed);
	mt_error_clear();
	free(listed);
}

/* ---- with a GPU ---- */

static void on_a_gpu_bytes_come_back_and_times_pass(void **state)
{
	enum { BYTES = 20 << 20 }; /* more than one slot of staging */
	struct mt_device *device;
	struct mt_stream *compute, *comm;
	struct mt_event *event;
	struct mt_arena *arena;
	struct mt_mark before, after;
	double before_s, after_s;
	void *a, *b;
	enum mt_status st = mt_device_create(&device, &(struct mt_device_config){.kind = "cuda"});
	skip_without(st);
	assert_int_equal(st, MT_OK);
	assert_int_equal(mt_stream_create(device, MT_STREAM_COMPUTE, "compute", &compute), MT_OK);
	assert_int_equal(mt_stream_create(device, MT_STREAM_COMM, "comm", &comm), MT_OK);
	assert_non_null(mt_stream_native(compute));
	assert_int_equal(mt_event_create(device, &event), MT_OK);
	assert_int_equal(mt_arena_create(&arena, "test", mt_device_memory(device), device->info.memory_bytes), MT_OK);
	assert_int_equal(mt_arena_alloc(arena, BYTES, &a), MT_OK);
	assert_int_equal(mt_arena_alloc(arena, BYTES, &b), MT_OK);
	uint8_t *sent = malloc(BYTES), *got = calloc(1, BYTES);
	for (int i = 0; i < BYTES; i++)
		sent[i] = (uint8_t)(i * 2654435761u >> 24);

	assert_int_equal(mt_stream_mark(compute, &before), MT_OK);
	assert_int_equal(mt_device_upload(device, compute, a, sent, BYTES), MT_OK);
	assert_int_equal(mt_event_record(event, compute), MT_OK);
	assert_int_equal(mt_stream_wait(comm, event), MT_OK);
	assert_int_equal(mt_device_copy(device, comm, b, a, BYTES), MT_OK);
	assert_int_equal(mt_device_download(device, comm, got, b, BYTES), MT_OK);
	assert_int_equal(mt_stream_mark(compute, &after), MT_OK);
	assert_memory_equal(sent, got, BYTES);
	assert_int_equal(mt_mark_read(&before, &before_s), MT_OK);
	assert_int_equal(mt_mark_read(&after, &after_s), MT_OK);
	assert_true(after_s > before_s);

	/* More than there is: said with the arena's name, and the device goes on. */
	void *c;
	assert_int_equal(mt_arena_alloc(arena, device->info.memory_bytes - 3 * (size_t)BYTES, &c), MT_NOMEM);
	assert_non_null(strstr(mt_error_message(), "arena test"));
	mt_error_clear();
	assert_int_equal(mt_arena_alloc(arena, BYTES, &c), MT_OK);
	free(got);
	free(sent);
	mt_stream_destroy(comm);
	mt_stream_destroy(compute);
	mt_event_destroy(event);
	mt_arena_destroy(arena);
	mt_device_destroy(device);
}

static int set_up(void **state)
{
	const char *folder = getenv("MEGATUNE_PLUGINS");
	char *self = mt_process_self(), *end = self ? strrchr(self, '/') : NULL;
	char *up = folder ? strdup(folder) : mt_string("%.*s/..", end ? (int)(end - self) : 0, self ? self : "");
	char *path = mt_string("%s/megatune-cuda.so", up);
	setenv("MEGATUNE_PLUGINS", up, 1);
	if (mt_file_exists(path))
		plugin_path = path;
	else
		free(path);
	free(up);
	free(self);
	return 0;
}

static int tear_down(void **state)
{
	free(plugin_path);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_plugin_loads_with_every_symbol_resolved),
		cmocka_unit_test(a_plugin_of_other_structures_is_refused),
		cmocka_unit_test(the_driver_is_not_linked),
		cmocka_unit_test(without_a_gpu_the_device_is_unavailable_and_says_why),
		cmocka_unit_test(on_a_gpu_bytes_come_back_and_times_pass),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
