/* clock: CLOCK_MONOTONIC, and UTC for records. */
#include "base/clock.h"

#include <errno.h>
#include <time.h>

uint64_t mt_clock_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

double mt_clock_s(void)
{
	return (double)mt_clock_ns() * 1e-9;
}

/* Sleeps to an absolute end, so a signal in between does not lengthen it. */
void mt_clock_sleep(double seconds)
{
	if (!(seconds > 0))
		return;
	if (seconds > 1e9)
		seconds = 1e9;
	uint64_t end = mt_clock_ns() + (uint64_t)(seconds * 1e9);
	struct timespec at = {.tv_sec = (time_t)(end / 1000000000u), .tv_nsec = (long)(end % 1000000000u)};
	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == EINTR)
		;
}

void mt_clock_utc(char buf[24])
{
	time_t now = time(NULL);
	struct tm utc;
	gmtime_r(&now, &utc);
	strftime(buf, 24, "%Y-%m-%dT%H:%M:%SZ", &utc);
}
