/* Blends, splits, documents kept apart, and the loader that reads ahead. */
#include "base/file.h"
#include "base/random.h"
#include "engine/data_blend.h"
#include "engine/loader.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define SEQ 16

static char directory[] = "/tmp/mt-blend-XXXXXX";

/* DIRECTORY/name: `documents` of `length` tokens; token k of document d is base + d * length + k. */
static void write_set(const char *name, int32_t base, int documents, int length, char path[256])
{
	int32_t *tokens = malloc((size_t)documents * (size_t)length * sizeof *tokens);
	const int32_t **starts = malloc((size_t)documents * sizeof *starts);
	int64_t *lengths = malloc((size_t)documents * sizeof *lengths);

	for (int i = 0; i < documents * length; i++)
		tokens[i] = base + i;
	for (int d = 0; d < documents; d++) {
		starts[d] = tokens + d * length;
		lengths[d] = length;
	}
	snprintf(path, 256, "%s/%s", directory, name);
	mt_error_clear();
	if (mt_indexed_write(path, starts, lengths, documents, 100000) != MT_OK)
		fail_msg("%s", mt_error_message());
	free(tokens);
	free(starts);
	free(lengths);
}

static struct mt_dataset *open_part(const struct mt_data_options *options, enum mt_data_part part)
{
	struct mt_dataset *d;

	mt_error_clear();
	if (mt_dataset_open_part(&d, options, part, 100000, SEQ, 7) != MT_OK)
		fail_msg("%s", mt_error_message());
	return d;
}

static void refused(const struct mt_data_options *options, const char *part)
{
	struct mt_dataset *d;

	mt_error_clear();
	assert_int_equal(mt_dataset_open(&d, options, 100000, SEQ, 7), MT_INPUT);
	assert_null(d);
	if (!strstr(mt_error_message(), part))
		fail_msg("no '%s' in: %s", part, mt_error_message());
}

/* --- blends --- */

/* After any number of samples each source has given its share, to within what the greedy rule allows. */
static void blend_proportions_hold(void **state)
{
	static const struct {
		const char *text;
		int count;
		double shares[4];
	} cases[] = {{"0.7 a 0.3 b", 2, {0.7, 0.3}},
		     {"1 a 1 b 1 c", 3, {1 / 3., 1 / 3., 1 / 3.}},
		     {"900 a 90 b 9 c 1 d", 4, {0.9, 0.09, 0.009, 0.001}},
		     {"1e-3\ta  2e-3 b", 2, {1 / 3., 2 / 3.}}};

	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct mt_blend blend;
		uint64_t given[4] = {0};

		assert_int_equal(mt_blend_create(&blend, cases[i].text), MT_OK);
		assert_int_equal(blend.count, cases[i].count);
		for (uint64_t k = 0; k < 3000000; k++) {
			uint64_t number;
			int source = mt_blend_find(&blend, k, &number);

			assert_in_range(source, 0, blend.count - 1);
			assert_true(number == given[source]); /* a source's samples come in order, none left out */
			given[source]++;
			for (int d = 0; d < blend.count && (k % 97 == 0 || k < 1000); d++) {
				double off = fabs((double)given[d] - cases[i].shares[d] * (double)(k + 1));
				if (off > blend.count + 2)
					fail_msg("'%s': after %llu samples source %d gave %llu", cases[i].text,
						 (unsigned long long)k + 1, d, (unsigned long long)given[d]);
			}
		}
		mt_blend_free(&blend);
	}
}

