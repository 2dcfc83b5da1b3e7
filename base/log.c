/* log: one write a line, so that lines of several processes on one terminal do not mix. */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LINE_BYTES 4096

/* Process-wide by contract: set once before threads start, only read afterwards. */
static enum mt_log_level least_severe = MT_LOG_WARN;
static char prefix[96];

void mt_log_set_level(enum mt_log_level level)
{
	least_severe = level;
}

void mt_log_set_rank(int rank, int world, const char *host)
{
	prefix[0] = '\0';
	if (world > 1)
		snprintf(prefix, sizeof prefix, "[%d/%d %.64s] ", rank, world, host ? host : "?");
}

static void write_all(const char *text, size_t bytes)
{
	while (bytes > 0) {
		ssize_t written = write(STDERR_FILENO, text, bytes);
		if (written <= 0)
			return; /* nowhere left to complain */
		text += written;
		bytes -= (size_t)written;
	}
}

void mt_log_write(enum mt_log_level level, const char *format, ...)
{
	static const char *const labels[] = {"error: ", "warning: ", "", "debug: "};
	char line[LINE_BYTES];
	va_list arguments;

	if (level > least_severe)
		return;
	size_t used = (size_t)snprintf(line, sizeof line, "%s%s", prefix, labels[level]);
	va_start(arguments, format);
	int added = vsnprintf(line + used, sizeof line - used, format, arguments);
	va_end(arguments);
	if (added > 0)
		used += (size_t)added;
	if (used > sizeof line - 2)
		used = sizeof line - 2;
	line[used++] = '\n';
	write_all(line, used);
}
