/* options_write: a table's values as YAML, as JSON, and as help. */
#include "base/options.h"

#include "base/json.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const void *field(const struct mt_option *option, const void *values)
{
	return (const char *)values + option->offset;
}

static const char *choice_name(const struct mt_option *option, const void *values)
{
	int index = *(const int *)field(option, values);
	for (int i = 0; option->choices[i]; i++)
		if (i == index)
			return option->choices[i];
	return "?";
}

/* Whether YAML reads the text back as the same string without quotes. */
static bool plain(const char *text)
{
	static const char *const words[] = {"null", "true", "false", "yes", "no", "on", "off"};

	if (!isalnum((unsigned char)*text) && *text != '/' && *text != '_')
		return false;
	for (const char *at = text; *at; at++)
		if (!isalnum((unsigned char)*at) && !strchr("/_.-+", *at))
			return false;
	for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
		if (strcasecmp(text, words[i]) == 0)
			return false;
	return true;
}

static void write_text(const char *text, FILE *file)
{
	if (!text) {
		fputs("null", file);
	} else if (plain(text)) {
		fputs(text, file);
	} else {
		fputc('"', file);
		for (const unsigned char *at = (const unsigned char *)text; *at; at++) {
			if (*at == '"' || *at == '\\')
				fprintf(file, "\\%c", *at);
			else if (*at < 0x20 || *at == 0x7f)
				fprintf(file, "\\x%02X", *at);
			else
				fputc(*at, file);
		}
		fputc('"', file);
	}
}

/* The shortest decimal that reads back as the same double. */
static void write_double(double value, FILE *file)
{
	char text[32];
	for (int digits = 6; digits <= 17; digits++) {
		snprintf(text, sizeof text, "%.*g", digits, value);
		if (strtod(text, NULL) == value)
			break;
	}
	fputs(text, file);
}

static void write_value(const struct mt_option *option, const void *values, FILE *file)
{
	const void *at = field(option, values);

	switch (option->kind) {
	case MT_OPTION_BOOL:
		fputs(*(const bool *)at ? "true" : "false", file);
		break;
	case MT_OPTION_INT:
		fprintf(file, "%" PRId64, *(const int64_t *)at);
		break;
	case MT_OPTION_FLOAT:
		write_double(*(const double *)at, file);
		break;
	case MT_OPTION_CHOICE:
		fputs(choice_name(option, values), file);
		break;
	case MT_OPTION_STRING:
		write_text(*(char *const *)at, file);
		break;
	case MT_OPTION_TEXT:
		write_text(at, file);
		break;
	}
}

void mt_options_write(const struct mt_option_table *table, const void *values, FILE *file)
{
	fprintf(file, "%s:%s\n", table->name, table->count ? "" : " {}");
	for (size_t i = 0; i < table->count; i++) {
		fprintf(file, "  %s: ", table->options[i].name);
		write_value(&table->options[i], values, file);
		fputc('\n', file);
	}
}

static json_t *json_value(const struct mt_option *option, const void *values)
{
	const void *at = field(option, values);

	switch (option->kind) {
	case MT_OPTION_BOOL:
		return json_boolean(*(const bool *)at);
	case MT_OPTION_INT:
		return json_integer(*(const int64_t *)at);
	case MT_OPTION_FLOAT:
		return mt_json_number(*(const double *)at);
	case MT_OPTION_CHOICE:
		return json_string(choice_name(option, values));
	case MT_OPTION_TEXT:
		return json_string(at);
	case MT_OPTION_STRING:
		break;
	}
	const char *text = *(char *const *)at;
	return text ? json_string(text) : json_null();
}

json_t *mt_options_json(const struct mt_option_table *table, const void *values)
{
	json_t *object = json_object();
	for (size_t i = 0; object && i < table->count; i++)
		json_object_set_new(object, table->options[i].name, json_value(&table->options[i], values));
	return object;
}

/* --- help --- */

#define HELP_COLUMNS 80
#define HELP_INDENT  22

/* Prints words of `text` from `column` on, breaking before column 80; returns the column after. */
static int wrap(const char *text, int column, FILE *file)
{
	while (*text) {
		int length = (int)strcspn(text, " ");
		if (column > HELP_INDENT && column + 1 + length > HELP_COLUMNS) {
			fprintf(file, "\n%*s", HELP_INDENT, "");
			column = HELP_INDENT;
		} else if (column > HELP_INDENT) {
			fputc(' ', file);
			column++;
		}
		fwrite(text, 1, (size_t)length, file);
		column += length;
		text += length;
		while (*text == ' ')
			text++;
	}
	return column;
}

void mt_options_describe(const struct mt_option *option, char *text, size_t bytes)
{
	static const char *const kinds[] = {"true or false", "whole number", "number", "", "text", "text"};
	size_t used = 1;

	snprintf(text, bytes, "(");
	if (option->kind == MT_OPTION_CHOICE) {
		for (int i = 0; option->choices[i] && used < bytes; i++)
			used += (size_t)snprintf(text + used, bytes - used, "%s%s", i ? " | " : "", option->choices[i]);
	} else if (option->least != 0 || option->most != 0) {
		used += (size_t)snprintf(text + used, bytes - used, "%.15g..%.15g", option->least, option->most);
	} else {
		used += (size_t)snprintf(text + used, bytes - used, "%s", kinds[option->kind]);
	}
	if (used < bytes)
		snprintf(text + used, bytes - used, "; default %s)",
			 option->value                      ? option->value
			 : option->kind >= MT_OPTION_STRING ? "none"
							    : "0");
}

void mt_options_help(const struct mt_option_table *table, FILE *file)
{
	for (size_t i = 0; i < table->count; i++) {
		const struct mt_option *option = &table->options[i];
		char description[256];
		int column = fprintf(file, "  %s", option->name);

		if (column >= HELP_INDENT) {
			fputc('\n', file);
			column = 0;
		}
		fprintf(file, "%*s", HELP_INDENT - column, "");
		mt_options_describe(option, description, sizeof description);
		column = wrap(option->help ? option->help : "", HELP_INDENT, file);
		wrap(description, column, file);
		fputc('\n', file);
	}
}
