/* options: text to field and back, by one table. */
#include "base/options.h"

#include "base/units.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

static void *field(const struct mt_option *option, void *values)
{
	return (char *)values + option->offset;
}

/* Equal but for '-' and '_', which are the same letter. */
static bool same_name(const char *a, const char *b)
{
	while (*a && (*a == *b || (*a == '-' && *b == '_') || (*a == '_' && *b == '-'))) {
		a++;
		b++;
	}
	return *a == *b;
}

static int choice_of(const char *const *choices, const char *text)
{
	for (int i = 0; choices[i]; i++)
		if (same_name(choices[i], text))
			return i;
	return -1;
}

const struct mt_option *mt_options_find(const struct mt_option_table *table, const char *name)
{
	for (size_t i = 0; i < table->count; i++)
		if (same_name(table->options[i].name, name))
			return &table->options[i];
	return NULL;
}

/* --- one value --- */

static enum mt_status unknown_option(const struct mt_option_table *table, const char *name, const char *where)
{
	const char **names = malloc((table->count + 1) * sizeof *names);
	const char *near = NULL;

	for (size_t i = 0; names && i < table->count; i++)
		names[i] = table->options[i].name;
	if (names)
		near = mt_options_nearest(name, names, table->count);
	free(names);
	if (near)
		return mt_fail(MT_INPUT, "%s: unknown option '%s' in '%s'; did you mean '%s'?", where, name, table->name, near);
	return mt_fail(MT_INPUT, "%s: unknown option '%s' in '%s'; see --help", where, name, table->name);
}

static enum mt_status set_bool(const struct mt_option *option, bool *value, const char *text, const char *where)
{
	static const char *const words[] = {"false", "true", "no", "yes", "off", "on", "0", "1"};
	for (int i = 0; i < 8; i++) {
		if (strcasecmp(words[i], text) == 0) {
			*value = i % 2 == 1;
			return MT_OK;
		}
	}
	return mt_fail(MT_INPUT, "%s: %s = '%s': write true or false", where, option->name, text);
}

static enum mt_status check_range(const struct mt_option *option, double value, const char *text, const char *where)
{
	if ((option->least == 0 && option->most == 0) || (value >= option->least && value <= option->most))
		return MT_OK;
	return mt_fail(MT_INPUT, "%s: %s = %s is out of range %.15g..%.15g; the nearest valid value is %.15g", where, option->name,
		       text, option->least, option->most, value < option->least ? option->least : option->most);
}

static enum mt_status set_choice(const struct mt_option *option, int *value, const char *text, const char *where)
{
	char list[256] = "";
	size_t count = 0, used = 0;

	int index = choice_of(option->choices, text);
	if (index >= 0) {
		*value = index;
		return MT_OK;
	}
	for (; option->choices[count]; count++)
		if (used < sizeof list)
			used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", count ? ", " : "",
						 option->choices[count]);
	const char *near = mt_options_nearest(text, option->choices, count);
	return mt_fail(MT_INPUT, "%s: %s = '%s' is not one of %s%s%s%s", where, option->name, text, list,
		       near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
}

static enum mt_status check_utf8(const struct mt_option *option, const char *text, const char *where)
{
	json_t *valid = json_string(text); /* refuses what is not UTF-8 */

	json_decref(valid);
	return valid ? MT_OK : mt_fail(MT_INPUT, "%s: %s is not UTF-8 text", where, option->name);
}

static enum mt_status set_string(const struct mt_option *option, char **value, const char *text, const char *where)
{
	char *copy;

	MT_TRY(check_utf8(option, text, where));
	copy = strdup(text);
	if (!copy)
		return mt_fail(MT_NOMEM, "%s: %s: out of memory", where, option->name);
	free(*value);
	*value = copy;
	return MT_OK;
}

static enum mt_status set_text(const struct mt_option *option, char *value, const char *text, const char *where)
{
	size_t bytes = strlen(text);

	MT_TRY(check_utf8(option, text, where));
	if (bytes >= MT_OPTION_TEXT_BYTES)
		return mt_fail(MT_INPUT, "%s: %s has %zu bytes; at most %d fit", where, option->name, bytes,
			       MT_OPTION_TEXT_BYTES - 1);
	memset(value, 0, MT_OPTION_TEXT_BYTES);
	memcpy(value, text, bytes + 1);
	return MT_OK;
}

static enum mt_status set_field(const struct mt_option *option, void *values, const char *text, const char *where)
{
	void *at = field(option, values);
	int64_t whole;
	double number;

