/* status: what a call that can fail returns, and the record of why it failed.
 *
 * The place that detects a failure calls mt_fail() once, with what, where, why and what to do; callers only clean up
 * and pass the status on, so the first message is the one shown. The record belongs to the calling thread. */
#ifndef MT_BASE_STATUS_H
#define MT_BASE_STATUS_H

#include <stdbool.h>
#include <stddef.h>

enum mt_status {
	MT_OK = 0,
	MT_VERDICT,      /* the work was done and its verdict is against: regression, failed acceptance */
	MT_INPUT,        /* bad usage or bad input; nothing was started */
	MT_INCONCLUSIVE, /* the work was done and decides nothing */
	MT_FAILED,       /* the run failed */
	MT_NOMEM,        /* out of memory, on the host or the device */
	MT_IO,           /* a file or a pipe could not be read or written */
	MT_UNAVAILABLE,  /* not possible here: skipped with its reason, never failed, never passed */
	MT_INTERRUPTED,  /* stopped by a signal; what was found so far is kept */
};

/* Records the message unless one is already recorded, and returns `status`. Never fails. */
enum mt_status mt_fail(enum mt_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The recorded message, "" when there is none. Valid until the next mt_fail or mt_error_clear of this thread. */
const char *mt_error_message(void);
void mt_error_clear(void);

/* The name of a status, and the exit code of a command that ends with it:
 * 0 done, 1 a verdict against, 2 usage or bad input, 3 inconclusive, 4 the run failed, 77 not possible here, 130 interrupted. */
const char *mt_status_name(enum mt_status status);
int mt_status_exit_code(enum mt_status status);

#define MT_TRY(expression)                                                                                                         \
	do {                                                                                                                       \
		enum mt_status mt_try_status_ = (expression);                                                                      \
		if (mt_try_status_ != MT_OK)                                                                                       \
			return mt_try_status_;                                                                                     \
	} while (0)

/* For functions with one exit label: a local `enum mt_status st` takes the status. */
#define MT_GOTO(label, expression)                                                                                                 \
	do {                                                                                                                       \
		st = (expression);                                                                                                 \
		if (st != MT_OK)                                                                                                   \
			goto label;                                                                                                \
	} while (0)

#endif
