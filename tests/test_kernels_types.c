/* Element types and the operations that move or update values: rounding, f32 and bf16 beside f64, copies, sums, AdamW. */
#include "tests/kernels_problem.h"

static void cast(void *dst, enum mt_dtype to, const void *src, enum mt_dtype from, int64_t count)
{
	struct mt_op op = {.move = {.count = count, .src_dtype = from, .dst_dtype = to, .src = src, .dst = dst}};
	run_as(to, MT_OP_CAST, op);
}

/* `count` doubles in another type. */
static void *typed(const double *x, enum mt_dtype dtype, int64_t count)
{
	void *y = fresh(count * (int64_t)mt_dtype_bytes(dtype));
	cast(y, dtype, x, MT_F64, count);
	return y;
}

static double *doubles(const void *x, enum mt_dtype dtype, int64_t count)
{
	double *y = zeros(count);
	cast(y, MT_F64, x, dtype, count);
	return y;
}

/* Normals that bf16 holds exactly, so that all types start from the same numbers. */
static double *coarse(int64_t count)
{
	return doubles(typed(normals(count), MT_BF16, count), MT_BF16, count);
}

static void bf16_rounds_to_nearest_even(void **state)
{
	static const struct {
		float value;
		uint16_t bits;
	} cases[] = {
		{1.0f, 0x3f80},          {-2.5f, 0xc020},           {0x1.01p0f, 0x3f80}, /* halfway, to the even one below */
		{0x1.03p0f, 0x3f82},                                                     /* halfway, to the even one above */
		{0x1.010002p0f, 0x3f81}, {0x1.fffffep127f, 0x7f80},                      /* overflows to infinity */
		{INFINITY, 0x7f80},      {0x1p-133f, 0x0001},
	};
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		uint16_t bits = mt_bf16_from_f32(cases[i].value);
		if (bits != cases[i].bits)
			fail_msg("%a: bits %#x, expected %#x", (double)cases[i].value, bits, cases[i].bits);
	}
	assert_true(isnan(mt_bf16_to_f32(mt_bf16_from_f32(NAN))));
	for (uint32_t bits = 0; bits < 0x7f80; bits++)
		assert_int_equal(mt_bf16_from_f32(mt_bf16_to_f32((uint16_t)bits)), bits);
}

static void cast_keeps_what_the_type_can_hold(void **state)
{
	double values[] = {0, 1, -3, 1e9, 2.5, 3.5, 1e300, -1e300, NAN};
	int32_t expected[] = {0, 1, -3, 1000000000, 2, 4, INT32_MAX, INT32_MIN, 0}, found[9];
	cast(found, MT_I32, values, MT_F64, 9);
	for (int i = 0; i < 9; i++)
		if (found[i] != expected[i])
			fail_msg("%g as i32: %d, expected %d", values[i], found[i], expected[i]);
	double *x = coarse(20), *back = doubles(typed(x, MT_F32, 20), MT_F32, 20);
	assert_near("through f32", back, x, 20, 0);
}

static void fill_writes_every_element_and_no_more(void **state)
{
	for (int dtype = 0; dtype < MT_DTYPE_COUNT; dtype++) {
		double before[] = {7, 7, 7, 7}, expected[] = {-2, -2, -2, 7};
		void *x = typed(before, (enum mt_dtype)dtype, 4);
		struct mt_op op = {.move = {.count = 3, .dst_dtype = (enum mt_dtype)dtype, .value = -2, .dst = x}};
		run_as((enum mt_dtype)dtype, MT_OP_FILL, op);
		assert_near(mt_dtype_name((enum mt_dtype)dtype), doubles(x, (enum mt_dtype)dtype, 4), expected, 4, 0);
	}
}

static void copy_moves_rows_between_strides(void **state)
{
	for (int dtype = 0; dtype < MT_DTYPE_COUNT; dtype++) {
		enum mt_dtype t = (enum mt_dtype)dtype;
		double values[] = {1, 2, 3, 4, 5, 6}, eights[] = {8, 8, 8, 8, 8, 8, 8, 8}, expected[] = {1, 2, 8, 8, 4, 5, 8, 8};
		void *src = typed(values, t, 6), *dst = typed(eights, t, 8);
		run_as(t, MT_OP_COPY,
		       (struct mt_op){.move = {.rows = 2, .cols = 2, .src_stride = 3, .dst_stride = 4, .src = src, .dst = dst}});
		assert_near(mt_dtype_name(t), doubles(dst, t, 8), expected, 8, 0);
	}
}

