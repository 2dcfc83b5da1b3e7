/* product_measure: chooses among the algorithms that cuBLASLt suggests for a product by running them, under the rule of measure.h.
 *
 * Algorithms that sum in the same order differ in tiles, stages and clusters: most suggestions give the bits of the first. Trials
 * have operands of their own, of random values, so that what is compared does not depend on the run either. */
#include "kernels/cuda/measure.h"
#include "kernels/cuda/trial.h"

struct trial {
	struct cuda_trial on;
	const struct cuda_product *p;
	const cublasLtMatmulHeuristicResult_t *algorithms;
	void *a, *b, *aux; /* aux: where it is read */
	/* What is written: c, then GELU's input where that is, then sums, each at a multiple of MT_ARENA_ALIGN_BYTES. */
	size_t aux_at, sums_at;
};

static size_t padded(size_t bytes)
{
	return (bytes + MT_ARENA_ALIGN_BYTES - 1) / MT_ARENA_ALIGN_BYTES * MT_ARENA_ALIGN_BYTES;
}

/* An operand that is read: random values. */
static enum mt_status fill(struct trial *t, void *memory, size_t bytes, enum mt_dtype dtype, uint32_t seed)
{
	struct mt_cuda_launch launch = t->on.cuda->launch;
	void **at = memory;
	launch.stream = cuda_stream(t->on.stream);
	MT_TRY(cuda_trial_take(&t->on, at, bytes));
	return mt_cuda_trial_fill(&launch, *at, (int64_t)(bytes / mt_dtype_bytes(dtype)), dtype, seed);
}

static enum mt_status prepare(struct trial *t)
{
	const struct cuda_product *p = t->p;
	size_t read_bytes = p->aux_written ? 0 : p->aux_bytes;
	t->aux_at = padded(p->c_bytes);
	t->sums_at = t->aux_at + padded(p->aux_bytes - read_bytes);
	MT_TRY(cuda_trial_prepare(&t->on, t->sums_at + padded(p->sums_bytes)));
	MT_TRY(fill(t, &t->a, p->a_bytes, p->a_dtype, 1));
	MT_TRY(fill(t, &t->b, p->b_bytes, p->b_dtype, 2));
	return read_bytes ? fill(t, &t->aux, read_bytes, p->dtype, 3) : MT_OK;
}

static enum mt_status run(void *context, int way)
{
	struct trial *t = context;
	const struct cuda_product *p = t->p;
	const cublasLtMatmulHeuristicResult_t *algorithm = &t->algorithms[way];
	struct cuda_operands at = {.a = t->a, .b = t->b, .c = t->on.written, .aux = t->aux};
	void *sums = NULL;
	if (p->aux_written)
		at.aux = p->aux_bytes ? t->on.written + t->aux_at : NULL;
	if (p->sums_bytes)
		at.bias = t->on.written + t->sums_at;
	return cuda_product_run(t->on.cuda, t->on.stream, p, &at, &algorithm->algo, algorithm->workspaceSize, &sums);
}

enum mt_status cuda_product_choose(struct cuda_device *cuda, struct mt_stream *stream, const struct cuda_product *p,
				   const cublasLtMatmulHeuristicResult_t *algorithms, int count, int *chosen)
{
	struct trial t = {.on = {.cuda = cuda, .stream = stream, .run = run}, .p = p, .algorithms = algorithms};
	t.on.context = &t;
	*chosen = 0;
	enum mt_status st = prepare(&t);
	if (st == MT_OK)
		st = cuda_trial_choose(&t.on, NULL, count, chosen);
	else if (st == MT_NOMEM)
		st = MT_OK; /* the first, which has the same bits */
	cuda_trial_end(&t.on);
	return st;
}
