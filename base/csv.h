/* csv: a table of comma-separated text (RFC 4180: quotes, doubled quotes, line ends inside quotes) whose first line names its
 * columns. */
#ifndef MT_BASE_CSV_H
#define MT_BASE_CSV_H

#include "base/status.h"

struct mt_csv {
	char *text;   /* owned: the file, cut up in place */
	char **cells; /* owned: rows * columns */
	char **names; /* owned */
	int *lines;   /* owned: the line that each row starts on */
	int rows, columns;
};

/* MT_INPUT names the file and line: no header, a row with more or fewer cells than columns, a quote that never ends. At most 256
 * MiB. */
enum mt_status mt_csv_load(struct mt_csv *csv, const char *path);
void mt_csv_free(struct mt_csv *csv);
/* Index of a column, or -1. */
int mt_csv_column(const struct mt_csv *csv, const char *name);
/* The cell, "" when column is -1. */
const char *mt_csv_cell(const struct mt_csv *csv, int row, int column);

#endif
