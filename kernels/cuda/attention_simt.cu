/* attention_simt: attention in f32, forward and backward, on the ordinary units: complete, not fast (tensor cores have no f32).
 *
 * A block of 256 threads keeps BR rows of one head, queries (keys in the pass for dk and dv), and goes over the rows they meet in
 * tiles of 16. LANES neighbouring threads share a row: each makes 16 / LANES of its scores and D / LANES columns of its result.
 * In shared memory a row of D has four floats more, so that lanes which read different rows of a tile meet different banks.
 * Formulas and masks are those of attention_forward.cu and attention_backward.cu; D is 64, 128 or 256. */
#include "kernels/cuda/attention.cuh"

#define TILE    16
#define THREADS 256

enum simt_pass { SIMT_FORWARD, SIMT_QUERIES, SIMT_KEYS };

template <int D> struct simt_shape {
	enum { ROWS = D > 128 ? 16 : 32, LANES = THREADS / ROWS, PITCH = D + 4, COLS = D / LANES };
};

/* What a block works with; pass and pass2 are the tiles it goes over, weights and weights2 (ROWS,17) p and ds. */
template <int D> struct simt_block {
	float *keep, *keep2, *pass, *pass2, *weights, *weights2;
	int row, lane;                   /* of this thread */
	int64_t batch, first, first_key; /* rows of the sequence's first query and key */
	const int *starts;
};

template <int D> static __device__ __forceinline__ simt_block<D> block_in(const attention_args &args, float *shared, unsigned heads)
{
	typedef simt_shape<D> S;
	simt_block<D> b;
	b.keep = shared;
	b.keep2 = b.keep + S::ROWS * S::PITCH;
	b.pass = b.keep2 + S::ROWS * S::PITCH;
	b.pass2 = b.pass + TILE * S::PITCH;
	b.weights = b.pass2 + TILE * S::PITCH;
	b.weights2 = b.weights + S::ROWS * (TILE + 1);
	b.row = (int)threadIdx.x / S::LANES;
	b.lane = (int)threadIdx.x % S::LANES;
	b.batch = blockIdx.x / heads;
	b.first = b.batch * args.q_rows;
	b.first_key = b.batch * args.kv_rows;
	b.starts = starts_of(args, (int)b.batch);
	return b;
}

template <int D> static size_t shared_bytes_of(void)
{
	typedef simt_shape<D> S;
	return sizeof(float) * ((2 * S::ROWS + 2 * TILE) * S::PITCH + 2 * S::ROWS * (TILE + 1));
}

/* Rows from..from+rows of a head's slice of `dim` into a tile; zeros where there is nothing: `first` is the slice's first row, `count` how
 * many there are. By the block. */
template <int D>
static __device__ void simt_load(const attention_args &args, float *tile, const void *slice, int64_t first, int count,
				 int64_t stride, int dim, int head, int from, int rows)
{
	const float *x = (const float *)slice + (first + from) * stride + (int64_t)head * dim;
	for (int i = threadIdx.x; i < rows * D; i += THREADS) {
		const int row = i / D, d = i % D;
		tile[row * (D + 4) + d] = from + row < count && d < dim ? x[row * stride + d] : 0.0f;
	}
}

template <int D> static __device__ __forceinline__ float dot(const float *x, const float *y)
{
	float sum = 0;
#pragma unroll 8
	for (int d = 0; d < D; d += 4) {
		const float4 a = *(const float4 *)(x + d), b = *(const float4 *)(y + d);
		sum += a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w;
	}
	return sum;
}

/* sums += weights(row, 0..15) tile, the columns lane + LANES i. */
template <int D>
static __device__ __forceinline__ void accumulate(float (&sums)[simt_shape<D>::COLS], const float *weights, const float *tile,
						  int lane)
{
	typedef simt_shape<D> S;
	for (int c = 0; c < TILE; c++) {
		const float w = weights[c];
#pragma unroll
		for (int i = 0; i < S::COLS; i++)
			sums[i] += w * tile[c * S::PITCH + lane + S::LANES * i];
	}
}

