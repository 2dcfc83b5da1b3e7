/* engine: one rank of a training job, on any device and any fabric. No globals: many ranks may live in one process.
 *
 * Life: mt_engine_create (parameters initialised, groups made) - mt_engine_step ... - mt_engine_destroy.
 * Layout changes speed, never the result: initial weights come from Philox keyed by the parameter's name and global
 * index, data order by the global sample number. */
#ifndef MT_ENGINE_ENGINE_H
#define MT_ENGINE_ENGINE_H

#include "comm/comm.h"
#include "engine/data.h"
#include "engine/run.h"
#include "kernels/device.h"

struct mt_engine;

struct mt_engine_config {
	const struct mt_run *run;   /* borrowed while the engine lives */
	struct mt_device *device;   /* borrowed */
	struct mt_fabric *fabric;   /* borrowed; its size must be the layout's world */
	struct mt_dataset *dataset; /* borrowed; NULL on the dry device */
};

/* overflow: in f16, because of the loss scale, which has fallen */
enum mt_skipped { MT_SKIPPED_NOT, MT_SKIPPED_NOT_FINITE, MT_SKIPPED_SPIKE, MT_SKIPPED_OVERFLOW };
const char *mt_skipped_name(int skipped); /* "", "not finite", "a spike", "overflow" */

struct mt_step_stats {
	int64_t step;                /* counts from 0 */
	int64_t samples;             /* sequences of this step */
	double loss;                 /* mean over the targets that count, the same on every rank */
	double balance_loss, z_loss; /* of experts: the means that the gradient has beside the loss, coefficients included */
	double mtp_loss;             /* mean over multi-token modules of theirs, before its weight; 0: the model has none */
	double grad_norm;
	double lr;
	double seconds;    /* this rank's clock, from the first action to the last */
	double loss_scale; /* f16: of this step's loss; 0 in other types */
	int skipped;       /* enum mt_skipped: parameters left as they were */
	/* where the time went on this rank's compute stream: kernels, blocked on collectives by axis (tp: context-parallel ones
	 * too), pipeline wait, optimizer */
	double compute_s, tp_s, dp_s, pp_s, ep_s, optimizer_s;
	double cp_s;   /* of tp_s, what context parallelism blocked */
	double data_s; /* the host waited for samples that were not there yet */
};

enum mt_status mt_engine_create(struct mt_engine **engine, const struct mt_engine_config *config);
void mt_engine_destroy(struct mt_engine *engine);
enum mt_status mt_engine_step(struct mt_engine *engine, struct mt_step_stats *stats);
/* The mean loss over `batches` times gbs samples of a data set, from its first on: forward passes only, the same on every rank.
 * Collective. The data set must live as long as the engine, and be the same in every call. */
enum mt_status mt_engine_evaluate(struct mt_engine *engine, struct mt_dataset *dataset, int64_t batches, double *loss);
/* The logits of mbs sequences of tokens, (rows, vocab), by a run of one rank without a data set. */
enum mt_status mt_engine_logits(struct mt_engine *engine, const int32_t *tokens, double *logits);
int64_t mt_engine_steps_done(const struct mt_engine *engine); /* those of the run that it was resumed from too */

/* The arenas of this rank, in a fixed order: parameters, gradients, optimizer, activations, workspace. */
#define MT_ENGINE_ARENAS 5
void mt_engine_memory(const struct mt_engine *engine, struct mt_arena_stats stats[MT_ENGINE_ARENAS]);
size_t mt_engine_host_bytes(const struct mt_engine *engine); /* peak of offloaded activations in host memory */
/* MT_INPUT when the run asks for graphs and this device has none. mt_engine_create checks it too. */
enum mt_status mt_engine_check_graphs(const struct mt_run *run, const struct mt_device *device);
struct mt_graph_stats mt_engine_graph_stats(const struct mt_engine *engine); /* since it was made; 0 without train.cuda_graphs */
size_t mt_engine_peak_bytes(const struct mt_engine *engine);                 /* sum of the arenas' peaks */

/* For tests and checkpoints: the number of parameters here, and one parameter's or its gradient's local values
 * (host memory, f32; gradient: after the reduction of the last step, before clipping). Reading a gradient is collective
 * over the data-parallel group under ZeRO-1. */
struct mt_param_info {
	const char *name;   /* "layer.3.attention.q.weight": the same in every layout */
	int64_t rows, cols; /* local shape; 1-D: rows 1 */
	int64_t global_rows, global_cols;
	int shard_axis; /* -1: whole; 0: rows, 1: columns over tp */
	int64_t first;  /* first global row or column of the shard */
};
int mt_engine_param_count(const struct mt_engine *engine);
void mt_engine_param_info(const struct mt_engine *engine, int index, struct mt_param_info *info);
enum mt_status mt_engine_read_param(struct mt_engine *engine, int index, float *values);
enum mt_status mt_engine_read_grad(struct mt_engine *engine, int index, float *values);
/* The same without rounding to f32; and setting a parameter, its master copy too (rounded to the engine's type). */
enum mt_status mt_engine_read_param_f64(struct mt_engine *engine, int index, double *values);
enum mt_status mt_engine_read_grad_f64(struct mt_engine *engine, int index, double *values);
enum mt_status mt_engine_write_param(struct mt_engine *engine, int index, const double *values);

#endif
