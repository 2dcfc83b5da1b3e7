/* loss: cross entropy over words split in parts; part p holds columns [first_p, first_p + Vl) of the vocabulary.
 *   stats[r] = {m_p, z_p, l_p}:  m_p = max of the part's logits, z_p = sum exp(logit - m_p), l_p = target's logit or 0
 *   m = max m_p,  z = sum z_p exp(m_p - m),  loss[r] = m + log z - sum l_p
 *   dlogits[r,c] = (exp(logit - m) / z - [word c is the target]) * grad_scale
 * A block a row. Statistics are made in one reading: each thread carries a maximum and a sum relative to it, which is scaled when
 * the maximum grows (Milakov & Gimelshein 2018, arXiv:1805.02867). The gradient overwrites the logits where they are, in dtype:
 * no f32 copy of (R,Vl) exists. Moves R*Vl elements for the statistics, 2*R*Vl for the gradient: bandwidth-bound.
 * Columns past the vocabulary are padding: in no sum, and their gradient is 0. Shoeybi et al. 2019, arXiv:1909.08053, section 3. */
#include "kernels/cuda/reduce.cuh"

#define THREADS 512

/* A maximum, and the sum of exp(x - most) of what was seen. A finite base keeps -inf - -inf out of the exponent. */
struct running {
	float most, sum;
};

__device__ __forceinline__ float base_of(float most)
{
	return most == -INFINITY ? 0.0f : most;
}

template <int N> __device__ __forceinline__ void observe(struct running &seen, const float (&x)[N])
{
	float most = seen.most, sum = 0.0f;
#pragma unroll
	for (int n = 0; n < N; n++)
		most = fmaxf(most, x[n]);
	const float base = base_of(most);
#pragma unroll
	for (int n = 0; n < N; n++)
		sum += fast_exp(x[n] - base);
	seen.sum = seen.sum * fast_exp(seen.most - base) + sum;
	seen.most = most;
}

/* `real` columns are words; the rest of a vector that holds the last of them is -inf. */
template <typename T, int N>
__global__ void __launch_bounds__(THREADS)
	loss_statistics(const T *logits, const int32_t *targets, float *stats, int64_t cols, int64_t real, int64_t first)
{
	__shared__ float partial[THREADS / 32];
	const int64_t row = blockIdx.x;
	const T *x = logits + row * cols;
	struct running seen = {-INFINITY, 0.0f};
#pragma unroll 2
	for (int64_t c = (int64_t)threadIdx.x * N; c < real; c += THREADS * N) {
		const pack<T, N> raw = load<T, N>(x + c);
		float v[N];
#pragma unroll
		for (int n = 0; n < N; n++)
			v[n] = c + n < real ? get(raw, n) : -INFINITY;
		observe(seen, v);
	}
	const float most = group_max(seen.most, partial), base = base_of(most);
	const float sum = group_sum(seen.sum * fast_exp(base_of(seen.most) - base), partial);
	if (threadIdx.x == 0) {
		const int64_t target = targets[row] - first;
		stats[3 * row] = most;
		stats[3 * row + 1] = sum;
		stats[3 * row + 2] = target >= 0 && target < real ? to_f32(x[target]) : 0.0f;
	}
}

struct row_loss {
	float most, sum, chosen;
};

/* Over all parts. One of padding only has m_p = -inf and z_p = 0: it adds 0. */
__device__ __forceinline__ struct row_loss combine(const float *all_stats, int64_t parts, int64_t rows, int64_t row)
{
	struct row_loss l = {-INFINITY, 0.0f, 0.0f};
	for (int64_t p = 0; p < parts; p++)
		l.most = fmaxf(l.most, all_stats[3 * (p * rows + row)]);
	for (int64_t p = 0; p < parts; p++) {
		const float *s = all_stats + 3 * (p * rows + row);
		l.sum += s[1] * expf(s[0] - l.most);
		l.chosen += s[2];
	}
	return l;
}

__global__ void __launch_bounds__(MT_CUDA_THREADS)
	loss_only(const float *all_stats, const int32_t *targets, float *loss, int64_t rows, int64_t parts)
{
	for (int64_t row = first_item(); row < rows; row += item_stride()) {
		const struct row_loss l = combine(all_stats, parts, rows, row);
		loss[row] = targets[row] < 0 ? 0.0f : l.most + logf(l.sum) - l.chosen;
	}
}

