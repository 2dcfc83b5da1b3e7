/* Context parallelism and documents, as far as one rank shows them: which rows of a sequence are where, and that documents packed
 * into one sequence and kept apart train as each would alone. */
#include "base/random.h"
#include "engine/context.h"
#include "engine/data.h"
#include "engine/loader.h"
#include "tests/engine_problem.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static struct mt_layout layout_of(int kind, int64_t cp, int64_t inner, int64_t seq)
{
	return (struct mt_layout){.tp = 1, .cp = cp, .dp = 1, .pp = 1, .cp_kind = kind, .cp_inner = inner, .mbs = 2, .seq = seq};
}

static const struct mt_layout *shapes(int *count)
{
	static struct mt_layout all[8];

	all[0] = layout_of(MT_CONTEXT_RING, 1, 1, 7);
	all[1] = layout_of(MT_CONTEXT_RING, 2, 1, 12);
	all[2] = layout_of(MT_CONTEXT_RING, 5, 1, 30);
	all[3] = layout_of(MT_CONTEXT_ALL_GATHER, 4, 1, 16);
	all[4] = layout_of(MT_CONTEXT_ULYSSES, 3, 1, 15);
	all[5] = layout_of(MT_CONTEXT_HYBRID, 4, 2, 24);
	all[6] = layout_of(MT_CONTEXT_HYBRID, 6, 2, 36);
	all[7] = layout_of(MT_CONTEXT_HYBRID, 6, 3, 12);
	*count = 8;
	return all;
}

static void ranks_share_the_rows_of_a_sequence_in_order(void **state)
{
	int count;
	const struct mt_layout *all = shapes(&count);

	for (int i = 0; i < count; i++) {
		int taken[64] = {0};

		for (int cp = 0; cp < all[i].cp; cp++) {
			int64_t last = -1;

			for (int64_t t = 0; t < mt_context_rank_rows(&all[i]); t++) {
				int64_t row = mt_context_rank_row(&all[i], cp, t);

				if (row <= last || row >= all[i].seq)
					fail_msg("shape %d, rank %d: row %lld after %lld", i, cp, (long long)row, (long long)last);
				taken[row]++;
				last = row;
			}
		}
		for (int64_t row = 0; row < all[i].seq; row++)
			assert_int_equal(taken[row], 1);
	}
}

/* The zig-zag: every part has as many pairs of a query and a key before it. */
static void parts_have_as_much_to_do(void **state)
{
	int count;
	const struct mt_layout *all = shapes(&count);

	for (int i = 0; i < count; i++) {
		int outer = mt_context_outer(&all[i]);
		int64_t first = 0;

		for (int part = 0; part < outer; part++) {
			int64_t pairs = 0;

			for (int64_t y = 0; y < mt_context_part_rows(&all[i]); y++)
				pairs += mt_context_part_row(&all[i], part, y) + 1;
			first = part ? first : pairs;
			assert_int_equal(pairs, first);
		}
	}
}

static void first_rows_of_documents_are_found_in_every_part(void **state)
{
	int count;
	const struct mt_layout *all = shapes(&count);

	for (int i = 0; i < count; i++) {
		int64_t rows = mt_context_part_rows(&all[i]);

		for (int part = 0; part < mt_context_outer(&all[i]); part++) {
			for (int64_t at = 0; at <= all[i].seq; at++) {
				int64_t want = 0;

				while (want < rows && mt_context_part_row(&all[i], part, want) < at)
					want++;
				assert_int_equal(mt_context_first_at(&all[i], part, at), want);
			}
		}
	}
}

/* --- documents apart --- */

enum { DOCUMENTS = 3 };
static const int64_t lengths[DOCUMENTS] = {6, 8, 3}; /* 17 tokens: one sample of 16 */
static const int64_t inner[DOCUMENTS] = {5, 7, 2};   /* targets that are of their own document */

/* PREFIX of a data set of documents first..first+count-1. */
static void write_documents(int first, int count, char prefix[64])
{
	int32_t tokens[DOCUMENTS][8];
	const int32_t *pointers[DOCUMENTS];

	for (int d = 0; d < DOCUMENTS; d++) {
		for (int64_t t = 0; t < lengths[d]; t++)
			tokens[d][t] = (int32_t)mt_random_integer(5, (uint64_t)d, (uint64_t)t, TINY_VOCAB);
		pointers[d] = tokens[d];
	}
	snprintf(prefix, 64, "context_documents_%d_%d", first, count);
	assert_int_equal(mt_indexed_write(prefix, pointers + first, lengths + first, count, TINY_VOCAB), MT_OK);
}

static void remove_documents(const char *prefix)
{
	char path[80];

	snprintf(path, sizeof path, "%s.bin", prefix);
	remove(path);
	snprintf(path, sizeof path, "%s.idx", prefix);
	remove(path);
}

