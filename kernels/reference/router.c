/* router: which experts a row goes to and with what weight, the losses that keep the experts busy alike, and the gradient of
 * all of it.
 *   softmax  s_e = exp(x_e) / sum exp(x)       sigmoid  s_e = 1 / (1 + exp(-x_e))
 *   w_j = scale s_j / n,  n = sum of the chosen s (1 when not normalized)
 *   ds_j = scale (dw_j - sum_m dw_m s_m / n) / n      (scale dw_j when not normalized)
 *   q_e = s_e / sum s;  dq_e = aux_scale rows_e;  ds_e += (dq_e - sum_m dq_m q_m) / sum s
 *   dx_e = s_e (ds_e - sum_m ds_m s_m)                s_e (1 - s_e) ds_e
 *   z = log sum exp x;  dx_e += 2 z_scale z softmax(x)_e */
#include "kernels/reference/reference.h"

#include <stdlib.h>
#include <string.h>

/* Workspace of one row: E each. */
struct row {
	double *score, *ranked, *softmax, *slope;
	bool *allowed;
	double lse, sum; /* of exp of the logits; of the scores */
};

static enum mt_status make_row(struct row *w, const struct mt_route *r)
{
	*w = (struct row){0};
	w->score = calloc((size_t)r->experts * 4, sizeof *w->score);
	w->allowed = calloc((size_t)r->experts, sizeof *w->allowed);
	if (!w->score || !w->allowed) {
		free(w->score);
		free(w->allowed);
		return mt_fail(MT_NOMEM, "reference device: no memory to route over %lld experts", (long long)r->experts);
	}
	w->ranked = w->score + r->experts;
	w->softmax = w->ranked + r->experts;
	w->slope = w->softmax + r->experts;
	return MT_OK;
}

static void free_row(struct row *w)
{
	free(w->score);
	free(w->allowed);
}

static void score_row(const struct mt_op *op, int64_t row, struct row *w)
{
	const struct mt_route *r = &op->route;
	int64_t E = r->experts;
	double most = -INFINITY, sum = 0;

	for (int64_t i = 0; i < E; i++)
		most = fmax(most, load(op->dtype, r->logits, row * E + i));
	for (int64_t i = 0; i < E; i++)
		sum += w->softmax[i] = exp(load(op->dtype, r->logits, row * E + i) - most);
	w->lse = most + log(sum); // cppcheck-suppress invalidFunctionArg
	w->sum = 0;
	for (int64_t i = 0; i < E; i++) {
		w->softmax[i] /= sum;
		w->score[i] = r->kind == MT_ROUTE_SOFTMAX ? w->softmax[i] : 1 / (1 + exp(-load(op->dtype, r->logits, row * E + i)));
		w->sum += w->score[i];
		w->ranked[i] = w->score[i] + (r->bias ? load(op->dtype, r->bias, i) : 0);
		w->allowed[i] = true;
	}
}

/* The largest allowed of [first, last); of equal ones the first. -1: none. */
static int64_t largest(const struct row *w, int64_t first, int64_t last)
{
	int64_t best = -1;

	for (int64_t i = first; i < last; i++) {
		if (w->allowed[i] && (best < 0 || w->ranked[i] > w->ranked[best]))
			best = i;
	}
	return best;
}

/* The sum of the best `count` of a set; all are allowed again after. */
static double set_score(struct row *w, int64_t first, int64_t last, int64_t count)
{
	double sum = 0;

	for (int64_t k = 0; k < count; k++) {
		int64_t best = largest(w, first, last);

		sum += w->ranked[best];
		w->allowed[best] = false;
	}
	for (int64_t i = first; i < last; i++)
		w->allowed[i] = true;
	return sum;
}

static void limit_to_sets(const struct mt_route *r, struct row *w)
{
	int64_t size = r->experts / r->sets;
	double *sums = w->slope; /* not yet in use */

	for (int64_t s = 0; s < r->sets; s++)
		sums[s] = set_score(w, s * size, (s + 1) * size, r->set_best);
	for (int64_t s = 0; s < r->sets; s++) {
		int64_t before = 0; /* sets that are better, or as good and earlier */

		for (int64_t o = 0; o < r->sets; o++)
			before += sums[o] > sums[s] || (o < s && sums[o] == sums[s]);
		for (int64_t i = s * size; i < (s + 1) * size; i++)
			w->allowed[i] = before < r->set_choices;
	}
}

enum mt_status mt_reference_route(const struct mt_op *op)
{
	const struct mt_route *r = &op->route;
	struct row w;

