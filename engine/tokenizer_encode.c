/* tokenizer_encode: text to tokens.
 *
 * A text is mended to valid UTF-8, cut at added tokens, normalized, cut by each splitter in turn, and what is left are words.
 * A word's symbols form a linked list; possible merges wait in a heap by rank, then by place; merging the first one gives
 * the symbol at most two new neighbours: n log n for n symbols, also where a whole document is one word (SentencePiece-like
 * vocabularies). Most words of a text are ones seen before: a table by hash keeps the tokens of short ones. */
#define _GNU_SOURCE
#include "engine/tokenizer_parts.h"

#include <stdlib.h>
#include <string.h>

enum { CACHE_SLOTS = 1 << 15, CACHED_BYTES = 31, CACHED_TOKENS = 8 };

struct cached {
	uint64_t hash;
	uint8_t bytes, count; /* count 0: free */
	char word[CACHED_BYTES];
	int32_t ids[CACHED_TOKENS];
};

struct symbol {
	int32_t id; /* -1: merged away */
	int32_t before, after;
};

struct candidate {
	uint64_t order; /* rank << 32 | place of the left symbol */
	int32_t id;     /* what the merge gives */
};

struct mt_encoder {
	const struct mt_tokenizer *t;
	struct mt_matcher *matcher;
	struct cached *cache;   /* owned */
	struct symbol *symbols; /* owned */
	struct candidate *heap; /* owned */
	size_t symbol_count, symbol_room, heap_count, heap_room;
	struct mt_buffer valid, normal, scratch, step[MT_TOKENIZER_STEPS];
	struct mt_tokens *out;
	int64_t replaced;
};

enum mt_status mt_encoder_create(struct mt_encoder **encoder, const struct mt_tokenizer *tokenizer)
{
	struct mt_encoder *e = calloc(1, sizeof *e);
	enum mt_status st = MT_OK;

	*encoder = NULL;
	if (!e)
		return mt_fail(MT_NOMEM, "out of memory for an encoder");
	e->t = tokenizer;
	e->cache = tokenizer->plain ? NULL : calloc(CACHE_SLOTS, sizeof *e->cache);
	if (!e->cache && !tokenizer->plain)
		st = mt_fail(MT_NOMEM, "out of memory for an encoder");
	if (st == MT_OK)
		st = mt_matcher_create(&e->matcher);
	if (st != MT_OK) {
		mt_encoder_destroy(e);
		return st;
	}
	*encoder = e;
	return MT_OK;
}

void mt_encoder_destroy(struct mt_encoder *encoder)
{
	if (!encoder)
		return;
	mt_matcher_destroy(encoder->matcher);
	free(encoder->cache);
	free(encoder->symbols);
	free(encoder->heap);
	free(encoder->valid.data);
	free(encoder->normal.data);
	free(encoder->scratch.data);
	for (int i = 0; i < MT_TOKENIZER_STEPS; i++)
		free(encoder->step[i].data);
	free(encoder);
}

int64_t mt_encoder_replaced(const struct mt_encoder *encoder)
{
	return encoder->replaced;
}

/* --- merges --- */

/* The heap has room: a word of n symbols never has more than 3n candidates (n - 1 at first, two more a merge). */
static void push(struct mt_encoder *e, int32_t left)
{
	int32_t right = e->symbols[left].after;
	const struct mt_merge *merge = right < 0 ? NULL : mt_merges_find(&e->t->merges, e->symbols[left].id, e->symbols[right].id);
	size_t at = e->heap_count;

	if (!merge)
		return;
	e->heap_count++;
	struct candidate new = {(uint64_t)merge->rank << 32 | (uint32_t)left, merge->id};
	for (; at > 0 && e->heap[(at - 1) / 2].order > new.order; at = (at - 1) / 2)
		e->heap[at] = e->heap[(at - 1) / 2];
	e->heap[at] = new;
}

static struct candidate pop(struct mt_encoder *e)
{
	struct candidate first = e->heap[0], last = e->heap[--e->heap_count];
	size_t at = 0, child;

	for (; (child = 2 * at + 1) < e->heap_count; at = child) {
		if (child + 1 < e->heap_count && e->heap[child + 1].order < e->heap[child].order)
			child++;
		if (e->heap[child].order >= last.order)
			break;
		e->heap[at] = e->heap[child];
	}
	e->heap[at] = last;
	return first;
}

