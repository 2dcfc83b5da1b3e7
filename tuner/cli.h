/* cli: the command line of every command, from option tables. Options may stand before or after the positional words;
 * `--name value`, `--name=value`, `--flag`, `--no-flag`; '-' and '_' are the same in names. */
#ifndef MT_TUNER_CLI_H
#define MT_TUNER_CLI_H

#include "base/options.h"
#include "base/status.h"

#include <stdbool.h>

/* What every command takes. */
struct mt_common {
	bool json, quiet, verbose;
};

extern const struct mt_option_table mt_common_options_table;

#define MT_CLI_TABLES 6
#define MT_CLI_WORDS  64

struct mt_cli {
	const char *usage;                                   /* "megatune tune MODEL [options]" */
	const char *summary;                                 /* one or two sentences */
	const struct mt_option_table *tables[MT_CLI_TABLES]; /* NULL-terminated */
	void *values[MT_CLI_TABLES];                         /* where each table's options go */
	int least_words, most_words;
	bool takes_command; /* the first word, or what follows `--`, is a command with options of its own: `rest`, no words */

	/* filled in by mt_cli_parse */
	struct mt_common common;
	bool helped; /* help was printed: the command ends with MT_OK */
	int word_count;
	const char *words[MT_CLI_WORDS];
	int option_count;
	const char **names, **texts; /* owned: options in the order given */
	char **rest;                 /* NULL-terminated as argv is; NULL: none */
};

/* Sorts the words from the options and checks that every option is known. Values are applied by mt_cli_apply, so that a
 * file named by a word can be read in between. argv[0] is the command's name. */
enum mt_status mt_cli_parse(struct mt_cli *cli, int argc, char **argv);
/* Sets the options given on the command line in the tables' values. */
enum mt_status mt_cli_apply(const struct mt_cli *cli);
void mt_cli_free(struct mt_cli *cli);

/* Prints a JSON document to stdout, and frees it. */
enum mt_status mt_cli_print_json(json_t *document);

#endif
