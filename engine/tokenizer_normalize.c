/* tokenizer_normalize: what a tokenizer does to text before it cuts it.
 *
 * NFC is utf8proc's. Text below U+0300 is its own NFC (no character there combines or decomposes anew), so most text
 * needs no library. */
#define _GNU_SOURCE
#include "engine/tokenizer_parts.h"

#include <stdlib.h>
#include <string.h>

#ifdef MT_HAVE_UTF8PROC
#include <utf8proc.h>
#endif

enum mt_status mt_buffer_append(struct mt_buffer *buffer, const char *data, size_t bytes)
{
	if (buffer->bytes + bytes + 1 > buffer->room) {
		size_t room = 2 * (buffer->bytes + bytes) + 64;
		char *larger = realloc(buffer->data, room);
		if (!larger)
			return mt_fail(MT_NOMEM, "out of memory for %zu bytes of text", room);
		buffer->data = larger;
		buffer->room = room;
	}
	if (bytes)
		memcpy(buffer->data + buffer->bytes, data, bytes);
	buffer->bytes += bytes;
	buffer->data[buffer->bytes] = '\0';
	return MT_OK;
}

bool mt_normalize_can_nfc(void)
{
#ifdef MT_HAVE_UTF8PROC
	return true;
#else
	return false;
#endif
}

/* U+0300 is CC 80 in UTF-8, and order is kept. */
static bool is_low(const char *text, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++) {
		if ((unsigned char)text[i] >= 0xcc)
			return false;
	}
	return true;
}

static enum mt_status nfc(const char *text, size_t bytes, struct mt_buffer *out)
{
	if (is_low(text, bytes))
		return mt_buffer_append(out, text, bytes);
#ifdef MT_HAVE_UTF8PROC
	utf8proc_uint8_t *composed = NULL;
	utf8proc_ssize_t length = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)bytes, &composed,
					       UTF8PROC_STABLE | UTF8PROC_COMPOSE);
	if (length < 0)
		return mt_fail(length == UTF8PROC_ERROR_NOMEM ? MT_NOMEM : MT_FAILED, "normalizing %zu bytes of text: %s", bytes,
			       utf8proc_errmsg(length));
	enum mt_status st = mt_buffer_append(out, (const char *)composed, (size_t)length);
	free(composed);
	return st;
#else
	return mt_fail(
		MT_UNAVAILABLE,
		"the tokenizer normalizes text to NFC and this text is not ASCII or Latin: install libutf8proc-dev (make deps) "
		"and build again");
#endif
}

static enum mt_status replace(const struct mt_normalize_step *step, const char *text, size_t bytes, struct mt_buffer *out)
{
	size_t from = strlen(step->from), to = strlen(step->to);

	for (const char *at = text, *end = text + bytes;;) {
		const char *next = memmem(at, (size_t)(end - at), step->from, from);
		MT_TRY(mt_buffer_append(out, at, (size_t)((next ? next : end) - at)));
		if (!next)
			return MT_OK;
		MT_TRY(mt_buffer_append(out, step->to, to));
		at = next + from;
	}
}

static enum mt_status apply(const struct mt_normalize_step *step, const char *text, size_t bytes, struct mt_buffer *out)
{
	out->bytes = 0;
	switch (step->kind) {
	case MT_NORMALIZE_NFC:
		return nfc(text, bytes, out);
	case MT_NORMALIZE_PREPEND:
		if (bytes)
			MT_TRY(mt_buffer_append(out, step->to, strlen(step->to)));
		return mt_buffer_append(out, text, bytes);
	case MT_NORMALIZE_REPLACE:
		return replace(step, text, bytes, out);
	}
	return mt_fail(MT_FAILED, "unknown step %d of a normalizer", (int)step->kind);
}

enum mt_status mt_normalize(const struct mt_tokenizer *t, const char *text, size_t bytes, struct mt_buffer *out,
			    struct mt_buffer *scratch)
{
	out->bytes = 0;
	MT_TRY(mt_buffer_append(out, text, bytes));
	for (int i = 0; i < t->normalize_count; i++) {
		struct mt_buffer done;

		MT_TRY(apply(&t->normalize[i], out->data, out->bytes, scratch));
		done = *scratch;
		*scratch = *out;
		*out = done;
	}
	return MT_OK;
}
