/* forecast_layer: the operations of a layer and of the ends on one rank, and their seconds.
 *
 * T = mbs * seq / cp tokens; q, kv: widths of queries and of keys.
 *   products    qkv (T,h)(h,q+2kv)  out (T,q)(q,h)  mlp (T,h)(h,g ffn), (T,ffn)(ffn,h), columns and rows over tp; backward each
 *               twice: data (m,n,k -> m,k,n) and weight (n... k = T)
 *   attention   fused: 2 T seq q / tp FLOPs (causal half of 4), backward 2.5 times; else two batched products, and passes over
 *               the scores: softmax 4 bytes, dropout 5, products 2 + 2 each, backward as much again
 *   vector      two norms, two residuals, activation, rotation
 *   latent      down (T,h)(h, q_rank + kv_rank + rope) whole on every tensor-parallel rank, with sequence parallelism of its
 *               own rows; up (T,q_rank)(q_rank,q), (T,kv_rank)(kv_rank, k without rope + v) over tp
 *   experts     topk T tokens a layer, sent to experts and back, in groups of topk (T / tp) ep etp / experts
 *   context     by kind what engine/context.h sends: a ring beside the attention of the part before, gathers and exchanges of
 *               heads beside nothing
 *   module      (T,2h)(2h,h) of its own rows, a layer, and the head once more
 * The host enqueues a layer in time of its own; who is later sets the pace, the corner rounded. */
#include "tuner/forecast.h"

#include <math.h>
#include <string.h>

const struct mt_factors mt_factors_none = {{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}};

#define BACKWARD_VECTOR    1.8 /* traffic of the vector operations' backward over their forward */
#define BACKWARD_ATTENTION 2.9 /* time: 2.5 times the FLOPs at 0.86 of the rate (Dao 2023, arXiv:2307.08691, fig. 5) */
enum { ALIGNED = 8 };
#define EXPERT_IMBALANCE 1.05 /* busiest expert group over the mean, balanced routing */

/* The larger of two times that hide each other but for the corner: some stretches of a layer wait for the host, others for the
 * device, whichever is later over all. */
static double later(double a, double b)
{
	double most = a > b ? a : b, ratio = most > 0 ? (a > b ? b : a) / most : 0;

	return most * cbrt(1 + ratio * ratio * ratio);
}

static double product(const struct mt_case *c, const struct mt_target *t, const struct mt_stack *s, const struct mt_factors *f,
		      double groups, double m, double n, double k)
{
	double low_s;

	if (c->width == MT_WIDTH_16)
		return f->of[MT_FACTOR_PRODUCT] * mt_target_product_s(t, MT_WIDTH_16, groups, m, n, k);
	low_s = mt_target_product_s(t, c->width, groups, m, n, k) / s->product_8_gain;
	return f->of[MT_FACTOR_PRODUCT] * f->of[MT_FACTOR_LOW] * low_s;
}

/* An operand of 16 bits becomes one of 8 or 4 bits as it is and transposed; 4 bits have a scale of the whole tensor too, which is
 * one more read (NVIDIA 2025, arXiv:2509.25149). Weights are cast once a step: not counted. */
static double cast_s(const struct mt_case *c, const struct mt_target *t, const struct mt_stack *s, const struct mt_factors *f,
		     double elements)
{
	double bytes = c->width == MT_WIDTH_16 ? 0 : (c->width == MT_WIDTH_4 ? 2 + 2 : 2) + 2 * mt_target_width_bytes(c->width);

	return bytes > 0 ? f->of[MT_FACTOR_LOW] * s->cast_passes * mt_target_vector_s(t, bytes * elements) : 0;
}

/* Shares of a product's operands that a rank casts in passes of their own: forward its input, backward the gradient of its output.
 */
struct casts {
	double in, out;
};

/* With sequence parallelism, what is gathered from all tensor-parallel ranks is cast before: three of four bytes for a rank's own
 * rows, the transposed copy for all. */
static double gathered(const struct mt_case *c, const struct mt_stack *s)
{
	return c->sp && !s->tp_gathers_wide ? 0.75 / c->tp + 0.25 : 1;
}

/* Bytes an element of what tensor-parallel ranks gather for a product. */
static double gathered_bytes(const struct mt_case *c, const struct mt_stack *s)
{
	return s->tp_gathers_wide ? 2 : mt_target_width_bytes(c->width);
}

