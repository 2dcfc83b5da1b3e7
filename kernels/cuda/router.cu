/* router: which experts a row goes to, the losses that keep experts busy alike, and the gradient; formulas in
 * kernels/reference/router.c.
 *
 * A warp has a row; its scores lie in shared memory, E floats or two times as many, so a block is as many warps as leave several
 * blocks a multiprocessor. A choice is the warp's largest of what is left, K times. Sums over rows are of one thread an expert
 * and slice of rows, then of the slices in order. Logits are R*E floats: each kernel reads them once. */
#include "kernels/cuda/reduce.cuh"

#define ROUTE_WARPS 4
#define SUM_EXPERTS 32
#define SUM_SLICES  8

/* exp(x) to f32's precision: a choice hangs on scores. */
__device__ __forceinline__ float logistic(float x)
{
	return 1.0f / (1.0f + expf(-x));
}

/* Scores of a row to shared memory; *lse of its logits. The whole warp gets the sum of the scores. */
__device__ __forceinline__ float score_row(const struct mt_route &r, const float *logits, float *scores, float *lse)
{
	const int E = (int)r.experts, lane = (int)threadIdx.x;
	float most = -INFINITY, sum = 0.0f, total = 0.0f;
	for (int e = lane; e < E; e += 32)
		most = fmaxf(most, logits[e]);
	most = warp_max(most);
	for (int e = lane; e < E; e += 32)
		sum += expf(logits[e] - most);
	sum = warp_sum(sum);
	*lse = most + logf(sum);
	for (int e = lane; e < E; e += 32) {
		scores[e] = r.kind == MT_ROUTE_SOFTMAX ? expf(logits[e] - most) / sum : logistic(logits[e]);
		total += scores[e];
	}
	total = warp_sum(total);
	__syncwarp();
	return total;
}

/* The place of the largest of values(count) that is not -inf; of equal ones the first. */
__device__ __forceinline__ int warp_largest(const float *values, int count)
{
	float best = -INFINITY;
	int at = count;
	for (int i = (int)threadIdx.x; i < count; i += 32)
		if (values[i] > best || at == count)
			best = values[i], at = i;
#pragma unroll
	for (int offset = 16; offset > 0; offset /= 2) {
		const float other = __shfl_xor_sync(0xffffffffu, best, offset);
		const int there = __shfl_xor_sync(0xffffffffu, at, offset);
		if (there < count && (at == count || other > best || (other == best && there < at)))
			best = other, at = there;
	}
	return at;
}

/* Takes all but the best sets out of ranked(E). sums: one float a set. */
__device__ __forceinline__ void limit_to_sets(const struct mt_route &r, float *ranked, float *sums)
{
	const int size = (int)(r.experts / r.sets), lane = (int)threadIdx.x;
	for (int s = lane; s < (int)r.sets; s += 32) {
		float sum = 0.0f, limit = INFINITY;
		int limit_at = -1;
		for (int k = 0; k < (int)r.set_best; k++) { /* the next after the last taken, by value and then place */
			float found = -INFINITY;
			int at = -1;
			for (int i = 0; i < size; i++) {
				const float v = ranked[s * size + i];
				if ((v < limit || (v == limit && i > limit_at)) && (at < 0 || v > found))
					found = v, at = i;
			}
			if (at < 0)
				break;
			sum += found, limit = found, limit_at = at;
		}
		sums[s] = sum;
	}
	__syncwarp();
	for (int e = lane; e < (int)r.experts; e += 32) {
		const int mine = e / size;
		int before = 0;
		for (int s = 0; s < (int)r.sets; s++)
			before += sums[s] > sums[mine] || (sums[s] == sums[mine] && s < mine);
		if (before >= (int)r.set_choices)
			ranked[e] = -INFINITY;
	}
	__syncwarp();
}

static __global__ void __launch_bounds__(32 * ROUTE_WARPS)
	route_rows(struct mt_route r, const float *logits, const float *bias, float *weights, int32_t *index)
{
	MT_SHARED(float, shared);
	const int E = (int)r.experts, K = (int)r.choices, lane = (int)threadIdx.x;
	float *scores = shared + (size_t)threadIdx.y * 3 * E, *ranked = scores + E, *sums = ranked + E;
	for (int64_t row = (int64_t)blockIdx.x * blockDim.y + threadIdx.y; row < r.rows; row += (int64_t)gridDim.x * blockDim.y) {
		float lse, chosen = 0.0f;
		score_row(r, logits + row * E, scores, &lse);
		for (int e = lane; e < E; e += 32)
			ranked[e] = scores[e] + (bias ? bias[e] : 0.0f);
		__syncwarp();
		if (r.sets > 1)
			limit_to_sets(r, ranked, sums);
		for (int k = 0; k < K; k++) {
			const int best = warp_largest(ranked, E);
			chosen += scores[best];
			__syncwarp(); /* all have read */
			if (lane == 0) {
				ranked[best] = -INFINITY;
				index[row * K + k] = best;
			}
			__syncwarp();
		}
		for (int k = lane; k < K; k += 32)
			weights[row * K + k] = (float)r.scale * scores[index[row * K + k]] / (r.normalize ? chosen : 1.0f);
		__syncwarp();
	}
}

