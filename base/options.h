/* options: one struct and one table per room; the YAML reader, the command line, --help and the record kept with each
 * result all come from the table. An unknown key or a value out of range is MT_INPUT with file, line and nearest valid one. */
#ifndef MT_BASE_OPTIONS_H
#define MT_BASE_OPTIONS_H

#include "base/status.h"
#include "base/yaml.h"

#include <jansson.h>
#include <stdint.h>
#include <stdio.h>

enum mt_option_kind {
	MT_OPTION_BOOL,   /* bool; "true/false/yes/no/on/off/1/0" */
	MT_OPTION_INT,    /* int64_t; suffixes K M G T (powers of 1000) and Ki Mi Gi Ti are accepted */
	MT_OPTION_FLOAT,  /* double */
	MT_OPTION_CHOICE, /* int, index into choices */
	MT_OPTION_STRING, /* char *, owned by the struct, freed by mt_options_free; NULL when the default is NULL */
	MT_OPTION_TEXT,   /* char[MT_OPTION_TEXT_BYTES], of the struct itself and zero after its end; empty without a default */
};

enum { MT_OPTION_TEXT_BYTES = 256 };

struct mt_option {
	const char *name; /* as in YAML; the command line takes --name with '_' or '-' */
	enum mt_option_kind kind;
	size_t offset;              /* offsetof(struct, field) */
	const char *value;          /* default, as text; NULL: zero or NULL */
	double least, most;         /* for INT and FLOAT; both 0: no bound */
	const char *const *choices; /* for CHOICE: NULL-terminated */
	const char *help;           /* one sentence, unit included */
};

struct mt_option_table {
	const char *name; /* the YAML section: "layout", "train" */
	const struct mt_option *options;
	size_t count;
};

/* Sets every field to its default. */
void mt_options_default(const struct mt_option_table *table, void *values);
void mt_options_free(const struct mt_option_table *table, void *values);

/* Sets one option from text. `where` starts the error message ("run.yaml:12" or "command line"). */
enum mt_status mt_options_set(const struct mt_option_table *table, void *values, const char *name, const char *text,
			      const char *where);
/* Sets every key of a YAML mapping (NULL node: nothing). */
enum mt_status mt_options_read(const struct mt_option_table *table, void *values, const struct mt_yaml *node);
/* Writes the section as YAML, "table:\n  name: value\n"; options equal to their default too. */
void mt_options_write(const struct mt_option_table *table, const void *values, FILE *file);
/* A new JSON object of all values. */
json_t *mt_options_json(const struct mt_option_table *table, const void *values);
/* Help text, wrapped to 80 columns: name, default, range or choices, help. */
void mt_options_help(const struct mt_option_table *table, FILE *file);
/* What an option may be and is: "(1..1024; default 1)", "(none | full; default none)". */
void mt_options_describe(const struct mt_option *option, char *text, size_t bytes);
/* The option of that name ('-' equals '_'), or NULL. */
const struct mt_option *mt_options_find(const struct mt_option_table *table, const char *name);
/* Of `count` names the one nearest to `name` by edit distance, or NULL when none is near (distance > 1/2 length). */
const char *mt_options_nearest(const char *name, const char *const *names, size_t count);

#endif
