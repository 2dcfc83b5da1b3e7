/* What comm knows without a network: the fabric of one rank, fabrics by name, cost curves, reductions, agreement. */
#include "comm/agree.h"
#include "comm/comm.h"
#include "comm/reduce.h"
#include "kernels/device.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void assert_near(double got, double want)
{
	if (!(fabs(got - want) <= 1e-12 * fabs(want)))
		fail_msg("%.17g, expected %.17g", got, want);
}

static void one_rank_copies(void **state)
{
	struct mt_fabric_config config = {.kind = "self"};
	struct mt_device_config device_config = {.kind = "reference", .threads = 1};
	struct mt_fabric *fabric;
	struct mt_device *device;
	struct mt_stream *stream;
	struct mt_group *group;
	float x[3] = {1, 2, 3}, y[3] = {0};
	double v = 4;
	int rank = 0, z = 0;
	assert_int_equal(mt_fabric_create(&fabric, &config), MT_OK);
	assert_int_equal(mt_device_create(&device, &device_config), MT_OK);
	assert_int_equal(mt_stream_create(device, MT_STREAM_COMM, "comm", &stream), MT_OK);
	assert_int_equal(mt_fabric_size(fabric), 1);
	assert_int_equal(mt_fabric_local_size(fabric), 1);
	assert_true(strlen(mt_fabric_host(fabric, 0)) > 0);
	assert_int_equal(mt_group_create(fabric, "alone", &rank, 1, &group), MT_OK);

	assert_int_equal(mt_comm_all_reduce(group, stream, x, y, 3, MT_F32, MT_SUM), MT_OK);
	assert_memory_equal(x, y, sizeof x);
	memset(y, 0, sizeof y);
	assert_int_equal(mt_comm_reduce_scatter(group, stream, x, y, 3, MT_F32), MT_OK);
	assert_memory_equal(x, y, sizeof x);
	memset(y, 0, sizeof y);
	assert_int_equal(mt_comm_all_gather(group, stream, x, y, 3, MT_F32), MT_OK);
	assert_memory_equal(x, y, sizeof x);
	memset(y, 0, sizeof y);
	assert_int_equal(mt_comm_all_to_all(group, stream, x, y, 3, MT_F32), MT_OK);
	assert_memory_equal(x, y, sizeof x);
	assert_int_equal(mt_comm_all_reduce(group, stream, x, x, 3, MT_F32, MT_MAX), MT_OK);
	assert_int_equal(mt_comm_broadcast(group, stream, x, 3, MT_F32, 0), MT_OK);
	assert_int_equal(mt_comm_barrier(group), MT_OK);
	assert_int_equal(mt_comm_host_all_reduce(group, &v, 1, MT_SUM), MT_OK);
	assert_near(v, 4);
	assert_int_equal(mt_comm_host_all_gather(group, &rank, &z, sizeof z), MT_OK);
	assert_int_equal(mt_comm_send(group, stream, x, 3, MT_F32, 0), MT_INPUT);
	mt_error_clear();

	mt_group_destroy(group);
	mt_stream_destroy(stream);
	mt_device_destroy(device);
	mt_fabric_destroy(fabric);
}

static void unknown_and_absent_fabrics_say_so(void **state)
{
	struct mt_fabric_config config = {.kind = "carrier pigeon"};
	struct mt_fabric *fabric;
	assert_int_equal(mt_fabric_create(&fabric, &config), MT_INPUT);
	assert_non_null(strstr(mt_error_message(), "carrier pigeon"));
	mt_error_clear();
	assert_null(fabric);
	assert_string_equal(mt_fabric_kinds()[0], "self");
#ifndef MT_HAVE_MPI
	config.kind = "mpi";
	assert_int_equal(mt_fabric_create(&fabric, &config), MT_UNAVAILABLE);
	assert_non_null(strstr(mt_error_message(), "libopenmpi-dev"));
	mt_error_clear();
#endif
}

static void a_launcher_is_seen_in_the_environment(void **state)
{
	static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "SLURM_JOB_ID"};
	for (int i = 0; i < 4; i++)
		unsetenv(names[i]);
	assert_false(mt_fabric_launched());
	setenv("PMI_RANK", "0", 1);
	assert_false(mt_fabric_launched());
	setenv("SLURM_JOB_ID", "12", 1);
	assert_true(mt_fabric_launched());
	unsetenv("PMI_RANK");
	assert_false(mt_fabric_launched());
	setenv("PMIX_RANK", "0", 1);
	assert_true(mt_fabric_launched());
	unsetenv("PMIX_RANK");
	setenv("OMPI_COMM_WORLD_SIZE", "2", 1);
	assert_true(mt_fabric_launched());
	unsetenv("OMPI_COMM_WORLD_SIZE");
	unsetenv("SLURM_JOB_ID");
}

static void bus_factors_are_those_of_nccl_tests(void **state)
{
	assert_near(mt_comm_bus_factor(MT_COMM_ALL_REDUCE, 8), 1.75);
	assert_near(mt_comm_bus_factor(MT_COMM_ALL_REDUCE, 2), 1.0);
	assert_near(mt_comm_bus_factor(MT_COMM_REDUCE_SCATTER, 4), 0.75);
	assert_near(mt_comm_bus_factor(MT_COMM_ALL_GATHER, 4), 0.75);
	assert_near(mt_comm_bus_factor(MT_COMM_ALL_TO_ALL, 2), 0.5);
	assert_near(mt_comm_bus_factor(MT_COMM_BROADCAST, 8), 1.0);
	assert_near(mt_comm_bus_factor(MT_COMM_SEND_RECV, 2), 1.0);
}

