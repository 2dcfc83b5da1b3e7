/* product_fused: products with GELU or a bias' gradient: which of cuBLASLt's epilogues, and which kernels of our own in their
 * place.
 *
 * There are up to three ways, from all in one to nothing in one. Way 0: the product with the whole epilogue. Way 1: the gradient
 * through GELU as the epilogue, the bias' gradient as a kernel (dgrad in bf16 and f16, whose vector of sums cuBLASLt would round
 * to their type). Way 2: the product, then kernels. Shape, type and alignment say which there are, and the first of these is the
 * answer. The others are timed against it on operands of their own when a shape is first met, and take its place where they are
 * faster, by the rule of measure.h; with MEGATUNE_CUBLASLT=first nothing is timed. */
#include "kernels/cuda/measure.h"
#include "kernels/cuda/trial.h"

#include "kernels/fp8.h"

#include <stdlib.h>
#include <string.h>

enum { WAYS = 3, MOST_PLACES = 5 };

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
	struct cuda_trial on;
	struct mt_device *device;
	struct mt_op op; /* on operands of its own */
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

static enum mt_status prepare(struct trial *t)
{
	struct place places[MOST_PLACES];
	int count = places_of(&t->op, places);
	struct mt_cuda_launch launch = t->on.cuda->launch;
	size_t bytes[2] = {0}, at[2] = {0}; /* read, written */
	char *base[2];
	launch.stream = cuda_stream(t->on.stream);
	for (int i = 0; i < count; i++)
		bytes[places[i].written] += room_of(&places[i]);
	MT_TRY(cuda_trial_take(&t->on, &base[false], bytes[false]));
	MT_TRY(cuda_trial_prepare(&t->on, bytes[true]));
	base[true] = t->on.written;
	for (int i = 0; i < count; i++) {
		struct place *place = &places[i];
		char *here = base[place->written] + at[place->written];
		at[place->written] += room_of(place);
		*place->pointer = here + align_of(*place->pointer) % MT_ARENA_ALIGN_BYTES;
		if (!place->written)
			MT_TRY(mt_cuda_trial_fill(&launch, *place->pointer, (int64_t)place->count, place->dtype, (uint32_t)i + 1));
	}
	return MT_OK;
}

static enum mt_status run_trial(void *context, int way)
{
	struct trial *t = context;
	return run_way(t->device, t->on.stream, &t->op, way);
}

static enum mt_status choose(struct mt_device *device, struct mt_stream *stream, const struct mt_op *op, int *way)
{
	struct trial t = {.on = {.cuda = cuda_of(device), .stream = stream, .run = run_trial}, .device = device, .op = *op};
	bool possible[WAYS];
	t.on.context = &t;
	for (int i = 0; i < WAYS; i++)
		MT_TRY(is_possible(device, stream, op, i, &possible[i]));
	*way = possible[0] ? 0 : possible[1] ? 1 : 2;
	if (*way == 2 || t.on.cuda->choice == CUDA_CHOICE_FIRST || op->linear.rows == 0)
		return MT_OK;
	enum mt_status st = prepare(&t);
	if (st == MT_OK)
		st = cuda_trial_choose(&t.on, possible, WAYS, way);
	else if (st == MT_NOMEM)
		st = MT_OK; /* the first, as if nothing were faster */
	cuda_trial_end(&t.on);
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
