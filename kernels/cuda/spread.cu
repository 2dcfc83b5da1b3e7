/* spread: keys and values of latent attention from its products, and back (kernels/op.h): for row r and head h
 *   k[r,h,:] = kv[r,h,:nope], rope[r,:]     v[r,h,:] = kv[r,h,nope:]
 * and backward the same moves of gradients, with rope[r,:] = sum over h of k[r,h,nope:], in the order of heads.
 * Moves R*H*(2 nope + 2 value + rotary) elements: bandwidth-bound, a thread a vector of them; the sum is a thread a column. */
#include "kernels/cuda/vector.cuh"

struct spread_shape {
	int64_t rows;
	int heads, nope, rotary, value; /* sizes in vectors, but in the sum */
};

/* Item i is vector i % (nope + rotary + value) of the head i / that: of the key first, then of the value. */
template <typename T, int N, bool BACKWARD>
__global__ void __launch_bounds__(MT_CUDA_THREADS) move_heads(const spread_shape s, T *kv, T *rope, T *k, T *v, int64_t items)
{
	const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
	const int width = s.nope + s.rotary + s.value;
	if (i >= items)
		return;
	const int64_t head = i / width;
	const int c = (int)(i % width), key = s.nope + s.rotary;
	T *whole = kv + head * (s.nope + s.value) * N;
	T *mine = c < key ? k + (head * key + c) * N : v + (head * s.value + c - key) * N;
	if (c >= s.nope && c < key) {
		if (!BACKWARD)
			store(mine, load<T, N>(rope + (head / s.heads * s.rotary + c - s.nope) * N));
		return;
	}
	T *theirs = whole + (c < key ? c : c - s.rotary) * N;
	if (BACKWARD)
		store(theirs, load<T, N>(mine));
	else
		store(mine, load<T, N>(theirs));
}

template <typename T>
__global__ void __launch_bounds__(MT_CUDA_THREADS) sum_heads(const spread_shape s, const T *k, T *rope)
{
	const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
	if (i >= s.rows * s.rotary)
		return;
	const int64_t row = i / s.rotary, size = s.nope + s.rotary;
	const T *from = k + row * s.heads * size + s.nope + i % s.rotary;
	float sum = 0.0f;
	for (int h = 0; h < s.heads; h++)
		sum += to_f32(from[h * size]);
	rope[i] = from_f32<T>(sum);
}

template <typename T, int N> static void launch_moves(const struct mt_cuda_launch *launch, const struct mt_op *op)
{
	const struct mt_spread *p = &op->spread;
	const spread_shape s = {p->rows, (int)p->heads, (int)(p->nope / N), (int)(p->rotary / N), (int)(p->value / N)};
	const int64_t items = p->rows * p->heads * (s.nope + s.rotary + s.value);
	T *kv = static_cast<T *>(p->kv), *rope = static_cast<T *>(p->rope), *k = static_cast<T *>(p->k), *v = static_cast<T *>(p->v);
	if (op->kind == MT_OP_SPREAD)
		MT_LAUNCH((move_heads<T, N, false>), (unsigned)divide_up(items, MT_CUDA_THREADS), MT_CUDA_THREADS, 0, launch->stream,
			  s, kv, rope, k, v, items);
	else
		MT_LAUNCH((move_heads<T, N, true>), (unsigned)divide_up(items, MT_CUDA_THREADS), MT_CUDA_THREADS, 0, launch->stream,
			  s, kv, rope, k, v, items);
}

template <typename T> static void spread(const struct mt_cuda_launch *launch, const struct mt_op *op)
{
	constexpr int N = vector_width<T>;
	const struct mt_spread *p = &op->spread;
	if (p->nope % N == 0 && p->rotary % N == 0 && p->value % N == 0 && aligned(p->kv, p->rope, p->k, p->v))
		launch_moves<T, N>(launch, op);
	else
		launch_moves<T, 1>(launch, op);
	if (op->kind == MT_OP_SPREAD_BWD) {
		const spread_shape s = {p->rows, (int)p->heads, (int)p->nope, (int)p->rotary, (int)p->value};
		MT_LAUNCH((sum_heads<T>), (unsigned)divide_up(p->rows * p->rotary, MT_CUDA_THREADS), MT_CUDA_THREADS, 0,
			  launch->stream, s, static_cast<const T *>(p->k), static_cast<T *>(p->rope));
	}
}

enum mt_status mt_cuda_spread(struct mt_cuda_launch *launch, const struct mt_op *op)
{
	if (!has_type(op->dtype))
		return mt_cuda_no_kernel(op);
	if (op->spread.rows == 0)
		return MT_OK;
	MT_BY_TYPE(op->dtype, spread, launch, op);
	return mt_cuda_launched(op);
}
