/* file: whole or not there.
 *
 * A file is written under a temporary name beside its own, synced, and renamed; the directory is synced after, so a
 * crash at any point leaves the old file or the new one. A path that exists and is no regular file (/dev/null, a pipe)
 * is written in place: there is nothing to replace. */
#define _GNU_SOURCE
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

char *mt_string(const char *format, ...)
{
	char *text = NULL;
	va_list arguments;
	va_start(arguments, format);
	if (vasprintf(&text, format, arguments) < 0)
		text = NULL;
	va_end(arguments);
	return text;
}

bool mt_file_exists(const char *path)
{
	struct stat info;
	return stat(path, &info) == 0;
}

/* A fresh file beside `path`: not mkstemp, whose mode 0600 ignores the umask. */
static int open_temporary(const char *path, char **temporary)
{
	for (unsigned attempt = 0; attempt < 10000; attempt++) {
		char *name = mt_string("%s.%ld-%u.tmp", path, (long)getpid(), attempt);
		if (!name)
			return -1;
		int fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
		if (fd >= 0) {
			*temporary = name;
			return fd;
		}
		free(name);
		if (errno != EEXIST)
			return -1;
	}
	return -1;
}

static void forget(struct mt_file *file)
{
	free(file->path);
	free(file->temporary);
	memset(file, 0, sizeof *file);
}

enum mt_status mt_file_create(struct mt_file *file, const char *path)
{
	struct stat info;
	char *temporary = NULL;
	int fd;

	memset(file, 0, sizeof *file);
	bool exists = stat(path, &info) == 0;
	/* a symbolic link stays one: its target is replaced */
	file->path = exists ? realpath(path, NULL) : strdup(path);
	if (!file->path)
		return mt_fail(MT_IO, "cannot write %s: %s", path, strerror(errno));
	if (exists && !S_ISREG(info.st_mode))
		fd = open(path, O_WRONLY | O_CLOEXEC);
	else
		fd = open_temporary(file->path, &temporary);
	file->temporary = temporary;
	if (fd >= 0)
		file->stream = fdopen(fd, "w");
	if (!file->stream) {
		enum mt_status st = mt_fail(MT_IO, "cannot write %s: %s; check that the directory exists and is writable", path,
					    strerror(errno));
		if (fd >= 0)
			close(fd);
		mt_file_abort(file);
		return st;
	}
	return MT_OK;
}

/* Makes a rename in the directory of `path` durable. Some file systems cannot sync a directory: that is no failure. */
static void sync_directory(const char *path)
{
	const char *slash = strrchr(path, '/');
	char *directory = slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
	int fd = directory ? open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	if (fd >= 0) {
		(void)fsync(fd);
		close(fd);
	}
	free(directory);
}

enum mt_status mt_file_commit(struct mt_file *file)
{
	if (!file->stream)
		return mt_fail(MT_IO, "commit of a file that is not open");
	errno = 0;
	int failed = fflush(file->stream) != 0;
	if (ferror(file->stream) || (file->temporary && !failed && fsync(fileno(file->stream)) != 0))
		failed = 1;
	int cause = errno;
	if (fclose(file->stream) != 0 && !failed) {
		failed = 1;
		cause = errno;
	}
	file->stream = NULL;
	if (!failed && file->temporary && rename(file->temporary, file->path) != 0) {
		failed = 1;
		cause = errno;
	}
	if (failed) {
		enum mt_status st = mt_fail(MT_IO, "cannot write %s: %s; the old file, if any, is unchanged", file->path,
					    cause ? strerror(cause) : "an earlier write failed");
		mt_file_abort(file);
		return st;
	}
	if (file->temporary)
		sync_directory(file->path);
	forget(file);
	return MT_OK;
}

void mt_file_abort(struct mt_file *file)
{
	if (file->stream)
		fclose(file->stream);
	if (file->temporary)
		unlink(file->temporary);
	forget(file);
}

enum mt_status mt_file_write(const char *path, const void *data, size_t bytes)
{
	struct mt_file file;
	MT_TRY(mt_file_create(&file, path));
	if (bytes)
		fwrite(data, 1, bytes, file.stream); /* a short write sets the stream's error, which commit finds */
	return mt_file_commit(&file);
}

/* Reads to the end, also of pipes and /proc files, whose size is not known before. */
static enum mt_status read_stream(FILE *stream, const char *path, size_t most_bytes, char **data, size_t *bytes)
{
	size_t used = 0, room = 16384;
	char *text = malloc(room + 1);

	while (text) {
		used += fread(text + used, 1, room - used, stream);
		if (most_bytes && used > most_bytes) {
			free(text);
			return mt_fail(MT_INPUT, "%s is larger than %zu bytes", path, most_bytes);
		}
		if (used < room)
			break;
		room *= 2;
		char *larger = realloc(text, room + 1);
		if (!larger)
			free(text);
		text = larger;
	}
	if (!text)
		return mt_fail(MT_NOMEM, "out of memory reading %s", path);
	if (ferror(stream)) {
		free(text);
		return mt_fail(errno == EISDIR ? MT_INPUT : MT_IO, "cannot read %s: %s", path, strerror(errno));
	}
	text[used] = '\0';
	*data = text;
	if (bytes)
		*bytes = used;
	return MT_OK;
}

enum mt_status mt_file_read(const char *path, size_t most_bytes, char **data, size_t *bytes)
{
	FILE *stream = fopen(path, "re");
	if (!stream) {
		bool theirs = errno == ENOENT || errno == ENOTDIR || errno == EACCES || errno == EISDIR;
		return mt_fail(theirs ? MT_INPUT : MT_IO, "cannot read %s: %s", path, strerror(errno));
	}
	enum mt_status st = read_stream(stream, path, most_bytes, data, bytes);
	fclose(stream);
	return st;
}

enum mt_status mt_file_make_directory(const char *path)
{
	struct stat info;
	char *partial = strdup(path);
	if (!partial)
		return mt_fail(MT_NOMEM, "out of memory making directory %s", path);
	for (char *at = partial + 1; partial[0] != '\0'; at++) {
		if (*at != '/' && *at != '\0')
			continue;
		char kept = *at;
		*at = '\0';
		if (mkdir(partial, 0777) != 0 && !(stat(partial, &info) == 0 && S_ISDIR(info.st_mode))) {
			enum mt_status st = mt_fail(MT_IO, "cannot make directory %s: %s", partial,
						    strerror(errno == EEXIST ? ENOTDIR : errno));
			free(partial);
			return st;
		}
		if (kept == '\0')
			break;
		*at = kept;
	}
	free(partial);
	return MT_OK;
}
