/* Data: samples of every kind of source, and index files that lie. */
#include "base/file.h"
#include "base/random.h"
#include "engine/data.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define SEQ 16

static char directory[] = "/tmp/mt-data-XXXXXX";

/* A path in the test's directory: one of two buffers in turn. */
static const char *path_of(const char *name)
{
	static char paths[2][256];
	static int turn;

	turn = !turn;
	snprintf(paths[turn], sizeof paths[turn], "%s/%s", directory, name);
	return paths[turn];
}

static const char *write_file(const char *name, const void *data, size_t bytes)
{
	const char *path = path_of(name);

	assert_int_equal(mt_file_write(path, data, bytes), MT_OK);
	return path;
}

static struct mt_dataset *open_data(const char *path, bool shuffle, int64_t vocab, uint64_t seed)
{
	struct mt_data_options options = {.path = (char *)path, .shuffle = shuffle};
	struct mt_dataset *dataset;

	mt_error_clear();
	if (mt_dataset_open(&dataset, &options, vocab, SEQ, seed) != MT_OK)
		fail_msg("%s: %s", path ? path : "synthetic", mt_error_message());
	return dataset;
}

static void refused(const char *path, int64_t vocab, const char *part)
{
	struct mt_data_options options = {.path = (char *)path};
	struct mt_dataset *dataset;

	mt_error_clear();
	assert_int_equal(mt_dataset_open(&dataset, &options, vocab, SEQ, 1), MT_INPUT);
	assert_null(dataset);
	if (!strstr(mt_error_message(), part))
		fail_msg("no '%s' in: %s", part, mt_error_message());
}

static void sample(struct mt_dataset *dataset, uint64_t index, int32_t *tokens, int32_t *targets)
{
	mt_error_clear();
	if (mt_dataset_sample(dataset, index, tokens, targets) != MT_OK)
		fail_msg("sample %llu: %s", (unsigned long long)index, mt_error_message());
}

/* --- any source --- */

/* A .bin and .idx whose token k is k: windows tell where they come from. Five documents of uneven length. */
static const char *write_counting(const char *name, int64_t tokens, int64_t vocab)
{
	int32_t *all = malloc((size_t)tokens * sizeof *all);
	const char *prefix = path_of(name);
	int64_t lengths[] = {3, 0, tokens / 3, 1, tokens - tokens / 3 - 4};
	const int32_t *documents[5];
	int64_t first = 0;

	for (int64_t k = 0; k < tokens; k++)
		all[k] = (int32_t)k;
	for (int i = 0; i < 5; i++) {
		documents[i] = all + first;
		first += lengths[i];
	}
	mt_error_clear();
	if (mt_indexed_write(prefix, documents, lengths, 5, vocab) != MT_OK)
		fail_msg("%s", mt_error_message());
	free(all);
	return prefix;
}

static void every_sample_appears_once_an_epoch(void **state)
{
	enum { WINDOWS = 37 };
	int32_t tokens[SEQ], targets[SEQ];
	struct mt_dataset *d = open_data(write_counting("count", WINDOWS * SEQ + 5, 1000), true, 1000, 7);

	for (uint64_t epoch = 0; epoch < 4; epoch++) {
		int seen[WINDOWS] = {0};
		for (uint64_t i = 0; i < WINDOWS; i++) {
			sample(d, epoch * WINDOWS + i, tokens, targets);
			assert_int_equal(tokens[0] % SEQ, 0);
			assert_in_range(tokens[0] / SEQ, 0, WINDOWS - 1);
			seen[tokens[0] / SEQ]++;
		}
		for (int w = 0; w < WINDOWS; w++)
			assert_int_equal(seen[w], 1);
	}
	mt_dataset_close(d);
}

