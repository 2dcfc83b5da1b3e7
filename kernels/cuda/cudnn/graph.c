/* graph: cuDNN's backend interface in fewer words. A descriptor is made, gets its attributes, and is finalized; then it is fixed.
 */
#include "kernels/cuda/cudnn/graph.h"

#include <string.h>

void graph_init(struct graph *graph)
{
	memset(graph, 0, sizeof *graph);
	graph->next_uid = 1000;
}

void graph_release(struct graph *graph)
{
	while (graph->count > 0)
		cudnnBackendDestroyDescriptor(graph->all[--graph->count]);
	graph->operation_count = 0;
}

enum mt_status graph_status(const struct graph *graph, const char *what)
{
	if (graph->error == CUDNN_STATUS_SUCCESS)
		return MT_OK;
	return mt_fail(MT_UNAVAILABLE, "cuDNN has no %s for this: %s: %s", what, graph->where ? graph->where : "graph",
		       cudnnGetErrorString(graph->error));
}

static void note(struct graph *graph, cudnnStatus_t error, const char *where)
{
	if (error == CUDNN_STATUS_SUCCESS || graph->error != CUDNN_STATUS_SUCCESS)
		return;
	graph->error = error;
	graph->where = where;
}

descriptor graph_make(struct graph *graph, cudnnBackendDescriptorType_t type, const char *where)
{
	descriptor made = NULL;
	if (graph->error != CUDNN_STATUS_SUCCESS)
		return NULL;
	graph->where = where;
	if (graph->count == GRAPH_MOST_DESCRIPTORS) {
		note(graph, CUDNN_STATUS_ALLOC_FAILED, where);
		return NULL;
	}
	note(graph, cudnnBackendCreateDescriptor(type, &made), where);
	if (made)
		graph->all[graph->count++] = made;
	return made;
}

void graph_set(struct graph *graph, descriptor of, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
	       int64_t count, const void *values)
{
	if (graph->error == CUDNN_STATUS_SUCCESS)
		note(graph, cudnnBackendSetAttribute(of, name, type, count, values), graph->where);
}

static void set_descriptor(struct graph *graph, descriptor of, cudnnBackendAttributeName_t name, descriptor value)
{
	graph_set(graph, of, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}

static void set_type(struct graph *graph, descriptor of, cudnnBackendAttributeName_t name, cudnnDataType_t type)
{
	graph_set(graph, of, name, CUDNN_TYPE_DATA_TYPE, 1, &type);
}

void graph_finalize(struct graph *graph, descriptor of)
{
	if (graph->error == CUDNN_STATUS_SUCCESS)
		note(graph, cudnnBackendFinalize(of), graph->where);
}

static void add_operation(struct graph *graph, descriptor operation)
{
	graph_finalize(graph, operation);
	if (graph->error != CUDNN_STATUS_SUCCESS)
		return;
	if (graph->operation_count == GRAPH_MOST_OPERATIONS)
		note(graph, CUDNN_STATUS_ALLOC_FAILED, "operations");
	else
		graph->operations[graph->operation_count++] = operation;
}

struct extent extent_of(int64_t a, int64_t b, int64_t c, int64_t d)
{
	return (struct extent){{a, b, c, d}, {b * c * d, c * d, d, 1}};
}

static descriptor make_tensor(struct graph *graph, int64_t uid, cudnnDataType_t type, struct extent extent, bool is_virtual,
			      bool by_value)
{
	const int64_t alignment = 16;
	descriptor tensor = graph_make(graph, CUDNN_BACKEND_TENSOR_DESCRIPTOR, "tensor");
	set_type(graph, tensor, CUDNN_ATTR_TENSOR_DATA_TYPE, type);
	graph_set(graph, tensor, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, extent.dims);
	graph_set(graph, tensor, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, extent.strides);
	graph_set(graph, tensor, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &uid);
	graph_set(graph, tensor, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment);
	graph_set(graph, tensor, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &is_virtual);
	graph_set(graph, tensor, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &by_value);
	graph_finalize(graph, tensor);
	return tensor;
}

descriptor graph_tensor(struct graph *graph, int64_t uid, cudnnDataType_t type, struct extent extent)
{
	return make_tensor(graph, uid, type, extent, false, false);
}

descriptor graph_value(struct graph *graph, int64_t uid, cudnnDataType_t type)
{
	return make_tensor(graph, uid, type, extent_of(1, 1, 1, 1), false, true);
}

descriptor graph_virtual(struct graph *graph, cudnnDataType_t type, struct extent extent)
{
	return make_tensor(graph, graph->next_uid++, type, extent, true, false);
}

void graph_matmul(struct graph *graph, descriptor a, descriptor b, descriptor y)
{
	descriptor how = graph_make(graph, CUDNN_BACKEND_MATMUL_DESCRIPTOR, "matmul");
	set_type(graph, how, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_DATA_FLOAT);
	graph_finalize(graph, how);
	descriptor operation = graph_make(graph, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, "matmul");
	set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_MATMUL_ADESC, a);
	set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_MATMUL_BDESC, b);
	set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_MATMUL_CDESC, y);
	set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_MATMUL_DESC, how);
	add_operation(graph, operation);
}

