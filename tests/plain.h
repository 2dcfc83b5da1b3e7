/* plain: a transformer's operations as loops over doubles, each with its derivative; nothing of the engine or its devices.
 *
 * A tape of nodes, matrices of rows by columns, in the order in which they were made. Backward goes over it from the end: each node
 * adds to the gradients of what it was made of. Made for being read, not for speed. */
#ifndef TESTS_PLAIN_H
#define TESTS_PLAIN_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { PLAIN_NODES = 4096, PLAIN_INTS = 12 };

struct plain_node {
	int64_t rows, cols;
	double *v, *g; /* values and their gradients */
	void (*back)(struct plain_node *node);
	struct plain_node *in[4];
	int64_t n[PLAIN_INTS]; /* what the operation needs to know */
	double x[4];
	int64_t *map; /* owned */
	double *kept; /* owned */
	const char *name;
};

struct plain_tape {
	struct plain_node nodes[PLAIN_NODES];
	int count;
};

static inline struct plain_node *plain_new(struct plain_tape *tape, int64_t rows, int64_t cols, void (*back)(struct plain_node *))
{
	struct plain_node *node = &tape->nodes[tape->count++];

	if (tape->count > PLAIN_NODES)
		abort();
	*node = (struct plain_node){.rows = rows, .cols = cols, .back = back};
	node->v = calloc((size_t)(rows * cols) + 1, sizeof(double));
	node->g = calloc((size_t)(rows * cols) + 1, sizeof(double));
	if (!node->v || !node->g)
		abort();
	return node;
}

static inline void plain_free(struct plain_tape *tape)
{
	for (int i = 0; i < tape->count; i++) {
		free(tape->nodes[i].v);
		free(tape->nodes[i].g);
		free(tape->nodes[i].map);
		free(tape->nodes[i].kept);
	}
	tape->count = 0;
}

static inline void plain_backward(struct plain_tape *tape)
{
	for (int i = tape->count - 1; i >= 0; i--) {
		if (tape->nodes[i].back)
			tape->nodes[i].back(&tape->nodes[i]);
	}
}

/* y = x w^T + bias, bias may be NULL */
static inline void plain_linear_back(struct plain_node *y)
{
	struct plain_node *x = y->in[0], *w = y->in[1], *bias = y->in[2];

	for (int64_t r = 0; r < y->rows; r++)
		for (int64_t o = 0; o < y->cols; o++) {
			double g = y->g[r * y->cols + o];

			for (int64_t i = 0; i < x->cols; i++) {
				x->g[r * x->cols + i] += g * w->v[o * x->cols + i];
				w->g[o * x->cols + i] += g * x->v[r * x->cols + i];
			}
			if (bias)
				bias->g[o] += g;
		}
}

static inline struct plain_node *plain_linear(struct plain_tape *t, struct plain_node *x, struct plain_node *w,
					      struct plain_node *bias)
{
	struct plain_node *y = plain_new(t, x->rows, w->rows, plain_linear_back);

	y->in[0] = x, y->in[1] = w, y->in[2] = bias;
	for (int64_t r = 0; r < y->rows; r++)
		for (int64_t o = 0; o < y->cols; o++) {
			double sum = bias ? bias->v[o] : 0;

			for (int64_t i = 0; i < x->cols; i++)
				sum += x->v[r * x->cols + i] * w->v[o * x->cols + i];
			y->v[r * y->cols + o] = sum;
		}
	return y;
}

static inline void plain_add_back(struct plain_node *y)
{
	for (int64_t i = 0; i < y->rows * y->cols; i++) {
		y->in[0]->g[i] += y->g[i];
		y->in[1]->g[i] += y->g[i];
	}
}

static inline struct plain_node *plain_add(struct plain_tape *t, struct plain_node *a, struct plain_node *b)
{
	struct plain_node *y = plain_new(t, a->rows, a->cols, plain_add_back);

	y->in[0] = a, y->in[1] = b;
	for (int64_t i = 0; i < y->rows * y->cols; i++)
		y->v[i] = a->v[i] + b->v[i];
	return y;
}

