/* random: Philox 4x32-10 counter-based random numbers: no state, so any rank can draw the value of any global index.
 * Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", SC'11. */
#ifndef MT_BASE_RANDOM_H
#define MT_BASE_RANDOM_H

#include <stddef.h>
#include <stdint.h>

/* out[0..3] = philox(counter, key). */
void mt_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* Uniform in [0, 1), standard normal (Box-Muller), and uniform integer in [0, bound), of one (seed, stream, index). */
double mt_random_uniform(uint64_t seed, uint64_t stream, uint64_t index);
double mt_random_normal(uint64_t seed, uint64_t stream, uint64_t index);
uint64_t mt_random_integer(uint64_t seed, uint64_t stream, uint64_t index, uint64_t bound);

/* values[i] = the normal of index first+i. Equal to mt_random_normal rounded to float, faster. */
void mt_random_normals(uint64_t seed, uint64_t stream, uint64_t first, size_t count, float *values);

/* A pseudo-random permutation of [0, count): the image of index. Bijective for every seed (Feistel, cycle walking). */
uint64_t mt_random_permute(uint64_t seed, uint64_t stream, uint64_t index, uint64_t count);

#endif
