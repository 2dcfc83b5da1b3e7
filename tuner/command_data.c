/* data: `megatune data build|inspect|list|encode`: text into Megatron's indexed data sets, and what is in one. */
#define _GNU_SOURCE
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/units.h"
#include "engine/data_build.h"
#include "engine/indexed.h"
#include "tuner/cli_help.h"
#include "tuner/commands.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The words from `first` on, with colons between: what the engine takes for several paths. */
static char *join(const struct mt_cli *cli, int first)
{
	char *all = strdup(cli->words[first]);

	for (int i = first + 1; i < cli->word_count && all; i++) {
		char *longer = mt_string("%s:%s", all, cli->words[i]);
		free(all);
		all = longer;
	}
	return all;
}

/* --- build --- */

static json_t *build_json(const struct mt_build_summary *s, const char *prefix, double seconds)
{
	return json_pack("{s:s,s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:o,s:s,s:o}", "prefix", prefix, "tokenizer", s->tokenizer, "vocab",
			 (json_int_t)s->vocab, "documents", (json_int_t)s->documents, "empty_documents", (json_int_t)s->empty,
			 "tokens", (json_int_t)s->tokens, "text_bytes", (json_int_t)s->text_bytes, "replaced_bytes",
			 (json_int_t)s->replaced_bytes, "end_token", s->end_token < 0 ? json_null() : json_integer(s->end_token),
			 "dtype", s->vocab < 65500 ? "u16" : "i32", "seconds", mt_json_number(seconds));
}

static enum mt_status print_build(const struct mt_cli *cli, const struct mt_build_summary *s, const char *prefix, double seconds)
{
	char bytes[MT_UNITS_TEXT];

	if (cli->common.json)
		return mt_cli_print_json(build_json(s, prefix, seconds));
	printf("%s.bin, %s.idx: %lld documents, %lld tokens of %s (%s), %.2f bytes a token\n", prefix, prefix,
	       (long long)s->documents, (long long)s->tokens, mt_units_bytes(bytes, (double)s->text_bytes), s->tokenizer,
	       (double)s->text_bytes / (double)s->tokens);
	if (s->empty)
		printf("left out: %lld empty documents\n", (long long)s->empty);
	if (s->replaced_bytes)
		printf("no UTF-8, written as U+FFFD: %lld bytes\n", (long long)s->replaced_bytes);
	return MT_OK;
}

static enum mt_status build(int argc, char **argv)
{
	struct mt_build_options options;
	struct mt_build_summary summary;
	struct mt_cli cli = {.usage = "megatune data build PREFIX PATH... [options]",
			     .summary = "Tokenizes files, and directories of them, into PREFIX.bin and PREFIX.idx, the format of "
					"Megatron's preprocess_data.py. Both appear whole or not at all.",
			     .tables = {&mt_build_options_table},
			     .values = {&options},
			     .least_words = 2,
			     .most_words = MT_CLI_WORDS};
	char *paths = NULL;
	double start_s = mt_clock_s();
	enum mt_status st;

	mt_options_default(&mt_build_options_table, &options);
	MT_GOTO(out, mt_cli_parse(&cli, argc, argv));
	if (cli.helped)
		goto out;
	MT_GOTO(out, mt_cli_apply(&cli));
	paths = join(&cli, 1);
	st = paths ? mt_data_build(&summary, cli.words[0], paths, &options) : mt_fail(MT_NOMEM, "out of memory");
	if (st == MT_OK)
		st = print_build(&cli, &summary, cli.words[0], mt_clock_s() - start_s);
out:
	free(paths);
	mt_options_free(&mt_build_options_table, &options);
	mt_cli_free(&cli);
	return st;
}

/* --- encode --- */

static enum mt_status print_tokens(void *context, const int32_t *tokens, int64_t count)
{
	putchar('[');
	for (int64_t i = 0; i < count; i++)
		printf("%s%d", i ? "," : "", tokens[i]);
	puts("]");
	return ferror(stdout) ? mt_fail(MT_IO, "writing to standard output failed") : MT_OK;
}

static enum mt_status encode(int argc, char **argv)
{
	struct mt_build_options options;
	struct mt_build_summary summary;
	struct mt_cli cli = {.usage = "megatune data encode PATH... [options]",
			     .summary = "Prints the tokens of each document as a line of JSON, without writing a data set. Empty "
					"documents have no line. No token is put at the ends unless --end is given.",
			     .tables = {&mt_build_options_table},
			     .values = {&options},
			     .least_words = 1,
			     .most_words = MT_CLI_WORDS};
	char *paths = NULL;
	enum mt_status st;

