/* norm: operands of the norm kernels, and the plain ones for rows of any length and alignment: a block a row, element by element,
 * the row read again for each of the sums over it. */
#ifndef MT_KERNELS_CUDA_NORM_CUH
#define MT_KERNELS_CUDA_NORM_CUH

#include "kernels/cuda/reduce.cuh"

/* Pointers are NULL as in op.h; mean and dbias are NULL for rms. */
template <typename T> struct norm_operands {
	int64_t rows, cols;
	float inverse_cols, eps;
	const T *x, *x_bias, *residual, *gain, *bias, *dy, *dresidual;
	T *sum, *y, *dx;
	float *mean, *rstd, *dgain, *dbias;
	float *partials; /* (2, blocks, C) */
	int64_t heads, x_stride, y_stride, dx_stride;
};

/* Where a row begins: kernels/op.h. */
template <typename T> __device__ __forceinline__ int64_t x_row(const struct norm_operands<T> &a, int64_t row)
{
	return a.heads ? row / a.heads * a.x_stride + row % a.heads * a.cols : row * a.cols;
}

template <typename T> __device__ __forceinline__ int64_t dx_row(const struct norm_operands<T> &a, int64_t row)
{
	return a.heads ? row / a.heads * a.dx_stride + row % a.heads * a.cols : row * a.cols;
}

template <typename T> __device__ __forceinline__ int64_t y_row(const struct norm_operands<T> &a, int64_t row)
{
	return a.heads ? row / a.heads * a.y_stride + row % a.heads * a.cols : row * a.cols;
}

template <typename T>
static struct norm_operands<T> norm_operands_of(const struct mt_cuda_launch *launch, const struct mt_norm *n) {
	const bool layer = n->kind == MT_NORM_LAYER;
	struct norm_operands<T> a = {
	};
	a.rows = n->rows, a.cols = n->cols;
	a.inverse_cols = (float)(1.0 / (double)n->cols), a.eps = (float)n->eps;
	a.x = static_cast<const T *>(n->x), a.x_bias = static_cast<const T *>(n->x_bias);
	a.residual = static_cast<const T *>(n->residual);
	a.gain = static_cast<const T *>(n->gain), a.bias = layer ? static_cast<const T *>(n->bias) : NULL;
	a.dy = static_cast<const T *>(n->dy), a.dresidual = static_cast<const T *>(n->dresidual);
	a.sum = static_cast<T *>(n->sum), a.y = static_cast<T *>(n->y), a.dx = static_cast<T *>(n->dx);
	a.mean = layer ? static_cast<float *>(n->mean) : NULL, a.rstd = static_cast<float *>(n->rstd);
	a.dgain = static_cast<float *>(n->dgain), a.dbias = layer ? static_cast<float *>(n->dbias) : NULL;
	a.partials = static_cast<float *>(launch->scratch);
	a.heads = n->heads, a.x_stride = n->x_stride, a.y_stride = n->y_stride;
	a.dx_stride = n->dx_stride ? n->dx_stride : n->x_stride;
	return a;
}

/* Blocks that share the rows of the backward pass: two a multiprocessor, and no more than scratch has room for. */
static inline unsigned
norm_blocks(const struct mt_cuda_launch *launch, int64_t needed)
{
	int64_t most = 2 * (int64_t)launch->sm_count;
	most = most < MT_GPU_MOST_PARTS ? most : MT_GPU_MOST_PARTS;
	return (unsigned)(needed < most ? needed : most);
}

/* First column of the thread's vector number p of its row. */
template <int N> __device__ __forceinline__ int column_of(int p)
{
	return (int)((p * blockDim.x + threadIdx.x) * N);
}

template <typename T> __device__ __forceinline__ float summed(const struct norm_operands<T> &a, int64_t row, int64_t c)
{
	float s = to_f32(a.x[x_row(a, row) + c]);
	if (a.x_bias)
		s += to_f32(a.x_bias[c]);
	if (a.residual)
		s += to_f32(a.residual[row * a.cols + c]);
	return to_f32(from_f32<T>(s));
}

/* After the first sweep `sum`, which may alias what it was made of, has the row. */
template <typename T> __device__ __forceinline__ float sum_at(const struct norm_operands<T> &a, int64_t row, int64_t c)
{
	return a.sum ? to_f32(a.sum[x_row(a, row) + c]) : summed(a, row, c);
}