static const struct casts both = {1, 1};

/* Seconds of y = x w, forward and both backward products; of these that of the weights. */
struct linear {
	double forward_s, backward_s, wgrad_s;
};

static void add_linear(struct linear *sum, const struct mt_case *c, const struct mt_target *t, const struct mt_stack *s,
		       const struct mt_factors *f, double groups, double m, double n, double k, struct casts casts)
{
	/* Rows of k and n elements: a load of 16 bytes holds 8 of 16 bits (NVIDIA, Matrix Multiplication Background). */
	double slow = fmod(n, ALIGNED) != 0 || fmod(k, ALIGNED) != 0 ? 1 / t->unaligned_frac : 1;

	double wgrad_s = slow * product(c, t, s, f, groups, n, k, m);

	sum->forward_s += slow * product(c, t, s, f, groups, m, n, k) + cast_s(c, t, s, f, casts.in * groups * m * k);
	sum->backward_s += slow * product(c, t, s, f, groups, m, k, n) + wgrad_s + cast_s(c, t, s, f, casts.out * groups * m * n);
	sum->wgrad_s += wgrad_s;
}

/* Forward seconds of attention over the whole sequence; the time to do its core again is the same. */
static double whole_attention_s(const struct mt_case *c, const struct mt_target *t, const struct mt_stack *s,
				const struct mt_factors *f, double *backward_s)
{
	double heads = c->heads / c->tp, rows = c->seq / c->cp, d = (c->head_dim + mt_case_v_dim(c)) / 2, forward_s;
	struct mt_case wide = *c;

	if (c->fused_attention) {
		/* causal half, blocks of the diagonal and the loop's ends; small heads leave the tensor units waiting, the
		 * more the faster these are (Dao 2023, fig. 4; Shah et al. 2024, fig. 5) */
		bool third = s->attention_generation >= 3 && t->attention_frac != t->attention_2_frac;
		double flops = 2 * c->mbs * heads * d * rows * (c->seq + 512), wait = third ? 56 : 12,
		       rate = t->tflops_16 * t->product_frac * t->sustained_frac *
			      (third ? t->attention_frac : t->attention_2_frac);

		rate *= c->width != MT_WIDTH_16 && c->experts > 0 ? s->attention_8_gain : 1;
		rate *= s->attention_gain * d / (d + wait) * (128 + wait) / 128;
		forward_s = t->kernel_us * 1e-6 + flops / (rate * 1e12);
		*backward_s = BACKWARD_ATTENTION * forward_s * f->of[MT_FACTOR_ATTENTION];
		return forward_s * f->of[MT_FACTOR_ATTENTION];
	}
	wide.width = MT_WIDTH_16;
	double scores = c->mbs * heads * rows * c->seq, products_s, more_s;

	products_s =
		product(&wide, t, s, f, c->mbs * heads, rows, c->seq, d) + product(&wide, t, s, f, c->mbs * heads, rows, d, c->seq);
	more_s =
		product(&wide, t, s, f, c->mbs * heads, c->seq, d, rows) + product(&wide, t, s, f, c->mbs * heads, c->seq, rows, d);
	forward_s = products_s +
		    f->of[MT_FACTOR_ATTENTION] * s->elementwise_passes * mt_target_vector_s(t, (c->dropout ? 8 : 3) * scores);
	*backward_s = products_s + more_s +
		      f->of[MT_FACTOR_ATTENTION] * s->elementwise_passes * mt_target_vector_s(t, (c->dropout ? 9 : 4) * scores);
	return forward_s;
}

/* The same, mean of layers with a window and without. */
static double attention_s(const struct mt_case *c, const struct mt_target *t, const struct mt_stack *s, const struct mt_factors *f,
			  double *backward_s)
{
	double forward_s = whole_attention_s(c, t, s, f, backward_s), within = 2 * c->window / c->seq;
	double share = 1 - c->windowed_frac * (within < 1 ? 1 - within : 0);

	*backward_s *= share;
	return share * forward_s;
}

static bool fused_experts(const struct mt_case *c, const struct mt_stack *s)
{
	return s->fused_experts && c->width != MT_WIDTH_16;
}

