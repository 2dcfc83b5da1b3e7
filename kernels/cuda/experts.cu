/* experts: rows that go to their experts and come back, and the weighted activation.
 *   dispatch     a stable sort of the choices by expert: counts, then each expert's block puts its own in order
 *   gather_rows  out[i,:] = in[index[i] / divide, :]             moves 2*R*C elements
 *   sum_rows     out[i,:] = sum over choices and slices          moves (K*slices + 1)*R*C elements
 *   expert_act   y = activation(x) * w[row]; backward dx, and dw[row] = sum of dy * activation(x), one block a row
 * All but dispatch are bandwidth-bound; its work is E*R*K integers, of which R*K are far fewer than the elements of the rows. */
#include "kernels/cuda/reduce.cuh"

#define GELU_SCALE    0.79788456080286535588f /* sqrt(2/pi) */
#define GELU_CUBE     0.044715f
#define PLACE_THREADS 256

/* ---- dispatch ---- */

/* counts[expert] = choices of it. One block an expert. */
static __global__ void __launch_bounds__(PLACE_THREADS) count_choices(const int32_t *index, int64_t choices, int32_t *counts)
{
	__shared__ int partial[PLACE_THREADS / 32];
	int found = 0;
	for (int64_t i = threadIdx.x; i < choices; i += PLACE_THREADS)
		found += index[i] == (int32_t)blockIdx.x;
	found = group_sum(found, partial);
	if (threadIdx.x == 0)
		counts[blockIdx.x] = found;
}

/* The number of set flags of threads before this one; *all gets that of the block. */
__device__ __forceinline__ int flags_before(bool flag, int *warps, int *all)
{
	const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
	const unsigned mine = __ballot_sync(0xffffffffu, flag);
	int before = __popc(mine & ((1u << lane) - 1)), sum = 0;
	__syncthreads(); /* who still reads the last counts is done */
	if (lane == 0)
		warps[warp] = __popc(mine);
	__syncthreads();
	for (unsigned w = 0; w < PLACE_THREADS / 32; w++) {
		before += w < warp ? warps[w] : 0;
		sum += warps[w];
	}
	*all = sum;
	return before;
}

/* Block e puts the choices of expert e behind those of the experts before it, in their order; those of padding are set before. */
static __global__ void __launch_bounds__(PLACE_THREADS) place_choices(const int32_t *index, int64_t choices, const int32_t *counts,
								      int64_t padding, int32_t *place, int32_t *source)
{
	__shared__ int warps[PLACE_THREADS / 32];
	const int expert = (int)blockIdx.x;
	int next = 0, all;
	if (padding)
		next = (int)(expert * padding);
	else
		for (int e = 0; e < expert; e++)
			next += counts[e];
	for (int64_t base = 0; base < choices; base += PLACE_THREADS) {
		const int64_t i = base + threadIdx.x;
		const bool mine = i < choices && index[i] == expert;
		const int at = next + flags_before(mine, warps, &all);
		if (mine) {
			place[i] = at;
			source[at] = (int32_t)i;
		}
		if (expert == 0 && i < choices && index[i] < 0)
			place[i] = -1;
		next += all;
	}
}

static __global__ void __launch_bounds__(MT_CUDA_THREADS) fill_words(int32_t *words, int64_t count, int32_t value)
{
	for (int64_t i = first_item(); i < count; i += item_stride())
		words[i] = value;
}

enum mt_status mt_cuda_dispatch(struct mt_cuda_launch *launch, const struct mt_op *op)
{
	const struct mt_rows *r = &op->rows;
	const int32_t *index = static_cast<const int32_t *>(r->index);
	int32_t *counts = static_cast<int32_t *>(r->counts), *source = static_cast<int32_t *>(r->source);
	const int64_t choices = r->rows * r->choices, places = r->padding ? r->experts * r->padding : choices;
	if (op->dtype != MT_F32)
		return mt_cuda_no_kernel(op);
	if (r->rows == 0 && !r->counts)
		return MT_OK;
	if (places > 0)
		MT_LAUNCH(fill_words, grid_for(launch, places), MT_CUDA_THREADS, 0, launch->stream, source, places, -1);
	if (!r->padding)
		MT_LAUNCH(count_choices, (unsigned)r->experts, PLACE_THREADS, 0, launch->stream, index, choices, counts);
	MT_LAUNCH(place_choices, (unsigned)r->experts, PLACE_THREADS, 0, launch->stream, index, choices, counts, r->padding,
		  static_cast<int32_t *>(r->place), source);
	if (r->padding)
		MT_LAUNCH(fill_words, grid_for(launch, r->experts), MT_CUDA_THREADS, 0, launch->stream, counts, r->experts,
			  (int32_t)r->padding);
	return mt_cuda_launched(op);
}

/* ---- drop ---- */

