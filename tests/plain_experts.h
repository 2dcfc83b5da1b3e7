/* plain_experts: the operations of a layer with experts for the tape of plain.h: what the router decides, with the losses that it
 * adds to the gradient, and sums of weighted rows. Every expert sees every row; what it was not chosen for has the weight 0. */
#ifndef TESTS_PLAIN_EXPERTS_H
#define TESTS_PLAIN_EXPERTS_H

#include "engine/model.h"
#include "tests/plain.h"

/* What the router's derivative needs beside its logits. */
struct plain_router {
	const struct mt_model *m;
	const double *bias; /* enters the choice; or NULL */
	int64_t seq;
};

/* Whether values[which] is among the best `most` of `count` values; of equal ones the first. */
static inline bool plain_among(const double *values, int64_t count, int64_t which, int64_t most)
{
	int64_t before = 0;

	for (int64_t i = 0; i < count; i++)
		before += values[i] > values[which] || (i < which && values[i] == values[which]);
	return before < most;
}

/* Values of experts outside of the best sets become -inf: a set is worth the sum of its best set_best, by default
 * top_k / set_top. */
static inline void plain_close_sets(const struct mt_model *m, double *ranked)
{
	int64_t size = m->experts / m->router_sets, few = m->set_best ? m->set_best : m->top_k / m->set_top;
	double worth[64] = {0};

	for (int64_t e = 0; e < m->experts; e++) {
		if (plain_among(ranked + e / size * size, size, e % size, few))
			worth[e / size] += ranked[e];
	}
	for (int64_t e = 0; e < m->experts; e++) {
		if (!plain_among(worth, m->router_sets, e / size, m->set_top))
			ranked[e] = -INFINITY;
	}
}

/* kept: (rows, 2E): scores, and 1 where an expert was chosen. */
static inline void plain_decide(const struct plain_router *r, const double *logits, double *score, double *chosen)
{
	const struct mt_model *m = r->m;
	int64_t E = m->experts;
	double ranked[256], sum = 0;

	for (int64_t e = 0; e < E; e++)
		sum += exp(logits[e]);
	for (int64_t e = 0; e < E; e++) {
		score[e] = m->router == MT_MODEL_SIGMOID ? 1 / (1 + exp(-logits[e])) : exp(logits[e]) / sum;
		ranked[e] = score[e] + (r->bias ? r->bias[e] : 0);
	}
	if (m->router_sets > 1)
		plain_close_sets(m, ranked);
	for (int64_t e = 0; e < E; e++)
		chosen[e] = plain_among(ranked, E, e, m->top_k);
}

static inline double plain_chosen_sum(const struct mt_model *m, const double *score, const double *chosen)
{
	double sum = 0;

	for (int64_t e = 0; e < m->experts; e++)
		sum += chosen[e] * score[e];
	return m->router_normalize ? sum : 1;
}

/* The balance loss of a row's sequence, by its scores: E coefficient / (K T^2 sequences) * sum over e of rows(e) * score(e) /
 * total. */
static inline void plain_balance_back(const struct mt_model *m, const struct plain_node *y, int64_t seq, int64_t row,
				      const double *score, double *dscore)
{
	int64_t E = m->experts, first = row / seq * seq;
	double factor = m->balance_loss * (double)E / (double)(m->top_k * seq) / (double)y->rows, total = 0, mean = 0,
	       rows[256] = {0};

	for (int64_t t = first; t < first + seq; t++)
		for (int64_t e = 0; e < E; e++)
			rows[e] += y->kept[t * 2 * E + E + e];
	for (int64_t e = 0; e < E; e++)
		total += score[e];
	for (int64_t e = 0; e < E; e++)
		mean += rows[e] * score[e] / total;
	for (int64_t e = 0; e < E; e++)
		dscore[e] += factor * (rows[e] - mean) / total;
}

static inline void plain_route_back(struct plain_node *y)
{
	const struct plain_router *r = (const struct plain_router *)(uintptr_t)y->n[0];
	const struct mt_model *m = r->m;
	int64_t E = m->experts;

	for (int64_t row = 0; row < y->rows; row++) {
		const double *logits = y->in[0]->v + row * E, *score = y->kept + row * 2 * E, *chosen = score + E,
			     *g = y->g + row * E;
		double sum = plain_chosen_sum(m, score, chosen), along = 0, dscore[256], through = 0, all = 0;

		for (int64_t e = 0; e < E; e++) {
			along += chosen[e] * g[e] * score[e];
			all += exp(logits[e]);
		}
		for (int64_t e = 0; e < E; e++)
			dscore[e] = chosen[e] * m->router_scale * (m->router_normalize ? g[e] / sum - along / (sum * sum) : g[e]);
		plain_balance_back(m, y, r->seq, row, score, dscore);
		for (int64_t e = 0; e < E; e++)
			through += dscore[e] * score[e];
		for (int64_t e = 0; e < E; e++) {
			double slope = m->router == MT_MODEL_SIGMOID ? dscore[e] * score[e] * (1 - score[e])
								     : score[e] * (dscore[e] - through);

			y->in[0]->g[row * E + e] += slope + 2 * m->z_loss * log(all) * exp(logits[e]) / all / (double)y->rows;
		}
	}
}

/* Weights (rows, E) of logits (rows, E). The router must live as long as the tape. */
static inline struct plain_node *plain_route(struct plain_tape *t, struct plain_node *logits, const struct plain_router *router)
{
	const struct mt_model *m = router->m;
	int64_t E = m->experts;
	struct plain_node *y = plain_new(t, logits->rows, E, plain_route_back);

	y->in[0] = logits;
	y->n[0] = (int64_t)(uintptr_t)router;
	y->kept = calloc((size_t)(y->rows * 2 * E), sizeof(double));
	if (!y->kept)
		abort();
	for (int64_t row = 0; row < y->rows; row++) {
		double *score = y->kept + row * 2 * E, *chosen = score + E;

		plain_decide(router, logits->v + row * E, score, chosen);
		for (int64_t e = 0; e < E; e++)
			y->v[row * E + e] = chosen[e] * m->router_scale * score[e] / plain_chosen_sum(m, score, chosen);
	}
	return y;
}

/* y = a + column n[0] of w times b, row by row */
static inline void plain_weigh_back(struct plain_node *y)
{
	struct plain_node *a = y->in[0], *b = y->in[1], *w = y->in[2];

	for (int64_t i = 0; i < y->rows * y->cols; i++) {
		int64_t at = i / y->cols * w->cols + y->n[0];

		a->g[i] += y->g[i];
		b->g[i] += y->g[i] * w->v[at];
		w->g[at] += y->g[i] * b->v[i];
	}
}

static inline struct plain_node *plain_weigh(struct plain_tape *t, struct plain_node *a, struct plain_node *b, struct plain_node *w,
					     int64_t column)
{
	struct plain_node *y = plain_new(t, a->rows, a->cols, plain_weigh_back);

	y->in[0] = a, y->in[1] = b, y->in[2] = w;
	y->n[0] = column;
	for (int64_t i = 0; i < y->rows * y->cols; i++)
		y->v[i] = a->v[i] + w->v[i / y->cols * w->cols + column] * b->v[i];
	return y;
}

#endif
