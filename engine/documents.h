/* documents: the texts of a corpus one after another: whole files, or one a line of JSON lines. */
#ifndef MT_ENGINE_DOCUMENTS_H
#define MT_ENGINE_DOCUMENTS_H

#include "base/status.h"

#include <stdint.h>

enum mt_document_format { MT_DOCUMENTS_AUTO, MT_DOCUMENTS_TEXT, MT_DOCUMENTS_JSONL };

struct mt_document {
	char *text; /* owned: free() it */
	size_t bytes;
	const char *path; /* borrowed from the reader */
	int64_t line;     /* of JSON lines; 0: a whole file */
};

struct mt_documents;

/* `paths`: files and directories, colons between. AUTO takes files that end in .jsonl, .ndjson or .json for JSON lines. `key` is
 * the name of the text in a line's object. */
enum mt_status mt_documents_open(struct mt_documents **documents, const char *paths, enum mt_document_format format,
				 const char *key);
void mt_documents_close(struct mt_documents *documents);
/* The next one; text NULL: there is none. A line that is no such object is MT_INPUT with file and line. */
enum mt_status mt_documents_next(struct mt_documents *documents, struct mt_document *document);

#endif
