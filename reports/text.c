/* text: see text.h. */
#include "reports/text.h"

#include "base/units.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

/* Decodes one character; a byte that is no UTF-8 counts as one character, U+FFFD. */
static uint32_t decode(const char **at)
{
	const unsigned char *s = (const unsigned char *)*at;
	int more = s[0] >= 0xf0 && s[0] < 0xf5 ? 3 : s[0] >= 0xe0 && s[0] < 0xf0 ? 2 : s[0] >= 0xc2 && s[0] < 0xe0 ? 1 : 0;
	uint32_t code = more ? s[0] & (0x3fu >> more) : s[0];

	if (s[0] >= 0x80 && !more) {
		*at += 1;
		return 0xfffd;
	}
	for (int i = 1; i <= more; i++) {
		if ((s[i] & 0xc0) != 0x80) {
			*at += i;
			return 0xfffd;
		}
		code = code << 6 | (s[i] & 0x3fu);
	}
	*at += more + 1;
	return code;
}

static void encode(uint32_t code, char out[5])
{
	int more = code < 0x80 ? 0 : code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
	static const unsigned char lead[] = {0, 0xc0, 0xe0, 0xf0};

	for (int i = more; i > 0; i--, code >>= 6)
		out[i] = (char)(0x80 | (code & 0x3f));
	out[0] = (char)(lead[more] | code);
	out[more + 1] = '\0';
}

static int is_direction(uint32_t code)
{
	return code == 0x61c || code == 0x200e || code == 0x200f || (code >= 0x202a && code <= 0x202e) ||
	       (code >= 0x2066 && code <= 0x2069);
}

int mt_text_next(const char **at, char out[5])
{
	if (!**at)
		return -1;
	uint32_t code = decode(at);
	if (code < 0x20 || (code >= 0x7f && code < 0xa0) || code == 0x2028 || code == 0x2029)
		code = ' ';
	if (is_direction(code) || (code >= 0xd800 && code < 0xe000) || code > 0x10ffff)
		code = 0xfffd;
	encode(code, out);
	/* Wide characters begin with Hangul; what is narrow above it only leaves a column free. */
	return code >= 0x1100 && code != 0xfffd && !(code >= 0x2000 && code < 0x2e80) ? 2 : 1;
}

static void put_html(FILE *file, const char *c)
{
	switch (*c) {
	case '<':
		fputs("&lt;", file);
		break;
	case '>':
		fputs("&gt;", file);
		break;
	case '&':
		fputs("&amp;", file);
		break;
	case '"':
		fputs("&quot;", file);
		break;
	case '\'':
		fputs("&#39;", file);
		break;
	default:
		fputs(c, file);
	}
}

void mt_text_html_most(FILE *file, const char *text, int most)
{
	char c[5];

	if (!text)
		return;
	for (int i = 0; i < most && mt_text_next(&text, c) >= 0; i++)
		put_html(file, c);
	if (*text)
		fputs("\xe2\x80\xa6", file);
}

void mt_text_html(FILE *file, const char *text)
{
	mt_text_html_most(file, text, 4000);
}

void mt_text_field(FILE *file, const char *text, int most)
{
	char c[5];

	for (int i = 0; i < most && mt_text_next(&text, c) >= 0; i++)
		fputs(*c == '"' ? "'" : *c == '\\' ? "/" : c, file); /* gnuplot takes quotes off and reads escapes */
	if (*text)
		fputs("\xe2\x80\xa6", file);
}

void mt_text_gnuplot(FILE *file, const char *text, int most)
{
	fputc('\'', file);
	char c[5];
	for (int i = 0; i < most && mt_text_next(&text, c) >= 0; i++)
		fputs(*c == '\'' ? "''" : c, file);
	if (*text)
		fputs("\xe2\x80\xa6", file);
	fputc('\'', file);
}