static void epochs_and_seeds_have_different_orders(void **state)
{
	enum { WINDOWS = 37 };
	int32_t a[SEQ], b[SEQ], targets[SEQ];
	const char *path = write_counting("count", WINDOWS * SEQ + 1, 1000);
	struct mt_dataset *d = open_data(path, true, 1000, 7), *other = open_data(path, true, 1000, 8);
	int moved = 0, differ = 0;

	for (uint64_t i = 0; i < WINDOWS; i++) {
		sample(d, i, a, targets);
		sample(d, i + WINDOWS, b, targets);
		moved += a[0] != b[0];
		sample(other, i, b, targets);
		differ += a[0] != b[0];
	}
	assert_in_range(moved, WINDOWS / 2, WINDOWS);
	assert_in_range(differ, WINDOWS / 2, WINDOWS);
	mt_dataset_close(d);
	mt_dataset_close(other);
}

static void targets_are_the_tokens_that_follow(void **state)
{
	int32_t tokens[SEQ], targets[SEQ];
	struct mt_dataset *d = open_data(write_counting("count", 10 * SEQ + 1, 1000), false, 1000, 7);

	for (uint64_t i = 0; i < 25; i++) {
		sample(d, i, tokens, targets);
		for (int k = 0; k < SEQ; k++) {
			assert_int_equal(tokens[k], (int)(i % 10) * SEQ + k);
			assert_int_equal(targets[k], tokens[k] + 1);
		}
	}
	sample(d, UINT64_MAX, tokens, targets); /* any index has a sample */
	mt_dataset_close(d);
}

static void a_sample_depends_on_its_number_and_seed_only(void **state)
{
	int32_t a[SEQ], b[SEQ], x[SEQ], y[SEQ];
	struct mt_dataset *first = open_data(NULL, true, 500, 3), *second = open_data(NULL, true, 500, 3);

	for (uint64_t i = 0; i < 40; i++) {
		uint64_t index = mt_random_integer(1, 1, i, 1000000);
		sample(first, index, a, x);
		sample(second, mt_random_integer(1, 2, i, 1000000), b, y); /* what was read before does not matter */
		sample(second, index, b, y);
		assert_memory_equal(a, b, sizeof a);
		assert_memory_equal(x, y, sizeof x);
	}
	mt_dataset_close(first);
	mt_dataset_close(second);
}

static void too_few_tokens_are_refused(void **state)
{
	refused(write_counting("count", SEQ, 1000), 1000, "too few");
	mt_dataset_close(open_data(write_counting("count", SEQ + 1, 1000), true, 1000, 1));
	refused(write_file("short.txt", "0123456789abcde", 15), 300, "too few");
	mt_dataset_close(open_data(write_file("short.txt", "0123456789abcdef", 16), true, 300, 1));
}

/* --- synthetic --- */

static void synthetic_tokens_are_words_and_mostly_follow_from_the_one_before(void **state)
{
	static const int64_t vocabs[] = {1, 2, 257, 50257};
	int32_t tokens[SEQ], targets[SEQ];

	for (int v = 0; v < 4; v++) {
		struct mt_dataset *d = open_data(NULL, false, vocabs[v], 5);
		int follow = 0;
		for (uint64_t i = 0; i < 400; i++) {
			sample(d, i, tokens, targets);
			for (int k = 0; k < SEQ; k++) {
				assert_in_range(tokens[k], 0, vocabs[v] - 1);
				follow += targets[k] == (tokens[k] * 31 + 17) % vocabs[v];
			}
		}
		assert_in_range(follow, 400 * SEQ * 3 / 4, 400 * SEQ);
		mt_dataset_close(d);
	}
}

/* --- text --- */

