/* base/process, base/log and base/progress: other programs, and what is written to stderr. */
#define _GNU_SOURCE
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/process.h"
#include "base/progress.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

static void run_shell(struct mt_process_result *result, const char *script, double timeout_s)
{
	const char *const argv[] = {"sh", "-c", script, NULL};
	mt_error_clear();
	if (mt_process_run(result, argv, NULL, timeout_s) != MT_OK)
		fail_msg("%s", mt_error_message());
}

/* Running still: a zombie that nobody has reaped is not. */
static bool is_alive(int pid)
{
	char *path = mt_string("/proc/%d/stat", pid), *text = NULL;
	bool alive = false;
	if (mt_file_read(path, 0, &text, NULL) == MT_OK) {
		const char *state = strrchr(text, ')');
		alive = state && state[2] != 'Z' && state[2] != 'X';
	}
	mt_error_clear();
	free(text);
	free(path);
	return alive;
}

/* A killed process is gone a moment later, not at once. */
static bool ends_soon(int pid)
{
	for (int i = 0; i < 500 && is_alive(pid); i++)
		mt_clock_sleep(0.01);
	return !is_alive(pid);
}

static void output_errors_and_exit_code_come_back(void **state)
{
	struct mt_process_result result;

	(void)state;
	run_shell(&result, "echo out; echo err >&2; exit 7", 0);
	assert_int_equal(result.exit_code, 7);
	assert_int_equal(result.timed_out, 0);
	assert_string_equal(result.output, "out\n");
	assert_string_equal(result.errors, "err\n");
	assert_true(result.seconds > 0);
	mt_process_result_free(&result);
	mt_process_result_free(&result);
}

static void a_signal_is_128_and_its_number(void **state)
{
	struct mt_process_result result;

	(void)state;
	run_shell(&result, "kill -KILL $$", 0);
	assert_int_equal(result.exit_code, 128 + SIGKILL);
	assert_int_equal(result.timed_out, 0);
	mt_process_result_free(&result);
}

static void arguments_pass_no_shell(void **state)
{
	struct mt_process_result result;
	const char *const argv[] = {"printf", "%s|", "a b", "$HOME", "'\"", "", NULL};

	(void)state;
	assert_int_equal(mt_process_run(&result, argv, NULL, 0), MT_OK);
	assert_string_equal(result.output, "a b|$HOME|'\"||");
	mt_process_result_free(&result);
}

static void the_environment_is_added_to_ours(void **state)
{
	struct mt_process_result result;
	const char *const argv[] = {"sh", "-c", "echo $MT_OURS $MT_BOTH $MT_ADDED", NULL};
	const char *const added[] = {"MT_ADDED=3", "MT_BOTH=2", NULL};

	(void)state;
	setenv("MT_OURS", "1", 1);
	setenv("MT_BOTH", "x", 1);
	assert_int_equal(mt_process_run(&result, argv, added, 0), MT_OK);
	assert_string_equal(result.output, "1 2 3\n");
	mt_process_result_free(&result);
}

static void standard_input_is_empty(void **state)
{
	struct mt_process_result result;

	(void)state;
	run_shell(&result, "cat; echo end", 0);
	assert_string_equal(result.output, "end\n");
	mt_process_result_free(&result);
}

static void an_absent_program_is_unavailable_and_named(void **state)
{
	struct mt_process_result result;
	const char *const argv[] = {"mt-no-such-program", NULL}, *const directory[] = {"/tmp", NULL};

	(void)state;
	mt_error_clear();
	assert_int_equal(mt_process_run(&result, argv, NULL, 0), MT_UNAVAILABLE);
	assert_non_null(strstr(mt_error_message(), "mt-no-such-program"));
	mt_error_clear();
	assert_int_equal(mt_process_run(&result, directory, NULL, 0), MT_FAILED);
	mt_error_clear();
}

/* Each pipe holds 64 KiB: whoever reads one to its end first would wait for ever. */
static void large_output_on_both_pipes_does_not_hang(void **state)
{
	struct mt_process_result result;

	(void)state;
	run_shell(&result,
		  "yes error | head -c 3000000 >&2; yes output | head -c 3000000; yes error | head -c 3000000 >&2; echo last >&2",
		  60);
	assert_int_equal(result.exit_code, 0);
	assert_int_equal(strlen(result.output), 3000000);
	assert_int_equal(strlen(result.errors), 65536);
	assert_string_equal(result.errors + 65536 - 5, "last\n");
	mt_process_result_free(&result);
}

static void a_timeout_ends_the_whole_group(void **state)
{
	struct mt_process_result result;
	int grandchild = 0;

	(void)state;
	run_shell(&result, "sleep 1000 & echo $!; wait", 0.5);
	assert_int_equal(result.timed_out, 1);
	assert_int_equal(result.exit_code, 128 + SIGTERM);
	assert_int_equal(sscanf(result.output, "%d", &grandchild), 1);
	assert_true(ends_soon(grandchild));
	mt_process_result_free(&result);
}

static void a_group_that_ignores_sigterm_is_killed(void **state)
{
	struct mt_process_result result;
	int grandchild = 0;

	(void)state;
	run_shell(&result, "trap '' TERM; sh -c 'while :; do sleep 1; done' & echo $!; wait; wait", 0.5);
	assert_int_equal(result.timed_out, 1);
	assert_int_equal(result.exit_code, 128 + SIGKILL);
	assert_int_equal(sscanf(result.output, "%d", &grandchild), 1);
	assert_true(ends_soon(grandchild));
	mt_process_result_free(&result);
}

