/* base/options: text to struct and back, and what is refused. */
#define _GNU_SOURCE
#include "base/options.h"
#include "base/random.h"
#include "base/yaml.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

struct values {
	bool sp;
	int64_t tp, bytes;
	double rate;
	int recompute;
	char *data, *note, cut[MT_OPTION_TEXT_BYTES];
};

static const char *const recompute_choices[] = {"none", "selective", "full_layer", NULL};

static const struct mt_option options[] = {
	{"sp", MT_OPTION_BOOL, offsetof(struct values, sp), "true", 0, 0, NULL, "sequence parallelism"},
	{"tp", MT_OPTION_INT, offsetof(struct values, tp), "1", 1, 1024, NULL,
	 "tensor-parallel ranks, a divisor of the attention heads, at best within a node"},
	{"bucket_bytes", MT_OPTION_INT, offsetof(struct values, bytes), "40Mi", 0, 0, NULL, "bucket size in bytes"},
	{"rate", MT_OPTION_FLOAT, offsetof(struct values, rate), "3e-4", 0, 1, NULL, "learning rate"},
	{"recompute", MT_OPTION_CHOICE, offsetof(struct values, recompute), "selective", 0, 0, recompute_choices,
	 "what is recomputed"},
	{"data", MT_OPTION_STRING, offsetof(struct values, data), "synthetic", 0, 0, NULL, "data set"},
	{"note", MT_OPTION_STRING, offsetof(struct values, note), NULL, 0, 0, NULL, "free text"},
	{"cut", MT_OPTION_TEXT, offsetof(struct values, cut), NULL, 0, 0, NULL, "layers by stage"},
};
static const struct mt_option_table table = {"layout", options, sizeof options / sizeof options[0]};

static enum mt_status read_text(struct values *values, const char *text)
{
	struct mt_yaml *root;
	mt_error_clear();
	enum mt_status st = mt_yaml_parse(&root, text, "run.yaml");
	if (st == MT_OK) {
		st = mt_options_read(&table, values, mt_yaml_get(root, "layout"));
		mt_yaml_free(root);
	}
	return st;
}

static void expect_refused(const char *text, const char *place, const char *hint)
{
	struct values values;
	mt_options_default(&table, &values);
	assert_int_equal(read_text(&values, text), MT_INPUT);
	if (!strstr(mt_error_message(), place) || !strstr(mt_error_message(), hint))
		fail_msg("'%s' lacks '%s' or '%s'", mt_error_message(), place, hint);
	mt_options_free(&table, &values);
	mt_error_clear();
}

static void defaults_come_from_the_table(void **state)
{
	struct values values;

	(void)state;
	mt_options_default(&table, &values);
	assert_true(values.sp);
	assert_int_equal(values.tp, 1);
	assert_int_equal(values.bytes, 40 << 20);
	assert_true(values.rate == 3e-4);
	assert_int_equal(values.recompute, 1);
	assert_string_equal(values.data, "synthetic");
	assert_null(values.note);
	assert_string_equal(values.cut, "");
	mt_options_free(&table, &values);
	assert_null(values.data);
}

static void a_section_sets_what_it_names(void **state)
{
	struct values values;

	(void)state;
	mt_options_default(&table, &values);
	assert_int_equal(
		read_text(&values,
			  "layout:\n  sp: off\n  tp: 8\n  bucket-bytes: 1.5Gi\n  rate: 1\n  recompute: full-layer\n  data: null\n"),
		MT_OK);
	assert_false(values.sp);
	assert_int_equal(values.tp, 8);
	assert_int_equal(values.bytes, (int64_t)3 << 29);
	assert_true(values.rate == 1);
	assert_int_equal(values.recompute, 2);
	assert_null(values.data);
	assert_int_equal(read_text(&values, "other: 1\n"), MT_OK);
	assert_int_equal(read_text(&values, "layout:\n"), MT_OK);
	assert_int_equal(values.tp, 8);
	mt_options_free(&table, &values);
}

static void an_unknown_key_names_its_line_and_the_nearest(void **state)
{
	(void)state;
	expect_refused("layout:\n  tp: 2\n\n  recomptue: full_layer\n", "run.yaml:4", "'recompute'");
	expect_refused("layout:\n  bucketbytes: 2\n", "run.yaml:2", "'bucket_bytes'");
	expect_refused("layout:\n  zzzzzzzz: 2\n", "run.yaml:2", "unknown option");
}

