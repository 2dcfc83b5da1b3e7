/* plain_whole: a model's loss from the operations of plain.h. Of the engine it takes the description of the model and the names of
 * parameters; what these mean is written here anew. */
#ifndef TESTS_PLAIN_WHOLE_H
#define TESTS_PLAIN_WHOLE_H

#include "engine/model.h"
#include "tests/plain.h"
#include "tests/plain_experts.h"

#include <stdio.h>

struct plain_model {
	const struct mt_model *m;
	struct plain_tape *tape;
	/* The leaf of a parameter, NULL when the model has none of that name. */
	struct plain_node *(*param)(void *context, const char *name);
	void *context;
	int64_t seq;
	double frequencies[64], magnitude, scale;
	struct plain_router routers[16]; /* by layer */
};

static inline struct plain_node *plain_param(const struct plain_model *p, const char *format, int64_t layer)
{
	char name[96];

	snprintf(name, sizeof name, format, (long long)layer);
	return p->param(p->context, name);
}

/* Radians a position of each rotated pair. */
static inline void plain_frequencies(struct plain_model *p)
{
	const struct mt_model *m = p->m;
	int64_t whole = m->kv_rank > 0 ? m->rope_dim : m->head_dim, dim = m->rotary_dim > 0 ? m->rotary_dim : whole;
	double turn = 2 * 3.14159265358979323846, factor = m->rope_factor, original = (double)m->rope_original;

	p->magnitude = 1;
	p->scale = 1 / sqrt((double)m->head_dim);
	for (int64_t d = 0; d < dim / 2; d++) {
		double f = 1 / pow(m->rope_theta, (double)(2 * d) / (double)dim), wave = turn / f;

		if (m->rope_scaling == MT_ROPE_LINEAR)
			f /= factor;
		if (m->rope_scaling == MT_ROPE_LLAMA3) {
			double low = original / m->rope_low, high = original / m->rope_high;
			double smooth = (original / wave - m->rope_low) / (m->rope_high - m->rope_low);

			f = wave > low ? f / factor : wave < high ? f : (1 - smooth) * f / factor + smooth * f;
		}
		if (m->rope_scaling == MT_ROPE_YARN) {
			double base = 2 * log(m->rope_theta);
			double first = floor((double)dim * log(original / (m->rope_high * turn)) / base);
			double last = ceil((double)dim * log(original / (m->rope_low * turn)) / base), ramp;

			first = first < 0 ? 0 : first;
			last = last > (double)(dim - 1) ? (double)(dim - 1) : last;
			ramp = ((double)d - first) / (last == first ? 0.001 : last - first);
			ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
			f = f / factor * ramp + f * (1 - ramp);
		}
		p->frequencies[d] = f;
	}
	if (m->rope_scaling == MT_ROPE_YARN) {
		double all = 0.1 * m->rope_mscale_all * log(factor) + 1;

		p->magnitude = 0.1 * log(factor) + 1;
		if (m->rope_mscale > 0 && m->rope_mscale_all > 0)
			p->magnitude = (0.1 * m->rope_mscale * log(factor) + 1) / all;
		if (m->rope_magnitude > 0)
			p->magnitude = m->rope_magnitude;
		if (m->rope_mscale_all > 0)
			p->scale *= all * all;
	}
}

static inline struct plain_node *plain_rotated(const struct plain_model *p, struct plain_node *x, int64_t size, int64_t first)
{
	const struct mt_model *m = p->m;
	int64_t whole = m->kv_rank > 0 ? m->rope_dim : m->head_dim, dim = m->rotary_dim > 0 ? m->rotary_dim : whole;

	if (m->position != MT_MODEL_ROPE)
		return x;
	return plain_rope(p->tape, x, size, first, dim / 2, p->seq, m->rope_interleaved, p->frequencies, p->magnitude);
}

