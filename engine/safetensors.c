/* safetensors: see safetensors.h. A header is data of others: every number in it is checked before it is used. */
#define _GNU_SOURCE
#include "engine/safetensors.h"

#include "engine/data_source.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST_HEADER_BYTES = 1 << 28, LENGTH_BYTES = 8, ALIGNMENT = 8 };

static enum mt_stored find_type(const char *name)
{
	for (int i = 0; i < MT_STORED_OTHER; i++) {
		if (strcmp(name, mt_stored_name((enum mt_stored)i)) == 0)
			return (enum mt_stored)i;
	}
	return MT_STORED_OTHER;
}

/* One entry of the header. */
static enum mt_status read_entry(const char *path, const char *name, json_t *entry, int64_t data_bytes, struct mt_safetensor *t)
{
	json_t *shape = json_object_get(entry, "shape"), *offsets = json_object_get(entry, "data_offsets");
	json_t *type = json_object_get(entry, "dtype");
	int64_t end = json_integer_value(json_array_get(offsets, 1)), elements = 1;

	*t = (struct mt_safetensor){.name = name, .offset = json_integer_value(json_array_get(offsets, 0))};
	if (!json_is_string(type) || !json_is_array(shape) || json_array_size(offsets) != 2 ||
	    json_array_size(shape) > MT_SAFETENSOR_DIMS)
		return mt_fail(MT_INPUT, "%s: tensor %s has no dtype, shape and data_offsets as safetensors has them", path, name);
	t->type = find_type(json_string_value(type));
	t->dims = (int)json_array_size(shape);
	t->bytes = end - t->offset;
	for (int i = 0; i < t->dims; i++) {
		t->shape[i] = json_integer_value(json_array_get(shape, (size_t)i));
		if (t->shape[i] < 0 || (t->shape[i] > 0 && elements > INT64_MAX / 8 / t->shape[i]))
			return mt_fail(MT_INPUT, "%s: tensor %s has an impossible shape", path, name);
		elements *= t->shape[i];
	}
	if (t->offset < 0 || end < t->offset || end > data_bytes)
		return mt_fail(MT_INPUT, "%s: tensor %s lies at bytes %lld to %lld of %lld: the file is cut short or broken", path,
			       name, (long long)t->offset, (long long)end, (long long)data_bytes);
	if (t->type != MT_STORED_OTHER && t->bytes != elements * (int64_t)mt_stored_bytes(t->type))
		return mt_fail(MT_INPUT, "%s: tensor %s has %lld bytes, its shape and type ask for %lld", path, name,
			       (long long)t->bytes, (long long)elements * (long long)mt_stored_bytes(t->type));
	return MT_OK;
}

static enum mt_status read_entries(struct mt_safetensors *file, int64_t data_bytes)
{
	const char *name;
	json_t *entry;

	file->tensors = calloc(json_object_size(file->header) + 1, sizeof *file->tensors);
	if (!file->tensors)
		return mt_fail(MT_NOMEM, "%s: no memory for its tensors", file->path);
	json_object_foreach(file->header, name, entry)
	{
		struct mt_safetensor *t = &file->tensors[file->count];

		if (strcmp(name, "__metadata__") == 0)
			continue;
		MT_TRY(read_entry(file->path, name, entry, data_bytes, t));
		/* its place in the list, found by name */
		json_object_set_new(entry, "index", json_integer(file->count++));
	}
	return MT_OK;
}

static enum mt_status read_header(struct mt_safetensors *file, int64_t file_bytes)
{
	unsigned char length[LENGTH_BYTES];
	uint64_t bytes = 0;
	json_error_t error;
	char *text;
	enum mt_status st;

	if (file_bytes < LENGTH_BYTES)
		return mt_fail(MT_INPUT, "%s: %lld bytes are too few for a safetensors file", file->path, (long long)file_bytes);
	MT_TRY(mt_source_pread(file->fd, file->path, length, LENGTH_BYTES, 0));
	for (int i = 0; i < LENGTH_BYTES; i++)
		bytes |= (uint64_t)length[i] << (8 * i);
	if (bytes > MOST_HEADER_BYTES || (int64_t)bytes > file_bytes - LENGTH_BYTES)
		return mt_fail(MT_INPUT, "%s: no safetensors file, or cut short: its header would be %llu bytes of %lld",
			       file->path, (unsigned long long)bytes, (long long)file_bytes);
	text = malloc((size_t)bytes + 1);
	if (!text)
		return mt_fail(MT_NOMEM, "%s: no memory for its header", file->path);
	st = mt_source_pread(file->fd, file->path, text, (int64_t)bytes, LENGTH_BYTES);
	if (st == MT_OK) {
		file->header = json_loadb(text, (size_t)bytes, JSON_REJECT_DUPLICATES, &error);
		if (!json_is_object(file->header))
			st = mt_fail(MT_INPUT, "%s: its header is no JSON object: %s", file->path, error.text);
	}
	free(text);
	file->data = LENGTH_BYTES + (int64_t)bytes;
	return st == MT_OK ? read_entries(file, file_bytes - file->data) : st;
}

