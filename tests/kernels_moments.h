/* kernels_moments: AdamW with moments in bf16 is AdamW with them in f32, rounded where they are stored: on any device, bit for bit.
 */
#ifndef MT_TESTS_KERNELS_MOMENTS_H
#define MT_TESTS_KERNELS_MOMENTS_H

#include "tests/kernels_compare.h"

struct moments {
	float *grad, *master, *m, *v;
	uint16_t *param, *narrow_m, *narrow_v;
};

static inline struct moments moments_make(int64_t count)
{
	size_t wide = (size_t)count * 4 + 4, narrow = (size_t)count * 2 + 2;
	struct moments s = {malloc(wide), malloc(wide), malloc(wide), malloc(wide), malloc(narrow), malloc(narrow), malloc(narrow)};

	for (int64_t i = 0; i < count; i++) {
		s.grad[i] = (float)mt_random_normal(31, 0, (uint64_t)i);
		s.master[i] = (float)mt_random_normal(31, 1, (uint64_t)i);
		s.narrow_m[i] = mt_bf16_from_f32((float)mt_random_normal(31, 2, (uint64_t)i));
		s.narrow_v[i] = mt_bf16_from_f32(1 + 0.1f * (float)mt_random_normal(31, 3, (uint64_t)i));
		s.m[i] = mt_bf16_to_f32(s.narrow_m[i]);
		s.v[i] = mt_bf16_to_f32(s.narrow_v[i]);
	}
	return s;
}

static inline void moments_free(struct moments *s)
{
	free(s->grad), free(s->master), free(s->m), free(s->v), free(s->param), free(s->narrow_m), free(s->narrow_v);
}

static inline void moments_run(struct mt_device *device, struct moments *s, enum mt_dtype dtype, int64_t count, bool m, bool v)
{
	struct mt_stream *stream = NULL;
	struct mt_op op = {.kind = MT_OP_ADAMW, .dtype = dtype};

	op.adamw = (struct mt_adamw){.count = count, .step = 3, .lr = 1e-2, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .decay = 0.1};
	op.adamw.grad_scale = 0.5;
	op.adamw.grad = s->grad, op.adamw.master = s->master;
	op.adamw.param = dtype == MT_F32 ? (void *)s->master : s->param;
	op.adamw.m = m ? (void *)s->narrow_m : s->m, op.adamw.m_dtype = m ? MT_BF16 : MT_F32;
	op.adamw.v = v ? (void *)s->narrow_v : s->v, op.adamw.v_dtype = v ? MT_BF16 : MT_F32;
	assert_int_equal(mt_stream_create(device, MT_STREAM_COMPUTE, "test", &stream), MT_OK);
	if (mt_device_enqueue(device, stream, &op) != MT_OK)
		fail_msg("adamw on %s: %s", device->info.kind, mt_error_message());
	mt_stream_destroy(stream);
}

static inline void moments_check(struct mt_device *device, const char *name)
{
	static const enum mt_dtype dtypes[] = {MT_F32, MT_BF16, MT_F16};
	static const int64_t counts[] = {1, 7, 64, 5003};

	for (int c = 0; c < 36; c++) {
		const enum mt_dtype dtype = dtypes[c % 3];
		const int64_t count = counts[c / 9];
		const bool m = c / 3 % 3 != 1, v = c / 3 % 3 != 0;
		struct moments wide = moments_make(count), narrow = moments_make(count);

		moments_run(device, &wide, dtype, count, false, false);
		moments_run(device, &narrow, dtype, count, m, v);
		for (int64_t i = 0; i < count; i++) {
			bool same = narrow.master[i] == wide.master[i];
			same = same && (m ? narrow.narrow_m[i] == mt_bf16_from_f32(wide.m[i]) : narrow.m[i] == wide.m[i]);
			same = same && (v ? narrow.narrow_v[i] == mt_bf16_from_f32(wide.v[i]) : narrow.v[i] == wide.v[i]);
			same = same && (dtype == MT_F32 || narrow.param[i] == wide.param[i]);
			if (!same)
				fail_msg("%s, %s, element %lld of %lld: master %.9g, in f32 %.9g", name, mt_dtype_name(dtype),
					 (long long)i, (long long)count, (double)narrow.master[i], (double)wide.master[i]);
		}
		moments_free(&wide);
		moments_free(&narrow);
	}
}

#endif
