/* documents: see documents.h. A file of JSON lines is read line by line: it may be larger than the memory. */
#define _GNU_SOURCE
#include "engine/documents.h"
#include "base/file.h"
#include "engine/data_source.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct mt_documents {
	char **files; /* owned */
	size_t count, next;
	enum mt_document_format format;
	const char *key;
	FILE *lines;      /* of the file before `next`, while it is read by lines */
	char *line;       /* owned */
	size_t line_room; /* of line */
	int64_t line_number;
};

enum mt_status mt_documents_open(struct mt_documents **documents, const char *paths, enum mt_document_format format,
				 const char *key)
{
	struct mt_documents *d = calloc(1, sizeof *d);

	*documents = NULL;
	if (!d)
		return mt_fail(MT_NOMEM, "out of memory opening %s", paths);
	d->format = format;
	d->key = key;
	enum mt_status st = mt_text_files(paths, &d->files, &d->count);
	if (st != MT_OK) {
		mt_documents_close(d);
		return st;
	}
	*documents = d;
	return MT_OK;
}

void mt_documents_close(struct mt_documents *documents)
{
	if (!documents)
		return;
	if (documents->lines)
		fclose(documents->lines);
	mt_text_files_free(documents->files, documents->count);
	free(documents->line);
	free(documents);
}

static bool is_lines(const struct mt_documents *d, const char *path)
{
	static const char *const endings[] = {".jsonl", ".ndjson", ".json"};
	size_t length = strlen(path);

	for (size_t i = 0; i < 3 && d->format == MT_DOCUMENTS_AUTO; i++) {
		size_t ending = strlen(endings[i]);
		if (length > ending && !strcmp(path + length - ending, endings[i]))
			return true;
	}
	return d->format == MT_DOCUMENTS_JSONL;
}

/* The text of one line's object, copied. */
static enum mt_status parse_line(const struct mt_documents *d, const char *path, size_t bytes, struct mt_document *out)
{
	json_error_t error;
	json_t *root = json_loadb(d->line, bytes, JSON_ALLOW_NUL, &error), *text = json_object_get(root, d->key);
	enum mt_status st = MT_OK;

	if (!root)
		st = mt_fail(MT_INPUT, "%s:%lld: not JSON: %s", path, (long long)d->line_number, error.text);
	else if (!json_is_string(text))
		st = mt_fail(MT_INPUT, "%s:%lld: no string \"%s\" in that line's object: --key names it", path,
			     (long long)d->line_number, d->key);
	if (st == MT_OK) {
		out->bytes = json_string_length(text);
		out->path = path;
		out->line = d->line_number;
		out->text = malloc(out->bytes + 1);
		if (out->text)
			memcpy(out->text, json_string_value(text), out->bytes + 1);
		else
			st = mt_fail(MT_NOMEM, "out of memory reading %s", path);
	}
	json_decref(root);
	return st;
}

/* The next line that is not blank; text stays NULL at the end of the file. */
static enum mt_status next_line(struct mt_documents *d, struct mt_document *out)
{
	const char *path = d->files[d->next - 1];
	ssize_t got;

	errno = 0;
	while ((got = getline(&d->line, &d->line_room, d->lines)) >= 0) {
		d->line_number++;
		if (strspn(d->line, " \t\r\n") != (size_t)got)
			return parse_line(d, path, (size_t)got, out);
	}
	bool failed = ferror(d->lines) || errno == ENOMEM;
	int cause = errno;
	fclose(d->lines);
	d->lines = NULL;
	return failed ? mt_fail(MT_IO, "cannot read %s: %s", path, strerror(cause)) : MT_OK;
}

enum mt_status mt_documents_next(struct mt_documents *documents, struct mt_document *document)
{
	struct mt_documents *d = documents;

	memset(document, 0, sizeof *document);
	for (;;) {
		if (d->lines) {
			MT_TRY(next_line(d, document));
			if (document->text)
				return MT_OK;
		}
		if (d->next == d->count)
			return MT_OK;
		const char *path = d->files[d->next++];
		if (!is_lines(d, path)) {
			document->path = path;
			return mt_file_read(path, 0, &document->text, &document->bytes);
		}
		d->line_number = 0;
		d->lines = fopen(path, "re");
		if (!d->lines)
			return mt_fail(MT_INPUT, "cannot read %s: %s", path, strerror(errno));
	}
}
