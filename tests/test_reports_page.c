#define _GNU_SOURCE
/* The page: complete, self-contained, and no string of the document acts in it. */
#include "reports/report.h"

#include "base/process.h"
#include "tests/reports_scratch.h"

#include <ctype.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

static const char *const documents[] = {"tune_2ranks", "plan_1rank", "hostile"};
#define DOCUMENTS (sizeof documents / sizeof documents[0])

static json_t *load(const char *name)
{
	json_t *result;
	char *path = mt_string("tests/data/results/%s.json", name);
	if (mt_json_load(&result, path) != MT_OK)
		fail_msg("%s", mt_error_message());
	free(path);
	return result;
}

/* Writes a report and returns its page; free() it. */
static char *page_of(const json_t *result, const char *name)
{
	char *directory = mt_string("%s/%s", scratch, name), *path = mt_string("%s/report.html", directory), *page;
	if (mt_report_write(result, directory) != MT_OK)
		fail_msg("%s: %s", name, mt_error_message());
	if (mt_file_read(path, 0, &page, NULL) != MT_OK)
		fail_msg("%s", mt_error_message());
	free(directory);
	free(path);
	return page;
}

static char *page_of_document(const char *name)
{
	json_t *result = load(name);
	char *page = page_of(result, name);
	json_decref(result);
	return page;
}

static void every_section_is_there_in_order(void **state)
{
	static const char *const ids[] = {"predicted", "split",   "memory", "timeline",   "layouts",
					  "rejected",  "machine", "phases", "provenance", "failures"};
	(void)state;
	for (size_t d = 0; d < DOCUMENTS; d++) {
		char *page = page_of_document(documents[d]);
		const char *at = strstr(page, "<h1>");
		for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
			char *section = mt_string("<section id=\"%s\">", ids[i]);
			const char *found = at ? strstr(at, section) : NULL;
			if (!found)
				fail_msg("%s: no %s after the one before it", documents[d], section);
			at = found;
			free(section);
		}
		free(page);
	}
}

static void key_facts_are_on_the_page(void **state)
{
	static const char *const facts[] = {"tp1 pp1 dp2 mbs4",
					    "fastest of 4 measured layouts",
					    "mpirun -n 2 --bind-to none megatune train run.yaml",
					    "5.53 s",
					    "5.41 s",
					    "5.11 to 5.80 s",
					    "2,961",
					    "72.9%",
					    "78.1% with full attention",
					    "6.00 GiB",
					    "the global batch must be a multiple of dp times the micro-batch",
					    "Intel Xeon Platinum 8481C",
					    "same host",
					    "out of memory in arena activations",
					    "2 min 31 s",
					    "product of 1024-cubes"};
	char *page = page_of_document("tune_2ranks");
	(void)state;
	for (size_t i = 0; i < sizeof facts / sizeof facts[0]; i++)
		if (!strstr(page, facts[i]))
			fail_msg("\"%s\" is not on the page", facts[i]);
	free(page);
}

/* Every attribute that could fetch, with its value: only fragments of this page. */
static void check_references(const char *name, const char *page)
{
	static const char *const attributes[] = {"href=", "src=", "srcset=", "action=", "data=", "poster=", "background=", "cite="};
	for (const char *tag = page; (tag = strchr(tag, '<')); tag++) {
		size_t length = strcspn(tag, ">");
		for (size_t i = 0; i < sizeof attributes / sizeof attributes[0]; i++) {
			const char *at = memmem(tag, length, attributes[i], strlen(attributes[i]));
			if (at && (isspace((unsigned char)at[-1]) || at[-1] == ':') &&
			    strncmp(at + strlen(attributes[i]), "\"#", 2) != 0)
				fail_msg("%s: a reference out of the page: %.60s", name, at);
		}
	}
	assert_null(strstr(page, "url("));
	assert_null(strstr(page, "@import"));
}

static void nothing_is_fetched(void **state)
{
	(void)state;
	for (size_t d = 0; d < DOCUMENTS; d++) {
		char *page = page_of_document(documents[d]);
		check_references(documents[d], page);
		assert_int_equal(count_of(page, "http://"), 0);
		assert_int_equal(count_of(page, "https://"), 0);
		assert_int_equal(count_of(page, "default-src 'none'"), 1);
		free(page);
	}
}

static void hostile_strings_do_not_act(void **state)
{
	static const char *const forbidden[] = {"<script", "</script", "<img", "<b>0", "onload=alert(1)>", "\033", "\xe2\x80\xae"};
	char *page = page_of_document("hostile");
	(void)state;
	for (size_t i = 0; i < sizeof forbidden / sizeof forbidden[0]; i++)
		if (strstr(page, forbidden[i]))
			fail_msg("the page holds %s", forbidden[i]);
	/* they are there, as text */
	assert_true(count_of(page, "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;") > 5);
	assert_int_equal(count_of(page, "</title>"), 1);
	assert_int_equal(count_of(page, "</style>"), 1);
	assert_false(mt_file_exists("/tmp/owned"));
	free(page);
}

