/* cudnn: plans of attention by shape, and the plugin's table.
 *
 * For a shape the graph is built and the heuristics of cuDNN asked for engines, best first. The first whose plan can be made, whose
 * bits do not change from run to run and whose workspace is small enough is the shape's plan. That there is none is kept too, so
 * that a shape is asked for once. */
#include "kernels/cuda/cudnn/cudnn.h"
#include "base/plugin.h"
#include "kernels/cuda/cudnn/attention.h"

#include <float.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_ENGINES 16
#define DIMS         9

struct mt_cudnn_plan {
	struct mt_cudnn_plan *next; /* owned */
	int64_t shape[DIMS];
	enum mt_op_kind kind;
	struct graph graph;
	bool is_there;
	descriptor plan; /* the graph's; NULL for a described GPU */
	size_t workspace_bytes;
	char why[160]; /* there is none */
};

struct mt_cudnn {
	cudnnHandle_t handle;        /* NULL when the GPU is described only */
	descriptor device;           /* owned, then */
	struct mt_cudnn_plan *plans; /* owned */
};

static enum mt_status describe(struct mt_cudnn *cudnn, const char *json)
{
	cudnnStatus_t error = cudnnBackendCreateDescriptor(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, &cudnn->device);
	if (error == CUDNN_STATUS_SUCCESS)
		error = cudnnBackendSetAttribute(cudnn->device, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
						 (int64_t)strlen(json) + 1, json);
	if (error == CUDNN_STATUS_SUCCESS)
		error = cudnnBackendFinalize(cudnn->device);
	if (error == CUDNN_STATUS_SUCCESS)
		return MT_OK;
	return mt_fail(MT_UNAVAILABLE, "cuDNN does not take the description of a GPU: %s", cudnnGetErrorString(error));
}

static void close_cudnn(struct mt_cudnn *cudnn)
{
	if (!cudnn)
		return;
	while (cudnn->plans) {
		struct mt_cudnn_plan *next = cudnn->plans->next;
		graph_release(&cudnn->plans->graph);
		free(cudnn->plans);
		cudnn->plans = next;
	}
	if (cudnn->device)
		cudnnBackendDestroyDescriptor(cudnn->device);
	if (cudnn->handle)
		cudnnDestroy(cudnn->handle);
	free(cudnn);
}

static enum mt_status open_cudnn(const char *described, struct mt_cudnn **cudnn)
{
	enum mt_status st = MT_OK;
	struct mt_cudnn *made = calloc(1, sizeof *made);
	if (!made)
		return mt_fail(MT_NOMEM, "cuDNN: no memory for its handle");
	if (described) {
		st = describe(made, described);
	} else {
		cudnnStatus_t error = cudnnCreate(&made->handle);
		if (error != CUDNN_STATUS_SUCCESS)
			st = mt_fail(MT_UNAVAILABLE, "cuDNN does not start: %s", cudnnGetErrorString(error));
	}
	if (st == MT_OK)
		*cudnn = made;
	else
		close_cudnn(made);
	return st;
}

static bool is_aligned(const void *p, int64_t stride)
{
	return (uintptr_t)p % 16 == 0 && stride % 8 == 0;
}

/* What cuDNN is not asked for, NULL when it may be. */
static const char *obstacle(const struct mt_op *op)
{
	const struct mt_attention *a = &op->attention;
	if (op->dtype != MT_BF16)
		return "bf16 only";
	if (a->starts)
		return "no packed documents";
	if (!mt_attention_is_whole(a))
		return "no parts of attention";
	if (mt_attention_v_dim(a) != a->head_dim || mt_attention_v_stride(a) != a->kv_stride)
		return "values lie as keys do";
	if (a->head_dim % 8 || a->head_dim > 256 || a->batch < 1 || a->seq < 2)
		return "head sizes are multiples of 8 up to 256, and there is more than one row";
	bool aligned = is_aligned(a->q, a->q_stride) && is_aligned(a->k, a->kv_stride) && is_aligned(a->v, a->kv_stride) &&
		       is_aligned(a->o, a->o_stride);
	if (op->kind == MT_OP_ATTENTION_BWD)
		aligned = aligned && is_aligned(a->do_, a->o_stride) && is_aligned(a->dq, a->q_stride) &&
			  is_aligned(a->dk, a->kv_stride) && is_aligned(a->dv, a->kv_stride);
	return aligned ? NULL : "tensors must lie at multiples of 16 bytes";
}

static void shape_of(const struct mt_attention *a, int64_t shape[DIMS])
{
	const int64_t dims[DIMS] = {a->batch,     a->seq,      a->heads,
				    a->kv_heads,  a->head_dim, a->q_stride,
				    a->kv_stride, a->o_stride, a->window < a->seq ? a->window : 0};
	memcpy(shape, dims, sizeof dims);
}

