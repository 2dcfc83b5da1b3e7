/* clock: monotonic time. */
#ifndef MT_BASE_CLOCK_H
#define MT_BASE_CLOCK_H

#include <stdint.h>

double mt_clock_s(void); /* seconds since an arbitrary start */
uint64_t mt_clock_ns(void);
void mt_clock_sleep(double seconds);
/* UTC now as "2026-01-31T23:59:59Z" in buf[24]. */
void mt_clock_utc(char buf[24]);

#endif
