/* base/plugin: found, absent, of another version, and with a library that the loader does not know. Plugins are built by
 * the test with the system's compiler; without one the tests that need it are skipped. */
#define _GNU_SOURCE
#include "base/file.h"
#include "base/plugin.h"
#include "base/process.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#define PLUGIN_SOURCE                                                                                                              \
	"static const int table = 42;\n"                                                                                           \
	"const void *megatune_plugin(int abi) { return abi == 7 ? &table : 0; }\n"
#define NEEDY_SOURCE                                                                                                               \
	"extern int far_value(void);\n"                                                                                            \
	"static int table;\n"                                                                                                      \
	"const void *megatune_plugin(int abi) { table = far_value(); return &table; }\n"
/* Finds a function of the program that loads it. */
#define CALLER_SOURCE                                                                                                              \
	"extern const char *mt_status_name(int status);\n"                                                                         \
	"const void *megatune_plugin(int abi) { return mt_status_name(0); }\n"

static char folder[] = "/tmp/mt-test-plugin-XXXXXX";
static char *compiler; /* NULL: there is none */

static void run(const char *const *argv)
{
	struct mt_process_result result;
	assert_int_equal(mt_process_run(&result, argv, NULL, 60), MT_OK);
	if (result.exit_code)
		print_error("%s\n", result.errors);
	assert_int_equal(result.exit_code, 0);
	mt_process_result_free(&result);
}

/* Compiles `source` to folder/FILE, linked to `library` when it is not NULL. */
static void build(const char *file, const char *source, const char *library)
{
	char *c = mt_string("%s/source.c", folder), *so = mt_string("%s/%s", folder, file);
	char *soname = mt_string("-Wl,-soname,%s", strrchr(so, '/') + 1);
	assert_int_equal(mt_file_write(c, source, strlen(source)), MT_OK);
	const char *argv[] = {compiler, "-shared", "-fPIC", "-o", so, c, soname, "-Wl,--no-as-needed", library, NULL};
	run(argv);
	free(soname);
	free(so);
	free(c);
}

static void need_compiler(void)
{
	if (!compiler) {
		print_message("skipped: no C compiler on PATH\n");
		skip();
	}
}

static void expect_unavailable(const char *name, int abi, const char *says)
{
	const void *table = &table;
	mt_error_clear();
	assert_int_equal(mt_plugin_open(name, abi, &table), MT_UNAVAILABLE);
	assert_null(table);
	if (!strstr(mt_error_message(), says))
		fail_msg("the message lacks \"%s\": %s", says, mt_error_message());
	mt_error_clear();
}

static void a_plugin_gives_the_same_table_each_time(void **state)
{
	const void *table, *again;
	need_compiler();
	build("megatune-tiny.so", PLUGIN_SOURCE, NULL);
	assert_int_equal(mt_plugin_open("tiny", 7, &table), MT_OK);
	assert_int_equal(*(const int *)table, 42);
	assert_int_equal(mt_plugin_open("tiny", 7, &again), MT_OK);
	assert_ptr_equal(table, again);
}

static void a_plugin_of_another_abi_is_refused(void **state)
{
	need_compiler();
	build("megatune-other.so", PLUGIN_SOURCE, NULL);
	assert_int_equal(mt_plugin_load("other"), MT_OK);
	expect_unavailable("other", 8, "another version");
}

static void a_plugin_without_entry_is_refused(void **state)
{
	need_compiler();
	build("megatune-empty.so", "int nothing;\n", NULL);
	expect_unavailable("empty", 7, "another version");
}

static void an_absent_plugin_is_unavailable_and_says_where_it_was_looked_for(void **state)
{
	expect_unavailable("nowhere", 7, "megatune-nowhere.so");
}

static void a_file_that_is_no_library_is_unavailable(void **state)
{
	char *path = mt_string("%s/megatune-text.so", folder);
	assert_int_equal(mt_file_write(path, "text", 4), MT_OK);
	expect_unavailable("text", 7, "megatune-text.so");
	free(path);
}

