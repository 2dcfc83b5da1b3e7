/* layout_trial: one layout trained beside one rank: losses, gradients of the first step, and memory beside the dry run's. What one
 * rank gave is kept in a file. layout_job.h runs tables of them. */
#ifndef TESTS_LAYOUT_TRIAL_H
#define TESTS_LAYOUT_TRIAL_H

#include "tests/engine_problem.h"
#include "tests/tuner_problem.h"

#include <math.h>

enum { TRIAL_MOST_STEPS = 20, TRIAL_PARAMS = 900, TRIAL_WHY = 240, ACTIVATIONS = 3 /* of the arenas */ };

/* Losses, and the gradients of the first step by name. */
struct trial {
	double losses[TRIAL_MOST_STEPS];
	int steps, count;
	struct trial_tensor {
		char name[64];
		int64_t rows, cols, row, col; /* shape here, and where it lies in the whole */
		double *values;               /* owned */
	} tensors[TRIAL_PARAMS];
	struct mt_arena_stats memory[MT_ENGINE_ARENAS];
	size_t host_bytes;
};

static inline void trial_free(struct trial *t)
{
	for (int i = 0; i < t->count; i++)
		free(t->tensors[i].values);
	t->count = 0;
}

static inline enum mt_status trial_read(struct mt_engine *engine, struct trial *t)
{
	int count = mt_engine_param_count(engine);

	if (count > TRIAL_PARAMS)
		return mt_fail(MT_FAILED, "%d parameters", count);
	for (int i = 0; i < count; i++) {
		struct trial_tensor *tensor = &t->tensors[i];
		struct mt_param_info info;

		mt_engine_param_info(engine, i, &info);
		snprintf(tensor->name, sizeof tensor->name, "%s", info.name);
		tensor->rows = info.rows;
		tensor->cols = info.cols;
		tensor->row = info.shard_axis == 0 ? info.first : 0;
		tensor->col = info.shard_axis == 1 ? info.first : 0;
		tensor->values = calloc((size_t)(info.rows * info.cols), sizeof(double));
		if (!tensor->values)
			return mt_fail(MT_NOMEM, "no memory for gradients");
		t->count = i + 1;
		MT_TRY(mt_engine_read_grad_f64(engine, i, tensor->values));
	}
	return MT_OK;
}

/* All ranks of the fabric. Free the result, whatever the status. */
static inline enum mt_status trial_train(const struct mt_run *run, const char *device, struct mt_fabric *fabric, bool gradients,
					 struct trial *t)
{
	struct engine_bench bench = {0};
	enum mt_status st;

	memset(t, 0, sizeof *t);
	t->steps = (int)run->train.steps;
	if (t->steps < 1 || t->steps > TRIAL_MOST_STEPS)
		return mt_fail(MT_FAILED, "%d steps", t->steps);
	MT_GOTO(out, open_engine(&bench, run, device, fabric));
	for (int step = 0; step < t->steps; step++) {
		struct mt_step_stats stats;

		MT_GOTO(out, mt_engine_step(bench.engine, &stats));
		t->losses[step] = stats.loss;
		if (step == 0 && gradients)
			MT_GOTO(out, trial_read(bench.engine, t));
	}
	mt_engine_memory(bench.engine, t->memory);
	t->host_bytes = mt_engine_host_bytes(bench.engine);
out:
	close_engine(&bench);
	return st;
}

static inline enum mt_status trial_save(const struct trial *t, const char *path)
{
	FILE *f = fopen(path, "wb");
	bool ok = f && fwrite(t, sizeof *t, 1, f) == 1;

	for (int i = 0; ok && i < t->count; i++) {
		size_t count = (size_t)(t->tensors[i].rows * t->tensors[i].cols);

		ok = fwrite(t->tensors[i].values, sizeof(double), count, f) == count;
	}
	if (f)
		ok = fclose(f) == 0 && ok;
	return ok ? MT_OK : mt_fail(MT_IO, "%s: the reference could not be written", path);
}

static inline enum mt_status trial_load(struct trial *t, const char *path)
{
	FILE *f = fopen(path, "rb");
	bool ok = f && fread(t, sizeof *t, 1, f) == 1;

	for (int i = 0; ok && i < t->count; i++) {
		size_t count = (size_t)(t->tensors[i].rows * t->tensors[i].cols);

		t->tensors[i].values = calloc(count, sizeof(double));
		ok = t->tensors[i].values && fread(t->tensors[i].values, sizeof(double), count, f) == count;
	}
	if (f)
		fclose(f);
	return ok ? MT_OK : mt_fail(MT_IO, "%s: the reference could not be read", path);
}

static inline double trial_norm(const struct trial_tensor *t)
{
	double sum = 0;

	for (int64_t i = 0; i < t->rows * t->cols; i++)
		sum += t->values[i] * t->values[i];
	return sqrt(sum);
}

/* A shard's distance from its place in the whole; padding words come after the real ones. */
static inline double trial_distance(const struct trial_tensor *part, const struct trial_tensor *whole)
{
	double sum = 0;

	for (int64_t i = 0; i < part->rows * part->cols; i++) {
		int64_t row = part->row + i / part->cols, col = part->col + i % part->cols;
		double want = row < whole->rows ? whole->values[row * whole->cols + col] : 0, d = part->values[i] - want;

		sum += d * d;
	}
	return sqrt(sum);
}

