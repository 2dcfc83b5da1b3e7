/* The attention kernels for CUDA, run by the emulator, against the reference device in f64: every head size, ratio of heads, odd
 * lengths, windows and documents, in bf16, f16 and f32, forward and backward.
 *
 * Inputs are rounded to the type first, so both see the same. Each tensor is memory of its own and exactly as long as it should be,
 * for the address sanitizer; what lies between its rows is NaN and must not be read, and stay; outputs are NaN before. */
#include "base/random.h"
#include "kernels/cuda/kernels.h"
#include "kernels/device.h"
#include "tests/cuda_host/control.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum type { BF16, F16, F32, F64 };
static const char *const type_names[] = {"bf16", "f16", "f32"};
/* Of |want| plus the root of the mean square of all. Sums are f32; what a type rounds is p, ds and the result. */
static const double tolerances[] = {2e-2, 2.5e-3, 1e-5};

enum tensor { Q, K, V, DO, O, DQ, DK, DV, LSE, DELTA, TENSORS };
static const char *const tensor_names[] = {"q", "k", "v", "do", "o", "dq", "dk", "dv", "lse", "delta"};

struct shape {
	int64_t batch, seq, heads, kv_heads, dim;
	int64_t gap;              /* elements between rows, odd: nothing is aligned */
	int64_t window, document; /* 0: none; a document starts at one row in `document` */
	double scale;             /* times 1/sqrt(dim); 0: 1 */
	/* a part: keys (0: seq), the key beside query 0, rows of a sequence in memory beyond those; merged and added */
	int64_t keys, offset, more;
	bool join;
	int64_t v_dim; /* of values; 0: dim */
};

struct problem {
	struct mt_op op;
	enum type type;
	int64_t rows[TENSORS], cols[TENSORS], stride[TENSORS];
	void *data[TENSORS];
	int32_t *starts;
};

static size_t width_of(enum type type, enum tensor tensor)
{
	if (type == F64)
		return 8;
	return tensor >= LSE || type == F32 ? 4 : 2;
}

static void put(void *p, int64_t i, double value, enum type type, enum tensor tensor)
{
	if (type == F64) {
		((double *)p)[i] = value;
	} else if (width_of(type, tensor) == 4) {
		((float *)p)[i] = (float)value;
	} else if (type == BF16) {
		((uint16_t *)p)[i] = mt_bf16_from_f32((float)value);
	} else {
		((uint16_t *)p)[i] = mt_f16_from_f32((float)value);
	}
}

static double get(const void *p, int64_t i, enum type type, enum tensor tensor)
{
	if (type == F64)
		return ((const double *)p)[i];
	if (width_of(type, tensor) == 4)
		return ((const float *)p)[i];
	if (type == BF16)
		return mt_bf16_to_f32(((const uint16_t *)p)[i]);
	return mt_f16_to_f32(((const uint16_t *)p)[i]);
}

static int32_t *make_starts(const struct shape *s)
{
	const int64_t seq = s->seq + s->more;
	int32_t *starts = malloc((size_t)(s->batch * seq) * sizeof *starts);
	for (int64_t i = 0; i < s->batch * seq; i++) {
		bool new = i % seq == 0 || mt_random_integer(7, 1, (uint64_t)i, (uint64_t)s->document) == 0;
		starts[i] = new ? (int32_t)(i % seq) : starts[i - 1];
	}
	return starts;
}

