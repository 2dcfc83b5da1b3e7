/* The terminal summary: narrow, plain, and harmless to the terminal. */
#define _GNU_SOURCE
#include "reports/report.h"

#include "tests/reports_scratch.h"

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

static char *summary_of(const json_t *result, int colour)
{
	char *text = NULL;
	size_t bytes;
	FILE *memory = open_memstream(&text, &bytes);
	assert_non_null(memory);
	assert_int_equal(mt_report_print(result, memory, colour), MT_OK);
	fclose(memory);
	return text;
}

static char *summary_of_document(const char *name, int colour)
{
	json_t *result = load(name);
	char *text = summary_of(result, colour);
	json_decref(result);
	return text;
}

/* Columns of each line: UTF-8 characters; what is within an escape sequence of colour does not count. */
static void check_columns(const char *name, const char *text)
{
	while (*text) {
		size_t length = strcspn(text, "\n");
		int columns = 0;
		for (size_t i = 0; i < length; i++) {
			if (text[i] == '\033') {
				while (i < length && text[i] != 'm')
					i++;
				continue;
			}
			columns += ((unsigned char)text[i] & 0xc0) != 0x80;
		}
		if (columns > 80)
			fail_msg("%s: %d columns, at most 80: %.*s", name, columns, (int)length, text);
		text += length + (text[length] == '\n');
	}
}

static void lines_are_at_most_80_columns(void **state)
{
	(void)state;
	for (size_t d = 0; d < DOCUMENTS; d++)
		for (int colour = 0; colour < 2; colour++) {
			char *text = summary_of_document(documents[d], colour);
			check_columns(documents[d], text);
			free(text);
		}
}

static void long_names_and_words_fit_too(void **state)
{
	static const char *const strings[] = {"choice_reason", "command_line", "run", "command", "report"};
	char *word = malloc(5001);
	json_t *result = load("tune_2ranks");

	(void)state;
	memset(word, 'w', 5000);
	word[5000] = '\0';
	for (size_t i = 0; i < sizeof strings / sizeof strings[0]; i++)
		json_object_set_new(result, strings[i], json_string(word));
	json_object_set_new(json_object_get(result, "model"), "name", json_string(word));
	json_object_set_new(json_object_get(result, "machine"), "name",
			    json_string("\xe8\xb6\x85\xe8\xb6\x85 wide characters \xe8\xb6\x85"));
	json_object_set_new(json_object_get(result, "machine"), "device", json_string(word));
	json_object_set_new(result, "searched", json_real(1e15));
	json_object_set_new(result, "tokens_per_step", json_real(1e29));
	json_object_set_new(result, "model_flops", json_real(1e29));
	size_t i;
	json_t *candidate;
	json_array_foreach(json_object_get(result, "candidates"), i, candidate)
	{
		json_object_set_new(candidate, "text", json_string(word));
		json_object_set_new(candidate, "rank", json_integer(i ? 123456 + (int)i : 1));
		json_object_set_new(candidate, "step_time_s", json_real(1e9));
		json_object_set_new(candidate, "resident_bytes", json_pack("[f]", 9.9e29));
	}
	char *text = summary_of(result, 0);
	check_columns("long", text);
	free(text);
	free(word);
	json_decref(result);
}

static void colour_only_when_asked(void **state)
{
	(void)state;
	for (size_t d = 0; d < DOCUMENTS; d++) {
		char *plain = summary_of_document(documents[d], 0), *coloured = summary_of_document(documents[d], 1);
		assert_int_equal(count_of(plain, "\033"), 0); /* nor escapes of the document */
		assert_true(count_of(coloured, "\033[") > 4);
		assert_int_equal(count_of(coloured, "\033[0m") * 2, count_of(coloured, "\033["));
		free(plain);
		free(coloured);
	}
}