/* A thread a choice that may be kept: it counts the choices of its sequence that go before it at its expert. */
static __global__ void __launch_bounds__(MT_CUDA_THREADS)
	drop_choices(const int32_t *index, const float *weights, int32_t *kept, struct mt_rows r)
{
	const int64_t count = r.count * r.choices, block = r.seq * r.choices;
	for (int64_t k = first_item(); k < count; k += item_stride()) {
		const int64_t i = r.first_row * r.choices + k, first = i / block * block,
			      last = min(first + block, r.rows * r.choices);
		const int32_t expert = index[i];
		int64_t before = 0;
		for (int64_t o = first; o < (r.by_weight ? last : i) && expert >= 0; o++) {
			bool goes = index[o] == expert && o != i;
			if (r.by_weight && goes)
				goes = weights[o] > weights[i] || (weights[o] == weights[i] && o < i);
			before += goes;
		}
		kept[k] = expert >= 0 && before < r.capacity ? expert : -1;
	}
}

enum mt_status mt_cuda_drop(struct mt_cuda_launch *launch, const struct mt_op *op)
{
	const struct mt_rows *r = &op->rows;
	if (op->dtype != MT_F32)
		return mt_cuda_no_kernel(op);
	if (r->count == 0)
		return MT_OK;
	MT_LAUNCH(drop_choices, grid_for(launch, r->count * r->choices), MT_CUDA_THREADS, 0, launch->stream,
		  static_cast<const int32_t *>(r->index), static_cast<const float *>(r->weights), static_cast<int32_t *>(r->kept),
		  *r);
	return mt_cuda_launched(op);
}

/* ---- rows ---- */

template <typename T, int N>
__global__ void __launch_bounds__(MT_CUDA_THREADS)
	gather_rows(const T *in, const int32_t *index, T *out, int64_t rows, int64_t cols, int64_t divide)
{
	const int64_t per_row = cols / N, items = rows * per_row;
	for (int64_t item = first_item(); item < items; item += item_stride()) {
		const int64_t row = row_of(item, per_row), c = (item - row * per_row) * N;
		const int64_t from = index[row];
		pack<T, N> x = {};
		if (from >= 0)
			x = load<T, N>(in + row_of(from, divide) * cols + c);
		store(out + row * cols + c, x);
	}
}

template <typename T, int N>
__global__ void __launch_bounds__(MT_CUDA_THREADS) sum_choices(const T *in, const int32_t *index, T *out, struct mt_rows r)
{
	const int64_t per_row = r.cols / N, items = r.rows * per_row;
	for (int64_t item = first_item(); item < items; item += item_stride()) {
		const int64_t row = row_of(item, per_row), c = (item - row * per_row) * N;
		float sum[N] = {};
		for (int64_t k = 0; k < r.choices; k++) {
			const int64_t from = index[row * r.choices + k];
			for (int64_t s = 0; s < r.slices && from >= 0; s++) {
				const pack<T, N> x = load<T, N>(in + (from + s * r.slice_rows) * r.cols + c);
#pragma unroll
				for (int n = 0; n < N; n++)
					sum[n] += get(x, n);
			}
		}
		store(out + row * r.cols + c, packed<T, N>(sum));
	}
}

template <typename T, int N> static void launch_rows(const struct mt_cuda_launch *launch, const struct mt_op *op)
{
	const struct mt_rows *r = &op->rows;
	const unsigned grid = grid_for(launch, r->rows * (r->cols / N));
	const T *in = static_cast<const T *>(r->in);
	T *out = static_cast<T *>(r->out);
	const int32_t *index = static_cast<const int32_t *>(r->index);
	if (op->kind == MT_OP_GATHER_ROWS)
		MT_LAUNCH((gather_rows<T, N>), grid, MT_CUDA_THREADS, 0, launch->stream, in, index, out, r->rows, r->cols,
			  r->divide);
	else
		MT_LAUNCH((sum_choices<T, N>), grid, MT_CUDA_THREADS, 0, launch->stream, in, index, out, *r);
}

template <typename T> static void rows_of_type(const struct mt_cuda_launch *launch, const struct mt_op *op)
{
	if (op->rows.cols % vector_width<T> == 0 && aligned(op->rows.in, op->rows.out))
		launch_rows<T, vector_width<T>>(launch, op);
	else
		launch_rows<T, 1>(launch, op);
}

static enum mt_status run_rows(struct mt_cuda_launch *launch, const struct mt_op *op)
{
	if (op->dtype != MT_F32 && op->dtype != MT_BF16)
		return mt_cuda_no_kernel(op);
	if (op->rows.rows == 0)
		return MT_OK;
	if (op->dtype == MT_F32)
		rows_of_type<float>(launch, op);
	else
		rows_of_type<__nv_bfloat16>(launch, op);
	return mt_cuda_launched(op);
}

enum mt_status mt_cuda_gather_rows(struct mt_cuda_launch *launch, const struct mt_op *op)
{
	return run_rows(launch, op);
}

enum mt_status mt_cuda_sum_rows(struct mt_cuda_launch *launch, const struct mt_op *op)
{
	return run_rows(launch, op);
}

/* ---- weighted activation ---- */

struct gated {
	float y, dgate, dup; /* activation(x), and its slopes by the two halves of x */
};

