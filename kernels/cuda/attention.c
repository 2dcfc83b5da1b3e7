/* attention: chooses between our kernels and cuDNN's, once a shape.
 *
 * A trial runs both on the operands of the operation itself: attention accumulates into nothing, so running it again changes
 * nothing. Rounds alternate, so that a change of clocks meets both, and the least time of each counts. */
#include "kernels/cuda/attention.h"
#include "base/log.h"
#include "base/plugin.h"
#include "kernels/cuda/cudnn/cudnn.h"

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROUNDS 5
#define DIMS   12 /* of a shape */

/* How one shape is done. */
struct choice {
	struct choice *next; /* owned */
	int64_t shape[DIMS];
	enum mt_op_kind kind;
	enum mt_dtype dtype;
	const struct mt_cudnn_plan *plan; /* NULL: our own kernels */
	size_t workspace_bytes;
	double own_us, cudnn_us; /* 0: not measured */
	char why[200];           /* cuDNN was not measured */
};

struct mt_cuda_attention {
	double margin;
	const struct mt_cudnn_ops *ops;
	struct mt_cudnn *cudnn; /* owned; NULL: only our own */
	char why[200];          /* that is so */
	struct choice *choices; /* owned */
};

static enum mt_status cuda_status(cudaError_t error, const char *what)
{
	return error == cudaSuccess ? MT_OK : mt_fail(MT_FAILED, "measuring attention: %s: %s", what, cudaGetErrorString(error));
}
#define CUDA_GOTO(label, call)                                                                                                     \
	do {                                                                                                                       \
		st = cuda_status((call), #call);                                                                                   \
		if (st != MT_OK)                                                                                                   \
			goto label;                                                                                                \
	} while (0)

/* Moves the message of what was not available into `why`. */
static void keep_reason(char *why, size_t bytes)
{
	snprintf(why, bytes, "%s", mt_error_message());
	mt_error_clear();
}

/* How many times faster cuDNN must be; 0: it is not asked. */
static enum mt_status read_margin(double *margin)
{
	const char *wish = getenv("MEGATUNE_ATTENTION");
	if (!wish || !*wish)
		*margin = MT_CUDA_ATTENTION_MARGIN;
	else if (strcmp(wish, "own") == 0)
		*margin = 0;
	else if (strcmp(wish, "fastest") == 0)
		*margin = 1;
	else
		return mt_fail(MT_INPUT, "MEGATUNE_ATTENTION is '%s': own (no cuDNN), fastest, or not set", wish);
	return MT_OK;
}

enum mt_status mt_cuda_attention_create(struct mt_cuda_attention **attention)
{
	double margin = 0;
	const void *table = NULL;
	enum mt_status st = MT_OK;
	MT_TRY(read_margin(&margin));
	struct mt_cuda_attention *made = calloc(1, sizeof *made);
	if (!made)
		return mt_fail(MT_NOMEM, "attention: no memory for its choices");
	made->margin = margin;
	if (margin <= 0) {
		snprintf(made->why, sizeof made->why, "MEGATUNE_ATTENTION=own");
	} else {
		st = mt_plugin_open("cudnn", MT_CUDNN_ABI, &table);
		made->ops = table;
		if (st == MT_OK)
			st = made->ops->open(NULL, &made->cudnn);
	}
	if (st == MT_UNAVAILABLE) {
		keep_reason(made->why, sizeof made->why);
		st = MT_OK;
	}
	if (st == MT_OK)
		*attention = made;
	else
		mt_cuda_attention_destroy(made);
	return st;
}

void mt_cuda_attention_destroy(struct mt_cuda_attention *attention)
{
	if (!attention)
		return;
	while (attention->choices) {
		struct choice *next = attention->choices->next;
		free(attention->choices);
		attention->choices = next;
	}
	if (attention->cudnn)
		attention->ops->close(attention->cudnn);
	free(attention);
}

static struct choice *find(const struct mt_cuda_attention *attention, const struct mt_op *op)
{
	const struct mt_attention *a = &op->attention;
	const int64_t shape[DIMS] = {
		a->batch,     a->seq,      a->heads,  a->kv_heads,       a->head_dim,           a->q_stride,
		a->kv_stride, a->o_stride, a->window, a->starts != NULL, mt_attention_v_dim(a), mt_attention_v_stride(a)};
	struct choice *c = attention->choices;
	while (c && (c->kind != op->kind || c->dtype != op->dtype || memcmp(c->shape, shape, sizeof shape) != 0))
		c = c->next;
	return c;
}

static enum mt_status add(struct mt_cuda_attention *attention, const struct mt_op *op, struct choice **added)
{
	const struct mt_attention *a = &op->attention;
	const int64_t shape[DIMS] = {
		a->batch,     a->seq,      a->heads,  a->kv_heads,       a->head_dim,           a->q_stride,
		a->kv_stride, a->o_stride, a->window, a->starts != NULL, mt_attention_v_dim(a), mt_attention_v_stride(a)};
	struct choice *c = calloc(1, sizeof *c);
	if (!c)
		return mt_fail(MT_NOMEM, "attention: no memory for a choice");
	memcpy(c->shape, shape, sizeof shape);
	c->kind = op->kind;
	c->dtype = op->dtype;
	c->next = attention->choices;
	attention->choices = *added = c;
	return MT_OK;
}

static enum mt_status run_own(struct mt_cuda_launch *launch, const struct mt_op *op)
{
	return op->kind == MT_OP_ATTENTION ? mt_cuda_attention(launch, op) : mt_cuda_attention_bwd(launch, op);
}

/* What one trial needs. */
struct trial {
	const struct mt_cuda_attention *attention;
	struct mt_cuda_launch *launch;
	const struct mt_op *op;
	const struct mt_cudnn_plan *plan;
	void *workspace;
	cudaEvent_t start, end;
};

static enum mt_status time_one(const struct trial *t, bool own, double *least_us)
{
	enum mt_status st;
	float ms = 0;
	CUDA_GOTO(out, cudaEventRecord(t->start, t->launch->stream));
	if (own)
		MT_GOTO(out, run_own(t->launch, t->op));
	else
		MT_GOTO(out, t->attention->ops->run(t->attention->cudnn, t->plan, t->launch->stream, t->op, t->workspace));
	CUDA_GOTO(out, cudaEventRecord(t->end, t->launch->stream));
	CUDA_GOTO(out, cudaEventSynchronize(t->end));
	CUDA_GOTO(out, cudaEventElapsedTime(&ms, t->start, t->end));
	if (*least_us == 0 || ms * 1e3 < *least_us)
		*least_us = ms * 1e3;
out:
	return st;
}

/* Measures both; the first round of each warms up and does not count. */
static enum mt_status measure(struct trial *t, size_t workspace_bytes, struct choice *c)
{
	enum mt_status st = MT_OK;
	double ignored = 0;
	if (workspace_bytes > 0)
		CUDA_GOTO(out, cudaMallocAsync(&t->workspace, workspace_bytes, t->launch->stream));
	CUDA_GOTO(out, cudaEventCreate(&t->start));
	CUDA_GOTO(out, cudaEventCreate(&t->end));
	for (int round = 0; round <= ROUNDS; round++) {
		MT_GOTO(out, time_one(t, true, round ? &c->own_us : &ignored));
		MT_GOTO(out, time_one(t, false, round ? &c->cudnn_us : &ignored));
	}
out:
	if (t->start)
		cudaEventDestroy(t->start);
	if (t->end)
		cudaEventDestroy(t->end);
	if (t->workspace)
		cudaFreeAsync(t->workspace, t->launch->stream);
	return st;
}

static void log_choice(const struct mt_cuda_attention *attention, const struct mt_op *op, const struct choice *c)
{
	struct mt_op_key key;
	char text[96];
	mt_op_key(op, &key);
	mt_op_key_text(&key, text);
	if (c->cudnn_us <= 0)
		mt_debug("%s: own kernels: %s", text, c->why);
	else
		mt_debug("%s: %s: own %.1f us, cuDNN %d %.1f us", text, c->plan ? "cuDNN" : "own kernels", c->own_us,
			 attention->ops->version(), c->cudnn_us);
}

/* A trial that fails leaves the shape to our own kernels: what is wrong with them shows when they run. */
static void try_cudnn(struct mt_cuda_attention *attention, struct mt_cuda_launch *launch, const struct mt_op *op, struct choice *c)
{
	struct trial t = {.attention = attention, .launch = launch, .op = op};
	size_t bytes = 0;
	if (!attention->cudnn) {
		snprintf(c->why, sizeof c->why, "%s", attention->why);
		return;
	}
	if (attention->ops->plan(attention->cudnn, op, &t.plan, &bytes) != MT_OK || measure(&t, bytes, c) != MT_OK) {
		cudaGetLastError(); /* else a later launch reports it again */
		keep_reason(c->why, sizeof c->why);
		return;
	}
	if (c->own_us <= attention->margin * c->cudnn_us)
		return;
	c->plan = t.plan;
	c->workspace_bytes = bytes;
}

/* The plan to use: tensors of a shape may lie where cuDNN cannot take them though those that were measured did not. */
static const struct mt_cudnn_plan *plan_for(const struct mt_cuda_attention *attention, const struct choice *c,
					    const struct mt_op *op)
{
	const struct mt_cudnn_plan *plan = NULL;
	size_t bytes = 0;
	if (!c || !c->plan)
		return NULL;
	if (attention->ops->plan(attention->cudnn, op, &plan, &bytes) == MT_OK)
		return plan;
	mt_error_clear();
	return NULL;
}

enum mt_status mt_cuda_attention_choose(struct mt_cuda_attention *attention, struct mt_cuda_launch *launch, const struct mt_op *op,
					size_t *scratch_bytes)
{
	enum cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
	struct choice *c = find(attention, op);
	*scratch_bytes = 0;
	/* A trial would merge or add more than once. */
	if (!mt_attention_is_whole(&op->attention))
		return MT_OK;
	if (!c && op->attention.batch > 0) {
		if (attention->cudnn)
			MT_TRY(cuda_status(cudaStreamIsCapturing(launch->stream, &capture), "cudaStreamIsCapturing"));
		if (capture != cudaStreamCaptureStatusNone)
			return MT_OK;
		MT_TRY(add(attention, op, &c));
		try_cudnn(attention, launch, op, c);
		log_choice(attention, op, c);
	}
	if (c && c->workspace_bytes > *scratch_bytes)
		*scratch_bytes = c->workspace_bytes;
	return MT_OK;
}

enum mt_status mt_cuda_attention_run(struct mt_cuda_attention *attention, struct mt_cuda_launch *launch, const struct mt_op *op)
{
	const bool whole = mt_attention_is_whole(&op->attention);
	const struct mt_cudnn_plan *plan = whole ? plan_for(attention, find(attention, op), op) : NULL;
	return plan ? attention->ops->run(attention->cudnn, plan, launch->stream, op, launch->scratch) : run_own(launch, op);
}
