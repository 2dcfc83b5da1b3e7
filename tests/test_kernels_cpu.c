/* The cpu device against the reference device in f64: every op in f32 and bf16, odd sizes, every instruction set the
 * processor has; outputs are poisoned with NaN first. And: the same bits for any number of threads and from run to run. */
#include "tests/kernels_products.h"

static const int64_t odd_sizes[] = {1, 3, 7, 17, 64, 129};
#define ODD_COUNT (int)(sizeof odd_sizes / sizeof *odd_sizes)

static int64_t pick(uint64_t index)
{
	return odd_sizes[mt_random_integer(5, 0, index, ODD_COUNT)];
}

static void linear_products_equal_reference(void **state)
{
	static const enum mt_op_kind kinds[] = {MT_OP_LINEAR, MT_OP_LINEAR_DGRAD, MT_OP_LINEAR_WGRAD};
	(void)state;
	for (int k = 0; k < 3; k++) {
		for (uint64_t i = 0; i < 8; i++)
			linear(check_equals_reference, kinds[k], pick(9 * i), pick(9 * i + 1), pick(9 * i + 2), i % 2);
		linear(check_equals_reference, kinds[k], 1, 1, 1, true);
		linear(check_equals_reference, kinds[k], 70, 400, 1000, true); /* several blocks */
		linear(check_equals_reference, kinds[k], 1100, 33, 65, false);
		linear(check_equals_reference, kinds[k], 33, 1100, 1030, false);
	}
}

static void attention_equals_reference(void **state)
{
	(void)state;
	attention(check_equals_reference, 1, 1, 1, 1, 1, 0);
	attention(check_equals_reference, 2, 3, 2, 1, 7, 1);
	attention(check_equals_reference, 1, 17, 3, 3, 16, 5);
	attention(check_equals_reference, 2, 64, 4, 2, 64, 0);
	attention(check_equals_reference, 1, 65, 2, 2, 33, 3);
	attention(check_equals_reference, 1, 129, 4, 1, 17, 0);
	attention(check_equals_reference, 1, 200, 2, 1, 80, 16);
}

static void attention_in_windows_and_documents_equals_reference(void **state)
{
	(void)state;
	masked_attention(check_equals_reference, 2, 9, 2, 1, 8, 0, 2, 0);
	masked_attention(check_equals_reference, 1, 200, 2, 1, 16, 3, 70, 0);
	masked_attention(check_equals_reference, 1, 130, 2, 2, 16, 0, 128, 0);
	masked_attention(check_equals_reference, 2, 200, 2, 1, 32, 0, 0, 30);
	masked_attention(check_equals_reference, 2, 150, 4, 2, 16, 1, 20, 40);
	masked_attention(check_equals_reference, 3, 33, 1, 1, 16, 0, 500, 3);
}

static void parts_of_attention_equal_reference(void **state)
{
	(void)state;
	part_attention(check_equals_reference, &(struct part){1, 8, 8, 20, 20, 12, 2, 1, 16, 0, 0, false});
	part_attention(check_equals_reference, &(struct part){2, 64, 128, 192, 256, 128, 2, 1, 16, 0, 0, true});
	part_attention(check_equals_reference, &(struct part){2, 70, 90, 33, 40, 33, 4, 2, 17, 0, 0, true});
	part_attention(check_equals_reference, &(struct part){1, 100, 100, 230, 230, 37, 1, 1, 32, 0, 0, true});
	part_attention(check_equals_reference, &(struct part){1, 100, 100, 230, 230, 90, 2, 1, 16, 50, 0, true});
	part_attention(check_equals_reference, &(struct part){2, 130, 130, 60, 64, 60, 2, 2, 16, 0, 30, true});
	part_attention(check_equals_reference, &(struct part){1, 20, 70, 200, 200, 3, 3, 1, 16, 0, 4, true});
	part_attention(check_same_bits, &(struct part){2, 70, 90, 133, 140, 40, 4, 2, 16, 0, 20, true});
}