/* Norm of groups of as many elements as the gain has: y = (x - m) r gain + bias; m = 0 for RMS, which has no bias. */
static inline void plain_norm_back(struct plain_node *y)
{
	struct plain_node *x = y->in[0], *gain = y->in[1], *bias = y->in[2];
	int64_t size = gain->rows * gain->cols;

	for (int64_t group = 0; group < y->rows * y->cols / size; group++) {
		const double *g = y->g + group * size;
		double mean = y->kept[2 * group], r = y->kept[2 * group + 1], sum = 0, product = 0;

		for (int64_t i = 0; i < size; i++) {
			double hat = (x->v[group * size + i] - mean) * r;

			gain->g[i] += g[i] * hat;
			if (bias)
				bias->g[i] += g[i];
			sum += g[i] * gain->v[i];
			product += g[i] * gain->v[i] * hat;
		}
		for (int64_t i = 0; i < size; i++) {
			double hat = (x->v[group * size + i] - mean) * r;

			x->g[group * size + i] +=
				r * (g[i] * gain->v[i] - (bias ? sum / (double)size : 0) - hat * product / (double)size);
		}
	}
}

static inline struct plain_node *plain_norm(struct plain_tape *t, struct plain_node *x, struct plain_node *gain,
					    struct plain_node *bias, double eps)
{
	struct plain_node *y = plain_new(t, x->rows, x->cols, plain_norm_back);
	int64_t size = gain->rows * gain->cols, groups = x->rows * x->cols / size;

	y->in[0] = x, y->in[1] = gain, y->in[2] = bias;
	y->kept = calloc((size_t)(2 * groups) + 1, sizeof(double));
	for (int64_t group = 0; group < groups; group++) {
		const double *v = x->v + group * size;
		double mean = 0, square = 0;

		for (int64_t i = 0; bias && i < size; i++)
			mean += v[i] / (double)size;
		for (int64_t i = 0; i < size; i++)
			square += (v[i] - mean) * (v[i] - mean) / (double)size;
		y->kept[2 * group] = mean;
		y->kept[2 * group + 1] = 1 / sqrt(square + eps);
		for (int64_t i = 0; i < size; i++)
			y->v[group * size + i] = (v[i] - mean) * y->kept[2 * group + 1] * gain->v[i] + (bias ? bias->v[i] : 0);
	}
	return y;
}

/* x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) */
static inline double plain_gelu_inner(double x)
{
	return 0.79788456080286535588 * (x + 0.044715 * x * x * x);
}

static inline void plain_gelu_back(struct plain_node *y)
{
	for (int64_t i = 0; i < y->rows * y->cols; i++) {
		double x = y->in[0]->v[i], h = tanh(plain_gelu_inner(x));
		double slope = 0.79788456080286535588 * (1 + 3 * 0.044715 * x * x);

		y->in[0]->g[i] += y->g[i] * (0.5 * (1 + h) + 0.5 * x * (1 - h * h) * slope);
	}
}

static inline struct plain_node *plain_gelu(struct plain_tape *t, struct plain_node *x)
{
	struct plain_node *y = plain_new(t, x->rows, x->cols, plain_gelu_back);

	y->in[0] = x;
	for (int64_t i = 0; i < y->rows * y->cols; i++)
		y->v[i] = 0.5 * x->v[i] * (1 + tanh(plain_gelu_inner(x->v[i])));
	return y;
}

/* gate sigmoid(gate) up */
static inline void plain_swiglu_back(struct plain_node *y)
{
	for (int64_t i = 0; i < y->rows * y->cols; i++) {
		double gate = y->in[0]->v[i], s = 1 / (1 + exp(-gate));

		y->in[0]->g[i] += y->g[i] * y->in[1]->v[i] * s * (1 + gate * (1 - s));
		y->in[1]->g[i] += y->g[i] * gate * s;
	}
}

static inline struct plain_node *plain_swiglu(struct plain_tape *t, struct plain_node *gate, struct plain_node *up)
{
	struct plain_node *y = plain_new(t, gate->rows, gate->cols, plain_swiglu_back);

	y->in[0] = gate, y->in[1] = up;
	for (int64_t i = 0; i < y->rows * y->cols; i++)
		y->v[i] = gate->v[i] / (1 + exp(-gate->v[i])) * up->v[i];
	return y;
}

/* Column j of y is column map[j] of [a, b]; b may be NULL. */
static inline void plain_pick_back(struct plain_node *y)
{
	struct plain_node *a = y->in[0], *b = y->in[1];

	for (int64_t r = 0; r < y->rows; r++)
		for (int64_t j = 0; j < y->cols; j++) {
			int64_t from = y->map[j];

			if (from < a->cols)
				a->g[r * a->cols + from] += y->g[r * y->cols + j];
			else
				b->g[r * b->cols + from - a->cols] += y->g[r * y->cols + j];
		}
}

