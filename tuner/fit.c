/* fit: least squares on log(measured / predicted), robust and held to the physical values.
 *
 *   minimise  sum_i w_i rho((y_i - g_i(x)) / NOISE) + sum_k (x_k / sd_k)^2
 *
 * x: logarithms of the factors of all keys; a run reads four keys, so its gradient has 4 * MT_FACTORS terms, all equal among the
 * four. rho: Huber's. sd_k: how far the physical value can be off (table below), split over the levels. Gauss-Newton with halved
 * steps; the factors enter nearly linearly in the logarithm, a handful of rounds settles it. */
#include "tuner/fit.h"

#include "base/random.h"
#include "base/stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NOISE       0.05 /* repeatability of published runs */
#define HUBER       2.0
#define ROUNDS      30
#define HALVINGS    6
#define SETTLED     1e-5
#define DIFFERENCE  0.02
#define GROUP_ROWS  4.0 /* rows of a group that weigh fully: the rest, nearly alike, a tenth */
#define LEVEL_SHARE 0.35
#define TURNS       2

static const double prior_sd[MT_FACTORS] = {
	[MT_FACTOR_PRODUCT] = 0.06, [MT_FACTOR_LOW] = 0.105,  [MT_FACTOR_ATTENTION] = 0.245, [MT_FACTOR_MEMORY] = 0.245,
	[MT_FACTOR_HOST] = 0.245,   [MT_FACTOR_LINK] = 0.175, [MT_FACTOR_NIC] = 0.245,       [MT_FACTOR_EXPOSED] = 0.42,
	[MT_FACTOR_PIPE] = 0.42,    [MT_FACTOR_STEP] = 0.42,  [MT_FACTOR_JITTER] = 0.42,     [MT_FACTOR_EXPERT] = 0.28,
};

void mt_fit_free(struct mt_fit_model *model)
{
	free(model->keys);
	memset(model, 0, sizeof *model);
}

static const char *accelerator_of(const struct mt_target *t)
{
	return t->accelerator ? t->accelerator : t->name;
}

static void layer_name(char name[MT_FIT_NAME], const struct mt_target *t, const struct mt_stack *stack, const struct mt_case *c)
{
	char shared[24] = "", latent[24] = "", etp[24] = "", kind[32] = "", again[16] = "";

	if (c->shared_ffn > 0)
		snprintf(shared, sizeof shared, "+%.0f", c->shared_ffn);
	if (c->kv_rank > 0)
		snprintf(latent, sizeof latent, " l%.0f", c->kv_rank);
	if (c->experts > 0 && mt_case_etp(c) != c->tp)
		snprintf(etp, sizeof etp, " etp%.0f", c->etp);
	if (c->cp > 1 && c->cp_kind != MT_CONTEXT_RING)
		snprintf(kind, sizeof kind, "k%d/%.0f", c->cp_kind, mt_case_cp_inner(c));
	if (c->recompute == MT_CASE_SELECTIVE && c->selected != MT_CASE_ATTENTION)
		snprintf(again, sizeof again, ".%d", c->selected);
	snprintf(name, MT_FIT_NAME, "%.28s + %.28s h%.0f f%.0f%s%s s%.0f x%.0f e%.0f/%.0f%s tp%.0f cp%.0f%s w%d r%d%s%s",
		 accelerator_of(t), mt_stack_family(stack), c->hidden, c->ffn, shared, latent, c->seq, c->mbs, c->experts, c->ep,
		 etp, c->tp, c->cp, kind, (int)c->width, c->recompute, again, c->tp_overlap ? " o" : "");
}

void mt_fit_key_name(char name[MT_FIT_NAME], const struct mt_runs_table *table, const struct mt_measured_run *run, int level)
{
	const struct mt_target *t = &table->targets[run->target];
	const struct mt_stack *stack = &table->stacks[run->stack];

	if (level == MT_FIT_ACCELERATOR)
		snprintf(name, MT_FIT_NAME, "%.60s", accelerator_of(t));
	else if (level == MT_FIT_CLUSTER)
		snprintf(name, MT_FIT_NAME, "%.60s @ %.4g GB/s", t->name, t->nic_gbps);
	else if (level == MT_FIT_STACK)
		snprintf(name, MT_FIT_NAME, "%.60s", mt_stack_family(stack));
	else if (level == MT_FIT_PAIR)
		snprintf(name, MT_FIT_NAME, "%.44s + %.44s", t->name, mt_stack_family(stack));
	else
		layer_name(name, t, stack, &run->layout);
}

