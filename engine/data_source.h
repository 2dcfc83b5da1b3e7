/* data_source: a stream of tokens that can be read at any place; one file a kind. */
#ifndef MT_ENGINE_DATA_SOURCE_H
#define MT_ENGINE_DATA_SOURCE_H

#include "engine/data.h"

struct mt_source;

struct mt_source_kind {
	/* Tokens [first, first+count) of the stream; 0 <= first, first+count <= tokens. May run on several threads at once. */
	enum mt_status (*read)(const struct mt_source *source, int64_t first, int64_t count, int32_t *tokens);
	/* The document that holds a token: its first token and the one after its last. */
	enum mt_status (*document)(const struct mt_source *source, int64_t token, int64_t *first, int64_t *end);
	void (*close)(struct mt_source *source);
};

struct mt_source {
	const struct mt_source_kind *kind; /* NULL: not open */
	void *state;                       /* owned by the kind */
	int64_t tokens, vocab;
	char text[160]; /* for logs */
};

/* Each fills kind, state, tokens and text; vocab is set before. On failure nothing is left to close. */
enum mt_status mt_source_open_text(struct mt_source *source, const char *paths);
enum mt_status mt_source_open_tokenized(struct mt_source *source, const char *paths, const char *tokenizer);
enum mt_status mt_source_open_indexed(struct mt_source *source, const char *prefix);
enum mt_status mt_source_open_synthetic(struct mt_source *source, int64_t seq, uint64_t seed);

/* The files below `paths` (colons between) as a list of `count` strings: free each and the list. */
enum mt_status mt_text_files(const char *paths, char ***files, size_t *count);
void mt_text_files_free(char **files, size_t count);

/* bytes [offset, offset+bytes) of an open file; MT_IO when it ends before, as a file does that shrank. */
enum mt_status mt_source_pread(int fd, const char *path, void *data, int64_t bytes, int64_t offset);

#endif
