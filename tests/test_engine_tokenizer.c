/* Tokenizers: their tokens are those of the program that wrote their files, and what is not supported is refused by name. */
#include "base/file.h"
#include "base/json.h"
#include "base/random.h"
#include "engine/tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define FOLDER "tests/data/tokenizers"

static const char *const golden[] = {"gpt2", "llama3", "qwen", "deepseek", "llama2", "metaspace"};
enum { GOLDEN = sizeof golden / sizeof golden[0] };

static char directory[] = "/tmp/mt-tokenizer-XXXXXX";

/* Skips the test where the library that a tokenizer needs was left out of the build. */
static struct mt_tokenizer *open_tokenizer(const char *what)
{
	struct mt_tokenizer *t;

	mt_error_clear();
	enum mt_status st = mt_tokenizer_open(&t, what);
	if (st == MT_UNAVAILABLE) {
		print_message("%s\n", mt_error_message());
		skip();
	}
	if (st != MT_OK)
		fail_msg("%s: %s", what, mt_error_message());
	return t;
}

static struct mt_tokenizer *open_golden(const char *name)
{
	char path[256];

	snprintf(path, sizeof path, FOLDER "/%s.json", name);
	return open_tokenizer(path);
}

static struct mt_encoder *make_encoder(const struct mt_tokenizer *t)
{
	struct mt_encoder *e;

	assert_int_equal(mt_encoder_create(&e, t), MT_OK);
	return e;
}

static void encode(struct mt_encoder *e, const char *text, size_t bytes, struct mt_tokens *tokens)
{
	mt_error_clear();
	tokens->count = 0;
	if (mt_encoder_encode(e, text, bytes, tokens) != MT_OK)
		fail_msg("%s", mt_error_message());
}

static void compare(const char *name, const json_t *text, const json_t *wanted, const struct mt_tokens *got)
{
	if (json_array_size(wanted) != (size_t)got->count)
		fail_msg("%s, '%s': %lld tokens, not %zu", name, json_string_value(text), (long long)got->count,
			 json_array_size(wanted));
	for (int64_t i = 0; i < got->count; i++) {
		if (json_integer_value(json_array_get(wanted, (size_t)i)) != got->ids[i])
			fail_msg("%s, '%s': token %lld is %d, not %lld", name, json_string_value(text), (long long)i, got->ids[i],
				 (long long)json_integer_value(json_array_get(wanted, (size_t)i)));
	}
}

/* The file was written by tests/compare_tokenizers.py with Hugging Face's package. */
static void tokens_are_those_of_the_golden_file(void **state)
{
	for (int i = 0; i < GOLDEN; i++) {
		struct mt_tokenizer *t = open_golden(golden[i]);
		struct mt_encoder *e = make_encoder(t);
		struct mt_tokens tokens = {0};
		FILE *file = fopen(FOLDER "/cases.jsonl", "r");
		char *line = NULL;
		size_t room = 0;
		int cases = 0;

		assert_non_null(file);
		for (; getline(&line, &room, file) > 0; cases++) {
			json_t *root = json_loads(line, 0, NULL), *text = json_object_get(root, "text");
			assert_non_null(text);
			encode(e, json_string_value(text), json_string_length(text), &tokens);
			compare(golden[i], text, json_object_get(root, golden[i]), &tokens);
			json_decref(root);
		}
		assert_in_range(cases, 40, 1000);
		free(line);
		fclose(file);
		free(tokens.ids);
		mt_encoder_destroy(e);
		mt_tokenizer_close(t);
	}
}

/* Any bytes: for tokenizers of bytes that change nothing the way back is exact, valid UTF-8 or not. */
static size_t random_text(uint64_t seed, char text[256])
{
	static const char *const parts[] = {"a",  "the ", " 12",     "\n", "\xc3\xa9", "\xe6\x97\xa5", "\xf0\x9f\x98\x80",
					    "'s", "  ",   "License", "\t", "."};
	size_t bytes = 0, count = 1 + mt_random_integer(seed, 1, 0, 40);

	for (size_t i = 0; i < count; i++) {
		const char *part = parts[mt_random_integer(seed, 2, i, sizeof parts / sizeof parts[0])];
		if (bytes + strlen(part) < 256)
			bytes += (size_t)snprintf(text + bytes, 256 - bytes, "%s", part);
	}
	return bytes;
}

