/* attention: what the attention kernels of 16-bit types share: arguments, masks, tiles in shared memory, products of tiles.
 *
 * A tile is `rows` rows of D elements in shared memory, D the head size (the larger one, when values have another) rounded up to 64,
 * 96, 128, 192 or 256 with zeros. A row is
 * D/8 chunks of 16 bytes, and chunk c of row r lies at c ^ (r & 7), or c ^ (r/2 & 3) when D is not a multiple of 64: then the eight
 * rows of a matrix that ldmatrix reads lie in different banks, whichever chunk it reads. (A row of 192 bytes ends in the middle
 * of the banks: neighbours take turns with the halves, and two bits are enough.)
 *
 * A warp owns MT times 16 rows of a result; its scores stay in registers from the first product to the second, where the
 * accumulators of the first, rounded, are the left operand (kernels/cuda/ptx.cuh).
 *
 * Row t of a sequence sees keys first(t)..last(t) (kernels/op.h). Neither falls, so the keys that a tile of queries sees lie
 * between first of its first row and last of its last row, and the queries that see a tile of keys between the one beside its first
 * key and the last t with first(t) in it. Rows at and after the end of the sequence are zeros in tiles, are seen by nobody and not
 * stored. */
#ifndef MT_KERNELS_CUDA_ATTENTION_CUH
#define MT_KERNELS_CUDA_ATTENTION_CUH

#include "kernels/cuda/attention.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"

#define LOG2_E 1.4426950408889634f
#define LN_2   0.6931471805599453f

/* What kernels get: an operation with what the host works out once. */
struct attention_args {
	const void *q, *k, *v, *d_o;
	void *o, *dq, *dk, *dv;
	float *lse, *delta;
	const int *starts;
	int64_t q_stride, kv_stride, v_stride, o_stride;
	int seq, heads, kv_heads, dim, v_dim, window;
	int keys, offset;        /* last(t) = min(t + offset, keys - 1) */
	int64_t q_rows, kv_rows; /* of a sequence in memory */
	bool merge, add_dq, add_dkv;
	float scale;
	bool aligned; /* rows of all tensors lie at multiples of 16 bytes and have a multiple of 8 elements */
};

static inline bool rows_are_aligned(const void *p, int64_t stride)
{
	return (uintptr_t)p % 16 == 0 && stride % 8 == 0;
}

static inline struct attention_args attention_args_of(const struct mt_op *op)
{
	const struct mt_attention *a = &op->attention;
	const bool backward = op->kind == MT_OP_ATTENTION_BWD;
	struct attention_args args = {};
	args.q = a->q, args.k = a->k, args.v = a->v, args.d_o = a->do_;
	args.o = a->o, args.dq = a->dq, args.dk = a->dk, args.dv = a->dv;
	args.lse = (float *)a->lse, args.delta = (float *)a->delta, args.starts = (const int *)a->starts;
	args.q_stride = a->q_stride, args.kv_stride = a->kv_stride, args.o_stride = a->o_stride;
	args.v_stride = mt_attention_v_stride(a), args.v_dim = (int)mt_attention_v_dim(a);
	args.seq = (int)a->seq, args.heads = (int)a->heads, args.kv_heads = (int)a->kv_heads, args.dim = (int)a->head_dim;
	args.keys = (int)mt_attention_keys(a);
	args.offset = a->offset < args.keys ? (int)a->offset : args.keys;
	args.window = a->window < a->seq + a->offset ? (int)a->window : 0;
	args.q_rows = mt_attention_q_rows(a), args.kv_rows = mt_attention_kv_rows(a);
	args.merge = a->merge, args.add_dq = a->add_dq, args.add_dkv = a->add_dkv;
	args.scale = (float)a->scale;
	args.aligned = a->head_dim % 8 == 0 && args.v_dim % 8 == 0 && rows_are_aligned(a->q, a->q_stride) && rows_are_aligned(a->k, a->kv_stride) &&
		       rows_are_aligned(a->v, args.v_stride) && rows_are_aligned(a->o, a->o_stride);
	if (backward)
		args.aligned = args.aligned && rows_are_aligned(a->do_, a->o_stride) && rows_are_aligned(a->dq, a->q_stride) &&
			       rows_are_aligned(a->dk, a->kv_stride) && rows_are_aligned(a->dv, args.v_stride);
	return args;
}