/* Bytes that the vector operations of a layer move in a forward pass. */
static double vector_bytes(const struct mt_case *c, const struct mt_stack *s, double tokens, bool dense)
{
	double q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim,
	       whole = 8 * c->hidden + (c->dropout ? 14 : 12) * c->hidden;
	bool routed = c->experts > 0 && !dense;
	double width = mt_case_inner_width(c, dense);
	double parts = (routed && fused_experts(c, s) ? 0 : (c->gated ? 6 : 4) * width) + (c->dropout ? 2 : 4) * (q + kv) +
		       (c->fused_attention ? 0 : 8 * q);

	if (c->kv_rank > 0) { /* norms of the states; keys put together from two parts */
		whole += 8 * (c->q_rank + c->kv_rank);
		parts += 4 * kv;
	}
	if (routed && c->clamped) /* gates and values, read and written in 32 bits */
		parts += s->clamped_passes * 2 * 8 * width;
	if (routed) /* permuted by expert, then by rank, and both undone; scores */
		whole += 16 * c->topk * c->hidden + 8 * c->experts;
	return tokens * (whole / (c->sp ? c->tp : 1) + parts / c->tp);
}

static void experts(struct linear *sum, double *ep_s, const struct mt_case *c, const struct mt_target *t, const struct mt_stack *s,
		    const struct mt_factors *f, double tokens)
{
	double etp = mt_case_etp(c), groups = c->experts / c->ep,
	       rows = tokens / c->tp * etp * c->topk * c->ep / c->experts * EXPERT_IMBALANCE, bytes, send_s;
	double inner = fused_experts(c, s) ? 0 : 1;
	struct linear own = {0};
	struct mt_span span = mt_target_span(t, c->ep, etp);

	add_linear(&own, c, t, s, f, groups, rows, (c->gated ? 2 : 1) * c->ffn / etp, c->hidden, (struct casts){1, inner});
	add_linear(&own, c, t, s, f, groups, rows, c->hidden, c->ffn / etp, (struct casts){inner, 1});
	sum->forward_s += f->of[MT_FACTOR_EXPERT] * own.forward_s;
	sum->backward_s += f->of[MT_FACTOR_EXPERT] * own.backward_s;
	sum->wgrad_s += f->of[MT_FACTOR_EXPERT] * own.wgrad_s;
	bytes = 2 * tokens * c->topk * c->hidden / c->tp;
	if (s->expert_dedup && span.local < span.ranks) { /* nodes that a token's experts are on, over its experts there */
		double nodes = span.ranks / span.local, apart = c->topk * (nodes - 1) / nodes;
		double reached = (nodes - 1) * (1 - pow(1 - 1 / nodes, c->topk));

		bytes *= reached < apart ? reached / apart : 1;
	}
	send_s = mt_forecast_collective(t, f, MT_ALL_TO_ALL, span, bytes);
	send_s += mt_forecast_collective(t, f, MT_ALL_GATHER, mt_target_span(t, etp, 1),
					 etp * 2 * tokens / c->tp * c->topk * c->hidden);
	*ep_s = f->of[MT_FACTOR_EXPERT] * 2 * send_s * (1 - s->ep_overlap_frac); /* there and back, in one pass */
}

/* Tensor-parallel communication of one pass: two all-reduces, or gathers and scatters that move as much. */
static double tensor_s(const struct mt_case *c, const struct mt_target *t, const struct mt_stack *s, const struct mt_factors *f,
		       double tokens, bool dense)
{
	struct mt_span span = mt_target_span(t, c->tp, 1);
	double bytes = 2 * tokens * c->hidden, one_s;
	bool one = c->experts > 0 && !dense; /* the experts' own is in their exchange */

	if (c->tp <= 1)
		return 0;
	if (c->sp) /* gathered as the products want it, reduced in 16 bits */
		one_s = mt_forecast_collective(t, f, MT_ALL_GATHER, span, bytes * gathered_bytes(c, s) / 2) +
			mt_forecast_collective(t, f, MT_REDUCE_SCATTER, span, bytes);
	else
		one_s = mt_forecast_collective(t, f, MT_ALL_REDUCE, span, bytes);
	one_s *= one ? 1 : 2;
	if (c->sp && c->kv_rank > 0) /* latent states are gathered in place of what they are made from */
		one_s += mt_forecast_collective(t, f, MT_ALL_GATHER, span,
						2 * tokens * ((c->q_rank > 0 ? c->q_rank : c->hidden) + c->kv_rank + c->rope_dim)) -
			 mt_forecast_collective(t, f, MT_ALL_GATHER, span, bytes);
	return one_s;
}