/* A pointwise operation but for its third operand and finalizing; `axis` below 0: none. */
static descriptor pointwise(struct graph *graph, cudnnPointwiseMode_t mode, cudnnDataType_t precision, int64_t axis, descriptor x,
			    descriptor b, descriptor y)
{
	descriptor how = graph_make(graph, CUDNN_BACKEND_POINTWISE_DESCRIPTOR, "pointwise");
	graph_set(graph, how, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
	set_type(graph, how, CUDNN_ATTR_POINTWISE_MATH_PREC, precision);
	if (axis >= 0)
		graph_set(graph, how, CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, 1, &axis);
	graph_finalize(graph, how);
	descriptor operation = graph_make(graph, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, "pointwise");
	set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how);
	set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
	if (b)
		set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b);
	set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
	return operation;
}

void graph_pointwise(struct graph *graph, cudnnPointwiseMode_t mode, cudnnDataType_t precision, descriptor x, descriptor b,
		     descriptor y)
{
	add_operation(graph, pointwise(graph, mode, precision, -1, x, b, y));
}

void graph_index(struct graph *graph, int64_t axis, descriptor x, descriptor y)
{
	add_operation(graph, pointwise(graph, CUDNN_POINTWISE_GEN_INDEX, CUDNN_DATA_FLOAT, axis, x, NULL, y));
}

void graph_select(struct graph *graph, descriptor x, descriptor b, descriptor chosen, descriptor y)
{
	descriptor operation = pointwise(graph, CUDNN_POINTWISE_BINARY_SELECT, CUDNN_DATA_FLOAT, -1, x, b, y);
	set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_POINTWISE_TDESC, chosen);
	add_operation(graph, operation);
}

void graph_reduce(struct graph *graph, cudnnReduceTensorOp_t how, descriptor x, descriptor y)
{
	descriptor reduction = graph_make(graph, CUDNN_BACKEND_REDUCTION_DESCRIPTOR, "reduction");
	graph_set(graph, reduction, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &how);
	set_type(graph, reduction, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_DATA_FLOAT);
	graph_finalize(graph, reduction);
	descriptor operation = graph_make(graph, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR, "reduction");
	set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x);
	set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y);
	set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_REDUCTION_DESC, reduction);
	add_operation(graph, operation);
}

void graph_reshape(struct graph *graph, descriptor x, descriptor y)
{
	descriptor operation = graph_make(graph, CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR, "reshape");
	set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x);
	set_descriptor(graph, operation, CUDNN_ATTR_OPERATION_RESHAPE_YDESC, y);
	add_operation(graph, operation);
}

descriptor graph_finish(struct graph *graph, cudnnHandle_t handle)
{
	descriptor whole = graph_make(graph, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, "operation graph");
	graph_set(graph, whole, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, graph->operation_count,
		  graph->operations);
	if (handle)
		graph_set(graph, whole, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
	graph_finalize(graph, whole);
	return whole;
}