/* What our kernels cannot do, NULL when they can. */
static inline const char *attention_obstacle(const struct mt_attention *a)
{
	if (a->head_dim > 256 || mt_attention_v_dim(a) > 256)
		return "the head size is over 256";
	if (a->seq > 1 << 20 || mt_attention_keys(a) > 1 << 20 || a->batch * a->heads > INT32_MAX) /* a grid's limits */
		return "a sequence has over 2^20 rows, or there are over 2^31 heads in all";
	/* Window and offset meet in arithmetic of 32 bits, and an offset is cut to the keys. */
	if (a->window > 0 && a->offset > mt_attention_keys(a))
		return "a window of keys that all lie before the queries";
	return a->scale > 0 ? NULL : "the scale is not positive";
}

/* The first key that row t of the sequence sees; `starts` is the sequence's, or NULL. */
static __device__ __forceinline__ int first_seen(const struct attention_args &args, const int *starts, int t)
{
	const int first = args.window > 0 ? max(t + args.offset - args.window + 1, 0) : 0;
	return starts ? max(first, __ldg(starts + t)) : first;
}

static __device__ __forceinline__ const int *starts_of(const struct attention_args &args, int batch)
{
	return args.starts ? args.starts + (int64_t)batch * args.q_rows : NULL;
}

/* The last key that row t sees, when it sees any. */
static __device__ __forceinline__ int last_seen(const struct attention_args &args, int t)
{
	return min(t + args.offset, args.keys - 1);
}

/* The first row that may see key j. */
static __device__ __forceinline__ int first_seeing(const struct attention_args &args, int j)
{
	return max(j - args.offset, 0);
}

/* The last row that sees one of the keys j to `key`; before the first that may when none does. */
static __device__ __forceinline__ int last_seeing(const struct attention_args &args, const int *starts, int j, int key)
{
	int low = first_seeing(args, j) - 1, high = args.seq - 1;
	while (low < high) {
		const int middle = low + (high - low + 1) / 2;
		if (first_seen(args, starts, middle) <= key)
			low = middle;
		else
			high = middle - 1;
	}
	return low;
}

/* log(exp a + exp b), also where there is nothing: -inf. */
static __device__ __forceinline__ float merged_lse(float a, float b)
{
	const float most = fmaxf(a, b), least = fminf(a, b);
	return least == -INFINITY ? most : most + log1pf(expf(least - most));
}

/* Tiles. */
#define SWIZZLE_CHUNKS(D) ((D) % 64 == 0 ? 8 : 4)

/* Bytes from the start of a row to its chunk `even` + `odd`; `even` is even and known to the compiler, so that the few offsets
 * that differ between its values stay in registers. */
template <int D> static __device__ __forceinline__ int chunk_bytes(int row, int even, int odd)
{
	constexpr int CHUNKS = SWIZZLE_CHUNKS(D);
	const int turn = CHUNKS == 8 ? row & 7 : row >> 1 & 3;
	return (((even % CHUNKS + odd) ^ turn) << 4) + even / CHUNKS * CHUNKS * 16;
}

/* Where chunk `chunk` of a row lies. */
template <int D> static __device__ __forceinline__ int swizzled(int row, int chunk)
{
	constexpr int CHUNKS = SWIZZLE_CHUNKS(D);
	return row * D + ((chunk ^ (CHUNKS == 8 ? row & 7 : row >> 1 & 3)) << 3);
}

