/* graph: building operation graphs for cuDNN's backend interface.
 *
 * Every function that makes something returns its descriptor, which the graph owns, or NULL after anything failed: what comes
 * after a failure does nothing, and graph_finish reports the first. */
#ifndef MT_KERNELS_CUDA_CUDNN_GRAPH_H
#define MT_KERNELS_CUDA_CUDNN_GRAPH_H

#include "base/status.h"

#include <cudnn.h>
#include <stdbool.h>
#include <stdint.h>

#define GRAPH_MOST_DESCRIPTORS 160
#define GRAPH_MOST_OPERATIONS  48

typedef cudnnBackendDescriptor_t descriptor;

struct graph {
	descriptor all[GRAPH_MOST_DESCRIPTORS]; /* owned */
	int count;
	descriptor operations[GRAPH_MOST_OPERATIONS];
	int operation_count;
	int64_t next_uid; /* of tensors that no caller names */
	cudnnStatus_t error;
	const char *where; /* what failed, a literal */
};

/* Four dimensions and the steps between their elements. */
struct extent {
	int64_t dims[4], strides[4];
};

/* Contiguous, last dimension fastest. */
struct extent extent_of(int64_t a, int64_t b, int64_t c, int64_t d);

void graph_init(struct graph *graph);
void graph_release(struct graph *graph);
/* MT_OK, or MT_UNAVAILABLE with what cuDNN refused. */
enum mt_status graph_status(const struct graph *graph, const char *what);

/* In memory, as `uid` of a run; on the host, one value; between operations only. */
descriptor graph_tensor(struct graph *graph, int64_t uid, cudnnDataType_t type, struct extent extent);
descriptor graph_value(struct graph *graph, int64_t uid, cudnnDataType_t type);
descriptor graph_virtual(struct graph *graph, cudnnDataType_t type, struct extent extent);

/* y = a b. */
void graph_matmul(struct graph *graph, descriptor a, descriptor b, descriptor y);
/* y = mode(x, b), b NULL for one operand; computed in `precision`. */
void graph_pointwise(struct graph *graph, cudnnPointwiseMode_t mode, cudnnDataType_t precision, descriptor x, descriptor b,
		     descriptor y);
/* y = the index of each element of x along an axis. */
void graph_index(struct graph *graph, int64_t axis, descriptor x, descriptor y);
/* y = chosen ? x : b. */
void graph_select(struct graph *graph, descriptor x, descriptor b, descriptor chosen, descriptor y);
/* Over the dimensions that are 1, or smaller, in y. */
void graph_reduce(struct graph *graph, cudnnReduceTensorOp_t how, descriptor x, descriptor y);
void graph_reshape(struct graph *graph, descriptor x, descriptor y);
/* The operations so far as one graph. `handle` NULL: for no device. */
descriptor graph_finish(struct graph *graph, cudnnHandle_t handle);

/* Pieces, for what is made from a graph. */
descriptor graph_make(struct graph *graph, cudnnBackendDescriptorType_t type, const char *where);
void graph_set(struct graph *graph, descriptor of, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
	       int64_t count, const void *values);
void graph_finalize(struct graph *graph, descriptor of);

#endif
