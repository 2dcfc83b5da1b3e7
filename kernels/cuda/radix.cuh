/* radix: the rows of an embedding sorted by word, rows of one word in their order.
 *
 * Least significant digit first, 8 bits a pass, as many passes as the largest word has digits: two for 50,257 words, three for
 * 128,256. A pass is three launches. Each tile of 1,024 rows counts its digits; one block turns the counts, digit by digit and tile
 * by tile within it, into the place where each tile's rows of each digit go; each tile puts its rows there. Within a tile the
 * order is kept by ranks: of a row among the lanes of its warp that have its digit, and of the warp among the warps. */
#ifndef MT_KERNELS_CUDA_RADIX_CUH
#define MT_KERNELS_CUDA_RADIX_CUH

#include "kernels/cuda/embedding.cuh"

#define SORT_THREADS 256 /* one for each digit, too */
#define SORT_WARPS   (SORT_THREADS / 32)
#define WARP_ROWS    (TILE / SORT_WARPS)

struct sort_source {
	const int32_t *tokens; /* in the first pass, else NULL */
	const struct sorted_row *sorted;
	int64_t rows, first, count;
	int shift;
};

__device__ __forceinline__ struct sorted_row source_row(const struct sort_source &s, int64_t i)
{
	if (!s.tokens)
		return s.sorted[i];
	const int64_t word = s.tokens[i] - s.first;
	struct sorted_row row;
	row.word = (unsigned)(word >= 0 && word < s.count ? word : s.count);
	row.row = (unsigned)i;
	return row;
}

__device__ __forceinline__ int digit_of(const struct sort_source &s, unsigned word)
{
	return (int)(word >> s.shift) % DIGITS;
}

/* counts[digit, tile] */
static __global__ void __launch_bounds__(SORT_THREADS) count_digits(const struct sort_source s, int *counts)
{
	__shared__ int found[DIGITS];
	found[threadIdx.x] = 0;
	__syncthreads();
	const int64_t begin = (int64_t)blockIdx.x * TILE, end = min(begin + TILE, s.rows);
	for (int64_t i = begin + threadIdx.x; i < end; i += SORT_THREADS)
		atomicAdd(&found[digit_of(s, source_row(s, i).word)], 1);
	__syncthreads();
	counts[(int64_t)threadIdx.x * gridDim.x + blockIdx.x] = found[threadIdx.x];
}

/* Each count replaced by the sum of those before it. One block of 1,024 threads, four counts each at a time; there are
 * DIGITS * tiles, a multiple of four. */
static __global__ void __launch_bounds__(1024) scan_counts(int *counts, int total)
{
	__shared__ int warp_sums[32];
	const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
	int carry = 0;
	for (int base = 0; base < total; base += 4096) {
		const int i = base + (int)threadIdx.x * 4;
		const int4 v = i < total ? read<int4>(counts + i) : make_int4(0, 0, 0, 0);
		int sum = v.x + v.y + v.z + v.w, through = sum; /* the sum up to and with this thread */
		for (int offset = 1; offset < 32; offset *= 2) {
			const int before = __shfl_up_sync(0xffffffffu, through, (unsigned)offset);
			through += lane >= offset ? before : 0;
		}
		if (lane == 31)
			warp_sums[warp] = through;
		__syncthreads();
		int warps = warp_sums[lane];
		for (int offset = 1; offset < 32; offset *= 2) {
			const int before = __shfl_up_sync(0xffffffffu, warps, (unsigned)offset);
			warps += lane >= offset ? before : 0;
		}
		const int all = __shfl_sync(0xffffffffu, warps, 31), upto = __shfl_sync(0xffffffffu, warps, warp);
		const int start = carry + upto - warp_sums[warp] + through - sum;
		if (i < total)
			write(counts + i, make_int4(start, start + v.x, start + v.x + v.y, start + v.x + v.y + v.z));
		carry += all;
		__syncthreads(); /* warp_sums is read */
	}
}

static __global__ void __launch_bounds__(SORT_THREADS)
	place_rows(const struct sort_source s, const int *offsets, struct sorted_row *to)
{
	__shared__ int places[SORT_WARPS][DIGITS]; /* rows of a digit so far in a warp; then where its rows begin */
	const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
	const int64_t begin = (int64_t)blockIdx.x * TILE + warp * WARP_ROWS;
	struct sorted_row rows[WARP_ROWS / 32];
	int ranks[WARP_ROWS / 32];
	for (int w = 0; w < SORT_WARPS; w++)
		places[w][threadIdx.x] = 0;
	__syncthreads();
#pragma unroll
	for (int k = 0; k < WARP_ROWS / 32; k++) {
		const int64_t i = begin + k * 32 + lane;
		const bool valid = i < s.rows;
		if (valid)
			rows[k] = source_row(s, i);
		const int digit = valid ? digit_of(s, rows[k].word) : DIGITS;
		const unsigned same = __match_any_sync(0xffffffffu, digit), before = same & ((1u << lane) - 1);
		ranks[k] = valid ? places[warp][digit] + __popc(before) : 0;
		__syncwarp();
		if (valid && before == 0)
			places[warp][digit] += __popc(same);
		__syncwarp();
	}
	__syncthreads();
	int place = offsets[(int64_t)threadIdx.x * gridDim.x + blockIdx.x];
	for (int w = 0; w < SORT_WARPS; w++) {
		const int here = places[w][threadIdx.x];
		places[w][threadIdx.x] = place;
		place += here;
	}
	__syncthreads();
#pragma unroll
	for (int k = 0; k < WARP_ROWS / 32; k++)
		if (begin + k * 32 + lane < s.rows)
			to[places[warp][digit_of(s, rows[k].word)] + ranks[k]] = rows[k];
}

/* Enqueues the sort; returns where the sorted rows will be. */
static inline const struct sorted_row *sort_rows(const struct mt_cuda_launch *launch, const struct embedding_scratch *scratch,
						 const struct mt_embedding *e)
{
	struct sort_source s = {static_cast<const int32_t *>(e->tokens), NULL, e->rows, e->first, e->count, 0};
	struct sorted_row *to = scratch->from, *other = scratch->to;
	do {
		MT_LAUNCH(count_digits, (unsigned)scratch->tiles, SORT_THREADS, 0, launch->stream, s, scratch->offsets);
		MT_LAUNCH(scan_counts, 1, 1024, 0, launch->stream, scratch->offsets, (int)(DIGITS * scratch->tiles));
		MT_LAUNCH(place_rows, (unsigned)scratch->tiles, SORT_THREADS, 0, launch->stream, s, scratch->offsets, to);
		s.tokens = NULL, s.sorted = to, s.shift += 8;
		to = other, other = const_cast<struct sorted_row *>(s.sorted);
	} while (s.shift < 32 && e->count >> s.shift);
	return s.sorted;
}

#endif
