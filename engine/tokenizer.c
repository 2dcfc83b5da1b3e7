/* tokenizer: finds the files of a tokenizer, takes it down, and turns tokens back into text. */
#include "base/file.h"
#include "engine/tokenizer_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define BYTE_END   256
#define BYTE_VOCAB 257

static enum mt_status open_gpt2(struct mt_tokenizer *t, const char *folder, const char *vocab, const char *merges)
{
	char *a = mt_string("%s%s", folder, vocab), *b = mt_string("%s%s", folder, merges);
	enum mt_status st = a && b ? mt_tokenizer_load_gpt2(t, a, b) : mt_fail(MT_NOMEM, "out of memory opening %s", folder);

	free(a);
	free(b);
	return st;
}

static bool has(const char *folder, const char *name)
{
	char *path = mt_string("%s/%s", folder, name);
	bool there = path && mt_file_exists(path);

	free(path);
	return there;
}

static enum mt_status open_folder(struct mt_tokenizer *t, const char *folder)
{
	char *path;
	enum mt_status st;

	if (!has(folder, "tokenizer.json")) {
		if (has(folder, "vocab.json") && has(folder, "merges.txt"))
			return open_gpt2(t, folder, "/vocab.json", "/merges.txt");
		if (has(folder, "encoder.json") && has(folder, "vocab.bpe"))
			return open_gpt2(t, folder, "/encoder.json", "/vocab.bpe");
		return mt_fail(MT_INPUT, "tokenizer %s: neither tokenizer.json nor vocab.json with merges.txt is in that folder",
			       folder);
	}
	path = mt_string("%s/tokenizer.json", folder);
	st = path ? mt_tokenizer_load_json(t, path) : mt_fail(MT_NOMEM, "out of memory opening %s", folder);
	free(path);
	return st;
}

/* vocab.json is a map of its own; the merges lie beside it. */
static enum mt_status open_path(struct mt_tokenizer *t, const char *path)
{
	const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
	struct stat info;

	if (stat(path, &info) != 0)
		return mt_fail(
			MT_INPUT,
			"no tokenizer %s: give 'byte', a tokenizer.json, a vocab.json with merges.txt beside it, or their folder",
			path);
	if (S_ISDIR(info.st_mode))
		return open_folder(t, path);
	if (!strcmp(name, "vocab.json") || !strcmp(name, "encoder.json")) {
		char *folder = mt_string("%.*s", (int)(name - path), path);
		enum mt_status st = folder ? open_gpt2(t, folder, name, !strcmp(name, "vocab.json") ? "merges.txt" : "vocab.bpe")
					   : mt_fail(MT_NOMEM, "out of memory opening %s", path);
		free(folder);
		return st;
	}
	return mt_tokenizer_load_json(t, path);
}

enum mt_status mt_tokenizer_open(struct mt_tokenizer **tokenizer, const char *what)
{
	struct mt_tokenizer *t = calloc(1, sizeof *t);
	enum mt_status st = MT_OK;

	*tokenizer = NULL;
	if (!t)
		return mt_fail(MT_NOMEM, "out of memory opening a tokenizer");
	t->unknown = t->end = -1;
	for (int i = 0; i < 256; i++)
		t->byte_ids[i] = -1;
	if (!what || !strcmp(what, "byte")) {
		t->plain = true;
		t->vocab = BYTE_VOCAB;
		t->end = BYTE_END;
		snprintf(t->text, sizeof t->text, "bytes, %d tokens", BYTE_VOCAB);
	} else {
		st = open_path(t, what);
	}
	if (st != MT_OK) {
		mt_tokenizer_close(t);
		return st;
	}
	*tokenizer = t;
	return MT_OK;
}

