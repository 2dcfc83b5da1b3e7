/* kernels_fp8: a device's roundings to fp8 against the reference device's, bit for bit: sizes odd and whole, aligned and not,
 * with numbers beyond the types' ends, infinities and NaN among them. */
#ifndef MT_TESTS_KERNELS_FP8_H
#define MT_TESTS_KERNELS_FP8_H

#include "kernels/fp8.h"
#include "tests/kernels_compare.h"

/* A pointer of an operation and the bytes behind it. */
struct fp8_operand {
	void **pointer;
	size_t bytes;
};

/* Runs an operation whose pointers are the host's. On a device that runs behind the host they become copies there, as far past an
 * aligned address, and are brought back. False when the device has no such operation. */
static inline bool fp8_enqueue(struct mt_device *device, struct mt_op *op, struct fp8_operand *operands, int count)
{
	struct mt_stream *stream = NULL;
	struct mt_arena *arena = NULL;
	void *host[8], *there[8];
	size_t total = 4096;

	assert_int_equal(mt_stream_create(device, MT_STREAM_COMPUTE, "test", &stream), MT_OK);
	for (int i = 0; i < count; i++)
		total += operands[i].bytes + 2 * MT_ARENA_ALIGN_BYTES;
	if (device->ops->async && mt_arena_create(&arena, "test", mt_device_memory(device), total) != MT_OK)
		fail_msg("%s", mt_error_message());
	for (int i = 0; i < count && arena; i++) {
		size_t past = (uintptr_t)*operands[i].pointer % 16;
		host[i] = *operands[i].pointer;
		if (!host[i])
			continue;
		if (mt_arena_alloc(arena, operands[i].bytes + 16, &there[i]) != MT_OK)
			fail_msg("%s", mt_error_message());
		there[i] = (char *)there[i] + past;
		*operands[i].pointer = there[i];
		if (mt_device_upload(device, stream, there[i], host[i], operands[i].bytes) != MT_OK)
			fail_msg("%s", mt_error_message());
	}
	enum mt_status st = mt_device_enqueue(device, stream, op);
	for (int i = 0; i < count && arena; i++)
		if (host[i] && mt_device_download(device, stream, host[i], there[i], operands[i].bytes) != MT_OK)
			fail_msg("%s", mt_error_message());
	mt_stream_destroy(stream);
	mt_arena_destroy(arena);
	if (st != MT_OK && st != MT_UNAVAILABLE)
		fail_msg("%s on %s: %s", mt_op_name(op->kind), device->info.kind, mt_error_message());
	return st == MT_OK;
}

static inline void fp8_run(struct mt_device *device, enum mt_op_kind kind, enum mt_dtype dtype, struct mt_quantize given)
{
	struct mt_op op = {.kind = kind, .dtype = dtype, .quantize = given};
	struct mt_quantize *q = &op.quantize;
	const size_t count = (size_t)(q->rows * q->cols), turned = (size_t)((q->rows + q->pad) * q->cols);
	const size_t numbers = kind == MT_OP_FP8_SCALE ? (size_t)q->cols * 4 : 4;
	struct fp8_operand operands[] = {{(void **)&q->x, count * mt_dtype_bytes(dtype)},
					 {&q->y, count},
					 {&q->y_t, turned},
					 {&q->amax, numbers},
					 {&q->scale, numbers},
					 {&q->inverse, numbers}};

	assert_true(fp8_enqueue(device, &op, operands, 6));
}

/* Normals times `spread`, at every 97th place something special. */
static inline void *fp8_values(enum mt_dtype dtype, int64_t count, double spread, bool with_nan)
{
	static const float special[] = {0.0f, -0.0f, 1e30f, -65000.0f, INFINITY, -INFINITY, 1e-9f, 448.0f, 464.0f, NAN};
	void *x = malloc((size_t)count * mt_dtype_bytes(dtype) + 1);
	int kinds = with_nan ? 10 : 9;

	for (int64_t i = 0; i < count; i++) {
		float value = (float)(mt_random_normal(21, 3, (uint64_t)i) * spread);
		if (i % 97 == 96)
			value = special[i / 97 % kinds];
		if (dtype == MT_F32)
			((float *)x)[i] = value;
		else
			((uint16_t *)x)[i] = dtype == MT_BF16 ? mt_bf16_from_f32(value) : mt_f16_from_f32(value);
	}
	return x;
}

