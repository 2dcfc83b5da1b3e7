/* data: samples of token streams.
 *
 * A source's part begins at token `first`; its window w holds the tokens [first + w*seq, first + w*seq + seq]: windows overlap by
 * the one token that is the last target of one and the first input of the next. The blend says which source sample k comes from,
 * and that it is that source's sample n; this is window permute(epoch, n mod windows), epoch = n / windows: a function of the
 * global sample number and the seed only, so no layout sees other data.
 *
 * Files are read with pread, not mapped: a file that shrinks gives a short read and MT_IO, where a mapping would end
 * the process with SIGBUS (and a handler of it would belong to the whole process). A sample is a few KiB out of the page cache,
 * read a step ahead by the loader (loader.h), so that no step waits for it. */
#include "engine/data_blend.h"
#include "engine/data_source.h"
#include "engine/indexed.h"

#include "base/random.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* One source of a blend, and the part of it that is used. */
struct part {
	struct mt_source source;
	int64_t first, tokens, windows;
};

struct mt_dataset {
	struct mt_blend blend;
	struct part *parts; /* owned: one a source */
	int64_t seq;
	uint64_t seed;
	bool shuffle;
	char text[192];
};

/* Philox stream of the order of epoch 0 of the first source; epoch e has SHUFFLE_STREAM + e, source d is d << 32 further. Other
 * users of the seed stay below it. */
#define SHUFFLE_STREAM 0xda7a000000000000u

enum mt_status mt_source_pread(int fd, const char *path, void *data, int64_t bytes, int64_t offset)
{
	char *at = data;

	while (bytes > 0) {
		ssize_t got = pread(fd, at, (size_t)bytes, (off_t)offset);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return mt_fail(MT_IO, "cannot read %s: %s", path, strerror(errno));
		if (got == 0)
			return mt_fail(MT_IO,
				       "%s ends at byte %lld, %lld more were there when it was opened: it shrank while in use; "
				       "leave data files alone during a run",
				       path, (long long)offset, (long long)bytes);
		at += got;
		offset += got;
		bytes -= got;
	}
	return MT_OK;
}

/* --- the split --- */

/* "969,30,1" into shares; NULL: all for training. */
static enum mt_status parse_split(const char *text, const char *where, double shares[MT_DATA_PARTS])
{
	const char *at = text;
	double sum = 0;
	char *end;

	memset(shares, 0, MT_DATA_PARTS * sizeof *shares);
	shares[0] = 1;
	for (int i = 0; text && i < MT_DATA_PARTS; i++) {
		shares[i] = strtod(at, &end);
		bool bad = end == at || !isfinite(shares[i]) || shares[i] < 0 || *end != (i < MT_DATA_PARTS - 1 ? ',' : '\0');
		sum += shares[i];
		if (bad || (i == MT_DATA_PARTS - 1 && sum <= 0))
			return mt_fail(MT_INPUT,
				       "%s: split '%s' is not three numbers for training, validation and test, as in 969,30,1",
				       where, text);
		at = end + 1;
	}
	for (int i = 0; text && i < MT_DATA_PARTS; i++)
		shares[i] /= sum;
	return MT_OK;
}

double mt_data_share(const struct mt_data_options *options, enum mt_data_part part)
{
	double shares[MT_DATA_PARTS];

	return parse_split(options->split, "data", shares) == MT_OK ? shares[part] : 0;
}

enum mt_status mt_data_check(const struct mt_data_options *options, const char *where)
{
	double shares[MT_DATA_PARTS];

	MT_TRY(parse_split(options->split, where, shares));
	return shares[MT_DATA_TRAIN] > 0 ? MT_OK
					 : mt_fail(MT_INPUT, "%s: split '%s' leaves nothing to train on", where, options->split);
}

/* The token where a share of the stream ends: at the nearest end of a document, unless that moves it by more than half
 * of the smallest share. */
