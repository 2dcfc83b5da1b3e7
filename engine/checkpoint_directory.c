/* checkpoint_directory: the names of checkpoints, and how they come and go.
 *
 * A name step-N stands for a whole checkpoint from the moment it appears: it comes by a rename and goes by one. What is
 * being written or removed has a hidden name, .step-N.tmp or .step-N.old, and is swept away by the next run. */
#define _GNU_SOURCE
#include "base/file.h"
#include "engine/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAME_FORMAT "%s/step-%09lld"

char *mt_checkpoint_path(const char *directory, int64_t step)
{
	return mt_string(NAME_FORMAT, directory, (long long)step);
}

/* The step of a name, or -1. */
static int64_t step_of(const char *name)
{
	char *end;
	long long step;

	if (strncmp(name, "step-", 5) != 0 || name[5] < '0' || name[5] > '9')
		return -1;
	step = strtoll(name + 5, &end, 10);
	return *end == '\0' ? step : -1;
}

static int by_step(const void *a, const void *b)
{
	const int64_t *p = a, *q = b;

	return (*p > *q) - (*p < *q);
}

static bool is_whole(const char *directory, int64_t step)
{
	char *manifest = mt_string(NAME_FORMAT "/manifest.json", directory, (long long)step);
	bool whole = manifest && mt_file_exists(manifest);

	free(manifest);
	return whole;
}

enum mt_status mt_checkpoint_list(const char *directory, int64_t **steps, int *count)
{
	struct dirent **entries = NULL;
	int found = scandir(directory, &entries, NULL, NULL);

	*count = 0;
	*steps = calloc((size_t)(found > 0 ? found : 0) + 1, sizeof **steps);
	for (int i = 0; i < found; i++) {
		int64_t step = step_of(entries[i]->d_name);

		if (*steps && step >= 0 && is_whole(directory, step))
			(*steps)[(*count)++] = step;
		free(entries[i]);
	}
	free(entries);
	if (!*steps)
		return mt_fail(MT_NOMEM, "no memory for the checkpoints in %s", directory);
	qsort(*steps, (size_t)*count, sizeof **steps, by_step);
	return MT_OK;
}

/* A directory of plain files, as ours are. */
static int remove_files(const char *directory)
{
	DIR *stream = opendir(directory);
	struct dirent *entry;

	if (!stream)
		return -1;
	while ((entry = readdir(stream)) != NULL) {
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			unlinkat(dirfd(stream), entry->d_name, 0);
	}
	closedir(stream);
	return rmdir(directory);
}

static bool is_ours(const char *name)
{
	size_t length = strlen(name);

	return strncmp(name, ".step-", 6) == 0 && length > 10 &&
	       (strcmp(name + length - 4, ".tmp") == 0 || strcmp(name + length - 4, ".old") == 0);
}

void mt_checkpoint_clean(const char *directory)
{
	DIR *stream = opendir(directory);
	struct dirent *entry;

	while (stream && (entry = readdir(stream)) != NULL) {
		char *path = is_ours(entry->d_name) ? mt_string("%s/%s", directory, entry->d_name) : NULL;

		if (path)
			remove_files(path);
		free(path);
	}
	if (stream)
		closedir(stream);
}

static void sync_directory(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd >= 0) { /* some file systems cannot: no failure */
		(void)fsync(fd);
		close(fd);
	}
}

enum mt_status mt_checkpoint_remove(const char *directory, int64_t step)
{
	char *path = mt_checkpoint_path(directory, step), *aside = mt_string("%s/.step-%lld.old", directory, (long long)step);
	enum mt_status st = MT_OK;

	if (!path || !aside)
		st = mt_fail(MT_NOMEM, "out of memory removing a checkpoint");
	else if (rename(path, aside) != 0)
		st = mt_fail(MT_IO, "cannot remove %s: %s", path, strerror(errno));
	else if (sync_directory(directory), remove_files(aside) != 0)
		st = mt_fail(MT_IO, "cannot remove %s: %s", aside, strerror(errno));
	free(aside);
	free(path);
	return st;
}

enum mt_status mt_checkpoint_install(const char *directory, const char *temporary, int64_t step)
{
	char *path = mt_checkpoint_path(directory, step);
	enum mt_status st = MT_OK;
	bool replaced = false;
	int failed;

	if (!path)
		return mt_fail(MT_NOMEM, "out of memory installing a checkpoint");
	sync_directory(temporary);
	failed = rename(temporary, path);
	if (failed && (errno == EEXIST || errno == ENOTEMPTY)) {
		/* A run that went back comes by this step again: the two change places at once, where the file system can. */
		failed = renameat2(AT_FDCWD, temporary, AT_FDCWD, path, RENAME_EXCHANGE);
		if (failed && (errno == EINVAL || errno == ENOSYS) && mt_checkpoint_remove(directory, step) == MT_OK)
			failed = rename(temporary, path);
		else
			replaced = !failed;
	}
	if (failed)
		st = mt_fail(MT_IO, "cannot give %s the name %s: %s", temporary, path, strerror(errno));
	sync_directory(directory);
	if (replaced)
		remove_files(temporary);
	free(path);
	return st;
}