template <int D>
static __device__ __forceinline__ void store_sums(const attention_args &args, void *to, int64_t first, int count, int64_t stride,
						  int dim, int head, int t, int lane, const float (&sums)[simt_shape<D>::COLS], float factor,
						  float kept)
{
	typedef simt_shape<D> S;
	float *row = (float *)to + (first + t) * stride + (int64_t)head * dim;
#pragma unroll
	for (int i = 0; i < S::COLS; i++)
		if (t < count && lane + S::LANES * i < dim)
			row[lane + S::LANES * i] = sums[i] * factor + (kept != 0 ? kept * row[lane + S::LANES * i] : 0.0f);
}

template <int D> static __global__ void __launch_bounds__(THREADS) simt_forward(const __grid_constant__ attention_args args)
{
	typedef simt_shape<D> S;
	MT_SHARED(float, shared);
	const simt_block<D> b = block_in<D>(args, shared, (unsigned)args.heads);
	const int head = (int)(blockIdx.x % (unsigned)args.heads), kv_head = head / (args.heads / args.kv_heads);
	const int i0 = (int)(gridDim.y - 1 - blockIdx.y) * S::ROWS, end = min(i0 + S::ROWS, args.seq), t = i0 + b.row;
	const int key_end = last_seen(args, end - 1) + 1, high = last_seen(args, t);
	const int low = first_seen(args, b.starts, min(t, args.seq - 1));
	float *weights = b.weights + b.row * (TILE + 1);
	float sums[S::COLS] = {}, most = -INFINITY, total = 0;
	simt_load<D>(args, b.keep, args.q, b.first, args.seq, args.q_stride, args.dim, head, i0, S::ROWS);
	for (int j = first_seen(args, b.starts, i0) / TILE * TILE; j < key_end; j += TILE) {
		float scores[TILE / S::LANES], top = most, sum = 0;
		__syncthreads();
		simt_load<D>(args, b.pass, args.k, b.first_key, args.keys, args.kv_stride, args.dim, kv_head, j, TILE);
		simt_load<D>(args, b.pass2, args.v, b.first_key, args.keys, args.v_stride, args.v_dim, kv_head, j, TILE);
		__syncthreads();
#pragma unroll
		for (int c = 0; c < TILE / S::LANES; c++) {
			const int column = b.lane + S::LANES * c, u = j + column;
			scores[c] = args.scale * dot<D>(b.keep + b.row * S::PITCH, b.pass + column * S::PITCH);
			if (u > high || u < low)
				scores[c] = -INFINITY;
			top = fmaxf(top, scores[c]);
		}
#pragma unroll
		for (int step = S::LANES / 2; step; step /= 2)
			top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, step));
		const float shift = top == -INFINITY ? 0.0f : top, shrink = expf(most - shift);
		most = top;
#pragma unroll
		for (int c = 0; c < TILE / S::LANES; c++) {
			const float p = expf(scores[c] - shift);
			weights[b.lane + S::LANES * c] = p;
			sum += p;
		}
		total = total * shrink + sum;
#pragma unroll
		for (int i = 0; i < S::COLS; i++)
			sums[i] *= shrink;
		__syncwarp();
		accumulate<D>(sums, weights, b.pass2, b.lane);
	}
#pragma unroll
	for (int step = S::LANES / 2; step; step /= 2)
		total += __shfl_xor_sync(0xffffffffu, total, step);
	float *lse = args.lse + (b.batch * args.heads + head) * args.q_rows + t;
	const float mine = total > 0 ? most + logf(total) : -INFINITY, before = args.merge && t < args.seq ? *lse : -INFINITY;
	const float all = merged_lse(mine, before);
	const float share = total > 0 ? (before > -INFINITY ? expf(mine - all) : 1.0f) / total : 0.0f;
	__syncwarp(); /* all lanes of the row have read it */
	if (b.lane == 0 && t < args.seq)
		*lse = all;
	store_sums<D>(args, args.o, b.first, args.seq, args.o_stride, args.v_dim, head, t, b.lane, sums, share,
		      before > -INFINITY ? expf(before - all) : 0.0f);
}

