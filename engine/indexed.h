/* indexed: Megatron's indexed data set, PREFIX.bin and PREFIX.idx, read at any place and written document by document.
 *
 * A document is one or more sequences of the index; the stream of tokens is the .bin. */
#ifndef MT_ENGINE_INDEXED_H
#define MT_ENGINE_INDEXED_H

#include "base/status.h"

#include <stdint.h>

#define MT_INDEXED_MAGIC      "MMIDIDX\0" /* nine bytes with the terminator */
#define MT_INDEXED_HEAD_BYTES 34

enum mt_indexed_code {
	MT_INDEXED_U8 = 1,
	MT_INDEXED_I8 = 2,
	MT_INDEXED_I16 = 3,
	MT_INDEXED_I32 = 4,
	MT_INDEXED_I64 = 5,
	MT_INDEXED_F64 = 6,
	MT_INDEXED_F32 = 7,
	MT_INDEXED_U16 = 8,
};

struct mt_indexed {
	int fd, index_fd;
	int code, shift;         /* a token is of this code and has 1 << shift bytes */
	char *path, *index_path; /* owned */
	int64_t tokens, sequences, documents;
};

/* Opens and checks the index in full; *indexed holds nothing on failure. */
enum mt_status mt_indexed_open(struct mt_indexed *indexed, const char *prefix);
void mt_indexed_close(struct mt_indexed *indexed);
const char *mt_indexed_type(const struct mt_indexed *indexed); /* "u16" */
/* Tokens [first, first + count); each must be in [0, vocab) where vocab is not 0. Any thread. */
enum mt_status mt_indexed_read(const struct mt_indexed *indexed, int64_t first, int64_t count, int64_t vocab, int32_t *tokens);
/* The first token of document `index`, 0 <= index <= documents (the last one: the number of tokens). */
enum mt_status mt_indexed_first(const struct mt_indexed *indexed, int64_t index, int64_t *token);
/* The document that holds a token: its first token and the one after its last. log2(documents) short reads. */
enum mt_status mt_indexed_find(const struct mt_indexed *indexed, int64_t token, int64_t *first, int64_t *end);

/* The PREFIX when PATH is one of an indexed data set (PATH.idx or PATH.bin exists, or PATH ends so); else NULL. free() it. */
char *mt_indexed_prefix(const char *path);

/* Writes a set, visible when committed. Abort is fine at any time, and after commit. */
struct mt_indexed_writer;
enum mt_status mt_indexed_writer_create(struct mt_indexed_writer **writer, const char *prefix, int64_t vocab);
enum mt_status mt_indexed_writer_add(struct mt_indexed_writer *writer, const int32_t *tokens, int64_t count); /* one document */
enum mt_status mt_indexed_writer_commit(struct mt_indexed_writer *writer);
void mt_indexed_writer_destroy(struct mt_indexed_writer *writer);

#endif