static void a_plugin_calls_functions_of_the_program(void **state)
{
	const void *table;
	need_compiler();
	build("megatune-caller.so", CALLER_SOURCE, NULL);
	assert_int_equal(mt_plugin_open("caller", 7, &table), MT_OK);
	assert_ptr_equal(table, mt_status_name(MT_OK));
}

/* The library is hidden at first: the loader's message names it; then it lies where CUDA's would. */
static void a_missing_library_is_named_and_found_under_cuda_home(void **state)
{
	const void *table;
	char *cuda_home = mt_string("%s/cuda", folder), *lib = mt_string("%s/lib64", cuda_home);
	char *here = mt_string("%s/libmtfar.so.1", folder), *there = mt_string("%s/libmtfar.so.1", lib);
	need_compiler();
	assert_int_equal(mt_file_make_directory(lib), MT_OK);
	build("libmtfar.so.1", "int far_value(void) { return 5; }\n", NULL);
	build("megatune-needy.so", NEEDY_SOURCE, here);
	assert_int_equal(rename(here, there), 0);
	expect_unavailable("needy", 7, "libmtfar.so.1: cannot open shared object file");

	assert_int_equal(setenv("CUDA_HOME", cuda_home, 1), 0);
	assert_int_equal(mt_plugin_open("needy", 7, &table), MT_OK);
	assert_int_equal(*(const int *)table, 5);
	unsetenv("CUDA_HOME");
	free(there);
	free(here);
	free(lib);
	free(cuda_home);
}

/* Nothing a Python environment packs is known to the loader: each library needs the next. */
static void libraries_that_need_libraries_are_found_beside_python(void **state)
{
	static const char *const names[] = {"libmtlast.so.3", "libmtmiddle.so.2"};
	const char *path = getenv("PATH");
	void *handle;
	need_compiler();
	char *bin = mt_string("%s/bin", folder), *python = mt_string("%s/python3", bin);
	char *search = mt_string("%s:%s", bin, path);
	assert_int_equal(mt_file_make_directory(bin), MT_OK);
	assert_int_equal(mt_file_write(python, "", 0), MT_OK);
	build(names[0], "int mt_last(void) { return 3; }\n", NULL);
	char *last = mt_string("%s/%s", folder, names[0]);
	build(names[1], "extern int mt_last(void);\nint mt_middle(void) { return mt_last(); }\n", last);
	for (int i = 0; i < 2; i++) {
		char *package = mt_string("%s/lib/python3.11/site-packages/nvidia/part%d/lib", folder, i);
		char *from = mt_string("%s/%s", folder, names[i]), *to = mt_string("%s/%s", package, names[i]);
		assert_int_equal(mt_file_make_directory(package), MT_OK);
		assert_int_equal(rename(from, to), 0);
		free(to);
		free(from);
		free(package);
	}
	assert_int_equal(mt_library_open(names[1], &handle), MT_UNAVAILABLE);
	mt_error_clear();
	setenv("PATH", search, 1);
	assert_int_equal(mt_library_open(names[1], &handle), MT_OK);
	free(last);
	free(search);
	free(python);
	free(bin);
}

static int set_up(void **state)
{
	compiler = mt_process_find("cc");
	if (!compiler)
		compiler = mt_process_find("gcc");
	return mkdtemp(folder) && !setenv("MEGATUNE_PLUGINS", folder, 1) ? 0 : -1;
}

static int tear_down(void **state)
{
	const char *argv[] = {"rm", "-rf", folder, NULL};
	struct mt_process_result result;
	if (mt_process_run(&result, argv, NULL, 60) == MT_OK)
		mt_process_result_free(&result);
	free(compiler);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_plugin_gives_the_same_table_each_time),
		cmocka_unit_test(a_plugin_of_another_abi_is_refused),
		cmocka_unit_test(a_plugin_without_entry_is_refused),
		cmocka_unit_test(an_absent_plugin_is_unavailable_and_says_where_it_was_looked_for),
		cmocka_unit_test(a_file_that_is_no_library_is_unavailable),
		cmocka_unit_test(a_plugin_calls_functions_of_the_program),
		cmocka_unit_test(a_missing_library_is_named_and_found_under_cuda_home),
		cmocka_unit_test(libraries_that_need_libraries_are_found_beside_python),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
