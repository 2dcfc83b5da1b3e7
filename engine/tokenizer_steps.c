/* tokenizer_steps: the normalizer and the pre-tokenizer of a tokenizer.json, into steps. What has no step here is refused by name:
 * a part that were left out would give other tokens than the model was trained with. */
#include "engine/tokenizer_parts.h"

#include <stdlib.h>
#include <string.h>

/* Radford et al. 2019, encoder.py: contractions, letters, numbers, the rest, and spaces up to the one before a word. */
#define GPT2_PATTERN "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

static const char *text_of(const json_t *node, const char *key)
{
	const char *text = json_string_value(json_object_get(node, key));
	return text ? text : "";
}

static bool is_true(const json_t *node, const char *key, bool otherwise)
{
	const json_t *value = json_object_get(node, key);
	return json_is_boolean(value) ? json_is_true(value) : otherwise;
}

/* --- the normalizer --- */

static enum mt_status add_normalize(struct mt_tokenizer *t, enum mt_normalize_kind kind, const char *from, const char *to,
				    const char *path)
{
	struct mt_normalize_step *step = &t->normalize[t->normalize_count];

	if (t->normalize_count == MT_TOKENIZER_STEPS)
		return mt_fail(MT_INPUT, "%s: the normalizer has more than %d steps", path, MT_TOKENIZER_STEPS);
	*step = (struct mt_normalize_step){kind, strdup(from), strdup(to)};
	t->normalize_count++;
	return step->from && step->to ? MT_OK : mt_fail(MT_NOMEM, "out of memory reading %s", path);
}

static enum mt_status read_replace(struct mt_tokenizer *t, const json_t *node, const char *path)
{
	const char *from = text_of(json_object_get(node, "pattern"), "String");

	if (!*from)
		return mt_fail(MT_INPUT, "%s: a Replace of the normalizer has a pattern that is no string, which is not supported",
			       path);
	return add_normalize(t, MT_NORMALIZE_REPLACE, from, text_of(node, "content"), path);
}

enum mt_status mt_tokenizer_read_normalizer(struct mt_tokenizer *t, const json_t *node, const char *path)
{
	const char *type = text_of(node, "type");
	const json_t *item;
	size_t i;

	if (!node || json_is_null(node))
		return MT_OK;
	if (!strcmp(type, "Sequence")) {
		json_array_foreach(json_object_get(node, "normalizers"), i, item)
			MT_TRY(mt_tokenizer_read_normalizer(t, item, path));
		return MT_OK;
	}
	if (!strcmp(type, "NFC"))
		return add_normalize(t, MT_NORMALIZE_NFC, "", "", path);
	if (!strcmp(type, "Prepend"))
		return add_normalize(t, MT_NORMALIZE_PREPEND, "", text_of(node, "prepend"), path);
	if (!strcmp(type, "Replace"))
		return read_replace(t, node, path);
	return mt_fail(MT_INPUT, "%s: normalizer %s is not supported; NFC, Prepend, Replace and Sequence are", path, type);
}

/* --- the pre-tokenizer --- */

static enum mt_status next_step(struct mt_tokenizer *t, struct mt_split_step **step, const char *path)
{
	*step = NULL;
	if (t->split_count == MT_TOKENIZER_STEPS)
		return mt_fail(MT_INPUT, "%s: the pre-tokenizer has more than %d steps", path, MT_TOKENIZER_STEPS);
	*step = &t->split[t->split_count++];
	memset(*step, 0, sizeof **step);
	return MT_OK;
}

static enum mt_status add_pattern(struct mt_tokenizer *t, const char *pattern, bool literal, bool matches, bool gaps,
				  const char *path)
{
	struct mt_split_step *step;

	MT_TRY(next_step(t, &step, path));
	step->kind = MT_SPLIT_PATTERN;
	step->keeps_matches = matches;
	step->keeps_gaps = gaps;
	return mt_pattern_compile(&step->code, pattern, literal, path);
}

enum mt_status mt_tokenizer_split_gpt2(struct mt_tokenizer *t, const char *path)
{
	t->byte_level = true;
	return add_pattern(t, GPT2_PATTERN, false, true, true, path);
}

static enum mt_status read_byte_level(struct mt_tokenizer *t, const json_t *node, const char *path)
{
	struct mt_split_step *step;

	t->byte_level = true;
	if (is_true(node, "add_prefix_space", true)) {
		MT_TRY(next_step(t, &step, path));
		step->kind = MT_SPLIT_SPACE;
	}
	return is_true(node, "use_regex", true) ? mt_tokenizer_split_gpt2(t, path) : MT_OK;
}

static enum mt_status read_split(struct mt_tokenizer *t, const json_t *node, const char *path)
{
	const json_t *pattern = json_object_get(node, "pattern");
	const char *regex = text_of(pattern, "Regex"), *literal = text_of(pattern, "String"), *behavior = text_of(node, "behavior");
	bool invert = is_true(node, "invert", false), removed = !strcmp(behavior, "Removed");

	if (!*regex && !*literal)
		return mt_fail(MT_INPUT, "%s: a Split of the pre-tokenizer has no pattern", path);
	if (!removed && strcmp(behavior, "Isolated") != 0)
		return mt_fail(MT_INPUT, "%s: a Split with behavior %s is not supported; Isolated and Removed are", path, behavior);
	return add_pattern(t, *regex ? regex : literal, !*regex, !removed || invert, !removed || !invert, path);
}

static enum mt_status read_metaspace(struct mt_tokenizer *t, const json_t *node, const char *path)
{
	const char *scheme = text_of(node, "prepend_scheme");
	bool prefix = is_true(node, "add_prefix_space", true); /* how it was written before there was a scheme */
	struct mt_split_step *step;

	MT_TRY(next_step(t, &step, path));
	step->kind = MT_SPLIT_META;
	step->mark = strdup(*text_of(node, "replacement") ? text_of(node, "replacement") : "\xe2\x96\x81");
	step->cuts = is_true(node, "split", true);
	if (!*scheme)
		scheme = prefix ? "always" : "never";
	step->prepend = !strcmp(scheme, "first")   ? MT_PREPEND_FIRST
			: !strcmp(scheme, "never") ? MT_PREPEND_NEVER
						   : MT_PREPEND_ALWAYS;
	return step->mark ? MT_OK : mt_fail(MT_NOMEM, "out of memory reading %s", path);
}

enum mt_status mt_tokenizer_read_splitter(struct mt_tokenizer *t, const json_t *node, const char *path)
{
	const char *type = text_of(node, "type");
	const json_t *item;
	size_t i;

	if (!node || json_is_null(node))
		return MT_OK;
	if (!strcmp(type, "Sequence")) {
		json_array_foreach(json_object_get(node, "pretokenizers"), i, item)
			MT_TRY(mt_tokenizer_read_splitter(t, item, path));
		return MT_OK;
	}
	if (!strcmp(type, "ByteLevel"))
		return read_byte_level(t, node, path);
	if (!strcmp(type, "Split"))
		return read_split(t, node, path);
	if (!strcmp(type, "Metaspace"))
		return read_metaspace(t, node, path);
	if (!strcmp(type, "Digits"))
		return add_pattern(t, is_true(node, "individual_digits", false) ? "\\p{N}" : "\\p{N}+", false, true, true, path);
	return mt_fail(MT_INPUT, "%s: pre-tokenizer %s is not supported; ByteLevel, Split, Metaspace, Digits and Sequence are",
		       path, type);
}
