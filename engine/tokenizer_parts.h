/* tokenizer_parts: what the files of the tokenizer share, and nobody else.
 *
 * A text takes this way: cut at added tokens - normalizer - splitters, each cutting the pieces of the one before - byte-pair
 * merges within each piece. */
#ifndef MT_ENGINE_TOKENIZER_PARTS_H
#define MT_ENGINE_TOKENIZER_PARTS_H

#include "engine/tokenizer.h"

#include <jansson.h>

/* Strings to tokens: open addressing, the strings in the tokenizer's pool. */
struct mt_names {
	struct mt_name {
		uint64_t hash;
		const char *text;
		uint32_t bytes;
		int32_t id; /* -1: free */
	} * slots;          /* owned */
	size_t room, count; /* room: a power of two */
};

/* Pairs of tokens to the merge that joins them. */
struct mt_merges {
	struct mt_merge {
		uint64_t pair; /* left << 32 | right; UINT64_MAX: free */
		uint32_t rank;
		int32_t id;
	} * slots; /* owned */
	size_t room;
};

struct mt_added {
	char *text;    /* owned: as written */
	char *matched; /* owned: as searched for, which is normalized where the token says so */
	size_t bytes;  /* of matched */
	int32_t id;
	bool normalized, lstrip, rstrip;
};

enum mt_normalize_kind { MT_NORMALIZE_NFC, MT_NORMALIZE_PREPEND, MT_NORMALIZE_REPLACE };

struct mt_normalize_step {
	enum mt_normalize_kind kind;
	char *from, *to; /* owned */
};

enum mt_split_kind { MT_SPLIT_PATTERN, MT_SPLIT_SPACE, MT_SPLIT_META };
enum mt_prepend { MT_PREPEND_NEVER, MT_PREPEND_FIRST, MT_PREPEND_ALWAYS };

/* PATTERN cuts at matches; SPACE puts a space before a piece that has none; META turns spaces into a mark. */
struct mt_split_step {
	enum mt_split_kind kind;
	void *code;                     /* owned: a compiled pattern */
	bool keeps_matches, keeps_gaps; /* PATTERN */
	char *mark;                     /* META, owned */
	enum mt_prepend prepend;        /* META */
	bool cuts;                      /* META: a piece begins at every mark */
};

enum { MT_TOKENIZER_STEPS = 12 };

struct mt_token_bytes {
	const char *text; /* in the pool */
	uint32_t bytes;
	bool literal; /* an added token: shown as written */
};

struct mt_tokenizer {
	bool plain;      /* the byte tokenizer: nothing else is set */
	bool byte_level; /* symbols are bytes, else characters */
	bool byte_fallback, fuse_unknown, whole_words;
	int32_t unknown, end;  /* -1: none */
	int64_t vocab;         /* largest token + 1 */
	struct mt_names names; /* as the file writes them */
	struct mt_names words; /* byte level: as bytes; empty otherwise */
	struct mt_merges merges;
	struct mt_token_bytes *tokens; /* owned, by id */
	int32_t byte_ids[256];         /* of the symbol (byte level) or of "<0xNN>"; -1: none */
	struct mt_added *added;        /* owned, longest first */
	size_t added_count;
	uint8_t added_starts[256]; /* bytes that one begins with: bit 0 before the normalizer, bit 1 after it */
	struct mt_normalize_step normalize[MT_TOKENIZER_STEPS];
	struct mt_split_step split[MT_TOKENIZER_STEPS];
	int normalize_count, split_count;
	char **pool; /* owned: the strings of the tokens */
	size_t pool_count, pool_room;
	char text[128];
};

/* A text that grows. */
struct mt_buffer {
	char *data; /* owned */
	size_t bytes, room;
};
enum mt_status mt_buffer_append(struct mt_buffer *buffer, const char *data, size_t bytes);

/* tokenizer_names.c */
uint64_t mt_names_hash(const char *text, size_t bytes);
enum mt_status mt_names_add(struct mt_names *names, const char *text, size_t bytes, int32_t id); /* text is borrowed */
int32_t mt_names_find(const struct mt_names *names, const char *text, size_t bytes);             /* -1: not there */
enum mt_status mt_merges_create(struct mt_merges *merges, size_t count);
void mt_merges_add(struct mt_merges *merges, int32_t left, int32_t right, uint32_t rank, int32_t id);
const struct mt_merge *mt_merges_find(const struct mt_merges *merges, int32_t left, int32_t right); /* NULL: not there */
/* The byte that GPT-2 writes as this character; -1: none. */
int mt_byte_of_character(uint32_t character);
/* A character of valid UTF-8 and its bytes. */
uint32_t mt_utf8_next(const char *text, size_t *bytes);
/* Bytes of the valid character at `text`, 0 when there is none. */
size_t mt_utf8_valid(const char *text, size_t bytes);
bool mt_is_space(uint32_t character); /* Unicode's White_Space */

/* tokenizer_load.c, tokenizer_json.c */
enum mt_status mt_tokenizer_load_gpt2(struct mt_tokenizer *t, const char *vocab, const char *merges);
enum mt_status mt_tokenizer_load_json(struct mt_tokenizer *t, const char *path);
enum mt_status mt_tokenizer_add_vocabulary(struct mt_tokenizer *t, const json_t *vocabulary, const char *path);
enum mt_status mt_tokenizer_add_merge(struct mt_tokenizer *t, const char *left, size_t left_bytes, const char *right,
				      size_t right_bytes, uint32_t rank, const char *path);
enum mt_status mt_tokenizer_add_token(struct mt_tokenizer *t, const char *text, int32_t id, const char *path);
enum mt_status mt_tokenizer_add_special(struct mt_tokenizer *t, const struct mt_added *added, const char *path);
enum mt_status mt_tokenizer_complete(struct mt_tokenizer *t, const char *path);
char *mt_tokenizer_keep(struct mt_tokenizer *t, const char *text, size_t bytes); /* a copy in the pool; NULL: no memory */

/* tokenizer_steps.c: one file's normalizer and pre-tokenizer, into steps */
enum mt_status mt_tokenizer_read_normalizer(struct mt_tokenizer *t, const json_t *node, const char *path);
enum mt_status mt_tokenizer_read_splitter(struct mt_tokenizer *t, const json_t *node, const char *path);
enum mt_status mt_tokenizer_split_gpt2(struct mt_tokenizer *t, const char *path);

/* tokenizer_normalize.c */
enum mt_status mt_normalize(const struct mt_tokenizer *t, const char *text, size_t bytes, struct mt_buffer *out,
			    struct mt_buffer *scratch);
bool mt_normalize_can_nfc(void);

/* tokenizer_pattern.c: regular expressions of the kind that tokenizers use */
struct mt_matcher; /* one a thread */
enum mt_status mt_pattern_compile(void **code, const char *pattern, bool literal, const char *path);
void mt_pattern_free(void *code);
enum mt_status mt_matcher_create(struct mt_matcher **matcher);
void mt_matcher_destroy(struct mt_matcher *matcher);
/* The first match in text[from, bytes), not empty; *found false: none. */
enum mt_status mt_matcher_next(struct mt_matcher *matcher, const void *code, const char *text, size_t bytes, size_t from,
			       size_t *start, size_t *end, bool *found);

#endif