int mt_fit_find(const struct mt_fit_model *model, int level, const char *name)
{
	for (int i = 0; i < model->count; i++)
		if (model->keys[i].level == level && strcmp(model->keys[i].name, name) == 0)
			return i;
	return -1;
}

void mt_fit_factors(const struct mt_fit_model *model, const struct mt_runs_table *table, const struct mt_measured_run *run,
		    struct mt_factors *factors)
{
	double sum[MT_FACTORS] = {0};
	char name[MT_FIT_NAME];

	for (int level = 0; level <= MT_FIT_LAYER; level++) {
		mt_fit_key_name(name, table, run, level);
		int k = mt_fit_find(model, level, name);
		for (int f = 0; k >= 0 && f < MT_FACTORS; f++)
			sum[f] += model->keys[k].log_factor[f];
	}
	for (int f = 0; f < MT_FACTORS; f++)
		factors->of[f] = exp(sum[f]);
}

double mt_fit_layer_factor(const struct mt_fit_model *model, const struct mt_target *target, const struct mt_stack *stack,
			   const struct mt_case *layout)
{
	char name[MT_FIT_NAME];
	int k;

	layer_name(name, target, stack, layout);
	k = mt_fit_find(model, MT_FIT_LAYER, name);
	return k >= 0 ? exp(model->keys[k].log_factor[MT_FACTOR_LAYER]) : 1;
}

double mt_fit_half(const struct mt_fit_model *model, const struct mt_runs_table *table, const struct mt_measured_run *run)
{
	char name[MT_FIT_NAME];
	double half;
	int k;

	mt_fit_key_name(name, table, run, MT_FIT_LAYER);
	bool seen = mt_fit_find(model, MT_FIT_LAYER, name) >= 0;
	mt_fit_key_name(name, table, run, MT_FIT_PAIR);
	k = mt_fit_find(model, MT_FIT_PAIR, name);
	half = k < 0 ? 0 : seen ? model->keys[k].half_frac : model->keys[k].half_new_frac;
	if (half > 0)
		return half;
	mt_fit_key_name(name, table, run, MT_FIT_STACK);
	k = mt_fit_find(model, MT_FIT_STACK, name);
	return k >= 0 && model->half_new_frac > 0 ? model->half_new_frac : table->stacks[run->stack].spread_frac;
}

/* --- the fit --- */

struct problem {
	const struct mt_runs_table *table;
	struct mt_fit_model *model;
	const double *weight;           /* of each run */
	int (*keys)[MT_FIT_LEVELS + 1]; /* of each run; last: of its layers, -1: none yet */
	double *normal, *right;         /* size * size, size */
	int count, size;                /* keys that are fitted here: all but those of layers */
};

enum { FITTED = MT_FACTOR_LAYER }; /* factors of such a key */

static enum mt_status collect_keys(struct problem *p)
{
	struct mt_fit_model *m = p->model;
	char name[MT_FIT_NAME];

	m->keys = calloc((size_t)p->table->count * (MT_FIT_LEVELS + 1) + 1, sizeof *m->keys);
	if (!m->keys)
		return mt_fail(MT_NOMEM, "no memory for a fit");
	for (int i = 0; i < p->table->count; i++) {
		if (p->weight[i] <= 0)
			continue;
		for (int level = 0; level < MT_FIT_LEVELS; level++) {
			mt_fit_key_name(name, p->table, &p->table->runs[i], level);
			int k = mt_fit_find(m, level, name);
			if (k < 0) {
				k = m->count++;
				m->keys[k].level = level;
				memcpy(m->keys[k].name, name, sizeof name);
			}
			m->keys[k].runs++;
			p->keys[i][level] = k;
		}
		p->keys[i][MT_FIT_LAYER] = -1;
	}
	p->count = m->count;
	p->size = m->count * FITTED;
	return MT_OK;
}

/* Factors of a run by the keys that were found for it. */
static void factors_of(const struct problem *p, int i, struct mt_factors *f)
{
	for (int k = 0; k < MT_FACTORS; k++) {
		double sum = 0;

		for (int level = 0; level <= MT_FIT_LAYER; level++)
			if (p->keys[i][level] >= 0)
				sum += p->model->keys[p->keys[i][level]].log_factor[k];
		f->of[k] = exp(sum);
	}
}

static double predicted_s(const struct mt_runs_table *table, const struct mt_measured_run *run, const struct mt_factors *f)
{
	struct mt_forecast out;

	mt_forecast_step(&out, &run->layout, &table->targets[run->target], &table->stacks[run->stack], f);
	return out.step_s;
}