static void text_is_bytes_with_an_end_after_each_file(void **state)
{
	static const char a[] = "alpha \xff\x80 beta", b[] = "gamma";
	char path[512];
	int32_t tokens[SEQ], targets[SEQ];

	snprintf(path, sizeof path, "%s:%s", write_file("a.txt", a, strlen(a)), write_file("b.txt", b, strlen(b)));
	struct mt_dataset *d = open_data(path, false, 257, 1);
	assert_int_equal(mt_dataset_tokens(d), strlen(a) + 1 + strlen(b) + 1);
	assert_string_equal(mt_dataset_text(d), "2 text files, 18 bytes");
	sample(d, 0, tokens, targets);
	for (size_t k = 0; k < SEQ; k++) {
		int expected = k < strlen(a) ? (unsigned char)a[k] : k == strlen(a) ? 256 : b[k - strlen(a) - 1];
		assert_int_equal(tokens[k], expected);
	}
	assert_int_equal(targets[SEQ - 1], 'm');
	mt_dataset_close(d);
}

static void a_directory_is_walked_in_the_order_of_bytes(void **state)
{
	static const char *const names[] = {"tree/Z.txt", "tree/a/1.txt", "tree/a/2.txt", "tree/b.txt"};
	int32_t tokens[SEQ], targets[SEQ];

	assert_int_equal(mt_file_make_directory(path_of("tree/a")), MT_OK);
	for (int i = 3; i >= 0; i--)
		write_file(names[i], &"0123"[i], 1);
	write_file("tree/binary", "a\0b", 3);
	write_file("tree/.hidden", "hidden", 6);
	write_file("tree/empty", "", 0);
	assert_int_equal(symlink("..", path_of("tree/loop")), 0);
	assert_int_equal(symlink("nowhere", path_of("tree/dangling")), 0);
	write_file("rest.txt", "0123456789", 10);
	char both[512];
	snprintf(both, sizeof both, "%s:%s", path_of("tree"), path_of("rest.txt"));
	struct mt_dataset *d = open_data(both, false, 257, 1);
	assert_int_equal(mt_dataset_tokens(d), 4 * 2 + 11);
	sample(d, 0, tokens, targets);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(tokens[2 * i], '0' + i);
		assert_int_equal(tokens[2 * i + 1], 256);
	}
	mt_dataset_close(d);
}

/* Every window of a corpus of many small files equals the stream made by hand. */
static void windows_across_many_files_are_the_stream(void **state)
{
	enum { FILES = 40 };
	char paths[8192] = "", name[32];
	int32_t stream[2048], tokens[SEQ], targets[SEQ];
	int64_t total = 0;

	for (int f = 0; f < FILES; f++) {
		char text[32];
		size_t bytes = 1 + mt_random_integer(4, 1, (uint64_t)f, 30);
		for (size_t k = 0; k < bytes; k++) {
			int letter = 'a' + (int)mt_random_integer(4, 2, (uint64_t)f * 64 + k, 26);
			stream[total++] = letter;
			text[k] = (char)letter;
		}
		stream[total++] = 256;
		snprintf(name, sizeof name, "part%d.txt", f);
		snprintf(paths + strlen(paths), sizeof paths - strlen(paths), "%s:", write_file(name, text, bytes));
	}
	struct mt_dataset *d = open_data(paths, false, 257, 1);
	assert_int_equal(mt_dataset_tokens(d), total);
	for (int64_t w = 0; w < (total - 1) / SEQ; w++) {
		sample(d, (uint64_t)w, tokens, targets);
		assert_memory_equal(tokens, stream + w * SEQ, sizeof tokens);
		assert_memory_equal(targets, stream + w * SEQ + 1, sizeof targets);
	}
	mt_dataset_close(d);
}

static void wrong_text_paths_are_refused(void **state)
{
	refused("/no/such/file", 300, "/no/such/file");
	refused("/dev/null", 300, "neither");
	refused(":::", 300, "no text");
	refused(write_file("a.txt", "0123456789abcdefgh", 18), 256, "at least 257");
	assert_int_equal(mt_file_make_directory(path_of("bare")), MT_OK);
	refused(path_of("bare"), 300, "no text");
}

