/* norm: with s(R,C) = x + x_bias + residual, rounded to dtype and kept in `sum`,
 *   layer  mean = mean(s),  rstd = 1/sqrt(mean((s - mean)^2) + eps),  y = n * gain + bias,  n = (s - mean) * rstd
 *   rms    mean = 0,        rstd = 1/sqrt(mean(s^2) + eps),           y = n * gain
 * backward, with e = dy * gain and means over the row:
 *   dx = rstd (e - mean(e) - n mean(e n)) + dresidual  (rms: without mean(e))
 *   dgain += sum over rows of dy n,  dbias += sum over rows of dy
 *
 * A row belongs to blockDim.x threads, a block holds blockDim.y rows, and the row stays in registers from its one reading to its
 * one writing: P vectors a thread. Moves, in elements: forward 2*R*C, 4*R*C with the residual; backward 3*R*C or 4*R*C.
 * Bandwidth-bound. The backward pass walks over rows with the same threads on the same columns, so that a block's dgain and dbias
 * grow in registers; the blocks' sums go to scratch, (2, blocks, C), and a second pass adds them in order.
 * Rows that are too long for registers or no whole vectors take the plain kernels at the end, which read them again.
 * Ba et al. 2016, arXiv:1607.06450, eq. 3; Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4. */
#include "kernels/cuda/norm.cuh"

/* sum may alias x or residual: each thread has read its elements before it writes them. */
template <typename T, int P> __global__ void __launch_bounds__(1024) norm_forward(const struct norm_operands<T> a)
{
	constexpr int N = vector_width<T>;
	__shared__ float partial[32];
	const int64_t row = (int64_t)blockIdx.x * blockDim.y + threadIdx.y, at = x_row(a, row), y_at = y_row(a, row);
	const int end = row < a.rows ? (int)a.cols : 0; /* a row past the last has no columns */
	pack<T, N> s[P], r[P];
	float total = 0.0f, square = 0.0f;
#pragma unroll
	for (int p = 0; p < P; p++) {
		const int c = column_of<N>(p);
		if (c >= end)
			continue;
		s[p] = load<T, N>(a.x + at + c);
		if (a.residual)
			r[p] = load<T, N>(a.residual + at + c);
	}
#pragma unroll
	for (int p = 0; p < P; p++) {
		const int c = column_of<N>(p);
		if (c >= end)
			continue;
		if (a.x_bias || a.residual) {
			float v[N], b[N];
			unpack(s[p], v);
			if (a.x_bias) {
				unpack(load<T, N>(a.x_bias + c), b);
#pragma unroll
				for (int n = 0; n < N; n++)
					v[n] += b[n];
			}
#pragma unroll
			for (int n = 0; n < N; n++)
				v[n] += a.residual ? get(r[p], n) : 0.0f;
			s[p] = packed<T, N>(v);
		}
		if (a.sum)
			store(a.sum + at + c, s[p]);
#pragma unroll
		for (int n = 0; n < N; n++)
			total += get(s[p], n);
	}
	const float mean = a.mean ? group_sum(total, partial) * a.inverse_cols : 0.0f;
#pragma unroll
	for (int p = 0; p < P; p++)
		if (column_of<N>(p) < end) {
#pragma unroll
			for (int n = 0; n < N; n++)
				square += (get(s[p], n) - mean) * (get(s[p], n) - mean);
		}
	const float rstd = rsqrtf(group_sum(square, partial) * a.inverse_cols + a.eps);
#pragma unroll
	for (int p = 0; p < P; p++) {
		const int c = column_of<N>(p);
		if (c >= end)
			continue;
		const pack<T, N> gain = load<T, N>(a.gain + c);
		float y[N];
#pragma unroll
		for (int n = 0; n < N; n++)
			y[n] = (get(s[p], n) - mean) * rstd * get(gain, n);
		if (a.bias) {
			const pack<T, N> bias = load<T, N>(a.bias + c);
#pragma unroll
			for (int n = 0; n < N; n++)
				y[n] += get(bias, n);
		}
		store(a.y + y_at + c, packed<T, N>(y));
	}
	if (end && threadIdx.x == 0) {
		a.rstd[row] = rstd;
		if (a.mean)
			a.mean[row] = mean;
	}
}