/* Tensors for `type` with values that are rounded to `rounding`. */
static struct problem make(const struct shape *s, enum type type, enum type rounding)
{
	struct problem p = {.type = type};
	const int64_t seq = s->seq + s->more, keys = s->keys ? s->keys : s->seq, v_dim = s->v_dim ? s->v_dim : s->dim;
	const int64_t rows = s->batch * seq, kv_rows = s->batch * (keys + s->more);
	for (int t = 0; t < TENSORS; t++) {
		const bool of_keys = t == K || t == V || t == DK || t == DV;
		const int64_t dim = t == V || t == DV || t == O || t == DO ? v_dim : s->dim;
		p.rows[t] = t >= LSE ? s->batch * s->heads : of_keys ? kv_rows : rows;
		p.cols[t] = t >= LSE ? seq : (of_keys ? s->kv_heads : s->heads) * dim;
		p.stride[t] = p.cols[t] + (t >= LSE ? 0 : of_keys ? 2 * s->gap : t == O || t == DO ? 3 * s->gap : s->gap);
		const int64_t size = (p.rows[t] - 1) * p.stride[t] + p.cols[t];
		p.data[t] = malloc((size_t)size * width_of(type, t));
		for (int64_t i = 0; i < size; i++) {
			const bool given = (t <= DO || s->join) && i % p.stride[t] < p.cols[t];
			uint64_t rounded[1];
			put(rounded, 0, given ? mt_random_normal(11, (uint64_t)t, (uint64_t)i) : (double)NAN, rounding, t);
			put(p.data[t], i, get(rounded, 0, rounding, t), type, t);
		}
	}
	p.op.dtype = type == F64 ? MT_F64 : type == F32 ? MT_F32 : type == F16 ? MT_F16 : MT_BF16;
	struct mt_attention *a = &p.op.attention;
	a->batch = s->batch, a->seq = s->seq, a->heads = s->heads, a->kv_heads = s->kv_heads, a->head_dim = s->dim;
	a->q_stride = p.stride[Q], a->kv_stride = p.stride[K], a->o_stride = p.stride[O];
	a->q = p.data[Q], a->k = p.data[K], a->v = p.data[V], a->do_ = p.data[DO], a->o = p.data[O];
	a->dq = p.data[DQ], a->dk = p.data[DK], a->dv = p.data[DV], a->lse = p.data[LSE], a->delta = p.data[DELTA];
	a->v_dim = v_dim, a->v_stride = p.stride[V];
	a->scale = (s->scale > 0 ? s->scale : 1) / sqrt((double)s->dim);
	a->window = s->window;
	if (s->keys || s->join || s->offset) {
		a->kv_seq = keys, a->offset = s->offset, a->q_rows = seq, a->kv_rows = keys + s->more;
		a->merge = a->add_dq = a->add_dkv = s->join;
	}
	a->starts = p.starts = s->document ? make_starts(s) : NULL;
	return p;
}

static void release(struct problem *p)
{
	for (int t = 0; t < TENSORS; t++)
		free(p->data[t]);
	free(p->starts);
}

/* Forward, then o is rounded as the type stores it, then backward from that. */
static void run_reference(struct problem *p, enum type rounding)
{
	struct mt_device *device = NULL;
	struct mt_stream *stream = NULL;
	assert_int_equal(mt_device_create(&device, &(struct mt_device_config){.kind = "reference"}), MT_OK);
	assert_int_equal(mt_stream_create(device, MT_STREAM_COMPUTE, "test", &stream), MT_OK);
	for (int kind = MT_OP_ATTENTION; kind <= MT_OP_ATTENTION_BWD; kind++) {
		p->op.kind = (enum mt_op_kind)kind;
		if (mt_device_enqueue(device, stream, &p->op) != MT_OK)
			fail_msg("%s", mt_error_message());
		for (int64_t i = 0; kind == MT_OP_ATTENTION && i < (p->rows[O] - 1) * p->stride[O] + p->cols[O]; i++) {
			uint64_t rounded[1];
			put(rounded, 0, ((double *)p->data[O])[i], rounding, O);
			((double *)p->data[O])[i] = get(rounded, 0, rounding, O);
		}
	}
	mt_stream_destroy(stream);
	mt_device_destroy(device);
}

static void run_kernels(struct problem *p, enum mt_op_kind kind)
{
	struct mt_cuda_launch launch = {.sm_count = 4, .arch = 80, .max_shared_bytes = 99 << 10};
	const bool backward = kind == MT_OP_ATTENTION_BWD;
	enum mt_status st;
	p->op.kind = kind;
	st = backward ? mt_cuda_attention_bwd(&launch, &p->op) : mt_cuda_attention(&launch, &p->op);
	assert_string_equal(cuda_host_error(), "");
	assert_int_equal(st, MT_OK);
}

/* |got - want| <= tolerance (|want| + rms of want + 0.01), the tolerance times the scale, since errors of scores and of lse grow
 * with them; what lies between rows is NaN still. */
