/* The plugin for cuDNN, on a machine without a GPU: it loads and says that there is no driver, and cuDNN's engines recognise our
 * graphs as attention for every architecture, which cuDNN can be asked of a GPU that is only described. (Its engines want libcuda
 * loaded for that; the toolkit's stub, in which every function fails, will do.) What they compute is checked on a GPU. */
#include "base/plugin.h"
#include "kernels/cuda/cudnn/cudnn.h"

#include <dlfcn.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct mt_cudnn_ops *cudnn;

static int load(void **state)
{
	const void *table = NULL;
	int broken = 0;
	if (mt_plugin_open("cudnn", MT_CUDNN_ABI, &table) == MT_OK) {
		cudnn = table;
	} else {
		broken = strstr(mt_error_message(), "undefined symbol") != NULL;
		print_message("%s: %s\n", broken ? "failed" : "skipped", mt_error_message());
	}
	mt_error_clear();
	return broken;
}

static struct mt_op attention(enum mt_op_kind kind, int64_t seq, int64_t heads, int64_t kv_heads, int64_t dim, int64_t window)
{
	struct mt_op op = {.kind = kind, .dtype = MT_BF16};
	struct mt_attention *a = &op.attention;
	a->batch = 2, a->seq = seq, a->heads = heads, a->kv_heads = kv_heads, a->head_dim = dim;
	a->q_stride = a->kv_stride = (heads + 2 * kv_heads) * dim; /* one packed projection */
	a->o_stride = heads * dim;
	a->window = window;
	a->scale = 0.125;
	return op;
}

/* The toolkit's stand-in for the driver, unless the driver itself is there. */
static bool load_driver(void)
{
	static const char *const places[] = {"lib64/stubs/libcuda.so", "lib/stubs/libcuda.so"};
	const char *home = getenv("CUDA_HOME");
	char path[512];
	if (dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL))
		return true;
	for (int i = 0; i < 4; i++) {
		snprintf(path, sizeof path, "%s/%s", i < 2 && home ? home : "/usr/local/cuda", places[i % 2]);
		if (dlopen(path, RTLD_NOW | RTLD_GLOBAL))
			return true;
	}
	return false;
}

static struct mt_cudnn *described(int version, int shared_bytes)
{
	struct mt_cudnn *made = NULL;
	char json[1024];
	snprintf(json, sizeof json,
		 "{\"cudaDeviceId\":0,\"deviceVer\":%d,\"driverVer\":13000,\"deviceName\":\"described\",\"isTccDriver\":0,"
		 "\"l2CacheSize\":52428800,\"maxBlockSize\":[1024,1024,64],\"maxCtasPerSM\":32,"
		 "\"maxGridSize\":[2147483647,65535,65535],\"maxRegistersPerSM\":65536,\"maxSharedMemoryPerBlock\":49152,"
		 "\"maxSharedMemoryPerBlockOptin\":%d,\"maxThreadsPerBlock\":1024,\"maxThreadsPerSM\":2048,"
		 "\"memClockRateKHz\":2619000,\"multiProcessorCount\":132,\"pciDeviceId\":0,\"regsPerBlock\":65536,"
		 "\"reservedSharedMemoryPerBlock\":1024,\"smClockRateKHz\":1980000,\"supportCoopLaunch\":1,"
		 "\"totalGlobalMem\":85000000000,\"warpSize\":32}",
		 version, shared_bytes);
	if (cudnn->open(json, &made) != MT_OK)
		fail_msg("sm_%d: %s", version / 10, mt_error_message());
	return made;
}

static void without_a_driver_it_says_so(void **state)
{
	struct mt_cudnn *opened = NULL;
	if (!cudnn)
		skip();
	enum mt_status st = cudnn->open(NULL, &opened);
	if (st == MT_OK) {
		cudnn->close(opened);
		print_message("skipped: there is a GPU\n");
		skip();
	}
	assert_null(opened);
	assert_int_equal(st, MT_UNAVAILABLE);
	assert_non_null(strstr(mt_error_message(), "cuDNN"));
	mt_error_clear();
}

static void engines_take_our_graphs_on_every_architecture(void **state)
{
	static const int gpus[][2] = {{800, 166912}, {900, 232448}, {1000, 232448}, {1200, 101376}};
	static const int64_t heads[][3] = {{4, 4, 64}, {8, 2, 128}, {2, 1, 96}};
	if (!cudnn || !load_driver())
		skip();
	if (cudnn->version() < 91900) {
		print_message("skipped: cuDNN %d takes no description of a GPU, or another one\n", cudnn->version());
		skip();
	}
	for (size_t g = 0; g < sizeof gpus / sizeof gpus[0]; g++) {
		struct mt_cudnn *gpu = described(gpus[g][0], gpus[g][1]);
		for (size_t i = 0; i < 12; i++) {
			const int64_t *h = heads[i / 4];
			const struct mt_cudnn_plan *plan = NULL, *again = NULL;
			struct mt_op op =
				attention(i % 2 ? MT_OP_ATTENTION_BWD : MT_OP_ATTENTION, 512, h[0], h[1], h[2], i & 2 ? 100 : 0);
			size_t bytes = SIZE_MAX;
			if (cudnn->plan(gpu, &op, &plan, &bytes) != MT_OK)
				fail_msg("%s, sm_%d, heads %d/%d of %d, window %d: %s", mt_op_name(op.kind), gpus[g][0] / 10,
					 (int)h[0], (int)h[1], (int)h[2], (int)op.attention.window, mt_error_message());
			assert_true(bytes <= MT_GPU_CUDNN_BYTES);
			assert_int_equal(cudnn->plan(gpu, &op, &again, &bytes), MT_OK);
			assert_ptr_equal(plan, again);
			assert_int_equal(cudnn->run(gpu, plan, NULL, &op, NULL), MT_UNAVAILABLE);
			mt_error_clear();
		}
		cudnn->close(gpu);
	}
}

static void what_it_is_not_asked_for_is_unavailable(void **state)
{
	static const int32_t starts[1];
	_Alignas(16) static const char somewhere[16];
	if (!cudnn || !load_driver() || cudnn->version() < 91900)
		skip();
	struct mt_cudnn *gpu = described(900, 232448);
	for (int i = 0; i < 6; i++) {
		static const char *const why[] = {"bf16", "documents", "16 bytes", "16 bytes", "head sizes", "MiB"};
		struct mt_op op = attention(MT_OP_ATTENTION_BWD, i == 5 ? 16384 : 256, 4, 4, i == 4 ? 68 : 64, 0);
		const struct mt_cudnn_plan *plan = NULL;
		size_t bytes;
		op.dtype = i == 0 ? MT_F32 : MT_BF16;
		op.attention.starts = i == 1 ? starts : NULL;
		op.attention.q = i == 2 ? somewhere + 8 : somewhere;
		op.attention.kv_stride += i == 3 ? 4 : 0;
		assert_int_equal(cudnn->plan(gpu, &op, &plan, &bytes), MT_UNAVAILABLE);
		if (!strstr(mt_error_message(), why[i]))
			fail_msg("expected '%s' in: %s", why[i], mt_error_message());
		mt_error_clear();
	}
	cudnn->close(gpu);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(without_a_driver_it_says_so),
		cmocka_unit_test(engines_take_our_graphs_on_every_architecture),
		cmocka_unit_test(what_it_is_not_asked_for_is_unavailable),
	};
	return cmocka_run_group_tests(tests, load, NULL);
}
