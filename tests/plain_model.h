/* plain_model: a decoder with experts as the papers write it, in doubles, one token after the other, with nothing shared with the
 * engine but the names of its parameters: what the engine's losses and gradients are held against.
 *
 * RMSNorm, rotated positions, grouped queries, SwiGLU, untied head. A parameter is a matrix by its name; the one that is being
 * moved for a difference is changed in place. */
#ifndef TESTS_PLAIN_MODEL_H
#define TESTS_PLAIN_MODEL_H

#include "engine/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct plain_param {
	char name[64];
	double *values; /* owned */
	int64_t rows, cols;
};

struct plain_model {
	const struct mt_model *model;
	struct plain_param params[512];
	int count;
	int64_t sequences, seq;
	const int32_t *tokens; /* sequences * seq + 1: targets are the next ones */
	double loss, balance, z;
	/* of the sequence and layer at work: what the router decided for each token */
	int chosen[64][16];
	double weight[64][16];
};

static inline const double *plain_find(const struct plain_model *p, const char *name)
{
	for (int i = 0; i < p->count; i++) {
		if (strcmp(p->params[i].name, name) == 0)
			return p->params[i].values;
	}
	return NULL;
}

static inline const double *plain_layer(const struct plain_model *p, int64_t layer, const char *what)
{
	char name[96];

	snprintf(name, sizeof name, "layer.%lld.%s", (long long)layer, what);
	return plain_find(p, name);
}

/* y(out) = w(out,in) x */
static inline void plain_product(const double *w, const double *x, int64_t out, int64_t in, double *y)
{
	for (int64_t o = 0; o < out; o++) {
		y[o] = 0;
		for (int64_t i = 0; i < in; i++)
			y[o] += w[o * in + i] * x[i];
	}
}

static inline void plain_norm(const struct plain_model *p, const double *gain, const double *x, double *y)
{
	int64_t C = p->model->hidden;
	double sum = 0;

	for (int64_t c = 0; c < C; c++)
		sum += x[c] * x[c];
	for (int64_t c = 0; c < C; c++)
		y[c] = x[c] / sqrt(sum / (double)C + p->model->norm_eps) * gain[c];
}

static inline void plain_rotate(const struct plain_model *p, double *head, int64_t position)
{
	int64_t half = p->model->head_dim / 2;

	for (int64_t d = 0; d < half; d++) {
		double angle = (double)position * pow(p->model->rope_theta, -(double)d / (double)half);
		double a = head[d], b = head[d + half];

		head[d] = a * cos(angle) - b * sin(angle);
		head[d + half] = b * cos(angle) + a * sin(angle);
	}
}

/* x(T,C) += attention */
static inline void plain_attention(const struct plain_model *p, int64_t layer, double *x)
{
	const struct mt_model *m = p->model;
	int64_t T = p->seq, C = m->hidden, D = m->head_dim, H = m->heads, G = m->kv_heads;
	double *q = calloc((size_t)(T * (H + 2 * G) * D + C + H * D), sizeof *q), *k = q + T * H * D, *v = k + T * G * D;
	double *h = v + T * G * D, *o = h + C;

	for (int64_t t = 0; t < T; t++) {
		plain_norm(p, plain_layer(p, layer, "attention.norm.gain"), x + t * C, h);
		plain_product(plain_layer(p, layer, "attention.q.weight"), h, H * D, C, q + t * H * D);
		plain_product(plain_layer(p, layer, "attention.k.weight"), h, G * D, C, k + t * G * D);
		plain_product(plain_layer(p, layer, "attention.v.weight"), h, G * D, C, v + t * G * D);
		for (int64_t i = 0; i < H; i++)
			plain_rotate(p, q + (t * H + i) * D, t);
		for (int64_t i = 0; i < G; i++)
			plain_rotate(p, k + (t * G + i) * D, t);
	}
	for (int64_t t = 0; t < T; t++) {
		double *y = calloc((size_t)C, sizeof *y);

		for (int64_t i = 0; i < H; i++) {
			double score[64], most = -INFINITY, sum = 0;
			int64_t g = i * G / H;

			for (int64_t u = 0; u <= t; u++) {
				score[u] = 0;
				for (int64_t d = 0; d < D; d++)
					score[u] += q[(t * H + i) * D + d] * k[(u * G + g) * D + d] / sqrt((double)D);
				most = fmax(most, score[u]);
			}
			for (int64_t u = 0; u <= t; u++)
				sum += score[u] = exp(score[u] - most);
			for (int64_t d = 0; d < D; d++) {
				o[i * D + d] = 0;
				for (int64_t u = 0; u <= t; u++)
					o[i * D + d] += score[u] / sum * v[(u * G + g) * D + d];
			}
		}
		plain_product(plain_layer(p, layer, "attention.out.weight"), o, C, H * D, y);
		for (int64_t c = 0; c < C; c++)
			x[t * C + c] += y[c];
		free(y);
	}
	free(q);
}