static void merge_all(struct mt_encoder *e)
{
	e->heap_count = 0;
	for (size_t i = 0; i + 1 < e->symbol_count; i++)
		push(e, (int32_t)i);
	while (e->heap_count > 0) {
		struct candidate top = pop(e);
		int32_t at = (int32_t)(uint32_t)top.order;
		struct symbol *left = &e->symbols[at];

		if (left->id < 0 || left->after < 0)
			continue;
		struct symbol *right = &e->symbols[left->after];
		const struct mt_merge *merge = mt_merges_find(&e->t->merges, left->id, right->id);
		if (!merge || merge->id != top.id)
			continue; /* a neighbour changed since */
		left->id = top.id;
		left->after = right->after;
		right->id = -1;
		if (left->after >= 0)
			e->symbols[left->after].before = at;
		if (left->before >= 0)
			push(e, left->before);
		push(e, at);
	}
}

/* --- symbols of a word --- */

static enum mt_status reserve(struct mt_encoder *e, size_t symbols)
{
	if (symbols > INT32_MAX / 4)
		return mt_fail(MT_INPUT,
			       "a text of %zu bytes without a break is too long for this tokenizer: cut it into documents",
			       symbols);
	if (symbols > e->symbol_room) {
		size_t room = symbols + symbols / 2 + 64;
		struct symbol *more = realloc(e->symbols, room * sizeof *more);
		if (more)
			e->symbols = more;
		struct candidate *heap = more ? realloc(e->heap, 3 * room * sizeof *heap) : NULL;
		if (heap)
			e->heap = heap;
		if (!more || !heap)
			return mt_fail(MT_NOMEM, "out of memory for a word of %zu bytes", symbols);
		e->symbol_room = room;
	}
	return MT_OK;
}

static void add_symbol(struct mt_encoder *e, int32_t id)
{
	int32_t at = (int32_t)e->symbol_count++;

	e->symbols[at] = (struct symbol){id, at - 1, -1};
	if (at > 0)
		e->symbols[at - 1].after = at;
}

static bool falls_back(const struct mt_tokenizer *t, const char *text, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++) {
		if (t->byte_ids[(unsigned char)text[i]] < 0)
			return false;
	}
	return t->byte_fallback;
}

/* One character (or byte) that has no token of its own. */
static enum mt_status add_unknown(struct mt_encoder *e, const char *text, size_t bytes, bool *unknown_before)
{
	const struct mt_tokenizer *t = e->t;

	if (!t->byte_level && falls_back(t, text, bytes)) {
		for (size_t i = 0; i < bytes; i++)
			add_symbol(e, t->byte_ids[(unsigned char)text[i]]);
		*unknown_before = false;
		return MT_OK;
	}
	if (t->unknown < 0)
		return mt_fail(MT_INPUT, "the tokenizer has no token for '%.*s' (byte 0x%02x) and none for what is unknown",
			       (int)bytes, text, (unsigned char)text[0]);
	if (!*unknown_before || !t->fuse_unknown)
		add_symbol(e, t->unknown);
	*unknown_before = true;
	return MT_OK;
}

static enum mt_status make_symbols(struct mt_encoder *e, const char *word, size_t bytes)
{
	const struct mt_tokenizer *t = e->t;
	bool unknown_before = false;

	MT_TRY(reserve(e, bytes));
	e->symbol_count = 0;
	for (size_t at = 0, length = 1; at < bytes; at += length) {
		if (!t->byte_level)
			(void)mt_utf8_next(word + at, &length);
		int32_t id = t->byte_level ? t->byte_ids[(unsigned char)word[at]] : mt_names_find(&t->names, word + at, length);
		if (id >= 0) {
			add_symbol(e, id);
			unknown_before = false;
		} else {
			MT_TRY(add_unknown(e, word + at, length, &unknown_before));
		}
	}
	return MT_OK;
}

/* --- words --- */

static enum mt_status append_all(struct mt_tokens *out, const int32_t *ids, size_t count)
{
	for (size_t i = 0; i < count; i++)
		MT_TRY(mt_tokens_append(out, ids[i]));
	return MT_OK;
}

static enum mt_status encode_new_word(struct mt_encoder *e, const char *word, size_t bytes)
{
	const struct mt_tokenizer *t = e->t;
	int32_t whole = -1;