	MT_TRY(make_row(&w, r));
	for (int64_t row = 0; row < r->rows; row++) {
		int32_t *index = (int32_t *)r->index + row * r->choices;
		double sum = 0;

		score_row(op, row, &w);
		if (r->sets > 1)
			limit_to_sets(r, &w);
		for (int64_t k = 0; k < r->choices; k++) {
			index[k] = (int32_t)largest(&w, 0, r->experts);
			w.allowed[index[k]] = false;
			sum += w.score[index[k]];
		}
		for (int64_t k = 0; k < r->choices; k++)
			store(op->dtype, r->weights, row * r->choices + k, r->scale * w.score[index[k]] / (r->normalize ? sum : 1));
	}
	free_row(&w);
	return MT_OK;
}

enum mt_status mt_reference_route_sums(const struct mt_op *op)
{
	const struct mt_route *r = &op->route;
	const int32_t *index = r->index;
	struct row w;

	MT_TRY(make_row(&w, r));
	for (int64_t i = 0; i < r->sequences * r->experts * 2; i++)
		store(op->dtype, r->sums, i, 0);
	for (int64_t row = 0; row < r->rows; row++) {
		int64_t at = (r->first_row + row) / r->seq * r->experts * 2;

		score_row(op, row, &w);
		for (int64_t i = 0; i < r->experts; i++)
			accumulate(op->dtype, r->sums, at + 2 * i + 1, w.score[i] / w.sum);
		for (int64_t k = 0; k < r->choices; k++)
			accumulate(op->dtype, r->sums, at + 2 * index[row * r->choices + k], 1);
	}
	free_row(&w);
	return MT_OK;
}

enum mt_status mt_reference_route_loss(const struct mt_op *op)
{
	const struct mt_route *r = &op->route;
	double aux = 0, z = 0;
	struct row w;

	MT_TRY(make_row(&w, r));
	for (int64_t i = 0; r->sums && i < r->sequences * r->experts; i++)
		aux += load(op->dtype, r->sums, 2 * i) * load(op->dtype, r->sums, 2 * i + 1);
	for (int64_t row = 0; row < r->rows && r->z_scale != 0; row++) {
		score_row(op, row, &w);
		z += w.lse * w.lse;
	}
	accumulate(MT_F64, r->out, 0, r->aux_scale * aux);
	accumulate(MT_F64, r->out, 1, r->z_scale * z);
	free_row(&w);
	return MT_OK;
}

/* The slope of the scores by the weights. */
static void weight_slope(const struct mt_op *op, int64_t row, struct row *w)
{
	const struct mt_route *r = &op->route;
	const int32_t *index = (const int32_t *)r->index + row * r->choices;
	double n = 0, mixed = 0;

	memset(w->slope, 0, (size_t)r->experts * sizeof *w->slope);
	for (int64_t k = 0; k < r->choices; k++) {
		n += w->score[index[k]];
		mixed += load(op->dtype, r->dweights, row * r->choices + k) * w->score[index[k]];
	}
	for (int64_t k = 0; k < r->choices; k++) {
		double dw = load(op->dtype, r->dweights, row * r->choices + k);

		w->slope[index[k]] = r->scale * (r->normalize ? (dw - mixed / n) / n : dw);
	}
}

static void balance_slope(const struct mt_op *op, int64_t row, struct row *w)
{
	const struct mt_route *r = &op->route;
	int64_t at = (r->first_row + row) / r->seq * r->experts * 2;
	double mean = 0;

	for (int64_t i = 0; i < r->experts; i++)
		mean += load(op->dtype, r->sums, at + 2 * i) * w->score[i] / w->sum;
	for (int64_t i = 0; i < r->experts; i++)
		w->slope[i] += r->aux_scale * (load(op->dtype, r->sums, at + 2 * i) - mean) / w->sum;
}

enum mt_status mt_reference_route_bwd(const struct mt_op *op)
{
	const struct mt_route *r = &op->route;
	struct row w;

	MT_TRY(make_row(&w, r));
	for (int64_t row = 0; row < r->rows; row++) {
		double mean = 0;

		score_row(op, row, &w);
		weight_slope(op, row, &w);
		if (r->sums && r->aux_scale != 0)
			balance_slope(op, row, &w);
		for (int64_t i = 0; i < r->experts; i++)
			mean += w.slope[i] * w.score[i];
		for (int64_t i = 0; i < r->experts; i++) {
			double s = w.score[i],
			       dx = r->kind == MT_ROUTE_SOFTMAX ? s * (w.slope[i] - mean) : s * (1 - s) * w.slope[i];

			store(op->dtype, r->dlogits, row * r->experts + i, dx + 2 * r->z_scale * w.lse * w.softmax[i]);
		}
	}
	free_row(&w);
	return MT_OK;
}
