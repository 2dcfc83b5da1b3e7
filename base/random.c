/* random: Philox 4x32-10 and what is drawn from it.
 *
 * The counter holds (index, stream), the key the seed. Normals take a block of four words for four indices (block =
 * index / 4) in the upper half of the counter space, so they share no block with the uniforms and integers of the same
 * stream; indices are below 2^63. The normals themselves are in base/random_normal.c. */
#include "base/random.h"

#define MULTIPLIER_0 0xd2511f53u
#define MULTIPLIER_1 0xcd9e8d57u
#define WEYL_0       0x9e3779b9u
#define WEYL_1       0xbb67ae85u

void mt_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
	uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3], k0 = key[0], k1 = key[1];

	for (int round = 0; round < 10; round++) {
		uint64_t product0 = (uint64_t)MULTIPLIER_0 * c0, product1 = (uint64_t)MULTIPLIER_1 * c2;
		c0 = (uint32_t)(product1 >> 32) ^ c1 ^ k0;
		c2 = (uint32_t)(product0 >> 32) ^ c3 ^ k1;
		c1 = (uint32_t)product1;
		c3 = (uint32_t)product0;
		k0 += WEYL_0;
		k1 += WEYL_1;
	}
	out[0] = c0;
	out[1] = c1;
	out[2] = c2;
	out[3] = c3;
}

static uint64_t draw(uint64_t seed, uint64_t stream, uint64_t index)
{
	const uint32_t counter[4] = {(uint32_t)index, (uint32_t)(index >> 32), (uint32_t)stream, (uint32_t)(stream >> 32)};
	const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
	uint32_t words[4];
	mt_philox(counter, key, words);
	return (uint64_t)words[1] << 32 | words[0];
}

double mt_random_uniform(uint64_t seed, uint64_t stream, uint64_t index)
{
	return (double)(draw(seed, stream, index) >> 11) * 0x1p-53;
}

/* The high half of draw * bound: no value is likelier than another by more than bound / 2^64. */
uint64_t mt_random_integer(uint64_t seed, uint64_t stream, uint64_t index, uint64_t bound)
{
	return (uint64_t)(((unsigned __int128)draw(seed, stream, index) * bound) >> 64);
}

/* A Feistel network on the smallest 2^bits >= count, its halves of bits/2 and the rest; an image outside [0, count) is
 * mapped again until it is inside (fewer than two passes on average), which keeps it a bijection: Black & Rogaway
 * 2002, "Ciphers with arbitrary finite domains". */
uint64_t mt_random_permute(uint64_t seed, uint64_t stream, uint64_t index, uint64_t count)
{
	const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
	int bits = 0;

	if (count <= 1 || index >= count)
		return index;
	while (bits < 64 && (count - 1) >> bits)
		bits++;
	int low_bits = bits / 2, high_bits = bits - low_bits;
	uint64_t low_mask = ((uint64_t)1 << low_bits) - 1, high_mask = ((uint64_t)1 << high_bits) - 1;
	do {
		uint64_t low = index & low_mask, high = index >> low_bits;
		for (uint32_t round = 0; round < 8; round += 2) {
			uint32_t words[4];
			mt_philox((uint32_t[4]){(uint32_t)low, round, (uint32_t)stream, (uint32_t)(stream >> 32)}, key, words);
			high ^= words[0] & high_mask;
			mt_philox((uint32_t[4]){(uint32_t)high, round + 1, (uint32_t)stream, (uint32_t)(stream >> 32)}, key, words);
			low ^= words[0] & low_mask;
		}
		index = high << low_bits | low;
	} while (index >= count);
	return index;
}