	mt_options_default(&mt_build_options_table, &options);
	options.end = false;
	MT_GOTO(out, mt_cli_parse(&cli, argc, argv));
	if (cli.helped)
		goto out;
	MT_GOTO(out, mt_cli_apply(&cli));
	paths = join(&cli, 0);
	st = paths ? mt_data_tokenize(&summary, paths, &options, print_tokens, NULL) : mt_fail(MT_NOMEM, "out of memory");
out:
	free(paths);
	mt_options_free(&mt_build_options_table, &options);
	mt_cli_free(&cli);
	return st;
}

/* --- inspect --- */

struct inspect_options {
	char *tokenizer;
	int64_t first, documents, tokens;
};

static const struct mt_option inspect_options[] = {
	{"tokenizer", MT_OPTION_STRING, offsetof(struct inspect_options, tokenizer), NULL, 0, 0, NULL,
	 "shows the text of the documents too: byte, a tokenizer.json, or a folder"},
	{"first", MT_OPTION_INT, offsetof(struct inspect_options, first), "0", 0, 9e15, NULL, "first document to show"},
	{"documents", MT_OPTION_INT, offsetof(struct inspect_options, documents), "3", 0, 1e9, NULL, "documents to show"},
	{"tokens", MT_OPTION_INT, offsetof(struct inspect_options, tokens), "16", 1, 1e6, NULL, "tokens of each to show"},
};
static const struct mt_option_table inspect_table = {"inspect", inspect_options, 4};

static json_t *set_json(const struct mt_indexed *x, const char *prefix)
{
	return json_pack("{s:s,s:I,s:I,s:I,s:s,s:I}", "prefix", prefix, "documents", (json_int_t)x->documents, "sequences",
			 (json_int_t)x->sequences, "tokens", (json_int_t)x->tokens, "dtype", mt_indexed_type(x), "bin_bytes",
			 (json_int_t)(x->tokens << x->shift));
}

/* The lowest and highest token: what vocabulary the set needs. */
static enum mt_status find_range(const struct mt_indexed *x, int32_t *least, int32_t *most)
{
	enum { PART = 16384 };
	int32_t tokens[PART];

	*least = INT32_MAX;
	*most = -1;
	for (int64_t at = 0; at < x->tokens; at += PART) {
		int64_t count = x->tokens - at < PART ? x->tokens - at : PART;
		MT_TRY(mt_indexed_read(x, at, count, 0, tokens));
		for (int64_t i = 0; i < count; i++) {
			*least = tokens[i] < *least ? tokens[i] : *least;
			*most = tokens[i] > *most ? tokens[i] : *most;
		}
	}
	return MT_OK;
}

/* Lengths of all documents: the shortest and the longest. */
static enum mt_status find_lengths(const struct mt_indexed *x, int64_t *least, int64_t *most)
{
	int64_t first = 0, next;

	*least = INT64_MAX;
	*most = 0;
	for (int64_t i = 1; i <= x->documents; i++, first = next) {
		MT_TRY(mt_indexed_first(x, i, &next));
		*least = next - first < *least ? next - first : *least;
		*most = next - first > *most ? next - first : *most;
	}
	return MT_OK;
}

/* Text that may have been cut within a character, as a JSON string: what is no UTF-8 becomes '?'. */
static json_t *text_json(char *text, size_t bytes)
{
	json_t *whole = json_stringn(text, bytes);

	for (size_t i = 0; i < bytes && !whole; i++)
		text[i] = text[i] & (char)0x80 ? '?' : text[i];
	return whole ? whole : json_stringn(text, bytes);
}

static enum mt_status document_json(const struct mt_indexed *x, const struct mt_tokenizer *tokenizer, int64_t index, int64_t most,
				    json_t *list)
{
	int64_t first, end;
	json_t *item = json_object(), *tokens = json_array();
	int32_t *ids = malloc((size_t)most * sizeof *ids);
	char *text = NULL;
	size_t bytes;
	enum mt_status st = ids ? MT_OK : mt_fail(MT_NOMEM, "out of memory");

	json_object_set_new(item, "document", json_integer(index));
	json_object_set_new(item, "head", tokens);
	json_array_append_new(list, item);
	MT_GOTO(out, st);
	MT_GOTO(out, mt_indexed_first(x, index, &first));
	MT_GOTO(out, mt_indexed_first(x, index + 1, &end));
	json_object_set_new(item, "tokens", json_integer(end - first));
	most = end - first < most ? end - first : most;
	MT_GOTO(out, mt_indexed_read(x, first, most, tokenizer ? mt_tokenizer_vocab(tokenizer) : 0, ids));
	for (int64_t i = 0; i < most; i++)
		json_array_append_new(tokens, json_integer(ids[i]));
	if (tokenizer) {
		MT_GOTO(out, mt_tokenizer_decode(tokenizer, ids, most, &text, &bytes));
		json_object_set_new(item, "text", text_json(text, bytes));
	}
out:
	free(text);
	free(ids);
	return st;
}