/* norms(R,2) = {log of the sum of exp of the logits, sum of the scores} */
static __global__ void __launch_bounds__(32 * ROUTE_WARPS) norm_rows(struct mt_route r, const float *logits, float *norms)
{
	MT_SHARED(float, shared);
	float *scores = shared + (size_t)threadIdx.y * r.experts;
	for (int64_t row = (int64_t)blockIdx.x * blockDim.y + threadIdx.y; row < r.rows; row += (int64_t)gridDim.x * blockDim.y) {
		float lse;
		const float total = score_row(r, logits + row * r.experts, scores, &lse);
		if (threadIdx.x == 0)
			norms[2 * row] = lse, norms[2 * row + 1] = total;
		__syncwarp();
	}
}

/* Block (x, b): SUM_EXPERTS experts of sequence b, SUM_SLICES slices of its rows here. */
static __global__ void __launch_bounds__(SUM_EXPERTS *SUM_SLICES)
	sum_rows_of(struct mt_route r, const float *logits, const int32_t *index, const float *norms, float *sums)
{
	__shared__ float rows_of[SUM_SLICES][SUM_EXPERTS], mass_of[SUM_SLICES][SUM_EXPERTS];
	const int64_t e = (int64_t)blockIdx.x * SUM_EXPERTS + threadIdx.x, b = blockIdx.y;
	const int64_t first = max(b * r.seq - r.first_row, (int64_t)0), last = min((b + 1) * r.seq - r.first_row, r.rows);
	float rows = 0.0f, mass = 0.0f;
	for (int64_t row = first + threadIdx.y; row < last && e < r.experts; row += SUM_SLICES) {
		const float x = logits[row * r.experts + e];
		const float score = r.kind == MT_ROUTE_SOFTMAX ? expf(x - norms[2 * row]) : logistic(x);
		mass += score / norms[2 * row + 1];
		for (int64_t k = 0; k < r.choices; k++)
			rows += index[row * r.choices + k] == e ? 1.0f : 0.0f;
	}
	rows_of[threadIdx.y][threadIdx.x] = rows;
	mass_of[threadIdx.y][threadIdx.x] = mass;
	__syncthreads();
	if (threadIdx.y == 0 && e < r.experts) {
		rows = mass = 0.0f;
		for (int s = 0; s < SUM_SLICES; s++)
			rows += rows_of[s][threadIdx.x], mass += mass_of[s][threadIdx.x];
		sums[(b * r.experts + e) * 2] = rows;
		sums[(b * r.experts + e) * 2 + 1] = mass;
	}
}

/* One block: both terms are a few numbers a row. */
static __global__ void __launch_bounds__(1024) add_losses(struct mt_route r, const float *norms, const float *sums, double *out)
{
	__shared__ double partial[32];
	double aux = 0.0, z = 0.0;
	for (int64_t i = threadIdx.x; sums && i < r.sequences * r.experts; i += 1024)
		aux += (double)sums[2 * i] * (double)sums[2 * i + 1];
	for (int64_t row = threadIdx.x; r.z_scale != 0.0 && row < r.rows; row += 1024)
		z += (double)norms[2 * row] * (double)norms[2 * row];
	aux = group_sum(aux, partial);
	z = group_sum(z, partial);
	if (threadIdx.x == 0) {
		out[0] += r.aux_scale * aux;
		out[1] += r.z_scale * z;
	}
}

static __global__ void __launch_bounds__(32 * ROUTE_WARPS)
	route_backward(struct mt_route r, const float *logits, const int32_t *index, const float *dweights, const float *sums,
		       float *dlogits)
{
	MT_SHARED(float, shared);
	const int E = (int)r.experts, K = (int)r.choices, lane = (int)threadIdx.x;
	float *scores = shared + (size_t)threadIdx.y * 2 * E, *slope = scores + E;
	for (int64_t row = (int64_t)blockIdx.x * blockDim.y + threadIdx.y; row < r.rows; row += (int64_t)gridDim.x * blockDim.y) {
		float lse, n = 0.0f, mixed = 0.0f, mean = 0.0f, balance = 0.0f;
		const float total = score_row(r, logits + row * E, scores, &lse);
		const float *of_sequence = sums ? sums + (r.first_row + row) / r.seq * E * 2 : NULL;
		for (int e = lane; e < E; e += 32) {
			slope[e] = 0.0f;
			balance += of_sequence ? of_sequence[2 * e] * scores[e] / total : 0.0f;
		}
		balance = warp_sum(balance);
		for (int k = lane; k < K; k += 32) {
			n += scores[index[row * K + k]];
			mixed += dweights[row * K + k] * scores[index[row * K + k]];
		}
		n = warp_sum(n);
		mixed = warp_sum(mixed);
		__syncwarp();
		for (int k = lane; k < K; k += 32) {
			const float dw = dweights[row * K + k];
			slope[index[row * K + k]] = (float)r.scale * (r.normalize ? (dw - mixed / n) / n : dw);
		}
		__syncwarp();
		for (int e = lane; e < E; e += 32) {
			if (of_sequence)
				slope[e] += (float)r.aux_scale * (of_sequence[2 * e] - balance) / total;
			mean += slope[e] * scores[e];
		}
		mean = warp_sum(mean);
		for (int e = lane; e < E; e += 32) {
			const float s = scores[e];
			const float dx = r.kind == MT_ROUTE_SOFTMAX ? s * (slope[e] - mean) : s * (1.0f - s) * slope[e];
			dlogits[row * E + e] = dx + 2.0f * (float)r.z_scale * lse * expf(logits[row * E + e] - lse);
		}
		__syncwarp();
	}
}

