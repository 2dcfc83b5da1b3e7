/* plugin: finds, loads and remembers plugins.
 *
 * What was loaded stays for the life of the process, so the list below is the one state: a table found once is the answer
 * for every device and every thread. A plugin that was not found is looked for again, which costs three stat calls. */
#define _GNU_SOURCE
#include "base/plugin.h"

#include "base/file.h"
#include "base/process.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct plugin {
	struct plugin *next;
	char *name; /* owned */
	mt_plugin_entry *entry;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct plugin *loaded; /* owned, for ever */

/* "DIR/megatune-NAME.so" when it exists, else NULL; free() it. */
static char *look_in(const char *folder, int length, const char *below, const char *name)
{
	char *path = mt_string("%.*s%s/megatune-%s.so", length, folder, below, name);
	if (path && mt_file_exists(path))
		return path;
	free(path);
	return NULL;
}

static char *find_plugin(const char *name)
{
	const char *folder = getenv("MEGATUNE_PLUGINS");
	char *path = folder && folder[0] ? look_in(folder, (int)strlen(folder), "", name) : NULL;
	char *self = path ? NULL : mt_process_self();
	if (self) {
		const char *end = strrchr(self, '/');
		int length = end ? (int)(end - self) : 0;
		path = look_in(self, length, "", name);
		if (!path)
			path = look_in(self, length, "/../lib/megatune", name);
	}
	free(self);
	return path;
}

static enum mt_status load(const char *name, const char *path, struct plugin **plugin)
{
	void *handle;
	enum mt_status st = mt_library_open(path, &handle);
	if (st != MT_OK)
		return st;
	struct plugin *made = calloc(1, sizeof *made);
	if (!made || !(made->name = strdup(name))) {
		free(made);
		return mt_fail(MT_NOMEM, "plugin %s: out of memory", name);
	}
	made->entry = (mt_plugin_entry *)dlsym(handle, "megatune_plugin");
	made->next = loaded;
	loaded = *plugin = made;
	return MT_OK;
}

static enum mt_status find_or_load(const char *name, struct plugin **plugin)
{
	for (*plugin = loaded; *plugin; *plugin = (*plugin)->next)
		if (!strcmp((*plugin)->name, name))
			return MT_OK;
	char *path = find_plugin(name);
	if (!path)
		return mt_fail(MT_UNAVAILABLE,
			       "this build has no CUDA: no megatune-%s.so beside the program or in ../lib/megatune; "
			       "build it where nvcc is, or set MEGATUNE_PLUGINS to its folder",
			       name);
	enum mt_status st = load(name, path, plugin);
	free(path);
	return st;
}

static enum mt_status find_locked(const char *name, struct plugin **plugin)
{
	pthread_mutex_lock(&lock);
	enum mt_status st = find_or_load(name, plugin);
	pthread_mutex_unlock(&lock);
	return st;
}

enum mt_status mt_plugin_load(const char *name)
{
	struct plugin *plugin;
	return find_locked(name, &plugin);
}

enum mt_status mt_plugin_open(const char *name, int abi, const void **table)
{
	struct plugin *plugin;
	*table = NULL;
	MT_TRY(find_locked(name, &plugin));
	*table = plugin->entry ? plugin->entry(abi) : NULL;
	return *table ? MT_OK
		      : mt_fail(MT_UNAVAILABLE, "megatune-%s.so was built from another version than the program: build both anew",
				name);
}
