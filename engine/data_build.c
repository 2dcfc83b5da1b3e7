/* data_build: see data_build.h. */
#define _GNU_SOURCE
#include "engine/data_build.h"
#include "base/process.h"
#include "engine/indexed.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH_DOCUMENTS = 4096, BATCH_BYTES = 8 << 20 };

static const char *const formats[] = {"auto", "text", "jsonl", NULL};

#define BUILD(field, kind, value, least, most, choices, help)                                                                      \
	{                                                                                                                          \
#field, MT_OPTION_##kind, offsetof(struct mt_build_options, field), value, least, most, choices, help              \
	}

static const struct mt_option build_options[] = {
	BUILD(tokenizer, STRING, "byte", 0, 0, NULL,
	      "byte, a tokenizer.json, a vocab.json with merges.txt beside it, or the folder of either"),
	BUILD(format, CHOICE, "auto", 0, 0, formats,
	      "text: a file is a document; jsonl: a line is one; auto: jsonl for .jsonl, .ndjson and .json"),
	BUILD(key, STRING, "text", 0, 0, NULL, "jsonl: name of the text in a line's object"),
	BUILD(end, BOOL, "true", 0, 0, NULL, "put a token at the end of each document"),
	BUILD(end_token, STRING, NULL, 0, 0, NULL, "its name; none: the tokenizer's usual one"),
	BUILD(threads, INT, "0", 0, 1024, NULL, "threads; 0: all it may use"),
};
const struct mt_option_table mt_build_options_table = {"build", build_options, sizeof build_options / sizeof build_options[0]};

struct batch {
	struct mt_document documents[BATCH_DOCUMENTS];
	struct mt_tokens tokens[BATCH_DOCUMENTS];
	int count;
};

struct builder {
	struct mt_tokenizer *tokenizer;
	struct mt_encoder **encoders; /* owned: one a thread */
	int threads;
	struct batch *batch; /* owned */
	struct mt_build_summary *summary;
	/* the first document that failed */
	int failed;
	enum mt_status status;
	char message[1024];
};

static enum mt_status find_end(const struct mt_build_options *options, const struct mt_tokenizer *t, int32_t *end)
{
	*end = -1;
	if (!options->end)
		return MT_OK;
	*end = options->end_token ? mt_tokenizer_find(t, options->end_token) : mt_tokenizer_end(t);
	if (*end >= 0)
		return MT_OK;
	if (options->end_token)
		return mt_fail(MT_INPUT, "tokenizer %s has no token '%s'", options->tokenizer, options->end_token);
	return mt_fail(MT_INPUT,
		       "tokenizer %s has no token that is known to end a document: name it with --end-token, or give --no-end",
		       options->tokenizer);
}

static enum mt_status open_builder(struct builder *b, const struct mt_build_options *options)
{
	MT_TRY(mt_tokenizer_open(&b->tokenizer, options->tokenizer));
	MT_TRY(find_end(options, b->tokenizer, &b->summary->end_token));
	b->summary->vocab = mt_tokenizer_vocab(b->tokenizer);
	snprintf(b->summary->tokenizer, sizeof b->summary->tokenizer, "%s", mt_tokenizer_text(b->tokenizer));
	b->threads = options->threads > 0 ? (int)options->threads : omp_get_max_threads();
	b->batch = calloc(1, sizeof *b->batch);
	b->encoders = calloc((size_t)b->threads, sizeof *b->encoders);
	if (!b->batch || !b->encoders)
		return mt_fail(MT_NOMEM, "out of memory for %d encoders", b->threads);
	for (int i = 0; i < b->threads; i++)
		MT_TRY(mt_encoder_create(&b->encoders[i], b->tokenizer));
	return MT_OK;
}

static void close_builder(struct builder *b)
{
	for (int i = 0; b->encoders && i < b->threads; i++)
		mt_encoder_destroy(b->encoders[i]);
	for (int i = 0; b->batch && i < BATCH_DOCUMENTS; i++) {
		free(b->batch->documents[i].text);
		free(b->batch->tokens[i].ids);
	}
	free(b->encoders);
	free(b->batch);
	mt_tokenizer_close(b->tokenizer);
}

static enum mt_status read_batch(struct builder *b, struct mt_documents *documents)
{
	struct batch *batch = b->batch;
	size_t bytes = 0;

