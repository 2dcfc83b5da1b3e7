/* gpu_kernels: every operation of a device against the reference device in f64, in each type, on random inputs.
 *   gpu_kernels [DEVICE [few]]        (cuda; few: small shapes only)
 *
 * Both devices get inputs rounded to the type. Outputs are NaN before, so what was not written shows; a NaN never passes. Each
 * operand is tried aligned and one element past an address that is aligned, and each problem twice: the same bits are asked for.
 * The bounds are the operands' own (tests/kernels_operands.h), relative to the value and to the root of the mean square of all; in
 * f32 twice that, as a GPU adds in longer chains. The last test is that no operation was left out. */
#include "tests/kernels_experts.h"
#include "tests/kernels_fp8.h"
#include "tests/kernels_products.h"

#include "tests/gpu_device.h"

static struct mt_device *tested, *reference;
static enum mt_dtype type;
static bool few, seen[MT_DTYPE_COUNT][MT_OP_KIND_COUNT];

static void expect_same_bits(const struct problem *problem, void **one, void **other)
{
	for (int n = 0; n < problem->count; n++) {
		char text[96];
		if (memcmp(one[n], other[n], bytes_of(problem, n, type)) == 0)
			continue;
		describe(problem, type, text);
		fail_msg("%s: %s differs from run to run", text, problem->operands[n].name);
	}
}

static void check_device(const struct problem *given)
{
	struct problem problem = *given;
	void *want[MOST_OPERANDS], *got[MOST_OPERANDS], *again[MOST_OPERANDS];
	if (problem.f32_only) {
		seen[MT_BF16][problem.kinds[0]] = seen[MT_BF16][problem.kinds[1]] = true;
		if (type != MT_F32)
			return;
	}
	problem.f32_tolerance *= 2;
	seen[type][problem.kinds[0]] = seen[type][problem.kinds[1]] = true;
	for (problem.shift = 0; problem.shift < 2; problem.shift++) {
		solve(&problem, reference, MT_F64, type, want);
		solve(&problem, tested, type, type, got);
		solve(&problem, tested, type, type, again);
		for (int n = 0; n < problem.count; n++)
			if (problem.operands[n].role != IN)
				compare(&problem, &problem.operands[n], got[n], want[n], type, tested->info.kind);
		expect_same_bits(&problem, got, again);
		release(want, problem.count);
		release(got, problem.count);
		release(again, problem.count);
	}
}

static void products(enum mt_op_kind kind)
{
	static const int64_t shapes[][3] = {{1, 1, 1},     {3, 7, 17},      {17, 64, 129},    {129, 65, 33},   {64, 96, 80},
					    {33, 400, 96}, {256, 768, 768}, {100, 1600, 400}, {512, 256, 1000}};
	for (int i = 0; i < (few ? 6 : 9); i++)
		linear(check_device, kind, shapes[i][0], shapes[i][1], shapes[i][2], i % 2 == 0);
}

static void linear_forward(void)
{
	products(MT_OP_LINEAR);
}

static void linear_dgrad(void)
{
	products(MT_OP_LINEAR_DGRAD);
}

static void linear_wgrad(void)
{
	products(MT_OP_LINEAR_WGRAD);
}

static void products_with_gelu_and_bias_gradients(void)
{
	fused_products(check_device, few);
}

static void attentions(void)
{
	attention(check_device, 1, 1, 1, 1, 1, 0);
	attention(check_device, 2, 3, 2, 1, 8, 8);
	attention(check_device, 1, 65, 2, 2, 33, 3);
	attention(check_device, 2, 64, 4, 2, 64, 0);
	attention(check_device, 1, 130, 2, 1, 128, 16);
	if (few)
		return;
	attention(check_device, 1, 200, 2, 1, 80, 16);
	attention(check_device, 1, 129, 1, 1, 256, 0);
	attention(check_device, 2, 512, 4, 1, 64, 0);
	attention(check_device, 1, 1024, 2, 1, 128, 0);
}

static void attentions_with_values_of_another_size(void)
{
	any_attention(check_device, 2, 33, 4, 4, 24, 16, 0, 0, 0);
	any_attention(check_device, 1, 70, 4, 2, 16, 33, 3, 0, 0);
	any_attention(check_device, 1, few ? 70 : 700, 2, 2, 192, 128, 8, 40, 0);
}

static void latent_keys(void)
{
	spread(check_device, 37, 4, 16, 8, 24);
	spread(check_device, 5, 3, 7, 2, 5);
	spread(check_device, few ? 20 : 2000, 16, 128, 64, 128);
}