static void key_facts_are_in_the_summary(void **state)
{
	static const char *const facts[] = {"tp1 pp1 dp2 mbs4",
					    "fastest of 4 measured layouts",
					    "5.53 s measured",
					    "5.41 s predicted",
					    "5.11 to 5.80 s",
					    "-2.2%",
					    "72.9% of 1.62 TFLOP/s",
					    "78.1% with full attention",
					    "limit 6.00 GiB",
					    "failed",
					    "batch_divisible 14",
					    "exceeds_memory 9",
					    "median error 2.3%",
					    "mpirun -n 2 --bind-to none megatune train run.yaml",
					    "report.html"};
	json_t *result = load("tune_2ranks");
	json_t *candidates = json_object_get(result, "candidates");
	(void)state;
	/* the one that failed, among those shown */
	json_t *failed = json_incref(json_array_get(candidates, 10));
	json_array_remove(candidates, 10);
	json_array_insert_new(candidates, 4, failed);
	char *text = summary_of(result, 0);
	for (size_t i = 0; i < sizeof facts / sizeof facts[0]; i++)
		if (!strstr(text, facts[i]))
			fail_msg("\"%s\" is not in the summary:\n%s", facts[i], text);
	assert_int_equal(count_of(text, " * "), 1);
	free(text);
	json_decref(result);
}

static void a_disturbed_machine_is_told_of(void **state)
{
	json_t *result = load("tune_2ranks"), *prediction = json_object_get(result, "prediction");
	char *quiet, *noisy;

	(void)state;
	json_object_set_new(prediction, "disturbed_frac", json_real(0.1));
	quiet = summary_of(result, 0);
	json_object_set_new(prediction, "disturbed_frac", json_real(0.62));
	noisy = summary_of(result, 0);
	assert_null(strstr(quiet, "Noise"));
	assert_non_null(strstr(noisy, "Noise    62.0% of the timed steps"));
	free(quiet);
	free(noisy);
	json_decref(result);
}

static void the_report_is_named_beside_the_run_file(void **state)
{
	json_t *result = load("plan_1rank");
	(void)state;
	json_object_set_new(result, "run", json_string("tuned/here/run.yaml"));
	char *text = summary_of(result, 0);
	assert_non_null(strstr(text, "tuned/here/report.html"));
	free(text);
	json_decref(result);
}

static void a_partial_result_says_so(void **state)
{
	json_t *result = load("tune_2ranks");
	(void)state;
	json_object_set_new(result, "status", json_string("partial"));
	json_object_set_new(result, "choice", json_integer(0));
	char *text = summary_of(result, 0);
	assert_non_null(strstr(text, "PARTIAL"));
	assert_non_null(strstr(text, "No layout was chosen"));
	free(text);
	json_decref(result);
}

/* On a GPU the memory that is short is the GPU's, whatever the process takes of the host. */
static void of_a_gpu_its_own_memory_is_shown(void **state)
{
	json_t *result = load("tune_2ranks"), *candidate;
	char *text;
	size_t i;

	(void)state;
	json_object_set_new(result, "device_limit_bytes", json_integer(72ll << 30));
	json_array_foreach(json_object_get(result, "candidates"), i, candidate)
	{
		json_object_set_new(candidate, "device_bytes", json_pack("[I]", (json_int_t)(31ll << 30)));
		json_object_set_new(candidate, "measured_device_bytes", json_pack("[I]", (json_int_t)(30ll << 30)));
	}
	text = summary_of(result, 0);
	if (!strstr(text, "30.0 GiB measured; 31.0 GiB predicted; limit 72.0 GiB a rank"))
		fail_msg("%s", text);
	free(text);
	json_decref(result);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lines_are_at_most_80_columns),   cmocka_unit_test(long_names_and_words_fit_too),
		cmocka_unit_test(colour_only_when_asked),         cmocka_unit_test(key_facts_are_in_the_summary),
		cmocka_unit_test(a_disturbed_machine_is_told_of), cmocka_unit_test(the_report_is_named_beside_the_run_file),
		cmocka_unit_test(a_partial_result_says_so),       cmocka_unit_test(of_a_gpu_its_own_memory_is_shown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
