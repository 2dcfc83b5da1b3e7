/* indexed: Megatron's indexed data set, PREFIX.bin and PREFIX.idx, as a stream of tokens. All numbers little-endian.
 *
 *   .idx  0: "MMIDIDX\0\0"   9: u64 version 1   17: u8 dtype   18: u64 sequences S   26: u64 document marks D
 *        34: i32 lengths[S], i64 pointers[S], i64 documents[D], and S bytes of modes in multimodal sets
 *   .bin  the tokens, sequences back to back; pointers are their byte offsets
 *
 * (megatron/core/datasets/indexed_dataset.py.) As sequences lie back to back the stream is the .bin itself. The index is checked
 * in full at the opening and not kept in memory: where documents begin is looked up in the file, and what it says then is
 * checked again, so that no read leads outside the .bin. */
#define _GNU_SOURCE
#include "base/file.h"
#include "engine/data_source.h"
#include "engine/indexed.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Where the three arrays of an index begin. */
struct index_head {
	int fd;
	const char *path;
	int code, shift; /* of a token, see token_shift */
	int64_t bytes, sequences, documents;
};

#define READ_BYTES 16384
/* At the opening this many tokens at most are looked at, all when there are no more; every sample is checked again. */
#define CHECK_TOKENS (16 << 20)

/* A token has 1 << shift bytes; -1 for what is no token (floats, unknown codes). */
static int token_shift(int code)
{
	static const int shifts[] = {-1,
				     [MT_INDEXED_U8] = 0,
				     [MT_INDEXED_I8] = 0,
				     [MT_INDEXED_I16] = 1,
				     [MT_INDEXED_I32] = 2,
				     [MT_INDEXED_I64] = 3,
				     [MT_INDEXED_F64] = -1,
				     [MT_INDEXED_F32] = -1,
				     [MT_INDEXED_U16] = 1};
	return code < (int)(sizeof shifts / sizeof shifts[0]) ? shifts[code] : -1;
}

static uint64_t read_u64(const unsigned char *at)
{
	uint64_t value;
	memcpy(&value, at, sizeof value);
	return le64toh(value);
}

static int64_t read_token(const unsigned char *at, int code)
{
	uint16_t half;
	uint32_t word;

	switch (code) {
	case MT_INDEXED_U8:
		return *at;
	case MT_INDEXED_I8:
		return (int8_t)*at;
	case MT_INDEXED_I16:
	case MT_INDEXED_U16:
		memcpy(&half, at, sizeof half);
		half = le16toh(half);
		return code == MT_INDEXED_U16 ? (int64_t)half : (int64_t)(int16_t)half;
	case MT_INDEXED_I32:
		memcpy(&word, at, sizeof word);
		return (int32_t)le32toh(word);
	default:
		return (int64_t)read_u64(at);
	}
}

/* --- the index --- */

static enum mt_status fail_index(const struct index_head *head, const char *why)
{
	return mt_fail(MT_INPUT, "%s is no usable index: %s; write the data set again with Megatron's preprocess_data.py",
		       head->path, why);
}

static enum mt_status read_head(struct index_head *head)
{
	unsigned char start[MT_INDEXED_HEAD_BYTES];
	uint64_t sequences, documents;

	if (head->bytes < MT_INDEXED_HEAD_BYTES)
		return fail_index(head, "it is shorter than its header");
	MT_TRY(mt_source_pread(head->fd, head->path, start, sizeof start, 0));
	if (memcmp(start, MT_INDEXED_MAGIC, 9) != 0)
		return fail_index(head, "it does not begin with MMIDIDX");
	if (read_u64(start + 9) != 1)
		return fail_index(head, "its version is not 1");
	head->code = start[17];
	head->shift = token_shift(head->code);
	if (head->shift < 0)
		return fail_index(head, "its element type is no integer");
	sequences = read_u64(start + 18);
	documents = read_u64(start + 26);
	/* bounded by the file's size first, so that the sums below cannot overflow */
	if (sequences > (uint64_t)head->bytes || documents > (uint64_t)head->bytes)
		return fail_index(head, "it counts more sequences than it has room for");
	head->sequences = (int64_t)sequences;
	head->documents = (int64_t)documents;
	int64_t needed = MT_INDEXED_HEAD_BYTES + 12 * head->sequences + 8 * head->documents;
	if (head->bytes != needed && head->bytes != needed + head->sequences)
		return fail_index(head, "its size does not fit its counts: it is cut off or has other data behind it");
	if (head->documents < 1)
		return fail_index(head, "it has no document marks");
	return MT_OK;
}

/* Lengths and pointers side by side: each pointer is the sum of the lengths before it, the last end is the .bin's size. */
static enum mt_status check_sequences(const struct index_head *head, int64_t bin_bytes)
{
	enum { PART = READ_BYTES / 8 };
	unsigned char lengths[PART * 4], pointers[PART * 8];
	int64_t item = 1 << head->shift, end = 0;
	int64_t pointers_at = MT_INDEXED_HEAD_BYTES + 4 * head->sequences;