/* pad: columns of zeros behind what is turned. */
static inline void fp8_check(struct mt_device *device, struct mt_device *reference, const char *name, enum mt_dtype dtype,
			     int64_t rows, int64_t cols, int64_t pad, int64_t shift, bool with_nan)
{
	int64_t count = rows * cols, most_codes = (rows + pad) * cols + shift;
	size_t width = mt_dtype_bytes(dtype);
	char *whole = fp8_values(dtype, count + shift, 3.0, with_nan);
	const void *x = whole + (size_t)shift * width;
	float scale = 37.5f;

	for (int to = MT_E4M3; to <= MT_E5M2; to++) {
		float most[2] = {0.25f, 0.25f};
		uint8_t *codes[2][2];
		for (int d = 0; d < 2; d++) {
			for (int t = 0; t < 2; t++) {
				codes[d][t] = malloc((size_t)most_codes + 1);
				memset(codes[d][t], 0xee, (size_t)most_codes);
			}
			fp8_run(d ? reference : device, MT_OP_QUANTIZE, dtype,
				(struct mt_quantize){.rows = rows,
						     .cols = cols,
						     .pad = pad,
						     .to = (enum mt_dtype)to,
						     .x = x,
						     .scale = &scale,
						     .y = codes[d][0] + shift,
						     .y_t = codes[d][1] + shift,
						     .amax = &most[d]});
		}
		for (int t = 0; t < 2; t++)
			for (int64_t i = 0; i < most_codes; i++)
				if (codes[0][t][i] != codes[1][t][i])
					fail_msg("%s: %lldx%lld %s to %s%s, shift %lld: code %lld is %#x, expected %#x", name,
						 (long long)rows, (long long)cols, mt_dtype_name(dtype),
						 mt_dtype_name((enum mt_dtype)to), t ? " turned" : "", (long long)shift,
						 (long long)i, codes[0][t][i], codes[1][t][i]);
		if (mt_f32_bits(most[0]) != mt_f32_bits(most[1]))
			fail_msg("%s: amax %g, expected %g", name, (double)most[0], (double)most[1]);
		/* Alone, and of one result only. */
		most[0] = 0.25f;
		fp8_run(device, MT_OP_AMAX, dtype, (struct mt_quantize){.rows = rows, .cols = cols, .x = x, .amax = &most[0]});
		assert_memory_equal(&most[0], &most[1], 4);
		for (int64_t c = 0; c < cols; c++)
			for (int64_t i = 0; i < pad; i++)
				assert_int_equal(codes[1][1][shift + c * (rows + pad) + rows + i], 0);
		memset(codes[0][1], 0xee, (size_t)most_codes);
		fp8_run(device, MT_OP_QUANTIZE, dtype,
			(struct mt_quantize){.rows = rows,
					     .cols = cols,
					     .pad = pad,
					     .to = (enum mt_dtype)to,
					     .x = x,
					     .scale = &scale,
					     .y_t = codes[0][1] + shift});
		assert_memory_equal(codes[0][1], codes[1][1], (size_t)most_codes);
		for (int d = 0; d < 4; d++)
			free(codes[d / 2][d % 2]);
	}
	free(whole);
}

static inline void fp8_check_sizes(struct mt_device *device, struct mt_device *reference, const char *name)
{
	static const int64_t sizes[][2] = {{1, 1}, {3, 7}, {64, 64}, {65, 129}, {16, 48}, {128, 80}, {1, 300}, {200, 3}};
	static const enum mt_dtype dtypes[] = {MT_F32, MT_BF16, MT_F16};

	for (int d = 0; d < 3; d++)
		for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
			for (int shift = 0; shift < 2; shift++)
				fp8_check(device, reference, name, dtypes[d], sizes[i][0], sizes[i][1],
					  i % 2 ? 0 : 16 - sizes[i][0] % 16, shift, i % 2);
}

