/* data_text: text files as tokens, one a byte: values 0..255, and 256 at the end of each file.
 *
 * Files are opened for each read and closed after: a corpus may have more files than a process may hold open. Their
 * sizes are those of the opening of the data set; bytes appended later are not seen. */
#define _GNU_SOURCE
#include "base/file.h"
#include "engine/data_source.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define END_OF_TEXT       256
#define BYTE_VOCABULARY   257
#define MOST_DEPTH        64
#define BINARY_TEST_BYTES 8192
#define READ_BYTES        16384

struct text_file {
	char *path;    /* owned */
	int64_t first; /* its first token in the stream */
	int64_t bytes;
};

struct corpus {
	struct text_file *files; /* owned, ordered by first */
	size_t count, room;
	int64_t bytes;
};

static void free_corpus(struct corpus *corpus)
{
	if (!corpus)
		return;
	for (size_t i = 0; i < corpus->count; i++)
		free(corpus->files[i].path);
	free(corpus->files);
	free(corpus);
}

static enum mt_status add_file(struct corpus *corpus, const char *path, int64_t bytes)
{
	if (bytes == 0)
		return MT_OK;
	if (corpus->count == corpus->room) {
		size_t room = corpus->room ? 2 * corpus->room : 16;
		struct text_file *files = realloc(corpus->files, room * sizeof *files);
		if (!files)
			return mt_fail(MT_NOMEM, "out of memory listing text files");
		corpus->files = files;
		corpus->room = room;
	}
	struct text_file *file = &corpus->files[corpus->count];
	file->path = strdup(path);
	if (!file->path)
		return mt_fail(MT_NOMEM, "out of memory listing text files");
	/* every file before has one token more than bytes */
	file->first = corpus->bytes + (int64_t)corpus->count;
	file->bytes = bytes;
	corpus->count++;
	corpus->bytes += bytes;
	return MT_OK;
}

/* As git does: a NUL near the start. */
static enum mt_status is_binary(const char *path, bool *binary)
{
	char start[BINARY_TEST_BYTES];
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return mt_fail(MT_INPUT, "cannot read %s: %s", path, strerror(errno));
	ssize_t got = read(fd, start, sizeof start);
	close(fd);
	if (got < 0)
		return mt_fail(MT_IO, "cannot read %s: %s", path, strerror(errno));
	*binary = memchr(start, 0, (size_t)got) != NULL;
	return MT_OK;
}

