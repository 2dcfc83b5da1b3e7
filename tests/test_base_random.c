/* base/random: known answers, and the properties that the engine leans on. */
#define _DEFAULT_SOURCE
#include "base/random.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* kat_vectors of Random123, philox4x32 with 10 rounds. */
static void philox_gives_the_known_answers(void **state)
{
	static const struct {
		uint32_t counter[4], key[2], out[4];
	} answers[] = {
		{{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
		{{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
		{{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
		 {0xa4093822, 0x299f31d0},
		 {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
	};

	(void)state;
	for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++) {
		uint32_t out[4];
		mt_philox(answers[i].counter, answers[i].key, out);
		for (int j = 0; j < 4; j++)
			assert_int_equal(out[j], answers[i].out[j]);
	}
}

static void many_normals_equal_one_at_a_time(void **state)
{
	static const uint64_t firsts[] = {0, 1, 17, 63, 64, 1000003, ((uint64_t)1 << 38) - 100, ((uint64_t)1 << 40) + 5};
	float values[700];

	(void)state;
	for (size_t f = 0; f < sizeof firsts / sizeof firsts[0]; f++) {
		mt_random_normals(3 + f, ~(uint64_t)f, firsts[f], 700, values);
		for (uint64_t i = 0; i < 700; i++) {
			float one = (float)mt_random_normal(3 + f, ~(uint64_t)f, firsts[f] + i);
			assert_memory_equal(&values[i], &one, sizeof one);
		}
	}
}

static void normals_do_not_depend_on_how_a_range_is_split(void **state)
{
	enum { COUNT = 3000 };
	float whole[COUNT], parts[COUNT];

	(void)state;
	mt_random_normals(5, 6, 123, COUNT, whole);
	for (uint64_t trial = 0; trial < 50; trial++) {
		size_t done = 0;
		for (uint64_t cut = 0; done < COUNT; cut++) {
			size_t count = mt_random_integer(trial, 1, cut, 200);
			if (count > COUNT - done)
				count = COUNT - done;
			mt_random_normals(5, 6, 123 + done, count, parts + done);
			done += count;
		}
		assert_memory_equal(whole, parts, sizeof whole);
	}
}

/* Against libm, from the same words: the polynomials are as good as double allows. */
static void a_normal_is_box_muller_of_its_words(void **state)
{
	(void)state;
	for (uint64_t i = 0; i < 20000; i++) {
		uint64_t index = mt_random_integer(8, 8, i, (uint64_t)1 << 50);
		uint64_t block = (uint64_t)1 << 63 | (index / 64 * 16 + index % 16);
		unsigned lane = index % 64 / 16;
		uint32_t words[4];
		mt_philox((uint32_t[4]){(uint32_t)block, (uint32_t)(block >> 32), 4, 0}, (uint32_t[2]){9, 0}, words);
		double r = sqrt(-2 * log((words[lane & 2] + 0.5) * 0x1p-32)), angle = 2 * M_PI * 0x1p-32 * words[(lane & 2) + 1];
		double expected = r * (lane & 1 ? sin(angle) : cos(angle));
		assert_true(fabs(mt_random_normal(9, 4, index) - expected) < 1e-13);
	}
}

/* Standard errors of the moments of n normals: mean 1/sqrt(n), variance sqrt(2/n), kurtosis sqrt(96/n); five of them. */
static void normals_have_the_moments_of_a_normal(void **state)
{
	enum { COUNT = 1 << 20 };
	float *values = malloc(COUNT * sizeof *values);
	double sums[4] = {0}, lag = 0;

	(void)state;
	assert_non_null(values);
	mt_random_normals(1234, 1, 0, COUNT, values);
	for (int i = 0; i < COUNT; i++) {
		double z = values[i], power = 1;
		for (int p = 0; p < 4; p++)
			sums[p] += power *= z;
		if (i >= 16) /* index i - 16 shares the Philox block */
			lag += z * values[i - 16];
	}
	double error = 5 / sqrt(COUNT);
	assert_true(fabs(sums[0] / COUNT) < error);
	assert_true(fabs(sums[1] / COUNT - 1) < error * sqrt(2));
	assert_true(fabs(sums[2] / COUNT) < error * sqrt(15));
	assert_true(fabs(sums[3] / COUNT - 3) < error * sqrt(96));
	assert_true(fabs(lag / COUNT) < error);
	free(values);
}

/* Kolmogorov-Smirnov distance to the normal distribution, 0.1% level: 1.95 / sqrt(n). */
static int ascending(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;
	return (x > y) - (x < y);
}

static void normals_follow_the_normal_distribution(void **state)
{
	enum { COUNT = 100000 };
	float *values = malloc(COUNT * sizeof *values);
	double worst = 0;

	(void)state;
	assert_non_null(values);
	mt_random_normals(77, 2, 5, COUNT, values);
	qsort(values, COUNT, sizeof *values, ascending);
	for (int i = 0; i < COUNT; i++) {
		double p = 0.5 * erfc(-values[i] / M_SQRT2);
		worst = fmax(worst, fmax(fabs(p - (double)i / COUNT), fabs(p - (double)(i + 1) / COUNT)));
	}
	assert_true(worst < 1.95 / sqrt(COUNT));
	free(values);
}

static void uniforms_fill_the_unit_interval_evenly(void **state)
{
	enum { BINS = 64, COUNT = 64000 };
	int bins[BINS] = {0};
	double chi2 = 0;

	(void)state;
	for (uint64_t i = 0; i < COUNT; i++) {
		double u = mt_random_uniform(1, 2, i);
		assert_true(u >= 0 && u < 1);
		bins[(int)(u * BINS)]++;
	}
	for (int b = 0; b < BINS; b++)
		chi2 += (bins[b] - COUNT / BINS) * (double)(bins[b] - COUNT / BINS) / (COUNT / BINS);
	assert_true(chi2 < 103.4); /* 63 degrees of freedom, 0.1% */
}

static void integers_stay_below_their_bound_and_reach_all(void **state)
{
	(void)state;
	for (uint64_t bound = 1; bound < 40; bound++) {
		uint64_t seen = 0;
		for (uint64_t i = 0; i < 1000; i++) {
			uint64_t value = mt_random_integer(4, 4, i, bound);
			assert_true(value < bound);
			seen |= (uint64_t)1 << value;
		}
		assert_int_equal(seen, ((uint64_t)1 << bound) - 1);
	}
	assert_true(mt_random_integer(4, 4, 1, UINT64_MAX) < UINT64_MAX);
}

static void seeds_and_streams_give_different_numbers(void **state)
{
	(void)state;
	assert_true(mt_random_normal(1, 1, 1) != mt_random_normal(2, 1, 1));
	assert_true(mt_random_normal(1, 1, 1) != mt_random_normal(1, 2, 1));
	assert_true(mt_random_normal(1, 1, 1) != mt_random_normal((uint64_t)1 << 32 | 1, 1, 1));
	assert_true(mt_random_uniform(1, (uint64_t)1 << 40, 1) != mt_random_uniform(1, 0, 1));
}

static void permute_is_a_bijection(void **state)
{
	static const uint64_t counts[] = {1, 2, 3, 4, 5, 7, 8, 9, 31, 64, 100, 1000, 4097, 65536, 100003};

	(void)state;
	for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
		for (uint64_t seed = 0; seed < 3; seed++) {
			unsigned char *seen = calloc(counts[c], 1);
			assert_non_null(seen);
			for (uint64_t i = 0; i < counts[c]; i++) {
				uint64_t image = mt_random_permute(seed, seed * 7, i, counts[c]);
				assert_true(image < counts[c]);
				assert_int_equal(seen[image], 0);
				seen[image] = 1;
			}
			free(seen);
		}
	}
}

/* About one point of a random permutation stays where it is; the order must differ from epoch to epoch. */
static void permute_moves_nearly_every_index(void **state)
{
	int fixed = 0, same = 0;

	(void)state;
	for (uint64_t i = 0; i < 10000; i++) {
		fixed += mt_random_permute(1, 1, i, 10000) == i;
		same += mt_random_permute(1, 1, i, 10000) == mt_random_permute(1, 2, i, 10000);
	}
	assert_in_range(fixed, 0, 8);
	assert_in_range(same, 0, 8);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(philox_gives_the_known_answers),
		cmocka_unit_test(many_normals_equal_one_at_a_time),
		cmocka_unit_test(normals_do_not_depend_on_how_a_range_is_split),
		cmocka_unit_test(a_normal_is_box_muller_of_its_words),
		cmocka_unit_test(normals_have_the_moments_of_a_normal),
		cmocka_unit_test(normals_follow_the_normal_distribution),
		cmocka_unit_test(uniforms_fill_the_unit_interval_evenly),
		cmocka_unit_test(integers_stay_below_their_bound_and_reach_all),
		cmocka_unit_test(seeds_and_streams_give_different_numbers),
		cmocka_unit_test(permute_is_a_bijection),
		cmocka_unit_test(permute_moves_nearly_every_index),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