	if (t->whole_words)
		whole = mt_names_find(t->byte_level ? &t->words : &t->names, word, bytes);
	if (whole >= 0)
		return mt_tokens_append(e->out, whole);
	MT_TRY(make_symbols(e, word, bytes));
	merge_all(e);
	for (size_t i = 0; i < e->symbol_count; i++) {
		if (e->symbols[i].id >= 0)
			MT_TRY(mt_tokens_append(e->out, e->symbols[i].id));
	}
	return MT_OK;
}

static enum mt_status encode_word(struct mt_encoder *e, const char *word, size_t bytes)
{
	int64_t first = e->out->count, count;

	if (bytes == 0)
		return MT_OK;
	if (bytes > CACHED_BYTES)
		return encode_new_word(e, word, bytes);
	uint64_t hash = mt_names_hash(word, bytes);
	struct cached *slot = &e->cache[hash & (CACHE_SLOTS - 1)];
	if (slot->count && slot->hash == hash && slot->bytes == bytes && memcmp(slot->word, word, bytes) == 0)
		return append_all(e->out, slot->ids, slot->count);
	MT_TRY(encode_new_word(e, word, bytes));
	count = e->out->count - first;
	if (count > 0 && count <= CACHED_TOKENS) {
		slot->hash = hash;
		slot->bytes = (uint8_t)bytes;
		slot->count = (uint8_t)count;
		memcpy(slot->word, word, bytes);
		memcpy(slot->ids, e->out->ids + first, (size_t)count * sizeof *slot->ids);
	}
	return MT_OK;
}

/* --- splitters --- */

static enum mt_status split_from(struct mt_encoder *e, int step, const char *text, size_t bytes, bool first);

static enum mt_status split_pattern(struct mt_encoder *e, int index, const char *text, size_t bytes, bool first)
{
	const struct mt_split_step *step = &e->t->split[index];
	size_t at = 0, start, end;
	bool found;

	while (at < bytes) {
		MT_TRY(mt_matcher_next(e->matcher, step->code, text, bytes, at, &start, &end, &found));
		if (!found)
			start = end = bytes;
		if (start > at && step->keeps_gaps)
			MT_TRY(split_from(e, index + 1, text + at, start - at, first && at == 0));
		if (end > start && step->keeps_matches)
			MT_TRY(split_from(e, index + 1, text + start, end - start, first && start == 0));
		at = end;
	}
	return MT_OK;
}

static enum mt_status split_space(struct mt_encoder *e, int index, const char *text, size_t bytes, bool first)
{
	struct mt_buffer *out = &e->step[index];

	if (text[0] == ' ')
		return split_from(e, index + 1, text, bytes, first);
	out->bytes = 0;
	MT_TRY(mt_buffer_append(out, " ", 1));
	MT_TRY(mt_buffer_append(out, text, bytes));
	return split_from(e, index + 1, out->data, out->bytes, first);
}

static enum mt_status split_meta(struct mt_encoder *e, int index, const char *text, size_t bytes, bool first)
{
	const struct mt_split_step *step = &e->t->split[index];
	struct mt_buffer *out = &e->step[index];
	size_t mark = strlen(step->mark);
	bool prepends = step->prepend == MT_PREPEND_ALWAYS || (step->prepend == MT_PREPEND_FIRST && first);

	out->bytes = 0;
	if (prepends && text[0] != ' ' && (bytes < mark || memcmp(text, step->mark, mark) != 0))
		MT_TRY(mt_buffer_append(out, step->mark, mark));
	for (size_t i = 0; i < bytes; i++)
		MT_TRY(mt_buffer_append(out, text[i] == ' ' ? step->mark : text + i, text[i] == ' ' ? mark : 1));
	if (!step->cuts)
		return split_from(e, index + 1, out->data, out->bytes, first);
	/* a piece begins at each mark; text may hold a NUL, so no strstr */
	for (size_t at = 0, next; at < out->bytes; at = next) {
		const char *found = memmem(out->data + at + 1, out->bytes - at - 1, step->mark, mark);
		next = found ? (size_t)(found - out->data) : out->bytes;
		MT_TRY(split_from(e, index + 1, out->data + at, next - at, first && at == 0));
	}
	return MT_OK;
}

static enum mt_status split_from(struct mt_encoder *e, int step, const char *text, size_t bytes, bool first)
{
	if (bytes == 0)
		return MT_OK;
	if (step == e->t->split_count)
		return encode_word(e, text, bytes);
	switch (e->t->split[step].kind) {
	case MT_SPLIT_PATTERN:
		return split_pattern(e, step, text, bytes, first);
	case MT_SPLIT_SPACE:
		return split_space(e, step, text, bytes, first);
	case MT_SPLIT_META:
		return split_meta(e, step, text, bytes, first);
	}
	return mt_fail(MT_FAILED, "unknown step %d of a pre-tokenizer", step);
}

