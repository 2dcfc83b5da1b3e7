/* indexed_write: writes Megatron's indexed data set, a sequence a document.
 *
 * Tokens go to a temporary beside the .bin as they come; lengths are kept. The .idx, which makes it a set, comes last, and an
 * old one goes before the .bin changes: at no moment do a .bin and an .idx of different sets stand together. */
#include "base/file.h"
#include "engine/data.h"
#include "engine/indexed.h"

#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Megatron's own limit below which it stores 16 bits (DType.optimal_dtype). */
#define U16_VOCAB  65500
#define PART_BYTES 16384

struct mt_indexed_writer {
	char *bin, *idx; /* owned */
	struct mt_file file;
	int32_t *lengths; /* owned */
	int64_t count, room, vocab;
	int token_bytes;
};

enum mt_status mt_indexed_writer_create(struct mt_indexed_writer **writer, const char *prefix, int64_t vocab)
{
	struct mt_indexed_writer *w = calloc(1, sizeof *w);
	enum mt_status st;

	*writer = NULL;
	if (w) {
		w->vocab = vocab;
		w->token_bytes = vocab < U16_VOCAB ? 2 : 4;
		w->bin = mt_string("%s.bin", prefix);
		w->idx = mt_string("%s.idx", prefix);
	}
	st = w && w->bin && w->idx ? mt_file_create(&w->file, w->bin) : mt_fail(MT_NOMEM, "out of memory writing %s", prefix);
	if (st != MT_OK) {
		mt_indexed_writer_destroy(w);
		return st;
	}
	*writer = w;
	return MT_OK;
}

void mt_indexed_writer_destroy(struct mt_indexed_writer *w)
{
	if (!w)
		return;
	mt_file_abort(&w->file);
	free(w->bin);
	free(w->idx);
	free(w->lengths);
	free(w);
}

static enum mt_status check(const struct mt_indexed_writer *w, const int32_t *tokens, int64_t count)
{
	if (count < 0 || count > INT32_MAX)
		return mt_fail(MT_INPUT, "document %lld has %lld tokens; the format holds up to %d", (long long)w->count,
			       (long long)count, INT32_MAX);
	for (int64_t k = 0; k < count; k++) {
		if (tokens[k] < 0 || tokens[k] >= w->vocab)
			return mt_fail(MT_INPUT, "document %lld: token %lld is %d, vocab is %lld", (long long)w->count,
				       (long long)k, tokens[k], (long long)w->vocab);
	}
	return MT_OK;
}

static enum mt_status keep_length(struct mt_indexed_writer *w, int64_t count)
{
	if (w->count == w->room) {
		int64_t room = w->room ? 2 * w->room : 1024;
		int32_t *lengths = realloc(w->lengths, (size_t)room * sizeof *lengths);
		if (!lengths)
			return mt_fail(MT_NOMEM, "out of memory for %lld documents", (long long)room);
		w->lengths = lengths;
		w->room = room;
	}
	w->lengths[w->count++] = (int32_t)count;
	return MT_OK;
}

/* A stream keeps its error; mt_file_commit finds it. */
static void write_tokens(struct mt_indexed_writer *w, const int32_t *tokens, int64_t count)
{
	union {
		uint16_t half[PART_BYTES / 2];
		uint32_t word[PART_BYTES / 4];
	} part;
	int64_t most = PART_BYTES / w->token_bytes;

	for (int64_t done = 0; done < count; done += most) {
		int64_t n = count - done < most ? count - done : most;
		for (int64_t i = 0; i < n; i++) {
			if (w->token_bytes == 2)
				part.half[i] = htole16((uint16_t)tokens[done + i]);
			else
				part.word[i] = htole32((uint32_t)tokens[done + i]);
		}
		fwrite(&part, (size_t)w->token_bytes, (size_t)n, w->file.stream);
	}
}

enum mt_status mt_indexed_writer_add(struct mt_indexed_writer *w, const int32_t *tokens, int64_t count)
{
	MT_TRY(check(w, tokens, count));
	MT_TRY(keep_length(w, count));
	write_tokens(w, tokens, count);
	if (ferror(w->file.stream))
		return mt_fail(MT_IO, "cannot write %s: %s", w->bin, strerror(errno));
	return MT_OK;
}

static void put(FILE *out, uint64_t value, size_t bytes)
{
	value = htole64(value);
	fwrite(&value, 1, bytes, out);
}

static void write_index(const struct mt_indexed_writer *w, FILE *out)
{
	int64_t end = 0;

	fwrite(MT_INDEXED_MAGIC, 1, 9, out);
	put(out, 1, 8);
	put(out, w->token_bytes == 2 ? MT_INDEXED_U16 : MT_INDEXED_I32, 1);
	put(out, (uint64_t)w->count, 8);
	put(out, (uint64_t)w->count + 1, 8);
	for (int64_t i = 0; i < w->count; i++)
		put(out, (uint64_t)w->lengths[i], 4);
	for (int64_t i = 0; i < w->count; i++) {
		put(out, (uint64_t)end, 8);
		end += (int64_t)w->lengths[i] * w->token_bytes;
	}
	for (int64_t i = 0; i <= w->count; i++)
		put(out, (uint64_t)i, 8);
}

enum mt_status mt_indexed_writer_commit(struct mt_indexed_writer *w)
{
	struct mt_file index;
	enum mt_status st;

	MT_TRY(mt_file_create(&index, w->idx));
	write_index(w, index.stream);
	if (unlink(w->idx) != 0 && errno != ENOENT) {
		st = mt_fail(MT_IO, "cannot replace %s: %s", w->idx, strerror(errno));
		goto fail;
	}
	MT_GOTO(fail, mt_file_commit(&w->file));
	return mt_file_commit(&index);
fail:
	mt_file_abort(&index);
	return st;
}

enum mt_status mt_indexed_write(const char *prefix, const int32_t *const *documents, const int64_t *lengths, int64_t count,
				int64_t vocab)
{
	struct mt_indexed_writer *w;
	enum mt_status st;

	MT_TRY(mt_indexed_writer_create(&w, prefix, vocab));
	for (int64_t i = 0; i < count; i++)
		MT_GOTO(out, mt_indexed_writer_add(w, documents[i], lengths[i]));
	st = mt_indexed_writer_commit(w);
out:
	mt_indexed_writer_destroy(w);
	return st;
}
