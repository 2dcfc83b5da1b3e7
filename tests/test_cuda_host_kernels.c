/* Our CUDA kernels, run on the processor, against the reference device in f64: each in f32, bf16 and f16, sizes odd and whole,
 * aligned and not, outputs that alias inputs, outputs and scratch poisoned with NaN first. And: the same bits in whatever order
 * threads and blocks run. */
#define SLACK_BYTES 0 /* so that the address sanitizer sees the ends */
#include "tests/kernels_operands.h"

#include "tests/cuda_host/device.h"

static void solve_emulated(const struct problem *problem, enum mt_dtype dtype, uint64_t seed, void **data)
{
	struct mt_device *device = open_emulated();
	assert_non_null(device);
	cuda_host_seed(seed);
	solve(problem, device, dtype, dtype, data);
	cuda_host_seed(0);
	mt_device_destroy(device);
}

static void assert_same(const struct problem *problem, void **one, void **other, enum mt_dtype dtype)
{
	for (int n = 0; n < problem->count; n++) {
		const struct operand *o = &problem->operands[n];
		size_t width = width_of(o, dtype);
		char text[96];
		if (memcmp(elements_of(problem, one[n], width), elements_of(problem, other[n], width),
			   (size_t)size_of(o) * width) == 0)
			continue;
		describe(problem, dtype, text);
		fail_msg("%s: %s depends on the order of threads", text, o->name);
	}
}

/* Each operand at an aligned address, and each one element past one. */
static void check_emulated(const struct problem *given)
{
	static const enum mt_dtype dtypes[] = {MT_F32, MT_BF16, MT_F16};
	struct problem problem = *given;
	struct mt_device *reference = NULL;
	assert_int_equal(mt_device_create(&reference, &(struct mt_device_config){.kind = "reference"}), MT_OK);
	for (int i = 0; i < 6; i++) {
		const enum mt_dtype dtype = dtypes[i % 3];
		void *want[MOST_OPERANDS], *got[MOST_OPERANDS], *again[MOST_OPERANDS];
		problem.shift = i / 3;
		solve(&problem, reference, MT_F64, dtype, want);
		solve_emulated(&problem, dtype, 0, got);
		for (int n = 0; n < problem.count; n++)
			if (problem.operands[n].role != IN)
				compare(&problem, &problem.operands[n], got[n], want[n], dtype,
					i / 3 ? "emulated CUDA, unaligned" : "emulated CUDA");
		solve_emulated(&problem, dtype, 7, again);
		assert_same(&problem, got, again, dtype);
		release(want, problem.count);
		release(got, problem.count);
		release(again, problem.count);
	}
	mt_device_destroy(reference);
}

/* The output `out` becomes another name of the input `in`. */
static void merge(struct problem *problem, const char *in, const char *out)
{
	struct operand *from = NULL, *to = NULL;
	for (int n = 0; n < problem->count; n++) {
		from = strcmp(problem->operands[n].name, in) == 0 ? &problem->operands[n] : from;
		to = strcmp(problem->operands[n].name, out) == 0 ? &problem->operands[n] : to;
	}
	assert_true(from && to);
	from->role = INOUT;
	from->alias = to->offset;
	memmove(to, to + 1, (size_t)(&problem->operands[--problem->count] - to) * sizeof *to);
}

#define MERGED(name, in, out)                                                                                                      \
	static void name(const struct problem *given)                                                                              \
	{                                                                                                                          \
		struct problem problem = *given;                                                                                   \
		merge(&problem, in, out);                                                                                          \
		check_emulated(&problem);                                                                                          \
	}
MERGED(sum_is_residual, "residual", "sum")
MERGED(sum_is_x, "x", "sum")
MERGED(dx_is_dresidual, "dresidual", "dx")
MERGED(dx_is_x, "x", "dx")
MERGED(out_is_a, "a", "out")
MERGED(out_is_b, "b", "out")

/* Without `sum`: the forward pass alone. */
static void forward_without_sum(const struct problem *given)
{
	struct problem problem = *given;
	problem.kinds[1] = problem.kinds[0];
	for (int n = problem.count - 1; n >= 0; n--) {
		struct operand *o = &problem.operands[n];
		if (strcmp(o->name, "sum") == 0 || o->name[0] == 'd')
			memmove(o, o + 1, (size_t)(&problem.operands[--problem.count] - o) * sizeof *o);
	}
	check_emulated(&problem);
}

