/* Keys of operations: equal exactly when the shapes are, with the FLOPs and bytes of the formulas in op.h. */
#include "kernels/op.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void equal_shapes_have_equal_keys_and_other_pointers_do_not_matter(void **state)
{
	float memory[2];
	struct mt_op a = {.kind = MT_OP_LINEAR, .dtype = MT_BF16, .linear = {8, 4, 2, memory, NULL, memory}}, b = a;
	b.linear.x = b.linear.bias = memory + 1;
	struct mt_op_key ka, kb;
	mt_op_key(&a, &ka);
	mt_op_key(&b, &kb);
	assert_true(mt_op_key_equal(&ka, &kb));
	assert_true(mt_op_key_hash(&ka) == mt_op_key_hash(&kb));
	char text[96];
	mt_op_key_text(&ka, text);
	assert_string_equal(text, "linear bf16 8x4x2+b");
	/* A cast is its two types, whatever the op's own is. */
	struct mt_op c = {.kind = MT_OP_CAST, .dtype = MT_F32, .move = {.count = 5, .src_dtype = MT_F32, .dst_dtype = MT_BF16}},
		     d = c;
	d.dtype = MT_BF16;
	mt_op_key(&c, &ka);
	mt_op_key(&d, &kb);
	assert_true(mt_op_key_equal(&ka, &kb));
}