/* A block's sums over its rows for one of dgain and dbias: `mine` from registers, over threadIdx.y through shared memory. */
template <typename T, int P>
__device__ __forceinline__ void write_block_sums(const float (&mine)[P][vector_width<T>], float *gathered, float *out, int cols)
{
	constexpr int N = vector_width<T>;
	float *to = blockDim.y == 1 ? out : gathered + threadIdx.y * cols;
#pragma unroll
	for (int p = 0; p < P; p++) {
		const int c = column_of<N>(p);
		if (c >= cols)
			continue;
#pragma unroll
		for (int n = 0; n < N; n += 4)
			write(to + c + n, make_float4(mine[p][n], mine[p][n + 1], mine[p][n + 2], mine[p][n + 3]));
	}
	if (blockDim.y == 1)
		return;
	__syncthreads();
	for (unsigned c = threadIdx.y * blockDim.x + threadIdx.x; c < (unsigned)cols; c += blockDim.x * blockDim.y) {
		float sum = 0.0f;
		for (unsigned y = 0; y < blockDim.y; y++)
			sum += gathered[y * cols + c];
		out[c] = sum;
	}
	__syncthreads();
}

/* LAYER: with mean and dbias. The gain and dresidual wait in registers where there is room for them. */
template <typename T, int P, bool LAYER> __global__ void __launch_bounds__(512) norm_backward(const struct norm_operands<T> a)
{
	constexpr int N = vector_width<T>;
	constexpr bool KEEP = P <= 2;
	constexpr int HELD = KEEP ? P : 1;
	MT_SHARED(float, gathered);
	__shared__ float partial[2][16];
	const int cols = (int)a.cols;
	pack<T, N> gain[HELD];
	float dgain[P][N] = {}, dbias[LAYER ? P : 1][N] = {};
#pragma unroll
	for (int p = 0; KEEP && p < P; p++)
		if (column_of<N>(p) < cols)
			gain[p] = load<T, N>(a.gain + column_of<N>(p));
	for (int64_t first = (int64_t)blockIdx.x * blockDim.y; first < a.rows; first += (int64_t)gridDim.x * blockDim.y) {
		const int64_t row = first + threadIdx.y, at = x_row(a, row), y_at = y_row(a, row), dx_at = dx_row(a, row);
		const int end = row < a.rows ? cols : 0; /* a row past the last has no columns */
		const float rstd = end ? a.rstd[row] : 0.0f, mean = LAYER && end ? a.mean[row] : 0.0f;
		pack<T, N> s[P], dy[P], dres[HELD];
		float sum_e = 0.0f, sum_en = 0.0f;
#pragma unroll
		for (int p = 0; p < P; p++) {
			const int c = column_of<N>(p);
			if (c >= end)
				continue;
			s[p] = load<T, N>(a.sum + at + c);
			dy[p] = load<T, N>(a.dy + y_at + c);
			if (KEEP && a.dresidual)
				dres[p % HELD] = load<T, N>(a.dresidual + at + c);
		}
#pragma unroll
		for (int p = 0; p < P; p++) {
			const int c = column_of<N>(p);
			if (c >= end)
				continue;
			const pack<T, N> g = KEEP ? gain[p % HELD] : load<T, N>(a.gain + c);
#pragma unroll
			for (int n = 0; n < N; n++) {
				const float d = get(dy[p], n), e = d * get(g, n), hat = (get(s[p], n) - mean) * rstd;
				sum_e += e;
				sum_en += e * hat;
				dgain[p][n] += d * hat;
				if (LAYER)
					dbias[p % (LAYER ? P : 1)][n] += d;
			}
		}
		const float mean_e = LAYER ? group_sum(sum_e, partial[0]) * a.inverse_cols : 0.0f;
		const float mean_en = group_sum(sum_en, partial[1]) * a.inverse_cols;
#pragma unroll
		for (int p = 0; p < P; p++) {
			const int c = column_of<N>(p);
			if (c >= end)
				continue;
			const pack<T, N> g = KEEP ? gain[p % HELD] : load<T, N>(a.gain + c);
			float dx[N];
			if (!KEEP && a.dresidual)
				dres[0] = load<T, N>(a.dresidual + at + c);
#pragma unroll
			for (int n = 0; n < N; n++) {
				const float e = get(dy[p], n) * get(g, n), hat = (get(s[p], n) - mean) * rstd;
				dx[n] = rstd * (e - mean_e - hat * mean_en) + (a.dresidual ? get(dres[p % HELD], n) : 0.0f);
			}
			store(a.dx + dx_at + c, packed<T, N>(dx));
		}
	}
	float *out = a.partials + (int64_t)blockIdx.x * a.cols;
	write_block_sums<T, P>(dgain, gathered, out, cols);
	if constexpr (LAYER)
		write_block_sums<T, P>(dbias, gathered, out + (int64_t)gridDim.x * a.cols, cols);
}