static inline void fp8_check_scales(struct mt_device *device, struct mt_device *reference, const char *name)
{
	float amax[] = {0.0f, 1.0f, 3.0f, 448.0f, 1e-30f, 1e-45f, 3e38f, INFINITY, NAN, 0.1f};
	enum { COUNT = sizeof amax / sizeof *amax };

	for (int margin = -2; margin <= 3; margin++)
		for (int to = MT_E4M3; to <= MT_E5M2; to++) {
			float scales[2][2][COUNT];
			for (int d = 0; d < 2; d++)
				fp8_run(d ? reference : device, MT_OP_FP8_SCALE, MT_F32,
					(struct mt_quantize){.rows = 1,
							     .cols = COUNT,
							     .to = (enum mt_dtype)to,
							     .margin = margin,
							     .amax = amax,
							     .scale = scales[d][0],
							     .inverse = scales[d][1]});
			for (int i = 0; i < 2 * COUNT; i++)
				if (scales[0][i / COUNT][i % COUNT] != scales[1][i / COUNT][i % COUNT])
					fail_msg("%s: scale of %g", name, (double)amax[i % COUNT]);
			assert_true(scales[1][0][0] == 1 && scales[1][0][7] == 1 && scales[1][0][8] == 1);
			float exact = mt_fp8_most((enum mt_dtype)to) / 3.0f * ldexpf(1, -margin);
			assert_true(scales[1][0][2] == exact && scales[1][1][2] == 1 / exact);
		}
}

/* Random codes without NaN. */
static inline uint8_t *fp8_codes(enum mt_dtype dtype, int64_t count, uint64_t stream)
{
	uint8_t *codes = malloc((size_t)count);
	for (int64_t i = 0; i < count; i++) {
		float x = (float)mt_random_normal(5, stream, (uint64_t)i) * (dtype == MT_E4M3 ? 30.0f : 900.0f);
		codes[i] = dtype == MT_E4M3 ? mt_e4m3_from_f32(x) : mt_e5m2_from_f32(x);
	}
	return codes;
}

static inline double fp8_value(enum mt_dtype dtype, uint8_t code)
{
	return (double)(dtype == MT_E4M3 ? mt_e4m3_to_f32(code) : mt_e5m2_to_f32(code));
}

/* c(m,n) = sum over k of a(m,k) b(n,k), times both inverses, beside what the device gives. False when it has no such product. */
static inline bool fp8_check_product(struct mt_device *device, const char *name, enum mt_op_kind kind, int format,
				     enum mt_dtype dtype, int64_t rows, int64_t in, int64_t out)
{
	const enum mt_dtype dy_type = mt_fp8_gradient(format);
	const bool forward = kind == MT_OP_LINEAR, wgrad = kind == MT_OP_LINEAR_WGRAD;
	const int64_t m = wgrad ? out : rows, n = forward ? out : in, k = forward ? in : wgrad ? rows : out;
	const enum mt_dtype a_type = forward ? MT_E4M3 : dy_type, c_type = wgrad ? MT_F32 : dtype;
	uint8_t *a = fp8_codes(a_type, m * k, 1), *b = fp8_codes(MT_E4M3, n * k, 2);
	float a_inverse = 0.013f, b_inverse = 0.21f;
	void *c = malloc((size_t)(m * n) * 4), *bias = fp8_values(dtype, n, 1.0, false);
	struct mt_op op = {.kind = kind, .dtype = dtype};

	for (int64_t i = 0; i < m * n; i++)
		((float *)c)[i] = 0.5f; /* only wgrad reads it */
	for (int64_t i = 0; i < n; i++)
		put(bias, i, 0.25 * (double)(i % 7), mt_dtype_bytes(dtype), false);
	op.linear = (struct mt_linear){.rows = rows, .in = in, .out = out, .fp8 = format};
	if (forward) {
		op.linear.x = a, op.linear.w = b, op.linear.y = c, op.linear.bias = bias;
		op.linear.x_inverse = &a_inverse, op.linear.w_inverse = &b_inverse;
	} else if (wgrad) {
		op.linear.dy = a, op.linear.x = b, op.linear.dw = c;
		op.linear.dy_inverse = &a_inverse, op.linear.x_inverse = &b_inverse;
	} else {
		op.linear.dy = a, op.linear.w = b, op.linear.dx = c;
		op.linear.dy_inverse = &a_inverse, op.linear.w_inverse = &b_inverse;
	}
	struct mt_linear *l = &op.linear;
	struct fp8_operand operands[] = {{forward ? (void **)&l->x : (void **)&l->dy, (size_t)(m * k)},
					 {wgrad ? (void **)&l->x : (void **)&l->w, (size_t)(n * k)},
					 {forward ? &l->y
					  : wgrad ? &l->dw
						  : &l->dx,
					  (size_t)(m * n) * mt_dtype_bytes(c_type)},
					 {(void **)&l->bias, (size_t)n * mt_dtype_bytes(dtype)},
					 {forward ? (void **)&l->x_inverse : (void **)&l->dy_inverse, 4},
					 {wgrad ? (void **)&l->x_inverse : (void **)&l->w_inverse, 4}};
	bool ran = fp8_enqueue(device, &op, operands, 6);
	for (int64_t i = 0; i < m && ran; i++)
		for (int64_t j = 0; j < n; j++) {
			double sum = 0, size = 0;
			for (int64_t at = 0; at < k; at++) {
				double term = fp8_value(a_type, a[i * k + at]) * fp8_value(MT_E4M3, b[j * k + at]);
				sum += term;
				size += fabs(term);
			}
			double factor = (double)a_inverse * (double)b_inverse;
			double want = sum * factor + (forward ? 0.25 * (double)(j % 7) : wgrad ? 0.5 : 0);
			double got = get(c, i * n + j, mt_dtype_bytes(c_type), false);
			double unit = c_type == MT_F32 ? 0x1p-23 : c_type == MT_F16 ? 0x1p-11 : 0x1p-8;
			if (!(fabs(got - want) <= unit * fabs(want) + 4e-7 * size * factor + 1e-6))
				fail_msg("%s, %s, %lldx%lldx%lld %s: [%lld,%lld] is %.9g, expected %.9g", name, mt_op_name(kind),
					 (long long)rows, (long long)in, (long long)out, mt_dtype_name(dtype), (long long)i,
					 (long long)j, got, want);
		}
	free(a);
	free(b);
	free(c);
	free(bias);
	return ran;
}

