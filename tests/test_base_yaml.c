/* base/yaml: the tree, its lines, and what is refused. */
#include "base/random.h"
#include "base/yaml.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static struct mt_yaml *parse(const char *text)
{
	struct mt_yaml *root;
	mt_error_clear();
	if (mt_yaml_parse(&root, text, "f.yaml") != MT_OK)
		fail_msg("%s", mt_error_message());
	return root;
}

static void expect_refused(const char *text, const char *place, const char *cause)
{
	struct mt_yaml *root = (struct mt_yaml *)1;
	mt_error_clear();
	assert_int_equal(mt_yaml_parse(&root, text, "f.yaml"), MT_INPUT);
	assert_null(root);
	if (!strstr(mt_error_message(), place) || !strstr(mt_error_message(), cause))
		fail_msg("'%s' lacks '%s' or '%s'", mt_error_message(), place, cause);
	mt_error_clear();
}

static void a_tree_keeps_kinds_texts_and_lines(void **state)
{
	(void)state;
	struct mt_yaml *root =
		parse("# comment\nmodel:\n  name: \"gpt2\"\n  sizes: [1, 2]\nnodes:\n  - host: a\n    gpus: 8\n  - b\n");
	const struct mt_yaml *model = mt_yaml_get(root, "model"), *nodes = mt_yaml_get(root, "nodes");

	assert_int_equal(root->kind, MT_YAML_MAP);
	assert_int_equal(root->count, 2);
	assert_int_equal(model->line, 2);
	assert_int_equal(mt_yaml_get(model, "name")->line, 3);
	assert_true(mt_yaml_get(model, "name")->quoted);
	assert_string_equal(mt_yaml_get(model, "name")->text, "gpt2");
	assert_int_equal(mt_yaml_get(model, "sizes")->kind, MT_YAML_LIST);
	assert_string_equal(mt_yaml_get(model, "sizes")->items[1]->text, "2");
	assert_int_equal(nodes->count, 2);
	assert_int_equal(mt_yaml_get(nodes->items[0], "gpus")->line, 7);
	assert_int_equal(nodes->items[1]->line, 8);
	assert_string_equal(nodes->items[1]->file, "f.yaml");
	assert_null(mt_yaml_get(root, "absent"));
	assert_null(mt_yaml_get(NULL, "absent"));
	assert_null(mt_yaml_get(nodes, "host"));
	mt_yaml_free(root);
}

static void json_is_read_too(void **state)
{
	int64_t heads;

	(void)state;
	struct mt_yaml *root = parse("{\"n_head\": 12,\n \"list\": [1, {\"a\": null}]}");
	assert_int_equal(mt_yaml_int(mt_yaml_get(root, "n_head"), "n_head", &heads), MT_OK);
	assert_int_equal(heads, 12);
	assert_int_equal(mt_yaml_get(root, "list")->line, 2);
	mt_yaml_free(root);
}

static void an_empty_file_is_an_empty_map(void **state)
{
	static const char *const texts[] = {"", "# only a comment\n", "\n\n"};

	(void)state;
	for (int i = 0; i < 3; i++) {
		struct mt_yaml *root = parse(texts[i]);
		assert_int_equal(root->kind, MT_YAML_MAP);
		assert_int_equal(root->count, 0);
		mt_yaml_free(root);
	}
	mt_yaml_free(NULL);
}

static void hidden_meanings_are_refused(void **state)
{
	(void)state;
	expect_refused("a: &x 1\nb: 2\n", "f.yaml:1", "anchor");
	expect_refused("a: 1\nb: *x\n", "f.yaml:2", "aliases");
	expect_refused("a: 1\nb: &y [1]\n", "f.yaml:2", "anchor");
	expect_refused("a: !!int 1\n", "f.yaml:1", "tags");
	expect_refused("a: !mine {b: 1}\n", "f.yaml:1", "tags");
	expect_refused("a: 1\n---\nb: 1\n", "f.yaml:2", "second document");
	expect_refused("a: \"x\\0y\"\n", "f.yaml:1", "NUL");
}

static void duplicate_keys_are_refused(void **state)
{
	(void)state;
	expect_refused("a: 1\nb: 2\na: 3\n", "f.yaml:3", "line 1");
	expect_refused("x:\n  a: 1\n  \"a\": 3\n", "f.yaml:3", "line 2");
	expect_refused("[1]: 2\n", "f.yaml:1", "key");
}

static void syntax_errors_name_the_line(void **state)
{
	(void)state;
	expect_refused("a: 1\nb: [1, 2\nc: 3\n", "f.yaml:3", "");
	expect_refused("a: 1\n\tb: 2\n", "f.yaml:2", "");
	expect_refused("a: \xff\xfe\n", "f.yaml", "UTF-8");
}

static void depth_is_limited_to_32(void **state)
{
	char text[200];

	(void)state;
	for (int depth = 30; depth <= 40; depth++) {
		memset(text, '[', (size_t)depth);
		memset(text + depth, ']', (size_t)depth);
		text[2 * depth] = '\0';
		if (depth <= 32)
			mt_yaml_free(parse(text));
		else
			expect_refused(text, "f.yaml:1", "32");
	}
}