/* The bound goes from `first` at the first step to `last` at the last. */
static inline void trial_compare_losses(const struct trial *got, const struct trial *want, double first, double last,
					char why[TRIAL_WHY])
{
	for (int step = 0; step < want->steps && !why[0]; step++) {
		double error = fabs(got->losses[step] - want->losses[step]) / fabs(want->losses[step]);
		double bound = first + (last - first) * step / (want->steps > 1 ? want->steps - 1 : 1);

		if (!(error <= bound))
			snprintf(why, TRIAL_WHY, "step %d: loss %.9g, one rank %.9g, relative error %.3g above %.3g", step,
				 got->losses[step], want->losses[step], error, bound);
	}
}

/* Relative to a gradient's norm, or to `least` of that of all: those of keys' biases are nothing but rounding, as such a bias moves
 * all scores of a query alike. */
static inline void trial_compare_gradients(const struct trial *got, const struct trial *want, double bound, double least,
					   char why[TRIAL_WHY])
{
	double all = 0;

	for (int i = 0; i < want->count; i++)
		all += pow(trial_norm(&want->tensors[i]), 2);
	if (!(all > 0) && !why[0])
		snprintf(why, TRIAL_WHY, "one rank has no gradients");
	for (int i = 0; i < got->count && !why[0]; i++) {
		const struct trial_tensor *part = &got->tensors[i], *whole = NULL;
		double error;

		for (int k = 0; k < want->count; k++) {
			if (strcmp(want->tensors[k].name, part->name) == 0)
				whole = &want->tensors[k];
		}
		error = whole ? trial_distance(part, whole) / fmax(fmax(trial_norm(whole), least * sqrt(all)), 1e-300) : 1;
		if (!(error <= bound))
			snprintf(why, TRIAL_WHY, "gradient of %s: relative error %.3g above %.3g", part->name, error, bound);
	}
}

enum { TRIAL_HOST = MT_ENGINE_ARENAS, TRIAL_BYTES };

/* The dry run's peaks of this rank's stage: arenas, then the host's. The first rank of the block makes it for all. */
static inline enum mt_status trial_predict(const struct mt_run *run, struct mt_fabric *block, struct made_up *made,
					   double bytes[TRIAL_BYTES])
{
	struct mt_candidate candidate = {.layout = run->layout};
	int stages = (int)run->layout.pp, first = mt_layout_coordinates(&run->layout, mt_fabric_rank(block)).pp * TRIAL_BYTES;
	double *all = calloc((size_t)stages * TRIAL_BYTES + 1, sizeof *all), *bad; /* the last says whether it failed */
	struct mt_group *group = NULL;
	enum mt_status st = MT_OK, dry = MT_OK;

	if (!all)
		return mt_fail(MT_NOMEM, "no memory for %d stages", stages);
	bad = all + stages * TRIAL_BYTES;
	MT_GOTO(out, mt_group_create_all(block, "dry", &group));
	made->cost.train = &run->train;
	if (mt_fabric_rank(block) == 0)
		dry = mt_predict_dry(&candidate, &run->model, &made->cost, NULL);
	*bad = dry != MT_OK;
	for (int s = 0; s < candidate.stages && dry == MT_OK; s++) {
		for (int i = 0; i < MT_ENGINE_ARENAS; i++)
			all[s * TRIAL_BYTES + i] = (double)candidate.stage[s].arena_bytes[i];
		all[s * TRIAL_BYTES + TRIAL_HOST] = (double)candidate.stage[s].host_bytes;
	}
	MT_GOTO(out, mt_comm_host_all_reduce(group, all, stages * TRIAL_BYTES + 1, MT_SUM));
	if (*bad != 0)
		st = dry != MT_OK ? dry : mt_fail(MT_FAILED, "the dry run failed on the first rank of the block");
	memcpy(bytes, all + first, TRIAL_BYTES * sizeof *bytes);
out:
	free_candidate(&candidate);
	mt_group_destroy(group);
	free(all);
	return st;
}

/* Peaks by arena; all ranks of the block. `activations`: their peak and the host's are known too; where experts of other ranks get
 * what the router says they depend on data. */
static inline enum mt_status trial_compare_memory(const struct mt_run *run, const struct trial *live, struct mt_fabric *block,
						  struct made_up *made, bool activations, char why[TRIAL_WHY])
{
	static const char *const names[MT_ENGINE_ARENAS] = {"parameters", "gradients", "optimizer", "activations", "workspace"};
	double bytes[TRIAL_BYTES] = {0};

	MT_TRY(trial_predict(run, block, made, bytes));
	if (activations && bytes[TRIAL_HOST] != (double)live->host_bytes && !why[0])
		snprintf(why, TRIAL_WHY, "host peak %.0f dry, %zu live", bytes[TRIAL_HOST], live->host_bytes);
	for (int i = 0; i < MT_ENGINE_ARENAS && !why[0]; i++) {
		if ((activations || i != ACTIVATIONS) && bytes[i] != (double)live->memory[i].peak_bytes)
			snprintf(why, TRIAL_WHY, "%s peak %.0f dry, %zu live", names[i], bytes[i], live->memory[i].peak_bytes);
	}
	return MT_OK;
}

#endif