/* A sample of a blend is the sample that its source alone would give. */
static void a_blend_takes_each_source_in_its_own_order(void **state)
{
	char a[256], b[256], text[600];
	int32_t tokens[SEQ], targets[SEQ];
	int seen_a[31] = {0}, seen_b[12] = {0};

	write_set("a", 0, 5, 100, a);
	write_set("b", 10000, 2, 100, b);
	snprintf(text, sizeof text, "3 %s 1 %s", a, b);
	struct mt_data_options options = {.path = text, .shuffle = true};
	struct mt_dataset *d = open_part(&options, MT_DATA_TRAIN);
	for (uint64_t k = 0; k < 40; k++) {
		assert_int_equal(mt_dataset_sample(d, k, tokens, targets), MT_OK);
		if (tokens[0] >= 10000)
			seen_b[(tokens[0] - 10000) / SEQ]++;
		else
			seen_a[tokens[0] / SEQ]++; // cppcheck-suppress arrayIndexOutOfBoundsCond
	}
	/* 30 of 31 windows of a, 10 of 12 of b: none twice within an epoch */
	for (int i = 0; i < 31; i++)
		assert_in_range(seen_a[i], 0, 1);
	for (int i = 0; i < 12; i++)
		assert_in_range(seen_b[i], 0, 1);
	assert_int_equal(mt_dataset_tokens(d), 700);
	assert_string_equal(mt_dataset_text(d), "blend of 2 sources, 700 tokens");
	mt_dataset_close(d);
}

static void bad_blends_are_refused(void **state)
{
	char a[256], text[600];

	write_set("a", 0, 5, 100, a);
	snprintf(text, sizeof text, "0.5 %s 0.5", a);
	refused(&(struct mt_data_options){.path = text}, "no path behind it");
	snprintf(text, sizeof text, "-1 %s", a);
	refused(&(struct mt_data_options){.path = text}, "no positive number");
	snprintf(text, sizeof text, "1 %s nan %s", a, a);
	refused(&(struct mt_data_options){.path = text}, "no positive number");
	snprintf(text, sizeof text, "1 %s 1e-9 %s", a, a);
	refused(&(struct mt_data_options){.path = text}, "below");
	snprintf(text, sizeof text, "1 %s 1 %s/none", a, directory);
	refused(&(struct mt_data_options){.path = text}, "none");
}

/* --- splits --- */

/* The parts share no document, and together they are the whole. */
static void split_parts_share_nothing(void **state)
{
	enum { DOCUMENTS = 1000, LENGTH = 40 };
	char path[256];
	int owner[DOCUMENTS];
	int64_t tokens = 0;

	write_set("split", 0, DOCUMENTS, LENGTH, path);
	memset(owner, -1, sizeof owner);
	for (int part = 0; part < MT_DATA_PARTS; part++) {
		struct mt_data_options options = {.path = path, .split = (char *)"96,3,1"};
		struct mt_dataset *d = open_part(&options, (enum mt_data_part)part);
		int64_t windows = (mt_dataset_tokens(d) - 1) / SEQ;

		tokens += mt_dataset_tokens(d);
		for (int64_t k = 0; k < windows; k++) {
			int32_t inputs[SEQ], targets[SEQ];
			assert_int_equal(mt_dataset_sample(d, (uint64_t)k, inputs, targets), MT_OK);
			for (int t = 0; t <= SEQ; t++) {
				int document = (t < SEQ ? inputs[t] : targets[SEQ - 1]) / LENGTH;
				assert_true(owner[document] == -1 || owner[document] == part);
				owner[document] = part;
			}
		}
		double share = (double)mt_dataset_tokens(d) / (DOCUMENTS * LENGTH);
		assert_true(fabs(share - mt_data_share(&options, (enum mt_data_part)part)) < 0.002);
		mt_dataset_close(d);
	}
	assert_int_equal(tokens, DOCUMENTS * LENGTH);
}

/* One long text has no document to end at: it is cut where the share ends. */
static void a_single_document_is_split_too(void **state)
{
	char path[256];
	struct mt_data_options options = {.path = path, .split = (char *)"8,1,1"};

	write_set("one", 0, 1, 1000, path);
	for (int part = 0; part < MT_DATA_PARTS; part++) {
		struct mt_dataset *d = open_part(&options, (enum mt_data_part)part);
		assert_int_equal(mt_dataset_tokens(d), part == 0 ? 800 : 100);
		mt_dataset_close(d);
	}
}

