/* data: samples of a token stream.
 *
 * Window w holds tokens [w*seq, w*seq + seq]: windows overlap by the one token that is the last target of one and the
 * first input of the next. Sample k is window permute(epoch, k mod windows), epoch = k / windows: a function of the
 * global sample number and the seed only, so no layout sees other data.
 *
 * Files are read with pread, not mapped: a file that shrinks gives a short read and MT_IO, where a mapping would end
 * the process with SIGBUS. A sample is a few KiB out of the page cache, nothing beside a training step. */
#include "engine/data_source.h"

#include "base/random.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct mt_dataset {
	struct mt_source source;
	int64_t seq, windows;
	uint64_t seed;
	bool shuffle;
};

/* Philox stream of the order of epoch 0; epoch e has SHUFFLE_STREAM + e. Other users of the seed stay below it. */
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

static enum mt_status open_source(struct mt_source *source, const char *path, int64_t seq, uint64_t seed)
{
	if (!path)
		return mt_source_open_synthetic(source, seq, seed);
	char *prefix = mt_indexed_prefix(path);
	enum mt_status st = prefix ? mt_source_open_indexed(source, prefix) : mt_source_open_text(source, path);
	free(prefix);
	return st;
}

enum mt_status mt_dataset_open(struct mt_dataset **dataset, const struct mt_data_options *options, int64_t vocab, int64_t seq,
			       uint64_t seed)
{
	struct mt_dataset *d;
	enum mt_status st;

	*dataset = NULL;
	if (vocab < 1 || vocab > INT32_MAX || seq < 1 || seq > INT32_MAX)
		return mt_fail(MT_INPUT, "data: vocab %lld and seq %lld must be 1 to 2^31 - 1", (long long)vocab, (long long)seq);
	d = calloc(1, sizeof *d);
	if (!d)
		return mt_fail(MT_NOMEM, "out of memory opening the data set");
	d->source.vocab = vocab;
	d->seq = seq;
	d->seed = seed;
	d->shuffle = options->shuffle;
	MT_GOTO(fail, open_source(&d->source, options->path, seq, seed));
	d->windows = (d->source.tokens - 1) / seq;
	if (d->windows < 1) {
		st = mt_fail(
			MT_INPUT,
			"%s: %lld tokens are too few for one sequence of seq %lld (%lld needed): give more data or a shorter seq",
			options->path, (long long)d->source.tokens, (long long)seq, (long long)seq + 1);
		goto fail;
	}
	*dataset = d;
	return MT_OK;
fail:
	mt_dataset_close(d);
	return st;
}

void mt_dataset_close(struct mt_dataset *dataset)
{
	if (!dataset)
		return;
	if (dataset->source.kind)
		dataset->source.kind->close(&dataset->source);
	free(dataset);
}

int64_t mt_dataset_tokens(const struct mt_dataset *dataset)
{
	return dataset->source.tokens;
}

const char *mt_dataset_text(const struct mt_dataset *dataset)
{
	return dataset->source.text;
}

enum mt_status mt_dataset_sample(struct mt_dataset *dataset, uint64_t index, int32_t *tokens, int32_t *targets)
{
	uint64_t windows = (uint64_t)dataset->windows;
	uint64_t epoch = index / windows, window = index % windows;
	int64_t seq = dataset->seq;

	if (dataset->shuffle)
		window = mt_random_permute(dataset->seed, SHUFFLE_STREAM + epoch, window, windows);
	/* seq inputs, then the last target by itself: the rest of the targets are the inputs moved by one */
	int64_t first = (int64_t)window * seq;
	MT_TRY(dataset->source.kind->read(&dataset->source, first, seq, tokens));
	memcpy(targets, tokens + 1, (size_t)(seq - 1) * sizeof *targets);
	return dataset->source.kind->read(&dataset->source, first + seq, 1, targets + seq - 1);
}
