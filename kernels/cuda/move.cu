/* move: what does little or no arithmetic.
 *   add        out(R,C) = a(R,C) + b(R,C) + bias(C)      out may be a or b: a thread has read an element before it writes it
 *   bias_grad  dbias(C) += sum over rows of a(R,C)        partial sums of row slices in scratch, (parts, C), then over them
 *   cast       dst(count) = src(count) in another type    fill  dst(count) = value
 *   copy       dst[r*dst_stride + c] = src[r*src_stride + c] for r < R, c < C
 * Each element is moved once, in 16-byte accesses where pointers and row lengths allow: bandwidth-bound. */
#include "kernels/cuda/reduce.cuh"
#include "kernels/fp8.h"

/* b and bias may be NULL. The last vector may be part of one; with a bias, rows are whole vectors. */
template <typename T, int N>
__global__ void __launch_bounds__(MT_CUDA_THREADS)
	add_all(const T *a, const T *b, const T *bias, T *out, int64_t count, int64_t cols)
{
	const int64_t per_row = cols / N;
	for (int64_t item = first_item(); item * N < count; item += item_stride()) {
		const int64_t i = item * N;
		float x[N], y[N];
		load_values<T, N>(a + i, count - i, x);
		if (b) {
			load_values<T, N>(b + i, count - i, y);
#pragma unroll
			for (int n = 0; n < N; n++)
				x[n] += y[n];
		}
		if (bias) {
			unpack(load<T, N>(bias + (item - row_of(item, per_row) * per_row) * N), y);
#pragma unroll
			for (int n = 0; n < N; n++)
				x[n] += y[n];
		}
		store_values<T, N>(out + i, count - i, x);
	}
}

template <typename T, int N> static void launch_add(const struct mt_cuda_launch *launch, const struct mt_add *a)
{
	const int64_t count = a->rows * a->cols;
	MT_LAUNCH((add_all<T, N>), grid_for(launch, divide_up(count, N)), MT_CUDA_THREADS, 0, launch->stream,
		  static_cast<const T *>(a->a), static_cast<const T *>(a->b), static_cast<const T *>(a->bias),
		  static_cast<T *>(a->out), count, a->cols);
}

template <typename T> static void add(const struct mt_cuda_launch *launch, const struct mt_add *a)
{
	const bool whole = !a->bias || a->cols % vector_width<T> == 0;
	if (whole && aligned(a->a, a->b, a->bias, a->out))
		launch_add<T, vector_width<T>>(launch, a);
	else
		launch_add<T, 1>(launch, a);
}

enum mt_status mt_cuda_add(struct mt_cuda_launch *launch, const struct mt_op *op)
{
	if (!has_type(op->dtype))
		return mt_cuda_no_kernel(op);
	if (op->add.rows == 0)
		return MT_OK;
	MT_BY_TYPE(op->dtype, add, launch, &op->add);
	return mt_cuda_launched(op);
}

/* A block has the N columns of each of 32 lanes and every (8 * gridDim.y)-th row of them for each of 8 warps. */
template <typename T, int N>
__global__ void __launch_bounds__(256) sum_rows(const T *a, float *partials, int64_t rows, int64_t cols)
{
	__shared__ float sums[8][32 * N];
	const int64_t c = ((int64_t)blockIdx.x * 32 + threadIdx.x) * N;
	float sum[N] = {};
	if (c < cols) {
#pragma unroll 4
		for (int64_t row = (int64_t)blockIdx.y * 8 + threadIdx.y; row < rows; row += (int64_t)gridDim.y * 8) {
			const pack<T, N> x = load<T, N>(a + row * cols + c);
#pragma unroll
			for (int n = 0; n < N; n++)
				sum[n] += get(x, n);
		}
	}
#pragma unroll
	for (int n = 0; n < N; n++)
		sums[threadIdx.y][n * 32 + threadIdx.x] = sum[n];
	__syncthreads();
	for (int n = (int)threadIdx.y; n < N; n += 8) {
		float total = 0.0f;
		for (int y = 0; y < 8; y++)
			total += sums[y][n * 32 + threadIdx.x];
		if (c < cols)
			partials[blockIdx.y * cols + c + n] = total;
	}
}

/* Enough slices of the rows for four blocks a multiprocessor, each of at least 32 rows. */
template <typename T, int N> static void launch_bias_grad(const struct mt_cuda_launch *launch, const struct mt_add *a)
{
	float *partials = static_cast<float *>(launch->scratch);
	const int64_t across = divide_up(a->cols, 32 * N), wanted = divide_up(4 * (int64_t)launch->sm_count, across);
	const int64_t parts = min(min(wanted, divide_up(a->rows, 32)), (int64_t)MT_GPU_MOST_PARTS);
	MT_LAUNCH((sum_rows<T, N>), dim3((unsigned)across, (unsigned)parts), dim3(32, 8), 0, launch->stream,
		  static_cast<const T *>(a->a), partials, a->rows, a->cols);
	launch_column_sums(launch, partials, (int)parts, a->cols, a->out, NULL);
}

