/* What an operation costs: exact where measured, a power law's own curve between, the nearest rate beyond, and never a
 * number out of nothing. */
#include "base/random.h"
#include "base/stats.h"
#include "profiles/profile.h"

#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct mt_profile_rates RATES = {
	.flops_per_s = {[MT_F32] = 1e11, [MT_BF16] = 4e11},
	.bytes_per_s = 1e10,
	.overhead_s = 2e-6,
};

static int make_profile(void **state)
{
	struct mt_profile *profile = NULL;
	if (mt_profile_create(&profile, 1, 2, &RATES) != MT_OK)
		return -1;
	*state = profile;
	return 0;
}

static int destroy_profile(void **state)
{
	mt_profile_destroy(*state);
	return 0;
}

static void assert_close(double got, double want, double least_frac)
{
	if (!(fabs(got - want) <= least_frac * fabs(want)))
		fail_msg("%.17g, expected %.17g", got, want);
}

static struct mt_op_key linear(int64_t rows, int64_t in, int64_t out)
{
	return (struct mt_op_key){.kind = MT_OP_LINEAR, .dtype = MT_F32, .dims = {rows, in, out, 0}};
}

static struct mt_op_key fill(int64_t count)
{
	return (struct mt_op_key){.kind = MT_OP_FILL, .dtype = MT_F32, .dims = {count, MT_F32}};
}

static void collect(struct mt_profile *profile, struct mt_op_key key, double seconds)
{
	struct mt_trace_event event = {.name = "x", .key = &key, .stream = "compute", .start_s = 100, .end_s = 100 + seconds};
	mt_profile_collect(profile, &event);
}

static double cost(const struct mt_profile *profile, struct mt_op_key key, int want_source)
{
	int source = -1;
	double seconds = mt_profile_op_cost(profile, &key, &source, NULL);
	if (source != want_source)
		fail_msg("source %d, expected %d (cost %g s)", source, want_source, seconds);
	return seconds;
}

static void a_measured_operation_costs_its_median(void **state)
{
	static const double SECONDS[] = {5, 1, 100, 2, 3};
	struct mt_op_key key = linear(8, 8, 8);
	double spread = -1;
	for (int i = 0; i < 5; i++)
		collect(*state, key, SECONDS[i]);
	assert_close(cost(*state, key, 0), 3, 1e-12);
	assert_close(mt_profile_op_s(*state, &key), 3, 1e-12);
	mt_profile_op_cost(*state, &key, NULL, &spread);
	assert_close(spread, mt_stats_mad(SECONDS, 5) / 3, 1e-12);
	collect(*state, key, 4);
	assert_close(cost(*state, key, 0), 3.5, 1e-12);
}

/* The differences of clock readings near 100 s keep 14 digits. */
static void spread_is_mad_over_median_for_any_count(void **state)
{
	double seconds[60];
	for (int n = 1; n <= 60; n++) {
		struct mt_op_key key = linear(n, 1, 1);
		double spread = -1;
		for (int i = 0; i < n; i++) {
			seconds[i] = 1 + mt_random_uniform(7, (uint64_t)n, (uint64_t)i);
			collect(*state, key, seconds[i]);
		}
		mt_profile_op_cost(*state, &key, NULL, &spread);
		double want = mt_stats_mad(seconds, (size_t)n) / mt_stats_median(seconds, (size_t)n);
		if (fabs(spread - want) > 1e-10)
			fail_msg("%d samples: %.17g, expected %.17g", n, spread, want);
	}
}

static void collectives_and_impossible_times_are_ignored(void **state)
{
	struct mt_op_key key = linear(8, 8, 8);
	struct mt_trace_event collective = {.name = "all_reduce", .group = "tp", .start_s = 1, .end_s = 2};
	struct mt_store_row *rows;
	int count;
	mt_profile_collect(*state, &collective);
	collect(*state, key, -1);
	collect(*state, key, NAN);
	assert_int_equal(mt_profile_rows(*state, &rows, &count), MT_OK);
	assert_int_equal(count, 0);
	free(rows);
}

static void many_samples_keep_their_median(void **state)
{
	struct mt_op_key key = fill(1000);
	struct mt_store_row *rows;
	int count;
	for (uint64_t i = 0; i < 20000; i++)
		collect(*state, key, 1 + mt_random_uniform(3, 0, i));
	double seconds = cost(*state, key, 0);
	if (fabs(seconds - 1.5) > 0.1) /* 4.5 standard errors of 512 samples */
		fail_msg("median %g of uniform samples in [1, 2]", seconds);
	assert_int_equal(mt_profile_rows(*state, &rows, &count), MT_OK);
	assert_int_equal(count, 1);
	assert_true(rows[0].interval.lo <= rows[0].median_s && rows[0].median_s <= rows[0].interval.hi);
	free(rows);
}

