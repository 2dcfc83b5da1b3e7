/* model_load: from what a person writes to a model: a shipped name, a YAML file, a Hugging Face config.json or its folder. */
#define _GNU_SOURCE
#include "base/file.h"
#include "base/json.h"
#include "base/process.h"
#include "engine/model_private.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#ifndef MT_PREFIX
#define MT_PREFIX "/usr/local"
#endif

static bool is_directory(const char *path)
{
	struct stat info;
	return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

/* A directory of the form BASE/SUFFIX, or NULL when there is none. */
static char *directory_below(const char *base, const char *suffix)
{
	char *path = mt_string("%s/%s", base, suffix);

	if (path && is_directory(path))
		return path;
	free(path);
	return NULL;
}

char *mt_model_directory(void)
{
	static const char *const beside[] = {"examples/models", "../examples/models", "../../examples/models",
					     "../share/megatune/models"};
	const char *data = getenv("MEGATUNE_DATA");
	char *found = NULL;

	if (data && *data)
		return mt_string("%s/models", data);
	char *self = mt_process_self();
	char *slash = self ? strrchr(self, '/') : NULL;
	if (slash) {
		*slash = '\0';
		for (size_t i = 0; !found && i < sizeof beside / sizeof beside[0]; i++)
			found = directory_below(self, beside[i]);
	}
	free(self);
	return found ? found : mt_string("%s/share/megatune/models", MT_PREFIX);
}

static bool has_suffix(const char *text, const char *suffix)
{
	size_t n = strlen(text), m = strlen(suffix);
	return n >= m && strcmp(text + n - m, suffix) == 0;
}

/* What follows the last '/'. */
static const char *last_part(const char *path)
{
	const char *slash = strrchr(path, '/');
	return slash ? slash + 1 : path;
}

static enum mt_status read_yaml(struct mt_model *model, const char *path)
{
	struct mt_yaml *root = NULL;
	char where[512];
	enum mt_status st;

	MT_GOTO(out, mt_yaml_load(&root, path));
	const struct mt_yaml *section = mt_yaml_get(root, "model");
	static const char *const only[] = {"model"};
	if (section)
		MT_GOTO(out, mt_yaml_check_keys(root, only, 1));
	else
		section = root;
	if (section->kind != MT_YAML_MAP) {
		st = mt_fail(MT_INPUT, "%s:%d: a model is a mapping such as 'layers: 12', not a single value or a list", path,
			     section->line);
		goto out;
	}
	MT_GOTO(out, mt_options_read(&mt_model_options, model, section));
	snprintf(where, sizeof where, "%s:%d", path, section->line);
	if (!model->name) {
		const char *file = last_part(path);
		const char *dot = strrchr(file, '.');
		model->name = strndup(file, dot && dot > file ? (size_t)(dot - file) : strlen(file));
	}
	st = mt_model_complete(model, where);
out:
	mt_yaml_free(root);
	return st;
}

/* A .json file is a config.json when it says model_type, else a model of ours in JSON, which is YAML too. */
static enum mt_status read_json(struct mt_model *model, const char *path)
{
	json_t *root = NULL;
	enum mt_status st;

	MT_GOTO(out, mt_json_load(&root, path));
	if (!json_object_get(root, "model_type")) {
		st = read_yaml(model, path);
		goto out;
	}
	MT_GOTO(out, mt_model_read_hf(model, root, path));
	st = mt_model_complete(model, path);
out:
	json_decref(root);
	return st;
}

static enum mt_status read_path(struct mt_model *model, const char *path)
{
	if (!is_directory(path))
		return has_suffix(path, ".json") ? read_json(model, path) : read_yaml(model, path);
	char *config = mt_string("%s/config.json", path);
	if (!config)
		return mt_fail(MT_NOMEM, "out of memory");
	enum mt_status st = mt_file_exists(config) ? read_json(model, config)
						   : mt_fail(MT_INPUT, "%s is a directory without a config.json", path);
	free(config);
	return st;
}

static int is_model_file(const struct dirent *entry)
{
	return entry->d_name[0] != '.' && has_suffix(entry->d_name, ".yaml");
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

/* Refuses an unknown name with the nearest and all that are known. */
static enum mt_status fail_unknown(const char *name, const char *directory)
{
	struct dirent **entries = NULL;
	int count = scandir(directory, &entries, is_model_file, by_name);
	char *known = NULL;
	size_t bytes = 0;

	if (count < 0)
		return mt_fail(MT_INPUT,
			       "no model '%s': the model directory %s cannot be read; set MEGATUNE_DATA to the directory "
			       "above models/, or give a path",
			       name, directory);
	FILE *list = open_memstream(&known, &bytes);
	for (int i = 0; i < count; i++) {
		entries[i]->d_name[strlen(entries[i]->d_name) - strlen(".yaml")] = '\0';
		if (list)
			fprintf(list, "%s%s", i ? ", " : "", entries[i]->d_name);
	}
	if (list)
		fclose(list);
	const char *names[count > 0 ? count : 1];
	for (int i = 0; i < count; i++)
		names[i] = entries[i]->d_name;
	const char *nearest = mt_options_nearest(name, names, (size_t)count);
	enum mt_status st = mt_fail(
		MT_INPUT, "no model '%s' in %s%s%s%s; known: %s; or give the path of a YAML file or a config.json", name, directory,
		nearest ? "; did you mean '" : "", nearest ? nearest : "", nearest ? "'?" : "", known && *known ? known : "none");
	for (int i = 0; i < count; i++)
		free(entries[i]);
	free(entries);
	free(known);
	return st;
}

/* A bare word is first a shipped name, so that a file or folder of that name in the way changes nothing. */
static enum mt_status read_named(struct mt_model *model, const char *name)
{
	char *directory = mt_model_directory();
	char *path = directory ? mt_string("%s/%s.yaml", directory, name) : NULL;
	enum mt_status st;

	if (!path)
		st = mt_fail(MT_NOMEM, "out of memory");
	else if (mt_file_exists(path))
		st = read_yaml(model, path);
	else if (mt_file_exists(name))
		st = read_path(model, name);
	else
		st = fail_unknown(name, directory);
	free(path);
	free(directory);
	return st;
}

enum mt_status mt_model_load(struct mt_model *model, const char *what)
{
	bool path = strchr(what, '/') || has_suffix(what, ".yaml") || has_suffix(what, ".yml") || has_suffix(what, ".json");

	mt_options_default(&mt_model_options, model);
	if (*what == '\0')
		return mt_fail(MT_INPUT, "the model has no name: give a known name such as gpt2-124m, or a path");
	enum mt_status st = path ? read_path(model, what) : read_named(model, what);
	if (st != MT_OK)
		mt_model_free(model);
	return st;
}