/* Copies beside the collectives of one pass: where the batch is the outermost dimension, the parts of ranks lie apart in what is
 * gathered, as the products want it, and in what is reduced and scattered. */
static double tensor_copies_s(const struct mt_case *c, const struct mt_target *t, const struct mt_stack *s,
			      const struct mt_factors *f, double tokens, bool dense)
{
	double times = c->experts > 0 && !dense ? 1 : 2, bytes = 2 * tokens * c->hidden * (gathered_bytes(c, s) + 2);

	return s->tp_copies && c->sp && c->tp > 1 ? f->of[MT_FACTOR_MEMORY] * times * mt_target_vector_s(t, bytes) : 0;
}

/* Heads for rows and back: queries, keys and values one way, outputs the other; backward outputs and their gradients, then the
 * gradients of the three. */
static double heads_s(const struct mt_case *c, const struct mt_target *t, const struct mt_factors *f, double tokens, bool backward)
{
	struct mt_span span = mt_target_span(t, mt_case_cp_inner(c), c->tp);
	double v = mt_case_v_dim(c), three = c->heads * c->head_dim + c->kv_heads * (c->head_dim + v), out = c->heads * v;

	return mt_forecast_collective(t, f, MT_ALL_TO_ALL, span, 2 * tokens * three / c->tp) +
	       mt_forecast_collective(t, f, MT_ALL_TO_ALL, span, 2 * tokens * (backward ? 2 : 1) * out / c->tp);
}

/* What attention's way to the keys and values of other ranks adds to a pass; core_s: of attention itself. In a ring these go round
 * beside the attention of the part before, backward with their gradients. Each step of it costs a message's launch and wait and the
 * sums of what it found: forward the output in 32 bits, read and written beside the step's own; backward the gradients of queries
 * and, twice as wide with what goes round, of keys and values. */
static double context_s(const struct mt_case *c, const struct mt_target *t, const struct mt_stack *s, const struct mt_factors *f,
			double tokens, double core_s, bool backward)
{
	double inner = mt_case_cp_inner(c), outer = c->cp / inner, send_s = 0, parts_s, open_s, step_s;
	double kv = c->kv_heads * (c->head_dim + mt_case_v_dim(c)) / c->tp, q = c->heads * c->head_dim / c->tp;
	double bytes = 2 * tokens * outer * kv, sums = 10 * tokens * (q + (backward ? kv : 0));
	struct mt_span span = mt_target_span(t, outer, c->tp * inner);

	if (c->cp <= 1)
		return 0;
	if (inner > 1)
		send_s = heads_s(c, t, f, tokens, backward);
	if (outer <= 1)
		return send_s;
	if (c->cp_kind == MT_CONTEXT_ALL_GATHER)
		return mt_forecast_collective(t, f, MT_ALL_GATHER, span, bytes) +
		       (backward ? mt_forecast_collective(t, f, MT_REDUCE_SCATTER, span, bytes) : 0);
	parts_s = mt_forecast_collective(t, f, MT_ALL_GATHER, span, (backward ? 2 : 1) * bytes);
	open_s = parts_s - 0.8 * core_s * (outer - 1) / outer;
	step_s = f->of[MT_FACTOR_PIPE] * s->message_us * 1e-6 + f->of[MT_FACTOR_MEMORY] * mt_target_vector_s(t, sums);
	return send_s + (open_s > 0.05 * parts_s ? open_s : 0.05 * parts_s) + (outer - 1) * step_s;
}