static void a_value_out_of_range_names_the_nearest_valid(void **state)
{
	(void)state;
	expect_refused("layout:\n  tp: 0\n", "run.yaml:2", "nearest valid value is 1");
	expect_refused("layout:\n  tp: 2000\n", "run.yaml:2", "nearest valid value is 1024");
	expect_refused("layout:\n  rate: 1.5\n", "run.yaml:2", "nearest valid value is 1");
	expect_refused("layout:\n  rate: -1e-9\n", "run.yaml:2", "nearest valid value is 0");
}

static void a_wrong_value_is_refused_with_its_line(void **state)
{
	(void)state;
	expect_refused("layout:\n  recompute: ful_layer\n", "run.yaml:2", "'full_layer'");
	expect_refused("layout:\n  recompute: 1\n", "run.yaml:2", "none, selective, full_layer");
	expect_refused("layout:\n  tp: two\n", "run.yaml:2", "whole number");
	expect_refused("layout:\n  tp: 1.5\n", "run.yaml:2", "whole number");
	expect_refused("layout:\n  bucket_bytes: 99999999999999999999\n", "run.yaml:2", "whole number");
	expect_refused("layout:\n  rate: nan\n", "run.yaml:2", "number");
	expect_refused("layout:\n  sp: maybe\n", "run.yaml:2", "true or false");
	expect_refused("layout:\n  tp:\n", "run.yaml:2", "no value");
	expect_refused("layout:\n  tp: [1, 2]\n", "run.yaml:2", "list");
	expect_refused("layout: 3\n", "run.yaml:1", "mapping");
}

static void the_command_line_sets_with_either_dash(void **state)
{
	struct values values;

	(void)state;
	mt_options_default(&table, &values);
	assert_int_equal(mt_options_set(&table, &values, "bucket-bytes", "4K", "command line"), MT_OK);
	assert_int_equal(values.bytes, 4000);
	assert_int_equal(mt_options_set(&table, &values, "bucket_bytes", "-4Ki", "command line"), MT_OK);
	assert_int_equal(values.bytes, -4096);
	assert_int_equal(mt_options_set(&table, &values, "note", "\xff", "command line"), MT_INPUT);
	mt_error_clear();
	assert_int_equal(mt_options_set(&table, &values, "tpp", "1", "command line"), MT_INPUT);
	assert_non_null(strstr(mt_error_message(), "command line"));
	mt_error_clear();
	mt_options_free(&table, &values);
}

/* Two structs with the same text are the same bytes, whatever was there before. */
static void a_text_lies_in_the_struct_and_must_fit(void **state)
{
	char long_text[MT_OPTION_TEXT_BYTES + 1];
	struct values values, copy;

	(void)state;
	mt_options_default(&table, &values);
	copy = values;
	assert_int_equal(read_text(&values, "layout:\n  cut: \"3,4x6,2\"\n"), MT_OK);
	assert_string_equal(values.cut, "3,4x6,2");
	assert_int_equal(read_text(&values, "layout:\n  cut: 8\n"), MT_OK);
	assert_string_equal(values.cut, "8");
	assert_int_equal(mt_options_set(&table, &values, "cut", "\xff", "command line"), MT_INPUT);
	mt_error_clear();
	memset(long_text, '1', sizeof long_text - 1);
	long_text[sizeof long_text - 1] = '\0';
	assert_int_equal(mt_options_set(&table, &values, "cut", long_text, "command line"), MT_INPUT);
	assert_non_null(strstr(mt_error_message(), "at most 255"));
	mt_error_clear();
	assert_string_equal(values.cut, "8");
	assert_int_equal(mt_options_set(&table, &values, "cut", long_text + 1, "command line"), MT_OK);
	assert_int_equal(read_text(&values, "layout:\n  cut:\n"), MT_OK);
	assert_memory_equal(&values, &copy, sizeof values);
	mt_options_free(&table, &values);
}

static char *write_to_text(const struct values *values)
{
	char *text = NULL;
	size_t bytes = 0;
	FILE *file = open_memstream(&text, &bytes);
	assert_non_null(file);
	mt_options_write(&table, values, file);
	fclose(file);
	return text;
}

/* Random text of what YAML may trip over. */
static void random_text(char text[24], uint64_t seed)
{
	static const char *const pieces[] = {"a", "7",  ":",        "#",    "'", "\"", "\\",   " ", "\n", "-", "{",
					     "]", "\t", "\xc3\xa9", "null", "%", "~",  "\x7f", "&", "*",  "!"};
	text[0] = '\0';
	for (uint64_t i = 0; i < mt_random_integer(seed, 1, 99, 5); i++)
		strcat(text, pieces[mt_random_integer(seed, 1, i, 21)]);
}

