/* product_measure: chooses among the algorithms that cuBLASLt suggests for a product by running them.
 *
 * The layout of a run decides its bits, so the choice must not hang on a race between two timings: by default only algorithms
 * that give the bits of the first suggestion, which depends on the shape alone, take part, and the fastest of these is used.
 * (Algorithms that sum in the same order differ in tiles, stages and clusters: most suggestions.) Trials have operands of
 * their own, of random values, so that what is compared does not depend on the run either. */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/trial.h"

enum { ROUNDS = 5 };

struct trial {
	struct cuda_device *cuda;
	struct mt_stream *stream;
	const struct cuda_product *p;
	void *a, *b, *aux; /* aux: where it is read */
	/* What is written: c, then GELU's input where that is, then sums, each at a multiple of MT_ARENA_ALIGN_BYTES. */
	void *c, *first; /* first: the result of the first algorithm */
	size_t written_bytes, aux_at, sums_at;
	int *differs; /* device memory: one number */
	cudaEvent_t start, end;
};

/* Memory of the stream, beside the arenas. It is the GPU's own pool that may say no. */
static cudaError_t take(struct trial *t, void **memory, size_t bytes)
{
	return cudaMallocAsync(memory, bytes, cuda_stream(t->stream));
}

static void give_back(struct trial *t)
{
	void *all[] = {t->a, t->b, t->aux, t->c, t->first, t->differs};
	for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
		if (all[i])
			cudaFreeAsync(all[i], cuda_stream(t->stream));
	if (t->start)
		cudaEventDestroy(t->start);
	if (t->end)
		cudaEventDestroy(t->end);
	/* The pool keeps what it was given; the arenas may want it. */
	cudaMemPool_t pool;
	if (cudaStreamSynchronize(cuda_stream(t->stream)) == cudaSuccess &&
	    cudaDeviceGetDefaultMemPool(&pool, t->cuda->index) == cudaSuccess)
		cudaMemPoolTrimTo(pool, 0);
}

static size_t padded(size_t bytes)
{
	return (bytes + MT_ARENA_ALIGN_BYTES - 1) / MT_ARENA_ALIGN_BYTES * MT_ARENA_ALIGN_BYTES;
}

/* MT_NOMEM when it does not fit. */
static enum mt_status prepare(struct trial *t)
{
	const struct cuda_product *p = t->p;
	struct mt_cuda_launch launch = t->cuda->launch;
	launch.stream = cuda_stream(t->stream);
	size_t read_bytes = p->aux_written ? 0 : p->aux_bytes;
	t->aux_at = padded(p->c_bytes);
	t->sums_at = t->aux_at + padded(p->aux_bytes - read_bytes);
	t->written_bytes = t->sums_at + padded(p->sums_bytes);
	if (take(t, &t->a, p->a_bytes) || take(t, &t->b, p->b_bytes) || (read_bytes && take(t, &t->aux, read_bytes)) ||
	    take(t, &t->c, t->written_bytes) || take(t, &t->first, t->written_bytes) ||
	    take(t, (void **)&t->differs, sizeof *t->differs)) {
		cudaGetLastError();
		return MT_NOMEM;
	}
	CUDA_TRY(cudaEventCreate(&t->start));
	CUDA_TRY(cudaEventCreate(&t->end));
	MT_TRY(mt_cuda_trial_fill(&launch, t->a, (int64_t)(p->a_bytes / mt_dtype_bytes(p->a_dtype)), p->a_dtype, 1));
	if (read_bytes)
		MT_TRY(mt_cuda_trial_fill(&launch, t->aux, (int64_t)(read_bytes / mt_dtype_bytes(p->dtype)), p->dtype, 3));
	return mt_cuda_trial_fill(&launch, t->b, (int64_t)(p->b_bytes / mt_dtype_bytes(p->b_dtype)), p->b_dtype, 2);
}