/* Rows [0, real) of a slice whose rows are `stride` elements apart, into a tile of ROWS; the rest is zeros. By the block. */
template <typename E, int D, int ROWS, int THREADS>
static __device__ __forceinline__ void load_tile(E *tile, const E *from, int64_t stride, int real, int dim, bool aligned)
{
	constexpr int CHUNKS = D / 8;
	if (aligned) {
#pragma unroll
		for (int i = threadIdx.x; i < ROWS * CHUNKS; i += THREADS) {
			const int row = i / CHUNKS, chunk = i % CHUNKS;
			const bool there = row < real && chunk * 8 < dim;
			copy_async(tile + swizzled<D>(row, chunk), there ? from + row * stride + chunk * 8 : from, there);
		}
		return;
	}
	for (int i = threadIdx.x; i < ROWS * D; i += THREADS) {
		const int row = i / D, d = i % D;
		const bool there = row < real && d < dim;
		reinterpret_cast<unsigned short *>(tile)[swizzled<D>(row, d / 8) + d % 8] =
			there ? reinterpret_cast<const unsigned short *>(from)[row * stride + d] : (unsigned short)0;
	}
}

static __device__ __forceinline__ float widened(__nv_bfloat16 x)
{
	return __bfloat162float(x);
}

static __device__ __forceinline__ float widened(__half x)
{
	return __half2float(x);
}

static __device__ __forceinline__ float widened(float x)
{
	return x;
}

static __device__ __forceinline__ __nv_bfloat16 narrowed(float x, __nv_bfloat16)
{
	return __float2bfloat16(x);
}

static __device__ __forceinline__ __half narrowed(float x, __half)
{
	return __float2half_rn(x);
}

/* 16 rows of a tile from `row` on, columns [first, first + COLS), to global memory, as far as they are real. By a warp. With
 * `joins` they are added to what is there times kept, of rows g and g + 8; what is there is not read where that is 0. */
template <typename E, int D, int COLS>
static __device__ __forceinline__ void store_rows(const E *tile, int row, E *to, int64_t stride, int first, int real, int dim,
						  bool aligned, bool joins, float kept_upper, float kept_lower)
{
	constexpr int CHUNKS = COLS / 8;
	static_assert(CHUNKS % 2 == 0, "all lanes of a warp take part in each turn");
	for (int i = threadIdx.x % 32; i < 16 * CHUNKS; i += 32) {
		const int in = i / CHUNKS, r = row + in, chunk = first / 8 + i % CHUNKS;
		const E *from = tile + swizzled<D>(r, chunk);
		E *there = to + r * stride + chunk * 8;
		float kept = 0;
		if (joins) {
			const float upper = __shfl_sync(0xffffffffu, kept_upper, in % 8 * 4),
				    lower = __shfl_sync(0xffffffffu, kept_lower, in % 8 * 4);
			kept = in < 8 ? upper : lower;
		}
		if (r >= real)
			continue;
		if (aligned && kept == 0 && chunk * 8 < dim)
			*reinterpret_cast<uint4 *>(there) = *reinterpret_cast<const uint4 *>(from);
		for (int d = 0; (!aligned || kept != 0) && d < 8 && chunk * 8 + d < dim; d++)
			there[d] = kept == 0 ? from[d] : narrowed(widened(from[d]) + kept * widened(there[d]), E());
	}
}

static __device__ __forceinline__ uint32_t packed(float x, float y, __nv_bfloat16)
{
	const __nv_bfloat162 pair = __floats2bfloat162_rn(x, y);
	uint32_t bits;
	memcpy(&bits, &pair, sizeof bits);
	return bits;
}

static __device__ __forceinline__ uint32_t packed(float x, float y, __half)
{
	const __half2 pair = __floats2half2_rn(x, y);
	uint32_t bits;
	memcpy(&bits, &pair, sizeof bits);
	return bits;
}

/* Accumulators (16, 8 NT) times `factor` of each of the two rows, into columns [first, ...) of a tile at `row`. By a warp. */
template <typename E, int D, int NT>
static __device__ __forceinline__ void keep_rows(E *tile, int row, int first, const float (&sums)[NT][4], float upper, float lower)
{
	const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
	for (int n = 0; n < NT; n++) {
		*reinterpret_cast<uint32_t *>(tile + swizzled<D>(row + g, first / 8 + n) + 2 * t) =
			packed(sums[n][0] * upper, sums[n][1] * upper, E());
		*reinterpret_cast<uint32_t *>(tile + swizzled<D>(row + g + 8, first / 8 + n) + 2 * t) =
			packed(sums[n][2] * lower, sums[n][3] * lower, E());
	}
}

