/* json: jansson with our errors. */
#include "base/json.h"

#include "base/file.h"

#include <math.h>
#include <stdlib.h>

enum mt_status mt_json_load(json_t **root, const char *path)
{
	char *text;
	size_t bytes;
	json_error_t error;

	*root = NULL;
	MT_TRY(mt_file_read(path, 0, &text, &bytes));
	*root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
	free(text);
	if (!*root)
		return mt_fail(MT_INPUT, "%s:%d: not valid JSON: %s", path, error.line, error.text);
	return MT_OK;
}

enum mt_status mt_json_create(struct mt_file *file, const json_t *root, const char *path)
{
	MT_TRY(mt_file_create(file, path));
	if (json_dumpf(root, file->stream, JSON_INDENT(2) | JSON_PRESERVE_ORDER | JSON_ENCODE_ANY) != 0 ||
	    fputc('\n', file->stream) == EOF || fflush(file->stream) != 0) {
		mt_file_abort(file);
		return mt_fail(MT_IO, "cannot write JSON to %s", path);
	}
	return MT_OK;
}

enum mt_status mt_json_save(const json_t *root, const char *path)
{
	struct mt_file file;

	MT_TRY(mt_json_create(&file, root, path));
	return mt_file_commit(&file);
}

json_t *mt_json_number(double value)
{
	return isfinite(value) ? json_real(value) : json_null();
}

double mt_json_get_number(const json_t *object, const char *key, double otherwise)
{
	const json_t *value = json_object_get(object, key);
	return json_is_number(value) ? json_number_value(value) : otherwise;
}

int64_t mt_json_get_int(const json_t *object, const char *key, int64_t otherwise)
{
	const json_t *value = json_object_get(object, key);

	if (json_is_integer(value))
		return json_integer_value(value);
	if (json_is_real(value)) { /* other writers put 5.0 for 5 */
		double real = json_real_value(value);
		if (real == floor(real) && fabs(real) < 0x1p63)
			return (int64_t)real;
	}
	return otherwise;
}

const char *mt_json_get_string(const json_t *object, const char *key, const char *otherwise)
{
	const char *text = json_string_value(json_object_get(object, key));
	return text ? text : otherwise;
}