/* Each id once, and each reference to one that is there. */
static void ids_do_not_collide(void **state)
{
	char *page = page_of_document("tune_2ranks");
	int ids = 0;

	(void)state;
	for (const char *at = page; (at = strstr(at, " id=\"")); at++) {
		size_t length = strcspn(at + 5, "\"") + 6;
		char *id = strndup(at, length);
		if (count_of(page, id) != 1)
			fail_msg("%s is there %d times", id, count_of(page, id));
		free(id);
		ids++;
	}
	for (const char *at = page; (at = strstr(at, "href=\"#")); at++) {
		char *id = mt_string(" id=\"%.*s\"", (int)strcspn(at + 7, "\""), at + 7);
		if (!strstr(page, id))
			fail_msg("a reference to an id that is not there:%s", id);
		free(id);
	}
	assert_true(ids > 15);
	free(page);
}

static void tags_are_balanced(void **state)
{
	static const char *const tags[] = {"section", "table", "tr", "td",      "figure", "svg",       "g",
					   "text",    "div",   "p",  "details", "dl",     "figcaption"};
	(void)state;
	for (size_t d = 0; d < DOCUMENTS; d++) {
		char *page = page_of_document(documents[d]);
		for (size_t i = 0; i < sizeof tags / sizeof tags[0]; i++) {
			char *bare = mt_string("<%s>", tags[i]), *with = mt_string("<%s ", tags[i]),
			     *end = mt_string("</%s>", tags[i]);
			int opened = count_of(page, bare) + count_of(page, with), closed = count_of(page, end);
			if (opened != closed)
				fail_msg("%s: %d <%s>, %d </%s>", documents[d], opened, tags[i], closed, tags[i]);
			free(bare);
			free(with);
			free(end);
		}
		free(page);
	}
}

/* Any key may be missing, or be of a type that no one expects. */
static void any_missing_or_wrong_key_is_survived(void **state)
{
	json_t *whole = load("tune_2ranks");
	const char *key;
	json_t *value;

	(void)state;
	json_object_set_new(whole, "timeline", json_object()); /* small: it is copied often */
	setenv("PATH", "/nonexistent", 1);                     /* no gnuplot: quick */
	json_object_foreach(whole, key, value)
	{
		json_t *odd[] = {NULL,         json_null(),   json_string("<odd>"),   json_integer(-7),
				 json_array(), json_object(), json_pack("[[s]]", "x")};
		for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
			json_t *copy = json_copy(whole);
			if (odd[i])
				json_object_set_new(copy, key, odd[i]);
			else
				json_object_del(copy, key);
			bool newer = strcmp(key, "schema") == 0 && json_is_integer(json_object_get(copy, key)) &&
				     json_integer_value(json_object_get(copy, key)) > 1;
			assert_false(newer);
			free(page_of(copy, "odd"));
			json_decref(copy);
		}
	}
	json_decref(whole);
}

static void without_gnuplot_the_page_says_so_and_has_the_tables(void **state)
{
	char *path = strdup(getenv("PATH"));
	(void)state;
	setenv("PATH", "/nonexistent", 1);
	json_t *result = load("tune_2ranks");
	char *page = page_of(result, "bare");
	assert_non_null(strstr(page, "gnuplot is not installed"));
	assert_int_equal(count_of(page, "<svg"), 0);
	assert_int_equal(count_of(page, "<details"), 0); /* tables stand open */
	assert_true(count_of(page, "<table") >= 10);
	char *script = mt_string("%s/bare/figures/step_split.gp", scratch);
	assert_true(mt_file_exists(script)); /* to be drawn elsewhere */
	free(script);
	free(page);
	json_decref(result);
	setenv("PATH", path, 1);
	free(path);
}

static void what_is_no_result_is_refused(void **state)
{
	(void)state;
	json_t *array = json_array(), *newer = json_pack("{s:i}", "schema", 2), *other = json_pack("{s:i}", "a", 1);
	assert_int_equal(mt_report_write(array, scratch), MT_INPUT);
	mt_error_clear();
	assert_int_equal(mt_report_write(newer, scratch), MT_INPUT);
	assert_non_null(strstr(mt_error_message(), "schema 2"));
	mt_error_clear();
	assert_int_equal(mt_report_write(other, scratch), MT_INPUT);
	assert_non_null(strstr(mt_error_message(), "'candidates'"));
	mt_error_clear();
	assert_int_equal(mt_report_write(NULL, scratch), MT_INPUT);
	mt_error_clear();
	json_decref(array);
	json_decref(newer);
	json_decref(other);
}

static int keep_path(void **state)
{
	*state = strdup(getenv("PATH"));
	return 0;
}

static int restore_path(void **state)
{
	setenv("PATH", *state, 1);
	free(*state);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_section_is_there_in_order),
		cmocka_unit_test(key_facts_are_on_the_page),
		cmocka_unit_test(nothing_is_fetched),
		cmocka_unit_test(hostile_strings_do_not_act),
		cmocka_unit_test(ids_do_not_collide),
		cmocka_unit_test(tags_are_balanced),
		cmocka_unit_test_setup_teardown(any_missing_or_wrong_key_is_survived, keep_path, restore_path),
		cmocka_unit_test(without_gnuplot_the_page_says_so_and_has_the_tables),
		cmocka_unit_test(what_is_no_result_is_refused),
	};
	return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