static const int64_t odd_sizes[] = {1, 3, 7, 17, 64, 129};
#define ODD_COUNT (int)(sizeof odd_sizes / sizeof *odd_sizes)

static int64_t pick(uint64_t index)
{
	return odd_sizes[mt_random_integer(9, 0, index, ODD_COUNT)];
}

static void norms_equal_reference(void **state)
{
	for (uint64_t i = 0; i < 12; i++)
		norm(check_emulated, i % 2 ? MT_NORM_RMS : MT_NORM_LAYER, pick(31 + 2 * i), 2 + pick(32 + 2 * i), i & 2, i & 4,
		     i & 8);
	/* Whole vectors: a warp a row, several, all threads; two and four vectors a thread. */
	norm(check_emulated, MT_NORM_LAYER, 67, 768, true, true, true);
	norm(check_emulated, MT_NORM_RMS, 19, 8, false, false, false);
	norm(check_emulated, MT_NORM_RMS, 9, 1000, false, true, true);
	norm(check_emulated, MT_NORM_LAYER, 5, 4104, true, true, false);
	/* Too long for registers: f32 forward, both backward. */
	norm(check_emulated, MT_NORM_LAYER, 2, 16400, true, true, true);
}

static void norms_may_alias(void **state)
{
	for (int64_t cols = 257; cols <= 264; cols += 7) {
		norm(sum_is_residual, MT_NORM_RMS, 11, cols, false, true, false);
		norm(sum_is_residual, MT_NORM_LAYER, 11, cols, true, true, true);
		norm(sum_is_x, MT_NORM_LAYER, 11, cols, true, true, false);
		norm(dx_is_dresidual, MT_NORM_LAYER, 11, cols, false, true, true);
		norm(dx_is_dresidual, MT_NORM_RMS, 11, cols, false, false, true);
		norm(forward_without_sum, MT_NORM_LAYER, 11, cols, true, true, false);
		norm(forward_without_sum, MT_NORM_RMS, 11, cols, false, false, false);
	}
	norm(dx_is_dresidual, MT_NORM_RMS, 2, 8200, false, true, true); /* four vectors a thread, in bf16 */
}

static void activations_equal_reference(void **state)
{
	for (int kind = MT_GELU; kind <= MT_SWIGLU; kind++) {
		for (uint64_t i = 0; i < 4; i++)
			activation(check_emulated, kind, pick(61 + 2 * i), pick(62 + 2 * i), i < 2 ? 1.0 : 20.0);
		activation(check_emulated, kind, 33, 776, 3.0);
		activation(check_emulated, kind, 9, 304, 1000.0);
		activation(check_emulated, kind, 3, 64, kind == MT_GELU ? 1e25 : 1e15);
		activation(dx_is_x, kind, 17, 136, 2.0);
		activation(dx_is_x, kind, 17, 133, 2.0);
	}
}

static void norm_of_heads_equals_reference(void **state)
{
	head_norm(check_emulated, 1, 1, 8, 0);
	head_norm(check_emulated, 19, 3, 128, 16);
	head_norm(check_emulated, 70, 5, 10, 3);
}

static void stretched_rope_equals_reference(void **state)
{
	ropes_stretched(check_emulated);
}

static void spread_equals_reference(void **state)
{
	spread(check_emulated, 1, 1, 8, 8, 8);
	spread(check_emulated, 37, 4, 16, 8, 24);
	spread(check_emulated, 5, 3, 7, 2, 5);
	spread(check_emulated, 33, 2, 128, 64, 128);
}

static void rope_equals_reference(void **state)
{
	rope(check_emulated, 1, 1, 1, 2, 0, 1);
	rope(check_emulated, 2, 17, 3, 6, 0, 1);
	rope(check_emulated, 2, 33, 5, 64, 1000, 1);
	rope(check_emulated, 1, 7, 2, 128, 3, -1);
	rope(check_emulated, 1, 5, 3, 80, 131000, 1);
	rope(check_emulated, 1, 3, 1, 512, 1000000, -1);
	placed_rope(check_emulated, 2, 17, 3, 16, 40, 1);
	placed_rope(check_emulated, 1, 9, 2, 64, 3000, -1);
}