/* Threads of a row when each takes `packs_each` of its vectors: a power of two of at least a warp. */
static unsigned row_threads(int64_t packs, int packs_each)
{
	unsigned threads = 32;
	while ((int64_t)threads * packs_each < packs)
		threads *= 2;
	return threads;
}

/* Lines of heads are cut at whole vectors. */
template <typename T> static bool strides_aligned(const struct mt_norm *n)
{
	return n->heads == 0 || (n->x_stride % vector_width<T> == 0 && n->y_stride % vector_width<T> == 0 &&
				  n->dx_stride % vector_width<T> == 0);
}

template <typename T> static void forward(const struct mt_cuda_launch *launch, const struct mt_norm *n)
{
	enum { PACKS = 4 };
	const struct norm_operands<T> a = norm_operands_of<T>(launch, n);
	const int64_t packs = n->cols / vector_width<T>;
	if (packs > PACKS * 1024 || n->cols % vector_width<T> || !strides_aligned<T>(n) ||
	    !aligned(n->x, n->x_bias, n->residual, n->sum, n->y, n->gain, n->bias)) {
		launch_plain_norm(launch, a);
		return;
	}
	const dim3 block(row_threads(packs, PACKS), max(1u, 256 / row_threads(packs, PACKS)));
	MT_LAUNCH((norm_forward<T, PACKS>), (unsigned)divide_up(n->rows, block.y), block, 0, launch->stream, a);
}

template <typename T, int P> static void launch_backward(const struct mt_cuda_launch *launch, const struct norm_operands<T> &a)
{
	const unsigned x = row_threads(a.cols / vector_width<T>, P), y = max(1u, 256 / x);
	const unsigned blocks = norm_blocks(launch, divide_up(a.rows, y));
	const size_t shared_bytes = y == 1 ? 0 : y * (size_t)a.cols * sizeof(float);
	if (a.mean)
		MT_LAUNCH((norm_backward<T, P, true>), blocks, dim3(x, y), shared_bytes, launch->stream, a);
	else
		MT_LAUNCH((norm_backward<T, P, false>), blocks, dim3(x, y), shared_bytes, launch->stream, a);
	launch_column_sums(launch, a.partials, (int)blocks, a.cols, a.dgain, a.dbias);
}

template <typename T> static void backward(const struct mt_cuda_launch *launch, const struct mt_norm *n)
{
	const struct norm_operands<T> a = norm_operands_of<T>(launch, n);
	const int64_t packs = n->cols / vector_width<T>;
	if (packs > 4 * 512 || n->cols % vector_width<T> || !strides_aligned<T>(n) || !aligned(n->sum, n->dy, n->dresidual, n->dx, n->gain))
		launch_plain_norm_backward(launch, a);
	else if (packs <= 2 * 512)
		launch_backward<T, 2>(launch, a);
	else
		launch_backward<T, 4>(launch, a);
}

enum mt_status mt_cuda_norm(struct mt_cuda_launch *launch, const struct mt_op *op)
{
	if (!has_type(op->dtype))
		return mt_cuda_no_kernel(op);
	if (op->norm.rows == 0)
		return MT_OK;
	MT_BY_TYPE(op->dtype, forward, launch, &op->norm);
	return mt_cuda_launched(op);
}

enum mt_status mt_cuda_norm_bwd(struct mt_cuda_launch *launch, const struct mt_op *op)
{
	if (!has_type(op->dtype))
		return mt_cuda_no_kernel(op);
	if (op->norm.rows == 0)
		return MT_OK;
	MT_BY_TYPE(op->dtype, backward, launch, &op->norm);
	return mt_cuda_launched(op);
}
