/* cli_help: see cli_help.h. */
#include "tuner/cli_help.h"

#include "base/catalog.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

enum { HELP_COLUMNS = 80 };

enum mt_help mt_help_asked(const char *word)
{
	static const struct {
		const char *word;
		enum mt_help kind;
	} known[] = {{"--help", MT_HELP_TEXT}, {"-h", MT_HELP_TEXT}, {"--help=man", MT_HELP_MAN}, {"--help=words", MT_HELP_WORDS}};

	for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
		if (!strcmp(word, known[i].word))
			return known[i].kind;
	return MT_HELP_NONE;
}

/* Words wrapped to the width of a terminal. */
static void print_wrapped(const char *text)
{
	size_t column = 0, length;

	for (text += strspn(text, " "); *text; text += length, text += strspn(text, " ")) {
		length = strcspn(text, " ");
		if (column > 0 && column + 1 + length > HELP_COLUMNS) {
			putchar('\n');
			column = 0;
		}
		column += (size_t)printf("%s%.*s", column > 0 ? " " : "", (int)length, text);
	}
	putchar('\n');
}

static void print_text(const struct mt_cli *cli)
{
	printf("usage: %s\n\n", cli->usage);
	print_wrapped(cli->summary);
	for (int i = 0; i < MT_CLI_TABLES && cli->tables[i]; i++) {
		printf("\n%s options:\n", cli->tables[i]->name);
		mt_options_help(cli->tables[i], stdout);
	}
	printf("\ncommon options:\n");
	mt_options_help(&mt_common_options_table, stdout);
	printf("\nExit: 0 done, 1 verdict against, 2 bad input, 3 inconclusive, 4 the run failed,\n77 not possible here, 130 "
	       "interrupted.\n");
}

void mt_help_man_text(const char *text, FILE *file)
{
	if (*text == '.' || *text == '\'')
		fputs("\\&", file);
	for (; *text; text++) {
		if (*text == '\\')
			fputs("\\e", file);
		else if (*text == '-')
			fputs("\\-", file);
		else
			fputc(*text == '\n' ? ' ' : *text, file);
	}
	fputc('\n', file);
}

void mt_help_man_options(const struct mt_option_table *table, FILE *file)
{
	for (size_t i = 0; i < table->count; i++) {
		const struct mt_option *option = &table->options[i];
		char description[256], line[128];

		snprintf(line, sizeof line, "--%s", option->name);
		mt_options_describe(option, description, sizeof description);
		fputs(".TP\n.B ", file);
		mt_help_man_text(line, file);
		mt_help_man_text(option->help ? option->help : "", file);
		mt_help_man_text(description, file);
	}
}

/* The words of the usage up to its first option: "megatune tune MODEL". */
static void print_man(const struct mt_cli *cli)
{
	char title[80];

	snprintf(title, sizeof title, "%.*s", (int)strcspn(cli->usage, "["), cli->usage);
	fputs(".SS ", stdout);
	mt_help_man_text(title, stdout);
	mt_help_man_text(cli->summary, stdout);
	for (int i = 0; i < MT_CLI_TABLES && cli->tables[i]; i++)
		mt_help_man_options(cli->tables[i], stdout);
}

/* Names of the files that are shipped of a kind. */
static void print_names(const char *kind)
{
	char *path = mt_catalog_directory(kind);
	DIR *directory = path ? opendir(path) : NULL;
	const struct dirent *entry;

	while (directory && (entry = readdir(directory))) {
		const char *end = strstr(entry->d_name, ".yaml");

		if (end && end[5] == '\0')
			printf("%.*s ", (int)(end - entry->d_name), entry->d_name);
	}
	if (directory)
		closedir(directory);
	free(path);
}

static void print_option_words(const struct mt_option *option)
{
	printf("--%s\t", option->name);
	for (int i = 0; option->kind == MT_OPTION_CHOICE && option->choices[i]; i++)
		printf("%s ", option->choices[i]);
	if (!strcmp(option->name, "machine"))
		print_names("machines");
	if (!strcmp(option->name, "stack"))
		print_names("stacks");
	putchar('\n');
	if (option->kind == MT_OPTION_BOOL)
		printf("--no-%s\t\n", option->name);
}

static void print_words(const struct mt_cli *cli)
{
	if (strstr(cli->usage, " MODEL")) {
		fputs("MODEL\t", stdout);
		print_names("models");
		putchar('\n');
	}
	for (int i = 0; i < MT_CLI_TABLES && cli->tables[i]; i++)
		for (size_t k = 0; k < cli->tables[i]->count; k++)
			print_option_words(&cli->tables[i]->options[k]);
	for (size_t k = 0; k < mt_common_options_table.count; k++)
		print_option_words(&mt_common_options_table.options[k]);
}

void mt_help_print(const struct mt_cli *cli, enum mt_help kind)
{
	if (kind == MT_HELP_TEXT)
		print_text(cli);
	else if (kind == MT_HELP_MAN)
		print_man(cli);
	else if (kind == MT_HELP_WORDS)
		print_words(cli);
}