static inline struct plain_node *plain_pick(struct plain_tape *t, struct plain_node *a, struct plain_node *b, const int64_t *map,
					    int64_t cols)
{
	struct plain_node *y = plain_new(t, a->rows, cols, plain_pick_back);

	y->in[0] = a, y->in[1] = b;
	y->map = malloc((size_t)cols * sizeof *map);
	memcpy(y->map, map, (size_t)cols * sizeof *map);
	for (int64_t r = 0; r < y->rows; r++)
		for (int64_t j = 0; j < cols; j++)
			// cppcheck-suppress nullPointer
			y->v[r * cols + j] = map[j] < a->cols ? a->v[r * a->cols + map[j]] : b->v[r * b->cols + map[j] - a->cols];
	return y;
}

/* Turns pairs of each head of `size`: those of elements first .. first + 2 pairs, (d, d + pairs) or neighbours, of row r by angle
 * (r % seq) * frequency[d], times `magnitude`. kept: the frequencies. */
static inline void plain_turn(const struct plain_node *y, const double *in, double *out, double sign)
{
	int64_t size = y->n[0], first = y->n[1], pairs = y->n[2], seq = y->n[3];

	for (int64_t r = 0; r < y->rows; r++)
		for (int64_t h = 0; h < y->cols / size; h++)
			for (int64_t d = 0; d < size; d++) {
				int64_t at = r * y->cols + h * size + d, e = d - first, pair, other;
				double angle, low;

				if (e < 0 || e >= 2 * pairs) {
					out[at] += in[at];
					continue;
				}
				pair = y->n[4] ? e / 2 : e % pairs;
				low = y->n[4] ? e % 2 == 0 : e < pairs;
				other = low ? at + (y->n[4] ? 1 : pairs) : at - (y->n[4] ? 1 : pairs);
				angle = (double)(r % seq) * y->kept[pair];
				out[at] += y->x[0] * (in[at] * cos(angle) - (low ? 1 : -1) * sign * in[other] * sin(angle));
			}
}

static inline void plain_rope_back(struct plain_node *y)
{
	plain_turn(y, y->g, y->in[0]->g, -1);
}

static inline struct plain_node *plain_rope(struct plain_tape *t, struct plain_node *x, int64_t size, int64_t first, int64_t pairs,
					    int64_t seq, int interleaved, const double *frequencies, double magnitude)
{
	struct plain_node *y = plain_new(t, x->rows, x->cols, plain_rope_back);

	y->in[0] = x;
	y->n[0] = size, y->n[1] = first, y->n[2] = pairs, y->n[3] = seq, y->n[4] = interleaved;
	y->x[0] = magnitude;
	y->kept = malloc((size_t)(pairs + 1) * sizeof(double));
	memcpy(y->kept, frequencies, (size_t)pairs * sizeof(double));
	plain_turn(y, x->v, y->v, 1);
	return y;
}

/* Causal attention of `heads` heads in sequences of `seq` rows; a row sees `window` rows at most, 0: all before it. kept: the
 * probabilities. */
static inline struct plain_node *plain_attention(struct plain_tape *t, struct plain_node *q, struct plain_node *k,
						 struct plain_node *v, int64_t heads, int64_t kv_heads, int64_t seq, int64_t window,
						 double scale);

static inline void plain_attention_back(struct plain_node *o)
{
	struct plain_node *q = o->in[0], *k = o->in[1], *v = o->in[2];
	int64_t heads = o->n[0], kv_heads = o->n[1], seq = o->n[2], D = q->cols / heads, E = v->cols / kv_heads;

	for (int64_t r = 0; r < o->rows; r++)
		for (int64_t h = 0; h < heads; h++) {
			int64_t g = h / (heads / kv_heads), start = r / seq * seq;
			const double *p = o->kept + (r * heads + h) * seq, *d_o = o->g + r * o->cols + h * E;
			double mean = 0, dp[256];

			for (int64_t u = start; u <= r; u++) {
				dp[u - start] = 0;
				for (int64_t e = 0; e < E; e++) {
					dp[u - start] += d_o[e] * v->v[u * v->cols + g * E + e];
					v->g[u * v->cols + g * E + e] += p[u - start] * d_o[e];
				}
				mean += p[u - start] * dp[u - start];
			}
			for (int64_t u = start; u <= r; u++) {
				double ds = o->x[0] * p[u - start] * (dp[u - start] - mean);

				for (int64_t d = 0; d < D; d++) {
					q->g[r * q->cols + h * D + d] += ds * k->v[u * k->cols + g * D + d];
					k->g[u * k->cols + g * D + d] += ds * q->v[r * q->cols + h * D + d];
				}
			}
		}
}