static enum mt_status inspect_set(const struct mt_indexed *x, const char *prefix, const struct inspect_options *options,
				  json_t **result)
{
	struct mt_tokenizer *tokenizer = NULL;
	json_t *documents = json_array();
	int64_t shortest, longest;
	int32_t least, most;
	enum mt_status st = MT_OK;

	*result = set_json(x, prefix);
	json_object_set_new(*result, "shown", documents);
	if (options->tokenizer)
		MT_GOTO(out, mt_tokenizer_open(&tokenizer, options->tokenizer));
	MT_GOTO(out, find_range(x, &least, &most));
	MT_GOTO(out, find_lengths(x, &shortest, &longest));
	json_object_set_new(*result, "least_token", x->tokens ? json_integer(least) : json_null());
	json_object_set_new(*result, "most_token", x->tokens ? json_integer(most) : json_null());
	json_object_set_new(*result, "shortest_document", x->documents ? json_integer(shortest) : json_null());
	json_object_set_new(*result, "longest_document", json_integer(longest));
	for (int64_t i = options->first; i < x->documents && i - options->first < options->documents; i++)
		MT_GOTO(out, document_json(x, tokenizer, i, options->tokens, documents));
out:
	mt_tokenizer_close(tokenizer);
	return st;
}

static void print_set(const json_t *set)
{
	const json_t *item, *token;
	size_t i, k;
	char bytes[MT_UNITS_TEXT];

	printf("%s: %lld documents, %lld tokens (%s, %s)\n", mt_json_get_string(set, "prefix", ""),
	       (long long)mt_json_get_int(set, "documents", 0), (long long)mt_json_get_int(set, "tokens", 0),
	       mt_json_get_string(set, "dtype", ""), mt_units_bytes(bytes, mt_json_get_number(set, "bin_bytes", 0)));
	if (!json_object_get(set, "shown"))
		return;
	printf("tokens from %lld to %lld; documents of %lld to %lld tokens\n", (long long)mt_json_get_int(set, "least_token", -1),
	       (long long)mt_json_get_int(set, "most_token", -1), (long long)mt_json_get_int(set, "shortest_document", 0),
	       (long long)mt_json_get_int(set, "longest_document", 0));
	json_array_foreach(json_object_get(set, "shown"), i, item)
	{
		printf("document %lld, %lld tokens:", (long long)mt_json_get_int(item, "document", 0),
		       (long long)mt_json_get_int(item, "tokens", 0));
		json_array_foreach(json_object_get(item, "head"), k, token) printf(" %lld", (long long)json_integer_value(token));
		putchar('\n');
		if (json_object_get(item, "text")) {
			char *text = json_dumps(json_object_get(item, "text"), JSON_ENCODE_ANY);
			printf("  %s\n", text ? text : "");
			free(text);
		}
	}
}

static enum mt_status inspect(int argc, char **argv)
{
	struct inspect_options options;
	struct mt_cli cli = {.usage = "megatune data inspect PREFIX [options]",
			     .summary = "Checks an indexed data set in full and says what is in it.",
			     .tables = {&inspect_table},
			     .values = {&options},
			     .least_words = 1,
			     .most_words = 1};
	struct mt_indexed x = {.fd = -1, .index_fd = -1};
	json_t *result = NULL;
	char *prefix = NULL;
	enum mt_status st;

	mt_options_default(&inspect_table, &options);
	MT_GOTO(out, mt_cli_parse(&cli, argc, argv));
	if (cli.helped)
		goto out;
	MT_GOTO(out, mt_cli_apply(&cli));
	prefix = mt_indexed_prefix(cli.words[0]);
	MT_GOTO(out, mt_indexed_open(&x, prefix ? prefix : cli.words[0]));
	MT_GOTO(out, inspect_set(&x, prefix ? prefix : cli.words[0], &options, &result));
	if (cli.common.json)
		st = mt_cli_print_json(json_incref(result));
	else
		print_set(result);
out:
	json_decref(result);
	mt_indexed_close(&x);
	free(prefix);
	mt_options_free(&inspect_table, &options);
	mt_cli_free(&cli);
	return st;
}

