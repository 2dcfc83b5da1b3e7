/* tokenizer_json: a Hugging Face tokenizer.json with a BPE model.
 *
 * Read: model, normalizer, pre_tokenizer, added_tokens. Left alone: post_processor (tokens around a chat's turns), decoder
 * (this side of it follows from the rest), truncation and padding. */
#include "base/json.h"
#include "engine/tokenizer_parts.h"

#include <string.h>

static bool is_set(const json_t *node, const char *key)
{
	const json_t *value = json_object_get(node, key);
	return value && !json_is_null(value) && !(json_is_string(value) && json_string_length(value) == 0);
}

/* A merge is "left right" or, in newer files, [left, right]. */
static enum mt_status read_merge(struct mt_tokenizer *t, const json_t *item, uint32_t rank, const char *path)
{
	const char *left = json_string_value(item), *right;

	if (left) {
		right = strchr(left, ' ');
		if (right && right > left && right[1])
			return mt_tokenizer_add_merge(t, left, (size_t)(right - left), right + 1, strlen(right + 1), rank, path);
	} else {
		left = json_string_value(json_array_get(item, 0));
		right = json_string_value(json_array_get(item, 1));
		if (left && right)
			return mt_tokenizer_add_merge(t, left, strlen(left), right, strlen(right), rank, path);
	}
	return mt_fail(MT_INPUT, "%s: merge %u is not a pair of tokens", path, rank);
}

static enum mt_status read_model(struct mt_tokenizer *t, const json_t *model, const char *path)
{
	static const char *const refused[] = {"continuing_subword_prefix", "end_of_word_suffix", "dropout"};
	const char *type = json_string_value(json_object_get(model, "type"));
	const json_t *merges = json_object_get(model, "merges"), *item;
	const char *unknown;
	size_t i;

	if (!json_is_object(model) || !json_is_array(merges) || (type && strcmp(type, "BPE") != 0))
		return mt_fail(MT_INPUT, "%s: its model is %s; only BPE, with a vocabulary and merges, is supported", path,
			       type ? type : "no BPE");
	for (i = 0; i < sizeof refused / sizeof refused[0]; i++) {
		if (is_set(model, refused[i]) && json_number_value(json_object_get(model, refused[i])) == 0)
			return mt_fail(MT_INPUT, "%s: %s of its model is not supported", path, refused[i]);
	}
	if (json_number_value(json_object_get(model, "dropout")) != 0)
		return mt_fail(MT_INPUT, "%s: dropout of its model is not supported", path);
	t->byte_fallback = json_is_true(json_object_get(model, "byte_fallback"));
	t->fuse_unknown = json_is_true(json_object_get(model, "fuse_unk"));
	t->whole_words = json_is_true(json_object_get(model, "ignore_merges"));
	MT_TRY(mt_tokenizer_add_vocabulary(t, json_object_get(model, "vocab"), path));
	MT_TRY(mt_merges_create(&t->merges, json_array_size(merges)));
	json_array_foreach((json_t *)merges, i, item) MT_TRY(read_merge(t, item, (uint32_t)i, path));
	unknown = json_string_value(json_object_get(model, "unk_token"));
	t->unknown = unknown ? mt_tokenizer_find(t, unknown) : -1;
	return MT_OK;
}

static enum mt_status read_added(struct mt_tokenizer *t, const json_t *list, const char *path)
{
	const json_t *item;
	size_t i;

	json_array_foreach((json_t *)list, i, item)
	{
		const char *text = json_string_value(json_object_get(item, "content"));
		const json_t *id = json_object_get(item, "id");

		if (!text || !*text || !json_is_integer(id))
			return mt_fail(MT_INPUT, "%s: added token %zu has no content or no id", path, i);
		if (json_is_true(json_object_get(item, "single_word")))
			return mt_fail(MT_INPUT, "%s: added token '%s' is a single word, which is not supported", path, text);
		if (json_integer_value(id) < 0 || json_integer_value(id) > INT32_MAX)
			return mt_fail(MT_INPUT, "%s: added token '%s' has no usable id", path, text);
		const struct mt_added added = {.text = (char *)text,
					       .id = (int32_t)json_integer_value(id),
					       .normalized = json_is_true(json_object_get(item, "normalized")),
					       .lstrip = json_is_true(json_object_get(item, "lstrip")),
					       .rstrip = json_is_true(json_object_get(item, "rstrip"))};
		MT_TRY(mt_tokenizer_add_special(t, &added, path));
	}
	return MT_OK;
}

enum mt_status mt_tokenizer_load_json(struct mt_tokenizer *t, const char *path)
{
	json_t *root = NULL;
	enum mt_status st;

	MT_GOTO(out, mt_json_load(&root, path));
	MT_GOTO(out, read_model(t, json_object_get(root, "model"), path));
	MT_GOTO(out, mt_tokenizer_read_normalizer(t, json_object_get(root, "normalizer"), path));
	MT_GOTO(out, mt_tokenizer_read_splitter(t, json_object_get(root, "pre_tokenizer"), path));
	MT_GOTO(out, read_added(t, json_object_get(root, "added_tokens"), path));
	st = mt_tokenizer_complete(t, path);
out:
	json_decref(root);
	return st;
}