	for (int64_t done = 0; done < head->sequences; done += PART) {
		int64_t part = head->sequences - done < PART ? head->sequences - done : PART;
		MT_TRY(mt_source_pread(head->fd, head->path, lengths, 4 * part, MT_INDEXED_HEAD_BYTES + 4 * done));
		MT_TRY(mt_source_pread(head->fd, head->path, pointers, 8 * part, pointers_at + 8 * done));
		for (int64_t i = 0; i < part; i++) {
			int64_t length = read_token(lengths + 4 * i, MT_INDEXED_I32);
			if (length < 0 || length * item > bin_bytes - end)
				return fail_index(head, "a sequence reaches outside the .bin file");
			if (read_u64(pointers + 8 * i) != (uint64_t)end)
				return fail_index(head, "a sequence does not begin where the one before ends");
			end += length * item;
		}
	}
	if (end != bin_bytes)
		return fail_index(head, "the .bin file is longer than its sequences: the two files do not belong together");
	return MT_OK;
}

/* Document marks are sequence numbers that begin with 0, never fall and end with S. */
static enum mt_status check_documents(const struct index_head *head)
{
	enum { PART = READ_BYTES / 8 };
	unsigned char marks[PART * 8];
	int64_t at = MT_INDEXED_HEAD_BYTES + 12 * head->sequences;
	uint64_t last = 0;

	for (int64_t done = 0; done < head->documents; done += PART) {
		int64_t part = head->documents - done < PART ? head->documents - done : PART;
		MT_TRY(mt_source_pread(head->fd, head->path, marks, 8 * part, at + 8 * done));
		for (int64_t i = 0; i < part; i++) {
			uint64_t mark = read_u64(marks + 8 * i);
			if (mark < last || mark > (uint64_t)head->sequences || (done + i == 0 && mark != 0))
				return fail_index(head, "its document marks are out of order");
			last = mark;
		}
	}
	return last == (uint64_t)head->sequences ? MT_OK : fail_index(head, "its document marks do not cover every sequence");
}

static enum mt_status open_file(const char *path, int *fd, int64_t *bytes)
{
	struct stat info;

	*fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (*fd < 0)
		return mt_fail(MT_INPUT, "cannot read %s: %s; an indexed data set is a .bin and an .idx file", path,
			       strerror(errno));
	if (fstat(*fd, &info) != 0 || !S_ISREG(info.st_mode))
		return mt_fail(MT_INPUT, "%s is not a regular file", path);
	*bytes = (int64_t)info.st_size;
	return MT_OK;
}

static enum mt_status read_index(struct mt_indexed *x, int64_t bin_bytes)
{
	struct index_head head = {.path = x->index_path};

	MT_TRY(open_file(x->index_path, &x->index_fd, &head.bytes));
	head.fd = x->index_fd;
	MT_TRY(read_head(&head));
	MT_TRY(check_sequences(&head, bin_bytes));
	MT_TRY(check_documents(&head));
	x->code = head.code;
	x->shift = head.shift;
	x->tokens = bin_bytes >> head.shift;
	x->sequences = head.sequences;
	x->documents = head.documents - 1;
	return MT_OK;
}

enum mt_status mt_indexed_open(struct mt_indexed *indexed, const char *prefix)
{
	int64_t bytes = 0;
	enum mt_status st;

	*indexed = (struct mt_indexed){.fd = -1, .index_fd = -1};
	indexed->path = mt_string("%s.bin", prefix);
	indexed->index_path = mt_string("%s.idx", prefix);
	st = indexed->path && indexed->index_path ? open_file(indexed->path, &indexed->fd, &bytes)
						  : mt_fail(MT_NOMEM, "out of memory opening %s", prefix);
	if (st == MT_OK)
		st = read_index(indexed, bytes);
	if (st != MT_OK)
		mt_indexed_close(indexed);
	return st;
}

void mt_indexed_close(struct mt_indexed *indexed)
{
	if (indexed->fd >= 0)
		close(indexed->fd);
	if (indexed->index_fd >= 0)
		close(indexed->index_fd);
	free(indexed->path);
	free(indexed->index_path);
	*indexed = (struct mt_indexed){.fd = -1, .index_fd = -1};
}

const char *mt_indexed_type(const struct mt_indexed *indexed)
{
	static const char *const names[] = {"", "u8", "i8", "i16", "i32", "i64", "f64", "f32", "u16"};
	return names[indexed->code];
}

/* --- documents --- */

static enum mt_status changed(const struct mt_indexed *x)
{
	return mt_fail(MT_IO, "%s changed while in use; leave data files alone during a run", x->index_path);
}

enum mt_status mt_indexed_first(const struct mt_indexed *x, int64_t index, int64_t *token)
{
	unsigned char value[8];
	int64_t pointers = MT_INDEXED_HEAD_BYTES + 4 * x->sequences, marks = pointers + 8 * x->sequences;
	uint64_t sequence, offset;