static void compare(const struct shape *s, const struct problem *got, const struct problem *want, enum tensor t)
{
	const int64_t rows = want->rows[t], cols = want->cols[t], stride = want->stride[t];
	const double tolerance = tolerances[t >= LSE ? F32 : got->type] * (s->scale > 1 ? s->scale : 1);
	double square = 0, worst = 0;
	for (int64_t i = 0; i < rows * cols; i++)
		square += pow(get(want->data[t], i / cols * stride + i % cols, F64, t), 2) / (double)(rows * cols);
	for (int64_t i = 0; i < (rows - 1) * stride + cols; i++) {
		const double a = get(got->data[t], i, got->type, t), b = get(want->data[t], i, F64, t);
		const double error = fabs(a - b) / (fabs(b) + sqrt(square) + 0.01);
		if (i % stride >= cols ? !isnan(a) : !(error <= tolerance))
			fail_msg("%s batch %d seq %d heads %d/%d dim %d window %d document %d: %s[%d,%d] = %.9g, expected %.9g "
				 "(rms %.3g)",
				 type_names[got->type], (int)s->batch, (int)s->seq, (int)s->heads, (int)s->kv_heads, (int)s->dim,
				 (int)s->window, (int)s->document, tensor_names[t], (int)(i / stride), (int)(i % stride), a, b,
				 sqrt(square));
		if (i % stride < cols)
			worst = error > worst ? error : worst;
	}
	if (getenv("SHOW_ERRORS"))
		print_message("%s dim %d %s: worst error %.2g of %.2g\n", type_names[got->type], (int)s->dim, tensor_names[t],
			      worst, tolerance);
}

/* The backward pass starts from the reference's o and lse, so that it answers for itself. */
static void check_type(const struct shape *s, enum type type)
{
	struct problem want = make(s, F64, type), got = make(s, type, type);
	run_reference(&want, type);
	run_kernels(&got, MT_OP_ATTENTION);
	compare(s, &got, &want, O);
	compare(s, &got, &want, LSE);
	for (int t = O; t <= LSE; t += LSE - O)
		for (int64_t i = 0; i < (got.rows[t] - 1) * got.stride[t] + got.cols[t]; i++)
			put(got.data[t], i, get(want.data[t], i, F64, t), type, t);
	run_kernels(&got, MT_OP_ATTENTION_BWD);
	for (int t = O; t < TENSORS; t++)
		compare(s, &got, &want, t);
	release(&want);
	release(&got);
}

/* f16 differs from bf16 in two instructions, so it need not go everywhere. */
static void check(const struct shape *s)
{
	check_type(s, BF16);
	check_type(s, F32);
}

static void every_head_size_equals_reference(void **state)
{
	static const int64_t sizes[] = {64, 80, 96, 128, 192, 256};
	for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
		for (int type = BF16; type <= F32; type++)
			check_type(&(struct shape){1, 66, 2, 1, sizes[i], .gap = 0}, type);
	check(&(struct shape){1, 33, 1, 1, 1, .gap = 1});
	check(&(struct shape){2, 20, 2, 2, 17, .gap = 0});
	check(&(struct shape){1, 20, 2, 1, 72, .gap = 8});
}

static void values_of_another_size_equal_reference(void **state)
{
	check(&(struct shape){1, 70, 2, 2, 192, .v_dim = 128});
	check(&(struct shape){2, 33, 2, 2, 24, .v_dim = 16, .window = 20});
	check(&(struct shape){1, 35, 4, 2, 16, .v_dim = 72, .gap = 1});
	check(&(struct shape){1, 140, 1, 1, 96, .v_dim = 64, .document = 60});
}

static void odd_lengths_equal_reference(void **state)
{
	static const int64_t lengths[] = {1, 2, 15, 17, 63, 65, 129, 200};
	for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++)
		check(&(struct shape){1, lengths[i], 1, 1, 64, .gap = i % 2 ? 3 : 0});
	check(&(struct shape){1, 145, 1, 1, 128, .gap = 0});
	check(&(struct shape){1, 145, 1, 1, 96, .gap = 8});
}

static void grouped_heads_equal_reference(void **state)
{
	check(&(struct shape){2, 17, 3, 3, 16, .gap = 0});
	check(&(struct shape){2, 17, 4, 2, 64, .gap = 0});
	check(&(struct shape){1, 35, 6, 2, 40, .gap = 1});
	check(&(struct shape){1, 35, 5, 1, 64, .gap = 16});
}

static void windows_and_documents_equal_reference(void **state)
{
	check(&(struct shape){1, 200, 1, 1, 64, .window = 70});
	check(&(struct shape){1, 150, 2, 1, 64, .window = 3});
	check(&(struct shape){1, 40, 1, 1, 64, .window = 1000});
	check(&(struct shape){2, 200, 2, 1, 64, .document = 50});
	check(&(struct shape){1, 150, 2, 1, 32, .document = 4, .gap = 1});
	check(&(struct shape){2, 150, 1, 1, 64, .window = 30, .document = 60});
	check_type(&(struct shape){1, 150, 1, 1, 64, .window = 30, .document = 60, .gap = 1}, F16);
	check(&(struct shape){1, 150, 1, 1, 128, .window = 90, .document = 100});
	check(&(struct shape){1, 100, 1, 1, 256, .window = 40, .document = 40});
}

