/* tokenizer_load: fills a tokenizer's tables from a vocabulary and merges, whatever file they come from; and GPT-2's two files. */
#define _GNU_SOURCE
#include "base/file.h"
#include "base/json.h"
#include "engine/tokenizer_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A vocabulary of this many is a broken file: it bounds the table by id. */
#define MOST_TOKENS (1 << 24)
#define MOST_BYTES  ((size_t)1 << 30)

char *mt_tokenizer_keep(struct mt_tokenizer *t, const char *text, size_t bytes)
{
	char *copy = malloc(bytes + 1);

	if (copy && t->pool_count == t->pool_room) {
		size_t room = t->pool_room ? 2 * t->pool_room : 1024;
		char **pool = realloc(t->pool, room * sizeof *pool);
		if (!pool) {
			free(copy);
			return NULL;
		}
		t->pool = pool;
		t->pool_room = room;
	}
	if (!copy)
		return NULL;
	memcpy(copy, text, bytes);
	copy[bytes] = '\0';
	t->pool[t->pool_count++] = copy;
	return copy;
}

/* --- the vocabulary --- */

static enum mt_status grow_tokens(struct mt_tokenizer *t, int64_t id)
{
	if (id < t->vocab)
		return MT_OK;
	struct mt_token_bytes *larger = realloc(t->tokens, (size_t)(id + 1) * sizeof *larger);
	if (!larger)
		return mt_fail(MT_NOMEM, "out of memory for %lld tokens", (long long)id + 1);
	memset(larger + t->vocab, 0, (size_t)(id + 1 - t->vocab) * sizeof *larger);
	t->tokens = larger;
	t->vocab = id + 1;
	return MT_OK;
}

enum mt_status mt_tokenizer_add_token(struct mt_tokenizer *t, const char *text, int32_t id, const char *path)
{
	size_t bytes = strlen(text);
	char *copy;

	if (id < 0 || id >= MOST_TOKENS)
		return mt_fail(MT_INPUT, "%s: token '%s' has number %d; numbers go from 0 to %d", path, text, id, MOST_TOKENS - 1);
	/* in steps, so that a vocabulary in order does not move the table for each token */
	if (id >= t->vocab) {
		copy = mt_tokenizer_keep(t, text, bytes);
		MT_TRY(grow_tokens(t, id));
	} else {
		copy = mt_tokenizer_keep(t, text, bytes);
	}
	if (!copy)
		return mt_fail(MT_NOMEM, "out of memory reading %s", path);
	t->tokens[id] = (struct mt_token_bytes){copy, (uint32_t)bytes, false};
	return mt_names_add(&t->names, copy, bytes, id);
}

enum mt_status mt_tokenizer_add_vocabulary(struct mt_tokenizer *t, const json_t *vocabulary, const char *path)
{
	const char *name;
	const json_t *value;
	json_int_t most = -1;

	if (!json_is_object(vocabulary) || json_object_size(vocabulary) == 0)
		return mt_fail(MT_INPUT, "%s: no vocabulary in it: a map of tokens to numbers is needed", path);
	json_object_foreach((json_t *)vocabulary, name, value)
	{
		if (!json_is_integer(value))
			return mt_fail(MT_INPUT, "%s: the number of token '%s' is none", path, name);
		if (json_integer_value(value) > most)
			most = json_integer_value(value);
	}
	if (most >= 0 && most < MOST_TOKENS)
		MT_TRY(grow_tokens(t, most));
	json_object_foreach((json_t *)vocabulary, name, value)
	{
		json_int_t id = json_integer_value(value);
		MT_TRY(mt_tokenizer_add_token(t, name, id < 0 || id >= MOST_TOKENS ? -1 : (int32_t)id, path));
	}
	return MT_OK;
}

enum mt_status mt_tokenizer_add_merge(struct mt_tokenizer *t, const char *left, size_t left_bytes, const char *right,
				      size_t right_bytes, uint32_t rank, const char *path)
{
	int32_t a = mt_names_find(&t->names, left, left_bytes), b = mt_names_find(&t->names, right, right_bytes), joined;
	char *both = mt_string("%.*s%.*s", (int)left_bytes, left, (int)right_bytes, right);

	if (!both)
		return mt_fail(MT_NOMEM, "out of memory reading %s", path);
	joined = mt_names_find(&t->names, both, left_bytes + right_bytes);
	free(both);
	if (a < 0 || b < 0 || joined < 0)
		return mt_fail(MT_INPUT, "%s: merge %u, '%.*s' and '%.*s', is not of tokens of the vocabulary", path, rank,
			       (int)left_bytes, left, (int)right_bytes, right);
	mt_merges_add(&t->merges, a, b, rank, joined);
	return MT_OK;
}

enum mt_status mt_tokenizer_add_special(struct mt_tokenizer *t, const struct mt_added *added, const char *path)
{
	struct mt_added *larger = realloc(t->added, (t->added_count + 1) * sizeof *larger), *own;

	if (!larger)
		return mt_fail(MT_NOMEM, "out of memory reading %s", path);
	t->added = larger;
	own = &t->added[t->added_count];
	*own = *added;
	own->text = strdup(added->text);
	own->matched = NULL;
	if (!own->text)
		return mt_fail(MT_NOMEM, "out of memory reading %s", path);
	t->added_count++;
	MT_TRY(mt_tokenizer_add_token(t, added->text, added->id, path));
	t->tokens[added->id].literal = true;
	return MT_OK;
}

/* --- what follows from the tables --- */

