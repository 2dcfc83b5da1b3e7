/* data_build: a corpus into tokens, on all cores: batches of documents are read, tokenized in parallel and handed on in order, so
 * that the result does not depend on the number of threads. */
#ifndef MT_ENGINE_DATA_BUILD_H
#define MT_ENGINE_DATA_BUILD_H

#include "base/options.h"
#include "engine/documents.h"
#include "engine/tokenizer.h"

struct mt_build_options {
	char *tokenizer, *key, *end_token;
	int format; /* enum mt_document_format */
	bool end;
	int64_t threads;
};

extern const struct mt_option_table mt_build_options_table;

struct mt_build_summary {
	int64_t documents, empty, tokens, text_bytes, replaced_bytes, vocab;
	int32_t end_token; /* -1: none was put at the ends */
	char tokenizer[128];
};

/* Called in order, with the end token already there. */
typedef enum mt_status mt_build_take(void *context, const int32_t *tokens, int64_t count);

/* Tokenizes every document below `paths`. Bad input is MT_INPUT; a signal ends it with MT_INTERRUPTED. */
enum mt_status mt_data_tokenize(struct mt_build_summary *summary, const char *paths, const struct mt_build_options *options,
				mt_build_take *take, void *context);
/* The same into PREFIX.bin and PREFIX.idx. On failure there are no new files. */
enum mt_status mt_data_build(struct mt_build_summary *summary, const char *prefix, const char *paths,
			     const struct mt_build_options *options);

#endif