/* Whether the engine of a configuration gives the same bits every time. */
static bool is_deterministic(descriptor configuration)
{
	cudnnBackendNumericalNote_t notes[16];
	descriptor engine = NULL;
	int64_t count = 0, got = 0;
	bool steady = cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINE_DESCRIPTOR, &engine) == CUDNN_STATUS_SUCCESS &&
		      cudnnBackendGetAttribute(configuration, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &got,
					       &engine) == CUDNN_STATUS_SUCCESS &&
		      cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE,
					       (int64_t)(sizeof notes / sizeof notes[0]), &count, notes) == CUDNN_STATUS_SUCCESS;
	for (int64_t i = 0; steady && i < count && i < (int64_t)(sizeof notes / sizeof notes[0]); i++)
		steady = notes[i] != CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC;
	if (engine)
		cudnnBackendDestroyDescriptor(engine);
	return steady;
}

/* Makes the plan of a configuration, unless it cannot be made or asks for too much. For a GPU that is only described there is
 * none: making one loads its kernel into a driver; that an engine takes the graph is all there is to know. */
static void make_plan(const struct mt_cudnn *cudnn, descriptor configuration, struct mt_cudnn_plan *made)
{
	descriptor plan = NULL;
	int64_t bytes = 0, got = 0;
	cudnnStatus_t error;
	if (!cudnn->handle) {
		error = cudnnBackendGetAttribute(configuration, CUDNN_ATTR_ENGINECFG_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &got,
						 &bytes);
		goto out;
	}
	error = cudnnBackendCreateDescriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &plan);
	if (error == CUDNN_STATUS_SUCCESS)
		error = cudnnBackendSetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
						 &configuration);
	if (error == CUDNN_STATUS_SUCCESS)
		error = cudnnBackendSetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &cudnn->handle);
	if (error == CUDNN_STATUS_SUCCESS)
		error = cudnnBackendFinalize(plan);
	if (error == CUDNN_STATUS_SUCCESS)
		error = cudnnBackendGetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &got, &bytes);
out:
	made->is_there = error == CUDNN_STATUS_SUCCESS && bytes >= 0 && (size_t)bytes <= MT_GPU_CUDNN_BYTES;
	if (made->is_there) {
		made->workspace_bytes = (size_t)bytes;
		made->plan = plan;
	} else if (plan) {
		cudnnBackendDestroyDescriptor(plan);
	}
}

/* The configurations that the heuristics give for the graph, best first: `list` is filled, to be destroyed. */
static int64_t suggestions(struct mt_cudnn *cudnn, struct graph *graph, descriptor whole, descriptor list[MOST_ENGINES])
{
	const cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
	int64_t count = 0;
	descriptor heuristics = graph_make(graph, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, "engine");
	graph_set(graph, heuristics, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &whole);
	graph_set(graph, heuristics, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
	if (cudnn->device)
		graph_set(graph, heuristics, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &cudnn->device);
	graph_finalize(graph, heuristics);
	if (graph->error != CUDNN_STATUS_SUCCESS)
		return 0;
	for (int i = 0; i < MOST_ENGINES; i++)
		if (cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, &list[i]) != CUDNN_STATUS_SUCCESS)
			return 0;
	graph->error = cudnnBackendGetAttribute(heuristics, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
						MOST_ENGINES, &count, list);
	return graph->error != CUDNN_STATUS_SUCCESS ? 0 : count < MOST_ENGINES ? count : MOST_ENGINES;
}

static enum mt_status choose(struct mt_cudnn *cudnn, struct mt_cudnn_plan *plan, const char *name)
{
	descriptor list[MOST_ENGINES] = {NULL};
	struct graph *graph = &plan->graph;
	descriptor whole = graph_finish(graph, cudnn->handle);
	const int64_t count = suggestions(cudnn, graph, whole, list);
	int64_t unsteady = 0;
	for (int64_t i = 0; i < count && !plan->is_there; i++) {
		if (is_deterministic(list[i]))
			make_plan(cudnn, list[i], plan);
		else
			unsteady++;
	}
	if (plan->plan && graph->count < GRAPH_MOST_DESCRIPTORS)
		graph->all[graph->count++] = plan->plan;
	for (int i = 0; i < MOST_ENGINES; i++)
		if (list[i])
			cudnnBackendDestroyDescriptor(list[i]);
	MT_TRY(graph_status(graph, name));
	if (plan->is_there)
		return MT_OK;
	return mt_fail(MT_UNAVAILABLE,
		       "cuDNN has no plan for this %s: of %lld engines %lld have no fixed order of sums, the rest ask for more "
		       "than %zu MiB or cannot be built",
		       name, (long long)count, (long long)unsteady, MT_GPU_CUDNN_BYTES >> 20);
}

