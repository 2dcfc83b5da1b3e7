/* base/file and base/json: whole files or none. */
#define _GNU_SOURCE
#include "base/file.h"
#include "base/json.h"

#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <signal.h>
#include <unistd.h>
#include <cmocka.h>

/* A directory of each test's own, removed with what is in it. */
static int make_directory(void **state)
{
	*state = strdup("/tmp/mt-test-file-XXXXXX");
	return *state && mkdtemp(*state) ? 0 : -1;
}

static int count_files(const char *directory, bool remove_them)
{
	int count = 0;
	DIR *dir = opendir(directory);
	assert_non_null(dir);
	for (struct dirent *entry; (entry = readdir(dir));) {
		if (entry->d_name[0] == '.')
			continue;
		count++;
		char *path = mt_string("%s/%s", directory, entry->d_name);
		if (remove_them && unlink(path) != 0) {
			count_files(path, true);
			rmdir(path);
		}
		free(path);
	}
	closedir(dir);
	return count;
}

static int remove_directory(void **state)
{
	count_files(*state, true);
	rmdir(*state);
	free(*state);
	return 0;
}

static void expect_content(const char *path, const char *expected)
{
	char *data;
	size_t bytes;
	assert_int_equal(mt_file_read(path, 0, &data, &bytes), MT_OK);
	assert_string_equal(data, expected);
	assert_int_equal(bytes, strlen(expected));
	free(data);
}

static void a_commit_replaces_the_file_and_leaves_no_temporary(void **state)
{
	struct mt_file file;
	char *path = mt_string("%s/f", (char *)*state);

	assert_int_equal(mt_file_write(path, "old", 3), MT_OK);
	assert_int_equal(mt_file_create(&file, path), MT_OK);
	fprintf(file.stream, "new");
	expect_content(path, "old");
	assert_int_equal(mt_file_commit(&file), MT_OK);
	expect_content(path, "new");
	assert_int_equal(count_files(*state, false), 1);
	mt_file_abort(&file);
	expect_content(path, "new");
	free(path);
}

static void an_abort_leaves_the_old_file(void **state)
{
	struct mt_file file;
	char *path = mt_string("%s/f", (char *)*state);

	assert_int_equal(mt_file_write(path, "old", 3), MT_OK);
	assert_int_equal(mt_file_create(&file, path), MT_OK);
	fprintf(file.stream, "new");
	mt_file_abort(&file);
	mt_file_abort(&file);
	expect_content(path, "old");
	assert_int_equal(count_files(*state, false), 1);
	free(path);
}

/* The file size limit stands for a full disk: it also stops root. */
static void a_failed_commit_leaves_the_old_file_and_no_temporary(void **state)
{
	struct mt_file file;
	struct rlimit limit, small;
	char *path = mt_string("%s/f", (char *)*state);
	static const char block[65536];

	assert_int_equal(mt_file_write(path, "old", 3), MT_OK);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
	small = limit;
	small.rlim_cur = 4096;
	void (*before)(int) = signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(mt_file_create(&file, path), MT_OK);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	fwrite(block, 1, sizeof block, file.stream);
	mt_error_clear();
	enum mt_status st = mt_file_commit(&file);
	setrlimit(RLIMIT_FSIZE, &limit);
	signal(SIGXFSZ, before);
	assert_int_equal(st, MT_IO);
	assert_non_null(strstr(mt_error_message(), path));
	mt_error_clear();
	expect_content(path, "old");
	assert_int_equal(count_files(*state, false), 1);
	free(path);
}

static void two_writers_do_not_meet(void **state)
{
	struct mt_file a, b;
	char *path = mt_string("%s/f", (char *)*state);

	assert_int_equal(mt_file_create(&a, path), MT_OK);
	assert_int_equal(mt_file_create(&b, path), MT_OK);
	fprintf(a.stream, "from a");
	fprintf(b.stream, "from b");
	assert_int_equal(mt_file_commit(&b), MT_OK);
	assert_int_equal(mt_file_commit(&a), MT_OK);
	expect_content(path, "from a");
	assert_int_equal(count_files(*state, false), 1);
	free(path);
}

static void a_missing_directory_is_named(void **state)
{
	struct mt_file file;
	char *path = mt_string("%s/absent/f", (char *)*state);

	mt_error_clear();
	assert_int_equal(mt_file_create(&file, path), MT_IO);
	assert_non_null(strstr(mt_error_message(), path));
	mt_error_clear();
	mt_file_abort(&file);
	free(path);
}

static void a_link_stays_a_link_and_a_device_a_device(void **state)
{
	struct stat info;
	char *path = mt_string("%s/f", (char *)*state), *link = mt_string("%s/l", (char *)*state);

	assert_int_equal(mt_file_write(path, "old", 3), MT_OK);
	assert_int_equal(symlink("f", link), 0);
	assert_int_equal(mt_file_write(link, "new", 3), MT_OK);
	assert_int_equal(lstat(link, &info), 0);
	assert_true(S_ISLNK(info.st_mode));
	expect_content(path, "new");
	assert_int_equal(mt_file_write("/dev/null", "new", 3), MT_OK);
	assert_int_equal(stat("/dev/null", &info), 0);
	assert_true(S_ISCHR(info.st_mode));
	free(link);
	free(path);
}