/* --- added tokens --- */

/* The longest added token of this kind that stands at `text`. */
static const struct mt_added *added_at(const struct mt_tokenizer *t, const char *text, size_t bytes, bool normalized)
{
	if (!(t->added_starts[(unsigned char)text[0]] & 1 << normalized))
		return NULL;
	for (size_t i = 0; i < t->added_count; i++) {
		const struct mt_added *a = &t->added[i];
		if (a->normalized == normalized && a->bytes > 0 && a->bytes <= bytes && a->matched[0] == text[0] &&
		    memcmp(a->matched, text, a->bytes) == 0)
			return a;
	}
	return NULL;
}

static size_t spaces_before(const char *text, size_t from, size_t at)
{
	while (at > from) {
		size_t start = at - 1, length;
		while (start > from && ((unsigned char)text[start] & 0xc0) == 0x80)
			start--;
		if (!mt_is_space(mt_utf8_next(text + start, &length)))
			break;
		at = start;
	}
	return at;
}

static size_t spaces_after(const char *text, size_t at, size_t bytes)
{
	size_t length;

	for (; at < bytes && mt_is_space(mt_utf8_next(text + at, &length)); at += length)
		;
	return at;
}

static enum mt_status encode_piece(struct mt_encoder *e, const char *text, size_t bytes, bool first, bool normalized);

/* Cuts at the added tokens that are looked for before (normalized false) or after the normalizer. */
static enum mt_status cut_added(struct mt_encoder *e, const char *text, size_t bytes, bool first, bool normalized)
{
	size_t from = 0, at = 0;

	while (at < bytes) {
		const struct mt_added *added = added_at(e->t, text + at, bytes - at, normalized);
		if (!added) {
			at++;
			continue;
		}
		size_t start = added->lstrip ? spaces_before(text, from, at) : at;
		MT_TRY(encode_piece(e, text + from, start - from, first && from == 0, normalized));
		MT_TRY(mt_tokens_append(e->out, added->id));
		at += added->bytes;
		from = at = added->rstrip ? spaces_after(text, at, bytes) : at;
	}
	return encode_piece(e, text + from, bytes - from, first && from == 0, normalized);
}

static enum mt_status encode_piece(struct mt_encoder *e, const char *text, size_t bytes, bool first, bool normalized)
{
	if (bytes == 0)
		return MT_OK;
	if (normalized)
		return split_from(e, 0, text, bytes, first);
	if (e->t->normalize_count == 0)
		return cut_added(e, text, bytes, first, true);
	MT_TRY(mt_normalize(e->t, text, bytes, &e->normal, &e->scratch));
	return cut_added(e, e->normal.data, e->normal.bytes, first, true);
}

/* --- the whole text --- */

/* `text` itself when it is valid UTF-8, else a copy with U+FFFD for every byte that is not. */
static enum mt_status mend(struct mt_encoder *e, const char **text, size_t *bytes)
{
	size_t from = 0, at = 0;

	e->valid.bytes = 0;
	while (at < *bytes) {
		size_t length = mt_utf8_valid(*text + at, *bytes - at);
		if (length == 0) {
			MT_TRY(mt_buffer_append(&e->valid, *text + from, at - from));
			MT_TRY(mt_buffer_append(&e->valid, "\xef\xbf\xbd", 3));
			e->replaced++;
			from = at + 1;
		}
		at += length ? length : 1;
	}
	if (from > 0) {
		MT_TRY(mt_buffer_append(&e->valid, *text + from, at - from));
		*text = e->valid.data;
		*bytes = e->valid.bytes;
	}
	return MT_OK;
}

enum mt_status mt_encoder_encode(struct mt_encoder *encoder, const char *text, size_t bytes, struct mt_tokens *tokens)
{
	struct mt_encoder *e = encoder;

	if (e->t->plain) {
		for (size_t i = 0; i < bytes; i++)
			MT_TRY(mt_tokens_append(tokens, (unsigned char)text[i]));
		return MT_OK;
	}
	e->out = tokens;
	MT_TRY(mend(e, &text, &bytes));
	return cut_added(e, text, bytes, true, false);
}
