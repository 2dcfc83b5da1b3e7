/* base/units, base/status and base/clock: small things that everyone relies on. */
#include "base/clock.h"
#include "base/random.h"
#include "base/status.h"
#include "base/units.h"

#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void numbers_are_written_with_three_digits(void **state)
{
	static const struct {
		const char *(*write)(char *, double);
		double value;
		const char *text;
	} cases[] = {
		{mt_units_bytes, 0, "0 B"},
		{mt_units_bytes, 512, "512 B"},
		{mt_units_bytes, 1023, "1023 B"},
		{mt_units_bytes, 1024, "1.00 KiB"},
		{mt_units_bytes, 1.5 * (1 << 30), "1.50 GiB"},
		{mt_units_bytes, 1023.9 * 1024, "1.00 MiB"},
		{mt_units_bytes, -2048, "-2.00 KiB"},
		{mt_units_seconds, 0.0123, "12.3 ms"},
		{mt_units_seconds, 0.00099999, "1.00 ms"},
		{mt_units_seconds, 5e-9, "5 ns"},
		{mt_units_seconds, 2.5e-6, "2.50 us"},
		{mt_units_seconds, 0.9999, "1.00 s"},
		{mt_units_seconds, 100, "100 s"},
		{mt_units_seconds, 0, "0 s"},
		{mt_units_seconds, 125, "2 min 05 s"},
		{mt_units_seconds, 2.5 * 3600, "2 h 30 min"},
		{mt_units_seconds, 3.5 * 86400, "3.5 days"},
		{mt_units_count, 1.2e9, "1.20 G"},
		{mt_units_count, 999.9, "1.00 K"},
		{mt_units_count, 124439808, "124 M"},
		{mt_units_count, 7, "7"},
		{mt_units_count, 0.25, "0.25"},
	};
	char buf[MT_UNITS_TEXT];

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
		assert_string_equal(cases[i].write(buf, cases[i].value), cases[i].text);
}

static void any_number_fits_the_buffer(void **state)
{
	char buf[MT_UNITS_TEXT];

	(void)state;
	for (int exponent = -308; exponent <= 308; exponent++) {
		for (int sign = -1; sign <= 1; sign += 2) {
			double value = sign * 9.999 * pow(10, exponent - (exponent == 308));
			assert_in_range(strlen(mt_units_bytes(buf, value)), 1, MT_UNITS_TEXT - 2);
			assert_in_range(strlen(mt_units_seconds(buf, value)), 1, MT_UNITS_TEXT - 2);
			assert_in_range(strlen(mt_units_count(buf, value)), 1, MT_UNITS_TEXT - 2);
		}
	}
	assert_string_equal(mt_units_bytes(buf, INFINITY), "inf");
	assert_string_equal(mt_units_seconds(buf, INFINITY), "inf");
}

static void suffixes_are_powers_of_1000_or_1024(void **state)
{
	static const struct {
		const char *text;
		double value;
	} cases[] = {{"512", 512},  {"64K", 64e3},      {"64k", 64e3},  {"1.5Gi", 1.5 * (1 << 30)},
		     {"10G", 10e9}, {"2 MiB", 2 << 20}, {"-3T", -3e12}, {"1e-6", 1e-6},
		     {".5", 0.5},   {"989T", 989e12}};
	static const char *const bad[] = {"",    "x",   "1x",    "1Kii", "inf", "nan", "0x10",
					  "1 2", "--1", "1e999", "K",    "1m",  ".",   "1BB"};
	double value;

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		assert_int_equal(mt_units_parse(cases[i].text, &value), MT_OK);
		assert_true(fabs(value - cases[i].value) <= 1e-15 * fabs(cases[i].value));
	}
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		mt_error_clear();
		if (mt_units_parse(bad[i], &value) != MT_INPUT)
			fail_msg("'%s' was read as %g", bad[i], value);
		assert_non_null(strstr(mt_error_message(), bad[i]));
	}
	mt_error_clear();
}