	switch (option->kind) {
	case MT_OPTION_BOOL:
		return set_bool(option, at, text, where);
	case MT_OPTION_INT:
		if (!mt_units_read_int(text, &whole))
			return mt_fail(MT_INPUT, "%s: %s = '%s' is not a whole number: write 512, 64K or 4Gi", where, option->name,
				       text);
		MT_TRY(check_range(option, (double)whole, text, where));
		*(int64_t *)at = whole;
		return MT_OK;
	case MT_OPTION_FLOAT:
		if (!mt_units_read(text, &number))
			return mt_fail(MT_INPUT, "%s: %s = '%s' is not a number: write 0.1, 1.5e-6 or 64K", where, option->name,
				       text);
		MT_TRY(check_range(option, number, text, where));
		*(double *)at = number;
		return MT_OK;
	case MT_OPTION_CHOICE:
		return set_choice(option, at, text, where);
	case MT_OPTION_STRING:
		return set_string(option, at, text, where);
	case MT_OPTION_TEXT:
		return set_text(option, at, text, where);
	}
	return mt_fail(MT_INPUT, "%s: %s: unknown kind of option", where, option->name);
}

static void clear_field(const struct mt_option *option, void *values)
{
	static const size_t sizes[] = {
		[MT_OPTION_BOOL] = sizeof(bool),  [MT_OPTION_INT] = sizeof(int64_t),   [MT_OPTION_FLOAT] = sizeof(double),
		[MT_OPTION_CHOICE] = sizeof(int), [MT_OPTION_STRING] = sizeof(char *), [MT_OPTION_TEXT] = MT_OPTION_TEXT_BYTES,
	};
	memset(field(option, values), 0, sizes[option->kind]);
}

/* --- all values --- */

void mt_options_default(const struct mt_option_table *table, void *values)
{
	for (size_t i = 0; i < table->count; i++) {
		const struct mt_option *option = &table->options[i];
		clear_field(option, values);
		/* the tables' own texts are valid: the tests of each table set every default */
		if (option->value)
			(void)set_field(option, values, option->value, "default");
	}
}

void mt_options_free(const struct mt_option_table *table, void *values)
{
	for (size_t i = 0; i < table->count; i++) {
		if (table->options[i].kind != MT_OPTION_STRING)
			continue;
		char **text = field(&table->options[i], values);
		free(*text);
		*text = NULL;
	}
}

enum mt_status mt_options_set(const struct mt_option_table *table, void *values, const char *name, const char *text,
			      const char *where)
{
	const struct mt_option *option = mt_options_find(table, name);
	return option ? set_field(option, values, text, where) : unknown_option(table, name, where);
}

static bool is_null(const struct mt_yaml *node)
{
	const char *text = node->text;
	return !node->quoted && (*text == '\0' || strcmp(text, "~") == 0 || strcmp(text, "null") == 0);
}

static enum mt_status read_item(const struct mt_option_table *table, void *values, const char *key, const struct mt_yaml *item)
{
	char where[512];
	const struct mt_option *option = mt_options_find(table, key);

	snprintf(where, sizeof where, "%s:%d", item->file, item->line);
	if (!option)
		return unknown_option(table, key, where);
	if (item->kind != MT_YAML_SCALAR)
		return mt_fail(MT_INPUT, "%s: %s must be one value, not a %s", where, key,
			       item->kind == MT_YAML_MAP ? "mapping" : "list");
	if (!is_null(item))
		return set_field(option, values, item->text, where);
	if (option->kind == MT_OPTION_TEXT)
		return set_field(option, values, "", where);
	if (option->kind != MT_OPTION_STRING)
		return mt_fail(MT_INPUT, "%s: %s has no value; give one or remove the line", where, key);
	char **text = field(option, values);
	free(*text);
	*text = NULL;
	return MT_OK;
}

enum mt_status mt_options_read(const struct mt_option_table *table, void *values, const struct mt_yaml *node)
{
	if (!node || (node->kind == MT_YAML_SCALAR && is_null(node)))
		return MT_OK;
	if (node->kind != MT_YAML_MAP)
		return mt_fail(MT_INPUT, "%s:%d: '%s' must be a mapping of options", node->file, node->line, table->name);
	for (size_t i = 0; i < node->count; i++)
		MT_TRY(read_item(table, values, node->keys[i], node->items[i]));
	return MT_OK;
}