/* Query heads, and keys and values of all heads, of latent attention. */
static inline void plain_latent(const struct plain_model *p, int64_t layer, struct plain_node *h, struct plain_node *qkv[3])
{
	const struct mt_model *m = p->m;
	int64_t nope = m->nope_dim, rope = m->rope_dim, value = m->v_dim, map[4096], n = 0;
	struct plain_node *q = h, *state, *kv, *shared;

	if (m->q_rank > 0) {
		q = plain_linear(p->tape, h, plain_param(p, "layer.%lld.attention.q_down.weight", layer), NULL);
		q = plain_norm(p->tape, q, plain_param(p, "layer.%lld.attention.q_norm.gain", layer), NULL, m->norm_eps);
	}
	q = plain_linear(
		p->tape, q,
		plain_param(p, m->q_rank > 0 ? "layer.%lld.attention.q_up.weight" : "layer.%lld.attention.q.weight", layer), NULL);
	qkv[0] = plain_rotated(p, q, nope + rope, nope);
	state = plain_linear(p->tape, h, plain_param(p, "layer.%lld.attention.kv_down.weight", layer), NULL);
	state = plain_norm(p->tape, state, plain_param(p, "layer.%lld.attention.kv_norm.gain", layer), NULL, m->norm_eps);
	kv = plain_linear(p->tape, state, plain_param(p, "layer.%lld.attention.kv_up.weight", layer), NULL);
	shared = plain_linear(p->tape, h, plain_param(p, "layer.%lld.attention.k_rope.weight", layer), NULL);
	shared = plain_rotated(p, shared, rope, 0);
	for (int64_t head = 0; head < m->heads; head++) {
		for (int64_t d = 0; d < nope; d++)
			map[n++] = head * (nope + value) + d;
		for (int64_t d = 0; d < rope; d++)
			map[n++] = m->heads * (nope + value) + d;
	}
	qkv[1] = plain_pick(p->tape, kv, shared, map, n);
	n = 0;
	for (int64_t head = 0; head < m->heads; head++)
		for (int64_t d = 0; d < value; d++)
			map[n++] = head * (nope + value) + nope + d;
	qkv[2] = plain_pick(p->tape, kv, NULL, map, n);
}

static inline void plain_heads(const struct plain_model *p, int64_t layer, struct plain_node *h, struct plain_node *qkv[3])
{
	static const char *const weights[] = {"layer.%lld.attention.q.weight", "layer.%lld.attention.k.weight",
					      "layer.%lld.attention.v.weight"};
	static const char *const biases[] = {"layer.%lld.attention.q.bias", "layer.%lld.attention.k.bias",
					     "layer.%lld.attention.v.bias"};
	static const char *const gains[] = {"layer.%lld.attention.q_norm.gain", "layer.%lld.attention.k_norm.gain"};

	for (int i = 0; i < 3; i++) {
		qkv[i] = plain_linear(p->tape, h, plain_param(p, weights[i], layer), plain_param(p, biases[i], layer));
		if (i < 2 && p->m->qk_norm)
			qkv[i] = plain_norm(p->tape, qkv[i], plain_param(p, gains[i], layer), NULL, p->m->norm_eps);
		if (i < 2)
			qkv[i] = plain_rotated(p, qkv[i], p->m->head_dim, 0);
	}
}

static inline struct plain_node *plain_mlp(const struct plain_model *p, int64_t layer, struct plain_node *h)
{
	struct plain_node *down = plain_param(p, "layer.%lld.mlp.down.weight", layer);
	struct plain_node *up = plain_linear(p->tape, h, plain_param(p, "layer.%lld.mlp.up.weight", layer),
					     plain_param(p, "layer.%lld.mlp.up.bias", layer));

	if (p->m->mlp == MT_MODEL_SWIGLU)
		up = plain_swiglu(p->tape, plain_linear(p->tape, h, plain_param(p, "layer.%lld.mlp.gate.weight", layer), NULL), up);
	else
		up = plain_gelu(p->tape, up);
	return plain_linear(p->tape, up, down, plain_param(p, "layer.%lld.mlp.down.bias", layer));
}

/* x + what the MLP with these names gives of h, times a column of the weights; NULL: once. */
static inline struct plain_node *plain_expert(const struct plain_model *p, int64_t layer, const char *name, struct plain_node *x,
					      struct plain_node *h, struct plain_node *weights, int64_t column)
{
	static const char *const matrices[] = {"gate", "up", "down"};
	struct plain_node *w[3], *y;

	for (int i = 0; i < 3; i++) {
		char full[96];

		snprintf(full, sizeof full, "layer.%lld.%s.%s.weight", (long long)layer, name, matrices[i]);
		w[i] = p->param(p->context, full);
	}
	y = plain_swiglu(p->tape, plain_linear(p->tape, h, w[0], NULL), plain_linear(p->tape, h, w[1], NULL));
	y = plain_linear(p->tape, y, w[2], NULL);
	return weights ? plain_weigh(p->tape, x, y, weights, column) : plain_add(p->tape, x, y);
}

/* x + the experts' sum of h. */
static inline struct plain_node *plain_experts(struct plain_model *p, int64_t layer, struct plain_node *x, struct plain_node *h)
{
	struct plain_node *bias = plain_param(p, "layer.%lld.router.bias", layer), *weights;
	struct plain_router *router = &p->routers[layer];

	*router = (struct plain_router){.m = p->m, .bias = bias ? bias->v : NULL, .seq = p->seq};
	weights = plain_linear(p->tape, h, plain_param(p, "layer.%lld.router.weight", layer), NULL);
	weights = plain_route(p->tape, weights, router);
	for (int64_t e = 0; e < p->m->experts; e++) {
		char name[32];

		snprintf(name, sizeof name, "experts.%lld", (long long)e);
		x = plain_expert(p, layer, name, x, h, weights, e);
	}
	return p->m->shared_ffn > 0 ? plain_expert(p, layer, "shared", x, h, NULL, 0) : x;
}