template <typename T> static void bias_grad(const struct mt_cuda_launch *launch, const struct mt_add *a)
{
	if (a->cols % vector_width<T> == 0 && aligned(a->a))
		launch_bias_grad<T, vector_width<T>>(launch, a);
	else
		launch_bias_grad<T, 1>(launch, a);
}

enum mt_status mt_cuda_bias_grad(struct mt_cuda_launch *launch, const struct mt_op *op)
{
	if (!has_type(op->dtype))
		return mt_cuda_no_kernel(op);
	if (op->add.rows == 0)
		return MT_OK;
	MT_BY_TYPE(op->dtype, bias_grad, launch, &op->add);
	return mt_cuda_launched(op);
}

/* Casts between f32 and bf16 or f16, 8 elements a thread. */
template <typename S, typename D> __global__ void __launch_bounds__(MT_CUDA_THREADS) cast_wide(const S *src, D *dst, int64_t count)
{
	for (int64_t i = first_item() * 8; i < count; i += item_stride() * 8) {
		float x[8];
		load_values<S, 8>(src + i, count - i, x);
		store_values<D, 8>(dst + i, count - i, x);
	}
}

template <typename S, typename D> static void launch_wide(const struct mt_cuda_launch *launch, const struct mt_move *m)
{
	MT_LAUNCH((cast_wide<S, D>), grid_for(launch, divide_up(m->count, 8)), MT_CUDA_THREADS, 0, launch->stream,
		  static_cast<const S *>(m->src), static_cast<D *>(m->dst), m->count);
}

/* Casts of any type, through double: every value of every type is one. */
__device__ __forceinline__ double load_any(enum mt_dtype dtype, const void *base, int64_t i)
{
	switch (dtype) {
	case MT_F32:
		return static_cast<const float *>(base)[i];
	case MT_BF16:
		return __bfloat162float(static_cast<const __nv_bfloat16 *>(base)[i]);
	case MT_F16:
		return __half2float(static_cast<const __half *>(base)[i]);
	case MT_E4M3:
		return mt_e4m3_to_f32(static_cast<const uint8_t *>(base)[i]);
	case MT_E5M2:
		return mt_e5m2_to_f32(static_cast<const uint8_t *>(base)[i]);
	case MT_F64:
		return static_cast<const double *>(base)[i];
	default:
		return static_cast<const int32_t *>(base)[i];
	}
}

/* Integers are rounded to nearest; what does not fit saturates, NaN becomes 0. */
__device__ __forceinline__ void store_any(enum mt_dtype dtype, void *base, int64_t i, double x)
{
	switch (dtype) {
	case MT_F32:
		static_cast<float *>(base)[i] = (float)x;
		break;
	case MT_BF16:
		static_cast<__nv_bfloat16 *>(base)[i] = __float2bfloat16_rn((float)x);
		break;
	case MT_F16:
		static_cast<__half *>(base)[i] = __float2half_rn((float)x);
		break;
	case MT_E4M3:
		static_cast<uint8_t *>(base)[i] = mt_e4m3_from_f32((float)x);
		break;
	case MT_E5M2:
		static_cast<uint8_t *>(base)[i] = mt_e5m2_from_f32((float)x);
		break;
	case MT_F64:
		static_cast<double *>(base)[i] = x;
		break;
	default:
		static_cast<int32_t *>(base)[i] = x == x ? __double2int_rn(x) : 0;
		break;
	}
}

__global__ void __launch_bounds__(MT_CUDA_THREADS)
	cast_any(const void *src, enum mt_dtype src_dtype, void *dst, enum mt_dtype dst_dtype, int64_t count)
{
	for (int64_t i = first_item(); i < count; i += item_stride())
		store_any(dst_dtype, dst, i, load_any(src_dtype, src, i));
}

enum mt_status mt_cuda_cast(struct mt_cuda_launch *launch, const struct mt_op *op)
{
	const struct mt_move *m = &op->move;
	if (m->count == 0)
		return MT_OK;
	const unsigned grid = grid_for(launch, m->count);
	const bool both_aligned = aligned(m->src, m->dst);
	if (both_aligned && m->src_dtype == MT_F32 && m->dst_dtype == MT_BF16)
		launch_wide<float, __nv_bfloat16>(launch, m);
	else if (both_aligned && m->src_dtype == MT_BF16 && m->dst_dtype == MT_F32)
		launch_wide<__nv_bfloat16, float>(launch, m);
	else if (both_aligned && m->src_dtype == MT_F32 && m->dst_dtype == MT_F16)
		launch_wide<float, __half>(launch, m);
	else if (both_aligned && m->src_dtype == MT_F16 && m->dst_dtype == MT_F32)
		launch_wide<__half, float>(launch, m);
	else
		MT_LAUNCH(cast_any, grid, MT_CUDA_THREADS, 0, launch->stream, m->src, m->src_dtype, m->dst, m->dst_dtype, m->count);
	return mt_cuda_launched(op);
}

