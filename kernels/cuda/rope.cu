/* rope: in place, for each head at row b*T + t, with angle = (first_position + t, or positions[row]) * frequency(d), d < E/2, and the
 * two elements l, h of pair d, (d, d + E/2) or, interleaved, (2d, 2d + 1):
 *   x[l] = magnitude (x[l] cos - sign x[h] sin)
 *   x[h] = magnitude (x[h] cos + sign x[l] sin)
 * Moves 2*R*H*E elements: bandwidth-bound. A block takes a few rows, computes their cosines and sines once, into shared memory,
 * and turns all heads with them.
 *
 * Angles are exact: a frequency is held as turns for each position in 64-bit fixed point, so position * frequency wraps around by
 * itself at whole turns, and what is left is good to 2^-64 turns times the position, where f32 would lose the phase of long
 * sequences. The frequencies come with the launch, as parameters. Su et al. 2021, arXiv:2104.09864, eq. 34. */
#include "kernels/cuda/vector.cuh"

#include <math.h>

#define MOST_PAIRS    256 /* E/2; the parameters of a launch have room for so many */
#define ROWS_OF_BLOCK 4

struct frequencies {
	uint64_t turns[MOST_PAIRS]; /* 2^64 times turns for each position */
};

/* Shared: float2 of cosine and sine (ROWS_OF_BLOCK, E/2). */
template <typename T, int N, bool INTERLEAVED>
__global__ void __launch_bounds__(MT_CUDA_THREADS)
	rotate(const struct frequencies frequencies, T *x, int64_t rows, int64_t seq, int64_t first_position,
	       const int32_t *positions, int64_t stride, int heads, int dim, int half, float sign, float magnitude)
{
	MT_SHARED(float2, turn);
	const int64_t first = (int64_t)blockIdx.x * ROWS_OF_BLOCK;
	const int block_rows = (int)(rows - first < ROWS_OF_BLOCK ? rows - first : ROWS_OF_BLOCK);
	for (int i = (int)threadIdx.x; i < block_rows * half; i += (int)blockDim.x) {
		const int64_t at = first + i / half;
		const uint64_t position = (uint64_t)(positions ? positions[at] : at % seq + first_position);
		/* A fraction of a turn in [-1/2, 1/2), in units of pi. */
		const float angle = (float)(int64_t)(position * frequencies.turns[i % half]) * 0x1p-63f;
		float sine, cosine;
		sincospif(angle, &sine, &cosine);
		turn[i] = make_float2(magnitude * cosine, magnitude * sign * sine);
	}
	__syncthreads();
	const int packs = half / N, row_items = heads * packs;
	for (int i = (int)threadIdx.x; i < block_rows * row_items; i += (int)blockDim.x) {
		const int row = i / row_items, rest = i % row_items, d = rest % packs * N;
		T *head_at = x + (first + row) * stride + (int64_t)(rest / packs) * dim;
		T *low_at = head_at + (INTERLEAVED ? 2 * d : d), *high_at = low_at + (INTERLEAVED ? N : half);
		const float2 *angle = turn + row * half + d;
		float low[N], high[N];
		unpack(load<T, N>(low_at), low);
		unpack(load<T, N>(high_at), high);
		if (INTERLEAVED) { /* 2N neighbours are N pairs */
			float both[2 * N];
#pragma unroll
			for (int n = 0; n < N; n++)
				both[n] = low[n], both[N + n] = high[n];
#pragma unroll
			for (int n = 0; n < N; n++)
				low[n] = both[2 * n], high[n] = both[2 * n + 1];
		}
#pragma unroll
		for (int n = 0; n < N; n++) {
			const float2 t = angle[n];
			const float l = low[n];
			low[n] = l * t.x - high[n] * t.y;
			high[n] = high[n] * t.x + l * t.y;
		}
		if (INTERLEAVED) {
			float both[2 * N];
#pragma unroll
			for (int n = 0; n < N; n++)
				both[2 * n] = low[n], both[2 * n + 1] = high[n];
#pragma unroll
			for (int n = 0; n < N; n++)
				low[n] = both[n], high[n] = both[N + n];
		}
		store(low_at, packed<T, N>(low));
		store(high_at, packed<T, N>(high));
	}
}

/* Radians as turns; a whole turn or more is no more than its fraction. */
static struct frequencies frequencies_of(const struct mt_rope *r)
{
	struct frequencies f;
	for (int64_t d = 0; d < MOST_PAIRS; d++) {
		double turns = d < mt_rope_rotated(r) / 2 ? mt_rope_frequency(r, d) / 6.28318530717958647693 : 0;
		f.turns[d] = (uint64_t)ldexp(turns - floor(turns), 64);
	}
	return f;
}

template <typename T, int N, bool INTERLEAVED> static void launch_rotate(const struct mt_cuda_launch *launch, const struct mt_rope *r)
{
	const int64_t rows = r->batch * r->seq;
	const int half = (int)(mt_rope_rotated(r) / 2);
	const size_t shared_bytes = ROWS_OF_BLOCK * (size_t)half * sizeof(float2);
	MT_LAUNCH((rotate<T, N, INTERLEAVED>), (unsigned)divide_up(rows, ROWS_OF_BLOCK), MT_CUDA_THREADS, shared_bytes, launch->stream,
		  frequencies_of(r), static_cast<T *>(r->x), rows, r->seq, r->first_position,
		  static_cast<const int32_t *>(r->positions), r->stride, (int)r->heads, (int)r->head_dim, half,
		  (float)r->sign, (float)mt_rope_magnitude(r));
}

template <typename T> static void rope(const struct mt_cuda_launch *launch, const struct mt_rope *r)
{
	constexpr int N = vector_width<T>;
	const bool whole = mt_rope_rotated(r) / 2 % N == 0 && r->head_dim % N == 0 && r->stride % N == 0 && aligned(r->x);
	if (r->interleaved && whole)
		launch_rotate<T, N, true>(launch, r);
	else if (r->interleaved)
		launch_rotate<T, 1, true>(launch, r);
	else if (whole)
		launch_rotate<T, N, false>(launch, r);
	else
		launch_rotate<T, 1, false>(launch, r);
}

enum mt_status mt_cuda_rope(struct mt_cuda_launch *launch, const struct mt_op *op)
{
	if (!has_type(op->dtype))
		return mt_cuda_no_kernel(op);
	if (mt_rope_rotated(&op->rope) > 2 * MOST_PAIRS)
		return mt_fail(MT_UNAVAILABLE, "rope: CUDA kernels have heads of up to %d, not %lld", 2 * MOST_PAIRS,
			       (long long)mt_rope_rotated(&op->rope));
	if (op->rope.batch == 0)
		return MT_OK;
	MT_BY_TYPE(op->dtype, rope, launch, &op->rope);
	return mt_cuda_launched(op);
}