static void long_lists_and_maps_keep_every_item(void **state)
{
	enum { COUNT = 3000 };
	char *text = malloc(COUNT * 32), *end = text;

	(void)state;
	for (int i = 0; i < COUNT; i++)
		end += sprintf(end, "k%d: %d\n", i, i);
	struct mt_yaml *root = parse(text);
	assert_int_equal(root->count, COUNT);
	for (int i = 0; i < COUNT; i++) {
		assert_int_equal(atoi(root->items[i]->text), i);
		assert_int_equal(root->items[i]->line, i + 1);
	}
	mt_yaml_free(root);
	free(text);
}

static void typed_reads_say_what_is_wrong(void **state)
{
	int64_t whole;
	double number;
	const char *text;

	(void)state;
	struct mt_yaml *root = parse("a: 4Gi\nb: 1.5e-3\nc: [1]\nd: x\n");
	assert_int_equal(mt_yaml_int(mt_yaml_get(root, "a"), "a", &whole), MT_OK);
	assert_int_equal(whole, (int64_t)4 << 30);
	assert_int_equal(mt_yaml_float(mt_yaml_get(root, "b"), "b", &number), MT_OK);
	assert_true(number == 1.5e-3);
	assert_int_equal(mt_yaml_string(mt_yaml_get(root, "d"), "d", &text), MT_OK);
	assert_string_equal(text, "x");
	assert_int_equal(mt_yaml_int(mt_yaml_get(root, "b"), "bee", &whole), MT_INPUT);
	assert_non_null(strstr(mt_error_message(), "f.yaml:2: bee"));
	mt_error_clear();
	assert_int_equal(mt_yaml_float(mt_yaml_get(root, "c"), "cee", &number), MT_INPUT);
	assert_non_null(strstr(mt_error_message(), "f.yaml:3: cee"));
	mt_error_clear();
	assert_int_equal(mt_yaml_string(mt_yaml_get(root, "e"), "eee", &text), MT_INPUT);
	assert_non_null(strstr(mt_error_message(), "eee"));
	mt_error_clear();
	mt_yaml_free(root);
}

static void unknown_keys_are_named_with_the_nearest(void **state)
{
	static const char *const known[] = {"model", "layout"};

	(void)state;
	struct mt_yaml *root = parse("model: 1\nlayuot:\n  x: 1\n");
	assert_int_equal(mt_yaml_check_keys(root, known, 2), MT_INPUT);
	assert_non_null(strstr(mt_error_message(), "f.yaml:2"));
	assert_non_null(strstr(mt_error_message(), "'layout'"));
	mt_error_clear();
	mt_yaml_free(root);
}

/* Strings of YAML's own signs: read or refused with a message that names the file, never a crash. */
static void any_text_is_read_or_refused(void **state)
{
	static const char *const pieces[] = {"a", "b: ", ": ", "- ",  "\n", "\n  ",  "[", "]",  "{", "}",    ",",
					     "'", "\"",  "#",  "|\n", "? ", "---\n", "%", "\t", "~", "\xc3", "@"};

	(void)state;
	for (uint64_t seed = 0; seed < 5000; seed++) {
		struct mt_yaml *root;
		char text[128] = "";
		for (uint64_t i = 0; i < mt_random_integer(seed, 1, 1000, 20); i++)
			strcat(text, pieces[mt_random_integer(seed, 1, i, sizeof pieces / sizeof pieces[0])]);
		mt_error_clear();
		enum mt_status st = mt_yaml_parse(&root, text, "f.yaml");
		if (st == MT_OK) {
			assert_non_null(root);
			mt_yaml_free(root);
		} else {
			assert_int_equal(st, MT_INPUT);
			assert_null(root);
			assert_memory_equal(mt_error_message(), "f.yaml", 6);
		}
	}
	mt_error_clear();
}

static void a_missing_file_is_input(void **state)
{
	struct mt_yaml *root;

	(void)state;
	mt_error_clear();
	assert_int_equal(mt_yaml_load(&root, "/nonexistent/x.yaml"), MT_INPUT);
	assert_non_null(strstr(mt_error_message(), "/nonexistent/x.yaml"));
	mt_error_clear();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_tree_keeps_kinds_texts_and_lines),
		cmocka_unit_test(json_is_read_too),
		cmocka_unit_test(an_empty_file_is_an_empty_map),
		cmocka_unit_test(hidden_meanings_are_refused),
		cmocka_unit_test(duplicate_keys_are_refused),
		cmocka_unit_test(syntax_errors_name_the_line),
		cmocka_unit_test(depth_is_limited_to_32),
		cmocka_unit_test(long_lists_and_maps_keep_every_item),
		cmocka_unit_test(typed_reads_say_what_is_wrong),
		cmocka_unit_test(unknown_keys_are_named_with_the_nearest),
		cmocka_unit_test(any_text_is_read_or_refused),
		cmocka_unit_test(a_missing_file_is_input),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
