/* product_fused: products with GELU or a bias' gradient: which of cuBLASLt's epilogues, and which kernels of our own in their
 * place.
 *
 * There are up to three ways, from all in one to nothing in one:
 *   0  the product with the whole epilogue
 *   1  the gradient through GELU as the epilogue, the bias' gradient as a kernel (dgrad in bf16 and f16, whose vector of sums
 * cuBLASLt would round to their type) 2  the product, then kernels Shape, type and alignment say which there are, and the first of
 * these is the answer. The others are timed against it on operands of their own when a shape is first met, and take its place where
 * they are faster: by the rule of product_measure.c, so by default only one that gives the same bits, or the layout of a run would
 * not decide its bits; MEGATUNE_CUBLASLT=fastest is without that rule, and with `first` nothing is timed. */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/trial.h"

#include "kernels/fp8.h"

#include <stdlib.h>
#include <string.h>

enum { WAYS = 3, MOST_PLACES = 5, ROUNDS = 5 };

/* All bytes are compared. */
struct split_key {
	struct mt_op_key op;
	uint32_t align[MOST_PLACES], bias_align;
};

struct cuda_split {
	struct cuda_split *next;
	struct split_key key;
	int way;
};

/* An operand: where its pointer is, its size, and what it holds. */
struct place {
	void **pointer;
	size_t count;
	enum mt_dtype dtype;
	bool written;
};

struct trial {
	struct cuda_device *cuda;
	struct mt_device *device;
	struct mt_stream *stream;
	struct mt_op op; /* on operands of its own */
	char *read, *written, *first;
	size_t read_bytes, written_bytes;
	int *differs; /* device memory: one number */
	cudaEvent_t start, end;
};

/* The operations of a way; 0: it is none for this product. */
static int cut(const struct mt_op *op, int way, struct mt_op pieces[MT_OP_MOST_PARTS])
{
	int count = mt_op_parts(op, pieces);
	if (way == 2)
		return count;
	if (way == 1 && !(op->kind == MT_OP_LINEAR_DGRAD && op->linear.pre && op->linear.dbias))
		return 0;
	if (way == 1)
		pieces[1] = pieces[count - 1];
	pieces[0] = *op;
	pieces[0].linear.dbias = way == 1 ? NULL : op->linear.dbias;
	return way + 1;
}

static enum mt_status run_way(struct mt_device *device, struct mt_stream *stream, const struct mt_op *op, int way)
{
	struct mt_op pieces[MT_OP_MOST_PARTS];
	int count = cut(op, way, pieces);
	MT_TRY(cuda_product_whole(device, stream, &pieces[0]));
	for (int i = 1; i < count; i++)
		MT_TRY(cuda_kernel(stream, &pieces[i]));
	return MT_OK;
}

static enum mt_status is_possible(struct mt_device *device, struct mt_stream *stream, const struct mt_op *op, int way,
				  bool *possible)
{
	struct mt_op pieces[MT_OP_MOST_PARTS];
	*possible = cut(op, way, pieces) > 0;
	return *possible ? cuda_product_plan(device, stream, &pieces[0], possible) : MT_OK;
}

/* The operands but the bias, which is only read and small. */
static int places_of(struct mt_op *op, struct place places[MOST_PLACES])
{
	struct mt_linear *l = &op->linear;
	enum mt_dtype t = op->dtype, sums = t == MT_F64 ? MT_F64 : MT_F32;
	enum mt_dtype forward = l->fp8 ? MT_E4M3 : t, backward = l->fp8 ? mt_fp8_gradient(l->fp8) : t;
	size_t x = (size_t)(l->rows * l->in), y = (size_t)(l->rows * l->out), w = (size_t)(l->in * l->out);
	int count = 0;
	if (op->kind != MT_OP_LINEAR_DGRAD)
		places[count++] = (struct place){(void **)&l->x, x, forward, false};
	if (op->kind != MT_OP_LINEAR_WGRAD)
		places[count++] = (struct place){(void **)&l->w, w, forward, false};
	if (op->kind != MT_OP_LINEAR)
		places[count++] = (struct place){(void **)&l->dy, y, backward, false};
	if (l->pre)
		places[count++] = (struct place){&l->pre, op->kind == MT_OP_LINEAR ? y : x, t, op->kind == MT_OP_LINEAR};
	if (op->kind == MT_OP_LINEAR)
		places[count++] = (struct place){&l->y, y, t, true};
	else if (op->kind == MT_OP_LINEAR_DGRAD)
		places[count++] = (struct place){&l->dx, x, t, true};
	else
		places[count++] = (struct place){&l->dw, w, sums, true};
	if (l->dbias)
		places[count++] = (struct place){&l->dbias, (size_t)(op->kind == MT_OP_LINEAR_DGRAD ? l->in : l->out), sums, true};
	return count;
}

static uint32_t align_of(const void *pointer)
{
	uintptr_t value = (uintptr_t)pointer | MT_ARENA_ALIGN_BYTES;
	return (uint32_t)(value & -value);
}

/* The room of a place, with one more unit so that it can begin where its alignment is as it was given. */
static size_t room_of(const struct place *place)
{
	size_t bytes = place->count * mt_dtype_bytes(place->dtype);
	return (bytes / MT_ARENA_ALIGN_BYTES + 2) * MT_ARENA_ALIGN_BYTES;
}

static cudaError_t take(struct trial *t, void *memory, size_t bytes)
{
	return cudaMallocAsync((void **)memory, bytes, cuda_stream(t->stream));
}

