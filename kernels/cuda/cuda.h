/* cuda: what the files of the CUDA device share. The device is one GPU, one primary context, several streams; everything is
 * asynchronous but what says so. The CUDA runtime is linked statically and finds the driver itself; libcuda is never linked. */
#ifndef MT_KERNELS_CUDA_CUDA_H
#define MT_KERNELS_CUDA_CUDA_H

#include "kernels/cuda/attention.h"
#include "kernels/cuda/kernels.h"
#include "kernels/device.h"

#include <cublasLt.h>
#include <cuda_runtime_api.h>

struct cuda_range;   /* memory.c: device memory behind one range of addresses */
struct cuda_plan;    /* product.c: how one shape of product is done */
struct cuda_split;   /* product_fused.c: how a product with an epilogue is */
struct cuda_staging; /* staging.c: pinned host memory for copies */
struct cuda_mark;    /* stream.c: a timed event */
struct cuda_anchor;  /* stream.c: a timed event whose time on the host's clock is known */

/* How an algorithm is chosen among those that cuBLASLt suggests for a shape. */
enum cuda_choice {
	CUDA_CHOICE_FIRST,   /* its first, unmeasured */
	CUDA_CHOICE_SAME,    /* the fastest of those that give the first one's bits: measured, and the same from run to run */
	CUDA_CHOICE_FASTEST, /* the fastest: bits may differ between runs of the program */
};

struct cuda_device {
	int index; /* of CUDA's */
	struct mt_cuda_launch launch;
	struct mt_arena_backing memory, host_memory;
	struct cuda_pinned *pinned; /* owned: gone when its arenas are */
	struct cuda_range *ranges;  /* owned */
	bool exportable;            /* memory is made so that other processes and NICs may be given it */
	struct cuda_staging *staging;
	cudaStream_t transfer; /* of copies at once, from any thread */
	cudaStream_t clock;    /* always idle: anchors are recorded here */
	struct cuda_mark *idle_marks;
	struct cuda_anchor *anchor, *idle_anchors;
	cublasLtHandle_t blas;
	struct cuda_plan *plans;             /* owned */
	struct cuda_split *splits;           /* owned */
	struct mt_cuda_attention *attention; /* owned */
	enum cuda_choice choice;
	size_t workspace_bytes; /* what a product may ask for */
};

/* What a stream keeps: scratch for its operations, which grows in place. */
struct cuda_stream {
	struct cuda_range *scratch; /* compute streams, when first used */
};

static inline struct cuda_device *cuda_of(const struct mt_device *device)
{
	return device->backend;
}

static inline cudaStream_t cuda_stream(const struct mt_stream *stream)
{
	return stream->native;
}

