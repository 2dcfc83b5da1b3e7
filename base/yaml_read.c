/* yaml_read: what callers ask of a tree. */
#include "base/options.h"
#include "base/units.h"
#include "base/yaml.h"

#include <stdio.h>
#include <string.h>

const struct mt_yaml *mt_yaml_get(const struct mt_yaml *node, const char *key)
{
	if (!node || node->kind != MT_YAML_MAP)
		return NULL;
	for (size_t i = 0; i < node->count; i++)
		if (strcmp(node->keys[i], key) == 0)
			return node->items[i];
	return NULL;
}

static enum mt_status check_scalar(const struct mt_yaml *node, const char *what)
{
	if (!node)
		return mt_fail(MT_INPUT, "%s is missing", what);
	if (node->kind != MT_YAML_SCALAR)
		return mt_fail(MT_INPUT, "%s:%d: %s must be one value, not a %s", node->file, node->line, what,
			       node->kind == MT_YAML_MAP ? "mapping" : "list");
	return MT_OK;
}

enum mt_status mt_yaml_int(const struct mt_yaml *node, const char *what, int64_t *value)
{
	MT_TRY(check_scalar(node, what));
	if (!mt_units_read_int(node->text, value))
		return mt_fail(MT_INPUT, "%s:%d: %s: '%s' is not a whole number: write 512, 64K or 4Gi", node->file, node->line,
			       what, node->text);
	return MT_OK;
}

enum mt_status mt_yaml_float(const struct mt_yaml *node, const char *what, double *value)
{
	MT_TRY(check_scalar(node, what));
	if (!mt_units_read(node->text, value))
		return mt_fail(MT_INPUT, "%s:%d: %s: '%s' is not a number: write 512, 1.5e-6, 64K or 1.5Gi", node->file, node->line,
			       what, node->text);
	return MT_OK;
}

enum mt_status mt_yaml_string(const struct mt_yaml *node, const char *what, const char **value)
{
	MT_TRY(check_scalar(node, what));
	*value = node->text;
	return MT_OK;
}

static enum mt_status unknown_key(const struct mt_yaml *node, size_t index, const char *const *known, size_t count)
{
	char list[512] = "";
	const char *near = mt_options_nearest(node->keys[index], known, count);

	if (near)
		return mt_fail(MT_INPUT, "%s:%d: unknown key '%s'; did you mean '%s'?", node->file, node->items[index]->line,
			       node->keys[index], near);
	for (size_t k = 0, used = 0; k < count && used < sizeof list; k++)
		used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", k ? ", " : "", known[k]);
	return mt_fail(MT_INPUT, "%s:%d: unknown key '%s'; known are: %s", node->file, node->items[index]->line, node->keys[index],
		       list);
}

enum mt_status mt_yaml_check_keys(const struct mt_yaml *node, const char *const *known, size_t count)
{
	if (!node)
		return MT_OK;
	if (node->kind != MT_YAML_MAP)
		return mt_fail(MT_INPUT, "%s:%d: expected a mapping of keys and values", node->file, node->line);
	for (size_t i = 0; i < node->count; i++) {
		size_t k = 0;
		while (k < count && strcmp(node->keys[i], known[k]) != 0)
			k++;
		if (k < count)
			continue;
		return unknown_key(node, i, known, count);
	}
	return MT_OK;
}