/* Words in [0, range) of `count` from `first` on. */
static void uneven_words(int64_t rows, int64_t cols, int64_t first, int64_t count, int64_t range)
{
	struct problem p = start(MT_OP_EMBEDDING, MT_OP_EMBEDDING_BWD, 4e-6, 6e-3);
	p.op.embedding = (struct mt_embedding){.rows = rows, .cols = cols, .seq = rows, .first = first, .count = count};
	words(add(&p, "tokens", AT(embedding.tokens), IN, WORD, 1, rows), 0, range);
	add(&p, "table", AT(embedding.table), IN, ACT, count, cols);
	add(&p, "y", AT(embedding.y), OUT, ACT, rows, cols);
	add(&p, "dy", AT(embedding.dy), IN, ACT, rows, cols);
	add(&p, "dtable", AT(embedding.dtable), INOUT, STAT, count, cols);
	check_emulated(&p);
}

static void embeddings_equal_reference(void **state)
{
	embedding(check_emulated, 1, 1, 1, true, 0);
	embedding(check_emulated, 34, 129, 17, true, 0);
	embedding(check_emulated, 12, 65, 8, true, 5);
	embedding(check_emulated, 40, 704, 10, true, 7);
	embedding(check_emulated, 40, 1096, 50, true, 0);
	placed_embedding(check_emulated, 50, 65, 7);
	placed_embedding(check_emulated, 90, 64, 40);
	uneven_words(1500, 16, 0, 70000, 70000); /* three digits, several tiles */
	uneven_words(1100, 8, 1, 3, 3);          /* runs over many blocks, and rows that are not ours */
	uneven_words(2100, 8, 0, 256, 300);
	uneven_words(65, 24, 0, 1, 1);   /* one word */
	uneven_words(40, 24, 10, 5, 10); /* none of ours */
}

static void additions_equal_reference(void **state)
{
	for (uint64_t i = 0; i < 8; i++)
		addition(check_emulated, MT_OP_ADD, pick(91 + 2 * i), pick(92 + 2 * i), i & 1, i & 2);
	addition(check_emulated, MT_OP_ADD, 33, 776, true, true);
	for (int64_t cols = 133; cols <= 136; cols += 3) {
		addition(out_is_a, MT_OP_ADD, 17, cols, true, true);
		addition(out_is_b, MT_OP_ADD, 17, cols, true, false);
	}
	for (uint64_t i = 0; i < 4; i++)
		addition(check_emulated, MT_OP_BIAS_GRAD, pick(121 + 2 * i), pick(122 + 2 * i), false, false);
	addition(check_emulated, MT_OP_BIAS_GRAD, 700, 1031, false, false);
	addition(check_emulated, MT_OP_BIAS_GRAD, 300, 520, false, false);
}

static void loss_equals_reference(void **state)
{
	loss_stats(check_emulated, 1, 1, 0, 1);
	loss_stats(check_emulated, 17, 129, 0, 120);
	loss_stats(check_emulated, 5, 33, 64, 90);
	loss_stats(check_emulated, 9, 136, 0, 131);
	loss_stats(check_emulated, 4, 50304, 0, 50257);
	loss(check_emulated, 1, 3, 0, 3, 1.0);
	loss(check_emulated, 17, 129, 0, 200, 0.25);
	loss(check_emulated, 7, 136, 136, 203, 0.25);
	loss(check_emulated, 7, 65, 0, 65, 0.0);
	loss(check_emulated, 3, 20008, 0, 20001, 0.5);
}

static void optimizer_equals_reference(void **state)
{
	for (int i = 0; i < ODD_COUNT; i++) {
		adamw(check_emulated, odd_sizes[i], 1 + 10 * i);
		sumsq(check_emulated, odd_sizes[i] * 700);
		sgd(check_emulated, odd_sizes[i], i % 3, i % 2);
		sgd(check_emulated, odd_sizes[i] * 131, true, i % 2);
		combine(check_emulated, odd_sizes[i] * 67, i % 2, i % 3 == 0);
	}
	adamw(check_emulated, 20003, 1000);
	sumsq(check_emulated, 4 * 256 * 512 + 1029); /* more than one round of all slices */
}