/* gelu has no up. Past 20 both ends are exact in f32, and x^3 cannot overflow. */
__device__ __forceinline__ struct gated gelu_at(float x)
{
	const float b = fabsf(x) > 20.0f ? copysignf(20.0f, x) : x;
	const float s = sigmoid(2.0f * GELU_SCALE * (b + GELU_CUBE * b * b * b));
	return {x * s, s + 2.0f * b * s * (1.0f - s) * GELU_SCALE * (1.0f + 3.0f * GELU_CUBE * b * b), 0.0f};
}

__device__ __forceinline__ struct gated swiglu_at(float g, float u)
{
	const float s = sigmoid(g);
	return {g * s * u, u * s * (1.0f + g * (1.0f - s)), g * s};
}

template <typename T, int N, bool GATED>
__global__ void __launch_bounds__(MT_CUDA_THREADS) act_forward(const T *x, const float *weights, T *y, int64_t rows, int64_t cols)
{
	const int64_t per_row = cols / N, items = rows * per_row;
	for (int64_t item = first_item(); item < items; item += item_stride()) {
		const int64_t row = row_of(item, per_row), c = (item - row * per_row) * N;
		const T *from = x + row * (GATED ? 2 : 1) * cols + c;
		const float weight = weights[row];
		float a[N], b[N] = {};
		unpack(load<T, N>(from), a);
		if constexpr (GATED)
			unpack(load<T, N>(from + cols), b);
#pragma unroll
		for (int n = 0; n < N; n++)
			a[n] = weight * (GATED ? swiglu_at(a[n], b[n]).y : gelu_at(a[n]).y);
		store(y + row * cols + c, packed<T, N>(a));
	}
}

/* A block a row in turn: dx is written where x was read, by the same thread. */
template <typename T, int N, bool GATED>
__global__ void __launch_bounds__(MT_CUDA_THREADS)
	act_backward(const T *x, const T *dy, const float *weights, T *dx, float *dweights, int64_t rows, int64_t cols)
{
	__shared__ float partial[MT_CUDA_THREADS / 32];
	for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
		const float weight = weights[row];
		const int64_t base = row * (GATED ? 2 : 1) * cols;
		float sum = 0.0f;
		for (int64_t c = (int64_t)threadIdx.x * N; c < cols; c += MT_CUDA_THREADS * N) {
			float a[N], b[N] = {}, d[N];
			unpack(load<T, N>(x + base + c), a);
			if constexpr (GATED)
				unpack(load<T, N>(x + base + cols + c), b);
			unpack(load<T, N>(dy + row * cols + c), d);
#pragma unroll
			for (int n = 0; n < N; n++) {
				const struct gated g = GATED ? swiglu_at(a[n], b[n]) : gelu_at(a[n]);
				sum += d[n] * g.y;
				a[n] = weight * d[n] * g.dgate;
				b[n] = weight * d[n] * g.dup;
			}
			store(dx + base + c, packed<T, N>(a));
			if constexpr (GATED)
				store(dx + base + cols + c, packed<T, N>(b));
		}
		sum = group_sum(sum, partial);
		if (threadIdx.x == 0)
			dweights[row] = sum;
	}
}

template <typename T, int N, bool GATED> static void launch_act(const struct mt_cuda_launch *launch, const struct mt_op *op)
{
	const struct mt_activation *a = &op->expert_act.act;
	const T *x = static_cast<const T *>(a->x), *dy = static_cast<const T *>(a->dy);
	const float *weights = static_cast<const float *>(op->expert_act.weights);
	if (op->kind == MT_OP_EXPERT_ACT)
		MT_LAUNCH((act_forward<T, N, GATED>), grid_for(launch, a->rows * (a->cols / N)), MT_CUDA_THREADS, 0, launch->stream,
			  x, weights, static_cast<T *>(a->y), a->rows, a->cols);
	else
		MT_LAUNCH((act_backward<T, N, GATED>), (unsigned)min(a->rows, 16 * (int64_t)launch->sm_count), MT_CUDA_THREADS, 0,
			  launch->stream, x, dy, weights, static_cast<T *>(a->dx), static_cast<float *>(op->expert_act.dweights),
			  a->rows, a->cols);
}

template <typename T> static void act_of_type(const struct mt_cuda_launch *launch, const struct mt_op *op)
{
	const struct mt_activation *a = &op->expert_act.act;
	const bool wide = a->cols % vector_width<T> == 0 && aligned(a->x, a->dy, a->y, a->dx), gated = a->kind == MT_SWIGLU;
	if (wide && gated)
		launch_act<T, vector_width<T>, true>(launch, op);
	else if (wide)
		launch_act<T, vector_width<T>, false>(launch, op);
	else if (gated)
		launch_act<T, 1, true>(launch, op);
	else
		launch_act<T, 1, false>(launch, op);
}

enum mt_status mt_cuda_expert_act(struct mt_cuda_launch *launch, const struct mt_op *op)
{
	if (op->dtype != MT_F32 && op->dtype != MT_BF16)
		return mt_cuda_no_kernel(op);
	if (op->expert_act.act.rows == 0)
		return MT_OK;
	if (op->dtype == MT_F32)
		act_of_type<float>(launch, op);
	else
		act_of_type<__nv_bfloat16>(launch, op);
	return mt_cuda_launched(op);
}
