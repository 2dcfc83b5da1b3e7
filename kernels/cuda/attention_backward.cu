/* attention_backward: dq, dk, dv from do, with the scores recomputed from lse. Dao 2023, arXiv:2307.08691, algorithm 2.
 *
 *   delta[t] = do[t,:] . o[t,:]     p = exp(q k^T scale - lse)     ds = p (do v^T - delta)
 *   dv = p^T do     dk = ds^T q scale     dq = ds k scale
 *
 * Three kernels, none with atomics, so the bits never depend on what runs when:
 *   sums       delta, a warp a row.
 *   keys       a block keeps a tile of keys and values and goes over the queries that see it, head by head of the group, in tiles
 *              of BC. It makes the transposed scores k q^T, whose accumulators, rounded, are the left operand of p^T do and ds^T q.
 *   queries    a block keeps a tile of q and do and goes over the keys it sees, as the forward pass does.
 * Scores are so made twice, 7 products where 5 would do, which is the price of the fixed order.
 *
 * The tile that a block goes over comes in pairs (q and do, or k and v) and lies in two places in turn: the next pair is fetched
 * while this one is used, with one barrier a tile. For D > 128 a block of `keys` makes half the columns of dk and dv, since sums
 * for all do not fit its registers. Tiles keep within 255 registers a thread and 99 KiB of shared memory a block. */
#include "kernels/cuda/attention.cuh"

#ifndef MT_ATTENTION_ELEMENT
#define MT_ATTENTION_ELEMENT  __nv_bfloat16
#define MT_ATTENTION_BACKWARD mt_cuda_attention_mma_bwd
#endif

template <typename E>
static __global__ void __launch_bounds__(128) attention_sums(const __grid_constant__ attention_args args, int64_t rows)
{
	const int64_t row = (int64_t)blockIdx.x * 4 + threadIdx.x / 32; /* of (B,T,H) */
	if (row >= rows)
		return;
	const int head = (int)(row % args.heads), lane = threadIdx.x % 32;
	const int64_t bt = row / args.heads, batch = bt / args.seq, t = bt % args.seq;
	const int64_t at = (batch * args.q_rows + t) * args.o_stride + (int64_t)head * args.v_dim;
	const E *o = (const E *)args.o + at, *d_o = (const E *)args.d_o + at;
	float sum = 0;
	if (args.aligned)
		for (int c = lane; c < args.v_dim / 8; c += 32) {
			const uint4 x4 = *(const uint4 *)(o + 8 * c), y4 = *(const uint4 *)(d_o + 8 * c);
			E x[8], y[8];
			memcpy(x, &x4, sizeof x);
			memcpy(y, &y4, sizeof y);
#pragma unroll
			for (int e = 0; e < 8; e++)
				sum += widened(x[e]) * widened(y[e]);
		}
	else
		for (int d = lane; d < args.v_dim; d += 32)
			sum += widened(o[d]) * widened(d_o[d]);
#pragma unroll
	for (int step = 16; step; step /= 2)
		sum += __shfl_xor_sync(0xffffffffu, sum, step);
	if (lane == 0)
		args.delta[(batch * args.heads + head) * args.q_rows + t] = sum;
}

/* The tile a block keeps, the pairs it goes over, and a thread's place. */
template <typename E, int D, int BR, int BC> struct backward_tiles {
	E *keep, *keep2; /* (BR,D) */
	E *pass, *pass2; /* two of (BC,D) each */
};

template <typename E, int D, int BR, int BC> static __device__ __forceinline__ backward_tiles<E, D, BR, BC> tiles_in(E *shared)
{
	backward_tiles<E, D, BR, BC> tiles;
	tiles.keep = shared;
	tiles.keep2 = tiles.keep + BR * D;
	tiles.pass = tiles.keep2 + BR * D;
	tiles.pass2 = tiles.pass + 2 * BC * D;
	return tiles;
}

/* What `keys` needs of the queries of a tile, in shared memory. */
struct query_stats {
	float lse, delta; /* lse in powers of 2 */
	int low;          /* first row seen */
	int pad;
};