/* param in f32 may be the master. */
static void f32_param_may_be_master(void **state)
{
	struct mt_device *device = open_emulated();
	struct mt_stream *stream = NULL;
	enum { COUNT = 1003 };
	float grad[COUNT], m[2][COUNT] = {{0}}, v[2][COUNT] = {{0}}, master[2][COUNT], param[COUNT];
	assert_int_equal(mt_stream_create(device, MT_STREAM_COMPUTE, "test", &stream), MT_OK);
	for (int i = 0; i < COUNT; i++) {
		grad[i] = (float)mt_random_normal(3, 0, (uint64_t)i);
		master[0][i] = master[1][i] = (float)mt_random_normal(3, 1, (uint64_t)i);
	}
	for (int k = 0; k < 2; k++) {
		struct mt_op op = {.kind = MT_OP_ADAMW, .dtype = MT_F32};
		op.adamw = (struct mt_adamw){.count = COUNT,
					     .step = 1,
					     .lr = 0.1,
					     .beta1 = 0.9,
					     .beta2 = 0.95,
					     .eps = 1e-8,
					     .decay = 0.1,
					     .grad_scale = 1,
					     .grad = grad,
					     .master = master[k],
					     .m = m[k],
					     .v = v[k],
					     .param = k ? master[k] : param};
		assert_int_equal(mt_device_enqueue(device, stream, &op), MT_OK);
	}
	assert_memory_equal(master[0], master[1], sizeof master[0]);
	assert_memory_equal(master[0], param, sizeof param);
	mt_stream_destroy(stream);
	mt_device_destroy(device);
}

/* Many tensors of uneven sizes, of two kinds of hyperparameters: one launch for each 56 of a kind, the bits of one by one. */
static void many_tensors_step_as_one_by_one(void **state)
{
	enum { TENSORS = 130, OTHERS = 60 };
	struct mt_device *device = open_emulated();
	struct mt_stream *stream = NULL;
	struct mt_op ops[TENSORS];
	float *memory[2];
	int64_t offsets[TENSORS + 1] = {0};
	for (int t = 0; t < TENSORS; t++)
		offsets[t + 1] = offsets[t] + (t % 7 == 3 ? 0 : t % 11 == 5 ? 9001 : 1 + 17 * t % 64);
	int64_t total = offsets[TENSORS];
	assert_int_equal(mt_stream_create(device, MT_STREAM_COMPUTE, "test", &stream), MT_OK);
	for (int k = 0; k < 2; k++) {
		memory[k] = malloc((size_t)(5 * total) * sizeof(float));
		for (int64_t i = 0; i < 5 * total; i++)
			memory[k][i] = fabsf((float)mt_random_normal(4, 0, (uint64_t)i));
		for (int t = 0; t < TENSORS; t++) {
			float *at = memory[k] + offsets[t];
			ops[t] = (struct mt_op){.kind = MT_OP_ADAMW, .dtype = MT_BF16};
			ops[t].adamw = (struct mt_adamw){.count = offsets[t + 1] - offsets[t],
							 .step = 3,
							 .lr = 0.1,
							 .beta1 = 0.9,
							 .beta2 = t < OTHERS ? 0.95 : 0.99,
							 .eps = 1e-8,
							 .decay = t % 2 * 0.1,
							 .grad_scale = 1,
							 .grad = at,
							 .master = at + total,
							 .m = at + 2 * total,
							 .v = at + 3 * total,
							 .param = at + 4 * total};
		}
		cuda_host_launches();
		if (k) {
			assert_int_equal(mt_device_enqueue_many(device, stream, ops, TENSORS), MT_OK);
			assert_in_range(cuda_host_launches(), 2, 4);
		} else {
			for (int t = 0; t < TENSORS; t++)
				assert_int_equal(mt_device_enqueue(device, stream, &ops[t]), MT_OK);
		}
	}
	assert_memory_equal(memory[0], memory[1], (size_t)(5 * total) * sizeof(float));
	free(memory[0]);
	free(memory[1]);
	mt_stream_destroy(stream);
	mt_device_destroy(device);
}