static enum mt_status find_cut(const struct mt_source *source, const double shares[MT_DATA_PARTS], double share, int64_t *cut)
{
	double least = 1;
	int64_t first, end, near;

	*cut = (int64_t)(share * (double)source->tokens + 0.5);
	for (int i = 0; i < MT_DATA_PARTS; i++)
		least = shares[i] > 0 && shares[i] < least ? shares[i] : least;
	if (*cut <= 0 || *cut >= source->tokens)
		return MT_OK;
	MT_TRY(source->kind->document(source, *cut, &first, &end));
	near = *cut - first < end - *cut ? first : end;
	if ((double)llabs(near - *cut) <= 0.5 * least * (double)source->tokens && near <= source->tokens)
		*cut = near;
	return MT_OK;
}

static enum mt_status set_part(struct part *p, const struct mt_data_options *options, enum mt_data_part which, int64_t seq)
{
	static const char *const names[] = {"training", "validation", "test"};
	double shares[MT_DATA_PARTS], before = 0;
	int64_t end;

	MT_TRY(parse_split(options->split, "data", shares));
	for (int i = 0; i < (int)which; i++)
		before += shares[i];
	MT_TRY(find_cut(&p->source, shares, before, &p->first));
	MT_TRY(find_cut(&p->source, shares, which == MT_DATA_TEST ? 1 : before + shares[which], &end));
	p->tokens = end - p->first;
	p->windows = (p->tokens - 1) / seq;
	if (p->windows >= 1)
		return MT_OK;
	p->windows = 0;
	if (shares[which] < 1)
		return mt_fail(MT_INPUT,
			       "%s: split '%s' gives %lld of its tokens to the %s part, too few for one sequence of seq %lld (%lld "
			       "needed)",
			       p->source.text, options->split ? options->split : "1,0,0", (long long)p->tokens, names[which],
			       (long long)seq, (long long)seq + 1);
	return mt_fail(MT_INPUT,
		       "%s: %lld tokens are too few for one sequence of seq %lld (%lld needed): give more data or a shorter seq",
		       options->path, (long long)p->tokens, (long long)seq, (long long)seq + 1);
}

/* --- open and close --- */

static enum mt_status open_source(struct mt_source *source, const char *path, const char *tokenizer, int64_t seq, uint64_t seed)
{
	if (!path)
		return mt_source_open_synthetic(source, seq, seed);
	char *prefix = mt_indexed_prefix(path);
	enum mt_status st;
	if (prefix)
		st = mt_source_open_indexed(source, prefix);
	else if (!tokenizer || !strcmp(tokenizer, "byte"))
		st = mt_source_open_text(source, path);
	else
		st = mt_source_open_tokenized(source, path, tokenizer);
	free(prefix);
	return st;
}

static enum mt_status open_parts(struct mt_dataset *d, const struct mt_data_options *options, enum mt_data_part which,
				 int64_t vocab)
{
	for (int i = 0; i < d->blend.count; i++) {
		struct part *p = &d->parts[i];

		p->source.vocab = vocab;
		MT_TRY(open_source(&p->source, d->blend.paths[i], options->tokenizer, d->seq, d->seed));
		MT_TRY(set_part(p, options, which, d->seq));
	}
	if (d->blend.count > 1)
		snprintf(d->text, sizeof d->text, "blend of %d sources, %lld tokens", d->blend.count,
			 (long long)mt_dataset_tokens(d));
	else
		snprintf(d->text, sizeof d->text, "%s", d->parts[0].source.text);
	return MT_OK;
}