	MT_TRY(mt_source_pread(x->index_fd, x->index_path, value, 8, marks + 8 * index));
	sequence = read_u64(value);
	*token = x->tokens;
	if (sequence == (uint64_t)x->sequences)
		return MT_OK;
	if (sequence > (uint64_t)x->sequences)
		return changed(x);
	MT_TRY(mt_source_pread(x->index_fd, x->index_path, value, 8, pointers + 8 * (int64_t)sequence));
	offset = read_u64(value);
	*token = (int64_t)(offset >> x->shift);
	return offset >> x->shift <= (uint64_t)x->tokens ? MT_OK : changed(x);
}

/* The last document that begins at or before the token: empty ones before it are passed over. */
enum mt_status mt_indexed_find(const struct mt_indexed *x, int64_t token, int64_t *first, int64_t *end)
{
	int64_t low = 0, high = x->documents;

	*first = 0;
	*end = x->tokens;
	while (high - low > 1) {
		int64_t middle = low + (high - low) / 2, at;
		MT_TRY(mt_indexed_first(x, middle, &at));
		if (at <= token) {
			low = middle;
			*first = at;
		} else {
			high = middle;
			*end = at;
		}
	}
	return MT_OK;
}

/* --- the tokens --- */

enum mt_status mt_indexed_read(const struct mt_indexed *x, int64_t first, int64_t count, int64_t vocab, int32_t *tokens)
{
	unsigned char bytes[READ_BYTES];
	int64_t item = 1 << x->shift, most = READ_BYTES >> x->shift, limit = vocab ? vocab : INT32_MAX;

	for (int64_t done = 0; done < count;) {
		int64_t part = count - done < most ? count - done : most;
		MT_TRY(mt_source_pread(x->fd, x->path, bytes, part * item, (first + done) * item));
		for (int64_t i = 0; i < part; i++) {
			int64_t token = read_token(bytes + i * item, x->code);
			if (token < 0 || token >= limit)
				return mt_fail(MT_INPUT,
					       "%s: token %lld is %lld, the model's vocab is %lld: set vocab to that of the "
					       "tokenizer that wrote it",
					       x->path, (long long)(first + done + i), (long long)token, (long long)limit);
			tokens[done + i] = (int32_t)token;
		}
		done += part;
	}
	return MT_OK;
}

static enum mt_status read_indexed(const struct mt_source *source, int64_t first, int64_t count, int32_t *tokens)
{
	return mt_indexed_read(source->state, first, count, source->vocab, tokens);
}

static enum mt_status find_indexed(const struct mt_source *source, int64_t token, int64_t *first, int64_t *end)
{
	return mt_indexed_find(source->state, token, first, end);
}

/* A vocabulary that is too small should be known before the run, not after hours of it. */
static enum mt_status check_tokens(const struct mt_source *source)
{
	int32_t tokens[READ_BYTES / 4];
	int64_t part = READ_BYTES / 4, parts = source->tokens / part + 1;
	int64_t every = (parts + CHECK_TOKENS / part - 1) / (CHECK_TOKENS / part);

	for (int64_t first = 0; first < source->tokens; first += every * part)
		MT_TRY(read_indexed(source, first, source->tokens - first < part ? source->tokens - first : part, tokens));
	return MT_OK;
}

static void close_indexed(struct mt_source *source)
{
	mt_indexed_close(source->state);
	free(source->state);
}

static const struct mt_source_kind indexed_kind = {read_indexed, find_indexed, close_indexed};

static bool exists_with(const char *prefix, const char *suffix)
{
	char *path = mt_string("%s%s", prefix, suffix);
	bool found = path && mt_file_exists(path);

	free(path);
	return found;
}

char *mt_indexed_prefix(const char *path)
{
	size_t length = strlen(path);
	bool suffixed = length > 4 && (strcmp(path + length - 4, ".idx") == 0 || strcmp(path + length - 4, ".bin") == 0);

	if (suffixed) {
		char *prefix = strndup(path, length - 4);
		/* a lone .bin is a file like any other */
		if (prefix && exists_with(prefix, ".idx"))
			return prefix;
		free(prefix);
		return NULL;
	}
	return exists_with(path, ".idx") || (exists_with(path, ".bin") && !mt_file_exists(path)) ? strdup(path) : NULL;
}

enum mt_status mt_source_open_indexed(struct mt_source *source, const char *prefix)
{
	struct mt_indexed *x = malloc(sizeof *x);
	enum mt_status st;

	if (!x)
		return mt_fail(MT_NOMEM, "out of memory opening %s", prefix);
	st = mt_indexed_open(x, prefix);
	if (st != MT_OK) {
		free(x);
		return st;
	}
	source->state = x;
	source->tokens = x->tokens;
	st = check_tokens(source);
	if (st != MT_OK) {
		close_indexed(source);
		source->state = NULL;
		return st;
	}
	source->kind = &indexed_kind;
	snprintf(source->text, sizeof source->text, "%lld tokens in %lld documents of an indexed data set", (long long)x->tokens,
		 (long long)x->documents);
	return MT_OK;
}
