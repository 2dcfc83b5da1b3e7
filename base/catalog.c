/* catalog: see catalog.h. */
#define _GNU_SOURCE
#include "base/catalog.h"

#include "base/file.h"
#include "base/options.h"
#include "base/process.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#ifndef MT_PREFIX
#define MT_PREFIX "/usr/local"
#endif

/* BASE/MIDDLE/KIND, or NULL when there is none. */
static char *directory_below(const char *base, const char *middle, const char *kind)
{
	char *path = mt_string("%s/%s/%s", base, middle, kind);
	struct stat info;

	if (path && stat(path, &info) == 0 && S_ISDIR(info.st_mode))
		return path;
	free(path);
	return NULL;
}

char *mt_catalog_directory(const char *kind)
{
	static const char *const beside[] = {"examples",       "profiles",       "../examples",      "../profiles",
					     "../../examples", "../../profiles", "../share/megatune"};
	const char *data = getenv("MEGATUNE_DATA");
	char *found = data && *data ? directory_below(data, ".", kind) : NULL;
	char *self = mt_process_self();
	char *slash = self ? strrchr(self, '/') : NULL;

	if (slash) {
		*slash = '\0';
		for (size_t i = 0; !found && i < sizeof beside / sizeof beside[0]; i++)
			found = directory_below(self, beside[i], kind);
	}
	free(self);
	return found ? found : mt_string("%s/share/megatune/%s", MT_PREFIX, kind);
}

char *mt_catalog_path(const char *kind, const char *name)
{
	char *directory = mt_catalog_directory(kind), *path = directory ? mt_string("%s/%s.yaml", directory, name) : NULL;

	free(directory);
	return path;
}

static int is_file(const struct dirent *entry)
{
	const char *dot = strrchr(entry->d_name, '.');

	return entry->d_name[0] != '.' && dot && strcmp(dot, ".yaml") == 0;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

/* The names without their ending; free() the text. */
static char *join(struct dirent **entries, int count)
{
	char *known = NULL;
	size_t bytes = 0;
	FILE *list = open_memstream(&known, &bytes);

	for (int i = 0; i < count; i++) {
		*strrchr(entries[i]->d_name, '.') = '\0';
		if (list)
			fprintf(list, "%s%s", i ? ", " : "", entries[i]->d_name);
	}
	if (list)
		fclose(list);
	return known;
}

enum mt_status mt_catalog_unknown(const char *kind, const char *name, const char *or_else)
{
	char *directory = mt_catalog_directory(kind), *known;
	struct dirent **entries = NULL;
	const char **names, *nearest = NULL;
	int noun = (int)strlen(kind) - 1, count = directory ? scandir(directory, &entries, is_file, by_name) : -1;
	enum mt_status st;

	if (count < 0) {
		st = mt_fail(MT_INPUT,
			     "no %.*s '%s': the directory %s cannot be read; set MEGATUNE_DATA to the directory above %s/, or %s",
			     noun, kind, name, directory ? directory : "", kind, or_else);
		free(directory);
		return st;
	}
	known = join(entries, count);
	names = calloc((size_t)count + 1, sizeof *names);
	for (int i = 0; names && i < count; i++)
		names[i] = entries[i]->d_name;
	if (names)
		nearest = mt_options_nearest(name, names, (size_t)count);
	st = mt_fail(MT_INPUT, "no %.*s '%s' in %s%s%s%s; known: %s; or %s", noun, kind, name, directory,
		     nearest ? "; did you mean '" : "", nearest ? nearest : "", nearest ? "'?" : "",
		     known && *known ? known : "none", or_else);
	for (int i = 0; i < count; i++)
		free(entries[i]);
	free(entries);
	free(names);
	free(known);
	free(directory);
	return st;
}
