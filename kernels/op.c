/* op: names and keys of operations.
 *
 * A key is what a profile is indexed by, so it holds what decides the cost and nothing else: an operation whose dtype
 * means nothing (cast, fill) takes its destination's, and dims that do not matter to a kind stay 0. */
#include "kernels/fp8.h"
#include "kernels/op_experts.h"

#include <inttypes.h>
#include <stdio.h>

const char *mt_op_name(enum mt_op_kind kind)
{
	static const char *const names[MT_OP_KIND_COUNT] = {
		[MT_OP_LINEAR] = "linear",
		[MT_OP_LINEAR_DGRAD] = "linear_dgrad",
		[MT_OP_LINEAR_WGRAD] = "linear_wgrad",
		[MT_OP_ATTENTION] = "attention",
		[MT_OP_ATTENTION_BWD] = "attention_bwd",
		[MT_OP_NORM] = "norm",
		[MT_OP_NORM_BWD] = "norm_bwd",
		[MT_OP_ACTIVATION] = "activation",
		[MT_OP_ACTIVATION_BWD] = "activation_bwd",
		[MT_OP_ROPE] = "rope",
		[MT_OP_EMBEDDING] = "embedding",
		[MT_OP_EMBEDDING_BWD] = "embedding_bwd",
		[MT_OP_ADD] = "add",
		[MT_OP_BIAS_GRAD] = "bias_grad",
		[MT_OP_LOSS_STATS] = "loss_stats",
		[MT_OP_LOSS] = "loss",
		[MT_OP_CAST] = "cast",
		[MT_OP_FILL] = "fill",
		[MT_OP_COPY] = "copy",
		[MT_OP_SUMSQ] = "sumsq",
		[MT_OP_ADAMW] = "adamw",
		[MT_OP_SGD] = "sgd",
		[MT_OP_COMBINE] = "combine",
		[MT_OP_AMAX] = "amax",
		[MT_OP_FP8_SCALE] = "fp8_scale",
		[MT_OP_QUANTIZE] = "quantize",
		[MT_OP_GROUPED] = "grouped",
		[MT_OP_GROUPED_DGRAD] = "grouped_dgrad",
		[MT_OP_GROUPED_WGRAD] = "grouped_wgrad",
		[MT_OP_ROUTE] = "route",
		[MT_OP_ROUTE_SUMS] = "route_sums",
		[MT_OP_ROUTE_LOSS] = "route_loss",
		[MT_OP_ROUTE_BWD] = "route_bwd",
		[MT_OP_DROP] = "drop",
		[MT_OP_DISPATCH] = "dispatch",
		[MT_OP_GATHER_ROWS] = "gather_rows",
		[MT_OP_SUM_ROWS] = "sum_rows",
		[MT_OP_EXPERT_ACT] = "expert_act",
		[MT_OP_EXPERT_ACT_BWD] = "expert_act_bwd",
		[MT_OP_SPREAD] = "spread",
		[MT_OP_SPREAD_BWD] = "spread_bwd",
	};
	return (unsigned)kind < MT_OP_KIND_COUNT ? names[kind] : "unknown";
}

#define SET(...)                                                                                                                   \
	do {                                                                                                                       \
		const int64_t set_[MT_OP_DIMS] = {__VA_ARGS__};                                                                    \
		for (int i_ = 0; i_ < MT_OP_DIMS; i_++)                                                                            \
			key->dims[i_] = set_[i_];                                                                                  \
	} while (0)

/* Of what the kind of product has. */
static int64_t linear_bits(const struct mt_op *op)
{
	const struct mt_linear *l = &op->linear;
	return (op->kind == MT_OP_LINEAR && l->bias ? MT_LINEAR_BIAS : 0) |
	       (op->kind != MT_OP_LINEAR_WGRAD && l->pre ? MT_LINEAR_GELU : 0) |
	       (op->kind != MT_OP_LINEAR && l->dbias ? MT_LINEAR_DBIAS : 0);
}

static void attention_key(const struct mt_attention *a, struct mt_op_key *key)
{
	int64_t keys = mt_attention_keys(a), offset = a->offset < keys ? a->offset : keys;
	bool part = keys != a->seq || offset != 0;

	SET(a->batch, a->seq, a->heads, a->kv_heads, a->head_dim, a->window < a->seq + offset ? a->window : 0, part ? keys : 0,
	    part ? offset : 0, a->v_dim == a->head_dim ? 0 : a->v_dim);
}