/* NaN in, NaN out: no comparison or bound in a kernel may lose it. */
static void nan_is_kept(void **state)
{
	struct mt_device *device = open_emulated();
	struct mt_stream *stream = NULL;
	float x[16], y[8], dy[8] = {1, 1, 1, 1, 1, 1, 1, 1}, dx[16], stats[3], loss[1];
	int32_t target = 2;
	assert_int_equal(mt_stream_create(device, MT_STREAM_COMPUTE, "test", &stream), MT_OK);
	for (int kind = MT_GELU; kind <= MT_SWIGLU; kind++) {
		struct mt_op op = {.kind = MT_OP_ACTIVATION, .dtype = MT_F32};
		for (int i = 0; i < 16; i++)
			x[i] = i == 3 ? NAN : 1;
		op.activation = (struct mt_activation){.kind = kind, .rows = 1, .cols = 8, .x = x, .dy = dy, .y = y, .dx = dx};
		assert_int_equal(mt_device_enqueue(device, stream, &op), MT_OK);
		op.kind = MT_OP_ACTIVATION_BWD;
		assert_int_equal(mt_device_enqueue(device, stream, &op), MT_OK);
		assert_true(isnan(y[3]) && isnan(dx[3]) && !isnan(y[4]) && !isnan(dx[4]));
	}
	struct mt_op op = {.kind = MT_OP_LOSS_STATS, .dtype = MT_F32};
	op.loss = (struct mt_loss){.rows = 1,
				   .cols = 16,
				   .vocab = 16,
				   .parts = 1,
				   .logits = x,
				   .targets = &target,
				   .stats = stats,
				   .all_stats = stats,
				   .loss = loss,
				   .grad_scale = 1};
	assert_int_equal(mt_device_enqueue(device, stream, &op), MT_OK);
	op.kind = MT_OP_LOSS;
	assert_int_equal(mt_device_enqueue(device, stream, &op), MT_OK);
	assert_true(isnan(loss[0]) && isnan(x[0]) && isnan(x[15]));
	mt_stream_destroy(stream);
	mt_device_destroy(device);
}

/* Logits of -inf are words of no probability, and a part may hold padding only. */
static void loss_takes_infinities_and_padding(void **state)
{
	struct mt_device *device = open_emulated();
	struct mt_stream *stream = NULL;
	float logits[8] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY, 1, -INFINITY, 1, 5}, stats[6], loss[1];
	int32_t target = 4;
	assert_int_equal(mt_stream_create(device, MT_STREAM_COMPUTE, "test", &stream), MT_OK);
	struct mt_op op = {.kind = MT_OP_LOSS_STATS, .dtype = MT_F32};
	op.loss = (struct mt_loss){.rows = 1, .cols = 8, .first = 8, .vocab = 7, .logits = logits, .targets = &target};
	op.loss.stats = stats + 3;
	assert_int_equal(mt_device_enqueue(device, stream, &op), MT_OK);
	assert_true(stats[3] == -INFINITY && stats[4] == 0 && stats[5] == 0);
	op.loss.first = 0, op.loss.stats = stats;
	assert_int_equal(mt_device_enqueue(device, stream, &op), MT_OK);
	assert_true(stats[0] == 1 && fabsf(stats[1] - 2) < 1e-6f && stats[2] == 1);
	op.kind = MT_OP_LOSS;
	op.loss.parts = 2, op.loss.all_stats = stats, op.loss.loss = loss, op.loss.grad_scale = 1;
	assert_int_equal(mt_device_enqueue(device, stream, &op), MT_OK);
	assert_true(fabsf(loss[0] - logf(2)) < 1e-6f);
	for (int i = 0; i < 8; i++)
		assert_true(fabsf(logits[i] - (i == 4 ? -0.5f : i == 6 ? 0.5f : 0)) < 1e-6f);
	mt_stream_destroy(stream);
	mt_device_destroy(device);
}