/* A file that shrank is an error of the sample, not the end of the process. */
static void a_file_that_shrinks_is_an_io_error(void **state)
{
	static char text[4000];
	int32_t tokens[SEQ], targets[SEQ];

	memset(text, 'x', sizeof text);
	const char *paths[] = {write_file("shrink.txt", text, sizeof text), write_counting("shrink", 500, 1000)};
	for (int i = 0; i < 2; i++) {
		struct mt_dataset *d = open_data(paths[i], false, 1000, 1);
		assert_int_equal(truncate(i ? path_of("shrink.bin") : path_of("shrink.txt"), 100), 0);
		sample(d, 0, tokens, targets);
		mt_error_clear();
		assert_int_equal(mt_dataset_sample(d, 20, tokens, targets), MT_IO);
		assert_non_null(strstr(mt_error_message(), "shrank"));
		mt_dataset_close(d);
	}
	struct mt_dataset *d = open_data(write_file("shrink.txt", text, sizeof text), false, 1000, 1);
	unlink(path_of("shrink.txt"));
	mt_error_clear();
	assert_int_equal(mt_dataset_sample(d, 0, tokens, targets), MT_IO);
	mt_dataset_close(d);
}

/* --- indexed --- */

static void indexed_writer_reader_round_trip(void **state)
{
	static const int64_t vocabs[] = {65499, 65500, 1 << 24};

	for (int v = 0; v < 3; v++) {
		int32_t stream[600], tokens[SEQ], targets[SEQ];
		int64_t lengths[8], total = 0;
		const int32_t *documents[8];
		struct stat info;
		for (uint64_t i = 0; i < 8; i++) {
			lengths[i] = (int64_t)mt_random_integer(6, (uint64_t)v, i, 60) + (i == 7 ? 20 : 0);
			documents[i] = stream + total;
			for (int64_t k = 0; k < lengths[i]; k++, total++)
				stream[total] = (int32_t)mt_random_integer(7, (uint64_t)v, (uint64_t)total, (uint64_t)vocabs[v]);
		}
		const char *prefix = path_of("round");
		assert_int_equal(mt_indexed_write(prefix, documents, lengths, 8, vocabs[v]), MT_OK);
		struct mt_dataset *d = open_data(prefix, false, vocabs[v], 1);
		assert_int_equal(mt_dataset_tokens(d), total);
		for (int64_t w = 0; w < (total - 1) / SEQ; w++) {
			sample(d, (uint64_t)w, tokens, targets);
			assert_memory_equal(tokens, stream + w * SEQ, sizeof tokens);
		}
		mt_dataset_close(d);
		assert_int_equal(stat(path_of("round.bin"), &info), 0);
		assert_int_equal(info.st_size, total * (vocabs[v] < 65500 ? 2 : 4));
	}
}

/* Two documents (1 2 3) and (4), by hand from the format's description: the files of the writer, to the byte. */
static void the_writer_follows_the_format_to_the_byte(void **state)
{
	static const unsigned char index[] = {'M', 'M', 'I', 'D', 'I', 'D', 'X', 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, /* version */
					      8,                                                               /* u16 */
					      2,   0,   0,   0,   0,   0,   0,   0,                            /* sequences */
					      3,   0,   0,   0,   0,   0,   0,   0,                            /* document marks */
					      3,   0,   0,   0,   1,   0,   0,   0,                            /* lengths */
					      0,   0,   0,   0,   0,   0,   0,   0, 6, 0, 0, 0, 0, 0, 0, 0,    /* pointers */
					      0,   0,   0,   0,   0,   0,   0,   0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0};
	static const unsigned char tokens[] = {1, 0, 2, 0, 3, 0, 4, 0};
	static const int32_t first[] = {1, 2, 3}, second[] = {4};
	const int32_t *documents[] = {first, second};
	char *data;
	size_t bytes;

	assert_int_equal(mt_indexed_write(path_of("exact"), documents, (int64_t[]){3, 1}, 2, 1000), MT_OK);
	assert_int_equal(mt_file_read(path_of("exact.idx"), 0, &data, &bytes), MT_OK);
	assert_int_equal(bytes, sizeof index);
	assert_memory_equal(data, index, bytes);
	free(data);
	assert_int_equal(mt_file_read(path_of("exact.bin"), 0, &data, &bytes), MT_OK);
	assert_int_equal(bytes, sizeof tokens);
	assert_memory_equal(data, tokens, bytes);
	free(data);
}