/* Products, norms and activations in a narrow type are the f64 answer rounded: to dtype where op.h says dtype, to f32
 * where it says f32. */
static void narrow_types_are_the_f64_answer_rounded(void **state)
{
	const int64_t rows = 5, in = 6, out = 4;
	double *x = coarse(rows * in), *w = coarse(out * in), *bias = coarse(out), *dy = coarse(rows * out),
	       *start = coarse(out * in);
	double *y = zeros(rows * out), *dw = copied(start, out * in);
	run(MT_OP_LINEAR, (struct mt_op){.linear = {rows, in, out, x, w, bias, dy, y, NULL, dw}});
	run(MT_OP_LINEAR_WGRAD, (struct mt_op){.linear = {rows, in, out, x, w, bias, dy, y, NULL, dw}});
	for (enum mt_dtype t = MT_F32; t <= MT_BF16; t++) {
		struct mt_op op = {.linear = {rows, in, out, typed(x, t, rows * in), typed(w, t, out * in), typed(bias, t, out)}};
		op.linear.dy = typed(dy, t, rows * out);
		op.linear.y = fresh(rows * out * 4);
		op.linear.dw = typed(start, MT_F32, out * in);
		run_as(t, MT_OP_LINEAR, op);
		run_as(t, MT_OP_LINEAR_WGRAD, op);
		assert_near("y", doubles(op.linear.y, t, rows * out), doubles(typed(y, t, rows * out), t, rows * out), rows * out,
			    0);
		assert_near("dw", doubles(op.linear.dw, MT_F32, out * in), dw, out * in, 1e-6);
	}
}

static void narrow_norms_keep_f32_statistics(void **state)
{
	const int64_t rows = 3, cols = 8;
	double *x = coarse(rows * cols), *gain = coarse(cols), *bias = coarse(cols), *y = zeros(rows * cols);
	double *mean = zeros(rows), *rstd = zeros(rows);
	struct mt_op op = {.norm = {.rows = rows, .cols = cols, .eps = 1e-5, .x = x, .y = y, .gain = gain, .bias = bias}};
	op.norm.mean = mean;
	op.norm.rstd = rstd;
	run(MT_OP_NORM, op);
	for (enum mt_dtype t = MT_F32; t <= MT_BF16; t++) {
		op.norm.x = typed(x, t, rows * cols);
		op.norm.gain = typed(gain, t, cols);
		op.norm.bias = typed(bias, t, cols);
		op.norm.y = fresh(rows * cols * 4);
		op.norm.mean = fresh(rows * 4);
		op.norm.rstd = fresh(rows * 4);
		run_as(t, MT_OP_NORM, op);
		assert_near("mean", doubles(op.norm.mean, MT_F32, rows), mean, rows, 1e-7);
		assert_near("rstd", doubles(op.norm.rstd, MT_F32, rows), rstd, rows, 1e-7);
		assert_near("y", doubles(op.norm.y, t, rows * cols), y, rows * cols, t == MT_BF16 ? 1.0 / 256 : 1e-7);
	}
}

static void sumsq_adds_to_what_is_there(void **state)
{
	double x[] = {3, 4, -12}, out = 100;
	float narrow[] = {3, 4, -12};
	run(MT_OP_SUMSQ, (struct mt_op){.sumsq = {3, x, &out}});
	run_as(MT_BF16, MT_OP_SUMSQ, (struct mt_op){.sumsq = {2, narrow, &out}});
	assert_true(out == 100 + 169 + 25);
	run(MT_OP_SUMSQ, (struct mt_op){.sumsq = {0, x, &out}});
	assert_true(out == 100 + 169 + 25);
}

static void bias_grad_adds_the_column_sums(void **state)
{
	double a[] = {1, 2, 3, 4, 5, 6}, sums[] = {10, 20, 30}, expected[] = {15, 27, 39};
	run(MT_OP_BIAS_GRAD, (struct mt_op){.add = {2, 3, a, NULL, NULL, sums}});
	assert_near("dbias", sums, expected, 3, 0);
}