enum mt_status mt_dataset_open_part(struct mt_dataset **dataset, const struct mt_data_options *options, enum mt_data_part part,
				    int64_t vocab, int64_t seq, uint64_t seed)
{
	struct mt_dataset *d;
	enum mt_status st;

	*dataset = NULL;
	if (vocab < 1 || vocab > INT32_MAX || seq < 1 || seq > INT32_MAX)
		return mt_fail(MT_INPUT, "data: vocab %lld and seq %lld must be 1 to 2^31 - 1", (long long)vocab, (long long)seq);
	d = calloc(1, sizeof *d);
	if (!d)
		return mt_fail(MT_NOMEM, "out of memory opening the data set");
	d->seq = seq;
	d->seed = seed;
	d->shuffle = options->shuffle;
	MT_GOTO(fail, mt_blend_create(&d->blend, options->path));
	d->parts = calloc((size_t)d->blend.count, sizeof *d->parts);
	st = d->parts ? open_parts(d, options, part, vocab) : mt_fail(MT_NOMEM, "out of memory opening the data set");
	if (st != MT_OK)
		goto fail;
	*dataset = d;
	return MT_OK;
fail:
	mt_dataset_close(d);
	return st;
}

enum mt_status mt_dataset_open(struct mt_dataset **dataset, const struct mt_data_options *options, int64_t vocab, int64_t seq,
			       uint64_t seed)
{
	return mt_dataset_open_part(dataset, options, MT_DATA_TRAIN, vocab, seq, seed);
}

void mt_dataset_close(struct mt_dataset *dataset)
{
	if (!dataset)
		return;
	for (int i = 0; dataset->parts && i < dataset->blend.count; i++) {
		struct mt_source *source = &dataset->parts[i].source;
		if (source->kind)
			source->kind->close(source);
	}
	free(dataset->parts);
	mt_blend_free(&dataset->blend);
	free(dataset);
}

int64_t mt_dataset_tokens(const struct mt_dataset *dataset)
{
	int64_t tokens = 0;

	for (int i = 0; i < dataset->blend.count; i++)
		tokens += dataset->parts[i].tokens;
	return tokens;
}

const char *mt_dataset_text(const struct mt_dataset *dataset)
{
	return dataset->text;
}

/* --- samples --- */

/* The source of a sample and the token where its window begins. */
static const struct part *locate(const struct mt_dataset *d, uint64_t index, int64_t *first)
{
	uint64_t number, stream = SHUFFLE_STREAM;
	int source = mt_blend_find(&d->blend, index, &number);
	const struct part *p = &d->parts[source];
	uint64_t windows = (uint64_t)p->windows, epoch = number / windows, window = number % windows;

	stream += ((uint64_t)source << 32) + epoch;
	if (d->shuffle)
		window = mt_random_permute(d->seed, stream, window, windows);
	*first = p->first + (int64_t)window * d->seq;
	return p;
}

enum mt_status mt_dataset_sample(struct mt_dataset *dataset, uint64_t index, int32_t *tokens, int32_t *targets)
{
	int64_t seq = dataset->seq, first;
	const struct mt_source *source = &locate(dataset, index, &first)->source;

	/* seq inputs, then the last target by itself: the rest of the targets are the inputs moved by one */
	MT_TRY(source->kind->read(source, first, seq, tokens));
	memcpy(targets, tokens + 1, (size_t)(seq - 1) * sizeof *targets);
	return source->kind->read(source, first + seq, 1, targets + seq - 1);
}

enum mt_status mt_dataset_sample_apart(struct mt_dataset *dataset, uint64_t index, int32_t *tokens, int32_t *targets,
				       int32_t *starts)
{
	int64_t seq = dataset->seq, first, begin, end;
	const struct mt_source *source = &locate(dataset, index, &first)->source;

	MT_TRY(mt_dataset_sample(dataset, index, tokens, targets));
	for (int64_t t = 0; t < seq; t = end - first) {
		MT_TRY(source->kind->document(source, first + t, &begin, &end));
		if (end <= first + t)
			return mt_fail(MT_FAILED, "%s: no document holds token %lld", source->text, (long long)(first + t));
		for (int64_t k = t; k < seq && k < end - first; k++)
			starts[k] = (int32_t)(begin > first ? begin - first : 0);
		if (end - first - 1 < seq)
			targets[end - first - 1] = -1; /* the next token is of the next document */
	}
	return MT_OK;
}
