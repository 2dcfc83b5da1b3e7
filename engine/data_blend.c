/* data_blend: see data_blend.h.
 *
 * Sample i goes to the source that is furthest behind its share, the largest w * max(i,1) - given, the first of equals: Megatron's
 * rule (megatron/core/datasets/helpers.cpp), under which no source is ever more than about one sample away from its share.
 * The rule is walked once for a period of samples and then repeats, so that any sample is found at once and a run may
 * be of any length: a source's share is kept to within one sample in a period. */
#include "engine/data_blend.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PERIOD = 1 << 20, MOST_SOURCES = 4096 };
#define LEAST_SHARE 1e-5

/* A blend begins with a number and has an even number of words; anything else is one path. */
static bool is_blend(const char *text)
{
	char *end;
	const double weight = text ? strtod(text, &end) : 0;

	return text && end != text && (*end == ' ' || *end == '\t') && !isnan(weight) && end[strspn(end, " \t")];
}

static enum mt_status add(struct mt_blend *b, double weight, const char *path)
{
	b->weights[b->count] = weight;
	b->paths[b->count] = path ? strdup(path) : NULL;
	if (path && !b->paths[b->count])
		return mt_fail(MT_NOMEM, "out of memory for a blend");
	b->count++;
	return MT_OK;
}

/* The words of a blend, two by two. */
static enum mt_status parse(struct mt_blend *b, char *words, const char *text)
{
	char *save = NULL, *end;

	for (char *word = strtok_r(words, " \t", &save); word; word = strtok_r(NULL, " \t", &save)) {
		double weight = strtod(word, &end);
		const char *path = strtok_r(NULL, " \t", &save);

		if (*end || !(weight > 0) || !isfinite(weight))
			return mt_fail(MT_INPUT,
				       "data path '%s': weight '%s' is no positive number; a blend is 'WEIGHT PATH WEIGHT PATH'",
				       text, word);
		if (!path)
			return mt_fail(MT_INPUT, "data path '%s': weight %s has no path behind it", text, word);
		if (b->count == MOST_SOURCES)
			return mt_fail(MT_INPUT, "data path: a blend has at most %d sources", MOST_SOURCES);
		MT_TRY(add(b, weight, path));
	}
	return MT_OK;
}

static enum mt_status normalize(struct mt_blend *b, const char *text)
{
	double sum = 0;

	for (int i = 0; i < b->count; i++)
		sum += b->weights[i];
	for (int i = 0; i < b->count; i++) {
		b->weights[i] /= sum;
		if (b->weights[i] < LEAST_SHARE)
			return mt_fail(MT_INPUT, "data path '%s': the share of %s is below %g: leave it out or raise its weight",
				       text, b->paths[i], LEAST_SHARE);
	}
	return MT_OK;
}

/* The source that is furthest behind: a plain search, 2^20 times the sources in all, some ms for a few of them. */
static enum mt_status walk(struct mt_blend *b)
{
	b->choice = malloc(PERIOD * sizeof *b->choice);
	b->number = malloc(PERIOD * sizeof *b->number);
	b->totals = calloc((size_t)b->count, sizeof *b->totals);
	if (!b->choice || !b->number || !b->totals)
		return mt_fail(MT_NOMEM, "out of memory for a blend of %d sources", b->count);
	for (uint32_t i = 0; i < PERIOD; i++) {
		double most = -INFINITY;
		int source = 0;

		for (int d = 0; d < b->count; d++) {
			double behind = b->weights[d] * (i ? i : 1) - b->totals[d];
			if (behind > most) {
				most = behind;
				source = d;
			}
		}
		b->choice[i] = (uint16_t)source;
		b->number[i] = b->totals[source]++;
	}
	return MT_OK;
}

enum mt_status mt_blend_create(struct mt_blend *blend, const char *text)
{
	size_t most = (text ? strlen(text) : 0) / 2 + 2;
	char *words = strdup(text ? text : "");
	enum mt_status st = MT_OK;

	memset(blend, 0, sizeof *blend);
	blend->weights = calloc(most, sizeof *blend->weights);
	blend->paths = calloc(most, sizeof *blend->paths);
	if (!words || !blend->weights || !blend->paths)
		st = mt_fail(MT_NOMEM, "out of memory for a blend");
	if (st == MT_OK)
		st = is_blend(text) ? parse(blend, words, text) : add(blend, 1, text);
	free(words);
	if (st == MT_OK && blend->count > 1)
		st = normalize(blend, text);
	if (st == MT_OK && blend->count > 1)
		st = walk(blend);
	if (st != MT_OK)
		mt_blend_free(blend);
	return st;
}

void mt_blend_free(struct mt_blend *blend)
{
	for (int i = 0; i < blend->count; i++)
		free(blend->paths[i]);
	free(blend->paths);
	free(blend->weights);
	free(blend->choice);
	free(blend->number);
	free(blend->totals);
	memset(blend, 0, sizeof *blend);
}

int mt_blend_find(const struct mt_blend *blend, uint64_t index, uint64_t *number)
{
	if (blend->count == 1) {
		*number = index;
		return 0;
	}
	uint64_t period = index / PERIOD, within = index % PERIOD;
	int source = blend->choice[within];
	*number = period * blend->totals[source] + blend->number[within];
	return source;
}
