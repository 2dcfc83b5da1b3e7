/* The CUDA kernels of fp8, and AdamW's with moments in bf16, run on the processor, against the reference device bit for bit, in
 * whatever order threads run. */
#define SLACK_BYTES 0
#include "tests/kernels_fp8.h"
#include "tests/kernels_moments.h"

#include "tests/cuda_host/device.h"

static void kernels_give_the_references_bits(void **state)
{
	struct mt_device *reference = NULL, *device = open_emulated();
	assert_non_null(device);
	assert_int_equal(mt_device_create(&reference, &(struct mt_device_config){.kind = "reference"}), MT_OK);
	for (uint64_t seed = 0; seed < 2; seed++) {
		cuda_host_seed(seed * 7);
		fp8_check_sizes(device, reference, "emulated CUDA");
		fp8_check_scales(device, reference, "emulated CUDA");
	}
	cuda_host_seed(0);
	mt_device_destroy(device);
	mt_device_destroy(reference);
}

static void moments_in_bf16_are_those_of_f32_rounded(void **state)
{
	struct mt_device *device = open_emulated();
	assert_non_null(device);
	moments_check(device, "emulated CUDA");
	mt_device_destroy(device);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(kernels_give_the_references_bits),
					   cmocka_unit_test(moments_in_bf16_are_those_of_f32_rounded)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