static void out_of_add_may_be_a_or_b(void **state)
{
	int64_t rows = 4, cols = 3, whole = 12;
	double *a = normals(whole), *b = normals(whole), *bias = normals(cols), *expected = zeros(whole);
	for (int64_t i = 0; i < whole; i++)
		expected[i] = a[i] + b[i] + bias[i % cols];
	double *in_a = copied(a, whole), *in_b = copied(b, whole);
	run(MT_OP_ADD, (struct mt_op){.add = {rows, cols, in_a, b, bias, in_a}});
	run(MT_OP_ADD, (struct mt_op){.add = {rows, cols, a, in_b, bias, in_b}});
	assert_near("in place of a", in_a, expected, whole, 0);
	assert_near("in place of b", in_b, expected, whole, 0);
	run(MT_OP_ADD, (struct mt_op){.add = {rows, cols, a, NULL, NULL, in_a}});
	assert_near("a alone", in_a, a, whole, 0);
}

/* Three steps of AdamW in f64, written out. */
static void adamw_equals_its_formula(void **state)
{
	const int64_t count = 17;
	double *p = normals(count), *m = zeros(count), *v = zeros(count), *copy = zeros(count);
	double *hand = copied(p, count), *hand_m = zeros(count), *hand_v = zeros(count);
	struct mt_op op = {.adamw = {.count = count, .lr = 0.01, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .decay = 0.1}};
	op.adamw.grad_scale = 0.5;
	op.adamw.master = p;
	op.adamw.m = m;
	op.adamw.v = v;
	op.adamw.param = copy;
	for (int64_t step = 1; step <= 3; step++) {
		double *grad = normals(count);
		op.adamw.step = step;
		op.adamw.grad = grad;
		run(MT_OP_ADAMW, op);
		for (int64_t i = 0; i < count; i++) {
			double g = grad[i] * 0.5;
			hand_m[i] = 0.9 * hand_m[i] + 0.1 * g;
			hand_v[i] = 0.95 * hand_v[i] + 0.05 * g * g;
			double first = hand_m[i] / (1 - pow(0.9, (double)step)), second = hand_v[i] / (1 - pow(0.95, (double)step));
			hand[i] -= 0.01 * (first / (sqrt(second) + 1e-8) + 0.1 * hand[i]);
		}
		assert_near("master", p, hand, count, 1e-14);
		assert_near("m", m, hand_m, count, 1e-14);
		assert_near("v", v, hand_v, count, 1e-14);
		assert_near("param", copy, p, count, 0);
	}
}

/* param in bf16 is the master rounded; in f32 it may be the master. */
static void adamw_param_is_the_master_in_the_type_of_the_op(void **state)
{
	const int64_t count = 9;
	double *values = coarse(count), *grad = coarse(count);
	float *separate = typed(values, MT_F32, count), *shared = typed(values, MT_F32, count);
	uint16_t *param = fresh(count * 2);
	struct mt_op op = {
		.adamw = {.count = count, .step = 1, .lr = 0.1, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .grad_scale = 1}};
	op.adamw.grad = typed(grad, MT_F32, count);
	op.adamw.m = fresh(count * 4);
	op.adamw.v = fresh(count * 4);
	op.adamw.master = separate;
	op.adamw.param = param;
	run_as(MT_BF16, MT_OP_ADAMW, op);
	op.adamw.m = fresh(count * 4);
	op.adamw.v = fresh(count * 4);
	op.adamw.master = op.adamw.param = shared;
	run_as(MT_F32, MT_OP_ADAMW, op);
	for (int64_t i = 0; i < count; i++) {
		if (separate[i] != shared[i])
			fail_msg("master[%d]: %.9g beside a bf16 param, %.9g as its own", (int)i, (double)separate[i],
				 (double)shared[i]);
		assert_int_equal(param[i], mt_bf16_from_f32(separate[i]));
	}
}

int main(void)
{
#define PROPERTY(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		PROPERTY(bf16_rounds_to_nearest_even),
		PROPERTY(cast_keeps_what_the_type_can_hold),
		PROPERTY(fill_writes_every_element_and_no_more),
		PROPERTY(copy_moves_rows_between_strides),
		PROPERTY(narrow_types_are_the_f64_answer_rounded),
		PROPERTY(narrow_norms_keep_f32_statistics),
		PROPERTY(sumsq_adds_to_what_is_there),
		PROPERTY(bias_grad_adds_the_column_sums),
		PROPERTY(out_of_add_may_be_a_or_b),
		PROPERTY(adamw_equals_its_formula),
		PROPERTY(adamw_param_is_the_master_in_the_type_of_the_op),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