/* Products. All by a warp. */

/* scores(16 MT, 8 NT) = a(rows from `row`, D) b(8 NT, D)^T. */
template <typename E, int D, int MT, int NT>
static __device__ __forceinline__ void product_abt(float (&scores)[MT][NT][4], const E *a, int row, const E *b)
{
	const int lane = threadIdx.x % 32;
	const int a_row = row + (lane & 15), b_row = (lane & 7) + (lane >> 4 << 3);
	const shared_address a_at = address_of(a + a_row * D), b_at = address_of(b + b_row * D);
#pragma unroll
	for (int m = 0; m < MT; m++)
#pragma unroll
		for (int n = 0; n < NT; n++)
#pragma unroll
			for (int i = 0; i < 4; i++)
				scores[m][n][i] = 0;
#pragma unroll 4 /* more, and addresses crowd out the sums */
	for (int k = 0; k < D / 8; k += 2) {
		uint32_t left[MT][4];
#pragma unroll
		for (int m = 0; m < MT; m++)
			ldmatrix(left[m], a_at + chunk_bytes<D>(a_row, k, lane >> 4) + 32 * m * D);
#pragma unroll
		for (int n = 0; n < NT; n += 2) {
			uint32_t right[4];
			ldmatrix(right, b_at + chunk_bytes<D>(b_row, k, lane >> 3 & 1) + 16 * n * D);
			const uint32_t even[2] = {right[0], right[1]}, odd[2] = {right[2], right[3]};
#pragma unroll
			for (int m = 0; m < MT; m++) {
				mma(scores[m][n], left[m], even, E());
				mma(scores[m][n + 1], left[m], odd, E());
			}
		}
	}
}

/* sums(16 MT, 8 NT) += weights(16 MT, 16 KT) b(16 KT, columns [first, first + 8 NT) of D); `first` is a multiple of 8 NT. */
template <typename E, int D, int MT, int KT, int NT>
static __device__ __forceinline__ void product_ab(float (&sums)[MT][NT][4], const uint32_t (&weights)[MT][KT][4], const E *b,
						  int first)
{
	constexpr bool EVEN = NT % SWIZZLE_CHUNKS(D) == 0; /* `first` does not change the order of chunks */
	const int lane = threadIdx.x % 32, row = lane & 15;
	const shared_address at = address_of(b + row * D + (EVEN ? first : 0));
#pragma unroll
	for (int k = 0; k < KT; k++)
#pragma unroll
		for (int n = 0; n < NT; n += 2) {
			uint32_t right[4];
			ldmatrix_trans(right, at + chunk_bytes<D>(row, EVEN ? n : first / 8 + n, lane >> 4) + 32 * k * D);
			const uint32_t even[2] = {right[0], right[1]}, odd[2] = {right[2], right[3]};
#pragma unroll
			for (int m = 0; m < MT; m++) {
				mma(sums[m][n], weights[m][k], even, E());
				mma(sums[m][n + 1], weights[m][k], odd, E());
			}
		}
}

/* Accumulators of products as the left operand of the next. */
template <typename E, int MT, int NT>
static __device__ __forceinline__ void round_weights(uint32_t (&weights)[MT][NT / 2][4], const float (&scores)[MT][NT][4])
{
#pragma unroll
	for (int m = 0; m < MT; m++)
#pragma unroll
		for (int n = 0; n < NT; n++) {
			weights[m][n / 2][n % 2 * 2] = packed(scores[m][n][0], scores[m][n][1], E());
			weights[m][n / 2][n % 2 * 2 + 1] = packed(scores[m][n][2], scores[m][n][3], E());
		}
}

template <int MT, int NT> static __device__ __forceinline__ void clear(float (&sums)[MT][NT][4])
{
#pragma unroll
	for (int m = 0; m < MT; m++)
#pragma unroll
		for (int n = 0; n < NT; n++)
#pragma unroll
			for (int i = 0; i < 4; i++)
				sums[m][n][i] = 0;
}

#endif