static void attentions_in_windows_and_documents(void)
{
	masked_attention(check_device, 2, 9, 2, 1, 8, 0, 2, 0);
	masked_attention(check_device, 1, 130, 2, 2, 16, 0, 70, 0);
	masked_attention(check_device, 2, 150, 4, 2, 16, 1, 20, 40);
	if (few)
		return;
	masked_attention(check_device, 2, 200, 2, 1, 64, 0, 0, 30);
	masked_attention(check_device, 1, 700, 2, 1, 128, 0, 256, 90);
}

static void parts_of_attention(void)
{
	part_attention(check_device, &(struct part){2, 66, 80, 150, 160, 150, 2, 1, 64, 0, 0, true});
	part_attention(check_device, &(struct part){1, 100, 100, 60, 60, 60, 2, 2, 64, 0, 30, true});
	if (few)
		return;
	part_attention(check_device, &(struct part){2, 512, 1024, 1024, 1024, 1024, 4, 1, 128, 0, 0, true});
	part_attention(check_device, &(struct part){1, 700, 700, 1500, 1500, 300, 2, 1, 128, 256, 0, true});
}

static void norms(void)
{
	for (int i = 0; i < 2; i++) {
		const enum mt_norm_kind kind = i ? MT_NORM_RMS : MT_NORM_LAYER;
		norm(check_device, kind, 1, 3, false, false, false);
		norm(check_device, kind, 17, 131, i == 0, true, true);
		norm(check_device, kind, 67, 768, i == 0, true, true);
		norm(check_device, kind, 5, 1600, false, true, false);
		if (few)
			continue;
		norm(check_device, kind, 300, 4096, false, true, true);
		norm(check_device, kind, 3, 16400, false, true, true);
	}
}

static void norms_of_heads(void)
{
	head_norm(check_device, 19, 3, 128, 16);
	head_norm(check_device, 70, 5, 10, 3);
}

static void activations(void)
{
	for (int i = 0; i < 2; i++) {
		const enum mt_activation_kind kind = i ? MT_SWIGLU : MT_GELU;
		activation(check_device, kind, 1, 1, 1.0);
		activation(check_device, kind, 17, 129, 1.0);
		activation(check_device, kind, 9, 300, 1000.0);
		if (!few)
			activation(check_device, kind, 200, 3072, 4.0);
	}
}

static void embeddings(void)
{
	embedding(check_device, 1, 1, 1, true, 0);
	embedding(check_device, 34, 129, 17, true, 0);
	embedding(check_device, 12, 64, 8, true, 5);
	embedding(check_device, few ? 40 : 3000, few ? 700 : 768, 10, false, 0);
	placed_embedding(check_device, few ? 50 : 3000, 64, 7);
}

static void ropes(void)
{
	rope(check_device, 1, 1, 1, 2, 0, 1);
	rope(check_device, 2, 17, 3, 6, 0, 1);
	rope(check_device, 1, 33, 5, 64, 1000, 1);
	rope(check_device, 2, few ? 7 : 700, 2, 128, 3, -1);
	placed_rope(check_device, 2, 17, 3, 16, 40, 1);
	placed_rope(check_device, 1, 9, 2, 64, 3000, -1);
	ropes_stretched(check_device);
}

static void additions(void)
{
	for (int i = 0; i < 4; i++) {
		addition(check_device, MT_OP_ADD, 17, 129, i & 1, i & 2);
		addition(check_device, MT_OP_ADD, 64, few ? 64 : 4096, i & 1, i & 2);
	}
}

static void bias_gradients(void)
{
	addition(check_device, MT_OP_BIAS_GRAD, 1, 1, false, false);
	addition(check_device, MT_OP_BIAS_GRAD, 300, 131, false, false);
	addition(check_device, MT_OP_BIAS_GRAD, few ? 65 : 4096, few ? 96 : 768, false, false);
}

static void losses(void)
{
	loss_stats(check_device, 1, 1, 0, 1);
	loss_stats(check_device, 17, 129, 0, 120);
	loss_stats(check_device, 5, 33, 64, 90);
	loss(check_device, 1, 3, 0, 3, 1.0);
	loss(check_device, 17, 129, 0, 200, 0.25);
	loss(check_device, 7, 129, 129, 200, 0.25);
	loss(check_device, 7, 65, 0, 65, 0.0);
	if (few)
		return;
	loss_stats(check_device, 64, 50304, 0, 50257);
	loss(check_device, 64, 25152, 25152, 50257, 1.0 / 64);
}

