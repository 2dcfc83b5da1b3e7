/* activation:
 *   gelu    y(R,F) = x s(2u),  u = sqrt(2/pi) (x + 0.044715 x^3),  s(z) = 1/(1 + exp(-z)), since (1 + tanh u)/2 = s(2u)
 *           dx = dy (s + 2 x s (1 - s) sqrt(2/pi) (1 + 3*0.044715 x^2))
 *   swiglu  y(R,F) = g s(g) up,  x(R,2F) = [g, up]
 *           dg = dy up s (1 + g (1 - s)),  dup = dy g s
 * Moves, in elements: gelu 2*R*F forward, 3*R*F backward; swiglu 3*R*F forward, 5*R*F backward. Bandwidth-bound: about 20
 * instructions an element, a few special ones. dx may alias x: a thread has read an element before it writes it.
 * Hendrycks & Gimpel 2016, arXiv:1606.08415 (tanh form); Shazeer 2020, arXiv:2002.05202. */
#include "kernels/cuda/vector.cuh"

#define GELU_SCALE 0.79788456080286535588f /* sqrt(2/pi) */
#define GELU_CUBE  0.044715f

/* Past 20 both ends are exact in f32, and x^3 cannot overflow. NaN stays. */
__device__ __forceinline__ float bounded(float x)
{
	return fabsf(x) > 20.0f ? copysignf(20.0f, x) : x;
}

__device__ __forceinline__ float gelu(float x)
{
	const float b = bounded(x);
	return x * sigmoid(2.0f * GELU_SCALE * (b + GELU_CUBE * b * b * b));
}

__device__ __forceinline__ float gelu_slope(float x)
{
	const float b = bounded(x), s = sigmoid(2.0f * GELU_SCALE * (b + GELU_CUBE * b * b * b));
	return s + 2.0f * b * s * (1.0f - s) * GELU_SCALE * (1.0f + 3.0f * GELU_CUBE * b * b);
}

template <typename T, int N> __global__ void __launch_bounds__(MT_CUDA_THREADS) gelu_forward(const T *x, T *y, int64_t count)
{
	for (int64_t i = first_item() * N; i < count; i += item_stride() * N) {
		float v[N];
		load_values<T, N>(x + i, count - i, v);
#pragma unroll
		for (int n = 0; n < N; n++)
			v[n] = gelu(v[n]);
		store_values<T, N>(y + i, count - i, v);
	}
}

template <typename T, int N>
__global__ void __launch_bounds__(MT_CUDA_THREADS) gelu_backward(const T *x, const T *dy, T *dx, int64_t count)
{
	for (int64_t i = first_item() * N; i < count; i += item_stride() * N) {
		float v[N], d[N];
		load_values<T, N>(x + i, count - i, v);
		load_values<T, N>(dy + i, count - i, d);
#pragma unroll
		for (int n = 0; n < N; n++)
			v[n] = d[n] * gelu_slope(v[n]);
		store_values<T, N>(dx + i, count - i, v);
	}
}

template <typename T, int N>
__global__ void __launch_bounds__(MT_CUDA_THREADS) swiglu_forward(const T *x, T *y, int64_t rows, int64_t cols)
{
	const int64_t per_row = cols / N, items = rows * per_row;
	for (int64_t i = first_item(); i < items; i += item_stride()) {
		const T *gate = x + (i + row_of(i, per_row) * per_row) * N;
		float g[N], u[N];
		unpack(load<T, N>(gate), g);
		unpack(load<T, N>(gate + cols), u);
#pragma unroll
		for (int n = 0; n < N; n++)
			g[n] = g[n] * sigmoid(g[n]) * u[n];
		store(y + i * N, packed<T, N>(g));
	}
}

template <typename T, int N>
__global__ void __launch_bounds__(MT_CUDA_THREADS) swiglu_backward(const T *x, const T *dy, T *dx, int64_t rows, int64_t cols)
{
	const int64_t per_row = cols / N, items = rows * per_row;
	for (int64_t i = first_item(); i < items; i += item_stride()) {
		const int64_t at = (i + row_of(i, per_row) * per_row) * N;
		float g[N], u[N], d[N];
		unpack(load<T, N>(x + at), g);
		unpack(load<T, N>(x + at + cols), u);
		unpack(load<T, N>(dy + i * N), d);
#pragma unroll
		for (int n = 0; n < N; n++) {
			const float s = sigmoid(g[n]), up = u[n];
			u[n] = d[n] * g[n] * s;
			g[n] = d[n] * up * s * (1.0f + g[n] * (1.0f - s));
		}
		store(dx + at, packed<T, N>(g));
		store(dx + at + cols, packed<T, N>(u));
	}
}

template <typename T, int N> static void launch_forward(const struct mt_cuda_launch *launch, const struct mt_activation *a)
{
	const T *x = static_cast<const T *>(a->x);
	T *y = static_cast<T *>(a->y);
	const int64_t count = a->rows * a->cols;
	const unsigned grid = grid_for(launch, divide_up(count, N));
	if (a->kind == MT_GELU)
		MT_LAUNCH((gelu_forward<T, N>), grid, MT_CUDA_THREADS, 0, launch->stream, x, y, count);
	else
		MT_LAUNCH((swiglu_forward<T, N>), grid, MT_CUDA_THREADS, 0, launch->stream, x, y, a->rows, a->cols);
}

template <typename T, int N> static void launch_backward(const struct mt_cuda_launch *launch, const struct mt_activation *a)
{
	const T *x = static_cast<const T *>(a->x), *dy = static_cast<const T *>(a->dy);
	T *dx = static_cast<T *>(a->dx);
	const int64_t count = a->rows * a->cols;
	const unsigned grid = grid_for(launch, divide_up(count, N));
	if (a->kind == MT_GELU)
		MT_LAUNCH((gelu_backward<T, N>), grid, MT_CUDA_THREADS, 0, launch->stream, x, dy, dx, count);
	else
		MT_LAUNCH((swiglu_backward<T, N>), grid, MT_CUDA_THREADS, 0, launch->stream, x, dy, dx, a->rows, a->cols);
}

/* A row of swiglu must be whole vectors; gelu does not know of rows. */
template <typename T> static bool is_wide(const struct mt_activation *a)
{
	return a->kind == MT_GELU || a->cols % vector_width<T> == 0;
}

template <typename T> static void forward(const struct mt_cuda_launch *launch, const struct mt_activation *a)
{
	if (is_wide<T>(a) && aligned(a->x, a->y))
		launch_forward<T, vector_width<T>>(launch, a);
	else
		launch_forward<T, 1>(launch, a);
}

template <typename T> static void backward(const struct mt_cuda_launch *launch, const struct mt_activation *a)
{
	if (is_wide<T>(a) && aligned(a->x, a->dy, a->dx))
		launch_backward<T, vector_width<T>>(launch, a);
	else
		launch_backward<T, 1>(launch, a);
}

enum mt_status mt_cuda_activation(struct mt_cuda_launch *launch, const struct mt_op *op)
{
	if (!has_type(op->dtype))
		return mt_cuda_no_kernel(op);
	if (op->activation.rows == 0)
		return MT_OK;
	MT_BY_TYPE(op->dtype, forward, launch, &op->activation);
	return mt_cuda_launched(op);
}

enum mt_status mt_cuda_activation_bwd(struct mt_cuda_launch *launch, const struct mt_op *op)
{
	if (!has_type(op->dtype))
		return mt_cuda_no_kernel(op);
	if (op->activation.rows == 0)
		return MT_OK;
	MT_BY_TYPE(op->dtype, backward, launch, &op->activation);
	return mt_cuda_launched(op);
}