static void give_back(struct trial *t)
{
	void *all[] = {t->read, t->written, t->first, t->differs};
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

/* MT_NOMEM when it does not fit. */
static enum mt_status prepare(struct trial *t)
{
	struct place places[MOST_PLACES];
	int count = places_of(&t->op, places);
	struct mt_cuda_launch launch = t->cuda->launch;
	size_t read_at = 0, written_at = 0;
	launch.stream = cuda_stream(t->stream);
	for (int i = 0; i < count; i++)
		*(places[i].written ? &t->written_bytes : &t->read_bytes) += room_of(&places[i]);
	if (take(t, &t->read, t->read_bytes) || take(t, &t->written, t->written_bytes) || take(t, &t->first, t->written_bytes) ||
	    take(t, &t->differs, sizeof *t->differs)) {
		cudaGetLastError();
		return MT_NOMEM;
	}
	CUDA_TRY(cudaEventCreate(&t->start));
	CUDA_TRY(cudaEventCreate(&t->end));
	for (int i = 0; i < count; i++) {
		struct place *place = &places[i];
		size_t *at = place->written ? &written_at : &read_at;
		char *base = (place->written ? t->written : t->read) + *at;
		*at += room_of(place);
		*place->pointer = base + align_of(*place->pointer) % MT_ARENA_ALIGN_BYTES;
		if (!place->written)
			MT_TRY(mt_cuda_trial_fill(&launch, *place->pointer, (int64_t)place->count, place->dtype, (uint32_t)i + 1));
	}
	return MT_OK;
}

/* One run on cleared results, and whether they are those of the first way that was run. */
static enum mt_status agrees(struct trial *t, int way, bool is_first, bool *same)
{
	struct mt_cuda_launch launch = t->cuda->launch;
	cudaStream_t stream = cuda_stream(t->stream);
	int differs = 0;
	launch.stream = stream;
	CUDA_TRY(cudaMemsetAsync(t->written, 0, t->written_bytes, stream));
	MT_TRY(run_way(t->device, t->stream, &t->op, way));
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
static enum mt_status time_way(struct trial *t, int way, float *best_ms)
{
	for (int i = 0; i < ROUNDS; i++) {
		float ms;
		CUDA_TRY(cudaEventRecord(t->start, cuda_stream(t->stream)));
		MT_TRY(run_way(t->device, t->stream, &t->op, way));
		CUDA_TRY(cudaEventRecord(t->end, cuda_stream(t->stream)));
		CUDA_TRY(cudaEventSynchronize(t->end));
		CUDA_TRY(cudaEventElapsedTime(&ms, t->start, t->end));
		if (i == 0 || ms < *best_ms)
			*best_ms = ms;
	}
	return MT_OK;
}

/* `chosen` is the first that there is. */
static enum mt_status measure(struct trial *t, const bool possible[WAYS], int *chosen)
{
	float best_ms = 0, ms = 0;
	int first = *chosen;
	for (int way = first; way < WAYS; way++) {
		bool same = true;
		if (!possible[way])
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

static enum mt_status choose(struct mt_device *device, struct mt_stream *stream, const struct mt_op *op, int *way)
{
	struct trial t = {.cuda = cuda_of(device), .device = device, .stream = stream, .op = *op};
	bool possible[WAYS];
	for (int i = 0; i < WAYS; i++)
		MT_TRY(is_possible(device, stream, op, i, &possible[i]));
	*way = possible[0] ? 0 : possible[1] ? 1 : 2;
	if (*way == 2 || t.cuda->choice == CUDA_CHOICE_FIRST || op->linear.rows == 0)
		return MT_OK;
	enum mt_status st = prepare(&t);
	if (st == MT_OK)
		st = measure(&t, possible, way);
	else if (st == MT_NOMEM)
		st = MT_OK; /* the first, as if nothing were faster */
	give_back(&t);
	return st;
}

static void set_key(struct split_key *key, const struct mt_op *op)
{
	struct mt_op copy = *op;
	struct place places[MOST_PLACES];
	int count = places_of(&copy, places);
	memset(key, 0, sizeof *key);
	mt_op_key(op, &key->op);
	for (int i = 0; i < count; i++)
		key->align[i] = align_of(*places[i].pointer);
	key->bias_align = op->kind == MT_OP_LINEAR && op->linear.bias ? align_of(op->linear.bias) : 0;
}

enum mt_status cuda_product_fused(struct mt_device *device, struct mt_stream *stream, const struct mt_op *op)
{
	struct cuda_device *cuda = cuda_of(device);
	struct cuda_split *split;
	struct split_key key;
	set_key(&key, op);
	for (split = cuda->splits; split; split = split->next)
		if (memcmp(&split->key, &key, sizeof key) == 0)
			return run_way(device, stream, op, split->way);
	split = calloc(1, sizeof *split);
	if (!split)
		return mt_fail(MT_NOMEM, "CUDA: no host memory for the plan of a product");
	split->key = key;
	enum mt_status st = choose(device, stream, op, &split->way);
	if (st != MT_OK) {
		free(split);
		return st;
	}
	split->next = cuda->splits;
	cuda->splits = split;
	return run_way(device, stream, op, split->way);
}

void cuda_splits_close(struct cuda_device *cuda)
{
	while (cuda->splits) {
		struct cuda_split *next = cuda->splits->next;
		free(cuda->splits);
		cuda->splits = next;
	}
}
