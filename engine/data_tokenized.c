/* data_tokenized: text files through a BPE tokenizer, at the opening, into memory: for corpora of up to some hundred MB. Larger
 * ones are built once (`megatune data build`) and read from the file by every run. */
#include "base/file.h"
#include "engine/data_build.h"
#include "engine/data_source.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_TOKENS ((int64_t)256 << 20)

struct tokenized {
	struct mt_tokens tokens;
	int64_t *firsts; /* owned: the first token of each document */
	int64_t count, room, vocab;
	const char *paths, *tokenizer;
};

static enum mt_status take(void *context, const int32_t *tokens, int64_t count)
{
	struct tokenized *t = context;

	if (t->tokens.count + count > MOST_TOKENS)
		return mt_fail(MT_INPUT,
			       "data path %s has more than %lld tokens, too many to tokenize at every start: write them once, with "
			       "`megatune data build PREFIX %s --tokenizer %s`, and train on PREFIX",
			       t->paths, (long long)MOST_TOKENS, t->paths, t->tokenizer);
	if (t->count == t->room) {
		int64_t room = t->room ? 2 * t->room : 1024;
		int64_t *firsts = realloc(t->firsts, (size_t)room * sizeof *firsts);
		if (!firsts)
			return mt_fail(MT_NOMEM, "out of memory for %lld documents", (long long)room);
		t->firsts = firsts;
		t->room = room;
	}
	t->firsts[t->count++] = t->tokens.count;
	for (int64_t i = 0; i < count; i++) {
		if (tokens[i] >= t->vocab)
			return mt_fail(MT_INPUT,
				       "tokenizer %s gives token %d, the model's vocab is %lld: set vocab to that of the "
				       "tokenizer",
				       t->tokenizer, tokens[i], (long long)t->vocab);
		MT_TRY(mt_tokens_append(&t->tokens, tokens[i]));
	}
	return MT_OK;
}

static enum mt_status read_tokenized(const struct mt_source *source, int64_t first, int64_t count, int32_t *tokens)
{
	const struct tokenized *t = source->state;

	memcpy(tokens, t->tokens.ids + first, (size_t)count * sizeof *tokens);
	return MT_OK;
}

static enum mt_status find_tokenized(const struct mt_source *source, int64_t token, int64_t *first, int64_t *end)
{
	const struct tokenized *t = source->state;
	int64_t low = 0, high = t->count;

	while (high - low > 1) {
		int64_t middle = low + (high - low) / 2;
		if (t->firsts[middle] <= token)
			low = middle;
		else
			high = middle;
	}
	*first = t->firsts[low];
	*end = low + 1 < t->count ? t->firsts[low + 1] : t->tokens.count;
	return MT_OK;
}

static void close_tokenized(struct mt_source *source)
{
	struct tokenized *t = source->state;

	free(t->tokens.ids);
	free(t->firsts);
	free(t);
}

static const struct mt_source_kind tokenized_kind = {read_tokenized, find_tokenized, close_tokenized};

enum mt_status mt_source_open_tokenized(struct mt_source *source, const char *paths, const char *tokenizer)
{
	struct tokenized *t = calloc(1, sizeof *t);
	struct mt_build_options options = {.tokenizer = (char *)tokenizer, .end = true};
	struct mt_build_summary summary;
	enum mt_status st;

	if (!t)
		return mt_fail(MT_NOMEM, "out of memory opening %s", paths);
	t->vocab = source->vocab;
	t->paths = paths;
	t->tokenizer = tokenizer;
	source->state = t;
	st = mt_data_tokenize(&summary, paths, &options, take, t);
	if (st != MT_OK) {
		close_tokenized(source);
		source->state = NULL;
		return st;
	}
	source->kind = &tokenized_kind;
	source->tokens = t->tokens.count;
	snprintf(source->text, sizeof source->text, "%lld tokens in %lld documents, %s", (long long)t->tokens.count,
		 (long long)t->count, summary.tokenizer);
	return MT_OK;
}
