/* csv: see csv.h. Cells are unquoted where they lie. */
#include "base/csv.h"

#include "base/file.h"

#include <stdlib.h>
#include <string.h>

#define CSV_MOST_BYTES (256u << 20)

/* One cell from *at, which moves past its separator; *end is that separator: ',', '\n' or 0. NULL: a quote never ends. */
static char *cut_cell(char **at, char *end, int *line)
{
	char *from = *at, *to = *at, *cell = *at;

	if (*from == '"') {
		for (from++; *from && !(*from == '"' && from[1] != '"'); from++) {
			*line += *from == '\n';
			from += *from == '"';
			*to++ = *from;
		}
		if (!*from)
			return NULL;
		from++;
	}
	for (; *from && *from != ',' && *from != '\n'; from++)
		if (*from != '\r')
			*to++ = *from;
	*end = *from;
	*at = *from ? from + 1 : from;
	*line += *end == '\n';
	*to = '\0';
	return cell;
}

static enum mt_status add_cell(struct mt_csv *csv, size_t *count, size_t *room, char *cell)
{
	if (*count == *room) {
		size_t wanted = *room ? 2 * *room : 1024;
		char **grown = realloc(csv->cells, wanted * sizeof *grown);

		if (!grown)
			return mt_fail(MT_NOMEM, "no memory for a table of %zu cells", wanted);
		csv->cells = grown;
		*room = wanted;
	}
	csv->cells[(*count)++] = cell;
	return MT_OK;
}

static enum mt_status add_line(struct mt_csv *csv, int row, int line)
{
	if (row % 1024 == 0) {
		int *grown = realloc(csv->lines, (size_t)(row + 1024) * sizeof *grown);

		if (!grown)
			return mt_fail(MT_NOMEM, "no memory for a table of %d rows", row);
		csv->lines = grown;
	}
	csv->lines[row] = line;
	return MT_OK;
}

static enum mt_status cut(struct mt_csv *csv, const char *path)
{
	size_t count = 0, room = 0, start = 0;
	int line = 1, first = 1;
	char *at = csv->text, end;

	while (*at) {
		char *cell = cut_cell(&at, &end, &line);

		if (!cell)
			return mt_fail(MT_INPUT, "%s:%d: a quote never ends", path, first);
		MT_TRY(add_cell(csv, &count, &room, cell));
		if (end == ',' && *at)
			continue;
		int width = (int)(count - start);
		if (width == 1 && csv->cells[start][0] == '\0') { /* an empty line */
			count = start;
		} else if (csv->columns == 0) {
			csv->columns = width;
			csv->names = csv->cells;
			csv->cells = NULL;
			count = room = 0;
		} else if (width != csv->columns) {
			return mt_fail(MT_INPUT, "%s:%d: %d cells where the header has %d columns", path, first, width,
				       csv->columns);
		} else {
			MT_TRY(add_line(csv, csv->rows++, first));
		}
		start = count;
		first = line;
	}
	return csv->columns ? MT_OK : mt_fail(MT_INPUT, "%s: no header line with the names of columns", path);
}

enum mt_status mt_csv_load(struct mt_csv *csv, const char *path)
{
	size_t bytes;
	enum mt_status st;

	memset(csv, 0, sizeof *csv);
	st = mt_file_read(path, CSV_MOST_BYTES, &csv->text, &bytes);
	if (st == MT_OK)
		st = cut(csv, path);
	if (st != MT_OK)
		mt_csv_free(csv);
	return st;
}

void mt_csv_free(struct mt_csv *csv)
{
	free(csv->text);
	free(csv->cells);
	free(csv->names);
	free(csv->lines);
	memset(csv, 0, sizeof *csv);
}

int mt_csv_column(const struct mt_csv *csv, const char *name)
{
	for (int i = 0; i < csv->columns; i++)
		if (strcmp(csv->names[i], name) == 0)
			return i;
	return -1;
}

const char *mt_csv_cell(const struct mt_csv *csv, int row, int column)
{
	return column < 0 ? "" : csv->cells[(size_t)row * (size_t)csv->columns + (size_t)column];
}