void mt_tokenizer_close(struct mt_tokenizer *t)
{
	if (!t)
		return;
	for (int i = 0; i < t->normalize_count; i++) {
		free(t->normalize[i].from);
		free(t->normalize[i].to);
	}
	for (int i = 0; i < t->split_count; i++) {
		mt_pattern_free(t->split[i].code);
		free(t->split[i].mark);
	}
	for (size_t i = 0; i < t->added_count; i++) {
		free(t->added[i].text);
		free(t->added[i].matched);
	}
	for (size_t i = 0; i < t->pool_count; i++)
		free(t->pool[i]);
	free(t->pool);
	free(t->added);
	free(t->names.slots);
	free(t->words.slots);
	free(t->merges.slots);
	free(t->tokens);
	free(t);
}

int64_t mt_tokenizer_vocab(const struct mt_tokenizer *tokenizer)
{
	return tokenizer->vocab;
}

const char *mt_tokenizer_text(const struct mt_tokenizer *tokenizer)
{
	return tokenizer->text;
}

int32_t mt_tokenizer_end(const struct mt_tokenizer *tokenizer)
{
	return tokenizer->end;
}

int32_t mt_tokenizer_find(const struct mt_tokenizer *tokenizer, const char *name)
{
	return mt_names_find(&tokenizer->names, name, strlen(name));
}

enum mt_status mt_tokens_append(struct mt_tokens *tokens, int32_t id)
{
	if (tokens->count == tokens->room) {
		int64_t room = tokens->room ? 2 * tokens->room : 256;
		int32_t *larger = realloc(tokens->ids, (size_t)room * sizeof *larger);
		if (!larger)
			return mt_fail(MT_NOMEM, "out of memory for %lld tokens", (long long)room);
		tokens->ids = larger;
		tokens->room = room;
	}
	tokens->ids[tokens->count++] = id;
	return MT_OK;
}

/* --- back to text --- */

/* "<0xNN>" of a vocabulary with byte fallback. */
static int fallback_byte(const struct mt_tokenizer *t, const struct mt_token_bytes *token)
{
	char hex[3] = {0};

	if (t->byte_level || token->bytes != 6 || memcmp(token->text, "<0x", 3) != 0)
		return -1;
	memcpy(hex, token->text + 3, 2);
	return (int)strtol(hex, NULL, 16);
}

static enum mt_status append_characters(struct mt_buffer *out, const struct mt_token_bytes *token)
{
	static const char mark[] = "\xe2\x96\x81"; /* a space, in vocabularies of SentencePiece */

	for (const char *at = token->text, *end = at + token->bytes; at < end;) {
		bool space = end - at >= 3 && memcmp(at, mark, 3) == 0;
		MT_TRY(mt_buffer_append(out, space ? " " : at, 1));
		at += space ? 3 : 1;
	}
	return MT_OK;
}

static enum mt_status append_token(const struct mt_tokenizer *t, int32_t id, struct mt_buffer *out)
{
	char byte = (char)id;

	if (t->plain)
		return id >= 0 && id < BYTE_END ? mt_buffer_append(out, &byte, 1) : MT_OK;
	if (id < 0 || id >= t->vocab || !t->tokens[id].text)
		return MT_OK;
	const struct mt_token_bytes *token = &t->tokens[id];
	int value = fallback_byte(t, token);
	byte = (char)value;
	if (value >= 0 && t->byte_fallback)
		return mt_buffer_append(out, &byte, 1);
	if (t->byte_level || token->literal)
		return mt_buffer_append(out, token->text, token->bytes);
	return append_characters(out, token);
}

enum mt_status mt_tokenizer_decode(const struct mt_tokenizer *tokenizer, const int32_t *ids, int64_t count, char **text,
				   size_t *bytes)
{
	struct mt_buffer out = {0};
	enum mt_status st = mt_buffer_append(&out, "", 0);

	for (int64_t i = 0; i < count && st == MT_OK; i++)
		st = append_token(tokenizer, ids[i], &out);
	if (st != MT_OK)
		free(out.data);
	*text = st == MT_OK ? out.data : NULL;
	if (bytes)
		*bytes = st == MT_OK ? out.bytes : 0;
	return st;
}
