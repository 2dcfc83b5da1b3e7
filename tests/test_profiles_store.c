/* The profile store: what goes in comes out, whole or not at all, and only from a file that can be trusted. */
#include "base/file.h"
#include "profiles/store.h"

#include <fcntl.h>
#include <setjmp.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define ROWS 40

struct place {
	char *directory, *path;
};

static int make_place(void **state)
{
	const char *temporary = getenv("TMPDIR");
	struct place *place = calloc(1, sizeof *place);
	place->directory = mt_string("%s/mt_store.XXXXXX", temporary ? temporary : "/tmp");
	assert_non_null(mkdtemp(place->directory));
	place->path = mt_string("%s/profile.db", place->directory);
	mt_error_clear();
	*state = place;
	return 0;
}

static int remove_place(void **state)
{
	struct place *place = *state;
	char *journal = mt_string("%s-journal", place->path);
	unlink(journal);
	unlink(place->path);
	rmdir(place->directory);
	free(journal);
	free(place->path);
	free(place->directory);
	free(place);
	return 0;
}

static void assert_status(enum mt_status got, enum mt_status want)
{
	if (got != want)
		fail_msg("status %s, expected %s: %s", mt_status_name(got), mt_status_name(want), mt_error_message());
}

/* The message of the last failure holds the text. */
static void assert_says(const char *text)
{
	if (!strstr(mt_error_message(), text))
		fail_msg("the message \"%s\" does not say \"%s\"", mt_error_message(), text);
}

static struct mt_store *open_store(const char *path)
{
	struct mt_store *store = NULL;
	assert_status(mt_store_open(&store, path), MT_OK);
	return store;
}

static void assert_refused(const char *path, const char *text)
{
	struct mt_store *store = NULL;
	mt_error_clear();
	assert_status(mt_store_open(&store, path), MT_INPUT);
	assert_null(store);
	assert_says(text);
}

static struct mt_store_row row_of(int i, double median_s)
{
	return (struct mt_store_row){
		.key = {.kind = i % MT_OP_KIND_COUNT, .dtype = i % 2, .dims = {i, 2, 3, INT64_MAX, 0, -1}},
		.threads = 1 + i % 3,
		.busy_ranks = 2,
		.median_s = median_s,
		.mad_s = median_s / 8,
		.interval = {median_s * 0.9, median_s * 1.1},
		.samples = 5 + i,
	};
}

static void fill_rows(struct mt_store_row rows[ROWS], double median_s)
{
	for (int i = 0; i < ROWS; i++)
		rows[i] = row_of(i, median_s);
}

static void assert_row_equal(const struct mt_store_row *got, const struct mt_store_row *want)
{
	if (!mt_op_key_equal(&got->key, &want->key) || got->threads != want->threads || got->busy_ranks != want->busy_ranks ||
	    got->median_s != want->median_s || got->mad_s != want->mad_s || got->interval.lo != want->interval.lo ||
	    got->interval.hi != want->interval.hi || got->samples != want->samples)
		fail_msg("row of kind %d: median %.17g of %d samples, expected kind %d: %.17g of %d", got->key.kind, got->median_s,
			 got->samples, want->key.kind, want->median_s, want->samples);
}

static void rows_come_back_as_they_were_put(void **state)
{
	struct place *place = *state;
	struct mt_store_row rows[ROWS], *got;
	int count, found = 0;
	fill_rows(rows, 1.0 / 3);
	struct mt_store *store = open_store(place->path);
	assert_status(mt_store_put(store, "here", rows, ROWS), MT_OK);
	mt_store_close(store);
	store = open_store(place->path);
	assert_status(mt_store_get(store, "here", &got, &count, NULL), MT_OK);
	assert_int_equal(count, ROWS);
	for (int i = 0; i < count; i++)
		for (int j = 0; j < ROWS; j++)
			if (mt_op_key_equal(&got[i].key, &rows[j].key)) {
				assert_row_equal(&got[i], &rows[j]);
				found++;
			}
	assert_int_equal(found, ROWS);
	free(got);
	mt_store_close(store);
}

