/* attention_forward: o = softmax(q k^T scale + mask) v and its lse, never storing T x T.
 * Dao 2023, arXiv:2307.08691 (FlashAttention-2); Milakov & Gimelshein 2018, arXiv:1805.02867 (softmax in one pass).
 *
 * A block has BR queries of one head and goes over the keys they see in tiles of BC, first to last; a warp has 16 MT of the
 * queries. Per row it keeps the largest score m, the sum l of exp(score - m) and the row of o, all f32:
 *   m' = max(m, scores)   p = exp(scores - m')   l = l exp(m - m') + sum p   o = o exp(m - m') + p v
 * The keys of the next tile are fetched while this one's weights meet the values, and those values while the scores are made,
 * so two barriers a tile are enough. Blocks with the most keys come first, and heads that share keys and values side by side.
 *
 * Tiles were chosen so that accumulators and scores fit a thread's 255 registers and a block 96 KiB of shared memory, which
 * every architecture from sm_80 on has (sm_120: 99). Two times 16 rows a warp where registers allow it: each fragment of k and
 * v loaded is then used twice, and shared memory keeps up with the tensor cores. */
#include "kernels/cuda/attention.cuh"

#ifndef MT_ATTENTION_ELEMENT
#define MT_ATTENTION_ELEMENT __nv_bfloat16
#define MT_ATTENTION_FORWARD mt_cuda_attention_mma
#endif

/* The state of a thread's two rows of one m-tile: rows g and g + 8. */
struct softmax_rows {
	float most[2], total[2];
	int low[2], high[2]; /* first and last key seen */
};

/* Hides what the rows of this thread do not see of the keys from j on. */
template <int NT> static __device__ __forceinline__ void hide(float (&scores)[NT][4], const softmax_rows &rows, int j)
{
	const int column = j + threadIdx.x % 4 * 2;
#pragma unroll
	for (int n = 0; n < NT; n++)
#pragma unroll
		for (int e = 0; e < 4; e++) {
			const int u = column + 8 * n + e % 2;
			if (u > rows.high[e / 2] || u < rows.low[e / 2])
				scores[n][e] = -INFINITY;
		}
}

/* Scores to weights, sums brought to the new maxima. `factor` is scale log2(e): exponents are of 2. */
template <int NT, int DT>
static __device__ __forceinline__ void softmax(float (&scores)[NT][4], float (&sums)[DT][4], softmax_rows &rows, float factor)
{
#pragma unroll
	for (int r = 0; r < 2; r++) {
		float most = rows.most[r], total = 0;
#pragma unroll
		for (int n = 0; n < NT; n++)
			most = fmaxf(most, fmaxf(scores[n][2 * r], scores[n][2 * r + 1]));
		most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
		most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
		const float shift = most == -INFINITY ? 0.0f : most * factor; /* nothing seen yet */
		const float shrink = exp2_fast(rows.most[r] * factor - shift);
		rows.most[r] = most;
#pragma unroll
		for (int n = 0; n < NT; n++)
#pragma unroll
			for (int e = 2 * r; e < 2 * r + 2; e++) {
				scores[n][e] = exp2_fast(scores[n][e] * factor - shift);
				total += scores[n][e];
			}
		rows.total[r] = rows.total[r] * shrink + total;
#pragma unroll
		for (int d = 0; d < DT; d++) {
			sums[d][2 * r] *= shrink;
			sums[d][2 * r + 1] *= shrink;
		}
	}
}

/* What a warp leaves behind: its rows of o, through the rows of q that only it reads, and of lse. */
template <typename E, int D, int MT>
static __device__ __forceinline__ void finish(const attention_args &args, E *tile, const float (&sums)[MT][D / 8][4],
					      softmax_rows (&rows)[MT], int i0, int64_t batch, int head)
{
	const int lane = threadIdx.x % 32, first = threadIdx.x / 32 * 16 * MT;
	E *o = (E *)args.o + (batch * args.q_rows + i0) * args.o_stride + (int64_t)head * args.v_dim;
	float *lse = args.lse + (batch * args.heads + head) * args.q_rows;
	float kept[MT][2];
	__syncwarp();
#pragma unroll
	for (int m = 0; m < MT; m++) {
		float inverse[2];
#pragma unroll
		for (int r = 0; r < 2; r++) {
			float total = rows[m].total[r];
			total += __shfl_xor_sync(0xffffffffu, total, 1);
			total += __shfl_xor_sync(0xffffffffu, total, 2);
			const int t = i0 + first + 16 * m + lane / 4 + 8 * r;
			const bool seen = total > 0;
			const float mine = seen ? rows[m].most[r] * args.scale + logf(total) : -INFINITY;
			const float before = args.merge && t < args.seq ? lse[t] : -INFINITY;
			const float all = merged_lse(mine, before);
			inverse[r] = seen ? 1.0f / total : 0.0f;
			kept[m][r] = 0;
			if (before > -INFINITY) {
				inverse[r] *= seen ? expf(mine - all) : 0.0f;
				kept[m][r] = expf(before - all);
			}
			__syncwarp(); /* all lanes of a row have read it */
			if (lane % 4 == 0 && t < args.seq)
				lse[t] = all;
		}
		keep_rows<E, D, D / 8>(tile, first + 16 * m, 0, sums[m], inverse[0], inverse[1]);
	}
	__syncwarp();
#pragma unroll
	for (int m = 0; m < MT; m++)
		store_rows<E, D, D>(tile, first + 16 * m, o, args.o_stride, 0, args.seq - i0, args.v_dim, args.aligned, args.merge,
				    kept[m][0], kept[m][1]);
}