/* Adds a run to the normal equations: all four keys have the same gradient. */
static void add_run(struct problem *p, int i)
{
	const struct mt_measured_run *run = &p->table->runs[i];
	double g[FITTED], base_s, miss, weight;
	struct mt_factors f;

	factors_of(p, i, &f);
	base_s = predicted_s(p->table, run, &f);
	miss = log(run->measured_s / base_s);
	weight = p->weight[i] / (NOISE * NOISE);
	if (fabs(miss) > HUBER * NOISE)
		weight *= HUBER * NOISE / fabs(miss);
	for (int k = 0; k < FITTED; k++) {
		struct mt_factors moved = f;

		moved.of[k] *= exp(DIFFERENCE);
		g[k] = log(predicted_s(p->table, run, &moved) / base_s) / DIFFERENCE;
	}
	for (int a = 0; a < MT_FIT_LEVELS; a++) {
		for (int k = 0; k < FITTED; k++) {
			size_t row = (size_t)(p->keys[i][a] * FITTED + k);

			p->right[row] += weight * g[k] * miss;
			for (int b = 0; b < MT_FIT_LEVELS && g[k] != 0; b++)
				for (int l = 0; l < FITTED; l++)
					p->normal[row * (size_t)p->size + (size_t)(p->keys[i][b] * FITTED + l)] +=
						weight * g[k] * g[l];
		}
	}
}

/* Cholesky in place, then the solution in `b`. The matrix is definite: the prior is on its diagonal. */
static void solve(double *a, double *b, int n)
{
	for (int j = 0; j < n; j++) {
		double *row = a + (size_t)j * (size_t)n;

		for (int k = 0; k < j; k++) {
			const double *other = a + (size_t)k * (size_t)n;
			double sum = row[k];

			for (int l = 0; l < k; l++)
				sum -= row[l] * other[l];
			row[k] = sum / other[k];
		}
		for (int k = 0; k < j; k++)
			row[j] -= row[k] * row[k];
		row[j] = sqrt(row[j] > 1e-12 ? row[j] : 1e-12);
	}
	for (int j = 0; j < n; j++) {
		for (int k = 0; k < j; k++)
			b[j] -= a[(size_t)j * (size_t)n + (size_t)k] * b[k];
		b[j] /= a[(size_t)j * (size_t)n + (size_t)j];
	}
	for (int j = n - 1; j >= 0; j--) {
		for (int k = j + 1; k < n; k++)
			b[j] -= a[(size_t)k * (size_t)n + (size_t)j] * b[k];
		b[j] /= a[(size_t)j * (size_t)n + (size_t)j];
	}
}

/* What is minimised. */
static double objective(const struct problem *p)
{
	double sum = 0;

	for (int i = 0; i < p->table->count; i++) {
		const struct mt_measured_run *run = &p->table->runs[i];
		struct mt_factors f;

		if (p->weight[i] <= 0)
			continue;
		factors_of(p, i, &f);
		double miss = fabs(log(run->measured_s / predicted_s(p->table, run, &f))) / NOISE;
		sum += p->weight[i] * (miss < HUBER ? miss * miss : HUBER * (2 * miss - HUBER));
	}
	for (int k = 0; k < p->count; k++) {
		for (int f = 0; f < FITTED; f++) {
			double off = p->model->keys[k].log_factor[f] / (LEVEL_SHARE * prior_sd[f]);

			sum += off * off;
		}
	}
	return sum;
}

static void move(struct problem *p, double share)
{
	for (int k = 0; k < p->count; k++)
		for (int f = 0; f < FITTED; f++)
			p->model->keys[k].log_factor[f] += share * p->right[k * FITTED + f];
}

/* One Gauss-Newton step, halved until it gains; returns the objective. */
static double one_round(struct problem *p, double now)
{
	size_t n = (size_t)p->size;

	memset(p->normal, 0, n * n * sizeof *p->normal);
	memset(p->right, 0, n * sizeof *p->right);
	for (int i = 0; i < p->table->count; i++)
		if (p->weight[i] > 0)
			add_run(p, i);
	for (int k = 0; k < p->count; k++) {
		for (int f = 0; f < FITTED; f++) {
			size_t at = (size_t)(k * FITTED + f);
			double sd = LEVEL_SHARE * prior_sd[f];

			p->normal[at * n + at] += 1 / (sd * sd);
			p->right[at] -= p->model->keys[k].log_factor[f] / (sd * sd);
		}
	}
	solve(p->normal, p->right, p->size);
	for (int half = 0; half < HALVINGS; half++) {
		double next;

		move(p, half == 0 ? 1 : -pow(0.5, half)); /* from a step of 1 to 1/2, 1/4, ... */
		next = objective(p);
		if (next < now)
			return next;
	}
	move(p, -pow(0.5, HALVINGS - 1));
	return now;
}