static void norms_equal_reference(void **state)
{
	(void)state;
	for (uint64_t i = 0; i < 12; i++)
		norm(check_equals_reference, i % 2 ? MT_NORM_RMS : MT_NORM_LAYER, pick(31 + 2 * i), 2 + pick(32 + 2 * i), i & 2,
		     i & 4, i & 8);
	norm(check_equals_reference, MT_NORM_LAYER, 200, 768, true, true, true);
}

static void activations_equal_reference(void **state)
{
	(void)state;
	for (uint64_t i = 0; i < 8; i++)
		activation(check_equals_reference, i % 2 ? MT_SWIGLU : MT_GELU, pick(61 + 2 * i), pick(62 + 2 * i),
			   i < 4 ? 1.0 : 20.0);
	activation(check_equals_reference, MT_GELU, 9, 300, 1000.0);
	activation(check_equals_reference, MT_SWIGLU, 9, 300, 1000.0);
}

static void embeddings_equal_reference(void **state)
{
	(void)state;
	embedding(check_equals_reference, 1, 1, 1, true, 0);
	embedding(check_equals_reference, 34, 129, 17, true, 0);
	embedding(check_equals_reference, 12, 65, 8, true, 5);
	embedding(check_equals_reference, 40, 700, 10, false, 0);
	placed_embedding(check_equals_reference, 50, 65, 7);
}

static void attention_with_values_of_another_size_equals_reference(void **state)
{
	any_attention(check_equals_reference, 1, 3, 1, 1, 8, 4, 0, 0, 0);
	any_attention(check_equals_reference, 2, 65, 4, 4, 24, 16, 0, 0, 0);
	any_attention(check_equals_reference, 1, 70, 4, 2, 16, 33, 3, 0, 0);
	any_attention(check_equals_reference, 1, 130, 2, 2, 192, 128, 8, 40, 0);
}

static void products_with_gelu_and_bias_gradients_equal_reference(void **state)
{
	fused_products(check_equals_reference, true);
	fused_linear(check_equals_reference, MT_OP_LINEAR_WGRAD, 300, 130, 257, MT_LINEAR_DBIAS);
}

static void norm_of_heads_equals_reference(void **state)
{
	head_norm(check_equals_reference, 1, 1, 8, 0);
	head_norm(check_equals_reference, 19, 3, 128, 16);
	head_norm(check_equals_reference, 70, 5, 10, 3);
}

static void stretched_rope_equals_reference(void **state)
{
	ropes_stretched(check_equals_reference);
}

static void spread_equals_reference(void **state)
{
	spread(check_equals_reference, 1, 1, 8, 8, 8);
	spread(check_equals_reference, 37, 4, 16, 8, 24);
	spread(check_equals_reference, 5, 3, 7, 2, 5);
	spread(check_equals_reference, 33, 2, 128, 64, 128);
}

static void rope_equals_reference(void **state)
{
	(void)state;
	rope(check_equals_reference, 1, 1, 1, 2, 0, 1);
	rope(check_equals_reference, 2, 17, 3, 6, 0, 1);
	rope(check_equals_reference, 1, 33, 5, 64, 1000, 1);
	rope(check_equals_reference, 2, 7, 2, 34, 3, -1);
	placed_rope(check_equals_reference, 2, 17, 3, 16, 40, 1);
	placed_rope(check_equals_reference, 1, 9, 2, 64, 3000, -1);
}

static void additions_equal_reference(void **state)
{
	(void)state;
	for (uint64_t i = 0; i < 8; i++)
		addition(check_equals_reference, MT_OP_ADD, pick(91 + 2 * i), pick(92 + 2 * i), i & 1, i & 2);
	for (uint64_t i = 0; i < 4; i++)
		addition(check_equals_reference, MT_OP_BIAS_GRAD, pick(121 + 2 * i), pick(122 + 2 * i), false, false);
	addition(check_equals_reference, MT_OP_BIAS_GRAD, 300, 1031, false, false);
}

static void loss_equals_reference(void **state)
{
	(void)state;
	loss_stats(check_equals_reference, 1, 1, 0, 1);
	loss_stats(check_equals_reference, 17, 129, 0, 120);
	loss_stats(check_equals_reference, 5, 33, 64, 90);
	loss(check_equals_reference, 1, 3, 0, 3, 1.0);
	loss(check_equals_reference, 17, 129, 0, 200, 0.25);
	loss(check_equals_reference, 7, 129, 129, 200, 0.25);
	loss(check_equals_reference, 7, 65, 0, 65, 0.0);
}