static enum mt_status make(struct mt_cudnn *cudnn, const struct mt_op *op, struct mt_cudnn_plan **made)
{
	struct mt_cudnn_plan *plan = calloc(1, sizeof *plan);
	if (!plan)
		return mt_fail(MT_NOMEM, "cuDNN: no memory for a plan");
	graph_init(&plan->graph);
	plan->kind = op->kind;
	shape_of(&op->attention, plan->shape);
	if (op->kind == MT_OP_ATTENTION)
		attention_graph(&plan->graph, &op->attention);
	else
		attention_bwd_graph(&plan->graph, &op->attention);
	if (choose(cudnn, plan, mt_op_name(op->kind)) != MT_OK) {
		snprintf(plan->why, sizeof plan->why, "%s", mt_error_message());
		mt_error_clear();
	}
	plan->next = cudnn->plans;
	cudnn->plans = *made = plan;
	return MT_OK;
}

static enum mt_status plan_of(struct mt_cudnn *cudnn, const struct mt_op *op, const struct mt_cudnn_plan **plan,
			      size_t *workspace_bytes)
{
	int64_t shape[DIMS];
	const char *why = obstacle(op);
	if (why)
		return mt_fail(MT_UNAVAILABLE, "cuDNN is not asked for this %s: %s", mt_op_name(op->kind), why);
	shape_of(&op->attention, shape);
	struct mt_cudnn_plan *found = cudnn->plans;
	while (found && (found->kind != op->kind || memcmp(found->shape, shape, sizeof shape) != 0))
		found = found->next;
	if (!found)
		MT_TRY(make(cudnn, op, &found));
	if (!found->is_there)
		return mt_fail(MT_UNAVAILABLE, "%s", found->why);
	*plan = found;
	*workspace_bytes = found->workspace_bytes;
	return MT_OK;
}

static enum mt_status run(struct mt_cudnn *cudnn, const struct mt_cudnn_plan *plan, void *stream, const struct mt_op *op,
			  void *workspace)
{
	const struct mt_attention *a = &op->attention;
	if (!plan->plan)
		return mt_fail(MT_UNAVAILABLE, "cuDNN's %s: the GPU of this plan is not here", mt_op_name(op->kind));
	float scale = (float)a->scale, hidden = -FLT_MAX, one = 1;
	int32_t window = (int32_t)a->window;
	const bool backward = plan->kind == MT_OP_ATTENTION_BWD, windowed = plan->shape[DIMS - 1] > 0;
	int64_t uids[UID_WINDOW] = {UID_Q, UID_K, UID_V, UID_O, UID_LSE, UID_SCALE, UID_HIDDEN}, count = 7;
	const void *pointers[UID_WINDOW] = {a->q, a->k, a->v, a->o, a->lse, &scale, &hidden};
	const int64_t more[] = {UID_DO, UID_DQ, UID_DK, UID_DV, UID_DELTA, UID_ONE};
	const void *more_pointers[] = {a->do_, a->dq, a->dk, a->dv, a->delta, &one};
	for (int i = 0; backward && i < 6; i++, count++)
		uids[count] = more[i], pointers[count] = more_pointers[i];
	if (windowed)
		uids[count] = UID_WINDOW, pointers[count++] = &window;
	descriptor pack = NULL;
	cudnnStatus_t error = cudnnSetStream(cudnn->handle, stream);
	if (error == CUDNN_STATUS_SUCCESS)
		error = cudnnBackendCreateDescriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack);
	if (error == CUDNN_STATUS_SUCCESS)
		error = cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, count, pointers);
	if (error == CUDNN_STATUS_SUCCESS)
		error = cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, count, uids);
	if (error == CUDNN_STATUS_SUCCESS)
		error = cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
	if (error == CUDNN_STATUS_SUCCESS)
		error = cudnnBackendFinalize(pack);
	if (error == CUDNN_STATUS_SUCCESS)
		error = cudnnBackendExecute(cudnn->handle, plan->plan, pack);
	if (pack)
		cudnnBackendDestroyDescriptor(pack);
	if (error == CUDNN_STATUS_SUCCESS)
		return MT_OK;
	return mt_fail(MT_FAILED, "cuDNN's %s: %s", mt_op_name(op->kind), cudnnGetErrorString(error));
}

static int version(void)
{
	return (int)cudnnGetVersion();
}

MT_PLUGIN_EXPORT const void *megatune_plugin(int abi);
const void *megatune_plugin(int abi)
{
	static const struct mt_cudnn_ops ops = {open_cudnn, close_cudnn, plan_of, run, version};
	return abi == MT_CUDNN_ABI ? &ops : NULL;
}