static void rows_give_another_profile_the_same_costs(void **state)
{
	struct mt_profile *other = NULL;
	struct mt_store_row *rows;
	int count;
	for (int i = 1; i <= 300; i++)
		for (int j = 0; j < 3; j++)
			collect(*state, linear(i, 64, 64), 1e-3 * i * (1 + 0.1 * j));
	assert_int_equal(mt_profile_rows(*state, &rows, &count), MT_OK);
	assert_int_equal(count, 300);
	assert_int_equal(mt_profile_create(&other, 1, 2, &RATES), MT_OK);
	assert_int_equal(mt_profile_add_rows(other, rows, count), MT_OK);
	for (int i = 1; i <= 300; i++)
		assert_true(cost(other, linear(i, 64, 64), 0) == cost(*state, linear(i, 64, 64), 0));
	assert_close(cost(other, linear(400, 70, 64), 1), cost(*state, linear(400, 70, 64), 1), 1e-12);
	mt_profile_destroy(other);
	free(rows);
}

static void rows_of_other_threads_or_busy_ranks_are_left_out(void **state)
{
	struct mt_store_row rows[3] = {{.key = fill(10), .threads = 2, .busy_ranks = 2, .median_s = 1, .samples = 3},
				       {.key = fill(10), .threads = 1, .busy_ranks = 1, .median_s = 2, .samples = 3},
				       {.key = fill(20), .threads = 1, .busy_ranks = 2, .median_s = 3, .samples = 3}};
	assert_int_equal(mt_profile_add_rows(*state, rows, 3), MT_OK);
	assert_close(cost(*state, fill(20), 0), 3, 0);
	cost(*state, fill(10), 1);
}

static void samples_win_over_rows_until_reset(void **state)
{
	struct mt_store_row row = {.key = fill(10), .threads = 1, .busy_ranks = 2, .median_s = 1, .samples = 3};
	collect(*state, fill(20), 5);
	assert_int_equal(mt_profile_add_rows(*state, &row, 1), MT_OK);
	collect(*state, fill(10), 9);
	assert_close(cost(*state, fill(10), 0), 9, 1e-12);
	mt_profile_reset(*state);
	assert_close(cost(*state, fill(10), 0), 1, 0);
	cost(*state, fill(20), 1);
}

static void a_key_of_no_kind_is_an_error(void **state)
{
	struct mt_store_row row = {.key = {.kind = MT_OP_KIND_COUNT}, .threads = 1, .busy_ranks = 2, .median_s = 1, .samples = 3};
	mt_error_clear();
	assert_int_equal(mt_profile_add_rows(*state, &row, 1), MT_INPUT);
	mt_error_clear();
}

static void a_power_law_is_interpolated_exactly(void **state)
{
	/* time = 1e-11 * FLOPs^0.9 */
	for (int64_t rows = 16; rows <= 4096; rows *= 4)
		collect(*state, linear(rows, 256, 256), 1e-7 * pow((double)rows, 0.9));
	for (int64_t rows = 17; rows < 4096; rows = rows * 3 / 2)
		if ((rows & (rows - 1)) != 0)
			assert_close(cost(*state, linear(rows, 256, 256), 1), 1e-7 * pow((double)rows, 0.9), 1e-6);
}

static void interpolation_lies_between_its_neighbours(void **state)
{
	for (uint64_t i = 0; i < 50; i++) {
		int64_t d[3];
		for (uint64_t j = 0; j < 3; j++)
			d[j] = 1 + (int64_t)mt_random_integer(5, j, i, 3000);
		collect(*state, linear(d[0], d[1], d[2]), 1e-6 + mt_random_uniform(5, 9, i));
	}
	for (uint64_t i = 0; i < 200; i++) {
		struct mt_op_key key = linear(5000 + (int64_t)i, 1 + (int64_t)mt_random_integer(6, 0, i, 500), 100);
		double seconds = mt_profile_op_s(*state, &key);
		assert_true(seconds > 0 && seconds < 2);
	}
}

static void the_nearest_shape_decides_not_only_the_work(void **state)
{
	/* equal work, but skinny products take ten times as long; the query is skinny */
	collect(*state, linear(512, 512, 512), 1e-3);
	collect(*state, linear(4, 8192, 4096), 1e-2);
	collect(*state, linear(1024, 1024, 1024), 8e-3);
	collect(*state, linear(8, 16384, 8192), 8e-2);
	double seconds = cost(*state, linear(6, 8192, 8192), 1);
	if (!(seconds > 1e-2 && seconds < 8e-2))
		fail_msg("a skinny product costs %g s, expected between 1e-2 and 8e-2", seconds);
}