static __global__ void __launch_bounds__(128) simt_delta(const __grid_constant__ attention_args args, int64_t rows)
{
	const int64_t row = (int64_t)blockIdx.x * 4 + threadIdx.x / 32; /* of (B,T,H) */
	if (row >= rows)
		return;
	const int head = (int)(row % args.heads);
	const int64_t bt = row / args.heads, batch = bt / args.seq, t = bt % args.seq;
	const int64_t at = (batch * args.q_rows + t) * args.o_stride + (int64_t)head * args.v_dim;
	float sum = 0;
	for (int d = threadIdx.x % 32; d < args.v_dim; d += 32)
		sum += ((const float *)args.o)[at + d] * ((const float *)args.d_o)[at + d];
#pragma unroll
	for (int step = 16; step; step /= 2)
		sum += __shfl_xor_sync(0xffffffffu, sum, step);
	if (threadIdx.x % 32 == 0)
		args.delta[(batch * args.heads + head) * args.q_rows + t] = sum;
}

/* p and ds of query t and key u into the thread's row of weights, column `column`. */
static __device__ __forceinline__ void simt_gradient(const attention_args &args, const int *starts, int64_t sums0, int t, int u,
						     float score, float dp, float *p, float *ds)
{
	*p = *ds = 0;
	if (t >= args.seq || u > last_seen(args, t) || u < first_seen(args, starts, t))
		return;
	*p = expf(args.scale * score - args.lse[sums0 + t]);
	*ds = *p * (dp - args.delta[sums0 + t]);
}

template <int D> static __global__ void __launch_bounds__(THREADS) simt_queries(const __grid_constant__ attention_args args)
{
	typedef simt_shape<D> S;
	MT_SHARED(float, shared);
	const simt_block<D> b = block_in<D>(args, shared, (unsigned)args.heads);
	const int head = (int)(blockIdx.x % (unsigned)args.heads), kv_head = head / (args.heads / args.kv_heads);
	const int i0 = (int)(gridDim.y - 1 - blockIdx.y) * S::ROWS, end = min(i0 + S::ROWS, args.seq);
	const int key_end = last_seen(args, end - 1) + 1;
	const int64_t sums0 = (b.batch * args.heads + head) * args.q_rows;
	float *weights = b.weights + b.row * (TILE + 1), sums[S::COLS] = {};
	simt_load<D>(args, b.keep, args.q, b.first, args.seq, args.q_stride, args.dim, head, i0, S::ROWS);
	simt_load<D>(args, b.keep2, args.d_o, b.first, args.seq, args.o_stride, args.v_dim, head, i0, S::ROWS);
	for (int j = first_seen(args, b.starts, i0) / TILE * TILE; j < key_end; j += TILE) {
		__syncthreads();
		simt_load<D>(args, b.pass, args.k, b.first_key, args.keys, args.kv_stride, args.dim, kv_head, j, TILE);
		simt_load<D>(args, b.pass2, args.v, b.first_key, args.keys, args.v_stride, args.v_dim, kv_head, j, TILE);
		__syncthreads();
#pragma unroll
		for (int c = b.lane; c < TILE; c += S::LANES) {
			float p;
			simt_gradient(args, b.starts, sums0, i0 + b.row, j + c,
				      dot<D>(b.keep + b.row * S::PITCH, b.pass + c * S::PITCH),
				      dot<D>(b.keep2 + b.row * S::PITCH, b.pass2 + c * S::PITCH), &p, weights + c);
		}
		__syncwarp();
		accumulate<D>(sums, weights, b.pass, b.lane);
	}
	store_sums<D>(args, args.dq, b.first, args.seq, args.q_stride, args.dim, head, i0 + b.row, b.lane, sums, args.scale,
		      args.add_dq ? 1.0f : 0.0f);
}