static void settle(struct problem *p)
{
	double now = objective(p), before = INFINITY;

	for (int round = 0; round < ROUNDS && now < before * (1 - SETTLED); round++) {
		before = now;
		now = one_round(p, now);
	}
}

/* Rows of large groups share a weight: their errors are of one kind. owned */
static double *weights_of(const struct mt_runs_table *table, const double *draw)
{
	double *weight = calloc((size_t)table->count + 1, sizeof *weight);

	for (int i = 0; weight && i < table->count; i++) {
		int like = 0;

		for (int j = 0; j < table->count; j++)
			like += strcmp(table->runs[i].group, table->runs[j].group) == 0;
		weight[i] = draw[i] * (like > GROUP_ROWS ? (GROUP_ROWS + (like - GROUP_ROWS) / 10) / like : 1);
	}
	return weight;
}

/* draw: how often each run counts; 0: not at all. A layer is its own runs', however many others their group has. */
static enum mt_status fit_drawn(struct mt_fit_model *model, const struct mt_runs_table *table, const double *draw)
{
	double *weight = weights_of(table, draw);
	struct problem p = {.table = table, .model = model, .weight = weight};
	enum mt_status st = MT_OK;

	memset(model, 0, sizeof *model);
	p.keys = calloc((size_t)table->count + 1, sizeof *p.keys);
	if (!weight || !p.keys) {
		st = mt_fail(MT_NOMEM, "no memory for a fit");
		goto out;
	}
	MT_GOTO(out, collect_keys(&p));
	p.normal = malloc(((size_t)p.size * (size_t)p.size + 1) * sizeof *p.normal);
	p.right = malloc(((size_t)p.size + 1) * sizeof *p.right);
	if (!p.normal || !p.right) {
		st = mt_fail(MT_NOMEM, "no memory for a fit of %d factors", p.size);
		goto out;
	}
	/* Factors, layers given these, and once more: what layers explain no longer pulls the factors. */
	for (int turn = 0; turn < TURNS; turn++) {
		settle(&p);
		mt_fit_layers(model, table, draw);
		for (int i = 0; i < table->count; i++) {
			char name[MT_FIT_NAME];

			if (draw[i] <= 0)
				continue;
			mt_fit_key_name(name, table, &table->runs[i], MT_FIT_LAYER);
			p.keys[i][MT_FIT_LAYER] = mt_fit_find(model, MT_FIT_LAYER, name);
		}
	}
out:
	free(weight);
	free(p.keys);
	free(p.normal);
	free(p.right);
	if (st != MT_OK)
		mt_fit_free(model);
	return st;
}

enum mt_status mt_fit_runs(struct mt_fit_model *model, const struct mt_runs_table *table, const unsigned char *use)
{
	double *draw = calloc((size_t)table->count + 1, sizeof *draw);
	enum mt_status st;

	for (int i = 0; draw && i < table->count; i++)
		draw[i] = !table->runs[i].skip[0] && (!use || use[i]);
	st = draw ? fit_drawn(model, table, draw) : mt_fail(MT_NOMEM, "no memory for a fit");
	free(draw);
	return st;
}

enum mt_status mt_fit_bootstrap(struct mt_fit_model *model, const struct mt_runs_table *table, int draws, uint64_t seed)
{
	double *draw = calloc((size_t)table->count + 1, sizeof *draw);
	enum mt_status st = draw ? MT_OK : mt_fail(MT_NOMEM, "no memory for a bootstrap");

	for (int d = 0; d < draws && st == MT_OK; d++) {
		struct mt_fit_model again;

		/* exponential weights: the Bayesian bootstrap, so that no key is ever left without a run */
		for (int i = 0; i < table->count; i++)
			draw[i] = table->runs[i].skip[0] ? 0 : -log(1 - mt_random_uniform(seed, (uint64_t)d, (uint64_t)i));
		st = fit_drawn(&again, table, draw);
		for (int k = 0; st == MT_OK && k < model->count; k++) {
			int at = mt_fit_find(&again, model->keys[k].level, model->keys[k].name);

			for (int f = 0; at >= 0 && f < MT_FACTORS; f++) {
				double off = again.keys[at].log_factor[f] - model->keys[k].log_factor[f];

				model->keys[k].log_sd[f] += off * off / draws;
			}
		}
		if (st == MT_OK)
			mt_fit_free(&again);
	}
	for (int k = 0; k < model->count; k++)
		for (int f = 0; f < MT_FACTORS; f++)
			model->keys[k].log_sd[f] = sqrt(model->keys[k].log_sd[f]);
	free(draw);
	return st;
}
