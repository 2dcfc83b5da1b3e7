/* units: three significant digits and a unit; and back. */
#include "base/units.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Three significant digits of 0 <= value < 1000. */
static int decimals(double value)
{
	return value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
}

/* Picks the unit in which the value, as printed, stays below `base`. */
static const char *scaled(char buf[MT_UNITS_TEXT], double value, double base, const char *const *units, int count)
{
	double size = fabs(value);
	int unit = 0;

	if (!isfinite(value)) {
		snprintf(buf, MT_UNITS_TEXT, "%g", value);
		return buf;
	}
	while (unit < count - 1 && size >= base - 0.5) {
		size /= base;
		unit++;
	}
	if (size >= 1e6)
		snprintf(buf, MT_UNITS_TEXT, "%s%.2e%s%s", value < 0 ? "-" : "", size, *units[unit] ? " " : "", units[unit]);
	else
		snprintf(buf, MT_UNITS_TEXT, "%s%.*f%s%s", value < 0 ? "-" : "",
			 unit == 0 && size == floor(size) ? 0 : decimals(size), size, *units[unit] ? " " : "", units[unit]);
	return buf;
}

const char *mt_units_bytes(char buf[MT_UNITS_TEXT], double bytes)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	return scaled(buf, bytes, 1024, units, 7);
}

const char *mt_units_count(char buf[MT_UNITS_TEXT], double count)
{
	static const char *const units[] = {"", "K", "M", "G", "T", "P", "E"};
	return scaled(buf, count, 1000, units, 7);
}

const char *mt_units_seconds(char buf[MT_UNITS_TEXT], double seconds)
{
	static const char *const units[] = {"ns", "us", "ms", "s"};
	double size = fabs(seconds);
	const char *sign = seconds < 0 ? "-" : "";

	if (seconds == 0)
		snprintf(buf, MT_UNITS_TEXT, "0 s");
	else if (!isfinite(seconds) || size < 119.5)
		return size >= 0.9995 && isfinite(seconds) ? scaled(buf, seconds, 1e9, units + 3, 1)
							   : scaled(buf, seconds * 1e9, 1000, units, 4);
	else if (size < 2 * 3600)
		snprintf(buf, MT_UNITS_TEXT, "%s%.0f min %02.0f s", sign, floor(round(size) / 60), fmod(round(size), 60));
	else if (size < 48 * 3600.0)
		snprintf(buf, MT_UNITS_TEXT, "%s%.0f h %02.0f min", sign, floor(round(size / 60) / 60), fmod(round(size / 60), 60));
	else
		snprintf(buf, MT_UNITS_TEXT, "%s%.*f days", sign, size < 1e7 ? 1 : 0, fmin(size / 86400, 1e12));
	return buf;
}

/* The factor of "K", "Gi", "GiB", "" and so on; 0 when there is no such suffix. */
static double suffix_factor(const char *suffix)
{
	static const char letters[] = "KMGTP";
	double factor = 1, base = 1000;
	const char *letter;

	while (*suffix == ' ')
		suffix++;
	if (*suffix == '\0')
		return 1;
	letter = strchr(letters, *suffix == 'k' ? 'K' : *suffix);
	if (!letter)
		return 0;
	suffix++;
	if (*suffix == 'i') {
		base = 1024;
		suffix++;
	}
	if (*suffix == 'B')
		suffix++;
	if (*suffix != '\0')
		return 0;
	for (long i = 0; i <= letter - letters; i++)
		factor *= base;
	return factor;
}

bool mt_units_read(const char *text, double *value)
{
	const char *digits = text + (*text == '-' || *text == '+');
	char *end;

	/* strtod also reads inf, nan and hexadecimal: none is a setting */
	if (!(isdigit((unsigned char)*digits) || (*digits == '.' && isdigit((unsigned char)digits[1]))))
		return false;
	if (digits[0] == '0' && (digits[1] == 'x' || digits[1] == 'X'))
		return false;
	double number = strtod(text, &end);
	double factor = suffix_factor(end);
	if (factor == 0 || !isfinite(number * factor))
		return false;
	*value = number * factor;
	return true;
}

bool mt_units_read_int(const char *text, int64_t *value)
{
	char *end;
	double number;

	if (!mt_units_read(text, &number))
		return false;
	/* whole decimals are exact beyond 2^53 */
	errno = 0;
	long long whole = strtoll(text, &end, 10);
	if (*end == '\0') {
		*value = whole;
		return errno == 0;
	}
	if (number != floor(number) || number < -0x1p63 || number >= 0x1p63)
		return false;
	*value = (int64_t)number;
	return true;
}

enum mt_status mt_units_parse(const char *text, double *value)
{
	if (!text || !mt_units_read(text, value))
		return mt_fail(MT_INPUT, "'%s' is not a number: write 512, 1.5e6, 64K or 1.5Gi", text ? text : "");
	return MT_OK;
}
