/* data_synthetic: tokens that cost nothing to make and that a model can learn.
 *
 * A chain in blocks of BLOCK tokens, so that any place is reached by a short walk. A block begins with a drawn token;
 * then, 7 times in 8, the token is a fixed function of the one before (what there is to learn), else drawn. Drawn tokens
 * are skewed to low numbers, floor(V * u^3), as words are to frequent ones, so that the loss falls from the first steps on. */
#include "engine/data_source.h"

#include "base/random.h"

#include <stdio.h>
#include <stdlib.h>

#define BLOCK         64
#define WINDOWS       65536
#define TOKEN_STREAM  0xda7b000000000000u
#define CHOICE_STREAM 0xda7c000000000000u

struct synthetic {
	uint64_t seed;
};

static int32_t draw(const struct synthetic *s, int64_t vocab, int64_t at)
{
	double u = mt_random_uniform(s->seed, TOKEN_STREAM, (uint64_t)at);
	return (int32_t)((double)vocab * u * u * u);
}

/* Any fixed map would do; this one has no short cycles for most vocabularies. */
static int32_t successor(int32_t token, int64_t vocab)
{
	return (int32_t)(((int64_t)token * 31 + 17) % vocab);
}

static int32_t next(const struct synthetic *s, int64_t vocab, int64_t at, int32_t before)
{
	if (at % BLOCK == 0 || mt_random_integer(s->seed, CHOICE_STREAM, (uint64_t)at, 8) == 0)
		return draw(s, vocab, at);
	return successor(before, vocab);
}

static enum mt_status read_synthetic(const struct mt_source *source, int64_t first, int64_t count, int32_t *tokens)
{
	const struct synthetic *s = source->state;
	int32_t token = 0;

	for (int64_t at = first - first % BLOCK; at < first + count; at++) {
		token = next(s, source->vocab, at, token);
		if (at >= first)
			tokens[at - first] = token;
	}
	return MT_OK;
}

/* A block depends on no other: it is a document. */
static enum mt_status find_synthetic(const struct mt_source *source, int64_t token, int64_t *first, int64_t *end)
{
	*first = token - token % BLOCK;
	*end = *first + BLOCK;
	return MT_OK;
}

static void close_synthetic(struct mt_source *source)
{
	free(source->state);
}

static const struct mt_source_kind synthetic_kind = {read_synthetic, find_synthetic, close_synthetic};

enum mt_status mt_source_open_synthetic(struct mt_source *source, int64_t seq, uint64_t seed)
{
	struct synthetic *s = malloc(sizeof *s);

	if (!s)
		return mt_fail(MT_NOMEM, "out of memory opening synthetic data");
	s->seed = seed;
	source->kind = &synthetic_kind;
	source->state = s;
	source->tokens = WINDOWS * seq + 1;
	snprintf(source->text, sizeof source->text, "synthetic tokens, %d sequences of %lld", WINDOWS, (long long)seq);
	return MT_OK;
}
