/* graph: operations captured from a stream, for kernels/graph.c.
 *
 * Captured is what this thread enqueues on the stream; other threads go on as ever. A list is captured only when it has run before,
 * so its plans are made and its scratch has its size: scratch never moves, so a graph stays right when it grows. A call that a
 * capture does not allow ends it with an error here and does nothing. */
#include "kernels/cuda/cuda.h"

enum mt_status cuda_capture_begin(struct mt_stream *stream)
{
	CUDA_TRY(cudaStreamBeginCapture(cuda_stream(stream), cudaStreamCaptureModeThreadLocal));
	return MT_OK;
}

enum mt_status cuda_capture_end(struct mt_stream *stream, enum mt_status st, void **graph)
{
	cudaGraph_t captured = NULL;
	cudaGraphExec_t made = NULL;
	*graph = NULL;
	cudaError_t error = cudaStreamEndCapture(cuda_stream(stream), &captured);
	if (error == cudaSuccess && st == MT_OK)
		error = cudaGraphInstantiateWithFlags(&made, captured, 0);
	if (captured)
		cudaGraphDestroy(captured);
	if (error != cudaSuccess) {
		enum mt_status failed = cuda_fail(error, "to capture a list of operations");
		return st == MT_OK ? failed : st;
	}
	*graph = made;
	return st;
}

enum mt_status cuda_graph_launch(struct mt_stream *stream, void *graph)
{
	CUDA_TRY(cudaGraphLaunch(graph, cuda_stream(stream)));
	return MT_OK;
}

void cuda_graph_free(struct mt_stream *stream, void *graph)
{
	cudaGraphExecDestroy(graph);
}