/* --- list --- */

static int is_index(const struct dirent *entry)
{
	size_t length = strlen(entry->d_name);
	return length > 4 && strcmp(entry->d_name + length - 4, ".idx") == 0;
}

/* A set that cannot be read is listed with the reason. */
static json_t *list_one(const char *folder, const char *name)
{
	char *prefix = mt_string("%s/%.*s", folder, (int)strlen(name) - 4, name);
	struct mt_indexed x;
	json_t *item;

	if (prefix && mt_indexed_open(&x, prefix) == MT_OK) {
		item = set_json(&x, prefix);
		mt_indexed_close(&x);
	} else {
		item = json_pack("{s:s,s:s}", "prefix", prefix ? prefix : name, "error", mt_error_message());
		mt_error_clear();
	}
	free(prefix);
	return item;
}

static enum mt_status list_folder(const char *folder, json_t *sets)
{
	struct dirent **entries = NULL;
	int count = scandir(folder, &entries, is_index, alphasort);

	if (count < 0)
		return mt_fail(MT_INPUT, "cannot read directory %s: does it exist?", folder);
	for (int i = 0; i < count; i++) {
		json_array_append_new(sets, list_one(folder, entries[i]->d_name));
		free(entries[i]);
	}
	free(entries);
	return MT_OK;
}

static enum mt_status list(int argc, char **argv)
{
	struct mt_cli cli = {.usage = "megatune data list FOLDER... [options]",
			     .summary = "Lists the indexed data sets of folders. Exit 1 when one of them cannot be read.",
			     .least_words = 1,
			     .most_words = MT_CLI_WORDS};
	json_t *sets = json_array(), *item;
	bool broken = false;
	size_t i;
	enum mt_status st;

	MT_GOTO(out, mt_cli_parse(&cli, argc, argv));
	if (cli.helped)
		goto out;
	for (int k = 0; k < cli.word_count; k++)
		MT_GOTO(out, list_folder(cli.words[k], sets));
	json_array_foreach(sets, i, item)
	{
		const char *error = mt_json_get_string(item, "error", NULL);
		broken = broken || error;
		if (!cli.common.json && error)
			printf("%s: %s\n", mt_json_get_string(item, "prefix", ""), error);
		else if (!cli.common.json)
			print_set(item);
	}
	if (cli.common.json)
		MT_GOTO(out, mt_cli_print_json(json_incref(sets)));
	if (broken)
		st = MT_VERDICT;
out:
	json_decref(sets);
	mt_cli_free(&cli);
	return st;
}

static const struct {
	const char *name, *summary;
	enum mt_status (*run)(int argc, char **argv);
} actions[] = {
	{"build", "text and JSON lines into PREFIX.bin and PREFIX.idx", build},
	{"inspect", "what is in an indexed data set", inspect},
	{"list", "the indexed data sets of folders", list},
	{"encode", "the tokens of text, printed", encode},
};

enum { ACTIONS = sizeof actions / sizeof actions[0] };

static enum mt_status help(enum mt_help kind)
{
	static char man[] = "--help=man";

	if (kind == MT_HELP_TEXT)
		printf("usage: megatune data ACTION ... [options]\n\n");
	for (int i = 0; i < ACTIONS; i++) {
		if (kind == MT_HELP_TEXT)
			printf("  %-9s %s\n", actions[i].name, actions[i].summary);
		else if (kind == MT_HELP_WORDS)
			printf("%s\n", actions[i].name);
		else
			MT_TRY(actions[i].run(2, (char *[]){man, man, NULL}));
	}
	if (kind == MT_HELP_TEXT)
		printf("\nmegatune data ACTION --help tells more.\n");
	return MT_OK;
}

enum mt_status mt_command_data(int argc, char **argv)
{
	const char *names[ACTIONS], *nearest;

	for (int i = 0; i < ACTIONS; i++) {
		if (argc > 1 && !strcmp(argv[1], actions[i].name))
			return actions[i].run(argc - 1, argv + 1);
		names[i] = actions[i].name;
	}
	if (argc > 1 && mt_help_asked(argv[1]))
		return help(mt_help_asked(argv[1]));
	if (argc < 2)
		return mt_fail(MT_INPUT, "data: build, inspect, list or encode? megatune data --help tells more");
	nearest = mt_options_nearest(argv[1], names, ACTIONS);
	return mt_fail(MT_INPUT, "data: no action '%s'; %s%s%s", argv[1],
		       nearest ? "did you mean '" : "there are build, inspect, list", nearest ? nearest : " and encode",
		       nearest ? "'?" : "");
}
