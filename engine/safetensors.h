/* safetensors: the file format of weights: 8 bytes of header length (little-endian), a JSON header that gives each tensor
 * its type, shape and place, then the values. Read at any place without reading the rest; written in one pass.
 * https://huggingface.co/docs/safetensors: offsets count from the end of the header and leave no holes. */
#ifndef MT_ENGINE_SAFETENSORS_H
#define MT_ENGINE_SAFETENSORS_H

#include "base/status.h"
#include "kernels/dtype.h"

#include <jansson.h>
#include <stdint.h>
#include <stdio.h>

enum { MT_SAFETENSOR_DIMS = 8 };

/* Element types of files. Others can stand in a header and cannot be read. */
enum mt_stored { MT_STORED_F32, MT_STORED_BF16, MT_STORED_F16, MT_STORED_F64, MT_STORED_OTHER, MT_STORED_COUNT };

const char *mt_stored_name(enum mt_stored type); /* "F32" */
size_t mt_stored_bytes(enum mt_stored type);     /* of one element; OTHER: 0 */
/* Converts `count` elements read from a file to f32 or f64, and f32 or f64 to what a file holds (nearest even). */
void mt_stored_decode(enum mt_stored from, const void *stored, enum mt_dtype to, void *values, int64_t count);
void mt_stored_encode(enum mt_dtype from, const void *values, enum mt_stored to, void *stored, int64_t count);

struct mt_safetensor {
	const char *name; /* in a file that was read: of the header */
	enum mt_stored type;
	int dims;
	int64_t shape[MT_SAFETENSOR_DIMS];
	int64_t offset, bytes; /* from the beginning of the data; when writing: set by mt_safetensors_header */
};

struct mt_safetensors {
	char *path; /* owned */
	int fd;
	int64_t data;                  /* place of the first value in the file */
	json_t *header;                /* owned */
	struct mt_safetensor *tensors; /* owned */
	int count;
};

/* Reads and checks the header: lengths, types, places without holes, the size of the file. MT_INPUT says what is wrong. */
enum mt_status mt_safetensors_open(struct mt_safetensors *file, const char *path);
void mt_safetensors_close(struct mt_safetensors *file); /* fine after a failed open */
/* NULL when there is none of that name. */
const struct mt_safetensor *mt_safetensors_find(const struct mt_safetensors *file, const char *name);
/* A text of the header's __metadata__, or NULL. */
const char *mt_safetensors_metadata(const struct mt_safetensors *file, const char *key);
/* Elements [first, first+count) in row-major order, as they are stored. MT_IO when the file ends before. */
enum mt_status mt_safetensors_read(const struct mt_safetensors *file, const struct mt_safetensor *tensor, int64_t first,
				   int64_t count, void *stored);

/* Writes the header for tensors whose values the caller then writes in the same order; sets their offset and bytes.
 * `metadata`: an object of texts, borrowed; NULL: none. A write error shows in the stream. */
enum mt_status mt_safetensors_header(FILE *stream, struct mt_safetensor *tensors, int count, json_t *metadata);

#endif