void mt_op_key(const struct mt_op *op, struct mt_op_key *key)
{
	key->kind = (int32_t)op->kind;
	key->dtype = (int32_t)op->dtype;
	switch (op->kind) {
	case MT_OP_LINEAR:
	case MT_OP_LINEAR_DGRAD:
	case MT_OP_LINEAR_WGRAD:
		SET(op->linear.rows, op->linear.in, op->linear.out, linear_bits(op), op->linear.fp8);
		return;
	case MT_OP_ATTENTION:
	case MT_OP_ATTENTION_BWD:
		attention_key(&op->attention, key);
		return;
	case MT_OP_NORM:
		SET((int64_t)op->norm.kind, op->norm.rows, op->norm.cols, op->norm.residual != NULL);
		return;
	case MT_OP_NORM_BWD:
		SET((int64_t)op->norm.kind, op->norm.rows, op->norm.cols, op->norm.dresidual != NULL);
		return;
	case MT_OP_ACTIVATION:
	case MT_OP_ACTIVATION_BWD:
		SET((int64_t)op->activation.kind, op->activation.rows, op->activation.cols);
		return;
	case MT_OP_ROPE:
		SET(op->rope.batch, op->rope.seq, op->rope.heads, mt_rope_rotated(&op->rope));
		return;
	case MT_OP_EMBEDDING:
	case MT_OP_EMBEDDING_BWD:
		SET(op->embedding.rows, op->embedding.cols, op->embedding.seq, op->embedding.count);
		return;
	case MT_OP_ADD:
		SET(op->add.rows, op->add.cols, op->add.b != NULL, op->add.bias != NULL);
		return;
	case MT_OP_BIAS_GRAD:
		SET(op->add.rows, op->add.cols);
		return;
	case MT_OP_LOSS_STATS:
		SET(op->loss.rows, op->loss.cols);
		return;
	case MT_OP_LOSS:
		SET(op->loss.rows, op->loss.cols, op->loss.parts, op->loss.grad_scale != 0);
		return;
	case MT_OP_CAST:
		key->dtype = (int32_t)op->move.dst_dtype;
		SET(op->move.count, (int64_t)op->move.src_dtype, (int64_t)op->move.dst_dtype);
		return;
	case MT_OP_FILL:
		key->dtype = (int32_t)op->move.dst_dtype;
		SET(op->move.count, (int64_t)op->move.dst_dtype);
		return;
	case MT_OP_COPY:
		SET(op->move.rows, op->move.cols);
		return;
	case MT_OP_SUMSQ:
		SET(op->sumsq.count);
		return;
	case MT_OP_ADAMW:
		SET(op->adamw.count, op->adamw.m_dtype, op->adamw.v_dtype);
		return;
	case MT_OP_SGD:
		SET(op->sgd.count, op->sgd.m != NULL);
		return;
	case MT_OP_COMBINE:
		SET(op->combine.count, op->combine.b != NULL);
		return;
	case MT_OP_AMAX:
		SET(op->quantize.rows, op->quantize.cols);
		return;
	case MT_OP_FP8_SCALE:
		SET(op->quantize.cols);
		return;
	case MT_OP_QUANTIZE:
		SET(op->quantize.rows, op->quantize.cols, (int64_t)op->quantize.to, op->quantize.y != NULL,
		    op->quantize.y_t != NULL, op->quantize.amax != NULL);
		return;
	case MT_OP_GROUPED ... MT_OP_EXPERT_ACT_BWD:
		mt_op_experts_key(op, key->dims);
		return;
	case MT_OP_SPREAD:
	case MT_OP_SPREAD_BWD:
		SET(op->spread.rows, op->spread.heads, op->spread.nope, op->spread.rotary, op->spread.value);
		return;
	case MT_OP_KIND_COUNT:
		break;
	}
	SET(0);
}

bool mt_op_key_equal(const struct mt_op_key *a, const struct mt_op_key *b)
{
	bool equal = a->kind == b->kind && a->dtype == b->dtype;
	for (int i = 0; i < MT_OP_DIMS; i++)
		equal &= a->dims[i] == b->dims[i];
	return equal;
}

/* The finisher of splitmix64 over each word in turn. */
static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

uint64_t mt_op_key_hash(const struct mt_op_key *key)
{
	uint64_t hash = mix(0x9e3779b97f4a7c15u + ((uint64_t)(uint32_t)key->kind << 32 | (uint32_t)key->dtype));
	for (int i = 0; i < MT_OP_DIMS; i++)
		hash = mix(hash * 0x9e3779b97f4a7c15u + (uint64_t)key->dims[i]);
	return hash;
}

/* "4x8x16" of the dims first..first+count-1. */
static int print_dims(char *buf, size_t bytes, const int64_t *dims, int count)
{
	int used = 0;
	for (int i = 0; i < count && (size_t)used < bytes; i++)
		used += snprintf(buf + used, bytes - (size_t)used, "%s%" PRId64, i ? "x" : "", dims[i]);
	return used;
}