static void decoding_gives_the_text_back(void **state)
{
	static const char *const names[] = {"gpt2", "llama3", "deepseek"};

	for (int i = 0; i < 3; i++) {
		struct mt_tokenizer *t = open_golden(names[i]);
		struct mt_encoder *e = make_encoder(t);
		struct mt_tokens tokens = {0};

		for (uint64_t seed = 0; seed < 300; seed++) {
			char text[256], *back;
			size_t bytes = random_text(seed, text), back_bytes;

			encode(e, text, bytes, &tokens);
			assert_int_equal(mt_tokenizer_decode(t, tokens.ids, tokens.count, &back, &back_bytes), MT_OK);
			assert_int_equal(back_bytes, bytes);
			assert_memory_equal(back, text, bytes);
			free(back);
		}
		free(tokens.ids);
		mt_encoder_destroy(e);
		mt_tokenizer_close(t);
	}
}

/* What an encoder remembers must not show: a fresh one gives the same. */
static void encoders_have_no_memory(void **state)
{
	struct mt_tokenizer *t = open_golden("llama3");
	struct mt_encoder *used = make_encoder(t);
	struct mt_tokens a = {0}, b = {0};

	for (uint64_t seed = 0; seed < 200; seed++) {
		struct mt_encoder *fresh = make_encoder(t);
		char text[256];
		size_t bytes = random_text(seed, text);

		encode(used, text, bytes, &a);
		encode(fresh, text, bytes, &b);
		assert_int_equal(a.count, b.count);
		assert_memory_equal(a.ids, b.ids, (size_t)a.count * sizeof *a.ids);
		mt_encoder_destroy(fresh);
	}
	free(a.ids);
	free(b.ids);
	mt_encoder_destroy(used);
	mt_tokenizer_close(t);
}

static void broken_text_is_mended_and_counted(void **state)
{
	static const char broken[] = "ab\xff"
				     "c\xe6\x97"
				     "d\xed\xa0\x80",
			  mended[] = "ab\xef\xbf\xbd"
				     "c\xef\xbf\xbd\xef\xbf\xbd"
				     "d\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd";
	struct mt_tokenizer *t = open_golden("gpt2");
	struct mt_encoder *e = make_encoder(t);
	struct mt_tokens a = {0}, b = {0};

	encode(e, broken, sizeof broken - 1, &a);
	assert_int_equal(mt_encoder_replaced(e), 6);
	encode(e, mended, sizeof mended - 1, &b);
	assert_int_equal(mt_encoder_replaced(e), 6);
	assert_int_equal(a.count, b.count);
	assert_memory_equal(a.ids, b.ids, (size_t)a.count * sizeof *a.ids);
	free(a.ids);
	free(b.ids);
	mt_encoder_destroy(e);
	mt_tokenizer_close(t);
}

/* One word of many symbols: the merges stay n log n, which a square would not finish. */
static void a_long_word_is_tokenized(void **state)
{
	enum { BYTES = 2 << 20 };
	struct mt_tokenizer *t = open_golden("llama2");
	struct mt_encoder *e = make_encoder(t);
	struct mt_tokens tokens = {0};
	char *text = malloc(BYTES), *back;
	size_t bytes;

	for (size_t i = 0; i < BYTES; i++)
		text[i] = "the license "[mt_random_integer(1, 2, i, 12)];
	encode(e, text, BYTES, &tokens);
	assert_in_range(tokens.count, BYTES / 8, BYTES);
	assert_int_equal(mt_tokenizer_decode(t, tokens.ids, tokens.count, &back, &bytes), MT_OK);
	assert_int_equal(bytes, BYTES + 1); /* and the space that this tokenizer puts before a text */
	assert_memory_equal(back + 1, text, BYTES);
	free(back);
	free(text);
	free(tokens.ids);
	mt_encoder_destroy(e);
	mt_tokenizer_close(t);
}

static const char *write_text(const char *name, const char *text)
{
	static char path[256];

	snprintf(path, sizeof path, "%s/%s", directory, name);
	assert_int_equal(mt_file_write(path, text, strlen(text)), MT_OK);
	return path;
}