static enum mt_status run(struct trial *t, const cublasLtMatmulHeuristicResult_t *algorithm)
{
	const struct cuda_product *p = t->p;
	struct cuda_operands at = {.a = t->a, .b = t->b, .c = t->c, .aux = t->aux};
	void *sums = NULL;
	if (p->aux_written)
		at.aux = p->aux_bytes ? (char *)t->c + t->aux_at : NULL;
	if (p->sums_bytes)
		at.bias = (char *)t->c + t->sums_at;
	return cuda_product_run(t->cuda, t->stream, p, &at, &algorithm->algo, algorithm->workspaceSize, &sums);
}

/* Whether the algorithm gives the bits of the first. The first is run, and kept. */
static enum mt_status agrees(struct trial *t, const cublasLtMatmulHeuristicResult_t *algorithm, bool is_first, bool *same)
{
	struct mt_cuda_launch launch = t->cuda->launch;
	int differs = 0;
	launch.stream = cuda_stream(t->stream);
	CUDA_TRY(cudaMemsetAsync(t->c, 0, t->written_bytes, cuda_stream(t->stream)));
	MT_TRY(run(t, algorithm));
	*same = true;
	if (is_first) {
		CUDA_TRY(cudaMemcpyAsync(t->first, t->c, t->written_bytes, cudaMemcpyDeviceToDevice, cuda_stream(t->stream)));
		return MT_OK;
	}
	CUDA_TRY(cudaMemsetAsync(t->differs, 0, sizeof *t->differs, cuda_stream(t->stream)));
	MT_TRY(mt_cuda_trial_compare(&launch, t->c, t->first, t->written_bytes, t->differs));
	CUDA_TRY(cudaMemcpyAsync(&differs, t->differs, sizeof differs, cudaMemcpyDeviceToHost, cuda_stream(t->stream)));
	CUDA_TRY(cudaStreamSynchronize(cuda_stream(t->stream)));
	*same = !differs;
	return MT_OK;
}

/* The shortest of some runs, each alone between two events. */
static enum mt_status time_one(struct trial *t, const cublasLtMatmulHeuristicResult_t *algorithm, float *best_ms)
{
	for (int i = 0; i < ROUNDS; i++) {
		float ms;
		CUDA_TRY(cudaEventRecord(t->start, cuda_stream(t->stream)));
		MT_TRY(run(t, algorithm));
		CUDA_TRY(cudaEventRecord(t->end, cuda_stream(t->stream)));
		CUDA_TRY(cudaEventSynchronize(t->end));
		CUDA_TRY(cudaEventElapsedTime(&ms, t->start, t->end));
		if (i == 0 || ms < *best_ms)
			*best_ms = ms;
	}
	return MT_OK;
}

/* An algorithm that fails is none; the first one's failure is the product's. */
static enum mt_status try_all(struct trial *t, const cublasLtMatmulHeuristicResult_t *algorithms, int count, int *chosen)
{
	float best_ms = 0, ms = 0;
	for (int i = 0; i < count; i++) {
		bool same = true;
		enum mt_status st = t->cuda->choice == CUDA_CHOICE_SAME ? agrees(t, &algorithms[i], i == 0, &same) : MT_OK;
		if (st == MT_OK && same)
			st = time_one(t, &algorithms[i], &ms);
		if (st != MT_OK && i == 0)
			return st;
		if (st != MT_OK)
			mt_error_clear();
		if (st == MT_OK && same && (i == 0 || ms < best_ms)) {
			best_ms = ms;
			*chosen = i;
		}
	}
	return MT_OK;
}

enum mt_status cuda_product_choose(struct cuda_device *cuda, struct mt_stream *stream, const struct cuda_product *p,
				   const cublasLtMatmulHeuristicResult_t *algorithms, int count, int *chosen)
{
	struct trial t = {.cuda = cuda, .stream = stream, .p = p};
	*chosen = 0;
	enum mt_status st = prepare(&t);
	if (st == MT_OK)
		st = try_all(&t, algorithms, count, chosen);
	else if (st == MT_NOMEM)
		st = MT_OK; /* the first, which has the same bits */
	give_back(&t);
	return st;
}