static void optimizer_equals_reference(void **state)
{
	(void)state;
	for (int i = 0; i < ODD_COUNT; i++) {
		adamw(check_equals_reference, odd_sizes[i], 1 + 10 * i);
		sumsq(check_equals_reference, odd_sizes[i] * 700);
		sgd(check_equals_reference, odd_sizes[i], i % 3, i % 2);
		sgd(check_equals_reference, odd_sizes[i] * 131, true, i % 2);
		combine(check_equals_reference, odd_sizes[i] * 67, i % 2, i % 3 == 0);
	}
}

static void bits_do_not_depend_on_threads(void **state)
{
	(void)state;
	for (int kind = MT_OP_LINEAR; kind <= MT_OP_LINEAR_WGRAD; kind++) {
		static const int64_t shapes[][3] = {{256, 300, 800},  {256, 800, 300}, {300, 513, 401},
						    {1100, 131, 260}, {129, 768, 384}, {384, 257, 1100}};
		for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
			linear(check_same_bits, (enum mt_op_kind)kind, shapes[i][0], shapes[i][1], shapes[i][2], true);
	}
	fused_linear(check_same_bits, MT_OP_LINEAR, 256, 300, 257, MT_LINEAR_GELU | MT_LINEAR_BIAS);
	fused_linear(check_same_bits, MT_OP_LINEAR_DGRAD, 256, 257, 300, MT_LINEAR_GELU | MT_LINEAR_DBIAS);
	fused_linear(check_same_bits, MT_OP_LINEAR_WGRAD, 300, 257, 256, MT_LINEAR_DBIAS);
	linear(check_same_bits, MT_OP_LINEAR, 1, 768, 768, true);
	linear(check_same_bits, MT_OP_LINEAR_DGRAD, 1, 768, 768, false);
	attention(check_same_bits, 2, 130, 4, 2, 32, 8);
	masked_attention(check_same_bits, 2, 200, 4, 2, 32, 8, 40, 60);
	norm(check_same_bits, MT_NORM_LAYER, 300, 257, true, true, true);
	activation(check_same_bits, MT_GELU, 130, 257, 1.0);
	activation(check_same_bits, MT_SWIGLU, 130, 257, 1.0);
	embedding(check_same_bits, 200, 321, 50, true, 0);
	rope(check_same_bits, 2, 64, 8, 64, 0, 1);
	addition(check_same_bits, MT_OP_ADD, 130, 321, true, true);
	addition(check_same_bits, MT_OP_BIAS_GRAD, 130, 321, false, false);
	loss_stats(check_same_bits, 40, 1001, 0, 1000);
	loss(check_same_bits, 40, 1001, 0, 1000, 1.0);
	adamw(check_same_bits, 50001, 3);
	sumsq(check_same_bits, 200001);
	sgd(check_same_bits, 50001, true, true);
	combine(check_same_bits, 50001, true, true);
}

