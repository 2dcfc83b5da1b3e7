/* random_normal: standard normals by Box & Muller 1958 from Philox words, one at a time or many at once, the same bits.
 *
 *   r = sqrt(-2 ln u), u = (w0 + 1/2) / 2^32;   z0 = r cos(2 pi w1 / 2^32),  z1 = r sin(2 pi w1 / 2^32)
 *
 * Only additions, products, quotients and square roots of doubles are used, each rounded once (no fused products, no
 * libm), so a seed gives the same weights on every CPU and whatever the vector width. Values reach 6.76 in size.
 *
 * A block of four words gives four normals. Indices are laid out so that neighbours come from neighbouring blocks and
 * vectors are stored as they are: of 64 indices i, block = i % 16 and the normal in the block is i / 16. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#else
#pragma GCC optimize("O3", "fp-contract=off", "no-math-errno", "no-trapping-math")
#endif

#include "base/random.h"

#include <math.h>
#include <string.h>

#define LANES         16
#define CHUNK         (4 * LANES)
#define NORMAL_BLOCKS ((uint64_t)1 << 63) /* the half of the counters that normals use */

#define ALWAYS_INLINE static inline __attribute__((always_inline))

ALWAYS_INLINE uint64_t to_bits(double value)
{
	uint64_t bits;
	memcpy(&bits, &value, sizeof bits);
	return bits;
}

ALWAYS_INLINE double from_bits(uint64_t bits)
{
	double value;
	memcpy(&value, &bits, sizeof value);
	return value;
}

/* 2^52 + value as a double, for 0 <= value < 2^52: a conversion that every vector unit has. */
ALWAYS_INLINE double above_2p52(uint64_t value)
{
	return from_bits(0x4330000000000000u | value);
}

/* -2 ln((word + 1/2) / 2^32). u = 2^k m with sqrt(1/2) <= m < sqrt(2); then with f = m - 1, s = f / (2 + f) and z = s^2:
 * ln m = f - s (f - R(z)), the minimax polynomial of fdlibm's e_log.c, error below 2^-58. */
ALWAYS_INLINE double minus_two_log(uint32_t word)
{
	double u = (above_2p52(word) - (0x1p52 - 0.5)) * 0x1p-32;
	uint64_t bits = to_bits(u);
	/* k + 64, positive so that a logical shift does */
	uint64_t exponent = (bits - 0x3fe6a09e00000000u + ((uint64_t)64 << 52)) >> 52;
	double k = above_2p52(exponent) - (0x1p52 + 64);
	double f = from_bits(bits - (exponent << 52) + ((uint64_t)64 << 52)) - 1.0;
	double s = f / (2.0 + f), z = s * s;
	double poly = 1.479819860511658591e-01;
	poly = poly * z + 1.531383769920937332e-01;
	poly = poly * z + 1.818357216161805012e-01;
	poly = poly * z + 2.222219843214978396e-01;
	poly = poly * z + 2.857142874366239149e-01;
	poly = poly * z + 3.999999999940941908e-01;
	poly = poly * z + 6.666666666666735130e-01;
	double log_m = f - s * (f - z * poly);
	return -2.0 * (k * 6.93147180559945286227e-01 + log_m);
}

/* cos and sin of 2 pi word / 2^32: the nearest quarter turn q, the rest |x| <= pi/4 by the polynomials of fdlibm's
 * k_cos.c and k_sin.c. */
ALWAYS_INLINE void turn(uint32_t word, double *cosine, double *sine)
{
	uint32_t shifted = word + ((uint32_t)1 << 29);
	uint64_t quarter = shifted >> 30;
	double x = (above_2p52(shifted & 0x3fffffffu) - (0x1p52 + 0x1p29)) * (6.28318530717958647693 * 0x1p-32);
	double z = x * x;
	double s = 1.58969099521155010221e-10;
	s = s * z + -2.50507602534068634195e-08;
	s = s * z + 2.75573137070700676789e-06;
	s = s * z + -1.98412698298579493134e-04;
	s = s * z + 8.33333333332248946124e-03;
	s = s * z + -1.66666666666666324348e-01;
	s = x + x * (z * s);
	double c = -1.13596475577881948265e-11;
	c = c * z + 2.08757232129817482790e-09;
	c = c * z + -2.75573143513906633035e-07;
	c = c * z + 2.48015872894767294178e-05;
	c = c * z + -1.38888888888741095749e-03;
	c = c * z + 4.16666666666666019037e-02;
	c = 1.0 + z * (c * z - 0.5);

	uint64_t odd = 0 - (quarter & 1), sine_bits = to_bits(s), cosine_bits = to_bits(c),
		 swapped = (sine_bits ^ cosine_bits) & odd;
	*cosine = from_bits((cosine_bits ^ swapped) ^ (((quarter ^ (quarter >> 1)) & 1) << 63));
	*sine = from_bits((sine_bits ^ swapped) ^ ((quarter >> 1) << 63));
}

