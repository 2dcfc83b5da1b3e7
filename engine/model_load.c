/* model_load: from what a person writes to a model: a shipped name, a YAML file, a Hugging Face config.json or its folder. */
#define _GNU_SOURCE
#include "base/catalog.h"
#include "base/file.h"
#include "base/json.h"
#include "engine/model_private.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static bool is_directory(const char *path)
{
	struct stat info;
	return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
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

/* A bare word is first a shipped name, so that a file or folder of that name in the way changes nothing. */
static enum mt_status read_named(struct mt_model *model, const char *name)
{
	char *path = mt_catalog_path("models", name);
	enum mt_status st;

	if (!path)
		st = mt_fail(MT_NOMEM, "out of memory");
	else if (mt_file_exists(path))
		st = read_yaml(model, path);
	else if (mt_file_exists(name))
		st = read_path(model, name);
	else
		st = mt_catalog_unknown("models", name, "give the path of a YAML file or a config.json");
	free(path);
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
