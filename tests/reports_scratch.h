/* A scratch folder and what the tests of reports ask of the files in it. */
#ifndef TESTS_REPORTS_SCRATCH_H
#define TESTS_REPORTS_SCRATCH_H

#include "base/file.h"
#include "base/json.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char scratch[] = "/tmp/mt-reports-XXXXXX";

static inline int make_scratch(void **state)
{
	(void)state;
	return mkdtemp(scratch) ? 0 : -1;
}

static inline void remove_tree(const char *path)
{
	DIR *folder = opendir(path);
	struct dirent *entry;

	while (folder && (entry = readdir(folder))) {
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		char *inner = mt_string("%s/%s", path, entry->d_name);
		if (unlink(inner) != 0)
			remove_tree(inner);
		free(inner);
	}
	if (folder)
		closedir(folder);
	rmdir(path);
}

static inline int remove_scratch(void **state)
{
	(void)state;
	remove_tree(scratch);
	return 0;
}

/* Counts of a string in a text. */
static inline int count_of(const char *text, const char *part)
{
	int count = 0;
	for (const char *at = text; (at = strstr(at, part)); at += strlen(part))
		count++;
	return count;
}

#endif