static void parts_equal_reference(void **state)
{
	check(&(struct shape){1, 20, 2, 1, 64, .keys = 50, .offset = 30});
	check(&(struct shape){2, 66, 2, 1, 64, .keys = 150, .offset = 150, .more = 5, .join = true});
	check(&(struct shape){1, 150, 2, 1, 64, .keys = 70, .offset = 70, .more = 3, .join = true});
	check(&(struct shape){1, 130, 1, 1, 64, .keys = 200, .offset = 33, .join = true, .gap = 1});
	check(&(struct shape){1, 100, 1, 1, 128, .keys = 40, .offset = 64, .document = 30, .join = true});
	check(&(struct shape){2, 90, 4, 2, 96, .keys = 90, .offset = 20, .window = 40, .join = true});
	check(&(struct shape){1, 40, 1, 1, 256, .keys = 90, .offset = 10, .document = 10, .more = 2, .join = true});
	check(&(struct shape){1, 64, 2, 2, 64, .keys = 256, .offset = 2, .join = true});
	check_type(&(struct shape){1, 50, 2, 1, 64, .keys = 90, .offset = 45, .more = 4, .join = true}, F16);
}

/* Scores of some hundreds: exponents are taken of differences from the maximum only. */
static void large_scores_stay_finite(void **state)
{
	check_type(&(struct shape){1, 90, 1, 1, 64, .scale = 20}, F32);
	check_type(&(struct shape){1, 90, 1, 1, 64, .scale = 10}, F16);
}

/* Blocks and threads in another order: no result hangs on which comes first, nor on what shared memory held. */
static void bits_do_not_depend_on_order(void **state)
{
	static const struct shape shapes[] = {{2, 150, 4, 2, 64, .window = 90, .document = 60},
					      {1, 70, 2, 1, 64, .keys = 150, .offset = 40, .more = 3, .join = true},
					      {1, 70, 2, 1, 128, .gap = 0},
					      {1, 40, 2, 1, 256, .gap = 1}};
	for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
		for (int type = BF16; type <= F32; type += 2) {
			struct problem first = make(&shapes[i], type, type), again = make(&shapes[i], type, type);
			for (int kind = MT_OP_ATTENTION; kind <= MT_OP_ATTENTION_BWD; kind++) {
				cuda_host_seed(0);
				run_kernels(&first, (enum mt_op_kind)kind);
				cuda_host_seed(5 + i);
				run_kernels(&again, (enum mt_op_kind)kind);
			}
			cuda_host_seed(0);
			for (int t = O; t < TENSORS; t++) {
				const int64_t size = (first.rows[t] - 1) * first.stride[t] + first.cols[t];
				assert_memory_equal(first.data[t], again.data[t], (size_t)size * width_of(type, t));
			}
			release(&first);
			release(&again);
		}
}

static void what_no_kernel_does_is_unavailable(void **state)
{
	struct mt_cuda_launch launch = {.sm_count = 4, .arch = 80, .max_shared_bytes = 99 << 10};
	struct mt_op op = {.kind = MT_OP_ATTENTION, .dtype = MT_BF16, .attention = {1, 4, 1, 1, 264, 264, 264, 264, .scale = 1}};
	assert_int_equal(mt_cuda_attention(&launch, &op), MT_UNAVAILABLE);
	assert_non_null(strstr(mt_error_message(), "head size"));
	op.attention.head_dim = 64, op.attention.scale = -1;
	assert_int_equal(mt_cuda_attention_bwd(&launch, &op), MT_UNAVAILABLE);
	op.attention.scale = 1, op.dtype = MT_F64;
	assert_int_equal(mt_cuda_attention(&launch, &op), MT_UNAVAILABLE);
	op.dtype = MT_BF16, op.attention.batch = 0;
	assert_int_equal(mt_cuda_attention(&launch, &op), MT_OK);
	assert_int_equal(cuda_host_launches(), 0);
	mt_error_clear();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_no_kernel_does_is_unavailable),
		cmocka_unit_test(every_head_size_equals_reference),
		cmocka_unit_test(odd_lengths_equal_reference),
		cmocka_unit_test(grouped_heads_equal_reference),
		cmocka_unit_test(windows_and_documents_equal_reference),
		cmocka_unit_test(large_scores_stay_finite),
		cmocka_unit_test(parts_equal_reference),
		cmocka_unit_test(bits_do_not_depend_on_order),
		cmocka_unit_test(values_of_another_size_equal_reference),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