/* Tokens 0..19 in one document, in every integer type of the format. */
static void every_integer_type_is_read(void **state)
{
	static const struct {
		int code, bytes;
	} types[] = {{1, 1}, {2, 1}, {3, 2}, {4, 4}, {5, 8}, {8, 2}};
	int32_t all[20], tokens[SEQ], targets[SEQ];
	const int32_t *documents[] = {all};
	char *index;
	size_t bytes;

	for (int k = 0; k < 20; k++)
		all[k] = k;
	assert_int_equal(mt_indexed_write(path_of("typed"), documents, (int64_t[]){20}, 1, 1000), MT_OK);
	assert_int_equal(mt_file_read(path_of("typed.idx"), 0, &index, &bytes), MT_OK);
	for (size_t t = 0; t < sizeof types / sizeof types[0]; t++) {
		unsigned char data[20 * 8] = {0};
		for (int k = 0; k < 20; k++)
			data[k * types[t].bytes] = (unsigned char)k;
		index[17] = (char)types[t].code;
		write_file("typed.idx", index, bytes);
		write_file("typed.bin", data, (size_t)(20 * types[t].bytes));
		struct mt_dataset *d = open_data(path_of("typed.idx"), false, 20, 1);
		sample(d, 0, tokens, targets);
		assert_memory_equal(tokens, all, sizeof tokens);
		mt_dataset_close(d);
	}
	free(index);
}

static void tokens_outside_the_vocabulary_are_refused(void **state)
{
	static const int32_t bad[] = {1, 2, 300}, negative[] = {1, -2};
	const int32_t *documents[] = {bad};

	refused(write_counting("count", 100, 1000), 99, "vocab is 99");
	mt_dataset_close(open_data(write_counting("count", 100, 1000), true, 100, 1));
	mt_error_clear();
	assert_int_equal(mt_indexed_write(path_of("bad"), documents, (int64_t[]){3}, 1, 300), MT_INPUT);
	documents[0] = negative;
	assert_int_equal(mt_indexed_write(path_of("bad"), documents, (int64_t[]){2}, 1, 300), MT_INPUT);
	assert_false(mt_file_exists(path_of("bad.idx")));
}

/* An index with one part changed, each named in the message. */
static void an_index_that_lies_is_refused_by_name(void **state)
{
	static const struct {
		size_t at;
		unsigned char value;
		const char *part;
	} lies[] = {
		{0, 'X', "MMIDIDX"},      {9, 2, "version"},        {17, 7, "no integer"},    {17, 0, "no integer"},
		{17, 200, "no integer"},  {18, 6, "size does not"}, {25, 0x80, "room"},       {33, 0x7f, "room"},
		{26, 5, "size does not"}, {34, 4, "outside|begin"}, {37, 0x80, "outside"},    {54, 1, "begin"},
		{94, 1, "out of order"},  {102, 9, "out of order"}, {134, 4, "do not cover"}, {34 + 3, 0x7f, "outside"},
	};
	char *index;
	size_t bytes;

	write_counting("lie", 100, 1000);
	assert_int_equal(mt_file_read(path_of("lie.idx"), 0, &index, &bytes), MT_OK);
	assert_int_equal(bytes, 34 + 5 * 12 + 6 * 8);
	for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
		char saved = index[lies[i].at];
		index[lies[i].at] = (char)lies[i].value;
		write_file("lie.idx", index, bytes);
		const char *bar = strchr(lies[i].part, '|');
		refused(path_of("lie"), 1000, bar ? bar + 1 : lies[i].part);
		index[lies[i].at] = saved;
	}
	for (size_t cut = 0; cut < bytes; cut++) {
		write_file("lie.idx", index, cut);
		refused(path_of("lie"), 1000, "lie.idx");
	}
	write_file("lie.idx", index, bytes);
	assert_int_equal(truncate(path_of("lie.bin"), 202), 0);
	refused(path_of("lie"), 1000, "longer");
	assert_int_equal(truncate(path_of("lie.bin"), 150), 0);
	refused(path_of("lie"), 1000, "outside");
	unlink(path_of("lie.bin"));
	refused(path_of("lie"), 1000, "lie.bin");
	free(index);
}