/* The rows that the layer's rows see, counted anew. */
static inline int64_t plain_window(const struct mt_model *m, int64_t layer)
{
	if (layer < m->window_first)
		return 0;
	return m->window_every > 0 && layer % m->window_every == m->window_every - 1 ? 0 : m->window;
}

static inline struct plain_node *plain_layer(struct plain_model *p, int64_t layer, struct plain_node *x)
{
	const struct mt_model *m = p->m;
	struct plain_node *qkv[3], *h, *o;

	h = plain_norm(p->tape, x, plain_param(p, "layer.%lld.attention.norm.gain", layer),
		       plain_param(p, "layer.%lld.attention.norm.bias", layer), m->norm_eps);
	if (m->kv_rank > 0)
		plain_latent(p, layer, h, qkv);
	else
		plain_heads(p, layer, h, qkv);
	o = plain_attention(p->tape, qkv[0], qkv[1], qkv[2], m->heads, m->kv_heads, p->seq, plain_window(m, layer), p->scale);
	o = plain_linear(p->tape, o, plain_param(p, "layer.%lld.attention.out.weight", layer),
			 plain_param(p, "layer.%lld.attention.out.bias", layer));
	x = plain_add(p->tape, x, o);
	h = plain_norm(p->tape, x, plain_param(p, "layer.%lld.mlp.norm.gain", layer),
		       plain_param(p, "layer.%lld.mlp.norm.bias", layer), m->norm_eps);
	if (plain_param(p, "layer.%lld.router.weight", layer))
		return plain_experts(p, layer, x, h);
	return plain_add(p->tape, x, plain_mlp(p, layer, h));
}

/* The tokens, or targets, `by` rows further in each sequence; -1 beyond its end. */
static inline void plain_shift(const struct plain_model *p, const int64_t *from, int64_t rows, int64_t by, int64_t *to)
{
	for (int64_t r = 0; r < rows; r++)
		to[r] = r % p->seq + by < p->seq ? from[r + by] : -1;
}

/* Losses of `rows` rows of tokens: of the model, and the mean of its modules'. All gradients follow after plain_backward. */
static inline double plain_loss_of(struct plain_model *p, const int64_t *tokens, const int64_t *targets, int64_t rows,
				   double *modules)
{
	const struct mt_model *m = p->m;
	struct plain_node *words = plain_param(p, "embedding.word", 0), *x, *loss, *places;
	struct plain_node *head = m->tied ? words : plain_param(p, "head.weight", 0);
	int64_t *shifted = malloc((size_t)(2 * rows) * sizeof *shifted), *position = shifted + rows;

	plain_frequencies(p);
	x = plain_embed(p->tape, words, tokens, rows);
	for (int64_t r = 0; r < rows; r++)
		position[r] = r % p->seq;
	places = plain_param(p, "embedding.position", 0);
	if (places)
		x = plain_add(p->tape, x, plain_embed(p->tape, places, position, rows));
	for (int64_t layer = 0; layer < m->layers; layer++)
		x = plain_layer(p, layer, x);
	x = plain_norm(p->tape, x, plain_param(p, "final.norm.gain", 0), plain_param(p, "final.norm.bias", 0), m->norm_eps);
	loss = plain_loss(p->tape, plain_linear(p->tape, x, head, NULL), targets, m->vocab, 1);
	*modules = 0;
	for (int64_t k = 1; k <= m->mtp; k++) {
		int64_t layer = m->layers + k - 1, map[1024];
		struct plain_node *e, *h;

		plain_shift(p, tokens, rows, k, shifted);
		e = plain_norm(p->tape, plain_embed(p->tape, words, shifted, rows),
			       plain_param(p, "layer.%lld.mtp.embed_norm.gain", layer), NULL, m->norm_eps);
		h = plain_norm(p->tape, x, plain_param(p, "layer.%lld.mtp.hidden_norm.gain", layer), NULL, m->norm_eps);
		for (int64_t c = 0; c < 2 * m->hidden; c++)
			map[c] = c;
		h = plain_linear(p->tape, plain_pick(p->tape, e, h, map, 2 * m->hidden),
				 plain_param(p, "layer.%lld.mtp.join.weight", layer), NULL);
		h = plain_layer(p, layer, h);
		x = plain_norm(p->tape, h, plain_param(p, "layer.%lld.mtp.norm.gain", layer), NULL, m->norm_eps);
		plain_shift(p, targets, rows, k, shifted);
		*modules +=
			plain_loss(p->tape, plain_linear(p->tape, x, head, NULL), shifted, m->vocab, m->mtp_weight / (double)m->mtp)
				->v[0] /
			(double)m->mtp;
	}
	free(shifted);
	return loss->v[0];
}

#endif
