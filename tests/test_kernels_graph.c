/* The calls by which the CUDA device captures, launches and frees graphs (kernels/cuda/graph.c), each of which may fail: compiled
 * whole against functions that stand in for CUDA's, beneath the lists of kernels/graph.c. Work is a count: a launch adds how many
 * operations were captured, an operation by itself adds 1. */
#include "kernels/cuda/cuda.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

struct CUgraph_st {
	int count;
};
struct CUgraphExec_st {
	int count;
};
struct CUstream_st {
	bool capturing, invalid;
	int captured, done;
};

static enum { WORKS, BEGIN_FAILS, OPERATION_FAILS, END_FAILS, INSTANTIATE_FAILS, LAUNCH_FAILS } fault;
static cudaError_t last_error;
static int live_graphs, live_execs;

static cudaError_t answer(cudaError_t error)
{
	if (error != cudaSuccess)
		last_error = error;
	return error;
}

cudaError_t cudaGetLastError(void)
{
	cudaError_t error = last_error;
	last_error = cudaSuccess;
	return error;
}

const char *cudaGetErrorString(cudaError_t error)
{
	return error == cudaErrorStreamCaptureInvalidated ? "the capture is invalid" : "an error of CUDA";
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode)
{
	/* In another mode calls of the fabric's thread would end the capture, or be refused. */
	assert_int_equal(mode, cudaStreamCaptureModeThreadLocal);
	assert_false(stream->capturing);
	if (fault == BEGIN_FAILS)
		return answer(cudaErrorStreamCaptureUnsupported);
	*stream = (struct CUstream_st){.capturing = true, .done = stream->done};
	return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
	*graph = NULL;
	assert_true(stream->capturing);
	stream->capturing = false;
	if (stream->invalid || fault == END_FAILS)
		return answer(cudaErrorStreamCaptureInvalidated);
	*graph = malloc(sizeof **graph);
	(*graph)->count = stream->captured;
	live_graphs++;
	return cudaSuccess;
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *made, cudaGraph_t graph, unsigned long long flags)
{
	*made = NULL;
	if (fault == INSTANTIATE_FAILS)
		return answer(cudaErrorMemoryAllocation);
	*made = malloc(sizeof **made);
	(*made)->count = graph->count;
	live_execs++;
	return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
	free(graph);
	live_graphs--;
	return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream)
{
	if (fault == LAUNCH_FAILS)
		return answer(cudaErrorMemoryAllocation);
	assert_false(stream->capturing);
	stream->done += graph->count;
	return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph)
{
	free(graph);
	live_execs--;
	return cudaSuccess;
}

enum mt_status cuda_fail(cudaError_t error, const char *what)
{
	cudaGetLastError();
	return mt_fail(error == cudaErrorMemoryAllocation ? MT_NOMEM : MT_FAILED, "CUDA: %s: %s", what, cudaGetErrorString(error));
}

/* With the calls above. NOLINTNEXTLINE(bugprone-suspicious-include) */
#include "kernels/cuda/graph.c"

/* ---- a device of these calls ---- */

static enum mt_status open_nothing(struct mt_device *device, const struct mt_device_config *config)
{
	return MT_OK;
}

static void close_nothing(struct mt_device *device)
{
}

/* As a launch does: an error is left behind, and a capture that has met one is invalid. */
static enum mt_status enqueue(struct mt_device *device, struct mt_stream *stream, const struct mt_op *op)
{
	struct CUstream_st *s = cuda_stream(stream);
	bool fails = fault == OPERATION_FAILS && s->capturing;
	s->invalid = s->invalid || fails;
	if (fails)
		return cuda_fail(answer(cudaErrorStreamCaptureUnsupported), "a launch");
	s->capturing ? s->captured++ : s->done++;
	return MT_OK;
}

static enum mt_status stream_open(struct mt_stream *stream)
{
	stream->native = calloc(1, sizeof(struct CUstream_st));
	return MT_OK;
}

static void stream_close(struct mt_stream *stream)
{
	free(stream->native);
}

static enum mt_status synchronize(struct mt_stream *stream)
{
	assert_false(cuda_stream(stream)->capturing);
	return MT_OK;
}

static const struct mt_async_ops async = {
	.stream_open = stream_open,
	.stream_close = stream_close,
	.stream_synchronize = synchronize,
	.capture_begin = cuda_capture_begin,
	.capture_end = cuda_capture_end,
	.graph_launch = cuda_graph_launch,
	.graph_free = cuda_graph_free,
};

static const struct mt_device_ops ops = {
	.kind = "calls", .open = open_nothing, .close = close_nothing, .enqueue = enqueue, .async = &async};

/* TURNS times a list of OPS operations with this fault: how often they were done, and what is counted. */
enum { TURNS = 4, OPS = 3 };

static void run_with(int with, enum mt_status last, int64_t captured, int64_t refused)
{
	struct mt_device *device;
	struct mt_stream *stream;
	struct mt_op op = {.kind = MT_OP_FILL, .dtype = MT_F32};
	op.move = (struct mt_move){.count = 1, .src_dtype = MT_F32, .dst_dtype = MT_F32, .dst = &op};
	assert_int_equal(mt_device_create_from(&device, &ops, &(struct mt_device_config){.kind = "calls"}), MT_OK);
	assert_int_equal(mt_stream_create(device, MT_STREAM_COMPUTE, "compute", &stream), MT_OK);
	assert_int_equal(mt_stream_use_graphs(stream), MT_OK);
	fault = with;
	for (int turn = 0; turn < TURNS; turn++) {
		mt_stream_list_begin(stream);
		for (int i = 0; i < OPS; i++)
			assert_int_equal(mt_device_enqueue(device, stream, &op), MT_OK);
		assert_int_equal(mt_stream_list_end(stream, MT_OK), turn > 0 ? last : MT_OK);
		assert_int_equal(mt_error_message()[0] != '\0', turn > 0 && last != MT_OK);
		mt_error_clear();
		assert_int_equal(last_error, cudaSuccess); /* else a later launch would find it */
	}
	assert_int_equal(cuda_stream(stream)->done, last == MT_OK ? TURNS * OPS : OPS);
	struct mt_graph_stats stats = mt_stream_graph_stats(stream);
	assert_int_equal(stats.captured, captured);
	assert_int_equal(stats.refused, refused);
	assert_int_equal(stats.reason[0] != '\0', refused > 0);
	assert_int_equal(live_graphs, 0);
	assert_int_equal(live_execs, captured);
	mt_stream_destroy(stream);
	assert_int_equal(live_execs, 0);
	mt_device_destroy(device);
}

static void a_list_is_captured_once_and_launched(void **state)
{
	run_with(WORKS, MT_OK, 1, 0);
}

static void a_capture_that_fails_anywhere_leaves_the_operations_one_by_one(void **state)
{
	run_with(BEGIN_FAILS, MT_OK, 0, 1);
	run_with(OPERATION_FAILS, MT_OK, 0, 1);
	run_with(END_FAILS, MT_OK, 0, 1);
	run_with(INSTANTIATE_FAILS, MT_OK, 0, 1);
}

static void a_launch_that_fails_is_told(void **state)
{
	run_with(LAUNCH_FAILS, MT_NOMEM, 1, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_list_is_captured_once_and_launched),
		cmocka_unit_test(a_capture_that_fails_anywhere_leaves_the_operations_one_by_one),
		cmocka_unit_test(a_launch_that_fails_is_told),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