/* Flips of random bytes, up to four at once: refused, or harmless (token values, marks inside), never a crash. */
static void corrupt_index_files_are_refused_or_harmless(void **state)
{
	int32_t tokens[SEQ], targets[SEQ];
	char *index;
	size_t bytes;
	int refusals = 0;

	write_counting("fuzz", 200, 1000);
	assert_int_equal(mt_file_read(path_of("fuzz.idx"), 0, &index, &bytes), MT_OK);
	for (uint64_t i = 0; i < 600; i++) {
		char *copy = malloc(bytes);
		struct mt_data_options options = {.path = (char *)path_of("fuzz"), .shuffle = true};
		struct mt_dataset *d;
		memcpy(copy, index, bytes);
		for (uint64_t k = 0; k <= i % 4; k++)
			copy[mt_random_integer(9, 2 * k, i, bytes)] ^= (char)(1 << mt_random_integer(9, 2 * k + 1, i, 8));
		FILE *out = fopen(path_of("fuzz.idx"), "w"); /* mt_file_write syncs: slow for hundreds of files */
		assert_int_equal(fwrite(copy, 1, bytes, out), bytes);
		fclose(out);
		free(copy);
		mt_error_clear();
		enum mt_status st = mt_dataset_open(&d, &options, 1000, SEQ, 1);
		if (st == MT_OK) {
			for (uint64_t k = 0; k < 20; k++)
				sample(d, k, tokens, targets);
			assert_int_equal(mt_dataset_tokens(d), 200);
		} else {
			assert_int_equal(st, MT_INPUT);
			assert_true(strlen(mt_error_message()) > 0);
			refusals++;
		}
		mt_dataset_close(d);
	}
	assert_in_range(refusals, 500, 600);
	free(index);
}

static int set_up(void **state)
{
	return mkdtemp(directory) ? 0 : -1;
}

static int clean_up(void **state)
{
	char command[256];

	snprintf(command, sizeof command, "rm -rf %s", directory);
	return system(command);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_sample_appears_once_an_epoch),
		cmocka_unit_test(epochs_and_seeds_have_different_orders),
		cmocka_unit_test(targets_are_the_tokens_that_follow),
		cmocka_unit_test(a_sample_depends_on_its_number_and_seed_only),
		cmocka_unit_test(too_few_tokens_are_refused),
		cmocka_unit_test(synthetic_tokens_are_words_and_mostly_follow_from_the_one_before),
		cmocka_unit_test(text_is_bytes_with_an_end_after_each_file),
		cmocka_unit_test(a_directory_is_walked_in_the_order_of_bytes),
		cmocka_unit_test(windows_across_many_files_are_the_stream),
		cmocka_unit_test(wrong_text_paths_are_refused),
		cmocka_unit_test(a_file_that_shrinks_is_an_io_error),
		cmocka_unit_test(indexed_writer_reader_round_trip),
		cmocka_unit_test(the_writer_follows_the_format_to_the_byte),
		cmocka_unit_test(every_integer_type_is_read),
		cmocka_unit_test(tokens_outside_the_vocabulary_are_refused),
		cmocka_unit_test(an_index_that_lies_is_refused_by_name),
		cmocka_unit_test(corrupt_index_files_are_refused_or_harmless),
	};
	return cmocka_run_group_tests(tests, set_up, clean_up);
}
