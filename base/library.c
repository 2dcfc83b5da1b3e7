/* library: opens shared libraries that may lie outside the loader's path.
 *
 * CUDA is often there and yet unknown to the loader: under /usr/local/cuda without an entry in ld.so.conf, or as packages
 * of a Python environment, one folder a library. The loader names the first library it misses; we look for that file in
 * the usual folders, open it by its full path and ask again, for the loader takes what is already loaded under the same
 * soname. A library that is opened this way may miss others: the same is done for it. */
#define _GNU_SOURCE
#include "base/plugin.h"

#include "base/file.h"

#include <dlfcn.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_MISSING 32 /* libraries one file may miss, and how deep a search goes */

/* A folder, or the value of a variable that is set, and what follows it up to the library's name; may be a pattern. */
struct place {
	const char *variable, *below;
};
static const struct place places[] = {
	{"CUDA_HOME", "/lib64/"},
	{"CUDA_HOME", "/lib/"},
	{"CUDA_PATH", "/lib64/"},
	{NULL, "/usr/local/cuda/lib64/"},
	{NULL, "/usr/local/cuda-*/lib64/"},
	{"CONDA_PREFIX", "/lib/"},
	{"HOME", "/.local/lib/python3*/site-packages/nvidia/*/lib/"},
};

/* The last match of a pattern, so that of several versions the newest is taken; free() it. */
static char *match(char *pattern)
{
	glob_t found = {0};
	char *path = NULL;
	if (pattern && glob(pattern, 0, NULL, &found) == 0 && found.gl_pathc > 0)
		path = strdup(found.gl_pathv[found.gl_pathc - 1]);
	globfree(&found);
	free(pattern);
	return path;
}

/* Beside each python3 of PATH: <prefix>/bin/python3 has its packages in <prefix>/lib. */
static char *find_beside_python(const char *soname)
{
	const char *path = getenv("PATH");
	char *found = NULL;
	for (const char *at = path ? path : "/usr/local/bin:/usr/bin"; *at && !found;) {
		int length = (int)strcspn(at, ":");
		char *python = mt_string("%.*s/python3", length, at);
		if (python && mt_file_exists(python))
			found = match(mt_string("%.*s/../lib/python3*/*-packages/nvidia/*/lib/%s", length, at, soname));
		free(python);
		at += length + (at[length] == ':');
	}
	return found;
}

static char *find_library(const char *soname)
{
	for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
		const char *folder = places[i].variable ? getenv(places[i].variable) : "";
		char *path = folder && (folder[0] || !places[i].variable)
				     ? match(mt_string("%s%s%s", folder, places[i].below, soname))
				     : NULL;
		if (path)
			return path;
	}
	return find_beside_python(soname);
}

/* The library that the loader's message says cannot be opened: "libx.so.1: cannot open shared object file: ..." */
static bool read_missing(const char *message, char *soname, size_t room)
{
	size_t length = strcspn(message, ":");
	if (!strstr(message, "cannot open shared object file") || length == 0 || length >= room)
		return false;
	memcpy(soname, message, length);
	soname[length] = '\0';
	return true;
}

/* NULL with the loader's message in `message`. */
static void *open_deep(const char *file, int depth, char *message, size_t room)
{
	char missing[256], last[256] = "";
	for (int i = 0; i < MOST_MISSING; i++) {
		void *handle = dlopen(file, RTLD_NOW | RTLD_LOCAL);
		if (handle)
			return handle;
		const char *error = dlerror();
		snprintf(message, room, "%s", error ? error : "unknown failure of the loader");
		if (depth > MOST_MISSING || !read_missing(message, missing, sizeof missing) || !strcmp(missing, last))
			return NULL;
		char *path = strchr(missing, '/') ? NULL : find_library(missing);
		if (!path)
			return NULL;
		handle = open_deep(path, depth + 1, message, room);
		free(path);
		if (!handle || !strcmp(missing, file)) /* it was `file` itself that the loader does not know */
			return handle;
		snprintf(last, sizeof last, "%s", missing);
	}
	return NULL;
}

enum mt_status mt_library_open(const char *file, void **handle)
{
	char message[1024];
	*handle = open_deep(file, 0, message, sizeof message);
	return *handle ? MT_OK : mt_fail(MT_UNAVAILABLE, "%s", message);
}
