/* op_check: is an operation's shape one that can be run? Rows and counts may be 0 (an empty shard), widths may not. */
#include "kernels/fp8.h"
#include "kernels/op_experts.h"

static enum mt_status refuse(const struct mt_op *op, const char *why)
{
	struct mt_op_key key;
	char text[96];
	mt_op_key(op, &key);
	mt_op_key_text(&key, text);
	return mt_fail(MT_INPUT, "%s: %s", text, why);
}

/* The `why` of a shape that is refused, NULL when it is fine. */
static const char *check_attention(const struct mt_attention *a)
{
	if (a->batch < 0 || a->seq < 1 || a->heads < 1 || a->kv_heads < 1 || a->head_dim < 1)
		return "seq, heads, kv_heads and head_dim must be at least 1";
	if (a->window < 0)
		return "window must not be negative (0: none)";
	if (a->kv_seq < 0 || a->offset < 0)
		return "kv_seq and offset must not be negative (0: those of the queries)";
	if (mt_attention_q_rows(a) < a->seq || mt_attention_kv_rows(a) < mt_attention_keys(a))
		return "q_rows and kv_rows must hold the rows of a sequence";
	if (a->heads % a->kv_heads)
		return "heads must be a multiple of kv_heads";
	if (a->q_stride < a->heads * a->head_dim || a->o_stride < a->heads * mt_attention_v_dim(a))
		return "q_stride must hold heads * head_dim elements, o_stride heads * v_dim";
	if (a->v_dim < 0 || a->v_stride < 0 || mt_attention_v_stride(a) < a->kv_heads * mt_attention_v_dim(a))
		return "v_stride must hold kv_heads * v_dim elements";
	return a->kv_stride < a->kv_heads * a->head_dim ? "kv_stride must hold kv_heads * head_dim elements" : NULL;
}

static const char *check_norm(const struct mt_norm *n)
{
	if ((unsigned)n->kind > MT_NORM_RMS)
		return "the kind must be layer or rms";
	if (n->heads < 0 ||
	    (n->heads > 0 && (n->rows % n->heads || n->x_stride < n->heads * n->cols || n->y_stride < n->heads * n->cols ||
			      (n->dx_stride && n->dx_stride < n->heads * n->cols))))
		return "rows must be a multiple of heads, and the strides must hold heads * cols elements";
	if (n->heads > 0 && (n->residual || n->x_bias || n->dresidual))
		return "heads are normalised without a residual";
	return n->rows < 0 || n->cols < 1 ? "cols must be at least 1 and rows not negative" : NULL;
}

static const char *check_activation(const struct mt_activation *a)
{
	if ((unsigned)a->kind > MT_SWIGLU)
		return "the kind must be gelu or swiglu";
	return a->rows < 0 || a->cols < 1 ? "cols must be at least 1 and rows not negative" : NULL;
}

static const char *check_rope(const struct mt_rope *r)
{
	if (r->batch < 0 || r->seq < 1 || r->heads < 1 || r->head_dim < 2 || r->head_dim % 2)
		return "seq and heads must be at least 1 and head_dim even";
	if (r->rotated < 0 || r->rotated > r->head_dim || r->rotated % 2)
		return "rotated must be even and at most head_dim";
	if ((unsigned)r->scaling.stretch > MT_ROPE_YARN || (r->scaling.stretch != MT_ROPE_PLAIN && !(r->scaling.factor > 0)))
		return "the scaling must be linear, llama3 or yarn, its factor positive";
	if (r->stride < (r->heads - 1) * r->head_dim + mt_rope_rotated(r))
		return "stride must hold heads * head_dim elements";
	if (r->positions && r->position_count < 1)
		return "with positions position_count must be at least 1";
	return r->sign == 1 || r->sign == -1 ? NULL : "sign must be 1 or -1";
}

static const char *check_embedding(const struct mt_embedding *e)
{
	if (e->rows < 0 || e->cols < 1 || e->seq < 1)
		return "cols and seq must be at least 1";
	if (e->positions && e->position_count < 1)
		return "with positions position_count must be at least 1";
	return e->first < 0 || e->count < 0 || e->first_row < 0 ? "first, count and first_row must not be negative" : NULL;
}

static const char *check_loss(const struct mt_op *op)
{
	const struct mt_loss *l = &op->loss;
	if (l->rows < 0 || l->cols < 1 || l->vocab < 1 || l->first < 0)
		return "cols and vocab must be at least 1 and first not negative";
	return op->kind == MT_OP_LOSS && l->parts < 1 ? "parts must be at least 1 and rows not negative" : NULL;
}

static const char *check_move(const struct mt_op *op)
{
	const struct mt_move *m = &op->move;
	if (op->kind == MT_OP_COPY)
		return m->rows < 0 || m->cols < 1 || m->src_stride < m->cols || m->dst_stride < m->cols
			       ? "cols must be at least 1, rows not negative and the strides at least cols"
			       : NULL;
	if (m->count < 0)
		return "count must not be negative";
	if ((unsigned)m->dst_dtype >= MT_DTYPE_COUNT || (op->kind == MT_OP_CAST && (unsigned)m->src_dtype >= MT_DTYPE_COUNT))
		return "no such type to move from or to";
	return NULL;
}