static void curves_pass_through_their_points(void **state)
{
	struct mt_comm_curve curve = {.points = 3, .alpha_s = 1e-6, .beta_s_per_byte = 1e-9};
	const double bytes[3] = {1024, 4096, 1 << 20}, seconds[3] = {2e-6, 4e-6, 1e-3};
	memcpy(curve.bytes, bytes, sizeof bytes);
	memcpy(curve.seconds, seconds, sizeof seconds);
	for (int i = 0; i < 3; i++)
		assert_near(mt_comm_curve_s(&curve, bytes[i]), seconds[i]);
	assert_near(mt_comm_curve_s(&curve, 0), 2e-6);
	assert_near(mt_comm_curve_s(&curve, 512), 2e-6);
	/* Halfway in the logarithm of bytes is halfway in that of seconds. */
	assert_near(mt_comm_curve_s(&curve, 2048), sqrt(2e-6 * 4e-6));
	/* Beyond the last point as steep as before it, or as the fit. */
	assert_near(mt_comm_curve_s(&curve, 1e7), 1e-3 + (1e7 - (1 << 20)) * 1e-9);
	curve.beta_s_per_byte = 5e-10;
	assert_near(mt_comm_curve_s(&curve, 1e7), 1e-3 + (1e7 - (1 << 20)) * (1e-3 - 4e-6) / ((1 << 20) - 4096));
	curve.beta_s_per_byte = 1e-9;
	double before = 0;
	for (int i = 0; i < 80; i++) {
		double s = mt_comm_curve_s(&curve, pow(1.3, i)); /* up to 1e9 bytes */
		assert_true(s >= before);
		before = s;
	}
	curve.points = 0;
	assert_near(mt_comm_curve_s(&curve, 1000), 1e-6 + 1e-6);
}

static void reductions_round_bf16_and_keep_nan(void **state)
{
	uint16_t a[5], b[5], out[5];
	float x[2] = {NAN, 1}, y[2] = {1, NAN}, z[2];
	int32_t i[2] = {5, -7}, j[2] = {-6, 3}, k[2];
	const float left[5] = {1, 256, 257, -3, 0.5f}, right[5] = {2, 1, 1, 3, 0.25f};
	for (int e = 0; e < 5; e++) {
		a[e] = mt_bf16_from_f32(left[e]);
		b[e] = mt_bf16_from_f32(right[e]);
	}
	mt_comm_combine(out, a, b, 5, MT_BF16, MT_SUM);
	for (int e = 0; e < 5; e++)
		assert_int_equal(out[e], mt_bf16_from_f32(mt_bf16_to_f32(a[e]) + mt_bf16_to_f32(b[e])));
	for (int reduction = MT_SUM; reduction <= MT_MAX; reduction++) {
		mt_comm_combine(z, x, y, 2, MT_F32, (enum mt_reduction)reduction);
		assert_true(isnan(z[0]) && isnan(z[1]));
	}
	mt_comm_combine(k, i, j, 2, MT_I32, MT_MAX);
	assert_int_equal(k[0], 5);
	assert_int_equal(k[1], 3);
	mt_comm_combine(i, i, j, 2, MT_I32, MT_SUM);
	assert_int_equal(i[0], -1);
	assert_int_equal(i[1], -4);
}

static void the_member_that_differs_is_named(void **state)
{
	char host[1][MT_FABRIC_HOST] = {"here"};
	struct mt_fabric fabric = {.hosts = host, .host_entries = 1};
	int ranks[4] = {1, 3, 5, 7};
	struct mt_group group = {.fabric = &fabric, .name = "dp", .size = 4, .ranks = ranks};
	struct mt_comm_call call = {.op = MT_COMM_ALL_REDUCE, .count = 12, .dtype = MT_F32};
	struct mt_comm_signature s[4];
	for (int i = 0; i < 4; i++)
		s[i] = mt_comm_sign(&call, 6);
	assert_int_equal(mt_comm_agree(&group, s), MT_OK);
	call.dtype = MT_BF16;
	s[2] = mt_comm_sign(&call, 6);
	assert_int_equal(mt_comm_agree(&group, s), MT_FAILED);
	assert_non_null(strstr(mt_error_message(), "rank 2 (world rank 5 on here) calls all_reduce(sum) of 12 bf16"));
	assert_non_null(strstr(mt_error_message(), "and 2 more call all_reduce(sum) of 12 f32"));
	mt_error_clear();
	/* The first may be the odd one; a root counts for a broadcast only. */
	call.op = MT_COMM_BROADCAST;
	call.peer = 1;
	for (int i = 0; i < 4; i++)
		s[i] = mt_comm_sign(&call, 7);
	call.peer = 2;
	s[0] = mt_comm_sign(&call, 7);
	assert_int_equal(mt_comm_agree(&group, s), MT_FAILED);
	assert_non_null(strstr(mt_error_message(), "rank 0 (world rank 1 on here) calls broadcast of 12 bf16"));
	mt_error_clear();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_rank_copies),
		cmocka_unit_test(unknown_and_absent_fabrics_say_so),
		cmocka_unit_test(a_launcher_is_seen_in_the_environment),
		cmocka_unit_test(bus_factors_are_those_of_nccl_tests),
		cmocka_unit_test(curves_pass_through_their_points),
		cmocka_unit_test(reductions_round_bf16_and_keep_nan),
		cmocka_unit_test(the_member_that_differs_is_named),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
