/* embedding: y(R,C) = table[token - first] for tokens in [first, first + count), else 0, plus position[t];
 *            dtable[token - first] += dy,  dposition[t] += dy, in row order.
 * Row i of the R given is row first_row + i of the micro-batch, at t = that mod T, or positions[i]. Shoeybi et al. 2019,
 * arXiv:1909.08053.
 *
 * Forward moves 2*R*C elements. Backward must add rows of the same word in one order and no other, with words as uneven as language
 * is: some are in every tenth row and most are not there. So rows are sorted by word (a stable radix sort of 8 bits a pass, R
 * entries, small beside dy), and each block takes 32 sorted rows: a run of one word that lies within them is added to the table;
 * of a run that goes on past them, the block where it begins adds its own part and each later one leaves its part in scratch,
 * (blocks, C), which a second pass adds in order. Nobody adds more than 32 rows or one column of parts in a row, however uneven
 * the words. Moves R*C elements of dy, and 2 f32 for each element of a touched row of the table: bandwidth-bound. */
#include "kernels/cuda/embedding.cuh"

#include "kernels/cuda/radix.cuh"

template <typename T, int N>
__global__ void __launch_bounds__(MT_CUDA_THREADS)
	look_up(const int32_t *tokens, const T *table, const T *position, const int32_t *positions, T *y, int64_t rows,
		int64_t cols, int64_t seq, int64_t first, int64_t count, int64_t first_row)
{
	const int64_t per_row = cols / N, items = rows * per_row;
	for (int64_t item = first_item(); item < items; item += item_stride()) {
		const int64_t row = row_of(item, per_row), c = (item - row * per_row) * N, word = tokens[row] - first;
		float v[N] = {}, p[N];
		if (word >= 0 && word < count)
			unpack(load<T, N>(table + word * cols + c), v);
		if (position) {
			unpack(load<T, N>(position + (positions ? positions[row] : (first_row + row) % seq) * cols + c), p);
#pragma unroll
			for (int n = 0; n < N; n++)
				v[n] += p[n];
		}
		store(y + item * N, packed<T, N>(v));
	}
}

template <typename T, int N> static void launch_look_up(const struct mt_cuda_launch *launch, const struct mt_embedding *e)
{
	MT_LAUNCH((look_up<T, N>), grid_for(launch, e->rows * (e->cols / N)), MT_CUDA_THREADS, 0, launch->stream,
		  static_cast<const int32_t *>(e->tokens), static_cast<const T *>(e->table), static_cast<const T *>(e->position),
		  static_cast<const int32_t *>(e->positions), static_cast<T *>(e->y), e->rows, e->cols, e->seq, e->first, e->count,
		  e->first_row);
}

template <typename T> static void forward(const struct mt_cuda_launch *launch, const struct mt_embedding *e)
{
	if (e->cols % vector_width<T> == 0 && aligned(e->table, e->position, e->y))
		launch_look_up<T, vector_width<T>>(launch, e);
	else
		launch_look_up<T, 1>(launch, e);
}

enum mt_status mt_cuda_embedding(struct mt_cuda_launch *launch, const struct mt_op *op)
{
	if (!has_type(op->dtype))
		return mt_cuda_no_kernel(op);
	if (op->embedding.rows == 0)
		return MT_OK;
	MT_BY_TYPE(op->dtype, forward, launch, &op->embedding);
	return mt_cuda_launched(op);
}

/* out[c..] += sum */
template <int N> __device__ __forceinline__ void add_to(float *out, const float (&sum)[N])
{
	float old[N];
	unpack(load<float, N>(out), old);
#pragma unroll
	for (int n = 0; n < N; n++)
		old[n] += sum[n];
	store(out, packed<float, N>(old));
}

/* Block (x, y): RUN sorted rows from RUN*y on, N columns a thread. Rows whose word is not ours are last, under the word `count`. */
template <typename T, int N>
__global__ void __launch_bounds__(RUN_THREADS) add_runs(const struct sorted_row *sorted, int64_t rows, int64_t cols, unsigned count,
							const T *dy, float *dtable, float *parts)
{
	const int64_t c = first_item() * N, begin = (int64_t)blockIdx.y * RUN, end = min(begin + RUN, rows);
	if (c >= cols)
		return;
	for (int64_t i = begin; i < end;) {
		const unsigned word = sorted[i].word;
		const bool goes_on = i == begin && i > 0 && sorted[i - 1].word == word;
		float sum[N] = {};
		if (word >= count)
			break;
#pragma unroll 4
		for (; i < end && sorted[i].word == word; i++) {
			const pack<T, N> d = load<T, N>(dy + (int64_t)sorted[i].row * cols + c);
#pragma unroll
			for (int n = 0; n < N; n++)
				sum[n] += get(d, n);
		}
		if (goes_on)
			store(parts + blockIdx.y * cols + c, packed<float, N>(sum));
		else
			add_to<N>(dtable + (int64_t)word * cols + c, sum);
	}
}