/* Products around the core of attention. */
static void attention_linears(struct linear *lin, const struct mt_case *c, const struct mt_target *t, const struct mt_stack *s,
			      const struct mt_factors *f, double tokens)
{
	double q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim, v = c->heads * mt_case_v_dim(c),
	       own = tokens / (c->sp ? c->tp : 1);

	if (c->kv_rank > 0) {
		if (c->q_rank > 0)
			add_linear(lin, c, t, s, f, 1, own, c->q_rank, c->hidden, both);
		add_linear(lin, c, t, s, f, 1, own, c->kv_rank + c->rope_dim, c->hidden, both);
		add_linear(lin, c, t, s, f, 1, tokens, q / c->tp, c->q_rank > 0 ? c->q_rank : c->hidden,
			   (struct casts){gathered(c, s), 1});
		add_linear(lin, c, t, s, f, 1, tokens, (q - c->heads * c->rope_dim + v) / c->tp, c->kv_rank,
			   (struct casts){gathered(c, s), 1});
	} else {
		add_linear(lin, c, t, s, f, 1, tokens, (q + 2 * kv) / c->tp, c->hidden, (struct casts){gathered(c, s), 1});
	}
	add_linear(lin, c, t, s, f, 1, tokens, c->hidden, v / c->tp, (struct casts){1, gathered(c, s)});
}

/* An MLP, whole or the one that all tokens meet beside the experts. */
static void mlp_linears(struct linear *lin, const struct mt_case *c, const struct mt_target *t, const struct mt_stack *s,
			const struct mt_factors *f, double tokens, double width)
{
	add_linear(lin, c, t, s, f, 1, tokens, (c->gated ? 2 : 1) * width / c->tp, c->hidden, (struct casts){gathered(c, s), 1});
	add_linear(lin, c, t, s, f, 1, tokens, c->hidden, width / c->tp, (struct casts){1, gathered(c, s)});
}

/* What selective recompute does again; attention_s: of the attention. A norm reads and writes its rows, two of them a layer; the
 * activation reads what the products before wrote. */
static double selected_s(const struct mt_case *c, const struct mt_target *t, const struct mt_stack *s, const struct mt_factors *f,
			 double tokens, bool dense, double attention_s)
{
	double passes = f->of[MT_FACTOR_MEMORY] * s->elementwise_passes, again_s = 0;

	if (c->selected & MT_CASE_ATTENTION)
		again_s += attention_s;
	if (c->selected & MT_CASE_NORMS)
		again_s += passes * mt_target_vector_s(t, tokens * 8 * c->hidden / (c->sp ? c->tp : 1));
	if (c->selected & MT_CASE_ACTIVATION)
		again_s += passes * mt_target_vector_s(t, tokens * (c->gated ? 6 : 4) * mt_case_inner_width(c, dense) / c->tp);
	return again_s;
}

/* Host time of a layer's passes beside what the software always takes. */
static double host_more_us(const struct mt_case *c, const struct mt_stack *s, bool routed)
{
	double calls = (c->tp > 1 ? (c->sp ? 4 : 2) : 0) + (routed ? 2 : 0), more_us = routed ? s->host_expert_us : 0;

	if (c->width != MT_WIDTH_16)
		more_us += s->host_cast_us * (routed ? 2 + 2 * c->experts / c->ep : 4);
	/* a collective waits for the last host of its ranks */
	return more_us + calls * s->host_comm_us * (1 + log2(c->tp));
}

/* Adding a micro-batch's gradients of so many weights to the sum of those before, where no product does it as it writes. */
static double sum_s(const struct mt_target *t, const struct mt_stack *s, const struct mt_factors *f, double weights)
{
	return s->accumulate_bytes > 0 ? f->of[MT_FACTOR_MEMORY] * mt_target_vector_s(t, s->accumulate_bytes * weights) : 0;
}

