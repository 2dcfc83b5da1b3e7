/* status: the per-thread record of the first failure. */
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>

#define MESSAGE_BYTES 2048

/* The one piece of state: a failure belongs to the thread that met it, so ranks that live as threads do not mix theirs. */
static _Thread_local char message[MESSAGE_BYTES];

enum mt_status mt_fail(enum mt_status status, const char *format, ...)
{
	if (message[0] == '\0') {
		va_list arguments;
		va_start(arguments, format);
		vsnprintf(message, sizeof message, format, arguments);
		va_end(arguments);
	}
	return status;
}

const char *mt_error_message(void)
{
	return message;
}

void mt_error_clear(void)
{
	message[0] = '\0';
}

static const struct {
	const char *name;
	int exit_code;
} statuses[] = {
	[MT_OK] = {"ok", 0},
	[MT_VERDICT] = {"verdict", 1},
	[MT_INPUT] = {"input", 2},
	[MT_INCONCLUSIVE] = {"inconclusive", 3},
	[MT_FAILED] = {"failed", 4},
	[MT_NOMEM] = {"out of memory", 4},
	[MT_IO] = {"input/output", 4},
	[MT_UNAVAILABLE] = {"unavailable", 77},
	[MT_INTERRUPTED] = {"interrupted", 130},
};

static bool known(enum mt_status status)
{
	return (size_t)status < sizeof statuses / sizeof statuses[0];
}

const char *mt_status_name(enum mt_status status)
{
	return known(status) ? statuses[status].name : "unknown";
}

int mt_status_exit_code(enum mt_status status)
{
	return known(status) ? statuses[status].exit_code : 4;
}