template <typename T, int N>
__global__ void __launch_bounds__(THREADS) loss_gradient(T *logits, const float *all_stats, const int32_t *targets, float *loss,
							 int64_t parts, int64_t cols, int64_t real, int64_t first, float grad_scale)
{
	const int64_t row = blockIdx.x;
	const struct row_loss l = combine(all_stats, parts, gridDim.x, row);
	const int32_t word = targets[row];
	const int64_t target = word < 0 ? -1 : word - first, counted = word < 0 ? 0 : real;
	const float scale = grad_scale / l.sum;
	T *x = logits + row * cols;
	if (threadIdx.x == 0)
		loss[row] = word < 0 ? 0.0f : l.most + logf(l.sum) - l.chosen;
#pragma unroll 2
	for (int64_t c = (int64_t)threadIdx.x * N; c < cols; c += THREADS * N) {
		float v[N] = {};
		if (c < counted)
			unpack(load<T, N>(x + c), v);
#pragma unroll
		for (int n = 0; n < N; n++) {
			const float gradient = fast_exp(v[n] - l.most) * scale - (c + n == target ? grad_scale : 0.0f);
			v[n] = c + n < counted ? gradient : 0.0f;
		}
		store(x + c, packed<T, N>(v));
	}
}

/* Columns of this part that are words. */
static int64_t real_columns(const struct mt_loss *l)
{
	const int64_t words = l->vocab - l->first;
	return words < 0 ? 0 : words < l->cols ? words : l->cols;
}

template <typename T, int N> static void launch_statistics(const struct mt_cuda_launch *launch, const struct mt_loss *l)
{
	MT_LAUNCH((loss_statistics<T, N>), (unsigned)l->rows, THREADS, 0, launch->stream, static_cast<const T *>(l->logits),
		  static_cast<const int32_t *>(l->targets), static_cast<float *>(l->stats), l->cols, real_columns(l), l->first);
}

template <typename T, int N> static void launch_gradient(const struct mt_cuda_launch *launch, const struct mt_loss *l)
{
	MT_LAUNCH((loss_gradient<T, N>), (unsigned)l->rows, THREADS, 0, launch->stream, static_cast<T *>(l->logits),
		  static_cast<const float *>(l->all_stats), static_cast<const int32_t *>(l->targets), static_cast<float *>(l->loss),
		  l->parts, l->cols, real_columns(l), l->first, (float)l->grad_scale);
}

static void launch_loss_only(const struct mt_cuda_launch *launch, const struct mt_loss *l)
{
	MT_LAUNCH(loss_only, grid_for(launch, l->rows), MT_CUDA_THREADS, 0, launch->stream,
		  static_cast<const float *>(l->all_stats), static_cast<const int32_t *>(l->targets), static_cast<float *>(l->loss),
		  l->rows, l->parts);
}

template <typename T> static void loss(const struct mt_cuda_launch *launch, const struct mt_op *op)
{
	const struct mt_loss *l = &op->loss;
	const bool wide = l->cols % vector_width<T> == 0 && aligned(l->logits);
	if (op->kind == MT_OP_LOSS_STATS && wide)
		launch_statistics<T, vector_width<T>>(launch, l);
	else if (op->kind == MT_OP_LOSS_STATS)
		launch_statistics<T, 1>(launch, l);
	else if (l->grad_scale == 0)
		launch_loss_only(launch, l);
	else if (wide)
		launch_gradient<T, vector_width<T>>(launch, l);
	else
		launch_gradient<T, 1>(launch, l);
}

static enum mt_status run(const struct mt_cuda_launch *launch, const struct mt_op *op)
{
	if (!has_type(op->dtype))
		return mt_cuda_no_kernel(op);
	if (op->loss.rows == 0)
		return MT_OK;
	MT_BY_TYPE(op->dtype, loss, launch, op);
	return mt_cuda_launched(op);
}

enum mt_status mt_cuda_loss_stats(struct mt_cuda_launch *launch, const struct mt_op *op)
{
	return run(launch, op);
}

enum mt_status mt_cuda_loss(struct mt_cuda_launch *launch, const struct mt_op *op)
{
	return run(launch, op);
}