static const char *fp8_flag(int64_t format)
{
	return format == MT_FP8_OFF ? "" : format == MT_FP8_HYBRID ? "+fp8" : "+e4m3";
}

/* How each kind's dims read: `word` of dims[0] first, `sizes` dims joined by x, then a suffix a flag. */
void mt_op_key_text(const struct mt_op_key *key, char buf[96])
{
	const int64_t *d = key->dims;
	const char *word = "", *first_flag = "", *second_flag = "";
	char window[24] = "", part[80] = "", values[24] = "";
	int skip = 0, sizes = 1;
	switch ((enum mt_op_kind)key->kind) {
	case MT_OP_LINEAR:
	case MT_OP_LINEAR_DGRAD:
	case MT_OP_LINEAR_WGRAD:
		sizes = 3;
		snprintf(part, sizeof part, "%s%s%s", d[3] & MT_LINEAR_BIAS ? "+b" : "", d[3] & MT_LINEAR_GELU ? "+gelu" : "",
			 d[3] & MT_LINEAR_DBIAS ? "+dbias" : "");
		first_flag = part;
		second_flag = fp8_flag(d[4]);
		break;
	case MT_OP_ATTENTION:
	case MT_OP_ATTENTION_BWD:
		sizes = 5;
		if (d[5])
			snprintf(window, sizeof window, "w%" PRId64, d[5]);
		if (d[6])
			snprintf(part, sizeof part, "k%" PRId64 "+%" PRId64, d[6], d[7]);
		first_flag = window;
		if (d[8])
			snprintf(values, sizeof values, "v%" PRId64, d[8]);
		strcat(part, values);
		second_flag = part;
		break;
	case MT_OP_NORM:
	case MT_OP_NORM_BWD:
		word = d[0] == MT_NORM_RMS ? "rms " : "layer ";
		skip = 1;
		sizes = 2;
		first_flag = d[3] ? "+residual" : "";
		break;
	case MT_OP_ACTIVATION:
	case MT_OP_ACTIVATION_BWD:
		word = d[0] == MT_SWIGLU ? "swiglu " : "gelu ";
		skip = 1;
		sizes = 2;
		break;
	case MT_OP_ROPE:
	case MT_OP_EMBEDDING:
	case MT_OP_EMBEDDING_BWD:
		sizes = 4;
		break;
	case MT_OP_ADD:
	case MT_OP_BIAS_GRAD:
		sizes = 2;
		first_flag = d[2] ? "+b" : "";
		second_flag = d[3] ? "+bias" : "";
		break;
	case MT_OP_LOSS_STATS:
	case MT_OP_COPY:
	case MT_OP_AMAX:
		sizes = 2;
		break;
	case MT_OP_LOSS:
		sizes = 3;
		first_flag = d[3] ? "+grad" : "";
		break;
	case MT_OP_CAST:
		first_flag = " from ";
		second_flag = mt_dtype_name((enum mt_dtype)d[1]);
		break;
	case MT_OP_SGD:
		first_flag = d[1] ? "+momentum" : "";
		break;
	case MT_OP_COMBINE:
		first_flag = d[1] ? "+b" : "";
		break;
	case MT_OP_QUANTIZE:
		sizes = 2;
		snprintf(window, sizeof window, " %s%s%s", mt_dtype_name((enum mt_dtype)d[2]),
			 d[3] && d[4] ? "+both"
			 : d[4]       ? "+turned"
				      : "",
			 d[5] ? "+amax" : "");
		first_flag = window;
		break;
	case MT_OP_ADAMW:
		first_flag = d[1] == MT_BF16 ? "+m-bf16" : "";
		second_flag = d[2] == MT_BF16 ? "+v-bf16" : "";
		break;
	case MT_OP_GROUPED ... MT_OP_EXPERT_ACT_BWD:
		word = mt_op_experts_text(key, &skip, &sizes);
		if (key->kind <= MT_OP_GROUPED_WGRAD)
			second_flag = fp8_flag(d[4]);
		break;
	case MT_OP_SPREAD:
	case MT_OP_SPREAD_BWD:
		sizes = 5;
		break;
	case MT_OP_FILL:
	case MT_OP_SUMSQ:
	case MT_OP_FP8_SCALE:
	case MT_OP_KIND_COUNT:
		break;
	}
	char dims[56], whole[224];
	print_dims(dims, sizeof dims, d + skip, sizes);
	snprintf(whole, sizeof whole, "%s %s %s%s%s%s", mt_op_name((enum mt_op_kind)key->kind),
		 mt_dtype_name((enum mt_dtype)key->dtype), word, dims, first_flag, second_flag);
	snprintf(buf, 96, "%.95s", whole);
}