static void different_shapes_differ_in_key_hash_and_text(void **state)
{
	static float some;
	const struct mt_op ops[] = {
		{.kind = MT_OP_LINEAR, .linear = {8, 4, 2}},
		{.kind = MT_OP_LINEAR, .linear = {8, 2, 4}},
		{.kind = MT_OP_LINEAR, .linear = {8, 4, 2, .bias = &some}},
		{.kind = MT_OP_LINEAR, .dtype = MT_BF16, .linear = {8, 4, 2}},
		{.kind = MT_OP_LINEAR, .linear = {8, 4, 2, .pre = &some}},
		{.kind = MT_OP_LINEAR, .linear = {8, 4, 2, .pre = &some, .bias = &some}},
		{.kind = MT_OP_LINEAR_DGRAD, .linear = {8, 4, 2, .pre = &some}},
		{.kind = MT_OP_LINEAR_DGRAD, .linear = {8, 4, 2, .pre = &some, .dbias = &some}},
		{.kind = MT_OP_LINEAR_WGRAD, .linear = {8, 4, 2, .dbias = &some}},
		{.kind = MT_OP_LINEAR_DGRAD, .linear = {8, 4, 2}},
		{.kind = MT_OP_LINEAR_WGRAD, .linear = {8, 4, 2}},
		{.kind = MT_OP_ATTENTION, .attention = {1, 4, 4, 2, 8, 96, 96, 32}},
		{.kind = MT_OP_ATTENTION, .attention = {1, 4, 4, 4, 8, 96, 96, 32}},
		{.kind = MT_OP_ATTENTION, .attention = {1, 4, 4, 4, 8, 96, 96, 32, .window = 2}},
		{.kind = MT_OP_ATTENTION, .attention = {1, 4, 4, 4, 8, 96, 96, 32, .window = 3}},
		{.kind = MT_OP_ATTENTION, .attention = {1, 4, 4, 4, 8, 96, 96, 32, .kv_seq = 8}},
		{.kind = MT_OP_ATTENTION, .attention = {1, 4, 4, 4, 8, 96, 96, 32, .kv_seq = 8, .offset = 4}},
		{.kind = MT_OP_ATTENTION, .attention = {1, 4, 4, 4, 8, 96, 96, 32, .kv_seq = 8, .offset = 9}},
		{.kind = MT_OP_ATTENTION_BWD, .attention = {1, 4, 4, 4, 8, 96, 96, 32}},
		{.kind = MT_OP_ATTENTION, .attention = {1, 4, 4, 4, 8, 96, 96, 32, .v_dim = 4}},
		{.kind = MT_OP_SPREAD, .spread = {8, 4, 16, 8, 24}},
		{.kind = MT_OP_SPREAD, .spread = {8, 4, 24, 8, 16}},
		{.kind = MT_OP_SPREAD_BWD, .spread = {8, 4, 16, 8, 24}},
		{.kind = MT_OP_ROPE, .rope = {1, 4, 2, 8, 16, 0, 1e4, .sign = 1, .rotated = 4}},
		{.kind = MT_OP_NORM, .norm = {.kind = MT_NORM_RMS, .rows = 8, .cols = 4}},
		{.kind = MT_OP_NORM, .norm = {.rows = 8, .cols = 4}},
		{.kind = MT_OP_NORM, .norm = {.rows = 8, .cols = 4, .residual = &some}},
		{.kind = MT_OP_NORM_BWD, .norm = {.rows = 8, .cols = 4, .dresidual = &some}},
		{.kind = MT_OP_ACTIVATION, .activation = {MT_GELU, 8, 4}},
		{.kind = MT_OP_ACTIVATION, .activation = {MT_SWIGLU, 8, 4}},
		{.kind = MT_OP_ROPE, .rope = {1, 4, 2, 8, 16, 0, 1e4, .sign = 1}},
		{.kind = MT_OP_EMBEDDING, .embedding = {8, 4, 8, 0, 100}},
		{.kind = MT_OP_EMBEDDING, .embedding = {8, 4, 8, 0, 101}},
		{.kind = MT_OP_ADD, .add = {8, 4, .b = &some}},
		{.kind = MT_OP_ADD, .add = {8, 4, .bias = &some}},
		{.kind = MT_OP_BIAS_GRAD, .add = {8, 4}},
		{.kind = MT_OP_LOSS_STATS, .loss = {8, 4, 0, 4}},
		{.kind = MT_OP_LOSS, .loss = {8, 4, 0, 4, 1}},
		{.kind = MT_OP_LOSS, .loss = {8, 4, 0, 4, 1, .grad_scale = 1}},
		{.kind = MT_OP_CAST, .move = {.count = 8, .src_dtype = MT_F32, .dst_dtype = MT_BF16}},
		{.kind = MT_OP_CAST, .move = {.count = 8, .src_dtype = MT_F64, .dst_dtype = MT_BF16}},
		{.kind = MT_OP_FILL, .move = {.count = 8, .dst_dtype = MT_BF16}},
		{.kind = MT_OP_FILL, .move = {.count = 8, .dst_dtype = MT_F32}},
		{.kind = MT_OP_COPY, .move = {.rows = 8, .cols = 4}},
		{.kind = MT_OP_SUMSQ, .sumsq = {8}},
		{.kind = MT_OP_ADAMW, .adamw = {8}},
		{.kind = MT_OP_SGD, .sgd = {8}},
		{.kind = MT_OP_SGD, .sgd = {8, .m = &some}},
		{.kind = MT_OP_COMBINE, .combine = {8}},
		{.kind = MT_OP_COMBINE, .combine = {8, .b = &some}},
		{.kind = MT_OP_GROUPED, .grouped = {{8, 4, 2}, 2, NULL}},
		{.kind = MT_OP_GROUPED, .grouped = {{8, 4, 2}, 3, NULL}},
		{.kind = MT_OP_GROUPED_DGRAD, .grouped = {{8, 4, 2}, 2, NULL}},
		{.kind = MT_OP_GROUPED_WGRAD, .grouped = {{8, 4, 2}, 2, NULL}},
		{.kind = MT_OP_ROUTE, .route = {.rows = 8, .experts = 4, .choices = 2}},
		{.kind = MT_OP_ROUTE, .route = {.kind = MT_ROUTE_SIGMOID, .rows = 8, .experts = 4, .choices = 2}},
		{.kind = MT_OP_ROUTE_SUMS, .route = {.rows = 8, .experts = 4, .choices = 2}},
		{.kind = MT_OP_ROUTE_LOSS, .route = {.rows = 8, .experts = 4, .choices = 2}},
		{.kind = MT_OP_ROUTE_BWD, .route = {.rows = 8, .experts = 4, .choices = 2}},
		{.kind = MT_OP_DROP, .rows = {.rows = 8, .choices = 2, .experts = 4}},
		{.kind = MT_OP_DISPATCH, .rows = {.rows = 8, .choices = 2, .experts = 4}},
		{.kind = MT_OP_GATHER_ROWS, .rows = {.rows = 8, .cols = 4}},
		{.kind = MT_OP_SUM_ROWS, .rows = {.rows = 8, .cols = 4, .choices = 2, .slices = 1}},
		{.kind = MT_OP_EXPERT_ACT, .expert_act = {.act = {MT_GELU, 8, 4}}},
		{.kind = MT_OP_EXPERT_ACT_BWD, .expert_act = {.act = {MT_SWIGLU, 8, 4}}},
	};
	enum { COUNT = sizeof ops / sizeof ops[0] };
	struct mt_op_key keys[COUNT];
	char texts[COUNT][96];
	for (int i = 0; i < COUNT; i++) {
		mt_op_key(&ops[i], &keys[i]);
		mt_op_key_text(&keys[i], texts[i]);
		if (!(mt_op_key_bytes(&keys[i]) > 0))
			fail_msg("%s moves %g bytes", texts[i], mt_op_key_bytes(&keys[i]));
		for (int j = 0; j < i; j++)
			if (mt_op_key_equal(&keys[i], &keys[j]) || mt_op_key_hash(&keys[i]) == mt_op_key_hash(&keys[j]) ||
			    !strcmp(texts[i], texts[j]))
				fail_msg("'%s' and '%s' are not told apart", texts[i], texts[j]);
	}
}

