/* cli: see cli.h. */
#include "tuner/cli.h"

#include "base/log.h"
#include "tuner/cli_help.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct mt_option common_options[] = {
	{"json", MT_OPTION_BOOL, offsetof(struct mt_common, json), "false", 0, 0, NULL, "print one JSON document instead of text"},
	{"quiet", MT_OPTION_BOOL, offsetof(struct mt_common, quiet), "false", 0, 0, NULL, "errors only"},
	{"verbose", MT_OPTION_BOOL, offsetof(struct mt_common, verbose), "false", 0, 0, NULL, "tell what is being done"},
};
const struct mt_option_table mt_common_options_table = {"common", common_options, 3};

/* Letters for the options that people type most. */
static const char *long_name(const char *letter)
{
	if (!strcmp(letter, "-q"))
		return "quiet";
	if (!strcmp(letter, "-v"))
		return "verbose";
	return NULL;
}

static const struct mt_option *find(const struct mt_cli *cli, const char *name, int *table)
{
	const struct mt_option *option = mt_options_find(&mt_common_options_table, name);

	*table = -1;
	if (option)
		return option;
	for (int i = 0; i < MT_CLI_TABLES && cli->tables[i]; i++) {
		option = mt_options_find(cli->tables[i], name);
		if (option) {
			*table = i;
			return option;
		}
	}
	return NULL;
}

static enum mt_status unknown(const struct mt_cli *cli, const char *name)
{
	const char *names[256];
	size_t count = 0;
	const char *nearest;

	for (size_t i = 0; i < mt_common_options_table.count; i++)
		names[count++] = mt_common_options_table.options[i].name;
	for (int t = 0; t < MT_CLI_TABLES && cli->tables[t]; t++) {
		for (size_t i = 0; i < cli->tables[t]->count && count < 256; i++)
			names[count++] = cli->tables[t]->options[i].name;
	}
	nearest = mt_options_nearest(name, names, count);
	if (nearest)
		return mt_fail(MT_INPUT, "command line: unknown option --%s; did you mean --%s? (%s)", name, nearest, cli->usage);
	return mt_fail(MT_INPUT, "command line: unknown option --%s; --help lists the options (%s)", name, cli->usage);
}

static enum mt_status keep_option(struct mt_cli *cli, const char *name, const char *text, int table)
{
	if (table < 0)
		return mt_options_set(&mt_common_options_table, &cli->common, name, text, "command line");
	cli->names[cli->option_count] = name;
	cli->texts[cli->option_count++] = text;
	return MT_OK;
}

/* One option word; *used is how many of argv it took. The name is cut out of `word` in place. */
static enum mt_status parse_option(struct mt_cli *cli, char *word, const char *next, int *used)
{
	char *equals = strchr(word, '=');
	const char *name = word + 2, *text = equals ? equals + 1 : NULL;
	const struct mt_option *option;
	int table;

	*used = 1;
	if (equals)
		*equals = '\0';
	option = find(cli, name, &table);
	if (!option && !strncmp(name, "no-", 3) && !equals) {
		option = find(cli, name + 3, &table);
		if (option && option->kind == MT_OPTION_BOOL)
			return keep_option(cli, name + 3, "false", table);
		option = NULL;
	}
	if (!option)
		return unknown(cli, name);
	if (option->kind == MT_OPTION_BOOL && !text)
		text = "true";
	if (!text) {
		if (!next)
			return mt_fail(MT_INPUT, "command line: --%s needs a value (%s)", name, cli->usage);
		text = next;
		*used = 2;
	}
	return keep_option(cli, name, text, table);
}

static enum mt_status parse_all(struct mt_cli *cli, int argc, char **argv)
{
	static char ranks[] = "--ranks"; /* as launchers call it */

	for (int i = 1; i < argc;) {
		int used = 1;
		const char *name = long_name(argv[i]);

		if (cli->takes_command && (argv[i][0] != '-' || !strcmp(argv[i], "--"))) {
			cli->rest = argv + i + (argv[i][0] == '-');
			return MT_OK;
		}
		if (cli->takes_command && !strcmp(argv[i], "-n"))
			argv[i] = ranks;
		if (mt_help_asked(argv[i])) {
			mt_help_print(cli, mt_help_asked(argv[i]));
			cli->helped = true;
			return MT_OK;
		}
		if (name) {
			MT_TRY(keep_option(cli, name, "true", -1));
		} else if (!strncmp(argv[i], "--", 2)) {
			MT_TRY(parse_option(cli, argv[i], i + 1 < argc ? argv[i + 1] : NULL, &used));
		} else if (argv[i][0] == '-' && argv[i][1]) {
			return mt_fail(MT_INPUT, "command line: unknown option %s; --help lists the options", argv[i]);
		} else if (cli->word_count == cli->most_words || cli->word_count == MT_CLI_WORDS) {
			return mt_fail(MT_INPUT, "command line: '%s' is one word too many (%s)", argv[i], cli->usage);
		} else {
			cli->words[cli->word_count++] = argv[i];
		}
		i += used;
	}
	if (cli->word_count < cli->least_words)
		return mt_fail(MT_INPUT, "command line: something is missing (%s)", cli->usage);
	return MT_OK;
}

enum mt_status mt_cli_parse(struct mt_cli *cli, int argc, char **argv)
{
	mt_options_default(&mt_common_options_table, &cli->common);
	cli->names = calloc((size_t)argc + 1, sizeof *cli->names);
	cli->texts = calloc((size_t)argc + 1, sizeof *cli->texts);
	if (!cli->names || !cli->texts)
		return mt_fail(MT_NOMEM, "no memory for the command line");
	MT_TRY(parse_all(cli, argc, argv));
	mt_log_set_level(cli->common.quiet ? MT_LOG_ERROR : cli->common.verbose ? MT_LOG_INFO : MT_LOG_WARN);
	return MT_OK;
}

enum mt_status mt_cli_apply(const struct mt_cli *cli)
{
	for (int i = 0; i < cli->option_count; i++) {
		int table;

		find(cli, cli->names[i], &table);
		MT_TRY(mt_options_set(cli->tables[table], cli->values[table], cli->names[i], cli->texts[i], "command line"));
	}
	return MT_OK;
}

void mt_cli_free(struct mt_cli *cli)
{
	free(cli->names);
	free(cli->texts);
	cli->names = cli->texts = NULL;
}

enum mt_status mt_cli_print_json(json_t *document)
{
	int bad = !document || json_dumpf(document, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) != 0;

	putchar('\n');
	json_decref(document);
	if (bad || fflush(stdout) != 0)
		return mt_fail(MT_IO, "writing the result to standard output failed");
	return MT_OK;
}
