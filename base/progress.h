/* progress: one line on stderr, rewritten in place on a terminal; elsewhere a plain line every 30 s. */
#ifndef MT_BASE_PROGRESS_H
#define MT_BASE_PROGRESS_H

#include <stdint.h>

struct mt_progress {
	const char *title; /* borrowed */
	int64_t total;     /* 0: unknown */
	int64_t done;
	double start_s, shown_s;
	int terminal;
};

void mt_progress_start(struct mt_progress *progress, const char *title, int64_t total);
/* Adds `step` to done and shows "title 12/40 detail, 3 s left" when due. detail may be NULL. */
void mt_progress_advance(struct mt_progress *progress, int64_t step, const char *detail);
/* Clears the line on a terminal. */
void mt_progress_finish(struct mt_progress *progress);

#endif
