/* The CUDA kernels of experts, run on the processor, as tests/test_cuda_host_kernels.c has the others. Products of groups go to
 * cuBLASLt and are tried on a GPU alone. */
#define SLACK_BYTES 0
#include "tests/kernels_experts.h"

#include "tests/cuda_host/device.h"

static void check_emulated(const struct problem *given)
{
	static const enum mt_dtype dtypes[] = {MT_F32, MT_BF16};
	struct problem problem = *given;
	struct mt_device *reference = NULL, *device = open_emulated();

	assert_non_null(device);
	assert_int_equal(mt_device_create(&reference, &(struct mt_device_config){.kind = "reference"}), MT_OK);
	for (int i = 0; i < 4; i++) {
		enum mt_dtype dtype = dtypes[i % 2];
		void *want[MOST_OPERANDS], *got[MOST_OPERANDS], *again[MOST_OPERANDS];

		if (problem.f32_only && dtype != MT_F32)
			continue;
		problem.shift = i / 2;
		solve(&problem, reference, MT_F64, dtype, want);
		cuda_host_seed(0);
		solve(&problem, device, dtype, dtype, got);
		cuda_host_seed(7);
		solve(&problem, device, dtype, dtype, again);
		for (int n = 0; n < problem.count; n++) {
			if (problem.operands[n].role != IN)
				compare(&problem, &problem.operands[n], got[n], want[n], dtype, "emulated CUDA");
			if (memcmp(got[n], again[n], bytes_of(&problem, n, dtype)) != 0)
				fail_msg("%s: %s depends on the order of threads", mt_op_name(problem.kinds[1]),
					 problem.operands[n].name);
		}
		release(want, problem.count);
		release(got, problem.count);
		release(again, problem.count);
	}
	mt_device_destroy(device);
	mt_device_destroy(reference);
}

static void routing_equals_reference(void **state)
{
	routings(check_emulated);
}

static void rows_of_experts_equal_reference(void **state)
{
	rows_of_experts(check_emulated);
}

static void weighted_activations_equal_reference(void **state)
{
	expert_activations(check_emulated);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(routing_equals_reference),
		cmocka_unit_test(rows_of_experts_equal_reference),
		cmocka_unit_test(weighted_activations_equal_reference),
	};
	return cmocka_run_group_tests_name("CUDA kernels of experts", tests, NULL, NULL);
}