/* Warps of a block whose shared memory is `floats` a warp; 0: even one is too many. */
static unsigned warps_for(const struct mt_cuda_launch *launch, int64_t floats)
{
	for (unsigned warps = ROUTE_WARPS; warps > 0; warps /= 2)
		if (warps * floats * (int64_t)sizeof(float) <= 48 << 10)
			return warps;
	return 0;
}

static unsigned blocks_for(const struct mt_cuda_launch *launch, int64_t rows, unsigned warps)
{
	return (unsigned)min(divide_up(rows, warps), 16 * (int64_t)launch->sm_count);
}

static enum mt_status too_many(const struct mt_op *op)
{
	return mt_fail(MT_UNAVAILABLE, "%s: CUDA kernels route over up to 4096 experts, not %lld", mt_op_name(op->kind),
		       (long long)op->route.experts);
}

enum mt_status mt_cuda_route(struct mt_cuda_launch *launch, const struct mt_op *op)
{
	const struct mt_route *r = &op->route;
	const unsigned warps = warps_for(launch, 3 * r->experts);
	if (op->dtype != MT_F32)
		return mt_cuda_no_kernel(op);
	if (r->rows == 0)
		return MT_OK;
	if (!warps)
		return too_many(op);
	MT_LAUNCH(route_rows, blocks_for(launch, r->rows, warps), dim3(32, warps), warps * 3 * r->experts * sizeof(float),
		  launch->stream, *r, static_cast<const float *>(r->logits), static_cast<const float *>(r->bias),
		  static_cast<float *>(r->weights), static_cast<int32_t *>(r->index));
	return mt_cuda_launched(op);
}

/* Norms of the rows to scratch. */
static bool launch_norms(const struct mt_cuda_launch *launch, const struct mt_route *r)
{
	const unsigned warps = warps_for(launch, r->experts);
	if (!warps)
		return false;
	if (r->rows > 0)
		MT_LAUNCH(norm_rows, blocks_for(launch, r->rows, warps), dim3(32, warps), warps * r->experts * sizeof(float),
			  launch->stream, *r, static_cast<const float *>(r->logits), static_cast<float *>(launch->scratch));
	return true;
}

enum mt_status mt_cuda_route_sums(struct mt_cuda_launch *launch, const struct mt_op *op)
{
	const struct mt_route *r = &op->route;
	if (op->dtype != MT_F32)
		return mt_cuda_no_kernel(op);
	if (r->sequences == 0)
		return MT_OK;
	if (!launch_norms(launch, r))
		return too_many(op);
	MT_LAUNCH(sum_rows_of, dim3((unsigned)divide_up(r->experts, SUM_EXPERTS), (unsigned)r->sequences),
		  dim3(SUM_EXPERTS, SUM_SLICES), 0, launch->stream, *r, static_cast<const float *>(r->logits),
		  static_cast<const int32_t *>(r->index), static_cast<const float *>(launch->scratch),
		  static_cast<float *>(r->sums));
	return mt_cuda_launched(op);
}

enum mt_status mt_cuda_route_loss(struct mt_cuda_launch *launch, const struct mt_op *op)
{
	const struct mt_route *r = &op->route;
	if (op->dtype != MT_F32)
		return mt_cuda_no_kernel(op);
	if (r->rows == 0 && !r->sums)
		return MT_OK;
	if (r->z_scale != 0 && !launch_norms(launch, r))
		return too_many(op);
	MT_LAUNCH(add_losses, 1, 1024, 0, launch->stream, *r, static_cast<const float *>(launch->scratch),
		  static_cast<const float *>(r->sums), static_cast<double *>(r->out));
	return mt_cuda_launched(op);
}

enum mt_status mt_cuda_route_bwd(struct mt_cuda_launch *launch, const struct mt_op *op)
{
	const struct mt_route *r = &op->route;
	const unsigned warps = warps_for(launch, 2 * r->experts);
	if (op->dtype != MT_F32)
		return mt_cuda_no_kernel(op);
	if (r->rows == 0)
		return MT_OK;
	if (!warps)
		return too_many(op);
	MT_LAUNCH(route_backward, blocks_for(launch, r->rows, warps), dim3(32, warps), warps * 2 * r->experts * sizeof(float),
		  launch->stream, *r, static_cast<const float *>(r->logits), static_cast<const int32_t *>(r->index),
		  static_cast<const float *>(r->dweights), r->aux_scale != 0 ? static_cast<const float *>(r->sums) : NULL,
		  static_cast<float *>(r->dlogits));
	return mt_cuda_launched(op);
}