const char *mt_text_copy(char *buf, size_t bytes, const char *text, int columns)
{
	size_t used = 0, cut = 0;
	int column = 0, width;
	char c[5];

	while ((width = mt_text_next(&text, c)) >= 0) {
		size_t length = strlen(c);
		if (column + width > columns || used + length + 4 > bytes) {
			used = cut;
			memcpy(buf + used, "...", 3);
			used += 3;
			break;
		}
		memcpy(buf + used, c, length);
		used += length;
		column += width;
		if (column <= columns - 3)
			cut = used;
	}
	buf[used] = '\0';
	return buf;
}

int mt_text_plain(FILE *file, const char *text, int columns)
{
	char buf[1024], c[5];
	const char *at = mt_text_copy(buf, sizeof buf, text, columns);
	int column = 0, width;

	fputs(buf, file);
	while ((width = mt_text_next(&at, c)) >= 0)
		column += width;
	return column;
}

const char *mt_text_seconds(char buf[TEXT_BYTES], double seconds)
{
	return isfinite(seconds) ? mt_units_seconds(buf, seconds) : "\xe2\x80\x93";
}

const char *mt_text_bytes(char buf[TEXT_BYTES], double bytes)
{
	return isfinite(bytes) ? mt_units_bytes(buf, bytes) : "\xe2\x80\x93";
}

const char *mt_text_percent(char buf[TEXT_BYTES], double frac, const char *sign)
{
	if (!isfinite(frac))
		return "\xe2\x80\x93";
	if (fabs(frac) >= 100)
		snprintf(buf, TEXT_BYTES, *sign ? "%+.1e" : "%.1e", frac);
	else
		snprintf(buf, TEXT_BYTES, *sign ? "%+.1f%%" : "%.1f%%", frac * 100);
	return buf;
}

const char *mt_text_count(char buf[TEXT_BYTES], double count)
{
	char digits[TEXT_BYTES];

	if (!isfinite(count))
		return "\xe2\x80\x93";
	if (fabs(count) >= 1e12 || fabs(count) < 10)
		return mt_text_number(buf, count);
	int length = snprintf(digits, sizeof digits, "%.0f", count), used = 0;
	for (int i = 0; i < length; i++) {
		if (i > 0 && (length - i) % 3 == 0 && digits[i - 1] != '-')
			buf[used++] = ',';
		buf[used++] = digits[i];
	}
	buf[used] = '\0';
	return buf;
}

const char *mt_text_number(char buf[TEXT_BYTES], double value)
{
	if (!isfinite(value))
		return "\xe2\x80\x93";
	double size = fabs(value);
	if (value == floor(value) && size < 1000)
		snprintf(buf, TEXT_BYTES, "%.0f", value);
	else if (size >= 0.001 && size < 1e6)
		snprintf(buf, TEXT_BYTES, "%.*f", size < 0.01 ? 4 : size < 0.1 ? 3 : size < 10 ? 2 : size < 100 ? 1 : 0, value);
	else
		snprintf(buf, TEXT_BYTES, "%.3g", value);
	return buf;
}

const char *mt_text_interval(char buf[TEXT_BYTES], double lo_s, double hi_s)
{
	char end[MT_UNITS_TEXT];

	if (!isfinite(lo_s) || !isfinite(hi_s))
		return "\xe2\x80\x93";
	mt_units_seconds(end, hi_s);
	double scale = hi_s < 1e-6 ? 1e9 : hi_s < 1e-3 ? 1e6 : hi_s < 1 ? 1e3 : 1;
	if (hi_s >= 60) {
		char start[MT_UNITS_TEXT];
		snprintf(buf, TEXT_BYTES, "%s to %s", mt_units_seconds(start, lo_s), end);
		return buf;
	}
	int decimals = hi_s * scale < 9.995 ? 2 : hi_s * scale < 99.95 ? 1 : 0;
	snprintf(buf, TEXT_BYTES, "%.*f to %s", decimals, lo_s * scale, end);
	return buf;
}