/* A token of a byte-level vocabulary as the bytes it stands for; false: it has a character that stands for none. */
static bool to_bytes(const struct mt_token_bytes *token, char *out, size_t *bytes)
{
	*bytes = 0;
	for (size_t at = 0, length; at < token->bytes; at += length) {
		int byte = mt_byte_of_character(mt_utf8_next(token->text + at, &length));
		if (byte < 0)
			return false;
		out[(*bytes)++] = (char)byte;
	}
	return true;
}

static enum mt_status make_words(struct mt_tokenizer *t, const char *path)
{
	for (int64_t id = 0; id < t->vocab; id++) {
		struct mt_token_bytes *token = &t->tokens[id];
		size_t bytes;

		if (!token->text || token->literal)
			continue;
		char *word = mt_tokenizer_keep(t, token->text, token->bytes);
		if (!word)
			return mt_fail(MT_NOMEM, "out of memory reading %s", path);
		if (!to_bytes(token, word, &bytes))
			continue;
		*token = (struct mt_token_bytes){word, (uint32_t)bytes, false};
		MT_TRY(mt_names_add(&t->words, word, bytes, (int32_t)id));
		if (bytes == 1)
			t->byte_ids[(unsigned char)word[0]] = (int32_t)id;
	}
	return MT_OK;
}

/* Fallback counts only when all 256 are there, as elsewhere. */
static void find_fallback(struct mt_tokenizer *t)
{
	char name[8];

	for (int byte = 0; byte < 256; byte++) {
		snprintf(name, sizeof name, "<0x%02X>", byte);
		t->byte_ids[byte] = mt_names_find(&t->names, name, strlen(name));
	}
}

static int longer_first(const void *a, const void *b)
{
	const struct mt_added *x = a, *y = b;
	return x->bytes != y->bytes ? (x->bytes < y->bytes ? 1 : -1) : (x->id > y->id) - (x->id < y->id);
}

static enum mt_status complete_added(struct mt_tokenizer *t, const char *path)
{
	struct mt_buffer normal = {0}, scratch = {0};
	enum mt_status st = MT_OK;

	for (size_t i = 0; i < t->added_count && st == MT_OK; i++) {
		struct mt_added *added = &t->added[i];
		const char *text = added->text;

		if (added->normalized) {
			MT_GOTO(out, mt_normalize(t, text, strlen(text), &normal, &scratch));
			text = normal.data;
		}
		added->matched = strdup(text);
		added->bytes = strlen(text);
		if (!added->matched)
			st = mt_fail(MT_NOMEM, "out of memory reading %s", path);
		else
			t->added_starts[(unsigned char)added->matched[0]] |= (uint8_t)(1 << added->normalized);
	}
out:
	free(normal.data);
	free(scratch.data);
	if (st == MT_OK && t->added_count)
		qsort(t->added, t->added_count, sizeof *t->added, longer_first);
	return st;
}

enum mt_status mt_tokenizer_complete(struct mt_tokenizer *t, const char *path)
{
	static const char *const ends[] = {
		"<|endoftext|>", "<|end_of_text|>",
		/* NOLINTNEXTLINE(bugprone-suspicious-missing-comma): an escape would swallow the letter behind it */
		"<\xef\xbd\x9c"
		"end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>",
		"</s>", "<|end|>", "<eos>"};

	for (size_t i = 0; i < sizeof ends / sizeof ends[0] && t->end < 0; i++)
		t->end = mt_tokenizer_find(t, ends[i]);
	if (t->byte_level)
		MT_TRY(make_words(t, path));
	else
		find_fallback(t);
	MT_TRY(complete_added(t, path));
	snprintf(t->text, sizeof t->text, "%s of %lld tokens", t->byte_level ? "byte-level BPE" : "BPE", (long long)t->vocab);
	return MT_OK;
}

/* --- GPT-2's vocab.json and merges.txt --- */

/* Lines "left right", the first merge first; a first line "#version" is none. */
static enum mt_status read_merges(struct mt_tokenizer *t, char *text, const char *path)
{
	char *save = NULL;
	uint32_t rank = 0;
	size_t lines = 1;

	for (const char *at = text; (at = strchr(at, '\n')); at++)
		lines++;
	MT_TRY(mt_merges_create(&t->merges, lines));
	for (char *line = strtok_r(text, "\r\n", &save); line; line = strtok_r(NULL, "\r\n", &save)) {
		const char *space = strchr(line, ' ');

		if (rank == 0 && !strncmp(line, "#version", 8))
			continue;
		if (!space || space == line || !space[1])
			return mt_fail(MT_INPUT, "%s: merge %u is not two tokens with a space between: '%.40s'", path, rank, line);
		MT_TRY(mt_tokenizer_add_merge(t, line, (size_t)(space - line), space + 1, strlen(space + 1), rank, path));
		rank++;
	}
	return rank ? MT_OK : mt_fail(MT_INPUT, "%s: no merges in it", path);
}

enum mt_status mt_tokenizer_load_gpt2(struct mt_tokenizer *t, const char *vocab, const char *merges)
{
	struct mt_added end = {.text = "<|endoftext|>"};
	json_t *vocabulary = NULL;
	char *text = NULL;
	enum mt_status st;

	MT_GOTO(out, mt_json_load(&vocabulary, vocab));
	MT_GOTO(out, mt_tokenizer_add_vocabulary(t, vocabulary, vocab));
	MT_GOTO(out, mt_file_read(merges, MOST_BYTES, &text, NULL));
	MT_GOTO(out, read_merges(t, text, merges));
	MT_GOTO(out, mt_tokenizer_split_gpt2(t, vocab));
	end.id = mt_tokenizer_find(t, end.text);
	if (end.id >= 0)
		MT_GOTO(out, mt_tokenizer_add_special(t, &end, vocab));
	st = mt_tokenizer_complete(t, vocab);
out:
	json_decref(vocabulary);
	free(text);
	return st;
}