enum mt_status mt_safetensors_open(struct mt_safetensors *file, const char *path)
{
	struct stat info;
	enum mt_status st;

	memset(file, 0, sizeof *file);
	file->path = strdup(path);
	if (!file->path)
		return mt_fail(MT_NOMEM, "out of memory opening %s", path);
	file->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (file->fd < 0)
		st = mt_fail(MT_INPUT, "cannot read %s: %s", path, strerror(errno));
	else if (fstat(file->fd, &info) != 0 || !S_ISREG(info.st_mode))
		st = mt_fail(MT_INPUT, "%s is no regular file", path);
	else
		st = read_header(file, (int64_t)info.st_size);
	if (st != MT_OK)
		mt_safetensors_close(file);
	return st;
}

void mt_safetensors_close(struct mt_safetensors *file)
{
	if (!file->path)
		return;
	if (file->fd >= 0)
		close(file->fd);
	json_decref(file->header);
	free(file->tensors);
	free(file->path);
	memset(file, 0, sizeof *file);
}

const struct mt_safetensor *mt_safetensors_find(const struct mt_safetensors *file, const char *name)
{
	json_t *index = json_object_get(json_object_get(file->header, name), "index");

	return json_is_integer(index) ? &file->tensors[json_integer_value(index)] : NULL;
}

const char *mt_safetensors_metadata(const struct mt_safetensors *file, const char *key)
{
	return json_string_value(json_object_get(json_object_get(file->header, "__metadata__"), key));
}

enum mt_status mt_safetensors_read(const struct mt_safetensors *file, const struct mt_safetensor *tensor, int64_t first,
				   int64_t count, void *stored)
{
	int64_t bytes = (int64_t)mt_stored_bytes(tensor->type);

	if (tensor->type == MT_STORED_OTHER)
		return mt_fail(MT_INPUT, "%s: tensor %s is of a type that is not read here (F32, BF16, F16 and F64 are)",
			       file->path, tensor->name);
	if (first < 0 || count < 0 || first * bytes > tensor->bytes - count * bytes)
		return mt_fail(MT_FAILED, "%s: tensor %s has no elements %lld to %lld", file->path, tensor->name, (long long)first,
			       (long long)(first + count));
	return mt_source_pread(file->fd, file->path, stored, count * bytes, file->data + tensor->offset + first * bytes);
}

static json_t *describe(struct mt_safetensor *t, int64_t offset)
{
	int64_t elements = 1;
	json_t *shape = json_array();

	for (int i = 0; i < t->dims; i++) {
		elements *= t->shape[i];
		json_array_append_new(shape, json_integer(t->shape[i]));
	}
	t->offset = offset;
	t->bytes = elements * (int64_t)mt_stored_bytes(t->type);
	return json_pack("{s:s, s:o, s:[I, I]}", "dtype", mt_stored_name(t->type), "shape", shape, "data_offsets",
			 (json_int_t)offset, (json_int_t)(offset + t->bytes));
}

enum mt_status mt_safetensors_header(FILE *stream, struct mt_safetensor *tensors, int count, json_t *metadata)
{
	json_t *header = json_object();
	int64_t offset = 0;
	size_t bytes, padded;
	char *text;

	if (metadata)
		json_object_set(header, "__metadata__", metadata);
	for (int i = 0; i < count; i++) {
		json_object_set_new(header, tensors[i].name, describe(&tensors[i], offset));
		offset += tensors[i].bytes;
	}
	text = json_dumps(header, JSON_COMPACT);
	json_decref(header);
	if (!text)
		return mt_fail(MT_NOMEM, "no memory for the header of %d tensors", count);
	bytes = strlen(text);
	padded = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
	for (int i = 0; i < LENGTH_BYTES; i++)
		fputc((int)((uint64_t)padded >> (8 * i) & 0xff), stream);
	fwrite(text, 1, bytes, stream);
	for (; bytes < padded; bytes++)
		fputc(' ', stream);
	free(text);
	return MT_OK;
}