/* Rows of groups, one of them empty, behind each other or turned and filled up. */
enum { FP8_GROUPS = 4, FP8_IN = 32, FP8_OUT_COLS = 48 };
static const int64_t fp8_offsets[FP8_GROUPS + 1] = {0, 5, 5, 38, 39};

/* matrix(rows, cols) of codes as the product of groups wants it turned: a block (cols, rows of the group filled up) each. */
static inline uint8_t *fp8_turn(const uint8_t *matrix, int64_t cols, int64_t *bytes)
{
	uint8_t *turned = calloc((size_t)(fp8_offsets[FP8_GROUPS] + FP8_GROUPS * 16), (size_t)cols), *to = turned;

	for (int g = 0; g < FP8_GROUPS; g++) {
		int64_t first = fp8_offsets[g], rows = fp8_offsets[g + 1] - first, filled = (rows + 15) / 16 * 16;

		for (int64_t r = 0; r < rows; r++)
			for (int64_t c = 0; c < cols; c++)
				to[c * filled + r] = matrix[(first + r) * cols + c];
		to += filled * cols;
	}
	*bytes = to - turned;
	return turned;
}

/* w(out, in) of each group to w(in, out). */
static inline uint8_t *fp8_turn_weights(const uint8_t *w)
{
	const int64_t size = FP8_IN * FP8_OUT_COLS;
	uint8_t *turned = malloc((size_t)(FP8_GROUPS * size));

	for (int64_t i = 0; i < FP8_GROUPS * size; i++)
		turned[i / size * size + i % FP8_IN * FP8_OUT_COLS + i % size / FP8_IN] = w[i];
	return turned;
}

/* One element of a grouped product and the size of its terms, in f64 from the codes. */
struct fp8_grouped {
	enum mt_op_kind kind;
	enum mt_dtype dy_type;
	const uint8_t *x, *dy, *w;
	float x_inverse, dy_inverse, w_inverse[FP8_GROUPS];
};

static inline double fp8_element(const struct fp8_grouped *p, int64_t i, double *size)
{
	const int64_t cols = p->kind == MT_OP_GROUPED ? FP8_OUT_COLS : FP8_IN, row = i / cols, col = i % cols;
	const bool wgrad = p->kind == MT_OP_GROUPED_WGRAD, forward = p->kind == MT_OP_GROUPED;
	int64_t group = 0;
	double sum = 0, factor;

	while (wgrad ? row >= (group + 1) * FP8_OUT_COLS : row >= fp8_offsets[group + 1])
		group++;
	factor = (double)(wgrad ? p->x_inverse : p->w_inverse[group]) * (double)(forward ? p->x_inverse : p->dy_inverse);
	const int64_t first = wgrad ? fp8_offsets[group] : 0;
	const int64_t last = wgrad ? fp8_offsets[group + 1] : forward ? FP8_IN : FP8_OUT_COLS;
	const uint8_t *w = p->w + group * FP8_IN * FP8_OUT_COLS;
	for (int64_t k = first; k < last; k++) {
		double term =
			forward ? fp8_value(MT_E4M3, p->x[row * FP8_IN + k]) * fp8_value(MT_E4M3, w[col * FP8_IN + k])
			: wgrad ? fp8_value(p->dy_type, p->dy[k * FP8_OUT_COLS + row % FP8_OUT_COLS]) *
					  fp8_value(MT_E4M3, p->x[k * FP8_IN + col])
				: fp8_value(p->dy_type, p->dy[row * FP8_OUT_COLS + k]) * fp8_value(MT_E4M3, w[k * FP8_IN + col]);
		sum += term;
		*size += fabs(term * factor);
	}
	return sum * factor;
}