/* `count` words of type W that are all the same. */
template <typename W> __global__ void __launch_bounds__(MT_CUDA_THREADS) fill_words(W *dst, W value, int64_t count)
{
	for (int64_t i = first_item(); i < count; i += item_stride())
		write(dst + i, value);
}

template <typename W> static void launch_fill(const struct mt_cuda_launch *launch, void *dst, W value, int64_t count)
{
	if (count > 0)
		MT_LAUNCH(fill_words<W>, grid_for(launch, count), MT_CUDA_THREADS, 0, launch->stream, static_cast<W *>(dst), value,
			  count);
}

/* The bytes of an element that holds the value, rounded as the reference device rounds. */
static void element_of(enum mt_dtype dtype, double value, unsigned char bytes[8])
{
	const float single = (float)value;
	const uint16_t half = dtype == MT_F16 ? mt_f16_from_f32(single) : mt_bf16_from_f32(single);
	const int32_t whole = !(value > INT32_MIN) ? (value != value ? 0 : INT32_MIN)
			      : value < INT32_MAX  ? (int32_t)lrint(value)
						   : INT32_MAX;
	switch (dtype) {
	case MT_F32:
		memcpy(bytes, &single, 4);
		break;
	case MT_BF16:
	case MT_F16:
		memcpy(bytes, &half, 2);
		break;
	case MT_E4M3:
		bytes[0] = mt_e4m3_from_f32(single);
		break;
	case MT_E5M2:
		bytes[0] = mt_e5m2_from_f32(single);
		break;
	case MT_F64:
		memcpy(bytes, &value, 8);
		break;
	default:
		memcpy(bytes, &whole, 4);
		break;
	}
}

/* Whole vectors where dst is aligned, and then the elements that are left. */
enum mt_status mt_cuda_fill(struct mt_cuda_launch *launch, const struct mt_op *op)
{
	const struct mt_move *m = &op->move;
	const int64_t size = (int64_t)mt_dtype_bytes(m->dst_dtype), vectors = aligned(m->dst) ? m->count * size / 16 : 0;
	const int64_t done = vectors * 16 / size;
	unsigned char bytes[16];
	element_of(m->dst_dtype, m->value, bytes);
	for (int64_t i = size; i < 16; i++)
		bytes[i] = bytes[i - size];
	uint4 vector;
	uint2 two;
	unsigned one;
	unsigned short half;
	memcpy(&vector, bytes, 16), memcpy(&two, bytes, 8), memcpy(&one, bytes, 4), memcpy(&half, bytes, 2);
	launch_fill(launch, m->dst, vector, vectors);
	char *rest = static_cast<char *>(m->dst) + vectors * 16;
	if (size == 8)
		launch_fill(launch, rest, two, m->count - done);
	else if (size == 4)
		launch_fill(launch, rest, one, m->count - done);
	else if (size == 2)
		launch_fill(launch, rest, half, m->count - done);
	else
		launch_fill(launch, rest, bytes[0], m->count - done);
	return mt_cuda_launched(op);
}

/* Rows of `words` of type W between strides in words. */
template <typename W>
__global__ void __launch_bounds__(MT_CUDA_THREADS)
	copy_rows(const W *src, W *dst, int64_t rows, int64_t words, int64_t src_stride, int64_t dst_stride)
{
	for (int64_t item = first_item(); item < rows * words; item += item_stride()) {
		const int64_t row = row_of(item, words), word = item - row * words;
		write(dst + row * dst_stride + word, read<W>(src + row * src_stride + word));
	}
}

template <typename W> static bool copy(const struct mt_cuda_launch *launch, const struct mt_move *m, int64_t size)
{
	const int64_t width = (int64_t)sizeof(W), rows = m->rows, words = m->cols * size / width;
	const int64_t src_stride = m->src_stride * size / width, dst_stride = m->dst_stride * size / width;
	const uintptr_t all = (uintptr_t)m->src | (uintptr_t)m->dst | (uintptr_t)(m->cols * size) |
			      (rows > 1 ? (uintptr_t)(m->src_stride * size) | (uintptr_t)(m->dst_stride * size) : 0);
	if (all % sizeof(W))
		return false;
	MT_LAUNCH(copy_rows<W>, grid_for(launch, rows * words), MT_CUDA_THREADS, 0, launch->stream, static_cast<const W *>(m->src),
		  static_cast<W *>(m->dst), rows, words, src_stride, dst_stride);
	return true;
}

/* Bytes, not values: a NaN keeps its bits. The widest access that suits every row. */
enum mt_status mt_cuda_copy(struct mt_cuda_launch *launch, const struct mt_op *op)
{
	const struct mt_move *m = &op->move;
	const int64_t size = (int64_t)mt_dtype_bytes(op->dtype);
	if (m->rows == 0)
		return MT_OK;
	if (!copy<uint4>(launch, m, size) && !copy<uint2>(launch, m, size) && !copy<unsigned>(launch, m, size))
		if (!copy<unsigned short>(launch, m, size))
			copy<unsigned char>(launch, m, size);
	return mt_cuda_launched(op);
}