/* A layer, with experts where the model has them and `dense` is not set. */
static void layer_parts(struct mt_layer_parts *p, const struct mt_case *c, const struct mt_target *t, const struct mt_stack *s,
			const struct mt_factors *f, bool dense)
{
	double tokens = c->mbs * c->seq / c->cp, more_us;
	struct mt_case_weights w = mt_case_layer_weights(c, dense);
	bool routed = c->experts > 0 && !dense;
	struct linear lin = {0};

	p->ep_s = 0;
	attention_linears(&lin, c, t, s, f, tokens);
	if (routed)
		experts(&lin, &p->ep_s, c, t, s, f, tokens);
	if (!routed || c->shared_ffn > 0) /* one after the other: hiding it beside the exchange is not modelled */
		mlp_linears(&lin, c, t, s, f, tokens, routed ? c->shared_ffn : c->experts > 0 ? c->dense_ffn : c->ffn);
	p->forward_s = lin.forward_s;
	p->backward_s = lin.backward_s;
	p->wgrad_s = lin.wgrad_s;
	p->core_s = attention_s(c, t, s, f, &p->core_back_s);
	p->vector_s = f->of[MT_FACTOR_MEMORY] * (s->elementwise_passes * mt_target_vector_s(t, vector_bytes(c, s, tokens, dense)) +
						 (s->fused_elementwise ? 6 : 14) * t->kernel_us * 1e-6);
	p->tp_s = tensor_s(c, t, s, f, tokens, dense);
	p->tp_copy_s = tensor_copies_s(c, t, s, f, tokens, dense);
	p->sum_s = sum_s(t, s, f, w.split / c->tp + w.whole + w.expert / (c->ep * mt_case_etp(c)));
	more_us = host_more_us(c, s, routed);
	p->host_s = f->of[MT_FACTOR_HOST] * 1e-6 * (s->host_forward_us + more_us);
	p->host_back_s = f->of[MT_FACTOR_HOST] * 1e-6 * (s->host_backward_us + more_us);
}

static void finish_layer(struct mt_pass_forecast *card, const struct mt_layer_parts *p, const struct mt_case *c,
			 const struct mt_target *t, const struct mt_stack *s, const struct mt_factors *f, bool dense)
{
	double tokens = c->mbs * c->seq / c->cp, tp_s;

	tp_s = p->tp_copy_s + p->tp_s * (1 - (c->tp_overlap ? s->tp_switch_frac : s->tp_overlap_frac));
	double cp_s = context_s(c, t, s, f, tokens, p->core_s, false),
	       cp_back_s = context_s(c, t, s, f, tokens, p->core_back_s, true);
	double forward_s = p->forward_s + p->core_s + p->vector_s + tp_s + p->ep_s + cp_s, again_s = 0,
	       host_back_s = p->host_back_s;
	double backward_s = p->backward_s + p->core_back_s + BACKWARD_VECTOR * p->vector_s + p->sum_s + tp_s + p->ep_s + cp_back_s;
	double passes = c->recompute == MT_CASE_FULL ? 3 : 2;
	bool open = s->blocking_launches || (s->ep_exposes_host && c->experts > 0 && c->ep > 1 && !dense);

	memset(card, 0, sizeof *card);
	if (c->recompute == MT_CASE_SELECTIVE)
		again_s = selected_s(c, t, s, f, tokens, dense, p->core_s + s->selective_frac * p->forward_s);
	if (c->recompute == MT_CASE_FULL) {
		again_s = forward_s;
		host_back_s += p->host_s;
	}
	card->products_s = p->forward_s + p->backward_s;
	card->attention_s = p->core_s + p->core_back_s;
	card->vector_s = (1 + BACKWARD_VECTOR) * p->vector_s + p->sum_s;
	card->tp_s = passes * tp_s;
	card->ep_s = passes * p->ep_s;
	card->cp_s = cp_s + cp_back_s + (c->recompute == MT_CASE_FULL ? cp_s : 0);
	card->forward_s = open ? forward_s + p->host_s : later(forward_s, p->host_s);
	card->backward_s = open ? backward_s + again_s + host_back_s : later(backward_s + again_s, host_back_s);
	card->host_s = card->forward_s - forward_s + card->backward_s - backward_s - again_s;
	card->forward_s *= f->of[MT_FACTOR_LAYER];
	card->backward_s *= f->of[MT_FACTOR_LAYER];
	card->wgrad_s = p->wgrad_s * f->of[MT_FACTOR_LAYER];
}

/* Words of a rank, padded as the software does. */
static double words_of(const struct mt_case *c, const struct mt_stack *s)
{
	double each = c->tp > 1 || s->pads_whole_vocab ? (double)s->vocab_multiple : 1;

	return each * ceil(c->vocab / c->tp / each);
}