static double flops(struct mt_op op)
{
	struct mt_op_key key;
	mt_op_key(&op, &key);
	return mt_op_key_flops(&key);
}

static double bytes(struct mt_op op)
{
	struct mt_op_key key;
	mt_op_key(&op, &key);
	return mt_op_key_bytes(&key);
}

/* A key's parts are the keys of the operation's parts, and those have its FLOPs; as one it moves less than they do. */
static void fused_products_are_their_parts(void **state)
{
	static float some;
	const struct mt_op fused[] = {
		{.kind = MT_OP_LINEAR, .dtype = MT_BF16, .linear = {8, 4, 2, .pre = &some, .bias = &some}},
		{.kind = MT_OP_LINEAR_DGRAD, .linear = {8, 4, 2, .pre = &some, .fp8 = 1}},
		{.kind = MT_OP_LINEAR_DGRAD, .linear = {8, 4, 2, .pre = &some, .dbias = &some}},
		{.kind = MT_OP_LINEAR_WGRAD, .dtype = MT_F16, .linear = {8, 4, 2, .dbias = &some}},
		{.kind = MT_OP_LINEAR, .linear = {8, 4, 2, .bias = &some}},
	};
	static const int counts[] = {2, 2, 3, 2, 1};
	for (size_t i = 0; i < sizeof fused / sizeof fused[0]; i++) {
		struct mt_op parts[MT_OP_MOST_PARTS];
		struct mt_op_key key, keys[MT_OP_MOST_PARTS], part;
		double moved = 0;
		mt_op_key(&fused[i], &key);
		assert_int_equal(mt_op_parts(&fused[i], parts), counts[i]);
		assert_int_equal(mt_op_key_parts(&key, keys), counts[i]);
		for (int n = 0; n < counts[i]; n++) {
			mt_op_key(&parts[n], &part);
			assert_true(mt_op_key_equal(&part, &keys[n]));
			assert_false(counts[i] > 1 && mt_op_is_fused(&parts[n]));
			moved += mt_op_key_bytes(&part);
		}
		assert_true(mt_op_key_flops(&keys[0]) == mt_op_key_flops(&key));
		assert_true(counts[i] == 1 ? moved == mt_op_key_bytes(&key) : moved > mt_op_key_bytes(&key));
	}
}

static void flops_and_bytes_are_those_of_the_formula(void **state)
{
	struct mt_op linear = {.kind = MT_OP_LINEAR, .dtype = MT_BF16, .linear = {256, 768, 2304}};
	struct mt_op fill = {.kind = MT_OP_FILL, .move = {.count = 10, .dst_dtype = MT_F32}};
	struct mt_op attention = {.kind = MT_OP_ATTENTION, .attention = {2, 128, 12, 4, 64, 768, 256, 768}};
	assert_true(flops(linear) == 2.0 * 256 * 768 * 2304);
	assert_true(bytes(linear) == 2.0 * (256 * 768 + 768 * 2304 + 256 * 2304));
	assert_true(flops(attention) == 4.0 * 2 * 12 * 128 * 128 * 64 / 2);
	assert_true(bytes(attention) == 4.0 * 2 * 128 * (2 * 12 * 64 + 2 * 4 * 64 + 12));
	double forward = flops(attention);
	attention.kind = MT_OP_ATTENTION_BWD;
	assert_true(flops(attention) == 2.5 * forward);
	attention.attention.window = 128;
	assert_true(flops(attention) == 2.5 * forward);
	attention.attention.window = 64;
	assert_true(flops(attention) == 2.5 * forward * 3 / 4);
	/* A part: as many queries see all of half as many keys; the second half of a sequence sees the first and a triangle. */
	attention.attention.window = 0, attention.attention.kv_seq = 64, attention.attention.offset = 128;
	assert_true(flops(attention) == 2.5 * forward);
	attention.attention.seq = 64, attention.attention.kv_seq = 128, attention.attention.offset = 64;
	assert_true(flops(attention) == 2.5 * forward * 3 / 4);
	attention.attention.window = 64;
	assert_true(flops(attention) == 2.5 * forward / 2);
	assert_true(flops(fill) == 0 && bytes(fill) == 40);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(equal_shapes_have_equal_keys_and_other_pointers_do_not_matter),
		cmocka_unit_test(different_shapes_differ_in_key_hash_and_text),
		cmocka_unit_test(fused_products_are_their_parts),
		cmocka_unit_test(flops_and_bytes_are_those_of_the_formula),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