/* y(C) += scale * MLP of h, the one whose matrices are named PREFIX.gate and so on */
static inline void plain_mlp(const struct plain_model *p, int64_t layer, const char *prefix, int64_t F, const double *h,
			     double scale, double *y)
{
	int64_t C = p->model->hidden;
	double *gate = calloc((size_t)(2 * F + C), sizeof *gate), *up = gate + F, *out = up + F;
	char name[64];

	snprintf(name, sizeof name, "%s.up.weight", prefix);
	plain_product(plain_layer(p, layer, name), h, F, C, up);
	snprintf(name, sizeof name, "%s.gate.weight", prefix);
	plain_product(plain_layer(p, layer, name), h, F, C, gate);
	for (int64_t f = 0; f < F; f++)
		up[f] *= gate[f] / (1 + exp(-gate[f]));
	snprintf(name, sizeof name, "%s.down.weight", prefix);
	plain_product(plain_layer(p, layer, name), up, C, F, out);
	for (int64_t c = 0; c < C; c++)
		y[c] += scale * out[c];
	free(gate);
}

/* The k-th best of `count` values among those allowed. */
static inline int plain_best(const double *values, const bool *allowed, int64_t count)
{
	int best = -1;

	for (int i = 0; i < count; i++) {
		if (allowed[i] && (best < 0 || values[i] > values[best]))
			best = i;
	}
	return best;
}

/* A set is worth the sum of its best: set_best (DeepSeek-V2: one) or top_k / set_top (DeepSeek-V3: two). */
static inline void plain_sets(const struct mt_model *m, const double *values, bool *allowed)
{
	int64_t size = m->experts / m->router_sets, share = m->top_k / m->set_top > 1 ? m->top_k / m->set_top : 1,
		few = m->set_best ? m->set_best : share;
	double worth[64] = {0};
	bool open[64], in[256];

	for (int64_t s = 0; s < m->router_sets; s++) {
		open[s] = true;
		for (int64_t i = 0; i < m->experts; i++)
			in[i] = i / size == s;
		for (int64_t k = 0; k < few; k++) {
			int best = plain_best(values, in, m->experts);

			if (best >= 0) {
				worth[s] += values[best];
				in[best] = false;
			}
		}
	}
	memset(allowed, 0, (size_t)m->experts * sizeof *allowed);
	for (int64_t k = 0; k < m->set_top; k++) {
		int best = plain_best(worth, open, m->router_sets);

		open[best] = false;
		for (int64_t i = best * size; i < (best + 1) * size; i++)
			allowed[i] = true;
	}
}

/* Decides for every token of a sequence, and adds to the losses. h(T,C). */
static inline void plain_route(struct plain_model *p, int64_t layer, const double *h)
{
	const struct mt_model *m = p->model;
	const double *bias = plain_layer(p, layer, "router.bias");
	int64_t E = m->experts, K = m->top_k, T = p->seq;
	double rows[256] = {0}, mass[256] = {0};

	for (int64_t t = 0; t < T; t++) {
		double logit[256], score[256], ranked[256], sum = 0, total = 0, lse = 0;
		bool allowed[256];

		plain_product(plain_layer(p, layer, "router.weight"), h + t * m->hidden, E, m->hidden, logit);
		for (int64_t i = 0; i < E; i++)
			lse += exp(logit[i]);
		lse = log(lse); // cppcheck-suppress invalidFunctionArg
		p->z += m->z_loss * lse * lse / (double)(T * p->sequences);
		for (int64_t i = 0; i < E; i++) {
			score[i] = m->router == MT_MODEL_SIGMOID ? 1 / (1 + exp(-logit[i])) : exp(logit[i] - lse);
			ranked[i] = score[i] + (bias ? bias[i] : 0);
			total += score[i];
			allowed[i] = true;
		}
		if (m->router_sets > 1)
			plain_sets(m, ranked, allowed);
		for (int64_t k = 0; k < K; k++) {
			int best = plain_best(ranked, allowed, E);

			allowed[best] = false;
			p->chosen[t][k] = best;
			sum += score[best];
			rows[best] += 1;
		}
		for (int64_t k = 0; k < K; k++)
			p->weight[t][k] = m->router_scale * score[p->chosen[t][k]] / (m->router_normalize ? sum : 1);
		for (int64_t i = 0; i < E; i++)
			mass[i] += score[i] / total;
	}
	for (int64_t i = 0; i < E; i++)
		p->balance += m->balance_loss * (double)E * rows[i] / (double)(K * T) * mass[i] / (double)T / (double)p->sequences;
}