static void bad_splits_are_refused(void **state)
{
	static const char *const bad[] = {"", "1", "1,2", "1,2,3,4", "a,b,c", "1,-1,1", "0,0,0", "1,1,inf", "1;1;1"};
	char path[256];

	write_set("split", 0, 10, 40, path);
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		refused(&(struct mt_data_options){.path = path, .split = (char *)bad[i]}, "969,30,1");
	struct mt_data_options options = {.path = path, .split = (char *)"99,1,0"};
	struct mt_dataset *d;
	mt_error_clear();
	assert_int_equal(mt_dataset_open_part(&d, &options, MT_DATA_VALID, 100000, SEQ, 7), MT_INPUT);
	assert_non_null(strstr(mt_error_message(), "validation part"));
}

/* --- documents apart --- */

static void starts_and_targets_keep_documents_apart(void **state)
{
	enum { LENGTH = 11 };
	char path[256];

	write_set("apart", 0, 200, LENGTH, path);
	struct mt_data_options options = {.path = path, .shuffle = true};
	struct mt_dataset *d = open_part(&options, MT_DATA_TRAIN);
	for (uint64_t k = 0; k < 100; k++) {
		int32_t tokens[SEQ], targets[SEQ], starts[SEQ];

		assert_int_equal(mt_dataset_sample_apart(d, k, tokens, targets, starts), MT_OK);
		for (int t = 0; t < SEQ; t++) {
			int first = tokens[t] / LENGTH * LENGTH - tokens[0]; /* where its document begins, in the sample */
			assert_int_equal(starts[t], first > 0 ? first : 0);
			assert_int_equal(targets[t], (tokens[t] + 1) % LENGTH == 0 ? -1 : tokens[t] + 1);
		}
	}
	mt_dataset_close(d);
}

/* --- the loader --- */

static struct mt_loader *open_loader(struct mt_dataset *d, int64_t mbs, int64_t dp, int64_t rank)
{
	struct mt_loader_config config = {.dataset = d, .seq = SEQ, .mbs = mbs, .gbs = 8, .dp = dp, .rank = rank};
	struct mt_loader *l;

	assert_int_equal(mt_loader_create(&l, &config), MT_OK);
	return l;
}

/* Whatever the layout, the ranks of a step together have its samples, each once; so for a step out of turn. */
static void same_samples_for_every_layout(void **state)
{
	static const struct {
		int64_t mbs, dp;
	} layouts[] = {{1, 1}, {2, 1}, {8, 1}, {1, 2}, {2, 2}, {4, 2}, {1, 4}, {2, 4}, {1, 8}};
	static const int64_t steps[] = {0, 1, 2, 17, 3, 3, 4, 0};
	struct mt_data_options options = {.shuffle = true};
	struct mt_dataset *d = open_part(&options, MT_DATA_TRAIN);

	for (size_t i = 0; i < sizeof layouts / sizeof layouts[0]; i++) {
		int64_t mbs = layouts[i].mbs, dp = layouts[i].dp, microbatches = 8 / (mbs * dp);

		for (int64_t rank = 0; rank < dp; rank++) {
			struct mt_loader *l = open_loader(d, mbs, dp, rank);
			for (size_t s = 0; s < sizeof steps / sizeof steps[0]; s++) {
				assert_int_equal(mt_loader_begin(l, (uint64_t)steps[s] * 8), MT_OK);
				for (int64_t k = microbatches - 1; k >= 0; k--) {
					int32_t tokens[SEQ], targets[SEQ];
					struct mt_batch batch;
					double waited_s = 0;

					assert_int_equal(mt_loader_get(l, k, &batch, &waited_s), MT_OK);
					assert_int_equal(batch.counted, mbs * SEQ);
					for (int64_t b = 0; b < mbs; b++) {
						uint64_t sample = (uint64_t)(steps[s] * 8 + (k * dp + rank) * mbs + b);
						assert_int_equal(mt_dataset_sample(d, sample, tokens, targets), MT_OK);
						assert_memory_equal(batch.tokens + b * SEQ, tokens, sizeof tokens);
						assert_memory_equal(batch.targets + b * SEQ, targets, sizeof targets);
					}
				}
			}
			mt_loader_destroy(l);
		}
	}
	mt_dataset_close(d);
}