/* The parts that runs left in later blocks. Block y acts when the last run of block y begins in it and goes on. */
template <int N>
__global__ void __launch_bounds__(RUN_THREADS)
	add_parts(const struct sorted_row *sorted, int64_t rows, int64_t cols, unsigned count, float *dtable, const float *parts)
{
	const int64_t c = first_item() * N, begin = (int64_t)blockIdx.y * RUN, next = begin + RUN;
	if (c >= cols || next >= rows)
		return;
	const unsigned word = sorted[next - 1].word;
	const bool from_before = begin > 0 && sorted[begin].word == word && sorted[begin - 1].word == word;
	if (word >= count || sorted[next].word != word || from_before)
		return;
	float sum[N] = {};
#pragma unroll 4
	for (int64_t part = blockIdx.y + 1; part * RUN < rows && sorted[part * RUN].word == word; part++) {
		const pack<float, N> p = load<float, N>(parts + part * cols + c);
#pragma unroll
		for (int n = 0; n < N; n++)
			sum[n] += get(p, n);
	}
	add_to<N>(dtable + (int64_t)word * cols + c, sum);
}

/* dposition[t] += the rows at t, one for each sequence, in order. */
template <typename T, int N>
__global__ void __launch_bounds__(MT_CUDA_THREADS)
	add_positions(const T *dy, float *dposition, int64_t rows, int64_t cols, int64_t seq, int64_t first_row)
{
	const int64_t per_row = cols / N, items = min(seq, rows) * per_row;
	for (int64_t item = first_item(); item < items; item += item_stride()) {
		const int64_t first = row_of(item, per_row), c = (item - first * per_row) * N;
		float sum[N] = {};
		for (int64_t row = first; row < rows; row += seq) {
			const pack<T, N> d = load<T, N>(dy + row * cols + c);
#pragma unroll
			for (int n = 0; n < N; n++)
				sum[n] += get(d, n);
		}
		add_to<N>(dposition + (first_row + first) % seq * cols + c, sum);
	}
}

/* dtable[token - first] += dy. */
template <typename T, int N> static void add_words(const struct mt_cuda_launch *launch, const struct mt_embedding *e)
{
	const T *dy = static_cast<const T *>(e->dy);
	float *dtable = static_cast<float *>(e->dtable);
	const struct embedding_scratch s = embedding_scratch_of(launch->scratch, e);
	const struct sorted_row *sorted = sort_rows(launch, &s, e);
	const dim3 grid((unsigned)divide_up(e->cols, RUN_THREADS * N), (unsigned)s.runs);
	MT_LAUNCH((add_runs<T, N>), grid, RUN_THREADS, 0, launch->stream, sorted, e->rows, e->cols, (unsigned)e->count, dy, dtable,
		  s.parts);
	MT_LAUNCH(add_parts<N>, grid, RUN_THREADS, 0, launch->stream, sorted, e->rows, e->cols, (unsigned)e->count, dtable,
		  s.parts);
}

template <typename T, int N> static void launch_backward(const struct mt_cuda_launch *launch, const struct mt_embedding *e)
{
	const T *dy = static_cast<const T *>(e->dy);
	float *dposition = static_cast<float *>(e->dposition);
	if (e->dtable && e->count > 0)
		add_words<T, N>(launch, e);
	if (dposition && e->positions) {
		/* Given positions are words of a table of positions. */
		struct mt_embedding positions = *e;
		positions.tokens = e->positions;
		positions.first = 0;
		positions.count = e->position_count;
		positions.dtable = dposition;
		add_words<T, N>(launch, &positions);
	} else if (dposition)
		MT_LAUNCH((add_positions<T, N>), grid_for(launch, min(e->seq, e->rows) * (e->cols / N)), MT_CUDA_THREADS, 0,
			  launch->stream, dy, dposition, e->rows, e->cols, e->seq, e->first_row);
}

template <typename T> static void backward(const struct mt_cuda_launch *launch, const struct mt_embedding *e)
{
	if (e->cols % vector_width<T> == 0 && aligned(e->dy, e->dtable, e->dposition))
		launch_backward<T, vector_width<T>>(launch, e);
	else
		launch_backward<T, 1>(launch, e);
}

enum mt_status mt_cuda_embedding_bwd(struct mt_cuda_launch *launch, const struct mt_op *op)
{
	const struct mt_embedding *e = &op->embedding;
	if (!has_type(op->dtype))
		return mt_cuda_no_kernel(op);
	if (e->rows > MOST_RUNS * (int64_t)RUN || e->count >= INT32_MAX)
		return mt_fail(MT_UNAVAILABLE, "embedding_bwd: CUDA kernels take up to %lld rows, not %lld",
			       MOST_RUNS * (long long)RUN, (long long)e->rows);
	if (e->rows == 0)
		return MT_OK;
	MT_BY_TYPE(op->dtype, backward, launch, e);
	return mt_cuda_launched(op);
}