/* The products of groups against that. False when the device has none. */
static inline bool fp8_check_grouped(struct mt_device *device, const char *name, enum mt_op_kind kind, int format,
				     enum mt_dtype dtype)
{
	const bool wgrad = kind == MT_OP_GROUPED_WGRAD, forward = kind == MT_OP_GROUPED;
	const int64_t rows = fp8_offsets[FP8_GROUPS], size = FP8_GROUPS * FP8_IN * FP8_OUT_COLS;
	const int64_t count = wgrad ? size : rows * (forward ? FP8_OUT_COLS : FP8_IN);
	const enum mt_dtype dy_type = mt_fp8_gradient(format), c_type = wgrad ? MT_F32 : dtype;
	uint8_t *x = fp8_codes(MT_E4M3, rows * FP8_IN, 1), *dy = fp8_codes(dy_type, rows * FP8_OUT_COLS, 2),
		*w = fp8_codes(MT_E4M3, size, 3);
	int64_t x_bytes = rows * FP8_IN, dy_bytes = rows * FP8_OUT_COLS;
	uint8_t *x_turned = fp8_turn(x, FP8_IN, wgrad ? &x_bytes : &(int64_t){0});
	uint8_t *dy_turned = fp8_turn(dy, FP8_OUT_COLS, wgrad ? &dy_bytes : &(int64_t){0}), *w_turned = fp8_turn_weights(w);
	struct fp8_grouped p = {kind, dy_type, x, dy, w, 0.013f, 0.0021f, {0.5f, 0.25f, 0.7f, 1.5f}};
	void *c = calloc((size_t)count, 4);
	struct mt_op op = {.kind = kind, .dtype = dtype};
	struct mt_linear *l = &op.grouped.linear;

	op.grouped = (struct mt_grouped){.groups = FP8_GROUPS, .offsets = fp8_offsets};
	*l = (struct mt_linear){.rows = rows, .in = FP8_IN, .out = FP8_OUT_COLS, .fp8 = format};
	l->x = forward ? x : wgrad ? x_turned : NULL;
	l->dy = forward ? NULL : wgrad ? dy_turned : dy;
	l->w = forward ? w : wgrad ? NULL : w_turned;
	l->x_inverse = l->x ? &p.x_inverse : NULL;
	l->dy_inverse = l->dy ? &p.dy_inverse : NULL;
	l->w_inverse = l->w ? p.w_inverse : NULL;
	void **to = forward ? &l->y : wgrad ? &l->dw : &l->dx;
	*to = c;
	for (int64_t i = 0; i < count && wgrad; i++)
		((float *)c)[i] = 0.5f;
	struct fp8_operand operands[] = {{(void **)&l->x, (size_t)x_bytes},
					 {(void **)&l->dy, (size_t)dy_bytes},
					 {(void **)&l->w, (size_t)size},
					 {(void **)&l->x_inverse, 4},
					 {(void **)&l->dy_inverse, 4},
					 {(void **)&l->w_inverse, sizeof p.w_inverse},
					 {to, (size_t)count * mt_dtype_bytes(c_type)}};
	bool ran = fp8_enqueue(device, &op, operands, 7);
	for (int64_t i = 0; i < count && ran; i++) {
		double terms = 0, want = fp8_element(&p, i, &terms) + (wgrad ? 0.5 : 0);
		double got = get(c, i, mt_dtype_bytes(c_type), false);
		double unit = c_type == MT_F32 ? 0x1p-23 : c_type == MT_F16 ? 0x1p-11 : 0x1p-8;

		if (!(fabs(got - want) <= unit * fabs(want) + 4e-7 * terms + 1e-6))
			fail_msg("%s, %s %s: [%lld] is %.9g, expected %.9g", name, mt_op_name(kind), mt_dtype_name(dtype),
				 (long long)i, got, want);
	}
	free(x);
	free(dy);
	free(w);
	free(x_turned);
	free(dy_turned);
	free(w_turned);
	free(c);
	return ran;
}

#endif