static void put_replaces_rows_of_equal_key(void **state)
{
	struct place *place = *state;
	struct mt_store_row rows[ROWS], *got;
	int count;
	struct mt_store *store = open_store(place->path);
	fill_rows(rows, 1);
	assert_status(mt_store_put(store, "here", rows, ROWS), MT_OK);
	fill_rows(rows, 2);
	assert_status(mt_store_put(store, "here", rows, ROWS / 2), MT_OK);
	assert_status(mt_store_get(store, "here", &got, &count, NULL), MT_OK);
	assert_int_equal(count, ROWS);
	for (int i = 0; i < count; i++)
		assert_true(got[i].median_s == (got[i].key.dims[0] < ROWS / 2 ? 2 : 1));
	free(got);
	mt_store_close(store);
}

static void rows_of_another_machine_are_counted_and_never_returned(void **state)
{
	struct place *place = *state;
	struct mt_store_row rows[ROWS], *got;
	int count = -1, others = -1;
	struct mt_store *store = open_store(place->path);
	fill_rows(rows, 1);
	assert_status(mt_store_put(store, "there", rows, ROWS), MT_OK);
	assert_status(mt_store_get(store, "here", &got, &count, &others), MT_OK);
	assert_int_equal(count, 0);
	assert_int_equal(others, ROWS);
	free(got);
	mt_store_close(store);
}

static void a_put_that_fails_writes_nothing(void **state)
{
	struct place *place = *state;
	struct mt_store_row rows[ROWS], *got;
	int count = -1;
	struct mt_store *store = open_store(place->path);
	fill_rows(rows, 1);
	rows[ROWS - 1].median_s = 0.0 / 0.0;
	assert_status(mt_store_put(store, "here", rows, ROWS), MT_INPUT);
	assert_says("not valid");
	assert_status(mt_store_get(store, "here", &got, &count, NULL), MT_OK);
	assert_int_equal(count, 0);
	free(got);
	mt_store_close(store);
}

static void a_new_store_is_private_whatever_the_umask(void **state)
{
	struct place *place = *state;
	struct stat info;
	mode_t mask = umask(0);
	struct mt_store *store = open_store(place->path);
	umask(mask);
	mt_store_close(store);
	assert_int_equal(stat(place->path, &info), 0);
	assert_int_equal(info.st_mode & 0777, 0600);
}

static void a_file_that_others_can_write_is_refused(void **state)
{
	struct place *place = *state;
	mt_store_close(open_store(place->path));
	assert_int_equal(chmod(place->path, 0620), 0);
	assert_refused(place->path, "chmod go-w");
	assert_int_equal(chmod(place->path, 0602), 0);
	assert_refused(place->path, "chmod go-w");
	assert_int_equal(chmod(place->path, 0644), 0);
	mt_store_close(open_store(place->path));
}

static void a_file_of_another_user_is_refused(void **state)
{
	struct place *place = *state;
	if (geteuid() != 0) {
		print_message("skipped: only root can give a file away\n");
		skip();
	}
	mt_store_close(open_store(place->path));
	assert_int_equal(chown(place->path, 65534, 65534), 0);
	assert_refused(place->path, "belongs to user 65534");
}

