/* fit_layers: runs as profiles of their layers.
 *
 * One efficiency surface leaves what no formula of few parameters can say: which of a library's kernels a shape is given, how
 * launches fall between them. That is the same for every run with the layer, whatever its depth, pipeline and batch. So of runs
 * i with layers of one shape, s_i the share of the layers in the step, y_i = log(measured / predicted) by all other factors:
 *
 *     x = sum(w_i s_i y_i) / (sum(w_i s_i^2) + 1 / v),   w_i: 1 / NOISE^2, Huber's weight on y_i - s_i x
 *
 * A run counts whole here, however many others its group has: their errors in common are the other factors' business.
 * v = SPREAD^2, how unlike layers are; the precision of the mean is held below 1 / FLOOR^2, for runs with one layer have
 * errors in common that are not the layer's. A layer that was never measured keeps 1. */
#include "tuner/fit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NOISE  0.05
#define SPREAD 0.08
#define FLOOR  0.015
#define HUBER  2.0
enum { PASSES = 4 };
#define DIFFERENCE 0.02

static double step_s(const struct mt_runs_table *table, const struct mt_measured_run *run, const struct mt_factors *f)
{
	struct mt_forecast out;

	mt_forecast_step(&out, &run->layout, &table->targets[run->target], &table->stacks[run->stack], f);
	return out.step_s;
}

static int key_of(struct mt_fit_model *model, const struct mt_runs_table *table, const struct mt_measured_run *run)
{
	char name[MT_FIT_NAME];
	int k;

	mt_fit_key_name(name, table, run, MT_FIT_LAYER);
	k = mt_fit_find(model, MT_FIT_LAYER, name);
	if (k < 0) {
		k = model->count++;
		model->keys[k].level = MT_FIT_LAYER;
		memcpy(model->keys[k].name, name, sizeof name);
	}
	return k;
}

/* Sums of one key. */
struct mean {
	double right, precision;
};

static void add(struct mean *sum, const struct mt_fit_model *model, const struct mt_runs_table *table,
		const struct mt_measured_run *run, double weight, double x)
{
	struct mt_factors f, moved;
	double base_s, share, miss;

	mt_fit_factors(model, table, run, &f);
	base_s = step_s(table, run, &f);
	moved = f;
	moved.of[MT_FACTOR_LAYER] *= exp(DIFFERENCE);
	share = log(step_s(table, run, &moved) / base_s) / DIFFERENCE;
	miss = log(run->measured_s / base_s);
	weight /= NOISE * NOISE;
	if (fabs(miss) > HUBER * NOISE)
		weight *= HUBER * NOISE / fabs(miss);
	sum->right += weight * share * (miss + share * x);
	sum->precision += weight * share * share;
}

void mt_fit_layers(struct mt_fit_model *model, const struct mt_runs_table *table, const double *draw)
{
	struct mean *sums = calloc((size_t)table->count * (MT_FIT_LEVELS + 1) + 1, sizeof *sums);
	int *key = calloc((size_t)table->count + 1, sizeof *key);

	for (int i = 0; sums && key && i < table->count; i++)
		key[i] = draw[i] > 0 ? key_of(model, table, &table->runs[i]) : -1;
	for (int k = 0; k < model->count; k++)
		if (model->keys[k].level == MT_FIT_LAYER)
			model->keys[k].runs = 0;
	for (int pass = 0; sums && key && pass < PASSES; pass++) {
		memset(sums, 0, ((size_t)model->count + 1) * sizeof *sums);
		for (int i = 0; i < table->count; i++) {
			if (key[i] < 0)
				continue;
			model->keys[key[i]].runs += pass == 0;
			add(&sums[key[i]], model, table, &table->runs[i], draw[i], model->keys[key[i]].log_factor[MT_FACTOR_LAYER]);
		}
		for (int k = 0; k < model->count; k++) {
			double precision = sums[k].precision, held;

			if (model->keys[k].level != MT_FIT_LAYER || precision <= 0)
				continue;
			held = 1 / (1 / precision + FLOOR * FLOOR);
			model->keys[k].log_factor[MT_FACTOR_LAYER] =
				sums[k].right / precision * held / (held + 1 / (SPREAD * SPREAD));
		}
	}
	free(sums);
	free(key);
}