/* The words of LANES consecutive blocks from `block`, word by word: words[0][i] belongs to block + i. */
ALWAYS_INLINE void philox_lanes(uint64_t seed, uint64_t stream, uint64_t block, uint32_t words[4][LANES])
{
	uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);

	for (int i = 0; i < LANES; i++) {
		words[0][i] = (uint32_t)block + (uint32_t)i; /* block is a multiple of LANES: no carry */
		words[1][i] = (uint32_t)(block >> 32);
		words[2][i] = (uint32_t)stream;
		words[3][i] = (uint32_t)(stream >> 32);
	}
	for (int round = 0; round < 10; round++) {
		for (int i = 0; i < LANES; i++) {
			uint64_t product0 = (uint64_t)0xd2511f53u * words[0][i], product1 = (uint64_t)0xcd9e8d57u * words[2][i];
			words[0][i] = (uint32_t)(product1 >> 32) ^ words[1][i] ^ k0;
			words[2][i] = (uint32_t)(product0 >> 32) ^ words[3][i] ^ k1;
			words[1][i] = (uint32_t)product1;
			words[3][i] = (uint32_t)product0;
		}
		k0 += 0x9e3779b9u;
		k1 += 0xbb67ae85u;
	}
}

/* `chunks` times CHUNK normals from chunk number `first`. */
ALWAYS_INLINE void fill_chunks(uint64_t seed, uint64_t stream, uint64_t first, size_t chunks, float *values)
{
	for (size_t n = 0; n < chunks; n++, values += CHUNK) {
		uint32_t words[4][LANES];
		philox_lanes(seed, stream, NORMAL_BLOCKS | (first + n) * LANES, words);
		for (int pair = 0; pair < 2; pair++) {
			for (int i = 0; i < LANES; i++) {
				double r = sqrt(minus_two_log(words[2 * pair][i])), cosine, sine;
				turn(words[2 * pair + 1][i], &cosine, &sine);
				values[2 * pair * LANES + i] = (float)(r * cosine);
				values[(2 * pair + 1) * LANES + i] = (float)(r * sine);
			}
		}
	}
}

static void fill_baseline(uint64_t seed, uint64_t stream, uint64_t first, size_t chunks, float *values)
{
	fill_chunks(seed, stream, first, chunks, values);
}

#if defined(__x86_64__)
#if defined(__clang__)
#define AVX512 "avx512f,avx512dq,avx512vl"
#else
#define AVX512 "avx512f,avx512dq,avx512vl,prefer-vector-width=512"
#endif

__attribute__((target("avx2"))) static void fill_avx2(uint64_t seed, uint64_t stream, uint64_t first, size_t chunks, float *values)
{
	fill_chunks(seed, stream, first, chunks, values);
}

__attribute__((target(AVX512))) static void fill_avx512(uint64_t seed, uint64_t stream, uint64_t first, size_t chunks,
							float *values)
{
	fill_chunks(seed, stream, first, chunks, values);
}
#endif

static void fill(uint64_t seed, uint64_t stream, uint64_t first, size_t chunks, float *values)
{
#if defined(__x86_64__)
	if (__builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
		fill_avx512(seed, stream, first, chunks, values);
		return;
	}
	if (__builtin_cpu_supports("avx2")) {
		fill_avx2(seed, stream, first, chunks, values);
		return;
	}
#endif
	fill_baseline(seed, stream, first, chunks, values);
}

double mt_random_normal(uint64_t seed, uint64_t stream, uint64_t index)
{
	uint64_t block = NORMAL_BLOCKS | (index / CHUNK * LANES + index % LANES);
	unsigned lane = (unsigned)(index % CHUNK / LANES);
	const uint32_t counter[4] = {(uint32_t)block, (uint32_t)(block >> 32), (uint32_t)stream, (uint32_t)(stream >> 32)};
	const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
	uint32_t words[4];
	double cosine, sine;

	mt_philox(counter, key, words);
	double r = sqrt(minus_two_log(words[lane & 2]));
	turn(words[(lane & 2) + 1], &cosine, &sine);
	return r * (lane & 1 ? sine : cosine);
}

void mt_random_normals(uint64_t seed, uint64_t stream, uint64_t first, size_t count, float *values)
{
	float chunk[CHUNK];

	while (count > 0) {
		size_t skip = first % CHUNK, taken = count;
		if (skip == 0 && count >= CHUNK) {
			taken = count - count % CHUNK;
			fill(seed, stream, first / CHUNK, taken / CHUNK, values);
		} else {
			if (taken > CHUNK - skip)
				taken = CHUNK - skip;
			fill(seed, stream, first / CHUNK, 1, chunk);
			memcpy(values, chunk + skip, taken * sizeof *values);
		}
		values += taken;
		first += taken;
		count -= taken;
	}
}
