/* The progress line: in place on a terminal and never wider than it, quiet in a log of less than 30 s. */
#include "base/progress.h"

#include <fcntl.h>
#include <pty.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cmocka.h>

/* What stderr is meanwhile, and what was written to it. */
struct capture {
	int saved, from, to;
	char text[4096];
};

static void begin(struct capture *c, int from, int to)
{
	memset(c, 0, sizeof *c);
	c->from = from;
	c->to = to;
	c->saved = dup(STDERR_FILENO);
	assert_true(c->saved >= 0);
	assert_true(dup2(to, STDERR_FILENO) >= 0);
	assert_int_equal(fcntl(from, F_SETFL, O_NONBLOCK), 0);
}

static void end(struct capture *c)
{
	ssize_t n;
	size_t used = 0;

	assert_true(dup2(c->saved, STDERR_FILENO) >= 0);
	while ((n = read(c->from, c->text + used, sizeof c->text - 1 - used)) > 0)
		used += (size_t)n;
	close(c->saved);
	close(c->to);
	close(c->from);
}

static void run(int64_t total)
{
	struct mt_progress progress;

	mt_progress_start(&progress, "trial", total);
	mt_progress_advance(&progress, 0, "a layout whose text is longer than a narrow terminal has columns");
	mt_progress_advance(&progress, 1, NULL);
	mt_progress_finish(&progress);
}

static void line_is_rewritten_in_place_and_fits_the_terminal(void **state)
{
	struct capture c;
	struct winsize size = {.ws_row = 24, .ws_col = 40};
	int master, slave;
	char *line;

	if (openpty(&master, &slave, NULL, NULL, &size) != 0)
		skip();
	setenv("TERM", "xterm", 1);
	begin(&c, master, slave);
	run(3);
	end(&c);
	assert_int_equal(c.text[0], '\r');
	assert_null(strchr(c.text, '\n'));
	line = strstr(c.text, "trial 0/3");
	assert_non_null(line);
	assert_in_range(strcspn(line, "\033"), 9, 39);
	/* the line is gone when the work is over */
	assert_string_equal(c.text + strlen(c.text) - 4, "\r\033[K");
}

static void a_dumb_terminal_gets_no_control_characters(void **state)
{
	struct capture c;
	int master, slave;

	if (openpty(&master, &slave, NULL, NULL, NULL) != 0)
		skip();
	setenv("TERM", "dumb", 1);
	begin(&c, master, slave);
	run(3);
	end(&c);
	assert_string_equal(c.text, "");
}

static void a_log_of_a_short_job_stays_empty(void **state)
{
	struct capture c;
	int ends[2];

	setenv("TERM", "xterm", 1);
	assert_int_equal(pipe(ends), 0);
	begin(&c, ends[0], ends[1]);
	run(3);
	end(&c);
	assert_string_equal(c.text, "");
}

static void a_log_gets_a_plain_line_after_30_s_with_the_time_left(void **state)
{
	struct mt_progress progress;
	struct capture c;
	int ends[2];

	assert_int_equal(pipe(ends), 0);
	mt_progress_start(&progress, "trial", 4);
	progress.start_s -= 40;
	progress.shown_s -= 40;
	begin(&c, ends[0], ends[1]);
	mt_progress_advance(&progress, 1, "tp2");
	mt_progress_advance(&progress, 1, "tp2"); /* too soon for a second line */
	end(&c);
	assert_memory_equal(c.text, "trial 1/4 tp2, ", 15);
	assert_non_null(strstr(c.text, " left\n"));
	assert_ptr_equal(strchr(c.text, '\n'), c.text + strlen(c.text) - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(line_is_rewritten_in_place_and_fits_the_terminal),
		cmocka_unit_test(a_dumb_terminal_gets_no_control_characters),
		cmocka_unit_test(a_log_of_a_short_job_stays_empty),
		cmocka_unit_test(a_log_gets_a_plain_line_after_30_s_with_the_time_left),
	};

	return cmocka_run_group_tests_name("base_progress", tests, NULL, NULL);
}
