/* progress: a line that tells how far and how long still. */
#include "base/progress.h"

#include "base/clock.h"
#include "base/units.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define TERMINAL_EVERY_S 0.1
#define PLAIN_EVERY_S    30.0

void mt_progress_start(struct mt_progress *progress, const char *title, int64_t total)
{
	const char *terminal = getenv("TERM");
	double now = mt_clock_s();

	*progress = (struct mt_progress){.title = title, .total = total, .start_s = now};
	progress->terminal = isatty(STDERR_FILENO) && terminal && strcmp(terminal, "dumb") != 0;
	/* a plain log gets its first line after 30 s, a terminal at once */
	progress->shown_s = progress->terminal ? 0 : now;
}

static int terminal_columns(void)
{
	struct winsize size;
	return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

/* "title 12/40 detail, 3.00 s left" */
static void describe(const struct mt_progress *progress, double now, const char *detail, char *line, size_t bytes)
{
	char left[MT_UNITS_TEXT];
	int used = snprintf(line, bytes, "%s %" PRId64, progress->title, progress->done);

	if (progress->total > 0 && used > 0 && (size_t)used < bytes)
		used += snprintf(line + used, bytes - (size_t)used, "/%" PRId64, progress->total);
	if (detail && used > 0 && (size_t)used < bytes)
		used += snprintf(line + used, bytes - (size_t)used, " %s", detail);
	if (progress->done > 0 && progress->done < progress->total && used > 0 && (size_t)used < bytes) {
		double pace_s = (now - progress->start_s) / (double)progress->done;
		mt_units_seconds(left, pace_s * (double)(progress->total - progress->done));
		snprintf(line + used, bytes - (size_t)used, ", %s left", left);
	}
}

void mt_progress_advance(struct mt_progress *progress, int64_t step, const char *detail)
{
	char line[512];
	double now = mt_clock_s();

	progress->done += step;
	if (now - progress->shown_s < (progress->terminal ? TERMINAL_EVERY_S : PLAIN_EVERY_S))
		return;
	progress->shown_s = now;
	describe(progress, now, detail, line, sizeof line);
	if (progress->terminal)
		fprintf(stderr, "\r%.*s\033[K", terminal_columns() - 1, line);
	else
		fprintf(stderr, "%s\n", line);
	fflush(stderr);
}

void mt_progress_finish(struct mt_progress *progress)
{
	if (progress->terminal && progress->shown_s > 0) {
		fputs("\r\033[K", stderr);
		fflush(stderr);
	}
}