template <int BC>
static __device__ __forceinline__ void load_stats(query_stats *stats, const attention_args &args, const int *starts, int64_t sums0,
						  int i)
{
	for (int c = threadIdx.x; c < BC; c += blockDim.x) {
		const int t = i + c;
		const bool real = t < args.seq;
		stats[c].lse = real ? args.lse[sums0 + t] * LOG2_E : 0.0f;
		stats[c].delta = real ? args.delta[sums0 + t] : 0.0f;
		stats[c].low = real ? first_seen(args, starts, t) : INT32_MAX; /* seen by none */
	}
}

/* scores(keys,queries) to p, in place; row: key of element 0, i: first query of the tile. */
template <int NT>
static __device__ __forceinline__ void transposed_weights(float (&scores)[NT][4], const query_stats *stats, int key, int i,
							  int offset, bool whole, float factor)
{
	const int column = threadIdx.x % 4 * 2;
#pragma unroll
	for (int n = 0; n < NT; n++)
#pragma unroll
		for (int e = 0; e < 4; e++) {
			const query_stats &s = stats[8 * n + column + e % 2];
			const int t = i + 8 * n + column + e % 2, u = key + e / 2 * 8;
			const float p = exp2_fast(scores[n][e] * factor - s.lse);
			scores[n][e] = whole || (u <= t + offset && u >= s.low) ? p : 0.0f;
		}
}

/* ds = p (dp - delta), of transposed tiles. */
template <int NT>
static __device__ __forceinline__ void transposed_gradients(float (&p)[NT][4], const float (&dp)[NT][4], const query_stats *stats)
{
	const int column = threadIdx.x % 4 * 2;
#pragma unroll
	for (int n = 0; n < NT; n++)
#pragma unroll
		for (int e = 0; e < 4; e++)
			p[n][e] *= dp[n][e] - stats[8 * n + column + e % 2].delta;
}

/* Rows of a warp to global memory, through rows of a tile that only it reads. */
template <typename E, int D, int MT, int NT>
static __device__ __forceinline__ void leave_rows(const attention_args &args, E *tile, const float (&sums)[MT][NT][4], float factor,
						  E *to, int64_t stride, int dim, int first, int real, bool add)
{
	const int row = threadIdx.x / 32 * 16 * MT;
	__syncwarp();
#pragma unroll
	for (int m = 0; m < MT; m++)
		keep_rows<E, D, NT>(tile, row + 16 * m, first, sums[m], factor, factor);
	__syncwarp();
#pragma unroll
	for (int m = 0; m < MT; m++)
		store_rows<E, D, NT * 8>(tile, row + 16 * m, to, stride, first, real, dim, args.aligned, add, 1.0f, 1.0f);
}