template <int D> static __global__ void __launch_bounds__(THREADS) simt_keys(const __grid_constant__ attention_args args)
{
	typedef simt_shape<D> S;
	MT_SHARED(float, shared);
	const simt_block<D> b = block_in<D>(args, shared, (unsigned)args.kv_heads);
	const int kv_head = (int)(blockIdx.x % (unsigned)args.kv_heads), group = args.heads / args.kv_heads;
	const int j0 = (int)blockIdx.y * S::ROWS, last = last_seeing(args, b.starts, j0, min(j0 + S::ROWS, args.keys) - 1);
	const float kept = args.add_dkv ? 1.0f : 0.0f;
	float *p = b.weights + b.row * (TILE + 1), *ds = b.weights2 + b.row * (TILE + 1);
	float dk[S::COLS] = {}, dv[S::COLS] = {};
	simt_load<D>(args, b.keep, args.k, b.first_key, args.keys, args.kv_stride, args.dim, kv_head, j0, S::ROWS);
	simt_load<D>(args, b.keep2, args.v, b.first_key, args.keys, args.v_stride, args.v_dim, kv_head, j0, S::ROWS);
	for (int head = kv_head * group; head < (kv_head + 1) * group; head++)
		for (int i = first_seeing(args, j0); i <= last; i += TILE) {
			__syncthreads();
			simt_load<D>(args, b.pass, args.q, b.first, args.seq, args.q_stride, args.dim, head, i, TILE);
			simt_load<D>(args, b.pass2, args.d_o, b.first, args.seq, args.o_stride, args.v_dim, head, i, TILE);
			__syncthreads();
#pragma unroll
			for (int c = b.lane; c < TILE; c += S::LANES)
				simt_gradient(args, b.starts, (b.batch * args.heads + head) * args.q_rows, i + c, j0 + b.row,
					      dot<D>(b.keep + b.row * S::PITCH, b.pass + c * S::PITCH),
					      dot<D>(b.keep2 + b.row * S::PITCH, b.pass2 + c * S::PITCH), p + c, ds + c);
			__syncwarp();
			accumulate<D>(dv, p, b.pass2, b.lane);
			accumulate<D>(dk, ds, b.pass, b.lane);
		}
	store_sums<D>(args, args.dk, b.first_key, args.keys, args.kv_stride, args.dim, kv_head, j0 + b.row, b.lane, dk, args.scale, kept);
	store_sums<D>(args, args.dv, b.first_key, args.keys, args.v_stride, args.v_dim, kv_head, j0 + b.row, b.lane, dv, 1.0f, kept);
}

/* One pass; each has its own grid, all the same block. */
template <int D> static void run(struct mt_cuda_launch *on, const struct mt_op *op, enum simt_pass pass)
{
	const struct mt_attention *a = &op->attention;
	const size_t bytes = shared_bytes_of<D>();
	const int rows = simt_shape<D>::ROWS;
	const dim3 grid((unsigned)(a->batch * (pass == SIMT_KEYS ? a->kv_heads : a->heads)),
			(unsigned)(((pass == SIMT_KEYS ? mt_attention_keys(a) : a->seq) + rows - 1) / rows));
	void (*const kernel)(const attention_args) = pass == SIMT_FORWARD ? simt_forward<D>
						     : pass == SIMT_KEYS  ? simt_keys<D>
									  : simt_queries<D>;
	cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
	MT_LAUNCH(kernel, grid, THREADS, bytes, on->stream, attention_args_of(op));
}

static void run_size(struct mt_cuda_launch *on, const struct mt_op *op, enum simt_pass pass)
{
	const int64_t v_dim = mt_attention_v_dim(&op->attention);
	const int64_t dim = v_dim > op->attention.head_dim ? v_dim : op->attention.head_dim;
	if (dim <= 64)
		run<64>(on, op, pass);
	else if (dim <= 128)
		run<128>(on, op, pass);
	else
		run<256>(on, op, pass);
}

enum mt_status mt_cuda_attention_simt(struct mt_cuda_launch *on, const struct mt_op *op)
{
	run_size(on, op, SIMT_FORWARD);
	return mt_cuda_launched(op);
}

enum mt_status mt_cuda_attention_simt_bwd(struct mt_cuda_launch *on, const struct mt_op *op)
{
	const struct mt_attention *a = &op->attention;
	const int64_t rows = a->batch * a->seq * a->heads;
	MT_LAUNCH(simt_delta, (unsigned)((rows + 3) / 4), 128, 0, on->stream, attention_args_of(op), rows);
	run_size(on, op, SIMT_KEYS);
	run_size(on, op, SIMT_QUERIES);
	return mt_cuda_launched(op);
}