static void what_a_child_leaves_behind_is_ended(void **state)
{
	struct mt_process_result result;
	int left = 0;

	(void)state;
	run_shell(&result, "sleep 1000 & echo $!", 0);
	assert_int_equal(result.exit_code, 0);
	assert_int_equal(sscanf(result.output, "%d", &left), 1);
	assert_true(ends_soon(left));
	mt_process_result_free(&result);
	run_shell(&result, "yes & exit 3", 0);
	assert_int_equal(result.exit_code, 3);
	mt_process_result_free(&result);
}

/* In a process of its own: once caught, the flag stays. */
static void a_signal_to_us_ends_the_child(void **state)
{
	int status;

	(void)state;
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct mt_process_result result;
		const char *const argv[] = {"sh", "-c", "kill -TERM $PPID; exec sleep 1000", NULL};
		mt_process_catch_signals();
		enum mt_status first = mt_process_run(&result, argv, NULL, 0);
		enum mt_status second = mt_process_run(&result, argv, NULL, 0);
		_exit(first == MT_INTERRUPTED && second == MT_INTERRUPTED && mt_process_interrupted() ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void a_second_signal_ends_us(void **state)
{
	int status;

	(void)state;
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		mt_process_catch_signals();
		raise(SIGINT);
		raise(SIGINT);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGINT);
}

static void a_process_knows_itself(void **state)
{
	char *self = mt_process_self(), *shell = mt_process_find("sh");

	(void)state;
	assert_non_null(self);
	assert_non_null(strstr(self, "test_base_process"));
	assert_non_null(shell);
	assert_int_equal(shell[0], '/');
	assert_null(mt_process_find("mt-no-such-program"));
	assert_null(mt_process_find(""));
	assert_true(mt_process_resident_bytes() > 100000);
	assert_true(mt_process_peak_bytes() > 100000);
	free(shell);
	free(self);
}

/* What `act` writes to stderr; free() it. */
static char *errors_of(void (*act)(void))
{
	char path[] = "/tmp/mt-test-stderr-XXXXXX", *text;
	int file = mkstemp(path), kept = dup(STDERR_FILENO);
	assert_true(file >= 0 && kept >= 0);
	fflush(stderr);
	dup2(file, STDERR_FILENO);
	act();
	fflush(stderr);
	dup2(kept, STDERR_FILENO);
	close(kept);
	close(file);
	assert_int_equal(mt_file_read(path, 0, &text, NULL), MT_OK);
	unlink(path);
	return text;
}

static void log_each_level(void)
{
	mt_error("e %d", 1);
	mt_warn("w");
	mt_info("i");
	mt_log_set_level(MT_LOG_DEBUG);
	mt_log_set_rank(3, 8, "host7");
	mt_debug("d");
	mt_log_set_rank(0, 1, "host7");
	mt_info("i");
	mt_log_set_level(MT_LOG_WARN);
}

static void log_lines_have_level_and_rank(void **state)
{
	(void)state;
	char *text = errors_of(log_each_level);
	assert_string_equal(text, "error: e 1\nwarning: w\n[3/8 host7] debug: d\ni\n");
	free(text);
}

static void log_too_much(void)
{
	char *large = malloc(20000);
	memset(large, 'x', 19999);
	large[19999] = '\0';
	mt_error("%s", large);
	free(large);
}

static void a_long_log_line_is_cut_and_ends(void **state)
{
	(void)state;
	char *text = errors_of(log_too_much);
	size_t length = strlen(text);
	assert_in_range(length, 1000, 10000);
	assert_int_equal(text[length - 1], '\n');
	free(text);
}

static void advance(void)
{
	struct mt_progress progress;
	mt_progress_start(&progress, "layouts", 40);
	mt_progress_advance(&progress, 10, NULL);
	progress.shown_s -= 31; /* half a minute goes by */
	progress.start_s -= 31;
	mt_progress_advance(&progress, 2, "tp2 pp1");
	mt_progress_advance(&progress, 1, NULL);
	mt_progress_finish(&progress);
}

static void progress_in_a_file_is_a_line_every_30_seconds(void **state)
{
	(void)state;
	char *text = errors_of(advance);
	assert_non_null(strstr(text, "layouts 12/40 tp2 pp1, "));
	assert_non_null(strstr(text, "s left\n"));
	assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
	assert_null(strchr(text, '\033'));
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(output_errors_and_exit_code_come_back),
		cmocka_unit_test(a_signal_is_128_and_its_number),
		cmocka_unit_test(arguments_pass_no_shell),
		cmocka_unit_test(the_environment_is_added_to_ours),
		cmocka_unit_test(standard_input_is_empty),
		cmocka_unit_test(an_absent_program_is_unavailable_and_named),
		cmocka_unit_test(large_output_on_both_pipes_does_not_hang),
		cmocka_unit_test(a_timeout_ends_the_whole_group),
		cmocka_unit_test(a_group_that_ignores_sigterm_is_killed),
		cmocka_unit_test(what_a_child_leaves_behind_is_ended),
		cmocka_unit_test(a_signal_to_us_ends_the_child),
		cmocka_unit_test(a_second_signal_ends_us),
		cmocka_unit_test(a_process_knows_itself),
		cmocka_unit_test(log_lines_have_level_and_rank),
		cmocka_unit_test(a_long_log_line_is_cut_and_ends),
		cmocka_unit_test(progress_in_a_file_is_a_line_every_30_seconds),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