/* BR keys, the columns [blockIdx.z COLS, + COLS) of their gradients; grid (B G, key tiles, D / COLS). */
template <typename E, int D, int BR, int BC, int MT, int COLS>
static __global__ void __launch_bounds__(BR / MT * 2) attention_keys(const __grid_constant__ attention_args args)
{
	constexpr int THREADS = BR / MT * 2;
	MT_SHARED(E, shared);
	const backward_tiles<E, D, BR, BC> tiles = tiles_in<E, D, BR, BC>(shared);
	query_stats *stats = (query_stats *)(tiles.pass2 + 2 * BC * D); /* two of BC */
	const int kv_head = (int)(blockIdx.x % (unsigned)args.kv_heads), group = args.heads / args.kv_heads;
	const int j0 = (int)blockIdx.y * BR, end = min(j0 + BR, args.keys), first = (int)blockIdx.z * COLS;
	const int64_t batch = blockIdx.x / (unsigned)args.kv_heads, row0 = batch * args.q_rows;
	const int64_t k_at = (batch * args.kv_rows + j0) * args.kv_stride + (int64_t)kv_head * args.dim;
	const int64_t v_at = (batch * args.kv_rows + j0) * args.v_stride + (int64_t)kv_head * args.v_dim;
	const int *starts = starts_of(args, (int)batch);
	const int from = first_seeing(args, j0), i0 = from / BC * BC, last_row = last_seeing(args, starts, j0, end - 1);
	const int count = last_row < from ? 0 : (last_row - i0) / BC + 1; /* query tiles a head */
	const int row = threadIdx.x / 32 * 16 * MT, key = j0 + row + threadIdx.x % 32 / 4;
	float dk[MT][COLS / 8][4], dv[MT][COLS / 8][4];
	clear(dk);
	clear(dv);
	/* Fetches turn n: tile n % count of head n / count of the group. */
	auto fetch = [&](int n) {
		const int head = kv_head * group + n / count, i = i0 + n % count * BC, place = n % 2 * BC;
		const int64_t column = (int64_t)head * args.dim, o_column = (int64_t)head * args.v_dim, real = args.seq - i;
		load_tile<E, D, BC, THREADS>(tiles.pass + place * D, (const E *)args.q + (row0 + i) * args.q_stride + column,
					     args.q_stride, (int)real, args.dim, args.aligned);
		load_tile<E, D, BC, THREADS>(tiles.pass2 + place * D, (const E *)args.d_o + (row0 + i) * args.o_stride + o_column,
					     args.o_stride, (int)real, args.v_dim, args.aligned);
		load_stats<BC>(stats + place, args, starts, (batch * args.heads + head) * args.q_rows, i);
		copy_commit();
	};
	load_tile<E, D, BR, THREADS>(tiles.keep, (const E *)args.k + k_at, args.kv_stride, args.keys - j0, args.dim, args.aligned);
	load_tile<E, D, BR, THREADS>(tiles.keep2, (const E *)args.v + v_at, args.v_stride, args.keys - j0, args.v_dim,
				     args.aligned);
	if (count > 0) {
		fetch(0);
	} else { /* seen by none: the copies must not come after what is left in their place */
		copy_commit();
		copy_wait<0>();
		__syncthreads();
	}
	for (int n = 0; n < group * count; n++) {
		const int i = i0 + n % count * BC, place = n % 2 * BC;
		float p[MT][BC / 8][4], dp[MT][BC / 8][4];
		uint32_t weights[MT][BC / 16][4];
		copy_wait<0>();
		__syncthreads(); /* this pair is there, the one before is used */
		if (n + 1 < group * count)
			fetch(n + 1);
		const int last = min(i + BC, args.seq) - 1;
		const bool whole = i + BC <= args.seq && i + args.offset >= end - 1 && first_seen(args, starts, last) <= j0;
		product_abt<E, D, MT, BC / 8>(p, tiles.keep, row, tiles.pass + place * D);
#pragma unroll
		for (int m = 0; m < MT; m++)
			transposed_weights(p[m], stats + place, key + 16 * m, i, args.offset, whole, args.scale * LOG2_E);
		round_weights<E>(weights, p);
		product_ab<E, D, MT, BC / 16, COLS / 8>(dv, weights, tiles.pass2 + place * D, first);
		product_abt<E, D, MT, BC / 8>(dp, tiles.keep2, row, tiles.pass2 + place * D);
#pragma unroll
		for (int m = 0; m < MT; m++)
			transposed_gradients(p[m], dp[m], stats + place);
		round_weights<E>(weights, p);
		product_ab<E, D, MT, BC / 16, COLS / 8>(dk, weights, tiles.pass + place * D, first);
	}
	leave_rows<E, D, MT, COLS / 8>(args, tiles.keep, dk, args.scale, (E *)args.dk + k_at, args.kv_stride, args.dim, first,
				       args.keys - j0, args.add_dkv);
	leave_rows<E, D, MT, COLS / 8>(args, tiles.keep2, dv, 1.0f, (E *)args.dv + v_at, args.v_stride, args.v_dim, first, args.keys - j0,
				       args.add_dkv);
}

