/* json: JSON files through jansson, read with a clear message and written atomically. */
#ifndef MT_BASE_JSON_H
#define MT_BASE_JSON_H

#include "base/status.h"

#include <jansson.h>

struct mt_file;

/* Reads a whole document; the caller owns it. MT_INPUT with file, line and cause. */
enum mt_status mt_json_load(json_t **root, const char *path);
/* Writes a document as mt_json_save does, all of it, but leaves the file to be committed or aborted by the caller; not after a
 * failure. */
enum mt_status mt_json_create(struct mt_file *file, const json_t *root, const char *path);
/* Writes a document (2-space indent, key order kept) through base/file.h. */
enum mt_status mt_json_save(const json_t *root, const char *path);
/* A number that JSON can hold: NaN and infinities become null. New reference. */
json_t *mt_json_number(double value);
/* Typed reads with a default when the key is absent or of another type. */
double mt_json_get_number(const json_t *object, const char *key, double otherwise);
int64_t mt_json_get_int(const json_t *object, const char *key, int64_t otherwise);
const char *mt_json_get_string(const json_t *object, const char *key, const char *otherwise);

#endif