template <typename T> __global__ void __launch_bounds__(512) plain_norm_forward(const struct norm_operands<T> a)
{
	__shared__ float partial[16];
	const int64_t row = blockIdx.x;
	float total = 0.0f, square = 0.0f;
	for (int64_t c = threadIdx.x; c < a.cols; c += blockDim.x) {
		const float s = summed(a, row, c);
		if (a.sum)
			a.sum[x_row(a, row) + c] = from_f32<T>(s);
		total += s;
	}
	const float mean = a.mean ? group_sum(total, partial) * a.inverse_cols : 0.0f;
	for (int64_t c = threadIdx.x; c < a.cols; c += blockDim.x) {
		const float centered = sum_at(a, row, c) - mean;
		square += centered * centered;
	}
	const float rstd = rsqrtf(group_sum(square, partial) * a.inverse_cols + a.eps);
	for (int64_t c = threadIdx.x; c < a.cols; c += blockDim.x) {
		const float y = (sum_at(a, row, c) - mean) * rstd * to_f32(a.gain[c]);
		a.y[y_row(a, row) + c] = from_f32<T>(y + (a.bias ? to_f32(a.bias[c]) : 0.0f));
	}
	if (threadIdx.x == 0) {
		a.rstd[row] = rstd;
		if (a.mean)
			a.mean[row] = mean;
	}
}

template <typename T> __global__ void __launch_bounds__(512) plain_norm_backward(const struct norm_operands<T> a)
{
	__shared__ float partial[2][16];
	const int64_t row = blockIdx.x;
	const float rstd = a.rstd[row], mean = a.mean ? a.mean[row] : 0.0f;
	float sum_e = 0.0f, sum_en = 0.0f;
	for (int64_t c = threadIdx.x; c < a.cols; c += blockDim.x) {
		const float e = to_f32(a.dy[y_row(a, row) + c]) * to_f32(a.gain[c]);
		sum_e += e;
		sum_en += e * (to_f32(a.sum[x_row(a, row) + c]) - mean) * rstd;
	}
	const float mean_e = a.mean ? group_sum(sum_e, partial[0]) * a.inverse_cols : 0.0f;
	const float mean_en = group_sum(sum_en, partial[1]) * a.inverse_cols;
	for (int64_t c = threadIdx.x; c < a.cols; c += blockDim.x) {
		const int64_t i = x_row(a, row) + c;
		const float e = to_f32(a.dy[y_row(a, row) + c]) * to_f32(a.gain[c]), hat = (to_f32(a.sum[i]) - mean) * rstd;
		const float dres = a.dresidual ? to_f32(a.dresidual[row * a.cols + c]) : 0.0f;
		a.dx[dx_row(a, row) + c] = from_f32<T>(rstd * (e - mean_e - hat * mean_en) + dres);
	}
}

/* Partial sums of dgain and dbias: block (c, b) has 256 columns of every gridDim.y-th row. */
template <typename T> __global__ void __launch_bounds__(256) plain_norm_columns(const struct norm_operands<T> a)
{
	const int64_t c = first_item();
	if (c >= a.cols)
		return;
	float dgain = 0.0f, dbias = 0.0f;
	for (int64_t row = blockIdx.y; row < a.rows; row += gridDim.y) {
		const float d = to_f32(a.dy[y_row(a, row) + c]), s = to_f32(a.sum[x_row(a, row) + c]);
		dgain += d * (s - (a.mean ? a.mean[row] : 0.0f)) * a.rstd[row];
		dbias += d;
	}
	a.partials[blockIdx.y * a.cols + c] = dgain;
	if (a.dbias)
		a.partials[((int64_t)gridDim.y + blockIdx.y) * a.cols + c] = dbias;
}

template <typename T> static void launch_plain_norm(const struct mt_cuda_launch *launch, const struct norm_operands<T> &a)
{
	MT_LAUNCH(plain_norm_forward<T>, (unsigned)a.rows, a.cols < 512 ? 128 : 512, 0, launch->stream, a);
}

/* The columns first: dx may overwrite dresidual only, but nothing is lost by the order. */
template <typename T> static void launch_plain_norm_backward(const struct mt_cuda_launch *launch, const struct norm_operands<T> &a)
{
	const unsigned parts = norm_blocks(launch, divide_up(a.rows, 8));
	MT_LAUNCH(plain_norm_columns<T>, dim3((unsigned)divide_up(a.cols, 256), parts), 256, 0, launch->stream, a);
	MT_LAUNCH(plain_norm_backward<T>, (unsigned)a.rows, a.cols < 512 ? 128 : 512, 0, launch->stream, a);
	launch_column_sums(launch, a.partials, (int)parts, a.cols, a.dgain, a.dbias);
}

#endif
