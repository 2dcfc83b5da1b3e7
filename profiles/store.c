/* store: one SQLite file, one table, one transaction a write.
 *
 * The rollback journal (not WAL) is used: it works on every file system that has locks and leaves no side files behind.
 * Every write begins with BEGIN IMMEDIATE, so two processes queue for the write lock at the start, where waiting is safe,
 * and never deadlock half way; the wait ends after BUSY_TIMEOUT_MS with a message.
 *
 * A profile decides how machines are used, so the file is trusted only when nobody else can write it: it must belong to
 * the caller and not be writable by group or others. It is made with mode 0600.
 *
 * Operations and types are stored by name: the numbers of the enums are free to change. A row whose operation this build
 * does not know is left out of what mt_store_get returns (nobody can ask for it), and kept in the file. */
#include "profiles/store.h"

#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define APPLICATION_ID  0x4d545550 /* "MTUP", in the file's header */
#define SCHEMA_VERSION  2          /* PRAGMA user_version */
#define BUSY_TIMEOUT_MS 30000

struct mt_store {
	sqlite3 *db; /* owned */
	char *path;  /* owned */
};

static const char SCHEMA[] = "CREATE TABLE operation("
			     " fingerprint TEXT NOT NULL, kind TEXT NOT NULL, dtype TEXT NOT NULL,"
			     " d0 INTEGER NOT NULL, d1 INTEGER NOT NULL, d2 INTEGER NOT NULL,"
			     " d3 INTEGER NOT NULL, d4 INTEGER NOT NULL, d5 INTEGER NOT NULL,"
			     " d6 INTEGER NOT NULL, d7 INTEGER NOT NULL, d8 INTEGER NOT NULL,"
			     " threads INTEGER NOT NULL, busy_ranks INTEGER NOT NULL,"
			     " median_s REAL NOT NULL, mad_s REAL NOT NULL, lo_s REAL NOT NULL, hi_s REAL NOT NULL,"
			     " samples INTEGER NOT NULL, created TEXT NOT NULL,"
			     " PRIMARY KEY(fingerprint, kind, dtype, d0, d1, d2, d3, d4, d5, d6, d7, d8, threads, busy_ranks)"
			     ") WITHOUT ROWID;"
			     "PRAGMA application_id = 1297372496;"
			     "PRAGMA user_version = 2;";
_Static_assert(APPLICATION_ID == 1297372496 && SCHEMA_VERSION == 2, "the numbers in SCHEMA");

/* Records why SQLite refused, and returns the status of it. */
static enum mt_status fail_sqlite(struct mt_store *store, const char *what)
{
	switch (sqlite3_errcode(store->db)) {
	case SQLITE_NOTADB:
		return mt_fail(MT_INPUT, "%s is no profile store (not an SQLite file); name another file", store->path);
	case SQLITE_CORRUPT:
		return mt_fail(MT_INPUT, "%s: the profile store is damaged (%s); delete it and profile again", store->path,
			       sqlite3_errmsg(store->db));
	case SQLITE_BUSY:
		return mt_fail(MT_IO, "%s: another process has been writing it for %d s; try again when it is done", store->path,
			       BUSY_TIMEOUT_MS / 1000);
	case SQLITE_NOMEM:
		return mt_fail(MT_NOMEM, "%s: out of memory while %s", store->path, what);
	default:
		return mt_fail(MT_IO, "%s: %s while %s", store->path, sqlite3_errmsg(store->db), what);
	}
}

static enum mt_status run(struct mt_store *store, const char *sql, const char *what)
{
	if (sqlite3_exec(store->db, sql, NULL, NULL, NULL) != SQLITE_OK)
		return fail_sqlite(store, what);
	return MT_OK;
}

/* Keeps the record of the failure that made us roll back. */
static void roll_back(struct mt_store *store)
{
	if (!sqlite3_get_autocommit(store->db))
		sqlite3_exec(store->db, "ROLLBACK", NULL, NULL, NULL);
}