/* GPT-2's own files, which newer ones describe in one: the same tokens. */
static void gpt2_files_give_the_tokens_of_the_json(void **state)
{
	struct mt_tokenizer *one = open_golden("gpt2"), *two;
	json_t *root = json_load_file(FOLDER "/gpt2.json", 0, NULL), *model = json_object_get(root, "model"), *merge;
	json_t *added;
	struct mt_tokens a = {0}, b = {0};
	char *merges = NULL;
	size_t bytes, i;
	FILE *out = open_memstream(&merges, &bytes);

	fprintf(out, "#version: 0.2\n");
	json_array_foreach(json_object_get(model, "merges"), i, merge)
		fprintf(out, "%s %s\n", json_string_value(json_array_get(merge, 0)), json_string_value(json_array_get(merge, 1)));
	fclose(out);
	added = json_array_get(json_object_get(root, "added_tokens"), 0);
	json_object_set(json_object_get(model, "vocab"), json_string_value(json_object_get(added, "content")),
			json_object_get(added, "id"));
	char *vocab = json_dumps(json_object_get(model, "vocab"), 0);
	write_text("merges.txt", merges);
	two = open_tokenizer(write_text("vocab.json", vocab));
	struct mt_encoder *x = make_encoder(one), *y = make_encoder(two);
	assert_int_equal(mt_tokenizer_vocab(one), mt_tokenizer_vocab(two));
	assert_int_equal(mt_tokenizer_end(one), mt_tokenizer_end(two));
	for (uint64_t seed = 0; seed < 100; seed++) {
		char text[512] = "<|endoftext|>";
		size_t length = 13 + random_text(seed, text + 13);
		encode(x, text, length, &a);
		encode(y, text, length, &b);
		assert_int_equal(a.count, b.count);
		assert_memory_equal(a.ids, b.ids, (size_t)a.count * sizeof *a.ids);
		assert_int_equal(a.ids[0], mt_tokenizer_end(one));
	}
	free(a.ids);
	free(b.ids);
	free(vocab);
	free(merges);
	json_decref(root);
	mt_encoder_destroy(x);
	mt_encoder_destroy(y);
	mt_tokenizer_close(one);
	mt_tokenizer_close(two);
}

static void what_is_not_supported_is_named(void **state)
{
	static const struct {
		const char *text, *part;
	} cases[] = {
		{"{", "tokenizer.json"},
		{"{}", "no BPE"},
		{"{\"model\": {\"type\": \"Unigram\", \"vocab\": []}}", "Unigram"},
		{"{\"model\": {\"vocab\": {}, \"merges\": []}}", "no vocabulary"},
		{"{\"model\": {\"vocab\": {\"a\": \"x\"}, \"merges\": []}}", "'a'"},
		{"{\"model\": {\"vocab\": {\"a\": 99999999}, \"merges\": []}}", "numbers go"},
		{"{\"model\": {\"vocab\": {\"a\": -1}, \"merges\": []}}", "'a'"},
		{"{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [\"a b\"]}}", "merge 0"},
		{"{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [\"ab\"]}}", "merge 0"},
		{"{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [7]}}", "merge 0"},
		{"{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [], \"end_of_word_suffix\": \"</w>\"}}", "end_of_word_suffix"},
		{"{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [], \"dropout\": 0.1}}", "dropout"},
		{"{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": []}, \"normalizer\": {\"type\": \"NFKC\"}}", "NFKC"},
		{"{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": []}, \"pre_tokenizer\": {\"type\": \"Whitespace\"}}",
		 "Whitespace"},
		{"{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": []}, \"added_tokens\": [{\"id\": 1}]}", "added token 0"},
	};

	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct mt_tokenizer *t;

		mt_error_clear();
		assert_int_equal(mt_tokenizer_open(&t, write_text("tokenizer.json", cases[i].text)), MT_INPUT);
		assert_null(t);
		if (!strstr(mt_error_message(), cases[i].part))
			fail_msg("no '%s' in: %s", cases[i].part, mt_error_message());
	}
}

static int make_directory(void **state)
{
	return mkdtemp(directory) ? 0 : -1;
}

static int remove_directory(void **state)
{
	char command[300];

	snprintf(command, sizeof command, "rm -rf %s", directory);
	return system(command);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tokens_are_those_of_the_golden_file),
		cmocka_unit_test(decoding_gives_the_text_back),
		cmocka_unit_test(encoders_have_no_memory),
		cmocka_unit_test(broken_text_is_mended_and_counted),
		cmocka_unit_test(a_long_word_is_tokenized),
		cmocka_unit_test(gpt2_files_give_the_tokens_of_the_json),
		cmocka_unit_test(what_is_not_supported_is_named),
	};
	return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