/* scores(queries,keys) and dp to ds, in place. j: first key of the tile. */
template <int NT>
static __device__ __forceinline__ void gradients(float (&scores)[NT][4], const float (&dp)[NT][4], const float (&lse)[2],
						 const float (&delta)[2], const int (&low)[2], const int (&high)[2], int j,
						 bool whole, float factor)
{
	const int column = j + threadIdx.x % 4 * 2;
#pragma unroll
	for (int n = 0; n < NT; n++)
#pragma unroll
		for (int e = 0; e < 4; e++) {
			const int u = column + 8 * n + e % 2, r = e / 2;
			const float p = exp2_fast(scores[n][e] * factor - lse[r]);
			scores[n][e] = whole || (u <= high[r] && u >= low[r]) ? p * (dp[n][e] - delta[r]) : 0.0f;
		}
}

/* BR queries; grid (B H, query tiles), the last tile first. */
template <typename E, int D, int BR, int BC, int MT>
static __global__ void __launch_bounds__(BR / MT * 2) attention_queries(const __grid_constant__ attention_args args)
{
	constexpr int THREADS = BR / MT * 2;
	MT_SHARED(E, shared);
	const backward_tiles<E, D, BR, BC> tiles = tiles_in<E, D, BR, BC>(shared);
	const int head = (int)(blockIdx.x % (unsigned)args.heads), i0 = (int)(gridDim.y - 1 - blockIdx.y) * BR;
	const int64_t batch = blockIdx.x / (unsigned)args.heads, row0 = batch * args.q_rows, key0 = batch * args.kv_rows,
		      sums0 = (batch * args.heads + head) * args.q_rows;
	const int64_t column = (int64_t)head * args.dim, kv_head = head / (args.heads / args.kv_heads);
	const int *starts = starts_of(args, (int)batch);
	const int row = threadIdx.x / 32 * 16 * MT, query = i0 + row + threadIdx.x % 32 / 4, end = min(i0 + BR, args.seq),
		  key_end = last_seen(args, end - 1) + 1;
	const int after = first_seen(args, starts, end - 1); /* from here on every row sees what is before it */
	const E *k = (const E *)args.k + key0 * args.kv_stride + kv_head * args.dim,
		*v = (const E *)args.v + key0 * args.v_stride + kv_head * args.v_dim;
	float dq[MT][D / 8][4], lse[MT][2], delta[MT][2];
	int low[MT][2], high[MT][2];
	clear(dq);
#pragma unroll
	for (int m = 0; m < MT; m++)
#pragma unroll
		for (int r = 0; r < 2; r++) {
			const int t = min(query + 16 * m + 8 * r, args.seq - 1);
			lse[m][r] = args.lse[sums0 + t] * LOG2_E;
			delta[m][r] = args.delta[sums0 + t];
			low[m][r] = first_seen(args, starts, t);
			high[m][r] = last_seen(args, query + 16 * m + 8 * r);
		}
	int j = first_seen(args, starts, i0) / BC * BC;
	auto fetch = [&](int from) {
		const int place = from / BC % 2 * BC;
		load_tile<E, D, BC, THREADS>(tiles.pass + place * D, k + from * args.kv_stride, args.kv_stride, args.keys - from,
					     args.dim, args.aligned);
		load_tile<E, D, BC, THREADS>(tiles.pass2 + place * D, v + from * args.v_stride, args.v_stride, args.keys - from,
					     args.v_dim, args.aligned);
		copy_commit();
	};
	load_tile<E, D, BR, THREADS>(tiles.keep, (const E *)args.q + (row0 + i0) * args.q_stride + column, args.q_stride,
				     args.seq - i0, args.dim, args.aligned);
	load_tile<E, D, BR, THREADS>(tiles.keep2, (const E *)args.d_o + (row0 + i0) * args.o_stride + (int64_t)head * args.v_dim,
				     args.o_stride, args.seq - i0, args.v_dim, args.aligned);
	if (j < key_end) {
		fetch(j);
	} else { /* nothing is seen: the copies must not come after what is left in their place */
		copy_commit();
		copy_wait<0>();
		__syncthreads();
	}
	for (; j < key_end; j += BC) {
		const int place = j / BC % 2 * BC;
		float scores[MT][BC / 8][4], dp[MT][BC / 8][4];
		uint32_t weights[MT][BC / 16][4];
		copy_wait<0>();
		__syncthreads(); /* this pair is there, the one before is used */
		if (j + BC < key_end)
			fetch(j + BC);
		product_abt<E, D, MT, BC / 8>(scores, tiles.keep, row, tiles.pass + place * D);
		product_abt<E, D, MT, BC / 8>(dp, tiles.keep2, row, tiles.pass2 + place * D);
		const bool whole = j + BC - 1 <= last_seen(args, i0) && j >= after;
#pragma unroll
		for (int m = 0; m < MT; m++)
			gradients(scores[m], dp[m], lse[m], delta[m], low[m], high[m], j, whole, args.scale * LOG2_E);
		round_weights<E>(weights, scores);
		product_ab<E, D, MT, BC / 16, D / 8>(dq, weights, tiles.pass + place * D, 0);
	}
	leave_rows<E, D, MT, D / 8>(args, tiles.keep, dq, args.scale, (E *)args.dq + (row0 + i0) * args.q_stride + column,
				    args.q_stride, args.dim, 0, args.seq - i0, args.add_dq);
}