/* Sets the weight of choices that find their expert full to zero. */
static inline void plain_drop(struct plain_model *p)
{
	const struct mt_model *m = p->model;
	int64_t K = m->top_k, T = p->seq, room = (int64_t)ceil((double)(T * K) / (double)m->experts * m->capacity);

	for (int64_t i = 0; i < m->experts && m->capacity > 0; i++) {
		for (;;) {
			int64_t taken = 0, worst = -1;

			for (int64_t at = 0; at < T * K; at++) {
				if (p->chosen[at / K][at % K] != i)
					continue;
				taken++;
				if (worst < 0 || m->drop == MT_MODEL_DROP_LAST ||
				    p->weight[at / K][at % K] <= p->weight[worst / K][worst % K])
					worst = at;
			}
			if (taken <= room)
				break;
			p->chosen[worst / K][worst % K] = -1;
		}
	}
}

/* x(T,C) += what stands where the MLP does */
static inline void plain_second_half(struct plain_model *p, int64_t layer, double *x)
{
	const struct mt_model *m = p->model;
	int64_t C = m->hidden, T = p->seq;
	double *h = calloc((size_t)(2 * T * C), sizeof *h), *y = h + T * C;
	bool experts = plain_layer(p, layer, "router.weight") != NULL;

	for (int64_t t = 0; t < T; t++)
		plain_norm(p, plain_layer(p, layer, "mlp.norm.gain"), x + t * C, h + t * C);
	if (experts) {
		plain_route(p, layer, h);
		plain_drop(p);
	}
	for (int64_t t = 0; t < T; t++) {
		if (!experts)
			plain_mlp(p, layer, "mlp", m->ffn, h + t * C, 1, y + t * C);
		for (int64_t k = 0; k < m->top_k && experts; k++) {
			char prefix[32];

			snprintf(prefix, sizeof prefix, "experts.%d", p->chosen[t][k]);
			if (p->chosen[t][k] >= 0)
				plain_mlp(p, layer, prefix, m->expert_ffn, h + t * C, p->weight[t][k], y + t * C);
		}
		if (experts && m->shared_ffn) {
			const double *gate = plain_layer(p, layer, "shared.scale.weight");
			double scale = 1, dot;

			if (gate) {
				plain_product(gate, h + t * C, 1, C, &dot);
				scale = 1 / (1 + exp(-dot));
			}
			plain_mlp(p, layer, "shared", m->shared_ffn, h + t * C, scale, y + t * C);
		}
	}
	for (int64_t i = 0; i < T * C; i++)
		x[i] += y[i];
	free(h);
}

/* The loss of all sequences, the terms of the router included; the parts are left in p. */
static inline double plain_loss(struct plain_model *p)
{
	const struct mt_model *m = p->model;
	int64_t C = m->hidden, T = p->seq, V = m->vocab;
	double *x = calloc((size_t)(T * C + C + V), sizeof *x), *h = x + T * C, *logits = h + C;

	p->loss = p->balance = p->z = 0;
	for (int64_t s = 0; s < p->sequences; s++) {
		const int32_t *tokens = p->tokens + s * T;

		for (int64_t t = 0; t < T; t++)
			memcpy(x + t * C, plain_find(p, "embedding.word") + tokens[t] * C, (size_t)C * sizeof *x);
		for (int64_t layer = 0; layer < m->layers; layer++) {
			plain_attention(p, layer, x);
			plain_second_half(p, layer, x);
		}
		for (int64_t t = 0; t < T; t++) {
			double sum = 0;

			plain_norm(p, plain_find(p, "final.norm.gain"), x + t * C, h);
			plain_product(plain_find(p, "head.weight"), h, V, C, logits);
			for (int64_t v = 0; v < V; v++)
				sum += exp(logits[v]);
			// cppcheck-suppress invalidFunctionArg
			p->loss += (log(sum) - logits[tokens[t + 1]]) / (double)(T * p->sequences);
		}
	}
	free(x);
	return p->loss + p->balance + p->z;
}

#endif
