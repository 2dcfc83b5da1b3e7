/* indexed_write: writes Megatron's indexed data set, a sequence a document. The .idx, which makes it one, comes last. */
#include "base/file.h"
#include "engine/data.h"
#include "engine/indexed.h"

#include <endian.h>
#include <stdio.h>
#include <stdlib.h>

/* Megatron's own limit below which it stores 16 bits (DType.optimal_dtype). */
#define U16_VOCAB 65500

struct writer {
	const int32_t *const *documents;
	const int64_t *lengths;
	int64_t count;
	int64_t token_bytes;
};

/* A stream keeps its error; mt_file_commit finds it. */
static void put(FILE *out, uint64_t value, size_t bytes)
{
	value = htole64(value);
	fwrite(&value, 1, bytes, out);
}

static enum mt_status check(const struct writer *w, int64_t vocab)
{
	for (int64_t i = 0; i < w->count; i++) {
		if (w->lengths[i] < 0 || w->lengths[i] > INT32_MAX)
			return mt_fail(MT_INPUT, "document %lld has %lld tokens; the format holds up to %d", (long long)i,
				       (long long)w->lengths[i], INT32_MAX);
		for (int64_t k = 0; k < w->lengths[i]; k++) {
			if (w->documents[i][k] < 0 || w->documents[i][k] >= vocab)
				return mt_fail(MT_INPUT, "document %lld: token %lld is %d, vocab is %lld", (long long)i,
					       (long long)k, w->documents[i][k], (long long)vocab);
		}
	}
	return MT_OK;
}

static void write_tokens(const struct writer *w, FILE *out)
{
	for (int64_t i = 0; i < w->count; i++) {
		for (int64_t k = 0; k < w->lengths[i]; k++)
			put(out, (uint32_t)w->documents[i][k], (size_t)w->token_bytes);
	}
}

static void write_index(const struct writer *w, FILE *out)
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
		end += w->lengths[i] * w->token_bytes;
	}
	for (int64_t i = 0; i <= w->count; i++)
		put(out, (uint64_t)i, 8);
}

static enum mt_status write_file(const struct writer *w, const char *prefix, const char *suffix,
				 void (*write)(const struct writer *w, FILE *out))
{
	struct mt_file file;
	char *path = mt_string("%s%s", prefix, suffix);

	if (!path)
		return mt_fail(MT_NOMEM, "out of memory writing %s", prefix);
	enum mt_status st = mt_file_create(&file, path);
	if (st == MT_OK) {
		write(w, file.stream);
		st = mt_file_commit(&file);
	}
	free(path);
	return st;
}

enum mt_status mt_indexed_write(const char *prefix, const int32_t *const *documents, const int64_t *lengths, int64_t count,
				int64_t vocab)
{
	struct writer w = {documents, lengths, count, vocab < U16_VOCAB ? 2 : 4};

	MT_TRY(check(&w, vocab));
	MT_TRY(write_file(&w, prefix, ".bin", write_tokens));
	return write_file(&w, prefix, ".idx", write_index);
}