/* The first column of the first row. */
static enum mt_status read_number(struct mt_store *store, const char *sql, int64_t *value)
{
	sqlite3_stmt *statement = NULL;
	enum mt_status st = MT_OK;
	if (sqlite3_prepare_v2(store->db, sql, -1, &statement, NULL) != SQLITE_OK || sqlite3_step(statement) != SQLITE_ROW)
		st = fail_sqlite(store, "reading its header");
	else
		*value = sqlite3_column_int64(statement, 0);
	sqlite3_finalize(statement);
	return st;
}

/* Makes the file when there is none, so that its mode is ours and not the umask's; else checks who may write it.
 * stat, not open: closing a descriptor of the file would drop the locks of another handle in this process. */
static enum mt_status check_file(const char *path)
{
	struct stat info;
	int fd = open(path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
	if (fd >= 0) {
		close(fd);
		return MT_OK;
	}
	if (errno != EEXIST)
		return mt_fail(MT_INPUT, "%s: cannot make the profile store: %s", path, strerror(errno));
	if (stat(path, &info) != 0)
		return mt_fail(MT_INPUT, "%s: cannot read the profile store: %s", path, strerror(errno));
	if (!S_ISREG(info.st_mode))
		return mt_fail(MT_INPUT, "%s is no profile store (not a regular file); name another file", path);
	if (info.st_uid != geteuid())
		return mt_fail(MT_INPUT,
			       "%s belongs to user %u, not to user %u who runs this: a profile of others is not trusted; "
			       "copy it or name another file",
			       path, (unsigned)info.st_uid, (unsigned)geteuid());
	if (info.st_mode & (S_IWGRP | S_IWOTH))
		return mt_fail(MT_INPUT, "%s can be written by others (mode %03o): it is not trusted; chmod go-w it", path,
			       (unsigned)info.st_mode & 0777u);
	return MT_OK;
}

/* Inside a transaction: an empty database becomes a store; anything else must be one that we can read. */
static enum mt_status check_schema(struct mt_store *store)
{
	int64_t id = 0, version = 0, objects = 0;
	MT_TRY(read_number(store, "PRAGMA application_id", &id));
	MT_TRY(read_number(store, "PRAGMA user_version", &version));
	MT_TRY(read_number(store, "SELECT count(*) FROM sqlite_master", &objects));
	if (id == 0 && objects == 0)
		return run(store, SCHEMA, "making its table");
	if (id != APPLICATION_ID)
		return mt_fail(MT_INPUT, "%s is no profile store (an SQLite file of another program); name another file",
			       store->path);
	if (version > SCHEMA_VERSION)
		return mt_fail(MT_INPUT,
			       "%s was written by a newer megatune (schema %lld, this build reads %d); update, or name "
			       "another file",
			       store->path, (long long)version, SCHEMA_VERSION);
	if (version < SCHEMA_VERSION)
		return mt_fail(MT_INPUT, "%s has schema %lld, this build reads %d; delete it and profile again", store->path,
			       (long long)version, SCHEMA_VERSION);
	return MT_OK;
}

enum mt_status mt_store_open(struct mt_store **store, const char *path)
{
	enum mt_status st;
	struct mt_store *made = calloc(1, sizeof *made);
	*store = NULL;
	if (!made || !(made->path = strdup(path))) {
		free(made);
		return mt_fail(MT_NOMEM, "%s: out of memory opening the profile store", path);
	}
	MT_GOTO(out, check_file(path));
	if (sqlite3_open_v2(path, &made->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_FULLMUTEX, NULL) != SQLITE_OK) {
		st = made->db ? fail_sqlite(made, "opening it") : mt_fail(MT_NOMEM, "%s: out of memory opening it", path);
		goto out;
	}
	sqlite3_busy_timeout(made->db, BUSY_TIMEOUT_MS);
	MT_GOTO(out, run(made, "PRAGMA journal_mode = DELETE", "opening it"));
	MT_GOTO(out, run(made, "BEGIN IMMEDIATE", "opening it"));
	MT_GOTO(out, check_schema(made));
	MT_GOTO(out, run(made, "COMMIT", "opening it"));
	*store = made;
	return MT_OK;
out:
	mt_store_close(made);
	return st;
}

void mt_store_close(struct mt_store *store)
{
	if (!store)
		return;
	if (store->db)
		roll_back(store);
	sqlite3_close(store->db);
	free(store->path);
	free(store);
}

static enum mt_status check_row(const struct mt_store_row *row)
{
	bool known =
		row->key.kind >= 0 && row->key.kind < MT_OP_KIND_COUNT && row->key.dtype >= 0 && row->key.dtype < MT_DTYPE_COUNT;
	bool sane = isfinite(row->median_s) && row->median_s >= 0 && isfinite(row->mad_s) && isfinite(row->interval.lo) &&
		    isfinite(row->interval.hi) && row->samples > 0;
	if (!known || !sane)
		return mt_fail(MT_INPUT,
			       "a row for the profile store is not valid (kind %d, dtype %d, median %g s, MAD %g s, %d samples)",
			       row->key.kind, row->key.dtype, row->median_s, row->mad_s, row->samples);
	return MT_OK;
}

static enum mt_status put_row(struct mt_store *store, sqlite3_stmt *statement, const struct mt_store_row *row)
{
	int column = 2;
	MT_TRY(check_row(row));
	sqlite3_bind_text(statement, column++, mt_op_name((enum mt_op_kind)row->key.kind), -1, SQLITE_STATIC);
	sqlite3_bind_text(statement, column++, mt_dtype_name((enum mt_dtype)row->key.dtype), -1, SQLITE_STATIC);
	for (int i = 0; i < MT_OP_DIMS; i++)
		sqlite3_bind_int64(statement, column++, row->key.dims[i]);
	sqlite3_bind_int(statement, column++, row->threads);
	sqlite3_bind_int(statement, column++, row->busy_ranks);
	sqlite3_bind_double(statement, column++, row->median_s);
	sqlite3_bind_double(statement, column++, row->mad_s);
	sqlite3_bind_double(statement, column++, row->interval.lo);
	sqlite3_bind_double(statement, column++, row->interval.hi);
	sqlite3_bind_int(statement, column++, row->samples);
	if (sqlite3_step(statement) != SQLITE_DONE || sqlite3_reset(statement) != SQLITE_OK)
		return fail_sqlite(store, "writing");
	return MT_OK;
}

enum mt_status mt_store_put(struct mt_store *store, const char *fingerprint, const struct mt_store_row *rows, int count)
{
	enum mt_status st;
	sqlite3_stmt *statement = NULL;
	char now[24];
	mt_clock_utc(now);
	MT_GOTO(out, run(store, "BEGIN IMMEDIATE", "writing"));
	if (sqlite3_prepare_v2(store->db,
			       "INSERT OR REPLACE INTO operation "
			       "VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,?18,?19,?20)",
			       -1, &statement, NULL) != SQLITE_OK) {
		st = fail_sqlite(store, "writing");
		goto out;
	}
	sqlite3_bind_text(statement, 1, fingerprint, -1, SQLITE_STATIC);
	sqlite3_bind_text(statement, 20, now, -1, SQLITE_STATIC);
	for (int i = 0; i < count; i++)
		MT_GOTO(out, put_row(store, statement, &rows[i]));
	st = run(store, "COMMIT", "writing");
out:
	sqlite3_finalize(statement);
	roll_back(store);
	return st;
}

static int find_kind(const char *name)
{
	for (int kind = 0; kind < MT_OP_KIND_COUNT; kind++)
		if (strcmp(mt_op_name((enum mt_op_kind)kind), name) == 0)
			return kind;
	return -1;
}

static int find_dtype(const char *name)
{
	for (int dtype = 0; dtype < MT_DTYPE_COUNT; dtype++)
		if (strcmp(mt_dtype_name((enum mt_dtype)dtype), name) == 0)
			return dtype;
	return -1;
}

/* False when this build does not know the operation or type. */
static bool read_row(sqlite3_stmt *statement, struct mt_store_row *row)
{
	int column = 0;
	memset(row, 0, sizeof *row);
	row->key.kind = find_kind((const char *)sqlite3_column_text(statement, column++));
	row->key.dtype = find_dtype((const char *)sqlite3_column_text(statement, column++));
	for (int i = 0; i < MT_OP_DIMS; i++)
		row->key.dims[i] = sqlite3_column_int64(statement, column++);
	row->threads = sqlite3_column_int(statement, column++);
	row->busy_ranks = sqlite3_column_int(statement, column++);
	row->median_s = sqlite3_column_double(statement, column++);
	row->mad_s = sqlite3_column_double(statement, column++);
	row->interval.lo = sqlite3_column_double(statement, column++);
	row->interval.hi = sqlite3_column_double(statement, column++);
	row->samples = sqlite3_column_int(statement, column++);
	return row->key.kind >= 0 && row->key.dtype >= 0;
}

static enum mt_status read_rows(struct mt_store *store, sqlite3_stmt *statement, struct mt_store_row **rows, int *count)
{
	int capacity = 0, step;
	while ((step = sqlite3_step(statement)) == SQLITE_ROW) {
		if (*count == capacity) {
			capacity = capacity ? 2 * capacity : 64;
			struct mt_store_row *grown = realloc(*rows, (size_t)capacity * sizeof **rows);
			if (!grown)
				return mt_fail(MT_NOMEM, "%s: out of memory reading %d rows", store->path, capacity);
			*rows = grown;
		}
		if (read_row(statement, &(*rows)[*count]))
			++*count;
	}
	return step == SQLITE_DONE ? MT_OK : fail_sqlite(store, "reading");
}

enum mt_status mt_store_get(struct mt_store *store, const char *fingerprint, struct mt_store_row **rows, int *count, int *others)
{
	static const char SELECT[] =
		"SELECT kind, dtype, d0, d1, d2, d3, d4, d5, d6, d7, d8, threads, busy_ranks, median_s, mad_s, lo_s, hi_s, samples"
		" FROM operation WHERE fingerprint = ?1";
	enum mt_status st = MT_OK;
	sqlite3_stmt *statement = NULL, *rest = NULL;
	*rows = NULL;
	*count = 0;
	if (others)
		*others = 0;
	/* One transaction, so that both counts are of one moment. */
	MT_GOTO(out, run(store, "BEGIN", "reading"));
	if (sqlite3_prepare_v2(store->db, SELECT, -1, &statement, NULL) != SQLITE_OK ||
	    sqlite3_prepare_v2(store->db, "SELECT count(*) FROM operation WHERE fingerprint <> ?1", -1, &rest, NULL) != SQLITE_OK) {
		st = fail_sqlite(store, "reading");
		goto out;
	}
	sqlite3_bind_text(statement, 1, fingerprint, -1, SQLITE_STATIC);
	sqlite3_bind_text(rest, 1, fingerprint, -1, SQLITE_STATIC);
	MT_GOTO(out, read_rows(store, statement, rows, count));
	if (others) {
		if (sqlite3_step(rest) != SQLITE_ROW) {
			st = fail_sqlite(store, "counting");
			goto out;
		}
		*others = sqlite3_column_int(rest, 0);
	}
out:
	sqlite3_finalize(statement);
	sqlite3_finalize(rest);
	roll_back(store);
	if (st != MT_OK) {
		free(*rows);
		*rows = NULL;
		*count = 0;
	}
	return st;
}
