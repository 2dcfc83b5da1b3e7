/* run: everything that `megatune train run.yaml` needs: sections model, layout, train, data, each an option table. */
#ifndef MT_ENGINE_RUN_H
#define MT_ENGINE_RUN_H

#include "engine/layout.h"
#include "engine/model.h"

enum mt_decay { MT_DECAY_COSINE, MT_DECAY_CONSTANT, MT_DECAY_LINEAR, MT_DECAY_WSD, MT_DECAY_INVERSE_SQUARE_ROOT };
/* The last part of warm-up-stable-decay. */
enum mt_wsd_decay { MT_WSD_EXPONENTIAL, MT_WSD_LINEAR, MT_WSD_COSINE, MT_WSD_MINUS_SQRT };
enum mt_decay_rise { MT_RISE_LINEAR, MT_RISE_COSINE };
enum mt_optimizer { MT_ADAMW, MT_SGD, MT_MUON };
/* What makes updates of matrices of all shapes equally large, see muon.c. */
enum mt_muon_scale { MT_MUON_SPECTRAL, MT_MUON_SHAPE, MT_MUON_UNIT_RMS };

/* What a step is answered with whose loss or gradient is not finite, or whose loss is a spike. It changes no parameter. */
enum mt_policy { MT_POLICY_SKIP, MT_POLICY_STOP, MT_POLICY_REWIND };

/* What the ranks' collectives go over. */
enum mt_fabric_choice { MT_FABRIC_AUTO, MT_FABRIC_SELF, MT_FABRIC_MPI, MT_FABRIC_TCP, MT_FABRIC_NCCL };

/* Whether the operations of a layer's pass, or of a micro-batch's, are launched as graphs (kernels/graph.c). auto: of a layer's
 * where the device can. */
enum mt_graphs_choice { MT_GRAPHS_OFF, MT_GRAPHS_LAYER, MT_GRAPHS_PASS, MT_GRAPHS_AUTO };

struct mt_train_options {
	int64_t steps, seed;
	double lr, min_lr;                      /* peak and final learning rate */
	int64_t warmup_steps;                   /* linear from 0 */
	int64_t decay_steps;                    /* 0: steps */
	int decay;                              /* enum mt_decay */
	int wsd_decay;                          /* enum mt_wsd_decay */
	int64_t wsd_steps;                      /* of the last part, within decay_steps */
	double embedding_lr, embedding_min_lr;  /* of word embedding and head; 0: lr, min_lr */
	int optimizer;                          /* enum mt_optimizer */
	double beta1, beta2, eps, weight_decay; /* no decay on biases, norms (1-D tensors) */
	double weight_decay_end;                /* at the end of the run; below 0: weight_decay throughout */
	int weight_decay_rise;                  /* enum mt_decay_rise */
	char *no_decay;                         /* parts of names, commas between, whose matrices do not decay; NULL: none */
	double momentum;                        /* SGD, Muon */
	bool nesterov;
	int64_t muon_steps; /* Newton-Schulz iterations */
	int muon_scale;     /* enum mt_muon_scale */
	double muon_factor; /* of every update, beside the scale */
	/* the batch grows from rampup_start sequences by rampup_increment up to gbs over rampup_samples; 0: gbs at once */
	int64_t rampup_start, rampup_increment, rampup_samples;
	double clip;       /* global gradient norm; 0: off */
	double loss_scale; /* f16: factor of the loss; 0: found while training */
	double loss_scale_initial, loss_scale_least, loss_scale_growth, loss_scale_backoff;
	int64_t loss_scale_window, loss_scale_hysteresis; /* see engine/loss_scale.c */
	char *device;                                     /* "cpu", "cuda", "reference" */
	int fabric;                                       /* enum mt_fabric_choice */
	int cuda_graphs;                                  /* enum mt_graphs_choice */
	double watchdog_s;              /* of an operation that waits for other ranks; 0: 600, below 0: for ever */
	char *log;                      /* JSON lines of every step; NULL: none */
	char *trace;                    /* Chrome trace of the last step; NULL: none */
	double peak_tflops;             /* dense peak a device for MFU; 0: measured at start (megatune's own product probe) */
	double deadline_s;              /* stop after this time; 0: none */
	int64_t eval_every, eval_steps; /* loss of the validation part every so many steps (0: never), over so many batches */
	char *save_dir;                 /* checkpoints; NULL: none */
	int64_t save_every;             /* steps between them; 0: at the end only */
	int64_t save_keep;              /* newest that stay; 0: all */
	char *resume;                   /* "auto", "none" or a checkpoint's directory */
	char *rank_order;     /* "0,2,1,3": rank i runs where the launcher put this one; or "tp-cp-ep-pp-dp"; NULL: as launched */
	char *init_from;      /* directory of initial weights: a checkpoint or a Hugging Face model; NULL: random */
	int on_nan, on_spike; /* enum mt_policy */
	double spike_norm;    /* a gradient norm above this is one too; 0: none is */
	double spike_factor;  /* a loss above so many medians of the last 32 is a spike; 0: none is */
};

struct mt_data_options {
	char *path;      /* text files (colons between, directories are walked), a Megatron PREFIX of PREFIX.bin/.idx, or a blend
			  * "0.7 A 0.3 B" of such; NULL: synthetic */
	char *tokenizer; /* of text files, see engine/tokenizer.h; NULL: byte */
	bool shuffle;
	bool count_boundaries; /* documents apart: the first token of the next document is a target that counts */
	char *split;           /* "969,30,1": shares of training, validation, test; NULL: all for training */
};

struct mt_run {
	struct mt_model model;
	struct mt_layout layout;
	struct mt_train_options train;
	struct mt_data_options data;
};

extern const struct mt_option_table mt_train_options_table, mt_data_options_table;

/* Defaults everywhere; model as named or NULL. Free with mt_run_free. */
void mt_run_default(struct mt_run *run);
/* Reads a run file: `model` may be a name, a path or a mapping; unknown sections and keys are MT_INPUT. Checks model and layout. */
enum mt_status mt_run_load(struct mt_run *run, const char *path);
/* The same without the checks of mt_run_check: for layouts of other software. */
enum mt_status mt_run_read(struct mt_run *run, const char *path);
/* What no single option can say: the layout's rules, and values that exclude each other. `where` starts the message. */
enum mt_status mt_run_check(const struct mt_run *run, const char *where);
/* Parts of the check: learning rates and optimizer; the batch's ramp-up, every size of which must be a layout. */
enum mt_status mt_optimizer_check(const struct mt_run *run, const char *where);
enum mt_status mt_rampup_check(const struct mt_run *run, const char *where);
/* Sequences of the step that begins after `samples` of the run. */
int64_t mt_rampup_gbs(const struct mt_run *run, int64_t samples);
/* The learning rate of a step between `peak` and `least` by the run's schedule. `begun` and `done`: samples before the step and
 * after it, in full batches (steps, where the batch is never ramped up). */
double mt_learning_rate(const struct mt_train_options *train, double peak, double least, double begun, double done);
/* The weight decay of a step, between weight_decay and weight_decay_end. */
double mt_weight_decay(const struct mt_train_options *train, double begun);
/* Writes it so that mt_run_load gives the same back; `header` lines are written as comments first (NULL: none). */
enum mt_status mt_run_save(const struct mt_run *run, const char *path, const char *header);
void mt_run_free(struct mt_run *run);

#endif
