/* text: strings and numbers of a document made safe for where they go. Inside of this room only.
 *
 * Names of models, hosts and the like are hostile: they may hold markup, quotes, line ends, terminal escapes, characters
 * that turn the direction of text, and be very long. Control characters become blanks, direction marks become U+FFFD. */
#ifndef MT_REPORTS_TEXT_H
#define MT_REPORTS_TEXT_H

#include <stdio.h>

/* The next character of UTF-8 text made harmless, as UTF-8 in out[5]; returns its columns on a terminal, -1 at the end. */
int mt_text_next(const char **at, char out[5]);

/* HTML text or a quoted attribute's value. NULL writes nothing. */
void mt_text_html(FILE *file, const char *text);
/* The same of at most `most` characters, then an ellipsis. */
void mt_text_html_most(FILE *file, const char *text, int most);
/* A field of a tab-separated file as gnuplot reads it, of at most `most` characters. */
void mt_text_field(FILE *file, const char *text, int most);
/* A gnuplot string, quotes included, in which nothing is evaluated. */
void mt_text_gnuplot(FILE *file, const char *text, int most);
/* Plain text of at most `columns` columns, then "..."; returns the columns written. */
int mt_text_plain(FILE *file, const char *text, int columns);
/* Plain text into buf, NUL-terminated and whole characters only. */
const char *mt_text_copy(char *buf, size_t bytes, const char *text, int columns);

/* Numbers; NaN is written as a dash. */
#define TEXT_BYTES 48
const char *mt_text_seconds(char buf[TEXT_BYTES], double seconds);
const char *mt_text_bytes(char buf[TEXT_BYTES], double bytes);
const char *mt_text_percent(char buf[TEXT_BYTES], double frac, const char *sign); /* sign "+": always signed */
const char *mt_text_count(char buf[TEXT_BYTES], double count);                    /* "16,384" */
const char *mt_text_number(char buf[TEXT_BYTES], double value);                   /* three digits */
/* "1.70 to 1.88 s": both ends in one unit. */
const char *mt_text_interval(char buf[TEXT_BYTES], double lo_s, double hi_s);

#endif
