/* measure: see measure.h. */
#include "kernels/cuda/measure.h"

#include "kernels/cuda/trial.h"

enum { ROUNDS = 5 };

/* It is the GPU's own pool that may say no. */
enum mt_status cuda_trial_take(struct cuda_trial *trial, void *memory, size_t bytes)
{
	void **into = memory;
	if (trial->piece_count == CUDA_TRIAL_PIECES)
		return mt_fail(MT_FAILED, "CUDA: a trial has no more than %d pieces of memory", CUDA_TRIAL_PIECES);
	if (cudaMallocAsync(into, bytes, cuda_stream(trial->stream)) != cudaSuccess) {
		cudaGetLastError();
		return MT_NOMEM;
	}
	trial->pieces[trial->piece_count++] = *into;
	return MT_OK;
}

enum mt_status cuda_trial_prepare(struct cuda_trial *trial, size_t written_bytes)
{
	trial->written_bytes = written_bytes;
	MT_TRY(cuda_trial_take(trial, &trial->written, written_bytes));
	MT_TRY(cuda_trial_take(trial, &trial->first, written_bytes));
	MT_TRY(cuda_trial_take(trial, &trial->differs, sizeof *trial->differs));
	CUDA_TRY(cudaEventCreate(&trial->start));
	CUDA_TRY(cudaEventCreate(&trial->end));
	return MT_OK;
}

void cuda_trial_end(struct cuda_trial *trial)
{
	for (int i = 0; i < trial->piece_count; i++)
		cudaFreeAsync(trial->pieces[i], cuda_stream(trial->stream));
	if (trial->start)
		cudaEventDestroy(trial->start);
	if (trial->end)
		cudaEventDestroy(trial->end);
	/* The pool keeps what it was given; the arenas may want it. */
	cudaMemPool_t pool;
	if (cudaStreamSynchronize(cuda_stream(trial->stream)) == cudaSuccess &&
	    cudaDeviceGetDefaultMemPool(&pool, trial->cuda->index) == cudaSuccess)
		cudaMemPoolTrimTo(pool, 0);
}

/* One run, and whether it gives the bits of the first way, whose result is kept. */
static enum mt_status agrees(struct cuda_trial *t, int way, bool is_first, bool *same)
{
	struct mt_cuda_launch launch = t->cuda->launch;
	cudaStream_t stream = cuda_stream(t->stream);
	int differs = 0;
	launch.stream = stream;
	CUDA_TRY(cudaMemsetAsync(t->written, 0, t->written_bytes, stream));
	MT_TRY(t->run(t->context, way));
	*same = true;
	if (is_first) {
		CUDA_TRY(cudaMemcpyAsync(t->first, t->written, t->written_bytes, cudaMemcpyDeviceToDevice, stream));
		return MT_OK;
	}
	CUDA_TRY(cudaMemsetAsync(t->differs, 0, sizeof *t->differs, stream));
	MT_TRY(mt_cuda_trial_compare(&launch, t->written, t->first, t->written_bytes, t->differs));
	CUDA_TRY(cudaMemcpyAsync(&differs, t->differs, sizeof differs, cudaMemcpyDeviceToHost, stream));
	CUDA_TRY(cudaStreamSynchronize(stream));
	*same = !differs;
	return MT_OK;
}

/* The shortest of some runs, each alone between two events. */
static enum mt_status time_way(struct cuda_trial *t, int way, float *best_ms)
{
	for (int i = 0; i < ROUNDS; i++) {
		float ms;
		CUDA_TRY(cudaEventRecord(t->start, cuda_stream(t->stream)));
		MT_TRY(t->run(t->context, way));
		CUDA_TRY(cudaEventRecord(t->end, cuda_stream(t->stream)));
		CUDA_TRY(cudaEventSynchronize(t->end));
		CUDA_TRY(cudaEventElapsedTime(&ms, t->start, t->end));
		if (i == 0 || ms < *best_ms)
			*best_ms = ms;
	}
	return MT_OK;
}

enum mt_status cuda_trial_choose(struct cuda_trial *t, const bool *possible, int count, int *chosen)
{
	float best_ms = 0, ms = 0;
	int first = *chosen;
	for (int way = first; way < count; way++) {
		bool same = true;
		if (possible && !possible[way])
			continue;
		enum mt_status st = agrees(t, way, way == first, &same);
		bool taken = same || t->cuda->choice == CUDA_CHOICE_FASTEST;
		if (st == MT_OK && taken)
			st = time_way(t, way, &ms);
		if (st != MT_OK && way == first)
			return st;
		if (st != MT_OK)
			mt_error_clear();
		if (st == MT_OK && taken && (way == first || ms < best_ms)) {
			best_ms = ms;
			*chosen = way;
		}
	}
	return MT_OK;
}