static const char *check_linear(const struct mt_op *op)
{
	const struct mt_linear *l = &op->linear;
	if (l->rows < 0 || l->in < 1 || l->out < 1)
		return "in and out must be at least 1 and rows not negative";
	if ((op->kind == MT_OP_LINEAR && l->dbias) || (op->kind == MT_OP_LINEAR_WGRAD && l->pre))
		return "the forward product has no bias' gradient, that of the weight no GELU";
	if (op->kind == MT_OP_LINEAR_DGRAD && l->dbias && !l->pre)
		return "the gradient of the input has a bias' gradient only behind that of GELU";
	if (op->kind == MT_OP_LINEAR_WGRAD && l->dbias && l->fp8)
		return "in fp8 dy is rounded: its column sums are an operation of their own";
	return (unsigned)l->fp8 > MT_FP8_E4M3 ? "fp8 must be off, hybrid or e4m3" : NULL;
}

static const char *check_adamw(const struct mt_adamw *a)
{
	if (a->count < 0 || a->step < 1)
		return "count must not be negative and step counts from 1";
	return (unsigned)a->m_dtype > MT_BF16 || (unsigned)a->v_dtype > MT_BF16 ? "m and v must be f32 or bf16" : NULL;
}

static const char *check_quantize(const struct mt_quantize *q, enum mt_op_kind kind)
{
	if (q->rows < 0 || q->cols < 1 || q->pad < 0)
		return "cols must be at least 1, rows and pad not negative";
	if (kind != MT_OP_AMAX && !mt_dtype_is_fp8(q->to))
		return "the type to round to must be e4m3 or e5m2";
	return q->margin < -64 || q->margin > 64 ? "margin must be from -64 to 64" : NULL;
}

static const char *check_spread(const struct mt_spread *s)
{
	if (s->rows < 0 || s->heads < 1 || s->nope < 1 || s->rotary < 1 || s->value < 1)
		return "heads and sizes must be at least 1 and rows not negative";
	return NULL;
}

static const char *check_shape(const struct mt_op *op)
{
	switch (op->kind) {
	case MT_OP_LINEAR:
	case MT_OP_LINEAR_DGRAD:
	case MT_OP_LINEAR_WGRAD:
		return check_linear(op);
	case MT_OP_ATTENTION:
	case MT_OP_ATTENTION_BWD:
		return check_attention(&op->attention);
	case MT_OP_NORM:
	case MT_OP_NORM_BWD:
		return check_norm(&op->norm);
	case MT_OP_ACTIVATION:
	case MT_OP_ACTIVATION_BWD:
		return check_activation(&op->activation);
	case MT_OP_ROPE:
		return check_rope(&op->rope);
	case MT_OP_EMBEDDING:
	case MT_OP_EMBEDDING_BWD:
		return check_embedding(&op->embedding);
	case MT_OP_ADD:
	case MT_OP_BIAS_GRAD:
		return op->add.rows < 0 || op->add.cols < 1 ? "cols must be at least 1 and rows not negative" : NULL;
	case MT_OP_LOSS_STATS:
	case MT_OP_LOSS:
		return check_loss(op);
	case MT_OP_CAST:
	case MT_OP_FILL:
	case MT_OP_COPY:
		return check_move(op);
	case MT_OP_SUMSQ:
		return op->sumsq.count < 0 ? "count must not be negative" : NULL;
	case MT_OP_ADAMW:
		return check_adamw(&op->adamw);
	case MT_OP_SGD:
		return op->sgd.count < 0 ? "count must not be negative" : NULL;
	case MT_OP_COMBINE:
		return op->combine.count < 0 ? "count must not be negative" : NULL;
	case MT_OP_AMAX:
	case MT_OP_FP8_SCALE:
	case MT_OP_QUANTIZE:
		return check_quantize(&op->quantize, op->kind);
	case MT_OP_GROUPED ... MT_OP_EXPERT_ACT_BWD:
		return mt_op_experts_check(op);
	case MT_OP_SPREAD:
	case MT_OP_SPREAD_BWD:
		return check_spread(&op->spread);
	case MT_OP_KIND_COUNT:
		break;
	}
	return NULL;
}

enum mt_status mt_op_check(const struct mt_op *op)
{
	if ((unsigned)op->kind >= MT_OP_KIND_COUNT)
		return mt_fail(MT_INPUT, "operation kind %d is not one of the %d known", (int)op->kind, MT_OP_KIND_COUNT);
	/* Cast and fill name their types themselves; a copy moves elements of any type. */
	bool any_type = op->kind == MT_OP_CAST || op->kind == MT_OP_FILL || op->kind == MT_OP_COPY;
	if ((unsigned)op->dtype >= MT_DTYPE_COUNT || ((op->dtype == MT_I32 || mt_dtype_is_fp8(op->dtype)) && !any_type))
		return mt_fail(MT_INPUT, "%s has no form for type %s", mt_op_name(op->kind), mt_dtype_name(op->dtype));
	const char *why = check_shape(op);
	return why ? refuse(op, why) : MT_OK;
}