/* MT_FAILED, or MT_NOMEM when that is what it says. `what` names the call. */
enum mt_status cuda_fail(cudaError_t error, const char *what);
#define CUDA_TRY(call)                                                                                                             \
	do {                                                                                                                       \
		cudaError_t cuda_try_error_ = (call);                                                                              \
		if (cuda_try_error_ != cudaSuccess)                                                                                \
			return cuda_fail(cuda_try_error_, #call);                                                                  \
	} while (0)

/* cuda.c: an operation that is a kernel of our own. */
enum mt_status cuda_kernel(struct mt_stream *stream, const struct mt_op *op);

/* probe.c: the GPUs that are there. MT_UNAVAILABLE with the reason: no driver, one too old, no GPU. */
enum mt_status cuda_count(int *count);
enum mt_status cuda_list(struct mt_device_info *list, int room, int *count);
enum mt_status cuda_describe(int index, struct mt_device_info *info, struct cudaDeviceProp *properties);

/* memory.c */
void cuda_host_memory_open(struct cuda_device *cuda); /* host_memory.c */
enum mt_status cuda_memory_open(struct cuda_device *cuda);
void cuda_memory_close(struct cuda_device *cuda); /* gives back every range */
/* The stream's scratch with at least `bytes`. Never moves while it grows, so nothing needs to wait. */
enum mt_status cuda_scratch(struct mt_stream *stream, size_t bytes, void **scratch);
void cuda_scratch_free(struct mt_stream *stream);

/* staging.c */
enum mt_status cuda_staging_open(struct cuda_device *cuda);
void cuda_staging_close(struct cuda_device *cuda);
enum mt_status cuda_upload(struct mt_device *device, struct mt_stream *stream, void *dst, const void *src, size_t bytes);
enum mt_status cuda_download(struct mt_device *device, struct mt_stream *stream, void *dst, const void *src, size_t bytes);
enum mt_status cuda_copy(struct mt_device *device, struct mt_stream *stream, void *dst, const void *src, size_t bytes);
/* At once, from any thread. */
enum mt_status cuda_fetch(struct mt_device *device, void *dst, const void *src, size_t bytes);
enum mt_status cuda_store(struct mt_device *device, void *dst, const void *src, size_t bytes);

/* stream.c */
extern const struct mt_async_ops cuda_async;
enum mt_status cuda_clock_open(struct cuda_device *cuda);
void cuda_clock_close(struct cuda_device *cuda);

/* graph.c */
enum mt_status cuda_capture_begin(struct mt_stream *stream);
enum mt_status cuda_capture_end(struct mt_stream *stream, enum mt_status st, void **graph);
enum mt_status cuda_graph_launch(struct mt_stream *stream, void *graph);
void cuda_graph_free(struct mt_stream *stream, void *graph);

/* product.c, product_fused.c, product_measure.c (which, as the second, measures by measure.h) */
enum mt_status cuda_products_open(struct cuda_device *cuda);
void cuda_products_close(struct cuda_device *cuda);
enum mt_status cuda_product(struct mt_device *device, struct mt_stream *stream, const struct mt_op *op);
/* One product by itself, with its epilogue if it has one; and whether there is one with this epilogue, without running it. */
enum mt_status cuda_product_whole(struct mt_device *device, struct mt_stream *stream, const struct mt_op *op);
enum mt_status cuda_product_plan(struct mt_device *device, struct mt_stream *stream, const struct mt_op *op, bool *possible);
/* A product with GELU or a bias' gradient: by itself, or cut into what it stands for. */
enum mt_status cuda_product_fused(struct mt_device *device, struct mt_stream *stream, const struct mt_op *op);
void cuda_splits_close(struct cuda_device *cuda);
/* The same for a shape that may never come again: no plan is kept, and the first algorithm that cuBLASLt suggests is used. */
enum mt_status cuda_product_once(struct mt_device *device, struct mt_stream *stream, const struct mt_op *op);

/* Where the operands of a product are. `bias`: what is added, or where a bias' gradient goes; `aux`: GELU's input; NULL: none. */
struct cuda_operands {
	const void *a, *b;
	void *c, *bias, *aux;
};

struct cuda_product {
	cublasLtMatmulDesc_t how;
	cublasLtMatrixLayout_t a, b, c; /* c is also d's */
	size_t a_bytes, b_bytes, c_bytes;
	size_t aux_bytes, sums_bytes; /* of GELU's input and of a bias' gradient; 0: none */
	bool aux_written;
	double beta;
	enum mt_dtype dtype, a_dtype, b_dtype, c_dtype; /* dtype: the operation's */
};
/* One product. `c` is read when beta is not 0, and written. A bias' gradient without a place is written behind the workspace, at
 * *sums. */
enum mt_status cuda_product_run(struct cuda_device *cuda, struct mt_stream *stream, const struct cuda_product *p,
				const struct cuda_operands *at, const cublasLtMatmulAlgo_t *algorithm, size_t workspace_bytes,
				void **sums);
/* The index to use of `count` algorithms, by the device's choice. Waits for the stream. Memory for operands of its own is taken for
 * the while; where there is none the first is chosen. */
enum mt_status cuda_product_choose(struct cuda_device *cuda, struct mt_stream *stream, const struct cuda_product *p,
				   const cublasLtMatmulHeuristicResult_t *algorithms, int count, int *chosen);

#endif