static void a_file_that_is_no_store_is_refused(void **state)
{
	struct place *place = *state;
	static const char TEXT[] =
		"# a file of notes, long enough to hold a header of one hundred bytes and more, which it is not .....\n";
	sqlite3 *db = NULL;
	assert_status(mt_file_write(place->path, TEXT, sizeof TEXT - 1), MT_OK);
	assert_int_equal(chmod(place->path, 0600), 0);
	assert_refused(place->path, "no profile store");
	unlink(place->path);
	assert_int_equal(sqlite3_open(place->path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, "CREATE TABLE mail(text)", NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
	assert_int_equal(chmod(place->path, 0600), 0);
	assert_refused(place->path, "of another program");
	assert_refused(place->directory, "not a regular file");
}

static void a_path_that_cannot_be_made_is_refused(void **state)
{
	struct place *place = *state;
	char *path = mt_string("%s/no/such/profile.db", place->directory);
	assert_refused(path, "No such file");
	free(path);
}

static void a_newer_schema_is_refused_and_left_as_it_is(void **state)
{
	struct place *place = *state;
	sqlite3 *db = NULL;
	mt_store_close(open_store(place->path));
	assert_int_equal(sqlite3_open(place->path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, "PRAGMA user_version = 7", NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
	assert_refused(place->path, "newer megatune (schema 7, this build reads 2)");
	assert_refused(place->path, "newer megatune");
}

static void an_empty_file_becomes_a_store(void **state)
{
	struct place *place = *state;
	close(open(place->path, O_CREAT | O_WRONLY, 0600));
	mt_store_close(open_store(place->path));
	mt_store_close(open_store(place->path));
}

/* A child that puts `batches` times ROWS rows of its own fingerprint; its exit status is 0 when all were written. */
static pid_t start_writer(const char *path, const char *fingerprint, int batches)
{
	pid_t child = fork();
	if (child != 0)
		return child;
	struct mt_store *store = NULL;
	struct mt_store_row rows[ROWS];
	enum mt_status st = mt_store_open(&store, path);
	for (int i = 0; i < batches && st == MT_OK; i++) {
		fill_rows(rows, 1 + i);
		st = mt_store_put(store, fingerprint, rows, ROWS);
	}
	mt_store_close(store);
	_exit(st == MT_OK ? 0 : 1);
}

static void two_processes_can_write_from_the_first_moment(void **state)
{
	struct place *place = *state;
	struct mt_store_row *got;
	int count, others, status;
	pid_t writers[2] = {start_writer(place->path, "one", 20), start_writer(place->path, "two", 20)};
	for (int i = 0; i < 2; i++) {
		assert_int_equal(waitpid(writers[i], &status, 0), writers[i]);
		assert_int_equal(status, 0);
	}
	struct mt_store *store = open_store(place->path);
	assert_status(mt_store_get(store, "one", &got, &count, &others), MT_OK);
	assert_int_equal(count, ROWS);
	assert_int_equal(others, ROWS);
	free(got);
	mt_store_close(store);
}

static void a_reader_never_sees_half_of_a_put(void **state)
{
	struct place *place = *state;
	struct mt_store_row *got;
	int count, status = 0, reads = 0;
	struct mt_store *store = open_store(place->path);
	pid_t writer = start_writer(place->path, "here", 30);
	while (waitpid(writer, &status, WNOHANG) == 0) {
		assert_status(mt_store_get(store, "here", &got, &count, NULL), MT_OK);
		assert_true(count == 0 || count == ROWS);
		for (int i = 1; i < count; i++)
			if (got[i].median_s != got[0].median_s)
				fail_msg("read %d: rows of batch %g and batch %g", reads, got[0].median_s, got[i].median_s);
		free(got);
		reads++;
	}
	assert_int_equal(status, 0);
	mt_store_close(store);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, make_place, remove_place)
	const struct CMUnitTest tests[] = {
		TEST(rows_come_back_as_they_were_put),
		TEST(put_replaces_rows_of_equal_key),
		TEST(rows_of_another_machine_are_counted_and_never_returned),
		TEST(a_put_that_fails_writes_nothing),
		TEST(a_new_store_is_private_whatever_the_umask),
		TEST(a_file_that_others_can_write_is_refused),
		TEST(a_file_of_another_user_is_refused),
		TEST(a_file_that_is_no_store_is_refused),
		TEST(a_path_that_cannot_be_made_is_refused),
		TEST(a_newer_schema_is_refused_and_left_as_it_is),
		TEST(an_empty_file_becomes_a_store),
		TEST(two_processes_can_write_from_the_first_moment),
		TEST(a_reader_never_sees_half_of_a_put),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