static void whole_numbers_are_exact(void **state)
{
	int64_t value;
	char text[32];

	(void)state;
	for (uint64_t i = 0; i < 1000; i++) {
		int64_t expected = (int64_t)mt_random_integer(1, 1, i, UINT64_MAX);
		snprintf(text, sizeof text, "%lld", (long long)expected);
		assert_true(mt_units_read_int(text, &value));
		assert_int_equal(value, expected);
	}
	assert_true(mt_units_read_int("1e6", &value));
	assert_int_equal(value, 1000000);
	assert_false(mt_units_read_int("9223372036854775808", &value));
	assert_false(mt_units_read_int("1.5", &value));
	assert_false(mt_units_read_int("10000P0", &value));
	assert_false(mt_units_read_int("10000P", &value));
}

static void the_first_failure_is_the_one_kept(void **state)
{
	(void)state;
	mt_error_clear();
	assert_string_equal(mt_error_message(), "");
	assert_int_equal(mt_fail(MT_IO, "first %d", 1), MT_IO);
	assert_int_equal(mt_fail(MT_NOMEM, "second"), MT_NOMEM);
	assert_string_equal(mt_error_message(), "first 1");
	mt_error_clear();
	assert_string_equal(mt_error_message(), "");
}

static void *fail_in_thread(void *unused)
{
	(void)unused;
	bool empty = mt_error_message()[0] == '\0';
	mt_fail(MT_FAILED, "of the thread");
	return empty ? "empty" : NULL;
}

static void each_thread_has_its_own_record(void **state)
{
	pthread_t thread;
	void *result;

	(void)state;
	mt_error_clear();
	mt_fail(MT_FAILED, "of main");
	assert_int_equal(pthread_create(&thread, NULL, fail_in_thread, NULL), 0);
	assert_int_equal(pthread_join(thread, &result), 0);
	assert_non_null(result);
	assert_string_equal(mt_error_message(), "of main");
	mt_error_clear();
}

static void long_messages_are_cut_not_overrun(void **state)
{
	char text[10000];

	(void)state;
	memset(text, 'x', sizeof text);
	text[sizeof text - 1] = '\0';
	mt_error_clear();
	mt_fail(MT_FAILED, "%s", text);
	assert_in_range(strlen(mt_error_message()), 500, 9000);
	mt_error_clear();
}

static void exit_codes_are_those_documented(void **state)
{
	static const int codes[] = {0, 1, 2, 3, 4, 4, 4, 77, 130};

	(void)state;
	for (int status = MT_OK; status <= MT_INTERRUPTED; status++) {
		assert_int_equal(mt_status_exit_code((enum mt_status)status), codes[status]);
		assert_true(strlen(mt_status_name((enum mt_status)status)) > 0);
	}
}

static void clocks_go_forward(void **state)
{
	char utc[24];

	(void)state;
	uint64_t start = mt_clock_ns();
	mt_clock_sleep(0.01);
	assert_true(mt_clock_ns() - start >= 10000000u);
	mt_clock_sleep(0);
	mt_clock_sleep(-1);
	mt_clock_utc(utc);
	assert_int_equal(strlen(utc), 20);
	assert_int_equal(utc[10], 'T');
	assert_int_equal(utc[19], 'Z');
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(numbers_are_written_with_three_digits),
		cmocka_unit_test(any_number_fits_the_buffer),
		cmocka_unit_test(suffixes_are_powers_of_1000_or_1024),
		cmocka_unit_test(whole_numbers_are_exact),
		cmocka_unit_test(the_first_failure_is_the_one_kept),
		cmocka_unit_test(each_thread_has_its_own_record),
		cmocka_unit_test(long_messages_are_cut_not_overrun),
		cmocka_unit_test(exit_codes_are_those_documented),
		cmocka_unit_test(clocks_go_forward),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