static inline struct plain_node *plain_attention(struct plain_tape *t, struct plain_node *q, struct plain_node *k,
						 struct plain_node *v, int64_t heads, int64_t kv_heads, int64_t seq, int64_t window,
						 double scale)
{
	int64_t D = q->cols / heads, E = v->cols / kv_heads;
	struct plain_node *o = plain_new(t, q->rows, heads * E, plain_attention_back);

	if (seq > 256)
		abort();
	o->in[0] = q, o->in[1] = k, o->in[2] = v;
	o->n[0] = heads, o->n[1] = kv_heads, o->n[2] = seq;
	o->x[0] = scale;
	o->kept = calloc((size_t)(q->rows * heads * seq), sizeof(double));
	for (int64_t r = 0; r < o->rows; r++)
		for (int64_t h = 0; h < heads; h++) {
			int64_t g = h / (heads / kv_heads), start = r / seq * seq;
			int64_t low = window > 0 && r - window + 1 > start ? r - window + 1 : start;
			double *p = o->kept + (r * heads + h) * seq, sum = 0;

			for (int64_t u = low; u <= r; u++) {
				double score = 0;

				for (int64_t d = 0; d < D; d++)
					score += q->v[r * q->cols + h * D + d] * k->v[u * k->cols + g * D + d];
				p[u - start] = exp(scale * score);
				sum += p[u - start];
			}
			for (int64_t u = low; u <= r; u++) {
				p[u - start] /= sum;
				for (int64_t e = 0; e < E; e++)
					o->v[r * o->cols + h * E + e] += p[u - start] * v->v[u * v->cols + g * E + e];
			}
		}
	return o;
}

/* Row r is row map[r] of the table, zeros for a negative one. */
static inline void plain_embed_back(struct plain_node *y)
{
	for (int64_t r = 0; r < y->rows; r++)
		for (int64_t c = 0; c < y->cols && y->map[r] >= 0; c++)
			y->in[0]->g[y->map[r] * y->cols + c] += y->g[r * y->cols + c];
}

static inline struct plain_node *plain_embed(struct plain_tape *t, struct plain_node *table, const int64_t *rows, int64_t count)
{
	struct plain_node *y = plain_new(t, count, table->cols, plain_embed_back);

	y->in[0] = table;
	y->map = malloc((size_t)count * sizeof *rows);
	memcpy(y->map, rows, (size_t)count * sizeof *rows);
	for (int64_t r = 0; r < count; r++)
		for (int64_t c = 0; c < y->cols && rows[r] >= 0; c++)
			y->v[r * y->cols + c] = table->v[rows[r] * y->cols + c];
	return y;
}

/* (1,1): the mean of -log softmax(logits)[target] over rows with a target >= 0; `weight` of it is differentiated. */
static inline void plain_loss_back(struct plain_node *y)
{
	struct plain_node *logits = y->in[0];

	for (int64_t r = 0; r < logits->rows; r++) {
		double sum = 0;

		if (y->map[r] < 0)
			continue;
		for (int64_t c = 0; c < y->n[1]; c++)
			sum += exp(logits->v[r * logits->cols + c]);
		for (int64_t c = 0; c < y->n[1]; c++)
			logits->g[r * logits->cols + c] +=
				y->x[0] / (double)y->n[0] * (exp(logits->v[r * logits->cols + c]) / sum - (c == y->map[r]));
	}
}

static inline struct plain_node *plain_loss(struct plain_tape *t, struct plain_node *logits, const int64_t *targets, int64_t vocab,
					    double weight)
{
	struct plain_node *y = plain_new(t, 1, 1, plain_loss_back);

	y->in[0] = logits;
	y->x[0] = weight;
	y->n[1] = vocab;
	y->map = malloc((size_t)logits->rows * sizeof *targets);
	memcpy(y->map, targets, (size_t)logits->rows * sizeof *targets);
	for (int64_t r = 0; r < logits->rows; r++) {
		double sum = 0;

		if (targets[r] < 0)
			continue;
		for (int64_t c = 0; c < vocab; c++)
			sum += exp(logits->v[r * logits->cols + c]);
		y->v[0] += log(sum) - logits->v[r * logits->cols + targets[r]];
		y->n[0]++;
	}
	y->v[0] /= (double)y->n[0];
	return y;
}

#endif