/* Casts, fills and copies are exact, so they are held against the scalar functions of dtype.h and memcmp. */
static void moves_are_exact(void **state)
{
	enum { COUNT = 20011 };
	static const uint32_t special[] = {0,           0x80000000u, 0x7f800000u, 0xff800000u, 0x7fc00000u, 0xffc00001u,
					   0x7f800001u, 1,           0x3f808000u, 0x3f818000u, 0x3f808001u, 0x7f7fffffu};
	float *source = malloc(COUNT * sizeof *source), *back = malloc(COUNT * sizeof *back);
	uint16_t *narrow = malloc(COUNT * sizeof *narrow);
	(void)state;
	for (int i = 0; i < COUNT; i++)
		source[i] = (float)mt_random_normal(3, 0, (uint64_t)i);
	memcpy(source + 100, special, sizeof special);
	for (size_t l = 0; l < sizeof levels / sizeof *levels; l++) {
		struct mt_device *cpu = open_cpu(levels[l], 2);
		struct mt_stream *stream = NULL;
		struct mt_op op = {.kind = MT_OP_CAST, .dtype = MT_F32};
		if (!cpu)
			continue;
		assert_int_equal(mt_stream_create(cpu, MT_STREAM_COMPUTE, "test", &stream), MT_OK);
		op.move = (struct mt_move){.count = COUNT, .src_dtype = MT_F32, .dst_dtype = MT_BF16, .src = source, .dst = narrow};
		assert_int_equal(mt_device_enqueue(cpu, stream, &op), MT_OK);
		op.move = (struct mt_move){.count = COUNT, .src_dtype = MT_BF16, .dst_dtype = MT_F32, .src = narrow, .dst = back};
		assert_int_equal(mt_device_enqueue(cpu, stream, &op), MT_OK);
		for (int i = 0; i < COUNT; i++) {
			const float wide = mt_bf16_to_f32(narrow[i]);
			assert_int_equal(narrow[i], mt_bf16_from_f32(source[i]));
			assert_memory_equal(&back[i], &wide, sizeof wide);
		}
		op.kind = MT_OP_FILL;
		op.move = (struct mt_move){.count = COUNT - 1, .dst_dtype = MT_F32, .value = 2.5, .dst = back};
		assert_int_equal(mt_device_enqueue(cpu, stream, &op), MT_OK);
		assert_true(back[0] == 2.5f && back[COUNT - 2] == 2.5f && back[COUNT - 1] != 2.5f);
		op.kind = MT_OP_COPY;
		op.move = (struct mt_move){.rows = 7, .cols = 5, .src_stride = 11, .dst_stride = 6, .src = source, .dst = back};
		assert_int_equal(mt_device_enqueue(cpu, stream, &op), MT_OK);
		for (int i = 0; i < 35; i++)
			assert_memory_equal(&back[i / 5 * 6 + i % 5], &source[i / 5 * 11 + i % 5], 4);
		assert_true(back[5] == 2.5f);
		mt_stream_destroy(stream);
		mt_device_destroy(cpu);
	}
	free(source);
	free(back);
	free(narrow);
}

static void f64_is_not_available(void **state)
{
	struct mt_device *cpu = NULL;
	struct mt_stream *stream = NULL;
	double x[2] = {1.0, 2.0};
	struct mt_op op = {.kind = MT_OP_ADD, .dtype = MT_F64, .add = {.rows = 1, .cols = 2, .a = x, .out = x}};
	(void)state;
	assert_int_equal(mt_device_create(&cpu, &(struct mt_device_config){.kind = "cpu", .threads = 1}), MT_OK);
	assert_int_equal(mt_stream_create(cpu, MT_STREAM_COMPUTE, "test", &stream), MT_OK);
	assert_int_equal(mt_device_enqueue(cpu, stream, &op), MT_UNAVAILABLE);
	mt_error_clear();
	mt_stream_destroy(stream);
	mt_device_destroy(cpu);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(linear_products_equal_reference),
		cmocka_unit_test(products_with_gelu_and_bias_gradients_equal_reference),
		cmocka_unit_test(attention_equals_reference),
		cmocka_unit_test(attention_in_windows_and_documents_equals_reference),
		cmocka_unit_test(parts_of_attention_equal_reference),
		cmocka_unit_test(norms_equal_reference),
		cmocka_unit_test(activations_equal_reference),
		cmocka_unit_test(embeddings_equal_reference),
		cmocka_unit_test(attention_with_values_of_another_size_equals_reference),
		cmocka_unit_test(norm_of_heads_equals_reference),
		cmocka_unit_test(stretched_rope_equals_reference),
		cmocka_unit_test(spread_equals_reference),
		cmocka_unit_test(rope_equals_reference),
		cmocka_unit_test(additions_equal_reference),
		cmocka_unit_test(loss_equals_reference),
		cmocka_unit_test(optimizer_equals_reference),
		cmocka_unit_test(bits_do_not_depend_on_threads),
		cmocka_unit_test(moves_are_exact),
		cmocka_unit_test(f64_is_not_available),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
