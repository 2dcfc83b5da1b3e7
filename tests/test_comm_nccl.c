/* The nccl fabric where there is no GPU: the plugin is loaded, and says what is missing. */
#include "base/file.h"
#include "base/process.h"
#include "comm/comm.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void without_a_driver_nccl_is_unavailable(void **state)
{
	struct mt_fabric_config config = {.kind = "nccl"};
	struct mt_fabric *fabric = NULL;
	/* The plugins are in the folder above the tests. */
	char *self = mt_process_self(), *plugins, *file;
	*strrchr(self, '/') = '\0';
	plugins = mt_string("%s/..", self);
	file = mt_string("%s/megatune-nccl.so", plugins);
	bool built = mt_file_exists(file);
	setenv("MEGATUNE_PLUGINS", plugins, 1);
	free(file);
	free(plugins);
	free(self);
	/* The plugin takes what it needs from the program, so that must be in this one: groups. */
	struct mt_group *group = NULL;
	assert_int_equal(mt_fabric_create(&fabric, &(struct mt_fabric_config){.kind = "self"}), MT_OK);
	assert_int_equal(mt_group_create(fabric, "one", &(int){0}, 1, &group), MT_OK);
	mt_group_destroy(group);
	mt_fabric_destroy(fabric);
	enum mt_status st = mt_fabric_create(&fabric, &config);
	if (st == MT_OK) {
		mt_fabric_destroy(fabric);
		skip(); /* this machine has a driver */
	}
	assert_int_equal(st, MT_UNAVAILABLE);
	if (!strstr(mt_error_message(), built ? "driver" : "CUDA"))
		fail_msg("the message: %s", mt_error_message());
	assert_null(fabric);
	mt_error_clear();
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(without_a_driver_nccl_is_unavailable)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