static void the_mode_follows_the_umask(void **state)
{
	struct stat info;
	char *path = mt_string("%s/f", (char *)*state);
	mode_t before = umask(027);

	enum mt_status st = mt_file_write(path, "x", 1);
	umask(before);
	assert_int_equal(st, MT_OK);
	assert_int_equal(stat(path, &info), 0);
	assert_int_equal(info.st_mode & 0777, 0640);
	free(path);
}

static void reading_is_whole_or_refused(void **state)
{
	char *path = mt_string("%s/f", (char *)*state), *data, large[100000];
	size_t bytes;

	memset(large, 'x', sizeof large);
	assert_int_equal(mt_file_write(path, large, sizeof large), MT_OK);
	assert_int_equal(mt_file_read(path, sizeof large, &data, &bytes), MT_OK);
	assert_int_equal(bytes, sizeof large);
	assert_memory_equal(data, large, bytes);
	assert_int_equal(data[bytes], 0);
	free(data);
	mt_error_clear();
	assert_int_equal(mt_file_read(path, sizeof large - 1, &data, &bytes), MT_INPUT);
	mt_error_clear();
	assert_int_equal(mt_file_read("/nonexistent", 0, &data, &bytes), MT_INPUT);
	mt_error_clear();
	assert_int_equal(mt_file_read(*state, 0, &data, &bytes), MT_INPUT);
	mt_error_clear();
	assert_int_equal(mt_file_read("/proc/self/status", 0, &data, NULL), MT_OK);
	assert_non_null(strstr(data, "VmRSS"));
	free(data);
	free(path);
}

static void directories_are_made_with_their_parents(void **state)
{
	char *path = mt_string("%s/a/b//c/", (char *)*state), *file = mt_string("%s/file", (char *)*state);
	char *below = mt_string("%s/file/d", (char *)*state);

	assert_int_equal(mt_file_make_directory(path), MT_OK);
	assert_int_equal(mt_file_make_directory(path), MT_OK);
	assert_true(mt_file_exists(path));
	assert_int_equal(mt_file_write(file, "x", 1), MT_OK);
	mt_error_clear();
	assert_int_equal(mt_file_make_directory(below), MT_IO);
	mt_error_clear();
	assert_false(mt_file_exists(below));
	free(below);
	free(file);
	free(path);
}

static void json_saved_is_json_loaded(void **state)
{
	char *path = mt_string("%s/f.json", (char *)*state);
	json_t *saved = json_pack("{s:f, s:i, s:s, s:o}", "x", 0.1, "n", 7, "s", "text", "nan", mt_json_number(NAN)), *loaded;

	assert_int_equal(mt_json_save(saved, path), MT_OK);
	assert_int_equal(mt_json_load(&loaded, path), MT_OK);
	assert_true(json_equal(saved, loaded));
	assert_true(mt_json_get_number(loaded, "x", 0) == 0.1);
	assert_true(mt_json_get_number(loaded, "n", 0) == 7);
	assert_true(mt_json_get_number(loaded, "nan", -1) == -1);
	assert_int_equal(mt_json_get_int(loaded, "n", 0), 7);
	assert_int_equal(mt_json_get_int(loaded, "x", 3), 3);
	assert_string_equal(mt_json_get_string(loaded, "s", "?"), "text");
	assert_string_equal(mt_json_get_string(loaded, "absent", "?"), "?");
	json_decref(saved);
	json_decref(loaded);
	free(path);
}

static void bad_json_names_file_and_line(void **state)
{
	char *path = mt_string("%s/f.json", (char *)*state);
	const char *text = "{\n \"a\": 1,\n \"a\" 2\n}";
	json_t *root;

	assert_int_equal(mt_file_write(path, text, strlen(text)), MT_OK);
	mt_error_clear();
	assert_int_equal(mt_json_load(&root, path), MT_INPUT);
	assert_null(root);
	assert_non_null(strstr(mt_error_message(), "f.json:3"));
	mt_error_clear();
	free(path);
}

int main(void)
{
#define IN_DIRECTORY(test) cmocka_unit_test_setup_teardown(test, make_directory, remove_directory)
	const struct CMUnitTest tests[] = {
		IN_DIRECTORY(a_commit_replaces_the_file_and_leaves_no_temporary),
		IN_DIRECTORY(an_abort_leaves_the_old_file),
		IN_DIRECTORY(a_failed_commit_leaves_the_old_file_and_no_temporary),
		IN_DIRECTORY(two_writers_do_not_meet),
		IN_DIRECTORY(a_missing_directory_is_named),
		IN_DIRECTORY(a_link_stays_a_link_and_a_device_a_device),
		IN_DIRECTORY(the_mode_follows_the_umask),
		IN_DIRECTORY(reading_is_whole_or_refused),
		IN_DIRECTORY(directories_are_made_with_their_parents),
		IN_DIRECTORY(json_saved_is_json_loaded),
		IN_DIRECTORY(bad_json_names_file_and_line),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