template <int D, int BR, int BC, int MT, int COLS> static void launch_keys(struct mt_cuda_launch *on, const struct mt_op *op)
{
	typedef MT_ATTENTION_ELEMENT E;
	const struct mt_attention *a = &op->attention;
	const size_t shared_bytes = (size_t)(2 * BR + 4 * BC) * D * sizeof(E) + 2 * BC * sizeof(query_stats);
	const dim3 grid((unsigned)(a->batch * a->kv_heads), (unsigned)((mt_attention_keys(a) + BR - 1) / BR), D / COLS);
	cudaFuncSetAttribute(attention_keys<E, D, BR, BC, MT, COLS>, cudaFuncAttributeMaxDynamicSharedMemorySize,
			     (int)shared_bytes);
	MT_LAUNCH((attention_keys<E, D, BR, BC, MT, COLS>), grid, BR / MT * 2, shared_bytes, on->stream, attention_args_of(op));
}

template <int D, int BR, int BC, int MT> static void launch_queries(struct mt_cuda_launch *on, const struct mt_op *op)
{
	typedef MT_ATTENTION_ELEMENT E;
	const struct mt_attention *a = &op->attention;
	const size_t shared_bytes = (size_t)(2 * BR + 4 * BC) * D * sizeof(E);
	const dim3 grid((unsigned)(a->batch * a->heads), (unsigned)((a->seq + BR - 1) / BR));
	cudaFuncSetAttribute(attention_queries<E, D, BR, BC, MT>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes);
	MT_LAUNCH((attention_queries<E, D, BR, BC, MT>), grid, BR / MT * 2, shared_bytes, on->stream, attention_args_of(op));
}

enum mt_status MT_ATTENTION_BACKWARD(struct mt_cuda_launch *on, const struct mt_op *op)
{
	const struct mt_attention *a = &op->attention;
	const int64_t v_dim = mt_attention_v_dim(a), dim = v_dim > a->head_dim ? v_dim : a->head_dim, rows = a->batch * a->seq * a->heads;
	MT_LAUNCH(attention_sums<MT_ATTENTION_ELEMENT>, (unsigned)((rows + 3) / 4), 128, 0, on->stream, attention_args_of(op),
		  rows);
	if (dim <= 64) {
		launch_keys<64, 128, 32, 1, 64>(on, op);
		launch_queries<64, 128, 32, 2>(on, op);
	} else if (dim <= 96) {
		launch_keys<96, 128, 32, 1, 96>(on, op);
		launch_queries<96, 128, 64, 1>(on, op);
	} else if (dim <= 128) {
		launch_keys<128, 128, 32, 1, 128>(on, op);
		launch_queries<128, 128, 32, 1>(on, op);
	} else if (dim <= 192) {
		launch_keys<192, 64, 32, 1, 96>(on, op);
		launch_queries<192, 64, 32, 1>(on, op);
	} else {
		launch_keys<256, 64, 16, 1, 128>(on, op);
		launch_queries<256, 64, 16, 1>(on, op);
	}
	return mt_cuda_launched(op);
}
