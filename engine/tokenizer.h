/* tokenizer: text to tokens and back: bytes, or byte-pair encoding as GPT-2's files or a Hugging Face tokenizer.json describe it.
 *
 * A tokenizer is read once and not changed after: any number of encoders, one a thread, may share it. No tokens are added
 * at the ends (what a template of the file says of them is for chat, not for training data). */
#ifndef MT_ENGINE_TOKENIZER_H
#define MT_ENGINE_TOKENIZER_H

#include "base/status.h"

#include <stdint.h>

struct mt_tokenizer;
struct mt_encoder;

/* Tokens that grow; ids owned: free(tokens.ids). */
struct mt_tokens {
	int32_t *ids;
	int64_t count, room;
};

/* `what`: "byte" or NULL, the path of a tokenizer.json, of a vocab.json with merges.txt beside it, or of a folder of either.
 * A kind of tokenizer, or a part of one, that is not known is MT_INPUT and named; MT_UNAVAILABLE when it needs a library that the
 * program was built without. */
enum mt_status mt_tokenizer_open(struct mt_tokenizer **tokenizer, const char *what);
void mt_tokenizer_close(struct mt_tokenizer *tokenizer);
int64_t mt_tokenizer_vocab(const struct mt_tokenizer *tokenizer);         /* the largest token + 1 */
const char *mt_tokenizer_text(const struct mt_tokenizer *tokenizer);      /* "byte-level BPE of 50,257 tokens" */
int32_t mt_tokenizer_end(const struct mt_tokenizer *tokenizer);           /* ends a document; -1: none known */
int32_t mt_tokenizer_find(const struct mt_tokenizer *, const char *name); /* the token of that name; -1: none */
/* The bytes of tokens one after another, NUL-terminated; free() them. Unknown tokens give nothing. */
enum mt_status mt_tokenizer_decode(const struct mt_tokenizer *tokenizer, const int32_t *ids, int64_t count, char **text,
				   size_t *bytes);

enum mt_status mt_encoder_create(struct mt_encoder **encoder, const struct mt_tokenizer *tokenizer);
void mt_encoder_destroy(struct mt_encoder *encoder);
/* Appends the tokens of a text. Bytes that are no UTF-8 become U+FFFD each (but for the byte tokenizer) and are counted. */
enum mt_status mt_encoder_encode(struct mt_encoder *encoder, const char *text, size_t bytes, struct mt_tokens *tokens);
int64_t mt_encoder_replaced(const struct mt_encoder *encoder);

enum mt_status mt_tokens_append(struct mt_tokens *tokens, int32_t id);

#endif