/* Loss of one step on a data set of one sample, and all gradients times `weight`, added to `sums`. */
static double step_on(const struct tiny_model *model, char *prefix, int64_t seq, bool apart, double weight, double *sums)
{
	struct mt_run run;
	struct engine_bench bench;
	struct mt_step_stats stats;
	double *values = calloc(20000, sizeof *values), evaluated;
	int64_t at = 0;

	set_tiny_run(&run, model);
	run.model.seq = 16;
	run.layout.dtype = MT_F64;
	run.layout.seq = seq;
	run.layout.mbs = run.layout.gbs = 1;
	run.layout.documents = apart ? MT_DOCUMENTS_APART : MT_DOCUMENTS_JOINED;
	run.data.path = prefix;
	if (open_engine(&bench, &run, "reference", NULL) != MT_OK ||
	    mt_engine_evaluate(bench.engine, bench.dataset, 1, &evaluated) != MT_OK ||
	    mt_engine_step(bench.engine, &stats) != MT_OK)
		fail_msg("%s", mt_error_message());
	if (!(fabs(evaluated - stats.loss) <= 1e-14 * stats.loss))
		fail_msg("loss evaluated %.15g, of the step %.15g", evaluated, stats.loss);
	for (int i = 0; i < mt_engine_param_count(bench.engine); i++) {
		struct mt_param_info info;

		mt_engine_param_info(bench.engine, i, &info);
		assert_int_equal(mt_engine_read_grad_f64(bench.engine, i, values), MT_OK);
		for (int64_t k = 0; k < info.rows * info.cols; k++)
			sums[at++] += weight * values[k];
	}
	close_engine(&bench);
	run.data.path = NULL;
	mt_run_free(&run);
	free(values);
	return stats.loss;
}

static void packed_documents_train_as_each_alone(void **state)
{
	const struct tiny_model *models[] = {&TINY_GPT, &TINY_LLAMA};

	for (int m = 0; m < 2; m++) {
		double *packed = calloc(40000, sizeof *packed), *alone = calloc(40000, sizeof *alone), loss = 0, together, all = 14;
		char prefix[64];

		write_documents(0, DOCUMENTS, prefix);
		together = step_on(models[m], prefix, 16, true, 1, packed);
		remove_documents(prefix);
		for (int d = 0; d < DOCUMENTS; d++) {
			write_documents(d, 1, prefix);
			loss += step_on(models[m], prefix, lengths[d] - 1, false, (double)inner[d] / all, alone) *
				(double)inner[d] / all;
			remove_documents(prefix);
		}
		if (!(fabs(together - loss) <= 1e-12 * loss))
			fail_msg("%s: loss packed %.15g, alone %.15g", models[m]->name, together, loss);
		for (int i = 0; i < 40000; i++) {
			if (!(fabs(packed[i] - alone[i]) <= 1e-12))
				fail_msg("%s: gradient %d packed %.15g, alone %.15g", models[m]->name, i, packed[i], alone[i]);
		}
		free(packed);
		free(alone);
	}
}

/* A module's token is the next, and its target counts where the one before does; both are of the whole sequence. */
static void check_next(const struct mt_batch *batch, const int32_t *taken, int64_t count, const int32_t *tokens,
		       const int32_t *targets)
{
	for (int64_t t = 0; t < count; t++) {
		int64_t row = taken ? taken[t] : t;
		bool counts = row < 15 && targets[row] >= 0 && targets[row + 1] >= 0;

		assert_int_equal(batch->next[t], row < 15 ? tokens[row + 1] : -1);
		assert_int_equal(batch->next[count + t], counts ? targets[row + 1] : -1);
	}
}

/* By default targets of another document do not count; they can be let to. Rows may be taken from a sequence in any number. */
static void targets_of_another_document_count_when_told_to(void **state)
{
	static const int32_t taken[] = {1, 5, 6, 13, 15};
	struct mt_data_options options = {0};
	struct mt_loader_config config = {.seq = 16, .mbs = 1, .gbs = 1, .dp = 1, .apart = true, .modules = 1};
	struct mt_dataset *dataset = NULL;
	struct mt_loader *loader = NULL;
	struct mt_batch batch;
	int32_t targets[2][16], tokens[16]; /* of the whole sequence, without and with boundaries */
	double waited_s = 0;
	char prefix[64];

	write_documents(0, DOCUMENTS, prefix);
	options.path = prefix;
	assert_int_equal(mt_dataset_open(&dataset, &options, TINY_VOCAB, 16, 1), MT_OK);
	config.dataset = dataset;
	for (int i = 0; i < 4; i++) {
		int64_t count = i & 2 ? 5 : 16;

		config.count_boundaries = i & 1;
		config.rows = i & 2 ? taken : NULL;
		config.row_count = count;
		assert_int_equal(mt_loader_create(&loader, &config), MT_OK);
		assert_int_equal(mt_loader_begin(loader, 0), MT_OK);
		assert_int_equal(mt_loader_get(loader, 0, &batch, &waited_s), MT_OK);
		/* rows 5 and 13 are the last of a document */
		assert_int_equal(batch.counted, count - (i & 1 ? 0 : 2));
		if (i < 2) {
			memcpy(targets[i], batch.targets, sizeof targets[i]);
			memcpy(tokens, batch.tokens, sizeof tokens);
		}
		check_next(&batch, config.rows, count, tokens, targets[i & 1]);
		for (int64_t t = 0; t < count && i > 1; t++) {
			bool last = taken[t] == 5 || taken[t] == 13;

			assert_int_equal(batch.targets[t], last && !(i & 1) ? -1 : targets[1][taken[t]]);
		}
		mt_loader_destroy(loader);
	}
	mt_dataset_close(dataset);
	remove_documents(prefix);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ranks_share_the_rows_of_a_sequence_in_order),
		cmocka_unit_test(parts_have_as_much_to_do),
		cmocka_unit_test(first_rows_of_documents_are_found_in_every_part),
		cmocka_unit_test(packed_documents_train_as_each_alone),
		cmocka_unit_test(targets_of_another_document_count_when_told_to),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