static void optimizers(void)
{
	static const int64_t counts[] = {1, 7, 64, 4099, 300001};
	for (int i = 0; i < (few ? 4 : 5); i++) {
		adamw(check_device, counts[i], 1 + 10 * i);
		sumsq(check_device, counts[i] * 5);
		sgd(check_device, counts[i], true, i % 2);
		sgd(check_device, counts[i], false, false);
		combine(check_device, counts[i] * 5, i % 2, true);
	}
}

/* ---- casts, fills and copies: exact ---- */

enum { MOVED = 20011 };

/* One operation on copies of `src` and `dst`, both of `bytes`; dst comes back. */
static void move(enum mt_op_kind kind, struct mt_move shape, const void *src, void *dst, size_t bytes)
{
	struct mt_stream *stream = NULL;
	struct mt_arena *arena = NULL;
	struct mt_op op = {.kind = kind, .dtype = type, .move = shape};
	seen[type][kind] = true;
	assert_int_equal(mt_stream_create(tested, MT_STREAM_COMPUTE, "test", &stream), MT_OK);
	assert_int_equal(mt_arena_create(&arena, "test", mt_device_memory(tested), 4 * bytes), MT_OK);
	op.move.src = upload(arena, stream, src, bytes);
	op.move.dst = upload(arena, stream, dst, bytes);
	if (mt_device_enqueue(tested, stream, &op) != MT_OK || mt_device_download(tested, stream, dst, op.move.dst, bytes) != MT_OK)
		fail_msg("%s: %s", mt_op_name(kind), mt_error_message());
	mt_stream_destroy(stream);
	mt_arena_destroy(arena);
}

static void casts_between(const float *wide)
{
	static uint16_t narrow[2 * MOVED];
	static float back[MOVED];
	struct mt_move shape = {.count = MOVED, .src_dtype = MT_F32, .dst_dtype = MT_BF16};
	memset(narrow, 0xff, sizeof narrow);
	move(MT_OP_CAST, shape, wide, narrow, MOVED * sizeof *wide);
	for (int i = 0; i < MOVED; i++)
		if (isnan(wide[i]) ? !isnan(mt_bf16_to_f32(narrow[i])) : narrow[i] != mt_bf16_from_f32(wide[i]))
			fail_msg("%a as bf16: %#x, expected %#x", (double)wide[i], narrow[i], mt_bf16_from_f32(wide[i]));
	shape.src_dtype = MT_BF16, shape.dst_dtype = MT_F32;
	move(MT_OP_CAST, shape, narrow, back, sizeof back);
	for (int i = 0; i < MOVED; i++) {
		const float exact = mt_bf16_to_f32(narrow[i]);
		if (mt_f32_bits(exact) != mt_f32_bits(back[i]))
			fail_msg("bf16 %#x as f32: %a, expected %a", narrow[i], (double)back[i], (double)exact);
	}
}

static void moves(void)
{
	static const uint32_t special[] = {0,           0x80000000u, 0x7f800000u, 0xff800000u, 1,
					   0x3f808000u, 0x3f818000u, 0x3f808001u, 0x7f7fffffu, 0x7fc00000u};
	static float source[MOVED];
	static double target[MOVED]; /* of the widest type */
	const size_t width = mt_dtype_bytes(type);
	for (int i = 0; i < MOVED; i++)
		source[i] = (float)mt_random_normal(3, 0, (uint64_t)i);
	memcpy(source + 100, special, sizeof special);
	casts_between(source);

	memset(target, 0xff, sizeof target);
	move(MT_OP_FILL, (struct mt_move){.count = MOVED - 1, .src_dtype = type, .dst_dtype = type, .value = 2.5}, source, target,
	     MOVED * width);
	for (int i = 0; i < MOVED; i++)
		if (i < MOVED - 1 ? get(target, i, width, false) != 2.5 : !isnan(get(target, i, width, false)))
			fail_msg("fill: element %d of %d is %g", i, MOVED - 1, get(target, i, width, false));

	memset(target, 0xff, sizeof target);
	move(MT_OP_COPY, (struct mt_move){.rows = 70, .cols = 50, .src_stride = 111, .dst_stride = 60}, source, target,
	     70 * 111 * width);
	for (int64_t i = 0; i < 70 * 60; i++) {
		const char *to = (const char *)target + (size_t)i * width;
		const char *from = (const char *)source + (size_t)(i / 60 * 111 + i % 60) * width;
		if (i % 60 < 50 ? memcmp(to, from, width) != 0 : !isnan(get(target, i, width, false)))
			fail_msg("copy: element %d of row %d", (int)(i % 60), (int)(i / 60));
	}
}

