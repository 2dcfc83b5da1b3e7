/* file: files that are whole or not there. Write to a temporary in the same directory, fsync, rename, fsync the directory. */
#ifndef MT_BASE_FILE_H
#define MT_BASE_FILE_H

#include "base/status.h"

#include <stdio.h>

/* A file being written; `stream` is what the caller writes to. */
struct mt_file {
	FILE *stream;
	char *path;      /* owned */
	char *temporary; /* owned */
};

enum mt_status mt_file_create(struct mt_file *file, const char *path);
/* Makes the file visible under its path; a write error that happened before is found here. Frees the file in any case:
 * on failure the temporary is removed and the old file untouched. */
enum mt_status mt_file_commit(struct mt_file *file);
/* Removes the temporary. Fine after a failed create and after commit. */
void mt_file_abort(struct mt_file *file);

enum mt_status mt_file_write(const char *path, const void *data, size_t bytes);
/* Whole file with a NUL appended; free() it. MT_INPUT when it does not exist or is larger than most_bytes (0: no limit). */
enum mt_status mt_file_read(const char *path, size_t most_bytes, char **data, size_t *bytes);
/* mkdir -p. */
enum mt_status mt_file_make_directory(const char *path);
bool mt_file_exists(const char *path);
/* printf to a fresh string (free() it): joins paths and the like. NULL when out of memory. */
char *mt_string(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