template <typename E, int D, int BR, int BC, int MT>
static __global__ void __launch_bounds__(BR / MT * 2) attention_forward(const __grid_constant__ attention_args args)
{
	constexpr int THREADS = BR / MT * 2;
	MT_SHARED(E, shared);
	E *q_tile = shared, *k_tile = q_tile + BR * D, *v_tile = k_tile + BC * D;
	const int head = (int)(blockIdx.x % (unsigned)args.heads), i0 = (int)(gridDim.y - 1 - blockIdx.y) * BR;
	const int64_t batch = blockIdx.x / (unsigned)args.heads, row0 = batch * args.q_rows, key0 = batch * args.kv_rows;
	const int *starts = starts_of(args, (int)batch);
	const int row = threadIdx.x / 32 * 16 * MT, i = i0 + row + threadIdx.x % 32 / 4, end = min(i0 + BR, args.seq),
		  key_end = last_seen(args, end - 1) + 1;
	const int64_t kv_head = head / (args.heads / args.kv_heads);
	const E *q = (const E *)args.q + (row0 + i0) * args.q_stride + (int64_t)head * args.dim;
	const E *k = (const E *)args.k + key0 * args.kv_stride + kv_head * args.dim,
		*v = (const E *)args.v + key0 * args.v_stride + kv_head * args.v_dim;
	const int whole = first_seen(args, starts, end - 1); /* from here on every row sees what is before it */
	float sums[MT][D / 8][4];
	softmax_rows rows[MT];
	clear(sums);
#pragma unroll
	for (int m = 0; m < MT; m++)
#pragma unroll
		for (int r = 0; r < 2; r++) {
			rows[m].most[r] = -INFINITY;
			rows[m].total[r] = 0;
			rows[m].low[r] = first_seen(args, starts, min(i + 16 * m + 8 * r, args.seq - 1));
			rows[m].high[r] = last_seen(args, i + 16 * m + 8 * r);
		}
	int j = first_seen(args, starts, i0) / BC * BC;
	load_tile<E, D, BR, THREADS>(q_tile, q, args.q_stride, args.seq - i0, args.dim, args.aligned);
	if (j < key_end)
		load_tile<E, D, BC, THREADS>(k_tile, k + j * args.kv_stride, args.kv_stride, args.keys - j, args.dim, args.aligned);
	copy_commit();
	if (j >= key_end) { /* nothing is seen: the copies must not come after what is left in their place */
		copy_wait<0>();
		__syncthreads();
	}
	for (; j < key_end; j += BC) {
		float scores[MT][BC / 8][4];
		uint32_t weights[MT][BC / 16][4];
		copy_wait<0>();
		__syncthreads(); /* keys are there, the values before are used */
		load_tile<E, D, BC, THREADS>(v_tile, v + j * args.v_stride, args.v_stride, args.keys - j, args.v_dim, args.aligned);
		copy_commit();
		product_abt<E, D, MT, BC / 8>(scores, q_tile, row, k_tile);
		if (j + BC - 1 > last_seen(args, i0) || j < whole)
#pragma unroll
			for (int m = 0; m < MT; m++)
				hide(scores[m], rows[m], j);
		copy_wait<0>();
		__syncthreads(); /* values are there, keys are used */
		if (j + BC < key_end)
			load_tile<E, D, BC, THREADS>(k_tile, k + (j + BC) * args.kv_stride, args.kv_stride, args.keys - j - BC,
						     args.dim, args.aligned);
		copy_commit();
#pragma unroll
		for (int m = 0; m < MT; m++)
			softmax(scores[m], sums[m], rows[m], args.scale * LOG2_E);
		round_weights<E>(weights, scores);
		product_ab<E, D, MT, BC / 16, D / 8>(sums, weights, v_tile, 0);
	}
	finish<E, D, MT>(args, q_tile, sums, rows, i0, batch, head);
}

template <int D, int BR, int BC, int MT> static enum mt_status launch(struct mt_cuda_launch *on, const struct mt_op *op)
{
	typedef MT_ATTENTION_ELEMENT E;
	const struct mt_attention *a = &op->attention;
	const size_t shared_bytes = (size_t)(BR + 2 * BC) * D * sizeof(E);
	const dim3 grid((unsigned)(a->batch * a->heads), (unsigned)((a->seq + BR - 1) / BR));
	cudaFuncSetAttribute(attention_forward<E, D, BR, BC, MT>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes);
	MT_LAUNCH((attention_forward<E, D, BR, BC, MT>), grid, BR / MT * 2, shared_bytes, on->stream, attention_args_of(op));
	return mt_cuda_launched(op);
}

enum mt_status MT_ATTENTION_FORWARD(struct mt_cuda_launch *on, const struct mt_op *op)
{
	const int64_t v_dim = mt_attention_v_dim(&op->attention);
	const int64_t dim = v_dim > op->attention.head_dim ? v_dim : op->attention.head_dim;
	if (dim <= 64)
		return launch<64, 128, 64, 2>(on, op);
	if (dim <= 96)
		return launch<96, 128, 32, 2>(on, op);
	if (dim <= 128)
		return launch<128, 128, 64, 1>(on, op);
	return dim <= 192 ? launch<192, 128, 64, 1>(on, op) : launch<256, 64, 32, 1>(on, op);
}
