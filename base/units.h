/* units: numbers as people read them. GB = 1e9 bytes, GiB = 2^30; a rate names its unit. */
#ifndef MT_BASE_UNITS_H
#define MT_BASE_UNITS_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MT_UNITS_TEXT 24

/* Each writes into buf and returns it: "1.50 GiB", "12.3 ms", "1.2e9" -> "1.20 G". */
const char *mt_units_bytes(char buf[MT_UNITS_TEXT], double bytes);
const char *mt_units_seconds(char buf[MT_UNITS_TEXT], double seconds);
const char *mt_units_count(char buf[MT_UNITS_TEXT], double count);

/* Parses "512", "64K", "1.5Gi", "10G"; K M G T are powers of 1000, Ki Mi Gi Ti of 1024. MT_INPUT when it is no number. */
enum mt_status mt_units_parse(const char *text, double *value);
/* The same without recording a failure, for callers that know a better message. The second wants a whole number that fits. */
bool mt_units_read(const char *text, double *value);
bool mt_units_read_int(const char *text, int64_t *value);

#endif
