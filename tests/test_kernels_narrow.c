/* The narrow types against plain tables of their values, made from their definition in double: every code, the middle between
 * each two neighbours and what lies just beside it, the edges, and random numbers. */
#include "tests/kernels_problem.h"

#include "kernels/fp8.h"

/* A type by its definition: value = (-1)^sign (1 + f/2^fraction) 2^(e - bias), or f/2^fraction 2^(1 - bias) where e is 0. */
struct narrow {
	const char *name;
	int exponent, fraction, bias;
	bool infinity;  /* the largest exponent is for infinity and NaN; else only its largest fraction, for NaN */
	bool saturates; /* what is too large becomes the largest number, else infinity */
	float (*widen)(uint32_t code);
	uint32_t (*round)(float value);
};

static float widen_f16(uint32_t code)
{
	return mt_f16_to_f32((uint16_t)code);
}

static uint32_t round_f16(float value)
{
	return mt_f16_from_f32(value);
}

static float widen_e4m3(uint32_t code)
{
	return mt_e4m3_to_f32((uint8_t)code);
}

static uint32_t round_e4m3(float value)
{
	return mt_e4m3_from_f32(value);
}

static float widen_e5m2(uint32_t code)
{
	return mt_e5m2_to_f32((uint8_t)code);
}

static uint32_t round_e5m2(float value)
{
	return mt_e5m2_from_f32(value);
}

static const struct narrow types[] = {{"f16", 5, 10, 15, true, false, widen_f16, round_f16},
				      {"e4m3", 4, 3, 7, false, true, widen_e4m3, round_e4m3},
				      {"e5m2", 5, 2, 15, true, true, widen_e5m2, round_e5m2}};
enum { TYPES = 3, MOST_CODES = 1 << 15 };

static uint32_t sign_of(const struct narrow *t)
{
	return 1u << (t->exponent + t->fraction);
}

/* The value of a code without its sign; NaN where it is none. */
static double value_of(const struct narrow *t, uint32_t code)
{
	uint32_t e = code >> t->fraction, f = code & ((1u << t->fraction) - 1), most = (1u << t->exponent) - 1;
	double fraction = (double)f / (double)(1u << t->fraction);

	if (t->infinity && e == most)
		return f ? NAN : INFINITY;
	if (!t->infinity && code == sign_of(t) - 1)
		return NAN;
	return e ? (1 + fraction) * pow(2, (int)e - t->bias) : fraction * pow(2, 1 - t->bias);
}

/* Fills the table of finite values, ascending; returns how many. */
static int make_table(const struct narrow *t, double *table)
{
	int count = 0;

	for (uint32_t code = 0; code < sign_of(t) && isfinite(value_of(t, code)); code++)
		table[count++] = value_of(t, code);
	return count;
}

/* The code of |x| by search: the nearest value, of two as near the even one; one step past the last is too large. */
static uint32_t search(const struct narrow *t, const double *table, int count, double x)
{
	int low = 0, high = count - 1;
	double past = table[count - 1] + (table[count - 1] - table[count - 2]);

	if (isnan(x))
		return t->infinity && !t->saturates ? 0x7e00 : 0x7f;
	if (x > table[count - 1]) {
		bool too_large = x >= (table[count - 1] + past) / 2;
		return t->saturates || !too_large ? (uint32_t)count - 1 : (uint32_t)count;
	}
	while (high - low > 1) {
		int middle = (low + high) / 2;
		if (table[middle] <= x)
			low = middle;
		else
			high = middle;
	}
	double below = x - table[low], above = table[high] - x;
	if (below != above)
		return (uint32_t)(below < above ? low : high);
	return (uint32_t)(low % 2 == 0 ? low : high);
}

static void check(const struct narrow *t, const double *table, int count, float x)
{
	uint32_t sign = signbit(x) ? sign_of(t) : 0, want = search(t, table, count, fabs((double)x)) | sign, got = t->round(x);

	if (got != want)
		fail_msg("%s: %a becomes %#x, expected %#x", t->name, (double)x, got, want);
}

static void check_both(const struct narrow *t, const double *table, int count, float x)
{
	check(t, table, count, x);
	check(t, table, count, -x);
}

static double table[MOST_CODES];

static void every_code_has_its_value_and_comes_back(void **state)
{
	for (int i = 0; i < TYPES; i++) {
		const struct narrow *t = &types[i];
		for (uint32_t code = 0; code < 2 * sign_of(t); code++) {
			double want = value_of(t, code & (sign_of(t) - 1));
			float got = t->widen(code);
			if (isnan(want) ? !isnan(got) : (double)fabsf(got) != want || (signbit(got) != 0) != (code >= sign_of(t)))
				fail_msg("%s: code %#x is %g, expected %g", t->name, code, (double)got, want);
			if (isfinite(want))
				assert_int_equal(t->round(got), code);
		}
	}
}

static void rounding_is_to_nearest_even_and_ends_as_the_type_says(void **state)
{
	for (int i = 0; i < TYPES; i++) {
		const struct narrow *t = &types[i];
		int count = make_table(t, table);
		const float edges[] = {0.0f,   0x1p-149f,       0x1p-126f, 1.0f,     447.9f,    448.0f,   464.0f,
				       465.0f, 57344.0f,        61440.0f,  65504.0f, 65519.99f, 65520.0f, 65536.0f,
				       1e30f,  0x1.fffffep127f, INFINITY};
		for (int k = 0; k + 1 < count; k++) {
			float middle = (float)((table[k] + table[k + 1]) / 2);
			check_both(t, table, count, middle);
			check_both(t, table, count, nextafterf(middle, 0));
			check_both(t, table, count, nextafterf(middle, INFINITY));
			check_both(t, table, count, nextafterf((float)table[k + 1], 0));
		}
		for (size_t k = 0; k < sizeof edges / sizeof *edges; k++)
			check_both(t, table, count, edges[k]);
		assert_int_equal(t->round(NAN) & (sign_of(t) - 1), search(t, table, count, NAN));
	}
}

/* Exponents over all that f32 has. */
static void random_numbers_round_as_the_table_says(void **state)
{
	for (int i = 0; i < TYPES; i++) {
		int count = make_table(&types[i], table);
		for (int k = 0; k < 40000; k++) {
			double scale = pow(2, (double)pick(-40, 30));
			check(&types[i], table, count, (float)(mt_random_normal(SEED, 1, drawn++) * scale));
		}
		for (int k = 0; k < 20000; k++) {
			float any = mt_f32_of_bits((uint32_t)mt_random_integer(SEED, 3, drawn++, UINT32_MAX));
			check(&types[i], table, count, isnan(any) ? 1.0f : any);
		}
	}
}

int main(void)
{
#define PROPERTY(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		PROPERTY(every_code_has_its_value_and_comes_back),
		PROPERTY(rounding_is_to_nearest_even_and_ends_as_the_type_says),
		PROPERTY(random_numbers_round_as_the_table_says),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