static void make_ends(struct mt_pass_forecast *embedding, struct mt_pass_forecast *head, const struct mt_case *c,
		      const struct mt_target *t, const struct mt_stack *s, const struct mt_factors *f)
{
	double tokens = c->mbs * c->seq / c->cp, words = words_of(c, s), more_s = sum_s(t, s, f, words * c->hidden), tp_s = 0;
	struct mt_case wide = *c;
	struct linear lin = {0};

	memset(embedding, 0, sizeof *embedding);
	memset(head, 0, sizeof *head);
	wide.width = MT_WIDTH_16;
	if (c->tp > 1)
		tp_s = mt_forecast_collective(t, f, MT_ALL_REDUCE, mt_target_span(t, c->tp, 1), 2 * tokens * c->hidden);
	add_linear(&lin, &wide, t, s, f, 1, tokens, words, c->hidden, both);
	embedding->vector_s = f->of[MT_FACTOR_MEMORY] * mt_target_vector_s(t, (c->dropout ? 11 : 4) * tokens * c->hidden);
	embedding->tp_s = 2 * tp_s;
	embedding->forward_s = embedding->vector_s + tp_s;
	embedding->backward_s = embedding->vector_s + more_s + tp_s;
	head->products_s = lin.forward_s + lin.backward_s;
	head->vector_s = f->of[MT_FACTOR_MEMORY] * mt_target_vector_s(t, (s->fused_elementwise ? 18 : 24) * tokens * words);
	head->tp_s = 2 * tp_s;
	head->forward_s = lin.forward_s + 0.6 * head->vector_s + tp_s;
	head->backward_s = lin.backward_s + 0.4 * head->vector_s + more_s + tp_s;
	head->wgrad_s = lin.wgrad_s;
}

/* What a module has beside a layer: its own look at the words, the join, the head. */
static void finish_module(struct mt_forecast_cards *cards, const struct mt_forecast_parts *parts, const struct mt_case *c)
{
	const struct mt_pass_forecast *ends[] = {&cards->embedding, &cards->head};
	struct mt_pass_forecast *m = &cards->module;
	double again = c->recompute == MT_CASE_FULL ? 1 : 0;

	*m = cards->layer;
	m->forward_s += parts->join_forward_s;
	m->backward_s += parts->join_backward_s + again * parts->join_forward_s;
	m->wgrad_s += parts->join_wgrad_s;
	m->products_s += parts->join_forward_s + parts->join_backward_s;
	for (int i = 0; i < 2; i++) {
		m->forward_s += ends[i]->forward_s;
		m->backward_s += ends[i]->backward_s;
		m->wgrad_s += ends[i]->wgrad_s;
		m->tp_s += ends[i]->tp_s;
		m->vector_s += ends[i]->vector_s;
		m->products_s += ends[i]->products_s;
	}
}

void mt_forecast_parts(struct mt_forecast_parts *parts, const struct mt_case *c, const struct mt_target *t,
		       const struct mt_stack *s, const struct mt_factors *f)
{
	struct linear join = {0};

	memset(parts, 0, sizeof *parts);
	layer_parts(&parts->layer, c, t, s, f, false);
	if (mt_case_dense(c) > 0)
		layer_parts(&parts->dense, c, t, s, f, true);
	make_ends(&parts->embedding, &parts->head, c, t, s, f);
	if (c->mtp <= 0)
		return;
	add_linear(&join, c, t, s, f, 1, c->mbs * c->seq / c->cp / (c->sp ? c->tp : 1), c->hidden, 2 * c->hidden, both);
	parts->join_forward_s = join.forward_s;
	parts->join_backward_s = join.backward_s;
	parts->join_wgrad_s = join.wgrad_s;
}

void mt_forecast_finish(struct mt_forecast_cards *cards, const struct mt_forecast_parts *parts, const struct mt_case *c,
			const struct mt_target *t, const struct mt_stack *s, const struct mt_factors *f)
{
	memset(cards, 0, sizeof *cards);
	finish_layer(&cards->layer, &parts->layer, c, t, s, f, false);
	cards->embedding = parts->embedding;
	cards->head = parts->head;
	if (mt_case_dense(c) > 0)
		finish_layer(&cards->dense, &parts->dense, c, t, s, f, true);
	if (c->mtp > 0)
		finish_module(cards, parts, c);
}

void mt_forecast_cards(struct mt_forecast_cards *cards, const struct mt_case *c, const struct mt_target *t,
		       const struct mt_stack *s, const struct mt_factors *f)
{
	struct mt_forecast_parts parts;

	mt_forecast_parts(&parts, c, t, s, f);
	mt_forecast_finish(cards, &parts, c, t, s, f);
}