/* Without anybody asking, the step that runs and the next one are fetched, and no more. */
static void the_next_step_is_read_ahead(void **state)
{
	struct mt_data_options options = {.shuffle = true};
	struct mt_dataset *d = open_part(&options, MT_DATA_TRAIN);
	struct mt_loader *l = open_loader(d, 2, 1, 0);

	for (int64_t step = 0; step < 3; step++) {
		assert_int_equal(mt_loader_begin(l, (uint64_t)step * 8), MT_OK);
		for (int tries = 0; tries < 60000 && mt_loader_ready(l) < 8; tries++)
			usleep(1000);
		assert_int_equal(mt_loader_ready(l), 8); /* two steps of four micro-batches */
	}
	usleep(2000);
	assert_int_equal(mt_loader_ready(l), 8);
	mt_loader_destroy(l);
	mt_dataset_close(d);
}

/* The file is cut while the run goes on: the step that needs what is gone fails, with one message, and not the ones before. */
static void shrunken_file_is_one_message(void **state)
{
	enum { DOCUMENTS = 20, LENGTH = 200 };
	char path[256], bin[300];
	struct mt_batch batch;
	double waited_s = 0;
	int64_t step = 0;
	enum mt_status st = MT_OK;

	write_set("shrinks", 0, DOCUMENTS, LENGTH, path);
	snprintf(bin, sizeof bin, "%s.bin", path);
	struct mt_data_options options = {.path = path, .shuffle = false};
	struct mt_dataset *d = open_part(&options, MT_DATA_TRAIN);
	struct mt_loader *l = open_loader(d, 8, 1, 0);
	assert_int_equal(mt_loader_begin(l, 0), MT_OK);
	assert_int_equal(mt_loader_get(l, 0, &batch, &waited_s), MT_OK);
	assert_int_equal(truncate(bin, 2000 * 4), 0);
	mt_error_clear();
	while (st == MT_OK && step < 100) {
		assert_int_equal(mt_loader_begin(l, (uint64_t)step * 8), MT_OK);
		st = mt_loader_get(l, 0, &batch, &waited_s);
		step += st == MT_OK;
	}
	assert_int_equal(st, MT_IO);
	assert_non_null(strstr(mt_error_message(), bin));
	assert_non_null(strstr(mt_error_message(), "shrank"));
	/* a step has 128 tokens and one more: 2000 whole ones make 15 steps */
	assert_int_equal(step, 15);
	mt_loader_destroy(l);
	mt_dataset_close(d);
}

static int make_directory(void **state)
{
	return mkdtemp(directory) ? 0 : -1;
}

static int remove_directory(void **state)
{
	char command[300];

	snprintf(command, sizeof command, "rm -rf %s", directory);
	return system(command);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(blend_proportions_hold),
		cmocka_unit_test(a_blend_takes_each_source_in_its_own_order),
		cmocka_unit_test(bad_blends_are_refused),
		cmocka_unit_test(split_parts_share_nothing),
		cmocka_unit_test(a_single_document_is_split_too),
		cmocka_unit_test(bad_splits_are_refused),
		cmocka_unit_test(starts_and_targets_keep_documents_apart),
		cmocka_unit_test(same_samples_for_every_layout),
		cmocka_unit_test(the_next_step_is_read_ahead),
		cmocka_unit_test(shrunken_file_is_one_message),
	};
	return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