static void roundings_to_fp8(void)
{
	if (type == MT_F32) /* the sizes go through all types */
		fp8_check_sizes(tested, reference, tested->info.kind);
	fp8_check(tested, reference, tested->info.kind, type, few ? 70 : 1000, 768, few ? 10 : 8, 0, true);
	fp8_check_scales(tested, reference, tested->info.kind);
	seen[type][MT_OP_AMAX] = seen[type][MT_OP_FP8_SCALE] = seen[type][MT_OP_QUANTIZE] = true;
}

/* GPUs before sm_89 have none; in f32 nobody asks for them. */
static void products_in_fp8(void)
{
	if (type == MT_F32)
		return;
	for (int kind = MT_OP_LINEAR; kind <= MT_OP_LINEAR_WGRAD; kind++)
		for (int format = MT_FP8_HYBRID; format <= MT_FP8_E4M3; format++) {
			if (!fp8_check_product(tested, tested->info.kind, (enum mt_op_kind)kind, format, type, 64, 96, 32)) {
				print_message("%s\n", mt_error_message());
				skip();
			}
			fp8_check_product(tested, tested->info.kind, (enum mt_op_kind)kind, format, type, 256, few ? 64 : 512, 128);
			fp8_check_grouped(tested, tested->info.kind, (enum mt_op_kind)(MT_OP_GROUPED + kind - MT_OP_LINEAR), format,
					  type);
		}
}

static void experts(void)
{
	if (type == MT_F16) { /* there are kernels for f32 and bf16 */
		for (int kind = MT_OP_GROUPED; kind <= MT_OP_EXPERT_ACT_BWD; kind++)
			seen[type][kind] = true;
		return;
	}
	products_of_groups(check_device);
	routings(check_device);
	rows_of_experts(check_device);
	expert_activations(check_device);
}

static void every_operation_was_tried(void)
{
	for (int kind = 0; kind < MT_OP_KIND_COUNT; kind++)
		if (!seen[type][kind])
			fail_msg("%s was not tried in %s", mt_op_name((enum mt_op_kind)kind), mt_dtype_name(type));
}

/* ---- the tests ---- */

#define IN_TYPE(body, dtype)                                                                                                       \
	{                                                                                                                          \
#body, body, dtype, ""                                                                                             \
	}
#define CASE(body) IN_TYPE(body, MT_F32), IN_TYPE(body, MT_BF16), IN_TYPE(body, MT_F16)
static struct test {
	const char *name;
	void (*body)(void);
	enum mt_dtype dtype;
	char text[80];
} cases[] = {
	CASE(linear_forward),
	CASE(linear_dgrad),
	CASE(linear_wgrad),
	CASE(products_with_gelu_and_bias_gradients),
	CASE(attentions),
	CASE(norms),
	CASE(attentions_in_windows_and_documents),
	CASE(parts_of_attention),
	CASE(activations),
	CASE(embeddings),
	CASE(ropes),
	CASE(attentions_with_values_of_another_size),
	CASE(latent_keys),
	CASE(norms_of_heads),
	CASE(additions),
	CASE(bias_gradients),
	CASE(losses),
	CASE(optimizers),
	CASE(moves),
	CASE(roundings_to_fp8),
	CASE(products_in_fp8),
	CASE(experts),
	CASE(every_operation_was_tried),
};
enum { CASES = sizeof cases / sizeof *cases };

static void run_case(void **state)
{
	const struct test *c = *state;
	type = c->dtype;
	half = mt_dtype_is_half(type) ? type : half;
	c->body();
}

int main(int argc, char **argv)
{
	const char *kind = argc > 1 ? argv[1] : "cuda";
	struct CMUnitTest tests[CASES];
	enum mt_status st = gpu_device_open(&tested, kind, 0);

	few = argc > 2 && strcmp(argv[2], "few") == 0;
	if (st == MT_OK)
		st = mt_device_create(&reference, &(struct mt_device_config){.kind = "reference"});
	if (st != MT_OK)
		return gpu_device_missing(st);
	printf("%s: %s, %s\n", tested->info.kind, tested->info.name, tested->info.libraries);
	for (int i = 0; i < CASES; i++) {
		snprintf(cases[i].text, sizeof cases[i].text, "%s in %s", cases[i].name, mt_dtype_name(cases[i].dtype));
		tests[i] = (struct CMUnitTest){.name = cases[i].text, .test_func = run_case, .initial_state = &cases[i]};
	}
	const int failures = cmocka_run_group_tests_name("kernels", tests, NULL, NULL);
	mt_device_destroy(tested);
	mt_device_destroy(reference);
	return failures != 0;
}