static int is_visible(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

/* By bytes, so that the order is the same in every locale. */
static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static enum mt_status walk(struct corpus *corpus, const char *directory, int depth);

/* One entry of a directory: links to files are followed, links to directories are not (they may lead back). */
static enum mt_status visit(struct corpus *corpus, const char *path, int depth)
{
	struct stat link, info;
	bool binary = true;

	if (lstat(path, &link) != 0 || stat(path, &info) != 0)
		return errno == ENOENT ? MT_OK : mt_fail(MT_INPUT, "cannot read %s: %s", path, strerror(errno));
	if (S_ISDIR(link.st_mode))
		return walk(corpus, path, depth + 1);
	if (!S_ISREG(info.st_mode))
		return MT_OK;
	MT_TRY(is_binary(path, &binary));
	return binary ? MT_OK : add_file(corpus, path, (int64_t)info.st_size);
}

static enum mt_status walk(struct corpus *corpus, const char *directory, int depth)
{
	struct dirent **entries = NULL;
	enum mt_status st = MT_OK;

	if (depth > MOST_DEPTH)
		return mt_fail(MT_INPUT, "%s: more than %d directories deep", directory, MOST_DEPTH);
	int count = scandir(directory, &entries, is_visible, by_name);
	if (count < 0)
		return mt_fail(MT_INPUT, "cannot read directory %s: %s", directory, strerror(errno));
	for (int i = 0; i < count; i++) {
		char *path = st == MT_OK ? mt_string("%s/%s", directory, entries[i]->d_name) : NULL;
		if (path)
			st = visit(corpus, path, depth);
		else if (st == MT_OK)
			st = mt_fail(MT_NOMEM, "out of memory walking %s", directory);
		free(path);
		free(entries[i]);
	}
	free(entries);
	return st;
}

/* A path that a person named: a file is taken whatever it holds, as any byte is a token. */
static enum mt_status add_path(struct corpus *corpus, const char *path)
{
	struct stat info;

	if (stat(path, &info) != 0)
		return mt_fail(MT_INPUT, "data path %s: %s (neither it nor %s.idx)", path, strerror(errno), path);
	if (S_ISDIR(info.st_mode))
		return walk(corpus, path, 0);
	if (!S_ISREG(info.st_mode))
		return mt_fail(MT_INPUT, "data path %s is neither a file nor a directory", path);
	return add_file(corpus, path, (int64_t)info.st_size);
}

static enum mt_status add_paths(struct corpus *corpus, const char *paths)
{
	char *copy = strdup(paths), *save = NULL;
	enum mt_status st = copy ? MT_OK : mt_fail(MT_NOMEM, "out of memory");

	for (char *path = copy ? strtok_r(copy, ":", &save) : NULL; path && st == MT_OK; path = strtok_r(NULL, ":", &save))
		st = add_path(corpus, path);
	if (st == MT_OK && corpus->count == 0)
		st = mt_fail(MT_INPUT, "data path %s: no text in it (hidden, empty and binary files are skipped)", paths);
	free(copy);
	return st;
}

/* The last file that begins at or before a token. */
static size_t find_file(const struct corpus *corpus, int64_t token)
{
	size_t low = 0, high = corpus->count;

	while (high - low > 1) {
		size_t middle = low + (high - low) / 2;
		if (corpus->files[middle].first <= token)
			low = middle;
		else
			high = middle;
	}
	return low;
}

/* `count` bytes of one file from `offset`, widened into tokens. */
static enum mt_status read_bytes(const struct text_file *file, int64_t offset, int64_t count, int32_t *tokens)
{
	unsigned char bytes[READ_BYTES];
	enum mt_status st = MT_OK;
	int fd = open(file->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return mt_fail(MT_IO, "cannot read %s, which was there when the run began: %s", file->path, strerror(errno));
	for (int64_t done = 0; done < count && st == MT_OK;) {
		int64_t part = count - done < READ_BYTES ? count - done : READ_BYTES;
		st = mt_source_pread(fd, file->path, bytes, part, offset + done);
		for (int64_t i = 0; i < part && st == MT_OK; i++)
			tokens[done + i] = bytes[i];
		done += part;
	}
	close(fd);
	return st;
}

static enum mt_status read_text(const struct mt_source *source, int64_t first, int64_t count, int32_t *tokens)
{
	const struct corpus *corpus = source->state;

	for (size_t i = find_file(corpus, first); count > 0; i++) {
		const struct text_file *file = &corpus->files[i];
		int64_t offset = first - file->first;
		int64_t part = file->bytes - offset < count ? file->bytes - offset : count;
		if (part > 0)
			MT_TRY(read_bytes(file, offset, part, tokens));
		if (part < count)
			tokens[part++] = END_OF_TEXT;
		tokens += part;
		first += part;
		count -= part;
	}
	return MT_OK;
}

static enum mt_status find_text(const struct mt_source *source, int64_t token, int64_t *first, int64_t *end)
{
	const struct corpus *corpus = source->state;
	const struct text_file *file = &corpus->files[find_file(corpus, token)];

	*first = file->first;
	*end = file->first + file->bytes + 1;
	return MT_OK;
}

static void close_text(struct mt_source *source)
{
	free_corpus(source->state);
}

static const struct mt_source_kind text_kind = {read_text, find_text, close_text};

/* 1234567 -> "1,234,567" */
static void group_digits(int64_t number, char text[32])
{
	char digits[24];
	int length = snprintf(digits, sizeof digits, "%lld", (long long)number), used = 0;

	for (int i = 0; i < length; i++) {
		if (i > 0 && (length - i) % 3 == 0)
			text[used++] = ',';
		text[used++] = digits[i];
	}
	text[used] = '\0';
}

enum mt_status mt_source_open_text(struct mt_source *source, const char *paths)
{
	struct corpus *corpus;
	char bytes[32];

	if (source->vocab < BYTE_VOCABULARY)
		return mt_fail(
			MT_INPUT,
			"data path %s: the byte tokenizer has %d tokens, the model's vocab is %lld: set vocab to at least %d",
			paths, BYTE_VOCABULARY, (long long)source->vocab, BYTE_VOCABULARY);
	corpus = calloc(1, sizeof *corpus);
	if (!corpus)
		return mt_fail(MT_NOMEM, "out of memory opening %s", paths);
	enum mt_status st = add_paths(corpus, paths);
	if (st != MT_OK) {
		free_corpus(corpus);
		return st;
	}
	source->kind = &text_kind;
	source->state = corpus;
	source->tokens = corpus->bytes + (int64_t)corpus->count;
	group_digits(corpus->bytes, bytes);
	snprintf(source->text, sizeof source->text, "%zu text file%s, %s bytes", corpus->count, corpus->count == 1 ? "" : "s",
		 bytes);
	return MT_OK;
}

void mt_text_files_free(char **files, size_t count)
{
	for (size_t i = 0; files && i < count; i++)
		free(files[i]);
	free(files);
}

enum mt_status mt_text_files(const char *paths, char ***files, size_t *count)
{
	struct corpus corpus = {0};
	enum mt_status st = add_paths(&corpus, paths);

	*files = NULL;
	*count = 0;
	if (st == MT_OK && !(*files = calloc(corpus.count, sizeof **files)))
		st = mt_fail(MT_NOMEM, "out of memory listing text files");
	for (size_t i = 0; i < corpus.count; i++) {
		if (st == MT_OK)
			(*files)[(*count)++] = corpus.files[i].path;
		else
			free(corpus.files[i].path);
	}
	free(corpus.files);
	return st;
}