static void beyond_what_was_measured_the_rate_is_kept(void **state)
{
	double spread_near = -1, spread_far = -1;
	struct mt_op_key near = linear(256, 128, 128), far = linear(4096, 128, 128);
	collect(*state, linear(128, 128, 128), 1e-3);
	assert_close(cost(*state, near, 1), 2e-3, 1e-9);
	assert_close(cost(*state, linear(32, 128, 128), 1), 2.5e-4, 1e-9);
	collect(*state, fill(1000), 1e-3);
	assert_close(cost(*state, fill(4000), 1), 4e-3, 1e-9);
	mt_profile_op_cost(*state, &near, NULL, &spread_near);
	mt_profile_op_cost(*state, &far, NULL, &spread_far);
	if (!(spread_far > spread_near && spread_near > 0))
		fail_msg("spread %g far from what was measured, %g near", spread_far, spread_near);
}

static void no_operation_costs_less_than_a_call(void **state)
{
	collect(*state, fill(1000000), 1e-3);
	assert_close(cost(*state, fill(1), 1), RATES.overhead_s, 1e-12);
}

static void another_type_or_kind_is_no_neighbour(void **state)
{
	struct mt_op_key key = linear(128, 128, 128), dgrad = key;
	collect(*state, key, 1e-3);
	key.dtype = MT_BF16;
	dgrad.kind = MT_OP_LINEAR_DGRAD;
	assert_close(cost(*state, key, 2), fmax(mt_op_key_flops(&key) / 4e11, mt_op_key_bytes(&key) / 1e10) + 2e-6, 1e-12);
	assert_close(cost(*state, dgrad, 2), fmax(mt_op_key_flops(&dgrad) / 1e11, mt_op_key_bytes(&dgrad) / 1e10) + 2e-6, 1e-12);
}

/* Until one with the same epilogue is measured. */
static void fused_products_cost_their_parts(void **state)
{
	struct mt_op_key plain = linear(128, 128, 128), fused = plain, wider = linear(256, 128, 128);
	struct mt_op_key gelu = {.kind = MT_OP_ACTIVATION, .dtype = MT_F32, .dims = {MT_GELU, 128, 128}};
	fused.dims[3] = wider.dims[3] = MT_LINEAR_GELU;
	collect(*state, plain, 1e-3);
	assert_close(cost(*state, fused, 2), 1e-3 + cost(*state, gelu, 2), 1e-9);
	collect(*state, gelu, 2e-3);
	assert_close(cost(*state, fused, 1), 3e-3, 1e-9);
	collect(*state, wider, 4e-3);
	assert_close(cost(*state, fused, 1), 2e-3, 1e-9);
	collect(*state, fused, 2.5e-3);
	assert_close(cost(*state, fused, 0), 2.5e-3, 1e-9);
}

static void without_rates_the_unknown_is_not_a_number(void **state)
{
	struct mt_profile *bare = NULL;
	struct mt_op_key key = fill(10);
	(void)state;
	assert_int_equal(mt_profile_create(&bare, 1, 1, NULL), MT_OK);
	assert_true(isnan(mt_profile_op_s(bare, &key)));
	mt_profile_destroy(bare);
}

#define READERS 4

static void *read_costs(void *context)
{
	double *sum = malloc(sizeof *sum);
	*sum = 0;
	for (int repeat = 0; repeat < 20; repeat++)
		for (int64_t rows = 1; rows <= 200; rows++) {
			struct mt_op_key key = linear(rows, 32, 32);
			*sum += mt_profile_op_s(context, &key);
		}
	return sum;
}

static void threads_read_the_same_costs(void **state)
{
	pthread_t threads[READERS];
	double *first = NULL;
	for (int64_t rows = 2; rows <= 200; rows += 2)
		collect(*state, linear(rows, 32, 32), 1e-6 * (double)rows);
	for (int i = 0; i < READERS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, read_costs, *state), 0);
	for (int i = 0; i < READERS; i++) {
		void *sum;
		pthread_join(threads[i], &sum);
		if (first)
			assert_true(*first == *(double *)sum);
		if (first)
			free(sum);
		else
			first = sum;
	}
	free(first);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, make_profile, destroy_profile)
	const struct CMUnitTest tests[] = {
		TEST(a_measured_operation_costs_its_median),
		TEST(spread_is_mad_over_median_for_any_count),
		TEST(collectives_and_impossible_times_are_ignored),
		TEST(many_samples_keep_their_median),
		TEST(rows_give_another_profile_the_same_costs),
		TEST(rows_of_other_threads_or_busy_ranks_are_left_out),
		TEST(samples_win_over_rows_until_reset),
		TEST(a_key_of_no_kind_is_an_error),
		TEST(a_power_law_is_interpolated_exactly),
		TEST(interpolation_lies_between_its_neighbours),
		TEST(the_nearest_shape_decides_not_only_the_work),
		TEST(beyond_what_was_measured_the_rate_is_kept),
		TEST(no_operation_costs_less_than_a_call),
		TEST(another_type_or_kind_is_no_neighbour),
		TEST(fused_products_cost_their_parts),
		TEST(without_rates_the_unknown_is_not_a_number),
		TEST(threads_read_the_same_costs),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
