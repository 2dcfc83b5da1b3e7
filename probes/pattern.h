/* pattern: integers that a collective moves or sums, so that the exact result is known whatever the order of the sums.
 *
 * Rank w's element e is (5c + 3w) mod 4 with c = e mod 61 where w mod m == c mod m, else 0, m = ceil(world / 64): at most 64
 * ranks give at most 3 each, so every partial sum is below 256 and exact in bf16 too. 61 is a prime, so that blocks of a
 * buffer that change places are noticed. */
#ifndef MT_PROBES_PATTERN_H
#define MT_PROBES_PATTERN_H

#include "comm/comm.h"

#define MT_PATTERN 61

static inline int mt_pattern_value(int64_t element, int world_rank, int world)
{
	int c = (int)(element % MT_PATTERN), m = (world + 63) / 64;
	return world_rank % m == c % m ? (5 * c + 3 * world_rank) % 4 : 0;
}

#endif