static void written_options_read_back_equal(void **state)
{
	(void)state;
	for (uint64_t seed = 0; seed < 500; seed++) {
		struct values written, read;
		char text[24];
		mt_options_default(&table, &written);
		mt_options_default(&table, &read);
		written.sp = seed % 2;
		written.tp = 1 + (int64_t)mt_random_integer(seed, 2, 0, 1024);
		written.bytes = (int64_t)mt_random_integer(seed, 2, 1, UINT64_MAX);
		written.rate = mt_random_uniform(seed, 2, 2) * pow(10, -(double)mt_random_integer(seed, 2, 3, 300));
		written.recompute = (int)mt_random_integer(seed, 2, 4, 3);
		random_text(text, seed);
		assert_int_equal(mt_options_set(&table, &written, "note", text, "test"), MT_OK);
		assert_int_equal(mt_options_set(&table, &written, "cut", text, "test"), MT_OK);
		if (seed % 3 == 0) {
			free(written.data);
			written.data = NULL;
		}
		char *yaml = write_to_text(&written);
		if (read_text(&read, yaml) != MT_OK)
			fail_msg("%s\n%s", mt_error_message(), yaml);
		assert_int_equal(read.sp, written.sp);
		assert_int_equal(read.tp, written.tp);
		assert_int_equal(read.bytes, written.bytes);
		assert_memory_equal(&read.rate, &written.rate, sizeof read.rate);
		assert_int_equal(read.recompute, written.recompute);
		assert_string_equal(read.note, written.note);
		assert_string_equal(read.cut, written.cut);
		assert_int_equal(read.data == NULL, written.data == NULL);
		char *again = write_to_text(&read);
		assert_string_equal(yaml, again);
		free(again);
		free(yaml);
		mt_options_free(&table, &written);
		mt_options_free(&table, &read);
	}
}

static void json_holds_every_value(void **state)
{
	struct values values;

	(void)state;
	mt_options_default(&table, &values);
	json_t *object = mt_options_json(&table, &values);
	assert_int_equal(json_object_size(object), table.count);
	assert_true(json_is_true(json_object_get(object, "sp")));
	assert_int_equal(json_integer_value(json_object_get(object, "bucket_bytes")), 40 << 20);
	assert_string_equal(json_string_value(json_object_get(object, "recompute")), "selective");
	assert_true(json_is_null(json_object_get(object, "note")));
	assert_string_equal(json_string_value(json_object_get(object, "cut")), "");
	json_decref(object);
	mt_options_free(&table, &values);
}

static void help_names_every_option_within_80_columns(void **state)
{
	char *text = NULL;
	size_t bytes = 0;
	FILE *file = open_memstream(&text, &bytes);

	(void)state;
	mt_options_help(&table, file);
	fclose(file);
	for (size_t i = 0; i < table.count; i++)
		assert_non_null(strstr(text, options[i].name));
	assert_non_null(strstr(text, "1..1024; default 1"));
	assert_non_null(strstr(text, "selective)"));
	for (const char *line = text; *line; line += strcspn(line, "\n") + 1)
		assert_in_range(strcspn(line, "\n"), 1, 80);
	free(text);
}

static void nearest_is_by_edits_and_only_when_near(void **state)
{
	static const char *const names[] = {"layers", "hidden", "heads", "kv_heads"};

	(void)state;
	assert_string_equal(mt_options_nearest("laeyrs", names, 4), "layers");
	assert_string_equal(mt_options_nearest("KV-HEAD", names, 4), "kv_heads");
	assert_string_equal(mt_options_nearest("head", names, 4), "heads");
	assert_null(mt_options_nearest("zq", names, 4));
	assert_null(mt_options_nearest("zq", names, 0));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(defaults_come_from_the_table),
		cmocka_unit_test(a_section_sets_what_it_names),
		cmocka_unit_test(an_unknown_key_names_its_line_and_the_nearest),
		cmocka_unit_test(a_value_out_of_range_names_the_nearest_valid),
		cmocka_unit_test(a_wrong_value_is_refused_with_its_line),
		cmocka_unit_test(the_command_line_sets_with_either_dash),
		cmocka_unit_test(a_text_lies_in_the_struct_and_must_fit),
		cmocka_unit_test(written_options_read_back_equal),
		cmocka_unit_test(json_holds_every_value),
		cmocka_unit_test(help_names_every_option_within_80_columns),
		cmocka_unit_test(nearest_is_by_edits_and_only_when_near),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
