/* optimizer: sumsq  *out += sum of x[i]^2 in double, in an order fixed by the count: 512 slices in scratch, then over them
 *            adamw  g = grad * grad_scale,  m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2
 *                   master -= lr (m / (1 - beta1^step) / (sqrt(v / (1 - beta2^step)) + eps) + decay master)
 *                   param = master in dtype; param may be master when they are of one type
 * sumsq moves 4 bytes an element, adamw 7 f32 and a param: bandwidth-bound. Clipping is in grad_scale, so gradients are not read
 * and written once more for it.
 *
 * AdamW takes many tensors in one launch: a model has hundreds, most of them small, and a launch costs as much time as a GPU needs
 * for a million parameters. They come as a table in the parameters of the launch; blocks are dealt out to them in chunks, and each
 * finds its own by bisection. Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2. */
#include "kernels/cuda/reduce.cuh"

#include <math.h>

#define SLICES       512
#define MOST_TENSORS 56   /* 64 bytes each: the parameters of a launch have 4 KiB */
#define CHUNK        4096 /* parameters of a block */

__global__ void __launch_bounds__(MT_CUDA_THREADS) square_slices(const float *x, int64_t count, double *slices, bool wide)
{
	__shared__ double partial[MT_CUDA_THREADS / 32];
	double sum = 0;
	if (wide) {
#pragma unroll 4
		for (int64_t i = first_item() * 4; i < count; i += item_stride() * 4) {
			float v[4];
			load_values<float, 4>(x + i, count - i, v);
			sum += ((double)v[0] * v[0] + (double)v[1] * v[1]) + ((double)v[2] * v[2] + (double)v[3] * v[3]);
		}
	} else {
		for (int64_t i = first_item(); i < count; i += item_stride())
			sum += (double)x[i] * x[i];
	}
	sum = group_sum(sum, partial);
	if (threadIdx.x == 0)
		slices[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(SLICES) add_slices(const double *slices, int count, double *out)
{
	__shared__ double partial[SLICES / 32];
	const double sum = group_sum((int)threadIdx.x < count ? slices[threadIdx.x] : 0.0, partial);
	if (threadIdx.x == 0)
		*out += sum;
}

enum mt_status mt_cuda_sumsq(struct mt_cuda_launch *launch, const struct mt_op *op)
{
	const struct mt_sumsq *s = &op->sumsq;
	const int64_t slices = min(divide_up(s->count, 4 * MT_CUDA_THREADS), (int64_t)SLICES);
	if (!has_type(op->dtype))
		return mt_cuda_no_kernel(op);
	if (s->count == 0)
		return MT_OK;
	double *partials = static_cast<double *>(launch->scratch);
	MT_LAUNCH(square_slices, (unsigned)slices, MT_CUDA_THREADS, 0, launch->stream, static_cast<const float *>(s->x), s->count,
		  partials, aligned(s->x));
	MT_LAUNCH(add_slices, 1, SLICES, 0, launch->stream, partials, (int)slices, static_cast<double *>(s->out));
	return mt_cuda_launched(op);
}

struct adamw_tensor {
	const float *grad;
	float *master;
	void *m, *v, *param;
	int64_t count;
	float lr, decay;
	int first_block;
	bool wide;
};

struct adamw_table {
	struct adamw_tensor tensors[MOST_TENSORS];
	int count;
	bool m_half, v_half; /* in bf16 */
	float beta1, one_less_beta1, beta2, one_less_beta2, unbias_m, unbias_v, eps, grad_scale;
};

/* N parameters are moved whole: 16 bytes of f32 at once where N is 4. Moments are f32 or bf16; four of the latter are 8 bytes. */
template <int N> __device__ __forceinline__ void load_f32(const void *p, int64_t i, float (&x)[N])
{
	unpack(load<float, N>(static_cast<const float *>(p) + i), x);
}

template <int N> __device__ __forceinline__ void store_f32(void *p, int64_t i, const float (&x)[N])
{
	float *at = static_cast<float *>(p) + i;
	if constexpr (N == 4)
		write_whole(at, make_uint4(__float_as_uint(x[0]), __float_as_uint(x[1]), __float_as_uint(x[2]), __float_as_uint(x[3])));
	else
		*at = x[0];
}

template <int N> __device__ __forceinline__ void load_moments(const void *p, bool half, int64_t i, float (&x)[N])
{
	const __nv_bfloat16 *narrow = static_cast<const __nv_bfloat16 *>(p) + i;
	if (!half) {
		load_f32<N>(p, i, x);
	} else if constexpr (N == 4) {
		const uint2 words = read<uint2>(narrow);
		x[0] = __uint_as_float(words.x << 16), x[1] = __uint_as_float(words.x & 0xffff0000u);
		x[2] = __uint_as_float(words.y << 16), x[3] = __uint_as_float(words.y & 0xffff0000u);
	} else {
		x[0] = to_f32(*narrow);
	}
}

/* Parameters, or moments in bf16: four are one access of 8 bytes. */
template <typename T, int N> __device__ __forceinline__ void store_narrow(T *p, const float (&x)[N])
{
	if constexpr (N == 4)
		write_whole(p, make_uint2(rounded_pair<T>(x[0], x[1]), rounded_pair<T>(x[2], x[3])));
	else
		*p = from_f32<T>(x[0]);
}

template <int N> __device__ __forceinline__ void store_moments(void *p, bool half, int64_t i, const float (&x)[N])
{
	if (half)
		store_narrow<__nv_bfloat16, N>(static_cast<__nv_bfloat16 *>(p) + i, x);
	else
		store_f32<N>(p, i, x);
}

template <typename T, int N>
__device__ __forceinline__ void adamw_update(const struct adamw_table &table, const struct adamw_tensor &t, int64_t i)
{
	static_assert(N == 1 || N == 4, "one parameter, or 16 bytes of f32");
	float g[N], master[N], m[N], v[N];
	load_f32<N>(t.grad, i, g);
	load_f32<N>(t.master, i, master);
	load_moments<N>(t.m, table.m_half, i, m);
	load_moments<N>(t.v, table.v_half, i, v);
#pragma unroll
	for (int n = 0; n < N; n++) {
		g[n] *= table.grad_scale;
		m[n] = table.beta1 * m[n] + table.one_less_beta1 * g[n];
		v[n] = table.beta2 * v[n] + table.one_less_beta2 * g[n] * g[n];
		const float step = m[n] * table.unbias_m / (sqrtf(v[n] * table.unbias_v) + table.eps);
		master[n] -= t.lr * (step + t.decay * master[n]);
	}
	store_moments<N>(t.m, table.m_half, i, m);
	store_moments<N>(t.v, table.v_half, i, v);
	store_f32<N>(t.master, i, master);
	if constexpr (sizeof(T) == 4)
		store_f32<N>(t.param, i, master);
	else
		store_narrow<T, N>(static_cast<T *>(t.param) + i, master);
}

/* The tensor that a block belongs to: the last that starts no later. */
__device__ __forceinline__ int tensor_of(const struct adamw_table &table, int block)
{
	int low = 0, high = table.count - 1;
	while (low < high) {
		const int middle = (low + high + 1) / 2;
		if (table.tensors[middle].first_block <= block)
			low = middle;
		else
			high = middle - 1;
	}
	return low;
}

template <typename T>
__global__ void __launch_bounds__(MT_CUDA_THREADS) adamw_step(const __grid_constant__ struct adamw_table table)
{
	const struct adamw_tensor &t = table.tensors[tensor_of(table, (int)blockIdx.x)];
	const int64_t first = (int64_t)((int)blockIdx.x - t.first_block) * CHUNK, end = min(first + CHUNK, t.count);
	if (t.wide) {
		const int64_t whole = first + (end - first) / 4 * 4; /* up to three are left at a tensor's end */
		for (int64_t i = first + threadIdx.x * 4; i < whole; i += MT_CUDA_THREADS * 4)
			adamw_update<T, 4>(table, t, i);
		if (whole + threadIdx.x < end)
			adamw_update<T, 1>(table, t, whole + threadIdx.x);
	} else {
		for (int64_t i = first + threadIdx.x; i < end; i += MT_CUDA_THREADS)
			adamw_update<T, 1>(table, t, i);
	}
}

/* Whether two operations may share a launch. */
static bool together(const struct mt_op *a, const struct mt_op *b)
{
	const struct mt_adamw *x = &a->adamw, *y = &b->adamw;
	return a->dtype == b->dtype && x->step == y->step && x->beta1 == y->beta1 && x->beta2 == y->beta2 && x->eps == y->eps &&
	       x->grad_scale == y->grad_scale && x->m_dtype == y->m_dtype && x->v_dtype == y->v_dtype;
}

static struct adamw_tensor tensor_from(const struct mt_op *op, int first_block)
{
	const struct mt_adamw *a = &op->adamw;
	struct adamw_tensor t;
	t.grad = static_cast<const float *>(a->grad);
	t.master = static_cast<float *>(a->master), t.m = a->m, t.v = a->v;
	t.param = a->param, t.count = a->count;
	t.lr = (float)a->lr, t.decay = (float)a->decay;
	t.first_block = first_block;
	/* Four parameters of bf16 or f16 are 8 bytes. */
	t.wide = aligned(a->grad, a->master, a->m, a->v) && (uintptr_t)a->param % (4 * mt_dtype_bytes(op->dtype)) == 0;
	return t;
}

static void set_hyperparameters(struct adamw_table *table, const struct mt_adamw *a)
{
	table->beta1 = (float)a->beta1, table->one_less_beta1 = (float)(1 - a->beta1);
	table->beta2 = (float)a->beta2, table->one_less_beta2 = (float)(1 - a->beta2);
	table->unbias_m = (float)(1 / (1 - pow(a->beta1, (double)a->step)));
	table->unbias_v = (float)(1 / (1 - pow(a->beta2, (double)a->step)));
	table->m_half = a->m_dtype == MT_BF16, table->v_half = a->v_dtype == MT_BF16;
	table->eps = (float)a->eps, table->grad_scale = (float)a->grad_scale;
}

template <typename T> static void launch_step(const struct mt_cuda_launch *launch, const struct adamw_table &table, unsigned blocks)
{
	MT_LAUNCH(adamw_step<T>, blocks, MT_CUDA_THREADS, 0, launch->stream, table);
}

/* Launches the first of the operations that fit in one launch; *taken gets how many. */
static enum mt_status launch_some(const struct mt_cuda_launch *launch, const struct mt_op *ops, int count, int *taken)
{
	struct adamw_table table;
	int64_t blocks = 0;
	if (!has_type(ops->dtype))
		return mt_cuda_no_kernel(ops);
	set_hyperparameters(&table, &ops->adamw);
	table.count = 0;
	for (*taken = 0; *taken < count && table.count < MOST_TENSORS && together(&ops[0], &ops[*taken]); ++*taken) {
		const int64_t chunks = divide_up(ops[*taken].adamw.count, CHUNK);
		if (chunks == 0)
			continue;
		if (*taken > 0 && blocks + chunks > INT32_MAX)
			break;
		table.tensors[table.count++] = tensor_from(&ops[*taken], (int)blocks);
		blocks += chunks;
	}
	if (table.count == 0)
		return MT_OK;
	MT_BY_TYPE(ops->dtype, launch_step, launch, table, (unsigned)blocks);
	return mt_cuda_launched(ops);
}

enum mt_status mt_cuda_adamw_many(struct mt_cuda_launch *launch, const struct mt_op *ops, int count)
{
	for (int done = 0, taken; done < count; done += taken)
		MT_TRY(launch_some(launch, ops + done, count - done, &taken));
	return MT_OK;
}

enum mt_status mt_cuda_adamw(struct mt_cuda_launch *launch, const struct mt_op *op)
{
	return mt_cuda_adamw_many(launch, op, 1);
}