	for (batch->count = 0; batch->count < BATCH_DOCUMENTS && bytes < BATCH_BYTES; batch->count++) {
		struct mt_document *document = &batch->documents[batch->count];
		free(document->text);
		document->text = NULL;
		MT_TRY(mt_documents_next(documents, document));
		if (!document->text)
			break;
		bytes += document->bytes;
		b->summary->text_bytes += (int64_t)document->bytes;
	}
	return MT_OK;
}

/* The message belongs to the thread that failed: it is copied for the one that reports. */
static void keep_failure(struct builder *b, int index, enum mt_status status)
{
#pragma omp critical(mt_build_failure)
	if (b->status == MT_OK || index < b->failed) {
		const struct mt_document *d = &b->batch->documents[index];
		char place[32] = "";

		if (d->line > 0)
			snprintf(place, sizeof place, ":%lld", (long long)d->line);
		b->failed = index;
		b->status = status;
		snprintf(b->message, sizeof b->message, "%s%s: %s", d->path, place, mt_error_message());
	}
	mt_error_clear();
}

static enum mt_status encode_batch(struct builder *b)
{
	struct batch *batch = b->batch;
	int32_t end = b->summary->end_token;

	b->status = MT_OK;
#pragma omp parallel for schedule(dynamic) num_threads(b->threads)
	for (int i = 0; i < batch->count; i++) {
		struct mt_tokens *tokens = &batch->tokens[i];
		enum mt_status st;

		tokens->count = 0;
		st = mt_encoder_encode(b->encoders[omp_get_thread_num()], batch->documents[i].text, batch->documents[i].bytes,
				       tokens);
		if (st == MT_OK && end >= 0 && tokens->count > 0)
			st = mt_tokens_append(tokens, end);
		if (st != MT_OK)
			keep_failure(b, i, st);
	}
	return b->status == MT_OK ? MT_OK : mt_fail(b->status, "%s", b->message);
}

static enum mt_status take_batch(struct builder *b, mt_build_take *take, void *context)
{
	for (int i = 0; i < b->batch->count; i++) {
		const struct mt_tokens *tokens = &b->batch->tokens[i];

		if (tokens->count == 0) {
			b->summary->empty++;
			continue;
		}
		MT_TRY(take(context, tokens->ids, tokens->count));
		b->summary->documents++;
		b->summary->tokens += tokens->count;
	}
	return MT_OK;
}

enum mt_status mt_data_tokenize(struct mt_build_summary *summary, const char *paths, const struct mt_build_options *options,
				mt_build_take *take, void *context)
{
	struct builder b = {.summary = summary};
	struct mt_documents *documents = NULL;
	enum mt_status st;

	memset(summary, 0, sizeof *summary);
	MT_GOTO(out, open_builder(&b, options));
	MT_GOTO(out, mt_documents_open(&documents, paths, (enum mt_document_format)options->format,
				       options->key ? options->key : "text"));
	do {
		if (mt_process_interrupted()) {
			st = mt_fail(MT_INTERRUPTED, "stopped by a signal; nothing was written");
			goto out;
		}
		MT_GOTO(out, read_batch(&b, documents));
		MT_GOTO(out, encode_batch(&b));
		MT_GOTO(out, take_batch(&b, take, context));
	} while (b.batch->count > 0);
	for (int i = 0; i < b.threads; i++)
		summary->replaced_bytes += mt_encoder_replaced(b.encoders[i]);
	if (summary->documents == 0)
		st = mt_fail(MT_INPUT, "%s: no document with text in it", paths);
out:
	mt_documents_close(documents);
	close_builder(&b);
	return st;
}

static enum mt_status write_one(void *context, const int32_t *tokens, int64_t count)
{
	return mt_indexed_writer_add(context, tokens, count);
}

enum mt_status mt_data_build(struct mt_build_summary *summary, const char *prefix, const char *paths,
			     const struct mt_build_options *options)
{
	struct mt_indexed_writer *writer = NULL;
	struct mt_tokenizer *tokenizer = NULL;
	enum mt_status st;

	/* the width of a token on disk follows from the vocabulary, which must be known before the first one */
	MT_GOTO(out, mt_tokenizer_open(&tokenizer, options->tokenizer));
	MT_GOTO(out, mt_indexed_writer_create(&writer, prefix, mt_tokenizer_vocab(tokenizer)));
	MT_GOTO(out, mt_data_tokenize(summary, paths, options, write_one, writer));
	st = mt_indexed_writer_commit(writer);
out:
	mt_indexed_writer_destroy(writer);
	mt_tokenizer_close(tokenizer);
	return st;
}