static void empty_shapes_do_nothing_and_f64_is_not_there(void **state)
{
	struct mt_device *device = open_emulated();
	struct mt_stream *stream = NULL;
	assert_int_equal(mt_stream_create(device, MT_STREAM_COMPUTE, "test", &stream), MT_OK);
	cuda_host_launches();
	for (int kind = MT_OP_NORM; kind < MT_OP_KIND_COUNT; kind++) {
		struct mt_op op = {.kind = (enum mt_op_kind)kind, .dtype = MT_BF16};
		/* Every width 1, every number of rows and every count 0. */
		switch (op.kind) {
		case MT_OP_NORM:
		case MT_OP_NORM_BWD:
			op.norm.cols = 1;
			break;
		case MT_OP_ACTIVATION:
		case MT_OP_ACTIVATION_BWD:
			op.activation.cols = 1;
			break;
		case MT_OP_ROPE:
			op.rope = (struct mt_rope){.seq = 1, .heads = 1, .head_dim = 2, .stride = 2, .sign = 1};
			break;
		case MT_OP_EMBEDDING:
		case MT_OP_EMBEDDING_BWD:
			op.embedding.cols = op.embedding.seq = 1;
			break;
		case MT_OP_ADD:
		case MT_OP_BIAS_GRAD:
			op.add.cols = 1;
			break;
		case MT_OP_LOSS_STATS:
		case MT_OP_LOSS:
			op.loss.cols = op.loss.vocab = op.loss.parts = 1;
			break;
		case MT_OP_AMAX:
		case MT_OP_FP8_SCALE:
		case MT_OP_QUANTIZE:
			op.quantize.cols = 1;
			op.quantize.to = MT_E4M3;
			break;
		case MT_OP_ADAMW:
			op.adamw.step = 1;
			break;
		case MT_OP_GROUPED ... MT_OP_GROUPED_WGRAD: /* products of cuBLASLt */
			continue;
		case MT_OP_ROUTE ... MT_OP_ROUTE_BWD:
			op.dtype = MT_F32;
			op.route.experts = op.route.choices = op.route.seq = 1;
			break;
		case MT_OP_DROP ... MT_OP_SUM_ROWS:
			if (op.kind <= MT_OP_DISPATCH)
				op.dtype = MT_F32;
			op.rows = (struct mt_rows){
				.cols = 1, .choices = 1, .experts = 1, .divide = 1, .slices = 1, .capacity = 1, .seq = 1};
			break;
		case MT_OP_EXPERT_ACT:
		case MT_OP_EXPERT_ACT_BWD:
			op.expert_act.act.cols = 1;
			break;
		case MT_OP_SPREAD:
		case MT_OP_SPREAD_BWD:
			op.spread = (struct mt_spread){.heads = 1, .nope = 1, .rotary = 1, .value = 1};
			break;
		default:
			op.move.cols = op.kind == MT_OP_COPY, op.move.src_stride = op.move.dst_stride = op.move.cols;
			break;
		}
		if (mt_device_enqueue(device, stream, &op) != MT_OK)
			fail_msg("%s: %s", mt_op_name(op.kind), mt_error_message());
		if (op.kind == MT_OP_CAST || op.kind == MT_OP_FILL || op.kind == MT_OP_COPY)
			continue;
		op.dtype = MT_F64;
		assert_int_equal(mt_device_enqueue(device, stream, &op), MT_UNAVAILABLE);
		mt_error_clear();
	}
	assert_int_equal(cuda_host_launches(), 0);
	mt_stream_destroy(stream);
	mt_device_destroy(device);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(norms_equal_reference),
		cmocka_unit_test(norms_may_alias),
		cmocka_unit_test(activations_equal_reference),
		cmocka_unit_test(norm_of_heads_equals_reference),
		cmocka_unit_test(stretched_rope_equals_reference),
		cmocka_unit_test(spread_equals_reference),
		cmocka_unit_test(rope_equals_reference),
		cmocka_unit_test(embeddings_equal_reference),
		cmocka_unit_test(additions_equal_reference),
		cmocka_unit_test(loss_equals_reference),
		cmocka_unit_test(optimizer_equals_reference),
		cmocka_unit_test(f32_param_may_be_master),
		cmocka_unit_test(many_tensors_step_as_one_by_one),
		cmocka_unit_test(nan_is_kept),
		cmocka_unit_test(loss_takes_infinities_and_padding),
		cmocka_unit_test(empty_shapes_do_nothing_and_f64_is_not_there),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
